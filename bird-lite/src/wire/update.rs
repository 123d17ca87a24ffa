//! UPDATE (RFC 4271, 4.3; RFC 4760): routes that come and go.
//!
//! Decoding follows RFC 7606. Where all prefixes of a message could be read, a malformed attribute costs these prefixes at most
//! (treat-as-withdraw), or only itself (attribute discard). Where they could not, or the message does not hold together, the session
//! has to end. Messages that we write have MP_REACH_NLRI or MP_UNREACH_NLRI first, IPv4 in the classic fields, and one family each.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::{BufMut, BytesMut};
use ipnet::IpNet;

use super::attribute::{Blemish, Draft, EXTENDED, Kind, OPTIONAL, TRANSITIVE, Verdict, code};
use super::header::{self, HEADER_LENGTH, MAX_MESSAGE, MessageType};
use super::notification::{Fault, UPDATE_ERROR};
use super::{Attributes, Family, Nlri, Reader, nlri};

/// What the meaning of an UPDATE depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    /// AS numbers have 32 bits in this session (RFC 6793).
    pub four_octets: bool,
    /// The sender is in another AS.
    pub external: bool,
}

/// The prefixes and the next hop of MP_REACH_NLRI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach<'a> {
    /// The prefixes.
    pub nlri: Nlri<'a>,
    /// The global next hop.
    pub next_hop: IpAddr,
    /// The link-local one, if it came along.
    pub link_local: Option<Ipv6Addr>,
}

/// A decoded UPDATE. Its prefixes stay in the message.
#[derive(Debug, Clone, PartialEq)]
pub struct Update<'a> {
    /// IPv4 prefixes withdrawn in the classic field.
    pub withdrawn: Nlri<'a>,
    /// Prefixes withdrawn in MP_UNREACH_NLRI, of a family that we route.
    pub unreach: Option<Nlri<'a>>,
    /// IPv4 prefixes announced in the classic field.
    pub announced: Nlri<'a>,
    /// What MP_REACH_NLRI announces, of a family that we route.
    pub reach: Option<Reach<'a>>,
    /// The attributes of what is announced, without a next hop. `None`: nothing is announced, or all of it is to be treated as withdrawn.
    pub attributes: Option<Attributes>,
    /// NEXT_HOP, that of the classic field's prefixes.
    pub next_hop: Option<Ipv4Addr>,
    /// Malformed attributes that did not cost the session.
    pub blemishes: Vec<Blemish>,
    /// The family that this message is the End-of-RIB of (RFC 4724, 2).
    pub end_of_rib: Option<Family>,
}

fn malformed_list(reason: &'static str) -> Fault {
    Fault::new(UPDATE_ERROR, 1, Vec::new(), reason)
}

/// An attribute as it stands in the message.
struct Raw<'a> {
    flags: u8,
    code: u8,
    value: &'a [u8],
    /// With its header: the data of a NOTIFICATION about it.
    whole: &'a [u8],
}

impl<'a> Raw<'a> {
    /// The next attribute; `None` where it runs past the end.
    fn next(reader: &mut Reader<'a>) -> Option<Self> {
        let all = reader.rest();
        let (flags, code) = (reader.u8()?, reader.u8()?);
        let length = if flags & EXTENDED == 0 { usize::from(reader.u8()?) } else { usize::from(reader.u16()?) };
        let value = reader.take(length)?;
        Some(Self { flags, code, value, whole: &all[..all.len() - reader.len()] })
    }

    fn optional_attribute_error(&self, reason: &'static str) -> Fault {
        Fault::new(UPDATE_ERROR, 9, self.whole.to_vec(), reason)
    }
}

impl<'a> Update<'a> {
    /// Reads the body of an UPDATE.
    ///
    /// # Errors
    /// An UPDATE Message Error (RFC 4271, 6.3, as RFC 7606 leaves it): lengths that contradict each other, prefixes that cannot be read,
    /// MP_REACH_NLRI or MP_UNREACH_NLRI twice or malformed, an unknown well-known attribute.
    pub fn decode(body: &'a [u8], context: Context) -> Result<Self, Fault> {
        let mut reader = Reader::new(body);
        let mut field = || reader.u16().and_then(|length| reader.take(usize::from(length)));
        let withdrawn = field().ok_or_else(|| malformed_list("the withdrawn routes run past the message's end"))?;
        let list = field().ok_or_else(|| malformed_list("the attributes run past the message's end"))?;
        let network =
            || Fault::new(UPDATE_ERROR, 10, Vec::new(), "a prefix is too long or runs past the message's end");
        let mut update = Self {
            withdrawn: Nlri::parse(Family::Ipv4, withdrawn).ok_or_else(network)?,
            unreach: None,
            announced: Nlri::parse(Family::Ipv4, reader.rest()).ok_or_else(network)?,
            reach: None,
            attributes: None,
            next_hop: None,
            blemishes: Vec::new(),
            end_of_rib: None,
        };
        update.read_attributes(list, context)?;
        if update.withdrawn.is_empty() && update.announced.is_empty() {
            if list.is_empty() {
                update.end_of_rib = Some(Family::Ipv4);
            } else if let Some(unreach) = update.unreach.filter(|nlri| nlri.is_empty()) {
                let alone = Raw::next(&mut Reader::new(list)).is_some_and(|first| first.whole.len() == list.len());
                update.end_of_rib = alone.then(|| unreach.family());
            }
        }
        Ok(update)
    }

    fn read_attributes(&mut self, list: &'a [u8], context: Context) -> Result<(), Fault> {
        let mut reader = Reader::new(list);
        let mut draft = Draft::default();
        let mut seen = [0u64; 4];
        while !reader.is_empty() {
            let Some(raw) = Raw::next(&mut reader) else {
                // Its code is unknown as far as anybody can trust it; the prefixes themselves were read (RFC 7606, 4).
                self.blemishes.push(Blemish { code: 0, verdict: Verdict::Withdraw });
                break;
            };
            let (word, bit) = (usize::from(raw.code / 64), 1u64 << (raw.code % 64));
            let again = seen[word] & bit != 0;
            seen[word] |= bit;
            match raw.code {
                code::MP_REACH_NLRI | code::MP_UNREACH_NLRI => {
                    if again {
                        return Err(malformed_list("MP_REACH_NLRI or MP_UNREACH_NLRI occurs twice"));
                    }
                    self.read_multiprotocol(&raw)?;
                }
                // Only the first counts (RFC 7606, 3 g).
                _ if again => self.blemishes.push(Blemish { code: raw.code, verdict: Verdict::Discard }),
                _ => self.read_attribute(&raw, &mut draft, context)?,
            }
        }
        self.finish(draft);
        Ok(())
    }

    fn read_attribute(&mut self, raw: &Raw<'_>, draft: &mut Draft, context: Context) -> Result<(), Fault> {
        let Some(kind) = Kind::of(raw.code) else {
            return match raw.flags & (OPTIONAL | TRANSITIVE) {
                0 | TRANSITIVE => {
                    let data = raw.whole.to_vec();
                    Err(Fault::new(UPDATE_ERROR, 2, data, "an attribute that is not marked optional is unknown"))
                }
                OPTIONAL => Ok(()),
                _ => {
                    draft.keep(raw.code, raw.value);
                    Ok(())
                }
            };
        };
        if raw.flags & (OPTIONAL | TRANSITIVE) != kind.flags {
            self.blemishes.push(Blemish { code: raw.code, verdict: Verdict::Withdraw });
        } else if draft.read(raw.code, raw.value, context.four_octets, context.external).is_none() {
            self.blemishes.push(Blemish { code: raw.code, verdict: kind.malformed });
        }
        Ok(())
    }

    fn read_multiprotocol(&mut self, raw: &Raw<'a>) -> Result<(), Fault> {
        let short = || raw.optional_attribute_error("MP_REACH_NLRI or MP_UNREACH_NLRI is cut short");
        let network = || raw.optional_attribute_error("a prefix in MP_REACH_NLRI or MP_UNREACH_NLRI cannot be read");
        if raw.flags & (OPTIONAL | TRANSITIVE) != OPTIONAL {
            self.blemishes.push(Blemish { code: raw.code, verdict: Verdict::Withdraw });
        }
        let mut reader = Reader::new(raw.value);
        let (afi, safi) = reader.u16().zip(reader.u8()).ok_or_else(short)?;
        // Not negotiated, so not ours to judge.
        let Some(family) = Family::from_numbers(afi, safi) else { return Ok(()) };
        if raw.code == code::MP_UNREACH_NLRI {
            self.unreach = Some(Nlri::parse(family, reader.rest()).ok_or_else(network)?);
            return Ok(());
        }
        let length = reader.u8().ok_or_else(short)?;
        let mut hop = Reader::new(reader.take(usize::from(length)).ok_or_else(short)?);
        let (next_hop, link_local) = match (family, length) {
            (Family::Ipv4, 4) => (hop.ipv4().map(IpAddr::V4), None),
            (Family::Ipv6, 16) => (hop.ipv6().map(IpAddr::V6), None),
            (Family::Ipv6, 32) => (hop.ipv6().map(IpAddr::V6), hop.ipv6()),
            _ => return Err(raw.optional_attribute_error("the next hop's length does not suit its family")),
        };
        let next_hop = next_hop.ok_or_else(short)?;
        // One reserved byte.
        reader.u8().ok_or_else(short)?;
        let nlri = Nlri::parse(family, reader.rest()).ok_or_else(network)?;
        let link_local = link_local.filter(Ipv6Addr::is_unicast_link_local);
        self.reach = Some(Reach { nlri, next_hop, link_local });
        Ok(())
    }

    /// Judges what is there and what is missing, once all has been read.
    fn finish(&mut self, draft: Draft) {
        let announces = !self.announced.is_empty() || self.reach.is_some_and(|reach| !reach.nlri.is_empty());
        if !announces {
            return;
        }
        self.next_hop = draft.next_hop;
        if draft.origin.is_none() {
            self.miss(code::ORIGIN);
        }
        if draft.as_path.is_none() {
            self.miss(code::AS_PATH);
        }
        if !self.announced.is_empty() && !self.next_hop.is_some_and(|hop| is_host(IpAddr::V4(hop))) {
            self.miss(code::NEXT_HOP);
        }
        if self.reach.is_some_and(|reach| !is_host(reach.next_hop)) {
            self.miss(code::MP_REACH_NLRI);
        }
        if !self.blemishes.iter().any(|blemish| blemish.verdict == Verdict::Withdraw) {
            self.attributes = draft.finish();
        }
        // A path with a set does not say whom a route has passed, so nobody can check its origin (RFC 9774, 4).
        if self.attributes.as_ref().is_some_and(|attributes| attributes.as_path.has_set()) {
            self.attributes = None;
            self.miss(code::AS_PATH);
        }
    }

    fn miss(&mut self, code: u8) {
        let blemish = Blemish { code, verdict: Verdict::Withdraw };
        if !self.blemishes.contains(&blemish) {
            self.blemishes.push(blemish);
        }
    }

    /// All prefixes that the message takes away, whatever way it says so, those that it announces badly included.
    pub fn lost(&self) -> impl Iterator<Item = IpNet> + 'a {
        let bad = self.attributes.is_none();
        let announced = if bad { self.announced } else { Nlri::empty(Family::Ipv4) };
        let reach = self.reach.filter(|_| bad).map(|reach| reach.nlri);
        [Some(self.withdrawn), self.unreach, Some(announced), reach].into_iter().flatten().flat_map(Nlri::prefixes)
    }
}

/// Whether packets can be sent to it, and leave the node then. Link-local addresses are next hops on tunnels and unnumbered links.
fn is_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !matches!(address.octets()[0], 0 | 127 | 224..),
        IpAddr::V6(address) => {
            !address.is_unspecified()
                && !address.is_loopback()
                && !address.is_multicast()
                && address.to_ipv4_mapped().is_none()
        }
    }
}

/// Attributes that leave no room for a prefix in a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the attributes leave no room for a prefix in a message")]
pub struct TooLong;

/// Bytes of an UPDATE without prefixes and attributes.
const FIXED: usize = HEADER_LENGTH + 4;

/// Appends as many UPDATEs as it takes to announce `prefixes`, all of `family`, with `attributes`.
///
/// # Errors
/// [`TooLong`]: nothing was appended.
pub fn encode_announcements(
    attributes: &Attributes,
    family: Family,
    prefixes: impl IntoIterator<Item = IpNet>,
    four_octets: bool,
    out: &mut BytesMut,
) -> Result<(), TooLong> {
    encode_announcements_within(MAX_MESSAGE, attributes, family, prefixes, four_octets, out)
}

/// The same in messages of up to `limit` bytes.
///
/// # Errors
/// As [`encode_announcements`].
pub fn encode_announcements_within(
    limit: usize,
    attributes: &Attributes,
    family: Family,
    prefixes: impl IntoIterator<Item = IpNet>,
    four_octets: bool,
    out: &mut BytesMut,
) -> Result<(), TooLong> {
    let mut list = BytesMut::with_capacity(256);
    attributes.encode(four_octets, family == Family::Ipv4, &mut list);
    let reach = reach_head(attributes, family);
    let head = FIXED + list.len() + reach.len();
    let mut prefixes = prefixes.into_iter().peekable();
    let largest = if family == Family::Ipv4 { 5 } else { 17 };
    if head + largest > limit {
        return Err(TooLong);
    }
    while prefixes.peek().is_some() {
        let start = header::begin(out, MessageType::Update);
        out.put_u16(0);
        let length_at = out.len();
        out.put_u16(0);
        if family == Family::Ipv4 {
            out.put_slice(&list);
            header::patch_u16(out, length_at, list.len());
            fill(out, start, limit, &mut prefixes);
        } else {
            let reach_at = out.len();
            out.put_slice(&reach);
            fill(out, start, limit - list.len(), &mut prefixes);
            let reach_length = out.len() - reach_at;
            header::patch_u16(out, reach_at + 2, reach_length - 4);
            out.put_slice(&list);
            header::patch_u16(out, length_at, reach_length + list.len());
        }
        header::finish(out, start);
    }
    Ok(())
}

/// MP_REACH_NLRI up to its prefixes; empty for IPv4, which needs none.
fn reach_head(attributes: &Attributes, family: Family) -> BytesMut {
    let mut head = BytesMut::new();
    if let (Family::Ipv6, IpAddr::V6(next_hop)) = (family, attributes.next_hop) {
        head.put_slice(&[OPTIONAL | EXTENDED, code::MP_REACH_NLRI, 0, 0, 0, 2, 1]);
        head.put_u8(if attributes.link_local.is_some() { 32 } else { 16 });
        head.put_slice(&next_hop.octets());
        if let Some(link_local) = attributes.link_local {
            head.put_slice(&link_local.octets());
        }
        head.put_u8(0);
    }
    head
}

/// Appends prefixes while the message that starts at `start` stays within `limit` bytes.
fn fill(
    out: &mut BytesMut,
    start: usize,
    limit: usize,
    prefixes: &mut core::iter::Peekable<impl Iterator<Item = IpNet>>,
) {
    while let Some(prefix) = prefixes.next_if(|prefix| out.len() - start + nlri::encoded_length(prefix) <= limit) {
        nlri::encode(&prefix, out);
    }
}

/// Appends as many UPDATEs as it takes to withdraw `prefixes`, all of `family`.
pub fn encode_withdrawals(family: Family, prefixes: impl IntoIterator<Item = IpNet>, out: &mut BytesMut) {
    encode_withdrawals_within(MAX_MESSAGE, family, prefixes, out);
}

/// The same in messages of up to `limit` bytes.
pub fn encode_withdrawals_within(
    limit: usize,
    family: Family,
    prefixes: impl IntoIterator<Item = IpNet>,
    out: &mut BytesMut,
) {
    let mut prefixes = prefixes.into_iter().peekable();
    while prefixes.peek().is_some() {
        encode_unreach(limit, family, &mut prefixes, out);
    }
}

/// Appends the End-of-RIB marker of `family` (RFC 4724, 2).
pub fn encode_end_of_rib(family: Family, out: &mut BytesMut) {
    encode_unreach(MAX_MESSAGE, family, &mut core::iter::empty().peekable(), out);
}

fn encode_unreach(
    limit: usize,
    family: Family,
    prefixes: &mut core::iter::Peekable<impl Iterator<Item = IpNet>>,
    out: &mut BytesMut,
) {
    let start = header::begin(out, MessageType::Update);
    let length_at = out.len();
    out.put_u16(0);
    if family == Family::Ipv4 {
        fill(out, start, limit - 2, prefixes);
        header::patch_u16(out, length_at, out.len() - length_at - 2);
        out.put_u16(0);
    } else {
        out.put_u16(0);
        let list_at = out.len();
        out.put_slice(&[OPTIONAL | EXTENDED, code::MP_UNREACH_NLRI, 0, 0, 0, 2, 1]);
        fill(out, start, limit, prefixes);
        header::patch_u16(out, list_at + 2, out.len() - list_at - 4);
        header::patch_u16(out, list_at - 2, out.len() - list_at);
    }
    header::finish(out, start);
}

/// The name of an attribute, for people; its code where it has none here.
pub fn attribute_name(code: u8) -> &'static str {
    match code {
        code::ORIGIN => "ORIGIN",
        code::AS_PATH => "AS_PATH",
        code::NEXT_HOP => "NEXT_HOP",
        code::MED => "MULTI_EXIT_DISC",
        code::LOCAL_PREF => "LOCAL_PREF",
        code::ATOMIC_AGGREGATE => "ATOMIC_AGGREGATE",
        code::AGGREGATOR => "AGGREGATOR",
        code::COMMUNITIES => "COMMUNITIES",
        code::ORIGINATOR_ID => "ORIGINATOR_ID",
        code::CLUSTER_LIST => "CLUSTER_LIST",
        code::MP_REACH_NLRI => "MP_REACH_NLRI",
        code::MP_UNREACH_NLRI => "MP_UNREACH_NLRI",
        code::EXTENDED_COMMUNITIES => "EXTENDED_COMMUNITIES",
        code::AS4_PATH => "AS4_PATH",
        code::AS4_AGGREGATOR => "AS4_AGGREGATOR",
        code::LARGE_COMMUNITIES => "LARGE_COMMUNITY",
        _ => "an attribute",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_hops_are_other_hosts() {
        for (text, good) in [
            ("10.0.0.1", true),
            ("169.254.7.1", true),
            ("0.0.0.0", false),
            ("0.0.0.1", false),
            ("127.0.0.1", false),
            ("224.0.0.5", false),
            ("fd00::1", true),
            ("fe80::1", true),
            ("::", false),
            ("::1", false),
            ("::ffff:10.0.0.1", false),
            ("ff02::1", false),
        ] {
            assert_eq!(is_host(text.parse().expect("an address")), good, "{text}");
        }
    }
}
