//! Settings: handed out when they change, in force at once, and the defaults again when they go.

mod common;

use common::{World, cluster, endpoint, local_endpoints};
use serde_json::{Value, json};
use tortie_api::calico::FelixConfiguration;
use tortie_api::{Kind, Object, ObjectKey};
use tortie_felix::{Action, Drift, DriftKind, Event, Host, HostRepair, HostReport, Settings};

fn felix(name: &str, spec: &Value) -> Object {
    let configuration: FelixConfiguration =
        serde_json::from_value(json!({ "metadata": { "name": name }, "spec": spec })).expect("a configuration");
    Object::FelixConfiguration(Box::new(configuration))
}

fn gone(name: &str) -> ObjectKey {
    ObjectKey { kind: Kind::FelixConfiguration, namespace: None, name: name.into() }
}

fn annotated(annotations: &Value) -> Object {
    let pod = serde_json::from_value(json!({
        "metadata": { "namespace": "default", "name": "web", "labels": { "app": "web" }, "annotations": annotations },
        "spec": { "nodeName": "a" },
        "status": { "podIPs": [{ "ip": "10.244.0.1" }] },
    }));
    Object::Pod(pod.expect("a pod"))
}

fn ready() -> World {
    let mut world = World::new("a");
    world.start(Vec::new());
    world.apply(cluster());
    world.writes.clear();
    world
}

/// What the host was told to be like, in the order it was told.
fn hosts(world: &World) -> Vec<&Host> {
    let hosts = world.writes.iter().filter_map(|action| match action {
        Action::ConfigureHost(host) => Some(host.as_ref()),
        _ => None,
    });
    hosts.collect()
}

#[test]
fn settings_are_handed_out_when_they_change_and_not_before_all_are_known() {
    let mut world = World::new("a");
    world.start(Vec::new());
    world.batch(vec![tortie_felix::Change::Upsert(felix("default", &json!({"healthPort": 1})))], false);
    assert_eq!(world.settings_told, 0, "a node's own may be yet to come");
    world.batch(vec![tortie_felix::Change::Upsert(felix("node.a", &json!({"healthPort": 2})))], true);
    assert_eq!(world.settings.as_ref().map(|settings| settings.health.port), Some(Some(2)));
    world.apply(cluster());
    world.apply(vec![felix("node.b", &json!({"healthPort": 3}))]);
    assert_eq!(world.settings_told, 1, "nothing of this node's is other");
    world.delete(gone("node.a"));
    world.delete(gone("default"));
    assert_eq!((world.settings_told, &world.settings), (3, &Some(Settings::default())));
}

#[test]
fn rules_change_with_their_settings_in_one_transaction() {
    let mut world = ready();
    world.add(&local_endpoints()[0]);
    let before = world.ruleset();
    world.writes.clear();
    world.apply(vec![felix("default", &json!({"vxlanPort": 8472, "logSeverityScreen": "Debug"}))]);
    assert_eq!(world.transactions(), 1, "{:?}", world.writes);
    assert!(world.ruleset().to_string().contains("8472"));
    world.apply(vec![felix(
        "default",
        &json!({"vxlanPort": 8472, "logSeverityScreen": "Info", "healthEnabled": false}),
    )]);
    assert_eq!(world.transactions(), 1, "no rule depends on these");
    world.delete(gone("default"));
    let without = |text: String| -> Vec<String> {
        text.lines().map(str::to_owned).filter(|line| !line.contains("live")).collect()
    };
    assert_eq!(without(world.ruleset().to_string()).len(), without(before.to_string()).len());
    assert!(world.ruleset().to_string().contains("4789"));
}

#[test]
fn a_restart_under_the_same_settings_writes_nothing() {
    let mut world = ready();
    let endpoints = local_endpoints();
    for endpoint in &endpoints {
        world.add(endpoint);
    }
    let configured = felix("default", &json!({"vxlanPort": 8472, "nftablesFilterDenyAction": "Reject"}));
    world.apply(vec![configured.clone()]);
    world.restart();
    world.start(endpoints);
    world.apply(cluster().into_iter().chain([configured]).collect());
    let written: Vec<_> = world.writes.iter().filter(|action| matches!(action, Action::ApplyRoutes(_))).collect();
    assert!(written.is_empty(), "{written:?}");
    for action in &world.writes {
        assert!(!matches!(action, Action::ApplyRules(transaction) if !transaction.commands.is_empty()), "{action:?}");
    }
}

#[test]
fn intervals_say_how_often_the_kernel_is_read() {
    let mut world = ready();
    world.advance(400_000);
    let by_default = world.reads;
    assert!(by_default.0 >= 3 && by_default.1 >= 3, "{by_default:?}");
    world.apply(vec![felix("default", &json!({"nftablesRefreshInterval": "10s", "routeRefreshInterval": "0s"}))]);
    world.reads = (0, 0);
    world.advance(400_000);
    assert!(world.reads.0 >= 25 && world.reads.1 == 0, "{:?}", world.reads);
    // A shorter interval counts from now, not from when the longer one would have ended.
    world.apply(vec![felix("default", &json!({"nftablesRefreshInterval": "10h", "routeRefreshInterval": "10h"}))]);
    world.advance(60_000);
    world.apply(vec![felix("default", &json!({"nftablesRefreshInterval": "10s", "routeRefreshInterval": "10s"}))]);
    world.reads = (0, 0);
    world.advance(100_000);
    assert!(world.reads.0 >= 5 && world.reads.1 >= 5, "{:?}", world.reads);
    world.delete(gone("default"));
    world.reads = (0, 0);
    world.advance(400_000);
    assert!((3..=5).contains(&world.reads.0) && (3..=5).contains(&world.reads.1), "{:?}", world.reads);
}

#[test]
fn routes_that_are_somebody_elses_to_write_are_left_alone_and_waited_for_by_nobody() {
    let mut world = World::new("a");
    world.start(Vec::new());
    world.apply(cluster().into_iter().chain([felix("default", &json!({"routeSyncDisabled": true}))]).collect());
    let request = world.add(&local_endpoints()[0]);
    assert_eq!(world.answers.get(&request), Some(&Ok(())));
    world.rib("10.244.0.64/26", "172.31.0.3");
    assert!(world.ours().is_empty(), "{:?}", world.ours());
    assert!(!world.felix.programmed_revision().is_empty());
    world.delete(gone("default"));
    assert_eq!(world.ours().len(), 3, "{:?}", world.ours());
    world.apply(vec![felix("default", &json!({"routeSyncDisabled": true}))]);
    let request = world.remove(&local_endpoints()[0]);
    assert_eq!(world.answers.get(&request), Some(&Ok(())));
    assert_eq!(world.ours().len(), 3, "what is there stays");
}

#[test]
fn the_host_is_told_of_forwarding_and_of_limits_before_a_pod_may_start() {
    let mut world = ready();
    world.apply(vec![annotated(&json!({"kubernetes.io/ingress-bandwidth": "10M"}))]);
    assert!(hosts(&world).is_empty(), "the pod has no interface yet");
    world.paused = true;
    let web = endpoint("default", "web", &["10.244.0.1"]);
    let request = world.add(&web);
    let told = world
        .held
        .iter()
        .any(|action| matches!(action, Action::ConfigureHost(host) if host.bandwidth.contains_key(&web.interface)));
    assert!(told && !world.answers.contains_key(&request), "{:?}", world.held);
    world.release();
    world.writes.clear();
    world.apply(vec![annotated(&json!({"kubernetes.io/ingress-bandwidth": "many"}))]);
    assert!(hosts(&world).last().is_some_and(|host| host.bandwidth.is_empty()));
    assert!(
        world
            .felix
            .status()
            .problems
            .iter()
            .any(|problem| problem.starts_with("Pod default/web: metadata.annotations"))
    );
    world.apply(vec![felix("default", &json!({"ipForwarding": "Disabled", "interfaceRefreshInterval": "0"}))]);
    let host = hosts(&world).last().copied().cloned().expect("a host");
    assert_eq!((host.forward_ipv4, host.forward_ipv6, host.refresh), (false, false, None));
    world.delete(gone("default"));
    assert!(hosts(&world).last().is_some_and(|host| host.forward_ipv4 && host.refresh.is_some()));
}

#[test]
fn others_may_spoof_only_where_it_is_allowed() {
    let mut world = ready();
    world.add(&local_endpoints()[0]);
    world.apply(vec![annotated(&json!({"cni.projectcalico.org/allowedSourcePrefixes": "[\"192.0.2.0/24\"]"}))]);
    assert!(hosts(&world).iter().all(|host| host.foreign_sources.is_empty()));
    world.apply(vec![felix("default", &json!({"workloadSourceSpoofing": "Any"}))]);
    assert!(hosts(&world).last().is_some_and(|host| host.foreign_sources.len() == 1));
}

#[test]
fn what_the_keeper_repairs_is_a_drift_and_what_it_cannot_is_a_problem() {
    let mut world = ready();
    let repair = |object: &str, sysctl| HostRepair { object: object.into(), sysctl, found: "0".into() };
    let repairs = vec![repair("net/ipv4/ip_forward", true), repair("cali0123456789a", false)];
    world.send(Event::HostKept(HostReport { repairs, problems: vec!["no tbf".into()] }));
    let kinds: Vec<(DriftKind, bool)> =
        world.felix.drifts().map(|Drift { what, repaired, .. }| (*what, *repaired)).collect();
    assert_eq!(kinds, [(DriftKind::Sysctl, true), (DriftKind::Interface, true)]);
    assert!(world.felix.status().problems.contains(&"no tbf".to_owned()));
    world.send(Event::HostKept(HostReport::default()));
    assert!(!world.felix.status().problems.contains(&"no tbf".to_owned()));
}

#[test]
fn a_host_that_cannot_forward_is_tried_again() {
    let mut world = World::new("a");
    world.paused = true;
    world.start(Vec::new());
    world.release();
    world.apply(cluster());
    world.writes.clear();
    world.send(Event::HostConfigured(Err("set net/ipv4/ip_forward=1: EROFS".into())));
    assert!(world.felix.status().problems.iter().any(|problem| problem.contains("EROFS")));
    world.advance(5_000);
    assert_eq!(hosts(&world).len(), 1, "{:?}", world.writes);
    assert!(!world.felix.status().problems.iter().any(|problem| problem.contains("EROFS")));
}

/// The routes that a pod and its block have.
fn written(world: &World) -> Vec<(u8, u32, String)> {
    world
        .fib
        .values()
        .filter(|route| route.protocol >= 80)
        .map(|route| {
            let target = match &route.target {
                tortie_felix::Target::Device { source, .. } => {
                    source.map_or_else(|| "pod".to_owned(), |ip| format!("pod {ip}"))
                }
                target => format!("{target:?}"),
            };
            (route.protocol, route.metric, target)
        })
        .collect()
}

#[test]
fn routes_bear_the_number_metric_and_source_that_are_set_and_no_pod_lets_its_address_go() {
    let mut world = ready();
    let web = &local_endpoints()[0];
    world.add(web);
    assert!(written(&world).contains(&(80, 1024, "pod".into())), "{:?}", written(&world));
    let known = world.fib.len();
    world.writes.clear();
    let spec = json!({"deviceRouteProtocol": 99, "ipv4NormalRoutePriority": 7, "ipv6NormalRoutePriority": 8,
        "deviceRouteSourceAddress": "172.31.0.2", "deviceRouteSourceAddressIPv6": "fd00:172:31::2"});
    world.apply(vec![felix("default", &spec)]);
    world.advance(5_000);
    let routes = written(&world);
    assert!(routes.iter().all(|(protocol, metric, _)| *protocol == 99 && [7, 8].contains(metric)), "{routes:?}");
    assert!(routes.contains(&(99, 7, "pod 172.31.0.2".into())), "{routes:?}");
    assert_eq!(world.fib.len(), known, "nothing is left of before");
    let changes = world.writes.iter().filter_map(|action| match action {
        Action::ApplyRoutes(changes) => Some(changes),
        _ => None,
    });
    let released: Vec<_> = changes.flatten().filter_map(tortie_felix::RouteChange::released).collect();
    assert!(released.is_empty(), "flows of {released:?} would be forgotten");
    assert!(world.felix.routes().iter().all(|view| view.protocol == 99 && view.reason.is_none()));

    world.delete(gone("default"));
    world.advance(5_000);
    let routes = written(&world);
    assert!(routes.iter().all(|(protocol, metric, _)| (*protocol, *metric) == (80, 1024)), "{routes:?}");
    assert!(routes.contains(&(80, 1024, "pod".into())), "{routes:?}");
    assert_eq!(world.fib.len(), known);
}

#[test]
fn an_agent_that_finds_another_number_set_takes_over_what_the_one_before_it_wrote() {
    let mut world = ready();
    let web = local_endpoints()[0].clone();
    world.add(&web);
    // Somebody else's, with the number that ours will have, and with the one that ours had elsewhere.
    let mut theirs = world.fib.values().find(|route| route.protocol == 2).expect("the uplink's").clone();
    theirs.destination = "192.0.2.0/24".parse().expect("a prefix");
    theirs.protocol = 98;
    world.insert(theirs.clone());
    let objects = [cluster(), vec![felix("default", &json!({"deviceRouteProtocol": 99}))]].concat();
    world.restart();
    world.felix = tortie_felix::Felix::new(tortie_felix::Config { route_protocols: vec![80], ..common::config("a") });
    world.start(vec![web]);
    world.apply(objects);
    world.advance(200_000);
    let routes = written(&world);
    assert!(world.fib.values().any(|route| *route == theirs), "{routes:?}");
    let ours: Vec<u8> = routes.iter().map(|(protocol, ..)| *protocol).filter(|protocol| *protocol != 98).collect();
    assert!(!ours.is_empty() && ours.iter().all(|protocol| *protocol == 99), "{routes:?}");
}

#[test]
fn routes_of_others_out_of_pods_interfaces_go_when_that_is_asked_for() {
    let mut world = ready();
    let web = &local_endpoints()[0];
    world.add(web);
    let index = world.links.values().find(|link| link.name == web.interface).expect("a link").index;
    let theirs = |destination: &str, protocol, metric| tortie_felix::Route {
        destination: destination.parse().expect("a prefix"),
        target: tortie_felix::Target::device(index),
        protocol,
        metric,
    };
    let [extra, kernels] = [theirs("192.0.2.0/24", 4, 5), theirs("198.51.100.0/24", 2, 0)];
    // In the very place of the pod's own.
    let usurper = theirs("10.244.0.1/32", 4, 1024);
    for route in [&extra, &kernels, &usurper] {
        world.insert(route.clone());
        world.send(Event::RouteChanged(route.clone()));
    }
    world.advance(10_000);
    assert!([&extra, &kernels, &usurper].iter().all(|route| world.fib.values().any(|there| there == *route)));
    world.apply(vec![felix("default", &json!({"removeExternalRoutes": true}))]);
    world.advance(10_000);
    let left: Vec<_> =
        world.fib.values().filter(|route| [2, 4].contains(&route.protocol) && route.target == kernels.target).collect();
    assert_eq!(left, [&kernels], "the kernel's own stay");
    assert!(written(&world).contains(&(80, 1024, "pod".into())), "and ours has its place again");
    assert!(
        world.drifts.iter().any(|drift| drift.object == "192.0.2.0/24" && drift.found.contains("protocol 4")),
        "{:?}",
        world.drifts
    );
    world.insert(extra.clone());
    world.send(Event::RouteChanged(extra.clone()));
    world.advance(10_000);
    assert!(!world.fib.values().any(|route| *route == extra), "at once when it comes again");
}

#[test]
fn interfaces_from_before_a_change_of_their_prefix_are_still_pods() {
    let mut world = ready();
    let old = local_endpoints()[0].clone();
    world.add(&old);
    world.apply(vec![felix("default", &json!({"interfacePrefix": "pod,tap"}))]);
    let settings = world.settings.clone().expect("told");
    assert_eq!(settings.routes.interface_prefixes, ["pod", "tap", "cali"]);
    assert_eq!(settings.routes.naming_prefix(), "pod");
    let table = world.ruleset().to_string();
    for prefix in ["pod*", "tap*", "cali*"] {
        assert!(table.contains(&format!("oifname \"{prefix}\"")), "{prefix}: {table}");
    }
    world.remove(&old);
    world.apply(vec![felix("default", &json!({"interfacePrefix": "pod,tap", "logSeverityScreen": "Debug"}))]);
    assert_eq!(world.settings.clone().expect("told").routes.interface_prefixes, ["pod", "tap"]);
    assert!(!world.ruleset().to_string().contains("cali*"));
}
