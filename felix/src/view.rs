//! What the core shows of itself.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Where a route comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RouteSource {
    /// An address of a pod of this node.
    LocalPod,
    /// An IPAM block of this node.
    LocalBlock,
    /// A BGP peer.
    Bgp,
    /// Another node, through an overlay or as the datastore says.
    Tunnel,
}

impl RouteSource {
    /// The name that the CLI prints.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LocalPod => "local-pod",
            Self::LocalBlock => "local-block",
            Self::Bgp => "bgp",
            Self::Tunnel => "tunnel",
        }
    }
}

/// How a route stands in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RouteState {
    /// As wanted.
    Present,
    /// Wanted, and not there yet.
    Missing,
    /// Ours, and not as wanted.
    Wrong,
    /// Somebody else's route to the same destination is in force.
    Foreign,
}

impl RouteState {
    /// The name that the CLI prints.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Present => "present",
            Self::Missing => "missing",
            Self::Wrong => "wrong",
            Self::Foreign => "foreign",
        }
    }
}

/// One route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteView {
    /// The destination.
    pub destination: IpNet,
    /// The gateway, if any; of several the first.
    pub via: Option<IpAddr>,
    /// The device's name, or `blackhole`; of several the first's.
    pub device: String,
    /// All gateways and their devices, where there are several.
    #[serde(default)]
    pub next_hops: Vec<(IpAddr, String)>,
    /// The protocol number of the route in force.
    pub protocol: u8,
    /// Where it comes from.
    pub source: RouteSource,
    /// How it stands in the kernel.
    pub state: RouteState,
    /// Why it is not as wanted, if it is not.
    #[serde(default)]
    pub reason: Option<String>,
}

/// The state in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Whether the datastore was read completely.
    pub in_sync: bool,
    /// The datastore revision that was read last.
    pub revision: String,
    /// The revision that is in the kernel and the speaker; empty before the first.
    pub programmed_revision: String,
    /// The live generation, as a number that grows by one: its mark is twice that, shifted by 16.
    pub generation: u32,
    /// Local endpoints.
    pub endpoints: usize,
    /// What is wrong now, one sentence each.
    pub problems: Vec<String>,
    /// What is configured and has no effect, one sentence each.
    #[serde(default)]
    pub warnings: Vec<String>,
}
