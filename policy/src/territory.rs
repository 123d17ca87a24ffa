//! Whose an address is, where several rules' blocks of addresses overlap: the first rule's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tortie_api::k8s::IpBlock;
use tortie_nft::{Family, Key, intervals};

/// Addresses of one family, each with the rank of the rule that it is the first rule's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Territory {
    family: Family,
    /// By first address: the last one, and the rank. They do not overlap.
    ranges: BTreeMap<u128, (u128, u32)>,
}

impl Territory {
    /// One that nobody has any of.
    pub(crate) fn new(family: Family) -> Self {
        Self { family, ranges: BTreeMap::new() }
    }

    /// Gives what of the blocks nobody has to the rule of this rank. Rules are to come in the order of their ranks.
    pub(crate) fn claim(&mut self, blocks: &BTreeSet<IpBlock>, rank: u32) {
        let blocks: Vec<_> = blocks.iter().map(|block| (block.cidr, block.except.clone())).collect();
        let elements = match self.family {
            Family::V4 => intervals::union_v4(&blocks),
            Family::V6 => intervals::union_v6(&blocks),
        };
        for (first, last) in elements.iter().filter_map(|key| intervals::bounds(key.first()?)) {
            self.claim_range(number(first), number(last), rank);
        }
    }

    fn claim_range(&mut self, mut first: u128, last: u128, rank: u32) {
        let before = self.ranges.range(..first).next_back().map(|(_, &(end, _))| end);
        let taken: Vec<(u128, u128)> = self.ranges.range(first..=last).map(|(&low, &(high, _))| (low, high)).collect();
        if let Some(end) = before.filter(|end| *end >= first) {
            if end >= last {
                return;
            }
            first = end + 1;
        }
        for (low, high) in taken {
            if low > first {
                self.ranges.insert(first, (low - 1, rank));
            }
            if high >= last {
                return;
            }
            first = high + 1;
        }
        self.ranges.insert(first, (last, rank));
    }

    /// The rank of the rule that an address is the first rule's.
    pub(crate) fn owner(&self, address: IpAddr) -> Option<u32> {
        if address.is_ipv4() != (self.family == Family::V4) {
            return None;
        }
        let address = number(address);
        let (_, &(last, rank)) = self.ranges.range(..=address).next_back()?;
        (address <= last).then_some(rank)
    }

    /// What of it is in `other` as elements of an interval map, neighbours of one rule joined.
    pub(crate) fn within(&self, other: &Self) -> Vec<(Key, u32)> {
        let mut common = BTreeMap::new();
        for (&first, &(last, _)) in &other.ranges {
            let before = self.ranges.range(..first).next_back();
            for (&low, &(high, rank)) in before.into_iter().chain(self.ranges.range(first..=last)) {
                if high >= first {
                    common.insert(low.max(first), (high.min(last), rank));
                }
            }
        }
        let mut joined: Vec<(u128, u128, u32)> = Vec::with_capacity(common.len());
        for (first, (last, rank)) in common {
            match joined.last_mut() {
                Some((_, end, owner)) if *owner == rank && end.checked_add(1) == Some(first) => *end = last,
                _ => joined.push((first, last, rank)),
            }
        }
        let address = |number: u128| match self.family {
            Family::V4 => IpAddr::V4(Ipv4Addr::from(number as u32)),
            Family::V6 => IpAddr::V6(Ipv6Addr::from(number)),
        };
        let element = |(first, last, rank): (u128, u128, u32)| {
            Some((vec![intervals::value(address(first), address(last))?], rank))
        };
        joined.into_iter().filter_map(element).collect()
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(nets: &[&str]) -> BTreeSet<IpBlock> {
        nets.iter().map(|net| IpBlock { cidr: net.parse().expect("a network"), except: Vec::new() }).collect()
    }

    #[test]
    fn the_first_to_claim_an_address_has_it() {
        let mut territory = Territory::new(Family::V4);
        territory.claim(&blocks(&["10.0.1.0/24", "2001:db8::/32"]), 0);
        territory.claim(&blocks(&["10.0.0.0/16"]), 1);
        territory.claim(&blocks(&["10.0.1.7/32", "10.1.0.0/16"]), 2);
        territory.claim(&blocks(&["0.0.0.0/0"]), 3);
        for (address, owner) in [
            ("10.0.1.7", Some(0)),
            ("10.0.0.255", Some(1)),
            ("10.0.2.0", Some(1)),
            ("10.1.255.255", Some(2)),
            ("10.2.0.0", Some(3)),
            ("255.255.255.255", Some(3)),
            ("2001:db8::1", None),
        ] {
            assert_eq!(territory.owner(address.parse().expect("an address")), owner, "{address}");
        }
        let elements = territory.within(&territory);
        assert_eq!(elements.len(), 6, "before, and after, 10.0/15, which is in four parts: {elements:?}");
        assert!(elements.windows(2).all(|pair| pair[0].1 != pair[1].1), "neighbours of one rule are one: {elements:?}");
    }

    #[test]
    fn all_of_a_family_fits() {
        let mut territory = Territory::new(Family::V6);
        territory.claim(&blocks(&["fd00::/8"]), 0);
        territory.claim(&blocks(&["::/0"]), 1);
        assert_eq!(territory.within(&territory).len(), 3);
        assert_eq!(territory.owner("ffff::".parse().expect("an address")), Some(1));
        assert_eq!(territory.owner("10.0.0.1".parse().expect("an address")), None);
        let mut whole = Territory::new(Family::V6);
        whole.claim(&blocks(&["::/0"]), 0);
        whole.claim(&blocks(&["fd00::/8"]), 1);
        assert_eq!(whole.within(&whole).len(), 1);
        assert_eq!(whole.within(&territory).len(), 1);
        let mut part = Territory::new(Family::V6);
        part.claim(&blocks(&["fd00:1::/32", "fe00::/8"]), 0);
        assert_eq!(territory.within(&part).iter().map(|(_, rank)| *rank).collect::<Vec<_>>(), [0, 1]);
    }
}
