//! Flows of addresses that change hands, taken out of conntrack.
//!
//! A pod's address may be another pod's a second later. Policies see to it that the new one gets nothing that it must not get; but a
//! flow to a Service that was translated to the old pod would go on to the new one, though it is no backend of that Service. So when
//! a pod lets an address go, the entries that bear it go too, whichever end it is at and before or after translation.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::attributes::{Attributes, Message, Messages};
use crate::consts::*;
use crate::error::{Error, reason};
use crate::transport::Transport;
use crate::wire::Writer;

const SUBSYSTEM: u16 = 1;
const MSG_GET: u16 = 1;
const MSG_DELETE: u16 = 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_TUPLE_IP: u16 = 1;
/// Source and destination of IPv4, source and destination of IPv6.
const CTA_IP: [u16; 4] = [1, 2, 3, 4];

/// After how many bytes deletions are sent.
const PIECE: usize = 64 << 10;

/// Deletes conntrack's entries, in the calling thread's network namespace, that have one of these addresses at any end. Returns how
/// many. Each is deleted by its number too, so a flow that takes the place of another meanwhile stays.
///
/// # Errors
/// [`Error::Request`] where the kernel has no ctnetlink or refuses; some may be deleted by then.
pub fn forget_flows(addresses: &BTreeSet<IpAddr>) -> Result<usize, Error> {
    let mut dump = Transport::open()?;
    let mut deletions = Deletions { transport: Transport::open()?, writer: Writer::default(), seq: 0 };
    let mut w = Writer::default();
    w.begin_of(SUBSYSTEM, MSG_GET, NLM_F_DUMP, NFPROTO_UNSPEC, 1);
    w.end();
    dump.send(w.bytes())?;
    let mut found = 0;
    loop {
        for message in Messages(dump.receive()?).filter(|message| message.seq == 1) {
            match message.kind {
                NLMSG_ERROR | NLMSG_DONE => match message.errno() {
                    None | Some(0) => return deletions.flush().map(|()| found),
                    Some(errno) => return Err(refused(errno)),
                },
                _ if bears(message.attributes(), addresses) => {
                    found += 1;
                    deletions.add(&message)?;
                }
                _ => {}
            }
        }
    }
}

/// Whether an entry has one of the addresses.
fn bears(entry: Attributes<'_>, addresses: &BTreeSet<IpAddr>) -> bool {
    [CTA_TUPLE_ORIG, CTA_TUPLE_REPLY].into_iter().any(|tuple| {
        let ends = entry.nested(tuple).and_then(|tuple| tuple.nested(CTA_TUPLE_IP));
        ends.is_some_and(|ends| {
            ends.into_iter()
                .filter(|end| CTA_IP.contains(&end.kind))
                .filter_map(|end| address(end.payload))
                .any(|address| addresses.contains(&address))
        })
    })
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => bytes.first_chunk::<4>().map(|bytes| Ipv4Addr::from(*bytes).into()),
        16 => bytes.first_chunk::<16>().map(|bytes| Ipv6Addr::from(*bytes).into()),
        _ => None,
    }
}

/// Deletions on their way, by a socket of their own: the other one is in the middle of a dump.
struct Deletions {
    transport: Transport,
    writer: Writer,
    seq: u32,
}

impl Deletions {
    fn add(&mut self, entry: &Message<'_>) -> Result<(), Error> {
        let (Some(family), Some(tuple)) = (entry.family(), entry.attributes().get(CTA_TUPLE_ORIG)) else {
            return Ok(());
        };
        if self.writer.bytes().len() > PIECE {
            self.flush()?;
        }
        self.seq = self.seq.wrapping_add(1);
        let w = &mut self.writer;
        w.begin_of(SUBSYSTEM, MSG_DELETE, 0, family, self.seq);
        w.attribute(CTA_TUPLE_ORIG | NLA_F_NESTED, tuple.payload);
        for kind in [CTA_ZONE, CTA_ID] {
            if let Some(attribute) = entry.attributes().get(kind) {
                w.attribute(kind, attribute.payload);
            }
        }
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
    Error::Request { what: "to delete entries of conntrack (is nf_conntrack_netlink there?)", reason: reason(errno) }
}
