//! What settings, pools and annotations make of the table, by interpreted packets and by what a change of them tightens.

use std::collections::BTreeSet;

use serde_json::json;
use tortie_api::Object;
use tortie_api::calico::FelixConfigurationSpec;
use tortie_nft::interpreter::{Interpreter, Outcome, Packet, Translation};
use tortie_nft::{Command, HookPoint, LimitUnit, Match, RejectWith, Rule, Ruleset, Statement};
use tortie_policy::offline::Offline;
use tortie_policy::{
    CompileOptions, Compiler, DenyAction, Endpoint, EndpointToHost, Generation, MarkMask, NatExclusions, NatOutgoing,
    ServiceLoop, compile, host_interface, tightens,
};

use crate::support::{addr, cluster, endpoint, object, pod, policy};
use crate::table::{icmp6, packet};

const GENERATION: Generation = Generation::seed(4);

fn pool(name: &str, spec: &serde_json::Value) -> Object {
    object(&json!({"apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": {"name": name}, "spec": spec}))
}

fn annotated(name: &str, ip: &str, annotations: &[(&str, &str)]) -> Object {
    let mut object = pod("demo", name, "n", ip, &json!({}));
    if let Object::Pod(pod) = &mut object {
        pod.metadata.annotations =
            annotations.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    }
    object
}

fn documents() -> Vec<Object> {
    vec![
        annotated("a", "10.244.0.1,fd00::1", &[]),
        pod("demo", "shut", "n", "10.244.0.2", &json!({"shut": "yes"})),
        policy("shut", &json!({"podSelector": {"matchLabels": {"shut": "yes"}}, "policyTypes": ["Ingress", "Egress"]})),
    ]
}

fn endpoints() -> Vec<Endpoint> {
    vec![endpoint("demo", "a", &["10.244.0.1", "fd00::1"]), endpoint("demo", "shut", &["10.244.0.2"])]
}

fn table(documents: &[Object], options: &CompileOptions) -> Ruleset {
    compile(&cluster(documents), &endpoints(), GENERATION, options)
}

/// What becomes of the source of a packet that leaves the node.
fn translated(ruleset: &Ruleset, saddr: &str, daddr: &str, l4proto: u8, oif: &str) -> Option<Translation> {
    let table = Interpreter::new(ruleset).expect("a sound ruleset");
    let mut packet = Packet { oif: oif.to_owned(), ..packet("calia", saddr, daddr, l4proto) };
    table.trace(HookPoint::Postrouting, &mut packet).translation
}

#[test]
fn rules_that_log_say_whose_they_are() {
    let rules = json!([{"action": "Log"}, {"action": "Allow"}]);
    let spec = json!({"selector": "shut == 'yes'", "tier": "default", "ingress": rules});
    let log = json!({"apiVersion": "projectcalico.org/v3", "kind": "NetworkPolicy",
        "metadata": {"namespace": "demo", "name": "noted"}, "spec": spec});
    let documents: Vec<Object> = documents().into_iter().chain([object(&log)]).collect();
    let said = |format: &str| {
        let ruleset = table(&documents, &CompileOptions { log_prefix: format.to_owned(), ..CompileOptions::default() });
        let statements = ruleset.chains.values().flat_map(|chain| &chain.rules).flat_map(|rule| &rule.statements);
        let prefixes = statements.filter_map(|statement| match statement {
            Statement::Log { prefix } => Some(prefix.clone()),
            _ => None,
        });
        prefixes.collect::<BTreeSet<String>>()
    };
    assert_eq!(said("%t|%k|%p"), BTreeSet::from(["default|np|demo/noted: ".to_owned()]));
    let default = CompileOptions::default().log_prefix;
    assert_eq!(said(&default), BTreeSet::from(["calico-packet: ".to_owned()]));
}

/// Each rule has a limit of its own, shared by all forms of its classes; it counts all the same what it matches.
#[test]
fn rules_log_no_more_than_their_limit() {
    let log = |addresses: &[&str]| json!({"action": "Log", "source": {"nets": addresses, "selector": "all()"}});
    let rules = json!([log(&["10.244.0.0/16"]), log(&["10.244.0.0/16"]), {"action": "Allow"}]);
    let spec = json!({"selector": "shut == 'yes'", "order": 1, "ingress": rules});
    let noted = json!({"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy", "metadata": {"name": "noted"}, "spec": spec});
    let set = json!({"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkSet", "metadata": {"name": "all"},
        "spec": {"nets": ["10.0.0.0/8"]}});
    let documents: Vec<Object> = documents().into_iter().chain([object(&noted), object(&set)]).collect();
    let configured: FelixConfigurationSpec =
        serde_json::from_value(json!({"logActionRateLimit": "100/hour", "logActionRateLimitBurst": 7}))
            .expect("a configuration");
    let options = CompileOptions::of(&configured, Vec::new());
    let ruleset = table(&documents, &options);
    let logging: Vec<&Vec<Rule>> = ruleset
        .chains
        .values()
        .map(|chain| &chain.rules)
        .filter(|rules| rules.iter().any(|rule| rule.statements.iter().any(|it| matches!(it, Statement::Log { .. }))))
        .collect();
    assert_eq!(logging.len(), 2, "one for each rule");
    for rules in logging {
        let [only] = rules.as_slice() else { panic!("{rules:?}") };
        assert_eq!(only.matches, [Match::LimitWithin { packets: 100, per: LimitUnit::Hour, burst: 7 }]);
    }
    let interpreter = Interpreter::new(&ruleset).expect("a sound ruleset");
    let to_shut = host_interface("demo", "shut");
    let mut packet = Packet { oif: to_shut, ..packet("eth0", "10.244.0.1", "10.244.0.2", 6) };
    let walk = interpreter.trace(HookPoint::Forward, &mut packet);
    assert_eq!(walk.outcome, Outcome::Accept);
    let comments = walk.counted.iter().filter_map(|counter| ruleset.counters[counter].clone());
    let hits: Vec<String> = comments.filter(|comment| comment.contains("rule")).collect();
    assert_eq!(hits, [1, 2, 3].map(|rule| format!("GlobalNetworkPolicy noted ingress rule {rule}")));
}

#[test]
fn only_pools_that_ask_for_it_are_translated_disabled_or_not() {
    let mut documents = documents();
    documents.push(pool("plain", &json!({"cidr": "10.245.0.0/16"})));
    let options = CompileOptions::default();
    let without = table(&documents, &options);
    assert!(!without.chains.contains_key("nat_outgoing") && !without.sets.contains_key("nat4"));
    documents.push(pool("nat", &json!({"cidr": "10.244.0.0/16", "natOutgoing": true, "disabled": true})));
    let with = table(&documents, &options);
    let masquerade = Some(Translation::Masquerade { ports: None });
    let leaves = |saddr: &str, daddr: &str| translated(&with, saddr, daddr, 6, "eth0");
    assert_eq!(leaves("10.244.0.1", "192.0.2.1"), masquerade);
    assert_eq!(leaves("10.245.0.1", "192.0.2.1"), None, "a pool that does not ask for it");
    assert_eq!(leaves("10.244.0.1", "10.245.0.1"), None, "to a pool that does not ask for it");
    assert_eq!(leaves("10.244.0.1", "10.244.9.1"), None);
    assert_eq!(leaves("172.31.0.2", "192.0.2.1"), None, "the node itself");
    assert_eq!(leaves("fd00::1", "2001:db8::1"), None, "no pool of that family");
    assert!(!tightens(&without, &with) && !tightens(&with, &without), "no policy depends on it");
    documents.push(pool("more", &json!({"cidr": "10.246.0.0/16", "natOutgoing": true})));
    let changed = with.diff(&table(&documents, &options)).commands;
    assert!(
        !changed.is_empty()
            && changed.iter().all(|it| matches!(it, Command::AddElements { .. } | Command::DeleteElements { .. })),
        "{changed:?}"
    );
}

#[test]
fn translation_does_as_it_is_told() {
    let mut documents = documents();
    documents.push(pool("nat", &json!({"cidr": "10.244.0.0/16", "natOutgoing": true})));
    documents.push(pool("nat6", &json!({"cidr": "fd00::/64", "natOutgoing": true})));
    documents.push(object(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "m"},
        "status": {"addresses": [{"type": "InternalIP", "address": "172.31.0.3"}]}})));
    let options = CompileOptions {
        nat_outgoing: NatOutgoing {
            address: Some("203.0.113.7".parse().expect("an address")),
            port_range: Some((1024, 2047)),
            exclusions: NatExclusions::IpPoolsAndHostIps,
            interface_filter: Some("eth+".to_owned()),
        },
        ..CompileOptions::default()
    };
    let table = table(&documents, &options);
    let leaves = |saddr: &str, daddr: &str, l4proto, oif: &str| translated(&table, saddr, daddr, l4proto, oif);
    let snat = |ports| Some(Translation::Snat { address: addr("203.0.113.7"), ports });
    for l4proto in [6, 17] {
        assert_eq!(leaves("10.244.0.1", "192.0.2.1", l4proto, "eth1"), snat(Some((1024, 2047))));
    }
    assert_eq!(leaves("10.244.0.1", "192.0.2.1", 1, "eth1"), snat(None));
    assert_eq!(leaves("10.244.0.1", "192.0.2.1", 6, "wlan0"), None, "another interface");
    assert_eq!(leaves("10.244.0.1", "172.31.0.3", 6, "eth1"), None, "a node");
    let masquerade = Some(Translation::Masquerade { ports: Some((1024, 2047)) });
    assert_eq!(leaves("fd00::1", "2001:db8::1", 6, "eth1"), masquerade, "the address is IPv4's");
}

fn to_host(ruleset: &Ruleset, mut packet: Packet) -> Outcome {
    let table = Interpreter::new(ruleset).expect("a sound ruleset");
    match table.run(HookPoint::Prerouting, &mut packet) {
        Outcome::Drop => Outcome::Drop,
        Outcome::Accept => table.run(HookPoint::Input, &mut packet),
    }
}

#[test]
fn a_shut_node_takes_discovery_and_answers_only() {
    let a = host_interface("demo", "a");
    let open = table(&documents(), &CompileOptions::default());
    let shut = CompileOptions { endpoint_to_host: EndpointToHost::Drop, ..CompileOptions::default() };
    let shut = table(&documents(), &shut);
    assert_eq!(to_host(&open, packet(&a, "10.244.0.1", "172.31.0.2", 6)), Outcome::Accept);
    assert_eq!(to_host(&shut, packet(&a, "10.244.0.1", "172.31.0.2", 6)), Outcome::Drop);
    assert_eq!(to_host(&shut, packet("eth0", "192.0.2.1", "172.31.0.2", 6)), Outcome::Accept, "not a pod's");
    for kind in [130, 131, 132, 133, 135, 136] {
        assert_eq!(to_host(&shut, icmp6(&a, "fd00::1", "fe80::1", kind)), Outcome::Accept, "type {kind}");
    }
    assert_eq!(to_host(&shut, icmp6(&a, "fd00::1", "fe80::1", 128)), Outcome::Drop, "an echo");
    assert!(tightens(&open, &shut), "stamped flows to the node are judged again");
    let back = CompileOptions { endpoint_to_host: EndpointToHost::Return, ..CompileOptions::default() };
    assert_eq!(table(&documents(), &back), open, "the host's own rules decide in both cases");
}

#[test]
fn denied_packets_are_rejected_where_that_is_asked_for() {
    let options = CompileOptions { deny_action: DenyAction::Reject, ..CompileOptions::default() };
    let ruleset = table(&documents(), &options);
    let table = Interpreter::new(&ruleset).expect("a sound ruleset");
    for (l4proto, with) in [(6, RejectWith::TcpReset), (17, RejectWith::AdminProhibited)] {
        let mut denied =
            Packet { oif: host_interface("demo", "shut"), ..packet("eth0", "192.0.2.1", "10.244.0.2", l4proto) };
        let walk = table.trace(HookPoint::Forward, &mut denied);
        assert_eq!((walk.outcome, walk.rejected), (Outcome::Drop, Some(with)));
    }
    // What a rule of that action denied before is nothing that a change could take away.
    let mut opened = documents();
    opened.pop();
    assert!(!tightens(&ruleset, &self::table(&opened, &options)));
    assert!(tightens(&self::table(&opened, &options), &ruleset));
}

#[test]
fn service_addresses_are_looked_at_where_there_are_any() {
    let plain = table(&documents(), &CompileOptions::default());
    let options = |service_loop_prevention| CompileOptions {
        service_loop_prevention,
        service_cidrs: ["10.96.0.0/12", "10.96.0.0/16", "fd00:96::/112"].map(|it| it.parse().expect("it")).to_vec(),
        ..CompileOptions::default()
    };
    assert_eq!(table(&documents(), &options(ServiceLoop::Disabled)), plain);
    let guarded = table(&documents(), &options(ServiceLoop::Drop));
    let walk = |packet: Packet| {
        let table = Interpreter::new(&guarded).expect("a sound ruleset");
        table.run(HookPoint::Forward, &mut Packet { oif: "eth1".to_owned(), ..packet })
    };
    assert_eq!(walk(packet("eth0", "192.0.2.1", "10.96.0.10", 6)), Outcome::Drop);
    assert_eq!(walk(packet("eth0", "2001:db8::1", "fd00:96::a", 6)), Outcome::Drop);
    assert_eq!(walk(packet("eth0", "192.0.2.1", "10.95.0.10", 6)), Outcome::Accept);
    assert_eq!(walk(Packet { dnat: true, ..packet("eth0", "192.0.2.1", "10.96.0.10", 6) }), Outcome::Accept);
    assert!(!tightens(&plain, &guarded) && !tightens(&guarded, &plain), "it looks at every packet, stamped or not");
}

#[test]
fn a_pod_with_more_sources_uses_them_only_where_settings_allow_it() {
    let mut documents = documents();
    let name = "cni.projectcalico.org/allowedSourcePrefixes";
    documents[0] = annotated("a", "10.244.0.1,fd00::1", &[(name, r#"["192.0.2.0/24", "2001:db8::/64"]"#)]);
    let any = CompileOptions { source_spoofing: true, ..CompileOptions::default() };
    for (options, allowed) in [(CompileOptions::default(), Outcome::Drop), (any.clone(), Outcome::Accept)] {
        let ruleset = table(&documents, &options);
        let table = Interpreter::new(&ruleset).expect("a sound ruleset");
        let sends = |pod: &str, saddr: &str, l4proto| {
            let daddr = if saddr.contains(':') { "2001:db8:1::1" } else { "198.51.100.1" };
            table.run(HookPoint::Prerouting, &mut packet(&host_interface("demo", pod), saddr, daddr, l4proto))
        };
        assert_eq!(sends("a", "192.0.2.9", 6), allowed);
        assert_eq!(sends("a", "2001:db8::9", 6), allowed);
        assert_eq!(sends("a", "192.0.3.9", 6), Outcome::Drop);
        assert_eq!(sends("shut", "192.0.2.9", 6), Outcome::Drop, "another pod");
        assert_eq!(sends("a", "192.0.2.9", 4), Outcome::Drop, "no tunnel from there either");
        assert_eq!(sends("a", "10.244.0.1", 6), Outcome::Accept);
    }
    let mut compiler = Compiler::new(CompileOptions::default());
    for document in &documents {
        compiler.cluster_mut().upsert(document);
    }
    compiler.update(&endpoints(), GENERATION);
    let problems = compiler.problems();
    let [problem] = problems.as_slice() else { panic!("{problems:?}") };
    assert!(problem.contains("demo/a") && problem.contains(name) && problem.contains("workloadSourceSpoofing"));
    compiler.set_options(any);
    assert!(compiler.problems().is_empty(), "{:?}", compiler.problems());
}

#[test]
fn a_bad_annotation_is_a_problem_and_no_more() {
    let mut documents = documents();
    let rate = "qos.projectcalico.org/egressPacketRate";
    documents[0] = annotated("a", "10.244.0.1,fd00::1", &[(rate, "lots")]);
    let mut compiler = Compiler::new(CompileOptions::default());
    for document in &documents {
        compiler.cluster_mut().upsert(document);
    }
    compiler.update(&endpoints(), GENERATION);
    assert_eq!(compiler.table(), &table(&self::documents(), &CompileOptions::default()));
    let problems = compiler.problems();
    assert!(problems.len() == 1 && problems[0].contains("demo/a") && problems[0].contains(rate), "{problems:?}");
}

#[test]
fn an_annotation_that_comes_and_goes_is_heeded() {
    let mut compiler = Compiler::new(CompileOptions::default());
    for document in documents() {
        compiler.cluster_mut().upsert(&document);
    }
    compiler.update(&endpoints(), GENERATION);
    let plain = compiler.table().clone();
    let limited = annotated("a", "10.244.0.1,fd00::1", &[("qos.projectcalico.org/egressPacketRate", "10")]);
    assert!(compiler.cluster_mut().upsert(&limited), "nothing else has changed");
    let update = compiler.follow(GENERATION);
    assert!(!update.tightens(compiler.table()));
    assert!(compiler.table().chains.contains_key("limits"), "{}", compiler.table());
    assert_eq!(plain.diff(compiler.table()), update.transaction(compiler.table()));
    assert!(compiler.cluster_mut().upsert(&annotated("a", "10.244.0.1,fd00::1", &[])));
    compiler.follow(GENERATION);
    assert_eq!(*compiler.table(), plain);
}

#[test]
fn limits_are_each_pods_own_and_gone_with_the_last() {
    let limit = [("qos.projectcalico.org/ingressMaxConnections", "5")];
    let plain = table(&documents(), &CompileOptions::default());
    let mut documents = documents();
    documents[0] = annotated("a", "10.244.0.1,fd00::1", &limit);
    let one = table(&documents, &CompileOptions::default());
    documents[1] = annotated("shut", "10.244.0.2", &limit);
    let two = table(&documents, &CompileOptions::default());
    let chains = |table: &Ruleset| table.maps["limit_ingress"].elements.values().cloned().collect::<BTreeSet<_>>();
    assert_eq!((chains(&one).len(), chains(&two).len()), (1, 2), "two pods never share an allowance");
    assert!(chains(&two).is_superset(&chains(&one)), "and one's is not touched for the other");
    assert!(!plain.maps.contains_key("limit_ingress") && !plain.chains.contains_key("limits"));
    assert!(!tightens(&plain, &one) && !tightens(&one, &plain), "limits look at every packet, stamped or not");
}

#[test]
fn other_bits_are_another_table() {
    let in_bits = |mask: u32, generation| {
        let mark_mask = MarkMask::try_from(mask).expect("enough bits");
        let options = CompileOptions { mark_mask, ..CompileOptions::default() };
        compile(&cluster(&documents()), &endpoints(), generation, &options)
    };
    for mask in [0xffff_0000, 0x0000_ff00, 0xff00_00ff, 0xffff_ffff] {
        assert_eq!(Generation::of(&in_bits(mask, GENERATION)), Some(GENERATION), "{mask:#x}");
    }
    let (old, new) = (in_bits(0xffff_0000, GENERATION), in_bits(0x00ff_0000, GENERATION));
    assert!(tightens(&old, &new), "all flows are judged again");
    // A generation whose new marks are what old stamps look like in the new bits is left out.
    let mask = MarkMask::try_from(0x00ff_0000).expect("enough bits");
    let mut generation = GENERATION;
    for _ in 0..300 {
        let next = generation.next_after(&old, mask);
        let default = MarkMask::default();
        for stamp in [GENERATION.live_mark(default), GENERATION.pending_mark(default)] {
            assert_ne!(next.live_mark(mask), stamp & mask.bits());
            assert_ne!(next.pending_mark(mask), stamp & mask.bits());
        }
        generation = next;
    }
}

#[test]
fn offline_tables_heed_the_configuration_of_their_node() {
    let felix = |name: &str, spec: serde_json::Value| {
        object(&json!({"apiVersion": "projectcalico.org/v3", "kind": "FelixConfiguration",
            "metadata": {"name": name}, "spec": spec}))
    };
    let mut documents = documents();
    documents.extend([
        felix("default", json!({"vxlanPort": 8472, "defaultEndpointToHostAction": "Drop"})),
        felix("node.n", json!({"defaultEndpointToHostAction": "Accept", "nftablesMarkMask": 4_278_190_080_u32})),
        felix("racks", json!({"nodeSelector": "rack == 'a'", "vxlanPort": 4790})),
        object(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "labels": {"rack": "a"}}})),
        object(
            &json!({"apiVersion": "projectcalico.org/v3", "kind": "BGPConfiguration", "metadata": {"name": "default"},
            "spec": {"serviceClusterIPs": [{"cidr": "10.96.0.0/12"}]}}),
        ),
    ]);
    let offline = Offline::new(&documents);
    let (own, other) = (offline.options("n"), offline.options("m"));
    assert_eq!((own.vxlan_port, own.endpoint_to_host), (4790, EndpointToHost::Accept));
    assert_eq!(own.mark_mask.bits(), 0xff00_0000);
    assert_eq!((other.vxlan_port, other.endpoint_to_host), (8472, EndpointToHost::Drop));
    assert_eq!(own.service_cidrs, other.service_cidrs);
    assert_eq!(own.service_cidrs.len(), 1);
}
