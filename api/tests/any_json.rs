//! Whatever JSON stands wherever in an object: no panic, and what is accepted survives being written and read.
#![allow(missing_docs, reason = "a test")]

use proptest::prelude::*;
use serde_json::{Value, json};
use tortie_api::{Decoded, Object, decode};

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0_u64..70_000).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-zA-Z0-9./:\\-]{0,12}".prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-zA-Z]{1,10}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn valid() -> Vec<Value> {
    vec![
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "p", "labels": {"a": "b"}}, "spec": {
            "podSelector": {"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]},
            "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}, {"podSelector": {}}], "ports": [{"port": 80, "endPort": 90, "protocol": "UDP"}]}],
            "egress": [{"to": [{"namespaceSelector": {}}]}], "policyTypes": ["Egress"]}}),
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "annotations": {"cni.projectcalico.org/ipAddrs": "[\"10.0.0.1\"]"}}, "spec": {"nodeName": "n", "hostNetwork": false, "containers": [{"name": "c", "ports": [{"name": "h", "containerPort": 80, "protocol": "TCP"}]}], "initContainers": []}, "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]}}),
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "annotations": {"projectcalico.org/IPv4Address": "10.0.0.1/8"}}, "spec": {"podCIDRs": ["10.0.0.0/24"]}, "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]}}),
        json!({"apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": {"name": "p"}, "spec": {"cidr": "10.0.0.0/8", "blockSize": 26, "ipipMode": "Never", "natOutgoing": true, "allowedUses": ["Workload"], "nodeSelector": "all()"}}),
        json!({"apiVersion": "projectcalico.org/v3", "kind": "BGPConfiguration", "metadata": {"name": "default"}, "spec": {"asNumber": 64512, "listenPort": 179, "nodeToNodeMeshEnabled": true, "logSeverityScreen": "Info"}}),
        json!({"apiVersion": "projectcalico.org/v3", "kind": "IPAMBlock", "metadata": {"name": "b"}, "spec": {"cidr": "10.0.0.0/31", "affinity": "host:n", "allocations": [null, 0], "unallocated": [0], "attributes": [{"handle_id": "h", "secondary": {"a": "b"}}]}}),
    ]
}

/// Every place in a value, the root first.
fn places(value: &Value, path: String, found: &mut Vec<String>) {
    if let Value::Object(map) = value {
        for (key, value) in map {
            places(value, format!("{path}/{}", key.replace('/', "~1")), found);
        }
    }
    if let Value::Array(list) = value {
        for (index, value) in list.iter().enumerate() {
            places(value, format!("{path}/{index}"), found);
        }
    }
    found.push(path);
}

fn check(value: &Value) {
    match decode(value) {
        Ok(Decoded::Object(object)) => {
            let written = serde_json::to_value(&*object).unwrap();
            assert_eq!(serde_json::from_value::<Object>(written).unwrap(), *object);
        }
        Ok(_) => {}
        Err(errors) => {
            assert!(!errors.is_empty());
            assert!(errors.iter().all(|error| !error.message.is_empty()));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn anything_anywhere(kind in 0..6_usize, place in any::<prop::sample::Index>(), with in any_json(), extra in "[a-z]{1,8}") {
        let mut value = valid().swap_remove(kind);
        check(&value);
        prop_assert!(decode(&value).is_ok());
        let mut found = Vec::new();
        places(&value, String::new(), &mut found);
        let slot = value.pointer_mut(place.get::<String>(&found)).unwrap();
        match slot {
            Value::Object(map) if with.is_string() => { map.insert(extra, with); }
            _ => *slot = with,
        }
        check(&value);
    }
}
