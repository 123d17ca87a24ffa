//! Policies of host endpoints, by packets: what comes to the node, what it sends, and what it forwards.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};
use tortie_policy::{CompileOptions, Failsafe, HostInterface, HostOptions};
use tortie_tests::peer;

use super::{SILENCE, at, eventually};
use crate::net::{NODE, Namespace, Net, OUTSIDE, PATIENCE, pod4, pod6, receive};

/// A HostEndpoint of the node.
fn endpoint(name: &str, profiles: &[&str]) -> Value {
    json!({"apiVersion": "projectcalico.org/v3", "kind": "HostEndpoint",
        "metadata": {"name": name, "labels": {"host": name}},
        "spec": {"node": "node", "interfaceName": if name == "all" { "*" } else { name }, "profiles": profiles}})
}

/// A GlobalNetworkPolicy for the HostEndpoint of this name.
fn policy(name: &str, host: &str, spec: &Value) -> Value {
    let mut whole = json!({"selector": format!("host == '{host}'")});
    for (key, value) in spec.as_object().expect("a map") {
        whole[key] = value.clone();
    }
    json!({"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy", "metadata": {"name": name}, "spec": whole})
}

fn tcp(action: &str, ports: &[u16]) -> Value {
    json!({"action": action, "protocol": "TCP", "destination": {"ports": ports}})
}

fn udp(action: &str, ports: &[u16]) -> Value {
    json!({"action": action, "protocol": "UDP", "destination": {"ports": ports}})
}

/// Settings for a node with these HostEndpoints.
fn options(endpoints: &[&str]) -> CompileOptions {
    let interface = |name: &str| (name != "all").then(|| name.to_owned());
    let interfaces =
        endpoints.iter().map(|name| HostInterface { endpoint: (*name).to_owned(), interface: interface(name) });
    let host = HostOptions { interfaces: interfaces.collect(), ..HostOptions::default() };
    CompileOptions { host, ..CompileOptions::default() }
}

/// Whether one can connect. What is denied is silent.
fn connects(from: &Namespace, to: &str, expected: bool) -> bool {
    match from.connect(to, if expected { PATIENCE } else { SILENCE }) {
        Ok(_) => true,
        // What a node sends itself is refused to it at once.
        Err(error)
            if matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock | ErrorKind::PermissionDenied) =>
        {
            false
        }
        Err(error) => panic!("{to}: {error}"),
    }
}

#[track_caller]
fn check(from: &Namespace, to: &str, expected: bool, why: &str) {
    assert_eq!(connects(from, to, expected), expected, "{to}: {why}");
}

fn nft(namespace: &Namespace, commands: &[&str]) {
    namespace.run(|| {
        for command in commands {
            let status = Command::new(peer("nft")).arg(command).status().expect("nft runs");
            assert!(status.success(), "{command}");
        }
    });
}

/// Two UDP sockets that have spoken, and may again.
struct Flow {
    client: UdpSocket,
    server: UdpSocket,
    back: std::net::SocketAddr,
    to: String,
}

impl Flow {
    /// From a socket to a server's, the first packet to `to`.
    fn new(client: UdpSocket, server: UdpSocket, to: &str) -> Self {
        for socket in [&client, &server] {
            socket.set_read_timeout(Some(SILENCE)).expect("a timeout");
        }
        let until = Instant::now() + PATIENCE;
        let mut buffer = [0; 10];
        let back = loop {
            assert!(Instant::now() < until, "{to} hears nothing");
            client.send_to(b"first", to).expect("a packet can be sent");
            if let Ok((_, back)) = server.recv_from(&mut buffer) {
                break back;
            }
        };
        let flow = Self { client, server, back, to: to.to_owned() };
        flow.drain();
        assert!(flow.answers(), "{to} is heard");
        flow
    }

    fn drain(&self) {
        for socket in [&self.client, &self.server] {
            socket.set_nonblocking(true).expect("a socket");
            while socket.recv(&mut [0; 10]).is_ok() {}
            socket.set_nonblocking(false).expect("a socket");
        }
    }

    /// Whether the client is heard.
    fn asks(&self) -> bool {
        let _ = self.client.send_to(b"asks", &self.to);
        receive(&self.server, &mut [0; 10]).is_ok()
    }

    /// Whether the server is.
    fn answers(&self) -> bool {
        let _ = self.server.send_to(b"answers", self.back);
        receive(&self.client, &mut [0; 10]).is_ok()
    }
}

/// Servers of the node, a pod and the outside.
fn serve(net: &Net) {
    for namespace in [&net.node, &net.outside, &net.pods[0]] {
        for port in [22, 80, 8080] {
            namespace.tcp_mirror(&at("0.0.0.0", port));
            namespace.tcp_mirror(&at("::", port + 10_000));
        }
    }
}

#[test]
fn an_interface_with_an_endpoint_is_shut_but_for_what_keeps_the_node_alive() {
    let mut net = Net::new(&[json!({})]);
    serve(&net);
    // Without what counters have counted.
    let table = |net: &Net| -> Vec<String> {
        net.listing().lines().map(|line| line.split("packets").next().unwrap_or_default().to_owned()).collect()
    };
    let before = table(&net);
    net.add(&endpoint("eth0", &[]));
    net.settle(&CompileOptions::default());
    assert_eq!(table(&net), before, "an endpoint that is for no interface here costs nothing");
    let mut failsafe = options(&["eth0"]);
    failsafe.host.failsafe_inbound.push(Failsafe { protocol: 6, port: 10_022, net: None });
    net.settle(&failsafe);
    let ports = |port: u16| [at(NODE[0], port), at(NODE[1], port + 10_000)];
    // Neighbours have to find each other anew.
    for namespace in [&net.node, &net.outside] {
        namespace.ip("-6 neigh flush dev eth0");
        namespace.ip("neigh flush dev eth0");
    }
    for to in ports(22) {
        check(&net.outside, &to, true, "failsafeInboundHostPorts");
    }
    for to in ports(80) {
        check(&net.outside, &to, false, "no policy allows it");
        check(&net.pods[0], &to, true, "a pod's interface has no endpoint");
        check(&net.node, &to, true, "the node with itself");
    }
    check(&net.node, "127.0.0.1:80", true, "the loopback interface");
    for to in [at(OUTSIDE[0], 80), at(OUTSIDE[1], 10_080)] {
        check(&net.node, &to, false, "no policy allows it out");
        check(&net.pods[0], &to, true, "what is only forwarded is open");
    }
    for to in [at(&pod4(0), 80), at(&pod6(0), 10_080)] {
        check(&net.outside, &to, true, "what is only forwarded is open");
        check(&net.node, &to, true, "to a pod");
    }
    net.outside.udp_mirror("0.0.0.0:53");
    assert_eq!(net.node.seen_by(&at(NODE[0], 0), &at(OUTSIDE[0], 53)).ip().to_string(), NODE[0], "DNS");

    // Whose failsafe ports those are may be said, and that there are none.
    let net_of = |text: &str| Some(text.parse().expect("a network"));
    failsafe.host.failsafe_inbound = vec![Failsafe { protocol: 6, port: 22, net: net_of("172.31.0.0/24") }];
    net.settle(&failsafe);
    check(&net.outside, &at(NODE[0], 22), true, "from there");
    failsafe.host.failsafe_inbound = vec![Failsafe { protocol: 6, port: 22, net: net_of("192.0.2.0/24") }];
    net.settle(&failsafe);
    check(&net.outside, &at(NODE[0], 22), false, "not from there");

    net.add(&endpoint("eth0", &["projectcalico-default-allow"]));
    net.settle(&options(&["eth0"]));
    check(&net.outside, &at(NODE[0], 80), true, "the profile allows everything");
    check(&net.node, &at(OUTSIDE[0], 80), true, "the profile allows everything");
    net.remove("eth0");
    net.settle(&CompileOptions::default());
    assert_eq!(table(&net).len(), before.len(), "nothing is left");
}

#[test]
fn policies_open_what_they_allow_and_a_tightening_ends_what_was() {
    let mut net = Net::new(&[json!({})]);
    serve(&net);
    net.add(&endpoint("eth0", &[]));
    net.add(&policy(
        "in",
        "eth0",
        &json!({"types": ["Ingress"], "ingress": [tcp("Allow", &[8080]), udp("Allow", &[9, 10])]}),
    ));
    net.add(&policy(
        "out",
        "eth0",
        &json!({"types": ["Egress"], "egress": [tcp("Deny", &[8080]), udp("Allow", &[9, 10]),
        {"action": "Allow", "protocol": "TCP", "destination": {"nets": ["172.31.0.1/32"]}}]}),
    ));
    net.settle(&options(&["eth0"]));
    check(&net.outside, &at(NODE[0], 8080), true, "ingress allows it");
    check(&net.outside, &at(NODE[1], 18_080), false, "IPv6 has another port");
    check(&net.outside, &at(NODE[0], 80), false, "ingress does not");
    check(&net.node, &at(OUTSIDE[0], 80), true, "egress allows it");
    check(&net.node, &at(OUTSIDE[0], 8080), false, "egress denies it first");
    check(&net.node, &at(OUTSIDE[1], 10_080), false, "another network");

    let inbound =
        |port| Flow::new(net.outside.udp(&at(OUTSIDE[0], 0)), net.node.udp(&at(NODE[0], port)), &at(NODE[0], port));
    let outbound =
        |port| Flow::new(net.node.udp(&at(NODE[0], 0)), net.outside.udp(&at(OUTSIDE[0], port)), &at(OUTSIDE[0], port));
    let (stays, goes, goes_too) = (inbound(9), inbound(10), [outbound(9), outbound(10)]);
    let stream = net.outside.connect(&at(NODE[0], 8080), PATIENCE).expect("ingress allows it").0;
    net.add(&policy(
        "in",
        "eth0",
        &json!({"types": ["Ingress"], "ingress": [tcp("Allow", &[8080]), udp("Allow", &[9])]}),
    ));
    net.add(&policy("out", "eth0", &json!({"types": ["Egress"], "egress": [udp("Allow", &[9])]})));
    net.settle(&options(&["eth0"]));
    assert!(!goes.answers() && !goes.asks(), "a denied flow is dead in both directions, whoever speaks first");
    assert!(!goes_too[1].answers() && !goes_too[1].asks(), "what the node began too");
    assert!(goes_too[0].answers() && goes_too[0].asks(), "what is allowed goes on");
    assert!(stays.asks() && stays.answers(), "what is allowed goes on");
    drop(stream);

    // Nothing of the kind with Keep.
    net.add(&policy("in", "eth0", &json!({"types": ["Ingress"], "ingress": []})));
    let mut keep = options(&["eth0"]);
    keep.host.keep_connections = true;
    net.settle(&keep);
    assert!(stays.answers() && stays.asks(), "policyExistingConnections: Keep");
    let (client, server) = (net.outside.udp(&at(OUTSIDE[0], 0)), net.node.udp(&at(NODE[0], 11)));
    server.set_read_timeout(Some(SILENCE)).expect("a timeout");
    client.send_to(b"new", at(NODE[0], 11)).expect("a packet can be sent");
    assert!(receive(&server, &mut [0; 10]).is_err(), "new flows are judged");
}

#[test]
fn an_endpoint_for_all_interfaces_leaves_pods_to_their_own_policies() {
    let mut net = Net::new(&[json!({}), json!({})]);
    serve(&net);
    net.add(&endpoint("all", &[]));
    net.settle(&options(&["all"]));
    for (from, to) in [(NODE[0], 80), (NODE[1], 10_080)] {
        check(&net.outside, &at(from, to), false, "no policy allows it");
        check(&net.pods[0], &at(from, to), true, "a pod to its node");
        check(&net.node, &at(from, to), true, "the node with itself");
    }
    check(&net.node, &at(OUTSIDE[0], 80), false, "no policy allows it out");
    check(&net.node, &at(&pod4(0), 80), true, "to a pod");
    check(&net.pods[1], &at(&pod4(0), 80), true, "between pods");
    check(&net.outside, &at(&pod4(0), 80), true, "what is only forwarded is open");
    check(&net.outside, &at(NODE[0], 22), true, "failsafeInboundHostPorts");
    // One that has its own is none of the others.
    net.add(&endpoint("eth0", &["projectcalico-default-allow"]));
    net.settle(&options(&["all", "eth0"]));
    check(&net.outside, &at(NODE[0], 80), true, "the interface's own profile");
    net.add(&endpoint("all", &["projectcalico-default-allow"]));
    net.add(&endpoint("eth0", &[]));
    net.settle(&options(&["all", "eth0"]));
    check(&net.outside, &at(NODE[0], 80), false, "the interface's own, and nothing else");
}

#[test]
fn forwarded_traffic_is_judged_where_policies_say_so() {
    let mut net = Net::new(&[json!({})]);
    serve(&net);
    net.add(&endpoint("eth0", &["projectcalico-default-allow"]));
    let forward = |rules: &Value, types: &[&str]| {
        policy("forward", "eth0", &json!({"applyOnForward": true, "types": types, "ingress": rules, "egress": rules}))
    };
    let both = ["Ingress", "Egress"];
    net.settle(&options(&["eth0"]));
    let (to_pod, to_outside) = (at(&pod4(0), 9), at(OUTSIDE[0], 9));
    let inbound = Flow::new(net.outside.udp(&at(OUTSIDE[0], 0)), net.pods[0].udp(&to_pod), &to_pod);
    let outbound = Flow::new(net.pods[0].udp(&at(&pod4(0), 0)), net.outside.udp(&to_outside), &to_outside);
    net.add(&forward(&json!([tcp("Allow", &[80]), udp("Allow", &[9])]), &both));
    net.settle(&options(&["eth0"]));
    check(&net.outside, &at(&pod4(0), 80), true, "allowed");
    check(&net.outside, &at(&pod4(0), 8080), false, "not allowed");
    check(&net.pods[0], &at(OUTSIDE[0], 80), true, "allowed");
    check(&net.pods[0], &at(OUTSIDE[0], 8080), false, "not allowed");
    check(&net.outside, &at(NODE[0], 80), true, "to the node itself too");
    check(&net.outside, &at(NODE[0], 8080), false, "to the node itself too");
    check(&net.outside, &at(&pod4(0), 22), false, "failsafe ports are the node's own");
    assert!(inbound.answers() && inbound.asks() && outbound.answers() && outbound.asks(), "flows that are allowed");
    net.add(&forward(&json!([tcp("Allow", &[80])]), &both));
    net.settle(&options(&["eth0"]));
    assert!(!inbound.answers() && !inbound.asks(), "denied, whoever speaks first");
    assert!(!outbound.answers() && !outbound.asks(), "denied, whoever speaks first");
    // Where no policy has a say in a direction, it is open.
    net.add(&forward(&json!([tcp("Allow", &[80])]), &["Ingress"]));
    net.settle(&options(&["eth0"]));
    assert!(outbound.asks() && outbound.answers(), "no policy of that direction");
    assert!(!inbound.asks());
    // And past the last tier it is, unlike what comes to the node.
    net.add(&forward(&json!([{"action": "Pass"}]), &both));
    net.settle(&options(&["eth0"]));
    assert!(inbound.asks() && inbound.answers());
}

/// Translates node ports to a pod and to a server of the node itself, and a Service of the node's to the outside.
fn translate(net: &Net) {
    let pod = pod4(0);
    nft(
        &net.node,
        &[
            "add table ip services",
            "add chain ip services pre { type nat hook prerouting priority -100; }",
            "add chain ip services out { type nat hook output priority -100; }",
            &format!("add rule ip services pre meta l4proto udp ip daddr {} udp dport 30009 dnat to {pod}:9", NODE[0]),
            &format!("add rule ip services pre ip daddr {} tcp dport 30080 dnat to {pod}:80", NODE[0]),
            &format!("add rule ip services pre ip daddr {} tcp dport 30081 dnat to {}:8080", NODE[0], NODE[0]),
            &format!("add rule ip services out ip daddr 10.96.0.1 dnat to {}", OUTSIDE[0]),
            &format!("add rule ip services out ip daddr 10.96.0.2 dnat to {pod}"),
        ],
    );
}

#[test]
fn policies_before_dnat_see_what_the_client_wrote() {
    for name in ["eth0", "all"] {
        let mut net = Net::new(&[json!({})]);
        serve(&net);
        translate(&net);
        net.add(&endpoint(name, &[]));
        let before = |rules: &Value| {
            policy(
                "before",
                name,
                &json!({"preDNAT": true, "applyOnForward": true, "types": ["Ingress"], "ingress": rules}),
            )
        };
        net.settle(&options(&[name]));
        check(&net.outside, &at(NODE[0], 30_080), true, "to a pod: only forwarded");
        check(&net.outside, &at(NODE[0], 30_081), false, "to the node itself");
        let service = |net: &Net| {
            Flow::new(net.outside.udp(&at(OUTSIDE[0], 0)), net.pods[0].udp(&at(&pod4(0), 9)), &at(NODE[0], 30_009))
        };
        let flow = service(&net);
        net.add(&before(&json!([tcp("Deny", &[30_080])])));
        net.settle(&options(&[name]));
        check(&net.outside, &at(NODE[0], 30_080), false, "denied by the port of the node");
        check(&net.outside, &at(&pod4(0), 80), true, "and only that");
        check(&net.outside, &at(NODE[0], 30_081), false, "no rule speaks of it, and other policies do not allow it");
        check(&net.outside, &at(NODE[0], 22), true, "failsafeInboundHostPorts");
        assert!(flow.answers() && flow.asks(), "no rule speaks of it");
        net.add(&before(&json!([udp("Deny", &[30_009]), tcp("Allow", &[30_081, 30_080])])));
        net.settle(&options(&[name]));
        check(&net.outside, &at(NODE[0], 30_081), true, "what is allowed here is let off other policies");
        check(&net.outside, &at(NODE[0], 8080), false, "but only that");
        check(&net.outside, &at(NODE[0], 30_080), true, "allowed");
        assert!(!flow.answers() && !flow.asks(), "denied, through DNAT, whoever speaks first");
        net.add(&before(&json!([{"action": "Allow"}])));
        net.settle(&options(&[name]));
        assert!(flow.answers() && flow.asks(), "allowed again, whoever speaks first");
        // A pod's own policies still have the last word.
        net.add_policy("shut", &json!({"podSelector": {}, "policyTypes": ["Ingress"]}));
        net.settle(&options(&[name]));
        check(&net.outside, &at(NODE[0], 30_080), false, "the pod's policies");
        assert!(!flow.answers() && !flow.asks(), "the pod's policies");
    }
}

#[test]
fn what_the_node_sends_to_a_service_is_judged_by_where_it_goes() {
    for name in ["eth0", "all"] {
        let mut net = Net::new(&[json!({})]);
        serve(&net);
        translate(&net);
        net.add(&endpoint(name, &[]));
        let out = |ports: &[u16]| {
            policy("out", name, &json!({"types": ["Egress"], "egress": [tcp("Allow", ports), udp("Allow", ports)]}))
        };
        net.settle(&options(&[name]));
        check(&net.node, "10.96.0.1:80", false, "the backend is outside");
        check(&net.node, "10.96.0.2:80", true, "the backend is a pod");
        net.add(&out(&[80, 9]));
        net.settle(&options(&[name]));
        check(&net.node, "10.96.0.1:80", true, "allowed");
        check(&net.node, "10.96.0.1:8080", false, "not allowed");
        let flow = Flow::new(net.node.udp(&at(NODE[0], 0)), net.outside.udp(&at(OUTSIDE[0], 9)), "10.96.0.1:9");
        assert!(flow.asks() && flow.answers());
        net.add(&out(&[80]));
        net.settle(&options(&[name]));
        assert!(!flow.answers() && !flow.asks(), "denied, whoever speaks first");
        check(&net.node, "10.96.0.1:80", true, "still allowed");
    }
}

/// Whether conntrack knows flows of this UDP port.
fn is_tracked(namespace: &Namespace, port: u16) -> bool {
    let output =
        namespace.run(|| Command::new(peer("conntrack")).args(["-L", "-p", "udp"]).output().expect("conntrack runs"));
    String::from_utf8_lossy(&output.stdout).contains(&format!("dport={port} "))
}

#[test]
fn untracked_policies_need_both_directions_and_nobody_tracks_what_they_allow() {
    let mut net = Net::new(&[json!({})]);
    serve(&net);
    net.add(&endpoint("eth0", &[]));
    let untracked = |types: &[&str]| {
        policy(
            "untracked",
            "eth0",
            &json!({"doNotTrack": true, "applyOnForward": true, "types": types,
            "ingress": [udp("Allow", &[9]), udp("Deny", &[10])],
            "egress": [{"action": "Allow", "protocol": "UDP", "source": {"ports": [9]}}]}),
        )
    };
    net.add(&policy("in", "eth0", &json!({"types": ["Ingress"], "ingress": [udp("Allow", &[10, 11])]})));
    net.add(&untracked(&["Ingress"]));
    net.settle(&options(&["eth0"]));
    let (client, server) = (net.outside.udp(&at(OUTSIDE[0], 0)), net.node.udp(&at(NODE[0], 9)));
    server.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    client.set_read_timeout(Some(SILENCE)).expect("a timeout");
    client.send_to(b"hello", at(NODE[0], 9)).expect("a packet can be sent");
    let (_, back) = server.recv_from(&mut [0; 10]).expect("ingress lets it in");
    let _ = server.send_to(b"back", back);
    assert!(receive(&client, &mut [0; 10]).is_err(), "nothing lets the answer out");
    net.add(&untracked(&["Ingress", "Egress"]));
    net.settle(&options(&["eth0"]));
    let flow = Flow::new(client, server, &at(NODE[0], 9));
    assert!(flow.asks() && flow.answers());
    let other = Flow::new(net.outside.udp(&at(OUTSIDE[0], 0)), net.node.udp(&at(NODE[0], 11)), &at(NODE[0], 11));
    assert!(is_tracked(&net.node, 11), "a policy that tracks");
    nft(&net.node, &["list ruleset"]);
    let output = net.node.run(|| Command::new(peer("conntrack")).args(["-D", "-p", "udp", "--dport", "9"]).output());
    drop(output);
    assert!(flow.asks() && flow.answers() && !is_tracked(&net.node, 9), "nobody knows of it");
    let (client, server) = (net.outside.udp(&at(OUTSIDE[0], 0)), net.node.udp(&at(NODE[0], 10)));
    server.set_read_timeout(Some(SILENCE)).expect("a timeout");
    client.send_to(b"hello", at(NODE[0], 10)).expect("a packet can be sent");
    assert!(receive(&server, &mut [0; 10]).is_err(), "denied before other policies are asked");
    check(&net.outside, &at(NODE[0], 22), true, "failsafeInboundHostPorts");
    // What a stranger leaves untracked is judged by the policies that there are.
    nft(
        &net.node,
        &[
            "add table ip stranger",
            "add chain ip stranger pre { type filter hook prerouting priority -300; }",
            "add rule ip stranger pre udp dport { 11, 12 } notrack",
        ],
    );
    assert!(other.asks(), "allowed, tracked or not");
    let (client, server) = (net.outside.udp(&at(OUTSIDE[0], 0)), net.node.udp(&at(NODE[0], 12)));
    server.set_read_timeout(Some(SILENCE)).expect("a timeout");
    client.send_to(b"hello", at(NODE[0], 12)).expect("a packet can be sent");
    assert!(receive(&server, &mut [0; 10]).is_err(), "not allowed");
    net.remove("untracked");
    net.settle(&options(&["eth0"]));
    eventually("an untracked flow ends with its policy", || !flow.asks() && !flow.answers());
}
