//! Tracing by real packets: what a flow meets is told, in both directions, and nothing is left behind.

mod netns;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use netns::{in_netns, ip, nft};
use tortie_nft::{Chain, Family, Hook, HookPoint, Match, Op, Rule, Ruleset, Side, Statement, Verdict};
use tortie_nft_netlink::{Flow, Met, NftSocket, TraceEvent, TraceMonitor, TraceVerdict};

const PATIENCE: Duration = Duration::from_secs(20);

/// UDP on the loopback goes through a chain that drops one port and accepts the rest.
fn table() -> Ruleset {
    let udp = || vec![Match::NfProto(Family::V4), Match::L4Proto(Op::Eq, 17)];
    let dropped = Match::Port { side: Side::Destination, op: Op::Eq, first: 9, last: 9 };
    let jump = Rule::new(udp(), [Statement::Verdict(Verdict::Jump("judge".into()))]);
    let judge = vec![
        Rule::new([udp(), vec![dropped]].concat(), [Statement::Counter, Statement::Verdict(Verdict::Drop)])
            .commented("discard"),
        Rule::new(udp(), [Statement::Counter]),
    ];
    let hook = Some(Hook::filter(HookPoint::Output, 0));
    let mut table = Ruleset::default();
    table.chains.insert("out".into(), Chain { hook, rules: vec![jump] });
    table.chains.insert("judge".into(), Chain { hook: None, rules: judge });
    table
}

fn flow(port: u16) -> Flow {
    let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
    Flow { source: loopback, destination: loopback, protocol: 17, source_port: None, destination_port: Some(port) }
}

/// Events up to the first that fits.
fn until(monitor: &mut TraceMonitor, fits: impl Fn(&TraceEvent) -> bool) -> Vec<TraceEvent> {
    let deadline = Instant::now() + PATIENCE;
    let mut events = Vec::new();
    while let Some(event) = monitor.next_until(deadline).expect("it can be heard") {
        let last = fits(&event);
        events.push(event);
        if last {
            return events;
        }
    }
    panic!("it never came: {events:#?}");
}

#[test]
fn a_dropped_packet_is_told_rule_by_rule_and_others_are_not() {
    in_netns(|| {
        ip("link set lo up");
        let mut socket = NftSocket::open().expect("a socket");
        socket.apply(&Ruleset::default().diff(&table())).expect("a table");
        let before = nft(&["list", "ruleset"]);
        let mut monitor = TraceMonitor::arm(&flow(9)).expect("a trace");
        let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
        client.send_to(b"x", (Ipv4Addr::LOCALHOST, 10)).expect("another flow's packet");
        // The kernel says of a packet that our own rule dropped that it may not be sent.
        let _ = client.send_to(b"x", (Ipv4Addr::LOCALHOST, 9));
        let events = until(&mut monitor, |event| event.verdict == TraceVerdict::Drop);
        let steps: Vec<_> = events.iter().map(|event| (event.chain.as_str(), &event.verdict)).collect();
        assert_eq!(steps, [("out", &TraceVerdict::Jump("judge".into())), ("judge", &TraceVerdict::Drop)]);
        assert!(events.iter().all(|event| event.table == "tortie" && event.packet == events[0].packet));
        let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
        assert!(events.iter().any(|event| event.addresses == Some((loopback, loopback))), "{events:#?}");
        let Met::Rule(handle) = events[1].met else { panic!("{events:#?}") };
        let rules = socket.rules().expect("rules");
        let rule = rules.iter().find(|rule| rule.handle == handle && rule.chain == "judge").expect("its rule");
        assert_eq!(rule.rule.comment.as_deref(), Some("discard"));
        drop(monitor);
        assert_eq!(
            nft(&["list", "ruleset"]),
            before
                .replace("packets 0 bytes 0 drop", "packets 1 bytes 29 drop")
                .replace("counter packets 0 bytes 0", "counter packets 1 bytes 29")
        );
    });
}

#[test]
fn answers_are_told_too() {
    in_netns(|| {
        ip("link set lo up");
        let mut socket = NftSocket::open().expect("a socket");
        socket.apply(&Ruleset::default().diff(&table())).expect("a table");
        let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
        let SocketAddr::V4(address) = server.local_addr().expect("an address") else { panic!("IPv4") };
        let mut monitor = TraceMonitor::arm(&flow(address.port())).expect("a trace");
        let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
        client.send_to(b"ask", address).expect("a packet");
        let mut buffer = [0; 16];
        let (_, from) = server.recv_from(&mut buffer).expect("it arrives");
        let asked = until(&mut monitor, |event| event.met == Met::Policy && event.chain == "out");
        assert!(
            asked.iter().any(|event| event.verdict == TraceVerdict::Continue && event.chain == "judge"),
            "{asked:#?}"
        );
        server.send_to(b"answer", from).expect("an answer");
        let first = asked[0].packet;
        let answered =
            until(&mut monitor, |event| event.packet != first && event.met == Met::Policy && event.chain == "out");
        assert!(answered.iter().any(|event| event.chain == "judge"), "{answered:#?}");
    });
}

#[test]
fn two_traces_do_not_get_in_each_others_way() {
    in_netns(|| {
        ip("link set lo up");
        let mut one = TraceMonitor::arm(&flow(9)).expect("a trace");
        let other = TraceMonitor::arm(&flow(10)).expect("another");
        assert_eq!(nft(&["list", "tables"]).lines().count(), 2);
        assert_eq!(one.collect(Duration::from_millis(50), 10).expect("quiet"), []);
        drop((one, other));
        assert_eq!(nft(&["list", "tables"]), "");
    });
}
