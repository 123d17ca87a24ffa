//! Generated clusters: what the compiler makes of them, by interpreted packets, against what the oracle says.
//!
//! The clusters are small and crowded: few labels, few addresses and few ports, so that selectors, blocks, exceptions, names and
//! ranges meet and overlap all the time.

use std::collections::BTreeMap;
use std::net::IpAddr;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Value, json};
use tortie_api::Object;
use tortie_api::k8s::Protocol;
use tortie_nft::interpreter::FlowState;
use tortie_nft::{Direction, Family};
use tortie_policy::matrix::{Engine, Query, matrix};
use tortie_policy::offline::Offline;
use tortie_policy::oracle::{End, Question, verdict};
use tortie_policy::{Generation, MarkMask, tightens};

use crate::support::{Flow, Network, addr, object};

const NAMESPACES: [&str; 3] = ["x", "y", "z"];
const NODES: [(&str, &str, &str); 2] = [("n1", "10.0.0.250", "fd00::250"), ("n2", "10.0.0.251", "fd00::251")];
const OUTSIDE: [&str; 4] = ["10.0.0.200", "192.0.2.1", "fd00::200", "2001:db8::1"];
const PROBED: [u16; 7] = [1, 53, 79, 80, 81, 8080, 65535];

fn documents_of(world: &World) -> Vec<Object> {
    world.documents.iter().map(object).collect()
}

/// A cluster, as documents. Shown as such when a case fails.
#[derive(Clone)]
struct World {
    documents: Vec<Value>,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.documents.iter().try_for_each(|document| write!(f, "\n{document}"))
    }
}

fn labels() -> impl Strategy<Value = Value> {
    (select(vec!["", "1", "2"]), select(vec!["", "1", "2"])).prop_map(|(a, b)| {
        let mut labels = serde_json::Map::new();
        for (key, value) in [("a", a), ("b", b)] {
            if !value.is_empty() {
                labels.insert(key.to_owned(), json!(value));
            }
        }
        Value::Object(labels)
    })
}

fn selector() -> impl Strategy<Value = Value> {
    let expression =
        (select(vec!["a", "b"]), 0..4, subsequence(vec!["1", "2", "3"], 1..3)).prop_map(|(key, operator, values)| {
            match operator {
                0 => json!({"key": key, "operator": "In", "values": values}),
                1 => json!({"key": key, "operator": "NotIn", "values": values}),
                2 => json!({"key": key, "operator": "Exists"}),
                _ => json!({"key": key, "operator": "DoesNotExist"}),
            }
        });
    prop_oneof![
        2 => Just(json!({})),
        3 => labels().prop_map(|labels| json!({"matchLabels": labels})),
        3 => (labels(), vec(expression, 0..3))
            .prop_map(|(labels, expressions)| json!({"matchLabels": labels, "matchExpressions": expressions})),
    ]
}

fn block() -> impl Strategy<Value = Value> {
    let blocks = vec![
        ("0.0.0.0/0", vec!["10.0.0.0/8", "10.0.0.0/30", "10.0.0.2/32", "128.0.0.0/1"]),
        ("0.0.0.0/1", vec!["10.0.0.0/29", "10.0.0.3/32"]),
        ("128.0.0.0/1", vec!["192.0.2.0/24"]),
        ("10.0.0.0/24", vec!["10.0.0.0/30", "10.0.0.2/31", "10.0.0.128/25", "10.0.0.4/32"]),
        ("10.0.0.2/31", vec!["10.0.0.3/32"]),
        ("10.0.0.1/32", vec![]),
        ("10.0.0.250/32", vec![]),
        ("192.0.2.0/25", vec!["192.0.2.1/32"]),
        ("::/0", vec!["fd00::/64", "fd00::2/127"]),
        ("fd00::/120", vec!["fd00::2/128", "fd00::4/126"]),
        ("2001:db8::/32", vec!["2001:db8::/127"]),
    ];
    select(blocks).prop_flat_map(|(cidr, excepts)| {
        let most = excepts.len();
        subsequence(excepts, 0..=most).prop_map(move |except| json!({"cidr": cidr, "except": except}))
    })
}

fn peer() -> impl Strategy<Value = Value> {
    let namespaces = prop_oneof![
        selector(),
        select(NAMESPACES.to_vec()).prop_map(|name| json!({"matchLabels": {"kubernetes.io/metadata.name": name}})),
    ];
    prop_oneof![
        3 => block().prop_map(|block| json!({"ipBlock": block})),
        3 => selector().prop_map(|pods| json!({"podSelector": pods})),
        1 => selector().prop_map(|namespaces| json!({"namespaceSelector": namespaces})),
        2 => (selector(), namespaces).prop_map(|(p, n)| json!({"podSelector": p, "namespaceSelector": n})),
    ]
}

fn port() -> impl Strategy<Value = Value> {
    let protocol = select(vec![None, Some("TCP"), Some("UDP"), Some("SCTP")]);
    let number = select(PROBED.to_vec());
    let which = prop_oneof![
        2 => Just(json!({})),
        4 => number.clone().prop_map(|port| json!({"port": port})),
        3 => (number.clone(), number).prop_map(|(a, b)| json!({"port": a.min(b), "endPort": a.max(b)})),
        3 => select(vec!["web", "dns", "alt", "gone"]).prop_map(|name| json!({"port": name})),
    ];
    (protocol, which).prop_map(|(protocol, mut port)| {
        if let Some(protocol) = protocol {
            port["protocol"] = json!(protocol);
        }
        port
    })
}

/// Rules: empty and absent lists included.
fn rules(peers: &'static str) -> impl Strategy<Value = Value> {
    let list = |values: Vec<Value>, absent: bool| (!(values.is_empty() && absent)).then_some(values);
    let rule = (vec(peer(), 0..3), any::<bool>(), vec(port(), 0..4), any::<bool>()).prop_map(
        move |(who, no_peers, ports, no_ports)| {
            let mut rule = json!({});
            if let Some(who) = list(who, no_peers) {
                rule[peers] = json!(who);
            }
            if let Some(ports) = list(ports, no_ports) {
                rule["ports"] = json!(ports);
            }
            rule
        },
    );
    vec(rule, 0..3).prop_map(|rules| json!(rules))
}

fn a_policy(index: usize) -> impl Strategy<Value = Value> {
    let types = select(vec![vec![], vec!["Ingress"], vec!["Egress"], vec!["Ingress", "Egress"]]);
    (select(NAMESPACES.to_vec()), selector(), types, rules("from"), rules("to"), 0..4u8).prop_map(
        move |(namespace, pods, types, ingress, egress, leave_out)| {
            let mut spec = json!({"podSelector": pods});
            if !types.is_empty() {
                spec["policyTypes"] = json!(types);
            }
            if leave_out & 1 == 0 {
                spec["ingress"] = ingress;
            }
            if leave_out & 2 == 0 {
                spec["egress"] = egress;
            }
            json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                "metadata": {"namespace": namespace, "name": format!("p{index}")}, "spec": spec})
        },
    )
}

fn policies() -> impl Strategy<Value = Vec<Value>> {
    (0..5usize).prop_flat_map(|count| (0..count).map(a_policy).collect::<Vec<_>>())
}

fn a_pod(index: usize) -> impl Strategy<Value = Value> {
    let declared = subsequence(
        vec![
            json!({"containerPort": 80, "name": "web"}),
            json!({"containerPort": 8080, "name": "alt"}),
            json!({"containerPort": 53, "name": "dns", "protocol": "UDP"}),
            json!({"containerPort": 81, "name": "dns-tcp", "protocol": "TCP"}),
            json!({"containerPort": 65535, "protocol": "SCTP"}),
        ],
        0..=5,
    );
    // The same name for another number than elsewhere, and for another protocol.
    let renamed =
        select(vec![json!({"containerPort": 79, "name": "web"}), json!({"containerPort": 80, "name": "dns"})]);
    let ports = prop_oneof![3 => declared, 1 => renamed.prop_map(|port| vec![port])];
    let number = index + 1;
    let addresses = prop_oneof![
        4 => Just(vec![format!("10.0.0.{number}"), format!("fd00::{number}")]),
        3 => Just(vec![format!("10.0.0.{number}")]),
        1 => Just(vec![format!("fd00::{number}")]),
        1 => Just(vec![]),
    ];
    let node = select(vec![None, Some("n1"), Some("n1"), Some("n2"), Some("n2")]);
    let fate = prop_oneof![12 => Just(""), 1 => Just("hostNetwork"), 1 => Just("Succeeded")];
    (select(NAMESPACES.to_vec()), labels(), ports, addresses, node, fate).prop_map(
        move |(namespace, labels, ports, addresses, node, fate)| {
            let ips: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
            let mut pod = json!({"apiVersion": "v1", "kind": "Pod",
                "metadata": {"namespace": namespace, "name": format!("pod{index}"), "labels": labels},
                "spec": {"containers": [{"name": "c", "ports": ports}]},
                "status": {"phase": "Running", "podIPs": ips}});
            if let Some(node) = node {
                pod["spec"]["nodeName"] = json!(node);
            }
            match fate {
                "hostNetwork" => pod["spec"]["hostNetwork"] = json!(true),
                "Succeeded" => pod["status"]["phase"] = json!(fate),
                _ => {}
            }
            pod
        },
    )
}

fn pods() -> impl Strategy<Value = Vec<Value>> {
    (1..6usize).prop_flat_map(|count| (0..count).map(a_pod).collect::<Vec<_>>())
}

fn frame(namespace_labels: &[Value]) -> Vec<Value> {
    let nodes = NODES.iter().map(|(name, v4, v6)| {
        let addresses = [v4, v6].map(|ip| json!({"type": "InternalIP", "address": ip}));
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "status": {"addresses": addresses}})
    });
    // The last namespace has no document.
    let namespaces = NAMESPACES.iter().zip(namespace_labels).map(
        |(name, labels)| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}),
    );
    nodes.chain(namespaces).collect()
}

fn world() -> impl Strategy<Value = World> {
    (vec(labels(), 2), pods(), policies()).prop_map(|(labels, pods, policies)| {
        let mut documents = frame(&labels);
        documents.extend(pods);
        documents.extend(policies);
        World { documents }
    })
}

/// The same with every pod on a node.
fn placed(mut world: World) -> World {
    for document in world.documents.iter_mut().filter(|document| document["kind"] == "Pod") {
        if document["spec"]["nodeName"].is_null() {
            document["spec"]["nodeName"] = json!("n2");
        }
    }
    world
}

/// A cluster before and after a change: some policies go, some come, some pods change, come and go.
fn change() -> impl Strategy<Value = (World, World)> {
    let keep = || vec(prop::bool::weighted(0.8), 8);
    (vec(labels(), 2), vec(labels(), 2), pods(), pods(), policies(), policies(), keep(), keep(), 0..8u8).prop_map(
        |(namespaces, namespaces2, pods, pods2, policies, policies2, keep_pods, keep_policies, what)| {
            let world = |labels: &[Value], parts: [&[Value]; 2]| {
                let mut documents = frame(labels);
                documents.extend(parts.into_iter().flatten().cloned());
                World { documents }
            };
            let mixed = |old: &[Value], new: &[Value], keep: &[bool]| -> Vec<Value> {
                let count = old.len().max(new.len());
                (0..count)
                    .filter_map(|index| if keep[index] { old.get(index) } else { new.get(index) }.cloned())
                    .collect()
            };
            let before = world(&namespaces, [&pods, &policies]);
            let namespaces = if what == 0 { namespaces2 } else { namespaces };
            let pods = if what & 1 == 0 { mixed(&pods, &pods2, &keep_pods) } else { pods };
            let policies = if what & 2 == 0 { mixed(&policies, &policies2, &keep_policies) } else { policies };
            (before, world(&namespaces, [&pods, &policies]))
        },
    )
}

/// One document of a crowded cluster: names meet, so that most replace another.
pub(crate) fn change_documents() -> impl Strategy<Value = Value> {
    let namespace =
        (vec(labels(), 2), 0..2usize).prop_map(|(labels, which)| frame(&labels).swap_remove(NODES.len() + which));
    prop_oneof![
        2 => namespace,
        2 => a_pool(),
        1 => a_node(),
        5 => (0..5usize).prop_flat_map(a_pod),
        3 => ((0..5usize).prop_flat_map(a_pod), annotations()).prop_map(|(mut pod, annotations)| {
            pod["metadata"]["annotations"] = annotations;
            pod
        }),
        1 => (0..5usize, 0..5usize).prop_flat_map(|(name, address)| (a_pod(address), Just(name)))
            .prop_map(|(mut pod, name)| {
                pod["metadata"]["name"] = json!(format!("pod{name}"));
                pod
            }),
        4 => (0..4usize).prop_flat_map(a_policy),
    ]
}

/// Annotations that some pods have.
fn annotations() -> impl Strategy<Value = Value> {
    let qos = |name: &str| format!("qos.projectcalico.org/{name}");
    prop_oneof![
        Just(json!({qos("ingressPacketRate"): "100"})),
        Just(json!({qos("ingressPacketRate"): "100", qos("ingressPacketBurst"): "7"})),
        Just(json!({qos("egressMaxConnections"): "3", qos("ingressMaxConnections"): "3"})),
        Just(json!({"cni.projectcalico.org/allowedSourcePrefixes": "[\"192.0.2.0/24\", \"2001:db8::/32\"]"})),
        Just(json!({"cni.projectcalico.org/allowedSourcePrefixes": "[\"10.0.0.1\"]", qos("egressPacketRate"): "0"})),
        Just(json!({"cni.projectcalico.org/allowedSourcePrefixes": "nonsense", qos("egressPacketRate"): "-1"})),
        Just(json!({"other": "thing"})),
    ]
}

fn a_pool() -> impl Strategy<Value = Value> {
    let pool = prop_oneof![
        Just((0, "10.0.0.0/24")),
        Just((0, "10.0.0.0/25")),
        Just((1, "10.0.0.128/25")),
        Just((1, "fd00::/64")),
        Just((2, "192.0.2.0/24")),
    ];
    (pool, any::<bool>(), any::<bool>()).prop_map(|((name, cidr), nat, disabled)| {
        json!({"apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": {"name": format!("pool{name}")},
            "spec": {"cidr": cidr, "natOutgoing": nat, "disabled": disabled}})
    })
}

fn a_node() -> impl Strategy<Value = Value> {
    let addresses =
        prop_oneof![Just(vec!["172.31.0.2", "fd00:31::2"]), Just(vec!["172.31.0.2"]), Just(vec!["172.31.0.3"])];
    (0..NODES.len(), addresses).prop_map(|(node, addresses)| {
        let addresses: Vec<Value> =
            addresses.into_iter().map(|address| json!({"type": "InternalIP", "address": address})).collect();
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODES[node].0},
            "status": {"addresses": addresses}})
    })
}

/// The addresses of all endpoints that have one.
fn endpoint_addresses(offline: &Offline) -> Vec<IpAddr> {
    offline.nodes().into_iter().flat_map(|node| offline.endpoints(node)).flat_map(|endpoint| endpoint.ips).collect()
}

fn node_addresses() -> Vec<(&'static str, IpAddr)> {
    NODES.iter().flat_map(|(name, v4, v6)| [(*name, addr(v4)), (*name, addr(v6))]).collect()
}

/// The addresses of pods that are no endpoints.
fn other_addresses(world: &World) -> Vec<IpAddr> {
    let not_endpoints = documents_of(world).into_iter().filter_map(|object| match object {
        Object::Pod(pod) if !pod.is_endpoint() => Some(pod.addresses()),
        _ => None,
    });
    not_endpoints.flatten().collect()
}

/// Flows between pods, and between pods and nodes, the outside, and `strangers`.
fn flows(offline: &Offline, strangers: &[IpAddr], ports: &[(Protocol, u16)]) -> Vec<Flow> {
    let pods = endpoint_addresses(offline);
    let others: Vec<IpAddr> = node_addresses()
        .into_iter()
        .map(|(_, ip)| ip)
        .chain(OUTSIDE.iter().map(|ip| addr(ip)))
        .chain(strangers.iter().copied())
        .collect();
    let mut flows = Vec::new();
    for (index, from) in pods.iter().chain(&others).enumerate() {
        for (other, to) in pods.iter().chain(&others).enumerate() {
            if from.is_ipv4() == to.is_ipv4() && (index < pods.len() || other < pods.len()) {
                flows.extend(ports.iter().map(|&(protocol, port)| Flow { from: *from, to: *to, protocol, port }));
            }
        }
    }
    flows
}

fn asked(offline: &Offline, flow: &Flow) -> bool {
    let question = Question {
        from: End::Address(flow.from),
        to: End::Address(flow.to),
        protocol: flow.protocol,
        port: flow.port,
        family: None,
    };
    verdict(offline.cluster(), &question).expect("both ends have addresses").allowed
}

fn probed_ports() -> impl Strategy<Value = Vec<(Protocol, u16)>> {
    let all: Vec<_> = Protocol::ALL.iter().flat_map(|protocol| PROBED.map(|port| (*protocol, port))).collect();
    let most = all.len();
    subsequence(all, 6..=most.min(12))
}

pub(crate) fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(4_000))]

    /// The matrix of both engines, in both families: pods without addresses and pods on no node included.
    #[test]
    fn compiler_and_oracle_agree(world in world(), ports in probed_ports()) {
        let offline = Offline::new(&documents_of(&world));
        for family in [Family::V4, Family::V6] {
            let ask = |engine| {
                matrix(&offline, &Query { ports: Some(ports.clone()), family, engine }).expect("a matrix")
            };
            let (compiled, oracle) = (ask(Engine::Compiled), ask(Engine::Oracle));
            for (compiled, oracle) in compiled.iter().zip(&oracle) {
                prop_assert_eq!(compiled, oracle, "compiled, and what the oracle says");
            }
            prop_assert_eq!(compiled.len(), oracle.len());
        }
    }
}

proptest! {
    #![proptest_config(cases(1_000))]

    /// Packets of a flow: the first; its answer after the generation moved; and what the flow's mark says all the while. Between
    /// pods, nodes and the outside.
    #[test]
    fn both_directions_are_judged_alike(world in world().prop_map(placed), ports in probed_ports()) {
        let offline = Offline::new(&documents_of(&world));
        let nodes = node_addresses();
        let first = Generation::seed(1);
        let second = first.next();
        let before = Network::new(&offline, first, &nodes);
        let after = Network::new(&offline, second, &nodes);
        for flow in flows(&offline, &other_addresses(&world), &ports[..4]) {
            let allowed = asked(&offline, &flow);
            let mut marks = BTreeMap::new();
            prop_assert_eq!(before.send(&flow, Direction::Original, FlowState::New, &mut marks), allowed, "{:?}", flow);
            let stamped = |marks: &BTreeMap<String, u32>, mark: u32| marks.values().filter(|m| **m == mark).count();
            // A pod's flow to itself needs no stamp.
            let judges = before.judges(&flow);
            let hops = if flow.from == flow.to { 0 } else { judges.len() };
            if allowed {
                prop_assert_eq!(stamped(&marks, first.live_mark(MarkMask::default())), hops, "{:?} {:?}", flow, marks);
            } else {
                prop_assert!(stamped(&marks, first.live_mark(MarkMask::default())) < hops, "{:?} {:?}", flow, marks);
            }

            // Had the flow been allowed once, its packets carry old stamps; the answer may well come first.
            let mut old: BTreeMap<String, u32> = judges.into_iter().map(|node| (node, first.live_mark(MarkMask::default()))).collect();
            prop_assert!(before.send(&flow, Direction::Reply, FlowState::Established, &mut old.clone()));
            let answered = after.send(&flow, Direction::Reply, FlowState::Established, &mut old);
            // The node itself answers unasked; what it sends meets no chain, and what it began is never cut.
            let from_own_node = before.place(flow.to).interface.is_none() && before.place(flow.to).node.is_some();
            if from_own_node && before.place(flow.to).node == before.place(flow.from).node {
                prop_assert!(answered);
                continue;
            }
            prop_assert_eq!(answered, allowed, "the answer of {:?}", flow);
            if allowed {
                prop_assert!(old.values().all(|mark| *mark == second.live_mark(MarkMask::default())) || hops == 0, "{:?} {:?}", flow, old);
            } else {
                prop_assert!(stamped(&old, second.live_mark(MarkMask::default())) < hops, "{:?} {:?}", flow, old);
            }
        }
    }

    /// A change that is said not to tighten takes nothing away from flows that were stamped before it.
    #[test]
    fn what_does_not_tighten_denies_nothing((before, after) in change(), ports in probed_ports()) {
        let (before, after) = (Offline::new(&documents_of(&before)), Offline::new(&documents_of(&after)));
        let nodes = node_addresses();
        let generation = Generation::seed(1);
        let (old, new) = (Network::new(&before, generation, &nodes), Network::new(&after, generation, &nodes));
        for (name, current) in &old.rulesets {
            let Some(want) = new.rulesets.get(name) else { continue };
            if tightens(current, want) {
                continue;
            }
            for flow in flows(&before, &[], &ports[..6]) {
                let mut marks = BTreeMap::new();
                old.send(&flow, Direction::Original, FlowState::New, &mut marks);
                if marks.get(name) == Some(&generation.live_mark(MarkMask::default())) {
                    // This node would now let the flow pass unjudged; judged anew it must pass here, too.
                    prop_assert!(new.send_through(name, &flow), "{:?} on {}", flow, name);
                }
            }
        }
    }

    /// The order in which resources come does not show.
    #[test]
    fn order_does_not_matter(world in world().prop_flat_map(|world| {
        (Just(world.documents.clone()), Just(world.documents).prop_shuffle())
    })) {
        let (one, other) = world;
        let of = |documents: Vec<Value>| Offline::new(&documents_of(&World { documents }));
        let (one, other) = (of(one), of(other));
        for node in one.nodes() {
            let options = tortie_policy::CompileOptions::default();
            prop_assert_eq!(one.render(node, &options), other.render(node, &options));
        }
    }

    /// A cluster that changed is the same as one that was so from the start.
    #[test]
    fn the_past_does_not_matter((before, after) in change()) {
        let (before, after) = (documents_of(&before), documents_of(&after));
        let mut changed = crate::support::cluster(&before);
        let fresh = crate::support::cluster(&after);
        for object in &before {
            if !after.iter().any(|other| other.key() == object.key()) {
                changed.remove(&object.key());
            }
        }
        for object in &after {
            changed.upsert(object);
        }
        let offline = Offline::new(&after);
        for node in offline.nodes() {
            let endpoints = offline.endpoints(node);
            let compiled = |cluster| crate::support::node(cluster, &endpoints, Generation::seed(3)).0;
            prop_assert_eq!(compiled(&changed), compiled(&fresh));
        }
    }
}
