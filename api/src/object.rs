//! Any resource, its kind, and its key.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::calico::{BgpConfiguration, IpPool, IpamBlock};
use crate::k8s::{Namespace, NetworkPolicy, Node, Pod};
use crate::meta::ObjectMeta;

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
}

/// Any resource that Tortie knows.
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

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::Pod => "Pod",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::IpPool => "IPPool",
            Self::BgpConfiguration => "BGPConfiguration",
            Self::IpamBlock => "IPAMBlock",
        })
    }
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
        }
    }

    /// The object's metadata.
    pub const fn metadata(&self) -> &ObjectMeta {
        match self {
            Self::Namespace(object) => &object.metadata,
            Self::Node(object) => &object.metadata,
            Self::Pod(object) => &object.metadata,
            Self::NetworkPolicy(object) => &object.metadata,
            Self::IpPool(object) => &object.metadata,
            Self::BgpConfiguration(object) => &object.metadata,
            Self::IpamBlock(object) => &object.metadata,
        }
    }

    /// The object's key.
    pub fn key(&self) -> ObjectKey {
        let metadata = self.metadata();
        ObjectKey { kind: self.kind(), namespace: metadata.namespace.clone(), name: metadata.name.clone() }
    }
}
