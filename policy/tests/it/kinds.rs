//! Resources of every kind that policy knows, generated: small and crowded worlds, in which selectors, nets, ports, tiers and orders
//! meet and overlap all the time. All of them are valid.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Value, json};

use crate::documents::{NAMESPACES, NODES, PROBED, a_policy, labels, nets, pod_selector};

const ACCOUNTS: [&str; 2] = ["runner", "robot"];

/// The tiers that may be there besides those that always are. Two share an order, one has none, and one comes after Kubernetes'
/// baseline.
const TIERS: [(&str, Option<f64>); 4] =
    [("security", Some(50.0)), ("audit", Some(50.0)), ("leftover", None), ("late", Some(20_000_000.0))];

/// Documents of one kind each are one of so many names, so that in a history most replace another.
pub(crate) const NAMES: usize = 3;

fn object(kind: &str, namespace: Option<&str>, name: &str, labels: &Value, spec: &Value) -> Value {
    let mut object = json!({"apiVersion": "projectcalico.org/v3", "kind": kind,
        "metadata": {"name": name, "labels": labels}, "spec": spec});
    if let Some(namespace) = namespace {
        object["metadata"]["namespace"] = json!(namespace);
    }
    object
}

/// Sets a field of an object, unless there is no value for it.
fn set(object: &mut Value, field: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        object[field] = value.into();
    }
}

/// A selector over the labels of generated things, and those that Calico adds.
pub(crate) fn selector() -> BoxedStrategy<String> {
    let simple = prop_oneof![
        4 => (select(vec!["a", "b"]), select(vec!["1", "2", "3"])).prop_map(|(key, value)| format!("{key} == '{value}'")),
        2 => (select(vec!["a", "b"]), select(vec!["1", "2", "3"])).prop_map(|(key, value)| format!("{key} != '{value}'")),
        2 => select(vec!["a", "b"]).prop_map(|key| format!("has({key})")),
        2 => (select(vec!["a", "b"]), subsequence(vec!["'1'", "'2'", "'3'"], 1..3), any::<bool>()).prop_map(
            |(key, values, not)| format!("{key} {}in {{{}}}", if not { "not " } else { "" }, values.join(", "))
        ),
        1 => select(vec!["a contains '1'", "b starts with '2'", "a ends with '3'"]).prop_map(str::to_owned),
        1 => select(NAMESPACES.to_vec()).prop_map(|name| format!("projectcalico.org/namespace == '{name}'")),
        1 => select(ACCOUNTS.to_vec()).prop_map(|name| format!("projectcalico.org/serviceaccount == '{name}'")),
        1 => select(vec!["pcns.a == '1'", "pcsa.b == '2'", "has(projectcalico.org/orchestrator)"]).prop_map(str::to_owned),
    ];
    prop_oneof![
        2 => Just("all()".to_owned()),
        8 => simple.clone(),
        1 => simple.clone().prop_map(|one| format!("!({one})")),
        1 => (simple.clone(), simple.clone()).prop_map(|(one, other)| format!("{one} && {other}")),
        1 => (simple.clone(), simple).prop_map(|(one, other)| format!("{one} || {other}")),
    ]
    .boxed()
}

/// A selector over the labels of namespaces or of service accounts.
fn name_selector(names: &'static [&'static str]) -> BoxedStrategy<String> {
    prop_oneof![
        1 => Just("all()".to_owned()),
        3 => (select(vec!["a", "b"]), select(vec!["1", "2"])).prop_map(|(key, value)| format!("{key} == '{value}'")),
        1 => select(vec!["a", "b"]).prop_map(|key| format!("!has({key})")),
        1 => (select(vec!["a", "b"]), select(vec!["1", "2"])).prop_map(|(key, value)| format!("{key} != '{value}'")),
        2 => select(names).prop_map(|name| format!("projectcalico.org/name == '{name}'")),
    ]
    .boxed()
}

fn namespace_selector() -> impl Strategy<Value = String> {
    prop_oneof![
        5 => name_selector(&NAMESPACES),
        1 => select(NAMESPACES.to_vec()).prop_map(|name| format!("kubernetes.io/metadata.name == '{name}'")),
        2 => Just("global()".to_owned()),
    ]
}

/// Nothing most of the time.
fn seldom<T: std::fmt::Debug + Clone>(strategy: impl Strategy<Value = T>) -> impl Strategy<Value = Option<T>> {
    prop::option::weighted(0.12, strategy)
}

/// Networks of a version of IP, or of any.
fn some_nets(version: Option<u64>) -> BoxedStrategy<Vec<&'static str>> {
    let of_version = |net: &&str| version.is_none_or(|version| net.contains(':') == (version == 6));
    subsequence(nets().into_iter().filter(of_version).collect::<Vec<_>>(), 1..3).boxed()
}

/// The same less the whole address space, which leaves nothing where it is excluded.
fn some_nets_but_not_all(version: Option<u64>) -> BoxedStrategy<Vec<&'static str>> {
    let smaller = |nets: Vec<&'static str>| nets.into_iter().filter(|net| !net.ends_with("/0")).collect();
    some_nets(version).prop_map(smaller).boxed()
}

fn ports() -> BoxedStrategy<Vec<Value>> {
    let number = || select(PROBED.to_vec());
    let port = prop_oneof![
        3 => number().prop_map(|port| json!(port)),
        2 => (number(), number()).prop_map(|(a, b)| json!(format!("{}:{}", a.min(b), a.max(b)))),
        2 => select(vec!["web", "dns", "alt", "gone"]).prop_map(|name| json!(name)),
        1 => Just(json!("39999:40001")),
    ];
    vec(port, 1..3).boxed()
}

/// One end of a rule: of a version of IP where that is given, and with ports where the protocol has some.
fn entity(version: Option<u64>, with_ports: bool) -> BoxedStrategy<Value> {
    let accounts =
        (subsequence(ACCOUNTS.to_vec(), 0..=1), seldom(name_selector(&ACCOUNTS))).prop_map(|(names, selector)| {
            let mut accounts = json!({});
            set(&mut accounts, "names", (!names.is_empty()).then_some(names));
            set(&mut accounts, "selector", selector);
            accounts
        });
    let ports = move || seldom(ports()).prop_map(move |ports| ports.filter(|_| with_ports));
    let parts = (
        seldom(some_nets(version)),
        seldom(some_nets_but_not_all(version)),
        seldom(selector()),
        seldom(selector()),
        seldom(namespace_selector()),
        seldom(accounts),
        ports(),
        ports(),
    );
    parts
        .prop_map(|(nets, not_nets, selector, not_selector, namespaces, accounts, ports, not_ports)| {
            let mut entity = json!({});
            set(&mut entity, "nets", nets);
            set(&mut entity, "notNets", not_nets);
            set(&mut entity, "selector", selector);
            set(&mut entity, "notSelector", not_selector);
            set(&mut entity, "namespaceSelector", namespaces);
            set(&mut entity, "serviceAccounts", accounts.filter(|accounts| accounts != &json!({})));
            set(&mut entity, "ports", ports);
            set(&mut entity, "notPorts", not_ports);
            entity
        })
        .boxed()
}

/// The endpoints of a Service, as a peer.
fn service() -> impl Strategy<Value = Value> {
    (select(NAMESPACES.to_vec()), select(vec!["shop", "bank"]))
        .prop_map(|(namespace, name)| json!({"services": {"name": name, "namespace": namespace}}))
}

fn icmp(kinds: Vec<u8>) -> impl Strategy<Value = Value> {
    (select(kinds), prop::option::of(0..2u8)).prop_map(|(kind, code)| {
        let mut icmp = json!({"type": kind});
        set(&mut icmp, "code", code);
        icmp
    })
}

/// What of the packet as a whole a rule asks: and with it the version of IP, and whether there are ports.
fn of_packet() -> BoxedStrategy<(Value, Option<u64>, bool)> {
    let protocol = |protocols: Vec<Value>| select(protocols);
    let versions = || seldom(select(vec![4u64, 6]));
    let of_icmp = |name: &'static str, version: u64, kinds: Vec<u8>| {
        (prop::option::weighted(0.7, icmp(kinds.clone())), prop::option::weighted(0.3, icmp(kinds))).prop_map(
            move |(icmp, not_icmp)| {
                let mut rule = json!({"protocol": name, "ipVersion": version});
                set(&mut rule, "icmp", icmp);
                set(&mut rule, "notICMP", not_icmp);
                (rule, Some(version), false)
            },
        )
    };
    prop_oneof![
        4 => versions().prop_map(|version| {
            let mut rule = json!({});
            set(&mut rule, "ipVersion", version);
            (rule, version, false)
        }),
        6 => (protocol(vec![json!("TCP"), json!("UDP"), json!("SCTP"), json!(6), json!(17)]), versions()).prop_map(
            |(protocol, version)| {
                let mut rule = json!({"protocol": protocol});
                set(&mut rule, "ipVersion", version);
                (rule, version, true)
            }
        ),
        1 => protocol(vec![json!(47), json!("UDPLite"), json!(1)]).prop_map(
            |protocol| (json!({"protocol": protocol}), None, false)
        ),
        1 => protocol(vec![json!("TCP"), json!(17), json!("ICMP"), json!("ICMPv6"), json!(47)]).prop_map(
            |protocol| (json!({"notProtocol": protocol}), None, false)
        ),
        1 => of_icmp("ICMP", 4, vec![8, 13]),
        1 => of_icmp("ICMPv6", 6, vec![128, 139]),
    ]
    .boxed()
}

/// A Calico rule of one direction.
fn rule(direction: &'static str) -> BoxedStrategy<Value> {
    let actions = vec!["Allow", "Allow", "Allow", "Deny", "Deny", "Pass", "Log"];
    (of_packet(), select(vec![4, 6]))
        .prop_flat_map(move |((rule, version, ports), of_nets)| {
            // All networks of a rule are of one version of IP.
            let version = version.or(Some(of_nets));
            let plain = (entity(version, ports), entity(version, ports));
            let ends = prop_oneof![
                6 => plain,
                1 => (entity(version, ports), service()).prop_map(move |(one, service)| {
                    if direction == "egress" { (one, service) } else { (service, one) }
                }),
            ];
            (Just(rule), select(actions.clone()), ends)
        })
        .prop_map(|(mut rule, action, (source, destination))| {
            rule["action"] = json!(action);
            for (name, entity) in [("source", source), ("destination", destination)] {
                if entity != json!({}) {
                    rule[name] = entity;
                }
            }
            rule
        })
        .boxed()
}

/// What Calico's four kinds of policies have in common.
fn spec(staged: bool) -> BoxedStrategy<Value> {
    let orders = || prop::option::weighted(0.8, select(vec![-1.0, 0.0, 10.0, 10.5, 1000.0, 2000.0]));
    let tiers = prop_oneof![
        4 => Just("default"),
        4 => select(TIERS.map(|(name, _)| name).to_vec()),
        1 => select(vec!["kube-admin", "kube-baseline"]),
    ];
    let rules = |direction| vec(rule(direction), 0..4);
    let types = select(vec![None, Some(vec!["Ingress"]), Some(vec!["Egress"]), Some(vec!["Ingress", "Egress"])]);
    let action = select(vec!["Set", "Set", "Delete", "Learn", "Ignore"]);
    (orders(), tiers, selector(), seldom(name_selector(&ACCOUNTS)), types, rules("ingress"), rules("egress"), action)
        .prop_map(move |(order, tier, selector, accounts, types, ingress, egress, action)| {
            let mut spec = json!({"tier": tier, "selector": selector});
            set(&mut spec, "order", order);
            set(&mut spec, "serviceAccountSelector", accounts);
            let governs = |direction: &str| types.as_ref().is_none_or(|types| types.contains(&direction));
            if governs("Ingress") {
                spec["ingress"] = json!(ingress);
            }
            if governs("Egress") {
                spec["egress"] = json!(egress);
            }
            set(&mut spec, "types", types);
            if staged && action == "Delete" {
                // It says nothing else.
                return json!({"stagedAction": action});
            }
            if staged {
                spec["stagedAction"] = json!(action);
            }
            spec
        })
        .boxed()
}

fn a_name() -> impl Strategy<Value = String> {
    // Before and after the names of Kubernetes' policies, which Calico knows as knp.default.NAME.
    (0..NAMES).prop_map(|number| ["alpha", "policy1", "zulu"][number].to_owned())
}

/// A NetworkPolicy or GlobalNetworkPolicy of Calico's, or a staged one.
pub(crate) fn a_calico_policy() -> BoxedStrategy<Value> {
    let namespaced = |kind: &'static str, staged| {
        (select(NAMESPACES.to_vec()), a_name(), spec(staged))
            .prop_map(move |(namespace, name, spec)| object(kind, Some(namespace), &name, &json!({}), &spec))
    };
    let global = |kind: &'static str, staged| {
        let sorts = select(vec![None, None, None, Some("applyOnForward"), Some("preDNAT"), Some("doNotTrack")]);
        let parts = (a_name(), spec(staged), seldom(name_selector(&NAMESPACES)), sorts);
        parts.prop_map(move |(name, mut spec, namespaces, sort)| {
            set(&mut spec, "namespaceSelector", namespaces);
            if let Some(sort) = sort.filter(|_| spec["stagedAction"] != "Delete") {
                spec["applyOnForward"] = json!(true);
                spec[sort] = json!(true);
                if sort == "preDNAT" {
                    // It knows neither direction but this.
                    spec.as_object_mut().expect("fields").remove("egress");
                    set(&mut spec, "types", Some(vec!["Ingress"]));
                }
            }
            object(kind, None, &name, &json!({}), &spec)
        })
    };
    prop_oneof![
        5 => namespaced("NetworkPolicy", false),
        5 => global("GlobalNetworkPolicy", false),
        1 => namespaced("StagedNetworkPolicy", true),
        1 => global("StagedGlobalNetworkPolicy", true),
        1 => (0..3usize).prop_flat_map(a_policy).prop_map(|mut policy| {
            policy["apiVersion"] = json!("projectcalico.org/v3");
            policy["kind"] = json!("StagedKubernetesNetworkPolicy");
            policy
        }),
    ]
    .boxed()
}

/// A Tier.
pub(crate) fn a_tier() -> impl Strategy<Value = Value> {
    (select(TIERS.to_vec()), any::<bool>()).prop_map(|((name, order), pass)| {
        let mut spec = json!({"defaultAction": if pass { "Pass" } else { "Deny" }});
        set(&mut spec, "order", order);
        object("Tier", None, name, &json!({}), &spec)
    })
}

/// The tiers, each there: a policy in a tier that is not there would be no valid one.
pub(crate) fn all_tiers() -> impl Strategy<Value = Vec<Value>> {
    vec(any::<bool>(), TIERS.len()).prop_map(|passes| {
        let tiers = TIERS.iter().zip(passes);
        tiers
            .map(|((name, order), pass)| {
                let mut spec = json!({"defaultAction": if pass { "Pass" } else { "Deny" }});
                set(&mut spec, "order", *order);
                object("Tier", None, name, &json!({}), &spec)
            })
            .collect()
    })
}

/// A NetworkSet or GlobalNetworkSet.
pub(crate) fn a_network_set() -> BoxedStrategy<Value> {
    let namespace = prop::option::of(select(NAMESPACES.to_vec()));
    (namespace, 0..NAMES, labels(), subsequence(nets(), 0..4))
        .prop_map(|(namespace, name, labels, nets)| {
            let kind = if namespace.is_some() { "NetworkSet" } else { "GlobalNetworkSet" };
            object(kind, namespace, &format!("set{name}"), &labels, &json!({"nets": nets}))
        })
        .boxed()
}

/// A HostEndpoint. Without settings that say so none of the node's interfaces is its, and it is a peer alone.
pub(crate) fn a_host_endpoint() -> BoxedStrategy<Value> {
    let addresses = subsequence(vec!["10.0.0.250", "10.0.0.251", "192.0.2.1", "fd00::250", "2001:db8::1"], 1..3);
    (0..NAMES, labels(), addresses, select(NODES.to_vec()), any::<bool>(), prop::option::of(Just("shared")))
        .prop_map(|(name, labels, ips, (node, ..), port, profile)| {
            let mut spec = json!({"node": node, "interfaceName": format!("uplink{name}"), "expectedIPs": ips});
            if port {
                spec["ports"] = json!([{"name": "web", "protocol": "TCP", "port": 79}]);
            }
            set(&mut spec, "profiles", profile.map(|profile| vec![profile]));
            object("HostEndpoint", None, &format!("host{name}"), &labels, &spec)
        })
        .boxed()
}

/// The one Profile, with labels and rules for host endpoints.
pub(crate) fn a_profile() -> impl Strategy<Value = Value> {
    (labels(), vec(rule("ingress"), 0..2), vec(rule("egress"), 0..2)).prop_map(|(labels, ingress, egress)| {
        let spec = json!({"labelsToApply": labels, "ingress": ingress, "egress": egress});
        object("Profile", None, "shared", &json!({}), &spec)
    })
}

/// A ServiceAccount.
pub(crate) fn an_account() -> impl Strategy<Value = Value> {
    (select(NAMESPACES.to_vec()), select(ACCOUNTS.to_vec()), labels()).prop_map(|(namespace, name, labels)| {
        json!({"apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"namespace": namespace, "name": name, "labels": labels}})
    })
}

/// An EndpointSlice.
pub(crate) fn a_slice() -> BoxedStrategy<Value> {
    let v4 = subsequence(vec!["10.0.0.1", "10.0.0.2", "10.0.0.3", "192.0.2.1"], 0..3);
    let v6 = subsequence(vec!["fd00::1", "fd00::2", "2001:db8::1"], 0..3);
    let addresses = prop_oneof![
        2 => v4.prop_map(|addresses| ("IPv4", addresses)),
        1 => v6.prop_map(|addresses| ("IPv6", addresses)),
    ];
    let ports = vec((select(PROBED.to_vec()), select(vec!["TCP", "UDP", "SCTP"])), 0..3);
    let place = (select(NAMESPACES.to_vec()), 0..NAMES, select(vec!["shop", "bank"]));
    (place, addresses, ports, any::<bool>())
        .prop_map(|((namespace, name, service), (family, addresses), ports, ready)| {
            let endpoints: Vec<Value> = addresses
                .iter()
                .map(|address| json!({"addresses": [address], "conditions": {"ready": ready}}))
                .collect();
            let ports: Vec<Value> = ports
            .iter()
            .enumerate()
            .map(|(index, (port, protocol))| json!({"name": format!("p{index}"), "port": port, "protocol": protocol}))
            .collect();
            json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"namespace": namespace, "name": format!("slice{name}"),
                "labels": {"kubernetes.io/service-name": service}},
            "addressType": family, "endpoints": endpoints, "ports": ports})
        })
        .boxed()
}

/// A ClusterNetworkPolicy.
pub(crate) fn a_cluster_policy() -> BoxedStrategy<Value> {
    let namespaces_or_pods = || {
        prop_oneof![
            pod_selector().prop_map(|selector| json!({"namespaces": selector})),
            (pod_selector(), pod_selector())
                .prop_map(|(namespaces, pods)| json!({"pods": {"namespaceSelector": namespaces, "podSelector": pods}})),
        ]
    };
    let number = || select(PROBED.to_vec());
    let port = prop_oneof![
        2 => number().prop_map(|number| json!({"number": number})),
        1 => (number(), number())
            .prop_filter("a range", |(a, b)| a != b)
            .prop_map(|(a, b)| json!({"range": {"start": a.min(b), "end": a.max(b)}})),
    ];
    let protocol = prop_oneof![
        3 => (select(vec!["tcp", "udp", "sctp"]), port)
            .prop_map(|(protocol, port)| json!({protocol: {"destinationPort": port}})),
        1 => select(vec!["web", "dns"]).prop_map(|name| json!({"destinationNamedPort": name})),
    ];
    let protocols = prop_oneof![1 => Just(vec![]), 1 => vec(protocol, 1..3)].boxed();
    let networks = subsequence(nets(), 1..3).prop_map(|nets| json!({"networks": nets}));
    let egress_peer = prop_oneof![2 => namespaces_or_pods(), 1 => networks].boxed();
    let rules = |peers: &'static str, peer: BoxedStrategy<Value>| {
        let rule = (select(vec!["Accept", "Deny", "Pass"]), vec(peer, 1..3), protocols.clone()).prop_map(
            move |(action, who, protocols)| {
                let mut rule = json!({"action": action, peers: who});
                set(&mut rule, "protocols", (!protocols.is_empty()).then_some(protocols));
                rule
            },
        );
        vec(rule, 0..3)
    };
    let where_ = (select(vec!["Admin", "Baseline"]), select(vec![0, 10, 1000]), a_name());
    (where_, namespaces_or_pods(), rules("from", namespaces_or_pods().boxed()), rules("to", egress_peer))
        .prop_map(|((tier, priority, name), subject, ingress, egress)| {
            json!({"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
                "metadata": {"name": name},
                "spec": {"tier": tier, "priority": priority, "subject": subject, "ingress": ingress, "egress": egress}})
        })
        .boxed()
}

/// Any document that concerns policy beyond Kubernetes' own of old, for histories.
pub(crate) fn any_document() -> BoxedStrategy<Value> {
    prop_oneof![
        6 => a_calico_policy(),
        2 => a_cluster_policy(),
        1 => a_tier(),
        2 => a_network_set(),
        3 => a_host_endpoint(),
        2 => a_profile(),
        1 => an_account(),
        1 => a_slice(),
    ]
    .prop_filter("what Calico takes", is_valid)
    .boxed()
}

/// What there is besides nodes, namespaces, pods and Kubernetes' policies.
pub(crate) fn furniture() -> BoxedStrategy<Vec<Value>> {
    let some =
        (vec(a_network_set(), 0..3), vec(a_host_endpoint(), 0..2), vec(an_account(), 0..4), vec(a_slice(), 0..3));
    let policies = (vec(a_calico_policy(), 1..8), vec(a_cluster_policy(), 0..3));
    (all_tiers(), some, a_profile(), policies)
        .prop_map(|(tiers, (sets, hosts, accounts, slices), profile, (calico, cluster))| {
            let parts = [tiers, sets, hosts, accounts, slices, vec![profile], calico, cluster];
            let mut documents = parts.concat();
            // The first of a name is the one that is there.
            let mut seen = std::collections::BTreeSet::new();
            documents.retain(|document| seen.insert(key(document)) && is_valid(document));
            documents
        })
        .boxed()
}

/// Whether Calico would take it: some rules ask for what no packet could be.
fn is_valid(document: &Value) -> bool {
    tortie_api::decode(document).is_ok()
}

/// What tells objects apart.
pub(crate) fn key(document: &Value) -> String {
    let metadata = &document["metadata"];
    format!("{} {} {} {}", document["apiVersion"], document["kind"], metadata["namespace"], metadata["name"])
}
