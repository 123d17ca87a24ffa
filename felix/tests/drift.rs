//! Drift is what others did: told once it is repaired, with who it was, and never what was ours to do or merely went wrong.

mod common;

use common::{World, allow, cluster, local_endpoints};
use tortie_felix::{Drift, DriftKind, Event};
use tortie_nft::fake::{Fake, Fault, Faults};

fn ready() -> World {
    let mut world = World::new("a");
    world.start(local_endpoints());
    world.apply(cluster());
    world.send(Event::Rib(tortie_bird_lite::RibUpdate::Converged));
    assert_eq!(world.drifts, [], "what an earlier run left, or did not, is no drift");
    world
}

/// A stranger edits the table, and the kernel says so.
fn meddle(world: &mut World, edit: impl FnOnce(&mut tortie_nft::Ruleset)) {
    let mut table = world.ruleset();
    edit(&mut table);
    world.table = Fake::with(table);
    world.send(Event::RulesTouched { by: Some("nft (7)".into()) });
}

fn told(drift: &Drift) -> (DriftKind, &str, &str, bool, Option<&str>) {
    (drift.what, drift.object.as_str(), drift.found.as_str(), drift.repaired, drift.by.as_deref())
}

#[test]
fn an_edit_of_the_table_is_told_in_a_few_words_with_its_author() {
    let mut world = ready();
    let wanted = common::without_history(world.ruleset());
    meddle(&mut world, |table| {
        table.sets.get_mut("own4").expect("a set").elements.clear();
        table.chains.get_mut("guard").expect("a chain").rules.truncate(1);
    });
    let [drift] = world.drifts.as_slice() else { panic!("{:?}", world.drifts) };
    let lost = local_endpoints().len();
    let words = format!("chain guard has other rules, set own4 lacks {lost} elements");
    assert_eq!(told(drift), (DriftKind::Rules, "table inet tortie", words.as_str(), true, Some("nft (7)")));
    assert_eq!(common::without_history(world.ruleset()), wanted);
    world.send(Event::RulesTouched { by: Some("nft (8)".into()) });
    world.advance(1_000_000);
    assert_eq!(world.drifts.len(), 1, "a touch that changes nothing, and audits, tell nothing");
}

#[test]
fn a_write_that_fails_or_whose_answer_is_lost_is_no_drift() {
    for fault in Fault::ALL {
        let mut world = ready();
        world.table.set_faults(Faults::none().transaction(0, fault).transaction(1, fault));
        world.apply(vec![allow("another", "client", "web")]);
        world.advance(1_000_000);
        assert_eq!(world.drifts, [], "{fault:?}");
        world.restart();
        world.start(local_endpoints());
        world.apply(cluster());
        world.advance(1_000_000);
        assert_eq!(world.drifts, [], "{fault:?}: nor is what changed while no agent ran");
    }
}

#[test]
fn what_cannot_be_repaired_is_told_as_it_is() {
    let mut world = ready();
    world.refuse_rules = 20;
    meddle(&mut world, |table| table.chains.get_mut("guard").expect("a chain").rules.clear());
    assert_eq!(world.drifts, [], "it may be repaired in a moment");
    world.advance(5_000);
    assert_eq!(world.drifts.iter().map(|drift| drift.repaired).collect::<Vec<_>>(), [false]);
    world.refuse_rules = 0;
    world.advance(60_000);
    assert_eq!(world.drifts.iter().map(|drift| drift.repaired).collect::<Vec<_>>(), [false, true]);
    assert_eq!(world.felix.drifts().count(), 1, "it is one drift");
}
