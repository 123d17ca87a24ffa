//! What policy depends on, taken in one resource at a time.
//!
//! Pods are grouped by what they have in common, because that is all a selector sees: a selector is evaluated once for a group,
//! whatever the number of its pods, and a pod costs its name, its addresses and a few numbers ([`Pods`]). Policies are kept as they were
//! written, those that say the same once, and filed by what they govern ([`Policies`]); the compiler and the oracle each read them in
//! their own way. What changed is noted for whoever has compiled the cluster before ([`Changes`]).
//!
//! Who asks what:
//! - which policies govern an endpoint: [`Cluster::seen`] or [`Cluster::seen_host`] of it, then [`Cluster::governing`];
//! - who is meant by a rule: a [`Selection`](crate::selection::Selection), and a [`Resolver`](crate::resolver::Resolver) for its addresses
//!   and networks;
//! - what there is: [`Cluster::pods`], [`Cluster::hosts`], [`Cluster::nets`], [`Cluster::policies`], [`Cluster::tiers`].

mod backends;
mod hosts;
mod nets;
mod pods;
mod policies;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use rustc_hash::FxHasher;
use tortie_api::calico::{HostEndpoint, NetworkSet, Profile, Tunnel};
use tortie_api::k8s::{Pod, Protocol};
use tortie_api::meta::StringMap;
use tortie_api::selector::{Requirement, Selector};
use tortie_api::{Kind, Object, ObjectKey};

use self::backends::Backends;
use self::hosts::Hosts;
use self::nets::Nets;
use self::pods::{Described, PodKind, Pods};
use self::policies::Policies;
use crate::labels::{LabelSets, Labels};
use crate::selection::{NAME, Seen, Species};
use crate::special::Special;
use crate::touched::{Changes, Name, NetsName, Touched};

pub(crate) use self::hosts::HostState;
pub(crate) use self::nets::NetsState;
pub(crate) use self::pods::{Group, PodId, PodPort, PodView, ShapeId};
pub(crate) use self::policies::{PolicyKey, PolicyView, Spec, TierView};

/// The label that the API server sets on each namespace: its name.
const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// What is known of a namespace.
#[derive(Debug)]
pub(crate) struct NamespaceState {
    /// Its name, shared by all that is in it.
    pub(crate) name: Arc<str>,
    /// Its labels; just its name while there is no document.
    pub(crate) labels: Labels,
    /// Whether there is a document.
    documented: bool,
    /// How many pods there are in it.
    pods: usize,
    /// The labels of its service accounts that there are documents of.
    service_accounts: BTreeMap<Arc<str>, Labels>,
}

/// The state of a cluster as far as policy depends on it: namespaces, service accounts, pods, host endpoints, network sets, the
/// endpoints of Services, policies of all kinds and their tiers, and the addresses of nodes.
///
/// Equal sets of resources make clusters that compile to equal rulesets, whatever the order they came in.
#[derive(Debug, Default)]
pub struct Cluster {
    namespaces: BTreeMap<Arc<str>, NamespaceState>,
    /// The namespaces by a digest of each of their labels but that of their name.
    labelled: BTreeSet<(u32, Arc<str>)>,
    labels: LabelSets,
    pods: Pods,
    hosts: Hosts,
    nets: Nets,
    backends: Backends,
    policies: Policies,
    nodes: BTreeMap<Box<str>, Vec<IpAddr>>,
    pools: BTreeMap<Box<str>, Pool>,
    /// The few pods that have something special.
    special: BTreeMap<Name, Box<Special>>,
    touched: Touched,
}

/// What is known of an IPPool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pool {
    /// Its range.
    pub(crate) cidr: IpNet,
    /// Whether what leaves all pools from it is translated.
    pub(crate) nat_outgoing: bool,
    /// The overlay that carries its traffic, if any does.
    pub(crate) tunnel: Option<Tunnel>,
}

/// Taking in resources.
impl Cluster {
    /// Takes in a new or changed resource. Returns whether policy may now compile to something else; kinds that policy does not
    /// depend on never do.
    pub fn upsert(&mut self, object: &Object) -> bool {
        match object {
            Object::Namespace(namespace) => {
                self.set_namespace(&namespace.metadata.name, Some(namespace.metadata.labels.clone()))
            }
            Object::ServiceAccount(account) => {
                let labels = self.labels.share(&account.metadata.labels);
                self.set_service_account(namespace_of(&account.metadata), &account.metadata.name, Some(labels))
            }
            Object::Pod(pod) => self.set_pod(pod),
            Object::NetworkPolicy(policy) => {
                let spec = self.policies.kubernetes(&policy.spec);
                self.set_policy(&object.key(), spec)
            }
            Object::StagedKubernetesNetworkPolicy(policy) => {
                let spec = self.policies.staged_kubernetes(&policy.spec.policy(), policy.spec.staged_action);
                self.set_policy(&object.key(), spec)
            }
            Object::CalicoNetworkPolicy(policy)
            | Object::GlobalNetworkPolicy(policy)
            | Object::StagedNetworkPolicy(policy)
            | Object::StagedGlobalNetworkPolicy(policy) => {
                let spec = self.policies.calico(&policy.spec);
                self.set_policy(&object.key(), spec)
            }
            Object::ClusterNetworkPolicy(policy) => {
                let spec = self.policies.cluster(&policy.spec);
                self.set_policy(&object.key(), spec)
            }
            Object::Tier(tier) => {
                let changed = self.policies.set_tier(&tier.metadata.name, Some(&tier.spec));
                self.note_tier(&tier.metadata.name, changed)
            }
            Object::NetworkSet(set) => self.set_nets(Some(namespace_of(&set.metadata)), &set.metadata.name, Some(set)),
            Object::GlobalNetworkSet(set) => self.set_nets(None, &set.metadata.name, Some(set)),
            Object::HostEndpoint(host) => self.set_host(&host.metadata.name, Some(host)),
            Object::Profile(profile) => self.set_profile(&profile.metadata.name, Some(profile)),
            Object::EndpointSlice(slice) => {
                let namespace = self.name_of(namespace_of(&slice.metadata));
                let services = self.backends.insert(&namespace, slice);
                self.note_services(services)
            }
            Object::Node(node) => self.set_node(&node.metadata.name, Some(&node.internal_ips())),
            Object::IpPool(pool) => {
                let tunnel = Tunnel::of_pool(&pool.spec).map(|(tunnel, _)| tunnel);
                let state = Pool { cidr: pool.spec.cidr, nat_outgoing: pool.spec.nat_outgoing, tunnel };
                self.set_pool(&pool.metadata.name, Some(state))
            }
            Object::BgpConfiguration(_)
            | Object::FelixConfiguration(_)
            | Object::IpamBlock(_)
            | Object::BlockAffinity(_)
            | Object::IpamHandle(_)
            | Object::IpamConfiguration(_)
            | Object::IpReservation(_)
            | Object::BgpPeer(_)
            | Object::BgpFilter(_)
            | Object::ClusterInformation(_)
            | Object::CalicoNodeStatus(_)
            | Object::KubeControllersConfiguration(_)
            | Object::Secret(_) => false,
        }
    }

    /// Forgets a resource. Returns whether policy may now compile to something else.
    pub fn remove(&mut self, key: &ObjectKey) -> bool {
        let namespace = key.namespace.as_deref().unwrap_or("default");
        match key.kind {
            Kind::Namespace => self.set_namespace(&key.name, None),
            Kind::ServiceAccount => self.set_service_account(namespace, &key.name, None),
            Kind::Pod => self.remove_pod(namespace, &key.name),
            Kind::NetworkPolicy
            | Kind::ClusterNetworkPolicy
            | Kind::CalicoNetworkPolicy
            | Kind::GlobalNetworkPolicy
            | Kind::StagedNetworkPolicy
            | Kind::StagedGlobalNetworkPolicy
            | Kind::StagedKubernetesNetworkPolicy => {
                let key = self.policy_key(key);
                let removed = self.policies.remove(&key);
                if removed {
                    self.touched.note(|changes| {
                        changes.policies.insert(key);
                    });
                }
                removed
            }
            Kind::Tier => {
                let changed = self.policies.set_tier(&key.name, None);
                self.note_tier(&key.name, changed)
            }
            Kind::NetworkSet => self.set_nets(Some(namespace), &key.name, None),
            Kind::GlobalNetworkSet => self.set_nets(None, &key.name, None),
            Kind::HostEndpoint => self.set_host(&key.name, None),
            Kind::Profile => self.set_profile(&key.name, None),
            Kind::EndpointSlice => {
                let services = self.backends.remove(&self.name_of(namespace), &key.name);
                self.note_services(services)
            }
            Kind::Node => self.set_node(&key.name, None),
            Kind::IpPool => self.set_pool(&key.name, None),
            Kind::BgpConfiguration
            | Kind::FelixConfiguration
            | Kind::IpamBlock
            | Kind::BlockAffinity
            | Kind::IpamHandle
            | Kind::IpamConfiguration
            | Kind::IpReservation
            | Kind::BgpPeer
            | Kind::BgpFilter
            | Kind::ClusterInformation
            | Kind::CalicoNodeStatus
            | Kind::KubeControllersConfiguration
            | Kind::Secret => false,
        }
    }

    fn set_namespace(&mut self, name: &str, document: Option<StringMap>) -> bool {
        let documented = document.is_some();
        if !documented && !self.namespaces.contains_key(name) {
            return false;
        }
        let mut labels = document.unwrap_or_default();
        labels.insert(NAMESPACE_NAME_LABEL.to_owned(), name.to_owned());
        let labels = self.labels.share(&labels);
        let state = self.namespace_mut(name);
        state.documented = documented;
        let old = std::mem::replace(&mut state.labels, labels.clone());
        let changed = labels != old;
        if changed {
            let name = Arc::clone(&state.name);
            self.file_namespace(&old, &name, false);
            self.file_namespace(&labels, &name, true);
            self.touched.note(|changes| {
                changes.namespaces.entry(name).or_insert(old);
            });
        }
        self.forget_namespace_if_empty(name);
        changed
    }

    fn file_namespace(&mut self, labels: &Labels, name: &Arc<str>, present: bool) {
        for label in labels.iter().filter(|(key, _)| *key != NAMESPACE_NAME_LABEL) {
            let entry = (digest(&label), Arc::clone(name));
            if present {
                self.labelled.insert(entry);
            } else {
                self.labelled.remove(&entry);
            }
        }
    }

    /// The namespace's state, made if there is none yet.
    fn namespace_mut(&mut self, name: &str) -> &mut NamespaceState {
        if !self.namespaces.contains_key(name) {
            let labels = self.labels.share(&undocumented(name));
            let name: Arc<str> = name.into();
            let state = NamespaceState {
                name: Arc::clone(&name),
                labels,
                documented: false,
                pods: 0,
                service_accounts: BTreeMap::new(),
            };
            self.namespaces.insert(name, state);
        }
        match self.namespaces.get_mut(name) {
            Some(state) => state,
            None => unreachable!("it was made if it was not there"),
        }
    }

    fn forget_namespace_if_empty(&mut self, name: &str) {
        let is_empty =
            |state: &NamespaceState| !state.documented && state.pods == 0 && state.service_accounts.is_empty();
        if self.namespaces.get(name).is_some_and(is_empty) {
            self.namespaces.remove(name);
        }
    }

    /// The name of a namespace, shared with all that is in it.
    fn name_of(&self, namespace: &str) -> Arc<str> {
        self.namespaces.get_key_value(namespace).map_or_else(|| namespace.into(), |(name, _)| Arc::clone(name))
    }

    fn set_service_account(&mut self, namespace: &str, name: &str, labels: Option<Labels>) -> bool {
        let old = self.service_account_labels(namespace, name);
        let state = self.namespace_mut(namespace);
        let of = Arc::clone(&state.name);
        match labels.clone() {
            Some(labels) => drop(state.service_accounts.insert(name.into(), labels)),
            None => drop(state.service_accounts.remove(name)),
        }
        self.forget_namespace_if_empty(namespace);
        let changed = labels.unwrap_or_default() != old;
        if changed {
            self.touched.note(|changes| {
                changes.service_accounts.entry((of, name.into())).or_insert(old);
            });
        }
        changed
    }

    fn policy_key(&self, key: &ObjectKey) -> PolicyKey {
        let namespace = key.kind.is_namespaced().then(|| key.namespace.as_deref().unwrap_or("default"));
        PolicyKey {
            namespace: namespace.map(|namespace| self.name_of(namespace)),
            name: key.name.as_str().into(),
            kind: key.kind,
        }
    }

    fn set_policy(&mut self, key: &ObjectKey, spec: Spec) -> bool {
        let key = self.policy_key(key);
        let changed = self.policies.insert(key.clone(), spec);
        if changed {
            self.touched.note(|changes| {
                changes.policies.insert(key);
            });
        }
        changed
    }

    fn note_tier(&mut self, name: &str, changed: bool) -> bool {
        if changed {
            self.touched.note(|changes| {
                changes.tiers.insert(name.into());
            });
        }
        changed
    }

    fn note_services(&mut self, services: BTreeSet<Name>) -> bool {
        let changed = !services.is_empty();
        self.touched.note(|changes| changes.services.extend(services));
        changed
    }

    fn set_pod(&mut self, pod: &Pod) -> bool {
        let ports = pod.ports().map(|port| PodPort {
            name: port.name.clone(),
            protocol: port.protocol,
            number: port.container_port,
        });
        let namespace = namespace_of(&pod.metadata);
        let name = pod.metadata.name.as_str();
        let ips = pod.addresses();
        let described = Described {
            name,
            group: Group {
                namespace: Arc::clone(&self.namespace_mut(namespace).name),
                labels: self.labels.share(&pod.metadata.labels),
                service_account: self.labels.word(pod.spec.service_account()),
            },
            ports: ports.collect(),
            kind: match (pod.is_endpoint(), pod.spec.host_network) {
                (true, _) => PodKind::Endpoint,
                (false, true) => PodKind::HostNetwork,
                (false, false) => PodKind::Ended,
            },
            ips: &ips,
            node: pod.spec.node_name.as_deref().filter(|node| !node.is_empty()),
        };
        let of: Name = (Arc::clone(&described.group.namespace), name.into());
        let special = Special::of(pod);
        let same_special = self.special.get(&of).map(|special| &**special) == special.as_deref();
        let is_endpoint = described.kind == PodKind::Endpoint;
        let old = self.pods.find(namespace, name);
        if old.is_some_and(|old| self.pods.is(old.id(), &described)) && same_special {
            return false;
        }
        let relevant = match old {
            Some(old) if old.is_endpoint() && is_endpoint => {
                let same = old.group() == &described.group
                    && **old.ports() == *described.ports
                    && old.ips().eq(ips.iter().copied());
                !same || !same_special
            }
            Some(old) => old.is_endpoint() || is_endpoint,
            None => is_endpoint,
        };
        if relevant {
            let seen = old.map(|old| self.seen(old));
            let addresses: Vec<IpAddr> = old.into_iter().flat_map(PodView::ips).collect();
            self.touched.note(|changes| {
                changes.pods.insert(of.clone());
                changes.addresses(ips.iter().copied(), None);
                changes.addresses(addresses, seen.as_ref());
            });
        }
        match old.map(PodView::id) {
            Some(old) => self.pods.remove(old),
            None => self.namespace_mut(namespace).pods += 1,
        }
        self.pods.insert(described);
        match special {
            Some(special) => drop(self.special.insert(of, special)),
            None => drop(self.special.remove(&of)),
        }
        relevant
    }

    fn remove_pod(&mut self, namespace: &str, name: &str) -> bool {
        let Some(pod) = self.pods.find(namespace, name) else { return false };
        let (id, relevant) = (pod.id(), pod.is_endpoint());
        let of: Name = (Arc::clone(pod.namespace()), name.into());
        if relevant {
            let seen = self.seen(pod);
            let addresses: Vec<IpAddr> = pod.ips().collect();
            self.touched.note(|changes| {
                changes.pods.insert(of.clone());
                changes.addresses(addresses, Some(&seen));
            });
        }
        self.pods.remove(id);
        self.special.remove(&of);
        self.namespace_mut(namespace).pods -= 1;
        self.forget_namespace_if_empty(namespace);
        relevant
    }

    fn set_host(&mut self, name: &str, host: Option<&HostEndpoint>) -> bool {
        let new = host.map(|host| self.hosts.describe(host));
        self.replace_host(name, new)
    }

    fn replace_host(&mut self, name: &str, new: Option<HostState>) -> bool {
        if self.hosts.get(name) == new.as_ref() {
            return false;
        }
        let addresses: Vec<IpAddr> = new.iter().flat_map(|new| new.spec.expected_ips.clone()).collect();
        let old = self.hosts.set(name, new);
        self.touched.note(|changes| {
            changes.hosts.insert(name.into());
            changes.addresses(addresses, None);
            if let Some(old) = old {
                changes.addresses(old.spec.expected_ips.iter().copied(), Some(&old.seen()));
            }
        });
        true
    }

    fn set_profile(&mut self, name: &str, profile: Option<&Profile>) -> bool {
        let changed = self.hosts.set_profile(name, profile.map(|profile| &profile.spec));
        if changed {
            self.touched.note(|changes| {
                changes.profiles.insert(name.into());
            });
            for host in self.hosts.relabelled(name) {
                let name = Arc::clone(&host.name);
                self.replace_host(&name, Some(host));
            }
        }
        changed
    }

    fn set_nets(&mut self, namespace: Option<&str>, name: &str, set: Option<&NetworkSet>) -> bool {
        let of: NetsName = (namespace.map(|namespace| self.name_of(namespace)), name.into());
        let new = set.map(|set| NetsState::new(self.labels.share(&set.metadata.labels), &set.spec.nets));
        if self.nets.get(&of) == new.as_ref() {
            return false;
        }
        let seen = self.nets.get(&of).map(|old| self.seen_nets(&of, old));
        let was_empty = self.nets.is_empty();
        self.nets.set(of.clone(), new);
        if self.nets.is_empty() == was_empty {
            self.touched.note(|changes| changes.nets.entry(of).or_default().extend(seen));
        } else {
            // With the first, rules begin to look for such sets, and with the last they cease to.
            self.touched.everything();
        }
        true
    }

    fn set_node(&mut self, name: &str, addresses: Option<&[IpAddr]>) -> bool {
        let old = match addresses {
            Some(new) => self.nodes.insert(name.into(), new.to_vec()),
            None => self.nodes.remove(name),
        };
        // Only what is not to be translated, and who may send packets of overlays, depends on them.
        let asks = |pool: &Pool| pool.nat_outgoing || pool.tunnel.is_some();
        let relevant = old.as_deref() != addresses && self.pools.values().any(asks);
        if relevant {
            self.touched.note(|changes| changes.frame = true);
        }
        relevant
    }

    fn set_pool(&mut self, name: &str, pool: Option<Pool>) -> bool {
        let old = match pool {
            Some(new) => self.pools.insert(name.into(), new),
            None => self.pools.remove(name),
        };
        let asks = |pool: &Pool| pool.nat_outgoing || pool.tunnel.is_some();
        let relevant = old != pool && (old.as_ref().is_some_and(asks) || self.pools.values().any(asks));
        if relevant {
            self.touched.note(|changes| changes.frame = true);
        }
        relevant
    }

    /// What changed since the last look; none if that is too much to tell.
    pub(crate) fn take_changes(&mut self) -> Option<Changes> {
        let changes = self.touched.take();
        if changes.is_none() {
            // As after a whole cluster was read: the room that was made for twice as much is given back.
            self.pods.shrink();
            self.policies.shrink();
            self.labels.sweep();
        }
        changes
    }

    /// Makes the next [`Cluster::take_changes`] say that everything may have changed.
    pub(crate) fn touch_all(&mut self) {
        self.touched.everything();
    }
}

/// Questions.
impl Cluster {
    /// Whether there is such a pod, and it is an endpoint: neither on its node's network, nor ended.
    pub fn has_endpoint(&self, namespace: &str, pod: &str) -> bool {
        self.pods.find(namespace, pod).is_some_and(PodView::is_endpoint)
    }

    /// The pod of that name, whether an endpoint or not.
    pub(crate) fn pod(&self, namespace: &str, name: &str) -> Option<PodView<'_>> {
        self.pods.find(namespace, name)
    }

    /// The pod of that number.
    pub(crate) fn pod_by_id(&self, id: PodId) -> PodView<'_> {
        self.pods.view(id)
    }

    /// All pods, in the order of their names.
    pub(crate) fn pods(&self) -> impl Iterator<Item = PodView<'_>> {
        let mut pods: Vec<PodView<'_>> = self.pods.iter().collect();
        pods.sort_unstable_by_key(|pod| (pod.namespace(), pod.name()));
        pods.into_iter()
    }

    /// All pods that are endpoints, in no order.
    pub(crate) fn endpoints(&self) -> impl Iterator<Item = PodView<'_>> {
        self.pods.iter().filter(|pod| pod.is_endpoint())
    }

    /// The pods, by what they have in common.
    pub(crate) fn by_shape(&self) -> &Pods {
        &self.pods
    }

    /// What selectors see of a pod.
    pub(crate) fn seen(&self, pod: PodView<'_>) -> Seen {
        self.seen_group(pod.group())
    }

    /// What selectors see of the pods of a group.
    pub(crate) fn seen_group(&self, group: &Group) -> Seen {
        let account_labels = self.service_account_labels(&group.namespace, &group.service_account);
        Seen {
            species: Species::Pod,
            namespace: Some(Arc::clone(&group.namespace)),
            labels: group.labels.clone(),
            namespace_labels: self.namespace_labels(&group.namespace),
            service_account: Some((Arc::clone(&group.service_account), account_labels)),
        }
    }

    /// What selectors see of a network set.
    pub(crate) fn seen_nets(&self, (namespace, _): &NetsName, state: &NetsState) -> Seen {
        let namespace_labels = namespace.as_ref().map(|namespace| self.namespace_labels(namespace));
        Seen {
            species: Species::Nets,
            namespace: namespace.clone(),
            labels: state.labels.clone(),
            namespace_labels: namespace_labels.unwrap_or_default(),
            service_account: None,
        }
    }

    /// All pods that are endpoints and have, or claim, this address, in no order.
    pub(crate) fn endpoints_at(&self, address: IpAddr) -> impl Iterator<Item = PodView<'_>> {
        self.pods.at(address).filter(|pod| pod.is_endpoint())
    }

    /// The endpoint that has this address; the first by name if several claim it.
    pub(crate) fn endpoint_at(&self, address: IpAddr) -> Option<PodView<'_>> {
        self.endpoints_at(address).min_by_key(|pod| (pod.namespace(), pod.name()))
    }

    /// The HostEndpoints, in the order of their names.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = &HostState> {
        self.hosts.iter()
    }

    /// A HostEndpoint.
    pub(crate) fn host(&self, name: &str) -> Option<&HostState> {
        self.hosts.get(name)
    }

    /// The HostEndpoints that expect this address.
    pub(crate) fn hosts_at(&self, address: IpAddr) -> impl Iterator<Item = &HostState> {
        self.hosts.at(address)
    }

    /// What selectors see of all that has this address, each with its declared ports: pods and HostEndpoints.
    pub(crate) fn seen_at(&self, address: IpAddr) -> impl Iterator<Item = (Seen, &[PodPort])> {
        let pods = self.endpoints_at(address).map(|pod| (self.seen(pod), &**pod.ports()));
        let hosts = self.hosts_at(address).map(|host| (host.seen(), &*host.ports));
        pods.chain(hosts)
    }

    /// The rules of a Profile.
    pub(crate) fn profile(&self, name: &str) -> Option<&tortie_api::calico::ProfileSpec> {
        self.hosts.profile(name).map(|profile| &**profile)
    }

    /// The NetworkSets and GlobalNetworkSets, in order.
    pub(crate) fn nets(&self) -> impl Iterator<Item = (&NetsName, &NetsState)> {
        self.nets.iter()
    }

    /// The NetworkSets of a namespace.
    pub(crate) fn nets_in(&self, namespace: &str) -> impl Iterator<Item = (&NetsName, &NetsState)> {
        self.nets.of_namespace(namespace)
    }

    /// A NetworkSet or GlobalNetworkSet.
    pub(crate) fn nets_of(&self, name: &NetsName) -> Option<&NetsState> {
        self.nets.get(name)
    }

    /// Whether there is any NetworkSet or GlobalNetworkSet. While there is none, no rule looks for one; a change of this is a change of
    /// everything.
    pub(crate) fn has_nets(&self) -> bool {
        !self.nets.is_empty()
    }

    /// The addresses of a Service's endpoints, ready or not.
    pub(crate) fn backends(&self, namespace: &str, service: &str) -> BTreeSet<IpAddr> {
        self.backends.addresses(namespace, service)
    }

    /// The addresses of a Service's endpoints, ready or not, with their ports.
    pub(crate) fn backend_ports(&self, namespace: &str, service: &str) -> BTreeSet<(IpAddr, Protocol, u16)> {
        self.backends.ports(namespace, service)
    }

    /// All policies of all kinds, in order: by tier, by `order`, by name.
    pub(crate) fn policies(&self) -> Vec<PolicyView<'_>> {
        let mut policies: Vec<PolicyView<'_>> = self.policies.iter().collect();
        self.policies.sort(&mut policies);
        policies
    }

    /// Brings policies into the order in which they are asked.
    pub(crate) fn sort_policies(&self, policies: &mut [PolicyView<'_>]) {
        self.policies.sort(policies);
    }

    /// What a policy says.
    pub(crate) fn policy(&self, key: &PolicyKey) -> Option<&Spec> {
        self.policies.get(key)
    }

    /// The policies that govern an endpoint that is seen like this in some direction, in order, staged ones among them. Found by an
    /// index: the cost is that of the few that may, not of all.
    pub(crate) fn governing(&self, seen: &Seen) -> Vec<PolicyView<'_>> {
        self.policies.governing(seen)
    }

    /// How many policies there are.
    pub(crate) fn policy_count(&self) -> usize {
        self.policies.len()
    }

    /// All tiers in order: those with a document, those that are built in, and those that policies name. One that nobody has described
    /// comes last and denies what its policies select and none of their rules decides.
    pub(crate) fn tiers(&self) -> Vec<TierView<'_>> {
        self.policies.tiers()
    }

    /// One tier.
    pub(crate) fn tier<'a>(&'a self, name: &'a str) -> TierView<'a> {
        self.policies.tier(name)
    }

    /// The IPPools, in the order of their names.
    pub(crate) fn pools(&self) -> impl Iterator<Item = &Pool> {
        self.pools.values()
    }

    /// The pods that run on a node with addresses of their own: namespace, name, node and addresses.
    pub fn placed_pods(&self) -> impl Iterator<Item = (&str, &str, &str, impl Iterator<Item = IpAddr>)> {
        let pods = self.endpoints().filter_map(|pod| Some((pod, pod.node()?)));
        pods.map(|(pod, node)| (&**pod.namespace(), pod.name(), node, pod.ips()))
    }

    /// The addresses of all nodes.
    pub(crate) fn all_node_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.nodes.values().flatten().copied()
    }

    /// What is special about a pod.
    pub(crate) fn special(&self, namespace: &str, pod: &str) -> Option<&Special> {
        if self.special.is_empty() {
            return None;
        }
        self.special.get(&(namespace.into(), pod.into())).map(|special| &**special)
    }

    /// The names of all nodes: those with a document, and those that pods say they run on.
    pub(crate) fn node_names(&self) -> BTreeSet<&str> {
        self.nodes.keys().map(|name| &**name).chain(self.pods.node_names()).collect()
    }

    /// The namespaces that have a document or a pod, in the order of their names.
    #[cfg(test)]
    pub(crate) fn namespaces(&self) -> impl Iterator<Item = &NamespaceState> {
        self.namespaces.values()
    }

    /// The labels of a namespace; just its name while there is no document.
    pub(crate) fn namespace_labels(&self, name: &str) -> Labels {
        let known = self.namespaces.get(name).map(|state| state.labels.clone());
        known.unwrap_or_else(|| Labels::from(&undocumented(name)))
    }

    /// The labels of a service account; none while there is no document.
    pub(crate) fn service_account_labels(&self, namespace: &str, name: &str) -> Labels {
        let known = self.namespaces.get(namespace).and_then(|state| state.service_accounts.get(name));
        known.cloned().unwrap_or_default()
    }

    /// The namespaces that a selector selects.
    pub(crate) fn namespaces_with(&self, selector: &Selector) -> Vec<&NamespaceState> {
        let selects = |state: &&NamespaceState| {
            selector.matches_with(&|key| if key == NAME { Some(&*state.name) } else { state.labels.get(key) })
        };
        // By a list of labels one of which each of them has, if the selector asks for such.
        let exact = |list: &Vec<Requirement>| list.iter().all(|one| matches!(one, Requirement::OneOf(..)));
        let Some(list) = selector.requirements().into_iter().find(exact) else {
            return self.namespaces.values().filter(selects).collect();
        };
        let mut names = BTreeSet::new();
        for one in &list {
            let Requirement::OneOf(key, values) = one else { continue };
            for value in values {
                if matches!(key.as_str(), NAMESPACE_NAME_LABEL | NAME) {
                    names.insert(value.as_str());
                } else {
                    let digest = digest(&(key.as_str(), value.as_str()));
                    let filed = self.labelled.range((digest, Arc::from(""))..);
                    names.extend(filed.take_while(|(own, _)| *own == digest).map(|(_, name)| &**name));
                }
            }
        }
        names.into_iter().filter_map(|name| self.namespaces.get(name)).filter(selects).collect()
    }
}

fn namespace_of(metadata: &tortie_api::ObjectMeta) -> &str {
    metadata.namespace.as_deref().unwrap_or("default")
}

/// The labels of a namespace without a document.
fn undocumented(name: &str) -> StringMap {
    StringMap::from([(NAMESPACE_NAME_LABEL.to_owned(), name.to_owned())])
}

fn digest(what: &impl Hash) -> u32 {
    let mut hasher = FxHasher::default();
    what.hash(&mut hasher);
    hasher.finish() as u32
}
