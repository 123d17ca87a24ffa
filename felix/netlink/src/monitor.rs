//! What changes in a namespace, by whomever: interfaces, their addresses, and routes of the main table.
//!
//! The kernel does not announce the IPv4 routes that go with an interface that is set down or deleted: whoever keeps a model of the
//! routes takes them out himself at [`Event::LinkRemoved`] or a [`Event::LinkChanged`] to down. What [`Monitor::ignore`] names is
//! sorted out by the kernel already: a bulk write of all routes of a cluster would else fill the socket with its own echo.

use std::collections::VecDeque;
use std::io;

use ipnet::IpNet;
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use socket2::{SockFilter, SockRef};

use crate::net::current_runtime;
use crate::socket::{Part, READ_BUFFER, parts, tune};
use crate::{Error, Link, Netns, RouteSpec, address, codec};

/// Multicast groups: links, addresses and routes of both families.
const GROUPS: u32 = group(libc::RTNLGRP_LINK)
    | group(libc::RTNLGRP_IPV4_IFADDR)
    | group(libc::RTNLGRP_IPV6_IFADDR)
    | group(libc::RTNLGRP_IPV4_ROUTE)
    | group(libc::RTNLGRP_IPV6_ROUTE);

/// The message by which the kernel itself tells of a loss.
const OVERRUN: u16 = 4;

const fn group(number: libc::c_uint) -> u32 {
    1 << (number - 1)
}

/// Something that changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An interface is new or changed.
    LinkChanged(Link),
    /// An interface is gone.
    LinkRemoved {
        /// Its number.
        index: u32,
        /// Its name.
        name: String,
    },
    /// An interface has an address.
    AddressAdded {
        /// The interface.
        index: u32,
        /// The address, with its prefix.
        address: IpNet,
    },
    /// An interface has an address no more.
    AddressRemoved {
        /// The interface.
        index: u32,
        /// The address, with its prefix.
        address: IpNet,
    },
    /// A route is new, or has replaced the one with its destination and metric.
    RouteChanged(RouteSpec),
    /// A route is gone.
    RouteRemoved(RouteSpec),
    /// Events were lost. What came later than the loss was dropped too, so that a state that is read now is older than any event
    /// that follows.
    Overrun,
}

/// A subscription to the events of one namespace, from the moment of its making on.
pub struct Monitor {
    socket: TokioSocket,
    buffer: Vec<u8>,
    events: VecDeque<(Event, u32)>,
    author: u32,
}

impl Monitor {
    /// Events of the calling thread's namespace. Needs a tokio runtime.
    pub fn current() -> Result<Self, Error> {
        current_runtime()?;
        Self::open()
    }

    /// Events of another namespace. Needs a tokio runtime.
    pub fn in_netns(netns: &Netns) -> Result<Self, Error> {
        let runtime = current_runtime()?;
        netns.run(|| {
            let _guard = runtime.enter();
            Self::open()
        })?
    }

    fn open() -> Result<Self, Error> {
        let failed = |error: io::Error| Error::socket("listen to the kernel's events", &error);
        let mut socket = TokioSocket::new(NETLINK_ROUTE).map_err(failed)?;
        tune(socket.socket_ref())?;
        socket.socket_mut().bind(&SocketAddr::new(0, GROUPS)).map_err(failed)?;
        Ok(Self { socket, buffer: Vec::with_capacity(READ_BUFFER), events: VecDeque::new(), author: 0 })
    }

    /// From now on leaves out what these netlink ports cause: see [`Bulk::port`](crate::Bulk::port).
    pub fn ignore(&self, ports: &[u32]) -> Result<(), Error> {
        SockRef::from(self.socket.socket_ref())
            .attach_filter(&sort_out(ports))
            .map_err(|error| Error::socket("leave own changes out of the kernel's events", &error))
    }

    /// The netlink port of the process that caused the event which [`Monitor::next`] returned last: most programs' is their process
    /// number. 0 is the kernel's own doing.
    pub const fn author(&self) -> u32 {
        self.author
    }

    /// Waits for the next event. May be dropped while it waits: no event is lost. After an error the subscription is of no more use.
    pub async fn next(&mut self) -> Result<Event, Error> {
        loop {
            if let Some((event, author)) = self.events.pop_front() {
                self.author = author;
                return Ok(event);
            }
            self.buffer.clear();
            match self.socket.recv_from(&mut self.buffer).await {
                Ok(sender) if sender.port_number() != 0 => {}
                Ok(_) => self.decode(),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => self.drain()?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::socket("listen to the kernel's events", &error)),
            }
        }
    }

    fn decode(&mut self) {
        self.events.extend(parts(&self.buffer).filter_map(|part| Some((decode(&part)?, part.port))));
    }

    /// Throws away what the socket still holds: older than the state that will now be read, it would undo parts of it.
    fn drain(&mut self) -> Result<(), Error> {
        self.events.clear();
        loop {
            self.buffer.clear();
            match self.socket.socket_ref().recv_from(&mut self.buffer, 0) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error)
                    if error.raw_os_error() != Some(libc::ENOBUFS) && error.kind() != io::ErrorKind::Interrupted =>
                {
                    return Err(Error::socket("listen to the kernel's events", &error));
                }
                _ => {}
            }
        }
        self.events.push_back((Event::Overrun, 0));
        Ok(())
    }
}

fn decode(part: &Part<'_>) -> Option<Event> {
    match part.kind {
        codec::NEW_ROUTE => return codec::read(part.payload).map(Event::RouteChanged),
        codec::DELETE_ROUTE => return codec::read(part.payload).map(Event::RouteRemoved),
        OVERRUN => return Some(Event::Overrun),
        _ => {}
    }
    let message = match NetlinkMessage::<RouteNetlinkMessage>::deserialize(part.message) {
        Ok(message) => message,
        Err(error) => {
            // What it said is as lost as if it had not come.
            tracing::warn!(%error, "an event of the kernel could not be read");
            return Some(Event::Overrun);
        }
    };
    let NetlinkPayload::InnerMessage(message) = message.payload else { return None };
    match message {
        RouteNetlinkMessage::NewLink(link) => Link::decode(&link).map(Event::LinkChanged),
        RouteNetlinkMessage::DelLink(link) => {
            Link::decode(&link).map(|link| Event::LinkRemoved { index: link.index, name: link.name })
        }
        RouteNetlinkMessage::NewAddress(message) => {
            address::decode(&message).map(|address| Event::AddressAdded { index: message.header.index, address })
        }
        RouteNetlinkMessage::DelAddress(message) => {
            address::decode(&message).map(|address| Event::AddressRemoved { index: message.header.index, address })
        }
        _ => None,
    }
}

/// A filter of the kernel's (classic BPF) that drops messages caused by any of the ports.
fn sort_out(ports: &[u32]) -> Vec<SockFilter> {
    const LOAD_WORD: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    /// Where a message's header has the port.
    const PORT: u32 = 12;
    let mut program = vec![SockFilter::new(LOAD_WORD, 0, 0, PORT)];
    for port in ports {
        // Words are loaded as the network has them, and this one is in the host's order.
        program.push(SockFilter::new(JUMP_IF_EQUAL, 0, 1, u32::from_be_bytes(port.to_ne_bytes())));
        program.push(SockFilter::new(RETURN, 0, 0, 0));
    }
    program.push(SockFilter::new(RETURN, 0, 0, u32::MAX));
    program
}
