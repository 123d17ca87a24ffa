//! Where the core notices what others changed, and looks after whether it is mended.

use ipnet::IpNet;
use tortie_policy::hits::{HitRow, Hits};

use super::Felix;
use crate::Numbers;
use crate::drift::{Drift, DriftKind};

/// The object that a drift of our rules is about.
pub(super) const TABLE: &str = "table inet tortie";

impl Felix {
    /// Records what the event that was just taken in revealed.
    pub(super) fn note_drifts(&mut self) {
        for tampered in self.routes.take_tampered() {
            let by = self.author.clone();
            self.drifts.record(self.now, DriftKind::Route, tampered.destination.to_string(), tampered.found, by);
        }
        for (found, by) in self.rules.take_tampered() {
            self.drifts.record(self.now, DriftKind::Rules, TABLE, found, by);
        }
    }

    /// Sees which of the drifts are mended.
    pub(super) fn settle_drifts(&mut self) {
        let (rules, routes) = (&self.rules, &self.routes);
        self.drifts.settle(|drift| match drift.what {
            DriftKind::Rules => rules.applied() > 0,
            DriftKind::Route => drift.object.parse::<IpNet>().is_ok_and(|destination| routes.as_wanted(destination)),
            // Told of once it is done.
            DriftKind::HostFirewall | DriftKind::Interface | DriftKind::Sysctl => true,
        });
    }

    /// The latest things that others changed, the oldest first.
    pub fn drifts(&self) -> impl Iterator<Item = &Drift> {
        self.drifts.latest()
    }

    /// Whether the kernel's rules are not yet what the events that were taken in ask for.
    pub fn rules_pending(&self) -> bool {
        self.config.dataplane && self.in_sync && self.rules.applied() < self.rules.version()
    }

    /// What policies have decided on this node, from what the counters of its table have counted.
    pub fn hits(&self, values: &Hits) -> Vec<HitRow> {
        let table = self.rules.wanted(&self.compiler);
        table.map(|table| self.compiler.cluster().hits(&table.counters, values)).unwrap_or_default()
    }

    /// How much there is of everything.
    pub fn numbers(&self) -> Numbers {
        let cluster = self.compiler.cluster().counts();
        let table = self.rules.wanted(&self.compiler);
        let elements = table.map_or(0, |table| {
            let sets: usize = table.sets.values().map(|set| set.elements.len()).sum();
            sets + table.maps.values().map(|map| map.elements.len()).sum::<usize>()
        });
        let (routes_ipv4, routes_ipv6) = self.routes.counts();
        let endpoints = self.endpoints.all().count();
        Numbers {
            in_sync: self.in_sync,
            programmed: self.in_sync && self.unprogrammed.is_empty(),
            nodes: cluster.nodes,
            policies: cluster.policies,
            pods: cluster.endpoints,
            endpoints,
            unadmitted: endpoints - self.endpoints.admitted().count(),
            active_policies: self.compiler.active_policies(),
            selections: self.compiler.selections(),
            chains: table.map_or(0, |table| table.chains.len()),
            rules: table.map_or(0, |table| table.chains.values().map(|chain| chain.rules.len()).sum()),
            sets: table.map_or(0, |table| table.sets.len() + table.maps.len()),
            elements,
            generation: self.rules.generation().number(),
            generation_moves: self.rules.moves(),
            routes_ipv4,
            routes_ipv6,
            routes_failed: self.routes.failures(),
            links: self.routes.links(),
            drifts: self.drifts.counts().collect(),
            problems: self.status().problems.len(),
        }
    }
}
