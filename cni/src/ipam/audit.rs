//! Whether an address is in use: what an allocation says, held against the pods and nodes that there are. No IO.
//!
//! An allocation counts as in use until it is proved not to be. Whatever says too little of its owner, is a node's own address, or
//! belongs to a pod whose addresses nobody has told yet, is in use.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use tortie_api::calico::AllocationAttribute;
use tortie_api::k8s::{Node, Pod};

/// The handle of addresses that Calico keeps from pods on Windows.
const WINDOWS_RESERVED: &str = "windows-reserved-ipam-handle";

/// What an allocation's `type` begins with that is a node's end of a tunnel: `ipipTunnelAddress`, `vxlanV6TunnelAddress` ...
const TUNNELS: [&str; 3] = ["ipip", "vxlan", "wireguard"];

/// The annotations of a node that hold its ends of tunnels.
const TUNNEL_ANNOTATIONS: [&str; 5] = [
    "projectcalico.org/IPv4IPIPTunnelAddr",
    "projectcalico.org/IPv4VXLANTunnelAddr",
    "projectcalico.org/IPv6VXLANTunnelAddr",
    "projectcalico.org/IPv4WireguardInterfaceAddr",
    "projectcalico.org/IPv6WireguardInterfaceAddr",
];

/// The pods and nodes that there are, as far as addresses go.
#[derive(Debug, Default)]
pub struct Inventory {
    pods: HashMap<String, PodBrief>,
    nodes: BTreeSet<String>,
    /// Ends of tunnels, with their nodes.
    tunnels: BTreeMap<IpAddr, String>,
}

#[derive(Debug)]
struct PodBrief {
    node: Option<Box<str>>,
    ips: Box<[IpAddr]>,
    /// The phase in which it has ended.
    ended: Option<Box<str>>,
    host_network: bool,
}

/// Why an address is not in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// There is no such pod.
    NoPod,
    /// The pod has ended, in this phase.
    Ended(String),
    /// The pod runs on another node than the one that gave it the address.
    OnNode(String),
    /// The pod has other addresses of this family.
    Has(Vec<IpAddr>),
    /// It is a node's own address, and there is no such node.
    NoNode,
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPod => f.write_str("there is no such pod"),
            Self::Ended(phase) => write!(f, "the pod has ended (status.phase is {phase})"),
            Self::OnNode(node) => write!(f, "the pod of that name runs on node {node}"),
            Self::Has(ips) => {
                let ips: Vec<String> = ips.iter().map(ToString::to_string).collect();
                write!(f, "the pod of that name has {}", ips.join(", "))
            }
            Self::NoNode => f.write_str("there is no such node"),
        }
    }
}

/// Whose an allocation is, as far as it says.
pub fn owner(attribute: &AllocationAttribute) -> String {
    let field = |name: &str| attribute.secondary.get(name);
    match (field("namespace"), field("pod"), field("type"), field("node")) {
        (Some(namespace), Some(pod), ..) => format!("{namespace}/{pod}"),
        (_, _, Some(kind), Some(node)) => format!("{kind} of {node}"),
        _ if attribute.released_at.is_some() => "nobody: it was released, and rests".to_owned(),
        _ => "unknown".to_owned(),
    }
}

impl Inventory {
    /// Takes a pod in.
    pub fn add_pod(&mut self, pod: &Pod) {
        let phase = pod.status.phase.as_deref();
        let mut ips = pod.addresses();
        if ips.is_empty() {
            ips = pod.reported_addresses();
        }
        let brief = PodBrief {
            node: pod.spec.node_name.as_deref().filter(|node| !node.is_empty()).map(Into::into),
            ips: ips.into(),
            ended: phase.filter(|phase| matches!(*phase, "Succeeded" | "Failed")).map(Into::into),
            host_network: pod.spec.host_network,
        };
        self.pods.insert(key(pod.metadata.namespace.as_deref().unwrap_or("default"), &pod.metadata.name), brief);
    }

    /// Takes a node in.
    pub fn add_node(&mut self, node: &Node) {
        let name = &node.metadata.name;
        self.nodes.insert(name.clone());
        for annotation in TUNNEL_ANNOTATIONS {
            let ip = node.metadata.annotations.get(annotation).and_then(|text| text.parse().ok());
            self.tunnels.extend(ip.map(|ip| (ip, name.clone())));
        }
    }

    /// Whether there is such a node.
    pub fn has_node(&self, name: &str) -> bool {
        self.nodes.contains(name)
    }

    /// The addresses that are in use, and by whom: pods with a network of their own, and nodes' ends of tunnels.
    pub fn in_use(&self) -> BTreeMap<IpAddr, Vec<String>> {
        let mut users: BTreeMap<IpAddr, Vec<String>> = BTreeMap::new();
        for (name, pod) in self.pods.iter().filter(|(_, pod)| !pod.host_network && pod.ended.is_none()) {
            for ip in &pod.ips {
                users.entry(*ip).or_default().push(format!("Workload({name})"));
            }
        }
        for (ip, node) in &self.tunnels {
            users.entry(*ip).or_default().push(format!("Node({node})"));
        }
        for users in users.values_mut() {
            users.sort_unstable();
        }
        users
    }

    /// Why an allocated address is not in use; none if it may be.
    pub fn leak(&self, attribute: &AllocationAttribute, ip: IpAddr) -> Option<Proof> {
        let field = |name: &str| attribute.secondary.get(name).map(String::as_str).filter(|value| !value.is_empty());
        if attribute.released_at.is_some() || attribute.handle_id.as_deref() == Some(WINDOWS_RESERVED) {
            return None;
        }
        // Calico lets a virtual machine keep its address while it is stopped, or on its way to another node.
        if !attribute.alternate.is_empty() || attribute.secondary.keys().any(|key| key.starts_with("vm")) {
            return None;
        }
        if let Some(kind) = field("type")
            && TUNNELS.iter().any(|tunnel| kind.starts_with(tunnel))
        {
            return field("node").filter(|node| !self.nodes.contains(*node)).map(|_| Proof::NoNode);
        }
        let (namespace, name) = (field("namespace")?, field("pod")?);
        let Some(pod) = self.pods.get(&key(namespace, name)) else { return Some(Proof::NoPod) };
        if let Some(phase) = &pod.ended {
            return Some(Proof::Ended(phase.to_string()));
        }
        if let (Some(here), Some(there)) = (field("node"), &pod.node)
            && here != &**there
        {
            return Some(Proof::OnNode(there.to_string()));
        }
        let family: Vec<IpAddr> = pod.ips.iter().filter(|other| other.is_ipv4() == ip.is_ipv4()).copied().collect();
        // Whose addresses nobody has told yet may be about to get this one.
        (!family.is_empty() && !family.contains(&ip)).then_some(Proof::Has(family))
    }
}

fn key(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

/// An allocation that is not in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leak {
    /// The block that it is in.
    pub block: IpNet,
    /// Its place there.
    pub ordinal: usize,
    /// The address.
    pub ip: IpAddr,
    /// The block's number at the time it was given, which tells it from a later allocation of the address.
    pub sequence_number: Option<u64>,
    /// Who holds it.
    pub attribute: AllocationAttribute,
    /// Why it is not in use.
    pub proof: Proof,
}

impl fmt::Display for Leak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let handle = self.attribute.handle_id.as_deref().unwrap_or("(none)");
        let node = self.attribute.secondary.get("node").map_or("an unknown node", String::as_str);
        write!(
            f,
            "{} (block {}, ordinal {}, handle {handle}) is allocated to {} on {node}: {}",
            self.ip,
            self.block,
            self.ordinal,
            owner(&self.attribute),
            self.proof
        )
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn inventory() -> Inventory {
        let mut inventory = Inventory::default();
        let pod = |name: &str, more: Value| -> Pod {
            let mut pod = json!({"metadata": {"namespace": "web", "name": name}, "spec": {"nodeName": "n1"}});
            for (field, values) in more.as_object().expect("a map") {
                for (name, value) in values.as_object().expect("a map") {
                    pod[field][name] = value.clone();
                }
            }
            serde_json::from_value(pod).expect("a pod")
        };
        let ips = json!({"podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]});
        inventory.add_pod(&pod("a", json!({"status": ips})));
        inventory.add_pod(&pod("young", json!({"status": {"phase": "Pending"}})));
        inventory.add_pod(&pod(
            "told",
            json!({"metadata": {"annotations": {"cni.projectcalico.org/podIPs": "10.0.0.9/32"}}}),
        ));
        inventory.add_pod(&pod("done", json!({"status": {"phase": "Succeeded", "podIPs": [{"ip": "10.0.0.2"}]}})));
        inventory.add_pod(&pod(
            "host",
            json!({"spec": {"hostNetwork": true}, "status": {"podIPs": [{"ip": "172.31.0.2"}]}}),
        ));
        let node =
            json!({"metadata": {"name": "n1", "annotations": {"projectcalico.org/IPv4IPIPTunnelAddr": "10.0.0.64"}}});
        inventory.add_node(&serde_json::from_value(node).expect("a node"));
        inventory
    }

    #[test]
    fn only_what_is_proved_is_a_leak() {
        let inventory = inventory();
        let leak = |ip: &str, secondary: Value| {
            let attribute = AllocationAttribute {
                handle_id: Some("h".into()),
                secondary: serde_json::from_value(secondary).expect("attributes"),
                ..AllocationAttribute::default()
            };
            inventory.leak(&attribute, ip.parse().expect("an address"))
        };
        let of = |pod: &str, node: &str| json!({"namespace": "web", "pod": pod, "node": node});
        for (ip, secondary) in [
            ("10.0.0.1", of("a", "n1")),
            ("fd00::1", of("a", "n1")),
            ("10.0.0.7", of("young", "n1")),
            // Its IPv6 address nobody has told yet.
            ("fd00::9", of("told", "n1")),
            ("10.0.0.64", json!({"type": "ipipTunnelAddress", "node": "n1"})),
            ("10.0.0.65", json!({"type": "vxlanTunnelAddress"})),
            ("10.0.0.66", json!({"node": "n9"})),
            ("10.0.0.67", json!({})),
            ("10.0.0.68", json!({"namespace": "web", "pod": "gone", "node": "n1", "vmi": "machine"})),
        ] {
            assert_eq!(leak(ip, secondary.clone()), None, "{ip} {secondary}");
        }
        let has = |ip: &str| Proof::Has(vec![ip.parse().expect("an address")]);
        for (ip, secondary, proof) in [
            ("10.0.0.3", of("a", "n1"), has("10.0.0.1")),
            ("10.0.0.3", of("told", "n1"), has("10.0.0.9")),
            ("10.0.0.1", of("a", "n2"), Proof::OnNode("n1".into())),
            ("10.0.0.2", of("done", "n1"), Proof::Ended("Succeeded".into())),
            ("10.0.0.4", of("host", "n1"), has("172.31.0.2")),
            ("10.0.0.5", of("gone", "n1"), Proof::NoPod),
            ("10.0.0.65", json!({"type": "wireguardTunnelAddress", "node": "n9"}), Proof::NoNode),
        ] {
            assert_eq!(leak(ip, secondary.clone()), Some(proof), "{ip} {secondary}");
        }
        let resting = AllocationAttribute { released_at: Some("x".into()), ..AllocationAttribute::default() };
        assert_eq!(inventory.leak(&resting, "10.0.0.1".parse().expect("an address")), None);
    }

    #[test]
    fn users_are_pods_with_a_network_of_their_own_and_tunnels() {
        let users: Vec<String> =
            inventory().in_use().into_iter().map(|(ip, users)| format!("{ip} {}", users.join(" "))).collect();
        let want = [
            "10.0.0.1 Workload(web/a)",
            "10.0.0.9 Workload(web/told)",
            "10.0.0.64 Node(n1)",
            "fd00::1 Workload(web/a)",
        ];
        assert_eq!(users, want);
    }
}
