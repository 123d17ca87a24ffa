//! A new configuration: what it says is compared with what runs, and only what differs is touched.

use core::time::Duration;
use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::peer::Peer;
use super::{ConnectionId, Speaker};
use crate::Time;
use crate::config::{Config, Originated, PeerConfig, PeerKind};
use crate::export::GroupKey;
use crate::rib::{Judged, PeerId};
use crate::wire::{Attributes, Notification};

/// How long sessions of a mesh go on after its end, and reflectors go on after a mesh has taken their place.
const RETIRE_TIME: Duration = Duration::from_secs(10);

impl Speaker {
    /// Runs `config` from now on. Sessions go on unless our identity, or what is configured of their peer, makes that impossible; new
    /// timers hold from the next session on, and everything else at once. Of two peers with one address the last counts.
    pub fn configure(&mut self, now: Time, config: Config) {
        let reset_all = self.config.needs_reset(&config);
        let cluster_differs = self.config.cluster_id != config.cluster_id;
        let old = core::mem::replace(&mut self.config, config);
        let wanted: BTreeMap<IpAddr, PeerConfig> =
            self.config.peers.iter().map(|peer| (peer.address.to_canonical(), peer.clone())).collect();

        let mesh_ends = !wanted.is_empty() && wanted.values().all(|peer| peer.kind != PeerKind::Mesh);
        let known: Vec<_> = self.by_address.iter().map(|(address, id)| (*address, *id)).collect();
        for (address, id) in known {
            if wanted.contains_key(&address) {
                continue;
            }
            let retires = self.peers.get(&id).is_some_and(|peer| {
                mesh_ends && !reset_all && peer.config.kind == PeerKind::Mesh && peer.established().is_some()
            });
            if retires {
                self.retire(now, id);
            } else {
                self.remove_peer(now, id, address);
            }
        }
        let mut judge = Vec::new();
        for (address, peer) in wanted {
            if let Some(id) = self.set_peer(now, address, peer, reset_all).filter(|_| !reset_all) {
                judge.push(id);
            }
        }
        if cluster_differs {
            judge = self.peers.keys().copied().collect();
        }
        for id in judge {
            self.judge_again(id);
        }
        let originate = self.config.originate.clone();
        self.originate(&old.originate, &originate);
        self.regroup();
    }

    /// Keeps a session of a mesh that ends for a while, so that those who tell its routes from now on can do so first. The other side does
    /// the same.
    fn retire(&mut self, now: Time, id: PeerId) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.retires_at.get_or_insert(now + RETIRE_TIME);
        }
        self.show(now, id);
    }

    /// Lets a peer go whose time is over, or ends what was reflected for it.
    pub(super) fn retire_timeout(&mut self, now: Time, id: PeerId) {
        if let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.client_until.is_some_and(|until| until <= now)) {
            peer.client_until = None;
            self.rib.set_client(id, false);
            self.regroup();
            self.show(now, id);
        }
        let Some(peer) = self.peers.get(&id).filter(|peer| peer.retires_at.is_some_and(|at| at <= now)) else { return };
        let address = peer.config.address.to_canonical();
        self.remove_peer(now, id, address);
    }

    fn remove_peer(&mut self, now: Time, id: PeerId, address: IpAddr) {
        self.stop(now, id, Some(&Notification::peer_deconfigured()), "no longer configured");
        self.drop_routes(id);
        self.peers.remove(&id);
        self.schedule.remove(id);
        self.by_address.remove(&address);
        self.rib.forget(id);
        self.done_waiting_for(id);
    }

    /// Takes a peer's configuration over. Answers the peer if its routes are to be judged again.
    fn set_peer(&mut self, now: Time, address: IpAddr, config: PeerConfig, reset: bool) -> Option<PeerId> {
        let Some(&id) = self.by_address.get(&address) else {
            let id = PeerId(self.next_peer);
            self.next_peer += 1;
            self.by_address.insert(address, id);
            self.peers.insert(id, Peer::new(now, config));
            if !self.down {
                self.start(now, id);
            }
            return None;
        };
        let peer = self.peers.get_mut(&id)?;
        let old = core::mem::replace(&mut peer.config, config);
        peer.retires_at = None;
        let changed = old != peer.config;
        let judge = old.judges_otherwise(&peer.config);
        peer.client_until = None;
        if old.client && peer.config.kind == PeerKind::Mesh && peer.established().is_some() && !peer.config.client {
            peer.client_until = Some(now + RETIRE_TIME);
        }
        let client = peer.is_client();
        if reset || old.needs_reset(&peer.config) {
            self.stop(now, id, Some(&Notification::configuration_change()), "its configuration changed");
            self.drop_routes(id);
        } else if changed && !peer.is_engaged() {
            self.abandon(now, id);
        } else {
            self.rib.set_client(id, client && !self.rib.is_external(id));
        }
        if !self.down && self.peers.get(&id).is_some_and(|peer| peer.links.is_empty()) && (changed || reset) {
            self.start(now, id);
        }
        self.show(now, id);
        judge.then_some(id)
    }

    /// Announces what is new, and withdraws what is gone.
    fn originate(&mut self, old: &[Originated], new: &[Originated]) {
        let wanted: BTreeMap<IpNet, &Originated> = new.iter().map(|item| (item.prefix.trunc(), item)).collect();
        for item in old {
            let prefix = item.prefix.trunc();
            if !wanted.contains_key(&prefix) {
                self.rib.withdraw(&prefix, PeerId::LOCAL);
            }
        }
        for (prefix, item) in wanted {
            let attributes = self.rib.intern(Attributes {
                med: item.med,
                local_pref: item.local_pref,
                communities: item.communities.clone(),
                large_communities: item.large_communities.clone(),
                ..Attributes::default()
            });
            let judged = Judged { attributes, rejection: None, original: None };
            self.rib.announce(prefix, PeerId::LOCAL, &judged);
        }
        let with_interface = new.iter().filter_map(|item| Some((item.prefix.trunc(), item.interface.clone()?)));
        self.rib.set_interfaces(with_interface.collect());
    }

    /// Moves every peer into the group that it belongs to now. Where nothing but their policy has changed for all members of a group, they
    /// are told what differs; otherwise what they are told replaces all that they were told before.
    fn regroup(&mut self) {
        let mut moves: Vec<(GroupKey, Vec<(PeerId, ConnectionId)>)> = Vec::new();
        for id in self.peers.keys() {
            let Some((connection, key)) = self.group_key(*id) else { continue };
            if self.groups.iter().any(|group| *group.key() == key && group.has(*id)) {
                continue;
            }
            match moves.iter_mut().find(|(other, _)| *other == key) {
                Some((_, members)) => members.push((*id, connection)),
                None => moves.push((key, vec![(*id, connection)])),
            }
        }
        let mut adopted = false;
        for (key, members) in moves {
            let ids: Vec<_> = members.iter().map(|(id, _)| *id).collect();
            let is_new = self.groups.iter().all(|group| *group.key() != key);
            let theirs = self.groups.iter_mut().find(|group| ids.first().is_some_and(|id| group.has(*id)));
            if is_new && theirs.is_some_and(|group| group.adopt(&key, &ids)) {
                adopted = true;
                continue;
            }
            for (id, connection) in members {
                let told = self.leave(id);
                self.join(id, connection, told.into_iter(), false);
            }
        }
        if adopted {
            self.rib.requeue_all();
        }
    }
}
