//! Route messages as bytes: RTM_NEWROUTE, RTM_DELROUTE and RTM_GETROUTE as we write them, and what the kernel sends, read in place.
//!
//! Written by hand because routes come by the hundred thousand: nothing is allocated for one that is read or written, but for its
//! list of next hops where it has several. Attributes that say nothing about where a route leads are skipped, so one that only a
//! later kernel knows does no harm.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::{Error, RouteKind, RouteSpec};

/// Length of a message's header.
pub(crate) const HEADER: usize = 16;
/// Length of `struct rtmsg`, which follows it.
const ROUTE: usize = 12;
/// Length of `struct rtnexthop`.
const NEXT_HOP: usize = 8;

pub(crate) const ERROR: u16 = 2;
pub(crate) const DONE: u16 = 3;
pub(crate) const NEW_ROUTE: u16 = 24;
pub(crate) const DELETE_ROUTE: u16 = 25;
pub(crate) const GET_ROUTE: u16 = 26;

/// The main table. Numbers past 255 are in an attribute.
const TABLE_MAIN: u8 = 254;

const INET: u8 = libc::AF_INET as u8;
const INET6: u8 = libc::AF_INET6 as u8;

/// Attributes of a route (`enum rtattr_type_t`).
mod attribute {
    pub(super) const DESTINATION: u16 = 1;
    pub(super) const DEVICE: u16 = 4;
    pub(super) const GATEWAY: u16 = 5;
    pub(super) const METRIC: u16 = 6;
    /// The source address to prefer.
    pub(super) const SOURCE: u16 = 7;
    pub(super) const MULTIPATH: u16 = 9;
    pub(super) const TABLE: u16 = 15;
    /// A gateway of another family than the destination.
    pub(super) const VIA: u16 = 18;
    pub(super) const ENCAPSULATION: u16 = 22;
    pub(super) const NEXT_HOP_ID: u16 = 30;
    /// Bits of an attribute's type that are flags.
    pub(super) const FLAGS: u16 = 0xc000;
}

const SCOPE_UNIVERSE: u8 = 0;
const SCOPE_LINK: u8 = 253;
/// Stands for any scope in a deletion.
const SCOPE_NOWHERE: u8 = 255;

const UNICAST: u8 = 1;
const BLACKHOLE: u8 = 6;
const UNREACHABLE: u8 = 7;

const FLAG_CLONED: u32 = 0x200;
/// Of a next hop: it is on the link although no route says so.
const FLAG_ONLINK: u8 = 4;

/// Appends the message that writes a route.
///
/// # Errors
/// When the route is not one that the kernel can have; then nothing is appended.
pub(crate) fn write(route: &RouteSpec, flags: u16, sequence: u32, out: &mut Vec<u8>) -> Result<(), Error> {
    let (kind, scope, onlink) = match &route.kind {
        RouteKind::Device { .. } if is_ipv4(route) => (UNICAST, SCOPE_LINK, false),
        RouteKind::Via { onlink, .. } => (UNICAST, SCOPE_UNIVERSE, *onlink),
        RouteKind::Device { .. } | RouteKind::Multipath(_) => (UNICAST, SCOPE_UNIVERSE, false),
        RouteKind::Blackhole => (BLACKHOLE, SCOPE_UNIVERSE, false),
        RouteKind::Unreachable => (UNREACHABLE, SCOPE_UNIVERSE, false),
        RouteKind::Other(what) => {
            return Err(Error::Invalid(format!("route {route}: {what} is read here, but never written")));
        }
    };
    let start = begin(NEW_ROUTE, flags, sequence, out);
    let flags = if onlink { FLAG_ONLINK } else { 0 };
    head(route, kind, scope, flags, out);
    match &route.kind {
        RouteKind::Device { index } => device(*index, out),
        RouteKind::Via { gateway: to, index, .. } => {
            if let Some(index) = index {
                device(*index, out);
            }
            gateway(route.destination, *to, out);
        }
        RouteKind::Multipath(hops) => multipath(route.destination, hops, out),
        _ => {}
    }
    if let Some(source) = route.source {
        address(attribute::SOURCE, source, out);
    }
    finish(start, out);
    if let Err(error) = check(route, out.len() - start) {
        out.truncate(start);
        return Err(error);
    }
    Ok(())
}

/// Appends the message that deletes a route, wherever it leads by now: destination, metric and protocol must fit.
///
/// But for one: IPv6 keeps next hops of several programs in one route, and a deletion that names no gateway takes them all. So there
/// the message names the gateways, and takes only those that are of our protocol.
pub(crate) fn delete(route: &RouteSpec, flags: u16, sequence: u32, out: &mut Vec<u8>) {
    let start = begin(DELETE_ROUTE, flags, sequence, out);
    head(route, 0, SCOPE_NOWHERE, 0, out);
    if !is_ipv4(route) {
        match &route.kind {
            RouteKind::Via { gateway: to, index, .. } => {
                if let Some(index) = index {
                    device(*index, out);
                }
                gateway(route.destination, *to, out);
            }
            RouteKind::Multipath(hops) => multipath(route.destination, hops, out),
            _ => {}
        }
    }
    finish(start, out);
}

/// The request for the routes of one family in the main table, of one protocol or of all (0).
pub(crate) fn dump(ipv4: bool, protocol: u8, sequence: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + ROUTE);
    let start = begin(GET_ROUTE, (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16, sequence, &mut out);
    out.extend([if ipv4 { INET } else { INET6 }, 0, 0, 0, TABLE_MAIN, protocol, 0, 0, 0, 0, 0, 0]);
    finish(start, &mut out);
    out
}

/// What the kernel would refuse with a bare EINVAL, or worse, take for something else.
fn check(route: &RouteSpec, length: usize) -> Result<(), Error> {
    const CROSSED: &str = "an IPv6 destination cannot have an IPv4 gateway";
    const NO_DEVICE: &str = "0 is no interface's number";
    const FOREIGN: &str = "its source address is of the other family";
    let bad = |reason: &str| Err(Error::Invalid(format!("route {route}: {reason}")));
    let crossed = |gateway: &IpAddr| !is_ipv4(route) && gateway.is_ipv4();
    match &route.kind {
        _ if route.source.is_some_and(|source| source.is_ipv4() != is_ipv4(route)) => bad(FOREIGN),
        RouteKind::Device { index: 0 } | RouteKind::Via { index: Some(0), .. } => bad(NO_DEVICE),
        RouteKind::Via { gateway, .. } if crossed(gateway) => bad(CROSSED),
        RouteKind::Multipath(hops) if hops.iter().any(|(_, index)| *index == 0) => bad(NO_DEVICE),
        RouteKind::Multipath(hops) if hops.iter().any(|(gateway, _)| crossed(gateway)) => bad(CROSSED),
        RouteKind::Multipath(hops) if hops.is_empty() => bad("it has no next hop"),
        // Lengths of attributes have 16 bits.
        _ if length > usize::from(u16::MAX) => bad("it has too many next hops"),
        _ => Ok(()),
    }
}

const fn is_ipv4(route: &RouteSpec) -> bool {
    matches!(route.destination, IpNet::V4(_))
}

/// Appends a message's header, but for the length.
fn begin(kind: u16, flags: u16, sequence: u32, out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.extend([0; 4]);
    out.extend(kind.to_ne_bytes());
    out.extend((flags | libc::NLM_F_REQUEST as u16).to_ne_bytes());
    out.extend(sequence.to_ne_bytes());
    out.extend([0; 4]);
    start
}

/// Fills the length of the message that begins at `start` in. All we append is a multiple of four bytes long.
fn finish(start: usize, out: &mut [u8]) {
    let length = (out.len() - start) as u32;
    if let Some(place) = out.get_mut(start..start + 4) {
        place.copy_from_slice(&length.to_ne_bytes());
    }
}

/// Appends `struct rtmsg`, the destination and the metric.
fn head(route: &RouteSpec, kind: u8, scope: u8, flags: u8, out: &mut Vec<u8>) {
    let family = if is_ipv4(route) { INET } else { INET6 };
    out.extend([family, route.destination.prefix_len(), 0, 0, TABLE_MAIN, route.protocol, scope, kind, flags, 0, 0, 0]);
    address(attribute::DESTINATION, route.destination.addr(), out);
    if route.metric != 0 {
        number(attribute::METRIC, route.metric, out);
    }
}

fn attribute_header(kind: u16, length: usize, out: &mut Vec<u8>) {
    out.extend((length as u16).to_ne_bytes());
    out.extend(kind.to_ne_bytes());
}

fn number(kind: u16, value: u32, out: &mut Vec<u8>) {
    attribute_header(kind, 8, out);
    out.extend(value.to_ne_bytes());
}

fn device(index: u32, out: &mut Vec<u8>) {
    number(attribute::DEVICE, index, out);
}

fn address(kind: u16, address: IpAddr, out: &mut Vec<u8>) {
    match address {
        IpAddr::V4(address) => {
            attribute_header(kind, 8, out);
            out.extend(address.octets());
        }
        IpAddr::V6(address) => {
            attribute_header(kind, 20, out);
            out.extend(address.octets());
        }
    }
}

fn gateway(destination: IpNet, gateway: IpAddr, out: &mut Vec<u8>) {
    match (destination, gateway) {
        (IpNet::V4(_), IpAddr::V6(gateway)) => {
            // The family before the address makes the length odd: two bytes of padding follow, which it does not count.
            attribute_header(attribute::VIA, 22, out);
            out.extend(u16::from(INET6).to_ne_bytes());
            out.extend(gateway.octets());
            out.extend([0; 2]);
        }
        _ => address(attribute::GATEWAY, gateway, out),
    }
}

/// Appends equal next hops: `struct rtnexthop`, each with its gateway.
fn multipath(destination: IpNet, hops: &[(IpAddr, u32)], out: &mut Vec<u8>) {
    let start = out.len();
    attribute_header(attribute::MULTIPATH, 0, out);
    for (to, index) in hops {
        let hop = out.len();
        // Length, flags, weight less one, device.
        out.extend([0, 0, 0, 0]);
        out.extend(index.to_ne_bytes());
        gateway(destination, *to, out);
        let length = (out.len() - hop) as u16;
        out[hop..hop + 2].copy_from_slice(&length.to_ne_bytes());
    }
    let length = (out.len() - start) as u16;
    out[start..start + 2].copy_from_slice(&length.to_ne_bytes());
}

/// The attributes of a message or of a next hop. Ends at the first that is broken.
fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (head, tail) = rest.split_first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let kind = u16::from_ne_bytes([head[2], head[3]]);
        let value = tail.get(..length.checked_sub(4)?)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & !attribute::FLAGS, value))
    })
}

fn read_number(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

fn read_address(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => value.first_chunk::<4>().map(|bytes| Ipv4Addr::from(*bytes).into()),
        16 => value.first_chunk::<16>().map(|bytes| Ipv6Addr::from(*bytes).into()),
        _ => None,
    }
}

/// What a route or one of its next hops says about where it leads.
#[derive(Default)]
struct Way<'a> {
    gateway: Option<IpAddr>,
    index: Option<u32>,
    encapsulated: bool,
    multipath: Option<&'a [u8]>,
    next_hop_id: Option<u32>,
}

impl<'a> Way<'a> {
    /// Takes an attribute in. Says whether it was one of a way.
    fn take(&mut self, kind: u16, value: &'a [u8]) {
        match kind {
            attribute::DEVICE => self.index = read_number(value),
            attribute::GATEWAY => self.gateway = read_address(value),
            attribute::VIA => self.gateway = value.get(2..).and_then(read_address),
            attribute::ENCAPSULATION => self.encapsulated = true,
            attribute::MULTIPATH => self.multipath = Some(value),
            attribute::NEXT_HOP_ID => self.next_hop_id = read_number(value),
            _ => {}
        }
    }
}

/// Reads the kernel's message (without its header). None if it is not about a route of the main table that holds for all packets
/// to its destination: another table's, the cache's, or one for a type of service or a source only.
pub(crate) fn read(message: &[u8]) -> Option<RouteSpec> {
    let head = message.first_chunk::<ROUTE>()?;
    let &[family, length, source, service, table, protocol, _, kind, a, b, c, d] = head;
    let flags = u32::from_ne_bytes([a, b, c, d]);
    if source != 0 || service != 0 || flags & FLAG_CLONED != 0 {
        return None;
    }
    let mut destination = match family {
        INET => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        INET6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let (mut table, mut metric, mut preferred, mut way) = (u32::from(table), 0, None, Way::default());
    for (kind, value) in attributes(message.get(ROUTE..)?) {
        match kind {
            attribute::TABLE => table = read_number(value)?,
            attribute::DESTINATION => destination = read_address(value)?,
            attribute::METRIC => metric = read_number(value)?,
            attribute::SOURCE => preferred = read_address(value),
            _ => way.take(kind, value),
        }
    }
    if table != u32::from(TABLE_MAIN) {
        return None;
    }
    let destination = IpNet::new(destination, length).ok()?.trunc();
    let kind = match kind {
        UNICAST => unicast(&way, flags as u8 & FLAG_ONLINK != 0),
        BLACKHOLE => RouteKind::Blackhole,
        UNREACHABLE => RouteKind::Unreachable,
        2 => RouteKind::Other("local".into()),
        3 => RouteKind::Other("broadcast".into()),
        4 => RouteKind::Other("anycast".into()),
        5 => RouteKind::Other("multicast".into()),
        8 => RouteKind::Other("prohibit".into()),
        9 => RouteKind::Other("throw".into()),
        10 => RouteKind::Other("nat".into()),
        other => RouteKind::Other(format!("type {other}")),
    };
    Some(RouteSpec { destination, kind, protocol, metric, source: preferred })
}

fn unicast(way: &Way<'_>, onlink: bool) -> RouteKind {
    if way.encapsulated {
        return RouteKind::Other("a light-weight tunnel".into());
    }
    if let Some(hops) = way.multipath {
        return several(hops).unwrap_or_else(|| RouteKind::Other("uneven next hops".into()));
    }
    match (way.gateway, way.index, way.next_hop_id) {
        (Some(gateway), index, _) => RouteKind::Via { gateway, index, onlink },
        (None, Some(index), _) => RouteKind::Device { index },
        // With net.ipv4.nexthop_compat_mode=0 its number is all that the kernel tells.
        (None, None, Some(id)) => RouteKind::Other(format!("next hop object {id}")),
        (None, None, None) => RouteKind::Other("no next hop".into()),
    }
}

/// Several next hops; none if they are not of the kind that we write: equal weights, a gateway each, nothing else.
fn several(mut rest: &[u8]) -> Option<RouteKind> {
    let mut hops = Vec::new();
    while !rest.is_empty() {
        let head = rest.first_chunk::<NEXT_HOP>()?;
        let &[a, b, flags, weight, index @ ..] = head;
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let mut way = Way { index: Some(u32::from_ne_bytes(index)), ..Way::default() };
        for (kind, value) in attributes(rest.get(NEXT_HOP..length)?) {
            way.take(kind, value);
        }
        if weight != 0 || flags & FLAG_ONLINK != 0 || way.encapsulated {
            return None;
        }
        hops.push((way.gateway?, way.index?));
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(RouteKind::multipath(hops))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Vec<RouteSpec> {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let four: IpNet = "10.1.0.0/26".parse().expect("a prefix");
        let six: IpNet = "fd01::/122".parse().expect("a prefix");
        let via = |gateway: &str, onlink| RouteKind::Via { gateway: ip(gateway), index: Some(7), onlink };
        let several = |hops: &[&str]| RouteKind::multipath(hops.iter().map(|hop| (ip(hop), 7)).collect());
        let kinds = [
            (four, RouteKind::Device { index: 7 }),
            (four, via("172.16.0.1", false)),
            (four, via("172.16.0.1", true)),
            (four, via("fd00::1", false)),
            (four, several(&["172.16.0.1", "fd00::1", "172.16.0.2"])),
            (four, RouteKind::Blackhole),
            (six, RouteKind::Device { index: 7 }),
            (six, via("fe80::1", false)),
            (six, several(&["fd00::1", "fd00::2"])),
            (six, RouteKind::Unreachable),
        ];
        let plain =
            kinds.into_iter().map(|(destination, kind)| RouteSpec::new(destination, kind, 80).with_metric(1024));
        let sources = [(four, ip("172.16.0.9")), (six, ip("fd00::9"))];
        let preferring = sources.map(|(destination, source)| {
            RouteSpec::new(destination, RouteKind::Device { index: 7 }, 80).with_source(Some(source))
        });
        plain.chain(preferring).collect()
    }

    fn message(route: &RouteSpec) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(route, 0, 1, &mut bytes).expect("it can be written");
        bytes.split_off(HEADER)
    }

    #[test]
    fn what_is_written_reads_the_same() {
        for route in samples() {
            assert_eq!(read(&message(&route)), Some(route));
        }
    }

    #[test]
    fn broken_messages_are_read_as_far_as_they_go() {
        let mut seed = 1_u32;
        for route in samples() {
            let whole = message(&route);
            for length in 0..whole.len() {
                drop(read(&whole[..length]));
            }
            for _ in 0..20_000 {
                let mut bytes = whole.clone();
                for _ in 0..3 {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let place = seed as usize % bytes.len();
                    bytes[place] = (seed >> 16) as u8;
                }
                drop(read(&bytes));
            }
        }
    }

    #[test]
    fn what_the_kernel_cannot_have_is_refused_and_leaves_no_bytes() {
        let six: IpNet = "fd01::/122".parse().expect("a prefix");
        let gateway = IpAddr::from([172, 16, 0, 1]);
        let hops: Vec<_> = (0..4000_u32).map(|number| (Ipv6Addr::from(u128::from(number)).into(), 7)).collect();
        for kind in [
            RouteKind::Device { index: 0 },
            RouteKind::Via { gateway, index: Some(7), onlink: false },
            RouteKind::Multipath(vec![(gateway, 7)]),
            RouteKind::Multipath(vec![(Ipv6Addr::LOCALHOST.into(), 0)]),
            RouteKind::Multipath(Vec::new()),
            RouteKind::Multipath(hops),
            RouteKind::Other("odd".into()),
        ] {
            let mut bytes = vec![1, 2, 3];
            let error = write(&RouteSpec::new(six, kind, 80), 0, 1, &mut bytes).expect_err("refused");
            assert!(error.to_string().contains("fd01::/122"), "{error}");
            assert_eq!(bytes, [1, 2, 3]);
        }
        let crossed = RouteSpec::new(six, RouteKind::Device { index: 7 }, 80).with_source(Some(gateway));
        assert!(write(&crossed, 0, 1, &mut Vec::new()).is_err(), "IPv6 by an IPv4 source");
    }
}
