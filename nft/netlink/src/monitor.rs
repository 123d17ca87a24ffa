//! Who changes nf_tables: one event for each commit, whosever it is.
//!
//! The kernel announces every object of a commit, down to the single element, and then the new generation with the process that made
//! it. Only the latter is told here, with whether one of the former named our table: of an announcement no more than its first
//! attribute is looked at. Those of our own commits are not even received: a filter in the kernel takes them out, so that a bulk
//! change of ours costs this socket neither time nor room.
//!
//! What is ours is known by the netlink address that every announcement carries: that of the socket by which the commit came.
//! [`NftSocket`](crate::NftSocket) enters its own in a list of this process, so a monitor knows the sockets of its own process in its
//! own network namespace, those that are opened later too.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::linux::fs::MetadataExt;
use std::sync::{Mutex, PoisonError};

use nix::sys::socket::{
    self, AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, setsockopt, sockopt,
};
use tortie_nft::TABLE;

use crate::attributes::{Attribute, Message, Messages};
use crate::consts::*;
use crate::error::Error;
use crate::filter;

/// Room for what others announce before it is read. A commit with 100,000 elements announces some 10 MB.
const RECEIVE_BUFFER: usize = 4 << 20;

/// What one reading may give: announcements come in pieces of a page or two.
const MESSAGE_BUFFER: usize = 64 << 10;

/// How many addresses of our own sockets are remembered: a socket that fails is opened anew, and its last commits may still be on the way.
const OWN_MAX: usize = 16;

/// What happened to nf_tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NftEvent {
    /// A commit took effect.
    Commit {
        /// The generation that it made.
        generation: u32,
        /// Who made it: process id, as the initial namespace counts, and the name of the program. `None` where the kernel does not tell.
        process: Option<(u32, String)>,
        /// Whether it came from an [`NftSocket`](crate::NftSocket) of this process.
        ours: bool,
        /// Whether it changed something of our table, or all of it. Always true for our own, and perhaps without reason for the first
        /// after an [`Overrun`](Self::Overrun).
        touched: bool,
    },
    /// More was announced than there was room for: what happened is unknown, and the table must be read.
    Overrun,
}

/// What one reading gave.
enum Piece {
    /// There was nothing to read yet.
    Missing,
    /// The commit that it belongs to has not ended.
    Eventless,
    Event(NftEvent),
}

/// A netlink address of this process's: in which network namespace (device and inode), and which.
type Own = ((u64, u64), u32);

/// The sockets of this process that write.
static OWN: Mutex<VecDeque<Own>> = Mutex::new(VecDeque::new());

/// The network namespace of the calling thread.
fn namespace() -> io::Result<(u64, u64)> {
    let namespace = std::fs::metadata("/proc/thread-self/ns/net")?;
    Ok((namespace.st_dev(), namespace.st_ino()))
}

/// Enters a socket that the calling thread opened.
pub(crate) fn register(port: u32) -> io::Result<()> {
    let own = (namespace()?, port);
    let mut list = OWN.lock().unwrap_or_else(PoisonError::into_inner);
    list.retain(|known| *known != own);
    list.push_back(own);
    if list.len() > OWN_MAX {
        list.pop_front();
    }
    Ok(())
}

/// The addresses of this process's sockets in a network namespace.
fn registered(namespace: (u64, u64)) -> Vec<u32> {
    let list = OWN.lock().unwrap_or_else(PoisonError::into_inner);
    list.iter().filter(|(of, _)| *of == namespace).map(|(_, port)| *port).collect()
}

/// Listens to what happens to nf_tables in the network namespace of the thread that opened it. It can be polled as a file descriptor.
#[derive(Debug)]
pub struct NftMonitor {
    fd: OwnedFd,
    namespace: (u64, u64),
    /// The addresses that the filter keeps out.
    filtered: Vec<u32>,
    buffer: Vec<u8>,
    /// Whether the commit that is being announced has named our table.
    touched: bool,
}

impl NftMonitor {
    /// Begins to listen. Commits from here on are told.
    ///
    /// # Errors
    /// [`Error::Open`], without `CAP_NET_ADMIN` for example.
    pub fn open() -> Result<Self, Error> {
        Self::with_receive_buffer(RECEIVE_BUFFER)
    }

    /// Begins to listen with room for so many bytes of announcements, of which the kernel makes a page at least. For tests of
    /// [`NftEvent::Overrun`].
    ///
    /// # Errors
    /// [`Error::Open`]
    pub fn with_receive_buffer(bytes: usize) -> Result<Self, Error> {
        let open = |errno: nix::Error| Error::Open(errno.into());
        let protocol = SockProtocol::NetlinkNetFilter;
        let fd =
            socket::socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol).map_err(open)?;
        if setsockopt(&fd, sockopt::RcvBufForce, &bytes).is_err() {
            setsockopt(&fd, sockopt::RcvBuf, &bytes).map_err(open)?;
        }
        let namespace = namespace().map_err(Error::Open)?;
        let mut monitor = Self { fd, namespace, filtered: Vec::new(), buffer: vec![0; MESSAGE_BUFFER], touched: false };
        monitor.filter().map_err(Error::Open)?;
        socket::bind(monitor.fd.as_raw_fd(), &NetlinkAddr::new(0, 1 << (NFNLGRP_NFTABLES - 1))).map_err(open)?;
        Ok(monitor)
    }

    /// The next event; waits for it.
    ///
    /// # Errors
    /// [`Error::Listen`], after which the monitor is of no use.
    #[expect(clippy::should_implement_trait, reason = "it does not end, but fails")]
    pub fn next(&mut self) -> Result<NftEvent, Error> {
        loop {
            if let Piece::Event(event) = self.receive(MsgFlags::empty())? {
                return Ok(event);
            }
        }
    }

    /// The next event, `None` if there is none yet.
    ///
    /// # Errors
    /// [`Error::Listen`], after which the monitor is of no use.
    pub fn try_next(&mut self) -> Result<Option<NftEvent>, Error> {
        loop {
            match self.receive(MsgFlags::MSG_DONTWAIT)? {
                Piece::Missing => return Ok(None),
                Piece::Event(event) => return Ok(Some(event)),
                Piece::Eventless => {}
            }
        }
    }

    /// Reads a piece of what was announced.
    fn receive(&mut self, flags: MsgFlags) -> Result<Piece, Error> {
        let length = match socket::recv(self.fd.as_raw_fd(), &mut self.buffer, flags | MsgFlags::MSG_TRUNC) {
            Ok(length) => length,
            Err(nix::Error::EINTR) => return Ok(Piece::Eventless),
            Err(nix::Error::EAGAIN) => return Ok(Piece::Missing),
            Err(nix::Error::ENOBUFS) => return Ok(Piece::Event(NftEvent::Overrun)),
            Err(errno) => return Err(Error::Listen(errno.into())),
        };
        let Some(received) = self.buffer.get(..length) else { return Ok(Piece::Event(NftEvent::Overrun)) };
        let mut commit = None;
        for message in Messages(received) {
            if message.kind == GENERATION {
                commit = Some((message.port, Generation::of(&message)));
            } else if !self.touched {
                self.touched = names_our_table(&message);
            }
        }
        // The kernel sends the generation alone, as the last of its commit.
        let Some((port, Some(generation))) = commit else { return Ok(Piece::Eventless) };
        let ours = self.is_ours(port)?;
        let touched = std::mem::take(&mut self.touched) || ours;
        let Generation { number: generation, process } = generation;
        Ok(Piece::Event(NftEvent::Commit { generation, process, ours, touched }))
    }

    /// Whether an address is one of this process's. One that the filter lets through is added to it.
    fn is_ours(&mut self, port: u32) -> Result<bool, Error> {
        if self.filtered.contains(&port) {
            return Ok(true);
        }
        if !registered(self.namespace).contains(&port) {
            return Ok(false);
        }
        self.filter().map_err(Error::Listen)?;
        Ok(true)
    }

    /// Has the kernel keep out what our own sockets' commits announce, but for the generation.
    fn filter(&mut self) -> io::Result<()> {
        self.filtered = registered(self.namespace);
        filter::attach(self.fd.as_fd(), &filter::all_but(GENERATION, &self.filtered))
    }
}

impl AsFd for NftMonitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The type of the message that ends a commit.
const GENERATION: u16 = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWGEN;

struct Generation {
    number: u32,
    process: Option<(u32, String)>,
}

impl Generation {
    fn of(message: &Message<'_>) -> Option<Self> {
        let attributes = message.attributes();
        let number = attributes.number(NFTA_GEN_ID)?;
        let process = attributes.number(NFTA_GEN_PROC_PID).map(|pid| {
            let name = attributes.get(NFTA_GEN_PROC_NAME).map(Attribute::text).unwrap_or_default();
            (pid, name)
        });
        Some(Self { number, process })
    }
}

/// Whether an announcement is of our table. The table's name comes first in every one of them.
fn names_our_table(message: &Message<'_>) -> bool {
    message.kind >> 8 == NFNL_SUBSYS_NFTABLES
        && message.family() == Some(NFPROTO_INET)
        && message.attributes().into_iter().next().is_some_and(|first| {
            first.kind == NFTA_TABLE_NAME && first.payload.strip_suffix(&[0]) == Some(TABLE.as_bytes())
        })
}
