//! The cluster: what it should consist of, its agents, and the supervisor that starts them again.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tortie_tests::lab::{Lab, array, tortie};
use tortie_tests::stream::inside;

/// How long anything may take before the test gives up. What must be quick is measured on its own.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

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

/// An agent, which outlives its processes.
pub(crate) struct Agent {
    pub(crate) node: String,
    pub(crate) netns: String,
    command: Vec<String>,
    pid: i32,
    child: Option<Child>,
}

pub(crate) struct Cluster {
    pub(crate) lab: Lab,
    pub(crate) agents: Vec<Agent>,
    pods: Vec<Place>,
    /// All documents that should be in force but those of the lab itself.
    pub(crate) documents: BTreeMap<String, Value>,
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

fn documents() -> Vec<Value> {
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
        for app in ["client", "server", "stranger"] {
            documents.push(pod("chaos", &format!("{app}{number}"), app, &format!("node{number}")));
        }
    }
    documents
}

impl Cluster {
    pub(crate) fn up() -> Self {
        let documents = documents();
        let lab = Lab::up("chaos", &documents, &["--nodes", "3"]);
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let agents = array(&lab.json(&["lab", "ps"])["nodes"])
            .iter()
            .map(|node| {
                let pid = i32::try_from(node["pid"].as_i64().expect("a pid")).expect("a pid");
                let command = std::fs::read(format!("/proc/{pid}/cmdline")).expect("the agent runs");
                let words = command.split(|byte| *byte == 0).filter(|word| !word.is_empty());
                let command = words.map(|word| String::from_utf8_lossy(word).into_owned()).collect();
                Agent { node: text(&node["name"]), netns: text(&node["netns"]), command, pid, child: None }
            })
            .collect();
        let documents = documents.into_iter().map(|document| (key(&document), document)).collect();
        let mut cluster = Self { lab, agents, pods: Vec::new(), documents };
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

    /// One of the nine pods that stay.
    pub(crate) fn pod(&self, name: &str) -> &Place {
        self.pods.iter().find(|pod| pod.name == name).expect("one of the pods that stay")
    }

    /// A directory or file of the lab.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("/run/tortie-lab").join(&self.lab.name).join(name)
    }

    /// Starts `lab apply` or `lab delete` of documents.
    pub(crate) fn start(&self, verb: &str, documents: &[Value]) -> Child {
        self.tell_the_lab();
        let folder = self.lab.write(verb, documents);
        Command::new(tortie())
            .args(["lab", verb, "--lab", &self.lab.name, "--timeout", "20s", "-f"])
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
                .filter(|document| self.path("datastore").join(format!("{}.yaml", key(document))).exists())
                .cloned()
                .collect();
            let deleted = if left.is_empty() { Ok(()) } else { Self::finish(self.start("delete", &left)) };
            match deleted.and_then(|()| Self::finish(self.start("apply", &all))) {
                Ok(()) => return,
                Err(reason) => assert!(Instant::now() < deadline, "{title}: the lab does not come back: {reason}"),
            }
        }
    }

    /// The lab's commands take an agent for dead when the process that they know is.
    fn tell_the_lab(&self) {
        let file = self.path("state.json");
        let text = std::fs::read_to_string(&file).expect("the lab has a state");
        let mut state: Value = serde_json::from_str(&text).expect("the state is JSON");
        for node in state["nodes"].as_array_mut().expect("the lab has nodes") {
            let agent = self.agents.iter().find(|agent| node["name"] == *agent.node).expect("each has an agent");
            node["pid"] = agent.pid.into();
        }
        let new = file.with_extension("chaos");
        std::fs::write(&new, state.to_string()).expect("the state is written");
        std::fs::rename(&new, &file).expect("the state is replaced");
    }
}

impl Agent {
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid), signal)
            .unwrap_or_else(|errno| panic!("{}: the agent has ended: {errno}", self.node));
    }

    /// `kill -9`, and waits until the process is gone.
    pub(crate) fn kill(&mut self) {
        if let Some(child) = &mut self.child {
            let ended = child.try_wait().expect("the agent is ours");
            assert!(ended.is_none(), "{}: the agent had ended by itself: {ended:?}", self.node);
        }
        self.signal(Signal::SIGKILL);
        if let Some(mut child) = self.child.take() {
            child.wait().expect("the agent is ours");
        }
        let deadline = Instant::now() + PATIENCE;
        while self.runs() {
            assert!(Instant::now() < deadline, "{}: the killed agent does not end", self.node);
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Starts the agent as its supervisor would, with its output where the lab has it.
    pub(crate) fn start(&mut self, logs: &std::path::Path) {
        let log =
            OpenOptions::new().append(true).open(logs.join(format!("{}.log", self.node))).expect("the agent has a log");
        let errors = log.try_clone().expect("a handle");
        let child = inside(&self.netns, || {
            let mut command = Command::new(&self.command[0]);
            command.args(&self.command[1..]).stdin(Stdio::null()).stdout(log).stderr(errors).current_dir("/");
            command.spawn().expect("the agent starts again")
        });
        self.pid = i32::try_from(child.id()).expect("a pid");
        self.child = Some(child);
    }

    /// Whether any of its process is left but a zombie. The first thread becomes one while others still end, and still hold files.
    fn runs(&self) -> bool {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.pid)).map_or(0, Iterator::count);
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        // The state follows the command's name in parentheses.
        let lives = stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']));
        threads > 1 || lives
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().is_ok_and(|ended| ended.is_some()))
    }
}
