//! Host endpoints in crowded worlds: what the compiled tables of a node make of packets to it, from it and through it, against what the
//! oracle says of each endpoint that they pass.

use std::net::IpAddr;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};
use tortie_api::k8s::Protocol;
use tortie_nft::interpreter::{Conntrack, FlowState, Interpreter, Outcome, Packet};
use tortie_nft::{Direction, Family, HookPoint};
use tortie_policy::oracle::{AtHost, DecidedBy, End, Judge, Passage, Question, Traffic, World as Objects};
use tortie_policy::{CompileOptions, Compiler, Failsafe, Generation, HostInterface, HostOptions, MarkMask, compile};

use crate::crowd::{Theme, calico, labels, rule, tiers};
use crate::crowded::{Picks, picks};
use crate::generated::cases;
use crate::histories::is_as_anew;
use crate::kinds::key;
use crate::support::{CLIENT_PORT, Flow, addr, object};
use crate::worlds::World;

/// The node's own addresses, and those of others.
const OWN: [&str; 2] = ["10.0.0.250", "fd00::250"];
const OTHERS: [&str; 5] = ["192.0.2.1", "10.0.0.200", "10.0.0.251", "fd00::200", "2001:db8::1"];

/// The node's interfaces.
const INTERFACES: [&str; 2] = ["eth0", "eth1"];

/// A node's host endpoints: by interface, and for all others.
#[derive(Debug, Clone, Copy)]
struct Endpoints {
    eth0: Option<&'static str>,
    eth1: Option<&'static str>,
    others: Option<&'static str>,
}

impl Endpoints {
    fn of(self, interface: &str) -> Option<&'static str> {
        let own = if interface == "eth0" { self.eth0 } else { self.eth1 };
        own.or(self.others)
    }

    fn options(self) -> HostOptions {
        let named = [("eth0", self.eth0), ("eth1", self.eth1)];
        let named = named.into_iter().filter_map(|(interface, endpoint)| Some((Some(interface), endpoint?)));
        let all = named.chain(self.others.map(|endpoint| (None, endpoint)));
        let interfaces = all.map(|(interface, endpoint)| HostInterface {
            endpoint: endpoint.to_owned(),
            interface: interface.map(str::to_owned),
        });
        let tcp =
            |port, net: Option<&str>| Failsafe { protocol: 6, port, net: net.map(|net| net.parse().expect("a net")) };
        HostOptions {
            interfaces: interfaces.collect(),
            failsafe_inbound: vec![tcp(82, None), tcp(83, Some("192.0.2.0/24"))],
            failsafe_outbound: vec![tcp(84, None), tcp(82, Some("10.0.0.0/24"))],
            ..HostOptions::default()
        }
    }
}

fn endpoints() -> impl Strategy<Value = Endpoints> {
    select(vec![
        Endpoints { eth0: Some("host0"), eth1: None, others: None },
        Endpoints { eth0: Some("host0"), eth1: Some("host1"), others: None },
        Endpoints { eth0: None, eth1: None, others: Some("host0") },
        Endpoints { eth0: Some("host0"), eth1: None, others: Some("host1") },
    ])
}

/// A GlobalNetworkPolicy: of pods and hosts alike, or of one of the sorts that only hosts know.
fn a_policy() -> BoxedStrategy<Value> {
    let sort = select(vec!["", "", "applyOnForward", "applyOnForward", "preDNAT", "doNotTrack"]);
    let theme = select(vec![Theme::Order, Theme::Nets, Theme::Ports, Theme::Ports, Theme::Whom]);
    let rules = theme.prop_flat_map(|theme| (vec(rule(theme, false), 1..4), vec(rule(theme, true), 1..4)));
    let subject = select(vec!["all()", "all()", "a == '1'", "a == '2'", "zone == 'edge'"]);
    let place = (
        select(vec!["default", "default", "security", "leftover"]),
        select(vec![1.0, 2.0]),
        select(vec!["alpha", "bravo", "zulu"]),
    );
    let staged = prop::bool::weighted(0.1);
    (sort, rules, subject, place, any::<bool>(), staged)
        .prop_map(|(sort, (ingress, egress), subject, (tier, order, name), outward, staged)| {
            let outward = outward && sort != "preDNAT";
            let mut spec = json!({"selector": subject, "tier": tier, "order": order, "types": [if outward { "Egress" } else { "Ingress" }]});
            let (direction, rules) = if outward { ("egress", egress) } else { ("ingress", ingress) };
            spec[direction] = json!(rules);
            if !sort.is_empty() {
                spec[sort] = json!(true);
                spec["applyOnForward"] = json!(true);
            }
            let kind = if staged { "StagedGlobalNetworkPolicy" } else { "GlobalNetworkPolicy" };
            calico(kind, None, name, &json!({}), &spec)
        })
        .boxed()
}

/// What there is besides policies: the endpoints, their profile, and a set of networks.
fn furniture(endpoints: Endpoints) -> BoxedStrategy<Vec<Value>> {
    let profiles = select(vec![vec![], vec!["projectcalico-default-allow"], vec!["shared"], vec!["gone", "shared"]]);
    let hosts = vec((labels(), profiles), 2);
    let profile = (vec(rule(Theme::Ports, false), 0..3), vec(rule(Theme::Nets, true), 0..3), any::<bool>());
    let set = prop::option::of((labels(), select(vec!["192.0.2.1/32", "10.0.0.0/24", "fd00::/64"])));
    (hosts, profile, set)
        .prop_map(move |(hosts, (ingress, egress, labelled), set)| {
            let place = |name| match name {
                Some("host0") => 0,
                _ => 1,
            };
            let mut documents = Vec::new();
            for (interface, name) in [("eth0", endpoints.eth0), ("eth1", endpoints.eth1), ("*", endpoints.others)] {
                let Some(name) = name else { continue };
                let (labels, profiles) = &hosts[place(Some(name))];
                let spec = json!({"node": "n1", "interfaceName": interface, "expectedIPs": OWN, "profiles": profiles,
                    "ports": [{"name": "web", "protocol": "TCP", "port": 81}]});
                documents.push(calico("HostEndpoint", None, name, labels, &spec));
            }
            let labels = if labelled { json!({"zone": "edge"}) } else { json!({}) };
            let spec = json!({"labelsToApply": labels, "ingress": ingress, "egress": egress});
            documents.push(calico("Profile", None, "shared", &json!({}), &spec));
            documents.extend(
                set.map(|(labels, net)| calico("GlobalNetworkSet", None, "set", &labels, &json!({"nets": [net]}))),
            );
            documents
        })
        .boxed()
}

/// A world, as far as Calico would take it.
fn world(endpoints: Endpoints) -> BoxedStrategy<World> {
    (furniture(endpoints), tiers(), vec(a_policy(), 1..6))
        .prop_map(|(furniture, tiers, policies)| {
            let mut seen = std::collections::BTreeSet::new();
            let mut documents = [furniture, tiers, policies].concat();
            documents.retain(|document| tortie_api::decode(document).is_ok() && seen.insert(key(document)));
            World { documents }
        })
        .boxed()
}

/// A packet's way past the node: in by one interface, or of the node's own, and out by one, or to the node.
#[derive(Debug, Clone, Copy)]
struct Way {
    iif: &'static str,
    oif: &'static str,
}

impl Way {
    fn back(self) -> Self {
        Self { iif: self.oif, oif: self.iif }
    }

    /// The endpoints that a flow which begins on this way passes.
    fn passes(self, endpoints: Endpoints) -> Vec<(&'static str, Passage)> {
        let passages = match (self.iif, self.oif) {
            (iif, "") => vec![(iif, Passage::ToNode)],
            ("", oif) => vec![(oif, Passage::FromNode)],
            (iif, oif) => vec![(iif, Passage::ForwardIn), (oif, Passage::ForwardOut)],
        };
        passages.into_iter().filter_map(|(interface, passage)| Some((endpoints.of(interface)?, passage))).collect()
    }

    /// Whether the packet comes through.
    fn lets(self, table: &Interpreter, packet: &mut Packet) -> bool {
        packet.oif = String::new();
        let passes = |hook, packet: &mut Packet| table.run(hook, packet) == Outcome::Accept;
        if !self.iif.is_empty() && !passes(HookPoint::Prerouting, packet) {
            return false;
        }
        self.oif.clone_into(&mut packet.oif);
        let hook = match (self.iif, self.oif) {
            (_, "") => HookPoint::Input,
            ("", _) => HookPoint::Output,
            _ => HookPoint::Forward,
        };
        passes(hook, packet) && (self.oif.is_empty() || passes(HookPoint::Postrouting, packet))
    }
}

/// Flows past the node.
fn flows(picks: &Picks) -> Vec<(Flow, Way)> {
    let mut flows = Vec::new();
    let tcp = |source, port| Traffic::Ports { protocol: Protocol::Tcp, source, port };
    let ports = [79, 80, 81, 82, 83, 84].map(|port| tcp(CLIENT_PORT, port));
    let answers = [tcp(84, 80), tcp(82, 80), tcp(80, 80)];
    let others = [53, 80, 81].map(|port| Traffic::to_port(Protocol::Udp, port));
    let pings = [Family::V4, Family::V6].map(Traffic::ping);
    let traffics: Vec<Traffic> = ports.into_iter().chain(answers).chain(others).chain(pings).collect();
    for (from, to) in OWN.iter().chain(&OTHERS).flat_map(|from| OWN.iter().chain(&OTHERS).map(move |to| (*from, *to))) {
        let ways: Vec<Way> = match (OWN.contains(&from), OWN.contains(&to)) {
            (true, true) => Vec::new(),
            (true, false) => INTERFACES.map(|oif| Way { iif: "", oif }).into(),
            (false, true) => INTERFACES.map(|iif| Way { iif, oif: "" }).into(),
            (false, false) => vec![Way { iif: "eth0", oif: "eth1" }, Way { iif: "eth1", oif: "eth0" }],
        };
        let (from, to): (IpAddr, IpAddr) = (addr(from), addr(to));
        if from.is_ipv4() != to.is_ipv4() || from == to {
            continue;
        }
        let family = if from.is_ipv4() { Family::V4 } else { Family::V6 };
        for traffic in traffics.iter().filter(|traffic| traffic.is_in(family)) {
            flows.extend(ways.iter().map(|way| (Flow { from, to, traffic: *traffic }, *way)));
        }
    }
    picks.flows(&flows)
}

/// What each endpoint that a flow passes makes of it, up to the first that denies it.
fn asked(judge: &Judge<'_>, endpoints: Endpoints, flow: &Flow, way: Way) -> Vec<AtHost> {
    let (from, to) = (End::Address(flow.from), End::Address(flow.to));
    let question = Question { from, to, traffic: flow.traffic, family: None };
    let mut answers = Vec::new();
    for (endpoint, passage) in way.passes(endpoints) {
        let answer = judge.at_host(endpoint, passage, &question, &endpoints.options()).expect("addresses");
        answers.push(answer.expect("an endpoint"));
        if answers.last().is_some_and(|answer| !answer.allowed) {
            break;
        }
    }
    answers
}

/// Whether policies of a sort are in the world.
fn has(world: &World, sort: &str) -> bool {
    world.documents.iter().any(|document| document["spec"][sort] == json!(true))
}

fn options(endpoints: Endpoints) -> CompileOptions {
    CompileOptions { host: endpoints.options(), ..CompileOptions::default() }
}

/// A world, and another with the same endpoints and some of its policies.
fn change(endpoints: Endpoints) -> BoxedStrategy<(World, World)> {
    (world(endpoints), world(endpoints), vec(prop::bool::weighted(0.7), 16))
        .prop_map(|(before, other, keep)| {
            let mut after = before.clone();
            for (document, keep) in other.documents.iter().zip(&keep) {
                if !keep {
                    after.documents.retain(|own| key(own) != key(document));
                    after.documents.push(document.clone());
                }
            }
            let mut keep = keep.iter().rev();
            after
                .documents
                .retain(|document| document["kind"] != "GlobalNetworkPolicy" || *keep.next().unwrap_or(&true));
            (before, after)
        })
        .boxed()
}

/// What concerns a host endpoint without being a policy of its.
#[test]
fn tiers_and_profiles_change_what_host_endpoints_say() {
    let endpoints = Endpoints { eth0: Some("host0"), eth1: None, others: None };
    let options = options(endpoints);
    let spec = json!({"node": "n1", "interfaceName": "eth0", "expectedIPs": OWN, "profiles": ["shared"]});
    let host = calico("HostEndpoint", None, "host0", &json!({}), &spec);
    let tier = |action: &str| calico("Tier", None, "first", &json!({}), &json!({"order": 1, "defaultAction": action}));
    let profile =
        |action: &str| calico("Profile", None, "shared", &json!({}), &json!({"ingress": [{"action": action}]}));
    let nothing = json!({"tier": "first", "selector": "all()", "types": ["Ingress"]});
    let policy = calico("GlobalNetworkPolicy", None, "p", &json!({}), &nothing);
    let mut compiler = Compiler::new(options.clone());
    for document in [&host, &tier("Pass"), &profile("Allow"), &policy] {
        compiler.cluster_mut().upsert(&object(document));
    }
    let generation = Generation::seed(3);
    compiler.update(&[], generation);
    let lets = |compiler: &Compiler| {
        let table = Interpreter::new(compiler.table()).expect("a table");
        let (from, to) = (addr(OTHERS[0]), addr(OWN[0]));
        let flow = Flow { from, to, traffic: Traffic::to_port(Protocol::Tcp, 80) };
        let mut packet = flow.packet(Direction::Original, FlowState::New, 0, "eth0");
        Way { iif: "eth0", oif: "" }.lets(&table, &mut packet)
    };
    assert!(lets(&compiler));
    for (change, back) in [(tier("Deny"), tier("Pass")), (profile("Deny"), profile("Allow"))] {
        compiler.cluster_mut().upsert(&object(&change));
        let update = compiler.follow(generation);
        assert!(!lets(&compiler) && compiler.must_move(&update), "{change}");
        compiler.cluster_mut().upsert(&object(&back));
        compiler.follow(generation);
        assert!(lets(&compiler), "{back}");
    }
}

proptest! {
    #![proptest_config(cases(300))]

    /// First packets; further ones and answers after the generation moved.
    #[test]
    fn host_endpoints_are_judged_alike(
        (endpoints, world) in endpoints().prop_flat_map(|endpoints| (Just(endpoints), world(endpoints))),
        picks in picks(),
    ) {
        let objects = world.objects();
        let known = Objects::new(&objects);
        let judge = Judge::new(&known);
        let cluster = crate::support::cluster(&objects);
        let (first, mask) = (Generation::seed(1), MarkMask::default());
        let table = |generation| {
            Interpreter::new(&compile(&cluster, &[], generation, &options(endpoints))).expect("a table")
        };
        let (before, after) = (table(first), table(first.next()));
        for (flow, way) in flows(&picks) {
            let answers = asked(&judge, endpoints, &flow, way);
            let allowed = answers.iter().all(|answer| answer.allowed);
            let mut packet = flow.packet(Direction::Original, FlowState::New, 0, way.iif);
            prop_assert_eq!(way.lets(&before, &mut packet), allowed, "{:?} {:?} {:?}", flow, way, answers);
            let untracked = answers.iter().any(|answer| answer.by == DecidedBy::Untracked && answer.allowed);
            prop_assert_eq!(packet.ct == Conntrack::Untracked, untracked, "{:?} {:?} {:?}", flow, way, answers);
            let old = first.live_mark(mask);
            let mut packet = flow.packet(Direction::Original, FlowState::Established, old, way.iif);
            prop_assert_eq!(way.lets(&after, &mut packet), allowed, "again: {:?} {:?} {:?}", flow, way, answers);
            // Packets by themselves have no answers, policies before DNAT are asked after all others about an answer, and one to a
            // failsafe port passes whoever began the flow.
            let from_client = matches!(flow.traffic, Traffic::Ports { source: CLIENT_PORT, .. });
            if from_client && !has(&world, "doNotTrack") && !has(&world, "preDNAT") {
                let back = way.back();
                let mut packet = flow.packet(Direction::Reply, FlowState::Established, old, back.iif);
                prop_assert_eq!(back.lets(&after, &mut packet), allowed, "answer: {:?} {:?} {:?}", flow, way, answers);
            }
        }
    }

    /// A change is kept up with, and where a flow that was allowed is denied now the generation moves, unless it is of packets by
    /// themselves.
    #[test]
    fn what_changes_at_host_endpoints_is_kept_up_with(
        (endpoints, (before, after)) in endpoints().prop_flat_map(|endpoints| (Just(endpoints), change(endpoints))),
        picks in picks(),
    ) {
        let options = options(endpoints);
        let mut compiler = Compiler::new(options.clone());
        let generation = Generation::seed(3);
        let (old, new) = (before.objects(), after.objects());
        for object in &old {
            compiler.cluster_mut().upsert(object);
        }
        compiler.update(&[], generation);
        let known = compiler.table().clone();
        for object in old.iter().filter(|object| !new.iter().any(|other| other.key() == object.key())) {
            compiler.cluster_mut().remove(&object.key());
        }
        for object in &new {
            compiler.cluster_mut().upsert(object);
        }
        let update = compiler.follow(generation);
        is_as_anew(compiler.table(), &compile(&crate::support::cluster(&new), &[], generation, &options))?;
        prop_assert_eq!(update.transaction(compiler.table()), known.diff(compiler.table()));
        let moves = compiler.must_move(&update);
        prop_assert_eq!(update.before(compiler.table()), known);
        let worlds = [Objects::new(&old), Objects::new(&new)];
        let judges = [Judge::new(&worlds[0]), Judge::new(&worlds[1])];
        for (flow, way) in flows(&picks) {
            let [old, new] = [0, 1].map(|which: usize| asked(&judges[which], endpoints, &flow, way));
            let allowed = |answers: &[AtHost]| answers.iter().all(|answer| answer.allowed);
            let alone = old.iter().chain(&new).any(|answer| answer.by == DecidedBy::Untracked);
            prop_assert!(moves || alone || !allowed(&old) || allowed(&new), "{:?} {:?} {:?} {:?}", flow, way, old, new);
        }
    }
}
