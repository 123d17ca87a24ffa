//! The fake as an executor: the suite that the kernel passes too, and diffs between random rulesets.

mod support;

use support::{generate, suite};
use tortie_nft::fake::Fake;
use tortie_nft::{Command, Executor};

#[test]
fn the_fake_refuses_what_the_kernel_refuses() {
    suite::run(Fake::new);
}

#[test]
fn diffs_lead_from_any_ruleset_to_any_other() {
    for seed in 0..300 {
        suite::evolve(&mut Fake::new(), seed, 20);
    }
}

#[test]
fn a_diff_touches_only_what_differs() {
    let mut random = generate::Random(7);
    let mut tried = 0;
    while tried < 200 {
        let have = generate::ruleset(&mut random);
        let mut want = have.clone();
        let Some((name, set)) = want.sets.iter_mut().find(|(_, set)| !set.elements.is_empty()) else { continue };
        let (name, gone) = (name.clone(), set.elements.pop_first().expect("an element"));
        let transaction = have.diff(&want);
        assert_eq!(transaction.commands, [Command::DeleteElements { set: name, elements: vec![gone] }]);
        let mut fake = Fake::with(have);
        fake.apply(&transaction).expect("an element can go");
        assert_eq!(fake.ruleset(), Some(&want));
        tried += 1;
    }
}
