//! What the table depends on besides the cluster: this node's settings, in the words of FelixConfiguration.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tortie_api::calico::felix::{
    self, EndpointToHostAction, NatOutgoingExclusions, ServiceLoopPrevention, SourceSpoofing,
};
use tortie_api::calico::{FelixConfigurationSpec, Tunnel};

use tortie_nft::LimitUnit;

use crate::host::HostOptions;
use crate::marks::MarkMask;
use crate::prefixes::{interface_prefixes, naming_prefix};

/// The settings of a node's table. The defaults are those of Calico's manifests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CompileOptions {
    /// What the names of pod interfaces begin with, at least one: `cali` (`interfacePrefix`).
    pub interface_prefixes: Vec<String>,
    /// The UDP port that nodes speak VXLAN on, and pods must not: 4789 (`vxlanPort`).
    pub vxlan_port: u16,
    /// Overlays by which packets may still come although no pool uses them any more.
    pub tunnels: BTreeSet<Tunnel>,
    /// Whether pods may send VXLAN all the same (`allowVXLANPacketsFromWorkloads`).
    pub allow_vxlan_from_workloads: bool,
    /// Whether pods may send IP in IP (`allowIPIPPacketsFromWorkloads`).
    pub allow_ipip_from_workloads: bool,
    /// The bits of the ct mark that are ours (`nftablesMarkMask`).
    pub mark_mask: MarkMask,
    /// What becomes of a packet that no policy allows (`nftablesFilterDenyAction`).
    pub deny_action: DenyAction,
    /// What becomes of a pod's packet to its own node once egress policy allows it (`defaultEndpointToHostAction`).
    pub endpoint_to_host: EndpointToHost,
    /// What becomes of a packet to a service address that nobody translated (`serviceLoopPrevention`).
    pub service_loop_prevention: ServiceLoop,
    /// The service addresses: `serviceClusterIPs`, `serviceExternalIPs` and `serviceLoadBalancerIPs` of BGPConfiguration.
    pub service_cidrs: Vec<IpNet>,
    /// How pods of IPPools with `natOutgoing` leave.
    pub nat_outgoing: NatOutgoing,
    /// Whether pods may be annotated to send from other addresses than their own (`workloadSourceSpoofing: Any`).
    pub source_spoofing: bool,
    /// Whether packets of pods that conntrack calls invalid are left to policies (`disableConntrackInvalidCheck`) and not dropped.
    pub allow_invalid: bool,
    /// How the node's own interfaces are treated.
    pub host: HostOptions,
    /// Whether each rule of a policy counts what it decides.
    pub count_hits: bool,
    /// What the kernel's log says ahead of a packet that a rule logs (`logPrefix`), with `%t`, `%k`, `%n` and `%p` still in it.
    pub log_prefix: String,
    /// How many packets each rule that logs puts into the log (`logActionRateLimit`, `logActionRateLimitBurst`); all by default.
    pub log_limit: Option<LogLimit>,
}

/// How often a rule logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLimit {
    /// Packets in each unit of time, at least 1.
    pub packets: u32,
    /// The unit.
    pub per: LimitUnit,
    /// How many more at once, at least 1.
    pub burst: u32,
}

/// How many packets at once are logged beyond a rate where nobody says so, as in Calico.
const LOG_BURST: u32 = 5;

impl LogLimit {
    /// What a configuration asks for. The kernel knows no burst of nothing, so that 0 is one packet.
    fn of(spec: &FelixConfigurationSpec) -> Option<Self> {
        let (packets, per) = spec.log_action_rate_limit.as_ref()?.0.split_once('/')?;
        Some(Self {
            packets: packets.parse().ok().filter(|packets| *packets > 0)?,
            per: LimitUnit::ALL.into_iter().find(|unit| unit.as_str() == per)?,
            burst: spec.log_action_rate_limit_burst.unwrap_or(LOG_BURST).max(1),
        })
    }
}

impl Default for CompileOptions {
    fn default() -> Self {
        Self {
            interface_prefixes: interface_prefixes(&FelixConfigurationSpec::default()),
            vxlan_port: 4789,
            tunnels: BTreeSet::new(),
            allow_vxlan_from_workloads: false,
            allow_ipip_from_workloads: false,
            mark_mask: MarkMask::default(),
            deny_action: DenyAction::default(),
            endpoint_to_host: EndpointToHost::default(),
            service_loop_prevention: ServiceLoop::default(),
            service_cidrs: Vec::new(),
            nat_outgoing: NatOutgoing::default(),
            source_spoofing: false,
            allow_invalid: false,
            host: HostOptions::default(),
            count_hits: true,
            log_prefix: "calico-packet".to_owned(),
            log_limit: None,
        }
    }
}

impl CompileOptions {
    /// What the names of new pods' interfaces begin with.
    pub fn naming_prefix(&self) -> &str {
        naming_prefix(&self.interface_prefixes)
    }

    /// What a configuration asks for, and this version's defaults for the fields that it does not have.
    pub fn of(spec: &FelixConfigurationSpec, service_cidrs: Vec<IpNet>) -> Self {
        let default = Self::default();
        let mask = spec.nftables_mark_mask.and_then(|mask| MarkMask::try_from(mask).ok());
        Self {
            interface_prefixes: interface_prefixes(spec),
            vxlan_port: spec.vxlan_port.unwrap_or(default.vxlan_port),
            tunnels: BTreeSet::new(),
            allow_vxlan_from_workloads: spec.allow_vxlan_packets_from_workloads.unwrap_or_default(),
            allow_ipip_from_workloads: spec.allow_ipip_packets_from_workloads.unwrap_or_default(),
            mark_mask: mask.unwrap_or(default.mark_mask),
            deny_action: match spec.nftables_filter_deny_action {
                Some(felix::DenyAction::Reject) => DenyAction::Reject,
                Some(felix::DenyAction::Drop) | None => DenyAction::Drop,
            },
            endpoint_to_host: match spec.default_endpoint_to_host_action {
                Some(EndpointToHostAction::Drop) => EndpointToHost::Drop,
                Some(EndpointToHostAction::Return) => EndpointToHost::Return,
                Some(EndpointToHostAction::Accept) | None => EndpointToHost::Accept,
            },
            service_loop_prevention: match spec.service_loop_prevention {
                Some(ServiceLoopPrevention::Reject) => ServiceLoop::Reject,
                Some(ServiceLoopPrevention::Disabled) => ServiceLoop::Disabled,
                Some(ServiceLoopPrevention::Drop) | None => ServiceLoop::Drop,
            },
            service_cidrs,
            nat_outgoing: NatOutgoing {
                address: spec.nat_outgoing_address,
                port_range: spec.nat_port_range.map(|range| (range.min, range.max)),
                exclusions: match spec.nat_outgoing_exclusions {
                    Some(NatOutgoingExclusions::IpPoolsAndHostIps) => NatExclusions::IpPoolsAndHostIps,
                    _ => NatExclusions::IpPoolsOnly,
                },
                interface_filter: spec.iptables_nat_outgoing_interface_filter.clone().map(|filter| filter.0),
            },
            source_spoofing: spec.workload_source_spoofing == Some(SourceSpoofing::Any),
            allow_invalid: spec.disable_conntrack_invalid_check.unwrap_or_default(),
            host: HostOptions::of(spec),
            count_hits: default.count_hits,
            log_prefix: spec.log_prefix.as_ref().map_or(default.log_prefix, |prefix| prefix.0.clone()),
            log_limit: LogLimit::of(spec),
        }
    }
}

/// How a packet is denied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DenyAction {
    /// Silently.
    #[default]
    Drop,
    /// Its sender is told: by a reset of TCP, by ICMP "administratively prohibited" otherwise.
    Reject,
}

/// What becomes of a pod's packet to its own node once egress policy allows it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum EndpointToHost {
    /// It passes this table. The host's own rules, in tables of their own, still see it.
    #[default]
    Accept,
    /// It is denied, but for what neighbour discovery needs.
    Drop,
    /// The host's own rules decide. As a table cannot override another's drop, that is what `Accept` comes to as well.
    Return,
}

/// What becomes of a packet to a service address that nobody translated to a backend's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceLoop {
    /// It is dropped.
    #[default]
    Drop,
    /// It is dropped, and its sender told.
    Reject,
    /// It is forwarded, and may come back for as long as its hop limit lasts.
    Disabled,
}

/// How traffic from IPPools with `natOutgoing` leaves the pools.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatOutgoing {
    /// The IPv4 address it leaves with (`natOutgoingAddress`); that of the outgoing interface if there is none, and for IPv6.
    pub address: Option<Ipv4Addr>,
    /// The source ports that TCP and UDP choose from, first and last (`natPortRange`).
    pub port_range: Option<(u16, u16)>,
    /// Which destinations are reached without (`natOutgoingExclusions`).
    pub exclusions: NatExclusions,
    /// The interface that it concerns, with `+` at its end for a prefix (`iptablesNATOutgoingInterfaceFilter`); by default all.
    pub interface_filter: Option<String>,
}

/// Destinations that pods reach with their own addresses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NatExclusions {
    /// All IPPools.
    #[default]
    IpPoolsOnly,
    /// All IPPools, and the nodes of the cluster.
    IpPoolsAndHostIps,
}
