//! From a JSON value to a valid, defaulted [`Object`], as strictly as the API server with field validation on.
//!
//! The steps are those of the API server: find the kind by `apiVersion` and `kind`, read the fields (unknown ones are errors in
//! kinds that carry intent, and ignored in the slim ones), fill in defaults, validate.

mod value;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::field::{FieldError, Path, nearest};
use crate::kind::{CALICO_STORAGE, Kind};
use crate::object::Object;
use crate::validate;

/// What a value turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decoded {
    /// An object of a kind that Tortie acts upon; defaulted and valid. Boxed, as the other variants are small.
    Object(Box<Object>),
    /// An object of a kind that a cluster has and that this version need not look at (Service, Secret).
    Ignored,
    /// An object of a kind that Tortie does not know, with a sentence that says so.
    UnknownKind(String),
}

/// Kinds that are taken in silence: a cluster's manifests have them, and this version does nothing with them.
const IGNORED: [(&str, &str); 3] = [("v1", "Service"), ("v1", "Secret"), ("v1", "Endpoints")];

/// The fields of `meta/v1 ObjectMeta`, for kinds in which a mistyped field is an error.
const METADATA: [&str; 16] = [
    "name",
    "generateName",
    "namespace",
    "selfLink",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "labels",
    "annotations",
    "ownerReferences",
    "finalizers",
    "managedFields",
    "clusterName",
];

/// Reads, defaults and validates one object.
///
/// # Errors
/// Everything that is wrong with it, as far as it can be told: what does not fit the types ends the reading at once, while
/// validation lists all.
pub fn decode(value: &Value) -> Result<Decoded, Vec<FieldError>> {
    let Value::Object(map) = value else {
        return Err(vec![FieldError::invalid(Path::root(), value, "must be an object with apiVersion and kind")]);
    };
    let api_version =
        type_field(map, "apiVersion", "such as v1 or networking.k8s.io/v1").map_err(|error| vec![error])?;
    let kind_name = type_field(map, "kind", "such as Pod or NetworkPolicy").map_err(|error| vec![error])?;
    let kind = match find_kind(api_version, kind_name).map_err(|error| vec![error])? {
        Found::Kind(kind) => kind,
        Found::Ignored => return Ok(Decoded::Ignored),
        Found::Unknown(message) => return Ok(Decoded::UnknownKind(message)),
    };
    let mut object = read(kind, value).map_err(|error| vec![error])?;
    object.apply_defaults();
    let errors = validate::object(&object);
    if errors.is_empty() { Ok(Decoded::Object(Box::new(object))) } else { Err(errors) }
}

/// A field of `TypeMeta`, which must be a string and present.
fn type_field<'a>(map: &'a Map<String, Value>, name: &str, example: &str) -> Result<&'a str, FieldError> {
    let path = || Path::root().field(name);
    match map.get(name) {
        Some(Value::String(text)) if !text.is_empty() => Ok(text),
        None | Some(Value::Null | Value::String(_)) => Err(FieldError::required(path(), example)),
        Some(other) => Err(FieldError::invalid(path(), other, "must be a string")),
    }
}

enum Found {
    Kind(Kind),
    Ignored,
    Unknown(String),
}

fn find_kind(api_version: &str, name: &str) -> Result<Found, FieldError> {
    if IGNORED.contains(&(api_version, name)) {
        return Ok(Found::Ignored);
    }
    if let Some(kind) = Kind::of_manifest(api_version, name) {
        return Ok(Found::Kind(kind));
    }
    let namesakes: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| kind.manifest_kind() == name).collect();
    // An object that would be honoured under the right version must not be lost by a slip: no such type exists. Other projects have
    // kinds of the same names, in groups that look like none of ours.
    let versions: Vec<&str> = namesakes.iter().map(|kind| kind.api_version()).collect();
    let group = group(api_version);
    let groups: Vec<&str> = Kind::ALL.iter().map(|kind| self::group(kind.api_version())).collect();
    let is_ours = !group.contains('.') || api_version == CALICO_STORAGE || nearest(group, &groups).is_some();
    if is_ours && !namesakes.is_empty() {
        return Err(FieldError::not_supported(Path::root().field("apiVersion"), api_version, &versions));
    }
    let known: Vec<&str> = Kind::ALL.iter().map(|kind| kind.manifest_kind()).collect();
    let hint = match nearest(name, &known) {
        Some(kind) if kind != name => format!("did you mean {kind}?"),
        _ => "it has no effect".to_owned(),
    };
    Ok(Found::Unknown(format!("unknown kind {name} of {api_version}: {hint}")))
}

/// The group of `group/version`; empty for the core group.
fn group(api_version: &str) -> &str {
    api_version.rsplit_once('/').map_or("", |(group, _)| group)
}

/// Reads the fields of one kind.
fn read(kind: Kind, value: &Value) -> Result<Object, FieldError> {
    if kind.is_strict() {
        known_fields(value, &Path::root(), &["apiVersion", "kind", "metadata", "spec", "status"])?;
        known_fields(&value["metadata"], &Path::root().field("metadata"), &METADATA)?;
    }
    Ok(match kind {
        Kind::Namespace => Object::Namespace(typed(value, &[])?),
        Kind::Node => Object::Node(typed(value, &[])?),
        Kind::Pod => Object::Pod(typed(value, &[])?),
        Kind::NetworkPolicy => Object::NetworkPolicy(typed(value, &[])?),
        Kind::IpPool => Object::IpPool(typed(value, &crate::calico::IP_POOL_UNSUPPORTED)?),
        Kind::BgpConfiguration => {
            Object::BgpConfiguration(typed(value, &crate::calico::BGP_CONFIGURATION_UNSUPPORTED)?)
        }
        Kind::IpamBlock => Object::IpamBlock(typed(value, &[])?),
        Kind::FelixConfiguration => Object::FelixConfiguration(typed(value, &[])?),
        Kind::ServiceAccount => Object::ServiceAccount(typed(value, &[])?),
        Kind::EndpointSlice => Object::EndpointSlice(typed(value, &[])?),
        Kind::ClusterNetworkPolicy => Object::ClusterNetworkPolicy(typed(value, &[])?),
        Kind::Tier => Object::Tier(typed(value, &[])?),
        Kind::CalicoNetworkPolicy => Object::CalicoNetworkPolicy(typed(value, &[])?),
        Kind::GlobalNetworkPolicy => Object::GlobalNetworkPolicy(typed(value, &[])?),
        Kind::StagedNetworkPolicy => Object::StagedNetworkPolicy(typed(value, &[])?),
        Kind::StagedGlobalNetworkPolicy => Object::StagedGlobalNetworkPolicy(typed(value, &[])?),
        Kind::StagedKubernetesNetworkPolicy => Object::StagedKubernetesNetworkPolicy(typed(value, &[])?),
        Kind::NetworkSet => Object::NetworkSet(typed(value, &[])?),
        Kind::GlobalNetworkSet => Object::GlobalNetworkSet(typed(value, &[])?),
        Kind::HostEndpoint => Object::HostEndpoint(typed(value, &[])?),
        Kind::Profile => Object::Profile(typed(value, &[])?),
    })
}

/// Refuses the first field of a map that is not among the known ones. A null is no field.
fn known_fields(value: &Value, path: &Path, known: &[&str]) -> Result<(), FieldError> {
    let Value::Object(map) = value else { return Ok(()) };
    match map.iter().find(|(name, value)| !value.is_null() && !known.contains(&name.as_str())) {
        Some((name, _)) => Err(FieldError::unknown(path.field(name), name, known)),
        None => Ok(()),
    }
}

fn typed<T: DeserializeOwned>(value: &Value, unsupported: &[&str]) -> Result<T, FieldError> {
    T::deserialize(value::ValueReader(value)).map_err(|refusal| refusal.into_field_error(unsupported))
}
