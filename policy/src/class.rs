//! What a set of policies allows in one direction, as a value: the union of their rules, sorted out by how it is looked up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;
use tortie_api::k8s::{NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec, PolicyType, PortOrName, Protocol};

use crate::cluster::PodPort;
use crate::peers::{Peers, port_range};
use crate::ports::{Claim, Segment, segments};

/// A policy, and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Policy<'a> {
    /// Its namespace.
    pub(crate) namespace: &'a str,
    /// Its name.
    pub(crate) name: &'a str,
    /// What it wants.
    pub(crate) spec: &'a Arc<NetworkPolicySpec>,
}

/// Peers that may be reached on the port that they themselves have under a name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Named {
    /// The protocol.
    pub(crate) protocol: Protocol,
    /// The port's name.
    pub(crate) name: String,
    /// Whom.
    pub(crate) peers: Peers,
}

/// What may pass in one direction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Access {
    /// Peers that may use every port of every protocol; everyone, if the direction is open.
    pub(crate) all_ports: Peers,
    /// Peers by port.
    pub(crate) segments: BTreeMap<Protocol, Vec<Segment>>,
    /// Peers by the name of their port; in egress only, because a name is the destination's.
    pub(crate) named: BTreeSet<Named>,
}

impl Access {
    /// What `policies` allow in `direction` to a pod that declares `ports`. All of them must isolate that direction.
    pub(crate) fn of(policies: &[Policy<'_>], direction: PolicyType, ports: &[PodPort]) -> Self {
        let mut access = Self::default();
        let mut claims = Vec::new();
        for policy in policies {
            match direction {
                PolicyType::Ingress => {
                    for rule in &policy.spec.ingress {
                        access.add(policy, &rule.from, &rule.ports, Some(ports), &mut claims);
                    }
                }
                PolicyType::Egress => {
                    for rule in &policy.spec.egress {
                        access.add(policy, &rule.to, &rule.ports, None, &mut claims);
                    }
                }
            }
        }
        access.segments = segments(&claims);
        access
    }

    /// Adds a rule. `local` are the ports of the pod itself where the rule's ports are the pod's own: in ingress.
    fn add(
        &mut self,
        policy: &Policy<'_>,
        peers: &[NetworkPolicyPeer],
        ports: &[NetworkPolicyPort],
        local: Option<&[PodPort]>,
        claims: &mut Vec<Claim>,
    ) {
        let peers = Peers::of_rule(policy.namespace, peers);
        if ports.is_empty() {
            self.all_ports.extend(&peers);
            return;
        }
        for port in ports {
            let protocol = port.protocol;
            let mut claim = |first, last| claims.push(Claim { protocol, first, last, peers: peers.clone() });
            match (&port.port, local) {
                (Some(PortOrName::Name(_)), _) if port.end_port.is_some() => {}
                (Some(PortOrName::Name(name)), Some(local)) => local
                    .iter()
                    .filter(|port| port.protocol == protocol && port.name.as_ref() == Some(name))
                    .for_each(|port| claim(port.number, port.number)),
                (Some(PortOrName::Name(name)), None) => {
                    self.named.insert(Named { protocol, name: name.clone(), peers: peers.clone() });
                }
                _ => {
                    if let Some((first, last)) = port_range(port) {
                        claim(first, last);
                    }
                }
            }
        }
    }
}

/// Whether a rule of the policy in this direction calls a port by name.
pub(crate) fn names_ports(spec: &NetworkPolicySpec, direction: PolicyType) -> bool {
    let named = |port: &NetworkPolicyPort| matches!(port.port, Some(PortOrName::Name(_)));
    match direction {
        PolicyType::Ingress => spec.ingress.iter().flat_map(|rule| &rule.ports).any(named),
        PolicyType::Egress => spec.egress.iter().flat_map(|rule| &rule.ports).any(named),
    }
}
