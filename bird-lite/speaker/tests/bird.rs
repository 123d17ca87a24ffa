//! Our speaker and a real BIRD 2: sessions, routes, and everything that can go wrong between them.

mod common;

use std::net::IpAddr;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::sync::mpsc;
use tortie_bird_speaker::{Password, RibUpdate, Speaker, State};

use self::common::netns::in_namespace;
use self::common::{BIRD, Bird, config, wait_peer, wait_routes, wait_up};

/// What the updates make of a FIB, and whether a route was ever withdrawn.
fn drain(updates: &mut mpsc::Receiver<RibUpdate>) -> Vec<RibUpdate> {
    std::iter::from_fn(|| updates.try_recv().ok()).collect()
}

fn withdrawals(updates: &[RibUpdate]) -> usize {
    updates.iter().filter(|update| matches!(update, RibUpdate::Withdrawn { .. })).count()
}

/// Both families both ways, then a withdrawal each way.
async fn exchange(bird: &Bird, speaker: &tortie_bird_speaker::Handle, updates: &mut mpsc::Receiver<RibUpdate>) {
    let peer = wait_up(speaker).await;
    assert_eq!(peer.families.keys().collect::<Vec<_>>(), ["ipv4", "ipv6"], "one session carries both");
    let routes = wait_routes(speaker, |routes| routes.len() == 2).await;
    assert_eq!(routes[0].prefix.to_string(), "10.8.0.0/24");
    assert_eq!(routes[0].next_hop, Some(IpAddr::V4(BIRD)));
    assert_eq!(routes[1].next_hop, Some("fd00::2".parse().expect("an address")));
    bird.wait("show route protocol tortie", |text| text.contains("10.7.0.0/26") && text.contains("fd00:7::/122")).await;
    let detail = bird.wait("show route all for fd00:7::/122", |text| text.contains("BGP.next_hop")).await;
    assert!(detail.contains("BGP.next_hop: fd00::1") && detail.contains("BGP.local_pref: 100"), "{detail}");
    let peer = wait_peer(speaker, |peer| peer.families["ipv4"].advertised == 1).await;
    assert_eq!((peer.families["ipv6"].received, peer.families["ipv6"].accepted), (1, 1));

    let mut fewer = config();
    fewer.originate.pop();
    speaker.configure(fewer).await;
    bird.wait("show route protocol tortie", |text| !text.contains("fd00:7::/122")).await;
    bird.ask("disable own6");
    wait_routes(speaker, |routes| routes.len() == 1).await;
    let since = wait_up(speaker).await.since;
    assert_eq!(since, peer.since, "no reset");
    let seen = drain(updates);
    assert_eq!(seen.iter().filter(|update| **update == RibUpdate::Converged).count(), 1, "{seen:?}");
    assert_eq!(withdrawals(&seen), 1, "{seen:?}");
}

#[test]
fn we_connect_to_bird() {
    in_namespace(|| async {
        let bird = Bird::start("passive on;", "");
        let (speaker, mut updates) = Speaker::spawn(config());
        exchange(&bird, &speaker, &mut updates).await;
        speaker.shutdown(true).await;
        bird.wait("show protocols all tortie", |text| text.contains("Received: Administrative shutdown")).await;
    });
}

#[test]
fn bird_connects_to_us() {
    in_namespace(|| async {
        let mut passive = config();
        passive.peers[0].passive = true;
        let (speaker, mut updates) = Speaker::spawn(passive);
        let bird = Bird::start("", "");
        exchange(&bird, &speaker, &mut updates).await;
    });
}

#[test]
fn both_connect_and_the_session_stays() {
    in_namespace(|| async {
        let bird = Bird::start("connect delay time 0;", "");
        let (speaker, _updates) = Speaker::spawn(config());
        wait_routes(&speaker, |routes| routes.len() == 2).await;
        bird.wait("show route protocol tortie", |text| text.contains("10.7.0.0/26")).await;
        let since = wait_up(&speaker).await.since;
        // Longer than the hold time of 9 s, so that keepalives of both sides must have counted.
        let end = std::time::Instant::now() + Duration::from_secs(12);
        while std::time::Instant::now() < end {
            let peer = wait_up(&speaker).await;
            assert_eq!(peer.since, since, "it flapped: {}", peer.last_error);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
}

#[test]
fn a_killed_bird_keeps_its_routes_until_it_is_back() {
    in_namespace(|| async {
        let mut bird = Bird::start("", "");
        let (speaker, mut updates) = Speaker::spawn(config());
        wait_routes(&speaker, |routes| routes.len() == 2).await;
        // Its End-of-RIB has come: nothing else can be told apart from it.
        bird.wait("show protocols all tortie", |text| text.contains("Established")).await;
        bird.kill();
        wait_peer(&speaker, |peer| peer.state != State::Established).await;
        wait_routes(&speaker, |routes| routes.len() == 2 && routes.iter().all(|route| route.stale)).await;
        drain(&mut updates);
        bird.restart(true);
        wait_routes(&speaker, |routes| routes.len() == 2 && routes.iter().all(|route| !route.stale)).await;
        bird.wait("show route protocol tortie", |text| text.contains("10.7.0.0/26")).await;
        let seen = drain(&mut updates);
        assert_eq!(withdrawals(&seen), 0, "felix was told: {seen:?}");
    });
}

#[test]
fn a_route_that_a_restarted_bird_has_lost_goes_at_its_end_of_rib() {
    in_namespace(|| async {
        let mut bird = Bird::start("", "protocol static extra { ipv4; route 10.8.1.0/24 blackhole; }");
        let (speaker, mut updates) = Speaker::spawn(config());
        wait_routes(&speaker, |routes| routes.len() == 3).await;
        bird.kill();
        wait_routes(&speaker, |routes| routes.iter().all(|route| route.stale)).await;
        drain(&mut updates);
        bird.forget("protocol static extra { ipv4; route 10.8.1.0/24 blackhole; }");
        bird.restart(true);
        let routes = wait_routes(&speaker, |routes| routes.len() == 2 && routes.iter().all(|route| !route.stale)).await;
        assert!(routes.iter().all(|route| route.prefix.to_string() != "10.8.1.0/24"));
    });
}

#[test]
fn our_own_crash_and_return_costs_bird_nothing() {
    in_namespace(|| async {
        let bird = Bird::start("", "");
        let (speaker, _updates) = Speaker::spawn(config());
        wait_routes(&speaker, |routes| routes.len() == 2).await;
        bird.wait("show route protocol tortie", |text| text.contains("10.7.0.0/26")).await;
        speaker.shutdown(false).await;
        bird.wait("show protocols all tortie", |text| !text.contains("Established")).await;
        let kept = bird.ask("show route protocol tortie");
        assert!(kept.contains("10.7.0.0/26") && kept.contains("fd00:7::/122"), "BIRD dropped our routes: {kept}");
        let mut again = config();
        again.restarting = true;
        let (speaker, mut updates) = Speaker::spawn(again);
        wait_routes(&speaker, |routes| routes.len() == 2).await;
        // BIRD has swept what we did not announce again by our End-of-RIB.
        bird.wait("show protocols all tortie", |text| text.contains("Established")).await;
        let text = bird.wait("show route protocol tortie", |text| text.contains("10.7.0.0/26")).await;
        assert!(text.contains("fd00:7::/122"), "{text}");
        let mut seen = Vec::new();
        while seen.last() != Some(&RibUpdate::Converged) {
            seen.push(updates.recv().await.expect("the speaker runs"));
        }
        assert_eq!(seen.len(), 3, "BIRD's routes first, then Converged: {seen:?}");
    });
}

#[test]
fn bird_shut_down_in_order_takes_its_routes_along() {
    in_namespace(|| async {
        let bird = Bird::start("", "");
        let (speaker, mut updates) = Speaker::spawn(config());
        wait_routes(&speaker, |routes| routes.len() == 2).await;
        bird.ask("disable tortie");
        wait_routes(&speaker, <[_]>::is_empty).await;
        let peer = wait_peer(&speaker, |peer| peer.state != State::Established).await;
        assert!(peer.last_error.starts_with("received cease") || peer.last_error.contains("connecting"), "{peer:?}");
        assert_eq!(withdrawals(&drain(&mut updates)), 2);
        bird.ask("enable tortie");
        wait_routes(&speaker, |routes| routes.len() == 2).await;
    });
}

#[test]
fn bird_refuses_a_wrong_as_and_we_say_so() {
    in_namespace(|| async {
        let _bird = Bird::start("passive on;", "");
        let mut wrong = config();
        wrong.local_as = 64999;
        let (speaker, _updates) = Speaker::spawn(wrong);
        let peer = wait_peer(&speaker, |peer| peer.last_error.contains("bad peer AS")).await;
        assert!(peer.last_error.contains("(2/2)"), "{}", peer.last_error);
    });
}

#[test]
fn a_stopped_bird_is_given_up_after_the_hold_time() {
    in_namespace(|| async {
        let bird = Bird::start("", "");
        let mut short = config();
        short.hold_time = Duration::from_secs(3);
        let (speaker, _updates) = Speaker::spawn(short);
        wait_routes(&speaker, |routes| routes.len() == 2).await;
        bird.signal(Signal::SIGSTOP);
        let peer = wait_peer(&speaker, |peer| peer.state != State::Established).await;
        assert!(peer.last_error.contains("hold timer expired (4/0)"), "{}", peer.last_error);
        wait_routes(&speaker, <[_]>::is_empty).await;
        bird.signal(Signal::SIGCONT);
        wait_routes(&speaker, |routes| routes.len() == 2).await;
    });
}

#[test]
fn bird_asks_for_a_refresh_and_gets_everything_again() {
    in_namespace(|| async {
        let bird = Bird::start("", "");
        let (speaker, _updates) = Speaker::spawn(config());
        bird.wait("show route protocol tortie", |text| text.contains("10.7.0.0/26")).await;
        let since = wait_up(&speaker).await.since;
        let updates = |text: &str| {
            let line = text.lines().find(|line| line.contains("Import updates:")).unwrap_or_default();
            line.split_whitespace().nth(2).and_then(|count| count.parse::<u32>().ok()).unwrap_or_default()
        };
        let before = updates(&bird.ask("show protocols all tortie"));
        bird.ask("reload in tortie");
        bird.wait("show protocols all tortie", |text| updates(text) > before).await;
        assert_eq!(wait_up(&speaker).await.since, since);
        assert!(bird.ask("show route protocol tortie").contains("fd00:7::/122"));
    });
}

#[test]
fn passwords_and_ttl_security_hold_whoever_connects() {
    for bird_waits in [true, false] {
        in_namespace(move || async move {
            let bird = Bird::start(
                &format!("password \"hunter2\"; ttl security on; {}", if bird_waits { "passive on;" } else { "" }),
                "",
            );
            let with = |text: &str| {
                let mut config = config();
                config.peers[0].password = Password::new(text.into());
                config.peers[0].ttl_security = Some(1);
                config.peers[0].passive = !bird_waits;
                config
            };
            let (speaker, _updates) = Speaker::spawn(with("wrong"));
            tokio::time::sleep(Duration::from_secs(4)).await;
            assert_ne!(speaker.peers().await[0].state, State::Established, "the password is wrong");
            speaker.configure(with("hunter2")).await;
            wait_up(&speaker).await;
            bird.wait("show route protocol tortie", |text| text.contains("10.7.0.0/26")).await;
            speaker.configure(with("")).await;
            let peer = wait_peer(&speaker, |peer| peer.state != State::Established).await;
            tokio::time::sleep(Duration::from_secs(2)).await;
            assert_ne!(speaker.peers().await[0].state, State::Established, "no password is a wrong one: {peer:?}");
        });
    }
}

#[test]
fn a_peer_that_is_further_away_than_said_gets_no_session() {
    in_namespace(|| async {
        // BIRD sends with the usual hop limit of 64: for all we know it is 191 hops away.
        let _bird = Bird::start("", "");
        let mut near = config();
        near.peers[0].ttl_security = Some(100);
        let (speaker, _updates) = Speaker::spawn(near);
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_ne!(speaker.peers().await[0].state, State::Established);
        let mut far = config();
        far.peers[0].ttl_security = Some(255);
        speaker.configure(far).await;
        wait_up(&speaker).await;
    });
}
