//! The speaker itself: all peers, the table between them, and graceful restart in both roles.
//!
//! Three kinds of methods, as in other cores without IO. *Events go in*: [`Speaker::handle_event`], [`Speaker::handle_timeout`],
//! [`Speaker::configure`], [`Speaker::shutdown`], each with the time. *Actions come out*: [`Speaker::poll_action`] until it has none,
//! then [`Speaker::poll_rib_update`] for as long as the FIB's writer has room, then [`Speaker::poll_timeout`] for when to call again.
//! *Getters* change nothing: [`Speaker::peers`], [`Speaker::routes`].
//!
//! The peers are told of changes when `poll_action` finds nothing else to do, so all events handled before it make one batch. The caller
//! should hand in what it has, a few dozen events at a time, before it polls.
//!
//! * `peer`: a peer, its attempts to connect and its one or two connections. `connect`: how these come and go, collisions included.
//! * `receive`: what messages do to the table. `restart`: graceful restart. `configure`: a new configuration.
//! * `schedule`: whose timer is next, and who may try to connect when many cannot be reached.

mod configure;
mod connect;
mod peer;
mod receive;
mod restart;
mod schedule;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bytes::Bytes;
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use self::peer::Peer;
use self::restart::Deferral;
use self::schedule::Schedule;
use crate::config::{Config, PeerConfig};
use crate::export::Group;
use crate::filter::Subject;
use crate::rib::{Node, Path, PeerId, Rejection, Rib};
use crate::view::{Counts, DeferralView, PeerView, RibUpdate, RouteView};
use crate::wire::attribute::Verdict;
use crate::wire::{Family, Notification};
use crate::{State, Time};

/// A TCP connection. The speaker numbers those that it asks for with even numbers; whoever accepts one numbers it with an odd one. No
/// number is used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ConnectionId(pub u64);

/// What happened to a connection. Events of a connection that the speaker has closed are ignored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// A connection that the speaker asked for is up.
    Connected {
        /// Which one.
        connection: ConnectionId,
        /// Our end of it.
        local: SocketAddr,
    },
    /// A connection that the speaker asked for failed.
    ConnectFailed {
        /// Which one.
        connection: ConnectionId,
        /// Why, for people.
        error: String,
    },
    /// Somebody has connected to us.
    Accepted {
        /// Its number, odd.
        connection: ConnectionId,
        /// Our end of it.
        local: SocketAddr,
        /// The other end.
        remote: SocketAddr,
    },
    /// Bytes have come, in order.
    Received {
        /// On which connection.
        connection: ConnectionId,
        /// Any part of the stream.
        bytes: Bytes,
    },
    /// So many bytes more have been written.
    Sent {
        /// On which connection.
        connection: ConnectionId,
        /// How many.
        bytes: usize,
    },
    /// The connection has ended.
    Closed {
        /// Which one.
        connection: ConnectionId,
        /// Why, for people; none: the other side closed it in order.
        error: Option<String>,
    },
}

/// What the speaker wants done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Open a connection; answer with [`Event::Connected`] or [`Event::ConnectFailed`].
    Connect {
        /// Its number.
        connection: ConnectionId,
        /// Where to.
        remote: SocketAddr,
        /// From which address; the kernel's choice if none.
        local: Option<IpAddr>,
    },
    /// Write these bytes; answer with [`Event::Sent`].
    Send {
        /// On which connection.
        connection: ConnectionId,
        /// What to write.
        bytes: Bytes,
    },
    /// Close the connection once all before is written, or give up connecting. No answer is wanted.
    Close {
        /// Which one.
        connection: ConnectionId,
    },
    /// Something that an operator may want to know.
    Report(Report),
}

/// Something that an operator may want to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// A session is established.
    Up {
        /// The peer's name.
        peer: String,
        /// Its address.
        address: IpAddr,
    },
    /// An established session has ended.
    Down {
        /// The peer's name.
        peer: String,
        /// Its address.
        address: IpAddr,
        /// Why.
        reason: String,
        /// Whether the peer's routes are kept for its restart time.
        retained: bool,
    },
    /// A connection ended before it was established, by a message of ours or the peer's.
    Failed {
        /// The peer's name.
        peer: String,
        /// Its address.
        address: IpAddr,
        /// Why.
        reason: String,
    },
    /// A connection from an address that is no peer's was refused.
    Refused {
        /// Where it came from.
        remote: SocketAddr,
    },
    /// A peer sent a malformed attribute.
    Malformed {
        /// The peer's name.
        peer: String,
        /// Its address.
        address: IpAddr,
        /// The attribute's code; 0 where the list of attributes was cut short.
        attribute: u8,
        /// What it cost.
        verdict: Verdict,
    },
    /// After a restart: routes of the earlier run that nobody has confirmed are given up now.
    Converged {
        /// The names of peers that did not finish in time.
        missing: Vec<String>,
    },
}

/// A BGP speaker.
#[derive(Debug)]
pub struct Speaker {
    config: Config,
    peers: BTreeMap<PeerId, Peer>,
    by_address: FxHashMap<IpAddr, PeerId>,
    by_connection: FxHashMap<ConnectionId, PeerId>,
    schedule: Schedule,
    next_peer: u32,
    next_connection: u64,
    rib: Rib,
    groups: Vec<Group>,
    /// Whether a slow member may have room again, or an End-of-RIB is due.
    pump: bool,
    deferral: Option<Deferral>,
    converged: Converged,
    actions: VecDeque<Action>,
    random: u64,
    down: bool,
}

/// How far [`RibUpdate::Converged`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Converged {
    Deferred,
    Due,
    Told,
}

impl Speaker {
    /// A speaker that starts at once. `seed` makes its jitter differ from that of others.
    pub fn new(now: Time, mut config: Config, seed: u64) -> Self {
        let kept = core::mem::take(&mut config.kept);
        let mut speaker = Self {
            config: Config { peers: Vec::new(), originate: Vec::new(), ..config.clone() },
            peers: BTreeMap::new(),
            by_address: FxHashMap::default(),
            by_connection: FxHashMap::default(),
            schedule: Schedule::default(),
            next_peer: PeerId::LOCAL.0 + 1,
            next_connection: 0,
            rib: Rib::new(config.writes_fib),
            groups: Vec::new(),
            pump: false,
            deferral: None,
            converged: Converged::Due,
            actions: VecDeque::new(),
            random: seed,
            down: false,
        };
        let restarting = config.restarting;
        speaker.configure(now, config);
        if restarting {
            speaker.start_deferral(now, kept);
        }
        speaker
    }

    /// Takes an event in.
    pub fn handle_event(&mut self, now: Time, event: Event) {
        match event {
            Event::Connected { connection, local } => self.connected(now, connection, local),
            Event::ConnectFailed { connection, error } => self.connect_failed(now, connection, error),
            Event::Accepted { connection, local, remote } => self.accepted(now, connection, local, remote),
            Event::Received { connection, bytes } => self.received(now, connection, bytes),
            Event::Sent { connection, bytes } => {
                self.groups.iter_mut().for_each(|group| group.sent(connection, bytes));
                self.pump = true;
            }
            Event::Closed { connection, error } => self.closed(now, connection, error),
        }
    }

    /// The next thing to do, if any. When there is nothing else, the peers are told of all that has changed.
    pub fn poll_action(&mut self) -> Option<Action> {
        if self.actions.is_empty() {
            self.flush();
        }
        self.actions.pop_front()
    }

    /// Whether [`Speaker::poll_rib_update`] may have something.
    pub fn has_rib_update(&self) -> bool {
        self.rib.has_fib_change() || self.converged == Converged::Due
    }

    /// The next change of the routes in use. While a restart is under way, routes that an earlier run left in the FIB stay as they are
    /// until whoever stands behind them has spoken.
    pub fn poll_rib_update(&mut self) -> Option<RibUpdate> {
        let Self { rib, deferral, by_address, .. } = self;
        let hold = |number: u32, node: &Node| {
            deferral.as_mut().is_some_and(|deferral| deferral.holds_back(number, node, by_address))
        };
        if let Some((prefix, hops)) = rib.next_fib_change(hold) {
            return Some(if hops.is_empty() {
                RibUpdate::Withdrawn { prefix }
            } else {
                RibUpdate::Best { prefix, next_hops: hops.to_vec() }
            });
        }
        if self.converged != Converged::Due {
            return None;
        }
        self.converged = Converged::Told;
        Some(RibUpdate::Converged)
    }

    /// When to call [`Speaker::handle_timeout`] at the latest.
    pub fn poll_timeout(&self) -> Option<Time> {
        let deferral = self.deferral.as_ref().map(Deferral::timeout);
        self.schedule.next().into_iter().chain(deferral).min()
    }

    /// Runs the timers that are due.
    pub fn handle_timeout(&mut self, now: Time) {
        for id in self.schedule.due(now) {
            self.restart_timeout(now, id);
            self.peer_timeout(now, id);
            self.retire_timeout(now, id);
        }
        self.deferral_timeout(now);
    }

    /// Ends all sessions and starts none again: with Cease, Administrative Shutdown, or without a word, so that the peers take it for a
    /// restart and keep our routes.
    pub fn shutdown(&mut self, now: Time, cease: bool) {
        self.down = true;
        self.schedule.queue.clear();
        let notification = cease.then(Notification::administrative_shutdown);
        for id in self.peers.keys().copied().collect::<Vec<_>>() {
            self.stop(now, id, notification.as_ref(), "shut down");
        }
    }

    /// What every peer does, in order of name and address.
    pub fn peers(&self) -> Vec<PeerView> {
        let mut views: Vec<_> = self
            .peers
            .iter()
            .map(|(id, peer)| {
                let counts = |family| {
                    let session = peer.established()?.session.negotiated()?;
                    session.families.contains(family).then(|| self.counts(*id, family))
                };
                PeerView {
                    name: peer.config.name.clone(),
                    kind: peer.config.kind,
                    address: peer.config.address,
                    remote_as: peer.config.remote_as,
                    state: peer.shown,
                    since: peer.since,
                    ipv4: counts(Family::Ipv4),
                    ipv6: counts(Family::Ipv6),
                    last_error: peer.last_error.clone(),
                }
            })
            .collect();
        views.sort_by(|a, b| (&a.name, a.address).cmp(&(&b.name, b.address)));
        views
    }

    fn counts(&self, id: PeerId, family: Family) -> Counts {
        let paths = self.rib.counts(id, family);
        let group = self.groups.iter().find(|group| group.has(id));
        let advertised = group.map_or(0, |group| group.advertised(id, family));
        Counts { received: paths.received, accepted: paths.accepted, advertised }
    }

    /// The restart that is under way, if one is.
    pub fn deferral(&self) -> Option<DeferralView> {
        self.deferral.as_ref().map(|deferral| deferral.view(&self.peers))
    }

    /// Every path, in order of prefix, the best first.
    pub fn routes(&self) -> Vec<RouteView> {
        let mut nodes: Vec<_> = self.rib.nodes().collect();
        nodes.sort_unstable_by_key(|node| node.prefix);
        let mut views = Vec::with_capacity(nodes.len());
        for node in nodes {
            for (path, best, reason) in self.rib.explain(node) {
                let attributes = &path.attributes;
                let local = path.peer == PeerId::LOCAL;
                let plain = attributes.communities.iter().map(ToString::to_string);
                let large = attributes.large_communities.iter().map(ToString::to_string);
                views.push(RouteView {
                    prefix: node.prefix,
                    next_hop: (!local).then_some(attributes.next_hop),
                    from: self
                        .peers
                        .get(&path.peer)
                        .map_or_else(|| "local".to_owned(), |peer| peer.config.name.clone()),
                    as_path: attributes.as_path.numbers().collect(),
                    local_pref: attributes.local_pref,
                    med: attributes.med,
                    communities: plain.chain(large).collect(),
                    originator_id: attributes.originator_id,
                    cluster_list: attributes.cluster_list.clone(),
                    best,
                    reason: self.refused_by(node, path).unwrap_or_else(|| reason.to_owned()),
                    stale: path.stale,
                });
            }
        }
        views
    }

    /// Tells all peers what has changed, and slow ones what they have missed.
    fn flush(&mut self) {
        let own_only = self.tells_own_only();
        let mut transmits = Vec::new();
        if self.rib.has_changed() {
            let changed = self.rib.take_changed();
            for group in &mut self.groups {
                group.flush(&self.rib, &changed, own_only, &mut transmits);
            }
            if let Some(deferral) = self.deferral.as_mut().filter(|_| own_only) {
                let foreign =
                    |number: &u32| self.rib.node(*number).best().is_some_and(|path| path.peer != PeerId::LOCAL);
                deferral.deferred.extend(changed.into_iter().filter(foreign));
            }
        }
        if core::mem::take(&mut self.pump) {
            let defer = [false, true].map(|external| self.defers_end_of_rib(external));
            for group in &mut self.groups {
                group.pump(&self.rib, defer[usize::from(group.key().external)], &mut transmits);
            }
        }
        if !self.groups.iter().any(Group::is_behind) {
            self.rib.release_unused();
        }
        self.actions.extend(transmits.into_iter().map(|(connection, bytes)| Action::Send { connection, bytes }));
    }

    /// Which rule refuses a path, if one does.
    fn refused_by(&self, node: &Node, path: &Path) -> Option<String> {
        let peer = self.peers.get(&path.peer).filter(|_| path.rejection == Some(Rejection::Filter))?;
        let attributes = self.rib.original(node.prefix, path);
        let subject = Subject { prefix: &node.prefix, attributes, from_peer: true, interface: None };
        let rule = peer.config.import.rule(subject)?;
        Some(format!("not usable: {} refuses it", rule.name))
    }

    /// Our AS number towards a peer.
    fn local_as(&self, peer: &PeerConfig) -> u32 {
        peer.local_as.unwrap_or(self.config.local_as)
    }

    /// The cluster that we reflect routes for (RFC 4456, 7).
    fn cluster_id(&self) -> Ipv4Addr {
        self.config.cluster_id.unwrap_or(self.config.router_id)
    }

    /// A factor between 0.75 and 1 (RFC 4271, 10). splitmix64.
    fn jitter(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.random;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^= word >> 31;
        0.75 + f64::from((word >> 32) as u32) / f64::from(u32::MAX) / 4.0
    }

    /// Whether the schedule knows every peer's timer.
    #[cfg(test)]
    fn is_on_schedule(&self) -> bool {
        self.schedule.next() == self.peers.values().filter_map(Peer::timeout).min()
    }

    fn report(&mut self, report: Report) {
        self.actions.push_back(Action::Report(report));
    }

    /// Notes the state that the peer is in now, and when it wants to be looked at next. To be called whenever either may have changed.
    fn show(&mut self, now: Time, id: PeerId) {
        if let Some(peer) = self.peers.get_mut(&id) {
            let state: State = peer.state();
            if state != peer.shown {
                peer.shown = state;
                peer.since = now;
            }
            self.schedule.set(id, peer.timeout(), peer.is_unreachable());
        }
    }
}
