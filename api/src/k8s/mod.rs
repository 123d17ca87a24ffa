//! Kubernetes kinds: `v1` Namespace, Pod, Node, ServiceAccount, `discovery.k8s.io/v1` EndpointSlice, `networking.k8s.io/v1`
//! NetworkPolicy and `policy.networking.k8s.io/v1alpha2` ClusterNetworkPolicy.

mod addresses;
mod annotation;
mod bandwidth;
mod cluster;
mod cluster_network_policy;
mod network_policy;
mod quantity;
mod secret;
mod selector;
mod services;
mod traffic;

pub(crate) use addresses::reported_addresses;
pub use addresses::{annotations, requested_pools};
pub use bandwidth::{Bandwidth, BandwidthLimit};
pub use cluster::{
    Address, Container, ContainerPort, DEFAULT_SERVICE_ACCOUNT, Namespace, Node, NodeAddress, NodeSpec, NodeStatus,
    Pod, PodIp, PodSpec, PodStatus, Protocol,
};
pub use cluster_network_policy::{
    ClusterNetworkPolicy, ClusterNetworkPolicyAction, ClusterNetworkPolicyEgressRule, ClusterNetworkPolicyIngressRule,
    ClusterNetworkPolicyPeer, ClusterNetworkPolicyPorts, ClusterNetworkPolicyProtocol, ClusterNetworkPolicySpec,
    ClusterNetworkPolicySubject, ClusterNetworkPolicyTier, DestinationPort, DestinationPorts, NamespacedPod,
};
pub(crate) use network_policy::PORT_RANGE;
pub use network_policy::{
    IpBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
    NetworkPolicySpec, PolicyType, PortOrName,
};
pub use quantity::parse_quantity;
pub use secret::{Secret, SecretValue};
pub use selector::{LabelSelector, LabelSelectorRequirement, SelectorOperator};
pub use services::{
    AddressType, Endpoint, EndpointConditions, EndpointSlice, EndpointSlicePort, SERVICE_NAME_LABEL, ServiceAccount,
};
pub use traffic::{ALLOWED_SOURCE_PREFIXES, PacketRate, TrafficLimit, TrafficLimits};
