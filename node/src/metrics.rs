//! `/metrics`, on Calico's port: what the agent's parts noted down as they worked, and what the core counts when it is asked.
//!
//! Names, kinds and meanings are Calico's where Calico has the metric and it has a meaning here, so that dashboards and alerts keep
//! working; what is ours begins with `tortie_`. docs/metrics.md lists all of them, and a test holds the two equal. No label has a
//! value that grows with the cluster. Nothing is computed unless somebody asks.

// Prometheus' numbers are floating point.
#![allow(clippy::cast_precision_loss, clippy::cast_sign_loss)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::sync::{oneshot, watch};
use tortie_bird_speaker::Handle;
use tortie_felix::Settings;

use crate::instruments::Way;
use crate::owner::{Message, OwnerHandle};
use crate::writers::RuleJob;

mod estimate;
mod exposition;
mod families;
mod hits;
mod process;

use estimate::{Histogram, Summary};
use hits::{Labels, Totals};

/// How long one part of the agent may take to answer; the page then comes without what it would have said.
const PATIENCE: Duration = Duration::from_secs(5);

/// Upper bounds for what should take milliseconds, in seconds.
const BOUNDS: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// What the parts of the agent note down.
#[derive(Debug)]
pub(crate) struct Metrics(Mutex<Noted>);

/// The notes.
#[derive(Debug)]
pub(super) struct Noted {
    apply: Summary,
    calculation: Summary,
    route_resync: Summary,
    batch: Summary,
    link_batch: Summary,
    address_batch: Summary,
    failures: u64,
    resyncs: u64,
    updates: BTreeMap<&'static str, u64>,
    messages: BTreeMap<&'static str, u64>,
    nft_calls: u64,
    nft_errors: u64,
    nft_commands: u64,
    nft_reads: u64,
    nft_read_errors: u64,
    commit: Histogram,
    cni_add: Histogram,
    foreign_commits: u64,
    foreign_touches: u64,
    overruns: u64,
}

/// What one wake of the core took in.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) messages: usize,
    pub(crate) links: usize,
    pub(crate) addresses: usize,
    /// Objects of the datastore by kind.
    pub(crate) updates: BTreeMap<&'static str, u64>,
}

impl Metrics {
    pub(crate) fn new(now: Instant) -> Self {
        let summary = || Summary::new(now);
        Self(Mutex::new(Noted {
            apply: summary(),
            calculation: summary(),
            route_resync: summary(),
            batch: summary(),
            link_batch: summary(),
            address_batch: summary(),
            failures: 0,
            resyncs: 1,
            updates: BTreeMap::new(),
            messages: BTreeMap::new(),
            nft_calls: 0,
            nft_errors: 0,
            nft_commands: 0,
            nft_reads: 0,
            nft_read_errors: 0,
            commit: Histogram::new(BOUNDS),
            cni_add: Histogram::new(BOUNDS),
            foreign_commits: 0,
            foreign_touches: 0,
            overruns: 0,
        }))
    }

    fn note(&self) -> MutexGuard<'_, Noted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The core took in what was waiting for it, and if that was of the datastore, made it its own in `took`.
    pub(crate) fn took_in(&self, batch: Batch, took: Duration, now: Instant) {
        let mut noted = self.note();
        noted.batch.observe_value(batch.messages as f64, now);
        if batch.links > 0 {
            noted.link_batch.observe_value(batch.links as f64, now);
        }
        if batch.addresses > 0 {
            noted.address_batch.observe_value(batch.addresses as f64, now);
        }
        if !batch.updates.is_empty() {
            noted.calculation.observe(took, now);
        }
        for (kind, count) in batch.updates {
            *noted.updates.entry(kind).or_default() += count;
        }
    }

    /// The core wants something done.
    pub(crate) fn wants(&self, what: &'static str) {
        *self.note().messages.entry(what).or_default() += 1;
    }

    /// A transaction came to its end.
    pub(crate) fn rules_applied(&self, commands: usize, ok: bool, began: Instant) {
        let (now, mut noted) = (Instant::now(), self.note());
        noted.apply.observe(now - began, now);
        noted.nft_calls += 1;
        if ok {
            noted.nft_commands += commands as u64;
        } else {
            noted.nft_errors += 1;
            noted.failures += 1;
        }
    }

    /// The table was read back, or could not be.
    pub(crate) fn rules_read(&self, ok: bool) {
        let mut noted = self.note();
        noted.nft_reads += 1;
        noted.nft_read_errors += u64::from(!ok);
    }

    /// A batch of routes came to its end.
    pub(crate) fn routes_applied(&self, ok: bool, began: Instant) {
        let (now, mut noted) = (Instant::now(), self.note());
        noted.apply.observe(now - began, now);
        noted.failures += u64::from(!ok);
    }

    /// All routes were read back.
    pub(crate) fn routes_read(&self, began: Instant) {
        let (now, mut noted) = (Instant::now(), self.note());
        noted.route_resync.observe(now - began, now);
    }

    /// From an event to the commit of the rules that it asked for.
    pub(crate) fn committed(&self, took: Duration) {
        self.note().commit.observe(took);
    }

    /// From a CNI ADD's endpoint to its rules and routes in the kernel.
    pub(crate) fn cni_added(&self, took: Duration) {
        self.note().cni_add.observe(took);
    }

    /// Others changed nf_tables so often, and our table so often among that.
    pub(crate) fn foreign_commits(&self, commits: u64, touches: u64) {
        let mut noted = self.note();
        noted.foreign_commits += commits;
        noted.foreign_touches += touches;
    }

    /// The kernel had more to tell than there was room for.
    pub(crate) fn overrun(&self) {
        self.note().overruns += 1;
    }
}

/// Sessions and routes of BGP, summed up over all peers.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Bgp {
    /// Sessions by state and type of peer.
    sessions: BTreeMap<(String, String), u64>,
    /// Received, accepted and advertised routes, by family.
    routes: BTreeMap<String, [u64; 3]>,
}

/// What a page is made from.
#[derive(Clone)]
pub(crate) struct Source {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) owner: OwnerHandle,
    pub(crate) rules: Way<RuleJob>,
    pub(crate) speaker: watch::Receiver<Option<Handle>>,
    pub(crate) settings: watch::Receiver<Settings>,
    /// One page at a time adds up what has grown since the last.
    pub(crate) hits: Arc<tokio::sync::Mutex<Totals>>,
}

impl Source {
    /// The page.
    pub(crate) fn router(self) -> Router {
        Router::new().route("/metrics", get(page)).with_state(self)
    }

    async fn bgp(&self) -> Option<Bgp> {
        let speaker = self.speaker.borrow().clone()?;
        let mut bgp = Bgp::default();
        for peer in tokio::time::timeout(PATIENCE, speaker.peers()).await.ok()? {
            *bgp.sessions.entry((peer.state.to_string(), peer.kind.to_string())).or_default() += 1;
            for (family, counts) in peer.families {
                let sums = bgp.routes.entry(family).or_default();
                for (sum, count) in sums.iter_mut().zip([counts.received, counts.accepted, counts.advertised]) {
                    *sum += count as u64;
                }
            }
        }
        Some(bgp)
    }

    async fn counters(&self) -> BTreeMap<String, (u64, u64)> {
        let (reply, answer) = oneshot::channel();
        self.rules.send(RuleJob::Counters(reply));
        tokio::time::timeout(PATIENCE, answer).await.ok().and_then(Result::ok).unwrap_or_default()
    }
}

/// The sums of hits with what these counters have counted. Where the owner does not answer, they are those of before.
async fn sums(source: &Source, counters: &Counters) -> BTreeMap<Labels, u64> {
    let mut totals = source.hits.lock().await;
    let grown = totals.grown(counters);
    let rows = if grown.is_empty() {
        Some(Vec::new())
    } else {
        let asked = source.owner.ask(|reply| Message::Hits(grown, reply));
        tokio::time::timeout(PATIENCE, asked).await.ok().flatten()
    };
    if let Some(rows) = rows {
        totals.add(counters, &rows);
    }
    totals.sums().clone()
}

async fn page(State(source): State<Source>) -> impl IntoResponse {
    let numbers = tokio::time::timeout(PATIENCE, source.owner.ask(Message::Numbers)).await.ok().flatten();
    let (bgp, counters) = tokio::join!(source.bgp(), source.counters());
    let process = if source.settings.borrow().process_metrics { process::Process::read().ok() } else { None };
    let hits = sums(&source, &counters).await;
    let counted = families::Counted { counters: &counters, hits: &hits };
    let text = families::text(&mut source.metrics.note(), numbers.as_ref(), bgp.as_ref(), counted, process.as_ref());
    ([(header::CONTENT_TYPE, exposition::CONTENT_TYPE)], text)
}

/// So that the types that a page is made from are named in one place.
type Counters = BTreeMap<String, (u64, u64)>;
