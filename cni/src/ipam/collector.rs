//! What is nobody's node's duty: addresses, blocks, affinities and handles that nobody will ever give back are given back.
//!
//! The controller that leads scans from time to time. What looks abandoned must look so in two scans and for as long as the grace period;
//! then it is read once more, just before it goes, and goes by compare-and-swap. So nothing is taken from an ADD under way, which
//! takes moments, nor from a pod that came back, nor on the word of one stale reading.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use tortie_api::calico::{
    AllocationAttribute, BlockAffinity, IpamBlock, IpamConfiguration, IpamConfigurationSpec, IpamHandle,
};
use tortie_api::k8s::{Node, Pod};
use tortie_datastore::Datastore;

use super::audit::{Inventory, Leak};
use super::block;
use super::claims::{give_back, labelled};
use super::records::Records;
use super::{Error, cooldown, handles, names};

/// For how long a node must be gone before what it had is given back, if the grace period is longer: with the node its pods are gone too,
/// and nobody is left who could come back to an address.
pub const GONE: Duration = Duration::from_secs(60);

/// How much is given back in one scan at most: each takes a few requests, and the rest is still there the next time.
const MOST_AT_ONCE: usize = 1000;

/// What a scan came to.
#[derive(Debug, Default)]
pub struct Scan {
    /// Allocations that are not in use, as of now; those that were returned included.
    pub leaks: Vec<Leak>,
    /// Allocations that were returned.
    pub returned: Vec<Leak>,
    /// Blocks that were given back: of nodes that are gone, and empty ones of nodes that have others.
    pub blocks: Vec<IpNet>,
    /// Affinities that were deleted because their block is not there, or another's; by name.
    pub affinities: Vec<String>,
    /// Handles that were deleted because they hold nothing.
    pub handles: Vec<String>,
    /// Nodes that are gone and still had something.
    pub gone: BTreeSet<String>,
}

/// Gives back what is abandoned.
pub struct Collector {
    records: Records,
    /// The node that this runs on.
    node: String,
    suspects: Sightings<Suspect>,
    suspects_of_gone: Sightings<Suspect>,
    gone: Sightings<String>,
    stray: Sightings<(String, String)>,
    idle: Sightings<(String, String)>,
    spare: Sightings<(IpNet, u64)>,
}

/// An allocation, told from any later one of its address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Suspect {
    block: IpNet,
    ordinal: usize,
    handle: Option<String>,
    sequence_number: Option<u64>,
}

impl Suspect {
    fn of(leak: &Leak) -> Self {
        Self {
            block: leak.block,
            ordinal: leak.ordinal,
            handle: leak.attribute.handle_id.clone(),
            sequence_number: leak.sequence_number,
        }
    }
}

/// What was seen in scans one after the other, and since when.
#[derive(Debug)]
struct Sightings<K>(HashMap<K, (Instant, u32)>);

impl<K> Default for Sightings<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Hash + Eq + Clone> Sightings<K> {
    /// Takes a scan in; returns what has now been seen in two at least, and for as long as the grace period. What was not seen is
    /// forgotten.
    fn see(&mut self, seen: impl IntoIterator<Item = K>, now: Instant, grace: Duration) -> HashSet<K> {
        let mut before = std::mem::take(&mut self.0);
        let mut ripe = HashSet::new();
        for key in seen {
            let (since, scans) = before.remove(&key).unwrap_or((now, 0));
            if scans >= 1 && now.duration_since(since) >= grace {
                ripe.insert(key.clone());
            }
            self.0.insert(key, (since, scans + 1));
        }
        ripe
    }
}

/// A block, in short.
struct Brief {
    cidr: IpNet,
    node: Option<String>,
    is_empty: bool,
    sequence_number: u64,
}

/// What the blocks say, in short.
#[derive(Default)]
struct Blocks {
    all: Vec<Brief>,
    leaks: Vec<Leak>,
    /// Handles that hold an address.
    handles: HashSet<String>,
}

impl Blocks {
    fn take(&mut self, block: &IpamBlock, inventory: &Inventory) {
        let spec = &block.spec;
        self.all.push(Brief {
            cidr: spec.cidr,
            node: spec.node().map(str::to_owned),
            is_empty: block::is_empty(spec),
            sequence_number: spec.sequence_number,
        });
        for attribute in &spec.attributes {
            self.handles.extend(attribute.handle_id.clone());
        }
        self.leaks.extend(leaks(block, inventory));
    }

    fn owner(&self, cidr: &IpNet) -> Option<&str> {
        // In the order of their ranges, see `Collector::blocks`.
        let index = self.all.binary_search_by_key(cidr, |brief| brief.cidr).ok()?;
        self.all[index].node.as_deref()
    }
}

/// The allocations of a block that are not in use.
pub fn leaks(block: &IpamBlock, inventory: &Inventory) -> Vec<Leak> {
    let spec = &block.spec;
    let of = |ordinal: usize| {
        let attribute = block::holder(spec, ordinal)?;
        let ip = block::address(&spec.cidr, ordinal as u128)?;
        let proof = inventory.leak(attribute, ip)?;
        let sequence_number = spec.sequence_number_for_allocation.get(&ordinal.to_string()).copied();
        Some(Leak { block: spec.cidr, ordinal, ip, sequence_number, attribute: attribute.clone(), proof })
    };
    (0..spec.allocations.len()).filter_map(of).collect()
}

impl Collector {
    /// A collector on `node`, whose own Node object must be there before the absence of others means anything.
    pub fn new(datastore: Arc<dyn Datastore>, node: impl Into<String>) -> Self {
        Self {
            records: Records::new(datastore),
            node: node.into(),
            suspects: Sightings::default(),
            suspects_of_gone: Sightings::default(),
            gone: Sightings::default(),
            stray: Sightings::default(),
            idle: Sightings::default(),
            spare: Sightings::default(),
        }
    }

    /// Looks at everything once. `now` is the time, `grace` for how long something must have looked abandoned.
    pub async fn scan(&mut self, now: Instant, grace: Duration) -> Result<Scan, Error> {
        // Before the blocks: an allocation that is younger than this reading is a suspect for once, and not in the next scan.
        let inventory = self.inventory().await?;
        let mut blocks = self.blocks(&inventory).await?;
        let mut scan = Scan { leaks: std::mem::take(&mut blocks.leaks), ..Scan::default() };
        let is_gone = |leak: &Leak| {
            let node = leak.attribute.secondary.get("node");
            inventory.has_node(&self.node) && node.is_some_and(|node| !inventory.has_node(node))
        };
        let (of_gone, others): (Vec<&Leak>, Vec<&Leak>) = scan.leaks.iter().partition(|leak| is_gone(leak));
        let mut ripe = self.suspects.see(others.into_iter().map(Suspect::of), now, grace);
        ripe.extend(self.suspects_of_gone.see(of_gone.into_iter().map(Suspect::of), now, grace.min(GONE)));
        for leak in scan.leaks.iter().filter(|leak| ripe.contains(&Suspect::of(leak))).take(MOST_AT_ONCE) {
            if give_address_back(&self.records, leak).await? {
                tracing::info!(%leak, "a leaked address was returned");
                scan.returned.push(leak.clone());
            }
        }
        self.give_affinities_back(&inventory, &blocks, &mut scan, (now, grace)).await?;
        self.give_spare_blocks_back(&blocks, &mut scan, (now, grace)).await?;
        self.delete_idle_handles(&blocks.handles, &mut scan, (now, grace)).await?;
        Ok(scan)
    }

    async fn inventory(&self) -> Result<Inventory, Error> {
        let mut inventory = Inventory::default();
        self.records.visit::<Node>(&mut |node| inventory.add_node(&node)).await?;
        self.records.visit::<Pod>(&mut |pod| inventory.add_pod(&pod)).await?;
        Ok(inventory)
    }

    async fn blocks(&self, inventory: &Inventory) -> Result<Blocks, Error> {
        let mut blocks = Blocks::default();
        self.records.visit::<IpamBlock>(&mut |block| blocks.take(&block, inventory)).await?;
        blocks.all.sort_unstable_by_key(|brief| brief.cidr);
        Ok(blocks)
    }

    /// The blocks of nodes that are gone, and affinities that lead to no block.
    async fn give_affinities_back(
        &mut self,
        inventory: &Inventory,
        blocks: &Blocks,
        scan: &mut Scan,
        (now, grace): (Instant, Duration),
    ) -> Result<(), Error> {
        let mut affinities: Vec<BlockAffinity> = Vec::new();
        self.records.visit(&mut |affinity: BlockAffinity| affinities.push(affinity)).await?;
        affinities.retain(|affinity| affinity.spec.is_of_node());
        // Where not even the own node is to be found, the list of nodes is not one to act upon.
        let gone: BTreeSet<String> = affinities
            .iter()
            .map(|affinity| affinity.spec.node.clone())
            .filter(|node| inventory.has_node(&self.node) && !inventory.has_node(node))
            .collect();
        scan.gone.clone_from(&gone);
        let gone = self.gone.see(gone, now, grace.min(GONE));
        let is_stray = |affinity: &&BlockAffinity| blocks.owner(&affinity.spec.cidr) != Some(&affinity.spec.node);
        let stray: Vec<_> = affinities.iter().filter(is_stray).map(version).collect();
        let stray = self.stray.see(stray, now, grace);
        for affinity in &affinities {
            let spec = &affinity.spec;
            if stray.contains(&version(affinity)) {
                let found = self.records.get::<IpamBlock>(&names::block(&spec.cidr)).await?;
                let is_owned = found.is_some_and(|found| found.spec.node() == Some(&spec.node));
                if !is_owned && self.records.delete(affinity).await? {
                    tracing::info!(node = spec.node, block = %spec.cidr, "an affinity without a block was deleted");
                    scan.affinities.push(affinity.metadata.name.clone());
                }
            } else if gone.contains(&spec.node) {
                if self.records.get::<Node>(&spec.node).await?.is_none()
                    && let Some(found) = self.records.get::<IpamBlock>(&names::block(&spec.cidr)).await?
                    && found.spec.node() == Some(&spec.node)
                    && give_back(&self.records, &found).await?
                {
                    tracing::info!(node = spec.node, block = %spec.cidr, "a block of a node that is gone was given back");
                    scan.blocks.push(spec.cidr);
                }
            } else if let Some(labelled) = labelled(affinity) {
                // From before there were any. Lost to somebody else's change, it is done the next time.
                self.records.update(labelled).await?;
            }
        }
        Ok(())
    }

    /// Empty blocks of nodes that have others. The last one stays, or the node's next pod would have to wait for a new one.
    async fn give_spare_blocks_back(
        &mut self,
        blocks: &Blocks,
        scan: &mut Scan,
        (now, grace): (Instant, Duration),
    ) -> Result<(), Error> {
        let mut of_node: BTreeMap<(&str, bool), Vec<&Brief>> = BTreeMap::new();
        for brief in &blocks.all {
            if let Some(node) = &brief.node {
                of_node.entry((node, brief.cidr.addr().is_ipv4())).or_default().push(brief);
            }
        }
        let spare: Vec<(IpNet, u64)> = of_node
            .values()
            .flat_map(|briefs| {
                let empty = briefs.iter().filter(|brief| brief.is_empty);
                let kept = usize::from(briefs.iter().all(|brief| brief.is_empty));
                empty.skip(kept).map(|brief| (brief.cidr, brief.sequence_number))
            })
            .collect();
        let ripe = self.spare.see(spare, now, grace);
        for (cidr, sequence_number) in ripe.into_iter().take(MOST_AT_ONCE) {
            let found = self.records.get::<IpamBlock>(&names::block(&cidr)).await?;
            if let Some(found) = found.filter(|found| found.spec.sequence_number == sequence_number)
                && give_back(&self.records, &found).await?
            {
                tracing::info!(node = found.spec.node(), block = %cidr, "an empty block was given back");
                scan.blocks.push(cidr);
            }
        }
        Ok(())
    }

    /// Handles that hold nothing: of ADDs that broke off after the first step, or of DELs before the last.
    async fn delete_idle_handles(
        &mut self,
        in_use: &HashSet<String>,
        scan: &mut Scan,
        (now, grace): (Instant, Duration),
    ) -> Result<(), Error> {
        let mut idle = Vec::new();
        let mut look = |handle: IpamHandle| {
            if !in_use.contains(&handle.spec.handle_id) {
                idle.push(version(&handle));
            }
        };
        self.records.visit(&mut look).await?;
        let ripe = self.idle.see(idle, now, grace);
        for (name, seen) in ripe.into_iter().take(MOST_AT_ONCE) {
            let Some(handle) = self.records.get::<IpamHandle>(&name).await? else { continue };
            if version(&handle).1 != seen
                || handles::count(&self.records, &handle).await?.values().any(|held| *held > 0)
            {
                continue;
            }
            if self.records.delete(&handle).await? {
                tracing::info!(handle = handle.spec.handle_id, "a handle that holds nothing was deleted");
                scan.handles.push(name);
            }
        }
        Ok(())
    }
}

fn with_blocks(mut handle: IpamHandle, blocks: BTreeMap<String, u32>) -> IpamHandle {
    handle.spec.block = blocks;
    handle
}

/// Which version of which object.
fn version<T: super::records::Record>(record: &T) -> (String, String) {
    let metadata = record.metadata();
    (metadata.name.clone(), metadata.resource_version.clone().unwrap_or_default())
}

/// Returns a leaked address to its block, if it still is what it was, and still not in use: block, pod and node are read anew. False
/// if it is not.
pub async fn give_address_back(records: &Records, leak: &Leak) -> Result<bool, Error> {
    let secondary = &leak.attribute.secondary;
    let mut inventory = Inventory::default();
    if let (Some(namespace), Some(pod)) = (secondary.get("namespace"), secondary.get("pod"))
        && let Some(pod) = records.get_in::<Pod>(Some(namespace), pod).await?
    {
        inventory.add_pod(&pod);
    }
    if let Some(node) = secondary.get("node")
        && let Some(node) = records.get::<Node>(node).await?
    {
        inventory.add_node(&node);
    }
    let Some(found) = records.get::<IpamBlock>(&names::block(&leak.block)).await? else { return Ok(false) };
    let suspect = Suspect::of(leak);
    if !leaks(&found, &inventory).iter().any(|still| Suspect::of(still) == suspect) {
        return Ok(false);
    }
    free(records, found, leak.ordinal, &leak.attribute).await
}

/// Returns an address to its block whoever uses it, if `holder` still holds it. False if it does not.
pub async fn take_address_back(
    records: &Records,
    cidr: &IpNet,
    ordinal: usize,
    holder: &AllocationAttribute,
) -> Result<bool, Error> {
    let Some(found) = records.get::<IpamBlock>(&names::block(cidr)).await? else { return Ok(false) };
    if block::holder(&found.spec, ordinal) != Some(holder) {
        return Ok(false);
    }
    free(records, found, ordinal, holder).await
}

/// Returns an address to its block, and lets its handle name only blocks where it still has one. False if somebody else changed the block
/// since it was read, who may have given the address anew.
async fn free(
    records: &Records,
    mut found: IpamBlock,
    ordinal: usize,
    holder: &AllocationAttribute,
) -> Result<bool, Error> {
    let settings = records.get::<IpamConfiguration>(IpamConfigurationSpec::NAME).await?;
    let cooldown = cooldown(&settings.map(|settings| settings.spec).unwrap_or_default());
    block::thaw(&mut found.spec, cooldown);
    block::free(&mut found.spec, &[ordinal], cooldown);
    if records.update(found).await?.is_none() {
        return Ok(false);
    }
    if let Some(handle) = &holder.handle_id
        && let Some(known) = records.get::<IpamHandle>(&names::handle(handle)).await?
    {
        let mut left = handles::count(records, &known).await?;
        left.retain(|_, held| *held > 0);
        // Should somebody have changed the handle meanwhile, it is his, and what is left over of it is found to be idle some day.
        if left.is_empty() {
            records.delete(&known).await?;
        } else {
            records.update(with_blocks(known, left)).await?;
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_scans_and_the_grace_period() {
        let mut sightings = Sightings::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut see = |seen: &[char], seconds| {
            let mut ripe: Vec<char> =
                sightings.see(seen.iter().copied(), at(seconds), Duration::from_secs(60)).into_iter().collect();
            ripe.sort_unstable();
            ripe.into_iter().collect::<String>()
        };
        assert_eq!(see(&['a', 'b'], 0), "");
        assert_eq!(see(&['a', 'b', 'c'], 30), "");
        assert_eq!(see(&['a', 'c'], 60), "a", "b was not seen");
        assert_eq!(see(&['a', 'b', 'c'], 90), "ac");
        assert_eq!(see(&['b'], 1000), "b");
        assert_eq!(see(&[], 2000), "");
        assert_eq!(see(&['b'], 3000), "", "once is not enough, however long");
    }
}
