//! Who may: the peers of rules in canonical form, and the addresses they stand for.
//!
//! Two peers that are written differently and select alike become equal here, as far as that can be seen without looking at pods:
//! `matchLabels` is a short form of `In`, and order does not matter. What they select is evaluated a group of pods at a time and
//! remembered for the length of one compilation.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::rc::Rc;

use rustc_hash::FxHashMap;
use serde::Serialize;
use tortie_api::k8s::{
    IpBlock, LabelSelector, LabelSelectorRequirement, NetworkPolicyPeer, NetworkPolicyPort, PortOrName,
    SelectorOperator,
};
use tortie_api::meta::StringMap;

use crate::cluster::{Cluster, NamespaceState, PodId, PodState};
use crate::intern::Id;

/// Pods of some namespaces.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(crate) struct PodPeer {
    /// In which namespaces.
    pub(crate) namespaces: NamespaceScope,
    /// Which of their pods, in canonical form.
    pub(crate) pods: LabelSelector,
}

impl PodPeer {
    /// Whether it selects the endpoint.
    pub(crate) fn selects(&self, cluster: &Cluster, pod: &PodState) -> bool {
        let in_scope = match &self.namespaces {
            NamespaceScope::Named(name) => **name == *pod.namespace,
            NamespaceScope::Selected(selector) => cluster
                .namespace(&pod.namespace)
                .is_some_and(|namespace| selector.matches(cluster.labels(namespace.labels))),
        };
        in_scope && self.pods.matches(cluster.labels(pod.labels))
    }
}

/// The namespaces of a [`PodPeer`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(crate) enum NamespaceScope {
    /// The one of that name: the policy's own.
    Named(String),
    /// Those that the selector, in canonical form, selects.
    Selected(LabelSelector),
}

/// A union of peers.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(crate) struct Peers {
    /// Everyone: a rule without peers.
    pub(crate) everyone: bool,
    /// Pods by selector.
    pub(crate) pods: BTreeSet<PodPeer>,
    /// Addresses.
    pub(crate) blocks: BTreeSet<IpBlock>,
}

impl Peers {
    /// The peers of a rule of a policy in `namespace`. None at all means everyone.
    pub(crate) fn of_rule(namespace: &str, peers: &[NetworkPolicyPeer]) -> Self {
        let mut union = Self { everyone: peers.is_empty(), ..Self::default() };
        for peer in peers {
            if let Some(block) = &peer.ip_block {
                union.blocks.insert(canonical_block(block));
                continue;
            }
            let namespaces = match &peer.namespace_selector {
                Some(selector) => NamespaceScope::Selected(canonical_selector(selector)),
                None if peer.pod_selector.is_some() => NamespaceScope::Named(namespace.to_owned()),
                // Neither a block nor a selector: the API refuses it, and it selects nothing.
                None => continue,
            };
            let pods = peer.pod_selector.as_ref().map(canonical_selector).unwrap_or_default();
            union.pods.insert(PodPeer { namespaces, pods });
        }
        union
    }

    /// Takes in others.
    pub(crate) fn extend(&mut self, other: &Self) {
        self.everyone |= other.everyone;
        self.pods.extend(other.pods.iter().cloned());
        self.blocks.extend(other.blocks.iter().cloned());
    }

    /// The blocks as they go into an interval set.
    pub(crate) fn ranges(&self) -> Vec<(ipnet::IpNet, Vec<ipnet::IpNet>)> {
        self.blocks.iter().map(|block| (block.cidr, block.except.clone())).collect()
    }

    /// Whether one of the blocks has the address.
    pub(crate) fn has_address(&self, address: IpAddr) -> bool {
        self.blocks
            .iter()
            .any(|block| block.cidr.contains(&address) && !block.except.iter().any(|except| except.contains(&address)))
    }
}

/// The selector as requirements alone, sorted, without repetition.
pub(crate) fn canonical_selector(selector: &LabelSelector) -> LabelSelector {
    let exact = selector.match_labels.iter().map(|(key, value)| LabelSelectorRequirement {
        key: key.clone(),
        operator: SelectorOperator::In,
        values: vec![value.clone()],
    });
    let mut requirements: Vec<_> = exact.chain(selector.match_expressions.iter().cloned()).collect();
    for requirement in &mut requirements {
        requirement.values.sort();
        requirement.values.dedup();
    }
    requirements.sort();
    requirements.dedup();
    LabelSelector { match_labels: StringMap::new(), match_expressions: requirements }
}

/// The block with its exceptions sorted.
fn canonical_block(block: &IpBlock) -> IpBlock {
    let mut except: Vec<_> = block.except.iter().map(ipnet::IpNet::trunc).collect();
    except.sort();
    except.dedup();
    IpBlock { cidr: block.cidr.trunc(), except }
}

/// First and last port of a rule's port that is not a name; `None` for a name, or for what the API refuses.
pub(crate) fn port_range(port: &NetworkPolicyPort) -> Option<(u16, u16)> {
    match (&port.port, port.end_port) {
        (None, None) => Some((0, u16::MAX)),
        (Some(PortOrName::Number(first)), None) => Some((*first, *first)),
        (Some(PortOrName::Number(first)), Some(last)) if *first <= last => Some((*first, last)),
        _ => None,
    }
}

/// Evaluates selectors on a cluster, each once for each label set.
#[derive(Debug)]
pub(crate) struct Resolver<'a> {
    /// The cluster.
    pub(crate) cluster: &'a Cluster,
    numbers: FxHashMap<LabelSelector, u32>,
    matches: FxHashMap<(u32, Id), bool>,
    members: BTreeMap<PodPeer, Rc<[PodId]>>,
}

impl<'a> Resolver<'a> {
    /// A resolver that remembers nothing yet.
    pub(crate) fn new(cluster: &'a Cluster) -> Self {
        Self { cluster, numbers: FxHashMap::default(), matches: FxHashMap::default(), members: BTreeMap::new() }
    }

    fn number(&mut self, selector: &LabelSelector) -> u32 {
        if let Some(&number) = self.numbers.get(selector) {
            return number;
        }
        let number = self.numbers.len() as u32;
        self.numbers.insert(selector.clone(), number);
        number
    }

    fn numbered_selects(&mut self, number: u32, selector: &LabelSelector, labels: Id) -> bool {
        let cluster = self.cluster;
        *self.matches.entry((number, labels)).or_insert_with(|| selector.matches(cluster.labels(labels)))
    }

    /// The endpoints that the peer selects.
    pub(crate) fn members(&mut self, peer: &PodPeer) -> Rc<[PodId]> {
        if let Some(members) = self.members.get(peer) {
            return Rc::clone(members);
        }
        let cluster = self.cluster;
        let mut members = Vec::new();
        let pods = self.number(&peer.pods);
        match &peer.namespaces {
            NamespaceScope::Named(name) => {
                if let Some(namespace) = cluster.namespace(name) {
                    self.select_in(namespace, pods, &peer.pods, &mut members);
                }
            }
            NamespaceScope::Selected(selector) => {
                let namespaces = self.number(selector);
                for (_, namespace) in cluster.namespaces() {
                    if self.numbered_selects(namespaces, selector, namespace.labels) {
                        self.select_in(namespace, pods, &peer.pods, &mut members);
                    }
                }
            }
        }
        let members: Rc<[PodId]> = members.into();
        self.members.insert(peer.clone(), Rc::clone(&members));
        members
    }

    fn select_in(&mut self, namespace: &NamespaceState, number: u32, selector: &LabelSelector, into: &mut Vec<PodId>) {
        for (&labels, group) in &namespace.groups {
            if self.numbered_selects(number, selector, labels) {
                into.extend(group);
            }
        }
    }

    /// The addresses of one family of all endpoints that the peers select.
    pub(crate) fn addresses(&mut self, peers: &BTreeSet<PodPeer>, v4: bool) -> BTreeSet<IpAddr> {
        let mut addresses = BTreeSet::new();
        for peer in peers {
            for &id in self.members(peer).iter() {
                addresses.extend(self.cluster.pod(id).ips.iter().filter(|ip| ip.is_ipv4() == v4));
            }
        }
        addresses
    }
}
