//! What policy depends on, taken in one resource at a time.
//!
//! Pods are grouped by namespace and label set, because that is all a selector sees: a selector is evaluated once for a group,
//! whatever the number of its pods. Label sets and lists of ports are interned, so that a pod costs its name, its addresses and a
//! few numbers. Policies are kept as they were written, those that say the same in several namespaces once; the compiler and the oracle
//! each read them in their own way.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use rustc_hash::FxHashSet;
use tortie_api::k8s::{NetworkPolicy, NetworkPolicySpec, Pod, PolicyType, Protocol};
use tortie_api::meta::StringMap;
use tortie_api::{Kind, Object, ObjectKey};

use crate::intern::{Id, Interner};
use crate::peers::canonical_selector;
use crate::special::Special;
use crate::touched::{Changes, Seen, Touched};

/// The label that the API server sets on each namespace: its name.
const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// The number of a pod within a [`Cluster`].
pub(crate) type PodId = u32;

/// A declared port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PodPort {
    /// Its name, by which policies may call it.
    pub(crate) name: Option<String>,
    /// Its protocol.
    pub(crate) protocol: Protocol,
    /// Its number.
    pub(crate) number: u16,
}

/// What is known of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodState {
    /// Its namespace.
    pub(crate) namespace: Arc<str>,
    /// Its name.
    pub(crate) name: Arc<str>,
    /// Its labels.
    pub(crate) labels: Id,
    /// Its declared ports, in the order they were declared.
    pub(crate) ports: Id,
    /// Its addresses.
    pub(crate) ips: Box<[IpAddr]>,
    /// The node it runs on.
    pub(crate) node: Option<Arc<str>>,
    /// Whether it is an endpoint, and so what selectors select: neither on its node's network, nor ended.
    pub(crate) endpoint: bool,
    /// Whether it shares its node's network.
    pub(crate) host_network: bool,
}

/// What is known of a namespace.
#[derive(Debug)]
pub(crate) struct NamespaceState {
    /// Its name, shared by its pods.
    name: Arc<str>,
    /// Its labels; just its name while there is no document.
    pub(crate) labels: Id,
    /// Whether there is a document.
    documented: bool,
    /// Its pods by name.
    pub(crate) pods: BTreeMap<Arc<str>, PodId>,
    /// Its endpoints by label set.
    pub(crate) groups: BTreeMap<Id, BTreeSet<PodId>>,
    /// Its policies by name.
    pub(crate) policies: BTreeMap<Arc<str>, Arc<NetworkPolicySpec>>,
}

/// The state of a cluster as far as policy depends on it: namespaces, pods, NetworkPolicies, and the addresses of nodes.
///
/// Equal sets of resources make clusters that compile to equal rulesets, whatever the order they came in.
#[derive(Debug, Default)]
pub struct Cluster {
    namespaces: BTreeMap<Box<str>, NamespaceState>,
    pods: Vec<Option<PodState>>,
    free_pods: Vec<PodId>,
    labels: Interner<StringMap>,
    ports: Interner<Vec<PodPort>>,
    specs: Specs,
    by_address: BTreeSet<(IpAddr, PodId)>,
    /// The names of nodes that pods run on, each once.
    node_names: BTreeSet<Arc<str>>,
    nodes: BTreeMap<Box<str>, Vec<IpAddr>>,
    pools: BTreeMap<Box<str>, Pool>,
    /// The few pods that have something special.
    special: BTreeMap<PodId, Box<Special>>,
    touched: Touched,
}

/// What is known of an IPPool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pool {
    /// Its range.
    pub(crate) cidr: IpNet,
    /// Whether what leaves all pools from it is translated.
    pub(crate) nat_outgoing: bool,
}

impl Cluster {
    /// Takes in a new or changed resource. Returns whether policy may now compile to something else; kinds that policy does not
    /// depend on never do.
    pub fn upsert(&mut self, object: &Object) -> bool {
        match object {
            Object::Namespace(namespace) => {
                self.set_namespace(&namespace.metadata.name, Some(namespace.metadata.labels.clone()))
            }
            Object::Pod(pod) => self.set_pod(pod),
            Object::NetworkPolicy(policy) => self.set_policy(policy),
            Object::Node(node) => self.set_node(&node.metadata.name, Some(&node.internal_ips())),
            Object::IpPool(pool) => {
                let state = Pool { cidr: pool.spec.cidr, nat_outgoing: pool.spec.nat_outgoing };
                self.set_pool(&pool.metadata.name, Some(state))
            }
            _ => false,
        }
    }

    /// Forgets a resource. Returns whether policy may now compile to something else.
    pub fn remove(&mut self, key: &ObjectKey) -> bool {
        let namespace = key.namespace.as_deref().unwrap_or("default");
        match key.kind {
            Kind::Namespace => self.set_namespace(&key.name, None),
            Kind::Pod => self.remove_pod(namespace, &key.name),
            Kind::NetworkPolicy => {
                let Some(state) = self.namespaces.get_mut(namespace) else { return false };
                let removed = state.policies.remove(key.name.as_str()).is_some();
                if removed {
                    self.touched.note(|changes| {
                        changes.policies.insert((Arc::clone(&state.name), key.name.as_str().into()));
                    });
                }
                self.forget_namespace_if_empty(namespace);
                removed
            }
            Kind::Node => self.set_node(&key.name, None),
            Kind::IpPool => self.set_pool(&key.name, None),
            _ => false,
        }
    }

    /// Whether there is such a pod, and it is an endpoint: neither on its node's network, nor ended.
    pub fn has_endpoint(&self, namespace: &str, pod: &str) -> bool {
        let state = self.pod_id(namespace, pod).and_then(|id| self.pods.get(id as usize)?.as_ref());
        state.is_some_and(|state| state.endpoint)
    }

    fn set_namespace(&mut self, name: &str, document: Option<StringMap>) -> bool {
        let documented = document.is_some();
        if !documented && !self.namespaces.contains_key(name) {
            return false;
        }
        let mut labels = document.unwrap_or_default();
        labels.insert(NAMESPACE_NAME_LABEL.to_owned(), name.to_owned());
        self.namespace_mut(name);
        let Some(state) = self.namespaces.get_mut(name) else { return false };
        let old = state.labels;
        state.documented = documented;
        state.labels = self.labels.hold(labels);
        let changed = state.labels != old;
        if changed {
            let namespace_labels = self.labels.share(old);
            for (&labels, pods) in &state.groups {
                let seen = Seen {
                    namespace: Arc::clone(&state.name),
                    namespace_labels: Arc::clone(&namespace_labels),
                    labels: self.labels.share(labels),
                };
                for pod in pods.iter().filter_map(|&pod| self.pods[pod as usize].as_ref()) {
                    self.touched.note(|changes| changes.addresses(&pod.ips, Some(&seen)));
                }
            }
        }
        self.labels.release(old);
        self.forget_namespace_if_empty(name);
        changed
    }

    /// The namespace's state, made if there is none yet.
    fn namespace_mut(&mut self, name: &str) -> &mut NamespaceState {
        self.namespaces.entry(name.into()).or_insert_with(|| {
            let labels = StringMap::from([(NAMESPACE_NAME_LABEL.to_owned(), name.to_owned())]);
            NamespaceState {
                name: name.into(),
                labels: self.labels.hold(labels),
                documented: false,
                pods: BTreeMap::new(),
                groups: BTreeMap::new(),
                policies: BTreeMap::new(),
            }
        })
    }

    fn forget_namespace_if_empty(&mut self, name: &str) {
        let empty = |state: &NamespaceState| !state.documented && state.pods.is_empty() && state.policies.is_empty();
        if self.namespaces.get(name).is_some_and(empty)
            && let Some(state) = self.namespaces.remove(name)
        {
            self.labels.release(state.labels);
        }
    }

    fn set_policy(&mut self, policy: &NetworkPolicy) -> bool {
        let mut spec = compact(&policy.spec);
        if spec.policy_types.is_empty() {
            // As the API server defaults it.
            spec.policy_types.push(PolicyType::Ingress);
            if !spec.egress.is_empty() {
                spec.policy_types.push(PolicyType::Egress);
            }
        }
        let namespace = policy.metadata.namespace.as_deref().unwrap_or("default");
        let spec = self.specs.share(spec);
        let state = self.namespace_mut(namespace);
        let name = policy.metadata.name.as_str();
        if state.policies.get(name).is_some_and(|old| *old == spec) {
            return false;
        }
        state.policies.insert(name.into(), spec);
        let namespace = Arc::clone(&state.name);
        self.touched.note(|changes| {
            changes.policies.insert((namespace, name.into()));
        });
        true
    }

    fn set_pod(&mut self, pod: &Pod) -> bool {
        let ports: Vec<PodPort> = pod
            .ports()
            .map(|port| PodPort { name: port.name.clone(), protocol: port.protocol, number: port.container_port })
            .collect();
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
        let new = PodState {
            namespace: Arc::clone(&self.namespace_mut(namespace).name),
            name: pod.metadata.name.as_str().into(),
            labels: self.labels.hold(pod.metadata.labels.clone()),
            ports: self.ports.hold(ports),
            ips: pod.addresses().into(),
            node: pod.spec.node_name.as_deref().filter(|node| !node.is_empty()).map(|node| self.node_name(node)),
            endpoint: pod.is_endpoint(),
            host_network: pod.spec.host_network,
        };
        let old = self.pod_id(namespace, &new.name).and_then(|id| self.pods[id as usize].clone());
        let special = Special::of(pod);
        let same_special = self.special(namespace, &new.name) == special.as_deref();
        let relevant = match &old {
            Some(old) if old.endpoint && new.endpoint => {
                (old.labels, old.ports, &old.ips) != (new.labels, new.ports, &new.ips) || !same_special
            }
            Some(old) => old.endpoint || new.endpoint,
            None => new.endpoint,
        };
        if old.as_ref() == Some(&new) && same_special {
            self.labels.release(new.labels);
            self.ports.release(new.ports);
            return false;
        }
        if relevant {
            let seen = old.as_ref().map(|old| self.seen(old));
            self.touched.note(|changes| {
                changes.pods.insert((Arc::clone(&new.namespace), new.name.clone()));
                changes.addresses(&new.ips, None);
                changes.addresses(old.iter().flat_map(|old| &old.ips), seen.as_ref());
            });
        }
        // The new state holds its labels and ports already, so they survive the old one's farewell.
        self.drop_pod(namespace, pod.metadata.name.as_str());
        let id = self.free_pods.pop().unwrap_or_else(|| {
            self.pods.push(None);
            self.pods.len() as PodId - 1
        });
        for ip in &new.ips {
            self.by_address.insert((*ip, id));
        }
        let state = self.namespace_mut(namespace);
        state.pods.insert(new.name.clone(), id);
        if new.endpoint {
            state.groups.entry(new.labels).or_default().insert(id);
        }
        self.pods[id as usize] = Some(new);
        self.special.extend(special.map(|special| (id, special)));
        relevant
    }

    fn remove_pod(&mut self, namespace: &str, name: &str) -> bool {
        if let Some(pod) = self.pod_id(namespace, name).and_then(|id| self.pods[id as usize].as_ref()) {
            let seen = self.seen(pod);
            self.touched.note(|changes| {
                changes.pods.insert((Arc::clone(&pod.namespace), pod.name.clone()));
                changes.addresses(&pod.ips, Some(&seen));
            });
        }
        let relevant = self.drop_pod(namespace, name);
        self.forget_namespace_if_empty(namespace);
        relevant
    }

    /// Takes a pod out of every index. Returns whether it was an endpoint.
    fn drop_pod(&mut self, namespace: &str, name: &str) -> bool {
        let Some(state) = self.namespaces.get_mut(namespace) else { return false };
        let Some(id) = state.pods.remove(name) else { return false };
        let Some(pod) = self.pods[id as usize].take() else { return false };
        self.free_pods.push(id);
        self.special.remove(&id);
        if let Some(group) = state.groups.get_mut(&pod.labels) {
            group.remove(&id);
            if group.is_empty() {
                state.groups.remove(&pod.labels);
            }
        }
        for ip in &pod.ips {
            self.by_address.remove(&(*ip, id));
        }
        self.labels.release(pod.labels);
        self.ports.release(pod.ports);
        pod.endpoint
    }

    fn set_node(&mut self, name: &str, addresses: Option<&[IpAddr]>) -> bool {
        let old = match addresses {
            Some(new) => self.nodes.insert(name.into(), new.to_vec()),
            None => self.nodes.remove(name),
        };
        // Only what is not to be translated depends on them.
        let relevant = old.as_deref() != addresses && self.pools.values().any(|pool| pool.nat_outgoing);
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
        let asks = |pool: &Pool| pool.nat_outgoing;
        let relevant = old != pool && (old.as_ref().is_some_and(asks) || self.pools.values().any(asks));
        if relevant {
            self.touched.note(|changes| changes.frame = true);
        }
        relevant
    }

    /// The name of a node, to be kept by its pods.
    fn node_name(&mut self, node: &str) -> Arc<str> {
        if let Some(name) = self.node_names.get(node) {
            return Arc::clone(name);
        }
        // Nodes come and go less often than their number doubles.
        if self.node_names.len() > 2 * self.nodes.len() + 100 {
            self.node_names.retain(|name| Arc::strong_count(name) > 1);
        }
        let name: Arc<str> = node.into();
        self.node_names.insert(Arc::clone(&name));
        name
    }

    /// The pod of that name, whether an endpoint or not.
    pub(crate) fn pod_id(&self, namespace: &str, name: &str) -> Option<PodId> {
        self.namespaces.get(namespace)?.pods.get(name).copied()
    }

    /// The pod of that number.
    pub(crate) fn pod(&self, id: PodId) -> &PodState {
        match &self.pods[id as usize] {
            Some(pod) => pod,
            None => unreachable!("indices hold only pods that are there"),
        }
    }

    /// All pods, in the order of their names.
    pub(crate) fn pods(&self) -> impl Iterator<Item = &PodState> {
        self.namespaces.values().flat_map(|state| state.pods.values()).map(|&id| self.pod(id))
    }

    /// What changed since the last look; none if that is too much to tell.
    pub(crate) fn take_changes(&mut self) -> Option<Changes> {
        let changes = self.touched.take();
        if changes.is_none() {
            // As after a whole cluster was read: the room that was made for twice as much is given back.
            self.pods.shrink_to_fit();
        }
        changes
    }

    /// Makes the next [`Cluster::take_changes`] say that everything may have changed.
    pub(crate) fn touch_all(&mut self) {
        self.touched = Touched::default();
    }

    /// What selectors see of a pod.
    pub(crate) fn seen(&self, pod: &PodState) -> Seen {
        let namespace_labels =
            self.namespaces.get(&*pod.namespace).map(|namespace| self.labels.share(namespace.labels));
        Seen {
            namespace: Arc::clone(&pod.namespace),
            namespace_labels: namespace_labels.unwrap_or_default(),
            labels: self.labels.share(pod.labels),
        }
    }

    /// All endpoints that have, or claim, this address.
    pub(crate) fn endpoints_at(&self, address: IpAddr) -> impl Iterator<Item = &PodState> {
        let holders = self.by_address.range((address, PodId::MIN)..=(address, PodId::MAX));
        holders.map(|&(_, id)| self.pod(id)).filter(|pod| pod.endpoint)
    }

    /// The endpoint that has this address; the first by name if several claim it.
    pub(crate) fn endpoint_at(&self, address: IpAddr) -> Option<&PodState> {
        self.endpoints_at(address).min_by_key(|pod| (&pod.namespace, &pod.name))
    }

    /// The node that has this address.
    pub(crate) fn node_at(&self, address: IpAddr) -> Option<&str> {
        self.nodes.iter().find(|(_, addresses)| addresses.contains(&address)).map(|(name, _)| &**name)
    }

    /// The IPPools, in the order of their names.
    pub(crate) fn pools(&self) -> impl Iterator<Item = &Pool> {
        self.pools.values()
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
        self.special.get(&self.pod_id(namespace, pod)?).map(|special| &**special)
    }

    /// The addresses of a node.
    pub(crate) fn node_addresses(&self, node: &str) -> &[IpAddr] {
        self.nodes.get(node).map_or(&[], Vec::as_slice)
    }

    /// The names of all nodes: those with a document, and those that pods say they run on.
    pub(crate) fn node_names(&self) -> BTreeSet<&str> {
        let named = self.pods().filter_map(|pod| pod.node.as_deref());
        self.nodes.keys().map(|name| &**name).chain(named).collect()
    }

    /// The namespaces, in the order of their names.
    pub(crate) fn namespaces(&self) -> impl Iterator<Item = (&str, &NamespaceState)> {
        self.namespaces.iter().map(|(name, state)| (&**name, state))
    }

    /// One namespace.
    pub(crate) fn namespace(&self, name: &str) -> Option<&NamespaceState> {
        self.namespaces.get(name)
    }

    /// One namespace with its name.
    pub(crate) fn namespace_entry(&self, name: &str) -> Option<(&str, &NamespaceState)> {
        self.namespaces.get_key_value(name).map(|(name, state)| (&**name, state))
    }

    /// A label set that may be gone.
    pub(crate) fn labels_if_held(&self, id: Id) -> Option<&StringMap> {
        self.labels.get_if_held(id)
    }

    /// A label set.
    pub(crate) fn labels(&self, id: Id) -> &StringMap {
        self.labels.get(id)
    }

    /// A pod's declared ports.
    pub(crate) fn ports(&self, pod: &PodState) -> &[PodPort] {
        self.ports.get(pod.ports)
    }
}

/// What policies say, each thing once: many namespaces have the same few policies under the same names.
#[derive(Debug, Default)]
struct Specs {
    known: FxHashSet<Arc<NetworkPolicySpec>>,
    /// How many there may be before those are looked for that no policy says any more.
    enough: usize,
}

impl Specs {
    /// The same, shared with whoever says it too.
    fn share(&mut self, spec: NetworkPolicySpec) -> Arc<NetworkPolicySpec> {
        if let Some(known) = self.known.get(&spec) {
            return Arc::clone(known);
        }
        if self.known.len() >= self.enough {
            self.known.retain(|spec| Arc::strong_count(spec) > 1);
            self.enough = 2 * self.known.len() + 100;
        }
        let spec = Arc::new(spec);
        self.known.insert(Arc::clone(&spec));
        spec
    }
}

/// The same in less memory: a map of one label takes as much room as one of eleven, a list of requirements what it needs.
fn compact(spec: &NetworkPolicySpec) -> NetworkPolicySpec {
    let mut spec = spec.clone();
    spec.pod_selector = canonical_selector(&spec.pod_selector);
    let from = spec.ingress.iter_mut().flat_map(|rule| &mut rule.from);
    let to = spec.egress.iter_mut().flat_map(|rule| &mut rule.to);
    for peer in from.chain(to) {
        for selector in [&mut peer.pod_selector, &mut peer.namespace_selector].into_iter().flatten() {
            *selector = canonical_selector(selector);
        }
    }
    spec
}

#[cfg(test)]
mod tests {
    use tortie_api::ObjectMeta;
    use tortie_api::k8s::{LabelSelector, Namespace, PodIp};

    use super::*;

    fn pod(name: &str, ip: &str, labels: &[(&str, &str)]) -> Pod {
        let mut pod = Pod::default();
        pod.metadata.namespace = Some("demo".to_owned());
        pod.metadata.name = name.to_owned();
        pod.metadata.labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        pod.status.pod_ips.push(PodIp { ip: ip.parse().expect("an address") });
        pod
    }

    fn key(kind: Kind, name: &str) -> ObjectKey {
        let namespace = (kind != Kind::Namespace).then(|| "demo".to_owned());
        ObjectKey { kind, namespace, name: name.to_owned() }
    }

    #[test]
    fn only_what_policy_sees_is_relevant() {
        let mut cluster = Cluster::default();
        let mut web = pod("web", "10.0.0.1", &[("app", "web")]);
        assert!(cluster.upsert(&Object::Pod(web.clone())), "a new pod");
        assert!(!cluster.upsert(&Object::Pod(web.clone())), "the same again");
        web.spec.node_name = Some("n1".to_owned());
        assert!(!cluster.upsert(&Object::Pod(web.clone())), "its node");
        web.metadata.annotations.insert("other".to_owned(), "thing".to_owned());
        assert!(!cluster.upsert(&Object::Pod(web.clone())), "an annotation");
        web.metadata.labels.insert("tier".to_owned(), "front".to_owned());
        assert!(cluster.upsert(&Object::Pod(web.clone())), "a label");
        web.status.phase = Some("Succeeded".to_owned());
        assert!(cluster.upsert(&Object::Pod(web.clone())), "its end");
        web.metadata.labels.clear();
        assert!(!cluster.upsert(&Object::Pod(web)), "a label of a pod that has ended");
        assert!(!cluster.remove(&key(Kind::Pod, "web")));
        assert!(!cluster.remove(&key(Kind::Pod, "web")));
    }

    /// What a pod's maker wishes must not put somebody else's address into the sets that policies compile to.
    #[test]
    fn a_pod_has_only_the_addresses_of_its_status() {
        let mut cluster = Cluster::default();
        let mut web = pod("web", "10.0.0.1", &[("app", "web")]);
        for (name, value) in [("ipAddrs", "[\"10.0.0.9\"]"), ("podIPs", "10.0.0.9/32")] {
            web.metadata.annotations.insert(format!("cni.projectcalico.org/{name}"), value.to_owned());
        }
        let status = std::mem::take(&mut web.status);
        cluster.upsert(&Object::Pod(web.clone()));
        assert!(cluster.by_address.is_empty(), "{:?}", cluster.by_address);
        web.status = status;
        assert!(cluster.upsert(&Object::Pod(web)), "its address");
        assert_eq!(cluster.by_address.iter().map(|(ip, _)| ip.to_string()).collect::<Vec<_>>(), ["10.0.0.1"]);
    }

    #[test]
    fn everything_that_came_can_go() {
        let mut cluster = Cluster::default();
        for name in ["a", "b"] {
            cluster.upsert(&Object::Pod(pod(name, "10.0.0.1", &[("app", "web")])));
        }
        assert_eq!(cluster.labels.len(), 2, "one label set of pods, one of the namespace");
        let mut metadata = ObjectMeta { name: "demo".to_owned(), ..ObjectMeta::default() };
        metadata.labels.insert("role".to_owned(), "prod".to_owned());
        assert!(cluster.upsert(&Object::Namespace(Namespace { metadata })));
        assert_eq!(cluster.labels.len(), 2);
        let policy = NetworkPolicy {
            metadata: ObjectMeta { name: "p".to_owned(), namespace: Some("demo".to_owned()), ..ObjectMeta::default() },
            spec: NetworkPolicySpec { pod_selector: LabelSelector::default(), ..NetworkPolicySpec::default() },
        };
        assert!(cluster.upsert(&Object::NetworkPolicy(policy.clone())));
        assert!(!cluster.upsert(&Object::NetworkPolicy(policy)));

        assert!(cluster.remove(&key(Kind::NetworkPolicy, "p")));
        assert!(cluster.remove(&key(Kind::Namespace, "demo")), "the pods lose their namespace's labels");
        assert!(cluster.remove(&key(Kind::Pod, "a")));
        assert!(cluster.remove(&key(Kind::Pod, "b")));
        assert!(!cluster.remove(&key(Kind::Namespace, "demo")));
        assert_eq!((cluster.labels.len(), cluster.ports.len()), (0, 0));
        assert!(cluster.namespaces.is_empty() && cluster.by_address.is_empty());
    }

    #[test]
    fn what_many_policies_say_is_kept_once_and_while_one_says_it() {
        let mut cluster = Cluster::default();
        let policy = |name: &str, app: &str| NetworkPolicy {
            metadata: ObjectMeta { name: name.to_owned(), namespace: Some(name.to_owned()), ..ObjectMeta::default() },
            spec: NetworkPolicySpec {
                pod_selector: LabelSelector {
                    match_labels: [("app".to_owned(), app.to_owned())].into(),
                    ..LabelSelector::default()
                },
                ..NetworkPolicySpec::default()
            },
        };
        for name in ["a", "b", "c"] {
            assert!(cluster.upsert(&Object::NetworkPolicy(policy(name, "web"))));
            assert!(!cluster.upsert(&Object::NetworkPolicy(policy(name, "web"))), "the same again");
        }
        assert_eq!(cluster.specs.known.len(), 1);
        assert!(cluster.upsert(&Object::NetworkPolicy(policy("a", "db"))));
        let app = |cluster: &Cluster, namespace: &str| {
            let spec = &cluster.namespace(namespace).expect("a namespace").policies[namespace];
            spec.pod_selector.match_expressions[0].values[0].clone()
        };
        assert_eq!((app(&cluster, "a"), app(&cluster, "b")), ("db".to_owned(), "web".to_owned()));
        for n in 0..1_000 {
            assert!(cluster.upsert(&Object::NetworkPolicy(policy("a", &n.to_string()))));
        }
        assert!(cluster.specs.known.len() < 250, "{}", cluster.specs.known.len());
        assert_eq!(app(&cluster, "c"), "web");
    }

    #[test]
    fn a_namespace_without_a_document_has_its_name_for_a_label() {
        let mut cluster = Cluster::default();
        cluster.upsert(&Object::Pod(pod("a", "10.0.0.1", &[])));
        let state = cluster.namespace("demo").expect("the pod's namespace");
        let labels = cluster.labels(state.labels);
        assert_eq!(labels.iter().collect::<Vec<_>>(), [(&NAMESPACE_NAME_LABEL.to_owned(), &"demo".to_owned())]);
    }
}
