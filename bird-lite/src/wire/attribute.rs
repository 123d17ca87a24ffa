//! Path attributes: what is known of a route besides its prefix, and how each attribute is judged and written.
//!
//! The table of codes and flags is [`Kind::of`]. RFC 7606 and the RFC of each attribute say what a malformed one costs; [`Verdict`] names
//! the three prices.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::{AS_TRANS, AsPath, Community, LargeCommunity, Reader};

/// Attribute type codes.
pub mod code {
    /// ORIGIN.
    pub const ORIGIN: u8 = 1;
    /// AS_PATH.
    pub const AS_PATH: u8 = 2;
    /// NEXT_HOP.
    pub const NEXT_HOP: u8 = 3;
    /// MULTI_EXIT_DISC.
    pub const MED: u8 = 4;
    /// LOCAL_PREF.
    pub const LOCAL_PREF: u8 = 5;
    /// ATOMIC_AGGREGATE.
    pub const ATOMIC_AGGREGATE: u8 = 6;
    /// AGGREGATOR.
    pub const AGGREGATOR: u8 = 7;
    /// COMMUNITIES (RFC 1997).
    pub const COMMUNITIES: u8 = 8;
    /// ORIGINATOR_ID (RFC 4456).
    pub const ORIGINATOR_ID: u8 = 9;
    /// CLUSTER_LIST (RFC 4456).
    pub const CLUSTER_LIST: u8 = 10;
    /// MP_REACH_NLRI (RFC 4760).
    pub const MP_REACH_NLRI: u8 = 14;
    /// MP_UNREACH_NLRI (RFC 4760).
    pub const MP_UNREACH_NLRI: u8 = 15;
    /// EXTENDED COMMUNITIES (RFC 4360).
    pub const EXTENDED_COMMUNITIES: u8 = 16;
    /// AS4_PATH (RFC 6793).
    pub const AS4_PATH: u8 = 17;
    /// AS4_AGGREGATOR (RFC 6793).
    pub const AS4_AGGREGATOR: u8 = 18;
    /// LARGE_COMMUNITY (RFC 8092).
    pub const LARGE_COMMUNITIES: u8 = 32;
}

/// Flag: not well-known.
pub(crate) const OPTIONAL: u8 = 0x80;
/// Flag: passed on by those who do not know it.
pub(crate) const TRANSITIVE: u8 = 0x40;
/// Flag: somebody on the way did not know it.
pub(crate) const PARTIAL: u8 = 0x20;
/// Flag: the length has two bytes.
pub(crate) const EXTENDED: u8 = 0x10;

/// What a malformed attribute costs (RFC 7606, 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Verdict {
    /// The attribute is left out.
    Discard,
    /// The message's prefixes are treated as withdrawn.
    Withdraw,
}

/// A malformed attribute that did not cost the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blemish {
    /// The attribute's code.
    pub code: u8,
    /// What it cost.
    pub verdict: Verdict,
}

/// Where a route comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Origin {
    /// From inside the originating AS.
    Igp = 0,
    /// From the protocol EGP.
    Egp = 1,
    /// By other means.
    Incomplete = 2,
}

/// Who made an aggregate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Aggregator {
    /// Its AS number.
    pub as_number: u32,
    /// Its BGP identifier.
    pub router_id: Ipv4Addr,
}

/// An optional transitive attribute that we do not know, and pass on with the Partial flag.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct UnknownAttribute {
    /// Its code.
    pub code: u8,
    /// Its value.
    pub value: Bytes,
}

/// The attributes of a route. Many routes share one set, so equal sets are kept once.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Attributes {
    /// ORIGIN.
    pub origin: Origin,
    /// AS_PATH, rebuilt from AS4_PATH where the neighbour speaks 16 bits.
    pub as_path: AsPath,
    /// The next hop, of NEXT_HOP or MP_REACH_NLRI. Unspecified (0.0.0.0) for a route of our own.
    pub next_hop: IpAddr,
    /// The link-local next hop that may come with a global IPv6 one (RFC 2545).
    pub link_local: Option<Ipv6Addr>,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// LOCAL_PREF.
    pub local_pref: Option<u32>,
    /// ATOMIC_AGGREGATE.
    pub atomic_aggregate: bool,
    /// AGGREGATOR.
    pub aggregator: Option<Aggregator>,
    /// COMMUNITIES, as they came.
    pub communities: Vec<Community>,
    /// ORIGINATOR_ID.
    pub originator_id: Option<Ipv4Addr>,
    /// CLUSTER_LIST.
    pub cluster_list: Vec<Ipv4Addr>,
    /// EXTENDED COMMUNITIES, eight bytes each, not looked into.
    pub extended_communities: Bytes,
    /// LARGE_COMMUNITY, as they came.
    pub large_communities: Vec<LargeCommunity>,
    /// Those that we pass on without knowing them, in order of code.
    pub unknown: Vec<UnknownAttribute>,
}

impl Default for Attributes {
    /// Those of a route of our own.
    fn default() -> Self {
        Self {
            origin: Origin::Igp,
            as_path: AsPath::default(),
            next_hop: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            link_local: None,
            med: None,
            local_pref: None,
            atomic_aggregate: false,
            aggregator: None,
            communities: Vec::new(),
            originator_id: None,
            cluster_list: Vec::new(),
            extended_communities: Bytes::new(),
            large_communities: Vec::new(),
            unknown: Vec::new(),
        }
    }
}

/// What our table of attributes says of a code.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind {
    /// The Optional and Transitive flags that it must have.
    pub(crate) flags: u8,
    /// What a malformed value costs.
    pub(crate) malformed: Verdict,
}

impl Kind {
    /// `None`: a code that we do not know. MP_REACH_NLRI and MP_UNREACH_NLRI are judged by their own rules, in [`super::update`].
    pub(crate) fn of(code: u8) -> Option<Self> {
        let (flags, malformed) = match code {
            code::ORIGIN | code::AS_PATH | code::NEXT_HOP | code::LOCAL_PREF => (TRANSITIVE, Verdict::Withdraw),
            code::ATOMIC_AGGREGATE => (TRANSITIVE, Verdict::Discard),
            code::MED | code::ORIGINATOR_ID | code::CLUSTER_LIST => (OPTIONAL, Verdict::Withdraw),
            code::AGGREGATOR | code::AS4_PATH | code::AS4_AGGREGATOR => (OPTIONAL | TRANSITIVE, Verdict::Discard),
            code::COMMUNITIES | code::EXTENDED_COMMUNITIES | code::LARGE_COMMUNITIES => {
                (OPTIONAL | TRANSITIVE, Verdict::Withdraw)
            }
            _ => return None,
        };
        Some(Self { flags, malformed })
    }
}

/// The attributes of a message while they are read.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    pub(crate) origin: Option<Origin>,
    pub(crate) as_path: Option<AsPath>,
    pub(crate) next_hop: Option<Ipv4Addr>,
    rest: Attributes,
    as4_path: Option<AsPath>,
    as4_aggregator: Option<Aggregator>,
}

fn words(value: &[u8]) -> Option<impl Iterator<Item = u32>> {
    let (words, rest) = value.as_chunks::<4>();
    (rest.is_empty() && !words.is_empty()).then(|| words.iter().map(|word| u32::from_be_bytes(*word)))
}

impl Draft {
    /// Reads the value of a known attribute; `None` where it is malformed.
    pub(crate) fn read(&mut self, code: u8, value: &[u8], four_octets: bool, external: bool) -> Option<()> {
        let word = || value.try_into().ok().map(u32::from_be_bytes);
        match code {
            code::ORIGIN => {
                self.origin = Some(match value {
                    [0] => Origin::Igp,
                    [1] => Origin::Egp,
                    [2] => Origin::Incomplete,
                    _ => return None,
                });
            }
            code::AS_PATH => self.as_path = Some(AsPath::decode(value, four_octets)?),
            code::NEXT_HOP => self.next_hop = Some(Ipv4Addr::from(word()?)),
            code::MED => self.rest.med = Some(word()?),
            // From another AS these three have no meaning, however they look (RFC 7606, 7.5, 7.9, 7.10).
            code::LOCAL_PREF | code::ORIGINATOR_ID | code::CLUSTER_LIST if external => {}
            code::LOCAL_PREF => self.rest.local_pref = Some(word()?),
            code::ATOMIC_AGGREGATE => {
                self.rest.atomic_aggregate = value.is_empty();
                return value.is_empty().then_some(());
            }
            code::AGGREGATOR => self.rest.aggregator = Some(aggregator(value, four_octets)?),
            code::COMMUNITIES => self.rest.communities = words(value)?.map(Community).collect(),
            code::ORIGINATOR_ID => self.rest.originator_id = Some(Ipv4Addr::from(word()?)),
            code::CLUSTER_LIST => self.rest.cluster_list = words(value)?.map(Ipv4Addr::from).collect(),
            code::EXTENDED_COMMUNITIES => {
                if value.is_empty() || !value.len().is_multiple_of(8) {
                    return None;
                }
                self.rest.extended_communities = Bytes::copy_from_slice(value);
            }
            code::LARGE_COMMUNITIES => {
                if !value.len().is_multiple_of(12) {
                    return None;
                }
                let mut words = words(value)?;
                while let (Some(global), Some(local1), Some(local2)) = (words.next(), words.next(), words.next()) {
                    self.rest.large_communities.push(LargeCommunity { global, local1, local2 });
                }
            }
            // A 32-bit neighbour has no business sending these (RFC 6793, 6).
            code::AS4_PATH | code::AS4_AGGREGATOR if four_octets => return None,
            code::AS4_PATH => self.as4_path = Some(AsPath::decode(value, true)?),
            code::AS4_AGGREGATOR => self.as4_aggregator = Some(aggregator(value, true)?),
            _ => return None,
        }
        Some(())
    }

    /// Keeps an optional transitive attribute that we do not know.
    pub(crate) fn keep(&mut self, code: u8, value: &[u8]) {
        let attribute = UnknownAttribute { code, value: Bytes::copy_from_slice(value) };
        let at = self.rest.unknown.partition_point(|other| other.code < code);
        self.rest.unknown.insert(at, attribute);
    }

    /// The finished set, without a next hop. `None` where ORIGIN or AS_PATH is missing.
    pub(crate) fn finish(self) -> Option<Attributes> {
        let mut attributes = Attributes { origin: self.origin?, as_path: self.as_path?, ..self.rest };
        // An AGGREGATOR with a number of its own was written by a 16-bit speaker after the AS4 attributes: these are out of date
        // (RFC 6793, 4.2.3).
        let outdated = self.as4_aggregator.is_some()
            && attributes.aggregator.is_some_and(|aggregator| aggregator.as_number != u32::from(AS_TRANS));
        if !outdated {
            if attributes.aggregator.is_some() && self.as4_aggregator.is_some() {
                attributes.aggregator = self.as4_aggregator;
            }
            if let Some(as4) = self.as4_path {
                attributes.as_path = attributes.as_path.merged(as4);
            }
        }
        Some(attributes)
    }
}

fn aggregator(value: &[u8], four_octets: bool) -> Option<Aggregator> {
    let mut reader = Reader::new(value);
    let as_number = if four_octets { reader.u32()? } else { u32::from(reader.u16()?) };
    let router_id = reader.ipv4()?;
    reader.is_empty().then_some(Aggregator { as_number, router_id })
}

/// Appends one attribute with its header; the length gets two bytes where it needs them.
fn put(out: &mut BytesMut, flags: u8, code: u8, write: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_slice(&[flags | EXTENDED, code, 0, 0]);
    write(out);
    let length = out.len() - start - 4;
    if let Ok(length) = u8::try_from(length) {
        out.copy_within(start + 4.., start + 3);
        out.truncate(out.len() - 1);
        out[start] = flags;
        out[start + 2] = length;
    } else {
        super::header::patch_u16(out, start + 2, length);
    }
}

impl Attributes {
    /// Appends all of them but MP_REACH_NLRI, in order of code. NEXT_HOP goes with IPv4 prefixes only.
    pub(crate) fn encode(&self, four_octets: bool, with_next_hop: bool, out: &mut BytesMut) {
        put(out, TRANSITIVE, code::ORIGIN, |out| out.put_u8(self.origin as u8));
        put(out, TRANSITIVE, code::AS_PATH, |out| self.as_path.encode(four_octets, out));
        if let (true, IpAddr::V4(next_hop)) = (with_next_hop, self.next_hop) {
            put(out, TRANSITIVE, code::NEXT_HOP, |out| out.put_slice(&next_hop.octets()));
        }
        if let Some(med) = self.med {
            put(out, OPTIONAL, code::MED, |out| out.put_u32(med));
        }
        if let Some(preference) = self.local_pref {
            put(out, TRANSITIVE, code::LOCAL_PREF, |out| out.put_u32(preference));
        }
        if self.atomic_aggregate {
            put(out, TRANSITIVE, code::ATOMIC_AGGREGATE, |_| {});
        }
        let optional = OPTIONAL | TRANSITIVE;
        if let Some(aggregator) = self.aggregator {
            put(out, optional, code::AGGREGATOR, |out| {
                if four_octets {
                    out.put_u32(aggregator.as_number);
                } else {
                    out.put_u16(u16::try_from(aggregator.as_number).unwrap_or(AS_TRANS));
                }
                out.put_slice(&aggregator.router_id.octets());
            });
        }
        if !self.communities.is_empty() {
            put(out, optional, code::COMMUNITIES, |out| self.communities.iter().for_each(|item| out.put_u32(item.0)));
        }
        if let Some(id) = self.originator_id {
            put(out, OPTIONAL, code::ORIGINATOR_ID, |out| out.put_slice(&id.octets()));
        }
        if !self.cluster_list.is_empty() {
            put(out, OPTIONAL, code::CLUSTER_LIST, |out| {
                self.cluster_list.iter().for_each(|id| out.put_slice(&id.octets()));
            });
        }
        if !self.extended_communities.is_empty() {
            put(out, optional, code::EXTENDED_COMMUNITIES, |out| out.put_slice(&self.extended_communities));
        }
        if !four_octets {
            self.encode_as4(out);
        }
        if !self.large_communities.is_empty() {
            put(out, optional, code::LARGE_COMMUNITIES, |out| {
                for item in &self.large_communities {
                    out.put_u32(item.global);
                    out.put_u32(item.local1);
                    out.put_u32(item.local2);
                }
            });
        }
        for attribute in &self.unknown {
            put(out, optional | PARTIAL, attribute.code, |out| out.put_slice(&attribute.value));
        }
    }

    /// For a 16-bit neighbour: what its attributes cannot say (RFC 6793, 4.2.2).
    fn encode_as4(&self, out: &mut BytesMut) {
        if self.as_path.needs_four_octets() {
            put(out, OPTIONAL | TRANSITIVE, code::AS4_PATH, |out| self.as_path.encode(true, out));
        }
        if let Some(aggregator) = self.aggregator.filter(|aggregator| aggregator.as_number > u32::from(u16::MAX)) {
            put(out, OPTIONAL | TRANSITIVE, code::AS4_AGGREGATOR, |out| {
                out.put_u32(aggregator.as_number);
                out.put_slice(&aggregator.router_id.octets());
            });
        }
    }

    /// Whether the route came with this community.
    pub fn has(&self, community: Community) -> bool {
        self.communities.contains(&community)
    }
}
