//! The rtnetlink edge: links, addresses, neighbours and routes of one network namespace, and the namespaces themselves.
//!
//! A socket belongs for life to the namespace it was opened in. [`Net`] is a handle on one (single requests, any number at a time),
//! [`Bulk`] writes and reads routes by the hundred thousand, and [`Monitor`] tells what changes, by whomever. Each has a constructor for the calling
//! thread's namespace and one for a [`Netns`], so that one process can look after many namespaces without moving its own threads.
//!
//! Three traps of the protocol are handled here, once: a receive buffer that overflows loses answers, so buffers are large and every
//! request has a time limit; without strict checking the kernel ignores the filters of a dump; and a dump that was torn by a
//! concurrent change is read again.

mod address;
pub mod bulk;
mod codec;
mod error;
pub mod host;
mod link;
mod monitor;
mod net;
mod netconf;
pub mod netns;
mod route;
mod socket;
pub mod sysctl;
pub mod tc;
mod vxlan;

pub use bulk::{Bulk, RouteChange, RouteFailure};
pub use error::Error;
pub use link::{Link, Mac, VethSpec};
pub use monitor::{Event, Monitor};
pub use net::Net;
pub use netconf::{Netconf, NetconfMonitor};
pub use netns::Netns;
pub use route::{Lookup, Reach, RouteKind, RouteSpec, default_metric};
pub use vxlan::{OURS, Vxlan};
