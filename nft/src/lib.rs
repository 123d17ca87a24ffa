//! nftables as values: a table's content ([`Ruleset`]), a change to it ([`Transaction`]), its text, and a packet's walk through it.
//!
//! Nothing here talks to the kernel. The compiler builds the [`Ruleset`] it wants; [`Ruleset::diff`] says what must change; the
//! executor in `nft/netlink` sends that as one atomic batch, and [`fake::Fake`] applies the same batch to a value. The
//! [`interpreter`] walks a packet through a `Ruleset` the way the kernel would, so that a compiled policy can be questioned offline.

pub mod model;

pub use model::*;
