//! `BlockAffinity`: which node uses a block, said before the block is there, so that a node that dies meanwhile is found out.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{OtherFields, truth_or_text};
use crate::meta::{ObjectMeta, network, null_as_default};

/// `projectcalico.org/v3 BlockAffinity`; its name is the node's and the block's, joined by `-`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BlockAffinity {
    /// Name, labels and version.
    pub metadata: ObjectMeta,
    /// Whose the block is.
    pub spec: BlockAffinitySpec,
}

/// `BlockAffinitySpec`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BlockAffinitySpec {
    /// How far the claim has come.
    #[serde(default, deserialize_with = "null_as_default")]
    pub state: AffinityState,
    /// The node, or whoever else has the block where `type` says so.
    pub node: String,
    /// `host` for a node, as where nothing is said; `virtual` for others.
    #[serde(default = "host", rename = "type", deserialize_with = "host_unless_said")]
    pub kind: String,
    /// The block's range.
    #[serde(deserialize_with = "network")]
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Cidr"))]
    pub cidr: IpNet,
    /// Whether somebody is about to delete it: it is as good as gone.
    #[serde(default, deserialize_with = "truth_or_text")]
    pub deleted: bool,
    /// What others wrote.
    #[serde(flatten, skip_deserializing)]
    #[cfg_attr(feature = "schema", schemars(skip))]
    pub other: OtherFields,
}

/// The fields that [`BlockAffinitySpec`] has.
pub(crate) const BLOCK_AFFINITY_FIELDS: [&str; 5] = ["state", "node", "type", "cidr", "deleted"];

/// How far a claim has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum AffinityState {
    /// Nothing was said.
    #[default]
    #[serde(rename = "")]
    Unsaid,
    /// The block is the node's.
    Confirmed,
    /// The node wants the block, which may be another's.
    Pending,
    /// The block is being given back.
    PendingDeletion,
}

impl BlockAffinitySpec {
    /// Whether this is the claim of a node, and not given up already.
    pub fn is_of_node(&self) -> bool {
        self.kind == HOST && !self.deleted
    }
}

/// The type of a node's affinity.
const HOST: &str = "host";

fn host() -> String {
    HOST.to_owned()
}

fn host_unless_said<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let said = Option::<String>::deserialize(deserializer)?;
    Ok(said.filter(|kind| !kind.is_empty()).unwrap_or_else(host))
}
