//! What the peer's messages do: to its session, and to the table.

use core::time::Duration;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use ipnet::IpNet;

use super::{ConnectionId, Report, Speaker};
use crate::Time;
use crate::filter::{Outcome, Policy, Subject};
use crate::fsm::Step;
use crate::rib::{Judged, PeerId, Rejection};
use crate::wire::attribute::Blemish;
use crate::wire::{Attributes, Community, Families, Family, Fault, Nlri, Update};

impl Speaker {
    pub(super) fn received(&mut self, now: Time, connection: ConnectionId, bytes: Bytes) {
        let Some(&id) = self.by_connection.get(&connection) else { return };
        if let Some(link) = self.peers.get_mut(&id).and_then(|peer| peer.link(connection)) {
            link.session.push(bytes);
        }
        let jitter = self.jitter();
        while let Some(link) = self.peers.get_mut(&id).and_then(|peer| peer.link(connection)) {
            let done = match link.session.step(now, jitter) {
                Ok(None) => break,
                Ok(Some(step)) => self.stepped(now, id, connection, step),
                Err(fault) => Err(fault),
            };
            if let Err(fault) = done {
                self.fail(now, id, connection, &fault);
                return;
            }
        }
        self.settle(now, id, Duration::ZERO);
    }

    fn stepped(&mut self, now: Time, id: PeerId, connection: ConnectionId, step: Step) -> Result<(), Fault> {
        match step {
            Step::None => {}
            Step::Opened => self.resolve_collision(now, id, connection),
            Step::Established => {
                self.settle(now, id, Duration::ZERO);
                self.session_up(now, id, connection);
            }
            Step::Update(body) => self.update(id, connection, &body)?,
            Step::Refresh(request) => {
                let marks = self.group_key(id).is_some_and(|(_, key)| key.marks);
                // A mark that was not offered, and any further subtype, is not understood (RFC 7313, 5).
                match (request.subtype, Family::from_numbers(request.afi, request.safi)) {
                    (0, Some(family)) => self.refresh(id, family),
                    (1, Some(family)) if marks => self.refresh_begins(now, id, family),
                    (2, Some(family)) if marks => self.refresh_ends(id, family),
                    _ => {}
                }
            }
            Step::Notified(notification) => self.notified(now, id, connection, &notification),
        }
        Ok(())
    }

    fn update(&mut self, id: PeerId, connection: ConnectionId, body: &[u8]) -> Result<(), Fault> {
        let Some(link) = self.peers.get_mut(&id).and_then(|peer| peer.link(connection)) else { return Ok(()) };
        let Some(negotiated) = link.session.negotiated() else { return Ok(()) };
        let (context, families, local) = (negotiated.context(), negotiated.families, link.local);
        let update = Update::decode(body, context)?;
        for prefix in update.lost() {
            if families.contains(Family::of(&prefix)) {
                self.rib.withdraw(&prefix, id);
            }
        }
        if let Some(attributes) = update.attributes {
            let reach = update.reach.filter(|reach| !reach.nlri.is_empty());
            if let Some(next_hop) = update.next_hop.filter(|_| !update.announced.is_empty()) {
                let attributes = Attributes { next_hop: IpAddr::V4(next_hop), ..attributes.clone() };
                self.announce(id, local, families, update.announced, attributes);
            }
            if let Some(reach) = reach {
                let attributes = Attributes { next_hop: reach.next_hop, link_local: reach.link_local, ..attributes };
                self.announce(id, local, families, reach.nlri, attributes);
            }
        }
        if let Some(family) = update.end_of_rib.filter(|family| families.contains(*family)) {
            self.end_of_rib(id, family);
        }
        for Blemish { code, verdict } in update.blemishes {
            if let Some(config) = self.peers.get(&id).map(|peer| &peer.config) {
                let (peer, address) = (config.name.clone(), config.address);
                self.report(Report::Malformed { peer, address, attribute: code, verdict });
            }
        }
        Ok(())
    }

    fn announce(&mut self, id: PeerId, local: IpAddr, families: Families, nlri: Nlri<'_>, mut attributes: Attributes) {
        if !families.contains(nlri.family()) {
            return;
        }
        // Its sender is about to go: any other way is better (RFC 8326, 4).
        if attributes.has(Community::GRACEFUL_SHUTDOWN) && self.rib.is_external(id) {
            attributes.local_pref = Some(0);
        }
        let attributes = self.rib.intern(attributes);
        let Some(policy) = self.peers.get(&id).map(|peer| Arc::clone(&peer.config.import)) else { return };
        if policy.is_trivial() {
            let rejection = self.judge(id, Some(local), &attributes);
            let judged = Judged { attributes, rejection, original: None };
            nlri.prefixes().for_each(|prefix| self.rib.announce(prefix, id, &judged));
            return;
        }
        for prefix in nlri.prefixes() {
            let judged = self.import(id, Some(local), &policy, prefix, &attributes);
            self.rib.announce(prefix, id, &judged);
        }
    }

    /// Judges all that a peer has told by what is configured of it now.
    pub(super) fn judge_again(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get(&id) else { return };
        let (policy, local) = (Arc::clone(&peer.config.import), peer.established().map(|link| link.local));
        for (prefix, attributes) in self.rib.told_by(id) {
            let judged = self.import(id, local, &policy, prefix, &attributes);
            self.rib.judge_again(&prefix, id, &judged);
        }
    }

    /// What a route becomes between the peer and the table.
    fn import(
        &mut self,
        id: PeerId,
        local: Option<IpAddr>,
        policy: &Policy,
        prefix: IpNet,
        attributes: &Arc<Attributes>,
    ) -> Judged {
        let mut judged =
            Judged { attributes: Arc::clone(attributes), rejection: self.judge(id, local, attributes), original: None };
        if judged.rejection.is_none() {
            match policy.judge(Subject { prefix: &prefix, attributes, from_peer: true, interface: None }) {
                Outcome::Pass => {}
                Outcome::Reject => judged.rejection = Some(Rejection::Filter),
                Outcome::Change(changed) => {
                    judged.attributes = self.rib.intern(*changed);
                    judged.original = Some(Arc::clone(attributes));
                }
            }
        }
        judged
    }

    /// Whether a route with these attributes may be used. `local`: our address on the session, if there is one.
    fn judge(&self, id: PeerId, local: Option<IpAddr>, attributes: &Attributes) -> Option<Rejection> {
        let config = &self.config;
        let peer = &self.peers.get(&id)?.config;
        let own_hop = Some(attributes.next_hop) == local
            || config.next_hop_v4.is_some_and(|own| attributes.next_hop == IpAddr::V4(own))
            || config.next_hop_v6.is_some_and(|own| attributes.next_hop == IpAddr::V6(own));
        let local_as = self.local_as(peer);
        let own_as = |number: &u32| *number == config.local_as || *number == local_as;
        if attributes.as_path.numbers().filter(own_as).count() > usize::from(peer.allowed_own_as) {
            Some(Rejection::AsLoop)
        } else if attributes.originator_id == Some(config.router_id) {
            Some(Rejection::OriginatorLoop)
        } else if attributes.cluster_list.contains(&self.cluster_id()) {
            Some(Rejection::ClusterLoop)
        } else if own_hop {
            Some(Rejection::OwnNextHop)
        } else if peer.remote_as != local_as && attributes.as_path.neighbour() != Some(peer.remote_as) {
            Some(Rejection::FirstAs)
        } else {
            None
        }
    }
}
