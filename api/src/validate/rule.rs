//! One rule of a Calico policy or profile: Calico's own rules about it.

use ipnet::IpNet;

use super::{Errors, annotation_keys, names};
use crate::calico::{EntityRule, Icmp, IpVersion, PolicyRule, RulePort, RuleProtocol};
use crate::field::{FieldError, Path};
use crate::k8s::{PORT_RANGE, PolicyType};

/// Where a rule stands, as far as it decides what the rule may say.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// Its direction, in a policy. A profile's rules may name Services at either end.
    pub(super) direction: Option<PolicyType>,
    /// Whether the policy has a namespace, which its Services then are of.
    pub(super) namespaced: bool,
}

pub(super) fn rules(rules: &[PolicyRule], place: Place, path: &Path, errors: &mut Errors) {
    for (index, one) in rules.iter().enumerate() {
        rule(one, place, &path.index(index), errors);
    }
}

fn rule(rule: &PolicyRule, place: Place, path: &Path, errors: &mut Errors) {
    let ends = [("source", &rule.source), ("destination", &rule.destination)];
    for (end, entity) in ends {
        entity_rule(entity, place, &path.field(end), errors);
        ports(entity, rule.protocol, &path.field(end), errors);
    }
    icmp(rule, path, errors);
    versions(rule, path, errors);
    services_by_direction(rule, place, path, errors);
    annotation_keys(&rule.metadata.annotations, &path.field("metadata").field("annotations"), errors);
}

/// Ports need a protocol that has such. Names of ports have one of their own.
fn ports(entity: &EntityRule, protocol: Option<RuleProtocol>, path: &Path, errors: &mut Errors) {
    for (field, ports) in [("ports", &entity.ports), ("notPorts", &entity.not_ports)] {
        let list = path.field(field);
        for (index, port) in ports.iter().enumerate() {
            match port {
                RulePort::Range(0, _) => {
                    errors.push(FieldError::invalid(list.index(index), port, PORT_RANGE));
                }
                RulePort::Range(..) if protocol.is_none() => {
                    let remedy =
                        "a rule with port numbers must say of which protocol: set `protocol` to TCP, UDP or SCTP";
                    errors.push(FieldError::invalid(list.index(index), port, remedy));
                }
                RulePort::Range(..) => {}
                RulePort::Named(name) => errors.check(list.index(index), name, port_name(name)),
            }
        }
        if let Some(protocol) = protocol.filter(|protocol| !protocol.has_ports() && !ports.is_empty()) {
            let remedy =
                format!("protocol {protocol} has no ports: set `protocol` to TCP, UDP or SCTP, or remove `{field}`");
            errors.push(FieldError::invalid(list, ports, &remedy));
        }
    }
}

/// A name of a port, where people mean a range now and then.
fn port_name(name: &str) -> Result<(), String> {
    names::port_name(name).map_err(|reason| {
        let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match name.split_once('-').filter(|(first, last)| number(first) && number(last)) {
            Some((first, last)) => {
                format!("{reason}: a range of ports is written with a colon, such as \"{first}:{last}\"")
            }
            None => reason,
        }
    })
}

fn icmp(rule: &PolicyRule, path: &Path, errors: &mut Errors) {
    if let Some(fields) = rule.icmp {
        icmp_fields(fields, &path.field("icmp"), errors);
        if !matches!(rule.protocol, Some(RuleProtocol::ICMP | RuleProtocol::ICMPV6)) {
            let remedy = "a rule with `icmp` must set `protocol` to ICMP or ICMPv6";
            errors.push(FieldError::invalid(path.field("icmp"), &fields, remedy));
        }
    }
    if let Some(fields) = rule.not_icmp {
        icmp_fields(fields, &path.field("notICMP"), errors);
    }
    for (field, protocol) in [("protocol", rule.protocol), ("notProtocol", rule.not_protocol)] {
        let needed = match protocol {
            Some(RuleProtocol::ICMP) => IpVersion::V4,
            Some(RuleProtocol::ICMPV6) => IpVersion::V6,
            _ => continue,
        };
        if let Some(version) = rule.ip_version.filter(|version| *version != needed) {
            let remedy = format!("`{field}` is of IP version {}: set `ipVersion` to it, or remove it", needed.number());
            errors.push(FieldError::invalid(path.field("ipVersion"), &version, &remedy));
        }
    }
}

fn icmp_fields(fields: Icmp, path: &Path, errors: &mut Errors) {
    if fields.kind == Some(u8::MAX) {
        errors.push(FieldError::invalid(path.field("type"), &fields.kind, "must be between 0 and 254"));
    }
    if let Some(code) = fields.code.filter(|_| fields.kind.is_none()) {
        errors.push(FieldError::invalid(path.field("code"), &code, "may only be set with a `type`: add the type"));
    }
}

/// All networks of a rule are of one version of IP, and of the one that it names.
fn versions(rule: &PolicyRule, path: &Path, errors: &mut Errors) {
    let lists = [
        ("source", "nets", &rule.source.nets),
        ("source", "notNets", &rule.source.not_nets),
        ("destination", "nets", &rule.destination.nets),
        ("destination", "notNets", &rule.destination.not_nets),
    ];
    let mut first: Option<(IpVersion, &IpNet)> = None;
    for (end, field, nets) in lists {
        let list = path.field(end).field(field);
        for (index, net) in nets.iter().enumerate() {
            let version = IpVersion::of(net);
            let path = list.index(index);
            let (_, known) = *first.get_or_insert((version, net));
            if IpVersion::of(known) != version {
                let remedy = format!("must be of the same IP version as {known}: make a rule for each version");
                errors.push(FieldError::invalid(path.clone(), net, &remedy));
            } else if let Some(wanted) = rule.ip_version.filter(|wanted| *wanted != version) {
                let remedy = format!("must be of IP version {}, as `ipVersion` says", wanted.number());
                errors.push(FieldError::invalid(path.clone(), net, &remedy));
            }
            if field == "notNets" && net.prefix_len() == 0 {
                let remedy = "leaves no address that the rule could match: remove the rule, or name smaller networks";
                errors.push(FieldError::invalid(path, net, remedy));
            }
        }
    }
}

fn entity_rule(entity: &EntityRule, place: Place, path: &Path, errors: &mut Errors) {
    if let Some(selector) = entity.selector.as_ref().filter(|selector| selector.mentions_global()) {
        let remedy = "global() may only be used as a rule's `namespaceSelector`";
        errors.push(FieldError::invalid(path.field("selector"), selector, remedy));
    }
    if let Some(selector) = &entity.namespace_selector
        && selector.mentions_global()
        && !selector.is_global()
    {
        let remedy = "global() may not be combined with other expressions: make a rule for each";
        errors.push(FieldError::invalid(path.field("namespaceSelector"), selector, remedy));
    }
    if let Some(accounts) = &entity.service_accounts {
        for (index, name) in accounts.names.iter().enumerate() {
            let path = path.field("serviceAccounts").field("names").index(index);
            errors.check(path, name, names::dns_subdomain(name));
        }
    }
    let Some(service) = &entity.services else { return };
    let services = path.field("services");
    if service.name.is_empty() {
        errors.push(FieldError::required(services.field("name"), "the name of a Service"));
    } else {
        errors.check(services.field("name"), &service.name, names::dns_subdomain(&service.name));
    }
    match &service.namespace {
        Some(namespace) => errors.check(services.field("namespace"), namespace, names::dns_subdomain(namespace)),
        None if !place.namespaced => {
            let remedy = "the policy is in no namespace: name that of the Service";
            errors.push(FieldError::required(services.field("namespace"), remedy));
        }
        None => {}
    }
    let others = [
        ("namespaceSelector", entity.namespace_selector.is_some()),
        ("selector", entity.selector.is_some()),
        ("notSelector", entity.not_selector.is_some()),
        ("serviceAccounts", entity.service_accounts.is_some()),
        ("nets", !entity.nets.is_empty()),
        ("notNets", !entity.not_nets.is_empty()),
    ];
    for (field, _) in others.into_iter().filter(|(_, is_set)| *is_set) {
        let remedy = "may not be set beside `services`, which says itself who is meant: make two rules";
        errors.push(FieldError::forbidden(path.field(field), remedy));
    }
}

/// A Service is who traffic goes to in egress rules, and who it comes from in ingress rules. The ports it goes to are the Service's.
fn services_by_direction(rule: &PolicyRule, place: Place, path: &Path, errors: &mut Errors) {
    let misplaced = match place.direction {
        Some(PolicyType::Egress) => Some(("source", &rule.source)),
        Some(PolicyType::Ingress) => Some(("destination", &rule.destination)),
        None => None,
    };
    if let Some((end, _)) = misplaced.filter(|(_, entity)| entity.services.is_some()) {
        let remedy =
            "a rule names a Service as the other end of the traffic: `destination` in egress, `source` in ingress";
        errors.push(FieldError::forbidden(path.field(end).field("services"), remedy));
    }
    if rule.destination.services.is_some() {
        for (field, ports) in [("ports", &rule.destination.ports), ("notPorts", &rule.destination.not_ports)] {
            if !ports.is_empty() {
                let remedy = "may not be set beside `services`: the ports are those of the Service's endpoints";
                errors.push(FieldError::forbidden(path.field("destination").field(field), remedy));
            }
        }
    }
}
