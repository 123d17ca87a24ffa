//! Whose block is whose: a node's own, new ones, those of others, and those that are given back.
//!
//! Making the block decides: of two nodes that want one, one makes it. The affinity goes before it, so that whoever looks for a free block
//! reads affinities, which are small, and so that a claim that broke off is found by its node's next start, or by the controller.

use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use tortie_api::ObjectMeta;
use tortie_api::calico::{
    AffinityState, BlockAffinity, BlockAffinitySpec, HOSTNAME_HASH_LABEL, IpamBlock, OtherFields, hostname_hash,
};

use super::pools::Taken;
use super::records::Records;
use super::{ATTEMPTS, Error, Ipam, Own, Picture, block, names, pause};

/// How long an empty block stays with a node although others need one, as in Calico: who just got it is about to use it.
const UNTOUCHED: Duration = Duration::from_secs(60);

impl Ipam {
    /// Asks the datastore once which blocks are the node's, and ends the claims that an earlier run began.
    pub(super) async fn learn(&self, own: &mut Own) -> Result<(), Error> {
        if own.learned {
            return Ok(());
        }
        let digest = hostname_hash(&self.node);
        let mut affinities = self.records.list_labelled::<BlockAffinity>(HOSTNAME_HASH_LABEL, &digest).await?;
        if affinities.is_empty() {
            // Those of older Calicos have no labels.
            affinities = self.records.list().await?;
        }
        own.blocks.clear();
        for affinity in affinities {
            if affinity.spec.node != self.node || !affinity.spec.is_of_node() {
                continue;
            }
            let cidr = affinity.spec.cidr;
            if affinity.spec.state != AffinityState::Confirmed {
                let block = self.block(&cidr).await?;
                if !block.is_some_and(|block| self.owns(&block)) {
                    self.records.delete(&affinity).await?;
                    continue;
                }
                if self.confirm(affinity).await?.is_none() {
                    continue;
                }
            } else if let Some(labelled) = labelled(&affinity) {
                // By its label the agent's watch finds it. Lost to somebody else's change, the controller does it.
                self.records.update(labelled).await?;
            }
            own.blocks.push(cidr);
        }
        own.learned = true;
        Ok(())
    }

    pub(super) fn owns(&self, found: &IpamBlock) -> bool {
        found.spec.affinity.as_deref() == Some(&block::affinity(&self.node))
    }

    /// An own block with room, in a pool that the claim may get addresses from.
    pub(super) async fn own_with_room(
        &self,
        own: &mut Own,
        picture: &Picture,
        v4: bool,
    ) -> Result<Option<IpamBlock>, Error> {
        let candidates: Vec<IpNet> =
            own.blocks.iter().filter(|cidr| cidr.addr().is_ipv4() == v4 && picture.allows(cidr)).copied().collect();
        for cidr in candidates {
            match self.block(&cidr).await? {
                Some(mut found) if self.owns(&found) => {
                    block::thaw(&mut found.spec, picture.cooldown());
                    if block::has_room(&found.spec, &picture.reserved) {
                        // Asked first the next time.
                        own.blocks.retain(|other| *other != cidr);
                        own.blocks.insert(0, cidr);
                        return Ok(Some(found));
                    }
                }
                // Somebody gave it back for this node, or took it when it was empty.
                _ => {
                    own.blocks.retain(|other| *other != cidr);
                    if let Some(affinity) = self.affinity(&self.node, &cidr).await? {
                        self.records.delete(&affinity).await?;
                    }
                }
            }
        }
        Ok(None)
    }

    /// Makes a block the node's that is nobody's, in the first pool that has one.
    pub(super) async fn claim_new(
        &self,
        own: &mut Own,
        picture: &Picture,
        v4: bool,
    ) -> Result<Option<IpamBlock>, Error> {
        let affinities: Vec<BlockAffinity> = self.records.list().await?;
        let mut lost: Vec<IpNet> = own.blocks.clone();
        // Claims that are under way, or never came to anything, stand back for those that are sure.
        for unsure_too in [true, false] {
            loop {
                let free = picture.of_family(v4).find_map(|pool| {
                    let taken = affinities
                        .iter()
                        .filter(|affinity| unsure_too || affinity.spec.state == AffinityState::Confirmed)
                        .map(|affinity| affinity.spec.cidr)
                        .chain(lost.iter().copied())
                        .chain(
                            picture.reserved.ranges().iter().filter(|range| range.prefix_len() <= pool.block).copied(),
                        );
                    pool.free_block(&self.node, &Taken::new(taken, v4))
                });
                let Some(cidr) = free else { break };
                if let Some(found) = self.claim(&cidr, picture).await? {
                    tracing::info!(node = self.node, block = %cidr, "claimed a block of addresses");
                    own.blocks.insert(0, cidr);
                    return Ok(Some(found));
                }
                lost.push(cidr);
            }
        }
        Ok(None)
    }

    /// Makes a certain block the node's: affinity, block, confirmation. Nothing if it is another's, or nobody's and full.
    pub(super) async fn claim(&self, cidr: &IpNet, picture: &Picture) -> Result<Option<IpamBlock>, Error> {
        for attempt in 0..ATTEMPTS {
            if let Some(affinity) = self.pending(cidr).await? {
                let made = self.records.create(block::new(*cidr, &self.node, SystemTime::now())).await?;
                let found = match made {
                    Some(made) => Some(made),
                    None => match self.block(cidr).await? {
                        Some(found) if self.owns(&found) => Some(found),
                        Some(mut found)
                            if found.spec.affinity.is_none() && block::has_room(&found.spec, &picture.reserved) =>
                        {
                            found.spec.affinity = Some(block::affinity(&self.node));
                            found.spec.affinity_claim_time = Some(block::time(SystemTime::now()));
                            found.spec.sequence_number = found.spec.sequence_number.wrapping_add(1);
                            self.records.update(found).await?
                        }
                        Some(_) => {
                            // Should the deletion fail, the affinity is a claim that never came to anything.
                            self.records.delete(&affinity).await?;
                            return Ok(None);
                        }
                        None => None,
                    },
                };
                if let Some(found) = found
                    && self.confirm(affinity).await?.is_some()
                {
                    return Ok(Some(found));
                }
            }
            pause(&self.node, attempt).await;
        }
        Err(Error::Contended)
    }

    /// The node's affinity to a block, made or found; nothing if somebody else was at it.
    async fn pending(&self, cidr: &IpNet) -> Result<Option<BlockAffinity>, Error> {
        let spec = BlockAffinitySpec {
            state: AffinityState::Pending,
            node: self.node.clone(),
            kind: "host".to_owned(),
            cidr: *cidr,
            deleted: false,
            other: OtherFields::new(),
        };
        let name = names::affinity(&self.node, cidr);
        let metadata = ObjectMeta { name, labels: spec.labels(), ..ObjectMeta::default() };
        let new = BlockAffinity { metadata, spec };
        if let Some(made) = self.records.create(new).await? {
            return Ok(Some(made));
        }
        match self.affinity(&self.node, cidr).await? {
            Some(found) if matches!(found.spec.state, AffinityState::Confirmed | AffinityState::Pending) => {
                Ok(Some(found))
            }
            Some(mut found) => {
                found.spec.state = AffinityState::Pending;
                Ok(self.records.update(found).await?)
            }
            None => Ok(None),
        }
    }

    /// Says that a block is the node's. Nothing if somebody else changed the affinity since it was read.
    async fn confirm(&self, mut affinity: BlockAffinity) -> Result<Option<BlockAffinity>, Error> {
        if affinity.spec.state == AffinityState::Confirmed {
            return Ok(Some(affinity));
        }
        affinity.spec.state = AffinityState::Confirmed;
        Ok(self.records.update(labelled(&affinity).unwrap_or(affinity)).await?)
    }

    async fn affinity(&self, node: &str, cidr: &IpNet) -> Result<Option<BlockAffinity>, Error> {
        Ok(self.records.get::<BlockAffinity>(&names::affinity(node, cidr)).await?)
    }

    /// Where no block is free: one of another node's that is empty, which becomes the node's own; else one with room, to borrow from,
    /// unless blocks are strictly their nodes'.
    pub(super) async fn elsewhere(
        &self,
        own: &mut Own,
        picture: &Picture,
        v4: bool,
        may_claim: bool,
    ) -> Result<Option<IpamBlock>, Error> {
        let mut blocks: Vec<IpamBlock> = self.records.list().await?;
        blocks.retain(|found| {
            let cidr = &found.spec.cidr;
            // The blocks of load balancers and the like are no node's, and nobody borrows from them.
            let is_of_nodes = found.spec.affinity.as_ref().is_none_or(|affinity| affinity.starts_with("host:"));
            cidr.addr().is_ipv4() == v4 && is_of_nodes && !self.owns(found) && picture.allows(cidr)
        });
        blocks.sort_by_key(|found| found.spec.cidr);
        for found in &blocks {
            let claimed = found.spec.affinity_claim_time.as_deref().unwrap_or_default();
            if !may_claim || !block::is_empty(&found.spec) || block::age(claimed, SystemTime::now()) < UNTOUCHED {
                continue;
            }
            if give_back(&self.records, found).await?
                && let Some(claimed) = self.claim(&found.spec.cidr, picture).await?
            {
                tracing::info!(node = self.node, block = %found.spec.cidr, "took over another node's empty block");
                own.blocks.insert(0, claimed.spec.cidr);
                return Ok(Some(claimed));
            }
        }
        if picture.settings.strict_affinity {
            return Ok(None);
        }
        let candidate = blocks.into_iter().map(|mut found| {
            block::thaw(&mut found.spec, picture.cooldown());
            found
        });
        let mut candidates =
            candidate.filter(|found| !found.spec.strict_affinity && block::has_room(&found.spec, &picture.reserved));
        Ok(candidates.next())
    }
}

/// The affinity with the labels that it is found by; nothing if it has them.
pub(super) fn labelled(affinity: &BlockAffinity) -> Option<BlockAffinity> {
    let labels = affinity.spec.labels();
    if labels.iter().all(|(label, value)| affinity.metadata.labels.get(label) == Some(value)) {
        return None;
    }
    let mut labelled = affinity.clone();
    labelled.metadata.labels.extend(labels);
    Some(labelled)
}

/// Gives back a block that is empty, for the node that owns it. False if it is not empty any more, or has no owner to give it back for.
///
/// The owner may be about to use it: then its write comes first and the block stays, or the block's deletion does and its write fails.
pub(super) async fn give_back(records: &Records, found: &IpamBlock) -> Result<bool, Error> {
    let Some(node) = found.spec.node().filter(|_| block::is_empty(&found.spec)) else { return Ok(false) };
    let name = names::affinity(node, &found.spec.cidr);
    let Some(mut affinity) = records.get::<BlockAffinity>(&name).await? else { return Ok(false) };
    affinity.spec.state = AffinityState::PendingDeletion;
    let Some(mut affinity) = records.update(affinity).await? else { return Ok(false) };
    if records.delete(found).await? {
        // Should this fail, an affinity without a block is left, which is found by the controller.
        records.delete(&affinity).await?;
        return Ok(true);
    }
    affinity.spec.state = AffinityState::Confirmed;
    records.update(affinity).await?;
    Ok(false)
}
