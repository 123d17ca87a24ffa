//! What named counters have counted, for when they must be made anew.
//!
//! The kernel has the counts, and they survive the agent. They end with the table: when a stranger has flushed it, or when it must be
//! made anew to become ours. A counter that is made then begins with what was last known of it. So a count is in one place at any
//! time, and none is ever added to another.

use std::collections::{BTreeMap, HashMap};

/// So many sweeps of a table that has not got a counter end what is known of it.
const MISSED_MAX: u8 = 2;

/// Packets and bytes.
pub(crate) type Count = (u64, u64);

/// What was last known of each counter.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    known: HashMap<String, Known>,
}

#[derive(Debug)]
struct Known {
    count: Count,
    missed: u8,
}

impl Counts {
    /// Takes over what an earlier run knew. What this one has read counts for more.
    pub(crate) fn remember(&mut self, counts: impl IntoIterator<Item = (String, Count)>) {
        for (name, count) in counts {
            self.known.entry(name).or_insert(Known { count, missed: 0 });
        }
    }

    /// Ends what is known of counters that are not among the kernel's. One that is missing for the first time may be about to be made
    /// again.
    pub(crate) fn sweep(&mut self, counts: &BTreeMap<String, Count>) {
        self.known.retain(|name, known| {
            known.missed = if counts.contains_key(name) { 0 } else { known.missed + 1 };
            known.missed < MISSED_MAX
        });
    }

    /// Takes in what the kernel's counters say.
    pub(crate) fn read(&mut self, counts: &BTreeMap<String, Count>) {
        for (name, count) in counts {
            match self.known.get_mut(name) {
                Some(known) => known.count = *count,
                None => drop(self.known.insert(name.clone(), Known { count: *count, missed: 0 })),
            }
        }
    }

    /// What a counter that is made begins with.
    pub(crate) fn of(&self, name: &str) -> Option<Count> {
        self.known.get(name).map(|known| known.count).filter(|count| *count != (0, 0))
    }

    /// A counter was deleted because nobody wants it any more.
    pub(crate) fn forget(&mut self, name: &str) {
        self.known.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(counts: &[(&str, u64)]) -> BTreeMap<String, Count> {
        counts.iter().map(|(name, packets)| ((*name).to_owned(), (*packets, packets * 100))).collect()
    }

    #[test]
    fn what_is_read_counts_for_more_than_what_is_remembered() {
        let mut known = Counts::default();
        known.read(&counts(&[("a", 7)]));
        known.remember(counts(&[("a", 3), ("b", 4)]));
        assert_eq!((known.of("a"), known.of("b"), known.of("c")), (Some((7, 700)), Some((4, 400)), None));
        known.read(&counts(&[("a", 2), ("b", 9)]));
        assert_eq!((known.of("a"), known.of("b")), (Some((2, 200)), Some((9, 900))), "never a sum");
    }

    #[test]
    fn what_is_gone_for_good_is_forgotten() {
        let mut known = Counts::default();
        known.remember(counts(&[("a", 3), ("b", 4)]));
        known.sweep(&counts(&[("a", 3)]));
        assert_eq!(known.of("b"), Some((4, 400)), "it may be on its way");
        known.sweep(&counts(&[("a", 3)]));
        assert_eq!(known.of("b"), None);
        known.forget("a");
        assert_eq!(known.of("a"), None);
    }
}
