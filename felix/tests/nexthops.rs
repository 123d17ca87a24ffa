//! Routes by several next hops, next hops that cannot be reached, and who owns what: step by step in a made-up kernel.

mod common;

use common::{ETH0, World, cluster, endpoint, ip, local_endpoints, net, pod, route, via};
use ipnet::IpNet;
use tortie_bird_lite::RibUpdate;
use tortie_felix::{Action, Event, Link, RouteChange, RouteState, RouteView, Snapshot, Target};

const ETH1: u32 = 3;

fn ready() -> World {
    let mut world = World::new("a");
    world.links.insert(ETH1, Link { index: ETH1, name: "eth1".into(), up: true });
    world.insert(route("172.32.0.0/24", Target::device(ETH1), 2, 0));
    world.insert(route("fd00:172:32::/64", Target::device(ETH1), 2, 256));
    world.start(Vec::new());
    world.apply(cluster());
    world.writes.clear();
    world
}

fn best(world: &mut World, prefix: &str, next_hops: &[&str]) {
    let next_hops = next_hops.iter().map(|hop| ip(hop)).collect();
    world.send(Event::Rib(RibUpdate::Best { prefix: net(prefix), next_hops }));
}

fn view(world: &World, destination: &str) -> RouteView {
    let destination = net(destination);
    world.felix.routes().into_iter().find(|view| view.destination == destination).expect("it is shown")
}

/// The route changes since this was asked last.
fn changes(world: &mut World) -> Vec<RouteChange> {
    let taken = std::mem::take(&mut world.writes).into_iter();
    let changes = taken.filter_map(|action| match action {
        Action::ApplyRoutes(changes) => Some(changes),
        _ => None,
    });
    changes.flatten().collect()
}

fn two(first: &str, second: &str) -> Target {
    Target::multipath(vec![(ip(first), ETH0), (ip(second), ETH1)])
}

#[test]
fn equal_next_hops_are_one_route_whatever_their_order() {
    let mut world = ready();
    for (prefix, [a, b]) in [
        ("10.244.64.0/26", ["172.31.0.3", "172.32.0.3"]),
        ("fd00:10:244::/122", ["fd00:172:31::3", "fd00:172:32::3"]),
        ("10.244.65.0/26", ["172.31.0.3", "fd00:172:32::3"]),
    ] {
        best(&mut world, prefix, &[b, a]);
        let wanted = route(prefix, two(a, b), 80, 1024);
        assert_eq!(changes(&mut world), [RouteChange::Create(wanted.clone())]);
        best(&mut world, prefix, &[a, b, a]);
        assert_eq!(changes(&mut world), [], "the same in another order");
        let shown = view(&world, prefix);
        assert_eq!(shown.state, RouteState::Present);
        assert_eq!(shown.next_hops, [(ip(a), "eth0".to_owned()), (ip(b), "eth1".to_owned())]);
        // One less, in one step: at no time is there no route.
        best(&mut world, prefix, &[b]);
        let one = Target::Via { gateway: ip(b), index: ETH1 };
        assert_eq!(changes(&mut world), [RouteChange::Replace(route(prefix, one, 80, 1024))]);
        best(&mut world, prefix, &[b, a]);
        assert_eq!(changes(&mut world), [RouteChange::Replace(wanted.clone())]);
        assert_eq!(world.fib[&(net(prefix), 1024)], wanted);
    }
}

#[test]
fn a_next_hop_that_is_lost_shrinks_the_route() {
    let mut world = ready();
    best(&mut world, "10.244.64.0/26", &["172.31.0.3", "172.32.0.3"]);
    let both = world.fib[&(net("10.244.64.0/26"), 1024)].clone();
    changes(&mut world);
    // The kernel keeps the route and its dead next hop; the link's own routes go in silence.
    world.fib.remove(&(net("172.32.0.0/24"), 0));
    world.send(Event::LinkChanged(Link { index: ETH1, name: "eth1".into(), up: false }));
    let left = route("10.244.64.0/26", via("172.31.0.3"), 80, 1024);
    assert_eq!(changes(&mut world), [RouteChange::Replace(left)]);
    let problems = world.felix.status().problems;
    assert!(
        problems.iter().any(|text| text.contains("172.32.0.3 is not reachable: the node has no route")),
        "{problems:?}"
    );
    assert_eq!(view(&world, "10.244.64.0/26").state, RouteState::Present, "as far as it can be");
    world.send(Event::LinkChanged(Link { index: ETH1, name: "eth1".into(), up: true }));
    assert_eq!(changes(&mut world), [], "its subnet is not back yet");
    let subnet = route("172.32.0.0/24", Target::device(ETH1), 2, 0);
    world.insert(subnet.clone());
    world.send(Event::RouteChanged(subnet));
    assert_eq!(changes(&mut world), [RouteChange::Replace(both)]);
}

#[test]
fn next_hops_resolve_through_others_routes_by_several_gateways_and_the_default() {
    let mut world = ready();
    best(&mut world, "10.244.64.0/26", &["192.0.2.1", "192.0.2.2"]);
    assert_eq!(changes(&mut world), []);
    let held = view(&world, "10.244.64.0/26");
    assert_eq!((held.state, held.via), (RouteState::Missing, Some(ip("192.0.2.1"))));
    assert_eq!(
        held.reason.as_deref(),
        Some("next hop 192.0.2.1: the node has no route to it; next hop 192.0.2.2: the node has no route to it")
    );
    // As BIRD has it, the default route is a route.
    let default = route("0.0.0.0/0", via("172.31.0.1"), 16, 100);
    world.insert(default.clone());
    world.send(Event::RouteChanged(default));
    assert_eq!(world.fib[&(net("10.244.64.0/26"), 1024)].target, via("172.31.0.1"), "one gateway, named once");
    let fabric = route("192.0.2.0/24", two("172.31.0.8", "172.32.0.8"), 186, 20);
    world.insert(fabric.clone());
    world.send(Event::RouteChanged(fabric));
    assert_eq!(world.fib[&(net("10.244.64.0/26"), 1024)].target, two("172.31.0.8", "172.32.0.8"));
    let hole = route("192.0.2.1/32", Target::Blackhole, 4, 0);
    world.insert(hole.clone());
    world.send(Event::RouteChanged(hole));
    best(&mut world, "10.244.64.0/26", &["192.0.2.1"]);
    let held = view(&world, "10.244.64.0/26");
    let reason = held.reason.expect("a reason");
    assert!(reason.contains("the node's route to it, 192.0.2.1/32, leads nowhere"), "{reason}");
    assert!(!world.fib.contains_key(&(net("10.244.64.0/26"), 1024)));
}

#[test]
fn a_gateway_that_is_only_on_the_link_stays_so() {
    let mut world = ready();
    let default = route("0.0.0.0/0", Target::Onlink { gateway: ip("169.254.0.1"), index: ETH0 }, 16, 100);
    world.insert(default.clone());
    world.send(Event::RouteChanged(default.clone()));
    best(&mut world, "10.244.64.0/26", &["192.0.2.1"]);
    assert_eq!(world.fib[&(net("10.244.64.0/26"), 1024)].target, default.target);
}

#[test]
fn refused_routes_are_tried_again_when_something_changes() {
    let mut world = ready();
    world.refuse_routes = Some("Nexthop has invalid gateway".into());
    best(&mut world, "10.244.64.0/26", &["172.31.0.3"]);
    let held = view(&world, "10.244.64.0/26");
    assert_eq!(held.state, RouteState::Missing);
    assert_eq!(held.reason.as_deref(), Some("Nexthop has invalid gateway; it will be tried again"));
    for event in [
        Event::AddressAdded { index: ETH0, address: ip("172.31.0.2") },
        Event::RouteChanged(route("172.31.0.0/16", via("172.31.0.1"), 4, 7)),
        Event::LinkChanged(Link { index: ETH0, name: "uplink".into(), up: true }),
    ] {
        changes(&mut world);
        world.send(Event::AddressAdded { index: ETH1, address: ip("172.32.0.2") });
        assert_eq!(changes(&mut world), [], "of no concern");
        world.send(event.clone());
        if !matches!(event, Event::LinkChanged(_)) {
            assert_eq!(changes(&mut world).len(), 1, "{event:?}");
        }
    }
    world.refuse_routes = None;
    world.send(Event::AddressAdded { index: ETH0, address: ip("172.31.0.2") });
    assert_eq!(view(&world, "10.244.64.0/26").state, RouteState::Present);
}

#[test]
fn something_unknown_in_our_place_is_looked_at_and_left_alone() {
    let mut world = ready();
    // Nobody announced it yet.
    let theirs = route("10.244.64.0/26", via("172.31.0.9"), 4, 1024);
    world.insert(theirs.clone());
    best(&mut world, "10.244.64.0/26", &["172.31.0.3"]);
    world.advance(1_500);
    assert_eq!(world.fib[&(net("10.244.64.0/26"), 1024)], theirs);
    let shown = view(&world, "10.244.64.0/26");
    assert_eq!((shown.state, shown.protocol), (RouteState::Foreign, 4));
    assert!(shown.reason.expect("a reason").contains("protocol 4 with metric 1024"));
    world.fib.remove(&(net("10.244.64.0/26"), 1024));
    world.send(Event::RouteRemoved(theirs));
    assert_eq!(world.fib[&(net("10.244.64.0/26"), 1024)].target, via("172.31.0.3"));
}

#[test]
fn announcements_while_the_table_is_read_are_newer_than_what_was_read() {
    let mut world = ready();
    best(&mut world, "10.244.64.0/26", &["172.31.0.3"]);
    changes(&mut world);
    world.paused = true;
    // In steps that are shorter than the pause between readings: another one would see the truth too.
    while !world.held.contains(&Action::ReadRoutes) {
        assert!(world.now < 1_000_000, "it is never read: {:?}", world.held);
        world.advance(100);
    }
    world.held.retain(|action| *action != Action::ReadRoutes);
    world.release();
    // The reading has passed this route already when somebody deletes it.
    let snapshot = Snapshot {
        links: world.links.values().cloned().collect(),
        routes: world.fib.values().cloned().collect(),
        ..Snapshot::default()
    };
    let gone = world.fib.remove(&(net("10.244.64.0/26"), 1024)).expect("it is there");
    world.send(Event::RouteRemoved(gone.clone()));
    assert_eq!(changes(&mut world), [], "not before it is read");
    world.send(Event::RoutesRead(Ok(snapshot)));
    assert_eq!(changes(&mut world), [RouteChange::Create(gone)], "put back at once");
}

#[test]
fn a_gateway_of_a_strangers_in_our_ipv6_route_is_not_taken_out() {
    let mut world = ready();
    let prefix = net("fd00:10:244::/122");
    best(&mut world, "fd00:10:244::/122", &["fd00:172:31::3"]);
    // Somebody appended one; the kernel announces the whole under his protocol, and lists it under ours.
    let mixed = two("fd00:172:31::3", "fd00:172:32::9");
    world.insert(route("fd00:10:244::/122", mixed.clone(), 80, 1024));
    world.strangers_gateway = Some((ip("fd00:172:32::9"), ETH1));
    world.send(Event::RouteChanged(route("fd00:10:244::/122", mixed, 4, 1024)));
    world.advance(10_000);
    let left = &world.fib[&(prefix, 1024)];
    assert_eq!((left.protocol, &left.target), (4, &Target::Via { gateway: ip("fd00:172:32::9"), index: ETH1 }));
    assert_eq!(view(&world, "fd00:10:244::/122").state, RouteState::Foreign);
}

#[test]
fn an_address_that_is_let_go_takes_its_flows_along() {
    let mut world = ready();
    world.add(&local_endpoints()[0]);
    let destination = IpNet::from(ip("10.244.0.1"));
    let released = |world: &mut World| changes(world).iter().filter(|change| change.released().is_some()).count();
    changes(&mut world);
    // The interface goes first, and the route with it in silence: the deletion comes all the same.
    let interface = world.links.values().find(|link| link.name.starts_with("cali")).cloned().expect("the pod's");
    world.links.remove(&interface.index);
    world.fib.remove(&(destination, 1024));
    world.send(Event::LinkRemoved { index: interface.index });
    assert_eq!(released(&mut world), 0);
    let request = world.remove(&local_endpoints()[0]);
    assert_eq!((released(&mut world), world.answers.get(&request)), (1, Some(&Ok(()))));

    // It is another pod's at once, and then another node's.
    world.apply(vec![pod("default", "next", "x", &["10.244.0.1"])]);
    let next = endpoint("default", "next", &["10.244.0.1"]);
    world.add(&next);
    best(&mut world, "10.244.0.1/32", &["172.31.0.3"]);
    changes(&mut world);
    world.remove(&next);
    let moved: Vec<_> = changes(&mut world);
    assert!(
        matches!(&moved[..], [RouteChange::Delete(_), RouteChange::Create(to)] if to.target == via("172.31.0.3")),
        "{moved:?}"
    );
}

#[test]
fn an_interface_that_comes_back_under_another_number_is_another() {
    let mut world = ready();
    best(&mut world, "10.244.64.0/26", &["172.31.0.3", "172.32.0.3"]);
    let subnet = route("172.32.0.0/24", Target::device(ETH1), 2, 0);
    for index in [9, ETH1] {
        let gone = if index == 9 { ETH1 } else { 9 };
        world.links.remove(&gone);
        // IPv4 drops the whole route with a device, and all in silence.
        world.fib.retain(|_, route| !route.target.devices().any(|device| device == gone));
        world.send(Event::LinkRemoved { index: gone });
        assert_eq!(world.fib[&(net("10.244.64.0/26"), 1024)].target, via("172.31.0.3"));
        let link = Link { index, name: "eth1".into(), up: true };
        world.links.insert(index, link.clone());
        world.send(Event::LinkChanged(link));
        let again = tortie_felix::Route { target: Target::device(index), ..subnet.clone() };
        world.insert(again.clone());
        world.send(Event::RouteChanged(again));
        let hops = Target::multipath(vec![(ip("172.31.0.3"), ETH0), (ip("172.32.0.3"), index)]);
        assert_eq!(world.fib[&(net("10.244.64.0/26"), 1024)].target, hops);
    }
}
