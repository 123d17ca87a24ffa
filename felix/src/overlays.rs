//! Which pools are carried by an overlay, and by which ends: of this node, and of the others.
//!
//! Where another node's end is, and what its address is, its Node says in Calico's annotations; its hardware address follows from its
//! name, as in Calico, unless an annotation says another. What is sent to a pod of another node goes to that node's end, by a route
//! that BGP brought (its next hop is the node) or that a block's affinity tells (`blocks` below): so that an overlay needs no BGP.
//!
//! An end outlives its last pool for a while ([`LINGER`]): others may not have heard yet, and what they still send by it is not to be lost.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use sha1::{Digest, Sha1};
use tortie_api::calico::{EncapMode, Tunnel};
use tortie_api::k8s::{Node, annotations};
use tortie_api::{Kind, Object, ObjectKey};

use crate::event::Millis;
use crate::host::HostRepair;

/// How long an end stays that no pool uses any more.
pub(crate) const LINGER: Millis = 10_000;

/// A hardware address.
pub type Mac = [u8; 6];

/// How this node's ends of overlays should be. Whoever is told keeps them so.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnels {
    /// A regular expression of the interfaces whose smallest MTU is that of the network between nodes.
    pub mtu_interfaces: String,
    /// How often everything is compared, besides the kernel's own events; none for never.
    pub refresh: Option<Millis>,
    /// The ends. Others are removed, and their addresses given back.
    pub ends: BTreeMap<Tunnel, TunnelEnd>,
}

/// This node's end of an overlay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelEnd {
    /// The ranges of the pools that its address may be from.
    pub pools: Vec<IpNet>,
    /// The node's own address.
    pub local: IpAddr,
    /// Its hardware address.
    pub mac: Mac,
    /// The identifier of the VXLAN.
    pub vni: u32,
    /// Its UDP port.
    pub port: u16,
    /// Its MTU; what the network between nodes leaves, if none.
    pub mtu: Option<u32>,
    /// The other nodes' ends, by their addresses; none for IPIP, which needs no tables.
    pub peers: BTreeMap<IpAddr, TunnelPeer>,
}

/// Another node's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelPeer {
    /// Its hardware address.
    pub mac: Mac,
    /// The node's own address.
    pub node: IpAddr,
}

/// What became of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelReport {
    /// The ends that are as wanted.
    pub ready: BTreeSet<Tunnel>,
    /// What others had changed, and is as it should be again.
    pub repairs: Vec<HostRepair>,
    /// Everything that cannot be as it should be now, one sentence each.
    pub problems: Vec<String>,
}

/// What FelixConfiguration says of overlays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OverlaySettings {
    /// `vxlanVNI`: the identifier of the VXLANs.
    pub vni: u32,
    /// `vxlanMTU`, `vxlanMTUV6` and `ipipMTU`, where they are set.
    pub mtus: BTreeMap<Tunnel, u32>,
    /// As pools have it, by how many bytes packets of pods become longer at most; filled in where settings are handed out.
    pub encapsulation: u32,
    /// Likewise, the smallest configured MTU of an overlay that pools use.
    pub mtu_limit: Option<u32>,
}

impl Default for OverlaySettings {
    fn default() -> Self {
        Self { vni: 4096, mtus: BTreeMap::new(), encapsulation: 0, mtu_limit: None }
    }
}

/// What of a Node matters to overlays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Place {
    ipv4: Option<IpAddr>,
    ipv6: Option<IpAddr>,
    /// The addresses of its ends.
    ends: BTreeMap<Tunnel, IpAddr>,
    /// The hardware addresses that do not follow from its name.
    macs: BTreeMap<Tunnel, Mac>,
}

impl Place {
    fn of(node: &Node) -> Self {
        let mut place = Self::default();
        let annotated = [true, false].into_iter().filter_map(|ipv4| node.network(ipv4)).map(|network| network.addr());
        for address in node.internal_ips().into_iter().chain(annotated) {
            let slot = if address.is_ipv4() { &mut place.ipv4 } else { &mut place.ipv6 };
            *slot = slot.or(Some(address));
        }
        let said = |name: &str| node.metadata.annotations.get(name);
        for tunnel in Tunnel::ALL {
            let address = said(tunnel.annotation()).and_then(|text| text.parse().ok());
            let address = address.filter(|address: &IpAddr| address.is_ipv4() == tunnel.is_ipv4());
            place.ends.extend(address.map(|address| (tunnel, address)));
        }
        for (tunnel, name) in
            [(Tunnel::VxlanV4, annotations::IPV4_VXLAN_MAC), (Tunnel::VxlanV6, annotations::IPV6_VXLAN_MAC)]
        {
            place.macs.extend(said(name).and_then(|text| parse_mac(text)).map(|mac| (tunnel, mac)));
        }
        place
    }

    const fn address(&self, ipv4: bool) -> Option<IpAddr> {
        if ipv4 { self.ipv4 } else { self.ipv6 }
    }

    fn mac(&self, name: &str, tunnel: Tunnel) -> Mac {
        self.macs.get(&tunnel).copied().unwrap_or_else(|| mac_of(name, tunnel))
    }
}

fn parse_mac(text: &str) -> Option<Mac> {
    let bytes: Option<Vec<u8>> = text.split(':').map(|part| u8::from_str_radix(part, 16).ok()).collect();
    bytes?.try_into().ok()
}

/// The hardware address that Calico derives from a node's name: an `f` and five bytes of a digest.
fn mac_of(node: &str, tunnel: Tunnel) -> Mac {
    let text = if tunnel == Tunnel::VxlanV6 { format!("{node}-v6") } else { node.to_owned() };
    let digest = Sha1::digest(text.as_bytes());
    [b'f', digest[0], digest[1], digest[2], digest[3], digest[4]]
}

/// A pool's range, and the overlay that carries its traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pool {
    cidr: IpNet,
    tunnel: Option<(Tunnel, EncapMode)>,
    /// Whether ends may have addresses of it.
    gives: bool,
}

/// Everything that is known of overlays.
#[derive(Debug, Default)]
pub(crate) struct Overlays {
    node: String,
    pools: BTreeMap<String, Pool>,
    nodes: BTreeMap<String, Place>,
    /// The ends that are wanted, and those that were until a moment ago, with the time at which they go.
    ends: BTreeMap<Tunnel, Option<Millis>>,
}

impl Overlays {
    pub(crate) fn new(node: String) -> Self {
        Self { node, ..Self::default() }
    }

    /// Takes an object in. Returns whether anything about overlays may be other now.
    pub(crate) fn upsert(&mut self, object: &Object) -> bool {
        let name = object.metadata().name.clone();
        match object {
            Object::Node(node) => {
                let place = Place::of(node);
                self.nodes.insert(name, place.clone()).as_ref() != Some(&place)
            }
            Object::IpPool(pool) => {
                let spec = &pool.spec;
                let gives = !spec.disabled && spec.allows_tunnels();
                let pool = Pool { cidr: spec.cidr.trunc(), tunnel: Tunnel::of_pool(spec), gives };
                self.pools.insert(name, pool) != Some(pool)
            }
            _ => false,
        }
    }

    /// Forgets an object, likewise.
    pub(crate) fn remove(&mut self, key: &ObjectKey) -> bool {
        match key.kind {
            Kind::Node => self.nodes.remove(&key.name).is_some(),
            Kind::IpPool => self.pools.remove(&key.name).is_some(),
            _ => false,
        }
    }

    /// Decides at `now` which ends there are. Returns whether they are others than before.
    pub(crate) fn decide(&mut self, now: Millis) -> bool {
        let before = self.ends.clone();
        let used: BTreeSet<Tunnel> = self.pools.values().filter_map(|pool| Some(pool.tunnel?.0)).collect();
        for tunnel in Tunnel::ALL {
            if used.contains(&tunnel) {
                self.ends.insert(tunnel, None);
            } else if let Some(until) = self.ends.get_mut(&tunnel) {
                until.get_or_insert(now + LINGER);
            }
        }
        self.ends.retain(|_, until| until.is_none_or(|until| until > now));
        self.ends != before
    }

    /// When [`Overlays::decide`] is due again.
    pub(crate) fn timeout(&self) -> Option<Millis> {
        self.ends.values().flatten().min().copied()
    }

    /// The overlays that this node has ends of.
    pub(crate) fn in_use(&self) -> BTreeSet<Tunnel> {
        self.ends.keys().copied().collect()
    }

    /// By how many bytes packets of pods become longer at most, on their way to other nodes.
    pub(crate) fn overhead(&self) -> u32 {
        self.pools.values().filter_map(|pool| Some(pool.tunnel?.0.overhead())).max().unwrap_or(0)
    }

    /// The smallest MTU that is configured for an overlay that pools use.
    pub(crate) fn configured_mtu(&self, settings: &OverlaySettings) -> Option<u32> {
        self.pools.values().filter_map(|pool| settings.mtus.get(&pool.tunnel?.0)).min().copied()
    }

    /// The addresses of this node's ends, with their devices.
    pub(crate) fn own_ends(&self) -> impl Iterator<Item = (IpAddr, &str)> {
        let own = self.nodes.get(&self.node);
        own.into_iter().flat_map(|place| place.ends.iter().map(|(tunnel, address)| (*address, tunnel.device())))
    }

    /// Whether this node's Node says that it has any ends.
    pub(crate) fn says_ends(&self) -> bool {
        self.own_ends().next().is_some()
    }

    /// How the ends of this node should be; and of those that cannot be, why.
    pub(crate) fn wanted(
        &self,
        settings: &OverlaySettings,
        port: u16,
        problems: &mut Vec<String>,
    ) -> BTreeMap<Tunnel, TunnelEnd> {
        let mut ends = BTreeMap::new();
        let Some(own) = self.nodes.get(&self.node) else { return ends };
        for tunnel in self.ends.keys().copied() {
            let Some(local) = own.address(tunnel.is_ipv4()) else {
                let family = if tunnel.is_ipv4() { "IPv4" } else { "IPv6" };
                problems.push(format!(
                    "pools that use {} do not work on this node: Node {} has no {family} address; give it one of type InternalIP in \
                     status.addresses, or the annotation projectcalico.org/{family}Address",
                    tunnel.as_str(),
                    self.node
                ));
                continue;
            };
            let of_tunnel = |pool: &&Pool| pool.gives && pool.tunnel.is_some_and(|(its, _)| its == tunnel);
            let pools: Vec<IpNet> = self.pools.values().filter(of_tunnel).map(|pool| pool.cidr).collect();
            // An end that only lingers keeps the address that it has.
            let kept = own.ends.get(&tunnel).map(|address| IpNet::from(*address));
            let lingers = self.ends.get(&tunnel).is_some_and(Option::is_some);
            ends.insert(
                tunnel,
                TunnelEnd {
                    pools: if lingers { kept.into_iter().collect() } else { pools },
                    local,
                    mac: own.mac(&self.node, tunnel),
                    vni: settings.vni,
                    port,
                    mtu: settings.mtus.get(&tunnel).copied(),
                    peers: self.peers(tunnel),
                },
            );
        }
        ends
    }

    /// The other nodes' ends of a VXLAN.
    fn peers(&self, tunnel: Tunnel) -> BTreeMap<IpAddr, TunnelPeer> {
        let others = self.nodes.iter().filter(|(name, _)| **name != self.node && tunnel.is_vxlan());
        let peers = others.filter_map(|(name, place)| {
            let node = place.address(tunnel.is_ipv4())?;
            Some((*place.ends.get(&tunnel)?, TunnelPeer { mac: place.mac(name, tunnel), node }))
        });
        peers.collect()
    }

    /// What routes need to know.
    pub(crate) fn ways(&self) -> Ways {
        let mut pools: Vec<(IpNet, Option<(Tunnel, bool)>)> = self
            .pools
            .values()
            .map(|pool| (pool.cidr, pool.tunnel.map(|(tunnel, mode)| (tunnel, mode == EncapMode::CrossSubnet))))
            .collect();
        pools.sort_by_key(|(cidr, _)| std::cmp::Reverse(cidr.prefix_len()));
        let mut ends = FxHashMap::default();
        if pools.iter().any(|(_, tunnel)| tunnel.is_some()) {
            for place in self.nodes.iter().filter(|(name, _)| **name != self.node).map(|(_, place)| place) {
                let told = |vxlan: Tunnel| NodeEnds {
                    vxlan: place.ends.get(&vxlan).copied(),
                    ipip: place.ends.contains_key(&Tunnel::Ipip),
                };
                ends.extend(place.ipv4.map(|node| (node, told(Tunnel::VxlanV4))));
                ends.extend(place.ipv6.map(|node| (node, told(Tunnel::VxlanV6))));
            }
        }
        Ways { pools, ends }
    }

    /// The address of the node that an end is on.
    pub(crate) fn node_of_end(&self, end: IpAddr) -> Option<IpAddr> {
        let place = self.nodes.values().find(|place| place.ends.values().any(|address| *address == end))?;
        place.address(end.is_ipv4())
    }

    /// Whether a pool is carried by an overlay: the most specific that a range is in.
    pub(crate) fn carries(&self, range: IpNet) -> bool {
        let containing = self.pools.values().filter(|pool| pool.cidr.contains(&range));
        containing.max_by_key(|pool| pool.cidr.prefix_len()).is_some_and(|pool| pool.tunnel.is_some())
    }

    /// Another node's address of a family, by its name.
    pub(crate) fn address_of(&self, node: &str, ipv4: bool) -> Option<IpAddr> {
        if node == self.node {
            return None;
        }
        self.nodes.get(node)?.address(ipv4)
    }

    /// The other nodes' ends.
    pub(crate) fn other_ends(&self) -> impl Iterator<Item = (&str, IpAddr)> {
        let others = self.nodes.iter().filter(|(name, _)| **name != self.node);
        others.flat_map(|(name, place)| place.ends.values().map(move |end| (name.as_str(), *end)))
    }
}

/// How routes to other nodes' pods lead there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ways {
    /// The pools, the most specific first, each with the overlay that carries its traffic, and whether only to other subnets.
    pools: Vec<(IpNet, Option<(Tunnel, bool)>)>,
    /// The other nodes by their addresses, with what they have told of their ends. None while no pool uses an overlay.
    ends: FxHashMap<IpAddr, NodeEnds>,
}

/// What a node has told of its ends, which it does when they are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct NodeEnds {
    /// Its end of the VXLAN of the family that its address is of.
    vxlan: Option<IpAddr>,
    /// Whether it has an end of IPIP, to which routes lead by the node's own address.
    ipip: bool,
}

/// How a packet to a destination gets to the node that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// As it is.
    Plain,
    /// Through an overlay, to this end or node; unless the node is in this node's own subnet, if so.
    Through { tunnel: Tunnel, gateway: IpAddr, unless_near: bool },
    /// Through an overlay, once the node tells its end of it; unless as above.
    Unknown { tunnel: Tunnel, unless_near: bool },
}

impl Ways {
    /// The overlay that carries what is sent to a destination.
    pub(crate) fn tunnel(&self, destination: &IpNet) -> Option<Tunnel> {
        let pool = self.pools.iter().find(|(cidr, _)| cidr.contains(destination))?;
        pool.1.map(|(tunnel, _)| tunnel)
    }

    /// The other nodes' ends of VXLANs that pools use.
    pub(crate) fn ends(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let used = |end: &IpAddr| {
            self.pools
                .iter()
                .filter_map(|(_, tunnel)| Some(tunnel.as_ref()?.0))
                .any(|tunnel| tunnel.is_vxlan() && tunnel.is_ipv4() == end.is_ipv4())
        };
        self.ends.values().filter_map(|ends| ends.vxlan).filter(used)
    }

    /// How a packet gets to a destination behind a next hop. What is behind no node is no overlay's.
    pub(crate) fn way(&self, destination: &IpNet, next_hop: IpAddr) -> Way {
        let Some((_, Some((tunnel, unless_near)))) = self.pools.iter().find(|(cidr, _)| cidr.contains(destination))
        else {
            return Way::Plain;
        };
        let (tunnel, unless_near) = (*tunnel, *unless_near);
        let Some(ends) = self.ends.get(&next_hop) else { return Way::Plain };
        let gateway = if tunnel == Tunnel::Ipip {
            ends.ipip.then_some(next_hop)
        } else {
            ends.vxlan.filter(|end| end.is_ipv4() == tunnel.is_ipv4())
        };
        match gateway {
            Some(gateway) => Way::Through { tunnel, gateway, unless_near },
            None => Way::Unknown { tunnel, unless_near },
        }
    }
}
