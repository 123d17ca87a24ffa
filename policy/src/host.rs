//! Host endpoints: the node's own interfaces, as endpoints of policies.
//!
//! A HostEndpoint is for one interface, or for all that have none of their own and are no pod's. From the moment that there is one,
//! what comes to the node by that interface and what the node sends by it is denied unless a GlobalNetworkPolicy that selects the
//! endpoint allows it, or else one of the endpoint's profiles. Failsafe ports, neighbour discovery and the loopback interface are never
//! closed. What a node merely forwards is judged only by policies with `applyOnForward`, where there are any for the direction.
//!
//! Two kinds of policies come first, and say nothing of packets that no rule of theirs matches: those with `doNotTrack` judge each
//! packet by itself before conntrack, those with `preDNAT` judge flows by the destination that the client wrote.
//!
//! [`host_frame`](crate::host_frame) has the chains around that.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tortie_api::calico::felix::{ExistingConnections, FelixConfigurationSpec, ProtoPort, TransportProtocol};

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;

/// Settings for the node's own interfaces. The defaults are Calico's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostOptions {
    /// The HostEndpoints of this node, and what they are for.
    pub interfaces: Vec<HostInterface>,
    /// Ports of the node that are never closed (`failsafeInboundHostPorts`).
    pub failsafe_inbound: Vec<Failsafe>,
    /// Ports elsewhere that the node is never cut off from (`failsafeOutboundHostPorts`).
    pub failsafe_outbound: Vec<Failsafe>,
    /// Whether flows that exist pass whatever the policies of host endpoints say (`policyExistingConnections: Keep`).
    pub keep_connections: bool,
    /// Interfaces that are no HostEndpoint's by name or address (`interfaceExclude`).
    pub interface_exclude: String,
}

/// The interface that kube-proxy keeps service addresses on in its mode `ipvs`.
const EXCLUDED: &str = "kube-ipvs0";

/// An interface of this node that a HostEndpoint is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HostInterface {
    /// The HostEndpoint's name.
    pub endpoint: String,
    /// The interface; none for all that have no HostEndpoint of their own.
    pub interface: Option<String>,
}

/// A port that stays open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Failsafe {
    /// The protocol's number.
    pub protocol: u8,
    /// The port: where the flow goes to.
    pub port: u16,
    /// Where the other side is; anywhere if none.
    pub net: Option<IpNet>,
}

impl From<&ProtoPort> for Failsafe {
    fn from(port: &ProtoPort) -> Self {
        let protocol = match port.protocol {
            Some(TransportProtocol::Udp) => UDP,
            Some(TransportProtocol::Sctp) => SCTP,
            Some(TransportProtocol::Tcp) | None => TCP,
        };
        Self { protocol, port: port.port, net: port.net.map(|net| net.0) }
    }
}

impl Failsafe {
    const fn everywhere(protocol: u8, port: u16) -> Self {
        Self { protocol, port, net: None }
    }

    /// What stays open to the node where nobody says otherwise: SSH, DHCP, BGP, etcd and the Kubernetes API.
    pub fn inbound() -> Vec<Self> {
        let tcp = [22, 179, 2379, 2380, 5473, 6443, 6666, 6667];
        tcp.map(|port| Self::everywhere(TCP, port)).into_iter().chain([Self::everywhere(UDP, 68)]).collect()
    }

    /// What the node reaches where nobody says otherwise: BGP, etcd and the Kubernetes API, DNS and DHCP.
    pub fn outbound() -> Vec<Self> {
        let tcp = [179, 2379, 2380, 5473, 6443, 6666, 6667];
        let udp = [53, 67].map(|port| Self::everywhere(UDP, port));
        tcp.map(|port| Self::everywhere(TCP, port)).into_iter().chain(udp).collect()
    }
}

impl Default for HostOptions {
    fn default() -> Self {
        Self {
            interfaces: Vec::new(),
            failsafe_inbound: Failsafe::inbound(),
            failsafe_outbound: Failsafe::outbound(),
            keep_connections: false,
            interface_exclude: EXCLUDED.to_owned(),
        }
    }
}

impl HostOptions {
    /// What a configuration asks for, at a node without HostEndpoints.
    pub fn of(spec: &FelixConfigurationSpec) -> Self {
        let default = Self::default();
        let failsafes = |ports: &Option<Vec<ProtoPort>>| Some(ports.as_ref()?.iter().map(Failsafe::from).collect());
        Self {
            interfaces: default.interfaces,
            failsafe_inbound: failsafes(&spec.failsafe_inbound_host_ports).unwrap_or(default.failsafe_inbound),
            failsafe_outbound: failsafes(&spec.failsafe_outbound_host_ports).unwrap_or(default.failsafe_outbound),
            keep_connections: spec.policy_existing_connections == Some(ExistingConnections::Keep),
            interface_exclude: spec.interface_exclude.clone().unwrap_or(default.interface_exclude),
        }
    }
}
