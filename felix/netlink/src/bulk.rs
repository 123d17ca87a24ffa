//! Routes by the hundred thousand. Written: 1,000 messages to a `sendmsg`, an acknowledgement asked of the last one only. Read: each
//! decoded where it stands in the kernel's answer, so that no more than the routes themselves is ever in memory.
//!
//! The kernel applies messages in order and answers each that fails, asked or not; so when the last one's answer is there, all
//! that failed are known. A batch is no transaction: what did not fail is applied.

use std::collections::HashSet;
use std::io;

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP_INTR, NLM_F_EXCL, NLM_F_REPLACE, NetlinkPayload};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::codec;
use crate::socket::{READ_BUFFER, messages, parts, tune};
use crate::{Error, Netns, RouteSpec};

/// Messages in one `sendmsg`.
const BATCH: usize = 1000;

/// A batch ends early at this size, in bytes: only where routes have many next hops (else a message has some 80 bytes).
const LARGEST_BATCH: usize = 512 << 10;

/// Send buffer, in bytes: the largest batch, with what the kernel adds.
const SEND_BUFFER: usize = 2 << 20;

/// How long the kernel may take for a batch, in seconds.
const TIMEOUT: u64 = 30;

/// How often a dump that a concurrent change tore is read again.
const DUMP_ATTEMPTS: usize = 20;

/// How often an IPv6 table that comes in parts is read for two times in a row that agree.
const AGREEMENT_ATTEMPTS: usize = 6;

/// The receive buffer of every other reading of an IPv6 table, in bytes: room for any message, and no divisor of the usual parts.
const SMALL_PART: usize = 20 << 10;

/// A step towards the routes one wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteChange {
    /// Write the route where there is none with its destination and metric; refused with `EEXIST` if there is one, whoever's.
    Create(RouteSpec),
    /// Write the route, in place of any other with its destination and metric.
    Replace(RouteSpec),
    /// Delete the route with this destination, metric and protocol, wherever it leads; one that is gone already is no failure. Of an
    /// IPv6 route by gateways, those of its gateways.
    Delete(RouteSpec),
    /// Take these gateways of ours from an IPv6 route, and leave the others. Refused with `ESRCH` where one of them is not there, or
    /// not of our protocol: the kernel keeps next hops of several programs in one route, and does not tell them apart when it is read.
    Shrink(RouteSpec),
}

impl RouteChange {
    /// The route that is written or deleted.
    pub const fn route(&self) -> &RouteSpec {
        match self {
            Self::Create(route) | Self::Replace(route) | Self::Delete(route) | Self::Shrink(route) => route,
        }
    }

    fn encode(&self, sequence: u32, out: &mut Vec<u8>) -> Result<(), Error> {
        match self {
            Self::Create(route) => codec::write(route, NLM_F_CREATE | NLM_F_EXCL, sequence, out),
            Self::Replace(route) => codec::write(route, NLM_F_CREATE | NLM_F_REPLACE, sequence, out),
            Self::Delete(route) | Self::Shrink(route) => {
                codec::delete(route, 0, sequence, out);
                Ok(())
            }
        }
    }

    fn operation(&self) -> String {
        match self {
            Self::Create(route) | Self::Replace(route) => format!("write route {route}"),
            Self::Delete(route) | Self::Shrink(route) => format!("delete route {route}"),
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

/// A socket for routes in bulk. It blocks: call it from a thread that may wait.
#[derive(Debug)]
pub struct Bulk {
    socket: Socket,
    /// Reads in smaller parts than `socket`: see [`Bulk::read_ipv6`].
    second: Socket,
    port: u32,
    sequence: u32,
    datagram: Vec<u8>,
}

impl Bulk {
    /// A socket in the calling thread's namespace.
    pub fn current() -> Result<Self, Error> {
        let (socket, port) = open()?;
        if setsockopt(&socket, sockopt::SndBufForce, &SEND_BUFFER).is_err() {
            setsockopt(&socket, sockopt::SndBuf, &SEND_BUFFER)
                .map_err(|errno| Error::socket(OPENING, &errno.into()))?;
        }
        let (second, _) = open()?;
        Ok(Self { socket, second, port, sequence: 0, datagram: Vec::new() })
    }

    /// A socket in another namespace.
    pub fn in_netns(netns: &Netns) -> Result<Self, Error> {
        netns.run(Self::current)?
    }

    /// The socket's netlink port, which the kernel's announcements of what it wrote bear: see
    /// [`Monitor::ignore`](crate::Monitor::ignore).
    pub const fn port(&self) -> u32 {
        self.port
    }

    /// Applies changes in order; the ones that were refused, in order. An error means that some answers are unknown: read the routes
    /// back.
    pub fn apply(&mut self, changes: &[RouteChange]) -> Result<Vec<RouteFailure>, Error> {
        let (mut failures, mut done) = (Vec::new(), 0);
        while let Some(rest) = changes.get(done..).filter(|rest| !rest.is_empty()) {
            done += self.apply_batch(done, rest, &mut failures)?;
        }
        failures.sort_by_key(|failure| failure.change);
        Ok(failures)
    }

    /// Applies as many changes as go into one `sendmsg`, and says how many that were.
    fn apply_batch(
        &mut self,
        offset: usize,
        changes: &[RouteChange],
        failures: &mut Vec<RouteFailure>,
    ) -> Result<usize, Error> {
        self.datagram.clear();
        let base = self.sequence;
        let (mut last, mut count) = (None, 0);
        for (index, change) in changes.iter().take(BATCH).enumerate() {
            let start = self.datagram.len();
            if start > LARGEST_BATCH {
                break;
            }
            count = index + 1;
            match change.encode(base.wrapping_add(index as u32), &mut self.datagram) {
                Ok(()) => last = Some((start, index)),
                Err(error) => failures.push(RouteFailure { change: offset + index, error }),
            }
        }
        self.sequence = base.wrapping_add(count as u32);
        let Some((start, last)) = last else { return Ok(count) };
        let batch = &changes[..count];
        self.acknowledge(start);
        send(&self.socket, &self.datagram).map_err(|error| Error::socket(writing(batch), &error))?;
        self.collect(base, last, offset, batch, failures)?;
        Ok(count)
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
        let mut buffer = Vec::with_capacity(READ_BUFFER);
        loop {
            receive(&self.socket, &mut buffer, || writing(batch))?;
            let mut done = false;
            for message in messages(&buffer) {
                let message = message.map_err(|reason| Error::Protocol { operation: writing(batch), reason })?;
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

    /// The routes of the main table, IPv4 and IPv6: all, or those of one protocol (the kernel filters). Without those that hold only
    /// for some packets to their destination: for one type of service, or from one source.
    pub fn routes(&mut self, protocol: Option<u8>) -> Result<Vec<RouteSpec>, Error> {
        self.routes_as(protocol, Some)
    }

    /// The same, each turned into something else, or left out, while it is read.
    pub fn routes_as<T>(
        &mut self,
        protocol: Option<u8>,
        mut convert: impl FnMut(RouteSpec) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        let (routes, _) = self.read_family(true, false, protocol)?;
        let mut all: Vec<T> = routes.into_iter().filter_map(&mut convert).collect();
        all.extend(self.read_ipv6(protocol)?.into_iter().filter_map(convert));
        Ok(all)
    }

    /// Reads the IPv6 routes, until two readings agree. The kernel finds the place where it went on by counting routes: one that is
    /// deleted meanwhile makes it pass over another, and it does not say so. (IPv4 goes by keys.) What is passed over stood between
    /// two parts, so every other reading comes in parts of another size, lest two pass over the same. Where readings never agree,
    /// what is in either of the last two is taken: who wants to know what is gone hears it from a [`Monitor`](crate::Monitor).
    fn read_ipv6(&mut self, protocol: Option<u8>) -> Result<Vec<RouteSpec>, Error> {
        let mut before = Vec::new();
        for attempt in 0..AGREEMENT_ATTEMPTS {
            let (routes, parts) = self.read_family(false, attempt % 2 == 1, protocol)?;
            if parts <= 1 || before == routes {
                return Ok(routes);
            }
            before = routes;
        }
        before.extend(self.read_family(false, AGREEMENT_ATTEMPTS % 2 == 1, protocol)?.0);
        let mut seen = HashSet::with_capacity(before.len());
        before.retain(|route| seen.insert(route.clone()));
        Ok(before)
    }

    /// Reads one family, again as long as the kernel says that it changed meanwhile. Tells in how many parts it came, which may be
    /// small ones.
    fn read_family(&mut self, ipv4: bool, small: bool, protocol: Option<u8>) -> Result<(Vec<RouteSpec>, usize), Error> {
        let mut routes = Vec::new();
        for _ in 0..DUMP_ATTEMPTS {
            routes.clear();
            if let Some(parts) = self.dump(ipv4, small, protocol, &mut routes)? {
                return Ok((routes, parts));
            }
        }
        Err(Error::kernel(READING, Errno::EINTR))
    }

    /// Reads one family once, and tells in how many parts it came. None when it has to be read again: a change came in between, or
    /// an earlier dump was not read to its end.
    fn dump(
        &mut self,
        ipv4: bool,
        small: bool,
        protocol: Option<u8>,
        routes: &mut Vec<RouteSpec>,
    ) -> Result<Option<usize>, Error> {
        // The kernel fills parts up to the largest buffer that the socket was ever read with.
        let (socket, size) = if small { (&self.second, SMALL_PART) } else { (&self.socket, READ_BUFFER) };
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        let request = codec::dump(ipv4, protocol.unwrap_or(0), sequence);
        send(socket, &request).map_err(|error| Error::socket(READING, &error))?;
        let mut buffer = Vec::with_capacity(size);
        let (mut whole, mut with_routes) = (true, 0);
        loop {
            receive(socket, &mut buffer, || READING.to_owned())?;
            let before = routes.len();
            for part in parts(&buffer).filter(|part| part.sequence == sequence) {
                whole &= part.flags & NLM_F_DUMP_INTR == 0;
                match part.kind {
                    // The kernel's filter, where there is one, is a saving and no promise.
                    codec::NEW_ROUTE => routes.extend(
                        codec::read(part.payload)
                            .filter(|route| protocol.is_none_or(|protocol| route.protocol == protocol)),
                    ),
                    codec::ERROR | codec::DONE => {
                        return match part.code() {
                            0 => Ok(whole.then_some(with_routes + usize::from(routes.len() > before))),
                            // A table comes into being with its first route, a family with its module.
                            libc::ENOENT | libc::EAFNOSUPPORT | libc::EOPNOTSUPP => Ok(Some(0)),
                            libc::EBUSY => {
                                drain(socket, size);
                                Ok(None)
                            }
                            code => Err(Error::kernel(READING, Errno::from_raw(code))),
                        };
                    }
                    _ => {}
                }
            }
            with_routes += usize::from(routes.len() > before);
        }
    }
}

/// A socket in the calling thread's namespace, and its port.
fn open() -> Result<(Socket, u32), Error> {
    let mut socket = Socket::new(NETLINK_ROUTE).map_err(|error| Error::socket(OPENING, &error))?;
    let port = socket.bind_auto().map_err(|error| Error::socket(OPENING, &error))?.port_number();
    tune(&socket)?;
    let limit = TimeVal::seconds(TIMEOUT.cast_signed());
    setsockopt(&socket, sockopt::ReceiveTimeout, &limit).map_err(|errno| Error::socket(OPENING, &errno.into()))?;
    Ok((socket, port))
}

fn send(socket: &Socket, datagram: &[u8]) -> io::Result<()> {
    let kernel = SocketAddr::new(0, 0);
    loop {
        match socket.send_to(datagram, &kernel, 0) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Reads one datagram of the kernel's.
fn receive(socket: &Socket, buffer: &mut Vec<u8>, operation: impl Fn() -> String) -> Result<(), Error> {
    loop {
        buffer.clear();
        match socket.recv_from(buffer, 0) {
            // Anybody may send to a netlink socket; only the kernel is at port 0.
            Ok((_, sender)) if sender.port_number() != 0 => {}
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(Error::Timeout { operation: operation(), seconds: TIMEOUT });
            }
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                return Err(Error::Overrun { operation: operation() });
            }
            Err(error) => return Err(Error::socket(operation(), &error)),
        }
    }
}

/// Reads what is left of a dump whose reader gave up half way.
fn drain(socket: &Socket, size: usize) {
    let mut buffer = Vec::with_capacity(size);
    loop {
        buffer.clear();
        match socket.recv_from(&mut buffer, libc::MSG_DONTWAIT) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) if error.raw_os_error().is_none() => return,
            _ => {}
        }
    }
}

const OPENING: &str = "open a netlink socket";
const READING: &str = "read the main routing table";

fn writing(batch: &[RouteChange]) -> String {
    format!("write {} routes", batch.len())
}
