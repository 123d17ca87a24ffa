//! What the monitor says of commits: ours, a stranger's with its name, and that it lost count.

mod netns;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;

use netns::{in_netns, new_netns, nft, nft_load};
use nix::poll::{PollFd, PollFlags, poll};
use tortie_nft::{Key, KeyType, Ruleset, Set, Transaction, Value};
use tortie_nft_netlink::{NftEvent, NftMonitor, NftSocket, Ownership};

fn pods(count: u32) -> Ruleset {
    let elements = (0..count).map(|i| -> Key { vec![Value::Addr(Ipv4Addr::from(0x0a00_0000 + i).into())] }).collect();
    let set = Set { key: vec![KeyType::Ipv4Addr], interval: false, elements, comment: None };
    Ruleset { sets: [("pods".to_owned(), set)].into(), ..Ruleset::default() }
}

/// A commit in short: who, whether ours, whether our table.
fn commit(event: NftEvent) -> (String, bool, bool) {
    match event {
        NftEvent::Commit { process, ours, touched, .. } => {
            (program(&process.expect("the kernel names it").1), ours, touched)
        }
        NftEvent::Overrun => panic!("nothing should be lost"),
    }
}

/// The name of a program; a peer may run under a wrapper that calls it `NAME.real`.
fn program(name: &str) -> String {
    name.trim_end_matches(".real").to_owned()
}

/// The commits that are announced already, each as [`commit`].
fn commits(monitor: &mut NftMonitor) -> Vec<(String, bool, bool)> {
    std::iter::from_fn(|| monitor.try_next().expect("an answer")).map(commit).collect()
}

fn listen() -> NftMonitor {
    NftMonitor::open().expect("a monitor")
}

/// The name of this thread, by which the kernel knows whoever commits from it.
fn own_name() -> String {
    std::fs::read_to_string("/proc/thread-self/comm").expect("a name").trim_end().to_owned()
}

#[test]
fn our_own_commits_are_known_as_ours() {
    in_netns(|| {
        let mut before = listen();
        let mut socket = NftSocket::open().expect("a socket");
        let mut after = listen();
        let mut have = Ruleset::default();
        for count in [10, 5, 20_000] {
            socket.apply(&have.diff(&pods(count))).expect("a change");
            have = pods(count);
            let ours = [(own_name(), true, true)];
            assert_eq!(commits(&mut after), ours);
            assert_eq!(commits(&mut before), ours, "also of a socket that was opened later");
        }
    });
}

#[test]
fn generations_are_those_of_the_kernel() {
    in_netns(|| {
        let mut monitor = listen();
        let mut last = None;
        for i in 0..3 {
            nft(&["add", "table", "ip", &format!("t{i}")]);
            let NftEvent::Commit { generation, process, .. } = monitor.next().expect("an event") else {
                panic!("nothing should be lost")
            };
            let (pid, name) = process.expect("the kernel names it");
            assert_eq!(program(&name), "nft");
            assert!(pid > 0);
            assert!(last.is_none_or(|last| generation == last + 1), "{last:?}, then {generation}");
            last = Some(generation);
        }
    });
}

#[test]
fn a_stranger_is_named_and_what_it_touched() {
    in_netns(|| {
        let stranger = |touched| ("nft".to_owned(), false, touched);
        let mut monitor = listen();
        nft(&["add", "table", "inet", "tortie-elsewhere"]);
        nft(&["add", "table", "ip", "tortie"]);
        nft(&["add", "set", "ip", "tortie", "s", "{ type ipv4_addr; elements = { 10.0.0.1, 10.0.0.2 }; }"]);
        assert_eq!(commits(&mut monitor), [stranger(false), stranger(false), stranger(false)], "tables like ours");
        nft_load(&pods(3).to_string()).expect("our own text");
        nft(&["add", "element", "inet", "tortie", "pods", "{ 192.0.2.1 }"]);
        nft(&["add", "element", "ip", "tortie", "s", "{ 192.0.2.1 }"]);
        nft(&["flush", "set", "inet", "tortie", "pods"]);
        nft_load("add table ip a\nadd element inet tortie pods { 192.0.2.7 }\nadd table ip z")
            .expect("a change amid others");
        nft(&["delete", "table", "inet", "tortie"]);
        nft(&["add", "table", "ip", "b"]);
        let touched = [true, true, false, true, true, true, false];
        assert_eq!(commits(&mut monitor), touched.map(stranger));
        nft_load(&pods(3).to_string()).expect("our own text");
        nft(&["flush", "ruleset"]);
        assert_eq!(commits(&mut monitor), [stranger(true), stranger(true)]);
    });
}

#[test]
fn a_flush_that_spares_our_table_does_not_touch_it() {
    in_netns(|| {
        let mut socket = NftSocket::open().expect("a socket");
        socket.apply(&Ruleset::default().diff(&pods(3))).expect("a table");
        let owned = socket.ownership() == Ownership::Owned;
        nft(&["add", "table", "ip", "other"]);
        let mut monitor = listen();
        nft(&["flush", "ruleset"]);
        assert_eq!(commits(&mut monitor), [("nft".to_owned(), false, !owned)]);
    });
}

#[test]
fn it_can_be_polled() {
    in_netns(|| {
        let mut monitor = listen();
        let ready = |monitor: &NftMonitor, milliseconds: u16| {
            let mut fds = [PollFd::new(monitor.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, milliseconds).expect("a poll") == 1
        };
        assert!(!ready(&monitor, 0));
        assert_eq!(monitor.try_next().expect("an answer"), None);
        nft(&["add", "table", "ip", "t"]);
        assert!(ready(&monitor, 10_000));
        assert!(monitor.try_next().expect("an answer").is_some());
        assert!(!ready(&monitor, 0));
    });
}

#[test]
fn with_a_page_of_room_it_says_that_it_lost_count() {
    in_netns(|| {
        let mut monitor = NftMonitor::with_receive_buffer(4096).expect("a monitor");
        nft_load(&pods(2_000).to_string()).expect("our own text");
        assert_eq!(monitor.next().expect("an event"), NftEvent::Overrun);
        while monitor.try_next().expect("an answer").is_some() {}
        // It goes on from there. What was left of the lost commit may count for the first that comes, and for no other.
        nft(&["add", "table", "ip", "t"]);
        nft(&["add", "table", "ip", "u"]);
        assert!(matches!(monitor.next(), Ok(NftEvent::Commit { ours: false, .. })));
        assert_eq!(commits(&mut monitor), [("nft".to_owned(), false, false)]);
    });
}

#[test]
fn a_bulk_change_of_our_own_needs_no_room() {
    in_netns(|| {
        let mut socket = NftSocket::open().expect("a socket");
        let mut monitor = NftMonitor::with_receive_buffer(4096).expect("a monitor");
        let change = Ruleset::default().diff(&pods(100_000));
        socket.apply(&change).expect("a table");
        assert_eq!(commits(&mut monitor), [(own_name(), true, true)], "the filter has kept the rest out");
    });
}

#[test]
fn other_namespaces_are_none_of_its_business() {
    in_netns(|| {
        let mut monitor = listen();
        let mut elsewhere: Vec<NftSocket> = Vec::new();
        let ports: BTreeSet<u32> = (0..3)
            .map(|_| {
                new_netns();
                let mut socket = NftSocket::open().expect("a socket");
                socket.apply(&Transaction { commands: vec![tortie_nft::Command::AddTable] }).expect("a table");
                let port = socket.port();
                elsewhere.push(socket);
                port
            })
            .collect();
        assert!(!ports.is_empty());
        assert_eq!(commits(&mut monitor), []);
    });
}
