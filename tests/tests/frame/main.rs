//! What the table does besides policy, by a real kernel: translation of sources, guards, endpoint-to-host, service loops, limits,
//! rejection, and the bits of the mark.

mod hosts;
mod net;

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use net::{NODE, Namespace, Net, OUTSIDE, PATIENCE, pod4, pod6, receive};
use serde_json::json;
use tortie_policy::{CompileOptions, DenyAction, EndpointToHost, MarkMask, NatExclusions, NatOutgoing, ServiceLoop};

/// Long enough for a packet between namespaces of a busy machine, for what must not come.
const SILENCE: Duration = Duration::from_millis(700);

fn nat(nat_outgoing: NatOutgoing) -> CompileOptions {
    CompileOptions { nat_outgoing, ..CompileOptions::default() }
}

/// `[address]:port` or `address:port`.
fn at(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

#[test]
fn pods_leave_with_the_nodes_address_only_where_they_leave_all_pools() {
    let mut net = Net::new(&[json!({}), json!({})]);
    // An address of a pool that is no pod's here, such as a pod of another node.
    net.outside.ip("addr add 10.244.9.9/32 dev lo");
    net.outside.ip("-6 addr add fd00:10:244::9:9/128 dev lo nodad");
    for address in ["0.0.0.0:7", "[::]:8"] {
        net.outside.udp_mirror(address);
        net.node.udp_mirror(address);
        net.pods[1].udp_mirror(address);
    }
    let seen = |net: &Net, to: &str| {
        let (from, port) = if to.contains(':') { (pod6(0), 8) } else { (pod4(0), 7) };
        net.pods[0].seen_by(&at(&from, 0), &at(to, port)).ip().to_string()
    };
    for (family, own) in [pod4(0), pod6(0)].iter().enumerate() {
        assert_eq!(seen(&net, OUTSIDE[family]), *own, "no pool, no translation");
    }
    assert!(!net.listing().contains("masquerade"));

    net.add_pools();
    net.settle(&CompileOptions::default());
    for (family, own) in [pod4(0), pod6(0)].iter().enumerate() {
        assert_eq!(seen(&net, OUTSIDE[family]), NODE[family], "outside");
        assert_eq!(seen(&net, NODE[family]), *own, "the pod's own node");
        assert_eq!(seen(&net, [pod4(1), pod6(1)][family].as_str()), *own, "another pod");
        assert_eq!(seen(&net, ["10.244.9.9", "fd00:10:244::9:9"][family]), *own, "a pod elsewhere");
    }

    net.add(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "other"},
        "status": {"addresses": OUTSIDE.map(|address| json!({"type": "InternalIP", "address": address}))}}));
    net.settle(&CompileOptions::default());
    assert_eq!(seen(&net, OUTSIDE[0]), NODE[0], "nodes are outside the pools");
    net.settle(&nat(NatOutgoing { exclusions: NatExclusions::IpPoolsAndHostIps, ..NatOutgoing::default() }));
    for (family, own) in [pod4(0), pod6(0)].iter().enumerate() {
        assert_eq!(seen(&net, OUTSIDE[family]), *own, "another node");
    }
}

#[test]
fn translation_has_an_address_ports_and_an_interface() {
    let mut net = Net::new(&[json!({})]);
    net.add_pools();
    net.outside.udp_mirror("0.0.0.0:7");
    net.outside.tcp_mirror("0.0.0.0:80");
    net.outside.tcp_mirror("[::]:81");
    let ports = 20_000..=20_009;
    let address = "172.31.0.77";
    net.node.ip(&format!("addr add {address}/32 dev lo"));
    let wanted = NatOutgoing { port_range: Some((*ports.start(), *ports.end())), ..NatOutgoing::default() };
    net.settle(&nat(wanted.clone()));
    for _ in 0..3 {
        let (_, seen) = net.pods[0].connect(&at(OUTSIDE[0], 80), PATIENCE).expect("the outside answers");
        assert!(seen.ip().to_string() == NODE[0] && ports.contains(&seen.port()), "{seen}");
    }
    net.settle(&nat(NatOutgoing { address: Some(address.parse().expect("an address")), ..wanted }));
    let (_, seen) = net.pods[0].connect(&at(OUTSIDE[0], 80), PATIENCE).expect("the outside answers");
    assert!(seen.ip().to_string() == address && ports.contains(&seen.port()), "{seen}");
    let seen = net.pods[0].seen_by(&at(&pod4(0), 0), &at(OUTSIDE[0], 7));
    assert!(seen.ip().to_string() == address && ports.contains(&seen.port()), "{seen}");
    let (_, seen) = net.pods[0].connect(&at(OUTSIDE[1], 81), PATIENCE).expect("the outside answers");
    assert!(
        seen.ip().to_string() == NODE[1] && ports.contains(&seen.port()),
        "IPv6 has the interface's address: {seen}"
    );
    for (filter, translated) in [("wlan+", false), ("eth+", true), ("eth0", true), ("eth1", false)] {
        net.settle(&nat(NatOutgoing { interface_filter: Some(filter.to_owned()), ..NatOutgoing::default() }));
        let seen = net.pods[0].seen_by(&at(&pod4(0), 0), &at(OUTSIDE[0], 7)).ip().to_string();
        assert_eq!(seen == NODE[0], translated, "{filter}: {seen}");
    }
}

/// Whether a packet from one address gets to a socket, told by an honest one after it.
fn arrives(pod: &Namespace, from: &str, honest: &str, at_end: &UdpSocket, port: u16) -> bool {
    let to = at_end.local_addr().expect("an address");
    assert_eq!(to.port(), port);
    for (source, text) in [(from, b"first"), (honest, b"after")] {
        pod.udp(&at(source, 0)).send_to(text, to).expect("a packet can be sent");
    }
    let mut buffer = [0; 10];
    let mut came = false;
    loop {
        let length = receive(at_end, &mut buffer).expect("the honest packet arrives");
        match &buffer[..length] {
            b"first" => came = true,
            _ => return came,
        }
    }
}

#[test]
fn a_pod_sends_from_other_addresses_only_where_both_allow_it() {
    let prefixes = r#"["192.0.2.0/28", "2001:db8::/64"]"#;
    let mut net = Net::new(&[json!({"cni.projectcalico.org/allowedSourcePrefixes": prefixes}), json!({})]);
    let ends = [net.outside.udp(&at(OUTSIDE[0], 9)), net.outside.udp(&at(OUTSIDE[1], 9))];
    for pod in &net.pods {
        for address in ["192.0.2.7", "192.0.2.77"] {
            pod.ip(&format!("addr add {address}/32 dev lo"));
        }
        for address in ["2001:db8::7", "2001:db8:1::7"] {
            pod.ip(&format!("-6 addr add {address}/128 dev lo nodad"));
        }
    }
    let passes = |net: &Net, pod: usize, from: &str| {
        let family = usize::from(from.contains(':'));
        arrives(&net.pods[pod], from, &[pod4(pod), pod6(pod)][family], &ends[family], 9)
    };
    let any = CompileOptions { source_spoofing: true, ..CompileOptions::default() };
    let mut denied = 0;
    for (options, allowed) in
        [(CompileOptions::default(), false), (any.clone(), true), (CompileOptions::default(), false)]
    {
        net.settle(&options);
        for from in ["192.0.2.7", "2001:db8::7"] {
            assert_eq!(passes(&net, 0, from), allowed, "{from}");
            assert!(!passes(&net, 1, from), "{from} of a pod that is not annotated");
        }
        for from in ["192.0.2.77", "2001:db8:1::7"] {
            assert!(!passes(&net, 0, from), "{from} is in no prefix");
        }
        // The rule is not as old as the counter.
        assert!(net.counted("not the pod's own address") > 0);
        denied += if allowed { 4 } else { 6 };
        assert!(net.denied("spoofed_source") >= denied, "{} of {denied}", net.denied("spoofed_source"));
    }
}

#[test]
fn the_node_is_shut_to_pods_but_not_from_it() {
    let mut net = Net::new(&[json!({})]);
    for namespace in [&net.node, &net.pods[0], &net.outside] {
        namespace.tcp_mirror("0.0.0.0:80");
        namespace.tcp_mirror("[::]:81");
    }
    let to_node = |net: &Net, patience| {
        [(NODE[0], 80), (NODE[1], 81)].map(|(address, port)| {
            net.pods[0].connect(&at(address, port), patience).map(|_| ()).map_err(|error| error.kind())
        })
    };
    assert_eq!(to_node(&net, PATIENCE), [Ok(()), Ok(())]);
    let drop = CompileOptions { endpoint_to_host: EndpointToHost::Drop, ..CompileOptions::default() };
    net.settle(&drop);
    assert_eq!(to_node(&net, SILENCE), [Err(ErrorKind::TimedOut), Err(ErrorKind::TimedOut)]);
    // The pod has to find its neighbour anew.
    net.pods[0].ip("-6 neigh flush dev eth0");
    for (address, port) in [(pod4(0), 80), (pod6(0), 81)] {
        net.node.connect(&at(&address, port), PATIENCE).expect("what the node begins is never cut");
    }
    for (address, port) in [(OUTSIDE[0], 80), (OUTSIDE[1], 81)] {
        net.pods[0].connect(&at(address, port), PATIENCE).expect("the way through the node is open");
    }
    assert!(net.counted("defaultEndpointToHostAction: Drop") > 1);
    net.settle(&CompileOptions { deny_action: DenyAction::Reject, ..drop });
    assert_eq!(to_node(&net, PATIENCE), [Err(ErrorKind::ConnectionRefused), Err(ErrorKind::ConnectionRefused)]);
    net.settle(&CompileOptions { endpoint_to_host: EndpointToHost::Return, ..CompileOptions::default() });
    assert_eq!(to_node(&net, PATIENCE), [Ok(()), Ok(())]);
}

/// Whether a packet of this socket is rejected. The kernel sends only so many ICMP errors a second.
fn is_told(client: &UdpSocket) -> bool {
    client.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    let Err(error) = client.send(b"hello").and_then(|_| receive(client, &mut [0; 10])) else { panic!("an answer") };
    !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// How many packets a namespace's `eth0` has been sent.
fn received(namespace: &Namespace) -> u64 {
    let text = namespace.run(|| std::fs::read_to_string("/proc/thread-self/net/dev").expect("counts of interfaces"));
    let line = text.lines().find_map(|line| line.trim().strip_prefix("eth0:")).expect("eth0");
    line.split_whitespace().nth(1).and_then(|count| count.parse().ok()).expect("a count")
}

#[test]
fn a_packet_to_a_service_that_nobody_serves_does_not_go_round() {
    let mut net = Net::new(&[json!({})]);
    net.outside.ip(&format!("route add 10.96.0.0/12 via {}", NODE[0]));
    net.outside.udp_mirror("0.0.0.0:7");
    let options = |service_loop_prevention| CompileOptions {
        service_loop_prevention,
        service_cidrs: vec!["10.96.0.0/12".parse().expect("a prefix")],
        ..CompileOptions::default()
    };
    let packets = |net: &Net| {
        let before = received(&net.outside);
        net.pods[0].udp(&at(&pod4(0), 0)).send_to(b"hello", "10.96.0.5:53").expect("a packet can be sent");
        // By the time that this is answered, the packet has made its rounds.
        net.pods[0].seen_by(&at(&pod4(0), 0), &at(OUTSIDE[0], 7));
        received(&net.outside) - before
    };
    net.settle(&options(ServiceLoop::Disabled));
    assert!(packets(&net) > 25, "with 64 hops to go it comes by 31 times");
    net.settle(&options(ServiceLoop::Drop));
    let few = packets(&net);
    assert!(few < 20, "{few}");
    assert_eq!(net.counted("serviceLoopPrevention"), 1);
    // The same from the outside, which no policy is about.
    net.outside.udp(&at(OUTSIDE[0], 0)).send_to(b"hello", "10.96.0.6:53").expect("a packet can be sent");
    let until = Instant::now() + PATIENCE;
    while net.counted("serviceLoopPrevention") < 2 {
        assert!(Instant::now() < until, "the packet is not dropped:\n{}", net.listing());
    }
    net.settle(&options(ServiceLoop::Reject));
    let client = net.outside.udp(&at(OUTSIDE[0], 0));
    client.connect("10.96.0.7:53").expect("a socket can be connected");
    eventually("its sender is not told", || is_told(&client));

    // A service that somebody serves, at an address that happens to be a backend's too.
    net.node.run(|| {
        for command in [
            "add table ip services",
            "add chain ip services pre { type nat hook prerouting priority -100; }",
            "add rule ip services pre ip daddr 10.96.0.10 udp dport 53 dnat to 10.96.9.9:7",
        ] {
            let status = std::process::Command::new(tortie_tests::peer("nft")).arg(command).status().expect("nft runs");
            assert!(status.success(), "{command}");
        }
    });
    net.outside.ip("addr add 10.96.9.9/32 dev lo");
    net.node.ip(&format!("route add 10.96.9.9/32 via {}", OUTSIDE[0]));
    let seen = net.pods[0].seen_by(&at(&pod4(0), 0), "10.96.0.10:53");
    assert_eq!(seen.ip().to_string(), pod4(0));
}

/// Sends many packets at once. Returns how many came, and how many seconds that took at most.
fn flood(from: &UdpSocket, at_end: &UdpSocket) -> (u32, u32) {
    let to = at_end.local_addr().expect("an address");
    at_end.set_read_timeout(Some(SILENCE)).expect("a timeout");
    let begin = Instant::now();
    for _ in 0..200 {
        // What is dropped on its way out of the node itself is an error of its sender.
        let _ = from.send_to(b"flood", to);
    }
    let sent = begin.elapsed();
    let mut came = 0;
    while receive(at_end, &mut [0; 10]).is_ok() {
        came += 1;
    }
    (came, sent.as_secs() as u32 + 1)
}

#[test]
fn packet_rates_are_kept() {
    let limits = json!({"qos.projectcalico.org/egressPacketRate": "5", "qos.projectcalico.org/egressPacketBurst": "20",
        "qos.projectcalico.org/ingressPacketRate": "7"});
    let mut net = Net::new(&[limits, json!({})]);
    // Without anybody to find first.
    net.outside.udp_mirror("0.0.0.0:7");
    net.node.udp_mirror("0.0.0.0:7");
    for pod in 0..2 {
        net.pods[pod].seen_by(&at(&pod4(pod), 0), &at(OUTSIDE[0], 7));
        net.pods[pod].seen_by(&at(&pod4(pod), 0), &at(NODE[0], 7));
    }
    std::thread::sleep(Duration::from_secs(5));
    let (outside, node) = (net.outside.udp(&at(OUTSIDE[0], 9)), net.node.udp(&at(NODE[0], 9)));
    let (mine, free) = (net.pods[0].udp(&at(&pod4(0), 9)), net.pods[1].udp(&at(&pod4(1), 9)));
    assert_eq!(flood(&free, &outside).0, 200, "nobody else is limited");
    assert_eq!(flood(&outside, &free).0, 200);
    // From the node too: what leaves it crosses another hook.
    for (what, from, to, rate, burst) in [
        ("to the outside", &mine, &outside, 5, 20),
        ("from the outside", &outside, &mine, 7, 5),
        ("from the node", &node, &mine, 7, 5),
        ("to the node", &mine, &node, 5, 20),
    ] {
        // The bucket fills again.
        std::thread::sleep(Duration::from_secs(u64::from(burst / rate) + 1));
        let (came, seconds) = flood(from, to);
        assert!(came >= burst && came <= burst + rate * (seconds + 1), "{what}: {came} in {seconds} s");
    }
    assert!(net.counted("demo/pod0 sends more than 5 packets a second") > 300);
    assert!(net.counted("demo/pod0 is sent more than 7 packets a second") > 300);
    // A change of something else leaves the bucket alone, and a limit that goes is gone.
    let chain = net.listing().lines().find(|line| line.contains("chain le_")).map(str::to_owned);
    net.add_pools();
    net.settle(&CompileOptions::default());
    assert_eq!(net.listing().lines().find(|line| line.contains("chain le_")).map(str::to_owned), chain);
    assert!(net.counted("demo/pod0 sends more than 5 packets a second") > 300);
}

/// Tries until it is as wanted.
fn eventually(what: &str, mut try_it: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !try_it() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn connections_are_counted() {
    let net = Net::new(&[json!({"qos.projectcalico.org/ingressMaxConnections": "3",
        "qos.projectcalico.org/egressMaxConnections": "2"})]);
    for namespace in [&net.pods[0], &net.outside, &net.node] {
        namespace.tcp_mirror("0.0.0.0:80");
    }
    let (pod, outside, node) = (at(&pod4(0), 80), at(OUTSIDE[0], 80), at(NODE[0], 80));
    let refused = |result: std::io::Result<_>| match result {
        Ok(_) => panic!("a connection over the limit"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "a reset, at once"),
    };
    let mut held: Vec<_> = (0..2).map(|_| net.outside.connect(&pod, PATIENCE).expect("within the limit")).collect();
    held.push(net.node.connect(&pod, PATIENCE).expect("the node's own count too"));
    refused(net.outside.connect(&pod, PATIENCE));
    refused(net.node.connect(&pod, PATIENCE));
    let sent = [net.pods[0].connect(&outside, PATIENCE), net.pods[0].connect(&node, PATIENCE)];
    let _sent = sent.map(|connection| connection.expect("the two directions are counted apart"));
    refused(net.pods[0].connect(&outside, PATIENCE));
    refused(net.pods[0].connect(&node, PATIENCE));
    // What is open stays open.
    for (stream, _) in &held {
        assert!(stream.take_error().expect("a socket").is_none());
    }
    net.outside.udp_mirror("0.0.0.0:7");
    net.pods[0].seen_by(&at(&pod4(0), 0), &at(OUTSIDE[0], 7));
    held.pop();
    eventually("an end makes room", || net.outside.connect(&pod, PATIENCE).is_ok());
    assert!(net.counted("3 connections to demo/pod0 are open") >= 2);
    assert!(net.counted("2 connections from demo/pod0 are open") >= 2);
}

#[test]
fn what_is_rejected_is_told() {
    let mut net = Net::new(&[json!({}), json!({})]);
    net.pods[1].tcp_mirror("0.0.0.0:80");
    net.pods[1].udp_mirror("0.0.0.0:7");
    net.add_policy("shut", &json!({"podSelector": {"matchLabels": {"name": "pod1"}}, "policyTypes": ["Ingress"]}));
    net.settle(&CompileOptions::default());
    let connect = |net: &Net, patience| {
        net.pods[0].connect(&at(&pod4(1), 80), patience).map(|_| ()).map_err(|error| error.kind())
    };
    assert_eq!(connect(&net, SILENCE), Err(ErrorKind::TimedOut));
    net.settle(&CompileOptions { deny_action: DenyAction::Reject, ..CompileOptions::default() });
    assert_eq!(connect(&net, PATIENCE), Err(ErrorKind::ConnectionRefused));
    let client = net.pods[0].udp(&at(&pod4(0), 0));
    client.connect(at(&pod4(1), 7)).expect("a socket can be connected");
    eventually("its sender is not told", || is_told(&client));
}

#[test]
fn flows_are_judged_again_in_other_bits_of_the_mark() {
    let mut net = Net::new(&[json!({}), json!({})]);
    let (client, server) = (net.pods[0].udp(&at(&pod4(0), 9)), net.pods[1].udp(&at(&pod4(1), 9)));
    let (to, back) = (at(&pod4(1), 9), at(&pod4(0), 9));
    let round = |net: &Net| {
        client.send_to(b"there", &to).expect("a packet can be sent");
        server
            .set_read_timeout(Some(if net.listing().contains("demo/shut") { SILENCE } else { PATIENCE }))
            .expect("it");
        let came = receive(&server, &mut [0; 10]).is_ok();
        if came {
            server.send_to(b"back", &back).expect("a packet can be sent");
            receive(&client, &mut [0; 10]).expect("an answer");
        }
        came
    };
    for mask in [0xffff_0000, 0x00ff_0000, 0x0000_ff00, 0xff00_00ff] {
        let mark_mask = MarkMask::try_from(mask).expect("enough bits");
        net.settle(&CompileOptions { mark_mask, ..CompileOptions::default() });
        for _ in 0..3 {
            assert!(round(&net), "with {mask:#x}");
        }
        assert!(net.listing().contains(&format!("ct mark & {mask:#010x} == @live")), "{}", net.listing());
    }
    net.add_policy("shut", &json!({"podSelector": {"matchLabels": {"name": "pod1"}}, "policyTypes": ["Ingress"]}));
    let mark_mask = MarkMask::try_from(0x0ff0_0000).expect("enough bits");
    net.settle(&CompileOptions { mark_mask, ..CompileOptions::default() });
    assert!(!round(&net), "a stamp in other bits counts for nothing");
}
