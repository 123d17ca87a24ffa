//! Overlays: which there are, and what Calico calls a node's end of each.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{EncapMode, IpPoolSpec};
use crate::k8s::annotations;

/// An overlay of which each node has an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tunnel {
    /// VXLAN that carries IPv4 over IPv4.
    VxlanV4,
    /// VXLAN that carries IPv6 over IPv6.
    VxlanV6,
    /// IP in IP.
    Ipip,
}

impl Tunnel {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::VxlanV4, Self::VxlanV6, Self::Ipip];

    /// The one that carries a pool's traffic, and when; none where it is never encapsulated.
    pub const fn of_pool(spec: &IpPoolSpec) -> Option<(Self, EncapMode)> {
        match (spec.ipip_mode, spec.vxlan_mode) {
            (EncapMode::Never, EncapMode::Never) => None,
            (EncapMode::Never, mode) if matches!(spec.cidr, IpNet::V4(_)) => Some((Self::VxlanV4, mode)),
            (EncapMode::Never, mode) => Some((Self::VxlanV6, mode)),
            (mode, _) => Some((Self::Ipip, mode)),
        }
    }

    /// Whether it carries IPv4, and over IPv4.
    pub const fn is_ipv4(self) -> bool {
        matches!(self, Self::VxlanV4 | Self::Ipip)
    }

    /// Whether it is a VXLAN.
    pub const fn is_vxlan(self) -> bool {
        matches!(self, Self::VxlanV4 | Self::VxlanV6)
    }

    /// The name of a node's end.
    pub const fn device(self) -> &'static str {
        match self {
            Self::VxlanV4 => "vxlan.calico",
            Self::VxlanV6 => "vxlan-v6.calico",
            Self::Ipip => "tunl0",
        }
    }

    /// By how many bytes it makes packets longer.
    pub const fn overhead(self) -> u32 {
        match self {
            Self::VxlanV4 => 50,
            Self::VxlanV6 => 70,
            Self::Ipip => 20,
        }
    }

    /// The handle of the address of a node's end.
    pub fn handle(self, node: &str) -> String {
        match self {
            Self::VxlanV4 => format!("vxlan-tunnel-addr-{node}"),
            Self::VxlanV6 => format!("vxlan-v6-tunnel-addr-{node}"),
            Self::Ipip => format!("ipip-tunnel-addr-{node}"),
        }
    }

    /// The `type` of its allocation.
    pub const fn allocation_type(self) -> &'static str {
        match self {
            Self::VxlanV4 => "vxlanTunnelAddress",
            Self::VxlanV6 => "vxlanV6TunnelAddress",
            Self::Ipip => "ipipTunnelAddress",
        }
    }

    /// The annotation of a Node that says it.
    pub const fn annotation(self) -> &'static str {
        match self {
            Self::VxlanV4 => annotations::IPV4_VXLAN,
            Self::VxlanV6 => annotations::IPV6_VXLAN,
            Self::Ipip => annotations::IPIP,
        }
    }

    /// What people call it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::VxlanV4 => "VXLAN",
            Self::VxlanV6 => "VXLAN over IPv6",
            Self::Ipip => "IPIP",
        }
    }
}
