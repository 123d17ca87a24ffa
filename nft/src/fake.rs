//! A table without a kernel: [`Fake`] applies transactions to a [`Ruleset`], and refuses what the kernel refuses.
//!
//! [`Faults`] make it fail like a kernel short of memory, or one whose answers get lost.
//!
//! It keeps count of who uses which chain and set, as the kernel does, so a command that comes too early or too late fails here too.

mod faults;

use std::collections::{BTreeMap, HashMap, HashSet};

use thiserror::Error as ThisError;

use crate::check::{self, Content, Declared};
use crate::executor::{Executor, Reason, Refused};
use crate::keys::{self, Bytes};
use crate::model::{
    Chain, Command, CounterMap, Key, KeyType, Map, Rule, Ruleset, Set, Statement, Transaction, Verdict, VerdictMap,
};

/// How many chains may be entered one from another below a base chain.
const DEPTH_MAX: usize = 15;

pub use faults::{Fault, Faults};

/// A table held in memory.
#[derive(Debug, Clone, Default)]
pub struct Fake {
    table: Option<Ruleset>,
    faults: Faults,
    /// Whether the table must be read before the next transaction.
    stale: bool,
}

/// Why the fake did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, ThisError)]
pub enum Error {
    /// A command was refused; nothing has changed.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The table must be read first; nothing has changed.
    #[error("the table was changed by somebody else since it was read; it must be read again")]
    Stale,
    /// The transaction did not go out; nothing has changed.
    #[error("cannot send the batch: {}", std::io::Error::from_raw_os_error(*.0))]
    Unsent(i32),
    /// Whether it took effect is unknown: the table must be read first.
    #[error("no reply: {}; whether the change took effect must be read back", std::io::Error::from_raw_os_error(*.0))]
    NoAnswer(i32),
}

impl Fake {
    /// An executor whose table does not exist yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An executor with this table.
    #[must_use]
    pub fn with(ruleset: Ruleset) -> Self {
        Self { table: Some(ruleset), ..Self::default() }
    }

    /// What goes wrong from now on.
    pub fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
    }

    /// The table.
    #[must_use]
    pub fn ruleset(&self) -> Option<&Ruleset> {
        self.table.as_ref()
    }
}

impl Executor for Fake {
    type Error = Error;

    fn apply(&mut self, transaction: &Transaction) -> Result<(), Error> {
        if self.stale {
            return Err(Error::Stale);
        }
        let Some(fault) = self.faults.next_transaction() else { return Ok(self.run(transaction)?) };
        if fault.takes_effect() {
            self.run(transaction)?;
        }
        let what = transaction.commands.first().map_or_else(|| "to adopt the table".to_owned(), check::short);
        let error = fault.error(what);
        self.stale = matches!(error, Error::Stale | Error::NoAnswer(_));
        Err(error)
    }

    fn read(&mut self) -> Result<Option<Ruleset>, Error> {
        if let Some(fault) = self.faults.next_read() {
            return Err(fault.error("to read the table".into()));
        }
        self.stale = false;
        Ok(self.table.clone())
    }
}

impl Fake {
    /// Applies a transaction as if nothing could go wrong on the way.
    ///
    /// # Errors
    /// [`Refused`], where the kernel would refuse it.
    pub fn run(&mut self, transaction: &Transaction) -> Result<(), Refused> {
        let mut batch = Batch::new(self.table.clone());
        let refused = |command: usize, reason: Reason| Refused {
            command,
            what: check::short(&transaction.commands[command]),
            reason,
        };
        for (index, command) in transaction.commands.iter().enumerate() {
            batch.run(command).map_err(|reason| refused(index, reason))?;
        }
        if let Some(reason) = batch.table.as_ref().and_then(invalid) {
            return Err(refused(first_invalid(self.table.clone(), transaction), reason));
        }
        self.table = batch.table;
        Ok(())
    }
}

/// Why the kernel would not take a table as a whole.
fn invalid(table: &Ruleset) -> Option<Reason> {
    let deep = too_deep(table).map(|_| Reason::TooDeep);
    deep.or_else(|| misplaced(table).map(|_| Reason::NotSupported))
}

/// The command after which the table is first [`invalid`]. The kernel finds it the same way: it validates once at the end, and when that
/// fails it goes through the batch again and validates after each command.
fn first_invalid(table: Option<Ruleset>, transaction: &Transaction) -> usize {
    let mut batch = Batch::new(table);
    transaction
        .commands
        .iter()
        .position(|command| {
            batch.run(command).is_err()
                || matches!(command, Command::AddRule { .. } | Command::AddMapElements { .. })
                    && batch.table.as_ref().and_then(invalid).is_some()
        })
        .unwrap_or_default()
}

/// A table while commands run on it, with counts of users.
struct Batch {
    table: Option<Ruleset>,
    chain_users: HashMap<String, usize>,
    set_users: HashMap<String, usize>,
    counter_users: HashMap<String, usize>,
    /// What the elements of the interval sets that were touched cover, to see overlaps.
    intervals: HashMap<String, Intervals>,
}

/// Last key by first key.
type Intervals = BTreeMap<Bytes, Bytes>;

impl Batch {
    fn new(table: Option<Ruleset>) -> Self {
        let mut batch = Self {
            table: None,
            chain_users: HashMap::new(),
            set_users: HashMap::new(),
            counter_users: HashMap::new(),
            intervals: HashMap::new(),
        };
        if let Some(table) = &table {
            for rule in table.chains.values().flat_map(|chain| &chain.rules) {
                batch.count_rule(rule, true);
            }
            for verdict in table.maps.values().flat_map(|map| map.elements.values()) {
                batch.count_verdict(verdict, true);
            }
            for counter in table.counter_maps.values().flat_map(|map| map.elements.values()) {
                count(&mut batch.counter_users, counter, true);
            }
        }
        batch.table = table;
        batch
    }

    fn table(&mut self) -> Result<&mut Ruleset, Reason> {
        self.table.as_mut().ok_or(Reason::NotFound)
    }

    fn run(&mut self, command: &Command) -> Result<(), Reason> {
        let declared = self.declared(command);
        check::command(command, |name| declared.iter().find(|(n, _)| *n == name).map(|(_, d)| d))
            .map_err(Reason::Invalid)?;
        match command {
            Command::AddTable => {
                self.table.get_or_insert_default();
            }
            Command::DeleteTable => {
                self.table()?;
                *self = Self::new(None);
            }
            Command::AddChain { chain, hook } => {
                let table = self.table()?;
                if table.chains.contains_key(chain) {
                    return Err(Reason::Exists);
                }
                table.chains.insert(chain.clone(), Chain { hook: *hook, rules: Vec::new() });
            }
            Command::DeleteChain { chain } => {
                let used = self.chain_users.get(chain).is_some_and(|users| *users > 0);
                let table = self.table()?;
                let existing = table.chains.get(chain).ok_or(Reason::NotFound)?;
                if used || !existing.rules.is_empty() {
                    return Err(Reason::Busy);
                }
                table.chains.remove(chain);
            }
            Command::FlushChain { chain } => {
                let existing = self.table()?.chains.get_mut(chain).ok_or(Reason::NotFound)?;
                for rule in std::mem::take(&mut existing.rules) {
                    self.count_rule(&rule, false);
                }
            }
            Command::AddRule { chain, rule } => self.add_rule(chain, rule)?,
            Command::AddCounter { counter, comment } => {
                let table = self.table()?;
                if table.counters.contains_key(counter) {
                    return Err(Reason::Exists);
                }
                table.counters.insert(counter.clone(), comment.clone());
            }
            Command::DeleteCounter { counter } => {
                if self.counter_users.get(counter).is_some_and(|users| *users > 0) {
                    return Err(Reason::Busy);
                }
                self.table()?.counters.remove(counter).ok_or(Reason::NotFound)?;
            }
            Command::AddSet { set, key, interval, comment } => {
                self.free_name(set)?;
                let new = Set {
                    key: key.clone(),
                    interval: *interval,
                    comment: comment.clone(),
                    elements: std::collections::BTreeSet::new(),
                };
                self.table()?.sets.insert(set.clone(), new);
            }
            Command::AddMap { map, key, interval, comment } => {
                self.free_name(map)?;
                self.table()?.maps.insert(map.clone(), without_elements(key, *interval, comment.as_ref()));
            }
            Command::AddCounterMap { map, key, interval, comment } => {
                self.free_name(map)?;
                self.table()?.counter_maps.insert(map.clone(), without_elements(key, *interval, comment.as_ref()));
            }
            Command::DeleteSet { set } => {
                self.unused(set)?;
                self.table()?.sets.remove(set).ok_or(Reason::NotFound)?;
                self.intervals.remove(set);
            }
            Command::DeleteMap { map } => {
                self.unused(map)?;
                let gone = self.table()?.maps.remove(map).ok_or(Reason::NotFound)?;
                self.intervals.remove(map);
                for verdict in gone.elements.values() {
                    self.count_verdict(verdict, false);
                }
            }
            Command::DeleteCounterMap { map } => {
                self.unused(map)?;
                let gone = self.table()?.counter_maps.remove(map).ok_or(Reason::NotFound)?;
                self.intervals.remove(map);
                for counter in gone.elements.values() {
                    count(&mut self.counter_users, counter, false);
                }
            }
            Command::AddElements { set, elements } => {
                for key in elements {
                    self.claim_interval(set, key)?;
                    if !self.set(set)?.elements.insert(key.clone()) {
                        return Err(Reason::Exists);
                    }
                }
            }
            Command::DeleteElements { set, elements } => {
                for key in elements {
                    if !self.set(set)?.elements.remove(key) {
                        return Err(Reason::NotFound);
                    }
                    self.release_interval(set, key);
                }
            }
            Command::AddMapElements { map, elements } => {
                for (key, verdict) in elements {
                    self.target(verdict)?;
                    if self.map(map)?.elements.contains_key(key) {
                        return Err(Reason::Exists);
                    }
                    self.claim_interval(map, key)?;
                    self.map(map)?.elements.insert(key.clone(), verdict.clone());
                    self.count_verdict(verdict, true);
                }
            }
            Command::DeleteMapElements { map, elements } => {
                for (key, _) in elements {
                    let verdict = self.map(map)?.elements.remove(key).ok_or(Reason::NotFound)?;
                    self.count_verdict(&verdict, false);
                    self.release_interval(map, key);
                }
            }
            Command::AddCounterElements { map, elements } => {
                for (key, counter) in elements {
                    if !self.table()?.counters.contains_key(counter) {
                        return Err(Reason::NotFound);
                    }
                    if self.counter_map(map)?.elements.contains_key(key) {
                        return Err(Reason::Exists);
                    }
                    self.claim_interval(map, key)?;
                    self.counter_map(map)?.elements.insert(key.clone(), counter.clone());
                    count(&mut self.counter_users, counter, true);
                }
            }
            Command::DeleteCounterElements { map, elements } => {
                for (key, _) in elements {
                    let counter = self.counter_map(map)?.elements.remove(key).ok_or(Reason::NotFound)?;
                    count(&mut self.counter_users, &counter, false);
                    self.release_interval(map, key);
                }
            }
        }
        Ok(())
    }

    /// What is known of the sets and maps that a command names.
    fn declared<'a>(&self, command: &'a Command) -> Vec<(&'a str, Declared)> {
        let Some(table) = &self.table else { return Vec::new() };
        let find = |name: &'a str| {
            let set = table.sets.get(name).map(|set| (&set.key, set.interval, Content::Keys));
            let map = || table.maps.get(name).map(|map| (&map.key, map.interval, Content::Verdicts));
            let counters = || table.counter_maps.get(name).map(|map| (&map.key, map.interval, Content::Counters));
            let (key, interval, content) = set.or_else(map).or_else(counters)?;
            Some((name, Declared { key: key.clone(), interval, content }))
        };
        check::names(command).into_iter().filter_map(find).collect()
    }

    fn add_rule(&mut self, chain: &str, rule: &Rule) -> Result<(), Reason> {
        if !self.table()?.chains.contains_key(chain) {
            return Err(Reason::NotFound);
        }
        for name in check::sets_of(rule) {
            let table = self.table()?;
            if !has_set(table, name) {
                return Err(Reason::NotFound);
            }
        }
        for name in check::counters_of(rule) {
            if !self.table()?.counters.contains_key(name) {
                return Err(Reason::NotFound);
            }
        }
        for statement in &rule.statements {
            if let Statement::Verdict(verdict) = statement {
                self.target(verdict)?;
            }
        }
        self.count_rule(rule, true);
        let existing = self.table()?.chains.get_mut(chain).ok_or(Reason::NotFound)?;
        existing.rules.push(rule.clone());
        Ok(())
    }

    fn set(&mut self, name: &str) -> Result<&mut Set, Reason> {
        self.table()?.sets.get_mut(name).ok_or(Reason::NotFound)
    }

    fn map(&mut self, name: &str) -> Result<&mut VerdictMap, Reason> {
        self.table()?.maps.get_mut(name).ok_or(Reason::NotFound)
    }

    fn counter_map(&mut self, name: &str) -> Result<&mut CounterMap, Reason> {
        self.table()?.counter_maps.get_mut(name).ok_or(Reason::NotFound)
    }

    /// Sets and maps of either kind share one space of names.
    fn free_name(&mut self, name: &str) -> Result<(), Reason> {
        let table = self.table()?;
        if has_set(table, name) { Err(Reason::Exists) } else { Ok(()) }
    }

    fn unused(&self, set: &str) -> Result<(), Reason> {
        if self.set_users.get(set).is_some_and(|users| *users > 0) { Err(Reason::Busy) } else { Ok(()) }
    }

    /// A verdict's chain must be there, and not be a base chain.
    fn target(&mut self, verdict: &Verdict) -> Result<(), Reason> {
        let (Verdict::Jump(chain) | Verdict::Goto(chain)) = verdict else { return Ok(()) };
        match self.table()?.chains.get(chain) {
            None => Err(Reason::NotFound),
            Some(chain) if chain.hook.is_some() => Err(Reason::NotSupported),
            Some(_) => Ok(()),
        }
    }

    /// Enters an element's interval, unless it overlaps another's.
    fn claim_interval(&mut self, name: &str, key: &Key) -> Result<(), Reason> {
        let Some(intervals) = self.intervals_of(name)? else { return Ok(()) };
        let (types, ranges) = intervals;
        let (first, last) = keys::encode(&types, true, key).map_err(Reason::Invalid)?;
        let overlaps = if types.len() == 1 {
            ranges.range(..=last).next_back().is_some_and(|(_, end)| *end >= first)
        } else {
            ranges
                .iter()
                .any(|(other_first, other_last)| boxes_meet(&types, (&first, &last), (other_first, other_last)))
        };
        if overlaps {
            return Err(Reason::Exists);
        }
        ranges.insert(first, last);
        Ok(())
    }

    fn release_interval(&mut self, name: &str, key: &Key) {
        if let Ok(Some((types, ranges))) = self.intervals_of(name)
            && let Ok((first, _)) = keys::encode(&types, true, key)
        {
            ranges.remove(&first);
        }
    }

    /// The intervals of a set or map, computed when first asked for; `None` if its elements are no intervals.
    fn intervals_of(&mut self, name: &str) -> Result<Option<(Vec<KeyType>, &mut Intervals)>, Reason> {
        let table = self.table.as_ref().ok_or(Reason::NotFound)?;
        let (types, interval) = match (table.sets.get(name), table.maps.get(name), table.counter_maps.get(name)) {
            (Some(set), ..) => (set.key.clone(), set.interval),
            (None, Some(map), _) => (map.key.clone(), map.interval),
            (None, None, Some(map)) => (map.key.clone(), map.interval),
            (None, None, None) => return Err(Reason::NotFound),
        };
        if !interval {
            return Ok(None);
        }
        let ranges = self.intervals.entry(name.to_owned()).or_insert_with(|| {
            let sets = table.sets.get(name).into_iter().flat_map(|set| &set.elements);
            let maps = table.maps.get(name).into_iter().flat_map(|map| map.elements.keys());
            let counters = table.counter_maps.get(name).into_iter().flat_map(|map| map.elements.keys());
            sets.chain(maps).chain(counters).filter_map(|key| keys::encode(&types, true, key).ok()).collect()
        });
        Ok(Some((types, ranges)))
    }

    fn count_rule(&mut self, rule: &Rule, up: bool) {
        for name in check::sets_of(rule) {
            count(&mut self.set_users, name, up);
        }
        for name in check::counters_of(rule) {
            count(&mut self.counter_users, name, up);
        }
        for statement in &rule.statements {
            if let Statement::Verdict(verdict) = statement {
                self.count_verdict(verdict, up);
            }
        }
    }

    fn count_verdict(&mut self, verdict: &Verdict, up: bool) {
        if let Verdict::Jump(chain) | Verdict::Goto(chain) = verdict {
            count(&mut self.chain_users, chain, up);
        }
    }
}

fn has_set(table: &Ruleset, name: &str) -> bool {
    table.sets.contains_key(name) || table.maps.contains_key(name) || table.counter_maps.contains_key(name)
}

fn without_elements<V>(key: &[KeyType], interval: bool, comment: Option<&String>) -> Map<V> {
    Map { key: key.to_vec(), interval, comment: comment.cloned(), elements: BTreeMap::new() }
}

fn count(users: &mut HashMap<String, usize>, name: &str, up: bool) {
    match (users.get_mut(name), up) {
        (Some(count), true) => *count += 1,
        (Some(count), false) => *count = count.saturating_sub(1),
        (None, true) => drop(users.insert(name.to_owned(), 1)),
        (None, false) => {}
    }
}

/// Whether two boxes of a concatenation have a key in common.
fn boxes_meet(types: &[KeyType], a: (&Bytes, &Bytes), b: (&Bytes, &Bytes)) -> bool {
    let mut start = 0;
    types.iter().all(|kind| {
        let field = start..start + kind.size().next_multiple_of(4);
        start = field.end;
        a.0.as_slice()[field.clone()] <= b.1.as_slice()[field.clone()]
            && b.0.as_slice()[field.clone()] <= a.1.as_slice()[field]
    })
}

/// A chain from which chains lead into a loop, or deeper than the kernel's limit, if a base chain leads there.
pub(crate) fn too_deep(table: &Ruleset) -> Option<String> {
    // The depth below each chain, by name; a chain that is being visited leads into itself.
    type Known<'a> = HashMap<&'a str, Option<usize>>;
    fn depth<'a>(table: &'a Ruleset, name: &'a str, level: usize, known: &mut Known<'a>) -> Option<usize> {
        if level > DEPTH_MAX {
            return None;
        }
        if let Some(found) = known.get(name) {
            return *found;
        }
        known.insert(name, None);
        let mut deepest = 0;
        for target in table.chains.get(name).into_iter().flat_map(|chain| targets(table, chain)) {
            deepest = deepest.max(1 + depth(table, target, level + 1, known)?);
            if deepest > DEPTH_MAX {
                return None;
            }
        }
        known.insert(name, Some(deepest));
        Some(deepest)
    }
    let mut known = HashMap::new();
    let mut bases = table.chains.iter().filter(|(_, chain)| chain.hook.is_some());
    bases.find(|(name, _)| depth(table, name, 0, &mut known).is_none()).map(|(name, _)| name.clone())
}

/// A base chain that leads to a translation or rejection that has no place at its hook. Chains must not lead into a loop.
pub(crate) fn misplaced(table: &Ruleset) -> Option<String> {
    // Most tables have none, wherever.
    let delicate = |rule: &Rule| {
        let last = rule.statements.last();
        last.is_some_and(|s| matches!(s, Statement::Masquerade { .. } | Statement::Snat { .. } | Statement::Reject(_)))
    };
    if !table.chains.values().flat_map(|chain| &chain.rules).any(delicate) {
        return None;
    }
    let misplaced = |(name, chain): (&String, &Chain)| {
        let hook = chain.hook?;
        let mut met: HashSet<&str> = HashSet::from([name.as_str()]);
        let mut todo = vec![chain];
        while let Some(chain) = todo.pop() {
            if chain.rules.iter().flat_map(|rule| &rule.statements).any(|statement| !check::takes(hook, statement)) {
                return Some(name.clone());
            }
            todo.extend(targets(table, chain).filter(|target| met.insert(target)).filter_map(|n| table.chains.get(n)));
        }
        None
    };
    table.chains.iter().find_map(misplaced)
}

/// Chains that a chain leads to, by its rules and the maps they use.
fn targets<'a>(table: &'a Ruleset, chain: &'a Chain) -> impl Iterator<Item = &'a str> {
    let direct = chain.rules.iter().flat_map(|rule| &rule.statements).filter_map(|statement| match statement {
        Statement::Verdict(verdict) => Some(verdict),
        _ => None,
    });
    let mapped = chain
        .rules
        .iter()
        .flat_map(|rule| &rule.statements)
        .filter_map(|statement| match statement {
            Statement::Vmap { map, .. } => table.maps.get(map),
            _ => None,
        })
        .flat_map(|map| map.elements.values());
    direct.chain(mapped).filter_map(|verdict| match verdict {
        Verdict::Jump(chain) | Verdict::Goto(chain) => Some(chain.as_str()),
        _ => None,
    })
}
