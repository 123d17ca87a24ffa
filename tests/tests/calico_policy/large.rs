//! A large set of policies as a real cluster has it: every namespace closed, its parts open to each other, a platform's tiers around
//! them. What is explained is what packets do, for pods of all kinds.

use std::path::PathBuf;

use serde_json::{Value, json};
use tortie_tests::lab::Lab;

use crate::cluster::{Places, calico, namespace, pod};
use crate::verdicts;

/// So many teams have a namespace each.
const TEAMS: usize = 24;

/// So many of them have pods in the lab; of all of them there are policies on every node.
const WITH_PODS: usize = 3;

fn in_namespace(kind: &str, namespace: &str, name: &str, spec: &Value) -> Value {
    let mut document = calico(kind, name, spec);
    document["metadata"]["namespace"] = json!(namespace);
    document
}

fn kubernetes(namespace: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": namespace}, "spec": spec})
}

/// What a platform says to all.
fn platform() -> Vec<Value> {
    let tier = |name: &str, order: u32| calico("Tier", name, &json!({"order": order}));
    let global = |name: &str, spec: &Value| calico("GlobalNetworkPolicy", name, spec);
    let mut bad =
        calico("GlobalNetworkSet", "bad", &json!({"nets": ["198.51.100.0/24", "203.0.113.0/25", "203.0.113.128/25"]}));
    bad["metadata"]["labels"] = json!({"reputation": "bad"});
    vec![
        tier("security", 100),
        tier("platform", 200),
        bad,
        global(
            "security.bad",
            &json!({"tier": "security", "order": 1, "selector": "all()", "types": ["Ingress", "Egress"],
            "ingress": [{"action": "Deny", "source": {"selector": "reputation == 'bad'"}}, {"action": "Pass"}],
            "egress": [{"action": "Deny", "destination": {"selector": "reputation == 'bad'"}}, {"action": "Pass"}]}),
        ),
        // Before the policy that passes to the next tier what it does not deny.
        global(
            "security.quarantine",
            &json!({"tier": "security", "order": 0, "selector": "quarantine == 'true'",
            "types": ["Ingress", "Egress"], "ingress": [{"action": "Deny"}], "egress": [{"action": "Deny"}]}),
        ),
        global(
            "platform.dns",
            &json!({"tier": "platform", "order": 1, "selector": "all()", "types": ["Egress"],
            "egress": [{"action": "Allow", "protocol": "UDP", "destination": {"ports": [53]}}, {"action": "Pass"}]}),
        ),
        global(
            "platform.monitoring",
            &json!({"tier": "platform", "order": 2, "selector": "has(metrics)", "types": ["Ingress"],
            "ingress": [{"action": "Allow", "protocol": "TCP", "source": {"selector": "app == 'monitor'"},
                "destination": {"ports": [80]}}, {"action": "Pass"}]}),
        ),
        json!({"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
            "metadata": {"name": "tenants"}, "spec": {"tier": "Baseline", "priority": 5, "subject": {"namespaces": {}},
            "ingress": [{"action": "Deny", "from": [{"namespaces": {"matchLabels": {"tenant": "other"}}}]}]}}),
    ]
}

/// What a team says of its own namespace.
fn team(number: usize) -> Vec<Value> {
    let name = format!("team{number}");
    let tenant = if number % 3 == 2 { "other" } else { "main" };
    let mut documents = vec![
        namespace(&name, &json!({"team": name, "tenant": tenant})),
        kubernetes(&name, "closed", &json!({"podSelector": {}, "policyTypes": ["Ingress"]})),
        kubernetes(
            &name,
            "within",
            &json!({"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}], "ports": [{"port": 80}]}]}),
        ),
        kubernetes(
            &name,
            "from-neighbour",
            &json!({"podSelector": {"matchLabels": {"app": "web"}},
            "ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"team": format!("team{}", (number + 1) % WITH_PODS)}},
                "podSelector": {"matchLabels": {"app": "web"}}}]}]}),
        ),
        in_namespace(
            "NetworkPolicy",
            &name,
            "db",
            &json!({"order": 50, "selector": "app == 'db'", "types": ["Ingress"],
            "ingress": [{"action": "Deny", "protocol": "TCP", "source": {"notSelector": "app == 'web'", "namespaceSelector": "all()"},
                "destination": {"ports": [5432]}},
                {"action": "Allow", "protocol": "TCP", "destination": {"ports": ["sql"]}}]}),
        ),
        in_namespace("StagedNetworkPolicy", &name, "next", &json!({"selector": "all()", "types": ["Egress"]})),
    ];
    if number % 2 == 1 {
        documents.push(in_namespace(
            "NetworkPolicy",
            &name,
            "ping",
            &json!({"order": 60, "types": ["Ingress"],
            "ingress": [{"action": "Allow", "protocol": "ICMP", "icmp": {"type": 8}}]}),
        ));
    }
    documents
}

/// The pods of a team: the last one's database is in quarantine.
fn pods(number: usize) -> Vec<Value> {
    let name = format!("team{number}");
    let node = |which: usize| format!("node{}", (number + which) % 2 + 1);
    let web = json!([{"containerPort": 80, "name": "http"}]);
    let sql = json!([{"containerPort": 5432, "name": "sql"}]);
    let db = if number + 1 == WITH_PODS { json!({"app": "db", "quarantine": "true"}) } else { json!({"app": "db"}) };
    vec![
        pod(&name, "web", &node(0), &json!({"app": "web", "metrics": "yes"}), "default", &web),
        pod(&name, "db", &node(1), &db, "default", &sql),
    ]
}

#[test]
fn a_large_set_means_what_is_explained() {
    let mut documents = platform();
    documents.extend((0..TEAMS).flat_map(team));
    documents.extend((0..WITH_PODS).flat_map(pods));
    documents.push(namespace("monitoring", &json!({"tenant": "main"})));
    documents.push(pod(
        "monitoring",
        "monitor",
        "node1",
        &json!({"app": "monitor"}),
        "default",
        &json!([{"containerPort": 80}]),
    ));
    let lab = Lab::up("callarge", &documents, &["--nodes", "2"]);
    let places = Places::of(&lab);
    let folder: PathBuf = lab.scratch("up");
    let explained = verdicts::explained(&verdicts::objects(&[folder], &places), &places);
    let allowed = explained.values().filter(|verdict| *verdict == "allow").count();
    assert!(allowed > 20 && allowed < explained.len() / 2, "{allowed} of {} is no mixture", explained.len());
    let of = |from: &str, to: &str, protocol: &str, port: u16, verdict: &str| {
        ((from.to_owned(), to.to_owned(), protocol.to_owned(), port), verdict.to_owned())
    };
    let expected = [
        of("monitoring/monitor", "team0/web", "TCP", 80, "allow"),
        of("team0/web", "team0/db", "TCP", 5432, "allow"),
        of("monitoring/monitor", "team0/db", "TCP", 5432, "deny"),
        of("team1/web", "team0/web", "TCP", 80, "allow"),
        of("team0/db", "team1/web", "TCP", 80, "deny"),
        of("team2/web", "team2/db", "TCP", 5432, "deny"),
        of("team0/db", "team1/web", "ICMP", 8, "allow"),
        of("team1/db", "team0/web", "ICMP", 8, "deny"),
        of("outside", "team0/web", "TCP", 80, "deny"),
    ];
    verdicts::agree("the large set", &lab, &places, &explained, &expected.into());
}
