//! `IPAMHandle`: in which blocks an attachment has addresses, so that they are found without reading every block.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{OtherFields, truth_or_text};
use crate::meta::{ObjectMeta, null_as_default};

/// `projectcalico.org/v3 IPAMHandle`; its name is the handle in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct IpamHandle {
    /// Name, labels and version.
    pub metadata: ObjectMeta,
    /// Where its addresses are.
    pub spec: IpamHandleSpec,
}

/// `IPAMHandleSpec`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct IpamHandleSpec {
    /// The handle, as blocks have it.
    #[serde(rename = "handleID")]
    pub handle_id: String,
    /// For each block by its range: how many of its addresses the handle has, or is about to take.
    #[serde(default, deserialize_with = "null_as_default")]
    pub block: BTreeMap<String, u32>,
    /// Whether somebody is about to delete it: it is as good as gone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not", deserialize_with = "truth_or_text")]
    pub deleted: bool,
    /// What others wrote.
    #[serde(flatten, skip_deserializing)]
    #[cfg_attr(feature = "schema", schemars(skip))]
    pub other: OtherFields,
}

/// The fields that [`IpamHandleSpec`] has.
pub(crate) const IPAM_HANDLE_FIELDS: [&str; 3] = ["handleID", "block", "deleted"];
