//! What the sets follow that pods and networks come and go in, and in which of them something may have changed.
//!
//! A node may have ten thousand such sets, and a pod that comes or goes is in a few. So each set is filed under what it asks for
//! ([`SelectionIndex`]), and [`Following::touched`] says for what changed in a cluster which sets are to be looked at again, and where:
//! at which addresses, or as a whole. What is in a set now is asked of its [`Followed`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use tortie_nft::{Family, Key, Value, intervals};

use crate::cluster::{Cluster, PodView};
use crate::counted::{Counted, CountedPorts, port_elements};
use crate::index::SelectionIndex;
use crate::intern::Id;
use crate::program::Named;
use crate::selection::{Seen, Selection, Species};
use crate::touched::{Changes, Name};

/// What a set follows.
#[derive(Debug)]
pub(crate) struct Followed {
    /// Only addresses of this family.
    pub(crate) family: Family,
    /// Whom, and what of them.
    pub(crate) whom: Whom,
}

/// What of whom is in a set.
#[derive(Debug)]
pub(crate) enum Whom {
    /// The addresses of pods and HostEndpoints, in a set of single addresses.
    Pods(Arc<BTreeSet<Selection>>),
    /// The networks of NetworkSets and GlobalNetworkSets, in a set of intervals.
    Nets(Arc<BTreeSet<Selection>>),
    /// The addresses, protocols and numbers of ports by name.
    Named(BTreeSet<Named>),
    /// The addresses of pods and HostEndpoints, each with the counter of the first rule that means it.
    Counted(Arc<Counted>),
    /// The addresses, protocols and numbers of ports by name, likewise.
    CountedPorts(Arc<CountedPorts>),
    /// The addresses of a Service's endpoints.
    Service(Name),
    /// The addresses of a Service's endpoints, each with protocol and port.
    ServicePorts(Name),
}

/// Where a set is to be looked at again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Again {
    /// At these addresses: there it must have what [`Followed::elements_at`] says.
    At(BTreeSet<IpAddr>),
    /// Everywhere: it must be what [`Followed::elements`] says.
    All,
}

impl Followed {
    /// Whether the set is about addresses like this.
    pub(crate) fn has_family_of(&self, address: IpAddr) -> bool {
        (self.family == Family::V4) == address.is_ipv4()
    }

    /// The elements that begin with this address, of a set that is looked at again at addresses.
    pub(crate) fn elements_at(&self, cluster: &Cluster, address: IpAddr) -> BTreeSet<Key> {
        let mut elements = BTreeSet::new();
        for (seen, ports) in cluster.seen_at(address) {
            let selected = |selections: &BTreeSet<Selection>| selections.iter().any(|one| one.selects(&seen));
            match &self.whom {
                Whom::Pods(selections) => {
                    if selected(selections) {
                        elements.insert(vec![Value::Addr(address)]);
                    }
                }
                Whom::Named(named) => {
                    let meant = |named: &&Named| named.hosts || seen.species == Species::Pod;
                    for Named { protocol, name, peers, .. } in named.iter().filter(meant) {
                        if peers.everyone || peers.has_address(address) || selected(&peers.pods) {
                            let ports = ports.iter();
                            let ports =
                                ports.filter(|port| port.protocol == *protocol && port.name.as_ref() == Some(name));
                            elements.extend(ports.map(|port| {
                                vec![Value::Addr(address), Value::Proto(protocol.number()), Value::Port(port.number)]
                            }));
                        }
                    }
                }
                Whom::Nets(_) | Whom::Service(_) | Whom::ServicePorts(_) | Whom::Counted(_) | Whom::CountedPorts(_) => {
                }
            }
        }
        elements
    }

    /// The elements that begin with this address, of a map of counters.
    pub(crate) fn counters_at(&self, cluster: &Cluster, address: IpAddr) -> BTreeMap<Key, String> {
        match &self.whom {
            Whom::Counted(counted) => {
                let seen: Vec<Seen> = cluster.seen_at(address).map(|(seen, _)| seen).collect();
                let counter = counted.counter_at(address, &seen);
                counter.map(|counter| (vec![Value::Addr(address)], counter)).into_iter().collect()
            }
            Whom::CountedPorts(counted) => port_elements(cluster, counted, address),
            _ => BTreeMap::new(),
        }
    }

    /// The elements of a set that is looked at again as a whole.
    pub(crate) fn elements(&self, cluster: &Cluster) -> BTreeSet<Key> {
        let is_v4 = self.family == Family::V4;
        match &self.whom {
            Whom::Nets(selections) => {
                let nets = cluster.nets_selected(selections, is_v4);
                let ranges: Vec<_> = nets.into_iter().map(|net| (net, Vec::new())).collect();
                match self.family {
                    Family::V4 => intervals::union_v4(&ranges),
                    Family::V6 => intervals::union_v6(&ranges),
                }
            }
            Whom::Service((namespace, name)) => {
                let addresses = cluster.backends(namespace, name).into_iter();
                addresses.filter(|ip| ip.is_ipv4() == is_v4).map(|ip| vec![Value::Addr(ip)]).collect()
            }
            Whom::ServicePorts((namespace, name)) => {
                let ports = cluster.backend_ports(namespace, name).into_iter();
                let ports = ports.filter(|(ip, ..)| ip.is_ipv4() == is_v4);
                ports
                    .map(|(ip, protocol, port)| {
                        vec![Value::Addr(ip), Value::Proto(protocol.number()), Value::Port(port)]
                    })
                    .collect()
            }
            Whom::Pods(_) | Whom::Named(_) | Whom::Counted(_) | Whom::CountedPorts(_) => BTreeSet::new(),
        }
    }

    /// Whether it may have addresses of pods that no selector asks for.
    fn has_others(&self) -> bool {
        match &self.whom {
            Whom::Named(named) => named.iter().any(|named| named.peers.everyone || !named.peers.blocks.is_empty()),
            Whom::CountedPorts(counted) => counted.has_others(),
            _ => false,
        }
    }

    fn selections(&self) -> Box<dyn Iterator<Item = &Selection> + '_> {
        match &self.whom {
            Whom::Pods(selections) | Whom::Nets(selections) => Box::new(selections.iter()),
            Whom::Named(named) => Box::new(named.iter().flat_map(|named| &named.peers.pods)),
            Whom::Counted(counted) => Box::new(counted.selections()),
            Whom::CountedPorts(counted) => Box::new(counted.selections()),
            Whom::Service(_) | Whom::ServicePorts(_) => Box::new(std::iter::empty()),
        }
    }

    fn service(&self) -> Option<&Name> {
        match &self.whom {
            Whom::Service(name) | Whom::ServicePorts(name) => Some(name),
            _ => None,
        }
    }

    /// Whether it is a set of networks, and not of endpoints.
    fn is_of_nets(&self) -> bool {
        matches!(self.whom, Whom::Nets(_))
    }
}

/// The sets that follow something, by number, and where they are filed.
#[derive(Debug, Default)]
pub(crate) struct Following {
    sets: FxHashMap<Id, Followed>,
    index: SelectionIndex<Id>,
    by_service: BTreeMap<Name, Vec<Id>>,
}

impl Following {
    /// A set by its number.
    pub(crate) fn get(&self, set: Id) -> Option<&Followed> {
        self.sets.get(&set)
    }

    /// Takes in a set.
    pub(crate) fn insert(&mut self, set: Id, followed: Followed) {
        for selection in followed.selections() {
            self.index.insert(selection, set);
        }
        if followed.has_others() {
            self.index.insert_for_all(set);
        }
        if let Some(service) = followed.service() {
            self.by_service.entry(service.clone()).or_default().push(set);
        }
        self.sets.insert(set, followed);
    }

    /// Forgets a set.
    pub(crate) fn remove(&mut self, set: Id) {
        let Some(followed) = self.sets.remove(&set) else { return };
        for selection in followed.selections() {
            self.index.remove(selection, set);
        }
        if followed.has_others() {
            self.index.remove_for_all(set);
        }
        if let Some(service) = followed.service()
            && let Some(sets) = self.by_service.get_mut(service)
        {
            sets.retain(|other| *other != set);
            if sets.is_empty() {
                self.by_service.remove(service);
            }
        }
    }

    /// The sets in which something may have changed, and where. What changed elsewhere, as in policies, is not among it.
    pub(crate) fn touched(&self, cluster: &Cluster, changes: &Changes) -> BTreeMap<Id, Again> {
        let mut touched = BTreeMap::new();
        let mut found = Vec::new();
        for (&address, before) in &changes.addresses {
            found.clear();
            for seen in before.iter().flat_map(|seen| changes.as_before(seen)) {
                self.index.candidates(&seen, &mut found);
            }
            for (seen, _) in cluster.seen_at(address) {
                self.index.candidates(&seen, &mut found);
            }
            for &set in &found {
                if self.get(set).is_some_and(|set| !set.is_of_nets() && set.has_family_of(address)) {
                    at(&mut touched, set, address);
                }
            }
        }
        for (name, before) in &changes.nets {
            found.clear();
            let now = cluster.nets_of(name).map(|state| cluster.seen_nets(name, state));
            for seen in before.iter().flat_map(|seen| changes.as_before(seen)).chain(now) {
                self.index.candidates(&seen, &mut found);
            }
            let sets = found.iter().filter(|set| self.get(**set).is_some_and(Followed::is_of_nets));
            touched.extend(sets.map(|set| (*set, Again::All)));
        }
        for name in changes.namespaces.keys() {
            self.touched_in(cluster, changes, name, None, &mut touched);
        }
        for (namespace, name) in changes.service_accounts.keys() {
            self.touched_in(cluster, changes, namespace, Some(name), &mut touched);
        }
        for service in &changes.services {
            touched.extend(self.by_service.get(service).into_iter().flatten().map(|set| (*set, Again::All)));
        }
        touched
    }

    /// Adds the sets that what is in a namespace, or what runs as a service account there, is in now and was not before its labels
    /// changed, or the other way round.
    fn touched_in(
        &self,
        cluster: &Cluster,
        changes: &Changes,
        namespace: &str,
        account: Option<&str>,
        touched: &mut BTreeMap<Id, Again>,
    ) {
        let pods = cluster.by_shape();
        for &shape in pods.shapes_in(namespace) {
            let group = pods.group_of(shape);
            if account.is_none_or(|account| *group.service_account == *account) {
                for set in self.passed(changes, &cluster.seen_group(group)) {
                    let ips = pods.of_shape(shape).flat_map(PodView::ips);
                    let family = self.get(set).map(|set| set.family);
                    for ip in ips.filter(|ip| family.is_some_and(|family| (family == Family::V4) == ip.is_ipv4())) {
                        at(touched, set, ip);
                    }
                }
            }
        }
        if account.is_none() {
            for (name, state) in cluster.nets_in(namespace) {
                let passed = self.passed(changes, &cluster.seen_nets(name, state));
                touched.extend(passed.into_iter().map(|set| (set, Again::All)));
            }
        }
    }

    /// The sets that something seen like this passed into, or out of, since the labels of its namespace or service account changed.
    fn passed(&self, changes: &Changes, now: &Seen) -> BTreeSet<Id> {
        let versions: Vec<Seen> = changes.as_before(now).collect();
        let mut found = Vec::new();
        for seen in &versions {
            self.index.candidates(seen, &mut found);
        }
        let is_nets = now.species == Species::Nets;
        let mut found: BTreeSet<Id> = found.into_iter().collect();
        found.retain(|set| {
            self.get(*set).is_some_and(|set| {
                let selected = |seen: &Seen| set.selections().map(|one| one.selects(seen)).collect::<Vec<bool>>();
                set.is_of_nets() == is_nets && versions.iter().any(|seen| selected(seen) != selected(now))
            })
        });
        found
    }
}

fn at(touched: &mut BTreeMap<Id, Again>, set: Id, address: IpAddr) {
    if let Again::At(addresses) = touched.entry(set).or_insert_with(|| Again::At(BTreeSet::new())) {
        addresses.insert(address);
    }
}

#[cfg(test)]
mod tests;
