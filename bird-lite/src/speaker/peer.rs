//! A peer: what is configured of it, its next attempt to connect, its connections, and what is kept for it while it restarts.

use core::time::Duration;
use std::net::IpAddr;

use crate::config::PeerConfig;
use crate::fsm::Session;
use crate::wire::Families;
use crate::{ConnectionId, State, Time};

/// Attempts that follow each other fast before a peer counts as unreachable.
const QUICK_ATTEMPTS: u32 = 6;

/// What is under way to get a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attempt {
    /// Nothing: shut down, passive, or a session is on its way.
    None,
    /// The next attempt is at this time. `idle`: the last session ended with an error, and the peer is Idle until then.
    Waiting { at: Time, idle: bool },
    /// The next attempt is due, and waits for one of others to end.
    Queued,
    /// TCP is connecting, until this time.
    Connecting { connection: ConnectionId, until: Time },
}

/// A connection with its session.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) connection: ConnectionId,
    /// We opened it.
    pub(super) outgoing: bool,
    /// Our address on it.
    pub(super) local: IpAddr,
    pub(super) session: Session,
}

/// A peer.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) config: PeerConfig,
    pub(super) attempt: Attempt,
    /// Attempts in a row that led to nothing.
    pub(super) failures: u32,
    /// None, one, or for a moment two.
    pub(super) links: Vec<Link>,
    /// The state that was last shown, and since when it holds.
    pub(super) shown: State,
    pub(super) since: Time,
    pub(super) last_error: String,
    /// A session was established before, so our forwarding state for this peer outlives sessions.
    pub(super) was_established: bool,
    /// Families of which the peer has sent its End-of-RIB in this session.
    pub(super) ended: Families,
    /// Families with paths from before the peer's restart.
    pub(super) stale: Families,
    /// When it goes: it is configured no longer, and gets time for others to take its place.
    pub(super) retires_at: Option<Time>,
    /// Until when it is a client still, though it is configured as none any more.
    pub(super) client_until: Option<Time>,
    /// When these go: the peer is away until then at most, or is back and has to confirm them by then.
    pub(super) stale_until: Option<Time>,
}

impl Peer {
    pub(super) fn new(now: Time, config: PeerConfig) -> Self {
        Self {
            config,
            attempt: Attempt::None,
            failures: 0,
            links: Vec::new(),
            shown: State::Idle,
            since: now,
            last_error: String::new(),
            was_established: false,
            ended: Families::NONE,
            stale: Families::NONE,
            retires_at: None,
            client_until: None,
            stale_until: None,
        }
    }

    pub(super) fn link(&mut self, connection: ConnectionId) -> Option<&mut Link> {
        self.links.iter_mut().find(|link| link.connection == connection)
    }

    pub(super) fn established(&self) -> Option<&Link> {
        self.links.iter().find(|link| link.session.state() == State::Established)
    }

    /// Whether a session has come so far that no other is wanted.
    pub(super) fn is_engaged(&self) -> bool {
        self.links.iter().any(|link| link.session.state() >= State::OpenConfirm)
    }

    pub(super) fn state(&self) -> State {
        let attempt = match self.attempt {
            Attempt::None if self.config.passive => State::Active,
            Attempt::None | Attempt::Waiting { idle: true, .. } => State::Idle,
            Attempt::Waiting { idle: false, .. } | Attempt::Queued => State::Active,
            Attempt::Connecting { .. } => State::Connect,
        };
        self.links.iter().map(|link| link.session.state()).chain([attempt]).max().unwrap_or(State::Idle)
    }

    pub(super) fn timeout(&self) -> Option<Time> {
        let attempt = match self.attempt {
            Attempt::None | Attempt::Queued => None,
            Attempt::Waiting { at, .. } => Some(at),
            Attempt::Connecting { until, .. } => Some(until),
        };
        let sessions = self.links.iter().filter_map(|link| link.session.timeout());
        let others = [attempt, self.stale_until, self.retires_at, self.client_until];
        sessions.chain(others.into_iter().flatten()).min()
    }

    /// Whether routes are reflected for it.
    pub(super) fn is_client(&self) -> bool {
        self.config.client || self.client_until.is_some()
    }

    /// Whether so many attempts have led to nothing that the next have no hurry.
    pub(super) fn is_unreachable(&self) -> bool {
        self.failures >= QUICK_ATTEMPTS && self.links.is_empty()
    }

    /// The pause before the next attempt: short at first, doubling up to `longest`.
    pub(super) fn pause(&self, longest: Duration) -> Duration {
        const FIRST: Duration = Duration::from_millis(200);
        let doublings = self.failures.saturating_sub(1).min(16);
        FIRST.saturating_mul(1 << doublings).min(longest)
    }
}
