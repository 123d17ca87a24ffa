//! A world around the core: a fake table, a fake FIB and a list of answers, which do what the actions say and check what must hold.

#![allow(dead_code)] // Each test uses its part.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::json;
use tortie_api::calico::{BgpConfiguration, BlockAffinity, IpPool, IpamBlock, Tunnel};
use tortie_api::k8s::{Namespace, NetworkPolicy, Node, Pod};
use tortie_api::{Object, ObjectKey};
use tortie_felix::{
    Action, Change, Config, Event, Felix, Link, LocalEndpoint, Millis, ROUTE_PROTOCOL, Route, RouteChange,
    RouteFailure, Settings, Snapshot, Sweep, Target, TunnelReport, Tunnels,
};
use tortie_nft::fake::Fake;
use tortie_nft::{Executor, Ruleset, Value};
use tortie_policy::hits::without_unused;
use tortie_policy::host_interface;

/// This node's uplink.
pub(crate) const ETH0: u32 = 2;

/// A kernel's routes, where they are real.
pub(crate) trait FibOf {
    fn read(&mut self) -> Snapshot;
    fn write(&mut self, changes: &[RouteChange]) -> Vec<RouteFailure>;
}

/// The core, its world, and what passed between them.
pub(crate) struct World {
    pub(crate) felix: Felix,
    pub(crate) now: Millis,
    pub(crate) table: Fake,
    /// The sweeps of stamps that were asked for, what the kernel says to them, and whether it says so only later.
    pub(crate) sweeps: Vec<Sweep>,
    pub(crate) sweep_result: Result<u64, String>,
    pub(crate) hold_sweeps: bool,
    pub(crate) fib: BTreeMap<(IpNet, u32), Route>,
    pub(crate) links: BTreeMap<u32, Link>,
    /// A gateway in a route of ours that is not ours.
    pub(crate) strangers_gateway: Option<(IpAddr, u32)>,
    /// In place of `fib`, where it is real.
    pub(crate) kernel: Option<Box<dyn FibOf>>,
    pub(crate) answers: BTreeMap<u64, Result<(), String>>,
    pub(crate) bgp: Option<tortie_bird_lite::Config>,
    /// Every action but reads and answers.
    pub(crate) writes: Vec<Action>,
    /// What was reported of others' changes.
    pub(crate) drifts: Vec<tortie_felix::Drift>,
    /// The settings that were handed out last, and how often any were.
    pub(crate) settings: Option<Settings>,
    pub(crate) settings_told: usize,
    /// How often rules and routes were read.
    pub(crate) reads: (usize, usize),
    /// Actions that wait to be done, when `paused`.
    pub(crate) held: VecDeque<Action>,
    pub(crate) paused: bool,
    /// Whether strangers edit the table, so that a route may be written between their edit and its repair.
    pub(crate) strangers: bool,
    /// What the kernel says to the next transactions, and to route writes while set.
    pub(crate) refuse_rules: u32,
    /// The ends of overlays that were asked for last, and those that the kernel does not have.
    pub(crate) tunnels: Option<Tunnels>,
    pub(crate) no_tunnels: BTreeSet<Tunnel>,
    pub(crate) refuse_routes: Option<String>,
    revision: u32,
    next_request: u64,
}

pub(crate) fn config(node: &str) -> Config {
    Config { node: node.into(), dataplane: true, bgp: true, route_protocols: Vec::new(), seed: 7 }
}

impl World {
    pub(crate) fn new(node: &str) -> Self {
        let mut world = Self {
            felix: Felix::new(config(node)),
            now: 1_000,
            table: Fake::new(),
            sweeps: Vec::new(),
            sweep_result: Ok(0),
            hold_sweeps: false,
            fib: BTreeMap::new(),
            links: BTreeMap::new(),
            strangers_gateway: None,
            kernel: None,
            answers: BTreeMap::new(),
            bgp: None,
            writes: Vec::new(),
            drifts: Vec::new(),
            settings: None,
            settings_told: 0,
            reads: (0, 0),
            held: VecDeque::new(),
            paused: false,
            strangers: false,
            refuse_rules: 0,
            tunnels: None,
            no_tunnels: BTreeSet::new(),
            refuse_routes: None,
            revision: 0,
            next_request: 0,
        };
        world.links.insert(ETH0, Link { index: ETH0, name: "eth0".into(), up: true });
        world.insert(route("172.31.0.0/24", Target::device(ETH0), 2, 0));
        world.insert(route("fd00:172:31::/64", Target::device(ETH0), 2, 256));
        world
    }

    /// The same kernel under a new process.
    pub(crate) fn restart(&mut self) {
        self.felix = Felix::new(config("a"));
        self.writes.clear();
        self.held.clear();
        self.answers.clear();
        self.bgp = None;
    }

    pub(crate) fn insert(&mut self, route: Route) {
        self.fib.insert((route.destination, route.metric), route);
    }

    /// Gives the core an event and does what it then wants done.
    pub(crate) fn send(&mut self, event: Event) {
        self.tell(event);
        self.run();
    }

    /// Gives the core an event, and no time to act on it.
    pub(crate) fn tell(&mut self, event: Event) {
        let text = serde_json::to_string(&event).expect("events are recorded");
        let replayed = serde_json::from_str::<Event>(&text).expect("and replayed");
        // What a Secret holds is in no recording.
        let is_secret = |change: &Change| matches!(change, Change::Upsert(Object::Secret(_)));
        let secret = matches!(&event, Event::Datastore { changes, .. } if changes.iter().any(is_secret));
        assert_ne!(replayed == event, secret, "{replayed:?} of {event:?}");
        self.felix.handle(event, self.now);
    }

    pub(crate) fn start(&mut self, endpoints: Vec<LocalEndpoint>) {
        self.run();
        self.send(Event::Restored { endpoints });
    }

    pub(crate) fn apply(&mut self, objects: Vec<Object>) -> String {
        self.batch(objects.into_iter().map(Change::Upsert).collect(), true)
    }

    pub(crate) fn delete(&mut self, key: ObjectKey) -> String {
        self.batch(vec![Change::Delete(key)], true)
    }

    pub(crate) fn batch(&mut self, changes: Vec<Change>, in_sync: bool) -> String {
        self.revision += 1;
        let revision = format!("r{}", self.revision);
        self.send(Event::Datastore { changes, in_sync, revision: revision.clone() });
        revision
    }

    /// A CNI ADD: the interface comes up, then the endpoint is added.
    pub(crate) fn add(&mut self, endpoint: &LocalEndpoint) -> u64 {
        self.link_of(endpoint, true);
        self.next_request += 1;
        let request = self.next_request;
        self.send(Event::AddEndpoint { request, endpoint: endpoint.clone() });
        request
    }

    pub(crate) fn link_of(&mut self, endpoint: &LocalEndpoint, up: bool) {
        let known = self.links.values().find(|link| link.name == endpoint.interface).map(|link| link.index);
        let index = known.unwrap_or_else(|| self.links.keys().max().map_or(10, |last| last.max(&9) + 1));
        let link = Link { index, name: endpoint.interface.clone(), up };
        self.links.insert(index, link.clone());
        self.send(Event::LinkChanged(link));
    }

    /// A CNI DEL: the endpoint is removed; the interface goes when the answer says so.
    pub(crate) fn remove(&mut self, endpoint: &LocalEndpoint) -> u64 {
        self.next_request += 1;
        let request = self.next_request;
        let LocalEndpoint { container_id, ifname, .. } = endpoint.clone();
        self.send(Event::RemoveEndpoint { request, container_id, ifname });
        request
    }

    pub(crate) fn rib(&mut self, prefix: &str, next_hop: &str) {
        let (prefix, next_hops) = (net(prefix), vec![ip(next_hop)]);
        self.send(Event::Rib(tortie_bird_lite::RibUpdate::Best { prefix, next_hops }));
    }

    /// Lets time pass, with the core's timers.
    pub(crate) fn advance(&mut self, by: Millis) {
        let end = self.now + by;
        while let Some(at) = self.felix.poll_timeout().filter(|at| *at <= end) {
            let before = self.now;
            self.now = self.now.max(at);
            self.felix.handle_timeout(self.now);
            self.run();
            let again = self.felix.poll_timeout();
            assert!(
                again.is_none_or(|again| again > at || self.now > before || self.paused),
                "a timer that never ends"
            );
        }
        self.now = end;
        self.felix.handle_timeout(end);
        self.run();
    }

    pub(crate) fn run(&mut self) {
        while let Some(action) = self.felix.poll() {
            let text = serde_json::to_string(&action).expect("actions are recorded");
            let replayed = serde_json::from_str::<Action>(&text).expect("and replayed");
            let secret = matches!(&action, Action::ConfigureBgp(config) if config.peers.iter().any(|peer| peer.password.is_some()));
            assert_ne!(replayed == action, secret, "{replayed:?} of {action:?}");
            if let Action::ApplyRoutes(changes) = &action {
                self.assert_protected(changes);
            }
            self.reads.0 += usize::from(action == Action::ReadRules);
            self.reads.1 += usize::from(action == Action::ReadRoutes);
            if let Action::Report(drift) = action {
                self.drifts.push(drift);
            } else if let Action::Done { request, result } = action {
                self.answers.insert(request, result);
            } else if let Action::Settings(settings) = action {
                self.settings = Some(*settings);
                self.settings_told += 1;
            } else if let Action::SweepStamps(sweep) = action {
                self.sweeps.push(sweep);
                if !self.hold_sweeps {
                    self.felix.handle(Event::StampsSwept(self.sweep_result.clone()), self.now);
                }
            } else if self.paused {
                self.held.push_back(action);
            } else {
                let answer = self.perform(action);
                self.felix.handle(answer, self.now);
            }
        }
    }

    /// Does one of the held actions.
    pub(crate) fn release_one(&mut self) {
        if let Some(action) = self.held.pop_front() {
            let answer = self.perform(action);
            self.send(answer);
        }
    }

    pub(crate) fn release(&mut self) {
        self.paused = false;
        while !self.held.is_empty() {
            self.release_one();
        }
    }

    fn perform(&mut self, action: Action) -> Event {
        if !matches!(action, Action::ReadRules | Action::ReadRoutes) {
            assert!(self.felix.status().in_sync, "written before the datastore is in sync: {action:?}");
            self.writes.push(action.clone());
        }
        match action {
            Action::ReadRules => Event::RulesRead(self.table.read().map_err(|error| error.to_string())),
            Action::ApplyRules(_) if self.refuse_rules > 0 => {
                self.refuse_rules -= 1;
                Event::RulesApplied(Err("the kernel says no".into()))
            }
            Action::ApplyRules(transaction) => {
                Event::RulesApplied(self.table.apply(&transaction).map_err(|error| error.to_string()))
            }
            Action::ReadRoutes if self.kernel.is_some() => {
                Event::RoutesRead(Ok(self.kernel.as_mut().map(|kernel| kernel.read()).unwrap_or_default()))
            }
            Action::ReadRoutes => Event::RoutesRead(Ok(Snapshot {
                links: self.links.values().cloned().collect(),
                routes: self.fib.values().cloned().collect(),
                ..Snapshot::default()
            })),
            Action::ApplyRoutes(changes) => Event::RoutesApplied(Ok(self.write_routes(changes))),
            Action::ConfigureBgp(config) => {
                self.bgp = Some(*config);
                Event::BgpConfigured(Ok(()))
            }
            Action::ConfigureHost(_) => Event::HostConfigured(Ok(())),
            Action::ConfigureTunnels(tunnels) => Event::TunnelsConfigured(self.keep_tunnels(*tunnels)),
            Action::Done { .. } | Action::Report(_) | Action::Settings(_) | Action::SweepStamps(_) => {
                unreachable!("answered before")
            }
        }
    }

    /// Makes the devices of ends and removes those that are not wanted, as the edge does.
    fn keep_tunnels(&mut self, tunnels: Tunnels) -> TunnelReport {
        for tunnel in Tunnel::ALL {
            let wanted = tunnels.ends.contains_key(&tunnel) && !self.no_tunnels.contains(&tunnel);
            let there = self.links.values().find(|link| link.name == tunnel.device()).map(|link| link.index);
            if wanted && there.is_none() {
                let index = self.links.keys().max().map_or(10, |last| last.max(&9) + 1);
                let link = Link { index, name: tunnel.device().into(), up: true };
                self.links.insert(index, link.clone());
                self.felix.handle(Event::LinkChanged(link), self.now);
            }
            if let Some(index) = there.filter(|_| !wanted) {
                self.links.remove(&index);
                self.fib.retain(|_, route| !route.target.devices().any(|device| device == index));
                self.felix.handle(Event::LinkRemoved { index }, self.now);
            }
        }
        let ready: BTreeSet<Tunnel> =
            tunnels.ends.keys().copied().filter(|tunnel| !self.no_tunnels.contains(tunnel)).collect();
        let lacks = |tunnel: &Tunnel| format!("this node's kernel has no {}", tunnel.as_str());
        let problems = tunnels.ends.keys().filter(|tunnel| !ready.contains(tunnel)).map(lacks).collect();
        self.tunnels = Some(tunnels);
        TunnelReport { ready, repairs: Vec::new(), problems }
    }

    fn write_routes(&mut self, changes: Vec<RouteChange>) -> Vec<RouteFailure> {
        if let Some(kernel) = &mut self.kernel {
            return kernel.write(&changes);
        }
        let mut failures = Vec::new();
        for change in changes {
            let route = change.route().clone();
            let settings = &self.felix.settings().routes;
            let as_set = (route.protocol, route.metric) == (settings.protocol, settings.metric(&route.destination));
            let writes = matches!(change, RouteChange::Create(_) | RouteChange::Replace(_));
            assert!(as_set || !writes, "{change:?}");
            let key = (route.destination, route.metric);
            let ours = |protocol| [ROUTE_PROTOCOL, settings.protocol].contains(&protocol);
            let foreign = self.fib.get(&key).is_some_and(|old| !ours(old.protocol));
            assert!(!foreign || !matches!(change, RouteChange::Replace(_)), "somebody else's: {change:?}");
            let mut refuse = |reason: String, surprise| {
                failures.push(RouteFailure { destination: route.destination, reason, surprise });
            };
            if let Some(reason) = self.refuse_routes.clone() {
                refuse(reason, false);
                continue;
            }
            match change {
                RouteChange::Create(_) if self.fib.contains_key(&key) => refuse("File exists".into(), true),
                RouteChange::Create(_) | RouteChange::Replace(_) => drop(self.fib.insert(key, route)),
                RouteChange::Delete(_) | RouteChange::Retire(_) => {
                    // The kernel deletes by the protocol too.
                    if self.fib.get(&key).is_some_and(|there| there.protocol == route.protocol) {
                        self.fib.remove(&key);
                    }
                }
                RouteChange::Shrink(_) => {
                    let there: Vec<_> = self.fib.get(&key).into_iter().flat_map(|there| there.target.hops()).collect();
                    let stranger = self.strangers_gateway;
                    if !route.target.hops().all(|hop| there.contains(&hop) && Some(hop) != stranger) {
                        refuse("No such process".into(), true);
                    }
                    let gone: Vec<_> = route.target.hops().filter(|hop| Some(*hop) != stranger).collect();
                    let left: Vec<_> = there.into_iter().filter(|hop| !gone.contains(hop)).collect();
                    let protocol = if left.iter().all(|hop| Some(*hop) == stranger) { 4 } else { ROUTE_PROTOCOL };
                    if left.is_empty() {
                        self.fib.remove(&key);
                    } else {
                        self.fib.insert(key, Route { target: Target::multipath(left), protocol, ..route });
                    }
                }
            }
        }
        failures
    }

    /// A pod's route may only be handed out when the table knows the pod.
    fn assert_protected(&self, changes: &[RouteChange]) {
        for change in changes {
            let (RouteChange::Create(route) | RouteChange::Replace(route)) = change else { continue };
            let Route { destination, target: Target::Device { index, .. }, .. } = route else { continue };
            let interface = self.links.get(index).expect("a route needs a link").name.clone();
            let address = destination.addr();
            let set = if address.is_ipv4() { "own4" } else { "own6" };
            if self.strangers {
                continue;
            }
            let own = &self.table.ruleset().expect("a route before the table").sets[set].elements;
            assert!(
                own.contains(&vec![Value::IfName(interface.clone()), Value::Addr(address)]),
                "the route to {address} by {interface} comes before its rules"
            );
        }
    }

    pub(crate) fn ruleset(&self) -> Ruleset {
        self.table.ruleset().cloned().expect("a table")
    }

    /// Our routes, as text.
    pub(crate) fn ours(&self) -> BTreeSet<String> {
        let ours = self.fib.values().filter(|route| route.protocol == ROUTE_PROTOCOL);
        ours.map(|route| match &route.target {
            Target::Device { index, source } => {
                let source = source.map_or_else(String::new, |source| format!(" src {source}"));
                format!("{} dev {}{source}", route.destination, self.links[index].name)
            }
            Target::Via { gateway, index } => {
                format!("{} via {gateway} dev {}", route.destination, self.links[index].name)
            }
            Target::Onlink { gateway, index } => {
                format!("{} via {gateway} dev {} onlink", route.destination, self.links[index].name)
            }
            Target::Multipath(hops) => {
                let hops = hops.iter().map(|(gateway, index)| format!(" via {gateway} dev {}", self.links[index].name));
                format!("{}{}", route.destination, hops.collect::<String>())
            }
            Target::Blackhole => format!("blackhole {}", route.destination),
            Target::Other(text) => format!("{text} {}", route.destination),
        })
        .collect()
    }

    pub(crate) fn transactions(&self) -> usize {
        self.writes.iter().filter(|action| matches!(action, Action::ApplyRules(_))).count()
    }
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub(crate) fn net(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}

pub(crate) fn route(destination: &str, target: Target, protocol: u8, metric: u32) -> Route {
    Route { destination: net(destination), target, protocol, metric }
}

pub(crate) fn via(gateway: &str) -> Target {
    Target::Via { gateway: ip(gateway), index: ETH0 }
}

pub(crate) fn endpoint(namespace: &str, pod: &str, ips: &[&str]) -> LocalEndpoint {
    LocalEndpoint {
        namespace: namespace.into(),
        pod: pod.into(),
        container_id: format!("{namespace}-{pod}"),
        ifname: "eth0".into(),
        interface: host_interface(namespace, pod),
        ips: ips.iter().map(|text| ip(text)).collect(),
    }
}

pub(crate) fn pod(namespace: &str, name: &str, label: &str, ips: &[&str]) -> Object {
    let ips: Vec<_> = ips.iter().map(|ip| json!({ "ip": ip })).collect();
    let pod: Pod = serde_json::from_value(json!({
        "metadata": { "namespace": namespace, "name": name, "labels": { "app": label } },
        "spec": { "nodeName": "a" },
        "status": { "podIPs": ips },
    }))
    .expect("a pod");
    Object::Pod(pod)
}

pub(crate) fn namespace(name: &str) -> Object {
    let namespace: Namespace = serde_json::from_value(json!({ "metadata": { "name": name } })).expect("a namespace");
    Object::Namespace(namespace)
}

/// A policy: pods with `app=TO` take from pods with `app=FROM` only.
pub(crate) fn allow(name: &str, to: &str, from: &str) -> Object {
    let policy: NetworkPolicy = serde_json::from_value(json!({
        "metadata": { "namespace": "default", "name": name },
        "spec": {
            "podSelector": { "matchLabels": { "app": to } },
            "policyTypes": ["Ingress"],
            "ingress": [{ "from": [{ "podSelector": { "matchLabels": { "app": from } } }] }],
        },
    }))
    .expect("a policy");
    Object::NetworkPolicy(policy)
}

pub(crate) fn node(name: &str, ips: &[&str], annotations: &[(&str, &str)]) -> Object {
    let addresses: Vec<_> = ips.iter().map(|ip| json!({ "type": "InternalIP", "address": ip })).collect();
    let annotations: BTreeMap<_, _> = annotations.iter().copied().collect();
    let node: Node = serde_json::from_value(json!({
        "metadata": { "name": name, "annotations": annotations },
        "status": { "addresses": addresses },
    }))
    .expect("a node");
    Object::Node(node)
}

pub(crate) fn block(cidr: &str, node: &str) -> Object {
    let block: IpamBlock = serde_json::from_value(json!({
        "metadata": { "name": cidr.replace(['.', ':', '/'], "-") },
        "spec": { "cidr": cidr, "affinity": format!("host:{node}"), "allocations": [null, null], "unallocated": [0, 1] },
    }))
    .expect("a block");
    Object::IpamBlock(block)
}

pub(crate) fn affinity(cidr: &str, node: &str, state: &str) -> Object {
    let name = format!("{node}-{}", cidr.replace(['.', ':', '/'], "-"));
    let affinity: BlockAffinity = serde_json::from_value(json!({
        "metadata": { "name": name },
        "spec": { "cidr": cidr, "node": node, "state": state },
    }))
    .expect("an affinity");
    Object::BlockAffinity(affinity)
}

pub(crate) fn pool(name: &str, cidr: &str, disable_bgp_export: bool) -> Object {
    let spec = json!({ "cidr": cidr, "disableBGPExport": disable_bgp_export });
    let pool: IpPool = serde_json::from_value(json!({ "metadata": { "name": name }, "spec": spec })).expect("a pool");
    Object::IpPool(pool)
}

pub(crate) fn bgp_configuration(name: &str, spec: &serde_json::Value) -> Object {
    let configuration: BgpConfiguration =
        serde_json::from_value(json!({ "metadata": { "name": name }, "spec": spec })).expect("a configuration");
    Object::BgpConfiguration(configuration)
}

/// A small cluster seen from node `a`: two nodes, a block each, pods `web` and `client` on this node, a policy between them.
pub(crate) fn cluster() -> Vec<Object> {
    vec![
        node("a", &["172.31.0.2"], &[]),
        node("b", &["172.31.0.3"], &[]),
        pool("pods", "10.244.0.0/16", false),
        block("10.244.0.0/26", "a"),
        block("10.244.0.64/26", "b"),
        namespace("default"),
        pod("default", "web", "web", &["10.244.0.1"]),
        pod("default", "client", "client", &["10.244.0.2"]),
        pod("default", "far", "client", &["10.244.0.65"]),
        allow("web", "web", "client"),
    ]
}

pub(crate) fn local_endpoints() -> Vec<LocalEndpoint> {
    vec![endpoint("default", "web", &["10.244.0.1"]), endpoint("default", "client", &["10.244.0.2"])]
}

/// A table without what depends on its history: how often it was tightened, and what was counted.
pub(crate) fn without_history(ruleset: Ruleset) -> Ruleset {
    let mut ruleset = without_unused(ruleset);
    ruleset.sets.retain(|name, _| name != "live" && name != "pending");
    ruleset.chains.retain(|name, _| !name.starts_with("stamp_"));
    ruleset
}
