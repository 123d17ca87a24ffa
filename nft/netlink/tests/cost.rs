//! What a change of one element costs the kernel, beside rules by the thousand.
//!
//! An element that leads to a chain makes the kernel validate the whole table; one of a set or of a counter map must not, since such
//! elements come and go with pods. The test compares the two on the machine it runs on, so it holds on a slow one too.
//! `cargo test -p tortie-nft-netlink --release --test cost -- --nocapture` prints the times.

mod netns;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use netns::in_netns;
use tortie_nft::{
    Chain, Command, CounterMap, Family, Field, Hook, HookPoint, Key, KeyType, Match, Op, Rule, Ruleset, Set, Side,
    Statement, Transaction, Value, Verdict, VerdictMap,
};
use tortie_nft_netlink::NftSocket;

const CHAINS: u32 = 1_000;
const RULES: u16 = 10;
const ELEMENTS: u32 = 1_000;
const TIMES: u32 = 51;

fn key(number: u32) -> Key {
    vec![Value::Addr(Ipv4Addr::from(0x0a00_0000 + number).into())]
}

/// Many chains, all in reach by a map; and a set, a map and a counter map that a rule of a base chain uses.
fn table() -> Ruleset {
    let keys = || (0..ELEMENTS).map(key);
    let types = vec![KeyType::Ipv4Addr];
    let comment = None;
    let mut table = Ruleset::default();
    for number in 0..CHAINS {
        let rules = (0..RULES).map(|port| {
            let port = Match::Port { side: Side::Destination, op: Op::Eq, first: port, last: port };
            Rule::new([Match::L4Proto(Op::Eq, 6), port], [Statement::Verdict(Verdict::Drop)])
        });
        table.chains.insert(format!("c{number}"), Chain { hook: None, rules: rules.collect() });
        table.counters.insert(format!("h{number}"), None);
    }
    let elements = keys().enumerate().map(|(n, key)| (key, Verdict::Goto(format!("c{}", n as u32 % CHAINS)))).collect();
    table
        .maps
        .insert("led".into(), VerdictMap { key: types.clone(), interval: false, elements, comment: comment.clone() });
    let elements = keys().enumerate().map(|(n, key)| (key, format!("h{}", n as u32 % CHAINS))).collect();
    table.counter_maps.insert(
        "counted".into(),
        CounterMap { key: types.clone(), interval: false, elements, comment: comment.clone() },
    );
    table.sets.insert("known".into(), Set { key: types, interval: false, elements: keys().collect(), comment });
    let field = || vec![Field::Ip4Saddr];
    let v4 = || Match::NfProto(Family::V4);
    let known = Match::InSet { key: field(), op: Op::Eq, set: "known".into() };
    let rules = vec![
        Rule::new([v4()], [Statement::CountIn { key: field(), map: "counted".into() }]),
        Rule::new([v4(), known], [Statement::Counter]),
        Rule::new([v4()], [Statement::Vmap { key: field(), map: "led".into() }]),
    ];
    table.chains.insert("base".into(), Chain { hook: Some(Hook::filter(HookPoint::Forward, 0)), rules });
    table
}

/// The median of how long `add` takes; what it adds, `remove` takes away again.
fn median(socket: &mut NftSocket, add: &Command, remove: &Command) -> Duration {
    let mut times: Vec<Duration> = (0..TIMES)
        .map(|_| {
            let before = Instant::now();
            socket.apply(&Transaction { commands: vec![add.clone()] }).expect("an element comes");
            let took = before.elapsed();
            socket.apply(&Transaction { commands: vec![remove.clone()] }).expect("an element goes");
            took
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2]
}

#[test]
fn an_element_of_a_counter_map_costs_as_little_as_one_of_a_set() {
    in_netns(|| {
        let mut socket = NftSocket::open().expect("a socket");
        socket.apply(&Ruleset::default().diff(&table())).expect("a table");
        let new = key(ELEMENTS);
        let (set, elements) = ("known".to_owned(), vec![new.clone()]);
        let known = median(
            &mut socket,
            &Command::AddElements { set: set.clone(), elements: elements.clone() },
            &Command::DeleteElements { set, elements },
        );
        let (map, elements) = ("counted".to_owned(), vec![(new.clone(), "h7".to_owned())]);
        let counted = median(
            &mut socket,
            &Command::AddCounterElements { map: map.clone(), elements: elements.clone() },
            &Command::DeleteCounterElements { map, elements },
        );
        let (map, elements) = ("led".to_owned(), vec![(new, Verdict::Goto("c7".to_owned()))]);
        let led = median(
            &mut socket,
            &Command::AddMapElements { map: map.clone(), elements: elements.clone() },
            &Command::DeleteMapElements { map, elements },
        );
        println!("{CHAINS} chains of {RULES} rules: an element of a set {known:?}, counted {counted:?}, led {led:?}");
        assert!(counted * 4 < led, "{counted:?} is as if the table were validated, which takes {led:?}");
        assert!(counted < known * 4, "{counted:?} for a counted element, {known:?} for a plain one");
    });
}
