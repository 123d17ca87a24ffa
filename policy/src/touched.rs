//! What changed in a cluster, for whoever has compiled it before.
//!
//! Names and addresses, and what selectors saw before: what has become of them is asked of the cluster when the time comes. The list is
//! bounded: past [`MANY`] entries it is quicker to start afresh than to go through it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::cluster::PolicyKey;
use crate::labels::Labels;
use crate::selection::Seen;

/// More entries than this are everything.
const MANY: usize = 2_000;

/// A namespace, and a name in it.
pub(crate) type Name = (Arc<str>, Arc<str>);

/// The namespace and the name of a NetworkSet, or just the name of a GlobalNetworkSet.
pub(crate) type NetsName = (Option<Arc<str>>, Arc<str>);

/// What changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// Policies that came, changed or went.
    pub(crate) policies: BTreeSet<PolicyKey>,
    /// Tiers whose order or default action changed.
    pub(crate) tiers: BTreeSet<Arc<str>>,
    /// Profiles whose rules changed. What else of them changes shows in the host endpoints that have them.
    pub(crate) profiles: BTreeSet<Arc<str>>,
    /// Pods that came, changed or went, and are or were endpoints.
    pub(crate) pods: BTreeSet<Name>,
    /// HostEndpoints that came, changed or went, or whose labels did by a profile's.
    pub(crate) hosts: BTreeSet<Arc<str>>,
    /// Addresses that any endpoint has or had about which something changed; each with the endpoints that had it, as they were. Labels
    /// of namespaces and service accounts are not among it.
    pub(crate) addresses: BTreeMap<IpAddr, Vec<Seen>>,
    /// Network sets that came, changed or went, as they were.
    pub(crate) nets: BTreeMap<NetsName, Vec<Seen>>,
    /// Namespaces whose labels changed, with those of before.
    pub(crate) namespaces: BTreeMap<Arc<str>, Labels>,
    /// Service accounts whose labels changed, with those of before.
    pub(crate) service_accounts: BTreeMap<Name, Labels>,
    /// Services whose endpoints changed.
    pub(crate) services: BTreeSet<Name>,
    /// Whether something changed that the frame depends on.
    pub(crate) frame: bool,
}

impl Changes {
    /// Takes note that something about `addresses` changed, which an endpoint that was `seen` had.
    pub(crate) fn addresses(&mut self, addresses: impl IntoIterator<Item = IpAddr>, seen: Option<&Seen>) {
        for address in addresses {
            let before = self.addresses.entry(address).or_default();
            before.extend(seen.filter(|seen| !before.contains(seen)).cloned());
        }
    }

    /// Something as it was seen, and as it was before the labels of its namespace and its service account changed.
    pub(crate) fn as_before<'a>(&'a self, seen: &'a Seen) -> impl Iterator<Item = Seen> + 'a {
        let namespace = seen.namespace.as_ref().and_then(|name| self.namespaces.get(name));
        let account = seen.namespace.as_ref().zip(seen.service_account.as_ref()).and_then(|(namespace, (name, _))| {
            // Nearly always there is none.
            (!self.service_accounts.is_empty())
                .then(|| self.service_accounts.get(&(Arc::clone(namespace), Arc::clone(name))))
                .flatten()
        });
        let with = |namespace: Option<&Labels>, account: Option<&Labels>| {
            let mut before = seen.clone();
            before.namespace_labels = namespace.cloned().unwrap_or(before.namespace_labels);
            before.service_account =
                before.service_account.map(|(name, labels)| (name, account.cloned().unwrap_or(labels)));
            before
        };
        let both = (namespace.is_some() && account.is_some()).then(|| with(namespace, account));
        let first = namespace.map(|namespace| with(Some(namespace), None));
        let second = account.map(|account| with(None, Some(account)));
        [Some(seen.clone()), first, second, both].into_iter().flatten()
    }

    fn len(&self) -> usize {
        self.policies.len()
            + self.tiers.len()
            + self.profiles.len()
            + self.pods.len()
            + self.hosts.len()
            + self.addresses.len()
            + self.nets.len()
            + self.namespaces.len()
            + self.service_accounts.len()
            + self.services.len()
    }
}

/// What changed since the last look; at the first look, everything.
#[derive(Debug, Default)]
pub(crate) struct Touched(Option<Box<Changes>>);

impl Touched {
    /// What changed since the last look; none if that is too much to tell.
    pub(crate) fn take(&mut self) -> Option<Changes> {
        self.0.replace(Box::default()).map(|changes| *changes)
    }

    /// Takes note of a change.
    pub(crate) fn note(&mut self, change: impl FnOnce(&mut Changes)) {
        let Some(changes) = &mut self.0 else { return };
        change(changes);
        if changes.len() > MANY {
            self.0 = None;
        }
    }

    /// Takes note that everything may have changed.
    pub(crate) fn everything(&mut self) {
        self.0 = None;
    }
}
