//! Which interfaces changed, by whomever: their MTU and whether they are up, and of their settings those that the kernel announces by
//! itself (`RTM_NEWNETCONF`: forwarding and reverse path filters). Other settings have to be read to be known.

use std::io;

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};

use crate::net::current_runtime;
use crate::socket::{READ_BUFFER, parts, tune};
use crate::{Error, Netns};

const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;

/// `RTM_NEWNETCONF`.
const NEW_NETCONF: u16 = 80;

/// `struct netconfmsg`: the family, padded.
const HEADER: usize = 4;

const ATTRIBUTE_INDEX: u16 = 1;

/// What changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Netconf {
    /// A setting of one interface, by its number.
    Interface(u32),
    /// A setting of `conf/all`.
    All,
    /// A setting of `conf/default`, which new interfaces start from.
    Default,
    /// The interface itself.
    Link(u32),
    /// It is not known what: changes were lost.
    Overrun,
}

/// A subscription to these changes in one namespace, from the moment of its making on.
pub struct NetconfMonitor {
    socket: TokioSocket,
    buffer: Vec<u8>,
    events: Vec<Netconf>,
}

impl NetconfMonitor {
    /// Changes in the calling thread's namespace. Needs a tokio runtime.
    pub fn current() -> Result<Self, Error> {
        current_runtime()?;
        Self::open()
    }

    /// Changes in another namespace. Needs a tokio runtime.
    pub fn in_netns(netns: &Netns) -> Result<Self, Error> {
        let runtime = current_runtime()?;
        netns.run(|| {
            let _guard = runtime.enter();
            Self::open()
        })?
    }

    fn open() -> Result<Self, Error> {
        let failed = |error: io::Error| Error::socket("listen to changes of network settings", &error);
        let groups = [libc::RTNLGRP_LINK, libc::RTNLGRP_IPV4_NETCONF, libc::RTNLGRP_IPV6_NETCONF];
        let mut socket = TokioSocket::new(NETLINK_ROUTE).map_err(failed)?;
        tune(socket.socket_ref())?;
        socket.socket_mut().bind(&SocketAddr::new(0, 0)).map_err(failed)?;
        for group in groups {
            socket.socket_mut().add_membership(group).map_err(failed)?;
        }
        Ok(Self { socket, buffer: Vec::with_capacity(READ_BUFFER), events: Vec::new() })
    }

    /// Waits for the next change. May be dropped while it waits: nothing is lost. After an error the subscription is of no more use.
    pub async fn next(&mut self) -> Result<Netconf, Error> {
        loop {
            if let Some(event) = self.events.pop() {
                return Ok(event);
            }
            self.buffer.clear();
            match self.socket.recv_from(&mut self.buffer).await {
                Ok(sender) if sender.port_number() != 0 => {}
                Ok(_) => {
                    self.events.extend(parts(&self.buffer).filter_map(|part| match part.kind {
                        NEW_NETCONF => Some(subject(part.payload)),
                        NEW_LINK | DELETE_LINK => Some(link(part.payload)),
                        _ => None,
                    }));
                    self.events.reverse();
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(Netconf::Overrun),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::socket("listen to changes of network settings", &error)),
            }
        }
    }
}

/// Which interface a message is about: `struct ifinfomsg`.
fn link(payload: &[u8]) -> Netconf {
    const INDEX: std::ops::Range<usize> = 4..8;
    let index = payload.get(INDEX).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    index.and_then(|index| u32::try_from(index).ok()).map_or(Netconf::Overrun, Netconf::Link)
}

/// Which settings a message is about.
fn subject(payload: &[u8]) -> Netconf {
    const ALL: i32 = -1;
    const DEFAULT: i32 = -2;
    let mut rest = payload.get(HEADER..).unwrap_or_default();
    while let Some((&[a, b, c, d], tail)) = rest.split_first_chunk::<4>() {
        let (length, kind) = (usize::from(u16::from_ne_bytes([a, b])), u16::from_ne_bytes([c, d]));
        if kind == ATTRIBUTE_INDEX
            && let Some(bytes) = tail.first_chunk::<4>()
        {
            return match i32::from_ne_bytes(*bytes) {
                ALL => Netconf::All,
                DEFAULT => Netconf::Default,
                index => u32::try_from(index).map_or(Netconf::Overrun, Netconf::Interface),
            };
        }
        if length < 4 {
            break;
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Netconf::Overrun
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_their_interface() {
        let message = |index: i32| {
            let mut bytes = vec![2, 0, 0, 0, 8, 0, 2, 0, 1, 0, 0, 0, 8, 0, 1, 0];
            bytes.extend(index.to_ne_bytes());
            bytes
        };
        assert_eq!(subject(&message(7)), Netconf::Interface(7));
        assert_eq!(subject(&message(-1)), Netconf::All);
        assert_eq!(subject(&message(-2)), Netconf::Default);
        assert_eq!(link(&[0, 0, 1, 0, 7, 0, 0, 0, 0]), Netconf::Link(7));
        assert_eq!(link(&[0, 0, 1, 0, 7]), Netconf::Overrun);
        for broken in [&[][..], &[2, 0, 0, 0], &[2, 0, 0, 0, 0, 0, 2, 0], &[2, 0, 0, 0, 8, 0, 1, 0]] {
            assert_eq!(subject(broken), Netconf::Overrun, "{broken:?}");
        }
    }
}
