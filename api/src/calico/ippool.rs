//! `IPPool`: the ranges that pods get their addresses from.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::meta::{ObjectMeta, network, null_as_default};

/// `projectcalico.org/v3 IPPool`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct IpPool {
    /// The pool's name.
    pub metadata: ObjectMeta,
    /// What is wanted.
    pub spec: IpPoolSpec,
}

/// `IPPoolSpec`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IpPoolSpec {
    /// The range.
    #[serde(deserialize_with = "network")]
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Cidr"))]
    pub cidr: IpNet,
    /// VXLAN use; `Never` by default.
    #[serde(default, deserialize_with = "null_as_default")]
    pub vxlan_mode: EncapMode,
    /// IPIP use; `Never` by default.
    #[serde(default, deserialize_with = "null_as_default")]
    pub ipip_mode: EncapMode,
    /// Whether traffic that leaves all pools is masqueraded.
    #[serde(default, deserialize_with = "null_as_default")]
    pub nat_outgoing: bool,
    /// Whether new addresses may no longer come from this pool.
    #[serde(default, deserialize_with = "null_as_default")]
    pub disabled: bool,
    /// Whether the pool's blocks are kept out of BGP.
    #[serde(default, rename = "disableBGPExport", deserialize_with = "null_as_default")]
    pub disable_bgp_export: bool,
    /// Prefix length of a block; 26 for IPv4 and 122 for IPv6 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_size: Option<u8>,
    /// Calico selector of the nodes that may use the pool; `all()` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<String>,
    /// Calico selector of the namespaces that may use the pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<String>,
    /// Uses: `Workload`, `Tunnel`, `LoadBalancer`; the first two by default.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub allowed_uses: Vec<String>,
    /// Whether addresses are given out without being asked for by name.
    #[serde(default, deserialize_with = "null_as_default")]
    pub assignment_mode: AssignmentMode,
}

/// Calico's fields that this version does not honour yet.
pub(crate) const IP_POOL_UNSUPPORTED: [&str; 3] = ["ipip", "nat-outgoing", "awsSubnetID"];

/// When traffic is encapsulated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum EncapMode {
    /// Never, the default.
    #[default]
    #[serde(alias = "")]
    Never,
    /// Always.
    Always,
    /// Only to nodes of other subnets.
    CrossSubnet,
}

/// `assignmentMode`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum AssignmentMode {
    /// Any pod may get an address, the default.
    #[default]
    #[serde(alias = "")]
    Automatic,
    /// Only pods that ask for the pool.
    Manual,
}

impl IpPoolSpec {
    /// The block size in force, with Calico's default.
    pub fn effective_block_size(&self) -> u8 {
        self.block_size.unwrap_or(if self.cidr.addr().is_ipv4() { 26 } else { 122 })
    }

    /// Whether pods may get addresses from here (`allowedUses` has `Workload`, or is empty).
    pub fn allows_workloads(&self) -> bool {
        self.allowed_uses.is_empty() || self.allowed_uses.iter().any(|usage| usage == "Workload")
    }

    /// Whether nodes' ends of tunnels may get addresses from here (`allowedUses` has `Tunnel`, or is empty).
    pub fn allows_tunnels(&self) -> bool {
        self.allowed_uses.is_empty() || self.allowed_uses.iter().any(|usage| usage == "Tunnel")
    }
}
