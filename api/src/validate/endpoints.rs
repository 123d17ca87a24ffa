//! Network sets, host endpoints and profiles.

use super::rule::{Place, rules};
use super::{Errors, labels, names};
use crate::calico::{HostEndpoint, NetworkSet, Profile};
use crate::field::{FieldError, Path};
use crate::k8s::PORT_RANGE;

/// The label that every object of a namespace has for selectors: it is not for people to set.
const NAMESPACE_LABEL: &str = "projectcalico.org/namespace";

pub(super) fn network_set(set: &NetworkSet, errors: &mut Errors) {
    if let Some(value) = set.metadata.labels.get(NAMESPACE_LABEL) {
        let path = Path::root().field("metadata").field("labels").key(NAMESPACE_LABEL);
        let remedy = "this label is set by the namespace that an object is in: remove it";
        errors.push(FieldError::invalid(path, value, remedy));
    }
}

pub(super) fn host_endpoint(endpoint: &HostEndpoint, errors: &mut Errors) {
    let path = Path::root().field("spec");
    let spec = &endpoint.spec;
    if spec.node.is_empty() {
        errors.push(FieldError::required(path.field("node"), "the name of the node whose interface it is"));
    } else {
        errors.check(path.field("node"), &spec.node, names::dns_subdomain(&spec.node));
    }
    match &spec.interface_name {
        Some(interface) if interface != "*" => {
            errors.check(path.field("interfaceName"), interface, names::interface(interface));
        }
        None if spec.expected_ips.is_empty() => {
            let remedy = "name the interface ('*' for all of the node), or set `expectedIPs` to find it by";
            errors.push(FieldError::required(path.field("interfaceName"), remedy));
        }
        _ => {}
    }
    for (index, profile) in spec.profiles.iter().enumerate() {
        errors.check(path.field("profiles").index(index), profile, names::dns_subdomain(profile));
    }
    for (index, port) in spec.ports.iter().enumerate() {
        let path = path.field("ports").index(index);
        errors.check(path.field("name"), &port.name, names::port_name(&port.name));
        if !port.protocol.has_ports() {
            let remedy = "has no ports: use TCP, UDP or SCTP";
            errors.push(FieldError::invalid(path.field("protocol"), &port.protocol, remedy));
        }
        if port.port == 0 {
            errors.push(FieldError::invalid(path.field("port"), &port.port, PORT_RANGE));
        }
    }
}

pub(super) fn profile(profile: &Profile, errors: &mut Errors) {
    let path = Path::root().field("spec");
    let spec = &profile.spec;
    let place = Place { direction: None, namespaced: false };
    rules(&spec.ingress, place, &path.field("ingress"), errors);
    rules(&spec.egress, place, &path.field("egress"), errors);
    labels(&spec.labels_to_apply, &path.field("labelsToApply"), errors);
}
