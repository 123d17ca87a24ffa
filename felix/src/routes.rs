//! Desired routes against the kernel's.
//!
//! Four sources, in order of precedence: local pods (`/32 dev cali…`), the node's own IPAM blocks (blackhole, so that an address
//! nobody has is refused here and not sent back to the fabric), what the datastore says that other nodes have, where an overlay leads
//! there ([`overlay`]), and BGP, by one next hop or several. What the kernel has is kept as a
//! model ([`Fib`]): filled by a read-back, corrected by the kernel's announcements, and moved on at the moment a write is handed out.
//! Whatever touches a destination marks it dirty, and only dirty destinations are compared, so work is proportional to change.
//!
//! Announcements are of what others do; our own writes are not announced to us. Both come by different ways, so after a stranger's
//! change to one of our routes nobody knows which of the two came first: it is repaired at once, and the table is read again.
//!
//! Nothing of a stranger's is written over. A route is *created* where the model has none, which the kernel refuses if there is one
//! after all; it is *replaced* only where the model has ours. And since IPv6 keeps gateways of several programs in one route, and
//! shows them as one, gateways that we do not know to be ours are taken out one by one, each on condition that it is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use rustc_hash::{FxHashMap, FxHashSet};
use tortie_api::calico::Tunnel;

use crate::event::{Link, Route, RouteChange, RouteFailure, Snapshot, Target};
use crate::fib::{Fib, Key};
use crate::overlays::Ways;
use crate::resolve::{Foreign, Unreachable};
use crate::settings::RouteSettings;

mod external;
mod overlay;
mod questions;

/// At most this many changes at once, so that a pod does not wait for a million routes of a peer.
const BATCH: usize = 4096;

/// At most this many next hops in one route, as BIRD's `merge paths` has it.
const MOST_HOPS: usize = 16;

/// Whose routes a change is about; local ones go first and count for the programmed revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Class {
    Local,
    /// Other nodes' ends of overlays, which routes to their pods lead to.
    End,
    Bgp,
}

/// What a destination should be.
enum Wish {
    Route(Target),
    /// Nothing now, for lack of a link or of a way to the next hop.
    Unusable,
    /// What is there, until what it takes to lead elsewhere is ready.
    Wait,
    Nothing,
}

/// A write that the kernel refused.
#[derive(Debug)]
struct Failed {
    reason: String,
    /// What is there is not what was thought to be: no use to try again before it is read.
    surprise: bool,
}

/// What somebody else did to one of our routes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tampered {
    /// The route's destination.
    pub(crate) destination: IpNet,
    /// What was found instead.
    pub(crate) found: String,
}

/// The route table: what is wanted, what is there, and what of it is under way.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    links: FxHashMap<u32, Link>,
    by_name: FxHashMap<String, u32>,
    foreign: Foreign,
    /// Our routes in the kernel.
    own: Fib,
    pods: BTreeMap<IpNet, String>,
    blocks: BTreeSet<IpNet>,
    bgp: FxHashMap<IpNet, Box<[IpAddr]>>,
    /// Gateways to BGP peers, for as long as BGP itself knows no better way to them.
    gateways: BTreeMap<IpNet, IpAddr>,
    /// What the datastore says that other nodes have.
    remote: FxHashMap<IpNet, IpAddr>,
    /// Which of these packets are encapsulated for.
    ways: Ways,
    /// Other nodes' ends that have routes of their own.
    ends: FxHashSet<IpNet>,
    /// The overlays whose devices are ready, each with the other nodes' ends in its tables.
    ready: FxHashMap<Tunnel, FxHashSet<IpAddr>>,
    /// Addresses that a pod has let go since the last comparison.
    released: FxHashSet<IpNet>,
    /// The node's own addresses: never a next hop.
    own_addresses: FxHashSet<IpAddr>,
    /// Next hops in use, and how they are reached.
    resolved: FxHashMap<IpAddr, Result<Target, Unreachable>>,
    /// Whether the speaker may yet confirm routes of an earlier run.
    keep_stale: bool,
    /// BGP routes of an earlier run that nobody has confirmed or withdrawn yet.
    stale: FxHashSet<IpNet>,
    /// Whether pod routes that nobody asked for yet are kept: until the kernel holds our rules, no endpoint is enforced.
    keep_pods: bool,
    dirty: BTreeSet<(Class, IpNet)>,
    in_flight: FxHashSet<IpNet>,
    /// Whether routes of pods or blocks are among those in flight, and among the failed ones.
    in_flight_local: bool,
    /// What those in flight lead to now, if they do, and by which former protocol number: there it stays if the kernel refuses.
    undo: FxHashMap<IpNet, (Target, Option<u8>)>,
    /// Those in flight of which gateways are taken out.
    shrinking: FxHashSet<IpNet>,
    /// IPv6 routes of ours with gateways that are not.
    shared: FxHashSet<IpNet>,
    /// Destinations of which a surprise was looked into by a read-back.
    seen: FxHashSet<IpNet>,
    failed: BTreeMap<IpNet, Failed>,
    failed_local: bool,
    /// Whether the table should be read again.
    doubtful: bool,
    tampered: Vec<Tampered>,
    settings: RouteSettings,
    /// Settings that hold once nothing is in flight.
    coming: Option<RouteSettings>,
    /// Protocol numbers that ours had before.
    former: BTreeSet<u8>,
    /// Destinations in flight to which a stranger's route is deleted.
    evicting: FxHashSet<IpNet>,
    /// Whether routes are somebody else's to write (`routeSyncDisabled`): ours are neither written nor deleted then, nor waited for.
    disabled: bool,
}

impl Routes {
    /// A table for which, while `keep_stale`, BGP routes found in the kernel are kept although nobody confirmed them. Routes of the
    /// protocol numbers `former` are ours too.
    pub(crate) fn new(keep_stale: bool, former: &[u8]) -> Self {
        Self { keep_stale, keep_pods: true, former: former.iter().copied().collect(), ..Self::default() }
    }

    /// What holds before anything is written. Returns whether the table has to be read again: whose routes are whose was another
    /// question until now.
    pub(crate) fn begin_with(&mut self, settings: RouteSettings) -> bool {
        let other = settings.protocol != self.settings.protocol;
        self.settings = settings;
        if other {
            self.own.take();
            self.foreign.clear();
        }
        self.mark_external();
        other
    }

    /// Has routes written like this from now on, and those that are there written anew.
    pub(crate) fn set_settings(&mut self, settings: RouteSettings) {
        self.coming = Some(settings);
        self.adopt_settings();
    }

    fn adopt_settings(&mut self) {
        if !self.in_flight.is_empty() {
            return;
        }
        let Some(settings) = self.coming.take() else { return };
        let before = std::mem::replace(&mut self.settings, settings);
        if before.protocol != self.settings.protocol {
            self.own.renumber(before.protocol, self.settings.protocol);
            self.former.insert(before.protocol);
            // Whoever else writes with the new number: it is ours now.
            self.doubtful = true;
        }
        let all: Vec<IpNet> = self.own.iter().map(|(key, _)| key.0).collect();
        self.mark_all(all);
        let wanted: Vec<IpNet> = self.wanted().copied().collect();
        self.mark_all(wanted);
        self.mark_external();
    }

    fn is_ours(&self, protocol: u8) -> bool {
        protocol == self.settings.protocol || self.former.contains(&protocol)
    }

    /// A protocol number of ours, if it is one that we had before.
    fn if_former(&self, protocol: u8) -> Option<u8> {
        (protocol != self.settings.protocol).then_some(protocol)
    }

    /// Where a destination's route of ours has its place.
    const fn key(&self, destination: IpNet) -> Key {
        (destination, self.settings.metric(&destination))
    }

    // ---- what is wanted ------------------------------------------------------------------------------------------------------

    /// Wants a pod's addresses out of its interface.
    pub(crate) fn add_pods(&mut self, addresses: &[IpAddr], interface: &str) {
        for destination in addresses.iter().copied().map(IpNet::from) {
            if self.pods.get(&destination).is_none_or(|known| known != interface) {
                self.pods.insert(destination, interface.to_owned());
                self.dirty.insert((Class::Local, destination));
            }
        }
    }

    /// No longer wants them. Each is deleted even if its route is gone already: with the deletion the flows of the address end, so
    /// that none of them passes on to whoever has it next.
    pub(crate) fn remove_pods(&mut self, addresses: &[IpAddr]) {
        for destination in addresses.iter().copied().map(IpNet::from) {
            if self.pods.remove(&destination).is_some() {
                self.released.insert(destination);
                self.dirty.insert((Class::Local, destination));
            }
        }
    }

    /// Replaces the node's own blocks.
    pub(crate) fn set_blocks(&mut self, blocks: BTreeSet<IpNet>) {
        for destination in self.blocks.symmetric_difference(&blocks) {
            self.dirty.insert((Class::Local, *destination));
        }
        self.blocks = blocks;
    }

    /// Replaces the node's own addresses.
    pub(crate) fn set_own_addresses(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        let addresses: FxHashSet<IpAddr> = addresses.into_iter().collect();
        if addresses != self.own_addresses {
            self.own_addresses = addresses;
            self.resolve_again(|_| true);
        }
    }

    /// Takes a best path of BGP: the next hops of all paths that are equally good.
    pub(crate) fn set_best(&mut self, prefix: IpNet, next_hops: Vec<IpAddr>) {
        let prefix = prefix.trunc();
        for next_hop in &next_hops {
            self.learn_next_hop(*next_hop);
        }
        self.stale.remove(&prefix);
        self.bgp.insert(prefix, next_hops.into_boxed_slice());
        self.dirty.insert((Class::Bgp, prefix));
    }

    /// Replaces the gateways to BGP peers.
    pub(crate) fn set_gateways(&mut self, gateways: BTreeMap<IpNet, IpAddr>) {
        let before = std::mem::replace(&mut self.gateways, gateways);
        for (prefix, gateway) in &before {
            if self.gateways.get(prefix) != Some(gateway)
                && self.bgp.get(prefix).is_some_and(|hops| **hops == [*gateway])
            {
                self.withdraw(*prefix);
            }
        }
        let missing = self.gateways.iter().filter(|(prefix, _)| !self.bgp.contains_key(*prefix));
        for (prefix, gateway) in missing.map(|(prefix, gateway)| (*prefix, *gateway)).collect::<Vec<_>>() {
            self.set_best(prefix, vec![gateway]);
        }
    }

    /// Finds out how a next hop is reached, unless that is known.
    fn learn_next_hop(&mut self, next_hop: IpAddr) {
        if !self.resolved.contains_key(&next_hop) {
            let target = self.resolve(next_hop);
            self.resolved.insert(next_hop, target);
        }
    }

    /// BGP has no path any more.
    pub(crate) fn withdraw(&mut self, prefix: IpNet) {
        let prefix = prefix.trunc();
        if let Some(gateway) = self.gateways.get(&prefix).copied() {
            self.set_best(prefix, vec![gateway]);
        } else if self.bgp.remove(&prefix).is_some() | self.stale.remove(&prefix) {
            self.dirty.insert((Class::Bgp, prefix));
        }
    }

    /// From now on only confirmed BGP routes are kept.
    pub(crate) fn converged(&mut self) {
        if std::mem::take(&mut self.keep_stale) {
            self.stale = FxHashSet::default();
            self.mark_unwanted();
        }
    }

    /// The kernel holds our rules for the first time, and every endpoint that is enforced has asked for its routes.
    pub(crate) fn rules_known(&mut self) {
        if std::mem::take(&mut self.keep_pods) {
            self.mark_unwanted();
        }
    }

    // ---- what is there -------------------------------------------------------------------------------------------------------

    /// Takes a read-back as the whole truth.
    pub(crate) fn read_back(&mut self, snapshot: Snapshot) {
        self.links.clear();
        self.by_name.clear();
        for link in snapshot.links {
            self.by_name.insert(link.name.clone(), link.index);
            self.links.insert(link.index, link);
        }
        let first = self.own.is_empty() && self.foreign.is_empty();
        let before = self.own.take();
        self.foreign.clear();
        for route in snapshot.routes {
            if self.is_ours(route.protocol) {
                let former = self.if_former(route.protocol);
                self.own.add((route.destination, route.metric), route.target, former);
            } else {
                self.foreign.insert(route);
            }
        }
        for (key, target) in &before {
            if self.own.get(*key) != Some(target) {
                // What went with its device will be announced by that.
                if target.devices().all(|index| self.is_up(index)) {
                    self.tampered(*key);
                }
                self.mark(key.0);
            }
        }
        let wanted: Vec<IpNet> =
            self.wanted().filter(|destination| self.own.get(self.key(**destination)).is_none()).copied().collect();
        self.mark_all(wanted);
        let found: Vec<Key> = self.own.iter().map(|(key, _)| *key).filter(|key| !before.contains_key(key)).collect();
        for key in found {
            if !first {
                self.tampered(key);
            }
            self.mark(key.0);
        }
        let doubled: Vec<IpNet> = self.own.doubled().map(|key| key.0).collect();
        self.mark_all(doubled);
        self.mark_external();
        // What was refused because something unknown was there is known now.
        let surprises: Vec<IpNet> =
            self.failed.iter().filter(|(_, failed)| failed.surprise).map(|(destination, _)| *destination).collect();
        self.mark_all(surprises.clone());
        self.seen.extend(surprises);
        self.forget_next_hops();
        self.resolve_again(|_| true);
    }

    /// Forgets the next hops that no route goes by.
    fn forget_next_hops(&mut self) {
        let used: FxHashSet<IpAddr> = self.all_next_hops().flat_map(|(_, hops)| hops.iter().copied()).collect();
        self.resolved.retain(|next_hop, _| used.contains(next_hop));
    }

    /// What is there was written by an earlier run. Returns what of it leads to gateways: BGP's.
    pub(crate) fn inherit(&mut self) -> Vec<(IpNet, IpAddr)> {
        let gateways: Vec<(IpNet, IpAddr)> = self
            .own
            .iter()
            .filter(|((destination, _), _)| self.next_hops(destination).is_none())
            .filter_map(|((destination, _), target)| Some((*destination, target.hops().next()?.0)))
            .collect();
        if self.keep_stale {
            self.stale = gateways.iter().map(|(destination, _)| *destination).collect();
        }
        gateways
    }

    /// An interface is new or changed.
    pub(crate) fn link_changed(&mut self, link: &Link) {
        let before = self.links.insert(link.index, link.clone());
        if before.as_ref() == Some(link) {
            return;
        }
        let was_up = before.as_ref().is_some_and(|before| before.up);
        if before.as_ref().is_none_or(|before| before.name != link.name) {
            self.mark_external();
        }
        if let Some(before) = before.filter(|before| before.name != link.name) {
            if self.by_name.get(&before.name) == Some(&link.index) {
                self.by_name.remove(&before.name);
            }
            self.mark_pods_of(&before.name);
        }
        self.by_name.insert(link.name.clone(), link.index);
        if !link.up {
            self.device_down(link.index, false);
        } else if !was_up {
            // Routes by several next hops use it again, and say nothing.
            self.resolve_again(|_| true);
            self.retry_by(|target| target.devices().any(|index| index == link.index));
        }
        self.mark_pods_of(&link.name);
        if Self::is_end(&link.name) {
            self.mark_encapsulated();
        }
    }

    /// An interface is gone.
    pub(crate) fn link_removed(&mut self, index: u32) {
        let Some(link) = self.links.remove(&index) else { return };
        if self.by_name.get(&link.name) == Some(&index) {
            self.by_name.remove(&link.name);
        }
        self.device_down(index, true);
        self.mark_pods_of(&link.name);
        if Self::is_end(&link.name) {
            self.mark_encapsulated();
        }
    }

    /// The kernel drops the IPv4 routes of a device that goes down without announcing it.
    fn device_down(&mut self, index: u32, removed: bool) {
        let links = &self.links;
        let is_up = |index| links.get(&index).is_some_and(|link| link.up);
        let touched = self.own.device_down(index, removed, is_up);
        // What becomes of a route with several next hops is not the same in all kernels.
        self.doubtful |= removed && touched.iter().any(|destination| self.own.of(*destination).next().is_some());
        self.mark_all(touched);
        self.foreign.device_down(index, removed);
        self.resolve_again(|_| true);
    }

    /// An interface has an address: gateways may be on its link now, and routes may prefer it as their source.
    pub(crate) fn address_added(&mut self, index: u32, address: IpAddr) {
        self.retry_by(|target| {
            let prefers = matches!(target, Target::Device { source: Some(source), .. } if *source == address);
            prefers || target.devices().any(|device| device == index)
        });
    }

    /// An interface has an address no more: routes that prefer it as their source went with it, on some kernels unannounced, and those
    /// of IPv6 lost their preference.
    pub(crate) fn address_removed(&mut self, address: IpAddr) {
        self.doubtful |= address.is_ipv4() || self.settings.source_ipv6.is_some_and(|source| source == address);
    }

    /// A route is new or changed, by somebody else.
    pub(crate) fn route_changed(&mut self, route: Route) {
        let key = (route.destination, route.metric);
        let ours = self.own.get(key);
        if self.is_ours(route.protocol) {
            let former = self.if_former(route.protocol);
            if ours != Some(&route.target) || self.own.former(key) != former {
                self.own.learn(key, route.target, former);
                self.tampered(key);
                self.doubtful = true;
                self.mark(key.0);
            }
            return;
        }
        let destination = route.destination;
        let replaced = ours.is_some();
        // Most likely it took the place of ours. Where it did not, but was put beside it, the read-back will tell.
        if replaced {
            self.own.set(key, None);
        }
        self.doubtful |= !self.foreign.announce(route) || replaced;
        if replaced {
            self.tampered(key);
        }
        self.mark(destination);
        self.resolve_again(|next_hop| destination.contains(&next_hop));
        self.retry_by(|target| target.hops().any(|(gateway, _)| destination.contains(&gateway)));
    }

    /// A route is gone, by somebody else's doing or the kernel's.
    pub(crate) fn route_removed(&mut self, route: &Route) {
        let destination = route.destination;
        if self.is_ours(route.protocol) {
            let key = (destination, route.metric);
            if self.own.remove(key, &route.target) {
                self.tampered(key);
                self.doubtful = true;
            }
        } else {
            self.doubtful |= !self.foreign.remove(route);
            self.resolve_again(|next_hop| destination.contains(&next_hop));
        }
        self.mark(destination);
    }

    /// Notes what somebody made of a route of ours. Called when the model has it.
    fn tampered(&mut self, key: Key) {
        let (destination, metric) = key;
        let found = match (self.own.get(key), self.foreign.wins(destination, metric)) {
            (Some(target), _) => format!("{destination} {}", self.text(target)),
            (None, Some((protocol, metric))) => format!("a route of protocol {protocol} with metric {metric}"),
            (None, None) => "no route".to_owned(),
        };
        self.tampered.push(Tampered { destination, found });
    }

    /// What others did to our routes since this was asked last.
    pub(crate) fn take_tampered(&mut self) -> Vec<Tampered> {
        let tampered = std::mem::take(&mut self.tampered);
        if self.disabled { Vec::new() } else { tampered }
    }

    /// Whether the table should be read again because what is known may not be what is there.
    pub(crate) fn take_doubt(&mut self) -> bool {
        std::mem::take(&mut self.doubtful)
    }

    // ---- the difference ------------------------------------------------------------------------------------------------------

    fn mark(&mut self, destination: IpNet) {
        let class = if self.is_local(&destination) {
            Class::Local
        } else if self.ends.contains(&destination) {
            Class::End
        } else {
            Class::Bgp
        };
        self.dirty.insert((class, destination));
    }

    fn mark_all(&mut self, destinations: Vec<IpNet>) {
        for destination in destinations {
            self.mark(destination);
        }
    }

    fn mark_pods_of(&mut self, interface: &str) {
        let pods = self.pods.iter().filter(|(_, name)| *name == interface);
        self.dirty.extend(pods.map(|(destination, _)| (Class::Local, *destination)));
    }

    /// Marks what is in the kernel and wanted by nobody.
    fn mark_unwanted(&mut self) {
        let unwanted: Vec<IpNet> = self
            .own
            .iter()
            .map(|(key, _)| key.0)
            .filter(|destination| !self.is_local(destination) && !self.is_elsewhere(destination))
            .collect();
        self.mark_all(unwanted);
    }

    fn is_up(&self, index: u32) -> bool {
        self.links.get(&index).is_some_and(|link| link.up)
    }

    fn resolve(&self, next_hop: IpAddr) -> Result<Target, Unreachable> {
        if self.own_addresses.contains(&next_hop) {
            return Err(Unreachable::Own);
        }
        self.foreign.resolve(next_hop, |index| self.is_up(index))
    }

    /// Resolves those of the next hops in use again that may be reached otherwise now, and marks the routes of those that are.
    fn resolve_again(&mut self, affected: impl Fn(IpAddr) -> bool) {
        let mut changed = FxHashSet::default();
        let next_hops: Vec<IpAddr> = self.resolved.keys().copied().filter(|next_hop| affected(*next_hop)).collect();
        for next_hop in next_hops {
            let target = self.resolve(next_hop);
            if self.resolved.get(&next_hop) != Some(&target) {
                self.resolved.insert(next_hop, target);
                changed.insert(next_hop);
            }
        }
        if !changed.is_empty() {
            let affected = self.all_next_hops().filter(|(_, hops)| hops.iter().any(|hop| changed.contains(hop)));
            let affected: Vec<IpNet> = affected.map(|(prefix, _)| *prefix).collect();
            self.dirty.extend(affected.into_iter().map(|prefix| (Class::Bgp, prefix)));
        }
    }

    /// Tries those of the refused routes again that lead where something has changed.
    fn retry_by(&mut self, concerns: impl Fn(&Target) -> bool) {
        if self.failed.is_empty() {
            return;
        }
        let again = self.failed.iter().filter(|(destination, failed)| {
            !failed.surprise && matches!(self.wish(**destination), Wish::Route(target) if concerns(&target))
        });
        let again: Vec<IpNet> = again.map(|(destination, _)| *destination).take(BATCH).collect();
        self.mark_all(again);
    }

    fn wish(&self, destination: IpNet) -> Wish {
        if let Some(interface) = self.pods.get(&destination) {
            let link = self.by_name.get(interface).and_then(|index| self.links.get(index)).filter(|link| link.up);
            let source = self.settings.source(&destination);
            return link.map_or(Wish::Unusable, |link| Wish::Route(Target::Device { index: link.index, source }));
        }
        if self.blocks.contains(&destination) {
            return Wish::Route(Target::Blackhole);
        }
        if self.ends.contains(&destination) {
            return self.to_end(destination.addr());
        }
        self.next_hops(&destination).map_or(Wish::Nothing, |next_hops| self.by_way(destination, next_hops))
    }

    /// All destinations that are wanted.
    fn wanted(&self) -> impl Iterator<Item = &IpNet> {
        self.pods
            .keys()
            .chain(&self.blocks)
            .chain(&self.ends)
            .chain(self.all_next_hops().map(|(destination, _)| destination))
    }

    /// Where a route of BGP leads: to all gateways by which its next hops are reached.
    fn by_next_hops(&self, destination: IpNet, next_hops: &[IpAddr]) -> Option<Target> {
        let targets = || next_hops.iter().filter_map(|next_hop| self.resolved.get(next_hop)?.as_ref().ok());
        let usable = |gateway: IpAddr| can_lead_to(gateway, destination);
        let onlink = |target: &&Target| matches!(target, Target::Onlink { gateway, .. } if usable(*gateway));
        let mut hops: Vec<(IpAddr, u32)> = targets()
            .filter(|target| !matches!(target, Target::Onlink { .. }))
            .flat_map(Target::hops)
            .filter(|(gateway, _)| usable(*gateway))
            .collect();
        // Such a gateway is not mixed with others: it is the way of a node whose only link is a cloud's.
        if hops.is_empty() {
            return targets().find(onlink).cloned();
        }
        hops.sort_unstable();
        hops.dedup();
        hops.truncate(MOST_HOPS);
        Some(Target::multipath(hops))
    }

    /// Leaves all routes alone from now on, or looks after them again.
    pub(crate) fn set_disabled(&mut self, disabled: bool) {
        self.disabled = disabled;
    }

    /// Whether there is something to hand out.
    pub(crate) fn has_changes(&self) -> bool {
        !self.disabled && !self.dirty.is_empty() && self.in_flight.is_empty()
    }

    /// The next changes, at most a batch of them; none while earlier ones are under way.
    pub(crate) fn take_changes(&mut self) -> Vec<RouteChange> {
        let mut changes = Vec::new();
        if !self.in_flight.is_empty() {
            return changes;
        }
        while changes.len() < BATCH {
            let Some((_, destination)) = self.dirty.pop_first() else { break };
            self.compare(destination, &mut changes);
        }
        self.in_flight = changes.iter().map(|change| change.route().destination).collect();
        self.in_flight_local = self.in_flight.iter().any(|destination| self.is_local(destination));
        changes
    }

    fn is_local(&self, destination: &IpNet) -> bool {
        self.pods.contains_key(destination) || self.blocks.contains(destination)
    }

    fn compare(&mut self, destination: IpNet, changes: &mut Vec<RouteChange>) {
        if self.failed.remove(&destination).is_some() && self.failed_local {
            self.failed_local = self.failed.keys().any(|destination| self.is_local(destination));
        }
        let wish = self.wish(destination);
        let key = self.key(destination);
        self.evict(destination, changes);
        self.release(key, &wish, changes);
        self.delete_copies(destination, changes);
        if self.take_out_unknown(key, &wish, changes) {
            return;
        }
        if matches!(wish, Wish::Wait) && self.own.get(key).is_some() {
            return;
        }
        let mut keep = None;
        if let Wish::Route(target) = &wish
            && !self.foreign.occupies(destination, key.1)
        {
            keep = Some(key.1);
            let there = self.own.get(key).cloned();
            let former = self.own.former(key);
            if there.as_ref() != Some(target) || former.is_some() {
                let route = Route { protocol: self.settings.protocol, ..self.ours(key, target.clone()) };
                changes.push(if there.is_some() { RouteChange::Replace(route) } else { RouteChange::Create(route) });
                self.own.set(key, Some(target.clone()));
                self.undo.extend(there.map(|there| (destination, (there, former))));
            }
        }
        let there: Vec<(u32, Target)> =
            self.own.of(destination).map(|(metric, target)| (metric, target.clone())).collect();
        for (metric, target) in there {
            let stale = match (&wish, &target) {
                (Wish::Nothing, Target::Via { .. } | Target::Onlink { .. } | Target::Multipath(_)) => {
                    self.stale.contains(&destination)
                }
                (Wish::Nothing, Target::Device { .. }) => self.keep_pods,
                _ => false,
            };
            if keep != Some(metric) && !stale {
                let there = (destination, metric);
                let route = self.ours(there, target.clone());
                if there == key {
                    self.undo.insert(destination, (target, self.own.former(key)));
                }
                self.own.set(there, None);
                // A pod's route that only has another metric now: the pod keeps its address.
                let moved = matches!(&wish, Wish::Route(wanted) if is_same_device(wanted, &route.target));
                changes.push(if moved { RouteChange::Retire(route) } else { RouteChange::Delete(route) });
            }
        }
    }

    /// Deletes the route of a pod that has let its address go, or to which it leads no longer. It is not replaced: see
    /// [`RouteChange::Delete`].
    fn release(&mut self, key: Key, wish: &Wish, changes: &mut Vec<RouteChange>) {
        let destination = key.0;
        let released = self.released.remove(&destination);
        match (self.own.get(key), wish) {
            (Some(there @ Target::Device { .. }), Wish::Route(wanted))
                if released || !is_same_device(there, wanted) =>
            {
                changes.push(RouteChange::Delete(self.ours(key, there.clone())));
                self.own.set(key, None);
            }
            (None, _) if released => changes.push(RouteChange::Delete(self.ours(key, Target::device(0)))),
            _ => {}
        }
    }

    /// Deletes routes under our protocol that somebody put behind ours, and ours with them: the kernel cannot be told which.
    fn delete_copies(&mut self, destination: IpNet, changes: &mut Vec<RouteChange>) {
        let doubled: Vec<(Key, Target)> = self
            .own
            .of(destination)
            .map(|(metric, target)| ((destination, metric), target.clone()))
            .filter(|(key, _)| self.own.surplus(*key) > 0)
            .collect();
        for (key, target) in doubled {
            for _ in 0..=self.own.surplus(key) {
                changes.push(RouteChange::Delete(self.ours(key, target.clone())));
            }
            self.own.set(key, None);
        }
    }

    /// Takes gateways out of an IPv6 route that are not wanted and that we do not know to be ours. Whether there are any.
    fn take_out_unknown(&mut self, key: Key, wish: &Wish, changes: &mut Vec<RouteChange>) -> bool {
        let destination = key.0;
        let wanted: Vec<(IpAddr, u32)> = match wish {
            _ if !self.own.is_learned(key) => return false,
            Wish::Wait => return false,
            Wish::Nothing if self.stale.contains(&destination) => return false,
            Wish::Route(target) => target.hops().collect(),
            Wish::Unusable | Wish::Nothing => Vec::new(),
        };
        let Some(there) = self.own.get(key) else { return false };
        let (known, unknown): (Vec<_>, Vec<_>) = there.hops().partition(|hop| wanted.contains(hop));
        if unknown.is_empty() {
            self.shared.remove(&destination);
            return false;
        }
        // Once it is clear that a stranger's are among them, the route is the stranger's: ours come out, and a read-back shows whose
        // it is then.
        let former = self.own.former(key);
        let out = if self.shared.remove(&destination) {
            self.own.set(key, None);
            self.doubtful = true;
            known
        } else {
            self.shrinking.insert(destination);
            if known.is_empty() {
                self.own.set(key, None);
            } else {
                self.own.learn(key, Target::multipath(known), former);
            }
            unknown
        };
        if !out.is_empty() {
            let protocol = former.unwrap_or(self.settings.protocol);
            let (destination, metric) = key;
            let target = Target::multipath(out);
            changes.push(RouteChange::Shrink(Route { destination, target, protocol, metric }));
        }
        true
    }

    /// The changes that were handed out are done, but for these.
    pub(crate) fn applied(&mut self, failures: Vec<RouteFailure>) {
        self.in_flight.clear();
        let mut shrinking = std::mem::take(&mut self.shrinking);
        for RouteFailure { destination, reason, surprise } in failures {
            // Which of the changes to the destination was refused is not said.
            self.doubtful |= self.evicting.contains(&destination);
            let key = self.key(destination);
            if shrinking.remove(&destination) {
                self.shared.insert(destination);
            } else if let Some((there, former)) = self.undo.remove(&destination).filter(|_| !surprise) {
                self.own.restore(key, there, former);
            } else {
                self.own.set(key, None);
            }
            let reason = self.with_remedy(destination, reason);
            // What surprises a second time is no race but a refusal like others, and is tried again ever more seldom.
            let surprise = surprise && !self.seen.remove(&destination);
            self.doubtful |= surprise;
            self.failed_local |= self.is_local(&destination);
            self.failed.insert(destination, Failed { reason, surprise });
        }
        self.seen.clear();
        self.undo.clear();
        self.evicting.clear();
        self.mark_all(shrinking.into_iter().collect());
        self.adopt_settings();
    }

    /// A refusal with what can be done about it, where that is known.
    fn with_remedy(&self, destination: IpNet, reason: String) -> String {
        match self.wish(destination) {
            Wish::Route(Target::Device { source: Some(source), .. }) => {
                format!(
                    "{reason} (with the source address {source} of FelixConfiguration: is it an address of this node?)"
                )
            }
            _ => reason,
        }
    }

    /// Nobody knows which of the changes that were handed out are done: the table must be read back, and they count as failed.
    pub(crate) fn lost(&mut self, reason: &str) {
        self.shrinking.clear();
        self.undo.clear();
        self.doubtful = true;
        for destination in std::mem::take(&mut self.in_flight) {
            self.failed_local |= self.is_local(&destination);
            self.failed.insert(destination, Failed { reason: reason.to_owned(), surprise: true });
        }
        self.evicting.clear();
        self.adopt_settings();
    }

    /// Our route with this place, by the protocol number that it has in the kernel.
    fn ours(&self, key: Key, target: Target) -> Route {
        let protocol = self.own.former(key).unwrap_or(self.settings.protocol);
        Route { destination: key.0, target, protocol, metric: key.1 }
    }

    /// Whether some writes failed and wait for another try.
    pub(crate) fn has_failed(&self) -> bool {
        !self.failed.is_empty()
    }

    /// Tries what failed again.
    pub(crate) fn retry(&mut self) {
        self.failed_local = false;
        for destination in std::mem::take(&mut self.failed).into_keys() {
            self.mark(destination);
        }
    }
}

/// Whether both lead out of one device and to no gateway.
fn is_same_device(one: &Target, other: &Target) -> bool {
    matches!((one, other), (Target::Device { index, .. }, Target::Device { index: other, .. }) if index == other)
}

/// Whether the kernel takes the gateway for the destination: IPv4 may go by an IPv6 gateway (RFC 8950), but not the other way round.
const fn can_lead_to(gateway: IpAddr, destination: IpNet) -> bool {
    !matches!((destination, gateway), (IpNet::V6(_), IpAddr::V4(_)))
}
