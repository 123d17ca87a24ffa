//! Any resource, its kind, and its key.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::calico::{BgpConfiguration, FelixConfiguration, IpPool, IpamBlock};
use crate::decode::{Decoded, decode};
use crate::k8s::{Namespace, NetworkPolicy, Node, Pod, PolicyType};
use crate::meta::ObjectMeta;
use crate::validate;

/// The kinds that Tortie knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// `v1 Namespace`.
    Namespace,
    /// `v1 Node`.
    Node,
    /// `v1 Pod`.
    Pod,
    /// `networking.k8s.io/v1 NetworkPolicy`.
    NetworkPolicy,
    /// `projectcalico.org/v3 IPPool`.
    #[serde(rename = "IPPool")]
    IpPool,
    /// `projectcalico.org/v3 BGPConfiguration`.
    #[serde(rename = "BGPConfiguration")]
    BgpConfiguration,
    /// `projectcalico.org/v3 IPAMBlock`.
    #[serde(rename = "IPAMBlock")]
    IpamBlock,
    /// `projectcalico.org/v3 FelixConfiguration`.
    FelixConfiguration,
}

impl Kind {
    /// Every kind, in the order of the enum.
    pub const ALL: [Self; 8] = [
        Self::Namespace,
        Self::Node,
        Self::Pod,
        Self::NetworkPolicy,
        Self::IpPool,
        Self::BgpConfiguration,
        Self::IpamBlock,
        Self::FelixConfiguration,
    ];

    /// The kind as manifests spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::Pod => "Pod",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::IpPool => "IPPool",
            Self::BgpConfiguration => "BGPConfiguration",
            Self::IpamBlock => "IPAMBlock",
            Self::FelixConfiguration => "FelixConfiguration",
        }
    }

    /// Whether objects of this kind may have this name.
    ///
    /// # Errors
    /// What is wrong with it: a predicate, such as "must be no more than 253 bytes long".
    pub fn check_name(self, name: &str) -> Result<(), String> {
        validate::names::object_name(self)(name)
    }

    /// The `apiVersion` of manifests of this kind.
    pub const fn api_version(self) -> &'static str {
        match self {
            Self::Namespace | Self::Node | Self::Pod => "v1",
            Self::NetworkPolicy => "networking.k8s.io/v1",
            Self::IpPool | Self::BgpConfiguration | Self::IpamBlock | Self::FelixConfiguration => {
                "projectcalico.org/v3"
            }
        }
    }

    /// Whether objects of this kind belong to a namespace.
    pub const fn is_namespaced(self) -> bool {
        matches!(self, Self::Pod | Self::NetworkPolicy)
    }

    /// Whether the kind carries people's intent, so that a field we do not know is an error. What agents write themselves may come from
    /// a newer one.
    pub const fn is_strict(self) -> bool {
        !matches!(self, Self::Namespace | Self::Node | Self::Pod | Self::IpamBlock)
    }

    /// The plural and the short names that command lines take, in lower case.
    const fn names(self) -> &'static [&'static str] {
        match self {
            Self::Namespace => &["namespaces", "ns"],
            Self::Node => &["nodes", "no"],
            Self::Pod => &["pods", "po"],
            Self::NetworkPolicy => &["networkpolicies", "netpol", "netpols", "np"],
            Self::IpPool => &["ippools", "ipp", "ipps", "pool", "pools"],
            Self::BgpConfiguration => &["bgpconfigurations", "bgpconfig", "bgpconfigs"],
            Self::IpamBlock => &["ipamblocks", "block", "blocks"],
            Self::FelixConfiguration => &["felixconfigurations", "felixconfig", "felixconfigs"],
        }
    }
}

impl std::str::FromStr for Kind {
    type Err = String;

    /// Reads a kind as people type it: in any case, singular, plural or short (`netpol`).
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = text.to_lowercase();
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str().eq_ignore_ascii_case(&name) || kind.names().contains(&name.as_str()))
            .ok_or_else(|| {
                let known: Vec<&str> = Self::ALL.iter().map(|kind| kind.as_str()).collect();
                format!("unknown kind {text:?}: use one of {}", known.join(", "))
            })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Any resource that Tortie knows. It serialises as a manifest does, with `apiVersion` and `kind`, and deserialises through
/// [`decode`], so that what is read is defaulted and valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    /// `v1 Namespace`.
    Namespace(Namespace),
    /// `v1 Node`.
    Node(Node),
    /// `v1 Pod`.
    Pod(Pod),
    /// `networking.k8s.io/v1 NetworkPolicy`.
    NetworkPolicy(NetworkPolicy),
    /// `projectcalico.org/v3 IPPool`.
    IpPool(IpPool),
    /// `projectcalico.org/v3 BGPConfiguration`.
    BgpConfiguration(BgpConfiguration),
    /// `projectcalico.org/v3 IPAMBlock`.
    IpamBlock(IpamBlock),
    /// `projectcalico.org/v3 FelixConfiguration`. Boxed, as it has nearly 200 fields.
    FelixConfiguration(Box<FelixConfiguration>),
}

/// What identifies an object in a datastore.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectKey {
    /// The kind.
    pub kind: Kind,
    /// The namespace of a namespaced kind.
    pub namespace: Option<String>,
    /// The name.
    pub name: String,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

/// Runs an expression on whatever kind of object it is.
macro_rules! on_each_kind {
    ($object:expr, $name:ident => $body:expr) => {
        match $object {
            Object::Namespace($name) => $body,
            Object::Node($name) => $body,
            Object::Pod($name) => $body,
            Object::NetworkPolicy($name) => $body,
            Object::IpPool($name) => $body,
            Object::BgpConfiguration($name) => $body,
            Object::IpamBlock($name) => $body,
            Object::FelixConfiguration($name) => $body,
        }
    };
}

impl Object {
    /// The object's kind.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Namespace(_) => Kind::Namespace,
            Self::Node(_) => Kind::Node,
            Self::Pod(_) => Kind::Pod,
            Self::NetworkPolicy(_) => Kind::NetworkPolicy,
            Self::IpPool(_) => Kind::IpPool,
            Self::BgpConfiguration(_) => Kind::BgpConfiguration,
            Self::IpamBlock(_) => Kind::IpamBlock,
            Self::FelixConfiguration(_) => Kind::FelixConfiguration,
        }
    }

    /// The object's metadata.
    pub const fn metadata(&self) -> &ObjectMeta {
        on_each_kind!(self, object => &object.metadata)
    }

    /// The object's metadata, to be changed.
    pub const fn metadata_mut(&mut self) -> &mut ObjectMeta {
        on_each_kind!(self, object => &mut object.metadata)
    }

    /// The object's key.
    pub fn key(&self) -> ObjectKey {
        let metadata = self.metadata();
        ObjectKey { kind: self.kind(), namespace: metadata.namespace.clone(), name: metadata.name.clone() }
    }

    /// Fills in what the API server would: the namespace `default`, a namespace's own name as its label, the isolated directions of a
    /// policy; and brings CIDRs into their canonical form.
    pub fn apply_defaults(&mut self) {
        let namespaced = self.kind().is_namespaced();
        let metadata = self.metadata_mut();
        if !namespaced {
            metadata.namespace = None;
        } else if metadata.namespace.as_deref().is_none_or(str::is_empty) {
            metadata.namespace = Some("default".to_owned());
        }
        match self {
            Self::Namespace(namespace) => {
                let name = namespace.metadata.name.clone();
                namespace.metadata.labels.insert("kubernetes.io/metadata.name".to_owned(), name);
            }
            Self::NetworkPolicy(policy) => {
                let spec = &mut policy.spec;
                if spec.policy_types.is_empty() {
                    spec.policy_types.push(PolicyType::Ingress);
                    if !spec.egress.is_empty() {
                        spec.policy_types.push(PolicyType::Egress);
                    }
                }
            }
            Self::Node(_)
            | Self::Pod(_)
            | Self::IpPool(_)
            | Self::BgpConfiguration(_)
            | Self::IpamBlock(_)
            | Self::FelixConfiguration(_) => {}
        }
    }
}

/// The fields every manifest starts with, then those of the kind.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest<'a, T> {
    api_version: &'static str,
    kind: &'static str,
    #[serde(flatten)]
    object: &'a T,
}

impl Serialize for Object {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let kind = self.kind();
        on_each_kind!(self, object => {
            Manifest { api_version: kind.api_version(), kind: kind.as_str(), object }.serialize(serializer)
        })
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;

        match decode(&serde_json::Value::deserialize(deserializer)?) {
            Ok(Decoded::Object(object)) => Ok(*object),
            Ok(Decoded::Ignored) => Err(D::Error::custom("an object of a kind that is not read")),
            Ok(Decoded::UnknownKind(message)) => Err(D::Error::custom(message)),
            Err(errors) => {
                let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
                Err(D::Error::custom(errors.join("; ")))
            }
        }
    }
}
