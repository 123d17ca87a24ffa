//! What the HostEndpoints of the nodes on a flow's way make of it.
//!
//! By which interface a flow comes to a node, or leaves it, is for the node's routes to say, so every endpoint that it may pass is asked.
//! Only where all of them deny, and there is no interface without one, the flow surely ends there.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::Serialize;
use tortie_policy::HostInterface;
use tortie_policy::explain::Route;
use tortie_policy::offline::Offline;
use tortie_policy::oracle::{AtHost, DecidedBy, Judge, Passage, Question};

/// What an endpoint makes of the flow, one way past it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Passed {
    /// The node.
    pub(crate) node: String,
    /// The HostEndpoint.
    pub(crate) host_endpoint: String,
    /// The interface that it is for; `*` for all that have none of their own.
    pub(crate) interface: String,
    /// `to-node`, `from-node`, `forward-in` or `forward-out`.
    pub(crate) passage: &'static str,
    /// `allow` or `deny`.
    pub(crate) verdict: &'static str,
    /// `failsafe`, `doNotTrack`, `preDNAT`, `policy`, `profile` or `nobody`.
    pub(crate) decided_by: &'static str,
    /// Whether the flow surely ends here.
    pub(crate) ends: bool,
}

/// Where a packet comes to a node from, or goes to from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Edge {
    /// By an interface of the node's own.
    Wire,
    /// One of its pods.
    Pod,
    /// The node itself.
    Node,
}

/// The ways past a node's endpoints, and whether only the one for all interfaces is met: interfaces of pods have no other.
fn ways(from: Edge, to: Edge) -> &'static [(Passage, bool)] {
    match (from, to) {
        (Edge::Wire, Edge::Node) => &[(Passage::ToNode, false)],
        (Edge::Node, Edge::Wire) => &[(Passage::FromNode, false)],
        (Edge::Wire, Edge::Pod) => &[(Passage::ForwardIn, false), (Passage::ForwardOut, true)],
        (Edge::Pod, Edge::Wire) => &[(Passage::ForwardIn, true), (Passage::ForwardOut, false)],
        (Edge::Pod, Edge::Pod) => &[(Passage::ForwardIn, true), (Passage::ForwardOut, true)],
        // What passes between a pod and its own node stays with the pod's policies.
        _ => &[],
    }
}

/// Everything that has a say, in the order in which the flow passes it.
pub(crate) fn of(cluster: &Offline, question: &Question, route: &Route) -> Vec<Passed> {
    let judge = Judge::new(cluster.world());
    let mut nodes: Vec<&String> = Vec::new();
    for node in [&route.source_node, &route.destination_node].into_iter().flatten() {
        if !nodes.contains(&node) {
            nodes.push(node);
        }
    }
    let mut all = Vec::new();
    for node in nodes {
        let host = cluster.options(node).host;
        if host.interfaces.is_empty() {
            continue;
        }
        let pods: BTreeSet<IpAddr> = cluster.endpoints(node).into_iter().flat_map(|endpoint| endpoint.ips).collect();
        let edge = |at: &Option<String>, address: Option<IpAddr>| match address {
            _ if at.as_ref() != Some(node) => Edge::Wire,
            Some(address) if !pods.contains(&address) => Edge::Node,
            _ => Edge::Pod,
        };
        let from = edge(&route.source_node, route.source_address);
        let to = edge(&route.destination_node, route.destination_address);
        for (passage, any_only) in ways(from, to) {
            let met: Vec<&HostInterface> =
                host.interfaces.iter().filter(|it| !any_only || it.interface.is_none()).collect();
            let everywhere = met.iter().any(|it| it.interface.is_none());
            let asked = met.into_iter().filter_map(|it| {
                // The ends are known: they are explained already.
                let said = judge.at_host(&it.endpoint, *passage, question, &host).ok().flatten()?;
                Some((it, said))
            });
            let asked: Vec<(&HostInterface, AtHost)> = asked.collect();
            let ends = everywhere && asked.iter().all(|(_, said)| !said.allowed);
            let says = asked.into_iter().filter(|(_, said)| !(said.allowed && said.by == DecidedBy::Nobody));
            all.extend(says.map(|(it, said)| Passed {
                node: node.clone(),
                host_endpoint: it.endpoint.clone(),
                interface: it.interface.clone().unwrap_or_else(|| "*".to_owned()),
                passage: match passage {
                    Passage::ToNode => "to-node",
                    Passage::FromNode => "from-node",
                    Passage::ForwardIn => "forward-in",
                    Passage::ForwardOut => "forward-out",
                },
                verdict: if said.allowed { "allow" } else { "deny" },
                decided_by: match said.by {
                    DecidedBy::Failsafe => "failsafe",
                    DecidedBy::Untracked => "doNotTrack",
                    DecidedBy::PreDnat => "preDNAT",
                    DecidedBy::Policy => "policy",
                    DecidedBy::Profile => "profile",
                    DecidedBy::Nobody => "nobody",
                },
                ends,
            }));
        }
    }
    all
}

impl Passed {
    /// A line about it.
    pub(crate) fn text(&self) -> String {
        let interface = if self.interface == "*" { "all interfaces" } else { &self.interface };
        let passage = match self.passage {
            "to-node" => "to the node",
            "from-node" => "from the node",
            "forward-in" => "forwarded, coming in",
            _ => "forwarded, going out",
        };
        let by = match self.decided_by {
            "failsafe" => "as a failsafe port",
            "doNotTrack" => "by a policy with doNotTrack",
            "preDNAT" => "by a policy with preDNAT",
            "policy" => "by its policies",
            "profile" => "by its profiles",
            _ => "since no policy and no profile allows it",
        };
        let verdict = if self.verdict == "allow" { "allowed" } else { "denied" };
        format!("HostEndpoint {} ({interface}) of {}, {passage}: {verdict} {by}", self.host_endpoint, self.node)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tortie_api::Object;
    use tortie_policy::oracle::{Traffic, Wanted};

    use super::*;

    fn objects() -> Vec<Object> {
        let pod = |name: &str, node: &str, ip: &str| {
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "x"},
                "spec": {"nodeName": node, "containers": []}, "status": {"podIPs": [{"ip": ip}]}})
        };
        let node = |name: &str, ip: &str| {
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
                "status": {"addresses": [{"type": "InternalIP", "address": ip}]}})
        };
        let host = |name: &str, node: &str, interface: &str| {
            json!({"apiVersion": "projectcalico.org/v3", "kind": "HostEndpoint", "metadata": {"name": name, "labels": {"host": name}},
                "spec": {"node": node, "interfaceName": interface}})
        };
        let policy = |name: &str, host: &str, forward: bool, action: &str| {
            json!({"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy", "metadata": {"name": name},
                "spec": {"selector": format!("host == '{host}'"), "types": ["Ingress"], "applyOnForward": forward,
                    "ingress": [{"action": action, "protocol": "TCP", "destination": {"ports": [80]}}]}})
        };
        let values: [Value; 9] = [
            node("n1", "172.31.0.2"),
            node("n2", "172.31.0.3"),
            pod("a", "n1", "10.0.0.1"),
            pod("b", "n2", "10.0.0.2"),
            host("any", "n2", "*"),
            host("named", "n1", "eth0"),
            policy("web", "any", false, "Allow"),
            policy("forward", "named", true, "Deny"),
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x"}}),
        ];
        values.into_iter().map(|value| serde_json::from_value(value).expect("an object")).collect()
    }

    fn said(from: &str, to: &str, port: u16) -> Vec<(String, bool)> {
        let cluster = Offline::new(&objects());
        let wanted = Wanted {
            protocol: "tcp".to_owned(),
            port: Some(port),
            source_port: None,
            icmp_type: None,
            icmp_code: None,
        };
        let traffic = Traffic::try_from(&wanted).expect("traffic");
        let question =
            Question { from: from.parse().expect("an end"), to: to.parse().expect("an end"), traffic, family: None };
        let route = cluster.explain(&question).expect("an answer").route;
        of(&cluster, &question, &route).into_iter().map(|passed| (passed.text(), passed.ends)).collect()
    }

    #[test]
    fn each_endpoint_on_the_way_says_what_it_makes_of_the_flow() {
        let to_node =
            |what: &str, ends| vec![(format!("HostEndpoint any (all interfaces) of n2, to the node: {what}"), ends)];
        assert_eq!(said("172.31.0.9", "172.31.0.3", 80), to_node("allowed by its policies", false));
        assert_eq!(said("172.31.0.9", "172.31.0.3", 22), to_node("allowed as a failsafe port", false));
        assert_eq!(said("172.31.0.9", "172.31.0.3", 81), to_node("denied by its policies", true));
        let from =
            "HostEndpoint any (all interfaces) of n2, from the node: denied since no policy and no profile allows it";
        assert_eq!(said("172.31.0.3", "172.31.0.9", 80), [(from.to_owned(), true)]);
        assert_eq!(said("x/a", "x/b", 80), [], "policies without applyOnForward are not about that");
        // The flow may come by an interface that has no endpoint.
        let forward = "HostEndpoint named (eth0) of n1, forwarded, coming in: denied by its policies";
        assert_eq!(said("172.31.0.9", "x/a", 80), [(forward.to_owned(), false)]);
        assert_eq!(said("x/b", "172.31.0.3", 81), [], "a pod and its own node");
    }
}
