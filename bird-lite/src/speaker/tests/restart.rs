//! Graceful restart, from both sides.

use std::net::IpAddr;
use std::time::Duration;

use super::net::{Net, address, address6, block, block6, parse};
use crate::{Awaited, Originated, PeerConfig, PeerKind, Report, RibUpdate};

/// Puts a node into another AS, with sessions to node 0 only.
fn make_external(net: &mut Net, node: usize) {
    for other in 1..net.nodes.len() {
        let name = format!("node{}", if other == node { 0 } else { node });
        net.nodes[other].config.peers.retain(|peer| (peer.name == name) == (other == node));
    }
    for other in &mut net.nodes {
        let to_it = other.config.peers.iter_mut().filter(|peer| peer.name == format!("node{node}"));
        to_it.for_each(|peer| peer.remote_as = 65_000);
    }
    let config = &mut net.nodes[node].config;
    config.local_as = 65_000;
    config.peers.iter_mut().for_each(|peer| peer.remote_as = 64_512);
}

/// Prefixes that a node originates besides its blocks.
fn originate(net: &mut Net, node: usize, prefixes: &[&str], local_pref: u32) {
    let more = prefixes.iter().map(|prefix| Originated { local_pref: Some(local_pref), ..parse(prefix).into() });
    net.nodes[node].config.originate.extend(more);
}

/// A mesh that has run, whose node 0 was killed and is about to start as a restarting speaker.
fn killed(nodes: usize, prepare: impl FnOnce(&mut Net)) -> Net {
    let mut net = Net::mesh(nodes);
    prepare(&mut net);
    net.start_all();
    net.run_seconds(5);
    net.kill(0);
    net.run_seconds(1);
    net.take_updates(0);
    net.nodes[0].config.restarting = true;
    net
}

fn is_about(update: &RibUpdate, prefix: &str) -> bool {
    matches!(update, RibUpdate::Best { prefix: found, .. } | RibUpdate::Withdrawn { prefix: found } if *found == parse(prefix))
}

const ROUTE: &str = "10.96.0.1/32";
const ROUTE6: &str = "fd00:96::1/128";

fn is_lossless(updates: &[RibUpdate]) -> bool {
    !updates.iter().any(|update| matches!(update, RibUpdate::Withdrawn { .. }))
}

#[test]
fn a_killed_speaker_that_comes_back_costs_its_peers_nothing() {
    let mut net = Net::mesh(3);
    net.start_all();
    net.run_seconds(5);
    (0..3).for_each(|node| drop(net.take_updates(node)));
    net.kill(0);
    net.run_seconds(10);
    assert!(net.routes(1, &block(0))[0].stale);
    assert!(net.nodes[1].reports.iter().any(|report| matches!(report, Report::Down { retained: true, .. })));
    net.nodes[0].config.restarting = true;
    net.start(0);
    net.run_seconds(6);
    assert!(net.all_up());
    assert!(!net.routes(1, &block(0))[0].stale);
    for node in 1..3 {
        assert_eq!(net.take_updates(node), [], "no route moved");
    }
    let updates = net.take_updates(0);
    assert_eq!(updates.last(), Some(&RibUpdate::Converged));
    assert_eq!(updates.len(), 5, "two blocks of two nodes, then Converged: {updates:?}");
}

#[test]
fn what_it_does_not_announce_again_goes_at_its_end_of_rib() {
    let mut net = Net::mesh(2);
    net.start_all();
    net.run_seconds(5);
    net.kill(0);
    net.nodes[0].config.restarting = true;
    net.nodes[0].config.originate.remove(0);
    net.start(0);
    net.run_seconds(3);
    assert_eq!(net.hops(1, &block(0)), [] as [IpAddr; 0]);
    assert_ne!(net.hops(1, &block6(0)), [] as [IpAddr; 0]);
}

#[test]
fn without_its_forwarding_state_the_old_routes_go_at_once() {
    let mut net = Net::mesh(2);
    net.start_all();
    net.run_seconds(5);
    net.take_updates(1);
    net.kill(0);
    // Not restarting: a machine that booted.
    net.start(0);
    net.run_seconds(3);
    let updates = net.take_updates(1);
    assert!(!is_lossless(&updates), "swept when the F bit is missing: {updates:?}");
    assert_ne!(net.hops(1, &block(0)), [] as [IpAddr; 0], "and learned again");
}

#[test]
fn one_that_does_not_come_back_loses_its_routes_after_its_restart_time() {
    let mut net = Net::mesh(2);
    net.start_all();
    net.run_seconds(5);
    net.kill(0);
    net.run_seconds(119);
    assert_ne!(net.hops(1, &block(0)), [] as [IpAddr; 0]);
    net.run_seconds(2);
    assert_eq!(net.hops(1, &block(0)), [] as [IpAddr; 0]);
}

#[test]
fn one_that_dies_again_before_its_end_of_rib_keeps_only_what_it_confirmed() {
    let mut net = Net::mesh(3);
    make_external(&mut net, 2);
    net.start_all();
    net.run_seconds(5);
    net.kill(0);
    // Node 2, of whose routes node 1 would be told, is away as well, so node 0 defers its End-of-RIB, while its own routes go at once.
    net.vanish(2);
    net.nodes[0].config.restarting = true;
    net.nodes[0].config.originate.remove(0);
    net.start(0);
    net.run_seconds(10);
    assert!(net.is_up(1, 0));
    assert!(net.routes(1, &block(0))[0].stale, "its End-of-RIB is deferred");
    assert!(!net.routes(1, &block6(0))[0].stale);
    net.kill(0);
    net.run_seconds(1);
    assert_eq!(net.routes(1, &block(0)), [], "stale twice is gone");
    assert!(net.routes(1, &block6(0))[0].stale);
}

#[test]
fn a_dead_peer_holds_back_the_sweep_and_nothing_else() {
    let mut net = killed(3, |_| {});
    net.vanish(2);
    net.configure(1, |config| config.originate.push(parse(ROUTE).into()));
    net.start(0);
    net.run_seconds(1);
    assert_eq!(net.hops(0, ROUTE), [IpAddr::V4(address(1))], "a new route goes into the FIB at once");
    net.configure(1, |config| config.originate.retain(|own| own.prefix != parse(ROUTE)));
    net.run(Duration::from_millis(100));
    assert_eq!(net.hops(0, ROUTE), [] as [IpAddr; 0], "and out of it");
    net.run_seconds(58);
    assert!(!net.take_updates(0).contains(&RibUpdate::Converged));
    assert_eq!(net.hops(0, &block(2)), [IpAddr::V4(address(2))], "nobody has confirmed it, and it stays");
    net.run_seconds(2);
    assert_eq!(net.take_updates(0), [RibUpdate::Converged]);
    assert_eq!(net.hops(0, &block(2)), [] as [IpAddr; 0], "swept");
    assert_eq!(net.hops(0, &block(1)), [IpAddr::V4(address(1))]);
    let missing = vec!["node2".to_owned()];
    assert!(net.nodes[0].reports.contains(&Report::Converged { missing }));
}

#[test]
fn a_dead_peer_without_routes_in_the_fib_delays_nothing_for_long() {
    let mut net = killed(3, |net| net.nodes[2].config.originate.clear());
    net.vanish(2);
    net.start(0);
    net.run_seconds(4);
    assert!(!net.take_updates(0).contains(&RibUpdate::Converged), "it may come yet");
    net.run_seconds(2);
    assert_eq!(net.take_updates(0), [RibUpdate::Converged], "nothing is left to sweep");
}

#[test]
fn a_route_that_moved_is_replaced_at_once_when_its_old_peer_has_spoken() {
    let mut net = killed(4, |net| originate(net, 1, &[ROUTE, ROUTE6], 100));
    net.vanish(3);
    net.configure(1, |config| config.originate.truncate(2));
    net.configure(2, |config| config.originate.extend([ROUTE, ROUTE6].map(|prefix| parse(prefix).into())));
    net.start(0);
    net.run_seconds(1);
    assert_eq!(net.hops(0, ROUTE), [IpAddr::V4(address(2))]);
    // Its gateway is no peer's address, but the next hop of other routes of a peer that has finished.
    assert_eq!(net.hops(0, ROUTE6), [IpAddr::V6(address6(2))]);
}

#[test]
fn a_better_path_than_the_kept_one_replaces_it_at_once() {
    let mut net = killed(3, |net| originate(net, 1, &[ROUTE, ROUTE6], 100));
    // Node 1 has restarted as well, and does not end what it tells before long: it waits for a peer outside.
    net.kill(1);
    net.nodes[1].config.restarting = true;
    let outside = PeerConfig::new("outside", PeerKind::Global, "192.0.2.1".parse().expect("an address"), 65_000);
    net.nodes[1].config.peers.push(outside);
    net.start(1);
    net.configure(2, |config| {
        let better = [ROUTE, ROUTE6].map(|prefix| Originated { local_pref: Some(200), ..parse(prefix).into() });
        config.originate.extend(better);
    });
    net.start(0);
    net.run_seconds(1);
    let restart = net.speaker(0).deferral().expect("under way");
    assert_eq!(restart.waiting, [("node1".to_owned(), Awaited::Telling)]);
    assert_eq!(net.hops(0, ROUTE), [IpAddr::V4(address(2))]);
    assert_eq!(net.hops(0, ROUTE6), [IpAddr::V6(address6(2))]);
}

#[test]
fn a_kept_route_does_not_flap_to_a_worse_path_while_its_peer_is_slow() {
    let mut net = killed(3, |net| {
        originate(net, 1, &[ROUTE, ROUTE6], 200);
        originate(net, 2, &[ROUTE, ROUTE6], 100);
    });
    assert_eq!(net.hops(0, ROUTE), [IpAddr::V4(address(1))]);
    net.cut = Some((0, 1));
    net.start(0);
    net.run_seconds(4);
    assert!(net.is_up(0, 2));
    net.cut = None;
    net.run_seconds(10);
    let updates = net.take_updates(0);
    for (prefix, hop) in [(ROUTE, IpAddr::V4(address(1))), (ROUTE6, IpAddr::V6(address6(1)))] {
        let about: Vec<_> = updates.iter().filter(|update| is_about(update, prefix)).collect();
        assert_eq!(about, [&RibUpdate::Best { prefix: parse(prefix), next_hops: vec![hop] }], "confirmed, no more");
    }
    assert_eq!(updates.last(), Some(&RibUpdate::Converged));
}

#[test]
fn a_kept_route_gives_way_when_its_peer_is_absent_and_comes_back_with_it() {
    let mut net = killed(3, |net| {
        originate(net, 1, &[ROUTE, ROUTE6], 200);
        originate(net, 2, &[ROUTE, ROUTE6], 100);
    });
    net.cut = Some((0, 1));
    net.start(0);
    net.run_seconds(6);
    assert_eq!(net.hops(0, ROUTE), [IpAddr::V4(address(2))]);
    assert_eq!(net.hops(0, ROUTE6), [IpAddr::V6(address6(2))]);
    assert_eq!(net.hops(0, &block(1)), [IpAddr::V4(address(1))], "for which there is no other path");
    net.cut = None;
    net.run_seconds(10);
    assert_eq!(net.hops(0, ROUTE), [IpAddr::V4(address(1))]);
    assert_eq!(net.take_updates(0).last(), Some(&RibUpdate::Converged), "it was the last one");
}

#[test]
fn others_are_told_what_peers_say_once_all_that_are_there_have_spoken() {
    // Node 3 is in another AS, and learns from node 0 what the others say.
    let mut net = killed(4, |net| {
        make_external(net, 3);
        net.nodes[0].config.originate.push(parse(ROUTE).into());
    });
    assert_ne!(net.hops(3, &block(2)), [] as [IpAddr; 0]);
    net.vanish(2);
    net.nodes[0].config.originate.retain(|own| own.prefix != parse(ROUTE));
    net.configure(1, |config| config.originate.push(parse("10.97.0.0/24").into()));
    net.take_updates(3);
    net.start(0);
    net.run_seconds(4);
    assert_eq!(net.hops(3, "10.97.0.0/24"), [] as [IpAddr; 0], "selection may change it");
    // The mesh is told nothing of what its other members say: the End-of-RIB for it has come.
    assert_eq!(net.hops(1, ROUTE), [] as [IpAddr; 0]);
    net.run_seconds(2);
    assert_ne!(net.hops(3, "10.97.0.0/24"), [] as [IpAddr; 0], "the dead one is not waited for");
    assert_ne!(net.hops(3, &block(2)), [] as [IpAddr; 0], "its routes are still in our FIB: no End-of-RIB yet");
    net.run_seconds(55);
    assert_eq!((net.hops(3, &block(2)), net.hops(3, ROUTE)), (vec![], vec![]));
    assert_ne!(net.hops(3, &block(1)), [] as [IpAddr; 0]);
    let withdrawn = net.take_updates(3).into_iter().filter(|update| matches!(update, RibUpdate::Withdrawn { .. }));
    assert_eq!(withdrawn.count(), 3, "node 2's two blocks and what is no longer our own: no route flapped");
}

#[test]
fn a_restart_shows_whom_it_waits_for() {
    let mut net = killed(3, |_| {});
    net.vanish(2);
    net.start(0);
    let restart = net.speaker(0).deferral().expect("under way");
    let expected = |name: &str| (name.to_owned(), Awaited::Expected);
    assert_eq!((restart.waiting, restart.unconfirmed), (vec![expected("node1"), expected("node2")], 4));
    net.run_seconds(6);
    let restart = net.speaker(0).deferral().expect("under way");
    assert_eq!((restart.waiting, restart.unconfirmed), (vec![("node2".to_owned(), Awaited::Absent)], 2));
    assert_eq!(restart.deadline, net.now + Duration::from_secs(54));
    net.run_seconds(55);
    assert_eq!(net.speaker(0).deferral(), None);
}

#[test]
fn all_restart_at_once_and_none_waits_for_the_others() {
    let mut net = Net::mesh(3);
    net.start_all();
    net.run_seconds(5);
    for node in 0..3 {
        net.kill(node);
        net.nodes[node].config.restarting = true;
        net.take_updates(node);
    }
    net.start_all();
    net.run_seconds(5);
    for node in 0..3 {
        let updates = net.take_updates(node);
        assert_eq!((updates.len(), updates.last()), (5, Some(&RibUpdate::Converged)), "all blocks come before it");
    }
}

#[test]
fn a_new_session_while_the_old_one_seems_up_is_a_restart() {
    let mut net = Net::mesh(2);
    net.start_all();
    net.run_seconds(10);
    net.take_updates(1);
    // Node 0 dies without its kernel closing anything, and is back before the hold time.
    net.vanish(0);
    net.nodes[0].config.restarting = true;
    net.run_seconds(5);
    assert!(net.is_up(1, 0));
    net.start(0);
    net.run_seconds(3);
    assert!(net.is_up(0, 1) && net.is_up(1, 0));
    assert_eq!(net.take_updates(1), [], "nothing moved");
    let restarted =
        |report: &Report| matches!(report, Report::Down { reason, retained: true, .. } if reason.contains("restarted"));
    assert!(net.nodes[1].reports.iter().any(restarted));
}

#[test]
fn a_dropped_session_between_live_speakers_flaps_no_route() {
    let mut net = Net::mesh(2);
    net.start_all();
    net.run_seconds(10);
    (0..2).for_each(|node| drop(net.take_updates(node)));
    net.cut = Some((0, 1));
    let now = net.now;
    net.speaker(0).shutdown(now, false);
    net.configure(0, |_| {});
    net.run_seconds(5);
    assert!(net.routes(1, &block(0))[0].stale);
    net.cut = None;
    net.nodes[0].config.restarting = true;
    net.start(0);
    net.run_seconds(6);
    assert!(net.is_up(1, 0));
    assert_eq!(net.take_updates(1), []);
}

#[test]
fn one_that_asks_for_no_time_gets_none() {
    let mut net = Net::mesh(2);
    net.nodes[0].config.restart_time = Duration::ZERO;
    net.start_all();
    net.run_seconds(5);
    net.kill(0);
    net.run(Duration::from_millis(100));
    assert_eq!(net.routes(1, &block(0)), []);
    assert!(net.nodes[1].reports.iter().any(|report| matches!(report, Report::Down { retained: false, .. })));
}
