//! Who is selected: the addresses and the networks that selections stand for in a cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::rc::Rc;

use ipnet::IpNet;
use tortie_api::selector::Requirement;

use crate::cluster::{Cluster, PodId, PodView, ShapeId};
use crate::selection::{Scope, Selection};

/// Evaluates selections on a cluster, each once.
#[derive(Debug)]
pub(crate) struct Resolver<'a> {
    /// The cluster.
    pub(crate) cluster: &'a Cluster,
    members: BTreeMap<Selection, Rc<[PodId]>>,
}

impl<'a> Resolver<'a> {
    /// A resolver that remembers nothing yet.
    pub(crate) fn new(cluster: &'a Cluster) -> Self {
        Self { cluster, members: BTreeMap::new() }
    }

    /// The pods that are endpoints and selected, in no order.
    pub(crate) fn members(&mut self, selection: &Selection) -> Rc<[PodId]> {
        if let Some(members) = self.members.get(selection) {
            return Rc::clone(members);
        }
        let pods = self.cluster.by_shape();
        let shapes = self.cluster.shapes_of(selection);
        let members: Rc<[PodId]> = shapes.into_iter().flat_map(|shape| pods.of_shape(shape)).map(PodView::id).collect();
        self.members.insert(selection.clone(), Rc::clone(&members));
        members
    }

    /// The addresses of one family of all pods and HostEndpoints that any of the selections selects.
    pub(crate) fn addresses(&mut self, selections: &BTreeSet<Selection>, v4: bool) -> BTreeSet<IpAddr> {
        let mut addresses = BTreeSet::new();
        for selection in selections {
            for &id in self.members(selection).iter() {
                addresses.extend(self.cluster.pod_by_id(id).ips().filter(|ip| ip.is_ipv4() == v4));
            }
            if !selection.pods_only {
                let hosts = self.cluster.hosts().filter(|host| selection.selects(&host.seen()));
                let expected = hosts.flat_map(|host| &host.spec.expected_ips);
                addresses.extend(expected.filter(|ip| ip.is_ipv4() == v4));
            }
        }
        addresses
    }
}

impl Cluster {
    /// The networks of one family of all NetworkSets and GlobalNetworkSets that any of the selections selects; they may overlap.
    pub(crate) fn nets_selected(&self, selections: &BTreeSet<Selection>, v4: bool) -> BTreeSet<IpNet> {
        let selections: Vec<&Selection> = selections.iter().filter(|selection| selection.may_have_nets()).collect();
        if selections.is_empty() {
            return BTreeSet::new();
        }
        let selected = self.nets().filter(|(name, state)| {
            let seen = self.seen_nets(name, state);
            selections.iter().any(|selection| selection.selects(&seen))
        });
        let nets = selected.flat_map(|(_, state)| state.nets.iter().copied());
        nets.filter(|net| matches!(net, IpNet::V4(_)) == v4).collect()
    }

    /// The shapes of endpoints that a selection selects.
    fn shapes_of(&self, selection: &Selection) -> Vec<ShapeId> {
        let pods = self.by_shape();
        let selects = |shape: &ShapeId| selection.selects(&self.seen_group(pods.group_of(*shape)));
        // Looked for where the fewest candidates are: those of the namespaces, or those of a label that is asked for.
        let in_scope: Option<Vec<&[ShapeId]>> = match &selection.scope {
            Scope::Namespace(name) => Some(vec![pods.shapes_in(name)]),
            Scope::Namespaces(selector) if !selector.is_all() => {
                Some(self.namespaces_with(selector).into_iter().map(|state| pods.shapes_in(&state.name)).collect())
            }
            Scope::Namespaces(_) | Scope::Everywhere => None,
            Scope::Global => return Vec::new(),
        };
        let count = in_scope.as_ref().map_or(usize::MAX, |shapes| shapes.iter().map(|shapes| shapes.len()).sum());
        if count > FEW
            && let Some(labelled) = self.shapes_labelled(selection, count)
        {
            return labelled.into_iter().filter(selects).collect();
        }
        match in_scope {
            Some(shapes) => shapes.into_iter().flatten().copied().filter(selects).collect(),
            None => pods.all_shapes().filter(selects).collect(),
        }
    }

    /// The shapes that have a label which the selection asks for; none if there is no such, or they are no fewer than `count`.
    fn shapes_labelled(&self, selection: &Selection, count: usize) -> Option<BTreeSet<ShapeId>> {
        let pods = self.by_shape();
        let mut best: Option<BTreeSet<ShapeId>> = None;
        for list in selection.labels.requirements() {
            let limit = best.as_ref().map_or(count, BTreeSet::len);
            let mut found = Some(BTreeSet::new());
            for requirement in &list {
                // Labels that are not the pod's own are not filed.
                let (Requirement::OneOf(key, values), false) =
                    (requirement, selection.sees_beyond_own(requirement.key()))
                else {
                    found = None;
                    break;
                };
                for value in values {
                    let Some(shapes) = &mut found else { break };
                    shapes.extend(pods.shapes_labelled(key, value).take(limit));
                    if shapes.len() >= limit {
                        found = None;
                    }
                }
            }
            best = found.or(best);
        }
        best
    }
}

/// So few candidates are looked at without a search for fewer.
const FEW: usize = 8;
