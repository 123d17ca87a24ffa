//! What peers are told: one Adj-RIB-Out for all peers that are told the same, and every UPDATE encoded once for all of them.
//!
//! Peers with equal [`GroupKey`]s form a [`Group`]. What the group has been told stands in `out`, by the prefix's number. A path is told to
//! every member but the one that it came from; so when the best path of a prefix moves from peer A to peer B, everybody but B gets an
//! announcement, and B a withdrawal of what it heard of A's. [`Group::flush`] turns a batch of changed prefixes into buckets, one for each
//! attribute set and origin, encodes each bucket once, and cuts from the one buffer what each member is to get.
//!
//! A member that does not read fast enough leaves the common pace: instead of bytes it collects a bitmap of the prefixes that changed, and
//! gets their newest state when it has read what it had ([`Group::pump`]). A new member, or one that asked for a refresh, starts that way,
//! with every prefix in its bitmap. So a slow peer costs one bit a prefix and at most [`WINDOW`] bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use ipnet::IpNet;
use rustc_hash::FxHashMap;

use crate::ConnectionId;
use crate::bestpath::DEFAULT_LOCAL_PREF;
use crate::config::NextHopMode;
use crate::filter::{Outcome, Policy, Subject};
use crate::intern::Interner;
use crate::rib::{Path, PeerId, Rib};
use crate::wire::update::{encode_announcements_within, encode_end_of_rib, encode_withdrawals_within};
use crate::wire::{Attributes, Community, Families, Family, RouteRefresh};

/// Bytes that may be on their way to a member before it counts as slow.
pub(crate) const WINDOW: usize = 4 << 20;
/// A slow member gets more when less than this is on its way.
const REFILL: usize = 1 << 20;
/// Prefixes that a slow member gets at once.
const REFILL_PREFIXES: usize = 65_536;

/// All that what a peer is told depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GroupKey {
    pub(crate) local_as: u32,
    /// What stands in the CLUSTER_LIST of what we reflect.
    pub(crate) cluster_id: Ipv4Addr,
    pub(crate) external: bool,
    /// The peers are clients of ours.
    pub(crate) client: bool,
    pub(crate) next_hop: NextHopMode,
    pub(crate) export: Arc<Policy>,
    pub(crate) four_octets: bool,
    /// The largest message that they take.
    pub(crate) limit: usize,
    /// What is sent again has marks around it.
    pub(crate) marks: bool,
    pub(crate) families: Families,
    pub(crate) next_hop_v4: Option<Ipv4Addr>,
    pub(crate) next_hop_v6: Option<Ipv6Addr>,
}

impl GroupKey {
    /// The attributes with which a path is told to the group; `None` where it must not be.
    fn export(&self, rib: &Rib, attributes: &Attributes, from: PeerId, family: Family) -> Option<Attributes> {
        let local = from == PeerId::LOCAL;
        let mut told = attributes.clone();
        let own_hop = match self.next_hop {
            NextHopMode::Auto => self.external,
            NextHopMode::Own => true,
            NextHopMode::Keep => false,
        };
        if local || own_hop {
            told.next_hop = match family {
                Family::Ipv4 => IpAddr::V4(self.next_hop_v4?),
                Family::Ipv6 => IpAddr::V6(self.next_hop_v6?),
            };
        }
        // It has a meaning on the link that it came by, and who the members share one with is not known (RFC 2545, 3).
        told.link_local = None;
        if self.external {
            told.as_path = told.as_path.prepended(self.local_as);
            told.local_pref = None;
            // Another AS's MULTI_EXIT_DISC is not passed on to a third (RFC 4271, 5.1.4).
            told.med = told.med.filter(|_| local);
            told.originator_id = None;
            told.cluster_list.clear();
            return Some(told);
        }
        told.local_pref = Some(told.local_pref.unwrap_or(DEFAULT_LOCAL_PREF));
        if !local && !rib.is_external(from) {
            // Reflected (RFC 4456, 8).
            told.originator_id = told.originator_id.or(rib.router_id(from));
            told.cluster_list.insert(0, self.cluster_id);
        }
        Some(told)
    }

    /// Whether a path may be told to the group at all.
    fn allows(&self, rib: &Rib, path: &Path) -> bool {
        let attributes = &path.attributes;
        // What one peer of our AS says is for us, not for the others (RFC 4271, 9.2), unless one of the two is our client.
        let inside = path.peer != PeerId::LOCAL && !rib.is_external(path.peer);
        let kept_inside = attributes.has(Community::NO_EXPORT) || attributes.has(Community::NO_EXPORT_SUBCONFED);
        let barred = if self.external { kept_inside } else { inside && !self.client && !rib.is_client(path.peer) };
        !barred && !attributes.has(Community::NO_ADVERTISE)
    }

    /// Whether it differs from `other` in nothing but which routes are told.
    fn differs_by_policy_only(&self, other: &Self) -> bool {
        Self { export: Arc::clone(&other.export), ..self.clone() } == *other
    }
}

/// What the group has been told of one prefix.
#[derive(Debug, Clone, Default)]
struct Told {
    /// As they are in the table, before [`GroupKey::export`].
    attributes: Option<Arc<Attributes>>,
    from: Option<PeerId>,
}

/// Whom a piece of the buffer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Audience {
    AllBut(PeerId),
    Only(PeerId),
}

impl Audience {
    fn includes(self, peer: PeerId) -> bool {
        match self {
            Self::AllBut(other) => peer != other,
            Self::Only(one) => peer == one,
        }
    }
}

/// A set of prefixes by number.
#[derive(Debug, Default)]
struct Bitmap {
    words: Vec<u64>,
    /// No bit below this word is set.
    cursor: usize,
}

impl Bitmap {
    fn insert(&mut self, number: u32) {
        let word = (number / 64) as usize;
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= 1 << (number % 64);
        self.cursor = self.cursor.min(word);
    }

    fn take(&mut self, at_most: usize) -> Vec<u32> {
        let mut taken = Vec::new();
        while taken.len() < at_most && self.cursor < self.words.len() {
            let word = &mut self.words[self.cursor];
            if *word == 0 {
                self.cursor += 1;
                continue;
            }
            let bit = word.trailing_zeros();
            *word &= *word - 1;
            taken.push(self.cursor as u32 * 64 + bit);
        }
        taken
    }

    fn is_empty(&self) -> bool {
        self.words[self.cursor.min(self.words.len())..].iter().all(|word| *word == 0)
    }
}

/// A peer in a group.
#[derive(Debug)]
struct Member {
    peer: PeerId,
    connection: ConnectionId,
    /// Bytes handed out and not yet reported as sent.
    outstanding: usize,
    /// What it has not been told, if it is slow.
    behind: Option<Bitmap>,
    /// Families whose End-of-RIB it is still to get.
    end_of_rib: Families,
    /// Families that it has asked for again, and has got no mark of yet.
    asked: Families,
    /// Families of which it has got the first mark, and not the last.
    marked: Families,
}

impl Member {
    fn mark(&mut self, families: Families, mark: fn(Family) -> RouteRefresh, transmits: &mut Vec<Transmit>) {
        if families.is_empty() {
            return;
        }
        let mut bytes = BytesMut::new();
        families.iter().for_each(|family| mark(family).encode(&mut bytes));
        self.outstanding += bytes.len();
        transmits.push((self.connection, bytes.freeze()));
    }
}

/// Peers that are told the same.
#[derive(Debug)]
pub(crate) struct Group {
    key: GroupKey,
    out: Vec<Told>,
    members: Vec<Member>,
    advertised: [usize; 2],
    advertised_from: FxHashMap<PeerId, [usize; 2]>,
    /// Attributes that the policy made.
    changed: Interner<Attributes>,
}

/// Bytes for a connection.
pub(crate) type Transmit = (ConnectionId, Bytes);

/// Prefixes by what is said of them, in the order in which that first came up.
#[derive(Default)]
struct Buckets {
    announce: Vec<(Arc<Attributes>, PeerId, Family, Vec<u32>)>,
    announce_at: FxHashMap<(*const Attributes, PeerId, Family), usize>,
    withdraw: Vec<(Audience, Family, Vec<u32>)>,
}

// The pointers in `announce_at` are keys, never followed; the `Arc`s beside them keep them unique.
impl Buckets {
    fn announce(&mut self, attributes: &Arc<Attributes>, from: PeerId, family: Family, number: u32) {
        let key = (Arc::as_ptr(attributes), from, family);
        let at = *self.announce_at.entry(key).or_insert_with(|| {
            self.announce.push((Arc::clone(attributes), from, family, Vec::new()));
            self.announce.len() - 1
        });
        self.announce[at].3.push(number);
    }

    fn withdraw(&mut self, audience: Audience, family: Family, number: u32) {
        let known = self.withdraw.iter().position(|(other, kin, _)| *other == audience && *kin == family);
        let at = known.unwrap_or_else(|| {
            self.withdraw.push((audience, family, Vec::new()));
            self.withdraw.len() - 1
        });
        self.withdraw[at].2.push(number);
    }
}

impl Group {
    pub(crate) fn new(key: GroupKey) -> Self {
        Self {
            key,
            out: Vec::new(),
            members: Vec::new(),
            advertised: [0; 2],
            advertised_from: FxHashMap::default(),
            changed: Interner::new(),
        }
    }

    /// Takes over another policy, if that is all that differs and there is no other member than `peers`. What that changes is found when
    /// all prefixes are queued again.
    pub(crate) fn adopt(&mut self, key: &GroupKey, peers: &[PeerId]) -> bool {
        let all = self.members.iter().all(|member| peers.contains(&member.peer));
        let adopted = all && self.key.differs_by_policy_only(key);
        if adopted {
            self.key = key.clone();
        }
        adopted
    }

    pub(crate) fn key(&self) -> &GroupKey {
        &self.key
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Whether a member has yet to be told of prefixes that may be gone.
    pub(crate) fn is_behind(&self) -> bool {
        self.members.iter().any(|member| member.behind.is_some())
    }

    /// How many prefixes of a family `peer` has been told.
    pub(crate) fn advertised(&self, peer: PeerId, family: Family) -> usize {
        let own = self.advertised_from.get(&peer).map_or(0, |counts| counts[family.index()]);
        self.advertised[family.index()] - own
    }

    /// Whether `peer` is a member.
    pub(crate) fn has(&self, peer: PeerId) -> bool {
        self.members.iter().any(|member| member.peer == peer)
    }

    /// What the group has been told, by number.
    pub(crate) fn told(&self) -> impl Iterator<Item = u32> {
        self.out.iter().enumerate().filter(|(_, told)| told.attributes.is_some()).map(|(number, _)| number as u32)
    }

    /// Takes a peer in: it gets the newest state of everything, and of `also`, which it may have been told elsewhere; then, with
    /// `end_of_rib`, that marker for each family.
    pub(crate) fn join(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        also: impl Iterator<Item = u32>,
        end_of_rib: bool,
    ) {
        let mut behind = Bitmap::default();
        also.for_each(|number| behind.insert(number));
        let end_of_rib = if end_of_rib { self.key.families } else { Families::NONE };
        self.members.push(Member {
            peer,
            connection,
            outstanding: 0,
            behind: Some(behind),
            end_of_rib,
            asked: Families::NONE,
            marked: Families::NONE,
        });
        self.tell_again(peer, |_| true);
    }

    /// Lets a peer go.
    pub(crate) fn leave(&mut self, peer: PeerId) {
        self.members.retain(|member| member.peer != peer);
    }

    /// Sends a member a family again. `in_family` says so of a prefix by its number.
    pub(crate) fn refresh(&mut self, peer: PeerId, family: Family, in_family: impl Fn(u32) -> bool) {
        // While it is told everything for the first time, that is the answer (RFC 7313, 4).
        let marks = self.key.marks;
        if let Some(member) = self.members.iter_mut().find(|member| member.peer == peer && marks)
            && member.end_of_rib.is_empty()
        {
            member.asked.insert(family);
        }
        self.tell_again(peer, in_family);
    }

    fn tell_again(&mut self, peer: PeerId, wanted: impl Fn(u32) -> bool) {
        let Some(member) = self.members.iter_mut().find(|member| member.peer == peer) else { return };
        let behind = member.behind.get_or_insert_default();
        for (number, told) in self.out.iter().enumerate() {
            let number = number as u32;
            if told.attributes.is_some() && told.from != Some(peer) && wanted(number) {
                behind.insert(number);
            }
        }
    }

    /// The edge has written `bytes` to a member.
    pub(crate) fn sent(&mut self, connection: ConnectionId, bytes: usize) {
        if let Some(member) = self.members.iter_mut().find(|member| member.connection == connection) {
            member.outstanding = member.outstanding.saturating_sub(bytes);
        }
    }

    /// Works out what the group is to be told of `path`; `None`: nothing.
    fn wanted(&mut self, rib: &Rib, path: Option<&Path>, prefix: &IpNet) -> Option<(Arc<Attributes>, PeerId)> {
        let path = path.filter(|path| self.key.families.contains(Family::of(prefix)) && self.key.allows(rib, path))?;
        if self.key.export.is_trivial() {
            return Some((Arc::clone(&path.attributes), path.peer));
        }
        let from_peer = path.peer != PeerId::LOCAL;
        let interface = if from_peer { None } else { rib.interface(prefix) };
        let subject = Subject { prefix, attributes: &path.attributes, from_peer, interface };
        let attributes = match self.key.export.judge(subject) {
            Outcome::Pass => Arc::clone(&path.attributes),
            Outcome::Change(changed) => self.changed.intern(*changed),
            Outcome::Reject => return None,
        };
        Some((attributes, path.peer))
    }

    /// Tells the members of the changed nodes. With `own_only` only routes of our own are told, as by a speaker that is restarting.
    pub(crate) fn flush(&mut self, rib: &Rib, changed: &[u32], own_only: bool, transmits: &mut Vec<Transmit>) {
        if self.out.len() < rib.len() {
            self.out.resize(rib.len(), Told::default());
        }
        let mut buckets = Buckets::default();
        for &number in changed {
            let node = rib.node(number);
            let family = Family::of(&node.prefix);
            let best = node.best().filter(|path| !own_only || path.peer == PeerId::LOCAL);
            let wanted = self.wanted(rib, best, &node.prefix);
            self.tell(number, family, wanted, &mut buckets);
        }
        let pieces = if self.members.iter().any(|member| member.behind.is_none()) {
            self.encode(rib, buckets)
        } else {
            Pieces { buffer: Bytes::new(), parts: Vec::new() }
        };
        for member in &mut self.members {
            if let Some(behind) = &mut member.behind {
                for &number in changed {
                    behind.insert(number);
                }
                continue;
            }
            let before = transmits.len();
            pieces.cut(member.peer, |bytes| transmits.push((member.connection, bytes)));
            member.outstanding += transmits[before..].iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
            if member.outstanding > WINDOW {
                member.behind = Some(Bitmap::default());
            }
        }
    }

    /// Notes what the group is told of a node, and puts it into the buckets that say so.
    fn tell(&mut self, number: u32, family: Family, wanted: Option<(Arc<Attributes>, PeerId)>, buckets: &mut Buckets) {
        let told = &mut self.out[number as usize];
        let before = told.from.take().zip(told.attributes.take());
        match (&before, &wanted) {
            (Some((from, attributes)), Some((now, by))) if from == by && Arc::ptr_eq(attributes, now) => {}
            (_, Some((attributes, by))) => {
                buckets.announce(attributes, *by, family, number);
                if before.as_ref().is_some_and(|(from, _)| from != by) && *by != PeerId::LOCAL {
                    buckets.withdraw(Audience::Only(*by), family, number);
                }
            }
            (Some((from, _)), None) => buckets.withdraw(Audience::AllBut(*from), family, number),
            (None, None) => {}
        }
        if let Some((from, _)) = before {
            self.count(from, family, usize::wrapping_sub);
        }
        if let Some((attributes, by)) = wanted {
            self.count(by, family, usize::wrapping_add);
            self.out[number as usize] = Told { attributes: Some(attributes), from: Some(by) };
        }
    }

    fn count(&mut self, from: PeerId, family: Family, change: fn(usize, usize) -> usize) {
        let own = self.advertised_from.entry(from).or_default();
        own[family.index()] = change(own[family.index()], 1);
        let all = &mut self.advertised[family.index()];
        *all = change(*all, 1);
    }

    /// Writes the buckets. What cannot be told after all, for want of a next hop or of room, is withdrawn instead.
    fn encode(&mut self, rib: &Rib, mut buckets: Buckets) -> Pieces {
        let limit = self.key.limit;
        let mut buffer = BytesMut::new();
        let mut parts = Vec::new();
        let mut announcements = BytesMut::new();
        let mut announced = Vec::new();
        for (attributes, from, family, numbers) in core::mem::take(&mut buckets.announce) {
            let start = announcements.len();
            let prefixes = numbers.iter().map(|&number| rib.node(number).prefix);
            let done = self.key.export(rib, &attributes, from, family).is_some_and(|told| {
                encode_announcements_within(limit, &told, family, prefixes, self.key.four_octets, &mut announcements)
                    .is_ok()
            });
            if done {
                announced.push((Audience::AllBut(from), start..announcements.len()));
                continue;
            }
            for number in numbers {
                if core::mem::take(&mut self.out[number as usize]).attributes.is_some() {
                    self.count(from, family, usize::wrapping_sub);
                }
                buckets.withdraw(Audience::AllBut(from), family, number);
            }
        }
        for (audience, family, numbers) in buckets.withdraw {
            let start = buffer.len();
            encode_withdrawals_within(
                limit,
                family,
                numbers.iter().map(|&number| rib.node(number).prefix),
                &mut buffer,
            );
            parts.push((audience, start..buffer.len()));
        }
        let shift = buffer.len();
        buffer.unsplit(announcements);
        parts.extend(announced.into_iter().map(|(audience, range)| (audience, range.start + shift..range.end + shift)));
        Pieces { buffer: buffer.freeze(), parts }
    }

    /// Gives slow members what they have room for, and the End-of-RIB to those that have caught up, unless `defer_end_of_rib`.
    pub(crate) fn pump(&mut self, rib: &Rib, defer_end_of_rib: bool, transmits: &mut Vec<Transmit>) {
        for at in 0..self.members.len() {
            let member = &mut self.members[at];
            let asked = core::mem::take(&mut member.asked);
            asked.iter().for_each(|family| member.marked.insert(family));
            member.mark(asked, RouteRefresh::begin, transmits);
            while self.members[at].outstanding < REFILL
                && let Some(behind) = &mut self.members[at].behind
            {
                let numbers = behind.take(REFILL_PREFIXES);
                if behind.is_empty() {
                    self.members[at].behind = None;
                }
                let peer = self.members[at].peer;
                let mut buckets = Buckets::default();
                for number in numbers {
                    let family = Family::of(&rib.node(number).prefix);
                    match self.out.get(number as usize) {
                        Some(Told { attributes: Some(attributes), from: Some(from) }) if *from != peer => {
                            buckets.announce(attributes, *from, family, number);
                        }
                        _ if self.key.families.contains(family) => {
                            buckets.withdraw(Audience::Only(peer), family, number);
                        }
                        _ => {}
                    }
                }
                let pieces = self.encode(rib, buckets);
                let member = &mut self.members[at];
                pieces.cut(peer, |bytes| {
                    member.outstanding += bytes.len();
                    transmits.push((member.connection, bytes));
                });
            }
            let member = &mut self.members[at];
            if member.behind.is_none() {
                let marked = core::mem::take(&mut member.marked);
                member.mark(marked, RouteRefresh::end, transmits);
            }
            if member.behind.is_none() && !member.end_of_rib.is_empty() && !defer_end_of_rib {
                let mut marker = BytesMut::new();
                member.end_of_rib.iter().for_each(|family| encode_end_of_rib(family, &mut marker));
                member.end_of_rib = Families::NONE;
                member.outstanding += marker.len();
                transmits.push((member.connection, marker.freeze()));
            }
        }
    }
}

/// One buffer, and whom each part of it is for.
struct Pieces {
    buffer: Bytes,
    parts: Vec<(Audience, core::ops::Range<usize>)>,
}

impl Pieces {
    /// Cuts out what `peer` is to get, in as few pieces as possible.
    fn cut(&self, peer: PeerId, mut give: impl FnMut(Bytes)) {
        let mut run = 0..0;
        for (audience, range) in self.parts.iter().filter(|(_, range)| !range.is_empty()) {
            if !audience.includes(peer) {
                continue;
            }
            if range.start == run.end {
                run.end = range.end;
            } else {
                if !run.is_empty() {
                    give(self.buffer.slice(run));
                }
                run = range.clone();
            }
        }
        if !run.is_empty() {
            give(self.buffer.slice(run));
        }
    }
}
