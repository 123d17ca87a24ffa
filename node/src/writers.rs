//! The threads that write the kernel: one for rules, one for routes. Each does one job at a time, in order, and
//! tells the owner how it went. They block, so they are threads and not tasks.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use tokio::runtime;
use tokio::sync::oneshot;
use tortie_felix::{Event, RouteChange, Snapshot, Sweep};
use tortie_felix_netlink::{Bulk, Net};
use tortie_nft::Transaction;
use tortie_nft_netlink::{Error as NftError, NftSocket, PlacedRule, forget_flows, sweep_marks};
use tracing::{debug, warn};

use crate::convert;
use crate::counts::KeptCounts;
use crate::health::{NFTABLES, Part, ROUTES};
use crate::instruments::{Instruments, Way};
use crate::metrics::Metrics;
use crate::owner::OwnerHandle;
use crate::rundir::RouteMarks;

/// How often the counts are noted, in case that the table is flushed.
const KEEP_EVERY: Duration = Duration::from_secs(30);

/// For the rules' thread.
#[derive(Debug)]
pub(crate) enum RuleJob {
    Read,
    Apply(Transaction),
    /// Clear old stamps of flows, beside everything else.
    Sweep(Sweep),
    /// Tell what the table's counters have counted, packets and bytes.
    Counters(oneshot::Sender<BTreeMap<String, (u64, u64)>>),
    /// Note what they have counted now, for there may be no later.
    Keep(oneshot::Sender<()>),
    /// Tell the table's rules, with their handles.
    Rules(oneshot::Sender<Result<Vec<PlacedRule>, String>>),
}

/// For the routes' thread.
#[derive(Debug)]
pub(crate) enum RouteJob {
    Read,
    Apply(Vec<RouteChange>),
}

/// The way to the two threads; they end when this is dropped.
#[derive(Debug)]
pub(crate) struct Writers {
    rules: Way<RuleJob>,
    routes: Way<RouteJob>,
}

impl Writers {
    /// Starts both threads in the present network namespace. Routes go through `bulk`, whose doings the kernel's monitor leaves out, and
    /// what marks them is noted in `marks` first; other sockets are opened with the first job. A plain table is not owned, even where the kernel could.
    pub(crate) fn start(
        owner: &OwnerHandle,
        runtime: &runtime::Handle,
        plain_table: bool,
        (bulk, marks): (Bulk, RouteMarks),
        counts: KeptCounts,
        instruments: &Instruments,
    ) -> std::io::Result<Self> {
        let (rules, rule_jobs) = channel();
        let (routes, route_jobs) = channel();
        let (owner_of_rules, owner_of_routes, runtime) = (owner.clone(), owner.clone(), runtime.clone());
        let parts = [instruments.watchdog.part(NFTABLES), instruments.watchdog.part(ROUTES)];
        let (rules, routes) = (Way::new(rules, parts[0].clone()), Way::new(routes, parts[1].clone()));
        let [desk_of_rules, desk_of_routes] = parts.map(|part| Desk { part, metrics: instruments.metrics.clone() });
        std::thread::Builder::new()
            .name("nftables".into())
            .spawn(move || write_rules(&rule_jobs, &owner_of_rules, plain_table, counts, &desk_of_rules))?;
        std::thread::Builder::new()
            .name("routes".into())
            .spawn(move || write_routes(&route_jobs, &owner_of_routes, &runtime, (bulk, marks), &desk_of_routes))?;
        Ok(Self { rules, routes })
    }

    pub(crate) fn rules(&self, job: RuleJob) {
        self.rules.send(job);
    }

    /// The way to the rules' thread, for questions.
    pub(crate) fn way_to_rules(&self) -> Way<RuleJob> {
        self.rules.clone()
    }

    pub(crate) fn routes(&self, job: RouteJob) {
        self.routes.send(job);
    }
}

/// Where a thread notes what it does.
struct Desk {
    part: Part,
    metrics: std::sync::Arc<Metrics>,
}

fn write_rules(jobs: &Receiver<RuleJob>, owner: &OwnerHandle, plain_table: bool, mut counts: KeptCounts, desk: &Desk) {
    let known = counts.clone();
    let open = || {
        let mut socket = NftSocket::open()?;
        socket.remember_counts(known.read());
        if plain_table {
            socket.without_ownership();
        }
        Ok(socket)
    };
    let mut socket = None;
    let mut keep_at = Instant::now() + KEEP_EVERY;
    loop {
        let job = match jobs.recv_timeout(keep_at.saturating_duration_since(Instant::now())) {
            Ok(job) => job,
            Err(RecvTimeoutError::Timeout) => {
                keep_at = Instant::now() + KEEP_EVERY;
                keep(&mut socket, &mut counts);
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let began = Instant::now();
        let event = match job {
            RuleJob::Read => {
                let result = with_socket(&mut socket, open, NftSocket::read);
                desk.metrics.rules_read(result.is_ok());
                Some(Event::RulesRead(result))
            }
            RuleJob::Apply(transaction) => {
                let result = with_socket(&mut socket, open, |socket| socket.apply(&transaction));
                desk.metrics.rules_applied(transaction.commands.len(), result.is_ok(), began);
                Some(Event::RulesApplied(result))
            }
            RuleJob::Sweep(sweep) => {
                sweep_stamps(sweep, owner);
                None
            }
            RuleJob::Counters(reply) => {
                let result = with_socket(&mut socket, open, NftSocket::counter_values);
                let _ = reply.send(result.unwrap_or_default());
                None
            }
            RuleJob::Keep(reply) => {
                keep(&mut socket, &mut counts);
                let _ = reply.send(());
                None
            }
            RuleJob::Rules(reply) => {
                let _ = reply.send(with_socket(&mut socket, open, NftSocket::rules));
                None
            }
        };
        desk.part.ends(Instant::now());
        if let Some(event) = event {
            owner.blocking_event(event);
        }
    }
}

/// Notes what the counters have counted, where there is a table. It is for a table that is gone by then; while there is one, the kernel
/// has the counts.
fn keep(socket: &mut Option<NftSocket>, counts: &mut KeptCounts) {
    let Some(socket) = socket else { return };
    match socket.counts_to_keep() {
        Ok(values) if !values.is_empty() => {
            if let Err(error) = counts.keep(&values) {
                warn!("what counters have counted is lost if somebody flushes the table: {error}");
            }
        }
        Ok(_) => {}
        Err(error) => debug!(%error, "nftables"),
    }
}

/// Sweeps in a thread of its own, for that takes long where there are many flows. It comes to its end with the sweep.
fn sweep_stamps(sweep: Sweep, owner: &OwnerHandle) {
    let teller = owner.clone();
    let work = move || {
        let began = Instant::now();
        let result = sweep_marks(sweep.bits, &sweep.kept).map_err(|error| error.to_string());
        debug!(?result, milliseconds = began.elapsed().as_millis(), "swept conntrack of old stamps");
        teller.blocking_event(Event::StampsSwept(result.map(|cleared| cleared as u64)));
    };
    if let Err(error) = std::thread::Builder::new().name("stamps".into()).spawn(work) {
        owner.blocking_event(Event::StampsSwept(Err(error.to_string())));
    }
}

/// Uses the one socket, which owns the table; another is opened only after one that broke.
fn with_socket<T>(
    slot: &mut Option<NftSocket>,
    open: impl FnOnce() -> Result<NftSocket, NftError>,
    work: impl FnOnce(&mut NftSocket) -> Result<T, NftError>,
) -> Result<T, String> {
    let socket = match slot {
        Some(socket) => socket,
        None => slot.insert(open().map_err(|error| error.to_string())?),
    };
    let result = work(socket);
    if let Err(error) = &result {
        debug!(%error, "nftables");
        if matches!(error, NftError::Send { .. } | NftError::Receive(_)) {
            *slot = None;
        }
    }
    result.map_err(|error| error.to_string())
}

/// The socket for routes is kept for life, also after an error: answers that came too late are told by their numbers.
fn write_routes(
    jobs: &Receiver<RouteJob>,
    owner: &OwnerHandle,
    runtime: &runtime::Handle,
    (mut bulk, mut marks): (Bulk, RouteMarks),
    desk: &Desk,
) {
    let _guard = runtime.enter();
    let mut net = None;
    while let Ok(job) = jobs.recv() {
        let began = Instant::now();
        let event = match job {
            RouteJob::Read => {
                let result = read_routes(&mut net, &mut bulk, runtime);
                desk.metrics.routes_read(began);
                Event::RoutesRead(result)
            }
            RouteJob::Apply(changes) => {
                let result = apply_routes(&mut bulk, &mut marks, &changes);
                desk.metrics.routes_applied(result.as_ref().is_ok_and(Vec::is_empty), began);
                Event::RoutesApplied(result)
            }
        };
        desk.part.ends(Instant::now());
        owner.blocking_event(event);
    }
}

fn read_routes(slot: &mut Option<Net>, bulk: &mut Bulk, runtime: &runtime::Handle) -> Result<Snapshot, String> {
    let net = match slot {
        Some(net) => net,
        None => slot.insert(Net::current().map_err(|error| error.to_string())?),
    };
    let (links, addresses) = match runtime.block_on(async { Ok((net.links().await?, net.all_addresses().await?)) }) {
        Ok(read) => read,
        Err(error) => {
            let error: tortie_felix_netlink::Error = error;
            *slot = None;
            return Err(error.to_string());
        }
    };
    let routes = bulk.routes_as(None, |route| Some(convert::route(route))).map_err(|error| error.to_string())?;
    let addresses = addresses.into_iter().map(|(index, address)| (index, address.addr())).collect();
    Ok(Snapshot { links: links.into_iter().map(convert::link).collect(), routes, addresses })
}

fn apply_routes(
    bulk: &mut Bulk,
    marks: &mut RouteMarks,
    changes: &[RouteChange],
) -> Result<Vec<tortie_felix::RouteFailure>, String> {
    let written = changes.iter().filter_map(|change| match change {
        RouteChange::Create(route) | RouteChange::Replace(route) => Some((route.protocol, route.metric)),
        RouteChange::Delete(_) | RouteChange::Shrink(_) | RouteChange::Retire(_) => None,
    });
    marks.note(written)?;
    let wanted: Vec<_> = changes.iter().map(convert::route_change).collect();
    let failures = bulk.apply(&wanted).map_err(|error| error.to_string())?;
    let released: BTreeSet<IpAddr> = changes.iter().filter_map(RouteChange::released).collect();
    if !released.is_empty() {
        // Before anybody is told that the addresses are free.
        match forget_flows(&released) {
            Ok(flows) => debug!(addresses = released.len(), flows, "forgot the flows of addresses that were let go"),
            Err(error) => warn!("flows of addresses that were let go may pass on to who has them next: {error}"),
        }
    }
    Ok(failures.iter().filter_map(|failure| convert::route_failure(changes, failure)).collect())
}
