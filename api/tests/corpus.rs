//! Calico's own validation cases, where `TORTIE_CORPORA` says they are, against ours.
#![allow(missing_docs, clippy::disallowed_methods, reason = "a test, which reads its cases from files")]

#[path = "support/calico.rs"]
mod calico;

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};
use tortie_api::meta::StringMap;
use tortie_api::selector::{Requirement, Selector};
use tortie_api::{Decoded, decode};

/// Where this project decides otherwise on purpose, by a part of our message or of the case's description; docs/validation.md has the
/// reasons.
const DELIBERATE: [(&str, Difference); 3] = [
    ("rules on HTTP requests need a proxy in the path", Difference::Message),
    // The case is a port with both a name and a number, which JSON cannot say: what is left of it is a valid name.
    ("should reject Rule with invalid port (name + number)", Difference::Description),
    // Likewise a protocol in lower case, which Calico's own reader brings into the right one.
    ("should reject protocol tcp", Difference::Description),
];

#[derive(PartialEq)]
enum Difference {
    /// We refuse, with this in every message.
    Message,
    /// We accept the case that is described so.
    Description,
}

#[test]
fn verdicts_are_calicos() {
    let Some(cases) = calico::cases() else { return };
    let mut compared = 0;
    let mut deliberate = BTreeSet::new();
    let mut wrong = Vec::new();
    for (line, calico::Case { description, valid, manifest }) in cases.iter().enumerate() {
        // Its fields without effect are taken as they are: tests/felix.rs.
        if manifest["kind"] == "FelixConfiguration" {
            continue;
        }
        let verdict = decode(manifest).map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>());
        compared += 1;
        let reason = match (&verdict, *valid) {
            (Ok(Decoded::Object(_)), true) | (Err(_), false) => continue,
            (Ok(_), _) => DELIBERATE
                .iter()
                .find(|(about, difference)| *difference == Difference::Description && description == about),
            (Err(errors), true) => DELIBERATE.iter().find(|(part, difference)| {
                *difference == Difference::Message && errors.iter().all(|error| error.contains(part))
            }),
        };
        match reason {
            Some((reason, _)) => {
                deliberate.insert((line, reason));
            }
            None => wrong.push(format!("{description}: {manifest}: {verdict:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    println!("{compared} cases compared, {} of them deliberately otherwise", deliberate.len());
    assert!(compared > 340 && deliberate.len() < 20, "{compared} {}", deliberate.len());
    let used: BTreeSet<&str> = deliberate.iter().map(|(_, reason)| **reason).collect();
    assert_eq!(used.len(), DELIBERATE.len(), "each deliberate difference is met: {used:?}");
}

#[test]
fn selectors_are_calicos() {
    let Some(corpora) = std::env::var_os("TORTIE_CORPORA") else {
        println!("skipped: TORTIE_CORPORA is not set");
        return;
    };
    let text = std::fs::read_to_string(Path::new(&corpora).join("calico-selectors.json")).unwrap();
    let corpus: Value = serde_json::from_str(&text).unwrap();
    let cases = |name: &str| corpus[name].as_array().unwrap().iter();
    let parsed = |text: &Value| {
        let text = text.as_str().unwrap();
        Selector::parse(text).unwrap_or_else(|error| panic!("{text:?}: {error}"))
    };
    for case in cases("match") {
        let selector = parsed(&case["selector"]);
        for (list, want) in [("match", true), ("nomatch", false)] {
            for labels in case[list].as_array().unwrap() {
                let labels: StringMap = serde_json::from_value(labels.clone()).unwrap();
                assert_eq!(selector.matches(&labels), want, "{selector} on {labels:?}");
                if want {
                    let is_met = |alternatives: Vec<Requirement>| {
                        alternatives.iter().any(|one| labels.iter().any(|(key, value)| one.is_met_by(key, value)))
                    };
                    assert!(selector.requirements().into_iter().all(is_met), "{selector} on {labels:?}");
                }
            }
        }
    }
    for text in cases("invalid") {
        assert!(Selector::parse(text.as_str().unwrap()).is_err(), "{text}");
    }
    for case in cases("canonical") {
        let selector = parsed(&case["in"]);
        assert_eq!(json!(selector.to_string()), case["canonical"], "{}", case["in"]);
        assert_eq!(parsed(&case["canonical"]), selector);
    }
    assert!(cases("match").len() > 30 && cases("invalid").len() > 15 && cases("canonical").len() > 10);
}

#[test]
fn the_truth_tables_policies_are_all_valid() {
    let Some(corpora) = std::env::var_os("TORTIE_CORPORA") else {
        println!("skipped: TORTIE_CORPORA is not set");
        return;
    };
    let text = std::fs::read_to_string(Path::new(&corpora).join("networkpolicy-truth-tables.json")).unwrap();
    let cases: Value = serde_json::from_str(&text).unwrap();
    let steps = cases.as_array().unwrap().iter().flat_map(|case| case["steps"].as_array().unwrap());
    let policies: Vec<&Value> = steps.flat_map(|step| step["policies"].as_array().unwrap()).collect();
    assert!(policies.len() > 100, "{}", policies.len());
    for policy in policies {
        // Some cases leave the type out.
        let mut policy = policy.clone();
        policy["apiVersion"] = json!("networking.k8s.io/v1");
        policy["kind"] = json!("NetworkPolicy");
        assert!(decode(&policy).is_ok(), "{policy}: {:?}", decode(&policy));
    }
}
