//! The speaker's configuration from Node, BGPConfiguration, IPPool and IPAMBlock objects.

mod common;

use common::{World, affinity, bgp_configuration, block, cluster, endpoint, ip, namespace, node, pod, pool};
use serde_json::json;
use tortie_api::{Kind, Object, ObjectKey};
use tortie_bird_lite::{Config, PeerKind};
use tortie_felix::Action;

fn configured(objects: Vec<Object>) -> (Config, World) {
    let mut world = World::new("a");
    world.start(Vec::new());
    world.apply(objects);
    (world.bgp.clone().expect("a speaker"), world)
}

fn originated(config: &Config) -> Vec<String> {
    config.originate.iter().map(|originated| originated.prefix.to_string()).collect()
}

fn peers(config: &Config) -> Vec<(String, String, u32)> {
    config.peers.iter().map(|peer| (peer.name.clone(), peer.address.to_string(), peer.remote_as)).collect()
}

#[test]
fn every_node_is_a_peer() {
    let (config, _) = configured(cluster());
    assert_eq!((config.local_as, config.router_id.to_string().as_str()), (64512, "172.31.0.2"));
    assert_eq!((config.next_hop_v4, config.next_hop_v6), (Some("172.31.0.2".parse().expect("an address")), None));
    assert_eq!(config.listen.iter().map(std::net::SocketAddr::port).collect::<Vec<_>>(), [179, 179]);
    assert_eq!(peers(&config), [("b".into(), "172.31.0.3".into(), 64512)]);
    assert_eq!((config.peers[0].kind, config.peers[0].local_address), (PeerKind::Mesh, Some(ip("172.31.0.2"))));
    assert_eq!(originated(&config), ["10.244.0.0/26"]);
    assert!(!config.restarting);
}

#[test]
fn as_numbers_and_ports_come_from_the_nearest_setting() {
    let (config, mut world) = configured(vec![
        bgp_configuration("default", &json!({ "asNumber": 64600, "listenPort": 1790 })),
        bgp_configuration("node.c", &json!({ "asNumber": 64700, "listenPort": 1791 })),
        node("a", &["172.31.0.2"], &[]),
        node("b", &["172.31.0.3"], &[("projectcalico.org/ASNumber", "65000")]),
        node("c", &["172.31.0.4"], &[]),
    ]);
    assert_eq!(config.local_as, 64600);
    assert!(config.listen.iter().all(|address| address.port() == 1790));
    assert_eq!(peers(&config), [("b".into(), "172.31.0.3".into(), 65000), ("c".into(), "172.31.0.4".into(), 64700)]);
    assert_eq!(config.peers.iter().map(|peer| peer.port).collect::<Vec<_>>(), [1790, 1791]);
    world.apply(vec![bgp_configuration("default", &json!({ "nodeToNodeMeshEnabled": false }))]);
    let config = world.bgp.clone().expect("a speaker");
    assert!(config.peers.is_empty());
    assert_eq!(config.local_as, 64512);
}

#[test]
fn families_in_common_decide_the_session() {
    let (config, world) = configured(vec![
        node("a", &["172.31.0.2", "fd00:172:31::2"], &[]),
        node("both", &["fd00:172:31::3", "172.31.0.3"], &[]),
        node("six", &["fd00:172:31::4"], &[]),
        node("annotated", &[], &[("projectcalico.org/IPv4Address", "172.31.0.5/24")]),
        node("none", &[], &[]),
        node("same", &["172.31.0.2"], &[]),
        node("twin", &["172.31.0.3"], &[]),
    ]);
    assert_eq!(
        peers(&config),
        [
            ("annotated".into(), "172.31.0.5".into(), 64512),
            ("both".into(), "172.31.0.3".into(), 64512),
            ("six".into(), "fd00:172:31::4".into(), 64512),
        ]
    );
    assert_eq!(config.next_hop_v6.map(|address| address.to_string()).as_deref(), Some("fd00:172:31::2"));
    let problems = world.felix.status().problems.join("\n");
    assert!(problems.contains("no BGP session with node none: the two have no address family in common"), "{problems}");
    assert!(problems.contains("no BGP session with node same: it has this node's own address"), "{problems}");
    assert!(
        problems.contains("no BGP session with node twin: its address 172.31.0.3 is also that of node both"),
        "{problems}"
    );

    let (config, _) = configured(vec![node("a", &["fd00:172:31::2"], &[])]);
    assert!(!config.router_id.is_unspecified(), "an identifier from the name");
}

#[test]
fn blocks_are_announced_unless_their_pool_says_no() {
    let (config, mut world) = configured(vec![
        node("a", &["172.31.0.2"], &[]),
        pool("open", "10.244.0.0/16", false),
        pool("quiet", "10.244.128.0/17", true),
        pool("six", "fd00:10:244::/48", false),
        block("10.244.0.0/26", "a"),
        block("10.244.0.64/26", "b"),
        block("10.244.128.0/26", "a"),
        block("fd00:10:244::/122", "a"),
    ]);
    assert_eq!(originated(&config), ["10.244.0.0/26", "fd00:10:244::/122"]);
    assert!(world.writes.iter().any(|action| matches!(action, Action::ConfigureHost(host) if host.forward_ipv6)));
    world.apply(vec![pool("quiet", "10.244.128.0/17", false)]);
    assert_eq!(
        originated(world.bgp.as_ref().expect("a speaker")),
        ["10.244.0.0/26", "10.244.128.0/26", "fd00:10:244::/122"]
    );
    world.delete(ObjectKey { kind: Kind::IpamBlock, namespace: None, name: "10-244-0-0-26".into() });
    assert_eq!(originated(world.bgp.as_ref().expect("a speaker")), ["10.244.128.0/26", "fd00:10:244::/122"]);
    assert!(!world.ours().contains("blackhole 10.244.0.0/26"));
}

/// In a cluster an agent sees no block, but its own affinities.
#[test]
fn affinities_tell_of_blocks_too() {
    let mut objects = cluster();
    objects.retain(|object| !matches!(object, Object::IpamBlock(_)));
    let (config, mut world) = configured(objects);
    assert!(originated(&config).is_empty(), "no block yet: {:?}", originated(&config));
    let confirmed = affinity("10.244.0.0/26", "a", "confirmed");
    world.apply(vec![
        confirmed.clone(),
        affinity("10.244.0.64/26", "a", "pending"),
        affinity("10.244.0.128/26", "b", "confirmed"),
    ]);
    assert_eq!(originated(world.bgp.as_ref().expect("a speaker")), ["10.244.0.0/26"]);
    assert!(world.ours().contains("blackhole 10.244.0.0/26"));
    // Where the block itself is known, it knows better.
    world.apply(vec![block("10.244.0.0/26", "b")]);
    assert!(originated(world.bgp.as_ref().expect("a speaker")).is_empty());
    world.delete(ObjectKey { kind: Kind::IpamBlock, namespace: None, name: "10-244-0-0-26".into() });
    assert_eq!(originated(world.bgp.as_ref().expect("a speaker")), ["10.244.0.0/26"]);
    world.delete(confirmed.key());
    assert!(originated(world.bgp.as_ref().expect("a speaker")).is_empty());
}

#[test]
fn an_address_outside_the_blocks_is_announced_while_its_pod_is_here() {
    let mut objects = cluster();
    objects.push(namespace("other"));
    objects.push(pod("other", "pinned", "x", &["10.244.200.9", "fd00:10:244::9"]));
    let (config, mut world) = configured(objects);
    let pinned = endpoint("other", "pinned", &["10.244.200.9", "fd00:10:244::9"]);
    let inside = endpoint("default", "web", &["10.244.0.1"]);
    assert_eq!(originated(&config), ["10.244.0.0/26"]);
    world.add(&pinned);
    world.add(&inside);
    let announced = originated(world.bgp.as_ref().expect("a speaker"));
    assert_eq!(announced, ["10.244.0.0/26", "10.244.200.9/32", "fd00:10:244::9/128"]);
    world.remove(&pinned);
    assert_eq!(originated(world.bgp.as_ref().expect("a speaker")), ["10.244.0.0/26"]);
}

#[test]
fn bgp_waits_for_the_node_itself() {
    let mut world = World::new("a");
    world.start(Vec::new());
    let revision = world.apply(vec![node("b", &["172.31.0.3"], &[])]);
    assert!(world.bgp.is_none());
    let problems = world.felix.status().problems.join("\n");
    assert!(problems.contains("there is no Node \"a\" in the datastore"), "{problems}");
    assert_eq!(world.felix.programmed_revision(), revision, "rules and routes do not wait for it");
    world.apply(vec![node("a", &[], &[])]);
    assert!(world.felix.status().problems.join("\n").contains("Node \"a\" has no address"));
    world.apply(vec![node("a", &["172.31.0.2"], &[])]);
    assert_eq!(world.bgp.as_ref().map(|config| config.peers.len()), Some(1));
}

#[test]
fn what_does_not_concern_the_speaker_leaves_it_alone() {
    let (_, mut world) = configured(cluster());
    world.writes.clear();
    world.apply(vec![pod("default", "new", "x", &["10.244.0.99"]), namespace("more")]);
    assert!(!world.writes.iter().any(|action| matches!(action, Action::ConfigureBgp(_))));
}
