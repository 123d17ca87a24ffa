//! What the oracle knows: the resources as the API has them, by kind and name, with nothing worked out in advance.
//!
//! It reads objects by itself rather than a [`Cluster`](crate::Cluster), so that what goes wrong on the way from objects to a cluster's
//! indexes shows where the two are held against each other.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use tortie_api::calico::{HostEndpoint, NetworkSet, Policy, Profile, StagedAction, TierSpec};
use tortie_api::k8s::{ClusterNetworkPolicySpec, EndpointSlice, NetworkPolicySpec, Pod};
use tortie_api::meta::StringMap;
use tortie_api::{Kind, Object, ObjectKey};
use tortie_nft::Family;

/// The label that the API server sets on each namespace: its name.
const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// The label by which selectors of namespaces and of service accounts see the name.
const NAME_LABEL: &str = "projectcalico.org/name";

/// A namespace and a name.
type Name = (String, String);

/// The resources that verdicts depend on.
#[derive(Debug, Clone, Default)]
pub struct World {
    pub(super) namespaces: BTreeMap<String, StringMap>,
    pub(super) accounts: BTreeMap<Name, StringMap>,
    pub(super) pods: BTreeMap<Name, Pod>,
    pub(super) nodes: BTreeMap<String, Vec<IpAddr>>,
    pub(super) pools: BTreeMap<String, IpNet>,
    /// By namespace, none for global ones, and name.
    pub(super) sets: BTreeMap<(Option<String>, String), NetworkSet>,
    pub(super) hosts: BTreeMap<String, HostEndpoint>,
    pub(super) profiles: BTreeMap<String, Profile>,
    pub(super) slices: BTreeMap<Name, EndpointSlice>,
    pub(super) tiers: BTreeMap<String, TierSpec>,
    pub(super) policies: BTreeMap<ObjectKey, Body>,
    /// Where policies come from, for people: a file and a line, or a resource version.
    sources: BTreeMap<ObjectKey, String>,
}

/// What a policy says, in the words of its kind.
#[derive(Debug, Clone)]
pub(super) enum Body {
    /// Kubernetes' NetworkPolicy, or with a staged action its staged sibling.
    Kubernetes(NetworkPolicySpec, Option<StagedAction>),
    /// ClusterNetworkPolicy.
    Cluster(ClusterNetworkPolicySpec),
    /// Calico's four kinds.
    Calico(Box<Policy>),
}

impl World {
    /// The world of these objects, defaulted and validated as a datastore hands them out.
    pub fn new<'a>(objects: impl IntoIterator<Item = &'a Object>) -> Self {
        let mut world = Self::default();
        for object in objects {
            world.upsert(object);
        }
        world
    }

    /// Takes in a new or changed object.
    pub fn upsert(&mut self, object: &Object) {
        let key = object.key();
        let metadata = object.metadata();
        let name = key.name.clone();
        let namespace = || key.namespace.clone().unwrap_or_else(|| "default".to_owned());
        let labels = || metadata.labels.clone();
        let body = match object {
            Object::Namespace(_) => {
                self.namespaces.insert(name, labels());
                return;
            }
            Object::ServiceAccount(_) => {
                self.accounts.insert((namespace(), name), labels());
                return;
            }
            Object::Pod(pod) => {
                self.pods.insert((namespace(), name), pod.clone());
                return;
            }
            Object::Node(node) => {
                self.nodes.insert(name, node.internal_ips());
                return;
            }
            Object::IpPool(pool) => {
                self.pools.insert(name, pool.spec.cidr);
                return;
            }
            Object::NetworkSet(set) => {
                self.sets.insert((Some(namespace()), name), set.clone());
                return;
            }
            Object::GlobalNetworkSet(set) => {
                self.sets.insert((None, name), set.clone());
                return;
            }
            Object::HostEndpoint(host) => {
                self.hosts.insert(name, (**host).clone());
                return;
            }
            Object::Profile(profile) => {
                self.profiles.insert(name, (**profile).clone());
                return;
            }
            Object::EndpointSlice(slice) => {
                self.slices.insert((namespace(), name), slice.clone());
                return;
            }
            Object::Tier(tier) => {
                self.tiers.insert(name, tier.spec.clone());
                return;
            }
            Object::NetworkPolicy(policy) => Body::Kubernetes(policy.spec.clone(), None),
            Object::StagedKubernetesNetworkPolicy(policy) => {
                let action = policy.spec.staged_action.unwrap_or_default();
                Body::Kubernetes(policy.spec.policy(), Some(action))
            }
            Object::ClusterNetworkPolicy(policy) => Body::Cluster(policy.spec.clone()),
            Object::CalicoNetworkPolicy(policy)
            | Object::GlobalNetworkPolicy(policy)
            | Object::StagedNetworkPolicy(policy)
            | Object::StagedGlobalNetworkPolicy(policy) => Body::Calico(policy.clone()),
            _ => return,
        };
        if let Some(version) = &metadata.resource_version {
            self.sources.insert(key.clone(), format!("resource version {version}"));
        }
        self.policies.insert(key, body);
    }

    /// Forgets an object.
    pub fn remove(&mut self, key: &ObjectKey) {
        let name = key.name.clone();
        let named = || (key.namespace.clone().unwrap_or_else(|| "default".to_owned()), key.name.clone());
        match key.kind {
            Kind::Namespace => drop(self.namespaces.remove(&name)),
            Kind::ServiceAccount => drop(self.accounts.remove(&named())),
            Kind::Pod => drop(self.pods.remove(&named())),
            Kind::Node => drop(self.nodes.remove(&name)),
            Kind::IpPool => drop(self.pools.remove(&name)),
            Kind::NetworkSet => drop(self.sets.remove(&(Some(named().0), name))),
            Kind::GlobalNetworkSet => drop(self.sets.remove(&(None, name))),
            Kind::HostEndpoint => drop(self.hosts.remove(&name)),
            Kind::Profile => drop(self.profiles.remove(&name)),
            Kind::EndpointSlice => drop(self.slices.remove(&named())),
            Kind::Tier => drop(self.tiers.remove(&name)),
            _ => {
                self.policies.remove(key);
                self.sources.remove(key);
            }
        }
    }

    /// Says where a policy comes from, for people who look for what decided: `web.yaml, line 12`.
    pub fn set_source(&mut self, key: ObjectKey, source: String) {
        self.sources.insert(key, source);
    }

    /// Where a policy comes from, if that is known: its place in a file, or its resource version.
    pub fn source(&self, key: &ObjectKey) -> Option<&str> {
        self.sources.get(key).map(String::as_str)
    }

    /// Whether there is such a namespace as far as anybody says, and its label. Every namespace has its name for a label, and Calico's
    /// selectors of namespaces know it by another one too.
    pub(super) fn namespace_label<'a>(&'a self, namespace: &'a str, key: &str) -> Option<&'a str> {
        match key {
            NAMESPACE_NAME_LABEL | NAME_LABEL => Some(namespace),
            _ => self.namespaces.get(namespace)?.get(key).map(String::as_str),
        }
    }

    /// A namespace's labels as Kubernetes' selectors see them.
    pub(super) fn namespace_labels(&self, namespace: &str) -> StringMap {
        let mut labels = self.namespaces.get(namespace).cloned().unwrap_or_default();
        labels.insert(NAMESPACE_NAME_LABEL.to_owned(), namespace.to_owned());
        labels
    }

    /// A label of a service account.
    pub(super) fn account_label<'a>(&'a self, namespace: &str, account: &'a str, key: &str) -> Option<&'a str> {
        if key == NAME_LABEL {
            return Some(account);
        }
        self.accounts.get(&(namespace.to_owned(), account.to_owned()))?.get(key).map(String::as_str)
    }

    /// The tier of that name: as its object says, else as it always is.
    pub(super) fn tier(&self, name: &str) -> TierSpec {
        self.tiers.get(name).cloned().unwrap_or_else(|| TierSpec::of(name))
    }

    /// The node that has this address.
    pub(super) fn node_at(&self, address: IpAddr) -> Option<&str> {
        self.nodes.iter().find(|(_, addresses)| addresses.contains(&address)).map(|(name, _)| name.as_str())
    }
}

pub(super) fn family_of(address: IpAddr) -> Family {
    if address.is_ipv4() { Family::V4 } else { Family::V6 }
}

/// A pod's namespace.
pub(super) fn namespace_of(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or("default")
}

/// `NAMESPACE/NAME`.
pub(super) fn name_of(pod: &Pod) -> String {
    format!("{}/{}", namespace_of(pod), pod.metadata.name)
}
