//! Who this node's peers are: by BGPPeers that select it, by BGPPeers that select it as the other end, and by the mesh.
//!
//! As in Calico, every node peers with every other unless `nodeToNodeMeshEnabled` is false; reflectors (nodes with a cluster ID) take no
//! part in that. A BGPPeer whose `peerSelector` or `peerIP` means a node gives that node the other end too, unless `reversePeering` is
//! `Manual`. Where several say something of one address, a BGPPeer that names the node's side goes before one for all nodes, both before
//! the other end of one, and the mesh comes last.
//!
//! Two nodes talk over IPv4 where both have an address, else over IPv6; both families travel in the one session.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use tortie_api::calico::felix::Duration;
use tortie_api::calico::{BgpPassword, BgpPeerSpec, NextHopMode, PeerAddress, ReversePeering, SourceAddress};
use tortie_api::meta::StringMap;
use tortie_bird_lite::filter::Policy;
use tortie_bird_lite::{NextHopMode as Hop, Password, PeerConfig, PeerKind};

use super::{Bgp, DEFAULT_PORT, NodeInfo, SECRETS};

/// How strongly somebody's word on a peer counts, the strongest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Word {
    OfNode,
    OfAll,
    Reverse,
    Mesh,
}

/// Peers by address, each with whose word it is: that of a BGPPeer, or of the mesh with a node.
type Found = BTreeMap<IpAddr, (Word, String, PeerConfig)>;

/// Whether a BGPPeer is for a node.
pub(super) fn selects(spec: &BgpPeerSpec, node: &str, labels: &StringMap) -> bool {
    match (&spec.node, &spec.node_selector) {
        (Some(name), _) => name == node,
        (None, Some(selector)) => selector.matches(labels),
        (None, None) => true,
    }
}

/// Where a session goes, before anything else is known of it.
struct End {
    name: String,
    address: IpAddr,
    port: u16,
    remote_as: u32,
    local: Option<IpAddr>,
    /// It is a node of the same cluster of reflectors.
    fellow: bool,
}

impl Bgp {
    /// The peers of a node, with what is wrong about them.
    pub(super) fn peers_of(&self, node: &str, own: &NodeInfo, problems: &mut Vec<String>) -> Vec<PeerConfig> {
        let mut found = Found::new();
        for (name, spec) in &self.peers {
            if spec.local_workload_selector.is_some() {
                problems.push(format!(
                    "BGPPeer {name}: spec.localWorkloadSelector is not supported by this version: pods are no peers of their node"
                ));
                continue;
            }
            if selects(spec, node, &own.labels) {
                self.forward(name, spec, (node, own), &mut found, problems);
            }
            if spec.reverse_peering != Some(ReversePeering::Manual) && self.is_target(spec, node, own) {
                self.reverse(name, spec, (node, own), &mut found, problems);
            }
        }
        let mesh = self.setting(node, |spec| spec.node_to_node_mesh_enabled).unwrap_or(true);
        if mesh && own.cluster_id.is_none() {
            self.mesh(node, own, &mut found, problems);
        }
        let mut peers: Vec<_> = found.into_values().map(|(_, _, peer)| peer).collect();
        peers.sort_by(|a, b| a.name.cmp(&b.name));
        peers
    }

    /// The sessions that a BGPPeer gives to this node.
    fn forward(
        &self,
        name: &str,
        spec: &BgpPeerSpec,
        own: (&str, &NodeInfo),
        found: &mut Found,
        problems: &mut Vec<String>,
    ) {
        let named = spec.node.is_some() || spec.node_selector.is_some();
        let (word, kind) = if named { (Word::OfNode, PeerKind::Node) } else { (Word::OfAll, PeerKind::Global) };
        let local_as = spec.local_as_number;
        if let Some(selector) = &spec.peer_selector {
            for (other, info) in
                self.nodes.iter().filter(|(other, info)| *other != own.0 && selector.matches(&info.labels))
            {
                match self.node_end(own.1, other, info) {
                    Ok(end) => self.add(name, spec, own, (word, kind, local_as), end, found, problems),
                    Err(reason) => problems.push(format!("BGPPeer {name}: no BGP session with node {other}: {reason}")),
                }
            }
            return;
        }
        let Some(PeerAddress { ip, port }) = spec.peer_ip else {
            problems.push(format!("BGPPeer {name}: it has no peer: set spec.peerIP, or spec.peerSelector for nodes"));
            return;
        };
        if own.1.has(ip) {
            return;
        }
        let remote_as = spec.as_number.unwrap_or_else(|| self.as_number(own.0, own.1));
        let other = self.nodes.iter().find(|(other, info)| info.has(ip) && self.as_number(other, info) == remote_as);
        let end = End {
            name: name.to_owned(),
            address: ip,
            port: port.or_else(|| other.map(|(other, _)| self.port(other))).unwrap_or(DEFAULT_PORT),
            remote_as,
            local: own.1.address(ip.is_ipv4()),
            fellow: other.is_some_and(|(_, info)| info.cluster_id.is_some() && info.cluster_id == own.1.cluster_id),
        };
        self.add(name, spec, own, (word, kind, local_as), end, found, problems);
    }

    /// The other ends of the sessions that a BGPPeer gives to other nodes.
    fn reverse(
        &self,
        name: &str,
        spec: &BgpPeerSpec,
        own: (&str, &NodeInfo),
        found: &mut Found,
        problems: &mut Vec<String>,
    ) {
        let others = self.nodes.iter().filter(|(other, info)| *other != own.0 && selects(spec, other, &info.labels));
        for (other, info) in others {
            match self.node_end(own.1, other, info) {
                Ok(mut end) => {
                    if spec.peer_ip.is_some_and(|peer| peer.ip.is_ipv4() != end.address.is_ipv4()) {
                        // They come to this node by its address of the other family.
                        let ipv4 = !end.address.is_ipv4();
                        let Some(address) = info.address(ipv4) else { continue };
                        (end.address, end.local) = (address, own.1.address(ipv4));
                    }
                    end.remote_as = spec.local_as_number.unwrap_or(end.remote_as);
                    self.add(name, spec, own, (Word::Reverse, PeerKind::Node, None), end, found, problems);
                }
                Err(reason) => problems.push(format!("BGPPeer {name}: no BGP session with node {other}: {reason}")),
            }
        }
    }

    /// Whether a node is the other end of a BGPPeer's sessions.
    fn is_target(&self, spec: &BgpPeerSpec, node: &str, info: &NodeInfo) -> bool {
        if let Some(selector) = &spec.peer_selector {
            return selector.matches(&info.labels);
        }
        let Some(PeerAddress { ip, port }) = spec.peer_ip else { return false };
        info.has(ip)
            && spec.as_number.is_none_or(|number| number == self.as_number(node, info))
            && port.is_none_or(|port| port == self.port(node))
    }

    fn mesh(&self, node: &str, own: &NodeInfo, found: &mut Found, problems: &mut Vec<String>) {
        let restart_time = self.setting(node, |spec| spec.node_mesh_max_restart_time).map(Duration::get);
        let password = self.setting(node, |spec| spec.node_mesh_password.clone());
        let (mut import, mut export) = (Policies::default(), Policies::default());
        for (other, info) in self.nodes.iter().filter(|(other, info)| *other != node && info.cluster_id.is_none()) {
            let end = match self.node_end(own, other, info) {
                Ok(end) => end,
                Err(reason) => {
                    problems.push(format!("no BGP session with node {other}: {reason}"));
                    continue;
                }
            };
            match found.get(&end.address) {
                Some((Word::Mesh, first, _)) => {
                    problems.push(format!(
                        "no BGP session with node {other}: its address {} is also that of node {first}",
                        end.address
                    ));
                    continue;
                }
                Some(_) => continue,
                None => {}
            }
            let external = end.remote_as != self.as_number(node, own);
            let mut peer = PeerConfig::new(other, PeerKind::Mesh, end.address, end.remote_as);
            peer.port = end.port;
            peer.local_address = end.local;
            peer.restart_time = restart_time;
            peer.import = import.of(external, || self.import(&[], external));
            peer.export = export.of(external, || self.export(&[], external));
            if let Err(reason) = self.set_password(&mut peer, password.as_ref()) {
                problems.push(format!(
                    "no BGP session with node {other}: spec.nodeMeshPassword of BGPConfiguration: {reason}"
                ));
                continue;
            }
            found.insert(end.address, (Word::Mesh, other.clone(), peer));
        }
    }

    /// How a session between two nodes goes.
    fn node_end(&self, own: &NodeInfo, name: &str, info: &NodeInfo) -> Result<End, String> {
        let pair = [true, false].into_iter().find_map(|ipv4| own.address(ipv4).zip(info.address(ipv4)));
        let Some((local, address)) = pair else {
            return Err("the two have no address family in common; add an InternalIP".into());
        };
        if local == address {
            return Err(format!("it has this node's own address {address}; give it another"));
        }
        Ok(End {
            name: name.to_owned(),
            address,
            port: self.port(name),
            remote_as: self.as_number(name, info),
            local: Some(local),
            fellow: info.cluster_id.is_some() && info.cluster_id == own.cluster_id,
        })
    }

    /// Takes a session of a BGPPeer in, unless somebody's word counts more.
    #[expect(clippy::too_many_arguments, reason = "all of it is one session, and nowhere else together")]
    fn add(
        &self,
        name: &str,
        spec: &BgpPeerSpec,
        (node, own): (&str, &NodeInfo),
        (word, kind, local_as): (Word, PeerKind, Option<u32>),
        end: End,
        found: &mut Found,
        problems: &mut Vec<String>,
    ) {
        if let Some((other_word, other, _)) = found.get(&end.address) {
            if word < Word::Reverse && *other_word < Word::Reverse && name != other {
                let winner = if word < *other_word { name } else { other };
                problems.push(format!(
                    "BGPPeers {other} and {name} both are for the peer {}: {winner} is in force; remove one of them, or let them select \
                     other nodes",
                    end.address
                ));
            }
            if *other_word <= word {
                return;
            }
        }
        let local_as_in_force = local_as.unwrap_or_else(|| self.as_number(node, own));
        let external = end.remote_as != local_as_in_force;
        let mut peer = PeerConfig::new(end.name, kind, end.address, end.remote_as);
        peer.port = end.port;
        peer.local_address = end.local.filter(|_| spec.source_address != Some(SourceAddress::None));
        peer.local_as = local_as.filter(|number| *number != self.as_number(node, own));
        peer.allowed_own_as = spec.num_allowed_local_as_numbers.unwrap_or(0);
        peer.client = own.cluster_id.is_some() && !external && !end.fellow;
        peer.next_hop = match spec.next_hop_mode {
            Some(NextHopMode::Own) => Hop::Own,
            Some(NextHopMode::Keep) => Hop::Keep,
            None if spec.keep_original_next_hop && external => Hop::Keep,
            Some(NextHopMode::Auto) | None => Hop::Auto,
        };
        peer.ttl_security = spec.ttl_security.filter(|hops| *hops > 0);
        peer.restart_time = spec.max_restart_time.map(Duration::get);
        peer.keepalive_time = spec.keepalive_time.map(Duration::get).filter(|time| !time.is_zero());
        peer.import = Arc::new(self.import(&spec.filters, external));
        peer.export = Arc::new(self.export(&spec.filters, external));
        let unknown: BTreeSet<_> = spec.filters.iter().filter(|filter| !self.filters.contains_key(*filter)).collect();
        for filter in unknown {
            let sentence =
                format!("BGPPeer {name}: spec.filters: there is no BGPFilter {filter}; create it, or remove its name");
            if !problems.contains(&sentence) {
                problems.push(sentence);
            }
        }
        if let Err(reason) = self.set_password(&mut peer, spec.password.as_ref()) {
            problems.push(format!("BGPPeer {name}: no BGP session with {}: spec.password: {reason}", end.address));
            found.remove(&end.address);
            return;
        }
        found.insert(end.address, (word, name.to_owned(), peer));
    }

    /// Gives a session its password. Without the one that it is to have there must be none: it would be without protection.
    fn set_password(&self, peer: &mut PeerConfig, password: Option<&BgpPassword>) -> Result<(), String> {
        let Some(reference) = password.and_then(|password| password.secret_key_ref.as_ref()) else { return Ok(()) };
        let (name, key) = (&reference.name, &reference.key);
        let mut secrets = SECRETS.iter().filter_map(|namespace| {
            self.secrets.get(&((*namespace).to_owned(), name.clone())).map(|secret| (namespace, secret))
        });
        let missing = |reason: String| if reference.optional == Some(true) { Ok(()) } else { Err(reason) };
        let Some((namespace, secret)) = secrets.next() else {
            return missing(format!("there is no Secret {name} in namespace {}; create it", SECRETS.join(" or ")));
        };
        let Some(value) = secret.data.get(key) else {
            return missing(format!(
                "Secret {namespace}/{name} has no entry {key:?}; add it, or name another in `key`"
            ));
        };
        let text = std::str::from_utf8(value.as_bytes()).ok().and_then(|text| Password::new(text.to_owned()));
        let wrong = || format!("Secret {namespace}/{name}: the entry {key:?} must be text of 1 to 80 bytes");
        peer.password = Some(text.ok_or_else(wrong)?);
        Ok(())
    }
}

/// One policy for all peers inside the AS, and one for those outside.
#[derive(Debug, Default)]
struct Policies([Option<Arc<Policy>>; 2]);

impl Policies {
    fn of(&mut self, external: bool, make: impl FnOnce() -> Policy) -> Arc<Policy> {
        Arc::clone(self.0[usize::from(external)].get_or_insert_with(|| Arc::new(make())))
    }
}
