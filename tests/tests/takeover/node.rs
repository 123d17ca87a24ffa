//! One node of a lab with a few pods, and what its agent is put through.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Instant;

use serde_json::{Value, json};
use tortie_nft_netlink::NftSocket;
use tortie_tests::agent::{Agent, PATIENCE};
use tortie_tests::kernel::{difference, our_routes};
use tortie_tests::lab::{Lab, array};
use tortie_tests::stream::{Stream, inside};

pub(crate) struct Node {
    pub(crate) lab: Lab,
    agent: Agent,
    pods: Vec<Value>,
}

pub(crate) fn pod(name: &str, app: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "take", "labels": {"app": app}},
        "spec": {"nodeName": "node1", "containers": [{"name": "c", "image": "serve", "ports": [{"containerPort": 80}]}]}})
}

pub(crate) fn policy(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": "take"}, "spec": spec})
}

impl Node {
    /// A node whose `server` takes from `client` and, for the time being, from `late`; clients reach nothing but servers.
    pub(crate) fn up(title: &str) -> Self {
        let app = |names: &[&str]| json!({"podSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": names}]}});
        let documents = [
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "take"}}),
            pod("client", "client"),
            pod("server", "server"),
            pod("stranger", "stranger"),
            pod("late", "late"),
            pod("idle", "idle"),
            pod("gone", "idle"),
            policy(
                "server",
                &json!({"podSelector": {"matchLabels": {"app": "server"}}, "ingress": [{"from": [app(&["client", "late"])]}]}),
            ),
            policy(
                "client",
                &json!({"podSelector": {"matchLabels": {"app": "client"}}, "policyTypes": ["Egress"],
                "egress": [{"to": [app(&["server"])]}]}),
            ),
            policy(
                "ports",
                &json!({"podSelector": {"matchLabels": {"app": "idle"}}, "ingress": [
                {"from": [{"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.9/32"]}}], "ports": [{"protocol": "TCP", "port": 80, "endPort": 90}]}]}),
            ),
        ];
        let lab = Lab::up(title, &documents, &["--nodes", "1"]);
        let agent = Agent::all(&lab).pop().expect("one agent");
        let pods = array(&lab.json(&["lab", "ps"])["pods"]);
        Self { lab, agent, pods }
    }

    pub(crate) fn netns(&self) -> &str {
        &self.agent.netns
    }

    pub(crate) fn kill(&mut self) {
        self.agent.kill();
    }

    pub(crate) fn start(&mut self, flags: &[&str]) {
        self.agent.start_with(&self.lab, flags);
    }

    /// `kill -9`, start, and wait until all is in place.
    pub(crate) fn restart(&mut self, flags: &[&str]) {
        self.kill();
        self.start(flags);
        self.settle();
    }

    /// The file of a document in the datastore, as the lab names it.
    fn file(&self, document: &Value) -> PathBuf {
        let metadata = &document["metadata"];
        let words = [&document["kind"], &metadata["namespace"], &metadata["name"]];
        let name = words.iter().filter_map(|word| word.as_str()).collect::<Vec<_>>().join(".");
        self.lab.path("datastore").join(format!("{name}.yaml"))
    }

    /// Puts a document into the datastore, whoever runs.
    pub(crate) fn write(&self, document: &Value) {
        let file = self.file(document);
        let new = file.with_extension("new");
        std::fs::write(&new, document.to_string()).expect("a document");
        std::fs::rename(new, file).expect("in place");
    }

    pub(crate) fn write_all(&self, documents: &[Value]) {
        for document in documents {
            self.write(document);
        }
    }

    pub(crate) fn remove(&self, document: &Value) {
        std::fs::remove_file(self.file(document)).expect("the document was there");
    }

    pub(crate) fn place(&self, name: &str) -> (String, IpAddr, IpAddr) {
        let pod = self.pods.iter().find(|pod| pod["name"] == name).unwrap_or_else(|| panic!("no pod {name}"));
        let ips: Vec<IpAddr> =
            array(&pod["ips"]).iter().map(|ip| ip.as_str().expect("text").parse().expect("an address")).collect();
        let of = |v4: bool| *ips.iter().find(|ip| ip.is_ipv4() == v4).expect("dual stack");
        (pod["netns"].as_str().expect("a name").to_owned(), of(true), of(false))
    }

    /// The IPv4 route to a pod.
    pub(crate) fn route_of(&self, name: &str) -> String {
        self.place(name).1.to_string()
    }

    /// A stream both ways by IPv4.
    pub(crate) fn stream(&self, from: &str, to: &str, port: u16) -> Stream {
        let (client, client4, _) = self.place(from);
        let (server, server4, _) = self.place(to);
        Stream::start((&client, client4), (&server, server4, port))
    }

    /// Waits until the agent says that all is in place, and the kernel has just what the agent wants. Returns the revision.
    pub(crate) fn settle(&mut self) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            assert!(!self.agent.has_ended(), "the agent has ended by itself");
            match self.unsettled() {
                Ok(revision) => return revision,
                Err(reason) => assert!(Instant::now() < deadline, "not settled after {PATIENCE:?}: {reason}"),
            }
            std::thread::sleep(std::time::Duration::from_millis(30));
        }
    }

    /// What the agent's status says is wrong.
    pub(crate) fn problems(&self) -> Value {
        self.lab.json(&["node", "status"])[0]["problems"].clone()
    }

    /// Every file that agents have written: endpoints, what they own in the datastore, and what they say of pods.
    pub(crate) fn state_files(&self) -> Vec<PathBuf> {
        let mut folders = vec![self.lab.path("nodes"), self.lab.path("datastore/.tortie/objects")];
        folders.push(self.lab.path("datastore/.tortie/pods"));
        let mut files = Vec::new();
        while let Some(folder) = folders.pop() {
            for path in std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|end| end == "json") {
                    files.push(path);
                }
            }
        }
        files
    }

    fn unsettled(&self) -> Result<String, String> {
        let ask = |words: &[&str]| {
            let output = std::process::Command::new(tortie_tests::lab::tortie())
                .args(words)
                .args(["--lab", &self.lab.name, "--node", "node1"])
                .output()
                .expect("tortie runs");
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
        };
        let status: Value =
            serde_json::from_str(&ask(&["node", "status", "-o", "json"])?).map_err(|e| e.to_string())?;
        let revision = status[0]["revision"].as_str().unwrap_or_default().to_owned();
        if revision.is_empty() || status[0]["programmedRevision"] != revision.as_str() {
            return Err(format!("its status is {status}"));
        }
        let rows: Value = serde_json::from_str(&ask(&["routes", "-o", "json"])?).map_err(|e| e.to_string())?;
        let wrong: Vec<Value> = array(&rows).into_iter().filter(|row| row["state"] != "present").collect();
        let ours = our_routes(self.netns());
        if !wrong.is_empty() || ours.len() != array(&rows).len() {
            return Err(format!("its routes are {rows}, those of the kernel {ours:?}"));
        }
        let wanted = ask(&["policy", "render"])?;
        let kernel = inside(self.netns(), || NftSocket::open().and_then(|mut socket| socket.read()));
        let kernel = kernel.map_err(|e| e.to_string())?.ok_or("there is no table")?.to_string();
        difference("the kernel", &kernel, "the agent", &wanted).map_or(Ok(revision), Err)
    }
}
