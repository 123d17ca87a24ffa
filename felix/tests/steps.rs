//! The order of steps: rules before routes, one transaction at a time, failures tried again, and what requests are told.

mod common;

use common::{ETH0, World, allow, block, cluster, endpoint, local_endpoints, net, node, pod, route, via};
use tortie_api::{Kind, ObjectKey};
use tortie_bird_lite::RibUpdate;
use tortie_felix::{Action, Config, Event, Felix, Link, RouteState, Target};
use tortie_nft::Value;

fn ready() -> World {
    let mut world = World::new("a");
    world.start(Vec::new());
    world.apply(cluster());
    world.send(Event::Rib(RibUpdate::Converged));
    world.writes.clear();
    world
}

#[test]
fn a_pod_gets_its_route_after_its_rules_and_its_answer_after_its_route() {
    let mut world = ready();
    let web = &local_endpoints()[0];
    world.paused = true;
    let request = world.add(web);
    assert!(matches!(world.held.make_contiguous(), [Action::ApplyRules(_)]), "{:?}", world.held);
    world.release_one();
    assert!(world.answers.is_empty());
    assert!(matches!(world.held.make_contiguous(), [Action::ApplyRoutes(_)]), "{:?}", world.held);
    world.release_one();
    assert_eq!(world.answers.get(&request), Some(&Ok(())));

    let request = world.remove(web);
    assert!(world.held.iter().any(|action| matches!(action, Action::ApplyRules(_))));
    world.release_one();
    assert!(!world.answers.contains_key(&request), "rules or route are still there");
    world.release_one();
    assert_eq!(world.answers.get(&request), Some(&Ok(())));
    assert!(world.ruleset().sets["own4"].elements.is_empty());
    assert_eq!(world.ours().len(), 1);
}

#[test]
fn a_burst_is_one_transaction_more_and_the_first_does_not_wait() {
    let mut world = ready();
    world.paused = true;
    let endpoints: Vec<_> =
        (1..=50).map(|n| endpoint("default", &format!("p{n}"), &[&format!("10.244.0.{n}")])).collect();
    let pods = endpoints.iter().map(|e| pod("default", &e.pod, "x", &[&e.ips[0].to_string()]));
    world.apply(pods.collect());
    world.release_one();
    let requests: Vec<_> = endpoints.iter().map(|endpoint| world.add(endpoint)).collect();
    assert_eq!(world.held.len(), 1, "the first is under way, the others wait");
    world.release();
    assert!(requests.iter().all(|request| world.answers.get(request) == Some(&Ok(()))));
    assert_eq!(world.transactions(), 2, "{:?}", world.writes);
}

#[test]
fn a_pod_waits_for_its_object_but_not_for_ever() {
    let mut world = ready();
    let late = endpoint("default", "late", &["10.244.0.9"]);
    let request = world.add(&late);
    assert!(world.answers.is_empty());
    assert_eq!(world.ours().len(), 1, "no route while the policies are unknown");
    world.apply(vec![pod("default", "late", "web", &[])]);
    assert_eq!(world.answers.get(&request), Some(&Ok(())));
    assert_eq!(world.ours().len(), 2);

    let never = endpoint("default", "never", &["10.244.0.10"]);
    let request = world.add(&never);
    world.advance(29_000);
    assert!(!world.answers.contains_key(&request));
    world.advance(2_000);
    let error = world.answers[&request].clone().expect_err("too late");
    assert!(error.contains("showed no Pod default/never that runs on a network of its own"), "{error}");
    world.apply(vec![pod("default", "never", "web", &[])]);
    assert_eq!(world.ours().len(), 2, "an ADD that failed leaves nothing behind");
}

#[test]
fn a_pod_that_ends_or_vanishes_is_cut_off() {
    let mut world = ready();
    let web = &local_endpoints()[0];
    world.add(web);
    assert_eq!(world.ours().len(), 2);
    world.delete(ObjectKey { kind: Kind::Pod, namespace: Some("default".into()), name: "web".into() });
    assert_eq!(world.ours().len(), 1);
    assert!(world.ruleset().sets["own4"].elements.is_empty());
    world.apply(vec![pod("default", "web", "web", &["10.244.0.1"])]);
    assert_eq!(world.ours().len(), 2, "and comes back with its object");
}

#[test]
fn a_route_waits_for_the_interface() {
    let mut world = ready();
    let web = local_endpoints().remove(0);
    world.link_of(&web, false);
    let request = 99;
    world.send(Event::AddEndpoint { request, endpoint: web.clone() });
    assert!(world.answers.is_empty());
    world.link_of(&web, true);
    assert_eq!(world.answers.get(&request), Some(&Ok(())));
}

#[test]
fn refused_rules_are_tried_again_and_the_last_good_ones_stay() {
    let mut world = ready();
    world.add(&local_endpoints()[1]);
    let table = world.ruleset();
    world.refuse_rules = 3;
    let before = world.felix.programmed_revision().to_owned();
    let revision = world.apply(vec![allow("other", "client", "web")]);
    let request = world.add(&local_endpoints()[0]);
    assert_eq!(world.ruleset(), table);
    assert!(!world.answers.contains_key(&request), "not protected, so not admitted");
    let problems = world.felix.status().problems;
    assert!(problems.iter().any(|text| text.contains("the kernel says no")), "{problems:?}");
    assert_eq!(world.felix.programmed_revision(), before);
    world.advance(2_000);
    assert_eq!(world.felix.programmed_revision(), revision);
    assert_eq!(world.answers.get(&request), Some(&Ok(())));
    assert_eq!(world.felix.status().problems, Vec::<String>::new());

    // For ever: the requests end with the reason, and an ADD leaves nothing.
    world.refuse_rules = u32::MAX;
    world.apply(vec![pod("default", "third", "web", &["10.244.0.3"])]);
    let request = world.add(&endpoint("default", "third", &["10.244.0.3"]));
    world.advance(40_000);
    let error = world.answers[&request].clone().expect_err("never");
    assert!(error.contains("rules of pod default/third") && error.contains("the kernel says no"), "{error}");
    let request = world.remove(&local_endpoints()[0]);
    world.advance(40_000);
    let error = world.answers[&request].clone().expect_err("never");
    assert!(error.contains("still in the kernel"), "{error}");
    let tries = world.transactions();
    world.advance(300_000);
    assert!(world.transactions() - tries < 25, "the pauses grow");
}

#[test]
fn refused_routes_are_tried_again() {
    let mut world = ready();
    world.refuse_routes = Some("Network is down".into());
    let request = world.add(&local_endpoints()[0]);
    assert!(world.answers.is_empty());
    let problems = world.felix.status().problems;
    assert!(problems.iter().any(|text| text.contains("10.244.0.1/32: Network is down")), "{problems:?}");
    world.refuse_routes = None;
    world.advance(3_000);
    assert_eq!(world.answers.get(&request), Some(&Ok(())));
    assert_eq!(world.felix.status().problems, Vec::<String>::new());
}

#[test]
fn what_others_do_to_our_routes_is_undone_and_theirs_is_left_alone() {
    let mut world = ready();
    world.add(&local_endpoints()[0]);
    let fib = world.fib.clone();
    let destination = net("10.244.0.1/32");
    let gone = world.fib.remove(&(destination, 1024)).expect("the pod's route");
    world.send(Event::RouteRemoved(gone));
    assert_eq!(world.fib, fib);

    let wrong = route("10.244.0.1/32", Target::Blackhole, 80, 1024);
    world.insert(wrong.clone());
    world.send(Event::RouteChanged(wrong));
    assert_eq!(world.fib, fib);

    // Somebody else's in our very place is not replaced, and shown.
    let foreign = route("10.244.0.1/32", Target::Blackhole, 4, 1024);
    world.insert(foreign.clone());
    world.send(Event::RouteChanged(foreign.clone()));
    assert_eq!(world.fib[&(destination, 1024)].protocol, 4);
    let view = world.felix.routes().into_iter().find(|view| view.destination == destination).expect("shown");
    assert_eq!((view.state, view.protocol), (RouteState::Foreign, 4));
    world.fib.remove(&(destination, 1024));
    world.send(Event::RouteRemoved(foreign));
    assert_eq!(world.fib, fib);
}

#[test]
fn a_device_that_goes_down_takes_its_routes_and_gets_them_back() {
    let mut world = ready();
    world.rib("10.244.0.64/26", "172.31.0.3");
    let fib = world.fib.clone();
    // The kernel drops them without a word.
    world.fib.retain(|_, route| !matches!(route.target, Target::Via { .. } | Target::Device { .. }));
    world.send(Event::LinkChanged(Link { index: ETH0, name: "eth0".into(), up: false }));
    assert!(!world.fib.contains_key(&(net("10.244.0.64/26"), 1024)), "no way to the next hop, no route");
    let problems = world.felix.status().problems;
    assert!(problems.iter().any(|text| text.contains("BGP next hop 172.31.0.3 is not reachable")), "{problems:?}");
    world.send(Event::LinkChanged(Link { index: ETH0, name: "eth0".into(), up: true }));
    for connected in
        [route("172.31.0.0/24", Target::device(ETH0), 2, 0), route("fd00:172:31::/64", Target::device(ETH0), 2, 256)]
    {
        world.insert(connected.clone());
        world.send(Event::RouteChanged(connected));
    }
    assert_eq!(world.fib, fib);
}

#[test]
fn next_hops_are_resolved_recursively_and_never_through_ourselves() {
    let mut world = ready();
    // Another subnet, no route to it: nothing is written.
    world.rib("10.244.1.0/26", "172.31.1.3");
    assert_eq!(world.ours().len(), 1);
    let gateway = route("172.31.1.0/24", via("172.31.0.1"), 4, 0);
    world.insert(gateway.clone());
    world.send(Event::RouteChanged(gateway.clone()));
    assert!(world.ours().contains("10.244.1.0/26 via 172.31.0.1 dev eth0"), "{:?}", world.ours());
    // A peer announces the very subnet of its next hop: our own route must not carry it.
    world.rib("172.31.1.0/24", "172.31.0.3");
    world.fib.remove(&(gateway.destination, gateway.metric));
    world.send(Event::RouteRemoved(gateway));
    assert!(!world.ours().iter().any(|route| route.starts_with("10.244.1.0/26")), "{:?}", world.ours());
    // Our own address as next hop is a loop.
    world.rib("10.244.9.0/26", "172.31.0.2");
    assert!(!world.ours().iter().any(|route| route.starts_with("10.244.9.0/26")));
}

#[test]
fn a_gateway_is_of_a_family_that_the_kernel_takes() {
    let mut world = ready();
    world.rib("fd00:10:244:1::/122", "172.31.0.3");
    assert_eq!(world.ours().len(), 1, "IPv6 by an IPv4 gateway: {:?}", world.ours());
    world.rib("10.244.1.0/26", "fd00:172:31::3");
    assert!(world.ours().contains("10.244.1.0/26 via fd00:172:31::3 dev eth0"), "RFC 8950: {:?}", world.ours());
}

#[test]
fn a_more_specific_route_stands_inside_our_blackhole() {
    let mut world = ready();
    world.rib("10.244.0.9/32", "172.31.0.3");
    assert!(world.ours().contains("10.244.0.9/32 via 172.31.0.3 dev eth0"), "a borrowed address: {:?}", world.ours());
    // The pod is ours now: the local route takes the place of the other's.
    world.apply(vec![pod("default", "moved", "x", &["10.244.0.9"])]);
    let moved = endpoint("default", "moved", &["10.244.0.9"]);
    world.add(&moved);
    assert!(world.ours().contains(&format!("10.244.0.9/32 dev {}", moved.interface)));
    world.remove(&moved);
    assert!(world.ours().contains("10.244.0.9/32 via 172.31.0.3 dev eth0"));
    // A block of a single address has no blackhole: it would stand in the pod's place.
    world.apply(vec![block("10.244.3.7/32", "a")]);
    assert!(!world.ours().contains("blackhole 10.244.3.7/32"));
}

#[test]
fn tightening_moves_the_generation_and_loosening_does_not() {
    let mut world = ready();
    world.add(&local_endpoints()[0]);
    let first = world.felix.status().generation;
    world.apply(vec![pod("default", "c2", "client", &["10.244.0.70"])]);
    assert_eq!(world.felix.status().generation, first, "one more may");
    world.apply(vec![allow("web", "web", "nobody")]);
    assert_ne!(world.felix.status().generation, first, "those who might no longer may");

    // Moves are rationed: a stamp must not come round again within a conntrack entry's life.
    let start = world.felix.status().generation;
    for n in 0..200 {
        world.apply(vec![allow("web", "web", if n % 2 == 0 { "client" } else { "nobody" })]);
    }
    let moved = world.felix.status().generation - start;
    assert!((10..=20).contains(&moved), "{moved}");
    let revision = world.apply(vec![allow("web", "web", "nobody")]);
    world.advance(200);
    assert_eq!(world.felix.programmed_revision(), revision, "the last word is programmed all the same");
}

#[test]
fn two_pods_never_share_an_address() {
    let mut world = ready();
    world.add(&local_endpoints()[0]);
    let thief = endpoint("default", "client", &["10.244.0.1"]);
    let request = world.add(&thief);
    let error = world.answers[&request].clone().expect_err("taken");
    assert!(error.contains("in use on this node by pod default/web"), "{error}");
}

#[test]
fn the_programmed_revision_waits_for_rules_routes_and_bgp() {
    for last in 0..3 {
        let mut world = ready();
        world.add(&local_endpoints()[0]);
        world.paused = true;
        let before = world.felix.programmed_revision().to_owned();
        world.apply(vec![
            allow("other", "web", "web"),
            block("10.244.2.0/26", "a"),
            node("c", &["172.31.0.4"], &[]),
            pod("default", "web", "other", &["10.244.0.1"]),
        ]);
        // A later revision without consequences does not overtake.
        let later = world.apply(vec![pod("default", "elsewhere", "none", &[])]);
        assert_eq!(world.held.len(), 3, "rules, routes and BGP: {:?}", world.held);
        let last = std::mem::discriminant(&world.held[last]);
        while !world.held.is_empty() {
            assert_eq!(world.felix.programmed_revision(), before, "{:?} is missing", world.held);
            if std::mem::discriminant(&world.held[0]) == last {
                world.held.rotate_left(1);
            }
            world.release_one();
        }
        assert_eq!(world.felix.programmed_revision(), later);
    }
}

#[test]
fn without_the_dataplane_nothing_in_the_kernel_is_touched() {
    let mut world = ready();
    world.felix = Felix::new(Config { dataplane: false, ..common::config("a") });
    world.writes.clear();
    world.start(Vec::new());
    let revision = world.apply(cluster());
    world.rib("10.244.0.64/26", "172.31.0.3");
    world.advance(200_000);
    assert!(matches!(world.writes.as_slice(), [Action::ConfigureBgp(_)]), "{:?}", world.writes);
    assert_eq!(world.felix.programmed_revision(), revision);
    let request = world.add(&local_endpoints()[0]);
    assert!(world.answers[&request].is_err());
}

/// Pods elsewhere come in a burst, one event each: the first is written at once, all others together after it.
#[test]
fn a_burst_of_peers_is_gathered_behind_the_first() {
    let mut world = ready();
    world.add(&local_endpoints()[0]);
    world.apply(vec![allow("p", "web", "burst")]);
    world.writes.clear();
    world.paused = true;
    for number in 1..=200 {
        let pods = vec![pod("default", &format!("peer{number}"), "burst", &[&format!("10.245.0.{number}")])];
        world.apply(pods);
        assert_eq!(world.held.len(), 1, "the first is under way, whatever comes after it");
    }
    world.release();
    assert_eq!(world.transactions(), 2, "{:?}", world.writes);
    assert_eq!(peers(&world), 200, "not all are there");
}

/// How many of a burst's pods are in one set of peers.
fn peers(world: &World) -> usize {
    let of_burst =
        |element: &Vec<Value>| matches!(&element[..], [Value::Addr(ip)] if net("10.245.0.0/24").contains(ip));
    let table = world.ruleset();
    let sets = table.sets.iter().filter(|(name, _)| name.starts_with("s4_"));
    sets.map(|(_, set)| set.elements.iter().filter(|element| of_burst(element)).count()).max().unwrap_or_default()
}

/// Pods go faster than the generation may move. What they leave is taken out at once all the same; only who asks whether it is done is
/// told when flows have ended too.
#[test]
fn pods_that_go_faster_than_the_generation_moves_wait_for_nothing() {
    let mut world = ready();
    world.add(&local_endpoints()[0]);
    world.apply(vec![allow("p", "web", "burst")]);
    let name = |number| format!("peer{number}");
    let pods = (1..=60).map(|number| pod("default", &name(number), "burst", &[&format!("10.245.0.{number}")]));
    world.apply(pods.collect());
    let mut last = String::new();
    let mut owed = 0;
    for number in 1..=60 {
        let key = ObjectKey { kind: Kind::Pod, namespace: Some("default".into()), name: name(number) };
        last = world.delete(key);
        assert_eq!(peers(&world), 60 - number, "the address of a pod that is gone stays");
        owed += usize::from(world.felix.programmed_revision() != last);
    }
    assert!(owed > 20, "the generation moved {} times in no time", 60 - owed);
    let before = world.felix.status().generation;
    world.advance(1_000);
    assert_eq!(world.felix.programmed_revision(), last);
    assert_eq!(world.felix.status().generation, before + 1, "one move ends the flows of all that went");
    assert!(world.felix.poll().is_none());
}
