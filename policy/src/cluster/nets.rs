//! NetworkSets and GlobalNetworkSets: networks that selectors select as if they were endpoints.

use std::collections::BTreeMap;

use ipnet::IpNet;

use crate::labels::Labels;
use crate::touched::NetsName;

/// What is known of a network set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NetsState {
    /// Its labels.
    pub(crate) labels: Labels,
    /// Its networks, sorted, each once.
    pub(crate) nets: Box<[IpNet]>,
}

impl NetsState {
    /// A set of these labels and networks.
    pub(crate) fn new(labels: Labels, nets: &[IpNet]) -> Self {
        let mut nets: Vec<IpNet> = nets.iter().map(IpNet::trunc).collect();
        nets.sort_unstable();
        nets.dedup();
        Self { labels, nets: nets.into() }
    }
}

/// All network sets.
#[derive(Debug, Default)]
pub(crate) struct Nets(BTreeMap<NetsName, NetsState>);

impl Nets {
    /// All of them, in the order of their namespaces and names; those of no namespace first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&NetsName, &NetsState)> {
        self.0.iter()
    }

    /// Those of a namespace.
    pub(crate) fn of_namespace(&self, namespace: &str) -> impl Iterator<Item = (&NetsName, &NetsState)> {
        let first: NetsName = (Some(namespace.into()), "".into());
        self.0.range(first..).take_while(move |((own, _), _)| own.as_deref() == Some(namespace))
    }

    /// One by name.
    pub(crate) fn get(&self, name: &NetsName) -> Option<&NetsState> {
        self.0.get(name)
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Makes a set what it is now, or forgets it. Returns what it was.
    pub(crate) fn set(&mut self, name: NetsName, new: Option<NetsState>) -> Option<NetsState> {
        match new {
            Some(new) => self.0.insert(name, new),
            None => self.0.remove(&name),
        }
    }
}
