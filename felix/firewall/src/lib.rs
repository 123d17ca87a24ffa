//! Living beside the host's own firewalls, and after other network agents.
//!
//! An `accept` of ours never overrides another table's `drop`. So [`HostFirewall`] looks at who else would drop the packets that the
//! node forwards for pods, and does what that one's own interface offers:
//!
//! - **iptables** (Docker's policy, ufw, a `REJECT` at the end): a rule of ours that accepts, right before what drops, so that all the
//!   rules before it, kube-proxy's and the administrator's, keep their say. Its two backends may both be in force at once, whichever of
//!   them the program `iptables` writes to. So what the kernel holds is read, by netlink ([`tortie_nft_netlink::foreign`]) and by the
//!   socket options of the legacy tables ([`legacy`]), and only writing takes the host's programs.
//! - **firewalld**: a zone and a policy of its own.
//! - **anything else** in nf_tables: named as the obstacle, with the commands.
//!
//! What is opened stays open when the agent exits: [`clean`] alone takes it back. [`leftovers`] finds what Calico and flannel left.

pub mod clean;
mod firewalld;
mod host;
pub mod leftovers;
pub mod legacy;
mod tools;
mod walk;

pub use host::{HostFirewall, MARK, Obstacle, OurRule, Place, Reopened, Report, Scope, our_rules, remove_rules};
pub use tools::Backend;
pub use walk::{Direction, Outcome, walk};
