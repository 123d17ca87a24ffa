//! Stand-ins for the addresses of pods that have none.
//!
//! The compiled form knows pods by their addresses alone, while selectors select a pod that has none yet, and no network holds it but
//! the whole address space. So that the compiled form says the same, such a pod is given an address that belongs to nobody, and every
//! network that would hold it is written as networks that do not.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use tortie_api::Object;
use tortie_api::calico::{EntityRule, PolicyRule};
use tortie_api::k8s::{ClusterNetworkPolicyPeer, IpBlock, NetworkPolicyPeer, PodIp};

use super::{endpoints, name};
use crate::cluster::{Cluster, PodView};

/// Where stand-ins for IPv4 addresses come from: 240.0.0.0/4 is reserved (RFC 1112), and assigned to nobody.
const STAND_IN_V4: Ipv4Addr = Ipv4Addr::new(240, 0, 0, 1);

/// Where stand-ins for IPv6 addresses come from: 100::/64 is for packets to be discarded (RFC 6666).
const STAND_IN_V6: Ipv6Addr = Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 1);

/// A network that has no pod, stand-ins included.
const NOBODY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

/// The cluster again, with a stand-in of each family for each pod without an address.
pub(super) fn stand_in(cluster: &Cluster, objects: &[Cow<'_, Object>]) -> Cluster {
    let taken: BTreeSet<IpAddr> = cluster.pods().flat_map(PodView::ips).collect();
    let v4 = (u32::from(STAND_IN_V4)..).map(|number| IpAddr::from(Ipv4Addr::from(number)));
    let v6 = (u128::from(STAND_IN_V6)..).map(|number| IpAddr::from(Ipv6Addr::from(number)));
    let free = |address: &IpAddr| !taken.contains(address);
    let mut free = v4.filter(free).zip(v6.filter(free));
    let mut given: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    for pod in endpoints(cluster).filter(|pod| pod.ips().next().is_none()) {
        given.insert(name(pod), free.next().into_iter().flat_map(|(v4, v6)| [v4, v6]).collect());
    }
    let stand_ins: Vec<IpAddr> = given.values().flatten().copied().collect();
    let mut stood_in = Cluster::default();
    for object in objects {
        let mut object = object.clone().into_owned();
        if let Object::Pod(pod) = &mut object {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
            if let Some(addresses) = given.get(&format!("{namespace}/{}", pod.metadata.name))
                && pod.is_endpoint()
            {
                pod.status.pod_ips = addresses.iter().map(|&ip| PodIp { ip }).collect();
            }
        }
        disown(&mut object, &stand_ins);
        stood_in.upsert(&object);
    }
    stood_in
}

/// Writes the networks of an object so that they hold a stand-in if and only if they are the whole address space.
fn disown(object: &mut Object, stand_ins: &[IpAddr]) {
    match object {
        Object::NetworkPolicy(policy) => {
            let ingress = policy.spec.ingress.iter_mut().map(|rule| &mut rule.from);
            let egress = policy.spec.egress.iter_mut().map(|rule| &mut rule.to);
            for peers in ingress.chain(egress) {
                *peers = peers.iter().flat_map(|peer| without_in_peer(peer, stand_ins)).collect();
            }
        }
        Object::ClusterNetworkPolicy(policy) => {
            let ingress = policy.spec.ingress.iter_mut().flat_map(|rule| &mut rule.from);
            let egress = policy.spec.egress.iter_mut().flat_map(|rule| &mut rule.to);
            for peer in ingress.chain(egress) {
                if let ClusterNetworkPolicyPeer::Networks(nets) = peer {
                    *nets = without(nets, stand_ins);
                }
            }
        }
        Object::CalicoNetworkPolicy(policy) | Object::GlobalNetworkPolicy(policy) => {
            disown_rules(&mut policy.spec.ingress, stand_ins);
            disown_rules(&mut policy.spec.egress, stand_ins);
        }
        Object::NetworkSet(set) | Object::GlobalNetworkSet(set) => set.spec.nets = without(&set.spec.nets, stand_ins),
        _ => {}
    }
}

fn disown_rules(rules: &mut [PolicyRule], stand_ins: &[IpAddr]) {
    for rule in rules {
        for EntityRule { nets, not_nets, .. } in [&mut rule.source, &mut rule.destination] {
            if !nets.is_empty() {
                *nets = without(nets, stand_ins);
                if nets.is_empty() {
                    // No network at all would be everybody.
                    nets.push(IpAddr::from(NOBODY).into());
                }
            }
            *not_nets = without(not_nets, stand_ins);
        }
    }
}

/// A peer as peers that hold no stand-in by their block, unless it is the whole address space.
fn without_in_peer(peer: &NetworkPolicyPeer, stand_ins: &[IpAddr]) -> Vec<NetworkPolicyPeer> {
    let Some(block) = &peer.ip_block else { return vec![peer.clone()] };
    let excepts = without(&block.except, stand_ins);
    let parts = without(&[block.cidr], stand_ins).into_iter();
    parts
        .filter(|cidr| !excepts.iter().any(|except| except.contains(cidr)))
        .map(|cidr| {
            let except = excepts.iter().filter(|except| cidr.contains(*except)).copied().collect();
            NetworkPolicyPeer { ip_block: Some(IpBlock { cidr, except }), ..NetworkPolicyPeer::default() }
        })
        .collect()
}

/// The networks less the stand-ins; but the whole address space is everybody.
fn without(nets: &[IpNet], stand_ins: &[IpAddr]) -> Vec<IpNet> {
    let mut todo: Vec<IpNet> = nets.iter().rev().copied().collect();
    let mut parts = Vec::new();
    while let Some(net) = todo.pop() {
        if net.prefix_len() == 0 || !stand_ins.iter().any(|stand_in| net.contains(stand_in)) {
            parts.push(net);
        } else if let Ok(halves) = net.subnets(net.prefix_len() + 1) {
            let halves: Vec<IpNet> = halves.collect();
            todo.extend(halves.into_iter().rev());
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_written_around_the_stand_ins() {
        let without = |nets: &[&str]| {
            let nets: Vec<IpNet> = nets.iter().map(|net| net.parse().expect("a network")).collect();
            let parts = without(&nets, &[IpAddr::from(STAND_IN_V4)]);
            parts.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(without(&["10.0.0.0/8", "::/0", "0.0.0.0/0"]), ["10.0.0.0/8", "::/0", "0.0.0.0/0"]);
        assert_eq!(without(&["240.0.0.0/30"]), ["240.0.0.0/32", "240.0.0.2/31"]);
        assert_eq!(without(&["240.0.0.1/32"]), Vec::<String>::new());
        assert_eq!(without(&["128.0.0.0/1"]).len(), 31);
    }
}
