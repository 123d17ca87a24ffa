//! What `policy explain` says, in JSON and in words.

use serde_json::{Value, json};
use tortie_api::Object;
use tortie_api::k8s::Protocol;
use tortie_policy::explain::explain;
use tortie_policy::oracle::{Error, Question};
use tortie_policy::{CompileOptions, EndpointToHost};

use crate::support::{cluster, object, pod, policy};

fn documents() -> Vec<Object> {
    let mut ended = pod("demo", "ended", "n1", "", &json!({}));
    if let Object::Pod(pod) = &mut ended {
        pod.status.phase = Some("Succeeded".to_owned());
    }
    vec![
        object(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"},
            "status": {"addresses": [{"type": "InternalIP", "address": "172.31.0.2"}]}})),
        pod("demo", "web", "n1", "10.0.0.1", &json!({"app": "web"})),
        pod("demo", "client", "n2", "10.0.0.2,fd00::2", &json!({"app": "client"})),
        pod("demo", "other", "n1", "10.0.0.3", &json!({})),
        pod("demo", "six", "n1", "fd00::6", &json!({})),
        ended,
        policy("deny-all", &json!({"podSelector": {"matchLabels": {"app": "web"}}})),
        policy(
            "web",
            &json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [
                {"from": [{"podSelector": {"matchLabels": {"app": "nobody"}}}]},
                {"from": [{"podSelector": {"matchLabels": {"app": "client"}}}], "ports": [{"port": 80}]}]}),
        ),
    ]
}

fn ask(from: &str, to: &str, port: u16) -> Result<(Value, String), Error> {
    let question = Question { from: from.parse()?, to: to.parse()?, protocol: Protocol::Tcp, port, family: None };
    let explanation = explain(&cluster(&documents()), &question, &CompileOptions::default())?;
    Ok((serde_json::to_value(&explanation).expect("JSON"), explanation.to_string()))
}

#[test]
fn a_rule_that_allows() {
    let (json, text) = ask("demo/client", "demo/web", 80).expect("an answer");
    assert_eq!(json["verdict"], "allow");
    assert_eq!(json["ingress"]["verdict"], "allow");
    assert_eq!(json["ingress"]["tier"], "default");
    assert_eq!(json["ingress"]["policy"], "demo/web");
    assert_eq!(json["ingress"]["rule"], "spec.ingress[1]");
    assert_eq!(json["ingress"]["steps"][0]["result"], "no-match");
    assert_eq!(json["egress"]["policy"], Value::Null);
    assert_eq!(json["route"]["path"], "cross-node");
    assert_eq!(json["route"]["sourceNode"], "n2");
    assert_eq!(
        text.lines().next(),
        Some(
            "allowed: egress of demo/client is not isolated by any NetworkPolicy, and ingress of demo/web is allowed by \
             NetworkPolicy demo/web, spec.ingress[1], for TCP/80 from demo/client"
        )
    );
}

#[test]
fn no_rule_that_allows() {
    let (json, text) = ask("demo/other", "demo/web", 80).expect("an answer");
    assert_eq!(json["verdict"], "deny");
    assert_eq!(json["egress"]["verdict"], "allow");
    assert_eq!(json["ingress"]["verdict"], "deny");
    assert_eq!(json["ingress"]["policy"], "demo/deny-all, demo/web");
    assert_eq!(json["ingress"]["rule"], Value::Null);
    assert_eq!(json["route"]["path"], "same-node");
    assert_eq!(
        text.lines().next(),
        Some(
            "denied: ingress of demo/web is isolated by NetworkPolicies demo/deny-all, demo/web, and no rule of its \
             2 policies allows TCP/80 from demo/other"
        )
    );
    assert!(
        text.contains("demo/deny-all isolates ingress of demo/web and does not allow it: it has no ingress rule"),
        "{text}"
    );
    assert!(text.contains("spec.ingress[0] is not for demo/other, spec.ingress[1] is not for demo/other"), "{text}");
    let (_, text) = ask("demo/client", "demo/web", 81).expect("an answer");
    assert!(text.contains("spec.ingress[0] is not for demo/client, spec.ingress[1] is not for TCP/81"), "{text}");
}

#[test]
fn ends_that_policy_does_not_govern() {
    let (json, text) = ask("172.31.0.2", "demo/web", 80).expect("an answer");
    assert_eq!(json["verdict"], "allow", "from its own node");
    assert_eq!(json["egress"]["tier"], Value::Null);
    assert!(text.contains("never cut for its own node"), "{text}");
    let (json, _) = ask("192.0.2.1", "demo/web", 80).expect("an answer");
    assert_eq!(json["verdict"], "deny");
    assert_eq!(json["route"]["path"], "outside");
    let (json, _) = ask("10.0.0.2", "demo/web", 80).expect("an answer");
    assert_eq!(json["verdict"], "allow", "the address of a pod is the pod");
    let (json, text) = ask("demo/web", "demo/web", 1).expect("an answer");
    assert_eq!(json["verdict"], "allow");
    assert!(text.starts_with("allowed: demo/web is the same pod, and a pod always reaches itself"), "{text}");
}

#[test]
fn questions_without_an_answer() {
    let says = |from: &str, to: &str| ask(from, to, 80).expect_err("no answer").to_string();
    assert_eq!(says("demo/gone", "demo/web"), "there is no pod demo/gone: see `tortie get pods -A`");
    assert_eq!(says("web", "demo/web"), "\"web\" is neither NAMESPACE/POD nor an IP address");
    assert_eq!(says("demo/ended", "demo/web"), "pod demo/ended has ended and sends and receives nothing");
    assert_eq!(says("demo/six", "demo/web"), "demo/six and demo/web have no address of the same family");
}

#[test]
fn what_the_node_itself_decides_is_named() {
    let mut documents = documents();
    documents.push(object(&json!({"apiVersion": "projectcalico.org/v3", "kind": "IPPool",
        "metadata": {"name": "pods"}, "spec": {"cidr": "10.0.0.0/16", "natOutgoing": true}})));
    let cluster = cluster(&documents);
    let options = CompileOptions {
        endpoint_to_host: EndpointToHost::Drop,
        service_cidrs: vec!["10.96.0.0/12".parse().expect("a prefix")],
        ..CompileOptions::default()
    };
    let say = |from: &str, to: &str, options: &CompileOptions| {
        let (from, to) = (from.parse().expect("an end"), to.parse().expect("an end"));
        let question = Question { from, to, protocol: Protocol::Tcp, port: 80, family: None };
        explain(&cluster, &question, options).expect("an answer").summary
    };
    for (from, to, word) in [
        ("demo/other", "172.31.0.2", "defaultEndpointToHostAction"),
        ("demo/other", "10.96.0.10", "serviceLoopPrevention"),
        ("10.0.9.9", "demo/other", "not its own"),
    ] {
        let summary = say(from, to, &options);
        assert!(summary.starts_with("denied") && summary.contains(word), "{summary}");
    }
    // To another pod's node, back from the node, and to the outside, where the source is translated.
    for (from, to) in [("demo/client", "172.31.0.2"), ("172.31.0.2", "demo/other"), ("demo/other", "192.0.2.1")] {
        assert!(say(from, to, &options).starts_with("allowed"), "{from} to {to}");
    }
    for (from, to) in [("demo/other", "172.31.0.2"), ("demo/other", "10.96.0.10")] {
        assert!(say(from, to, &CompileOptions::default()).starts_with("allowed"), "{from} to {to}");
    }
}
