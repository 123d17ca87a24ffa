//! The kinds of resources that verdicts and tables depend on.

use tortie_api::Kind;

/// Every kind that a [`Cluster`](crate::Cluster) takes in, and those that [`CompileOptions`](crate::CompileOptions) are made of. Whoever
/// compiles, or asks who may talk to whom, needs all objects of these kinds.
pub const KINDS: [Kind; 20] = [
    Kind::Namespace,
    Kind::ServiceAccount,
    Kind::Node,
    Kind::Pod,
    Kind::EndpointSlice,
    Kind::Tier,
    Kind::NetworkPolicy,
    Kind::ClusterNetworkPolicy,
    Kind::CalicoNetworkPolicy,
    Kind::GlobalNetworkPolicy,
    Kind::StagedNetworkPolicy,
    Kind::StagedGlobalNetworkPolicy,
    Kind::StagedKubernetesNetworkPolicy,
    Kind::NetworkSet,
    Kind::GlobalNetworkSet,
    Kind::HostEndpoint,
    Kind::Profile,
    Kind::IpPool,
    Kind::BgpConfiguration,
    Kind::FelixConfiguration,
];

#[cfg(test)]
mod tests {
    use super::*;

    /// A kind that comes to be known is either here, or has nothing to do with policy.
    #[test]
    fn every_kind_is_known_or_knowingly_left_out() {
        let left_out: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| !KINDS.contains(kind)).collect();
        let ipam =
            [Kind::IpamBlock, Kind::BlockAffinity, Kind::IpamHandle, Kind::IpamConfiguration, Kind::IpReservation];
        let bgp = [Kind::BgpPeer, Kind::BgpFilter];
        let secrets = [Kind::Secret];
        let cluster = [Kind::ClusterInformation, Kind::CalicoNodeStatus, Kind::KubeControllersConfiguration];
        assert_eq!(left_out, [ipam.as_slice(), &bgp, &cluster, &secrets].concat());
    }
}
