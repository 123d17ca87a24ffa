//! The routing table: every peer's Adj-RIB-In and the Loc-RIB in one.
//!
//! A prefix is a node with a number, and a node has one path a peer, the best first. Numbers are small and dense, so that what others keep
//! per prefix (see `export`) is a vector, and a set of prefixes a bitmap. What changes goes into two queues, each node at most once: one
//! for the peers (`take_changed`), one for the FIB (`next_fib_change`); a burst of changes to one prefix is one change to its readers.

use core::hash::BuildHasher;
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use hashbrown::HashTable;
use ipnet::IpNet;
use rustc_hash::{FxBuildHasher, FxHashMap, FxHashSet};
use smallvec::SmallVec;

use crate::bestpath::{self, Candidate, Source, Step};
use crate::intern::Interner;
use crate::wire::{Attributes, Families, Family};

/// A peer's number. Numbers are never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PeerId(pub(crate) u32);

impl PeerId {
    /// Ourselves.
    pub(crate) const LOCAL: Self = Self(0);
}

/// Why a path is kept but never used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rejection {
    AsLoop,
    OriginatorLoop,
    ClusterLoop,
    OwnNextHop,
    FirstAs,
    Filter,
}

impl Rejection {
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::AsLoop => "not usable: our AS number is in its AS_PATH",
            Self::OriginatorLoop => "not usable: its ORIGINATOR_ID is ours",
            Self::ClusterLoop => "not usable: our cluster is in its CLUSTER_LIST",
            Self::OwnNextHop => "not usable: its next hop is ourselves",
            Self::FirstAs => "not usable: its AS_PATH does not start with the peer's AS number",
            Self::Filter => "not usable: a filter for routes from this peer refuses it",
        }
    }
}

/// What one peer says of a prefix.
#[derive(Debug, Clone)]
pub(crate) struct Path {
    pub(crate) attributes: Arc<Attributes>,
    pub(crate) peer: PeerId,
    pub(crate) stale: bool,
    pub(crate) rejection: Option<Rejection>,
}

/// A prefix.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) prefix: IpNet,
    /// The best path first, if any is usable.
    pub(crate) paths: SmallVec<[Path; 1]>,
    /// What the FIB's writer was last told.
    told: Option<Arc<Vec<IpAddr>>>,
    export_queued: bool,
    fib_queued: bool,
}

impl Node {
    /// The path in use.
    pub(crate) fn best(&self) -> Option<&Path> {
        self.paths.first().filter(|path| path.rejection.is_none())
    }
}

/// What is to be kept of a route that a peer tells.
#[derive(Debug, Clone)]
pub(crate) struct Judged {
    /// Its attributes, as filters leave them.
    pub(crate) attributes: Arc<Attributes>,
    /// Why it is not used, if it is not.
    pub(crate) rejection: Option<Rejection>,
    /// Its attributes as they came, if filters changed them.
    pub(crate) original: Option<Arc<Attributes>>,
}

/// How many paths of a family a peer has.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct PathCounts {
    pub(crate) received: usize,
    pub(crate) accepted: usize,
}

/// What to do with a path while walking over a peer's paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Keep,
    Stale,
    Drop,
}

/// The table.
#[derive(Debug)]
pub(crate) struct Rib {
    nodes: Vec<Node>,
    index: HashTable<u32>,
    free: Vec<u32>,
    /// Nodes that have lost their last path, to be looked at by `release_unused`.
    unused: Vec<u32>,
    attributes: Interner<Attributes>,
    next_hops: Interner<Vec<IpAddr>>,
    sources: FxHashMap<PeerId, Source>,
    /// Peers whose routes we reflect.
    clients: FxHashSet<PeerId>,
    /// Attributes as they came, of paths of which a filter changed something.
    originals: FxHashMap<(PeerId, IpNet), Arc<Attributes>>,
    /// The interfaces that routes of our own lead to, where filters may ask for that.
    interfaces: FxHashMap<IpNet, String>,
    counts: FxHashMap<PeerId, [PathCounts; 2]>,
    changed: Vec<u32>,
    fib: VecDeque<u32>,
    /// Whether anybody asks for changes of next hops.
    has_fib: bool,
}

fn hash(prefix: &IpNet) -> u64 {
    FxBuildHasher.hash_one(prefix)
}

impl Rib {
    pub(crate) fn new(has_fib: bool) -> Self {
        Self {
            nodes: Vec::new(),
            index: HashTable::new(),
            free: Vec::new(),
            unused: Vec::new(),
            attributes: Interner::new(),
            next_hops: Interner::new(),
            sources: FxHashMap::from_iter([(PeerId::LOCAL, Source::Local)]),
            clients: FxHashSet::default(),
            originals: FxHashMap::default(),
            interfaces: FxHashMap::default(),
            counts: FxHashMap::default(),
            changed: Vec::new(),
            fib: VecDeque::new(),
            has_fib,
        }
    }

    /// The one copy of these attributes.
    pub(crate) fn intern(&mut self, attributes: Attributes) -> Arc<Attributes> {
        self.attributes.intern(attributes)
    }

    /// Tells who a peer is. Must be known before its first path.
    pub(crate) fn set_source(&mut self, peer: PeerId, source: Source) {
        self.sources.insert(peer, source);
    }

    /// Whether a peer is in another AS.
    pub(crate) fn is_external(&self, peer: PeerId) -> bool {
        matches!(self.sources.get(&peer), Some(Source::Peer { external: true, .. }))
    }

    /// A peer's BGP identifier; none of ourselves.
    pub(crate) fn router_id(&self, peer: PeerId) -> Option<Ipv4Addr> {
        match self.sources.get(&peer)? {
            Source::Local => None,
            Source::Peer { router_id, .. } => Some(*router_id),
        }
    }

    /// Tells whether a peer's routes are reflected. Those that it has are queued for the peers again if that is news.
    pub(crate) fn set_client(&mut self, peer: PeerId, client: bool) {
        let changed = if client { self.clients.insert(peer) } else { self.clients.remove(&peer) };
        if changed {
            let of_peer = |node: &Node| node.paths.iter().any(|path| path.peer == peer);
            self.requeue((0..self.len() as u32).filter(|number| of_peer(self.node(*number))).collect());
        }
    }

    /// Whether a peer's routes are reflected.
    pub(crate) fn is_client(&self, peer: PeerId) -> bool {
        self.clients.contains(&peer)
    }

    /// Whether any peer's routes are.
    pub(crate) fn reflects(&self) -> bool {
        !self.clients.is_empty()
    }

    /// Tells which interfaces routes of our own lead to.
    pub(crate) fn set_interfaces(&mut self, interfaces: FxHashMap<IpNet, String>) {
        self.interfaces = interfaces;
    }

    /// The interface that a route of our own leads to, if that is known.
    pub(crate) fn interface(&self, prefix: &IpNet) -> Option<&str> {
        self.interfaces.get(prefix).map(String::as_str)
    }

    /// All that a peer has told, as it did.
    pub(crate) fn told_by(&self, peer: PeerId) -> Vec<(IpNet, Arc<Attributes>)> {
        let own = |node: &Node| {
            let path = node.paths.iter().find(|path| path.peer == peer)?;
            Some((node.prefix, Arc::clone(self.original(node.prefix, path))))
        };
        self.nodes.iter().filter_map(own).collect()
    }

    /// A path's attributes as they came.
    pub(crate) fn original<'a>(&'a self, prefix: IpNet, path: &'a Path) -> &'a Arc<Attributes> {
        let changed = (!self.originals.is_empty()).then(|| self.originals.get(&(path.peer, prefix))).flatten();
        changed.unwrap_or(&path.attributes)
    }

    /// Forgets a peer that has no paths any more.
    pub(crate) fn forget(&mut self, peer: PeerId) {
        self.sources.remove(&peer);
        self.clients.remove(&peer);
        self.counts.remove(&peer);
    }

    /// A peer's counts of one family.
    pub(crate) fn counts(&self, peer: PeerId, family: Family) -> PathCounts {
        self.counts.get(&peer).map_or_else(PathCounts::default, |counts| counts[family.index()])
    }

    /// All numbers that may be in use are below this.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn node(&self, number: u32) -> &Node {
        &self.nodes[number as usize]
    }

    /// Nodes that have paths.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| !node.paths.is_empty())
    }

    fn find(&self, prefix: &IpNet) -> Option<u32> {
        let nodes = &self.nodes;
        self.index.find(hash(prefix), |&number| nodes[number as usize].prefix == *prefix).copied()
    }

    fn find_or_insert(&mut self, prefix: IpNet) -> u32 {
        if let Some(number) = self.find(&prefix) {
            return number;
        }
        let node = Node { prefix, paths: SmallVec::new(), told: None, export_queued: false, fib_queued: false };
        let number = if let Some(number) = self.free.pop() {
            self.nodes[number as usize] = node;
            number
        } else {
            self.nodes.push(node);
            (self.nodes.len() - 1) as u32
        };
        let nodes = &self.nodes;
        self.index.insert_unique(hash(&prefix), number, |&number| hash(&nodes[number as usize].prefix));
        number
    }

    /// Gives the numbers of nodes back that nobody has any use for. Not to be called while a peer still has to be told of a withdrawal.
    pub(crate) fn release_unused(&mut self) {
        for number in core::mem::take(&mut self.unused) {
            let node = &self.nodes[number as usize];
            if node.paths.is_empty() && node.told.is_none() && !node.export_queued && !node.fib_queued {
                // A number that was given back already is not in the index any more.
                if let Ok(entry) = self.index.find_entry(hash(&node.prefix), |&other| other == number) {
                    entry.remove();
                    self.free.push(number);
                }
            }
        }
    }

    /// A peer announces a prefix: the path replaces the one that it announced before.
    pub(crate) fn announce(&mut self, prefix: IpNet, peer: PeerId, judged: &Judged) {
        let number = self.find_or_insert(prefix);
        if let Some(path) = self.nodes[number as usize].paths.iter_mut().find(|path| path.peer == peer) {
            path.stale = false;
        }
        self.put(number, peer, judged);
    }

    /// What a peer has announced is judged otherwise now.
    pub(crate) fn judge_again(&mut self, prefix: &IpNet, peer: PeerId, judged: &Judged) {
        if let Some(number) = self.find(prefix) {
            self.put(number, peer, judged);
        }
    }

    fn put(&mut self, number: u32, peer: PeerId, judged: &Judged) {
        let Judged { attributes, rejection, original } = judged;
        let node = &mut self.nodes[number as usize];
        let prefix = node.prefix;
        if let Some(original) = original {
            self.originals.insert((peer, prefix), Arc::clone(original));
        } else if !self.originals.is_empty() {
            self.originals.remove(&(peer, prefix));
        }
        let counts = &mut self.counts.entry(peer).or_default()[Family::of(&prefix).index()];
        if let Some(path) = node.paths.iter_mut().find(|path| path.peer == peer) {
            if Arc::ptr_eq(&path.attributes, attributes) && path.rejection == *rejection {
                return;
            }
            counts.accepted -= usize::from(path.rejection.is_none());
            path.attributes = Arc::clone(attributes);
            path.rejection = *rejection;
        } else {
            counts.received += 1;
            node.paths.push(Path { attributes: Arc::clone(attributes), peer, stale: false, rejection: *rejection });
        }
        counts.accepted += usize::from(rejection.is_none());
        self.choose(number);
    }

    /// A peer has no path to a prefix any more.
    pub(crate) fn withdraw(&mut self, prefix: &IpNet, peer: PeerId) {
        if let Some(number) = self.find(prefix) {
            self.decide_fate(number, peer, |_| Fate::Drop);
        }
    }

    /// Walks over all paths of a peer.
    pub(crate) fn walk(&mut self, peer: PeerId, fate: impl Fn(Family, &Path) -> Fate) {
        for number in 0..self.nodes.len() {
            let family = Family::of(&self.nodes[number].prefix);
            self.decide_fate(number as u32, peer, |path| fate(family, path));
        }
    }

    /// Drops a peer's paths of some families.
    pub(crate) fn drop_families(&mut self, peer: PeerId, families: Families) {
        self.walk(peer, |family, _| if families.contains(family) { Fate::Drop } else { Fate::Keep });
    }

    /// The next hops of a peer's paths.
    pub(crate) fn next_hops_of(&self, peer: PeerId) -> FxHashSet<IpAddr> {
        let paths = self.nodes.iter().flat_map(|node| &node.paths).filter(|path| path.peer == peer);
        paths.map(|path| path.attributes.next_hop).collect()
    }

    /// Drops what a peer that restarted has not confirmed.
    pub(crate) fn sweep(&mut self, peer: PeerId, families: Families) {
        self.walk(peer, |family, path| if path.stale && families.contains(family) { Fate::Drop } else { Fate::Keep });
    }

    fn decide_fate(&mut self, number: u32, peer: PeerId, fate: impl Fn(&Path) -> Fate) {
        let node = &mut self.nodes[number as usize];
        let Some(at) = node.paths.iter().position(|path| path.peer == peer) else { return };
        match fate(&node.paths[at]) {
            Fate::Keep => {}
            Fate::Stale => node.paths[at].stale = true,
            Fate::Drop => {
                let family = Family::of(&node.prefix);
                let path = node.paths.remove(at);
                if !self.originals.is_empty() {
                    self.originals.remove(&(peer, node.prefix));
                }
                let counts = &mut self.counts.entry(peer).or_default()[family.index()];
                counts.received -= 1;
                counts.accepted -= usize::from(path.rejection.is_none());
                self.choose(number);
            }
        }
    }

    /// Puts the best path of a node first, and queues the node for its readers.
    fn choose(&mut self, number: u32) {
        let node = &self.nodes[number as usize];
        if let Some(best) = self.rank(node, |_, _| ()).map(|(best, _)| best) {
            self.nodes[number as usize].paths.swap(0, best);
        }
        let node = &mut self.nodes[number as usize];
        if !core::mem::replace(&mut node.export_queued, true) {
            self.changed.push(number);
        }
        if self.has_fib && !core::mem::replace(&mut node.fib_queued, true) {
            self.fib.push_back(number);
        }
    }

    /// The index of a node's best path and the selection among its usable paths, whose indices `lost` is told.
    fn rank(&self, node: &Node, mut lost: impl FnMut(usize, Step)) -> Option<(usize, Ranking)> {
        let usable: SmallVec<[usize; 4]> =
            (0..node.paths.len()).filter(|&index| node.paths[index].rejection.is_none()).collect();
        if let [only] = usable[..] {
            return Some((only, Ranking { decided_by: Step::OnlyPath, equal: SmallVec::from_slice(&[only]) }));
        }
        let candidates: SmallVec<[Candidate<'_>; 4]> = usable
            .iter()
            .map(|&index| {
                let path = &node.paths[index];
                let source = self.sources.get(&path.peer).copied().unwrap_or(Source::Local);
                Candidate { attributes: &path.attributes, source }
            })
            .collect();
        let selection = bestpath::select(&candidates, |index, step| lost(usable[index], step))?;
        let equal = selection.equal.iter().map(|&index| usable[index]).collect();
        Some((usable[selection.best], Ranking { decided_by: selection.decided_by, equal }))
    }

    /// A node's paths, each with why it is best or what it lost by.
    pub(crate) fn explain<'a>(&self, node: &'a Node) -> Vec<(&'a Path, bool, &'static str)> {
        let mut reasons: Vec<&'static str> =
            node.paths.iter().map(|path| path.rejection.map_or("", Rejection::reason)).collect();
        let best = self.rank(node, |index, step| reasons[index] = step.lost());
        if let Some((best, ranking)) = &best {
            reasons[*best] = ranking.decided_by.won();
        }
        let best = best.map(|(best, _)| best);
        node.paths
            .iter()
            .zip(reasons)
            .enumerate()
            .map(|(at, (path, reason))| (path, best == Some(at), reason))
            .collect()
    }

    /// The nodes that changed since the last call, for the peers.
    pub(crate) fn take_changed(&mut self) -> Vec<u32> {
        let changed = core::mem::take(&mut self.changed);
        for &number in &changed {
            let node = &mut self.nodes[number as usize];
            node.export_queued = false;
            if node.paths.is_empty() {
                self.unused.push(number);
            }
        }
        changed
    }

    /// Whether the peers have anything to be told.
    pub(crate) fn has_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// Queues nodes for the peers again.
    pub(crate) fn requeue(&mut self, numbers: Vec<u32>) {
        for number in numbers {
            let node = &mut self.nodes[number as usize];
            if !core::mem::replace(&mut node.export_queued, true) {
                self.changed.push(number);
            }
        }
    }

    /// Queues all nodes that have paths for the peers again.
    pub(crate) fn requeue_all(&mut self) {
        self.requeue((0..self.len() as u32).filter(|number| !self.node(*number).paths.is_empty()).collect());
    }

    /// Whether a change for the FIB may be waiting.
    pub(crate) fn has_fib_change(&self) -> bool {
        !self.fib.is_empty()
    }

    /// Queues nodes for the FIB again.
    pub(crate) fn requeue_fib(&mut self, numbers: impl IntoIterator<Item = u32>) {
        for number in numbers {
            let node = &mut self.nodes[number as usize];
            if !core::mem::replace(&mut node.fib_queued, true) {
                self.fib.push_back(number);
            }
        }
    }

    /// The next prefix whose next hops differ from what the FIB's writer was last told; none in the list: it is gone. A node with next
    /// hops of which `hold` says so is passed over and leaves the queue, until it changes or is queued again.
    pub(crate) fn next_fib_change(
        &mut self,
        mut hold: impl FnMut(u32, &Node) -> bool,
    ) -> Option<(IpNet, Arc<Vec<IpAddr>>)> {
        while let Some(number) = self.fib.pop_front() {
            self.nodes[number as usize].fib_queued = false;
            let hops = self.forwarding(self.node(number));
            if !hops.is_empty() && hold(number, self.node(number)) {
                continue;
            }
            let hops = (!hops.is_empty()).then(|| self.next_hops.intern(hops));
            let node = &mut self.nodes[number as usize];
            let prefix = node.prefix;
            let changed = node.told != hops;
            node.told.clone_from(&hops);
            if node.paths.is_empty() {
                self.unused.push(number);
            }
            if changed {
                return Some((prefix, hops.unwrap_or_default()));
            }
        }
        None
    }

    /// The gateways of a node: the best path's, then those of equal paths in order. None where the best is our own or there is none.
    fn forwarding(&self, node: &Node) -> Vec<IpAddr> {
        let Some(best) = node.best().filter(|path| path.peer != PeerId::LOCAL) else { return Vec::new() };
        let first = best.attributes.next_hop;
        let mut hops = Vec::new();
        if node.paths.len() > 1
            && let Some((_, ranking)) = self.rank(node, |_, _| ())
        {
            hops.extend(ranking.equal.iter().map(|&index| node.paths[index].attributes.next_hop));
            hops.retain(|hop| *hop != first);
            hops.sort_unstable();
            hops.dedup();
        }
        hops.insert(0, first);
        hops
    }
}

struct Ranking {
    decided_by: Step,
    equal: SmallVec<[usize; 4]>,
}
