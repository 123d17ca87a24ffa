//! Compiler against oracle in small and crowded worlds: several policies for each pod, every one with a rule or two that asks for little.
//! So nearly every rule decides about some packet, and nearly every mistake of meaning shows.
//!
//! A world has one or two themes, which its rules are about. What is asked is chosen near what the rules say: their ports and the next
//! ones, their types of ICMP with both codes, and everybody in the world.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};
use tortie_api::k8s::Protocol;
use tortie_nft::Family;
use tortie_policy::offline::Offline;
use tortie_policy::oracle::{Judge, Traffic};
use tortie_policy::{CompileOptions, Compiler, Generation, compile};

use crate::crowd::{crowd, policies, tiers};
use crate::generated::{asked, both_directions, cases, flows, no_flow_lost};
use crate::histories::is_as_anew;
use crate::kinds::key;
use crate::worlds::World;

/// Which questions are asked of a world.
#[derive(Clone)]
pub(crate) struct Picks {
    traffics: Vec<Index>,
    flows: Vec<Index>,
}

/// A failure names its flow: what else was asked is of no use to anybody.
impl std::fmt::Debug for Picks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Picks")
    }
}

pub(crate) fn picks() -> impl Strategy<Value = Picks> {
    (vec(any::<Index>(), 6), vec(any::<Index>(), 50)).prop_map(|(traffics, flows)| Picks { traffics, flows })
}

impl Picks {
    /// The packets to ask about.
    pub(crate) fn traffics(&self, world: &World) -> Vec<Traffic> {
        let near = near(world);
        self.traffics.iter().map(|index| near[index.index(near.len())]).collect()
    }

    /// The flows to ask about, of all.
    pub(crate) fn flows<T: Clone>(&self, flows: &[T]) -> Vec<T> {
        let all = self.flows.iter().filter(|_| !flows.is_empty());
        all.map(|index| flows[index.index(flows.len())].clone()).collect()
    }
}

/// Packets near what the rules of a world say.
fn near(world: &World) -> Vec<Traffic> {
    let mut numbers = vec![80];
    let mut icmp = false;
    for document in &world.documents {
        find(document, &mut numbers, &mut icmp);
    }
    let mut near: Vec<Traffic> = Vec::new();
    numbers.sort_unstable();
    numbers.dedup();
    for port in numbers {
        near.extend([Traffic::to_port(Protocol::Tcp, port); 3]);
        near.extend([Traffic::to_port(Protocol::Udp, port); 2]);
        near.extend([port - 1, port + 1].map(|port| Traffic::to_port(Protocol::Tcp, port)));
        near.push(Traffic::Ports { protocol: Protocol::Tcp, source: port, port: 80 });
    }
    near.push(Traffic::to_port(Protocol::Sctp, 80));
    near.push(Traffic::Other(47));
    if icmp {
        for (family, kinds) in [(Family::V4, [8, 13]), (Family::V6, [128, 139])] {
            for (kind, code) in kinds.into_iter().flat_map(|kind| [(kind, 0), (kind, 1)]) {
                let message = Traffic::Icmp { family, kind, code };
                near.extend([message; 4]);
            }
        }
    }
    near
}

/// Finds ports in a document, by the names of their fields, and whether it speaks of ICMP.
fn find(document: &Value, numbers: &mut Vec<u16>, icmp: &mut bool) {
    match document {
        Value::Array(list) => list.iter().for_each(|value| find(value, numbers, icmp)),
        Value::Object(fields) => {
            for (field, value) in fields {
                let is_port = ["ports", "notPorts", "port", "endPort", "number", "start", "end", "containerPort"]
                    .contains(&field.as_str());
                *icmp |= ["protocol", "notProtocol"].contains(&field.as_str())
                    && [json!("ICMP"), json!("ICMPv6"), json!(1), json!(58)].contains(value);
                let values = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
                for value in values.iter().filter(|_| is_port) {
                    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                    numbers.extend(text.split(':').filter_map(|number| number.parse::<u16>().ok()));
                }
                find(value, numbers, icmp);
            }
        }
        _ => {}
    }
}

/// A crowded world.
pub(crate) fn crowded() -> BoxedStrategy<World> {
    (crowd(), tiers(), policies())
        .prop_map(|(crowd, tiers, policies)| World { documents: [crowd, tiers, policies].concat() })
        .boxed()
}

/// A crowded world before and after a change: of its pods and whoever else is a peer, or of its policies and tiers.
fn crowded_change() -> BoxedStrategy<(World, World)> {
    (crowd(), tiers(), policies(), crowd(), tiers(), policies(), vec(prop::bool::weighted(0.7), 40), 0..4u8)
        .prop_map(|(crowd, tiers, policies, crowd2, tiers2, policies2, keep, what)| {
            let before = [crowd.clone(), tiers.clone(), policies.clone()].concat();
            let mut after = before.clone();
            let mut replace = |documents: Vec<Value>, all: bool| {
                for (document, keep) in documents.into_iter().zip(&keep) {
                    if all || !keep {
                        let own = key(&document);
                        after.retain(|other| key(other) != own);
                        after.push(document);
                    }
                }
            };
            match what {
                0 => replace(crowd2, false),
                1 => replace(tiers2, true),
                _ => replace(policies2, false),
            }
            if what == 3 {
                let mut keep = keep.iter().rev();
                let is_policy = |document: &Value| policies.iter().any(|policy| key(policy) == key(document));
                after.retain(|document| !is_policy(document) || *keep.next().unwrap_or(&true));
            }
            (World { documents: before }, World { documents: after })
        })
        .boxed()
}

/// Whether the generation of a node's table moves with a change of its world, which is taken in step by step.
fn moves(node: &str, before: &World, after: &World, offline: &[Offline; 2]) -> Result<bool, TestCaseError> {
    let options = CompileOptions::default();
    let mut compiler = Compiler::new(options.clone());
    let generation = Generation::seed(3);
    let (old, new) = (before.objects(), after.objects());
    for object in &old {
        compiler.cluster_mut().upsert(object);
    }
    compiler.update(&offline[0].endpoints(node), generation);
    let known = compiler.table().clone();
    for object in old.iter().filter(|object| !new.iter().any(|other| other.key() == object.key())) {
        compiler.cluster_mut().remove(&object.key());
    }
    for object in &new {
        compiler.cluster_mut().upsert(object);
    }
    let endpoints = offline[1].endpoints(node);
    let update = compiler.update(&endpoints, generation);
    is_as_anew(compiler.table(), &compile(offline[1].cluster(), &endpoints, generation, &options))?;
    prop_assert_eq!(update.transaction(compiler.table()), known.diff(compiler.table()));
    let moves = compiler.must_move(&update);
    prop_assert_eq!(update.before(compiler.table()), known);
    Ok(moves)
}

proptest! {
    #![proptest_config(cases(400))]

    /// Compiler and oracle, in a crowd: verdicts, and who decides.
    #[test]
    fn a_crowd_is_judged_alike(world in crowded(), picks in picks()) {
        both_directions(&world, &picks.traffics(&world), |flows| picks.flows(&flows))?;
    }

    /// A change that is made to a table in parts: the table is as compiled anew, the transaction leads there, and where the oracle says
    /// that a flow which was allowed is denied now, the generation moves on the node that is to deny it.
    #[test]
    fn what_changes_in_a_crowd_is_kept_up_with((before, after) in crowded_change(), picks in picks()) {
        let offline = [Offline::new(&before.objects()), Offline::new(&after.objects())];
        let moved = |node: &str| moves(node, &before, &after, &offline);
        let moved = BTreeMap::from([("n1", moved("n1")?), ("n2", moved("n2")?)]);
        let judges = [Judge::new(offline[0].world()), Judge::new(offline[1].world())];
        for flow in picks.flows(&flows(&offline[1], &[], &picks.traffics(&before))) {
            let [old, new] = [asked(&judges[0], &flow), asked(&judges[1], &flow)];
            let ends = [(&old.egress, &new.egress, &new.from), (&old.ingress, &new.ingress, &new.to)];
            for (old, new, place) in ends {
                let node = place.node.as_deref().filter(|_| place.pod).unwrap_or_default();
                prop_assert!(
                    !old.allowed || new.allowed || moved.get(node).is_none_or(|moved| *moved),
                    "{flow:?} was allowed on {node}, and now {:?}",
                    new.reason
                );
            }
        }
    }

    /// A change in a crowd that is said not to tighten takes nothing away.
    #[test]
    fn what_does_not_tighten_denies_nothing_in_a_crowd((before, after) in crowded_change(), picks in picks()) {
        no_flow_lost(&before, &after, &picks.traffics(&before))?;
    }
}
