//! The `projectcalico.org/v3` kinds: Calico's own rules, and what this version does not do yet, refused rather than ignored.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{Ipv4Addr, Ipv6Addr};

use super::Errors;
use crate::calico::{BgpConfiguration, EncapMode, IpPool, IpPoolSpec, IpamBlock};
use crate::field::{FieldError, Path};

/// Log levels that Calico takes, in any case.
const LOG_LEVELS: [&str; 6] = ["Trace", "Debug", "Info", "Warning", "Error", "Fatal"];

const ALLOWED_USES: [&str; 3] = ["Workload", "Tunnel", "LoadBalancer"];

pub(super) fn ip_pool(pool: &IpPool, errors: &mut Errors) {
    let path = Path::root().field("spec");
    let spec = &pool.spec;
    block_size(spec, &path, errors);
    if let Some((range, what)) = link_local(&spec.cidr) {
        let remedy = format!("must not overlap with the {what} link-local range {range}");
        errors.push(FieldError::invalid(path.field("cidr"), &spec.cidr, &remedy));
    }
    for (field, mode) in [("ipipMode", spec.ipip_mode), ("vxlanMode", spec.vxlan_mode)] {
        if mode != EncapMode::Never {
            let remedy = "encapsulation is not supported by this version: use \"Never\"";
            errors.push(FieldError::invalid(path.field(field), &mode, remedy));
        }
    }
    for (field, selector) in [("nodeSelector", &spec.node_selector), ("namespaceSelector", &spec.namespace_selector)] {
        if let Some(selector) = selector
            && !matches!(selector.trim(), "" | "all()")
        {
            let remedy = "selectors other than all() are not supported by this version: use \"all()\"";
            errors.push(FieldError::invalid(path.field(field), selector, remedy));
        }
    }
    for (index, usage) in spec.allowed_uses.iter().enumerate() {
        if !ALLOWED_USES.contains(&usage.as_str()) {
            errors.push(FieldError::not_supported(path.field("allowedUses").index(index), usage, &ALLOWED_USES));
        }
    }
    if spec.allowed_uses.iter().any(|usage| usage == "LoadBalancer") {
        if spec.disable_bgp_export {
            let remedy = "a pool for LoadBalancer must be exported: use false";
            errors.push(FieldError::invalid(path.field("disableBGPExport"), &true, remedy));
        }
        if spec.allowed_uses.len() > 1 {
            let remedy = "LoadBalancer may not be combined with other uses: make a pool of its own";
            errors.push(FieldError::invalid(path.field("allowedUses"), &spec.allowed_uses, remedy));
        }
    }
}

fn block_size(spec: &IpPoolSpec, path: &Path, errors: &mut Errors) {
    let (smallest, largest) = if spec.cidr.addr().is_ipv4() { (20, 32) } else { (116, 128) };
    let size = spec.effective_block_size();
    let path = path.field("blockSize");
    if !(smallest..=largest).contains(&size) {
        errors.push(FieldError::invalid(path, &size, &format!("must be between {smallest} and {largest}")));
    } else if spec.cidr.prefix_len() > size && !spec.disabled {
        // Nobody takes a block from a disabled pool: such pools describe ranges to be left without NAT.
        let remedy =
            format!("a block must fit into the pool ({}): use a value from {} on", spec.cidr, spec.cidr.prefix_len());
        errors.push(FieldError::invalid(path, &size, &remedy));
    }
}

fn link_local(cidr: &IpNet) -> Option<(IpNet, &'static str)> {
    let ranges = [
        (Ipv4Net::new(Ipv4Addr::new(169, 254, 0, 0), 16).ok().map(IpNet::V4), "IPv4"),
        (Ipv6Net::new(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10).ok().map(IpNet::V6), "IPv6"),
    ];
    ranges
        .into_iter()
        .filter_map(|(range, what)| Some((range?, what)))
        .find(|(range, _)| range.contains(cidr) || cidr.contains(range))
}

pub(super) fn bgp_configuration(configuration: &BgpConfiguration, errors: &mut Errors) {
    let path = Path::root().field("spec");
    let spec = &configuration.spec;
    let name = &configuration.metadata.name;
    if let Some(level) = spec.log_severity_screen.as_deref().filter(|level| !level.is_empty())
        && !LOG_LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level))
    {
        errors.push(FieldError::not_supported(path.field("logSeverityScreen"), level, &LOG_LEVELS));
    }
    if spec.listen_port == Some(0) {
        errors.push(FieldError::invalid(path.field("listenPort"), &0, crate::k8s::PORT_RANGE));
    }
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

pub(super) fn ipam_block(block: &IpamBlock, errors: &mut Errors) {
    let path = Path::root().field("spec");
    let spec = &block.spec;
    let size = 1_u128.checked_shl(u32::from(spec.cidr.max_prefix_len() - spec.cidr.prefix_len()));
    if size.is_none_or(|size| spec.allocations.len() as u128 != size) {
        let remedy = format!("must have one entry for each address of {}", spec.cidr);
        errors.push(FieldError::invalid(path.field("allocations"), &spec.allocations.len(), &remedy));
    }
    for (ordinal, holder) in spec.allocations.iter().enumerate() {
        if let Some(holder) = holder.filter(|holder| *holder >= spec.attributes.len()) {
            errors.push(FieldError::invalid(
                path.field("allocations").index(ordinal),
                &holder,
                "must be an index into `attributes`",
            ));
        }
    }
    for (index, ordinal) in spec.unallocated.iter().enumerate() {
        if spec.allocations.get(*ordinal).is_none_or(Option::is_some) {
            let remedy = "must be the ordinal of a free address";
            errors.push(FieldError::invalid(path.field("unallocated").index(index), ordinal, remedy));
        }
    }
}
