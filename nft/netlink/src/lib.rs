//! The edge of `nft`: applies transactions to the kernel's nf_tables over netlink, and reads our table back.
//!
//! [`NftSocket`] is the one way in. A transaction becomes one batch in one `sendmsg`, so the kernel takes all of it or nothing. The
//! batch names the generation that it was computed on; if somebody else changed nf_tables in between, the kernel refuses it.
//!
//! - `wire` writes messages and attributes, `attributes` reads them (untrusted, never panicking);
//! - `encode` turns commands into messages and `lower` rules into the kernel's expressions;
//! - `lift` turns expressions back into rules and `readback` dumps into a [`Ruleset`](tortie_nft::Ruleset);
//! - [`features`] tries out what of nf_tables a kernel has;
//! - [`foreign`] looks at what others have in nf_tables, and [`ipset`] at the sets of ip_set; both delete only what they are told to;
//! - `conntrack` clears stale marks of flows that send nothing;
//! - `monitor` hears of every commit, whosever, with a socket filter from `filter`;
//! - `socket` sends, receives and keeps what must be known between transactions; `transport` is the bare netlink socket.
//!
//! Where the kernel has them (Linux 6.9), the table gets the flags `owner` and `persist`: nobody but our socket can then change or
//! delete it, and it outlives us. `owner` alone would take it away with the process, so it is both or none.
//!
//! # Traps, and the tests that hold us to them
//!
//! | trap | what is done | test |
//! |---|---|---|
//! | an attribute ends at 65,535 bytes, 4,095 IPv4 addresses | elements go into as many messages as they need | `traps`: elements of every kind |
//! | a batch must fit the send buffer (212,960 bytes by default) | `SO_SNDBUFFORCE`, as large as the batch | `kernel`: a hundred thousand elements |
//! | acknowledgements overflow the receive buffer | only the last message asks for one; `SO_RCVBUFFORCE` | `kernel`: a hundred thousand elements |
//! | an answer is lost (`ENOBUFS`) though the batch took effect | [`Error::Receive`]; the table must be read, late answers are dropped | `traps`: a flood of refusals; `Fault::AnswerLost` of the fake |
//! | a batch without its end is dropped in silence | a timeout on every answer | `transport`: a batch without its end |
//! | an acknowledged message of a batch that fails later | only the last one's answer counts | `kernel`: a refusal names its command |
//! | the generation is old (`ERESTART`) | tried again where the table is ours alone, else [`Error::Stale`] | `traps`: a stranger who never rests |
//! | a dump meets a change (`NLM_F_DUMP_INTR`), or a hash table that grows | repeated, doubles found, counted where the kernel counts | `traps`: a stranger who never rests; `kernel`: a hundred thousand elements |
//! | a signal interrupts (`EINTR`) | sent or received again | `traps`: signals interrupt nothing |
//! | no memory (`ENOMEM`) | a refusal like any other: nothing has changed | `Fault::NoMemory` of the fake |
//! | `0.0.0.0/0` has no end, neighbours would become one | an open interval; intervals are paired by their ends | `traps`: everything and what touches |
//! | the size of a set is a cap (`ENFILE`) | sets have none | `traps`: a set grows a thousandfold |
//! | before Linux 6.2 a chain cannot go with the element that led to it | deletions of chains go in a second batch | `traps`: a chain goes in the batch |
//! | reading back is quadratic in some libraries | one pass over each dump | `traps`: ten times the elements |
//! | counters are zeroed by programming | named ones are objects of their own | `traps`: named counters survive |
//! | and they end with their table | made anew, they begin with what was last known | `counts`: a flush, a take-over |
//! | announcements overflow a listener | our own are filtered out in the kernel; [`NftEvent::Overrun`] | `monitor`: with a page of room |
//! | generations' marks come round | [`sweep_marks`] clears old ones before | `sweep`, and a test of the whole with packets |

// Protocol numbers keep the names of the kernel's headers, and there are many of them.
#![allow(clippy::wildcard_imports)]

mod attributes;
mod conntrack;
mod consts;
mod counts;
mod ctnetlink;
mod encode;
mod error;
pub mod features;
mod filter;
mod flows;
pub mod foreign;
pub mod ipset;
mod lift;
mod lower;
mod monitor;
mod readback;
mod rebuild;
mod socket;
mod trace;
mod transport;
mod wire;

pub use conntrack::sweep_marks;
pub use error::Error;
pub use flows::forget_flows;
pub use monitor::{NftEvent, NftMonitor};
pub use readback::{PlacedRule, decode_dump};
pub use socket::{NftSocket, Ownership};
pub use trace::{Flow, Met, TraceEvent, TraceMonitor, TraceVerdict};
