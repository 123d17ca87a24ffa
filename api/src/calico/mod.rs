//! Calico kinds of the group `projectcalico.org/v3`.

mod bgp;
mod bgp_filter;
mod bgp_peer;
mod cluster_information;
pub mod felix;
mod ipam;
mod ippool;
mod kube_controllers;
mod node_status;
pub mod policy;
mod tunnel;

pub(crate) use bgp::parse_as_number;
pub use bgp::{
    BgpConfiguration, BgpConfigurationSpec, BindMode, NamedCommunity, PrefixAdvertisement, ProgramClusterRoutes,
    ServiceBlock,
};
pub use bgp_filter::{
    AddCommunity, BgpFilter, BgpFilterAction, BgpFilterOperation, BgpFilterRule, BgpFilterSpec, Community,
    CommunityMatch, MatchOperator, PeerType, PrefixLength, PrependAsPath, RouteOrigin, SetPriority,
};
pub use bgp_peer::{
    BgpPassword, BgpPeer, BgpPeerSpec, NextHopMode, PeerAddress, ReversePeering, SecretKeySelector, SourceAddress,
};
pub use cluster_information::{ClusterInformation, ClusterInformationSpec};
pub use felix::{FelixConfiguration, FelixConfigurationSpec};
pub use ipam::{
    AddressPersistence, AffinityState, AllocationAttribute, BlockAffinity, BlockAffinitySpec, IpReservation,
    IpReservationSpec, IpamBlock, IpamBlockSpec, IpamConfiguration, IpamConfigurationSpec, IpamHandle, IpamHandleSpec,
    OtherFields,
};
pub(crate) use ipam::{BLOCK_AFFINITY_FIELDS, IPAM_BLOCK_FIELDS, IPAM_HANDLE_FIELDS, other_fields};
pub use ipam::{HOSTNAME_HASH_LABEL, hostname_hash};
pub(crate) use ippool::IP_POOL_UNSUPPORTED;
pub use ippool::{AssignmentMode, EncapMode, IpPool, IpPoolSpec};
pub use kube_controllers::{
    AssignIps, AutoHostEndpointConfig, ControllersConfig, ControllersLogLevel, HostEndpointTemplate,
    KubeControllersConfiguration, KubeControllersConfigurationSpec, LoadBalancerControllerConfig, MigrationConfig,
    NodeControllerConfig, ReconcilerConfig,
};
pub use node_status::{
    CalicoNodeStatus, CalicoNodeStatusAnswer, CalicoNodeStatusSpec, NodeAgentStatus, NodeBgpStatus, NodePeer,
    NodeRoute, NodeRoutesStatus, NodeStatusClass, RouteLearnedFrom, SpeakerStatus,
};
pub use policy::{
    Action, DEFAULT_TIER, EndpointPort, EntityRule, HostEndpoint, HostEndpointSpec, Icmp, IpVersion, KUBE_ADMIN_TIER,
    KUBE_BASELINE_TIER, NetworkSet, NetworkSetSpec, PerformanceHint, Policy, PolicyRule, PolicySpec, Profile,
    ProfileSpec, RuleMetadata, RulePort, RuleProtocol, ServiceAccountMatch, ServiceMatch, StagedAction,
    StagedKubernetesNetworkPolicy, StagedKubernetesNetworkPolicySpec, Tier, TierAction, TierSpec, compare_orders,
};
pub use tunnel::Tunnel;
