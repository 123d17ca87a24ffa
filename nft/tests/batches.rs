//! A transaction in steps: each step is one that the kernel takes, all of them make what the whole does, and no packet sees a table
//! between that before and that after.

mod support;

use std::collections::BTreeSet;

use support::generate::{Random, evolve, ruleset};
use tortie_nft::fake::Fake;
use tortie_nft::{Command, Executor, Match, Ruleset, Statement, Transaction, Verdict, check};

/// What of a table packets can come by: base chains and all that they lead to.
fn reachable(table: &Ruleset) -> Ruleset {
    let mut found = Ruleset::default();
    let mut next: Vec<&str> =
        table.chains.iter().filter(|(_, chain)| chain.hook.is_some()).map(|(name, _)| name.as_str()).collect();
    let mut names: BTreeSet<&str> = BTreeSet::new();
    while let Some(name) = next.pop() {
        let Some(chain) = table.chains.get(name).filter(|_| names.insert(name)) else { continue };
        found.chains.insert(name.to_owned(), chain.clone());
        let mut verdicts: Vec<&Verdict> = Vec::new();
        for rule in &chain.rules {
            for set in check::sets_of(rule) {
                if let Some(set_found) = table.sets.get(set) {
                    found.sets.insert(set.to_owned(), set_found.clone());
                }
                if let Some(map) = table.maps.get(set) {
                    found.maps.insert(set.to_owned(), map.clone());
                    verdicts.extend(map.elements.values());
                }
            }
            verdicts.extend(rule.statements.iter().filter_map(|statement| match statement {
                Statement::Verdict(verdict) => Some(verdict),
                _ => None,
            }));
            assert!(
                rule.matches.iter().all(|m| !matches!(m, Match::InSet { set, .. } if !table.sets.contains_key(set)))
            );
        }
        next.extend(verdicts.into_iter().filter_map(|verdict| match verdict {
            Verdict::Jump(chain) | Verdict::Goto(chain) => Some(chain.as_str()),
            _ => None,
        }));
    }
    found
}

fn weight(transaction: &Transaction) -> usize {
    let weight = |command: &Command| match command {
        Command::AddElements { elements, .. } => elements.len(),
        Command::AddMapElements { elements, .. } => elements.len(),
        Command::AddRule { .. } => 4,
        _ => 1,
    };
    transaction.commands.iter().map(weight).sum()
}

#[test]
fn steps_are_taken_one_by_one_and_show_nothing_in_between() {
    let (mut several, mut hidden) = (0, 0);
    for seed in 0..600 {
        let mut r = Random(seed);
        let before = if r.chance(20) { Ruleset::default() } else { ruleset(&mut r) };
        let want = if r.chance(20) { ruleset(&mut r) } else { evolve(&mut r, &before) };
        let mut fake = Fake::new();
        if !before.is_empty() {
            fake = Fake::with(before.clone());
        }
        let max = 4 + r.below(20);
        let batches = before.diff(&want).batches(max);
        several += usize::from(batches.len() > 1);
        let (old, new) = (reachable(&before), reachable(&want));
        let mut switched = None;
        for (number, batch) in batches.iter().enumerate() {
            fake.apply(batch).unwrap_or_else(|refused| panic!("seed {seed}, step {number}: {refused}\n{batch}"));
            let there = fake.ruleset().map(reachable).unwrap_or_default();
            if switched.is_some() || there != old {
                assert_eq!(there, new, "seed {seed}, step {number}: neither before nor after");
                switched.get_or_insert(number);
            }
            // Only the step that packets notice, of which there is one, may be larger.
            let is_switch = there == new && switched.is_none_or(|switched| switched == number);
            assert!(weight(batch) <= max || is_switch || batches.len() == 1, "seed {seed}, step {number}: {batch}");
            hidden += usize::from(batches.len() > 1 && !is_switch);
        }
        assert_eq!(fake.read().expect("a fake").unwrap_or_default(), want, "seed {seed}");
    }
    assert!(several > 40 && hidden > 200, "{several} in steps, {hidden} steps out of sight");
}

#[test]
fn a_table_from_nothing_is_made_out_of_sight() {
    let mut r = Random(7);
    let want = std::iter::repeat_with(|| ruleset(&mut r)).find(|table| reachable(table).chains.len() > 3);
    let want = want.expect("one of the tables is large");
    let batches = Ruleset::default().diff(&want).batches(4);
    let bases = |batch: &Transaction| {
        batch.commands.iter().any(|command| matches!(command, Command::AddChain { hook: Some(_), .. }))
    };
    let with_bases: Vec<usize> = (0..batches.len()).filter(|number| bases(&batches[*number])).collect();
    assert_eq!(with_bases, [batches.len() - 1], "hooks come last, at once");
}
