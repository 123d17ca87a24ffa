//! What `policy explain` says, in JSON and in words.

use serde_json::{Value, json};
use tortie_api::Object;
use tortie_api::k8s::Protocol;
use tortie_policy::explain::explain;
use tortie_policy::oracle::{Error, Question, Traffic, World};
use tortie_policy::{CompileOptions, EndpointToHost};

use crate::support::{object, pod, policy};

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
    said(&World::new(&documents()), from, to, Traffic::to_port(Protocol::Tcp, port))
}

fn said(world: &World, from: &str, to: &str, traffic: Traffic) -> Result<(Value, String), Error> {
    let question = Question { from: from.parse()?, to: to.parse()?, traffic, family: None };
    let explanation = explain(world, &question, &CompileOptions::default())?;
    Ok((serde_json::to_value(&explanation).expect("JSON"), explanation.to_string()))
}

#[test]
fn a_rule_that_allows() {
    let (json, text) = ask("demo/client", "demo/web", 80).expect("an answer");
    assert_eq!(json["verdict"], "allow");
    assert_eq!(json["ingress"]["verdict"], "allow");
    assert_eq!(json["ingress"]["tier"], "default");
    assert_eq!(json["ingress"]["policy"], "demo/web");
    assert_eq!(json["ingress"]["kind"], "NetworkPolicy");
    assert_eq!(json["ingress"]["rule"], "spec.ingress[1]");
    assert_eq!(json["ingress"]["ruleNumber"], 2);
    assert_eq!(json["ingress"]["steps"][0]["result"], "no-match");
    assert_eq!(json["egress"]["policy"], Value::Null);
    assert_eq!(json["route"]["path"], "cross-node");
    assert_eq!(json["route"]["sourceNode"], "n2");
    assert_eq!(
        text.lines().next(),
        Some(
            "allowed: egress of demo/client is not isolated by any policy, and ingress of demo/web is allowed by \
             NetworkPolicy demo/web, ingress rule 2 (spec.ingress[1]), for TCP/80 from demo/client"
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
            "denied: ingress of demo/web is isolated by NetworkPolicy demo/deny-all and NetworkPolicy demo/web, and no rule \
             of theirs fits TCP/80 from demo/other"
        )
    );
    assert!(
        text.contains("demo/deny-all isolates ingress of demo/web and does not decide: it has no ingress rule"),
        "{text}"
    );
    let rules = "ingress rule 1 (spec.ingress[0]) is not for demo/other, ingress rule 2 (spec.ingress[1]) is not for demo/other";
    assert!(text.contains(rules), "{text}");
    let (_, text) = ask("demo/client", "demo/web", 81).expect("an answer");
    assert!(
        text.contains("(spec.ingress[0]) is not for demo/client, ingress rule 2 (spec.ingress[1]) is not for TCP/81"),
        "{text}"
    );
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
    let world = World::new(&documents);
    let options = CompileOptions {
        endpoint_to_host: EndpointToHost::Drop,
        service_cidrs: vec!["10.96.0.0/12".parse().expect("a prefix")],
        ..CompileOptions::default()
    };
    let say = |from: &str, to: &str, options: &CompileOptions| {
        let (from, to) = (from.parse().expect("an end"), to.parse().expect("an end"));
        let question = Question { from, to, traffic: Traffic::to_port(Protocol::Tcp, 80), family: None };
        explain(&world, &question, options).expect("an answer").summary
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

fn calico(kind: &str, metadata: &Value, spec: &Value) -> Object {
    object(&json!({"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": metadata, "spec": spec}))
}

/// A tier that comes first and leaves some to the default one, a network set, and a staged policy.
fn tiers() -> World {
    let mut objects = documents();
    objects.push(calico("Tier", &json!({"name": "security"}), &json!({"order": 10, "defaultAction": "Pass"})));
    objects.push(calico(
        "NetworkSet",
        &json!({"namespace": "demo", "name": "partners", "labels": {"kind": "partner"}}),
        &json!({"nets": ["192.0.2.0/24"]}),
    ));
    objects.push(calico(
        "GlobalNetworkPolicy",
        &json!({"name": "partners", "resourceVersion": "17"}),
        &json!({"tier": "security", "order": 5, "selector": "app == 'web'", "ingress": [
            {"action": "Log", "protocol": "TCP"},
            {"action": "Pass", "protocol": "TCP", "source": {"selector": "app == 'client'"}},
            {"action": "Deny", "protocol": "TCP", "source": {"selector": "kind == 'partner'"}, "destination": {"ports": [22, "81:90"]}}]}),
    ));
    objects.push(calico(
        "StagedNetworkPolicy",
        &json!({"namespace": "demo", "name": "soon"}),
        &json!({"order": 1, "selector": "app == 'web'", "ingress": [{"action": "Deny"}]}),
    ));
    World::new(&objects)
}

fn tcp(port: u16) -> Traffic {
    Traffic::to_port(Protocol::Tcp, port)
}

#[test]
fn a_rule_of_a_tier_that_denies_and_by_which_member() {
    let (json, text) = said(&tiers(), "192.0.2.7", "demo/web", tcp(22)).expect("an answer");
    let ingress = &json["ingress"];
    assert_eq!(
        (
            &ingress["verdict"],
            &ingress["tier"],
            &ingress["policy"],
            &ingress["kind"],
            &ingress["rule"],
            &ingress["source"]
        ),
        (
            &json!("deny"),
            &json!("security"),
            &json!("partners"),
            &json!("GlobalNetworkPolicy"),
            &json!("spec.ingress[2]"),
            &json!("resource version 17")
        )
    );
    let step = &ingress["steps"][0];
    assert_eq!((&step["result"], &step["tier"], &step["order"]), (&json!("deny"), &json!("security"), &json!(5.0)));
    assert_eq!(
        step["rules"],
        json!([
            {"rule": "spec.ingress[0]", "action": "Log", "fits": true},
            {"rule": "spec.ingress[1]", "action": "Pass", "fits": false, "why":
                ["source.selector does not select 192.0.2.7, but Pod demo/client"]},
            {"rule": "spec.ingress[2]", "action": "Deny", "fits": true, "members": ["NetworkSet demo/partners by 192.0.2.0/24"]},
        ])
    );
    assert_eq!(
        text.lines().next(),
        Some(
            "denied: ingress of demo/web is denied by GlobalNetworkPolicy partners in tier security, ingress rule 3 \
             (spec.ingress[2]), for TCP/22 from 192.0.2.7"
        )
    );
    assert!(text.contains("by NetworkSet demo/partners by 192.0.2.0/24, logged by ingress rule 1"), "{text}");
}

#[test]
fn what_passes_a_tier_is_for_the_next() {
    let (json, _) = said(&tiers(), "demo/client", "demo/web", tcp(80)).expect("an answer");
    let steps = json["ingress"]["steps"].as_array().expect("steps");
    let results: Vec<(&Value, &Value)> = steps.iter().map(|step| (&step["policy"], &step["result"])).collect();
    assert_eq!(
        results,
        [
            (&json!("partners"), &json!("pass")),
            (&json!("demo/soon"), &json!("deny")),
            (&json!("demo/deny-all"), &json!("no-match")),
            (&json!("demo/web"), &json!("allow")),
        ]
    );
    assert_eq!(steps[1]["staged"], true);
    assert_eq!(json["ingress"]["policy"], "demo/web", "staged policies decide nothing");
    assert_eq!(json["ingress"]["staged"]["verdict"], "deny");
    assert_eq!(json["egress"]["staged"], Value::Null);
    // No rule of the first tier fits, and by its default action it is for the next.
    let (json, text) = said(&tiers(), "demo/other", "demo/web", tcp(80)).expect("an answer");
    assert_eq!(json["ingress"]["tier"], "default");
    let end = &json["ingress"]["steps"][1];
    assert_eq!((&end["policy"], &end["tier"], &end["result"]), (&Value::Null, &json!("security"), &json!("pass")));
    assert!(text.contains("tier security: none of its rules decides about TCP/80 from demo/other"), "{text}");
}

#[test]
fn packets_of_every_kind_can_be_asked_about() {
    let (json, text) =
        said(&tiers(), "demo/client", "demo/web", Traffic::ping(tortie_nft::Family::V4)).expect("an answer");
    assert_eq!(json["verdict"], "deny");
    assert!(text.contains("ICMP type 8 code 0 from demo/client"), "{text}");
    assert!(text.contains("protocol TCP is not that of ICMP type 8 code 0"), "{text}");
    let error =
        said(&tiers(), "demo/client", "demo/web", Traffic::ping(tortie_nft::Family::V6)).expect_err("no answer");
    assert_eq!(error.to_string(), "demo/client and demo/web have no address of the same family: ICMPv6 is of IPv6");
    let source = Traffic::Ports { protocol: Protocol::Udp, source: 53, port: 80 };
    let (_, text) = said(&tiers(), "demo/client", "demo/web", source).expect("an answer");
    assert!(text.contains("UDP/80 from port 53"), "{text}");
}

#[test]
fn a_place_in_a_file_is_told_where_it_is_known() {
    let mut world = tiers();
    world.set_source(policy("web", &json!({"podSelector": {}})).key(), "web.yaml:7".to_owned());
    let (json, _) = said(&world, "demo/client", "demo/web", tcp(80)).expect("an answer");
    assert_eq!(json["ingress"]["source"], "web.yaml:7");
    assert_eq!(json["ingress"]["steps"][3]["source"], "web.yaml:7");
}
