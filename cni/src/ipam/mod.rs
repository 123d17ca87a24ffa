//! Addresses for pods, from blocks of Calico's form.
//!
//! A pool is cut into blocks; a block belongs to one node, which gives out its addresses without asking anybody and announces the
//! block as one route. Blocks are objects in the datastore, changed by compare-and-swap only: whoever loses a race reads again, so
//! two agents never give out one address. An address carries its attachment's handle, by which it is found and taken back.

mod block;
mod pools;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tortie_api::calico::{AllocationAttribute, IpPool, IpamBlock};
use tortie_api::k8s::annotations::PINNED_ADDRESSES;
use tortie_api::{Kind, Object, ObjectKey};
use tortie_datastore::{Datastore, Error as StoreError};

use pools::Pool;

/// How often a lost race is run again. Each time somebody else got ahead, so this many mean that something is wrong.
const ATTEMPTS: u32 = 200;

/// Why a pod gets no address.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The annotation names an address that no enabled pool has.
    #[error(
        "pod {pod}: annotation {PINNED_ADDRESSES} asks for {ip}, which is in no IPPool that may be used; the pools are: {pools}. \
         Correct the annotation, or make or enable an IPPool that contains the address"
    )]
    OutsidePools {
        /// `NAMESPACE/POD`.
        pod: String,
        /// The address.
        ip: IpAddr,
        /// The usable pools.
        pools: String,
    },
    /// The annotation names an address that somebody else has.
    #[error(
        "pod {pod}: annotation {PINNED_ADDRESSES} asks for {ip}, which {holder} has; delete that pod, or correct the annotation"
    )]
    Taken {
        /// `NAMESPACE/POD`.
        pod: String,
        /// The address.
        ip: IpAddr,
        /// Who has it.
        holder: String,
    },
    /// The annotation names an address that a container of the same pod has on another node.
    #[error(
        "pod {pod}: annotation {PINNED_ADDRESSES} asks for {ip}, which an older container of the pod has on node {node}; it is free \
         once that node tears the container down, or when its Node object is deleted because the node is gone"
    )]
    Elsewhere {
        /// `NAMESPACE/POD`.
        pod: String,
        /// The address.
        ip: IpAddr,
        /// The node.
        node: String,
    },
    /// The annotation names an address of another node's block, which is not to be shared.
    #[error(
        "pod {pod}: annotation {PINNED_ADDRESSES} asks for {ip}, whose block {block} has strict affinity to another node; \
         run the pod there, or correct the annotation"
    )]
    Strict {
        /// `NAMESPACE/POD`.
        pod: String,
        /// The address.
        ip: IpAddr,
        /// The block.
        block: String,
    },
    /// No pool has an address left.
    #[error(
        "pod {pod}: no free {family} address in any IPPool; the pools are: {pools}. Make another IPPool, or delete pods"
    )]
    Exhausted {
        /// `NAMESPACE/POD`.
        pod: String,
        /// `IPv4` or `IPv6`.
        family: &'static str,
        /// The usable pools.
        pools: String,
    },
    /// No pool may be used at all.
    #[error(
        "pod {pod}: no IPPool may be used: enable one (spec.disabled: false, allowedUses with Workload, assignmentMode: Automatic)"
    )]
    NoPools {
        /// `NAMESPACE/POD`.
        pod: String,
    },
    /// Somebody else always was faster.
    #[error("the IPAM blocks are changed too fast by others; try again")]
    Contended,
    /// The datastore failed.
    #[error(transparent)]
    Datastore(#[from] StoreError),
}

impl Error {
    /// Whether the same request may succeed later, with nothing done about it.
    pub const fn is_temporary(&self) -> bool {
        matches!(self, Self::Elsewhere { .. } | Self::Contended | Self::Datastore(_))
    }
}

/// Who wants addresses.
#[derive(Debug, Clone)]
pub struct Claim {
    /// What the addresses are found by, unique to the attachment.
    pub handle: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The addresses that it must have, if it named some.
    pub pinned: Option<Vec<IpAddr>>,
}

impl Claim {
    fn name(&self) -> String {
        format!("{}/{}", self.namespace, self.pod)
    }
}

/// A holder of addresses on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The attachment's handle.
    pub handle: String,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
}

/// One node's way to addresses.
pub struct Ipam {
    datastore: Arc<dyn Datastore>,
    node: String,
    /// One at a time: the node would only race with itself.
    turn: Mutex<()>,
}

/// The state of the datastore that a decision is made on.
struct View {
    pools: Vec<Pool>,
    blocks: Vec<IpamBlock>,
}

impl Ipam {
    /// Addresses for the pods of `node`.
    pub fn new(datastore: Arc<dyn Datastore>, node: impl Into<String>) -> Self {
        Self { datastore, node: node.into(), turn: Mutex::new(()) }
    }

    /// Gives a claim its addresses: those that it names, else one of each family that the pools have. A claim that has its addresses
    /// already keeps them. With an error it has none.
    pub async fn assign(&self, claim: &Claim) -> Result<Vec<IpAddr>, Error> {
        let _turn = self.turn.lock().await;
        let result = match &claim.pinned {
            Some(ips) => self.assign_pinned(claim, ips).await,
            None => self.assign_any(claim).await,
        };
        if result.is_err()
            && let Err(error) = self.take_back(&claim.handle, &[]).await
        {
            tracing::warn!(handle = claim.handle, %error, "addresses could not be taken back; GC will");
        }
        result
    }

    /// Takes back what a handle holds, in any block. Returns it; an unknown handle holds nothing.
    pub async fn release(&self, handle: &str) -> Result<Vec<IpAddr>, Error> {
        let _turn = self.turn.lock().await;
        self.take_back(handle, &[]).await
    }

    /// All holders whose addresses this node gave out.
    pub async fn holders(&self) -> Result<Vec<Holder>, Error> {
        let mut holders: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
        for block in self.blocks().await? {
            for attribute in &block.spec.attributes {
                if attribute.secondary.get("node") == Some(&self.node)
                    && let Some(handle) = &attribute.handle_id
                {
                    holders.entry(handle.clone()).or_default().extend(block::held(&block.spec, handle));
                }
            }
        }
        Ok(holders.into_iter().map(|(handle, ips)| Holder { handle, ips }).collect())
    }

    /// Whether an ADD would find a pool, and the datastore answers.
    pub async fn check(&self) -> Result<(), Error> {
        let pools = self.pools().await?;
        if pools.iter().any(|pool| pool.automatic) { Ok(()) } else { Err(Error::NoPools { pod: "any".to_owned() }) }
    }

    // ---- addresses of the pools' choice --------------------------------------------------------------------------------------

    async fn assign_any(&self, claim: &Claim) -> Result<Vec<IpAddr>, Error> {
        let view = self.view().await?;
        let automatic: Vec<&Pool> = view.pools.iter().filter(|pool| pool.automatic).collect();
        if automatic.is_empty() {
            return Err(Error::NoPools { pod: claim.name() });
        }
        let families =
            [true, false].map(|v4| automatic.iter().any(|pool| pool.cidr.addr().is_ipv4() == v4).then_some(v4));
        let mut given: Vec<IpAddr> = Vec::new();
        for v4 in families.into_iter().flatten() {
            given.push(self.one_of_family(claim, v4).await?);
        }
        Ok(given)
    }

    async fn one_of_family(&self, claim: &Claim, v4: bool) -> Result<IpAddr, Error> {
        for attempt in 0..ATTEMPTS {
            let view = self.view().await?;
            let held = view.blocks.iter().flat_map(|block| block::held(&block.spec, &claim.handle));
            if let Some(ip) = held.into_iter().find(|ip| ip.is_ipv4() == v4) {
                return Ok(ip);
            }
            match self.try_one(claim, v4, view).await {
                Ok(Some(ip)) => return Ok(ip),
                Ok(None) => {}
                Err(error) => return Err(error),
            }
            pause(&self.node, attempt).await;
        }
        Err(Error::Contended)
    }

    /// One attempt; none if somebody else was faster.
    async fn try_one(&self, claim: &Claim, v4: bool, view: View) -> Result<Option<IpAddr>, Error> {
        let View { pools, blocks } = view;
        let usable: Vec<&Pool> =
            pools.iter().filter(|pool| pool.automatic && pool.cidr.addr().is_ipv4() == v4).collect();
        let to = self.attribute(claim);
        let own = block::affinity(&self.node);
        let in_pool = |block: &&IpamBlock| {
            !block.spec.unallocated.is_empty() && usable.iter().any(|pool| pool.cidr.contains(&block.spec.cidr))
        };
        // The node's own; then one that nobody owns, which becomes its own; then a new one; then others' as guest.
        let mine = blocks.iter().filter(in_pool).find(|block| block.spec.affinity.as_ref() == Some(&own));
        let orphan = || blocks.iter().filter(in_pool).find(|block| block.spec.affinity.is_none());
        if let Some(found) = mine.or_else(orphan) {
            let mut block = found.clone();
            block.spec.affinity = Some(own);
            let Some(ip) = block::assign_next(&mut block.spec, &to) else { return Ok(None) };
            return Ok(self.update(block).await?.then_some(ip));
        }
        if let Some(cidr) = usable.iter().find_map(|pool| pool.free_block(&self.node, &blocks)) {
            let mut block = block::new(cidr, &self.node);
            let Some(ip) = block::assign_next(&mut block.spec, &to) else { return Ok(None) };
            let created = self.create(block).await?;
            if created {
                tracing::info!(node = self.node, block = %cidr, "claimed a block of addresses");
            }
            return Ok(created.then_some(ip));
        }
        let foreign = blocks.iter().filter(in_pool).find(|block| !block.spec.strict_affinity);
        let Some(found) = foreign else {
            let family = if v4 { "IPv4" } else { "IPv6" };
            return Err(Error::Exhausted { pod: claim.name(), family, pools: pools::describe(&pools) });
        };
        let mut block = found.clone();
        let Some(ip) = block::assign_next(&mut block.spec, &to) else { return Ok(None) };
        Ok(self.update(block).await?.then_some(ip))
    }

    // ---- addresses of the pod's choice ---------------------------------------------------------------------------------------

    async fn assign_pinned(&self, claim: &Claim, ips: &[IpAddr]) -> Result<Vec<IpAddr>, Error> {
        self.take_back(&claim.handle, ips).await?;
        for ip in ips {
            self.assign_one(claim, *ip).await?;
        }
        Ok(ips.to_vec())
    }

    async fn assign_one(&self, claim: &Claim, ip: IpAddr) -> Result<(), Error> {
        for attempt in 0..ATTEMPTS {
            let View { pools, blocks } = self.view().await?;
            let to = self.attribute(claim);
            if let Some(found) = blocks.iter().find(|block| block.spec.cidr.contains(&ip)) {
                let Some(ordinal) = block::ordinal(&found.spec, ip) else {
                    return Err(outside(claim, ip, &pools));
                };
                match block::holder(&found.spec, ordinal) {
                    Some(holder) if *holder == to => return Ok(()),
                    Some(holder) if !same_pod(holder, &to) => {
                        return Err(Error::Taken { pod: claim.name(), ip, holder: describe(holder) });
                    }
                    // The same pod, made anew before its older container was torn down, takes the address along; but not from under
                    // a container that may still run on another node.
                    Some(holder) => {
                        if let Some(node) = self.other_live_node(holder).await? {
                            return Err(Error::Elsewhere { pod: claim.name(), ip, node });
                        }
                    }
                    None => {}
                }
                if pools::containing(&pools, ip).is_none() {
                    return Err(outside(claim, ip, &pools));
                }
                let is_guest = found.spec.node().is_some_and(|node| node != self.node);
                if is_guest && found.spec.strict_affinity {
                    let block = found.spec.cidr.to_string();
                    return Err(Error::Strict { pod: claim.name(), ip, block });
                }
                let mut block = found.clone();
                block::assign(&mut block.spec, ordinal, &to);
                if self.update(block).await? {
                    return Ok(());
                }
            } else {
                let Some(pool) = pools::containing(&pools, ip) else { return Err(outside(claim, ip, &pools)) };
                let Some(cidr) = block::block_of(ip, pool.block) else { return Err(outside(claim, ip, &pools)) };
                let mut block = block::new(cidr, &self.node);
                if let Some(ordinal) = block::ordinal(&block.spec, ip) {
                    block::assign(&mut block.spec, ordinal, &to);
                }
                if self.create(block).await? {
                    tracing::info!(node = self.node, block = %cidr, "claimed a block of addresses for a pinned one");
                    return Ok(());
                }
            }
            pause(&self.node, attempt).await;
        }
        Err(Error::Contended)
    }

    /// The node that gave out an address, if it is another one that has a Node object.
    async fn other_live_node(&self, holder: &AllocationAttribute) -> Result<Option<String>, Error> {
        let Some(node) = holder.secondary.get("node").filter(|node| **node != self.node) else { return Ok(None) };
        let key = ObjectKey { kind: Kind::Node, namespace: None, name: node.clone() };
        match self.datastore.get(&key).await {
            Ok(_) => Ok(Some(key.name)),
            Err(StoreError::NotFound(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    // ---- giving back ---------------------------------------------------------------------------------------------------------

    async fn take_back(&self, handle: &str, keep: &[IpAddr]) -> Result<Vec<IpAddr>, Error> {
        let mut released = Vec::new();
        for attempt in 0..ATTEMPTS {
            let mut lost = false;
            for mut block in self.blocks().await? {
                let ips = block::release(&mut block.spec, handle, keep);
                if ips.is_empty() {
                    continue;
                }
                if self.update(block).await? {
                    released.extend(ips);
                } else {
                    lost = true;
                }
            }
            if !lost {
                return Ok(released);
            }
            pause(&self.node, attempt).await;
        }
        Err(Error::Contended)
    }

    // ---- the datastore -------------------------------------------------------------------------------------------------------

    fn attribute(&self, claim: &Claim) -> AllocationAttribute {
        let secondary = [("namespace", &claim.namespace), ("pod", &claim.pod), ("node", &self.node)];
        AllocationAttribute {
            handle_id: Some(claim.handle.clone()),
            secondary: secondary.into_iter().map(|(key, value)| (key.to_owned(), value.clone())).collect(),
            ..AllocationAttribute::default()
        }
    }

    async fn view(&self) -> Result<View, Error> {
        Ok(View { pools: self.pools().await?, blocks: self.blocks().await? })
    }

    async fn pools(&self) -> Result<Vec<Pool>, Error> {
        let objects = self.datastore.list(Kind::IpPool).await?;
        let pools: Vec<IpPool> = objects
            .into_iter()
            .filter_map(|object| match object {
                Object::IpPool(pool) => Some(pool),
                _ => None,
            })
            .collect();
        Ok(pools::usable(&pools))
    }

    /// All blocks, in the order of their addresses.
    async fn blocks(&self) -> Result<Vec<IpamBlock>, Error> {
        let objects = self.datastore.list(Kind::IpamBlock).await?;
        let mut blocks: Vec<IpamBlock> = objects
            .into_iter()
            .filter_map(|object| match object {
                Object::IpamBlock(block) => Some(block),
                _ => None,
            })
            .collect();
        blocks.sort_by_key(|block| block.spec.cidr);
        Ok(blocks)
    }

    /// Writes a block; false if somebody else changed it since it was read.
    async fn update(&self, block: IpamBlock) -> Result<bool, Error> {
        match self.datastore.update(&Object::IpamBlock(block)).await {
            Ok(_) => Ok(true),
            Err(StoreError::Conflict(_) | StoreError::NotFound(_)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes a block; false if somebody else did.
    async fn create(&self, block: IpamBlock) -> Result<bool, Error> {
        let key = ObjectKey { kind: Kind::IpamBlock, namespace: None, name: block.metadata.name.clone() };
        match self.datastore.create(&Object::IpamBlock(block)).await {
            Ok(_) => Ok(true),
            Err(StoreError::AlreadyExists(_) | StoreError::Conflict(_)) => {
                tracing::debug!(%key, "another node was faster");
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Whether both are of one pod.
fn same_pod(one: &AllocationAttribute, other: &AllocationAttribute) -> bool {
    ["namespace", "pod"]
        .iter()
        .all(|key| one.secondary.contains_key(*key) && one.secondary.get(*key) == other.secondary.get(*key))
}

fn describe(holder: &AllocationAttribute) -> String {
    match (holder.secondary.get("namespace"), holder.secondary.get("pod")) {
        (Some(namespace), Some(pod)) => format!("pod {namespace}/{pod}"),
        _ => format!("handle {}", holder.handle_id.as_deref().unwrap_or("(none)")),
    }
}

fn outside(claim: &Claim, ip: IpAddr, pools: &[Pool]) -> Error {
    Error::OutsidePools { pod: claim.name(), ip, pools: pools::describe(pools) }
}

/// Waits a little after a lost race, each node for its own time, so that they do not meet again.
async fn pause(node: &str, attempt: u32) {
    use std::hash::{BuildHasher, RandomState};
    let longest = 1_u64 << attempt.min(5);
    let random = RandomState::new().hash_one((node, attempt)) % (longest * 1000);
    tokio::time::sleep(Duration::from_micros(random)).await;
}
