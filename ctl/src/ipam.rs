//! `tortie ipam show`: pools, blocks and addresses, as the datastore has them.

use std::fmt::Write as _;

use anyhow::{Result, bail};
use ipnet::IpNet;
use serde::Serialize;
use tortie_api::meta::StringMap;
use tortie_api::{Kind, Object};
use tortie_datastore::{Datastore, Problem};

use crate::cli::Ipam;
use crate::output::{self, Output};
use crate::settings::Settings;

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
    ip: std::net::IpAddr,
    in_use: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    block: Option<IpNet>,
    #[serde(skip_serializing_if = "Option::is_none")]
    handle: Option<String>,
    attributes: StringMap,
}

pub(crate) async fn run(settings: &Settings, output: Output, command: Ipam) -> Result<()> {
    let Ipam::Show { ip, show_blocks } = command;
    let datastore = settings.datastore().await?;
    let blocks = datastore.list(Kind::IpamBlock).await?;
    let problems = datastore.object_problems(Kind::IpamBlock).await?;
    if let Some(ip) = ip {
        let holder = holder(ip, &blocks);
        output.print(&holder, |_| holder_text(&holder))?;
        return complete(&problems);
    }
    let usages = usages(&datastore.list(Kind::IpPool).await?, &blocks, show_blocks);
    output.print(&usages, |output| {
        let rows = usages.iter().map(|usage| {
            let in_use = Count(usage.in_use as u128);
            [
                usage.grouping.to_owned(),
                usage.cidr.to_string(),
                usage.total.text(),
                in_use.share(usage.total),
                usage.free.share(usage.total),
                usage.node.clone().unwrap_or_default(),
            ]
        });
        if output.wide() {
            return output::boxed(["GROUPING", "CIDR", "IPS TOTAL", "IPS IN USE", "IPS FREE", "NODE"], rows);
        }
        let rows = rows.map(|[grouping, cidr, total, used, free, _]| [grouping, cidr, total, used, free]);
        output::boxed(["GROUPING", "CIDR", "IPS TOTAL", "IPS IN USE", "IPS FREE"], rows)
    })?;
    complete(&problems)
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

fn usages(pools: &[Object], blocks: &[Object], show_blocks: bool) -> Vec<Usage> {
    let mut pools: Vec<IpNet> = pools
        .iter()
        .filter_map(|pool| if let Object::IpPool(pool) = pool { Some(pool.spec.cidr) } else { None })
        .collect();
    pools.sort_unstable();
    let mut blocks: Vec<_> = blocks
        .iter()
        .filter_map(|block| if let Object::IpamBlock(block) = block { Some(&block.spec) } else { None })
        .collect();
    blocks.sort_by_key(|block| block.cidr);
    let mut usages = Vec::new();
    for pool in pools {
        let inside: Vec<_> = blocks.iter().filter(|block| pool.contains(&block.cidr)).collect();
        let in_use = inside.iter().map(|block| block.allocations.iter().flatten().count()).sum();
        usages.push(usage("IP Pool", pool, None, in_use));
        if show_blocks {
            usages.extend(inside.iter().map(|block| {
                let in_use = block.allocations.iter().flatten().count();
                usage("Block", block.cidr, block.node().map(str::to_owned), in_use)
            }));
        }
    }
    usages
}

fn usage(grouping: &'static str, cidr: IpNet, node: Option<String>, in_use: usize) -> Usage {
    let bits = cidr.max_prefix_len() - cidr.prefix_len();
    let total = 1_u128.checked_shl(bits.into()).unwrap_or(u128::MAX);
    Usage { grouping, cidr, node, total: Count(total), in_use, free: Count(total.saturating_sub(in_use as u128)) }
}

fn holder(ip: std::net::IpAddr, blocks: &[Object]) -> Holder {
    for object in blocks {
        let Object::IpamBlock(block) = object else { continue };
        let spec = &block.spec;
        let Some(ordinal) = ordinal(spec.cidr, ip) else { continue };
        let attribute = spec.allocations.get(ordinal).copied().flatten().and_then(|index| spec.attributes.get(index));
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

/// Which address of the block this is, from zero.
fn ordinal(cidr: IpNet, ip: std::net::IpAddr) -> Option<usize> {
    let number = |ip: std::net::IpAddr| match ip {
        std::net::IpAddr::V4(ip) => u128::from(u32::from(ip)),
        std::net::IpAddr::V6(ip) => u128::from(ip),
    };
    cidr.contains(&ip).then(|| number(ip) - number(cidr.network())).and_then(|offset| usize::try_from(offset).ok())
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
    fn ordinals() {
        let block: IpNet = "10.244.0.64/26".parse().unwrap();
        assert_eq!(ordinal(block, "10.244.0.64".parse().unwrap()), Some(0));
        assert_eq!(ordinal(block, "10.244.0.127".parse().unwrap()), Some(63));
        assert_eq!(ordinal(block, "10.244.0.128".parse().unwrap()), None);
        assert_eq!(ordinal(block, "fd00::1".parse().unwrap()), None);
    }

    #[test]
    fn totals_of_wide_pools() {
        let pool = usage("IP Pool", "10.244.0.0/16".parse().unwrap(), None, 3);
        assert_eq!((pool.total, pool.free), (Count(65_536), Count(65_533)));
        assert_eq!(pool.free.share(pool.total), "65533 (100%)");
        let pool = usage("IP Pool", "fd00:10:244::/48".parse().unwrap(), None, 0);
        assert_eq!(pool.total.text(), "1.2089e+24");
        let json = serde_json::to_string(&pool).unwrap();
        assert!(json.contains("\"total\":1208925819614629174706176,"), "{json}");
        let yaml = serde_saphyr::to_string(&pool).unwrap();
        assert!(yaml.contains("total: 1208925819614629174706176\n"), "{yaml}");
        assert_eq!(usage("IP Pool", "::/0".parse().unwrap(), None, 0).total, Count(u128::MAX));
    }
}
