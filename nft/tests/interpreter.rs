//! The interpreter's rules of the road, each by a small ruleset. That the kernel keeps the same rules is shown by packets in `netlink`.

use std::net::{IpAddr, Ipv4Addr};

use tortie_nft::interpreter::{Conntrack, Error, FlowState, Interpreter, Outcome, Packet, Step, Translation};
use tortie_nft::{
    Chain, CounterMap, CtStates, Direction, Family, Field, Hook, HookPoint, KeyType, LimitUnit, Match, Op, RejectWith,
    Rule, Ruleset, Set, Side, Statement, Value, Verdict, VerdictMap,
};

fn packet() -> Packet {
    Packet {
        iif: "calia".into(),
        oif: "calib".into(),
        saddr: Ipv4Addr::new(10, 65, 0, 1).into(),
        daddr: Ipv4Addr::new(10, 65, 0, 2).into(),
        l4proto: 6,
        sport: Some(40_000),
        dport: Some(80),
        icmp: None,
        ct: Conntrack::NEW,
        dnat: false,
    }
}

fn verdict(verdict: Verdict) -> Rule {
    Rule::new([], [Statement::Verdict(verdict)])
}

fn jump(chain: &str) -> Rule {
    verdict(Verdict::Jump(chain.into()))
}

fn goto(chain: &str) -> Rule {
    verdict(Verdict::Goto(chain.into()))
}

fn base(priority: i32, rules: Vec<Rule>) -> Chain {
    Chain { hook: Some(Hook::filter(HookPoint::Forward, priority)), rules }
}

fn ruleset(chains: Vec<(&str, Chain)>) -> Ruleset {
    let chains = chains.into_iter().map(|(name, chain)| (name.to_owned(), chain)).collect();
    Ruleset { chains, ..Ruleset::default() }
}

fn chain(rules: Vec<Rule>) -> Chain {
    Chain { hook: None, rules }
}

fn run(ruleset: &Ruleset) -> Outcome {
    Interpreter::new(ruleset).expect("a ruleset").run(HookPoint::Forward, &mut packet())
}

#[test]
fn jump_comes_back_and_goto_does_not() {
    let empty = || chain(vec![]);
    let drop = || verdict(Verdict::Drop);
    assert_eq!(run(&ruleset(vec![("b", base(0, vec![jump("c"), drop()])), ("c", empty())])), Outcome::Drop);
    assert_eq!(run(&ruleset(vec![("b", base(0, vec![goto("c"), drop()])), ("c", empty())])), Outcome::Accept);
    // From a chain that was jumped to, goto's end is the end of that chain, and the jump comes back.
    let inner = vec![("c", chain(vec![goto("d"), verdict(Verdict::Accept)])), ("d", empty())];
    let mut chains = vec![("b", base(0, vec![jump("c"), drop()]))];
    chains.extend(inner);
    assert_eq!(run(&ruleset(chains)), Outcome::Drop);
    // Return leaves a chain early, and a base chain for good.
    let returning = chain(vec![verdict(Verdict::Return), verdict(Verdict::Accept)]);
    assert_eq!(run(&ruleset(vec![("b", base(0, vec![jump("c"), drop()])), ("c", returning)])), Outcome::Drop);
    assert_eq!(run(&ruleset(vec![("b", base(0, vec![verdict(Verdict::Return), drop()]))])), Outcome::Accept);
}

#[test]
fn accept_ends_its_own_base_chain_only() {
    let both = |first: Verdict, second: Verdict| {
        run(&ruleset(vec![("z", base(0, vec![verdict(first)])), ("a", base(1, vec![verdict(second)]))]))
    };
    assert_eq!(both(Verdict::Accept, Verdict::Drop), Outcome::Drop);
    assert_eq!(both(Verdict::Drop, Verdict::Accept), Outcome::Drop);
    assert_eq!(both(Verdict::Accept, Verdict::Accept), Outcome::Accept);
}

#[test]
fn counters_count_what_reaches_them() {
    let count = |name: &str| Statement::NamedCounter(name.into());
    let key = vec![Value::Addr(packet().saddr)];
    let map = |elements: &[(Vec<Value>, &str)]| CounterMap {
        key: vec![KeyType::Ipv4Addr],
        interval: false,
        elements: elements.iter().map(|(key, counter)| (key.clone(), (*counter).to_owned())).collect(),
        comment: None,
    };
    let v4 = Match::NfProto(Family::V4);
    let count_in = |map: &str| Statement::CountIn { key: vec![Field::Ip4Saddr], map: map.into() };
    let rules = vec![
        Rule::new([Match::L4Proto(Op::Eq, 17)], [count("udp")]),
        Rule::new([v4.clone()], [count_in("without"), Statement::Verdict(Verdict::Drop)]),
        Rule::new([v4.clone()], [count("before"), count_in("without"), Statement::Verdict(Verdict::Drop)]),
        Rule::new([v4], [count_in("with"), count("after"), Statement::Verdict(Verdict::Accept)]),
        Rule::new([], [count("late")]),
    ];
    let mut table = ruleset(vec![("b", base(0, rules)), ("z", base(1, vec![Rule::new([], [count("after")])]))]);
    table.counters = ["udp", "before", "after", "late", "mapped"].map(|name| (name.to_owned(), None)).into();
    table.counter_maps = [("with".to_owned(), map(&[(key, "mapped")])), ("without".to_owned(), map(&[]))].into();
    let walk = Interpreter::new(&table).expect("a ruleset").trace(HookPoint::Forward, &mut packet());
    assert_eq!(walk.outcome, Outcome::Accept);
    assert_eq!(walk.counted, ["before", "mapped", "after", "after"]);
    let steps: Vec<_> = walk.steps.iter().map(|step| (step.chain.as_str(), step.rule)).collect();
    assert_eq!(steps, [("b", 2), ("b", 3), ("z", 0)], "a rule that begins with a look-up in vain has not applied");
    assert_eq!(walk.decided().map(|step| step.rule).collect::<Vec<_>>(), [3]);
    table.counters.remove("mapped");
    assert_eq!(Interpreter::new(&table).expect_err("an element of no counter"), Error::NoCounter("mapped".into()));
}

#[test]
fn notrack_is_for_packets_that_conntrack_has_not_seen() {
    let rule = Rule::new([], [Statement::NoTrack]);
    let table = |point, priority| {
        let chain = Chain { hook: Some(Hook::filter(point, priority)), rules: vec![rule.clone()] };
        Interpreter::new(&ruleset(vec![("raw", chain)])).expect("a ruleset")
    };
    let after = |point, priority, ct| {
        let mut packet = Packet { ct, ..packet() };
        table(point, priority).run(point, &mut packet);
        packet.ct
    };
    assert_eq!(after(HookPoint::Prerouting, -300, Conntrack::NEW), Conntrack::Untracked);
    assert_eq!(after(HookPoint::Output, -300, Conntrack::NEW), Conntrack::Untracked);
    assert_eq!(after(HookPoint::Prerouting, -150, Conntrack::NEW), Conntrack::NEW);
    assert_eq!(after(HookPoint::Forward, -300, Conntrack::NEW), Conntrack::NEW);
    assert_eq!(after(HookPoint::Forward, 0, Conntrack::Invalid), Conntrack::Untracked);
}

#[test]
fn types_and_codes_of_icmp() {
    let holds = |condition: Match, icmp: Option<(u8, u8)>| {
        let matches = vec![Match::L4Proto(Op::Eq, 1), condition];
        let rules = ruleset(vec![("b", base(0, vec![Rule::new(matches, [Statement::Verdict(Verdict::Drop)])]))]);
        let mut packet = Packet { l4proto: 1, sport: None, dport: None, icmp, ..packet() };
        Interpreter::new(&rules).expect("a ruleset").run(HookPoint::Forward, &mut packet) == Outcome::Drop
    };
    let icmp = |op, kind, code| Match::Icmp { family: Family::V4, op, kind, code };
    assert!(holds(icmp(Op::Eq, 3, None), Some((3, 1))));
    assert!(holds(icmp(Op::Eq, 3, Some(1)), Some((3, 1))));
    assert!(!holds(icmp(Op::Eq, 3, Some(1)), Some((3, 0))));
    assert!(!holds(icmp(Op::Ne, 3, None), Some((3, 1))));
    assert!(holds(icmp(Op::Ne, 3, None), Some((8, 0))));
    assert!(!holds(icmp(Op::Ne, 3, None), None), "there is no type to compare");
}

#[test]
fn a_missing_field_fails_equality_and_inequality() {
    let port = |op| Match::Port { side: Side::Destination, op, first: 80, last: 80 };
    let mut fragment = packet();
    fragment.dport = None;
    for op in [Op::Eq, Op::Ne] {
        let drops = ruleset(vec![("b", base(0, vec![Rule::new([port(op)], [Statement::Verdict(Verdict::Drop)])]))]);
        let interpreter = Interpreter::new(&drops).expect("a ruleset");
        assert_eq!(interpreter.run(HookPoint::Forward, &mut fragment), Outcome::Accept, "{op:?}");
    }
}

#[test]
fn without_a_conntrack_entry_there_is_a_state_and_no_mark() {
    let state = |states| Rule::new([Match::CtState(states)], [Statement::Verdict(Verdict::Drop)]);
    let invalid = ruleset(vec![("b", base(0, vec![state(CtStates::INVALID)]))]);
    let direction = ruleset(vec![(
        "b",
        base(0, vec![Rule::new([Match::CtDirection(Direction::Original)], [Statement::Verdict(Verdict::Drop)])]),
    )]);
    // Changing the mark reads it, and so ends the rule before its verdict.
    let marking = ruleset(vec![(
        "b",
        base(
            0,
            vec![Rule::new(
                [],
                [Statement::SetCtMark { keep: 0xffff, bits: 0x1_0000 }, Statement::Verdict(Verdict::Drop)],
            )],
        ),
    )]);
    let outcome = |ruleset: &Ruleset, ct| {
        let mut packet = Packet { ct, ..packet() };
        Interpreter::new(ruleset).expect("a ruleset").run(HookPoint::Forward, &mut packet)
    };
    assert_eq!(outcome(&invalid, Conntrack::Invalid), Outcome::Drop);
    assert_eq!(outcome(&invalid, Conntrack::Untracked), Outcome::Accept);
    assert_eq!(outcome(&invalid, Conntrack::NEW), Outcome::Accept);
    for ruleset in [direction, marking] {
        assert_eq!(outcome(&ruleset, Conntrack::Invalid), Outcome::Accept);
        assert_eq!(outcome(&ruleset, Conntrack::Untracked), Outcome::Accept);
        assert_eq!(outcome(&ruleset, Conntrack::NEW), Outcome::Drop);
    }
}

#[test]
fn before_conntrack_every_packet_is_invalid() {
    for (priority, outcome) in [(-300, Outcome::Drop), (-199, Outcome::Accept)] {
        let rule = Rule::new([Match::CtState(CtStates::INVALID)], [Statement::Verdict(Verdict::Drop)]);
        let hook = Some(Hook::filter(HookPoint::Prerouting, priority));
        let interpreter =
            Interpreter::new(&ruleset(vec![("b", Chain { hook, rules: vec![rule] })])).expect("a ruleset");
        assert_eq!(interpreter.run(HookPoint::Prerouting, &mut packet()), outcome);
    }
}

#[test]
fn marks_are_changed_and_seen_by_later_chains() {
    let set = Set {
        key: vec![KeyType::Mark],
        interval: false,
        elements: [vec![Value::Mark(0x0002_0000)]].into(),
        comment: None,
    };
    let live = Match::InSet { key: vec![Field::CtMarkMasked(0xffff_0000)], op: Op::Eq, set: "live".into() };
    let mut rules = ruleset(vec![
        ("a", base(0, vec![Rule::new([], [Statement::SetCtMark { keep: 0xffff, bits: 0x0002_0000 }])])),
        ("b", base(1, vec![Rule::new([live], [Statement::Verdict(Verdict::Drop)])])),
    ]);
    rules.sets.insert("live".into(), set);
    let interpreter = Interpreter::new(&rules).expect("a ruleset");
    let flow = |mark| Conntrack::Flow { state: FlowState::Established, direction: Direction::Reply, mark };
    let mut packet = Packet { ct: flow(0x7777_4000), ..packet() };
    assert_eq!(interpreter.run(HookPoint::Forward, &mut packet), Outcome::Drop);
    assert_eq!(packet.ct, flow(0x0002_4000), "the lower half is not ours");
}

#[test]
fn a_trace_names_rules_and_verdicts() {
    let mut rules = ruleset(vec![
        (
            "b",
            base(
                0,
                vec![
                    Rule::new([Match::L4Proto(Op::Eq, 17)], [Statement::Verdict(Verdict::Accept)]),
                    Rule::new([], [Statement::Vmap { key: vec![Field::IifName], map: "class".into() }]),
                    Rule::new([], [Statement::Vmap { key: vec![Field::OifName], map: "class".into() }]),
                ],
            ),
        ),
        ("open", chain(vec![Rule::new([], [Statement::Counter]), verdict(Verdict::Drop)])),
    ]);
    let elements = [(vec![Value::IfName("calib".into())], Verdict::Goto("open".into()))].into();
    rules
        .maps
        .insert("class".into(), VerdictMap { key: vec![KeyType::IfName], interval: false, elements, comment: None });
    let walk = Interpreter::new(&rules).expect("a ruleset").trace(HookPoint::Forward, &mut packet());
    let step = |chain: &str, rule, verdict| Step { chain: chain.into(), rule, verdict };
    assert_eq!(walk.outcome, Outcome::Drop);
    assert_eq!(
        walk.steps,
        [
            step("b", 1, None),
            step("b", 2, Some(Verdict::Goto("open".into()))),
            step("open", 0, None),
            step("open", 1, Some(Verdict::Drop)),
        ]
    );
}

#[test]
fn what_the_kernel_refuses_is_refused() {
    assert_eq!(
        Interpreter::new(&ruleset(vec![("b", base(0, vec![jump("c")]))])).err(),
        Some(Error::NoChain("c".into()))
    );
    let looped = ruleset(vec![("b", base(0, vec![jump("c")])), ("c", chain(vec![goto("c")]))]);
    assert_eq!(Interpreter::new(&looped).err(), Some(Error::TooDeep("b".into())));
    let net = "10.0.0.0/8".parse().expect("a prefix");
    let without_family = Rule::new([Match::Addr { side: Side::Source, op: Op::Eq, net }], []);
    let error = Interpreter::new(&ruleset(vec![("b", base(0, vec![without_family]))])).expect_err("no family");
    assert!(error.to_string().contains("meta nfproto ipv4"), "{error}");
}

/// The shape of a node's policy, with as many pods as one has: it must stay a matter of microseconds a packet.
#[test]
fn a_packet_costs_a_few_look_ups_whatever_the_number_of_pods() {
    let pods = 5_000u32;
    let addr = |pod: u32| IpAddr::from(Ipv4Addr::from(0x0a41_0000 + pod));
    let name = |pod: u32| format!("cali{pod:011x}");
    let class = VerdictMap {
        key: vec![KeyType::IfName],
        interval: false,
        elements: (0..pods).map(|pod| (vec![Value::IfName(name(pod))], Verdict::Goto("class".into()))).collect(),
        comment: None,
    };
    let peers = Set {
        key: vec![KeyType::Ipv4Addr],
        interval: false,
        elements: (0..pods).step_by(2).map(|pod| vec![Value::Addr(addr(pod))]).collect(),
        comment: None,
    };
    let allowed =
        [Match::NfProto(Family::V4), Match::InSet { key: vec![Field::Ip4Saddr], op: Op::Eq, set: "peers".into() }];
    let mut rules = ruleset(vec![
        ("b", base(0, vec![Rule::new([], [Statement::Vmap { key: vec![Field::OifName], map: "class".into() }])])),
        ("class", chain(vec![Rule::new(allowed, [Statement::Verdict(Verdict::Accept)]), verdict(Verdict::Drop)])),
    ]);
    rules.maps.insert("class".into(), class);
    rules.sets.insert("peers".into(), peers);
    let interpreter = Interpreter::new(&rules).expect("a ruleset");
    let mut accepted = 0;
    for pod in 0..100_000u32 {
        let mut packet = Packet { saddr: addr(pod % pods), oif: name((pod * 7) % pods), ..packet() };
        accepted += u32::from(interpreter.run(HookPoint::Forward, &mut packet) == Outcome::Accept);
    }
    assert_eq!(accepted, 50_000);
}

fn nat(priority: i32, rules: Vec<Rule>) -> Chain {
    Chain { hook: Some(Hook::nat(HookPoint::Postrouting, priority)), rules }
}

#[test]
fn a_translation_is_recorded_and_decided_once_by_the_first_packet() {
    let masquerade =
        |ports| Rule::new([Match::L4Proto(Op::Eq, 6)], [Statement::Masquerade { ports, fully_random: true }]);
    let address: IpAddr = Ipv4Addr::new(192, 0, 2, 1).into();
    let snat = Rule::new([Match::NfProto(Family::V4)], [Statement::Snat { address, ports: None }]);
    let table = ruleset(vec![
        ("first", nat(50, vec![masquerade(Some((5, 6))), verdict(Verdict::Drop)])),
        ("second", nat(100, vec![snat, verdict(Verdict::Drop)])),
    ]);
    let interpreter = Interpreter::new(&table).expect("a ruleset");
    let walk = |packet: Packet| interpreter.trace(HookPoint::Postrouting, &mut packet.clone());
    let first = walk(packet());
    assert_eq!(
        (first.outcome, first.translation),
        (Outcome::Accept, Some(Translation::Masquerade { ports: Some((5, 6)) }))
    );
    assert_eq!(first.steps.len(), 1, "the second chain has no say in it any more");
    let table = ruleset(vec![(
        "b",
        nat(100, vec![Rule::new([Match::NfProto(Family::V4)], [Statement::Snat { address, ports: None }])]),
    )]);
    let interpreter = Interpreter::new(&table).expect("a ruleset");
    let walk = |packet: Packet| interpreter.trace(HookPoint::Postrouting, &mut packet.clone());
    assert_eq!(walk(packet()).translation, Some(Translation::Snat { address, ports: None }));
    let established = Conntrack::Flow { state: FlowState::Established, direction: Direction::Original, mark: 0 };
    for ct in [established, Conntrack::Untracked, Conntrack::Invalid] {
        let later = walk(Packet { ct, ..packet() });
        assert_eq!((later.translation, later.steps.len()), (None, 0), "only the first packet of a flow comes here");
    }
}

#[test]
fn a_rejection_is_a_drop_that_is_told() {
    let reset = Rule::new([Match::L4Proto(Op::Eq, 6)], [Statement::Counter, Statement::Reject(RejectWith::TcpReset)]);
    let table = ruleset(vec![("b", base(0, vec![reset, verdict(Verdict::Accept)]))]);
    let walk = Interpreter::new(&table).expect("a ruleset").trace(HookPoint::Forward, &mut packet());
    assert_eq!((walk.outcome, walk.rejected), (Outcome::Drop, Some(RejectWith::TcpReset)));
    assert_eq!(walk.steps.last().and_then(|step| step.verdict.clone()), Some(Verdict::Drop));
}

#[test]
fn limits_are_never_exceeded_and_the_status_of_a_flow_is_its_own() {
    let drop_if = |condition| Rule::new([condition], [Statement::Verdict(Verdict::Drop)]);
    let limited = ruleset(vec![(
        "b",
        base(0, vec![drop_if(Match::LimitOver { packets_per_second: 1, burst: 1 }), drop_if(Match::CtCountOver(0))]),
    )]);
    assert_eq!(run(&limited), Outcome::Accept);
    let within = Match::LimitWithin { packets: 1, per: LimitUnit::Day, burst: 1 };
    assert_eq!(run(&ruleset(vec![("b", base(0, vec![drop_if(within)]))])), Outcome::Drop);
    for (condition, dnat, ct, outcome) in [
        (true, true, Conntrack::NEW, Outcome::Drop),
        (true, false, Conntrack::NEW, Outcome::Accept),
        (false, false, Conntrack::NEW, Outcome::Drop),
        (false, true, Conntrack::NEW, Outcome::Accept),
        // Without an entry there is nothing to ask.
        (true, true, Conntrack::Untracked, Outcome::Accept),
        (false, false, Conntrack::Invalid, Outcome::Accept),
    ] {
        let table = ruleset(vec![("b", base(0, vec![drop_if(Match::CtStatusDnat(condition))]))]);
        let mut packet = Packet { ct, dnat, ..packet() };
        assert_eq!(Interpreter::new(&table).expect("a ruleset").run(HookPoint::Forward, &mut packet), outcome);
    }
}

#[test]
fn what_has_no_place_at_a_hook_is_refused() {
    let masquerade = Rule::new([], [Statement::Masquerade { ports: None, fully_random: false }]);
    let table = ruleset(vec![("b", base(0, vec![jump("c")])), ("c", chain(vec![masquerade]))]);
    assert_eq!(Interpreter::new(&table).map(|_| ()), Err(Error::Misplaced("b".into())));
}
