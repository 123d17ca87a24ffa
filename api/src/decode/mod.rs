//! From a JSON value to a valid, defaulted [`Object`], as strictly as the API server with field validation on.
//!
//! The steps are those of the API server: find the kind by `apiVersion` and `kind`, read the fields (unknown ones are errors in
//! kinds that carry intent, and ignored in the slim ones), fill in defaults, validate.

mod value;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::calico::{
    BLOCK_AFFINITY_FIELDS, BlockAffinity, IPAM_BLOCK_FIELDS, IPAM_HANDLE_FIELDS, IpamBlock, IpamHandle, other_fields,
};
use crate::field::{FieldError, Path, nearest};
use crate::kind::{CALICO_STORAGE, Kind};
use crate::object::Object;
use crate::validate;

/// What a value turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decoded {
    /// An object of a kind that Tortie acts upon; defaulted and valid. Boxed, as the other variants are small.
    Object(Box<Object>),
    /// An object of a kind that a cluster has and that this version need not look at (Service, Endpoints).
    Ignored,
    /// An object of a kind that Tortie does not know, with a sentence that says so.
    UnknownKind(String),
}

/// Kinds that are taken in silence: a cluster's manifests have them, and this version does nothing with them.
const IGNORED: [(&str, &str); 2] = [("v1", "Service"), ("v1", "Endpoints")];

/// Kinds of an earlier version of a group, which the later one says otherwise.
const REPLACED: [(&str, &str); 2] = [
    ("policy.networking.k8s.io/v1alpha1", "AdminNetworkPolicy"),
    ("policy.networking.k8s.io/v1alpha1", "BaselineAdminNetworkPolicy"),
];

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

/// Fields that the API has and this version does not honour: they are refused by name, so that none is silently ignored.
struct Unsupported {
    fields: &'static [&'static str],
    /// What the error says.
    remedy: &'static str,
}

impl Unsupported {
    /// Every field of the kind is honoured.
    const NONE: Self = Self { fields: &[], remedy: "" };

    /// Fields that are to come.
    const fn yet(fields: &'static [&'static str]) -> Self {
        Self { fields, remedy: "this field is not supported by this version: remove it" }
    }

    /// What Calico's rules say of requests, which takes a proxy beside each pod to see.
    const HTTP: Self = Self {
        fields: &["http"],
        remedy: "rules on HTTP requests need a proxy in the path, which this dataplane does not have: remove `http` and match \
                 addresses, protocols and ports only",
    };

    /// Peers of ClusterNetworkPolicy that stand in its experimental channel only.
    const NODES: Self = Self {
        fields: &["nodes"],
        remedy: "nodes as peers are not supported by this version: use `networks` with the nodes' addresses",
    };
}

/// The fields of `spec` of a Calico policy of this kind; one type has them all.
pub(crate) const fn policy_fields(kind: Kind) -> Option<&'static [&'static str]> {
    match kind {
        Kind::CalicoNetworkPolicy => Some(&[
            "tier",
            "order",
            "selector",
            "serviceAccountSelector",
            "types",
            "ingress",
            "egress",
            "performanceHints",
        ]),
        Kind::StagedNetworkPolicy => Some(&[
            "tier",
            "order",
            "selector",
            "serviceAccountSelector",
            "types",
            "ingress",
            "egress",
            "performanceHints",
            "stagedAction",
        ]),
        Kind::GlobalNetworkPolicy => Some(&[
            "tier",
            "order",
            "selector",
            "serviceAccountSelector",
            "namespaceSelector",
            "types",
            "ingress",
            "egress",
            "performanceHints",
            "doNotTrack",
            "preDNAT",
            "applyOnForward",
        ]),
        _ => None,
    }
}

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
    checked(read(kind, value).map_err(|error| vec![error])?).map(|object| Decoded::Object(Box::new(object)))
}

/// Reads, defaults and validates one object of a kind that the caller knows: in a list of the API server's the objects do not say
/// what they are.
///
/// # Errors
/// As of [`decode`]; also when `json` is no JSON.
pub fn decode_as(kind: Kind, json: &str) -> Result<Object, Vec<FieldError>> {
    // Of the slim kinds there are many, and nearly all are sound: what they do not need is skipped where it stands.
    if !kind.is_strict()
        && let Ok(object) = read_slim(kind, json)
    {
        return checked(object);
    }
    let value: Value =
        serde_json::from_str(json).map_err(|error| vec![FieldError::new(Path::root(), error.to_string())])?;
    checked(read(kind, &value).map_err(|error| vec![error])?)
}

/// Defaults and validates what was read.
fn checked(mut object: Object) -> Result<Object, Vec<FieldError>> {
    object.apply_defaults();
    let errors = validate::object(&object);
    if errors.is_empty() { Ok(object) } else { Err(errors) }
}

/// Reads an object of a slim kind as it is parsed.
fn read_slim(kind: Kind, json: &str) -> Result<Object, serde_json::Error> {
    Ok(match kind {
        Kind::Namespace => Object::Namespace(serde_json::from_str(json)?),
        Kind::Node => Object::Node(serde_json::from_str(json)?),
        Kind::Pod => Object::Pod(serde_json::from_str(json)?),
        Kind::ServiceAccount => Object::ServiceAccount(serde_json::from_str(json)?),
        Kind::Secret => Object::Secret(serde_json::from_str(json)?),
        Kind::EndpointSlice => Object::EndpointSlice(serde_json::from_str(json)?),
        _ => return Err(serde::de::Error::custom("not a slim kind")),
    })
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
        _ if REPLACED.contains(&(api_version, name)) => "ClusterNetworkPolicy took its place".to_owned(),
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
    if let Some(fields) = policy_fields(kind) {
        known_fields(&value["spec"], &Path::root().field("spec"), fields)?;
    }
    Ok(match kind {
        Kind::Namespace => Object::Namespace(typed(value, &Unsupported::NONE)?),
        Kind::Node => Object::Node(typed(value, &Unsupported::NONE)?),
        Kind::Pod => Object::Pod(typed(value, &Unsupported::NONE)?),
        Kind::NetworkPolicy => Object::NetworkPolicy(typed(value, &Unsupported::NONE)?),
        Kind::IpPool => Object::IpPool(typed(value, &Unsupported::yet(&crate::calico::IP_POOL_UNSUPPORTED))?),
        Kind::BgpConfiguration => Object::BgpConfiguration(typed(value, &Unsupported::NONE)?),
        Kind::IpamBlock => {
            let mut block: IpamBlock = typed(value, &Unsupported::NONE)?;
            block.spec.other = other_fields(value, &IPAM_BLOCK_FIELDS);
            Object::IpamBlock(block)
        }
        Kind::BlockAffinity => {
            let mut affinity: BlockAffinity = typed(value, &Unsupported::NONE)?;
            affinity.spec.other = other_fields(value, &BLOCK_AFFINITY_FIELDS);
            Object::BlockAffinity(affinity)
        }
        Kind::IpamHandle => {
            let mut handle: IpamHandle = typed(value, &Unsupported::NONE)?;
            handle.spec.other = other_fields(value, &IPAM_HANDLE_FIELDS);
            Object::IpamHandle(handle)
        }
        Kind::IpamConfiguration => Object::IpamConfiguration(typed(value, &Unsupported::NONE)?),
        Kind::IpReservation => Object::IpReservation(typed(value, &Unsupported::NONE)?),
        Kind::BgpPeer => Object::BgpPeer(typed(value, &Unsupported::NONE)?),
        Kind::BgpFilter => Object::BgpFilter(typed(value, &Unsupported::NONE)?),
        Kind::ClusterInformation => Object::ClusterInformation(typed(value, &Unsupported::NONE)?),
        Kind::CalicoNodeStatus => Object::CalicoNodeStatus(typed(value, &Unsupported::NONE)?),
        Kind::KubeControllersConfiguration => Object::KubeControllersConfiguration(typed(value, &Unsupported::NONE)?),
        Kind::FelixConfiguration => Object::FelixConfiguration(typed(value, &Unsupported::NONE)?),
        Kind::ServiceAccount => Object::ServiceAccount(typed(value, &Unsupported::NONE)?),
        Kind::Secret => Object::Secret(typed(value, &Unsupported::NONE)?),
        Kind::EndpointSlice => Object::EndpointSlice(typed(value, &Unsupported::NONE)?),
        Kind::ClusterNetworkPolicy => Object::ClusterNetworkPolicy(typed(value, &Unsupported::NODES)?),
        Kind::Tier => Object::Tier(typed(value, &Unsupported::NONE)?),
        Kind::CalicoNetworkPolicy => Object::CalicoNetworkPolicy(typed(value, &Unsupported::HTTP)?),
        Kind::GlobalNetworkPolicy => Object::GlobalNetworkPolicy(typed(value, &Unsupported::HTTP)?),
        Kind::StagedNetworkPolicy => Object::StagedNetworkPolicy(typed(value, &Unsupported::HTTP)?),
        Kind::StagedGlobalNetworkPolicy => Object::StagedGlobalNetworkPolicy(typed(value, &Unsupported::HTTP)?),
        Kind::StagedKubernetesNetworkPolicy => Object::StagedKubernetesNetworkPolicy(typed(value, &Unsupported::NONE)?),
        Kind::NetworkSet => Object::NetworkSet(typed(value, &Unsupported::NONE)?),
        Kind::GlobalNetworkSet => Object::GlobalNetworkSet(typed(value, &Unsupported::NONE)?),
        Kind::HostEndpoint => Object::HostEndpoint(typed(value, &Unsupported::NONE)?),
        Kind::Profile => Object::Profile(typed(value, &Unsupported::HTTP)?),
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

fn typed<T: DeserializeOwned>(value: &Value, unsupported: &Unsupported) -> Result<T, FieldError> {
    T::deserialize(value::ValueReader(value)).map_err(|refusal| refusal.into_field_error(unsupported))
}
