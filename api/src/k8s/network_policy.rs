//! `networking.k8s.io/v1 NetworkPolicy`, whole and strict.
//!
//! Absent and empty differ, and the types keep the difference: an absent `from` (`None`) or an empty one (`[]`) both mean
//! *everyone*; an absent `ports` or an empty one both mean *every port*; a rule `{}` therefore allows everything, while no rule at
//! all allows nothing. A peer's `podSelector: {}` is *every pod* of the policy's namespace, and a `namespaceSelector: {}` every
//! namespace.

use std::fmt;

use ipnet::IpNet;
use serde::de::{Deserializer, Error, Visitor};
use serde::{Deserialize, Serialize};

use super::{LabelSelector, Protocol};
use crate::meta::{ObjectMeta, network, networks, null_as_default};

/// `networking.k8s.io/v1 NetworkPolicy`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPolicy {
    /// Name, namespace, labels.
    pub metadata: ObjectMeta,
    /// What is wanted.
    #[serde(default)]
    pub spec: NetworkPolicySpec,
}

/// `NetworkPolicySpec`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkPolicySpec {
    /// The pods of the policy's namespace that it governs; empty selects all.
    #[serde(default, deserialize_with = "null_as_default")]
    pub pod_selector: LabelSelector,
    /// What may reach the pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub ingress: Vec<NetworkPolicyIngressRule>,
    /// What the pods may reach.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub egress: Vec<NetworkPolicyEgressRule>,
    /// The directions that are isolated. Where nothing is said, `Ingress`, and `Egress` if there are egress rules.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub policy_types: Vec<PolicyType>,
}

/// A direction of isolation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum PolicyType {
    /// Traffic to the pods.
    Ingress,
    /// Traffic from the pods.
    Egress,
}

/// One allowed way in: any of `from`, on any of `ports`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkPolicyIngressRule {
    /// Who may; empty is everyone.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub from: Vec<NetworkPolicyPeer>,
    /// On which ports; empty is every port and protocol.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub ports: Vec<NetworkPolicyPort>,
}

/// One allowed way out: to any of `to`, on any of `ports`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkPolicyEgressRule {
    /// To whom; empty is everyone.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub to: Vec<NetworkPolicyPeer>,
    /// On which ports; empty is every port and protocol.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub ports: Vec<NetworkPolicyPort>,
}

/// A peer: either an `ipBlock` alone, or pods by `podSelector` and `namespaceSelector`.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkPolicyPeer {
    /// Pods by label: of the policy's namespace, or of those that `namespaceSelector` selects. Without it, a
    /// namespace selector means every pod there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<LabelSelector>,
    /// Namespaces by label; without it, the policy's own namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// Addresses; excludes the two selectors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_block: Option<IpBlock>,
}

/// A range of addresses, less some of its parts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IpBlock {
    /// The range; host bits are cleared.
    #[serde(deserialize_with = "network")]
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Cidr"))]
    pub cidr: IpNet,
    /// Parts of `cidr` that are left out, each strictly within it.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "networks")]
    #[cfg_attr(feature = "schema", schemars(with = "Vec<crate::schema::Cidr>"))]
    pub except: Vec<IpNet>,
}

/// A port, a range of ports, a named port, or a whole protocol.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkPolicyPort {
    /// The protocol; TCP by default.
    #[serde(default, deserialize_with = "null_as_default")]
    pub protocol: Protocol,
    /// Number or name; without it, every port of the protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<PortOrName>,
    /// Last port of a range that starts at `port`, which must then be a number no greater.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_port: Option<u16>,
}

/// `IntOrString` as a port: a number, or the name of a container port of the *destination* pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(untagged)]
pub enum PortOrName {
    /// A port number.
    Number(u16),
    /// The name of a port.
    Name(String),
}

/// What is said of a port number out of range, wherever it is noticed.
pub(crate) const PORT_RANGE: &str = "must be between 1 and 65535, inclusive";

impl<'de> Deserialize<'de> for PortOrName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct IntOrString;

        impl Visitor<'_> for IntOrString {
            type Value = PortOrName;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port number or the name of a port")
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<PortOrName, E> {
                u16::try_from(value).map(PortOrName::Number).map_err(|_| E::custom(PORT_RANGE))
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<PortOrName, E> {
                u64::try_from(value).map_err(|_| E::custom(PORT_RANGE)).and_then(|value| self.visit_u64(value))
            }

            fn visit_str<E: Error>(self, value: &str) -> Result<PortOrName, E> {
                Ok(PortOrName::Name(value.to_owned()))
            }
        }

        deserializer.deserialize_any(IntOrString)
    }
}
