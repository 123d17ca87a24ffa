//! The cluster: what it should consist of, its agents, and the supervisor that starts them again.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};
use tortie_tests::agent::{Agent, PATIENCE};
use tortie_tests::lab::{Lab, array, tortie};

/// A pod, as `lab ps` tells.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) node: String,
    pub(crate) netns: String,
    ips: Vec<IpAddr>,
}

impl Place {
    pub(crate) fn ip(&self, v4: bool) -> IpAddr {
        *self.ips.iter().find(|ip| ip.is_ipv4() == v4).expect("dual stack")
    }

    pub(crate) fn ips(&self) -> &[IpAddr] {
        &self.ips
    }
}

pub(crate) struct Cluster {
    pub(crate) lab: Lab,
    pub(crate) agents: Vec<Agent>,
    pods: Vec<Place>,
    /// All documents that should be in force but those of the lab itself.
    pub(crate) documents: BTreeMap<String, Value>,
    /// Files that a test puts into the datastore by itself, past the lab: name and content.
    pub(crate) files: BTreeMap<String, String>,
}

/// Names a document as its file in the datastore is named.
pub(crate) fn key(document: &Value) -> String {
    let metadata = &document["metadata"];
    let words = [&document["kind"], &metadata["namespace"], &metadata["name"]];
    words.iter().filter_map(|word| word.as_str()).collect::<Vec<_>>().join(".")
}

pub(crate) fn pod(namespace: &str, name: &str, app: &str, node: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": app, "name": name}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "serve", "ports": [{"containerPort": 80}]}]}})
}

fn documents(nodes: usize) -> Vec<Value> {
    let namespace = |name: &str| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"team": name}}});
    let policy = |name: &str, spec: Value| {
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": name, "namespace": "chaos"}, "spec": spec})
    };
    let app = |name: &str| json!({"podSelector": {"matchLabels": {"app": name}}});
    let mut documents = vec![
        namespace("chaos"),
        namespace("guests"),
        policy(
            "servers",
            json!({"podSelector": {"matchLabels": {"app": "server"}}, "ingress": [{"from": [app("client")]}]}),
        ),
        policy(
            "clients",
            json!({"podSelector": {"matchLabels": {"app": "client"}}, "policyTypes": ["Egress"],
                "egress": [{"to": [app("server")]}]}),
        ),
    ];
    for number in 1..=3 {
        let node = format!("node{}", (number - 1) % nodes + 1);
        for app in ["client", "server", "stranger"] {
            documents.push(pod("chaos", &format!("{app}{number}"), app, &node));
        }
    }
    documents
}

impl Cluster {
    /// Nine pods that stay, on so many nodes.
    pub(crate) fn up(nodes: usize) -> Self {
        let documents = documents(nodes);
        let lab = Lab::up("chaos", &documents, &["--nodes", &nodes.to_string()]);
        let agents = Agent::all(&lab);
        let documents = documents.into_iter().map(|document| (key(&document), document)).collect();
        let mut cluster = Self { lab, agents, pods: Vec::new(), documents, files: BTreeMap::new() };
        cluster.pods = cluster.places();
        cluster
    }

    /// The pods that are there now.
    pub(crate) fn places(&self) -> Vec<Place> {
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let place = |pod: &Value| Place {
            namespace: text(&pod["namespace"]),
            name: text(&pod["name"]),
            node: text(&pod["node"]),
            netns: text(&pod["netns"]),
            ips: array(&pod["ips"]).iter().map(|ip| text(ip).parse().expect("an address")).collect(),
        };
        array(&self.lab.json(&["lab", "ps"])["pods"]).iter().map(place).collect()
    }

    /// Starts an agent again, as its supervisor would.
    pub(crate) fn restart(&mut self, agent: usize) {
        self.agents[agent].start(&self.lab);
    }

    /// One of the nine pods that stay.
    pub(crate) fn pod(&self, name: &str) -> &Place {
        self.pods.iter().find(|pod| pod.name == name).expect("one of the pods that stay")
    }

    /// Starts `lab apply` or `lab delete` of documents.
    pub(crate) fn start(&self, verb: &str, documents: &[Value]) -> Child {
        self.start_with_timeout(verb, documents, "20s")
    }

    /// The same, giving up after another time.
    pub(crate) fn start_with_timeout(&self, verb: &str, documents: &[Value], timeout: &str) -> Child {
        let folder = self.lab.write(verb, documents);
        Command::new(tortie())
            .args(["lab", verb, "--lab", &self.lab.name, "--timeout", timeout, "-f"])
            .arg(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("tortie starts")
    }

    /// Waits for `lab apply` or `lab delete`; what it said if it failed.
    pub(crate) fn finish(command: Child) -> Result<(), String> {
        let output = command.wait_with_output().expect("tortie ends");
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    }

    /// Repeats what a disturbance broke off, as a kubelet or a person would, until the lab has just the documents that it should.
    pub(crate) fn repeat(&self, gone: &[Value], title: &str) {
        let deadline = Instant::now() + PATIENCE;
        let all: Vec<Value> = self.documents.values().cloned().collect();
        loop {
            let left: Vec<Value> = gone
                .iter()
                .filter(|document| self.lab.path("datastore").join(format!("{}.yaml", key(document))).exists())
                .cloned()
                .collect();
            let deleted = if left.is_empty() { Ok(()) } else { Self::finish(self.start("delete", &left)) };
            match deleted.and_then(|()| Self::finish(self.start("apply", &all))) {
                Ok(()) => return,
                Err(reason) => assert!(Instant::now() < deadline, "{title}: the lab does not come back: {reason}"),
            }
        }
    }
}
