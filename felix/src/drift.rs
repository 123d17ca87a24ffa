//! What somebody else changed of ours in the kernel, as it was noticed and mended.
//!
//! Drift is what the kernel has otherwise than it was last written, by nobody's wish that the node knows of. Not drift is what an
//! earlier run left (it may have been wanted then), what the kernel itself takes away with an interface that is deleted on purpose,
//! and what is merely not written yet. Whoever compares records it here; the core looks after whether it was repaired, and hands out
//! a report once it was, or after [`PATIENCE`] if it was not.
//!
//! A stranger may change a thing a hundred times a second, or a hundred thousand routes at once. So what happens to one object again
//! is told as one drift that happened several times, and what exceeds a handful at a time is told as its number.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::event::Millis;

/// So many drifts are remembered, the latest.
const REMEMBERED: usize = 50;

/// So many of one kind are told one by one while they are unrepaired.
const AT_ONCE: usize = 8;

/// A repetition within this time is the same drift once more.
const SAME: Millis = 10 * 60_000;

/// A drift that is not repaired after this time is reported as it is.
pub(crate) const PATIENCE: Millis = 3_000;

/// What kind of thing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DriftKind {
    /// The nftables table.
    Rules,
    /// A route of ours.
    Route,
    /// A pod's interface on the host.
    Interface,
    /// A kernel setting.
    Sysctl,
    /// A rule of ours in the host's own firewall.
    HostFirewall,
}

impl DriftKind {
    /// All kinds.
    pub const ALL: [Self; 5] = [Self::Rules, Self::Route, Self::Interface, Self::Sysctl, Self::HostFirewall];

    /// The name that metrics and the CLI print.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rules => "rules",
            Self::Route => "route",
            Self::Interface => "interface",
            Self::Sysctl => "sysctl",
            Self::HostFirewall => "host-firewall",
        }
    }
}

/// One thing that somebody else changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drift {
    /// When it was noticed; of several times the last.
    pub at: Millis,
    /// What kind of thing.
    pub what: DriftKind,
    /// Which one: a route's destination, an interface's name, a sysctl's path, the table.
    pub object: String,
    /// What was found in place of what was written.
    pub found: String,
    /// Whether it is again as wanted.
    pub repaired: bool,
    /// The process that did it, as `NAME (PID)`, where the kernel tells.
    pub by: Option<String>,
    /// How often it happened, things that were left out for their number included.
    pub times: u64,
}

/// A drift, and what of it was reported.
#[derive(Debug)]
struct Entry {
    drift: Drift,
    /// Whether it was reported in its present state.
    told: bool,
}

/// The latest drifts, and how many there were in all.
#[derive(Debug, Default)]
pub(crate) struct Drifts {
    entries: VecDeque<Entry>,
    counts: [u64; DriftKind::ALL.len()],
    /// Whether some are unrepaired or not reported: only then is there anything to look after.
    open: bool,
}

impl Drifts {
    /// Takes a drift that was noticed at `at`. It counts as unrepaired until [`Drifts::settle`] hears otherwise.
    pub(crate) fn record(
        &mut self,
        at: Millis,
        what: DriftKind,
        object: impl Into<String>,
        found: impl Into<String>,
        by: Option<String>,
    ) {
        let (object, found) = (object.into(), found.into());
        self.counts[what as usize] += 1;
        self.open = true;
        let again = self.entries.iter().position(|Entry { drift, .. }| {
            drift.what == what && drift.object == object && (!drift.repaired || at.saturating_sub(drift.at) < SAME)
        });
        if let Some(mut entry) = again.and_then(|place| self.entries.remove(place)) {
            let times = entry.drift.times + 1;
            let by = by.or(entry.drift.by);
            // One that was reported as unrepaired is not reported again before it is repaired.
            entry.told &= !entry.drift.repaired;
            entry.drift = Drift { at, what, object, found, repaired: false, by, times };
            self.entries.push_back(entry);
            return;
        }
        let mut alike = self.entries.iter_mut().filter(|entry| entry.drift.what == what && !entry.drift.repaired);
        if alike.by_ref().count() >= AT_ONCE
            && let Some(last) = self.entries.iter_mut().rfind(|entry| entry.drift.what == what && !entry.drift.repaired)
        {
            last.drift.times += 1;
            return;
        }
        let drift = Drift { at, what, object, found, repaired: false, by, times: 1 };
        if self.entries.len() == REMEMBERED {
            self.entries.pop_front();
        }
        self.entries.push_back(Entry { drift, told: false });
    }

    /// Asks of each unrepaired drift whether it is repaired now.
    pub(crate) fn settle(&mut self, repaired: impl Fn(&Drift) -> bool) {
        if !self.open {
            return;
        }
        for Entry { drift, told } in self.entries.iter_mut().filter(|entry| !entry.drift.repaired) {
            if repaired(drift) {
                drift.repaired = true;
                *told = false;
            }
        }
    }

    /// The next one to report: repaired, or not repaired for long.
    pub(crate) fn report(&mut self, now: Millis) -> Option<Drift> {
        if !self.open {
            return None;
        }
        let due = |entry: &Entry| !entry.told && (entry.drift.repaired || entry.drift.at + PATIENCE <= now);
        if let Some(entry) = self.entries.iter_mut().find(|entry| due(entry)) {
            entry.told = true;
            return Some(entry.drift.clone());
        }
        self.open = self.entries.iter().any(|entry| !entry.told || !entry.drift.repaired);
        None
    }

    /// When [`Drifts::report`] has something although nothing happens.
    pub(crate) fn timeout(&self) -> Option<Millis> {
        let waiting = self.entries.iter().filter(|entry| self.open && !entry.told && !entry.drift.repaired);
        waiting.map(|entry| entry.drift.at + PATIENCE).min()
    }

    /// The latest, the oldest of them first.
    pub(crate) fn latest(&self) -> impl Iterator<Item = &Drift> {
        self.entries.iter().map(|entry| &entry.drift)
    }

    /// How many there were since the start, by kind.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (DriftKind, u64)> {
        DriftKind::ALL.into_iter().map(|kind| (kind, self.counts[kind as usize]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(drifts: &mut Drifts, at: Millis, object: &str) {
        drifts.record(at, DriftKind::Route, object, "no route", None);
    }

    #[test]
    fn is_reported_once_when_it_is_repaired() {
        let mut drifts = Drifts::default();
        assert_eq!((drifts.report(0), drifts.timeout()), (None, None));
        drifts.record(10, DriftKind::Rules, "table", "chain x is gone", Some("nft (7)".into()));
        assert_eq!((drifts.report(10), drifts.timeout()), (None, Some(10 + PATIENCE)));
        drifts.settle(|_| false);
        assert_eq!(drifts.report(11), None);
        drifts.settle(|drift| drift.what == DriftKind::Rules);
        let report = drifts.report(12).expect("a report");
        assert!(report.repaired && report.times == 1 && report.by.as_deref() == Some("nft (7)"), "{report:?}");
        assert_eq!((drifts.report(1_000_000), drifts.timeout()), (None, None));
        assert_eq!(drifts.latest().count(), 1);
    }

    #[test]
    fn one_that_lasts_is_reported_as_it_is_and_again_when_it_is_over() {
        let mut drifts = Drifts::default();
        route(&mut drifts, 0, "10.0.0.0/26");
        assert!(!drifts.report(PATIENCE).expect("a report").repaired);
        assert_eq!((drifts.report(PATIENCE), drifts.timeout()), (None, None));
        route(&mut drifts, PATIENCE + 1, "10.0.0.0/26");
        assert_eq!(drifts.report(3 * PATIENCE), None, "it is known");
        drifts.settle(|_| true);
        let report = drifts.report(3 * PATIENCE).expect("a report");
        assert!(report.repaired && report.times == 2, "{report:?}");
    }

    #[test]
    fn what_happens_again_is_one_drift() {
        let mut drifts = Drifts::default();
        for at in 0..1_000 {
            route(&mut drifts, at, "10.0.0.0/26");
            drifts.settle(|_| true);
            assert_eq!(drifts.report(at).expect("a report").times, at + 1);
        }
        assert_eq!(drifts.latest().count(), 1);
        route(&mut drifts, 999 + SAME, "10.0.0.0/26");
        assert_eq!(
            drifts.latest().map(|drift| drift.times).collect::<Vec<_>>(),
            [1_000, 1],
            "long after it is another"
        );
        assert!(drifts.counts().all(|(kind, count)| count == if kind == DriftKind::Route { 1_001 } else { 0 }));
    }

    #[test]
    fn a_flood_is_told_by_its_number_and_the_history_is_bounded() {
        let mut drifts = Drifts::default();
        for number in 0..100_000 {
            route(&mut drifts, 5, &format!("route {number}"));
        }
        assert_eq!(drifts.latest().count(), AT_ONCE);
        assert_eq!(drifts.latest().map(|drift| drift.times).sum::<u64>(), 100_000);
        drifts.settle(|_| true);
        for number in 0..200 {
            drifts.record(6, DriftKind::Sysctl, format!("sysctl {number}"), "0", None);
            drifts.settle(|_| true);
        }
        assert_eq!(drifts.latest().count(), REMEMBERED);
        assert_eq!(drifts.latest().last().map(|drift| drift.object.as_str()), Some("sysctl 199"));
    }
}
