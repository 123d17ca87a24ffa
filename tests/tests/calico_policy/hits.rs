//! Hits on a live node: what was decided stays counted through whatever becomes of policies, the agent and the table; and what an object
//! in error leaves in force.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tortie_tests::agent::{Agent, PATIENCE};
use tortie_tests::kernel::try_run;
use tortie_tests::lab::{Lab, array};
use tortie_tests::stream::inside;

use crate::cluster::{Places, calico, namespace, pod};
use crate::talk::{Over, Talk};

/// Where nobody listens: a packet that passes is answered by ICMP, which is of the same flow.
const PORT: u16 = 7;

/// A policy of namespace `hits` for the server.
fn policy(name: &str, order: u32, rules: &Value) -> Value {
    let mut policy = calico(
        "NetworkPolicy",
        name,
        &json!({"order": order, "selector": "app == 'server'", "types": ["Ingress"], "ingress": rules}),
    );
    policy["metadata"]["namespace"] = "hits".into();
    policy
}

fn rule(action: &str, app: &str) -> Value {
    json!({"action": action, "source": {"selector": format!("app == '{app}'")}})
}

struct Node {
    lab: Lab,
    agent: Agent,
    places: Places,
}

impl Node {
    fn up() -> Self {
        let ports = json!([{"containerPort": 80}]);
        let apps = ["server", "friend", "foe", "stranger", "other"];
        let pods = apps.map(|app| pod("hits", app, "node1", &json!({"app": app}), "default", &ports));
        let mut documents = vec![
            namespace("hits", &json!({})),
            policy("first", 10, &json!([rule("Deny", "foe"), rule("Allow", "friend")])),
            policy("second", 20, &json!([rule("Allow", "nobody")])),
        ];
        documents.extend(pods);
        let lab = Lab::up("calhit", &documents, &["--nodes", "1"]);
        let (agent, places) = (Agent::all(&lab).pop().expect("one agent"), Places::of(&lab));
        Self { lab, agent, places }
    }

    /// Begins so many flows to the server, each by one packet.
    fn flows(&self, from: &str, count: usize) {
        let to = self.places.ip("hits/server");
        inside(self.places.netns(from), || {
            for _ in 0..count {
                let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a socket of the pod");
                socket.send_to(b"hit", (to, PORT)).expect("a packet can be sent");
            }
        });
    }

    /// What the agent says of hits, by whatever it was that decided: first packets of flows, and packets of flows that are judged again.
    fn hits(&self) -> Vec<(String, u64, u64)> {
        let answer = ask(&self.lab, "/v1/policy/hits").unwrap_or_default();
        let row = |row: &Value| {
            let count = |field: &str| row[field].as_u64().expect("a count");
            let what = format!("{} {}", row["policy"], row["rule"]).replace('"', "");
            (what, count("packets"), count("rejudgedPackets"))
        };
        array(&answer).iter().map(row).collect()
    }

    /// Waits until the counts are these.
    #[track_caller]
    fn counts(&self, why: &str, expected: &[(&str, u64, u64)]) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let hits = self.hits();
            let known = hits.iter().map(|(what, new, again)| (what.as_str(), *new, *again)).collect::<Vec<_>>();
            if known == expected {
                return;
            }
            assert!(Instant::now() < deadline, "{why}: {known:#?}, expected {expected:#?}");
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    /// Waits until the agent has put everything into the kernel.
    fn settle(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = ask(&self.lab, "/v1/status").unwrap_or_default();
            let revision = status["revision"].as_str().unwrap_or_default();
            if status["ready"] == true && !revision.is_empty() && status["programmedRevision"] == revision {
                return;
            }
            assert!(Instant::now() < deadline, "not settled: {status:#}");
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    /// Starts the agent again.
    fn start(&mut self, flags: &[&str]) {
        self.agent.start_with(&self.lab, flags);
        self.settle();
    }
}

/// `GET` of the agent's admin API, past the command line; `None` where nobody answers.
fn ask(lab: &Lab, path: &str) -> Option<Value> {
    let mut stream = UnixStream::connect(lab.path("nodes/node1/tortie.sock")).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: agent\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    assert!(head.lines().next()?.contains(" 200 "), "{path}: {answer}");
    serde_json::from_str(body).ok()
}

#[test]
fn hits_outlive_changes_crashes_and_flushes() {
    let mut node = Node::up();
    let deny = "first spec.ingress[0]";
    let allow = "first spec.ingress[1]";
    let nobody = "second spec.ingress[0]";
    let default = "CalicoNetworkPolicy hits/first, CalicoNetworkPolicy hits/second null";
    node.flows("hits/foe", 3);
    node.flows("hits/friend", 5);
    node.flows("hits/stranger", 2);
    let first = [(deny, 3, 0), (allow, 5, 0), (nobody, 0, 0), (default, 2, 0)];
    node.counts("each rule has counted its own flows", &first);
    let table = node.lab.run(&["policy", "hits", "--hit"]);
    let of = |name: &str| table.contains(&format!("CalicoNetworkPolicy   hits/{name}"));
    assert!(of("first") && !of("second"), "{table}");

    // A policy of other pods comes and changes, and one of the server's changes where the others are not concerned.
    let mut other = policy("other", 5, &json!([rule("Allow", "friend")]));
    other["spec"]["selector"] = "app == 'other'".into();
    node.lab.apply(&[other.clone()]);
    other["spec"]["ingress"] = json!([rule("Allow", "friend"), rule("Allow", "foe")]);
    node.lab.apply(&[other.clone()]);
    node.lab.delete(&[other]);
    node.counts("a policy of other pods came, changed and went", &first);

    node.agent.kill();
    node.flows("hits/foe", 1);
    node.start(&[]);
    let second = [(deny, 4, 0), (allow, 5, 0), (nobody, 0, 0), (default, 2, 0)];
    node.counts("the agent was killed, and the kernel counted on", &second);

    // A flow that runs, and is judged again by what allows it still.
    let talk = Talk::start(
        Over::Udp,
        node.places.netns("hits/friend"),
        (node.places.netns("hits/server"), node.places.ip("hits/server")),
    );
    let deadline = Instant::now() + PATIENCE;
    while talk.answered() < 3 {
        assert!(Instant::now() < deadline, "the flow does not run");
        std::thread::sleep(Duration::from_millis(20));
    }
    node.counts("the flow is counted once", &[(deny, 4, 0), (allow, 6, 0), (nobody, 0, 0), (default, 2, 0)]);
    node.lab.apply(&[policy("second", 20, &json!([rule("Deny", "nobody")]))]);
    // Its next packet is judged again. Which way that goes chance decides, and a further one may be on its way at that moment.
    let deadline = Instant::now() + PATIENCE;
    let again = loop {
        match node.hits().iter().find(|(what, ..)| what == allow) {
            Some((_, 6, again @ 1..)) => break *again,
            row => assert!(Instant::now() < deadline, "a flow was judged again, and not counted so: {row:?}"),
        }
        std::thread::sleep(Duration::from_millis(30));
    };
    assert!(again <= 4, "a flow that was judged again is left alone: {again}");
    drop(talk);
    let third = [(deny, 4, 0), (allow, 6, again), (nobody, 0, 0), (default, 2, 0)];
    node.counts("new flows and those that are judged again are counted apart", &third);

    // A plain table becomes an owned one, and that a plain one; both are made anew.
    for flags in [&["--plain-table"][..], &[], &["--plain-table"]] {
        node.agent.kill();
        node.start(flags);
        node.counts(&format!("the table was taken over, {flags:?}"), &third);
    }
    // A plain table is anybody's to flush. What an agent has read since it counted is not lost.
    let netns = node.agent.netns.clone();
    try_run(&netns, "nft", &["flush", "ruleset"]).expect("a plain table is not protected");
    node.counts("the table was flushed beside an agent", &third);
    node.flows("hits/foe", 1);
    let fourth = [(deny, 5, 0), (allow, 6, again), (nobody, 0, 0), (default, 2, 0)];
    node.counts("and counts on", &fourth);
    node.agent.signal(Signal::SIGTERM);
    let deadline = Instant::now() + PATIENCE;
    while !node.agent.has_ended() {
        assert!(Instant::now() < deadline, "the agent does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
    try_run(&netns, "nft", &["flush", "ruleset"]).expect("nobody owns the table");
    node.start(&["--plain-table"]);
    node.counts("the table was flushed while no agent ran", &fourth);

    in_error(&mut node, &fourth);
}

/// An object in error leaves in force what was, also over a restart, and everybody is told.
fn in_error(node: &mut Node, counts: &[(&str, u64, u64)]) {
    let file = node.lab.path("datastore/CalicoNetworkPolicy.hits.first.yaml");
    let good = std::fs::read_to_string(&file).expect("the lab wrote it");
    // What would let everybody in, if it were not for a port without a protocol.
    let open = policy("first", 10, &json!([{"action": "Allow", "destination": {"ports": [PORT]}}]));
    let problem = ["CalicoNetworkPolicy hits/first", "spec.ingress[0].destination.ports[0]", "set `protocol` to TCP"];
    std::fs::write(&file, open.to_string()).expect("the datastore is a directory");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let said = node.lab.run(&["node", "status"]);
        let line = said.lines().find(|line| line.starts_with("problem: ")).unwrap_or_default();
        if problem.iter().all(|part| line.contains(part)) {
            break;
        }
        assert!(Instant::now() < deadline, "the problem is not told: {said}");
        std::thread::sleep(Duration::from_millis(50));
    }
    for restarted in [false, true] {
        if restarted {
            node.agent.kill();
            node.agent.start_with(&node.lab, &["--plain-table"]);
            node.settle();
        }
        let said = node.lab.run(&["node", "status", "-o", "json"]);
        assert!(problem.iter().all(|part| said.contains(part)), "after a restart {restarted}: {said}");
        node.counts(&format!("the policy is in error, after a restart {restarted}"), counts);
    }
    node.flows("hits/foe", 1);
    let mut denied = counts.to_vec();
    denied[0].1 += 1;
    node.counts("what is in force is the last good version", &denied);
    std::fs::write(&file, good).expect("the datastore is a directory");
    let deadline = Instant::now() + PATIENCE;
    while node.lab.run(&["node", "status"]).contains("problem: ") {
        assert!(Instant::now() < deadline, "the problem is not forgotten");
        std::thread::sleep(Duration::from_millis(50));
    }
}
