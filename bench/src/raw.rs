//! nf_tables by hand: messages as bytes that are made before the clock starts, with nothing checked, remembered or numbered. No encoder
//! can be faster, so this is what others are held against.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, setsockopt, sockopt};

/// Elements that surely fit one attribute.
const ELEMENTS_AT_ONCE: usize = 4_000;

const ACK: u16 = 4;
const CREATE: u16 = 0x400;

const NEWTABLE: u16 = 0;
const NEWSET: u16 = 9;
const NEWSETELEM: u16 = 12;
const DELSETELEM: u16 = 14;

/// A batch of messages about one table of family `inet`.
#[derive(Debug, Clone)]
pub struct Raw {
    table: &'static str,
    bytes: Vec<u8>,
}

impl Raw {
    /// A batch that is opened.
    pub fn new(table: &'static str) -> Self {
        let mut raw = Self { table, bytes: Vec::new() };
        raw.message(0x10, 0, 0, 10, &[]);
        raw
    }

    fn message(&mut self, kind: u16, flags: u16, family: u8, resource: u16, body: &[u8]) {
        self.bytes.extend_from_slice(&(body.len() as u32 + 20).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | 1).to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 8]);
        self.bytes.extend_from_slice(&[family, 0]);
        self.bytes.extend_from_slice(&resource.to_be_bytes());
        self.bytes.extend_from_slice(body);
    }

    fn nft(&mut self, kind: u16, flags: u16, body: &[Vec<u8>]) {
        self.message(10 << 8 | kind, flags, 1, 0, &body.concat());
    }

    /// Makes the table.
    pub fn add_table(&mut self) {
        self.nft(NEWTABLE, CREATE, &[text(1, self.table)]);
    }

    /// Makes a set of IPv4 addresses.
    pub fn add_set(&mut self, set: &str) {
        let number = |kind, number: u32| attribute(kind, &number.to_be_bytes());
        let body = [text(1, self.table), text(2, set), number(3, 0), number(4, 7), number(5, 4), number(10, 1)];
        self.nft(NEWSET, CREATE, &body);
    }

    /// Adds addresses to a set, or deletes them.
    pub fn elements(&mut self, add: bool, set: &str, addresses: &[u32]) {
        let (kind, flags) = if add { (NEWSETELEM, CREATE) } else { (DELSETELEM, 0) };
        for chunk in addresses.chunks(ELEMENTS_AT_ONCE) {
            let list: Vec<u8> = chunk
                .iter()
                .flat_map(|address| attribute(0x8001, &attribute(0x8001, &attribute(1, &address.to_be_bytes()))))
                .collect();
            self.nft(kind, flags, &[text(1, self.table), text(2, set), attribute(0x8003, &list)]);
        }
    }

    /// Closes the batch, to be answered as a whole, and returns its bytes.
    pub fn finish(mut self) -> Vec<u8> {
        // The last message so far is found from the front, for only lengths lead from one to the next.
        let mut last = 0;
        let mut next = 0;
        while let Some(length) = self.bytes.get(next..next + 4).and_then(|bytes| bytes.try_into().ok()) {
            last = next;
            next += u32::from_ne_bytes(length) as usize;
        }
        if let Some(flags) = self.bytes.get_mut(last + 6) {
            *flags |= ACK as u8;
        }
        self.message(0x11, 0, 0, 10, &[]);
        self.bytes
    }
}

fn attribute(kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u16 + 4).to_ne_bytes().to_vec();
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(payload);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn text(kind: u16, text: &str) -> Vec<u8> {
    attribute(kind, &[text.as_bytes(), &[0]].concat())
}

/// A socket to nf_tables of the calling thread's network namespace.
///
/// # Errors
/// When the kernel gives none.
pub fn open() -> Result<OwnedFd, String> {
    let failed = |errno| format!("a netlink socket: {errno}");
    let protocol = SockProtocol::NetlinkNetFilter;
    let fd = socket::socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol).map_err(failed)?;
    setsockopt(&fd, sockopt::SndBufForce, &(1 << 20)).map_err(failed)?;
    Ok(fd)
}

/// Sends a batch and waits for the one answer.
///
/// # Errors
/// When the kernel refuses it.
pub fn exchange(fd: &OwnedFd, bytes: &[u8]) -> Result<(), String> {
    socket::send(fd.as_raw_fd(), bytes, MsgFlags::empty()).map_err(|errno| format!("send: {errno}"))?;
    let mut reply = [0; 4096];
    let length = socket::recv(fd.as_raw_fd(), &mut reply, MsgFlags::empty()).map_err(|errno| errno.to_string())?;
    match reply.get(16..20).filter(|_| length >= 20) {
        Some([0, 0, 0, 0]) => Ok(()),
        errno => Err(format!("the kernel refused the raw bytes: {errno:?}")),
    }
}
