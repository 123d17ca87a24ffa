//! What the tests share: resources from short descriptions, and a network of interpreted nodes to send packets through.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Value, json};
use tortie_api::{Decoded, Object, decode};
use tortie_nft::interpreter::{Conntrack, FlowState, Interpreter, Outcome, Packet};
use tortie_nft::{Direction, HookPoint, Ruleset};
use tortie_policy::hits::Counted;
use tortie_policy::offline::Offline;
use tortie_policy::oracle::Traffic;
use tortie_policy::{Cluster, CompileOptions, Endpoint, Generation, compile, host_interface};

pub(crate) use tortie_policy::oracle::CLIENT_PORT;

/// A document as a datastore hands it out.
pub(crate) fn object(document: &Value) -> Object {
    match decode(document) {
        Ok(Decoded::Object(object)) => *object,
        Ok(other) => panic!("{document}: {other:?}"),
        Err(errors) => panic!("{document}: {errors:?}"),
    }
}

/// A pod with addresses (comma separated) and labels.
pub(crate) fn pod(namespace: &str, name: &str, node: &str, ips: &str, labels: &Value) -> Object {
    let ips: Vec<Value> = ips.split(',').filter(|ip| !ip.is_empty()).map(|ip| json!({"ip": ip})).collect();
    object(&json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "labels": labels},
        "status": {"podIPs": ips},
        "spec": {"nodeName": node, "containers": [{"name": "c", "ports": [
            {"containerPort": 80, "name": "web"}, {"containerPort": 5353, "protocol": "UDP", "name": "dns"}]}]}}))
}

/// A policy of namespace `demo`.
pub(crate) fn policy(name: &str, spec: &Value) -> Object {
    object(&json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": "demo", "name": name}, "spec": spec}))
}

/// A cluster of these.
pub(crate) fn cluster<'a>(objects: impl IntoIterator<Item = &'a Object>) -> Cluster {
    let mut cluster = Cluster::default();
    for object in objects {
        cluster.upsert(object);
    }
    cluster
}

/// A pod's interface on its node.
pub(crate) fn endpoint(namespace: &str, pod: &str, ips: &[&str]) -> Endpoint {
    Endpoint {
        namespace: namespace.to_owned(),
        pod: pod.to_owned(),
        interface: host_interface(namespace, pod),
        ips: ips.iter().map(|ip| addr(ip)).collect(),
    }
}

/// An address.
pub(crate) fn addr(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// The table of one node, ready for packets.
pub(crate) fn node(cluster: &Cluster, endpoints: &[Endpoint], generation: Generation) -> (Ruleset, Interpreter) {
    let ruleset = compile(cluster, endpoints, generation, &CompileOptions::default());
    let table = Interpreter::new(&ruleset).expect("a ruleset that the kernel would take");
    (ruleset, table)
}

/// A flow by its two ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flow {
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    pub(crate) traffic: Traffic,
}

impl Flow {
    /// A packet of the flow at a node. What has no ports has something else in their place, which the kernel would read all the same.
    pub(crate) fn packet(&self, direction: Direction, state: FlowState, mark: u32, iif: &str) -> Packet {
        let there = direction == Direction::Original;
        let (saddr, daddr) = if there { (self.from, self.to) } else { (self.to, self.from) };
        let (sport, dport, icmp) = match self.traffic {
            Traffic::Ports { source, port, .. } if there => (source, port, None),
            Traffic::Ports { source, port, .. } => (port, source, None),
            Traffic::Icmp { kind, code, .. } => {
                let kind = if there { kind } else { answer_to(kind) };
                (u16::from_be_bytes([kind, code]), 80, Some((kind, code)))
            }
            Traffic::Other(_) => (CLIENT_PORT, 80, None),
        };
        Packet {
            iif: iif.to_owned(),
            oif: String::new(),
            saddr,
            daddr,
            l4proto: self.traffic.protocol(),
            sport: Some(sport),
            dport: Some(dport),
            icmp,
            ct: Conntrack::Flow { state, direction, mark },
            dnat: false,
        }
    }
}

/// The type of ICMP or ICMPv6 by which a request is answered.
fn answer_to(kind: u8) -> u8 {
    match kind {
        8 => 0,
        13 | 15 | 17 | 128 | 139 => kind + 1,
        other => panic!("type {other} of ICMP begins no flow"),
    }
}

/// Whether a node lets the packet through to `oif`, or to itself where that is empty.
pub(crate) fn passes(table: &Interpreter, packet: &mut Packet, oif: &str) -> bool {
    passes_noting(table, packet, oif, &mut Vec::new())
}

/// The same, and which named counters counted the packet.
fn passes_noting(table: &Interpreter, packet: &mut Packet, oif: &str, counted: &mut Vec<String>) -> bool {
    let mut run = |hook, packet: &mut Packet| {
        let walk = table.trace(hook, packet);
        counted.extend(walk.counted);
        walk.outcome == Outcome::Accept
    };
    if !run(HookPoint::Prerouting, packet) {
        return false;
    }
    oif.clone_into(&mut packet.oif);
    run(if oif.is_empty() { HookPoint::Input } else { HookPoint::Forward }, packet)
}

/// Where an address is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Location {
    /// Its node; none for the outside.
    pub(crate) node: Option<String>,
    /// Its interface there; none for the node itself.
    pub(crate) interface: Option<String>,
}

/// All nodes of a cluster, each with its table, and the flows that their conntracks know.
pub(crate) struct Network {
    pub(crate) tables: BTreeMap<String, Interpreter>,
    pub(crate) rulesets: BTreeMap<String, Ruleset>,
    places: BTreeMap<IpAddr, Location>,
}

impl Network {
    /// The network of these manifests; node `N` has the address that `nodes` gives it.
    pub(crate) fn new(offline: &Offline, generation: Generation, nodes: &[(&str, IpAddr)]) -> Self {
        let mut network = Self { tables: BTreeMap::new(), rulesets: BTreeMap::new(), places: BTreeMap::new() };
        for name in offline.nodes() {
            let endpoints = offline.endpoints(name);
            let (ruleset, table) = node(offline.cluster(), &endpoints, generation);
            network.tables.insert(name.to_owned(), table);
            network.rulesets.insert(name.to_owned(), ruleset);
            for endpoint in endpoints {
                for ip in endpoint.ips {
                    let interface = Some(endpoint.interface.clone());
                    network.places.insert(ip, Location { node: Some(name.to_owned()), interface });
                }
            }
        }
        for (name, ip) in nodes {
            network.places.insert(*ip, Location { node: Some((*name).to_owned()), interface: None });
        }
        network
    }

    /// Where an address is.
    pub(crate) fn place(&self, address: IpAddr) -> Location {
        self.places.get(&address).cloned().unwrap_or(Location { node: None, interface: None })
    }

    /// The nodes that a packet of the flow crosses, each with the interfaces by which it comes and goes.
    fn hops(&self, flow: &Flow, direction: Direction) -> Vec<(String, Option<String>, Option<String>)> {
        let (source, destination) = match direction {
            Direction::Original => (self.place(flow.from), self.place(flow.to)),
            Direction::Reply => (self.place(flow.to), self.place(flow.from)),
        };
        // On the wire between nodes, and to and from the outside, it is eth0. What a node itself sends meets no chain there.
        let uplink = || Some("eth0".to_owned());
        let mut hops = Vec::new();
        match (source.node, destination.node) {
            (Some(a), Some(b)) if a == b => hops.push((a, source.interface, destination.interface)),
            (a, b) => {
                hops.extend(a.map(|a| (a, source.interface, uplink())));
                hops.extend(b.map(|b| (b, uplink(), destination.interface)));
            }
        }
        hops
    }

    /// Sends one packet of a flow. `marks` are the flow's marks on each node where it is a pod's. Whether it arrived.
    pub(crate) fn send(
        &self,
        flow: &Flow,
        direction: Direction,
        state: FlowState,
        marks: &mut BTreeMap<String, u32>,
    ) -> bool {
        self.send_noting(flow, direction, state, marks, &mut Vec::new())
    }

    /// The same, and what the counters of hits that counted the packet say that they count, in order.
    pub(crate) fn send_noting(
        &self,
        flow: &Flow,
        direction: Direction,
        state: FlowState,
        marks: &mut BTreeMap<String, u32>,
        hits: &mut Vec<String>,
    ) -> bool {
        for (name, iif, oif) in self.hops(flow, direction) {
            let (Some(iif), Some(table)) = (iif, self.tables.get(&name)) else { continue };
            let mut packet = flow.packet(direction, state, marks.get(&name).copied().unwrap_or(0), &iif);
            let oif = oif.unwrap_or_default();
            let mut counted = Vec::new();
            let passed = passes_noting(table, &mut packet, &oif, &mut counted);
            hits.extend(counted.iter().filter_map(|counter| self.hit(&name, counter)));
            let mark = packet.ct.mark().expect("a tracked packet");
            if iif.starts_with("cali") || oif.starts_with("cali") {
                marks.insert(name, mark);
            } else {
                assert_eq!(mark, 0, "what is not a pod's stays as it is");
            }
            if !passed {
                return false;
            }
        }
        true
    }

    /// What a counter counts, in words; none if it counts no hits.
    fn hit(&self, node: &str, counter: &str) -> Option<String> {
        let counts_hits = ["h_", "d_", "a_"].iter().any(|prefix| counter.starts_with(prefix));
        let comment = self.rulesets[node].counters.get(counter).expect("a counter of the table").as_deref();
        let comment = comment.filter(|_| counts_hits)?;
        assert!(Counted::of(counter, comment).is_some(), "{counter} is not named after {comment:?}");
        Some(comment.to_owned())
    }

    /// The nodes that judge a flow: those on its way where one of its ends is a pod, but not a pod's node that begins it itself.
    pub(crate) fn judges(&self, flow: &Flow) -> Vec<String> {
        let of_pod = |interface: &Option<String>| interface.as_ref().is_some_and(|name| name.starts_with("cali"));
        let hops = self.hops(flow, Direction::Original).into_iter();
        hops.filter(|(_, iif, oif)| iif.is_some() && (of_pod(iif) || of_pod(oif))).map(|(node, ..)| node).collect()
    }

    /// Whether the first packet of a flow passes one node on its way, if it comes by there.
    pub(crate) fn send_through(&self, node: &str, flow: &Flow) -> bool {
        self.hops(flow, Direction::Original).into_iter().filter(|(name, ..)| name == node).all(|(name, iif, oif)| {
            let (Some(iif), Some(table)) = (iif, self.tables.get(&name)) else { return true };
            let mut packet = flow.packet(Direction::Original, FlowState::New, 0, &iif);
            passes(table, &mut packet, &oif.unwrap_or_default())
        })
    }
}
