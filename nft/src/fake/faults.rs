//! What goes wrong between an agent and the kernel, on purpose: errors at given transactions, or at random ones.

use std::collections::BTreeMap;

use crate::executor::{Reason, Refused};

/// `ENOMEM`, `EINTR`, `ENOBUFS` and `EAGAIN` as Linux numbers them.
const ENOMEM: i32 = 12;
const EINTR: i32 = 4;
const ENOBUFS: i32 = 105;
const EAGAIN: i32 = 11;

/// Something that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// `ENOMEM`: the kernel refuses the first command for want of memory. Nothing changes.
    NoMemory,
    /// `EPERM`: the kernel refuses the first command, such as when another process owns the table. Nothing changes.
    NotPermitted,
    /// `EINTR` while the batch is sent. Nothing changes.
    Interrupted,
    /// `ENOBUFS` while the batch is sent. Nothing changes.
    NoBuffers,
    /// `ERESTART`: somebody else changed nf_tables meanwhile. Nothing changes, and the table must be read first.
    Stale,
    /// The batch takes effect, and the answer is lost (`ENOBUFS`): the table must be read first.
    AnswerLost,
    /// The batch is swallowed, as one without its end is, and no answer comes (`EAGAIN`): the table must be read first.
    NoAnswer,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::NoMemory,
        Self::NotPermitted,
        Self::Interrupted,
        Self::NoBuffers,
        Self::Stale,
        Self::AnswerLost,
        Self::NoAnswer,
    ];

    /// Whether the transaction takes effect all the same.
    pub(super) fn takes_effect(self) -> bool {
        self == Self::AnswerLost
    }

    /// What its author is told, with the first command in words.
    pub(super) fn error(self, what: String) -> super::Error {
        match self {
            Self::NoMemory => Refused { command: 0, what, reason: Reason::Os(ENOMEM) }.into(),
            Self::NotPermitted => Refused { command: 0, what, reason: Reason::NotPermitted }.into(),
            Self::Interrupted => super::Error::Unsent(EINTR),
            Self::NoBuffers => super::Error::Unsent(ENOBUFS),
            Self::Stale => super::Error::Stale,
            Self::AnswerLost => super::Error::NoAnswer(ENOBUFS),
            Self::NoAnswer => super::Error::NoAnswer(EAGAIN),
        }
    }
}

/// Which transactions and readings go wrong, and how.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    transactions: BTreeMap<u64, Fault>,
    reads: BTreeMap<u64, Fault>,
    random: Option<Random>,
    /// How many of each there have been.
    transaction: u64,
    read: u64,
}

/// Chances out of a hundred, from a seed.
#[derive(Debug, Clone)]
struct Random {
    state: u64,
    percent: u64,
}

impl Random {
    fn fault(&mut self) -> Option<Fault> {
        // splitmix64
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        let which = usize::try_from((z >> 32) % Fault::ALL.len() as u64).unwrap_or_default();
        (z % 100 < self.percent).then_some(Fault::ALL[which])
    }
}

impl Faults {
    /// None.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Of the transactions from now on, so many out of a hundred go wrong, and as many readings; a seed is enough to see it again.
    #[must_use]
    pub fn random(seed: u64, percent: u8) -> Self {
        Self { random: Some(Random { state: seed, percent: percent.into() }), ..Self::default() }
    }

    /// The transaction of this number goes wrong, counted from 0 from now on.
    #[must_use]
    pub fn transaction(mut self, number: u64, fault: Fault) -> Self {
        self.transactions.insert(number, fault);
        self
    }

    /// The reading of this number goes wrong, counted from 0 from now on. A fault of transactions alone is like no answer there.
    #[must_use]
    pub fn read(mut self, number: u64, fault: Fault) -> Self {
        self.reads.insert(number, fault);
        self
    }

    pub(super) fn next_transaction(&mut self) -> Option<Fault> {
        let number = self.transaction;
        self.transaction += 1;
        self.transactions.remove(&number).or_else(|| self.random.as_mut()?.fault())
    }

    pub(super) fn next_read(&mut self) -> Option<Fault> {
        let number = self.read;
        self.read += 1;
        self.reads.remove(&number).or_else(|| self.random.as_mut()?.fault())
    }
}
