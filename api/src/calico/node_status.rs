//! `CalicoNodeStatus`: a question to a node, which its agent answers in the object's own `status`.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::meta::{ObjectMeta, null_as_default};

/// `projectcalico.org/v3 CalicoNodeStatus`: asks a node how it stands; the answer is in `status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CalicoNodeStatus {
    /// The name.
    pub metadata: ObjectMeta,
    /// What is asked.
    pub spec: CalicoNodeStatusSpec,
    /// The answer. Agents write it and do not read it.
    #[serde(default, skip_serializing_if = "Option::is_none", skip_deserializing)]
    pub status: Option<Box<CalicoNodeStatusAnswer>>,
}

/// `CalicoNodeStatusSpec`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CalicoNodeStatusSpec {
    /// The node that is asked.
    #[serde(default)]
    pub node: String,
    /// What it is asked for.
    #[serde(default, deserialize_with = "null_as_default")]
    pub classes: Vec<NodeStatusClass>,
    /// How often it answers, in seconds; 0 is once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_period_seconds: Option<u32>,
}

/// What a node is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum NodeStatusClass {
    /// The agent itself.
    Agent,
    /// Its BGP sessions.
    #[serde(rename = "BGP")]
    Bgp,
    /// Its routes.
    Routes,
}

/// `CalicoNodeStatusStatus`: the answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct CalicoNodeStatusAnswer {
    /// When it was given (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_updated: Option<String>,
    /// The agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<NodeAgentStatus>,
    /// Its BGP sessions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bgp: Option<NodeBgpStatus>,
    /// Its routes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub routes: Option<NodeRoutesStatus>,
}

/// The BGP speaker of each family, in the fields that Calico has for its BIRDs; here both are the agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NodeAgentStatus {
    /// Of IPv4.
    #[serde(rename = "birdV4", skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<SpeakerStatus>,
    /// Of IPv6.
    #[serde(rename = "birdV6", skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<SpeakerStatus>,
}

/// How a BGP speaker stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct SpeakerStatus {
    /// `Ready` or `NotReady`.
    pub state: String,
    /// Its version.
    pub version: String,
    /// Its router ID.
    #[serde(rename = "routerID")]
    pub router_id: String,
    /// When it started.
    pub last_boot_time: String,
    /// When its configuration changed last.
    pub last_reconfiguration_time: String,
}

/// BGP sessions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct NodeBgpStatus {
    /// How many sessions by IPv4 are established.
    pub number_established_v4: u32,
    /// How many are not.
    pub number_not_established_v4: u32,
    /// How many sessions by IPv6 are established.
    pub number_established_v6: u32,
    /// How many are not.
    pub number_not_established_v6: u32,
    /// The sessions by IPv4.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub peers_v4: Vec<NodePeer>,
    /// The sessions by IPv6.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub peers_v6: Vec<NodePeer>,
}

/// One BGP session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NodePeer {
    /// The peer's address.
    #[serde(rename = "peerIP")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub peer_ip: IpAddr,
    /// Where the session comes from: `NodeMesh`, `NodePeer` or `GlobalPeer`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its state (RFC 4271): `Idle`, `Connect`, `Active`, `OpenSent`, `OpenConfirm`, `Established`; or `Close`.
    pub state: String,
    /// Since when.
    pub since: String,
}

/// Routes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct NodeRoutesStatus {
    /// Those of IPv4.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routes_v4: Vec<NodeRoute>,
    /// Those of IPv6.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routes_v6: Vec<NodeRoute>,
}

/// One route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct NodeRoute {
    /// `FIB` for one that the kernel has, `RIB` for one that it does not.
    #[serde(rename = "type")]
    pub kind: String,
    /// Where it leads.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub destination: IpNet,
    /// By which gateway; nothing where it needs none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
    pub gateway: Option<IpAddr>,
    /// By which interface.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Where it comes from.
    pub learned_from: RouteLearnedFrom,
}

/// Where a route comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct RouteLearnedFrom {
    /// `Kernel`, `Static`, `Direct`, `NodeMesh` or `BGPPeer`.
    pub source_type: String,
    /// The peer, of the last two.
    #[serde(rename = "peerIP", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
    pub peer_ip: Option<IpAddr>,
}
