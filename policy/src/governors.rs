//! Which policies govern which pods.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::class::Policy;
use crate::cluster::Cluster;
use crate::index::SelectorIndex;
use crate::intern::Id;

/// A namespace and a label set there: pods that the same policies govern.
pub(crate) type Group = (Arc<str>, Id);

/// The policies of a namespace in the order of their names, and the index to them.
type Policies<'a> = (Vec<Policy<'a>>, SelectorIndex<'a, usize>);

/// Finds the policies of many groups; indexes a namespace's policies when it is first asked about one there.
#[derive(Debug)]
pub(crate) struct Governors<'a> {
    cluster: &'a Cluster,
    policies: FxHashMap<Arc<str>, Policies<'a>>,
}

impl<'a> Governors<'a> {
    /// One that has looked at nothing yet.
    pub(crate) fn new(cluster: &'a Cluster) -> Self {
        Self { cluster, policies: FxHashMap::default() }
    }

    /// The policies that select the group, in the order of their names.
    pub(crate) fn of(&mut self, group: &Group) -> Vec<Policy<'a>> {
        let cluster = self.cluster;
        let labels = cluster.labels(group.1);
        let (all, index) = self.policies.entry(Arc::clone(&group.0)).or_insert_with(|| policies_of(cluster, &group.0));
        let candidates = index.candidates(labels).into_iter().map(|number| &all[number]);
        candidates.filter(|policy| policy.spec.pod_selector.matches(labels)).cloned().collect()
    }
}

/// The policies of a namespace, made ready to be asked about many label sets.
fn policies_of<'a>(cluster: &'a Cluster, namespace: &str) -> Policies<'a> {
    let mut policies = Vec::new();
    if let Some((namespace, state)) = cluster.namespace_entry(namespace) {
        policies.extend(state.policies.iter().map(|(name, spec)| Policy { namespace, name, spec }));
    }
    let index = SelectorIndex::new(policies.iter().map(|policy| &policy.spec.pod_selector).enumerate());
    (policies, index)
}
