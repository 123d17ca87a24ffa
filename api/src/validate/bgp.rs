//! BGPConfiguration, BGPPeer and BGPFilter: Calico's own rules.

use super::{Errors, names};
use crate::calico::{
    BgpConfiguration, BgpConfigurationSpec, BgpFilter, BgpFilterAction, BgpFilterRule, BgpPassword, BgpPeer, Community,
};
use crate::field::{FieldError, Path};
use crate::k8s::PORT_RANGE;

/// Log levels that Calico takes, in any case.
const LOG_LEVELS: [&str; 6] = ["Trace", "Debug", "Info", "Warning", "Error", "Fatal"];

/// Priorities are metrics of the kernel's, the last of which means that there is no route.
pub(crate) const PRIORITIES: std::ops::RangeInclusive<u32> = 1..=2_147_483_646;

/// The most changes of one route.
const OPERATIONS: usize = 10;

/// A name of an interface, in which `*` stands for whatever is there.
pub(crate) const INTERFACE_PATTERN: &str = "must be the name of an interface: at most 15 letters, digits, '-', '_' and '.', with '*' for \
                                            whatever is there, such as eth*";

pub(super) fn configuration(configuration: &BgpConfiguration, errors: &mut Errors) {
    let path = Path::root().field("spec");
    let spec = &configuration.spec;
    let name = &configuration.metadata.name;
    if let Some(level) = spec.log_severity_screen.as_deref().filter(|level| !level.is_empty())
        && !LOG_LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level))
    {
        errors.push(FieldError::not_supported(path.field("logSeverityScreen"), level, &LOG_LEVELS));
    }
    if spec.listen_port == Some(0) {
        errors.push(FieldError::invalid(path.field("listenPort"), &0, PORT_RANGE));
    }
    for (field, priority) in [
        ("ipv4NormalRoutePriority", spec.ipv4_normal_route_priority),
        ("ipv6NormalRoutePriority", spec.ipv6_normal_route_priority),
    ] {
        check_priority(priority, &path.field(field), errors);
    }
    for (index, interface) in spec.ignored_interfaces.iter().enumerate() {
        let path = path.field("ignoredInterfaces").index(index);
        if interface == "*" {
            let remedy = "would leave no interface: name those that are to be ignored";
            errors.push(FieldError::invalid(path, interface, remedy));
        } else {
            errors.check(path, interface, interface_pattern(interface));
        }
    }
    mesh(spec, &path, errors);
    communities(spec, &path, errors);
    if name.starts_with("node.") {
        let forbidden = [
            ("nodeToNodeMeshEnabled", spec.node_to_node_mesh_enabled.is_some()),
            ("asNumber", spec.as_number.is_some()),
        ];
        for (field, _) in forbidden.into_iter().filter(|(_, set)| *set) {
            let remedy = "may only be set in the BGPConfiguration \"default\"";
            errors.push(FieldError::forbidden(path.field(field), remedy));
        }
    } else if name != "default" && !name.is_empty() {
        let remedy = "must be \"default\", or \"node.NAME\" for one node";
        errors.push(FieldError::invalid(Path::root().field("metadata").field("name"), name, remedy));
    }
}

/// What is about the mesh has no place where there is none.
fn mesh(spec: &BgpConfigurationSpec, path: &Path, errors: &mut Errors) {
    if let Some(password) = &spec.node_mesh_password {
        check_password(password, &path.field("nodeMeshPassword"), errors);
    }
    let set = [
        ("nodeMeshPassword", spec.node_mesh_password.is_some()),
        ("nodeMeshMaxRestartTime", spec.node_mesh_max_restart_time.is_some()),
    ];
    for (field, _) in set.into_iter().filter(|(_, set)| *set && spec.node_to_node_mesh_enabled == Some(false)) {
        let remedy = "may not be set where `nodeToNodeMeshEnabled` is false: remove it, or make the mesh";
        errors.push(FieldError::forbidden(path.field(field), remedy));
    }
}

fn communities(spec: &BgpConfigurationSpec, path: &Path, errors: &mut Errors) {
    let list = path.field("communities");
    if !spec.communities.is_empty() && spec.prefix_advertisements.is_empty() {
        let remedy = "have no use without `prefixAdvertisements`: say which prefixes are told with them";
        errors.push(FieldError::forbidden(list.clone(), remedy));
    }
    for (index, community) in spec.communities.iter().enumerate() {
        if community.name.is_empty() {
            errors.push(FieldError::required(list.index(index).field("name"), "a name to refer to it by"));
        }
    }
    for (index, advertisement) in spec.prefix_advertisements.iter().enumerate() {
        let list = path.field("prefixAdvertisements").index(index).field("communities");
        if advertisement.communities.is_empty() {
            errors.push(FieldError::required(
                list.clone(),
                "one community at least: a value such as 64512:100, or a name",
            ));
        }
        for (index, text) in advertisement.communities.iter().enumerate() {
            if text.parse::<Community>().is_err() && !spec.communities.iter().any(|known| known.name == *text) {
                let remedy =
                    "must be a community such as 64512:100 or 64512:1:2, or the name of one in `spec.communities`";
                errors.push(FieldError::invalid(list.index(index), text, remedy));
            }
        }
    }
}

fn check_password(password: &BgpPassword, path: &Path, errors: &mut Errors) {
    let Some(secret) = &password.secret_key_ref else { return };
    let path = path.field("secretKeyRef");
    if secret.key.is_empty() {
        errors.push(FieldError::required(path.field("key"), "the Secret's entry with the password"));
    }
    if !secret.name.is_empty() {
        errors.check(path.field("name"), &secret.name, names::dns_subdomain(&secret.name));
    }
}

fn check_priority(priority: Option<u32>, path: &Path, errors: &mut Errors) {
    if let Some(priority) = priority.filter(|priority| !PRIORITIES.contains(priority)) {
        errors.push(FieldError::invalid(path.clone(), &priority, "must be between 1 and 2147483646"));
    }
}

fn interface_pattern(text: &str) -> Result<(), String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-' | b'*');
    if (1..=15).contains(&text.len()) && text.bytes().all(plain) { Ok(()) } else { Err(INTERFACE_PATTERN.to_owned()) }
}

pub(super) fn peer(peer: &BgpPeer, errors: &mut Errors) {
    let path = Path::root().field("spec");
    let spec = &peer.spec;
    if let Some(node) = &spec.node {
        errors.check(path.field("node"), node, names::dns_subdomain(node));
    }
    for (index, filter) in spec.filters.iter().enumerate() {
        errors.check(path.field("filters").index(index), filter, names::dns_subdomain(filter));
    }
    if let Some(password) = &spec.password {
        check_password(password, &path.field("password"), errors);
    }
    let by_selector = spec.peer_selector.is_some();
    let by_pod = spec.local_workload_selector.is_some();
    for (field, is_wrong, remedy) in [
        (
            "nodeSelector",
            spec.node.is_some() && spec.node_selector.is_some(),
            "may not be set beside `node`: remove one of them",
        ),
        (
            "peerIP",
            spec.peer_ip.is_some() && by_selector,
            "may not be set beside `peerSelector`, which says itself who the peers are: remove one of them",
        ),
        (
            "asNumber",
            spec.as_number.is_some() && by_selector,
            "may not be set beside `peerSelector`: the peers' nodes have their AS numbers",
        ),
        ("peerSelector", by_selector && by_pod, "may not be set beside `localWorkloadSelector`: remove one of them"),
        (
            "peerIP",
            spec.peer_ip.is_some() && by_pod,
            "may not be set beside `localWorkloadSelector`, whose pods are the peers: remove one of them",
        ),
        (
            "keepOriginalNextHop",
            spec.keep_original_next_hop && spec.next_hop_mode.is_some(),
            "may not be set beside `nextHopMode`, which took its place: remove it",
        ),
    ] {
        if is_wrong {
            errors.push(FieldError::forbidden(path.field(field), remedy));
        }
    }
    if let Some(gateway) = &spec.reachable_by {
        let path = path.field("reachableBy");
        match spec.peer_ip {
            None => errors.push(FieldError::forbidden(path, "is the gateway to `peerIP`: set that too")),
            Some(peer) if peer.ip.is_ipv4() != gateway.is_ipv4() => {
                errors.push(FieldError::invalid(path, gateway, "must be of the same IP version as `peerIP`"));
            }
            Some(_) => {}
        }
    }
}

pub(super) fn filter(filter: &BgpFilter, errors: &mut Errors) {
    let path = Path::root().field("spec");
    let spec = &filter.spec;
    for (field, rules, bits) in [
        ("exportV4", &spec.export_v4, 32),
        ("importV4", &spec.import_v4, 32),
        ("exportV6", &spec.export_v6, 128),
        ("importV6", &spec.import_v6, 128),
    ] {
        for (index, rule) in rules.iter().enumerate() {
            filter_rule(rule, bits, &path.field(field).index(index), errors);
        }
    }
}

/// A rule of the family whose addresses have so many bits.
fn filter_rule(rule: &BgpFilterRule, bits: u8, path: &Path, errors: &mut Errors) {
    if let Some(cidr) = rule.cidr.filter(|cidr| cidr.max_prefix_len() != bits) {
        let version = if bits == 32 { 4 } else { 6 };
        errors.push(FieldError::invalid(path.field("cidr"), &cidr, &format!("must be of IP version {version}")));
    }
    let missing = match (rule.cidr.is_some(), rule.match_operator.is_some()) {
        (true, false) => Some(("matchOperator", "how routes are compared with `cidr`")),
        (false, true) => Some(("cidr", "what routes are compared with by `matchOperator`")),
        (true, true) | (false, false) => None,
    };
    if let Some((field, remedy)) = missing {
        errors.push(FieldError::required(path.field(field), remedy));
    }
    if let Some(length) = rule.prefix_length {
        let path = path.field("prefixLength");
        if rule.cidr.is_none() {
            errors.push(FieldError::forbidden(path.clone(), "is about routes within `cidr`: set that too"));
        }
        for (field, value) in [("min", length.min), ("max", length.max)] {
            if let Some(value) = value.filter(|value| *value > bits) {
                errors.push(FieldError::invalid(path.field(field), &value, &format!("must be between 0 and {bits}")));
            }
        }
    }
    if let Some(interface) = &rule.interface {
        errors.check(path.field("interface"), interface, interface_pattern(interface));
    }
    if let Some(communities) = rule.communities.as_ref().filter(|communities| communities.values.len() != 1) {
        let path = path.field("communities").field("values");
        errors.push(FieldError::invalid(
            path,
            &communities.values,
            "must be exactly one community: make a rule for each",
        ));
    }
    check_priority(rule.priority, &path.field("priority"), errors);
    operations(rule, &path.field("operations"), errors);
}

fn operations(rule: &BgpFilterRule, path: &Path, errors: &mut Errors) {
    use crate::calico::BgpFilterOperation::{AddCommunity, PrependAsPath, SetPriority};

    if rule.operations.is_empty() {
        return;
    }
    if rule.action != BgpFilterAction::Accept {
        let remedy = "may be set in Accept rules only: a route that is rejected goes nowhere";
        errors.push(FieldError::forbidden(path.clone(), remedy));
    }
    if rule.operations.len() > OPERATIONS {
        let message = format!("Too many: {}: must have at most {OPERATIONS} items", rule.operations.len());
        errors.push(FieldError::new(path.clone(), message));
    }
    for (index, operation) in rule.operations.iter().enumerate() {
        let path = path.index(index);
        match operation {
            PrependAsPath(prepend) if prepend.prefix.is_empty() => {
                let path = path.field("prependASPath").field("prefix");
                errors.push(FieldError::required(path, "one AS number at least"));
            }
            AddCommunity(_) | PrependAsPath(_) => {}
            SetPriority(set) => check_priority(Some(set.value), &path.field("setPriority").field("value"), errors),
        }
    }
}
