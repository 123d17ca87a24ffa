//! Keeps the node's ends of overlays as they should be: devices, their addresses, and the tables by which they find other nodes.
//!
//! A device is made before its address is told to others, so that nobody sends what nobody receives; and it outlives what is told. Which
//! devices are ours is written on them (`ip link` shows it as an alias): one of Calico's is taken over, and kept as it is if it is what
//! is wanted, but only ours are ever removed. Where nothing differs nothing is written, so that looking twice costs but the reading.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use nix::errno::Errno;
use tortie_api::calico::Tunnel;
use tortie_datastore::Datastore;
use tortie_felix_netlink::{Error, Link, Mac, Net, Netns, OURS, Vxlan, sysctl};

use crate::ipam::Ipam;
use crate::keeper::Repair;
use crate::mtu;

/// Another node's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its hardware address.
    pub mac: Mac,
    /// The node's own address.
    pub node: IpAddr,
}

/// This node's end of an overlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// The ranges of the pools that its address may be from.
    pub pools: Vec<IpNet>,
    /// The node's own address, which it sends from.
    pub local: IpAddr,
    /// Its hardware address.
    pub mac: Mac,
    /// The identifier of the VXLAN.
    pub vni: u32,
    /// Its UDP port.
    pub port: u16,
    /// Its MTU; that of the network between nodes less what encapsulation adds, if none.
    pub mtu: Option<u32>,
    /// The other nodes' ends by their addresses; none for IPIP, where a route's gateway is all there is.
    pub peers: BTreeMap<IpAddr, Peer>,
}

/// How the node's ends should be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// A regular expression of the interfaces whose smallest MTU is that of the network between nodes.
    pub mtu_interfaces: String,
    /// The ends; those that are not among them are removed.
    pub ends: BTreeMap<Tunnel, End>,
}

/// What a look revealed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// The ends that are as wanted.
    pub ready: BTreeSet<Tunnel>,
    /// What others had changed.
    pub repairs: Vec<Repair>,
    /// What cannot be made right, one sentence each.
    pub problems: Vec<String>,
}

/// What became of an end before.
#[derive(Debug, Default)]
struct Known {
    /// The address that it has.
    address: Option<IpAddr>,
    /// Whether that is told to others.
    told: bool,
    /// What was right once: if it is not any more, somebody else changed it.
    right: Option<End>,
    /// Whether everything of it is known to be gone.
    gone: bool,
}

/// See the [module](self).
pub struct Tunnels {
    netns: Arc<Netns>,
    net: Net,
    ipam: Arc<Ipam>,
    datastore: Arc<dyn Datastore>,
    node: String,
    known: BTreeMap<Tunnel, Known>,
}

impl Tunnels {
    /// A keeper of the ends of `node` in the calling thread's network namespace. Needs a tokio runtime.
    ///
    /// # Errors
    /// When the namespace cannot be used.
    pub fn new(datastore: Arc<dyn Datastore>, ipam: Arc<Ipam>, node: &str) -> Result<Self, Error> {
        let netns = Netns::current()?;
        Ok(Self {
            net: Net::in_netns(&netns)?,
            netns: Arc::new(netns),
            ipam,
            datastore,
            node: node.to_owned(),
            known: BTreeMap::new(),
        })
    }

    /// Looks, and makes right what is not.
    pub async fn keep(&mut self, wanted: &Wanted) -> Findings {
        let mut findings = Findings::default();
        for tunnel in Tunnel::ALL {
            let mut known = self.known.remove(&tunnel).unwrap_or_default();
            let result = match wanted.ends.get(&tunnel) {
                Some(end) => self.keep_end(tunnel, end, &wanted.mtu_interfaces, &mut known, &mut findings).await,
                None => self.remove_end(tunnel, &mut known).await,
            };
            match result {
                Ok(()) if wanted.ends.contains_key(&tunnel) => drop(findings.ready.insert(tunnel)),
                Ok(()) => {}
                Err(problem) => findings.problems.push(problem),
            }
            self.known.insert(tunnel, known);
        }
        findings
    }

    async fn keep_end(
        &self,
        tunnel: Tunnel,
        end: &End,
        mtu_interfaces: &str,
        known: &mut Known,
        findings: &mut Findings,
    ) -> Result<(), String> {
        known.gone = false;
        let is_in_a_pool = |address: &IpAddr| end.pools.iter().any(|pool| pool.contains(address));
        let address = if let Some(address) = known.address.filter(is_in_a_pool) {
            address
        } else {
            let address = self.ipam.assign_tunnel(tunnel).await.map_err(|error| error.to_string())?;
            known.told &= known.address == Some(address);
            known.address = Some(address);
            address
        };
        let device = |error: Error| describe(tunnel, end, &error);
        let mtu = match end.mtu {
            Some(mtu) => mtu,
            None => self.mtu(tunnel, mtu_interfaces).await.map_err(device)?,
        };
        let mut found = Vec::new();
        let link = self.device(tunnel, end, mtu, &mut found).await.map_err(device)?;
        if self.net.set_addresses(link.index, &[IpNet::from(address)]).await.map_err(device)? {
            found.push("another address".to_owned());
        }
        if tunnel.is_vxlan() {
            self.keep_peers(link.index, end, &mut found).await.map_err(device)?;
        }
        if known.right.as_ref() == Some(end) {
            let repair = |found| Repair { object: tunnel.device().to_owned(), sysctl: false, found };
            findings.repairs.extend((!found.is_empty()).then(|| repair(found.join(", "))));
        } else {
            tracing::info!(device = tunnel.device(), %address, mtu, peers = end.peers.len(), "an overlay's end is as wanted");
            known.right = Some(end.clone());
        }
        if !known.told {
            self.tell(tunnel, Some(address)).await?;
            known.told = true;
        }
        Ok(())
    }

    /// The MTU that is left where packets are encapsulated.
    async fn mtu(&self, tunnel: Tunnel, interfaces: &str) -> Result<u32, Error> {
        let links = self.net.links().await?;
        let Some(pattern) = mtu::pattern(interfaces) else { return Ok(mtu::DEFAULT_MTU - tunnel.overhead()) };
        Ok(mtu::underlay(&self.net, &links, &pattern).await?.saturating_sub(tunnel.overhead()))
    }

    /// Makes the device, and what it is by itself, right. What was not goes into `found`.
    async fn device(&self, tunnel: Tunnel, end: &End, mtu: u32, found: &mut Vec<String>) -> Result<Link, Error> {
        let name = tunnel.device();
        let vxlan = Vxlan { vni: end.vni, port: end.port, local: end.local, learning: false };
        let mut there = self.net.link(name).await?;
        if let Some(link) = &there
            && tunnel.is_vxlan()
            && self.net.vxlan(link).await? != Some(vxlan)
        {
            found.push("a device of other properties".to_owned());
            self.net.delete_link(link.index).await?;
            there = None;
        }
        let link = if let Some(link) = there {
            link
        } else {
            if tunnel.is_vxlan() {
                self.net.create_vxlan(name, &vxlan, end.mac, mtu).await?;
            } else {
                self.net.create_ipip(name).await?;
            }
            found.push("no device".to_owned());
            let gone = || Error::Invalid(format!("{name} was deleted by somebody as soon as it was made"));
            self.net.link(name).await?.ok_or_else(gone)?
        };
        if link.alias != OURS {
            self.net.set_alias(link.index, OURS).await?;
        }
        if tunnel.is_vxlan() && link.mac != Some(end.mac) {
            found.push("another hardware address".to_owned());
            self.net.set_mac(link.index, end.mac).await?;
        }
        if link.mtu != mtu {
            found.push(format!("MTU {}", link.mtu));
            self.net.set_mtu(link.index, mtu).await?;
        }
        self.allow_either_way(name).await?;
        if !link.up {
            found.push("is down".to_owned());
            self.net.set_up(link.index).await?;
        }
        Ok(link)
    }

    /// While a pool changes its mode, packets come by the overlay whose answers go without, and the other way round: the kernel must not
    /// ask that both ways be one. The stricter of this setting and that of `all` would hold, and 2, the laxer, is the larger number.
    async fn allow_either_way(&self, name: &str) -> Result<(), Error> {
        let netns = Arc::clone(&self.netns);
        let path = format!("net/ipv4/conf/{name}/rp_filter");
        let set = move || netns.run(|| sysctl::ensure(&path, "2").map(|_| ()))?;
        tokio::task::spawn_blocking(set).await.unwrap_or(Ok(()))
    }

    /// Makes the tables by which a VXLAN finds other nodes what they should be.
    async fn keep_peers(&self, index: u32, end: &End, found: &mut Vec<String>) -> Result<(), Error> {
        let neighbours: BTreeMap<IpAddr, Mac> = self.net.neighbours(index).await?.into_iter().collect();
        let forwardings = self.net.forwardings(index).await?;
        let nodes: BTreeMap<Mac, IpAddr> = end.peers.values().map(|peer| (peer.mac, peer.node)).collect();
        let mut wrong = 0;
        // First where a hardware address is, then which address has it: what is sent in between waits for no answer.
        for (mac, node) in nodes.iter().filter(|(mac, node)| forwardings.get(mac) != Some(node)) {
            self.net.add_forwarding(index, *mac, *node).await?;
            wrong += 1;
        }
        for (address, peer) in end.peers.iter().filter(|(address, peer)| neighbours.get(address) != Some(&peer.mac)) {
            self.net.add_neighbour(index, *address, peer.mac).await?;
            wrong += 1;
        }
        for address in neighbours.keys().filter(|address| !end.peers.contains_key(address)) {
            self.net.delete_neighbour(index, *address).await?;
            wrong += 1;
        }
        for mac in forwardings.keys().filter(|mac| !nodes.contains_key(mac)) {
            self.net.delete_forwarding(index, *mac).await?;
            wrong += 1;
        }
        found.extend((wrong > 0).then(|| format!("{wrong} other entries")));
        Ok(())
    }

    /// Removes what is ours of an end that is not wanted. Others are told first, and the device goes last: as long as it is there, who
    /// is interrupted does all of it again. Its address is gone from it before somebody else may get it.
    async fn remove_end(&self, tunnel: Tunnel, known: &mut Known) -> Result<(), String> {
        if known.gone {
            return Ok(());
        }
        let name = tunnel.device();
        self.tell(tunnel, None).await?;
        let kernel = |error: Error| format!("{name}, which no IPPool uses any more, cannot be removed: {error}");
        let link = self.net.link(name).await.map_err(kernel)?.filter(|link| link.alias == OURS);
        if let Some(link) = &link {
            self.net.set_addresses(link.index, &[]).await.map_err(kernel)?;
        }
        self.ipam.release_tunnel(tunnel).await.map_err(|error| error.to_string())?;
        if let Some(link) = &link {
            self.net.remove_end(link).await.map_err(kernel)?;
            tracing::info!(device = name, "an overlay's end is removed: no IPPool uses it");
        }
        *known = Known { gone: true, ..Known::default() };
        Ok(())
    }

    async fn tell(&self, tunnel: Tunnel, address: Option<IpAddr>) -> Result<(), String> {
        let annotations = BTreeMap::from([(tunnel.annotation(), address.map(|address| address.to_string()))]);
        self.datastore
            .annotate_node(&self.node, &annotations)
            .await
            .map_err(|error| format!("other nodes cannot be told the address of {}: {error}", tunnel.device()))
    }
}

/// What went wrong with a device, and what can be done about it where that is known.
fn describe(tunnel: Tunnel, end: &End, error: &Error) -> String {
    let (name, overlay) = (tunnel.device(), tunnel.as_str());
    match error.errno() {
        Some(Errno::EOPNOTSUPP) => {
            let module = if tunnel.is_vxlan() { "vxlan" } else { "ipip" };
            format!(
                "this node's kernel has no {overlay}, so IPPools that use it do not work here: load the module {module}, install the \
                 package that has it (linux-modules-extra, kernel-modules-extra ...), or choose another mode"
            )
        }
        Some(Errno::EEXIST) => format!(
            "{name} cannot be made: another device of this node has VNI {} and UDP port {}; remove it, or set vxlanVNI or vxlanPort in \
             FelixConfiguration: {error}",
            end.vni, end.port
        ),
        _ => format!("{name}: {error}"),
    }
}
