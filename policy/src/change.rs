//! What a change of the table consists of, without the rest of the table.

use std::collections::{BTreeMap, BTreeSet};

use tortie_nft::{Chain, Command, Key, Map, Ruleset, Set, Transaction, Verdict};

/// The parts of two tables in which they differ. A set or map that both have is there with only the elements that the other has not.
#[derive(Debug, Clone, Default)]
pub(crate) struct Change {
    pub(crate) before: Ruleset,
    pub(crate) after: Ruleset,
}

impl Change {
    /// The transaction from the one to the other.
    pub(crate) fn transaction(&self) -> Transaction {
        let mut transaction = self.before.diff(&self.after);
        // Only these parts may have been nothing before, not the table.
        transaction.commands.retain(|command| *command != Command::AddTable);
        transaction
    }

    /// The table before the change, from the one after it.
    pub(crate) fn undo(&self, now: &Ruleset) -> Ruleset {
        let mut table = now.clone();
        table.chains.retain(|name, _| !self.after.chains.contains_key(name));
        table.chains.extend(self.before.chains.clone());
        table.counters.retain(|name, _| !self.after.counters.contains_key(name));
        table.counters.extend(self.before.counters.clone());
        for (name, set) in &self.after.sets {
            match table.sets.get_mut(name) {
                Some(stays) if self.before.sets.contains_key(name) => {
                    stays.elements.retain(|key| !set.elements.contains(key));
                }
                _ => drop(table.sets.remove(name)),
            }
        }
        for (name, set) in &self.before.sets {
            table.sets.entry(name.clone()).or_insert_with(|| shell(set)).elements.extend(set.elements.iter().cloned());
        }
        undo_maps(&mut table.maps, &self.before.maps, &self.after.maps);
        undo_maps(&mut table.counter_maps, &self.before.counter_maps, &self.after.counter_maps);
        table
    }

    /// Puts an element into a set of the table, or takes it out.
    pub(crate) fn set_element(&mut self, table: &mut Ruleset, name: &str, key: Key, present: bool) {
        let Some(set) = table.sets.get_mut(name) else { return };
        if set.elements.contains(&key) == present {
            return;
        }
        match self.after.sets.get_mut(name) {
            // The set came with this change, and so has nothing from before.
            Some(after) if !self.before.sets.contains_key(name) => {
                if present {
                    after.elements.insert(key.clone());
                } else {
                    after.elements.remove(&key);
                }
            }
            _ => {
                let before = &mut self.before.sets.entry(name.to_owned()).or_insert_with(|| shell(set)).elements;
                let after = &mut self.after.sets.entry(name.to_owned()).or_insert_with(|| shell(set)).elements;
                let (here, there) = if present { (after, before) } else { (before, after) };
                // What came and went within one change never was.
                if !there.remove(&key) {
                    here.insert(key.clone());
                }
            }
        }
        if present {
            set.elements.insert(key);
        } else {
            set.elements.remove(&key);
        }
    }

    /// Gives an element of a verdict map of the table a verdict, or none.
    pub(crate) fn map_element(&mut self, table: &mut Ruleset, name: &str, key: &Key, verdict: Option<Verdict>) {
        element(&mut table.maps, &mut self.before.maps, &mut self.after.maps, name, key, verdict);
    }

    /// Gives an element of a counter map of the table a counter, or none.
    pub(crate) fn counter_element(&mut self, table: &mut Ruleset, name: &str, key: &Key, counter: Option<String>) {
        let (before, after) = (&mut self.before.counter_maps, &mut self.after.counter_maps);
        element(&mut table.counter_maps, before, after, name, key, counter);
    }

    /// Makes a chain of the table this, whether it is there or not.
    pub(crate) fn set_chain(&mut self, table: &mut Ruleset, name: &str, chain: Chain) {
        if table.chains.get(name) == Some(&chain) {
            return;
        }
        // What a change has from before it stays.
        if let Some(old) = table.chains.insert(name.to_owned(), chain.clone())
            && !self.after.chains.contains_key(name)
        {
            self.before.chains.entry(name.to_owned()).or_insert(old);
        }
        self.after.chains.insert(name.to_owned(), chain);
    }

    /// Takes note that the table has a new chain, set or map of this name.
    pub(crate) fn came(&mut self, table: &Ruleset, name: &str) {
        if let Some(chain) = table.chains.get(name) {
            self.after.chains.insert(name.to_owned(), chain.clone());
        }
        if let Some(set) = table.sets.get(name) {
            self.after.sets.insert(name.to_owned(), set.clone());
        }
        if let Some(map) = table.maps.get(name) {
            self.after.maps.insert(name.to_owned(), map.clone());
        }
        if let Some(map) = table.counter_maps.get(name) {
            self.after.counter_maps.insert(name.to_owned(), map.clone());
        }
    }

    /// Takes the chain, set or map of this name out of the table.
    pub(crate) fn gone(&mut self, table: &mut Ruleset, name: &str) {
        // Where there is something after the change and nothing before it, it came with the change, and so never was.
        if let Some(chain) = table.chains.remove(name)
            && self.after.chains.remove(name).is_none()
        {
            self.before.chains.insert(name.to_owned(), chain);
        }
        if let Some(mut set) = table.sets.remove(name) {
            let (removed, added) = (self.before.sets.remove(name), self.after.sets.remove(name));
            if added.is_none() || removed.is_some() {
                set.elements.retain(|key| !added.as_ref().is_some_and(|added| added.elements.contains(key)));
                set.elements.extend(removed.into_iter().flat_map(|removed| removed.elements));
                self.before.sets.insert(name.to_owned(), set);
            }
        }
        gone_map(&mut table.maps, &mut self.before.maps, &mut self.after.maps, name);
        gone_map(&mut table.counter_maps, &mut self.before.counter_maps, &mut self.after.counter_maps, name);
    }

    /// Puts a named counter into the table, if it is not there.
    pub(crate) fn counter_came(&mut self, table: &mut Ruleset, name: &str, comment: Option<String>) {
        if table.counters.contains_key(name) {
            return;
        }
        // What went and came within one change stayed.
        if self.before.counters.get(name) == Some(&comment) {
            self.before.counters.remove(name);
        } else {
            self.after.counters.insert(name.to_owned(), comment.clone());
        }
        table.counters.insert(name.to_owned(), comment);
    }

    /// Takes a named counter out of the table.
    pub(crate) fn counter_gone(&mut self, table: &mut Ruleset, name: &str) {
        if let Some(comment) = table.counters.remove(name)
            && self.after.counters.remove(name).is_none()
        {
            self.before.counters.insert(name.to_owned(), comment);
        }
    }
}

type Maps<V> = BTreeMap<String, Map<V>>;

/// Gives an element of a map a value, or none, and takes note of it.
fn element<V: Clone + PartialEq>(
    table: &mut Maps<V>,
    before: &mut Maps<V>,
    after: &mut Maps<V>,
    name: &str,
    key: &Key,
    value: Option<V>,
) {
    let Some(map) = table.get_mut(name) else { return };
    let old = map.elements.get(key).cloned();
    if old == value {
        return;
    }
    if let Some(after) = after.get_mut(name).filter(|_| !before.contains_key(name)) {
        // The map came with this change, and so has nothing from before.
        for elements in [&mut after.elements, &mut map.elements] {
            match &value {
                Some(value) => drop(elements.insert(key.clone(), value.clone())),
                None => drop(elements.remove(key)),
            }
        }
        return;
    }
    let before = before.entry(name.to_owned()).or_insert_with(|| map_shell(map));
    let after = after.entry(name.to_owned()).or_insert_with(|| map_shell(map));
    // The first value within a change is the one from before it.
    if after.elements.remove(key).is_none()
        && let Some(old) = old
    {
        before.elements.entry(key.clone()).or_insert(old);
    }
    match value {
        Some(value) => {
            map.elements.insert(key.clone(), value.clone());
            if before.elements.get(key) == Some(&value) {
                before.elements.remove(key);
            } else {
                after.elements.insert(key.clone(), value);
            }
        }
        None => drop(map.elements.remove(key)),
    }
}

fn undo_maps<V: Clone>(table: &mut Maps<V>, before: &Maps<V>, after: &Maps<V>) {
    for (name, map) in after {
        match table.get_mut(name) {
            Some(stays) if before.contains_key(name) => {
                stays.elements.retain(|key, _| !map.elements.contains_key(key));
            }
            _ => drop(table.remove(name)),
        }
    }
    for (name, map) in before {
        let elements = map.elements.iter().map(|(key, value)| (key.clone(), value.clone()));
        table.entry(name.clone()).or_insert_with(|| map_shell(map)).elements.extend(elements);
    }
}

fn gone_map<V>(table: &mut Maps<V>, before: &mut Maps<V>, after: &mut Maps<V>, name: &str) {
    let Some(mut map) = table.remove(name) else { return };
    let (removed, added) = (before.remove(name), after.remove(name));
    if added.is_none() || removed.is_some() {
        map.elements.retain(|key, _| !added.as_ref().is_some_and(|added| added.elements.contains_key(key)));
        map.elements.extend(removed.into_iter().flat_map(|removed| removed.elements));
        before.insert(name.to_owned(), map);
    }
}

fn shell(set: &Set) -> Set {
    Set { key: set.key.clone(), interval: set.interval, elements: BTreeSet::new(), comment: set.comment.clone() }
}

fn map_shell<V>(map: &Map<V>) -> Map<V> {
    Map { key: map.key.clone(), interval: map.interval, elements: BTreeMap::new(), comment: map.comment.clone() }
}
