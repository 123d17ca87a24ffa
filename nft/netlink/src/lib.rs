//! The edge of `nft`: applies transactions to the kernel's nf_tables over netlink, and reads our table back.
//!
//! [`NftSocket`] is the one way in. A transaction becomes one batch in one `sendmsg`, so the kernel takes all of it or nothing. The
//! batch names the generation that it was computed on; if somebody else changed nf_tables in between, the kernel refuses it.
//!
//! - `wire` writes messages and attributes, `attributes` reads them (untrusted, never panicking);
//! - `encode` turns commands into messages and `lower` rules into the kernel's expressions;
//! - `lift` turns expressions back into rules and `readback` dumps into a [`Ruleset`](tortie_nft::Ruleset);
//! - [`foreign`] looks at what others have in nf_tables, and [`ipset`] at the sets of ip_set; both delete only what they are told to;
//! - `conntrack` clears stale marks of flows that send nothing;
//! - `monitor` hears of every commit, whosever, with a socket filter from `filter`;
//! - `socket` sends, receives and keeps what must be known between transactions; `transport` is the bare netlink socket.
//!
//! Where the kernel has them (Linux 6.9), the table gets the flags `owner` and `persist`: nobody but our socket can then change or
//! delete it, and it outlives us. `owner` alone would take it away with the process, so it is both or none.

// Protocol numbers keep the names of the kernel's headers, and there are many of them.
#![allow(clippy::wildcard_imports)]

mod attributes;
mod conntrack;
mod consts;
mod encode;
mod error;
mod filter;
mod flows;
pub mod foreign;
pub mod ipset;
mod lift;
mod lower;
mod monitor;
mod readback;
mod socket;
mod transport;
mod wire;

pub use conntrack::sweep_marks;
pub use error::Error;
pub use flows::forget_flows;
pub use monitor::{NftEvent, NftMonitor};
pub use readback::decode_dump;
pub use socket::{NftSocket, Ownership};
