//! Kubernetes kinds: `v1` Namespace, Pod, Node and `networking.k8s.io/v1` NetworkPolicy.

mod addresses;
mod bandwidth;
mod cluster;
mod network_policy;
mod quantity;
mod selector;
mod traffic;

pub use addresses::annotations;
pub(crate) use addresses::reported_addresses;
pub use bandwidth::{Bandwidth, BandwidthLimit};
pub use cluster::{
    Address, Container, ContainerPort, Namespace, Node, NodeAddress, NodeSpec, NodeStatus, Pod, PodIp, PodSpec,
    PodStatus, Protocol,
};
pub(crate) use network_policy::PORT_RANGE;
pub use network_policy::{
    IpBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
    NetworkPolicySpec, PolicyType, PortOrName,
};
pub use quantity::parse_quantity;
pub use selector::{LabelSelector, LabelSelectorRequirement, SelectorOperator};
pub use traffic::{ALLOWED_SOURCE_PREFIXES, PacketRate, TrafficLimit, TrafficLimits};
