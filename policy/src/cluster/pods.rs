//! The pods of a cluster, in little memory.
//!
//! A node knows every pod and concerns itself with few, so one costs its name, its address and some forty bytes. Whatever it has in
//! common with others is said once, in a [`Shape`]: namespace, labels, service account, ports. The pods of a shape are a list through
//! the pods themselves, and names and addresses lead to pods by digests beside their numbers.

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHasher};
use tortie_api::k8s::Protocol;

use crate::intern::{Id, Interner};
use crate::labels::{Labels, Shared};

/// The number of a pod within a [`Cluster`](super::Cluster), its own for as long as it is there.
pub(crate) type PodId = u32;

/// The number of a shape.
pub(crate) type ShapeId = u32;

/// No pod.
const NONE: PodId = PodId::MAX;

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

/// What decides which policies govern a pod, but for the labels of its namespace and its service account. It stands for itself: equal
/// groups are governed alike, whether any pod is in them at the moment or not.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Group {
    /// The namespace.
    pub(crate) namespace: Arc<str>,
    /// The pod's own labels.
    pub(crate) labels: Labels,
    /// The name of the service account that it runs as.
    pub(crate) service_account: Arc<str>,
}

/// What a pod is to policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum PodKind {
    /// An endpoint, and so what selectors select.
    Endpoint,
    /// It shares its node's network.
    HostNetwork,
    /// It has ended.
    Ended,
}

/// The addresses of a pod; nearly always one of IPv4.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Addresses {
    None,
    One(Ipv4Addr),
    Many(Box<[IpAddr]>),
}

impl From<&[IpAddr]> for Addresses {
    fn from(addresses: &[IpAddr]) -> Self {
        match addresses {
            [] => Self::None,
            [IpAddr::V4(one)] => Self::One(*one),
            many => Self::Many(many.into()),
        }
    }
}

impl Addresses {
    fn iter(&self) -> impl Iterator<Item = IpAddr> + Clone {
        let (one, many) = match self {
            Self::None => (None, &[][..]),
            Self::One(one) => (Some(IpAddr::V4(*one)), &[][..]),
            Self::Many(many) => (None, &**many),
        };
        one.into_iter().chain(many.iter().copied())
    }
}

/// What is known of a pod by itself.
#[derive(Debug)]
struct PodState {
    name: Box<str>,
    ips: Addresses,
    shape: ShapeId,
    node: Option<Id>,
    /// Its neighbours among the pods of its shape.
    next: PodId,
    previous: PodId,
}

/// What pods have in common.
#[derive(Debug)]
struct Shape {
    group: Group,
    ports: Arc<[PodPort]>,
    kind: PodKind,
    /// The first of the pods that have it.
    first: PodId,
}

/// A pod as it is to be.
#[derive(Debug)]
pub(crate) struct Described<'a> {
    pub(crate) name: &'a str,
    pub(crate) group: Group,
    pub(crate) ports: Vec<PodPort>,
    pub(crate) kind: PodKind,
    pub(crate) ips: &'a [IpAddr],
    pub(crate) node: Option<&'a str>,
}

/// All pods.
#[derive(Debug, Default)]
pub(crate) struct Pods {
    slots: Vec<Option<PodState>>,
    free: Vec<PodId>,
    shapes: Vec<Option<Shape>>,
    free_shapes: Vec<ShapeId>,
    /// The shapes by a digest of what they are.
    shape_ids: BTreeSet<(u32, ShapeId)>,
    /// The shapes of endpoints by namespace.
    in_namespace: FxHashMap<Arc<str>, Vec<ShapeId>>,
    /// The shapes of endpoints by a digest of each of their labels.
    labelled: BTreeSet<(u32, ShapeId)>,
    /// The pods by a digest of namespace and name.
    names: BTreeSet<(u32, PodId)>,
    /// The pods by a digest of each of their addresses.
    addresses: BTreeSet<(u32, PodId)>,
    ports: Shared<[PodPort]>,
    node_names: Interner<str>,
}

/// A look at a pod.
#[derive(Clone, Copy)]
pub(crate) struct PodView<'a> {
    pods: &'a Pods,
    id: PodId,
}

impl std::fmt::Debug for PodView<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace(), self.name())
    }
}

impl PartialEq for PodView<'_> {
    /// Whether they are the same pod of the same cluster.
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.pods, other.pods) && self.id == other.id
    }
}

impl<'a> PodView<'a> {
    fn state(self) -> &'a PodState {
        self.pods.state(self.id)
    }

    fn shape(self) -> &'a Shape {
        self.pods.shape(self.state().shape)
    }

    /// Its number.
    pub(crate) fn id(self) -> PodId {
        self.id
    }

    /// Its namespace.
    pub(crate) fn namespace(self) -> &'a Arc<str> {
        &self.shape().group.namespace
    }

    /// Its name.
    pub(crate) fn name(self) -> &'a str {
        &self.state().name
    }

    /// What decides which policies govern it.
    pub(crate) fn group(self) -> &'a Group {
        &self.shape().group
    }

    /// Its declared ports, in the order they were declared.
    pub(crate) fn ports(self) -> &'a Arc<[PodPort]> {
        &self.shape().ports
    }

    /// Its addresses.
    pub(crate) fn ips(self) -> impl Iterator<Item = IpAddr> + Clone + 'a {
        self.state().ips.iter()
    }

    /// The node it runs on.
    pub(crate) fn node(self) -> Option<&'a str> {
        self.state().node.map(|node| self.pods.node_names.get(node))
    }

    /// Whether it is an endpoint, and so what selectors select: neither on its node's network, nor ended.
    pub(crate) fn is_endpoint(self) -> bool {
        self.shape().kind == PodKind::Endpoint
    }
}

impl Pods {
    fn state(&self, id: PodId) -> &PodState {
        match &self.slots[id as usize] {
            Some(pod) => pod,
            None => unreachable!("indices hold only pods that are there"),
        }
    }

    fn state_mut(&mut self, id: PodId) -> &mut PodState {
        match &mut self.slots[id as usize] {
            Some(pod) => pod,
            None => unreachable!("indices hold only pods that are there"),
        }
    }

    fn shape(&self, id: ShapeId) -> &Shape {
        match &self.shapes[id as usize] {
            Some(shape) => shape,
            None => unreachable!("a shape is there while a pod has it"),
        }
    }

    fn shape_mut(&mut self, id: ShapeId) -> &mut Shape {
        match &mut self.shapes[id as usize] {
            Some(shape) => shape,
            None => unreachable!("a shape is there while a pod has it"),
        }
    }

    /// The pod of that number.
    pub(crate) fn view(&self, id: PodId) -> PodView<'_> {
        PodView { pods: self, id }
    }

    /// The pod of that name.
    pub(crate) fn find(&self, namespace: &str, name: &str) -> Option<PodView<'_>> {
        let candidates = under(&self.names, digest(&(namespace, name))).map(|id| self.view(id));
        candidates.into_iter().find(|pod| pod.name() == name && **pod.namespace() == *namespace)
    }

    /// All pods, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = PodView<'_>> {
        (0..).zip(&self.slots).filter(|(_, slot)| slot.is_some()).map(|(id, _)| self.view(id))
    }

    /// All pods that have, or claim, this address, in no order.
    pub(crate) fn at(&self, address: IpAddr) -> impl Iterator<Item = PodView<'_>> {
        let candidates = under(&self.addresses, of_address(address)).map(|id| self.view(id));
        candidates.filter(move |pod| pod.ips().any(|own| own == address))
    }

    /// The shapes of the endpoints of a namespace.
    pub(crate) fn shapes_in(&self, namespace: &str) -> &[ShapeId] {
        self.in_namespace.get(namespace).map_or(&[], Vec::as_slice)
    }

    /// The shapes of endpoints that have the label, and perhaps a few others.
    pub(crate) fn shapes_labelled(&self, key: &str, value: &str) -> impl Iterator<Item = ShapeId> {
        under(&self.labelled, digest(&(key, value)))
    }

    /// The shapes of all endpoints.
    pub(crate) fn all_shapes(&self) -> impl Iterator<Item = ShapeId> {
        let of_endpoints = |shape: &Option<Shape>| shape.as_ref().is_some_and(|shape| shape.kind == PodKind::Endpoint);
        (0..).zip(&self.shapes).filter(move |(_, shape)| of_endpoints(shape)).map(|(id, _)| id)
    }

    /// What the pods of a shape have in common.
    pub(crate) fn group_of(&self, shape: ShapeId) -> &Group {
        &self.shape(shape).group
    }

    /// The pods of a shape.
    pub(crate) fn of_shape(&self, shape: ShapeId) -> impl Iterator<Item = PodView<'_>> {
        let first = Some(self.shape(shape).first).filter(|first| *first != NONE);
        let next = |id: &PodId| Some(self.state(*id).next).filter(|next| *next != NONE);
        std::iter::successors(first, next).map(|id| self.view(id))
    }

    /// Whether every trace of pods is gone.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.names.is_empty()
            && self.addresses.is_empty()
            && self.shape_ids.is_empty()
            && self.in_namespace.is_empty()
            && self.labelled.is_empty()
            && self.node_names.len() == 0
    }

    /// The names of nodes that pods run on.
    pub(crate) fn node_names(&self) -> impl Iterator<Item = &str> {
        self.node_names.iter()
    }

    /// Whether the pod is just as described.
    pub(crate) fn is(&self, id: PodId, described: &Described<'_>) -> bool {
        let pod = self.view(id);
        let shape = pod.shape();
        pod.ips().eq(described.ips.iter().copied())
            && pod.node() == described.node
            && shape.kind == described.kind
            && shape.group == described.group
            && *shape.ports == *described.ports
    }

    /// Adds a pod, which must not be there.
    pub(crate) fn insert(&mut self, described: Described<'_>) {
        let Described { name, group, ports, kind, ips, node } = described;
        let named = digest(&(&*group.namespace, name));
        let shape = self.shape_of(group, &ports, kind);
        let node = node.map(|node| self.node_names.hold(node));
        let next = self.shape(shape).first;
        let state = PodState { name: name.into(), ips: ips.into(), shape, node, next, previous: NONE };
        let id = if let Some(id) = self.free.pop() {
            self.slots[id as usize] = Some(state);
            id
        } else {
            self.slots.push(Some(state));
            self.slots.len() as PodId - 1
        };
        if next != NONE {
            self.state_mut(next).previous = id;
        }
        self.shape_mut(shape).first = id;
        self.names.insert((named, id));
        self.addresses.extend(ips.iter().map(|ip| (of_address(*ip), id)));
    }

    /// Removes a pod.
    pub(crate) fn remove(&mut self, id: PodId) {
        self.names.remove(&(digest(&(&**self.view(id).namespace(), self.view(id).name())), id));
        let Some(pod) = self.slots[id as usize].take() else { return };
        self.free.push(id);
        for ip in pod.ips.iter() {
            self.addresses.remove(&(of_address(ip), id));
        }
        if let Some(node) = pod.node {
            self.node_names.release(node);
        }
        if pod.next != NONE {
            self.state_mut(pod.next).previous = pod.previous;
        }
        if pod.previous != NONE {
            self.state_mut(pod.previous).next = pod.next;
        } else if pod.next != NONE {
            self.shape_mut(pod.shape).first = pod.next;
        } else {
            self.forget_shape(pod.shape);
        }
    }

    /// The shape that is so, made if there is none yet.
    fn shape_of(&mut self, group: Group, ports: &[PodPort], kind: PodKind) -> ShapeId {
        let what = digest(&(&group, ports, kind));
        let is_it = |id: &ShapeId| {
            let shape = self.shape(*id);
            shape.kind == kind && shape.group == group && *shape.ports == *ports
        };
        if let Some(id) = under(&self.shape_ids, what).find(is_it) {
            return id;
        }
        let id = self.free_shapes.pop().unwrap_or_else(|| {
            self.shapes.push(None);
            self.shapes.len() as ShapeId - 1
        });
        self.shape_ids.insert((what, id));
        if kind == PodKind::Endpoint {
            self.labelled.extend(group.labels.iter().map(|label| (digest(&label), id)));
            self.in_namespace.entry(Arc::clone(&group.namespace)).or_default().push(id);
        }
        let ports = self.ports.share(ports);
        self.shapes[id as usize] = Some(Shape { group, ports, kind, first: NONE });
        id
    }

    fn forget_shape(&mut self, id: ShapeId) {
        let Some(shape) = self.shapes[id as usize].take() else { return };
        self.free_shapes.push(id);
        self.shape_ids.remove(&(digest(&(&shape.group, &*shape.ports, shape.kind)), id));
        if shape.kind != PodKind::Endpoint {
            return;
        }
        for label in shape.group.labels.iter() {
            self.labelled.remove(&(digest(&label), id));
        }
        if let Some(shapes) = self.in_namespace.get_mut(&shape.group.namespace) {
            shapes.retain(|other| *other != id);
            if shapes.is_empty() {
                self.in_namespace.remove(&shape.group.namespace);
            }
        }
    }

    /// Gives back the room that was made for more.
    pub(crate) fn shrink(&mut self) {
        self.slots.shrink_to_fit();
        self.shapes.shrink_to_fit();
        self.ports.sweep();
    }
}

/// What is filed under a digest: all that it stands for, and perhaps others.
fn under(index: &BTreeSet<(u32, u32)>, digest: u32) -> impl Iterator<Item = u32> {
    index.range((digest, u32::MIN)..=(digest, u32::MAX)).map(|&(_, number)| number)
}

fn digest(what: &impl Hash) -> u32 {
    let mut hasher = FxHasher::default();
    what.hash(&mut hasher);
    hasher.finish() as u32
}

/// An IPv4 address is a digest by itself.
fn of_address(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(v4) => v4.to_bits(),
        IpAddr::V6(v6) => digest(&v6.to_bits()),
    }
}
