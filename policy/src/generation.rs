//! The generation of policy that a flow's stamp refers to.
//!
//! A flow that both directions have allowed carries the *live mark* in the upper half of its ct mark, and the packets of stamped
//! flows pass without being judged again. When a policy tightens, the generation moves on, no stamp counts any more, and each
//! flow is judged again at its next packet. Egress stamps the *pending mark* and ingress turns it into the live mark, so that no
//! flow is stamped half by one generation and half by another.
//!
//! A generation is an even number in the upper half of the mark, never 0, which is a flow that was never stamped; the odd number
//! after it is its pending mark. There are 32,767 of them, then they start again: a flow that was denied in between and stayed
//! silent all the while, its conntrack entry alive, would find its old stamp live again. At one tightening a second that takes
//! nine hours of silence and the right second to speak in.

use tortie_nft::{Key, Ruleset, Value};

/// The bits of the ct mark that are ours. The lower half belongs to others (kube-proxy uses 0x4000 and 0x8000).
pub const MARK_MASK: u32 = 0xffff_0000;

/// The distance from a live mark to its pending mark.
const PENDING: u32 = 0x0001_0000;

/// The distance from one generation to the next.
const STEP: u32 = 0x0002_0000;

/// The name of the set that holds the live mark.
pub(crate) const LIVE_SET: &str = "live";

/// The name of the set that holds the pending mark.
pub(crate) const PENDING_SET: &str = "pending";

/// A generation of policy; holds its live mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Generation(u32);

impl Generation {
    /// The generation to start from when the kernel holds none: any number will do, a random one best, because flows may carry
    /// stamps that an earlier table left.
    pub const fn seed(seed: u32) -> Self {
        // 1 to 32767, then twice that in the upper half.
        Self((seed % 0x7fff + 1) * STEP)
    }

    /// The generation after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        match self.0.wrapping_add(STEP) {
            0 => Self(STEP),
            mark => Self(mark),
        }
    }

    /// The mark of flows that this generation allows.
    pub const fn live_mark(self) -> u32 {
        self.0
    }

    /// The mark of flows that this generation's egress allows, and whose ingress is yet to be judged.
    pub const fn pending_mark(self) -> u32 {
        self.0 + PENDING
    }

    /// The generation that a table read from the kernel is in: that of its one live mark. `None` if it has none, or not one that
    /// could be a generation's.
    pub fn of(ruleset: &Ruleset) -> Option<Self> {
        let live = &ruleset.sets.get(LIVE_SET)?.elements;
        let mut marks = live.iter().map(Key::as_slice);
        match (marks.next(), marks.next()) {
            (Some([Value::Mark(mark)]), None) if *mark != 0 && mark % STEP == 0 => Some(Self(*mark)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_stay_in_their_half_and_never_are_zero() {
        for seed in [0, 1, 0x7ffd, 0x7ffe, 0x7fff, 0x8000, 0xffff_ffff] {
            let mut generation = Generation::seed(seed);
            for _ in 0..3 {
                assert_ne!(generation.live_mark(), 0);
                assert_eq!(generation.live_mark() & !MARK_MASK, 0);
                assert_eq!(generation.live_mark() >> 16 & 1, 0, "live marks are even");
                assert_eq!(generation.pending_mark(), generation.live_mark() + 0x0001_0000);
                generation = generation.next();
            }
        }
    }

    #[test]
    fn every_generation_comes_before_the_first_again() {
        let first = Generation::seed(7);
        let mut generation = first.next();
        let mut count = 1;
        while generation != first {
            generation = generation.next();
            count += 1;
        }
        assert_eq!(count, 32_767);
    }
}
