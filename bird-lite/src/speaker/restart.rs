//! Graceful restart (RFC 4724).
//!
//! *As the helper* we keep the routes of a peer whose session ended without a NOTIFICATION, marked stale, for the restart time that it
//! asked for. When it is back with its forwarding state (F bit), they stay until its End-of-RIB or the stale timer; what it has not
//! announced again by then goes. Without the F bit, they go at once.
//!
//! *As the restarting speaker* we set the R and F bits and learn what all peers know. Meanwhile the FIB holds what an earlier run left in
//! it, and each thing waits for no more than it must:
//!
//! * A route that the FIB does not have goes into it at once.
//! * A route that it has, by some gateway, stays until the peer behind that gateway has spoken: until a path by the gateway is known for the
//!   prefix, and best path selection has had it among its candidates; or until the peer has told all it knows. So no route is replaced by a
//!   worse one only because the better peer is slow.
//! * Routes of our own are told at once; those of peers when all peers that are there have finished, since selection may yet change them.
//! * Our End-of-RIB, after which peers give up what we have not confirmed, comes when nothing can follow that they would be told; and
//!   [`RibUpdate::Converged`](crate::RibUpdate), after which our own FIB is swept, when no peer is left to confirm anything, or nothing is
//!   left to confirm. The deferral timer bounds both.
//!
//! A peer without a session for [`PRESENCE_TIME`] is absent: it delays the sweep, for its routes may be good, but nothing else.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use rustc_hash::{FxHashMap, FxHashSet};

use super::peer::Peer;
use super::{Converged, Report, Speaker};
use crate::Time;
use crate::fsm::Negotiated;
use crate::rib::{Fate, Node, PeerId};
use crate::view::{Awaited, DeferralView};
use crate::wire::{Families, Family};

/// How long a peer gets to tell us its own routes whose End-of-RIB may not come: it has restarted as well, and must not wait for us nor we
/// for it (RFC 4724, 4.1), or it does not know graceful restart.
const SETTLE_TIME: Duration = Duration::from_secs(2);
/// How long a peer that is alive may take to get a session with us.
const PRESENCE_TIME: Duration = Duration::from_secs(5);

/// What a restarting speaker waits for.
#[derive(Debug)]
pub(super) struct Deferral {
    /// Peers that have not told all they know.
    waiting: BTreeMap<PeerId, Wait>,
    /// When to go on without them.
    deadline: Time,
    /// Whether only routes of our own are told.
    own_only: bool,
    /// Nodes whose best path is a peer's, to be told when that is over.
    pub(super) deferred: Vec<u32>,
    /// Routes in the FIB that nobody has confirmed or replaced, with their gateways.
    kept: FxHashMap<IpNet, IpAddr>,
    /// Nodes with paths that do not replace a kept route yet.
    held: BTreeSet<u32>,
    /// Next hops of the peers that have told all they know.
    spoken: FxHashSet<IpAddr>,
}

/// What is awaited of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// A session, until this time.
    Session(Time),
    /// Nothing for now: it did not get a session in time.
    Absent,
    /// Its End-of-RIB.
    EndOfRib,
    /// Its own routes, which are there by this time.
    OwnRoutes(Time),
}

impl Deferral {
    /// Whether a peer that is there, or may be any moment, has yet to say something.
    fn is_listening(&self) -> bool {
        self.waiting.values().any(|wait| *wait != Wait::Absent)
    }

    /// Whether the best path of a node must not replace the route in the FIB yet. If it may, the route counts as replaced.
    pub(super) fn holds_back(&mut self, number: u32, node: &Node, by_address: &FxHashMap<IpAddr, PeerId>) -> bool {
        let Some(gateway) = self.kept.get(&node.prefix) else { return false };
        let known = node.paths.iter().any(|path| path.attributes.next_hop == *gateway);
        let awaited = match by_address.get(gateway) {
            Some(id) => self.waiting.get(id).is_some_and(|wait| *wait != Wait::Absent),
            // A third party's next hop, or a peer's address of the other family.
            None => !self.spoken.contains(gateway) && self.is_listening(),
        };
        if !known && awaited {
            self.held.insert(number);
            return true;
        }
        self.kept.remove(&node.prefix);
        if self.kept.is_empty() && !self.is_listening() {
            // Nothing is left that the sweep could take away.
            self.deadline = Time::ZERO;
        }
        false
    }

    /// When something is over.
    pub(super) fn timeout(&self) -> Time {
        let waits = self.waiting.values().filter_map(|wait| match wait {
            Wait::Session(until) | Wait::OwnRoutes(until) => Some(*until),
            Wait::Absent | Wait::EndOfRib => None,
        });
        waits.fold(self.deadline, Time::min)
    }

    pub(super) fn view(&self, peers: &BTreeMap<PeerId, Peer>) -> DeferralView {
        let waiting = self.waiting.iter().filter_map(|(id, wait)| {
            let awaited = match wait {
                Wait::Session(_) => Awaited::Expected,
                Wait::Absent => Awaited::Absent,
                Wait::EndOfRib | Wait::OwnRoutes(_) => Awaited::Telling,
            };
            Some((peers.get(id)?.config.name.clone(), awaited))
        });
        let mut waiting: Vec<_> = waiting.collect();
        waiting.sort_by(|a, b| a.0.cmp(&b.0));
        DeferralView { waiting, unconfirmed: self.kept.len(), deadline: self.deadline }
    }
}

impl Speaker {
    pub(super) fn start_deferral(&mut self, now: Time, kept: Vec<(IpNet, IpAddr)>) {
        self.deferral = Some(Deferral {
            waiting: self.peers.keys().map(|id| (*id, Wait::Session(now + PRESENCE_TIME))).collect(),
            deadline: now + self.config.deferral_time,
            own_only: true,
            deferred: Vec::new(),
            kept: kept.into_iter().map(|(prefix, gateway)| (prefix.trunc(), gateway)).collect(),
            held: BTreeSet::new(),
            spoken: FxHashSet::default(),
        });
        self.converged = Converged::Deferred;
        self.review();
    }

    /// Whether peers are told of our own routes only.
    pub(super) fn tells_own_only(&self) -> bool {
        self.deferral.as_ref().is_some_and(|deferral| deferral.own_only)
    }

    /// Whether peers may yet be told of routes of the earlier run. Within our AS, those are our own and those of other ASes: what one of
    /// its speakers says is told to the next by a reflector only.
    pub(super) fn defers_end_of_rib(&self, external: bool) -> bool {
        self.deferral.as_ref().is_some_and(|deferral| {
            let mut awaited = deferral.waiting.keys().filter_map(|id| self.peers.get(id));
            external || self.rib.reflects() || awaited.any(|peer| peer.config.remote_as != self.local_as(&peer.config))
        })
    }

    fn wait_for(&mut self, id: PeerId, wait: Wait) {
        if let Some(known) = self.deferral.as_mut().and_then(|deferral| deferral.waiting.get_mut(&id)) {
            *known = wait;
        }
    }

    /// The session with a peer has ended, and there may be another soon.
    pub(super) fn expect_again(&mut self, now: Time, id: PeerId) {
        self.wait_for(id, Wait::Session(now + PRESENCE_TIME));
    }

    /// Nothing more is to be expected of a peer.
    pub(super) fn done_waiting_for(&mut self, id: PeerId) {
        if let Some(deferral) = &mut self.deferral
            && deferral.waiting.remove(&id).is_some()
        {
            deferral.spoken.extend(self.rib.next_hops_of(id));
            self.review();
        }
    }

    /// Some peer is not waited for any more: does what had to wait for it.
    fn review(&mut self) {
        let Some(deferral) = &mut self.deferral else { return };
        self.rib.requeue_fib(core::mem::take(&mut deferral.held));
        self.pump = true;
        if deferral.is_listening() {
            return;
        }
        if deferral.waiting.is_empty() || deferral.kept.is_empty() {
            self.converge();
            return;
        }
        deferral.own_only = false;
        self.rib.requeue(core::mem::take(&mut deferral.deferred));
    }

    pub(super) fn deferral_timeout(&mut self, now: Time) {
        let Some(deferral) = &mut self.deferral else { return };
        if deferral.deadline <= now {
            self.converge();
            return;
        }
        let mut done = Vec::new();
        let mut absent = false;
        for (id, wait) in &mut deferral.waiting {
            match wait {
                Wait::Session(until) if *until <= now => {
                    *wait = Wait::Absent;
                    absent = true;
                }
                Wait::OwnRoutes(until) if *until <= now => done.push(*id),
                _ => {}
            }
        }
        if absent {
            self.review();
        }
        for id in done {
            self.done_waiting_for(id);
        }
    }

    /// Ends the deferral.
    fn converge(&mut self) {
        let Some(deferral) = self.deferral.take() else { return };
        let missing = deferral.waiting.keys().filter_map(|id| self.peers.get(id)).map(|peer| peer.config.name.clone());
        let missing = missing.collect();
        self.rib.requeue(deferral.deferred);
        self.rib.requeue_fib(deferral.held);
        self.converged = Converged::Due;
        self.pump = true;
        self.report(Report::Converged { missing });
    }

    /// The peer's session ended, and it may be back. Whether routes were kept.
    pub(super) fn peer_is_away(&mut self, now: Time, id: PeerId, negotiated: &Negotiated) -> bool {
        let retained = negotiated.retained();
        // What it had not confirmed since its last restart is not kept for a second one.
        self.rib.walk(
            id,
            |family, path| {
                if retained.contains(family) && !path.stale { Fate::Stale } else { Fate::Drop }
            },
        );
        let Some(peer) = self.peers.get_mut(&id) else { return false };
        let restart_time = negotiated.graceful_restart.as_ref().map(|restart| restart.restart_time);
        peer.stale = retained;
        peer.stale_until = restart_time.filter(|_| !retained.is_empty()).map(|time| now + time);
        !retained.is_empty()
    }

    /// A session with the peer is established.
    pub(super) fn peer_is_back(&mut self, now: Time, id: PeerId, negotiated: &Negotiated) {
        let restart = negotiated.graceful_restart.as_ref();
        let kept = |family: Family| {
            negotiated.families.contains(family) && restart.and_then(|restart| restart.forwarding(family)) == Some(true)
        };
        if let Some(peer) = self.peers.get_mut(&id) {
            let lost: Families = peer.stale.iter().filter(|family| !kept(*family)).collect();
            peer.stale = peer.stale.iter().filter(|family| kept(*family)).collect();
            peer.stale_until = (!peer.stale.is_empty()).then(|| now + self.config.stale_time);
            if !lost.is_empty() {
                self.rib.sweep(id, lost);
            }
        }
        let waits_for_none = restart.is_some_and(|restart| !restart.restarting);
        self.wait_for(id, if waits_for_none { Wait::EndOfRib } else { Wait::OwnRoutes(now + SETTLE_TIME) });
    }

    /// The peer has told all it knows of a family.
    pub(super) fn end_of_rib(&mut self, id: PeerId, family: Family) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.ended.insert(family);
        let wanted =
            peer.established().and_then(|link| link.session.negotiated()).map(|negotiated| negotiated.families);
        let complete = wanted.is_some_and(|wanted| wanted.iter().all(|family| peer.ended.contains(family)));
        self.refresh_ends(id, family);
        if complete {
            self.done_waiting_for(id);
        }
    }

    /// The peer tells a family again from here on (RFC 7313, 4): what it does not tell is gone.
    pub(super) fn refresh_begins(&mut self, now: Time, id: PeerId, family: Family) {
        let of_family = |kin| if kin == family { Fate::Stale } else { Fate::Keep };
        self.rib.walk(id, |kin, _| of_family(kin));
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.stale.insert(family);
            peer.stale_until = Some(now + self.config.stale_time);
        }
    }

    /// The peer has told a family again.
    pub(super) fn refresh_ends(&mut self, id: PeerId, family: Family) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.stale.remove(family) {
            if peer.stale.is_empty() {
                peer.stale_until = None;
            }
            self.rib.sweep(id, Families::from_iter([family]));
        }
    }

    /// Drops what a peer has not confirmed in time.
    pub(super) fn restart_timeout(&mut self, now: Time, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.stale_until.is_some_and(|until| until <= now) {
            peer.stale_until = None;
            let stale = core::mem::take(&mut peer.stale);
            self.rib.sweep(id, stale);
        }
    }
}
