//! The kinds of resources, and how people and manifests call them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::field::nearest;
use crate::validate;

/// The `apiVersion` of Calico's kinds.
pub(crate) const CALICO: &str = "projectcalico.org/v3";

/// Under this `apiVersion` Calico's own resources keep the objects of `projectcalico.org/v3`, field by field, on clusters without
/// Calico's API server: what `kubectl get ippools -o yaml` prints there.
pub(crate) const CALICO_STORAGE: &str = "crd.projectcalico.org/v1";

/// The kinds that Tortie knows.
///
/// Two are called NetworkPolicy. Kubernetes' keeps the name here; Calico's is [`Kind::CalicoNetworkPolicy`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// `v1 Namespace`.
    Namespace,
    /// `v1 Node`.
    Node,
    /// `v1 Pod`.
    Pod,
    /// `networking.k8s.io/v1 NetworkPolicy`.
    NetworkPolicy,
    /// `projectcalico.org/v3 IPPool`.
    #[serde(rename = "IPPool")]
    IpPool,
    /// `projectcalico.org/v3 BGPConfiguration`.
    #[serde(rename = "BGPConfiguration")]
    BgpConfiguration,
    /// `projectcalico.org/v3 IPAMBlock`.
    #[serde(rename = "IPAMBlock")]
    IpamBlock,
    /// `projectcalico.org/v3 FelixConfiguration`.
    FelixConfiguration,
    /// `v1 ServiceAccount`.
    ServiceAccount,
    /// `discovery.k8s.io/v1 EndpointSlice`.
    EndpointSlice,
    /// `policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicy`.
    ClusterNetworkPolicy,
    /// `projectcalico.org/v3 Tier`.
    Tier,
    /// `projectcalico.org/v3 NetworkPolicy`.
    CalicoNetworkPolicy,
    /// `projectcalico.org/v3 GlobalNetworkPolicy`.
    GlobalNetworkPolicy,
    /// `projectcalico.org/v3 StagedNetworkPolicy`.
    StagedNetworkPolicy,
    /// `projectcalico.org/v3 StagedGlobalNetworkPolicy`.
    StagedGlobalNetworkPolicy,
    /// `projectcalico.org/v3 StagedKubernetesNetworkPolicy`.
    StagedKubernetesNetworkPolicy,
    /// `projectcalico.org/v3 NetworkSet`.
    NetworkSet,
    /// `projectcalico.org/v3 GlobalNetworkSet`.
    GlobalNetworkSet,
    /// `projectcalico.org/v3 HostEndpoint`.
    HostEndpoint,
    /// `projectcalico.org/v3 Profile`.
    Profile,
    /// `projectcalico.org/v3 BlockAffinity`.
    BlockAffinity,
    /// `projectcalico.org/v3 IPAMHandle`.
    #[serde(rename = "IPAMHandle")]
    IpamHandle,
    /// `projectcalico.org/v3 IPAMConfiguration`.
    #[serde(rename = "IPAMConfiguration")]
    IpamConfiguration,
    /// `projectcalico.org/v3 IPReservation`.
    #[serde(rename = "IPReservation")]
    IpReservation,
    /// `projectcalico.org/v3 BGPPeer`.
    #[serde(rename = "BGPPeer")]
    BgpPeer,
    /// `projectcalico.org/v3 BGPFilter`.
    #[serde(rename = "BGPFilter")]
    BgpFilter,
    /// `projectcalico.org/v3 ClusterInformation`.
    ClusterInformation,
    /// `projectcalico.org/v3 CalicoNodeStatus`.
    CalicoNodeStatus,
    /// `projectcalico.org/v3 KubeControllersConfiguration`.
    KubeControllersConfiguration,
    /// `v1 Secret`.
    Secret,
}

impl Kind {
    /// Every kind, in the order of the enum.
    pub const ALL: [Self; 31] = [
        Self::Namespace,
        Self::Node,
        Self::Pod,
        Self::NetworkPolicy,
        Self::IpPool,
        Self::BgpConfiguration,
        Self::IpamBlock,
        Self::FelixConfiguration,
        Self::ServiceAccount,
        Self::EndpointSlice,
        Self::ClusterNetworkPolicy,
        Self::Tier,
        Self::CalicoNetworkPolicy,
        Self::GlobalNetworkPolicy,
        Self::StagedNetworkPolicy,
        Self::StagedGlobalNetworkPolicy,
        Self::StagedKubernetesNetworkPolicy,
        Self::NetworkSet,
        Self::GlobalNetworkSet,
        Self::HostEndpoint,
        Self::Profile,
        Self::BlockAffinity,
        Self::IpamHandle,
        Self::IpamConfiguration,
        Self::IpReservation,
        Self::BgpPeer,
        Self::BgpFilter,
        Self::ClusterInformation,
        Self::CalicoNodeStatus,
        Self::KubeControllersConfiguration,
        Self::Secret,
    ];

    /// The kind's name, which no other kind has. Manifests spell it so too, but for [`Kind::CalicoNetworkPolicy`].
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::Pod => "Pod",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::IpPool => "IPPool",
            Self::BgpConfiguration => "BGPConfiguration",
            Self::IpamBlock => "IPAMBlock",
            Self::FelixConfiguration => "FelixConfiguration",
            Self::ServiceAccount => "ServiceAccount",
            Self::EndpointSlice => "EndpointSlice",
            Self::ClusterNetworkPolicy => "ClusterNetworkPolicy",
            Self::Tier => "Tier",
            Self::CalicoNetworkPolicy => "CalicoNetworkPolicy",
            Self::GlobalNetworkPolicy => "GlobalNetworkPolicy",
            Self::StagedNetworkPolicy => "StagedNetworkPolicy",
            Self::StagedGlobalNetworkPolicy => "StagedGlobalNetworkPolicy",
            Self::StagedKubernetesNetworkPolicy => "StagedKubernetesNetworkPolicy",
            Self::NetworkSet => "NetworkSet",
            Self::GlobalNetworkSet => "GlobalNetworkSet",
            Self::HostEndpoint => "HostEndpoint",
            Self::Profile => "Profile",
            Self::BlockAffinity => "BlockAffinity",
            Self::IpamHandle => "IPAMHandle",
            Self::IpamConfiguration => "IPAMConfiguration",
            Self::IpReservation => "IPReservation",
            Self::BgpPeer => "BGPPeer",
            Self::BgpFilter => "BGPFilter",
            Self::ClusterInformation => "ClusterInformation",
            Self::CalicoNodeStatus => "CalicoNodeStatus",
            Self::KubeControllersConfiguration => "KubeControllersConfiguration",
            Self::Secret => "Secret",
        }
    }

    /// The `kind` of manifests of this kind: with [`Kind::api_version`] it says which kind it is.
    pub const fn manifest_kind(self) -> &'static str {
        match self {
            Self::CalicoNetworkPolicy => "NetworkPolicy",
            other => other.as_str(),
        }
    }

    /// The `kind` of objects under `crd.projectcalico.org/v1`, where Calico without its API server keeps those of `projectcalico.org/v3`.
    pub const fn storage_kind(self) -> &'static str {
        match self {
            Self::IpamConfiguration => "IPAMConfig",
            other => other.manifest_kind(),
        }
    }

    /// The `apiVersion` of manifests of this kind.
    pub const fn api_version(self) -> &'static str {
        match self {
            Self::Namespace | Self::Node | Self::Pod | Self::ServiceAccount | Self::Secret => "v1",
            Self::NetworkPolicy => "networking.k8s.io/v1",
            Self::EndpointSlice => "discovery.k8s.io/v1",
            Self::ClusterNetworkPolicy => "policy.networking.k8s.io/v1alpha2",
            Self::IpPool
            | Self::BgpConfiguration
            | Self::IpamBlock
            | Self::FelixConfiguration
            | Self::Tier
            | Self::CalicoNetworkPolicy
            | Self::GlobalNetworkPolicy
            | Self::StagedNetworkPolicy
            | Self::StagedGlobalNetworkPolicy
            | Self::StagedKubernetesNetworkPolicy
            | Self::NetworkSet
            | Self::GlobalNetworkSet
            | Self::HostEndpoint
            | Self::Profile
            | Self::BlockAffinity
            | Self::IpamHandle
            | Self::IpamConfiguration
            | Self::IpReservation
            | Self::BgpPeer
            | Self::BgpFilter
            | Self::ClusterInformation
            | Self::CalicoNodeStatus
            | Self::KubeControllersConfiguration => CALICO,
        }
    }

    /// The kind of a manifest with these fields. Calico's kinds are found under their API server's version and that of its storage.
    pub fn of_manifest(api_version: &str, kind: &str) -> Option<Self> {
        if api_version == CALICO_STORAGE {
            return Self::ALL.into_iter().find(|known| known.api_version() == CALICO && known.storage_kind() == kind);
        }
        Self::ALL.into_iter().find(|known| known.manifest_kind() == kind && known.api_version() == api_version)
    }

    /// Whether objects of this kind belong to a namespace.
    pub const fn is_namespaced(self) -> bool {
        matches!(
            self,
            Self::Pod
                | Self::NetworkPolicy
                | Self::ServiceAccount
                | Self::Secret
                | Self::EndpointSlice
                | Self::CalicoNetworkPolicy
                | Self::StagedNetworkPolicy
                | Self::StagedKubernetesNetworkPolicy
                | Self::NetworkSet
        )
    }

    /// Whether the kind carries people's intent, so that a field we do not know is an error. What agents write themselves may come from
    /// a newer one.
    pub const fn is_strict(self) -> bool {
        !matches!(
            self,
            Self::Namespace
                | Self::Node
                | Self::Pod
                | Self::IpamBlock
                | Self::BlockAffinity
                | Self::IpamHandle
                | Self::ServiceAccount
                | Self::Secret
                | Self::EndpointSlice
        )
    }

    /// Whether objects of this kind may have this name.
    ///
    /// # Errors
    /// What is wrong with it: a predicate, such as "must be no more than 253 bytes long".
    pub fn check_name(self, name: &str) -> Result<(), String> {
        validate::names::object_name(self)(name)
    }

    /// The plural by which an API server knows the kind in its group, in lower case.
    pub const fn plural(self) -> &'static str {
        match self {
            Self::CalicoNetworkPolicy => "networkpolicies",
            other => other.names()[0],
        }
    }

    /// The plural and the short names that command lines take, in lower case: kubectl's, then calicoctl's. Where both have a name, it is
    /// Kubernetes' here, as ever (`np`); `cnp` is Calico's NetworkPolicy, as its API server says.
    const fn names(self) -> &'static [&'static str] {
        match self {
            Self::Namespace => &["namespaces", "ns"],
            Self::Node => &["nodes", "no"],
            Self::Pod => &["pods", "po"],
            Self::NetworkPolicy => &["networkpolicies", "netpol", "netpols", "np", "knp"],
            Self::IpPool => &["ippools", "ipp", "ipps", "pool", "pools"],
            Self::BgpConfiguration => &["bgpconfigurations", "bgpconfig", "bgpconfigs"],
            Self::IpamBlock => &["ipamblocks", "block", "blocks"],
            Self::FelixConfiguration => &["felixconfigurations", "felixconfig", "felixconfigs"],
            Self::ServiceAccount => &["serviceaccounts", "sa"],
            Self::EndpointSlice => &["endpointslices"],
            Self::ClusterNetworkPolicy => &["clusternetworkpolicies", "clusternetpol", "clusternetpols"],
            Self::Tier => &["tiers"],
            Self::CalicoNetworkPolicy => &["caliconetworkpolicies", "cnp", "cnps", "policy", "policies", "pol", "pols"],
            Self::GlobalNetworkPolicy => &["globalnetworkpolicies", "gnp", "gnps", "cgnp"],
            Self::StagedNetworkPolicy => &["stagednetworkpolicies", "snp", "snps"],
            Self::StagedGlobalNetworkPolicy => &["stagedglobalnetworkpolicies", "sgnp", "sgnps"],
            Self::StagedKubernetesNetworkPolicy => &["stagedkubernetesnetworkpolicies", "sknp", "sknps"],
            Self::NetworkSet => &["networksets", "netset", "netsets"],
            Self::GlobalNetworkSet => &["globalnetworksets", "gns", "globalnetset", "globalnetsets"],
            Self::HostEndpoint => &["hostendpoints", "hep", "heps"],
            Self::Profile => &["profiles", "pro", "pros"],
            Self::BlockAffinity => &["blockaffinities", "affinity", "affinities"],
            Self::IpamHandle => &["ipamhandles", "handle", "handles"],
            Self::IpamConfiguration => &["ipamconfigurations", "ipamconfig", "ipamconfigs"],
            Self::IpReservation => &["ipreservations", "reservation", "reservations"],
            Self::BgpPeer => &["bgppeers", "bgpp", "bgpps", "bp", "bps"],
            Self::BgpFilter => &["bgpfilters"],
            Self::ClusterInformation => &["clusterinformations", "clusterinfo"],
            Self::CalicoNodeStatus => &["caliconodestatuses", "caliconodestat", "caliconodestats"],
            Self::KubeControllersConfiguration => {
                &["kubecontrollersconfigurations", "kubecontrollersconfig", "kubecontrollersconfigs", "kcc", "kccs"]
            }
            Self::Secret => &["secrets"],
        }
    }

    /// Whether people call it so; the name is in lower case.
    fn is_called(self, name: &str) -> bool {
        let base = |name: &str| self.as_str().eq_ignore_ascii_case(name) || self.names().contains(&name);
        let Some((resource, group)) = name.split_once('.') else { return base(name) };
        // kubectl's full names: RESOURCE.GROUP and RESOURCE.VERSION.GROUP.
        let is_manifests = self.manifest_kind().eq_ignore_ascii_case(resource)
            || self == Self::CalicoNetworkPolicy && matches!(resource, "networkpolicies" | "np");
        let (own_group, own_version) = self.api_version().rsplit_once('/').unwrap_or(("", self.api_version()));
        let is_own =
            |group: &str| group == own_group || own_group == "projectcalico.org" && group == "crd.projectcalico.org";
        let versioned = group.strip_prefix(own_version).and_then(|rest| rest.strip_prefix('.'));
        !own_group.is_empty() && (base(resource) || is_manifests) && (is_own(group) || versioned.is_some_and(is_own))
    }
}

impl std::str::FromStr for Kind {
    type Err = String;

    /// Reads a kind as people type it: in any case, singular, plural, short (`netpol`) or with its group
    /// (`networkpolicies.projectcalico.org`).
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = text.to_lowercase();
        Self::ALL.into_iter().find(|kind| kind.is_called(&name)).ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.iter().map(|kind| kind.as_str()).collect();
            let remedy = match nearest(text, &known) {
                Some(kind) => format!("did you mean {kind}?"),
                None => format!("use one of {}", known.join(", ")),
            };
            format!("unknown kind {text:?}: {remedy}")
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn no_name_is_that_of_two_kinds() {
        let mut known = BTreeMap::new();
        for kind in Kind::ALL {
            let own = kind.as_str().to_lowercase();
            for name in kind.names().iter().copied().chain([own.as_str()]) {
                assert_eq!(known.insert(name.to_owned(), kind), None, "{name} is {kind} and another");
                assert_eq!(name.to_uppercase().parse(), Ok(kind));
            }
        }
    }
}
