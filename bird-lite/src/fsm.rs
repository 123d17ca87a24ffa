//! One TCP connection to a peer, from OPEN to its end: the states OpenSent, OpenConfirm and Established of RFC 4271, section 8.
//!
//! ```text
//!             TCP is up: OPEN sent          OPEN received: KEEPALIVE sent        KEEPALIVE received
//!  (Connect/Active) ───────────► OpenSent ───────────────────────► OpenConfirm ──────────────────► Established
//! ```
//!
//! Idle, Connect and Active belong to the peer, which may have two connections for a moment (see `speaker::peer`). A [`Session`] takes
//! bytes and time and hands out [`Step`]s; what it wants to send is in its outbox. Every [`Fault`] ends it.

use core::time::Duration;
use std::net::Ipv4Addr;

use bytes::{Buf, Bytes, BytesMut};

use crate::Time;
use crate::view::State;
use crate::wire::header::{self, MessageType};
use crate::wire::notification::OPEN_ERROR;
use crate::wire::update::Context;
use crate::wire::{
    AS_TRANS, Capability, Families, Fault, GracefulRestart, MAX_EXTENDED_MESSAGE, MAX_MESSAGE, Notification, Open,
    RouteRefresh,
};

/// How long the peer may take with its OPEN (RFC 4271, 8.2.2 suggests four minutes).
const OPEN_HOLD_TIME: Duration = Duration::from_secs(240);
/// A hold timer that is looked at this much too late says more of us than of the peer, whose messages may wait in the socket ...
const STALL: Duration = Duration::from_secs(1);
/// ... so the peer gets this much more, once.
const STALL_GRACE: Duration = Duration::from_secs(5);

/// Cuts a stream into messages. Holds the part of one message at most between two pieces of the stream.
#[derive(Debug)]
pub(crate) struct Framer {
    partial: BytesMut,
    chunk: Bytes,
    /// The largest message that there may be.
    limit: usize,
}

impl Default for Framer {
    fn default() -> Self {
        Self { partial: BytesMut::new(), chunk: Bytes::new(), limit: MAX_MESSAGE }
    }
}

impl Framer {
    /// Adds the stream's next piece. All messages of the piece before must have been taken.
    pub(crate) fn push(&mut self, chunk: Bytes) {
        debug_assert!(self.chunk.is_empty(), "the last piece was not read to its end");
        self.chunk = chunk;
    }

    /// The next whole message: its type and body.
    pub(crate) fn next(&mut self) -> Result<Option<(MessageType, Bytes)>, Fault> {
        if self.partial.is_empty() {
            return match header::peek_within(&self.chunk, self.limit)? {
                Some((kind, length)) if length <= self.chunk.len() => {
                    let mut message = self.chunk.split_to(length);
                    message.advance(header::HEADER_LENGTH);
                    Ok(Some((kind, message)))
                }
                _ => {
                    self.partial.extend_from_slice(&self.chunk);
                    self.chunk.clear();
                    Ok(None)
                }
            };
        }
        loop {
            let wanted = match header::peek_within(&self.partial, self.limit)? {
                Some((kind, length)) if length <= self.partial.len() => {
                    let mut message = self.partial.split_to(length).freeze();
                    message.advance(header::HEADER_LENGTH);
                    return Ok(Some((kind, message)));
                }
                Some((_, length)) => length,
                None => header::HEADER_LENGTH,
            };
            let missing = wanted - self.partial.len();
            if self.chunk.is_empty() {
                return Ok(None);
            }
            let piece = self.chunk.split_to(missing.min(self.chunk.len()));
            self.partial.extend_from_slice(&piece);
        }
    }
}

/// What we bring to a session.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) local_as: u32,
    pub(crate) remote_as: u32,
    pub(crate) router_id: Ipv4Addr,
    pub(crate) hold_time: Duration,
    pub(crate) keepalive_time: Option<Duration>,
    pub(crate) graceful_restart: GracefulRestart,
}

impl Settings {
    fn open(&self) -> Open {
        let hold_time = self.hold_time.as_secs().min(u64::from(u16::MAX)) as u16;
        let mut capabilities: Vec<_> = Families::ALL.iter().map(Capability::multiprotocol).collect();
        capabilities.push(Capability::RouteRefresh);
        capabilities.push(Capability::EnhancedRouteRefresh);
        capabilities.push(Capability::ExtendedMessage);
        capabilities.push(Capability::GracefulRestart(self.graceful_restart.clone()));
        Open::new(self.local_as, hold_time, self.router_id, capabilities)
    }
}

/// What both OPENs together say.
#[derive(Debug, Clone)]
pub(crate) struct Negotiated {
    /// The peer's BGP identifier.
    pub(crate) router_id: Ipv4Addr,
    /// The families that both want.
    pub(crate) families: Families,
    /// AS numbers have 32 bits.
    pub(crate) four_octets: bool,
    /// The peer is in another AS.
    pub(crate) external: bool,
    /// Zero: no keepalives.
    pub(crate) hold_time: Duration,
    /// The largest UPDATE that either may send (RFC 8654).
    pub(crate) limit: usize,
    /// What is sent again has marks around it (RFC 7313).
    pub(crate) enhanced_refresh: bool,
    /// The peer's capability, if it has it.
    pub(crate) graceful_restart: Option<GracefulRestart>,
}

impl Negotiated {
    /// How to read the peer's UPDATEs.
    pub(crate) fn context(&self) -> Context {
        Context { four_octets: self.four_octets, external: self.external }
    }

    /// The families whose routes stay when the session drops (RFC 4724, 4.2).
    pub(crate) fn retained(&self) -> Families {
        match &self.graceful_restart {
            Some(restart) if !restart.restart_time.is_zero() => {
                self.families.iter().filter(|family| restart.forwarding(*family).is_some()).collect()
            }
            _ => Families::NONE,
        }
    }
}

/// What a message did to a session.
#[derive(Debug)]
pub(crate) enum Step {
    /// Nothing that concerns others.
    None,
    /// The peer's OPEN is good, KEEPALIVE is sent: a collision has to be resolved now.
    Opened,
    /// Routes may flow.
    Established,
    /// An UPDATE's body.
    Update(Bytes),
    /// The peer wants a family again.
    Refresh(RouteRefresh),
    /// The peer ends the session.
    Notified(Notification),
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Session {
    settings: Settings,
    state: State,
    negotiated: Option<Negotiated>,
    framer: Framer,
    outbox: BytesMut,
    hold: Option<Time>,
    stalled: bool,
    keepalive: Option<Time>,
    established_at: Time,
}

impl Session {
    /// A session over a connection that has just come up: OPEN is in the outbox.
    pub(crate) fn start(now: Time, settings: Settings) -> Self {
        let mut outbox = BytesMut::new();
        settings.open().encode(&mut outbox);
        Self {
            settings,
            state: State::OpenSent,
            negotiated: None,
            framer: Framer::default(),
            outbox,
            hold: Some(now + OPEN_HOLD_TIME),
            stalled: false,
            keepalive: None,
            established_at: now,
        }
    }

    pub(crate) fn state(&self) -> State {
        self.state
    }

    /// What was negotiated, from OpenConfirm on.
    pub(crate) fn negotiated(&self) -> Option<&Negotiated> {
        self.negotiated.as_ref()
    }

    /// When it became Established.
    pub(crate) fn established_at(&self) -> Time {
        self.established_at
    }

    /// Adds bytes that were received.
    pub(crate) fn push(&mut self, bytes: Bytes) {
        self.framer.push(bytes);
    }

    /// What is to be sent.
    pub(crate) fn take_outbox(&mut self) -> Option<Bytes> {
        (!self.outbox.is_empty()).then(|| self.outbox.split().freeze())
    }

    /// Writes a NOTIFICATION into the outbox.
    pub(crate) fn notify(&mut self, notification: &Notification) {
        notification.encode(&mut self.outbox);
    }

    /// Handles the next message that was received whole; `None` where there is none. `jitter` is between 0.75 and 1.
    pub(crate) fn step(&mut self, now: Time, jitter: f64) -> Result<Option<Step>, Fault> {
        let Some((kind, body)) = self.framer.next()? else { return Ok(None) };
        let step = match (kind, self.state) {
            (MessageType::Notification, _) => {
                let none = || Notification::new(0, 0, Bytes::new());
                Step::Notified(Notification::decode(&body).unwrap_or_else(none))
            }
            (MessageType::Open, State::OpenSent) => self.opened(now, jitter, &body)?,
            (MessageType::Keepalive, State::OpenConfirm) => {
                self.state = State::Established;
                self.established_at = now;
                self.restart_hold(now);
                Step::Established
            }
            (MessageType::Keepalive, State::Established) => {
                self.restart_hold(now);
                Step::None
            }
            (MessageType::Update, State::Established) => {
                self.restart_hold(now);
                Step::Update(body)
            }
            (MessageType::RouteRefresh, State::Established) => Step::Refresh(RouteRefresh::decode(&body)?),
            (kind, state) => {
                let subcode = match state {
                    State::OpenSent => 1,
                    State::OpenConfirm => 2,
                    State::Established => 3,
                    State::Idle | State::Connect | State::Active => 0,
                };
                let notification = Notification::unexpected(subcode, kind);
                return Err(Fault { notification, reason: "the message does not fit the session's state" });
            }
        };
        Ok(Some(step))
    }

    fn opened(&mut self, now: Time, jitter: f64, body: &[u8]) -> Result<Step, Fault> {
        let negotiated = negotiate(&self.settings, &Open::decode(body)?)?;
        self.framer.limit = negotiated.limit;
        self.negotiated = Some(negotiated);
        self.state = State::OpenConfirm;
        self.restart_hold(now);
        self.send_keepalive(now, jitter);
        Ok(Step::Opened)
    }

    fn restart_hold(&mut self, now: Time) {
        let hold_time = self.negotiated.as_ref().map_or(OPEN_HOLD_TIME, |negotiated| negotiated.hold_time);
        self.hold = (!hold_time.is_zero()).then(|| now + hold_time);
        self.stalled = false;
    }

    fn send_keepalive(&mut self, now: Time, jitter: f64) {
        header::encode_keepalive(&mut self.outbox);
        let hold_time = self.negotiated.as_ref().map_or(Duration::ZERO, |negotiated| negotiated.hold_time);
        let third = hold_time / 3;
        let period = self.settings.keepalive_time.map_or(third, |time| time.min(third));
        self.keepalive = (!hold_time.is_zero()).then(|| now + period.max(Duration::from_secs(1)).mul_f64(jitter));
    }

    /// When it wants [`Session::handle_timeout`] called.
    pub(crate) fn timeout(&self) -> Option<Time> {
        [self.hold, self.keepalive].into_iter().flatten().min()
    }

    /// Runs the timers that are due.
    pub(crate) fn handle_timeout(&mut self, now: Time, jitter: f64) -> Result<(), Fault> {
        if let Some(deadline) = self.hold.filter(|deadline| *deadline <= now) {
            if now.saturating_sub(deadline) < STALL || self.stalled {
                let notification = Notification::hold_timer_expired();
                return Err(Fault { notification, reason: "the peer was silent for the hold time" });
            }
            self.stalled = true;
            self.hold = Some(now + STALL_GRACE);
        }
        if self.keepalive.is_some_and(|deadline| deadline <= now) {
            self.send_keepalive(now, jitter);
        }
        Ok(())
    }
}

/// Judges the peer's OPEN by what we know of the peer (RFC 4271, 6.2).
fn negotiate(settings: &Settings, open: &Open) -> Result<Negotiated, Fault> {
    let bad_as = |reason| Err(Fault::new(OPEN_ERROR, 2, Vec::new(), reason));
    if open.as_number() != settings.remote_as {
        return bad_as("the peer's AS number is not the configured one");
    }
    if open.four_octet_as().is_none() && open.my_as == AS_TRANS {
        return bad_as("the peer says AS 23456, which is reserved, and no 4-octet number");
    }
    let external = settings.local_as != settings.remote_as;
    if !external && open.router_id == settings.router_id {
        let data = open.router_id.octets().to_vec();
        return Err(Fault::new(OPEN_ERROR, 3, data, "the peer has our own BGP identifier: they must differ"));
    }
    let families = open.families().intersection(Families::ALL);
    if families.is_empty() {
        let mut data = BytesMut::new();
        Families::ALL.iter().for_each(|family| Capability::multiprotocol(family).encode(&mut data));
        return Err(Fault::new(OPEN_ERROR, 7, data.freeze(), "the peer wants neither IPv4 nor IPv6 unicast"));
    }
    Ok(Negotiated {
        router_id: open.router_id,
        families,
        four_octets: open.four_octet_as().is_some(),
        external,
        hold_time: settings.hold_time.min(Duration::from_secs(u64::from(open.hold_time))),
        limit: if open.extended_message() { MAX_EXTENDED_MESSAGE } else { MAX_MESSAGE },
        enhanced_refresh: open.enhanced_refresh(),
        graceful_restart: open.graceful_restart().cloned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(local_as: u32, remote_as: u32, id: u8) -> Settings {
        Settings {
            local_as,
            remote_as,
            router_id: Ipv4Addr::new(10, 0, 0, id),
            hold_time: Duration::from_secs(90),
            keepalive_time: None,
            graceful_restart: GracefulRestart::default(),
        }
    }

    const ZERO: Time = Duration::ZERO;

    fn feed(session: &mut Session, bytes: &[u8]) -> Result<Vec<Step>, Fault> {
        session.push(Bytes::copy_from_slice(bytes));
        let mut steps = Vec::new();
        while let Some(step) = session.step(ZERO, 1.0)? {
            steps.push(step);
        }
        Ok(steps)
    }

    #[test]
    fn two_sessions_open_each_other_byte_by_byte() {
        let mut left = Session::start(ZERO, settings(65001, 4_200_000_000, 1));
        let mut right = Session::start(ZERO, settings(4_200_000_000, 65001, 2));
        for _ in 0..2 {
            for (from, to) in [(0, 1), (1, 0)] {
                let sessions = [&mut left, &mut right];
                let bytes = sessions[from].take_outbox().unwrap_or_default();
                let [a, b] = sessions;
                let to = if to == 0 { a } else { b };
                for byte in bytes {
                    feed(to, &[byte]).expect("both are well-behaved");
                }
            }
        }
        assert_eq!((left.state(), right.state()), (State::Established, State::Established));
        let negotiated = left.negotiated().expect("it is established");
        assert!(negotiated.four_octets && negotiated.external);
        assert_eq!(negotiated.families, Families::ALL);
    }

    fn fault_of_open(open: &Open) -> Notification {
        let mut session = Session::start(ZERO, settings(65000, 65000, 1));
        let mut bytes = BytesMut::new();
        open.encode(&mut bytes);
        feed(&mut session, &bytes).expect_err("the OPEN is bad").notification
    }

    #[test]
    fn bad_opens_get_their_codes() {
        let good = Open::new(65000, 90, Ipv4Addr::new(10, 0, 0, 2), vec![]);
        let code = |open: Open| {
            let notification = fault_of_open(&open);
            (notification.code, notification.subcode, notification.data.to_vec())
        };
        assert_eq!(code(Open::new(65001, 90, good.router_id, vec![])), (2, 2, vec![]));
        assert_eq!(code(Open { hold_time: 2, ..good.clone() }), (2, 6, vec![0, 2]));
        assert_eq!(code(Open { router_id: Ipv4Addr::UNSPECIFIED, ..good.clone() }), (2, 3, vec![0; 4]));
        assert_eq!(code(Open { router_id: Ipv4Addr::new(10, 0, 0, 1), ..good.clone() }), (2, 3, vec![10, 0, 0, 1]));
        let vpn = Capability::Multiprotocol { afi: 1, safi: 128 };
        let supported = vec![1, 4, 0, 1, 0, 1, 1, 4, 0, 2, 0, 1];
        assert_eq!(code(Open::new(65000, 90, good.router_id, vec![vpn])), (2, 7, supported));
    }

    #[test]
    fn bad_version_parameter_and_length_get_their_codes() {
        let mut good = BytesMut::new();
        Open::new(65000, 90, Ipv4Addr::new(10, 0, 0, 2), vec![]).encode(&mut good);
        let code = |at: usize, byte: u8| {
            let mut bytes = good.to_vec();
            bytes[at] = byte;
            let fault = feed(&mut Session::start(ZERO, settings(65000, 65000, 1)), &bytes).expect_err("it is bad");
            (fault.notification.code, fault.notification.subcode, fault.notification.data.to_vec())
        };
        assert_eq!(code(0, 0), (1, 1, vec![]));
        assert_eq!(code(17, 18), (1, 2, vec![0, 18]));
        assert_eq!(code(18, 9), (1, 3, vec![9]));
        assert_eq!(code(19, 3), (2, 1, vec![0, 4]));
        assert_eq!(code(29, 1), (2, 4, vec![1]));
        assert_eq!(code(28, 3), (2, 0, vec![]));
        assert_eq!(code(18, 4), (1, 2, vec![0, 37]));
    }

    #[test]
    fn a_message_out_of_turn_is_an_error_of_the_state_machine() {
        let mut session = Session::start(ZERO, settings(65000, 65000, 1));
        let mut bytes = BytesMut::new();
        header::encode_keepalive(&mut bytes);
        let fault = feed(&mut session, &bytes).expect_err("KEEPALIVE before OPEN");
        assert_eq!(fault.notification, Notification::new(5, 1, vec![4]));
    }

    #[test]
    fn silence_ends_it_after_the_hold_time_but_a_stall_of_our_own_does_not_count() {
        let mut session = Session::start(ZERO, settings(65000, 65000, 1));
        let mut bytes = BytesMut::new();
        Open::new(65000, 9, Ipv4Addr::new(10, 0, 0, 2), vec![]).encode(&mut bytes);
        feed(&mut session, &bytes).expect("a good OPEN");
        assert_eq!(session.timeout(), Some(Duration::from_secs(3)), "keepalive at a third of the smaller hold time");
        session.handle_timeout(Duration::from_secs(3), 0.75).expect("only a keepalive");
        assert_eq!(session.timeout(), Some(Duration::from_millis(5250)));
        let late = Duration::from_secs(20);
        session.handle_timeout(late, 1.0).expect("we were asleep ourselves");
        let fault = session.handle_timeout(late + STALL_GRACE, 1.0).expect_err("still silent");
        assert_eq!(fault.notification.code, 4);
    }
}
