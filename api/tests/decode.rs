//! What the API server would say to an object, said here: defaults, nulls, unknown fields, and every rule of validation.
#![allow(missing_docs, reason = "a test")]

use serde_json::{Value, json};
use tortie_api::calico::AffinityState;
use tortie_api::k8s::PolicyType::{Egress, Ingress};
use tortie_api::k8s::{PortOrName, Protocol};
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

fn policy(spec: &Value) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "p", "namespace": "x"}, "spec": spec})
}

fn ingress(rule: &Value) -> Value {
    policy(&json!({"podSelector": {}, "ingress": [rule]}))
}

fn port(port: &Value) -> Value {
    ingress(&json!({"ports": [{}, port]}))
}

fn peer(peer: &Value) -> Value {
    ingress(&json!({"from": [peer]}))
}

fn selector(selector: &Value) -> Value {
    policy(&json!({"podSelector": selector}))
}

fn pool(spec: &Value) -> Value {
    json!({"apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": {"name": "pool"}, "spec": spec})
}

fn bgp(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "projectcalico.org/v3", "kind": "BGPConfiguration", "metadata": {"name": name}, "spec": spec})
}

fn pod(rest: &Value) -> Value {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}});
    pod.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    pod
}

fn policy_of(value: &Value) -> tortie_api::k8s::NetworkPolicySpec {
    match object(value) {
        Object::NetworkPolicy(policy) => policy.spec,
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_error_names_the_field_the_value_and_the_remedy() {
    for (value, want) in [
        (
            port(&json!({"port": 80, "endPort": 79})),
            "spec.ingress[0].ports[1].endPort: Invalid value: 79: must be greater than or equal to port (80)",
        ),
        (
            port(&json!({"port": 80, "endPort": 70})),
            "spec.ingress[0].ports[1].endPort: Invalid value: 70: must be greater than or equal to port (80)",
        ),
        (
            port(&json!({"port": 80, "endPort": 65536})),
            "spec.ingress[0].ports[1].endPort: Invalid value: 65536: must be a whole number between 0 and 65535",
        ),
        (
            port(&json!({"port": "http", "endPort": 90})),
            "spec.ingress[0].ports[1].endPort: Invalid value: 90: may not be specified when `port` is a name: write its number",
        ),
        (
            port(&json!({"endPort": 90})),
            "spec.ingress[0].ports[1].endPort: Invalid value: 90: may not be specified when `port` is not: add the first port of the range",
        ),
        (
            port(&json!({"port": 0})),
            "spec.ingress[0].ports[1].port: Invalid value: 0: must be between 1 and 65535, inclusive",
        ),
        (
            port(&json!({"port": 65536})),
            "spec.ingress[0].ports[1].port: Invalid value: 65536: must be between 1 and 65535, inclusive",
        ),
        (
            port(&json!({"port": -1})),
            "spec.ingress[0].ports[1].port: Invalid value: -1: must be between 1 and 65535, inclusive",
        ),
        (
            port(&json!({"port": 80.5})),
            "spec.ingress[0].ports[1].port: Invalid value: 80.5: must be a port number or the name of a port",
        ),
        (
            port(&json!({"port": true})),
            "spec.ingress[0].ports[1].port: Invalid value: true: must be a port number or the name of a port",
        ),
        (
            port(&json!({"port": [80]})),
            "spec.ingress[0].ports[1].port: Invalid value: [80]: must be a port number or the name of a port",
        ),
        (
            port(&json!({"port": "80"})),
            "spec.ingress[0].ports[1].port: Invalid value: \"80\": a string is the name of a port and must contain at least one letter (IANA_SVC_NAME): write a port number without quotes",
        ),
        (
            port(&json!({"port": "HTTP"})),
            "spec.ingress[0].ports[1].port: Invalid value: \"HTTP\": must contain only lower case letters, digits and '-' (IANA_SVC_NAME)",
        ),
        (
            port(&json!({"protocol": "ICMP"})),
            "spec.ingress[0].ports[1].protocol: Unsupported value: \"ICMP\": supported values: \"TCP\", \"UDP\", \"SCTP\"",
        ),
        (port(&json!({"prot": "TCP"})), "spec.ingress[0].ports[1].prot: unknown field: did you mean \"port\"?"),
        (
            peer(&json!({})),
            "spec.ingress[0].from[0]: Required value: must specify a peer: podSelector, namespaceSelector or ipBlock ({} as a selector selects all)",
        ),
        (
            peer(&json!({"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}})),
            "spec.ingress[0].from[0]: Forbidden: may not specify both ipBlock and another peer: make two peers",
        ),
        (
            peer(&json!({"ipBlock": {"cidr": "10.0.0.0"}})),
            "spec.ingress[0].from[0].ipBlock.cidr: Invalid value: \"10.0.0.0\": must be a valid CIDR, such as 10.0.0.0/8 or fd00::/64",
        ),
        (
            peer(&json!({"ipBlock": {"cidr": "10.0.0.0/33"}})),
            "spec.ingress[0].from[0].ipBlock.cidr: Invalid value: \"10.0.0.0/33\": must be a valid CIDR, such as 10.0.0.0/8 or fd00::/64",
        ),
        (peer(&json!({"ipBlock": {}})), "spec.ingress[0].from[0].ipBlock.cidr: Required value: this field must be set"),
        (
            peer(&json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}})),
            "spec.ingress[0].from[0].ipBlock.except[0]: Invalid value: \"10.0.0.0/8\": must be a strict subset of `cidr` (10.0.0.0/8)",
        ),
        (
            peer(&json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "fd00::/64"]}})),
            "spec.ingress[0].from[0].ipBlock.except[1]: Invalid value: \"fd00::/64\": must be a strict subset of `cidr` (10.0.0.0/8)",
        ),
        (
            peer(&json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["x"]}})),
            "spec.ingress[0].from[0].ipBlock.except[0]: Invalid value: \"x\": must be a valid CIDR, such as 10.0.0.0/8 or fd00::/64",
        ),
        (
            selector(&json!({"matchLabels": {"a b": "c"}})),
            "spec.podSelector.matchLabels: Invalid value: \"a b\": name part must consist of letters, digits, '-', '_' and '.', and start and end with a letter or digit (such as 'app' or 'example.com/app')",
        ),
        (
            selector(&json!({"matchLabels": {"a": 10}})),
            "spec.podSelector.matchLabels[a]: Invalid value: 10: must be a string: put it in quotes",
        ),
        (
            selector(&json!({"matchLabels": {"a": "-"}})),
            "spec.podSelector.matchLabels[a]: Invalid value: \"-\": must be empty or consist of letters, digits, '-', '_' and '.', and start and end with a letter or digit (such as 'my-value')",
        ),
        (
            selector(&json!({"matchExpressions": [{"key": "a", "operator": "In"}]})),
            "spec.podSelector.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
        ),
        (
            selector(&json!({"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]})),
            "spec.podSelector.matchExpressions[0].values: Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
        ),
        (
            selector(&json!({"matchExpressions": [{"key": "a", "operator": "in", "values": ["b"]}]})),
            "spec.podSelector.matchExpressions[0].operator: Unsupported value: \"in\": supported values: \"In\", \"NotIn\", \"Exists\", \"DoesNotExist\"",
        ),
        (
            selector(&json!({"matchExpressions": [{"key": "a"}]})),
            "spec.podSelector.matchExpressions[0].operator: Required value: this field must be set",
        ),
        (
            selector(&json!({"matchLabel": {"a": "b"}})),
            "spec.podSelector.matchLabel: unknown field: did you mean \"matchLabels\"?",
        ),
        (policy(&json!({"ingres": []})), "spec.ingres: unknown field: did you mean \"ingress\"?"),
        (policy(&json!({"ingress": {}})), "spec.ingress: Invalid value: {}: must be a list"),
        (policy(&json!([])), "spec: Invalid value: []: must be a map of fields"),
        (
            policy(&json!({"policyTypes": ["ingress"]})),
            "spec.policyTypes[0]: Unsupported value: \"ingress\": supported values: \"Ingress\", \"Egress\"",
        ),
        (
            policy(&json!({"policyTypes": ["Ingress", "Egress", "Egress"]})),
            "spec.policyTypes: Invalid value: [\"Ingress\",\"Egress\",\"Egress\"]: may not specify more than two policyTypes",
        ),
        (
            json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "p", "lables": {}}}),
            "metadata.lables: unknown field: did you mean \"labels\"?",
        ),
        (
            json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "p"}, "spce": {}}),
            "spce: unknown field: did you mean \"spec\"?",
        ),
        (
            json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "P"}}),
            "metadata.name: Invalid value: \"P\": must consist of lower case letters, digits, '-' and '.', and each part must start and end with a letter or digit (RFC 1123 subdomain, such as 'example.com')",
        ),
        (
            json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "p", "namespace": "a.b"}}),
            "metadata.namespace: Invalid value: \"a.b\": must consist of lower case letters, digits and '-', and start and end with a letter or digit (RFC 1123 label, such as 'my-name')",
        ),
        (
            json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy"}),
            "metadata: Required value: this field must be set",
        ),
        (
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a.b"}}),
            "metadata.name: Invalid value: \"a.b\": must consist of lower case letters, digits and '-', and start and end with a letter or digit (RFC 1123 label, such as 'my-name')",
        ),
        (
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "p-"}}),
            "metadata.name: Required value: name must be set; generateName is not supported here",
        ),
        (
            json!({"apiVersion": "v2", "kind": "Pod", "metadata": {"name": "p"}}),
            "apiVersion: Unsupported value: \"v2\": supported values: \"v1\"",
        ),
        (
            json!({"apiVersion": "extensions/v1beta1", "kind": "NetworkPolicy", "metadata": {"name": "p"}}),
            "apiVersion: Unsupported value: \"extensions/v1beta1\": supported values: \"networking.k8s.io/v1\", \"projectcalico.org/v3\"",
        ),
        (json!({"kind": "Pod"}), "apiVersion: Required value: such as v1 or networking.k8s.io/v1"),
        (json!({"apiVersion": "v1", "kind": 3}), "kind: Invalid value: 3: must be a string"),
        (json!("text"), "Invalid value: \"text\": must be an object with apiVersion and kind"),
        (
            pool(&json!({"cidr": "10.0.0.0/16", "blockSize": 19})),
            "spec.blockSize: Invalid value: 19: must be between 20 and 32",
        ),
        (
            pool(&json!({"cidr": "fd00::/64", "blockSize": 26})),
            "spec.blockSize: Invalid value: 26: must be between 116 and 128",
        ),
        (
            pool(&json!({"cidr": "10.0.0.0/28"})),
            "spec.blockSize: Invalid value: 26: a block must fit into the pool (10.0.0.0/28): use a value from 28 on",
        ),
        (
            pool(&json!({"cidr": "10.0.0.0/16", "nodeSelector": "rack = 'a'"})),
            "spec.nodeSelector: Invalid value: \"rack = 'a'\": must be a selector such as has(key) && key == 'value': expected ==, !=, in, not in, contains, starts with or ends with at character 6",
        ),
        (
            pool(&json!({"cidr": "10.0.0.0/16", "namespaceSelector": "has(a) || global()"})),
            "spec.namespaceSelector: Invalid value: \"has(a) || global()\": must not have global(), which is for policies: write what labels must be",
        ),
        (
            pool(&json!({"cidr": "10.0.0.0/16", "allowedUses": ["Tunnel"], "namespaceSelector": "has(a)"})),
            "spec.namespaceSelector: Invalid value: \"has(a)\": must be all() in a pool for Tunnel, which has no use for it",
        ),
        (
            pool(&json!({"cidr": "fd00::/64", "ipipMode": "Always"})),
            "spec.ipipMode: Invalid value: \"Always\": IPIP carries IPv4 only: use vxlanMode, or \"Never\"",
        ),
        (
            pool(&json!({"cidr": "10.0.0.0/16", "ipipMode": "Always", "vxlanMode": "CrossSubnet"})),
            "spec.vxlanMode: Invalid value: \"CrossSubnet\": may not be set beside ipipMode: make one of them \"Never\"",
        ),
        (
            pool(&json!({"cidr": "10.0.0.0/16", "vxlanMode": "Always", "allowedUses": ["LoadBalancer"]})),
            "spec.vxlanMode: Invalid value: \"Always\": must be \"Never\" in a pool for LoadBalancer: no pod has its addresses",
        ),
        (
            pool(&json!({"cidr": "10.0.0.0/16", "vxlanMode": "never"})),
            "spec.vxlanMode: Unsupported value: \"never\": supported values: \"Never\", \"Always\", \"CrossSubnet\"",
        ),
        (
            pool(&json!({"cidr": "10.0.0.0/16", "natOutgoin": true})),
            "spec.natOutgoin: unknown field: did you mean \"natOutgoing\"?",
        ),
        (
            pool(&json!({"cidr": "169.254.0.0/20"})),
            "spec.cidr: Invalid value: \"169.254.0.0/20\": must not overlap with the IPv4 link-local range 169.254.0.0/16",
        ),
        (
            bgp("default", &json!({"listenPort": 0})),
            "spec.listenPort: Invalid value: 0: must be between 1 and 65535, inclusive",
        ),
        (
            bgp("default", &json!({"asNumber": 4_294_967_296_u64})),
            "spec.asNumber: Invalid value: 4294967296: must be between 0 and 4294967295",
        ),
        (
            bgp("default", &json!({"asNumber": 1.1})),
            "spec.asNumber: Invalid value: 1.1: the dotted form of an AS number must be in quotes",
        ),
        (
            bgp("default", &json!({"serviceExternalIPs": [{"cidr": "10.0.0.0/8"}, {"cidr": "10.0.0.300/8"}]})),
            "spec.serviceExternalIPs[1].cidr: Invalid value: \"10.0.0.300/8\": must be a valid CIDR, such as 10.0.0.0/8 or fd00::/64",
        ),
        (
            bgp("node.n1", &json!({"asNumber": 65000})),
            "spec.asNumber: Forbidden: may only be set in the BGPConfiguration \"default\"",
        ),
        (
            bgp("other", &json!({})),
            "metadata.name: Invalid value: \"other\": must be \"default\", or \"node.NAME\" for one node",
        ),
        (
            pod(&json!({"spec": {"containers": [{"ports": [{"containerPort": 70000}]}]}})),
            "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be a whole number between 0 and 65535",
        ),
        (
            pod(&json!({"spec": {"containers": [{"ports": [{"containerPort": 0}]}]}})),
            "spec.containers[0].ports[0].containerPort: Invalid value: 0: must be between 1 and 65535, inclusive",
        ),
        (
            pod(
                &json!({"spec": {"containers": [{"ports": [{"name": "a", "containerPort": 1}, {"name": "a", "containerPort": 2}]}]}}),
            ),
            "spec.containers[0].ports[1].name: Duplicate value: \"a\": remove or rename one of them",
        ),
        (
            pod(&json!({"metadata": {"name": "web", "annotations": {"cni.projectcalico.org/ipAddrs": "10.0.0.1"}}})),
            "metadata.annotations[cni.projectcalico.org/ipAddrs]: Invalid value: \"10.0.0.1\": must be a JSON list of IP addresses, at most one of each family, such as [\"10.244.0.10\"]",
        ),
        (
            pod(&json!({"status": {"podIPs": [{"ip": "10.0.0"}]}})),
            "status.podIPs[0].ip: Invalid value: \"10.0.0\": must be an IP address, such as 10.244.0.10 or fd00::10",
        ),
    ] {
        assert_eq!(errors(&value), [want], "{value}");
    }
}

#[test]
fn all_errors_of_an_object_are_told() {
    let value = ingress(&json!({"ports": [{"port": 0}, {"port": "UP"}], "from": [{}]}));
    assert_eq!(errors(&value).len(), 3);
}

#[test]
fn defaults_are_the_api_servers() {
    let Object::Namespace(namespace) = object(
        &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x", "labels": {"kubernetes.io/metadata.name": "wrong"}}}),
    ) else {
        panic!()
    };
    assert_eq!(namespace.metadata.labels["kubernetes.io/metadata.name"], "x");
    assert_eq!(object(&pod(&json!({}))).metadata().namespace.as_deref(), Some("default"));
    assert_eq!(
        object(&pod(&json!({"metadata": {"name": "a", "namespace": ""}}))).metadata().namespace.as_deref(),
        Some("default")
    );
    assert_eq!(object(&pool(&json!({"cidr": "10.0.0.0/16"}))).metadata().namespace, None);

    for (spec, want) in [
        (json!({}), vec![Ingress]),
        (json!({"egress": [{}]}), vec![Ingress, Egress]),
        (json!({"egress": []}), vec![Ingress]),
        (json!({"policyTypes": []}), vec![Ingress]),
        (json!({"policyTypes": null, "egress": [{}]}), vec![Ingress, Egress]),
        (json!({"policyTypes": ["Egress"]}), vec![Egress]),
        (json!({"policyTypes": ["Ingress"], "egress": [{}]}), vec![Ingress]),
    ] {
        assert_eq!(policy_of(&policy(&spec)).policy_types, want, "{spec}");
    }
    let spec = policy_of(&port(&json!({"port": "http"})));
    let ports = &spec.ingress[0].ports;
    assert_eq!((ports[0].protocol, &ports[0].port), (Protocol::Tcp, &None));
    assert_eq!(ports[1].port, Some(PortOrName::Name("http".to_owned())));
    let spec = policy_of(&peer(&json!({"ipBlock": {"cidr": "10.1.2.3/8", "except": ["10.1.2.3/16"]}})));
    let block = spec.ingress[0].from[0].ip_block.as_ref().unwrap();
    assert_eq!(
        (block.cidr.to_string(), block.except[0].to_string()),
        ("10.0.0.0/8".to_owned(), "10.1.0.0/16".to_owned())
    );
    let spec = policy_of(&peer(&json!({"ipBlock": {"cidr": "::ffff:10.0.0.0/104"}})));
    assert_eq!(spec.ingress[0].from[0].ip_block.as_ref().unwrap().cidr.to_string(), "10.0.0.0/8");
}

#[test]
fn a_null_is_the_zero_value_of_its_type() {
    let spec =
        policy_of(&policy(&json!({"podSelector": null, "ingress": null, "egress": [null], "policyTypes": ["Egress"]})));
    assert!(spec.ingress.is_empty());
    assert_eq!(spec.egress, [tortie_api::k8s::NetworkPolicyEgressRule::default()]);
    let spec = policy_of(&selector(&json!({"matchLabels": {"a": null}, "matchExpressions": null})));
    assert_eq!(spec.pod_selector.match_labels["a"], "");
    let spec = policy_of(&port(&json!({"port": null, "protocol": null, "endPort": null})));
    assert_eq!(spec.ingress[0].ports[1], spec.ingress[0].ports[0]);
    // A null peer is an empty one, which is no peer; nulls among unknown fields are no fields.
    assert!(errors(&peer(&Value::Null))[0].contains("must specify a peer"));
    policy_of(&policy(&json!({"ingres": null})));
    let object = object(
        &json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "spec": null, "status": {}, "metadata": {"name": "p", "labels": null, "creationTimestamp": null, "managedFields": []}}),
    );
    assert!(object.metadata().labels.is_empty());
    let Object::Pod(pod) =
        self::object(&pod(&json!({"spec": {"hostNetwork": null, "containers": null}, "status": null})))
    else {
        panic!()
    };
    assert!(!pod.spec.host_network && pod.is_endpoint());
}

#[test]
fn kinds_are_told_apart() {
    for (api_version, kind) in [("v1", "Service"), ("v1", "Endpoints")] {
        assert_eq!(decode(&json!({"apiVersion": api_version, "kind": kind, "anything": 1})), Ok(Decoded::Ignored));
    }
    for (api_version, kind, want) in [
        ("apps/v1", "Deployment", "unknown kind Deployment of apps/v1: it has no effect"),
        ("v1", "Pods", "unknown kind Pods of v1: did you mean Pod?"),
        // Other projects have kinds of the same names.
        ("crd.antrea.io/v1beta1", "Tier", "unknown kind Tier of crd.antrea.io/v1beta1: it has no effect"),
        (
            "policy.networking.k8s.io/v1alpha1",
            "AdminNetworkPolicy",
            "unknown kind AdminNetworkPolicy of policy.networking.k8s.io/v1alpha1: ClusterNetworkPolicy took its place",
        ),
    ] {
        let decoded = decode(&json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "x"}}));
        assert_eq!(decoded, Ok(Decoded::UnknownKind(want.to_owned())));
    }
    // Two kinds are called NetworkPolicy; Calico's kinds have two groups.
    for (api_version, want) in [
        ("networking.k8s.io/v1", Kind::NetworkPolicy),
        ("projectcalico.org/v3", Kind::CalicoNetworkPolicy),
        ("crd.projectcalico.org/v1", Kind::CalicoNetworkPolicy),
    ] {
        let read =
            object(&json!({"apiVersion": api_version, "kind": "NetworkPolicy", "metadata": {"name": "x"}, "spec": {}}));
        assert_eq!(read.kind(), want);
        let written = serde_json::to_value(&read).unwrap();
        assert_eq!((&written["apiVersion"], &written["kind"]), (&json!(want.api_version()), &json!("NetworkPolicy")));
    }
    // A slip in the group or the version is no other kind.
    for (api_version, kind) in [
        ("projectcalico/v3", "Tier"),
        ("projectcalico.org/v1", "Tier"),
        ("crd.projectcalico.org/v3", "Tier"),
        ("policy.networking.k8s.io/v1alpha1", "ClusterNetworkPolicy"),
        ("networking.k8s.oi/v1", "NetworkPolicy"),
        ("v1", "NetworkPolicy"),
    ] {
        let errors = errors(&json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "x"}}));
        assert!(errors[0].starts_with("apiVersion: Unsupported value"), "{api_version}: {errors:?}");
    }
    for (text, kind) in [
        ("pods", Kind::Pod),
        ("NetPol", Kind::NetworkPolicy),
        ("ippool", Kind::IpPool),
        ("IPAMBlocks", Kind::IpamBlock),
        ("affinities", Kind::BlockAffinity),
        ("ipamhandle", Kind::IpamHandle),
        ("ipamconfig", Kind::IpamConfiguration),
        ("ipreservation", Kind::IpReservation),
        ("bgpp", Kind::BgpPeer),
        ("BGPFilters", Kind::BgpFilter),
        ("clusterinfo", Kind::ClusterInformation),
        ("caliconodestatus", Kind::CalicoNodeStatus),
        ("kubecontrollersconfig", Kind::KubeControllersConfiguration),
        ("felixconfig", Kind::FelixConfiguration),
        ("FelixConfigurations", Kind::FelixConfiguration),
        ("networkpolicy", Kind::NetworkPolicy),
        ("networkpolicies.networking.k8s.io", Kind::NetworkPolicy),
        ("networkpolicies.v1.networking.k8s.io", Kind::NetworkPolicy),
        ("networkpolicies.projectcalico.org", Kind::CalicoNetworkPolicy),
        ("NetworkPolicy.v3.projectcalico.org", Kind::CalicoNetworkPolicy),
        ("networkpolicies.crd.projectcalico.org", Kind::CalicoNetworkPolicy),
        ("np.projectcalico.org", Kind::CalicoNetworkPolicy),
        ("caliconetworkpolicy", Kind::CalicoNetworkPolicy),
        ("cnp", Kind::CalicoNetworkPolicy),
        ("gnp", Kind::GlobalNetworkPolicy),
        ("tiers.projectcalico.org", Kind::Tier),
        ("clusternetworkpolicies.policy.networking.k8s.io", Kind::ClusterNetworkPolicy),
        ("hep", Kind::HostEndpoint),
        ("sa", Kind::ServiceAccount),
    ] {
        assert_eq!(text.parse(), Ok(kind), "{text}");
    }
    for text in ["networkpolicies.example.com", "pods.v1", "tiers.v1.projectcalico.org", ".projectcalico.org", "."] {
        assert!(text.parse::<Kind>().is_err(), "{text}");
    }
    // No name means two kinds, and every kind is found by its own.
    for kind in Kind::ALL {
        assert_eq!(kind.as_str().parse(), Ok(kind));
        assert_eq!(format!("{}s", kind.as_str()).replace("ys", "ies").replace("uss", "uses").parse(), Ok(kind));
        assert_eq!(Kind::of_manifest(kind.api_version(), kind.manifest_kind()), Some(kind));
        assert_eq!(serde_json::to_value(kind).unwrap(), json!(kind.as_str()));
    }
    assert!("deployment".parse::<Kind>().unwrap_err().contains("NetworkPolicy"));
    assert!("globalnetworkpolcy".parse::<Kind>().unwrap_err().contains("did you mean GlobalNetworkPolicy?"));
}

#[test]
fn an_object_survives_being_written_and_read() {
    for value in [
        ingress(
            &json!({"ports": [{"port": 80, "endPort": 90, "protocol": "UDP"}, {"port": "dns"}], "from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}, {"podSelector": {}, "namespaceSelector": {"matchLabels": {"a": "b"}}}]}),
        ),
        policy(
            &json!({"egress": [{}], "podSelector": {"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["b"]}]}}),
        ),
        pod(
            &json!({"spec": {"nodeName": "n1", "hostNetwork": true, "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 80}]}], "initContainers": [{"name": "s", "restartPolicy": "Always"}]}, "status": {"phase": "Running", "podIP": "10.0.0.1"}}),
        ),
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}, "status": {"addresses": [{"type": "InternalIP", "address": "172.31.0.2"}]}}),
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n1"}}),
        pool(
            &json!({"cidr": "10.0.0.0/16", "blockSize": 28, "allowedUses": ["Workload"], "ipipMode": "", "assignmentMode": "Manual"}),
        ),
        bgp(
            "default",
            &json!({"asNumber": "1.10", "listenPort": 1179, "nodeToNodeMeshEnabled": false, "logSeverityScreen": "info", "serviceClusterIPs": [{"cidr": "10.96.0.0/12"}]}),
        ),
    ] {
        let read = object(&value);
        let written = serde_json::to_value(&read).unwrap();
        assert_eq!((&written["apiVersion"], &written["kind"]), (&value["apiVersion"], &value["kind"]));
        assert_eq!(object(&written), read);
        assert_eq!(serde_json::from_value::<Object>(written).unwrap(), read);
    }
    let Object::BgpConfiguration(configuration) = object(&bgp("default", &json!({"asNumber": "1.10"}))) else {
        panic!()
    };
    assert_eq!(configuration.spec.as_number, Some(65546));
}

#[test]
fn a_pods_expected_addresses_come_from_the_first_source_that_has_any() {
    let pod_of = |value: &Value| match object(value) {
        Object::Pod(pod) => pod,
        other => panic!("{other:?}"),
    };
    let addresses = |value: &Value| {
        pod_of(value).expected_addresses().iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    let annotated = json!({"name": "web", "annotations": {"cni.projectcalico.org/podIPs": "10.0.0.2/32, fd00::2/128", "cni.projectcalico.org/ipAddrs": "[\"10.0.0.3\"]"}});
    assert_eq!(
        addresses(&pod(&json!({"metadata": annotated, "status": {"podIPs": [{"ip": "10.0.0.1"}]}}))),
        "10.0.0.1"
    );
    assert_eq!(
        addresses(&pod(&json!({"metadata": annotated, "status": {"podIP": "", "podIPs": []}}))),
        "10.0.0.2 fd00::2"
    );
    let pinned =
        json!({"name": "web", "annotations": {"cni.projectcalico.org/ipAddrs": "[\"10.0.0.3\", \"fd00::3\"]"}});
    assert_eq!(addresses(&pod(&json!({"metadata": pinned}))), "10.0.0.3 fd00::3");
    assert_eq!(addresses(&pod(&json!({}))), "");
    // What a pod's maker wrote is not what it has.
    let has = |value: &Value| pod_of(value).addresses();
    assert!(
        has(&pod(&json!({"metadata": annotated}))).is_empty() && has(&pod(&json!({"metadata": pinned}))).is_empty()
    );
    assert_eq!(has(&pod(&json!({"status": {"podIP": "10.0.0.1"}}))), ["10.0.0.1".parse::<std::net::IpAddr>().unwrap()]);
    for bad in ["[]", "[\"10.0.0.1\", \"10.0.0.2\"]", "[1]", "{}", "[\"x\"]", ""] {
        let value = pod(&json!({"metadata": {"name": "web", "annotations": {"cni.projectcalico.org/ipAddrs": bad}}}));
        assert!(errors(&value)[0].contains("such as [\"10.244.0.10\"]"), "{bad}");
    }
    for (spec, status, want) in [
        (json!({}), json!({}), true),
        (json!({"hostNetwork": true}), json!({}), false),
        (json!({}), json!({"phase": "Succeeded"}), false),
        (json!({}), json!({"phase": "Failed"}), false),
        (json!({}), json!({"phase": "Pending"}), true),
    ] {
        assert_eq!(pod_of(&pod(&json!({"spec": spec, "status": status}))).is_endpoint(), want);
    }
    let ports = json!({"containers": [{"ports": [{"containerPort": 80}]}], "initContainers": [{"ports": [{"containerPort": 81}]}, {"restartPolicy": "Always", "ports": [{"containerPort": 82, "protocol": "SCTP"}]}]});
    let ports: Vec<_> =
        pod_of(&pod(&json!({"spec": ports}))).ports().map(|port| (port.container_port, port.protocol)).collect();
    assert_eq!(ports, [(80, Protocol::Tcp), (82, Protocol::Sctp)]);
}

#[test]
fn a_nodes_addresses_are_its_internal_ones() {
    let node = |annotations: Value, addresses: Value| match object(
        &json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "annotations": annotations}, "status": {"addresses": addresses}}),
    ) {
        Object::Node(node) => node,
        other => panic!("{other:?}"),
    };
    let annotations = json!({"projectcalico.org/IPv4Address": "172.31.0.2/24", "projectcalico.org/IPv6Address": "fd00::2/64", "projectcalico.org/ASNumber": "65001"});
    let full = node(
        annotations.clone(),
        json!([{"type": "Hostname", "address": "n1"}, {"type": "InternalIP", "address": "172.31.0.9"}]),
    );
    assert_eq!(full.internal_ips(), ["172.31.0.9".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(full.network(true).unwrap().to_string(), "172.31.0.2/24");
    assert_eq!(full.network(false).unwrap().to_string(), "fd00::2/64");
    assert_eq!(full.as_number(), Ok(Some(65001)));
    let annotated = node(annotations, json!([]));
    assert_eq!(annotated.internal_ips().len(), 2);
    assert_eq!(
        node(json!({"projectcalico.org/IPv4Address": "172.31.0.2"}), json!([])).network(true).unwrap().prefix_len(),
        32
    );
    for (name, text) in
        [("IPv4Address", "fd00::2/64"), ("IPv4Address", "x"), ("IPv6Address", "10.0.0.1"), ("ASNumber", "x")]
    {
        let key = format!("projectcalico.org/{name}");
        let value = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "annotations": {key: text}}});
        assert!(
            errors(&value)[0].starts_with(&format!("metadata.annotations[projectcalico.org/{name}]: Invalid value"))
        );
    }
}

#[test]
fn calico_kinds_as_their_storage_has_them() {
    // What `kubectl get ippools -o yaml` prints where Calico's API server is not installed.
    let stored = json!({
        "apiVersion": "crd.projectcalico.org/v1", "kind": "IPPool",
        "metadata": {
            "name": "default-ipv4-ippool", "uid": "0f63", "generation": 2, "resourceVersion": "812",
            "creationTimestamp": "2024-05-14T08:10:12Z",
            "annotations": {"projectcalico.org/metadata": "{\"uid\":\"81d1\",\"creationTimestamp\":\"2024-05-14T08:10:12Z\"}"},
        },
        "spec": {
            "allowedUses": ["Workload", "Tunnel"], "blockSize": 26, "cidr": "10.244.0.0/16", "ipipMode": "Never",
            "natOutgoing": false, "nodeSelector": "all()", "vxlanMode": "Never",
        },
    });
    let mut served = stored.clone();
    served["apiVersion"] = json!("projectcalico.org/v3");
    let object = decode(&stored).unwrap();
    assert!(matches!(object, Decoded::Object(_)), "{object:?}");
    assert_eq!(object, decode(&served).unwrap(), "it is one object by either name");
    for (api_version, kind) in [("crd.projectcalico.org/v1", "Pod"), ("crd.projectcalico.org/v2", "IPPool")] {
        let mut value = stored.clone();
        value["apiVersion"] = json!(api_version);
        value["kind"] = json!(kind);
        assert!(!matches!(decode(&value), Ok(Decoded::Object(_))), "{api_version} {kind}");
    }
}

#[test]
fn what_ipam_keeps_is_read_as_calico_writes_it() {
    let crd = "crd.projectcalico.org/v1";
    // Its storage has another name for the configuration, and a text where a truth value is meant.
    let configuration = object(&json!({"apiVersion": crd, "kind": "IPAMConfig", "metadata": {"name": "default"},
        "spec": {"strictAffinity": true, "autoAllocateBlocks": true, "maxBlocksPerHost": 3}}));
    let Object::IpamConfiguration(read) = &configuration else { panic!("{configuration:?}") };
    assert_eq!((read.spec.strict_affinity, read.spec.most_blocks()), (true, 3));
    assert_eq!(serde_json::to_value(&configuration).unwrap()["kind"], "IPAMConfiguration");
    assert_eq!(Kind::of_manifest("projectcalico.org/v3", "IPAMConfig"), None);
    let Object::IpamConfiguration(read) = object(
        &json!({"apiVersion": "projectcalico.org/v3", "kind": "IPAMConfiguration", "metadata": {"name": "default"}}),
    ) else {
        panic!()
    };
    assert_eq!((read.spec.strict_affinity, read.spec.auto_allocate_blocks, read.spec.most_blocks()), (false, true, 20));

    let affinity = |deleted: Value| {
        let object = object(&json!({"apiVersion": crd, "kind": "BlockAffinity", "metadata": {"name": "n-10-0-0-0-26"},
            "spec": {"cidr": "10.0.0.0/26", "node": "n", "state": "confirmed", "deleted": deleted}}));
        let Object::BlockAffinity(affinity) = object else { panic!() };
        affinity.spec
    };
    for (deleted, want) in [(json!("true"), true), (json!("false"), false), (json!(""), false), (Value::Null, false)] {
        let spec = affinity(deleted);
        assert_eq!((spec.deleted, spec.is_of_node(), spec.kind.as_str()), (want, !want, "host"));
        assert_eq!(spec.state, AffinityState::Confirmed);
    }

    // What a newer version wrote is written back.
    let block = json!({"apiVersion": "projectcalico.org/v3", "kind": "IPAMBlock", "metadata": {"name": "b"},
        "spec": {"cidr": "10.0.0.0/32", "allocations": [null], "unallocated": [0], "attributes": [], "strictAffinity": false,
            "sequenceNumber": 1_700_000_000_000_000_000_u64, "colour": {"of": ["sky", null]}}});
    let written = serde_json::to_value(object(&block)).unwrap();
    assert_eq!(written, block);
}

#[test]
fn mistakes_in_what_ipam_keeps_are_named() {
    let of = |kind: &str, name: &str, spec: Value| {
        errors(&json!({"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": name}, "spec": spec}))
    };
    for (found, want) in [
        (
            of("IPAMConfiguration", "mine", json!({})),
            "metadata.name: Invalid value: \"mine\": must be \"default\": there is one for the whole cluster",
        ),
        (
            of("IPAMConfiguration", "default", json!({"autoAllocateBlocks": false})),
            "spec.autoAllocateBlocks: Invalid value: false: may only be false with `strictAffinity: true`: use true, or make the \
             nodes' blocks strictly theirs",
        ),
        (
            of("IPAMConfiguration", "default", json!({"ipCooldownSeconds": 1201})),
            "spec.ipCooldownSeconds: Invalid value: 1201: must be at most 1200",
        ),
        (
            of("IPAMConfiguration", "default", json!({"strictaffinity": true})),
            "spec.strictaffinity: unknown field: did you mean \"strictAffinity\"?",
        ),
        (
            of("IPReservation", "r", json!({"reservedCIDRs": ["10.0.0"]})),
            "spec.reservedCIDRs[0]: Invalid value: \"10.0.0\": must be a valid CIDR, such as 10.0.0.0/8 or fd00::/64",
        ),
        (
            of("BlockAffinity", "b", json!({"cidr": "10.0.0.0/26", "node": "n", "state": "lost"})),
            "spec.state: Unsupported value: \"lost\": supported values: \"confirmed\", \"pending\", \"pendingDeletion\"",
        ),
        (
            of("BlockAffinity", "b", json!({"cidr": "10.0.0.0/26", "node": "n", "deleted": 1})),
            "spec.deleted: Invalid value: 1: must be true or false, or the text of one of them",
        ),
        (
            of("BlockAffinity", "b", json!({"cidr": "10.0.0.0/26", "node": ""})),
            "spec.node: Required value: the name of the node that the block is for",
        ),
        (
            of("IPAMHandle", "h", json!({"handleID": "h", "block": {"10.0.0.x/26": 1}})),
            "spec.block[10.0.0.x/26]: Invalid value: \"10.0.0.x/26\": must be the range of a block, such as 10.244.0.64/26",
        ),
    ] {
        assert_eq!(found, [want]);
    }
}
