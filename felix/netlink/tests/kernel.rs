//! The edge against a real kernel, in namespaces that end with the test. Needs root.

use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use tortie_felix_netlink::{
    Bulk, Error, Event, Mac, Monitor, Net, Netns, Reach, RouteChange, RouteKind, RouteSpec, VethSpec, netns, sysctl,
};

const PROTOCOL: u8 = 80;

fn net(text: &str) -> IpNet {
    text.parse().expect("a network")
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A namespace with `veth0` up, and another with its peer.
struct Pair {
    netns: Netns,
    net: Net,
    index: u32,
    peer: Netns,
}

async fn pair() -> Pair {
    let (netns, peer) = (netns::anonymous().expect("a namespace"), netns::anonymous().expect("a namespace"));
    for side in [&netns, &peer] {
        sysctl::set_in(side, &[("net.ipv6.conf.default.accept_dad", "0"), ("net.ipv6.conf.all.disable_ipv6", "0")])
            .expect("settings");
    }
    let net = Net::in_netns(&netns).expect("a handle");
    let spec = VethSpec {
        name: "veth0".into(),
        mac: Some(Mac([0xee; 6])),
        peer_name: "eth0".into(),
        peer_mac: Some(Mac([2, 0, 0, 0, 0, 1])),
        peer_netns: Some(&peer),
        mtu: 1400,
    };
    let index = net.create_veth(spec).await.expect("a veth");
    net.set_up(index).await.expect("up");
    let other = Net::in_netns(&peer).expect("a handle");
    let end = other.link("eth0").await.expect("read").expect("the peer");
    other.set_up(end.index).await.expect("up");
    Pair { netns, net, index, peer }
}

fn ip_tool() -> String {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/peers/bin").to_owned();
    let path = format!("{}/ip", std::env::var("TORTIE_PEERS").unwrap_or(default));
    assert!(std::path::Path::new(&path).exists(), "{path} is missing: run `make peers`");
    path
}

fn output(netns: &Netns, arguments: &[&str]) -> String {
    let output = netns.run(|| Command::new(ip_tool()).args(arguments).output()).expect("entered").expect("ran");
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[tokio::test]
async fn a_veth_is_born_with_its_peer_elsewhere() {
    let pair = pair().await;
    let link = pair.net.link("veth0").await.expect("read").expect("there");
    assert_eq!((link.mac, link.mtu, link.up), (Some(Mac([0xee; 6])), 1400, true));
    assert_eq!(pair.net.link_by_index(link.index).await.expect("read"), Some(link));
    let other = Net::in_netns(&pair.peer).expect("a handle");
    let end = other.link("eth0").await.expect("read").expect("there");
    assert_eq!((end.mac, end.mtu), (Some(Mac([2, 0, 0, 0, 0, 1])), 1400));
    assert_eq!(pair.net.link("eth0").await.expect("read"), None, "the peer never was here");
    let names: Vec<String> = pair.net.links().await.expect("read").into_iter().map(|link| link.name).collect();
    assert_eq!(names, ["lo", "veth0"]);

    let spec = VethSpec { name: "veth0".into(), peer_name: "other".into(), ..VethSpec::default() };
    let error = pair.net.create_veth(spec).await.expect_err("the name is taken");
    assert!(error.is_exists() && error.to_string().contains("veth0"), "{error}");
    pair.net.set_down(pair.index).await.expect("down");
    assert!(!pair.net.link("veth0").await.expect("read").expect("there").up);
    pair.net.delete_link(pair.index).await.expect("deleted");
    assert_eq!(other.link("eth0").await.expect("read"), None, "the peer goes along");
    assert!(pair.net.delete_link(pair.index).await.expect_err("gone").is_missing());
    assert!(matches!(pair.net.link("a/b").await, Err(Error::Invalid(_))));
}

#[tokio::test]
async fn a_bridge_takes_ports() {
    let pair = pair().await;
    let bridge = pair.net.create_bridge("br0").await.expect("a bridge");
    pair.net.set_master(pair.index, bridge).await.expect("a port");
    pair.net.set_up(bridge).await.expect("up");
    assert_eq!(pair.net.link("veth0").await.expect("read").expect("there").master, Some(bridge));
}

#[tokio::test]
async fn addresses_and_neighbours_read_as_written() {
    let pair = pair().await;
    sysctl::set_in(&pair.netns, &[("net.ipv6.conf.veth0.accept_dad", "1")]).expect("set");
    for address in ["10.0.0.1/24", "10.0.0.2/32", "fd00::1/64"] {
        pair.net.add_address(pair.index, net(address)).await.expect("added");
        pair.net.add_address(pair.index, net(address)).await.expect("added again");
    }
    let mut addresses = pair.net.addresses(pair.index).await.expect("read");
    addresses.retain(|address| !address.to_string().starts_with("fe80"));
    assert_eq!(addresses, [net("10.0.0.1/24"), net("10.0.0.2/32"), net("fd00::1/64")]);
    let listed = output(&pair.netns, &["-6", "-oneline", "addr", "show", "to", "fd00::1"]);
    assert!(listed.contains("fd00::1/64") && !listed.contains("tentative"), "usable at once: {listed}");
    pair.net.delete_address(pair.index, net("10.0.0.2/32")).await.expect("deleted");
    assert!(!pair.net.addresses(pair.index).await.expect("read").contains(&net("10.0.0.2/32")));

    for (address, mac) in [("10.0.0.9", 1), ("fd00::9", 2), ("10.0.0.9", 3)] {
        pair.net.add_neighbour(pair.index, ip(address), Mac([mac; 6])).await.expect("added");
    }
    let mut neighbours = pair.net.neighbours(pair.index).await.expect("read");
    neighbours.sort();
    assert_eq!(neighbours, [(ip("10.0.0.9"), Mac([3; 6])), (ip("fd00::9"), Mac([2; 6]))]);
}

fn samples(index: u32) -> Vec<RouteSpec> {
    let via = |gateway, onlink| RouteKind::Via { gateway: ip(gateway), index: Some(index), onlink };
    vec![
        RouteSpec::new(net("10.1.0.1/32"), RouteKind::Device { index }, PROTOCOL),
        RouteSpec::new(net("10.2.0.0/26"), RouteKind::Blackhole, PROTOCOL),
        RouteSpec::new(net("10.3.0.0/26"), via("10.0.0.9", false), PROTOCOL),
        RouteSpec::new(net("10.4.0.0/26"), via("192.0.2.1", true), PROTOCOL),
        RouteSpec::new(net("10.5.0.0/26"), via("fd00::9", false), PROTOCOL),
        RouteSpec::new(net("10.6.0.0/26"), RouteKind::Unreachable, PROTOCOL),
        RouteSpec::new(net("10.1.0.1/32"), RouteKind::Blackhole, PROTOCOL).with_metric(7),
        RouteSpec::new(net("fd01::1/128"), RouteKind::Device { index }, PROTOCOL),
        RouteSpec::new(net("fd02::/122"), RouteKind::Blackhole, PROTOCOL),
        RouteSpec::new(net("fd03::/122"), via("fd00::9", false), PROTOCOL),
        RouteSpec::new(net("fd04::/122"), via("fd77::9", true), PROTOCOL),
        RouteSpec::new(net("fd05::/122"), RouteKind::Unreachable, PROTOCOL),
        RouteSpec::new(net("fd01::1/128"), RouteKind::Blackhole, PROTOCOL).with_metric(7),
        RouteSpec::new(net("0.0.0.0/0"), via("10.0.0.9", false), PROTOCOL),
        RouteSpec::new(net("::/0"), via("fd00::9", false), PROTOCOL),
    ]
}

fn sorted(mut routes: Vec<RouteSpec>) -> Vec<RouteSpec> {
    routes.sort_by_key(|route| (route.destination, route.metric));
    routes
}

#[tokio::test]
async fn routes_read_as_written_one_by_one_and_in_bulk() {
    let pair = pair().await;
    for address in ["10.0.0.1/24", "fd00::1/64"] {
        pair.net.add_address(pair.index, net(address)).await.expect("added");
    }
    let want = sorted(samples(pair.index));
    for route in &want {
        pair.net.replace_route(route).await.expect("written");
        pair.net.replace_route(route).await.expect("written again");
    }
    assert_eq!(sorted(pair.net.routes(Some(PROTOCOL)).await.expect("read")), want);
    assert!(pair.net.routes(None).await.expect("read").len() > want.len(), "the kernel has some of its own");
    assert!(pair.net.routes(Some(99)).await.expect("read").is_empty());
    for route in &want {
        pair.net.delete_route(route).await.expect("deleted");
        pair.net.delete_route(route).await.expect("gone already");
    }
    assert_eq!(pair.net.routes(Some(PROTOCOL)).await.expect("read"), []);

    let mut bulk = Bulk::in_netns(&pair.netns).expect("a socket");
    let write: Vec<RouteChange> = want.iter().cloned().map(RouteChange::Replace).collect();
    assert!(bulk.apply(&write).expect("answers").is_empty());
    assert_eq!(sorted(pair.net.routes(Some(PROTOCOL)).await.expect("read")), want);
    let delete: Vec<RouteChange> = want.iter().cloned().map(RouteChange::Delete).collect();
    for _ in 0..2 {
        assert!(bulk.apply(&delete).expect("answers").is_empty());
    }
    assert_eq!(pair.net.routes(Some(PROTOCOL)).await.expect("read"), []);
}

#[tokio::test]
async fn replacing_changes_the_kind_and_deleting_spares_strangers() {
    let pair = pair().await;
    for destination in ["10.1.0.1/32", "fd01::1/128"] {
        let mut kinds = vec![RouteKind::Blackhole, RouteKind::Device { index: pair.index }, RouteKind::Unreachable];
        kinds.push(kinds[1].clone());
        for kind in kinds {
            let route = RouteSpec::new(net(destination), kind, PROTOCOL);
            pair.net.replace_route(&route).await.expect("written");
            let there = pair.net.routes(Some(PROTOCOL)).await.expect("read");
            assert_eq!(there, [route], "one route, the last one");
        }
        // Another program's route, and ours that it replaced: deleting ours must not delete theirs.
        let ours = RouteSpec::new(net(destination), RouteKind::Blackhole, PROTOCOL);
        let theirs = RouteSpec { protocol: 4, ..ours.clone() };
        pair.net.replace_route(&theirs).await.expect("written");
        pair.net.delete_route(&ours).await.expect("nothing to delete");
        assert_eq!(pair.net.routes(Some(4)).await.expect("read"), std::slice::from_ref(&theirs));
        // Wherever ours leads by now, it is ours.
        pair.net.delete_route(&theirs).await.expect("deleted");
        let moved = RouteSpec { kind: RouteKind::Device { index: pair.index }, ..ours.clone() };
        pair.net.replace_route(&moved).await.expect("written");
        pair.net.delete_route(&ours).await.expect("deleted");
        assert_eq!(pair.net.routes(Some(PROTOCOL)).await.expect("read"), []);
    }
}

#[tokio::test]
async fn the_kernel_speaks_for_itself() {
    let pair = pair().await;
    let via = RouteKind::Via { gateway: ip("192.0.2.1"), index: Some(pair.index), onlink: false };
    let route = RouteSpec::new(net("10.9.0.0/16"), via, PROTOCOL);
    let text = pair.net.replace_route(&route).await.expect_err("no way to the gateway").to_string();
    assert!(text.contains("10.9.0.0/16 via 192.0.2.1") && text.contains("invalid gateway"), "{text}");
    let mixed = RouteKind::Via { gateway: ip("192.0.2.1"), index: Some(pair.index), onlink: false };
    let route = RouteSpec::new(net("fd09::/64"), mixed, PROTOCOL);
    assert!(matches!(pair.net.replace_route(&route).await, Err(Error::Invalid(_))));
}

#[tokio::test]
async fn bulk_errors_name_the_right_route() {
    let pair = pair().await;
    let mut bulk = Bulk::in_netns(&pair.netns).expect("a socket");
    let bad = [0_usize, 1, 999, 1000, 1500, 2499];
    let changes: Vec<RouteChange> = (0..2500_usize)
        .map(|number| {
            let index = if bad.contains(&number) { 4242 } else { pair.index };
            let destination = IpNet::from(IpAddr::from([10, 20, (number >> 8) as u8, number as u8]));
            RouteChange::Replace(RouteSpec::new(destination, RouteKind::Device { index }, PROTOCOL))
        })
        .chain([RouteChange::Replace(RouteSpec::new(net("10.21.0.0/16"), RouteKind::Other("odd".into()), PROTOCOL))])
        .collect();
    let failures = bulk.apply(&changes).expect("answers");
    let places: Vec<usize> = failures.iter().map(|failure| failure.change).collect();
    assert_eq!(places, [0, 1, 999, 1000, 1500, 2499, 2500]);
    assert!(failures[1].error.to_string().contains("10.20.0.1/32 dev 4242"), "{}", failures[1].error);
    assert!(matches!(failures[6].error, Error::Invalid(_)));
    assert_eq!(pair.net.routes(Some(PROTOCOL)).await.expect("read").len(), 2500 - bad.len());
    assert!(bulk.apply(&[]).expect("nothing").is_empty());
}

#[tokio::test]
async fn a_hundred_thousand_routes() {
    let pair = pair().await;
    let mut bulk = Bulk::in_netns(&pair.netns).expect("a socket");
    let route = |number: u32| {
        let destination = if number.is_multiple_of(2) {
            IpNet::from(IpAddr::V4((0x0b00_0000 + number).into()))
        } else {
            IpNet::from(IpAddr::V6((0xfd0b_u128 << 112 | u128::from(number)).into()))
        };
        RouteSpec::new(destination, RouteKind::Device { index: pair.index }, PROTOCOL)
    };
    let write: Vec<RouteChange> = (0..100_000).map(|number| RouteChange::Replace(route(number))).collect();
    let start = Instant::now();
    assert!(bulk.apply(&write).expect("answers").is_empty());
    let took = start.elapsed();
    let routes = pair.net.routes(Some(PROTOCOL)).await.expect("read");
    assert_eq!(routes.len(), 100_000);
    assert!(took < Duration::from_secs(20), "{took:?}");
    // Half of them go; those that stay are the right ones.
    let delete: Vec<RouteChange> = (0..50_000).map(|number| RouteChange::Delete(route(number))).collect();
    assert!(bulk.apply(&delete).expect("answers").is_empty());
    let left = sorted(pair.net.routes(Some(PROTOCOL)).await.expect("read"));
    assert_eq!(left, sorted((50_000..100_000).map(route).collect()));
}

#[tokio::test]
async fn lookups_say_what_the_kernel_would_do() {
    let pair = pair().await;
    for address in ["10.0.0.1/24", "fd00::1/64"] {
        pair.net.add_address(pair.index, net(address)).await.expect("added");
    }
    for route in samples(pair.index).iter().filter(|route| route.destination.prefix_len() > 0 && route.metric != 7) {
        pair.net.replace_route(route).await.expect("written");
    }
    pair.net.wait_for_address(ip("fd00::1")).await.expect("usable");
    let reach = async |text: &str| pair.net.lookup(ip(text)).await.expect("an answer").map(|lookup| lookup.reach);
    for (text, expected) in [
        ("10.1.0.1", Some(Reach::Unicast)),
        ("10.2.0.1", Some(Reach::Blackhole)),
        ("10.6.0.1", Some(Reach::Unreachable)),
        ("10.0.0.1", Some(Reach::Local)),
        ("198.51.100.1", None),
        ("fd01::1", Some(Reach::Unicast)),
        ("fd02::1", Some(Reach::Blackhole)),
        ("fd05::1", Some(Reach::Unreachable)),
        ("fd00::1", Some(Reach::Local)),
        ("fdff::1", None),
    ] {
        assert_eq!(reach(text).await, expected, "{text}");
    }
    for (text, gateway) in [
        ("10.3.0.1", Some("10.0.0.9")),
        ("fd03::1", Some("fd00::9")),
        ("10.1.0.1", None),
        ("10.5.0.1", Some("fd00::9")),
    ] {
        let lookup = pair.net.lookup(ip(text)).await.expect("an answer").expect("a route");
        assert_eq!((lookup.via, lookup.index), (gateway.map(ip), Some(pair.index)), "{text}");
        assert_eq!(lookup.interface.as_deref(), Some("veth0"));
    }
}

#[tokio::test]
async fn events_tell_who_came_and_went() {
    let pair = pair().await;
    let mut monitor = Monitor::in_netns(&pair.netns).expect("a monitor");
    let route = RouteSpec::new(net("10.1.0.1/32"), RouteKind::Device { index: pair.index }, PROTOCOL);
    let six = RouteSpec::new(net("fd01::/122"), RouteKind::Blackhole, PROTOCOL);
    pair.net.replace_route(&route).await.expect("written");
    pair.net.replace_route(&six).await.expect("written");
    pair.net.delete_route(&route).await.expect("deleted");
    pair.net.delete_link(pair.index).await.expect("deleted");
    let mut seen = Vec::new();
    loop {
        let event =
            tokio::time::timeout(Duration::from_secs(5), monitor.next()).await.expect("in time").expect("an event");
        let last = matches!(&event, Event::LinkRemoved { .. });
        seen.push(event);
        if last {
            break;
        }
    }
    let place = |wanted: &Event| seen.iter().position(|event| event == wanted).expect("the event");
    assert!(place(&Event::RouteChanged(route.clone())) < place(&Event::RouteChanged(six)));
    assert!(place(&Event::RouteChanged(route.clone())) < place(&Event::RouteRemoved(route)));
    assert_eq!(seen.last(), Some(&Event::LinkRemoved { index: pair.index, name: "veth0".into() }));
}

#[tokio::test]
async fn lost_events_are_told_and_what_follows_is_newer() {
    let pair = pair().await;
    let mut monitor = Monitor::in_netns(&pair.netns).expect("a monitor");
    let mut bulk = Bulk::in_netns(&pair.netns).expect("a socket");
    let route = |number: u32| {
        let destination = IpNet::from(IpAddr::V4((0x0b00_0000 + number).into()));
        RouteSpec::new(destination, RouteKind::Device { index: pair.index }, PROTOCOL)
    };
    let write: Vec<RouteChange> = (0..60_000).map(|number| RouteChange::Replace(route(number))).collect();
    assert!(bulk.apply(&write).expect("answers").is_empty());
    loop {
        match monitor.next().await.expect("an event") {
            Event::Overrun => break,
            Event::RouteChanged(_) | Event::LinkChanged(_) => {}
            other => panic!("{other:?}"),
        }
    }
    let last = RouteSpec::new(net("10.99.0.0/16"), RouteKind::Blackhole, PROTOCOL);
    pair.net.replace_route(&last).await.expect("written");
    assert_eq!(monitor.next().await.expect("an event"), Event::RouteChanged(last), "nothing old comes after the loss");
}

#[tokio::test]
async fn a_named_namespace_is_one_of_ip_netns() {
    let name = format!("tortie-test-{}", std::process::id());
    netns::create(&name).expect("created");
    assert!(netns::list().expect("a list").contains(&name));
    let again = netns::create(&name).expect_err("the name is taken");
    assert!(again.is_exists() && again.to_string().contains(&name), "{again}");
    let listed =
        Command::new(ip_tool()).args(["netns", "exec", &name, &ip_tool(), "-o", "link"]).output().expect("ran");
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.contains("lo:") && listed.lines().count() == 1, "{listed}");

    let opened = netns::open(&name).expect("opened");
    let by_path = netns::open(&format!("/run/netns/{name}")).expect("opened");
    assert_eq!(opened.id().expect("an id"), by_path.id().expect("an id"));
    assert_ne!(opened.id().expect("an id"), Netns::current().expect("ours").id().expect("an id"));
    let inside = opened.run(|| Netns::current().and_then(|inside| inside.id())).expect("entered").expect("an id");
    assert_eq!(inside, opened.id().expect("an id"));
    let child = opened.spawn(Command::new(ip_tool()).args(["-o", "link"]).stdout(std::process::Stdio::piped()));
    let output = child.expect("spawned").wait_with_output().expect("ended");
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 1, "the child is inside");

    netns::delete(&name).expect("deleted");
    netns::delete(&name).expect("gone already");
    assert!(!netns::list().expect("a list").contains(&name));
    assert!(netns::open(&name).expect_err("gone").is_missing());
    // It is still there for who has it open.
    let net = Net::in_netns(&opened).expect("a handle");
    assert!(net.link("lo").await.expect("read").is_some());
}

#[test]
fn what_is_no_namespace_is_refused() {
    for name in ["", ".", "..", "a\0b", &"a".repeat(256)] {
        assert!(matches!(netns::create(name), Err(Error::Invalid(_))), "{name:?}");
        assert!(matches!(netns::delete(name), Err(Error::Invalid(_))), "{name:?}");
    }
    assert!(netns::open("/etc/passwd").is_err());
    assert!(netns::open("/proc/self/ns/mnt").is_err());
    assert!(netns::open("/run/netns/none-of-that-name").expect_err("none").is_missing());
}

#[test]
fn settings_belong_to_a_namespace() {
    let netns = netns::anonymous().expect("a namespace");
    let read = |netns: &Netns| netns.run(|| sysctl::get("net.ipv4.ip_forward")).expect("entered").expect("read");
    sysctl::set_in(&netns, &[("net.ipv4.ip_forward", "1"), ("net/ipv4/conf/lo/send_redirects", "0")]).expect("set");
    assert_eq!(read(&netns), "1");
    assert_eq!(read(&netns::anonymous().expect("a namespace")), "0");
    let error = sysctl::set_in(&netns, &[("net.ipv4.conf.none.forwarding", "1")]).expect_err("no such interface");
    assert!(error.to_string().contains("none"), "{error}");
}

#[tokio::test]
async fn a_dropped_handle_lets_its_namespace_go() {
    let Pair { net, peer, netns: _netns, .. } = pair().await;
    let other = Net::in_netns(&peer).expect("a handle");
    let monitor = Monitor::in_netns(&peer).expect("a monitor");
    let bulk = Bulk::in_netns(&peer).expect("a socket");
    assert!(other.link("eth0").await.expect("read").is_some());
    drop((other, monitor, bulk, peer));
    // With its namespace the peer goes, and with the peer our end.
    for _ in 0..500 {
        if net.link("veth0").await.expect("read").is_none() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("something still holds the namespace");
}
