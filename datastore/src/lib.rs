//! Where resources come from: one trait, [`Datastore`], and [`directory::Directory`], the embedded default.
//!
//! A watch is a stream of [`Batch`]es. The first ones fill in what exists, the first with `in_sync` set ends that; every later batch is
//! one consistent change. Writes compare and swap on `metadata.resourceVersion`, so that two agents never both win.

pub mod directory;
pub mod edit;
mod files;
pub mod kubernetes;
mod leadership;
pub mod manifests;
mod yaml;

use std::collections::BTreeMap;

use async_trait::async_trait;
use tokio::sync::mpsc;
use tortie_api::{Kind, Object, ObjectKey};

pub use files::remedy;
pub use leadership::Leadership;

/// What changed between two consistent readings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// Changes, in no particular order; at most one per object.
    pub changes: Vec<Change>,
    /// Whether everything that exists has now been delivered.
    pub in_sync: bool,
    /// Identifies the content that has now been delivered.
    pub revision: String,
    /// Everything that is wrong with the content now; replaces the list of the batch before.
    pub problems: Vec<Problem>,
    /// For each kind whose objects have a `status` that agents see to, which of them have now been delivered. None in a Directory.
    pub digests: Digests,
    /// How many nodes have been delivered. None in a Directory.
    pub nodes: usize,
}

/// For each kind a number for its objects in their present generations: the same for all who have the same ones.
pub type Digests = BTreeMap<Kind, u64>;

/// One object's change.
// A batch is short-lived and mostly of upserts: a box for each would cost more than the room it saves.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Added or modified; defaulted and valid.
    Upsert(Object),
    /// Gone.
    Delete(ObjectKey),
}

/// Something wrong with a document: what, where, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// File and line, or object.
    pub place: String,
    /// The reason, with field and remedy.
    pub message: String,
    /// Whether it is only a warning (an unknown kind).
    pub warning: bool,
    /// The kind of the object that it is about; none where that cannot be told, as of a file that is no YAML.
    pub kind: Option<Kind>,
}

/// Why a write or a read failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The object is not there.
    #[error("{0} not found")]
    NotFound(ObjectKey),
    /// A create found the object already there.
    #[error("{0} already exists")]
    AlreadyExists(ObjectKey),
    /// Somebody else changed the object since it was read.
    #[error("{0} was changed by another writer; read it again")]
    Conflict(ObjectKey),
    /// The store itself failed.
    #[error("{place}: {reason}")]
    Store {
        /// File or address.
        place: String,
        /// What happened.
        reason: String,
    },
}

/// What an agent says of its node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeReport {
    /// By which IPv4 address others reach it, with its subnet (`projectcalico.org/IPv4Address`). None says nothing about it.
    pub ipv4: Option<ipnet::IpNet>,
    /// The same for IPv6 (`projectcalico.org/IPv6Address`).
    pub ipv6: Option<ipnet::IpNet>,
    /// Whether its pods have a network (the condition `NetworkUnavailable`). False says nothing about it: rules and routes outlive the
    /// agent, so that its start and its end are no news.
    pub network_available: bool,
}

/// Annotations of a node, by name; a value of none takes the annotation away.
pub type NodeAnnotations = BTreeMap<&'static str, Option<String>>;

/// A source of resources, and the place for what agents themselves write.
#[async_trait]
pub trait Datastore: Send + Sync {
    /// Starts a watch over every kind. The stream ends when the receiver is dropped.
    async fn watch(&self) -> Result<mpsc::Receiver<Batch>, Error>;

    /// Reads one object, with its `resourceVersion`.
    async fn get(&self, key: &ObjectKey) -> Result<Object, Error>;

    /// Reads all objects of a kind.
    async fn list(&self, kind: Kind) -> Result<Vec<Object>, Error>;

    /// Reads those objects of a kind that have a label with this value.
    async fn list_labelled(&self, kind: Kind, label: &str, value: &str) -> Result<Vec<Object>, Error> {
        let has = |object: &Object| object.metadata().labels.get(label).is_some_and(|found| found == value);
        Ok(self.list(kind).await?.into_iter().filter(has).collect())
    }

    /// Creates an object that agents own (an IPAM block); fails if it exists.
    async fn create(&self, object: &Object) -> Result<Object, Error>;

    /// Replaces an object that agents own if its `resourceVersion` is still the given object's.
    async fn update(&self, object: &Object) -> Result<Object, Error>;

    /// Deletes an object that agents own if its version is still `resource_version`.
    async fn delete(&self, key: &ObjectKey, resource_version: &str) -> Result<(), Error>;

    /// Says which addresses a pod has, in place of what was said before. `publisher` names who says so: one attachment on one node,
    /// since a pod of the same name may run elsewhere before the last trace of its predecessor is gone.
    async fn publish_pod_ips(
        &self,
        namespace: &str,
        pod: &str,
        publisher: &str,
        ips: &[std::net::IpAddr],
    ) -> Result<(), Error>;

    /// Takes back what `publisher` said of a pod. What somebody else has said since stays.
    async fn withdraw_pod_ips(&self, namespace: &str, pod: &str, publisher: &str) -> Result<(), Error>;

    /// Says on a node's object how others reach the node, and whether its pods have a network. Nothing in a Directory, where what is said
    /// of nodes is people's.
    async fn publish_node(&self, _node: &str, _report: &NodeReport) -> Result<(), Error> {
        Ok(())
    }

    /// Says something of a node by annotations of its object, each with its new value; none takes back what was said. Others stay.
    async fn annotate_node(&self, _node: &str, _annotations: &NodeAnnotations) -> Result<(), Error> {
        Ok(())
    }

    /// The addresses of type `InternalIP` that a node's object has.
    async fn node_addresses(&self, node: &str) -> Result<Vec<std::net::IpAddr>, Error> {
        let key = ObjectKey { kind: Kind::Node, namespace: None, name: node.to_owned() };
        match self.get(&key).await? {
            Object::Node(node) => Ok(node.internal_ips()),
            _ => Ok(Vec::new()),
        }
    }

    /// Shows all objects of a kind, one after the other, for who needs of each but a little: a store that reads by the page never has
    /// all of them in memory.
    async fn visit(&self, kind: Kind, see: &mut (dyn FnMut(Object) + Send)) -> Result<(), Error> {
        self.list(kind).await?.into_iter().for_each(see);
        Ok(())
    }

    /// Waits until `holder` leads, alone in the cluster, in a duty. A store that cannot tell who leads lets nobody.
    async fn lead(&self, duty: &str, holder: &str) -> Result<Leadership, Error> {
        let reason = format!("nobody can lead here, and {holder} was to");
        Err(Error::Store { place: format!("the duty {duty}"), reason })
    }

    /// Since when a watch has been at one piece of work, such as reading what has changed; none while all wait for changes. A disk
    /// that hangs shows here.
    fn busy_since(&self) -> Option<std::time::Instant> {
        None
    }
}
