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

    /// The prefixes in order, bits past their length cleared. Those that can never be routes to another node (`MARTIANS`: loopback,
    /// link-local, multicast and the like) are left out, as RFC 4271, 6.3 asks for a semantically incorrect prefix.
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

/// IPv4 that no route of another node leads to: the unspecified address and "this network", loopback, link-local (RFC 3927; the gateway
/// of every pod is there), multicast and class E. Each is a network and its length.
const MARTIANS_V4: [(u32, u32); 4] = [(0, 8), (127 << 24, 8), (0xa9fe << 16, 16), (0b111 << 29, 3)];

/// The same of IPv6: unspecified, loopback and IPv4-compatible addresses, IPv4-mapped ones (RFC 4291, 2.5), link-local, multicast.
const MARTIANS_V6: [(u128, u32); 4] = [(0, 96), (0xffff << 32, 96), (0xfe80 << 112, 10), (0xff << 120, 8)];

/// Whether a prefix may lead to another node. It may not when it lies within martian space; one that merely covers some, a default route
/// first of all, may.
fn is_routable(prefix: &IpNet) -> bool {
    let bits = u32::from(prefix.prefix_len());
    match prefix {
        IpNet::V4(prefix) => {
            let address = prefix.addr().to_bits();
            !MARTIANS_V4.iter().any(|&(network, length)| bits >= length && (address ^ network) >> (32 - length) == 0)
        }
        IpNet::V6(prefix) => {
            let address = prefix.addr().to_bits();
            !MARTIANS_V6.iter().any(|&(network, length)| bits >= length && (address ^ network) >> (128 - length) == 0)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(text: &str) -> bool {
        let prefix: IpNet = text.parse().expect("a prefix");
        let mut bytes = BytesMut::new();
        encode(&prefix, &mut bytes);
        let nlri = Nlri::parse(Family::of(&prefix), &bytes).expect("well-formed");
        let read: Vec<_> = nlri.prefixes().collect();
        assert!(read.is_empty() || read == [prefix], "{text}: {read:?}");
        !read.is_empty()
    }

    #[test]
    fn what_lies_within_martian_space_is_left_out() {
        for text in [
            "0.0.0.0/8",
            "0.0.0.0/32",
            "0.1.0.0/16",
            "127.0.0.0/8",
            "127.1.2.0/24",
            "169.254.0.0/16",
            "169.254.1.1/32",
            "224.0.0.0/4",
            "224.0.0.0/3",
            "239.1.1.1/32",
            "240.0.0.0/4",
            "255.255.255.255/32",
            "::/128",
            "::1/128",
            "::/96",
            "::10.0.0.0/104",
            "::ffff:0:0/96",
            "::ffff:10.0.0.0/104",
            "fe80::/10",
            "fe80::/64",
            "fe80::1/128",
            "ff00::/8",
            "ff02::1/128",
        ] {
            assert!(!accepted(text), "{text}");
        }
    }

    #[test]
    fn what_covers_it_or_lies_beside_it_is_kept() {
        for text in [
            "0.0.0.0/0",
            "0.0.0.0/1",
            "128.0.0.0/1",
            "1.0.0.0/8",
            "126.0.0.0/8",
            "128.0.0.0/16",
            "169.253.0.0/16",
            "169.252.0.0/14",
            "192.0.0.0/2",
            "223.255.255.0/24",
            "10.244.0.0/26",
            "::/0",
            "::/1",
            "::/3",
            "64:ff9b::/96",
            "fd00:10:244::/122",
            "2001:db8::/32",
            "f000::/4",
        ] {
            assert!(accepted(text), "{text}");
        }
    }
}
