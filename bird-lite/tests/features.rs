//! What two speakers agree on in their OPENs, seen from the other end of the session: large messages, marks around what is sent again;
//! and paths with sets, which nobody may send any more.

#[allow(dead_code)]
mod common;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ipnet::{IpNet, Ipv4Net};
use tortie_bird_lite::wire::header::{self, encode_keepalive};
use tortie_bird_lite::wire::update::{Context, encode_announcements, encode_announcements_within};
use tortie_bird_lite::wire::{
    AsPath, Attributes, Capability, Family, HEADER_LENGTH, MAX_EXTENDED_MESSAGE, MAX_MESSAGE, MessageType, Open,
    RouteRefresh, Segment, Update,
};
use tortie_bird_lite::{Action, Config, ConnectionId, Event, PeerConfig, PeerKind, RibUpdate, Speaker, State};

const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const NOW: Duration = Duration::ZERO;
const CONNECTION: ConnectionId = ConnectionId(1);

fn prefixes(count: u32) -> Vec<IpNet> {
    (0..count).map(|n| Ipv4Net::new((0x2000_0000 + (n << 8)).into(), 24).expect("a prefix").into()).collect()
}

/// A speaker that originates so many prefixes, with an established session to a peer that can do this.
fn session(originated: u32, capabilities: &[Capability]) -> (Speaker, Vec<u8>) {
    let mut config = Config::new(64512, Ipv4Addr::new(10, 0, 0, 1));
    config.next_hop_v4 = Some(Ipv4Addr::new(10, 0, 0, 1));
    let mut peer = PeerConfig::new("peer", PeerKind::Global, PEER.into(), 64513);
    peer.passive = true;
    config.peers = vec![peer];
    config.originate = prefixes(originated).into_iter().map(Into::into).collect();
    let mut speaker = Speaker::new(NOW, config, 1);
    let (local, remote) = (SocketAddr::from(([10, 0, 0, 1], 179)), SocketAddr::from((PEER, 4000)));
    speaker.handle_event(NOW, Event::Accepted { connection: CONNECTION, local, remote });
    let mut bytes = BytesMut::new();
    let all = [&[Capability::multiprotocol(Family::Ipv4)], capabilities].concat();
    Open::new(64513, 90, PEER, all).encode(&mut bytes);
    encode_keepalive(&mut bytes);
    let mut sent = receive(&mut speaker, bytes);
    assert_eq!(speaker.peers()[0].state, State::Established);
    // OPEN and KEEPALIVE.
    for _ in 0..2 {
        let (_, length) = header::peek(&sent).expect("a header").expect("a message");
        sent.drain(..length);
    }
    (speaker, sent)
}

/// Hands the speaker bytes of its peer; answers with all that it sends.
fn receive(speaker: &mut Speaker, bytes: BytesMut) -> Vec<u8> {
    let mut sent = Vec::new();
    if !bytes.is_empty() {
        speaker.handle_event(NOW, Event::Received { connection: CONNECTION, bytes: bytes.freeze() });
    }
    loop {
        let mut count = 0;
        while let Some(action) = speaker.poll_action() {
            if let Action::Send { bytes, .. } = action {
                count += bytes.len();
                sent.extend_from_slice(&bytes);
            }
        }
        if count == 0 {
            return sent;
        }
        speaker.handle_event(NOW, Event::Sent { connection: CONNECTION, bytes: count });
    }
}

/// The messages of a stream, each by its type and whole length, with its body.
fn messages(mut stream: &[u8]) -> Vec<(MessageType, usize, &[u8])> {
    let mut found = Vec::new();
    while let Some((kind, length)) = header::peek_within(stream, MAX_EXTENDED_MESSAGE).expect("a good header") {
        let (message, rest) = stream.split_at(length);
        found.push((kind, length, &message[HEADER_LENGTH..]));
        stream = rest;
    }
    found
}

fn route(path: AsPath) -> Attributes {
    Attributes { as_path: path, next_hop: IpAddr::V4(PEER), ..Attributes::default() }
}

fn through(numbers: &[u32]) -> AsPath {
    AsPath::new([Segment::Sequence(numbers.to_vec())])
}

#[test]
fn large_messages_go_both_ways_where_both_take_them() {
    let (mut speaker, sent) = session(30_000, &[Capability::ExtendedMessage]);
    let longest = messages(&sent).iter().map(|message| message.1).max().expect("it announces");
    assert!((60_000..=MAX_EXTENDED_MESSAGE).contains(&longest), "{longest} bytes");
    let announced: usize = messages(&sent)
        .iter()
        .filter_map(|(_, _, body)| Update::decode(body, Context { four_octets: true, external: true }).ok())
        .map(|update| update.announced.prefixes().count())
        .sum();
    assert_eq!(announced, 30_000);
    let mut bytes = BytesMut::new();
    encode_announcements_within(
        MAX_EXTENDED_MESSAGE,
        &route(through(&[64513])),
        Family::Ipv4,
        prefixes(12_000),
        true,
        &mut bytes,
    )
    .expect("they fit");
    assert_eq!(messages(&bytes).len(), 1);
    // In two pieces, as TCP may deliver it.
    let rest = bytes.split_off(20_000);
    receive(&mut speaker, bytes);
    receive(&mut speaker, rest);
    assert_eq!(speaker.peers()[0].ipv4.map(|counts| counts.received), Some(12_000));
}

#[test]
fn a_large_message_without_agreement_ends_the_session() {
    let (mut speaker, sent) = session(30_000, &[]);
    assert!(messages(&sent).iter().all(|message| message.1 <= MAX_MESSAGE));
    let mut bytes = BytesMut::new();
    encode_announcements_within(5000, &route(through(&[64513])), Family::Ipv4, prefixes(2000), true, &mut bytes)
        .expect("they fit");
    let sent = receive(&mut speaker, bytes);
    let (kind, _, body) = messages(&sent)[0];
    assert_eq!((kind, &body[..2]), (MessageType::Notification, &[1, 2][..]), "bad message length");
}

#[test]
fn what_is_sent_again_stands_between_marks_where_both_know_them() {
    for marks in [true, false] {
        let capabilities =
            [&[Capability::RouteRefresh][..], if marks { &[Capability::EnhancedRouteRefresh] } else { &[] }];
        let (mut speaker, _) = session(3, &capabilities.concat());
        let mut bytes = BytesMut::new();
        RouteRefresh::request(Family::Ipv4).encode(&mut bytes);
        let sent = receive(&mut speaker, bytes);
        let kinds: Vec<_> = messages(&sent)
            .into_iter()
            .map(|(kind, _, body)| match kind {
                MessageType::RouteRefresh => RouteRefresh::decode(body).expect("a mark").subtype,
                _ => 9,
            })
            .collect();
        assert_eq!(kinds, if marks { vec![1, 9, 2] } else { vec![9] });
    }
}

#[test]
fn what_a_peer_does_not_send_again_is_gone_at_the_last_mark() {
    let (mut speaker, _) = session(0, &[Capability::RouteRefresh, Capability::EnhancedRouteRefresh]);
    let announce = |speaker: &mut Speaker, count| {
        let mut bytes = BytesMut::new();
        encode_announcements(&route(through(&[64513])), Family::Ipv4, prefixes(count), true, &mut bytes)
            .expect("they fit");
        receive(speaker, bytes);
    };
    announce(&mut speaker, 2);
    let fib = |speaker: &mut Speaker| std::iter::from_fn(|| speaker.poll_rib_update()).collect::<Vec<_>>();
    fib(&mut speaker);
    let mark = |speaker: &mut Speaker, mark: RouteRefresh| {
        let mut bytes = BytesMut::new();
        mark.encode(&mut bytes);
        receive(speaker, bytes);
    };
    mark(&mut speaker, RouteRefresh::begin(Family::Ipv4));
    announce(&mut speaker, 1);
    assert_eq!(fib(&mut speaker), [], "nothing changes before the last mark");
    mark(&mut speaker, RouteRefresh::end(Family::Ipv4));
    assert_eq!(fib(&mut speaker), [RibUpdate::Withdrawn { prefix: prefixes(2)[1] }]);
    assert_eq!(speaker.routes().len(), 1);
    // One that never ends what it began keeps nothing for ever.
    mark(&mut speaker, RouteRefresh::begin(Family::Ipv4));
    speaker.handle_event(Duration::from_secs(89), Event::Received { connection: CONNECTION, bytes: keepalive() });
    speaker.handle_event(Duration::from_secs(119), Event::Received { connection: CONNECTION, bytes: keepalive() });
    speaker.handle_timeout(Duration::from_secs(121));
    assert_eq!(speaker.routes().len(), 0);
    assert_eq!(speaker.peers()[0].state, State::Established);
}

fn keepalive() -> Bytes {
    let mut bytes = BytesMut::new();
    encode_keepalive(&mut bytes);
    bytes.freeze()
}

#[test]
fn a_path_with_a_set_is_treated_as_a_withdrawal() {
    let (mut speaker, _) = session(0, &[]);
    for (path, known) in [
        (through(&[64513, 7]), 1),
        (AsPath::new([Segment::Sequence(vec![64513]), Segment::Set(vec![7, 8])]), 0),
        (through(&[64513]), 1),
    ] {
        let mut bytes = BytesMut::new();
        encode_announcements(&route(path), Family::Ipv4, prefixes(1), true, &mut bytes).expect("it fits");
        receive(&mut speaker, bytes);
        assert_eq!(speaker.routes().len(), known);
    }
    assert_eq!(speaker.peers()[0].state, State::Established, "it costs the route, and no more");
}
