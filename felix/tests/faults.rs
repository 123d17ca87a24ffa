//! Whatever goes wrong between the core and the kernel, and whatever strangers do to the table: in the end it is right, and at no time
//! does a packet pass that every policy denies, or is one stopped that every policy allows.
//!
//! After each transaction, and not only when all is settled, packets are walked through the table as it then is: first ones, and those
//! of flows that carry the marks of earlier tables.

mod common;

use common::{World, allow, block, config, endpoint, namespace, node, pod, pool, without_history};
use proptest::prelude::*;
use tortie_api::{Kind, ObjectKey};
use tortie_felix::{Config, Felix, LocalEndpoint};
use tortie_nft::fake::{Fake, Fault, Faults};
use tortie_nft::interpreter::{Conntrack, FlowState, Interpreter, Outcome, Packet};
use tortie_nft::{Chain, Direction, HookPoint, Match, Rule, Ruleset, Statement, Value, Verdict};

#[derive(Debug, Clone)]
enum Op {
    /// A permission comes or goes: that of `late` to reach `web`.
    Permit(bool),
    /// Another policy, about other pods.
    Policy(u8, u8),
    NoPolicy(u8),
    /// A guest pod is wired, or unwired.
    Add(u8),
    Remove(u8),
    /// Somebody edits the table.
    Meddle(Edit),
    /// One of the held actions is done.
    Release,
    Wait(u32),
    Restart,
}

#[derive(Debug, Clone)]
enum Edit {
    Flush,
    EmptyOwn,
    Chain,
    AcceptAll,
    NoDispatch,
    ForeignMap,
    OtherGeneration,
}

fn op() -> impl Strategy<Value = Op> {
    let edit = prop_oneof![
        Just(Edit::Flush),
        Just(Edit::EmptyOwn),
        Just(Edit::Chain),
        Just(Edit::AcceptAll),
        Just(Edit::NoDispatch),
        Just(Edit::ForeignMap),
        Just(Edit::OtherGeneration),
    ];
    prop_oneof![
        4 => any::<bool>().prop_map(Op::Permit),
        2 => (0..3u8, 0..3u8).prop_map(|(name, label)| Op::Policy(name, label)),
        1 => (0..3u8).prop_map(Op::NoPolicy),
        3 => (0..4u8).prop_map(Op::Add),
        2 => (0..4u8).prop_map(Op::Remove),
        1 => edit.prop_map(Op::Meddle),
        12 => Just(Op::Release),
        3 => prop_oneof![1..500u32, 10_000..120_000u32].prop_map(Op::Wait),
        1 => Just(Op::Restart),
    ]
}

const WEB: &str = "10.244.0.1";
const CLIENT: &str = "10.244.0.2";
const LATE: &str = "10.244.0.3";
const STRANGER: &str = "10.244.0.4";

fn steady() -> Vec<LocalEndpoint> {
    [("web", WEB), ("client", CLIENT), ("late", LATE), ("stranger", STRANGER)]
        .map(|(name, ip)| endpoint("default", name, &[ip]))
        .to_vec()
}

fn guest(number: u8) -> LocalEndpoint {
    endpoint("default", &format!("guest{number}"), &[&format!("10.244.0.{}", 20 + number)])
}

fn objects() -> Vec<tortie_api::Object> {
    let mut objects = vec![
        node("a", &["172.31.0.2"], &[]),
        pool("pods", "10.244.0.0/16", false),
        block("10.244.0.0/26", "a"),
        namespace("default"),
        allow("web", "web", "client"),
    ];
    for (name, ip) in [("web", WEB), ("client", CLIENT), ("late", LATE), ("stranger", STRANGER)] {
        objects.push(pod("default", name, name, &[ip]));
    }
    for number in 0..4 {
        let ip = guest(number).ips[0].to_string();
        objects.push(pod("default", &format!("guest{number}"), ["guest", "visitor"][usize::from(number % 2)], &[&ip]));
    }
    objects
}

/// A flow between two pods of the node, and what conntrack remembers of it.
#[derive(Debug, Clone)]
struct Flow {
    from: &'static str,
    mark: Option<u32>,
}

impl Flow {
    fn packet(&self, reply: bool) -> Packet {
        let interface = |ip: &str| {
            steady().into_iter().find(|endpoint| endpoint.ips[0].to_string() == ip).expect("one of ours").interface
        };
        let (from, to) = if reply { (WEB, self.from) } else { (self.from, WEB) };
        let ports = if reply { (80, 40_000) } else { (40_000, 80) };
        let state = if self.mark.is_some() { FlowState::Established } else { FlowState::New };
        let direction = if reply { Direction::Reply } else { Direction::Original };
        Packet {
            iif: interface(from),
            oif: interface(to),
            saddr: common::ip(from),
            daddr: common::ip(to),
            l4proto: 6,
            sport: Some(ports.0),
            dport: Some(ports.1),
            icmp: None,
            ct: Conntrack::Flow { state, direction, mark: self.mark.unwrap_or(0) },
            dnat: false,
        }
    }

    /// Sends a packet of the flow.
    fn send(&mut self, rules: &Interpreter, reply: bool) -> Outcome {
        let mut packet = self.packet(reply);
        for hook in [HookPoint::Prerouting, HookPoint::Forward] {
            if rules.run(hook, &mut packet) == Outcome::Drop {
                // An entry that was there keeps what was written to it on the way.
                if self.mark.is_some() {
                    self.mark = packet.ct.mark();
                }
                return Outcome::Drop;
            }
        }
        self.mark = packet.ct.mark();
        Outcome::Accept
    }
}

/// The world under faults, with the flows that cross it.
struct Trial {
    world: World,
    seen: Ruleset,
    client: Flow,
    late: Flow,
    stranger: Flow,
    permitted: bool,
    /// The table as somebody edited it, until that is repaired: so long nothing can be said of packets.
    meddled: Option<Ruleset>,
    /// How often something goes wrong, in percent, and at which chances.
    percent: u8,
    seed: u64,
}

impl Trial {
    fn start(seed: u64, percent: u8) -> Self {
        let mut world = World::new("a");
        for endpoint in steady() {
            world.link_of(&endpoint, true);
        }
        world.start(steady());
        world.apply(objects());
        world.advance(1_000);
        let flow = |from| Flow { from, mark: None };
        let seen = world.ruleset();
        let mut trial = Self {
            world,
            seen,
            client: flow(CLIENT),
            late: flow(LATE),
            stranger: flow(STRANGER),
            permitted: false,
            meddled: None,
            percent,
            seed,
        };
        trial.look();
        assert!(trial.client.mark.is_some(), "the allowed flow has begun");
        trial.world.table.set_faults(Faults::random(seed, percent));
        trial.world.paused = true;
        trial.world.strangers = true;
        trial
    }

    /// Sends packets through the table, if it is a new one.
    fn watch(&mut self) {
        let Some(table) = self.world.table.ruleset() else { return };
        if self.meddled.as_ref().is_some_and(|edited| edited != table) && self.world.felix.wanted_rules() == Some(table)
        {
            self.meddled = None;
        }
        if self.meddled.is_none() && *table != self.seen {
            self.seen = table.clone();
            self.look();
        }
    }

    fn look(&mut self) {
        let rules = Interpreter::new(&self.seen).expect("a table that the kernel takes");
        for reply in [false, true, false] {
            // A reply is one to a flow that has begun.
            if !reply || self.client.mark.is_some() {
                assert_eq!(self.client.send(&rules, reply), Outcome::Accept, "the allowed flow is cut");
            }
            let mut fresh = Flow { from: CLIENT, mark: None };
            assert_eq!(fresh.send(&rules, false), Outcome::Accept, "a new allowed flow is cut");
            let mut fresh = Flow { from: STRANGER, mark: None };
            assert_eq!(fresh.send(&rules, false), Outcome::Drop, "a new denied flow passes");
            if !reply || self.stranger.mark.is_some() {
                assert_eq!(self.stranger.send(&rules, reply), Outcome::Drop, "the denied flow passes");
            }
            if !reply || self.late.mark.is_some() {
                self.late.send(&rules, reply);
            }
        }
    }

    fn run(&mut self, op: &Op) {
        let key = |name: String| ObjectKey { kind: Kind::NetworkPolicy, namespace: Some("default".into()), name };
        match op {
            Op::Permit(permitted) => {
                self.permitted = *permitted;
                if *permitted {
                    self.world.apply(vec![allow("late", "web", "late")]);
                } else {
                    self.world.delete(key("late".into()));
                }
            }
            Op::Policy(name, label) => {
                let labels = ["guest", "visitor", "late"];
                let (to, from) = (labels[usize::from(*label % 2)], labels[usize::from(*label)]);
                self.world.apply(vec![allow(&format!("policy{name}"), to, from)]);
            }
            Op::NoPolicy(name) => drop(self.world.delete(key(format!("policy{name}")))),
            Op::Add(number) => drop(self.world.add(&guest(*number))),
            Op::Remove(number) => drop(self.world.remove(&guest(*number))),
            Op::Meddle(edit) => self.meddle(edit),
            Op::Release => self.world.release_one(),
            Op::Wait(milliseconds) => self.world.advance(u64::from(*milliseconds)),
            Op::Restart => self.restart(),
        }
        self.watch();
    }

    fn meddle(&mut self, edit: &Edit) {
        let Some(mut table) = self.world.table.ruleset().cloned() else { return };
        match edit {
            Edit::Flush => table = Ruleset::default(),
            Edit::EmptyOwn => drop(table.sets.get_mut("own4").map(|set| set.elements.clear())),
            Edit::Chain => {
                let rule = Rule::new([], [Statement::Counter]);
                table.chains.insert("stranger".into(), Chain { hook: None, rules: vec![rule] });
            }
            Edit::AcceptAll => {
                let rule = Rule::new([Match::L4Proto(tortie_nft::Op::Eq, 6)], [Statement::Verdict(Verdict::Accept)]);
                for name in ["egress", "ingress"] {
                    if let Some(chain) = table.chains.get_mut(name) {
                        chain.rules.insert(0, rule.clone());
                    }
                }
            }
            Edit::NoDispatch => drop(table.maps.get_mut("ingress_class").map(|map| map.elements.clear())),
            Edit::ForeignMap => drop(table.maps.get_mut("ingress_class").map(|map| map.key.clear())),
            Edit::OtherGeneration => {
                if let Some(set) = table.sets.get_mut("live") {
                    set.elements = [vec![Value::Mark(0x0042_0000)]].into();
                }
            }
        }
        self.meddled = Some(table.clone());
        self.world.table = if table.is_empty() { Fake::new() } else { Fake::with(table) };
        // Whoever writes next hears that somebody else did.
        self.seed = self.seed.wrapping_add(1);
        self.world.table.set_faults(Faults::random(self.seed, self.percent).transaction(0, Fault::Stale));
        // While nobody denies anything, the denied flow begins; it must end with the repair.
        if let Some(rules) = self.world.table.ruleset().and_then(|table| Interpreter::new(table).ok()) {
            self.stranger.send(&rules, false);
        } else {
            self.stranger.mark.get_or_insert(0);
        }
    }

    fn restart(&mut self) {
        let endpoints: Vec<_> = self.world.felix.endpoints().cloned().collect();
        self.world.restart();
        // A table that starts from nothing has a generation that no earlier one has, but for one chance in 32,766.
        self.seed = self.seed.wrapping_add(1);
        let seed = u32::try_from(self.seed % 30_000).expect("a small number") + 1_000;
        self.world.felix = Felix::new(Config { seed, ..config("a") });
        self.world.start(endpoints);
        let mut objects = objects();
        if self.permitted {
            objects.push(allow("late", "web", "late"));
        }
        self.world.apply(objects);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_faults_end_in_the_right_table_and_no_denied_packet_ever_passes(
        ops in prop::collection::vec(op(), 1..80),
        seed in any::<u64>(),
        percent in 0..60u8,
    ) {
        let mut trial = Trial::start(seed, percent);
        for op in &ops {
            trial.run(op);
        }
        // Nothing goes wrong any more: every action is done, one by one, and time passes until the longest pauses and audits are over.
        trial.world.table.set_faults(Faults::none());
        for _ in 0..40 {
            while !trial.world.held.is_empty() {
                trial.world.release_one();
                trial.watch();
            }
            trial.world.advance(5_000);
        }
        prop_assert_eq!(trial.world.felix.status().problems, Vec::<String>::new());
        let table = trial.world.ruleset();
        prop_assert_eq!(Some(&table), trial.world.felix.wanted_rules());
        trial.seen = table.clone();
        trial.look();
        let rules = Interpreter::new(&table).expect("a table");
        let expected = if trial.permitted { Outcome::Accept } else { Outcome::Drop };
        prop_assert_eq!(trial.late.clone().send(&rules, false), expected, "a flow that was allowed at times");

        // Somebody who sees the last state only makes the same of it.
        let mut fresh = World::new("a");
        let endpoints: Vec<_> = trial.world.felix.endpoints().cloned().collect();
        for endpoint in &endpoints {
            fresh.link_of(endpoint, true);
        }
        fresh.start(endpoints);
        fresh.apply(trial.last_word(&ops));
        fresh.advance(5_000);
        prop_assert_eq!(without_history(table), without_history(fresh.ruleset()));
    }
}

impl Trial {
    /// What the datastore holds after all operations.
    fn last_word(&self, ops: &[Op]) -> Vec<tortie_api::Object> {
        let mut objects = objects();
        if self.permitted {
            objects.push(allow("late", "web", "late"));
        }
        let mut policies = std::collections::BTreeMap::new();
        for op in ops {
            match op {
                Op::Policy(name, label) => {
                    let labels = ["guest", "visitor", "late"];
                    let (to, from) = (labels[usize::from(*label % 2)], labels[usize::from(*label)]);
                    policies.insert(*name, allow(&format!("policy{name}"), to, from));
                }
                Op::NoPolicy(name) => drop(policies.remove(name)),
                Op::Restart => policies.clear(),
                _ => {}
            }
        }
        objects.extend(policies.into_values());
        objects
    }
}
