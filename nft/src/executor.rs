//! What can apply a [`Transaction`]: the kernel (`nft/netlink`) and [`Fake`](crate::fake::Fake), with the same refusals.

use thiserror::Error;

use crate::model::{Ruleset, Transaction};

/// Something that holds our table and changes it by transactions, all or nothing.
pub trait Executor {
    /// What can go wrong; [`Refused`] among it.
    type Error: std::error::Error;

    /// Applies all commands, or none of them.
    fn apply(&mut self, transaction: &Transaction) -> Result<(), Self::Error>;

    /// The table as it is, `None` if it does not exist.
    fn read(&mut self) -> Result<Option<Ruleset>, Self::Error>;
}

/// A transaction was refused, because of one of its commands; nothing of it has taken effect.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("nftables refused {what}: {reason}")]
pub struct Refused {
    /// Which command, from 0.
    pub command: usize,
    /// The command in short: what was to be done to which object.
    pub what: String,
    /// Why.
    pub reason: Reason,
}

/// Why a command was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Reason {
    /// `ENOENT`.
    #[error("it, or something it refers to, does not exist (ENOENT)")]
    NotFound,
    /// `EEXIST`.
    #[error("it exists already, or overlaps an existing element (EEXIST)")]
    Exists,
    /// `EBUSY`.
    #[error("it is in use (EBUSY)")]
    Busy,
    /// `EMLINK`.
    #[error("chains lead into one another in a loop, or deeper than 15 (EMLINK)")]
    TooDeep,
    /// `EOPNOTSUPP`.
    #[error("the kernel cannot do this, such as a jump to a base chain (EOPNOTSUPP)")]
    NotSupported,
    /// `EPERM`.
    #[error("the table belongs to another process, or CAP_NET_ADMIN is missing (EPERM)")]
    NotPermitted,
    /// The command makes no sense, whatever the kernel holds.
    #[error("{0}")]
    Invalid(String),
    /// Another error of the kernel, by number.
    #[error("{}", std::io::Error::from_raw_os_error(*.0))]
    Os(i32),
}
