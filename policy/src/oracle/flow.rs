//! A flow between two ends, found in the world.

use std::net::IpAddr;

use tortie_api::k8s::{Pod, PolicyType};
use tortie_nft::Family;

use super::judge::Judge;
use super::question::{End, Error, Question, Traffic};
use super::world::{family_of, name_of};

/// One end of a flow, found.
#[derive(Debug, Clone)]
pub(super) struct Party<'a> {
    /// What to call it: `NAMESPACE/POD`, or the address.
    pub(super) name: String,
    /// The pod whose policies govern this end, if it is a pod on the pod network.
    pub(super) pod: Option<&'a Pod>,
    /// Every pod that has, or claims, the address: what selectors find there.
    pub(super) pods: Vec<&'a Pod>,
    /// Its address in the flow's family.
    pub(super) address: Option<IpAddr>,
    /// The node it is on, or is.
    pub(super) node: Option<&'a str>,
}

/// A flow between two ends that were found.
#[derive(Debug, Clone)]
pub(super) struct Flow<'a> {
    pub(super) from: Party<'a>,
    pub(super) to: Party<'a>,
    pub(super) traffic: Traffic,
    pub(super) family: Family,
    /// Whether people want to know: then misfits say what would have fitted.
    pub(super) telling: bool,
}

impl<'a> Flow<'a> {
    /// The end whose policies are asked in this direction.
    pub(super) fn governed(&self, direction: PolicyType) -> &Party<'a> {
        match direction {
            PolicyType::Egress => &self.from,
            PolicyType::Ingress => &self.to,
        }
    }

    /// The other end.
    pub(super) fn other(&self, direction: PolicyType) -> &Party<'a> {
        match direction {
            PolicyType::Egress => &self.to,
            PolicyType::Ingress => &self.from,
        }
    }
}

/// Finds both ends of what is asked, in a family that they share.
pub(super) fn find<'a>(judge: &Judge<'a>, question: &Question, telling: bool) -> Result<Flow<'a>, Error> {
    let (from, to) = (end(judge, &question.from)?, end(judge, &question.to)?);
    // A pod without any address may have either.
    let has = |ips: &[IpAddr], family| ips.is_empty() || ips.iter().any(|ip| family_of(*ip) == family);
    let families = question.family.map_or(vec![Family::V4, Family::V6], |family| vec![family]);
    let common = families
        .into_iter()
        .find(|&family| has(&from.addresses, family) && has(&to.addresses, family) && question.traffic.is_in(family));
    let Some(family) = common else {
        let (from, to) = (question.from.to_string(), question.to.to_string());
        let asked = match (question.family, question.traffic) {
            (Some(Family::V4), _) => ": asked for IPv4",
            (Some(Family::V6), _) => ": asked for IPv6",
            (None, Traffic::Icmp { family: Family::V4, .. }) => ": ICMP is of IPv4",
            (None, Traffic::Icmp { family: Family::V6, .. }) => ": ICMPv6 is of IPv6",
            (None, _) => "",
        };
        return Err(Error::NoCommonFamily { from, to, asked });
    };
    Ok(Flow {
        from: from.party(judge, family),
        to: to.party(judge, family),
        traffic: question.traffic,
        family,
        telling,
    })
}

/// An end before the family is known.
struct Found<'a> {
    name: String,
    pod: Option<&'a Pod>,
    addresses: Vec<IpAddr>,
    node: Option<&'a str>,
}

impl<'a> Found<'a> {
    fn party(self, judge: &Judge<'a>, family: Family) -> Party<'a> {
        let address = self.addresses.iter().copied().find(|ip| family_of(*ip) == family);
        let mut pods: Vec<&Pod> = self.pod.into_iter().collect();
        if let Some(address) = address {
            let others = judge.pods_at(address).iter().copied();
            pods.extend(others.filter(|pod| !self.pod.is_some_and(|own| std::ptr::eq(own, *pod))));
        }
        Party { name: self.name, pod: self.pod, pods, address, node: self.node }
    }
}

fn end<'a>(judge: &Judge<'a>, end: &End) -> Result<Found<'a>, Error> {
    let world = judge.world;
    match end {
        End::Pod { namespace, name } => {
            let pod = world.pods.get(&(namespace.clone(), name.clone()));
            let pod = pod.ok_or_else(|| Error::NoSuchPod(end.to_string()))?;
            if !pod.is_endpoint() && !pod.spec.host_network {
                return Err(Error::Ended(end.to_string()));
            }
            let node = pod.spec.node_name.as_deref().filter(|node| !node.is_empty());
            let mut addresses = pod.addresses();
            if addresses.is_empty() && !pod.is_endpoint() {
                addresses.extend(node.and_then(|node| world.nodes.get(node)).into_iter().flatten());
            }
            Ok(Found { name: name_of(pod), pod: pod.is_endpoint().then_some(pod), addresses, node })
        }
        End::Address(address) => {
            let pod = judge.pods_at(*address).first().copied();
            let node = match pod {
                Some(pod) => pod.spec.node_name.as_deref().filter(|node| !node.is_empty()),
                None => world.node_at(*address),
            };
            let name = pod.map_or_else(|| address.to_string(), name_of);
            Ok(Found { name, pod, addresses: vec![*address], node })
        }
    }
}
