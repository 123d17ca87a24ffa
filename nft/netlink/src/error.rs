//! What can go wrong between us and the kernel.

use std::io;

use thiserror::Error;
use tortie_nft::{Reason, Refused};

/// An error of the executor.
#[derive(Debug, Error)]
pub enum Error {
    /// No socket.
    #[error("cannot open a netlink socket to nf_tables (is CAP_NET_ADMIN held, and nf_tables in the kernel?): {0}")]
    Open(#[source] io::Error),
    /// The message did not go out; nothing has changed.
    #[error("cannot send a batch of {bytes} bytes to nf_tables: {source}")]
    Send {
        /// Its size.
        bytes: usize,
        /// Why.
        source: io::Error,
    },
    /// The reply did not come in. Whether the batch took effect is unknown: read the table again.
    #[error("no reply from nf_tables: {0}; whether the change took effect must be read back")]
    Receive(#[source] io::Error),
    /// The monitor can hear nothing more.
    #[error("cannot listen to what happens to nf_tables: {0}")]
    Listen(#[source] io::Error),
    /// A command was refused; nothing has changed.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// Somebody else changed nf_tables since the table was read; nothing has changed. Read the table again and compute anew.
    #[error("nf_tables was changed by somebody else since the table was read; it must be read again")]
    Stale,
    /// A request other than a transaction was refused.
    #[error("nf_tables refused {what}: {reason}")]
    Request {
        /// What was asked.
        what: &'static str,
        /// Why it was refused.
        reason: Reason,
    },
    /// A dump that others kept interrupting, or a reply that is none.
    #[error("cannot read the table back: {0}")]
    ReadBack(String),
}

/// An errno of the kernel in the words of nf_tables.
pub(crate) fn reason(errno: i32) -> Reason {
    match nix::errno::Errno::from_raw(errno) {
        nix::errno::Errno::ENOENT => Reason::NotFound,
        nix::errno::Errno::EEXIST => Reason::Exists,
        nix::errno::Errno::EBUSY => Reason::Busy,
        nix::errno::Errno::EMLINK | nix::errno::Errno::ELOOP => Reason::TooDeep,
        nix::errno::Errno::EOPNOTSUPP => Reason::NotSupported,
        nix::errno::Errno::EPERM => Reason::NotPermitted,
        _ => Reason::Os(errno),
    }
}
