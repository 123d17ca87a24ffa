//! Random rulesets within the vocabulary, such as the kernel takes. Names come from small pools, so that from one to the next much
//! is shared, and the same name is a set here and a map there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use tortie_nft::{
    Chain, CounterMap, CtStates, Direction, Family, Field, Hook, HookPoint, Key, KeyType, Match, Op, RejectWith, Rule,
    Ruleset, Set, Side, Statement, Value, Verdict, VerdictMap, intervals,
};

/// A small generator of random numbers (splitmix64): a seed is enough to see a failure again.
pub struct Random(pub u64);

impl Random {
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.number() % bound.max(1) as u64) as usize
    }

    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

const OBJECTS: usize = 6;
const CHAINS: usize = 6;
const BASES: usize = 3;
const COUNTERS: usize = 3;

/// Chains whose rules translate or reject, and so have an effect beyond accept and drop.
pub const BEYOND: [&str; 2] = ["nat", "rejects"];

/// A random ruleset.
pub fn ruleset(r: &mut Random) -> Ruleset {
    let mut ruleset = Ruleset::default();
    // Chains lead only to later ones in an order of their own each time, so that from one ruleset to the next arrows turn around.
    let mut order: Vec<usize> = (0..CHAINS).filter(|_| r.chance(75)).collect();
    for i in (1..order.len()).rev() {
        order.swap(i, r.below(i + 1));
    }
    let chains: Vec<String> = order.iter().map(|i| format!("c{i}")).collect();
    for i in 0..COUNTERS {
        if r.chance(50) {
            ruleset.counters.insert(format!("n{i}"), comment(r));
        }
    }
    for i in 0..OBJECTS {
        match r.below(6) {
            0 | 1 => drop(ruleset.sets.insert(format!("s{i}"), set(r))),
            2 => drop(ruleset.maps.insert(format!("s{i}"), map(r, &[]))),
            3 => drop(ruleset.maps.insert(format!("s{i}"), map(r, &chains))),
            4 => drop(ruleset.counter_maps.insert(format!("s{i}"), counter_map(r, &ruleset.counters))),
            _ => {}
        }
    }
    for (position, name) in chains.iter().enumerate() {
        let rules = rules(r, &ruleset, &chains[position + 1..], false);
        ruleset.chains.insert(name.clone(), Chain { hook: None, rules });
    }
    for i in 0..BASES {
        if r.chance(70) {
            let point = *r.pick(&[
                HookPoint::Prerouting,
                HookPoint::Input,
                HookPoint::Forward,
                HookPoint::Output,
                HookPoint::Postrouting,
            ]);
            let hook = Hook::filter(point, *r.pick(&[-300, -1, 0, 1, 100]));
            let rules = rules(r, &ruleset, &chains, true);
            ruleset.chains.insert(format!("b{i}"), Chain { hook: Some(hook), rules });
        }
    }
    if r.chance(40) {
        let rules = (0..r.below(4)).map(|_| translation(r)).collect();
        let hook = Some(Hook::nat(HookPoint::Postrouting, *r.pick(&[50, 100])));
        ruleset.chains.insert(BEYOND[0].into(), Chain { hook, rules });
    }
    if r.chance(40) {
        let rules = (0..r.below(4)).map(|_| rejection(r)).collect();
        let hook = Some(Hook::filter(*r.pick(&[HookPoint::Forward, HookPoint::Input]), 5));
        ruleset.chains.insert(BEYOND[1].into(), Chain { hook, rules });
    }
    ruleset
}

/// A random rule for a chain that translates.
fn translation(r: &mut Random) -> Rule {
    let v4 = r.chance(50);
    let mut matches = vec![Match::NfProto(if v4 { Family::V4 } else { Family::V6 })];
    if r.chance(50) {
        matches.push(Match::Addr { side: Side::Source, op: Op::Eq, net: net(r, v4) });
    }
    let ports = r.chance(50).then(|| *r.pick(&[(1024, 65_535), (5, 5), (1, 9)]));
    if ports.is_some() {
        matches.push(Match::L4Proto(Op::Eq, *r.pick(&[6, 17])));
    }
    let address = if v4 { IpAddr::from([192, 0, 2, 1]) } else { IpAddr::from(Ipv6Addr::LOCALHOST) };
    let statement = if r.chance(50) {
        Statement::Masquerade { ports, fully_random: r.chance(50) }
    } else {
        Statement::Snat { address, ports }
    };
    Rule { matches, statements: vec![statement], comment: comment(r) }
}

/// A random rule that rejects.
fn rejection(r: &mut Random) -> Rule {
    let (matches, with) = if r.chance(50) {
        (vec![Match::L4Proto(Op::Eq, 6)], RejectWith::TcpReset)
    } else {
        (Vec::new(), RejectWith::AdminProhibited)
    };
    Rule { matches, statements: vec![Statement::Counter, Statement::Reject(with)], comment: comment(r) }
}

/// A ruleset that has something in common with `before`: mostly the same with other elements and some other rules.
pub fn evolve(r: &mut Random, before: &Ruleset) -> Ruleset {
    if r.chance(40) {
        return ruleset(r);
    }
    let mut next = before.clone();
    for set in next.sets.values_mut() {
        if r.chance(50) {
            set.elements = elements(r, &set.key, set.interval).into_iter().collect();
        }
        // Another comment is another set under the same name, though the rules that use it stay as they are.
        if r.chance(20) {
            set.comment = comment(r);
        }
    }
    for text in next.counters.values_mut() {
        if r.chance(20) {
            *text = comment(r);
        }
    }
    let leaves: Vec<Verdict> = vec![Verdict::Accept, Verdict::Drop, Verdict::Return];
    for map in next.maps.values_mut() {
        if r.chance(20) {
            map.comment = comment(r);
        }
        let keys: Vec<Key> = map.elements.keys().cloned().collect();
        for key in keys {
            match r.below(3) {
                0 => drop(map.elements.remove(&key)),
                1 => drop(map.elements.insert(key, r.pick(&leaves).clone())),
                _ => {}
            }
        }
    }
    let counters = next.counters.clone();
    for map in next.counter_maps.values_mut() {
        if r.chance(20) {
            map.comment = comment(r);
        }
        if r.chance(50) {
            map.elements = counted(r, &map.key, map.interval, &counters);
        }
    }
    for chain in next.chains.values_mut() {
        if r.chance(20) && !chain.rules.is_empty() {
            let at = r.below(chain.rules.len());
            chain.rules.remove(at);
        }
    }
    next
}

pub fn set(r: &mut Random) -> Set {
    let (key, interval) = key(r);
    let elements = elements(r, &key, interval).into_iter().collect::<BTreeSet<_>>();
    Set { key, interval, elements, comment: comment(r) }
}

fn map(r: &mut Random, chains: &[String]) -> VerdictMap {
    let (key, interval) = key(r);
    let elements: BTreeMap<_, _> =
        elements(r, &key, interval).into_iter().map(|key| (key, verdict(r, chains))).collect();
    VerdictMap { key, interval, elements, comment: comment(r) }
}

fn counter_map(r: &mut Random, counters: &BTreeMap<String, Option<String>>) -> CounterMap {
    let (key, interval) = key(r);
    let elements = counted(r, &key, interval, counters);
    CounterMap { key, interval, elements, comment: comment(r) }
}

/// Random elements, each with one of these counters.
fn counted(
    r: &mut Random,
    key: &[KeyType],
    interval: bool,
    counters: &BTreeMap<String, Option<String>>,
) -> BTreeMap<Key, String> {
    let names: Vec<&String> = counters.keys().collect();
    if names.is_empty() {
        return BTreeMap::new();
    }
    elements(r, key, interval).into_iter().map(|key| (key, (*r.pick(&names)).clone())).collect()
}

fn comment(r: &mut Random) -> Option<String> {
    r.chance(30).then(|| format!("app == 'a{}'", r.below(3)))
}

fn key(r: &mut Random) -> (Vec<KeyType>, bool) {
    use KeyType::{IfName, InetProto, InetService, Ipv4Addr, Ipv6Addr, Mark};
    let keys: &[(&[KeyType], bool)] = &[
        (&[IfName], false),
        (&[Ipv4Addr], false),
        (&[Ipv6Addr], false),
        (&[Mark], false),
        (&[InetProto], false),
        (&[InetService], false),
        (&[IfName, Ipv4Addr], false),
        (&[IfName, Ipv6Addr], false),
        (&[IfName, IfName], false),
        (&[Ipv4Addr, InetProto, InetService], false),
        (&[Ipv6Addr, InetProto, InetService], false),
        (&[Ipv4Addr], true),
        (&[Ipv6Addr], true),
        (&[InetService], true),
        (&[InetProto, InetService], true),
        (&[Ipv4Addr, InetProto, InetService], true),
    ];
    let (key, interval) = r.pick(keys);
    (key.to_vec(), *interval)
}

pub fn elements(r: &mut Random, key: &[KeyType], interval: bool) -> Vec<Key> {
    let count = r.below(6);
    match (interval, key) {
        (true, [KeyType::Ipv4Addr | KeyType::Ipv6Addr]) => {
            let blocks: Vec<(IpNet, Vec<IpNet>)> = (0..count)
                .map(|_| (net(r, key[0] == KeyType::Ipv4Addr), vec![net(r, key[0] == KeyType::Ipv4Addr)]))
                .collect();
            intervals::union(&blocks).into_iter().collect()
        }
        (true, [KeyType::InetService]) => ports(r, count).into_iter().map(|port| vec![port]).collect(),
        (true, _) => {
            // Boxes that cannot meet: their ports are apart.
            ports(r, count)
                .into_iter()
                .map(|port| {
                    key.iter()
                        .map(|kind| match kind {
                            KeyType::InetService => port.clone(),
                            KeyType::Ipv4Addr => {
                                let net = net(r, true);
                                intervals::value(net.network(), net.broadcast()).expect("a network")
                            }
                            kind => value(r, *kind),
                        })
                        .collect()
                })
                .collect()
        }
        (false, key) => (0..count).map(|_| key.iter().map(|kind| value(r, *kind)).collect()).collect(),
    }
}

/// Ranges that do not overlap, though they may touch; the ends of the number space among them.
fn ports(r: &mut Random, count: usize) -> Vec<Value> {
    let mut edges: BTreeSet<u32> =
        (0..=count).map(|_| *r.pick(&[0, 1, 79, 80, 81, 90, 443, 8000, 8101, 65_534, 65_535, 65_536])).collect();
    edges.insert(u32::from(r.number() as u16));
    let edges: Vec<u32> = edges.into_iter().collect();
    edges
        .windows(2)
        .filter(|_| r.chance(70))
        .map(|pair| {
            let (first, last) = (pair[0] as u16, (pair[1] - 1) as u16);
            if first == last { Value::Port(first) } else { Value::PortRange(first, last) }
        })
        .collect()
}

fn value(r: &mut Random, kind: KeyType) -> Value {
    match kind {
        KeyType::IfName => Value::IfName((*r.pick(&["calia", "calib", "cali0123456789a", "eth0"])).to_owned()),
        KeyType::Ipv4Addr => Value::Addr(Ipv4Addr::new(10, 65, 0, r.below(5) as u8).into()),
        KeyType::Ipv6Addr => Value::Addr(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, r.below(5) as u16).into()),
        KeyType::NfProto => Value::Family(*r.pick(&[Family::V4, Family::V6])),
        KeyType::InetProto => Value::Proto(*r.pick(&[1, 6, 17, 58, 132])),
        KeyType::InetService => Value::Port(*r.pick(&[53, 80, 443, 65_535])),
        KeyType::Mark => Value::Mark(*r.pick(&[0, 0x0002_0000, 0x0003_0000, u32::MAX])),
    }
}

fn net(r: &mut Random, v4: bool) -> IpNet {
    if v4 {
        let addr = IpAddr::from(*r.pick(&[
            Ipv4Addr::new(10, 65, 0, 3),
            Ipv4Addr::new(10, 65, 200, 1),
            Ipv4Addr::new(192, 0, 2, 129),
            Ipv4Addr::UNSPECIFIED,
            Ipv4Addr::BROADCAST,
        ]));
        IpNet::new(addr, *r.pick(&[0, 1, 8, 9, 16, 23, 24, 25, 31, 32])).expect("a length").trunc()
    } else {
        let addr = IpAddr::from(*r.pick(&[
            Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, 3),
            Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1),
            Ipv6Addr::UNSPECIFIED,
            Ipv6Addr::new(0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff),
        ]));
        IpNet::new(addr, *r.pick(&[0, 1, 8, 10, 32, 63, 64, 127, 128])).expect("a length").trunc()
    }
}

fn verdict(r: &mut Random, chains: &[String]) -> Verdict {
    match r.below(if chains.is_empty() { 3 } else { 6 }) {
        0 => Verdict::Accept,
        1 => Verdict::Drop,
        2 => Verdict::Return,
        3 => Verdict::Jump(r.pick(chains).clone()),
        _ => Verdict::Goto(r.pick(chains).clone()),
    }
}

fn rules(r: &mut Random, ruleset: &Ruleset, chains: &[String], base: bool) -> Vec<Rule> {
    let count = r.below(5);
    (0..count).map(|_| rule(r, ruleset, chains, base)).collect()
}

/// A random rule that leads to `chains` only; verdict maps that lead to chains are for base chains.
pub fn rule(r: &mut Random, ruleset: &Ruleset, chains: &[String], base: bool) -> Rule {
    let v4 = r.chance(50);
    let op = |r: &mut Random| if r.chance(70) { Op::Eq } else { Op::Ne };
    let side = |r: &mut Random| if r.chance(50) { Side::Source } else { Side::Destination };
    let mut matches = Vec::new();
    if r.chance(30) {
        let (name, prefix) = *r.pick(&[("cali", true), ("calia", false), ("eth0", false)]);
        matches.push(Match::IfName { side: side(r), op: op(r), name: name.to_owned(), prefix });
    }
    if r.chance(25) {
        matches.push(Match::CtDirection(*r.pick(&[Direction::Original, Direction::Reply])));
    }
    let family = r.chance(50);
    if family {
        matches.push(Match::NfProto(if v4 { Family::V4 } else { Family::V6 }));
    }
    if r.chance(15) {
        matches.push(Match::CtState(CtStates(*r.pick(&[1, 2, 4, 6, 8, 64, 79]))));
    }
    if r.chance(10) {
        matches.push(Match::CtStatusDnat(r.chance(50)));
    }
    let protocol = r.chance(40).then(|| *r.pick(&[6u8, 17, 132, 1, 58, 33]));
    if let Some(protocol) = protocol {
        matches.push(Match::L4Proto(Op::Eq, protocol));
    }
    let ports = protocol.is_some_and(|protocol| !matches!(protocol, 1 | 58));
    let matched = family.then_some(if v4 { Family::V4 } else { Family::V6 });
    if let Some(protocol @ (1 | 58)) = protocol
        && r.chance(60)
    {
        let family = if protocol == 1 { Family::V4 } else { Family::V6 };
        matches.push(icmp(r, family));
        if r.chance(20) {
            matches.push(Match::IcmpCode { family, op: Op::Ne, code: *r.pick(&[0, 3, 250]) });
        }
    }
    if family && r.chance(50) {
        matches.push(Match::Addr { side: side(r), op: op(r), net: net(r, v4) });
    }
    if ports && r.chance(60) {
        let (first, last) = *r.pick(&[(80, 80), (80, 90), (0, 1023), (1024, 65_535), (65_535, 65_535)]);
        matches.push(Match::Port { side: side(r), op: op(r), first, last });
        if r.chance(30) {
            matches.push(Match::Port { side: Side::Destination, op: Op::Ne, first: 443, last: 443 });
        }
    }
    if let Some((key, set)) = lookup(r, ruleset.sets.iter().map(|(n, s)| (n, &s.key)), matched, protocol) {
        matches.push(Match::InSet { key, op: op(r), set });
    }
    if protocol.is_none() && r.chance(10) {
        matches.push(Match::L4Proto(Op::Ne, 6));
    }
    // More than any test sends.
    if r.chance(10) {
        matches.push(Match::LimitOver { packets_per_second: 1_000_000, burst: *r.pick(&[1_000, 1_000_000]) });
    }
    if r.chance(10) {
        matches.push(Match::CtCountOver(1_000_000));
    }
    let mut statements = Vec::new();
    if r.chance(40) {
        statements.push(Statement::Counter);
    }
    if let Some(counter) = ruleset.counters.keys().nth(r.below(6)) {
        statements.push(Statement::NamedCounter(counter.clone()));
    }
    let maps: Vec<_> = ruleset.counter_maps.iter().map(|(name, map)| (name, &map.key)).collect();
    if let Some((key, map)) = lookup(r, maps.into_iter(), matched, protocol) {
        statements.push(Statement::CountIn { key, map });
    }
    if r.chance(10) {
        statements.push(Statement::Log { prefix: format!("test {}: ", r.below(3)) });
    }
    if r.chance(10) {
        statements.push(r.pick(&[Statement::NoTrack, Statement::Trace]).clone());
    }
    if r.chance(25) {
        let bits = *r.pick(&[0, 0x0002_0000, 0x0003_0000, 0xffff_0000]);
        statements.push(Statement::SetCtMark { keep: 0xffff, bits });
    }
    let usable = ruleset.maps.iter().filter(|(_, map)| {
        base || map.elements.values().all(|verdict| !matches!(verdict, Verdict::Jump(_) | Verdict::Goto(_)))
    });
    let usable: Vec<_> = usable.map(|(name, map)| (name, &map.key)).collect();
    match lookup(r, usable.into_iter(), matched, protocol) {
        Some((key, map)) if r.chance(60) => statements.push(Statement::Vmap { key, map }),
        _ if r.chance(80) || statements.is_empty() => statements.push(Statement::Verdict(verdict(r, chains))),
        _ => {}
    }
    Rule { comment: comment(r), ..Rule::new(matches, statements) }
}

/// A random condition on a message's type, and sometimes on its code.
fn icmp(r: &mut Random, family: Family) -> Match {
    let kind = match family {
        Family::V4 => *r.pick(&[0, 3, 8, 11, 200]),
        Family::V6 => *r.pick(&[1, 128, 133, 135, 136, 200]),
    };
    if r.chance(30) {
        return Match::Icmp { family, op: Op::Ne, kind, code: None };
    }
    let code = r.chance(50).then(|| *r.pick(&[0, 1, 3, 4, 250]));
    Match::Icmp { family, op: Op::Eq, kind, code }
}

/// A set or map, and fields that can be looked up in it by a rule that has matched this family and protocol.
fn lookup<'a>(
    r: &mut Random,
    objects: impl Iterator<Item = (&'a String, &'a Vec<KeyType>)>,
    family: Option<Family>,
    protocol: Option<u8>,
) -> Option<(Vec<Field>, String)> {
    let fits: Vec<_> = objects
        .filter(|(_, key)| {
            key.iter().all(|kind| match kind {
                KeyType::Ipv4Addr => family == Some(Family::V4),
                KeyType::Ipv6Addr => family == Some(Family::V6),
                KeyType::InetService => match protocol {
                    Some(protocol) => !matches!(protocol, 1 | 58),
                    None => key.contains(&KeyType::InetProto),
                },
                _ => true,
            })
        })
        .collect();
    if fits.is_empty() || r.chance(40) {
        return None;
    }
    let (name, key) = *r.pick(&fits);
    let source = r.chance(50);
    let fields = key
        .iter()
        .enumerate()
        .map(|(index, kind)| match kind {
            KeyType::IfName if source == (index == 0) => Field::IifName,
            KeyType::IfName => Field::OifName,
            KeyType::Ipv4Addr if source => Field::Ip4Saddr,
            KeyType::Ipv4Addr => Field::Ip4Daddr,
            KeyType::Ipv6Addr if source => Field::Ip6Saddr,
            KeyType::Ipv6Addr => Field::Ip6Daddr,
            KeyType::NfProto => Field::NfProto,
            KeyType::InetProto => Field::L4Proto,
            KeyType::InetService if source => Field::ThSport,
            KeyType::InetService => Field::ThDport,
            KeyType::Mark => Field::CtMarkMasked(*r.pick(&[0xffff_0000, u32::MAX])),
        })
        .collect();
    Some((fields, name.clone()))
}
