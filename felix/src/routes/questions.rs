//! What others ask of the routes: whether a pod's is there, what is wrong, and all of them for `tortie routes`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Class, Routes, Wish, can_lead_to};
use crate::event::Target;
use crate::view::{RouteSource, RouteState, RouteView};

/// At most this many problems of one kind are told one by one.
const TOLD: usize = 10;

impl Routes {
    /// Whether a destination is as wanted, and no write to it is under way.
    fn settled(&self, destination: IpNet) -> bool {
        !self.in_flight.contains(&destination)
            && !self.dirty.contains(&(Class::Local, destination))
            && !self.dirty.contains(&(Class::End, destination))
            && !self.dirty.contains(&(Class::Bgp, destination))
    }

    /// Whether a pod's address is routed: in the kernel, and not merely handed out. `Some(Err)` when the kernel refused.
    pub(crate) fn pod_routed(&self, address: IpAddr) -> Option<Result<(), String>> {
        if self.disabled {
            return Some(Ok(()));
        }
        let destination = IpNet::from(address);
        if let Some(failed) = self.failed.get(&destination) {
            return Some(Err(format!("the route to {address}: {}", failed.reason)));
        }
        if let Some((protocol, _)) = self.foreign.wins(destination, self.key(destination).1) {
            return Some(Err(format!(
                "somebody else's route to {address} (protocol {protocol}) is in the way; delete it or give the pod another address"
            )));
        }
        let present = matches!(self.own.get(self.key(destination)), Some(Target::Device { .. }));
        (present && self.settled(destination)).then_some(Ok(()))
    }

    /// Whether no route of ours leads to an address out of an interface any more.
    pub(crate) fn pod_unrouted(&self, address: IpAddr) -> bool {
        let destination = IpNet::from(address);
        let there = self.own.get(self.key(destination));
        self.disabled
            || self.pods.contains_key(&destination)
            || (self.settled(destination) && !matches!(there, Some(Target::Device { .. })))
    }

    /// Whether the routes of pods and blocks are as wanted, as far as they can be: a pod whose interface is gone counts as done.
    /// Asked after every event, so it must not look at every route.
    pub(crate) fn local_settled(&self) -> bool {
        // Local ones come first in the order of what is dirty.
        let dirty = self.dirty.first().is_some_and(|(class, _)| *class == Class::Local);
        let in_flight = self.in_flight_local && !self.in_flight.is_empty();
        let failed = self.failed_local && !self.failed.is_empty();
        self.disabled || (!dirty && !in_flight && !failed)
    }

    /// What is wrong with the routes now.
    pub(crate) fn problems(&self, problems: &mut Vec<String>) {
        if self.disabled {
            return;
        }
        for (address, interface) in &self.pods {
            if matches!(self.wish(*address), Wish::Unusable) {
                let state = self.interface_state(interface);
                problems.push(format!("no route to pod address {}: interface {interface} {state}", address.addr()));
            }
        }
        let unreachable: BTreeSet<IpAddr> =
            self.resolved.iter().filter(|(_, target)| target.is_err()).map(|(next_hop, _)| *next_hop).collect();
        let in_use: BTreeSet<IpAddr> = if unreachable.is_empty() {
            BTreeSet::new()
        } else {
            self.all_next_hops()
                .flat_map(|(_, hops)| hops.iter().copied())
                .filter(|hop| unreachable.contains(hop))
                .collect()
        };
        for next_hop in in_use.iter().take(TOLD) {
            if let Some(Err(reason)) = self.resolved.get(next_hop) {
                problems.push(format!("BGP next hop {next_hop} is not reachable: {reason}"));
            }
        }
        if in_use.len() > TOLD {
            problems.push(format!("{} further BGP next hops are not reachable", in_use.len() - TOLD));
        }
        for (destination, failed) in self.failed.iter().take(TOLD) {
            problems.push(format!("route {destination}: {}; it will be tried again", failed.reason));
        }
        if self.failed.len() > TOLD {
            problems.push(format!("{} further routes failed", self.failed.len() - TOLD));
        }
    }

    /// Whether a destination is as wanted in the kernel, as far as it can be.
    pub(crate) fn as_wanted(&self, destination: IpNet) -> bool {
        let there = self.own.get(self.key(destination));
        self.settled(destination)
            && !self.failed.contains_key(&destination)
            && match self.wish(destination) {
                Wish::Route(target) => {
                    there == Some(&target) && self.foreign.wins(destination, self.key(destination).1).is_none()
                }
                Wish::Unusable => there.is_none(),
                Wish::Wait => true,
                Wish::Nothing => there.is_none() || self.stale.contains(&destination),
            }
    }

    /// How many routes of ours the kernel has, IPv4 and IPv6.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let ipv4 = self.own.iter().filter(|((destination, _), _)| matches!(destination, IpNet::V4(_))).count();
        (ipv4, self.own.iter().count() - ipv4)
    }

    /// How many routes failed.
    pub(crate) fn failures(&self) -> usize {
        self.failed.len()
    }

    /// How many interfaces there are.
    pub(crate) fn links(&self) -> usize {
        self.links.len()
    }

    /// All routes that are wanted or ours, with their state.
    pub(crate) fn view(&self) -> Vec<RouteView> {
        let mut destinations: BTreeSet<IpNet> = self.own.iter().map(|(key, _)| key.0).collect();
        destinations.extend(self.wanted());
        destinations.into_iter().map(|destination| self.view_of(destination)).collect()
    }

    fn view_of(&self, destination: IpNet) -> RouteView {
        let there =
            self.own.get(self.key(destination)).or_else(|| self.own.of(destination).next().map(|(_, target)| target));
        let source = if self.pods.contains_key(&destination) {
            RouteSource::LocalPod
        } else if self.blocks.contains(&destination) {
            RouteSource::LocalBlock
        } else if self.remote.contains_key(&destination) || self.leads_through(destination) {
            RouteSource::Tunnel
        } else {
            RouteSource::Bgp
        };
        let foreign = self.foreign.wins(destination, self.key(destination).1);
        let (wanted, state) = match self.wish(destination) {
            Wish::Route(target) => {
                let state = match there {
                    _ if foreign.is_some() => RouteState::Foreign,
                    Some(present) if *present == target && self.settled(destination) => RouteState::Present,
                    Some(present) if *present != target => RouteState::Wrong,
                    _ => RouteState::Missing,
                };
                (Some(target), state)
            }
            Wish::Unusable => (None, RouteState::Missing),
            Wish::Wait if there.is_none() => (None, RouteState::Missing),
            Wish::Nothing if self.stale.contains(&destination) => (there.cloned(), RouteState::Present),
            Wish::Wait | Wish::Nothing => (there.cloned(), RouteState::Wrong),
        };
        let (mut via, mut device) = (None, String::new());
        let next_hops: Vec<(IpAddr, String)> =
            wanted.iter().flat_map(Target::hops).map(|(gateway, index)| (gateway, self.device_name(index))).collect();
        match &wanted {
            Some(Target::Device { index, .. }) => device = self.device_name(*index),
            Some(Target::Via { .. } | Target::Onlink { .. } | Target::Multipath(_)) => {
                if let Some((gateway, name)) = next_hops.first() {
                    via = Some(*gateway);
                    device.clone_from(name);
                }
            }
            Some(Target::Blackhole) => "blackhole".clone_into(&mut device),
            Some(Target::Other(text)) => device.clone_from(text),
            None => {
                via = self.next_hops(&destination).and_then(|hops| hops.first().copied());
                device = self.pods.get(&destination).cloned().unwrap_or_default();
            }
        }
        let protocol =
            foreign.filter(|_| state == RouteState::Foreign).map_or(self.settings.protocol, |(protocol, _)| protocol);
        let reason = self.reason(destination, state, there);
        let next_hops = if next_hops.len() > 1 { next_hops } else { Vec::new() };
        RouteView { destination, via, device, next_hops, protocol, source, state, reason }
    }

    /// Why a route is not as wanted.
    fn reason(&self, destination: IpNet, state: RouteState, there: Option<&Target>) -> Option<String> {
        if let Some(failed) = self.failed.get(&destination) {
            return Some(format!("{}; it will be tried again", failed.reason));
        }
        match state {
            RouteState::Present => None,
            RouteState::Foreign => self.foreign.wins(destination, self.key(destination).1).map(|(protocol, metric)| {
                format!("a route of protocol {protocol} with metric {metric} is in force; ours follows when it is gone")
            }),
            RouteState::Wrong if matches!(self.wish(destination), Wish::Nothing) => {
                Some("nothing wants it; it is being deleted".to_owned())
            }
            RouteState::Wrong | RouteState::Missing if matches!(self.wish(destination), Wish::Wait) => {
                Some(self.waits_for(&destination))
            }
            RouteState::Wrong => {
                Some(format!("the kernel has {}", there.map_or_else(String::new, |there| self.text(there))))
            }
            RouteState::Missing => Some(self.why_missing(destination)),
        }
    }

    fn why_missing(&self, destination: IpNet) -> String {
        if let Some(interface) = self.pods.get(&destination)
            && matches!(self.wish(destination), Wish::Unusable)
        {
            return format!("interface {interface} {}", self.interface_state(interface));
        }
        let next_hops = self.next_hops(&destination).unwrap_or_default();
        let reasons = next_hops.iter().filter_map(|next_hop| match self.resolved.get(next_hop) {
            Some(Err(reason)) => Some(format!("next hop {next_hop}: {reason}")),
            Some(Ok(target)) if target.hops().all(|(gateway, _)| !can_lead_to(gateway, destination)) => {
                Some(format!("next hop {next_hop}: an IPv6 destination cannot have an IPv4 gateway"))
            }
            _ => None,
        });
        let reasons: Vec<String> = reasons.collect();
        if reasons.is_empty() || !matches!(self.wish(destination), Wish::Unusable) {
            "it is being written".to_owned()
        } else {
            reasons.join("; ")
        }
    }

    /// Whether a destination's route leads through an overlay.
    fn leads_through(&self, destination: IpNet) -> bool {
        match self.wish(destination) {
            Wish::Wait => true,
            Wish::Route(Target::Onlink { index, .. } | Target::Device { index, .. }) => {
                self.links.get(&index).is_some_and(|link| Self::is_end(&link.name))
            }
            _ => false,
        }
    }

    fn interface_state(&self, interface: &str) -> &'static str {
        if self.by_name.contains_key(interface) { "is down" } else { "does not exist" }
    }

    /// A target as `ip route` prints it.
    pub(super) fn text(&self, target: &Target) -> String {
        match target {
            Target::Device { index, source: None } => format!("dev {}", self.device_name(*index)),
            Target::Device { index, source: Some(source) } => format!("dev {} src {source}", self.device_name(*index)),
            Target::Via { gateway, index } => format!("via {gateway} dev {}", self.device_name(*index)),
            Target::Onlink { gateway, index } => format!("via {gateway} dev {} onlink", self.device_name(*index)),
            Target::Multipath(hops) => {
                let hops: Vec<String> = hops
                    .iter()
                    .map(|(gateway, index)| format!("nexthop via {gateway} dev {}", self.device_name(*index)))
                    .collect();
                hops.join(" ")
            }
            Target::Blackhole => "blackhole".to_owned(),
            Target::Other(text) => text.clone(),
        }
    }

    fn device_name(&self, index: u32) -> String {
        self.links.get(&index).map_or_else(|| format!("if{index}"), |link| link.name.clone())
    }
}
