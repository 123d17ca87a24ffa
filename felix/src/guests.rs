//! Pods of other nodes whose addresses are in no block of their node's: borrowed ones, and such as were named by their pods.
//!
//! BGP announces each of them. Where no BGP runs, they are found among the Pods, and only they are remembered: nearly every pod is in a
//! block of its node's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use rustc_hash::FxHashMap;
use tortie_api::k8s::Pod;

/// Other nodes' blocks, each with its node's address.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Blocks {
    nodes: FxHashMap<IpNet, IpAddr>,
    lengths: BTreeSet<u8>,
}

impl Blocks {
    pub(crate) fn insert(&mut self, block: IpNet, node: IpAddr) {
        self.nodes.insert(block, node);
        self.lengths.insert(block.prefix_len());
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (IpNet, IpAddr)> + '_ {
        self.nodes.iter().map(|(block, node)| (*block, *node))
    }

    /// Whether an address is in a block of that node's.
    pub(crate) fn has(&self, ip: IpAddr, node: IpAddr) -> bool {
        self.lengths
            .iter()
            .any(|length| IpNet::new(ip, *length).is_ok_and(|block| self.nodes.get(&block.trunc()) == Some(&node)))
    }

    /// Whether everything that `before` has is in these too.
    fn includes(&self, before: &Self) -> bool {
        before.nodes.iter().all(|(block, node)| self.nodes.get(block) == Some(node))
    }
}

/// A pod by namespace and name.
type PodName = (String, String);

/// The guests.
#[derive(Debug, Default)]
pub(crate) struct Guests {
    blocks: Blocks,
    /// The node of each, and those of its addresses that are in no block of that node's.
    pods: BTreeMap<PodName, (String, Vec<IpAddr>)>,
}

impl Guests {
    /// Takes in a pod that is not of this node. `address` is that of a node, by its name and family. Returns whether the guests are
    /// others now.
    pub(crate) fn upsert(&mut self, pod: &Pod, address: impl Fn(&str, bool) -> Option<IpAddr>) -> bool {
        let name = (pod.metadata.namespace.clone().unwrap_or_else(|| "default".to_owned()), pod.metadata.name.clone());
        let node = pod.spec.node_name.as_deref().filter(|_| pod.is_endpoint()).unwrap_or_default();
        let mut ips = pod.addresses();
        if ips.is_empty() {
            ips = pod.reported_addresses();
        }
        self.place(name, node, ips, address)
    }

    fn place(
        &mut self,
        name: PodName,
        node: &str,
        mut ips: Vec<IpAddr>,
        address: impl Fn(&str, bool) -> Option<IpAddr>,
    ) -> bool {
        ips.retain(|ip| address(node, ip.is_ipv4()).is_none_or(|node| !self.blocks.has(*ip, node)));
        if node.is_empty() || ips.is_empty() {
            return self.pods.remove(&name).is_some();
        }
        let guest = (node.to_owned(), ips);
        self.pods.insert(name, guest.clone()) != Some(guest)
    }

    /// Forgets a pod, likewise.
    pub(crate) fn remove(&mut self, namespace: &str, name: &str) -> bool {
        !self.pods.is_empty() && self.pods.remove(&(namespace.to_owned(), name.to_owned())).is_some()
    }

    /// Takes in the blocks as they are now. Where one is gone, all pods are looked at again.
    pub(crate) fn set_blocks<'a, I: Iterator<Item = IpAddr>>(
        &mut self,
        blocks: Blocks,
        pods: impl Iterator<Item = (&'a str, &'a str, &'a str, I)>,
        address: impl Fn(&str, bool) -> Option<IpAddr>,
    ) {
        let grown = blocks.includes(&self.blocks);
        self.blocks = blocks;
        if grown {
            let blocks = &self.blocks;
            self.pods.retain(|_, (node, ips)| {
                ips.retain(|ip| address(node, ip.is_ipv4()).is_none_or(|node| !blocks.has(*ip, node)));
                !ips.is_empty()
            });
            return;
        }
        self.pods.clear();
        for (namespace, name, node, ips) in pods {
            self.place((namespace.to_owned(), name.to_owned()), node, ips.collect(), &address);
        }
    }

    /// Each address of a guest, with the name of its node.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (IpAddr, &str)> {
        self.pods.values().flat_map(|(node, ips)| ips.iter().map(move |ip| (*ip, node.as_str())))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn pod(name: &str, node: &str, address: &str) -> Pod {
        serde_json::from_value(json!({"metadata": {"namespace": "a", "name": name}, "spec": {"nodeName": node},
            "status": {"podIPs": [{"ip": address}]}}))
        .expect("a pod")
    }

    fn address(node: &str, ipv4: bool) -> Option<IpAddr> {
        match node {
            "n1" if ipv4 => Some(ip("172.31.0.1")),
            "n2" if ipv4 => Some(ip("172.31.0.2")),
            _ => None,
        }
    }

    fn blocks(of: &[(&str, &str)]) -> Blocks {
        let mut blocks = Blocks::default();
        for (block, node) in of {
            blocks.insert(block.parse().expect("a block"), ip(node));
        }
        blocks
    }

    fn none<'a>() -> impl Iterator<Item = (&'a str, &'a str, &'a str, std::iter::Empty<IpAddr>)> {
        std::iter::empty()
    }

    #[test]
    fn only_pods_outside_their_nodes_blocks_are_remembered() {
        let mut guests = Guests::default();
        guests.set_blocks(blocks(&[("10.0.0.0/26", "172.31.0.1")]), none(), address);
        assert!(!guests.upsert(&pod("at-home", "n1", "10.0.0.1"), address));
        assert!(guests.upsert(&pod("borrowed", "n2", "10.0.0.2"), address));
        assert!(guests.upsert(&pod("early", "n2", "10.0.0.65"), address));
        assert!(!guests.upsert(&pod("unbound", "", "10.0.0.3"), address));
        assert_eq!(guests.iter().count(), 2);
        let both = [("10.0.0.0/26", "172.31.0.1"), ("10.0.0.64/26", "172.31.0.2")];
        guests.set_blocks(blocks(&both), none(), address);
        assert_eq!(guests.iter().collect::<Vec<_>>(), [(ip("10.0.0.2"), "n2")], "its block was told after the pod");
        assert!(guests.upsert(&pod("borrowed", "n1", "10.0.0.2"), address), "it has moved home");
        assert!(!guests.remove("a", "borrowed"));
    }

    #[test]
    fn pods_of_a_block_that_goes_become_guests() {
        let mut guests = Guests::default();
        guests.set_blocks(blocks(&[("10.0.0.0/26", "172.31.0.1")]), none(), address);
        let all = [("a", "p", "n1", vec![ip("10.0.0.1")].into_iter())];
        guests.set_blocks(Blocks::default(), all.into_iter(), address);
        assert_eq!(guests.iter().collect::<Vec<_>>(), [(ip("10.0.0.1"), "n1")]);
    }
}
