//! What every part of the agent carries to be watched by: notes for metrics, and its entry with the watchdog.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use tortie_felix::{Change, Event};

use crate::health::{Part, Watchdog};
use crate::metrics::{Batch, Metrics};
use crate::owner::Message;
use crate::progress::Progress;

/// Shared by all parts.
#[derive(Debug, Clone)]
pub(crate) struct Instruments {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) watchdog: Arc<Watchdog>,
    pub(crate) progress: Arc<Progress>,
}

impl Instruments {
    pub(crate) fn new() -> Self {
        Self { metrics: Arc::new(Metrics::new(Instant::now())), watchdog: Arc::default(), progress: Arc::default() }
    }
}

/// The way to a thread that does one job at a time. A job counts as the thread's work from when it is sent, so a thread that does not
/// take its jobs is found as well.
#[derive(Debug)]
pub(crate) struct Way<T> {
    jobs: Sender<T>,
    part: Part,
}

impl<T> Clone for Way<T> {
    fn clone(&self) -> Self {
        Self { jobs: self.jobs.clone(), part: self.part.clone() }
    }
}

impl<T> Way<T> {
    pub(crate) const fn new(jobs: Sender<T>, part: Part) -> Self {
        Self { jobs, part }
    }

    /// Hands the thread a job. One that has ended takes the agent with it, so nothing is lost by a job that nobody takes.
    pub(crate) fn send(&self, job: T) {
        self.part.begins(Instant::now());
        let _ = self.jobs.send(job);
    }
}

impl Batch {
    /// Counts a message.
    pub(crate) fn note(&mut self, message: &Message) {
        self.messages += 1;
        match message {
            Message::Event(event) | Message::Datastore { event, .. } => self.note_event(event),
            _ => {}
        }
    }

    fn note_event(&mut self, event: &Event) {
        match event {
            Event::Caused { event, .. } => self.note_event(event),
            Event::LinkChanged(_) | Event::LinkRemoved { .. } => self.links += 1,
            Event::AddressAdded { .. } | Event::AddressRemoved { .. } => self.addresses += 1,
            Event::Datastore { changes, .. } => {
                for change in changes {
                    let kind = match change {
                        Change::Upsert(object) => object.kind(),
                        Change::Delete(key) => key.kind,
                    };
                    *self.updates.entry(kind.as_str()).or_default() += 1;
                }
            }
            _ => {}
        }
    }
}

/// Measures how long it takes from an event that changes rules to their commit.
#[derive(Debug, Default)]
pub(crate) struct Stopwatch {
    since: Option<Instant>,
    written: bool,
}

impl Stopwatch {
    /// Whether an event can ask for other rules: what is read back asks for nothing new.
    pub(crate) const fn starts(event: &Event) -> bool {
        matches!(
            event,
            Event::Datastore { .. } | Event::AddEndpoint { .. } | Event::RemoveEndpoint { .. } | Event::Restored { .. }
        )
    }

    /// Rules are not as an event asks for that came at `now`.
    pub(crate) fn start(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    /// A transaction is under way.
    pub(crate) const fn write(&mut self) {
        self.written = self.since.is_some();
    }

    /// The kernel's rules are as they should be. How long that took, if anything had to be written.
    pub(crate) fn stop(&mut self, now: Instant) -> Option<Duration> {
        let written = std::mem::take(&mut self.written);
        self.since.take().filter(|_| written).map(|since| now.saturating_duration_since(since))
    }
}

/// Lets so many of the same kind through and then one from time to time, so that a stranger cannot fill the log.
#[derive(Debug)]
pub(crate) struct Budget {
    left: u32,
    filled: Instant,
    withheld: u64,
}

impl Budget {
    const FULL: u32 = 10;
    const REFILL: Duration = Duration::from_secs(6);

    pub(crate) const fn new(now: Instant) -> Self {
        Self { left: Self::FULL, filled: now, withheld: 0 }
    }

    /// Whether one more may pass; if so, how many were withheld before it.
    pub(crate) fn spend(&mut self, now: Instant) -> Option<u64> {
        let refills = now.saturating_duration_since(self.filled).as_millis() / Self::REFILL.as_millis();
        let refills = u32::try_from(refills).unwrap_or(Self::FULL);
        self.filled = if refills < Self::FULL { self.filled + Self::REFILL * refills } else { now };
        self.left = self.left.saturating_add(refills).min(Self::FULL);
        if self.left == 0 {
            self.withheld += 1;
            return None;
        }
        self.left -= 1;
        Some(std::mem::take(&mut self.withheld))
    }
}

/// Limits as settings have them. What is said for the core also holds for those that write for it, unless they are named.
pub(crate) fn limits(settings: &BTreeMap<String, tortie_felix::Millis>) -> BTreeMap<String, Duration> {
    let mut limits: BTreeMap<String, Duration> =
        settings.iter().map(|(part, limit)| (part.clone(), Duration::from_millis(*limit))).collect();
    if let Some(limit) = limits.get(crate::health::CORE).copied() {
        for part in [crate::health::NFTABLES, crate::health::ROUTES] {
            limits.entry(part.to_owned()).or_insert(limit);
        }
    }
    limits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_lets_some_through_and_says_how_many_it_did_not() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        let passed = (0..1_000).filter(|_| budget.spend(start) == Some(0)).count();
        assert_eq!(passed, 10);
        assert_eq!(budget.spend(start + Budget::REFILL), Some(990));
        assert_eq!(budget.spend(start + Budget::REFILL), None);
        let passed = (0..1_000).filter(|_| budget.spend(start + Budget::REFILL * 1_000).is_some()).count();
        assert_eq!(passed, 10, "it does not save up");
    }

    #[test]
    fn only_what_is_written_is_measured() {
        let start = Instant::now();
        let mut watch = Stopwatch::default();
        watch.write();
        assert_eq!(watch.stop(start), None, "nobody asked");
        watch.start(start);
        assert_eq!(watch.stop(start), None, "nothing to write");
        watch.start(start);
        watch.start(start + Duration::from_secs(1));
        watch.write();
        assert_eq!(watch.stop(start + Duration::from_secs(3)), Some(Duration::from_secs(3)));
    }

    #[test]
    fn writers_have_the_cores_limit_unless_they_are_named() {
        let settings = BTreeMap::from([("core".to_owned(), 5_000), ("routes".to_owned(), 7_000)]);
        let limits = limits(&settings);
        let seconds: Vec<_> = limits.iter().map(|(part, limit)| (part.as_str(), limit.as_secs())).collect();
        assert_eq!(seconds, [("core", 5), ("nftables", 5), ("routes", 7)]);
    }
}
