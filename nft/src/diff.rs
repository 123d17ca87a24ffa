//! From what is to what is wanted, in one transaction that the kernel takes.
//!
//! Users go before what they use, and come after it:
//! 1. chains whose rules change are flushed, changed or unwanted elements leave their maps and sets;
//! 2. maps and sets that are unwanted, or of another shape, are deleted, and so are chains that change their hook;
//! 3. new sets, maps and chains are made, and filled: elements of sets, of maps, then rules. Maps are filled before a rule binds
//!    them, when their elements cost the kernel no validation;
//! 4. chains that nobody wants are deleted, last, so that an executor for a kernel before 6.2 can cut the transaction there: such a
//!    kernel cannot delete a chain in the batch that deletes a map element leading to it.
//!
//! Packets see either all of it or nothing, whatever the order.

use std::collections::{BTreeMap, BTreeSet};

use crate::check;
use crate::model::{Chain, Command, Key, Map, Rule, Ruleset, Set, Transaction};

impl Ruleset {
    /// The smallest transaction that makes this ruleset `want`. Empty if they are equal.
    ///
    /// A chain whose rules differ is flushed and written anew. A set or map whose key, interval flag or comment differs is replaced,
    /// and so are the rules of chains that use it. So is a counter whose comment differs, with what counts in it.
    #[must_use]
    pub fn diff(&self, want: &Ruleset) -> Transaction {
        let mut commands = Vec::new();
        if self.is_empty() && !want.is_empty() {
            commands.push(Command::AddTable);
        }
        let replaced = self.replaced(want);
        let rewritten: BTreeSet<&str> = self
            .chains
            .iter()
            .filter(|(name, chain)| {
                want.chains.get(*name).is_none_or(|wanted| {
                    wanted.rules != chain.rules || wanted.hook != chain.hook || replaced.used_by(wanted)
                })
            })
            .map(|(name, _)| name.as_str())
            .collect();

        self.flush(&rewritten, &mut commands);
        self.delete_elements(want, &replaced, &mut commands);
        self.delete_objects(want, &mut commands);
        self.add_objects(want, &mut commands);
        self.add_elements(want, &replaced, &mut commands);
        self.add_rules(want, &rewritten, &mut commands);
        for name in self.chains.keys().filter(|name| !want.chains.contains_key(*name)) {
            commands.push(Command::DeleteChain { chain: name.clone() });
        }
        Transaction { commands }
    }

    /// What must be deleted although something of its name is wanted.
    fn replaced<'a>(&'a self, want: &Ruleset) -> Replaced<'a> {
        // A name is wanted again if it is wanted for any of the three kinds, and stays only if that is the same.
        let again = |name: &String| {
            want.sets.contains_key(name) || want.maps.contains_key(name) || want.counter_maps.contains_key(name)
        };
        let sets = self.sets.iter().filter(|(name, set)| !want.sets.get(*name).is_some_and(|w| same_set(set, w)));
        let maps = self.maps.iter().filter(|(name, map)| !want.maps.get(*name).is_some_and(|w| same_map(map, w)));
        let counter_maps = self
            .counter_maps
            .iter()
            .filter(|(name, map)| !want.counter_maps.get(*name).is_some_and(|w| same_map(map, w)));
        let counters = self
            .counters
            .iter()
            .filter(|(name, comment)| want.counters.get(*name).is_some_and(|wanted| wanted != *comment));
        let names =
            sets.map(|(name, _)| name).chain(maps.map(|(name, _)| name)).chain(counter_maps.map(|(name, _)| name));
        Replaced {
            sets: names.filter(|name| again(name)).map(String::as_str).collect(),
            counters: counters.map(|(name, _)| name.as_str()).collect(),
        }
    }

    fn flush(&self, rewritten: &BTreeSet<&str>, commands: &mut Vec<Command>) {
        for (name, chain) in &self.chains {
            if rewritten.contains(name.as_str()) && !chain.rules.is_empty() {
                commands.push(Command::FlushChain { chain: name.clone() });
            }
        }
    }

    fn delete_elements(&self, want: &Ruleset, replaced: &Replaced<'_>, commands: &mut Vec<Command>) {
        for (name, set) in &self.sets {
            let Some(wanted) = want.sets.get(name).filter(|wanted| same_set(set, wanted)) else { continue };
            let elements: Vec<_> = set.elements.difference(&wanted.elements).cloned().collect();
            if !elements.is_empty() {
                commands.push(Command::DeleteElements { set: name.clone(), elements });
            }
        }
        for (name, map) in &self.maps {
            let Some(wanted) = want.maps.get(name).filter(|wanted| same_map(map, wanted)) else { continue };
            let elements = surplus(&map.elements, Some(&wanted.elements), |_| false);
            if !elements.is_empty() {
                commands.push(Command::DeleteMapElements { map: name.clone(), elements });
            }
        }
        for (name, map) in &self.counter_maps {
            let Some(wanted) = want.counter_maps.get(name).filter(|wanted| same_map(map, wanted)) else { continue };
            let elements = surplus(&map.elements, Some(&wanted.elements), |counter| replaced.has_counter(counter));
            if !elements.is_empty() {
                commands.push(Command::DeleteCounterElements { map: name.clone(), elements });
            }
        }
    }

    fn delete_objects(&self, want: &Ruleset, commands: &mut Vec<Command>) {
        for (name, map) in &self.maps {
            if want.maps.get(name).is_none_or(|wanted| !same_map(map, wanted)) {
                commands.push(Command::DeleteMap { map: name.clone() });
            }
        }
        for (name, map) in &self.counter_maps {
            if want.counter_maps.get(name).is_none_or(|wanted| !same_map(map, wanted)) {
                commands.push(Command::DeleteCounterMap { map: name.clone() });
            }
        }
        for (name, set) in &self.sets {
            if want.sets.get(name).is_none_or(|wanted| !same_set(set, wanted)) {
                commands.push(Command::DeleteSet { set: name.clone() });
            }
        }
        // After the maps, which lead to them.
        for (counter, comment) in &self.counters {
            if want.counters.get(counter).is_none_or(|wanted| wanted != comment) {
                commands.push(Command::DeleteCounter { counter: counter.clone() });
            }
        }
        for (name, chain) in &self.chains {
            if want.chains.get(name).is_some_and(|wanted| wanted.hook != chain.hook) {
                commands.push(Command::DeleteChain { chain: name.clone() });
            }
        }
    }

    fn add_objects(&self, want: &Ruleset, commands: &mut Vec<Command>) {
        for (counter, comment) in &want.counters {
            if self.counters.get(counter).is_none_or(|existing| existing != comment) {
                commands.push(Command::AddCounter { counter: counter.clone(), comment: comment.clone() });
            }
        }
        for (name, set) in &want.sets {
            if self.sets.get(name).is_none_or(|existing| !same_set(existing, set)) {
                commands.push(Command::AddSet {
                    set: name.clone(),
                    key: set.key.clone(),
                    interval: set.interval,
                    comment: set.comment.clone(),
                });
            }
        }
        for (name, map) in &want.maps {
            if self.maps.get(name).is_none_or(|existing| !same_map(existing, map)) {
                commands.push(Command::AddMap {
                    map: name.clone(),
                    key: map.key.clone(),
                    interval: map.interval,
                    comment: map.comment.clone(),
                });
            }
        }
        for (name, map) in &want.counter_maps {
            if self.counter_maps.get(name).is_none_or(|existing| !same_map(existing, map)) {
                commands.push(Command::AddCounterMap {
                    map: name.clone(),
                    key: map.key.clone(),
                    interval: map.interval,
                    comment: map.comment.clone(),
                });
            }
        }
        for (name, chain) in &want.chains {
            if self.chains.get(name).is_none_or(|existing| existing.hook != chain.hook) {
                commands.push(Command::AddChain { chain: name.clone(), hook: chain.hook });
            }
        }
    }

    fn add_elements(&self, want: &Ruleset, replaced: &Replaced<'_>, commands: &mut Vec<Command>) {
        for (name, set) in &want.sets {
            let elements: Vec<_> = match self.sets.get(name).filter(|existing| same_set(existing, set)) {
                Some(existing) => set.elements.difference(&existing.elements).cloned().collect(),
                None => set.elements.iter().cloned().collect(),
            };
            if !elements.is_empty() {
                commands.push(Command::AddElements { set: name.clone(), elements });
            }
        }
        for (name, map) in &want.maps {
            let existing = self.maps.get(name).filter(|existing| same_map(existing, map));
            let elements = surplus(&map.elements, existing.map(|existing| &existing.elements), |_| false);
            if !elements.is_empty() {
                commands.push(Command::AddMapElements { map: name.clone(), elements });
            }
        }
        for (name, map) in &want.counter_maps {
            let existing = self.counter_maps.get(name).filter(|existing| same_map(existing, map));
            let existing = existing.map(|existing| &existing.elements);
            let elements = surplus(&map.elements, existing, |counter| replaced.has_counter(counter));
            if !elements.is_empty() {
                commands.push(Command::AddCounterElements { map: name.clone(), elements });
            }
        }
    }

    fn add_rules(&self, want: &Ruleset, rewritten: &BTreeSet<&str>, commands: &mut Vec<Command>) {
        for (name, chain) in &want.chains {
            if rewritten.contains(name.as_str()) || !self.chains.contains_key(name) {
                commands.extend(
                    chain.rules.iter().map(|rule| Command::AddRule { chain: name.clone(), rule: rule.clone() }),
                );
            }
        }
    }
}

fn same_set(a: &Set, b: &Set) -> bool {
    a.key == b.key && a.interval == b.interval && a.comment == b.comment
}

fn same_map<V>(a: &Map<V>, b: &Map<V>) -> bool {
    a.key == b.key && a.interval == b.interval && a.comment == b.comment
}

/// The elements of a map that another has not, or has with something else; and those whose value is made anew.
fn surplus<V: Clone + PartialEq>(
    elements: &BTreeMap<Key, V>,
    other: Option<&BTreeMap<Key, V>>,
    anew: impl Fn(&V) -> bool,
) -> Vec<(Key, V)> {
    let differs = |key: &Key, value: &V| other.and_then(|other| other.get(key)) != Some(value) || anew(value);
    let surplus = elements.iter().filter(|(key, value)| differs(key, value));
    surplus.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Objects of which another of the same name takes the place, and which no rule may use at that moment.
struct Replaced<'a> {
    /// Sets and maps of either kind.
    sets: BTreeSet<&'a str>,
    counters: BTreeSet<&'a str>,
}

impl Replaced<'_> {
    fn used_by(&self, chain: &Chain) -> bool {
        let nothing = self.sets.is_empty() && self.counters.is_empty();
        !nothing && chain.rules.iter().any(|rule| self.used_by_rule(rule))
    }

    fn has_counter(&self, counter: &str) -> bool {
        self.counters.contains(counter)
    }

    fn used_by_rule(&self, rule: &Rule) -> bool {
        check::sets_of(rule).any(|set| self.sets.contains(set))
            || check::counters_of(rule).any(|counter| self.counters.contains(counter))
    }
}
