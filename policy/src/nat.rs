//! `natOutgoing`: what pods send to anywhere outside all IPPools leaves with an address of the node.
//!
//! Which pool a pod's address is in and whether its destination is in any are two look-ups in interval sets, so that a pool that
//! comes, goes or changes costs elements. The chain and its sets are there only while some pool asks for it. Whether a pool is
//! disabled does not matter: that stops new addresses, not the traffic of those that are there.
//!
//! Policies never see the translated address: it is made after all judging, and undone before on the way back. What a pod sends to
//! its own node does not leave it, and so is not translated.

use std::collections::BTreeSet;

use ipnet::IpNet;
use tortie_nft::{
    Chain, Family, Field, Hook, HookPoint, Key, KeyType, Match, Op, Ruleset, Set, Side, Statement, intervals,
};

use crate::chains::{in_set, rule};
use crate::cluster::Cluster;
use crate::options::{CompileOptions, NatExclusions, NatOutgoing};

/// The chain that translates.
pub(crate) const NAT: &str = "nat_outgoing";

/// The sets of each family: of the pools that ask for it, and of what is reached without.
pub(crate) const NAT_SETS: [(Family, &str, &str); 2] =
    [(Family::V4, "nat4", "nat_exempt4"), (Family::V6, "nat6", "nat_exempt6")];

const TCP: u8 = 6;
const UDP: u8 = 17;

/// Adds the translation to a frame, if a pool asks for it.
pub(crate) fn add_nat(frame: &mut Ruleset, cluster: &Cluster, options: &CompileOptions) {
    let options = &options.nat_outgoing;
    let mut rules = Vec::new();
    for (family, sources, exempt) in NAT_SETS {
        let from = elements(family, cluster.pools().filter(|pool| pool.nat_outgoing).map(|pool| pool.cidr));
        if from.is_empty() {
            continue;
        }
        let nodes = cluster.all_node_addresses().filter(|_| options.exclusions == NatExclusions::IpPoolsAndHostIps);
        let to = elements(family, cluster.pools().map(|pool| pool.cidr).chain(nodes.map(IpNet::from)));
        let key = match family {
            Family::V4 => KeyType::Ipv4Addr,
            Family::V6 => KeyType::Ipv6Addr,
        };
        let reached = match options.exclusions {
            NatExclusions::IpPoolsOnly => "all IPPools: reached by pods with their own addresses",
            NatExclusions::IpPoolsAndHostIps => "all IPPools and nodes: reached by pods with their own addresses",
        };
        for (name, elements, comment) in [(sources, from, "IPPools with natOutgoing"), (exempt, to, reached)] {
            let set = Set { key: vec![key], interval: true, elements, comment: Some(comment.to_owned()) };
            frame.sets.insert(name.to_owned(), set);
        }
        rules.extend(translations(family, options).into_iter().map(|(protocol, statement)| {
            let (saddr, daddr) = match family {
                Family::V4 => (Field::Ip4Saddr, Field::Ip4Daddr),
                Family::V6 => (Field::Ip6Saddr, Field::Ip6Daddr),
            };
            let mut matches =
                vec![Match::NfProto(family), in_set(vec![saddr], Op::Eq, sources), in_set(vec![daddr], Op::Ne, exempt)];
            matches.extend(leaves_by(options));
            matches.extend(protocol.map(|protocol| Match::L4Proto(Op::Eq, protocol)));
            rule(matches, vec![Statement::Counter, statement])
                .commented("natOutgoing: from a pool to outside all pools")
        }));
    }
    if !rules.is_empty() {
        frame.chains.insert(NAT.to_owned(), Chain { hook: Some(Hook::nat(HookPoint::Postrouting, 100)), rules });
    }
}

fn elements(family: Family, nets: impl Iterator<Item = IpNet>) -> BTreeSet<Key> {
    let ranges: Vec<_> = nets.map(|net| (net, Vec::new())).collect();
    match family {
        Family::V4 => intervals::union_v4(&ranges),
        Family::V6 => intervals::union_v6(&ranges),
    }
}

/// What is done to the flows of each protocol, in order; none stands for all that are left.
fn translations(family: Family, options: &NatOutgoing) -> Vec<(Option<u8>, Statement)> {
    let translation = |ports| match options.address {
        Some(address) if family == Family::V4 => Statement::Snat { address: address.into(), ports },
        _ => Statement::Masquerade { ports, fully_random: true },
    };
    let mut translations = Vec::new();
    if options.port_range.is_some() {
        translations.extend([TCP, UDP].map(|protocol| (Some(protocol), translation(options.port_range))));
    }
    translations.push((None, translation(None)));
    translations
}

/// The interface that the translation is limited to. `+` at the end of its name stands for any rest, as iptables has it.
fn leaves_by(options: &NatOutgoing) -> Option<Match> {
    let filter = options.interface_filter.as_deref()?;
    let (name, prefix) = filter.strip_suffix('+').map_or((filter, false), |name| (name, true));
    (!name.is_empty()).then(|| Match::IfName { side: Side::Destination, op: Op::Eq, name: name.to_owned(), prefix })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_filter_is_iptables() {
        let leaves_by = |filter: &str| {
            let options = NatOutgoing { interface_filter: Some(filter.to_owned()), ..NatOutgoing::default() };
            leaves_by(&options).map(|condition| match condition {
                Match::IfName { name, prefix, .. } => (name, prefix),
                other => panic!("{other:?}"),
            })
        };
        assert_eq!(leaves_by("eth0"), Some(("eth0".to_owned(), false)));
        assert_eq!(leaves_by("eth+"), Some(("eth".to_owned(), true)));
        assert_eq!(leaves_by("+"), None);
        assert_eq!(leaves_by(""), None);
    }
}
