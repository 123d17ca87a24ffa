//! The sets that rules look things up in.
//!
//! A set is named after what it asks for, and shared by all rules that ask for it; pods and networks come and go in it. Only sets of
//! what rules write down themselves are named after their elements.
//!
//! A set that gains an element only ever allows more where each rule with it allows what is in it. Where others have it, a gain may
//! deny what was allowed. The two kinds of use have sets of their own, so that a look at the name says which it is
//! ([`gain_may_deny`]).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use tortie_api::k8s::{IpBlock, Protocol};
use tortie_nft::{Family, Field, Key, KeyType, Match, Op, Set, Side, Value, comment, intervals};

use crate::chains::{Builder, in_set};
use crate::cluster::PodPort;
use crate::describe::describe;
use crate::followed::{Followed, Whom};
use crate::peers::Peers;
use crate::program::{Named, ServiceEnd};
use crate::selection::Selection;
use crate::view::View;

/// What becomes of what is in a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// It is allowed.
    Allows,
    /// It has no say in what becomes of it.
    Idle,
    /// It may be denied, or what is not in the set may be.
    Other,
}

impl Use {
    /// The use of a set where what is *not* in it is used like this.
    pub(crate) const fn inverse(self) -> Self {
        match self {
            Self::Idle => Self::Idle,
            Self::Allows | Self::Other => Self::Other,
        }
    }
}

/// What a set has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    Addresses,
    Nets,
    NamedPorts,
    Service,
    ServicePorts,
}

impl Content {
    /// What the names of such sets begin with.
    const fn prefix(self, used: Use, family: Family) -> &'static str {
        match (self, used, family) {
            (Self::Addresses, Use::Allows | Use::Idle, Family::V4) => "s4_",
            (Self::Addresses, Use::Allows | Use::Idle, Family::V6) => "s6_",
            (Self::Addresses, Use::Other, Family::V4) => "xs4",
            (Self::Addresses, Use::Other, Family::V6) => "xs6",
            (Self::Nets, Use::Allows | Use::Idle, Family::V4) => "w4_",
            (Self::Nets, Use::Allows | Use::Idle, Family::V6) => "w6_",
            (Self::Nets, Use::Other, Family::V4) => "xw4",
            (Self::Nets, Use::Other, Family::V6) => "xw6",
            (Self::NamedPorts, Use::Allows | Use::Idle, Family::V4) => "p4_",
            (Self::NamedPorts, Use::Allows | Use::Idle, Family::V6) => "p6_",
            (Self::NamedPorts, Use::Other, Family::V4) => "xp4",
            (Self::NamedPorts, Use::Other, Family::V6) => "xp6",
            (Self::Service, Use::Allows | Use::Idle, Family::V4) => "b4_",
            (Self::Service, Use::Allows | Use::Idle, Family::V6) => "b6_",
            (Self::Service, Use::Other, Family::V4) => "xb4",
            (Self::Service, Use::Other, Family::V6) => "xb6",
            (Self::ServicePorts, Use::Allows | Use::Idle, Family::V4) => "e4_",
            (Self::ServicePorts, Use::Allows | Use::Idle, Family::V6) => "e6_",
            (Self::ServicePorts, Use::Other, Family::V4) => "xe4",
            (Self::ServicePorts, Use::Other, Family::V6) => "xe6",
        }
    }

    fn key(self, family: Family) -> Vec<KeyType> {
        let address = match family {
            Family::V4 => KeyType::Ipv4Addr,
            Family::V6 => KeyType::Ipv6Addr,
        };
        match self {
            Self::Addresses | Self::Nets | Self::Service => vec![address],
            Self::NamedPorts | Self::ServicePorts => vec![address, KeyType::InetProto, KeyType::InetService],
        }
    }
}

/// Whether the set of this name may deny what was allowed when it gains an element.
pub(crate) fn gain_may_deny(set: &str) -> bool {
    set.starts_with('x')
}

impl Builder<'_> {
    /// The set of the addresses of the pods and host endpoints that any of these selects.
    pub(crate) fn pod_set(&mut self, selections: &BTreeSet<Selection>, family: Family, used: Use) -> String {
        let name = self.names.name(Content::Addresses.prefix(used, family), selections);
        self.followed_set(
            name,
            Content::Addresses,
            family,
            || describe(selections),
            |builder| {
                let addresses = builder.resolver.addresses(selections, family == Family::V4);
                let elements = addresses.into_iter().map(|address| vec![Value::Addr(address)]).collect();
                (elements, Whom::Pods(builder.shared(selections)))
            },
        )
    }

    /// The set of the networks of the network sets that any of these selects; `None` if there can be none.
    pub(crate) fn network_set(
        &mut self,
        selections: &BTreeSet<Selection>,
        family: Family,
        used: Use,
    ) -> Option<String> {
        if !self.resolver.cluster.has_nets() || !selections.iter().any(Selection::may_have_nets) {
            return None;
        }
        let name = self.names.name(Content::Nets.prefix(used, family), selections);
        Some(self.followed_set(
            name,
            Content::Nets,
            family,
            || describe(selections),
            |builder| {
                let followed = Followed { family, whom: Whom::Nets(builder.shared(selections)) };
                (followed.elements(builder.resolver.cluster), followed.whom)
            },
        ))
    }

    /// The set of (address, protocol, port) of all endpoints that have a port of one of these names.
    pub(crate) fn named_set(&mut self, named: &BTreeSet<Named>, family: Family, used: Use) -> String {
        let name = self.names.name(Content::NamedPorts.prefix(used, family), named);
        let said = || {
            let names: BTreeSet<&str> = named.iter().map(|named| named.name.as_str()).collect();
            format!("ports named {}", names.into_iter().collect::<Vec<_>>().join(", "))
        };
        self.followed_set(name, Content::NamedPorts, family, said, |builder| {
            let mut elements = BTreeSet::new();
            for named in named {
                builder.named_elements(named, family == Family::V4, &mut elements);
            }
            (elements, Whom::Named(named.clone()))
        })
    }

    /// The set of all pods' ports of these names, and with `hosts` those of host endpoints, of one protocol or of all.
    pub(crate) fn named_ports(
        &mut self,
        names: &BTreeSet<String>,
        hosts: bool,
        protocol: Option<u8>,
        family: Family,
        used: Use,
    ) -> String {
        let protocols = Protocol::ALL.into_iter().filter(|it| protocol.is_none_or(|wanted| wanted == it.number()));
        let named = |protocol| {
            let peers = Arc::new(Peers::everyone());
            names.iter().map(move |name| Named { protocol, name: name.clone(), hosts, peers: Arc::clone(&peers) })
        };
        self.named_set(&protocols.flat_map(named).collect(), family, used)
    }

    /// That an end is one of a Service's endpoints.
    pub(crate) fn service_match(
        &mut self,
        view: View<'_>,
        side: Side,
        service: &ServiceEnd,
        family: Family,
        used: Use,
    ) -> Match {
        let content = if service.ports { Content::ServicePorts } else { Content::Service };
        let name = self.names.name(content.prefix(used, family), service);
        let said = || format!("endpoints of Service {}/{}", service.namespace, service.name);
        let set = self.followed_set(name, content, family, said, |builder| {
            let name = (service.namespace.as_str().into(), service.name.as_str().into());
            let whom = if service.ports { Whom::ServicePorts(name) } else { Whom::Service(name) };
            let followed = Followed { family, whom };
            (followed.elements(builder.resolver.cluster), followed.whom)
        });
        let mut key = vec![view.address(side, family)];
        if service.ports {
            key.extend([Field::L4Proto, view.port(side)]);
        }
        in_set(key, Op::Eq, &set)
    }

    /// That an end's port is in one of these ranges, or in none of them. The protocol is known.
    pub(crate) fn port_match(&mut self, view: View<'_>, side: Side, ranges: &[(u16, u16)], op: Op) -> Match {
        if let &[(first, last)] = ranges {
            return Match::Port { side: view.side(side), op, first, last };
        }
        let port = |&(first, last): &(u16, u16)| {
            vec![if first == last { Value::Port(first) } else { Value::PortRange(first, last) }]
        };
        let elements: BTreeSet<Key> = ranges.iter().map(port).collect();
        let name = self.names.name("r_", &elements);
        self.used.insert(name.clone());
        self.ruleset.sets.entry(name.clone()).or_insert_with(|| Set {
            key: vec![KeyType::InetService],
            interval: true,
            elements,
            comment: Some("ports that rules of policies name".to_owned()),
        });
        in_set(vec![view.port(side)], op, &name)
    }

    /// The interval set of what of these blocks is of one family; `None` if there is nothing in it.
    pub(crate) fn block_set(&mut self, blocks: &BTreeSet<IpBlock>, family: Family) -> Option<String> {
        let ranges: Vec<_> = blocks.iter().map(|block| (block.cidr, block.except.clone())).collect();
        self.range_set(&ranges, family)
    }

    /// The interval set of what of these blocks, each less its exceptions, is of one family; `None` if there is nothing in it.
    pub(crate) fn range_set(&mut self, ranges: &[(IpNet, Vec<IpNet>)], family: Family) -> Option<String> {
        let (prefix, key, elements) = match family {
            Family::V4 => ("n4_", KeyType::Ipv4Addr, intervals::union_v4(ranges)),
            Family::V6 => ("n6_", KeyType::Ipv6Addr, intervals::union_v6(ranges)),
        };
        if elements.is_empty() {
            return None;
        }
        let name = self.names.name(prefix, &elements);
        self.used.insert(name.clone());
        self.ruleset.sets.entry(name.clone()).or_insert_with(|| Set {
            key: vec![key],
            interval: true,
            elements,
            comment: Some("addresses that annotations or rules of policies name".to_owned()),
        });
        Some(name)
    }

    /// A set that follows the cluster: made, if it is not there yet.
    fn followed_set(
        &mut self,
        name: String,
        content: Content,
        family: Family,
        said: impl FnOnce() -> String,
        fill: impl FnOnce(&mut Self) -> (BTreeSet<Key>, Whom),
    ) -> String {
        self.used.insert(name.clone());
        if !self.ruleset.sets.contains_key(&name) {
            let (elements, whom) = fill(self);
            let set = Set {
                key: content.key(family),
                interval: content == Content::Nets,
                elements,
                comment: Some(comment(&said())),
            };
            self.ruleset.sets.insert(name.clone(), set);
            self.followed.push((name.clone(), Followed { family, whom }));
        }
        name
    }

    /// The selections, shared with the set before if that has the same: the other family's.
    fn shared(&mut self, selections: &BTreeSet<Selection>) -> Arc<BTreeSet<Selection>> {
        if *self.before != *selections {
            self.before = Arc::new(selections.clone());
        }
        Arc::clone(&self.before)
    }

    fn named_elements(&mut self, named: &Named, v4: bool, elements: &mut BTreeSet<Key>) {
        let cluster = self.resolver.cluster;
        let mut add = |ports: &[PodPort], ips: &mut dyn Iterator<Item = IpAddr>| {
            let is_it = |port: &&PodPort| port.protocol == named.protocol && port.name.as_ref() == Some(&named.name);
            if ports.iter().any(|port| is_it(&port)) {
                for ip in ips.filter(|ip| ip.is_ipv4() == v4) {
                    elements.extend(ports.iter().filter(is_it).map(|port| {
                        vec![Value::Addr(ip), Value::Proto(port.protocol.number()), Value::Port(port.number)]
                    }));
                }
            }
        };
        for peer in &named.peers.pods {
            for &id in self.resolver.members(peer).iter() {
                let pod = cluster.pod_by_id(id);
                add(pod.ports(), &mut pod.ips());
            }
            for host in cluster.hosts().filter(|host| named.hosts && peer.selects(&host.seen())) {
                add(&host.ports, &mut host.spec.expected_ips.iter().copied());
            }
        }
        if named.peers.everyone || !named.peers.blocks.is_empty() {
            let may = |ip: &IpAddr| named.peers.everyone || named.peers.has_address(*ip);
            for pod in cluster.endpoints() {
                add(pod.ports(), &mut pod.ips().filter(may));
            }
            for host in cluster.hosts().filter(|_| named.hosts) {
                add(&host.ports, &mut host.spec.expected_ips.iter().copied().filter(may));
            }
        }
    }
}
