//! What happens to flows that are under way when a policy changes, and when an agent dies.

use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tortie_tests::lab::{Lab, array};
use tortie_tests::stream::{Stream, inside};

fn pod(name: &str, node: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "flows", "labels": {"app": name}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "serve", "ports": [{"containerPort": 80}]}]}})
}

fn namespace() -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "flows"}})
}

/// `server` accepts only the named apps.
fn accepts(apps: &[&str]) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "server", "namespace": "flows"},
        "spec": {"podSelector": {"matchLabels": {"app": "server"}},
            "ingress": [{"from": [{"podSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": apps}]}}]}]}})
}

/// The namespace and one address of each family of every pod.
fn places(lab: &Lab) -> impl Fn(&str) -> (String, IpAddr, IpAddr) {
    let pods = array(&lab.json(&["lab", "ps"])["pods"]);
    move |name| {
        let pod = pods.iter().find(|pod| pod["name"] == name).unwrap_or_else(|| panic!("{name} is in {pods:#?}"));
        let ips: Vec<IpAddr> =
            array(&pod["ips"]).iter().map(|ip| ip.as_str().expect("text").parse().expect("an address")).collect();
        let of = |v4: bool| *ips.iter().find(|ip| ip.is_ipv4() == v4).expect("dual stack");
        (pod["netns"].as_str().expect("a name").to_owned(), of(true), of(false))
    }
}

#[test]
fn a_tightened_policy_cuts_the_denied_flow_and_only_that() {
    let documents = [
        namespace(),
        pod("near", "node2"),
        pod("far", "node1"),
        pod("friend", "node1"),
        pod("server", "node2"),
        accepts(&["near", "far", "friend"]),
    ];
    let lab = Lab::up("cut", &documents, &["--nodes", "2"]);
    let place = places(&lab);
    let (server, server4, server6) = place("server");
    let mut streams = Vec::new();
    for (index, name) in ["near", "far", "friend"].into_iter().enumerate() {
        let (netns, v4, v6) = place(name);
        let port = 7000 + u16::try_from(index).expect("a small number");
        streams.push((name, Stream::start((&netns, v4), (&server, server4, port))));
        streams.push((name, Stream::start((&netns, v6), (&server, server6, port + 100))));
    }
    let start = Instant::now();
    std::thread::sleep(Duration::from_millis(1500));
    lab.apply(&[accepts(&["friend"])]);
    let applied = Instant::now();
    std::thread::sleep(Duration::from_millis(2500));
    let end = Instant::now();
    for (_, stream) in &mut streams {
        stream.stop();
    }
    for (name, stream) in &streams {
        for (way, log) in [("to", &stream.forth), ("from", &stream.back)] {
            let log = log.lock().expect("the log");
            assert!(log.sent(start, end) > 100, "the stream {way} {name} hardly ran");
            if *name == "friend" {
                assert_eq!(log.lost(start, end), 0, "packets {way} {name}, which stays allowed, were lost");
            } else {
                assert!(log.arrived(start, applied) > 20, "the stream {way} {name} never ran");
                let late = log.arrived(applied + Duration::from_secs(1), end);
                assert_eq!(late, 0, "{late} packets {way} {name} passed more than a second after its permission went");
            }
        }
    }
}

/// Whether a line of `nft list` says who owns the table: the agent while it lives, nobody while it is dead.
fn is_ownership(line: &str) -> bool {
    line.contains("# progname") || line.starts_with("table ") || line.trim_start().starts_with("flags ")
}

/// A line of `nft list` without `packets N bytes N`.
fn without_counters(line: &str) -> String {
    match line.split_once("packets ") {
        Some((head, tail)) => format!("{head}{}", tail.split(' ').skip(3).collect::<Vec<_>>().join(" ")),
        None => line.to_owned(),
    }
}

#[test]
fn killing_an_agent_loses_nothing_and_its_restart_changes_nothing() {
    let documents =
        [namespace(), pod("client", "node1"), pod("stranger", "node1"), pod("server", "node2"), accepts(&["client"])];
    let lab = Lab::up("kill", &documents, &["--nodes", "2"]);
    let place = places(&lab);
    let ((client, client4, client6), (server, server4, server6)) = (place("client"), place("server"));
    let node = lab.json(&["lab", "ps"]);
    let node = array(&node["nodes"]).into_iter().find(|node| node["name"] == "node2").expect("node2 is there");
    let (pid, netns) = (node["pid"].as_i64().expect("a pid"), node["netns"].as_str().expect("a name").to_owned());

    let command = std::fs::read(format!("/proc/{pid}/cmdline")).expect("the agent runs");
    let words: Vec<String> = command
        .split(|byte| *byte == 0)
        .filter(|word| !word.is_empty())
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect();

    let look = || {
        inside(&netns, || {
            let run = |program: &str, args: &[&str]| {
                let output = Command::new(tortie_tests::peer(program)).args(args).output().expect("the peer runs");
                assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
                String::from_utf8_lossy(&output.stdout).into_owned()
            };
            // Counters move with traffic, and who owns the table changes; handles and everything else must not.
            let rules = run("nft", &["-a", "list", "table", "inet", "tortie"]);
            let rules: Vec<String> = rules.lines().filter(|line| !is_ownership(line)).map(without_counters).collect();
            (rules, run("ip", &["route"]), run("ip", &["-6", "route"]))
        })
    };
    let before = look();
    assert!(before.0.len() > 20, "hardly a ruleset: {:#?}", before.0);

    let mut streams = [
        Stream::start((&client, client4), (&server, server4, 7000)),
        Stream::start((&client, client6), (&server, server6, 7001)),
    ];
    let start = Instant::now();
    std::thread::sleep(Duration::from_millis(500));
    let status = Command::new("kill").args(["-9", &pid.to_string()]).status().expect("kill runs");
    assert!(status.success());
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(look(), before, "the death of the agent changed the kernel");
    // New connections are judged as before while nobody is there.
    let seen = lab.probe(&["--from", "flows/stranger", "--to", "flows/server"]);
    assert!(seen.values().all(|verdict| verdict == "deny"), "unprotected while the agent is dead: {seen:?}");
    let seen = lab.probe(&["--from", "flows/client", "--to", "flows/server"]);
    assert!(seen.values().all(|verdict| verdict == "allow"), "cut while the agent is dead: {seen:?}");

    // The same agent again, as its supervisor would start it.
    let mut agent = inside(&netns, || {
        Command::new(&words[0])
            .args(&words[1..])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("the agent starts again")
    });
    let deadline = Instant::now() + Duration::from_secs(20);
    let established = || {
        let peers = lab.json(&["bgp", "peers", "--node", "node2"]);
        !array(&peers).is_empty() && array(&peers).iter().all(|peer| peer["state"] == "Established")
    };
    std::thread::sleep(Duration::from_secs(1));
    while !established() {
        assert!(Instant::now() < deadline, "the sessions of node2 did not come back");
        std::thread::sleep(Duration::from_millis(200));
    }
    std::thread::sleep(Duration::from_secs(1));
    let end = Instant::now();
    assert_eq!(look(), before, "the restart changed the kernel");
    for stream in &mut streams {
        stream.stop();
        for log in [&stream.forth, &stream.back] {
            let log = log.lock().expect("the log");
            assert!(log.sent(start, end) > 100, "the stream hardly ran");
            assert_eq!(log.lost(start, end), 0, "packets were lost over the agent's death and restart");
        }
    }
    agent.kill().expect("the agent can be stopped");
    let _ = agent.wait();
}
