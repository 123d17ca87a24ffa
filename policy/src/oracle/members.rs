//! What selectors find at an address: pods, network sets that have it, and host endpoints that expect it; and what Services find.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use tortie_api::calico::{HostEndpoint, NetworkSet};
use tortie_api::k8s::{EndpointSlice, Pod, Protocol};
use tortie_nft::Family;

use super::calico::in_net;
use super::flow::Party;
use super::world::{World, namespace_of};

/// The label that has the namespace of whatever is in one.
const NAMESPACE: &str = "projectcalico.org/namespace";
/// The label that has the orchestrator of pods.
const ORCHESTRATOR: &str = "projectcalico.org/orchestrator";
/// The label that has the service account of pods.
const SERVICE_ACCOUNT: &str = "projectcalico.org/serviceaccount";
/// What the labels of a namespace begin with where its pods inherit them.
const OF_NAMESPACE: &str = "pcns.";
/// What the labels of a service account begin with where its pods inherit them.
const OF_SERVICE_ACCOUNT: &str = "pcsa.";

/// Something that a selector may select.
pub(super) enum Member<'a> {
    /// A pod.
    Pod(&'a Pod),
    /// A network set of a namespace, or a global one, by one of its nets.
    Set(Option<&'a str>, &'a NetworkSet, IpNet),
    /// A host endpoint, by one of its expected addresses.
    Host(&'a HostEndpoint),
}

/// Everything that the party is to a selector.
pub(super) fn at<'a>(world: &'a World, party: &Party<'a>, family: Family) -> Vec<Member<'a>> {
    let pods = party.pods.iter().map(|pod| Member::Pod(pod));
    let sets = world.sets.iter().filter_map(|((namespace, _), set)| {
        let net = set.spec.nets.iter().find(|net| in_net(net, party.address, family))?;
        Some(Member::Set(namespace.as_deref(), set, *net))
    });
    let is_here = |host: &&HostEndpoint| party.address.is_some_and(|address| host.spec.expected_ips.contains(&address));
    let hosts = world.hosts.values().filter(is_here).map(Member::Host);
    pods.chain(sets).chain(hosts).collect()
}

/// Everything that there is to select.
pub(super) fn everything(world: &World) -> impl Iterator<Item = Member<'_>> {
    let pods = world.pods.values().filter(|pod| pod.is_endpoint()).map(Member::Pod);
    let sets = world
        .sets
        .iter()
        .flat_map(|((namespace, _), set)| set.spec.nets.iter().map(|net| Member::Set(namespace.as_deref(), set, *net)));
    pods.chain(sets).chain(world.hosts.values().map(Member::Host))
}

impl Member<'_> {
    /// The namespace it is in, if it is in one.
    pub(super) fn namespace(&self) -> Option<&str> {
        match self {
            Self::Pod(pod) => Some(namespace_of(pod)),
            Self::Set(namespace, ..) => *namespace,
            Self::Host(_) => None,
        }
    }

    /// The service account that it runs as, with its namespace.
    pub(super) fn service_account(&self) -> Option<(&str, &str)> {
        match self {
            Self::Pod(pod) => Some((namespace_of(pod), pod.spec.service_account())),
            Self::Set(..) | Self::Host(_) => None,
        }
    }

    /// A label as selectors see it: one of Calico's own, else the object's, else an inherited one.
    pub(super) fn label<'a>(&'a self, world: &'a World, key: &str) -> Option<&'a str> {
        match self {
            Self::Pod(pod) => pod_label(world, pod, key),
            Self::Set(Some(namespace), ..) if key == NAMESPACE => Some(namespace),
            Self::Set(namespace, set, _) => set.metadata.labels.get(key).map(String::as_str).or_else(|| {
                let key = key.strip_prefix(OF_NAMESPACE)?;
                world.namespace_label((*namespace)?, key)
            }),
            Self::Host(host) => {
                let inherited = || {
                    let mut profiles = host.spec.profiles.iter().filter_map(|name| world.profiles.get(name));
                    profiles.find_map(|profile| profile.spec.labels_to_apply.get(key))
                };
                host.metadata.labels.get(key).or_else(inherited).map(String::as_str)
            }
        }
    }

    /// Whether it has a port of that name for that protocol and number.
    pub(super) fn has_port(&self, name: &str, protocol: Protocol, number: u16) -> bool {
        match self {
            Self::Pod(pod) => pod.ports().any(|port| {
                (port.name.as_deref(), port.protocol, port.container_port) == (Some(name), protocol, number)
            }),
            Self::Host(host) => host
                .spec
                .ports
                .iter()
                .any(|port| port.name == name && port.port == number && port.protocol.number() == protocol.number()),
            Self::Set(..) => false,
        }
    }
}

/// A pod's label as selectors see it.
pub(super) fn pod_label<'a>(world: &'a World, pod: &'a Pod, key: &str) -> Option<&'a str> {
    let (namespace, account) = (namespace_of(pod), pod.spec.service_account());
    match key {
        NAMESPACE => Some(namespace),
        ORCHESTRATOR => Some("k8s"),
        SERVICE_ACCOUNT => Some(account),
        _ => pod.metadata.labels.get(key).map(String::as_str).or_else(|| {
            match (key.strip_prefix(OF_NAMESPACE), key.strip_prefix(OF_SERVICE_ACCOUNT)) {
                (Some(key), _) => world.namespace_label(namespace, key),
                (_, Some(key)) => world.account_label(namespace, account, key),
                (None, None) => None,
            }
        }),
    }
}

impl fmt::Display for Member<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(pod) => write!(f, "Pod {}/{}", namespace_of(pod), pod.metadata.name),
            Self::Set(Some(namespace), set, net) => {
                write!(f, "NetworkSet {namespace}/{} by {net}", set.metadata.name)
            }
            Self::Set(None, set, net) => write!(f, "GlobalNetworkSet {} by {net}", set.metadata.name),
            Self::Host(host) => write!(f, "HostEndpoint {}", host.metadata.name),
        }
    }
}

/// A slice of the endpoints of a Service.
pub(super) struct Slice<'a>(&'a EndpointSlice);

/// The slices of a Service. Their endpoints count whether they are ready or not, as in Calico.
pub(super) fn of_service<'a>(world: &'a World, namespace: &'a str, name: &'a str) -> impl Iterator<Item = Slice<'a>> {
    let slices = world.slices.iter().filter(move |((of, _), slice)| of == namespace && slice.service() == Some(name));
    slices.map(|(_, slice)| Slice(slice))
}

impl Slice<'_> {
    pub(super) fn has(&self, address: IpAddr) -> bool {
        self.0.endpoints.iter().any(|endpoint| endpoint.addresses.contains(&address))
    }

    /// Whether its endpoints serve on that port. One without a number is none.
    pub(super) fn serves(&self, protocol: Protocol, number: u16) -> bool {
        self.0.ports.iter().any(|port| port.protocol == protocol && port.port == Some(number))
    }
}
