//! What a change of the table consists of, without the rest of the table.

use tortie_nft::{Command, Key, Ruleset, Set, Transaction, Verdict, VerdictMap};

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
        for (name, map) in &self.after.maps {
            match table.maps.get_mut(name) {
                Some(stays) if self.before.maps.contains_key(name) => {
                    stays.elements.retain(|key, _| !map.elements.contains_key(key));
                }
                _ => drop(table.maps.remove(name)),
            }
        }
        for (name, map) in &self.before.maps {
            let elements = map.elements.iter().map(|(key, verdict)| (key.clone(), verdict.clone()));
            table.maps.entry(name.clone()).or_insert_with(|| map_shell(map)).elements.extend(elements);
        }
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

    /// Gives an element of a map of the table a verdict, or none.
    pub(crate) fn map_element(&mut self, table: &mut Ruleset, name: &str, key: &Key, verdict: Option<Verdict>) {
        let Some(map) = table.maps.get_mut(name) else { return };
        let old = map.elements.get(key).cloned();
        if old == verdict {
            return;
        }
        if let Some(after) = self.after.maps.get_mut(name).filter(|_| !self.before.maps.contains_key(name)) {
            // The map came with this change, and so has nothing from before.
            for elements in [&mut after.elements, &mut map.elements] {
                match &verdict {
                    Some(verdict) => drop(elements.insert(key.clone(), verdict.clone())),
                    None => drop(elements.remove(key)),
                }
            }
            return;
        }
        let before = self.before.maps.entry(name.to_owned()).or_insert_with(|| map_shell(map));
        let after = self.after.maps.entry(name.to_owned()).or_insert_with(|| map_shell(map));
        // The first verdict within a change is the one from before it.
        if after.elements.remove(key).is_none()
            && let Some(old) = old
        {
            before.elements.entry(key.clone()).or_insert(old);
        }
        match verdict {
            Some(verdict) => {
                map.elements.insert(key.clone(), verdict.clone());
                if before.elements.get(key) == Some(&verdict) {
                    before.elements.remove(key);
                } else {
                    after.elements.insert(key.clone(), verdict);
                }
            }
            None => drop(map.elements.remove(key)),
        }
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
        if let Some(mut map) = table.maps.remove(name) {
            let (removed, added) = (self.before.maps.remove(name), self.after.maps.remove(name));
            if added.is_none() || removed.is_some() {
                map.elements.retain(|key, _| !added.as_ref().is_some_and(|added| added.elements.contains_key(key)));
                map.elements.extend(removed.into_iter().flat_map(|removed| removed.elements));
                self.before.maps.insert(name.to_owned(), map);
            }
        }
    }
}

fn shell(set: &Set) -> Set {
    Set {
        key: set.key.clone(),
        interval: set.interval,
        elements: std::collections::BTreeSet::new(),
        comment: set.comment.clone(),
    }
}

fn map_shell(map: &VerdictMap) -> VerdictMap {
    VerdictMap {
        key: map.key.clone(),
        interval: map.interval,
        elements: std::collections::BTreeMap::new(),
        comment: map.comment.clone(),
    }
}
