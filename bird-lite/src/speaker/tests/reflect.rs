//! Route reflectors (RFC 4456): who is told what, what marks it on the way, and how a mesh gives way to them.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::net::{Net, address, address6, block, block6, mesh_config, parse};
use crate::config::{Config, PeerConfig, PeerKind};
use crate::{RibUpdate, State};

const CLUSTER: Ipv4Addr = Ipv4Addr::new(244, 0, 0, 1);

/// One end of a session within the AS.
fn peer(other: usize) -> PeerConfig {
    PeerConfig::new(format!("node{other}"), PeerKind::Node, address(other).into(), 64512)
}

/// A node with these peers; those of `clients` are its clients.
fn node(node: usize, cluster: Option<Ipv4Addr>, peers: &[usize], clients: &[usize]) -> Config {
    let mut config = mesh_config(node, 0);
    config.cluster_id = cluster;
    config.peers = peers.iter().chain(clients).map(|other| peer(*other)).collect();
    for peer in &mut config.peers[peers.len()..] {
        peer.client = true;
    }
    config
}

/// Nodes of which the first two reflect for all others.
fn pair(nodes: usize) -> Vec<Config> {
    let clients: Vec<usize> = (2..nodes).collect();
    let config = |number: usize| match number {
        0 | 1 => node(number, Some(CLUSTER), &[1 - number], &clients),
        _ => node(number, None, &[0, 1], &[]),
    };
    (0..nodes).map(config).collect()
}

/// Everybody reaches every block of both families at the node that has it.
fn assert_whole(net: &Net) {
    let nodes = net.nodes.len();
    for at in 0..nodes {
        for other in (0..nodes).filter(|other| *other != at) {
            assert_eq!(net.hops(at, &block(other)), [IpAddr::V4(address(other))], "{at} to {other}");
            assert_eq!(net.hops(at, &block6(other)), [IpAddr::V6(address6(other))], "{at} to {other}");
        }
    }
}

#[test]
fn clients_of_two_reflectors_reach_each_other_directly() {
    let mut net = Net::new(pair(5));
    net.start_all();
    net.run_seconds(2);
    assert_whole(&net);
    let routes = net.routes(2, &block(3));
    assert_eq!(routes.len(), 2, "one by each reflector: {routes:?}");
    for route in &routes {
        assert_eq!((route.originator_id, route.cluster_list.as_slice()), (Some(address(3)), [CLUSTER].as_slice()));
        assert_eq!((route.local_pref, route.next_hop), (Some(100), Some(address(3).into())));
    }
    assert_eq!(net.routes(0, &block(3)).len(), 2, "from the client, and what the other reflector says of it");
    let looped: Vec<_> = net.routes(0, &block(3)).into_iter().filter(|route| !route.best).collect();
    assert_eq!(looped[0].reason, "not usable: our cluster is in its CLUSTER_LIST");
    assert_eq!(net.routes(3, &block(3)).len(), 1, "nobody is told what it said itself: {:?}", net.routes(3, &block(3)));
}

#[test]
fn one_reflector_dies_and_nothing_changes() {
    let mut net = Net::new(pair(5));
    net.start_all();
    net.run_seconds(2);
    (0..5).for_each(|node| drop(net.take_updates(node)));
    net.vanish(0);
    net.run_seconds(200);
    for node in 2..5 {
        let changes: Vec<_> =
            net.take_updates(node).into_iter().filter(|update| !format!("{update:?}").contains(&block(0))).collect();
        let of_others = |update: &&RibUpdate| !format!("{update:?}").contains(&block6(0));
        assert_eq!(changes.iter().filter(of_others).count(), 0, "{changes:?}");
        assert_eq!(net.hops(node, &block(0)), [] as [IpAddr; 0], "its own block is gone with it");
    }
}

#[test]
fn what_non_clients_say_goes_to_clients_only_and_clusters_pass_it_on() {
    // 2 - 0 = 1 - 3: two clusters with a client each; 4 and 5 are plain peers of the first.
    let other = Ipv4Addr::new(244, 0, 0, 2);
    let mut net = Net::new(vec![
        node(0, Some(CLUSTER), &[1, 4, 5], &[2]),
        node(1, Some(other), &[0], &[3]),
        node(2, None, &[0], &[]),
        node(3, None, &[1], &[]),
        node(4, None, &[0], &[]),
        node(5, None, &[0], &[]),
    ]);
    net.start_all();
    net.run_seconds(2);
    let route = net.routes(3, &block(2)).pop().expect("it passes both reflectors");
    assert_eq!((route.originator_id, route.cluster_list), (Some(address(2)), vec![other, CLUSTER]));
    assert_eq!(net.routes(4, &block(2)).len(), 1, "a client's route goes to everybody");
    assert_eq!(net.routes(2, &block(4)).len(), 1, "everybody's goes to clients");
    assert_eq!(net.routes(5, &block(4)), [], "but between plain peers nothing is reflected");
    assert_eq!(net.routes(3, &block(4)), [], "nor from one to another cluster");
}

#[test]
fn a_ring_of_reflectors_settles() {
    // Each is a client of both others: without CLUSTER_LIST a withdrawal would run for ever.
    let others = |at: usize| (0..3).filter(move |other| *other != at).collect::<Vec<_>>();
    let mut net =
        Net::new((0..3).map(|at| node(at, Some(Ipv4Addr::new(244, 0, 0, at as u8 + 1)), &[], &others(at))).collect());
    net.start_all();
    net.run_seconds(2);
    assert_whole(&net);
    net.configure(0, |config| config.originate.clear());
    net.run_seconds(1);
    for at in 0..3 {
        assert_eq!(net.routes(at, &block(0)), [], "it is gone everywhere");
    }
}

#[test]
fn a_mesh_gives_way_to_a_pair_of_reflectors_and_comes_back_without_a_gap() {
    for apart in [Duration::ZERO, Duration::from_millis(700)] {
        let nodes = 6;
        let mut net = Net::mesh(nodes);
        net.start_all();
        net.run_seconds(2);
        assert_whole(&net);
        (0..nodes).for_each(|node| drop(net.take_updates(node)));
        let since = net.peer(2, 0).since;
        net.configure_in_turn(apart, pair(nodes));
        net.run_seconds(30);
        assert_whole(&net);
        assert_eq!(net.peer(2, 0).since, since, "the session with a reflector is the one of the mesh");
        assert_eq!(net.speaker(2).peers().len(), 2, "the others are gone");
        net.configure_in_turn(apart, (0..nodes).map(|node| mesh_config(node, nodes)).collect());
        net.run_seconds(30);
        assert_whole(&net);
        assert!(net.all_up());
        for node in 0..nodes {
            let changes: Vec<_> = net.take_updates(node);
            assert_eq!(changes, [], "node {node}, {apart:?} apart: the FIB never changed");
        }
    }
}

#[test]
fn a_peer_that_becomes_a_client_is_told_the_rest_without_a_reset() {
    let mut net =
        Net::new(vec![node(0, Some(CLUSTER), &[1, 2], &[]), node(1, None, &[0], &[]), node(2, None, &[0], &[])]);
    net.start_all();
    net.run_seconds(1);
    assert_eq!(net.routes(2, &block(1)), []);
    let since = net.peer(0, 1).since;
    for client in [true, false] {
        net.configure(0, |config| config.peers[0].client = client);
        net.run_seconds(1);
        for (at, of) in [(1, 2), (2, 1)] {
            assert_eq!(net.routes(at, &block(of)).len(), usize::from(client), "{at} of {of}, client: {client}");
        }
    }
    assert_eq!((net.peer(0, 1).since, net.peer(0, 1).state), (since, State::Established));
}

#[test]
fn a_new_cluster_is_told_and_judged_by_without_a_reset() {
    let mut net = Net::new(pair(4));
    net.start_all();
    net.run_seconds(1);
    let since = net.peer(0, 2).since;
    let other = Ipv4Addr::new(244, 0, 0, 9);
    net.configure(0, |config| config.cluster_id = Some(other));
    net.run_seconds(1);
    let clusters: Vec<_> = net.routes(2, &block(3)).into_iter().flat_map(|route| route.cluster_list).collect();
    assert_eq!(clusters, [other, CLUSTER]);
    let routes = net.routes(0, &block(3));
    assert!(routes.iter().all(|route| !route.reason.starts_with("not usable")), "{routes:?}");
    assert_eq!(net.peer(0, 2).since, since);
    assert_eq!(parse(&block(3)).prefix_len(), 26);
}

#[test]
fn a_reflector_without_a_fib_is_asked_for_no_route() {
    let mut net = Net::new(pair(4));
    net.nodes[0].config.writes_fib = false;
    net.start_all();
    net.run_seconds(2);
    assert_eq!(net.routes(2, &block(3)).len(), 2, "it reflects all the same");
    assert_eq!(net.take_updates(0), [RibUpdate::Converged]);
    net.configure(3, |config| config.originate.clear());
    net.run_seconds(1);
    assert_eq!(net.routes(0, &block(3)), [], "and what is gone is gone");
}
