//! Speakers that talk to each other over a simulated network, by a virtual clock.

mod absent;
mod net;
mod policy;
mod reflect;
mod restart;

use std::net::IpAddr;
use std::time::Duration;

use self::net::{Net, address, address6, block, block6, mesh_config, parse};
use crate::config::{Config, Originated, PeerConfig, PeerKind};
use crate::wire::Community;
use crate::{Report, RibUpdate, State};

#[test]
fn a_mesh_is_up_at_once_and_every_node_knows_every_block() {
    let mut net = Net::mesh(3);
    net.recorded = true;
    net.start_all();
    net.run(Duration::from_millis(500));
    assert!(net.all_up());
    for node in 0..3 {
        for other in (0..3).filter(|other| *other != node) {
            assert_eq!(net.hops(node, &block(other)), [IpAddr::V4(address(other))]);
            assert_eq!(net.hops(node, &block6(other)), [IpAddr::V6(address6(other))]);
            let view = net.peer(node, other);
            for counts in [view.ipv4, view.ipv6] {
                let counts = counts.expect("both families are carried");
                assert_eq!((counts.received, counts.accepted, counts.advertised), (1, 1, 1));
            }
        }
        let updates = net.take_updates(node);
        assert_eq!(updates.iter().filter(|update| **update == RibUpdate::Converged).count(), 1);
        assert!(!updates.iter().any(|update| matches!(update, RibUpdate::Withdrawn { .. })));
        assert_eq!(net.hops(node, &block(node)), [] as [IpAddr; 0], "our own routes are not the FIB writer's");
    }
}

#[test]
fn nodes_that_start_a_second_apart_are_up_two_seconds_after_the_last() {
    let mut net = Net::mesh(3);
    for node in [2, 0, 1] {
        net.start(node);
        net.run_seconds(1);
    }
    assert!(net.all_up());
}

#[test]
fn sessions_outlive_hours_and_keepalives_hold_them() {
    let mut net = Net::mesh(2);
    net.start_all();
    net.run_seconds(1);
    let since = net.peer(0, 1).since;
    net.run_seconds(4 * 3600);
    assert_eq!((net.is_up(0, 1), net.peer(0, 1).since), (true, since));
}

#[test]
fn what_is_originated_later_spreads_and_what_is_withdrawn_goes() {
    let mut net = Net::mesh(3);
    net.start_all();
    net.run_seconds(1);
    let since = net.peer(1, 0).since;
    let pinned =
        Originated { communities: vec![Community(64512 << 16 | 7)], med: Some(5), ..parse("10.9.9.9/32").into() };
    net.configure(0, |config| config.originate.push(pinned));
    net.run_seconds(1);
    let routes = net.routes(1, "10.9.9.9/32");
    assert_eq!(routes.len(), 1, "an iBGP route is not told on: {routes:?}");
    assert_eq!((routes[0].local_pref, routes[0].med), (Some(100), Some(5)));
    assert_eq!(
        (routes[0].communities.as_slice(), routes[0].reason.as_str()),
        (["64512:7".into()].as_slice(), "the only path")
    );
    net.configure(0, |config| config.originate.retain(|item| item.prefix != parse("10.9.9.9/32")));
    net.run_seconds(1);
    for node in 1..3 {
        assert_eq!(net.hops(node, "10.9.9.9/32"), [] as [IpAddr; 0]);
        assert_eq!(net.routes(node, "10.9.9.9/32"), []);
    }
    assert_eq!(net.peer(1, 0).since, since, "no session was reset");
}

#[test]
fn a_prefix_of_two_nodes_is_reached_through_both_and_survives_one() {
    let mut net = Net::mesh(3);
    for node in 0..2 {
        net.nodes[node].config.originate.push(parse("10.96.0.10/32").into());
    }
    net.start_all();
    net.run_seconds(1);
    assert_eq!(net.hops(2, "10.96.0.10/32"), [IpAddr::V4(address(0)), IpAddr::V4(address(1))]);
    let routes = net.routes(2, "10.96.0.10/32");
    assert_eq!((routes[0].best, routes[0].reason.as_str()), (true, "the lowest BGP identifier"));
    assert_eq!((routes[1].best, routes[1].reason.as_str()), (false, "another has a lower BGP identifier"));
    net.configure(0, |config| config.originate.retain(|item| item.prefix != parse("10.96.0.10/32")));
    net.run_seconds(1);
    assert_eq!(net.hops(2, "10.96.0.10/32"), [IpAddr::V4(address(1))]);
    assert_eq!(net.hops(0, "10.96.0.10/32"), [IpAddr::V4(address(1))], "no longer our own");
    let updates = net.take_updates(2);
    let gone = RibUpdate::Withdrawn { prefix: parse("10.96.0.10/32") };
    assert!(!updates.contains(&gone), "it was never away");
}

#[test]
fn removing_a_peer_ends_its_session_and_its_routes_and_no_other() {
    let mut net = Net::mesh(3);
    net.start_all();
    net.run_seconds(1);
    let since = net.peer(0, 2).since;
    net.configure(0, |config| config.peers.retain(|peer| peer.address != IpAddr::V4(address(1))));
    net.run_seconds(1);
    assert_eq!(net.hops(0, &block(1)), [] as [IpAddr; 0]);
    assert_eq!(net.hops(1, &block(0)), [] as [IpAddr; 0], "Cease does not leave stale routes");
    assert_eq!(net.peer(0, 2).since, since);
    assert!(net.peer(1, 0).last_error.contains("peer de-configured (6/3)") || !net.is_up(1, 0));
    net.configure(0, |config| *config = mesh_config(0, 3));
    net.run_seconds(6);
    assert!(net.all_up());
    assert_eq!(net.hops(1, &block(0)), [IpAddr::V4(address(0))]);
}

#[test]
fn a_stranger_is_refused_with_connection_rejected() {
    let mut net = Net::mesh(2);
    net.nodes[0].config.peers.clear();
    net.start_all();
    net.run_seconds(1);
    assert!(net.nodes[0].reports.iter().any(|report| matches!(report, Report::Refused { .. })));
    assert_eq!(net.peer(1, 0).last_error, "received cease, connection rejected (6/5)");
    assert_eq!(net.peer(1, 0).state, State::Idle);
}

#[test]
fn a_wrong_as_number_is_named_on_both_sides() {
    let mut net = Net::mesh(2);
    net.nodes[0].config.peers[0].remote_as = 64999;
    net.start_all();
    net.run_seconds(3);
    assert!(net.peer(0, 1).last_error.contains("bad peer AS (2/2)"), "{}", net.peer(0, 1).last_error);
    assert!(net.peer(1, 0).last_error.contains("bad peer AS (2/2)"), "{}", net.peer(1, 0).last_error);
}

#[test]
fn both_connect_at_the_same_moment_and_one_session_stays() {
    // Without next hops, neither knows which address is lower, so both try at once.
    for attempt in 0..20 {
        let mut net = Net::mesh(2);
        for node in &mut net.nodes {
            node.config.next_hop_v4 = None;
        }
        net.start(attempt % 2);
        net.run(Duration::from_micros(100 * attempt as u64));
        net.start(1 - attempt % 2);
        net.run_seconds(3);
        assert!(net.all_up(), "attempt {attempt}");
        let since = net.peer(0, 1).since;
        net.run_seconds(120);
        assert_eq!(net.peer(0, 1).since, since, "it does not flap");
    }
}

#[test]
fn a_dead_machine_is_noticed_by_the_hold_timer_and_its_routes_go_at_once() {
    let mut net = Net::mesh(2);
    net.start_all();
    net.run_seconds(1);
    net.vanish(1);
    net.run_seconds(60);
    assert_eq!(net.hops(0, &block(1)), [IpAddr::V4(address(1))]);
    net.run_seconds(31);
    assert_eq!(net.hops(0, &block(1)), [] as [IpAddr; 0]);
    let errors: Vec<_> = net.nodes[0].reports.iter().filter(|report| matches!(report, Report::Down { .. })).collect();
    assert!(
        matches!(errors[..], [Report::Down { reason, retained: false, .. }] if reason.contains("hold timer expired (4/0)")),
        "{errors:?}"
    );
}

/// Three ASes in a row: 65001 - 65002 - 65003.
fn chain() -> Net {
    let configs = (0..3usize).map(|node| {
        let mut config = Config::new(65001 + node as u32, address(node));
        config.next_hop_v4 = Some(address(node));
        config.next_hop_v6 = Some(address6(node));
        config.peers = [node.wrapping_sub(1), node + 1]
            .into_iter()
            .filter(|other| *other < 3)
            .map(|other| {
                PeerConfig::new(format!("as{other}"), PeerKind::Global, address(other).into(), 65001 + other as u32)
            })
            .collect();
        config.originate = vec![parse(&block(node)).into(), parse(&block6(node)).into()];
        config
    });
    Net::new(configs.collect())
}

#[test]
fn routes_pass_through_another_as_with_its_number_and_next_hop() {
    let mut net = chain();
    net.nodes[0].config.originate[0].med = Some(9);
    net.start_all();
    net.run_seconds(2);
    let routes = net.routes(2, &block(0));
    assert_eq!(routes.len(), 1);
    assert_eq!(routes[0].as_path, [65002, 65001]);
    assert_eq!(routes[0].next_hop, Some(IpAddr::V4(address(1))));
    assert_eq!((routes[0].med, routes[0].local_pref), (None, None), "neither leaves its AS");
    assert_eq!(net.routes(1, &block(0))[0].med, Some(9));
    assert_eq!(net.hops(2, &block6(0)), [IpAddr::V6(address6(1))]);
    assert_eq!(net.routes(0, &block(0)).len(), 1, "nobody is told what it said itself");
    net.configure(0, |config| config.originate.clear());
    net.run_seconds(1);
    assert_eq!(net.routes(2, &block(0)), []);
}

#[test]
fn a_peer_whose_path_becomes_the_best_is_no_longer_told_the_other_one() {
    let mut net = chain();
    let shared = "10.99.0.0/24";
    for node in [0, 2] {
        net.nodes[node].config.originate.push(parse(shared).into());
    }
    net.start_all();
    net.run_seconds(2);
    assert_eq!(net.hops(1, shared), [IpAddr::V4(address(0)), IpAddr::V4(address(2))]);
    assert_eq!(net.routes(2, shared).len(), 2, "its own, and what is best in the middle");
    net.configure(0, |config| config.originate.retain(|item| item.prefix != parse(shared)));
    net.run_seconds(1);
    assert_eq!(net.routes(2, shared).len(), 1, "its own only");
    assert_eq!(net.routes(0, shared)[0].as_path, [65002, 65003]);
    assert_eq!(
        (net.peer(1, 0).ipv4.unwrap_or_default().advertised, net.peer(1, 2).ipv4.unwrap_or_default().advertised),
        (3, 2)
    );
}

#[test]
fn well_known_communities_stop_routes() {
    let mut net = chain();
    net.nodes[0].config.originate[0].communities = vec![Community::NO_EXPORT];
    net.nodes[2].config.originate[0].communities = vec![Community::NO_ADVERTISE];
    net.start_all();
    net.run_seconds(2);
    assert_eq!(net.routes(1, &block(0)), [], "NO_EXPORT holds at the border");
    assert_eq!(net.routes(1, &block(2)), []);
    assert_eq!(net.routes(1, &block6(0)).len(), 1);
}

#[test]
fn a_new_next_hop_is_told_without_a_reset() {
    let mut net = Net::mesh(2);
    net.start_all();
    net.run_seconds(1);
    let since = net.peer(1, 0).since;
    net.configure(0, |config| {
        config.next_hop_v4 = Some([10, 1, 1, 1].into());
        config.next_hop_v6 = None;
    });
    net.run_seconds(1);
    assert_eq!(net.hops(1, &block(0)), [IpAddr::from([10, 1, 1, 1])]);
    assert_eq!(net.hops(1, &block6(0)), [] as [IpAddr; 0], "without a next hop it cannot be told");
    assert_eq!(net.peer(1, 0).since, since);
}

#[test]
fn a_passive_peer_waits_and_two_passive_ones_wait_for_ever() {
    let mut net = Net::mesh(2);
    net.nodes[0].config.peers[0].passive = true;
    net.start_all();
    net.run_seconds(1);
    assert!(net.all_up());
    let mut net = Net::mesh(2);
    net.nodes.iter_mut().for_each(|node| node.config.peers[0].passive = true);
    net.start_all();
    net.run_seconds(60);
    assert_eq!(net.peer(0, 1).state, State::Active);
}

#[test]
fn shutdown_with_cease_withdraws_everything() {
    let mut net = Net::mesh(2);
    net.start_all();
    net.run_seconds(1);
    let now = net.now;
    net.speaker(0).shutdown(now, true);
    net.configure(0, |_| {});
    net.run_seconds(1);
    assert_eq!(net.hops(1, &block(0)), [] as [IpAddr; 0]);
    net.run_seconds(60);
    assert!(!net.is_up(1, 0), "it stays down");
}
