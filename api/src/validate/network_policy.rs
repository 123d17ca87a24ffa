//! `networking.k8s.io/v1 NetworkPolicy`: every rule of the API server's own validation.

use ipnet::IpNet;

use super::{Errors, names, selector};
use crate::field::{FieldError, Path};
use crate::k8s::{IpBlock, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec, PORT_RANGE, PortOrName};

pub(super) fn spec(spec: &NetworkPolicySpec, errors: &mut Errors) {
    let path = Path::root().field("spec");
    selector(&spec.pod_selector, &path.field("podSelector"), errors);
    for (index, rule) in spec.ingress.iter().enumerate() {
        let path = path.field("ingress").index(index);
        ports(&rule.ports, &path, errors);
        peers(&rule.from, &path.field("from"), errors);
    }
    for (index, rule) in spec.egress.iter().enumerate() {
        let path = path.field("egress").index(index);
        ports(&rule.ports, &path, errors);
        peers(&rule.to, &path.field("to"), errors);
    }
    if spec.policy_types.len() > 2 {
        let path = path.field("policyTypes");
        errors.push(FieldError::invalid(path, &spec.policy_types, "may not specify more than two policyTypes"));
    }
}

fn ports(ports: &[NetworkPolicyPort], rule: &Path, errors: &mut Errors) {
    for (index, port) in ports.iter().enumerate() {
        let path = rule.field("ports").index(index);
        let end = path.field("endPort");
        match &port.port {
            Some(PortOrName::Number(number)) => {
                if *number == 0 {
                    errors.push(FieldError::invalid(path.field("port"), number, PORT_RANGE));
                }
                if let Some(last) = port.end_port
                    && last < *number
                {
                    let remedy = format!("must be greater than or equal to port ({number})");
                    errors.push(FieldError::invalid(end, &last, &remedy));
                } else if port.end_port == Some(0) {
                    errors.push(FieldError::invalid(end, &0, PORT_RANGE));
                }
            }
            Some(PortOrName::Name(name)) => {
                errors.check(path.field("port"), name, names::port_name(name));
                if let Some(last) = port.end_port {
                    let remedy = "may not be specified when `port` is a name: write its number";
                    errors.push(FieldError::invalid(end, &last, remedy));
                }
            }
            None => {
                if let Some(last) = port.end_port {
                    let remedy = "may not be specified when `port` is not: add the first port of the range";
                    errors.push(FieldError::invalid(end, &last, remedy));
                }
            }
        }
    }
}

fn peers(peers: &[NetworkPolicyPeer], list: &Path, errors: &mut Errors) {
    for (index, peer) in peers.iter().enumerate() {
        let path = list.index(index);
        if let Some(pods) = &peer.pod_selector {
            selector(pods, &path.field("podSelector"), errors);
        }
        if let Some(namespaces) = &peer.namespace_selector {
            selector(namespaces, &path.field("namespaceSelector"), errors);
        }
        let selects = peer.pod_selector.is_some() || peer.namespace_selector.is_some();
        match &peer.ip_block {
            Some(_) if selects => {
                errors
                    .push(FieldError::forbidden(path, "may not specify both ipBlock and another peer: make two peers"));
            }
            Some(block) => ip_block(block, &path.field("ipBlock"), errors),
            None if !selects => {
                let remedy =
                    "must specify a peer: podSelector, namespaceSelector or ipBlock ({} as a selector selects all)";
                errors.push(FieldError::required(path, remedy));
            }
            None => {}
        }
    }
}

fn ip_block(block: &IpBlock, path: &Path, errors: &mut Errors) {
    for (index, except) in block.except.iter().enumerate() {
        if !is_strictly_within(except, &block.cidr) {
            let remedy = format!("must be a strict subset of `cidr` ({})", block.cidr);
            errors.push(FieldError::invalid(path.field("except").index(index), except, &remedy));
        }
    }
}

fn is_strictly_within(inner: &IpNet, outer: &IpNet) -> bool {
    outer.contains(inner) && inner.prefix_len() > outer.prefix_len()
}
