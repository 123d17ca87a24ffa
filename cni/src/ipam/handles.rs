//! Handles: in which blocks an attachment has addresses.
//!
//! A handle names a block before the block has an address of it, and goes when no block has one any more. So at any moment every address
//! is found by its handle; what a handle names may not be there (yet).

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use tortie_api::ObjectMeta;
use tortie_api::calico::{HOSTNAME_HASH_LABEL, IpamBlock, IpamHandle, IpamHandleSpec, OtherFields, hostname_hash};

use super::block::{self, Cooldown};
use super::records::Records;
use super::{ATTEMPTS, Error, Ipam, cooldown, names, pause};

/// The blocks that a handle names.
pub(super) fn blocks(handle: &IpamHandle) -> impl Iterator<Item = IpNet> {
    handle.spec.block.keys().filter_map(|cidr| cidr.parse().ok())
}

/// How many addresses a handle really has in each block that it names.
pub(super) async fn count(records: &Records, handle: &IpamHandle) -> Result<BTreeMap<String, u32>, Error> {
    let mut counts = BTreeMap::new();
    for cidr in blocks(handle) {
        let block = records.get::<IpamBlock>(&names::block(&cidr)).await?;
        let held = block.map_or(0, |block| block::held(&block.spec, &handle.spec.handle_id).len());
        counts.insert(cidr.to_string(), u32::try_from(held).unwrap_or(u32::MAX));
    }
    Ok(counts)
}

/// Lets a handle name just these blocks; one that names none goes.
pub(super) async fn settle(records: &Records, handle: &str, blocks: &BTreeMap<String, u32>) -> Result<(), Error> {
    for attempt in 0..ATTEMPTS {
        let Some(mut found) = records.get::<IpamHandle>(&names::handle(handle)).await? else { return Ok(()) };
        let is_done = if blocks.is_empty() {
            records.delete(&found).await?
        } else if found.spec.block == *blocks {
            true
        } else {
            found.spec.block.clone_from(blocks);
            records.update(found).await?.is_some()
        };
        if is_done {
            return Ok(());
        }
        pause(handle, attempt).await;
    }
    Err(Error::Contended)
}

impl Ipam {
    /// What is known of a handle.
    pub(super) async fn handle(&self, handle: &str) -> Result<Option<IpamHandle>, Error> {
        Ok(self.records.get::<IpamHandle>(&names::handle(handle)).await?)
    }

    /// The addresses that a handle holds in the blocks that it names, each with its block.
    pub(super) async fn held(&self, handle: &str, known: Option<&IpamHandle>) -> Result<Vec<(IpNet, IpAddr)>, Error> {
        let mut held = Vec::new();
        for cidr in known.into_iter().flat_map(blocks) {
            if let Some(block) = self.block(&cidr).await? {
                held.extend(block::held(&block.spec, handle).into_iter().map(|ip| (cidr, ip)));
            }
        }
        Ok(held)
    }

    /// Lets a handle, which may be `known` from a moment ago, name these blocks too. An attachment has one address in a block at most.
    pub(super) async fn note(&self, handle: &str, mut known: Option<IpamHandle>, cidrs: &[IpNet]) -> Result<(), Error> {
        if cidrs.is_empty() {
            return Ok(());
        }
        for attempt in 0..ATTEMPTS {
            let written = match known {
                Some(mut found) => {
                    let before = found.spec.block.len();
                    for cidr in cidrs {
                        found.spec.block.entry(cidr.to_string()).or_insert(1);
                    }
                    if found.spec.block.len() == before {
                        return Ok(());
                    }
                    self.records.update(found).await?
                }
                None => self.records.create(self.new_handle(handle, cidrs)).await?,
            };
            if written.is_some() {
                return Ok(());
            }
            pause(&self.node, attempt).await;
            known = self.handle(handle).await?;
        }
        Err(Error::Contended)
    }

    fn new_handle(&self, handle: &str, cidrs: &[IpNet]) -> IpamHandle {
        // By the label a node finds its handles without reading everybody's.
        let labels = [(HOSTNAME_HASH_LABEL.to_owned(), hostname_hash(&self.node))].into();
        IpamHandle {
            metadata: ObjectMeta { name: names::handle(handle), labels, ..ObjectMeta::default() },
            spec: IpamHandleSpec {
                handle_id: handle.to_owned(),
                block: cidrs.iter().map(|cidr| (cidr.to_string(), 1)).collect(),
                deleted: false,
                other: OtherFields::new(),
            },
        }
    }

    /// Takes back what a handle holds in the blocks that it names, but for the addresses to keep. Returns what was released; nothing if
    /// there is no such handle.
    pub(super) async fn take_back(&self, handle: &str, keep: &[IpAddr]) -> Result<Option<Vec<IpAddr>>, Error> {
        let Some(known) = self.handle(handle).await? else { return Ok(None) };
        let cooldown = cooldown(&self.settings().await?);
        let (mut released, mut left) = (Vec::new(), BTreeMap::new());
        for cidr in blocks(&known) {
            let (gone, kept) = self.release_in(&cidr, handle, keep, cooldown).await?;
            released.extend(gone);
            if kept > 0 {
                left.insert(cidr.to_string(), kept);
            }
        }
        settle(&self.records, handle, &left).await?;
        Ok(Some(released))
    }

    /// Takes back what a handle holds in one block. Returns it, and how many addresses the handle keeps.
    pub(super) async fn release_in(
        &self,
        cidr: &IpNet,
        handle: &str,
        keep: &[IpAddr],
        cooldown: Cooldown,
    ) -> Result<(Vec<IpAddr>, u32), Error> {
        for attempt in 0..ATTEMPTS {
            let Some(mut block) = self.block(cidr).await? else { return Ok((Vec::new(), 0)) };
            let released = block::release(&mut block.spec, handle, keep, cooldown);
            let kept = u32::try_from(block::held(&block.spec, handle).len()).unwrap_or(u32::MAX);
            if released.is_empty() {
                return Ok((released, kept));
            }
            block::thaw(&mut block.spec, cooldown);
            if self.records.update(block).await?.is_some() {
                return Ok((released, kept));
            }
            pause(&self.node, attempt).await;
        }
        Err(Error::Contended)
    }
}
