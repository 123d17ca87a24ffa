//! Addresses of interfaces, and neighbours.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::net::in_time;
use crate::{Error, Mac, Net, Reach};

impl Net {
    /// Gives an interface an address with its prefix; one that it has already is no error. IPv6 addresses come without duplicate
    /// address detection (`nodad`), which would cost a second; see [`Net::wait_for_address`].
    pub async fn add_address(&self, index: u32, address: IpNet) -> Result<(), Error> {
        let message = encode(index, address);
        let operation = format!("add address {address} to interface {index}");
        self.change(&operation, RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE).await
    }

    /// Waits until the namespace takes packets to its own address. For IPv6 a worker of the kernel's makes the local route, some
    /// microseconds after the address is there, and not at all while the interface is down.
    pub async fn wait_for_address(&self, ip: IpAddr) -> Result<(), Error> {
        let operation = format!("wait for address {ip}");
        let wait = async {
            while self.lookup(ip).await?.is_none_or(|lookup| lookup.reach != Reach::Local) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Ok(())
        };
        in_time(&operation, wait).await
    }

    /// Takes an address from an interface.
    pub async fn delete_address(&self, index: u32, address: IpNet) -> Result<(), Error> {
        let message = encode(index, address);
        let operation = format!("delete address {address} of interface {index}");
        self.change(&operation, RouteNetlinkMessage::DelAddress(message), 0).await
    }

    /// The addresses of an interface, with their prefixes.
    pub async fn addresses(&self, index: u32) -> Result<Vec<IpNet>, Error> {
        let mut message = AddressMessage::default();
        message.header.index = index;
        let operation = format!("read the addresses of interface {index}");
        let addresses = self.dump_addresses(&operation, message).await?;
        Ok(addresses.into_iter().filter(|(owner, _)| *owner == index).map(|(_, address)| address).collect())
    }

    /// The addresses of all interfaces, each with its interface's number.
    pub async fn all_addresses(&self) -> Result<Vec<(u32, IpNet)>, Error> {
        self.dump_addresses("read the addresses of all interfaces", AddressMessage::default()).await
    }

    async fn dump_addresses(&self, operation: &str, message: AddressMessage) -> Result<Vec<(u32, IpNet)>, Error> {
        let answers = self.dump(operation, RouteNetlinkMessage::GetAddress(message)).await?;
        let addresses = answers.iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewAddress(message) => Some((message.header.index, decode(message)?)),
            _ => None,
        });
        Ok(addresses.collect())
    }

    /// Says, for good, which hardware address an address behind an interface has; replaces what was known or resolved.
    pub async fn add_neighbour(&self, index: u32, ip: IpAddr, mac: Mac) -> Result<(), Error> {
        let mut message = NeighbourMessage::default();
        message.header.family = family(ip);
        message.header.ifindex = index;
        message.header.state = NeighbourState::Permanent;
        message.attributes.push(NeighbourAttribute::Destination(neighbour(ip)));
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
        let operation = format!("add neighbour {ip} at {mac} to interface {index}");
        self.change(&operation, RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE).await
    }

    /// The permanent neighbours of an interface.
    pub async fn neighbours(&self, index: u32) -> Result<Vec<(IpAddr, Mac)>, Error> {
        let mut request = NeighbourMessage::default();
        request.attributes.push(NeighbourAttribute::IfIndex(index));
        let operation = format!("read the neighbours of interface {index}");
        let answers = self.dump(&operation, RouteNetlinkMessage::GetNeighbour(request)).await?;
        Ok(answers
            .iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewNeighbour(message)
                    if message.header.ifindex == index && message.header.state == NeighbourState::Permanent =>
                {
                    decode_neighbour(message)
                }
                _ => None,
            })
            .collect())
    }
}

pub(crate) fn family(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn encode(index: u32, address: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address.addr());
    message.header.prefix_len = address.prefix_len();
    message.header.index = index;
    if let IpNet::V6(_) = address {
        message.header.flags = AddressHeaderFlags::Nodad;
    }
    message.attributes.push(AddressAttribute::Local(address.addr()));
    message.attributes.push(AddressAttribute::Address(address.addr()));
    message
}

/// An interface's own address: `IFA_LOCAL`, which differs from `IFA_ADDRESS` on a point-to-point link, and which IPv6 leaves out.
pub(crate) fn decode(message: &AddressMessage) -> Option<IpNet> {
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(ip) => Some(*ip),
        _ => None,
    });
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(ip) => Some(*ip),
        _ => None,
    });
    IpNet::new(local.or(address)?, message.header.prefix_len).ok()
}

fn neighbour(ip: IpAddr) -> NeighbourAddress {
    match ip {
        IpAddr::V4(ip) => NeighbourAddress::Inet(ip),
        IpAddr::V6(ip) => NeighbourAddress::Inet6(ip),
    }
}

fn decode_neighbour(message: &NeighbourMessage) -> Option<(IpAddr, Mac)> {
    let (mut ip, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => ip = Some(IpAddr::V4(*address)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => ip = Some(IpAddr::V6(*address)),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok().map(Mac),
            _ => {}
        }
    }
    ip.zip(mac)
}
