//! Generated clusters: what the compiler makes of them, by interpreted packets, against what the oracle says.
//!
//! `TORTIE_LONG=1` asks for so many cases that hours are well spent.

use std::collections::BTreeMap;
use std::net::IpAddr;

use proptest::prelude::*;
use proptest::sample::subsequence;
use tortie_api::Object;
use tortie_api::k8s::{PolicyType, Protocol};
use tortie_nft::interpreter::FlowState;
use tortie_nft::{Direction, Family};
use tortie_policy::matrix::{Engine, Query, matrix};
use tortie_policy::offline::Offline;
use tortie_policy::oracle::{Decision, End, Judge, Question, Traffic};
use tortie_policy::{Generation, MarkMask, tightens};

use crate::documents::{NODES, OUTSIDE, PROBED};
use crate::hits::{Denying, counting};
use crate::support::{Flow, Network, addr};
use crate::worlds::{World, change, placed, world};

/// The addresses of all endpoints that have one.
fn endpoint_addresses(offline: &Offline) -> Vec<IpAddr> {
    offline.nodes().into_iter().flat_map(|node| offline.endpoints(node)).flat_map(|endpoint| endpoint.ips).collect()
}

fn node_addresses() -> Vec<(&'static str, IpAddr)> {
    NODES.iter().flat_map(|(name, v4, v6)| [(*name, addr(v4)), (*name, addr(v6))]).collect()
}

/// The addresses of pods that are no endpoints.
fn other_addresses(world: &World) -> Vec<IpAddr> {
    let not_endpoints = world.objects().into_iter().filter_map(|object| match object {
        Object::Pod(pod) if !pod.is_endpoint() => Some(pod.addresses()),
        _ => None,
    });
    not_endpoints.flatten().collect()
}

/// Flows between pods, and between pods and nodes, the outside, and `strangers`.
pub(crate) fn flows(offline: &Offline, strangers: &[IpAddr], traffics: &[Traffic]) -> Vec<Flow> {
    let pods = endpoint_addresses(offline);
    let others: Vec<IpAddr> = node_addresses()
        .into_iter()
        .map(|(_, ip)| ip)
        .chain(OUTSIDE.iter().map(|ip| addr(ip)))
        .chain(strangers.iter().copied())
        .collect();
    let mut flows = Vec::new();
    for (index, from) in pods.iter().chain(&others).enumerate() {
        for (other, to) in pods.iter().chain(&others).enumerate() {
            if from.is_ipv4() == to.is_ipv4() && (index < pods.len() || other < pods.len()) {
                let family = if from.is_ipv4() { Family::V4 } else { Family::V6 };
                let traffics = traffics.iter().filter(|traffic| traffic.is_in(family));
                flows.extend(traffics.map(|traffic| Flow { from: *from, to: *to, traffic: *traffic }));
            }
        }
    }
    flows
}

/// What the oracle says of a flow.
pub(crate) fn asked(judge: &Judge<'_>, flow: &Flow) -> Decision {
    let (from, to) = (End::Address(flow.from), End::Address(flow.to));
    let question = Question { from, to, traffic: flow.traffic, family: None };
    judge.verdict(&question).expect("both ends have addresses")
}

fn probed_ports() -> impl Strategy<Value = Vec<(Protocol, u16)>> {
    let all: Vec<_> = Protocol::ALL.iter().flat_map(|protocol| PROBED.map(|port| (*protocol, port))).collect();
    let most = all.len();
    subsequence(all, 6..=most.min(12))
}

/// So many cases, or a hundred times as many where there is time.
pub(crate) fn cases(cases: u32) -> ProptestConfig {
    let long = std::env::var_os("TORTIE_LONG").is_some_and(|long| long == "1");
    let cases = if long { 100 * cases } else { cases };
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(600))]

    /// The matrix of both engines, in both families: pods without addresses and pods on no node included.
    #[test]
    fn compiler_and_oracle_agree(world in world(), ports in probed_ports()) {
        let offline = Offline::new(&world.objects());
        for family in [Family::V4, Family::V6] {
            let ask = |engine| {
                matrix(&offline, &Query { ports: Some(ports.clone()), family, engine }).expect("a matrix")
            };
            let (compiled, oracle) = (ask(Engine::Compiled), ask(Engine::Oracle));
            for (compiled, oracle) in compiled.iter().zip(&oracle) {
                prop_assert_eq!(compiled, oracle, "compiled, and what the oracle says");
            }
            prop_assert_eq!(compiled.len(), oracle.len());
        }
    }
}

/// What the compiled tables make of each flow that begins between pods, nodes and the outside, of those that `pick` takes: its first
/// packet; after the generation moved its next one, and its answer; what the flow's mark says all the while; and which rules count it.
pub(crate) fn both_directions(
    world: &World,
    traffics: &[Traffic],
    pick: impl Fn(Vec<Flow>) -> Vec<Flow>,
) -> Result<(), TestCaseError> {
    let objects = world.objects();
    let offline = Offline::new(&objects);
    let denying = Denying::of(&objects);
    let judge = Judge::new(offline.world());
    let nodes = node_addresses();
    let first = Generation::seed(1);
    let second = first.next();
    let before = Network::new(&offline, first, &nodes);
    let after = Network::new(&offline, second, &nodes);
    let mask = MarkMask::default();
    for flow in pick(flows(&offline, &other_addresses(world), traffics)) {
        let decision = asked(&judge, &flow);
        let allowed = decision.allowed;
        let expected = |directions: &[PolicyType], again| {
            let mut hits = Vec::new();
            for direction in directions {
                let half = if *direction == PolicyType::Egress { &decision.egress } else { &decision.ingress };
                hits.extend(counting(half, *direction, &denying, again));
                if !half.allowed {
                    break;
                }
            }
            hits.sort();
            hits
        };
        let send = |network: &Network, direction, state, marks: &mut BTreeMap<String, u32>| {
            let mut hits = Vec::new();
            let passed = network.send_noting(&flow, direction, state, marks, &mut hits);
            hits.sort();
            (passed, hits)
        };
        let there = [PolicyType::Egress, PolicyType::Ingress];
        let mut marks = BTreeMap::new();
        let (passed, hits) = send(&before, Direction::Original, FlowState::New, &mut marks);
        prop_assert_eq!(passed, allowed, "compiled, and what the oracle says of {:?}", flow);
        prop_assert_eq!(hits, expected(&there, false), "hits of {:?}", flow);
        let stamped = |marks: &BTreeMap<String, u32>, mark: u32| marks.values().filter(|m| **m == mark).count();
        // A pod's flow to itself needs no stamp.
        let judges = before.judges(&flow);
        let hops = if flow.from == flow.to { 0 } else { judges.len() };
        if allowed {
            prop_assert_eq!(stamped(&marks, first.live_mark(mask)), hops, "{:?} {:?}", flow, marks);
        } else {
            prop_assert!(stamped(&marks, first.live_mark(mask)) < hops, "{:?} {:?}", flow, marks);
        }

        // Had the flow been allowed once, its packets carry old stamps; the answer may well come first.
        let mut old: BTreeMap<String, u32> = judges.into_iter().map(|node| (node, first.live_mark(mask))).collect();
        prop_assert!(before.send(&flow, Direction::Reply, FlowState::Established, &mut old.clone()));
        let (passed, hits) = send(&after, Direction::Original, FlowState::Established, &mut old.clone());
        prop_assert_eq!(passed, allowed, "a further packet of {:?}", flow);
        prop_assert_eq!(hits, expected(&there, true), "hits of a further packet of {:?}", flow);
        let (answered, hits) = send(&after, Direction::Reply, FlowState::Established, &mut old);
        // The node itself answers unasked; what it sends meets no chain, and what it began is never cut.
        let (from, to) = (before.place(flow.from), before.place(flow.to));
        if to.interface.is_none() && to.node.is_some() && to.node == from.node {
            prop_assert!(answered);
            continue;
        }
        prop_assert_eq!(answered, allowed, "the answer of {:?}", flow);
        // An answer comes by the destination's node first. On one node egress is asked before ingress.
        let back = if from.node == to.node { there } else { [PolicyType::Ingress, PolicyType::Egress] };
        prop_assert_eq!(hits, expected(&back, true), "hits of the answer of {:?}", flow);
        if allowed {
            prop_assert!(
                old.values().all(|mark_of| *mark_of == second.live_mark(mask)) || hops == 0,
                "{:?} {:?}",
                flow,
                old
            );
        } else {
            prop_assert!(stamped(&old, second.live_mark(mask)) < hops, "{:?} {:?}", flow, old);
        }
    }
    Ok(())
}

/// The two worlds' tables, held to what [`tightens`] says of the change from one to the other: what it lets go takes nothing away from
/// flows that were stamped before it.
pub(crate) fn no_flow_lost(before: &World, after: &World, traffics: &[Traffic]) -> Result<(), TestCaseError> {
    let (before, after) = (Offline::new(&before.objects()), Offline::new(&after.objects()));
    let nodes = node_addresses();
    let generation = Generation::seed(1);
    let (old, new) = (Network::new(&before, generation, &nodes), Network::new(&after, generation, &nodes));
    for (name, current) in &old.rulesets {
        let Some(want) = new.rulesets.get(name) else { continue };
        if tightens(current, want) {
            continue;
        }
        for flow in flows(&before, &[], traffics) {
            let mut marks = BTreeMap::new();
            old.send(&flow, Direction::Original, FlowState::New, &mut marks);
            if marks.get(name) == Some(&generation.live_mark(MarkMask::default())) {
                // This node would now let the flow pass unjudged; judged anew it must pass here, too.
                prop_assert!(new.send_through(name, &flow), "{:?} on {}", flow, name);
            }
        }
    }
    Ok(())
}

/// What clients send to ports.
fn of_clients(ports: &[(Protocol, u16)]) -> Vec<Traffic> {
    ports.iter().map(|&(protocol, port)| Traffic::to_port(protocol, port)).collect()
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn both_directions_are_judged_alike(world in world().prop_map(placed), ports in probed_ports()) {
        both_directions(&world, &of_clients(&ports[..4]), |flows| flows)?;
    }

    #[test]
    fn what_does_not_tighten_denies_nothing((before, after) in change(), ports in probed_ports()) {
        no_flow_lost(&before, &after, &of_clients(&ports[..6]))?;
    }

    /// The order in which resources come does not show.
    #[test]
    fn order_does_not_matter(world in world().prop_flat_map(|world| {
        (Just(world.documents.clone()), Just(world.documents).prop_shuffle())
    })) {
        let (one, other) = world;
        let of = |documents| Offline::new(&World { documents }.objects());
        let (one, other) = (of(one), of(other));
        for node in one.nodes() {
            let options = tortie_policy::CompileOptions::default();
            prop_assert_eq!(one.render(node, &options), other.render(node, &options));
        }
    }

    /// A cluster that changed is the same as one that was so from the start.
    #[test]
    fn the_past_does_not_matter((before, after) in change()) {
        let (before, after) = (before.objects(), after.objects());
        let mut changed = crate::support::cluster(&before);
        let fresh = crate::support::cluster(&after);
        for object in &before {
            if !after.iter().any(|other| other.key() == object.key()) {
                changed.remove(&object.key());
            }
        }
        for object in &after {
            changed.upsert(object);
        }
        let offline = Offline::new(&after);
        for node in offline.nodes() {
            let endpoints = offline.endpoints(node);
            let compiled = |cluster| crate::support::node(cluster, &endpoints, Generation::seed(3)).0;
            prop_assert_eq!(compiled(&changed), compiled(&fresh));
        }
    }
}
