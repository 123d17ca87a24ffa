//! Network layer reachability information: prefixes, each a length in bits and as many bytes as it needs (RFC 4271, 4.3; RFC 4760, 5).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::{BufMut, BytesMut};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::Family;

/// Prefixes of one family in a received message, known to be well-formed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nlri<'a> {
    family: Family,
    bytes: &'a [u8],
}

impl<'a> Nlri<'a> {
    /// No prefixes.
    pub(crate) fn empty(family: Family) -> Self {
        Self { family, bytes: &[] }
    }

    /// Judges `bytes`: `None` where a prefix is longer than its family's addresses, or runs past the end.
    pub fn parse(family: Family, bytes: &'a [u8]) -> Option<Self> {
        let largest = match family {
            Family::Ipv4 => 32,
            Family::Ipv6 => 128,
        };
        let mut rest = bytes;
        while let Some((&bits, tail)) = rest.split_first() {
            if bits > largest {
                return None;
            }
            rest = tail.get(usize::from(bits).div_ceil(8)..)?;
        }
        Some(Self { family, bytes })
    }

    /// The prefixes' family.
    pub fn family(self) -> Family {
        self.family
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.bytes.is_empty()
    }

    /// The prefixes in order, bits past their length cleared. Those that can never be routes to anybody (multicast, and other parts of
    /// IPv4's class D and E, IPv6 link-local) are left out, as RFC 4271, 6.3 asks for a semantically incorrect prefix.
    pub fn prefixes(self) -> impl Iterator<Item = IpNet> + 'a {
        let mut rest = self.bytes;
        core::iter::from_fn(move || {
            loop {
                let (&bits, tail) = rest.split_first()?;
                let (network, tail) = tail.split_at_checked(usize::from(bits).div_ceil(8))?;
                rest = tail;
                let prefix = self.prefix(bits, network)?;
                if is_routable(&prefix) {
                    return Some(prefix);
                }
            }
        })
    }

    fn prefix(self, bits: u8, network: &[u8]) -> Option<IpNet> {
        Some(match self.family {
            Family::Ipv4 => {
                let mut octets = [0; 4];
                octets.get_mut(..network.len())?.copy_from_slice(network);
                let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
                IpNet::V4(Ipv4Net::new(Ipv4Addr::from(u32::from_be_bytes(octets) & mask), bits).ok()?)
            }
            Family::Ipv6 => {
                let mut octets = [0; 16];
                octets.get_mut(..network.len())?.copy_from_slice(network);
                let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
                IpNet::V6(Ipv6Net::new(Ipv6Addr::from(u128::from_be_bytes(octets) & mask), bits).ok()?)
            }
        })
    }
}

fn is_routable(prefix: &IpNet) -> bool {
    match prefix {
        IpNet::V4(prefix) => prefix.prefix_len() == 0 || prefix.addr().octets()[0] < 224,
        IpNet::V6(prefix) => {
            let first = prefix.addr().segments()[0];
            first < 0xff00 && (first & 0xffc0 != 0xfe80 || prefix.prefix_len() < 10)
        }
    }
}

/// How many bytes `prefix` takes.
pub(crate) fn encoded_length(prefix: &IpNet) -> usize {
    1 + usize::from(prefix.prefix_len()).div_ceil(8)
}

/// Appends `prefix`.
pub(crate) fn encode(prefix: &IpNet, out: &mut BytesMut) {
    let count = encoded_length(prefix) - 1;
    out.put_u8(prefix.prefix_len());
    match prefix.network() {
        IpAddr::V4(network) => out.put_slice(&network.octets()[..count]),
        IpAddr::V6(network) => out.put_slice(&network.octets()[..count]),
    }
}
