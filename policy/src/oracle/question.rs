//! What is asked: two ends, and what the first packet between them carries.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use thiserror::Error;
use tortie_api::k8s::Protocol;
use tortie_nft::Family;

/// The source port of a question that names none: one of those that clients are given.
pub const CLIENT_PORT: u16 = 40_000;

/// The protocol number of ICMP.
const ICMP: u8 = 1;
/// The protocol number of ICMPv6.
const ICMPV6: u8 = 58;
/// The protocol number of UDP-Lite (RFC 3828).
const UDP_LITE: u8 = 136;

/// One end of a flow as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// A pod by name.
    Pod {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// An address: of a pod, a node, or something outside.
    Address(IpAddr),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod { namespace, name } => write!(f, "{namespace}/{name}"),
            Self::Address(address) => write!(f, "{address}"),
        }
    }
}

/// `NAMESPACE/POD`, or an IP address.
impl FromStr for End {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self::Pod { namespace: namespace.to_owned(), name: name.to_owned() })
            }
            _ => Err(Error::NotAnEnd(text.to_owned())),
        }
    }
}

/// What the first packet of a flow carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Traffic {
    /// A protocol with ports.
    Ports {
        /// Which one.
        protocol: Protocol,
        /// From which port.
        source: u16,
        /// To which port.
        port: u16,
    },
    /// ICMP in IPv4, or ICMPv6 in IPv6.
    Icmp {
        /// Which of the two.
        family: Family,
        /// The message's type.
        kind: u8,
        /// Its code.
        code: u8,
    },
    /// Any other protocol, by its number.
    Other(u8),
}

impl Traffic {
    /// A client's packet to a port.
    pub const fn to_port(protocol: Protocol, port: u16) -> Self {
        Self::Ports { protocol, source: CLIENT_PORT, port }
    }

    /// An echo request (ping).
    pub const fn ping(family: Family) -> Self {
        let kind = match family {
            Family::V4 => 8,
            Family::V6 => 128,
        };
        Self::Icmp { family, kind, code: 0 }
    }

    /// The protocol's number.
    pub const fn protocol(self) -> u8 {
        match self {
            Self::Ports { protocol, .. } => protocol.number(),
            Self::Icmp { family: Family::V4, .. } => ICMP,
            Self::Icmp { family: Family::V6, .. } => ICMPV6,
            Self::Other(number) => number,
        }
    }

    /// Whether there is such a packet in the family: ICMP belongs to one, everything else to both.
    pub const fn is_in(self, family: Family) -> bool {
        match self {
            Self::Icmp { family: of, .. } => {
                matches!((of, family), (Family::V4, Family::V4) | (Family::V6, Family::V6))
            }
            Self::Ports { .. } | Self::Other(_) => true,
        }
    }
}

/// `TCP/80`, `ICMP type 8 code 0`, `protocol 47`. The source port is told where it is not just a client's.
impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ports { protocol, source: CLIENT_PORT, port } => write!(f, "{protocol}/{port}"),
            Self::Ports { protocol, source, port } => write!(f, "{protocol}/{port} from port {source}"),
            Self::Icmp { family, kind, code } => {
                let name = if *family == Family::V4 { "ICMP" } else { "ICMPv6" };
                write!(f, "{name} type {kind} code {code}")
            }
            Self::Other(UDP_LITE) => f.write_str("UDPLite"),
            Self::Other(number) => write!(f, "protocol {number}"),
        }
    }
}

/// What of a flow is asked for in words, as command lines take it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// `TCP`, `UDP`, `SCTP`, `ICMP`, `ICMPv6` or `UDPLite` in any case, or a number from 1 to 255.
    pub protocol: String,
    /// The destination port, for a protocol with ports.
    pub port: Option<u16>,
    /// The source port, likewise; by default one of a client, [`CLIENT_PORT`].
    pub source_port: Option<u16>,
    /// The type of ICMP; by default that of an echo request.
    pub icmp_type: Option<u8>,
    /// The code of ICMP; 0 by default.
    pub icmp_code: Option<u8>,
}

impl TryFrom<&Wanted> for Traffic {
    type Error = Error;

    fn try_from(wanted: &Wanted) -> Result<Self, Error> {
        let text = wanted.protocol.as_str();
        let number = match text.to_ascii_lowercase().as_str() {
            "tcp" => Protocol::Tcp.number(),
            "udp" => Protocol::Udp.number(),
            "sctp" => Protocol::Sctp.number(),
            "icmp" => ICMP,
            "icmpv6" => ICMPV6,
            "udplite" => UDP_LITE,
            _ => text.parse().ok().filter(|number| *number > 0).ok_or_else(|| Error::NotAProtocol(text.to_owned()))?,
        };
        let misplaced = |field| Err(Error::Misplaced { field, protocol: text.to_owned() });
        let icmp = wanted.icmp_type.is_some() || wanted.icmp_code.is_some();
        if let Some(protocol) = Protocol::ALL.iter().copied().find(|protocol| protocol.number() == number) {
            if icmp {
                return misplaced("an ICMP type or code");
            }
            let port = wanted.port.ok_or_else(|| Error::NoPort(text.to_owned()))?;
            return Ok(Self::Ports { protocol, source: wanted.source_port.unwrap_or(CLIENT_PORT), port });
        }
        if wanted.port.is_some() || wanted.source_port.is_some() {
            return misplaced("a port");
        }
        let family = match number {
            ICMP => Family::V4,
            ICMPV6 => Family::V6,
            _ if icmp => return misplaced("an ICMP type or code"),
            other => return Ok(Self::Other(other)),
        };
        let Self::Icmp { kind, code, .. } = Self::ping(family) else { return Ok(Self::Other(number)) };
        Ok(Self::Icmp { family, kind: wanted.icmp_type.unwrap_or(kind), code: wanted.icmp_code.unwrap_or(code) })
    }
}

/// A flow that is asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Who begins it.
    pub from: End,
    /// To whom.
    pub to: End,
    /// What its first packet carries.
    pub traffic: Traffic,
    /// In which family; by default that of a given address or of the traffic, else IPv4 where both pods have it.
    pub family: Option<Family>,
}

/// Why a question has no answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Error {
    /// The text names no end.
    #[error("{0:?} is neither NAMESPACE/POD nor an IP address")]
    NotAnEnd(String),
    /// The text names no protocol.
    #[error("{0:?} is no protocol: use TCP, UDP, SCTP, ICMP, ICMPv6, UDPLite or a number from 1 to 255")]
    NotAProtocol(String),
    /// A protocol with ports was asked for without one.
    #[error("{0} has ports: say to which")]
    NoPort(String),
    /// Something was asked for that the protocol does not have.
    #[error("{protocol} has no place for {field}: leave it out")]
    Misplaced {
        /// What.
        field: &'static str,
        /// The protocol.
        protocol: String,
    },
    /// There is no such pod.
    #[error("there is no pod {0}: see `tortie get pods -A`")]
    NoSuchPod(String),
    /// The pod has ended.
    #[error("pod {0} has ended and sends and receives nothing")]
    Ended(String),
    /// The two do not speak the same IP.
    #[error("{from} and {to} have no address of the same family{asked}")]
    NoCommonFamily {
        /// One end.
        from: String,
        /// The other.
        to: String,
        /// `": asked for IPv6"`, or nothing.
        asked: &'static str,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traffic(wanted: &Wanted) -> Result<String, String> {
        Traffic::try_from(wanted).map(|traffic| traffic.to_string()).map_err(|error| error.to_string())
    }

    fn of(protocol: &str) -> Wanted {
        Wanted { protocol: protocol.to_owned(), ..Wanted::default() }
    }

    #[test]
    fn what_a_command_line_may_ask_for() {
        let says = |wanted: &Wanted| traffic(wanted).expect("traffic");
        assert_eq!(says(&Wanted { port: Some(80), ..of("tcp") }), "TCP/80");
        assert_eq!(says(&Wanted { port: Some(53), source_port: Some(53), ..of("17") }), "UDP/53 from port 53");
        assert_eq!(says(&of("icmp")), "ICMP type 8 code 0");
        assert_eq!(says(&of("58")), "ICMPv6 type 128 code 0");
        assert_eq!(says(&Wanted { icmp_type: Some(3), icmp_code: Some(4), ..of("ICMP") }), "ICMP type 3 code 4");
        assert_eq!(says(&of("47")), "protocol 47");
        assert_eq!(says(&of("UDPLite")), "UDPLite");
    }

    #[test]
    fn what_it_may_not_says_what_to_do() {
        for (wanted, word) in [
            (of("tcp"), "say to which"),
            (of("0"), "use TCP"),
            (of("256"), "use TCP"),
            (of("nonsense"), "use TCP"),
            (Wanted { port: Some(80), ..of("icmp") }, "leave it out"),
            (Wanted { icmp_type: Some(8), port: Some(80), ..of("tcp") }, "leave it out"),
            (Wanted { icmp_code: Some(8), ..of("47") }, "leave it out"),
        ] {
            let error = traffic(&wanted).expect_err("no traffic");
            assert!(error.contains(word), "{error}");
        }
    }
}
