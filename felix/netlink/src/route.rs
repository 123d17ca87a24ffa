//! Routes of the main table (254), and what the kernel would do with a packet.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;

use crate::address::family;
use crate::{Error, Net};

/// A route of the main table. The kernel tells routes apart by destination and metric: writing one replaces the other that has both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteSpec {
    /// The destination, host bits zero.
    pub destination: IpNet,
    /// Where it leads.
    pub kind: RouteKind,
    /// Who wrote it, as `ip route` shows it with `proto`.
    pub protocol: u8,
    /// Of two routes to one destination, the lower metric is in force. See [`default_metric`].
    pub metric: u32,
}

/// Where a route leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteKind {
    /// Directly out of a device: whoever has the address is behind it.
    Device {
        /// The device.
        index: u32,
    },
    /// To a gateway. An IPv4 destination may have an IPv6 gateway.
    Via {
        /// The gateway.
        gateway: IpAddr,
        /// The device that the gateway is behind. With none the kernel finds it, and a read-back has what it found.
        index: Option<u32>,
        /// Whether the gateway is behind the device although no route says so. Needs the device.
        onlink: bool,
    },
    /// Nowhere, silently.
    Blackhole,
    /// Nowhere, and the sender is told so (ICMP host unreachable).
    Unreachable,
    /// What is read but never written here: several next hops, `prohibit`, `throw`, next hop objects.
    Other(String),
}

/// The metric of a route that names none: 0 for IPv4, 1024 for IPv6, where 0 does not exist.
pub const fn default_metric(destination: &IpNet) -> u32 {
    match destination {
        IpNet::V4(_) => 0,
        IpNet::V6(_) => 1024,
    }
}

impl RouteSpec {
    /// A route with the default metric. Host bits of the destination are cleared.
    pub fn new(destination: IpNet, kind: RouteKind, protocol: u8) -> Self {
        Self { destination: destination.trunc(), kind, protocol, metric: default_metric(&destination) }
    }

    /// The same with another metric; 0 is the default metric.
    #[must_use]
    pub const fn with_metric(mut self, metric: u32) -> Self {
        self.metric = if metric == 0 { default_metric(&self.destination) } else { metric };
        self
    }

    /// The message that writes this route.
    pub(crate) fn encode(&self) -> Result<RouteMessage, Error> {
        let mut message = self.head();
        let device = |index: u32| {
            if index == 0 {
                return Err(Error::Invalid(format!("route {self}: 0 is no interface's number")));
            }
            Ok(RouteAttribute::Oif(index))
        };
        let (kind, scope) = match &self.kind {
            RouteKind::Device { index } => {
                message.attributes.push(device(*index)?);
                (RouteType::Unicast, if self.is_ipv4() { RouteScope::Link } else { RouteScope::Universe })
            }
            RouteKind::Via { gateway, index, onlink } => {
                if let Some(index) = index {
                    message.attributes.push(device(*index)?);
                }
                message.attributes.push(match (self.destination, gateway) {
                    (IpNet::V4(_), IpAddr::V6(gateway)) => RouteAttribute::Via(RouteVia::Inet6(*gateway)),
                    (IpNet::V6(_), IpAddr::V4(_)) => {
                        let reason = format!("route {self}: an IPv6 destination cannot have an IPv4 gateway");
                        return Err(Error::Invalid(reason));
                    }
                    (_, gateway) => RouteAttribute::Gateway((*gateway).into()),
                });
                if *onlink {
                    message.header.flags = RouteFlags::Onlink;
                }
                (RouteType::Unicast, RouteScope::Universe)
            }
            RouteKind::Blackhole => (RouteType::BlackHole, RouteScope::Universe),
            RouteKind::Unreachable => (RouteType::Unreachable, RouteScope::Universe),
            RouteKind::Other(what) => {
                return Err(Error::Invalid(format!("route {self}: {what} is read here, but never written")));
            }
        };
        message.header.kind = kind;
        message.header.scope = scope;
        Ok(message)
    }

    /// The message that deletes this route, wherever it leads by now: only destination, metric and protocol must fit.
    pub(crate) fn encode_delete(&self) -> RouteMessage {
        let mut message = self.head();
        message.header.kind = RouteType::Unspec;
        // The one value that lets every scope fit.
        message.header.scope = RouteScope::NoWhere;
        message
    }

    fn head(&self) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = family(self.destination.addr());
        message.header.destination_prefix_length = self.destination.prefix_len();
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::from(self.protocol);
        message.attributes.push(RouteAttribute::Destination(self.destination.addr().into()));
        if self.metric != 0 {
            message.attributes.push(RouteAttribute::Priority(self.metric));
        }
        message
    }

    fn is_ipv4(&self) -> bool {
        matches!(self.destination, IpNet::V4(_))
    }

    /// Reads the kernel's message; none if it is not about a route of the main table.
    pub(crate) fn decode(message: &RouteMessage) -> Option<Self> {
        let header = &message.header;
        if header.flags.contains(RouteFlags::Cloned) {
            return None;
        }
        let mut table = u32::from(header.table);
        let mut destination = match header.address_family {
            AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            _ => return None,
        };
        let (mut metric, mut index, mut gateway, mut other) = (0, None, None, None);
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Table(number) => table = *number,
                RouteAttribute::Destination(address) => destination = plain(address)?,
                RouteAttribute::Priority(number) => metric = *number,
                RouteAttribute::Oif(number) => index = Some(*number),
                RouteAttribute::Gateway(address) => gateway = plain(address),
                RouteAttribute::Via(RouteVia::Inet6(address)) => gateway = Some(IpAddr::V6(*address)),
                RouteAttribute::MultiPath(_) => other = Some("several next hops"),
                RouteAttribute::NhId(_) => other = Some("a next hop object"),
                RouteAttribute::Encap(_) => other = Some("a light-weight tunnel"),
                _ => {}
            }
        }
        if table != u32::from(RouteHeader::RT_TABLE_MAIN) {
            return None;
        }
        let destination = IpNet::new(destination, header.destination_prefix_length).ok()?;
        let kind = match (header.kind, other, gateway, index) {
            (RouteType::Unicast, Some(what), _, _) => RouteKind::Other(what.to_owned()),
            (RouteType::Unicast, None, Some(gateway), index) => {
                RouteKind::Via { gateway, index, onlink: header.flags.contains(RouteFlags::Onlink) }
            }
            (RouteType::Unicast, None, None, Some(index)) => RouteKind::Device { index },
            (RouteType::BlackHole, ..) => RouteKind::Blackhole,
            (RouteType::Unreachable, ..) => RouteKind::Unreachable,
            (kind, ..) => RouteKind::Other(format!("{kind:?}").to_lowercase()),
        };
        Some(Self { destination, kind, protocol: header.protocol.into(), metric })
    }
}

impl fmt::Display for RouteSpec {
    /// As `ip route` prints it, with numbers for devices.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            RouteKind::Device { index } => write!(f, "{} dev {index}", self.destination)?,
            RouteKind::Via { gateway, index, onlink } => {
                write!(f, "{} via {gateway}", self.destination)?;
                if let Some(index) = index {
                    write!(f, " dev {index}")?;
                }
                f.write_str(if *onlink { " onlink" } else { "" })?;
            }
            RouteKind::Blackhole => write!(f, "blackhole {}", self.destination)?,
            RouteKind::Unreachable => write!(f, "unreachable {}", self.destination)?,
            RouteKind::Other(what) => write!(f, "{} ({what})", self.destination)?,
        }
        write!(f, " proto {} metric {}", self.protocol, self.metric)
    }
}

/// What the kernel would do with a packet that starts here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lookup {
    /// Whether it leaves.
    pub reach: Reach,
    /// The gateway; none where the destination is behind the device itself.
    pub via: Option<IpAddr>,
    /// The device's number.
    pub index: Option<u32>,
    /// The device's name.
    pub interface: Option<String>,
    /// The source address that the packet would have.
    pub source: Option<IpAddr>,
}

/// What kind of end a packet finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// It leaves.
    Unicast,
    /// It is for this very namespace.
    Local,
    /// It is dropped silently.
    Blackhole,
    /// It is refused: unreachable or prohibited.
    Unreachable,
}

impl Net {
    /// The routes of the main table, IPv4 and IPv6: all, or those of one protocol (the kernel filters).
    pub async fn routes(&self, protocol: Option<u8>) -> Result<Vec<RouteSpec>, Error> {
        let mut routes = Vec::new();
        for address_family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = address_family;
            message.header.table = RouteHeader::RT_TABLE_MAIN;
            message.header.protocol = RouteProtocol::from(protocol.unwrap_or(0));
            let answers = match self.dump("read the main routing table", RouteNetlinkMessage::GetRoute(message)).await {
                Ok(answers) => answers,
                // A table comes into being with its first route, a family with its module.
                Err(error) if matches!(error.errno(), Some(Errno::ENOENT | Errno::EAFNOSUPPORT)) => continue,
                Err(error) => return Err(error),
            };
            routes.extend(answers.iter().filter_map(|answer| match answer {
                RouteNetlinkMessage::NewRoute(message) => RouteSpec::decode(message),
                _ => None,
            }));
        }
        // The kernel's filter, where there is one, is a saving and no promise.
        routes.retain(|route| protocol.is_none_or(|protocol| route.protocol == protocol));
        Ok(routes)
    }

    /// Writes a route, in place of any other with its destination and metric.
    pub async fn replace_route(&self, route: &RouteSpec) -> Result<(), Error> {
        let message = RouteNetlinkMessage::NewRoute(route.encode()?);
        self.change(&format!("write route {route}"), message, NLM_F_CREATE | NLM_F_REPLACE).await
    }

    /// Deletes the route that has this destination, metric and protocol, wherever it leads. One that is gone already is no error.
    pub async fn delete_route(&self, route: &RouteSpec) -> Result<(), Error> {
        let message = RouteNetlinkMessage::DelRoute(route.encode_delete());
        match self.change(&format!("delete route {route}"), message, 0).await {
            Err(error) if error.errno() == Some(Errno::ESRCH) => Ok(()),
            other => other,
        }
    }

    /// What the kernel would do with a packet to `ip`, over all rules and tables; none where it has no route.
    pub async fn lookup(&self, ip: IpAddr) -> Result<Option<Lookup>, Error> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(ip);
        message.header.destination_prefix_length = if ip.is_ipv4() { 32 } else { 128 };
        message.attributes.push(RouteAttribute::Destination(ip.into()));
        let answer = self.ask(&format!("look up the route to {ip}"), RouteNetlinkMessage::GetRoute(message)).await;
        let nowhere = |reach| Lookup { reach, via: None, index: None, interface: None, source: None };
        let message = match answer {
            Ok(Some(RouteNetlinkMessage::NewRoute(message))) => message,
            Ok(_) => return Ok(None),
            // For IPv4 the answer is the error that a sender would get, which differs by the route's type.
            Err(error) => {
                return match error.errno() {
                    Some(Errno::ENETUNREACH) => Ok(None),
                    Some(Errno::EINVAL) => Ok(Some(nowhere(Reach::Blackhole))),
                    Some(Errno::EHOSTUNREACH | Errno::EACCES) => Ok(Some(nowhere(Reach::Unreachable))),
                    _ => Err(error),
                };
            }
        };
        let mut lookup = match message.header.kind {
            RouteType::Unicast | RouteType::Multicast | RouteType::Broadcast | RouteType::Anycast => {
                nowhere(Reach::Unicast)
            }
            RouteType::Local => nowhere(Reach::Local),
            RouteType::BlackHole => return Ok(Some(nowhere(Reach::Blackhole))),
            _ => return Ok(Some(nowhere(Reach::Unreachable))),
        };
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Oif(index) => lookup.index = Some(*index),
                RouteAttribute::Gateway(gateway) => lookup.via = plain(gateway),
                RouteAttribute::Via(RouteVia::Inet6(gateway)) => lookup.via = Some(IpAddr::V6(*gateway)),
                RouteAttribute::PrefSource(source) => lookup.source = plain(source),
                _ => {}
            }
        }
        if let Some(index) = lookup.index {
            lookup.interface = self.link_by_index(index).await?.map(|link| link.name);
        }
        Ok(Some(lookup))
    }
}

fn plain(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}
