//! `IPAMBlock`: a block of addresses with affinity to one node, and who holds each.
//!
//! The form is Calico's: `allocations[ordinal]` is an index into `attributes`, or null when the address is free; `unallocated` is the
//! queue of free ordinals, oldest release first, so that an address is not reused at once.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::meta::{ObjectMeta, StringMap, network, null_as_default};

/// `projectcalico.org/v3 IPAMBlock`; its name is the CIDR with `.`, `:` and `/` as `-`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct IpamBlock {
    /// Name and version.
    pub metadata: ObjectMeta,
    /// The block.
    pub spec: IpamBlockSpec,
}

/// `IPAMBlockSpec`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct IpamBlockSpec {
    /// The block's range.
    #[serde(deserialize_with = "network")]
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Cidr"))]
    pub cidr: IpNet,
    /// `host:NODE`, or none when the block is nobody's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<String>,
    /// For each ordinal, the index into `attributes` of its holder.
    pub allocations: Vec<Option<usize>>,
    /// Free ordinals, in the order they will be handed out.
    pub unallocated: Vec<usize>,
    /// Holders.
    #[serde(default, deserialize_with = "null_as_default")]
    pub attributes: Vec<AllocationAttribute>,
    /// Whether only the owning node may take addresses from here.
    #[serde(default, deserialize_with = "null_as_default")]
    pub strict_affinity: bool,
    /// Incremented with each change.
    #[serde(default, deserialize_with = "null_as_default")]
    pub sequence_number: u64,
}

/// Who holds an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AllocationAttribute {
    /// The handle: one per CNI attachment.
    #[serde(default, rename = "handle_id", skip_serializing_if = "Option::is_none")]
    pub handle_id: Option<String>,
    /// `namespace`, `pod`, `node`.
    #[serde(default, skip_serializing_if = "StringMap::is_empty", deserialize_with = "null_as_default")]
    pub secondary: StringMap,
}

impl IpamBlockSpec {
    /// The node that owns the block.
    pub fn node(&self) -> Option<&str> {
        self.affinity.as_deref().and_then(|affinity| affinity.strip_prefix("host:"))
    }
}
