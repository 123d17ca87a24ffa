//! Network interfaces.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd};
use std::str::FromStr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use nix::errno::Errno;

use crate::{Error, Net, Netns};

/// A hardware address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, rest @ ..] = self.0;
        write!(f, "{first:02x}")?;
        rest.iter().try_for_each(|byte| write!(f, ":{byte:02x}"))
    }
}

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("{text:?} is not a MAC address, such as ee:ee:ee:ee:ee:ee");
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2).ok_or_else(wrong)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        if parts.next().is_some() { Err(wrong()) } else { Ok(Self(bytes)) }
    }
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number for it, unique in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address, where it has one of six bytes.
    pub mac: Option<Mac>,
    /// Its MTU, in bytes.
    pub mtu: u32,
    /// Whether it is set up (`IFF_UP`): the kernel takes no route through one that is not.
    pub up: bool,
    /// The bridge that it is a port of.
    pub master: Option<u32>,
    /// What somebody wrote beside its name (`ip link set … alias`); empty if nobody did.
    pub alias: String,
}

impl Link {
    /// Reads the kernel's message; none if it is no more than a statement about another protocol (a bridge's, say).
    pub(crate) fn decode(message: &LinkMessage) -> Option<Self> {
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            mac: None,
            mtu: 0,
            up: message.header.flags.contains(LinkFlags::Up),
            master: None,
            alias: String::new(),
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Address(mac) => link.mac = mac.as_slice().try_into().ok().map(Mac),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::IfAlias(alias) => link.alias.clone_from(alias),
                LinkAttribute::Controller(index) => link.master = Some(*index).filter(|index| *index != 0),
                _ => {}
            }
        }
        let family = u8::from(message.header.interface_family);
        (family == 0 && !link.name.is_empty()).then_some(link)
    }
}

/// A veth pair to be made: both ends are born, in one message, with their names, addresses and namespaces.
#[derive(Debug, Clone, Default)]
pub struct VethSpec<'a> {
    /// The name of the end in this namespace.
    pub name: String,
    /// Its hardware address; the kernel's choice if none.
    pub mac: Option<Mac>,
    /// The name of the other end.
    pub peer_name: String,
    /// The other end's hardware address; the kernel's choice if none.
    pub peer_mac: Option<Mac>,
    /// The other end's namespace; this one if none.
    pub peer_netns: Option<&'a Netns>,
    /// The MTU of both ends in bytes; the kernel's choice if 0.
    pub mtu: u32,
}

impl Net {
    /// The interface of that name, if there is one.
    pub async fn link(&self, name: &str) -> Result<Option<Link>, Error> {
        check_name(name)?;
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        self.get_link(&format!("read interface {name}"), message).await
    }

    /// The interface of that number, if there is one.
    pub async fn link_by_index(&self, index: u32) -> Result<Option<Link>, Error> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        self.get_link(&format!("read interface {index}"), message).await
    }

    async fn get_link(&self, operation: &str, message: LinkMessage) -> Result<Option<Link>, Error> {
        match self.ask(operation, RouteNetlinkMessage::GetLink(message)).await {
            Ok(Some(RouteNetlinkMessage::NewLink(message))) => Ok(Link::decode(&message)),
            Ok(_) => Ok(None),
            Err(error) if error.errno() == Some(Errno::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All interfaces.
    pub async fn links(&self) -> Result<Vec<Link>, Error> {
        let answers = self.dump("read all interfaces", RouteNetlinkMessage::GetLink(LinkMessage::default())).await?;
        Ok(answers
            .iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewLink(message) => Link::decode(message),
                _ => None,
            })
            .collect())
    }

    /// Makes a veth pair, both ends down; the number of the end in this namespace.
    pub async fn create_veth(&self, spec: VethSpec<'_>) -> Result<u32, Error> {
        check_name(&spec.name)?;
        check_name(&spec.peer_name)?;
        let mut peer = end(&spec.peer_name, spec.peer_mac, spec.mtu);
        if let Some(netns) = spec.peer_netns {
            peer.attributes.push(LinkAttribute::NetNsFd(netns.as_fd().as_raw_fd()));
        }
        let mut message = end(&spec.name, spec.mac, spec.mtu);
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        let operation = format!("create interface {} with its peer {}", spec.name, spec.peer_name);
        self.create(&operation, &spec.name, message).await
    }

    /// Makes a bridge, down; its number.
    pub async fn create_bridge(&self, name: &str) -> Result<u32, Error> {
        check_name(name)?;
        let mut message = end(name, None, 0);
        message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]));
        self.create(&format!("create bridge {name}"), name, message).await
    }

    pub(crate) async fn create(&self, operation: &str, name: &str, message: LinkMessage) -> Result<u32, Error> {
        self.change(operation, RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL).await?;
        let link = self.link(name).await?;
        link.map(|link| link.index).ok_or_else(|| Error::Kernel {
            operation: operation.to_owned(),
            errno: Errno::ENODEV,
            detail: Some("somebody deleted it at once".to_owned()),
        })
    }

    /// Makes an interface a port of a bridge.
    pub async fn set_master(&self, index: u32, bridge: u32) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(LinkAttribute::Controller(bridge));
        self.change(&format!("make interface {index} a port of {bridge}"), RouteNetlinkMessage::SetLink(message), 0)
            .await
    }

    /// Sets an interface up.
    pub async fn set_up(&self, index: u32) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.change(&format!("set interface {index} up"), RouteNetlinkMessage::SetLink(message), 0).await
    }

    /// Sets an interface down, which takes its routes away.
    pub async fn set_down(&self, index: u32) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.change_mask = LinkFlags::Up;
        self.change(&format!("set interface {index} down"), RouteNetlinkMessage::SetLink(message), 0).await
    }

    /// Deletes an interface, and with it its peer, its addresses and its routes.
    pub async fn delete_link(&self, index: u32) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        self.change(&format!("delete interface {index}"), RouteNetlinkMessage::DelLink(message), 0).await
    }
}

/// The part of the message that describes one interface.
fn end(name: &str, mac: Option<Mac>, mtu: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    message.attributes.extend(mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())));
    message.attributes.extend((mtu > 0).then_some(LinkAttribute::Mtu(mtu)));
    message
}

/// The kernel's rule for names (`dev_valid_name`), with an error that says it.
pub(crate) fn check_name(name: &str) -> Result<(), Error> {
    let valid = (1..=15).contains(&name.len())
        && !matches!(name, "." | "..")
        && !name.bytes().any(|byte| matches!(byte, b'/' | b':' | 0) || byte.is_ascii_whitespace() || byte == 0x0b);
    if valid {
        Ok(())
    } else {
        Err(Error::Invalid(format!(
            "{name:?} cannot name an interface: use 1 to 15 bytes without slash, colon and white space"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macs_read_as_they_print() {
        let mac = Mac([0xee, 0, 1, 0x0a, 0xff, 0x10]);
        assert_eq!(mac.to_string(), "ee:00:01:0a:ff:10");
        assert_eq!(mac.to_string().parse(), Ok(mac));
        for text in ["", "ee:ee", "ee:ee:ee:ee:ee:ee:ee", "e:ee:ee:ee:ee:ee", "+e:ee:ee:ee:ee:eg", "ee-ee-ee-ee-ee-ee"]
        {
            assert!(text.parse::<Mac>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn names_are_those_of_the_kernel() {
        for name in ["eth0", "cali0123456789a", "a.b", "-"] {
            assert!(check_name(name).is_ok(), "{name:?}");
        }
        for name in ["", ".", "..", "a/b", "a b", "a:b", "a\0b", "0123456789abcdef", "a\nb", "a\u{b}b"] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
    }
}
