//! Desired routes against the kernel's.
//!
//! Three sources, in order of precedence: local pods (`/32 dev cali…`), the node's own IPAM blocks (blackhole, so that an address
//! nobody has is refused here and not sent back to the fabric), and BGP. What the kernel has is kept as a model: filled by a
//! read-back, corrected by the kernel's announcements, and moved on at the moment a write is handed out. Whatever touches a
//! destination marks it dirty, and only dirty destinations are compared, so work is proportional to change.
//!
//! The model moves on at hand-out, not at the answer, because announcements of what others do may come before the answer: what
//! is announced is always newer than the hand-out. Our own writes are announced too, and change nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::event::{Link, Route, RouteChange, RouteFailure, Snapshot, Target};
use crate::resolve::Foreign;
use crate::view::{RouteSource, RouteState, RouteView};
use crate::{ROUTE_METRIC, ROUTE_PROTOCOL};

/// At most this many changes at once, so that a pod does not wait for a million routes of a peer.
const BATCH: usize = 4096;

/// Whose routes a change is about; local ones go first and count for the programmed revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Class {
    Local,
    Bgp,
}

/// What a destination should be.
enum Wish {
    Route(Target),
    /// Nothing now, for lack of a link or of a way to the next hop.
    Unusable,
    Nothing,
}

/// The route table: what is wanted, what is there, and what of it is under way.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    links: FxHashMap<u32, Link>,
    by_name: FxHashMap<String, u32>,
    foreign: Foreign,
    /// Our routes in the kernel, by destination and metric.
    own: BTreeMap<(IpNet, u32), Target>,
    /// How many of `own` lead out of each device.
    own_by_device: FxHashMap<u32, usize>,
    pods: BTreeMap<IpNet, String>,
    blocks: BTreeSet<IpNet>,
    bgp: FxHashMap<IpNet, Box<[IpAddr]>>,
    /// The node's own addresses: never a next hop.
    own_addresses: FxHashSet<IpAddr>,
    /// Next hops in use, and how they are reached.
    resolved: FxHashMap<IpAddr, Option<Target>>,
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
    failed: BTreeMap<IpNet, String>,
    failed_local: bool,
}

impl Routes {
    /// A table for which, while `keep_stale`, BGP routes found in the kernel are kept although nobody confirmed them.
    pub(crate) fn new(keep_stale: bool) -> Self {
        Self { keep_stale, keep_pods: true, ..Self::default() }
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

    /// No longer wants them.
    pub(crate) fn remove_pods(&mut self, addresses: &[IpAddr]) {
        for destination in addresses.iter().copied().map(IpNet::from) {
            if self.pods.remove(&destination).is_some() {
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
            self.resolve_again();
        }
    }

    /// Takes a best path of BGP.
    pub(crate) fn set_best(&mut self, prefix: IpNet, next_hops: Vec<IpAddr>) {
        let prefix = prefix.trunc();
        for next_hop in &next_hops {
            if !self.resolved.contains_key(next_hop) {
                let target = self.resolve(*next_hop);
                self.resolved.insert(*next_hop, target);
            }
        }
        self.stale.remove(&prefix);
        self.bgp.insert(prefix, next_hops.into_boxed_slice());
        self.dirty.insert((Class::Bgp, prefix));
    }

    /// BGP has no path any more.
    pub(crate) fn withdraw(&mut self, prefix: IpNet) {
        let prefix = prefix.trunc();
        if self.bgp.remove(&prefix).is_some() | self.stale.remove(&prefix) {
            self.dirty.insert((Class::Bgp, prefix));
        }
    }

    /// From now on only confirmed BGP routes are kept.
    pub(crate) fn converged(&mut self) {
        if std::mem::take(&mut self.keep_stale) {
            self.stale = FxHashSet::default();
            self.mark_unwanted();
            let used: FxHashSet<IpAddr> = self.bgp.values().flat_map(|hops| hops.iter().copied()).collect();
            self.resolved.retain(|next_hop, _| used.contains(next_hop));
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
        let before = std::mem::take(&mut self.own);
        self.own_by_device.clear();
        self.foreign.clear();
        for route in snapshot.routes {
            if route.protocol == ROUTE_PROTOCOL {
                self.set_own(route.destination, route.metric, Some(route.target));
            } else {
                self.foreign.insert(route);
            }
        }
        for (key, target) in &before {
            if self.own.get(key) != Some(target) {
                self.mark(key.0);
            }
        }
        let wanted: Vec<IpNet> = self
            .pods
            .keys()
            .chain(&self.blocks)
            .chain(self.bgp.keys())
            .filter(|destination| !self.own.contains_key(&(**destination, ROUTE_METRIC)))
            .copied()
            .collect();
        self.mark_all(wanted);
        let found: Vec<IpNet> = self.own.keys().filter(|key| !before.contains_key(key)).map(|key| key.0).collect();
        self.mark_all(found);
        self.resolve_again();
    }

    /// What is there was written by an earlier run. Returns what of it leads to gateways: BGP's.
    pub(crate) fn inherit(&mut self) -> Vec<(IpNet, IpAddr)> {
        let gateways = self.own.iter().filter_map(|((destination, _), target)| match target {
            Target::Via { gateway, .. } if !self.bgp.contains_key(destination) => Some((*destination, *gateway)),
            _ => None,
        });
        let gateways: Vec<_> = gateways.collect();
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
        if let Some(before) = before.filter(|before| before.name != link.name) {
            if self.by_name.get(&before.name) == Some(&link.index) {
                self.by_name.remove(&before.name);
            }
            self.mark_pods_of(&before.name);
        }
        self.by_name.insert(link.name.clone(), link.index);
        if !link.up {
            self.device_down(link.index);
        }
        self.mark_pods_of(&link.name);
    }

    /// An interface is gone.
    pub(crate) fn link_removed(&mut self, index: u32) {
        let Some(link) = self.links.remove(&index) else { return };
        if self.by_name.get(&link.name) == Some(&index) {
            self.by_name.remove(&link.name);
        }
        self.device_down(index);
        self.mark_pods_of(&link.name);
    }

    /// The kernel drops the IPv4 routes of a device that goes down without announcing it.
    fn device_down(&mut self, index: u32) {
        if self.own_by_device.contains_key(&index) {
            let gone: Vec<(IpNet, u32)> =
                self.own.iter().filter(|(_, target)| device(target) == Some(index)).map(|(key, _)| *key).collect();
            for (destination, metric) in gone {
                self.set_own(destination, metric, None);
                self.mark(destination);
            }
        }
        if self.foreign.device_down(index) {
            self.resolve_again();
        }
    }

    /// A route is new or changed. False when the table has to be read again to know what is there now.
    pub(crate) fn route_changed(&mut self, route: Route) -> bool {
        if route.protocol == ROUTE_PROTOCOL {
            if self.own.get(&(route.destination, route.metric)) != Some(&route.target) {
                self.set_own(route.destination, route.metric, Some(route.target));
                self.mark(route.destination);
            }
            return true;
        }
        let destination = route.destination;
        // Somebody replaced ours by theirs.
        if self.own.contains_key(&(destination, route.metric)) {
            self.set_own(destination, route.metric, None);
        }
        let sure = self.foreign.announce(route);
        self.mark(destination);
        self.resolve_again();
        sure
    }

    /// A route is gone.
    pub(crate) fn route_removed(&mut self, route: &Route) {
        if route.protocol == ROUTE_PROTOCOL {
            self.set_own(route.destination, route.metric, None);
        } else {
            self.foreign.remove(route);
            self.resolve_again();
        }
        self.mark(route.destination);
    }

    fn set_own(&mut self, destination: IpNet, metric: u32, target: Option<Target>) {
        if let Some(index) = target.as_ref().and_then(device) {
            *self.own_by_device.entry(index).or_default() += 1;
        }
        let before = match target {
            Some(target) => self.own.insert((destination, metric), target),
            None => self.own.remove(&(destination, metric)),
        };
        if let Some(index) = before.as_ref().and_then(device)
            && let Some(count) = self.own_by_device.get_mut(&index)
        {
            *count -= 1;
            if *count == 0 {
                self.own_by_device.remove(&index);
            }
        }
    }

    // ---- the difference ------------------------------------------------------------------------------------------------------

    fn mark(&mut self, destination: IpNet) {
        let class = if self.is_local(&destination) { Class::Local } else { Class::Bgp };
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
            .keys()
            .map(|key| key.0)
            .filter(|destination| !self.is_local(destination) && !self.bgp.contains_key(destination))
            .collect();
        self.mark_all(unwanted);
    }

    fn resolve(&self, next_hop: IpAddr) -> Option<Target> {
        if self.own_addresses.contains(&next_hop) { None } else { self.foreign.resolve(next_hop) }
    }

    /// Resolves the next hops in use again, and marks the routes of those that are now reached otherwise.
    fn resolve_again(&mut self) {
        let mut changed = FxHashSet::default();
        let next_hops: Vec<IpAddr> = self.resolved.keys().copied().collect();
        for next_hop in next_hops {
            let target = self.resolve(next_hop);
            if self.resolved.get(&next_hop) != Some(&target) {
                self.resolved.insert(next_hop, target);
                changed.insert(next_hop);
            }
        }
        if !changed.is_empty() {
            let affected = self.bgp.iter().filter(|(_, hops)| hops.iter().any(|hop| changed.contains(hop)));
            self.dirty.extend(affected.map(|(prefix, _)| (Class::Bgp, *prefix)));
        }
    }

    fn wish(&self, destination: IpNet) -> Wish {
        if let Some(interface) = self.pods.get(&destination) {
            let link = self.by_name.get(interface).and_then(|index| self.links.get(index)).filter(|link| link.up);
            return link.map_or(Wish::Unusable, |link| Wish::Route(Target::Device { index: link.index }));
        }
        if self.blocks.contains(&destination) {
            return Wish::Route(Target::Blackhole);
        }
        match self.bgp.get(&destination) {
            Some(next_hops) => next_hops
                .iter()
                .filter_map(|next_hop| self.resolved.get(next_hop)?.clone())
                .find(|target| can_lead_to(target, destination))
                .map_or(Wish::Unusable, Wish::Route),
            None => Wish::Nothing,
        }
    }

    /// Whether there is something to hand out.
    pub(crate) fn has_changes(&self) -> bool {
        !self.dirty.is_empty() && self.in_flight.is_empty()
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
        let there: Vec<(u32, Target)> = self
            .own
            .range((destination, 0)..=(destination, u32::MAX))
            .map(|((_, metric), target)| (*metric, target.clone()))
            .collect();
        let ours = |metric, target| Route { destination, target, protocol: ROUTE_PROTOCOL, metric };
        let wish = self.wish(destination);
        let mut keep = None;
        if let Wish::Route(target) = &wish
            && !self.foreign.occupies(destination, ROUTE_METRIC)
        {
            keep = Some(ROUTE_METRIC);
            if !there.iter().any(|(metric, present)| *metric == ROUTE_METRIC && present == target) {
                self.set_own(destination, ROUTE_METRIC, Some(target.clone()));
                changes.push(RouteChange::Replace(ours(ROUTE_METRIC, target.clone())));
            }
        }
        for (metric, target) in there {
            let stale = match (&wish, &target) {
                (Wish::Nothing, Target::Via { .. }) => self.stale.contains(&destination),
                (Wish::Nothing, Target::Device { .. }) => self.keep_pods,
                _ => false,
            };
            if keep != Some(metric) && !stale {
                self.set_own(destination, metric, None);
                changes.push(RouteChange::Delete(ours(metric, target)));
            }
        }
    }

    /// The changes that were handed out are done, but for these.
    pub(crate) fn applied(&mut self, failures: Vec<RouteFailure>) {
        self.in_flight.clear();
        for failure in failures {
            self.set_own(failure.destination, ROUTE_METRIC, None);
            self.failed_local |= self.is_local(&failure.destination);
            self.failed.insert(failure.destination, failure.reason);
        }
    }

    /// Nobody knows which of the changes that were handed out are done: the table must be read back, and they count as failed.
    pub(crate) fn lost(&mut self, reason: &str) {
        for destination in std::mem::take(&mut self.in_flight) {
            self.failed_local |= self.is_local(&destination);
            self.failed.insert(destination, reason.to_owned());
        }
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

    // ---- questions -----------------------------------------------------------------------------------------------------------

    /// Whether a destination is as wanted, and no write to it is under way.
    fn settled(&self, destination: IpNet) -> bool {
        !self.in_flight.contains(&destination)
            && !self.dirty.contains(&(Class::Local, destination))
            && !self.dirty.contains(&(Class::Bgp, destination))
    }

    /// Whether a pod's address is routed: in the kernel, and not merely handed out. `Some(Err)` when the kernel refused.
    pub(crate) fn pod_routed(&self, address: IpAddr) -> Option<Result<(), String>> {
        let destination = IpNet::from(address);
        if let Some(reason) = self.failed.get(&destination) {
            return Some(Err(format!("the route to {address}: {reason}")));
        }
        if let Some(foreign) = self.foreign.wins(destination, ROUTE_METRIC) {
            return Some(Err(format!(
                "somebody else's route to {address} (protocol {}) is in the way; delete it or give the pod another address",
                foreign.protocol
            )));
        }
        let present = matches!(self.own.get(&(destination, ROUTE_METRIC)), Some(Target::Device { .. }));
        (present && self.settled(destination)).then_some(Ok(()))
    }

    /// Whether no route of ours leads to an address out of an interface any more.
    pub(crate) fn pod_unrouted(&self, address: IpAddr) -> bool {
        let destination = IpNet::from(address);
        let there = self.own.get(&(destination, ROUTE_METRIC));
        self.pods.contains_key(&destination)
            || (self.settled(destination) && !matches!(there, Some(Target::Device { .. })))
    }

    /// Whether the routes of pods and blocks are as wanted, as far as they can be: a pod whose interface is gone counts as done.
    /// Asked after every event, so it must not look at every route.
    pub(crate) fn local_settled(&self) -> bool {
        // Local ones come first in the order of what is dirty.
        let dirty = self.dirty.first().is_some_and(|(class, _)| *class == Class::Local);
        let in_flight = self.in_flight_local && !self.in_flight.is_empty();
        let failed = self.failed_local && !self.failed.is_empty();
        !dirty && !in_flight && !failed
    }

    /// What is wrong with the routes now.
    pub(crate) fn problems(&self, problems: &mut Vec<String>) {
        for (address, interface) in &self.pods {
            if matches!(self.wish(*address), Wish::Unusable) {
                problems
                    .push(format!("no route to pod address {}: interface {interface} is down or gone", address.addr()));
            }
        }
        let unreachable: BTreeSet<IpAddr> =
            self.resolved.iter().filter(|(_, target)| target.is_none()).map(|(next_hop, _)| *next_hop).collect();
        for next_hop in unreachable {
            if self.bgp.values().any(|hops| hops.first() == Some(&next_hop)) {
                problems.push(format!("BGP next hop {next_hop} is not reachable: the node has no route to it"));
            }
        }
        for (destination, reason) in self.failed.iter().take(10) {
            problems.push(format!("route {destination}: {reason}; it will be tried again"));
        }
        if self.failed.len() > 10 {
            problems.push(format!("{} further routes failed", self.failed.len() - 10));
        }
    }

    /// All routes that are wanted or ours, with their state.
    pub(crate) fn view(&self) -> Vec<RouteView> {
        let mut destinations: BTreeSet<IpNet> = self.own.keys().map(|key| key.0).collect();
        destinations.extend(self.pods.keys());
        destinations.extend(&self.blocks);
        destinations.extend(self.bgp.keys());
        destinations.into_iter().map(|destination| self.view_of(destination)).collect()
    }

    fn view_of(&self, destination: IpNet) -> RouteView {
        let there = self
            .own
            .get(&(destination, ROUTE_METRIC))
            .or_else(|| self.own.range((destination, 0)..=(destination, u32::MAX)).next().map(|(_, target)| target));
        let source = if self.pods.contains_key(&destination) {
            RouteSource::LocalPod
        } else if self.blocks.contains(&destination) {
            RouteSource::LocalBlock
        } else {
            RouteSource::Bgp
        };
        let (wanted, state) = match self.wish(destination) {
            Wish::Route(target) => {
                let state = match there {
                    _ if self.foreign.wins(destination, ROUTE_METRIC).is_some() => RouteState::Foreign,
                    Some(present) if *present == target && self.settled(destination) => RouteState::Present,
                    Some(present) if *present != target => RouteState::Wrong,
                    _ => RouteState::Missing,
                };
                (Some(target), state)
            }
            Wish::Unusable => (None, RouteState::Missing),
            Wish::Nothing if self.stale.contains(&destination) => (there.cloned(), RouteState::Present),
            Wish::Nothing => (there.cloned(), RouteState::Wrong),
        };
        let (mut via, mut name) = (None, String::new());
        match &wanted {
            Some(Target::Device { index }) => name = self.device_name(*index),
            Some(Target::Via { gateway, index }) => {
                via = Some(*gateway);
                name = self.device_name(*index);
            }
            Some(Target::Blackhole) => "blackhole".clone_into(&mut name),
            Some(Target::Other(text)) => name.clone_from(text),
            None => {
                via = self.bgp.get(&destination).and_then(|hops| hops.first().copied());
                name = self.pods.get(&destination).cloned().unwrap_or_default();
            }
        }
        let protocol = match self.foreign.wins(destination, ROUTE_METRIC) {
            Some(foreign) if state == RouteState::Foreign => foreign.protocol,
            _ => ROUTE_PROTOCOL,
        };
        RouteView { destination, via, device: name, protocol, source, state }
    }

    fn device_name(&self, index: u32) -> String {
        self.links.get(&index).map_or_else(|| format!("if{index}"), |link| link.name.clone())
    }
}

/// Whether the kernel takes the gateway for the destination: IPv4 may go by an IPv6 gateway (RFC 8950), but not the other way round.
const fn can_lead_to(target: &Target, destination: IpNet) -> bool {
    !matches!((destination, target), (IpNet::V6(_), Target::Via { gateway: IpAddr::V4(_), .. }))
}

/// The device that a route leads out of.
pub(crate) const fn device(target: &Target) -> Option<u32> {
    match target {
        Target::Device { index } | Target::Via { index, .. } => Some(*index),
        Target::Blackhole | Target::Other(_) => None,
    }
}
