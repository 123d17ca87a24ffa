//! What the sets follow that pods come and go in, and which of them a pod may concern.
//!
//! A node may have ten thousand such sets, and a pod that comes or goes is in a few. So each set is filed under what it asks of a pod:
//! of its namespace (a name, a label) and of its own labels. A pod is then looked for under all that it has. What is found there may
//! yet select something else, as a selector may ask for more than it is filed under; what is not found selects it surely not.

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHasher};
use tortie_api::k8s::{LabelSelector, SelectorOperator};
use tortie_api::meta::StringMap;
use tortie_nft::{Family, Key, Value};

use crate::class::Named;
use crate::cluster::Cluster;
use crate::intern::Id;
use crate::peers::{NamespaceScope, PodPeer};
use crate::touched::Seen;

/// A selector that lists more values than this for a label is filed under the label alone.
const VALUES: usize = 8;

/// Which pods a set follows.
#[derive(Debug)]
pub(crate) struct Followed {
    /// Only their addresses of this family.
    pub(crate) family: Family,
    /// Whom, and what of them.
    pub(crate) whom: Whom,
}

/// What of whom is in a set.
#[derive(Debug)]
pub(crate) enum Whom {
    /// The addresses of pods.
    Pods(Arc<BTreeSet<PodPeer>>),
    /// The addresses, protocols and numbers of ports by name.
    Named(BTreeSet<Named>),
}

impl Followed {
    /// Whether the set is about addresses like this.
    pub(crate) fn has_family_of(&self, address: IpAddr) -> bool {
        (self.family == Family::V4) == address.is_ipv4()
    }

    /// The elements of the set that begin with this address.
    pub(crate) fn elements_at(&self, cluster: &Cluster, address: IpAddr) -> BTreeSet<Key> {
        let mut elements = BTreeSet::new();
        for pod in cluster.endpoints_at(address) {
            let selected = |peers: &BTreeSet<PodPeer>| peers.iter().any(|peer| peer.selects(cluster, pod));
            match &self.whom {
                Whom::Pods(peers) => {
                    if selected(peers) {
                        elements.insert(vec![Value::Addr(address)]);
                    }
                }
                Whom::Named(named) => {
                    for Named { protocol, name, peers } in named {
                        if peers.everyone || peers.has_address(address) || selected(&peers.pods) {
                            let ports = cluster.ports(pod).iter();
                            let ports =
                                ports.filter(|port| port.protocol == *protocol && port.name.as_ref() == Some(name));
                            elements.extend(ports.map(|port| {
                                vec![Value::Addr(address), Value::Proto(protocol.number()), Value::Port(port.number)]
                            }));
                        }
                    }
                }
            }
        }
        elements
    }

    /// Whether it may have addresses of pods that no selector asks for.
    fn has_others(&self) -> bool {
        match &self.whom {
            Whom::Pods(_) => false,
            Whom::Named(named) => named.iter().any(|named| named.peers.everyone || !named.peers.blocks.is_empty()),
        }
    }

    fn peers(&self) -> impl Iterator<Item = &PodPeer> {
        let (pods, named) = match &self.whom {
            Whom::Pods(peers) => (Some(peers), None),
            Whom::Named(named) => (None, Some(named)),
        };
        let named = named.into_iter().flatten().flat_map(|named| &named.peers.pods);
        pods.into_iter().flat_map(|peers| peers.iter()).chain(named)
    }
}

/// A place where sets are filed: what they ask of a namespace, and of a pod. Places are digests: where two share one, more sets are
/// looked at than need be.
type Place = (u64, u64);

/// The sets that pods come and go in, by number, and where they are filed.
#[derive(Debug, Default)]
pub(crate) struct Following {
    sets: FxHashMap<Id, (Followed, Box<[Place]>)>,
    places: FxHashMap<Place, Vec<Id>>,
    /// How many sets ask this of a namespace.
    scopes: FxHashMap<u64, usize>,
}

impl Following {
    /// A set by its number.
    pub(crate) fn get(&self, set: Id) -> Option<&Followed> {
        self.sets.get(&set).map(|(followed, _)| followed)
    }

    /// Takes in a set.
    pub(crate) fn insert(&mut self, set: Id, followed: Followed) {
        let mut places: Vec<Place> = followed.peers().flat_map(|peer| self.places_of(peer)).collect();
        if followed.has_others() {
            places.push((ANYTHING, ANYTHING));
        }
        places.sort_unstable();
        places.dedup();
        for place in &places {
            self.places.entry(*place).or_default().push(set);
            *self.scopes.entry(place.0).or_default() += 1;
        }
        self.sets.insert(set, (followed, places.into()));
    }

    /// Forgets a set.
    pub(crate) fn remove(&mut self, set: Id) {
        let Some((_, places)) = self.sets.remove(&set) else { return };
        for place in places {
            if let Some(sets) = self.places.get_mut(&place) {
                sets.retain(|other| *other != set);
                if sets.is_empty() {
                    self.places.remove(&place);
                }
            }
            if let Some(count) = self.scopes.get_mut(&place.0) {
                *count -= 1;
                if *count == 0 {
                    self.scopes.remove(&place.0);
                }
            }
        }
    }

    /// Adds every set that a pod like this may be in to `found`; one may be there twice.
    pub(crate) fn candidates(&self, pod: &Seen, found: &mut Vec<Id>) {
        let scopes = std::iter::once(named(&pod.namespace)).chain(asked(&pod.namespace_labels));
        for scope in scopes.filter(|scope| self.scopes.contains_key(scope)) {
            for want in asked(&pod.labels) {
                found.extend(self.places.get(&(scope, want)).into_iter().flatten());
            }
        }
    }

    /// Where a set is filed that has such peers.
    fn places_of(&self, peer: &PodPeer) -> Vec<Place> {
        let wants = alternatives(&peer.pods);
        let scopes = match &peer.namespaces {
            NamespaceScope::Named(name) => vec![vec![named(name)]],
            NamespaceScope::Selected(selector) => alternatives(selector),
        };
        // Of all that a selector asks for, where the fewest are filed so far: what all ask for tells nothing.
        let choices = scopes.iter().flat_map(|scopes| {
            wants.iter().map(move |wants| {
                let places = scopes.iter().flat_map(|scope| wants.iter().map(move |want| (*scope, *want)));
                places.collect::<Vec<Place>>()
            })
        });
        let filed = |places: &Vec<Place>| -> usize {
            places.iter().filter_map(|place| self.places.get(place)).map(Vec::len).sum()
        };
        choices.min_by_key(filed).unwrap_or_else(|| vec![(ANYTHING, ANYTHING)])
    }
}

/// What every pod and every namespace has.
const ANYTHING: u64 = 0;

fn digest(what: impl Hash) -> u64 {
    let mut hasher = FxHasher::default();
    what.hash(&mut hasher);
    hasher.finish()
}

fn named(namespace: &str) -> u64 {
    digest((1_u8, namespace))
}

fn labelled(key: &str, value: &str) -> u64 {
    digest((2_u8, key, value))
}

fn has(key: &str) -> u64 {
    digest((3_u8, key))
}

/// All that could be asked for, of what has these labels.
fn asked(labels: &StringMap) -> impl Iterator<Item = u64> {
    let labels = labels.iter().flat_map(|(key, value)| [labelled(key, value), has(key)]);
    std::iter::once(ANYTHING).chain(labels)
}

/// What a selector in canonical form asks for: each requirement by itself, as the labels that meet it.
fn alternatives(selector: &LabelSelector) -> Vec<Vec<u64>> {
    let requirements = selector.match_expressions.iter();
    let mut alternatives: Vec<Vec<u64>> = requirements
        .filter_map(|required| match required.operator {
            SelectorOperator::In if required.values.len() <= VALUES => {
                Some(required.values.iter().map(|value| labelled(&required.key, value)).collect())
            }
            SelectorOperator::In | SelectorOperator::Exists => Some(vec![has(&required.key)]),
            SelectorOperator::NotIn | SelectorOperator::DoesNotExist => None,
        })
        .collect();
    if alternatives.is_empty() {
        alternatives.push(vec![ANYTHING]);
    }
    alternatives
}

#[cfg(test)]
mod tests {
    use tortie_api::k8s::LabelSelectorRequirement;

    use super::*;
    use crate::intern::Interner;

    fn selector(requirements: &[(&str, SelectorOperator, &[&str])]) -> LabelSelector {
        let requirements = requirements.iter().map(|(key, operator, values)| LabelSelectorRequirement {
            key: (*key).to_owned(),
            operator: *operator,
            values: values.iter().map(|value| (*value).to_owned()).collect(),
        });
        LabelSelector { match_labels: StringMap::new(), match_expressions: requirements.collect() }
    }

    fn seen(namespace: &str, namespace_labels: &[(&str, &str)], labels: &[(&str, &str)]) -> Seen {
        let map = |labels: &[(&str, &str)]| -> Arc<StringMap> {
            Arc::new(labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
        };
        Seen { namespace: namespace.into(), namespace_labels: map(namespace_labels), labels: map(labels) }
    }

    fn pods(peers: impl IntoIterator<Item = (NamespaceScope, LabelSelector)>) -> Followed {
        let peers = peers.into_iter().map(|(namespaces, pods)| PodPeer { namespaces, pods }).collect();
        Followed { family: Family::V4, whom: Whom::Pods(Arc::new(peers)) }
    }

    #[test]
    fn a_pod_finds_the_sets_that_may_have_it_and_few_others() {
        use SelectorOperator::{Exists, In, NotIn};
        let (mut following, mut ids) = (Following::default(), Interner::<str>::default());
        let mut file = |name: String, followed| {
            let id = ids.hold(name);
            following.insert(id, followed);
            id
        };
        let any = || NamespaceScope::Selected(LabelSelector::default());
        // All ask for one thing alike; that must not put them into one place.
        let many: Vec<Id> = (0..100)
            .map(|n| {
                let app = format!("a{n}");
                let wanted = selector(&[("all", In, &["same"]), ("app", In, &[&app])]);
                file(format!("app{n}"), pods([(any(), wanted)]))
            })
            .collect();
        let everyone = file("everyone".into(), pods([(any(), LabelSelector::default())]));
        let not = file("not".into(), pods([(any(), selector(&[("app", NotIn, &["a7"])]))]));
        let exists = file("exists".into(), pods([(any(), selector(&[("app", Exists, &[])]))]));
        let prod = NamespaceScope::Selected(selector(&[("env", In, &["prod", "test"])]));
        let scoped = file("scoped".into(), pods([(prod, LabelSelector::default())]));
        let own = file("own".into(), pods([(NamespaceScope::Named("x".into()), LabelSelector::default())]));
        let values: Vec<String> = (0..20).map(|n| format!("a{n}")).collect();
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        let long = file("long".into(), pods([(any(), selector(&[("app", In, &values)]))]));

        let find = |following: &Following, pod: &Seen| {
            let mut found = Vec::new();
            following.candidates(pod, &mut found);
            found.sort_unstable();
            found
        };
        let sorted = |mut ids: Vec<Id>| {
            ids.sort_unstable();
            ids
        };
        let all = [("all", "same"), ("app", "a7")];
        let found = find(&following, &seen("x", &[("env", "prod")], &all));
        let surely = [many[7], everyone, not, exists, scoped, own, long];
        assert!(surely.iter().all(|id| found.contains(id)), "{found:?}");
        assert!(found.len() <= surely.len() + 1, "one of the many was filed where all are: {found:?}");
        assert_eq!(find(&following, &seen("y", &[], &[("app", "b")])), sorted(vec![everyone, not, exists, long]));
        assert_eq!(find(&following, &seen("y", &[("env", "dev")], &[])), sorted(vec![everyone, not]));

        for id in many.into_iter().chain([everyone, not, exists, scoped, own, long]) {
            following.remove(id);
        }
        assert!(following.sets.is_empty() && following.places.is_empty() && following.scopes.is_empty());
    }
}
