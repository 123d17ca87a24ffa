//! The marks of conntrack's entries, swept of stamps that must not count any more.
//!
//! Rules change the mark of a flow when a packet of it comes by; a flow that is silent keeps what it has for as long as conntrack
//! keeps the flow. [`sweep_marks`] goes through all entries and clears what is stale, over ctnetlink. An entry is neither deleted nor
//! otherwise touched, so its flow goes on as it was, translated if it was, and is judged like one without a stamp.
//!
//! A packet may change a mark while it is swept. Then one of the two changes wins: a fresh stamp that is lost costs the flow one
//! judgement, and a stale one is never brought back, since rules write only fresh ones.

use crate::attributes::{Attributes, Message, Messages};
use crate::consts::*;
use crate::error::{Error, reason};
use crate::transport::Transport;
use crate::wire::Writer;

const SUBSYSTEM: u16 = 1;
const MSG_NEW: u16 = 0;
const MSG_GET: u16 = 1;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_MARK: u16 = 8;
const CTA_ZONE: u16 = 18;
const CTA_MARK_MASK: u16 = 21;

/// After how many bytes of changes they are sent.
const PIECE: usize = 64 << 10;

/// The kernel walks its table bucket by bucket, and if it makes the table larger meanwhile it may pass an entry by. So the walk is
/// repeated until one finds nothing stale, but not for ever: what is stamped while it walks is none of its business.
const WALKS: usize = 4;

/// Clears `bits` of the marks of all entries of the calling thread's network namespace, where these bits are neither all zero nor one
/// of `kept`. Returns of how many.
///
/// # Errors
/// [`Error::Request`] where the kernel has no ctnetlink or refuses; some marks may be cleared by then.
pub fn sweep_marks(bits: u32, kept: &[u32]) -> Result<usize, Error> {
    let mut kept = kept.to_vec();
    kept.sort_unstable();
    let mut sweep = Sweep { bits, kept, changes: Changes::open()? };
    let mut cleared = 0;
    for _ in 0..WALKS {
        let found = sweep.walk()?;
        cleared += found;
        if found == 0 {
            break;
        }
    }
    Ok(cleared)
}

struct Sweep {
    bits: u32,
    /// In ascending order.
    kept: Vec<u32>,
    changes: Changes,
}

impl Sweep {
    /// Goes through all entries once; how many were stale.
    fn walk(&mut self) -> Result<usize, Error> {
        let mut transport = Transport::open()?;
        let mut w = Writer::default();
        w.begin_of(SUBSYSTEM, MSG_GET, NLM_F_DUMP, NFPROTO_UNSPEC, 1);
        w.end();
        transport.send(w.bytes())?;
        let mut found = 0;
        loop {
            for message in Messages(transport.receive()?).filter(|message| message.seq == 1) {
                match message.kind {
                    NLMSG_ERROR | NLMSG_DONE => match message.errno() {
                        None | Some(0) => return self.changes.flush().map(|()| found),
                        Some(errno) => return Err(refused(errno)),
                    },
                    _ if self.is_stale(message.attributes()) => {
                        found += 1;
                        self.changes.clear(&message, self.bits)?;
                    }
                    _ => {}
                }
            }
        }
    }

    fn is_stale(&self, entry: Attributes<'_>) -> bool {
        let stamp = entry.number(CTA_MARK).unwrap_or(0) & self.bits;
        stamp != 0 && self.kept.binary_search(&stamp).is_err()
    }
}

/// Changes of entries on their way, by a socket of their own: the other one is in the middle of a dump.
struct Changes {
    transport: Transport,
    writer: Writer,
    seq: u32,
}

impl Changes {
    fn open() -> Result<Self, Error> {
        Ok(Self { transport: Transport::open()?, writer: Writer::default(), seq: 0 })
    }

    /// Has bits of an entry's mark cleared.
    fn clear(&mut self, entry: &Message<'_>, bits: u32) -> Result<(), Error> {
        let (Some(family), Some(tuple)) = (entry.family(), entry.attributes().get(CTA_TUPLE_ORIG)) else {
            return Ok(());
        };
        if self.writer.bytes().len() > PIECE {
            self.flush()?;
        }
        self.seq = self.seq.wrapping_add(1);
        let w = &mut self.writer;
        w.begin_of(SUBSYSTEM, MSG_NEW, 0, family, self.seq);
        w.attribute(CTA_TUPLE_ORIG | NLA_F_NESTED, tuple.payload);
        if let Some(zone) = entry.attributes().get(CTA_ZONE) {
            w.attribute(CTA_ZONE, zone.payload);
        }
        w.number(CTA_MARK, 0);
        w.number(CTA_MARK_MASK, bits);
        w.end();
        Ok(())
    }

    /// Sends what has gathered. That an entry has ended since is no failure.
    fn flush(&mut self) -> Result<(), Error> {
        if self.writer.bytes().is_empty() {
            return Ok(());
        }
        self.writer.acknowledge();
        let writer = std::mem::take(&mut self.writer);
        self.transport.send(writer.bytes())?;
        let mut failed = None;
        loop {
            for message in Messages(self.transport.receive()?) {
                let (NLMSG_ERROR, Some(errno)) = (message.kind, message.errno()) else { continue };
                if errno != 0 && errno != nix::errno::Errno::ENOENT as i32 {
                    failed = failed.or(Some(errno));
                }
                if message.seq == self.seq {
                    return failed.map_or(Ok(()), |errno| Err(refused(errno)));
                }
            }
        }
    }
}

fn refused(errno: i32) -> Error {
    Error::Request { what: "to sweep the marks of conntrack (is nf_conntrack_netlink there?)", reason: reason(errno) }
}
