//! The pools: which may give addresses, and where their blocks are.

use std::net::IpAddr;

use ipnet::IpNet;
use tortie_api::calico::{AssignmentMode, IpPool, IpamBlock};

use super::block;

/// The pools of a cluster that names none.
const DEFAULTS: [(&str, &str, u8); 2] =
    [("default-ipv4-ippool", "10.244.0.0/16", 26), ("default-ipv6-ippool", "fd00:10:244::/48", 122)];

/// A range that addresses come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pool {
    pub(super) name: String,
    pub(super) cidr: IpNet,
    /// Prefix length of a block.
    pub(super) block: u8,
    /// Whether pods get addresses that did not ask for one.
    pub(super) automatic: bool,
}

/// The pools that may give pods addresses, by name; the defaults if there is no pool object at all.
pub(super) fn usable(objects: &[IpPool]) -> Vec<Pool> {
    if objects.is_empty() {
        return DEFAULTS
            .iter()
            .filter_map(|(name, cidr, block)| {
                Some(Pool { name: (*name).to_owned(), cidr: cidr.parse().ok()?, block: *block, automatic: true })
            })
            .collect();
    }
    let mut pools: Vec<Pool> = objects
        .iter()
        .filter(|pool| !pool.spec.disabled && pool.spec.allows_workloads())
        .map(|pool| Pool {
            name: pool.metadata.name.clone(),
            cidr: pool.spec.cidr,
            // A pool that is smaller than a block is one block.
            block: pool.spec.effective_block_size().clamp(pool.spec.cidr.prefix_len(), pool.spec.cidr.max_prefix_len()),
            automatic: pool.spec.assignment_mode == AssignmentMode::Automatic,
        })
        .collect();
    pools.sort_by(|one, other| one.name.cmp(&other.name));
    pools
}

/// The pool that an address is in; the most specific, should pools overlap.
pub(super) fn containing(pools: &[Pool], ip: IpAddr) -> Option<&Pool> {
    pools.iter().filter(|pool| pool.cidr.contains(&ip)).max_by_key(|pool| pool.cidr.prefix_len())
}

/// How an error lists pools.
pub(super) fn describe(pools: &[Pool]) -> String {
    if pools.is_empty() {
        return "there are none that are enabled for workloads".to_owned();
    }
    pools.iter().map(|pool| format!("{} ({})", pool.name, pool.cidr)).collect::<Vec<_>>().join(", ")
}

impl Pool {
    /// A block of the pool that overlaps none of those that exist. Each node starts at a place of its own, derived from its name,
    /// and takes the next free one from there: nodes that start at once rarely want the same.
    pub(super) fn free_block(&self, node: &str, existing: &[IpamBlock]) -> Option<IpNet> {
        let bits = self.block - self.cidr.prefix_len();
        let last = 1_u128.checked_shl(u32::from(bits)).map_or(u128::MAX, |count| count - 1);
        let size = 1_u128.checked_shl(u32::from(self.cidr.max_prefix_len() - self.block)).unwrap_or(u128::MAX);
        let taken: Vec<IpNet> =
            existing.iter().map(|block| block.spec.cidr).filter(|cidr| overlap(cidr, &self.cidr)).collect();
        let start = hash(node) & last;
        let mut offset = 0_u128;
        loop {
            let number = start.wrapping_add(offset) & last;
            let first = block::address(&self.cidr, number.checked_mul(size)?)?;
            let cidr = block::block_of(first, self.block)?;
            let Some(other) = taken.iter().find(|taken| overlap(taken, &cidr)) else { return Some(cidr) };
            // A block that is larger than ours (of a pool's earlier block size) is stepped over as a whole.
            let width = 1_u128 << self.block.saturating_sub(other.prefix_len()).min(127);
            let step = width - (number & (width - 1));
            offset = offset.checked_add(step).filter(|offset| *offset <= last)?;
        }
    }
}

fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(other) || other.contains(one)
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

    fn pool(cidr: &str, block: u8) -> Pool {
        Pool { name: "p".into(), cidr: cidr.parse().expect("a network"), block, automatic: true }
    }

    #[test]
    fn blocks_are_found_until_none_is_left() {
        let pool = pool("10.0.0.0/24", 28);
        for node in ["a", "b", "node-1", "node-2"] {
            let mut blocks = Vec::new();
            while let Some(cidr) = pool.free_block(node, &blocks) {
                assert!(pool.cidr.contains(&cidr) && cidr.prefix_len() == 28);
                blocks.push(block::new(cidr, node));
            }
            assert_eq!(blocks.len(), 16, "{node}");
        }
    }

    #[test]
    fn blocks_of_other_sizes_are_stepped_over() {
        let pool = pool("10.0.0.0/24", 28);
        let large = block::new("10.0.0.0/25".parse().expect("net"), "x");
        let small = block::new("10.0.0.240/32".parse().expect("net"), "x");
        for node in ["a", "b", "c", "d", "e", "f"] {
            let mut blocks = vec![large.clone(), small.clone()];
            while let Some(cidr) = pool.free_block(node, &blocks) {
                assert!(!blocks.iter().any(|block| overlap(&block.spec.cidr, &cidr)), "{cidr}");
                blocks.push(block::new(cidr, node));
            }
            assert_eq!(blocks.len(), 2 + 7, "{node}");
        }
    }

    #[test]
    fn huge_and_tiny_pools_work() {
        assert!(pool("fd00::/16", 122).free_block("a", &[]).is_some());
        assert!(pool("::/0", 128).free_block("a", &[]).is_some());
        assert_eq!(pool("10.0.0.8/29", 29).free_block("a", &[]), Some("10.0.0.8/29".parse().expect("net")));
    }

    #[test]
    fn nodes_start_apart() {
        let pool = pool("10.244.0.0/16", 26);
        let mut starts: Vec<IpNet> = (0..100).filter_map(|n| pool.free_block(&format!("node-{n}"), &[])).collect();
        starts.sort_unstable();
        starts.dedup();
        assert!(starts.len() > 85, "{} of 100 are distinct", starts.len());
    }
}
