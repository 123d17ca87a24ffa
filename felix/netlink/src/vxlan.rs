//! Devices of overlays: VXLAN with static tables, and IPIP; and the entries by which they find other nodes.
//!
//! Of a VXLAN device the kernel keeps two tables: which hardware address an address behind it has (neighbours, see
//! [`Net::add_neighbour`]), and behind which node a hardware address is (the forwarding database, below). With learning switched off
//! nothing but what is written here is in them, so that no packet changes where others go.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::link::{InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;

use crate::link::check_name;
use crate::{Error, Link, Mac, Net};

/// The alias of devices of overlays that are ours. Their names are Calico's, and do not tell.
pub const OURS: &str = "tortie";

/// The device of IPIP that the kernel makes by itself.
const KERNELS_OWN: &str = "tunl0";

/// What identifies a VXLAN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vxlan {
    /// The network identifier, of 24 bits.
    pub vni: u32,
    /// The UDP port that all nodes use.
    pub port: u16,
    /// The address that this node sends from, which also says by which family nodes reach each other.
    pub local: IpAddr,
    /// Whether the device learns from what it receives where addresses are.
    pub learning: bool,
}

impl Vxlan {
    fn decode(message: &LinkMessage) -> Option<Self> {
        let infos = message.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::LinkInfo(infos) => Some(infos),
            _ => None,
        })?;
        let data = infos.iter().find_map(|info| match info {
            LinkInfo::Data(InfoData::Vxlan(data)) => Some(data),
            _ => None,
        })?;
        let (mut vni, mut port, mut local, mut learning) = (None, None, None, false);
        for attribute in data {
            match attribute {
                InfoVxlan::Id(id) => vni = Some(*id),
                InfoVxlan::Port(number) => port = Some(*number),
                InfoVxlan::Local(address) => local = Some(IpAddr::from(*address)),
                InfoVxlan::Local6(address) => local = Some(IpAddr::from(*address)),
                InfoVxlan::Learning(on) => learning = *on,
                _ => {}
            }
        }
        Some(Self { vni: vni?, port: port?, local: local?, learning })
    }
}

impl Net {
    /// What identifies the VXLAN of a device; none where it is no VXLAN device, or none that has an address of its own.
    pub async fn vxlan(&self, link: &Link) -> Result<Option<Vxlan>, Error> {
        let mut message = LinkMessage::default();
        message.header.index = link.index;
        let operation = format!("read interface {}", link.name);
        match self.ask(&operation, RouteNetlinkMessage::GetLink(message)).await? {
            Some(RouteNetlinkMessage::NewLink(message)) => Ok(Vxlan::decode(&message)),
            _ => Ok(None),
        }
    }

    /// Makes a VXLAN device, down; its number.
    pub async fn create_vxlan(&self, name: &str, vxlan: &Vxlan, mac: Mac, mtu: u32) -> Result<u32, Error> {
        check_name(name)?;
        let mut data = vec![InfoVxlan::Id(vxlan.vni), InfoVxlan::Port(vxlan.port), InfoVxlan::Learning(vxlan.learning)];
        match vxlan.local {
            IpAddr::V4(local) => data.push(InfoVxlan::Local(local)),
            IpAddr::V6(local) => data.push(InfoVxlan::Local6(local)),
        }
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Address(mac.0.to_vec()),
            LinkAttribute::Mtu(mtu),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Vxlan), LinkInfo::Data(InfoData::Vxlan(data))]),
        ];
        self.create(&format!("create VXLAN device {name}"), name, message).await
    }

    /// Makes an IPIP device, down; its number. Where the kernel makes one of that name by itself as it learns IPIP, that one.
    pub async fn create_ipip(&self, name: &str) -> Result<u32, Error> {
        check_name(name)?;
        let mut message = LinkMessage::default();
        message.attributes =
            vec![LinkAttribute::IfName(name.to_owned()), LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::IpIp)])];
        match self.create(&format!("create IPIP device {name}"), name, message).await {
            Err(error) if error.is_exists() => {
                let link = self.link(name).await?;
                link.map(|link| link.index).ok_or(error)
            }
            result => result,
        }
    }

    /// Gives an interface a hardware address.
    pub async fn set_mac(&self, index: u32, mac: Mac) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(LinkAttribute::Address(mac.0.to_vec()));
        self.change(&format!("give interface {index} the address {mac}"), RouteNetlinkMessage::SetLink(message), 0)
            .await
    }

    /// Writes something beside an interface's name that tells people, and us, whose it is.
    pub async fn set_alias(&self, index: u32, alias: &str) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(LinkAttribute::IfAlias(alias.to_owned()));
        self.change(&format!("label interface {index}"), RouteNetlinkMessage::SetLink(message), 0).await
    }

    /// Removes a device of an overlay. The kernel keeps its own of IPIP for as long as it knows IPIP: that one is left as it was found.
    pub async fn remove_end(&self, link: &Link) -> Result<(), Error> {
        if link.name == KERNELS_OWN {
            self.set_addresses(link.index, &[]).await?;
            self.set_down(link.index).await?;
            return self.set_alias(link.index, "").await;
        }
        self.delete_link(link.index).await
    }

    /// Says behind which node a hardware address is; replaces what was said.
    pub async fn add_forwarding(&self, index: u32, mac: Mac, node: IpAddr) -> Result<(), Error> {
        let operation = format!("say that {mac} is behind {node} on interface {index}");
        let message = RouteNetlinkMessage::NewNeighbour(forwarding(index, mac, Some(node)));
        self.change(&operation, message, NLM_F_CREATE | NLM_F_REPLACE).await
    }

    /// Takes that back; that it is gone already is no error.
    pub async fn delete_forwarding(&self, index: u32, mac: Mac) -> Result<(), Error> {
        let operation = format!("forget where {mac} is on interface {index}");
        let message = RouteNetlinkMessage::DelNeighbour(forwarding(index, mac, None));
        unless_gone(self.change(&operation, message, 0).await)
    }

    /// What is said of that.
    pub async fn forwardings(&self, index: u32) -> Result<BTreeMap<Mac, IpAddr>, Error> {
        let mut request = NeighbourMessage::default();
        request.header.family = AddressFamily::Bridge;
        request.header.ifindex = index;
        let operation = format!("read the forwarding database of interface {index}");
        let answers = self.dump(&operation, RouteNetlinkMessage::GetNeighbour(request)).await?;
        let entries = answers.iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewNeighbour(message) if message.header.ifindex == index => decode(message),
            _ => None,
        });
        Ok(entries.collect())
    }

    /// Takes back what was said of the hardware address of an address; that it is gone already is no error.
    pub async fn delete_neighbour(&self, index: u32, ip: IpAddr) -> Result<(), Error> {
        let mut message = NeighbourMessage::default();
        message.header.family = crate::address::family(ip);
        message.header.ifindex = index;
        message.attributes.push(NeighbourAttribute::Destination(address(ip)));
        let operation = format!("delete neighbour {ip} of interface {index}");
        unless_gone(self.change(&operation, RouteNetlinkMessage::DelNeighbour(message), 0).await)
    }

    /// Leaves an interface with none but these of its addresses, link-local ones aside. Whether anything had to be changed.
    pub async fn set_addresses(&self, index: u32, wanted: &[IpNet]) -> Result<bool, Error> {
        let link_local = |address: &IpNet| match address.addr() {
            IpAddr::V4(_) => false,
            IpAddr::V6(address) => address.is_unicast_link_local(),
        };
        let there: Vec<IpNet> =
            self.addresses(index).await?.into_iter().filter(|address| !link_local(address)).collect();
        let mut changed = false;
        for address in wanted.iter().filter(|address| !there.contains(address)) {
            self.add_address(index, *address).await?;
            changed = true;
        }
        for address in there.iter().filter(|address| !wanted.contains(address)) {
            self.delete_address(index, *address).await?;
            changed = true;
        }
        Ok(changed)
    }
}

fn unless_gone(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(error) if matches!(error.errno(), Some(Errno::ENOENT | Errno::ENODEV)) => Ok(()),
        result => result,
    }
}

fn forwarding(index: u32, mac: Mac, node: Option<IpAddr>) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    // Without this flag the entry would be meant for a bridge that the device is a port of.
    message.header.flags = NeighbourFlags::Own;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
    message.attributes.extend(node.map(|node| NeighbourAttribute::Destination(address(node))));
    message
}

const fn address(ip: IpAddr) -> NeighbourAddress {
    match ip {
        IpAddr::V4(ip) => NeighbourAddress::Inet(ip),
        IpAddr::V6(ip) => NeighbourAddress::Inet6(ip),
    }
}

fn decode(message: &NeighbourMessage) -> Option<(Mac, IpAddr)> {
    let (mut mac, mut node) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok().map(Mac),
            NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => node = Some(IpAddr::V4(*ip)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => node = Some(IpAddr::V6(*ip)),
            // Of the bridge family the library leaves the address's family to its length.
            NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => {
                let four: Option<[u8; 4]> = bytes.as_slice().try_into().ok();
                let sixteen: Option<[u8; 16]> = bytes.as_slice().try_into().ok();
                node = four.map(IpAddr::from).or_else(|| sixteen.map(IpAddr::from));
            }
            _ => {}
        }
    }
    mac.zip(node)
}
