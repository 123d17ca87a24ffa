//! Keys as bytes: how the fields of a key lie in the kernel's registers.
//!
//! A field takes as many 4-byte registers as it needs, the rest of its last register is zero. Addresses and ports are in network
//! byte order, marks in the machine's own, interface names are padded with zeros to 16 bytes.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::{Family, Field, Key, KeyType, Value};

/// The longest key that the kernel takes, in bytes.
pub const KEY_MAX: usize = 64;

/// The length of an interface name in the kernel, with its final zero.
pub const IFNAMSIZ: usize = 16;

/// A key in register layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes {
    data: [u8; KEY_MAX],
    len: u8,
}

impl Bytes {
    /// An empty key, to be filled by [`push`](Self::push).
    pub const EMPTY: Self = Self { data: [0; KEY_MAX], len: 0 };

    /// The bytes, padding of fields included.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.data[..usize::from(self.len)]
    }

    /// Appends a field and pads it. Returns false, and appends nothing, if it does not fit.
    #[must_use]
    pub fn push(&mut self, field: &[u8]) -> bool {
        let start = usize::from(self.len);
        let end = start + field.len().next_multiple_of(4);
        if end > KEY_MAX {
            return false;
        }
        self.data[start..start + field.len()].copy_from_slice(field);
        self.len = end as u8;
        true
    }
}

impl KeyType {
    /// Size of the field in bytes, without padding.
    #[must_use]
    pub const fn size(self) -> usize {
        match self {
            Self::IfName | Self::Ipv6Addr => 16,
            Self::Ipv4Addr | Self::Mark => 4,
            Self::NfProto | Self::InetProto => 1,
            Self::InetService => 2,
        }
    }

    /// Its name in nft's language.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::IfName => "ifname",
            Self::Ipv4Addr => "ipv4_addr",
            Self::Ipv6Addr => "ipv6_addr",
            Self::NfProto => "nf_proto",
            Self::InetProto => "inet_proto",
            Self::InetService => "inet_service",
            Self::Mark => "mark",
        }
    }
}

impl Family {
    /// Its number, as the kernel and the socket API have it (`AF_INET`, `AF_INET6`).
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::V4 => 2,
            Self::V6 => 10,
        }
    }

    /// The family of a number.
    #[must_use]
    pub const fn of_number(number: u8) -> Option<Self> {
        match number {
            2 => Some(Self::V4),
            10 => Some(Self::V6),
            _ => None,
        }
    }
}

impl Field {
    /// The type of key that it can be looked up in.
    #[must_use]
    pub const fn key_type(self) -> KeyType {
        match self {
            Self::IifName | Self::OifName => KeyType::IfName,
            Self::Ip4Saddr | Self::Ip4Daddr => KeyType::Ipv4Addr,
            Self::Ip6Saddr | Self::Ip6Daddr => KeyType::Ipv6Addr,
            Self::NfProto => KeyType::NfProto,
            Self::L4Proto => KeyType::InetProto,
            Self::ThSport | Self::ThDport => KeyType::InetService,
            Self::CtMarkMasked(_) => KeyType::Mark,
        }
    }
}

/// An interface name as the kernel compares it; `None` if it is too long or has a zero byte.
#[must_use]
pub fn ifname(name: &str) -> Option<[u8; IFNAMSIZ]> {
    let mut bytes = [0; IFNAMSIZ];
    if name.len() >= IFNAMSIZ || name.as_bytes().contains(&0) {
        return None;
    }
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    Some(bytes)
}

/// First and last key that `key` covers, both included; the same for a key without ranges.
///
/// # Errors
/// What does not fit, in words, if a value is not of its field's type, or a range where `interval` is false.
pub fn encode(types: &[KeyType], interval: bool, key: &Key) -> Result<(Bytes, Bytes), String> {
    if types.len() != key.len() {
        return Err(format!("the key has {} fields, the element {}", types.len(), key.len()));
    }
    let (mut first, mut last) = (Bytes::EMPTY, Bytes::EMPTY);
    for (kind, value) in types.iter().zip(key) {
        let fits = match (kind, value) {
            (KeyType::IfName, Value::IfName(name)) => {
                let name = ifname(name).ok_or_else(|| format!("{name:?} is no interface name (15 bytes at most)"))?;
                first.push(&name) && last.push(&name)
            }
            (KeyType::Ipv4Addr | KeyType::Ipv6Addr, Value::Addr(addr)) => {
                push_addr(*kind, &mut first, *addr)? && push_addr(*kind, &mut last, *addr)?
            }
            (KeyType::Ipv4Addr | KeyType::Ipv6Addr, Value::Net(net)) if interval => {
                canonical_net(net)?;
                push_addr(*kind, &mut first, net.network())? && push_addr(*kind, &mut last, net.broadcast())?
            }
            (KeyType::Ipv4Addr | KeyType::Ipv6Addr, Value::AddrRange(low, high)) if interval => {
                if crate::intervals::value(*low, *high).as_ref() != Some(value) {
                    return Err(format!("{low}-{high} is not a range in canonical form"));
                }
                push_addr(*kind, &mut first, *low)? && push_addr(*kind, &mut last, *high)?
            }
            (KeyType::NfProto, Value::Family(family)) => {
                first.push(&[family.number()]) && last.push(&[family.number()])
            }
            (KeyType::InetProto, Value::Proto(proto)) => first.push(&[*proto]) && last.push(&[*proto]),
            (KeyType::InetService, Value::Port(port)) => {
                first.push(&port.to_be_bytes()) && last.push(&port.to_be_bytes())
            }
            (KeyType::InetService, Value::PortRange(low, high)) if interval => {
                if low >= high {
                    return Err(format!("{low}-{high} is not a range of ports; one port is written as such"));
                }
                first.push(&low.to_be_bytes()) && last.push(&high.to_be_bytes())
            }
            (KeyType::Mark, Value::Mark(mark)) if !interval => {
                first.push(&mark.to_ne_bytes()) && last.push(&mark.to_ne_bytes())
            }
            (kind, value) => return Err(format!("{value:?} is no {} of this set", kind.name())),
        };
        if !fits {
            return Err(format!("the key is longer than {KEY_MAX} bytes"));
        }
    }
    Ok((first, last))
}

fn canonical_net(net: &IpNet) -> Result<(), String> {
    if net.prefix_len() == net.max_prefix_len() {
        return Err(format!("{net} is one address and is written as such"));
    }
    if net.trunc() != *net {
        return Err(format!("{net} has bits set after its prefix; write {}", net.trunc()));
    }
    Ok(())
}

fn push_addr(kind: KeyType, bytes: &mut Bytes, addr: IpAddr) -> Result<bool, String> {
    match (kind, addr) {
        (KeyType::Ipv4Addr, IpAddr::V4(addr)) => Ok(bytes.push(&addr.octets())),
        (KeyType::Ipv6Addr, IpAddr::V6(addr)) => Ok(bytes.push(&addr.octets())),
        _ => Err(format!("{addr} is no {}", kind.name())),
    }
}
