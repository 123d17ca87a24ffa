//! What FelixConfiguration says for this node, as values that are ready to be used.
//!
//! A field is taken from the configuration `node.NAME`, else from the one whose `nodeSelector` selects the node, else from `default`,
//! else it is this version's default, as [`Settings::default`] has it. Nothing here is remembered: settings are made anew from the
//! objects at each change of them, so a configuration that is deleted, or a field that is removed, has its default again.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tortie_api::calico::Tunnel;
use tortie_api::calico::felix::{FelixConfigurationSpec, LogLevel, MTU_INTERFACES, Switch};
use tortie_policy::CompileOptions;

use crate::event::Millis;
use crate::overlays::OverlaySettings;

mod routes;

pub use routes::RouteSettings;
pub(crate) use routes::refused;

/// How often rules, routes and interfaces are compared with what they should be, Calico's default.
const REFRESH: Millis = 90_000;

/// How this node is to be treated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// What the table of rules depends on, besides policies and pods. Interfaces are not among it: which are a pod's or a HostEndpoint's
    /// is found out on the node.
    pub rules: CompileOptions,
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
    /// How overlays are set up.
    #[serde(default)]
    pub overlays: OverlaySettings,
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

impl Default for Settings {
    fn default() -> Self {
        Self {
            rules: CompileOptions::default(),
            rules_refresh: Some(REFRESH),
            routes_refresh: Some(REFRESH),
            interfaces_refresh: Some(REFRESH),
            routes_disabled: false,
            routes: RouteSettings::default(),
            forwarding: true,
            ipv6: true,
            mtu_interfaces: MTU_INTERFACES.to_owned(),
            overlays: OverlaySettings::default(),
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
            rules: CompileOptions::of(spec, service_cidrs),
            rules_refresh: interval(spec.nftables_refresh_interval, default.rules_refresh),
            routes_refresh: interval(spec.route_refresh_interval, default.routes_refresh),
            interfaces_refresh: interval(spec.interface_refresh_interval, default.interfaces_refresh),
            routes_disabled: spec.route_sync_disabled.unwrap_or(default.routes_disabled),
            routes: RouteSettings::new(spec),
            forwarding: spec.ip_forwarding.map_or(default.forwarding, |switch| switch == Switch::Enabled),
            ipv6: spec.ipv6_support.unwrap_or(default.ipv6),
            mtu_interfaces: spec.mtu_iface_pattern.clone().map_or(default.mtu_interfaces, |pattern| pattern.0),
            overlays: overlays(spec),
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

/// How overlays are set up. An MTU of 0 is as good as none.
fn overlays(spec: &FelixConfigurationSpec) -> OverlaySettings {
    let mtus = [(Tunnel::VxlanV4, spec.vxlan_mtu), (Tunnel::VxlanV6, spec.vxlan_mtu_v6), (Tunnel::Ipip, spec.ipip_mtu)];
    let mtus = mtus.into_iter().filter_map(|(tunnel, mtu)| Some((tunnel, mtu.filter(|mtu| *mtu > 0)?))).collect();
    let default = OverlaySettings::default();
    OverlaySettings { vni: spec.vxlan_vni.unwrap_or(default.vni), mtus, ..default }
}

/// The part of the agent that `dataplaneWatchdogTimeout` is about, as [`Settings::health_timeouts`] names it.
pub const CORE: &str = "core";

/// An address as Calico's fields write it.
fn host(text: &str) -> Option<IpAddr> {
    if text == "localhost" { Some(Ipv4Addr::LOCALHOST.into()) } else { text.parse().ok() }
}
