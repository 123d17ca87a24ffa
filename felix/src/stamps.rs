//! Which generations may come without bringing an old stamp back to life.
//!
//! A flow is stamped with the generation that allowed it, in so few bits that their numbers come round. A packet of the flow renews or
//! voids the stamp; a flow that is silent keeps it, for days if it is TCP. So before numbers come round, conntrack's entries are swept
//! of all stamps but those that count: behind a sweep every number is free but the ones since. One sweep in the middle of each round
//! costs nobody anything; that is one in 16,000 moves with the usual bits.
//!
//! What nobody has swept is not known to be free: at the start of a process, or in other bits than before, a generation that begins
//! waits for a sweep. If the kernel cannot sweep, that is a problem to be told, and generations go on as if it had: to hold back what
//! denies would be worse.

use serde::{Deserialize, Serialize};
use tortie_policy::{Generation, MarkMask};

use crate::event::Millis;

/// How far back the newest stamps may be from when a sweep began: a packet that met the rules of before may stamp it yet.
const LATE: u32 = 2;

/// How many generations of stamps a sweep leaves alone that were made while it ran.
const MEANWHILE: u32 = 32;

/// The first pause after a failure, doubled each time up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Millis = 1_000;
const LONGEST_PAUSE: Millis = 600_000;

/// Stamps to be cleared from the ct marks of all flows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sweep {
    /// The bits to clear.
    pub bits: u32,
    /// What a mark may have in these bits, besides zero, and keep.
    pub kept: Vec<u32>,
}

/// What is known of the stamps that silent flows carry.
#[derive(Debug, Default)]
pub(crate) struct Stamps {
    /// The generation of the table in the kernel, and its bits.
    in_force: Option<(Generation, MarkMask)>,
    /// The bits that were swept, and the last number whose stamps none but its own flows can carry.
    free: Option<(MarkMask, u32)>,
    /// What will be free once the sweep is done that is under way.
    sweeping: Option<(MarkMask, u32)>,
    /// A generation that waits for a sweep.
    awaited: Option<(Generation, MarkMask)>,
    failures: u32,
    not_before: Millis,
    error: Option<String>,
}

impl Stamps {
    /// The kernel's table is in this generation, as read or written.
    pub(crate) fn in_force(&mut self, generation: Generation, mask: MarkMask) {
        self.in_force = Some((generation, mask));
    }

    /// Whether a table of this generation may be written. If not, it waits for a sweep.
    pub(crate) fn allow(&mut self, generation: Generation, mask: MarkMask) -> bool {
        let same = self.in_force == Some((generation, mask));
        let free = self.free.is_some_and(|(swept, last)| swept == mask && generation.number() <= last);
        let allowed = same || free || self.error.is_some();
        self.awaited = (!allowed).then_some((generation, mask));
        allowed
    }

    /// Whether the kernel has a table of ours.
    pub(crate) const fn has_table(&self) -> bool {
        self.in_force.is_some()
    }

    /// Whether a generation waits for a sweep.
    pub(crate) const fn hold(&self) -> bool {
        self.awaited.is_some()
    }

    /// Why sweeping fails, if it does.
    pub(crate) fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// The next sweep, once it is time.
    pub(crate) fn sweep(&mut self, now: Millis) -> Option<Sweep> {
        if self.sweeping.is_some() || now < self.not_before || !self.is_due() {
            return None;
        }
        let (generation, mask) = self.awaited.or(self.in_force)?;
        let period = Generation::period(mask);
        let (bits, kept, free) = match self.in_force {
            // A table that is new: no stamp counts.
            None => (mask.bits(), Vec::new(), generation.number().saturating_add(period - 1 - LATE)),
            Some((live, old)) if old == mask => {
                // Those ahead that are free already are stamped only by flows that are judged meanwhile.
                let ahead = self.free.map_or(0, |(swept, last)| if swept == mask { last } else { 0 });
                let meanwhile = ahead.saturating_sub(live.number()).min(MEANWHILE);
                (mask.bits(), live.stamps(meanwhile, mask), live.number().saturating_add(period - 1 - LATE))
            }
            // In other bits the stamps that still count could be any generation's, but this one's. The old bits are nobody's from
            // now on, and left as they were found.
            Some((live, old)) => (mask.bits() | old.bits(), live.stamps(0, old), generation.number()),
        };
        self.sweeping = Some((mask, free));
        Some(Sweep { bits, kept })
    }

    /// When [`Stamps::sweep`] has something to do although nothing happens.
    pub(crate) fn timeout(&self) -> Option<Millis> {
        (self.sweeping.is_none() && self.is_due()).then_some(self.not_before)
    }

    /// A sweep is due when a generation waits for it, and from the middle of a round on.
    fn is_due(&self) -> bool {
        let worn = |(generation, mask): (Generation, MarkMask)| {
            let half = Generation::period(mask) / 2;
            self.free.is_none_or(|(swept, last)| swept != mask || last.saturating_sub(generation.number()) < half)
        };
        self.awaited.is_some() || self.in_force.is_some_and(worn)
    }

    /// Takes the answer to a sweep.
    pub(crate) fn swept(&mut self, result: Result<u64, String>, now: Millis) {
        let Some(free) = self.sweeping.take() else { return };
        self.awaited = None;
        match result {
            Ok(_) => {
                self.free = Some(free);
                self.failures = 0;
                self.not_before = now;
                self.error = None;
            }
            Err(reason) => {
                let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(10)).min(LONGEST_PAUSE);
                self.failures = self.failures.saturating_add(1);
                self.not_before = now.saturating_add(pause);
                self.error = Some(format!(
                    "old stamps of flows cannot be cleared, so a flow that was denied and stayed silent for long could pass: {reason}"
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(bits: u32) -> MarkMask {
        MarkMask::try_from(bits).expect("enough bits")
    }

    /// Conntrack in small: the stamps that silent flows carry, each with the number of the move that made it.
    #[derive(Default)]
    struct World {
        stamps: Stamps,
        carried: Vec<(u32, u64)>,
        /// The sweep that is under way, and how many moves there had been when it began: it may miss what was stamped since.
        sweeping: Option<(Sweep, u64)>,
        /// Whether a sweep takes until somebody waits for it.
        slow: bool,
        moves: u64,
        sweeps: usize,
        now: Millis,
    }

    impl World {
        /// Moves to a generation as soon as it is allowed. No flow may carry its stamps by then.
        fn enter(&mut self, generation: Generation, mask: MarkMask, refuse: bool) {
            self.now += 100;
            self.begin();
            while !self.stamps.allow(generation, mask) {
                self.begin();
                self.end(refuse);
            }
            if !self.slow {
                self.end(refuse);
            }
            self.moves += 1;
            if !refuse {
                for stamp in generation.stamps(0, mask) {
                    let alive = self.carried.iter().find(|(carried, _)| carried & mask.bits() == stamp);
                    assert_eq!(alive, None, "move {}: {generation:?} brings a stamp back to life", self.moves);
                }
            }
            self.stamps.in_force(generation, mask);
            self.carried.push((generation.live_mark(mask), self.moves));
        }

        fn begin(&mut self) {
            if let Some(sweep) = self.stamps.sweep(self.now) {
                self.sweeps += 1;
                self.sweeping = Some((sweep, self.moves));
            }
        }

        fn end(&mut self, refuse: bool) {
            let Some((sweep, began)) = self.sweeping.take() else { return };
            if refuse {
                self.stamps.swept(Err("no".into()), self.now);
                return;
            }
            let stale = |stamp: u32| stamp & sweep.bits != 0 && !sweep.kept.contains(&(stamp & sweep.bits));
            self.carried.retain(|(stamp, made)| *made > began || !stale(*stamp));
            self.stamps.swept(Ok(0), self.now);
        }
    }

    #[test]
    fn no_stamp_comes_back_to_life_in_many_rounds() {
        for (bits, slow) in [(0xff, false), (0xff, true), (0xf0f0_0000, true), (0x0fff_0000, true)] {
            let mask = mask(bits);
            let mut world = World { slow, ..World::default() };
            let mut generation = Generation::seed(0x7ff0);
            let rounds = 5;
            for _ in 0..rounds * Generation::period(mask) {
                world.enter(generation, mask, false);
                generation = generation.next();
            }
            assert!(world.sweeps <= 2 * rounds as usize + 2, "{} sweeps in {rounds} rounds", world.sweeps);
        }
    }

    #[test]
    fn what_an_earlier_run_left_is_swept_before_it_could_count() {
        let mask = mask(0xff);
        let mut world = World::default();
        let mut generation = Generation::seed(40);
        world.stamps.in_force(generation, mask);
        for number in 1..=Generation::period(mask) {
            let old = Generation::seed(number).live_mark(mask);
            if old != generation.live_mark(mask) {
                world.carried.push((old, 0));
            }
        }
        for _ in 0..400 {
            generation = generation.next();
            world.enter(generation, mask, false);
        }
    }

    #[test]
    fn a_table_that_is_new_waits_for_a_sweep_and_keeps_no_stamp() {
        let mask = mask(0xff);
        let mut stamps = Stamps::default();
        assert_eq!(stamps.sweep(0), None, "there is nothing to do before there is a table");
        assert!(!stamps.allow(Generation::seed(3), mask));
        assert_eq!(stamps.sweep(0), Some(Sweep { bits: 0xff, kept: Vec::new() }));
        assert_eq!(stamps.sweep(0), None, "one at a time");
        assert!(!stamps.allow(Generation::seed(3), mask));
        stamps.swept(Ok(7), 0);
        assert!(!stamps.hold());
        assert!(stamps.allow(Generation::seed(3), mask));
    }

    #[test]
    fn other_bits_wait_for_a_sweep_of_both() {
        let (low, high) = (mask(0x00ff), mask(0x0ff0));
        let mut world = World { slow: true, ..World::default() };
        let mut generation = Generation::seed(5);
        for bits in [low, high].into_iter().cycle().take(40) {
            for _ in 0..37 {
                // As the compiler chooses it: not one whose stamps could be the last table's.
                let taken = world.stamps.in_force.map(|(live, old)| live.stamps(0, old)).unwrap_or_default();
                generation = generation.next();
                while generation.stamps(0, bits).iter().any(|stamp| taken.iter().any(|t| t & bits.bits() == *stamp)) {
                    generation = generation.next();
                }
                world.enter(generation, bits, false);
            }
        }
        let mut stamps = Stamps::default();
        stamps.in_force(generation, low);
        assert!(!stamps.allow(generation, high));
        assert_eq!(stamps.sweep(0), Some(Sweep { bits: 0x0fff, kept: generation.stamps(0, low) }));
    }

    #[test]
    fn a_kernel_that_cannot_sweep_is_told_of_and_holds_nothing_back() {
        let mask = mask(0xff);
        let mut world = World::default();
        let mut generation = Generation::seed(5);
        for _ in 0..300 {
            world.enter(generation, mask, true);
            generation = generation.next();
        }
        assert!(world.stamps.error().is_some_and(|error| error.contains("could pass: no")));
        assert!(world.sweeps < 10, "tried {} times in 30 s", world.sweeps);
        world.now += LONGEST_PAUSE;
        world.begin();
        world.end(false);
        assert_eq!(world.stamps.error(), None);
    }
}
