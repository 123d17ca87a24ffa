//! Kubernetes' ClusterNetworkPolicy: rules that accept, deny or pass, each for any of its peers by any of its protocols.

use tortie_api::calico::Action;
use tortie_api::k8s::{
    ClusterNetworkPolicyAction, ClusterNetworkPolicyPeer, ClusterNetworkPolicyProtocol, ClusterNetworkPolicySpec, Pod,
    PolicyType,
};

use super::calico::in_net;
use super::decision::{LookedAt, Misfit};
use super::flow::Flow;
use super::kubernetes::pod_has_port;
use super::question::Traffic;
use super::world::{World, namespace_of};

/// What each rule of a policy says of the flow, up to the first that decides.
pub(super) fn ask(
    world: &World,
    flow: &Flow<'_>,
    direction: PolicyType,
    spec: &ClusterNetworkPolicySpec,
) -> Vec<LookedAt> {
    type Rule<'a> = (ClusterNetworkPolicyAction, &'a [ClusterNetworkPolicyPeer], &'a [ClusterNetworkPolicyProtocol]);
    let rules: Vec<Rule<'_>> = match direction {
        PolicyType::Ingress => spec.ingress.iter().map(|rule| (rule.action, &*rule.from, &*rule.protocols)).collect(),
        PolicyType::Egress => spec.egress.iter().map(|rule| (rule.action, &*rule.to, &*rule.protocols)).collect(),
    };
    let other = flow.other(direction);
    let mut looked_at = Vec::new();
    for (action, peers, protocols) in rules {
        let peer = peers.iter().any(|peer| match peer {
            ClusterNetworkPolicyPeer::Namespaces(selector) => {
                let selects = |pod: &&Pod| selector.matches(&world.namespace_labels(namespace_of(pod)));
                other.pods.iter().any(selects)
            }
            ClusterNetworkPolicyPeer::Pods(pods) => other.pods.iter().any(|pod| {
                pods.namespace_selector.matches(&world.namespace_labels(namespace_of(pod)))
                    && pods.pod_selector.matches(&pod.metadata.labels)
            }),
            ClusterNetworkPolicyPeer::Networks(nets) => nets.iter().any(|net| in_net(net, other.address, flow.family)),
            // Nothing resolves names here, and the API asks that such a peer then be nobody.
            ClusterNetworkPolicyPeer::DomainNames(_) => false,
        });
        let port = protocols.is_empty() || protocols.iter().any(|protocol| is_protocol(protocol, flow));
        let misfits = [(peer, Misfit::Peer), (port, Misfit::Port)].into_iter().filter(|(fits, _)| !fits);
        let misfits: Vec<Misfit> = misfits.map(|(_, misfit)| misfit).collect();
        let decides = misfits.is_empty();
        let action = match action {
            ClusterNetworkPolicyAction::Accept => Action::Allow,
            ClusterNetworkPolicyAction::Deny => Action::Deny,
            ClusterNetworkPolicyAction::Pass => Action::Pass,
        };
        looked_at.push(LookedAt { action, misfits, members: Vec::new() });
        if decides {
            break;
        }
    }
    looked_at
}

fn is_protocol(wanted: &ClusterNetworkPolicyProtocol, flow: &Flow<'_>) -> bool {
    let Traffic::Ports { protocol, port, .. } = flow.traffic else { return false };
    match wanted {
        ClusterNetworkPolicyProtocol::DestinationNamedPort(name) => pod_has_port(&flow.to, name, protocol, port),
        numbered => {
            numbered.ports().is_some_and(|(wanted, first, last)| wanted == protocol && (first..=last).contains(&port))
        }
    }
}
