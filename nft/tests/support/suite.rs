//! What every executor must do alike: one suite, run on the fake and on the kernel.

use std::fmt::Debug;
use std::net::Ipv4Addr;

use tortie_nft::{
    Command, Executor, Hook, HookPoint, Key, KeyType, Reason, RejectWith, Rule, Ruleset, Statement, Transaction, Value,
    Verdict,
};

use super::generate::{self, Random};

/// Gets at the command and reason of a refusal.
pub trait Refusal: Debug {
    fn refusal(&self) -> Option<(usize, Reason)>;
}

impl Refusal for tortie_nft::fake::Error {
    fn refusal(&self) -> Option<(usize, Reason)> {
        match self {
            Self::Refused(refused) => Some((refused.command, refused.reason.clone())),
            _ => None,
        }
    }
}

fn chain(name: &str) -> Command {
    Command::AddChain { chain: name.into(), hook: None }
}

fn base(name: &str) -> Command {
    Command::AddChain { chain: name.into(), hook: Some(Hook::filter(HookPoint::Forward, 0)) }
}

fn nat(name: &str) -> Command {
    Command::AddChain { chain: name.into(), hook: Some(Hook::nat(HookPoint::Postrouting, 100)) }
}

fn masquerade() -> Statement {
    Statement::Masquerade { ports: None, fully_random: true }
}

fn effect(chain: &str, statement: Statement) -> Command {
    Command::AddRule { chain: chain.into(), rule: Rule::new([], [statement]) }
}

/// The command of that number does something that its hook does not have.
#[allow(clippy::unnecessary_wraps)]
fn not_there(command: usize) -> Option<(usize, Reason)> {
    Some((command, Reason::NotSupported))
}

fn counter(name: &str) -> Command {
    Command::AddCounter { counter: name.into(), comment: None }
}

fn count_in(chain: &str, counter: &str) -> Command {
    effect(chain, Statement::NamedCounter(counter.into()))
}

fn rule(chain: &str, verdict: Verdict) -> Command {
    Command::AddRule { chain: chain.into(), rule: Rule::new([], [Statement::Verdict(verdict)]) }
}

fn jump(chain: &str) -> Verdict {
    Verdict::Jump(chain.into())
}

fn set(name: &str, interval: bool) -> Command {
    Command::AddSet { set: name.into(), key: vec![KeyType::Ipv4Addr], interval, comment: None }
}

fn map(name: &str) -> Command {
    Command::AddMap { map: name.into(), key: vec![KeyType::Ipv4Addr], interval: false, comment: None }
}

fn addr(last: u8) -> Key {
    vec![Value::Addr(Ipv4Addr::new(10, 0, 0, last).into())]
}

fn net(text: &str) -> Key {
    vec![Value::Net(text.parse().expect("a prefix"))]
}

fn use_set(chain: &str, set: &str) -> Command {
    let matches = [
        tortie_nft::Match::NfProto(tortie_nft::Family::V4),
        tortie_nft::Match::InSet { key: vec![tortie_nft::Field::Ip4Saddr], op: tortie_nft::Op::Eq, set: set.into() },
    ];
    Command::AddRule { chain: chain.into(), rule: Rule::new(matches, [Statement::Counter]) }
}

fn use_map(chain: &str, map: &str) -> Command {
    let key = vec![tortie_nft::Field::Ip4Saddr];
    let matches = [tortie_nft::Match::NfProto(tortie_nft::Family::V4)];
    Command::AddRule { chain: chain.into(), rule: Rule::new(matches, [Statement::Vmap { key, map: map.into() }]) }
}

fn add(set: &str, elements: &[Key]) -> Command {
    Command::AddElements { set: set.into(), elements: elements.to_vec() }
}

fn delete(set: &str, elements: &[Key]) -> Command {
    Command::DeleteElements { set: set.into(), elements: elements.to_vec() }
}

fn add_mapped(map: &str, key: Key, verdict: Verdict) -> Command {
    Command::AddMapElements { map: map.into(), elements: vec![(key, verdict)] }
}

fn counter_map(name: &str, interval: bool) -> Command {
    Command::AddCounterMap { map: name.into(), key: vec![KeyType::Ipv4Addr], interval, comment: None }
}

fn add_counted(map: &str, key: Key, counter: &str) -> Command {
    Command::AddCounterElements { map: map.into(), elements: vec![(key, counter.into())] }
}

fn delete_counted(map: &str, key: Key, counter: &str) -> Command {
    Command::DeleteCounterElements { map: map.into(), elements: vec![(key, counter.into())] }
}

fn use_counter_map(chain: &str, map: &str) -> Command {
    let key = vec![tortie_nft::Field::Ip4Saddr];
    let matches = [tortie_nft::Match::NfProto(tortie_nft::Family::V4)];
    Command::AddRule { chain: chain.into(), rule: Rule::new(matches, [Statement::CountIn { key, map: map.into() }]) }
}

fn delete_counter(counter: &str) -> Command {
    Command::DeleteCounter { counter: counter.into() }
}

fn delete_mapped(map: &str, key: Key, verdict: Verdict) -> Command {
    Command::DeleteMapElements { map: map.into(), elements: vec![(key, verdict)] }
}

/// A batch on a table made by `before`, and what must become of it.
struct Case {
    name: &'static str,
    before: Vec<Command>,
    batch: Vec<Command>,
    refused: Option<(usize, Reason)>,
}

fn cases() -> Vec<Case> {
    let case = |name, before: &[Command], batch: &[Command], refused| Case {
        name,
        before: before.to_vec(),
        batch: batch.to_vec(),
        refused,
    };
    let ladder = |depth: usize| {
        let mut commands = vec![base("b")];
        commands.extend((1..=depth).map(|i| chain(&format!("c{i}"))));
        commands.push(rule("b", jump("c1")));
        commands.extend((1..depth).map(|i| rule(&format!("c{i}"), jump(&format!("c{}", i + 1)))));
        commands
    };
    vec![
        case("a chain twice", &[chain("c")], &[chain("d"), chain("c")], Some((1, Reason::Exists))),
        case("a rule without its chain", &[], &[rule("c", Verdict::Accept)], Some((0, Reason::NotFound))),
        case("a jump to nowhere", &[chain("c")], &[rule("c", jump("d"))], Some((0, Reason::NotFound))),
        case(
            "a jump to a base chain",
            &[chain("c"), base("b")],
            &[rule("c", jump("b"))],
            Some((0, Reason::NotSupported)),
        ),
        case("a look-up in no set", &[chain("c")], &[use_set("c", "s")], Some((0, Reason::NotFound))),
        case(
            "a used chain cannot go",
            &[chain("c"), chain("d"), rule("c", jump("d"))],
            &[Command::DeleteChain { chain: "d".into() }],
            Some((0, Reason::Busy)),
        ),
        case(
            "nor can one with rules",
            &[chain("c"), rule("c", Verdict::Accept)],
            &[Command::DeleteChain { chain: "c".into() }],
            Some((0, Reason::Busy)),
        ),
        case(
            "a chain used by an element cannot go",
            &[chain("c"), map("m"), add_mapped("m", addr(1), jump("c"))],
            &[Command::DeleteChain { chain: "c".into() }],
            Some((0, Reason::Busy)),
        ),
        case(
            "but after its users it can",
            &[chain("c"), chain("d"), rule("c", jump("d")), map("m"), add_mapped("m", addr(1), jump("d"))],
            &[
                Command::FlushChain { chain: "c".into() },
                delete_mapped("m", addr(1), jump("d")),
                Command::DeleteChain { chain: "d".into() },
            ],
            None,
        ),
        case(
            "a map takes its uses of chains with it",
            &[chain("d"), map("m"), add_mapped("m", addr(1), jump("d"))],
            &[Command::DeleteMap { map: "m".into() }, Command::DeleteChain { chain: "d".into() }],
            None,
        ),
        case(
            "a used set cannot go",
            &[chain("c"), set("s", false), use_set("c", "s")],
            &[Command::DeleteSet { set: "s".into() }],
            Some((0, Reason::Busy)),
        ),
        case("a set that is not there", &[], &[Command::DeleteSet { set: "s".into() }], Some((0, Reason::NotFound))),
        case(
            "a chain that is not there",
            &[],
            &[Command::FlushChain { chain: "c".into() }],
            Some((0, Reason::NotFound)),
        ),
        case("sets and maps share names", &[set("s", false)], &[map("s")], Some((0, Reason::Exists))),
        case(
            "an element twice",
            &[set("s", false), add("s", &[addr(1)])],
            &[add("s", &[addr(1)])],
            Some((0, Reason::Exists)),
        ),
        case(
            "an element that is not there",
            &[set("s", false)],
            &[delete("s", &[addr(1)])],
            Some((0, Reason::NotFound)),
        ),
        case("an element of no set", &[], &[add("s", &[addr(1)])], Some((0, Reason::NotFound))),
        case(
            "an element with another verdict",
            &[map("m"), add_mapped("m", addr(1), Verdict::Accept)],
            &[add_mapped("m", addr(1), Verdict::Drop)],
            Some((0, Reason::Exists)),
        ),
        case(
            "a verdict changed in one batch",
            &[chain("c"), map("m"), add_mapped("m", addr(1), Verdict::Accept)],
            &[delete_mapped("m", addr(1), Verdict::Accept), add_mapped("m", addr(1), jump("c"))],
            None,
        ),
        case(
            "an element leading nowhere",
            &[map("m")],
            &[add_mapped("m", addr(1), jump("c"))],
            Some((0, Reason::NotFound)),
        ),
        case(
            "intervals that overlap",
            &[set("s", true), add("s", &[net("10.0.0.0/24")])],
            &[add("s", &[net("10.0.0.128/25")])],
            Some((0, Reason::Exists)),
        ),
        case(
            "an interval made smaller in one batch",
            &[set("s", true), add("s", &[net("10.0.0.0/24")])],
            &[delete("s", &[net("10.0.0.0/24")]), add("s", &[net("10.0.0.0/25"), net("10.0.1.0/24")])],
            None,
        ),
        case("fifteen chains deep", &[], &ladder(15), None),
        case("sixteen chains deep", &[], &ladder(16), Some((32, Reason::TooDeep))),
        case(
            "a loop",
            &[base("b"), chain("c"), chain("d"), rule("b", jump("c")), rule("c", jump("d"))],
            &[rule("d", jump("c"))],
            Some((0, Reason::TooDeep)),
        ),
        case(
            "a loop through a map",
            &[base("b"), chain("c"), map("m"), use_map("c", "m"), rule("b", jump("c"))],
            &[add_mapped("m", addr(1), jump("c"))],
            Some((0, Reason::TooDeep)),
        ),
        case(
            "an arrow turned around in one batch",
            &[base("b"), chain("c"), chain("d"), rule("b", jump("c")), rule("c", jump("d"))],
            &[
                Command::FlushChain { chain: "b".into() },
                Command::FlushChain { chain: "c".into() },
                rule("d", jump("c")),
                rule("b", jump("d")),
            ],
            None,
        ),
        case(
            "a counter used by a rule cannot go",
            &[counter("n"), chain("c"), count_in("c", "n")],
            &[Command::DeleteCounter { counter: "n".into() }],
            Some((0, Reason::Busy)),
        ),
        case(
            "but after its rule it can",
            &[counter("n"), chain("c"), count_in("c", "n")],
            &[Command::FlushChain { chain: "c".into() }, Command::DeleteCounter { counter: "n".into() }],
            None,
        ),
        case("a counter twice", &[counter("n")], &[counter("n")], Some((0, Reason::Exists))),
        case("a counter and a set of one name", &[counter("n")], &[set("n", false)], None),
        case(
            "a counter that is not there",
            &[chain("c")],
            &[Command::DeleteCounter { counter: "n".into() }],
            Some((0, Reason::NotFound)),
        ),
        case("counting in no counter", &[chain("c")], &[count_in("c", "n")], Some((0, Reason::NotFound))),
        case("counting by address", &[counter("n"), counter_map("m", false)], &[add_counted("m", addr(1), "n")], None),
        case(
            "an element of no counter",
            &[counter_map("m", false)],
            &[add_counted("m", addr(1), "n")],
            Some((0, Reason::NotFound)),
        ),
        case(
            "an element of no counter map",
            &[counter("n")],
            &[add_counted("m", addr(1), "n")],
            Some((0, Reason::NotFound)),
        ),
        case(
            "an element with another counter",
            &[counter("n"), counter("o"), counter_map("m", false), add_counted("m", addr(1), "n")],
            &[add_counted("m", addr(1), "o")],
            Some((0, Reason::Exists)),
        ),
        case(
            "a counter changed in one batch",
            &[counter("n"), counter("o"), counter_map("m", false), add_counted("m", addr(1), "n")],
            &[delete_counted("m", addr(1), "n"), add_counted("m", addr(1), "o"), delete_counter("n")],
            None,
        ),
        case(
            "a counter used by an element cannot go",
            &[counter("n"), counter_map("m", false), add_counted("m", addr(1), "n")],
            &[delete_counter("n")],
            Some((0, Reason::Busy)),
        ),
        case(
            "but after its map it can",
            &[counter("n"), counter_map("m", false), add_counted("m", addr(1), "n")],
            &[Command::DeleteCounterMap { map: "m".into() }, delete_counter("n")],
            None,
        ),
        case(
            "counted intervals that overlap",
            &[counter("n"), counter_map("m", true), add_counted("m", net("10.0.0.0/24"), "n")],
            &[add_counted("m", net("10.0.0.128/25"), "n")],
            Some((0, Reason::Exists)),
        ),
        case(
            "counted intervals beside one another",
            &[counter("n"), counter("o"), counter_map("m", true), add_counted("m", net("10.0.0.0/25"), "n")],
            &[add_counted("m", net("10.0.0.128/25"), "o"), delete_counted("m", net("10.0.0.0/25"), "n")],
            None,
        ),
        case(
            "a used counter map cannot go",
            &[chain("c"), counter_map("m", false), use_counter_map("c", "m")],
            &[Command::DeleteCounterMap { map: "m".into() }],
            Some((0, Reason::Busy)),
        ),
        case("counting in no counter map", &[chain("c")], &[use_counter_map("c", "m")], Some((0, Reason::NotFound))),
        case(
            "counter maps share the names of sets",
            &[set("s", false)],
            &[counter_map("s", false)],
            Some((0, Reason::Exists)),
        ),
        case("a translation at its place", &[nat("n")], &[effect("n", masquerade())], None),
        case("a translation where packets are filtered", &[base("b")], &[effect("b", masquerade())], not_there(0)),
        case(
            "a translation that a filter leads to",
            &[base("b"), nat("n"), chain("c"), effect("c", masquerade())],
            &[rule("n", jump("c")), rule("b", jump("c"))],
            not_there(1),
        ),
        case(
            "a rejection after routing",
            &[nat("n")],
            &[effect("n", Statement::Reject(RejectWith::AdminProhibited))],
            not_there(0),
        ),
        case(
            "a rejection on the way",
            &[base("b")],
            &[effect("b", Statement::Reject(RejectWith::AdminProhibited))],
            None,
        ),
        case("an element of another type", &[set("s", false)], &[add("s", &[vec![Value::Port(80)]])], None),
    ]
}

/// Runs the suite; `make` gives an executor whose table does not exist.
pub fn run<E>(mut make: impl FnMut() -> E)
where
    E: Executor,
    E::Error: Refusal,
{
    for case in cases() {
        let mut executor = make();
        let mut before = vec![Command::AddTable];
        before.extend(case.before);
        executor.apply(&Transaction { commands: before }).unwrap_or_else(|e| panic!("{}, before: {e}", case.name));
        let table = executor.read().expect("a table that can be read");
        let result = executor.apply(&Transaction { commands: case.batch });
        let after = executor.read().expect("a table that can be read");
        // Reasons that are a text of ours are compared by their kind.
        let result = result.map_err(|error| error.refusal().unwrap_or_else(|| panic!("{}: {error}", case.name)));
        if case.name == "an element of another type" {
            assert!(matches!(result, Err((0, Reason::Invalid(_)))), "{}: {result:?}", case.name);
            continue;
        }
        match case.refused {
            None => assert_eq!(result, Ok(()), "{}", case.name),
            Some(refused) => {
                assert_eq!(result, Err(refused), "{}", case.name);
                assert_eq!(after, table, "{}: a refused batch must change nothing", case.name);
            }
        }
    }
    let mut executor = make();
    assert_eq!(executor.read().expect("an answer"), None, "no table at first");
    executor.apply(&Transaction { commands: vec![Command::AddTable] }).expect("a table can be made");
    assert_eq!(executor.read().expect("an answer"), Some(Ruleset::default()));
    executor.apply(&Transaction { commands: vec![Command::DeleteTable] }).expect("a table can be deleted");
    assert_eq!(executor.read().expect("an answer"), None, "no table at last");
}

/// Walks from one random ruleset to the next by diffs; after each step the table must be what was wanted.
pub fn evolve<E>(executor: &mut E, seed: u64, steps: usize)
where
    E: Executor,
    E::Error: Debug,
{
    let mut random = Random(seed);
    let mut have = executor.read().expect("an answer").unwrap_or_default();
    for step in 0..steps {
        let want = generate::evolve(&mut random, &have);
        let transaction = have.diff(&want);
        if let Err(error) = executor.apply(&transaction) {
            panic!(
                "seed {seed}, step {step}: {error:?}\nbefore:\n{have}\nwanted:\n{want}\ntransaction:\n{transaction}"
            );
        }
        let read = executor.read().expect("an answer").unwrap_or_default();
        assert_eq!(read, want, "seed {seed}, step {step}: after\n{transaction}\nread:\n{read}\nwanted:\n{want}");
        assert!(read.diff(&want).commands.is_empty(), "seed {seed}, step {step}: equal rulesets need no change");
        have = read;
    }
}
