//! Living with others: what else writes to a node's firewalls and interfaces, for real, and what pods notice of it.
//!
//! - `firewalls`: Docker's rules by both backends of iptables, ufw and firewalld as Debian has them, a firewall that somebody wrote;
//! - `services`: rules as kube-proxy writes them, by iptables and by nftables;
//! - `leftovers`: what Calico and flannel leave, and what `tortie node clean` makes of it;
//! - `clean`: nothing of ours remains.

mod clean;
mod firewalls;
mod leftovers;
mod services;

use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tortie_tests::agent::{Agent, PATIENCE};
use tortie_tests::host::Host;
use tortie_tests::lab::{Lab, array};
use tortie_tests::stream::inside;

/// A pod that answers on port 80.
fn pod(name: &str, node: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "near", "labels": {"app": name}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "serve", "ports": [{"containerPort": 80}]}]}})
}

fn namespace() -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "near"}})
}

/// Two nodes with a pod each; the first node is the one with firewalls.
fn lab(title: &str) -> Lab {
    Lab::up(title, &[namespace(), pod("here", "node1"), pod("there", "node2")], &["--nodes", "2"])
}

/// Waits for what must become true.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "still not: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The namespace and the addresses of a pod.
fn place(lab: &Lab, name: &str) -> (String, Vec<IpAddr>) {
    let pods = array(&lab.json(&["lab", "ps"])["pods"]);
    let pod = pods.iter().find(|pod| pod["name"] == name).unwrap_or_else(|| panic!("{name} is in {pods:#?}"));
    let ips = array(&pod["ips"]).iter().map(|ip| ip.as_str().expect("text").parse().expect("an address")).collect();
    (pod["netns"].as_str().expect("a name").to_owned(), ips)
}

/// The address of a node, and its namespace.
fn node(lab: &Lab, name: &str) -> (String, IpAddr) {
    let nodes = array(&lab.json(&["lab", "ps"])["nodes"]);
    let node = nodes.iter().find(|node| node["name"] == name).unwrap_or_else(|| panic!("{name} is in {nodes:#?}"));
    let ip = node["ip"].as_str().expect("text").parse().expect("an address");
    (node["netns"].as_str().expect("a name").to_owned(), ip)
}

/// The namespace of the world outside.
fn outside(lab: &Lab) -> String {
    lab.json(&["lab", "ps"])["outside"]["netns"].as_str().expect("a name").to_owned()
}

/// Who answers there: the name of the pod. None if nobody does within a moment.
fn who(netns: &str, ip: IpAddr, port: u16) -> Option<String> {
    inside(netns, || {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::new(ip, port), Duration::from_millis(1500)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(3))).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer.trim().to_owned())
    })
}

/// Whether every way that crosses the first node's forwarding is open: from there and from outside to its pod, and from its pod to
/// there; IPv4 and IPv6.
fn open(lab: &Lab) -> bool {
    ways(lab).iter().all(|(_, answer)| answer.is_some())
}

/// Whether none of them is.
fn closed(lab: &Lab) -> bool {
    ways(lab).iter().all(|(_, answer)| answer.is_none())
}

fn ways(lab: &Lab) -> Vec<(String, Option<String>)> {
    let ((here, here_ips), (there, there_ips), outside) = (place(lab, "here"), place(lab, "there"), outside(lab));
    let mut ways = Vec::new();
    for (from, netns, ips) in
        [("there", &there, &here_ips), ("outside", &outside, &here_ips), ("here", &here, &there_ips)]
    {
        ways.extend(ips.iter().map(|ip| (format!("{from} to {ip}"), who(netns, *ip, 80))));
    }
    ways
}

/// Starts the first node's agent anew, on a host with firewalls.
fn with_firewalls(lab: &Lab, backend: &str) -> (Host, Vec<Agent>) {
    let mut agents = Agent::all(lab);
    let host = Host::new(&agents[0].netns, backend);
    restart_by(lab, &mut agents, &host.prefix());
    (host, agents)
}

/// Kills the first node's agent and starts it anew, by a command.
fn restart_by(lab: &Lab, agents: &mut [Agent], by: &[String]) {
    agents[0].kill();
    start_by(lab, agents, by);
}

/// Starts the first node's agent, which is dead, by a command.
fn start_by(lab: &Lab, agents: &mut [Agent], by: &[String]) {
    agents[0].start_by(lab, &by.iter().map(String::as_str).collect::<Vec<_>>());
    until("the agent is ready again", || status(lab).is_some_and(|status| status["ready"] == true));
}

/// What the first node's agent says of itself.
fn status(lab: &Lab) -> Option<Value> {
    let socket = lab.path("nodes").join("node1/tortie.sock");
    let output = std::process::Command::new(tortie_tests::lab::tortie())
        .args(["node", "status", "-o", "json", "--socket"])
        .arg(socket)
        .output()
        .expect("tortie runs");
    let reports: Value = serde_json::from_slice(&output.stdout).ok()?;
    Some(reports[0].clone())
}

/// What the first node's agent says is wrong, but for BGP, which takes its time after a restart.
fn problems(lab: &Lab) -> Vec<String> {
    let problems = array(&status(lab).expect("the agent answers")["problems"]);
    let problems = problems.iter().filter_map(|problem| problem.as_str().map(str::to_owned));
    problems.filter(|problem| !problem.starts_with("BGP")).collect()
}
