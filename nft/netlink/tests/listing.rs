//! Our text, our encoding and `nft` say the same: what we send is what `nft` lists, and what `nft` loads from our text is what we send.

mod netns;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};

use netns::{in_netns, new_netns, nft, nft_load};
use support::generate;
use tortie_nft::{
    Chain, Command, CounterMap, CtStates, Direction, Family, Field, Hook, HookPoint, Key, KeyType, LimitUnit, Match,
    Op, RejectWith, Rule, Ruleset, Set, Side, Statement, Transaction, Value, Verdict, VerdictMap,
};
use tortie_nft_netlink::NftSocket;

/// A listing taken apart: objects by name, their lines without what is layout, counts, or implied.
fn normalise(listing: &str) -> BTreeMap<String, Vec<String>> {
    let mut objects = BTreeMap::new();
    // Without a table of protocols nft says 4.
    let joined = listing.replace(",\n", ", ").replace("ipencap", "4");
    let mut lines = joined.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    assert!(lines.next().is_some_and(|line| line.starts_with("table inet tortie")));
    let mut lines = lines.skip_while(|line| line.starts_with("flags")).peekable();
    while let Some(head) = lines.next().filter(|line| *line != "}") {
        let mut body = Vec::new();
        for line in lines.by_ref().take_while(|line| *line != "}") {
            body.push(normal_line(line));
        }
        objects.insert(head.to_owned(), body);
    }
    objects
}

fn normal_line(line: &str) -> String {
    if let Some(elements) = line.strip_prefix("elements = {").and_then(|line| line.strip_suffix('}')) {
        let elements: BTreeSet<_> = elements.split(',').map(str::trim).collect();
        return format!("elements {elements:?}");
    }
    let mut words: Vec<&str> = line.split_whitespace().collect();
    // `counter packets 0 bytes 0`
    while let Some(at) = words.windows(2).position(|pair| pair == ["counter", "packets"]) {
        words.drain(at + 1..at + 5);
    }
    // Conditions that a later one implies are left out, by nft wherever they stand, by us where nft puts them back.
    let mut at = 0;
    while at + 2 < words.len() {
        let family = words[at..].starts_with(&["meta", "nfproto"]);
        let protocol = words[at..].starts_with(&["meta", "l4proto"])
            && !["!=", "vmap", "."].contains(&words[at + 2])
            && !words[at + 2].starts_with('@')
            && (at == 0 || words[at - 1] != ".");
        if family || protocol {
            words.drain(at..at + 3);
        } else {
            at += 1;
        }
    }
    words.join(" ")
}

fn check(want: &Ruleset) {
    new_netns();
    let mut socket = NftSocket::open().expect("a socket");
    socket.apply(&Ruleset::default().diff(want)).unwrap_or_else(|e| panic!("{e}\n{want}"));
    assert_eq!(socket.read().expect("a read-back").as_ref(), Some(want));
    let listed = nft(&["-y", "list", "table", "inet", "tortie"]);
    let (theirs, ours) = (normalise(&listed), normalise(&want.to_string()));
    assert!(theirs.keys().eq(ours.keys()), "nft lists {:?}\nand we say {:?}", theirs.keys(), ours.keys());
    let differing: Vec<_> = ours
        .iter()
        .flat_map(|(name, lines)| lines.iter().zip(&theirs[name]).filter(|(ours, theirs)| ours != theirs))
        .map(|(ours, theirs)| format!("ours: {ours}\nnft:  {theirs}"))
        .collect();
    assert!(differing.is_empty(), "{}", differing.join("\n"));
    assert_eq!(theirs, ours);
    nft(&["-j", "list", "ruleset"]);

    new_netns();
    let text = want.to_string();
    nft_load(&text).unwrap_or_else(|e| panic!("nft -f refuses our text: {e}\n{text}"));
    let read = NftSocket::open().expect("a socket").read().expect("a read-back").expect("a table");
    assert_same(&read, want);

    // The text of a transaction loads as well.
    new_netns();
    let transaction = Ruleset::default().diff(want).to_string();
    nft_load(&transaction).unwrap_or_else(|e| panic!("nft -f refuses our transaction: {e}\n{transaction}"));
    let read = NftSocket::open().expect("a socket").read().expect("a read-back").expect("a table");
    assert_same(&read, want);
}

/// Equality that names what differs, since a ruleset is long.
fn assert_same(loaded: &Ruleset, want: &Ruleset) {
    for (name, chain) in &want.chains {
        for (ours, theirs) in chain.rules.iter().zip(&loaded.chains[name].rules) {
            assert_eq!(theirs, ours, "our `{ours}` is loaded as `{theirs}`");
        }
    }
    assert_eq!(loaded, want);
}

#[test]
fn random_rulesets_list_as_we_write_them() {
    in_netns(|| {
        for seed in 1000..1040 {
            let ruleset = generate::ruleset(&mut generate::Random(seed));
            if !ruleset.is_empty() {
                check(&ruleset);
            }
        }
    });
}

/// Each condition and statement of the vocabulary in each of its forms, a chain of them.
fn every_shape() -> Ruleset {
    let mut ruleset = Ruleset::default();
    let net = |text: &str| text.parse().expect("a prefix");
    let mut set = |name: &str, key: &[KeyType], interval| {
        let set = Set { key: key.to_vec(), interval, elements: BTreeSet::new(), comment: None };
        ruleset.sets.insert(name.to_owned(), set);
    };
    set("own4", &[KeyType::IfName, KeyType::Ipv4Addr], false);
    set("own6", &[KeyType::IfName, KeyType::Ipv6Addr], false);
    set("self", &[KeyType::IfName, KeyType::IfName], false);
    set("live", &[KeyType::Mark], false);
    set("ifs", &[KeyType::IfName], false);
    set("a4", &[KeyType::Ipv4Addr], false);
    set("n6", &[KeyType::Ipv6Addr], true);
    set("families", &[KeyType::NfProto], false);
    set("protos", &[KeyType::InetProto], false);
    set("ports", &[KeyType::InetService], true);
    set("named4", &[KeyType::Ipv4Addr, KeyType::InetProto, KeyType::InetService], false);
    set("pairs", &[KeyType::Ipv4Addr, KeyType::InetService], false);
    let map = |key: &[KeyType], interval, elements: Vec<(Vec<Value>, Verdict)>| VerdictMap {
        key: key.to_vec(),
        interval,
        elements: elements.into_iter().collect(),
        comment: Some("what it is for".into()),
    };
    ruleset.maps.insert(
        "class".into(),
        map(&[KeyType::IfName], false, vec![(vec![Value::IfName("calia".into())], Verdict::Goto("c".into()))]),
    );
    ruleset.maps.insert(
        "by_port".into(),
        map(
            &[KeyType::InetService],
            true,
            vec![
                (vec![Value::Port(0)], Verdict::Drop),
                (vec![Value::PortRange(80, 90)], Verdict::Goto("c".into())),
                (vec![Value::PortRange(91, 100)], Verdict::Jump("c".into())),
                (vec![Value::Port(65_535)], Verdict::Return),
            ],
        ),
    );
    ruleset.maps.insert(
        "boxes".into(),
        map(
            &[KeyType::InetProto, KeyType::InetService],
            true,
            vec![
                (vec![Value::Proto(6), Value::PortRange(80, 90)], Verdict::Accept),
                (vec![Value::Proto(17), Value::Port(53)], Verdict::Drop),
            ],
        ),
    );
    ruleset.maps.insert(
        "by_proto".into(),
        map(
            &[KeyType::InetProto],
            false,
            vec![(vec![Value::Proto(4)], Verdict::Drop), (vec![Value::Proto(132)], Verdict::Accept)],
        ),
    );
    ruleset.maps.insert(
        "by_family".into(),
        map(
            &[KeyType::NfProto],
            false,
            vec![
                (vec![Value::Family(Family::V4)], Verdict::Goto("c".into())),
                (vec![Value::Family(Family::V6)], Verdict::Drop),
            ],
        ),
    );
    let v4 = || Match::NfProto(Family::V4);
    let v6 = || Match::NfProto(Family::V6);
    let tcp = || Match::L4Proto(Op::Eq, 6);
    let original = || Match::CtDirection(Direction::Original);
    let in_set = |key: &[Field], op, set: &str| Match::InSet { key: key.to_vec(), op, set: set.to_owned() };
    let mut conditions: Vec<Vec<Match>> = vec![vec![]];
    for op in [Op::Eq, Op::Ne] {
        for side in [Side::Source, Side::Destination] {
            for (name, prefix) in [("cali", true), ("eth0", false), ("a", true)] {
                conditions.push(vec![Match::IfName { side, op, name: name.into(), prefix }]);
            }
            for text in ["0.0.0.0/0", "128.0.0.0/1", "10.0.0.0/8", "10.1.2.0/23", "10.1.2.0/24", "10.1.2.3/32"] {
                conditions.push(vec![v4(), Match::Addr { side, op, net: net(text) }]);
            }
            for text in ["::/0", "fe80::/10", "2001:db8::/32", "2001:db8::/33", "::/128", "fd00::1/128"] {
                conditions.push(vec![v6(), Match::Addr { side, op, net: net(text) }]);
            }
            for (first, last) in [(80, 80), (80, 90), (0, 0), (0, 1023), (1024, 65_535), (0, 65_535)] {
                for protocol in [6, 17, 132, 33, 136] {
                    conditions.push(vec![Match::L4Proto(Op::Eq, protocol), Match::Port { side, op, first, last }]);
                }
                conditions.push(vec![tcp(), original(), Match::Port { side, op, first, last }]);
            }
        }
        conditions.push(vec![Match::L4Proto(op, 6)]);
        conditions.push(vec![Match::L4Proto(op, 4)]);
        conditions.push(vec![v4(), in_set(&[Field::IifName, Field::Ip4Saddr], op, "own4")]);
        conditions.push(vec![v6(), in_set(&[Field::IifName, Field::Ip6Saddr], op, "own6")]);
        conditions.push(vec![in_set(&[Field::IifName, Field::OifName], op, "self")]);
        conditions.push(vec![in_set(&[Field::OifName], op, "ifs")]);
        conditions.push(vec![v4(), original(), in_set(&[Field::Ip4Daddr], op, "a4")]);
        conditions.push(vec![v6(), in_set(&[Field::Ip6Daddr], op, "n6")]);
        conditions.push(vec![in_set(&[Field::NfProto], op, "families")]);
        conditions.push(vec![in_set(&[Field::L4Proto], op, "protos")]);
        conditions.push(vec![tcp(), in_set(&[Field::ThDport], op, "ports")]);
        conditions.push(vec![tcp(), original(), in_set(&[Field::ThSport], op, "ports")]);
        conditions.push(vec![v4(), in_set(&[Field::Ip4Daddr, Field::L4Proto, Field::ThDport], op, "named4")]);
        conditions.push(vec![v4(), tcp(), in_set(&[Field::Ip4Daddr, Field::L4Proto, Field::ThDport], op, "named4")]);
        conditions.push(vec![tcp(), v4(), in_set(&[Field::Ip4Saddr, Field::ThDport], op, "pairs")]);
        conditions.push(vec![v4(), tcp(), in_set(&[Field::Ip4Saddr, Field::ThDport], op, "pairs")]);
        for mask in [0xffff_0000, 0xff00, u32::MAX] {
            conditions.push(vec![in_set(&[Field::CtMarkMasked(mask)], op, "live")]);
        }
    }
    for (one, other) in [(Op::Eq, Op::Eq), (Op::Eq, Op::Ne), (Op::Ne, Op::Eq), (Op::Ne, Op::Ne)] {
        for last in [80, 90] {
            let source = Match::Port { side: Side::Source, op: one, first: 80, last };
            let destination = Match::Port { side: Side::Destination, op: other, first: 443, last: 443 };
            conditions.push(vec![tcp(), source.clone(), destination.clone()]);
            conditions.push(vec![v4(), source, destination]);
        }
    }
    conditions.push(vec![v4()]);
    conditions.push(vec![v6()]);
    conditions.push(vec![v6(), tcp()]);
    for direction in [Direction::Original, Direction::Reply] {
        conditions.push(vec![Match::CtDirection(direction)]);
    }
    for states in [1, 2, 4, 6, 8, 14, 64, 79] {
        conditions.push(vec![Match::CtState(CtStates(states))]);
    }
    for dnat in [true, false] {
        conditions.push(vec![Match::CtStatusDnat(dnat)]);
        conditions.push(vec![v4(), Match::CtStatusDnat(dnat), tcp()]);
    }
    for (packets_per_second, burst) in [(1, 1), (100, 5), (100, 6), (u32::MAX, u32::MAX)] {
        conditions.push(vec![Match::LimitOver { packets_per_second, burst }]);
    }
    for (packets, per) in
        [(1, LimitUnit::Second), (9_999, LimitUnit::Minute), (10, LimitUnit::Hour), (7, LimitUnit::Day)]
    {
        conditions.push(vec![Match::LimitWithin { packets, per, burst: 5 }]);
        conditions.push(vec![tcp(), Match::LimitWithin { packets, per, burst: 9_999 }]);
    }
    for count in [0, 20, u32::MAX] {
        conditions.push(vec![tcp(), Match::CtCountOver(count)]);
    }
    for number in [1, 128, 133, 134, 135, 136, 137, 143, 200] {
        let kind = Match::Icmp { family: Family::V6, op: Op::Eq, kind: number, code: None };
        conditions.push(vec![Match::L4Proto(Op::Eq, 58), original(), kind]);
    }
    for (family, protocol) in [(Family::V4, 1), (Family::V6, 58)] {
        let icmp = |op, kind, code| vec![Match::L4Proto(Op::Eq, protocol), Match::Icmp { family, op, kind, code }];
        for number in 0..=u8::MAX {
            conditions.push(icmp(Op::Eq, number, None));
            conditions.push(icmp(Op::Eq, number, Some(number)));
        }
        conditions.push(icmp(Op::Eq, 1, Some(4)));
        for code in [0, 3, 77, 255] {
            let not = Match::IcmpCode { family, op: Op::Ne, code };
            conditions.push([icmp(Op::Eq, 3, None), vec![not.clone()]].concat());
            conditions.push([icmp(Op::Ne, 3, None), vec![not.clone()]].concat());
            conditions
                .push([vec![Match::L4Proto(Op::Eq, protocol), not], icmp(Op::Ne, 3, None)[1..].to_vec()].concat());
        }
        conditions.push(icmp(Op::Ne, 8, None));
        conditions.push([vec![Match::NfProto(family)], icmp(Op::Eq, 3, Some(1))].concat());
    }
    let rules = conditions.into_iter().map(|matches| Rule::new(matches, [Statement::Counter])).collect();
    ruleset.chains.insert("conditions".into(), Chain { hook: None, rules });

    let mut statements: Vec<(Vec<Match>, Vec<Statement>)> = Vec::new();
    for (keep, bits) in
        [(0xffff, 0x0002_0000), (0xffff, 0), (0xfffe_ffff, 0x0001_0000), (0xff00_ffff, 0x0012_0000), (0xffff_0000, 0x3)]
    {
        statements.push((vec![], vec![Statement::SetCtMark { keep, bits }]));
        statements.push((
            vec![],
            vec![Statement::Counter, Statement::SetCtMark { keep, bits }, Statement::Verdict(Verdict::Accept)],
        ));
    }
    for verdict in
        [Verdict::Accept, Verdict::Drop, Verdict::Return, Verdict::Jump("c".into()), Verdict::Goto("c".into())]
    {
        statements.push((vec![], vec![Statement::Verdict(verdict)]));
    }
    let vmap =
        |key: &[Field], map: &str| vec![Statement::Counter, Statement::Vmap { key: key.to_vec(), map: map.into() }];
    statements.push((vec![original()], vmap(&[Field::IifName], "class")));
    statements.push((vec![], vmap(&[Field::OifName], "class")));
    statements.push((vec![tcp()], vec![Statement::Vmap { key: vec![Field::ThDport], map: "by_port".into() }]));
    statements.push((vec![v4(), tcp()], vmap(&[Field::ThSport], "by_port")));
    statements.push((vec![], vmap(&[Field::L4Proto, Field::ThDport], "boxes")));
    statements.push((vec![], vmap(&[Field::NfProto], "by_family")));
    statements.push((vec![], vmap(&[Field::L4Proto], "by_proto")));
    ruleset.counters.insert("plain".into(), None);
    ruleset.counters.insert("told".into(), Some("what it counts".into()));
    for counter in ["plain", "told"] {
        statements.push((vec![], vec![Statement::NamedCounter(counter.into())]));
        statements.push((vec![v4()], vec![Statement::NamedCounter(counter.into()), Statement::Verdict(Verdict::Drop)]));
    }
    let prefix = "x".repeat(tortie_nft::LOG_PREFIX_MAX);
    for prefix in [&prefix, "calico-packet: ", "a", "with 'quotes' and \\ and ü"] {
        statements.push((vec![], vec![Statement::Log { prefix: prefix.into() }]));
        let log = Statement::Log { prefix: prefix.into() };
        statements.push((vec![v4(), tcp()], vec![Statement::Counter, log, Statement::Verdict(Verdict::Drop)]));
    }
    for statement in [Statement::NoTrack, Statement::Trace] {
        statements.push((vec![], vec![statement.clone()]));
        let all = vec![Statement::Counter, statement, Statement::Verdict(Verdict::Accept)];
        statements.push((vec![v4(), tcp()], all));
    }
    let address = |text: &str| Value::Addr(text.parse().expect("an address"));
    let counted: [(&str, &[KeyType], bool, Vec<Key>); 5] = [
        ("count4", &[KeyType::Ipv4Addr], false, vec![vec![address("10.0.0.1")], vec![address("10.0.0.2")]]),
        ("count6", &[KeyType::Ipv6Addr], false, vec![vec![address("fd00::1")]]),
        (
            "count_net4",
            &[KeyType::Ipv4Addr],
            true,
            vec![vec![Value::Net(net("10.0.0.0/24"))], vec![Value::Net(net("10.0.1.0/24"))]],
        ),
        (
            "count_named",
            &[KeyType::Ipv4Addr, KeyType::InetProto, KeyType::InetService],
            false,
            vec![vec![address("10.0.0.1"), Value::Proto(6), Value::Port(80)]],
        ),
        ("count_port", &[KeyType::InetService], true, vec![vec![Value::PortRange(80, 90)], vec![Value::Port(443)]]),
    ];
    for (name, key, interval, elements) in counted {
        let elements = elements.into_iter().zip(["plain", "told"].into_iter().cycle());
        let elements = elements.map(|(key, counter)| (key, counter.to_owned())).collect();
        let comment = Some("what it counts".to_owned());
        ruleset.counter_maps.insert(name.into(), CounterMap { key: key.to_vec(), interval, elements, comment });
    }
    let count_in = |key: &[Field], map: &str| Statement::CountIn { key: key.to_vec(), map: map.into() };
    let counts = [
        (vec![v4()], count_in(&[Field::Ip4Saddr], "count4")),
        (vec![v4()], count_in(&[Field::Ip4Daddr], "count_net4")),
        (vec![v4(), tcp()], count_in(&[Field::Ip4Saddr], "count_net4")),
        (vec![v6(), tcp()], count_in(&[Field::Ip6Daddr], "count6")),
        (vec![v4(), tcp()], count_in(&[Field::Ip4Daddr, Field::L4Proto, Field::ThDport], "count_named")),
        (vec![v4()], count_in(&[Field::Ip4Daddr, Field::L4Proto, Field::ThSport], "count_named")),
        (vec![tcp()], count_in(&[Field::ThDport], "count_port")),
    ];
    for (matches, count) in counts {
        statements.push((matches.clone(), vec![count.clone()]));
        statements.push((matches.clone(), vec![count.clone(), Statement::Verdict(Verdict::Goto("c".into()))]));
        let again = Statement::NamedCounter("plain".into());
        statements.push((
            matches,
            vec![Statement::Counter, count.clone(), again, count, Statement::Verdict(Verdict::Accept)],
        ));
    }
    statements.push((vec![tcp()], vec![Statement::Reject(RejectWith::TcpReset)]));
    statements.push((vec![], vec![Statement::Counter, Statement::Reject(RejectWith::AdminProhibited)]));
    let rules = statements
        .into_iter()
        .map(|(matches, statements)| Rule::new(matches, statements).commented("a rule"))
        .collect();
    ruleset.chains.insert("statements".into(), Chain { hook: None, rules });
    ruleset.chains.insert("c".into(), Chain::default());
    let mut translations: Vec<(Vec<Match>, Statement)> = Vec::new();
    for ports in [None, Some((1024, 65_535)), Some((5, 5))] {
        for fully_random in [false, true] {
            translations.push((vec![tcp()], Statement::Masquerade { ports, fully_random }));
        }
        let address = |text: &str| text.parse().expect("an address");
        translations.push((vec![v4(), tcp()], Statement::Snat { address: address("192.0.2.1"), ports }));
        translations.push((vec![v6(), tcp()], Statement::Snat { address: address("2001:db8::1"), ports }));
    }
    translations.push((vec![v4()], Statement::Masquerade { ports: None, fully_random: true }));
    translations.push((vec![v6()], Statement::Snat { address: "2001:db8::1".parse().expect("one"), ports: None }));
    let rules = translations.into_iter().map(|(matches, statement)| Rule::new(matches, [statement])).collect();
    let hook = Some(Hook::nat(HookPoint::Postrouting, 100));
    ruleset.chains.insert("translations".into(), Chain { hook, rules });
    let points =
        [HookPoint::Prerouting, HookPoint::Input, HookPoint::Forward, HookPoint::Output, HookPoint::Postrouting];
    for (index, point) in points.into_iter().enumerate() {
        for priority in [-300, -1, 0, 1, 50] {
            let chain = Chain { hook: Some(Hook::filter(point, priority)), rules: Vec::new() };
            ruleset.chains.insert(format!("base{index}_{}", priority + 300), chain);
        }
    }
    ruleset
}

#[test]
fn every_shape_lists_as_we_write_it() {
    in_netns(|| check(&every_shape()));
}

#[test]
fn comments_are_printed_back() {
    in_netns(|| {
        let long = "x".repeat(500);
        let text = tortie_nft::comment(&format!("say \"hi\"\n{long}"));
        let mut socket = NftSocket::open().expect("a socket");
        let rule = Rule::new([], [Statement::Counter]).commented(&text);
        let commands = vec![
            Command::AddTable,
            Command::AddSet { set: "s".into(), key: vec![KeyType::Mark], interval: false, comment: Some(text.clone()) },
            Command::AddChain { chain: "c".into(), hook: None },
            Command::AddRule { chain: "c".into(), rule },
        ];
        socket.apply(&Transaction { commands }).expect("comments of any length, once cut");
        assert_eq!(nft(&["list", "ruleset"]).matches(&text).count(), 2);
    });
}
