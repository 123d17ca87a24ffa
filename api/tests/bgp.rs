//! The kinds about BGP: what is refused, and how it reads; what is not done yet, and is said.
#![allow(missing_docs, reason = "a test")]

use serde_json::{Value, json};
use tortie_api::{Decoded, Object, decode};

fn manifest(kind: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

fn refusals(kind: &str, spec: &Value) -> Vec<String> {
    match decode(&manifest(kind, "default", spec)) {
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
        Ok(_) => panic!("{kind} {spec} is accepted"),
    }
}

fn accepted(kind: &str, spec: &Value) -> Object {
    match decode(&manifest(kind, "default", spec)) {
        Ok(Decoded::Object(object)) => *object,
        other => panic!("{kind} {spec}: {other:?}"),
    }
}

#[test]
fn a_peer_is_said_in_one_way() {
    for (spec, message) in [
        (
            json!({"peerIP": "10.0.0.1:0"}),
            "spec.peerIP: Invalid value: \"10.0.0.1:0\": must be an IP address, with a port from 1 on if need be: 10.0.0.1, \
             10.0.0.1:1790, fd00::1 or [fd00::1]:1790",
        ),
        (
            json!({"node": "a", "nodeSelector": "has(b)"}),
            "spec.nodeSelector: Forbidden: may not be set beside `node`: remove one of them",
        ),
        (
            json!({"peerIP": "10.0.0.1", "peerSelector": "has(b)"}),
            "spec.peerIP: Forbidden: may not be set beside `peerSelector`, which says itself who the peers are: remove one of them",
        ),
        (
            json!({"asNumber": 1, "peerSelector": "has(b)"}),
            "spec.asNumber: Forbidden: may not be set beside `peerSelector`: the peers' nodes have their AS numbers",
        ),
        (
            json!({"peerIP": "10.0.0.1", "reachableBy": "fd00::1"}),
            "spec.reachableBy: Invalid value: \"fd00::1\": must be of the same IP version as `peerIP`",
        ),
        (json!({"reachableBy": "fd00::1"}), "spec.reachableBy: Forbidden: is the gateway to `peerIP`: set that too"),
        (
            json!({"keepOriginalNextHop": true, "nextHopMode": "Self"}),
            "spec.keepOriginalNextHop: Forbidden: may not be set beside `nextHopMode`, which took its place: remove it",
        ),
        (
            json!({"nextHopMode": "Me"}),
            "spec.nextHopMode: Unsupported value: \"Me\": supported values: \"Auto\", \"Self\", \"Keep\"",
        ),
        (json!({"peerSelector": "has(b"}), "spec.peerSelector: Invalid value: \"has(b\": must be a selector"),
        (
            json!({"password": {"secretKeyRef": {"name": "s"}}}),
            "spec.password.secretKeyRef.key: Required value: this field must be set",
        ),
    ] {
        let errors = refusals("BGPPeer", &spec);
        assert!(errors.len() == 1 && errors[0].starts_with(message), "{spec}: {errors:?}");
    }
}

#[test]
fn peers_addresses_are_written_as_they_are_read() {
    for text in ["10.0.0.1", "10.0.0.1:1790", "fd00::1", "[fd00::1]:1790"] {
        let Object::BgpPeer(peer) = accepted("BGPPeer", &json!({"peerIP": text})) else { panic!("a peer") };
        assert_eq!(peer.spec.peer_ip.map(|peer| peer.to_string()).as_deref(), Some(text));
    }
    for text in ["fd00::1:70000:x", "[10.0.0.1]:179", "[fd00::1]", "10.0.0.1:+1", "router", ":179", "[]:179"] {
        assert_eq!(refusals("BGPPeer", &json!({"peerIP": text})).len(), 1, "{text}");
    }
    // The empty text is no peer, as in Calico.
    let Object::BgpPeer(peer) = accepted("BGPPeer", &json!({"peerIP": "", "reachableBy": ""})) else {
        panic!("a peer")
    };
    assert_eq!((peer.spec.peer_ip, peer.spec.reachable_by), (None, None));
}

#[test]
fn a_filter_says_what_it_compares() {
    let rule = |rule: Value| json!({"exportV4": [rule]});
    for (spec, message) in [
        (
            rule(json!({"action": "Accept", "cidr": "10.0.0.0/8"})),
            "spec.exportV4[0].matchOperator: Required value: how routes are compared with `cidr`",
        ),
        (
            rule(json!({"action": "Accept", "matchOperator": "In"})),
            "spec.exportV4[0].cidr: Required value: what routes are compared with by `matchOperator`",
        ),
        (
            rule(json!({"action": "Accept", "cidr": "fd00::/8", "matchOperator": "In"})),
            "spec.exportV4[0].cidr: Invalid value: \"fd00::/8\": must be of IP version 4",
        ),
        (
            rule(json!({"action": "Accept", "cidr": "10.0.0.0/8", "matchOperator": "In", "prefixLength": {"max": 33}})),
            "spec.exportV4[0].prefixLength.max: Invalid value: 33: must be between 0 and 32",
        ),
        (
            rule(json!({"action": "Reject", "operations": [{"setPriority": {"value": 5}}]})),
            "spec.exportV4[0].operations: Forbidden: may be set in Accept rules only: a route that is rejected goes nowhere",
        ),
        (
            rule(json!({"action": "Accept", "operations": [{"setPriority": {"value": 0}}]})),
            "spec.exportV4[0].operations[0].setPriority.value: Invalid value: 0: must be between 1 and 2147483646",
        ),
        (
            rule(json!({"action": "Accept", "operations": [{"prependASPath": {"prefix": []}}]})),
            "spec.exportV4[0].operations[0].prependASPath.prefix: Required value: one AS number at least",
        ),
        (
            rule(json!({"action": "Accept", "communities": {"values": ["1:2", "3:4"]}})),
            "spec.exportV4[0].communities.values: Invalid value: [\"1:2\",\"3:4\"]: must be exactly one community: make a rule for each",
        ),
        (
            rule(json!({"action": "Accept", "communities": {"values": ["65536:1"]}})),
            "spec.exportV4[0].communities.values[0]: Invalid value: \"65536:1\": must be a community such as 64512:100",
        ),
        (
            rule(json!({"action": "Accept", "interface": "eth0;"})),
            "spec.exportV4[0].interface: Invalid value: \"eth0;\": must be the name of an interface",
        ),
    ] {
        let errors = refusals("BGPFilter", &spec);
        assert!(errors.len() == 1 && errors[0].starts_with(message), "{spec}: {errors:?}");
    }
}

#[test]
fn a_configuration_names_communities_that_are_there() {
    let advertise = |communities: &[&str]| {
        json!({
            "communities": [{"name": "fabric", "value": "64512:1:2"}],
            "prefixAdvertisements": [{"cidr": "10.0.0.0/8", "communities": communities}],
        })
    };
    accepted("BGPConfiguration", &advertise(&["fabric", "64512:1"]));
    for (spec, message) in [
        (
            advertise(&["fabrik"]),
            "spec.prefixAdvertisements[0].communities[0]: Invalid value: \"fabrik\": must be a community such as 64512:100 or \
             64512:1:2, or the name of one in `spec.communities`",
        ),
        (
            json!({"nodeToNodeMeshEnabled": false, "nodeMeshMaxRestartTime": "1m"}),
            "spec.nodeMeshMaxRestartTime: Forbidden: may not be set where `nodeToNodeMeshEnabled` is false",
        ),
        (
            json!({"ignoredInterfaces": ["*"]}),
            "spec.ignoredInterfaces[0]: Invalid value: \"*\": would leave no interface",
        ),
        (
            json!({"ipv4NormalRoutePriority": 0}),
            "spec.ipv4NormalRoutePriority: Invalid value: 0: must be between 1 and 2147483646",
        ),
    ] {
        let errors = refusals("BGPConfiguration", &spec);
        assert!(errors.len() == 1 && errors[0].starts_with(message), "{spec}: {errors:?}");
    }
}

#[test]
fn what_is_not_done_yet_is_said() {
    let spec = json!({"bindMode": "NodeIP", "ignoredInterfaces": ["eth1"], "asNumber": 64512, "listenPort": 1790,
        "serviceLoadBalancerAggregation": "Enabled", "programClusterRoutes": "Enabled"});
    let Object::BgpConfiguration(configuration) = accepted("BGPConfiguration", &spec) else {
        panic!("a configuration")
    };
    let fields: Vec<&str> = configuration.spec.unheeded().into_iter().map(|(field, _)| field).collect();
    assert_eq!(fields, ["ignoredInterfaces"]);
    let Object::BgpConfiguration(plain) = accepted("BGPConfiguration", &json!({"bindMode": "None"})) else { panic!() };
    assert_eq!(plain.spec.unheeded(), [], "what is done anyway is no cause for a warning");
}
