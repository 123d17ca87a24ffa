//! Values kept once: pods of one Deployment share one label set and one list of ports.

use std::hash::Hash;
use std::sync::Arc;

use rustc_hash::FxHashMap;

/// The number of an interned value, valid while it is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Id(u32);

/// A store that keeps each distinct value once, counted by its holders.
#[derive(Debug)]
pub(crate) struct Interner<T> {
    ids: FxHashMap<Arc<T>, Id>,
    slots: Vec<Option<(Arc<T>, usize)>>,
    free: Vec<Id>,
}

impl<T> Default for Interner<T> {
    fn default() -> Self {
        Self { ids: FxHashMap::default(), slots: Vec::new(), free: Vec::new() }
    }
}

impl<T: Eq + Hash> Interner<T> {
    /// Takes hold of `value`.
    pub(crate) fn hold(&mut self, value: T) -> Id {
        if let Some(&id) = self.ids.get(&value) {
            if let Some(Some((_, holders))) = self.slots.get_mut(id.0 as usize) {
                *holders += 1;
            }
            return id;
        }
        let value = Arc::new(value);
        let slot = Some((Arc::clone(&value), 1));
        let id = if let Some(id) = self.free.pop() {
            self.slots[id.0 as usize] = slot;
            id
        } else {
            self.slots.push(slot);
            Id(self.slots.len() as u32 - 1)
        };
        self.ids.insert(value, id);
        id
    }

    /// Lets go of a value that was held; the last holder's goodbye removes it.
    pub(crate) fn release(&mut self, id: Id) {
        let Some(slot) = self.slots.get_mut(id.0 as usize) else { return };
        let Some((value, holders)) = slot else { return };
        *holders -= 1;
        if *holders == 0 {
            self.ids.remove(value);
            *slot = None;
            self.free.push(id);
        }
    }

    /// The value, if anybody holds the id: not always the value that it was given out for.
    pub(crate) fn get_if_held(&self, id: Id) -> Option<&T> {
        self.slots.get(id.0 as usize)?.as_ref().map(|(value, _)| &**value)
    }

    /// The value.
    pub(crate) fn get(&self, id: Id) -> &T {
        match self.get_if_held(id) {
            Some(value) => value,
            None => unreachable!("an id is used only while it is held"),
        }
    }

    /// How many distinct values are held.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_share_a_slot_until_the_last_holder_lets_go() {
        let mut interner = Interner::default();
        let a = interner.hold("a".to_owned());
        let b = interner.hold("b".to_owned());
        assert_eq!(interner.hold("a".to_owned()), a);
        interner.release(a);
        assert_eq!(interner.get(a), "a");
        interner.release(a);
        assert_eq!(interner.len(), 1);
        assert_eq!(interner.get(b), "b");
        let c = interner.hold("c".to_owned());
        assert_eq!(c, a, "the slot is used again");
        assert_eq!(interner.get(c), "c");
    }
}
