//! HostEndpoints, and the Profiles that they have.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use tortie_api::calico::{HostEndpoint, HostEndpointSpec, ProfileSpec};
use tortie_api::k8s::Protocol;
use tortie_api::meta::StringMap;

use super::PodPort;
use crate::labels::Labels;
use crate::selection::{Seen, Species};

/// What is known of a HostEndpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostState {
    /// Its name.
    pub(crate) name: Arc<str>,
    /// What it says.
    pub(crate) spec: HostEndpointSpec,
    /// Its own labels.
    own: StringMap,
    /// Its labels and those that its profiles apply.
    labels: Labels,
    /// The ports that rules may name.
    pub(crate) ports: Vec<PodPort>,
}

impl HostState {
    /// What selectors see of it.
    pub(crate) fn seen(&self) -> Seen {
        Seen {
            species: Species::Host,
            namespace: None,
            labels: self.labels.clone(),
            namespace_labels: Labels::default(),
            service_account: None,
        }
    }
}

/// All HostEndpoints and Profiles.
#[derive(Debug, Default)]
pub(crate) struct Hosts {
    by_name: BTreeMap<Arc<str>, HostState>,
    by_address: BTreeSet<(IpAddr, Arc<str>)>,
    profiles: BTreeMap<Arc<str>, Arc<ProfileSpec>>,
}

impl Hosts {
    /// All of them, in the order of their names.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &HostState> {
        self.by_name.values()
    }

    /// One by name.
    pub(crate) fn get(&self, name: &str) -> Option<&HostState> {
        self.by_name.get(name)
    }

    /// Those that expect this address.
    pub(crate) fn at(&self, address: IpAddr) -> impl Iterator<Item = &HostState> {
        let first = (address, Arc::from(""));
        let found = self.by_address.range(first..).take_while(move |(own, _)| *own == address);
        found.filter_map(|(_, name)| self.by_name.get(name))
    }

    /// A Profile's rules and labels.
    pub(crate) fn profile(&self, name: &str) -> Option<&Arc<ProfileSpec>> {
        self.profiles.get(name)
    }

    /// A HostEndpoint as it would be known.
    pub(crate) fn describe(&self, host: &HostEndpoint) -> HostState {
        let number = |number| Protocol::ALL.into_iter().find(|protocol| protocol.number() == number);
        let ports = host.spec.ports.iter().filter_map(|port| {
            let protocol = number(port.protocol.number())?;
            Some(PodPort { name: Some(port.name.clone()), protocol, number: port.port })
        });
        let mut state = HostState {
            name: host.metadata.name.as_str().into(),
            spec: host.spec.clone(),
            own: host.metadata.labels.clone(),
            labels: Labels::default(),
            ports: ports.collect(),
        };
        state.labels = self.labels_of(&state);
        state
    }

    /// The labels of a host and of its profiles. Its own come first, then those of the first profile that has such.
    fn labels_of(&self, host: &HostState) -> Labels {
        let mut labels = host.own.clone();
        for profile in host.spec.profiles.iter().filter_map(|name| self.profiles.get(name.as_str())) {
            for (key, value) in &profile.labels_to_apply {
                labels.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
        Labels::from(&labels)
    }

    /// Makes a host what it is now, or forgets it. Returns what it was.
    pub(crate) fn set(&mut self, name: &str, new: Option<HostState>) -> Option<HostState> {
        let old = self.by_name.remove(name);
        for address in old.iter().flat_map(|old| &old.spec.expected_ips) {
            self.by_address.remove(&(*address, name.into()));
        }
        if let Some(new) = new {
            for address in &new.spec.expected_ips {
                self.by_address.insert((*address, Arc::clone(&new.name)));
            }
            self.by_name.insert(Arc::clone(&new.name), new);
        }
        old
    }

    /// Makes a profile what it is now, or forgets it. Returns whether that is news.
    pub(crate) fn set_profile(&mut self, name: &str, new: Option<&ProfileSpec>) -> bool {
        let old = match new {
            Some(new) => self.profiles.insert(name.into(), Arc::new(new.clone())),
            None => self.profiles.remove(name),
        };
        old.as_deref() != new
    }

    /// The hosts that have this profile, as they would be known now, where that is news.
    pub(crate) fn relabelled(&self, profile: &str) -> Vec<HostState> {
        let having = self.by_name.values().filter(|host| host.spec.profiles.iter().any(|name| name == profile));
        let relabelled = having.map(|host| HostState { labels: self.labels_of(host), ..host.clone() });
        relabelled.filter(|host| self.by_name.get(&host.name) != Some(host)).collect()
    }
}
