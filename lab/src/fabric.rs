//! The network between the nodes, and the outside world: one namespace with a bridge for each segment, and a cable to each node.
//!
//! The fabric routes between segments and knows every pod's address by way of its node, as the routers of a data centre would: so
//! whoever is outside reaches pods, and nodes of different subnets reach each other's pods un-encapsulated.

use std::net::IpAddr;

use ipnet::IpNet;
use tortie_felix_netlink::netns::{self, Netns};
use tortie_felix_netlink::{Net, RouteKind, RouteSpec, VethSpec, sysctl};

use crate::Error;
use crate::name;
use crate::state::{Node, Pod, Segment, State};

/// The protocol number of the lab's own routes: `static`, so that no agent ever takes them for its own.
const STATIC: u8 = 4;

/// The nodes' end of their cable.
pub const NODE_INTERFACE: &str = "eth0";

/// MTU of the cables.
const MTU: u32 = 1500;

/// Creates a namespace of the lab with loopback up and IPv6 ready at once.
pub async fn make_namespace(name: &str) -> Result<Netns, Error> {
    netns::create(name).map_err(Error::net)?;
    let netns = netns::open(name).map_err(Error::net)?;
    set_all(
        &netns,
        &[
            ("net.ipv6.conf.all.disable_ipv6", "0"),
            ("net.ipv6.conf.default.disable_ipv6", "0"),
            ("net.ipv6.conf.default.accept_dad", "0"),
            ("net.ipv6.conf.default.accept_ra", "0"),
        ],
    )?;
    let net = Net::in_netns(&netns).map_err(Error::net)?;
    if let Some(loopback) = net.link("lo").await.map_err(Error::net)? {
        net.set_up(loopback.index).await.map_err(Error::net)?;
    }
    Ok(netns)
}

/// Sets sysctls inside a namespace.
fn set_all(netns: &Netns, settings: &[(&str, &str)]) -> Result<(), Error> {
    netns
        .run(|| settings.iter().try_for_each(|(path, value)| sysctl::set(path, value)))
        .map_err(Error::net)?
        .map_err(Error::net)
}

/// The fabric, opened.
pub struct Fabric {
    netns: Netns,
    net: Net,
}

impl Fabric {
    /// Makes the fabric's namespace, a router without bridges yet.
    pub async fn create(lab: &str) -> Result<Self, Error> {
        let netns = make_namespace(&name::fabric_netns(lab)).await?;
        set_all(
            &netns,
            &[
                ("net.ipv4.ip_forward", "1"),
                ("net.ipv6.conf.all.forwarding", "1"),
                ("net.ipv4.conf.all.rp_filter", "0"),
                ("net.ipv4.conf.default.rp_filter", "0"),
                ("net.ipv4.conf.all.send_redirects", "0"),
                ("net.ipv4.conf.default.send_redirects", "0"),
            ],
        )?;
        let net = Net::in_netns(&netns).map_err(Error::net)?;
        Ok(Self { netns, net })
    }

    /// The fabric of a lab that is up.
    pub fn open(lab: &str) -> Result<Self, Error> {
        let netns = netns::open(&name::fabric_netns(lab)).map_err(Error::net)?;
        let net = Net::in_netns(&netns).map_err(Error::net)?;
        Ok(Self { netns, net })
    }

    /// Makes a segment's bridge and gives it the addresses it does not have yet.
    pub async fn ensure_segment(&self, segment: &Segment) -> Result<(), Error> {
        let link = self.net.link(&segment.bridge).await.map_err(Error::net)?;
        let index = match link {
            Some(link) => link.index,
            None => self.net.create_bridge(&segment.bridge).await.map_err(Error::net)?,
        };
        self.net.set_up(index).await.map_err(Error::net)?;
        let present = self.net.addresses(index).await.map_err(Error::net)?;
        for gateway in &segment.gateways {
            if !present.contains(gateway) {
                self.net.add_address(index, *gateway).await.map_err(Error::net)?;
            }
        }
        Ok(())
    }

    /// Makes a node's namespace, its cable, its addresses and its default routes.
    pub async fn add_node(&self, state: &State, node: &Node) -> Result<(), Error> {
        let inside = make_namespace(&node.netns).await?;
        let veth = VethSpec {
            name: node.link.clone(),
            peer_name: NODE_INTERFACE.to_owned(),
            peer_netns: Some(&inside),
            mtu: MTU,
            ..VethSpec::default()
        };
        self.net.create_veth(veth).await.map_err(Error::net)?;
        let bridge = self.index(&self.net, &node.bridge).await?;
        let port = self.index(&self.net, &node.link).await?;
        self.net.set_master(port, bridge).await.map_err(Error::net)?;
        self.net.set_up(port).await.map_err(Error::net)?;
        let net = Net::in_netns(&inside).map_err(Error::net)?;
        let index = self.index(&net, NODE_INTERFACE).await?;
        net.set_up(index).await.map_err(Error::net)?;
        for address in [node.ipv4, node.ipv6] {
            net.add_address(index, address).await.map_err(Error::net)?;
            if let Some(gateway) = gateway(state, address) {
                net.replace_route(&via(default_route(address.addr()), gateway, index)).await.map_err(Error::net)?;
            }
        }
        Ok(())
    }

    /// Leads the fabric to a pod's addresses by way of its node.
    pub async fn add_pod(&self, state: &State, pod: &Pod) -> Result<(), Error> {
        let Some(node) = state.node(&pod.node) else { return Ok(()) };
        let bridge = self.index(&self.net, &node.bridge).await?;
        for ip in &pod.ips {
            let next = if ip.is_ipv4() { node.ipv4 } else { node.ipv6 };
            self.net.replace_route(&via(IpNet::from(*ip), next.addr(), bridge)).await.map_err(Error::net)?;
        }
        Ok(())
    }

    /// Takes the routes to a pod's addresses away.
    pub async fn remove_pod(&self, pod: &Pod) -> Result<(), Error> {
        for route in self.net.routes(Some(STATIC)).await.map_err(Error::net)? {
            if pod.ips.iter().any(|ip| route.destination == IpNet::from(*ip)) {
                self.net.delete_route(&route).await.map_err(Error::net)?;
            }
        }
        Ok(())
    }

    async fn index(&self, net: &Net, name: &str) -> Result<u32, Error> {
        let link = net.link(name).await.map_err(Error::net)?;
        link.map(|link| link.index).ok_or_else(|| Error::Failed(format!("the interface {name} went away")))
    }

    /// The fabric's namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }
}

/// The fabric's address in the subnet of a node's address.
fn gateway(state: &State, address: IpNet) -> Option<IpAddr> {
    let gateways = state.segments.iter().flat_map(|segment| &segment.gateways);
    gateways.map(IpNet::addr).find(|gateway| address.contains(gateway))
}

fn default_route(family: IpAddr) -> IpNet {
    match family {
        IpAddr::V4(_) => ipnet::Ipv4Net::default().into(),
        IpAddr::V6(_) => ipnet::Ipv6Net::default().into(),
    }
}

fn via(destination: IpNet, gateway: IpAddr, index: u32) -> RouteSpec {
    RouteSpec::new(destination, RouteKind::Via { gateway, index: Some(index), onlink: false }, STATIC)
}
