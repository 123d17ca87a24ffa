//! The `projectcalico.org/v3` kinds: Calico's own rules, and what this version does not do yet, refused rather than ignored.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{Ipv4Addr, Ipv6Addr};

use super::Errors;
use crate::calico::{EncapMode, IpPool, IpPoolSpec};
use crate::field::{FieldError, Path};
use crate::selector::Selector;

const ALLOWED_USES: [&str; 3] = ["Workload", "Tunnel", "LoadBalancer"];

pub(super) fn ip_pool(pool: &IpPool, errors: &mut Errors) {
    let path = Path::root().field("spec");
    let spec = &pool.spec;
    block_size(spec, &path, errors);
    if let Some((range, what)) = link_local(&spec.cidr) {
        let remedy = format!("must not overlap with the {what} link-local range {range}");
        errors.push(FieldError::invalid(path.field("cidr"), &spec.cidr, &remedy));
    }
    encapsulation(spec, &path, errors);
    pool_selectors(spec, &path, errors);
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

fn encapsulation(spec: &IpPoolSpec, path: &Path, errors: &mut Errors) {
    let is_for_services = spec.allowed_uses.iter().any(|usage| usage == "LoadBalancer");
    for (field, mode) in [("ipipMode", spec.ipip_mode), ("vxlanMode", spec.vxlan_mode)] {
        let remedy = match mode {
            EncapMode::Never => continue,
            _ if is_for_services => "must be \"Never\" in a pool for LoadBalancer: no pod has its addresses",
            _ if field == "ipipMode" && spec.cidr.addr().is_ipv6() => {
                "IPIP carries IPv4 only: use vxlanMode, or \"Never\""
            }
            _ if field == "vxlanMode" && spec.ipip_mode != EncapMode::Never => {
                "may not be set beside ipipMode: make one of them \"Never\""
            }
            _ => continue,
        };
        errors.push(FieldError::invalid(path.field(field), &mode, remedy));
    }
}

fn pool_selectors(spec: &IpPoolSpec, path: &Path, errors: &mut Errors) {
    let only = |usage: &str| spec.allowed_uses.iter().any(|other| other == usage) && !spec.allows_workloads();
    for (field, selector, limited) in [
        ("nodeSelector", &spec.node_selector, only("LoadBalancer").then_some("LoadBalancer")),
        ("namespaceSelector", &spec.namespace_selector, only("Tunnel").then_some("Tunnel")),
    ] {
        let Some(text) = selector.as_deref().filter(|text| !text.is_empty()) else { continue };
        let remedy = match (Selector::parse(text), limited) {
            (Err(error), _) => error.to_string(),
            (Ok(selector), _) if selector.mentions_global() => {
                "must not have global(), which is for policies: write what labels must be".to_owned()
            }
            (Ok(selector), Some(usage)) if !selector.is_all() => {
                format!("must be all() in a pool for {usage}, which has no use for it")
            }
            (Ok(_), _) => continue,
        };
        errors.push(FieldError::invalid(path.field(field), text, &remedy));
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
