//! Other people's routes, and how a BGP next hop is reached through them.
//!
//! A next hop is resolved recursively, as BIRD's `gateway recursive` does it, but never through a route of ours: routes that carry pods
//! must not carry the sessions that announce them. What is on-link is the gateway itself; else the gateways of the most specific
//! route are, the default route included, all of them where it has several.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::event::{Route, Target};

/// One route of somebody else's, in few bytes: a node that carries a fabric's routes has many.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    target: Target,
    protocol: u8,
}

impl Entry {
    fn route(&self, (destination, metric, _): &(IpNet, u32, u32)) -> Route {
        Route { destination: *destination, target: self.target.clone(), protocol: self.protocol, metric: *metric }
    }
}

/// A target without what concerns only the node's own packets.
fn plain(target: Target) -> Target {
    match target {
        Target::Device { index, .. } => Target::device(index),
        target => target,
    }
}

/// The main table without our own routes.
#[derive(Debug, Default)]
pub(crate) struct Foreign {
    /// By destination, metric, and place among those that have both the same: two interfaces in one subnet.
    routes: BTreeMap<(IpNet, u32, u32), Entry>,
}

/// Why a next hop is of no use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unreachable {
    /// It is this node.
    Own,
    /// No route leads to it.
    NoRoute,
    /// The most specific route to it leads nowhere that a packet could be sent to.
    DeadEnd(IpNet),
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own => f.write_str("it is this node's own address"),
            Self::NoRoute => f.write_str("the node has no route to it"),
            Self::DeadEnd(route) => write!(f, "the node's route to it, {route}, leads nowhere"),
        }
    }
}

impl Foreign {
    /// Whether the destination can matter to us. Link-local ones exist once an interface and lead no packet of a pod anywhere.
    fn matters(destination: IpNet) -> bool {
        match destination.addr() {
            IpAddr::V4(_) => true,
            IpAddr::V6(address) => !address.is_unicast_link_local() && !address.is_multicast(),
        }
    }

    /// All routes to a destination.
    pub(crate) fn of(&self, destination: IpNet) -> impl Iterator<Item = Route> {
        let routes = self.routes.range((destination, 0, 0)..=(destination, u32::MAX, u32::MAX));
        routes.map(|(key, entry)| entry.route(key))
    }

    /// All routes.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Route> {
        self.routes.iter().map(|(key, entry)| entry.route(key))
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.routes.clear();
    }

    /// Whether there is none, as before the first read-back.
    pub(crate) fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    fn with(&self, destination: IpNet, metric: u32) -> impl Iterator<Item = (&(IpNet, u32, u32), &Entry)> {
        self.routes.range((destination, metric, 0)..=(destination, metric, u32::MAX))
    }

    /// Takes a route that was read.
    pub(crate) fn insert(&mut self, route: Route) {
        if !Self::matters(route.destination) {
            return;
        }
        let Route { destination, target, protocol, metric } = route;
        let entry = Entry { target: plain(target), protocol };
        let place = match self.with(destination, metric).last() {
            Some(((_, _, place), _)) if self.with(destination, metric).all(|(_, other)| *other != entry) => place + 1,
            Some(_) => return,
            None => 0,
        };
        self.routes.insert((destination, metric, place), entry);
    }

    /// Takes a route that the kernel announced. False when it stands beside another of the same destination and metric: the
    /// announcement does not say whether it replaced that one, so the table has to be read again.
    pub(crate) fn announce(&mut self, route: Route) -> bool {
        let (destination, metric) = (route.destination, route.metric);
        self.insert(route);
        self.with(destination, metric).count() <= 1
    }

    /// Takes a route away. False when it was not quite the one that is known: the table has to be read again.
    pub(crate) fn remove(&mut self, route: &Route) -> bool {
        let target = plain(route.target.clone());
        let alike = || self.with(route.destination, route.metric);
        let gone = if alike().count() == 1 {
            // Alone it is that one, whatever became of it meanwhile.
            alike().next()
        } else {
            alike().find(|(_, entry)| entry.target == target && entry.protocol == route.protocol)
        };
        let gone = gone.map(|(key, _)| *key);
        let Some(key) = gone else { return !Self::matters(route.destination) };
        self.routes.remove(&key).is_some_and(|entry| entry.target == target)
    }

    /// Forgets the routes of a device that went down: the kernel drops them, those of IPv4 without announcing it. One with several
    /// next hops stays, and uses the others, unless the device is gone.
    pub(crate) fn device_down(&mut self, index: u32, removed: bool) {
        self.routes.retain(|_, entry| {
            let several = matches!(entry.target, Target::Multipath(_)) && !removed;
            several || !entry.target.devices().any(|device| device == index)
        });
    }

    /// The protocol and metric of the route of somebody else that is in force for exactly this destination, against one of ours with
    /// `metric`.
    pub(crate) fn wins(&self, destination: IpNet, metric: u32) -> Option<(u8, u32)> {
        let mut better = self.routes.range((destination, 0, 0)..=(destination, metric, u32::MAX));
        better.next().map(|((_, metric, _), entry)| (entry.protocol, *metric))
    }

    /// Whether somebody else's route stands in the very place of ours, so that writing ours would replace it.
    pub(crate) fn occupies(&self, destination: IpNet, metric: u32) -> bool {
        self.with(destination, metric).next().is_some()
    }

    /// How a next hop is reached: itself if it is on-link, else through the gateways of the most specific route to it. Devices that are
    /// not up carry nothing.
    pub(crate) fn resolve(&self, next_hop: IpAddr, is_up: impl Fn(u32) -> bool) -> Result<Target, Unreachable> {
        let longest = if next_hop.is_ipv4() { 32 } else { 128 };
        for length in (0..=longest).rev() {
            let Ok(destination) = IpNet::new(next_hop, length) else { continue };
            let destination = destination.trunc();
            let mut alive = self
                .routes
                .range((destination, 0, 0)..=(destination, u32::MAX, u32::MAX))
                .filter(|(_, entry)| {
                    let mut devices = entry.target.devices().peekable();
                    devices.peek().is_none() || devices.any(&is_up)
                })
                .map(|(_, entry)| &entry.target);
            let Some(target) = alive.next() else { continue };
            return match target {
                Target::Device { index, .. } => Ok(Target::Via { gateway: next_hop, index: *index }),
                Target::Via { .. } | Target::Onlink { .. } => Ok(target.clone()),
                Target::Multipath(hops) => {
                    Ok(Target::multipath(hops.iter().copied().filter(|(_, index)| is_up(*index)).collect()))
                }
                Target::Blackhole | Target::Other(_) => Err(Unreachable::DeadEnd(destination)),
            };
        }
        Err(Unreachable::NoRoute)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(destination: &str, target: Target, metric: u32) -> Route {
        Route { destination: destination.parse().expect("a prefix"), target, protocol: 2, metric }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn via(gateway: &str, index: u32) -> Target {
        Target::Via { gateway: ip(gateway), index }
    }

    fn resolve(foreign: &Foreign, next_hop: &str) -> Result<Target, Unreachable> {
        foreign.resolve(ip(next_hop), |index| index < 10)
    }

    #[test]
    fn resolves_on_link_through_a_gateway_and_not_at_all() {
        let mut foreign = Foreign::default();
        assert_eq!(resolve(&foreign, "172.31.0.2"), Err(Unreachable::NoRoute));
        foreign.insert(route("172.31.0.0/24", Target::device(2), 0));
        foreign.insert(route("0.0.0.0/0", via("172.31.0.1", 2), 0));
        assert_eq!(resolve(&foreign, "172.31.0.2"), Ok(via("172.31.0.2", 2)));
        assert_eq!(resolve(&foreign, "172.31.1.2"), Ok(via("172.31.0.1", 2)));
        let hole = route("172.31.1.0/24", Target::Blackhole, 0);
        foreign.insert(hole.clone());
        assert_eq!(resolve(&foreign, "172.31.1.2"), Err(Unreachable::DeadEnd(hole.destination)));
        assert_eq!(resolve(&foreign, "fd00::1"), Err(Unreachable::NoRoute));
        foreign.insert(route("fd00::/64", Target::device(2), 256));
        assert_eq!(resolve(&foreign, "fd00::1"), Ok(via("fd00::1", 2)));
        foreign.insert(route("fe80::/64", Target::device(2), 256));
        assert_eq!(resolve(&foreign, "fe80::1"), Err(Unreachable::NoRoute), "which link is unknown");
    }

    #[test]
    fn resolves_through_several_gateways_and_those_that_are_only_on_the_link() {
        let mut foreign = Foreign::default();
        let onlink = Target::Onlink { gateway: ip("169.254.0.1"), index: 2 };
        foreign.insert(route("0.0.0.0/0", onlink.clone(), 0));
        assert_eq!(resolve(&foreign, "192.0.2.1"), Ok(onlink));
        let hops = vec![(ip("172.16.0.1"), 2), (ip("172.17.0.1"), 3), (ip("172.18.0.1"), 11)];
        foreign.insert(route("192.0.0.0/8", Target::multipath(hops.clone()), 0));
        let two = Target::multipath(hops[..2].to_vec());
        assert_eq!(resolve(&foreign, "192.0.2.1"), Ok(two), "a device that is not up carries nothing");
        foreign.device_down(3, false);
        assert_eq!(foreign.resolve(ip("192.0.2.1"), |index| index == 2), Ok(via("172.16.0.1", 2)));
        let none = foreign.resolve(ip("192.0.2.1"), |_| false);
        assert_eq!(none, Err(Unreachable::NoRoute), "nor does the default route");
        foreign.device_down(3, true);
        assert_eq!(resolve(&foreign, "192.0.2.1"), Ok(Target::Onlink { gateway: ip("169.254.0.1"), index: 2 }));
    }

    #[test]
    fn the_lower_metric_is_in_force() {
        let mut foreign = Foreign::default();
        foreign.insert(route("10.0.0.0/8", via("172.31.0.9", 3), 100));
        foreign.insert(route("10.0.0.0/8", via("172.31.0.1", 2), 50));
        assert_eq!(resolve(&foreign, "10.1.1.1"), Ok(via("172.31.0.1", 2)));
        let destination = "10.0.0.0/8".parse().expect("a prefix");
        assert_eq!(foreign.wins(destination, 1024), Some((2, 50)));
        assert!(foreign.wins(destination, 10).is_none());
        assert!(foreign.occupies(destination, 50) && !foreign.occupies(destination, 1024));
    }

    #[test]
    fn two_interfaces_in_one_subnet_are_two_routes() {
        let mut foreign = Foreign::default();
        let (first, second) =
            (route("172.31.0.0/24", Target::device(2), 0), route("172.31.0.0/24", Target::device(3), 0));
        assert!(foreign.announce(first.clone()));
        assert!(foreign.announce(first.clone()), "the same again is no news");
        assert!(!foreign.announce(second.clone()), "added or replaced? nobody knows");
        assert!(foreign.remove(&first));
        assert_eq!(resolve(&foreign, "172.31.0.7"), Ok(via("172.31.0.7", 3)));
        assert!(foreign.remove(&second) && !foreign.remove(&second));
        assert_eq!(resolve(&foreign, "172.31.0.7"), Err(Unreachable::NoRoute));
    }
}
