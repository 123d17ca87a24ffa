//! NetworkPolicy truth tables, each step asked of both engines: the project's own, and the corpora's where `TORTIE_CORPORA` says
//! where they are.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::support::object;
use serde_json::{Value, json};
use tortie_api::Object;
use tortie_api::k8s::Protocol;
use tortie_nft::Family;
use tortie_policy::matrix::{Engine, Query, Verdict, matrix};
use tortie_policy::offline::Offline;

#[allow(clippy::disallowed_methods, reason = "a test may read its cases")]
fn cases(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    match serde_json::from_str(&text) {
        Ok(Value::Array(cases)) => cases,
        other => panic!("{}: not a list of cases: {other:?}", file.display()),
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

fn port(pair: &[Value]) -> (Protocol, u16) {
    let number = pair[1].as_u64().and_then(|number| u16::try_from(number).ok()).expect("a port number");
    (text(&pair[0]).parse().expect("a protocol"), number)
}

/// The documents of a step, its pods spread over `nodes` nodes.
fn documents(step: &Value, nodes: usize) -> Vec<Object> {
    let mut documents = Vec::new();
    for (name, labels) in step["namespaces"].as_object().expect("namespaces") {
        documents.push(object(
            &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}),
        ));
    }
    for (index, pod) in list(&step["pods"]).iter().enumerate() {
        let mut ports = Vec::new();
        for number in [80, 81] {
            for protocol in ["TCP", "UDP", "SCTP"] {
                let name = format!("serve-{number}-{}", protocol.to_lowercase());
                ports.push(json!({"name": name, "containerPort": number, "protocol": protocol}));
            }
        }
        documents.push(object(&json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": pod["name"], "namespace": pod["ns"], "labels": pod["labels"]},
            "spec": {"nodeName": format!("n{}", index % nodes), "containers": [{"name": "c", "ports": ports}]},
            "status": {"podIPs": [{"ip": pod["ip"]}]},
        })));
    }
    for policy in list(&step["policies"]) {
        // Some of the corpora's are written without their type.
        let mut policy = policy.clone();
        policy["apiVersion"] = json!("networking.k8s.io/v1");
        policy["kind"] = json!("NetworkPolicy");
        documents.push(object(&policy));
    }
    documents
}

/// Asks both engines for every step of a file, on one node and on several. Returns the number of steps.
fn check(file: &Path) -> usize {
    let mut steps = 0;
    for case in cases(file) {
        for (number, step) in list(&case["steps"]).iter().enumerate() {
            let title = format!("case {} ({}), step {number}", case["case"], case["description"]);
            let ports: Vec<_> = list(&step["ports"]).iter().map(|pair| port(list(pair))).collect();
            let blocked: BTreeSet<_> = list(&step["blocked"])
                .iter()
                .map(|row| {
                    let (protocol, number) = port(&list(row)[2..]);
                    (text(&row[0]).to_owned(), text(&row[1]).to_owned(), protocol, number)
                })
                .collect();
            let pods = list(&step["pods"]).len();
            for nodes in [1, 3] {
                let offline = Offline::new(&documents(step, nodes));
                assert!(offline.warnings().is_empty());
                for engine in [Engine::Compiled, Engine::Oracle] {
                    let query = Query { ports: Some(ports.clone()), family: Family::V4, engine };
                    let rows = matrix(&offline, &query).expect("a matrix");
                    assert_eq!(rows.len(), pods * pods * ports.len(), "{title}");
                    let denied: BTreeSet<_> = rows
                        .into_iter()
                        .filter(|row| row.verdict == Verdict::Deny)
                        .map(|row| (row.from, row.to, row.protocol, row.port))
                        .collect();
                    let wrong: Vec<_> = denied.symmetric_difference(&blocked).collect();
                    assert!(wrong.is_empty(), "{title}, {nodes} nodes, {engine:?}: {wrong:?}");
                }
            }
            steps += 1;
        }
    }
    steps
}

#[test]
fn our_own_scenarios() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/conformance/truth-tables.json");
    assert!(check(&file) > 0);
}

#[test]
fn the_scenarios_of_the_corpora() {
    let Some(corpora) = std::env::var_os("TORTIE_CORPORA") else {
        println!("SKIPPED: TORTIE_CORPORA is not set, so the corpora's truth tables are not read");
        return;
    };
    assert_eq!(check(&PathBuf::from(corpora).join("networkpolicy-truth-tables.json")), 131);
}
