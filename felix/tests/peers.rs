//! Who the speaker's peers are, and what may pass between them: BGPPeer, BGPFilter and what BGPConfiguration says of the mesh.

mod common;

use std::time::Duration;

use common::{World, bgp_configuration, node, pool};
use serde_json::{Value, json};
use tortie_api::{Decoded, Object};
use tortie_bird_lite::filter::{Outcome, Policy, Subject};
use tortie_bird_lite::wire::Attributes;
use tortie_bird_lite::{Config, NextHopMode, Password, PeerConfig, PeerKind};

/// A document as a datastore reads it.
fn object(document: &Value) -> Object {
    match tortie_api::decode(document) {
        Ok(Decoded::Object(object)) => *object,
        other => panic!("{document} is {other:?}"),
    }
}

fn bgp_peer(name: &str, spec: &Value) -> Object {
    object(&json!({"apiVersion": "projectcalico.org/v3", "kind": "BGPPeer", "metadata": {"name": name}, "spec": spec}))
}

fn bgp_filter(name: &str, spec: &Value) -> Object {
    object(
        &json!({"apiVersion": "projectcalico.org/v3", "kind": "BGPFilter", "metadata": {"name": name}, "spec": spec}),
    )
}

/// A node with labels, and a cluster ID if there is one.
fn labelled(name: &str, address: &str, labels: &Value, cluster: Option<&str>) -> Object {
    let mut node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels, "annotations": {}},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]}});
    if let Some(cluster) = cluster {
        node["metadata"]["annotations"]["projectcalico.org/RouteReflectorClusterID"] = json!(cluster);
    }
    object(&node)
}

/// The configuration of a node, and what is wrong with it.
fn of(name: &str, objects: Vec<Object>) -> (Config, String) {
    let mut world = World::new(name);
    world.start(Vec::new());
    world.apply(objects);
    (world.bgp.clone().expect("a speaker"), world.felix.status().problems.join("\n"))
}

fn names(config: &Config) -> Vec<(&str, PeerKind)> {
    config.peers.iter().map(|peer| (peer.name.as_str(), peer.kind)).collect()
}

fn peer<'a>(config: &'a Config, name: &str) -> &'a PeerConfig {
    config.peers.iter().find(|peer| peer.name == name).unwrap_or_else(|| panic!("no peer {name}: {config:?}"))
}

fn passes(policy: &Policy, prefix: &str, from_peer: bool) -> bool {
    let (prefix, attributes) = (prefix.parse().expect("a prefix"), Attributes::default());
    policy.judge(Subject { prefix: &prefix, attributes: &attributes, from_peer, interface: None }) != Outcome::Reject
}

/// Two reflectors and two other nodes, as Calico's documentation sets them up.
fn reflectors(mesh: bool) -> Vec<Object> {
    let label = json!({"route-reflector": "true"});
    vec![
        labelled("r1", "172.31.0.2", &label, Some("244.0.0.1")),
        labelled("r2", "172.31.0.3", &label, Some("244.0.0.1")),
        labelled("a", "172.31.0.4", &json!({}), None),
        labelled("b", "172.31.0.5", &json!({}), None),
        bgp_peer("to-reflectors", &json!({"nodeSelector": "all()", "peerSelector": "route-reflector == 'true'"})),
        bgp_configuration("default", &json!({"nodeToNodeMeshEnabled": mesh})),
    ]
}

#[test]
fn nodes_peer_with_reflectors_and_reflectors_with_all() {
    for mesh in [false, true] {
        let (config, problems) = of("a", reflectors(mesh));
        let mut expected = vec![("r1", PeerKind::Node), ("r2", PeerKind::Node)];
        if mesh {
            expected.insert(0, ("b", PeerKind::Mesh));
        }
        assert_eq!(names(&config), expected, "{problems}");
        assert!(config.peers.iter().all(|peer| !peer.client) && config.cluster_id.is_none());

        let (config, _) = of("r1", reflectors(mesh));
        assert_eq!(config.cluster_id, Some("244.0.0.1".parse().expect("an identifier")));
        let all = [("a", PeerKind::Node), ("b", PeerKind::Node), ("r2", PeerKind::Node)];
        assert_eq!(names(&config), all, "a reflector takes no part in the mesh, and peers with those that select it");
        let clients: Vec<_> = config.peers.iter().map(|peer| peer.client).collect();
        assert_eq!(clients, [true, true, false], "one of the same cluster is no client");
    }
}

#[test]
fn the_other_end_of_a_session_comes_by_itself_unless_it_is_manual() {
    let manual = bgp_peer(
        "to-reflectors",
        &json!({"nodeSelector": "!has(route-reflector)", "peerSelector": "has(route-reflector)", "reversePeering": "Manual"}),
    );
    let mut objects = reflectors(false);
    objects.push(manual);
    assert_eq!(names(&of("r1", objects.clone()).0), []);
    assert_eq!(names(&of("a", objects).0).len(), 2);

    let by_address = |extra: &Value| {
        let mut spec = json!({"node": "a", "peerIP": "172.31.0.5"});
        spec.as_object_mut().expect("a map").extend(extra.as_object().expect("a map").clone());
        vec![
            node("a", &["172.31.0.4"], &[]),
            node("b", &["172.31.0.5"], &[]),
            bgp_configuration("default", &json!({"nodeToNodeMeshEnabled": false, "listenPort": 1790})),
            bgp_peer("pair", &spec),
        ]
    };
    let (config, _) = of("a", by_address(&json!({})));
    assert_eq!((peer(&config, "pair").port, peer(&config, "pair").remote_as), (1790, 64512), "those of the node there");
    let (config, _) = of("b", by_address(&json!({"localASNumber": 65001})));
    assert_eq!((peer(&config, "a").remote_as, peer(&config, "a").port), (65001, 1790), "its number towards us");
    assert_eq!(names(&of("b", by_address(&json!({"asNumber": 65009}))).0), [], "another AS is another router");
    assert_eq!(
        names(&of("b", by_address(&json!({"peerIP": "172.31.0.5:179"}))).0),
        [],
        "another port is another speaker"
    );
}

#[test]
fn the_nearest_word_on_an_address_counts() {
    let router = |name: &str, extra: &Value| {
        let mut spec = json!({"peerIP": "10.0.0.1", "asNumber": 65001});
        spec.as_object_mut().expect("a map").extend(extra.as_object().expect("a map").clone());
        bgp_peer(name, &spec)
    };
    let nodes = || vec![labelled("a", "172.31.0.4", &json!({"rack": "1"}), None)];
    let (config, problems) = of("a", [nodes(), vec![router("for-all", &json!({}))]].concat());
    assert_eq!((names(&config), problems.as_str()), (vec![("for-all", PeerKind::Global)], ""));
    let both =
        vec![router("for-all", &json!({"ttlSecurity": 1})), router("rack", &json!({"nodeSelector": "rack == '1'"}))];
    let (config, problems) = of("a", [nodes(), both].concat());
    assert_eq!(names(&config), [("rack", PeerKind::Node)]);
    assert!(
        problems.contains("BGPPeers for-all and rack both are for the peer 10.0.0.1: rack is in force"),
        "{problems}"
    );
    let elsewhere =
        vec![router("rack", &json!({"nodeSelector": "rack == '2'"})), router("other", &json!({"node": "z"}))];
    assert_eq!(names(&of("a", [nodes(), elsewhere].concat()).0), []);
}

#[test]
fn every_field_of_a_peer_reaches_the_speaker() {
    let spec = json!({
        "node": "a", "peerIP": "10.0.0.1:1790", "asNumber": 65001, "localASNumber": 65002, "nextHopMode": "Self", "sourceAddress": "None",
        "maxRestartTime": "30s", "keepaliveTime": "7s", "numAllowedLocalASNumbers": 2, "ttlSecurity": 3, "reachableBy": "172.31.0.1",
    });
    let (config, problems) = of("a", vec![node("a", &["172.31.0.4"], &[]), bgp_peer("router", &spec)]);
    assert_eq!(problems, "");
    let peer = peer(&config, "router");
    assert_eq!((peer.address.to_string().as_str(), peer.port, peer.remote_as), ("10.0.0.1", 1790, 65001));
    assert_eq!((peer.local_as, peer.next_hop, peer.local_address), (Some(65002), NextHopMode::Own, None));
    let times = (peer.restart_time, peer.keepalive_time);
    assert_eq!(times, (Some(Duration::from_secs(30)), Some(Duration::from_secs(7))));
    assert_eq!((peer.allowed_own_as, peer.ttl_security), (2, Some(3)));
    let keep = json!({"peerIP": "10.0.0.1", "asNumber": 65001, "keepOriginalNextHop": true});
    let (config, _) = of("a", vec![node("a", &["172.31.0.4"], &[]), bgp_peer("router", &keep)]);
    let peer = self::peer(&config, "router");
    assert_eq!(
        (peer.next_hop, peer.local_address),
        (NextHopMode::Keep, Some("172.31.0.4".parse().expect("an address")))
    );
}

fn is_there(world: &World, route: &str) -> bool {
    world.ours().iter().any(|ours| ours.starts_with(route))
}

#[test]
fn a_peer_that_no_route_leads_to_is_reached_by_its_gateway() {
    let spec = |gateway: &str| json!({"peerIP": "10.0.0.1", "asNumber": 65001, "reachableBy": gateway});
    let mut world = World::new("a");
    world.start(Vec::new());
    world.apply(vec![node("a", &["172.31.0.2"], &[]), bgp_peer("router", &spec("172.31.0.9"))]);
    assert!(is_there(&world, "10.0.0.1/32 via 172.31.0.9"), "{:?}", world.ours());
    world.apply(vec![bgp_peer("router", &spec("172.31.0.8"))]);
    assert!(is_there(&world, "10.0.0.1/32 via 172.31.0.8"), "{:?}", world.ours());
    world.delete(bgp_peer("router", &spec("172.31.0.8")).key());
    assert!(!is_there(&world, "10.0.0.1"), "{:?}", world.ours());
}

#[test]
fn filters_come_first_and_then_what_the_cluster_is() {
    let filter = bgp_filter(
        "edge",
        &json!({
            "exportV4": [
                {"action": "Accept", "cidr": "10.200.0.0/16", "matchOperator": "In", "prefixLength": {"min": 24}},
                {"action": "Reject", "cidr": "10.244.7.0/24", "matchOperator": "In", "peerType": "eBGP"},
                {"action": "Reject", "cidr": "10.244.8.0/24", "matchOperator": "In", "peerType": "iBGP"},
            ],
            "importV4": [{"action": "Reject", "cidr": "0.0.0.0/0", "matchOperator": "Equal"}],
        }),
    );
    let spec = json!({"peerIP": "10.0.0.1", "asNumber": 65001, "filters": ["edge", "gone"]});
    let objects = vec![
        node("a", &["172.31.0.4"], &[]),
        node("b", &["172.31.0.5"], &[]),
        pool("pods", "10.244.0.0/16", false),
        pool("quiet", "10.244.128.0/17", true),
        bgp_configuration("default", &json!({"serviceClusterIPs": [{"cidr": "10.96.0.0/12"}]})),
        filter,
        bgp_peer("router", &spec),
    ];
    let (config, problems) = of("a", objects);
    assert!(problems.contains("BGPPeer router: spec.filters: there is no BGPFilter gone; create it"), "{problems}");
    let router = peer(&config, "router");
    for (prefix, told) in [
        ("10.200.1.0/24", true),
        ("10.200.0.0/16", false),
        ("10.244.7.0/26", false),
        ("10.244.8.0/26", true),
        ("10.244.128.0/26", false),
        ("10.96.0.10/32", true),
        ("0.0.0.0/0", false),
        ("fd00::/64", false),
    ] {
        assert_eq!(passes(&router.export, prefix, true), told, "{prefix} to the router");
    }
    assert!(passes(&router.export, "192.0.2.1/32", false), "our own routes are told, wherever they are");
    assert!(!passes(&router.import, "0.0.0.0/0", true) && passes(&router.import, "10.0.0.0/8", true));
    let mesh = peer(&config, "b");
    assert!(!passes(&mesh.export, "0.0.0.0/0", true), "what a router tells one node is not for all");
    assert!(passes(&mesh.export, "10.244.7.0/26", true) && mesh.import.is_trivial());
    let (config, _) = of("a", vec![node("a", &["172.31.0.4"], &[]), node("b", &["172.31.0.5"], &[])]);
    assert!(peer(&config, "b").export.is_trivial(), "a plain speaker holds nothing back");
}

#[test]
fn prefixes_are_announced_with_their_communities() {
    let advertisements = json!({
        "communities": [{"name": "rack", "value": "64512:300"}, {"name": "site", "value": "64512:1:2"}],
        "prefixAdvertisements": [
            {"cidr": "10.244.0.0/16", "communities": ["rack", "64512:400"]},
            {"cidr": "10.244.0.0/24", "communities": ["site", "rack"]},
        ],
    });
    let objects = |name: &str| {
        vec![
            node("a", &["172.31.0.4"], &[]),
            pool("pods", "10.244.0.0/16", false),
            common::block("10.244.0.0/26", "a"),
            common::block("10.244.9.0/26", "a"),
            bgp_configuration(name, &advertisements),
        ]
    };
    let told = |config: &Config| {
        let text = |originated: &tortie_bird_lite::Originated| {
            let plain = originated.communities.iter().map(ToString::to_string);
            plain.chain(originated.large_communities.iter().map(ToString::to_string)).collect::<Vec<_>>().join(" ")
        };
        config.originate.iter().map(text).collect::<Vec<_>>()
    };
    assert_eq!(told(&of("a", objects("default")).0), ["64512:300 64512:400 64512:1:2", "64512:300 64512:400"]);
    let mut both = objects("default");
    both.push(bgp_configuration(
        "node.a",
        &json!({"prefixAdvertisements": [{"cidr": "10.244.0.0/16", "communities": ["64512:9"]}]}),
    ));
    assert_eq!(told(&of("a", both).0), ["64512:9", "64512:9"], "the node's own word counts");
}

#[test]
fn speakers_listen_on_the_nodes_addresses_only_where_that_is_asked_for() {
    let objects = |mode: &str| {
        vec![
            node("a", &["172.31.0.4", "fd00:172:31::4"], &[]),
            node("b", &["172.31.0.5"], &[]),
            bgp_configuration("default", &json!({"bindMode": mode, "nodeMeshMaxRestartTime": "45s"})),
        ]
    };
    let listen = |config: &Config| config.listen.iter().map(ToString::to_string).collect::<Vec<_>>();
    let (config, _) = of("a", objects("NodeIP"));
    assert_eq!(listen(&config), ["172.31.0.4:179", "[fd00:172:31::4]:179"]);
    assert_eq!(peer(&config, "b").restart_time, Some(Duration::from_secs(45)));
    assert_eq!(listen(&of("a", objects("None")).0), ["0.0.0.0:179", "[::]:179"]);
}

#[test]
fn what_cannot_be_a_session_is_said() {
    let (config, problems) = of(
        "a",
        vec![
            node("a", &["172.31.0.4"], &[]),
            labelled("six", "fd00::6", &json!({"peer": "yes"}), None),
            bgp_peer("nobody", &json!({})),
            bgp_peer("pods", &json!({"localWorkloadSelector": "all()"})),
            bgp_peer("self", &json!({"peerIP": "172.31.0.4"})),
            bgp_peer("six", &json!({"peerSelector": "has(peer)"})),
        ],
    );
    assert_eq!(names(&config), []);
    for sentence in [
        "BGPPeer nobody: it has no peer: set spec.peerIP, or spec.peerSelector for nodes",
        "BGPPeer pods: spec.localWorkloadSelector is not supported by this version",
        "BGPPeer six: no BGP session with node six: the two have no address family in common",
    ] {
        assert!(problems.contains(sentence), "{sentence}\nis not in\n{problems}");
    }
}

#[test]
fn a_session_with_a_password_waits_for_its_secret() {
    let reference = |optional: bool| json!({"secretKeyRef": {"name": "bgp", "key": "mesh", "optional": optional}});
    let secret = |namespace: &str, key: &str, text: &str| {
        object(
            &json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "bgp", "namespace": namespace}, "stringData": {key: text}}),
        )
    };
    let objects = |optional: bool| {
        vec![
            node("a", &["172.31.0.4"], &[]),
            node("b", &["172.31.0.5"], &[]),
            bgp_peer("router", &json!({"peerIP": "10.0.0.1", "asNumber": 65001, "password": reference(optional)})),
            bgp_configuration("default", &json!({"nodeMeshPassword": reference(optional)})),
        ]
    };
    let mut world = World::new("a");
    world.start(Vec::new());
    let state = |world: &World| {
        let config = world.bgp.clone().expect("a speaker");
        let passwords: Vec<_> = config.peers.iter().map(|peer| peer.password.clone()).collect();
        (passwords, world.felix.status().problems.join("\n"))
    };
    world.apply(objects(false));
    let (passwords, problems) = state(&world);
    assert_eq!(passwords, [], "no session without its password");
    for sentence in [
        "BGPPeer router: no BGP session with 10.0.0.1: spec.password: there is no Secret bgp in namespace kube-system or calico-system; \
         create it",
        "no BGP session with node b: spec.nodeMeshPassword of BGPConfiguration: there is no Secret bgp",
    ] {
        assert!(problems.contains(sentence), "{problems}");
    }
    world.apply(vec![secret("kube-system", "other", "x")]);
    assert!(state(&world).1.contains("Secret kube-system/bgp has no entry \"mesh\""), "{}", state(&world).1);
    world.apply(vec![secret("kube-system", "mesh", &"x".repeat(81))]);
    assert!(state(&world).1.contains("must be text of 1 to 80 bytes"), "{}", state(&world).1);
    world.apply(vec![secret("kube-system", "mesh", "hunter2")]);
    let (passwords, problems) = state(&world);
    assert_eq!((passwords, problems.as_str()), (vec![Password::new("hunter2".into()); 2], ""));
    world.delete(secret("kube-system", "mesh", "").key());
    assert_eq!(state(&world).0, []);
    world.apply(objects(true));
    assert_eq!(state(&world), (vec![None, None], String::new()), "it may be missing");
    world.apply(vec![secret("default", "mesh", "hunter2")]);
    assert_eq!(state(&world).0, [None, None], "not from any namespace");
}
