//! Generated messages, for the codec's tests.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::{Bytes, BytesMut};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use tortie_bird_lite::wire::header::{self, HEADER_LENGTH, MessageType};
use tortie_bird_lite::wire::update::{self, Context};
use tortie_bird_lite::wire::{
    Aggregator, AsPath, Attributes, Community, Family, Fault, LargeCommunity, Notification, Open, Origin, RouteRefresh,
    Segment, UnknownAttribute, Update,
};

pub(crate) fn as_path() -> impl Strategy<Value = AsPath> {
    let number = || prop_oneof![1u32..65535, 65536u32..=u32::MAX];
    // Sets are refused.
    vec(vec(number(), 1..6).prop_map(Segment::Sequence), 0..3).prop_map(AsPath::new)
}

/// IPv4 addresses of other nodes, on both sides of loopback and link-local ones.
fn unicast() -> impl Strategy<Value = u32> {
    prop_oneof![0x0100_0000u32..0x7f00_0000, 0xaa00_0000u32..0xe000_0000]
}

pub(crate) fn attributes(family: Family) -> impl Strategy<Value = Attributes> {
    let next_hop = match family {
        Family::Ipv4 => unicast().prop_map(|word| (IpAddr::V4(Ipv4Addr::from(word)), None)).boxed(),
        Family::Ipv6 => (any::<u64>(), option::of(any::<u64>()))
            .prop_map(|(low, local)| {
                let global = Ipv6Addr::from(0x2001_0db8 << 96 | u128::from(low));
                (IpAddr::V6(global), local.map(|low| Ipv6Addr::from(0xfe80 << 112 | u128::from(low))))
            })
            .boxed(),
    };
    let id = || any::<u32>().prop_map(Ipv4Addr::from);
    let origin = prop_oneof![Just(Origin::Igp), Just(Origin::Egp), Just(Origin::Incomplete)];
    let aggregator = (1u32.., id()).prop_map(|(as_number, router_id)| Aggregator { as_number, router_id });
    let large = any::<[u32; 3]>().prop_map(|[global, local1, local2]| LargeCommunity { global, local1, local2 });
    let unknown = (200u8..=250, vec(any::<u8>(), 0..300))
        .prop_map(|(code, value)| vec![UnknownAttribute { code, value: Bytes::from(value) }]);
    let first = (origin, as_path(), next_hop, option::of(any::<u32>()), option::of(any::<u32>()), any::<bool>());
    let second = (
        option::of(aggregator),
        vec(any::<u32>().prop_map(Community), 0..80),
        option::of(id()),
        vec(id(), 0..3),
        vec(large, 0..30),
        prop_oneof![Just(Vec::new()), unknown],
    );
    (first, second).prop_map(|(first, second)| {
        let (origin, as_path, (next_hop, link_local), med, local_pref, atomic_aggregate) = first;
        let (aggregator, communities, originator_id, cluster_list, large_communities, unknown) = second;
        Attributes {
            origin,
            as_path,
            next_hop,
            link_local,
            med,
            local_pref,
            atomic_aggregate,
            aggregator,
            communities,
            originator_id,
            cluster_list,
            extended_communities: Bytes::new(),
            large_communities,
            unknown,
        }
    })
}

pub(crate) fn prefixes(family: Family, most: usize) -> impl Strategy<Value = Vec<IpNet>> {
    let prefix = match family {
        Family::Ipv4 => (unicast(), 0u8..=32)
            .prop_map(|(word, bits)| IpNet::V4(Ipv4Net::new(word.into(), bits).expect("it is short enough").trunc()))
            .boxed(),
        Family::Ipv6 => (any::<u128>(), 8u8..=128)
            .prop_map(|(word, bits)| {
                let word = 0x2 << 124 | word >> 4;
                IpNet::V6(Ipv6Net::new(word.into(), bits).expect("it is short enough").trunc())
            })
            .boxed(),
    };
    btree_set(prefix, 1..most).prop_map(|set| set.into_iter().collect())
}

/// Cuts a stream of messages that we wrote into types and bodies.
pub(crate) fn messages(mut stream: &[u8]) -> Vec<(MessageType, Vec<u8>)> {
    let mut found = Vec::new();
    while let Some((kind, length)) = header::peek(stream).expect("a good header") {
        let (message, rest) = stream.split_at(length);
        found.push((kind, message[HEADER_LENGTH..].to_vec()));
        stream = rest;
    }
    assert!(stream.is_empty(), "the stream ends with a whole message");
    found
}

/// What a message announces: attributes with their next hop, and prefixes.
pub(crate) fn announced(body: &[u8], context: Context) -> (Attributes, Vec<IpNet>) {
    let update = Update::decode(body, context).expect("a good UPDATE");
    assert_eq!(update.blemishes, []);
    let attributes = update.attributes.expect("good attributes");
    if let Some(reach) = update.reach {
        let attributes = Attributes { next_hop: reach.next_hop, link_local: reach.link_local, ..attributes };
        return (attributes, reach.nlri.prefixes().collect());
    }
    let next_hop = IpAddr::V4(update.next_hop.expect("a next hop"));
    (Attributes { next_hop, ..attributes }, update.announced.prefixes().collect())
}

/// Decodes any message and writes it again, as the fuzzers do. The answer is whether it was good.
pub(crate) fn decode_and_encode(message: &[u8], context: Context) -> Result<(), Fault> {
    let Some((kind, length)) = header::peek(message)? else { return Ok(()) };
    let Some(body) = message.get(HEADER_LENGTH..length) else { return Ok(()) };
    let mut out = BytesMut::new();
    match kind {
        MessageType::Open => {
            let open = Open::decode(body)?;
            open.encode(&mut out);
        }
        MessageType::Update => {
            let update = Update::decode(body, context)?;
            let families = [Some(update.announced), update.reach.map(|reach| reach.nlri)];
            if let Some(attributes) = &update.attributes {
                for nlri in families.into_iter().flatten() {
                    let _ = update::encode_announcements(
                        attributes,
                        nlri.family(),
                        nlri.prefixes(),
                        context.four_octets,
                        &mut out,
                    );
                }
            }
            for family in Family::ALL {
                let lost = update.lost().filter(|prefix| Family::of(prefix) == family);
                update::encode_withdrawals(family, lost, &mut out);
            }
        }
        MessageType::Notification => {
            if let Some(notification) = Notification::decode(body) {
                notification.encode(&mut out);
                let _ = notification.to_string();
            }
        }
        MessageType::Keepalive => header::encode_keepalive(&mut out),
        MessageType::RouteRefresh => RouteRefresh::decode(body)?.encode(&mut out),
    }
    messages(&out);
    Ok(())
}

/// splitmix64: the same mutations in every run.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)) as usize % limit.max(1)
    }

    /// Edits a message in one to six places; nine times of ten its length is made right again.
    pub(crate) fn mutate(&mut self, seed: &[u8]) -> Vec<u8> {
        let mut message = seed.to_vec();
        for _ in 0..=self.below(6) {
            let at = self.below(message.len());
            match self.below(5) {
                0 => message[at] = self.below(256) as u8,
                1 => message[at] ^= 1 << self.below(8),
                2 if message.len() < 4096 => message.insert(at, self.below(256) as u8),
                3 if message.len() > 1 => drop(message.remove(at)),
                _ => {
                    let (from, count) = (self.below(message.len()), self.below(16));
                    let piece: Vec<u8> = message.iter().skip(from).take(count).copied().collect();
                    message.splice(at..at, piece);
                }
            }
        }
        if message.len() >= 19 && self.below(10) > 0 {
            message[..16].fill(0xff);
            let length = message.len().min(4096) as u16;
            message[16..18].copy_from_slice(&length.to_be_bytes());
        }
        message
    }
}
