//! `v1` Namespace, Pod and Node, slim.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::meta::{ObjectMeta, address, null_as_default, optional_address, optional_text};

/// `v1 Namespace`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    /// Name and labels; defaulting adds `kubernetes.io/metadata.name`.
    pub metadata: ObjectMeta,
}

/// `v1 Pod`, slim.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Name, namespace, labels, annotations.
    pub metadata: ObjectMeta,
    /// What is wanted.
    #[serde(default)]
    pub spec: PodSpec,
    /// What was seen.
    #[serde(default)]
    pub status: PodStatus,
}

/// `PodSpec`, slim.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSpec {
    /// The node it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// Whether the pod shares its node's network namespace; such a pod is not an endpoint of ours.
    #[serde(default, deserialize_with = "null_as_default")]
    pub host_network: bool,
    /// The service account it runs as; see [`PodSpec::service_account`].
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "optional_text")]
    pub service_account_name: Option<String>,
    /// Containers, for their ports.
    #[serde(default, deserialize_with = "null_as_default")]
    pub containers: Vec<Container>,
    /// Init containers; those that restart always (sidecars) may declare ports too.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub init_containers: Vec<Container>,
}

/// The service account that every namespace has, and that pods run as which name none.
pub const DEFAULT_SERVICE_ACCOUNT: &str = "default";

impl PodSpec {
    /// The name of the service account that the pod runs as: `default` unless it names another, as the API server fills it in.
    pub fn service_account(&self) -> &str {
        self.service_account_name.as_deref().unwrap_or(DEFAULT_SERVICE_ACCOUNT)
    }
}

/// `Container`, slim.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Container {
    /// The container's name.
    #[serde(default)]
    pub name: String,
    /// `Always` makes an init container a sidecar; elsewhere it has no meaning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_policy: Option<String>,
    /// Declared ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub ports: Vec<ContainerPort>,
}

/// `ContainerPort`, slim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerPort {
    /// A name that policies may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The port inside the pod.
    pub container_port: u16,
    /// TCP by default.
    #[serde(default, deserialize_with = "null_as_default")]
    pub protocol: Protocol,
}

/// A transport protocol as the Kubernetes API names it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP, the default.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// All three, in the order of the enum.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// The IP protocol number (IANA).
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// The name as the API spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|protocol| protocol.as_str().eq_ignore_ascii_case(text))
            .ok_or_else(|| format!("unknown protocol {text:?}: use TCP, UDP or SCTP"))
    }
}

/// `PodStatus`, slim. A `podIP` without `podIPs` is read as a list of one, as the API server does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", from = "WirePodStatus")]
pub struct PodStatus {
    /// `Pending`, `Running`, `Succeeded`, `Failed`; empty in a manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// The pod's addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty", rename = "podIPs", deserialize_with = "null_as_default")]
    pub pod_ips: Vec<PodIp>,
}

/// [`PodStatus`] as it is written.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WirePodStatus {
    phase: Option<String>,
    #[serde(default, rename = "podIPs", deserialize_with = "null_as_default")]
    pod_ips: Vec<PodIp>,
    #[serde(default, rename = "podIP", deserialize_with = "optional_address")]
    pod_ip: Option<IpAddr>,
}

impl From<WirePodStatus> for PodStatus {
    fn from(wire: WirePodStatus) -> Self {
        let mut pod_ips = wire.pod_ips;
        if pod_ips.is_empty() {
            pod_ips.extend(wire.pod_ip.map(|ip| PodIp { ip }));
        }
        Self { phase: wire.phase, pod_ips }
    }
}

/// One of a pod's addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodIp {
    /// The address.
    #[serde(deserialize_with = "address")]
    pub ip: IpAddr,
}

/// `v1 Node`, slim.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Name, labels, and Calico's annotations (`projectcalico.org/IPv4Address`, `projectcalico.org/ASNumber` ...).
    pub metadata: ObjectMeta,
    /// What is wanted.
    #[serde(default)]
    pub spec: NodeSpec,
    /// What was seen.
    #[serde(default)]
    pub status: NodeStatus,
}

/// `NodeSpec`, slim.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeSpec {
    /// Pod CIDRs that the controller manager assigned; unused with our own IPAM.
    #[serde(default, skip_serializing_if = "Vec::is_empty", rename = "podCIDRs", deserialize_with = "null_as_default")]
    pub pod_cidrs: Vec<String>,
}

/// `NodeStatus`, slim.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The node's addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub addresses: Vec<NodeAddress>,
}

/// One of a node's addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeAddress {
    /// `InternalIP`, `ExternalIP`, `Hostname` ...
    #[serde(rename = "type")]
    pub kind: String,
    /// The address as text: an IP, or a name for `Hostname`.
    pub address: Address,
}

/// The text of a node address.
pub type Address = String;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_run_as_the_default_account_unless_they_name_another() {
        let read = |text: &str| serde_json::from_str::<PodSpec>(text).expect("a spec");
        assert_eq!(read("{}").service_account(), "default");
        assert_eq!(read(r#"{"serviceAccountName": ""}"#).service_account(), "default");
        let named = read(r#"{"serviceAccountName": "builder"}"#);
        assert_eq!(named.service_account(), "builder");
        let written = serde_json::to_string(&named).expect("JSON");
        assert_eq!(serde_json::from_str::<PodSpec>(&written).expect("a spec"), named);
    }
}
