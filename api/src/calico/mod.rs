//! Calico kinds of the group `projectcalico.org/v3`.

mod bgp;
pub mod felix;
mod ipam;
mod ippool;
pub mod policy;

pub(crate) use bgp::{BGP_CONFIGURATION_UNSUPPORTED, parse_as_number};
pub use bgp::{BgpConfiguration, BgpConfigurationSpec, ServiceBlock};
pub use felix::{FelixConfiguration, FelixConfigurationSpec};
pub use ipam::{
    AddressPersistence, AffinityState, AllocationAttribute, BlockAffinity, BlockAffinitySpec, IpReservation,
    IpReservationSpec, IpamBlock, IpamBlockSpec, IpamConfiguration, IpamConfigurationSpec, IpamHandle, IpamHandleSpec,
    OtherFields,
};
pub(crate) use ipam::{BLOCK_AFFINITY_FIELDS, IPAM_BLOCK_FIELDS, IPAM_HANDLE_FIELDS, other_fields};
pub(crate) use ippool::IP_POOL_UNSUPPORTED;
pub use ippool::{AssignmentMode, EncapMode, IpPool, IpPoolSpec};
pub use policy::{
    Action, DEFAULT_TIER, EndpointPort, EntityRule, HostEndpoint, HostEndpointSpec, Icmp, IpVersion, KUBE_ADMIN_TIER,
    KUBE_BASELINE_TIER, NetworkSet, NetworkSetSpec, PerformanceHint, Policy, PolicyRule, PolicySpec, Profile,
    ProfileSpec, RuleMetadata, RulePort, RuleProtocol, ServiceAccountMatch, ServiceMatch, StagedAction,
    StagedKubernetesNetworkPolicy, StagedKubernetesNetworkPolicySpec, Tier, TierAction, TierSpec, compare_orders,
};
