//! Values kept once: pods of one Deployment share one label set and one list of ports.

use std::borrow::Borrow;
use std::hash::Hash;
use std::num::NonZeroU32;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::index::Bounds;

/// The number of an interned value, valid while it is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Id(NonZeroU32);

impl Id {
    /// The number of a slot; of the last there can be, once there are more than any machine has room for.
    fn of_slot(slot: usize) -> Self {
        Self(u32::try_from(slot).map_or(NonZeroU32::MAX, |slot| NonZeroU32::MIN.saturating_add(slot)))
    }

    fn slot(self) -> usize {
        self.0.get() as usize - 1
    }
}

impl Bounds for Id {
    const MIN: Self = Self(NonZeroU32::MIN);
    const MAX: Self = Self(NonZeroU32::MAX);
}

/// A store that keeps each distinct value once, counted by its holders.
#[derive(Debug)]
pub(crate) struct Interner<T: ?Sized> {
    ids: FxHashMap<Arc<T>, Id>,
    slots: Vec<Option<(Arc<T>, usize)>>,
    free: Vec<Id>,
}

impl<T: ?Sized> Default for Interner<T> {
    fn default() -> Self {
        Self { ids: FxHashMap::default(), slots: Vec::new(), free: Vec::new() }
    }
}

impl<T: Eq + Hash + ?Sized> Interner<T> {
    /// Takes hold of `value`.
    pub(crate) fn hold(&mut self, value: impl Borrow<T> + Into<Arc<T>>) -> Id {
        self.hold_or_add(value).0
    }

    /// Takes hold of `value`, and says whether nobody held it before.
    pub(crate) fn hold_or_add(&mut self, value: impl Borrow<T> + Into<Arc<T>>) -> (Id, bool) {
        if let Some(&id) = self.ids.get(value.borrow()) {
            if let Some(Some((_, holders))) = self.slots.get_mut(id.slot()) {
                *holders += 1;
            }
            return (id, false);
        }
        let value: Arc<T> = value.into();
        let slot = Some((Arc::clone(&value), 1));
        let id = if let Some(id) = self.free.pop() {
            self.slots[id.slot()] = slot;
            id
        } else {
            self.slots.push(slot);
            Id::of_slot(self.slots.len() - 1)
        };
        self.ids.insert(value, id);
        (id, true)
    }

    /// Lets go of a value that was held; the last holder's goodbye removes it and returns it.
    pub(crate) fn release(&mut self, id: Id) -> Option<Arc<T>> {
        let slot = self.slots.get_mut(id.slot())?;
        let (_, holders) = slot.as_mut()?;
        *holders -= 1;
        if *holders > 0 {
            return None;
        }
        let (value, _) = slot.take()?;
        self.ids.remove(&value);
        self.free.push(id);
        Some(value)
    }

    /// The number of a value that is held.
    pub(crate) fn id(&self, value: &T) -> Option<Id> {
        self.ids.get(value).copied()
    }

    /// The value, if anybody holds the id: not always the value that it was given out for.
    pub(crate) fn get_if_held(&self, id: Id) -> Option<&T> {
        self.slots.get(id.slot())?.as_ref().map(|(value, _)| &**value)
    }

    /// The value.
    pub(crate) fn get(&self, id: Id) -> &T {
        match self.get_if_held(id) {
            Some(value) => value,
            None => unreachable!("an id is used only while it is held"),
        }
    }

    /// All values that are held, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.ids.keys().map(|value| &**value)
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
        let mut interner: Interner<str> = Interner::default();
        let a = interner.hold("a");
        let b = interner.hold("b");
        assert_eq!(interner.hold_or_add("a"), (a, false));
        assert_eq!(interner.release(a), None);
        assert_eq!(interner.get(a), "a");
        assert_eq!(interner.release(a).as_deref(), Some("a"));
        assert_eq!(interner.len(), 1);
        assert_eq!(interner.get(b), "b");
        let (c, new) = interner.hold_or_add("c");
        assert!(new);
        assert_eq!(c, a, "the slot is used again");
        assert_eq!(interner.get(c), "c");
    }
}
