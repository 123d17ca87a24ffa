//! What changes in a namespace, by whomever: interfaces, and routes of the main table.
//!
//! Our own writes are announced too. The kernel does not announce the IPv4 routes that go with an interface that is set down or
//! deleted: whoever keeps a model of the routes takes them out himself at [`Event::LinkRemoved`] or a [`Event::LinkChanged`] to down.

use std::collections::VecDeque;
use std::io;

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};

use crate::net::current_runtime;
use crate::socket::{READ_BUFFER, messages, tune};
use crate::{Error, Link, Netns, RouteSpec};

/// Multicast groups of links, of IPv4 routes and of IPv6 routes.
const GROUPS: u32 = group(libc::RTNLGRP_LINK) | group(libc::RTNLGRP_IPV4_ROUTE) | group(libc::RTNLGRP_IPV6_ROUTE);

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
    events: VecDeque<Event>,
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
        Ok(Self { socket, buffer: Vec::with_capacity(READ_BUFFER), events: VecDeque::new() })
    }

    /// Waits for the next event. May be dropped while it waits: no event is lost. After an error the subscription is of no more use.
    pub async fn next(&mut self) -> Result<Event, Error> {
        loop {
            if let Some(event) = self.events.pop_front() {
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
        for message in messages(&self.buffer) {
            match message {
                Ok(message) => self.events.extend(decode(&message)),
                Err(reason) => {
                    // What it said is as lost as if it had not come.
                    tracing::warn!(reason, "an event of the kernel could not be read");
                    self.events.push_back(Event::Overrun);
                }
            }
        }
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
        self.events.push_back(Event::Overrun);
        Ok(())
    }
}

fn decode(message: &NetlinkMessage<RouteNetlinkMessage>) -> Option<Event> {
    match &message.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => Link::decode(link).map(Event::LinkChanged),
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) => {
            Link::decode(link).map(|link| Event::LinkRemoved { index: link.index, name: link.name })
        }
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) => {
            RouteSpec::decode(route).map(Event::RouteChanged)
        }
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelRoute(route)) => {
            RouteSpec::decode(route).map(Event::RouteRemoved)
        }
        NetlinkPayload::Overrun(_) => Some(Event::Overrun),
        _ => None,
    }
}
