//! Whatever the order and the timing: the kernel ends as the last word wants it, a restart then writes nothing, and at no time is a
//! pod reachable that its rules do not protect (the world checks that at every write).

mod common;

use common::{World, allow, block, config, endpoint, namespace, node, pod, pool, without_history};
use proptest::prelude::*;
use tortie_api::{Kind, ObjectKey};
use tortie_bird_lite::RibUpdate;
use tortie_felix::{Action, Event, Felix, LocalEndpoint, Target};

/// Something that happens. Numbers choose among few, so that things collide.
#[derive(Debug, Clone)]
enum Op {
    Pod(u8, u8),
    NoPod(u8),
    Policy(u8, u8, u8),
    NoPolicy(u8),
    Block(u8, bool),
    Add(u8),
    Remove(u8),
    Best(u8, u8),
    Withdrawn(u8),
    /// Somebody deletes one of our routes.
    Meddle(u8),
    /// One of the held actions is done.
    Release,
    Wait(u16),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..6u8, 0..3u8).prop_map(|(pod, label)| Op::Pod(pod, label)),
        1 => (0..6u8).prop_map(Op::NoPod),
        2 => (0..3u8, 0..3u8, 0..3u8).prop_map(|(name, to, from)| Op::Policy(name, to, from)),
        1 => (0..3u8).prop_map(Op::NoPolicy),
        1 => (0..3u8, any::<bool>()).prop_map(|(number, ours)| Op::Block(number, ours)),
        4 => (0..6u8).prop_map(Op::Add),
        2 => (0..6u8).prop_map(Op::Remove),
        2 => (0..4u8, 0..3u8).prop_map(|(prefix, via)| Op::Best(prefix, via)),
        1 => (0..4u8).prop_map(Op::Withdrawn),
        1 => any::<u8>().prop_map(Op::Meddle),
        8 => Just(Op::Release),
        1 => (1..2000u16).prop_map(Op::Wait),
    ]
}

fn label(number: u8) -> &'static str {
    ["red", "green", "blue"][usize::from(number) % 3]
}

/// Pods 0 to 2 have addresses in block 0, the others elsewhere; the last has one of another's prefix.
fn local(number: u8) -> LocalEndpoint {
    let ip = if number < 3 { format!("10.244.0.{number}") } else { format!("10.244.200.{number}") };
    endpoint("default", &format!("p{number}"), &[&ip])
}

fn prefix(number: u8) -> &'static str {
    ["10.244.64.0/26", "10.244.200.5/32", "fd00:10:244::/122", "10.244.0.0/26"][usize::from(number) % 4]
}

fn next_hop(number: u8) -> &'static str {
    // The last is not reachable.
    ["172.31.0.3", "fd00:172:31::3", "192.0.2.1"][usize::from(number) % 3]
}

fn run(ops: &[Op], paused: bool) -> World {
    let mut world = World::new("a");
    world.start(Vec::new());
    world.apply(vec![
        node("a", &["172.31.0.2", "fd00:172:31::2"], &[]),
        node("b", &["172.31.0.3"], &[]),
        pool("pods", "10.244.0.0/16", false),
        namespace("default"),
    ]);
    world.paused = paused;
    let key = |kind, name: String| ObjectKey { kind, namespace: Some("default".into()), name };
    for op in ops {
        match op {
            Op::Pod(number, color) => {
                let ips: Vec<String> = local(*number).ips.iter().map(ToString::to_string).collect();
                drop(world.apply(vec![pod("default", &format!("p{number}"), label(*color), &[&ips[0]])]));
            }
            Op::NoPod(number) => drop(world.delete(key(Kind::Pod, format!("p{number}")))),
            Op::Policy(name, to, from) => {
                drop(world.apply(vec![allow(&format!("policy{name}"), label(*to), label(*from))]));
            }
            Op::NoPolicy(name) => drop(world.delete(key(Kind::NetworkPolicy, format!("policy{name}")))),
            Op::Block(number, ours) => {
                let owner = if *ours { "a" } else { "b" };
                drop(world.apply(vec![block(&format!("10.244.{}.0/26", u16::from(*number) * 64), owner)]));
            }
            Op::Add(number) => drop(world.add(&local(*number))),
            Op::Remove(number) => drop(world.remove(&local(*number))),
            Op::Best(number, via) => world.rib(prefix(*number), next_hop(*via)),
            Op::Withdrawn(number) => {
                let prefix = common::net(prefix(*number));
                world.send(Event::Rib(RibUpdate::Withdrawn { prefix }));
            }
            Op::Meddle(choice) => {
                let ours: Vec<_> = world.fib.values().filter(|route| route.protocol == 80).cloned().collect();
                if let Some(route) = ours.get(usize::from(*choice) % ours.len().max(1)) {
                    world.fib.remove(&(route.destination, route.metric));
                    world.send(Event::RouteRemoved(route.clone()));
                }
            }
            Op::Release => world.release_one(),
            Op::Wait(milliseconds) => world.advance(u64::from(*milliseconds)),
        }
    }
    world.release();
    world.advance(3_000);
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn timing_does_not_matter_and_a_restart_is_silent(ops in prop::collection::vec(op(), 1..60)) {
        let prompt = run(&ops, false);
        let mut late = run(&ops, true);
        // A wait may let a request of the one expire that the other answered: all here are far shorter than that.
        prop_assert_eq!(prompt.ours(), late.ours());
        prop_assert_eq!(without_history(prompt.ruleset()), without_history(late.ruleset()));
        prop_assert_eq!(prompt.bgp.clone(), late.bgp.clone());
        prop_assert_eq!(late.felix.status().revision, late.felix.programmed_revision());
        // Routes of pods lead out of devices that the table knows.
        for route in late.fib.values().filter(|route| matches!(route.target, Target::Device { index, .. } if index != common::ETH0)) {
            prop_assert!(route.destination.prefix_len() == 32);
        }

        // The same resources to a new process.
        let endpoints: Vec<_> = late.felix.endpoints().cloned().collect();
        let (fib, table) = (late.fib.clone(), late.ruleset());
        late.felix = Felix::new(config("a"));
        late.writes.clear();
        late.start(endpoints);
        late.apply(last_word(&ops));
        for update in routes(&ops) {
            late.send(Event::Rib(update));
        }
        late.send(Event::Rib(RibUpdate::Converged));
        late.advance(100_000);
        prop_assert_eq!(late.fib, fib);
        prop_assert_eq!(late.table.ruleset(), Some(&table));
        for action in &late.writes {
            match action {
                Action::ApplyRules(transaction) => prop_assert!(transaction.commands.is_empty(), "{:?}", action),
                Action::ApplyRoutes(_) => prop_assert!(false, "{:?}", action),
                _ => {}
            }
        }
    }
}

/// What the datastore holds after all operations.
fn last_word(ops: &[Op]) -> Vec<tortie_api::Object> {
    let mut objects = std::collections::BTreeMap::new();
    let mut put = |object: tortie_api::Object| drop(objects.insert(object.key(), object));
    put(node("a", &["172.31.0.2", "fd00:172:31::2"], &[]));
    put(node("b", &["172.31.0.3"], &[]));
    put(pool("pods", "10.244.0.0/16", false));
    put(namespace("default"));
    for op in ops {
        match op {
            Op::Pod(number, color) => {
                let ip = local(*number).ips[0].to_string();
                drop(objects.insert(
                    ObjectKey { kind: Kind::Pod, namespace: Some("default".into()), name: format!("p{number}") },
                    pod("default", &format!("p{number}"), label(*color), &[&ip]),
                ));
            }
            Op::NoPod(number) => drop(objects.remove(&ObjectKey {
                kind: Kind::Pod,
                namespace: Some("default".into()),
                name: format!("p{number}"),
            })),
            Op::Policy(name, to, from) => {
                let object = allow(&format!("policy{name}"), label(*to), label(*from));
                drop(objects.insert(object.key(), object));
            }
            Op::NoPolicy(name) => drop(objects.remove(&ObjectKey {
                kind: Kind::NetworkPolicy,
                namespace: Some("default".into()),
                name: format!("policy{name}"),
            })),
            Op::Block(number, ours) => {
                let object = block(&format!("10.244.{}.0/26", u16::from(*number) * 64), if *ours { "a" } else { "b" });
                drop(objects.insert(object.key(), object));
            }
            _ => {}
        }
    }
    objects.into_values().collect()
}

/// The best paths after all operations.
fn routes(ops: &[Op]) -> Vec<RibUpdate> {
    let mut best = std::collections::BTreeMap::new();
    for op in ops {
        match op {
            Op::Best(number, via) => drop(best.insert(prefix(*number), next_hop(*via))),
            Op::Withdrawn(number) => drop(best.remove(prefix(*number))),
            _ => {}
        }
    }
    best.into_iter()
        .map(|(prefix, via)| RibUpdate::Best { prefix: common::net(prefix), next_hops: vec![common::ip(via)] })
        .collect()
}
