//! Flows of addresses that change hands, taken out of conntrack.
//!
//! A pod's address may be another pod's a second later. Policies see to it that the new one gets nothing that it must not get; but a
//! flow to a Service that was translated to the old pod would go on to the new one, though it is no backend of that Service. So when
//! a pod lets an address go, the entries that bear it go too, whichever end it is at and before or after translation.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::attributes::Attributes;
use crate::ctnetlink::{CTA_TUPLE_ORIG, MSG_DELETE, walk};
use crate::error::Error;

const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_TUPLE_IP: u16 = 1;
/// Source and destination of IPv4, source and destination of IPv6.
const CTA_IP: [u16; 4] = [1, 2, 3, 4];

/// Deletes conntrack's entries, in the calling thread's network namespace, that have one of these addresses at any end. Returns how
/// many. Each is deleted by its number too, so a flow that takes the place of another meanwhile stays.
///
/// # Errors
/// [`Error::Request`] where the kernel has no ctnetlink or refuses; some may be deleted by then.
pub fn forget_flows(addresses: &BTreeSet<IpAddr>) -> Result<usize, Error> {
    let mut found = 0;
    walk("to delete entries of conntrack (is nf_conntrack_netlink there?)", |entry, changes| {
        if !bears(entry.attributes(), addresses) {
            return Ok(());
        }
        found += 1;
        changes.queue(MSG_DELETE, entry, |w| {
            if let Some(id) = entry.attributes().get(CTA_ID) {
                w.attribute(CTA_ID, id.payload);
            }
        })
    })?;
    Ok(found)
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
