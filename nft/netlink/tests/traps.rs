//! The traps of nf_tables and netlink that a table must not fall into; which of them is tested where, the crate's documentation says.

mod netns;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use netns::{in_netns, ip, new_netns, nft};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use tortie_nft::{
    Chain, Command, Family, Field, Hook, HookPoint, Key, KeyType, Match, Op, Rule, Ruleset, Set, Statement,
    Transaction, Value, Verdict, VerdictMap,
};
use tortie_nft_netlink::{Error, NftSocket, Ownership};

fn open() -> NftSocket {
    NftSocket::open().expect("a socket")
}

fn v4(number: u32) -> Key {
    vec![Value::Addr(Ipv4Addr::from(0x0a00_0000 + number).into())]
}

fn set(key: &[KeyType], interval: bool, elements: impl IntoIterator<Item = Key>) -> Set {
    Set { key: key.to_vec(), interval, elements: elements.into_iter().collect(), comment: None }
}

fn with_set(name: &str, set: Set) -> Ruleset {
    Ruleset { sets: [(name.to_owned(), set)].into(), ..Ruleset::default() }
}

/// Writes a ruleset in a new namespace and reads it back, in one run.
fn written(want: &Ruleset) -> NftSocket {
    new_netns();
    let mut socket = open();
    socket.apply(&Ruleset::default().diff(want)).unwrap_or_else(|error| panic!("{error}"));
    assert!(socket.read().expect("a read-back").as_ref() == Some(want), "it is read back as it was written");
    socket
}

#[test]
fn elements_of_every_kind_fill_a_message_to_its_last_byte() {
    in_netns(|| {
        let name = |i: u32| Value::IfName(format!("cali{i:011x}"));
        let port = |i: u32| Value::Port(i as u16);
        let v6 = |i: u32| Value::Addr(Ipv6Addr::from(0xfd00_u128 << 112 | u128::from(i)).into());
        // One more than a message holds of each, and around the limit of IPv4 addresses exactly.
        for count in [4_093, 4_094, 4_095, 4_096, 8_190, 8_191] {
            written(&with_set("s", set(&[KeyType::Ipv4Addr], false, (0..count).map(v4))));
        }
        for count in [2_000, 3_277, 3_278] {
            written(&with_set("s", set(&[KeyType::Ipv6Addr], false, (0..count).map(|i| vec![v6(i)]))));
            written(&with_set("s", set(&[KeyType::IfName], false, (0..count).map(|i| vec![name(i)]))));
            let own = (0..count).map(|i| vec![name(i), v6(i)]);
            written(&with_set("s", set(&[KeyType::IfName, KeyType::Ipv6Addr], false, own)));
            let named = (0..count).map(|i| vec![v6(i), Value::Proto(6), port(i)]);
            let key = [KeyType::Ipv6Addr, KeyType::InetProto, KeyType::InetService];
            written(&with_set("s", set(&key, false, named)));
        }
        // Ranges that do not touch, each of which is two elements; with the longest name that a verdict can have.
        let chain = "c".repeat(127);
        let net = |i: u32| vec![Value::Net(IpNet::new(Ipv4Addr::from(i << 12).into(), 24).expect("a prefix"))];
        for count in [1_638, 1_639, 5_000] {
            written(&with_set("s", set(&[KeyType::Ipv4Addr], true, (0..count).map(net))));
            let elements = (0..count).map(|i| (net(i), Verdict::Jump(chain.clone()))).collect();
            let map = VerdictMap { key: vec![KeyType::Ipv4Addr], interval: true, elements, comment: None };
            let mut want = Ruleset { maps: [("m".to_owned(), map)].into(), ..Ruleset::default() };
            want.chains.insert(chain.clone(), Chain::default());
            written(&want);
        }
    });
}

#[test]
fn a_set_grows_a_thousandfold_without_being_made_anew() {
    in_netns(|| {
        let small = with_set("s", set(&[KeyType::Ipv4Addr], false, (0..10).map(v4)));
        let large = with_set("s", set(&[KeyType::Ipv4Addr], false, (0..10_000).map(v4)));
        let mut socket = written(&small);
        let growth = small.diff(&large);
        assert!(matches!(growth.commands.as_slice(), [Command::AddElements { .. }]));
        socket.apply(&growth).expect("the set has no size of its own");
        assert!(socket.read().expect("a read-back") == Some(large));
    });
}

#[test]
fn everything_and_what_touches_in_interval_sets() {
    in_netns(|| {
        let net = |text: &str| vec![Value::Net(text.parse().expect("a prefix"))];
        let range = |first: &str, last: &str| {
            vec![Value::AddrRange(first.parse().expect("an address"), last.parse().expect("an address"))]
        };
        let addr = |text: &str| vec![Value::Addr(text.parse().expect("an address"))];
        let (four, six) = (&[KeyType::Ipv4Addr][..], &[KeyType::Ipv6Addr][..]);
        let cases = [
            (four, vec![net("0.0.0.0/0")]),
            (six, vec![net("::/0")]),
            (four, vec![net("0.0.0.0/1"), net("128.0.0.0/1")]),
            (four, vec![addr("0.0.0.0"), addr("255.255.255.255")]),
            (six, vec![addr("::"), addr("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")]),
            // Neighbours, which nft would make one, stay two.
            (four, vec![net("10.0.0.0/24"), net("10.0.1.0/24"), addr("10.0.2.0")]),
            (four, vec![range("10.0.0.1", "10.0.0.6"), range("10.0.0.7", "10.0.0.9")]),
            (six, vec![net("fd00::/64"), net("fd00:0:0:1::/64")]),
        ];
        for (key, elements) in cases {
            let want = with_set("s", set(key, true, elements.clone()));
            let mut socket = written(&want);
            // One goes, the others stay.
            let mut fewer = want.clone();
            fewer.sets.get_mut("s").expect("the set").elements.pop_first();
            socket.apply(&want.diff(&fewer)).unwrap_or_else(|error| panic!("{elements:?}: {error}"));
            assert_eq!(socket.read().expect("a read-back"), Some(fewer), "{elements:?}");
        }
    });
}

#[test]
fn ten_times_the_elements_take_some_ten_times_as_long_to_read() {
    in_netns(|| {
        let took = |count: u32| {
            let mut socket = written(&with_set("s", set(&[KeyType::Ipv4Addr], false, (0..count).map(v4))));
            let best = (0..5).map(|_| {
                let start = Instant::now();
                socket.read().expect("a read-back");
                start.elapsed()
            });
            best.min().expect("five of them")
        };
        let (few, many) = (took(4_000), took(40_000));
        // Quadratic would be a hundred times; a busy machine gets a little grace.
        assert!(many < few * 45 + Duration::from_millis(20), "4,000 elements in {few:?}, 40,000 in {many:?}");
    });
}

/// While a stranger commits all the time, batches with an old generation come again, and dumps are repeated.
#[test]
fn a_stranger_who_never_rests_does_not_stop_us() {
    for owned in [true, false] {
        in_netns(move || {
            let mut socket = open();
            if !owned {
                socket.without_ownership();
            }
            let done = Arc::new(AtomicBool::new(false));
            let over = Arc::clone(&done);
            // A thread inherits the namespace.
            let stranger = std::thread::spawn(move || {
                let mut commits = 0;
                while !over.load(Ordering::Relaxed) {
                    nft(&["add", "table", "ip", "busy"]);
                    nft(&["add", "chain", "ip", "busy", "c"]);
                    nft(&["delete", "table", "ip", "busy"]);
                    commits += 3;
                }
                commits
            });
            let mut have = Ruleset::default();
            let mut stale = 0;
            for step in 0..60 {
                let want = with_set("s", set(&[KeyType::Ipv4Addr], false, (step..step + 500).map(v4)));
                let deadline = Instant::now() + Duration::from_secs(30);
                loop {
                    assert!(Instant::now() < deadline, "step {step} does not come to its end");
                    match socket.apply(&have.diff(&want)) {
                        Ok(()) => break,
                        Err(Error::Stale) => {
                            stale += 1;
                            have = socket.read().expect("a read-back").unwrap_or_default();
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
                have = want;
                // On average one commit of the stranger's between two of ours.
                std::thread::sleep(Duration::from_millis(3));
            }
            done.store(true, Ordering::Relaxed);
            let commits = stranger.join().expect("the stranger had no part in it");
            assert!(commits >= 3, "the stranger hardly did anything: {commits} commits");
            assert_eq!(socket.read().expect("a read-back"), Some(have));
            if owned && socket.ownership() == Ownership::Owned {
                assert_eq!(stale, 0, "what is ours alone needs no reading");
            }
        });
    }
}

#[test]
fn named_counters_survive_their_rules_and_are_read_with_their_values() {
    in_netns(|| {
        ip("link set lo up");
        let counting = |comment: &str, priority: i32| {
            let rule = Rule::new(
                [Match::NfProto(Family::V4), Match::L4Proto(Op::Eq, 17)],
                [Statement::NamedCounter("policy".into()), Statement::Verdict(Verdict::Accept)],
            );
            let hook = Some(Hook::filter(HookPoint::Output, priority));
            let mut want = Ruleset::default();
            want.counters.insert("policy".into(), Some("default/web: rule 1".into()));
            want.chains.insert("out".into(), Chain { hook, rules: vec![rule.commented(comment)] });
            want
        };
        let mut socket = open();
        assert_eq!(socket.counter_values().expect("an answer"), [].into(), "there is no table");
        let first = counting("first", 0);
        socket.apply(&Ruleset::default().diff(&first)).expect("a table");
        assert_eq!(socket.read().expect("a read-back").as_ref(), Some(&first));
        assert_eq!(socket.counter_values().expect("values"), [("policy".to_owned(), (0, 0))].into());
        let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
        let own = client.local_addr().expect("an address");
        for _ in 0..3 {
            client.send_to(b"four", own).expect("a packet goes out");
        }
        let values = [("policy".to_owned(), (3, 3 * 32))].into();
        assert_eq!(socket.counter_values().expect("values"), values);
        // The rule is written anew, even its chain is: what was counted stays.
        let second = counting("second", 10);
        socket.apply(&first.diff(&second)).expect("a change");
        assert_eq!(socket.counter_values().expect("values"), values);
        drop(socket);
        let mut next = open();
        assert_eq!(next.read().expect("a read-back").as_ref(), Some(&second), "the values are no part of the table");
        next.apply(&Transaction::default()).expect("an adoption");
        assert_eq!(next.counter_values().expect("values"), values);
    });
}

#[test]
fn a_chain_goes_in_the_batch_that_frees_it_or_in_one_of_its_own() {
    in_netns(|| {
        for split in [false, true] {
            new_netns();
            let mut socket = open();
            if split {
                socket.split_chain_deletions(true);
            }
            let elements = [(vec![Value::IfName("cali1".into())], Verdict::Goto("class".into()))].into();
            let map = VerdictMap { key: vec![KeyType::IfName], interval: false, elements, comment: None };
            let dispatch = Rule::new([], [Statement::Vmap { key: vec![Field::IifName], map: "m".into() }]);
            let mut have = Ruleset { maps: [("m".to_owned(), map)].into(), ..Ruleset::default() };
            have.chains.insert("class".into(), Chain { hook: None, rules: vec![Rule::new([], [Statement::Counter])] });
            let hook = Some(Hook::filter(HookPoint::Forward, 0));
            have.chains.insert("base".into(), Chain { hook, rules: vec![dispatch] });
            socket.apply(&Ruleset::default().diff(&have)).expect("a table");
            let mut want = have.clone();
            want.chains.remove("class");
            want.maps.get_mut("m").expect("the map").elements.clear();
            socket.apply(&have.diff(&want)).unwrap_or_else(|error| panic!("split {split}: {error}"));
            assert_eq!(socket.read().expect("a read-back"), Some(want));
        }
    });
}

/// More errors than there is room for: the answer may be lost, and is not made up. What comes late belongs to nothing that follows.
#[test]
fn a_flood_of_refusals_is_an_error_and_no_harm() {
    in_netns(|| {
        let want = with_set("s", set(&[KeyType::Ipv4Addr], false, (0..5).map(v4)));
        let mut socket = written(&want);
        let missing = |i: u32| Command::DeleteChain { chain: format!("{}{i}", "missing".repeat(16)) };
        let commands = (0..60_000).map(missing).collect();
        match socket.apply(&Transaction { commands }) {
            Err(Error::Refused(refused)) => assert_eq!(refused.command, 0, "{refused}"),
            Err(Error::Receive(_)) => {
                assert!(matches!(socket.apply(&Transaction::default()), Err(Error::Stale)), "it must be read first");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(socket.read().expect("a read-back").as_ref(), Some(&want));
        let less = with_set("s", set(&[KeyType::Ipv4Addr], false, (0..3).map(v4)));
        socket.apply(&want.diff(&less)).expect("it goes on");
        assert_eq!(socket.read().expect("a read-back"), Some(less));
    });
}

/// `EINTR`: signals that have a handler interrupt what waits, and must not end it.
#[test]
#[allow(unsafe_code)]
fn signals_interrupt_nothing() {
    extern "C" fn ignore(_: libc::c_int) {}
    let action = SigAction::new(SigHandler::Handler(ignore), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing, so it may run at any time.
    unsafe { sigaction(Signal::SIGUSR1, &action) }.expect("a handler");
    in_netns(|| {
        let done = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&done);
        let (process, thread) = (nix::unistd::getpid().as_raw(), nix::unistd::gettid().as_raw());
        let nuisance = std::thread::spawn(move || {
            let mut sent = 0;
            while !over.load(Ordering::Relaxed) {
                // SAFETY: a signal with a handler, to a thread that lives until this one has ended.
                unsafe { libc::syscall(libc::SYS_tgkill, process, thread, libc::SIGUSR1) };
                sent += 1;
                std::thread::sleep(Duration::from_micros(50));
            }
            sent
        });
        let mut have = Ruleset::default();
        let mut socket = open();
        for step in 0..40 {
            let want = with_set("s", set(&[KeyType::Ipv4Addr], false, (step..step + 2_000).map(v4)));
            socket.apply(&have.diff(&want)).expect("an interrupted change");
            assert!(socket.read().expect("an interrupted read-back").as_ref() == Some(&want));
            have = want;
        }
        done.store(true, Ordering::Relaxed);
        assert!(nuisance.join().expect("it only sends signals") > 100);
    });
}
