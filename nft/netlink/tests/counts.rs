//! Counts outlive their table: a flush by a stranger, a table that becomes ours, and an agent that begins anew.

mod netns;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::net::{Ipv4Addr, UdpSocket};

use netns::{in_netns, ip, nft, nft_load};
use tortie_nft::{
    Chain, CounterMap, Family, Field, Hook, HookPoint, KeyType, Match, Op, Rule, Ruleset, Statement, Transaction, Value,
};
use tortie_nft_netlink::NftSocket;

/// Counts UDP by its destination, in a counter that only an element names, and all of it in another.
fn counting() -> Ruleset {
    let counted = Statement::CountIn { key: vec![Field::Ip4Daddr], map: "m".into() };
    let matches = [Match::NfProto(Family::V4), Match::L4Proto(Op::Eq, 17)];
    let rule = Rule::new(matches, [counted, Statement::NamedCounter("every_udp".into())]);
    let hook = Some(Hook::filter(HookPoint::Output, 0));
    let counters = ["every_udp", "to_loopback"].map(|name| (name.to_owned(), None)).into();
    let mut table = Ruleset { counters, ..Ruleset::default() };
    table.chains.insert("out".into(), Chain { hook, rules: vec![rule] });
    let elements = [(vec![Value::Addr(Ipv4Addr::LOCALHOST.into())], "to_loopback".to_owned())].into();
    let map = CounterMap { key: vec![KeyType::Ipv4Addr], interval: false, elements, comment: None };
    table.counter_maps.insert("m".into(), map);
    table
}

fn send(packets: usize) {
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    let own = client.local_addr().expect("an address");
    for _ in 0..packets {
        client.send_to(b"four", own).expect("a packet goes out");
    }
}

fn packets(socket: &mut NftSocket) -> [u64; 2] {
    let values = socket.counter_values().expect("values");
    ["every_udp", "to_loopback"].map(|name| values.get(name).map_or(0, |(packets, _)| *packets))
}

fn plain() -> NftSocket {
    let mut socket = NftSocket::open().expect("a socket");
    socket.without_ownership();
    socket
}

#[test]
fn a_flush_takes_no_more_than_what_was_not_read() {
    in_netns(|| {
        ip("link set lo up");
        let mut socket = plain();
        socket.apply(&Ruleset::default().diff(&counting())).expect("a table");
        send(3);
        assert_eq!(packets(&mut socket), [3, 3]);
        nft(&["flush", "ruleset"]);
        assert_eq!(packets(&mut socket), [0, 0], "there is no table");
        let found = socket.read().expect("a read-back").unwrap_or_default();
        socket.apply(&found.diff(&counting())).expect("the table again");
        assert_eq!(packets(&mut socket), [3, 3]);
        send(2);
        assert_eq!(packets(&mut socket), [5, 5]);
    });
}

#[test]
fn a_counter_that_was_deleted_begins_at_nothing() {
    in_netns(|| {
        ip("link set lo up");
        let mut socket = plain();
        socket.apply(&Ruleset::default().diff(&counting())).expect("a table");
        send(3);
        assert_eq!(packets(&mut socket), [3, 3]);
        socket.apply(&counting().diff(&Ruleset::default())).expect("nobody wants it");
        socket.apply(&Ruleset::default().diff(&counting())).expect("somebody does");
        assert_eq!(packets(&mut socket), [0, 0]);
    });
}

#[test]
fn a_later_run_goes_on_from_what_was_kept_and_never_adds_it() {
    in_netns(|| {
        ip("link set lo up");
        let mut socket = plain();
        socket.apply(&Ruleset::default().diff(&counting())).expect("a table");
        send(3);
        let kept = socket.counts_to_keep().expect("values");
        send(1);
        drop(socket);
        // The table is there: what it has counted holds, whatever was kept.
        let mut next = plain();
        next.remember_counts(kept.clone());
        let found = next.read().expect("a read-back").expect("a table");
        next.apply(&found.diff(&counting())).expect("nothing to do");
        assert_eq!(packets(&mut next), [4, 4]);
        drop(next);
        // It is not: what was kept is all there is.
        nft(&["flush", "ruleset"]);
        let mut last = plain();
        last.remember_counts(kept);
        let found = last.read().expect("a read-back").unwrap_or_default();
        last.apply(&found.diff(&counting())).expect("the table again");
        assert_eq!(packets(&mut last), [3, 3]);
    });
}

#[test]
fn a_table_that_becomes_ours_keeps_its_counts() {
    in_netns(|| {
        ip("link set lo up");
        nft_load(&counting().to_string()).expect("our own text");
        send(3);
        let mut socket = NftSocket::open().expect("a socket");
        let found = socket.read().expect("a read-back").expect("a table");
        assert_eq!(found, counting());
        socket.apply(&Transaction::default()).expect("a take-over");
        assert_eq!(packets(&mut socket), [3, 3]);
        send(2);
        assert_eq!(packets(&mut socket), [5, 5]);
    });
}
