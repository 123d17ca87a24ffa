//! What a real API server makes of objects with our definitions, against what agents make of them.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tortie_api::{Decoded, Kind, decode};
use tortie_tests::k8s::ApiServer;
use tortie_tests::root;

use crate::proxy::Proxy;
use crate::{calico, samples};

/// A server with our definitions in force.
fn server() -> ApiServer {
    let server = ApiServer::start();
    server.kubectl(&["apply", "--server-side", "-k", root().join("deploy/crds").to_str().expect("a plain path")]);
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let definitions = server.get(&["customresourcedefinitions"]);
        let items = definitions["items"].as_array().expect("a list");
        let is = |item: &Value, kind: &str| {
            let conditions = item["status"]["conditions"].as_array().into_iter().flatten();
            conditions.filter(|condition| condition["type"] == kind).any(|condition| condition["status"] == "True")
        };
        for item in items {
            for wrong in ["NonStructuralSchema", "Terminating"] {
                assert!(!is(item, wrong), "{wrong}: {item}");
            }
        }
        let waiting: Vec<&Value> =
            items.iter().filter(|item| !is(item, "Established")).map(|item| &item["metadata"]["name"]).collect();
        if waiting.is_empty() {
            assert_eq!(items.len(), tortie_api::schema::definitions().len());
            return server;
        }
        assert!(Instant::now() < deadline, "not established: {waiting:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Cases from `tests/conformance/crds`: an object, and a part of how it is refused.
fn refusals(file: &str) -> Vec<(Value, String)> {
    let text = std::fs::read_to_string(root().join("tests/conformance/crds").join(file)).expect("cases");
    let cases = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("a case is a line of JSON"));
    cases.map(|case| (case["manifest"].clone(), case["refusal"].as_str().expect("a text").to_owned())).collect()
}

/// What an agent says of an object: nothing if it takes it.
fn own_errors(manifest: &Value) -> Vec<String> {
    match decode(manifest) {
        Ok(Decoded::Object(_)) => Vec::new(),
        Ok(other) => panic!("{manifest}: {other:?}"),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}

/// The kind of an object, if it has a definition.
fn defined(manifest: &Value) -> Option<Kind> {
    static DEFINED: LazyLock<Vec<Kind>> =
        LazyLock::new(|| tortie_api::schema::definitions().iter().map(|definition| definition.kind).collect());
    let text = |field: &str| manifest[field].as_str().expect("a text");
    let kind = Kind::of_manifest(text("apiVersion"), text("kind")).expect("a kind");
    DEFINED.contains(&kind).then_some(kind)
}

#[test]
fn the_server_takes_and_refuses_what_agents_do() {
    let server = server();
    let proxy = Proxy::start(&server);
    let mut wrong = Vec::new();
    for manifest in samples::valid() {
        let Some(kind) = defined(&manifest) else { continue };
        // What an earlier form of storage has as text.
        let manifest = if kind == Kind::BlockAffinity { without_text(manifest) } else { manifest };
        if let Err(refusal) = proxy.try_create(&manifest, kind) {
            wrong.push(format!("a sample is refused: {manifest}: {refusal}"));
        }
    }
    let refused = refusals("refused.jsonl");
    for (manifest, part) in &refused {
        if own_errors(manifest).is_empty() {
            wrong.push(format!("agents take {manifest}"));
        }
        match proxy.try_create(manifest, defined(manifest).expect("a definition")) {
            Ok(()) => wrong.push(format!("the server takes {manifest}")),
            Err(refusal) if refusal.contains(part) => {}
            Err(refusal) => wrong.push(format!("{manifest}: refused without a word of {part:?}: {refusal}")),
        }
    }
    let left = refusals("left_to_agents.jsonl");
    for (manifest, part) in &left {
        let errors = own_errors(manifest);
        if !errors.iter().any(|error| error.contains(part)) {
            wrong.push(format!("{manifest}: agents say {errors:?}"));
        }
        if let Err(refusal) = proxy.try_create(manifest, defined(manifest).expect("a definition")) {
            wrong.push(format!(
                "{manifest} is not left to agents: take it off the list and off docs/crds.md: {refusal}"
            ));
        }
    }
    let parts: Vec<&String> = left.iter().map(|(_, part)| part).collect();
    for case in calico::cases().into_iter().flatten() {
        let Some(kind) = defined(&case.manifest) else { continue };
        let about = format!("{} ({} in Calico)", case.description, if case.valid { "valid" } else { "invalid" });
        let errors = own_errors(&case.manifest);
        let is_left = !errors.is_empty() && errors.iter().all(|error| parts.iter().any(|part| error.contains(*part)));
        match proxy.try_create(&case.manifest, kind) {
            Ok(()) if errors.is_empty() || is_left => {}
            Ok(()) => wrong.push(format!("{about}: the server takes {}: {errors:?}", case.manifest)),
            Err(refusal) if errors.is_empty() => {
                wrong.push(format!("{about}: {} is refused: {refusal}", case.manifest));
            }
            Err(_) => {}
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(refused.len() > 200 && left.len() < 15, "{} {}", refused.len(), left.len());
}

fn without_text(mut manifest: Value) -> Value {
    manifest["spec"]["deleted"] = json!(false);
    manifest
}

#[test]
fn what_is_left_out_is_filled_in_and_what_may_not_change_does_not() {
    let server = server();
    let object = |kind: &str, spec: Value| json!({"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": "x"}, "spec": spec});
    let pool = |spec: Value| object("IPPool", spec);
    server.apply(&[pool(json!({"cidr": "10.0.0.0/16"})), object("GlobalNetworkPolicy", json!({}))]);
    let spec = &server.get(&["ippools", "x"])["spec"];
    let wanted = json!({
        "cidr": "10.0.0.0/16", "natOutgoing": false, "disabled": false, "disableBGPExport": false, "ipipMode": "Never",
        "vxlanMode": "Never", "assignmentMode": "Automatic",
    });
    assert_eq!(*spec, wanted);
    assert_eq!(server.get(&["gnp", "x"])["spec"], json!({"tier": "default"}));

    for change in [json!({"cidr": "10.1.0.0/16"}), json!({"cidr": "10.0.0.0/16", "blockSize": 27})] {
        let refusal = server.try_apply(&[pool(change)]).expect_err("a pool stays where it is");
        assert!(refusal.contains("may not be changed: make another pool, and disable this one"), "{refusal}");
    }
    server.apply(&[pool(json!({"cidr": "10.0.0.0/16", "blockSize": 26, "disabled": true}))]);
    let explained = server.kubectl(&["explain", "ippools.spec.ipipMode"]);
    assert!(explained.contains("- CrossSubnet: Only to nodes of other subnets."), "{explained}");
}
