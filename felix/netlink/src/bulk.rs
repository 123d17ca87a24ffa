//! Routes by the thousand: 1,000 messages to a `sendmsg`, an acknowledgement asked of the last one only.
//!
//! The kernel applies messages in order and answers each that fails, asked or not; so when the last one's answer is there, all
//! that failed are known. A batch is no transaction: what did not fail is applied.

use std::io;

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::socket::{READ_BUFFER, messages, request, tune};
use crate::{Error, Netns, RouteSpec};

/// Messages in one `sendmsg`.
const BATCH: usize = 1000;

/// Send buffer, in bytes: a batch of the longest messages that we write (some 80 bytes each) with room to spare.
const SEND_BUFFER: usize = 1 << 20;

/// How long the kernel may take for a batch, in seconds.
const TIMEOUT: u64 = 30;

/// A step towards the routes one wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteChange {
    /// Write the route, in place of any other with its destination and metric.
    Replace(RouteSpec),
    /// Delete the route with this destination, metric and protocol; one that is gone already is no failure.
    Delete(RouteSpec),
}

impl RouteChange {
    /// The route that is written or deleted.
    pub const fn route(&self) -> &RouteSpec {
        match self {
            Self::Replace(route) | Self::Delete(route) => route,
        }
    }

    fn encode(&self) -> Result<(RouteNetlinkMessage, u16), Error> {
        Ok(match self {
            Self::Replace(route) => (RouteNetlinkMessage::NewRoute(route.encode()?), NLM_F_CREATE | NLM_F_REPLACE),
            Self::Delete(route) => (RouteNetlinkMessage::DelRoute(route.encode_delete()), 0),
        })
    }

    fn operation(&self) -> String {
        match self {
            Self::Replace(route) => format!("write route {route}"),
            Self::Delete(route) => format!("delete route {route}"),
        }
    }
}

/// A change that was refused.
#[derive(Debug)]
pub struct RouteFailure {
    /// Which one: its place in the list that was applied.
    pub change: usize,
    /// Why.
    pub error: Error,
}

/// A socket for bulk changes. It blocks: call it from a thread that may wait.
#[derive(Debug)]
pub struct Bulk {
    socket: Socket,
    sequence: u32,
    datagram: Vec<u8>,
}

impl Bulk {
    /// A socket in the calling thread's namespace.
    pub fn current() -> Result<Self, Error> {
        let what = "open a netlink socket";
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(|error| Error::socket(what, &error))?;
        socket.bind_auto().map_err(|error| Error::socket(what, &error))?;
        tune(&socket)?;
        let limit = TimeVal::seconds(TIMEOUT.cast_signed());
        setsockopt(&socket, sockopt::ReceiveTimeout, &limit).map_err(|errno| Error::socket(what, &errno.into()))?;
        if setsockopt(&socket, sockopt::SndBufForce, &SEND_BUFFER).is_err() {
            setsockopt(&socket, sockopt::SndBuf, &SEND_BUFFER).map_err(|errno| Error::socket(what, &errno.into()))?;
        }
        Ok(Self { socket, sequence: 0, datagram: Vec::new() })
    }

    /// A socket in another namespace.
    pub fn in_netns(netns: &Netns) -> Result<Self, Error> {
        netns.run(Self::current)?
    }

    /// Applies changes in order; the ones that were refused, in order. An error means that some answers are unknown: read the routes
    /// back.
    pub fn apply(&mut self, changes: &[RouteChange]) -> Result<Vec<RouteFailure>, Error> {
        let mut failures = Vec::new();
        for (number, batch) in changes.chunks(BATCH).enumerate() {
            self.apply_batch(number * BATCH, batch, &mut failures)?;
        }
        failures.sort_by_key(|failure| failure.change);
        Ok(failures)
    }

    fn apply_batch(
        &mut self,
        offset: usize,
        batch: &[RouteChange],
        failures: &mut Vec<RouteFailure>,
    ) -> Result<(), Error> {
        self.datagram.clear();
        let base = self.sequence;
        self.sequence = self.sequence.wrapping_add(BATCH as u32);
        let mut last = None;
        for (index, change) in batch.iter().enumerate() {
            let (message, flags) = match change.encode() {
                Ok(encoded) => encoded,
                Err(error) => {
                    failures.push(RouteFailure { change: offset + index, error });
                    continue;
                }
            };
            let mut message = request(message, flags);
            message.header.sequence_number = base.wrapping_add(index as u32);
            message.finalize();
            let start = self.datagram.len();
            self.datagram.resize(start + message.buffer_len(), 0);
            message.serialize(&mut self.datagram[start..]);
            last = Some((start, index));
        }
        let Some((start, last)) = last else { return Ok(()) };
        self.acknowledge(start);
        let what = || format!("write {} routes", batch.len());
        let kernel = SocketAddr::new(0, 0);
        loop {
            match self.socket.send_to(&self.datagram, &kernel, 0) {
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::socket(what(), &error)),
            }
        }
        self.collect(base, last, offset, batch, failures)
    }

    /// Sets `NLM_F_ACK` in the header that starts at `start`.
    fn acknowledge(&mut self, start: usize) {
        if let Some(flags) = self.datagram.get_mut(start + 6..start + 8) {
            let value = u16::from_ne_bytes([flags[0], flags[1]]) | NLM_F_ACK;
            flags.copy_from_slice(&value.to_ne_bytes());
        }
    }

    /// Reads answers until the one to the last message.
    fn collect(
        &self,
        base: u32,
        last: usize,
        offset: usize,
        batch: &[RouteChange],
        failures: &mut Vec<RouteFailure>,
    ) -> Result<(), Error> {
        let what = || format!("write {} routes", batch.len());
        let mut buffer = Vec::with_capacity(READ_BUFFER);
        loop {
            buffer.clear();
            match self.socket.recv_from(&mut buffer, 0) {
                Ok((_, sender)) if sender.port_number() != 0 => continue,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(Error::Timeout { operation: what(), seconds: TIMEOUT });
                }
                Err(error) => return Err(Error::socket(what(), &error)),
            }
            let mut done = false;
            for message in messages(&buffer) {
                let message = message.map_err(|reason| Error::Protocol { operation: what(), reason })?;
                let NetlinkPayload::Error(answer) = &message.payload else { continue };
                // An answer to an earlier batch, whose reading broke off, is of no more use.
                let index = message.header.sequence_number.wrapping_sub(base) as usize;
                let Some(change) = batch.get(index) else { continue };
                done |= index == last;
                let gone = matches!(change, RouteChange::Delete(_)) && answer.raw_code() == -(Errno::ESRCH as i32);
                if answer.code.is_some() && !gone {
                    let error = Error::from_message(change.operation(), answer, message.header.flags);
                    failures.push(RouteFailure { change: offset + index, error });
                }
            }
            if done {
                return Ok(());
            }
        }
    }
}
