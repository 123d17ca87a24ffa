//! Equal values kept once. Routes come by the thousand with the same attributes: a table of shared sets makes a path a pointer, and
//! "has it changed" a comparison of pointers.

use core::hash::{BuildHasher, Hash};
use std::sync::Arc;

use hashbrown::HashTable;
use rustc_hash::FxBuildHasher;

/// A set of shared values. Those that nobody else holds any more are dropped when the set has doubled since it was last swept.
#[derive(Debug)]
pub(crate) struct Interner<T> {
    values: HashTable<Arc<T>>,
    sweep_at: usize,
}

const SMALLEST_SWEEP: usize = 1024;

impl<T: Hash + Eq> Interner<T> {
    pub(crate) fn new() -> Self {
        Self { values: HashTable::new(), sweep_at: SMALLEST_SWEEP }
    }

    /// The one shared copy of `value`.
    pub(crate) fn intern(&mut self, value: T) -> Arc<T> {
        let hash = FxBuildHasher.hash_one(&value);
        if let Some(known) = self.values.find(hash, |known| **known == value) {
            return Arc::clone(known);
        }
        if self.values.len() >= self.sweep_at {
            self.values.retain(|value| Arc::strong_count(value) > 1);
            self.sweep_at = (self.values.len() * 2).max(SMALLEST_SWEEP);
        }
        let value = Arc::new(value);
        self.values.insert_unique(hash, Arc::clone(&value), |value| FxBuildHasher.hash_one(&**value));
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_one_and_forgotten_ones_are_swept() {
        let mut interner = Interner::new();
        let kept = interner.intern(0);
        for value in 0..100_000 {
            interner.intern(value);
        }
        assert!(Arc::ptr_eq(&kept, &interner.intern(0)));
        assert!(interner.values.len() <= SMALLEST_SWEEP, "{} are left", interner.values.len());
    }
}
