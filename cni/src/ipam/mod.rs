//! Addresses for pods, from blocks of Calico's form.
//!
//! A pool is cut into blocks; a block belongs to one node, which gives out its addresses without asking anybody and announces the
//! block as one route. All of it is objects in the datastore, changed by compare-and-swap only: whoever loses a race reads again, so
//! two agents never give out one address. They are written in an order in which a crash anywhere leaves nothing that cannot be told:
//!
//! 1. a node that needs a block says so (`BlockAffinity`, pending), makes the block (`IPAMBlock`), and confirms ([`claims`]);
//! 2. an attachment's handle (`IPAMHandle`) names a block before the block has an address of the handle ([`handles`]);
//! 3. what is released is free in the block before the handle goes.
//!
//! A node remembers which blocks are its own, and reads just these. Others' affinities are read when it needs another block, others'
//! blocks only when none is left, to borrow an address. What a crash did leave, the node's next start or the controller finds
//! ([`collector`]).

pub mod audit;
pub mod block;
mod claims;
pub mod collector;
mod error;
mod handles;
pub mod names;
mod pinned;
mod pools;
pub mod records;
mod reserved;
mod tunnels;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use tokio::sync::Mutex;
use tortie_api::calico::{
    AllocationAttribute, HOSTNAME_HASH_LABEL, IpPool, IpReservation, IpamBlock, IpamConfiguration,
    IpamConfigurationSpec, IpamHandle, Tunnel, hostname_hash,
};
use tortie_api::k8s::{Namespace, Node, annotations, requested_pools};
use tortie_api::meta::StringMap;
use tortie_datastore::Datastore;

use block::Cooldown;
pub use error::Error;
use pools::Pool;
pub use pools::implicit as implicit_pools;
use records::Records;
use reserved::Reserved;

/// How often a lost race is run again. Each time somebody else got ahead, so this many mean that something is wrong.
const ATTEMPTS: u32 = 200;

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
    /// The pools that it named.
    pub pools: RequestedPools,
    /// The end of a tunnel that the address is for; then there is no pod.
    pub tunnel: Option<Tunnel>,
}

/// The pools that a pod named, by name or range; of a family for which it named none, the namespace's count.
#[derive(Debug, Clone, Default)]
pub struct RequestedPools {
    /// Of IPv4 addresses.
    pub ipv4: Option<Vec<String>>,
    /// Of IPv6 addresses.
    pub ipv6: Option<Vec<String>>,
}

impl Claim {
    fn name(&self) -> String {
        match self.tunnel {
            Some(tunnel) => format!("(none: for {})", tunnel.as_str()),
            None => format!("{}/{}", self.namespace, self.pod),
        }
    }
}

/// A holder of addresses on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The attachment's handle.
    pub handle: String,
    /// Its addresses. None if it was about to get some when the agent died.
    pub ips: Vec<IpAddr>,
}

/// One node's way to addresses.
pub struct Ipam {
    records: Records,
    node: String,
    implicit_pools: bool,
    /// One call at a time, as the node would only race with itself; and the blocks that it knows to be its own.
    own: Mutex<Own>,
}

/// The node's own blocks, as far as it knows.
#[derive(Debug, Default)]
struct Own {
    /// Whether the datastore has been asked.
    learned: bool,
    /// Their ranges; the one that gave an address last is first.
    blocks: Vec<IpNet>,
}

/// The settings that a decision is made by.
struct Picture {
    /// All pools that are enabled for workloads.
    pools: Vec<Pool>,
    /// Those that the claim may get addresses from without naming them.
    ours: Vec<Pool>,
    settings: IpamConfigurationSpec,
    reserved: Reserved,
}

impl Picture {
    fn of_family(&self, v4: bool) -> impl Iterator<Item = &Pool> {
        self.ours.iter().filter(move |pool| pool.is_v4() == v4)
    }

    /// Whether a block is in a pool that the claim may get addresses from.
    fn allows(&self, cidr: &IpNet) -> bool {
        self.ours.iter().any(|pool| pool.cidr.contains(cidr))
    }

    fn cooldown(&self) -> Cooldown {
        cooldown(&self.settings)
    }
}

fn cooldown(settings: &IpamConfigurationSpec) -> Cooldown {
    let rest = Duration::from_secs(settings.ip_cooldown_seconds.unwrap_or_default().into());
    Cooldown { rest, now: SystemTime::now() }
}

impl Ipam {
    /// Addresses for the pods of `node`.
    pub fn new(datastore: Arc<dyn Datastore>, node: impl Into<String>) -> Self {
        Self { records: Records::new(datastore), node: node.into(), implicit_pools: true, own: Mutex::default() }
    }

    /// The same, and whether a datastore without an IPPool is one with the default ones.
    #[must_use]
    pub fn with_implicit_pools(self, implicit_pools: bool) -> Self {
        Self { implicit_pools, ..self }
    }

    /// Gives a claim its addresses: those that it names, else one of each family that the pools have. A claim that has its addresses
    /// already keeps them. With an error it has none.
    pub async fn assign(&self, claim: &Claim) -> Result<Vec<IpAddr>, Error> {
        let mut own = self.own.lock().await;
        let result = match &claim.pinned {
            Some(ips) => self.assign_pinned(&mut own, claim, ips).await,
            None => self.assign_any(&mut own, claim).await,
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
        let mut own = self.own.lock().await;
        if let Some(released) = self.take_back(handle, &[]).await? {
            return Ok(released);
        }
        // The handle is gone, or never was; should an address of it be left, it is most likely in an own block.
        self.learn(&mut own).await?;
        let settings = self.settings().await?;
        let mut released = Vec::new();
        for cidr in &own.blocks {
            released.extend(self.release_in(cidr, handle, &[], cooldown(&settings)).await?.0);
        }
        Ok(released)
    }

    /// Likewise, without a search for addresses whose handle is gone.
    pub async fn release_known(&self, handle: &str) -> Result<Vec<IpAddr>, Error> {
        let _own = self.own.lock().await;
        Ok(self.take_back(handle, &[]).await?.unwrap_or_default())
    }

    /// All attachments that hold addresses which this node gave out, in its own blocks and in others'. Those of another agent, such as Calico's before
    /// this one took its place, are not among them: their pods may still run.
    pub async fn holders(&self) -> Result<Vec<Holder>, Error> {
        let mut own = self.own.lock().await;
        self.learn(&mut own).await?;
        let digest = hostname_hash(&self.node);
        let tunnels = Tunnel::ALL.map(|tunnel| tunnel.handle(&self.node));
        let mut blocks: BTreeMap<IpNet, Option<IpamBlock>> = BTreeMap::new();
        let mut holders = Vec::new();
        for known in self.records.list_labelled::<IpamHandle>(HOSTNAME_HASH_LABEL, &digest).await? {
            let (handle, mut ips) = (known.spec.handle_id.clone(), Vec::new());
            if tunnels.contains(&handle) {
                continue;
            }
            for cidr in handles::blocks(&known) {
                let block = match blocks.entry(cidr) {
                    Entry::Occupied(entry) => entry.into_mut(),
                    Entry::Vacant(entry) => entry.insert(self.block(&cidr).await?),
                };
                ips.extend(block.iter().flat_map(|block| block::held(&block.spec, &handle)));
            }
            ips.sort();
            holders.push(Holder { handle, ips });
        }
        holders.sort_by(|one, other| one.handle.cmp(&other.handle));
        Ok(holders)
    }

    /// Whether an ADD would find a pool, and the datastore answers.
    pub async fn check(&self) -> Result<(), Error> {
        let pools = self.pools().await?;
        let labels = self.node_labels(&pools).await?;
        let by_namespace = pools::ask_for_labels(&pools).1;
        // Which namespaces there will be pods in is not known.
        if by_namespace || !pools::selected(&pools, &labels, &StringMap::new()).is_empty() {
            return Ok(());
        }
        Err(self.no_pools("any".to_owned(), &pools))
    }

    // ---- addresses of the pools' choice --------------------------------------------------------------------------------------

    async fn assign_any(&self, own: &mut Own, claim: &Claim) -> Result<Vec<IpAddr>, Error> {
        let picture = self.picture(claim).await?;
        if picture.ours.is_empty() {
            return Err(self.no_pools(claim.name(), &picture.pools));
        }
        self.learn(own).await?;
        let known = self.handle(&claim.handle).await?;
        let held = self.held(&claim.handle, known.as_ref()).await?;
        let families = [true, false].into_iter().filter(|v4| picture.of_family(*v4).next().is_some());
        let missing: Vec<bool> = families.filter(|v4| !held.iter().any(|(_, ip)| ip.is_ipv4() == *v4)).collect();
        // The blocks that will most likely do, so that the handle is written once for both families.
        let mut likely = Vec::new();
        for v4 in &missing {
            likely.extend(self.own_with_room(own, &picture, *v4).await?);
        }
        let cidrs: Vec<IpNet> = likely.iter().map(|block| block.spec.cidr).collect();
        self.note(&claim.handle, known, &cidrs).await?;
        let mut noted: BTreeSet<IpNet> = cidrs.into_iter().collect();
        let mut places = held;
        for v4 in missing {
            let first = likely.iter().position(|block| block.spec.cidr.addr().is_ipv4() == v4);
            let first = first.map(|index| likely.swap_remove(index));
            places.push(self.one_of_family(own, claim, &picture, v4, (first, &mut noted)).await?);
        }
        if noted.iter().any(|cidr| !places.iter().any(|(place, _)| place == cidr)) {
            let blocks = places.iter().map(|(cidr, _)| (cidr.to_string(), 1)).collect();
            handles::settle(&self.records, &claim.handle, &blocks).await?;
        }
        places.sort_by_key(|(_, ip)| !ip.is_ipv4());
        Ok(places.into_iter().map(|(_, ip)| ip).collect())
    }

    /// An address of one family, and the block that it is in.
    async fn one_of_family(
        &self,
        own: &mut Own,
        claim: &Claim,
        picture: &Picture,
        v4: bool,
        (mut first, noted): (Option<IpamBlock>, &mut BTreeSet<IpNet>),
    ) -> Result<(IpNet, IpAddr), Error> {
        let to = self.attribute(claim);
        for attempt in 0..ATTEMPTS {
            let mut block = match first.take() {
                Some(block) => block,
                None => self.block_with_room(own, claim, picture, v4).await?,
            };
            let cidr = block.spec.cidr;
            if noted.insert(cidr) {
                self.note(&claim.handle, None, &[cidr]).await?;
            }
            if let Some(ip) = block::assign_next(&mut block.spec, &to, &picture.reserved)
                && self.records.update(block).await?.is_some()
            {
                return Ok((cidr, ip));
            }
            pause(&self.node, attempt).await;
        }
        Err(Error::Contended)
    }

    /// A block with room: the node's own; a new one, which becomes its own; another's, as guest.
    async fn block_with_room(
        &self,
        own: &mut Own,
        claim: &Claim,
        picture: &Picture,
        v4: bool,
    ) -> Result<IpamBlock, Error> {
        if let Some(block) = self.own_with_room(own, picture, v4).await? {
            return Ok(block);
        }
        let settings = &picture.settings;
        let count = own.blocks.iter().filter(|cidr| cidr.addr().is_ipv4() == v4).count();
        let is_at_limit = count >= usize::try_from(settings.most_blocks()).unwrap_or(usize::MAX);
        let may_claim = settings.auto_allocate_blocks && !is_at_limit;
        if may_claim && let Some(block) = self.claim_new(own, picture, v4).await? {
            return Ok(block);
        }
        if let Some(block) = self.elsewhere(own, picture, v4, may_claim).await? {
            return Ok(block);
        }
        let node = &self.node;
        let why = if is_at_limit {
            format!("Node {node} has {count} blocks, as many as it may (IPAMConfiguration, maxBlocksPerHost). ")
        } else if !settings.auto_allocate_blocks {
            format!("Node {node} may take no new block (IPAMConfiguration, autoAllocateBlocks: false). ")
        } else {
            String::new()
        };
        let pools: Vec<Pool> = picture.of_family(v4).cloned().collect();
        let family = if v4 { "IPv4" } else { "IPv6" };
        Err(Error::Exhausted { pod: claim.name(), family, pools: pools::describe(&pools), why })
    }

    // ---- the datastore -------------------------------------------------------------------------------------------------------

    fn attribute(&self, claim: &Claim) -> AllocationAttribute {
        let timestamp = block::time(SystemTime::now());
        let mut secondary = vec![("node", self.node.as_str()), ("timestamp", timestamp.as_str())];
        match claim.tunnel {
            Some(tunnel) => secondary.push(("type", tunnel.allocation_type())),
            None => secondary.extend([("namespace", claim.namespace.as_str()), ("pod", claim.pod.as_str())]),
        }
        AllocationAttribute {
            handle_id: Some(claim.handle.clone()),
            secondary: secondary.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
            ..AllocationAttribute::default()
        }
    }

    /// Everything that decides where a claim may get addresses.
    async fn picture(&self, claim: &Claim) -> Result<Picture, Error> {
        if let Some(tunnel) = claim.tunnel {
            return self.picture_for(tunnel).await;
        }
        let pools = self.pools().await?;
        let node = self.node_labels(&pools).await?;
        let namespace = self.records.get::<Namespace>(&claim.namespace).await?.map(|namespace| namespace.metadata);
        let namespace = namespace.unwrap_or_default();
        let selected = pools::selected(&pools, &node, &namespace.labels);
        let mut ours = Vec::new();
        for (v4, own) in [(true, &claim.pools.ipv4), (false, &claim.pools.ipv6)] {
            let (owner, wish) = if own.is_some() {
                ("the pod".to_owned(), own.clone())
            } else {
                let wish = requested_pools(&namespace.annotations, v4).map_err(|error| Error::Annotation {
                    pod: claim.name(),
                    namespace: claim.namespace.clone(),
                    error,
                })?;
                (format!("namespace {}", claim.namespace), wish)
            };
            match wish {
                Some(names) => ours.extend(pools::named(&pools, &names, v4).map_err(|pool| Error::UnknownPool {
                    pod: claim.name(),
                    annotation: if v4 { annotations::IPV4_POOLS } else { annotations::IPV6_POOLS },
                    owner,
                    pool: pool.to_owned(),
                    pools: pools::describe(&pools),
                })?),
                None => ours.extend(selected.iter().filter(|pool| pool.is_v4() == v4).cloned()),
            }
        }
        let reserved = Reserved::of(&self.records.list::<IpReservation>().await?);
        Ok(Picture { pools, ours, settings: self.settings().await?, reserved })
    }

    async fn pools(&self) -> Result<Vec<Pool>, Error> {
        Ok(pools::usable(&self.records.list::<IpPool>().await?, self.implicit_pools))
    }

    /// The labels of the node, if a pool asks for any.
    async fn node_labels(&self, pools: &[Pool]) -> Result<StringMap, Error> {
        if !pools::ask_for_labels(pools).0 {
            return Ok(StringMap::new());
        }
        let node = self.records.get::<Node>(&self.node).await?;
        Ok(node.map(|node| node.metadata.labels).unwrap_or_default())
    }

    async fn settings(&self) -> Result<IpamConfigurationSpec, Error> {
        let found = self.records.get::<IpamConfiguration>(IpamConfigurationSpec::NAME).await?;
        Ok(found.map(|configuration| configuration.spec).unwrap_or_default())
    }

    async fn block(&self, cidr: &IpNet) -> Result<Option<IpamBlock>, Error> {
        Ok(self.records.get::<IpamBlock>(&names::block(cidr)).await?)
    }

    fn no_pools(&self, pod: String, pools: &[Pool]) -> Error {
        Error::NoPools { pod, node: self.node.clone(), pools: pools::describe(pools) }
    }
}

/// Waits a little after a lost race, each node for its own time, so that they do not meet again.
async fn pause(node: &str, attempt: u32) {
    use std::hash::{BuildHasher, RandomState};
    let longest = 1_u64 << attempt.min(5);
    let random = RandomState::new().hash_one((node, attempt)) % (longest * 1000);
    tokio::time::sleep(Duration::from_micros(random)).await;
}
