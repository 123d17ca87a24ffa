//! The core on a real kernel, beside a stranger who does with `ip` whatever comes to mind. In the end the kernel has our routes as
//! they follow from what is wanted and from the stranger's, and the stranger's are what they are in a namespace that we never saw.
//! Needs root.

#![allow(clippy::disallowed_methods)] // The core has no clock, but a real kernel does things in its own time.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use common::{FibOf, World, block, endpoint, ip, namespace, net, node, pod, pool};
use ipnet::IpNet;
use proptest::prelude::*;
use tortie_bird_lite::RibUpdate;
use tortie_felix::{
    Event, Link, LocalEndpoint, ROUTE_METRIC, ROUTE_PROTOCOL, Route, RouteChange, RouteFailure, RouteState, Snapshot,
    Target,
};
use tortie_felix_netlink::{self as netlink, Bulk, Monitor, Net, Netns, RouteKind, RouteSpec, netns, sysctl};

/// The protocol of the routes that mark a point in the stream of events.
const MARK: u8 = 99;

/// How long a busy machine may take over anything.
const PATIENCE: Duration = Duration::from_secs(40);

/// Something that happens.
#[derive(Debug, Clone)]
enum Op {
    /// BGP's best paths to a prefix are by these next hops (a bit each).
    Best(usize, u8),
    Withdrawn(usize),
    Pod(usize),
    NoPod(usize),
    /// The stranger calls `ip`.
    Stranger(usize, usize),
    /// The stranger makes an interface anew.
    Anew(usize),
    /// The core is told what happened, and does what it wants done.
    Catch,
    /// So much time passes, in milliseconds.
    Wait(u16),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0..PREFIXES.len(), 1..64u8).prop_map(|(prefix, hops)| Op::Best(prefix, hops)),
        2 => (0..PREFIXES.len()).prop_map(Op::Withdrawn),
        2 => (0..2usize).prop_map(Op::Pod),
        1 => (0..2usize).prop_map(Op::NoPod),
        12 => (0..STRANGER.len(), any::<usize>()).prop_map(|(what, which)| Op::Stranger(what, which)),
        1 => (0..2usize).prop_map(Op::Anew),
        6 => Just(Op::Catch),
        2 => (1..5000u16).prop_map(Op::Wait),
    ]
}

const PREFIXES: [&str; 6] =
    ["10.244.64.0/26", "10.244.65.0/26", "10.244.200.5/32", "fd00:10:244::/122", "fd00:10:245::/122", "10.244.0.0/26"];

const NEXT_HOPS: [&str; 6] = ["172.16.0.7", "172.16.1.7", "192.0.2.1", "fd00:0:16::7", "fd00:1:16::7", "2001:db8::1"];

/// `{p}` is one of the prefixes or of the pods' addresses, `{g}` a gateway of its family, `{n}` a network with next hops in it.
const STRANGER: [&str; 26] = [
    "route del {p} metric 1024",
    "route flush {p}",
    "route flush proto 80",
    "route flush table main",
    "route replace {p} via {g} metric 1024 proto static",
    "route replace blackhole {p} metric 1024 proto static",
    "route append {p} via {g} metric 1024 proto static",
    "route prepend {p} via {g} metric 1024 proto static",
    "route replace {p} via {g} metric 7 proto bird",
    "route replace {p} via {g} metric 2048 proto 80",
    "route replace unreachable {p} metric 3000 proto 80",
    "route del {p} metric 1024 proto static",
    "route del {p} metric 1024 proto static",
    "route del {p} metric 7 proto bird",
    "route replace {n} via {g} proto zebra",
    "route replace {n} via {g} proto zebra",
    "route replace blackhole {n} metric 4 proto zebra",
    "route del {n} proto zebra",
    "route del {n} metric 4 proto zebra",
    "route replace 192.0.2.0/24 proto zebra nexthop via 172.16.0.8 nexthop via 172.16.1.8",
    "link set up0 down",
    "link set up0 up",
    "link set up1 down",
    "link set up1 up",
    "addr flush dev up1 scope global",
    "addr replace 172.16.1.1/24 dev up1",
];

/// Two uplinks, whose other ends are in the same place, and an interface for each pod.
struct Place {
    netns: Netns,
}

impl Place {
    fn new() -> Self {
        let place = Self { netns: netns::anonymous().expect("a namespace") };
        let settings = [("net.ipv6.conf.default.accept_dad", "0"), ("net.ipv6.conf.all.disable_ipv6", "0")];
        sysctl::set_in(&place.netns, &settings).expect("settings");
        for number in 0..2 {
            place.uplink(number);
            let LocalEndpoint { interface, .. } = local(number);
            place.ip(&format!("link add {interface} up type veth peer pod{number}"));
            place.ip(&format!("link set pod{number} up"));
        }
        place
    }

    fn uplink(&self, number: usize) {
        self.ip(&format!("link add up{number} type veth peer peer{number}"));
        self.ip(&format!("link set peer{number} up"));
        self.ip(&format!("link set up{number} up"));
        self.ip(&format!("addr add 172.16.{number}.1/24 dev up{number}"));
        self.ip(&format!("addr add fd00:{number}:16::1/64 dev up{number}"));
    }

    fn ip(&self, arguments: &str) {
        let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/peers/bin").to_owned();
        let path = format!("{}/ip", std::env::var("TORTIE_PEERS").unwrap_or(default));
        assert!(std::path::Path::new(&path).exists(), "{path} is missing: run `make peers`");
        let run = || Command::new(&path).args(arguments.split_whitespace()).output();
        // What the kernel refuses here it refuses in the other place too.
        drop(self.netns.run(run).expect("entered").expect("ran"));
    }

    /// The routes of others, without those that come and go with time.
    fn foreign(&self) -> BTreeSet<String> {
        let routes = Bulk::in_netns(&self.netns).expect("a socket").routes(None).expect("read");
        // The kernel's own for link-local addresses come some time after a link, so that a flush meets them in one place only.
        let link_local = net("fe80::/64");
        let foreign = routes
            .into_iter()
            .filter(|route| ![ROUTE_PROTOCOL, MARK].contains(&route.protocol) && route.destination != link_local);
        foreign.map(|route| route.to_string()).collect()
    }
}

fn local(number: usize) -> LocalEndpoint {
    endpoint("default", &format!("p{number}"), &[["10.244.0.1", "10.244.0.2"][number]])
}

/// What the core reads and writes.
struct Real {
    net: Net,
    bulk: Bulk,
    runtime: tokio::runtime::Handle,
}

impl FibOf for Real {
    fn read(&mut self) -> Snapshot {
        let links = self.runtime.block_on(self.net.links()).expect("read");
        Snapshot {
            links: links.into_iter().map(link).collect(),
            routes: self.bulk.routes(None).expect("read").into_iter().map(route).collect(),
            ..Snapshot::default()
        }
    }

    fn write(&mut self, changes: &[RouteChange]) -> Vec<RouteFailure> {
        let list: Vec<_> = changes
            .iter()
            .map(|change| match change {
                RouteChange::Create(route) => netlink::RouteChange::Create(spec(route)),
                RouteChange::Replace(route) => netlink::RouteChange::Replace(spec(route)),
                RouteChange::Delete(route) | RouteChange::Retire(route) => netlink::RouteChange::Delete(spec(route)),
                RouteChange::Shrink(route) => netlink::RouteChange::Shrink(spec(route)),
            })
            .collect();
        let failures = self.bulk.apply(&list).expect("answers");
        let failures = failures.into_iter().map(|failure| RouteFailure {
            destination: changes[failure.change].route().destination,
            reason: failure.error.to_string(),
            surprise: match &changes[failure.change] {
                RouteChange::Create(_) => failure.error.is_exists(),
                RouteChange::Shrink(_) => failure.error.is_missing(),
                _ => false,
            },
        });
        failures.collect()
    }
}

fn link(link: netlink::Link) -> Link {
    Link { index: link.index, name: link.name, up: link.up }
}

fn route(route: RouteSpec) -> Route {
    let target = match route.kind {
        RouteKind::Device { index } => Target::Device { index, source: route.source },
        RouteKind::Via { gateway, index: Some(index), onlink: false } => Target::Via { gateway, index },
        RouteKind::Via { gateway, index: Some(index), onlink: true } => Target::Onlink { gateway, index },
        RouteKind::Multipath(hops) => Target::multipath(hops),
        RouteKind::Blackhole => Target::Blackhole,
        other => Target::Other(format!("{other:?}")),
    };
    Route { destination: route.destination, target, protocol: route.protocol, metric: route.metric }
}

fn spec(route: &Route) -> RouteSpec {
    let kind = match &route.target {
        Target::Device { index, .. } => RouteKind::Device { index: *index },
        Target::Via { gateway, index } => RouteKind::Via { gateway: *gateway, index: Some(*index), onlink: false },
        Target::Onlink { gateway, index } => RouteKind::Via { gateway: *gateway, index: Some(*index), onlink: true },
        Target::Multipath(hops) => RouteKind::multipath(hops.clone()),
        Target::Blackhole => RouteKind::Blackhole,
        Target::Other(what) => RouteKind::Other(what.clone()),
    };
    RouteSpec::new(route.destination, kind, route.protocol).with_metric(route.metric)
}

/// The core, its kernel, and the place that it never sees.
struct Scene {
    world: World,
    place: Place,
    twin: Place,
    monitor: Monitor,
    marker: Bulk,
    marks: u32,
    wanted: BTreeMap<IpNet, Vec<IpAddr>>,
    pods: BTreeSet<usize>,
    runtime: tokio::runtime::Handle,
}

impl Scene {
    fn new(runtime: &tokio::runtime::Handle) -> Self {
        let (place, twin) = (Place::new(), Place::new());
        let bulk = Bulk::in_netns(&place.netns).expect("a socket");
        let monitor = Monitor::in_netns(&place.netns).expect("a monitor");
        monitor.ignore(&[bulk.port()]).expect("a filter");
        let net = Net::in_netns(&place.netns).expect("a handle");
        let marker = Bulk::in_netns(&place.netns).expect("a socket");
        let mut world = World::new("a");
        world.links = runtime.block_on(net.links()).expect("read").into_iter().map(|l| (l.index, link(l))).collect();
        world.kernel = Some(Box::new(Real { net, bulk, runtime: runtime.clone() }));
        world.start(Vec::new());
        let mut objects = vec![
            node("a", &["172.16.0.1", "fd00:0:16::1"], &[]),
            pool("pods", "10.244.0.0/16", false),
            namespace("default"),
            block("10.244.0.0/26", "a"),
        ];
        for number in 0..2 {
            objects.push(pod("default", &format!("p{number}"), "x", &[&local(number).ips[0].to_string()]));
        }
        world.apply(objects);
        let (wanted, pods) = (BTreeMap::new(), BTreeSet::new());
        Self { world, place, twin, monitor, marker, marks: 0, wanted, pods, runtime: runtime.clone() }
    }

    fn run(&mut self, op: &Op) {
        // No request says "only if it is still ours", so what the core writes must not be older than what a stranger wrote there. In
        // life that is a window of microseconds; here it would be as long as the test likes.
        if !matches!(op, Op::Stranger(..) | Op::Anew(_)) {
            self.catch_up();
        }
        match op {
            Op::Best(prefix, bits) => {
                let next_hops: Vec<IpAddr> =
                    (0..6).filter(|bit| bits & (1 << bit) != 0).map(|bit| ip(NEXT_HOPS[bit])).collect();
                let prefix = net(PREFIXES[*prefix]);
                self.wanted.insert(prefix, next_hops.clone());
                self.world.send(Event::Rib(RibUpdate::Best { prefix, next_hops }));
            }
            Op::Withdrawn(prefix) => {
                let prefix = net(PREFIXES[*prefix]);
                self.wanted.remove(&prefix);
                self.world.send(Event::Rib(RibUpdate::Withdrawn { prefix }));
            }
            Op::Pod(number) => {
                self.pods.insert(*number);
                let request = self.marks as u64 + 1000;
                self.world.send(Event::AddEndpoint { request, endpoint: local(*number) });
            }
            Op::NoPod(number) => {
                self.pods.remove(number);
                let LocalEndpoint { container_id, ifname, .. } = local(*number);
                self.world.send(Event::RemoveEndpoint { request: 1, container_id, ifname });
            }
            Op::Stranger(what, which) => {
                let command = phrase(STRANGER[*what], *which);
                self.place.ip(&command);
                // Under our protocol it is ours, and we take it away.
                if !command.ends_with("proto 80") || command.contains("flush") {
                    self.twin.ip(&command);
                }
            }
            Op::Anew(number) => {
                for place in [&self.place, &self.twin] {
                    place.ip(&format!("link del up{number}"));
                    place.uplink(*number);
                }
            }
            Op::Catch => {}
            Op::Wait(milliseconds) => self.world.advance(u64::from(*milliseconds)),
        }
    }

    /// Tells the core all that has happened until now, and then lets it act: on half of it, it would write over what it is about to
    /// hear of.
    fn catch_up(&mut self) {
        self.marks += 1;
        let mark =
            RouteSpec::new(IpNet::from(IpAddr::V4((0x0900_0000 + self.marks).into())), RouteKind::Blackhole, MARK);
        let changes = [netlink::RouteChange::Create(mark.clone()), netlink::RouteChange::Delete(mark.clone())];
        assert!(self.marker.apply(&changes).expect("answers").is_empty());
        loop {
            let next = async { tokio::time::timeout(PATIENCE, self.monitor.next()).await };
            let event = match self.runtime.block_on(next).expect("in time").expect("an event") {
                netlink::Event::RouteRemoved(route) if route == mark => return self.world.run(),
                netlink::Event::LinkChanged(changed) => {
                    self.world.links.insert(changed.index, link(changed.clone()));
                    Event::LinkChanged(link(changed))
                }
                netlink::Event::LinkRemoved { index, .. } => Event::LinkRemoved { index },
                netlink::Event::AddressAdded { index, address } => {
                    Event::AddressAdded { index, address: address.addr() }
                }
                netlink::Event::AddressRemoved { index, address } => {
                    Event::AddressRemoved { index, address: address.addr() }
                }
                netlink::Event::RouteChanged(changed) => Event::RouteChanged(route(changed)),
                netlink::Event::RouteRemoved(gone) => Event::RouteRemoved(route(gone)),
                netlink::Event::Overrun => Event::Overrun,
            };
            self.world.tell(event);
        }
    }

    /// Our routes, as they follow from what is wanted and from what others have.
    fn expected(&mut self) -> BTreeSet<String> {
        let links = self.runtime.block_on(Net::in_netns(&self.place.netns).expect("a handle").links()).expect("read");
        let up: BTreeSet<u32> = links.iter().filter(|link| link.up).map(|link| link.index).collect();
        let all = Bulk::in_netns(&self.place.netns).expect("a socket").routes(None).expect("read");
        let foreign: Vec<Route> = all.into_iter().filter(|route| route.protocol != ROUTE_PROTOCOL).map(route).collect();
        let mut expected = BTreeMap::new();
        for (prefix, next_hops) in &self.wanted {
            let hops: Vec<_> = next_hops
                .iter()
                .flat_map(|next_hop| resolve(*next_hop, &foreign, &up))
                .filter(|(gateway, _)| prefix.addr().is_ipv4() || gateway.is_ipv6())
                .collect();
            if !hops.is_empty() {
                expected.insert(*prefix, Target::multipath(hops));
            }
        }
        expected.insert(net("10.244.0.0/26"), Target::Blackhole);
        for number in &self.pods {
            let index = links.iter().find(|link| link.name == local(*number).interface).expect("never deleted").index;
            expected.insert(IpNet::from(local(*number).ips[0]), Target::device(index));
        }
        expected
            .into_iter()
            .filter(|(destination, _)| {
                !foreign.iter().any(|other| other.destination == *destination && other.metric == ROUTE_METRIC)
            })
            .map(|(destination, target)| {
                spec(&Route { destination, target, protocol: ROUTE_PROTOCOL, metric: ROUTE_METRIC }).to_string()
            })
            .collect()
    }

    /// Routes that the kernel refuses: it asks more of some gateways than that there is a route.
    fn refused(&self) -> Vec<String> {
        let views = self.world.felix.routes().into_iter();
        let refused = views.filter(|view| view.reason.as_ref().is_some_and(|reason| reason.contains("write route")));
        refused.map(|view| format!("{} ", view.destination)).collect()
    }

    fn same(&mut self) -> bool {
        let (refused, expected) = (self.refused(), self.expected());
        let differ = |text: &&String| !refused.iter().any(|destination| text.contains(destination));
        self.ours().symmetric_difference(&expected).filter(differ).count() == 0
    }

    fn ours(&self) -> BTreeSet<String> {
        let routes = Bulk::in_netns(&self.place.netns).expect("a socket").routes(Some(ROUTE_PROTOCOL)).expect("read");
        routes.into_iter().map(|route| route.to_string()).collect()
    }
}

/// The gateways of the most specific route to a next hop, found by looking at all of them.
fn resolve(next_hop: IpAddr, foreign: &[Route], up: &BTreeSet<u32>) -> Vec<(IpAddr, u32)> {
    if [ip("172.16.0.1"), ip("fd00:0:16::1")].contains(&next_hop) {
        return Vec::new();
    }
    let mut to: Vec<&Route> = foreign.iter().filter(|route| route.destination.contains(&next_hop)).collect();
    to.sort_by_key(|route| (std::cmp::Reverse(route.destination.prefix_len()), route.metric));
    let alive =
        |route: &&&Route| route.target.devices().next().is_none() || route.target.devices().any(|d| up.contains(&d));
    match to.iter().find(alive).map(|route| &route.target) {
        Some(Target::Device { index, .. }) => vec![(next_hop, *index)],
        Some(target) => target.hops().filter(|(_, index)| up.contains(index)).collect(),
        None => Vec::new(),
    }
}

fn phrase(template: &str, which: usize) -> String {
    let of = |list: &[&str], shift: u32| list[which.rotate_right(shift) % list.len()].to_owned();
    let prefix = of(
        &[
            "10.244.64.0/26",
            "10.244.200.5/32",
            "10.244.0.1/32",
            "10.244.0.0/26",
            "fd00:10:244::/122",
            "fd00:10:245::/122",
        ],
        0,
    );
    let network = of(&["192.0.2.0/24", "0.0.0.0/0", "192.0.2.1/32", "2001:db8::/32", "::/0"], 7);
    let six = if template.contains("{p}") { prefix.contains(':') } else { network.contains(':') };
    let gateways: &[&str] = if six { &["fd00:0:16::9", "fd00:1:16::9"] } else { &["172.16.0.9", "172.16.1.9"] };
    let command = template.replace("{p}", &prefix).replace("{n}", &network).replace("{g}", &of(gateways, 13));
    let six =
        six && template.contains('{') || (!template.contains('{') && which % 2 == 1 && template.contains("flush"));
    if six { format!("-6 {command}") } else { command }
}

proptest! {
    // Every failure has waited until the deadline, so that making it smaller would take minutes before anybody hears of it.
    #![proptest_config(ProptestConfig { cases: 5, failure_persistence: None, max_shrink_iters: 0, ..ProptestConfig::default() })]

    #[test]
    fn whatever_a_stranger_does_ours_come_back_and_theirs_stay(ops in prop::collection::vec(op(), 1..25)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let handle = runtime.handle().clone();
        let _guard = runtime.enter();
        let mut scene = Scene::new(&handle);
        for op in &ops {
            scene.run(op);
        }
        // The kernel's own workers may have something to say a moment later, and refusals are tried again after a pause.
        let deadline = Instant::now() + PATIENCE;
        loop {
            for _ in 0..3 {
                scene.catch_up();
                scene.world.advance(3_000);
            }
            let good = scene.same() && scene.place.foreign() == scene.twin.foreign();
            if good || Instant::now() > deadline {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        prop_assert_eq!(scene.place.foreign(), scene.twin.foreign(), "others' routes");
        if !scene.same() {
            prop_assert_eq!(scene.ours(), scene.expected(), "our routes");
        }
        // What is shown as present is there, and all else says why not.
        for view in scene.world.felix.routes() {
            let (plain, hole) = (format!("{} ", view.destination), format!("blackhole {} ", view.destination));
            let there = scene.ours().iter().any(|text| text.starts_with(&plain) || text.starts_with(&hole));
            prop_assert!(there || view.state != RouteState::Present, "{:?}", view);
            prop_assert_eq!(view.state == RouteState::Present, view.reason.is_none(), "{:?}", view);
        }
    }
}
