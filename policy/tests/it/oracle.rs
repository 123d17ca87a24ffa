//! What the oracle says of policies whose meaning Calico's and Kubernetes' documentation states: written by hand, case by case. The
//! compiled tables are asked the same.

#![allow(clippy::needless_pass_by_value, reason = "documents are written where they are passed")]

use serde_json::{Value, json};
use tortie_api::k8s::Protocol;
use tortie_nft::Direction;
use tortie_nft::Family;
use tortie_nft::interpreter::FlowState;
use tortie_policy::Generation;
use tortie_policy::offline::Offline;
use tortie_policy::oracle::{End, Judge, Question, Reason, Traffic, World, verdict};

use crate::support::{Flow, Network, object};

const WEB: Traffic = Traffic::to_port(Protocol::Tcp, 80);

/// A Calico object; of a namespace where the name has one.
fn calico(kind: &str, name: &str, spec: Value) -> Value {
    let mut object = json!({"apiVersion": "projectcalico.org/v3", "kind": kind, "spec": spec});
    match name.split_once('/') {
        Some((namespace, name)) => object["metadata"] = json!({"namespace": namespace, "name": name}),
        None => object["metadata"] = json!({"name": name}),
    }
    object
}

fn labelled(mut object: Value, labels: Value) -> Value {
    object["metadata"]["labels"] = labels;
    object
}

fn kubernetes(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": "demo", "name": name}, "spec": spec})
}

fn cluster_policy(name: &str, tier: &str, priority: u16, action: &str, rest: Value) -> Value {
    let mut rule = json!({"action": action, "from": [{"namespaces": {}}]});
    for (field, value) in rest.as_object().expect("fields") {
        rule[field] = value.clone();
    }
    json!({"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy", "metadata": {"name": name},
        "spec": {"tier": tier, "priority": priority, "subject": {"namespaces": {"matchLabels": {"team": "blue"}}},
            "ingress": [rule]}})
}

/// Two namespaces: `demo` with `web` and `client`, `other` with a `client` of its own.
fn world(documents: &[Value]) -> Offline {
    let namespace = |name: &str, team: &str| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"team": team}}});
    let account = |namespace: &str, name: &str, role: &str| {
        json!({"apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"namespace": namespace, "name": name, "labels": {"role": role}}})
    };
    let pod = |namespace: &str, name: &str, number: u8, account: &str| {
        let ips = [format!("10.0.0.{number}"), format!("fd00::{number}")].map(|ip| json!({"ip": ip}));
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": namespace, "name": name, "labels": {"app": name}},
            "spec": {"nodeName": format!("n{number}"), "serviceAccountName": account, "containers": [{"name": "c", "ports": [
                {"name": "http", "containerPort": 80}, {"name": "dns", "containerPort": 53, "protocol": "UDP"}]}]},
            "status": {"podIPs": ips}})
    };
    let base = [
        namespace("demo", "blue"),
        namespace("other", "red"),
        account("demo", "server", "trusted"),
        account("other", "runner", "trusted"),
        pod("demo", "web", 1, "server"),
        pod("demo", "client", 2, "runner"),
        pod("other", "client", 3, "runner"),
    ];
    let objects: Vec<_> = base.iter().chain(documents).map(object).collect();
    Offline::new(&objects)
}

/// Whether a flow passes: so says the oracle, and so do the compiled tables.
fn asks(world: &Offline, from: &str, to: &str, traffic: Traffic) -> bool {
    let end = |text: &str| text.parse::<End>().expect("an end");
    let question = Question { from: end(from), to: end(to), traffic, family: None };
    let decision = Judge::new(world.world()).verdict(&question).expect("an answer");
    let (from, to) = (decision.from.address.expect("an address"), decision.to.address.expect("an address"));
    let flow = Flow { from, to, traffic };
    let network = Network::new(world, Generation::seed(1), &[]);
    let passed = network.send(&flow, Direction::Original, FlowState::New, &mut std::collections::BTreeMap::new());
    assert_eq!(passed, decision.allowed, "compiled, and what the oracle says of {flow:?}: {:?}", decision.ingress);
    decision.allowed
}

/// Which of the clients reach `demo/web`: that of `demo`, that of `other`, and one from outside.
fn reach(documents: &[Value]) -> [bool; 3] {
    let world = world(documents);
    ["demo/client", "other/client", "192.0.2.1"].map(|from| asks(&world, from, "demo/web", WEB))
}

/// What reaches `demo/web` under a global policy with this one rule: `demo/client`, `other/client`, the outside.
fn under_rule(rule: Value) -> [bool; 3] {
    reach(&[calico("GlobalNetworkPolicy", "p", json!({"selector": "app == 'web'", "ingress": [rule]}))])
}

/// The same under a policy of namespace `demo`.
fn under_own_rule(rule: Value) -> [bool; 3] {
    reach(&[calico("NetworkPolicy", "demo/p", json!({"selector": "app == 'web'", "ingress": [rule]}))])
}

const ALL: [bool; 3] = [true; 3];
const NONE: [bool; 3] = [false; 3];
const OWN: [bool; 3] = [true, false, false];
const OTHER: [bool; 3] = [false, true, false];
const PODS: [bool; 3] = [true, true, false];
const OUTSIDE: [bool; 3] = [false, false, true];

fn allow() -> Value {
    json!({"action": "Allow"})
}

fn policy(name: &str, tier: &str, order: Option<f64>, action: &str) -> Value {
    calico(
        "GlobalNetworkPolicy",
        name,
        json!({"tier": tier, "order": order, "selector": "app == 'web'",
        "ingress": [{"action": action}]}),
    )
}

fn tier(name: &str, order: Option<f64>, default_action: &str) -> Value {
    calico("Tier", name, json!({"order": order, "defaultAction": default_action}))
}

#[test]
fn a_pod_that_nothing_selects_is_open_and_one_that_something_selects_is_not() {
    assert_eq!(reach(&[]), ALL);
    assert_eq!(
        reach(&[calico("NetworkPolicy", "demo/p", json!({"selector": "app == 'web'"}))]),
        NONE,
        "ingress by default"
    );
    assert_eq!(reach(&[calico("NetworkPolicy", "demo/p", json!({"selector": "app == 'db'"}))]), ALL);
    assert_eq!(reach(&[calico("NetworkPolicy", "other/p", json!({"selector": "all()"}))]), ALL, "of another namespace");
    assert_eq!(
        reach(&[calico("NetworkPolicy", "demo/p", json!({"selector": "app == 'web'", "types": ["Egress"]}))]),
        ALL
    );
    let egress = json!({"selector": "app == 'client'", "types": ["Egress"]});
    assert_eq!(reach(&[calico("NetworkPolicy", "demo/p", egress.clone())]), [false, true, true]);
    assert_eq!(reach(&[calico("GlobalNetworkPolicy", "p", egress)]), OUTSIDE);
}

#[test]
fn policies_are_asked_by_order_then_by_name_and_none_is_last() {
    let of = |a: Option<f64>, b: Option<f64>| {
        reach(&[policy("a", "default", a, "Allow"), policy("b", "default", b, "Deny")])
    };
    assert_eq!(of(Some(1.0), Some(2.0)), ALL);
    assert_eq!(of(Some(2.0), Some(1.0)), NONE);
    assert_eq!(of(Some(1.0), Some(1.0)), ALL, "a before b");
    assert_eq!(of(None, Some(1e9)), NONE, "none is last");
    assert_eq!(of(None, None), ALL);
    assert_eq!(of(Some(-0.5), Some(-0.25)), ALL, "fractions and negative orders");
}

/// Who comes first of two policies with the same order says Calico's `NAME/NAMESPACE/KIND`, in which Kubernetes' policies have names and
/// kinds of their own.
#[test]
fn ties_are_broken_by_name_then_namespace_then_kind() {
    let rules =
        |order: f64, action: &str| json!({"order": order, "selector": "app == 'web'", "ingress": [{"action": action}]});
    let global = |name: &str, action| calico("GlobalNetworkPolicy", name, rules(1000.0, action));
    let namespaced = |name: &str, action| calico("NetworkPolicy", &format!("demo/{name}"), rules(1000.0, action));
    let open = kubernetes("k", json!({"podSelector": {}, "ingress": [{}]}));
    let first_wins = |first: &dyn Fn(&'static str) -> Value, second: &dyn Fn(&'static str) -> Value, what: &str| {
        assert_eq!(reach(&[first("Allow"), second("Deny")]), ALL, "{what}");
        assert_eq!(reach(&[second("Allow"), first("Deny")]), NONE, "{what}");
    };
    first_wins(&|action| global("a", action), &|action| namespaced("a", action), "what is in no namespace");
    first_wins(&|action| namespaced("a", action), &|action| global("b", action), "the name comes before the namespace");
    first_wins(&|action| global("a-b", action), &|action| global("a", action), "of one text, - is before the slash");
    assert_eq!(
        reach(&[open.clone(), namespaced("knp.default.k", "Deny")]),
        ALL,
        "KubernetesNetworkPolicy, NetworkPolicy"
    );
    assert_eq!(reach(&[open, namespaced("knp.default.j", "Deny")]), NONE, "by name");
    let admin = |order: f64, name: &str| {
        let spec =
            json!({"tier": "kube-admin", "order": order, "selector": "app == 'web'", "ingress": [{"action": "Deny"}]});
        reach(&[calico("GlobalNetworkPolicy", name, spec), cluster_policy("c", "Admin", 10, "Accept", json!({}))])
    };
    assert_eq!([admin(10.0, "kcnp-z"), admin(10.0, "kd")], [NONE, PODS], "kcnp.admin.c");
    let accepting = |name| cluster_policy(name, "Admin", 10, "Accept", json!({}));
    let denying = |name| cluster_policy(name, "Admin", 10, "Deny", json!({}));
    assert_eq!(reach(&[accepting("c"), denying("c-x")]), OUTSIDE);
    assert_eq!(reach(&[denying("c"), accepting("c-x")]), ALL);
}

#[test]
fn tiers_are_asked_by_order_then_by_name_and_none_is_last() {
    let of = |a: Option<f64>, b: Option<f64>| {
        reach(&[
            tier("a", a, "Deny"),
            tier("b", b, "Deny"),
            policy("p", "a", None, "Allow"),
            policy("q", "b", None, "Deny"),
        ])
    };
    assert_eq!(of(Some(1.0), Some(2.0)), ALL);
    assert_eq!(of(Some(2.0), Some(1.0)), NONE);
    assert_eq!(of(Some(1.0), Some(1.0)), ALL);
    assert_eq!(of(None, Some(1.0)), NONE);
    // The default tier's order is 1,000,000.
    let beside_default = |order| {
        reach(&[tier("a", order, "Deny"), policy("p", "a", None, "Allow"), policy("q", "default", None, "Deny")])
    };
    assert_eq!(beside_default(Some(999_999.0)), ALL);
    assert_eq!(beside_default(Some(1_000_001.0)), NONE);
    assert_eq!(beside_default(None), NONE);
}

#[test]
fn pass_leaves_it_to_the_next_tier_and_so_may_a_tier() {
    let passing = |default_action, next: &str| {
        reach(&[
            tier("a", Some(1.0), default_action),
            policy("p", "a", Some(1.0), "Pass"),
            policy("p2", "a", Some(2.0), "Deny"),
            policy("q", "default", None, next),
        ])
    };
    assert_eq!(passing("Deny", "Allow"), ALL, "the rest of the tier is not asked, nor its default action");
    assert_eq!(passing("Deny", "Deny"), NONE);
    // Passed by the last tier, it is for the profile.
    assert_eq!(reach(&[policy("p", "default", None, "Pass")]), ALL);
    // No rule fits: the tier's default action.
    let silent = |default_action| {
        let nothing = json!({"tier": "a", "selector": "app == 'web'", "types": ["Ingress"]});
        reach(&[tier("a", Some(1.0), default_action), calico("GlobalNetworkPolicy", "p", nothing)])
    };
    assert_eq!(silent("Deny"), NONE);
    assert_eq!(silent("Pass"), ALL);
}

#[test]
fn log_takes_note_and_goes_on() {
    let rules = |rules: Value| {
        reach(&[calico("GlobalNetworkPolicy", "p", json!({"selector": "app == 'web'", "ingress": rules}))])
    };
    assert_eq!(rules(json!([{"action": "Log"}, {"action": "Allow"}])), ALL);
    assert_eq!(rules(json!([{"action": "Log"}])), NONE);
}

#[test]
fn the_first_rule_that_fits_decides() {
    let rules = |rules: Value| {
        reach(&[calico("GlobalNetworkPolicy", "p", json!({"selector": "app == 'web'", "ingress": rules}))])
    };
    let deny_others = json!({"action": "Deny", "source": {"namespaceSelector": "team == 'red'"}});
    assert_eq!(rules(json!([deny_others, allow()])), [true, false, true]);
    assert_eq!(rules(json!([allow(), deny_others])), ALL);
}

#[test]
fn kubernetes_policies_have_order_1000_in_the_default_tier() {
    let closed = kubernetes("k", json!({"podSelector": {}, "policyTypes": ["Ingress"]}));
    let open = kubernetes("k", json!({"podSelector": {}, "ingress": [{}]}));
    for order in [999.0, 1000.0] {
        // Of two of the same order `a` comes before `knp.default.k`.
        assert_eq!(reach(&[open.clone(), policy("a", "default", Some(order), "Deny")]), NONE, "{order}");
    }
    assert_eq!(reach(&[open.clone(), policy("z", "default", Some(1000.0), "Deny")]), ALL);
    assert_eq!(reach(&[open, policy("a", "default", Some(1001.0), "Deny")]), ALL);
    // What Kubernetes' policies do not allow goes on to those after them.
    assert_eq!(reach(&[closed.clone(), policy("a", "default", Some(1001.0), "Allow")]), ALL);
    assert_eq!(reach(&[closed]), NONE);
}

#[test]
fn cluster_network_policies_come_before_and_after() {
    let admin = |action| cluster_policy("c", "Admin", 10, action, json!({}));
    let baseline = |action| cluster_policy("b", "Baseline", 10, action, json!({}));
    let closed = kubernetes("k", json!({"podSelector": {}, "policyTypes": ["Ingress"]}));
    let open = kubernetes("k", json!({"podSelector": {}, "ingress": [{}]}));
    assert_eq!(reach(&[admin("Deny"), open.clone()]), OUTSIDE, "peers are pods");
    assert_eq!(reach(&[admin("Accept"), closed.clone()]), PODS);
    assert_eq!(reach(&[admin("Pass"), closed.clone()]), NONE);
    assert_eq!(
        reach(&[admin("Pass"), cluster_policy("d", "Admin", 11, "Deny", json!({}))]),
        ALL,
        "the rest is passed over"
    );
    assert_eq!(reach(&[baseline("Deny")]), OUTSIDE);
    assert_eq!(reach(&[baseline("Deny"), open]), ALL, "a NetworkPolicy spoke first");
    assert_eq!(reach(&[baseline("Accept"), closed]), NONE);
    assert_eq!(reach(&[admin("Pass"), baseline("Deny")]), OUTSIDE);
    assert_eq!(
        reach(&[
            cluster_policy("z", "Admin", 1, "Deny", json!({})),
            cluster_policy("a", "Admin", 2, "Accept", json!({}))
        ]),
        OUTSIDE,
        "lower priorities first"
    );
    // Neither isolates by being there.
    let nobody = json!({"from": [{"namespaces": {"matchLabels": {"team": "green"}}}]});
    assert_eq!(reach(&[cluster_policy("c", "Admin", 1, "Accept", nobody)]), ALL);
    // A tier before kube-admin (1,000) and one behind kube-baseline (10,000,000).
    assert_eq!(reach(&[tier("t", Some(999.0), "Deny"), policy("p", "t", None, "Allow"), admin("Deny")]), ALL);
    assert_eq!(reach(&[tier("t", Some(1_001.0), "Deny"), policy("p", "t", None, "Allow"), admin("Deny")]), OUTSIDE);
    assert_eq!(reach(&[tier("t", None, "Deny"), policy("p", "t", None, "Deny"), baseline("Accept")]), PODS);
}

#[test]
fn cluster_network_policies_know_ports_names_and_networks() {
    let ports = |protocol: Value| {
        let world = world(&[cluster_policy("c", "Admin", 1, "Deny", json!({"protocols": [protocol]}))]);
        let tcp = |port| asks(&world, "demo/client", "demo/web", Traffic::to_port(Protocol::Tcp, port));
        let udp = asks(&world, "demo/client", "demo/web", Traffic::to_port(Protocol::Udp, 53));
        [tcp(79), tcp(80), tcp(81), udp]
    };
    assert_eq!(ports(json!({"tcp": {"destinationPort": {"number": 80}}})), [true, false, true, true]);
    assert_eq!(
        ports(json!({"tcp": {"destinationPort": {"range": {"start": 80, "end": 81}}}})),
        [true, false, false, true]
    );
    assert_eq!(ports(json!({"destinationNamedPort": "http"})), [true, false, true, true]);
    assert_eq!(ports(json!({"destinationNamedPort": "dns"})), [true, true, true, false]);
    let egress = |peer: Value| {
        let world = world(&[json!({"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
            "metadata": {"name": "c"}, "spec": {"tier": "Admin", "priority": 1, "subject": {"pods": {
                "namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "client"}}}},
                "egress": [{"action": "Deny", "to": [peer]}]}})]);
        ["demo/web", "192.0.2.1"].map(|to| asks(&world, "demo/client", to, WEB))
    };
    assert_eq!(egress(json!({"networks": ["10.0.0.0/24"]})), [false, true], "a pod's address is an address");
    assert_eq!(egress(json!({"networks": ["0.0.0.0/0"]})), [false, false]);
    assert_eq!(egress(json!({"namespaces": {}})), [false, true]);
    assert_eq!(
        egress(json!({"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "db"}}}})),
        [true, true]
    );
}

#[test]
fn a_namespaced_policy_selects_in_its_own_namespace() {
    let source = |source: Value| json!({"action": "Allow", "source": source});
    let clients = json!({"selector": "app == 'client'"});
    assert_eq!(under_own_rule(source(clients.clone())), OWN);
    assert_eq!(under_rule(source(clients)), PODS);
    assert_eq!(under_own_rule(source(json!({"selector": "all()"}))), OWN);
    assert_eq!(
        under_rule(source(json!({"selector": "all()"}))),
        PODS,
        "everything that has labels, and the outside has none"
    );
    for under in [under_own_rule, under_rule] {
        assert_eq!(under(source(json!({"namespaceSelector": "team == 'red'"}))), OTHER);
        assert_eq!(under(source(json!({"namespaceSelector": "projectcalico.org/name == 'other'"}))), OTHER);
        assert_eq!(under(source(json!({"namespaceSelector": "kubernetes.io/metadata.name == 'demo'"}))), OWN);
        assert_eq!(under(source(json!({"namespaceSelector": "all()"}))), PODS);
        assert_eq!(under(source(json!({"namespaceSelector": "team == 'red'", "selector": "app == 'web'"}))), NONE);
    }
    // By exclusion: a namespaced policy stays at home, a global one is about everybody.
    assert_eq!(under_own_rule(source(json!({"notSelector": "app == 'web'"}))), OWN);
    assert_eq!(under_own_rule(source(json!({"notSelector": "app == 'client'"}))), NONE);
    assert_eq!(under_rule(source(json!({"notSelector": "app == 'client'"}))), OUTSIDE);
    assert_eq!(
        under_rule(source(json!({"notSelector": "projectcalico.org/namespace == 'demo'"}))),
        [false, true, true]
    );
}

#[test]
fn calicos_own_labels_are_there_to_select() {
    for (selector, who) in [
        ("projectcalico.org/namespace == 'other'", OTHER),
        ("has(projectcalico.org/orchestrator)", PODS),
        ("projectcalico.org/serviceaccount == 'runner'", PODS),
        ("projectcalico.org/serviceaccount == 'server'", NONE),
        ("pcns.team == 'blue'", OWN),
        ("pcsa.role == 'trusted'", OTHER),
        ("pcns.projectcalico.org/name == 'other'", OTHER),
    ] {
        assert_eq!(under_rule(json!({"action": "Allow", "source": {"selector": selector}})), who, "{selector}");
    }
}

#[test]
fn network_sets_and_host_endpoints_are_peers() {
    let set = |name, nets: Value| {
        let kind = if str::contains(name, '/') { "NetworkSet" } else { "GlobalNetworkSet" };
        labelled(calico(kind, name, json!({"nets": nets})), json!({"app": "client"}))
    };
    let host = labelled(
        calico("HostEndpoint", "h", json!({"node": "n9", "interfaceName": "eth0", "expectedIPs": ["192.0.2.1"]})),
        json!({"app": "client"}),
    );
    let allowing = |kind, name, source: Value, object: &Value| {
        let spec = json!({"selector": "app == 'web'", "ingress": [{"action": "Allow", "source": source}]});
        reach(&[calico(kind, name, spec), object.clone()])
    };
    let global = |source: Value, object: &Value| allowing("GlobalNetworkPolicy", "p", source, object);
    let own = |source: Value, object: &Value| allowing("NetworkPolicy", "demo/p", source, object);
    let clients = json!({"selector": "app == 'client'"});
    let far = set("s", json!(["192.0.2.0/24"]));
    for object in [&far, &host] {
        assert_eq!(global(clients.clone(), object), ALL);
        assert_eq!(own(clients.clone(), object), OWN, "it is in no namespace");
        let outside = json!({"selector": "app == 'client'", "namespaceSelector": "global()"});
        assert_eq!(own(outside.clone(), object), OUTSIDE);
        assert_eq!(global(outside, object), OUTSIDE);
        assert_eq!(global(json!({"namespaceSelector": "all()"}), object), PODS);
        assert_eq!(global(json!({"notSelector": "app == 'client'"}), object), NONE);
    }
    assert_eq!(own(clients.clone(), &set("demo/s", json!(["192.0.2.1"]))), [true, false, true]);
    assert_eq!(own(clients.clone(), &set("other/s", json!(["192.0.2.1"]))), OWN);
    assert_eq!(
        global(json!({"namespaceSelector": "team == 'red'"}), &set("other/s", json!(["192.0.2.1"]))),
        [false, true, true]
    );
    // A net may well be pods'.
    assert_eq!(own(json!({"selector": "app == 'client'"}), &set("demo/s", json!(["10.0.0.0/24"]))), PODS);
    assert_eq!(own(clients, &set("demo/s", json!([]))), OWN);
    // Kubernetes' policies select pods alone.
    let from = json!([{"from": [{"namespaceSelector": {}}]}]);
    let all_pods = kubernetes("k", json!({"podSelector": {}, "ingress": from}));
    assert_eq!(reach(&[all_pods, set("demo/s", json!(["192.0.2.1"]))]), PODS);
}

#[test]
fn a_host_endpoint_inherits_labels_and_names_ports() {
    let mut spec = json!({"node": "n9", "interfaceName": "eth0", "expectedIPs": ["192.0.2.1"], "profiles": ["gone", "shared"],
        "ports": [{"name": "ssh", "protocol": "TCP", "port": 22}]});
    let profile = calico("Profile", "shared", json!({"labelsToApply": {"zone": "edge"}}));
    let rule = json!({"action": "Allow", "protocol": "TCP", "source": {"selector": "zone == 'edge'"}, "destination": {"ports": [80]}});
    let policy = calico("GlobalNetworkPolicy", "p", json!({"selector": "app == 'web'", "ingress": [rule]}));
    let host = |spec: &Value| calico("HostEndpoint", "h", spec.clone());
    assert_eq!(reach(&[host(&spec), profile.clone(), policy.clone()]), OUTSIDE);
    let to_port = json!({"action": "Allow", "protocol": "TCP", "destination": {"ports": ["ssh"]}});
    let egress = calico("NetworkPolicy", "demo/e", json!({"selector": "app == 'client'", "egress": [to_port]}));
    let ssh = world(&[host(&spec), egress]);
    let tcp = |port| asks(&ssh, "demo/client", "192.0.2.1", Traffic::to_port(Protocol::Tcp, port));
    assert_eq!([tcp(22), tcp(23)], [true, false]);
    // To Kubernetes' own policies a name is that of a pod's port.
    let to_port = json!({"podSelector": {"matchLabels": {"app": "client"}}, "policyTypes": ["Egress"],
        "egress": [{"ports": [{"port": "ssh"}]}, {"ports": [{"port": "http"}]}]});
    let ssh = world(&[host(&spec), kubernetes("k", to_port.clone())]);
    let tcp = |to: &str, port| asks(&ssh, "demo/client", to, Traffic::to_port(Protocol::Tcp, port));
    assert_eq!([tcp("192.0.2.1", 22), tcp("demo/web", 80)], [false, true]);
    spec["profiles"] = json!(["gone"]);
    assert_eq!(reach(&[host(&spec), profile, policy]), NONE);
}

#[test]
fn service_accounts_are_selected_by_name_and_label() {
    let source = |accounts: Value| json!({"action": "Allow", "source": {"serviceAccounts": accounts}});
    assert_eq!(under_rule(source(json!({"names": ["runner"]}))), PODS);
    assert_eq!(under_rule(source(json!({"names": ["server"]}))), NONE);
    assert_eq!(under_own_rule(source(json!({"names": ["runner"]}))), OWN);
    assert_eq!(under_rule(source(json!({"names": ["runner"], "selector": "role == 'trusted'"}))), OTHER);
    assert_eq!(under_rule(source(json!({"selector": "projectcalico.org/name == 'runner'"}))), PODS);
    let both = json!({"serviceAccounts": {"names": ["runner"]}, "namespaceSelector": "team == 'red'"});
    assert_eq!(under_own_rule(json!({"action": "Allow", "source": both})), OTHER);
    let subject = |selector: &str| {
        reach(&[calico("GlobalNetworkPolicy", "p", json!({"serviceAccountSelector": selector, "types": ["Ingress"]}))])
    };
    assert_eq!(subject("role == 'trusted'"), NONE);
    assert_eq!(subject("role == 'other'"), ALL);
}

#[test]
fn a_global_policy_may_be_about_some_namespaces() {
    let subject = |selector: &str| {
        reach(&[calico("GlobalNetworkPolicy", "p", json!({"namespaceSelector": selector, "types": ["Ingress"]}))])
    };
    assert_eq!(subject("team == 'blue'"), NONE);
    assert_eq!(subject("team == 'red'"), ALL);
    assert_eq!(subject("projectcalico.org/name in {'demo', 'else'}"), NONE);
}

#[test]
fn services_stand_for_their_endpoints() {
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"namespace": "demo", "name": "shop-1", "labels": {"kubernetes.io/service-name": "shop"}},
        "endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["192.0.2.1"], "conditions": {"ready": false}}],
        "ports": [{"name": "a", "port": 80, "protocol": "TCP"}]});
    let shop = |namespace: Option<&str>| {
        let mut services = json!({"name": "shop"});
        if let Some(namespace) = namespace {
            services["namespace"] = json!(namespace);
        }
        json!({"services": services})
    };
    let egress = |peer: Value| {
        let spec = json!({"selector": "app == 'client'", "types": ["Egress"], "egress": [{"action": "Allow", "destination": peer}]});
        let world = world(&[slice.clone(), calico("NetworkPolicy", "demo/p", spec)]);
        let to = |to: &str, protocol, port| asks(&world, "demo/client", to, Traffic::to_port(protocol, port));
        [
            to("demo/web", Protocol::Tcp, 80),
            to("192.0.2.1", Protocol::Tcp, 80),
            to("demo/web", Protocol::Tcp, 81),
            to("demo/web", Protocol::Udp, 80),
            to("other/client", Protocol::Tcp, 80),
        ]
    };
    assert_eq!(egress(shop(None)), [true, true, false, false, false]);
    assert_eq!(egress(shop(Some("demo"))), [true, true, false, false, false]);
    assert_eq!(egress(shop(Some("other"))), [false; 5]);
    // As a source its ports do not matter.
    let spec = json!({"selector": "app == 'client'", "ingress": [{"action": "Allow", "source": shop(None)}]});
    let world = world(&[slice, calico("NetworkPolicy", "demo/p", spec)]);
    for (from, allowed) in [("demo/web", true), ("192.0.2.1", true), ("other/client", false)] {
        assert_eq!(asks(&world, from, "demo/client", Traffic::to_port(Protocol::Udp, 9)), allowed, "{from}");
    }
}

#[test]
fn nets_are_addresses_whoever_has_them() {
    let source = |source: Value| json!({"action": "Allow", "source": source});
    assert_eq!(under_rule(source(json!({"nets": ["10.0.0.0/30", "192.0.2.1/32"]}))), ALL);
    assert_eq!(under_rule(source(json!({"nets": ["10.0.0.3/32"]}))), OTHER);
    assert_eq!(under_rule(source(json!({"notNets": ["10.0.0.0/31"]}))), ALL);
    assert_eq!(under_rule(source(json!({"notNets": ["10.0.0.0/24"]}))), OUTSIDE);
    assert_eq!(under_rule(source(json!({"nets": ["10.0.0.0/8"], "notNets": ["10.0.0.2/32"]}))), OTHER);
    assert_eq!(under_own_rule(source(json!({"nets": ["0.0.0.0/0"]}))), ALL, "nets are of no namespace");
    assert_eq!(under_own_rule(source(json!({"nets": ["0.0.0.0/0"], "selector": "all()"}))), OWN, "both must hold");
}

fn icmp(kind: u8, code: u8) -> Traffic {
    Traffic::Icmp { family: Family::V4, kind, code }
}

fn icmp6(kind: u8, code: u8) -> Traffic {
    Traffic::Icmp { family: Family::V6, kind, code }
}

/// Which traffic a rule of its own lets through to `demo/web`.
fn lets(rule: Value, traffics: &[Traffic]) -> Vec<bool> {
    let world = world(&[calico("GlobalNetworkPolicy", "p", json!({"selector": "app == 'web'", "ingress": [rule]}))]);
    traffics.iter().map(|traffic| asks(&world, "demo/client", "demo/web", *traffic)).collect()
}

#[test]
fn icmp_has_types_and_codes() {
    let traffics = [icmp(8, 0), icmp(8, 1), icmp(13, 0), icmp6(128, 0), WEB];
    let rule = |fields: Value| {
        let mut rule = json!({"action": "Allow", "protocol": "ICMP", "ipVersion": 4});
        for (field, value) in fields.as_object().expect("fields") {
            rule[field] = value.clone();
        }
        lets(rule, &traffics)
    };
    assert_eq!(rule(json!({})), [true, true, true, false, false]);
    assert_eq!(rule(json!({"icmp": {"type": 8}})), [true, true, false, false, false]);
    assert_eq!(rule(json!({"icmp": {"type": 8, "code": 1}})), [false, true, false, false, false]);
    assert_eq!(rule(json!({"notICMP": {"type": 8}})), [false, false, true, false, false]);
    assert_eq!(rule(json!({"notICMP": {"type": 8, "code": 1}})), [true, false, true, false, false]);
    let six = json!({"action": "Allow", "protocol": "ICMPv6", "ipVersion": 6, "icmp": {"type": 128, "code": 0}});
    assert_eq!(lets(six, &[icmp(8, 0), icmp6(128, 0), icmp6(128, 1), icmp6(139, 0)]), [false, true, false, false]);
}

#[test]
fn protocols_have_names_and_numbers() {
    let udp = Traffic::to_port(Protocol::Udp, 53);
    let traffics = [WEB, udp, Traffic::Other(47), Traffic::Other(136), icmp(8, 0)];
    let rule = |field: &str, protocol: Value| {
        let mut rule = allow();
        rule[field] = protocol;
        lets(rule, &traffics)
    };
    assert_eq!(rule("protocol", json!("TCP")), [true, false, false, false, false]);
    assert_eq!(rule("protocol", json!(17)), [false, true, false, false, false]);
    assert_eq!(rule("protocol", json!(47)), [false, false, true, false, false]);
    assert_eq!(rule("protocol", json!("UDPLite")), [false, false, false, true, false]);
    assert_eq!(rule("protocol", json!("ICMP")), [false, false, false, false, true]);
    assert_eq!(rule("notProtocol", json!("TCP")), [false, true, true, true, true]);
    assert_eq!(rule("notProtocol", json!(47)), [true, true, false, true, true]);
}

#[test]
fn a_rule_may_be_of_one_version_of_ip() {
    let of = |version: u8| {
        let rule = json!({"action": "Allow", "ipVersion": version});
        let world =
            world(&[calico("GlobalNetworkPolicy", "p", json!({"selector": "app == 'web'", "ingress": [rule]}))]);
        ["10.0.0.2", "fd00::2"].map(|from| asks(&world, from, "demo/web", WEB))
    };
    assert_eq!(of(4), [true, false]);
    assert_eq!(of(6), [false, true]);
}

#[test]
fn ports_are_numbers_ranges_and_names_of_either_end() {
    let from_port = |source, port| Traffic::Ports { protocol: Protocol::Tcp, source, port };
    let traffics = [WEB, from_port(53, 80), from_port(53, 443), Traffic::to_port(Protocol::Udp, 80)];
    let rule = |end: &str, fields: Value| lets(json!({"action": "Allow", "protocol": "TCP", end: fields}), &traffics);
    assert_eq!(rule("destination", json!({"ports": [80]})), [true, true, false, false]);
    assert_eq!(rule("destination", json!({"ports": ["81:443", 1]})), [false, false, true, false]);
    assert_eq!(rule("destination", json!({"ports": ["http"]})), [true, true, false, false]);
    assert_eq!(rule("destination", json!({"ports": ["dns", "gone"]})), [false; 4], "of TCP there is no such port");
    assert_eq!(rule("destination", json!({"ports": ["gone", 443]})), [false, false, true, false]);
    assert_eq!(rule("destination", json!({"notPorts": [80]})), [false, false, true, false]);
    assert_eq!(rule("destination", json!({"notPorts": ["http"]})), [false, false, true, false]);
    assert_eq!(rule("destination", json!({"ports": ["1:100"], "notPorts": ["50:100"]})), [false; 4]);
    assert_eq!(rule("source", json!({"ports": [53]})), [false, true, true, false]);
    assert_eq!(rule("source", json!({"ports": ["1024:65535"]})), [true, false, false, false]);
    assert_eq!(rule("source", json!({"notPorts": [53]})), [true, false, false, false]);
}

/// `demo/web` has a port `dns` of UDP, and no other of that name.
#[test]
fn a_port_by_name_is_of_its_protocol() {
    let traffics = [Traffic::to_port(Protocol::Tcp, 53), Traffic::to_port(Protocol::Udp, 53)];
    let calico = |protocol: &str| {
        lets(json!({"action": "Allow", "protocol": protocol, "destination": {"ports": ["dns"]}}), &traffics)
    };
    assert_eq!(calico("TCP"), [false, false]);
    assert_eq!(calico("UDP"), [false, true]);
    let kubernetes = |protocol: &str| {
        let rule = json!({"ports": [{"port": "dns", "protocol": protocol}]});
        let spec = json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [rule]});
        let world = world(&[kubernetes("k", spec)]);
        traffics.map(|traffic| asks(&world, "demo/client", "demo/web", traffic))
    };
    assert_eq!(kubernetes("TCP"), [false, false]);
    assert_eq!(kubernetes("UDP"), [false, true]);
}

#[test]
fn a_rule_may_be_about_the_governed_end_too() {
    let to = |destination: Value| under_rule(json!({"action": "Allow", "destination": destination}));
    assert_eq!(to(json!({"nets": ["10.0.0.1/32"]})), ALL);
    assert_eq!(to(json!({"nets": ["10.0.0.2/32"]})), NONE);
    assert_eq!(to(json!({"selector": "app == 'web'"})), ALL);
    assert_eq!(to(json!({"notSelector": "app == 'web'"})), NONE);
}

#[test]
fn policies_of_host_endpoints_traffic_do_not_concern_pods() {
    for flag in ["doNotTrack", "preDNAT"] {
        let mut spec = json!({"selector": "all()", "applyOnForward": true, "order": 1, "types": ["Ingress"],
            "ingress": [{"action": "Deny"}]});
        spec[flag] = json!(true);
        assert_eq!(reach(&[calico("GlobalNetworkPolicy", "p", spec)]), ALL, "{flag}");
    }
    let forward =
        json!({"selector": "all()", "applyOnForward": true, "types": ["Ingress"], "ingress": [{"action": "Deny"}]});
    assert_eq!(reach(&[calico("GlobalNetworkPolicy", "p", forward)]), NONE);
}

#[test]
fn staged_policies_decide_nothing_and_are_asked_what_they_would() {
    let spec = |action: &str| json!({"selector": "app == 'web'", "order": 1, "stagedAction": action, "ingress": [{"action": "Deny"}]});
    let open = policy("p", "default", Some(2.0), "Allow");
    let staged_kubernetes = |action: &str| {
        let mut spec = json!({"stagedAction": action});
        if action != "Delete" {
            spec["podSelector"] = json!({});
            spec["policyTypes"] = json!(["Ingress"]);
        }
        calico("StagedKubernetesNetworkPolicy", "demo/k", spec)
    };
    let would = |documents: &[Value]| {
        let world = world(documents);
        let question = Question {
            from: "demo/client".parse().expect("an end"),
            to: "demo/web".parse().expect("an end"),
            traffic: WEB,
            family: None,
        };
        let now = asks(&world, "demo/client", "demo/web", WEB);
        (now, Judge::with_staged(world.world()).verdict(&question).expect("an answer").allowed)
    };
    assert_eq!(would(&[calico("StagedGlobalNetworkPolicy", "q", spec("Set")), open.clone()]), (true, false));
    assert_eq!(would(&[calico("StagedNetworkPolicy", "demo/q", spec("Set")), open.clone()]), (true, false));
    assert_eq!(would(&[calico("StagedNetworkPolicy", "other/q", spec("Set")), open.clone()]), (true, true));
    for action in ["Learn", "Ignore"] {
        assert_eq!(
            would(&[calico("StagedNetworkPolicy", "demo/q", spec(action)), open.clone()]),
            (true, true),
            "{action}"
        );
    }
    // It comes in the place of the policy that is called like it, or takes it away.
    assert_eq!(would(&[calico("StagedGlobalNetworkPolicy", "p", spec("Set")), open.clone()]), (true, false));
    let closed = policy("p", "default", None, "Deny");
    assert_eq!(
        would(&[calico("StagedGlobalNetworkPolicy", "p", json!({"stagedAction": "Delete"})), closed]),
        (false, true)
    );
    assert_eq!(would(&[staged_kubernetes("Set")]), (true, false));
    let kubernetes_closed = kubernetes("k", json!({"podSelector": {}, "policyTypes": ["Ingress"]}));
    assert_eq!(would(&[staged_kubernetes("Delete"), kubernetes_closed]), (false, true));
}

#[test]
fn a_staged_policy_alone_isolates_nothing() {
    let spec = json!({"selector": "app == 'web'", "types": ["Ingress"]});
    let world = world(&[calico("StagedGlobalNetworkPolicy", "q", spec)]);
    let question = Question {
        from: "192.0.2.1".parse().expect("an end"),
        to: "demo/web".parse().expect("an end"),
        traffic: WEB,
        family: None,
    };
    let decision = verdict(world.world(), &question).expect("an answer");
    assert_eq!((decision.allowed, decision.ingress.reason), (true, Reason::NotIsolated));
}

#[test]
fn what_comes_can_go() {
    let closed = object(&policy("p", "default", None, "Deny"));
    let question = Question {
        from: "demo/client".parse().expect("an end"),
        to: "demo/web".parse().expect("an end"),
        traffic: WEB,
        family: None,
    };
    let mut world = world(&[]).world().clone();
    let allowed = |world: &World| verdict(world, &question).expect("an answer").allowed;
    world.upsert(&closed);
    assert!(!allowed(&world));
    world.remove(&closed.key());
    assert!(allowed(&world));
}
