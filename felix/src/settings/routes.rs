//! What FelixConfiguration says about routes and about the interfaces that pods have, and what of it would do harm.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tortie_api::calico::felix::FelixConfigurationSpec;
use tortie_policy::{interface_prefixes, naming_prefix, refused_prefixes};

use crate::{ROUTE_METRIC, ROUTE_PROTOCOL};

/// Numbers that routes of others bear whatever runs on a node: what has none, redirects, the kernel's own, what scripts and people
/// write (`boot`, `static`), router advertisements and DHCP. With one of these, their routes would be ours to delete.
const OTHERS_PROTOCOLS: [u8; 7] = [0, 1, 2, 3, 4, 9, 16];

/// How routes are written, and how pods' interfaces are named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RouteSettings {
    /// `deviceRouteProtocol`: the routing protocol number of all our routes.
    pub protocol: u8,
    /// `ipv4NormalRoutePriority`: the metric of all our IPv4 routes.
    pub metric_ipv4: u32,
    /// `ipv6NormalRoutePriority`: the metric of all our IPv6 routes.
    pub metric_ipv6: u32,
    /// `deviceRouteSourceAddress`: what the node itself sends to its pods is from this address, where nothing else says from which.
    pub source_ipv4: Option<Ipv4Addr>,
    /// `deviceRouteSourceAddressIPv6`: the same for IPv6.
    pub source_ipv6: Option<Ipv6Addr>,
    /// `removeExternalRoutes`: whether others' routes out of pods' interfaces are deleted.
    pub remove_external: bool,
    /// `interfacePrefix`: what the names of pods' interfaces begin with; at least one.
    pub interface_prefixes: Vec<String>,
}

impl Default for RouteSettings {
    fn default() -> Self {
        Self {
            protocol: ROUTE_PROTOCOL,
            metric_ipv4: ROUTE_METRIC,
            metric_ipv6: ROUTE_METRIC,
            source_ipv4: None,
            source_ipv6: None,
            remove_external: false,
            interface_prefixes: interface_prefixes(&FelixConfigurationSpec::default()),
        }
    }
}

impl RouteSettings {
    pub(super) fn new(spec: &FelixConfigurationSpec) -> Self {
        let default = Self::default();
        let metric = |field: Option<u32>, default: u32| field.filter(|metric| *metric > 0).unwrap_or(default);
        let protocol = spec.device_route_protocol.filter(|number| !OTHERS_PROTOCOLS.contains(number));
        Self {
            protocol: protocol.unwrap_or(default.protocol),
            metric_ipv4: metric(spec.ipv4_normal_route_priority, default.metric_ipv4),
            metric_ipv6: metric(spec.ipv6_normal_route_priority, default.metric_ipv6),
            source_ipv4: spec.device_route_source_address,
            source_ipv6: spec.device_route_source_address_ipv6,
            remove_external: spec.remove_external_routes.unwrap_or(default.remove_external),
            interface_prefixes: interface_prefixes(spec),
        }
    }

    /// The metric of our routes to a destination.
    pub const fn metric(&self, destination: &IpNet) -> u32 {
        match destination {
            IpNet::V4(_) => self.metric_ipv4,
            IpNet::V6(_) => self.metric_ipv6,
        }
    }

    /// The source address of what the node itself sends to a pod.
    pub fn source(&self, destination: &IpNet) -> Option<IpAddr> {
        match destination {
            IpNet::V4(_) => self.source_ipv4.map(IpAddr::from),
            IpNet::V6(_) => self.source_ipv6.map(IpAddr::from),
        }
    }

    /// Whether an interface is a pod's by its name.
    pub fn is_pods(&self, interface: &str) -> bool {
        self.interface_prefixes.iter().any(|prefix| interface.starts_with(prefix.as_str()))
    }

    /// What new interfaces of pods are named by: the first prefix that leaves room for the rest of the name.
    pub fn naming_prefix(&self) -> &str {
        naming_prefix(&self.interface_prefixes)
    }
}

/// The fields of one configuration that are honoured, but not with the values that they have, each with the reason.
pub(crate) fn refused(spec: &FelixConfigurationSpec) -> Vec<(&'static str, String)> {
    let mut refused = Vec::new();
    if let Some(number) = spec.device_route_protocol.filter(|number| OTHERS_PROTOCOLS.contains(number)) {
        let reason = format!(
            "{number} is on routes that others write; ours are written with {ROUTE_PROTOCOL}: choose a number that nothing \
             else on the node uses"
        );
        refused.push(("deviceRouteProtocol", reason));
    }
    for (field, value) in [
        ("ipv4NormalRoutePriority", spec.ipv4_normal_route_priority),
        ("ipv6NormalRoutePriority", spec.ipv6_normal_route_priority),
    ] {
        if value == Some(0) {
            let reason = format!(
                "0 is the place of others' routes without a metric; ours have {ROUTE_METRIC}: choose 1 or more"
            );
            refused.push((field, reason));
        }
    }
    refused.extend(refused_prefixes(spec).into_iter().map(|reason| ("interfacePrefix", reason)));
    refused
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(value: serde_json::Value) -> FelixConfigurationSpec {
        serde_json::from_value(value).expect("a spec")
    }

    #[test]
    fn what_would_do_harm_is_refused_with_the_reason() {
        let bad = spec(json!({
            "deviceRouteProtocol": 2, "ipv4NormalRoutePriority": 0, "ipv6NormalRoutePriority": 0, "interfacePrefix": "eth,longer"
        }));
        let fields: Vec<&str> = refused(&bad).iter().map(|(field, _)| *field).collect();
        let [four, six] = ["ipv4NormalRoutePriority", "ipv6NormalRoutePriority"];
        assert_eq!(fields, ["deviceRouteProtocol", four, six, "interfacePrefix", "interfacePrefix"]);
        let settings = RouteSettings::new(&bad);
        let interface_prefixes = vec!["longer".to_owned(), "cali".to_owned()];
        assert_eq!(settings, RouteSettings { interface_prefixes, ..RouteSettings::default() });
        assert!(settings.is_pods("longer1") && settings.is_pods("cali1") && !settings.is_pods("eth0"));
    }

    #[test]
    fn what_is_set_holds() {
        let good = spec(json!({
            "deviceRouteProtocol": 81, "ipv4NormalRoutePriority": 7, "ipv6NormalRoutePriority": 8, "removeExternalRoutes": true,
            "interfacePrefix": "tap-vm,pod,cali", "deviceRouteSourceAddress": "10.0.0.1", "deviceRouteSourceAddressIPv6": "fd00::1"
        }));
        assert_eq!(refused(&good), []);
        let settings = RouteSettings::new(&good);
        assert_eq!((settings.protocol, settings.naming_prefix(), settings.remove_external), (81, "pod", true));
        for (destination, metric, source) in [("10.0.0.0/8", 7, "10.0.0.1"), ("fd00::/8", 8, "fd00::1")] {
            let destination = destination.parse().expect("a prefix");
            assert_eq!(settings.metric(&destination), metric);
            assert_eq!(settings.source(&destination), source.parse().ok());
        }
        assert_eq!(refused(&FelixConfigurationSpec::default()), []);
    }
}
