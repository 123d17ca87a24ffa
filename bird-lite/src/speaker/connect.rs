//! How connections come and go: attempts and their pauses, accepted connections, collisions, timers, the end of a session.

use core::time::Duration;
use std::net::SocketAddr;
use std::sync::Arc;

use super::peer::{Attempt, Link};
use super::{Action, ConnectionId, Report, Speaker};
use crate::bestpath::Source;
use crate::export::{Group, GroupKey};
use crate::fsm::{Session, Settings};
use crate::rib::PeerId;
use crate::wire::{Families, Family, Fault, GracefulRestart, Notification, RestartFamily};
use crate::{State, Time};

/// How long TCP may take to connect: time for its third SYN, and an answer.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// Attempts that may be under way at once, each with a socket. Peers that are there answer within milliseconds; those that are not must
/// not use up a process's 1,024 files.
const MAX_CONNECTING: usize = 512;
/// How long the side with the lower address lets the other try first.
const COURTESY: Duration = Duration::from_millis(300);
/// How long an accepted connection may keep us from trying ourselves.
const PATIENCE: Duration = Duration::from_secs(10);
/// After an error in a message, the pause is at least this.
const ERROR_PAUSE: Duration = Duration::from_secs(1);
/// A second connection within this time after the first was established is a collision; later it is a restart (RFC 4724, 5).
const COLLISION_TIME: Duration = Duration::from_secs(3);

/// How a session ended.
pub(super) struct Ending<'a> {
    /// What we say, if anything.
    pub(super) notification: Option<&'a Notification>,
    /// The peer's routes may be kept: it was neither told to go nor said so itself.
    pub(super) graceful: bool,
    /// Why, for people.
    pub(super) reason: String,
}

impl Speaker {
    /// Starts trying to reach a new peer.
    pub(super) fn start(&mut self, now: Time, id: PeerId) {
        let (v4, v6) = (self.config.next_hop_v4, self.config.next_hop_v6);
        if let Some(peer) = self.peers.get_mut(&id) {
            let own = peer.config.local_address.or(match peer.config.address {
                std::net::IpAddr::V4(_) => v4.map(Into::into),
                std::net::IpAddr::V6(_) => v6.map(Into::into),
            });
            let pause = if own.is_some_and(|own| own < peer.config.address) { COURTESY } else { Duration::ZERO };
            if !peer.config.passive {
                peer.attempt = Attempt::Waiting { at: now + pause, idle: false };
            }
        }
        self.show(now, id);
    }

    fn connect(&mut self, now: Time, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.is_engaged() || peer.links.iter().any(|link| link.outgoing) {
            peer.attempt = Attempt::None;
            return;
        }
        if self.schedule.connecting >= MAX_CONNECTING {
            peer.attempt = Attempt::Queued;
            self.schedule.queue.push_back(id);
            return;
        }
        self.schedule.connecting += 1;
        let connection = ConnectionId(self.next_connection);
        self.next_connection += 2;
        peer.attempt = Attempt::Connecting { connection, until: now + CONNECT_TIME };
        let remote = SocketAddr::new(peer.config.address, peer.config.port);
        let local = peer.config.local_address;
        self.by_connection.insert(connection, id);
        self.actions.push_back(Action::Connect { connection, remote, local });
    }

    /// Gives up an attempt that is under way.
    pub(super) fn abandon(&mut self, now: Time, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if let Attempt::Connecting { connection, .. } = core::mem::replace(&mut peer.attempt, Attempt::None) {
            self.by_connection.remove(&connection);
            self.actions.push_back(Action::Close { connection });
            self.attempt_ended(now);
        }
    }

    /// There is room for another attempt: whoever waits for it longest has it.
    fn attempt_ended(&mut self, now: Time) {
        self.schedule.connecting -= 1;
        while self.schedule.connecting < MAX_CONNECTING
            && let Some(id) = self.schedule.queue.pop_front()
        {
            if self.peers.get(&id).is_some_and(|peer| peer.attempt == Attempt::Queued) {
                self.connect(now, id);
                self.show(now, id);
            }
        }
    }

    pub(super) fn connected(&mut self, now: Time, connection: ConnectionId, local: SocketAddr) {
        let Some(&id) = self.by_connection.get(&connection) else { return };
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if !matches!(peer.attempt, Attempt::Connecting { connection: mine, .. } if mine == connection) {
            return;
        }
        peer.attempt = Attempt::None;
        self.attempt_ended(now);
        self.open(now, id, connection, local, true);
    }

    pub(super) fn connect_failed(&mut self, now: Time, connection: ConnectionId, error: String) {
        let Some(id) = self.by_connection.remove(&connection) else { return };
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if matches!(peer.attempt, Attempt::Connecting { connection: mine, .. } if mine == connection) {
            peer.attempt = Attempt::None;
            peer.last_error = error;
            peer.failures = peer.failures.saturating_add(1);
            self.attempt_ended(now);
        }
        self.settle(now, id, Duration::ZERO);
    }

    pub(super) fn accepted(&mut self, now: Time, connection: ConnectionId, local: SocketAddr, remote: SocketAddr) {
        let id = self.by_address.get(&remote.ip().to_canonical()).copied().filter(|_| !self.down);
        let Some(id) = id else {
            let mut refusal = bytes::BytesMut::new();
            Notification::connection_rejected().encode(&mut refusal);
            self.actions.push_back(Action::Send { connection, bytes: refusal.freeze() });
            self.actions.push_back(Action::Close { connection });
            self.report(Report::Refused { remote });
            return;
        };
        // One that the peer opened before and has said nothing on since is one that it has given up.
        let older = self
            .peers
            .get(&id)
            .and_then(|peer| peer.links.iter().find(|link| !link.outgoing && link.session.state() == State::OpenSent));
        if let Some(older) = older.map(|link| link.connection) {
            let reason = "the peer opened another connection".to_owned();
            self.end(now, id, older, Ending { notification: None, graceful: true, reason });
        }
        if let Some(peer) = self.peers.get_mut(&id) {
            match &mut peer.attempt {
                Attempt::Waiting { at, .. } => *at = (*at).max(now + PATIENCE),
                Attempt::Queued => peer.attempt = Attempt::Waiting { at: now + PATIENCE, idle: false },
                Attempt::None | Attempt::Connecting { .. } => {}
            }
        }
        self.by_connection.insert(connection, id);
        self.open(now, id, connection, local, false);
    }

    /// Sends OPEN on a connection that has come up.
    fn open(&mut self, now: Time, id: PeerId, connection: ConnectionId, local: SocketAddr, outgoing: bool) {
        let restarting = self.deferral.is_some();
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let forwarding = self.config.restarting || peer.was_established;
        let families = Families::ALL.iter().map(|family| RestartFamily { afi: family.afi(), safi: 1, forwarding });
        let settings = Settings {
            local_as: peer.config.local_as.unwrap_or(self.config.local_as),
            remote_as: peer.config.remote_as,
            router_id: self.config.router_id,
            hold_time: self.config.hold_time,
            keepalive_time: peer.config.keepalive_time.or(self.config.keepalive_time),
            graceful_restart: GracefulRestart {
                restarting,
                restart_time: peer.config.restart_time.unwrap_or(self.config.restart_time),
                families: families.collect(),
            },
        };
        let session = Session::start(now, settings);
        peer.links.push(Link { connection, outgoing, local: local.ip().to_canonical(), session });
        self.settle(now, id, Duration::ZERO);
    }

    /// Sends what the peer's sessions have written, and sees to it that an attempt is under way where none is but should be, not before
    /// `at_least` from now.
    pub(super) fn settle(&mut self, now: Time, id: PeerId, at_least: Duration) {
        let jitter = self.jitter();
        let Some(peer) = self.peers.get_mut(&id) else { return };
        for link in &mut peer.links {
            if let Some(bytes) = link.session.take_outbox() {
                self.actions.push_back(Action::Send { connection: link.connection, bytes });
            }
        }
        if peer.links.is_empty() && peer.attempt == Attempt::None && !peer.config.passive && !self.down {
            let idle = !at_least.is_zero();
            let pause = match peer.failures {
                0 => Duration::ZERO,
                _ if peer.is_unreachable() => self.schedule.long_pause(self.config.connect_retry, jitter),
                _ => peer.pause(self.config.connect_retry).mul_f64(jitter),
            };
            peer.attempt = Attempt::Waiting { at: now + pause.max(at_least.mul_f64(jitter)), idle };
        }
        self.show(now, id);
    }

    /// The OPEN on `connection` is good. If the peer has another connection, one of both must go (RFC 4271, 6.8; RFC 4724, 5).
    pub(super) fn resolve_collision(&mut self, now: Time, id: PeerId, connection: ConnectionId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let own = (self.config.router_id, peer.config.local_as.unwrap_or(self.config.local_as));
        let remote_as = peer.config.remote_as;
        let Some(this) = peer.link(connection) else { return };
        let outgoing = this.outgoing;
        let Some(router_id) = this.session.negotiated().map(|negotiated| negotiated.router_id) else { return };
        // Of two connections, the one that the speaker with the higher identifier opened stays.
        let keep_outgoing = own > (router_id, remote_as);
        let others: Vec<_> = peer
            .links
            .iter()
            .filter(|link| link.connection != connection && link.session.state() >= State::OpenConfirm)
            .map(|link| {
                let retained = link.session.negotiated().is_some_and(|negotiated| !negotiated.retained().is_empty());
                let old = now.saturating_sub(link.session.established_at()) >= COLLISION_TIME;
                (link.connection, link.session.state(), retained && old, link.outgoing)
            })
            .collect();
        let collision = Notification::collision_resolution();
        for (other, state, restarted, other_outgoing) in others {
            let (loser, notification) = if state == State::Established {
                if restarted { (other, None) } else { (connection, Some(&collision)) }
            } else if outgoing == other_outgoing || outgoing == keep_outgoing {
                (other, Some(&collision))
            } else {
                (connection, Some(&collision))
            };
            let reason = if notification.is_some() {
                "the peer has two connections, and the other one stays".to_owned()
            } else {
                "the peer has opened a new session: it has restarted".to_owned()
            };
            self.end(now, id, loser, Ending { notification, graceful: notification.is_none(), reason });
            if loser == connection {
                return;
            }
        }
    }

    /// A session may exchange routes from now on.
    pub(super) fn session_up(&mut self, now: Time, id: PeerId, connection: ConnectionId) {
        self.abandon(now, id);
        let others: Vec<_> = self.peers.get(&id).map_or_else(Vec::new, |peer| {
            peer.links.iter().map(|link| link.connection).filter(|other| *other != connection).collect()
        });
        let collision = Notification::collision_resolution();
        for other in others {
            let reason = "the peer has two connections, and the other one is established".to_owned();
            self.end(now, id, other, Ending { notification: Some(&collision), graceful: false, reason });
        }
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.failures = 0;
        peer.was_established = true;
        peer.ended = Families::NONE;
        let (name, address, client) = (peer.config.name.clone(), peer.config.address, peer.is_client());
        let Some(negotiated) = peer.link(connection).and_then(|link| link.session.negotiated().cloned()) else {
            return;
        };
        let source = Source::Peer { external: negotiated.external, router_id: negotiated.router_id, address };
        self.rib.set_source(id, source);
        self.rib.set_client(id, client && !negotiated.external);
        self.report(Report::Up { peer: name, address });
        self.peer_is_back(now, id, &negotiated);
        self.join(id, connection, core::iter::empty(), true);
    }

    /// What a peer is told depends on these.
    pub(super) fn group_key(&self, id: PeerId) -> Option<(ConnectionId, GroupKey)> {
        let peer = self.peers.get(&id)?;
        let link = peer.established()?;
        let negotiated = link.session.negotiated()?;
        let (local_v4, local_v6) = match link.local {
            std::net::IpAddr::V4(address) => (Some(address), None),
            std::net::IpAddr::V6(address) => (None, Some(address).filter(|address| !address.is_unicast_link_local())),
        };
        let key = GroupKey {
            local_as: self.local_as(&peer.config),
            cluster_id: self.cluster_id(),
            external: negotiated.external,
            client: peer.is_client() && !negotiated.external,
            next_hop: peer.config.next_hop,
            export: Arc::clone(&peer.config.export),
            four_octets: negotiated.four_octets,
            limit: negotiated.limit,
            marks: negotiated.enhanced_refresh,
            families: negotiated.families,
            next_hop_v4: self.config.next_hop_v4.or(local_v4),
            next_hop_v6: self.config.next_hop_v6.or(local_v6),
        };
        Some((link.connection, key))
    }

    /// Puts a peer into its group. `also`: prefixes that it may have been told before, by number.
    pub(super) fn join(
        &mut self,
        id: PeerId,
        connection: ConnectionId,
        also: impl Iterator<Item = u32>,
        end_of_rib: bool,
    ) {
        let Some((_, key)) = self.group_key(id) else { return };
        let own_only = self.tells_own_only();
        let at = self.groups.iter().position(|group| *group.key() == key).unwrap_or_else(|| {
            let mut group = Group::new(key);
            let all: Vec<_> = (0..self.rib.len() as u32).collect();
            group.flush(&self.rib, &all, own_only, &mut Vec::new());
            self.groups.push(group);
            self.groups.len() - 1
        });
        self.groups[at].join(id, connection, also, end_of_rib);
        self.pump = true;
    }

    /// Takes a peer out of its group. Answers what it has been told, by number.
    pub(super) fn leave(&mut self, id: PeerId) -> Vec<u32> {
        let mut told = Vec::new();
        for group in self.groups.iter_mut().filter(|group| group.has(id)) {
            told.extend(group.told());
            group.leave(id);
        }
        self.groups.retain(|group| !group.is_empty());
        told
    }

    /// Ends one connection of a peer.
    pub(super) fn end(&mut self, now: Time, id: PeerId, connection: ConnectionId, ending: Ending<'_>) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some(at) = peer.links.iter().position(|link| link.connection == connection) else { return };
        let mut link = peer.links.remove(at);
        self.by_connection.remove(&connection);
        if let Some(notification) = ending.notification {
            link.session.notify(notification);
        }
        if let Some(bytes) = link.session.take_outbox() {
            self.actions.push_back(Action::Send { connection, bytes });
        }
        self.actions.push_back(Action::Close { connection });
        peer.last_error.clone_from(&ending.reason);
        let established = link.session.state() == State::Established;
        let (name, address) = (peer.config.name.clone(), peer.config.address);
        if established {
            self.leave(id);
            self.expect_again(now, id);
            let kept = match link.session.negotiated() {
                Some(negotiated) if ending.graceful => negotiated.clone(),
                _ => {
                    self.drop_routes(id);
                    self.report(Report::Down { peer: name, address, reason: ending.reason, retained: false });
                    return;
                }
            };
            let retained = self.peer_is_away(now, id, &kept);
            self.report(Report::Down { peer: name, address, reason: ending.reason, retained });
        } else {
            peer.failures = peer.failures.saturating_add(1);
            self.report(Report::Failed { peer: name, address, reason: ending.reason });
        }
    }

    /// A message that we cannot live with.
    pub(super) fn fail(&mut self, now: Time, id: PeerId, connection: ConnectionId, fault: &Fault) {
        let reason = format!("sent {}: {}", fault.notification, fault.reason);
        self.end(now, id, connection, Ending { notification: Some(&fault.notification), graceful: false, reason });
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.failures = peer.failures.saturating_add(1);
        }
        self.settle(now, id, ERROR_PAUSE);
    }

    /// The peer sent a NOTIFICATION.
    pub(super) fn notified(&mut self, now: Time, id: PeerId, connection: ConnectionId, notification: &Notification) {
        let reason = format!("received {notification}");
        self.end(now, id, connection, Ending { notification: None, graceful: false, reason });
        self.settle(now, id, ERROR_PAUSE);
    }

    pub(super) fn closed(&mut self, now: Time, connection: ConnectionId, error: Option<String>) {
        let Some(&id) = self.by_connection.get(&connection) else { return };
        let reason = error.unwrap_or_else(|| "the peer closed the connection".to_owned());
        self.end(now, id, connection, Ending { notification: None, graceful: true, reason });
        self.settle(now, id, Duration::ZERO);
    }

    /// Ends all that a peer has, for good or until it is started again.
    pub(super) fn stop(&mut self, now: Time, id: PeerId, notification: Option<&Notification>, reason: &str) {
        self.abandon(now, id);
        let links: Vec<_> =
            self.peers.get(&id).map_or_else(Vec::new, |peer| peer.links.iter().map(|link| link.connection).collect());
        for connection in links {
            let graceful = notification.is_none();
            self.end(now, id, connection, Ending { notification, graceful, reason: reason.to_owned() });
        }
        self.show(now, id);
    }

    /// Runs the timers of a peer's attempts and sessions.
    pub(super) fn peer_timeout(&mut self, now: Time, id: PeerId) {
        match self.peers.get(&id).map(|peer| peer.attempt) {
            Some(Attempt::Waiting { at, .. }) if at <= now => self.connect(now, id),
            Some(Attempt::Connecting { connection, until }) if until <= now => {
                // Silence says more than a refusal: whoever refuses may be starting.
                if let Some(peer) = self.peers.get_mut(&id) {
                    peer.failures = peer.failures.saturating_add(2);
                }
                self.actions.push_back(Action::Close { connection });
                self.connect_failed(now, connection, "connecting took too long".to_owned());
            }
            _ => {}
        }
        let links: Vec<_> =
            self.peers.get(&id).map_or_else(Vec::new, |peer| peer.links.iter().map(|link| link.connection).collect());
        for connection in links {
            let jitter = self.jitter();
            let link = self.peers.get_mut(&id).and_then(|peer| peer.link(connection));
            if let Some(Err(fault)) = link.map(|link| link.session.handle_timeout(now, jitter)) {
                self.fail(now, id, connection, &fault);
            }
        }
        self.settle(now, id, Duration::ZERO);
    }

    /// A peer's counts start again with nothing: all its routes go.
    pub(super) fn drop_routes(&mut self, id: PeerId) {
        self.rib.drop_families(id, Families::ALL);
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.stale = Families::NONE;
            peer.stale_until = None;
        }
    }

    /// Sends a family again.
    pub(super) fn refresh(&mut self, id: PeerId, family: Family) {
        let rib = &self.rib;
        let in_family = |number| Family::of(&rib.node(number).prefix) == family;
        self.groups.iter_mut().for_each(|group| group.refresh(id, family, in_family));
        self.pump = true;
    }
}
