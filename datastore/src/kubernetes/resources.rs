//! Which resource of the API server holds the objects of a kind.
//!
//! Calico's kinds stand in one of two groups: `projectcalico.org/v3`, as custom resources of their own (ours, or Calico's newer
//! ones), or `crd.projectcalico.org/v1`, the storage of older Calicos. Where the latter is served it is the one to read, as Calico's own
//! components do: `projectcalico.org` is then at most a view of it.

use kube::Client;
use tortie_api::Kind;

use super::wire;

/// The group of Calico's storage.
const STORAGE: &str = "crd.projectcalico.org/v1";

/// The group of Calico's API.
const V3: &str = "projectcalico.org/v3";

/// Where Calico's kinds are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Group {
    /// `projectcalico.org/v3`.
    V3,
    /// `crd.projectcalico.org/v1`.
    Storage,
}

impl Group {
    /// The group that a cluster serves. `CALICO_API_GROUP` decides, as for Calico's components, where it is set.
    pub(super) async fn of_cluster(client: &Client) -> Result<Self, kube::Error> {
        match std::env::var("CALICO_API_GROUP").as_deref() {
            Ok(V3) => return Ok(Self::V3),
            Ok(STORAGE) => return Ok(Self::Storage),
            Ok(other) if !other.is_empty() => {
                tracing::warn!("CALICO_API_GROUP is {other:?}: use {V3} or {STORAGE}; the cluster decides");
            }
            _ => {}
        }
        if !serves(client, STORAGE).await? {
            return Ok(Self::V3);
        }
        if serves(client, V3).await? {
            tracing::warn!(
                "the cluster serves {STORAGE} and {V3}: {STORAGE} is read. Objects of {V3} count only where Calico's API server keeps them \
                 in {STORAGE}; set CALICO_API_GROUP={V3} to read that instead"
            );
        }
        Ok(Self::Storage)
    }

    pub(super) const fn api_version(self) -> &'static str {
        match self {
            Self::V3 => V3,
            Self::Storage => STORAGE,
        }
    }
}

/// Whether a cluster serves anything of a group's version.
async fn serves(client: &Client, api_version: &str) -> Result<bool, kube::Error> {
    match client.list_api_group_resources(api_version).await {
        Ok(list) => Ok(!list.resources.is_empty()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(error),
    }
}

/// How a kind's objects are watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// Whole objects.
    Whole,
    /// Only their metadata, which is all that is read of them. Of nodes too: their annotations say how they are reached, and a kubelet
    /// writes the status, some ten kilobytes of it, every few minutes.
    Metadata,
    /// Whole objects that bear the own node's label.
    Own,
}

/// The kinds that agents watch, and how.
pub(super) const WATCHED: [(Kind, Scope); 23] = [
    (Kind::Namespace, Scope::Metadata),
    (Kind::ServiceAccount, Scope::Metadata),
    (Kind::Node, Scope::Metadata),
    (Kind::Tier, Scope::Whole),
    (Kind::IpPool, Scope::Whole),
    (Kind::BgpConfiguration, Scope::Whole),
    (Kind::BgpPeer, Scope::Whole),
    (Kind::BgpFilter, Scope::Whole),
    (Kind::FelixConfiguration, Scope::Whole),
    // The node's own blocks: a block itself changes with each pod that comes or goes anywhere.
    (Kind::BlockAffinity, Scope::Own),
    (Kind::NetworkSet, Scope::Whole),
    (Kind::GlobalNetworkSet, Scope::Whole),
    (Kind::HostEndpoint, Scope::Whole),
    (Kind::EndpointSlice, Scope::Whole),
    (Kind::NetworkPolicy, Scope::Whole),
    (Kind::ClusterNetworkPolicy, Scope::Whole),
    (Kind::CalicoNetworkPolicy, Scope::Whole),
    (Kind::GlobalNetworkPolicy, Scope::Whole),
    (Kind::StagedNetworkPolicy, Scope::Whole),
    (Kind::StagedGlobalNetworkPolicy, Scope::Whole),
    (Kind::StagedKubernetesNetworkPolicy, Scope::Whole),
    (Kind::CalicoNodeStatus, Scope::Whole),
    (Kind::Pod, Scope::Whole),
];

/// The path of a kind's objects: all of them, or a namespace's.
pub(super) fn collection(kind: Kind, group: Group, namespace: Option<&str>) -> String {
    let api_version = wire::api_version(kind, group);
    let root = if api_version.contains('/') { "apis" } else { "api" };
    match namespace {
        Some(namespace) => format!("/{root}/{api_version}/namespaces/{namespace}/{}", plural(kind, group)),
        None => format!("/{root}/{api_version}/{}", plural(kind, group)),
    }
}

/// The name of a kind's resource.
const fn plural(kind: Kind, group: Group) -> &'static str {
    match (kind, group) {
        (Kind::IpamConfiguration, Group::Storage) => "ipamconfigs",
        _ => kind.plural(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_api_server() {
        assert_eq!(collection(Kind::Pod, Group::V3, None), "/api/v1/pods");
        assert_eq!(
            collection(Kind::NetworkPolicy, Group::Storage, Some("a")),
            "/apis/networking.k8s.io/v1/namespaces/a/networkpolicies"
        );
        assert_eq!(
            collection(Kind::CalicoNetworkPolicy, Group::V3, Some("a")),
            "/apis/projectcalico.org/v3/namespaces/a/networkpolicies"
        );
        assert_eq!(collection(Kind::IpPool, Group::Storage, None), "/apis/crd.projectcalico.org/v1/ippools");
        assert_eq!(
            collection(Kind::IpamConfiguration, Group::Storage, None),
            "/apis/crd.projectcalico.org/v1/ipamconfigs"
        );
    }

    #[test]
    fn every_kind_is_watched_but_what_only_ipam_reads() {
        let left_out: Vec<Kind> =
            Kind::ALL.into_iter().filter(|kind| WATCHED.iter().all(|(watched, _)| watched != kind)).collect();
        // Profiles are what namespaces and service accounts make: a cluster does not store them.
        let ipam = [Kind::IpamBlock, Kind::Profile, Kind::IpamHandle, Kind::IpamConfiguration, Kind::IpReservation];
        // Who may list Secrets may read all of a namespace's, so passwords are not read from a cluster.
        let cluster = [Kind::ClusterInformation, Kind::KubeControllersConfiguration, Kind::Secret];
        assert_eq!(left_out, [ipam.as_slice(), &cluster].concat());
    }
}
