//! Overlays: which routes lead through one, and when a pool that changes its mode takes its routes along.

mod common;

use common::{World, block, cluster, config, endpoint, ip, net, node, pod, via};
use serde_json::json;
use tortie_api::calico::{IpPool, Tunnel};
use tortie_api::{Kind, Object, ObjectKey};
use tortie_felix::{Config, Felix};

const VXLAN: &str = "projectcalico.org/IPv4VXLANTunnelAddr";
const IPIP: &str = "projectcalico.org/IPv4IPIPTunnelAddr";

fn pool(name: &str, cidr: &str, field: &str, mode: &str) -> Object {
    let pool: IpPool = serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"cidr": cidr, field: mode}}))
        .expect("a pool");
    Object::IpPool(pool)
}

/// The small cluster with its pool in this mode, and node `b` in another subnet if so; nodes have told their ends.
fn with(field: &str, mode: &str, far: bool) -> Vec<Object> {
    let b = if far { "172.31.9.3" } else { "172.31.0.3" };
    let mut objects = cluster();
    objects.extend([
        node("a", &["172.31.0.2"], &[(VXLAN, "10.244.0.7"), (IPIP, "10.244.0.8")]),
        node("b", &[b], &[(VXLAN, "10.244.0.70"), (IPIP, "10.244.0.71")]),
        pool("pods", "10.244.0.0/16", field, mode),
    ]);
    objects
}

fn world(objects: Vec<Object>, bgp: bool) -> World {
    let mut world = World::new("a");
    world.felix = Felix::new(Config { bgp, ..config("a") });
    world.insert(common::route("0.0.0.0/0", via("172.31.0.1"), 4, 0));
    world.start(Vec::new());
    world.apply(objects);
    world
}

/// Where the route to the other node's block leads.
fn to_b(world: &World) -> String {
    let of_b = |route: &String| route.strip_prefix("10.244.0.64/26 ").map(str::to_owned);
    world.ours().iter().find_map(of_b).unwrap_or_else(|| "nowhere".to_owned())
}

#[test]
fn blocks_are_reached_through_the_overlay_with_bgp_and_without() {
    for bgp in [true, false] {
        let mut world = world(with("vxlanMode", "Always", false), bgp);
        assert_eq!(to_b(&world), "via 10.244.0.70 dev vxlan.calico onlink");
        world.rib("10.244.0.64/26", "172.31.0.3");
        assert_eq!(to_b(&world), "via 10.244.0.70 dev vxlan.calico onlink", "BGP writes nothing of its own");
        let end = &world.tunnels.as_ref().expect("ends").ends[&Tunnel::VxlanV4];
        assert_eq!((end.local, end.vni, end.port, end.mtu), (ip("172.31.0.2"), 4096, 4789, None));
        assert_eq!(end.pools, [net("10.244.0.0/16")]);
        let peer = end.peers[&ip("10.244.0.70")];
        assert_eq!(peer.node, ip("172.31.0.3"));
        // `printf b | sha1sum`, as Calico has it.
        assert_eq!(peer.mac, [b'f', 0xe9, 0xd7, 0x1f, 0x5e, 0xe7]);
        assert_eq!(world.felix.status().problems, [""; 0]);
    }
}

#[test]
fn what_only_bgp_tells_goes_by_the_overlay_if_a_node_has_it() {
    let mut world = world(with("vxlanMode", "Always", false), true);
    world.rib("10.244.7.7/32", "172.31.0.3");
    world.rib("10.244.8.0/26", "172.31.0.77");
    world.rib("192.0.2.0/24", "172.31.0.3");
    let ours = world.ours();
    assert!(ours.contains("10.244.7.7/32 via 10.244.0.70 dev vxlan.calico onlink"), "{ours:?}");
    assert!(ours.contains("10.244.8.0/26 via 172.31.0.77 dev eth0"), "who is no node has no end: {ours:?}");
    assert!(ours.contains("192.0.2.0/24 via 172.31.0.3 dev eth0"), "that is no pod's: {ours:?}");
}

#[test]
fn a_pool_that_moves_keeps_its_routes_until_the_new_way_is_ready() {
    let plain = "via 172.31.0.3 dev eth0";
    let mut world = world(with("vxlanMode", "Never", false), true);
    world.rib("10.244.0.64/26", "172.31.0.3");
    world.apply(vec![node("b", &["172.31.0.3"], &[])]);
    assert_eq!(to_b(&world), plain);
    assert!(world.tunnels.as_ref().is_none_or(|tunnels| tunnels.ends.is_empty()));

    world.apply(vec![pool("pods", "10.244.0.0/16", "vxlanMode", "Always")]);
    assert_eq!(to_b(&world), plain, "node b has told no end yet");
    let waiting = world.felix.routes().into_iter().find(|route| route.destination == net("10.244.0.64/26"));
    let reason = waiting.and_then(|route| route.reason).expect("a reason");
    assert!(reason.contains("172.31.0.3 has not told"), "{reason}");
    world.apply(vec![node("b", &["172.31.0.3"], &[(VXLAN, "10.244.0.70")])]);
    assert_eq!(to_b(&world), "via 10.244.0.70 dev vxlan.calico onlink");

    world.apply(vec![pool("pods", "10.244.0.0/16", "vxlanMode", "Never")]);
    assert_eq!(to_b(&world), plain);
    assert!(world.tunnels.as_ref().is_some_and(|tunnels| tunnels.ends.contains_key(&Tunnel::VxlanV4)), "it lingers");
    assert!(world.ruleset().chains.contains_key("tunnels"), "and strangers' packets are dropped meanwhile");
    world.advance(11_000);
    assert!(world.tunnels.as_ref().is_some_and(|tunnels| tunnels.ends.is_empty()));
    assert!(!world.ruleset().chains.contains_key("tunnels"));
    assert_eq!(to_b(&world), plain);
}

#[test]
fn cross_subnet_follows_what_is_on_the_link() {
    for (far, way) in [(false, "via 172.31.0.3 dev eth0"), (true, "via 10.244.0.70 dev vxlan.calico onlink")] {
        let world = world(with("vxlanMode", "CrossSubnet", far), false);
        assert_eq!(to_b(&world), way);
    }
    let mut world = world(with("vxlanMode", "CrossSubnet", true), false);
    let near = common::route("172.31.9.0/24", tortie_felix::Target::device(common::ETH0), 2, 0);
    world.send(tortie_felix::Event::RouteChanged(near.clone()));
    assert_eq!(to_b(&world), "via 172.31.9.3 dev eth0", "the node has an address in that subnet now");
    world.send(tortie_felix::Event::RouteRemoved(near));
    assert_eq!(to_b(&world), "via 10.244.0.70 dev vxlan.calico onlink");
}

#[test]
fn ipip_leads_to_the_node_itself() {
    let mut late = with("ipipMode", "Always", true);
    late.push(node("b", &["172.31.9.3"], &[]));
    assert_eq!(to_b(&world(late, false)), "nowhere", "it has not told yet that it has an end");
    for bgp in [true, false] {
        let world = world(with("ipipMode", "Always", true), bgp);
        assert_eq!(to_b(&world), "via 172.31.9.3 dev tunl0 onlink");
        let ends = &world.tunnels.as_ref().expect("ends").ends;
        assert_eq!(ends.keys().collect::<Vec<_>>(), [&Tunnel::Ipip]);
        assert!(ends[&Tunnel::Ipip].peers.is_empty(), "it needs no tables");
    }
}

#[test]
fn without_bgp_borrowed_addresses_and_ends_outside_blocks_have_routes_of_their_own() {
    let mut objects = with("vxlanMode", "Always", false);
    objects.push(node("b", &["172.31.0.3"], &[(VXLAN, "10.244.0.70")]));
    objects.push(node("c", &["172.31.0.4"], &[(VXLAN, "10.244.0.71")]));
    objects.push(on(pod("default", "guest", "x", &["10.244.0.72"]), "c"));
    let mut world = world(objects, false);
    let through = |address: &str| format!("{address}/32 via 10.244.0.71 dev vxlan.calico onlink");
    let ours = world.ours();
    assert!(ours.contains(&through("10.244.0.71")) && ours.contains(&through("10.244.0.72")), "{ours:?}");
    let key = ObjectKey { kind: Kind::Pod, namespace: Some("default".into()), name: "guest".into() };
    world.delete(key);
    world.apply(vec![block("10.244.0.64/26", "c")]);
    let ours = world.ours();
    assert!(!ours.contains(&through("10.244.0.72")) && !ours.contains(&through("10.244.0.71")), "{ours:?}");
    assert_eq!(to_b(&world), "via 10.244.0.71 dev vxlan.calico onlink", "the block has passed to node c");
}

fn on(object: Object, node: &str) -> Object {
    let Object::Pod(mut pod) = object else { panic!("a pod") };
    pod.spec.node_name = Some(node.to_owned());
    Object::Pod(pod)
}

#[test]
fn a_kernel_without_the_overlay_is_told_and_other_pools_go_on() {
    let mut world = World::new("a");
    world.no_tunnels.insert(Tunnel::Ipip);
    world.start(Vec::new());
    let mut objects = with("vxlanMode", "Always", false);
    objects.extend([pool("other", "10.245.0.0/16", "ipipMode", "Always"), block("10.245.0.0/26", "b")]);
    world.apply(objects);
    assert_eq!(to_b(&world), "via 10.244.0.70 dev vxlan.calico onlink");
    let problems = world.felix.status().problems;
    assert!(problems.iter().any(|problem| problem.contains("no IPIP")), "{problems:?}");
    assert!(!world.ours().iter().any(|route| route.starts_with("10.245.")), "{:?}", world.ours());
}

#[test]
fn an_end_outside_the_nodes_blocks_is_announced() {
    let mut objects = with("vxlanMode", "Always", false);
    objects.push(node("a", &["172.31.0.2"], &[(VXLAN, "10.244.0.100")]));
    let world = world(objects, true);
    let config = world.bgp.as_ref().expect("a speaker");
    let announced: Vec<String> = config.originate.iter().map(|originated| originated.prefix.to_string()).collect();
    assert!(announced.contains(&"10.244.0.100/32".to_owned()), "{announced:?}");
}

#[test]
fn a_restart_writes_nothing() {
    let endpoints = || vec![endpoint("default", "web", &["10.244.0.1"])];
    let mut world = World::new("a");
    world.link_of(&endpoints()[0], true);
    world.start(endpoints());
    world.apply(with("vxlanMode", "Always", false));
    world.rib("10.244.0.64/26", "172.31.0.3");
    let before = world.ours();
    world.restart();
    world.start(endpoints());
    world.apply(with("vxlanMode", "Always", false));
    let routes = world.writes.iter().filter(|action| matches!(action, tortie_felix::Action::ApplyRoutes(_)));
    assert_eq!(routes.count(), 0, "{:?}", world.writes);
    assert_eq!(world.ours(), before);
}
