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

use std::collections::BTreeSet;

use crate::check;
use crate::model::{Chain, Command, Rule, Ruleset, Set, Transaction, VerdictMap};

impl Ruleset {
    /// The smallest transaction that makes this ruleset `want`. Empty if they are equal.
    ///
    /// A chain whose rules differ is flushed and written anew. A set or map whose key, interval flag or comment differs is replaced,
    /// and so are the rules of chains that use it.
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
        self.delete_elements(want, &mut commands);
        self.delete_objects(want, &mut commands);
        self.add_objects(want, &mut commands);
        self.add_elements(want, &mut commands);
        self.add_rules(want, &rewritten, &mut commands);
        for name in self.chains.keys().filter(|name| !want.chains.contains_key(*name)) {
            commands.push(Command::DeleteChain { chain: name.clone() });
        }
        Transaction { commands }
    }

    /// What must be deleted although something of its name is wanted.
    fn replaced<'a>(&'a self, want: &Ruleset) -> Replaced<'a> {
        let sets = self.sets.iter().filter(|(name, set)| {
            want.maps.contains_key(*name) || want.sets.get(*name).is_some_and(|wanted| !same_set(set, wanted))
        });
        let maps = self.maps.iter().filter(|(name, map)| {
            want.sets.contains_key(*name) || want.maps.get(*name).is_some_and(|wanted| !same_map(map, wanted))
        });
        let counters = self
            .counters
            .iter()
            .filter(|(name, comment)| want.counters.get(*name).is_some_and(|wanted| wanted != *comment));
        let sets = sets.map(|(name, _)| name.as_str());
        let maps = maps.map(|(name, _)| name.as_str());
        Replaced { sets: sets.chain(maps).collect(), counters: counters.map(|(name, _)| name.as_str()).collect() }
    }

    fn flush(&self, rewritten: &BTreeSet<&str>, commands: &mut Vec<Command>) {
        for (name, chain) in &self.chains {
            if rewritten.contains(name.as_str()) && !chain.rules.is_empty() {
                commands.push(Command::FlushChain { chain: name.clone() });
            }
        }
    }

    fn delete_elements(&self, want: &Ruleset, commands: &mut Vec<Command>) {
        for (name, set) in &self.sets {
            let Some(wanted) = want.sets.get(name).filter(|wanted| same_set(set, wanted)) else { continue };
            let elements: Vec<_> = set.elements.difference(&wanted.elements).cloned().collect();
            if !elements.is_empty() {
                commands.push(Command::DeleteElements { set: name.clone(), elements });
            }
        }
        for (name, map) in &self.maps {
            let Some(wanted) = want.maps.get(name).filter(|wanted| same_map(map, wanted)) else { continue };
            let elements: Vec<_> = map
                .elements
                .iter()
                .filter(|(key, verdict)| wanted.elements.get(*key) != Some(verdict))
                .map(|(key, verdict)| (key.clone(), verdict.clone()))
                .collect();
            if !elements.is_empty() {
                commands.push(Command::DeleteMapElements { map: name.clone(), elements });
            }
        }
    }

    fn delete_objects(&self, want: &Ruleset, commands: &mut Vec<Command>) {
        for (name, map) in &self.maps {
            if want.maps.get(name).is_none_or(|wanted| !same_map(map, wanted)) {
                commands.push(Command::DeleteMap { map: name.clone() });
            }
        }
        for (name, set) in &self.sets {
            if want.sets.get(name).is_none_or(|wanted| !same_set(set, wanted)) {
                commands.push(Command::DeleteSet { set: name.clone() });
            }
        }
        // After the maps: another version's may have led to them.
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
        for (name, chain) in &want.chains {
            if self.chains.get(name).is_none_or(|existing| existing.hook != chain.hook) {
                commands.push(Command::AddChain { chain: name.clone(), hook: chain.hook });
            }
        }
    }

    fn add_elements(&self, want: &Ruleset, commands: &mut Vec<Command>) {
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
            let elements: Vec<_> = map
                .elements
                .iter()
                .filter(|(key, verdict)| existing.and_then(|existing| existing.elements.get(*key)) != Some(verdict))
                .map(|(key, verdict)| (key.clone(), verdict.clone()))
                .collect();
            if !elements.is_empty() {
                commands.push(Command::AddMapElements { map: name.clone(), elements });
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

fn same_map(a: &VerdictMap, b: &VerdictMap) -> bool {
    a.key == b.key && a.interval == b.interval && a.comment == b.comment
}

/// Objects of which another of the same name takes the place, and which no rule may use at that moment.
struct Replaced<'a> {
    /// Sets and maps.
    sets: BTreeSet<&'a str>,
    counters: BTreeSet<&'a str>,
}

impl Replaced<'_> {
    fn used_by(&self, chain: &Chain) -> bool {
        let nothing = self.sets.is_empty() && self.counters.is_empty();
        !nothing && chain.rules.iter().any(|rule| self.used_by_rule(rule))
    }

    fn used_by_rule(&self, rule: &Rule) -> bool {
        check::sets_of(rule).any(|set| self.sets.contains(set))
            || check::counters_of(rule).any(|counter| self.counters.contains(counter))
    }
}
