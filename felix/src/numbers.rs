//! How much there is of everything, for metrics.

use serde::{Deserialize, Serialize};

use crate::drift::DriftKind;

/// Counts of what the core holds now, and since its start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Numbers {
    /// Whether the datastore was read completely.
    pub in_sync: bool,
    /// Whether the datastore's revision is in the kernel and the speaker.
    pub programmed: bool,
    /// Nodes in the cluster.
    pub nodes: usize,
    /// NetworkPolicies in the cluster.
    pub policies: usize,
    /// Pods in the cluster that policies can select.
    pub pods: usize,
    /// Endpoints of this node.
    pub endpoints: usize,
    /// Those of them that wait to be admitted, for want of their Pod object.
    pub unadmitted: usize,
    /// Policies that select an endpoint of this node.
    pub active_policies: usize,
    /// Selections of peers that rules of this node look up.
    pub selections: usize,
    /// Chains of our table.
    pub chains: usize,
    /// Its rules.
    pub rules: usize,
    /// Its sets and maps.
    pub sets: usize,
    /// Their elements.
    pub elements: usize,
    /// The live generation.
    pub generation: u32,
    /// How often it has moved.
    pub generation_moves: u64,
    /// Our IPv4 routes in the kernel.
    pub routes_ipv4: usize,
    /// Our IPv6 routes.
    pub routes_ipv6: usize,
    /// Routes that the kernel refused, or that wait for a way to their next hop.
    pub routes_failed: usize,
    /// Network interfaces of the node.
    pub links: usize,
    /// What others changed, by kind.
    pub drifts: Vec<(DriftKind, u64)>,
    /// What is wrong now.
    pub problems: usize,
}
