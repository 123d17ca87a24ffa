//! Flows of addresses that change hands, and of none else.

mod netns;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::net::{IpAddr, UdpSocket};
use std::process::Command;

use netns::{in_netns, ip, peer};
use tortie_nft::{Chain, CtStates, Hook, HookPoint, Match, Rule, Ruleset, Statement};
use tortie_nft_netlink::{NftSocket, forget_flows};

/// A table that makes the kernel follow connections.
fn following() -> Ruleset {
    let rule = Rule::new([Match::CtState(CtStates::NEW)], [Statement::SetCtMark { keep: !1, bits: 1 }]);
    let mut table = Ruleset::default();
    table.chains.insert("follow".into(), Chain { hook: Some(Hook::filter(HookPoint::Output, 0)), rules: vec![rule] });
    table
}

fn flow(from: &str, to: &str) -> (UdpSocket, UdpSocket) {
    let server = UdpSocket::bind((to, 0)).expect("a socket");
    let client = UdpSocket::bind((from, 0)).expect("a socket");
    client.connect(server.local_addr().expect("an address")).expect("a peer");
    client.send(b"first").expect("a packet goes out");
    (client, server)
}

fn entries() -> String {
    let mut all = String::new();
    for family in ["ipv4", "ipv6"] {
        let output = Command::new(peer("conntrack")).args(["-L", "-f", family]).output().expect("conntrack runs");
        all += &String::from_utf8_lossy(&output.stdout);
    }
    all
}

#[test]
fn all_ends_count_and_others_stay() {
    in_netns(|| {
        ip("link set lo up");
        for address in ["10.0.0.1/32", "10.0.0.2/32", "10.0.0.3/32", "fd00::1/128", "fd00::2/128"] {
            ip(&format!("addr add {address} dev lo nodad"));
        }
        NftSocket::open().expect("a socket").apply(&Ruleset::default().diff(&following())).expect("a table");
        let _flows = [
            flow("10.0.0.1", "10.0.0.2"),
            flow("10.0.0.2", "10.0.0.3"),
            flow("10.0.0.3", "10.0.0.1"),
            flow("fd00::1", "fd00::2"),
            flow("fd00::2", "fd00::2"),
        ];
        assert_eq!(entries().lines().count(), 5, "{}", entries());
        let gone =
            |text: &[&str]| text.iter().map(|ip| ip.parse::<IpAddr>().expect("an address")).collect::<BTreeSet<_>>();
        assert_eq!(forget_flows(&gone(&["10.0.0.9"])).expect("an answer"), 0);
        assert_eq!(forget_flows(&gone(&["10.0.0.1", "fd00::1"])).expect("an answer"), 3);
        let left = entries();
        assert_eq!(left.lines().count(), 2, "{left}");
        assert!(left.contains("src=10.0.0.2 dst=10.0.0.3") && left.contains("src=fd00::2 dst=fd00::2"), "{left}");
        assert_eq!(forget_flows(&gone(&["10.0.0.1", "fd00::1"])).expect("an answer"), 0);
    });
}

#[test]
fn where_nothing_is_followed_nothing_is_to_do() {
    in_netns(|| assert_eq!(forget_flows(&BTreeSet::new()).expect("an answer"), 0));
}
