//! An agent that is killed while the policies of its node's own interface change: what is closed stays closed, what must be open for the
//! node to be reached stays open, and the next agent ends where the documents say.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tortie_tests::agent::PATIENCE;
use tortie_tests::lab::{array, tortie};
use tortie_tests::stream::{Stream, inside};

use crate::node::Node;

/// A failsafe port of a node, which no policy closes.
const SSH: u16 = 22;

/// How many agents are killed.
const KILLS: u64 = 12;

fn calico(kind: &str, name: &str, labels: &Value, spec: &Value) -> Value {
    json!({"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": name, "labels": labels}, "spec": spec})
}

fn endpoint(name: &str, interface: &str, labels: &Value) -> Value {
    calico("HostEndpoint", name, labels, &json!({"node": "node1", "interfaceName": interface}))
}

/// A policy for the node, of ingress alone.
fn policy(name: &str, more: &Value, rules: &Value) -> Value {
    let mut spec = json!({"selector": "role == 'node'", "types": ["Ingress"], "ingress": rules});
    for (key, value) in more.as_object().expect("a map") {
        spec[key] = value.clone();
    }
    calico("GlobalNetworkPolicy", name, &json!({}), &spec)
}

fn udp(action: &str, port: u16) -> Value {
    json!([{"action": action, "protocol": "UDP", "destination": {"ports": [port]}}])
}

/// Somebody who connects to a failsafe port, again and again.
struct Knocking {
    stop: Arc<AtomicBool>,
    tries: Arc<Mutex<Vec<Result<(), String>>>>,
    thread: Option<JoinHandle<()>>,
}

impl Knocking {
    fn start(from: &str, node: &str, to: SocketAddr) -> Self {
        let listener = inside(node, || TcpListener::bind(to).expect("the failsafe port is free"));
        // Whoever knocks is let in, lest they queue. The thread ends with the test's process.
        std::thread::spawn(move || while listener.accept().is_ok() {});
        let (stop, tries) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (from, stopped, log) = (from.to_owned(), Arc::clone(&stop), Arc::clone(&tries));
        let thread = std::thread::spawn(move || {
            inside(&from, || {
                while !stopped.load(Ordering::Relaxed) {
                    let result = TcpStream::connect_timeout(&to, Duration::from_secs(20));
                    log.lock().expect("the log").push(result.map(drop).map_err(|error| error.to_string()));
                    std::thread::sleep(Duration::from_millis(10));
                }
            });
        });
        Self { stop, tries, thread: Some(thread) }
    }

    /// Ends, and says how many tries there were and which failed.
    fn stop(mut self) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().expect("once").join().expect("the thread ends");
        let tries = self.tries.lock().expect("the log");
        (tries.len(), tries.iter().filter_map(|tried| tried.clone().err()).collect())
    }
}

/// Changes to the node's own policies in turn. Each leaves what is observed as it is; what a step adds the next but one takes away.
fn change(number: u64) -> Vec<Value> {
    let before = json!({"preDNAT": true, "applyOnForward": true});
    let untracked = json!({"doNotTrack": true, "applyOnForward": true});
    match number % 5 {
        0 => vec![policy("more", &json!({"order": 5}), &udp("Allow", 9100))],
        1 => vec![endpoint("node1-all", "*", &json!({"role": "node"}))],
        2 => vec![policy("before", &before, &udp("Deny", 9000)), policy("more", &json!({}), &udp("Deny", 9100))],
        3 => vec![policy("fast", &untracked, &udp("Allow", 9101))],
        _ => vec![endpoint("node1-eth0", "eth0", &json!({"role": "node", "turn": number.to_string()}))],
    }
}

/// Nothing that the command line says of the node is in doubt: what it makes of the documents is the agent's table.
fn documents_say_the_same(node: &Node, title: &str) {
    let output =
        Command::new(tortie()).args(["policy", "plan", "--lab", &node.lab.name]).output().expect("tortie runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("is not, or not yet"), "{title}: {said}");
}

#[test]
fn an_agent_killed_amid_changes_leaves_no_node_open_and_none_shut() {
    let mut node = Node::up("hosts");
    let ps = node.lab.json(&["lab", "ps"]);
    let outside = ps["outside"]["netns"].as_str().expect("a name").to_owned();
    let address = |ip: &Value| ip.as_str().and_then(|ip| ip.parse::<IpAddr>().ok());
    let there = array(&ps["outside"]["ips"]).iter().filter_map(address).find(IpAddr::is_ipv4).expect("an IPv4 address");
    let here = address(&ps["nodes"][0]["ip"]).expect("an address");
    let netns = node.netns().to_owned();

    let base =
        [endpoint("node1-eth0", "eth0", &json!({"role": "node"})), policy("open", &json!({}), &udp("Allow", 8080))];
    node.write_all(&base);
    node.settle();
    // What is explained is what is seen below.
    let explained = |from: IpAddr, to: IpAddr, protocol: &str, port: u16| {
        let (from, to, port) = (from.to_string(), to.to_string(), port.to_string());
        let ends = ["policy", "explain", "--from", &from, "--to", &to, "--protocol", protocol, "--port", &port];
        node.lab.json(&ends)["hostEndpoints"][0]["verdict"].clone()
    };
    for (from, to, protocol, port, verdict) in [
        (there, here, "tcp", SSH, "allow"),
        (there, here, "udp", 8080, "allow"),
        (there, here, "udp", 9000, "deny"),
        (here, there, "udp", 9001, "deny"),
    ] {
        assert_eq!(explained(from, to, protocol, port), verdict, "{from} to {to}, {protocol}/{port}");
    }
    let began = Instant::now();
    let knocking = Knocking::start(&outside, &netns, (here, SSH).into());
    let mut open = Stream::start((&outside, there), (&netns, here, 8080));
    // To a port that no policy opens, and from the node, which nothing allows to send by that interface.
    let mut shut = [
        Stream::start_one_way((&outside, there), (&netns, here, 9000)),
        Stream::start_one_way((&netns, here), (&outside, there, 9001)),
    ];
    let mut standing: Vec<(u64, Vec<Value>)> = Vec::new();
    for number in 0..KILLS {
        let title = format!("kill {number}");
        let documents = change(number);
        // Some write before the end and some behind it; when it comes differs by the milliseconds that a change takes.
        let (alive, dead) = documents.split_at(documents.len().div_ceil(2));
        node.write_all(alive);
        std::thread::sleep(Duration::from_millis(number * 3));
        node.kill();
        node.write_all(dead);
        if let Some(index) = standing.iter().position(|(since, _)| since + 2 <= number) {
            let (_, gone) = standing.remove(index);
            let others = |document: &Value| {
                standing
                    .iter()
                    .flat_map(|(_, them)| them)
                    .chain(&documents)
                    .chain(&base)
                    .any(|it| it["metadata"]["name"] == document["metadata"]["name"])
            };
            gone.iter().filter(|document| !others(document)).for_each(|document| node.remove(document));
        }
        standing.push((number, documents));
        node.start(&[]);
        node.settle();
        documents_say_the_same(&node, &title);
        assert_eq!(node.problems(), json!([]), "{title}");
        let arrived = Instant::now();
        let deadline = arrived + PATIENCE;
        while open.back.lock().expect("the log").arrived(arrived, Instant::now()) < 3 {
            assert!(
                Instant::now() < deadline,
                "{title}: what is allowed does not reach the node, or its answers do not leave it"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    let end = Instant::now();
    let (tries, failed) = knocking.stop();
    assert!(tries > 20 && failed.is_empty(), "of {tries} connections to a failsafe port failed {failed:?}");
    open.stop();
    for (way, log) in [("to", &open.forth), ("from", &open.back)] {
        let lost = log.lock().expect("the log").lost(began, end);
        assert_eq!(lost, 0, "packets {way} the node that are allowed throughout were lost");
    }
    for (stream, way) in shut.iter_mut().zip(["to", "from"]) {
        stream.stop();
        let log = stream.forth.lock().expect("the log");
        assert!(log.sent(began, end) > 50, "hardly anything was sent {way} the node");
        assert_eq!(log.passed().count(), 0, "packets {way} the node passed that nothing ever allowed");
    }
}
