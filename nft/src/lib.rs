//! nftables as values: a table's content ([`Ruleset`]), a change to it ([`Transaction`]), its text, and a packet's walk through it.
//!
//! Nothing here talks to the kernel. The compiler builds the [`Ruleset`] it wants; [`Ruleset::diff`] says what must change; the
//! executor in `nft/netlink` sends that as one atomic batch, and [`fake::Fake`] applies the same batch to a value. The
//! [`interpreter`] walks a packet through a `Ruleset` the way the kernel would, so that a compiled policy can be questioned offline.
//!
//! What every executor refuses before it asks the kernel (names too long, keys of the wrong type, addresses matched without their
//! family) is in [`check`]; what the kernel refuses is a [`Refused`] with the command it belongs to.

mod batches;
pub mod check;
mod diff;
pub mod executor;
pub mod fake;
pub mod interpreter;
pub mod intervals;
pub mod keys;
pub mod model;
mod text;

pub use executor::{Executor, Reason, Refused};
pub use model::*;
