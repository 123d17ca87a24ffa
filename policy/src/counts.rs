//! How much there is in a cluster.

use crate::cluster::Cluster;

/// How many resources a cluster has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Nodes that there is a document of.
    pub nodes: usize,
    /// Policies of all kinds.
    pub policies: usize,
    /// Pods that are endpoints: neither on their node's network, nor ended.
    pub endpoints: usize,
}

impl Cluster {
    /// Counts; at the cost of a look at each pod.
    pub fn counts(&self) -> Counts {
        Counts { nodes: self.node_names().len(), policies: self.policy_count(), endpoints: self.endpoints().count() }
    }
}
