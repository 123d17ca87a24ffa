//! Where the core decides about overlays, and has this node's ends of them kept.

use std::net::IpAddr;

use ipnet::IpNet;
use rustc_hash::FxHashMap;
use tortie_api::k8s::Pod;

use super::Felix;
use crate::drift::DriftKind;
use crate::event::Action;
use crate::guests::Blocks;
use crate::overlays::{TunnelReport, Tunnels};

/// What is under way with this node's ends.
#[derive(Debug, Default)]
pub(super) struct Ends {
    /// Whether others may be wanted than were told last.
    dirty: bool,
    busy: bool,
    told: Option<Tunnels>,
    /// What was told last of that which is answered.
    answered: Tunnels,
    /// The batch of the datastore that it reflects, told and answered.
    sent: u64,
    pub(super) sequence: u64,
    /// What cannot be asked for, and what could not be done.
    unasked: Vec<String>,
    undone: Vec<String>,
}

impl Ends {
    /// What is wrong now.
    pub(super) fn problems(&self) -> impl Iterator<Item = &String> {
        self.unasked.iter().chain(&self.undone)
    }
}

impl Felix {
    /// Takes in that pools, nodes or blocks are others than before, or that time has come.
    pub(super) fn settle_overlays(&mut self) {
        if !self.in_sync {
            return;
        }
        if self.overlays.decide(self.now) {
            self.compiler.set_options(self.compile_options());
            self.rules.touch();
        }
        self.ends.dirty = true;
        self.host_dirty = true;
        self.settings_untold = true;
        // An end's address that is in no block of this node is announced by itself.
        self.bgp_dirty = true;
        self.routes.set_ways(self.overlays.ways());
        let remote = self.remote();
        self.routes.set_remote(remote);
    }

    /// Which ranges other nodes have, as far as the datastore tells, where an overlay leads there.
    fn remote(&mut self) -> FxHashMap<IpNet, IpAddr> {
        let mut blocks = Blocks::default();
        if self.overlays.in_use().is_empty() {
            return FxHashMap::default();
        }
        let overlays = &self.overlays;
        let address = |node: &str, ipv4: bool| overlays.address_of(node, ipv4);
        for (block, node) in self.bgp.blocks_of_others(&self.config.node) {
            if let Some(node) = address(node, block.addr().is_ipv4()).filter(|_| overlays.carries(block)) {
                blocks.insert(block, node);
            }
        }
        let mut remote: FxHashMap<IpNet, IpAddr> = blocks.iter().collect();
        // With BGP, each of these is announced by its node.
        if !self.config.bgp {
            let cluster = self.compiler.cluster();
            let ends = overlays.other_ends().filter_map(|(node, end)| Some((end, address(node, end.is_ipv4())?)));
            let ends: Vec<(IpAddr, IpAddr)> = ends.filter(|(end, node)| !blocks.has(*end, *node)).collect();
            self.guests.set_blocks(blocks, cluster.placed_pods(), address);
            let guests = self.guests.iter().filter_map(|(ip, node)| Some((ip, address(node, ip.is_ipv4())?)));
            for (ip, node) in guests.chain(ends) {
                if overlays.carries(IpNet::from(ip)) {
                    remote.insert(IpNet::from(ip), node);
                }
            }
        }
        remote
    }

    /// Takes note of a pod of another node, where no BGP tells of it.
    pub(super) fn note_guest(&mut self, pod: &Pod) {
        if !self.config.bgp {
            let overlays = &self.overlays;
            self.overlays_dirty |= self.guests.upsert(pod, |node, ipv4| overlays.address_of(node, ipv4));
        }
    }

    pub(super) fn poll_tunnels(&mut self) -> Option<Action> {
        if !self.config.dataplane || !self.ready() || self.ends.busy {
            return None;
        }
        if !std::mem::take(&mut self.ends.dirty) {
            self.ends.sequence = self.sequence;
            return None;
        }
        self.ends.unasked.clear();
        let port = self.settings.rules.vxlan_port;
        let ends = self.overlays.wanted(&self.settings.overlays, port, &mut self.ends.unasked);
        let (mtu_interfaces, refresh) = (self.settings.mtu_interfaces.clone(), self.settings.interfaces_refresh);
        let wanted = Tunnels { mtu_interfaces, refresh, ends };
        let is_left = || self.overlays.says_ends() || self.routes.has_ends();
        let nothing = wanted.ends.is_empty() && self.ends.told.is_none() && !is_left();
        if nothing || self.ends.told.as_ref() == Some(&wanted) {
            self.ends.sequence = self.sequence;
            return None;
        }
        self.ends.told = Some(wanted.clone());
        self.ends.busy = true;
        self.ends.sent = self.sequence;
        Some(Action::ConfigureTunnels(Box::new(wanted)))
    }

    pub(super) fn tunnels_configured(&mut self, report: TunnelReport) {
        self.ends.busy = false;
        self.ends.sequence = self.ends.sent;
        self.ends.answered = self.ends.told.clone().unwrap_or_default();
        self.tunnels_kept(report);
    }

    pub(super) fn tunnels_kept(&mut self, report: TunnelReport) {
        for repair in report.repairs {
            self.drifts.record(self.now, DriftKind::Interface, repair.object, repair.found, None);
        }
        self.ends.undone = report.problems;
        let ends = self.ends.answered.ends.iter().filter(|(tunnel, _)| report.ready.contains(tunnel));
        self.routes.set_ready(ends.map(|(tunnel, end)| (*tunnel, end.peers.keys().copied().collect())).collect());
    }
}
