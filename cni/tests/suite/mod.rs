//! What must hold of IPAM whatever the datastore: nobody gets another's address, and no crash leaves what cannot be repaired.
//!
//! The suite knows nothing of the store that it runs on: a [`Stage`] makes one, and opens it as an agent does. Whoever has another store
//! includes this folder by its path, and brings a stage of his own.

mod crashes;
mod faulty;
mod races;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};
use tortie_api::calico::{AffinityState, BlockAffinity, IpamBlock, IpamHandle};
use tortie_api::{Kind, Object};
use tortie_cni::ipam::{Claim, RequestedPools};
use tortie_datastore::Datastore;

pub(crate) use crashes::every_write_may_be_the_last;
pub(crate) use faulty::Fault;
pub(crate) use races::{last_addresses, last_blocks, takers_and_givers};

/// A datastore to play on.
#[async_trait]
pub(crate) trait Stage: Send + Sync {
    /// Empties the datastore, and writes these manifests as people do.
    async fn set(&self, manifests: &[Value]);

    /// Opens it, as one more agent does.
    async fn open(&self) -> Arc<dyn Datastore>;
}

/// A pool without any setting but the length of its blocks.
pub(crate) fn pool(cidr: &str, block: u8) -> Value {
    json!({"apiVersion": "projectcalico.org/v3", "kind": "IPPool",
        "metadata": {"name": format!("pool-{}", cidr.replace(['.', ':', '/'], "-"))}, "spec": {"cidr": cidr, "blockSize": block}})
}

fn node(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
}

/// A pod whose addresses nobody has told yet.
fn pod(name: &str, node: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "web", "name": name},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "none"}]}})
}

/// A claim for any addresses, of a pod that is called like its handle.
fn claim(handle: &str) -> Claim {
    Claim {
        handle: handle.into(),
        namespace: "web".into(),
        pod: handle.into(),
        pinned: None,
        pools: RequestedPools::default(),
        tunnel: None,
    }
}

async fn all<T>(store: &Arc<dyn Datastore>, kind: Kind, of: fn(Object) -> Option<T>) -> Vec<T> {
    store.list(kind).await.expect("a list").into_iter().filter_map(of).collect()
}

/// Everything that IPAM keeps.
struct Books {
    blocks: Vec<IpamBlock>,
    affinities: Vec<BlockAffinity>,
    handles: Vec<IpamHandle>,
}

impl Books {
    async fn read(store: &Arc<dyn Datastore>) -> Self {
        Self {
            blocks: all(
                store,
                Kind::IpamBlock,
                |object| if let Object::IpamBlock(block) = object { Some(block) } else { None },
            )
            .await,
            affinities: all(store, Kind::BlockAffinity, |object| {
                if let Object::BlockAffinity(affinity) = object { Some(affinity) } else { None }
            })
            .await,
            handles: all(store, Kind::IpamHandle, |object| {
                if let Object::IpamHandle(handle) = object { Some(handle) } else { None }
            })
            .await,
        }
    }

    /// Who holds which address, by the blocks.
    fn held(&self) -> BTreeMap<String, BTreeSet<IpAddr>> {
        let mut held: BTreeMap<String, BTreeSet<IpAddr>> = BTreeMap::new();
        for block in &self.blocks {
            for (ordinal, index) in block.spec.allocations.iter().enumerate() {
                let Some(attribute) = index.map(|index| &block.spec.attributes[index]) else { continue };
                let ip = tortie_cni::ipam::block::address(&block.spec.cidr, ordinal as u128).expect("an address");
                let handle = attribute.handle_id.clone().expect("a handle");
                assert!(held.entry(handle).or_default().insert(ip));
            }
        }
        held
    }

    /// What must hold at any moment, crashes included: blocks are disjoint, and each address is found by its handle.
    fn check_always(&self) {
        for (index, block) in self.blocks.iter().enumerate() {
            for other in &self.blocks[..index] {
                let (one, other) = (block.spec.cidr, other.spec.cidr);
                assert!(!one.contains(&other) && !other.contains(&one), "{one} and {other}");
            }
            for attribute in &block.spec.attributes {
                let id = attribute.handle_id.as_deref().expect("a handle");
                let handle = self.handles.iter().find(|handle| handle.spec.handle_id == id);
                let named = handle.is_some_and(|handle| handle.spec.block.contains_key(&block.spec.cidr.to_string()));
                assert!(named, "{id} does not name {}: {handle:?}", block.spec.cidr);
            }
        }
    }

    /// What must hold when nobody is at work and everything is repaired: each block has the affinity that it says, each handle holds
    /// what it says.
    fn check_settled(&self) {
        self.check_always();
        let owned: BTreeSet<(String, String)> = self
            .blocks
            .iter()
            .filter_map(|block| Some((block.spec.node()?.to_owned(), block.spec.cidr.to_string())))
            .collect();
        let claimed: BTreeSet<(String, String)> = self
            .affinities
            .iter()
            .inspect(|affinity| assert_eq!(affinity.spec.state, AffinityState::Confirmed, "{affinity:?}"))
            .map(|affinity| (affinity.spec.node.clone(), affinity.spec.cidr.to_string()))
            .collect();
        assert_eq!(owned, claimed);
        let held = self.held();
        for handle in &self.handles {
            let ips = held.get(&handle.spec.handle_id).map_or(0, BTreeSet::len);
            let named: u32 = handle.spec.block.values().sum();
            assert_eq!(ips, named as usize, "{handle:?}");
            assert!(named > 0, "{handle:?}");
        }
    }
}
