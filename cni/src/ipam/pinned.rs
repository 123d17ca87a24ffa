//! Addresses of the pod's own choice: the annotation names them, and they come from whatever block they are in.

use std::net::IpAddr;

use ipnet::IpNet;
use tortie_api::calico::{AllocationAttribute, BlockAffinity, IpamBlock};
use tortie_api::k8s::Node;

use super::pools::Taken;
use super::{ATTEMPTS, Claim, Error, Ipam, Own, Picture, block, pause, pools};

impl Ipam {
    pub(super) async fn assign_pinned(
        &self,
        own: &mut Own,
        claim: &Claim,
        ips: &[IpAddr],
    ) -> Result<Vec<IpAddr>, Error> {
        self.take_back(&claim.handle, ips).await?;
        let known = self.handle(&claim.handle).await?;
        let held = self.held(&claim.handle, known.as_ref()).await?;
        let picture = self.picture(claim).await?;
        for ip in ips {
            if !held.iter().any(|(_, other)| other == ip) {
                self.assign_one(own, claim, &picture, *ip).await?;
            }
        }
        Ok(ips.to_vec())
    }

    async fn assign_one(&self, own: &mut Own, claim: &Claim, picture: &Picture, ip: IpAddr) -> Result<(), Error> {
        let outside = || Error::OutsidePools { pod: claim.name(), ip, pools: pools::describe(&picture.pools) };
        let pool = pools::containing(&picture.pools, ip).ok_or_else(outside)?;
        let usual = block::block_of(ip, pool.block).ok_or_else(outside)?;
        let to = self.attribute(claim);
        for attempt in 0..ATTEMPTS {
            let found = match self.block(&usual).await? {
                Some(found) => Some(found),
                None => self.block_around(own, picture, ip, usual).await?,
            };
            if let Some(mut found) = found {
                let ordinal = block::ordinal(&found.spec, ip).ok_or_else(outside)?;
                if let Some(holder) = block::holder(&found.spec, ordinal) {
                    // An address that rests is nobody's, and who asks for it by name knows what he does.
                    let is_resting = holder.released_at.is_some();
                    if !is_resting && !same_pod(holder, &to) {
                        return Err(Error::Taken { pod: claim.name(), ip, holder: describe(holder) });
                    }
                    // The same pod, made anew before its older container was torn down, takes the address along; but not from under
                    // a container that may still run on another node.
                    if let Some(node) = self.other_live_node(holder).await? {
                        return Err(Error::Elsewhere { pod: claim.name(), ip, node });
                    }
                }
                let is_strict = found.spec.strict_affinity || picture.settings.strict_affinity;
                if is_strict && !self.owns(&found) {
                    let block = found.spec.cidr.to_string();
                    return Err(Error::Strict { pod: claim.name(), ip, block });
                }
                self.note(&claim.handle, None, &[found.spec.cidr]).await?;
                block::assign(&mut found.spec, ordinal, &to);
                if self.records.update(found).await?.is_some() {
                    return Ok(());
                }
            }
            pause(&self.node, attempt).await;
        }
        Err(Error::Contended)
    }

    /// The block that an address is in where the pool's usual one is not there: it is made, unless blocks of another size, from before
    /// the pool was made anew, are in its place. Nothing if somebody else was faster.
    async fn block_around(
        &self,
        own: &mut Own,
        picture: &Picture,
        ip: IpAddr,
        usual: IpNet,
    ) -> Result<Option<IpamBlock>, Error> {
        let affinities: Vec<BlockAffinity> = self.records.list().await?;
        if let Some(other) = affinities.iter().find(|affinity| {
            let cidr = affinity.spec.cidr;
            cidr.contains(&ip) && cidr != usual
        }) {
            return self.block(&other.spec.cidr).await;
        }
        let others = affinities.iter().map(|affinity| affinity.spec.cidr).filter(|cidr| *cidr != usual);
        let is_free = Taken::new(others, ip.is_ipv4()).leaves(&usual);
        let cidr = if is_free { usual } else { IpNet::from(ip) };
        let claimed = self.claim(&cidr, picture).await?;
        if claimed.is_some() {
            tracing::info!(node = self.node, block = %cidr, "claimed a block of addresses for a pinned one");
            own.blocks.push(cidr);
        }
        Ok(claimed)
    }

    /// The node that gave out an address, if it is another one that has a Node object.
    async fn other_live_node(&self, holder: &AllocationAttribute) -> Result<Option<String>, Error> {
        let Some(node) = holder.secondary.get("node").filter(|node| **node != self.node) else { return Ok(None) };
        Ok(self.records.get::<Node>(node).await?.map(|node| node.metadata.name))
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
