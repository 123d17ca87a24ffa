//! What documents may become in the course of a history.

use std::process::Child;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Chance;
use crate::cluster::{Cluster, key, pod};

/// A change of documents that leaves every observed flow as it is.
#[derive(Clone)]
pub(crate) struct Change {
    pub(crate) put: Vec<Value>,
    pub(crate) gone: Vec<Value>,
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

impl Change {
    /// Guests come or go, or a policy does, or one changes.
    pub(crate) fn choose(chance: &mut Chance, cluster: &Cluster) -> Self {
        let (mut put, mut gone) = (Vec::new(), Vec::new());
        for _ in 0..=chance.below(3) {
            let document = if chance.below(2) == 0 {
                let number = chance.below(GUESTS);
                guest(number, chance, cluster)
            } else {
                policy(chance)
            };
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

    /// A guest who comes, if not all are there already.
    pub(crate) fn one_guest(chance: &mut Chance, cluster: &Cluster) -> Option<Self> {
        let is_absent = |guest: &Value| !cluster.documents.contains_key(&key(guest));
        let absent: Vec<Value> = (0..GUESTS).map(|number| guest(number, chance, cluster)).filter(is_absent).collect();
        let guest = (!absent.is_empty()).then(|| chance.pick(&absent).clone())?;
        Some(Self { put: vec![guest], gone: Vec::new() })
    }

    /// The agent that has to wire or unwire a pod, if one has.
    pub(crate) fn agent(&self, cluster: &Cluster) -> Option<usize> {
        let node = self.put.iter().chain(&self.gone).find_map(|document| document["spec"]["nodeName"].as_str())?;
        cluster.agents.iter().position(|agent| agent.node == node)
    }

    /// Waits until a pod to come has its namespace, which is just before its CNI ADD.
    pub(crate) fn wait_for_wiring(&self, cluster: &Cluster) {
        let Some(pod) = self.put.iter().find(|document| document["kind"] == "Pod") else { return };
        let name = pod["metadata"]["name"].as_str().expect("a name");
        let netns = std::path::Path::new("/run/netns").join(format!("{}_guests_{name}", cluster.lab.name));
        let deadline = Instant::now() + Duration::from_secs(5);
        while !netns.exists() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    /// Starts the command, and notes what should be there from now on.
    pub(crate) fn start(&self, cluster: &mut Cluster) -> Child {
        self.start_with_timeout(cluster, "20s")
    }

    /// The same where the command may fail, and then is not waited for as long.
    pub(crate) fn start_in_haste(&self, cluster: &mut Cluster) -> Child {
        self.start_with_timeout(cluster, "4s")
    }

    fn start_with_timeout(&self, cluster: &mut Cluster, timeout: &str) -> Child {
        for document in &self.gone {
            cluster.documents.remove(&key(document));
        }
        for document in &self.put {
            cluster.documents.insert(key(document), document.clone());
        }
        let (verb, documents) = if self.gone.is_empty() { ("apply", &self.put) } else { ("delete", &self.gone) };
        cluster.start_with_timeout(verb, documents, timeout)
    }
}

/// How many guests there may be: pods of another namespace than those that are watched.
const GUESTS: u64 = 8;

/// One of the guests; who comes again may come to another node.
fn guest(number: u64, chance: &mut Chance, cluster: &Cluster) -> Value {
    let name = format!("guest{number}");
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
