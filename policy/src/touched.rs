//! What changed in a cluster, for whoever has compiled it before.
//!
//! Names and addresses, and what selectors saw at these addresses before: what has become of them is asked of the cluster when the time
//! comes. The list is bounded: past [`MANY`] entries it is quicker to start afresh than to go through it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use tortie_api::meta::StringMap;

/// More entries than this are everything.
const MANY: usize = 2_000;

/// A namespace, and a name in it.
pub(crate) type Name = (Arc<str>, Arc<str>);

/// What selectors see of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The name of its namespace.
    pub(crate) namespace: Arc<str>,
    /// Its namespace's labels.
    pub(crate) namespace_labels: Arc<StringMap>,
    /// Its own labels.
    pub(crate) labels: Arc<StringMap>,
}

/// What changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// Policies that came, changed or went.
    pub(crate) policies: BTreeSet<Name>,
    /// Endpoints that came, changed or went.
    pub(crate) pods: BTreeSet<Name>,
    /// Addresses that any endpoint has or had about which something changed, its namespace's labels included; each with the endpoints
    /// that had it, as they were.
    pub(crate) addresses: BTreeMap<IpAddr, Vec<Seen>>,
    /// Whether something changed that the frame depends on.
    pub(crate) frame: bool,
}

impl Changes {
    /// Takes note that something about `addresses` changed, which an endpoint that was `seen` had.
    pub(crate) fn addresses<'a>(&mut self, addresses: impl IntoIterator<Item = &'a IpAddr>, seen: Option<&Seen>) {
        for address in addresses {
            let before = self.addresses.entry(*address).or_default();
            before.extend(seen.filter(|seen| !before.contains(seen)).cloned());
        }
    }
}

/// What changed since the last look; at the first look, everything.
#[derive(Debug, Default)]
pub(crate) struct Touched(Option<Changes>);

impl Touched {
    /// What changed since the last look; none if that is too much to tell.
    pub(crate) fn take(&mut self) -> Option<Changes> {
        self.0.replace(Changes::default())
    }

    /// Takes note of a change.
    pub(crate) fn note(&mut self, change: impl FnOnce(&mut Changes)) {
        let Some(changes) = &mut self.0 else { return };
        change(changes);
        if changes.policies.len() + changes.pods.len() + changes.addresses.len() > MANY {
            self.0 = None;
        }
    }
}
