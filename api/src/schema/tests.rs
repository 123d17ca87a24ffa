//! Schemas against the decoder: they have the same fields.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Definition, definitions};
use crate::calico::felix::FIELDS;
use crate::calico::{BLOCK_AFFINITY_FIELDS, IPAM_BLOCK_FIELDS, IPAM_HANDLE_FIELDS};
use crate::decode::decode;
use crate::kind::Kind;

/// A field that no kind has, nor one like it.
const UNHEARD_OF: &str = "qqqqqqqqqqqqqqqqqqqqqqqq";

/// Fields that are in schemas and that the decoder refuses in words of its own.
const REFUSED: [&str; 1] = ["http"];

fn names(schema: &Value) -> BTreeSet<String> {
    schema["properties"].as_object().into_iter().flat_map(|properties| properties.keys().cloned()).collect()
}

/// What `put` makes of an object at some place, in the whole manifest.
type Place<'a> = &'a dyn Fn(Value) -> Value;

/// Compares the fields of every object in a schema with what the decoder names as known there. Returns how many objects there were.
fn compare(schema: &Value, kind: Kind, path: &str, put: Place<'_>) -> usize {
    if let Some(items) = schema.get("items") {
        return compare(items, kind, &format!("{path}[0]"), &|value| put(json!([value])));
    }
    if schema.get("properties").is_none() {
        return 0;
    }
    let known = names(schema);
    if schema.get("x-kubernetes-preserve-unknown-fields").is_none() {
        let manifest = put(json!({UNHEARD_OF: 1}));
        let errors = decode(&manifest).expect_err("an unknown field is refused");
        let message = errors[0].to_string();
        let told: BTreeSet<String> = match message.split_once("unknown field: known fields here: ") {
            Some((_, fields)) => fields.split(", ").map(str::to_owned).collect(),
            None if message.contains(UNHEARD_OF) => FIELDS.iter().map(|field| field.name.to_owned()).collect(),
            None => panic!("{kind} {path}: {message} of {manifest}"),
        };
        // One type reads the peers of both directions; what ingress has not, validation refuses.
        let egress_only = |name: &str| path == "spec.ingress[0].from[0]" && matches!(name, "networks" | "domainNames");
        let told: BTreeSet<String> = told.into_iter().filter(|name| !egress_only(name)).collect();
        let own: BTreeSet<String> = known.iter().filter(|name| !REFUSED.contains(&name.as_str())).cloned().collect();
        assert_eq!(own, told, "{kind} {path}: in the schema, and known to the decoder");
    }
    let inner = known.iter().filter(|name| !REFUSED.contains(&name.as_str())).map(|name| {
        compare(&schema["properties"][name], kind, &format!("{path}.{name}"), &|value| put(json!({name: value})))
    });
    1 + inner.sum::<usize>()
}

fn root(definition: &Definition) -> &Value {
    &definition.object["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
}

#[test]
fn schemas_have_the_fields_that_the_decoder_knows() {
    let mut objects = 0;
    for definition in definitions() {
        let kind = definition.kind;
        let put = |spec: Value| {
            let metadata = json!({"name": "n"});
            json!({"apiVersion": kind.api_version(), "kind": kind.manifest_kind(), "metadata": metadata, "spec": spec})
        };
        objects += compare(&root(&definition)["properties"]["spec"], kind, "spec", &put);
    }
    assert!(objects > 150, "{objects}");
}

#[test]
fn what_agents_write_has_the_fields_that_agents_keep() {
    let kept: [(Kind, &[&str]); 3] = [
        (Kind::IpamBlock, &IPAM_BLOCK_FIELDS),
        (Kind::BlockAffinity, &BLOCK_AFFINITY_FIELDS),
        (Kind::IpamHandle, &IPAM_HANDLE_FIELDS),
    ];
    for (kind, fields) in kept {
        let definitions = definitions();
        let definition = definitions.iter().find(|definition| definition.kind == kind).expect("a definition");
        let fields: BTreeSet<String> = fields.iter().map(|&field| field.to_owned()).collect();
        assert_eq!(names(&root(definition)["properties"]["spec"]), fields, "{kind}");
    }
}

#[test]
fn every_kind_that_no_api_server_has_is_defined() {
    let defined: BTreeSet<Kind> = definitions().iter().map(|definition| definition.kind).collect();
    let missing: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| !defined.contains(kind)).collect();
    let built_in =
        [Kind::Namespace, Kind::Node, Kind::Pod, Kind::NetworkPolicy, Kind::ServiceAccount, Kind::EndpointSlice];
    // Namespaces and service accounts make profiles: a cluster does not store them.
    assert_eq!(missing, [built_in.as_slice(), &[Kind::Profile, Kind::Secret]].concat());
}
