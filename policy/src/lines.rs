//! Rules as policies write them, as [`Line`]s of a program: Calico's, Kubernetes', and those of ClusterNetworkPolicies.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use tortie_api::calico::{Action, EntityRule, IpVersion, PolicyRule, RulePort, RuleProtocol, ServiceMatch};
use tortie_api::k8s::{
    ClusterNetworkPolicyPeer, ClusterNetworkPolicyProtocol, ClusterNetworkPolicySpec, IpBlock, NetworkPolicyPeer,
    NetworkPolicyPort, NetworkPolicySpec, PolicyType, PortOrName,
};
use tortie_nft::{Family, Side};

use crate::cluster::Spec;
use crate::program::{Clause, Entity, Line, Ports, ServiceEnd};
use crate::selection::{Scope, Selection};
use crate::view::peer;

/// Whether rules of this direction call ports of the endpoint itself by name.
pub(crate) fn names_own_ports(spec: &Spec, direction: PolicyType) -> bool {
    let is_name = |port: &NetworkPolicyPort| matches!(port.port, Some(PortOrName::Name(_)));
    let is_named = |port: &RulePort| matches!(port, RulePort::Named(_));
    let is_cluster_name = |protocol: &ClusterNetworkPolicyProtocol| {
        matches!(protocol, ClusterNetworkPolicyProtocol::DestinationNamedPort(_))
    };
    match (spec, direction) {
        (Spec::Kubernetes(spec) | Spec::StagedKubernetes(spec, _), PolicyType::Ingress) => {
            spec.ingress.iter().flat_map(|rule| &rule.ports).any(is_name)
        }
        (Spec::Cluster(spec), PolicyType::Ingress) => {
            spec.ingress.iter().flat_map(|rule| &rule.protocols).any(is_cluster_name)
        }
        // Their ports are the destination's.
        (Spec::Kubernetes(_) | Spec::StagedKubernetes(..) | Spec::Cluster(_), PolicyType::Egress) => false,
        (Spec::Calico(spec), _) => spec.rules(direction).iter().any(|rule| {
            let own = match peer(direction) {
                Side::Source => &rule.destination,
                Side::Destination => &rule.source,
            };
            own.ports.iter().chain(&own.not_ports).any(is_named)
        }),
    }
}

/// The rules of a Kubernetes NetworkPolicy in this direction.
pub(crate) fn of_kubernetes(namespace: &str, spec: &NetworkPolicySpec, direction: PolicyType) -> Vec<Line> {
    let rules: Vec<(&[NetworkPolicyPeer], &[NetworkPolicyPort])> = match direction {
        PolicyType::Ingress => spec.ingress.iter().map(|rule| (&*rule.from, &*rule.ports)).collect(),
        PolicyType::Egress => spec.egress.iter().map(|rule| (&*rule.to, &*rule.ports)).collect(),
    };
    let lines = rules.into_iter().enumerate().map(|(number, (peers, ports))| {
        let mut selections = BTreeSet::new();
        let mut blocks = BTreeSet::new();
        for peer in peers {
            match &peer.ip_block {
                Some(block) => drop(blocks.insert(canonical(block))),
                None => selections.extend(Selection::of_peer(namespace, peer)),
            }
        }
        let ports = (!ports.is_empty()).then(|| kubernetes_ports(ports));
        let clauses = clauses(direction, peers.is_empty(), selections, blocks, ports);
        Line { number, action: Action::Allow, clauses }
    });
    lines.collect()
}

/// The rules of a ClusterNetworkPolicy in this direction.
pub(crate) fn of_cluster(spec: &ClusterNetworkPolicySpec, direction: PolicyType) -> Vec<Line> {
    let rules: Vec<(Action, &[ClusterNetworkPolicyPeer], &[ClusterNetworkPolicyProtocol])> = match direction {
        PolicyType::Ingress => {
            spec.ingress.iter().map(|rule| (rule.action.calico_action(), &*rule.from, &*rule.protocols)).collect()
        }
        PolicyType::Egress => {
            spec.egress.iter().map(|rule| (rule.action.calico_action(), &*rule.to, &*rule.protocols)).collect()
        }
    };
    let lines = rules.into_iter().enumerate().map(|(number, (action, peers, protocols))| {
        let mut selections = BTreeSet::new();
        let mut blocks = BTreeSet::new();
        for peer in peers {
            match peer {
                ClusterNetworkPolicyPeer::Namespaces(namespaces) => {
                    let scope = Scope::Namespaces(namespaces.into());
                    selections.insert(Selection::of_pods(scope, &tortie_api::k8s::LabelSelector::default()));
                }
                ClusterNetworkPolicyPeer::Pods(pods) => {
                    let scope = Scope::Namespaces((&pods.namespace_selector).into());
                    selections.insert(Selection::of_pods(scope, &pods.pod_selector));
                }
                ClusterNetworkPolicyPeer::Networks(nets) => {
                    blocks.extend(nets.iter().map(|net| IpBlock { cidr: net.trunc(), except: Vec::new() }));
                }
                // Nobody resolves names here, so it is nobody: closed, as the API asks.
                ClusterNetworkPolicyPeer::DomainNames(_) => {}
            }
        }
        let mut by_protocol: BTreeMap<Option<u8>, Ports> = BTreeMap::new();
        for protocol in protocols {
            match (protocol.ports(), protocol) {
                (Some((protocol, first, last)), _) => {
                    by_protocol.entry(Some(protocol.number())).or_default().ranges.push((first, last));
                }
                (None, ClusterNetworkPolicyProtocol::DestinationNamedPort(name)) => {
                    by_protocol.entry(None).or_default().names.insert(name.clone());
                }
                (None, _) => {}
            }
        }
        let ports = (!protocols.is_empty()).then(|| {
            by_protocol
                .into_iter()
                .map(|(protocol, ports)| (protocol, Some(Ports::new(ports.ranges, ports.names))))
                .collect::<Vec<_>>()
        });
        Line { number, action, clauses: clauses(direction, false, selections, blocks, ports) }
    });
    lines.collect()
}

/// A rule of Calico's, in a policy in `namespace` or in none.
pub(crate) fn of_calico(namespace: Option<&str>, rules: &[PolicyRule]) -> Vec<Line> {
    let lines = rules.iter().enumerate().map(|(number, rule)| {
        let clause = Clause {
            family: rule.ip_version.map(|version| match version {
                IpVersion::V4 => Family::V4,
                IpVersion::V6 => Family::V6,
            }),
            protocol: rule.protocol.map(RuleProtocol::number),
            not_protocol: rule.not_protocol.map(RuleProtocol::number),
            icmp: rule.icmp,
            not_icmp: rule.not_icmp,
            source: entity(namespace, &rule.source, Side::Source),
            destination: entity(namespace, &rule.destination, Side::Destination),
        };
        Line { number, action: rule.action, clauses: vec![clause] }
    });
    lines.collect()
}

fn entity(namespace: Option<&str>, rule: &EntityRule, side: Side) -> Entity {
    let selections = Selection::of_entity(namespace, rule);
    let blocks = |nets: &[IpNet]| nets.iter().map(|net| IpBlock { cidr: net.trunc(), except: Vec::new() }).collect();
    let ports = |ports: &[RulePort]| {
        let ranges = ports.iter().filter_map(|port| match port {
            RulePort::Range(first, last) => Some((*first, *last)),
            RulePort::Named(_) => None,
        });
        let names = ports.iter().filter_map(|port| match port {
            RulePort::Named(name) => Some(name.clone()),
            RulePort::Range(..) => None,
        });
        Ports { hosts: true, ..Ports::new(ranges, names) }
    };
    Entity {
        blocks: (!rule.nets.is_empty()).then(|| blocks(&rule.nets)),
        not_nets: rule.not_nets.clone(),
        selections: selections.is.map(|selection| BTreeSet::from([selection])),
        not_selections: selections.is_not.into_iter().collect(),
        ports: (!rule.ports.is_empty()).then(|| ports(&rule.ports)),
        not_ports: ports(&rule.not_ports),
        service: rule.services.as_ref().map(|service| service_end(namespace, service, side)),
    }
}

/// The Service that an end is one of the endpoints of: where traffic goes to, on their ports too.
fn service_end(namespace: Option<&str>, service: &ServiceMatch, side: Side) -> ServiceEnd {
    ServiceEnd {
        namespace: service.namespace.as_deref().or(namespace).unwrap_or_default().to_owned(),
        name: service.name.clone(),
        ports: side == Side::Destination,
    }
}

/// A rule of peers and ports, any of which may meet any. No ports at all are all of all protocols.
fn clauses(
    direction: PolicyType,
    everyone: bool,
    selections: BTreeSet<Selection>,
    blocks: BTreeSet<IpBlock>,
    ports: Option<Vec<(Option<u8>, Option<Ports>)>>,
) -> Vec<Clause> {
    let mut peers = Vec::new();
    if everyone {
        peers.push(Entity::default());
    } else {
        if !selections.is_empty() {
            peers.push(Entity { selections: Some(selections), ..Entity::default() });
        }
        if !blocks.is_empty() {
            peers.push(Entity { blocks: Some(blocks), ..Entity::default() });
        }
    }
    let ports = ports.unwrap_or_else(|| vec![(None, None)]);
    let clause = |(entity, (protocol, ports)): (&Entity, &(Option<u8>, Option<Ports>))| {
        let mut clause = Clause { protocol: *protocol, ..Clause::default() };
        match peer(direction) {
            Side::Source => clause.source = entity.clone(),
            Side::Destination => clause.destination = entity.clone(),
        }
        clause.destination.ports.clone_from(ports);
        clause
    };
    peers.iter().flat_map(|entity| ports.iter().map(move |ports| (entity, ports))).map(clause).collect()
}

/// The ports of a rule by protocol; none of a protocol are all of it.
fn kubernetes_ports(ports: &[NetworkPolicyPort]) -> Vec<(Option<u8>, Option<Ports>)> {
    let mut by_protocol: BTreeMap<u8, Ports> = BTreeMap::new();
    for port in ports {
        let Ports { ranges, names, .. } = by_protocol.entry(port.protocol.number()).or_default();
        match (&port.port, port.end_port) {
            (None, None) => ranges.push((0, u16::MAX)),
            (Some(PortOrName::Number(first)), last) => ranges.push((*first, last.unwrap_or(*first))),
            (Some(PortOrName::Name(name)), None) => drop(names.insert(name.clone())),
            // The API refuses it, and it is no port.
            (None | Some(PortOrName::Name(_)), Some(_)) => {}
        }
    }
    by_protocol
        .into_iter()
        .map(|(protocol, Ports { ranges, names, .. })| {
            let ports = Ports::new(ranges, names);
            (Some(protocol), (ports.ranges != [(0, u16::MAX)]).then_some(ports))
        })
        .collect()
}

/// The block with its exceptions sorted.
fn canonical(block: &IpBlock) -> IpBlock {
    let mut except: Vec<_> = block.except.iter().map(IpNet::trunc).collect();
    except.sort();
    except.dedup();
    IpBlock { cidr: block.cidr.trunc(), except }
}
