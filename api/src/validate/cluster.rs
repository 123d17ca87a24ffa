//! Pod and Node: only what would mislead us, as the kubelet and the API server answer for the rest.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Errors, names};
use crate::field::{FieldError, Path};
use crate::k8s::{Container, Node, PORT_RANGE, Pod, reported_addresses};

pub(super) fn pod(pod: &Pod, errors: &mut Errors) {
    let path = Path::root().field("spec");
    containers(&pod.spec.containers, &path.field("containers"), errors);
    containers(&pod.spec.init_containers, &path.field("initContainers"), errors);
    if let Some(node) = pod.spec.node_name.as_deref().filter(|node| !node.is_empty()) {
        errors.check(path.field("nodeName"), node, names::dns_subdomain(node));
    }
    errors.note(pod.pinned_addresses());
    errors.note(reported_addresses(&pod.metadata.annotations));
}

fn containers(containers: &[Container], list: &Path, errors: &mut Errors) {
    for (index, container) in containers.iter().enumerate() {
        let ports = list.index(index).field("ports");
        let mut seen = BTreeSet::new();
        for (index, port) in container.ports.iter().enumerate() {
            let path = ports.index(index);
            if port.container_port == 0 {
                errors.push(FieldError::invalid(path.field("containerPort"), &port.container_port, PORT_RANGE));
            }
            let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) else { continue };
            errors.check(path.field("name"), name, names::port_name(name));
            if !seen.insert(name) {
                errors.push(FieldError::duplicate(path.field("name"), name));
            }
        }
    }
}

pub(super) fn node(node: &Node, errors: &mut Errors) {
    errors.note(node.checked_network(true));
    errors.note(node.checked_network(false));
    errors.note(node.as_number());
    errors.note(node.cluster_id());
    for (index, entry) in node.status.addresses.iter().enumerate() {
        if matches!(entry.kind.as_str(), "InternalIP" | "ExternalIP") && entry.address.parse::<IpAddr>().is_err() {
            let path = Path::root().field("status").field("addresses").index(index).field("address");
            errors.push(FieldError::invalid(path, &entry.address, "must be an IP address, such as 172.31.0.2"));
        }
    }
}
