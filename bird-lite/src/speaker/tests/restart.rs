//! Graceful restart, from both sides.

use std::net::IpAddr;
use std::time::Duration;

use super::net::{Net, address, block, block6, parse};
use crate::{Report, RibUpdate};

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
    // It selects only after all have told it what they know.
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
    net.start_all();
    net.run_seconds(5);
    net.kill(0);
    // Node 2 is away as well, so node 0 defers its End-of-RIB when it is back, while its own routes go at once.
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
fn the_deferral_timer_bounds_the_wait_for_a_dead_peer() {
    let mut net = Net::mesh(3);
    net.start_all();
    net.run_seconds(5);
    net.kill(0);
    net.vanish(2);
    net.nodes[0].fib.clear();
    net.take_updates(0);
    net.nodes[0].config.restarting = true;
    net.start(0);
    net.run_seconds(59);
    assert_eq!(net.take_updates(0), [], "routes are not selected yet");
    net.run_seconds(2);
    assert_eq!(net.take_updates(0).last(), Some(&RibUpdate::Converged));
    assert_eq!(net.hops(0, &block(1)), [IpAddr::V4(address(1))]);
    let missing = vec!["node2".to_owned()];
    assert!(net.nodes[0].reports.contains(&Report::Converged { missing }));
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
fn an_own_prefix_is_told_at_once_although_selection_is_deferred() {
    let mut net = Net::mesh(3);
    net.nodes[1].config.originate.push(parse("10.96.0.1/32").into());
    net.start(1);
    net.nodes[0].config.restarting = true;
    net.start(0);
    // Node 2 never runs.
    net.run_seconds(5);
    assert_eq!(net.hops(1, &block(0)), [IpAddr::V4(address(0))]);
    assert_eq!(net.hops(0, "10.96.0.1/32"), [] as [IpAddr; 0]);
    net.run_seconds(60);
    assert_eq!(net.hops(0, "10.96.0.1/32"), [IpAddr::V4(address(1))]);
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
