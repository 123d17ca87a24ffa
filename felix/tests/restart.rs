//! What a restart does to a kernel that is right already (nothing), half right, or not read yet.

mod common;

use common::{World, cluster, endpoint, local_endpoints, net, node, route, via, without_history};
use tortie_api::{Kind, ObjectKey};
use tortie_bird_lite::RibUpdate;
use tortie_felix::{Action, Change, Event, RouteState, Target};
use tortie_nft::Transaction;

/// A node that runs: two pods, a remote block.
fn running() -> World {
    let mut world = World::new("a");
    world.start(Vec::new());
    world.apply(cluster());
    for endpoint in local_endpoints() {
        let request = world.add(&endpoint);
        assert_eq!(world.answers.get(&request), Some(&Ok(())));
    }
    world.rib("10.244.0.64/26", "172.31.0.3");
    world.send(Event::Rib(RibUpdate::Converged));
    world
}

fn routes() -> Vec<String> {
    let web = tortie_policy::host_interface("default", "web");
    let client = tortie_policy::host_interface("default", "client");
    vec![
        format!("10.244.0.1/32 dev {web}"),
        format!("10.244.0.2/32 dev {client}"),
        "10.244.0.64/26 via 172.31.0.3 dev eth0".into(),
        "blackhole 10.244.0.0/26".into(),
    ]
}

#[test]
fn a_restart_with_nothing_changed_writes_nothing() {
    let mut world = running();
    assert_eq!(world.ours().into_iter().collect::<Vec<_>>(), routes());
    let (fib, table, generation) = (world.fib.clone(), world.ruleset(), world.felix.status().generation);

    world.restart();
    world.start(local_endpoints());
    let revision = world.apply(cluster());
    world.rib("10.244.0.64/26", "172.31.0.3");
    world.send(Event::Rib(RibUpdate::Converged));
    world.advance(200_000);
    let kernel = |action: &&Action| matches!(action, Action::ApplyRules(_) | Action::ApplyRoutes(_));
    let kernel: Vec<_> = world.writes.iter().filter(kernel).cloned().collect();
    assert_eq!(kernel, [Action::ApplyRules(Transaction::default())], "the table is adopted, no more");
    assert_eq!((world.fib.clone(), world.ruleset()), (fib, table));
    assert_eq!(world.felix.status().generation, generation, "taken from the kernel's @live");
    assert_eq!(world.felix.programmed_revision(), revision);
    assert_eq!(world.felix.status().problems, Vec::<String>::new());
    let speaker = world.bgp.as_ref().expect("a speaker");
    assert!(speaker.restarting, "routes via gateways were found");
    assert_eq!(speaker.kept, [(net("10.244.0.64/26"), "172.31.0.3".parse().expect("an address"))]);
}

#[test]
fn nothing_is_written_before_everything_is_read() {
    let mut world = running();
    world.restart();
    world.start(local_endpoints());
    // Half of the datastore: no policy, no pods. Nothing may be taken for gone.
    world.batch(cluster().into_iter().take(3).map(Change::Upsert).collect(), false);
    world.advance(100_000);
    assert_eq!(world.writes, Vec::new());
    assert_eq!(world.felix.programmed_revision(), "");
    world.batch(cluster().into_iter().skip(3).map(Change::Upsert).collect(), true);
    assert!(!world.writes.iter().any(|action| matches!(action, Action::ApplyRoutes(_))), "{:?}", world.writes);
    assert!(
        !world.writes.iter().any(|action| matches!(action, Action::ApplyRules(rules) if !rules.commands.is_empty()))
    );

    // The same with the endpoints of the run before not told yet.
    world.restart();
    world.run();
    world.apply(cluster());
    world.advance(1_000);
    assert_eq!(world.writes, Vec::new());
    world.send(Event::Restored { endpoints: local_endpoints() });
    assert_eq!(world.ours().into_iter().collect::<Vec<_>>(), routes());
}

#[test]
fn bgp_routes_are_kept_until_the_speaker_has_converged() {
    let mut world = running();
    world.insert(route("10.244.0.128/26", via("172.31.0.3"), 80, 1024));
    world.restart();
    world.start(local_endpoints());
    world.apply(cluster());
    assert_eq!(world.fib.len(), 2 + 5, "both routes by gateways stay");
    world.rib("10.244.0.64/26", "172.31.0.3");
    let stale = world.felix.routes().into_iter().find(|view| view.destination == net("10.244.0.128/26"));
    assert_eq!(stale.expect("shown").state, RouteState::Present);
    world.send(Event::Rib(RibUpdate::Converged));
    assert_eq!(world.ours().into_iter().collect::<Vec<_>>(), routes(), "what nobody confirmed goes");
}

#[test]
fn traffic_of_restored_pods_is_not_cut_while_new_rules_are_written() {
    let mut world = running();
    world.restart();
    world.start(local_endpoints());
    world.paused = true;
    let mut objects = cluster();
    objects.push(common::allow("more", "web", "far"));
    world.apply(objects);
    assert!(world.held.iter().any(|action| matches!(action, Action::ApplyRules(_))));
    for action in &world.held {
        assert!(!matches!(action, Action::ApplyRoutes(_)), "{action:?}");
    }
    world.release();
    assert!(world.ours().is_superset(&routes().into_iter().collect()));
}

#[test]
fn what_changed_meanwhile_is_repaired() {
    let mut world = running();
    // While nobody ran, a pod's object was deleted, and the block's route.
    world.restart();
    world.fib.remove(&(net("10.244.0.0/26"), 1024));
    let mut objects = cluster();
    objects.retain(|object| object.metadata().name != "client");
    world.start(local_endpoints());
    world.apply(objects);
    world.send(Event::Rib(RibUpdate::Converged));
    let web = tortie_policy::host_interface("default", "web");
    assert_eq!(
        world.ours().into_iter().collect::<Vec<_>>(),
        [format!("10.244.0.1/32 dev {web}"), "blackhole 10.244.0.0/26".into()]
    );
    let problems = world.felix.status().problems;
    assert!(problems.iter().any(|text| text.contains("pod default/client is cut off")), "{problems:?}");
    assert!(!world.ruleset().maps["egress_class"].elements.iter().any(|(key, _)| {
        key == &vec![tortie_nft::Value::IfName(tortie_policy::host_interface("default", "client"))]
    }));
}

#[test]
fn an_audit_repairs_what_nobody_announced() {
    let mut world = running();
    let (fib, table) = (world.fib.clone(), world.ruleset());
    world.fib.remove(&(net("10.244.0.1/32"), 1024));
    world.insert(route("10.99.0.0/24", Target::Blackhole, 80, 1024));
    world.insert(route("10.98.0.0/24", Target::Blackhole, 4, 1024));
    let mut broken = table.clone();
    broken.sets.get_mut("own4").expect("a set").elements.clear();
    world.table = tortie_nft::fake::Fake::with(broken);
    world.advance(100_000);
    world.fib.remove(&(net("10.98.0.0/24"), 1024)).expect("somebody else's stays");
    let rules = |world: &World| without_history(world.ruleset());
    assert_eq!(world.fib, fib);
    assert!(rules(&world) == without_history(table.clone()), "the set has its elements again");

    world.table = tortie_nft::fake::Fake::new();
    world.advance(100_000);
    assert!(rules(&world) == without_history(table), "the table comes back after a flush");
}

#[test]
fn a_deleted_node_object_keeps_the_node_connected() {
    let mut world = running();
    let before = world.bgp.clone();
    world.delete(ObjectKey { kind: Kind::Node, namespace: None, name: "a".into() });
    assert_eq!(world.bgp, before);
    world.apply(vec![node("a", &["172.31.0.9"], &[])]);
    assert_eq!(world.bgp.expect("a speaker").router_id.to_string(), "172.31.0.9");
}

#[test]
fn an_endpoint_whose_sandbox_is_replaced_keeps_its_successor() {
    let mut world = running();
    let old = endpoint("default", "web", &["10.244.0.1"]);
    let mut new = old.clone();
    new.container_id = "second".into();
    let added = world.add(&new);
    assert_eq!(world.answers.get(&added), Some(&Ok(())));
    let late = world.remove(&old);
    assert_eq!(world.answers.get(&late), Some(&Ok(())), "the old sandbox is gone already");
    assert_eq!(world.ours().into_iter().collect::<Vec<_>>(), routes());
}
