//! Kubernetes' NetworkPolicy: rules that allow, each by any of its peers on any of its ports.

use std::net::IpAddr;

use tortie_api::calico::Action;
use tortie_api::k8s::{
    IpBlock, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec, PolicyType, PortOrName, Protocol,
};
use tortie_nft::Family;

use super::decision::{LookedAt, Misfit};
use super::flow::{Flow, Party};
use super::question::Traffic;
use super::world::{World, family_of, namespace_of};

/// What each rule of a policy in `namespace` says of the flow, up to the first that allows it.
pub(super) fn ask(
    world: &World,
    flow: &Flow<'_>,
    direction: PolicyType,
    namespace: &str,
    spec: &NetworkPolicySpec,
) -> Vec<LookedAt> {
    let rules: Vec<(&[NetworkPolicyPeer], &[NetworkPolicyPort])> = match direction {
        PolicyType::Egress => spec.egress.iter().map(|rule| (&*rule.to, &*rule.ports)).collect(),
        PolicyType::Ingress => spec.ingress.iter().map(|rule| (&*rule.from, &*rule.ports)).collect(),
    };
    let other = flow.other(direction);
    let mut looked_at = Vec::new();
    for (peers, ports) in rules {
        let fitting = peers.iter().find(|peer| is_peer(world, namespace, peer, other, flow.family));
        let peer = peers.is_empty() || fitting.is_some();
        let port = ports.is_empty() || ports.iter().any(|port| is_port(port, flow));
        let misfits = [(peer, Misfit::Peer), (port, Misfit::Port)].into_iter().filter(|(fits, _)| !fits);
        let misfits: Vec<Misfit> = misfits.map(|(_, misfit)| misfit).collect();
        let decides = misfits.is_empty();
        let members = fitting.map(|peer| match &peer.ip_block {
            Some(block) => format!("ipBlock {}", block.cidr),
            None => format!("Pod {}", other.name),
        });
        looked_at.push(LookedAt { action: Action::Allow, misfits, members: members.into_iter().collect() });
        if decides {
            break;
        }
    }
    looked_at
}

/// Whether `peer`, of a policy in `namespace`, is the party.
fn is_peer(world: &World, namespace: &str, peer: &NetworkPolicyPeer, party: &Party<'_>, family: Family) -> bool {
    if let Some(block) = &peer.ip_block {
        return in_block(block, party.address, family);
    }
    if peer.pod_selector.is_none() && peer.namespace_selector.is_none() {
        return false;
    }
    party.pods.iter().any(|pod| {
        let namespace_fits = match &peer.namespace_selector {
            None => namespace_of(pod) == namespace,
            Some(selector) => selector.matches(&world.namespace_labels(namespace_of(pod))),
        };
        let labels = &pod.metadata.labels;
        namespace_fits && peer.pod_selector.as_ref().is_none_or(|selector| selector.matches(labels))
    })
}

/// Whether the block has the address. One that is not known is in no block but the whole of its family.
fn in_block(block: &IpBlock, address: Option<IpAddr>, family: Family) -> bool {
    match address {
        Some(address) => block.cidr.contains(&address) && !block.except.iter().any(|except| except.contains(&address)),
        None => block.cidr.prefix_len() == 0 && family_of(block.cidr.addr()) == family,
    }
}

fn is_port(rule: &NetworkPolicyPort, flow: &Flow<'_>) -> bool {
    let Traffic::Ports { protocol, port, .. } = flow.traffic else { return false };
    rule.protocol == protocol
        && match (&rule.port, rule.end_port) {
            (None, None) => true,
            (Some(PortOrName::Number(first)), None) => port == *first,
            (Some(PortOrName::Number(first)), Some(last)) => (*first..=last).contains(&port),
            (Some(PortOrName::Name(name)), None) => pod_has_port(&flow.to, name, protocol, port),
            // A range needs a number to start from; the API refuses these.
            (Some(PortOrName::Name(_)) | None, Some(_)) => false,
        }
}

/// Whether a pod at that end declares a port of that name as that number.
pub(super) fn pod_has_port(party: &Party<'_>, name: &str, protocol: Protocol, number: u16) -> bool {
    party
        .pods
        .iter()
        .flat_map(|pod| pod.ports())
        .any(|port| (port.name.as_deref(), port.protocol, port.container_port) == (Some(name), protocol, number))
}
