//! Planning: from the documents to the lab that should exist. Pure.
//!
//! Nodes are the Node documents and the `nodeName`s of pods, else a number of them with names of our own. Each gets an address of
//! either family: those that its document states, else free ones of 172.31.0.0/16 and fd00:172:31::/48. Nodes of overlapping subnets
//! share a segment; the fabric has the first address of every subnet and routes between them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use tortie_api::{Object, k8s};

use crate::Error;
use crate::name;
use crate::ports;
use crate::state::{Node, Pod, Segment, State};

/// Annotation of a Node that gets a namespace and addresses but no agent, when its value is `external`; and an agent without BGP, when it
/// is `no-bgp`.
pub const LAB_ANNOTATION: &str = "tortie.io/lab";

/// The lab that the documents describe. What `before` already has keeps its node, addresses and container; the addresses of new pods
/// are still empty. `nodes` is how many nodes there are when no document names one.
pub fn plan(objects: &[Object], nodes: usize, before: &State) -> Result<State, Error> {
    let mut state = State { nodes: Vec::new(), pods: Vec::new(), ..before.clone() };
    plan_nodes(objects, nodes, before, &mut state)?;
    plan_pods(objects, before, &mut state)?;
    Ok(state)
}

/// What a Node document says about the lab.
#[derive(Default)]
struct Wish {
    external: bool,
    no_bgp: bool,
    ipv4: Option<IpNet>,
    ipv6: Option<IpNet>,
}

fn plan_nodes(objects: &[Object], nodes: usize, before: &State, state: &mut State) -> Result<(), Error> {
    let mut wishes: BTreeMap<String, Wish> = BTreeMap::new();
    for object in objects {
        match object {
            Object::Node(node) => {
                wishes.insert(node.metadata.name.clone(), wish(node)?);
            }
            Object::Pod(pod) => {
                if let Some(node) = pod.spec.node_name.as_deref().filter(|name| !name.is_empty()) {
                    wishes.entry(node.to_owned()).or_default();
                }
            }
            _ => {}
        }
    }
    if wishes.values().all(|wish| wish.external) {
        wishes.extend((1..=nodes).map(|number| (format!("node{number}"), Wish::default())));
    }
    if let Some(name) = wishes.keys().find(|name| name.as_str() == name::FABRIC || name.as_str() == "outside") {
        return Err(Error::Failed(format!("Node {name}: the lab uses this name itself; rename the node")));
    }
    let mut used: BTreeMap<IpAddr, &str> = BTreeMap::new();
    for (name, wish) in &wishes {
        for net in [wish.ipv4, wish.ipv6].into_iter().flatten() {
            if let Some(other) = used.insert(net.addr(), name) {
                return Err(Error::Failed(format!(
                    "Node {name}: InternalIP {} is also that of Node {other}; give each node its own",
                    net.addr()
                )));
            }
        }
    }
    let mut taken: BTreeSet<IpAddr> = used.keys().copied().collect();
    taken.extend(state.segments.iter().flat_map(|segment| &segment.gateways).map(IpNet::addr));
    // The widest subnets first: the narrower ones within them then join their segment.
    let mut order: Vec<(&String, &Wish)> = wishes.iter().collect();
    order.sort_by_key(|(_, wish)| wish.ipv4.map_or(24, |net| net.prefix_len()));
    for (name, wish) in order {
        let earlier = before.node(name).filter(|node| {
            wish.ipv4.is_none_or(|net| net == node.ipv4) && wish.ipv6.is_none_or(|net| net == node.ipv6)
        });
        if let Some(node) = earlier {
            state.nodes.push(Node { external: wish.external, no_bgp: wish.no_bgp, ..node.clone() });
            continue;
        }
        let ipv4 = wish.ipv4.map_or_else(|| free_ipv4(&taken), Ok)?;
        taken.insert(ipv4.addr());
        let segment = segment_of(&mut state.segments, name, &[Some(ipv4), wish.ipv6])?;
        let ipv6 = wish.ipv6.map_or_else(|| free_ipv6(&mut state.segments, segment, ipv4, &taken), Ok)?;
        taken.insert(ipv6.addr());
        state.nodes.push(Node {
            name: name.clone(),
            netns: name::node_netns(&state.lab, name),
            external: wish.external,
            no_bgp: wish.no_bgp,
            bridge: state.segments[segment].bridge.clone(),
            link: name::link(name),
            ipv4,
            ipv6,
            pid: None,
        });
    }
    state.nodes.sort_by(|a, b| a.name.cmp(&b.name));
    for node in &state.nodes {
        let gateways = state.segments.iter().flat_map(|segment| &segment.gateways);
        if let Some(gateway) =
            gateways.into_iter().find(|gateway| [node.ipv4.addr(), node.ipv6.addr()].contains(&gateway.addr()))
        {
            return Err(Error::Failed(format!(
                "Node {}: InternalIP {} is the first address of its subnet, which the lab's fabric has; choose another",
                node.name,
                gateway.addr()
            )));
        }
    }
    Ok(())
}

fn wish(node: &k8s::Node) -> Result<Wish, Error> {
    let name = &node.metadata.name;
    let internal = node.internal_ips();
    let stated = |ipv4: bool, usual: u8| {
        let annotated = node.network(ipv4).filter(|net| net.prefix_len() < net.max_prefix_len());
        let prefix = annotated.map_or(usual, |net| net.prefix_len());
        let address = internal.iter().copied().find(|address| address.is_ipv4() == ipv4);
        address.or(annotated.map(|net| net.addr())).and_then(|address| IpNet::new(address, prefix).ok())
    };
    let says = |wanted: &str| node.metadata.annotations.get(LAB_ANNOTATION).is_some_and(|value| value == wanted);
    let wish =
        Wish { external: says("external"), no_bgp: says("no-bgp"), ipv4: stated(true, 24), ipv6: stated(false, 64) };
    for net in [wish.ipv4, wish.ipv6].into_iter().flatten() {
        if net.prefix_len() + 2 > net.max_prefix_len() {
            return Err(Error::Failed(format!(
                "Node {name}: the subnet {net} has no room for the lab's fabric; use a prefix of /{} or shorter",
                net.max_prefix_len() - 2
            )));
        }
    }
    Ok(wish)
}

/// The first address of a subnet, which is the fabric's.
fn gateway_of(net: IpNet) -> IpNet {
    match net {
        IpNet::V4(net) => {
            let first = Ipv4Addr::from(u32::from(net.network()).saturating_add(1));
            Ipv4Net::new_assert(first, net.prefix_len()).into()
        }
        IpNet::V6(net) => {
            let first = Ipv6Addr::from(u128::from(net.network()).saturating_add(1));
            Ipv6Net::new_assert(first, net.prefix_len()).into()
        }
    }
}

fn overlaps(a: &IpNet, b: &IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

/// The segment of these subnets, a new one if none of them is on any yet.
fn segment_of(segments: &mut Vec<Segment>, node: &str, nets: &[Option<IpNet>]) -> Result<usize, Error> {
    let nets: Vec<IpNet> = nets.iter().copied().flatten().collect();
    let mut found = None;
    for (index, segment) in segments.iter().enumerate() {
        if segment.gateways.iter().any(|gateway| nets.iter().any(|net| overlaps(gateway, net))) {
            if found.is_some() {
                return Err(Error::Failed(format!(
                    "Node {node}: its subnets overlap those of two separate segments; give them one prefix length"
                )));
            }
            found = Some(index);
        }
    }
    let index = found.unwrap_or_else(|| {
        let taken = |bridge: &String| segments.iter().any(|segment| segment.bridge == *bridge);
        let bridge =
            (0..=segments.len()).map(|number| format!("br{number}")).find(|name| !taken(name)).unwrap_or_default();
        segments.push(Segment { bridge, gateways: Vec::new() });
        segments.len() - 1
    });
    for net in nets {
        let gateway = gateway_of(net);
        if !segments[index].gateways.iter().any(|known| known.addr() == gateway.addr()) {
            segments[index].gateways.push(gateway);
        }
    }
    Ok(index)
}

/// A free address in 172.31.0.0/16 with a subnet of /24.
fn free_ipv4(taken: &BTreeSet<IpAddr>) -> Result<IpNet, Error> {
    (0..=255u8)
        .flat_map(|subnet| (2..=254u8).map(move |host| Ipv4Addr::new(172, 31, subnet, host)))
        .find(|address| !taken.contains(&IpAddr::V4(*address)))
        .map(|address| Ipv4Net::new_assert(address, 24).into())
        .ok_or_else(|| Error::Failed("no address is free in 172.31.0.0/16: use fewer nodes".to_owned()))
}

/// A free IPv6 address for a node on a segment, alike to its IPv4 address.
fn free_ipv6(segments: &mut [Segment], index: usize, ipv4: IpNet, taken: &BTreeSet<IpAddr>) -> Result<IpNet, Error> {
    let used = segments.iter().flat_map(|segment| &segment.gateways).copied().collect::<Vec<_>>();
    let segment = &mut segments[index];
    let subnet =
        |number: u16| IpNet::from(Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x172, 0x31, number, 0, 0, 0, 1), 64));
    let gateway = if let Some(gateway) = segment.gateways.iter().find(|gateway| gateway.addr().is_ipv6()) {
        *gateway
    } else {
        let gateway = (0..u16::MAX)
            .map(subnet)
            .find(|gateway| !used.iter().any(|other| overlaps(other, gateway)))
            .ok_or_else(|| Error::Failed("no subnet is free in fd00:172:31::/48".to_owned()))?;
        segment.gateways.push(gateway);
        gateway
    };
    let (IpNet::V6(gateway), IpNet::V4(ipv4)) = (gateway, ipv4) else {
        return Err(Error::Failed("a segment's gateways are of the wrong family".to_owned()));
    };
    let host = u128::from(u32::from(ipv4.addr()) - u32::from(ipv4.network())).max(2);
    (host..)
        .take(65_536)
        .map(|host| Ipv6Addr::from(u128::from(gateway.network()) | host))
        .find(|address| gateway.contains(address) && !taken.contains(&IpAddr::V6(*address)))
        .map(|address| Ipv6Net::new_assert(address, gateway.prefix_len()).into())
        .ok_or_else(|| Error::Failed(format!("no address is free in {gateway}: use a shorter prefix")))
}

fn plan_pods(objects: &[Object], before: &State, state: &mut State) -> Result<(), Error> {
    let agents: Vec<String> = state.agents().map(|node| node.name.clone()).collect();
    for object in objects {
        let Object::Pod(pod) = object else { continue };
        if !pod.is_endpoint() {
            continue;
        }
        let namespace = pod.metadata.namespace.clone().unwrap_or_else(|| "default".to_owned());
        let name = pod.metadata.name.clone();
        let earlier = before.pod(&namespace, &name);
        let node = match (pod.spec.node_name.as_deref().filter(|name| !name.is_empty()), earlier) {
            (Some(node), _) => node.to_owned(),
            (None, Some(earlier)) if agents.contains(&earlier.node) => earlier.node.clone(),
            _ => {
                let Some(node) = agents.get(state.placed % agents.len().max(1)) else {
                    return Err(Error::Failed(format!("Pod {namespace}/{name}: the lab has no node to place it on")));
                };
                state.placed += 1;
                node.clone()
            }
        };
        if !agents.contains(&node) {
            return Err(Error::Failed(format!(
                "Pod {namespace}/{name}: spec.nodeName {node} is external, so it has no agent; choose another node"
            )));
        }
        let pinned = pod
            .pinned_addresses()
            .map_err(|error| Error::Failed(format!("Pod {namespace}/{name}: {error}")))?
            .unwrap_or_default();
        let same = earlier.filter(|earlier| earlier.node == node && earlier.pinned == pinned);
        state.pods.push(Pod {
            netns: name::pod_netns(&state.lab, &namespace, &name),
            container_id: same.map_or_else(String::new, |pod| pod.container_id.clone()),
            ips: same.map_or_else(Vec::new, |pod| pod.ips.clone()),
            pinned,
            ports: ports::declared(pod),
            namespace,
            name,
            node,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store;

    fn objects(text: &str) -> Vec<Object> {
        store::objects(&store::read_text("test", text).unwrap())
    }

    fn planned(text: &str) -> Result<State, Error> {
        plan(&objects(text), 3, &State { lab: "lab".into(), ..State::default() })
    }

    fn pod(name: &str, extra: &str) -> String {
        format!("---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: x}}, spec: {{{extra}}}}}\n")
    }

    fn node(name: &str, address: &str, annotations: &str) -> String {
        format!(
            "---\n{{apiVersion: v1, kind: Node, metadata: {{name: {name}, annotations: {{{annotations}}}}}, \
             status: {{addresses: [{{type: InternalIP, address: {address}}}]}}}}\n"
        )
    }

    fn addresses(state: &State) -> Vec<(String, String, String)> {
        state.nodes.iter().map(|node| (node.name.clone(), node.ipv4.to_string(), node.ipv6.to_string())).collect()
    }

    #[test]
    fn nothing_named_makes_three_nodes_in_one_subnet() {
        let state = planned("").unwrap();
        let expected =
            [2, 3, 4].map(|n| (format!("node{}", n - 1), format!("172.31.0.{n}/24"), format!("fd00:172:31::{n}/64")));
        assert_eq!(addresses(&state), expected);
        assert_eq!(
            state.outside().iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["172.31.0.1", "fd00:172:31::1"]
        );
    }

    #[test]
    fn pods_go_round_and_named_nodes_are_honoured() {
        let text =
            [pod("a", ""), pod("b", "nodeName: n2"), pod("c", ""), pod("d", "nodeName: n1"), pod("e", "")].concat();
        let state = planned(&text).unwrap();
        let nodes: Vec<&str> = state.pods.iter().map(|pod| pod.node.as_str()).collect();
        assert_eq!(nodes, ["n1", "n2", "n2", "n1", "n1"]);
        assert_eq!(state.nodes.len(), 2, "named nodes are all there are");
    }

    #[test]
    fn host_network_and_ended_pods_have_no_namespace() {
        let text = [pod("a", "hostNetwork: true"), pod("b", "")].concat();
        let ended = "---\n{apiVersion: v1, kind: Pod, metadata: {name: c}, status: {phase: Succeeded}}";
        let state = planned(&(text + ended)).unwrap();
        assert_eq!(state.pods.iter().map(Pod::full_name).collect::<Vec<_>>(), ["x/b"]);
    }

    #[test]
    fn stated_addresses_and_subnets() {
        let text = [
            node("a", "172.31.5.9", "projectcalico.org/IPv4Address: 172.31.5.9/16"),
            node("b", "172.31.0.7", ""),
            node("c", "10.9.8.7", "projectcalico.org/IPv4Address: 10.9.8.7/20"),
        ]
        .concat();
        let state = planned(&text).unwrap();
        let bridge = |name: &str| state.node(name).unwrap().bridge.clone();
        assert_eq!(bridge("a"), bridge("b"), "the wider subnet holds the narrower one");
        assert_ne!(bridge("a"), bridge("c"));
        let gateways: Vec<String> =
            state.segments.iter().flat_map(|segment| &segment.gateways).map(ToString::to_string).collect();
        assert!(gateways.contains(&"172.31.0.1/16".to_owned()), "{gateways:?}");
        assert!(gateways.contains(&"10.9.0.1/20".to_owned()), "{gateways:?}");
    }

    #[test]
    fn external_nodes_have_no_agent_and_no_pods() {
        let text = node("bird", "172.31.0.9", "tortie.io/lab: external");
        let state = planned(&(text.clone() + &pod("a", ""))).unwrap();
        assert_eq!(state.agents().count(), 3, "the usual nodes come besides");
        assert!(state.node("bird").unwrap().external);
        assert!(planned(&(text + &pod("a", "nodeName: bird"))).is_err());
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        for (text, reason) in [
            (node("a", "172.31.0.1", ""), "first address"),
            (node("a", "172.31.0.5", "") + &node("b", "172.31.0.5", ""), "is also that of"),
            (node("fabric", "172.31.0.5", ""), "rename"),
            (node("a", "172.31.0.5", "projectcalico.org/IPv4Address: 172.31.0.5/31"), "no room"),
        ] {
            let error = planned(&text).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn a_second_plan_keeps_what_the_first_decided() {
        let before = planned(&[pod("a", ""), pod("b", "")].concat()).unwrap();
        let more = objects(&[pod("b", ""), pod("c", ""), pod("a", "")].concat());
        let after = plan(&more, 3, &before).unwrap();
        let node = |state: &State, name: &str| state.pod("x", name).unwrap().node.clone();
        assert_eq!(node(&after, "a"), node(&before, "a"));
        assert_eq!(node(&after, "b"), node(&before, "b"));
        assert_eq!(node(&after, "c"), "node3");
    }
}
