//! Where the core notices what others changed, and looks after whether it is mended.

use ipnet::IpNet;

use super::Felix;
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
            DriftKind::HostFirewall => true,
            DriftKind::Interface | DriftKind::Sysctl => false,
        });
    }

    /// The latest things that others changed, the oldest first.
    pub fn drifts(&self) -> impl Iterator<Item = &Drift> {
        self.drifts.latest()
    }

    /// How many things others changed since the start, by kind.
    pub fn drift_counts(&self) -> impl Iterator<Item = (DriftKind, u64)> {
        self.drifts.counts()
    }
}
