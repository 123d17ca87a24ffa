//! The state machine that ties rules, routes, endpoints and BGP together.

use std::collections::VecDeque;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tortie_api::{Kind, Object, ObjectKey};
use tortie_bird_lite::{Config as BgpConfig, RibUpdate};
use tortie_nft::Ruleset;
use tortie_policy::{CompileOptions, Compiler, Endpoint, HostInterface, References};

use crate::bgp::Bgp;
use crate::configuration::Configurations;
use crate::drift::{DriftKind, Drifts};
use crate::endpoints::{Answer, Endpoints, Reasons};
use crate::event::{Action, Change, Event, LocalEndpoint, Millis};
use crate::guests::Guests;
use crate::host::Host;
use crate::host_endpoints::HostEndpoints;
use crate::overlays::Overlays;
use crate::routes::Routes;
use crate::rules::Rules;
use crate::settings::Settings;
use crate::view::{RouteView, Status};
use tunnels::Ends;

mod hosts;
mod kernel;
mod settings;
mod tunnels;
mod watch;

/// Read-backs of all routes are at least this far apart.
const READ_PAUSE: Millis = 1_000;

/// The first pause before refused routes, or a refused BGP configuration, are tried again; doubled each time.
const RETRY: Millis = 1_000;
const LONGEST_RETRY: Millis = 60_000;

/// What the node is told at its start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// The node's name, as its Node object has it.
    pub node: String,
    /// Whether rules and routes are this agent's to write.
    pub dataplane: bool,
    /// Whether it speaks BGP.
    pub bgp: bool,
    /// The routing protocol numbers that this node's routes have had since it booted: what bears one of them is ours.
    #[serde(default)]
    pub route_protocols: Vec<u8>,
    /// A random number: where a table that starts from nothing begins to count generations, and when audits fall.
    pub seed: u32,
}

/// What is under way with the route table.
#[derive(Debug, PartialEq, Eq)]
enum RouteIo {
    Idle,
    Reading,
    Writing,
}

/// A pause that doubles with each failure.
#[derive(Debug, Default)]
struct Backoff {
    failures: u32,
    at: Option<Millis>,
}

impl Backoff {
    fn failed(&mut self, now: Millis) {
        let pause = RETRY.saturating_mul(1 << self.failures.min(10)).min(LONGEST_RETRY);
        self.failures = self.failures.saturating_add(1);
        self.at = Some(now + pause);
    }

    /// Whether the time has come; then it is over.
    fn due(&mut self, now: Millis) -> bool {
        let due = self.at.is_some_and(|at| at <= now);
        if due {
            self.at = None;
        }
        due
    }
}

/// The node's brain. See the crate's documentation for what it promises.
#[derive(Debug)]
pub struct Felix {
    config: Config,
    now: Millis,
    compiler: Compiler,
    rules: Rules,
    routes: Routes,
    endpoints: Endpoints,
    bgp: Bgp,
    answers: Vec<Answer>,
    /// Whether something happened that others may have waited for.
    progress_due: bool,

    restored: bool,
    in_sync: bool,
    /// Numbers the batches of the datastore; revisions not programmed yet, by number.
    sequence: u64,
    revision: String,
    unprogrammed: VecDeque<(u64, String)>,
    programmed: String,
    /// The batch that the kernel's rules reflect, that its routes reflect, and that the speaker reflects.
    rules_sequence: u64,
    routes_sequence: u64,
    bgp_sequence: u64,
    /// The batch that the rules under way reflect.
    rules_sent: u64,
    bgp_sent: u64,

    route_io: RouteIo,
    /// What the kernel announced since the reading under way began, and who caused it.
    announcements: Vec<(Event, Option<String>)>,
    routes_read: bool,
    read_routes_at: Option<Millis>,
    last_read: Option<Millis>,
    route_retry: Backoff,
    rules_audit_at: Option<Millis>,
    routes_audit_at: Option<Millis>,

    restarting: bool,
    /// BGP's routes of an earlier run, for the speaker to start with; empty once it has.
    kept: Vec<(IpNet, IpAddr)>,
    bgp_dirty: bool,
    bgp_busy: bool,
    bgp_config: Option<tortie_bird_lite::Config>,
    bgp_retry: Backoff,
    bgp_problems: Vec<String>,
    bgp_error: Option<String>,

    configurations: Configurations,
    /// What policies and host endpoints name.
    references: References,
    settings: Settings,
    settings_dirty: bool,
    /// What the names of pods' interfaces begin with: as the settings say, and as those that are here are named.
    prefixes: Vec<String>,
    /// Whether other settings may hold than were handed out last.
    settings_untold: bool,
    /// The settings that were handed out last.
    told_settings: Option<Box<Settings>>,
    /// What is configured and has no effect.
    warnings: Vec<String>,

    host_endpoints: HostEndpoints,
    /// The interfaces that the compiler knows as host endpoints.
    host_interfaces: Vec<HostInterface>,
    host_endpoint_problems: Vec<String>,

    /// What the node was told to be like last.
    host: Option<Host>,
    host_dirty: bool,
    host_problems: Vec<String>,
    host_error: Option<String>,
    /// What stands in the way of pods in the host's own firewalls, as the edge said last.
    host_firewall: Vec<String>,
    host_retry: Backoff,

    overlays: Overlays,
    guests: Guests,
    /// Whether pools or nodes are others than overlays were decided for.
    overlays_dirty: bool,
    ends: Ends,

    drifts: Drifts,
    /// Who caused the event that is being taken in, where the kernel tells.
    author: Option<String>,
}

impl Felix {
    /// A node that knows nothing yet.
    pub fn new(config: Config) -> Self {
        let rules = Rules::new(config.seed);
        let routes = Routes::new(config.bgp, &config.route_protocols);
        Self {
            rules,
            routes,
            compiler: Compiler::new(CompileOptions::default()),
            endpoints: Endpoints::default(),
            bgp: Bgp::default(),
            answers: Vec::new(),
            progress_due: false,
            now: 0,
            restored: false,
            in_sync: false,
            sequence: 0,
            revision: String::new(),
            unprogrammed: VecDeque::new(),
            programmed: String::new(),
            rules_sequence: 0,
            routes_sequence: 0,
            bgp_sequence: 0,
            rules_sent: 0,
            bgp_sent: 0,
            route_io: RouteIo::Idle,
            announcements: Vec::new(),
            routes_read: false,
            read_routes_at: config.dataplane.then_some(0),
            last_read: None,
            route_retry: Backoff::default(),
            rules_audit_at: None,
            routes_audit_at: None,
            restarting: false,
            kept: Vec::new(),
            bgp_dirty: config.bgp,
            bgp_busy: false,
            bgp_config: None,
            bgp_retry: Backoff::default(),
            bgp_problems: Vec::new(),
            bgp_error: None,
            configurations: Configurations::new(config.node.clone()),
            references: References::default(),
            settings: Settings::default(),
            settings_dirty: false,
            prefixes: Settings::default().routes.interface_prefixes,
            settings_untold: true,
            told_settings: None,
            warnings: Vec::new(),
            host_endpoints: HostEndpoints::new(config.node.clone()),
            host_interfaces: Vec::new(),
            host_endpoint_problems: Vec::new(),
            host: None,
            host_dirty: true,
            host_problems: Vec::new(),
            host_error: None,
            host_firewall: Vec::new(),
            host_retry: Backoff::default(),
            overlays: Overlays::new(config.node.clone()),
            guests: Guests::default(),
            overlays_dirty: false,
            ends: Ends::default(),
            drifts: Drifts::default(),
            author: None,
            config,
        }
    }

    // ---- events --------------------------------------------------------------------------------------------------------------

    /// Takes in what happened at `now`, which never goes back. Then [`Felix::poll`] until it has nothing more.
    pub fn handle(&mut self, event: Event, now: Millis) {
        self.now = self.now.max(now);
        match event {
            Event::Datastore { changes, in_sync, revision } => self.handle_datastore(changes, in_sync, revision),
            Event::Restored { endpoints } => {
                self.restored = true;
                self.host_dirty = true;
                for endpoint in endpoints {
                    self.endpoints.add(endpoint, None, &mut self.routes, &mut self.answers);
                }
                self.reprefix();
                self.admit();
            }
            Event::AddEndpoint { request, endpoint } => self.handle_add(request, endpoint),
            Event::RemoveEndpoint { request, container_id, ifname } => {
                let version = self.rules.touch();
                let key = (container_id, ifname);
                self.endpoints.remove(&key, request, self.now, version, &mut self.routes, &mut self.answers);
                self.host_dirty = true;
                self.bgp_dirty = true;
            }
            Event::Rib(_) if !self.config.dataplane => {}
            Event::Rib(RibUpdate::Best { prefix, next_hops }) => self.routes.set_best(prefix, next_hops),
            Event::Rib(RibUpdate::Withdrawn { prefix }) => self.routes.withdraw(prefix),
            Event::Rib(RibUpdate::Converged) => self.routes.converged(),
            Event::RulesRead(result) => self.rules.read(result, self.now, &mut self.compiler),
            Event::StampsSwept(result) => self.rules.swept(result, self.now),
            Event::RulesApplied(result) => {
                if self.rules.applied_with(result, self.now) {
                    self.rules_sequence = self.rules_sent;
                }
            }
            Event::RoutesRead(result) => {
                self.route_io = RouteIo::Idle;
                match result {
                    Ok(snapshot) => {
                        let matters = self.host_endpoints.read(&snapshot.links, &snapshot.addresses);
                        self.interfaces_changed(matters);
                        self.routes.read_back(snapshot);
                        if !self.routes_read {
                            self.routes_read = true;
                            self.kept = self.routes.inherit();
                            self.restarting = !self.kept.is_empty();
                        }
                        self.host_error = None;
                    }
                    Err(reason) => {
                        self.host_error = Some(format!("routes cannot be read: {reason}"));
                        self.read_routes_at = Some(self.now + READ_PAUSE);
                    }
                }
                self.catch_up();
            }
            Event::RoutesApplied(result) => {
                self.route_io = RouteIo::Idle;
                match result {
                    Ok(failures) => self.routes.applied(failures),
                    Err(reason) => {
                        self.routes.lost(&reason);
                        self.read_routes();
                    }
                }
                if !self.routes.has_failed() {
                    self.route_retry = Backoff::default();
                } else if self.route_retry.at.is_none() {
                    self.route_retry.failed(self.now);
                }
            }
            Event::BgpConfigured(result) => {
                self.bgp_busy = false;
                match result {
                    Ok(()) => {
                        self.kept = Vec::new();
                        self.bgp_sequence = self.bgp_sent;
                        self.bgp_retry = Backoff::default();
                        self.bgp_error = None;
                    }
                    Err(reason) => {
                        self.bgp_config = None;
                        self.bgp_error = Some(format!("the BGP speaker refused its configuration: {reason}"));
                        self.bgp_retry.failed(self.now);
                    }
                }
            }
            Event::HostConfigured(result) => self.host_configured(result),
            Event::HostKept(report) => self.host_kept(report),
            Event::TunnelsConfigured(report) => self.tunnels_configured(report),
            Event::TunnelsKept(report) => self.tunnels_kept(report),
            event @ (Event::LinkChanged(_)
            | Event::LinkRemoved { .. }
            | Event::AddressAdded { .. }
            | Event::AddressRemoved { .. }
            | Event::RouteChanged(_)
            | Event::RouteRemoved(_)) => self.announced(event),
            Event::Overrun => self.read_routes(),
            Event::RulesTouched { by } => self.rules.touched(by),
            Event::HostFirewall(found) => {
                for repair in found.repairs {
                    self.drifts.record(self.now, DriftKind::HostFirewall, repair.object, repair.found, repair.by);
                }
                self.host_firewall = found.problems;
            }
            Event::Caused { by, event } => {
                self.author = Some(by);
                self.handle(*event, now);
                self.author = None;
            }
        }
        self.note_drifts();
        self.progress_due = true;
    }

    /// Takes in that `now` has come. Then [`Felix::poll`] until it has nothing more.
    pub fn handle_timeout(&mut self, now: Millis) {
        self.now = self.now.max(now);
        let reasons = Reasons { not_ready: self.not_ready(), rules: self.rules.error() };
        if self.endpoints.expire(self.now, &mut self.routes, &reasons, &mut self.answers) {
            self.rules.touch();
            self.bgp_dirty = true;
        }
        if self.route_retry.due(self.now) {
            self.routes.retry();
            self.read_routes();
        }
        if self.bgp_retry.due(self.now) {
            self.bgp_dirty = true;
        }
        self.host_dirty |= self.host_retry.due(self.now);
        if self.overlays.timeout().is_some_and(|at| at <= self.now) {
            self.settle_overlays();
        }
        if self.rules_audit_at.is_some_and(|at| at <= self.now) {
            self.rules_audit_at = None;
            self.rules.want_read();
        }
        if self.routes_audit_at.is_some_and(|at| at <= self.now) {
            self.routes_audit_at = None;
            self.read_routes();
        }
        self.progress_due = true;
    }

    fn handle_datastore(&mut self, changes: Vec<Change>, in_sync: bool, revision: String) {
        let (mut relevant, mut hosts) = (false, false);
        let mut admission = in_sync && !self.in_sync;
        let begins = admission;
        for change in changes {
            admission = admission || self.endpoints.has_pod_of(&change);
            relevant |= match change {
                Change::Upsert(object) => {
                    hosts |= self.host_endpoints.upsert(&object);
                    self.upsert(&object)
                }
                Change::Delete(key) => {
                    hosts |= self.host_endpoints.remove(&key);
                    self.delete(&key)
                }
            };
        }
        if in_sync && !self.in_sync {
            self.in_sync = true;
            self.settings_dirty = true;
            relevant = true;
        }
        if self.in_sync && std::mem::take(&mut self.settings_dirty) {
            relevant |= self.resettle();
            self.host_dirty = true;
        }
        relevant |= hosts && self.resolve_hosts();
        self.sequence += 1;
        self.revision.clone_from(&revision);
        self.unprogrammed.push_back((self.sequence, revision));
        if relevant && self.in_sync {
            self.rules.touch();
        }
        if admission {
            self.admit();
        }
        if self.bgp_dirty {
            self.host_dirty = true;
            self.routes.set_blocks(self.bgp.own_blocks(&self.config.node));
            self.routes.set_own_addresses(self.bgp.addresses(&self.config.node));
            if self.config.bgp {
                self.routes.set_gateways(self.bgp.gateways(&self.config.node));
            }
        }
        if self.bgp_dirty || self.overlays_dirty || begins {
            self.overlays_dirty = false;
            self.settle_overlays();
        }
    }

    fn upsert(&mut self, object: &Object) -> bool {
        self.bgp_dirty |= self.bgp.upsert(object);
        self.overlays_dirty |= self.overlays.upsert(object);
        if let Object::Pod(pod) = object {
            self.note_guest(pod);
        }
        let touched = self.configurations.upsert(object);
        self.settings_dirty |= touched.settings;
        self.host_dirty |= touched.pods;
        self.references.upsert(object);
        self.compiler.cluster_mut().upsert(object)
    }

    fn delete(&mut self, key: &ObjectKey) -> bool {
        // A node that is deleted keeps its last BGP configuration until it is told to stop: its pods still run.
        if !(key.kind == Kind::Node && key.name == self.config.node) {
            self.bgp_dirty |= self.bgp.remove(key);
            self.overlays_dirty |= self.overlays.remove(key);
        }
        if key.kind == Kind::Pod {
            self.overlays_dirty |= self.guests.remove(key.namespace.as_deref().unwrap_or("default"), &key.name);
        }
        let touched = self.configurations.remove(key);
        self.settings_dirty |= touched.settings;
        self.host_dirty |= touched.pods;
        self.references.remove(key);
        self.compiler.cluster_mut().remove(key)
    }

    fn handle_add(&mut self, request: u64, endpoint: LocalEndpoint) {
        if !self.config.dataplane {
            let reason = "this agent runs without the component felix, so it cannot protect a pod";
            self.answers.push((request, Err(reason.into())));
            return;
        }
        self.endpoints.add(endpoint, Some((request, self.now)), &mut self.routes, &mut self.answers);
        self.reprefix();
        self.host_dirty = true;
        // One that took another's place, or changed its addresses, was in the rules until now.
        self.rules.touch();
        self.bgp_dirty = true;
        self.admit();
    }

    /// Admits the endpoints whose Pod object is known, once all that exist are.
    fn admit(&mut self) {
        let cluster = self.compiler.cluster();
        let known = |endpoint: &LocalEndpoint| cluster.has_endpoint(&endpoint.namespace, &endpoint.pod);
        if self.in_sync && self.endpoints.admission_due(known) {
            let version = self.rules.touch();
            self.endpoints.admit(version, &mut self.routes, known);
            self.bgp_dirty = true;
        }
    }

    /// Moves on whatever waited for what has now happened. Once for all events between two polls, for a peer may send a million.
    fn progress(&mut self) {
        if self.routes.take_doubt() {
            self.read_routes();
        }
        if !self.config.dataplane {
            self.rules_sequence = self.sequence;
            self.routes_sequence = self.sequence;
        } else if self.ready() {
            if self.rules.applied() >= self.rules.version() {
                self.rules_sequence = self.sequence;
            }
            self.enforce();
            self.endpoints.answer_routed(&self.routes, &mut self.answers);
            if self.routes.local_settled() {
                self.routes_sequence = self.rules_sequence;
            }
        }
        if !self.config.bgp {
            self.bgp_sequence = self.sequence;
        }
        self.settle_drifts();
        if !self.in_sync {
            return;
        }
        if !self.config.dataplane {
            self.ends.sequence = self.sequence;
        }
        let programmed = self.routes_sequence.min(self.bgp_sequence).min(self.ends.sequence);
        while self.unprogrammed.front().is_some_and(|(sequence, _)| *sequence <= programmed) {
            if let Some((_, revision)) = self.unprogrammed.pop_front() {
                self.programmed = revision;
            }
        }
        if self.config.dataplane {
            // Up to half as often, so that nodes do not do it in step.
            let seed = Millis::from(self.config.seed);
            let at = |every: Millis| self.now.saturating_add(every).saturating_add(seed % (every / 2).max(1));
            self.rules_audit_at = self.rules_audit_at.or(self.settings.rules_refresh.map(at));
            self.routes_audit_at = self.routes_audit_at.or(self.settings.routes_refresh.map(at));
        }
    }

    /// Gives routes to the endpoints whose rules the kernel holds.
    fn enforce(&mut self) {
        let applied = self.rules.applied();
        self.endpoints.progress(applied, &mut self.routes, &mut self.answers);
        if applied > 0 {
            self.routes.rules_known();
        }
    }

    fn read_routes(&mut self) {
        if self.config.dataplane {
            let earliest = self.last_read.map_or(0, |last| last + READ_PAUSE);
            self.read_routes_at = Some(self.read_routes_at.map_or(earliest, |at| at.min(earliest)));
        }
    }

    /// Why nothing may be written yet.
    fn not_ready(&self) -> Option<&'static str> {
        if !self.in_sync {
            Some("the datastore is not read completely yet")
        } else if !self.restored {
            Some("the endpoints of the run before are not read yet")
        } else if self.config.dataplane && !self.rules.ever_read() {
            Some("the kernel's nftables rules are not read yet")
        } else if self.config.dataplane && !self.routes_read {
            Some("the kernel's routes are not read yet")
        } else {
            None
        }
    }

    /// Whether everything was read that must be before anything is written.
    fn ready(&self) -> bool {
        self.not_ready().is_none()
    }

    // ---- actions -------------------------------------------------------------------------------------------------------------

    /// The next thing to do, if any.
    pub fn poll(&mut self) -> Option<Action> {
        loop {
            if std::mem::take(&mut self.progress_due) {
                self.progress();
            }
            // Before the answers: who waits for one may count on what its pod may send and be sent.
            if let Some(action) = self.poll_settings().or_else(|| self.poll_host()) {
                return Some(action);
            }
            if !self.answers.is_empty() {
                let (request, result) = self.answers.remove(0);
                return Some(Action::Done { request, result });
            }
            if let Some(drift) = self.drifts.report(self.now) {
                return Some(Action::Report(drift));
            }
            let action = self.poll_rules().or_else(|| self.poll_tunnels());
            let action = action.or_else(|| self.poll_routes()).or_else(|| self.poll_bgp());
            if action.is_some() {
                return action;
            }
            // What was compared and found equal may have been waited for, and what waited may want a route.
            self.progress();
            let routes_due = self.may_write_routes() && self.routes.has_changes();
            if self.answers.is_empty() && !routes_due {
                return None;
            }
        }
    }

    fn poll_rules(&mut self) -> Option<Action> {
        if !self.config.dataplane {
            return None;
        }
        let ready = self.ready();
        let under_way = self.rules.is_under_way();
        let endpoints = || self.endpoints.admitted().map(compiled_for).collect();
        let revision = self.endpoints.revision();
        let step = self.rules.step(self.now, ready, &mut self.compiler, revision, endpoints);
        let action = step.or_else(|| if ready { self.rules.sweep(self.now) } else { None })?;
        if matches!(action, Action::ApplyRules(_)) && !under_way {
            self.rules_sent = self.sequence;
        }
        Some(action)
    }

    fn may_write_routes(&self) -> bool {
        self.config.dataplane && self.route_io == RouteIo::Idle && self.ready()
    }

    fn poll_routes(&mut self) -> Option<Action> {
        if self.route_io != RouteIo::Idle || !self.config.dataplane {
            return None;
        }
        if self.read_routes_at.is_some_and(|at| at <= self.now) {
            self.read_routes_at = None;
            self.last_read = Some(self.now);
            self.route_io = RouteIo::Reading;
            return Some(Action::ReadRoutes);
        }
        if !self.may_write_routes() {
            return None;
        }
        self.enforce();
        while self.routes.has_changes() {
            let changes = self.routes.take_changes();
            if !changes.is_empty() {
                self.route_io = RouteIo::Writing;
                return Some(Action::ApplyRoutes(changes));
            }
        }
        None
    }

    fn poll_bgp(&mut self) -> Option<Action> {
        if !self.config.bgp || self.bgp_busy || !self.ready() || self.bgp_retry.at.is_some() {
            return None;
        }
        if !std::mem::take(&mut self.bgp_dirty) {
            if self.bgp_config.is_some() || !self.bgp_problems.is_empty() {
                self.bgp_sequence = self.sequence;
            }
            return None;
        }
        self.bgp_problems.clear();
        let pods = self
            .endpoints
            .admitted()
            .flat_map(|endpoint| endpoint.ips.iter().map(|address| (*address, endpoint.interface.as_str())));
        let addresses = pods.chain(self.overlays.own_ends());
        match self.bgp.config(&self.config.node, addresses, self.restarting, &mut self.bgp_problems) {
            Ok(config) if self.bgp_config.as_ref() != Some(&config) => {
                self.bgp_config = Some(config.clone());
                self.bgp_busy = true;
                self.bgp_sent = self.sequence;
                // A route through an overlay leads to the other node's end, and BGP knows the node.
                let node = |gateway: IpAddr| self.overlays.node_of_end(gateway).unwrap_or(gateway);
                let kept = self.kept.iter().map(|(prefix, gateway)| (*prefix, node(*gateway))).collect();
                let writes_fib = self.config.dataplane;
                Some(Action::ConfigureBgp(Box::new(BgpConfig { kept, writes_fib, ..config })))
            }
            Ok(_) => {
                self.bgp_sequence = self.sequence;
                None
            }
            Err(reason) => {
                self.bgp_problems.push(reason);
                self.bgp_sequence = self.sequence;
                None
            }
        }
    }

    /// When [`Felix::handle_timeout`] must be called at the latest.
    pub fn poll_timeout(&self) -> Option<Millis> {
        let rules = if self.config.dataplane && (self.ready() || !self.rules.ever_read()) {
            self.rules.timeout()
        } else {
            None
        };
        let read = if self.route_io == RouteIo::Idle { self.read_routes_at } else { None };
        [
            rules,
            read,
            self.route_retry.at,
            self.rules_audit_at,
            self.routes_audit_at,
            self.bgp_retry.at,
            self.host_retry.at,
            self.endpoints.deadline(),
            self.drifts.timeout(),
            self.overlays.timeout(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    // ---- questions -----------------------------------------------------------------------------------------------------------

    /// The state in short.
    pub fn status(&self) -> Status {
        let mut problems = Vec::new();
        problems.extend(self.rules.error().map(str::to_owned));
        problems.extend(self.rules.stamps_error().map(str::to_owned));
        problems.extend(self.host_error.clone());
        problems.extend(self.host_firewall.iter().cloned());
        problems.extend(self.host_problems.iter().cloned());
        problems.extend(self.configurations.problems().cloned());
        problems.extend(self.compiler.problems());
        problems.extend(self.references.problems());
        problems.extend(self.host_endpoint_problems.iter().cloned());
        problems.extend(self.bgp_error.clone());
        problems.extend(self.bgp_problems.iter().cloned());
        problems.extend(self.ends.problems().cloned());
        if self.ready() {
            self.endpoints.problems(&mut problems);
            self.routes.problems(&mut problems);
        }
        Status {
            in_sync: self.in_sync,
            revision: self.revision.clone(),
            programmed_revision: self.programmed.clone(),
            generation: self.rules.generation().number(),
            endpoints: self.endpoints.all().count(),
            problems,
            warnings: self.warnings.iter().cloned().chain(self.compiler.unheeded()).collect(),
        }
    }

    /// The datastore revision that is in the kernel and the speaker; empty before the first.
    pub fn programmed_revision(&self) -> &str {
        &self.programmed
    }

    /// The table that this node wants.
    pub fn wanted_rules(&self) -> Option<&Ruleset> {
        self.rules.wanted(&self.compiler)
    }

    /// The routes that are wanted or ours, with their state.
    pub fn routes(&self) -> Vec<RouteView> {
        self.routes.view()
    }

    /// The endpoints, admitted or not.
    pub fn endpoints(&self) -> impl Iterator<Item = &LocalEndpoint> {
        self.endpoints.all()
    }
}

/// What the compiler has to know of an endpoint.
fn compiled_for(endpoint: &LocalEndpoint) -> Endpoint {
    Endpoint {
        namespace: endpoint.namespace.clone(),
        pod: endpoint.pod.clone(),
        interface: endpoint.interface.clone(),
        ips: endpoint.ips.clone(),
    }
}
