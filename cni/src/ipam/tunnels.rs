//! Addresses of a node's ends of tunnels.
//!
//! What a node itself sends to a pod through an overlay must come from an address by which the answer finds back through the overlay:
//! one of the pools. As in Calico each end has one address, found by a handle that is named after the tunnel and the node.

use std::net::IpAddr;

use tortie_api::calico::{IpPool, Tunnel};
use tortie_api::k8s::Node;

use super::reserved::Reserved;
use super::{Claim, Error, Ipam, Picture, RequestedPools, pools};

impl Ipam {
    /// The address of this node's end: the one that it has, or another where that is in no pool any more which uses the tunnel.
    ///
    /// # Errors
    /// When no such pool has a free address for this node, or the datastore does not answer.
    pub async fn assign_tunnel(&self, tunnel: Tunnel) -> Result<IpAddr, Error> {
        let claim = Claim {
            handle: tunnel.handle(&self.node),
            namespace: String::new(),
            pod: String::new(),
            pinned: None,
            pools: RequestedPools::default(),
            tunnel: Some(tunnel),
        };
        let picture = self.picture_for(tunnel).await?;
        let known = self.handle(&claim.handle).await?;
        let held = self.held(&claim.handle, known.as_ref()).await?;
        if held.iter().any(|(block, _)| !picture.allows(block)) {
            self.release_known(&claim.handle).await?;
        }
        match self.assign(&claim).await {
            Ok(ips) => ips.first().copied().ok_or(Error::Contended),
            Err(Error::Exhausted { why, .. }) => Err(self.no_tunnel_address(tunnel, &picture, why)),
            Err(Error::NoPools { .. }) => Err(self.no_tunnel_address(tunnel, &picture, String::new())),
            Err(error) => Err(error),
        }
    }

    /// Gives back the address of this node's end, if it has one.
    ///
    /// # Errors
    /// When the datastore does not answer.
    pub async fn release_tunnel(&self, tunnel: Tunnel) -> Result<(), Error> {
        self.release_known(&tunnel.handle(&self.node)).await.map(|_| ())
    }

    fn no_tunnel_address(&self, tunnel: Tunnel, picture: &Picture, why: String) -> Error {
        let pools = if picture.pools.is_empty() { "none".to_owned() } else { pools::describe(&picture.pools) };
        Error::NoTunnelAddress { tunnel: tunnel.as_str(), node: self.node.clone(), pools, why }
    }

    /// The settings by which an end gets its address.
    pub(super) async fn picture_for(&self, tunnel: Tunnel) -> Result<Picture, Error> {
        let objects = self.records.list::<IpPool>().await?;
        let node = self.records.get::<Node>(&self.node).await?.map(|node| node.metadata.labels).unwrap_or_default();
        let pools = pools::for_tunnel(&objects, tunnel, &node);
        let reserved = Reserved::of(&self.records.list().await?);
        Ok(Picture { ours: pools.clone(), pools, settings: self.settings().await?, reserved })
    }
}
