//! What the speaker must be told, from Node, BGPConfiguration, BGPPeer, BGPFilter, IPPool, IPAMBlock and Secret objects.
//!
//! A node's AS number is that of its annotation `projectcalico.org/ASNumber`, of the BGPConfiguration `node.NAME`, of `default`, or
//! 64512. Who its peers are stands in `peers`, and what may pass between them in `policy`.

mod peers;
mod policy;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use sha1::{Digest, Sha1};
use tortie_api::calico::{AffinityState, BgpConfigurationSpec, BgpFilterSpec, BgpPeerSpec, BindMode};
use tortie_api::k8s::{Node, Secret};
use tortie_api::meta::StringMap;
use tortie_api::{Kind, Object, ObjectKey};
use tortie_bird_lite::filter::AnyCommunity;
use tortie_bird_lite::{Config, Originated};

/// Calico's AS number for clusters that name none.
const DEFAULT_AS: u32 = 64512;

/// The namespaces that Calico's agents run in, and so those of Secrets with passwords: by its manifests, and by its operator.
const SECRETS: [&str; 2] = ["kube-system", "calico-system"];

/// BGP's port.
const DEFAULT_PORT: u16 = 179;

/// The part of a Node that BGP needs.
#[derive(Debug, Clone, PartialEq, Eq)]
struct NodeInfo {
    ipv4: Option<Ipv4Addr>,
    ipv6: Option<Ipv6Addr>,
    as_number: Option<u32>,
    /// The cluster that it reflects routes for.
    cluster_id: Option<Ipv4Addr>,
    labels: StringMap,
}

impl NodeInfo {
    fn of(node: &Node) -> Self {
        let mut info = Self {
            ipv4: None,
            ipv6: None,
            as_number: node.as_number().ok().flatten(),
            cluster_id: node.cluster_id().ok().flatten(),
            labels: node.metadata.labels.clone(),
        };
        let annotated = [true, false].into_iter().filter_map(|ipv4| node.network(ipv4)).map(|network| network.addr());
        for address in node.internal_ips().into_iter().chain(annotated) {
            match address {
                IpAddr::V4(address) => info.ipv4 = info.ipv4.or(Some(address)),
                IpAddr::V6(address) => info.ipv6 = info.ipv6.or(Some(address)),
            }
        }
        info
    }

    /// Its address of one family.
    fn address(&self, ipv4: bool) -> Option<IpAddr> {
        if ipv4 { self.ipv4.map(IpAddr::V4) } else { self.ipv6.map(IpAddr::V6) }
    }

    fn has(&self, address: IpAddr) -> bool {
        self.address(address.is_ipv4()) == Some(address)
    }
}

/// Everything that the speaker's configuration is made from.
#[derive(Debug, Default)]
pub(crate) struct Bgp {
    nodes: BTreeMap<String, NodeInfo>,
    configurations: BTreeMap<String, BgpConfigurationSpec>,
    peers: BTreeMap<String, BgpPeerSpec>,
    filters: BTreeMap<String, BgpFilterSpec>,
    /// Those of [`SECRETS`], by namespace and name.
    secrets: BTreeMap<(String, String), Secret>,
    /// CIDR and `disableBGPExport` of each IPPool.
    pools: BTreeMap<String, (IpNet, bool)>,
    /// By name, the range and the node of each block, as the blocks themselves say it.
    blocks: BTreeMap<String, (IpNet, Option<String>)>,
    /// By name, the same as confirmed affinities say it. Of a cluster an agent watches those of its own node, and no block: a block
    /// changes with each pod that comes or goes anywhere.
    affinities: BTreeMap<String, (IpNet, String)>,
}

impl Bgp {
    /// Takes an object in. Returns whether the configuration, or the node's own blocks, may be others now.
    pub(crate) fn upsert(&mut self, object: &Object) -> bool {
        let name = object.metadata().name.clone();
        match object {
            Object::Node(node) => {
                let info = NodeInfo::of(node);
                self.nodes.insert(name, info.clone()).as_ref() != Some(&info)
            }
            Object::BgpConfiguration(configuration) => {
                self.configurations.insert(name, configuration.spec.clone()).as_ref() != Some(&configuration.spec)
            }
            Object::BgpPeer(peer) => self.peers.insert(name, peer.spec.clone()).as_ref() != Some(&peer.spec),
            Object::BgpFilter(filter) => self.filters.insert(name, filter.spec.clone()).as_ref() != Some(&filter.spec),
            Object::Secret(secret) => {
                let namespace = secret.metadata.namespace.clone().unwrap_or_default();
                SECRETS.contains(&namespace.as_str())
                    && self.secrets.insert((namespace, name), secret.clone()).as_ref() != Some(secret)
            }
            Object::IpPool(pool) => {
                let info = (pool.spec.cidr, pool.spec.disable_bgp_export);
                self.pools.insert(name, info) != Some(info)
            }
            Object::IpamBlock(block) => {
                let place = (block.spec.cidr.trunc(), block.spec.node().map(str::to_owned));
                self.blocks.insert(name, place.clone()) != Some(place)
            }
            Object::BlockAffinity(affinity) => {
                let spec = &affinity.spec;
                if spec.state != AffinityState::Confirmed || !spec.is_of_node() {
                    return self.affinities.remove(&name).is_some();
                }
                let place = (spec.cidr.trunc(), spec.node.clone());
                self.affinities.insert(name, place.clone()) != Some(place)
            }
            _ => false,
        }
    }

    /// Forgets an object, likewise.
    pub(crate) fn remove(&mut self, key: &ObjectKey) -> bool {
        match key.kind {
            Kind::Node => self.nodes.remove(&key.name).is_some(),
            Kind::BgpConfiguration => self.configurations.remove(&key.name).is_some(),
            Kind::BgpPeer => self.peers.remove(&key.name).is_some(),
            Kind::Secret => {
                let namespace = key.namespace.clone().unwrap_or_default();
                self.secrets.remove(&(namespace, key.name.clone())).is_some()
            }
            Kind::BgpFilter => self.filters.remove(&key.name).is_some(),
            Kind::IpPool => self.pools.remove(&key.name).is_some(),
            Kind::IpamBlock => self.blocks.remove(&key.name).is_some(),
            Kind::BlockAffinity => self.affinities.remove(&key.name).is_some(),
            _ => false,
        }
    }

    /// The node's own blocks. A block of one address is left out: its blackhole would stand in the place of the pod's route.
    pub(crate) fn own_blocks(&self, node: &str) -> BTreeSet<IpNet> {
        self.all_blocks()
            .filter(|(cidr, owner)| *owner == Some(node) && cidr.prefix_len() < cidr.max_prefix_len())
            .map(|(cidr, _)| cidr)
            .collect()
    }

    /// The blocks of other nodes, with their nodes.
    pub(crate) fn blocks_of_others(&self, node: &str) -> impl Iterator<Item = (IpNet, &str)> {
        self.all_blocks().filter_map(|(cidr, owner)| Some((cidr, owner?))).filter(move |(_, owner)| *owner != node)
    }

    /// The addresses of a node.
    pub(crate) fn addresses(&self, node: &str) -> Vec<IpAddr> {
        let Some(info) = self.nodes.get(node) else { return Vec::new() };
        info.ipv4.map(IpAddr::V4).into_iter().chain(info.ipv6.map(IpAddr::V6)).collect()
    }

    /// Whether pods of this family may live in the cluster.
    pub(crate) fn has_family(&self, ipv4: bool) -> bool {
        let of = |network: &IpNet| network.addr().is_ipv4() == ipv4;
        self.pools.values().any(|(cidr, _)| of(cidr)) || self.all_blocks().any(|(cidr, _)| of(&cidr))
    }

    /// The blocks that are known, with their nodes. Where a block itself is known, its word counts.
    fn all_blocks(&self) -> impl Iterator<Item = (IpNet, Option<&str>)> {
        let told: BTreeSet<IpNet> = self.blocks.values().map(|(cidr, _)| *cidr).collect();
        let by_affinity = self.affinities.values().filter(move |(cidr, _)| !told.contains(cidr));
        let by_block = self.blocks.values().map(|(cidr, node)| (*cidr, node.as_deref()));
        by_block.chain(by_affinity.map(|(cidr, node)| (*cidr, Some(node.as_str()))))
    }

    /// A setting of a node: its own BGPConfiguration's, else that of `default`.
    fn setting<T>(&self, node: &str, get: impl Fn(&BgpConfigurationSpec) -> Option<T>) -> Option<T> {
        let own = self.configurations.get(&format!("node.{node}")).and_then(&get);
        own.or_else(|| self.configurations.get("default").and_then(get))
    }

    fn as_number(&self, node: &str, info: &NodeInfo) -> u32 {
        info.as_number.or_else(|| self.setting(node, |spec| spec.as_number)).unwrap_or(DEFAULT_AS)
    }

    fn port(&self, node: &str) -> u16 {
        self.setting(node, |spec| spec.listen_port).unwrap_or(DEFAULT_PORT)
    }

    /// Whether a prefix is kept out of BGP by the most specific pool that it is in.
    fn export_disabled(&self, prefix: IpNet) -> bool {
        self.pools
            .values()
            .filter(|(cidr, _)| cidr.contains(&prefix))
            .max_by_key(|(cidr, _)| cidr.prefix_len())
            .is_some_and(|(_, disabled)| *disabled)
    }

    /// The prefixes to originate: the node's own blocks, and each endpoint address outside them.
    fn originated<'a>(&self, node: &str, endpoints: impl Iterator<Item = (IpAddr, &'a str)>) -> Vec<Originated> {
        let mut prefixes: BTreeMap<IpNet, Option<&str>> =
            self.own_blocks(node).into_iter().map(|block| (block, None)).collect();
        let outside: Vec<_> = endpoints
            .filter(|(address, _)| !prefixes.keys().any(|block| block.contains(address)))
            .map(|(address, interface)| (IpNet::from(address), Some(interface)))
            .collect();
        prefixes.extend(outside);
        let open = prefixes.into_iter().filter(|(prefix, _)| !self.export_disabled(*prefix));
        open.map(|(prefix, interface)| {
            let mut originated = Originated { interface: interface.map(str::to_owned), ..prefix.into() };
            for community in self.communities(node, prefix) {
                match community {
                    AnyCommunity::Standard(community) => originated.communities.push(community),
                    AnyCommunity::Large(community) => originated.large_communities.push(community),
                }
            }
            originated
        })
        .collect()
    }

    /// The communities that a prefix is announced with, by `prefixAdvertisements`, each once.
    fn communities(&self, node: &str, prefix: IpNet) -> Vec<AnyCommunity> {
        let lists = self.setting(node, |spec| {
            let known = |text: &String| {
                let named = spec.communities.iter().find(|community| community.name == *text);
                named.map_or_else(|| text.parse().ok(), |community| Some(community.value)).map(policy::community)
            };
            let covering = spec.prefix_advertisements.iter().filter(|item| item.cidr.contains(&prefix));
            let found: Vec<_> = covering.flat_map(|item| item.communities.iter().filter_map(known)).collect();
            (!spec.prefix_advertisements.is_empty()).then_some(found)
        });
        let mut all: Vec<AnyCommunity> = Vec::new();
        for community in lists.unwrap_or_default() {
            if !all.contains(&community) {
                all.push(community);
            }
        }
        all
    }

    /// Gateways to peers that no route leads to otherwise: `reachableBy`.
    pub(crate) fn gateways(&self, node: &str) -> BTreeMap<IpNet, IpAddr> {
        let Some(own) = self.nodes.get(node) else { return BTreeMap::new() };
        let of_node = self.peers.values().filter(|spec| peers::selects(spec, node, &own.labels));
        of_node.filter_map(|spec| Some((IpNet::from(spec.peer_ip?.ip), spec.reachable_by?))).collect()
    }

    /// The speaker's configuration, with what is wrong about it.
    ///
    /// # Errors
    /// When the node itself is unknown, or has no address.
    pub(crate) fn config<'a>(
        &self,
        node: &str,
        endpoints: impl Iterator<Item = (IpAddr, &'a str)>,
        restarting: bool,
        problems: &mut Vec<String>,
    ) -> Result<Config, String> {
        let Some(own) = self.nodes.get(node) else {
            return Err(format!(
                "BGP waits: there is no Node {node:?} in the datastore; create it, or name another with --node"
            ));
        };
        if own.ipv4.is_none() && own.ipv6.is_none() {
            return Err(format!(
                "BGP waits: Node {node:?} has no address; give it one of type InternalIP in status.addresses, or the annotation projectcalico.org/IPv4Address"
            ));
        }
        let port = self.port(node);
        let mut config = Config::new(self.as_number(node, own), router_id(node, own));
        let everywhere = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        let listen = match self.setting(node, |spec| spec.bind_mode) {
            Some(BindMode::NodeIP) => everywhere.map(|address| own.address(address.is_ipv4())),
            Some(BindMode::None) | None => everywhere.map(Some),
        };
        config.listen = listen.into_iter().flatten().map(|address| SocketAddr::new(address, port)).collect();
        config.cluster_id = own.cluster_id;
        config.next_hop_v4 = own.ipv4;
        config.next_hop_v6 = own.ipv6;
        config.restarting = restarting;
        config.originate = self.originated(node, endpoints);
        config.peers = self.peers_of(node, own, problems);
        Ok(config)
    }
}

/// The BGP identifier: the node's IPv4 address, or four bytes of a digest of its name.
fn router_id(node: &str, info: &NodeInfo) -> Ipv4Addr {
    info.ipv4.unwrap_or_else(|| {
        let digest = Sha1::digest(node.as_bytes());
        let bytes = [digest[0], digest[1], digest[2], digest[3]];
        if bytes == [0; 4] { Ipv4Addr::new(0, 0, 0, 1) } else { bytes.into() }
    })
}
