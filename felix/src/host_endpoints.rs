//! The node's HostEndpoints, and what there is of interfaces and addresses: [`HostInterfaces`] says which are for which, and this when
//! that has to be asked anew.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use rustc_hash::FxHashMap;
use tortie_api::calico::{HostEndpoint, HostEndpointSpec};
use tortie_api::{Kind, Object, ObjectKey};
use tortie_policy::{HostInterfaces, Interfaces};

use crate::event::Link;

/// This node's HostEndpoints, and the interfaces that there are.
#[derive(Debug)]
pub(crate) struct HostEndpoints {
    node: String,
    endpoints: BTreeMap<String, HostEndpointSpec>,
    links: FxHashMap<u32, String>,
    addresses: BTreeSet<(IpAddr, u32)>,
}

impl HostEndpoints {
    /// Those of this node: none yet.
    pub(crate) fn new(node: String) -> Self {
        Self { node, endpoints: BTreeMap::new(), links: FxHashMap::default(), addresses: BTreeSet::new() }
    }

    /// Takes an object in. Returns whether endpoints of this node are others now.
    pub(crate) fn upsert(&mut self, object: &Object) -> bool {
        let Object::HostEndpoint(endpoint) = object else { return false };
        let HostEndpoint { metadata, spec } = &**endpoint;
        if spec.node != self.node {
            return self.endpoints.remove(&metadata.name).is_some();
        }
        self.endpoints.insert(metadata.name.clone(), spec.clone()).as_ref() != Some(spec)
    }

    /// Forgets an object. Returns whether it was an endpoint of this node.
    pub(crate) fn remove(&mut self, key: &ObjectKey) -> bool {
        key.kind == Kind::HostEndpoint && self.endpoints.remove(&key.name).is_some()
    }

    /// Whether addresses of interfaces make a difference.
    fn asks_for_addresses(&self) -> bool {
        self.endpoints.values().any(|spec| spec.interface_name.is_none())
    }

    /// Takes in all interfaces and addresses, as read. Returns whether that may make a difference.
    pub(crate) fn read(&mut self, links: &[Link], addresses: &[(u32, IpAddr)]) -> bool {
        let links = links.iter().map(|link| (link.index, link.name.clone())).collect();
        let addresses = addresses.iter().map(|(index, address)| (*address, *index)).collect();
        let news = self.links != links || self.addresses != addresses;
        (self.links, self.addresses) = (links, addresses);
        news && self.asks_for_addresses()
    }

    /// An interface came, or changed. Returns whether that may make a difference, as the following do.
    pub(crate) fn link_changed(&mut self, link: &Link) -> bool {
        if self.links.get(&link.index) == Some(&link.name) {
            return false;
        }
        self.links.insert(link.index, link.name.clone());
        self.asks_for_addresses()
    }

    /// An interface is gone, with its addresses.
    pub(crate) fn link_removed(&mut self, index: u32) -> bool {
        let had = self.links.remove(&index).is_some();
        self.addresses.retain(|(_, owner)| *owner != index);
        had && self.asks_for_addresses()
    }

    /// An interface has an address.
    pub(crate) fn address_added(&mut self, index: u32, address: IpAddr) -> bool {
        self.addresses.insert((address, index)) && self.asks_for_addresses()
    }

    /// An interface has an address no more.
    pub(crate) fn address_removed(&mut self, index: u32, address: IpAddr) -> bool {
        self.addresses.remove(&(address, index)) && self.asks_for_addresses()
    }

    /// The interfaces of all endpoints. Names of pods' interfaces begin with one of `prefixes`; `excluded` is `interfaceExclude`.
    pub(crate) fn resolve(&self, prefixes: &[String], excluded: &str) -> HostInterfaces {
        HostInterfaces::of(&self.endpoints, self, prefixes, excluded)
    }
}

impl Interfaces for HostEndpoints {
    fn with_addresses(&self, addresses: &[IpAddr]) -> Option<BTreeSet<String>> {
        let owners = addresses.iter().flat_map(|address| self.addresses.range((*address, 0)..=(*address, u32::MAX)));
        Some(owners.filter_map(|(_, index)| self.links.get(index).cloned()).collect())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn endpoint(name: &str, node: &str, interface: Option<&str>, ips: &[&str]) -> Object {
        let mut spec = json!({"node": node, "expectedIPs": ips});
        if let Some(interface) = interface {
            spec["interfaceName"] = interface.into();
        }
        let value = json!({"metadata": {"name": name}, "spec": spec});
        Object::HostEndpoint(Box::new(serde_json::from_value(value).expect("a HostEndpoint")))
    }

    fn known() -> HostEndpoints {
        let mut all = HostEndpoints::new("n1".into());
        let link = |index, name: &str| Link { index, name: name.into(), up: true };
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let links = [link(1, "lo"), link(2, "eth0"), link(3, "eth1"), link(4, "cali1")];
        let addresses = [(1, ip("127.0.0.1")), (2, ip("192.0.2.1")), (3, ip("192.0.2.2")), (3, ip("fd00::2"))];
        all.read(&links, &addresses);
        all
    }

    fn resolved(all: &HostEndpoints) -> (Vec<(String, String)>, Vec<String>) {
        let resolved = all.resolve(&["cali".to_owned()], "kube-ipvs0,/^br-/");
        let interfaces = resolved.interfaces.into_iter();
        let interfaces = interfaces.map(|it| (it.endpoint, it.interface.unwrap_or_else(|| "*".into())));
        (interfaces.collect(), resolved.problems)
    }

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(endpoint, interface)| ((*endpoint).to_owned(), (*interface).to_owned())).collect()
    }

    #[test]
    fn endpoints_are_for_interfaces_by_name_or_by_address() {
        let mut all = known();
        assert!(all.upsert(&endpoint("a", "n1", Some("eth0"), &[])));
        assert!(!all.upsert(&endpoint("a", "n1", Some("eth0"), &[])));
        assert!(all.upsert(&endpoint("b", "n1", None, &["192.0.2.9", "fd00::2"])));
        assert!(all.upsert(&endpoint("c", "n1", Some("*"), &[])));
        assert!(!all.upsert(&endpoint("d", "n2", Some("*"), &[])), "another node's");
        assert!(all.upsert(&endpoint("e", "n1", Some("eth7"), &[])));
        assert_eq!(resolved(&all), (pairs(&[("a", "eth0"), ("b", "eth1"), ("c", "*"), ("e", "eth7")]), Vec::new()));
        // The address moves.
        assert!(all.address_removed(3, "fd00::2".parse().expect("an address")));
        assert_eq!(resolved(&all).1.len(), 1);
        assert!(all.address_added(2, "fd00::2".parse().expect("an address")));
        assert_eq!(resolved(&all).1, ["HostEndpoint b: interface eth0 is that of HostEndpoint a: delete one of them"]);
        assert!(all.link_changed(&Link { index: 5, name: "eth5".into(), up: false }));
        assert!(all.address_added(5, "192.0.2.9".parse().expect("an address")));
        assert_eq!(resolved(&all).0, pairs(&[("a", "eth0"), ("b", "eth5"), ("c", "*"), ("e", "eth7")]));
        assert!(all.link_removed(5));
        assert_eq!(resolved(&all).0, pairs(&[("a", "eth0"), ("c", "*"), ("e", "eth7")]));
        // One that moves to another node leaves this one.
        assert!(all.upsert(&endpoint("c", "n2", Some("*"), &[])));
        assert!(all.remove(&ObjectKey { kind: Kind::HostEndpoint, namespace: None, name: "a".into() }));
        assert_eq!(resolved(&all).0, pairs(&[("b", "eth0"), ("e", "eth7")]));
    }

    #[test]
    fn what_must_not_be_closed_is_refused_by_name() {
        let mut all = known();
        for (name, interface) in [("a", "lo"), ("b", "cali1"), ("c", "kube-ipvs0"), ("d", "br-1234")] {
            all.upsert(&endpoint(name, "n1", Some(interface), &[]));
        }
        all.upsert(&endpoint("e", "n1", None, &["127.0.0.1"]));
        let (interfaces, problems) = resolved(&all);
        assert!(interfaces.is_empty() && problems.len() == 5, "{interfaces:?} {problems:?}");
        assert!(problems[0].contains("lo is the loopback interface"), "{problems:?}");
    }

    #[test]
    fn addresses_make_no_difference_to_who_is_named() {
        let mut all = known();
        all.upsert(&endpoint("a", "n1", Some("eth0"), &["192.0.2.2"]));
        assert!(!all.address_added(2, "192.0.2.77".parse().expect("an address")));
        assert_eq!(resolved(&all).0, pairs(&[("a", "eth0")]), "the name counts");
    }
}
