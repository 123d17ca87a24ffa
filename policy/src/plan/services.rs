//! What a plan asks about: services, and the blocks of addresses that policies name.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Serialize, Serializer};
use tortie_api::Object;
use tortie_api::calico::{PolicyRule, RulePort, RuleProtocol};
use tortie_api::k8s::{
    ClusterNetworkPolicyPeer, ClusterNetworkPolicyProtocol, ClusterNetworkPolicySpec, DestinationPort,
    NetworkPolicySpec, Pod, PortOrName, Protocol,
};
use tortie_nft::Family;

/// So many services of those that the change names are asked about beside the declared ports.
const MOST: usize = 32;

/// What a flow carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Service {
    /// A protocol with ports, and the port.
    Port(Protocol, u16),
    /// An ICMP or ICMPv6 message that begins a flow.
    Icmp {
        /// The family that it belongs to.
        family: Family,
        /// Its type.
        kind: u8,
        /// Its code.
        code: u8,
    },
    /// Another protocol, by its IANA number.
    Other(u8),
}

impl Service {
    /// An echo request (ping).
    pub const fn ping(family: Family) -> Self {
        let kind = match family {
            Family::V4 => 8,
            Family::V6 => 128,
        };
        Self::Icmp { family, kind, code: 0 }
    }

    /// Whether there is such a thing in the family.
    pub fn is_of(self, family: Family) -> bool {
        !matches!(self, Self::Icmp { family: own, .. } if own != family)
    }

    /// The IP protocol number (IANA).
    pub const fn protocol(self) -> u8 {
        match self {
            Self::Port(protocol, _) => protocol.number(),
            Self::Icmp { family: Family::V4, .. } => 1,
            Self::Icmp { family: Family::V6, .. } => 58,
            Self::Other(number) => number,
        }
    }
}

/// `TCP/80`, `ICMP/8`, `ICMP/3/1` with a code, `protocol 47`.
impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(protocol, port) => write!(f, "{protocol}/{port}"),
            Self::Icmp { family, kind, code } => {
                let name = if *family == Family::V4 { "ICMP" } else { "ICMPv6" };
                write!(f, "{name}/{kind}")?;
                if *code > 0 { write!(f, "/{code}") } else { Ok(()) }
            }
            Self::Other(number) => write!(f, "protocol {number}"),
        }
    }
}

impl Serialize for Service {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;

        let mut map = serializer.serialize_map(None)?;
        match self {
            Self::Port(protocol, port) => {
                map.serialize_entry("protocol", protocol.as_str())?;
                map.serialize_entry("port", port)?;
            }
            Self::Icmp { family, kind, code } => {
                map.serialize_entry("protocol", if *family == Family::V4 { "ICMP" } else { "ICMPv6" })?;
                map.serialize_entry("icmpType", kind)?;
                map.serialize_entry("icmpCode", code)?;
            }
            Self::Other(number) => map.serialize_entry("protocol", number)?,
        }
        map.end()
    }
}

/// What policies name.
#[derive(Debug, Default)]
pub(super) struct Named {
    /// The services that objects name which change.
    pub(super) services: BTreeSet<Service>,
    /// The blocks that any object names: no policy tells two addresses apart that are in the same of these.
    pub(super) blocks: BTreeSet<IpNet>,
    /// Those of them that objects name which change.
    pub(super) changed_blocks: BTreeSet<IpNet>,
}

impl Named {
    /// The services to ask about at a pod, of which each world has a document, or at an address outside.
    pub(super) fn of(&self, documents: &[Pod]) -> BTreeSet<Service> {
        let declared = documents.iter().flat_map(Pod::ports);
        let mut all: BTreeSet<Service> =
            declared.map(|port| Service::Port(port.protocol, port.container_port)).collect();
        all.extend(self.services.iter().take(MOST));
        if all.is_empty() {
            all.insert(Service::Port(Protocol::Tcp, 80));
        }
        all
    }
}

/// What the objects of all these worlds name; `changed` are those that are not the same in all of them.
pub(super) fn named<'a>(
    all: impl IntoIterator<Item = &'a Object>,
    changed: impl IntoIterator<Item = &'a Object>,
) -> Named {
    let mut named = Named::default();
    for object in all {
        look(object, &mut named.blocks, &mut BTreeSet::new());
    }
    for object in changed {
        look(object, &mut named.changed_blocks, &mut named.services);
    }
    named
}

fn look(object: &Object, blocks: &mut BTreeSet<IpNet>, services: &mut BTreeSet<Service>) {
    match object {
        Object::NetworkPolicy(policy) => kubernetes(&policy.spec, blocks, services),
        Object::StagedKubernetesNetworkPolicy(policy) => kubernetes(&policy.spec.policy(), blocks, services),
        Object::CalicoNetworkPolicy(policy)
        | Object::GlobalNetworkPolicy(policy)
        | Object::StagedNetworkPolicy(policy)
        | Object::StagedGlobalNetworkPolicy(policy) => {
            policy.spec.ingress.iter().chain(&policy.spec.egress).for_each(|rule| calico(rule, blocks, services));
        }
        Object::ClusterNetworkPolicy(policy) => cluster(&policy.spec, blocks, services),
        Object::NetworkSet(set) | Object::GlobalNetworkSet(set) => blocks.extend(&set.spec.nets),
        Object::HostEndpoint(host) => blocks.extend(host.spec.expected_ips.iter().copied().map(IpNet::from)),
        Object::EndpointSlice(slice) => {
            let addresses = slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
            blocks.extend(addresses.copied().map(IpNet::from));
        }
        _ => {}
    }
}

fn calico(rule: &PolicyRule, blocks: &mut BTreeSet<IpNet>, services: &mut BTreeSet<Service>) {
    for entity in [&rule.source, &rule.destination] {
        blocks.extend(entity.nets.iter().chain(&entity.not_nets));
    }
    for protocol in rule.protocol.into_iter().chain(rule.not_protocol) {
        services.extend(match protocol {
            RuleProtocol::ICMP => vec![Service::ping(Family::V4)],
            RuleProtocol::ICMPV6 => vec![Service::ping(Family::V6)],
            other if transport(other).is_some() => Vec::new(),
            other => vec![Service::Other(other.number())],
        });
    }
    let icmp = [&rule.icmp, &rule.not_icmp].into_iter().flatten();
    for (kind, code) in icmp.filter_map(|icmp| Some((icmp.kind?, icmp.code.unwrap_or_default()))) {
        let of = |family| Service::Icmp { family, kind, code };
        services.insert(of(if rule.protocol == Some(RuleProtocol::ICMPV6) { Family::V6 } else { Family::V4 }));
    }
    let Some(protocol) = rule.protocol.and_then(transport) else { return };
    let ports = rule.destination.ports.iter().chain(&rule.destination.not_ports);
    for port in ports {
        if let RulePort::Range(first, last) = port {
            services.extend([*first, *last].map(|port| Service::Port(protocol, port)));
        }
    }
}

/// A protocol with ports that pods declare.
fn transport(protocol: RuleProtocol) -> Option<Protocol> {
    Protocol::ALL.into_iter().find(|known| known.number() == protocol.number())
}

fn cluster(spec: &ClusterNetworkPolicySpec, blocks: &mut BTreeSet<IpNet>, services: &mut BTreeSet<Service>) {
    let ingress = spec.ingress.iter().map(|rule| (&rule.from, &rule.protocols));
    let egress = spec.egress.iter().map(|rule| (&rule.to, &rule.protocols));
    for (peers, protocols) in ingress.chain(egress) {
        for peer in peers {
            if let ClusterNetworkPolicyPeer::Networks(networks) = peer {
                blocks.extend(networks);
            }
        }
        for of in protocols {
            let (protocol, ports) = match of {
                ClusterNetworkPolicyProtocol::Tcp(ports) => (Protocol::Tcp, ports),
                ClusterNetworkPolicyProtocol::Udp(ports) => (Protocol::Udp, ports),
                ClusterNetworkPolicyProtocol::Sctp(ports) => (Protocol::Sctp, ports),
                ClusterNetworkPolicyProtocol::DestinationNamedPort(_) => continue,
            };
            let ports = match &ports.destination_port {
                DestinationPort::Number(number) => [*number; 2],
                DestinationPort::Range(range) => [range.start, range.end],
            };
            services.extend(ports.map(|port| Service::Port(protocol, port)));
        }
    }
}

fn kubernetes(spec: &NetworkPolicySpec, blocks: &mut BTreeSet<IpNet>, services: &mut BTreeSet<Service>) {
    let ingress = spec.ingress.iter().map(|rule| (&rule.from, &rule.ports));
    let egress = spec.egress.iter().map(|rule| (&rule.to, &rule.ports));
    for (peers, ports) in ingress.chain(egress) {
        for block in peers.iter().filter_map(|peer| peer.ip_block.as_ref()) {
            blocks.insert(block.cidr);
            blocks.extend(&block.except);
        }
        for port in ports {
            let first = match port.port {
                Some(PortOrName::Number(number)) => Some(number),
                _ => None,
            };
            services.extend(first.into_iter().chain(port.end_port).map(|number| Service::Port(port.protocol, number)));
        }
    }
}

/// The family of an address.
pub(super) fn family_of(address: IpAddr) -> Family {
    if address.is_ipv4() { Family::V4 } else { Family::V6 }
}
