//! The documents of crowded worlds: a few pods, names and labels that collide all the time, and policies each about one theme, whose rules
//! ask for little.

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Value, json};

use crate::documents::NODES;
use crate::kinds::key;

/// What the rules of a world are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Theme {
    /// Little: that what comes first decides.
    Order,
    /// Selectors.
    Whom,
    /// Networks.
    Nets,
    /// Protocols and messages of ICMP.
    Packet,
    /// Ports.
    Ports,
    /// Service accounts, Services and labels that are inherited.
    Accounts,
}

pub(crate) const THEMES: [Theme; 6] =
    [Theme::Order, Theme::Whom, Theme::Nets, Theme::Packet, Theme::Ports, Theme::Accounts];

/// One label or two, of few values.
pub(crate) fn labels() -> impl Strategy<Value = Value> {
    let value = || select(vec!["1", "2"]);
    (value(), prop::option::weighted(0.4, value())).prop_map(|(a, b)| match b {
        Some(b) => json!({"a": a, "b": b}),
        None => json!({"a": a}),
    })
}

const PLACES: [(&str, &str); 4] = [("x", "n1"), ("x", "n2"), ("y", "n2"), ("y", "n1")];

/// Four pods in two namespaces on two nodes, what labels them, and whoever else may be a peer.
pub(crate) fn crowd() -> BoxedStrategy<Vec<Value>> {
    let port =
        |name: &str, number: u16, protocol: &str| json!({"name": name, "containerPort": number, "protocol": protocol});
    let web = select(vec![
        vec![port("web", 80, "TCP")],
        vec![port("web", 81, "TCP")],
        vec![port("web", 80, "UDP"), port("dns", 53, "UDP")],
        vec![],
    ]);
    let account = select(vec!["default", "robot", "runner"]);
    let pods = vec((labels(), web, account, prop::bool::weighted(0.3)), PLACES.len());
    let namespaces = vec(labels(), 2);
    let accounts = vec(prop::option::of(labels()), 4);
    let nets = || subsequence(vec!["192.0.2.1/32", "10.0.0.2/31", "10.0.0.4/32", "fd00::2/127", "2001:db8::/32"], 1..3);
    let sets = vec(prop::option::weighted(0.5, (labels(), nets())), 3);
    let host = prop::option::weighted(0.4, (labels(), select(vec!["192.0.2.1", "10.0.0.200", "10.0.0.250"])));
    let slice = (subsequence(vec!["10.0.0.1", "10.0.0.2", "10.0.0.3", "192.0.2.1"], 1..4), select(vec![80, 81]));
    (pods, namespaces, accounts, sets, host, slice)
        .prop_map(|(pods, namespaces, accounts, sets, host, (backends, port))| {
            let nodes = NODES.iter().map(|(name, v4, v6)| {
                let addresses = [v4, v6].map(|ip| json!({"type": "InternalIP", "address": ip}));
                json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "status": {"addresses": addresses}})
            });
            let mut documents: Vec<Value> = nodes.collect();
            for (name, labels) in ["x", "y"].iter().zip(namespaces) {
                documents.push(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}));
            }
            for (index, labels) in accounts.into_iter().enumerate() {
                let (namespace, name) = (["x", "y"][index % 2], ["robot", "runner"][index / 2]);
                documents.extend(labels.map(|labels| json!({"apiVersion": "v1", "kind": "ServiceAccount",
                    "metadata": {"namespace": namespace, "name": name, "labels": labels}})));
            }
            for (index, (labels, ports, account, both)) in pods.into_iter().enumerate() {
                let number = index + 1;
                let mut ips = vec![json!({"ip": format!("10.0.0.{number}")})];
                if both {
                    ips.push(json!({"ip": format!("fd00::{number}")}));
                }
                let (namespace, node) = PLACES[index];
                documents.push(json!({"apiVersion": "v1", "kind": "Pod",
                    "metadata": {"namespace": namespace, "name": format!("pod{index}"), "labels": labels},
                    "spec": {"nodeName": node, "serviceAccountName": account, "containers": [{"name": "c", "ports": ports}]},
                    "status": {"phase": "Running", "podIPs": ips}}));
            }
            for (namespace, set) in [Some("x"), Some("y"), None].into_iter().zip(sets) {
                let Some((labels, nets)) = set else { continue };
                let kind = if namespace.is_some() { "NetworkSet" } else { "GlobalNetworkSet" };
                documents.push(calico(kind, namespace, "set", &labels, &json!({"nets": nets})));
            }
            documents.extend(host.map(|(labels, ip)| {
                let spec = json!({"node": "n1", "interfaceName": "eth0", "expectedIPs": [ip],
                    "ports": [{"name": "web", "protocol": "TCP", "port": 81}]});
                calico("HostEndpoint", None, "host", &labels, &spec)
            }));
            let endpoints: Vec<Value> = backends.iter().map(|address| json!({"addresses": [address]})).collect();
            documents.push(json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {"namespace": "x", "name": "shop-1", "labels": {"kubernetes.io/service-name": "shop"}},
                "addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "p", "port": port, "protocol": "TCP"}]}));
            documents
        })
        .boxed()
}

pub(crate) fn calico(kind: &str, namespace: Option<&str>, name: &str, labels: &Value, spec: &Value) -> Value {
    let mut metadata = json!({"name": name, "labels": labels});
    if let Some(namespace) = namespace {
        metadata["namespace"] = json!(namespace);
    }
    json!({"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": metadata, "spec": spec})
}

/// A selector that has about half of all.
fn selector() -> BoxedStrategy<String> {
    prop_oneof![
        5 => select(vec!["a == '1'", "a == '2'"]),
        2 => select(vec!["b == '1'", "has(b)", "!has(b)", "b != '1'", "a in {'1', '2'}", "a not in {'2'}"]),
        1 => select(vec!["all()", "a == '1' && !has(b)", "a == '2' || b == '1'"]),
        1 => select(vec!["projectcalico.org/namespace == 'x'", "projectcalico.org/namespace != 'x'"]),
    ]
    .prop_map(str::to_owned)
    .boxed()
}

fn namespace_selector() -> BoxedStrategy<&'static str> {
    select(vec![
        "global()",
        "global()",
        "all()",
        "a == '1'",
        "a == '2'",
        "projectcalico.org/name == 'x'",
        "kubernetes.io/metadata.name != 'x'",
        "has(b)",
    ])
    .boxed()
}

/// Who an end of a rule is, by what the theme is about; of IPv4 where it names networks.
fn entity(theme: Theme) -> BoxedStrategy<Value> {
    let some = |value: Value| Just(value).boxed();
    match theme {
        Theme::Order | Theme::Packet => some(json!({})),
        Theme::Whom => prop_oneof![
            4 => selector().prop_map(|selector| json!({"selector": selector})),
            2 => selector().prop_map(|selector| json!({"notSelector": selector})),
            2 => namespace_selector().prop_map(|namespaces| json!({"namespaceSelector": namespaces})),
            3 => (namespace_selector(), selector())
                .prop_map(|(namespaces, selector)| json!({"namespaceSelector": namespaces, "selector": selector})),
            1 => (selector(), selector()).prop_map(|(is, not)| json!({"selector": is, "notSelector": not})),
            1 => (namespace_selector(), selector())
                .prop_map(|(namespaces, not)| json!({"namespaceSelector": namespaces, "notSelector": not})),
        ]
        .boxed(),
        Theme::Nets => {
            let nets = || {
                let all =
                    vec!["10.0.0.0/30", "10.0.0.2/31", "10.0.0.1/32", "10.0.0.4/32", "192.0.2.0/24", "10.0.0.250/31"];
                subsequence(all, 1..3)
            };
            prop_oneof![
                3 => nets().prop_map(|nets| json!({"nets": nets})),
                2 => nets().prop_map(|nets| json!({"notNets": nets})),
                2 => (nets(), nets()).prop_map(|(nets, not)| json!({"nets": nets, "notNets": not})),
                1 => (nets(), selector()).prop_map(|(nets, selector)| json!({"nets": nets, "selector": selector})),
                1 => (nets(), selector()).prop_map(|(not, selector)| json!({"notNets": not, "selector": selector})),
                1 => select(vec!["0.0.0.0/0", "0.0.0.0/1"]).prop_map(|net| json!({"nets": [net]})),
            ]
            .boxed()
        }
        Theme::Ports => {
            let ports = || {
                let port =
                    select(vec![json!(80), json!(81), json!("80:81"), json!("53:80"), json!("web"), json!("dns")]);
                vec(port, 1..3)
            };
            prop_oneof![
                4 => ports().prop_map(|ports| json!({"ports": ports})),
                2 => ports().prop_map(|ports| json!({"notPorts": ports})),
                1 => (ports(), ports()).prop_map(|(ports, not)| json!({"ports": ports, "notPorts": not})),
                1 => (ports(), selector()).prop_map(|(ports, selector)| json!({"ports": ports, "selector": selector})),
            ]
            .boxed()
        }
        Theme::Accounts => {
            let named = select(vec!["robot", "runner", "default"]);
            let accounts = prop_oneof![
                2 => named.clone().prop_map(|name| json!({"names": [name]})),
                1 => select(vec!["a == '1'", "a == '2'", "has(a)", "projectcalico.org/name == 'robot'"])
                    .prop_map(|selector| json!({"selector": selector})),
                1 => (named, select(vec!["a == '1'", "b == '1'"]))
                    .prop_map(|(name, selector)| json!({"names": [name], "selector": selector})),
            ];
            let inherited = select(vec![
                "pcns.a == '1'",
                "pcns.a == '2'",
                "pcsa.a == '1'",
                "pcsa.a != '1'",
                "has(pcns.b)",
                "projectcalico.org/serviceaccount == 'robot'",
                "projectcalico.org/orchestrator == 'k8s'",
                "has(projectcalico.org/namespace)",
            ]);
            // A Service is the peer of a rule, and so at its destination in egress, at its source in ingress.
            let service = prop::option::weighted(0.5, Just("x")).prop_map(move |namespace| {
                let mut services = json!({"name": "shop"});
                if let Some(namespace) = namespace {
                    services["namespace"] = json!(namespace);
                }
                json!({"services": services})
            });
            prop_oneof![
                3 => accounts.clone().prop_map(|accounts| json!({"serviceAccounts": accounts})),
                1 => (accounts, namespace_selector())
                    .prop_map(|(accounts, namespaces)| json!({"serviceAccounts": accounts, "namespaceSelector": namespaces})),
                3 => inherited.prop_map(|selector| json!({"selector": selector})),
                3 => service,
            ]
            .boxed()
        }
    }
}

/// What a rule says of the packet as a whole.
fn of_packet(theme: Theme) -> BoxedStrategy<Value> {
    match theme {
        Theme::Packet => {
            let message = |kinds: Vec<u8>| (select(kinds), prop::option::weighted(0.7, 0..2u8));
            let icmp = |name: &'static str, version: u8, kinds: Vec<u8>| {
                let of = move |field: &'static str| {
                    message(kinds.clone()).prop_map(move |(kind, code)| {
                        let mut rule = json!({"protocol": name, "ipVersion": version});
                        rule[field] = code.map_or(json!({"type": kind}), |code| json!({"type": kind, "code": code}));
                        rule
                    })
                };
                prop_oneof![2 => of("icmp"), 1 => of("notICMP")].boxed()
            };
            let protocols = vec![json!("TCP"), json!("UDP"), json!(6), json!("ICMP"), json!("SCTP"), json!(47)];
            prop_oneof![
                3 => icmp("ICMP", 4, vec![8, 13]),
                1 => icmp("ICMPv6", 6, vec![128, 139]),
                2 => select(protocols.clone()).prop_map(|protocol| json!({"protocol": protocol})),
                2 => select(protocols).prop_map(|protocol| json!({"notProtocol": protocol})),
                2 => select(vec![4, 6]).prop_map(|version| json!({"ipVersion": version})),
            ]
            .boxed()
        }
        Theme::Ports => select(vec!["TCP", "TCP", "UDP"]).prop_map(|protocol| json!({"protocol": protocol})).boxed(),
        _ => prop_oneof![5 => Just(json!({})), 1 => Just(json!({"protocol": "TCP"}))].boxed(),
    }
}

fn action() -> impl Strategy<Value = &'static str> {
    prop_oneof![4 => Just("Allow"), 3 => Just("Deny"), 2 => Just("Pass"), 1 => Just("Log")]
}

/// A rule of Calico's.
pub(crate) fn rule(theme: Theme, egress: bool) -> BoxedStrategy<Value> {
    // Mostly of the other end, now and then of the endpoint's own, or of both.
    (of_packet(theme), entity(theme), entity(theme), 0..8u8, action())
        .prop_map(move |(mut rule, one, other, which, action)| {
            rule["action"] = json!(action);
            let peer = if egress { "destination" } else { "source" };
            let own = if egress { "source" } else { "destination" };
            let service = one.get("services").is_some();
            let place = |rule: &mut Value, end: &str, entity: Value| {
                if entity != json!({}) {
                    rule[end] = entity;
                }
            };
            // Ports are mostly the destination's.
            let first = match which {
                0 | 1 if !service => own,
                2..=4 if theme == Theme::Ports => "destination",
                _ => peer,
            };
            place(&mut rule, first, one);
            if which == 7 && other.get("services").is_none() {
                place(&mut rule, if first == peer { own } else { peer }, other);
            }
            rule
        })
        .boxed()
}

/// The tiers: two share an order, one has none.
pub(crate) fn tiers() -> impl Strategy<Value = Vec<Value>> {
    vec(select(vec!["Deny", "Pass"]), 3).prop_map(|actions| {
        let tiers = [("security", Some(50.0)), ("audit", Some(50.0)), ("leftover", None)];
        let tiers = tiers.iter().zip(actions).map(|((name, order), action)| {
            calico("Tier", None, name, &json!({}), &json!({"order": order, "defaultAction": action}))
        });
        tiers.collect()
    })
}

/// Subjects are broad: most pods are under several policies.
fn subject() -> impl Strategy<Value = &'static str> {
    prop_oneof![4 => Just("all()"), 2 => select(vec!["a == '1'", "a == '2'", "!has(b)"])]
}

/// A Calico policy: of five kinds by weight.
fn a_calico_policy(theme: Theme) -> BoxedStrategy<Value> {
    let tier = prop_oneof![
        5 => Just("default"),
        2 => Just("security"),
        2 => Just("audit"),
        1 => Just("leftover"),
        1 => Just("kube-admin"),
        1 => Just("kube-baseline"),
    ];
    let order = prop_oneof![2 => Just(Some(1.0)), 2 => Just(Some(2.0)), 1 => Just(Some(1000.0)), 1 => Just(None)];
    let rules = |egress| vec(rule(theme, egress), 1..4);
    let kind = prop_oneof![
        4 => Just(("GlobalNetworkPolicy", None)),
        2 => Just(("NetworkPolicy", Some("x"))),
        2 => Just(("NetworkPolicy", Some("y"))),
        1 => Just(("StagedGlobalNetworkPolicy", None)),
        1 => Just(("StagedNetworkPolicy", Some("x"))),
    ];
    let global = (prop::option::weighted(0.15, namespace_selector()), prop::option::weighted(0.1, Just("a == '1'")));
    (
        kind,
        select(vec!["alpha", "bravo", "knp.default.k"]),
        tier,
        order,
        subject(),
        global,
        any::<bool>(),
        rules(false),
        rules(true),
    )
        .prop_map(
            |(
                (kind, namespace),
                name,
                tier,
                order,
                selector,
                (namespaces, accounts),
                egress,
                ingress_rules,
                egress_rules,
            )| {
                let (direction, rules) = if egress { ("egress", egress_rules) } else { ("ingress", ingress_rules) };
                let mut spec =
                    json!({"tier": tier, "selector": selector, "types": [if egress { "Egress" } else { "Ingress" }]});
                spec[direction] = json!(rules);
                if let Some(order) = order {
                    spec["order"] = json!(order);
                }
                if let Some(namespaces) = namespaces.filter(|_| namespace.is_none()) {
                    spec["namespaceSelector"] = json!(namespaces);
                }
                if let Some(accounts) = accounts {
                    spec["serviceAccountSelector"] = json!(accounts);
                }
                calico(kind, namespace, name, &json!({}), &spec)
            },
        )
        .boxed()
}

fn pod_selector() -> impl Strategy<Value = Value> {
    select(vec![
        json!({}),
        json!({"matchLabels": {"a": "1"}}),
        json!({"matchLabels": {"a": "2"}}),
        json!({"matchExpressions": [{"key": "b", "operator": "Exists"}]}),
        json!({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}),
    ])
}

/// A NetworkPolicy of Kubernetes'.
fn a_kubernetes_policy() -> BoxedStrategy<Value> {
    let block = (select(vec!["10.0.0.0/29", "10.0.0.2/31", "0.0.0.0/0", "192.0.2.0/24"]), any::<bool>()).prop_map(
        |(cidr, except)| {
            let inside = match cidr {
                "192.0.2.0/24" => "192.0.2.1/32",
                _ => "10.0.0.2/32",
            };
            let except = if except { json!([inside]) } else { json!([]) };
            json!({"ipBlock": {"cidr": cidr, "except": except}})
        },
    );
    let peer = prop_oneof![
        2 => block,
        2 => pod_selector().prop_map(|pods| json!({"podSelector": pods})),
        1 => pod_selector().prop_map(|namespaces| json!({"namespaceSelector": namespaces})),
        1 => (pod_selector(), pod_selector())
            .prop_map(|(pods, namespaces)| json!({"podSelector": pods, "namespaceSelector": namespaces})),
    ];
    let port = select(vec![
        json!({"port": 80}),
        json!({"port": 80, "endPort": 81}),
        json!({"port": "web"}),
        json!({"port": "web"}),
        json!({"port": "dns", "protocol": "UDP"}),
        json!({"port": 53, "endPort": 80, "protocol": "UDP"}),
        json!({"protocol": "UDP"}),
    ]);
    let kind = prop_oneof![5 => Just(None), 1 => Just(Some("StagedKubernetesNetworkPolicy"))];
    let rule = (vec(peer, 0..3), vec(port, 0..3));
    (select(vec!["x", "y"]), select(vec!["j", "k"]), pod_selector(), vec(rule, 0..3), any::<bool>(), kind)
        .prop_map(|(namespace, name, pods, rules, egress, staged)| {
            let (direction, peers) = if egress { ("egress", "to") } else { ("ingress", "from") };
            let rules: Vec<Value> =
                rules.into_iter().map(|(who, ports)| json!({peers: who, "ports": ports})).collect();
            let types = json!([if egress { "Egress" } else { "Ingress" }]);
            let spec = json!({"podSelector": pods, "policyTypes": types, direction: rules});
            let (version, kind) = match staged {
                Some(kind) => ("projectcalico.org/v3", kind),
                None => ("networking.k8s.io/v1", "NetworkPolicy"),
            };
            json!({"apiVersion": version, "kind": kind, "metadata": {"namespace": namespace, "name": name}, "spec": spec})
        })
        .boxed()
}

/// A ClusterNetworkPolicy.
fn a_cluster_policy() -> BoxedStrategy<Value> {
    let who = || {
        prop_oneof![
            pod_selector().prop_map(|namespaces| json!({"namespaces": namespaces})),
            (pod_selector(), pod_selector())
                .prop_map(|(namespaces, pods)| json!({"pods": {"namespaceSelector": namespaces, "podSelector": pods}})),
        ]
        .boxed()
    };
    let nets = subsequence(vec!["10.0.0.2/31", "192.0.2.0/24", "10.0.0.4/32"], 1..3)
        .prop_map(|nets| json!({"networks": nets}));
    let protocols = || {
        let protocol = select(vec![
            json!({"tcp": {"destinationPort": {"number": 80}}}),
            json!({"udp": {"destinationPort": {"number": 80}}}),
            json!({"tcp": {"destinationPort": {"range": {"start": 80, "end": 81}}}}),
            json!({"destinationNamedPort": "web"}),
        ]);
        vec(protocol, 0..2)
    };
    let rules = |peer: BoxedStrategy<Value>| {
        vec((select(vec!["Accept", "Deny", "Pass", "Pass"]), vec(peer, 1..3), protocols()), 1..3)
    };
    let egress_peer = prop_oneof![1 => who(), 1 => nets].boxed();
    let place = (select(vec!["Admin", "Baseline"]), 1..4u16, select(vec!["alpha", "bravo"]), any::<bool>());
    let subject = prop_oneof![2 => Just(json!({"namespaces": {}})), 1 => who()];
    (place, subject, rules(who()), rules(egress_peer))
        .prop_map(|((tier, priority, name, egress), subject, ingress_rules, egress_rules)| {
            let (direction, peers, rules) =
                if egress { ("egress", "to", egress_rules) } else { ("ingress", "from", ingress_rules) };
            let rules = rules.into_iter().map(|(action, who, protocols)| {
                let mut rule = json!({"action": action, peers: who});
                if !protocols.is_empty() {
                    rule["protocols"] = json!(protocols);
                }
                rule
            });
            let rules: Vec<Value> = rules.collect();
            json!({"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
                "metadata": {"name": name},
                "spec": {"tier": tier, "priority": priority, "subject": subject, direction: rules}})
        })
        .boxed()
}

/// A policy of any kind, whose rules are about one of the themes.
fn a_policy(themes: &[Theme]) -> BoxedStrategy<Value> {
    let calico = select(themes.to_vec()).prop_flat_map(a_calico_policy);
    prop_oneof![5 => calico, 2 => a_kubernetes_policy(), 2 => a_cluster_policy()].boxed()
}

/// Policies that Calico would take, one of each name.
pub(crate) fn policies() -> BoxedStrategy<Vec<Value>> {
    subsequence(THEMES.to_vec(), 1..3)
        .prop_flat_map(|themes| vec(a_policy(&themes), 1..6))
        .prop_map(|mut documents| {
            let mut seen = BTreeSet::new();
            documents.retain(|document| tortie_api::decode(document).is_ok() && seen.insert(key(document)));
            documents
        })
        .boxed()
}
