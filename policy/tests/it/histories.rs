//! Random histories: what the compiler keeps up to date, against what is compiled anew at every step.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::sample::subsequence;
use serde_json::Value;
use tortie_api::ObjectKey;
use tortie_nft::{LimitUnit, Ruleset};
use tortie_policy::hits::without_unused;
use tortie_policy::{
    CompileOptions, Compiler, DenyAction, Endpoint, EndpointToHost, Generation, HostInterface, HostOptions, LogLimit,
    MarkMask, NatExclusions, NatOutgoing, ServiceLoop, compile, tightens,
};

use crate::documents::change_documents;
use crate::generated::cases;
use crate::kinds::any_document;
use crate::support::{endpoint, object};

/// Something that happens to a cluster.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// A document comes or changes.
    Upsert(Value),
    /// The document goes, if it is there.
    Remove(Value),
    /// The pod's interface comes, with these addresses.
    Attach(u8, Vec<&'static str>),
    /// The pod's interface goes.
    Detach(u8),
    /// The generation moves.
    Move,
    /// The settings change.
    Settings(Box<CompileOptions>),
    /// The table is brought up to date: what happened since happens at once.
    Update,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let addresses = prop_oneof![
        Just(vec!["10.0.0.1", "fd00::1"]),
        Just(vec!["10.0.0.2"]),
        Just(vec!["10.0.0.1"]),
        Just(vec!["10.0.0.3", "10.0.0.4", "fd00::2"]),
    ];
    let step = prop_oneof![
        6 => change_documents().prop_map(Step::Upsert),
        5 => any_document().prop_map(Step::Upsert),
        3 => change_documents().prop_map(Step::Remove),
        3 => any_document().prop_map(Step::Remove),
        3 => (0..9u8, addresses).prop_map(|(pod, addresses)| Step::Attach(pod, addresses)),
        1 => (0..9u8).prop_map(Step::Detach),
        1 => Just(Step::Move),
        1 => settings().prop_map(|settings| Step::Settings(Box::new(settings))),
        8 => Just(Step::Update),
    ];
    prop::collection::vec(step, 1..40)
}

/// Settings, of which each changes the shape of the table.
fn settings() -> impl Strategy<Value = CompileOptions> {
    let exclusions = prop_oneof![Just(NatExclusions::IpPoolsOnly), Just(NatExclusions::IpPoolsAndHostIps)];
    let masks = prop_oneof![3 => Just(0xffff_0000_u32), 1 => Just(0x0ff0_0000), 1 => Just(0xff00)];
    let services = prop_oneof![Just(vec![]), Just(vec!["10.96.0.0/12"]), Just(vec!["10.96.0.0/12", "fd00:96::/112"])];
    let hosts = (host_interfaces(), prop::bool::weighted(0.2));
    (exclusions, masks, services, any::<bool>(), any::<bool>(), any::<bool>(), hosts).prop_map(
        |(exclusions, mask, services, spoofing, reject, ports, (interfaces, keep_connections))| CompileOptions {
            host: HostOptions { interfaces, keep_connections, ..HostOptions::default() },
            mark_mask: MarkMask::try_from(mask).expect("enough bits"),
            deny_action: if reject { DenyAction::Reject } else { DenyAction::Drop },
            endpoint_to_host: if ports { EndpointToHost::Drop } else { EndpointToHost::Accept },
            service_loop_prevention: if spoofing { ServiceLoop::Reject } else { ServiceLoop::Drop },
            service_cidrs: services.into_iter().map(|cidr| cidr.parse().expect("a prefix")).collect(),
            nat_outgoing: NatOutgoing {
                exclusions,
                port_range: ports.then_some((1024, 65_535)),
                ..NatOutgoing::default()
            },
            source_spoofing: spoofing,
            log_limit: reject.then_some(LogLimit { packets: 10, per: LimitUnit::Minute, burst: 5 }),
            ..CompileOptions::default()
        },
    )
}

/// The interfaces of the node that host endpoints are for.
fn host_interfaces() -> impl Strategy<Value = Vec<HostInterface>> {
    let interfaces = vec![("host0", Some("uplink0")), ("host1", Some("uplink1")), ("host2", None)];
    subsequence(interfaces, 0..=3).prop_map(|interfaces| {
        let interface = |(endpoint, interface): (&str, Option<&str>)| HostInterface {
            endpoint: endpoint.to_owned(),
            interface: interface.map(str::to_owned),
        };
        interfaces.into_iter().map(interface).collect()
    })
}

/// A crowded start, then changes one or two at a time: what they meet is there, and what they miss is seen.
fn history() -> impl Strategy<Value = Vec<Step>> {
    let document = prop_oneof![change_documents(), any_document()];
    let start = prop::collection::vec(document.prop_map(Step::Upsert), 40);
    (start, prop::collection::vec(0..9u8, 4), steps(), settings()).prop_map(
        |(mut history, attached, steps, settings)| {
            history.push(Step::Settings(Box::new(settings)));
            for number in attached {
                let addresses = [vec!["10.0.0.1"], vec!["10.0.0.2", "fd00::2"], vec!["10.0.0.3"]];
                history.push(Step::Attach(number, addresses[usize::from(number % 3)].clone()));
            }
            history.push(Step::Update);
            history.extend(steps);
            history
        },
    )
}

fn pod(number: u8) -> (&'static str, String) {
    (["x", "y", "z"][usize::from(number % 3)], format!("pod{}", number / 3))
}

/// Holds a table that was kept up to date to one that was compiled anew. Of counters in which nothing counts it may have more.
pub(crate) fn is_as_anew(kept: &Ruleset, fresh: &Ruleset) -> Result<(), TestCaseError> {
    let missing: Vec<_> = fresh.counters.iter().filter(|(name, it)| kept.counters.get(*name) != Some(it)).collect();
    prop_assert!(missing.is_empty(), "{:?}", missing);
    let (kept, fresh) = (without_unused(kept.clone()), without_unused(fresh.clone()));
    prop_assert!(
        kept == fresh,
        "to be as compiled anew it lacks:
{}",
        kept.diff(&fresh)
    );
    Ok(())
}

proptest! {
    #![proptest_config(cases(100))]

    #[test]
    fn an_update_is_what_compiling_anew_gives(steps in history()) {
        let mut options = CompileOptions::default();
        let mut compiler = Compiler::new(options.clone());
        let mut endpoints: BTreeMap<u8, Endpoint> = BTreeMap::new();
        let mut generation = Generation::seed(3);
        let mut known: Ruleset = Ruleset::default();
        let mut last: Option<Vec<Endpoint>> = None;
        for (number, step) in steps.into_iter().chain([Step::Update]).enumerate() {
            match step {
                Step::Upsert(document) => {
                    compiler.cluster_mut().upsert(&object(&document));
                }
                Step::Remove(document) => {
                    let key: ObjectKey = object(&document).key();
                    compiler.cluster_mut().remove(&key);
                }
                Step::Attach(number, addresses) => {
                    let (namespace, name) = pod(number);
                    endpoints.insert(number, endpoint(namespace, &name, &addresses));
                }
                Step::Detach(number) => {
                    endpoints.remove(&number);
                }
                Step::Move => generation = generation.next(),
                Step::Settings(settings) => {
                    options = *settings;
                    compiler.set_options(options.clone());
                }
                Step::Update => {
                    let endpoints: Vec<Endpoint> = endpoints.values().cloned().collect();
                    // Where no endpoint came or went, both ways are open.
                    let mut update = if last.as_ref() == Some(&endpoints) && number % 3 > 0 {
                        compiler.follow(generation)
                    } else {
                        compiler.update(&endpoints, generation)
                    };
                    let fresh = compile(compiler.cluster(), &endpoints, generation, &options);
                    is_as_anew(compiler.table(), &fresh)?;
                    prop_assert!(!tightens(&known, &fresh) || update.tightens(compiler.table()), "less cautious");
                    if update.tightens(compiler.table()) {
                        generation = compiler.next_generation(generation, &update);
                        compiler.move_generation(generation, &mut update);
                        let moved = compile(compiler.cluster(), &endpoints, generation, &options);
                        is_as_anew(compiler.table(), &moved)?;
                    }
                    prop_assert_eq!(update.transaction(compiler.table()), known.diff(compiler.table()));
                    prop_assert_eq!(update.before(compiler.table()), known);
                    known = compiler.table().clone();
                    last = Some(endpoints);
                }
            }
        }
    }
}
