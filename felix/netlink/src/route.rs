//! Routes of the main table (254), and what the kernel would do with a packet.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia};
use nix::errno::Errno;

use crate::address::family;
use crate::{Error, Net, RouteChange};

/// A route of the main table. The kernel tells routes apart by destination and metric: writing one replaces the other that has both.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RouteSpec {
    /// The destination, host bits zero.
    pub destination: IpNet,
    /// Where it leads.
    pub kind: RouteKind,
    /// Who wrote it, as `ip route` shows it with `proto`.
    pub protocol: u8,
    /// Of two routes to one destination, the lower metric is in force. See [`default_metric`].
    pub metric: u32,
    /// The source address of what this node itself sends by it, unless it says another; with none the kernel chooses.
    pub source: Option<IpAddr>,
}

/// Where a route leads.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
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
    /// To several gateways, each behind a device, flow by flow in equal shares (ECMP). In the order of [`RouteKind::multipath`],
    /// whatever order the kernel has them in.
    Multipath(Vec<(IpAddr, u32)>),
    /// Nowhere, silently.
    Blackhole,
    /// Nowhere, and the sender is told so (ICMP host unreachable).
    Unreachable,
    /// What is read but never written here: next hops of unequal weight, light-weight tunnels, `prohibit`, `throw`.
    Other(String),
}

impl RouteKind {
    /// To these gateways and devices, whatever their order; if they are one, simply to that.
    pub fn multipath(mut hops: Vec<(IpAddr, u32)>) -> Self {
        hops.sort_unstable();
        hops.dedup();
        match hops.as_slice() {
            &[(gateway, index)] => Self::Via { gateway, index: Some(index), onlink: false },
            _ => Self::Multipath(hops),
        }
    }
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
        Self { destination: destination.trunc(), kind, protocol, metric: default_metric(&destination), source: None }
    }

    /// The same with another metric; 0 is the default metric.
    #[must_use]
    pub const fn with_metric(mut self, metric: u32) -> Self {
        self.metric = if metric == 0 { default_metric(&self.destination) } else { metric };
        self
    }

    /// The same with a source address, which must be the node's own.
    #[must_use]
    pub const fn with_source(mut self, source: Option<IpAddr>) -> Self {
        self.source = source;
        self
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
            RouteKind::Multipath(hops) => {
                write!(f, "{}", self.destination)?;
                for (gateway, index) in hops {
                    write!(f, " nexthop via {gateway} dev {index}")?;
                }
            }
            RouteKind::Blackhole => write!(f, "blackhole {}", self.destination)?,
            RouteKind::Unreachable => write!(f, "unreachable {}", self.destination)?,
            RouteKind::Other(what) => write!(f, "{} ({what})", self.destination)?,
        }
        write!(f, " proto {}", self.protocol)?;
        if let Some(source) = self.source {
            write!(f, " src {source}")?;
        }
        write!(f, " metric {}", self.metric)
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
    /// The routes of the main table, IPv4 and IPv6: all, or those of one protocol. See [`Bulk::routes`](crate::Bulk::routes).
    pub async fn routes(&self, protocol: Option<u8>) -> Result<Vec<RouteSpec>, Error> {
        self.with_bulk("read the main routing table", move |bulk| bulk.routes(protocol)).await
    }

    /// Writes a route, in place of any other with its destination and metric.
    pub async fn replace_route(&self, route: &RouteSpec) -> Result<(), Error> {
        self.change_route(RouteChange::Replace(route.clone())).await
    }

    /// Deletes the route that has this destination, metric and protocol, wherever it leads (an IPv6 route by gateways: those of the
    /// gateways that it has). One that is gone already is no error.
    pub async fn delete_route(&self, route: &RouteSpec) -> Result<(), Error> {
        self.change_route(RouteChange::Delete(route.clone())).await
    }

    async fn change_route(&self, change: RouteChange) -> Result<(), Error> {
        let failures = self.with_bulk("write a route", move |bulk| bulk.apply(&[change])).await?;
        failures.into_iter().next().map_or(Ok(()), |failure| Err(failure.error))
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
