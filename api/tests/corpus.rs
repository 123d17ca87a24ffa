//! Calico's own validation cases, where `TORTIE_CORPORA` says they are, against ours.
#![allow(missing_docs, clippy::disallowed_methods, reason = "a test, which reads its cases from files")]

use std::path::Path;

use serde_json::{Value, json};
use tortie_api::decode;

/// Cases that we refuse and Calico accepts, by a part of our message: what this version does not do yet, it does not pretend to do.
const NOT_YET: [&str; 3] = [
    "encapsulation is not supported by this version",
    "selectors other than all() are not supported by this version",
    "this field is not supported by this version",
];

/// Calico checks selectors' syntax where we refuse them altogether; everything else has to agree.
fn kind_of(case: &Value) -> Option<(&'static str, Value)> {
    let object = &case["obj"];
    match case["type"].as_str()?.trim_start_matches('*') {
        "v3.IPPool" => Some(("IPPool", object.clone())),
        "v3.BGPConfiguration" => Some(("BGPConfiguration", object.clone())),
        "v3.BGPConfigurationSpec" => {
            Some(("BGPConfiguration", json!({"metadata": {"name": "default"}, "spec": object.clone()})))
        }
        _ => None,
    }
}

#[test]
fn verdicts_are_calicos() {
    let Some(corpora) = std::env::var_os("TORTIE_CORPORA") else {
        println!("skipped: TORTIE_CORPORA is not set");
        return;
    };
    let text = std::fs::read_to_string(Path::new(&corpora).join("calico-validation.jsonl")).unwrap();
    let mut compared = 0;
    let mut not_yet = 0;
    let mut wrong = Vec::new();
    for line in text.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let Some((kind, mut object)) = kind_of(&case) else { continue };
        object["apiVersion"] = json!("projectcalico.org/v3");
        object["kind"] = json!(kind);
        let verdict = decode(&object).map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>());
        compared += 1;
        let agrees = match (&verdict, case["valid"].as_bool().unwrap()) {
            (Ok(_), valid) => valid,
            (Err(_), false) => true,
            (Err(errors), true) => {
                let deliberate = errors.iter().all(|error| NOT_YET.iter().any(|reason| error.contains(reason)));
                not_yet += usize::from(deliberate);
                deliberate
            }
        };
        if !agrees {
            wrong.push(format!("{}: {verdict:?}", case["desc"]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    println!("{compared} cases compared, {not_yet} of them not supported yet");
    assert!(compared > 60 && not_yet < 25, "{compared} {not_yet}");
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
