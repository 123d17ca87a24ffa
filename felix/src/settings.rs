//! What FelixConfiguration says for this node, as values that are ready to be used.
//!
//! A field is taken from the configuration `node.NAME`, else from the one whose `nodeSelector` selects the node, else from `default`,
//! else it is this version's default, as [`Settings::default`] has it. Nothing here is remembered: settings are made anew from the
//! objects at each change of them, so a configuration that is deleted, or a field that is removed, has its default again.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tortie_api::calico::felix::{
    DenyAction, EndpointToHostAction, FelixConfigurationSpec, LogLevel, MTU_INTERFACES, NatOutgoingExclusions,
    ServiceLoopPrevention, SourceSpoofing, Switch,
};

use crate::event::Millis;

mod hosts;
mod routes;

pub use hosts::HostSettings;
pub use routes::RouteSettings;
pub(crate) use routes::refused;

/// How often rules, routes and interfaces are compared with what they should be, Calico's default.
const REFRESH: Millis = 90_000;

/// How this node is to be treated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// What the table of rules depends on.
    pub rules: RuleSettings,
    /// `nftablesRefreshInterval`: how often the table is read back and compared; none for never. 90 s by default.
    pub rules_refresh: Option<Millis>,
    /// `routeRefreshInterval`: the same for routes.
    pub routes_refresh: Option<Millis>,
    /// `interfaceRefreshInterval`: the same for interfaces and their kernel settings.
    pub interfaces_refresh: Option<Millis>,
    /// `routeSyncDisabled`: whether routes are somebody else's to write.
    pub routes_disabled: bool,
    /// How routes are written, and how pods' interfaces are named.
    #[serde(default)]
    pub routes: RouteSettings,
    /// `ipForwarding`: whether the node's forwarding is switched on and kept on.
    pub forwarding: bool,
    /// `ipv6Support`: whether that includes IPv6.
    pub ipv6: bool,
    /// `mtuIfacePattern`: a regular expression of the interfaces whose smallest MTU is that of pods.
    pub mtu_interfaces: String,
    /// Where health is served.
    pub health: Listener,
    /// `healthTimeoutOverrides`, and `dataplaneWatchdogTimeout` under the name `core`: how long each part of the agent may be silent.
    pub health_timeouts: BTreeMap<String, Millis>,
    /// Where metrics are served.
    pub metrics: Listener,
    /// `prometheusProcessMetricsEnabled`: whether metrics of the process itself are among them.
    pub process_metrics: bool,
    /// `logSeverityScreen`: what is logged; none where the command line says it.
    pub log_level: Option<LogSeverity>,
}

/// What the table of rules depends on, besides policies and pods.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleSettings {
    /// `nftablesMarkMask`: the bits of the conntrack mark that are ours.
    pub mark_mask: u32,
    /// `nftablesFilterDenyAction` is `Reject`.
    pub reject: bool,
    /// `defaultEndpointToHostAction`.
    pub endpoint_to_host: EndpointToHost,
    /// `serviceLoopPrevention`.
    pub service_loop_prevention: ServiceLoops,
    /// `serviceClusterIPs`, `serviceExternalIPs` and `serviceLoadBalancerIPs` of BGPConfiguration, sorted.
    pub service_cidrs: Vec<IpNet>,
    /// `natOutgoingAddress`.
    pub nat_address: Option<Ipv4Addr>,
    /// `natPortRange`, both ends in it.
    pub nat_ports: Option<(u16, u16)>,
    /// `natOutgoingExclusions` is `IPPoolsAndHostIPs`.
    pub nat_excludes_hosts: bool,
    /// `iptablesNATOutgoingInterfaceFilter`; `+` at its end stands for whatever follows.
    pub nat_interface: Option<String>,
    /// `workloadSourceSpoofing` is `Any`.
    pub source_spoofing: bool,
    /// `allowVXLANPacketsFromWorkloads`.
    pub allow_vxlan: bool,
    /// `allowIPIPPacketsFromWorkloads`.
    pub allow_ipip: bool,
    /// `vxlanPort`.
    pub vxlan_port: u16,
    /// `disableConntrackInvalidCheck`.
    #[serde(default)]
    pub allow_invalid: bool,
    /// How the node's own interfaces are treated.
    #[serde(default)]
    pub host: HostSettings,
}

/// What becomes of a pod's packet to its own node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum EndpointToHost {
    /// It is accepted, as Calico's manifests set it.
    #[default]
    Accept,
    /// It is dropped.
    Drop,
    /// The node's own rules decide.
    Return,
}

/// What becomes of a packet to a service address that nobody translates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceLoops {
    /// It is dropped.
    #[default]
    Drop,
    /// Its sender is told.
    Reject,
    /// It is forwarded.
    Allow,
}

/// What is logged at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum LogSeverity {
    /// Errors.
    Error,
    /// Warnings too.
    Warning,
    /// What an operator wants to know too.
    Info,
    /// What helps to find an error too.
    Debug,
    /// Everything.
    Trace,
}

/// An HTTP server of the agent's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// Whether it runs.
    pub enabled: bool,
    /// The address it listens on; none where nobody said it: the command line's, or loopback.
    pub host: Option<IpAddr>,
    /// Its TCP port; none where nobody said it.
    pub port: Option<u16>,
}

impl Default for RuleSettings {
    fn default() -> Self {
        Self {
            mark_mask: 0xffff_0000,
            reject: false,
            endpoint_to_host: EndpointToHost::default(),
            service_loop_prevention: ServiceLoops::default(),
            service_cidrs: Vec::new(),
            nat_address: None,
            nat_ports: None,
            nat_excludes_hosts: false,
            nat_interface: None,
            source_spoofing: false,
            allow_vxlan: false,
            allow_ipip: false,
            vxlan_port: 4789,
            allow_invalid: false,
            host: HostSettings::default(),
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            rules: RuleSettings::default(),
            rules_refresh: Some(REFRESH),
            routes_refresh: Some(REFRESH),
            interfaces_refresh: Some(REFRESH),
            routes_disabled: false,
            routes: RouteSettings::default(),
            forwarding: true,
            ipv6: true,
            mtu_interfaces: MTU_INTERFACES.to_owned(),
            health: Listener { enabled: true, host: None, port: None },
            health_timeouts: BTreeMap::new(),
            metrics: Listener { enabled: true, host: None, port: None },
            process_metrics: true,
            log_level: None,
        }
    }
}

impl Settings {
    /// What the fields that are set say, and the defaults for the others.
    pub fn new(spec: &FelixConfigurationSpec, service_cidrs: Vec<IpNet>) -> Self {
        let default = Self::default();
        let interval = |field: Option<tortie_api::calico::felix::Duration>, default: Option<Millis>| match field {
            Some(interval) => Some(interval.millis()).filter(|interval| *interval > 0),
            None => default,
        };
        let mut health_timeouts = BTreeMap::new();
        health_timeouts.extend(spec.dataplane_watchdog_timeout.map(|timeout| (CORE.to_owned(), timeout.millis())));
        for timeout in spec.health_timeout_overrides.iter().flatten() {
            health_timeouts.insert(timeout.name.clone(), timeout.timeout.millis());
        }
        let wants_tls = spec.prometheus_metrics_ca_file.is_some()
            || spec.prometheus_metrics_cert_file.is_some()
            || spec.prometheus_metrics_key_file.is_some()
            || spec.prometheus_metrics_client_auth.is_some();
        Self {
            rules: RuleSettings::new(spec, service_cidrs),
            rules_refresh: interval(spec.nftables_refresh_interval, default.rules_refresh),
            routes_refresh: interval(spec.route_refresh_interval, default.routes_refresh),
            interfaces_refresh: interval(spec.interface_refresh_interval, default.interfaces_refresh),
            routes_disabled: spec.route_sync_disabled.unwrap_or(default.routes_disabled),
            routes: RouteSettings::new(spec),
            forwarding: spec.ip_forwarding.map_or(default.forwarding, |switch| switch == Switch::Enabled),
            ipv6: spec.ipv6_support.unwrap_or(default.ipv6),
            mtu_interfaces: spec.mtu_iface_pattern.clone().map_or(default.mtu_interfaces, |pattern| pattern.0),
            health: Listener {
                enabled: spec.health_enabled.unwrap_or(default.health.enabled),
                host: spec.health_host.as_deref().and_then(host),
                port: spec.health_port,
            },
            health_timeouts,
            metrics: Listener {
                enabled: spec.prometheus_metrics_enabled.unwrap_or(default.metrics.enabled) && !wants_tls,
                host: spec.prometheus_metrics_host.as_deref().and_then(host),
                port: spec.prometheus_metrics_port,
            },
            process_metrics: spec.prometheus_process_metrics_enabled.unwrap_or(default.process_metrics),
            log_level: spec.log_severity_screen.map(|level| match level {
                LogLevel::Fatal | LogLevel::Error => LogSeverity::Error,
                LogLevel::Warning => LogSeverity::Warning,
                LogLevel::Info => LogSeverity::Info,
                LogLevel::Debug => LogSeverity::Debug,
                LogLevel::Trace => LogSeverity::Trace,
            }),
        }
    }
}

/// The part of the agent that `dataplaneWatchdogTimeout` is about, as [`Settings::health_timeouts`] names it.
pub const CORE: &str = "core";

/// An address as Calico's fields write it.
fn host(text: &str) -> Option<IpAddr> {
    if text == "localhost" { Some(Ipv4Addr::LOCALHOST.into()) } else { text.parse().ok() }
}

impl RuleSettings {
    fn new(spec: &FelixConfigurationSpec, service_cidrs: Vec<IpNet>) -> Self {
        let default = Self::default();
        Self {
            mark_mask: spec.nftables_mark_mask.unwrap_or(default.mark_mask),
            reject: spec.nftables_filter_deny_action == Some(DenyAction::Reject),
            endpoint_to_host: match spec.default_endpoint_to_host_action {
                Some(EndpointToHostAction::Accept) | None => EndpointToHost::Accept,
                Some(EndpointToHostAction::Drop) => EndpointToHost::Drop,
                Some(EndpointToHostAction::Return) => EndpointToHost::Return,
            },
            service_loop_prevention: match spec.service_loop_prevention {
                Some(ServiceLoopPrevention::Drop) | None => ServiceLoops::Drop,
                Some(ServiceLoopPrevention::Reject) => ServiceLoops::Reject,
                Some(ServiceLoopPrevention::Disabled) => ServiceLoops::Allow,
            },
            service_cidrs,
            nat_address: spec.nat_outgoing_address,
            nat_ports: spec.nat_port_range.map(|range| (range.min, range.max)),
            nat_excludes_hosts: spec.nat_outgoing_exclusions == Some(NatOutgoingExclusions::IpPoolsAndHostIps),
            nat_interface: spec.iptables_nat_outgoing_interface_filter.clone().map(|filter| filter.0),
            source_spoofing: spec.workload_source_spoofing == Some(SourceSpoofing::Any),
            allow_vxlan: spec.allow_vxlan_packets_from_workloads.unwrap_or(default.allow_vxlan),
            allow_ipip: spec.allow_ipip_packets_from_workloads.unwrap_or(default.allow_ipip),
            vxlan_port: spec.vxlan_port.unwrap_or(default.vxlan_port),
            allow_invalid: spec.disable_conntrack_invalid_check.unwrap_or(default.allow_invalid),
            host: HostSettings::new(spec),
        }
    }
}
