//! What policies say in one direction about one group of endpoints, in the order in which it is to be asked.
//!
//! This is the form between the API's objects and chains. *Whether* a rule is asked has been decided here: which policies select the
//! endpoint, in which direction, in which tier, in which order. What is left is *what* each rule asks of a packet, as [`Clause`]s: a
//! rule matches what any of its clauses does, and a clause what meets all of its conditions. Clauses say nothing of the policy that they
//! are from, so that equal rules make equal chains, whoever has them.

use std::collections::BTreeSet;
use std::sync::Arc;

use ipnet::IpNet;
use serde::Serialize;
use tortie_api::Kind;
use tortie_api::calico::{Action, Icmp, StagedAction, TierAction};
use tortie_api::k8s::{IpBlock, PolicyType, Protocol};
use tortie_nft::{Family, Side};

use crate::cluster::{Cluster, PolicyKey, PolicyView, Spec};
use crate::lines;
use crate::peers::Peers;
use crate::selection::Selection;

/// What policies say in one direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Program {
    /// The direction.
    pub(crate) direction: PolicyType,
    /// The tiers that have a say, in order. One whose policies are all staged only counts.
    pub(crate) tiers: Vec<Tier>,
    /// What becomes of a packet about which no tier decided.
    pub(crate) last: Last,
}

impl Program {
    /// What these policies say, which govern an endpoint and are in order, in one direction.
    pub(crate) fn of<'a>(
        cluster: &Cluster,
        governing: impl IntoIterator<Item = PolicyView<'a>>,
        direction: PolicyType,
        last: Last,
    ) -> Self {
        let mut tiers: Vec<Tier> = Vec::new();
        for view in governing.into_iter().filter(|view| view.spec.governs(direction)) {
            // What would take a policy away, is still learned or set aside, says nothing.
            if view.spec.staged_action().is_some_and(|action| action != StagedAction::Set) {
                continue;
            }
            let name = view.spec.tier();
            if tiers.last().is_none_or(|tier| tier.name != name) {
                let denies = cluster.tier(name).default_action == TierAction::Deny;
                tiers.push(Tier { name: name.to_owned(), denies, policies: Vec::new() });
            }
            if let Some(tier) = tiers.last_mut() {
                tier.policies.push(Policy::of(view, direction));
            }
        }
        Self { direction, tiers, last }
    }

    /// The policies, staged ones among them.
    pub(crate) fn policies(&self) -> impl Iterator<Item = &Policy> + Clone {
        self.tiers.iter().flat_map(|tier| &tier.policies)
    }
}

/// What becomes of a packet about which no tier decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Last {
    /// It is allowed: as the profile of a pod's namespace says.
    Allow,
    /// It is denied: as at an endpoint of a host that has no profile.
    Deny,
    /// Whoever led to the chain goes on.
    Return,
}

/// The policies of a tier that select the endpoint in this direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tier {
    /// Its name.
    pub(crate) name: String,
    /// Whether it denies what none of its policies decides about (`defaultAction`).
    pub(crate) denies: bool,
    /// The policies in order, at least one.
    pub(crate) policies: Vec<Policy>,
}

impl Tier {
    /// Whether it has a say, and does not only count what staged policies would do.
    pub(crate) fn is_enforced(&self) -> bool {
        self.policies.iter().any(|policy| !policy.staged)
    }
}

/// Which rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RuleId {
    /// Of which policy.
    pub(crate) policy: PolicyKey,
    /// Of which direction.
    pub(crate) direction: PolicyType,
    /// Its place among the policy's rules of this direction, from 0.
    pub(crate) number: usize,
}

/// A policy in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Policy {
    /// Which one.
    pub(crate) key: PolicyKey,
    /// Whether it only counts what it would do.
    pub(crate) staged: bool,
    /// Its rules in order.
    pub(crate) lines: Vec<Line>,
}

impl Policy {
    /// A policy's rules of one direction.
    pub(crate) fn of(view: PolicyView<'_>, direction: PolicyType) -> Self {
        let namespace = view.namespace();
        let lines = match view.spec {
            Spec::Kubernetes(spec) | Spec::StagedKubernetes(spec, _) => {
                lines::of_kubernetes(namespace.unwrap_or_default(), spec, direction)
            }
            Spec::Calico(spec) => lines::of_calico(namespace, spec.rules(direction)),
            Spec::Cluster(spec) => lines::of_cluster(spec, direction),
        };
        Self { key: view.key.clone(), staged: view.key.is_staged(), lines }
    }

    /// Whether its neighbours of the same kind may be looked up together with it: it allows and does nothing else, and there may be
    /// thousands.
    pub(crate) fn is_union(&self) -> bool {
        self.key.kind == Kind::NetworkPolicy && !self.staged
    }

    /// Whether it may end its tier without a verdict.
    pub(crate) fn passes(&self) -> bool {
        self.lines.iter().any(|line| line.action == Action::Pass)
    }
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// Its place among the policy's rules of this direction, from 0.
    pub(crate) number: usize,
    /// What is done with a packet that it matches.
    pub(crate) action: Action,
    /// It matches what any of these does.
    pub(crate) clauses: Vec<Clause>,
}

/// Conditions that must all hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Clause {
    /// Only this version of IP.
    pub(crate) family: Option<Family>,
    /// Only this protocol.
    pub(crate) protocol: Option<u8>,
    /// Any protocol but this.
    pub(crate) not_protocol: Option<u8>,
    /// Only this type of ICMP, and code.
    pub(crate) icmp: Option<Icmp>,
    /// Anything but this type of ICMP, and code.
    pub(crate) not_icmp: Option<Icmp>,
    /// Where the flow comes from.
    pub(crate) source: Entity,
    /// Where it goes to.
    pub(crate) destination: Entity,
}

impl Clause {
    /// One end.
    pub(crate) fn end(&self, side: Side) -> &Entity {
        match side {
            Side::Source => &self.source,
            Side::Destination => &self.destination,
        }
    }
}

/// Conditions on one end of a flow; all must hold, and those that are not there do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Entity {
    /// It is in one of these blocks.
    pub(crate) blocks: Option<BTreeSet<IpBlock>>,
    /// It is in none of these networks.
    pub(crate) not_nets: Vec<IpNet>,
    /// One of these selections has it.
    pub(crate) selections: Option<BTreeSet<Selection>>,
    /// None of these selections has it.
    pub(crate) not_selections: BTreeSet<Selection>,
    /// Its port is one of these.
    pub(crate) ports: Option<Ports>,
    /// Its port is none of these.
    pub(crate) not_ports: Ports,
    /// It is an endpoint of this Service.
    pub(crate) service: Option<ServiceEnd>,
}

/// The endpoints of a Service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(crate) struct ServiceEnd {
    /// The Service's namespace.
    pub(crate) namespace: String,
    /// Its name.
    pub(crate) name: String,
    /// Whether their protocols and ports are meant as well as their addresses.
    pub(crate) ports: bool,
}

/// Peers that may be reached on the port that they themselves have under a name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(crate) struct Named {
    /// The protocol.
    pub(crate) protocol: Protocol,
    /// The port's name.
    pub(crate) name: String,
    /// Whether ports of host endpoints are meant as well as those of pods: Kubernetes' own kinds know names of pods' ports only.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) hosts: bool,
    /// Whom.
    #[serde(serialize_with = "crate::names::shared")]
    pub(crate) peers: Arc<Peers>,
}

/// Ports by number and by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ports {
    /// First and last of ranges: in order, disjoint, and with a gap between them.
    pub(crate) ranges: Vec<(u16, u16)>,
    /// Ports that the endpoint itself has under these names.
    pub(crate) names: BTreeSet<String>,
    /// Whether host endpoints are meant by names, and not pods alone.
    pub(crate) hosts: bool,
}

impl Ports {
    /// These ranges, in any order, and names of pods' ports.
    pub(crate) fn new(ranges: impl IntoIterator<Item = (u16, u16)>, names: impl IntoIterator<Item = String>) -> Self {
        let mut all: Vec<(u16, u16)> = ranges.into_iter().filter(|(first, last)| first <= last).collect();
        all.sort_unstable();
        let mut ranges: Vec<(u16, u16)> = Vec::with_capacity(all.len());
        for (first, last) in all {
            match ranges.last_mut() {
                Some((_, end)) if u32::from(first) <= u32::from(*end) + 1 => *end = last.max(*end),
                _ => ranges.push((first, last)),
            }
        }
        Self { ranges, names: names.into_iter().collect(), hosts: false }
    }

    /// Whether none is.
    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.is_empty() && self.names.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_ports_are_coalesced() {
        let ranges = |ranges: &[(u16, u16)]| Ports::new(ranges.iter().copied(), []).ranges;
        assert_eq!(ranges(&[(443, 443), (80, 90), (85, 100), (101, 101)]), [(80, 101), (443, 443)]);
        assert_eq!(ranges(&[(65_535, 65_535), (0, 65_534), (3, 3)]), [(0, 65_535)]);
        assert_eq!(ranges(&[(9, 8)]), []);
        assert!(Ports::new([(9, 8)], []).is_empty());
    }
}
