//! FelixConfiguration: what its types do not say, in Calico's own rules.

use super::Errors;
use crate::calico::FelixConfiguration;
use crate::calico::felix::RouteTableRange;
use crate::field::{FieldError, Path};
use crate::k8s::PORT_RANGE;

/// The stamps of allowed flows need this many bits of the conntrack mark, as Calico's marks do.
const MARK_BITS: u32 = 8;

/// The kernel's own limits of an interface's MTU for IPv4, in bytes; 0 asks for detection.
const MTU: std::ops::RangeInclusive<u32> = 68..=65_535;

pub(super) fn configuration(configuration: &FelixConfiguration, errors: &mut Errors) {
    let path = Path::root().field("spec");
    let spec = &configuration.spec;
    let name = &configuration.metadata.name;
    if spec.node_selector.is_some() && (name == "default" || name.starts_with("node.")) {
        let remedy =
            "must not be set on \"default\" nor on a node's own: give a configuration with a selector another name";
        errors.push(FieldError::forbidden(path.field("nodeSelector"), remedy));
    }
    if let Some(mask) = spec.nftables_mark_mask
        && mask.count_ones() < MARK_BITS
    {
        let remedy = "must have at least 8 bits set, such as 0xffff0000 (4294901760)";
        errors.push(FieldError::invalid(path.field("nftablesMarkMask"), &mask, remedy));
    }
    for (field, port) in [
        ("healthPort", spec.health_port),
        ("prometheusMetricsPort", spec.prometheus_metrics_port),
        ("vxlanPort", spec.vxlan_port),
        ("wireguardListeningPort", spec.wireguard_listening_port),
        ("wireguardListeningPortV6", spec.wireguard_listening_port_v6),
    ] {
        if port == Some(0) {
            errors.push(FieldError::invalid(path.field(field), &0, PORT_RANGE));
        }
    }
    if let Some(range) = spec.nat_port_range.filter(|range| range.min == 0) {
        errors.push(FieldError::invalid(path.field("natPortRange"), &range, PORT_RANGE));
    }
    for (field, mtu) in [
        ("ipipMTU", spec.ipip_mtu),
        ("vxlanMTU", spec.vxlan_mtu),
        ("vxlanMTUV6", spec.vxlan_mtu_v6),
        ("wireguardMTU", spec.wireguard_mtu),
        ("wireguardMTUV6", spec.wireguard_mtu_v6),
    ] {
        if let Some(mtu) = mtu.filter(|mtu| *mtu != 0 && !MTU.contains(mtu)) {
            errors.push(FieldError::invalid(
                path.field(field),
                &mtu,
                "must be between 68 and 65535, or 0 to find it out",
            ));
        }
    }
    for (field, host) in [("healthHost", &spec.health_host), ("prometheusMetricsHost", &spec.prometheus_metrics_host)] {
        if let Some(host) = host.as_deref().filter(|host| !is_host(host)) {
            errors.push(FieldError::invalid(path.field(field), host, "must be an IP address or localhost"));
        }
    }
    if let Some(selector) = &spec.iptables_nat_outgoing_interface_filter
        && selector.0 == "+"
    {
        let remedy = "must name an interface: remove the field to take all";
        errors.push(FieldError::invalid(path.field("iptablesNATOutgoingInterfaceFilter"), selector, remedy));
    }
    route_tables(configuration, &path, errors);
}

fn route_tables(configuration: &FelixConfiguration, path: &Path, errors: &mut Errors) {
    let spec = &configuration.spec;
    let is_range = |range: &RouteTableRange| range.min >= 1 && range.min <= range.max;
    if let Some(range) = spec.route_table_range
        && (!is_range(&range) || range.max > 250)
    {
        let remedy = "must be a range of route table indices within 1..250";
        errors.push(FieldError::invalid(path.field("routeTableRange"), &range, remedy));
    }
    for (index, range) in spec.route_table_ranges.iter().flatten().enumerate() {
        if !is_range(range) {
            let remedy = "min must be 1 or more, and not greater than max";
            errors.push(FieldError::invalid(path.field("routeTableRanges").index(index), range, remedy));
        }
    }
    if spec.route_table_range.is_some() && spec.route_table_ranges.is_some() {
        let remedy = "routeTableRange and routeTableRanges cannot both be set: remove routeTableRange";
        errors.push(FieldError::forbidden(path.field("routeTableRange"), remedy));
    }
}

fn is_host(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok()
}
