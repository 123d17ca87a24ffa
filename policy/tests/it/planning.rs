//! Plans: what they say of a change against what is so before and after it.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Value, json};
use tortie_api::Object;
use tortie_api::k8s::Protocol;
use tortie_nft::Family;
use tortie_nft::fake::Fake;
use tortie_policy::Generation;
use tortie_policy::matrix::{self, Engine, Verdict, matrix};
use tortie_policy::offline::Offline;
use tortie_policy::plan::{Action, Change, Error, OUTSIDE, Plan, Query, Service, plan};

use crate::support::{pod, policy};

const HTTP: Service = Service::Port(Protocol::Tcp, 80);

/// Three pods of one Deployment and a client, on two nodes.
fn shop() -> Vec<Object> {
    let web = |name: &str, node: &str, ip: &str| pod("demo", name, node, ip, &json!({"app": "web"}));
    vec![
        web("web-1", "n1", "10.0.0.1"),
        web("web-2", "n2", "10.0.0.2"),
        web("web-3", "n2", "10.0.0.3"),
        pod("other", "client", "n1", "10.0.0.9", &json!({"app": "client"})),
    ]
}

fn deny_web() -> Object {
    policy("deny-web", &json!({"podSelector": {"matchLabels": {"app": "web"}}}))
}

fn of(now: &[Object], apply: &[Object], delete: &[&Object]) -> Plan {
    let change = Change { apply: apply.to_vec(), delete: delete.iter().map(|object| object.key()).collect() };
    plan(now, &change, &Query::default()).expect("a plan")
}

fn rows(plan: &Plan) -> Vec<(String, String, Service, Verdict)> {
    let rows = plan.effect.differences.rows();
    rows.map(|row| (row.from.to_owned(), row.to.to_owned(), row.service, row.after)).collect()
}

#[test]
fn a_policy_that_comes_and_goes() {
    let plan = of(&shop(), &[deny_web()], &[]);
    assert_eq!(
        (plan.objects[0].object.as_str(), plan.objects[0].action),
        ("NetworkPolicy demo/deny-web", Action::Created)
    );
    let changed = rows(&plan);
    assert!(
        changed.iter().all(|(_, to, _, after)| to.starts_with("demo/web-") && *after == Verdict::Deny),
        "{changed:?}"
    );
    let senders: BTreeSet<&str> = changed.iter().map(|(from, ..)| from.as_str()).collect();
    assert_eq!(senders, BTreeSet::from(["demo/web-1", "demo/web-2", "demo/web-3", "other/client", OUTSIDE]));
    assert!(changed.contains(&("demo/web-2".into(), "demo/web-3".into(), HTTP, Verdict::Deny)), "{changed:?}");
    assert!(!changed.iter().any(|(from, to, ..)| from == to), "a pod always reaches itself");
    // Three pods, each from two others of its kind, the client and outside, on two declared ports.
    let summary = plan.effect.summary;
    assert_eq!((summary.pods, summary.of_pods, summary.pairs, summary.denied, summary.allowed), (4, 4, 12, 24, 0));
    assert_eq!(plan.effect.differences.groups.len(), 3, "the Deployment, the client, outside");
    let client = plan.effect.pods.iter().find(|pod| pod.pod == "other/client").expect("the client");
    assert_eq!((client.egress.denied, client.ingress.denied, client.node.as_str()), (6, 0, "n1"));

    let mut now = shop();
    now.push(deny_web());
    let back = of(&now, &[], &[&deny_web()]);
    let back = rows(&back).into_iter().map(|(from, to, service, _)| (from, to, service)).collect::<Vec<_>>();
    assert_eq!(back, changed.into_iter().map(|(from, to, service, _)| (from, to, service)).collect::<Vec<_>>());
    let same = of(&now, &[deny_web()], &[]);
    assert_eq!(same.objects[0].action, Action::Unchanged);
    assert!(rows(&same).is_empty() && same.nodes.iter().all(|node| node.transaction.commands.is_empty()));
}

#[test]
fn ports_and_blocks_that_the_change_names_are_asked_about() {
    let rule = |cidr: &str, port: u16| json!({"from": [{"ipBlock": {"cidr": cidr}}], "ports": [{"port": port}]});
    let web = |rules: Value| policy("web", &json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": rules}));
    let mut now = shop();
    now.push(web(json!([rule("192.0.2.0/24", 8443)])));
    let plan = of(&now, &[web(json!([rule("192.0.2.0/24", 8443), rule("198.51.100.0/24", 9090)]))], &[]);
    let changed: BTreeSet<_> =
        rows(&plan).into_iter().map(|(from, _, service, after)| (from, service, after)).collect();
    let expected = ("198.51.100.0/24".to_owned(), Service::Port(Protocol::Tcp, 9090), Verdict::Allow);
    assert_eq!(changed, BTreeSet::from([expected]));
}

#[test]
fn a_label_that_changes() {
    let mut now = shop();
    now.push(deny_web());
    let relabelled = pod("demo", "web-3", "n2", "", &json!({"app": "other"}));
    let plan = of(&now, &[relabelled], &[]);
    let changed = rows(&plan);
    assert!(
        !changed.is_empty() && changed.iter().all(|(_, to, _, after)| to == "demo/web-3" && *after == Verdict::Allow)
    );
    assert!(plan.effect.differences.groups.iter().any(|group| group.members == ["demo/web-1", "demo/web-2"]));
}

#[test]
fn what_contradicts_itself_or_the_cluster_is_refused() {
    let ask = |apply: &[Object], delete: &[&Object]| {
        let change = Change { apply: apply.to_vec(), delete: delete.iter().map(|object| object.key()).collect() };
        plan(&shop(), &change, &Query::default()).expect_err("no plan")
    };
    assert_eq!(ask(&[], &[&deny_web()]), Error::NotFound(deny_web().key()));
    assert_eq!(ask(&[deny_web(), deny_web()], &[]), Error::Twice(deny_web().key()));
}

#[test]
fn the_transaction_is_the_one_from_the_table_to_the_next() {
    let query = Query { generations: [("n1".to_owned(), 77)].into(), ..Query::default() };
    let change = Change { apply: vec![deny_web()], ..Change::default() };
    let plan = plan(&shop(), &change, &query).expect("a plan");
    assert!(plan.nodes.iter().all(|node| node.generation_moves), "it denies");
    let before = Offline::new(&shop());
    let mut then = shop();
    then.push(deny_web());
    let after = Offline::new(&then);
    let table = |offline: &Offline, generation| {
        let generation = Generation::numbered(generation).expect("not 0");
        tortie_policy::compile(offline.cluster(), &offline.endpoints("n1"), generation, &offline.options("n1"))
    };
    let mut kernel = Fake::with(table(&before, 77));
    kernel.run(&plan.nodes[0].transaction).expect("a transaction that the kernel takes");
    assert_eq!(kernel.ruleset(), Some(&table(&after, 78)));
}

/// Some pods that are alike and some that are not, on two nodes.
fn pods() -> impl Strategy<Value = Vec<Object>> {
    let one = (select(vec!["x", "demo"]), select(vec!["1", "2"]), any::<bool>(), 0..3u8);
    vec(one, 2..7).prop_map(|pods| {
        let pods = pods.into_iter().enumerate();
        pods.map(|(index, (namespace, label, second, families))| {
            let number = index + 1;
            let ips = match families {
                0 => format!("10.0.0.{number}"),
                1 => format!("fd00::{number}"),
                _ => format!("10.0.0.{number},fd00::{number}"),
            };
            let node = if second { "n2" } else { "n1" };
            pod(namespace, &format!("pod{index}"), node, &ips, &json!({"a": label}))
        })
        .collect()
    })
}

/// A policy: its name, whom it is for, each rule's peers and ports, and whether it is for ingress.
type Described = (&'static str, Value, Vec<(Vec<Value>, Vec<Value>)>, bool);

fn policies() -> impl Strategy<Value = Vec<Object>> {
    let selector = || select(vec![json!({}), json!({"matchLabels": {"a": "1"}}), json!({"matchLabels": {"a": "2"}})]);
    let block = select(vec!["10.0.0.0/30", "10.0.0.2/31", "0.0.0.0/0", "fd00::/126", "fd00::4/127", "10.0.0.0/8"]);
    let peer = prop_oneof![
        selector().prop_map(|pods| json!({"podSelector": pods, "namespaceSelector": {}})),
        block.prop_map(|cidr| json!({"ipBlock": {"cidr": cidr}})),
    ];
    let ports = subsequence(vec![json!({"port": 80}), json!({"port": "dns", "protocol": "UDP"})], 0..2);
    let rule = (vec(peer, 0..3), ports);
    let one = (select(vec!["a", "b", "c"]), selector(), vec(rule, 0..3), any::<bool>());
    vec(one, 0..4).prop_map(|policies| {
        let document = |(name, pods, rules, ingress): Described| {
            let (list, peers, kind) = if ingress { ("ingress", "from", "Ingress") } else { ("egress", "to", "Egress") };
            let rules: Vec<Value> = rules.into_iter().map(|(who, ports)| json!({peers: who, "ports": ports})).collect();
            (name.to_owned(), policy(name, &json!({"podSelector": pods, "policyTypes": [kind], list: rules})))
        };
        policies.into_iter().map(document).collect::<BTreeMap<_, _>>().into_values().collect()
    })
}

/// Who is allowed what, by the direct evaluator.
fn verdicts(objects: &[Object], family: Family) -> BTreeMap<(String, String, Service), Verdict> {
    let query =
        matrix::Query { ports: Some(vec![(Protocol::Tcp, 80), (Protocol::Udp, 5353)]), family, engine: Engine::Oracle };
    let rows = matrix(&Offline::new(objects), &query).expect("a matrix");
    rows.into_iter().map(|row| ((row.from, row.to, Service::Port(row.protocol, row.port)), row.verdict)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Groups are asked about by one of theirs, so each pair is looked at here.
    #[test]
    fn a_plan_has_the_pairs_that_change_and_no_others(pods in pods(), before in policies(), after in policies()) {
        let now = [pods.clone(), before.clone()].concat();
        let then = [pods, after.clone()].concat();
        let gone = before.iter().map(Object::key).filter(|key| !after.iter().any(|object| object.key() == *key));
        let change = Change { delete: gone.collect(), apply: after };
        let plan = plan(&now, &change, &Query::default()).expect("a plan");
        for family in [Family::V4, Family::V6] {
            let (before, after) = (verdicts(&now, family), verdicts(&then, family));
            let expected: BTreeMap<_, _> =
                after.into_iter().filter(|(pair, verdict)| before[pair] != *verdict).collect();
            let has = |who: &str| before.keys().any(|(from, ..)| from == who);
            let rows = plan.effect.differences.rows().filter(|row| {
                row.family.is_none_or(|it| it == family) && has(row.from) && has(row.to)
            });
            let found: BTreeMap<_, _> =
                rows.map(|row| ((row.from.to_owned(), row.to.to_owned(), row.service), row.after)).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
