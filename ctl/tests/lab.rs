//! Real labs through the command line: what is made, changed, refused and left behind. Needs root and `tortie-node` beside `tortie`.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// A lab of a name of its own, taken down whatever happens to the test.
struct Lab {
    name: String,
    folder: tempfile::TempDir,
}

impl Lab {
    fn new(title: &str) -> Self {
        let node = PathBuf::from(env!("CARGO_BIN_EXE_tortie")).with_file_name("tortie-node");
        assert!(node.exists(), "{} is missing: run `cargo build -p tortie-node`", node.display());
        Self {
            name: format!("{title}{}", std::process::id() % 1_000_000),
            folder: tempfile::tempdir().expect("a folder"),
        }
    }

    /// Writes a manifest and returns its path.
    fn manifest(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).expect("a manifest");
        path.to_str().expect("a plain path").to_owned()
    }

    fn command(&self, args: &[&str]) -> Output {
        let mut args = args.to_vec();
        let place = args.iter().position(|arg| *arg == "--").unwrap_or(args.len());
        args.splice(place..place, ["--lab", &self.name]);
        let mut command = Command::new(env!("CARGO_BIN_EXE_tortie"));
        command.args(args).stdin(Stdio::null()).output().expect("tortie runs")
    }

    fn run(&self, args: &[&str]) -> String {
        let output = self.command(args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {}\n{stderr}", output.status);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs what must fail with status 1; what it said.
    fn refused(&self, args: &[&str]) -> String {
        let output = self.command(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    fn json(&self, args: &[&str]) -> Value {
        let text = self.run(&[args, &["-o", "json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// `FROM TO PROTOCOL/PORT VERDICT`, sorted.
    fn probe(&self, args: &[&str]) -> Vec<String> {
        let rows = self.json(&[&["lab", "probe"], args].concat());
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut rows: Vec<String> = rows
            .as_array()
            .expect("rows")
            .iter()
            .map(|row| {
                let [from, to, protocol, verdict] =
                    ["from", "to", "protocol", "verdict"].map(|field| text(&row[field]));
                format!("{from} {to} {protocol}/{} {verdict}", row["port"])
            })
            .collect();
        rows.sort();
        rows
    }

    /// Namespaces and directories of this lab.
    fn traces(&self) -> Vec<String> {
        let mut found = Vec::new();
        for folder in ["/run/netns", "/run/tortie-lab"] {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if name == self.name || name.starts_with(&format!("{}_", self.name)) {
                    found.push(name);
                }
            }
        }
        found
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.command(&["lab", "down"]);
    }
}

fn pod(name: &str, rest: &str) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: x, labels: {{app: {name}}}}}, spec: {{containers: [{{name: c}}]{rest}}}}}\n"
    )
}

const ONLY_A: &str =
    "---\n{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: only-a, namespace: x},
 spec: {podSelector: {matchLabels: {app: b}}, ingress: [{from: [{podSelector: {matchLabels: {app: a}}}]}]}}\n";

fn field(value: &Value, list: &str, name: &str, field: &str) -> Value {
    let items = value[list].as_array().expect("a list");
    items.iter().find(|item| item["name"] == name).map(|item| item[field].clone()).unwrap_or_default()
}

#[test]
fn pods_come_change_and_go() {
    let lab = Lab::new("life");
    let first = lab.manifest("first.yaml", &(pod("a", "") + &pod("b", "")));
    lab.run(&["lab", "up", "--nodes", "2", "-f", &first]);
    let ps = lab.json(&["lab", "ps"]);
    assert_eq!(ps["nodes"].as_array().map(Vec::len), Some(2));
    assert_eq!(field(&ps, "pods", "a", "node"), "node1");
    assert_eq!(field(&ps, "pods", "b", "node"), "node2");
    assert_eq!(field(&ps, "pods", "b", "ready"), true);
    assert_eq!(ps["outside"]["netns"], format!("{}_fabric", lab.name));
    let open = ["x/a x/a TCP/80 allow", "x/a x/b TCP/80 allow", "x/b x/a TCP/80 allow", "x/b x/b TCP/80 allow"];
    assert_eq!(lab.probe(&[]), open);
    assert_eq!(lab.probe(&["--family", "ipv6"]), open);
    assert_eq!(
        lab.probe(&["--from", "outside", "--ports", "UDP/53,TCP/81"]),
        [
            "outside x/a TCP/81 allow",
            "outside x/a UDP/53 allow",
            "outside x/b TCP/81 allow",
            "outside x/b UDP/53 allow"
        ],
        "responders come up for undeclared ports"
    );

    // A policy and another pod; the pods that are there keep their addresses.
    let second = lab.manifest("second.yaml", &(pod("c", "") + ONLY_A));
    lab.run(&["lab", "apply", "-f", &second]);
    let after = lab.json(&["lab", "ps"]);
    assert_eq!(field(&after, "pods", "a", "ips"), field(&ps, "pods", "a", "ips"));
    assert_eq!(lab.probe(&["--to", "x/b"]), ["x/a x/b TCP/80 allow", "x/b x/b TCP/80 allow", "x/c x/b TCP/80 deny"]);
    assert_eq!(lab.probe(&["--from", "outside", "--to", "x/b"]), ["outside x/b TCP/80 deny"]);
    assert_eq!(
        lab.probe(&["--from", "node2", "--to", "x/b"]),
        ["node2 x/b TCP/80 allow"],
        "a pod's own node is never cut"
    );

    // Labels change without a new interface, and policy follows.
    let before = lab.json(&["lab", "ps"]);
    let relabelled = pod("c", "").replace("{app: c}", "{app: a}");
    lab.run(&["lab", "apply", "-f", &lab.manifest("third.yaml", &relabelled)]);
    assert_eq!(lab.json(&["lab", "ps"]), before);
    assert_eq!(lab.probe(&["--from", "x/c", "--to", "x/b"]), ["x/c x/b TCP/80 allow"]);

    // Another node is another interface.
    lab.run(&["lab", "apply", "-f", &lab.manifest("moved.yaml", &pod("a", ", nodeName: node2"))]);
    assert_eq!(field(&lab.json(&["lab", "ps"]), "pods", "a", "node"), "node2");
    assert_eq!(lab.probe(&["--from", "x/a", "--to", "x/b"]), ["x/a x/b TCP/80 allow"]);

    lab.run(&["lab", "delete", "-f", &second]);
    assert_eq!(lab.probe(&[]), open);
    let said = lab.refused(&["lab", "delete", "-f", &second]);
    assert!(said.contains("not found"), "{said}");

    assert_eq!(lab.refused(&["lab", "up"]).matches("exists").count(), 1);
    lab.run(&["lab", "down"]);
    assert_eq!(lab.traces(), Vec::<String>::new());
}

#[test]
fn live_commands_join_all_nodes() {
    let lab = Lab::new("live");
    lab.run(&["lab", "up", "-f", &lab.manifest("pods.yaml", &(pod("a", "") + &pod("b", "") + ONLY_A))]);
    let peers = lab.json(&["bgp", "peers"]);
    let peers = peers.as_array().expect("a list");
    assert_eq!(peers.len(), 6);
    assert!(peers.iter().all(|peer| peer["state"] == "Established" && peer["type"] == "mesh"), "{peers:?}");
    let one = lab.json(&["bgp", "peers", "--node", "node2"]);
    assert!(one.as_array().is_some_and(|rows| rows.len() == 2 && rows.iter().all(|row| row["node"] == "node2")));
    let routes = lab.json(&["routes"]);
    let routes = routes.as_array().expect("a list");
    assert!(routes.iter().all(|route| route["state"] == "present"), "{routes:?}");
    for source in ["local-pod", "local-block", "bgp"] {
        assert!(routes.iter().any(|route| route["source"] == source), "no {source} in {routes:?}");
    }
    let address = field(&lab.json(&["lab", "ps"]), "pods", "a", "ips")[0].as_str().expect("an address").to_owned();
    let why = lab.json(&["bgp", "routes", "--why", &address, "--node", "node3"]);
    assert!(why.as_array().is_some_and(|rows| rows.iter().any(|row| row["best"] == true)), "{why}");
    let holder = lab.json(&["ipam", "show", "--ip", &address]);
    assert_eq!(holder["inUse"], true, "{holder}");
    let status = lab.json(&["node", "status"]);
    assert!(status.as_array().is_some_and(|rows| rows.len() == 3 && rows.iter().all(|row| row["ready"] == true)));
    assert!(lab.run(&["node", "status"]).contains("node-to-node mesh"));
    assert!(lab.run(&["policy", "render", "--node", "node2"]).contains("table inet tortie"));
    let matrix = lab.json(&["policy", "matrix"]);
    assert_eq!(matrix, lab.json(&["lab", "probe"]), "the interpreter and the packets agree");
    let pods = lab.run(&["get", "pods", "-n", "x", "-o", "wide"]);
    assert!(pods.contains(&address) && pods.contains("Running"), "{pods}");
    assert!(lab.refused(&["bgp", "peers", "--node", "node9"]).contains("node1, node2, node3"));
}

#[test]
fn exec_passes_the_status_on() {
    let lab = Lab::new("exec");
    lab.run(&["lab", "up", "--nodes", "1", "-f", &lab.manifest("pod.yaml", &pod("a", ""))]);
    for place in ["node1", "x/a", "outside"] {
        assert_eq!(lab.command(&["lab", "exec", place, "--", "sh", "-c", "exit 7"]).status.code(), Some(7));
    }
    assert_eq!(lab.run(&["lab", "exec", "x/a", "--", "cat", "/proc/net/dev"]).matches("eth0").count(), 1);
    assert!(lab.refused(&["lab", "exec", "x/nobody", "--", "true"]).contains("x/nobody"));
    let said = lab.refused(&["lab", "exec", "node1", "--", "no-such-program"]);
    assert!(said.contains("no-such-program") && said.matches("No such file").count() == 1, "{said}");
}

#[test]
fn nodes_of_different_subnets_and_pinned_addresses() {
    let lab = Lab::new("subnets");
    let node = |name: &str, address: &str| {
        format!(
            "---\n{{apiVersion: v1, kind: Node, metadata: {{name: {name}}}, status: {{addresses: [{{type: InternalIP, address: {address}}}]}}}}\n"
        )
    };
    let pinned = |name: &str, node: &str, ip: &str| {
        format!(
            "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: x, annotations: {{cni.projectcalico.org/ipAddrs: '[\"{ip}\"]'}}}}, spec: {{nodeName: {node}, containers: [{{name: c}}]}}}}\n"
        )
    };
    let pool =
        "---\n{apiVersion: projectcalico.org/v3, kind: IPPool, metadata: {name: p}, spec: {cidr: 192.168.0.0/16}}\n";
    let text = [
        pool.to_owned(),
        node("here", "172.31.3.3"),
        node("there", "172.31.4.4"),
        pinned("a", "here", "192.168.1.1"),
        pinned("b", "there", "192.168.1.2"),
    ]
    .concat();
    lab.run(&["lab", "up", "-f", &lab.manifest("all.yaml", &text)]);
    let ps = lab.json(&["lab", "ps"]);
    assert_eq!(field(&ps, "nodes", "there", "ip"), "172.31.4.4");
    assert_eq!(
        field(&ps, "pods", "b", "ips"),
        serde_json::json!(["192.168.1.2"]),
        "pinned within another node's block"
    );
    let open = ["x/a x/a TCP/80 allow", "x/a x/b TCP/80 allow", "x/b x/a TCP/80 allow", "x/b x/b TCP/80 allow"];
    assert_eq!(lab.probe(&[]), open);
    assert_eq!(lab.probe(&["--from", "outside"]), ["outside x/a TCP/80 allow", "outside x/b TCP/80 allow"]);
}

#[test]
fn what_cannot_come_up_leaves_nothing() {
    let lab = Lab::new("refused");
    let broken = lab.manifest("broken.yaml", "{apiVersion: v1, kind: Pod, metadata: {name: 'No Name'}}");
    let said = lab.refused(&["lab", "up", "-f", &broken]);
    assert!(said.contains("broken.yaml:1"), "{said}");
    assert_eq!(lab.traces(), Vec::<String>::new());
    // Outside every pool: refused by the CNI plugin, when nodes and agents are there already.
    let outside = lab.manifest(
        "outside.yaml",
        "{apiVersion: v1, kind: Pod, metadata: {name: a, annotations: {cni.projectcalico.org/ipAddrs: '[\"203.0.113.9\"]'}}, spec: {containers: []}}",
    );
    let said = lab.refused(&["lab", "up", "-f", &outside]);
    assert!(said.contains("default/a") && said.contains("203.0.113.9"), "{said}");
    assert_eq!(lab.traces(), Vec::<String>::new());
}

#[test]
fn a_dead_agent_is_named_and_holds_up_nobody_else() {
    let lab = Lab::new("dead");
    lab.run(&["lab", "up", "--nodes", "2"]);
    let pid = field(&lab.json(&["lab", "ps"]), "nodes", "node2", "pid").to_string();
    assert!(Command::new("kill").args(["-9", &pid]).status().expect("kill runs").success());
    let pods = lab.manifest("pods.yaml", &(pod("a", ", nodeName: node1") + &pod("b", ", nodeName: node2")));
    let began = std::time::Instant::now();
    let said = lab.refused(&["lab", "apply", "-f", &pods]);
    assert!(said.contains("node2: the agent has ended") && said.contains("pod x/b: the agent of node2"), "{said}");
    assert!(began.elapsed().as_secs() < 30, "waited {:?} for the dead", began.elapsed());
    let ps = lab.json(&["lab", "ps"]);
    assert_eq!(field(&ps, "nodes", "node2", "pid"), Value::Null);
    assert_eq!(field(&ps, "pods", "a", "ready"), true);
    assert_eq!(field(&ps, "pods", "b", "ready"), false);
    assert_eq!(lab.probe(&["--from", "node1", "--to", "x/a"]), ["node1 x/a TCP/80 allow"]);
}

#[test]
fn a_refused_pod_keeps_nothing_else_from_happening() {
    let lab = Lab::new("bad");
    let pinned = |name: &str| {
        let annotations = "annotations: {cni.projectcalico.org/ipAddrs: '[\"203.0.113.9\"]'}, labels";
        pod(name, "").replace("labels", annotations)
    };
    lab.run(&["lab", "up", "--nodes", "2"]);
    let first = lab.manifest("first.yaml", &(pinned("bad1") + &pod("a", "") + &pinned("bad2") + &pod("b", "")));
    let said = lab.refused(&["lab", "apply", "-f", &first]);
    assert!(said.contains("x/bad1") && said.contains("x/bad2") && said.contains("203.0.113.9"), "{said}");
    assert!(!said.contains("x/a") && !said.contains("x/b:"), "{said}");
    let both = ["x/a x/b TCP/80 allow", "x/b x/b TCP/80 allow"];
    assert_eq!(lab.probe(&["--to", "x/b"]), both);
    // What comes later happens, and what is wrong still is said.
    let said = lab.refused(&["lab", "apply", "-f", &lab.manifest("second.yaml", &(pod("c", "") + ONLY_A))]);
    assert!(said.contains("x/bad1") && said.contains("x/bad2"), "{said}");
    assert_eq!(lab.probe(&["--to", "x/b"]), ["x/a x/b TCP/80 allow", "x/b x/b TCP/80 allow", "x/c x/b TCP/80 deny"]);
    lab.run(&["lab", "delete", "-f", &lab.manifest("bad.yaml", &(pinned("bad1") + &pinned("bad2")))]);
}

#[test]
fn a_broken_file_of_the_datastore_is_in_the_way_of_its_own_objects_only() {
    let lab = Lab::new("broken");
    lab.run(&["lab", "up", "--nodes", "1", "-f", &lab.manifest("first.yaml", &pod("a", ""))]);
    let directory = PathBuf::from(format!("/run/tortie-lab/{}/datastore", lab.name));
    let file = directory.join("policy.yaml");
    std::fs::write(&file, ONLY_A).expect("a policy");
    lab.run(&["lab", "apply", "-f", &lab.manifest("again.yaml", &pod("a", ""))]);
    std::fs::write(&file, ONLY_A.replace("podSelector: {matchLabels: {app: b}}", "podSelektor: {}")).expect("an error");
    let b = lab.manifest("b.yaml", &(pod("b", "") + &pod("c", "")));
    let output = lab.command(&["lab", "apply", "-f", &b]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("policy.yaml"), "{said}");
    assert!(said.contains("the last good version of this file stays in force"), "{said}");
    assert_eq!(lab.probe(&["--to", "x/b"]), ["x/a x/b TCP/80 allow", "x/b x/b TCP/80 allow", "x/c x/b TCP/80 deny"]);
    let said = lab.refused(&["lab", "apply", "-f", &lab.manifest("policy.yaml", ONLY_A)]);
    assert!(
        said.contains("only-a") && said.contains("mend it first") && said.contains("nothing was applied"),
        "{said}"
    );
    let said = lab.refused(&["lab", "delete", "-f", &lab.manifest("policy.yaml", ONLY_A)]);
    assert!(said.contains("mend it first") && said.contains("nothing was deleted"), "{said}");
    lab.run(&["lab", "delete", "-f", &b]);
}

#[test]
fn without_a_mesh_nobody_waits_for_routes() {
    let lab = Lab::new("islands");
    let configuration = "---\n{apiVersion: projectcalico.org/v3, kind: BGPConfiguration, metadata: {name: default}, spec: {nodeToNodeMeshEnabled: false}}\n";
    let all = lab.manifest("all.yaml", &(pod("a", "") + &pod("b", "") + configuration));
    let output = lab.command(&["lab", "up", "--nodes", "2", "--timeout", "30s", "-f", &all]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("turns the node-to-node mesh off"), "{said}");
    assert_eq!(lab.probe(&["--from", "node1", "--to", "x/a"]), ["node1 x/a TCP/80 allow"]);
}

#[test]
fn a_pod_without_its_interface_is_not_ready() {
    let lab = Lab::new("unplugged");
    lab.run(&["lab", "up", "--nodes", "1", "-f", &lab.manifest("pod.yaml", &pod("a", ""))]);
    assert_eq!(field(&lab.json(&["lab", "ps"]), "pods", "a", "ready"), true);
    lab.run(&["lab", "exec", "x/a", "--", "ip", "link", "delete", "eth0"]);
    assert_eq!(field(&lab.json(&["lab", "ps"]), "pods", "a", "ready"), false);
}
