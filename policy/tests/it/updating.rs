//! Single updates that random histories rarely meet, and what they must not touch.

use serde_json::json;
use tortie_api::{Kind, ObjectKey};
use tortie_nft::Command;
use tortie_policy::{CompileOptions, Compiler, Endpoint, EndpointToHost, Generation, NatOutgoing, compile};

use crate::histories::is_as_anew;
use crate::support::{endpoint, object, pod, policy};

fn compiler() -> (Compiler, Vec<Endpoint>) {
    let mut compiler = Compiler::new(CompileOptions::default());
    for name in ["x", "z"] {
        let rules = json!([{"from": [{"podSelector": {"matchLabels": {"peer": name}}}]}]);
        let spec = json!({"podSelector": {"matchLabels": {"app": name}}, "ingress": rules});
        compiler.cluster_mut().upsert(&policy(name, &spec));
    }
    compiler.cluster_mut().upsert(&pod("demo", "a", "n", "10.0.0.1", &json!({"app": "x"})));
    compiler.cluster_mut().upsert(&pod("demo", "b", "n", "10.0.0.2", &json!({"app": "w"})));
    let endpoints = vec![endpoint("demo", "a", &["10.0.0.1"]), endpoint("demo", "b", &["10.0.0.2"])];
    compiler.update(&endpoints, Generation::seed(1));
    (compiler, endpoints)
}

fn assert_as_anew(compiler: &Compiler, endpoints: &[Endpoint], options: &CompileOptions) {
    let fresh = compile(compiler.cluster(), endpoints, Generation::seed(1), options);
    is_as_anew(compiler.table(), &fresh).expect("as compiled anew");
}

/// Label sets have numbers, and a number that nobody needs any more is given to the next: here that of `a`'s old labels to the new ones
/// of `b`, all in one update. What was known of the number must go with its old bearer.
#[test]
fn the_number_of_a_label_set_may_be_anothers_within_one_update() {
    for follow in [false, true] {
        let (mut compiler, endpoints) = compiler();
        compiler.cluster_mut().upsert(&pod("demo", "a", "n", "10.0.0.1", &json!({"app": "y"})));
        compiler.cluster_mut().upsert(&pod("demo", "b", "n", "10.0.0.2", &json!({"app": "z"})));
        if follow {
            compiler.follow(Generation::seed(1));
        } else {
            compiler.update(&endpoints, Generation::seed(1));
        }
        assert_as_anew(&compiler, &endpoints, &CompileOptions::default());
    }
}

#[test]
fn a_peer_that_comes_and_goes_is_one_element() {
    let (mut compiler, endpoints) = compiler();
    let before = compiler.table().clone();
    compiler.cluster_mut().upsert(&pod("demo", "peer", "m", "10.0.0.9", &json!({"peer": "x"})));
    let update = compiler.follow(Generation::seed(1));
    let commands = update.transaction(compiler.table()).commands;
    assert!(
        matches!(commands.as_slice(), [Command::AddElements { elements, .. }] if elements.len() == 1),
        "{commands:?}"
    );
    assert!(update.is_in_parts() && !update.tightens(compiler.table()));

    // The pod moves to another's address and back within one update: nothing has happened.
    compiler.cluster_mut().upsert(&pod("demo", "peer", "m", "10.0.0.8", &json!({"peer": "z"})));
    compiler.cluster_mut().upsert(&pod("demo", "peer", "m", "10.0.0.9", &json!({"peer": "x"})));
    assert!(compiler.follow(Generation::seed(1)).transaction(compiler.table()).commands.is_empty());

    let key = ObjectKey { kind: Kind::Pod, namespace: Some("demo".into()), name: "peer".into() };
    compiler.cluster_mut().remove(&key);
    let update = compiler.follow(Generation::seed(1));
    let commands = update.transaction(compiler.table()).commands;
    assert!(matches!(commands.as_slice(), [Command::DeleteElements { elements, .. }] if elements.len() == 1));
    assert!(update.tightens(compiler.table()));
    assert_eq!(*compiler.table(), before);
    assert_as_anew(&compiler, &endpoints, &CompileOptions::default());
}

/// What a rule denies, or passes over, or what is negated: a member that comes may deny what was allowed.
#[test]
fn a_peer_that_comes_moves_the_generation_only_where_it_may_be_denied() {
    for (action, field, moves) in [
        ("Allow", "selector", false),
        ("Allow", "notSelector", true),
        ("Deny", "selector", true),
        ("Pass", "selector", true),
    ] {
        let (mut compiler, endpoints) = compiler();
        let rule = json!({"action": action, "source": {field: "peer == 'z'"}});
        let spec = json!({"selector": "app == 'x'", "types": ["Ingress"], "ingress": [rule, {"action": "Allow"}]});
        let policy = json!({"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy",
            "metadata": {"name": "ordered"}, "spec": spec});
        compiler.cluster_mut().upsert(&object(&policy));
        compiler.cluster_mut().remove(&ObjectKey {
            kind: Kind::NetworkPolicy,
            namespace: Some("demo".into()),
            name: "z".into(),
        });
        compiler.follow(Generation::seed(1));
        compiler.cluster_mut().upsert(&pod("demo", "peer", "m", "10.0.0.9", &json!({"peer": "z"})));
        let update = compiler.follow(Generation::seed(1));
        assert!(!update.transaction(compiler.table()).commands.is_empty(), "{action} {field}");
        assert_eq!(update.tightens(compiler.table()), moves, "{action} {field}");
        assert_as_anew(&compiler, &endpoints, &CompileOptions::default());
    }
}

#[test]
fn settings_change_the_table_and_only_some_move_the_generation() {
    let nat = NatOutgoing { port_range: Some((1_024, 2_048)), ..NatOutgoing::default() };
    let with = |change: &dyn Fn(&mut CompileOptions)| {
        let mut options = CompileOptions::default();
        change(&mut options);
        options
    };
    for (options, moves) in [
        (with(&|options| options.nat_outgoing = nat.clone()), false),
        (with(&|options| options.vxlan_port = 8_472), false),
        (with(&|options| options.allow_ipip_from_workloads = true), false),
        (with(&|options| options.endpoint_to_host = EndpointToHost::Drop), true),
    ] {
        let (mut compiler, endpoints) = compiler();
        compiler.set_options(options.clone());
        let update = compiler.follow(Generation::seed(1));
        assert_as_anew(&compiler, &endpoints, &options);
        assert_eq!(update.tightens(compiler.table()), moves, "{options:?}");
        compiler.set_options(options.clone());
        assert!(compiler.follow(Generation::seed(1)).transaction(compiler.table()).commands.is_empty());
    }
}
