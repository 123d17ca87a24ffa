//! Routes through overlays: to which destinations one leads, and when it may.
//!
//! A destination of another node is known by BGP, or as a block (or a single address) that the datastore says is that node's. Either
//! way the next hop is the node, and [`Ways`] says whether packets to it are encapsulated. Until everything is ready that takes - this
//! node's device, the other node's address in it, and that in the tables of the kernel - the route that is there stays as it is: so a
//! pool moves from one way to another node by node, and nothing is lost in between.

use std::net::IpAddr;

use ipnet::IpNet;
use rustc_hash::{FxHashMap, FxHashSet};
use tortie_api::calico::Tunnel;

use super::{Routes, Wish};
use crate::event::Target;
use crate::overlays::{Way, Ways};

impl Routes {
    /// The next hops of a destination: the node that has it as the datastore says, else those of BGP.
    pub(super) fn next_hops(&self, destination: &IpNet) -> Option<&[IpAddr]> {
        let remote = self.remote.get(destination).map(std::slice::from_ref);
        remote.or_else(|| self.bgp.get(destination).map(|hops| &**hops))
    }

    /// All destinations of other nodes, with their next hops.
    pub(super) fn all_next_hops(&self) -> impl Iterator<Item = (&IpNet, &[IpAddr])> {
        let by_bgp = self.bgp.iter().filter(|(destination, _)| !self.remote.contains_key(*destination));
        let remote = self.remote.iter().map(|(destination, node)| (destination, std::slice::from_ref(node)));
        remote.chain(by_bgp.map(|(destination, hops)| (destination, &**hops)))
    }

    /// Whether a destination is another node's.
    pub(super) fn is_elsewhere(&self, destination: &IpNet) -> bool {
        self.ends.contains(destination) || self.next_hops(destination).is_some()
    }

    /// Replaces what the datastore says of other nodes: which addresses each has.
    pub(crate) fn set_remote(&mut self, remote: FxHashMap<IpNet, IpAddr>) {
        let before = std::mem::replace(&mut self.remote, remote);
        let nodes: Vec<IpAddr> = self.remote.values().copied().collect();
        for node in nodes {
            self.learn_next_hop(node);
        }
        let gone = before.keys().filter(|destination| !self.remote.contains_key(*destination));
        let changed = self.remote.iter().filter(|(destination, node)| before.get(*destination) != Some(*node));
        let dirty: Vec<IpNet> = gone.copied().chain(changed.map(|(destination, _)| *destination)).collect();
        for destination in &dirty {
            self.stale.remove(destination);
        }
        self.mark_all(dirty);
    }

    /// From now on these are the ways to other nodes.
    pub(crate) fn set_ways(&mut self, ways: Ways) {
        if self.ways == ways {
            return;
        }
        let before = std::mem::replace(&mut self.ways, ways);
        let affected = self.all_next_hops().filter(|(destination, hops)| {
            hops.iter().any(|hop| before.way(destination, *hop) != self.ways.way(destination, *hop))
        });
        let mut affected: Vec<IpNet> = affected.map(|(destination, _)| *destination).collect();
        // IPv6 takes a gateway for one behind a device only if no route says otherwise; and until a moment ago the route of the block
        // that the end is in may have led elsewhere. So an end has a route of its own there, which is written first.
        let ends: FxHashSet<IpNet> = self.ways.ends().filter(IpAddr::is_ipv6).map(IpNet::from).collect();
        let before = std::mem::replace(&mut self.ends, ends);
        affected.extend(self.ends.symmetric_difference(&before));
        self.mark_all(affected);
    }

    /// Takes note of the ends of overlays whose devices are as they should be, each with the other nodes' ends in its tables.
    pub(crate) fn set_ready(&mut self, ready: FxHashMap<Tunnel, FxHashSet<IpAddr>>) {
        if self.ready != ready {
            self.ready = ready;
            self.mark_encapsulated();
        }
    }

    /// Marks what an overlay may lead to.
    pub(super) fn mark_encapsulated(&mut self) {
        let through = self.all_next_hops().filter(|(destination, _)| self.ways.tunnel(destination).is_some());
        let through: Vec<IpNet> = through.map(|(destination, _)| *destination).collect();
        self.mark_all(through);
        self.mark_all(self.ends.iter().copied().collect());
    }

    /// Whether an interface is this node's end of an overlay.
    pub(super) fn is_end(name: &str) -> bool {
        Tunnel::ALL.iter().any(|tunnel| tunnel.device() == name)
    }

    /// Whether the node has devices of the names that ends have, whosever they are.
    pub(crate) fn has_ends(&self) -> bool {
        Tunnel::ALL.iter().any(|tunnel| self.by_name.contains_key(tunnel.device()))
    }

    /// Whether a node is in a subnet of this node's: no gateway is between them.
    fn is_near(&self, node: IpAddr) -> bool {
        matches!(self.resolved.get(&node), Some(Ok(Target::Via { gateway, .. })) if *gateway == node)
    }

    /// The device of this node's end, if that is up.
    fn end(&self, tunnel: Tunnel) -> Option<u32> {
        self.by_name.get(tunnel.device()).copied().filter(|index| self.is_up(*index))
    }

    /// Whether the tables of this node's end have another's.
    fn is_ready(&self, tunnel: Tunnel, end: IpAddr) -> bool {
        self.ready.get(&tunnel).is_some_and(|ends| tunnel == Tunnel::Ipip || ends.contains(&end))
    }

    /// Where the route to another node's end leads that has one.
    pub(super) fn to_end(&self, end: IpAddr) -> Wish {
        match self.end(Tunnel::VxlanV6) {
            Some(index) if self.is_ready(Tunnel::VxlanV6, end) => Wish::Route(Target::device(index)),
            _ => Wish::Wait,
        }
    }

    /// Where a route to other nodes leads.
    pub(super) fn by_way(&self, destination: IpNet, next_hops: &[IpAddr]) -> Wish {
        for next_hop in next_hops {
            let (tunnel, gateway, unless_near) = match self.ways.way(&destination, *next_hop) {
                Way::Plain => continue,
                Way::Through { tunnel, gateway, unless_near } => (tunnel, Some(gateway), unless_near),
                Way::Unknown { tunnel, unless_near } => (tunnel, None, unless_near),
            };
            if unless_near && self.is_near(*next_hop) {
                continue;
            }
            let gateway = gateway.filter(|gateway| self.is_ready(tunnel, *gateway));
            return match (gateway, self.end(tunnel)) {
                (Some(gateway), Some(index)) => Wish::Route(Target::Onlink { gateway, index }),
                _ => Wish::Wait,
            };
        }
        self.by_next_hops(destination, next_hops).map_or(Wish::Unusable, Wish::Route)
    }

    /// What a route through an overlay waits for.
    pub(super) fn waits_for(&self, destination: &IpNet) -> String {
        let next_hop = self.next_hops(destination).and_then(|hops| hops.first().copied());
        let (Some(tunnel), Some(next_hop)) = (self.ways.tunnel(destination), next_hop) else {
            return "this node's end of the overlay is not ready yet".to_owned();
        };
        match self.ways.way(destination, next_hop) {
            Way::Unknown { .. } => {
                format!("node {next_hop} has not told the address of its end of {} yet", tunnel.as_str())
            }
            _ => format!("this node's end of {} ({}) is not ready yet", tunnel.as_str(), tunnel.device()),
        }
    }
}
