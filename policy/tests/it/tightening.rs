//! Which changes move the generation, and which do not.

use serde_json::{Value, json};
use tortie_api::Object;
use tortie_nft::Ruleset;
use tortie_policy::{Endpoint, Generation, tightens};

use crate::support::{cluster, endpoint, node, object, pod, policy};

fn compiled(documents: &[Object], endpoints: &[Endpoint]) -> Ruleset {
    node(&cluster(documents), endpoints, Generation::seed(1)).0
}

fn web() -> Vec<Endpoint> {
    vec![endpoint("demo", "web", &["10.0.0.1"])]
}

fn pods() -> Vec<Object> {
    vec![
        pod("demo", "web", "n", "10.0.0.1", &json!({"app": "web"})),
        pod("demo", "client", "n2", "10.0.0.2", &json!({"app": "client"})),
    ]
}

/// The table of a node with pod `web`, whose ingress allows these rules.
fn allowing(rules: &Value) -> Ruleset {
    let mut documents = pods();
    documents.push(policy("p", &json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": rules})));
    compiled(&documents, &web())
}

/// Asserts that going there tightens, and going back does not.
fn tighter(from: &Value, to: &Value) {
    let (from, to) = (allowing(from), allowing(to));
    assert!(tightens(&from, &to));
    assert!(!tightens(&to, &from));
    assert!(!tightens(&from, &from.clone()) && !tightens(&to, &to.clone()));
}

fn client() -> Value {
    json!({"podSelector": {"matchLabels": {"app": "client"}}})
}

fn block(cidr: &str, except: &[&str]) -> Value {
    json!({"ipBlock": {"cidr": cidr, "except": except}})
}

#[test]
fn a_first_policy_tightens_and_its_end_loosens() {
    let open = compiled(&pods(), &web());
    for rules in [json!([]), json!([{"from": [client()]}])] {
        assert!(tightens(&open, &allowing(&rules)));
        assert!(!tightens(&allowing(&rules), &open));
    }
    assert!(!tightens(&open, &allowing(&json!([{}]))), "a policy that allows everything");
}

#[test]
fn rules_that_go_tighten_and_rules_that_come_do_not() {
    tighter(&json!([{"from": [client()]}]), &json!([]));
    tighter(
        &json!([{"from": [client()], "ports": [{"port": 80}, {"port": 81, "protocol": "UDP"}]}]),
        &json!([{"from": [client()], "ports": [{"port": 80}]}]),
    );
    tighter(&json!([{"ports": [{"port": 80, "endPort": 90}]}]), &json!([{"ports": [{"port": 80, "endPort": 89}]}]));
    tighter(
        &json!([{"ports": [{"port": 80, "endPort": 90}]}]),
        &json!([{"ports": [{"port": 80, "endPort": 84}, {"port": 86, "endPort": 90}]}]),
    );
    tighter(&json!([{"ports": [{"port": 80}]}]), &json!([{"from": [client()], "ports": [{"port": 80}]}]));
    tighter(&json!([{"ports": [{}]}]), &json!([{"ports": [{"port": 80}]}]));
}

#[test]
fn blocks_are_compared_by_their_addresses() {
    tighter(
        &json!([{"from": [block("10.0.0.0/8", &[])]}]),
        &json!([{"from": [block("10.0.0.0/8", &["10.1.0.0/16"])]}]),
    );
    tighter(&json!([{"from": [block("10.0.0.0/8", &[])]}]), &json!([{"from": [block("10.0.0.0/9", &[])]}]));
    let whole = allowing(&json!([{"from": [block("10.0.0.0/8", &[])]}]));
    let halves = allowing(&json!([{"from": [block("10.0.0.0/9", &[]), block("10.128.0.0/9", &[])]}]));
    assert!(!tightens(&whole, &halves) && !tightens(&halves, &whole));
}

#[test]
fn peers_that_go_tighten_and_peers_that_come_do_not() {
    let documents = |peers: usize| {
        let mut documents = pods();
        documents.truncate(1 + peers);
        documents.push(policy(
            "p",
            &json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"from": [client()]}]}),
        ));
        compiled(&documents, &web())
    };
    assert!(tightens(&documents(1), &documents(0)));
    assert!(!tightens(&documents(0), &documents(1)));
}

#[test]
fn a_peer_that_comes_to_be_denied_tightens() {
    let documents = |peers: usize| {
        let mut documents = pods();
        documents.truncate(1 + peers);
        let rules = json!([{"action": "Deny", "source": {"selector": "app == 'client'"}}, {"action": "Allow"}]);
        documents.push(object(&json!({"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy",
            "metadata": {"name": "p"}, "spec": {"selector": "app == 'web'", "ingress": rules}})));
        compiled(&documents, &web())
    };
    assert!(tightens(&documents(0), &documents(1)));
    assert!(!tightens(&documents(1), &documents(1)));
}

#[test]
fn a_new_pod_tightens_only_if_it_is_isolated() {
    let documents = pods();
    let both = [web(), vec![endpoint("demo", "client", &["10.0.0.2"])]].concat();
    let (one, two) = (compiled(&documents, &web()), compiled(&documents, &both));
    assert!(!tightens(&one, &two), "nobody denies it anything");
    assert!(!tightens(&two, &one), "what is gone denies nobody");
    // Its address may have been another's a moment ago, with flows that this node has stamped.
    let mut documents = documents;
    documents.push(policy("p", &json!({"podSelector": {"matchLabels": {"app": "client"}}})));
    assert!(tightens(&compiled(&documents, &web()), &compiled(&documents, &both)));
}

/// A tier whose policies decide little, ahead of one that decides the rest.
#[test]
fn a_tier_that_denies_what_it_passed_tightens() {
    let with = |default_action: &str| {
        let tier = json!({"apiVersion": "projectcalico.org/v3", "kind": "Tier", "metadata": {"name": "first"},
            "spec": {"order": 1, "defaultAction": default_action}});
        let policy = |name: &str, tier: &str, peer: &str| {
            let rule = json!({"action": "Allow", "source": {"selector": peer}});
            json!({"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy", "metadata": {"name": name},
                "spec": {"tier": tier, "selector": "app == 'web'", "ingress": [rule]}})
        };
        let policies = [tier, policy("a", "first", "app == 'nobody'"), policy("b", "default", "app == 'client'")];
        let documents: Vec<Object> = pods().into_iter().chain(policies.iter().map(object)).collect();
        compiled(&documents, &web())
    };
    let (passes, denies) = (with("Pass"), with("Deny"));
    assert!(tightens(&passes, &denies));
    assert!(!tightens(&denies, &passes));
}

/// What is behind a rule that denies everything is never asked, and must not hide that rule.
#[test]
fn a_denial_tightens_whatever_is_logged_behind_it() {
    let with = |rules: &Value| {
        let tier = json!({"apiVersion": "projectcalico.org/v3", "kind": "Tier", "metadata": {"name": "first"},
            "spec": {"order": 1, "defaultAction": "Pass"}});
        let policy = json!({"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy", "metadata": {"name": "p"},
            "spec": {"tier": "first", "selector": "app == 'web'", "ingress": rules}});
        let documents: Vec<Object> = pods().into_iter().chain([tier, policy].iter().map(object)).collect();
        compiled(&documents, &web())
    };
    let (allows, denies) = (with(&json!([{"action": "Allow"}])), with(&json!([{"action": "Deny"}, {"action": "Log"}])));
    assert!(tightens(&allows, &denies));
    assert!(!tightens(&denies, &allows));
    let open = compiled(&pods(), &web());
    assert!(tightens(&open, &denies));
}

#[test]
fn a_foreign_frame_tightens_and_no_table_does_not() {
    let current = compiled(&pods(), &web());
    assert!(!tightens(&Ruleset::default(), &current));
    let mut older = current.clone();
    older.chains.get_mut("egress").expect("a base chain").rules.pop();
    assert!(tightens(&older, &current));
    let mut broken = current.clone();
    broken.maps.remove("egress_class");
    assert!(tightens(&broken, &current));
    // A class that somebody emptied: whatever it allows now, we know what we want.
    let next = node(&cluster(&pods()), &web(), Generation::seed(1).next()).0;
    assert!(!tightens(&current, &next), "the generation alone is no reason to move it");
}
