//! Which of a node's addresses others reach it by, found by Calico's methods. No IO but what the caller hands in.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use regex_lite::Regex;

/// Interfaces that are never a node's way to others, as Calico leaves them out: bridges and ends of containers, and tunnels.
const NEVER: &str = "^(docker.*|cbr.*|dummy.*|virbr.*|lxcbr.*|veth.*|lo|cali.*|tunl.*|flannel.*|kube-ipvs.*|cni.*|vxlan\\.calico.*|\
                     vxlan-v6\\.calico.*|wireguard\\.cali.*|wg-v6\\.cali.*|nodelocaldns.*)$";

/// How to find the address: a value of `IP_AUTODETECTION_METHOD`.
#[derive(Debug, Clone)]
pub(crate) enum Method {
    /// The first address of the first interface, in the kernel's order.
    FirstFound,
    /// The first address of the Node object's type `InternalIP`.
    InternalIp,
    /// The address that packets to this destination would come from.
    CanReach(String),
    /// The first address of the first interface that one of these describes, the first of them that describes any.
    Interface(Vec<Regex>),
    /// The first address of the first interface that none of these describes.
    SkipInterface(Vec<Regex>),
    /// The first address that is in one of these.
    Cidr(Vec<IpNet>),
}

impl FromStr for Method {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let patterns = |list: &str| -> Result<Vec<Regex>, String> {
            let read = |pattern: &str| {
                // The whole name, as Calico has it of regular expressions of interfaces.
                Regex::new(&format!("^(?:{})$", pattern.trim())).map_err(|error| format!("{pattern:?}: {error}"))
            };
            list.split(',').filter(|pattern| !pattern.trim().is_empty()).map(read).collect()
        };
        let known = "use first-found, kubernetes-internal-ip, can-reach=DESTINATION, interface=REGEX,..., skip-interface=REGEX,... or \
                     cidr=NETWORK,...";
        let method = match text.split_once('=') {
            None if text.is_empty() || text == "first-found" => Self::FirstFound,
            None if text == "kubernetes-internal-ip" => Self::InternalIp,
            Some(("can-reach", destination)) if !destination.is_empty() => Self::CanReach(destination.to_owned()),
            Some(("interface", list)) => Self::Interface(patterns(list)?),
            Some(("skip-interface", list)) => Self::SkipInterface(patterns(list)?),
            Some(("cidr", list)) => {
                let read =
                    |network: &str| network.trim().parse().map_err(|_| format!("{network:?} is no network: {known}"));
                Self::Cidr(list.split(',').map(read).collect::<Result<_, _>>()?)
            }
            _ => return Err(format!("{text:?} is no method: {known}")),
        };
        match &method {
            Self::Interface(list) | Self::SkipInterface(list) if list.is_empty() => {
                Err(format!("{text:?} names no interface: {known}"))
            }
            _ => Ok(method),
        }
    }
}

/// An interface of the node that is up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) name: String,
    /// Its addresses with their subnets, of both families.
    pub(crate) addresses: Vec<IpNet>,
}

/// What a method may ask of the node.
pub(crate) struct Node<'a> {
    /// In the kernel's order.
    pub(crate) interfaces: &'a [Interface],
    /// The Node object's addresses.
    pub(crate) internal: &'a [IpAddr],
    /// The address that packets to a destination would come from.
    pub(crate) source: &'a dyn Fn(&str, bool) -> Option<IpAddr>,
}

impl Node<'_> {
    /// The node's address of one family by a method, with its subnet.
    pub(crate) fn address(&self, method: &Method, ipv4: bool) -> Option<IpNet> {
        let never = Regex::new(NEVER).ok()?;
        let first = |wanted: &dyn Fn(&Interface) -> bool| {
            self.interfaces
                .iter()
                .filter(|interface| wanted(interface))
                .find_map(|interface| usable(interface, ipv4).next())
        };
        let usual = |interface: &Interface| !never.is_match(&interface.name);
        match method {
            Method::FirstFound => first(&usual),
            Method::InternalIp => self.internal.iter().find(|ip| ip.is_ipv4() == ipv4).map(|ip| self.with_subnet(*ip)),
            Method::CanReach(destination) => (self.source)(destination, ipv4).map(|ip| self.with_subnet(ip)),
            Method::Interface(patterns) => {
                patterns.iter().find_map(|pattern| first(&|interface| pattern.is_match(&interface.name)))
            }
            Method::SkipInterface(patterns) => first(&|interface| {
                usual(interface) && !patterns.iter().any(|pattern| pattern.is_match(&interface.name))
            }),
            Method::Cidr(networks) => {
                let mut addresses = self.interfaces.iter().flat_map(|interface| usable(interface, ipv4));
                addresses.find(|address| networks.iter().any(|network| network.contains(&address.addr())))
            }
        }
    }

    /// An address with the subnet that it has on its interface; by itself, if it is on none.
    pub(crate) fn with_subnet(&self, ip: IpAddr) -> IpNet {
        let mut all = self.interfaces.iter().flat_map(|interface| &interface.addresses);
        all.find(|address| address.addr() == ip).copied().unwrap_or_else(|| IpNet::from(ip))
    }
}

/// An interface's addresses that others can reach.
fn usable(interface: &Interface, ipv4: bool) -> impl Iterator<Item = IpNet> {
    interface.addresses.iter().copied().filter(move |address| {
        let usable = match address.addr() {
            IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local(),
            IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
        };
        usable && address.addr().is_ipv4() == ipv4
    })
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        write!(f, "{} ({})", self.name, addresses.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(name: &str, addresses: &[&str]) -> Interface {
        let addresses = addresses.iter().map(|address| address.parse().expect("an address")).collect();
        Interface { name: name.to_owned(), addresses }
    }

    fn found(method: &str, ipv4: bool) -> Option<String> {
        let interfaces = [
            interface("lo", &["127.0.0.1/8", "::1/128"]),
            interface("docker0", &["172.17.0.1/16"]),
            interface("eth0", &["169.254.7.7/16", "10.0.0.5/24", "10.0.0.6/24", "fe80::5/64", "fd00::5/64"]),
            interface("eth1", &["192.168.1.5/24"]),
        ];
        let internal = ["192.168.1.5".parse().expect("an address"), "203.0.113.9".parse().expect("an address")];
        let source = |destination: &str, ipv4: bool| {
            (destination == "8.8.8.8" && ipv4).then(|| "10.0.0.6".parse().expect("an address"))
        };
        let node = Node { interfaces: &interfaces, internal: &internal, source: &source };
        node.address(&method.parse().expect("a method"), ipv4).map(|address| address.to_string())
    }

    #[test]
    fn each_method_finds_what_calicos_does() {
        for (method, ipv4, expected) in [
            ("first-found", true, Some("10.0.0.5/24")),
            ("", false, Some("fd00::5/64")),
            ("kubernetes-internal-ip", true, Some("192.168.1.5/24")),
            ("kubernetes-internal-ip", false, None),
            ("can-reach=8.8.8.8", true, Some("10.0.0.6/24")),
            ("can-reach=8.8.8.8", false, None),
            ("interface=eth1,eth.*", true, Some("192.168.1.5/24")),
            ("interface=eth.*", true, Some("10.0.0.5/24")),
            ("interface=th", true, None),
            ("interface=docker0", true, Some("172.17.0.1/16")),
            ("skip-interface=eth0", true, Some("192.168.1.5/24")),
            ("cidr=192.168.0.0/16,172.16.0.0/12", true, Some("172.17.0.1/16")),
            ("cidr=10.9.0.0/16", true, None),
        ] {
            assert_eq!(found(method, ipv4).as_deref(), expected, "{method}");
        }
    }

    #[test]
    fn an_address_without_an_interface_is_a_subnet_of_its_own() {
        let node = Node { interfaces: &[], internal: &[], source: &|_, _| None };
        assert_eq!(node.with_subnet("10.0.0.1".parse().expect("an address")).to_string(), "10.0.0.1/32");
    }

    #[test]
    fn what_is_no_method_is_refused_with_the_ones_there_are() {
        for text in ["eth0", "interface=", "interface=(", "cidr=x", "can-reach="] {
            let error = text.parse::<Method>().expect_err(text);
            assert!(error.contains("use first-found") || error.contains('('), "{error}");
        }
    }
}
