//! What the node knows of the host's own firewalls, and of what other network agents left: told by the edge, which looks after both.

use serde::{Deserialize, Serialize};

/// How the host's firewalls stand.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFirewall {
    /// What stands in the way of pods and could not be removed, and what others left; one sentence each, with the remedy.
    pub problems: Vec<String>,
    /// Rules of ours that somebody removed, put back since the last event.
    pub repairs: Vec<HostFirewallRepair>,
}

/// A rule of ours that is there again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFirewallRepair {
    /// Which: `iptables-nft FORWARD`, for example.
    pub object: String,
    /// What was found in its place.
    pub found: String,
    /// The process that removed it, where the kernel tells.
    pub by: Option<String>,
}
