//! The disturbances.

use std::process::{Child, Command};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tortie_tests::stream::inside;

use crate::Chance;
use crate::cluster::{Cluster, key, pod};
use crate::traffic::Hole;

/// A stranger's damage to routes must be repaired within this time, on a busy machine.
const REPAIR: Duration = Duration::from_secs(3);

/// After a cable is back, neighbours are asked for once a second.
const RESOLVE: Duration = Duration::from_millis(2500);

/// What happens, with all that is random in it, so that a failure names it. Agents are given by their place, times in microseconds.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// `kill -9`, a while without an agent, restart.
    Kill { agents: Vec<usize>, dead: u64 },
    /// Killed again so soon after its restart that it may still be starting.
    KillStarting { agent: usize, after: u64 },
    /// Killed while documents change, in most cases in the midst of what it has to do for that.
    KillDuring { agent: usize, change: Change, after: u64, dead: u64 },
    /// SIGSTOP, a change that the agent misses, SIGCONT.
    Stop { agent: usize, change: Change, during: u64 },
    /// Killed and back while a neighbour's agent is stopped, and answers nobody.
    KillBesideStopped { agent: usize, dead: u64, during: u64 },
    /// Documents change, and nothing else happens.
    Just(Change),
    /// Somebody flushes all of nftables, tries to delete our table, and goes on with tables of their own while documents change.
    NftStranger { agent: usize, change: Change },
    /// Somebody deletes one of our routes, while the agent runs or while it is dead.
    RouteStranger { agent: usize, pick: u64, dead: bool },
    /// The node's cable is out; meanwhile an agent may be killed, this node's or another's.
    Cable { agent: usize, during: u64, killed: Option<usize> },
}

/// A change of documents that leaves every observed flow as it is.
#[derive(Clone)]
pub(crate) struct Change {
    put: Vec<Value>,
    gone: Vec<Value>,
}

impl std::fmt::Debug for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (verb, documents) in [("apply", &self.put), ("delete", &self.gone)] {
            let short = |document: &Value| match &document["spec"]["nodeName"] {
                Value::String(node) => format!("{} on {node}", key(document)),
                _ => key(document),
            };
            if !documents.is_empty() {
                write!(f, "{verb} {}", documents.iter().map(short).collect::<Vec<_>>().join(", "))?;
            }
        }
        Ok(())
    }
}

impl Step {
    pub(crate) fn choose(chance: &mut Chance, cluster: &Cluster) -> Self {
        let agent = usize::try_from(chance.below(3)).expect("an index");
        match chance.below(27) {
            0..=3 => Self::Kill { agents: vec![agent], dead: chance.below(1_500_000) },
            4 => Self::Kill { agents: vec![agent, (agent + 1) % 3], dead: chance.below(1_500_000) },
            5 => Self::Kill { agents: vec![0, 1, 2], dead: chance.below(1_500_000) },
            6..=9 => Self::KillStarting { agent, after: chance.below(60_000) },
            10..=16 => {
                let change = Change::choose(chance, cluster);
                let agent = change.agent(cluster).unwrap_or(agent);
                Self::KillDuring { agent, change, after: chance.below(60_000), dead: chance.below(400_000) }
            }
            17 => {
                let during = 500_000 + chance.below(3_000_000);
                Self::Stop { agent, change: Change::choose(chance, cluster), during }
            }
            18 => {
                let (dead, during) = (chance.below(500_000), 500_000 + chance.below(3_000_000));
                Self::KillBesideStopped { agent, dead, during }
            }
            19..=21 => Self::Just(Change::choose(chance, cluster)),
            22..=23 => Self::NftStranger { agent, change: Change::choose(chance, cluster) },
            24..=25 => Self::RouteStranger { agent, pick: chance.below(1000), dead: chance.below(2) == 0 },
            _ => {
                let killed = usize::try_from(chance.below(4)).ok().filter(|agent| *agent < 3);
                Self::Cable { agent, during: 2_000_000, killed }
            }
        }
    }

    /// How many agents it kills.
    pub(crate) fn kills(&self) -> usize {
        match self {
            Self::Kill { agents, .. } => agents.len(),
            Self::KillStarting { .. } => 2,
            Self::KillDuring { .. }
            | Self::KillBesideStopped { .. }
            | Self::RouteStranger { dead: true, .. }
            | Self::Cable { killed: Some(_), .. } => 1,
            _ => 0,
        }
    }

    /// Does it. Where it cuts flows by itself is returned.
    pub(crate) fn run(self, cluster: &mut Cluster, chance: &mut Chance, title: &str) -> Vec<Hole> {
        let logs = cluster.path("logs");
        match self {
            Self::Kill { agents, dead } => {
                for agent in &agents {
                    cluster.agents[*agent].kill();
                }
                pause(dead);
                for agent in &agents {
                    cluster.agents[*agent].start(&logs);
                }
            }
            Self::KillStarting { agent, after } => {
                let agent = &mut cluster.agents[agent];
                agent.kill();
                agent.start(&logs);
                pause(after);
                agent.kill();
                agent.start(&logs);
            }
            Self::KillDuring { agent, change, after, dead } => {
                let command = change.start(cluster);
                change.wait_for_wiring(cluster);
                pause(after);
                cluster.agents[agent].kill();
                pause(dead);
                cluster.agents[agent].start(&logs);
                // Whether the command came through depends on the moment.
                let _ = Cluster::finish(command);
                cluster.repeat(&change.gone, title);
            }
            Self::Stop { agent, change, during } => {
                cluster.agents[agent].signal(Signal::SIGSTOP);
                let command = change.start(cluster);
                pause(during);
                cluster.agents[agent].signal(Signal::SIGCONT);
                succeed(command, title);
            }
            Self::KillBesideStopped { agent, dead, during } => {
                let beside = (agent + 1) % 3;
                cluster.agents[beside].signal(Signal::SIGSTOP);
                cluster.agents[agent].kill();
                pause(dead);
                cluster.agents[agent].start(&logs);
                pause(during);
                cluster.agents[beside].signal(Signal::SIGCONT);
            }
            Self::Just(change) => succeed(change.start(cluster), title),
            Self::NftStranger { agent, change } => {
                let mut command = change.start(cluster);
                let netns = cluster.agents[agent].netns.clone();
                inside(&netns, || {
                    let nft = |args: &[&str]| run("nft", args);
                    while command.try_wait().expect("tortie is ours").is_none() {
                        nft(&["flush", "ruleset"]);
                        nft(&["delete", "table", "inet", "tortie"]);
                        nft(&["add", "table", "ip", "stranger"]);
                        pause(chance.below(20_000));
                    }
                    nft(&["delete", "table", "ip", "stranger"]);
                });
                succeed(command, title);
            }
            Self::RouteStranger { agent, pick, dead } => return delete_route(cluster, agent, pick, dead, title),
            Self::Cable { agent, during, killed } => {
                let node = cluster.agents[agent].node.clone();
                let fabric = format!("{}_fabric", cluster.lab.name);
                let link = format!("to-{node}");
                let set = |state: &str| inside(&fabric, || run("ip", &["link", "set", &link, state]));
                let from = Instant::now();
                assert!(set("down").is_some(), "{title}: the cable cannot be pulled");
                if let Some(killed) = killed {
                    cluster.agents[killed].kill();
                    cluster.agents[killed].start(&logs);
                }
                pause(during);
                assert!(set("up").is_some(), "{title}: the cable cannot be put back");
                return vec![Hole { node, only_crossing: true, from, until: Instant::now() + RESOLVE }];
            }
        }
        Vec::new()
    }
}

/// Runs a program of the peers; what it printed if it succeeded.
pub(crate) fn run(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(tortie_tests::peer(program)).args(args).output().expect("the peer runs");
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The time that the history says, which is no wait for anything.
fn pause(microseconds: u64) {
    std::thread::sleep(Duration::from_micros(microseconds));
}

fn succeed(command: Child, title: &str) {
    if let Err(reason) = Cluster::finish(command) {
        panic!("{title}: {reason}");
    }
}

/// Our routes in the calling thread's network namespace, as `ip route` shows them.
pub(crate) fn our_routes() -> Vec<(&'static str, String)> {
    let mut routes = Vec::new();
    for family in ["-4", "-6"] {
        let text = run("ip", &[family, "route", "show", "proto", "80"]).expect("routes can be read");
        routes.extend(text.lines().map(|line| (family, line.trim().to_owned())));
    }
    routes
}

/// Deletes a route and waits until it is there again. One that is deleted behind a dead agent comes back with it.
fn delete_route(cluster: &mut Cluster, agent: usize, pick: u64, dead: bool, title: &str) -> Vec<Hole> {
    let logs = cluster.path("logs");
    let agent = &mut cluster.agents[agent];
    let netns = agent.netns.clone();
    if dead {
        agent.kill();
    }
    let from = Instant::now();
    let (family, route) = inside(&netns, || {
        let mut routes = our_routes();
        let chosen = usize::try_from(pick).expect("an index") % routes.len();
        let (family, route) = routes.swap_remove(chosen);
        let words = route.split(' ').take_while(|word| *word != "pref").filter(|word| !word.is_empty());
        let args: Vec<&str> = [family, "route", "del"].into_iter().chain(words).collect();
        assert!(run("ip", &args).is_some(), "{title}: ip {args:?} failed");
        (family, route)
    });
    if dead {
        agent.start(&logs);
    }
    let began = Instant::now();
    inside(&netns, || {
        while !our_routes().iter().any(|(other, line)| *other == family && *line == route) {
            assert!(began.elapsed() < REPAIR, "{title}: {}: the deleted route {route} did not come back", agent.node);
            pause(10_000);
        }
    });
    let until = Instant::now() + Duration::from_millis(50);
    vec![Hole { node: agent.node.clone(), only_crossing: false, from, until }]
}

impl Change {
    /// Guests come or go, or a policy does, or one changes.
    fn choose(chance: &mut Chance, cluster: &Cluster) -> Self {
        let (mut put, mut gone) = (Vec::new(), Vec::new());
        for _ in 0..=chance.below(3) {
            let document = if chance.below(2) == 0 { guest(chance, cluster) } else { policy(chance) };
            let name = key(&document);
            if put.iter().chain(&gone).any(|other| key(other) == name) {
                continue;
            }
            let known = cluster.documents.contains_key(&name);
            let replaced = document["kind"] == "NetworkPolicy" && chance.below(2) == 0;
            // A command either puts or deletes.
            match known && !replaced {
                true if put.is_empty() => gone.push(cluster.documents[&name].clone()),
                false if gone.is_empty() => put.push(document),
                _ => {}
            }
        }
        Self { put, gone }
    }

    /// The agent that has to wire or unwire a pod, if one has.
    fn agent(&self, cluster: &Cluster) -> Option<usize> {
        let node = self.put.iter().chain(&self.gone).find_map(|document| document["spec"]["nodeName"].as_str())?;
        cluster.agents.iter().position(|agent| agent.node == node)
    }

    /// Waits until a pod to come has its namespace, which is just before its CNI ADD.
    fn wait_for_wiring(&self, cluster: &Cluster) {
        let Some(pod) = self.put.iter().find(|document| document["kind"] == "Pod") else { return };
        let name = pod["metadata"]["name"].as_str().expect("a name");
        let netns = std::path::Path::new("/run/netns").join(format!("{}_guests_{name}", cluster.lab.name));
        let deadline = Instant::now() + Duration::from_secs(5);
        while !netns.exists() && Instant::now() < deadline {
            pause(100);
        }
    }

    /// Starts the command, and notes what should be there from now on.
    fn start(&self, cluster: &mut Cluster) -> Child {
        for document in &self.gone {
            cluster.documents.remove(&key(document));
        }
        for document in &self.put {
            cluster.documents.insert(key(document), document.clone());
        }
        if self.gone.is_empty() { cluster.start("apply", &self.put) } else { cluster.start("delete", &self.gone) }
    }
}

/// One of six pods of another namespace; a guest that comes again may come to another node.
fn guest(chance: &mut Chance, cluster: &Cluster) -> Value {
    let name = format!("guest{}", chance.below(6));
    let app = *chance.pick(&["guest", "visitor"]);
    pod("guests", &name, app, &chance.pick(&cluster.agents).node)
}

/// A policy that may isolate any pod in any direction and allows much, but nothing that is observed as denied, and isolates no client
/// or server further than it is.
fn policy(chance: &mut Chance) -> Value {
    let peer = |chance: &mut Chance| match chance.below(4) {
        0 => json!({"namespaceSelector": {"matchLabels": {"team": "guests"}}}),
        1 => {
            json!({"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": chance.pick(&["guest", "visitor"])}}})
        }
        2 => json!({"ipBlock": {"cidr": "192.0.2.0/24", "except": [format!("192.0.2.{}/32", chance.below(256))]}}),
        _ => json!({"ipBlock": {"cidr": format!("2001:db8:{:x}::/48", chance.below(0x1000))}}),
    };
    let peers: Vec<Value> = (0..=chance.below(3)).map(|_| peer(chance)).collect();
    let app = *chance.pick(&["client", "server", "stranger", "guest", "visitor"]);
    let mut spec = json!({"podSelector": {"matchLabels": {"app": app}}});
    // What answers is isolated in both directions here, and its answers must pass all the same.
    let (ingress, egress) = *chance.pick(&[(true, false), (false, true), (true, true)]);
    let types: Vec<&str> =
        [(ingress, "Ingress"), (egress, "Egress")].iter().filter(|kind| kind.0).map(|kind| kind.1).collect();
    spec["policyTypes"] = json!(types);
    // Strangers' own ports let everybody in, who may go there.
    let ports = json!([{"protocol": "UDP", "port": 9000 + chance.below(100)}]);
    if ingress {
        spec["ingress"] = json!([{"from": peers}, {"ports": ports}]);
    }
    if egress {
        spec["egress"] = json!([{"to": peers}, {"ports": ports}]);
    }
    let namespace = if app == "guest" || app == "visitor" { "guests" } else { "chaos" };
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": format!("p{}", chance.below(6)), "namespace": namespace}, "spec": spec})
}
