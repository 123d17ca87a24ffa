//! Protocols and ports as Calico's rules write them: by number or by name.

use std::fmt;
use std::str::FromStr;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::k8s::Protocol;

/// An IP protocol. Manifests write its name (`TCP`, in any case) or its number, and the two are the same here.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleProtocol(u8);

/// The protocols that have a name in manifests.
const NAMES: [(&str, RuleProtocol); 6] = [
    ("TCP", RuleProtocol::TCP),
    ("UDP", RuleProtocol::UDP),
    ("ICMP", RuleProtocol::ICMP),
    ("ICMPv6", RuleProtocol::ICMPV6),
    ("SCTP", RuleProtocol::SCTP),
    ("UDPLite", RuleProtocol::UDPLITE),
];

const EXPECTED: &str = "must be TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite or a protocol number between 1 and 255";

impl RuleProtocol {
    /// TCP (RFC 9293).
    pub const TCP: Self = Self(6);
    /// UDP (RFC 768).
    pub const UDP: Self = Self(17);
    /// ICMP (RFC 792).
    pub const ICMP: Self = Self(1);
    /// ICMPv6 (RFC 4443).
    pub const ICMPV6: Self = Self(58);
    /// SCTP (RFC 9260).
    pub const SCTP: Self = Self(132);
    /// UDP-Lite (RFC 3828).
    pub const UDPLITE: Self = Self(136);

    /// The protocol of this IANA number, from 1 on: 0 is IPv6's hop-by-hop options, which no rule may name.
    pub const fn from_number(number: u8) -> Option<Self> {
        if number == 0 { None } else { Some(Self(number)) }
    }

    /// The IANA number.
    pub const fn number(self) -> u8 {
        self.0
    }

    /// The name, where manifests have one for it.
    pub fn name(self) -> Option<&'static str> {
        NAMES.iter().find(|(_, protocol)| *protocol == self).map(|(name, _)| *name)
    }

    /// Whether rules may name ports of it.
    pub const fn has_ports(self) -> bool {
        matches!(self, Self::TCP | Self::UDP | Self::SCTP)
    }
}

impl From<Protocol> for RuleProtocol {
    fn from(protocol: Protocol) -> Self {
        Self(protocol.number())
    }
}

impl fmt::Display for RuleProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}

impl fmt::Debug for RuleProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for RuleProtocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = NAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)).map(|(_, protocol)| *protocol);
        named.or_else(|| Self::from_number(text.parse().ok()?)).ok_or_else(|| EXPECTED.to_owned())
    }
}

impl Serialize for RuleProtocol {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.name() {
            Some(name) => serializer.serialize_str(name),
            None => serializer.serialize_u8(self.0),
        }
    }
}

impl<'de> Deserialize<'de> for RuleProtocol {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameOrNumber;

        impl Visitor<'_> for NameOrNumber {
            type Value = RuleProtocol;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name or the number of a protocol")
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<RuleProtocol, E> {
                u8::try_from(value).ok().and_then(RuleProtocol::from_number).ok_or_else(|| E::custom(EXPECTED))
            }

            fn visit_i64<E: Error>(self, _: i64) -> Result<RuleProtocol, E> {
                Err(E::custom(EXPECTED))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<RuleProtocol, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_any(NameOrNumber)
    }
}

/// A port of a rule: a number, a range (`"8000:8080"`), or the name of a port of the endpoint at that end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RulePort {
    /// From the first to the last, both included; one port is a range of one.
    Range(u16, u16),
    /// The name of a container's port, or of a host endpoint's.
    Named(String),
}

impl fmt::Display for RulePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range(first, last) if first == last => write!(f, "{first}"),
            Self::Range(first, last) => write!(f, "{first}:{last}"),
            Self::Named(name) => f.write_str(name),
        }
    }
}

impl FromStr for RulePort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |text: &str| -> Result<u16, String> {
            text.parse().map_err(|_| format!("port numbers are whole numbers between 0 and {}", u16::MAX))
        };
        match text.split_once(':') {
            Some((first, last)) => {
                let (first, last) = (number(first)?, number(last)?);
                if first > last {
                    return Err(format!("the first port ({first}) must not be greater than the last ({last})"));
                }
                Ok(Self::Range(first, last))
            }
            None if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => {
                let port = number(text)?;
                Ok(Self::Range(port, port))
            }
            None => Ok(Self::Named(text.to_owned())),
        }
    }
}

impl Serialize for RulePort {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Range(first, last) if first == last => serializer.serialize_u16(*first),
            Self::Range(..) | Self::Named(_) => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for RulePort {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NumberOrText;

        impl Visitor<'_> for NumberOrText {
            type Value = RulePort;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port number, a range such as \"8000:8080\", or the name of a port")
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<RulePort, E> {
                u16::try_from(value)
                    .map(|port| RulePort::Range(port, port))
                    .map_err(|_| E::custom(crate::k8s::PORT_RANGE))
            }

            fn visit_i64<E: Error>(self, _: i64) -> Result<RulePort, E> {
                Err(E::custom(crate::k8s::PORT_RANGE))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<RulePort, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_any(NumberOrText)
    }
}
