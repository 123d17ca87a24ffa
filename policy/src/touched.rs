//! What changed in a cluster, for whoever has compiled it before.
//!
//! Names and addresses only: what has become of them is asked of the cluster when the time comes. The list is short or it is nothing:
//! past [`MANY`] entries it is quicker to start afresh than to go through it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

/// More entries than this are everything.
const MANY: usize = 500;

/// A namespace, and a name in it.
pub(crate) type Name = (Arc<str>, Box<str>);

/// What changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// Policies that came, changed or went.
    pub(crate) policies: BTreeSet<Name>,
    /// Endpoints that came, changed or went.
    pub(crate) pods: BTreeSet<Name>,
    /// Addresses that any endpoint has or had about which something changed, its namespace's labels included.
    pub(crate) addresses: BTreeSet<IpAddr>,
    /// Whether something changed that the frame depends on.
    pub(crate) frame: bool,
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
