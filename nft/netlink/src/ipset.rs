//! The sets of ip_set, which iptables rules look addresses up in: their names, and their end.

use std::time::Duration;

use tortie_nft::Reason;

use crate::attributes::{Attributes, Messages};
use crate::consts::*;
use crate::error::{Error, reason};
use crate::transport::Transport;
use crate::wire::Writer;

/// How often, and how far apart, a set in use is tried to be destroyed.
const TRIES: usize = 40;
const PAUSE: Duration = Duration::from_millis(50);

/// The set is in use: an error number of ip_set's own.
const IPSET_ERR_BUSY: i32 = 4100;

const SUBSYSTEM: u16 = 6;
const CMD_DESTROY: u16 = 3;
const CMD_LIST: u16 = 7;
const ATTR_PROTOCOL: u16 = 1;
const ATTR_SETNAME: u16 = 2;
const ATTR_FLAGS: u16 = 6;
/// Only names, no elements.
const FLAG_LIST_SETNAME: u32 = 1 << 1;
/// The oldest protocol that all supported kernels take.
const PROTOCOL: u8 = 6;

/// The names of all sets of the calling thread's network namespace. None where the kernel has no ip_set.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn names() -> Result<Vec<String>, Error> {
    let mut transport = Transport::open()?;
    let mut w = Writer::default();
    w.begin_of(SUBSYSTEM, CMD_LIST, NLM_F_DUMP | NLM_F_ACK, NFPROTO_UNSPEC, 1);
    w.attribute(ATTR_PROTOCOL, &[PROTOCOL]);
    w.number(ATTR_FLAGS, FLAG_LIST_SETNAME);
    w.end();
    transport.send(w.bytes())?;
    let mut names = Vec::new();
    loop {
        for message in Messages(transport.receive()?).filter(|message| message.seq == 1) {
            match message.kind {
                NLMSG_ERROR | NLMSG_DONE => match message.errno() {
                    None | Some(0) => return Ok(names),
                    // No such subsystem.
                    Some(errno) if errno == nix::errno::Errno::EINVAL as i32 => return Ok(names),
                    Some(errno) => return Err(Error::Request { what: "the names of IP sets", reason: reason(errno) }),
                },
                _ => names.extend(set_name(message.attributes())),
            }
        }
    }
}

fn set_name(attributes: Attributes<'_>) -> Option<String> {
    attributes.string(ATTR_SETNAME).map(str::to_owned)
}

/// Destroys a set of the calling thread's network namespace. One that a rule still uses stays, and that is an error. The kernel lets go
/// of a deleted rule's sets a moment later, so it is tried for a moment.
///
/// # Errors
/// When the kernel refuses.
pub fn destroy(name: &str) -> Result<(), Error> {
    for _ in 1..TRIES {
        match try_to_destroy(name) {
            Err(Error::Request { reason: Reason::Os(IPSET_ERR_BUSY), .. }) => std::thread::sleep(PAUSE),
            result => return result,
        }
    }
    match try_to_destroy(name) {
        Err(Error::Request { reason: Reason::Os(IPSET_ERR_BUSY), .. }) => {
            Err(Error::Request { what: "to destroy an IP set that a rule uses", reason: Reason::Busy })
        }
        result => result,
    }
}

fn try_to_destroy(name: &str) -> Result<(), Error> {
    let mut transport = Transport::open()?;
    let mut w = Writer::default();
    w.begin_of(SUBSYSTEM, CMD_DESTROY, NLM_F_ACK, NFPROTO_UNSPEC, 1);
    w.attribute(ATTR_PROTOCOL, &[PROTOCOL]);
    w.string(ATTR_SETNAME, name);
    w.end();
    transport.send(w.bytes())?;
    loop {
        for message in Messages(transport.receive()?).filter(|message| message.seq == 1) {
            if message.kind == NLMSG_ERROR {
                return match message.errno() {
                    None | Some(0) => Ok(()),
                    Some(errno) => Err(Error::Request { what: "to destroy an IP set", reason: reason(errno) }),
                };
            }
        }
    }
}
