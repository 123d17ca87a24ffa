//! ctnetlink: conntrack's entries, gone through and changed one by one.
//!
//! Changes go out by a socket of their own, since the other one is in the middle of a dump, and some thousand at a time.

use crate::attributes::{Message, Messages};
use crate::consts::*;
use crate::error::{Error, reason};
use crate::transport::Transport;
use crate::wire::Writer;

const SUBSYSTEM: u16 = 1;
pub(crate) const MSG_NEW: u16 = 0;
const MSG_GET: u16 = 1;
pub(crate) const MSG_DELETE: u16 = 2;
pub(crate) const CTA_TUPLE_ORIG: u16 = 1;
const CTA_ZONE: u16 = 18;

/// After how many bytes changes are sent.
const PIECE: usize = 64 << 10;

/// Shows all entries of the calling thread's network namespace to `change`, which may queue changes of them. What was queued is in force
/// on return.
///
/// # Errors
/// [`Error::Request`] where the kernel has no ctnetlink or refuses; some changes may be in force by then. `what` says what for.
pub(crate) fn walk(
    what: &'static str,
    mut change: impl FnMut(&Message<'_>, &mut Changes) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut dump = Transport::open()?;
    let mut changes = Changes { what, transport: Transport::open()?, writer: Writer::default(), seq: 0 };
    let mut w = Writer::default();
    w.begin_of(SUBSYSTEM, MSG_GET, NLM_F_DUMP, NFPROTO_UNSPEC, 1);
    w.end();
    dump.send(w.bytes())?;
    loop {
        for message in Messages(dump.receive()?).filter(|message| message.seq == 1) {
            match message.kind {
                NLMSG_ERROR | NLMSG_DONE => match message.errno() {
                    None | Some(0) => return changes.flush(),
                    Some(errno) => return Err(Error::Request { what, reason: reason(errno) }),
                },
                _ => change(&message, &mut changes)?,
            }
        }
    }
}

/// Changes on their way.
pub(crate) struct Changes {
    what: &'static str,
    transport: Transport,
    writer: Writer,
    seq: u32,
}

impl Changes {
    /// Queues a request about an entry, with what `write` adds to the entry's tuple and zone.
    pub(crate) fn queue(
        &mut self,
        message: u16,
        entry: &Message<'_>,
        write: impl FnOnce(&mut Writer),
    ) -> Result<(), Error> {
        let (Some(family), Some(tuple)) = (entry.family(), entry.attributes().get(CTA_TUPLE_ORIG)) else {
            return Ok(());
        };
        if self.writer.bytes().len() > PIECE {
            self.flush()?;
        }
        self.seq = self.seq.wrapping_add(1);
        let w = &mut self.writer;
        w.begin_of(SUBSYSTEM, message, 0, family, self.seq);
        w.attribute(CTA_TUPLE_ORIG | NLA_F_NESTED, tuple.payload);
        if let Some(zone) = entry.attributes().get(CTA_ZONE) {
            w.attribute(CTA_ZONE, zone.payload);
        }
        write(w);
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
                    let refused = |errno| Err(Error::Request { what: self.what, reason: reason(errno) });
                    return failed.map_or(Ok(()), refused);
                }
            }
        }
    }
}
