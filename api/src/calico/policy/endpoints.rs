//! What policies speak of besides pods: sets of networks, the nodes' own interfaces, and profiles.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{PolicyRule, RuleProtocol};
use crate::meta::{ObjectMeta, StringMap, addresses, networks_or_addresses, null_as_default, optional_text};

/// `projectcalico.org/v3` NetworkSet (of one namespace) or GlobalNetworkSet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NetworkSet {
    /// Name, of a NetworkSet the namespace, and the labels that rules select it by.
    pub metadata: ObjectMeta,
    /// What is wanted.
    #[serde(default)]
    pub spec: NetworkSetSpec,
}

/// `NetworkSetSpec`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkSetSpec {
    /// The networks; a plain address is the network of itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "networks_or_addresses")]
    #[cfg_attr(feature = "schema", schemars(with = "Vec<crate::schema::CidrOrAddress>"))]
    pub nets: Vec<IpNet>,
}

/// `projectcalico.org/v3 HostEndpoint`: one interface of a node, or all of them, as an endpoint of policies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HostEndpoint {
    /// Name, and the labels that policies select it by.
    pub metadata: ObjectMeta,
    /// What is wanted.
    #[serde(default)]
    pub spec: HostEndpointSpec,
}

/// `HostEndpointSpec`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HostEndpointSpec {
    /// The node's name.
    #[serde(default)]
    pub node: String,
    /// The interface's name; `*` is all traffic to, from and through the node. Without it, the interface with an expected address.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "optional_text")]
    pub interface_name: Option<String>,
    /// Addresses of the interface, which rules of others that select the endpoint stand for.
    #[serde(default, rename = "expectedIPs", skip_serializing_if = "Vec::is_empty", deserialize_with = "addresses")]
    #[cfg_attr(feature = "schema", schemars(with = "Vec<crate::schema::Address>"))]
    pub expected_ips: Vec<IpAddr>,
    /// Profiles that judge what no policy does, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub profiles: Vec<String>,
    /// Ports that rules may name.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub ports: Vec<EndpointPort>,
}

/// A port with a name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct EndpointPort {
    /// The name that rules use.
    pub name: String,
    /// Its protocol.
    pub protocol: RuleProtocol,
    /// Its number.
    pub port: u16,
}

/// `projectcalico.org/v3 Profile`: rules and labels that endpoints share. Namespaces and service accounts make profiles of their own
/// (`kns.NAME`, `ksa.NAMESPACE.NAME`); objects of this kind are for host endpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// The name that endpoints refer to.
    pub metadata: ObjectMeta,
    /// What is wanted.
    #[serde(default)]
    pub spec: ProfileSpec,
}

/// `ProfileSpec`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProfileSpec {
    /// What is done with traffic to the endpoint.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub ingress: Vec<PolicyRule>,
    /// What is done with traffic from the endpoint.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub egress: Vec<PolicyRule>,
    /// Labels that the endpoint inherits.
    #[serde(default, skip_serializing_if = "StringMap::is_empty", deserialize_with = "null_as_default")]
    pub labels_to_apply: StringMap,
}
