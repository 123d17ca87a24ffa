//! `IPAMBlock`: a block of addresses with affinity to one node, and who holds each.
//!
//! The form is Calico's: `allocations[ordinal]` is an index into `attributes`, or null when the address is free; `unallocated` is the
//! queue of free ordinals, oldest release first, so that an address is not reused at once.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{OtherFields, truth_or_text};
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
    /// `host:NODE`, or none when the block is nobody's. Blocks of addresses that no node has, such as those of load balancers, have
    /// `virtual:NAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<String>,
    /// When it became the node's (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity_claim_time: Option<String>,
    /// For each ordinal, the index into `attributes` of its holder.
    pub allocations: Vec<Option<usize>>,
    /// Free ordinals, in the order they will be handed out.
    pub unallocated: Vec<usize>,
    /// Holders.
    #[serde(default, deserialize_with = "null_as_default")]
    pub attributes: Vec<AllocationAttribute>,
    /// Whether only the owning node may take addresses from here. Calico no longer reads it: `IPAMConfiguration` says so for all.
    #[serde(default, deserialize_with = "null_as_default")]
    pub strict_affinity: bool,
    /// Incremented with each change. A new block starts with the time, so that one that is made again never repeats a number.
    #[serde(default, deserialize_with = "null_as_default")]
    pub sequence_number: u64,
    /// For each ordinal that is held, as text, the `sequenceNumber` at which it was given: it tells a holder from a later one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_as_default")]
    pub sequence_number_for_allocation: BTreeMap<String, u64>,
    /// Whether somebody is about to delete the block: it is as good as gone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not", deserialize_with = "truth_or_text")]
    pub deleted: bool,
    /// What others wrote.
    #[serde(flatten, skip_deserializing)]
    #[cfg_attr(feature = "schema", schemars(skip))]
    pub other: OtherFields,
}

/// The fields that [`IpamBlockSpec`] has.
pub(crate) const IPAM_BLOCK_FIELDS: [&str; 10] = [
    "cidr",
    "affinity",
    "affinityClaimTime",
    "allocations",
    "unallocated",
    "attributes",
    "strictAffinity",
    "sequenceNumber",
    "sequenceNumberForAllocation",
    "deleted",
];

/// Who holds an address.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AllocationAttribute {
    /// The handle: one per CNI attachment. Nobody's is an address that was released and may not be given out again yet.
    #[serde(default, rename = "handle_id", skip_serializing_if = "Option::is_none")]
    pub handle_id: Option<String>,
    /// `namespace`, `pod`, `node`; of a node's own address `type`.
    #[serde(default, skip_serializing_if = "StringMap::is_empty", deserialize_with = "null_as_default")]
    pub secondary: StringMap,
    /// A second owner, of a virtual machine that moves from node to node.
    #[serde(default, skip_serializing_if = "StringMap::is_empty", deserialize_with = "null_as_default")]
    pub alternate: StringMap,
    /// When the address was released (RFC 3339), while it may not be given out again.
    #[serde(default, rename = "releasedAt", skip_serializing_if = "Option::is_none")]
    pub released_at: Option<String>,
}

impl IpamBlockSpec {
    /// The node that owns the block.
    pub fn node(&self) -> Option<&str> {
        let affinity = self.affinity.as_deref().filter(|_| !self.deleted);
        affinity.and_then(|affinity| affinity.strip_prefix("host:"))
    }
}
