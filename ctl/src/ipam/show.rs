//! `tortie ipam show`: pools, blocks, addresses and settings, as the datastore has them.

use std::fmt::Write as _;
use std::net::IpAddr;

use anyhow::{Result, bail};
use ipnet::IpNet;
use serde::Serialize;
use tortie_api::calico::{IpamBlockSpec, IpamConfiguration, IpamConfigurationSpec};
use tortie_api::meta::StringMap;
use tortie_api::{Kind, Object};
use tortie_cni::ipam::block;
use tortie_cni::ipam::records::Records;
use tortie_datastore::Problem;

use crate::output::{self, Output};
use crate::settings::Store;

/// One line of the table.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Usage {
    grouping: &'static str,
    cidr: IpNet,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    total: Count,
    in_use: usize,
    reserved: Count,
    free: Count,
}

/// A number of addresses. As JSON and YAML it is exact, however large.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
struct Count(u128);

impl Count {
    #[expect(clippy::cast_precision_loss, reason = "only shares and very large numbers are shown this way")]
    fn float(self) -> f64 {
        self.0 as f64
    }

    /// As calicoctl shows it: five digits, and from where the others no longer matter, with the power of ten (`1.8447e+19`).
    fn text(self) -> String {
        if self.0 < 10_000_000_000 {
            return self.0.to_string();
        }
        format!("{:.4e}", self.float()).replace('e', "e+")
    }

    /// The number with its share of `total`.
    fn share(self, total: Self) -> String {
        format!("{} ({:.0}%)", self.text(), 100.0 * self.float() / total.float())
    }
}

/// Who holds an address.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Holder {
    ip: IpAddr,
    in_use: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    block: Option<IpNet>,
    #[serde(skip_serializing_if = "Option::is_none")]
    handle: Option<String>,
    attributes: StringMap,
}

/// What to show.
pub(super) struct Wish {
    pub(super) ip: Option<IpAddr>,
    pub(super) blocks: bool,
    pub(super) borrowed: bool,
    pub(super) configuration: bool,
}

pub(super) async fn run(store: &Store, output: Output, wish: &Wish) -> Result<()> {
    let datastore = store.datastore();
    if wish.configuration {
        return configuration(&Records::new(datastore), output).await;
    }
    let blocks = datastore.list(Kind::IpamBlock).await?;
    let problems = store.problems(Kind::IpamBlock).await?;
    if let Some(ip) = wish.ip {
        let holder = holder(ip, &blocks);
        output.print(&holder, |_| holder_text(&holder))?;
    } else if wish.borrowed {
        borrowed(output, &blocks)?;
    } else {
        let reserved = reserved(&datastore.list(Kind::IpReservation).await?);
        let usages = usages(&datastore.list(Kind::IpPool).await?, &blocks, &reserved, wish.blocks);
        output.print(&usages, |output| usage_table(output, &usages))?;
    }
    complete(&problems)
}

fn usage_table(output: Output, usages: &[Usage]) -> String {
    let rows = usages.iter().map(|usage| {
        [
            usage.grouping.to_owned(),
            usage.cidr.to_string(),
            usage.total.text(),
            Count(usage.in_use as u128).share(usage.total),
            usage.reserved.share(usage.total),
            usage.free.share(usage.total),
            usage.node.clone().unwrap_or_default(),
        ]
    });
    if output.wide() {
        let header = ["GROUPING", "CIDR", "IPS TOTAL", "IPS IN USE", "IPS RESERVED", "IPS FREE", "NODE"];
        return output::boxed(header, rows);
    }
    let rows =
        rows.map(|[grouping, cidr, total, used, reserved, free, _]| [grouping, cidr, total, used, reserved, free]);
    output::boxed(["GROUPING", "CIDR", "IPS TOTAL", "IPS IN USE", "IPS RESERVED", "IPS FREE"], rows)
}

/// IPAMConfiguration, or what holds without one.
async fn configuration(records: &Records, output: Output) -> Result<()> {
    let found = records.get::<IpamConfiguration>(IpamConfigurationSpec::NAME).await?;
    let spec = found.map(|configuration| configuration.spec).unwrap_or_default();
    output.print(&spec, |_| {
        let rows = [
            ("StrictAffinity", spec.strict_affinity.to_string()),
            ("AutoAllocateBlocks", spec.auto_allocate_blocks.to_string()),
            ("MaxBlocksPerHost", spec.max_blocks_per_host.to_string()),
            ("IPCooldownSeconds", spec.ip_cooldown_seconds.unwrap_or_default().to_string()),
        ];
        output::boxed(["PROPERTY", "VALUE"], rows.map(|(property, value)| [property.to_owned(), value]))
    })
}

/// An address that a node took from a block that is not its own.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Borrowed {
    ip: IpAddr,
    borrowing_node: String,
    block: IpNet,
    block_owner: String,
    #[serde(rename = "type")]
    kind: String,
    allocated_to: String,
}

fn borrowed(output: Output, blocks: &[Object]) -> Result<()> {
    let mut borrowed: Vec<Borrowed> = blocks
        .iter()
        .filter_map(|object| if let Object::IpamBlock(block) = object { Some(&block.spec) } else { None })
        .flat_map(|spec| (0..spec.allocations.len()).filter_map(move |ordinal| borrowed_at(spec, ordinal)))
        .collect();
    borrowed.sort_by_key(|row| row.ip);
    output.print(&borrowed, |_| {
        let rows = borrowed.iter().map(|row| {
            [
                row.ip.to_string(),
                row.borrowing_node.clone(),
                row.block.to_string(),
                row.block_owner.clone(),
                row.kind.clone(),
                row.allocated_to.clone(),
            ]
        });
        output::boxed(["IP", "BORROWING-NODE", "BLOCK", "BLOCK OWNER", "TYPE", "ALLOCATED-TO"], rows)
    })
}

fn borrowed_at(spec: &IpamBlockSpec, ordinal: usize) -> Option<Borrowed> {
    let attribute = block::holder(spec, ordinal)?;
    let field = |name: &str| attribute.secondary.get(name).cloned().unwrap_or_default();
    let (owner, node) = (spec.affinity.as_deref().unwrap_or_default(), field("node"));
    let owner = owner.split_once(':').map_or(owner, |(_, name)| name);
    if node.is_empty() || node == owner {
        return None;
    }
    let is_pod = attribute.secondary.contains_key("pod");
    Some(Borrowed {
        ip: block::address(&spec.cidr, ordinal as u128)?,
        borrowing_node: node,
        block: spec.cidr,
        block_owner: owner.to_owned(),
        kind: if is_pod { "pod".to_owned() } else { field("type") },
        allocated_to: if is_pod { format!("{}/{}", field("namespace"), field("pod")) } else { String::new() },
    })
}

/// Fails if there are blocks that could not be read: what was printed leaves them out.
fn complete(problems: &[Problem]) -> Result<()> {
    if problems.is_empty() {
        return Ok(());
    }
    let problems: Vec<String> =
        problems.iter().map(|problem| format!("{}: {}", problem.place, problem.message)).collect();
    bail!("this leaves out what cannot be read:\n{}", problems.join("\n"))
}

/// The reserved ranges, none within another.
fn reserved(reservations: &[Object]) -> Vec<IpNet> {
    let ranges: Vec<IpNet> = reservations
        .iter()
        .flat_map(|object| match object {
            Object::IpReservation(reservation) => reservation.spec.reserved_cidrs.clone(),
            _ => Vec::new(),
        })
        .collect();
    IpNet::aggregate(&ranges)
}

fn usages(pools: &[Object], blocks: &[Object], reserved: &[IpNet], show_blocks: bool) -> Vec<Usage> {
    let mut pools: Vec<IpNet> = pools
        .iter()
        .filter_map(|pool| if let Object::IpPool(pool) = pool { Some(pool.spec.cidr) } else { None })
        .collect();
    pools.sort_unstable();
    let mut blocks: Vec<&IpamBlockSpec> = blocks
        .iter()
        .filter_map(|block| if let Object::IpamBlock(block) = block { Some(&block.spec) } else { None })
        .collect();
    blocks.sort_by_key(|block| block.cidr);
    let mut usages = Vec::new();
    for pool in pools {
        let inside: Vec<&IpamBlockSpec> = blocks.iter().filter(|block| pool.contains(&block.cidr)).copied().collect();
        usages.push(usage("IP Pool", pool, None, &inside, reserved));
        if show_blocks {
            let of_block =
                |block: &IpamBlockSpec| usage("Block", block.cidr, block.node().map(str::to_owned), &[block], reserved);
            usages.extend(inside.into_iter().map(of_block));
        }
    }
    usages
}

fn usage(
    grouping: &'static str,
    cidr: IpNet,
    node: Option<String>,
    blocks: &[&IpamBlockSpec],
    reserved: &[IpNet],
) -> Usage {
    let total = size(&cidr);
    let held = || {
        blocks.iter().flat_map(|spec| {
            let ordinals = (0..spec.allocations.len()).filter(|ordinal| spec.allocations[*ordinal].is_some());
            ordinals.filter_map(|ordinal| block::address(&spec.cidr, ordinal as u128))
        })
    };
    let in_use = held().count();
    // An address that was given out before it was reserved is both.
    let both = held().filter(|ip| reserved.iter().any(|range| range.contains(ip))).count();
    let inside = reserved.iter().filter_map(|range| match range {
        range if cidr.contains(range) => Some(size(range)),
        range if range.contains(&cidr) => Some(total),
        _ => None,
    });
    let reserved = inside.fold(0_u128, u128::saturating_add);
    let taken = (in_use as u128).saturating_add(reserved).saturating_sub(both as u128);
    Usage {
        grouping,
        cidr,
        node,
        total: Count(total),
        in_use,
        reserved: Count(reserved),
        free: Count(total.saturating_sub(taken)),
    }
}

fn size(range: &IpNet) -> u128 {
    1_u128.checked_shl((range.max_prefix_len() - range.prefix_len()).into()).unwrap_or(u128::MAX)
}

fn holder(ip: IpAddr, blocks: &[Object]) -> Holder {
    for object in blocks {
        let Object::IpamBlock(block) = object else { continue };
        let spec = &block.spec;
        let Some(ordinal) = block::ordinal(spec, ip) else { continue };
        let attribute = block::holder(spec, ordinal);
        return Holder {
            ip,
            in_use: attribute.is_some(),
            block: Some(spec.cidr),
            handle: attribute.and_then(|attribute| attribute.handle_id.clone()),
            attributes: attribute.map(|attribute| attribute.secondary.clone()).unwrap_or_default(),
        };
    }
    Holder { ip, in_use: false, block: None, handle: None, attributes: StringMap::new() }
}

fn holder_text(holder: &Holder) -> String {
    if !holder.in_use {
        return match holder.block {
            Some(block) => format!("IP {} is not assigned; it is free in the block {block}", holder.ip),
            None => format!("IP {} is not assigned; no block has it", holder.ip),
        };
    }
    let mut text = format!("IP {} is in use\nAttributes:\n", holder.ip);
    for (key, value) in &holder.attributes {
        let _ = writeln!(text, "  {key}: {value}");
    }
    if let Some(handle) = &holder.handle {
        let _ = writeln!(text, "  handle: {handle}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_addresses_are_not_free_and_none_counts_twice() {
        let block: IpamBlockSpec = serde_json::from_value(serde_json::json!({"cidr": "10.0.0.0/30",
            "allocations": [0, 0, null, null], "unallocated": [2, 3], "attributes": [{}]}))
        .unwrap();
        let ranges = ["10.0.0.1/32", "10.0.0.2/32", "10.0.0.2/32", "10.1.0.0/16"].map(|range| range.parse().unwrap());
        let reserved = IpNet::aggregate(&ranges.to_vec());
        let used = usage("IP Pool", "10.0.0.0/29".parse().unwrap(), None, &[&block], &reserved);
        assert_eq!((used.in_use, used.reserved, used.free), (2, Count(2), Count(5)));
        let whole = usage("Block", "10.1.2.0/26".parse().unwrap(), None, &[], &reserved);
        assert_eq!((whole.reserved, whole.free), (Count(64), Count(0)));
    }

    #[test]
    fn totals_of_wide_pools() {
        let pool = usage("IP Pool", "10.244.0.0/16".parse().unwrap(), None, &[], &[]);
        assert_eq!((pool.total, pool.free), (Count(65_536), Count(65_536)));
        assert_eq!(pool.free.share(pool.total), "65536 (100%)");
        let pool = usage("IP Pool", "fd00:10:244::/48".parse().unwrap(), None, &[], &[]);
        assert_eq!(pool.total.text(), "1.2089e+24");
        let json = serde_json::to_string(&pool).unwrap();
        assert!(json.contains("\"total\":1208925819614629174706176,"), "{json}");
        let yaml = serde_saphyr::to_string(&pool).unwrap();
        assert!(yaml.contains("total: 1208925819614629174706176\n"), "{yaml}");
        assert_eq!(usage("IP Pool", "::/0".parse().unwrap(), None, &[], &[]).total, Count(u128::MAX));
    }
}
