//! Peers that are not there: how often they are tried, and that nothing grows meanwhile.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::net::{Net, address};
use crate::config::{Config, PeerConfig, PeerKind};
use crate::speaker::schedule::Schedule;
use crate::{Action, Event, Speaker, Time};

/// A speaker with so many peers, from 10.0.0.0 up.
fn speaker(peers: u32) -> Speaker {
    let mut config = Config::new(64512, Ipv4Addr::new(172, 31, 0, 1));
    config.next_hop_v4 = Some(Ipv4Addr::new(172, 31, 0, 1));
    config.peers = (0..peers)
        .map(|number| {
            let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 0)) + number);
            PeerConfig::new(format!("node{number}"), PeerKind::Mesh, address.into(), 64512)
        })
        .collect();
    Speaker::new(Duration::ZERO, config, 7)
}

/// What a stretch of time brought: attempts that began, and the most that were under way at once.
#[derive(Debug, Default)]
struct Tally {
    attempts: usize,
    most: usize,
    wakeups: usize,
}

/// Runs `speaker` from `from` until `until`. With `refused` attempts are answered at once, and else not at all.
fn run(speaker: &mut Speaker, from: Time, until: Time, refused: bool) -> Tally {
    let mut tally = Tally::default();
    let mut now = from;
    loop {
        while let Some(action) = speaker.poll_action() {
            if let Action::Connect { connection, .. } = action {
                tally.attempts += 1;
                if refused {
                    speaker.handle_event(now, Event::ConnectFailed { connection, error: "refused".into() });
                }
            }
        }
        tally.most = tally.most.max(speaker.schedule.connecting);
        let Some(next) = speaker.poll_timeout().filter(|next| *next <= until) else { return tally };
        now = now.max(next);
        tally.wakeups += 1;
        speaker.handle_timeout(now);
    }
}

#[test]
fn thousands_of_silent_peers_are_tried_at_a_steady_low_rate() {
    let (warm, hour) = (Duration::from_secs(900), Duration::from_secs(4500));
    for refused in [false, true] {
        let mut speaker = speaker(2000);
        let start = run(&mut speaker, Duration::ZERO, warm, refused);
        assert!(start.most <= 512, "sockets are limited: {start:?}");
        let later = run(&mut speaker, warm, hour, refused);
        assert!((20 * 3600..30 * 3600).contains(&later.attempts), "some 25 attempts a second for an hour: {later:?}");
        assert!(later.most < 512, "{later:?}");
        assert!(speaker.by_connection.len() <= later.most, "nothing is kept of attempts that ended");
    }
}

#[test]
fn a_few_silent_peers_are_tried_every_few_seconds() {
    let mut speaker = speaker(3);
    run(&mut speaker, Duration::ZERO, Duration::from_secs(60), true);
    let later = run(&mut speaker, Duration::from_secs(60), Duration::from_secs(660), true);
    assert!((300..450).contains(&later.attempts), "3 peers, 600 s, a try in 5 s: {later:?}");
}

#[test]
fn a_peer_that_comes_up_is_there_at_once_among_thousands_that_are_not() {
    let mut net = Net::mesh(2);
    for number in 0..1000u32 {
        let absent = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 0)) + number);
        net.nodes[0].config.peers.push(PeerConfig::new(
            format!("absent{number}"),
            PeerKind::Mesh,
            absent.into(),
            64512,
        ));
    }
    net.start(0);
    net.run_seconds(300);
    assert!(!net.is_up(0, 1));
    net.start(1);
    net.run_seconds(1);
    assert!(net.is_up(0, 1), "it connects itself: {:?}", net.peer(0, 1));
    assert_eq!(net.peer(0, 1).address, address(1));
}

#[test]
fn a_schedule_counts_each_peer_once() {
    use crate::rib::PeerId;
    let at = |seconds| Some(Duration::from_secs(seconds));
    let mut schedule = Schedule::default();
    schedule.set(PeerId(1), at(5), true);
    schedule.set(PeerId(1), at(3), true);
    schedule.set(PeerId(2), at(4), false);
    assert_eq!((schedule.next(), schedule.due(Duration::from_secs(4))), (at(3), vec![PeerId(1), PeerId(2)]));
    let usual = Duration::from_millis(10);
    assert_eq!(schedule.long_pause(usual, 0.875), Duration::from_millis(40), "one is unreachable");
    assert_eq!(schedule.long_pause(usual * 8, 0.75), usual * 6, "which changes nothing for a longer pause");
    schedule.remove(PeerId(1));
    assert_eq!((schedule.next(), schedule.long_pause(usual, 1.0)), (at(4), usual));
    schedule.set(PeerId(2), None, false);
    assert_eq!(schedule.next(), None);
}
