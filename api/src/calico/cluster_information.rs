//! `ClusterInformation`: what Calico's tools note of a cluster as a whole.

use serde::{Deserialize, Serialize};

use crate::meta::{ObjectMeta, optional_text};

/// `projectcalico.org/v3 ClusterInformation`; there is one, called `default`. Nothing here depends on it: it is read so that Calico's tools
/// find what they wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ClusterInformation {
    /// Its name.
    pub metadata: ObjectMeta,
    /// What is noted.
    #[serde(default)]
    pub spec: ClusterInformationSpec,
}

/// `ClusterInformationSpec`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterInformationSpec {
    /// What tells this cluster from others.
    #[serde(
        default,
        rename = "clusterGUID",
        skip_serializing_if = "Option::is_none",
        deserialize_with = "optional_text"
    )]
    pub cluster_guid: Option<String>,
    /// What the cluster is made of, a list separated by commas.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "optional_text")]
    pub cluster_type: Option<String>,
    /// The version of Calico that wrote this.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "optional_text")]
    pub calico_version: Option<String>,
    /// Which variant of Calico that is.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "optional_text")]
    pub variant: Option<String>,
    /// Whether the datastore may be used; Calico's tools say `false` while they move it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datastore_ready: Option<bool>,
}
