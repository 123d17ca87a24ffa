//! A pod's interface: one veth pair, the host's end born under its final name, the pod's end inside the pod.
//!
//! Addressing is Calico's: a /32 (or /128) on the pod's end, and a next hop that is the same for every pod. Nothing has to be
//! resolved or probed before the first packet: the pod knows the host's hardware address for good, the host's end has a fixed
//! link-local address without duplicate address detection, and proxy delays are off.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use tortie_admin::types::Endpoint;
use tortie_felix_netlink::{Error, Mac, Net, Netns, RouteKind, RouteSpec, VethSpec, netns, sysctl};

use crate::{mtu, shaping};

/// The IPv4 next hop of every pod.
pub(crate) const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// The IPv6 next hop of every pod: the link-local address of [`HOST_MAC`] by RFC 4291, appendix A.
pub(crate) const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0xecee, 0xeeff, 0xfeee, 0xeeee);

/// The hardware address of the host's end of every veth.
pub(crate) const HOST_MAC: Mac = Mac([0xee; 6]);

/// The protocol number of all our routes.
const PROTOCOL: u8 = 80;

/// The node's side: its namespace, and a handle on it.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    netns: Arc<Netns>,
    net: Net,
}

impl Host {
    pub(crate) fn new(netns: Netns) -> Result<Self, Error> {
        let net = Net::in_netns(&netns)?;
        Ok(Self { netns: Arc::new(netns), net })
    }

    /// Whether a namespace is the node's own.
    pub(crate) fn is_own(&self, other: &Netns) -> Result<bool, Error> {
        Ok(self.netns.id()? == other.id()?)
    }

    /// Whether the interface exists.
    pub(crate) async fn has(&self, interface: &str) -> Result<bool, Error> {
        Ok(self.net.link(interface).await?.is_some())
    }

    /// The MTU for a new pod, see [`mtu::underlay`].
    pub(crate) async fn mtu(&self, interfaces: &str, overlay: mtu::Overlay) -> Result<u32, Error> {
        let pattern = mtu::pattern(interfaces)
            .ok_or_else(|| Error::Invalid(format!("mtuIfacePattern {interfaces:?} is no regular expression")))?;
        Ok(overlay.inside(mtu::underlay(&self.net, &self.net.links().await?, &pattern).await?))
    }

    /// Deletes the host's end, and with it the pod's, and what shaped the pod's bandwidth; what is gone is no error.
    pub(crate) async fn delete(&self, interface: &str) -> Result<(), Error> {
        for name in [Some(interface.to_owned()), shaping::device_of(interface)].into_iter().flatten() {
            let Some(link) = self.net.link(&name).await? else { continue };
            match self.net.delete_link(link.index).await {
                Err(error) if !error.is_missing() => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Makes and configures both ends; the hardware address of the pod's.
    pub(crate) async fn create(&self, endpoint: &Endpoint, pod: &Arc<Netns>, mtu: u32) -> Result<Mac, Error> {
        let veth = VethSpec {
            name: endpoint.host_interface.clone(),
            mac: Some(HOST_MAC),
            peer_name: endpoint.ifname.clone(),
            peer_netns: Some(pod),
            mtu,
            ..VethSpec::default()
        };
        let index = self.net.create_veth(veth).await?;
        let has_v6 = endpoint.ips.iter().any(IpAddr::is_ipv6);
        set(&self.netns, host_settings(&endpoint.host_interface, has_v6)).await?;
        self.net.set_up(index).await?;
        if has_v6 {
            self.net.add_address(index, own_address()).await?;
        }
        configure_pod(endpoint, pod, has_v6).await
    }

    /// What differs from what [`Host::create`] made; none if nothing does.
    pub(crate) async fn difference(&self, endpoint: &Endpoint, pod: &Netns) -> Result<Option<String>, Error> {
        let host = &endpoint.host_interface;
        match self.net.link(host).await? {
            None => return Ok(Some(format!("interface {host} is missing on the node"))),
            Some(link) if !link.up => return Ok(Some(format!("interface {host} is down"))),
            Some(_) => {}
        }
        let net = Net::in_netns(pod)?;
        let ifname = &endpoint.ifname;
        let Some(link) = net.link(ifname).await?.filter(|link| link.up) else {
            return Ok(Some(format!("interface {ifname} is missing or down in the pod")));
        };
        let addresses = net.addresses(link.index).await?;
        let neighbours = net.neighbours(link.index).await?;
        let routes = net.routes(None).await?;
        for ip in &endpoint.ips {
            if !addresses.iter().any(|address| address.addr() == *ip) {
                return Ok(Some(format!("interface {ifname} has no address {ip}")));
            }
            if !neighbours.contains(&(gateway(*ip), HOST_MAC)) {
                return Ok(Some(format!("interface {ifname} has no permanent neighbour {}", gateway(*ip))));
            }
            for wanted in pod_routes(*ip, link.index) {
                if !routes.iter().any(|route| route.destination == wanted.destination && route.kind == wanted.kind) {
                    return Ok(Some(format!("the pod has no route {wanted}")));
                }
            }
        }
        Ok(None)
    }
}

/// The address of the host's end of every veth, IPv6's alone.
pub(crate) fn own_address() -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(GATEWAY_V6, 64))
}

/// Opens a pod's namespace.
pub(crate) fn open(path: &std::path::Path) -> Result<Netns, Error> {
    let text = path.to_str().ok_or_else(|| Error::Invalid(format!("{}: not UTF-8", path.display())))?;
    netns::open(text)
}

async fn configure_pod(endpoint: &Endpoint, pod: &Arc<Netns>, has_v6: bool) -> Result<Mac, Error> {
    let ifname = &endpoint.ifname;
    let gone = || Error::Invalid(format!("interface {ifname} went away from {}", endpoint.netns));
    if has_v6 {
        set(pod, pod_settings(ifname)).await?;
    }
    let net = Net::in_netns(pod)?;
    let link = net.link(ifname).await?.ok_or_else(gone)?;
    net.set_up(link.index).await?;
    for ip in &endpoint.ips {
        net.add_address(link.index, IpNet::from(*ip)).await?;
        net.add_neighbour(link.index, gateway(*ip), HOST_MAC).await?;
        for route in pod_routes(*ip, link.index) {
            net.replace_route(&route).await?;
        }
    }
    for ip in &endpoint.ips {
        net.wait_for_address(*ip).await?;
    }
    link.mac.ok_or_else(gone)
}

fn gateway(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => GATEWAY_V4.into(),
        IpAddr::V6(_) => GATEWAY_V6.into(),
    }
}

/// A pod's routes for one of its addresses: to the next hop, and everywhere by way of it. Every IPv6 interface has a route to
/// link-local addresses already.
fn pod_routes(ip: IpAddr, index: u32) -> Vec<RouteSpec> {
    let everywhere = match ip {
        IpAddr::V4(_) => IpNet::V4(Ipv4Net::default()),
        IpAddr::V6(_) => IpNet::V6(Ipv6Net::default()),
    };
    let via = RouteKind::Via { gateway: gateway(ip), index: Some(index), onlink: false };
    let default = RouteSpec::new(everywhere, via, PROTOCOL);
    match ip {
        IpAddr::V4(_) => {
            vec![RouteSpec::new(IpNet::from(gateway(ip)), RouteKind::Device { index }, PROTOCOL), default]
        }
        IpAddr::V6(_) => vec![default],
    }
}

/// Settings of the host's end, before it is set up. `rp_filter` is the administrator's.
pub(crate) fn host_settings(interface: &str, has_v6: bool) -> Vec<(String, &'static str)> {
    let mut settings = vec![
        (format!("net/ipv4/conf/{interface}/forwarding"), "1"),
        (format!("net/ipv4/conf/{interface}/send_redirects"), "0"),
        (format!("net/ipv4/neigh/{interface}/proxy_delay"), "0"),
    ];
    if has_v6 {
        settings.extend([
            (format!("net/ipv6/conf/{interface}/disable_ipv6"), "0"),
            (format!("net/ipv6/conf/{interface}/accept_dad"), "0"),
            (format!("net/ipv6/conf/{interface}/accept_ra"), "0"),
            // No other link-local address than the one that pods know.
            (format!("net/ipv6/conf/{interface}/addr_gen_mode"), "1"),
            (format!("net/ipv6/conf/{interface}/forwarding"), "1"),
            (format!("net/ipv6/neigh/{interface}/proxy_delay"), "0"),
        ]);
    }
    settings
}

/// Settings of the pod's end, before it is set up.
fn pod_settings(interface: &str) -> Vec<(String, &'static str)> {
    vec![
        (format!("net/ipv6/conf/{interface}/disable_ipv6"), "0"),
        (format!("net/ipv6/conf/{interface}/accept_dad"), "0"),
        (format!("net/ipv6/conf/{interface}/accept_ra"), "0"),
    ]
}

async fn set(netns: &Arc<Netns>, settings: Vec<(String, &'static str)>) -> Result<(), Error> {
    let netns = Arc::clone(netns);
    let work = move || {
        let settings: Vec<(&str, &str)> = settings.iter().map(|(path, value)| (path.as_str(), *value)).collect();
        sysctl::set_in(&netns, &settings)
    };
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(Error::Invalid(format!("setting kernel parameters ended early: {error}"))))
}
