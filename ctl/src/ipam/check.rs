//! `tortie ipam check`: the books of IPAM, held against the pods and nodes that there are. Every finding comes with its proof.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;

use anyhow::Result;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tortie_api::calico::{AllocationAttribute, BlockAffinity, IpPool, IpamBlock, IpamHandle};
use tortie_api::k8s::{Node, Pod};
use tortie_api::meta::StringMap;
use tortie_cni::ipam::audit::{Inventory, Leak};
use tortie_cni::ipam::collector;
use tortie_cni::ipam::records::Records;
use tortie_cni::ipam::{block, implicit_pools};

use crate::output::Output;
use crate::settings::Store;

/// How many nodes are named, those with the most addresses.
const NODES: usize = 20;

/// What is named.
#[derive(Debug, Clone, Copy)]
pub(super) struct Detail {
    pub(super) all: bool,
    pub(super) problems: bool,
}

/// What a check found; calicoctl's report, and the proofs.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    /// Of the program that wrote it.
    pub(super) version: String,
    pub(super) allocations: BTreeMap<IpAddr, Vec<Allocation>>,
    #[serde(default)]
    pub(super) leaked_handles: Vec<HandleVersion>,
    /// Everything that is wrong, in sentences.
    problems: Vec<String>,
}

/// An address that is allocated.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Allocation {
    pub(super) ip: IpAddr,
    block: IpNet,
    ordinal: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) handle: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) sequence_number: Option<u64>,
    attributes: StringMap,
    pub(super) in_use: bool,
    borrowed: bool,
    owners: Vec<String>,
    /// Why it is not in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    proof: Option<String>,
}

/// A handle that holds nothing, at a certain version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct HandleVersion {
    #[serde(rename = "ID")]
    pub(super) id: String,
    #[serde(rename = "Revision")]
    pub(super) revision: String,
}

/// Everything that a check looks at.
pub(super) struct Books {
    pub(super) inventory: Inventory,
    pub(super) blocks: Vec<IpamBlock>,
    affinities: Vec<BlockAffinity>,
    handles: Vec<IpamHandle>,
    /// The ranges that addresses may be given out from.
    pools: Vec<IpNet>,
}

impl Books {
    pub(super) async fn read(store: &Store) -> Result<Self> {
        let records = Records::new(store.datastore());
        let mut inventory = Inventory::default();
        records.visit::<Node>(&mut |node| inventory.add_node(&node)).await?;
        records.visit::<Pod>(&mut |pod| inventory.add_pod(&pod)).await?;
        let pools: Vec<IpPool> = records.list().await?;
        let mut blocks: Vec<IpamBlock> = records.list().await?;
        blocks.sort_by_key(|block| block.spec.cidr);
        let pools = if pools.is_empty() && store.has_implicit_pools() {
            implicit_pools().collect()
        } else {
            pools.iter().filter(|pool| !pool.spec.disabled).map(|pool| pool.spec.cidr).collect()
        };
        Ok(Self { inventory, blocks, affinities: records.list().await?, handles: records.list().await?, pools })
    }

    /// Allocations that are not in use.
    pub(super) fn leaks(&self) -> Vec<Leak> {
        self.blocks.iter().flat_map(|block| collector::leaks(block, &self.inventory)).collect()
    }
}

pub(super) async fn run(store: &Store, output: Output, detail: Detail) -> Result<()> {
    let books = Books::read(store).await?;
    let users = books.inventory.in_use();
    let mut check = Check { books: &books, users, detail, text: String::new(), report: Report::default() };
    check.whole();
    let Check { text, report, .. } = check;
    output.print(&report, |_| text)
}

/// A check on its way.
struct Check<'a> {
    books: &'a Books,
    /// The addresses that are in use, and by whom.
    users: BTreeMap<IpAddr, Vec<String>>,
    detail: Detail,
    /// What a reader gets to see.
    text: String,
    report: Report,
}

impl Check<'_> {
    fn say(&mut self, line: impl std::fmt::Display) {
        let _ = writeln!(self.text, "{line}");
    }

    /// Something is wrong; named where that is asked for.
    fn problem(&mut self, what: String) {
        if self.detail.problems {
            self.say(format_args!("  {what}"));
        }
        self.report.problems.push(what);
    }

    fn whole(&mut self) {
        env!("CARGO_PKG_VERSION").clone_into(&mut self.report.version);
        self.say("Checking IPAM for inconsistencies...\n");
        self.blocks();
        self.pools_and_users();
        self.top_nodes();
        self.leaked();
        self.not_allocated();
        self.handles();
        self.ownership();
        let count = self.report.problems.len();
        self.say(format_args!("Check complete; found {count} problems."));
    }

    fn blocks(&mut self) {
        let books = self.books;
        self.say("Loading all IPAM blocks...");
        self.say(format_args!("Found {} IPAM blocks.", books.blocks.len()));
        let mut count = 0;
        for found in &books.blocks {
            let spec = &found.spec;
            let affinity = spec.affinity.as_deref().unwrap_or("<none>");
            self.say(format_args!(" IPAM block {} affinity={affinity}:", spec.cidr));
            for ordinal in 0..spec.allocations.len() {
                if let Some(attribute) = block::holder(spec, ordinal)
                    && let Some(ip) = block::address(&spec.cidr, ordinal as u128)
                {
                    count += 1;
                    self.allocation(found, ordinal, ip, attribute);
                }
            }
        }
        self.say(format_args!("IPAM blocks record {count} allocations.\n"));
    }

    fn allocation(&mut self, found: &IpamBlock, ordinal: usize, ip: IpAddr, attribute: &AllocationAttribute) {
        if self.detail.all {
            self.say(format_args!("  {ip} allocated; attrs {}", attributes(attribute)));
        }
        let spec = &found.spec;
        let proof = self.books.inventory.leak(attribute, ip);
        let node = attribute.secondary.get("node").map(String::as_str);
        let allocation = Allocation {
            ip,
            block: spec.cidr,
            ordinal,
            handle: attribute.handle_id.clone(),
            sequence_number: spec.sequence_number_for_allocation.get(&ordinal.to_string()).copied(),
            attributes: attribute.secondary.clone(),
            in_use: proof.is_none(),
            borrowed: node.is_some() && node != spec.node(),
            owners: self.users.get(&ip).cloned().unwrap_or_default(),
            proof: proof.map(|proof| proof.to_string()),
        };
        self.report.allocations.entry(ip).or_default().push(allocation);
    }

    fn pools_and_users(&mut self) {
        let books = self.books;
        self.say("Loading all IPAM pools...");
        for cidr in &books.pools {
            self.say(format_args!("  {cidr}"));
        }
        self.say(format_args!("Found {} active IP pools.\n", books.pools.len()));
        if self.detail.all {
            let lines: Vec<String> = self
                .users
                .iter()
                .flat_map(|(ip, users)| users.iter().map(move |user| format!("  {ip} belongs to {user}")))
                .collect();
            for line in lines {
                self.say(line);
            }
        }
        let of = |kind: &str| self.users.values().flatten().filter(|user| user.starts_with(kind)).count();
        let (tunnels, workloads, all) = (of("Node("), of("Workload("), self.users.len());
        self.say(format_args!("Found {tunnels} node tunnel IPs."));
        self.say(format_args!("Found {workloads} workload IPs."));
        self.say(format_args!("Workloads and nodes are using {all} IPs.\n"));
    }

    fn top_nodes(&mut self) {
        let mut by_node: BTreeMap<String, usize> = BTreeMap::new();
        for allocation in self.report.allocations.values().flatten() {
            *by_node.entry(allocation.attributes.get("node").cloned().unwrap_or_default()).or_default() += 1;
        }
        let mut nodes: Vec<(String, usize)> = by_node.into_iter().collect();
        nodes.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        self.say(format_args!("Looking for top (up to {NODES}) nodes by allocations..."));
        for (node, count) in nodes.iter().take(NODES) {
            self.say(format_args!("  {node} has {count} allocations"));
        }
        if let (Some((_, most)), Some((_, median))) = (nodes.first(), nodes.get(nodes.len() / 2)) {
            self.say(format_args!("Node with most allocations has {most}; median is {median}"));
        }
        self.say("");
    }

    fn leaked(&mut self) {
        self.say("Scanning for IPs that are allocated but not actually in use...");
        let leaks = self.books.leaks();
        for leak in &leaks {
            self.problem(leak.to_string());
        }
        let count = leaks.len();
        self.say(format_args!("Found {count} IPs that are allocated in IPAM but not actually in use."));
    }

    fn not_allocated(&mut self) {
        self.say("Scanning for IPs that are in use by a workload or node but not allocated in IPAM...");
        let (mut outside, mut missing) = (0, 0);
        for (ip, users) in self.users.clone() {
            if users.len() > 1 {
                self.problem(format!("{ip} has multiple owners: {}", users.join(", ")));
            }
            if self.report.allocations.contains_key(&ip) {
                continue;
            }
            let is_in_pool = self.books.pools.iter().any(|pool| pool.contains(&ip));
            for user in users {
                if is_in_pool {
                    missing += 1;
                    self.problem(format!("{ip} in use by {user} and in active IPAM pool but has no IPAM allocation"));
                } else {
                    outside += 1;
                    self.problem(format!("{ip} in use by {user} is not in any active IP pool"));
                }
            }
        }
        self.say(format_args!("Found {outside} in-use IPs that are not in active IP pools."));
        self.say(format_args!(
            "Found {missing} in-use IPs that are in active IP pools but have no corresponding IPAM allocation.\n"
        ));
    }

    fn handles(&mut self) {
        self.say("Scanning for IPAM handles with no matching IPs...");
        let books = self.books;
        let holders: BTreeSet<&str> = books
            .blocks
            .iter()
            .flat_map(|block| block.spec.attributes.iter().filter_map(|attribute| attribute.handle_id.as_deref()))
            .collect();
        let (good, idle): (Vec<_>, Vec<_>) =
            books.handles.iter().partition(|handle| holders.contains(handle.spec.handle_id.as_str()));
        for handle in &idle {
            let id = &handle.spec.handle_id;
            self.problem(format!("handle {id} doesn't have any active IPs"));
            let revision = handle.metadata.resource_version.clone().unwrap_or_default();
            self.report.leaked_handles.push(HandleVersion { id: id.clone(), revision });
        }
        let (idle, good) = (idle.len(), good.len());
        self.say(format_args!("Found {idle} handles with no matching IPs (and {good} handles with matches)."));
        self.say("Scanning for IPs with missing handle...");
        let known: BTreeSet<&str> = books.handles.iter().map(|handle| handle.spec.handle_id.as_str()).collect();
        let missing: Vec<&str> = holders.difference(&known).copied().collect();
        for id in &missing {
            self.problem(format!("handle {id} is in use in a block but doesn't exist"));
        }
        let missing = missing.len();
        self.say(format_args!("Found {missing} handles mentioned in blocks with no matching handle resource."));
    }

    /// Blocks that overlap, and blocks, affinities and nodes that do not say the same.
    fn ownership(&mut self) {
        self.say("Scanning for blocks, affinities and nodes that contradict each other...");
        let before = self.report.problems.len();
        let books = self.books;
        for pair in books.blocks.windows(2) {
            let (one, other) = (pair[0].spec.cidr, pair[1].spec.cidr);
            if one.contains(&other) {
                self.problem(format!("blocks {one} and {other} overlap: an address may be given out twice"));
            }
        }
        let claims: BTreeSet<(IpNet, &str)> = books
            .affinities
            .iter()
            .filter(|affinity| affinity.spec.is_of_node())
            .map(|affinity| (affinity.spec.cidr, affinity.spec.node.as_str()))
            .collect();
        let owned: BTreeSet<(IpNet, &str)> =
            books.blocks.iter().filter_map(|block| Some((block.spec.cidr, block.spec.node()?))).collect();
        for (cidr, node) in claims.difference(&owned) {
            self.problem(format!("node {node} has an affinity to {cidr}, and no such block is its own"));
        }
        for (cidr, node) in owned.difference(&claims) {
            self.problem(format!("block {cidr} says that it is node {node}'s, and no affinity does"));
        }
        for (cidr, node) in owned.iter().filter(|(_, node)| !books.inventory.has_node(node)) {
            self.problem(format!("block {cidr} is node {node}'s, and there is no such node"));
        }
        let count = self.report.problems.len() - before;
        self.say(format_args!("Found {count} contradictions.\n"));
    }
}

fn attributes(attribute: &AllocationAttribute) -> String {
    let extra: Vec<String> = attribute.secondary.iter().map(|(key, value)| format!("{key}={value}")).collect();
    format!("Main:{} Extra:{}", attribute.handle_id.as_deref().unwrap_or("<none>"), extra.join(","))
}
