//! The codec against itself, against an independent one, against the RFCs' tables, and against garbage.

mod common;

use bytes::BytesMut;
use netgauze_bgp_pkt::BgpMessage;
use netgauze_bgp_pkt::wire::deserializer::{BgpParsingContext, BgpParsingIgnoredErrors};
use netgauze_parse_utils::WritablePdu;
use netgauze_parse_utils::reader::SliceReader;
use netgauze_parse_utils::traits::ParseFromWithOneInput;
use proptest::prelude::*;
use tortie_bird_lite::wire::attribute::Verdict;
use tortie_bird_lite::wire::header::{HEADER_LENGTH, MAX_MESSAGE};
use tortie_bird_lite::wire::update::{Context, TooLong, encode_announcements, encode_end_of_rib, encode_withdrawals};
use tortie_bird_lite::wire::{
    Attributes, Capability, Community, Families, Family, GracefulRestart, Notification, Open, RestartFamily, Update,
};

use self::common::{Random, announced, attributes, decode_and_encode, messages, prefixes};

const INTERNAL: Context = Context { four_octets: true, external: false };

/// Lets the other codec read a message and write it again.
fn through_netgauze(message: &[u8]) -> Vec<u8> {
    let mut context = BgpParsingContext::default();
    let mut reader = SliceReader::new(message);
    let parsed = BgpMessage::parse(&mut reader, &mut context).expect("netgauze reads what we write");
    let ignored = context.reset_parsing_errors();
    assert_eq!(ignored, BgpParsingIgnoredErrors::default(), "netgauze has nothing to complain about");
    let mut written = Vec::new();
    parsed.write(&mut written).expect("netgauze writes what it read");
    written
}

fn both_families() -> impl Strategy<Value = (Family, Attributes, Vec<ipnet::IpNet>)> {
    prop_oneof![Just(Family::Ipv4), Just(Family::Ipv6)]
        .prop_flat_map(|family| (Just(family), attributes(family), prefixes(family, 900)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn announcements_come_back_as_they_were((family, attributes, prefixes) in both_families(), four_octets: bool) {
        let mut stream = BytesMut::new();
        encode_announcements(&attributes, family, prefixes.iter().copied(), four_octets, &mut stream).expect("they fit");
        let context = Context { four_octets, external: false };
        let mut seen = Vec::new();
        for (_, body) in messages(&stream) {
            let (decoded, part) = announced(&body, context);
            // A path whose lengths in both forms differ by sets cannot always be rebuilt; sequences can.
            if four_octets {
                prop_assert_eq!(&decoded, &attributes);
            }
            seen.extend(part);
        }
        prop_assert_eq!(seen, prefixes);
    }

    #[test]
    fn an_independent_codec_reads_and_writes_the_same((family, attributes, prefixes) in both_families()) {
        let mut stream = BytesMut::new();
        encode_announcements(&attributes, family, prefixes.iter().copied(), true, &mut stream).expect("they fit");
        let mut rest = &stream[..];
        let mut seen = Vec::new();
        while !rest.is_empty() {
            let length = usize::from(u16::from_be_bytes([rest[16], rest[17]]));
            let theirs = through_netgauze(&rest[..length]);
            let (decoded, part) = announced(&theirs[HEADER_LENGTH..], INTERNAL);
            prop_assert_eq!(&decoded, &attributes);
            seen.extend(part);
            rest = &rest[length..];
        }
        prop_assert_eq!(seen, prefixes);
    }

    #[test]
    fn withdrawals_come_back_also_through_the_other_codec(four in prefixes(Family::Ipv4, 2000), six in prefixes(Family::Ipv6, 600)) {
        for (family, wanted) in [(Family::Ipv4, four), (Family::Ipv6, six)] {
            let mut stream = BytesMut::new();
            encode_withdrawals(family, wanted.iter().copied(), &mut stream);
            let mut rest = &stream[..];
            let mut seen = Vec::new();
            while !rest.is_empty() {
                let length = usize::from(u16::from_be_bytes([rest[16], rest[17]]));
                prop_assert!(length <= MAX_MESSAGE);
                let theirs = through_netgauze(&rest[..length]);
                seen.extend(Update::decode(&theirs[HEADER_LENGTH..], INTERNAL).expect("a good UPDATE").lost());
                rest = &rest[length..];
            }
            prop_assert_eq!(seen, wanted);
        }
    }

    #[test]
    fn an_open_comes_back_also_through_the_other_codec(local_as in 1u32.., id in 1u32..0xe000_0000, hold in 3u16.., time in 0u64..4096, restarting: bool, forwarding: bool) {
        let families = Families::ALL.iter().map(|family| RestartFamily { afi: family.afi(), safi: 1, forwarding }).collect();
        let restart_time = std::time::Duration::from_secs(time);
        let capabilities = vec![
            Capability::multiprotocol(Family::Ipv4),
            Capability::multiprotocol(Family::Ipv6),
            Capability::RouteRefresh,
            Capability::GracefulRestart(GracefulRestart { restarting, restart_time, families }),
        ];
        let open = Open::new(local_as, hold, id.into(), capabilities);
        let mut stream = BytesMut::new();
        open.encode(&mut stream);
        prop_assert_eq!(Open::decode(&stream[HEADER_LENGTH..]), Ok(open.clone()));
        let theirs = through_netgauze(&stream);
        prop_assert_eq!(Open::decode(&theirs[HEADER_LENGTH..]), Ok(open));
    }
}

#[test]
fn an_open_with_many_capabilities_uses_the_extended_length() {
    let many = (0..40).map(|code| Capability::Unknown { code: 128 + code, value: vec![code; 20].into() }).collect();
    let open = Open::new(65000, 90, [10, 0, 0, 1].into(), many);
    let mut stream = BytesMut::new();
    open.encode(&mut stream);
    assert_eq!(Open::decode(&stream[HEADER_LENGTH..]), Ok(open));
}

#[test]
fn the_end_of_rib_is_known_for_what_it_is() {
    for family in Family::ALL {
        let mut stream = BytesMut::new();
        encode_end_of_rib(family, &mut stream);
        let update = Update::decode(&stream[HEADER_LENGTH..], INTERNAL).expect("a good UPDATE");
        assert_eq!(update.end_of_rib, Some(family));
        through_netgauze(&stream);
    }
}

#[test]
fn attributes_without_room_for_a_prefix_are_refused() {
    let attributes =
        Attributes { communities: vec![Community(1); 1020], next_hop: [10, 0, 0, 1].into(), ..Attributes::default() };
    let prefix = "10.0.0.0/8".parse().expect("a prefix");
    let mut stream = BytesMut::new();
    assert_eq!(encode_announcements(&attributes, Family::Ipv4, [prefix], true, &mut stream), Err(TooLong));
    assert!(stream.is_empty());
}

/// An UPDATE's body with these attributes, and 10.0.0.0/8.
fn body(attributes: &[u8]) -> Vec<u8> {
    let mut body = vec![0, 0];
    body.extend((attributes.len() as u16).to_be_bytes());
    body.extend_from_slice(attributes);
    body.extend([8, 10]);
    body
}

const ORIGIN: &[u8] = &[0x40, 1, 1, 0];
const AS_PATH: &[u8] = &[0x40, 2, 6, 2, 1, 0, 0, 0xfd, 0xe8];
const NEXT_HOP: &[u8] = &[0x40, 3, 4, 10, 0, 0, 1];

fn with(attribute: &[u8]) -> Vec<u8> {
    body(&[ORIGIN, AS_PATH, NEXT_HOP, attribute].concat())
}

#[test]
fn malformed_attributes_cost_what_rfc_7606_says() {
    use Verdict::{Discard, Withdraw};
    let rest = |attribute: &[u8], with: [&[u8]; 2]| body(&[attribute, with[0], with[1]].concat());
    let cases: Vec<(&str, Vec<u8>, u8, Verdict)> = vec![
        ("ORIGIN, unknown value", rest(&[0x40, 1, 1, 3], [AS_PATH, NEXT_HOP]), 1, Withdraw),
        ("ORIGIN, length", rest(&[0x40, 1, 2, 0, 0], [AS_PATH, NEXT_HOP]), 1, Withdraw),
        ("ORIGIN, flags", rest(&[0xc0, 1, 1, 0], [AS_PATH, NEXT_HOP]), 1, Withdraw),
        ("ORIGIN missing", body(&[AS_PATH, NEXT_HOP].concat()), 1, Withdraw),
        ("AS_PATH, segment type", rest(&[0x40, 2, 6, 5, 1, 0, 0, 0, 1], [ORIGIN, NEXT_HOP]), 2, Withdraw),
        ("AS_PATH, empty segment", rest(&[0x40, 2, 2, 2, 0], [ORIGIN, NEXT_HOP]), 2, Withdraw),
        ("AS_PATH, overrun", rest(&[0x40, 2, 6, 2, 2, 0, 0, 0, 1], [ORIGIN, NEXT_HOP]), 2, Withdraw),
        ("AS_PATH, one byte left", rest(&[0x40, 2, 7, 2, 1, 0, 0, 0, 1, 2], [ORIGIN, NEXT_HOP]), 2, Withdraw),
        ("AS_PATH, AS 0", rest(&[0x40, 2, 6, 2, 1, 0, 0, 0, 0], [ORIGIN, NEXT_HOP]), 2, Withdraw),
        ("AS_PATH missing", body(&[ORIGIN, NEXT_HOP].concat()), 2, Withdraw),
        ("NEXT_HOP, length", rest(&[0x40, 3, 3, 10, 0, 0], [ORIGIN, AS_PATH]), 3, Withdraw),
        ("NEXT_HOP, multicast", rest(&[0x40, 3, 4, 224, 0, 0, 1], [ORIGIN, AS_PATH]), 3, Withdraw),
        ("NEXT_HOP, loopback", rest(&[0x40, 3, 4, 127, 0, 0, 1], [ORIGIN, AS_PATH]), 3, Withdraw),
        ("NEXT_HOP, this network", rest(&[0x40, 3, 4, 0, 0, 0, 1], [ORIGIN, AS_PATH]), 3, Withdraw),
        ("NEXT_HOP missing", body(&[ORIGIN, AS_PATH].concat()), 3, Withdraw),
        ("MED, length", with(&[0x80, 4, 3, 0, 0, 0]), 4, Withdraw),
        ("MED, flags", with(&[0x40, 4, 4, 0, 0, 0, 0]), 4, Withdraw),
        ("LOCAL_PREF, length", with(&[0x40, 5, 5, 0, 0, 0, 0, 0]), 5, Withdraw),
        ("ATOMIC_AGGREGATE, length", with(&[0x40, 6, 1, 0]), 6, Discard),
        ("AGGREGATOR, length", with(&[0xc0, 7, 6, 0, 1, 10, 0, 0, 1]), 7, Discard),
        ("COMMUNITIES, length", with(&[0xc0, 8, 3, 0, 0, 0]), 8, Withdraw),
        ("COMMUNITIES, empty", with(&[0xc0, 8, 0]), 8, Withdraw),
        ("ORIGINATOR_ID, length", with(&[0x80, 9, 3, 0, 0, 0]), 9, Withdraw),
        ("CLUSTER_LIST, length", with(&[0x80, 10, 5, 0, 0, 0, 0, 0]), 10, Withdraw),
        ("EXTENDED COMMUNITIES, length", with(&[0xc0, 16, 4, 0, 0, 0, 0]), 16, Withdraw),
        ("AS4_PATH in a 32-bit session", with(&[0xc0, 17, 6, 2, 1, 0, 0, 0, 1]), 17, Discard),
        ("LARGE_COMMUNITY, length", with(&[0xc0, 32, 4, 0, 0, 0, 0]), 32, Withdraw),
        ("MED twice", with(&[0x80, 4, 4, 0, 0, 0, 1, 0x80, 4, 4, 0, 0, 0, 2]), 4, Discard),
        ("the list ends inside an attribute", with(&[0x80, 4, 4, 0]), 0, Withdraw),
        ("the list ends inside a header", with(&[0x80]), 0, Withdraw),
    ];
    for (name, body, code, verdict) in cases {
        let update =
            Update::decode(&body, INTERNAL).unwrap_or_else(|fault| panic!("{name} costs the session: {fault}"));
        let found: Vec<_> = update.blemishes.iter().map(|blemish| (blemish.code, blemish.verdict)).collect();
        assert!(found.contains(&(code, verdict)), "{name}: {found:?}");
        assert_eq!(update.attributes.is_none(), verdict == Withdraw, "{name}");
        assert_eq!(update.lost().count(), usize::from(verdict == Withdraw), "{name}: the prefix is lost, or not");
    }
}

#[test]
fn what_has_no_meaning_from_another_as_is_not_even_judged() {
    let external = Context { four_octets: true, external: true };
    for attribute in [&[0x40, 5, 1, 0][..], &[0x80, 9, 1, 0], &[0x80, 10, 1, 0]] {
        let body = with(attribute);
        let update = Update::decode(&body, external).expect("it costs nothing");
        let attributes = update.attributes.expect("nothing is lost");
        assert_eq!((attributes.local_pref, attributes.originator_id), (None, None));
    }
}

/// Name, body, codes and data of the NOTIFICATION.
type Case = (&'static str, Vec<u8>, (u8, u8), Vec<u8>);

#[test]
fn what_cannot_be_read_costs_the_session_with_the_right_code() {
    let unreach = [0x80, 15, 4, 0, 2, 1, 129];
    let cases: Vec<Case> = vec![
        ("empty", vec![], (3, 1), vec![]),
        ("withdrawn routes past the end", vec![0, 5, 8, 10], (3, 1), vec![]),
        ("attributes past the end", vec![0, 0, 0, 9, 8, 10], (3, 1), vec![]),
        ("a withdrawn prefix of 33 bits", vec![0, 2, 33, 10, 0, 0], (3, 10), vec![]),
        ("an announced prefix cut short", vec![0, 0, 0, 0, 24, 10], (3, 10), vec![]),
        ("a prefix of 129 bits", with(&unreach), (3, 9), unreach.to_vec()),
        ("a next hop of 5 bytes", with(&[0x80, 14, 6, 0, 2, 1, 5, 0, 0]), (3, 9), vec![0x80, 14, 6, 0, 2, 1, 5, 0, 0]),
        ("MP_REACH_NLRI cut short", with(&[0x80, 14, 2, 0, 2]), (3, 9), vec![0x80, 14, 2, 0, 2]),
        ("MP_UNREACH_NLRI twice", with(&[0x80, 15, 3, 0, 2, 1, 0x80, 15, 3, 0, 2, 1]), (3, 1), vec![]),
        ("an unknown well-known attribute", with(&[0x40, 99, 1, 7]), (3, 2), vec![0x40, 99, 1, 7]),
    ];
    for (name, body, codes, data) in cases {
        let fault = Update::decode(&body, INTERNAL).expect_err(name);
        let Notification { code, subcode, data: found } = fault.notification;
        assert_eq!(((code, subcode), found.to_vec()), (codes, data), "{name}");
    }
}

#[test]
fn unknown_transitive_attributes_are_passed_on_as_partial_and_others_are_not() {
    let body = with(&[0xc0, 99, 2, 7, 8, 0x80, 98, 1, 1]);
    let (attributes, prefixes) = announced(&body, INTERNAL);
    let mut stream = BytesMut::new();
    encode_announcements(&attributes, Family::Ipv4, prefixes, true, &mut stream).expect("it fits");
    let find = |needle: &[u8]| stream.windows(needle.len()).any(|window| window == needle);
    assert!(find(&[0xe0, 99, 2, 7, 8]) && !find(&[98, 1, 1]));
}

#[test]
fn a_16_bit_neighbour_gets_as_trans_and_its_as4_path_is_understood() {
    let context = Context { four_octets: false, external: false };
    // AS_PATH 65000 23456 23456, AS4_PATH 4200000001 65010: the first was added by a 16-bit speaker.
    let path = [0x40, 2, 8, 2, 3, 0xfd, 0xe8, 0x5b, 0xa0, 0x5b, 0xa0];
    let as4 = [0xc0, 17, 10, 2, 2, 0xfa, 0x56, 0xea, 0x01, 0, 0, 0xfd, 0xf2];
    let message = body(&[ORIGIN, &path, NEXT_HOP, &as4].concat());
    let (attributes, prefixes) = announced(&message, context);
    assert_eq!(attributes.as_path.to_string(), "65000 4200000001 65010");
    let mut stream = BytesMut::new();
    encode_announcements(&attributes, Family::Ipv4, prefixes, false, &mut stream).expect("it fits");
    let sent = [0x40, 2, 8, 2, 3, 0xfd, 0xe8, 0x5b, 0xa0, 0xfd, 0xf2];
    assert!(stream.windows(sent.len()).any(|window| window == sent));
    assert_eq!(announced(&stream[HEADER_LENGTH..], context).0, attributes);
    // An AGGREGATOR with a number of its own is younger than both AS4 attributes.
    let aggregator = [0xc0, 7, 6, 0xfd, 0xe9, 10, 0, 0, 7];
    let as4_aggregator = [0xc0, 18, 8, 0xfa, 0x56, 0xea, 0x01, 10, 0, 0, 8];
    let message = body(&[ORIGIN, &path, NEXT_HOP, &aggregator, &as4, &as4_aggregator].concat());
    let outdated = announced(&message, context).0;
    assert_eq!(outdated.as_path.to_string(), "65000 23456 23456");
    assert_eq!(outdated.aggregator.map(|aggregator| aggregator.as_number), Some(65001));
    // Longer than AS_PATH: not to be believed.
    let short = [0x40, 2, 4, 2, 1, 0xfd, 0xe8];
    let message = body(&[ORIGIN, &short, NEXT_HOP, &as4].concat());
    assert_eq!(announced(&message, context).0.as_path.to_string(), "65000");
}

/// Good messages of every kind.
fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    let mut push = |write: &dyn Fn(&mut BytesMut)| {
        let mut stream = BytesMut::new();
        write(&mut stream);
        seeds.push(stream.to_vec());
    };
    let attributes = |next_hop: std::net::IpAddr| Attributes {
        next_hop,
        med: Some(1),
        local_pref: Some(100),
        communities: vec![Community(65_000 << 16 | 1); 3],
        originator_id: Some([10, 0, 0, 9].into()),
        cluster_list: vec![[10, 0, 0, 8].into()],
        extended_communities: vec![0; 16].into(),
        ..Attributes::default()
    };
    let four: Vec<ipnet::IpNet> =
        (0..20).map(|n| format!("10.{n}.0.0/{}", 16 + n % 16).parse().expect("a prefix")).collect();
    let six: Vec<ipnet::IpNet> = (1..20).map(|n| format!("fd00:{n}::/{}", 32 + n).parse().expect("a prefix")).collect();
    push(&|out| Open::new(4_200_000_000, 90, [10, 0, 0, 1].into(), vec![Capability::RouteRefresh]).encode(out));
    push(&|out| {
        let restart = GracefulRestart {
            families: vec![RestartFamily { afi: 1, safi: 1, forwarding: true }],
            ..Default::default()
        };
        Open::new(65000, 90, [10, 0, 0, 1].into(), vec![Capability::GracefulRestart(restart)]).encode(out);
    });
    push(&|out| {
        encode_announcements(&attributes([10, 0, 0, 1].into()), Family::Ipv4, four.clone(), true, out)
            .expect("it fits");
    });
    push(&|out| {
        let hop = "fd00::1".parse::<std::net::IpAddr>().expect("an address");
        encode_announcements(&attributes(hop), Family::Ipv6, six.clone(), true, out).expect("it fits");
    });
    push(&|out| encode_withdrawals(Family::Ipv4, four.clone(), out));
    push(&|out| encode_withdrawals(Family::Ipv6, six.clone(), out));
    push(&|out| Notification::administrative_shutdown().encode(out));
    push(&|out| tortie_bird_lite::wire::RouteRefresh::request(Family::Ipv6).encode(out));
    push(&|out| encode_end_of_rib(Family::Ipv6, out));
    seeds
}

#[test]
fn mutated_messages_never_panic() {
    let rounds = if cfg!(debug_assertions) { 50_000 } else { 1_000_000 };
    let seeds = seeds();
    let mut random = Random(1);
    let (mut good, mut bad) = (0, 0);
    for round in 0..rounds {
        let message = random.mutate(&seeds[round % seeds.len()]);
        let context = Context { four_octets: round % 3 > 0, external: round % 2 == 0 };
        match decode_and_encode(&message, context) {
            Ok(()) => good += 1,
            Err(_) => bad += 1,
        }
    }
    assert!(good > rounds / 20 && bad > rounds / 20, "the mutations are not interesting: {good} good, {bad} bad");
}

// A test reads its corpus; the crate itself reads nothing.
#[allow(clippy::disallowed_methods)]
#[test]
fn what_other_fuzzers_found_does_no_harm() {
    let Some(corpora) = std::env::var_os("TORTIE_CORPORA") else {
        println!("SKIPPED: TORTIE_CORPORA is not set");
        return;
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let archive = std::path::Path::new(&corpora).join("bgp-fuzz/bgp-messages.tar.xz");
    let status = std::process::Command::new("tar").arg("-C").arg(folder.path()).arg("-xf").arg(&archive).status();
    assert!(status.is_ok_and(|status| status.success()), "cannot unpack {}: is xz installed?", archive.display());
    let mut folders = vec![folder.path().to_owned()];
    let mut count = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a readable folder") {
            let path = entry.expect("a readable entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let bytes = std::fs::read(path).expect("a readable file");
            for (four_octets, external) in [(true, true), (true, false), (false, true), (false, false)] {
                let _ = decode_and_encode(&bytes, Context { four_octets, external });
            }
            count += 1;
        }
    }
    assert!(count > 3000, "only {count} messages");
}
