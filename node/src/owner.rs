//! The owner of the core: one thread that feeds it events and hands its actions to whoever can do them.
//!
//! It has a runtime of its own and never waits for a write, so a big transaction or a slow disk delays nobody's question. Everything
//! that is waiting when it wakes is handed to the core before the core is asked what to do: a burst becomes one transaction.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tortie_admin::types::Endpoint;
use tortie_felix::hits::{HitRow, Hits};
use tortie_felix::{Action, Drift, Event, Felix, Millis, Numbers, RequestId, RouteView, Settings, Status};
use tortie_nft::Ruleset;
use tracing::{debug, info, warn};

use crate::convert;
use crate::health::{CORE, Part};
use crate::instruments::{Budget, Instruments, Stopwatch};
use crate::keeper::KeeperHandle;
use crate::memory;
use crate::metrics::Batch;
use crate::record::Recorder;
use crate::tunnels::TunnelsHandle;
use crate::writers::{RouteJob, RuleJob, Writers};

/// How many messages are taken in before the core is asked what to do.
const AT_ONCE: usize = 4096;

/// Problems are looked for this long after something happened, so that what is repaired at once is never logged.
const PROBLEMS_AFTER: Duration = Duration::from_secs(1);

/// What the owner is told.
#[derive(Debug)]
pub(crate) enum Message {
    /// Something happened.
    Event(Event),
    /// The datastore changed; with what is wrong with it now.
    Datastore {
        event: Event,
        problems: Vec<String>,
    },
    /// A CNI ADD; answered when rules and route are in the kernel.
    Add {
        endpoint: Endpoint,
        reply: oneshot::Sender<Result<(), String>>,
    },
    /// A CNI DEL; answered when nothing in the kernel refers to the endpoint.
    Remove {
        container_id: String,
        ifname: String,
        reply: oneshot::Sender<Result<(), String>>,
    },
    /// A question.
    Status(oneshot::Sender<Status>),
    Routes(oneshot::Sender<Vec<RouteView>>),
    Render(oneshot::Sender<Option<String>>),
    /// Which maps of the table count by element in these counters.
    CounterMaps(BTreeSet<String>, oneshot::Sender<Vec<(String, String)>>),
    /// What these counters of the table count, in words.
    Counted(BTreeSet<String>, oneshot::Sender<BTreeMap<String, String>>),
    /// What policies have decided, from what these counters have counted.
    Hits(Hits, oneshot::Sender<Vec<HitRow>>),
    Numbers(oneshot::Sender<Numbers>),
    /// What others changed, and how long ago.
    Drifts(oneshot::Sender<Vec<(Drift, Duration)>>),
    /// Whether anybody is there.
    Alive(oneshot::Sender<()>),
}

/// How everybody else reaches the owner.
#[derive(Debug, Clone)]
pub(crate) struct OwnerHandle {
    messages: mpsc::Sender<Message>,
}

impl OwnerHandle {
    pub(crate) fn channel() -> (Self, mpsc::Receiver<Message>) {
        let (messages, inbox) = mpsc::channel(1024);
        (Self { messages }, inbox)
    }

    /// Tells an event. Only fails when the owner is gone, and then the agent is about to end.
    pub(crate) async fn event(&self, event: Event) {
        let _ = self.messages.send(Message::Event(event)).await;
    }

    /// The same from a thread that may wait.
    pub(crate) fn blocking_event(&self, event: Event) {
        let _ = self.messages.blocking_send(Message::Event(event));
    }

    pub(crate) async fn datastore(&self, event: Event, problems: Vec<String>) {
        let _ = self.messages.send(Message::Datastore { event, problems }).await;
    }

    /// Returns when the owner has taken this in, or is gone.
    pub(crate) async fn is_alive(&self) {
        let _ = self.ask(Message::Alive).await;
    }

    /// Asks something. `None` when the owner is gone.
    pub(crate) async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Message) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.messages.send(question(reply)).await.ok()?;
        answer.await.ok()
    }
}

/// A CNI request that waits for its answer.
struct Request {
    /// What is true when it succeeds.
    what: String,
    /// Whether it adds an endpoint.
    adds: bool,
    ips: Vec<IpAddr>,
    since: Instant,
    reply: oneshot::Sender<Result<(), String>>,
}

impl Request {
    fn answer(self, result: Result<(), String>) {
        if result.is_ok() {
            let took = self.since.elapsed();
            info!(ips = ?self.ips, ?took, "{}", self.what);
        }
        // Failures are the CNI server's to log, with the call that they belong to.
        let _ = self.reply.send(result);
    }
}

/// The core and what is waiting for it.
pub(crate) struct Owner {
    felix: Felix,
    recorder: Recorder,
    start: Instant,
    writers: Writers,
    bgp: mpsc::UnboundedSender<Box<tortie_bird_speaker::Config>>,
    settings: watch::Sender<Settings>,
    keeper: KeeperHandle,
    tunnels: TunnelsHandle,
    requests: HashMap<RequestId, Request>,
    bgp_identity: Option<(u32, std::net::Ipv4Addr, usize)>,
    next_request: RequestId,
    datastore_problems: Vec<String>,
    known_problems: BTreeSet<String>,
    /// What was configured in vain and logged, in force or not: each is said once.
    known_warnings: BTreeSet<String>,
    problems_at: Option<Instant>,
    announced_sync: bool,
    programmed: String,
    instruments: Instruments,
    part: Part,
    stopwatch: Stopwatch,
    /// How many drifts may still be logged.
    drift_log: Budget,
}

impl Owner {
    pub(crate) fn new(
        felix: Felix,
        recorder: Recorder,
        writers: Writers,
        bgp: mpsc::UnboundedSender<Box<tortie_bird_speaker::Config>>,
        settings: watch::Sender<Settings>,
        (keeper, tunnels): (KeeperHandle, TunnelsHandle),
        instruments: Instruments,
    ) -> Self {
        let part = instruments.watchdog.part(CORE);
        Self {
            felix,
            recorder,
            start: Instant::now(),
            writers,
            bgp,
            settings,
            keeper,
            tunnels,
            requests: HashMap::new(),
            bgp_identity: None,
            next_request: 0,
            datastore_problems: Vec::new(),
            known_problems: BTreeSet::new(),
            known_warnings: BTreeSet::new(),
            problems_at: None,
            announced_sync: false,
            programmed: String::new(),
            instruments,
            part,
            stopwatch: Stopwatch::default(),
            drift_log: Budget::new(Instant::now()),
        }
    }

    /// Runs until every handle is dropped.
    pub(crate) async fn run(mut self, mut inbox: mpsc::Receiver<Message>) {
        self.act();
        loop {
            let wake = [self.felix.poll_timeout().map(|at| self.start + Duration::from_millis(at)), self.problems_at];
            let wake = wake.into_iter().flatten().min();
            let message = match wake {
                Some(at) => match tokio::time::timeout_at(at.into(), inbox.recv()).await {
                    Ok(None) => return,
                    Ok(message) => message,
                    Err(_) => None,
                },
                None => match inbox.recv().await {
                    None => return,
                    message => message,
                },
            };
            let woke = Instant::now();
            self.part.begins(woke);
            let mut batch = Batch::default();
            if let Some(message) = message {
                batch.note(&message);
                self.take(message);
                for _ in 1..AT_ONCE {
                    let Ok(message) = inbox.try_recv() else { break };
                    batch.note(&message);
                    self.take(message);
                }
            }
            let now = self.now();
            if self.felix.poll_timeout().is_some_and(|at| at <= now) {
                self.recorder.timeout(now);
                self.felix.handle_timeout(now);
            }
            self.act();
            self.report();
            let done = Instant::now();
            self.instruments.metrics.took_in(batch, done - woke, done);
            self.part.ends(done);
        }
    }

    fn now(&self) -> Millis {
        Millis::try_from(self.start.elapsed().as_millis()).unwrap_or(Millis::MAX)
    }

    fn handle(&mut self, event: Event) {
        let now = self.now();
        self.recorder.event(now, &event);
        let asks = Stopwatch::starts(&event);
        self.felix.handle(event, now);
        if asks && self.felix.rules_pending() {
            self.stopwatch.start(Instant::now());
        }
        self.problems_at.get_or_insert_with(|| Instant::now() + PROBLEMS_AFTER);
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Event(event) => self.handle(event),
            Message::Datastore { event, problems } => {
                self.datastore_problems = problems;
                self.handle(event);
            }
            Message::Add { endpoint, reply } => {
                let endpoint = convert::endpoint(&endpoint);
                let what = format!("pod {}/{} is connected", endpoint.namespace, endpoint.pod);
                let request = self.request(what, true, endpoint.ips.clone(), reply);
                self.handle(Event::AddEndpoint { request, endpoint });
            }
            Message::Remove { container_id, ifname, reply } => {
                let gone = self.felix.endpoints().find(|e| e.container_id == container_id && e.ifname == ifname);
                let what = gone.map_or_else(
                    || format!("unknown container {container_id} is disconnected"),
                    |endpoint| format!("pod {}/{} is disconnected", endpoint.namespace, endpoint.pod),
                );
                let ips = gone.map(|endpoint| endpoint.ips.clone()).unwrap_or_default();
                let request = self.request(what, false, ips, reply);
                self.handle(Event::RemoveEndpoint { request, container_id, ifname });
            }
            Message::Status(reply) => drop(reply.send(self.status())),
            Message::Routes(reply) => drop(reply.send(self.felix.routes())),
            Message::Render(reply) => drop(reply.send(self.felix.wanted_rules().map(ToString::to_string))),
            Message::CounterMaps(counters, reply) => {
                drop(reply.send(self.felix.wanted_rules().map(|table| maps_of(table, &counters)).unwrap_or_default()));
            }
            Message::Counted(counters, reply) => {
                let table = self.felix.wanted_rules();
                let comment = |name: &String| Some((name.clone(), table?.counters.get(name)?.clone()?));
                drop(reply.send(counters.iter().filter_map(comment).collect()));
            }
            Message::Hits(values, reply) => drop(reply.send(self.felix.hits(&values))),
            Message::Numbers(reply) => drop(reply.send(self.felix.numbers())),
            Message::Drifts(reply) => {
                let now = self.now();
                let age = |drift: &Drift| Duration::from_millis(now.saturating_sub(drift.at));
                drop(reply.send(self.felix.drifts().map(|drift| (drift.clone(), age(drift))).collect()));
            }
            Message::Alive(reply) => drop(reply.send(())),
        }
    }

    fn request(
        &mut self,
        what: String,
        adds: bool,
        ips: Vec<IpAddr>,
        reply: oneshot::Sender<Result<(), String>>,
    ) -> RequestId {
        self.next_request += 1;
        self.requests.insert(self.next_request, Request { what, adds, ips, since: Instant::now(), reply });
        self.next_request
    }

    fn status(&self) -> Status {
        let mut status = self.felix.status();
        status.problems.splice(0..0, self.datastore_problems.iter().cloned());
        status
    }

    /// Hands out what the core wants done.
    fn act(&mut self) {
        self.recorder.poll();
        while let Some(action) = self.felix.poll() {
            self.recorder.action(&action);
            self.instruments.metrics.wants(action.name());
            match action {
                Action::ReadRules => self.writers.rules(RuleJob::Read),
                Action::ApplyRules(transaction) => {
                    debug!(commands = transaction.commands.len(), "changing rules");
                    self.stopwatch.write();
                    self.writers.rules(RuleJob::Apply(transaction));
                }
                Action::SweepStamps(sweep) => self.writers.rules(RuleJob::Sweep(sweep)),
                Action::ReadRoutes => self.writers.routes(RouteJob::Read),
                Action::ApplyRoutes(changes) => {
                    debug!(changes = changes.len(), "changing routes");
                    self.writers.routes(RouteJob::Apply(changes));
                }
                Action::ConfigureHost(host) => self.keeper.host(host),
                Action::ConfigureTunnels(tunnels) => self.tunnels.keep(tunnels),
                Action::ConfigureBgp(config) => {
                    self.report_bgp(&config);
                    let _ = self.bgp.send(config);
                }
                Action::Report(drift) => self.report_drift(&drift),
                Action::Settings(settings) => drop(self.settings.send_replace(*settings)),
                Action::Done { request, result } => {
                    if let Some(request) = self.requests.remove(&request) {
                        if request.adds && result.is_ok() {
                            self.instruments.metrics.cni_added(request.since.elapsed());
                        }
                        request.answer(result);
                    }
                }
            }
        }
        self.recorder.flush();
        if !self.felix.rules_pending()
            && let Some(took) = self.stopwatch.stop(Instant::now())
        {
            self.instruments.metrics.committed(took);
        }
    }

    /// Logs what somebody else changed.
    fn report_drift(&mut self, drift: &Drift) {
        let Some(withheld) = self.drift_log.spend(Instant::now()) else { return };
        let by = drift.by.as_deref().map_or_else(String::new, |by| format!(" by {by}"));
        let state = if drift.repaired { "repaired" } else { "not repaired yet" };
        let more = if withheld > 0 { format!(" ({withheld} more were not logged)") } else { String::new() };
        warn!("{} {} was changed{by}: {}; {state}{more}", drift.what.as_str(), drift.object, drift.found);
    }

    /// Logs whom we peer with, when that changes; what we announce is said at debug, for it changes with blocks and pods.
    fn report_bgp(&mut self, config: &tortie_bird_speaker::Config) {
        let (as_number, router_id, peers) = (config.local_as, config.router_id, config.peers.len());
        debug!(prefixes = ?config.originate.iter().map(|originated| originated.prefix.to_string()).collect::<Vec<_>>(), "BGP announces");
        self.instruments.progress.configure_speaker(router_id);
        if self.bgp_identity != Some((as_number, router_id, peers)) {
            self.bgp_identity = Some((as_number, router_id, peers));
            info!(as_number, %router_id, peers, "BGP is configured");
        }
    }

    /// Logs what an operator wants to know: that the node is up, and each problem when it comes and when it goes.
    fn report(&mut self) {
        if self.felix.programmed_revision() != self.programmed {
            self.programmed = self.felix.programmed_revision().to_owned();
            self.instruments.progress.program(&self.programmed);
            if self.announced_sync {
                debug!(revision = self.programmed, "kernel and speaker have the datastore's revision");
            } else {
                self.announced_sync = true;
                self.instruments.watchdog.is_ready(Instant::now());
                memory::give_back();
                let milliseconds = self.now();
                info!(revision = self.programmed, milliseconds, "ready: the node is as the datastore wants it");
            }
        }
        if self.problems_at.is_some_and(|at| at <= Instant::now()) {
            self.problems_at = None;
            let status = self.status();
            for warning in status.warnings {
                if self.known_warnings.insert(warning.clone()) {
                    warn!("{warning}");
                }
            }
            let problems: BTreeSet<String> = status.problems.into_iter().collect();
            for problem in problems.difference(&self.known_problems) {
                warn!("{problem}");
            }
            for problem in self.known_problems.difference(&problems) {
                info!("no longer: {problem}");
            }
            self.known_problems = problems;
        }
    }
}

/// Of each map that counts by element in one of the counters, the two names.
fn maps_of(table: &Ruleset, counters: &BTreeSet<String>) -> Vec<(String, String)> {
    let mut found = BTreeSet::new();
    for (map, content) in &table.counter_maps {
        let used = content.elements.values().filter(|counter| counters.contains(*counter));
        found.extend(used.map(|counter| (map.clone(), counter.clone())));
    }
    found.into_iter().collect()
}
