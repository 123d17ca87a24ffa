//! What the kernel really does with the packets of one flow, rule by rule.
//!
//! A table of its own marks the flow's packets for tracing, in both directions: by what their headers say, before anything else has
//! seen them and, once more, where addresses are translated; and by how the flow began, so that answers are met too which carry other
//! addresses by then. The kernel takes the table away with the socket that owns it, so no end of this process leaves it behind, and
//! our own table is not touched.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::socket::{
    self, AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, setsockopt, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use tortie_nft::{Family, HookPoint, Match, Op, Rule, Side, Statement};

use crate::attributes::{Attributes, Message, Messages};
use crate::consts::*;
use crate::encode::hook_number;
use crate::error::{Error, reason};
use crate::lower;
use crate::transport::Transport;
use crate::wire::Writer;

/// What the names of tracing tables begin with; the rest is the number of the socket that owns it.
const PREFIX: &str = "tortie-trace-";

/// Room for what the kernel tells before it is read: a packet meets some dozens of rules.
const RECEIVE_BUFFER: usize = 4 << 20;

/// What one reading may give.
const MESSAGE_BUFFER: usize = 64 << 10;

/// Ahead of everything: of conntrack, of translation, and of our own guard.
const FIRST: i32 = -400;

/// Behind conntrack, ahead of translation.
const TRACKED: i32 = -150;

/// A flow, as who begins it sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// Who begins it.
    pub source: IpAddr,
    /// To whom: an endpoint, or the address of a Service.
    pub destination: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// The source's port; any without.
    pub source_port: Option<u16>,
    /// The destination's port; any without, and of a protocol that has none.
    pub destination_port: Option<u16>,
}

/// A rule, or the end of a chain, that a packet met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceEvent {
    /// The packet, by a number that it has for as long as it is in this namespace.
    pub packet: u32,
    /// The family of the table.
    pub family: u8,
    /// The table.
    pub table: String,
    /// The chain.
    pub chain: String,
    /// What it met there.
    pub met: Met,
    /// What became of it.
    pub verdict: TraceVerdict,
    /// The interface that it came in by.
    pub iif: Option<u32>,
    /// The interface that it goes out by.
    pub oif: Option<u32>,
    /// Its addresses at that moment, where the kernel tells, with the first event of a chain.
    pub addresses: Option<(IpAddr, IpAddr)>,
}

/// What a packet met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Met {
    /// The rule of this handle.
    Rule(u64),
    /// The end of a chain that was jumped to, by the kernels that tell of it.
    End,
    /// The policy of a base chain.
    Policy,
}

/// What a rule did with a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TraceVerdict {
    /// It goes on to the next rule.
    Continue,
    /// It leaves the base chain.
    Accept,
    /// It ends.
    Drop,
    /// It goes on in a chain, to come back.
    Jump(String),
    /// It goes on in a chain.
    Goto(String),
    /// It goes back to whoever led here.
    Return,
    /// Another one, by number.
    Other(u32),
}

/// Traces a flow for as long as it lives.
#[derive(Debug)]
pub struct TraceMonitor {
    /// Owns the table.
    _owner: Transport,
    events: OwnedFd,
    buffer: Vec<u8>,
    pending: std::collections::VecDeque<TraceEvent>,
}

impl TraceMonitor {
    /// Begins to trace a flow in the network namespace of the calling thread.
    ///
    /// # Errors
    /// [`Error::Open`]; [`Error::Request`] where the kernel knows no tables that end with their owner (before Linux 5.12).
    pub fn arm(flow: &Flow) -> Result<Self, Error> {
        let open = |errno: nix::Error| Error::Open(errno.into());
        let protocol = SockProtocol::NetlinkNetFilter;
        let events =
            socket::socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol).map_err(open)?;
        if setsockopt(&events, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
            setsockopt(&events, sockopt::RcvBuf, &RECEIVE_BUFFER).map_err(open)?;
        }
        socket::bind(events.as_raw_fd(), &NetlinkAddr::new(0, 1 << (NFNLGRP_NFTRACE - 1))).map_err(open)?;
        let mut owner = Transport::open()?;
        crate::monitor::register(owner.port()).map_err(Error::Open)?;
        let table = format!("{PREFIX}{}", owner.port());
        let (batch, last) = marking(&table, flow);
        owner.send(batch.bytes())?;
        loop {
            for message in Messages(owner.receive()?) {
                let (NLMSG_ERROR, Some(errno)) = (message.kind, message.errno()) else { continue };
                if errno != 0 {
                    return Err(Error::Request { what: "to trace a flow", reason: reason(errno) });
                }
                if message.seq == last {
                    let pending = std::collections::VecDeque::new();
                    return Ok(Self { _owner: owner, events, buffer: vec![0; MESSAGE_BUFFER], pending });
                }
            }
        }
    }

    /// The next event; `None` if there is none until `deadline`. What others trace is told too, as the kernel does not tell whose it is.
    ///
    /// # Errors
    /// [`Error::Listen`]
    pub fn next_until(&mut self, deadline: Instant) -> Result<Option<TraceEvent>, Error> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Ok(Some(event));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let milliseconds = i64::try_from(left.as_millis()).unwrap_or(i64::MAX).clamp(1, 1_000);
            let timeout = TimeVal::milliseconds(milliseconds);
            setsockopt(&self.events, sockopt::ReceiveTimeout, &timeout).map_err(|errno| Error::Listen(errno.into()))?;
            let length = match socket::recv(self.events.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Ok(length) => length,
                // What was not heard is missing from the trace, and the rest is as true as before.
                Err(nix::Error::EINTR | nix::Error::EAGAIN | nix::Error::ENOBUFS) => continue,
                Err(errno) => return Err(Error::Listen(errno.into())),
            };
            let received = self.buffer.get(..length).unwrap_or_default();
            let events = Messages(received).filter_map(|message| event(&message));
            self.pending.extend(events.filter(|event| !event.table.starts_with(PREFIX)));
        }
    }

    /// All events until a moment, or until there are so many.
    ///
    /// # Errors
    /// [`Error::Listen`]
    pub fn collect(&mut self, lasts: Duration, most: usize) -> Result<Vec<TraceEvent>, Error> {
        let deadline = Instant::now() + lasts;
        let mut events = Vec::new();
        while events.len() < most {
            match self.next_until(deadline)? {
                Some(event) => events.push(event),
                None => break,
            }
        }
        Ok(events)
    }
}

/// A batch that makes the table, and the number of its last message.
fn marking(table: &str, flow: &Flow) -> (Writer, u32) {
    let mut seq = 1;
    let mut w = Writer::default();
    w.begin_batch(NFNL_MSG_BATCH_BEGIN, seq);
    w.end();
    let mut next = |w: &mut Writer, kind, flags| {
        seq += 1;
        w.begin(kind, flags, NFPROTO_INET, seq);
    };
    next(&mut w, NFT_MSG_NEWTABLE, NLM_F_CREATE | NLM_F_EXCL);
    w.string(NFTA_TABLE_NAME, table);
    w.number(NFTA_TABLE_FLAGS, NFT_TABLE_F_OWNER);
    w.end();
    let hooks = [
        ("prerouting", HookPoint::Prerouting, FIRST),
        ("output", HookPoint::Output, FIRST),
        ("prerouting_tracked", HookPoint::Prerouting, TRACKED),
        ("output_tracked", HookPoint::Output, TRACKED),
        ("forward", HookPoint::Forward, FIRST),
        ("input", HookPoint::Input, FIRST),
    ];
    for (chain, point, priority) in hooks {
        next(&mut w, NFT_MSG_NEWCHAIN, NLM_F_CREATE | NLM_F_EXCL);
        w.string(NFTA_CHAIN_TABLE, table);
        w.string(NFTA_CHAIN_NAME, chain);
        w.string(NFTA_CHAIN_TYPE, "filter");
        w.number(NFTA_CHAIN_POLICY, NF_ACCEPT);
        let hook = w.nest(NFTA_CHAIN_HOOK);
        w.number(NFTA_HOOK_HOOKNUM, hook_number(point));
        w.number(NFTA_HOOK_PRIORITY, priority.cast_unsigned());
        w.close(hook);
        w.end();
        let mut rule = |expressions: &dyn Fn(&mut Writer)| {
            next(&mut w, NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND);
            w.string(NFTA_RULE_TABLE, table);
            w.string(NFTA_RULE_CHAIN, chain);
            let list = w.nest(NFTA_RULE_EXPRESSIONS);
            expressions(&mut w);
            w.close(list);
            w.end();
        };
        if priority == TRACKED {
            rule(&|w| by_beginning(w, flow));
        } else {
            rule(&|w| lower::rule(w, &by_headers(flow, false)));
            rule(&|w| lower::rule(w, &by_headers(flow, true)));
        }
    }
    w.acknowledge();
    w.begin_batch(NFNL_MSG_BATCH_END, seq + 1);
    w.end();
    (w, seq)
}

fn family(flow: &Flow) -> Family {
    if flow.destination.is_ipv4() { Family::V4 } else { Family::V6 }
}

/// Marks what has the flow's addresses and ports, or, of answers, has them the other way round.
fn by_headers(flow: &Flow, answers: bool) -> Rule {
    let (near, far) = if answers { (Side::Destination, Side::Source) } else { (Side::Source, Side::Destination) };
    let mut matches = vec![Match::NfProto(family(flow))];
    for (side, address) in [(near, flow.source), (far, flow.destination)] {
        matches.push(Match::Addr { side, op: Op::Eq, net: address.into() });
    }
    matches.push(Match::L4Proto(Op::Eq, flow.protocol));
    for (side, port) in [(near, flow.source_port), (far, flow.destination_port)] {
        matches.extend(port.map(|port| Match::Port { side, op: Op::Eq, first: port, last: port }));
    }
    Rule::new(matches, [Statement::Trace])
}

/// Marks what belongs to a flow that began with these addresses and ports, in either direction and however translated.
fn by_beginning(w: &mut Writer, flow: &Flow) {
    let address = |w: &mut Writer, keys: [u32; 2], address: IpAddr| match address {
        IpAddr::V4(address) => lower::ct_original(w, keys[0], &address.octets()),
        IpAddr::V6(address) => lower::ct_original(w, keys[1], &address.octets()),
    };
    lower::rule(w, &Rule::new([Match::NfProto(family(flow)), Match::L4Proto(Op::Eq, flow.protocol)], []));
    address(w, [NFT_CT_SRC_IP, NFT_CT_SRC_IP6], flow.source);
    address(w, [NFT_CT_DST_IP, NFT_CT_DST_IP6], flow.destination);
    for (key, port) in [(NFT_CT_PROTO_SRC, flow.source_port), (NFT_CT_PROTO_DST, flow.destination_port)] {
        if let Some(port) = port {
            lower::ct_original(w, key, &port.to_be_bytes());
        }
    }
    lower::rule(w, &Rule::new([], [Statement::Trace]));
}

/// An event from the kernel's message; `None` if it is none.
fn event(message: &Message<'_>) -> Option<TraceEvent> {
    (message.kind == NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_TRACE).then_some(())?;
    let attributes = message.attributes();
    let wide = |kind| Some(u64::from_be_bytes(*attributes.get(kind)?.payload.first_chunk::<8>()?));
    let verdict = attributes.nested(NFTA_TRACE_VERDICT);
    let met = match attributes.number(NFTA_TRACE_TYPE)? {
        NFT_TRACETYPE_POLICY => Met::Policy,
        NFT_TRACETYPE_RETURN => Met::End,
        NFT_TRACETYPE_RULE => Met::Rule(wide(NFTA_TRACE_RULE_HANDLE)?),
        _ => return None,
    };
    let verdict = match (met, verdict) {
        (Met::Policy, _) => named(attributes.number(NFTA_TRACE_POLICY)?, Attributes(&[])),
        (_, Some(verdict)) => named(verdict.number(NFTA_VERDICT_CODE)?, verdict),
        (_, None) => TraceVerdict::Continue,
    };
    Some(TraceEvent {
        packet: attributes.number(NFTA_TRACE_ID)?,
        family: message.family()?,
        table: attributes.string(NFTA_TRACE_TABLE)?.to_owned(),
        chain: attributes.string(NFTA_TRACE_CHAIN)?.to_owned(),
        met,
        verdict,
        iif: attributes.number(NFTA_TRACE_IIF),
        oif: attributes.number(NFTA_TRACE_OIF),
        addresses: attributes.get(NFTA_TRACE_NETWORK_HEADER).and_then(|header| addresses(header.payload)),
    })
}

fn named(code: u32, verdict: Attributes<'_>) -> TraceVerdict {
    let chain = || verdict.string(NFTA_VERDICT_CHAIN).unwrap_or_default().to_owned();
    match code {
        NF_ACCEPT => TraceVerdict::Accept,
        NF_DROP => TraceVerdict::Drop,
        NFT_CONTINUE => TraceVerdict::Continue,
        NFT_JUMP => TraceVerdict::Jump(chain()),
        NFT_GOTO => TraceVerdict::Goto(chain()),
        NFT_RETURN => TraceVerdict::Return,
        other => TraceVerdict::Other(other),
    }
}

/// Source and destination in a network header.
fn addresses(header: &[u8]) -> Option<(IpAddr, IpAddr)> {
    match header.first()? >> 4 {
        4 => {
            let address = |at: usize| Some(IpAddr::from(*header.get(at..)?.first_chunk::<4>()?));
            Some((address(12)?, address(16)?))
        }
        6 => {
            let address = |at: usize| Some(IpAddr::from(*header.get(at..)?.first_chunk::<16>()?));
            Some((address(8)?, address(24)?))
        }
        _ => None,
    }
}
