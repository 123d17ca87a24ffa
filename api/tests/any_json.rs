//! Whatever JSON stands wherever in an object: no panic, and what is accepted survives being written and read.
#![allow(missing_docs, reason = "a test")]

#[path = "support/samples.rs"]
mod samples;

use proptest::prelude::*;
use samples::valid;
use serde_json::Value;
use tortie_api::{Decoded, Kind, Object, decode};

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0_u64..70_000).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-zA-Z0-9./:\\-]{0,12}".prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        prop::sample::select(vec![
            "Allow",
            "Delete",
            "Egress",
            "Pass",
            "all()",
            "global()",
            "has(a)",
            "tcp",
            "1:2",
            "10.0.0.1/8",
            "fd00::/8",
            "*"
        ])
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-zA-Z]{1,10}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
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
        // What is in a Secret is not written.
        Ok(Decoded::Object(object)) if object.kind() == Kind::Secret => {}
        Ok(Decoded::Object(object)) => {
            let written = serde_json::to_value(&*object).unwrap();
            let read = serde_json::from_value::<Object>(written.clone());
            assert_eq!(
                read.as_ref().ok(),
                Some(&*object),
                "{value} is written as {written}, which is read as {read:?}"
            );
        }
        Ok(_) => {}
        Err(errors) => {
            assert!(!errors.is_empty());
            assert!(errors.iter().all(|error| !error.message.is_empty()));
        }
    }
}

#[test]
fn every_kind_is_among_them() {
    let kinds: std::collections::BTreeSet<Kind> = valid()
        .iter()
        .map(|value| match decode(value) {
            Ok(Decoded::Object(object)) => object.kind(),
            other => panic!("{value}: {other:?}"),
        })
        .collect();
    assert_eq!(Vec::from_iter(kinds), Kind::ALL);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6_000))]

    #[test]
    fn anything_anywhere(kind in any::<prop::sample::Index>(), place in any::<prop::sample::Index>(), with in any_json(), extra in "[a-z]{1,8}") {
        let mut value = kind.get(&valid()).clone();
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
