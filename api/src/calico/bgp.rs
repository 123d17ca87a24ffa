//! `BGPConfiguration`: the cluster's BGP defaults (`default`) and a node's own (`node.NAME`).

use serde::{Deserialize, Serialize};

use crate::meta::ObjectMeta;

/// `projectcalico.org/v3 BGPConfiguration`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BgpConfiguration {
    /// `default`, or `node.NAME`.
    pub metadata: ObjectMeta,
    /// What is wanted.
    #[serde(default)]
    pub spec: BgpConfigurationSpec,
}

/// The fields of `BGPConfigurationSpec` that this version honours; others are refused, so that none is silently ignored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BgpConfigurationSpec {
    /// `Debug`, `Info`, `Warning` ...; accepted, the log level is the agent's `--log-level`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_severity_screen: Option<String>,
    /// Whether every node peers with every other; true by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_to_node_mesh_enabled: Option<bool>,
    /// The cluster's AS number; 64512 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_number: Option<u32>,
    /// TCP port that the speakers listen on; 179 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen_port: Option<u16>,
}
