//! What the agent says of its node in a cluster: by which addresses others reach it, and that pods on it have a network.
//!
//! Other nodes route to a node, and peer with it, by what its Node object says in Calico's annotations. The agent finds the addresses
//! ([`autodetect`]) at its start and looks again every minute, since nodes are given other addresses while they run. Where nothing is
//! found, what was said before stays.

pub(crate) mod answers;
mod autodetect;
pub(crate) mod report;

use std::net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::{InterfaceFlags, if_nametoindex};
use tokio::sync::watch;
use tortie_datastore::{Datastore, NodeReport};
use tracing::{info, warn};

use autodetect::{Interface, Method, Node};

/// How often the addresses are looked at.
const LOOK: Duration = Duration::from_secs(60);

/// The first and the longest pause after a failure.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How one family's address is found.
#[derive(Debug, Clone)]
enum Wanted {
    /// There is none.
    None,
    /// It is this one.
    Given(IpNet),
    /// By a method.
    Detected(Method),
}

/// How a node's addresses are found: Calico's variables `IP`, `IP6`, `IP_AUTODETECTION_METHOD` and `IP6_AUTODETECTION_METHOD`.
#[derive(Debug, Clone)]
pub(crate) struct Addresses {
    ipv4: Wanted,
    ipv6: Wanted,
}

impl Addresses {
    /// Reads the variables.
    ///
    /// # Errors
    /// What is wrong with one of them, by name.
    pub(crate) fn of_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let read = |address: &str, method: &str, is_ipv4: bool| -> Result<Wanted, String> {
            let text = variable(address).unwrap_or_default();
            match text.as_str() {
                "none" => Ok(Wanted::None),
                "" | "autodetect" => {
                    let text = variable(method).unwrap_or_default();
                    text.parse().map(Wanted::Detected).map_err(|error| format!("{method}: {error}"))
                }
                text => {
                    let given = text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
                    let given: Option<IpNet> = given.filter(|given: &IpNet| given.addr().is_ipv4() == is_ipv4);
                    let family = if is_ipv4 { "IPv4" } else { "IPv6" };
                    given.map(Wanted::Given).ok_or_else(|| {
                        format!("{address}: {text:?} is no {family} address: use autodetect, none, or an address such as 10.0.0.5/24")
                    })
                }
            }
        };
        Ok(Self {
            ipv4: read("IP", "IP_AUTODETECTION_METHOD", true)?,
            ipv6: read("IP6", "IP6_AUTODETECTION_METHOD", false)?,
        })
    }

    /// Finds the addresses now.
    fn look(&self, interfaces: &[Interface], internal: &[IpAddr]) -> (Option<IpNet>, Option<IpNet>) {
        let node = Node { interfaces, internal, source: &source };
        let find = |wanted: &Wanted, ipv4: bool| match wanted {
            Wanted::None => None,
            // Written as an address alone, it has the subnet of its interface.
            Wanted::Given(given) if given.prefix_len() == given.max_prefix_len() => {
                Some(node.with_subnet(given.addr()))
            }
            Wanted::Given(given) => Some(*given),
            Wanted::Detected(method) => node.address(method, ipv4),
        };
        (find(&self.ipv4, true), find(&self.ipv6, false))
    }
}

/// Says of the node what there is to say, for as long as the agent runs. `ready` tells when its pods have a network.
pub(crate) async fn run(
    datastore: Arc<dyn Datastore>,
    node: String,
    addresses: Addresses,
    mut ready: watch::Receiver<bool>,
) {
    let mut said: Option<NodeReport> = None;
    let mut pause = FIRST_PAUSE;
    loop {
        let is_ready = *ready.borrow_and_update();
        let report = report(&*datastore, &node, &addresses, is_ready).await;
        let next = if said.as_ref() == Some(&report) {
            LOOK
        } else {
            match datastore.publish_node(&node, &report).await {
                Ok(()) => {
                    tell(said.as_ref(), &report);
                    said = Some(report);
                    pause = FIRST_PAUSE;
                    LOOK
                }
                Err(error) => {
                    warn!(%error, "the node's addresses could not be published; trying again");
                    let now = pause;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    now
                }
            }
        };
        tokio::select! {
            () = tokio::time::sleep(next) => {}
            changed = ready.changed() => if changed.is_err() { return },
        }
    }
}

/// What there is to say now.
async fn report(datastore: &dyn Datastore, node: &str, addresses: &Addresses, network_available: bool) -> NodeReport {
    let asks_the_object =
        [&addresses.ipv4, &addresses.ipv6].iter().any(|wanted| matches!(wanted, Wanted::Detected(Method::InternalIp)));
    let internal = if asks_the_object { datastore.node_addresses(node).await.unwrap_or_default() } else { Vec::new() };
    let addresses = addresses.clone();
    let found = tokio::task::spawn_blocking(move || {
        let interfaces = interfaces();
        let found = addresses.look(&interfaces, &internal);
        if found == (None, None) {
            let seen: Vec<String> = interfaces.iter().map(ToString::to_string).collect();
            warn!(
                interfaces = seen.join(", "),
                "no address was found by which other nodes reach this one: set IP, or IP_AUTODETECTION_METHOD"
            );
        }
        found
    });
    let (ipv4, ipv6) = found.await.unwrap_or_default();
    NodeReport { ipv4, ipv6, network_available }
}

fn tell(before: Option<&NodeReport>, now: &NodeReport) {
    let addresses = |report: &NodeReport| (report.ipv4, report.ipv6);
    if before.map(addresses) != Some(addresses(now)) {
        let text = |address: Option<IpNet>| address.map_or_else(|| "none".to_owned(), |address| address.to_string());
        info!(ipv4 = text(now.ipv4), ipv6 = text(now.ipv6), "other nodes reach this one by these addresses");
    }
    if now.network_available && !before.is_some_and(|before| before.network_available) {
        info!("pods of this node have a network");
    }
}

/// The interfaces that are up, in the kernel's order.
fn interfaces() -> Vec<Interface> {
    let mut found: Vec<(u32, Interface)> = Vec::new();
    let Ok(addresses) = getifaddrs() else { return Vec::new() };
    for entry in addresses.filter(|entry| entry.flags.contains(InterfaceFlags::IFF_UP)) {
        let ip = |storage: Option<nix::sys::socket::SockaddrStorage>| -> Option<IpAddr> {
            let storage = storage?;
            let v4 = storage.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
            v4.or_else(|| storage.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
        };
        let (Some(address), Some(mask)) = (ip(entry.address), ip(entry.netmask)) else { continue };
        let Ok(network) = IpNet::with_netmask(address, mask) else { continue };
        let index = if_nametoindex(entry.interface_name.as_str()).unwrap_or(u32::MAX);
        match found.iter_mut().find(|(_, interface)| interface.name == entry.interface_name) {
            Some((_, interface)) => interface.addresses.push(network),
            None => found.push((index, Interface { name: entry.interface_name, addresses: vec![network] })),
        }
    }
    found.sort_by_key(|(index, _)| *index);
    found.into_iter().map(|(_, interface)| interface).collect()
}

/// The address that packets to a destination would come from. Connecting a UDP socket sends nothing.
fn source(destination: &str, ipv4: bool) -> Option<IpAddr> {
    let unspecified: SocketAddr = if ipv4 { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
    let targets = (destination, 80).to_socket_addrs().ok()?;
    let target = targets.into_iter().find(|target| target.is_ipv4() == ipv4)?;
    let socket = UdpSocket::bind(unspecified).ok()?;
    socket.connect(target).ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(variables: &[(&str, &str)]) -> Result<Addresses, String> {
        Addresses::of_environment(|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn variables_mean_what_they_mean_to_calico() {
        let interfaces = [Interface {
            name: "eth0".into(),
            addresses: vec!["10.0.0.5/24".parse().expect("net"), "fd00::5/64".parse().expect("net")],
        }];
        let look = |variables: &[(&str, &str)]| {
            let (ipv4, ipv6) = addresses(variables).expect("addresses").look(&interfaces, &[]);
            [ipv4, ipv6].map(|found| found.map(|found| found.to_string()).unwrap_or_default())
        };
        assert_eq!(look(&[]), ["10.0.0.5/24", "fd00::5/64"]);
        assert_eq!(look(&[("IP", "autodetect"), ("IP6", "none")]), ["10.0.0.5/24", ""]);
        assert_eq!(look(&[("IP", "10.0.0.5"), ("IP6", "fd00::5/48")]), ["10.0.0.5/24", "fd00::5/48"]);
        assert_eq!(look(&[("IP", "192.0.2.1"), ("IP6_AUTODETECTION_METHOD", "interface=x")]), ["192.0.2.1/32", ""]);
        for (name, value) in [("IP", "fd00::1"), ("IP6", "10.0.0.1"), ("IP", "eth0"), ("IP_AUTODETECTION_METHOD", "x")]
        {
            let error = addresses(&[(name, value)]).expect_err(value);
            assert!(error.starts_with(&format!("{name}: ")), "{error}");
        }
    }

    #[test]
    fn this_machine_has_interfaces_and_a_way_to_itself() {
        let interfaces = interfaces();
        assert!(interfaces.iter().any(|interface| interface.name == "lo"), "{interfaces:?}");
        assert_eq!(source("127.0.0.1", true), Some("127.0.0.1".parse().expect("an address")));
    }
}
