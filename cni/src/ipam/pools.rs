//! The pools: which may give addresses, and where their blocks are.

use std::cmp::Reverse;
use std::net::IpAddr;

use ipnet::IpNet;
use tortie_api::calico::{AssignmentMode, IpPool, Tunnel};
use tortie_api::meta::StringMap;
use tortie_api::selector::Selector;

use super::block;

/// The pools of a cluster that names none.
const DEFAULTS: [(&str, &str, u8); 2] =
    [("default-ipv4-ippool", "10.244.0.0/16", 26), ("default-ipv6-ippool", "fd00:10:244::/48", 122)];

/// The ranges of the pools of a cluster that names none.
pub fn implicit() -> impl Iterator<Item = IpNet> {
    DEFAULTS.iter().filter_map(|(_, cidr, _)| cidr.parse().ok())
}

/// A range that addresses come from.
#[derive(Debug, Clone)]
pub(super) struct Pool {
    pub(super) name: String,
    pub(super) cidr: IpNet,
    /// Prefix length of a block.
    pub(super) block: u8,
    /// Whether pods get addresses that did not ask for one.
    automatic: bool,
    nodes: Selector,
    namespaces: Selector,
}

/// The pools that may give pods addresses, by name; the defaults if there is no pool object at all, and they are implied.
pub(super) fn usable(objects: &[IpPool], implicit: bool) -> Vec<Pool> {
    if objects.is_empty() && implicit {
        return DEFAULTS
            .iter()
            .filter_map(|(name, cidr, block)| Some(Pool::new(name, cidr.parse().ok()?, *block)))
            .collect();
    }
    let mut pools: Vec<Pool> = objects
        .iter()
        .filter(|pool| !pool.spec.disabled && pool.spec.allows_workloads())
        .map(|pool| {
            let spec = &pool.spec;
            Pool {
                automatic: spec.assignment_mode == AssignmentMode::Automatic,
                nodes: selector(spec.node_selector.as_deref()),
                namespaces: selector(spec.namespace_selector.as_deref()),
                ..Pool::new(&pool.metadata.name, spec.cidr, spec.effective_block_size())
            }
        })
        .collect();
    pools.sort_by(|one, other| one.name.cmp(&other.name));
    pools
}

/// The pools that may give the ends of a tunnel addresses: those that use it, on nodes with these labels.
pub(super) fn for_tunnel(objects: &[IpPool], tunnel: Tunnel, node: &StringMap) -> Vec<Pool> {
    let uses = |pool: &&IpPool| {
        let spec = &pool.spec;
        Tunnel::of_pool(spec).is_some_and(|(its, _)| its == tunnel) && !spec.disabled && spec.allows_tunnels()
    };
    let mut pools: Vec<Pool> = objects
        .iter()
        .filter(uses)
        .filter(|pool| selector(pool.spec.node_selector.as_deref()).matches(node))
        .map(|pool| Pool::new(&pool.metadata.name, pool.spec.cidr, pool.spec.effective_block_size()))
        .collect();
    pools.sort_by(|one, other| one.name.cmp(&other.name));
    pools
}

/// A selector that validation has seen. Should there be one that cannot be read all the same, it selects nothing.
fn selector(text: Option<&str>) -> Selector {
    match text.map(str::trim).filter(|text| !text.is_empty()) {
        None => Selector::all(),
        Some(text) => Selector::parse(text).or_else(|_| Selector::parse("!all()")).unwrap_or_else(|_| Selector::all()),
    }
}

/// The pool that an address is in; the most specific, should pools overlap.
pub(super) fn containing(pools: &[Pool], ip: IpAddr) -> Option<&Pool> {
    pools.iter().filter(|pool| pool.cidr.contains(&ip)).max_by_key(|pool| pool.cidr.prefix_len())
}

/// The pools that the names, or ranges, of a request mean, in its order; or the first that is none.
pub(super) fn named<'a>(pools: &[Pool], names: &'a [String], v4: bool) -> Result<Vec<Pool>, &'a str> {
    let find = |name: &'a String| {
        let range = name.parse::<IpNet>().ok().map(|range| range.trunc());
        let is_it = |pool: &&Pool| pool.is_v4() == v4 && (pool.name == *name || Some(pool.cidr) == range);
        pools.iter().find(is_it).cloned().ok_or(name.as_str())
    };
    names.iter().map(find).collect()
}

/// The pools that a pod gets addresses from which did not ask for any.
pub(super) fn selected(pools: &[Pool], node: &StringMap, namespace: &StringMap) -> Vec<Pool> {
    let is_for = |pool: &&Pool| pool.automatic && pool.nodes.matches(node) && pool.namespaces.matches(namespace);
    pools.iter().filter(is_for).cloned().collect()
}

/// Whether any of the pools asks for labels of the node, and of the namespace.
pub(super) fn ask_for_labels(pools: &[Pool]) -> (bool, bool) {
    (pools.iter().any(|pool| !pool.nodes.is_all()), pools.iter().any(|pool| !pool.namespaces.is_all()))
}

/// How an error lists pools.
pub(super) fn describe(pools: &[Pool]) -> String {
    if pools.is_empty() {
        return "there are none that are enabled for workloads".to_owned();
    }
    pools.iter().map(|pool| format!("{} ({})", pool.name, pool.cidr)).collect::<Vec<_>>().join(", ")
}

/// Ranges that are in use, for questions about many candidates.
#[derive(Debug, Default)]
pub(super) struct Taken(Vec<(u128, u128)>);

impl Taken {
    /// These ranges, of one family.
    pub(super) fn new(ranges: impl Iterator<Item = IpNet>, v4: bool) -> Self {
        let mut spans: Vec<(u128, u128)> = ranges
            .filter(|range| range.addr().is_ipv4() == v4)
            .map(|range| (block::number(range.network()), block::number(range.broadcast())))
            .collect();
        // Ranges are disjoint, or one contains the other: without those inside of others, a search finds the only candidate.
        spans.sort_unstable_by_key(|(first, last)| (*first, Reverse(*last)));
        spans.dedup_by(|later, earlier| later.0 <= earlier.1);
        Self(spans)
    }

    /// Whether a range is free.
    pub(super) fn leaves(&self, range: &IpNet) -> bool {
        self.overlapping(block::number(range.network()), block::number(range.broadcast())).is_none()
    }

    /// What overlaps a range, as its last address.
    fn overlapping(&self, first: u128, last: u128) -> Option<u128> {
        let after = self.0.partition_point(|span| span.0 <= last);
        self.0[..after].last().filter(|span| span.1 >= first).map(|span| span.1)
    }
}

impl Pool {
    fn new(name: &str, cidr: IpNet, block: u8) -> Self {
        Self {
            name: name.to_owned(),
            cidr,
            // A pool that is smaller than a block is one block.
            block: block.clamp(cidr.prefix_len(), cidr.max_prefix_len()),
            automatic: true,
            nodes: Selector::all(),
            namespaces: Selector::all(),
        }
    }

    pub(super) const fn is_v4(&self) -> bool {
        matches!(self.cidr, IpNet::V4(_))
    }

    /// A block of the pool that overlaps none of those that are taken. Each node starts at a place of its own, derived from its name,
    /// and takes the next free one from there: nodes that start at once rarely want the same.
    pub(super) fn free_block(&self, node: &str, taken: &Taken) -> Option<IpNet> {
        let bits = self.block - self.cidr.prefix_len();
        let last = 1_u128.checked_shl(u32::from(bits)).map_or(u128::MAX, |count| count - 1);
        let size = 1_u128.checked_shl(u32::from(self.cidr.max_prefix_len() - self.block)).unwrap_or(u128::MAX);
        let start = hash(node) & last;
        let mut offset = 0_u128;
        loop {
            let number = start.wrapping_add(offset) & last;
            let first = block::address(&self.cidr, number.checked_mul(size)?)?;
            let from = block::number(first);
            let Some(end) = taken.overlapping(from, from.saturating_add(size - 1)) else {
                return block::block_of(first, self.block);
            };
            // A block that is larger than ours (of a pool's earlier block size) is stepped over as a whole.
            let step = (end - from) / size + 1;
            offset = offset.checked_add(step).filter(|offset| *offset <= last)?;
        }
    }
}

/// FNV-1a, which is the same in every version and on every machine.
fn hash(text: &str) -> u128 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325, step);
    // The low bits decide, and of FNV the high ones are mixed better.
    u128::from(hash ^ (hash >> 32))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().expect("a network")
    }

    fn pool(cidr: &str, block: u8) -> Pool {
        Pool::new("p", net(cidr), block)
    }

    /// All blocks that the pool has left for a node, one after the other.
    fn all(pool: &Pool, node: &str, taken: &[IpNet]) -> Vec<IpNet> {
        let mut blocks: Vec<IpNet> = taken.to_vec();
        while let Some(cidr) = pool.free_block(node, &Taken::new(blocks.iter().copied(), pool.is_v4())) {
            assert!(pool.cidr.contains(&cidr) && cidr.prefix_len() == pool.block);
            assert!(!blocks.iter().any(|other| other.contains(&cidr) || cidr.contains(other)), "{cidr}");
            blocks.push(cidr);
        }
        blocks.split_off(taken.len())
    }

    #[test]
    fn blocks_are_found_until_none_is_left() {
        for node in ["a", "b", "node-1", "node-2"] {
            assert_eq!(all(&pool("10.0.0.0/24", 28), node, &[]).len(), 16, "{node}");
            assert_eq!(all(&pool("255.255.255.0/24", 28), node, &[]).len(), 16, "{node}");
        }
    }

    #[test]
    fn blocks_of_other_sizes_are_stepped_over() {
        let taken = ["10.0.0.0/25", "10.0.0.16/28", "10.0.0.240/32", "10.0.0.0/28", "fd00::/16"].map(net);
        for node in ["a", "b", "c", "d", "e", "f"] {
            assert_eq!(all(&pool("10.0.0.0/24", 28), node, &taken).len(), 7, "{node}");
        }
    }

    #[test]
    fn huge_and_tiny_pools_work() {
        assert!(pool("fd00::/16", 122).free_block("a", &Taken::default()).is_some());
        assert!(pool("::/0", 128).free_block("a", &Taken::default()).is_some());
        assert_eq!(pool("10.0.0.8/29", 29).free_block("a", &Taken::default()), Some(net("10.0.0.8/29")));
    }

    #[test]
    fn nodes_start_apart() {
        let pool = pool("10.244.0.0/16", 26);
        let start = |n| pool.free_block(&format!("node-{n}"), &Taken::default());
        let mut starts: Vec<IpNet> = (0..100).filter_map(start).collect();
        starts.sort_unstable();
        starts.dedup();
        assert!(starts.len() > 85, "{} of 100 are distinct", starts.len());
    }

    #[test]
    fn pools_are_chosen_by_labels_and_by_name() {
        let object = |name: &str, more: serde_json::Value| -> IpPool {
            let mut spec = serde_json::json!({"cidr": format!("10.{}.0.0/16", name.len())});
            spec.as_object_mut().expect("a map").extend(more.as_object().expect("a map").clone());
            serde_json::from_value(serde_json::json!({"metadata": {"name": name}, "spec": spec})).expect("a pool")
        };
        let pools = usable(
            &[
                object("a", serde_json::json!({"nodeSelector": "rack == '1'"})),
                object("bb", serde_json::json!({"namespaceSelector": "has(team)", "nodeSelector": ""})),
                object("ccc", serde_json::json!({"assignmentMode": "Manual", "nodeSelector": "rack == '1'"})),
                object("dddd", serde_json::json!({"disabled": true})),
            ],
            false,
        );
        assert!(usable(&[], false).is_empty() && usable(&[], true).len() == 2);
        assert_eq!(ask_for_labels(&pools), (true, true));
        let labels = |text: &str| -> StringMap {
            text.split_once('=').into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
        };
        let names = |pools: Vec<Pool>| pools.into_iter().map(|pool| pool.name).collect::<Vec<_>>().join(" ");
        assert_eq!(names(selected(&pools, &labels("rack=1"), &labels(""))), "a");
        assert_eq!(names(selected(&pools, &labels("rack=2"), &labels("team=x"))), "bb");
        assert_eq!(names(selected(&pools, &labels("rack=1"), &labels("team=x"))), "a bb");
        let wish = ["10.3.0.0/16", "a"].map(str::to_owned);
        assert_eq!(names(named(&pools, &wish, true).expect("both are usable")), "ccc a", "in the order of the wish");
        let gone = ["a", "dddd"].map(str::to_owned);
        assert_eq!(named(&pools, &gone, true).err(), Some("dddd"));
        assert_eq!(named(&pools, &gone, false).err(), Some("a"), "of another family");
    }
}
