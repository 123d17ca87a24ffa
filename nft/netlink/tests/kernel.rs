//! The kernel as an executor: the suite that the fake passes too, random walks with read-back, large batches, owners and strangers.

mod netns;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::net::Ipv4Addr;

use netns::{in_netns, new_netns, nft, nft_load, try_nft};
use support::{generate, suite};
use tortie_nft::{Command, Key, KeyType, Ruleset, Set, Transaction, Value};
use tortie_nft_netlink::{Error, NftSocket, Ownership, PlacedRule};

fn open() -> NftSocket {
    NftSocket::open().expect("a socket")
}

#[test]
fn the_kernel_passes_the_suite() {
    in_netns(|| {
        suite::run(|| {
            new_netns();
            open()
        });
    });
}

#[test]
fn diffs_lead_from_any_ruleset_to_any_other() {
    in_netns(|| {
        for seed in 0..12 {
            new_netns();
            suite::evolve(&mut open(), seed, 40);
        }
    });
}

#[test]
fn deletions_of_chains_in_a_batch_of_their_own() {
    in_netns(|| {
        for seed in 100..103 {
            new_netns();
            let mut socket = open();
            socket.split_chain_deletions(true);
            suite::evolve(&mut socket, seed, 30);
        }
    });
}

fn big(count: u32) -> Ruleset {
    let elements = (0..count).map(|i| -> Key { vec![Value::Addr(Ipv4Addr::from(0x0a00_0000 + i).into())] }).collect();
    let set = Set { key: vec![KeyType::Ipv4Addr], interval: false, elements, comment: None };
    Ruleset { sets: [("big".to_owned(), set)].into(), ..Ruleset::default() }
}

#[test]
fn a_hundred_thousand_elements_in_one_batch() {
    in_netns(|| {
        for count in [4_094, 4_095, 4_096, 10_000, 100_000] {
            new_netns();
            let mut socket = open();
            let want = big(count);
            socket.apply(&Ruleset::default().diff(&want)).expect("a batch of many elements");
            let read = socket.read().expect("a read-back").expect("a table");
            assert_eq!(read.sets["big"].elements.len(), count as usize);
            assert!(read == want);
            socket.apply(&want.diff(&Ruleset::default())).expect("and back");
            assert_eq!(socket.read().expect("a read-back"), Some(Ruleset::default()));
        }
    });
}

#[test]
fn a_restart_finds_its_own_work() {
    in_netns(|| {
        let want = generate::ruleset(&mut generate::Random(3));
        open().apply(&Ruleset::default().diff(&want)).expect("a first life");
        // All but the head, where nft names the owner: handles tell whether anything was made anew.
        let list = || nft(&["-a", "list", "ruleset"]).split_once("\n\n").expect("a head and a body").1.to_owned();
        let before = list();
        let mut again = open();
        let read = again.read().expect("a read-back").expect("the table outlives the socket");
        assert_eq!(read, want);
        again.apply(&read.diff(&want)).expect("nothing but adoption");
        assert_eq!(list(), before);
    });
}

#[test]
fn rules_have_the_handles_that_nft_shows() {
    in_netns(|| {
        let mut socket = open();
        assert_eq!(socket.rules().expect("an answer without a table"), []);
        let want = generate::ruleset(&mut generate::Random(5));
        socket.apply(&Ruleset::default().diff(&want)).expect("a table");
        let found = socket.rules().expect("rules");
        for (name, chain) in &want.chains {
            let rules: Vec<_> =
                found.iter().filter(|placed| placed.chain == *name).map(|placed| &placed.rule).collect();
            assert_eq!(rules, chain.rules.iter().collect::<Vec<_>>(), "chain {name}, in order");
        }
        let listing = nft(&["-a", "list", "table", "inet", "tortie"]);
        let shown =
            |placed: &PlacedRule| listing.lines().any(|line| line.ends_with(&format!(" # handle {}", placed.handle)));
        assert!(!found.is_empty() && found.iter().all(shown), "{listing}");
        let mut handles: Vec<u64> = found.iter().map(|placed| placed.handle).collect();
        handles.sort_unstable();
        handles.dedup();
        assert_eq!(handles.len(), found.len(), "each has its own");
    });
}

#[test]
fn a_stranger_cannot_flush_an_owned_table() {
    in_netns(|| {
        let mut socket = open();
        if socket.ownership() == Ownership::Plain {
            println!("skipped: this kernel has no `persist`");
            return;
        }
        let want = big(3);
        socket.apply(&Ruleset::default().diff(&want)).expect("a table");
        let _ = try_nft(&["flush", "ruleset"]);
        assert_eq!(socket.read().expect("a read-back").as_ref(), Some(&want));
        assert!(!try_nft(&["add", "chain", "inet", "tortie", "foreign"]).status.success());
        let other = open().apply(&Transaction::default()).expect_err("the table has an owner");
        assert!(other.to_string().contains("another process"), "{other}");
        // A stranger's changes elsewhere move the generation on, and do not get in the way.
        nft(&["add", "table", "ip", "elsewhere"]);
        socket.apply(&want.diff(&big(2))).expect("only the number was old");
        drop(socket);
        assert_eq!(open().read().expect("a read-back"), Some(big(2)));
    });
}

#[test]
fn a_plain_table_is_taken_over_whole() {
    in_netns(|| {
        let want = generate::ruleset(&mut generate::Random(11));
        nft_load(&want.to_string()).expect("our own text");
        let mut socket = open();
        let read = socket.read().expect("a read-back").expect("a table");
        assert_eq!(read, want);
        socket.apply(&Transaction::default()).expect("a take-over");
        assert_eq!(socket.read().expect("a read-back"), Some(want));
        if socket.ownership() == Ownership::Owned {
            assert!(!try_nft(&["delete", "table", "inet", "tortie"]).status.success(), "it is owned now");
        }
    });
}

#[test]
fn what_is_foreign_is_seen_and_removed() {
    in_netns(|| {
        nft_load(
            "table inet tortie {
                set s { type ipv4_addr; flags timeout; elements = { 10.0.0.1 timeout 1h } }
                set p { type ipv4_addr; elements = { 10.0.0.1 } }
                map m { type ipv4_addr : mark; elements = { 10.0.0.1 : 0x1 } }
                counter c { }
                chain nat {
                    type nat hook postrouting priority 100; policy accept;
                    masquerade
                }
                chain strict {
                    type filter hook forward priority 0; policy drop;
                }
                chain c {
                    ip saddr { 10.0.0.1, 10.0.0.2 } accept
                    limit rate 1/second accept
                    counter ip saddr @p accept
                    tcp flags syn drop
                }
            }",
        )
        .expect("a foreign table");
        let mut socket = open();
        let read = socket.read().expect("a read-back").expect("a table");
        assert_eq!(read.chains["c"].rules.len(), 4);
        let mut want = Ruleset::default();
        want.chains.insert("c".into(), tortie_nft::Chain::default());
        want.sets.insert("p".into(), read.sets["p"].clone());
        want.sets.insert("s".into(), read.sets["p"].clone());
        match socket.apply(&read.diff(&want)) {
            // Taking the table over drops what is foreign at once.
            Err(Error::Stale) => {
                let read = socket.read().expect("a read-back").expect("a table");
                socket.apply(&read.diff(&want)).expect("the rest");
            }
            other => other.expect("what is foreign can be removed"),
        }
        assert_eq!(socket.read().expect("a read-back"), Some(want));
    });
}

#[test]
fn a_refusal_names_its_command() {
    in_netns(|| {
        let mut socket = open();
        let commands = vec![
            Command::AddTable,
            Command::AddChain { chain: "c".into(), hook: None },
            Command::DeleteSet { set: "missing".into() },
        ];
        let error = socket.apply(&Transaction { commands }).expect_err("there is no such set");
        assert_eq!(
            error.to_string(),
            "nftables refused to delete set missing: it, or something it refers to, does not exist (ENOENT)"
        );
        assert_eq!(socket.read().expect("a read-back"), None, "nothing of it has taken effect");
    });
}

/// Two rulesets that differ in many elements and in a chain.
fn either(which: bool) -> Ruleset {
    let mut ruleset = big(if which { 20_000 } else { 5_000 });
    let rules = vec![tortie_nft::Rule::new([], [tortie_nft::Statement::Counter]).commented(&format!("{which}"))];
    ruleset.chains.insert("c".into(), tortie_nft::Chain { hook: None, rules });
    ruleset
}

/// Not a test of its own: the process that the next one kills.
#[test]
fn applier() {
    if std::env::var_os("TORTIE_TEST_APPLIER").is_none() {
        return;
    }
    let mut socket = open();
    let mut have = socket.read().expect("a read-back").unwrap_or_default();
    for which in [true, false].into_iter().cycle() {
        let want = either(which);
        socket.apply(&have.diff(&want)).expect("a change");
        have = want;
    }
}

#[test]
fn a_killed_writer_leaves_nothing_half_done() {
    in_netns(|| {
        let mut seen = [0, 0];
        for round in 0..10u64 {
            let mut child = std::process::Command::new(std::env::current_exe().expect("this test"))
                .args(["--exact", "applier"])
                .env("TORTIE_TEST_APPLIER", "1")
                .stdout(std::process::Stdio::null())
                .spawn()
                .expect("a child");
            // From the first change on, however long a slow machine takes for it. A table that
            // changes too fast to be read is one that is written.
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
            while let Ok(None) = open().read() {
                assert!(std::time::Instant::now() < deadline, "it writes nothing");
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            std::thread::sleep(std::time::Duration::from_millis(120 + 17 * round));
            child.kill().expect("it runs until it is killed");
            child.wait().expect("it is dead");
            let read = open().read().expect("a read-back").expect("it has written something");
            let which = [true, false].into_iter().position(|which| read == either(which));
            seen[which.expect("one or the other, whole")] += 1;
        }
        println!("found {seen:?}");
    });
}
