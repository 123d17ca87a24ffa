//! What the table depends on besides the cluster: this node's settings, in the words of FelixConfiguration.

use std::net::Ipv4Addr;

use ipnet::IpNet;

use crate::marks::MarkMask;

/// The settings of a node's table. The defaults are those of Calico's manifests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompileOptions {
    /// What the names of pod interfaces begin with: `cali` (`interfacePrefix`).
    pub interface_prefix: String,
    /// The UDP port that nodes speak VXLAN on, and pods must not: 4789 (`vxlanPort`).
    pub vxlan_port: u16,
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
}

impl Default for CompileOptions {
    fn default() -> Self {
        Self {
            interface_prefix: "cali".to_owned(),
            vxlan_port: 4789,
            allow_vxlan_from_workloads: false,
            allow_ipip_from_workloads: false,
            mark_mask: MarkMask::default(),
            deny_action: DenyAction::default(),
            endpoint_to_host: EndpointToHost::default(),
            service_loop_prevention: ServiceLoop::default(),
            service_cidrs: Vec::new(),
            nat_outgoing: NatOutgoing::default(),
            source_spoofing: false,
        }
    }
}

/// How a packet is denied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DenyAction {
    /// Silently.
    #[default]
    Drop,
    /// Its sender is told: by a reset of TCP, by ICMP "administratively prohibited" otherwise.
    Reject,
}

/// What becomes of a pod's packet to its own node once egress policy allows it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
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
#[derive(Debug, Clone, Default, PartialEq, Eq)]
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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum NatExclusions {
    /// All IPPools.
    #[default]
    IpPoolsOnly,
    /// All IPPools, and the nodes of the cluster.
    IpPoolsAndHostIps,
}
