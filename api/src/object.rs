//! Any resource, and its key.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::calico::{
    BgpConfiguration, BgpFilter, BgpPeer, BlockAffinity, CalicoNodeStatus, ClusterInformation, FelixConfiguration,
    HostEndpoint, IpPool, IpReservation, IpamBlock, IpamConfiguration, IpamHandle, KubeControllersConfiguration,
    NetworkSet, Policy, Profile, StagedAction, StagedKubernetesNetworkPolicy, Tier,
};
use crate::decode::{Decoded, decode};
use crate::k8s::{
    ClusterNetworkPolicy, EndpointSlice, Namespace, NetworkPolicy, NetworkPolicyEgressRule, Node, Pod, PolicyType,
    Secret, ServiceAccount,
};
use crate::kind::Kind;
use crate::meta::ObjectMeta;

/// Any resource that Tortie knows. It serialises as a manifest does, with `apiVersion` and `kind`, and deserialises through
/// [`decode`], so that what is read is defaulted and valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    /// `v1 Namespace`.
    Namespace(Namespace),
    /// `v1 Node`.
    Node(Node),
    /// `v1 Pod`.
    Pod(Pod),
    /// `networking.k8s.io/v1 NetworkPolicy`.
    NetworkPolicy(NetworkPolicy),
    /// `projectcalico.org/v3 IPPool`.
    IpPool(IpPool),
    /// `projectcalico.org/v3 BGPConfiguration`.
    BgpConfiguration(BgpConfiguration),
    /// `projectcalico.org/v3 IPAMBlock`.
    IpamBlock(IpamBlock),
    /// `projectcalico.org/v3 FelixConfiguration`. Boxed, as it has nearly 200 fields.
    FelixConfiguration(Box<FelixConfiguration>),
    /// `v1 ServiceAccount`.
    ServiceAccount(ServiceAccount),
    /// `discovery.k8s.io/v1 EndpointSlice`.
    EndpointSlice(EndpointSlice),
    /// `policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicy`.
    ClusterNetworkPolicy(Box<ClusterNetworkPolicy>),
    /// `projectcalico.org/v3 Tier`.
    Tier(Tier),
    /// `projectcalico.org/v3 NetworkPolicy`.
    CalicoNetworkPolicy(Box<Policy>),
    /// `projectcalico.org/v3 GlobalNetworkPolicy`.
    GlobalNetworkPolicy(Box<Policy>),
    /// `projectcalico.org/v3 StagedNetworkPolicy`.
    StagedNetworkPolicy(Box<Policy>),
    /// `projectcalico.org/v3 StagedGlobalNetworkPolicy`.
    StagedGlobalNetworkPolicy(Box<Policy>),
    /// `projectcalico.org/v3 StagedKubernetesNetworkPolicy`.
    StagedKubernetesNetworkPolicy(Box<StagedKubernetesNetworkPolicy>),
    /// `projectcalico.org/v3 NetworkSet`.
    NetworkSet(NetworkSet),
    /// `projectcalico.org/v3 GlobalNetworkSet`.
    GlobalNetworkSet(NetworkSet),
    /// `projectcalico.org/v3 HostEndpoint`.
    HostEndpoint(Box<HostEndpoint>),
    /// `projectcalico.org/v3 Profile`.
    Profile(Box<Profile>),
    /// `projectcalico.org/v3 BlockAffinity`.
    BlockAffinity(BlockAffinity),
    /// `projectcalico.org/v3 IPAMHandle`.
    IpamHandle(IpamHandle),
    /// `projectcalico.org/v3 IPAMConfiguration`.
    IpamConfiguration(IpamConfiguration),
    /// `projectcalico.org/v3 IPReservation`.
    IpReservation(IpReservation),
    /// `projectcalico.org/v3 BGPPeer`.
    BgpPeer(Box<BgpPeer>),
    /// `projectcalico.org/v3 BGPFilter`.
    BgpFilter(Box<BgpFilter>),
    /// `projectcalico.org/v3 ClusterInformation`.
    ClusterInformation(ClusterInformation),
    /// `projectcalico.org/v3 CalicoNodeStatus`.
    CalicoNodeStatus(CalicoNodeStatus),
    /// `projectcalico.org/v3 KubeControllersConfiguration`.
    KubeControllersConfiguration(Box<KubeControllersConfiguration>),
    /// `v1 Secret`.
    Secret(Secret),
}

/// What identifies an object in a datastore.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectKey {
    /// The kind.
    pub kind: Kind,
    /// The namespace of a namespaced kind.
    pub namespace: Option<String>,
    /// The name.
    pub name: String,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

/// Runs an expression on whatever kind of object it is.
macro_rules! on_each_kind {
    ($object:expr, $name:ident => $body:expr) => {
        match $object {
            Object::Namespace($name) => $body,
            Object::Node($name) => $body,
            Object::Pod($name) => $body,
            Object::NetworkPolicy($name) => $body,
            Object::IpPool($name) => $body,
            Object::BgpConfiguration($name) => $body,
            Object::IpamBlock($name) => $body,
            Object::FelixConfiguration($name) => $body,
            Object::ServiceAccount($name) => $body,
            Object::EndpointSlice($name) => $body,
            Object::ClusterNetworkPolicy($name) => $body,
            Object::Tier($name) => $body,
            Object::CalicoNetworkPolicy($name) => $body,
            Object::GlobalNetworkPolicy($name) => $body,
            Object::StagedNetworkPolicy($name) => $body,
            Object::StagedGlobalNetworkPolicy($name) => $body,
            Object::StagedKubernetesNetworkPolicy($name) => $body,
            Object::NetworkSet($name) => $body,
            Object::GlobalNetworkSet($name) => $body,
            Object::HostEndpoint($name) => $body,
            Object::Profile($name) => $body,
            Object::BlockAffinity($name) => $body,
            Object::IpamHandle($name) => $body,
            Object::IpamConfiguration($name) => $body,
            Object::IpReservation($name) => $body,
            Object::BgpPeer($name) => $body,
            Object::BgpFilter($name) => $body,
            Object::ClusterInformation($name) => $body,
            Object::CalicoNodeStatus($name) => $body,
            Object::KubeControllersConfiguration($name) => $body,
            Object::Secret($name) => $body,
        }
    };
}

impl Object {
    /// The object's kind.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Namespace(_) => Kind::Namespace,
            Self::Node(_) => Kind::Node,
            Self::Pod(_) => Kind::Pod,
            Self::NetworkPolicy(_) => Kind::NetworkPolicy,
            Self::IpPool(_) => Kind::IpPool,
            Self::BgpConfiguration(_) => Kind::BgpConfiguration,
            Self::IpamBlock(_) => Kind::IpamBlock,
            Self::FelixConfiguration(_) => Kind::FelixConfiguration,
            Self::ServiceAccount(_) => Kind::ServiceAccount,
            Self::EndpointSlice(_) => Kind::EndpointSlice,
            Self::ClusterNetworkPolicy(_) => Kind::ClusterNetworkPolicy,
            Self::Tier(_) => Kind::Tier,
            Self::CalicoNetworkPolicy(_) => Kind::CalicoNetworkPolicy,
            Self::GlobalNetworkPolicy(_) => Kind::GlobalNetworkPolicy,
            Self::StagedNetworkPolicy(_) => Kind::StagedNetworkPolicy,
            Self::StagedGlobalNetworkPolicy(_) => Kind::StagedGlobalNetworkPolicy,
            Self::StagedKubernetesNetworkPolicy(_) => Kind::StagedKubernetesNetworkPolicy,
            Self::NetworkSet(_) => Kind::NetworkSet,
            Self::GlobalNetworkSet(_) => Kind::GlobalNetworkSet,
            Self::HostEndpoint(_) => Kind::HostEndpoint,
            Self::Profile(_) => Kind::Profile,
            Self::BlockAffinity(_) => Kind::BlockAffinity,
            Self::IpamHandle(_) => Kind::IpamHandle,
            Self::IpamConfiguration(_) => Kind::IpamConfiguration,
            Self::IpReservation(_) => Kind::IpReservation,
            Self::BgpPeer(_) => Kind::BgpPeer,
            Self::BgpFilter(_) => Kind::BgpFilter,
            Self::ClusterInformation(_) => Kind::ClusterInformation,
            Self::CalicoNodeStatus(_) => Kind::CalicoNodeStatus,
            Self::KubeControllersConfiguration(_) => Kind::KubeControllersConfiguration,
            Self::Secret(_) => Kind::Secret,
        }
    }

    /// The object's metadata.
    pub const fn metadata(&self) -> &ObjectMeta {
        on_each_kind!(self, object => &object.metadata)
    }

    /// The object's metadata, to be changed.
    pub const fn metadata_mut(&mut self) -> &mut ObjectMeta {
        on_each_kind!(self, object => &mut object.metadata)
    }

    /// The object's key.
    pub fn key(&self) -> ObjectKey {
        let metadata = self.metadata();
        ObjectKey { kind: self.kind(), namespace: metadata.namespace.clone(), name: metadata.name.clone() }
    }

    /// Fills in what the API server would: the namespace `default`, a namespace's own name as its label, the isolated directions of a
    /// policy; and brings CIDRs into their canonical form.
    pub fn apply_defaults(&mut self) {
        let namespaced = self.kind().is_namespaced();
        let metadata = self.metadata_mut();
        if !namespaced {
            metadata.namespace = None;
        } else if metadata.namespace.as_deref().is_none_or(str::is_empty) {
            metadata.namespace = Some("default".to_owned());
        }
        match self {
            Self::Namespace(namespace) => {
                let name = namespace.metadata.name.clone();
                namespace.metadata.labels.insert("kubernetes.io/metadata.name".to_owned(), name);
            }
            Self::NetworkPolicy(policy) => {
                let spec = &mut policy.spec;
                default_policy_types(&mut spec.policy_types, &spec.egress);
            }
            Self::CalicoNetworkPolicy(policy) | Self::GlobalNetworkPolicy(policy) => policy.spec.default_types(),
            Self::StagedNetworkPolicy(policy) | Self::StagedGlobalNetworkPolicy(policy) => {
                let spec = &mut policy.spec;
                // One that deletes says nothing else.
                if *spec.staged_action.get_or_insert_default() != StagedAction::Delete {
                    spec.default_types();
                }
            }
            Self::StagedKubernetesNetworkPolicy(policy) => {
                let spec = &mut policy.spec;
                if *spec.staged_action.get_or_insert_default() != StagedAction::Delete {
                    default_policy_types(&mut spec.policy_types, &spec.egress);
                }
            }
            Self::Node(_)
            | Self::Pod(_)
            | Self::IpPool(_)
            | Self::BgpConfiguration(_)
            | Self::IpamBlock(_)
            | Self::FelixConfiguration(_)
            | Self::ServiceAccount(_)
            | Self::EndpointSlice(_)
            | Self::ClusterNetworkPolicy(_)
            | Self::Tier(_)
            | Self::NetworkSet(_)
            | Self::GlobalNetworkSet(_)
            | Self::HostEndpoint(_)
            | Self::Profile(_)
            | Self::BlockAffinity(_)
            | Self::IpamHandle(_)
            | Self::IpamConfiguration(_)
            | Self::IpReservation(_)
            | Self::BgpPeer(_)
            | Self::BgpFilter(_)
            | Self::ClusterInformation(_)
            | Self::CalicoNodeStatus(_)
            | Self::KubeControllersConfiguration(_)
            | Self::Secret(_) => {}
        }
    }
}

/// Fills in `policyTypes` as Kubernetes does: always ingress, and egress if there are rules for it.
fn default_policy_types(types: &mut Vec<PolicyType>, egress: &[NetworkPolicyEgressRule]) {
    if types.is_empty() {
        types.push(PolicyType::Ingress);
        if !egress.is_empty() {
            types.push(PolicyType::Egress);
        }
    }
}

/// The fields every manifest starts with, then those of the kind.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest<'a, T> {
    api_version: &'static str,
    kind: &'static str,
    #[serde(flatten)]
    object: &'a T,
}

impl Serialize for Object {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let kind = self.kind();
        on_each_kind!(self, object => {
            Manifest { api_version: kind.api_version(), kind: kind.manifest_kind(), object }.serialize(serializer)
        })
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;

        match decode(&serde_json::Value::deserialize(deserializer)?) {
            Ok(Decoded::Object(object)) => Ok(*object),
            Ok(Decoded::Ignored) => Err(D::Error::custom("an object of a kind that is not read")),
            Ok(Decoded::UnknownKind(message)) => Err(D::Error::custom(message)),
            Err(errors) => {
                let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
                Err(D::Error::custom(errors.join("; ")))
            }
        }
    }
}
