//! The fake when things go wrong: what is said of the table is true, and whoever reads again after a doubt gets on.

mod support;

use std::collections::BTreeMap;

use support::generate::{self, Random};
use tortie_nft::fake::{Error, Fake, Fault, Faults};
use tortie_nft::{Command, Executor, Reason, Ruleset, Transaction};

fn add_table() -> Transaction {
    Transaction { commands: vec![Command::AddTable] }
}

#[test]
fn each_fault_says_what_it_does() {
    let refused = |error: Error| match error {
        Error::Refused(refused) => refused.reason,
        other => panic!("{other}"),
    };
    for fault in Fault::ALL {
        let mut fake = Fake::new();
        fake.set_faults(Faults::none().transaction(1, fault));
        fake.apply(&add_table()).expect("the first is let through");
        let error = fake.apply(&Transaction { commands: vec![Command::DeleteTable] }).expect_err("the second is not");
        assert_eq!(fake.ruleset().is_none(), fault == Fault::AnswerLost, "{fault:?}");
        let doubt = match fault {
            Fault::NoMemory => {
                assert_eq!(refused(error), Reason::Os(12));
                false
            }
            Fault::NotPermitted => {
                assert_eq!(refused(error), Reason::NotPermitted);
                false
            }
            Fault::Interrupted => {
                assert_eq!(error, Error::Unsent(4));
                false
            }
            Fault::NoBuffers => {
                assert_eq!(error, Error::Unsent(105));
                false
            }
            Fault::Stale => {
                assert_eq!(error, Error::Stale);
                true
            }
            Fault::AnswerLost => {
                assert_eq!(error, Error::NoAnswer(105));
                true
            }
            Fault::NoAnswer => {
                assert_eq!(error, Error::NoAnswer(11));
                true
            }
        };
        let third = fake.apply(&add_table());
        if doubt {
            assert_eq!(third, Err(Error::Stale), "{fault:?}: without reading nothing is written any more");
            fake.read().expect("it can be read");
            fake.apply(&add_table()).expect("and then written");
        } else {
            third.expect("there is no doubt about the table");
        }
    }
}

#[test]
fn readings_fail_on_their_own_count() {
    let mut fake = Fake::with(Ruleset::default());
    fake.set_faults(Faults::none().read(1, Fault::NoMemory));
    fake.apply(&Transaction::default()).expect("no reading");
    fake.read().expect("the first");
    fake.read().expect_err("the second");
    assert_eq!(fake.read().expect("the third"), Some(Ruleset::default()));
}

/// The loop that every agent has: diff, apply, and after an error of any kind read again.
#[test]
fn whoever_reads_again_after_an_error_gets_there() {
    for seed in 0..40 {
        let mut random = Random(seed);
        let mut fake = Fake::new();
        fake.set_faults(Faults::random(seed, 50));
        let mut errors: BTreeMap<String, usize> = BTreeMap::new();
        for _ in 0..10 {
            let want = generate::ruleset(&mut random);
            for attempt in 0.. {
                assert!(attempt < 200, "seed {seed}: it does not get there; {errors:?}");
                let read = match fake.read() {
                    Ok(read) => read.unwrap_or_default(),
                    Err(error) => {
                        *errors.entry(error.to_string()).or_default() += 1;
                        continue;
                    }
                };
                if read == want {
                    break;
                }
                if let Err(error) = fake.apply(&read.diff(&want)) {
                    assert!(!matches!(error, Error::Stale) || fake.ruleset().cloned().unwrap_or_default() == read);
                    *errors.entry(error.to_string()).or_default() += 1;
                }
            }
        }
        assert!(errors.len() >= 3, "seed {seed}: {errors:?}");
    }
}
