//! The marks of conntrack's entries, swept of stamps that must not count any more.
//!
//! Rules change the mark of a flow when a packet of it comes by; a flow that is silent keeps what it has for as long as conntrack
//! keeps the flow. [`sweep_marks`] goes through all entries and clears what is stale, over ctnetlink. An entry is neither deleted nor
//! otherwise touched, so its flow goes on as it was, translated if it was, and is judged like one without a stamp.
//!
//! A packet may change a mark while it is swept. Then one of the two changes wins: a fresh stamp that is lost costs the flow one
//! judgement, and a stale one is never brought back, since rules write only fresh ones.

use crate::attributes::Attributes;
use crate::ctnetlink::{MSG_NEW, walk};
use crate::error::Error;

const CTA_MARK: u16 = 8;
const CTA_MARK_MASK: u16 = 21;

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
    let is_stale = |entry: Attributes<'_>| {
        let stamp = entry.number(CTA_MARK).unwrap_or(0) & bits;
        stamp != 0 && kept.binary_search(&stamp).is_err()
    };
    let mut cleared = 0;
    for _ in 0..WALKS {
        let mut found = 0;
        walk("to sweep the marks of conntrack (is nf_conntrack_netlink there?)", |entry, changes| {
            if !is_stale(entry.attributes()) {
                return Ok(());
            }
            found += 1;
            changes.queue(MSG_NEW, entry, |w| {
                w.number(CTA_MARK, 0);
                w.number(CTA_MARK_MASK, bits);
            })
        })?;
        cleared += found;
        if found == 0 {
            break;
        }
    }
    Ok(cleared)
}
