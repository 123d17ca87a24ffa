//! Truth tables by real packets: every step of every scenario is applied to a running lab and probed, on one node and across nodes;
//! and the same questions are asked of `policy matrix`, by the compiled ruleset and by the oracle.
//!
//! The ordinary run takes the project's own scenarios and a sample of the corpora's; the long run takes all of them, in both
//! placements.

use std::collections::BTreeMap;

use serde_json::Value;
use tortie_tests::lab::{Lab, rows, run};
use tortie_tests::truth::{Step, load};
use tortie_tests::{corpus, long, root};

/// SCTP sockets are not to be had on every kernel; `policy matrix` covers SCTP everywhere.
const NO_SOCKETS: &[&str] = &["SCTP"];

type Place = fn(usize) -> String;

const ONE_NODE: Place = |_| "node1".into();
const SPREAD: Place = |index| format!("node{}", index % 3 + 1);

/// All scenarios: ours, then every `stride`th of the corpora's.
fn scenarios(place: Place, stride: usize) -> Vec<Vec<Step>> {
    let mut found = load(&root().join("tests/conformance/truth-tables.json"), &place);
    if let Some(file) = corpus("networkpolicy-truth-tables.json") {
        found.extend(load(&file, &place).into_iter().step_by(stride));
    }
    assert!(!found.is_empty());
    found
}

/// Moves the lab from one set of documents to another, by `lab apply` and `lab delete` of the difference.
fn go(lab: &Lab, from: &BTreeMap<String, Value>, to: &BTreeMap<String, Value>) {
    let gone: Vec<Value> =
        from.iter().filter(|(name, _)| !to.contains_key(*name)).map(|(_, document)| document.clone()).collect();
    let changed: Vec<Value> = to
        .iter()
        .filter(|(name, document)| from.get(*name) != Some(document))
        .map(|(_, document)| document.clone())
        .collect();
    if !gone.is_empty() {
        lab.delete(&gone);
    }
    if !changed.is_empty() {
        lab.apply(&changed);
    }
}

fn by_packets(title: &str, place: Place, stride: usize) {
    let scenarios = scenarios(place, stride);
    let mut now = scenarios[0][0].documents.clone();
    let lab = Lab::up(title, &now.values().cloned().collect::<Vec<_>>(), &["--nodes", "3"]);
    let mut wrong = Vec::new();
    let mut probed = 0;
    for step in scenarios.iter().flatten() {
        let ports = step.port_list(NO_SOCKETS);
        if ports.is_empty() {
            continue;
        }
        go(&lab, &now, &step.documents);
        now.clone_from(&step.documents);
        let seen = lab.probe(&["--ports", &ports, "--timeout", "500ms"]);
        probed += seen.len();
        wrong.extend(step.differences(&seen, NO_SOCKETS));
        assert!(wrong.len() < 20, "too much is wrong:\n{}", wrong.join("\n"));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    println!("{probed} pairs probed");
    assert!(probed > 0);
}

#[test]
fn packets_across_nodes() {
    by_packets("spread", SPREAD, if long() { 1 } else { 2 });
}

#[test]
fn packets_on_one_node() {
    by_packets("alone", ONE_NODE, if long() { 1 } else { 3 });
}

#[test]
fn matrix_offline_with_sctp() {
    let folder = std::env::temp_dir().join(format!("tortie-test-matrix{}", std::process::id()));
    let mut wrong = Vec::new();
    for step in scenarios(SPREAD, if long() { 1 } else { 4 }).iter().flatten() {
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).expect("a folder for manifests");
        for (index, document) in step.documents.values().enumerate() {
            std::fs::write(folder.join(format!("{index:04}.yaml")), document.to_string())
                .expect("a manifest is written");
        }
        let (manifests, ports) = (folder.to_str().expect("a plain path"), step.port_list(&[]));
        for engine in [None, Some("--oracle")] {
            let mut args = vec!["policy", "matrix", "--manifests", manifests, "--ports", &ports, "-o", "json"];
            args.extend(engine);
            let seen = rows(&serde_json::from_str(&run(&args)).expect("policy matrix prints JSON"));
            wrong.extend(step.differences(&seen, &[]).into_iter().map(|text| format!("{engine:?} {text}")));
        }
        assert!(wrong.len() < 20, "too much is wrong:\n{}", wrong.join("\n"));
    }
    let _ = std::fs::remove_dir_all(&folder);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
