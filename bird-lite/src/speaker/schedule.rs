//! When which peer is to be looked at, and how often those are tried that cannot be reached.
//!
//! A node of a large cluster has thousands of peers, and most of the time nothing is due for any of them; so timers are kept in order, and
//! an event costs what it touches. Peers that do not answer are tried less often the more of them there are: all together
//! [`ATTEMPTS_A_SECOND`] times a second. Nobody waits for that who is there: a node that comes up, or back, tries at once itself.

use core::time::Duration;
use std::collections::{BTreeSet, VecDeque};

use rustc_hash::FxHashMap;

use crate::Time;
use crate::rib::PeerId;

/// How often a second peers are tried that do not answer, all together. Each attempt costs a socket, three SYNs and some 50 us.
const ATTEMPTS_A_SECOND: u32 = 25;

/// Timers of peers, and attempts to connect.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    timers: BTreeSet<(Time, PeerId)>,
    peers: FxHashMap<PeerId, Entry>,
    /// How many peers count as unreachable.
    unreachable: u32,
    /// How many attempts are under way.
    pub(super) connecting: usize,
    /// Peers whose attempts wait for others to end, in order.
    pub(super) queue: VecDeque<PeerId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    timer: Option<Time>,
    unreachable: bool,
}

impl Schedule {
    /// Notes when a peer is to be looked at next, and whether it is unreachable.
    pub(super) fn set(&mut self, id: PeerId, timer: Option<Time>, unreachable: bool) {
        let entry = Entry { timer, unreachable };
        let before = self.peers.insert(id, entry);
        if before == Some(entry) {
            return;
        }
        self.forget(id, before);
        self.timers.extend(timer.map(|at| (at, id)));
        self.unreachable += u32::from(unreachable);
    }

    /// Forgets a peer.
    pub(super) fn remove(&mut self, id: PeerId) {
        let before = self.peers.remove(&id);
        self.forget(id, before);
    }

    fn forget(&mut self, id: PeerId, entry: Option<Entry>) {
        let Some(entry) = entry else { return };
        if let Some(at) = entry.timer {
            self.timers.remove(&(at, id));
        }
        self.unreachable -= u32::from(entry.unreachable);
    }

    /// When the next timer is due.
    pub(super) fn next(&self) -> Option<Time> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Peers whose timers are due, in order.
    pub(super) fn due(&self, now: Time) -> Vec<PeerId> {
        self.timers.iter().take_while(|(at, _)| *at <= now).map(|(_, id)| *id).collect()
    }

    /// The pause before an unreachable peer is tried again: `usual`, or longer where there are many of them. `jitter` is between 0.75 and 1;
    /// a long pause varies more, so that attempts which began together spread out.
    pub(super) fn long_pause(&self, usual: Duration, jitter: f64) -> Duration {
        let shared = Duration::from_secs(1) / ATTEMPTS_A_SECOND * self.unreachable;
        if shared <= usual { usual.mul_f64(jitter) } else { shared.mul_f64((jitter - 0.75) * 4.0 + 0.5) }
    }
}
