//! Routes by several next hops, and among strangers' routes, on a real kernel. Needs root.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ipnet::IpNet;
use tortie_felix_netlink::{
    Bulk, Event, Monitor, Net, Netns, RouteChange, RouteKind, RouteSpec, VethSpec, netns, sysctl,
};

const OURS: u8 = 80;
const METRIC: u32 = 1024;

fn net(text: &str) -> IpNet {
    text.parse().expect("a network")
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A namespace with two uplinks, `up0` and `up1`, each with a subnet of both families.
struct World {
    netns: Netns,
    net: Net,
    bulk: Bulk,
    up: [u32; 2],
}

impl World {
    async fn new() -> Self {
        let netns = netns::anonymous().expect("a namespace");
        sysctl::set_in(&netns, &[("net.ipv6.conf.default.accept_dad", "0"), ("net.ipv6.conf.all.disable_ipv6", "0")])
            .expect("settings");
        let net = Net::in_netns(&netns).expect("a handle");
        let mut up = [0; 2];
        for (number, index) in up.iter_mut().enumerate() {
            let spec =
                VethSpec { name: format!("up{number}"), peer_name: format!("peer{number}"), ..VethSpec::default() };
            *index = net.create_veth(spec).await.expect("a veth");
            let other = net.link(&format!("peer{number}")).await.expect("read").expect("there").index;
            for end in [*index, other] {
                net.set_up(end).await.expect("up");
            }
            net.add_address(*index, net_of(number, true)).await.expect("an address");
            net.add_address(*index, net_of(number, false)).await.expect("an address");
        }
        let bulk = Bulk::in_netns(&netns).expect("a socket");
        Self { netns, net, bulk, up }
    }

    /// `ip` with these arguments; fails with what it said.
    fn ip(&self, arguments: &str) -> String {
        let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/peers/bin").to_owned();
        let path = format!("{}/ip", std::env::var("TORTIE_PEERS").unwrap_or(default));
        assert!(std::path::Path::new(&path).exists(), "{path} is missing: run `make peers`");
        let run = || Command::new(&path).args(arguments.split_whitespace()).output();
        let output = self.netns.run(run).expect("entered").expect("ran");
        assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn to(&self, destination: &str, hops: &[(&str, usize)]) -> RouteSpec {
        let hops = hops.iter().map(|(gateway, number)| (ip(gateway), self.up[*number])).collect();
        RouteSpec::new(net(destination), RouteKind::multipath(hops), OURS).with_metric(METRIC)
    }

    fn apply(&mut self, changes: &[RouteChange]) -> Vec<String> {
        let failures = self.bulk.apply(changes).expect("answers");
        failures.into_iter().map(|failure| failure.error.to_string()).collect()
    }

    fn ours(&mut self) -> Vec<RouteSpec> {
        let mut routes = self.bulk.routes(Some(OURS)).expect("read");
        routes.sort_by_key(|route| (route.destination, route.metric));
        routes
    }
}

fn net_of(number: usize, ipv4: bool) -> IpNet {
    net(&if ipv4 { format!("172.16.{number}.1/24") } else { format!("fd00:{number}::1/64") })
}

#[tokio::test]
async fn several_next_hops_read_as_written_whatever_their_order() {
    let mut world = World::new().await;
    let four = world.to("10.1.0.0/26", &[("172.16.1.2", 1), ("172.16.0.3", 0), ("172.16.0.2", 0)]);
    let six = world.to("fd01::/122", &[("fd00:1::2", 1), ("fd00:0::3", 0), ("fd00:0::2", 0)]);
    let crossed = world.to("10.2.0.0/26", &[("fd00:1::2", 1), ("172.16.0.3", 0)]);
    let want = vec![four.clone(), crossed, six.clone()];
    for round in 0..2 {
        let create = want.iter().cloned().map(|route| match round {
            0 => RouteChange::Create(route),
            _ => RouteChange::Replace(route),
        });
        assert_eq!(world.apply(&create.collect::<Vec<_>>()), [""; 0]);
        assert_eq!(world.ours(), want);
    }
    assert!(world.ip("route show 10.1.0.0/26").contains("nexthop via 172.16.0.2 dev up0 weight 1"));
    // Down to one and up to three again, by way of each kind.
    let steps = [
        vec![world.to("10.1.0.0/26", &[("172.16.0.2", 0)]), world.to("fd01::/122", &[("fd00:0::2", 0)])],
        vec![
            RouteSpec { kind: RouteKind::Blackhole, ..four.clone() },
            RouteSpec { kind: RouteKind::Blackhole, ..six.clone() },
        ],
        vec![four.clone(), six.clone()],
        vec![
            RouteSpec { kind: RouteKind::Device { index: world.up[0] }, ..four.clone() },
            RouteSpec { kind: RouteKind::Device { index: world.up[1] }, ..six.clone() },
        ],
        vec![
            world.to("10.1.0.0/26", &[("172.16.0.2", 0), ("172.16.1.9", 1)]),
            world.to("fd01::/122", &[("fd00:0::2", 0), ("fd00:1::9", 1)]),
        ],
    ];
    for step in steps {
        let changes: Vec<_> = step.iter().cloned().map(RouteChange::Replace).collect();
        assert_eq!(world.apply(&changes), [""; 0], "{step:?}");
        let there: Vec<_> = world.ours().into_iter().filter(|route| route.destination != net("10.2.0.0/26")).collect();
        assert_eq!(there, step, "one route each, the last one");
    }
    let delete: Vec<_> = world.ours().into_iter().map(RouteChange::Delete).collect();
    for _ in 0..2 {
        assert_eq!(world.apply(&delete), [""; 0]);
        assert_eq!(world.ours(), []);
    }
}

#[tokio::test]
async fn the_kernel_keeps_the_next_hops_that_are_left() {
    // What the model of our routes takes for granted of the kernel.
    let mut world = World::new().await;
    let routes = [
        world.to("10.1.0.0/26", &[("172.16.0.2", 0), ("172.16.1.2", 1)]),
        world.to("10.2.0.0/26", &[("172.16.0.2", 0)]),
        world.to("fd01::/122", &[("fd00:0::2", 0), ("fd00:1::2", 1)]),
        world.to("fd02::/122", &[("fd00:0::2", 0)]),
    ];
    let create: Vec<_> = routes.iter().cloned().map(RouteChange::Create).collect();
    assert_eq!(world.apply(&create), [""; 0]);
    let mut monitor = Monitor::in_netns(&world.netns).expect("a monitor");
    world.net.set_down(world.up[0]).await.expect("down");
    assert_eq!(world.ours(), [routes[0].clone(), routes[2].clone()], "a dead next hop stays in the list");
    // The link first, then what went with it; of IPv4 nothing is said.
    let mut seen = Vec::new();
    loop {
        let event = tokio::time::timeout(Duration::from_secs(5), monitor.next()).await.expect("in time").expect("one");
        let last = event == Event::RouteRemoved(routes[3].clone());
        seen.push(event);
        if last {
            break;
        }
    }
    assert!(matches!(&seen[0], Event::LinkChanged(link) if link.name == "up0" && !link.up), "{seen:?}");
    assert!(!seen.contains(&Event::RouteRemoved(routes[1].clone())));
    world.net.set_up(world.up[0]).await.expect("up");
    assert_eq!(world.ours(), [routes[0].clone(), routes[2].clone()]);
    world.net.delete_link(world.up[0]).await.expect("deleted");
    assert_eq!(
        world.ours(),
        [world.to("fd01::/122", &[("fd00:1::2", 1)])],
        "with the device the whole IPv4 route goes, though it had another"
    );
}

#[tokio::test]
async fn nothing_is_created_where_something_is() {
    let mut world = World::new().await;
    world.ip("route add 10.1.0.0/26 via 172.16.0.9 metric 1024 proto static");
    world.ip("-6 route add fd01::/122 via fd00:0::9 metric 1024 proto static");
    world.ip("-6 route add fd02::/122 dev up1 metric 1024 proto static");
    let before = world.ip("route show table all") + &world.ip("-6 route show table all");
    for destination in ["10.1.0.0/26", "fd01::/122", "fd02::/122"] {
        let hops = if destination.starts_with("fd") { [("fd00:1::2", 1)] } else { [("172.16.1.2", 1)] };
        let route = world.to(destination, &hops);
        let failures = world.apply(&[RouteChange::Create(route.clone())]);
        assert!(failures.len() == 1 && failures[0].contains("EEXIST"), "{destination}: {failures:?}");
        assert_eq!(world.apply(&[RouteChange::Delete(route)]), [""; 0], "nothing of ours to delete");
    }
    assert_eq!(world.ip("route show table all") + &world.ip("-6 route show table all"), before);
}

#[tokio::test]
async fn a_strangers_gateway_in_our_ipv6_route_stays_when_ours_go() {
    let mut world = World::new().await;
    let ours = world.to("fd01::/122", &[("fd00:0::2", 0), ("fd00:0::3", 0)]);
    assert_eq!(world.apply(&[RouteChange::Create(ours.clone())]), [""; 0]);
    world.ip("-6 route append fd01::/122 via fd00:1::9 metric 1024 proto static");
    let mixed = world.to("fd01::/122", &[("fd00:0::2", 0), ("fd00:0::3", 0), ("fd00:1::9", 1)]);
    assert_eq!(world.ours(), [mixed], "the kernel shows theirs as ours");
    // Theirs is not taken out, ours are, one by one.
    let theirs = world.to("fd01::/122", &[("fd00:1::9", 1)]);
    let failures = world.apply(&[RouteChange::Shrink(theirs.clone())]);
    assert!(failures.len() == 1 && failures[0].contains("ESRCH"), "{failures:?}");
    assert_eq!(world.apply(&[RouteChange::Shrink(world.to("fd01::/122", &[("fd00:0::3", 0)]))]), [""; 0]);
    assert_eq!(world.apply(&[RouteChange::Delete(ours.clone())]), [""; 0]);
    assert_eq!(world.ours(), []);
    let left = world.bulk.routes(Some(4)).expect("read");
    assert_eq!(left, [RouteSpec { protocol: 4, ..theirs }]);
}

/// Everything that somebody may put into a node's tables, with the real `ip`; what this kernel does not have is left out.
fn odd_things(world: &World) -> usize {
    let mut done = 0;
    for line in ODD.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/peers/bin").to_owned();
        let path = format!("{}/ip", std::env::var("TORTIE_PEERS").unwrap_or(default));
        let run = || Command::new(&path).args(line.split_whitespace()).output();
        done += usize::from(world.netns.run(run).expect("entered").expect("ran").status.success());
    }
    done
}

const ODD: &str = "
    route add 10.1.0.0/26 via 172.16.0.9 metric 5 proto static
    route add 10.1.0.0/26 via 172.16.0.9 metric 2000 proto bird
    route add 10.1.0.0/26 tos 0x10 via 172.16.0.8 metric 1024
    route append 10.1.1.0/26 via 172.16.0.9 metric 1024 proto static
    route append 10.1.1.0/26 via 172.16.0.8 metric 1024 proto static
    route prepend 10.1.1.0/26 via 172.16.0.7 metric 1024 proto 186
    route add 10.1.0.0/26 via 172.16.0.9 metric 1024 table 100 proto 80
    route add 10.1.2.0/26 metric 1024 proto zebra nexthop via 172.16.0.9 weight 3 nexthop via 172.16.1.9 weight 1
    route add 10.1.3.0/26 metric 1024 proto static nexthop via 172.16.0.9 nexthop via 172.16.1.9
    route add 10.1.4.0/26 proto static nexthop dev up0 nexthop dev up1
    route add blackhole 10.1.5.0/26 metric 1024
    route add unreachable 10.1.6.0/26 metric 1024
    route add prohibit 10.1.7.0/26 metric 1024 proto 81
    route add throw 10.1.8.0/26 metric 1024
    route add 10.1.9.0/26 via 192.0.2.77 dev up0 onlink metric 1024
    route add 10.1.10.0/26 via inet6 fd00:0::9 dev up0 metric 1024
    route add 10.1.11.0/26 dev up0 scope link src 172.16.0.1 mtu 1280 advmss 1200 metric 1024
    route add 10.1.12.0/26 encap mpls 100/200 via 172.16.0.9 metric 1024
    route add 10.1.13.0/26 encap ip id 7 dst 192.0.2.9 dev up0 metric 1024
    route add local 10.1.14.1 dev up0 metric 1024
    route add broadcast 10.1.15.255 dev up0 metric 1024
    route add default via 172.16.0.254 metric 7 proto dhcp
    route add 0.0.0.0/1 via 172.16.0.253
    nexthop add id 501 via 172.16.0.9 dev up0 proto zebra
    nexthop add id 502 via 172.16.1.9 dev up1 proto zebra
    nexthop add id 503 group 501/502 proto zebra
    nexthop add id 504 blackhole
    nexthop add id 505 via fd00:0::9 dev up0
    nexthop add id 506 via fd00:1::9 dev up1
    nexthop add id 507 group 505,3/506,1
    route add 10.1.16.0/26 nhid 501 metric 1024 proto zebra
    route add 10.1.17.0/26 nhid 503 metric 1024 proto zebra
    route add 10.1.18.0/26 nhid 504 metric 1024
    route add 10.1.19.0/26 nhid 505 metric 1024
    -6 route add fd01:0:0:1::/64 nhid 505 metric 1024 proto zebra
    -6 route add fd01:0:0:2::/64 nhid 507 metric 1024 proto zebra
    -6 route add fd01:0:0:3::/64 via fd00:0::9 metric 1024 proto static pref high
    -6 route append fd01:0:0:3::/64 via fd00:1::9 metric 1024 proto ra pref low
    -6 route add fd01:0:0:4::/64 from fd00:0::/64 via fd00:0::9 metric 1024
    -6 route add fd01:0:0:5::/64 via fd00:0::9 expires 3600 metric 1024
    -6 route add blackhole fd01:0:0:6::/64 metric 1024
    -6 route add unreachable fd01:0:0:7::/64 metric 1024
    -6 route add prohibit fd01:0:0:8::/64 metric 1024
    -6 route add throw fd01:0:0:9::/64 metric 1024
    -6 route add fd01:0:0:a::/64 encap seg6 mode encap segs fd00:0::9 dev up0 metric 1024
    -6 route add fd01:0:0:b::/64 via fe80::9 dev up0 metric 1024 proto static
    -6 route add fd01:0:0:c::/64 nexthop via fd00:0::9 weight 2 nexthop via fd00:1::9 weight 5
    -6 route add fd01:0:0:d::/64 dev up0 metric 1024 mtu 1280
    -6 route append fd01:0:0:d::/64 dev up1 metric 1024
    -6 route add default via fd00:0::9 metric 1024 proto static
    -6 route add fd01:0:0:1::/64 via fd00:0::9 table 100 proto 80
    -f mpls route add 100 via inet 172.16.0.9
    rule add to 10.1.0.0/16 table 100
    neigh add 172.16.0.9 lladdr 02:00:00:00:00:09 dev up0 nud permanent
";

fn everything(world: &World) -> String {
    let mut text = String::new();
    for family in ["-4", "-6"] {
        for what in ["rule", "neigh show nud permanent", "-details route show table all"] {
            text += &world.ip(&format!("{family} {what}"));
        }
    }
    // The time that is left to an entry is not part of what was asked for.
    let lines = text.lines().map(|line| {
        let mut words = line.split_whitespace().peekable();
        let mut kept = Vec::new();
        while let Some(word) = words.next() {
            if word == "expires" {
                words.next();
            } else {
                kept.push(word);
            }
        }
        kept.join(" ") + "\n"
    });
    lines.collect::<String>() + &world.ip("nexthop")
}

#[tokio::test]
async fn strangers_routes_are_read_however_odd_and_survive_all_we_do() {
    let mut world = World::new().await;
    let done = odd_things(&world);
    assert!(done >= 40, "only {done} of the odd routes could be made");
    let before = everything(&world);
    let strangers = world.bulk.routes(None).expect("read");
    assert!(strangers.iter().all(|route| route.protocol != OURS), "other tables are not ours to look at");
    let kind = |destination: &str| {
        let found: Vec<_> = strangers.iter().filter(|route| route.destination == net(destination)).collect();
        assert!(!found.is_empty(), "{destination} was not read");
        found[0].kind.clone()
    };
    let (up0, up1) = (world.up[0], world.up[1]);
    let two = RouteKind::Multipath(vec![(ip("172.16.0.9"), up0), (ip("172.16.1.9"), up1)]);
    assert!(matches!(kind("10.1.2.0/26"), RouteKind::Other(_)), "unequal weights");
    assert_eq!(kind("10.1.3.0/26"), two);
    assert!(matches!(kind("10.1.4.0/26"), RouteKind::Other(_)), "next hops without gateways");
    assert_eq!(kind("10.1.5.0/26"), RouteKind::Blackhole);
    assert_eq!(kind("10.1.6.0/26"), RouteKind::Unreachable);
    assert_eq!(kind("10.1.7.0/26"), RouteKind::Other("prohibit".into()));
    let onlink = RouteKind::Via { gateway: ip("192.0.2.77"), index: Some(up0), onlink: true };
    assert_eq!(kind("10.1.9.0/26"), onlink);
    assert_eq!(kind("10.1.16.0/26"), RouteKind::Via { gateway: ip("172.16.0.9"), index: Some(up0), onlink: false });
    assert_eq!(kind("10.1.17.0/26"), two, "a group of next hop objects");
    let six = |gateway| RouteKind::Via { gateway: ip(gateway), index: Some(up0), onlink: false };
    assert_eq!(kind("fd01:0:0:1::/64"), six("fd00:0::9"));
    assert_eq!(kind("fd01:0:0:b::/64"), six("fe80::9"));
    assert!(!strangers.iter().any(|route| route.destination == net("fd01:0:0:4::/64")), "for one source only");
    let tos = strangers.iter().filter(|route| route.destination == net("10.1.0.0/26"));
    assert_eq!(tos.map(|route| route.metric).collect::<Vec<_>>(), [5, 2000], "not the one for one type of service");

    // Ours in the place of each of them, and many more; then replaced, and deleted, twice.
    let destinations: BTreeSet<IpNet> =
        strangers.iter().map(|route| route.destination).chain((0..2000).map(many)).collect();
    let occupied: BTreeSet<(IpNet, u32)> = strangers.iter().map(|route| (route.destination, route.metric)).collect();
    let route = |destination: IpNet| {
        let hops = if destination.addr().is_ipv4() {
            vec![(ip("172.16.0.2"), up0), (ip("172.16.1.2"), up1)]
        } else {
            vec![(ip("fd00:0::2"), up0), (ip("fd00:1::2"), up1)]
        };
        RouteSpec::new(destination, RouteKind::multipath(hops), OURS).with_metric(METRIC)
    };
    let create: Vec<_> = destinations.iter().map(|destination| RouteChange::Create(route(*destination))).collect();
    let refused = world.bulk.apply(&create).expect("answers");
    for failure in &refused {
        let place = create[failure.change].route();
        assert!(failure.error.is_exists(), "{}", failure.error);
        assert!(occupied.contains(&(place.destination, METRIC)), "{place} was refused without need");
    }
    let there = world.ours();
    assert_eq!(there.len() + refused.len(), destinations.len());
    assert!(there.len() > 2000 && refused.len() > 15, "{} refused", refused.len());
    let single = |route: &RouteSpec| RouteSpec { kind: RouteKind::Blackhole, ..route.clone() };
    for round in 0..2 {
        let change: Vec<_> = there
            .iter()
            .map(|route| RouteChange::Replace(if round == 0 { single(route) } else { route.clone() }))
            .collect();
        assert_eq!(world.apply(&change), [""; 0]);
    }
    assert_eq!(world.ours(), there);
    // Deletions for every destination, also where ours never was.
    let delete: Vec<_> = destinations.iter().map(|destination| RouteChange::Delete(route(*destination))).collect();
    for _ in 0..2 {
        assert_eq!(world.apply(&delete), [""; 0]);
    }
    assert_eq!(world.ours(), []);
    assert_eq!(everything(&world), before);
}

fn many(number: u32) -> IpNet {
    if number.is_multiple_of(2) {
        IpNet::from(IpAddr::V4((0x0b00_0000 + number).into()))
    } else {
        IpNet::from(IpAddr::V6((0xfd0b_u128 << 112 | u128::from(number)).into()))
    }
}

#[tokio::test]
async fn own_writes_are_not_announced_and_others_name_their_author() {
    let mut world = World::new().await;
    let mut monitor = Monitor::in_netns(&world.netns).expect("a monitor");
    let other = Bulk::in_netns(&world.netns).expect("a socket");
    monitor.ignore(&[other.port(), world.bulk.port()]).expect("a filter");
    // More than the socket could hold.
    let route = |number| RouteSpec::new(many(number), RouteKind::Blackhole, OURS).with_metric(METRIC);
    let write: Vec<_> = (0..60_000).map(|number| RouteChange::Create(route(number))).collect();
    assert_eq!(world.apply(&write), [""; 0]);
    world.ip("route del blackhole 11.0.0.0/32 metric 1024");
    let next = async |monitor: &mut Monitor| {
        tokio::time::timeout(Duration::from_secs(5), monitor.next()).await.expect("in time").expect("an event")
    };
    loop {
        match next(&mut monitor).await {
            Event::RouteRemoved(gone) => {
                assert_eq!(gone, route(0));
                break;
            }
            // Link-local addresses may come late.
            Event::RouteChanged(route) if route.protocol != OURS => {}
            Event::AddressAdded { .. } | Event::LinkChanged(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(monitor.author() > 1 && monitor.author() != world.bulk.port(), "{}", monitor.author());

    world.ip("addr add 172.16.77.1/24 dev up1");
    world.ip("addr del 172.16.77.1/24 dev up1");
    let (index, address) = (world.up[1], net("172.16.77.1/24"));
    let mut events = Vec::new();
    while !events.contains(&Event::AddressRemoved { index, address }) {
        events.push(next(&mut monitor).await);
    }
    assert!(events.contains(&Event::AddressAdded { index, address }), "{events:?}");
}

#[tokio::test]
async fn a_table_is_read_whole_while_it_changes() {
    let mut world = World::new().await;
    let route = |number| RouteSpec::new(many(number), RouteKind::Blackhole, OURS).with_metric(METRIC);
    let write: Vec<_> = (0..20_000).map(|number| RouteChange::Create(route(number))).collect();
    assert_eq!(world.apply(&write), [""; 0]);
    let stop = AtomicBool::new(false);
    let netns = &world.netns;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut bulk = Bulk::in_netns(netns).expect("a socket");
            let flap = [RouteChange::Delete(route(7)), RouteChange::Create(route(7)), RouteChange::Replace(route(9))];
            let mut rounds = 0;
            while !stop.load(Ordering::Relaxed) && rounds < 100_000 {
                bulk.apply(&flap).expect("answers");
                rounds += 1;
            }
        });
        for _ in 0..10 {
            let read = world.bulk.routes(Some(OURS)).expect("read");
            let destinations: BTreeSet<_> = read.iter().map(|route| route.destination).collect();
            let missing = (0..20_000).filter(|number| *number != 7 && !destinations.contains(&many(*number))).count();
            assert_eq!(missing, 0, "of {} routes", read.len());
        }
        stop.store(true, Ordering::Relaxed);
    });
}
