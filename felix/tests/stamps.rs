//! Generations and the stamps of silent flows: nothing old counts again, and nothing waits for a sweep that need not.

mod common;

use common::{World, allow, cluster, local_endpoints};
use serde_json::json;
use tortie_api::Object;
use tortie_bird_lite::RibUpdate;
use tortie_felix::Event;
use tortie_nft::{Key, Value};

fn started(world: &mut World) {
    world.start(local_endpoints());
    for endpoint in local_endpoints() {
        world.link_of(&endpoint, true);
    }
    world.apply(cluster());
    world.send(Event::Rib(RibUpdate::Converged));
}

fn swept(world: &mut World) {
    world.send(Event::StampsSwept(world.sweep_result.clone()));
}

/// The stamp that counts in the kernel's table.
fn live(world: &World) -> u32 {
    let marks: Vec<Key> = world.ruleset().sets["live"].elements.iter().cloned().collect();
    match marks.concat().as_slice() {
        [Value::Mark(mark)] => *mark,
        other => panic!("one live mark, not {other:?}"),
    }
}

/// Takes a permission away and gives another, back and forth.
fn tighten(world: &mut World, count: usize) {
    world.apply(vec![allow("web", "web", if count.is_multiple_of(2) { "web" } else { "client" })]);
    world.advance(150);
}

#[test]
fn flows_that_were_kept_are_judged_again_once_that_ends() {
    let mut world = World::new("a");
    started(&mut world);
    let keep = |what: &str| {
        let value = json!({"apiVersion": "projectcalico.org/v3", "kind": "FelixConfiguration", "metadata": {"name": "default"},
            "spec": {"policyExistingConnections": what}});
        serde_json::from_value::<Object>(value).expect("an object")
    };
    let before = live(&world);
    world.apply(vec![keep("Keep")]);
    for count in 0..4 {
        tighten(&mut world, count);
    }
    assert_eq!(live(&world), before, "whatever is denied now, flows go on");
    world.apply(vec![keep("Reevaluate")]);
    world.advance(1_000);
    let after = live(&world);
    assert_ne!(after, before, "what was kept is judged again");
    world.apply(vec![keep("Reevaluate")]);
    world.advance(1_000);
    assert_eq!(live(&world), after, "once");
}

#[test]
fn a_table_that_is_new_waits_for_a_sweep_of_all_stamps() {
    let mut world = World::new("a");
    world.hold_sweeps = true;
    started(&mut world);
    assert!(world.writes.iter().all(|action| !matches!(action, tortie_felix::Action::ApplyRules(_))));
    assert_eq!((world.sweeps.len(), world.sweeps[0].kept.len()), (1, 0));
    world.advance(60_000);
    assert_eq!(world.sweeps.len(), 1, "one at a time");
    swept(&mut world);
    assert_eq!(world.transactions(), 1);
    world.advance(60_000);
    assert_eq!(world.sweeps.len(), 1, "and that was it");
}

#[test]
fn after_a_restart_only_a_move_waits_for_the_sweep() {
    let mut world = World::new("a");
    started(&mut world);
    let before = live(&world);
    world.restart();
    world.hold_sweeps = true;
    started(&mut world);
    let asked = world.sweeps.last().expect("a sweep").clone();
    assert_eq!(asked.bits, 0xffff_0000);
    assert_eq!(asked.kept, [before, before + 0x0001_0000], "live and pending stamps stay");
    // What loosens is written meanwhile, and so is what denies; but the stamps of before count on.
    world.apply(vec![allow("more", "client", "web")]);
    let transactions = world.transactions();
    tighten(&mut world, 0);
    assert!(world.transactions() > transactions, "new flows are denied at once");
    world.advance(30_000);
    assert_eq!(live(&world), before);
    swept(&mut world);
    assert_eq!(live(&world), before + 0x0002_0000);
    assert_eq!(world.felix.status().problems, [""; 0]);
}

#[test]
fn a_kernel_that_cannot_sweep_is_a_problem_and_holds_nothing_back() {
    let mut world = World::new("a");
    world.sweep_result = Err("it has no ctnetlink".into());
    started(&mut world);
    let before = live(&world);
    for count in 0..4 {
        tighten(&mut world, count);
    }
    assert_eq!(live(&world), before + 4 * 0x0002_0000);
    let problems = world.felix.status().problems.join("\n");
    assert!(problems.contains("it has no ctnetlink"), "{problems}");
    let tried = world.sweeps.len();
    world.sweep_result = Ok(3);
    world.advance(3_600_000);
    assert!(world.sweeps.len() > tried, "it is tried again");
    assert_eq!(world.felix.status().problems, [""; 0]);
}

/// With the fewest bits that there may be, 127 generations are a round. Conntrack in small: each stamp that ever counted is carried
/// by a silent flow until a sweep takes it.
#[test]
fn no_stamp_counts_twice_however_many_rounds() {
    let mut world = World::new("a");
    let few_bits = serde_json::from_value(json!({
        "metadata": { "name": "default" },
        "spec": { "nftablesMarkMask": 0xff },
    }));
    world.start(local_endpoints());
    world.apply(vec![Object::FelixConfiguration(Box::new(few_bits.expect("a configuration")))]);
    started(&mut world);
    let mut silent: Vec<u32> = Vec::new();
    let mut done = 0;
    let mut last = live(&world);
    for count in 0..500 {
        tighten(&mut world, count);
        for sweep in world.sweeps.drain(..) {
            done += 1;
            silent.retain(|stamp| stamp & sweep.bits == 0 || sweep.kept.contains(&(stamp & sweep.bits)));
        }
        let live = live(&world);
        assert_eq!(live & !0xff, 0);
        assert_ne!(live, last, "each change moves the generation");
        assert!(!silent.contains(&live), "after {count} moves, stamp {live:#x} counts again");
        silent.push(last);
        last = live;
    }
    assert!((7..=12).contains(&done), "{done} sweeps in four rounds");
}
