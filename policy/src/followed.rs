//! What a set follows in which pods come and go, seen from one address.

use std::collections::BTreeSet;
use std::net::IpAddr;

use tortie_nft::{Family, Key, Value};

use crate::class::Named;
use crate::cluster::Cluster;
use crate::peers::PodPeer;

/// Which pods a set follows.
#[derive(Debug)]
pub(crate) struct Followed {
    /// Only their addresses of this family.
    pub(crate) family: Family,
    /// Whom, and what of them.
    pub(crate) whom: Whom,
}

/// What of whom is in a set.
#[derive(Debug)]
pub(crate) enum Whom {
    /// The addresses of pods.
    Pods(BTreeSet<PodPeer>),
    /// The addresses, protocols and numbers of ports by name.
    Named(BTreeSet<Named>),
}

impl Followed {
    /// Whether the set is about addresses like this.
    pub(crate) fn has_family_of(&self, address: IpAddr) -> bool {
        (self.family == Family::V4) == address.is_ipv4()
    }

    /// The elements of the set that begin with this address.
    pub(crate) fn elements_at(&self, cluster: &Cluster, address: IpAddr) -> BTreeSet<Key> {
        let mut elements = BTreeSet::new();
        for pod in cluster.endpoints_at(address) {
            let selected = |peers: &BTreeSet<PodPeer>| peers.iter().any(|peer| peer.selects(cluster, pod));
            match &self.whom {
                Whom::Pods(peers) => {
                    if selected(peers) {
                        elements.insert(vec![Value::Addr(address)]);
                    }
                }
                Whom::Named(named) => {
                    for Named { protocol, name, peers } in named {
                        if peers.everyone || peers.has_address(address) || selected(&peers.pods) {
                            let ports = cluster.ports(pod).iter();
                            let ports =
                                ports.filter(|port| port.protocol == *protocol && port.name.as_ref() == Some(name));
                            elements.extend(ports.map(|port| {
                                vec![Value::Addr(address), Value::Proto(protocol.number()), Value::Port(port.number)]
                            }));
                        }
                    }
                }
            }
        }
        elements
    }
}
