//! A whole speaker that is fed mutated streams: whatever a peer sends costs at most its own session.

#[allow(dead_code)]
mod common;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tortie_bird_lite::wire::header::encode_keepalive;
use tortie_bird_lite::wire::update::{encode_announcements, encode_end_of_rib, encode_withdrawals};
use tortie_bird_lite::wire::{AsPath, Attributes, Capability, Family, Open, RouteRefresh, Segment};
use tortie_bird_lite::{Action, Config, ConnectionId, Event, PeerConfig, PeerKind, Report, RibUpdate, Speaker, State};

use self::common::Random;

const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 3);

fn speaker() -> Speaker {
    let mut config = Config::new(64512, Ipv4Addr::new(10, 0, 0, 1));
    config.next_hop_v4 = Some(Ipv4Addr::new(10, 0, 0, 1));
    config.peers = [(PEER, 64513), (OTHER, 64512)]
        .map(|(address, remote_as)| {
            let mut peer = PeerConfig::new(address.to_string(), PeerKind::Global, address.into(), remote_as);
            peer.passive = true;
            peer
        })
        .to_vec();
    config.originate = vec!["10.1.0.0/16".parse::<ipnet::IpNet>().expect("a prefix").into()];
    Speaker::new(Duration::ZERO, config, 1)
}

fn drain(speaker: &mut Speaker) -> (Vec<Action>, Vec<RibUpdate>) {
    (std::iter::from_fn(|| speaker.poll_action()).collect(), std::iter::from_fn(|| speaker.poll_rib_update()).collect())
}

/// A stream that a good peer would send.
fn stream(local_as: u32, id: Ipv4Addr) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    let mut push = |write: &dyn Fn(&mut BytesMut)| {
        let mut message = BytesMut::new();
        write(&mut message);
        messages.push(message.to_vec());
    };
    let capabilities = [Capability::multiprotocol(Family::Ipv4), Capability::multiprotocol(Family::Ipv6)].to_vec();
    push(&|out| Open::new(local_as, 90, id, capabilities.clone()).encode(out));
    push(&encode_keepalive);
    let path = if local_as == 64512 { AsPath::default() } else { AsPath::new([Segment::Sequence(vec![local_as, 7])]) };
    for (family, hop, prefix) in [
        (Family::Ipv4, IpAddr::V4(id), "10.2.0.0/16"),
        (Family::Ipv6, "fd00::2".parse().expect("an address"), "fd00:2::/64"),
    ] {
        let attributes = Attributes { as_path: path.clone(), next_hop: hop, ..Attributes::default() };
        let prefix: ipnet::IpNet = prefix.parse().expect("a prefix");
        push(&|out| encode_announcements(&attributes, family, [prefix], true, out).expect("it fits"));
        push(&|out| encode_end_of_rib(family, out));
        push(&|out| RouteRefresh::request(family).encode(out));
        push(&|out| encode_withdrawals(family, [prefix], out));
    }
    messages
}

fn accept(speaker: &mut Speaker, now: Duration, connection: u64, from: Ipv4Addr) {
    let connection = ConnectionId(connection);
    let (local, remote) = (SocketAddr::from(([10, 0, 0, 1], 179)), SocketAddr::from((from, 4000)));
    speaker.handle_event(now, Event::Accepted { connection, local, remote });
}

fn receive(speaker: &mut Speaker, now: Duration, connection: u64, bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    speaker.handle_event(now, Event::Received { connection: ConnectionId(connection), bytes });
}

#[test]
fn mutated_streams_cost_only_their_own_session() {
    let rounds = if cfg!(debug_assertions) { 5_000 } else { 100_000 };
    let mut random = Random(7);
    let mut speaker = speaker();
    let mut now = Duration::ZERO;
    // The good one, which must outlive all that the other does.
    accept(&mut speaker, now, 1, OTHER);
    let good = stream(64512, OTHER);
    good[..3].iter().for_each(|message| receive(&mut speaker, now, 1, message));
    let seeds = stream(64513, PEER);
    let mut established = 0;
    for round in 0..rounds {
        now += Duration::from_millis(10);
        let connection = 3 + 2 * round as u64;
        accept(&mut speaker, now, connection, PEER);
        let intact = random.below(seeds.len());
        for (at, seed) in seeds.iter().enumerate() {
            let message = if at < intact { seed.clone() } else { random.mutate(seed) };
            let cut = random.below(message.len());
            receive(&mut speaker, now, connection, &message[..cut]);
            receive(&mut speaker, now, connection, &message[cut..]);
        }
        speaker.handle_event(now, Event::Closed { connection: ConnectionId(connection), error: None });
        receive(&mut speaker, now, 1, &good[1]);
        speaker.handle_timeout(now);
        let up = |action: &Action| matches!(action, Action::Report(Report::Up { address, .. }) if *address == PEER);
        established += drain(&mut speaker).0.iter().filter(|action| up(action)).count();
    }
    let peers = speaker.peers();
    let good = peers.iter().find(|peer| peer.address == OTHER).expect("it is configured");
    assert_eq!(
        (good.state, good.ipv4.map(|counts| counts.accepted)),
        (State::Established, Some(1)),
        "{}",
        good.last_error
    );
    assert!(established > rounds / 20, "only {established} streams came as far as Established");
    // After the restart time of nobody, nothing of the hostile peer is left.
    assert!(speaker.routes().iter().all(|route| route.from != PEER.to_string() || route.stale));
}

#[test]
fn a_peer_that_does_not_read_gets_the_newest_state_when_it_reads_again() {
    let mut speaker = speaker();
    let now = Duration::ZERO;
    accept(&mut speaker, now, 1, OTHER);
    stream(64512, OTHER)[..2].iter().for_each(|message| receive(&mut speaker, now, 1, message));
    accept(&mut speaker, now, 3, PEER);
    stream(64513, PEER)[..2].iter().for_each(|message| receive(&mut speaker, now, 3, message));
    drain(&mut speaker);
    let prefixes: Vec<ipnet::IpNet> = (0..200_000u32)
        .map(|n| ipnet::Ipv4Net::new((0x2000_0000 + (n << 8)).into(), 24).expect("a prefix").into())
        .collect();
    let path = |last| AsPath::new([Segment::Sequence(vec![64513, last])]);
    let mut outstanding = 0;
    let mut last = BytesMut::new();
    // Ten rounds of 200,000 changes, none of which the other peer reads.
    for round in 1..=10 {
        let attributes = Attributes { as_path: path(round), next_hop: PEER.into(), ..Attributes::default() };
        let mut bytes = BytesMut::new();
        encode_announcements(&attributes, Family::Ipv4, prefixes.iter().copied(), true, &mut bytes).expect("they fit");
        if round == 10 {
            encode_withdrawals(Family::Ipv4, prefixes[..100_000].iter().copied(), &mut bytes);
        }
        receive(&mut speaker, now, 3, &bytes);
        for action in drain(&mut speaker).0 {
            if let Action::Send { connection: ConnectionId(1), bytes } = action {
                outstanding += bytes.len();
                last.extend_from_slice(&bytes);
            }
        }
        assert!(outstanding < 6 << 20, "{outstanding} bytes are on their way after round {round}");
    }
    // Now it reads all of it, and what follows.
    while outstanding > 0 {
        speaker.handle_event(now, Event::Sent { connection: ConnectionId(1), bytes: outstanding });
        outstanding = 0;
        for action in drain(&mut speaker).0 {
            if let Action::Send { connection: ConnectionId(1), bytes } = action {
                outstanding += bytes.len();
                last.extend_from_slice(&bytes);
            }
        }
    }
    let mut known = std::collections::BTreeMap::new();
    for (_, body) in common::messages(&last) {
        let context = tortie_bird_lite::wire::update::Context { four_octets: true, external: false };
        let Ok(update) = tortie_bird_lite::wire::Update::decode(&body, context) else { continue };
        for prefix in update.lost() {
            known.remove(&prefix);
        }
        if let Some(attributes) = update.attributes {
            for prefix in update.announced.prefixes() {
                known.insert(prefix, attributes.as_path.to_string());
            }
        }
    }
    known.remove(&"10.1.0.0/16".parse().expect("a prefix"));
    assert_eq!(known.len(), 100_000);
    assert!(known.values().all(|path| path == "64513 10"), "every path is the newest");
    assert!(known.keys().eq(&prefixes[100_000..]));
    let view = speaker.peers().into_iter().find(|peer| peer.address == OTHER).expect("it is configured");
    assert_eq!(view.ipv4.map(|counts| counts.advertised), Some(100_001));
}
