//! What is configured of a peer: filters, next hops, AS numbers; and which of it takes a new session.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::chain;
use super::net::{Net, address, block, block6, parse};
use crate::config::{NextHopMode, Password, PeerConfig};
use crate::filter::{AnyCommunity, Operation, Policy, PrefixMatch, Rule};
use crate::wire::Community;

fn of(prefix: &str) -> Rule {
    let lengths = (0, 128);
    let prefix = PrefixMatch { range: parse(prefix), equal: false, negated: false, lengths };
    Rule { name: format!("the rule for {}", prefix.range), prefix: Some(prefix), ..Rule::default() }
}

fn v4(rules: Vec<Rule>) -> Arc<Policy> {
    Arc::new(Policy { v4: rules, ..Policy::ACCEPT })
}

#[test]
fn a_filter_on_import_is_judged_again_without_a_reset() {
    let mut net = chain();
    net.start_all();
    net.run_seconds(2);
    let since = net.peer(1, 0).since;
    let tag = Operation::AddCommunity(AnyCommunity::Standard(Community(65002 << 16 | 1)));
    let prepend = Operation::Prepend(vec![65009]);
    let accept = Rule { accept: true, operations: vec![tag, prepend], ..of("10.0.0.0/8") };

    net.configure(1, |config| config.peers[0].import = v4(vec![of(&block(0))]));
    net.run_seconds(1);
    let routes = net.routes(1, &block(0));
    assert_eq!(routes[0].reason, "not usable: the rule for 10.244.0.0/26 refuses it");
    assert_eq!(net.hops(1, &block(0)), [] as [IpAddr; 0]);
    assert_eq!(net.routes(2, &block(0)), [], "nor is it told on");
    let counts = net.peer(1, 0).ipv4.expect("it is carried");
    assert_eq!((counts.received, counts.accepted), (1, 0));
    assert_eq!(net.hops(1, &block6(0)).len(), 1, "the other family is untouched");

    net.configure(1, |config| config.peers[0].import = v4(vec![accept]));
    net.run_seconds(1);
    let routes = net.routes(2, &block(0));
    assert_eq!(routes[0].as_path, [65002, 65009, 65001]);
    assert_eq!(routes[0].communities, ["65002:1"]);

    net.configure(1, |config| config.peers[0].import = Arc::default());
    net.run_seconds(1);
    let routes = net.routes(2, &block(0));
    assert_eq!((routes[0].as_path.as_slice(), routes[0].communities.len()), ([65002, 65001].as_slice(), 0));
    assert_eq!(net.peer(1, 0).since, since);
}

#[test]
fn a_filter_on_export_is_judged_again_without_a_reset() {
    let mut net = chain();
    net.start_all();
    net.run_seconds(2);
    let since = net.peer(1, 2).since;
    let advertised = |net: &mut Net| net.peer(1, 2).ipv4.expect("it is carried").advertised;
    assert_eq!(advertised(&mut net), 2);
    net.configure(1, |config| config.peers[1].export = v4(vec![of(&block(0))]));
    net.run_seconds(1);
    assert_eq!(net.routes(2, &block(0)), []);
    assert_eq!((net.routes(2, &block(1)).len(), advertised(&mut net)), (1, 1));
    let closed = Policy { v4: vec![Rule { accept: true, ..of(&block(0)) }], otherwise: false, ..Policy::ACCEPT };
    net.configure(1, |config| config.peers[1].export = Arc::new(closed));
    net.run_seconds(1);
    assert_eq!((net.routes(2, &block(0)).len(), net.routes(2, &block(1)).len()), (1, 0));
    assert_eq!(net.routes(2, &block6(1)), [], "what no rule names does not pass either");
    net.configure(1, |config| config.peers[1].export = Arc::default());
    net.run_seconds(1);
    assert_eq!((advertised(&mut net), net.routes(2, &block6(0)).len()), (2, 1));
    assert_eq!(net.peer(1, 2).since, since);
}

#[test]
fn one_policy_for_all_costs_only_what_it_changes() {
    let mut net = Net::mesh(4);
    net.nodes[0].config.originate.extend((0..50).map(|number| parse(&format!("10.9.{number}.0/24")).into()));
    net.start_all();
    net.run_seconds(1);
    let (_, before) = net.sent(0);
    let policy = v4(vec![of("10.9.7.0/24")]);
    net.configure(0, |config| config.peers.iter_mut().for_each(|peer| peer.export = Arc::clone(&policy)));
    net.run_seconds(1);
    assert_eq!(net.routes(1, "10.9.7.0/24"), []);
    assert_eq!(net.routes(3, "10.9.8.0/24").len(), 1);
    let (_, after) = net.sent(0);
    assert!(after - before < 3 * 40, "three withdrawals and no more: {} bytes", after - before);
}

#[test]
fn next_hops_are_ours_or_the_routes() {
    let mut net = chain();
    net.start_all();
    net.run_seconds(2);
    let hop = |net: &mut Net| net.routes(2, &block(0))[0].next_hop;
    assert_eq!(hop(&mut net), Some(address(1).into()), "to another AS it is ours");
    net.configure(1, |config| config.peers[1].next_hop = NextHopMode::Keep);
    net.run_seconds(1);
    assert_eq!(hop(&mut net), Some(address(0).into()));
    assert_eq!(net.routes(2, &block(1))[0].next_hop, Some(address(1).into()), "our own routes have ours all the same");

    let mut net = Net::mesh(2);
    let outside = {
        let mut config = super::mesh_config(2, 0);
        config.local_as = 65009;
        config.peers = vec![PeerConfig::new("node0", crate::PeerKind::Global, address(0).into(), 64512)];
        config
    };
    net = {
        let mut configs: Vec<_> = net.nodes.iter().map(|node| node.config.clone()).collect();
        let to_outside = PeerConfig::new("outside", crate::PeerKind::Global, address(2).into(), 65009);
        configs[0].peers.push(to_outside);
        configs.push(outside);
        Net::new(configs)
    };
    net.start_all();
    net.run_seconds(1);
    assert_eq!(net.routes(1, &block(2))[0].next_hop, Some(address(2).into()), "within the AS it is the route's");
    net.configure(0, |config| config.peers[0].next_hop = NextHopMode::Own);
    net.run_seconds(1);
    assert_eq!(net.routes(1, &block(2))[0].next_hop, Some(address(0).into()));
}

#[test]
fn our_own_as_number_may_be_another_towards_one_peer_and_may_come_back() {
    let mut net = chain();
    net.nodes[1].config.peers[1].local_as = Some(65050);
    net.nodes[2].config.peers[0].remote_as = 65050;
    net.start_all();
    net.run_seconds(2);
    assert_eq!(net.routes(2, &block(0))[0].as_path, [65050, 65001]);
    assert_eq!(net.routes(0, &block(2))[0].as_path, [65002, 65003], "others see the usual one");
    // A route that has passed our AS before comes back.
    let back = Rule { accept: true, operations: vec![Operation::Prepend(vec![65001])], ..of(&block(2)) };
    net.configure(1, |config| config.peers[0].export = v4(vec![back]));
    net.run_seconds(1);
    assert_eq!(net.routes(0, &block(2))[0].reason, "not usable: our AS number is in its AS_PATH");
    let since = net.peer(0, 1).since;
    net.configure(0, |config| config.peers[0].allowed_own_as = 1);
    net.run_seconds(1);
    assert_eq!((net.routes(0, &block(2))[0].best, net.peer(0, 1).since), (true, since));
}

#[test]
fn a_change_resets_the_sessions_that_it_must_and_no_other() {
    type Change = fn(&mut PeerConfig);
    let changes: [(&str, bool, Change); 9] = [
        ("name", false, |peer| peer.name = "other".into()),
        ("passive", false, |peer| peer.passive = true),
        ("client", false, |peer| peer.client = true),
        ("restart_time", false, |peer| peer.restart_time = Some(Duration::from_secs(7))),
        ("keepalive_time", false, |peer| peer.keepalive_time = Some(Duration::from_secs(7))),
        ("next_hop", false, |peer| peer.next_hop = NextHopMode::Own),
        ("allowed_own_as", false, |peer| peer.allowed_own_as = 2),
        ("ttl_security", true, |peer| peer.ttl_security = Some(1)),
        ("password", true, |peer| peer.password = Password::new("secret".into())),
    ];
    for (field, resets, change) in changes {
        let mut net = Net::mesh(3);
        net.start_all();
        net.run_seconds(1);
        let since = [net.peer(0, 1).since, net.peer(0, 2).since];
        net.configure(0, |config| change(&mut config.peers[0]));
        net.run_seconds(5);
        assert_eq!(net.peer(0, 1).since != since[0], resets, "{field}");
        assert_eq!(net.peer(0, 2).since, since[1], "{field}: the other session goes on");
        assert!(net.all_up(), "{field}");
    }
}

#[test]
fn a_password_is_shown_nowhere() {
    let mut peer = PeerConfig::new("router", crate::PeerKind::Global, address(1).into(), 65001);
    peer.password = Password::new("hunter2".into());
    let recorded = serde_json::to_string(&peer).expect("it can be recorded");
    assert!(!format!("{peer:?}").contains("hunter2") && !recorded.contains("hunter2"));
    assert!(Password::new(String::new()).is_none() && Password::new("x".repeat(81)).is_none());
}

#[test]
fn a_neighbour_that_is_about_to_go_is_the_last_choice() {
    let mut net = chain();
    let shared = "10.99.0.0/24";
    for node in [0, 2] {
        net.nodes[node].config.originate.push(parse(shared).into());
    }
    net.start_all();
    net.run_seconds(2);
    assert_eq!(net.hops(1, shared), [IpAddr::V4(address(0)), IpAddr::V4(address(2))]);
    net.configure(0, |config| {
        config.originate.iter_mut().for_each(|item| item.communities = vec![Community::GRACEFUL_SHUTDOWN]);
    });
    net.run_seconds(1);
    assert_eq!(net.hops(1, shared), [IpAddr::V4(address(2))]);
    assert_eq!(net.hops(1, &block(0)), [IpAddr::V4(address(0))], "as long as there is no other way");
    assert_eq!(net.routes(1, &block(0))[0].local_pref, Some(0));
}
