//! Generated nodes, namespaces, pods and Kubernetes NetworkPolicies, as documents.
//!
//! There are few labels, few addresses and few ports, so that selectors, blocks, exceptions, names and ranges meet and overlap all the
//! time.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Value, json};

pub(crate) const NAMESPACES: [&str; 3] = ["x", "y", "z"];
pub(crate) const NODES: [(&str, &str, &str); 2] =
    [("n1", "10.0.0.250", "fd00::250"), ("n2", "10.0.0.251", "fd00::251")];
pub(crate) const OUTSIDE: [&str; 4] = ["10.0.0.200", "192.0.2.1", "fd00::200", "2001:db8::1"];
pub(crate) const PROBED: [u16; 7] = [1, 53, 79, 80, 81, 8080, 65535];

pub(crate) fn labels() -> impl Strategy<Value = Value> {
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

pub(crate) fn pod_selector() -> impl Strategy<Value = Value> {
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

/// Networks that meet the addresses of pods, nodes and the outside in every way.
pub(crate) fn nets() -> Vec<&'static str> {
    vec![
        "0.0.0.0/0",
        "0.0.0.0/1",
        "128.0.0.0/1",
        "10.0.0.0/24",
        "10.0.0.2/31",
        "10.0.0.1/32",
        "10.0.0.250/32",
        "192.0.2.0/25",
        "192.0.2.1/32",
        "::/0",
        "fd00::/120",
        "fd00::2/127",
        "fd00::1/128",
        "2001:db8::/32",
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
        pod_selector(),
        select(NAMESPACES.to_vec()).prop_map(|name| json!({"matchLabels": {"kubernetes.io/metadata.name": name}})),
    ];
    prop_oneof![
        3 => block().prop_map(|block| json!({"ipBlock": block})),
        3 => pod_selector().prop_map(|pods| json!({"podSelector": pods})),
        1 => pod_selector().prop_map(|namespaces| json!({"namespaceSelector": namespaces})),
        2 => (pod_selector(), namespaces).prop_map(|(p, n)| json!({"podSelector": p, "namespaceSelector": n})),
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

pub(crate) fn a_policy(index: usize) -> BoxedStrategy<Value> {
    let types = select(vec![vec![], vec!["Ingress"], vec!["Egress"], vec!["Ingress", "Egress"]]);
    (select(NAMESPACES.to_vec()), pod_selector(), types, rules("from"), rules("to"), 0..4u8)
        .prop_map(move |(namespace, pods, types, ingress, egress, leave_out)| {
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
        })
        .boxed()
}

pub(crate) fn policies() -> impl Strategy<Value = Vec<Value>> {
    (0..5usize).prop_flat_map(|count| (0..count).map(a_policy).collect::<Vec<_>>())
}

fn a_pod(index: usize) -> BoxedStrategy<Value> {
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
    let account = select(vec![None, None, Some("runner"), Some("robot")]);
    let fate = prop_oneof![12 => Just(""), 1 => Just("hostNetwork"), 1 => Just("Succeeded")];
    (select(NAMESPACES.to_vec()), labels(), ports, addresses, node, account, fate)
        .prop_map(move |(namespace, labels, ports, addresses, node, account, fate)| {
            let ips: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
            let mut pod = json!({"apiVersion": "v1", "kind": "Pod",
                "metadata": {"namespace": namespace, "name": format!("pod{index}"), "labels": labels},
                "spec": {"containers": [{"name": "c", "ports": ports}]},
                "status": {"phase": "Running", "podIPs": ips}});
            if let Some(node) = node {
                pod["spec"]["nodeName"] = json!(node);
            }
            if let Some(account) = account {
                pod["spec"]["serviceAccountName"] = json!(account);
            }
            match fate {
                "hostNetwork" => pod["spec"]["hostNetwork"] = json!(true),
                "Succeeded" => pod["status"]["phase"] = json!(fate),
                _ => {}
            }
            pod
        })
        .boxed()
}

pub(crate) fn pods() -> impl Strategy<Value = Vec<Value>> {
    (1..6usize).prop_flat_map(|count| (0..count).map(a_pod).collect::<Vec<_>>())
}

pub(crate) fn frame(namespace_labels: &[Value]) -> Vec<Value> {
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

/// One document of a crowded cluster: names meet, so that most replace another.
pub(crate) fn change_documents() -> BoxedStrategy<Value> {
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
    .boxed()
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
