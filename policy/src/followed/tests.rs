//! Random histories of a cluster: what is in sets that are looked at again only where something was touched, against what is in them
//! when everything is looked at.

use proptest::prelude::*;
use serde_json::{Value as Json, json};
use tortie_api::k8s::LabelSelector;
use tortie_api::{Decoded, Object, decode};

use super::*;
use crate::intern::Interner;
use crate::selection::{Scope, ServiceAccounts};

/// Something that happens to a cluster.
#[derive(Debug, Clone)]
enum Step {
    Upsert(Json),
    Remove(Json),
    /// The sets are brought up to date: what happened since happens at once.
    Update,
}

fn object(document: &Json) -> Object {
    match decode(document) {
        Ok(Decoded::Object(object)) => *object,
        other => panic!("{document}: {other:?}"),
    }
}

fn labels() -> impl Strategy<Value = Json> {
    let value = || prop_oneof![Just(None), Just(Some("x")), Just(Some("y"))];
    (value(), value()).prop_map(|(a, b)| {
        let labels = [("a", a), ("b", b)].into_iter().filter_map(|(key, value)| Some((key, value?)));
        json!(labels.collect::<BTreeMap<_, _>>())
    })
}

fn document() -> impl Strategy<Value = Json> {
    let namespace = || prop_oneof![Just("n0"), Just("n1")];
    let calico = "projectcalico.org/v3";
    let address = (0..5u8).prop_map(|n| if n == 4 { "fd00::4".to_owned() } else { format!("10.0.0.{n}") });
    let account = prop_oneof![Just("default"), Just("runner")];
    let phase = prop_oneof![4 => Just("Running"), 1 => Just("Succeeded")];
    let pod = (namespace(), 0..3u8, labels(), prop::collection::vec(address.clone(), 0..3), account, phase).prop_map(
        |(namespace, name, labels, ips, account, phase)| {
            let ips: Vec<Json> = ips.iter().map(|ip| json!({"ip": ip})).collect();
            json!({"apiVersion": "v1", "kind": "Pod",
                "metadata": {"namespace": namespace, "name": format!("p{name}"), "labels": labels},
                "spec": {"serviceAccountName": account, "containers": [{"name": "c"}]},
                "status": {"phase": phase, "podIPs": ips}})
        },
    );
    let simple = (namespace(), labels()).prop_map(
        |(name, labels)| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}),
    );
    let account = (namespace(), labels()).prop_map(|(namespace, labels)| {
        json!({"apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"namespace": namespace, "name": "runner", "labels": labels}})
    });
    let nets =
        || prop::collection::vec(prop_oneof![Just("192.0.2.0/24"), Just("192.0.2.128/25"), Just("fd01::/64")], 0..3);
    let set = (namespace(), 0..2u8, labels(), nets()).prop_map(move |(namespace, name, labels, nets)| {
        json!({"apiVersion": calico, "kind": "NetworkSet",
            "metadata": {"namespace": namespace, "name": format!("s{name}"), "labels": labels}, "spec": {"nets": nets}})
    });
    let global = (labels(), nets()).prop_map(move |(labels, nets)| {
        json!({"apiVersion": calico, "kind": "GlobalNetworkSet", "metadata": {"name": "g", "labels": labels},
            "spec": {"nets": nets}})
    });
    let host = (labels(), prop::collection::vec(address.clone(), 1..3), any::<bool>()).prop_map(
        move |(labels, ips, profile)| {
            let profiles = if profile { json!(["fleet"]) } else { json!([]) };
            json!({"apiVersion": calico, "kind": "HostEndpoint", "metadata": {"name": "h", "labels": labels},
                "spec": {"node": "n", "interfaceName": "eth0", "expectedIPs": ips, "profiles": profiles}})
        },
    );
    let profile = labels().prop_map(move |labels| {
        json!({"apiVersion": calico, "kind": "Profile", "metadata": {"name": "fleet"}, "spec": {"labelsToApply": labels}})
    });
    let slice = (0..2u8, 0..2u8, prop::collection::vec(0..5u8, 0..3)).prop_map(|(name, service, hosts)| {
        let endpoints: Vec<Json> = hosts.iter().map(|n| json!({"addresses": [format!("10.0.0.{n}")]})).collect();
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"namespace": "n0", "name": format!("e{name}"),
                "labels": {"kubernetes.io/service-name": format!("svc{service}")}},
            "endpoints": endpoints, "ports": [{"port": 80}, {"port": 53, "protocol": "UDP"}]})
    });
    prop_oneof![6 => pod, 3 => simple, 2 => account, 2 => set, 1 => global, 2 => host, 1 => profile, 2 => slice]
}

fn selectors() -> Vec<Selection> {
    let select = |scope: &Scope, labels: &str| Selection {
        scope: scope.clone(),
        labels: labels.parse().expect("a selector"),
        service_accounts: None,
        pods_only: false,
    };
    let namespaces = |text: &str| Scope::Namespaces(text.parse().expect("a selector"));
    let scopes = [
        Scope::Everywhere,
        Scope::Global,
        Scope::Namespace("n0".to_owned()),
        namespaces("all()"),
        namespaces("a == 'x'"),
        namespaces("b != 'x'"),
        namespaces("has(a) && b in {'x', 'y'}"),
    ];
    let texts = [
        "all()",
        "a == 'x'",
        "a == 'x' || b == 'y'",
        "b not in {'x'}",
        "!has(a)",
        "pcns.a == 'x' && has(b)",
        "pcsa.a == 'y'",
        "projectcalico.org/namespace == 'n1'",
        "projectcalico.org/serviceaccount == 'runner' && a contains 'x'",
    ];
    let mut all: Vec<Selection> =
        scopes.iter().flat_map(|scope| texts.iter().map(move |text| select(scope, text))).collect();
    let accounts = [
        ServiceAccounts { names: ["runner".to_owned()].into(), selector: None },
        ServiceAccounts { names: BTreeSet::new(), selector: "a == 'x'".parse().ok() },
        ServiceAccounts { names: ["default".to_owned()].into(), selector: "!has(a)".parse().ok() },
    ];
    all.extend(
        accounts
            .into_iter()
            .map(|accounts| Selection { service_accounts: Some(accounts), ..select(&Scope::Everywhere, "b != 'y'") }),
    );
    let pods: LabelSelector = serde_json::from_value(json!({"matchLabels": {"a": "x"}})).expect("a selector");
    all.push(Selection::of_pods(namespaces("a == 'x'"), &pods));
    all.push(Selection::of_pods(Scope::Namespace("n1".to_owned()), &LabelSelector::default()));
    all
}

/// Sets of all sorts: of each selection by itself, of some together, and of Services.
fn sets() -> Vec<Followed> {
    let all = selectors();
    let mut groups: Vec<BTreeSet<Selection>> = all.iter().map(|one| [one.clone()].into()).collect();
    groups.extend(all.chunks(5).map(|some| some.iter().cloned().collect()));
    let mut sets = Vec::new();
    for family in [Family::V4, Family::V6] {
        for group in &groups {
            let group = Arc::new(group.clone());
            sets.push(Followed { family, whom: Whom::Pods(Arc::clone(&group)) });
            sets.push(Followed { family, whom: Whom::Nets(group) });
        }
        for service in ["svc0", "svc1"] {
            let name = || (Arc::from("n0"), Arc::from(service));
            sets.push(Followed { family, whom: Whom::Service(name()) });
            sets.push(Followed { family, whom: Whom::ServicePorts(name()) });
        }
    }
    sets
}

/// All that is in a set, by a look at everything that there is.
fn whole(followed: &Followed, cluster: &Cluster) -> BTreeSet<Key> {
    let Whom::Pods(selections) = &followed.whom else { return followed.elements(cluster) };
    let pods = cluster.endpoints().map(|pod| (cluster.seen(pod), pod.ips().collect::<Vec<_>>()));
    let hosts = cluster.hosts().map(|host| (host.seen(), host.spec.expected_ips.clone()));
    let selected = pods.chain(hosts).filter(|(seen, _)| selections.iter().any(|one| one.selects(seen)));
    let ips = selected.flat_map(|(_, ips)| ips);
    ips.filter(|ip| followed.has_family_of(*ip)).map(|ip| vec![Value::Addr(ip)]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn what_is_not_touched_is_as_it_was(steps in prop::collection::vec(
        prop_oneof![5 => document().prop_map(Step::Upsert), 2 => document().prop_map(Step::Remove), 3 => Just(Step::Update)],
        1..40,
    )) {
        let (mut cluster, mut following, mut ids) = (Cluster::default(), Following::default(), Interner::<str>::default());
        let mut contents: BTreeMap<Id, BTreeSet<Key>> = BTreeMap::new();
        for (number, followed) in sets().into_iter().enumerate() {
            let id = ids.hold(number.to_string());
            following.insert(id, followed);
        }
        for step in steps.iter().chain([&Step::Update]) {
            match step {
                Step::Upsert(document) => drop(cluster.upsert(&object(document))),
                Step::Remove(document) => drop(cluster.remove(&object(document).key())),
                Step::Update => {
                    if let Some(changes) = cluster.take_changes() {
                        for (id, again) in following.touched(&cluster, &changes) {
                            let followed = following.get(id).expect("a set that is followed");
                            let content = contents.get_mut(&id).expect("its content");
                            match again {
                                Again::All => *content = followed.elements(&cluster),
                                Again::At(addresses) => {
                                    for address in addresses {
                                        content.retain(|key| key[0] != Value::Addr(address));
                                        content.extend(followed.elements_at(&cluster, address));
                                    }
                                }
                            }
                        }
                    } else {
                        contents = following.sets.iter().map(|(id, set)| (*id, whole(set, &cluster))).collect();
                    }
                    for (id, set) in &following.sets {
                        prop_assert_eq!(&contents[id], &whole(set, &cluster), "{:?}", set);
                    }
                    // What selections resolve to by their index.
                    let mut resolver = crate::resolver::Resolver::new(&cluster);
                    for (id, set) in &following.sets {
                        if let Whom::Pods(selections) = &set.whom {
                            let addresses = resolver.addresses(selections, set.family == Family::V4);
                            let keys: BTreeSet<Key> = addresses.into_iter().map(|ip| vec![Value::Addr(ip)]).collect();
                            prop_assert_eq!(&keys, &contents[id], "{:?}", selections);
                        }
                    }
                }
            }
        }
        let all: Vec<Id> = following.sets.keys().copied().collect();
        for id in all {
            following.remove(id);
        }
        prop_assert!(following.sets.is_empty() && following.index.is_empty() && following.by_service.is_empty());
    }
}
