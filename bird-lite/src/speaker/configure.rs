//! A new configuration: what it says is compared with what runs, and only what differs is touched.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::Speaker;
use super::peer::Peer;
use crate::Time;
use crate::config::{Config, Originated, PeerConfig};
use crate::rib::PeerId;
use crate::wire::{Attributes, Notification};

impl Speaker {
    /// Runs `config` from now on. Sessions go on unless our identity, or what is configured of their peer, makes that impossible; new
    /// timers hold from the next session on. Of two peers with one address the last counts.
    pub fn configure(&mut self, now: Time, config: Config) {
        let reset_all = self.config.needs_reset(&config);
        let next_hops_differ =
            (self.config.next_hop_v4, self.config.next_hop_v6) != (config.next_hop_v4, config.next_hop_v6);
        let old = core::mem::replace(&mut self.config, config);
        let wanted: BTreeMap<IpAddr, PeerConfig> =
            self.config.peers.iter().map(|peer| (peer.address.to_canonical(), peer.clone())).collect();

        let known: Vec<_> = self.by_address.iter().map(|(address, id)| (*address, *id)).collect();
        for (address, id) in known {
            if !wanted.contains_key(&address) {
                self.remove_peer(now, id, address);
            }
        }
        for (address, peer) in wanted {
            self.set_peer(now, address, peer, reset_all);
        }
        let originate = self.config.originate.clone();
        self.originate(&old.originate, &originate);
        if next_hops_differ {
            self.regroup();
        }
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

    fn set_peer(&mut self, now: Time, address: IpAddr, config: PeerConfig, reset: bool) {
        let Some(&id) = self.by_address.get(&address) else {
            let id = PeerId(self.next_peer);
            self.next_peer += 1;
            self.by_address.insert(address, id);
            self.peers.insert(id, Peer::new(now, config));
            if !self.down {
                self.start(now, id);
            }
            return;
        };
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let old = core::mem::replace(&mut peer.config, config);
        let changed = old != peer.config;
        if reset || old.needs_reset(&peer.config) {
            self.stop(now, id, Some(&Notification::configuration_change()), "its configuration changed");
            self.drop_routes(id);
        } else if changed && !peer.is_engaged() {
            self.abandon(now, id);
        }
        if !self.down && self.peers.get(&id).is_some_and(|peer| peer.links.is_empty()) && (changed || reset) {
            self.start(now, id);
        }
        self.show(now, id);
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
                ..Attributes::default()
            });
            self.rib.announce(prefix, PeerId::LOCAL, &attributes, None);
        }
    }

    /// Moves every peer into the group that it belongs to now; what it is told there replaces what it was told before.
    fn regroup(&mut self) {
        let ids: Vec<_> = self.peers.keys().copied().collect();
        for id in ids {
            let Some((connection, key)) = self.group_key(id) else { continue };
            if !self.groups.iter().any(|group| *group.key() == key && group.has(id)) {
                let told = self.leave(id);
                self.join(id, connection, told.into_iter(), false);
            }
        }
    }
}
