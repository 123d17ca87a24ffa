//! The table itself: its frame by packets that no policy is about, its shape by what changes and what does not.

use serde_json::json;
use tortie_api::Object;
use tortie_api::k8s::Protocol;
use tortie_nft::interpreter::{Conntrack, FlowState, Interpreter, Outcome, Packet};
use tortie_nft::{Command, Direction, HookPoint, Ruleset, Statement, Verdict};
use tortie_policy::oracle::Traffic;
use tortie_policy::{CompileOptions, Endpoint, Generation, MarkMask, compile, host_interface};

use crate::support::{CLIENT_PORT, Flow, addr, cluster, endpoint, node, object, passes, pod, policy};

const GENERATION: Generation = Generation::seed(1);

/// Pods `open`, and `shut`, which may neither send nor receive.
fn documents() -> Vec<Object> {
    vec![
        pod("demo", "open", "n", "10.0.0.1,fd00::1", &json!({})),
        pod("demo", "shut", "n", "10.0.0.2,fd00::2", &json!({"shut": "yes"})),
        policy("shut", &json!({"podSelector": {"matchLabels": {"shut": "yes"}}, "policyTypes": ["Ingress", "Egress"]})),
    ]
}

fn endpoints() -> Vec<Endpoint> {
    vec![endpoint("demo", "open", &["10.0.0.1", "fd00::1"]), endpoint("demo", "shut", &["10.0.0.2", "fd00::2"])]
}

fn table() -> Interpreter {
    node(&cluster(&documents()), &endpoints(), GENERATION).1
}

pub(crate) fn packet(iif: &str, saddr: &str, daddr: &str, l4proto: u8) -> Packet {
    Packet {
        iif: iif.to_owned(),
        oif: String::new(),
        saddr: addr(saddr),
        daddr: addr(daddr),
        l4proto,
        sport: Some(CLIENT_PORT),
        dport: Some(80),
        icmp: None,
        ct: Conntrack::NEW,
        dnat: false,
    }
}

pub(crate) fn icmp6(iif: &str, saddr: &str, daddr: &str, kind: u8) -> Packet {
    let ports = packet(iif, saddr, daddr, 58);
    Packet { sport: None, dport: None, icmp: Some((kind, 0)), ct: Conntrack::Untracked, ..ports }
}

#[test]
fn a_pod_sends_from_its_own_addresses_only() {
    let (table, open) = (table(), host_interface("demo", "open"));
    let sends = |saddr: &str, daddr: &str| passes(&table, &mut packet(&open, saddr, daddr, 6), "eth0");
    assert!(sends("10.0.0.1", "192.0.2.1"));
    assert!(!sends("10.0.0.2", "192.0.2.1"), "another pod's address");
    assert!(!sends("192.0.2.7", "192.0.2.1"), "a stranger's");
    assert!(sends("fd00::1", "2001:db8::1"));
    assert!(!sends("fd00::2", "2001:db8::1"));
    assert!(!sends("::", "2001:db8::1"));
    let to_node = |saddr: &str, daddr: &str| passes(&table, &mut packet(&open, saddr, daddr, 6), "");
    assert!(to_node("10.0.0.1", "172.31.0.2"));
    assert!(!to_node("10.0.0.2", "172.31.0.2"), "not towards the node either");
    let unknown = host_interface("demo", "unknown");
    for saddr in ["10.0.0.9", "10.0.0.1", "fd00::9", "fe80::9"] {
        let daddr = if saddr.contains(':') { "fe80::1" } else { "172.31.0.2" };
        assert!(!passes(&table, &mut packet(&unknown, saddr, daddr, 6), ""), "an unknown pod from {saddr}");
        assert!(!passes(&table, &mut packet("eth0", "192.0.2.1", "10.0.0.9", 6), &unknown), "to an unknown pod");
    }
}

#[test]
fn a_pod_may_not_pretend_to_be_a_node() {
    let (table, open) = (table(), host_interface("demo", "open"));
    assert!(!passes(&table, &mut packet(&open, "10.0.0.1", "172.31.0.3", 4), "eth0"), "IPIP");
    for (l4proto, dport, allowed) in [(17, 4789, false), (17, 4788, true), (6, 4789, true)] {
        let mut packet = Packet { dport: Some(dport), ..packet(&open, "10.0.0.1", "172.31.0.3", l4proto) };
        assert_eq!(passes(&table, &mut packet, "eth0"), allowed, "protocol {l4proto}, port {dport}");
    }
    let mut tunnel = Packet { dport: Some(4789), ..packet("eth0", "172.31.0.3", "172.31.0.2", 17) };
    assert!(passes(&table, &mut tunnel, ""), "nodes among themselves");
}

#[test]
fn neighbour_discovery_works_for_isolated_pods_too() {
    let (table, shut) = (table(), host_interface("demo", "shut"));
    let to_node = |saddr: &str, daddr: &str, kind| passes(&table, &mut icmp6(&shut, saddr, daddr, kind), "");
    assert!(to_node("fd00::2", "fe80::ecee:eeff:feee:eeee", 135), "solicitation");
    assert!(to_node("fe80::2", "fe80::ecee:eeff:feee:eeee", 136), "advertisement");
    assert!(to_node("::", "ff02::1:ff00:2", 135), "duplicate address detection");
    assert!(to_node("fe80::2", "ff02::2", 133), "router solicitation");
    assert!(!to_node("fe80::2", "ff02::1", 134), "a pod is no router");
    assert!(!to_node("fe80::2", "fe80::ecee:eeff:feee:eeee", 137));
    assert!(!to_node("fe80::2", "fe80::ecee:eeff:feee:eeee", 128), "an echo is judged");
    let mut stream = packet(&shut, "::", "ff02::1", 17);
    assert!(!passes(&table, &mut stream, ""), "only discovery comes from no address");
}

#[test]
fn messages_that_conntrack_ignores_are_judged() {
    // A pod may send discovery messages to anywhere, with anything inside; conntrack does not look at them.
    let table = table();
    for (name, saddr, allowed) in [("open", "fd00::1", true), ("shut", "fd00::2", false)] {
        let mut escape = icmp6(&host_interface("demo", name), saddr, "2001:db8::1", 136);
        assert_eq!(passes(&table, &mut escape, "eth0"), allowed, "{name}");
    }
    let mut intrude = icmp6("eth0", "2001:db8::1", "fd00::2", 136);
    assert!(!passes(&table, &mut intrude, &host_interface("demo", "shut")));
}

#[test]
fn invalid_packets_of_pods_are_dropped() {
    let table = table();
    let mut lone = Packet { ct: Conntrack::Invalid, ..packet("eth0", "192.0.2.1", "10.0.0.1", 6) };
    assert!(!passes(&table, &mut lone.clone(), &host_interface("demo", "open")), "to a pod");
    assert!(passes(&table, &mut lone, "eth1"), "what is not a pod's is left alone");
    let open = host_interface("demo", "open");
    let mut lone = Packet { ct: Conntrack::Invalid, ..packet(&open, "10.0.0.1", "172.31.0.2", 6) };
    assert!(!passes(&table, &mut lone.clone(), "eth0"));
    assert!(!passes(&table, &mut lone, ""), "to the node");
}

#[test]
fn without_the_check_policies_judge_invalid_packets() {
    let options = CompileOptions { allow_invalid: true, ..CompileOptions::default() };
    let endpoints = [endpoint("demo", "open", &["10.0.0.1"]), endpoint("demo", "shut", &["10.0.0.2"])];
    let ruleset = compile(&cluster(&documents()), &endpoints, GENERATION, &options);
    let table = Interpreter::new(&ruleset).expect("a sound ruleset");
    for (pod, address, allowed) in [("open", "10.0.0.1", true), ("shut", "10.0.0.2", false)] {
        let pod = host_interface("demo", pod);
        let mut lone = Packet { ct: Conntrack::Invalid, ..packet(&pod, address, "172.31.0.2", 6) };
        assert_eq!(passes(&table, &mut lone.clone(), "eth0"), allowed, "{pod}");
        assert_eq!(passes(&table, &mut lone, ""), allowed, "{pod} to the node");
    }
}

#[test]
fn what_is_not_a_pods_is_not_stamped() {
    let mut packet = packet("eth0", "192.0.2.1", "198.51.100.1", 6);
    assert!(passes(&table(), &mut packet, "docker0"));
    assert_eq!(packet.ct.mark(), Some(0));
}

#[test]
fn the_lower_half_of_the_mark_belongs_to_others() {
    let mut flow = packet(&host_interface("demo", "open"), "10.0.0.1", "192.0.2.1", 6);
    flow.ct = Conntrack::Flow { state: FlowState::New, direction: Direction::Original, mark: 0x1234_c0de };
    assert!(passes(&table(), &mut flow, "eth0"));
    assert_eq!(flow.ct.mark(), Some(GENERATION.live_mark(MarkMask::default()) | 0xc0de));
}

#[test]
fn a_pod_reaches_itself_and_its_node_reaches_it() {
    let (table, shut) = (table(), host_interface("demo", "shut"));
    // Through a Service, a pod's packet to itself is forwarded back by the interface it came from.
    assert!(passes(&table, &mut packet(&shut, "10.0.0.2", "10.0.0.2", 6), &shut));
    assert!(!passes(&table, &mut packet(&shut, "10.0.0.2", "10.0.0.1", 6), &host_interface("demo", "open")));
    // The node's packets to a pod leave by output, where we have no chain; the answers come by input.
    let flow = Flow { from: addr("172.31.0.2"), to: addr("10.0.0.2"), traffic: Traffic::to_port(Protocol::Tcp, 80) };
    let answer = |state| passes(&table, &mut flow.packet(Direction::Reply, state, 0, &shut), "");
    assert!(answer(FlowState::Established) && answer(FlowState::Related));
    assert!(!passes(&table, &mut packet(&shut, "10.0.0.2", "172.31.0.2", 6), ""), "but what the pod begins is judged");
}

#[test]
fn errors_pass_with_their_flow_and_stamp_nothing() {
    let documents = [
        pod("demo", "a", "n", "10.0.0.1", &json!({})),
        // Everything from and to the routers, from others nothing.
        policy(
            "routers",
            &json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"],
                "ingress": [{"from": [{"ipBlock": {"cidr": "172.31.0.0/16"}}]}],
                "egress": [{"to": [{"ipBlock": {"cidr": "172.31.0.0/16"}}]}]}),
        ),
    ];
    let table = node(&cluster(&documents), &[endpoint("demo", "a", &["10.0.0.1"])], GENERATION).1;
    let a = host_interface("demo", "a");
    // A router on the way says that the packets of a flow between a and 192.0.2.1 are too big.
    let error = |mark, oif: &str, iif: &str, direction, from: &str, to: &str| {
        let ct = Conntrack::Flow { state: FlowState::Related, direction, mark };
        let mut packet = Packet { ct, sport: None, dport: None, ..packet(iif, from, to, 1) };
        let passed = passes(&table, &mut packet, oif);
        (passed, packet.ct.mark())
    };
    let live = GENERATION.live_mark(MarkMask::default());
    let stale = GENERATION.next().live_mark(MarkMask::default());
    for direction in [Direction::Original, Direction::Reply] {
        assert_eq!(error(live, &a, "eth0", direction, "172.31.0.1", "10.0.0.1"), (true, Some(live)));
        for mark in [0, stale] {
            let dropped = (false, Some(mark));
            assert_eq!(
                error(mark, &a, "eth0", direction, "172.31.0.1", "10.0.0.1"),
                dropped,
                "no stamp for a denied flow"
            );
            assert_eq!(error(mark, "eth0", &a, direction, "10.0.0.1", "172.31.0.1"), dropped);
        }
    }
    assert_eq!(
        error(stale, "", &a, Direction::Original, "10.0.0.1", "172.31.0.1"),
        (false, Some(stale)),
        "to the node"
    );
    // A data connection that a helper expected is a flow of its own, and judged as such.
    let ct = Conntrack::Flow { state: FlowState::Related, direction: Direction::Original, mark: 0 };
    assert!(passes(&table, &mut Packet { ct, ..packet(&a, "10.0.0.1", "172.31.0.1", 6) }, "eth0"));
    assert!(!passes(&table, &mut Packet { ct, ..packet(&a, "10.0.0.1", "192.0.2.1", 6) }, "eth0"));
}

#[test]
fn unknown_and_ended_pods_are_shut_off() {
    let mut ended =
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "demo", "name": "ended"}, "spec": {}});
    ended["status"] = json!({"phase": "Failed", "podIP": "10.0.0.8"});
    let endpoints = [endpoint("demo", "ended", &["10.0.0.8"]), endpoint("demo", "early", &["10.0.0.9"])];
    let table = node(&cluster(&[object(&ended)]), &endpoints, GENERATION).1;
    for (name, ip) in [("ended", "10.0.0.8"), ("early", "10.0.0.9")] {
        let interface = host_interface("demo", name);
        assert!(!passes(&table, &mut packet(&interface, ip, "192.0.2.1", 6), "eth0"), "{name}");
        assert!(!passes(&table, &mut packet(&interface, ip, "172.31.0.2", 6), ""), "{name}");
        assert!(!passes(&table, &mut packet("eth0", "192.0.2.1", ip, 6), &interface), "{name}");
    }
}

/// A policy with one rule of everything, so that each kind of look-up is there.
fn everything(name: &str, port: u16) -> Object {
    let peers = json!([
        {"podSelector": {"matchLabels": {"app": "client"}}},
        {"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.128/25"]}},
        {"ipBlock": {"cidr": "2001:db8::/32"}},
        {"namespaceSelector": {"matchExpressions": [{"key": "role", "operator": "NotIn", "values": ["prod"]}]}},
    ]);
    let ports = json!([{"port": port, "endPort": port + 10}, {"port": "web"}, {"port": 53, "protocol": "UDP"}, {"protocol": "SCTP"}]);
    policy(
        name,
        &json!({"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": peers, "ports": ports}, {"from": [{"podSelector": {"matchLabels": {"app": name}}}]}],
            "egress": [{"to": peers, "ports": ports}, {"ports": [{"port": 443}]}]}),
    )
}

fn web(name: &str, ip: &str) -> Object {
    pod("demo", name, "n", ip, &json!({"app": "web"}))
}

#[test]
fn pods_under_the_same_policies_share_their_classes() {
    let documents = [web("web1", "10.0.0.1"), web("web2", "10.0.0.2"), everything("p", 8000)];
    let endpoints = [endpoint("demo", "web1", &["10.0.0.1"]), endpoint("demo", "web2", &["10.0.0.2"])];
    let (ruleset, _) = node(&cluster(&documents), &endpoints, GENERATION);
    for map in ["egress_class", "ingress_class"] {
        let classes: Vec<_> = ruleset.maps[map].elements.values().collect();
        assert_eq!(classes.len(), 2);
        assert_eq!(classes[0], classes[1]);
    }
}

#[test]
fn a_named_port_is_each_pods_own() {
    let mut other = web("web2", "10.0.0.2");
    if let Object::Pod(pod) = &mut other {
        pod.spec.containers[0].ports[0].container_port = 8080;
    }
    let named = json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"ports": [{"port": "web"}]}]});
    let documents = [web("web1", "10.0.0.1"), other, policy("p", &named)];
    let endpoints = [endpoint("demo", "web1", &["10.0.0.1"]), endpoint("demo", "web2", &["10.0.0.2"])];
    let table = node(&cluster(&documents), &endpoints, GENERATION).1;
    for (name, ip, own) in [("web1", "10.0.0.1", 80), ("web2", "10.0.0.2", 8080)] {
        for port in [80, 8080] {
            let mut packet = Packet { dport: Some(port), ..packet("eth0", "192.0.2.1", ip, 6) };
            assert_eq!(passes(&table, &mut packet, &host_interface("demo", name)), port == own, "{name} {port}");
        }
    }
}

#[test]
fn a_verdict_of_two_generations_stamps_nothing() {
    // A packet may meet egress before a commit and ingress after it. Each lets it pass; the flow is to be judged again.
    let endpoints = endpoints();
    let (old, _) = node(&cluster(&documents()), &endpoints, GENERATION);
    let (mut mixed, _) = node(&cluster(&documents()), &endpoints, GENERATION.next());
    mixed.chains.insert("stamp_pending".to_owned(), old.chains["stamp_pending"].clone());
    let table = Interpreter::new(&mixed).expect("a sound ruleset");
    let mut first = packet(&host_interface("demo", "open"), "10.0.0.1", "192.0.2.1", 6);
    assert!(passes(&table, &mut first, "eth0"));
    assert_eq!(first.ct.mark(), Some(GENERATION.pending_mark(MarkMask::default())));
}

fn is_element(command: &Command) -> bool {
    matches!(
        command,
        Command::AddElements { .. }
            | Command::DeleteElements { .. }
            | Command::AddMapElements { .. }
            | Command::DeleteMapElements { .. }
            | Command::AddCounterElements { .. }
            | Command::DeleteCounterElements { .. }
    )
}

#[test]
fn pods_that_come_and_go_change_elements_only() {
    let mut documents = vec![web("web1", "10.0.0.1,fd00::1"), everything("p", 8000)];
    let web1 = endpoint("demo", "web1", &["10.0.0.1", "fd00::1"]);
    let compiled = |documents: &[Object], endpoints: &[Endpoint]| node(&cluster(documents), endpoints, GENERATION).0;
    let before = compiled(&documents, std::slice::from_ref(&web1));
    documents.push(pod("demo", "client", "elsewhere", "10.0.1.1,fd00::1:1", &json!({"app": "client"})));
    let with_peer = compiled(&documents, std::slice::from_ref(&web1));
    let came = before.diff(&with_peer).commands;
    assert!(!came.is_empty() && came.iter().all(is_element), "{came:?}");
    assert!(with_peer.diff(&before).commands.iter().all(is_element));

    documents.push(web("web2", "10.0.0.2,fd00::2"));
    let with_local = compiled(&documents, &[web1, endpoint("demo", "web2", &["10.0.0.2", "fd00::2"])]);
    let came = with_peer.diff(&with_local).commands;
    assert!(!came.is_empty() && came.iter().all(is_element), "{came:?}");
    assert!(with_local.diff(&with_local.clone()).commands.is_empty());
}

#[test]
fn a_new_generation_writes_no_verdict() {
    let documents = [web("web1", "10.0.0.1"), everything("p", 8000)];
    let compiled = |generation| node(&cluster(&documents), &[endpoint("demo", "web1", &["10.0.0.1"])], generation).0;
    let change = compiled(GENERATION).diff(&compiled(GENERATION.next()));
    assert!(!change.commands.is_empty());
    for command in &change.commands {
        match command {
            Command::AddRule { rule, .. } => {
                assert!(matches!(rule.statements.as_slice(), [Statement::SetCtMark { .. }]), "{rule:?}");
                assert!(rule.matches.is_empty());
            }
            Command::FlushChain { .. } | Command::AddElements { .. } | Command::DeleteElements { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(Generation::of(&compiled(GENERATION)), Some(GENERATION));
    assert_eq!(Generation::of(&Ruleset::default()), None);
}

/// All rules of all chains that a packet enters: at most so many it can meet.
fn rules_met(ruleset: &Ruleset, table: &Interpreter, mut packet: Packet, oif: &str) -> (Outcome, usize) {
    let mut entered = std::collections::BTreeSet::from(["egress".to_owned(), "ingress".to_owned()]);
    assert_eq!(table.run(HookPoint::Prerouting, &mut packet), Outcome::Accept);
    oif.clone_into(&mut packet.oif);
    let walk = table.trace(HookPoint::Forward, &mut packet);
    for step in &walk.steps {
        if let Some(Verdict::Goto(chain) | Verdict::Jump(chain)) = &step.verdict {
            entered.insert(chain.clone());
        }
    }
    (walk.outcome, entered.iter().map(|chain| ruleset.chains[chain].rules.len()).sum())
}

#[test]
fn the_rules_a_packet_meets_do_not_grow_with_policies() {
    let endpoints = [endpoint("demo", "web1", &["10.0.0.1"])];
    let met = |policies: u16| {
        let mut documents =
            vec![web("web1", "10.0.0.1"), pod("demo", "client", "n2", "10.0.1.1", &json!({"app": "client"}))];
        documents.extend((0..policies).map(|index| everything(&format!("p{index}"), 8000 + index)));
        let (ruleset, table) = node(&cluster(&documents), &endpoints, GENERATION);
        let chains = ruleset.chains["egress"].rules.len();
        assert!(chains < 12);
        [("10.0.1.1", 8005), ("192.0.2.1", 8005), ("192.0.2.200", 8005), ("10.0.1.1", 7)].map(|(saddr, port)| {
            let packet = Packet { dport: Some(port), ..packet("eth0", saddr, "10.0.0.1", 6) };
            rules_met(&ruleset, &table, packet, &host_interface("demo", "web1"))
        })
    };
    let (one, many) = (met(1), met(1_000));
    assert_eq!(one, many);
    assert_eq!(one[0].0, Outcome::Accept);
    assert_eq!(one[3].0, Outcome::Drop);
}

/// Type and code of ICMP, and anything but these; an answer is judged by what was asked.
#[test]
fn types_and_codes_of_icmp_are_told_apart() {
    let endpoints = [endpoint("demo", "web1", &["10.0.0.1"])];
    let web1 = host_interface("demo", "web1");
    for (field, same, other) in [("icmp", true, false), ("notICMP", false, true)] {
        let mut rule = json!({"action": "Allow", "protocol": "ICMP"});
        rule[field] = json!({"type": 8, "code": 0});
        let policy = object(&json!({"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy",
            "metadata": {"name": "ping"}, "spec": {"types": ["Ingress"], "ingress": [rule]}}));
        let (_, table) = node(&cluster(&[web("web1", "10.0.0.1"), policy]), &endpoints, GENERATION);
        let ask =
            |icmp| Packet { sport: None, dport: None, icmp: Some(icmp), ..packet("eth0", "192.0.2.1", "10.0.0.1", 1) };
        for (icmp, allowed) in [((8, 0), same), ((8, 1), other), ((13, 0), other)] {
            assert_eq!(passes(&table, &mut ask(icmp), &web1), allowed, "{field} {icmp:?}");
        }
        let ct = Conntrack::Flow { state: FlowState::Established, direction: Direction::Reply, mark: 0 };
        for (icmp, allowed) in [((0, 0), same), ((0, 1), other), ((14, 0), other)] {
            let answer = packet(&web1, "10.0.0.1", "192.0.2.1", 1);
            let mut answer = Packet { sport: None, dport: None, icmp: Some(icmp), ct, ..answer };
            assert_eq!(passes(&table, &mut answer, "eth0"), allowed, "{field}, answer {icmp:?}");
        }
    }
}

/// One port, and a peer for each policy: every rule has a counter of its own, and a packet meets no rule more for it.
#[test]
fn counting_costs_a_packet_nothing_more_however_many_rules_count() {
    let endpoints = [endpoint("demo", "web1", &["10.0.0.1"])];
    let met = |policies: u16| {
        let mut documents = vec![web("web1", "10.0.0.1")];
        for index in 0..policies {
            let labels = json!({"peer": index.to_string()});
            let address = format!("10.{}.{}.1", 1 + index / 256, index % 256);
            documents.push(pod("demo", &format!("peer{index}"), "n2", &address, &labels));
            let from = json!([{"podSelector": {"matchLabels": labels}}]);
            let spec = json!({"podSelector": {}, "ingress": [{"from": from, "ports": [{"port": 80}]}]});
            documents.push(policy(&format!("p{index:05}"), &spec));
        }
        let (ruleset, table) = node(&cluster(&documents), &endpoints, GENERATION);
        let counting = ruleset.counters.keys().filter(|name| name.starts_with("h_")).count();
        assert_eq!(counting, usize::from(policies), "each rule has a counter");
        ["10.1.7.1", "192.0.2.1"].map(|saddr| {
            let packet = packet("eth0", saddr, "10.0.0.1", 6);
            rules_met(&ruleset, &table, packet, &host_interface("demo", "web1"))
        })
    };
    let few = met(10);
    assert_eq!((few[0].0, few[1].0), (Outcome::Accept, Outcome::Drop));
    for many in [1_000, 10_000] {
        assert_eq!(met(many), few, "{many} policies");
    }
}

#[test]
fn an_open_rule_among_many_opens_the_class() {
    let mut documents = vec![web("web1", "10.0.0.1"), everything("p", 8000)];
    documents.push(policy("all", &json!({"podSelector": {}, "ingress": [{}], "policyTypes": ["Ingress"]})));
    let endpoints = [endpoint("demo", "web1", &["10.0.0.1"])];
    for (count_hits, rules) in [(false, 1), (true, 3)] {
        let options = CompileOptions { count_hits, ..CompileOptions::default() };
        let ruleset = compile(&cluster(&documents), &endpoints, GENERATION, &options);
        let Some(Verdict::Goto(class)) = ruleset.maps["ingress_class"].elements.values().next() else {
            panic!("no class");
        };
        // Where hits are counted, a rule decides that comes behind the turns to the other two forms of the class.
        let class = &ruleset.chains[class].rules;
        assert_eq!(class.len(), rules, "{class:?}");
        let last = class.last().expect("a rule");
        assert!(last.matches.is_empty());
        assert_eq!(last.statements.last(), Some(&Statement::Verdict(Verdict::Goto("ok_ingress".to_owned()))));
    }
}

#[test]
fn other_prefixes_and_ports_are_honoured() {
    let interface_prefixes = vec!["pod".to_owned(), "tap".to_owned()];
    let options = CompileOptions { interface_prefixes, vxlan_port: 8472, ..CompileOptions::default() };
    let endpoint = Endpoint { interface: "pod1".to_owned(), ..endpoint("demo", "open", &["10.0.0.1"]) };
    let ruleset = compile(&cluster(&documents()), &[endpoint], GENERATION, &options);
    let table = Interpreter::new(&ruleset).expect("a sound ruleset");
    assert!(passes(&table, &mut packet("pod1", "10.0.0.1", "192.0.2.1", 6), "eth0"));
    assert!(!passes(&table, &mut packet("pod1", "10.0.0.2", "192.0.2.1", 6), "eth0"));
    assert!(passes(&table, &mut packet("cali1", "10.0.0.2", "192.0.2.1", 6), "eth0"));
    assert!(!passes(&table, &mut packet("tap1", "10.0.0.1", "192.0.2.1", 6), "eth0"), "of the second prefix, unknown");
    for to in ["pod2", "tap1"] {
        assert!(!passes(&table, &mut packet("eth0", "192.0.2.1", "10.0.0.7", 6), to), "an unknown pod");
    }
    for (port, allowed) in [(8472, false), (4789, true)] {
        let mut tunnel = Packet { dport: Some(port), ..packet("pod1", "10.0.0.1", "192.0.2.1", 17) };
        assert_eq!(passes(&table, &mut tunnel, "eth0"), allowed);
    }
}
