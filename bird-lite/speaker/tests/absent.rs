//! What peers cost that are not there: thousands whose packets vanish, as in a cluster whose other nodes are down.
//!
//! `TORTIE_ABSENT=PEERS,SECONDS` makes it larger and prints what was measured; `docs/perf/` has figures.

#[path = "common/netns.rs"]
mod netns;

use std::net::Ipv4Addr;
use std::time::Duration;

use nix::sys::time::{TimeVal, TimeValLike};
use tortie_bird_speaker::{Config, PeerConfig, PeerKind, Speaker};

use self::netns::{in_namespace, ip};

/// The seconds of CPU that this process has used.
fn cpu() -> f64 {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).expect("usage");
    let seconds = |time: TimeVal| {
        Duration::from_micros(u64::try_from(time.num_microseconds()).expect("no time is negative")).as_secs_f64()
    };
    seconds(usage.user_time()) + seconds(usage.system_time())
}

/// The process's resident memory in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
}

#[test]
fn peers_that_do_not_answer_cost_next_to_nothing() {
    let wish = std::env::var("TORTIE_ABSENT").unwrap_or_default();
    let numbers: Vec<u32> = wish.split(',').filter_map(|text| text.parse().ok()).collect();
    let (peers, seconds) = if let [peers, seconds] = numbers[..] { (peers, seconds) } else { (1000, 10) };
    in_namespace(move || async move {
        // Packets into it are gone: without ARP they carry an address that is nobody's.
        ip("link add hole type veth peer name other");
        ip("link set other up");
        ip("link set hole arp off up");
        ip("address add 10.99.0.1/16 dev hole");
        ip("route add 10.128.0.0/16 dev hole");
        let mut config = Config::new(64512, Ipv4Addr::new(10, 99, 0, 1));
        config.listen = vec![];
        config.peers = (0..peers)
            .map(|number| {
                let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 128, 0, 1)) + number);
                PeerConfig::new(format!("node{number}"), PeerKind::Mesh, address.into(), 64512)
            })
            .collect();
        let (speaker, _updates) = Speaker::spawn(config);
        // The first attempts: one after the other each peer is found to be away.
        let rounds = 6 * (5 + u64::from(peers) / 100);
        tokio::time::sleep(Duration::from_secs(rounds.min(if wish.is_empty() { 15 } else { 600 }))).await;
        let (cpu_before, memory_before) = (cpu(), resident());
        tokio::time::sleep(Duration::from_secs(u64::from(seconds))).await;
        let share = (cpu() - cpu_before) / f64::from(seconds) * 100.0;
        let growth = resident().saturating_sub(memory_before);
        println!(
            "{peers} absent peers: {share:.2} % of a core, {growth} KiB more in {seconds} s, {} KiB resident",
            resident()
        );
        assert_eq!(speaker.peers().await.len(), peers as usize);
        assert!(share < 10.0, "{share} % of a core for peers that are not there");
        assert!(growth < 4096, "{growth} KiB more in {seconds} s");
    });
}
