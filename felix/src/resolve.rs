//! Other people's routes, and how a BGP next hop is reached through them.
//!
//! A next hop is resolved recursively, as `gateway recursive` does it, but never through a route of ours: routes that carry pods must
//! not carry the sessions that announce them. What is on-link is the gateway itself; else the gateway of the most specific route is.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::event::{Route, Target};

/// The main table without our own routes.
#[derive(Debug, Default)]
pub(crate) struct Foreign {
    /// By destination and metric. Several where the kernel has several: two interfaces in one subnet.
    routes: BTreeMap<(IpNet, u32), Vec<Route>>,
}

impl Foreign {
    /// Whether the destination can matter to us. Link-local ones exist once an interface and lead no packet of a pod anywhere.
    fn matters(destination: IpNet) -> bool {
        match destination.addr() {
            IpAddr::V4(_) => true,
            IpAddr::V6(address) => !address.is_unicast_link_local() && !address.is_multicast(),
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.routes.clear();
    }

    /// Takes a route that was read.
    pub(crate) fn insert(&mut self, route: Route) {
        if Self::matters(route.destination) {
            let list = self.routes.entry((route.destination, route.metric)).or_default();
            if !list.contains(&route) {
                list.push(route);
            }
        }
    }

    /// Takes a route that the kernel announced. False when it stands beside another of the same destination and metric: the
    /// announcement does not say whether it replaced that one, so the table has to be read again.
    pub(crate) fn announce(&mut self, route: Route) -> bool {
        let key = (route.destination, route.metric);
        self.insert(route);
        self.routes.get(&key).is_none_or(|list| list.len() <= 1)
    }

    /// Takes a route away.
    pub(crate) fn remove(&mut self, route: &Route) {
        let key = (route.destination, route.metric);
        if let Some(list) = self.routes.get_mut(&key) {
            if list.len() == 1 {
                list.clear();
            } else {
                list.retain(|other| other != route);
            }
            if list.is_empty() {
                self.routes.remove(&key);
            }
        }
    }

    /// Forgets the routes of a device that went down: the kernel drops them, those of IPv4 without announcing it. Returns whether
    /// there were any.
    pub(crate) fn device_down(&mut self, index: u32) -> bool {
        let mut any = false;
        self.routes.retain(|_, list| {
            let before = list.len();
            list.retain(|route| crate::routes::device(&route.target) != Some(index));
            any |= list.len() != before;
            !list.is_empty()
        });
        any
    }

    /// The route of somebody else that is in force for exactly this destination, against one of ours with `metric`.
    pub(crate) fn wins(&self, destination: IpNet, metric: u32) -> Option<&Route> {
        self.routes.range((destination, 0)..=(destination, metric)).next().and_then(|(_, list)| list.first())
    }

    /// Whether somebody else's route stands in the very place of ours, so that writing ours would replace it.
    pub(crate) fn occupies(&self, destination: IpNet, metric: u32) -> bool {
        self.routes.contains_key(&(destination, metric))
    }

    /// How a next hop is reached: itself if it is on-link, else through the gateway of the most specific route to it.
    pub(crate) fn resolve(&self, next_hop: IpAddr) -> Option<Target> {
        let longest = if next_hop.is_ipv4() { 32 } else { 128 };
        let list = (0..=longest).rev().find_map(|length| {
            let destination = IpNet::new(next_hop, length).ok()?.trunc();
            self.routes.range((destination, 0)..=(destination, u32::MAX)).next().map(|(_, list)| list)
        })?;
        list.iter().find_map(|route| match route.target {
            Target::Device { index } => Some(Target::Via { gateway: next_hop, index }),
            Target::Via { gateway, index } => Some(Target::Via { gateway, index }),
            Target::Blackhole | Target::Other(_) => None,
        })
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

    #[test]
    fn resolves_on_link_through_a_gateway_and_not_at_all() {
        let mut foreign = Foreign::default();
        assert_eq!(foreign.resolve(ip("172.31.0.2")), None);
        foreign.insert(route("172.31.0.0/24", Target::Device { index: 2 }, 0));
        foreign.insert(route("0.0.0.0/0", via("172.31.0.1", 2), 0));
        assert_eq!(foreign.resolve(ip("172.31.0.2")), Some(via("172.31.0.2", 2)));
        assert_eq!(foreign.resolve(ip("172.31.1.2")), Some(via("172.31.0.1", 2)));
        foreign.insert(route("172.31.1.0/24", Target::Blackhole, 0));
        assert_eq!(foreign.resolve(ip("172.31.1.2")), None);
        assert_eq!(foreign.resolve(ip("fd00::1")), None);
        foreign.insert(route("fd00::/64", Target::Device { index: 2 }, 256));
        assert_eq!(foreign.resolve(ip("fd00::1")), Some(via("fd00::1", 2)));
        foreign.insert(route("fe80::/64", Target::Device { index: 2 }, 256));
        assert_eq!(foreign.resolve(ip("fe80::1")), None, "which link is unknown");
    }

    #[test]
    fn the_lower_metric_is_in_force() {
        let mut foreign = Foreign::default();
        foreign.insert(route("10.0.0.0/8", via("172.31.0.9", 3), 100));
        foreign.insert(route("10.0.0.0/8", via("172.31.0.1", 2), 50));
        assert_eq!(foreign.resolve(ip("10.1.1.1")), Some(via("172.31.0.1", 2)));
        let destination = "10.0.0.0/8".parse().expect("a prefix");
        assert_eq!(foreign.wins(destination, 1024).map(|route| route.metric), Some(50));
        assert!(foreign.wins(destination, 10).is_none());
        assert!(foreign.occupies(destination, 50) && !foreign.occupies(destination, 1024));
    }

    #[test]
    fn two_interfaces_in_one_subnet_are_two_routes() {
        let mut foreign = Foreign::default();
        let (first, second) = (
            route("172.31.0.0/24", Target::Device { index: 2 }, 0),
            route("172.31.0.0/24", Target::Device { index: 3 }, 0),
        );
        assert!(foreign.announce(first.clone()));
        assert!(foreign.announce(first.clone()), "the same again is no news");
        assert!(!foreign.announce(second.clone()), "added or replaced? nobody knows");
        foreign.remove(&first);
        assert_eq!(foreign.resolve(ip("172.31.0.7")), Some(via("172.31.0.7", 3)));
        foreign.remove(&second);
        assert_eq!(foreign.resolve(ip("172.31.0.7")), None);
    }
}
