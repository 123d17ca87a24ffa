//! Generated clusters of every kind of resource that policy knows, and packets of every kind: compiler against oracle.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::Value;
use tortie_api::k8s::Protocol;
use tortie_nft::Family;
use tortie_policy::oracle::{CLIENT_PORT, Traffic};

use crate::documents::{PROBED, frame, labels, pods, policies};
use crate::generated::{both_directions, cases, no_flow_lost};
use crate::kinds::{furniture, key};
use crate::worlds::{World, placed};

/// A world of all kinds.
fn full_world() -> impl Strategy<Value = World> {
    (vec(labels(), 2), pods(), policies(), furniture()).prop_map(|(labels, pods, policies, furniture)| World {
        documents: [frame(&labels), pods, policies, furniture].concat(),
    })
}

/// A cluster before and after a change of what is neither a pod nor a policy of Kubernetes': some goes, some comes.
fn full_change() -> impl Strategy<Value = (World, World)> {
    let keep = vec(prop::bool::weighted(0.8), 24);
    (full_world(), furniture(), keep).prop_map(|(before, furniture, keep)| {
        let mut documents = before.documents.clone();
        let core = |document: &Value| {
            ["Node", "Namespace", "Pod"].iter().any(|kind| document["kind"] == *kind)
                || document["apiVersion"] == "networking.k8s.io/v1"
        };
        let mut index = 0;
        documents.retain(|document| {
            index += 1;
            core(document) || document["kind"] == "Tier" || keep[index % keep.len()]
        });
        for (document, keep) in furniture.into_iter().zip(keep.iter().rev()) {
            if !*keep {
                let own = key(&document);
                documents.retain(|other| key(other) != own);
                documents.push(document);
            }
        }
        (before, World { documents })
    })
}

/// First packets of every kind.
fn traffics() -> impl Strategy<Value = Vec<Traffic>> {
    let ports =
        (select(Protocol::ALL.to_vec()), select(vec![CLIENT_PORT, CLIENT_PORT, 53, 80]), select(PROBED.to_vec()))
            .prop_map(|(protocol, source, port)| Traffic::Ports { protocol, source, port });
    let icmp = prop_oneof![(Just(Family::V4), select(vec![8, 13])), (Just(Family::V6), select(vec![128, 139]))];
    let traffic = prop_oneof![
        6 => ports,
        3 => (icmp, 0..2u8).prop_map(|((family, kind), code)| Traffic::Icmp { family, kind, code }),
        1 => select(vec![47, 136]).prop_map(Traffic::Other),
    ];
    vec(traffic, 4..7)
}

proptest! {
    #![proptest_config(cases(60))]

    /// All kinds of policies and of packets together.
    #[test]
    fn all_kinds_are_judged_alike(world in full_world().prop_map(placed), traffics in traffics()) {
        both_directions(&world, &traffics, |flows| flows)?;
    }

    /// A change of any kind that is said not to tighten takes nothing away either.
    #[test]
    fn what_does_not_tighten_denies_nothing_of_any_kind(
        (before, after) in full_change(), traffics in traffics()
    ) {
        no_flow_lost(&before, &after, &traffics)?;
    }
}
