//! The generation of policy that a flow's stamp refers to.
//!
//! A flow that both directions have allowed carries the *live mark* in our bits of its ct mark, and the packets of stamped flows pass
//! without being judged again. When a policy tightens, the generation moves on, no stamp counts any more, and each flow is judged
//! again at its next packet. Egress stamps the *pending mark* and ingress turns it into the live mark, so that no flow is stamped half
//! by one generation and half by another.
//!
//! In our bits, the lowest one tells pending from live, and those above it hold the generation's number, never 0, which is a flow
//! that was never stamped. Sixteen bits have room for 32,767 numbers, the fewest that we take for 127; then they start again. A flow
//! that was denied in between and stayed silent all the while, its conntrack entry alive, would find its old stamp live again, so
//! whoever moves the generation must have old stamps cleared before their numbers come round: [`Generation::period`] says when.

use tortie_nft::{Field, Key, Match, Ruleset, Value};

use crate::marks::MarkMask;

/// The name of the set that holds the live mark.
pub(crate) const LIVE_SET: &str = "live";

/// The name of the set that holds the pending mark.
pub(crate) const PENDING_SET: &str = "pending";

/// A generation of policy: a number, counted up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Generation(u32);

impl Generation {
    /// The generation to start from when the kernel holds none: any number will do, a random one best, because flows may carry
    /// stamps that an earlier table left.
    pub const fn seed(seed: u32) -> Self {
        Self(seed % 0x7fff + 1)
    }

    /// The generation of this number, as an agent tells it. 0 is none.
    pub const fn numbered(number: u32) -> Option<Self> {
        if number == 0 { None } else { Some(Self(number)) }
    }

    /// Its number.
    pub const fn number(self) -> u32 {
        self.0
    }

    /// The generation after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        match self.0.wrapping_add(1) {
            0 => Self(1),
            number => Self(number),
        }
    }

    /// The first generation after this one whose marks are none of those that count in `table`. Where that table's bits are others
    /// than ours, or not all the same, its marks could pass for any generation's.
    #[must_use]
    pub fn next_after(self, table: &Ruleset, mask: MarkMask) -> Self {
        let taken: Vec<u32> = [LIVE_SET, PENDING_SET]
            .into_iter()
            .filter_map(|set| table.sets.get(set))
            .flat_map(|set| &set.elements)
            .filter_map(|key| match key.as_slice() {
                [Value::Mark(mark)] => Some(mark & mask.bits()),
                _ => None,
            })
            .collect();
        let mut next = self.next();
        // Each mark is one generation's, so that one more step than there are marks is enough.
        for _ in &taken {
            if !taken.contains(&next.live_mark(mask)) && !taken.contains(&next.pending_mark(mask)) {
                break;
            }
            next = next.next();
        }
        next
    }

    /// After how many generations marks come round: as many numbers as fit beside the lowest bit, but 0.
    pub const fn period(mask: MarkMask) -> u32 {
        mask.max() >> 1
    }

    /// The live and pending marks of this generation and of so many after it.
    pub fn stamps(self, more: u32, mask: MarkMask) -> Vec<u32> {
        let generations = std::iter::successors(Some(self), |generation| Some(generation.next()));
        let marks = |generation: Self| [generation.live_mark(mask), generation.pending_mark(mask)];
        generations.take(more as usize + 1).flat_map(marks).collect()
    }

    /// The mark of flows that this generation allows.
    pub const fn live_mark(self, mask: MarkMask) -> u32 {
        mask.deposit(((self.0 - 1) % Self::period(mask) + 1) << 1)
    }

    /// The mark of flows that this generation's egress allows, and whose ingress is yet to be judged.
    pub const fn pending_mark(self, mask: MarkMask) -> u32 {
        self.live_mark(mask) | mask.deposit(1)
    }

    /// The generation that a table read from the kernel is in: that of its one live mark, in the bits in which it looks for it. `None`
    /// if it has none, or not one that could be a generation's.
    pub fn of(ruleset: &Ruleset) -> Option<Self> {
        let live = &ruleset.sets.get(LIVE_SET)?.elements;
        let mut marks = live.iter().map(Key::as_slice);
        let (Some([Value::Mark(mark)]), None) = (marks.next(), marks.next()) else { return None };
        let mask = Self::mask_of(ruleset)?;
        let number = mask.extract(*mark);
        (mark & !mask.bits() == 0 && number > 1 && number & 1 == 0).then_some(Self(number >> 1))
    }

    /// The bits in which a table looks for stamps, if it does.
    pub fn mask_of(ruleset: &Ruleset) -> Option<MarkMask> {
        let conditions = ruleset.chains.values().flat_map(|chain| &chain.rules).flat_map(|rule| &rule.matches);
        let mut masks = conditions.filter_map(|condition| match condition {
            Match::InSet { key, set, .. } if set == LIVE_SET => match key.as_slice() {
                [Field::CtMarkMasked(mask)] => Some(*mask),
                _ => None,
            },
            _ => None,
        });
        MarkMask::try_from(masks.next()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masks() -> [MarkMask; 4] {
        [0xffff_0000, 0x0000_00ff, 0xf0f0_0000, 0xffff_ffff].map(|mask| MarkMask::try_from(mask).expect("enough bits"))
    }

    #[test]
    fn marks_stay_in_their_bits_and_never_are_zero() {
        for mask in masks() {
            for seed in [0, 1, 0x7d, 0x7e, 0x7f, 0x7ffd, 0x7ffe, 0x7fff, 0x8000, 0xffff_ffff] {
                let mut generation = Generation::seed(seed);
                for _ in 0..3 {
                    let (live, pending) = (generation.live_mark(mask), generation.pending_mark(mask));
                    assert_ne!(live, 0);
                    assert_eq!((live | pending) & !mask.bits(), 0);
                    assert_eq!(mask.extract(live) & 1, 0, "live marks are even");
                    assert_eq!(mask.extract(pending), mask.extract(live) + 1);
                    generation = generation.next();
                }
            }
        }
        assert_eq!(Generation::seed(6).live_mark(MarkMask::default()), 0x000e_0000);
        assert_eq!(Generation(u32::MAX).next(), Generation(1));
    }

    #[test]
    fn every_generation_comes_before_the_first_again() {
        for (mask, numbers) in [(0xffff_0000, 32_767), (0xff, 127)] {
            let mask = MarkMask::try_from(mask).expect("enough bits");
            let first = Generation::seed(7);
            let mut generation = first.next();
            let mut count = 1;
            while generation.live_mark(mask) != first.live_mark(mask) {
                generation = generation.next();
                count += 1;
            }
            assert_eq!(count, numbers);
        }
    }
}
