//! A cluster's compiled tables, and a flow's first packet on its way through them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use tortie_nft::interpreter::{Conntrack, Interpreter, Outcome, Packet};
use tortie_nft::{Family, HookPoint};

use super::Error;
use super::services::{Service, family_of};
use crate::host_interface;
use crate::offline::Offline;

/// The interface by which packets leave a node and come to one, in the walk.
const UPLINK: &str = "eth0";

/// A port that clients send from, in the walk.
const CLIENT_PORT: u16 = 40_000;

/// Where packets begin or end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// A pod's node and its interface there; none outside.
    pod: Option<(String, String)>,
    addresses: Vec<IpAddr>,
}

impl Place {
    /// Somebody outside.
    pub(super) fn outside(addresses: &[IpAddr]) -> Self {
        Self { pod: None, addresses: addresses.to_vec() }
    }

    /// The node, of a pod.
    pub(super) fn node(&self) -> Option<&str> {
        self.pod.as_ref().map(|(node, _)| node.as_str())
    }

    /// Its first address of the family.
    pub(super) fn address(&self, family: Family) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| family_of(*address) == family)
    }
}

/// The tables of all nodes.
pub(super) struct World<'a> {
    offline: &'a Offline,
    tables: BTreeMap<&'a str, Interpreter>,
}

impl<'a> World<'a> {
    pub(super) fn new(offline: &'a Offline) -> Result<Self, Error> {
        let mut tables = BTreeMap::new();
        for node in offline.nodes() {
            let table = Interpreter::new(&offline.ruleset_for_matrix(node, &offline.options(node)))
                .map_err(|source| Error::Ruleset { node: node.to_owned(), source })?;
            tables.insert(node, table);
        }
        Ok(Self { offline, tables })
    }

    /// Where a pod is, with a stand-in for each address that is not known.
    pub(super) fn place(&self, namespace: &str, name: &str) -> Option<Place> {
        let cluster = self.offline.matrix_cluster();
        let pod = cluster.pod(namespace, name)?;
        let node = self.offline.node_of(pod).to_owned();
        Some(Place { pod: Some((node, host_interface(namespace, name))), addresses: pod.ips().collect() })
    }

    /// Whether the first packet of a flow arrives: through the node of its source, and that of its destination where that is another.
    /// None where the two have no family in common, or the service is not of it.
    pub(super) fn allows(&self, from: &Place, to: &Place, service: Service, family: Family) -> Option<bool> {
        let (saddr, daddr) = (from.address(family)?, to.address(family)?);
        if !service.is_of(family) {
            return None;
        }
        let packet = |iif: &str| Packet {
            iif: iif.to_owned(),
            oif: String::new(),
            saddr,
            daddr,
            l4proto: service.protocol(),
            sport: matches!(service, Service::Port(..)).then_some(CLIENT_PORT),
            dport: if let Service::Port(_, port) = service { Some(port) } else { None },
            icmp: if let Service::Icmp { kind, code, .. } = service { Some((kind, code)) } else { None },
            ct: Conntrack::NEW,
            dnat: false,
        };
        let hops = match (&from.pod, &to.pod) {
            (Some((source, iif)), Some((destination, oif))) if source == destination => {
                vec![(source, iif.as_str(), oif.as_str())]
            }
            (from, to) => {
                let first = from.as_ref().map(|(node, iif)| (node, iif.as_str(), UPLINK));
                let last = to.as_ref().map(|(node, oif)| (node, UPLINK, oif.as_str()));
                first.into_iter().chain(last).collect()
            }
        };
        Some(hops.into_iter().all(|(node, iif, oif)| {
            self.tables.get(node.as_str()).is_some_and(|table| forwards(table, packet(iif), oif))
        }))
    }
}

/// Whether a node forwards the packet.
fn forwards(table: &Interpreter, mut packet: Packet, oif: &str) -> bool {
    if table.run(HookPoint::Prerouting, &mut packet) == Outcome::Drop {
        return false;
    }
    oif.clone_into(&mut packet.oif);
    table.run(HookPoint::Forward, &mut packet) == Outcome::Accept
}
