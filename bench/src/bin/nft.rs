//! How long the kernel's nf_tables takes to change: raw netlink bytes prepared beforehand, which no encoder can beat, our executor,
//! and `nft -f`. In turn, each round in a network namespace of its own.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, setsockopt, sockopt};
use tortie_bench::{Work, peer, report};
use tortie_nft::{Key, KeyType, Ruleset, Set, Value};
use tortie_nft_netlink::NftSocket;

/// Elements of the large batch.
const ELEMENTS: u32 = 10_000;
/// How often each measurement is taken.
const ROUNDS: usize = 9;

fn ruleset(elements: impl Iterator<Item = u32>) -> Ruleset {
    let elements = elements.map(|i| -> Key { vec![Value::Addr(Ipv4Addr::from(0x0a00_0000 + i).into())] }).collect();
    let set = Set { key: vec![KeyType::Ipv4Addr], interval: false, elements, comment: None };
    Ruleset { sets: [("pods".to_owned(), set)].into(), ..Ruleset::default() }
}

fn new_netns() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("a new network namespace (needs root)")
}

/// The two pieces of work, as everybody does them.
struct Works {
    batch: Work,
    change: Work,
}

impl Works {
    fn ours(&mut self, all: &Ruleset, other: &Ruleset) -> Result<()> {
        new_netns()?;
        let mut socket = NftSocket::open()?;
        self.batch.time("tortie (diff and executor)", || socket.apply(&Ruleset::default().diff(all)))?;
        let transaction = all.diff(other);
        self.change.time("tortie (diff and executor)", || socket.apply(&transaction))?;
        Ok(())
    }

    fn nft(&mut self, load: &str, edit: &str) -> Result<()> {
        new_netns()?;
        self.batch.time("nft -f", || nft_load(load))?;
        self.change.time("nft -f", || nft_load(edit))
    }

    fn raw(&mut self, load: &Raw, edit: &Raw) -> Result<()> {
        new_netns()?;
        let protocol = SockProtocol::NetlinkNetFilter;
        let fd = socket::socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        setsockopt(&fd, sockopt::SndBufForce, &(1 << 20))?;
        self.batch.time("raw netlink, prepared bytes", || exchange(&fd, &load.0))?;
        self.change.time("raw netlink, prepared bytes", || exchange(&fd, &edit.0))
    }
}

fn nft_load(text: &str) -> Result<()> {
    let mut child = Command::new(peer("nft").map_err(anyhow::Error::msg)?)
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .context("nft does not start")?;
    child.stdin.take().context("a pipe")?.write_all(text.as_bytes())?;
    if !child.wait()?.success() {
        bail!("nft -f refused the text");
    }
    Ok(())
}

/// Messages of nf_tables, written by hand: nothing is checked, remembered or numbered.
#[derive(Default)]
struct Raw(Vec<u8>);

impl Raw {
    fn message(&mut self, kind: u16, flags: u16, family: u8, resource: u16, body: &[u8]) {
        self.0.extend_from_slice(&(body.len() as u32 + 20).to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(&(flags | 1).to_ne_bytes());
        self.0.extend_from_slice(&[0; 8]);
        self.0.extend_from_slice(&[family, 0]);
        self.0.extend_from_slice(&resource.to_be_bytes());
        self.0.extend_from_slice(body);
    }

    fn nft(&mut self, kind: u16, flags: u16, body: &[Vec<u8>]) {
        self.message(10 << 8 | kind, flags, 1, 0, &body.concat());
    }

    fn elements(&mut self, kind: u16, flags: u16, range: std::ops::Range<u32>, last: bool) {
        const ACK: u16 = 4;
        let end = range.end;
        for start in range.step_by(4_000) {
            let chunk = start..(start + 4_000).min(end);
            let ack = if last && chunk.end == end { ACK } else { 0 };
            let list: Vec<u8> = chunk
                .flat_map(|i| attribute(0x8001, &attribute(0x8001, &attribute(1, &(0x0a00_0000 + i).to_be_bytes()))))
                .collect();
            self.nft(kind, flags | ack, &[text(1, "raw"), text(2, "pods"), attribute(0x8003, &list)]);
        }
    }

    fn begin(&mut self) {
        self.message(0x10, 0, 0, 10, &[]);
    }

    fn end(&mut self) {
        self.message(0x11, 0, 0, 10, &[]);
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

fn exchange(fd: &OwnedFd, bytes: &[u8]) -> Result<()> {
    socket::send(fd.as_raw_fd(), bytes, MsgFlags::empty())?;
    let mut reply = [0; 4096];
    let length = socket::recv(fd.as_raw_fd(), &mut reply, MsgFlags::empty())?;
    match reply.get(16..20).filter(|_| length >= 20) {
        Some([0, 0, 0, 0]) => Ok(()),
        errno => bail!("the kernel refused the raw bytes: {errno:?}"),
    }
}

/// The large batch and the change of one element, as bytes.
fn prepared() -> (Raw, Raw) {
    const CREATE: u16 = 0x400;
    let mut load = Raw::default();
    load.begin();
    load.nft(0, CREATE, &[text(1, "raw")]);
    let number = |kind, number: u32| attribute(kind, &number.to_be_bytes());
    load.nft(9, CREATE, &[text(1, "raw"), text(2, "pods"), number(3, 0), number(4, 7), number(5, 4), number(10, 1)]);
    load.elements(12, CREATE, 0..ELEMENTS, true);
    load.end();
    let mut edit = Raw::default();
    edit.begin();
    edit.elements(14, 0, 0..1, false);
    edit.elements(12, CREATE, ELEMENTS..ELEMENTS + 1, true);
    edit.end();
    (load, edit)
}

fn main() -> Result<()> {
    let (all, other) = (ruleset(0..ELEMENTS), ruleset(1..=ELEMENTS));
    let (load, edit) = (Ruleset::default().diff(&all).to_string(), all.diff(&other).to_string());
    let (raw_load, raw_edit) = prepared();
    let mut works = Works {
        batch: Work::new("batch of 10,000 set elements", ELEMENTS as usize),
        change: Work::new("one element goes, one comes", 1),
    };
    for _ in 0..ROUNDS {
        works.raw(&raw_load, &raw_edit)?;
        works.ours(&all, &other)?;
        works.nft(&load, &edit)?;
    }
    report(&[works.batch.rows(), works.change.rows()].concat()).map_err(anyhow::Error::msg)
}
