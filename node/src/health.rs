//! Whether the agent works: `/liveness` and `/readiness`, on Calico's port.
//!
//! Each part of the agent - a thread or a task with a loop - says when it begins a piece of work and when it has ended it. A part
//! that has been at one piece for longer than it may is stuck, and the agent is not live: whoever watches it should start it again,
//! which cuts no traffic. A part that waits for work costs nothing; so that one that only seems to wait is found as well, each
//! question about liveness is also handed to those parts that can answer one.
//!
//! A start may be slow: until the node has been as the datastore wants it once, every part has [`START`]. Ready is an agent that has
//! put the datastore into the kernel once. Neither depends on other nodes: a peer that is down must not take this one out of service.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::sync::watch;
use tortie_bird_speaker::Handle;
use tortie_datastore::Datastore;

use crate::owner::OwnerHandle;

/// How long a piece of work may take, where nobody says otherwise: Calico's `dataplaneWatchdogTimeout`.
const LIMIT: Duration = Duration::from_secs(90);

/// The same until the node was programmed for the first time.
const START: Duration = Duration::from_secs(600);

/// The names of the parts, as `healthTimeoutOverrides` and the answers have them.
pub(crate) const CORE: &str = "core";
pub(crate) const NFTABLES: &str = "nftables";
pub(crate) const ROUTES: &str = "routes";
pub(crate) const BGP: &str = "bgp";
pub(crate) const DATASTORE: &str = "datastore";

/// Says of one part when it works.
#[derive(Debug, Clone)]
pub(crate) struct Part(Arc<Mutex<Work>>);

/// What a part is at.
#[derive(Debug, Default)]
struct Work {
    /// Pieces that were begun or handed to it, and have not ended.
    pieces: usize,
    /// Since when it has been at the present one.
    since: Option<Instant>,
}

impl Part {
    /// A piece of work begins, or is handed to the part.
    pub(crate) fn begins(&self, now: Instant) {
        let mut work = lock(&self.0);
        work.pieces += 1;
        work.since.get_or_insert(now);
    }

    /// A piece has come to its end, whatever the outcome.
    pub(crate) fn ends(&self, now: Instant) {
        let mut work = lock(&self.0);
        work.pieces = work.pieces.saturating_sub(1);
        work.since = (work.pieces > 0).then_some(now);
    }
}

/// Knows of all parts.
#[derive(Debug, Default)]
pub(crate) struct Watchdog {
    parts: Mutex<BTreeMap<&'static str, Part>>,
    limits: Mutex<BTreeMap<String, Duration>>,
    /// Since when the node has been as the datastore wants it.
    ready: Mutex<Option<Instant>>,
    /// Tells that it is.
    tells: watch::Sender<bool>,
}

/// One part, and since when it has been at a piece of work.
#[derive(Debug, PartialEq, Eq)]
struct Stand {
    part: &'static str,
    busy: Option<Duration>,
    limit: Duration,
}

impl Stand {
    fn is_stuck(&self) -> bool {
        self.busy.is_some_and(|busy| busy > self.limit)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watchdog {
    /// The part of that name; a new one if there is none yet.
    pub(crate) fn part(&self, name: &'static str) -> Part {
        lock(&self.parts).entry(name).or_insert_with(|| Part(Arc::default())).clone()
    }

    /// Sets how long parts may be at a piece of work, where that is not 90 s.
    pub(crate) fn set_limits(&self, limits: BTreeMap<String, Duration>) {
        *lock(&self.limits) = limits;
    }

    /// The node is as the datastore wants it, for the first time.
    pub(crate) fn is_ready(&self, now: Instant) {
        lock(&self.ready).get_or_insert(now);
        self.tells.send_replace(true);
    }

    /// Tells when the node is as the datastore wants it for the first time.
    pub(crate) fn ready(&self) -> watch::Receiver<bool> {
        self.tells.subscribe()
    }

    /// How each part stands. `others` are parts that tell themselves since when they are busy.
    fn look(&self, now: Instant, others: &[(&'static str, Option<Duration>)]) -> Vec<Stand> {
        let started = lock(&self.ready).is_some();
        let limits = lock(&self.limits);
        let limit = |part: &str| {
            let limit = limits.get(part).copied().unwrap_or(LIMIT);
            if started { limit } else { limit.max(START) }
        };
        let parts = lock(&self.parts);
        let own = parts
            .iter()
            .map(|(part, state)| (*part, lock(&state.0).since.map(|since| now.saturating_duration_since(since))));
        own.chain(others.iter().copied()).map(|(part, busy)| Stand { part, busy, limit: limit(part) }).collect()
    }
}

/// What the answers are made from.
#[derive(Clone)]
pub(crate) struct Health {
    pub(crate) watchdog: Arc<Watchdog>,
    pub(crate) owner: OwnerHandle,
    pub(crate) speaker: watch::Receiver<Option<Handle>>,
    pub(crate) datastore: Arc<dyn Datastore>,
    pub(crate) start: Instant,
    /// Whether a question to the core, and one to the speaker, wait for an answer.
    asked: [Arc<Mutex<bool>>; 2],
}

impl Health {
    pub(crate) fn new(
        watchdog: Arc<Watchdog>,
        owner: OwnerHandle,
        speaker: watch::Receiver<Option<Handle>>,
        datastore: Arc<dyn Datastore>,
    ) -> Self {
        Self { watchdog, owner, speaker, datastore, start: Instant::now(), asked: Default::default() }
    }

    /// The pages.
    pub(crate) fn router(self) -> Router {
        Router::new().route("/liveness", get(liveness)).route("/readiness", get(readiness)).with_state(self)
    }

    /// Hands the core and the speaker a question each, unless the last one is not answered yet.
    fn probe(&self) {
        let [core, bgp] = &self.asked;
        if !std::mem::replace(&mut *lock(core), true) {
            let (part, asked, owner) = (self.watchdog.part(CORE), Arc::clone(core), self.owner.clone());
            part.begins(Instant::now());
            tokio::spawn(async move {
                owner.is_alive().await;
                part.ends(Instant::now());
                *lock(&asked) = false;
            });
        }
        let speaker = self.speaker.borrow().clone();
        if let Some(speaker) = speaker
            && !std::mem::replace(&mut *lock(bgp), true)
        {
            let (part, asked) = (self.watchdog.part(BGP), Arc::clone(bgp));
            part.begins(Instant::now());
            tokio::spawn(async move {
                let _ = speaker.restart().await;
                part.ends(Instant::now());
                *lock(&asked) = false;
            });
        }
    }
}

async fn liveness(State(health): State<Health>) -> (StatusCode, String) {
    health.probe();
    let now = Instant::now();
    let datastore = health.datastore.busy_since().map(|since| now.saturating_duration_since(since));
    answer(&health.watchdog.look(now, &[(DATASTORE, datastore)]))
}

/// The answer about liveness: who is stuck, then how all parts stand.
fn answer(parts: &[Stand]) -> (StatusCode, String) {
    let mut text = String::new();
    let stuck: Vec<&Stand> = parts.iter().filter(|part| part.is_stuck()).collect();
    for Stand { part, busy, limit } in &stuck {
        let busy = busy.unwrap_or_default().as_secs();
        let _ = writeln!(
            text,
            "not live: {part} has been at one piece of work for {busy} s; it may take {} s",
            limit.as_secs()
        );
    }
    if stuck.is_empty() {
        text.push_str("live\n");
    }
    for Stand { part, busy, .. } in parts {
        let _ = match busy {
            Some(busy) => writeln!(text, "{part}: at work for {:.1} s", busy.as_secs_f64()),
            None => writeln!(text, "{part}: waits for work"),
        };
    }
    (if stuck.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, text)
}

async fn readiness(State(health): State<Health>) -> (StatusCode, String) {
    let ready = *lock(&health.watchdog.ready);
    if let Some(since) = ready {
        return (StatusCode::OK, format!("ready for {} s\n", since.elapsed().as_secs()));
    }
    // Until then the core may be at a long piece of work, and a prober has little patience.
    let status =
        tokio::time::timeout(Duration::from_millis(500), health.owner.ask(crate::owner::Message::Status)).await;
    let reason = match status.ok().flatten() {
        None => "the core is at work",
        Some(status) if !status.in_sync => "the datastore is not in sync",
        Some(_) => "rules, routes and BGP are not as the datastore wants them yet",
    };
    (StatusCode::SERVICE_UNAVAILABLE, format!("not ready for {} s: {reason}\n", health.start.elapsed().as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stuck(watchdog: &Watchdog, now: Instant) -> Vec<&'static str> {
        watchdog.look(now, &[]).iter().filter(|part| part.is_stuck()).map(|part| part.part).collect()
    }

    fn seconds(number: u64) -> Duration {
        Duration::from_secs(number)
    }

    #[test]
    fn a_piece_of_work_that_does_not_end_is_found_and_named() {
        let start = Instant::now();
        let watchdog = Watchdog::default();
        watchdog.is_ready(start);
        let (nftables, routes) = (watchdog.part(NFTABLES), watchdog.part(ROUTES));
        nftables.begins(start);
        routes.begins(start);
        routes.ends(start + seconds(1));
        assert!(stuck(&watchdog, start + seconds(90)).is_empty());
        assert_eq!(stuck(&watchdog, start + seconds(91)), [NFTABLES]);
        let (status, text) = answer(&watchdog.look(start + seconds(91), &[(DATASTORE, Some(seconds(3)))]));
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(
            text,
            "not live: nftables has been at one piece of work for 91 s; it may take 90 s\n\
             nftables: at work for 91.0 s\nroutes: waits for work\ndatastore: at work for 3.0 s\n"
        );
        nftables.ends(start + seconds(100));
        assert!(stuck(&watchdog, start + seconds(1000)).is_empty());
        assert_eq!(answer(&watchdog.look(start, &[])).0, StatusCode::OK);
    }

    #[test]
    fn work_that_goes_on_piece_by_piece_is_no_wedge_and_a_queue_that_does_not_move_is() {
        let start = Instant::now();
        let watchdog = Watchdog::default();
        watchdog.is_ready(start);
        let part = watchdog.part(ROUTES);
        for second in 0..1_000 {
            part.begins(start + seconds(second));
            if second > 0 {
                part.ends(start + seconds(second));
            }
            assert!(stuck(&watchdog, start + seconds(second)).is_empty());
        }
        assert_eq!(stuck(&watchdog, start + seconds(999 + 91)), [ROUTES], "one piece is left");
    }

    #[test]
    fn a_slow_start_is_no_failure_and_limits_can_be_set() {
        let start = Instant::now();
        let watchdog = Watchdog::default();
        watchdog.part(NFTABLES).begins(start);
        assert!(stuck(&watchdog, start + START).is_empty());
        assert_eq!(stuck(&watchdog, start + START + seconds(1)), [NFTABLES]);
        watchdog.is_ready(start);
        watchdog.set_limits(BTreeMap::from([(NFTABLES.to_owned(), seconds(5))]));
        assert!(stuck(&watchdog, start + seconds(5)).is_empty());
        assert_eq!(stuck(&watchdog, start + seconds(6)), [NFTABLES]);
        watchdog.set_limits(BTreeMap::new());
        assert!(stuck(&watchdog, start + seconds(6)).is_empty());
    }
}
