//! The CustomResourceDefinitions of the kinds that no API server has of itself, made from the types that read them.
//!
//! The shape of a kind, what is optional, its enumerations, defaults and descriptions are derived from its type. What validation asks for
//! beyond that is said again here, kind by kind, as bounds, patterns and rules in CEL, so that the API server refuses what an agent would
//! refuse, with the same message. `docs/crds.md` lists what the API server cannot be told; the agents report that.
//!
//! `make crds` writes the definitions into `deploy/crds`.

mod bgp;
mod cluster_network_policy;
mod controllers;
mod definitions;
mod felix;
mod http;
mod ip_pool;
mod ipam;
mod kinds;
mod network_policy;
mod policy;
mod selector;
mod structural;
#[cfg(test)]
mod tests;
mod types;

use schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings, json_schema};
use serde_json::{Value, json};

use definitions::Definitions;
use kinds::Resource;
pub(crate) use types::{Address, AsNumber, Cidr, CidrOrAddress, OptionalAddress};

use crate::kind::Kind;

/// What is said of a name that is no RFC 1123 label.
const DNS_LABEL: &str = "must consist of at most 63 lower case letters, digits and '-', and start and end with a letter or digit (such as 'my-name')";

/// An RFC 1123 subdomain.
const SUBDOMAIN: &str = "^[a-z0-9]([a-z0-9-]*[a-z0-9])?([.][a-z0-9]([a-z0-9-]*[a-z0-9])?)*$";
const DNS_SUBDOMAIN: &str = "must consist of lower case letters, digits, '-' and '.', and each part must start and end with a letter or \
                             digit (such as 'example.com')";

/// The name of a port: an IANA service name.
const PORT_NAMES: &str = "^([a-z0-9]+-)*[a-z0-9]*[a-z][a-z0-9]*(-[a-z0-9]+)*$";
const PORT_NAME: &str =
    "must be the name of a port: at most 15 lower case letters, digits and '-', with a letter among them";

/// One CustomResourceDefinition.
#[derive(Debug, Clone, PartialEq)]
pub struct Definition {
    /// The kind.
    pub kind: Kind,
    /// `PLURAL.GROUP`.
    pub name: String,
    /// The whole object.
    pub object: Value,
}

/// The definitions of all kinds that have one, in the order of their names.
pub fn definitions() -> Vec<Definition> {
    let mut all: Vec<Definition> = kinds::all().iter().map(definition).collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

fn definition(resource: &Resource) -> Definition {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = false);
    let mut generator = settings.into_generator();
    let root: Value = (resource.schema)(&mut generator).into();
    generator.subschema_for::<http::HttpMatch>();
    let mut definitions = Definitions(generator.take_definitions(true).into_iter().collect());
    let name = root["$ref"].as_str().and_then(|path| path.rsplit('/').next()).unwrap_or_default().to_owned();
    (resource.rules)(&mut definitions);
    let object = definitions.of(&name);
    for (field, schema) in type_meta() {
        object.0["properties"][field] = schema;
    }
    if let Some(status) = resource.status {
        object.0["properties"]["status"] = status();
    }
    object.0["description"] = json!(resource.about);
    // No more may be said of metadata; how long a name is bounds what rules about it cost.
    object.0["properties"]["metadata"] =
        json!({"type": "object", "properties": {"name": {"type": "string", "maxLength": 253}}});
    (resource.whole)(object);
    let schema = structural::structural(&definitions.0[&name].clone(), &definitions.0);
    let (group, version) = resource.kind.api_version().split_once('/').unwrap_or_default();
    let name = format!("{}.{group}", resource.kind.plural());
    let mut served = json!({
        "name": version,
        "served": true,
        "storage": true,
        "schema": {"openAPIV3Schema": schema},
    });
    if resource.status.is_some() {
        served["subresources"] = json!({"status": {}});
    }
    let columns: Vec<Value> = resource.columns.iter().map(kinds::Column::json).collect();
    if !columns.is_empty() {
        served["additionalPrinterColumns"] = json!(columns);
    }
    if !resource.selectable.is_empty() {
        served["selectableFields"] = resource.selectable.iter().map(|path| json!({"jsonPath": path})).collect();
    }
    let kind = resource.kind.manifest_kind();
    let mut object = json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/part-of": "tortie"}},
        "spec": {
            "group": group,
            "names": {
                "kind": kind,
                "listKind": format!("{kind}List"),
                "plural": resource.kind.plural(),
                "singular": kind.to_lowercase(),
            },
            "scope": if resource.kind.is_namespaced() { "Namespaced" } else { "Cluster" },
            "versions": [served],
        },
    });
    if !resource.short_names.is_empty() {
        object["spec"]["names"]["shortNames"] = json!(resource.short_names);
    }
    if group.ends_with(".k8s.io") {
        // The API server asks of groups of the Kubernetes project where their API was reviewed.
        object["metadata"]["annotations"] =
            json!({"api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/network-policy-api"});
    }
    Definition { kind: resource.kind, name, object }
}

/// What every object starts with.
fn type_meta() -> [(&'static str, Value); 2] {
    [
        ("apiVersion", json!({"type": "string", "description": "The group and version of the kind."})),
        ("kind", json!({"type": "string", "description": "The kind of the object."})),
    ]
}

/// A call of CEL's `matches`, with the pattern in quotes.
fn matches(value: &str, pattern: &str) -> String {
    let quoted = pattern.replace('\\', "\\\\").replace('\'', "\\'");
    format!("{value}.matches('{quoted}')")
}

/// Whether a field of text is set to anything.
fn is_set(field: &str) -> String {
    format!("(has(self.{field}) && self.{field} != '')")
}

/// An enumeration that is read in any case, with the empty text for a field that is not set.
pub(crate) fn names(about: &str, names: &[(&str, &str)]) -> Schema {
    let lines: Vec<String> = names.iter().map(|(name, about)| format!("- {name}:{about}")).collect();
    let lower: Vec<String> = names.iter().map(|(name, _)| format!("'{}'", name.to_lowercase())).collect();
    let listed: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
    json_schema!({
        "type": "string",
        "description": about.trim(),
        (structural::LINES): lines,
        "maxLength": 32,
        "x-kubernetes-validations": [{
            "rule": format!("self.lowerAscii() in ['', {}]", lower.join(", ")),
            "message": format!("must be one of {}", listed.join(", ")),
        }],
    })
}

/// The schema of a type by reference.
fn schema_of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// The files of `deploy/crds`, by name: one for each definition, and the `kustomization.yaml` that lists them.
pub fn files() -> Vec<(String, String)> {
    const HEAD: &str = "# Made by `make crds` from the types in api/: change those.\n";

    let definitions = definitions();
    let name = |definition: &Definition| format!("{}.yaml", definition.name);
    let resources: Vec<String> = definitions.iter().map(name).collect();
    let list =
        json!({"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": resources});
    let text = |object: &Value| {
        // Patterns are not folded, so that they can be read and searched.
        let options = serde_saphyr::ser_options! { folded_wrap_chars: usize::MAX };
        let yaml = serde_saphyr::to_string_with_options(object, options);
        format!("{HEAD}{}", yaml.unwrap_or_else(|error| panic!("{error}")))
    };
    let mut files: Vec<(String, String)> =
        definitions.iter().map(|definition| (name(definition), text(&definition.object))).collect();
    files.push(("kustomization.yaml".to_owned(), text(&list)));
    files
}
