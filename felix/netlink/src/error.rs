//! What can go wrong at this edge: which operation, and what the kernel said.

use std::io;

use netlink_packet_core::ErrorMessage;
use nix::errno::Errno;

/// A failed operation of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused.
    #[error("{operation}: {errno}{}", .detail.as_ref().map(|detail| format!(" ({detail})")).unwrap_or_default())]
    Kernel {
        /// What was tried, on which object.
        operation: String,
        /// Why not.
        errno: Errno,
        /// The kernel's own words, where it has some.
        detail: Option<String>,
    },
    /// The answer was lost, because more came than the socket's buffer holds.
    #[error("{operation}: the netlink socket overran and lost the answer")]
    Overrun {
        /// What was tried.
        operation: String,
    },
    /// No answer came.
    #[error("{operation}: the kernel did not answer within {seconds} s")]
    Timeout {
        /// What was tried.
        operation: String,
        /// How long was waited.
        seconds: u64,
    },
    /// An answer that makes no sense, or none because the connection ended.
    #[error("{operation}: {reason}")]
    Protocol {
        /// What was tried.
        operation: String,
        /// What was odd.
        reason: String,
    },
    /// An argument that cannot be right.
    #[error("{0}")]
    Invalid(String),
}

impl Error {
    /// A failed system call on a socket or file.
    pub(crate) fn socket(operation: impl Into<String>, error: &io::Error) -> Self {
        let errno = error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw);
        Self::Kernel { operation: operation.into(), errno, detail: None }
    }

    /// A failed call by errno.
    pub(crate) fn kernel(operation: impl Into<String>, errno: Errno) -> Self {
        Self::Kernel { operation: operation.into(), errno, detail: None }
    }

    /// An error message of the kernel.
    pub(crate) fn from_message(operation: impl Into<String>, error: &ErrorMessage, flags: u16) -> Self {
        let errno = Errno::from_raw(error.raw_code().saturating_abs());
        Self::Kernel { operation: operation.into(), errno, detail: detail(error, flags) }
    }

    /// The kernel's reason, if it gave one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Kernel { errno, .. } => Some(*errno),
            _ => None,
        }
    }

    /// Whether the object already exists.
    pub fn is_exists(&self) -> bool {
        self.errno() == Some(Errno::EEXIST)
    }

    /// Whether the object is not there.
    pub fn is_missing(&self) -> bool {
        matches!(self.errno(), Some(Errno::ENOENT | Errno::ENODEV | Errno::ESRCH))
    }
}

/// The text of `NLMSGERR_ATTR_MSG`. With `NETLINK_CAP_ACK` the error carries the request's header only, then the attributes.
fn detail(error: &ErrorMessage, flags: u16) -> Option<String> {
    const HEADER: usize = 16;
    const ATTR_MSG: u16 = 1;
    if flags & netlink_packet_core::NLM_F_ACK_TLVS == 0 {
        return None;
    }
    let mut rest = error.header.get(HEADER..)?;
    while let Some((&[a, b, c, d], tail)) = rest.split_first_chunk::<4>() {
        let (length, kind) = (usize::from(u16::from_ne_bytes([a, b])), u16::from_ne_bytes([c, d]));
        let value = tail.get(..length.checked_sub(4)?)?;
        if kind & 0x3fff == ATTR_MSG {
            let text = String::from_utf8_lossy(value);
            return Some(text.trim_end_matches('\0').to_owned()).filter(|text| !text.is_empty());
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
    None
}
