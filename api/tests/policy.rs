//! Calico's policies, what their rules speak of, and ClusterNetworkPolicy: defaults, forms, and every rule of validation.
#![allow(missing_docs, reason = "a test")]

use serde_json::{Value, json};
use tortie_api::calico::{
    Action, EntityRule, IpVersion, PolicyRule, PolicySpec, RulePort, RuleProtocol, StagedAction, TierAction,
    compare_orders,
};
use tortie_api::k8s::{ClusterNetworkPolicyPeer, ClusterNetworkPolicyProtocol, PolicyType, Protocol};
use tortie_api::{Decoded, Kind, Object, decode};

fn object(value: &Value) -> Object {
    match decode(value) {
        Ok(Decoded::Object(object)) => *object,
        other => panic!("{value}: {other:?}"),
    }
}

fn errors(value: &Value) -> Vec<String> {
    match decode(value) {
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
        Ok(decoded) => panic!("{value}: {decoded:?}"),
    }
}

fn of(kind: Kind, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": kind.api_version(), "kind": kind.manifest_kind(), "metadata": {"name": name}, "spec": spec})
}

fn namespaced(spec: &Value) -> Value {
    of(Kind::CalicoNetworkPolicy, "p", spec)
}

fn global(spec: &Value) -> Value {
    of(Kind::GlobalNetworkPolicy, "p", spec)
}

fn ingress(rule: &Value) -> Value {
    global(&json!({"ingress": [rule]}))
}

fn source(entity: &Value) -> Value {
    ingress(&json!({"action": "Allow", "protocol": "TCP", "source": entity}))
}

fn staged(spec: &Value) -> Value {
    of(Kind::StagedGlobalNetworkPolicy, "p", spec)
}

fn tier(name: &str, spec: &Value) -> Value {
    of(Kind::Tier, name, spec)
}

fn host(spec: &Value) -> Value {
    of(Kind::HostEndpoint, "h", spec)
}

fn cluster(spec: &Value) -> Value {
    let mut whole = json!({"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}});
    whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    of(Kind::ClusterNetworkPolicy, "c", &whole)
}

fn cluster_egress(rule: &Value) -> Value {
    let mut whole = json!({"action": "Accept", "to": [{"namespaces": {}}]});
    whole.as_object_mut().unwrap().extend(rule.as_object().unwrap().clone());
    cluster(&json!({"egress": [whole]}))
}

fn spec_of(value: &Value) -> PolicySpec {
    match object(value) {
        Object::CalicoNetworkPolicy(policy)
        | Object::GlobalNetworkPolicy(policy)
        | Object::StagedNetworkPolicy(policy)
        | Object::StagedGlobalNetworkPolicy(policy) => policy.spec,
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_error_names_the_field_the_value_and_the_remedy() {
    let mut wrong = Vec::new();
    for (value, want) in [
        (namespaced(&json!({"ingres": []})), "spec.ingres: unknown field: did you mean \"ingress\"?"),
        (
            namespaced(&json!({"doNotTrack": true})),
            "spec.doNotTrack: unknown field: known fields here: tier, order, selector, serviceAccountSelector, types, ingress, egress, performanceHints",
        ),
        (
            global(&json!({"stagedAction": "Set"})),
            "spec.stagedAction: unknown field: known fields here: tier, order, selector, serviceAccountSelector, namespaceSelector, types, ingress, egress, performanceHints, doNotTrack, preDNAT, applyOnForward",
        ),
        (global(&json!({"order": "1"})), "spec.order: Invalid value: \"1\": must be a number"),
        (
            global(&json!({"types": ["ingress"]})),
            "spec.types[0]: Unsupported value: \"ingress\": supported values: \"Ingress\", \"Egress\"",
        ),
        (
            global(&json!({"types": ["Egress", "Egress"]})),
            "spec.types[1]: Duplicate value: \"Egress\": remove or rename one of them",
        ),
        (
            global(&json!({"selector": "a = 'b'"})),
            "spec.selector: Invalid value: \"a = 'b'\": must be a selector such as has(key) && key == 'value': expected ==, !=, in, not in, contains, starts with or ends with at character 3",
        ),
        (
            global(&json!({"namespaceSelector": "has(a) || global()"})),
            "spec.namespaceSelector: Invalid value: \"(has(a) || global())\": global() may only be used as a rule's `namespaceSelector`",
        ),
        (
            global(&json!({"preDNAT": true, "applyOnForward": true, "doNotTrack": true})),
            "spec.preDNAT: Forbidden: may not be set beside `doNotTrack`: make two policies",
        ),
        (
            global(&json!({"preDNAT": true, "applyOnForward": true, "types": ["Ingress", "Egress"]})),
            "spec.types: Forbidden: a policy with `preDNAT` has ingress only: make a second policy for egress",
        ),
        (
            global(&json!({"doNotTrack": true})),
            "spec.applyOnForward: Invalid value: false: must be true in a policy with `doNotTrack` or `preDNAT`, which cannot tell forwarded traffic apart",
        ),
        (
            global(&json!({"performanceHints": ["Faster"]})),
            "spec.performanceHints[0]: Unsupported value: \"Faster\": supported values: \"AssumeNeededOnEveryNode\"",
        ),
        (ingress(&json!({})), "spec.ingress[0].action: Required value: this field must be set"),
        (
            ingress(&json!({"action": "allow"})),
            "spec.ingress[0].action: Unsupported value: \"allow\": supported values: \"Allow\", \"Deny\", \"Log\", \"Pass\"",
        ),
        (
            ingress(&json!({"action": "Allow", "http": {"methods": ["GET"]}})),
            "spec.ingress[0].http: Forbidden: rules on HTTP requests need a proxy in the path, which this dataplane does not have: remove `http` and match addresses, protocols and ports only",
        ),
        (
            ingress(&json!({"action": "Allow", "ipVersion": 5})),
            "spec.ingress[0].ipVersion: Invalid value: 5: must be 4 or 6",
        ),
        (
            ingress(&json!({"action": "Allow", "protocol": "TPC"})),
            "spec.ingress[0].protocol: Invalid value: \"TPC\": must be TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite or a protocol number between 1 and 255",
        ),
        (
            ingress(&json!({"action": "Allow", "protocol": 0})),
            "spec.ingress[0].protocol: Invalid value: 0: must be TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite or a protocol number between 1 and 255",
        ),
        (
            ingress(&json!({"action": "Allow", "icmp": {"type": 8}})),
            "spec.ingress[0].icmp: Invalid value: {\"type\":8}: a rule with `icmp` must set `protocol` to ICMP or ICMPv6",
        ),
        (
            ingress(&json!({"action": "Allow", "protocol": "ICMP", "icmp": {"code": 1}})),
            "spec.ingress[0].icmp.code: Invalid value: 1: may only be set with a `type`: add the type",
        ),
        (
            ingress(&json!({"action": "Allow", "notICMP": {"type": 255}})),
            "spec.ingress[0].notICMP.type: Invalid value: 255: must be between 0 and 254",
        ),
        (
            ingress(&json!({"action": "Allow", "notProtocol": 58, "ipVersion": 4})),
            "spec.ingress[0].ipVersion: Invalid value: 4: `notProtocol` is of IP version 6: set `ipVersion` to it, or remove it",
        ),
        (
            ingress(&json!({"action": "Allow", "destination": {"ports": [80]}})),
            "spec.ingress[0].destination.ports[0]: Invalid value: 80: a rule with port numbers must say of which protocol: set `protocol` to TCP, UDP or SCTP",
        ),
        (
            ingress(&json!({"action": "Allow", "protocol": "UDPLite", "destination": {"notPorts": ["dns"]}})),
            "spec.ingress[0].destination.notPorts: Invalid value: [\"dns\"]: protocol UDPLite has no ports: set `protocol` to TCP, UDP or SCTP, or remove `notPorts`",
        ),
        (
            source(&json!({"ports": ["200:100"]})),
            "spec.ingress[0].source.ports[0]: Invalid value: \"200:100\": the first port (200) must not be greater than the last (100)",
        ),
        (
            source(&json!({"ports": ["0:100"]})),
            "spec.ingress[0].source.ports[0]: Invalid value: \"0:100\": must be between 1 and 65535, inclusive",
        ),
        (
            source(&json!({"ports": [70000]})),
            "spec.ingress[0].source.ports[0]: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
        (
            source(&json!({"ports": ["80-90"]})),
            "spec.ingress[0].source.ports[0]: Invalid value: \"80-90\": must contain at least one letter (IANA_SVC_NAME): a range of ports is written with a colon, such as \"80:90\"",
        ),
        (
            source(&json!({"nets": ["10.0.0.1/8"]})),
            "spec.ingress[0].source.nets[0]: Invalid value: \"10.0.0.1/8\": must have no bits set behind its prefix: write 10.0.0.0/8",
        ),
        (
            source(&json!({"nets": ["10.0.0.1"]})),
            "spec.ingress[0].source.nets[0]: Invalid value: \"10.0.0.1\": must be in CIDR notation: write 10.0.0.1/32",
        ),
        (
            source(&json!({"nets": ["10.0.0.0/8", "fd00::/8"]})),
            "spec.ingress[0].source.nets[1]: Invalid value: \"fd00::/8\": must be of the same IP version as 10.0.0.0/8: make a rule for each version",
        ),
        (
            source(&json!({"notNets": ["::/0"]})),
            "spec.ingress[0].source.notNets[0]: Invalid value: \"::/0\": leaves no address that the rule could match: remove the rule, or name smaller networks",
        ),
        (
            ingress(&json!({"action": "Deny", "ipVersion": 6, "source": {"nets": ["10.0.0.0/8"]}})),
            "spec.ingress[0].source.nets[0]: Invalid value: \"10.0.0.0/8\": must be of IP version 6, as `ipVersion` says",
        ),
        (
            source(&json!({"selector": "global()"})),
            "spec.ingress[0].source.selector: Invalid value: \"global()\": global() may only be used as a rule's `namespaceSelector`",
        ),
        (
            source(&json!({"namespaceSelector": "!global()"})),
            "spec.ingress[0].source.namespaceSelector: Invalid value: \"!global()\": global() may not be combined with other expressions: make a rule for each",
        ),
        (
            source(&json!({"services": {"name": "s"}})),
            "spec.ingress[0].source.services.namespace: Required value: the policy is in no namespace: name that of the Service",
        ),
        (
            source(&json!({"services": {"name": "s", "namespace": "n"}, "selector": "all()"})),
            "spec.ingress[0].source.selector: Forbidden: may not be set beside `services`, which says itself who is meant: make two rules",
        ),
        (
            namespaced(&json!({"ingress": [{"action": "Allow", "destination": {"services": {"name": "s"}}}]})),
            "spec.ingress[0].destination.services: Forbidden: a rule names a Service as the other end of the traffic: `destination` in egress, `source` in ingress",
        ),
        (
            namespaced(
                &json!({"egress": [{"action": "Allow", "protocol": "TCP", "destination": {"services": {"name": "s"}, "ports": [80]}}]}),
            ),
            "spec.egress[0].destination.ports: Forbidden: may not be set beside `services`: the ports are those of the Service's endpoints",
        ),
        (
            source(&json!({"services": {"namespace": "n"}})),
            "spec.ingress[0].source.services.name: Required value: the name of a Service",
        ),
        (
            ingress(&json!({"action": "Allow", "metadata": {"annotations": {"...": "x"}}})),
            "spec.ingress[0].metadata.annotations: Invalid value: \"...\": name part must consist of letters, digits, '-', '_' and '.', and start and end with a letter or digit (such as 'app' or 'example.com/app')",
        ),
        (
            staged(&json!({"stagedAction": "Delete", "order": 1})),
            "spec.order: Forbidden: a staged policy with `stagedAction` Delete says nothing else: remove this field",
        ),
        (
            of(
                Kind::StagedKubernetesNetworkPolicy,
                "p",
                &json!({"stagedAction": "Delete", "policyTypes": ["Ingress"]}),
            ),
            "spec.policyTypes: Forbidden: a staged policy with `stagedAction` Delete says nothing else: remove this field",
        ),
        (
            of(Kind::StagedKubernetesNetworkPolicy, "p", &json!({"ingress": [{"from": [{}]}]})),
            "spec.ingress[0].from[0]: Required value: must specify a peer: podSelector, namespaceSelector or ipBlock ({} as a selector selects all)",
        ),
        (
            staged(&json!({"stagedAction": "Warn"})),
            "spec.stagedAction: Unsupported value: \"Warn\": supported values: \"Set\", \"Delete\", \"Learn\", \"Ignore\"",
        ),
        (
            of(Kind::GlobalNetworkPolicy, "a.b.c", &json!({})),
            "metadata.name: Invalid value: \"a.b.c\": must consist of lower case letters, digits and '-', start and end with a letter or digit, and have at most one '.', behind the name of its tier (such as 'my-policy' or 'my-tier.my-policy')",
        ),
        (
            tier("default", &json!({"order": 10})),
            "spec.order: Invalid value: 10.0: the order of tier \"default\" is always 1000000: use that",
        ),
        (
            tier("kube-admin", &json!({"defaultAction": "Deny"})),
            "spec.defaultAction: Invalid value: \"Deny\": the default action of tier \"kube-admin\" is always Pass: use that",
        ),
        (
            tier("t", &json!({"defaultAction": "Allow"})),
            "spec.defaultAction: Unsupported value: \"Allow\": supported values: \"Deny\", \"Pass\"",
        ),
        (
            of(Kind::GlobalNetworkSet, "s", &json!({"nets": ["garbage"]})),
            "spec.nets[0]: Invalid value: \"garbage\": must be a valid CIDR, such as 10.0.0.0/8 or fd00::/64",
        ),
        (
            json!({"apiVersion": "projectcalico.org/v3", "kind": "NetworkSet", "metadata": {"name": "s", "labels": {"projectcalico.org/namespace": "x"}}}),
            "metadata.labels[projectcalico.org/namespace]: Invalid value: \"x\": this label is set by the namespace that an object is in: remove it",
        ),
        (
            host(&json!({"interfaceName": "eth0"})),
            "spec.node: Required value: the name of the node whose interface it is",
        ),
        (
            host(&json!({"node": "n"})),
            "spec.interfaceName: Required value: name the interface ('*' for all of the node), or set `expectedIPs` to find it by",
        ),
        (
            host(&json!({"node": "n", "interfaceName": "eth0/1"})),
            "spec.interfaceName: Invalid value: \"eth0/1\": must be the name of an interface (at most 15 letters, digits, '-', '_' and '.'), or '*' for the whole node",
        ),
        (
            host(&json!({"node": "n", "expectedIPs": ["10.0.0.0/8"]})),
            "spec.expectedIPs[0]: Invalid value: \"10.0.0.0/8\": must be an IP address, such as 10.244.0.10 or fd00::10",
        ),
        (
            host(&json!({"node": "n", "interfaceName": "*", "ports": [{"name": "p", "protocol": 47, "port": 1}]})),
            "spec.ports[0].protocol: Invalid value: 47: has no ports: use TCP, UDP or SCTP",
        ),
        (
            of(Kind::Profile, "p", &json!({"labelsToApply": {"a": "b c"}})),
            "spec.labelsToApply[a]: Invalid value: \"b c\": must be empty or consist of letters, digits, '-', '_' and '.', and start and end with a letter or digit (such as 'my-value')",
        ),
        (cluster(&json!({"priority": 1001})), "spec.priority: Invalid value: 1001: must be between 0 and 1000"),
        (
            cluster(&json!({"tier": "Default"})),
            "spec.tier: Unsupported value: \"Default\": supported values: \"Admin\", \"Baseline\"",
        ),
        (
            cluster(&json!({"subject": {"namespaces": {}, "pods": {}}})),
            "spec.subject: Invalid value: {\"namespaces\":{},\"pods\":{}}: must have exactly one of the fields namespaces, pods",
        ),
        (
            cluster(&json!({"subject": {}})),
            "spec.subject: Invalid value: {}: must have exactly one of the fields namespaces, pods",
        ),
        (
            cluster(&json!({"subject": {"namespace": {}}})),
            "spec.subject.namespace: unknown field: did you mean \"namespaces\"?",
        ),
        (
            cluster(&json!({"subject": {"pods": {"podSelector": {"matchLabels": {"a": "b c"}}}}})),
            "spec.subject.pods.podSelector.matchLabels[a]: Invalid value: \"b c\": must be empty or consist of letters, digits, '-', '_' and '.', and start and end with a letter or digit (such as 'my-value')",
        ),
        (
            cluster_egress(&json!({"to": []})),
            "spec.egress[0].to: Required value: must have one peer at least: `namespaces: {}` is every pod",
        ),
        (
            cluster_egress(&json!({"action": "Allow"})),
            "spec.egress[0].action: Unsupported value: \"Allow\": supported values: \"Accept\", \"Deny\", \"Pass\"",
        ),
        (
            cluster_egress(&json!({"to": [{"nodes": {}}]})),
            "spec.egress[0].to[0].nodes: Forbidden: nodes as peers are not supported by this version: use `networks` with the nodes' addresses",
        ),
        (
            cluster_egress(&json!({"action": "Deny", "to": [{"domainNames": ["example.com"]}]})),
            "spec.egress[0].to[0].domainNames: Forbidden: may be set in Accept rules only: deny networks in a rule behind it instead",
        ),
        (
            cluster_egress(&json!({"to": [{"domainNames": ["*"]}]})),
            "spec.egress[0].to[0].domainNames[0]: Invalid value: \"*\": must be a domain name such as 'example.com', or '*.example.com' for all names below it",
        ),
        (
            cluster(&json!({"ingress": [{"action": "Deny", "from": [{"networks": ["10.0.0.0/8"]}]}]})),
            "spec.ingress[0].from[0].networks: Forbidden: may be set in egress rules only: use namespaces or pods",
        ),
        (
            cluster_egress(&json!({"protocols": [{"tcp": {}}]})),
            "spec.egress[0].protocols[0].tcp.destinationPort: Required value: this field must be set",
        ),
        (
            cluster_egress(&json!({"protocols": [{"tcp": {"destinationPort": {"number": 0}}}]})),
            "spec.egress[0].protocols[0].tcp.destinationPort.number: Invalid value: 0: must be between 1 and 65535, inclusive",
        ),
        (
            cluster_egress(&json!({"protocols": [{"udp": {"destinationPort": {"range": {"start": 2, "end": 2}}}}]})),
            "spec.egress[0].protocols[0].udp.destinationPort.range.end: Invalid value: 2: must be greater than `start` (2); one port is a `number`",
        ),
        (
            cluster_egress(&json!({"to": [{"networks": ["::/0"]}], "protocols": [{"destinationNamedPort": "dns"}]})),
            "spec.egress[0].protocols[0].destinationNamedPort: Invalid value: \"dns\": only pods have ports with names: make a rule without `networks` and `domainNames`",
        ),
        (
            cluster_egress(&json!({"to": vec![json!({"namespaces": {}}); 26]})),
            "spec.egress[0].to: Too many: 26: must have at most 25 items",
        ),
        (
            cluster_egress(&json!({"name": "x".repeat(101)})),
            &format!(
                "spec.egress[0].name: Invalid value: \"{}\": may not be longer than 100 characters",
                "x".repeat(101)
            ),
        ),
    ] {
        let errors = errors(&value);
        if errors != [want] {
            wrong.push(format!("{value}\n  is    {errors:?}\n  not   {want}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn types_are_defaulted_as_calico_does() {
    use PolicyType::{Egress, Ingress};

    let rule = json!([{"action": "Allow"}]);
    for (spec, want) in [
        (json!({}), vec![Ingress]),
        (json!({"ingress": rule}), vec![Ingress]),
        (json!({"egress": rule}), vec![Egress]),
        (json!({"ingress": rule, "egress": rule}), vec![Ingress, Egress]),
        (json!({"egress": rule, "types": ["Ingress"]}), vec![Ingress]),
        (json!({"types": null, "egress": rule}), vec![Egress]),
    ] {
        for value in [namespaced(&spec), global(&spec), staged(&spec)] {
            assert_eq!(spec_of(&value).types, want, "{value}");
        }
    }
    // Kubernetes' policies always govern ingress, unless they say otherwise.
    let kubernetes = of(Kind::StagedKubernetesNetworkPolicy, "p", &json!({"podSelector": {}, "egress": [{}]}));
    let Object::StagedKubernetesNetworkPolicy(policy) = object(&kubernetes) else { panic!() };
    assert_eq!(policy.spec.policy_types, [Ingress, Egress]);
    assert_eq!(policy.spec.policy().policy_types, [Ingress, Egress]);
    assert_eq!(policy.spec.staged_action, Some(StagedAction::Set));
}

#[test]
fn what_is_left_out_has_calicos_defaults() {
    let spec = spec_of(&namespaced(&json!({"tier": "", "selector": "", "serviceAccountSelector": ""})));
    assert_eq!(spec, PolicySpec { types: vec![PolicyType::Ingress], ..PolicySpec::default() });
    assert_eq!((spec.tier.as_str(), spec.order, spec.staged_action), ("default", None, None));
    assert!(spec.selector.is_all() && spec.service_account_selector.is_none());
    assert_eq!(object(&namespaced(&json!({}))).metadata().namespace.as_deref(), Some("default"));
    assert_eq!(object(&global(&json!({}))).metadata().namespace, None);
    assert_eq!(spec_of(&staged(&json!({"stagedAction": ""}))).staged_action, Some(StagedAction::Set));
    let deletes = spec_of(&staged(&json!({"stagedAction": "Delete", "tier": "t"})));
    assert_eq!((deletes.staged_action, deletes.types.len()), (Some(StagedAction::Delete), 0));
    for (name, order, action) in [
        ("default", Some(1_000_000.0), TierAction::Deny),
        ("kube-admin", Some(1_000.0), TierAction::Pass),
        ("kube-baseline", Some(10_000_000.0), TierAction::Pass),
        ("security", None, TierAction::Deny),
    ] {
        let Object::Tier(tier) = object(&tier(name, &json!({}))) else { panic!() };
        assert_eq!((tier.spec.order, tier.spec.default_action), (order, action), "{name}");
    }
    let Object::Tier(no_spec) =
        object(&json!({"apiVersion": "projectcalico.org/v3", "kind": "Tier", "metadata": {"name": "t"}}))
    else {
        panic!()
    };
    assert_eq!(no_spec.spec.default_action, TierAction::Deny);
}

#[test]
fn rules_are_read_whole() {
    let spec = spec_of(&namespaced(&json!({"order": -1.5, "ingress": [
        {"action": "Deny", "protocol": "tcp", "notProtocol": 47, "ipVersion": 6,
         "source": {"nets": ["fd00::/8"], "ports": [80, "81", "1024:65535", "http"], "selector": "  ", "namespaceSelector": "global()"},
         "destination": {"selector": "", "serviceAccounts": {"names": ["a"], "selector": ""}}},
        {"action": "Pass", "source": {"services": {"name": "s", "namespace": ""}}},
    ]})));
    assert_eq!(spec.order, Some(-1.5));
    let rule = &spec.ingress[0];
    assert_eq!((rule.action, rule.ip_version), (Action::Deny, Some(IpVersion::V6)));
    assert_eq!((rule.protocol, rule.not_protocol), (Some(RuleProtocol::TCP), RuleProtocol::from_number(47)));
    let ports = [(80, 80), (81, 81), (1024, 65535)].map(|(first, last)| RulePort::Range(first, last));
    assert_eq!(rule.source.ports[..3], ports);
    assert_eq!(rule.source.ports[3], RulePort::Named("http".to_owned()));
    // Only the empty text is no selector: white space selects every endpoint, and no stranger.
    assert!(rule.source.selector.as_ref().is_some_and(tortie_api::selector::Selector::is_all));
    assert!(rule.source.namespace_selector.as_ref().is_some_and(tortie_api::selector::Selector::is_global));
    assert_eq!(rule.destination.selector, None);
    let accounts = rule.destination.service_accounts.as_ref().unwrap();
    assert_eq!((accounts.names.as_slice(), &accounts.selector), (["a".to_owned()].as_slice(), &None));
    assert_eq!(spec.ingress[1].source.services.as_ref().unwrap().namespace, None);
    assert_eq!(spec.ingress[1].destination, EntityRule::default());
    assert_eq!(PolicyRule::of(Action::Pass).source, EntityRule::default());
    assert!(spec.governs(PolicyType::Ingress) && !spec.governs(PolicyType::Egress));
    assert_eq!((spec.rules(PolicyType::Ingress).len(), spec.rules(PolicyType::Egress).len()), (2, 0));
}

#[test]
fn protocols_are_the_same_by_name_and_by_number() {
    for (name, number) in [("TCP", 6), ("UDP", 17), ("ICMP", 1), ("ICMPv6", 58), ("SCTP", 132), ("UDPLite", 136)] {
        let protocol: RuleProtocol = name.parse().unwrap();
        assert_eq!(protocol.number(), number);
        assert_eq!(serde_json::to_value(protocol).unwrap(), json!(name));
        for text in [json!(number), json!(number.to_string()), json!(name.to_lowercase()), json!(name.to_uppercase())] {
            assert_eq!(serde_json::from_value::<RuleProtocol>(text).unwrap(), protocol);
        }
    }
    let gre = RuleProtocol::from_number(47).unwrap();
    assert_eq!((serde_json::to_value(gre).unwrap(), gre.to_string(), gre.name()), (json!(47), "47".to_owned(), None));
    assert_eq!(RuleProtocol::from(Protocol::Sctp), RuleProtocol::SCTP);
    for text in [json!(256), json!(-1), json!(0), json!("256"), json!(""), json!(1.5), json!(true), json!("TCP ")] {
        assert!(serde_json::from_value::<RuleProtocol>(text.clone()).is_err(), "{text}");
    }
}

#[test]
fn cluster_network_policies_are_read_whole() {
    let value = of(
        Kind::ClusterNetworkPolicy,
        "c",
        &json!({"tier": "Baseline", "priority": 1000, "subject": {"pods": {"podSelector": {"matchLabels": {"a": "b"}}}}, "egress": [{
            "action": "Accept",
            "to": [{"networks": ["10.0.0.1/8", "::/0"]}, {"pods": {"namespaceSelector": {}}}],
            "protocols": [{"sctp": {"destinationPort": {"number": 9}}}, {"udp": {"destinationPort": {"range": {"start": 1, "end": 65535}}}}]
        }], "ingress": [{"action": "Deny", "from": [{"namespaces": {}}], "protocols": [{"destinationNamedPort": "dns"}]}]}),
    );
    let Object::ClusterNetworkPolicy(policy) = object(&value) else { panic!() };
    assert_eq!(policy.spec.tier.calico_tier(), "kube-baseline");
    let rule = &policy.spec.egress[0];
    assert_eq!(rule.action.calico_action(), Action::Allow);
    let networks = ["10.0.0.0/8", "::/0"].map(|net| net.parse().unwrap()).to_vec();
    assert_eq!(rule.to[0], ClusterNetworkPolicyPeer::Networks(networks));
    let ports: Vec<_> = rule.protocols.iter().map(ClusterNetworkPolicyProtocol::ports).collect();
    assert_eq!(ports, [Some((Protocol::Sctp, 9, 9)), Some((Protocol::Udp, 1, 65535))]);
    assert_eq!(policy.spec.ingress[0].protocols[0].ports(), None);
}

#[test]
fn slices_keep_the_addresses_of_their_family() {
    let slice = |family: &str, addresses: Value| {
        let value = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "web-x", "namespace": "n", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": family, "endpoints": [{"addresses": addresses, "hostname": "h"}], "ports": [{"port": 80}]});
        match object(&value) {
            Object::EndpointSlice(slice) => slice,
            other => panic!("{other:?}"),
        }
    };
    let ipv4 = slice("IPv4", json!(["10.0.0.1", "fd00::1", "nonsense"]));
    assert_eq!(ipv4.service(), Some("web"));
    assert_eq!(ipv4.endpoints[0].addresses, ["10.0.0.1".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(
        (ipv4.ports[0].protocol, ipv4.ports[0].port, ipv4.ports[0].name.as_str()),
        (Protocol::Tcp, Some(80), "")
    );
    assert_eq!(slice("FQDN", json!(["example.com"])).endpoints, []);
}

#[test]
fn orders_go_from_low_to_high_and_none_comes_last() {
    let mut orders = [None, Some(f64::MAX), Some(0.0), Some(-1e300), Some(1000.0), Some(-0.0)];
    orders.sort_by(|a, b| compare_orders(*a, *b));
    assert_eq!(orders, [Some(-1e300), Some(0.0), Some(0.0), Some(1000.0), Some(f64::MAX), None]);
    assert!(compare_orders(Some(0.0), Some(-0.0)).is_eq() && compare_orders(Some(f64::INFINITY), None).is_lt());
}

#[test]
fn all_errors_of_an_object_are_told() {
    let value = json!({"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy", "metadata": {"name": "A"}, "spec": {
        "types": ["Egress", "Egress"], "preDNAT": true, "egress": [
            {"action": "Allow", "source": {"ports": [0], "services": {}, "nets": ["10.0.0.0/8"]}}]}});
    let errors = errors(&value);
    for part in [
        "metadata.name:",
        "spec.types[1]: Duplicate",
        "spec.types: Forbidden",
        "spec.egress: Forbidden",
        "spec.applyOnForward:",
        "spec.egress[0].source.ports[0]:",
        "spec.egress[0].source.services.name:",
        "spec.egress[0].source.services.namespace:",
        "spec.egress[0].source.services: Forbidden",
        "spec.egress[0].source.nets: Forbidden",
    ] {
        assert!(errors.iter().any(|error| error.starts_with(part)), "{part} is not in {errors:?}");
    }
}
