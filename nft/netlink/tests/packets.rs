//! The interpreter against the kernel: random rulesets, and real packets through a router whose interfaces the rules name.
//!
//! The test's thread is the router; a client and a server are namespaces of their own, each with one raw socket. Every packet carries
//! a number, so what arrives says which packets the kernel let through. Flows of three packets (there, back, there again) show that
//! conntrack's state, direction and mark are interpreted alike.

mod netns;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use netns::{RawSocket, in_netns, ip};
use support::generate::{self, Random};
use tortie_nft::interpreter::{Conntrack, FlowState, Interpreter, Outcome, Packet};
use tortie_nft::{
    Chain, CounterMap, CtStates, Direction, Family, Field, Hook, HookPoint, KeyType, Match, Rule, Ruleset, Statement,
    Verdict,
};
use tortie_nft_netlink::NftSocket;

const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const MAGIC: &[u8; 4] = b"trtl";

/// A namespace with one interface that leads to the router.
fn neighbour(device: &'static str) -> RawSocket {
    let (tid_out, tid_in) = mpsc::channel();
    let (go_out, go_in) = mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        netns::new_netns();
        tid_out.send(nix::unistd::gettid()).expect("the router listens");
        go_in.recv().expect("the router says when");
        ip("link set eth0 up");
        RawSocket::open("eth0")
    });
    let tid = tid_in.recv().expect("a thread");
    ip(&format!(
        "link add {device} address 02:00:00:00:00:02 type veth peer name eth0 address 02:00:00:00:00:01 netns {tid}"
    ));
    // Without ARP each packet goes to the interface's own hardware address, and nobody is asked for any other.
    ip(&format!("link set {device} arp off up"));
    go_out.send(()).expect("the neighbour waits");
    thread.join().expect("a neighbour")
}

fn checksum(parts: &[&[u8]]) -> u16 {
    let bytes: Vec<u8> = parts.concat();
    let mut sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// A frame with this packet and its number.
fn frame(packet: &Packet, number: u32) -> Vec<u8> {
    let (sport, dport) = (packet.sport.unwrap_or(0).to_be_bytes(), packet.dport.unwrap_or(0).to_be_bytes());
    let tag = [&MAGIC[..], &number.to_be_bytes()].concat();
    let (mut segment, at) = match packet.l4proto {
        6 => {
            // The first packet of a flow is a SYN.
            let head = [&sport[..], &dport, &[0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]].concat();
            ([head, tag].concat(), 16)
        }
        17 => ([&sport[..], &dport, &16u16.to_be_bytes(), &[0, 0], &tag].concat(), 6),
        _ => {
            let (kind, code) = packet.icmp.unwrap_or((128, 0));
            // An identifier of its own, so that conntrack takes no two for one flow.
            ([&[kind, code, 0, 0], &number.to_be_bytes()[2..], &[0, 0], &tag[..]].concat(), 2)
        }
    };
    let length = segment.len() as u16;
    let mut frame = [&ROUTER_MAC[..], &CLIENT_MAC].concat();
    match (packet.saddr, packet.daddr) {
        (IpAddr::V4(saddr), IpAddr::V4(daddr)) => {
            // ICMP alone has no part of the header in its checksum.
            let pseudo = [&saddr.octets()[..], &daddr.octets(), &[0, packet.l4proto], &length.to_be_bytes()].concat();
            let sum = checksum(&[if packet.l4proto == 1 { &[] } else { &pseudo[..] }, &segment]);
            segment[at..at + 2].copy_from_slice(&sum.to_be_bytes());
            let total = (20 + length).to_be_bytes();
            let mut head = vec![0x45, 0, total[0], total[1], 0, 0, 0, 0, 64, packet.l4proto, 0, 0];
            head.extend_from_slice(&saddr.octets());
            head.extend_from_slice(&daddr.octets());
            let sum = checksum(&[&head]).to_be_bytes();
            head[10..12].copy_from_slice(&sum);
            frame.extend_from_slice(&[8, 0]);
            frame.extend_from_slice(&head);
        }
        (IpAddr::V6(saddr), IpAddr::V6(daddr)) => {
            let pseudo = [0, 0, 0, packet.l4proto];
            let sum =
                checksum(&[&saddr.octets(), &daddr.octets(), &u32::from(length).to_be_bytes(), &pseudo, &segment]);
            segment[at..at + 2].copy_from_slice(&sum.to_be_bytes());
            let size = length.to_be_bytes();
            frame.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0, size[0], size[1], packet.l4proto, 64]);
            frame.extend_from_slice(&saddr.octets());
            frame.extend_from_slice(&daddr.octets());
        }
        families => panic!("no packet between {families:?}"),
    }
    frame.extend_from_slice(&segment);
    frame
}

/// The numbers of our packets that have arrived at a socket.
fn arrived(socket: &RawSocket) -> BTreeSet<u32> {
    let mut numbers = BTreeSet::new();
    while let Some(frame) = socket.receive() {
        let Some(at) = frame.windows(4).rposition(|window| window == MAGIC) else { continue };
        if let Some(number) = frame.get(at + 4..).and_then(|rest| rest.first_chunk::<4>()) {
            numbers.insert(u32::from_be_bytes(*number));
        }
    }
    numbers
}

/// What the interpreter says of a packet on its way through the router, and which counters of [`hits`] it says count it.
fn interpret(interpreter: &Interpreter, packet: &mut Packet, hits: &mut BTreeMap<String, u64>) -> Outcome {
    let oif = std::mem::take(&mut packet.oif);
    let prerouting = interpreter.run(HookPoint::Prerouting, packet);
    packet.oif = oif;
    if prerouting == Outcome::Drop {
        return Outcome::Drop;
    }
    let forward = interpreter.trace(HookPoint::Forward, packet);
    for counter in forward.counted.into_iter().filter(|counter| counter.starts_with(HIT)) {
        *hits.entry(counter).or_default() += 1;
    }
    if forward.outcome == Outcome::Drop {
        return Outcome::Drop;
    }
    interpreter.run(HookPoint::Postrouting, packet)
}

/// What the names of the counters begin with that [`hits`] counts in.
const HIT: &str = "hit";

/// Adds a chain that counts what is forwarded, by source and destination. What is not forwarded may be the kernel's own, so other
/// counters prove nothing.
fn hits(r: &mut Random, table: &mut Ruleset) {
    table.counters.extend((0..4).map(|number| (format!("{HIT}{number}"), None)));
    let mut rules = Vec::new();
    for (family, kind, fields) in [
        (Family::V4, KeyType::Ipv4Addr, [Field::Ip4Saddr, Field::Ip4Daddr]),
        (Family::V6, KeyType::Ipv6Addr, [Field::Ip6Saddr, Field::Ip6Daddr]),
    ] {
        for (interval, field) in [(false, fields[0]), (true, fields[1])] {
            let keys = generate::elements(r, &[kind], interval);
            let elements = keys.into_iter().map(|key| (key, format!("{HIT}{}", r.below(3)))).collect();
            let map = format!("hits_{kind:?}_{interval}").to_lowercase();
            let behind = Statement::NamedCounter(format!("{HIT}3"));
            rules.push(Rule::new(
                [Match::NfProto(family)],
                [Statement::CountIn { key: vec![field], map: map.clone() }, behind],
            ));
            table.counter_maps.insert(map, CounterMap { key: vec![kind], interval, elements, comment: None });
        }
    }
    let hook = Some(Hook::filter(HookPoint::Forward, 300));
    table.chains.insert("hits".into(), Chain { hook, rules });
}

fn first_packet(r: &mut Random, flow: u16) -> Packet {
    let hosts = |r: &mut Random| {
        let (a, b) = (r.below(5), 1 + r.below(4));
        (a as u8, ((a + b) % 5) as u8)
    };
    let (source, destination) = hosts(r);
    let v4 = r.chance(50);
    let addr = |host: u8| -> IpAddr {
        if v4 {
            Ipv4Addr::new(10, 65, 0, host).into()
        } else {
            Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, host.into()).into()
        }
    };
    let l4proto = if v4 { *r.pick(&[6, 17, 17, 1]) } else { *r.pick(&[6, 17, 17, 58]) };
    let icmp = match l4proto {
        1 => Some((8, *r.pick(&[0, 3]))),
        58 => Some((*r.pick(&[128, 135]), 0)),
        _ => None,
    };
    let port = |number: u16| icmp.is_none().then_some(number);
    Packet {
        iif: "calia".into(),
        oif: "calib".into(),
        saddr: addr(source),
        daddr: addr(destination),
        l4proto,
        sport: port(if r.chance(20) { 80 } else { 20_000 + flow }),
        dport: port(*r.pick(&[53, 80, 81, 90, 443, 8000, 8100, 65_535])),
        icmp,
        // Conntrack leaves neighbour discovery alone.
        ct: if icmp == Some((135, 0)) { Conntrack::Untracked } else { Conntrack::NEW },
        dnat: false,
    }
}

/// The answer to a packet of a flow, once the flow is in conntrack's table.
fn answer(packet: &Packet) -> Packet {
    let direction = match packet.ct {
        Conntrack::Flow { direction: Direction::Original, .. } => Direction::Reply,
        _ => Direction::Original,
    };
    let mark = packet.ct.mark().unwrap_or_default();
    Packet {
        iif: packet.oif.clone(),
        oif: packet.iif.clone(),
        saddr: packet.daddr,
        daddr: packet.saddr,
        sport: packet.dport,
        dport: packet.sport,
        ct: Conntrack::Flow { state: FlowState::Established, direction, mark },
        ..packet.clone()
    }
}

/// What the counters of [`hits`] have counted.
fn hit_counts(socket: &mut NftSocket) -> BTreeMap<String, u64> {
    let values = socket.counter_values().expect("counters can be read").into_iter();
    values.filter(|(name, _)| name.starts_with(HIT)).map(|(name, (packets, _))| (name, packets)).collect()
}

#[test]
fn the_interpreter_and_the_kernel_agree() {
    in_netns(|| {
        let client = neighbour("calia");
        let server = neighbour("calib");
        for (sysctl, value) in [("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")] {
            std::fs::write(format!("/proc/sys/net/{sysctl}"), value).expect("a router forwards");
        }
        let mut socket = NftSocket::open().expect("a socket");
        let mut have = Ruleset::default();
        let mut r = Random(42);
        let mut known = BTreeSet::new();
        let (mut number, mut accepted, mut dropped, mut counted_packets) = (0, 0, 0, 0);
        for round in 0..60 {
            let mut want = generate::ruleset(&mut r);
            want.chains.retain(|name, _| !generate::BEYOND.contains(&name.as_str()));
            // Enough rules that packets meet one, and an end that is no acceptance.
            let chains: Vec<String> = want.chains.keys().filter(|name| name.starts_with('c')).cloned().collect();
            let mut rules: Vec<Rule> = (0..10).map(|_| generate::rule(&mut r, &want, &chains, true)).collect();
            if r.chance(60) {
                rules.push(Rule::new([], [Statement::Verdict(Verdict::Drop)]));
            }
            let point = *r.pick(&[HookPoint::Prerouting, HookPoint::Forward, HookPoint::Postrouting]);
            let hook = Some(Hook::filter(point, *r.pick(&[-300, -150, 10])));
            want.chains.insert("most".into(), Chain { hook, rules });
            // Conntrack works only where a rule asks it something.
            let tracks = Rule::new([Match::CtState(CtStates::NEW)], [Statement::Counter]);
            let hook = Some(Hook::filter(HookPoint::Postrouting, 200));
            want.chains.insert("tracks".into(), Chain { hook, rules: vec![tracks] });
            hits(&mut r, &mut want);
            socket.apply(&have.diff(&want)).expect("a ruleset");
            have = want;
            let interpreter = Interpreter::new(&have).expect("a ruleset that the kernel took");
            let before = hit_counts(&mut socket);
            let mut hits = BTreeMap::new();

            // What an earlier round sent between the same ports, conntrack would know.
            let mut flows: Vec<Packet> = Vec::new();
            while flows.len() < 12 {
                let flow = first_packet(&mut r, round * 12 + flows.len() as u16);
                let mut ends = [(flow.saddr, flow.sport), (flow.daddr, flow.dport)];
                ends.sort_unstable();
                if flow.icmp.is_some() || known.insert((flow.l4proto, ends)) {
                    flows.push(flow);
                }
            }
            for leg in 0..3 {
                let (from, to, device) =
                    if leg == 1 { (&server, &client, "calia") } else { (&client, &server, "calib") };
                // All addresses are on one side or the other, as the packet goes.
                ip(&format!("route replace 10.65.0.0/24 dev {device}"));
                ip(&format!("-6 route replace fd00::/64 dev {device}"));
                let first = number;
                let mut passed = Vec::new();
                let mut wanted = BTreeSet::new();
                for flow in &flows {
                    let mut packet = flow.clone();
                    let frame = frame(&packet, number);
                    from.send(&frame);
                    if packet.icmp.is_some() {
                        // Where others have ports, the kernel reads ICMP's type and code, and its checksum.
                        let at = if packet.l4proto == 1 { 34 } else { 54 };
                        packet.sport = Some(u16::from_be_bytes([frame[at], frame[at + 1]]));
                        packet.dport = Some(u16::from_be_bytes([frame[at + 2], frame[at + 3]]));
                    }
                    if interpret(&interpreter, &mut packet, &mut hits) == Outcome::Accept {
                        wanted.insert(number);
                        // UDP alone: of TCP conntrack wants the whole ceremony.
                        if packet.l4proto == 17 && packet.ct.mark().is_some() {
                            passed.push(answer(&packet));
                        }
                        accepted += 1;
                    } else {
                        dropped += 1;
                    }
                    number += 1;
                }
                let mut got = arrived(to);
                // A busy machine may be late.
                let deadline = Instant::now() + Duration::from_secs(5);
                while !got.is_superset(&wanted) && Instant::now() < deadline {
                    got.extend(arrived(to));
                }
                for (packet, number) in flows.iter().zip(first..) {
                    assert_eq!(
                        got.contains(&number),
                        wanted.contains(&number),
                        "round {round}, leg {leg}: did it arrive, should it have? {packet:?}\n{have}"
                    );
                }
                flows = passed;
            }
            let mut counted = hit_counts(&mut socket);
            for (counter, packets) in &mut counted {
                *packets -= before[counter];
                counted_packets += *packets;
            }
            counted.retain(|_, packets| *packets > 0);
            assert_eq!(counted, hits, "round {round}: what was counted, and should have been\n{have}");
        }
        println!("{accepted} packets accepted, {dropped} dropped, {counted_packets} hits");
        assert!(counted_packets > 200, "{counted_packets} hits prove little");
        assert!(
            accepted > 200 && dropped > 200,
            "{accepted} accepted and {dropped} dropped: too one-sided to prove much"
        );
    });
}
