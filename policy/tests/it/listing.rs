//! Every rule shape that the compiler emits, taken and listed by `nft` 1.0.6 in a network namespace of its own.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;
use tortie_api::Object;
use tortie_nft::{Ruleset, Statement, Verdict};
use tortie_policy::{CompileOptions, Generation, compile, offline::Offline};

use crate::support::{cluster, endpoint, object, pod, policy};

/// The `nft` to test with.
fn nft() -> PathBuf {
    let folder = std::env::var_os("TORTIE_PEERS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/peers/bin"), PathBuf::from);
    let nft = folder.join("nft");
    assert!(nft.exists(), "{} is missing: run `make peers`", nft.display());
    nft
}

/// Loads the ruleset into a namespace that ends with the command, and lists it.
fn listed(ruleset: &str) -> String {
    let mut child = Command::new("unshare")
        .args(["--net", "sh", "-c", "\"$0\" -f - && \"$0\" list ruleset"])
        .arg(nft())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("unshare runs: tests need root");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(ruleset.as_bytes()).expect("nft reads");
    drop(stdin);
    let output = child.wait_with_output().expect("nft ends");
    let (text, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "nft: {}\n{error}\n{ruleset}", output.status);
    text.into_owned()
}

/// Text without what differs between writing and listing: order, spaces and counts.
fn words(text: &str) -> Vec<String> {
    let text = text.replace("packets 0 bytes 0 ", "");
    let mut lines: Vec<String> = text
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    lines.sort();
    lines
}

/// A small node with a bit of everything.
fn sample() -> Ruleset {
    let mut web = pod("shop", "web-1", "n", "10.244.0.1,fd00:10:244::1", &json!({"app": "web"}));
    if let Object::Pod(pod) = &mut web {
        for (name, value) in [
            ("qos.projectcalico.org/ingressPacketRate", "1k"),
            ("qos.projectcalico.org/ingressMaxConnections", "100"),
            ("qos.projectcalico.org/egressPacketRate", "10"),
            ("cni.projectcalico.org/allowedSourcePrefixes", "[\"192.0.2.0/28\"]"),
        ] {
            pod.metadata.annotations.insert(name.to_owned(), value.to_owned());
        }
    }
    let network_policy = |name: &str, spec| {
        object(&json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"namespace": "shop", "name": name}, "spec": spec}))
    };
    let documents = [
        web,
        pod("shop", "db-0", "n", "10.244.0.2", &json!({"app": "db"})),
        pod("shop", "client", "elsewhere", "10.244.7.1", &json!({"app": "client"})),
        pod("tools", "shell", "n", "10.244.0.3", &json!({})),
        network_policy(
            "web",
            json!({"podSelector": {"matchLabels": {"app": "web"}},
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "client"}}}], "ports": [{"port": 80}]},
                {"from": [{"ipBlock": {"cidr": "192.0.2.0/24"}}], "ports": [{"port": 443}]}]}),
        ),
        network_policy("default-deny", json!({"podSelector": {}, "policyTypes": ["Ingress"]})),
        network_policy("db-stays", json!({"podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": ["Egress"]})),
        object(&json!({"apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": {"name": "pods"},
            "spec": {"cidr": "10.244.0.0/16", "natOutgoing": true}})),
    ];
    let options = CompileOptions {
        service_cidrs: vec!["10.96.0.0/12".parse().expect("a prefix")],
        source_spoofing: true,
        ..CompileOptions::default()
    };
    Offline::new(&documents).render("n", &options)
}

/// What an operator reads. Where it changes, look at the difference as one who knows nothing of the agent, and write it to the file.
#[test]
fn the_listing_is_for_people() {
    let text = sample().to_string();
    assert!(text == include_str!("sample.nft"), "the listing differs from sample.nft:\n{text}");
    let listed = listed(&text);
    for part in [
        "ct count over 100 counter name \"over_limit\" counter packets 0 bytes 0 reject with tcp reset",
        "limit rate over 1000/second",
        "ip saddr @nat4 ip daddr != @nat_exempt4 counter packets 0 bytes 0 masquerade fully-random",
        "type nat hook postrouting priority srcnat; policy accept;",
    ] {
        assert!(listed.contains(part), "{part} is not listed:\n{listed}");
    }
}

/// No chain is there without a word on what it is for.
#[test]
fn everything_with_a_name_says_what_it_is_for() {
    let table = sample();
    for (name, chain) in &table.chains {
        assert!(chain.rules.iter().any(|rule| rule.comment.is_some()), "{name}: {chain:?}");
    }
    for (name, comment) in table.sets.iter().map(|(name, set)| (name, &set.comment)) {
        assert!(comment.is_some(), "set {name}");
    }
    for (name, comment) in table.maps.iter().map(|(name, map)| (name, &map.comment)) {
        assert!(comment.is_some(), "map {name}");
    }
    for (name, comment) in &table.counters {
        assert!(comment.is_some(), "counter {name}");
    }
}

/// Whatever denies is counted by its reason, and every rule by itself too.
#[test]
fn what_is_denied_is_counted_by_its_reason() {
    let table = sample();
    let rules = || table.chains.values().flat_map(|chain| &chain.rules);
    let mut reasons = BTreeSet::new();
    for rule in rules().filter(|rule| rule.statements.contains(&Statement::Verdict(Verdict::Drop))) {
        let [.., Statement::NamedCounter(reason), Statement::Counter, _] = &rule.statements[..] else {
            panic!("{rule:?}")
        };
        reasons.insert(reason);
    }
    // The sample's node is open to its pods. Hits are counted beside reasons.
    let is_hit = |name: &str| ["h_", "a_", "d_"].iter().any(|prefix| name.starts_with(prefix));
    let rest: Vec<&String> = table.counters.keys().filter(|name| !reasons.contains(name) && !is_hit(name)).collect();
    assert_eq!(rest, ["endpoint_to_host"]);
}

#[test]
fn nft_takes_and_lists_what_we_emit() {
    let peers = json!([
        {"podSelector": {"matchLabels": {"app": "client"}}},
        {"namespaceSelector": {"matchExpressions": [{"key": "role", "operator": "NotIn", "values": ["a", "b"]}, {"key": "x", "operator": "Exists"}]}},
        {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["192.0.2.128/25"]}}, {"ipBlock": {"cidr": "::/0"}},
    ]);
    let ports = json!([{"port": 80}, {"port": 8000, "endPort": 8010}, {"port": "web"}, {"protocol": "UDP"}, {"protocol": "SCTP", "port": 9}]);
    let documents = [
        pod("demo", "web", "n", "10.0.0.1,fd00::1", &json!({"app": "web"})),
        pod("demo", "client", "n", "10.0.0.2,fd00::2", &json!({"app": "client"})),
        pod("demo", "open", "n", "10.0.0.3", &json!({})),
        policy(
            "web",
            &json!({"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": peers, "ports": ports}, {"from": peers}, {"ports": [{"port": 443}]}],
            "egress": [{"to": peers, "ports": ports}, {"to": peers}, {"ports": [{"protocol": "TCP"}]}]}),
        ),
        policy(
            "shut",
            &json!({"podSelector": {"matchLabels": {"app": "client"}}, "policyTypes": ["Ingress", "Egress"]}),
        ),
    ];
    let endpoints = [
        endpoint("demo", "web", &["10.0.0.1", "fd00::1"]),
        endpoint("demo", "client", &["10.0.0.2", "fd00::2"]),
        endpoint("demo", "open", &["10.0.0.3"]),
        endpoint("demo", "unknown", &["10.0.0.4"]),
    ];
    let common = [
        "ct mark & 0xffff0000 == @live ct state established,related accept",
        "iifname . oifname @self accept",
        "iifname vmap @egress_class",
        "tcp dport vmap @v_",
        "sctp sport vmap @v_",
        "ct direction reply goto",
        "0.0.0.0-192.0.2.127",
        "::/0",
        "comment \"demo/web: no rule allows it\"",
        "comment \"to pods of demo with app == 'web'\"",
    ];
    let plain = [
        "ip daddr . meta l4proto . th dport @p4_",
        "ip6 saddr . meta l4proto . th sport @p6_",
        "0-65535 : goto ok_egress",
    ];
    let counting = [
        "counter name ip daddr . meta l4proto . th dport map @cp4",
        "counter name ip6 saddr . meta l4proto . th sport map @cp6",
        "ct state established goto",
        "counter name \"h_",
        "counter name \"a_",
        "counter name \"d_",
    ];
    for (count_hits, parts) in [(false, plain.as_slice()), (true, &counting)] {
        let options = CompileOptions { count_hits, ..CompileOptions::default() };
        let ruleset = compile(&cluster(&documents), &endpoints, Generation::seed(7), &options);
        assert_eq!(Offline::new(&documents).render("n", &options).chains.len(), ruleset.chains.len() - 2);
        let text = listed(&ruleset.to_string());
        for part in common.iter().chain(parts) {
            assert!(text.contains(part), "{part} is not listed:\n{text}");
        }
        let again = listed(&text);
        assert_eq!(words(&again), words(&text), "what is listed can be loaded again");
    }
}
