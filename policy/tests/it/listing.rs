//! Every rule shape that the compiler emits, taken and listed by `nft` 1.0.6 in a network namespace of its own.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;
use tortie_policy::{Generation, offline::Offline};

use crate::support::{cluster, endpoint, node, pod, policy};

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
    let (ruleset, _) = node(&cluster(&documents), &endpoints, Generation::seed(7));
    assert_eq!(
        Offline::new(&documents).render("n", &tortie_policy::CompileOptions::default()).chains.len(),
        ruleset.chains.len() - 2
    );
    let text = listed(&ruleset.to_string());
    for part in [
        "ct mark & 0xffff0000 == @live ct state established,related accept",
        "iifname . oifname @self accept",
        "iifname vmap @egress_class",
        "tcp dport vmap @v_",
        "sctp sport vmap @v_",
        "ip daddr . meta l4proto . th dport @p4_",
        "ip6 saddr . meta l4proto . th sport @p6_",
        "ct direction reply goto",
        "0-65535 : goto ok_egress",
        "0.0.0.0-192.0.2.127",
        "::/0",
        "comment \"demo/web\"",
    ] {
        assert!(text.contains(part), "{part} is not listed:\n{text}");
    }
    let again = listed(&text);
    assert_eq!(words(&again), words(&text), "what is listed can be loaded again");
}
