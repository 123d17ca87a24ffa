//! The wanted table against the kernel's.
//!
//! What the table depends on has a version; a change moves the version on, and what the kernel holds is known as the version it was
//! compiled from. The compiler keeps the wanted table, and says what changed in it. One transaction is under way at a time: changes in
//! between are gathered into the next. A large one is written in steps, so that the kernel is never busy with rules for long. Whenever
//! the kernel's answer is not a plain yes, its table is read back and compared, so no guess about it ever lasts.

use std::collections::VecDeque;

use tortie_nft::{Ruleset, Transaction};
use tortie_policy::{Compiler, Endpoint, Generation, MarkMask, Update};

use crate::difference::describe;
use crate::event::{Action, Millis};
use crate::stamps::Stamps;

/// The first pause after a second failure in a row, doubled each time up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Millis = 100;
const LONGEST_PAUSE: Millis = 30_000;

/// A move of the generation costs every flow one judgement, and an old stamp must not come round again soon: at most ten a second on
/// the long run, but the first twenty at once.
const MOVE_COST: Millis = 100;
const MOVE_CREDIT: Millis = 20 * MOVE_COST;

/// What a transaction may weigh, see [`Transaction::batches`]: some thousand rules, which the kernel takes in a few milliseconds.
const BATCH: usize = 4_000;

/// How long what waits for a sweep of stamps waits before it looks again, though the sweep's answer is what it waits for.
const SWEEP_PAUSE: Millis = 1_000;

/// What is under way.
#[derive(Debug, PartialEq, Eq)]
enum Io {
    Idle,
    Reading,
    Applying,
}

/// The kernel's table as last read or written.
#[derive(Debug)]
enum Kernel {
    /// What the compiler has, as of its last update. So it is in memory once.
    Compiled,
    /// Another; an empty one if there is none.
    Other(Ruleset),
}

/// The state of our table.
#[derive(Debug)]
pub(crate) struct Rules {
    kernel: Kernel,
    generation: Generation,
    version: u64,
    /// The version that the kernel holds; 0 is none.
    applied: u64,
    /// The version that was compiled last, and the revision of the endpoints then.
    compiled: u64,
    compiled_for: Option<u64>,
    /// What is to be written after the step that is under way, and the version that it makes.
    steps: VecDeque<Transaction>,
    steps_make: u64,
    /// Whether a refusal left only some of the steps in the kernel.
    half_written: bool,
    io: Io,
    read_wanted: bool,
    /// Whether this process has written, and so made the table its own.
    claimed: bool,
    ever_read: bool,
    failures: u32,
    not_before: Millis,
    error: Option<String>,
    credit: Millis,
    credit_at: Millis,
    /// When the generation may move, if something was written that asks for it.
    move_owed: Option<Millis>,
    moves: u64,
    stamps: Stamps,
    /// The bits of stamps in what was compiled last.
    mask: MarkMask,
    /// The update that was written last, until the kernel has said yes: what it changed may or may not be there.
    unconfirmed: Option<Update>,
    /// Whether somebody else's hands were in the table: what it allowed meanwhile, and so who carries a live stamp, is not known.
    distrusted: bool,
    /// Whether all flows are to be judged again for a reason that no table shows.
    reevaluate: bool,
    /// Who touched the table since it was last read, as far as is known.
    suspect: Option<String>,
    /// What was found that nobody of us wrote, and who did.
    tampered: Vec<(String, Option<String>)>,
}

impl Rules {
    /// The state before anything is known. `seed` is a random number for the generation of a table that starts from nothing.
    pub(crate) fn new(seed: u32) -> Self {
        Self {
            kernel: Kernel::Other(Ruleset::default()),
            generation: Generation::seed(seed),
            version: 1,
            applied: 0,
            compiled: 0,
            compiled_for: None,
            steps: VecDeque::new(),
            steps_make: 0,
            half_written: false,
            io: Io::Idle,
            read_wanted: true,
            claimed: false,
            ever_read: false,
            failures: 0,
            not_before: 0,
            error: None,
            credit: MOVE_CREDIT,
            credit_at: 0,
            move_owed: None,
            moves: 0,
            stamps: Stamps::default(),
            mask: MarkMask::default(),
            unconfirmed: None,
            distrusted: false,
            reevaluate: false,
            suspect: None,
            tampered: Vec::new(),
        }
    }

    /// Something that the table depends on has changed. Returns the version that has it.
    pub(crate) fn touch(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    /// Has all flows judged again with the next version, whatever changes with it.
    pub(crate) fn reevaluate(&mut self) {
        self.reevaluate = true;
        self.touch();
    }

    /// The version of the inputs.
    pub(crate) const fn version(&self) -> u64 {
        self.version
    }

    /// The version that the kernel holds.
    pub(crate) const fn applied(&self) -> u64 {
        self.applied
    }

    /// Whether the kernel's table has been read once.
    pub(crate) const fn ever_read(&self) -> bool {
        self.ever_read
    }

    /// Asks for a read-back at the next occasion.
    pub(crate) fn want_read(&mut self) {
        self.read_wanted = true;
    }

    /// Somebody touched the table: it is read back at once.
    pub(crate) fn touched(&mut self, by: Option<String>) {
        self.read_wanted = true;
        if by.is_some() {
            self.suspect = by;
        }
    }

    /// What was found, since this was asked last, that nobody of us wrote; and who did, where that is known.
    pub(crate) fn take_tampered(&mut self) -> Vec<(String, Option<String>)> {
        std::mem::take(&mut self.tampered)
    }

    /// The live generation.
    pub(crate) const fn generation(&self) -> Generation {
        self.generation
    }

    /// How often the generation has moved.
    pub(crate) const fn moves(&self) -> u64 {
        self.moves
    }

    /// What is wrong with the table now.
    pub(crate) fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// The table that is wanted, or the kernel's while none was compiled yet.
    pub(crate) fn wanted<'a>(&'a self, compiler: &'a Compiler) -> Option<&'a Ruleset> {
        let table = match &self.kernel {
            Kernel::Other(kernel) if compiler.table().is_empty() => kernel,
            _ => compiler.table(),
        };
        (!table.is_empty()).then_some(table)
    }

    /// Takes the answer to a read.
    pub(crate) fn read(&mut self, result: Result<Option<Ruleset>, String>, now: Millis, compiler: &mut Compiler) {
        self.io = Io::Idle;
        match result {
            Ok(kernel) => {
                let kernel = kernel.unwrap_or_default();
                self.look_for_strangers(&kernel, compiler.table());
                if !self.ever_read {
                    self.ever_read = true;
                    compiler.adopt_counters(&kernel.counters);
                    // Who carries the stamps of an earlier run is not known, unless all is as this one wants it.
                    self.distrusted = !kernel.is_empty();
                    if let (Some(found), Some(mask)) = (Generation::of(&kernel), Generation::mask_of(&kernel)) {
                        self.generation = found;
                        self.stamps.in_force(found, mask);
                    }
                }
                self.kernel = if kernel == *compiler.table() { Kernel::Compiled } else { Kernel::Other(kernel) };
                self.applied = 0;
            }
            Err(reason) => {
                self.read_wanted = true;
                self.failed(format!("nftables cannot be read: {reason}"), now);
            }
        }
    }

    /// Compares what was read with what was written last. Of a write without a yes both what was before and what is after it count as
    /// written. Before this process has written anything, whatever is there is an earlier run's.
    fn look_for_strangers(&mut self, found: &Ruleset, compiled: &Ruleset) {
        let by = self.suspect.take();
        let half_written = std::mem::take(&mut self.half_written);
        let before = self.unconfirmed.take().map(|update| update.before(compiled));
        let written = match &self.kernel {
            Kernel::Compiled => compiled,
            Kernel::Other(other) => other,
        };
        let is_strange = found != written && before.as_ref() != Some(found);
        self.distrusted |= self.ever_read && (is_strange || half_written);
        if self.claimed && is_strange && !half_written {
            let text = describe(before.as_ref().unwrap_or(written), found);
            // Where there is nothing to write there is nothing to tell.
            if !text.is_empty() {
                self.tampered.push((text, by));
            }
        }
    }

    /// Whether a transaction is under way, or some of its steps are still to come.
    pub(crate) fn is_under_way(&self) -> bool {
        self.io == Io::Applying || !self.steps.is_empty()
    }

    /// Takes the answer to a transaction. Returns whether with that the kernel holds what was compiled last.
    pub(crate) fn applied_with(&mut self, result: Result<(), String>, now: Millis) -> bool {
        if self.io != Io::Applying {
            return false;
        }
        self.io = Io::Idle;
        match result {
            Ok(()) => {
                self.claimed = true;
                self.failures = 0;
                self.error = None;
                if !self.steps.is_empty() {
                    self.half_written = true;
                    return false;
                }
                self.applied = self.steps_make;
                self.half_written = false;
                self.stamps.in_force(self.generation, self.mask);
                self.unconfirmed = None;
                self.move_owed.is_none()
            }
            Err(reason) => {
                self.steps.clear();
                self.read_wanted = true;
                self.failed(format!("nftables refused a change, the rules before it stay in force: {reason}"), now);
                false
            }
        }
    }

    /// Takes the answer to a sweep of stamps. What waited for it goes on at once.
    pub(crate) fn swept(&mut self, result: Result<u64, String>, now: Millis) {
        let held = self.stamps.hold();
        self.stamps.swept(result, now);
        if held {
            self.move_owed = self.move_owed.map(|at| at.min(now));
            if self.failures == 0 {
                self.not_before = self.not_before.min(now);
            }
        }
    }

    /// The first failure may only mean that somebody else was faster, so the next attempt follows at once.
    fn failed(&mut self, error: String, now: Millis) {
        self.error = Some(error);
        if self.failures > 0 {
            let pause = FIRST_PAUSE.saturating_mul(1 << (self.failures - 1).min(10));
            self.not_before = now + pause.min(LONGEST_PAUSE);
        }
        self.failures = self.failures.saturating_add(1);
    }

    /// A sweep of stamps, once it is time. It goes on beside everything else.
    pub(crate) fn sweep(&mut self, now: Millis) -> Option<Action> {
        self.stamps.sweep(now).map(Action::SweepStamps)
    }

    /// Why stamps cannot be swept, if they cannot.
    pub(crate) fn stamps_error(&self) -> Option<&str> {
        self.stamps.error()
    }

    /// When [`Rules::step`] or [`Rules::sweep`] has something to do although nothing happens.
    pub(crate) fn timeout(&self) -> Option<Millis> {
        [self.step_at(), self.stamps.timeout()].into_iter().flatten().min()
    }

    fn step_at(&self) -> Option<Millis> {
        if self.stamps.hold() && !self.stamps.has_table() && !self.read_wanted {
            return None;
        }
        if self.io != Io::Idle || !(self.read_wanted || self.applied < self.version) {
            return None;
        }
        // Where only the move of the generation is left to do, it waits for its time.
        let at = self.move_owed.filter(|_| !self.read_wanted && self.is_written());
        Some(self.not_before.max(at.unwrap_or_default()))
    }

    /// Whether the kernel has all that was compiled, but perhaps for a move of the generation.
    fn is_written(&self) -> bool {
        self.compiled == self.version && self.steps.is_empty() && matches!(self.kernel, Kernel::Compiled)
    }

    /// The next step. Before `may_write` only a read. `endpoints` are asked for when their `revision` has moved on.
    pub(crate) fn step(
        &mut self,
        now: Millis,
        may_write: bool,
        compiler: &mut Compiler,
        revision: u64,
        endpoints: impl FnOnce() -> Vec<Endpoint>,
    ) -> Option<Action> {
        if self.io != Io::Idle || now < self.not_before {
            return None;
        }
        if let Some(step) = self.steps.pop_front() {
            self.io = Io::Applying;
            return Some(Action::ApplyRules(step));
        }
        if self.read_wanted {
            self.read_wanted = false;
            self.io = Io::Reading;
            return Some(Action::ReadRules);
        }
        if !may_write || self.applied >= self.version {
            return None;
        }
        self.mask = compiler.mark_mask();
        if !self.stamps.has_table() && !self.stamps.allow(self.generation, self.mask) {
            return None;
        }
        if self.is_written() && self.move_owed.is_some_and(|at| now < at) {
            return None;
        }
        let mut update = if self.compiled_for == Some(revision) {
            compiler.follow(self.generation)
        } else {
            compiler.update(&endpoints(), self.generation)
        };
        self.compiled = self.version;
        self.compiled_for = Some(revision);
        // A kernel that was not as compiled before is compared as a whole, whatever the compiler changed.
        if let Kernel::Other(kernel) = std::mem::replace(&mut self.kernel, Kernel::Compiled) {
            if kernel == *compiler.table() {
                self.distrusted = false;
            }
            update = kernel.into();
        }
        // With `policyExistingConnections: Keep`, what an earlier run stamped is taken as it is.
        self.distrusted &= self.claimed || !compiler.keeps_connections();
        if self.distrusted || self.reevaluate || self.move_owed.is_some() || compiler.must_move(&update) {
            // What is denied from now on is denied to new flows at once. Those that are under way end with the move, and who waits for
            // this version waits for that.
            let next = compiler.next_generation(self.generation, &update);
            self.move_owed = self.move_at(now, next);
            match self.move_owed {
                None => {
                    (self.distrusted, self.reevaluate) = (false, false);
                    self.generation = next;
                    self.moves += 1;
                    compiler.move_generation(self.generation, &mut update);
                }
                // The stamps of a table that was otherwise made may mean something else in this one.
                Some(at) if !update.is_in_parts() => {
                    self.not_before = at;
                    self.kernel = Kernel::Other(update.before(compiler.table()));
                    return None;
                }
                Some(_) => {}
            }
        }
        self.commit(update, compiler.table())
    }

    /// Asks for what is to be written. If a refusal comes instead of a yes, the kernel is read before it is looked at again.
    fn commit(&mut self, update: Update, table: &Ruleset) -> Option<Action> {
        let transaction = update.transaction(table);
        let makes = if self.move_owed.is_some() { self.applied } else { self.version };
        // A table that an earlier process left as it is wanted is only adopted.
        if self.claimed && transaction.commands.is_empty() {
            self.applied = makes;
            self.failures = 0;
            self.error = None;
            return None;
        }
        self.unconfirmed = Some(update);
        self.steps_make = makes;
        self.steps = transaction.batches(BATCH).into();
        self.io = Io::Applying;
        Some(Action::ApplyRules(self.steps.pop_front().unwrap_or_default()))
    }

    /// When the generation may move, if not now; if now, that is counted.
    fn move_at(&mut self, now: Millis, next: Generation) -> Option<Millis> {
        if !self.stamps.allow(next, self.mask) {
            return Some(now + SWEEP_PAUSE);
        }
        self.credit = (self.credit + now.saturating_sub(self.credit_at)).min(MOVE_CREDIT);
        self.credit_at = now;
        if self.credit < MOVE_COST {
            return Some(now + (MOVE_COST - self.credit));
        }
        self.credit -= MOVE_COST;
        None
    }
}
