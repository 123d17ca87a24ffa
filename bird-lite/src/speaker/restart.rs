//! Graceful restart (RFC 4724).
//!
//! *As the helper* we keep the routes of a peer whose session ended without a NOTIFICATION, marked stale, for the restart time that it
//! asked for. When it is back with its forwarding state (F bit), they stay until its End-of-RIB or the stale timer; what it has not
//! announced again by then goes. Without the F bit, they go at once.
//!
//! *As the restarting speaker* we set the R and F bits, learn what all peers know, and only then select routes, tell them, and end with
//! our End-of-RIB; the deferral timer bounds the wait. Routes of our own need no selection, and are told at once.

use core::time::Duration;
use std::collections::BTreeSet;

use super::{Converged, Report, Speaker};
use crate::Time;
use crate::fsm::Negotiated;
use crate::rib::{Fate, PeerId};
use crate::wire::{Families, Family};

/// How long peers that have restarted at the same time get to tell us their own routes.
const SETTLE_TIME: Duration = Duration::from_secs(2);

/// What a restarting speaker waits for.
#[derive(Debug)]
pub(super) struct Deferral {
    /// Peers that have not told all they know.
    waiting: BTreeSet<PeerId>,
    /// Of those, the ones that have restarted as well: their End-of-RIB may wait for ours.
    restarting: BTreeSet<PeerId>,
    /// When to go on without them.
    pub(super) deadline: Time,
    /// Nodes whose best path is a peer's, to be told at the end.
    pub(super) deferred: Vec<u32>,
}

impl Speaker {
    pub(super) fn start_deferral(&mut self, now: Time) {
        let waiting = self.peers.keys().copied().collect();
        let deadline = now + self.config.deferral_time;
        self.deferral = Some(Deferral { waiting, restarting: BTreeSet::new(), deadline, deferred: Vec::new() });
        self.converged = Converged::Deferred;
        self.converge_if_complete();
    }

    /// A peer has restarted as well, so neither may wait for the other (RFC 4724, 4.1). Its own routes are on their way, though: once
    /// only such peers are left, they get a moment.
    fn wait_briefly_for(&mut self, now: Time, id: PeerId) {
        if let Some(deferral) = &mut self.deferral {
            deferral.restarting.insert(id);
            if deferral.waiting.is_subset(&deferral.restarting) {
                deferral.deadline = deferral.deadline.min(now + SETTLE_TIME);
            }
        }
    }

    /// Nothing more is to be expected of a peer.
    pub(super) fn done_waiting_for(&mut self, now: Time, id: PeerId) {
        if let Some(deferral) = &mut self.deferral
            && deferral.waiting.remove(&id)
            && deferral.waiting.is_subset(&deferral.restarting)
        {
            deferral.deadline = deferral.deadline.min(now + SETTLE_TIME);
        }
        self.converge_if_complete();
    }

    fn converge_if_complete(&mut self) {
        if self.deferral.as_ref().is_some_and(|deferral| deferral.waiting.is_empty()) {
            self.converge();
        }
    }

    /// Ends the deferral: routes are selected from now on.
    pub(super) fn converge(&mut self) {
        let Some(deferral) = self.deferral.take() else { return };
        let missing = deferral
            .waiting
            .difference(&deferral.restarting)
            .filter_map(|id| self.peers.get(id))
            .map(|peer| peer.config.name.clone());
        let missing = missing.collect();
        self.rib.requeue(deferral.deferred);
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
        match restart {
            // It will not send the marker.
            None => self.done_waiting_for(now, id),
            Some(restart) if restart.restarting => self.wait_briefly_for(now, id),
            Some(_) => {}
        }
    }

    /// The peer has told all it knows of a family.
    pub(super) fn end_of_rib(&mut self, now: Time, id: PeerId, family: Family) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.ended.insert(family);
        let wanted =
            peer.established().and_then(|link| link.session.negotiated()).map(|negotiated| negotiated.families);
        let complete = wanted.is_some_and(|wanted| wanted.iter().all(|family| peer.ended.contains(family)));
        if peer.stale.remove(family) {
            if peer.stale.is_empty() {
                peer.stale_until = None;
            }
            self.rib.sweep(id, Families::from_iter([family]));
        }
        if complete {
            self.done_waiting_for(now, id);
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
