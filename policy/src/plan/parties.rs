//! Who is asked about: pods that policies cannot tell apart are one group, and so are the addresses of a block outside.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use tortie_api::Object;
use tortie_api::k8s::Pod;
use tortie_nft::Family;

use super::services::{Named, family_of};
use super::{Group, OUTSIDE};

/// So many blocks of addresses are asked about, of those that the change names.
const MOST_BLOCKS: usize = 32;

/// Documentation prefixes (RFC 5737, RFC 3849): nobody's, and so as good as anybody's.
const V4: [Ipv4Addr; 3] = [Ipv4Addr::new(203, 0, 113, 7), Ipv4Addr::new(198, 51, 100, 7), Ipv4Addr::new(192, 0, 2, 7)];
const V6: [Ipv6Addr; 2] = [Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7), Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 7)];

/// One who is asked about.
#[derive(Debug, Clone)]
pub(super) struct Party {
    /// What the plan calls its members.
    pub(super) group: Group,
    /// Whom to ask in place of all members.
    pub(super) who: Who,
}

/// Whom to ask.
#[derive(Debug, Clone)]
pub(super) enum Who {
    /// Pods.
    Pods {
        /// Namespace and name of one, and of another one where there are several, for what they send to each other.
        names: Vec<(String, String)>,
        /// What the worlds say of the first.
        documents: Vec<Pod>,
    },
    /// Somebody outside, by an address of each family that he has.
    Outside(Vec<IpAddr>),
}

/// What policies see of a pod, in all worlds.
type Signature = (String, Vec<String>, Vec<Option<usize>>);

/// The parties: the pods that are there in all worlds, and addresses outside.
pub(super) fn parties(worlds: &[&[Object]], named: &Named) -> Vec<Party> {
    let pods: Vec<BTreeMap<(&str, &str), &Pod>> = worlds.iter().map(|world| endpoints(world)).collect();
    let Some((first, others)) = pods.split_first() else { return Vec::new() };
    let borders = Borders::new(&named.blocks);
    let mut groups: BTreeMap<Signature, Vec<(&str, &str)>> = BTreeMap::new();
    for (name, pod) in first {
        let Some(others) = others.iter().map(|pods| pods.get(name).copied()).collect::<Option<Vec<_>>>() else {
            continue;
        };
        let all: Vec<&Pod> = std::iter::once(*pod).chain(others).collect();
        groups.entry(signature(name.0, &all, &borders)).or_default().push(*name);
    }
    let in_worlds =
        |name: &(&str, &str)| pods.iter().filter_map(|pods| pods.get(name)).map(|pod| (**pod).clone()).collect();
    let of_pods = groups.into_values().map(|members| Party {
        group: Group {
            members: members.iter().map(|(namespace, name)| format!("{namespace}/{name}")).collect(),
            pods: true,
        },
        who: Who::Pods {
            names: members
                .iter()
                .take(2)
                .map(|(namespace, name)| ((*namespace).to_owned(), (*name).to_owned()))
                .collect(),
            documents: members.first().map(in_worlds).unwrap_or_default(),
        },
    });
    let mut all: Vec<Party> = of_pods.collect();
    all.sort_by(|a, b| a.group.members.cmp(&b.group.members));
    let taken: BTreeSet<IpAddr> = worlds.iter().flat_map(|world| addresses(world)).collect();
    all.extend(outside(named, &taken, &pools(worlds)));
    all
}

/// The pods that policies select, by name.
fn endpoints(world: &[Object]) -> BTreeMap<(&str, &str), &Pod> {
    let pods = world.iter().filter_map(|object| match object {
        Object::Pod(pod) if pod.is_endpoint() => Some(pod),
        _ => None,
    });
    pods.map(|pod| ((pod.metadata.namespace.as_deref().unwrap_or("default"), pod.metadata.name.as_str()), pod))
        .collect()
}

fn signature(namespace: &str, worlds: &[&Pod], borders: &Borders) -> Signature {
    let mut words = Vec::new();
    let mut places = Vec::new();
    for pod in worlds {
        words.extend(pod.metadata.labels.iter().map(|(key, value)| format!("{key}={value}")));
        words.push(String::new());
        words.push(pod.spec.service_account().to_owned());
        words.extend(pod.ports().map(|port| {
            format!("{} {} {}", port.name.as_deref().unwrap_or_default(), port.protocol, port.container_port)
        }));
        words.push(String::new());
        let addresses = pod.expected_addresses();
        for family in [Family::V4, Family::V6] {
            let address = addresses.iter().find(|address| family_of(**address) == family);
            // A pod without any address gets one that is in no block.
            places.push(address.map(|address| borders.place(*address)));
        }
    }
    (namespace.to_owned(), words, places)
}

/// The borders of blocks: between two neighbouring ones, no block tells addresses apart.
struct Borders {
    v4: Vec<u128>,
    v6: Vec<u128>,
}

impl Borders {
    fn new(blocks: &BTreeSet<IpNet>) -> Self {
        let of = |v4: bool| {
            let blocks = blocks.iter().filter(|block| block.addr().is_ipv4() == v4);
            // What would be past the last address is no border.
            let ends = |block: &IpNet| [Some(number(block.network())), number(block.broadcast()).checked_add(1)];
            blocks.flat_map(ends).flatten().collect::<BTreeSet<u128>>().into_iter().collect()
        };
        Self { v4: of(true), v6: of(false) }
    }

    /// Between which borders an address is.
    fn place(&self, address: IpAddr) -> usize {
        let borders = if address.is_ipv4() { &self.v4 } else { &self.v6 };
        borders.partition_point(|border| *border <= number(address))
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

/// The addresses of pods and nodes.
fn addresses(world: &[Object]) -> Vec<IpAddr> {
    let of = |object: &Object| match object {
        Object::Pod(pod) => pod.expected_addresses(),
        Object::Node(node) => node.internal_ips(),
        _ => Vec::new(),
    };
    world.iter().flat_map(of).collect()
}

/// The pools: what is in one is no address outside.
fn pools(worlds: &[&[Object]]) -> Vec<IpNet> {
    let pools = worlds.iter().flat_map(|world| world.iter()).filter_map(|object| match object {
        Object::IpPool(pool) => Some(pool.spec.cidr),
        _ => None,
    });
    pools.collect()
}

/// Somebody who is in no block that is named, and for each block that the change names somebody who is in it and in none within it.
fn outside(named: &Named, taken: &BTreeSet<IpAddr>, pools: &[IpNet]) -> Vec<Party> {
    let is_free = |address: &IpAddr| !taken.contains(address) && !pools.iter().any(|pool| pool.contains(address));
    let party = |name: String, addresses: Vec<IpAddr>| Party {
        group: Group { members: vec![name], pods: false },
        who: Who::Outside(addresses),
    };
    let is_whole = |block: &IpNet| block.prefix_len() == 0;
    let nobodys = |address: &IpAddr| {
        is_free(address) && !named.blocks.iter().any(|block| !is_whole(block) && block.contains(address))
    };
    let v4 = V4.into_iter().map(IpAddr::from).find(nobodys);
    let v6 = V6.into_iter().map(IpAddr::from).find(nobodys);
    let mut all = vec![party(OUTSIDE.to_owned(), v4.into_iter().chain(v6).collect())];
    let blocks = named.changed_blocks.iter().filter(|block| !is_whole(block)).take(MOST_BLOCKS);
    for block in blocks {
        let within: Vec<&IpNet> =
            named.blocks.iter().filter(|other| *other != block && block.contains(*other)).collect();
        let starts = std::iter::once(block.network()).chain(within.iter().filter_map(|inner| after(inner)));
        // The first few of each stretch: networks and gateways often have those.
        let mut candidates = starts.flat_map(|start| (0..4).filter_map(move |more| offset(start, more)));
        let fits = |address: &IpAddr| {
            block.contains(address) && is_free(address) && !within.iter().any(|inner| inner.contains(address))
        };
        all.extend(candidates.find(fits).map(|address| party(block.to_string(), vec![address])));
    }
    all
}

/// The address after a block's last.
fn after(block: &IpNet) -> Option<IpAddr> {
    offset(block.broadcast(), 1)
}

fn offset(address: IpAddr, more: u32) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => u32::from(address).checked_add(more).map(|number| Ipv4Addr::from(number).into()),
        IpAddr::V6(address) => u128::from(address).checked_add(more.into()).map(|number| Ipv6Addr::from(number).into()),
    }
}
