//! Interval sets without overlaps: `cidr - except` for each block, then the union of all blocks, coalesced.
//!
//! An interval set of the kernel wants its elements disjoint, and a policy's blocks overlap as their authors please. So blocks are
//! taken apart as ranges of integers and put together again: neighbours are merged, and each result is written in its one canonical
//! form (an address, else a prefix, else a range), so that equal blocks make equal sets.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::model::{Key, Value};

/// First and last address of a range, as integers of their family.
type Range = (u128, u128);

/// The union of `blocks`, each less its exceptions, as elements of a one-dimensional interval set.
///
/// Blocks of both families may be given; an interval set holds one, so callers ask for [`union_v4`] or [`union_v6`] of a mixed list.
/// An exception of the other family, or outside its block, takes nothing away.
#[must_use]
pub fn union(blocks: &[(IpNet, Vec<IpNet>)]) -> BTreeSet<Key> {
    let mut elements = union_v4(blocks);
    elements.extend(union_v6(blocks));
    elements
}

/// [`union`] of the IPv4 blocks alone.
#[must_use]
pub fn union_v4(blocks: &[(IpNet, Vec<IpNet>)]) -> BTreeSet<Key> {
    elements(blocks, true)
}

/// [`union`] of the IPv6 blocks alone.
#[must_use]
pub fn union_v6(blocks: &[(IpNet, Vec<IpNet>)]) -> BTreeSet<Key> {
    elements(blocks, false)
}

/// The value for all addresses from `first` to `last` in canonical form: an address, else a prefix, else a range.
///
/// `None` if the two are of different families or in the wrong order.
#[must_use]
pub fn value(first: IpAddr, last: IpAddr) -> Option<Value> {
    let (low, high) = (number(first), number(last));
    if first.is_ipv4() != last.is_ipv4() || low > high {
        return None;
    }
    Some(canonical((low, high), first.is_ipv4()))
}

/// First and last address that a value of an interval set covers; `None` for a value that is no address.
#[must_use]
pub fn bounds(value: &Value) -> Option<(IpAddr, IpAddr)> {
    match value {
        Value::Addr(addr) => Some((*addr, *addr)),
        Value::Net(net) => Some((net.network(), net.broadcast())),
        Value::AddrRange(first, last) => Some((*first, *last)),
        _ => None,
    }
}

fn elements(blocks: &[(IpNet, Vec<IpNet>)], v4: bool) -> BTreeSet<Key> {
    let mut ranges = Vec::new();
    for (block, excepts) in blocks.iter().filter(|(block, _)| is_v4(block) == v4) {
        let excepts = excepts.iter().filter(|except| is_v4(except) == v4).map(range).collect();
        subtract(range(block), excepts, &mut ranges);
    }
    coalesce(ranges).into_iter().map(|range| vec![canonical(range, v4)]).collect()
}

/// What is left of `block` without `excepts`, appended to `left`.
fn subtract(block: Range, mut excepts: Vec<Range>, left: &mut Vec<Range>) {
    excepts.sort_unstable();
    let (mut next, last) = block;
    for (low, high) in excepts {
        if high < next {
            continue;
        }
        if low > last {
            break;
        }
        if low > next {
            left.push((next, low - 1));
        }
        if high >= last {
            return;
        }
        next = high + 1;
    }
    left.push((next, last));
}

/// Sorted, with everything that overlaps or touches merged.
fn coalesce(mut ranges: Vec<Range>) -> Vec<Range> {
    ranges.sort_unstable();
    let mut merged: Vec<Range> = Vec::with_capacity(ranges.len());
    for (low, high) in ranges {
        match merged.last_mut() {
            Some((_, end)) if low <= end.saturating_add(1) => *end = high.max(*end),
            _ => merged.push((low, high)),
        }
    }
    merged
}

fn canonical((low, high): Range, v4: bool) -> Value {
    let bits = if v4 { 32 } else { 128 };
    if low == high {
        return Value::Addr(address(low, v4));
    }
    // A prefix is a range whose size is a power of two and divides its start. The size of ::/0 does not fit, hence the span.
    let span = high - low;
    let host_bits = 128 - span.leading_zeros();
    if span.count_ones() == host_bits && low & span == 0 {
        let length = (bits - host_bits) as u8;
        let net = match address(low, v4) {
            IpAddr::V4(addr) => Ipv4Net::new(addr, length).map(IpNet::V4),
            IpAddr::V6(addr) => Ipv6Net::new(addr, length).map(IpNet::V6),
        };
        if let Ok(net) = net {
            return Value::Net(net);
        }
    }
    Value::AddrRange(address(low, v4), address(high, v4))
}

fn is_v4(net: &IpNet) -> bool {
    matches!(net, IpNet::V4(_))
}

fn range(net: &IpNet) -> Range {
    (number(net.network()), number(net.broadcast()))
}

fn number(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(addr) => u32::from(addr).into(),
        IpAddr::V6(addr) => addr.into(),
    }
}

fn address(number: u128, v4: bool) -> IpAddr {
    if v4 { Ipv4Addr::from(number as u32).into() } else { Ipv6Addr::from(number).into() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().expect("a prefix")
    }

    fn union_of(blocks: &[(&str, &[&str])]) -> Vec<Value> {
        let blocks: Vec<_> =
            blocks.iter().map(|(block, excepts)| (net(block), excepts.iter().map(|e| net(e)).collect())).collect();
        union(&blocks).into_iter().flatten().collect()
    }

    fn addr(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_block_less_its_exceptions() {
        assert_eq!(union_of(&[("192.0.2.0/24", &["192.0.2.128/25"])]), [Value::Net(net("192.0.2.0/25"))], "half of it");
        assert_eq!(
            union_of(&[("10.0.0.0/30", &["10.0.0.1/32"])]),
            [Value::Addr(addr("10.0.0.0")), Value::Net(net("10.0.0.2/31"))]
        );
        assert_eq!(union_of(&[("10.0.0.0/24", &["10.0.0.0/8"])]), []);
        assert_eq!(union_of(&[("10.0.0.0/24", &["fd00::/8", "11.0.0.0/8"])]), [Value::Net(net("10.0.0.0/24"))]);
    }

    #[test]
    fn an_exception_of_one_block_is_no_exception_of_another() {
        assert_eq!(
            union_of(&[("10.0.0.0/24", &["10.0.0.64/26"]), ("10.0.0.80/28", &[])]),
            [Value::Net(net("10.0.0.0/26")), Value::Net(net("10.0.0.80/28")), Value::Net(net("10.0.0.128/25")),]
        );
    }

    #[test]
    fn neighbours_become_one() {
        assert_eq!(union_of(&[("10.0.0.0/25", &[]), ("10.0.0.128/25", &[])]), [Value::Net(net("10.0.0.0/24"))]);
        assert_eq!(
            union_of(&[("10.0.0.0/32", &[]), ("10.0.0.1/32", &[]), ("10.0.0.2/32", &[])]),
            [Value::AddrRange(addr("10.0.0.0"), addr("10.0.0.2"))]
        );
    }

    #[test]
    fn the_ends_of_the_address_space() {
        assert_eq!(union_of(&[("0.0.0.0/0", &[])]), [Value::Net(net("0.0.0.0/0"))]);
        assert_eq!(union_of(&[("::/0", &[])]), [Value::Net(net("::/0"))]);
        assert_eq!(union_of(&[("::/1", &[]), ("8000::/1", &[])]), [Value::Net(net("::/0"))]);
        assert_eq!(
            union_of(&[("0.0.0.0/0", &["0.0.0.0/32"])]),
            [Value::AddrRange(addr("0.0.0.1"), addr("255.255.255.255"))]
        );
        assert_eq!(union_of(&[("255.255.255.255/32", &[])]), [Value::Addr(addr("255.255.255.255"))]);
        assert_eq!(
            union_of(&[("::/0", &["ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128"])]),
            [Value::AddrRange(addr("::"), addr("ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe"))]
        );
    }

    fn covers(elements: &BTreeSet<Key>, addr: IpAddr) -> usize {
        elements
            .iter()
            .filter_map(|key| bounds(&key[0]))
            .filter(|(first, last)| *first <= addr && addr <= *last)
            .count()
    }

    proptest! {
        #[test]
        fn membership_is_that_of_the_blocks(
            blocks in proptest::collection::vec((any::<u8>(), 22u8..=32, proptest::collection::vec((any::<u8>(), 24u8..=32), 0..3)), 0..5),
        ) {
            // All within 10.0.0.0/22, so that every address can be asked.
            let make = |host: u8, length| {
                IpNet::new(Ipv4Addr::new(10, 0, host & 3, host).into(), length).expect("a length within 32").trunc()
            };
            let blocks: Vec<_> = blocks
                .into_iter()
                .map(|(host, length, excepts)| (make(host, length), excepts.into_iter().map(|(h, l)| make(h, l)).collect::<Vec<_>>()))
                .collect();
            let elements = union(&blocks);
            for number in 0..1024u32 {
                let addr = IpAddr::from(Ipv4Addr::from(0x0a00_0000 + number));
                let wanted = blocks.iter().any(|(block, excepts)| block.contains(&addr) && !excepts.iter().any(|e| e.contains(&addr)));
                prop_assert_eq!(covers(&elements, addr), usize::from(wanted), "{}", addr);
            }
            // No two elements touch, or they would have been one.
            let mut ranges: Vec<_> = elements.iter().filter_map(|key| bounds(&key[0])).collect();
            ranges.sort_unstable();
            for pair in ranges.windows(2) {
                prop_assert!(number(pair[0].1) + 1 < number(pair[1].0));
            }
        }
    }
}
