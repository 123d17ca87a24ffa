//! `policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicy`: what the cluster's administrators say before all NetworkPolicies (tier
//! Admin) and where none has spoken (tier Baseline).
//!
//! Where the API asks for exactly one of several fields there is an enum here.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{LabelSelector, Protocol};
use crate::meta::{ObjectMeta, networks, null_as_default};

/// `policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicy`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ClusterNetworkPolicy {
    /// Name and labels.
    pub metadata: ObjectMeta,
    /// What is wanted.
    pub spec: ClusterNetworkPolicySpec,
}

/// `ClusterNetworkPolicySpec`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterNetworkPolicySpec {
    /// Before or after the NetworkPolicies.
    pub tier: ClusterNetworkPolicyTier,
    /// The place in the tier, from 0 to 1000: lower comes first. Policies of the same priority go by name.
    pub priority: u16,
    /// The pods it governs.
    pub subject: ClusterNetworkPolicySubject,
    /// What is done with traffic to the pods; the first rule that matches. No rule isolates nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub ingress: Vec<ClusterNetworkPolicyIngressRule>,
    /// What is done with traffic from the pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub egress: Vec<ClusterNetworkPolicyEgressRule>,
}

/// `tier`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum ClusterNetworkPolicyTier {
    /// Before all NetworkPolicies: Calico's tier `kube-admin`.
    Admin,
    /// After them: Calico's tier `kube-baseline`.
    Baseline,
}

impl ClusterNetworkPolicyTier {
    /// The name of Calico's tier for it.
    pub const fn calico_tier(self) -> &'static str {
        match self {
            Self::Admin => crate::calico::KUBE_ADMIN_TIER,
            Self::Baseline => crate::calico::KUBE_BASELINE_TIER,
        }
    }
}

/// The pods that a policy governs; those on their node's network are never among them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum ClusterNetworkPolicySubject {
    /// All pods of namespaces with such labels.
    Namespaces(LabelSelector),
    /// Some pods of them.
    Pods(NamespacedPod),
}

/// Pods with such labels in namespaces with such labels; an empty selector selects all.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NamespacedPod {
    /// The namespaces.
    #[serde(default, deserialize_with = "null_as_default")]
    pub namespace_selector: LabelSelector,
    /// The pods in them.
    #[serde(default, deserialize_with = "null_as_default")]
    pub pod_selector: LabelSelector,
}

/// What is done with traffic that comes from one of `from`, by one of `protocols`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterNetworkPolicyIngressRule {
    /// A name for people, up to 100 characters.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_as_default")]
    pub name: String,
    /// What is done.
    pub action: ClusterNetworkPolicyAction,
    /// From whom, one at least: namespaces or pods.
    #[serde(deserialize_with = "null_as_default")]
    pub from: Vec<ClusterNetworkPolicyPeer>,
    /// By which protocols and ports; empty is all.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub protocols: Vec<ClusterNetworkPolicyProtocol>,
}

/// What is done with traffic that goes to one of `to`, by one of `protocols`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterNetworkPolicyEgressRule {
    /// A name for people, up to 100 characters.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_as_default")]
    pub name: String,
    /// What is done.
    pub action: ClusterNetworkPolicyAction,
    /// To whom, one at least.
    #[serde(deserialize_with = "null_as_default")]
    pub to: Vec<ClusterNetworkPolicyPeer>,
    /// By which protocols and ports; empty is all.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub protocols: Vec<ClusterNetworkPolicyProtocol>,
}

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum ClusterNetworkPolicyAction {
    /// Lets the traffic pass, as Calico's Allow; no further policy is asked in this direction.
    Accept,
    /// Stops it.
    Deny,
    /// Goes on with the next tier.
    Pass,
}

impl ClusterNetworkPolicyAction {
    /// Calico's name for it.
    pub const fn calico_action(self) -> crate::calico::Action {
        match self {
            Self::Accept => crate::calico::Action::Allow,
            Self::Deny => crate::calico::Action::Deny,
            Self::Pass => crate::calico::Action::Pass,
        }
    }
}

/// A peer of a rule; ingress has only the first two.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum ClusterNetworkPolicyPeer {
    /// All pods of namespaces with such labels.
    Namespaces(LabelSelector),
    /// Some pods of them.
    Pods(NamespacedPod),
    /// Addresses, whoever has them.
    Networks(
        #[serde(deserialize_with = "networks")]
        #[cfg_attr(feature = "schema", schemars(with = "Vec<crate::schema::Cidr>"))]
        Vec<IpNet>,
    ),
    /// Domain names, of an Accept only. Nothing resolves them here, so such a peer is nobody: it fails closed, as the API asks.
    DomainNames(Vec<String>),
}

/// A protocol with its ports, or a port by name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum ClusterNetworkPolicyProtocol {
    /// TCP.
    Tcp(ClusterNetworkPolicyPorts),
    /// UDP.
    Udp(ClusterNetworkPolicyPorts),
    /// SCTP.
    Sctp(ClusterNetworkPolicyPorts),
    /// The container port of this name at the destination, of whatever protocol it is.
    DestinationNamedPort(String),
}

/// The ports of a protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterNetworkPolicyPorts {
    /// Where the traffic goes.
    pub destination_port: DestinationPort,
}

/// A port or a range of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum DestinationPort {
    /// One port.
    Number(u16),
    /// Several.
    Range(DestinationPorts),
}

/// Ports from `start` to `end`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct DestinationPorts {
    /// The first.
    pub start: u16,
    /// The last, greater than the first.
    pub end: u16,
}

impl DestinationPort {
    /// The first and the last port.
    pub const fn bounds(self) -> (u16, u16) {
        match self {
            Self::Number(number) => (number, number),
            Self::Range(ports) => (ports.start, ports.end),
        }
    }
}

impl ClusterNetworkPolicyProtocol {
    /// The protocol and its first and last port; `None` of a port by name.
    pub const fn ports(&self) -> Option<(Protocol, u16, u16)> {
        let (protocol, ports) = match self {
            Self::Tcp(ports) => (Protocol::Tcp, ports),
            Self::Udp(ports) => (Protocol::Udp, ports),
            Self::Sctp(ports) => (Protocol::Sctp, ports),
            Self::DestinationNamedPort(_) => return None,
        };
        let (first, last) = ports.destination_port.bounds();
        Some((protocol, first, last))
    }
}
