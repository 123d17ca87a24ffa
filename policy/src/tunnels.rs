//! Who may send this node packets of an overlay: the nodes of the cluster, and nobody else.
//!
//! ```text
//! prerouting -302   tunnels_untracked_in    VXLAN of nodes is left out of conntrack
//! output     -302   tunnels_untracked_out   likewise: each flow inside would be one more outside
//! input        -3   tunnels                 packets of an overlay that come from elsewhere are dropped
//! ```
//!
//! A packet that comes out of an overlay counts as one that another node has judged, so whoever could send one could be any pod. What pods
//! send is dropped by the guard already. The chains are there only while an overlay is in use, and the addresses of nodes are two
//! sets, so that a node that comes or goes costs elements.

use std::collections::BTreeSet;
use std::net::IpAddr;

use tortie_api::calico::Tunnel;
use tortie_nft::{
    Chain, Family, Field, Hook, HookPoint, KeyType, Match, Op, Rule, Ruleset, Set, Side, Statement, Value, Verdict,
};

use crate::chains::{drop, in_set, rule, verdict};
use crate::cluster::Cluster;
use crate::denied::Reason;
use crate::options::CompileOptions;

const TUNNELS: &str = "tunnels";
const UNTRACKED_IN: &str = "tunnels_untracked_in";
const UNTRACKED_OUT: &str = "tunnels_untracked_out";

/// The chains.
pub(crate) const CHAINS: [&str; 3] = [TUNNELS, UNTRACKED_IN, UNTRACKED_OUT];

/// The sets of nodes' addresses.
pub(crate) const NODE_SETS: [(Family, &str); 2] = [(Family::V4, "tunnel_nodes4"), (Family::V6, "tunnel_nodes6")];

const IPIP: u8 = 4;
const UDP: u8 = 17;

/// The overlays that packets may come by: those that pools use, and those that some did a moment ago.
fn in_use(cluster: &Cluster, options: &CompileOptions) -> BTreeSet<Tunnel> {
    cluster.pools().filter_map(|pool| pool.tunnel).chain(options.tunnels.iter().copied()).collect()
}

fn fields(family: Family) -> (Field, Field) {
    match family {
        Family::V4 => (Field::Ip4Saddr, Field::Ip4Daddr),
        Family::V6 => (Field::Ip6Saddr, Field::Ip6Daddr),
    }
}

/// What of a packet says that it is one of the overlay's.
fn of_overlay(tunnel: Tunnel, family: Family, options: &CompileOptions) -> Vec<Match> {
    if tunnel == Tunnel::Ipip {
        return vec![Match::NfProto(family), Match::L4Proto(Op::Eq, IPIP)];
    }
    let (first, last) = (options.vxlan_port, options.vxlan_port);
    let port = Match::Port { side: Side::Destination, op: Op::Eq, first, last };
    vec![Match::NfProto(family), Match::L4Proto(Op::Eq, UDP), port]
}

/// The overlays in use, each with the set of the nodes that may use it.
fn overlays(cluster: &Cluster, options: &CompileOptions) -> Vec<(Tunnel, Family, &'static str)> {
    let in_use = in_use(cluster, options);
    NODE_SETS
        .into_iter()
        .flat_map(|(family, set)| {
            let of_family = move |tunnel: &&Tunnel| tunnel.is_ipv4() == (family == Family::V4);
            in_use.iter().filter(of_family).map(move |tunnel| (*tunnel, family, set)).collect::<Vec<_>>()
        })
        .collect()
}

/// Adds what the overlays in use need.
pub(crate) fn add_tunnels(frame: &mut Ruleset, cluster: &Cluster, options: &CompileOptions) {
    let overlays = overlays(cluster, options);
    if overlays.is_empty() {
        return;
    }
    let (mut others, mut untracked_in, mut untracked_out) = (Vec::new(), Vec::new(), Vec::new());
    for (tunnel, family, set) in overlays {
        let key = if family == Family::V4 { KeyType::Ipv4Addr } else { KeyType::Ipv6Addr };
        let of_family = |address: &IpAddr| address.is_ipv4() == (family == Family::V4);
        let elements =
            cluster.all_node_addresses().filter(of_family).map(|address| vec![Value::Addr(address)]).collect();
        let comment = Some("the nodes of the cluster, which may send packets of overlays".to_owned());
        frame.sets.insert(set.to_owned(), Set { key: vec![key], interval: false, elements, comment });
        let (saddr, daddr) = fields(family);
        let with = |field: Field, op: Op| {
            let mut matches = of_overlay(tunnel, family, options);
            matches.push(in_set(vec![field], op, set));
            matches
        };
        let why = format!("{} that no node of the cluster sent", tunnel.as_str());
        others.push(drop(Reason::Tunnelled, with(saddr, Op::Ne), &why));
        if tunnel.is_vxlan() {
            let comment = format!("{} between nodes needs no conntrack", tunnel.as_str());
            let untracked = |field| rule(with(field, Op::Eq), vec![Statement::NoTrack]).commented(&comment);
            untracked_in.push(untracked(saddr));
            untracked_out.push(untracked(daddr));
        }
    }
    let mut chain = |name: &str, point, priority, rules: Vec<Rule>| {
        if !rules.is_empty() {
            frame.chains.insert(name.to_owned(), Chain { hook: Some(Hook::filter(point, priority)), rules });
        }
    };
    chain(TUNNELS, HookPoint::Input, -3, others);
    chain(UNTRACKED_IN, HookPoint::Prerouting, -302, untracked_in);
    chain(UNTRACKED_OUT, HookPoint::Output, -302, untracked_out);
}

/// Lets packets of overlays between nodes pass the policies of host endpoints: which nodes may send them is decided above, and what
/// is inside is judged by itself. `side` is where the other node is.
pub(crate) fn pass(cluster: &Cluster, options: &CompileOptions, side: Side) -> Vec<Rule> {
    overlays(cluster, options)
        .into_iter()
        .map(|(tunnel, family, set)| {
            let (saddr, daddr) = fields(family);
            let node = if side == Side::Source { saddr } else { daddr };
            let mut matches = of_overlay(tunnel, family, options);
            matches.push(in_set(vec![node], Op::Eq, set));
            verdict(matches, Verdict::Accept).commented(&format!("{} between nodes", tunnel.as_str()))
        })
        .collect()
}
