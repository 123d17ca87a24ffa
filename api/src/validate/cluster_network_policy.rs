//! `policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicy`: the rules of its CustomResourceDefinition.

use super::{Errors, names, selector};
use crate::field::{FieldError, Path};
use crate::k8s::{
    ClusterNetworkPolicy, ClusterNetworkPolicyAction, ClusterNetworkPolicyPeer, ClusterNetworkPolicyProtocol,
    ClusterNetworkPolicySubject, DestinationPort, NamespacedPod, PORT_RANGE, PolicyType,
};

/// How many rules of a direction, peers or protocols of a rule, networks or names of a peer there may be.
const ITEMS: usize = 25;

/// The highest priority number.
const LAST_PRIORITY: u16 = 1000;

/// How many characters the name of a rule may have.
const RULE_NAME: usize = 100;

pub(super) fn policy(policy: &ClusterNetworkPolicy, errors: &mut Errors) {
    let path = Path::root().field("spec");
    let spec = &policy.spec;
    if spec.priority > LAST_PRIORITY {
        errors.push(FieldError::invalid(path.field("priority"), &spec.priority, "must be between 0 and 1000"));
    }
    let subject = path.field("subject");
    match &spec.subject {
        ClusterNetworkPolicySubject::Namespaces(namespaces) => {
            selector(namespaces, &subject.field("namespaces"), errors);
        }
        ClusterNetworkPolicySubject::Pods(pods) => namespaced_pods(pods, &subject.field("pods"), errors),
    }
    at_most(spec.ingress.len(), &path.field("ingress"), errors);
    for (index, rule) in spec.ingress.iter().enumerate() {
        let rule = Rule {
            direction: PolicyType::Ingress,
            name: &rule.name,
            action: rule.action,
            peers: &rule.from,
            protocols: &rule.protocols,
        };
        rule.check(&path.field("ingress").index(index), errors);
    }
    at_most(spec.egress.len(), &path.field("egress"), errors);
    for (index, rule) in spec.egress.iter().enumerate() {
        let rule = Rule {
            direction: PolicyType::Egress,
            name: &rule.name,
            action: rule.action,
            peers: &rule.to,
            protocols: &rule.protocols,
        };
        rule.check(&path.field("egress").index(index), errors);
    }
}

/// A rule of either direction.
struct Rule<'a> {
    direction: PolicyType,
    name: &'a str,
    action: ClusterNetworkPolicyAction,
    peers: &'a [ClusterNetworkPolicyPeer],
    protocols: &'a [ClusterNetworkPolicyProtocol],
}

impl Rule<'_> {
    fn check(&self, path: &Path, errors: &mut Errors) {
        if self.name.chars().count() > RULE_NAME {
            let remedy = format!("may not be longer than {RULE_NAME} characters");
            errors.push(FieldError::invalid(path.field("name"), self.name, &remedy));
        }
        let peers = path.field(match self.direction {
            PolicyType::Ingress => "from",
            PolicyType::Egress => "to",
        });
        if self.peers.is_empty() {
            let remedy = "must have one peer at least: `namespaces: {}` is every pod";
            errors.push(FieldError::required(peers.clone(), remedy));
        }
        at_most(self.peers.len(), &peers, errors);
        for (index, peer) in self.peers.iter().enumerate() {
            self.peer(peer, &peers.index(index), errors);
        }
        let protocols = path.field("protocols");
        at_most(self.protocols.len(), &protocols, errors);
        for (index, one) in self.protocols.iter().enumerate() {
            protocol(one, &protocols.index(index), errors);
        }
        self.named_ports_are_of_pods(path, errors);
    }

    fn peer(&self, peer: &ClusterNetworkPolicyPeer, path: &Path, errors: &mut Errors) {
        let (field, items) = match peer {
            ClusterNetworkPolicyPeer::Namespaces(namespaces) => {
                return selector(namespaces, &path.field("namespaces"), errors);
            }
            ClusterNetworkPolicyPeer::Pods(pods) => return namespaced_pods(pods, &path.field("pods"), errors),
            ClusterNetworkPolicyPeer::Networks(networks) => ("networks", networks.len()),
            ClusterNetworkPolicyPeer::DomainNames(domains) => {
                self.domain_names(domains, &path.field("domainNames"), errors);
                ("domainNames", domains.len())
            }
        };
        let path = path.field(field);
        if self.direction == PolicyType::Ingress {
            errors.push(FieldError::forbidden(path.clone(), "may be set in egress rules only: use namespaces or pods"));
        }
        if items == 0 {
            errors.push(FieldError::required(path.clone(), "must have one entry at least"));
        }
        at_most(items, &path, errors);
    }

    fn domain_names(&self, domains: &[String], path: &Path, errors: &mut Errors) {
        if self.action != ClusterNetworkPolicyAction::Accept {
            let remedy = "may be set in Accept rules only: deny networks in a rule behind it instead";
            errors.push(FieldError::forbidden(path.clone(), remedy));
        }
        for (index, domain) in domains.iter().enumerate() {
            errors.check(path.index(index), domain, names::domain(domain));
        }
    }

    /// Only pods have ports with names.
    fn named_ports_are_of_pods(&self, path: &Path, errors: &mut Errors) {
        let has_others = self.peers.iter().any(|peer| {
            matches!(peer, ClusterNetworkPolicyPeer::Networks(_) | ClusterNetworkPolicyPeer::DomainNames(_))
        });
        for (index, protocol) in self.protocols.iter().enumerate() {
            if let ClusterNetworkPolicyProtocol::DestinationNamedPort(name) = protocol
                && has_others
            {
                let path = path.field("protocols").index(index).field("destinationNamedPort");
                let remedy = "only pods have ports with names: make a rule without `networks` and `domainNames`";
                errors.push(FieldError::invalid(path, name, remedy));
            }
        }
    }
}

fn namespaced_pods(pods: &NamespacedPod, path: &Path, errors: &mut Errors) {
    selector(&pods.namespace_selector, &path.field("namespaceSelector"), errors);
    selector(&pods.pod_selector, &path.field("podSelector"), errors);
}

fn protocol(protocol: &ClusterNetworkPolicyProtocol, path: &Path, errors: &mut Errors) {
    let (field, ports) = match protocol {
        ClusterNetworkPolicyProtocol::Tcp(ports) => ("tcp", ports),
        ClusterNetworkPolicyProtocol::Udp(ports) => ("udp", ports),
        ClusterNetworkPolicyProtocol::Sctp(ports) => ("sctp", ports),
        ClusterNetworkPolicyProtocol::DestinationNamedPort(name) => {
            return errors.check(path.field("destinationNamedPort"), name, names::port_name(name));
        }
    };
    let path = path.field(field).field("destinationPort");
    match ports.destination_port {
        DestinationPort::Number(0) => errors.push(FieldError::invalid(path.field("number"), &0, PORT_RANGE)),
        DestinationPort::Number(_) => {}
        DestinationPort::Range(range) => {
            let path = path.field("range");
            if range.start == 0 {
                errors.push(FieldError::invalid(path.field("start"), &0, PORT_RANGE));
            }
            if range.end <= range.start {
                let remedy = format!("must be greater than `start` ({}); one port is a `number`", range.start);
                errors.push(FieldError::invalid(path.field("end"), &range.end, &remedy));
            }
        }
    }
}

fn at_most(items: usize, path: &Path, errors: &mut Errors) {
    if items > ITEMS {
        errors.push(FieldError::new(path.clone(), format!("Too many: {items}: must have at most {ITEMS} items")));
    }
}
