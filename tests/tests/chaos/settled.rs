//! What the cluster must be after each step, whatever happened before.
//!
//! Three witnesses must agree on the rules: the agent, the kernel as it is read back, and a program that sees the documents for the
//! first time. Of pods that are gone there must be no trace.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tortie_nft::Ruleset;
use tortie_nft_netlink::NftSocket;
use tortie_policy::hits::{Counted, Decider, without_unused};
use tortie_tests::agent::{Agent, PATIENCE};
use tortie_tests::kernel::{difference, our_routes, without_marks};
use tortie_tests::lab::{array, tortie};
use tortie_tests::stream::inside;

use crate::cluster::{Cluster, Place};

impl Cluster {
    /// Waits until nothing differs.
    pub(crate) fn wait_until_settled(&mut self, title: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            for agent in &mut self.agents {
                assert!(!agent.has_ended(), "{title}: {}: the agent has ended by itself", agent.node);
            }
            let wrong = self.differences();
            if wrong.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "{title}: still wrong after {PATIENCE:?}:\n  {}", wrong.join("\n  "));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn differences(&self) -> Vec<String> {
        let places = self.places();
        let wanted: BTreeSet<String> = self
            .documents
            .values()
            .filter(|document| document["kind"] == "Pod")
            .map(|pod| format!("{}/{}", pod["metadata"]["namespace"], pod["metadata"]["name"]).replace('"', ""))
            .collect();
        let found: BTreeSet<String> = places.iter().map(|pod| format!("{}/{}", pod.namespace, pod.name)).collect();
        if wanted != found {
            return vec![format!("the lab's pods are {found:?}, not {wanted:?}")];
        }
        let mut wrong = Vec::new();
        self.addresses(&places, &mut wrong);
        for agent in &self.agents {
            let pods: Vec<&Place> = places.iter().filter(|pod| pod.node == agent.node).collect();
            let mut here = Vec::new();
            if let Err(reason) = self.on_node(agent, &pods, &places, &mut here) {
                here.push(reason);
            }
            wrong.extend(here.into_iter().map(|text| format!("{}: {text}", agent.node)));
        }
        wrong
    }

    /// The rules of the first node, without what a history may leave in them.
    pub(crate) fn rendered(&self) -> String {
        without_marks(&self.ask(&self.agents[0], &["policy", "render"]).expect("the agent answers"))
    }

    /// Asks a node's agent by the command line.
    fn ask(&self, agent: &Agent, words: &[&str]) -> Result<String, String> {
        let output = Command::new(tortie())
            .args(words)
            .args(["--lab", &self.lab.name, "--node", &agent.node])
            .output()
            .expect("tortie runs");
        if !output.status.success() {
            return Err(format!("tortie {words:?}: {}", String::from_utf8_lossy(&output.stderr).trim()));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn ask_json(&self, agent: &Agent, words: &[&str]) -> Result<Vec<Value>, String> {
        let text = self.ask(agent, &[words, &["-o", "json"]].concat())?;
        serde_json::from_str(&text).map(|value: Value| array(&value)).map_err(|error| format!("{words:?}: {error}"))
    }

    /// As many addresses in use as pods, in each family.
    fn addresses(&self, places: &[Place], wrong: &mut Vec<String>) {
        match self.ask_json(&self.agents[0], &["ipam", "show"]) {
            Err(reason) => wrong.push(reason),
            Ok(pools) => {
                let used = pools.iter().filter(|pool| pool["inUse"] != places.len());
                wrong.extend(used.map(|pool| {
                    format!("{} pods, but of {} are {} in use", places.len(), pool["cidr"], pool["inUse"])
                }));
            }
        }
    }

    fn on_node(&self, agent: &Agent, pods: &[&Place], all: &[Place], wrong: &mut Vec<String>) -> Result<(), String> {
        let status = self.ask_json(agent, &["node", "status"])?;
        let status = status.first().ok_or("no status")?;
        if status["revision"] != status["programmedRevision"] || status["problems"] != json!([]) {
            wrong.push(format!("its status is {status}"));
        }
        let peers = array(&status["peers"]);
        if peers.len() != self.agents.len() - 1 || peers.iter().any(|peer| peer["state"] != "Established") {
            wrong.push(format!("its sessions are {peers:?}"));
        }
        self.routes(agent, pods, all, wrong)?;
        self.rules(agent, all, wrong)?;

        let files = std::fs::read_dir(self.lab.path("nodes").join(&agent.node).join("endpoints"));
        let files: Vec<_> = files.into_iter().flatten().flatten().map(|file| file.file_name()).collect();
        if files.len() != pods.len() {
            wrong.push(format!("{} pods, but the endpoint files {files:?}", pods.len()));
        }
        Ok(())
    }

    /// Every pod has its routes and its link, in the agent's eyes as in the kernel's, and nothing else is there.
    fn routes(&self, agent: &Agent, pods: &[&Place], all: &[Place], wrong: &mut Vec<String>) -> Result<(), String> {
        let rows = self.ask_json(agent, &["routes"])?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        wrong.extend(rows.iter().filter(|row| row["state"] != "present").map(|row| format!("a route: {row}")));
        let believed: BTreeSet<String> = rows.iter().map(|row| text(&row["destination"])).collect();
        let of_pods = rows.iter().filter(|row| row["source"] == "local-pod");
        let routed: BTreeSet<String> = of_pods.clone().map(|row| text(&row["destination"])).collect();
        let host = |ip: &IpAddr| format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 });
        let expected: BTreeSet<String> = pods.iter().flat_map(|pod| pod.ips()).map(host).collect();
        if routed != expected {
            wrong.push(format!("its pods have {expected:?}, routed are {routed:?}"));
        }
        let links: BTreeSet<String> = of_pods.map(|row| text(&row["device"])).collect();
        let present = inside(&agent.netns, || {
            let devices = std::fs::read_to_string("/proc/thread-self/net/dev").expect("the interfaces can be read");
            let names = devices.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim().to_owned());
            names.filter(|name| name.starts_with("cali")).collect::<BTreeSet<String>>()
        });
        if links.len() != pods.len() || links != present {
            wrong.push(format!("{} pods, routes to {links:?}, but the interfaces are {present:?}", pods.len()));
        }
        let kernel: BTreeSet<String> =
            our_routes(&agent.netns).iter().map(|(family, route)| destination(family, route)).collect();
        if kernel != believed {
            wrong.push(format!("the kernel has routes to {kernel:?}, the agent knows {believed:?}"));
        }
        // Whoever is elsewhere is in a block that leads there.
        for ip in all.iter().flat_map(Place::ips) {
            let covers = |row: &&Value| covers(&text(&row["destination"]), *ip);
            if !rows.iter().any(|row| covers(&row)) {
                wrong.push(format!("no route leads to {ip}"));
            }
        }
        Ok(())
    }

    /// The agent, the kernel, and the compiler that sees the documents for the first time agree.
    fn rules(&self, agent: &Agent, all: &[Place], wrong: &mut Vec<String>) -> Result<(), String> {
        let rendered = self.ask(agent, &["policy", "render"])?;
        let read = inside(&agent.netns, || NftSocket::open().and_then(|mut socket| socket.read()));
        let kernel = read.map_err(|error| format!("nftables: {error}"))?.ok_or("there is no table")?;
        wrong.extend(difference("the kernel", &kernel.to_string(), "the agent", &rendered));
        wrong.extend(self.counts_nothing_that_is_gone(&kernel));
        let kernel = without_unused(kernel).to_string();

        let documents: Vec<Value> = self
            .documents
            .values()
            .map(|document| {
                let mut document = document.clone();
                let known = all
                    .iter()
                    .find(|pod| {
                        document["metadata"]["name"] == *pod.name && document["metadata"]["namespace"] == *pod.namespace
                    })
                    .filter(|_| document["kind"] == "Pod");
                if let Some(pod) = known {
                    let ips: Vec<Value> = pod.ips().iter().map(|ip| json!({"ip": ip.to_string()})).collect();
                    document["status"] = json!({"podIPs": ips});
                }
                document
            })
            .collect();
        let folder = self.lab.write("fresh", &documents);
        for (name, text) in &self.files {
            std::fs::write(folder.join(name), text).map_err(|error| format!("{name}: {error}"))?;
        }
        let output = Command::new(tortie())
            .args(["policy", "render", "--node", &agent.node, "--manifests"])
            .arg(folder)
            .output()
            .expect("tortie runs");
        if !output.status.success() {
            return Err(format!("the documents cannot be rendered: {}", String::from_utf8_lossy(&output.stderr)));
        }
        let fresh = String::from_utf8_lossy(&output.stdout);
        wrong.extend(difference("the kernel", &without_marks(&kernel), "a fresh compiler", &without_marks(&fresh)));
        Ok(())
    }

    /// Each counter of a policy's rule is of a policy that there is.
    fn counts_nothing_that_is_gone<'a>(&'a self, kernel: &'a Ruleset) -> impl Iterator<Item = String> + 'a {
        let counters = kernel.counters.iter();
        let counted = counters.filter_map(|(name, comment)| Counted::of(name, comment.as_deref()?));
        let gone = counted.filter(|counted| match &counted.by {
            Decider::Rule { kind, namespace, name, .. } => !self.documents.values().any(|document| {
                let metadata = &document["metadata"];
                document["kind"] == kind.as_str()
                    && metadata["name"] == **name
                    && metadata["namespace"].as_str() == namespace.as_deref()
            }),
            Decider::TierDefault { .. } => false,
        });
        gone.map(|counted| format!("counts hits of a policy that is gone: {counted:?}"))
    }
}

/// The destination of a line of `ip route`, always with its prefix length.
fn destination(family: &str, route: &str) -> String {
    let word = route.trim_start_matches("blackhole ").split(' ').next().unwrap_or_default();
    let host = if family == "-4" { "/32" } else { "/128" };
    if word.contains('/') { word.to_owned() } else { format!("{word}{host}") }
}

/// Whether an address is in a block.
fn covers(block: &str, ip: IpAddr) -> bool {
    let bits = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)) << 96,
        IpAddr::V6(ip) => u128::from(ip),
    };
    let Some((network, length)) = block.split_once('/') else { return false };
    let (Ok(network), Ok(length)) = (network.parse::<IpAddr>(), length.parse::<u32>()) else { return false };
    network.is_ipv4() == ip.is_ipv4() && (bits(network) ^ bits(ip)).leading_zeros() >= length
}
