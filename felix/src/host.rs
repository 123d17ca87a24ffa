//! What a node must be like besides its rules and routes: forwarding, the MTU of pods, and how fast they may be.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tortie_api::k8s::Bandwidth;

use crate::event::Millis;

/// How the node's interfaces and kernel settings should be. Whoever is told keeps them so, against others too.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Whether `net.ipv4.ip_forward` must be set; it is never taken back.
    pub forward_ipv4: bool,
    /// Whether `net.ipv6.conf.all.forwarding` must be set; it is never taken back.
    pub forward_ipv6: bool,
    /// A regular expression of the interfaces whose smallest MTU is that of pods.
    pub mtu_interfaces: String,
    /// How often everything is compared, besides the kernel's own events; none for never.
    pub refresh: Option<Millis>,
    /// The limits of the pods that have any, by the host's end of their veth.
    pub bandwidth: BTreeMap<String, Bandwidth>,
    /// The pods that may send from others' addresses, likewise: the kernel must not check the reverse path of what they send.
    pub foreign_sources: BTreeSet<String>,
    /// How many bytes of the MTU of the network between nodes an overlay takes from pods.
    #[serde(default)]
    pub encapsulation: u32,
    /// The largest MTU of pods that an overlay allows whose MTU is configured.
    #[serde(default)]
    pub mtu_limit: Option<u32>,
}

/// What became of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostReport {
    /// What others had changed, and is as it should be again.
    pub repairs: Vec<HostRepair>,
    /// Everything that cannot be as it should be now, one sentence each.
    pub problems: Vec<String>,
}

/// Something of the node's that others had changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRepair {
    /// An interface, or the path of a kernel setting below `/proc/sys`.
    pub object: String,
    /// Whether it is a kernel setting.
    pub sysctl: bool,
    /// What was found.
    pub found: String,
}
