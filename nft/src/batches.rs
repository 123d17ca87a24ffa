//! A large transaction as several smaller ones, each safe by itself.
//!
//! What a transaction makes anew is out of reach until something that is there already leads to it. So it can be made in steps: first
//! new objects (counters, sets with their elements, maps with theirs, chains with their rules), as many steps as are needed; then, in
//! one step, everything that packets notice (base chains, rules of chains that are there, elements of sets and maps that are
//! there); then the removal of what is out of reach by then. Every packet thus meets the table as it was before or as it is wanted,
//! as with the transaction as a whole, and a run that ends half way leaves what nothing leads to.

use std::collections::BTreeSet;

use crate::model::{Command, Transaction};

/// What a rule weighs. The kernel takes some four times as long for one as for an element.
const RULE: usize = 4;

impl Transaction {
    /// The same transaction in steps that weigh at most `max` each, except for the one that packets notice, which is as large as it
    /// must be. An element weighs 1, a rule 4, anything else 1. A transaction that weighs no more than `max` stays as it is, and so does
    /// one that replaces an object by another of its name.
    #[must_use]
    pub fn batches(self, max: usize) -> Vec<Transaction> {
        let max = max.max(RULE);
        if self.commands.iter().map(weight).sum::<usize>() <= max {
            return vec![self];
        }
        let Some(fresh) = Fresh::of(&self.commands) else { return vec![self] };
        let steps: Vec<Step> = self.commands.iter().map(|command| fresh.step(command)).collect();
        let [mut before, mut switch, mut after] = [const { Vec::new() }; 3];
        for (command, step) in self.commands.into_iter().zip(steps) {
            match step {
                Step::Before => before.push(command),
                Step::Switch => switch.push(command),
                Step::After => after.push(command),
            }
        }
        // Chains come before rules and elements that lead to them, as they do in the transaction.
        let mut batches = cut(before, max);
        if !switch.is_empty() {
            batches.push(Transaction { commands: switch });
        }
        batches.extend(cut(after, max));
        batches
    }
}

/// When a command's turn is.
enum Step {
    Before,
    Switch,
    After,
}

/// An object by kind and name: sets and maps share their names, chains and counters have their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Object<'a> {
    Chain(&'a str),
    Set(&'a str),
    Counter(&'a str),
}

/// What a transaction makes that was not there, and takes away for good.
struct Fresh<'a> {
    /// New objects that no packet comes by.
    made: BTreeSet<Object<'a>>,
    /// Objects that go.
    gone: BTreeSet<Object<'a>>,
}

impl<'a> Fresh<'a> {
    /// `None` if an object is among both: what is made may then not be used before what it replaces is gone.
    fn of(commands: &'a [Command]) -> Option<Self> {
        let [mut made, mut bases, mut gone] = [const { BTreeSet::new() }; 3];
        for command in commands {
            match command {
                Command::AddChain { chain, hook: None } => made.insert(Object::Chain(chain)),
                Command::AddChain { chain, hook: Some(_) } => bases.insert(Object::Chain(chain)),
                Command::AddSet { set: name, .. }
                | Command::AddMap { map: name, .. }
                | Command::AddCounterMap { map: name, .. } => made.insert(Object::Set(name)),
                Command::AddCounter { counter, .. } => made.insert(Object::Counter(counter)),
                Command::DeleteChain { chain } => gone.insert(Object::Chain(chain)),
                Command::DeleteSet { set: name }
                | Command::DeleteMap { map: name }
                | Command::DeleteCounterMap { map: name } => gone.insert(Object::Set(name)),
                Command::DeleteCounter { counter } => gone.insert(Object::Counter(counter)),
                Command::DeleteTable => return None,
                _ => false,
            };
        }
        (made.is_disjoint(&gone) && bases.is_disjoint(&gone)).then_some(Self { made, gone })
    }

    fn step(&self, command: &Command) -> Step {
        let made = |object| if self.made.contains(&object) { Step::Before } else { Step::Switch };
        let gone = |object| if self.gone.contains(&object) { Step::After } else { Step::Switch };
        match command {
            Command::AddTable | Command::AddCounter { .. } => Step::Before,
            Command::AddChain { chain, .. } | Command::AddRule { chain, .. } => made(Object::Chain(chain)),
            Command::AddSet { set: name, .. }
            | Command::AddElements { set: name, .. }
            | Command::AddMap { map: name, .. }
            | Command::AddMapElements { map: name, .. }
            | Command::AddCounterMap { map: name, .. }
            | Command::AddCounterElements { map: name, .. } => made(Object::Set(name)),
            Command::FlushChain { chain } => gone(Object::Chain(chain)),
            Command::DeleteChain { .. }
            | Command::DeleteSet { .. }
            | Command::DeleteMap { .. }
            | Command::DeleteCounterMap { .. }
            | Command::DeleteCounter { .. } => Step::After,
            Command::DeleteTable
            | Command::DeleteElements { .. }
            | Command::DeleteMapElements { .. }
            | Command::DeleteCounterElements { .. } => Step::Switch,
        }
    }
}

fn weight(command: &Command) -> usize {
    match command {
        Command::AddElements { elements, .. } | Command::DeleteElements { elements, .. } => elements.len(),
        Command::AddMapElements { elements, .. } | Command::DeleteMapElements { elements, .. } => elements.len(),
        Command::AddCounterElements { elements, .. } | Command::DeleteCounterElements { elements, .. } => {
            elements.len()
        }
        Command::AddRule { .. } => RULE,
        _ => 1,
    }
}

/// Commands in order, as transactions that weigh at most `max`.
fn cut(commands: Vec<Command>, max: usize) -> Vec<Transaction> {
    let mut batches: Vec<Transaction> = Vec::new();
    let mut room = 0;
    for command in commands.into_iter().flat_map(|command| split(command, max)) {
        let weight = weight(&command);
        if weight > room || batches.is_empty() {
            batches.push(Transaction::default());
            room = max;
        }
        room -= weight.min(room);
        if let Some(batch) = batches.last_mut() {
            batch.commands.push(command);
        }
    }
    batches
}

/// A command with many elements as several.
fn split(command: Command, max: usize) -> Vec<Command> {
    match command {
        Command::AddElements { set, elements } if elements.len() > max => {
            pieces(&elements, max).map(|elements| Command::AddElements { set: set.clone(), elements }).collect()
        }
        Command::AddMapElements { map, elements } if elements.len() > max => {
            pieces(&elements, max).map(|elements| Command::AddMapElements { map: map.clone(), elements }).collect()
        }
        Command::AddCounterElements { map, elements } if elements.len() > max => {
            pieces(&elements, max).map(|elements| Command::AddCounterElements { map: map.clone(), elements }).collect()
        }
        command => vec![command],
    }
}

fn pieces<T: Clone>(elements: &[T], max: usize) -> impl Iterator<Item = Vec<T>> {
    elements.chunks(max).map(<[T]>::to_vec)
}
