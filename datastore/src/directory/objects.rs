//! The objects of a directory, each as the files that claim it have it, in little memory.
//!
//! A cluster has many pods that are alike but for their names: a Deployment's. So what is the same of pods is kept once, as JSON, and a
//! pod costs its name and some numbers. Policies are kept as JSON too, which is a third of their size as values. They are read again
//! when somebody asks, which is when something about them changes.

use std::borrow::Borrow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::path::Path;
use std::sync::Arc;

use tortie_api::k8s::{NetworkPolicy, Pod};
use tortie_api::{Kind, Object, ObjectKey};

use super::view::{hash, hex};

/// The number of an object that some file claims.
pub(super) type ObjectId = u32;

/// A file's claim to an object.
#[derive(Debug)]
pub(super) struct Claim {
    /// The file, relative to the directory.
    pub(super) file: Arc<Path>,
    /// Which of the file's documents it is.
    pub(super) position: u32,
    /// The line it starts on.
    pub(super) line: usize,
    object: Packed,
}

/// An object that is claimed.
#[derive(Debug)]
struct Entry {
    kind: Kind,
    namespace: Option<Arc<str>>,
    name: Box<str>,
    /// The first in order of path, then of line, has it; there is one at least.
    first: Claim,
    others: Vec<Claim>,
}

/// An object, put away.
#[derive(Debug)]
enum Packed {
    Pod {
        /// What it shares with others, as JSON.
        template: Arc<[u8]>,
        node: Option<Arc<str>>,
        version: u64,
    },
    Policy(Box<[u8]>),
    Other(Box<Object>),
}

/// Objects by key.
#[derive(Debug, Default)]
pub(super) struct Objects {
    /// By the digest of the key, of which no two are alike.
    ids: HashMap<[u8; 16], ObjectId>,
    entries: Vec<Option<Entry>>,
    free: Vec<ObjectId>,
    /// Those that several files claim.
    contested: BTreeSet<ObjectId>,
    /// What several entries have in common: namespaces and nodes, templates of pods.
    names: Pool<str>,
    templates: Pool<[u8]>,
}

impl Objects {
    /// The number of an object, if it is claimed.
    pub(super) fn id(&self, key: &ObjectKey) -> Option<ObjectId> {
        self.ids.get(&digest(key)).copied()
    }

    /// The object as the first of its claims has it.
    pub(super) fn get(&self, key: &ObjectKey) -> Option<Object> {
        let entry = self.entries.get(self.id(key)? as usize)?.as_ref()?;
        unpack(entry, &entry.first.object)
    }

    /// The keys of all objects of a kind, in order.
    pub(super) fn keys(&self, kind: Kind) -> Vec<ObjectKey> {
        let entries = self.entries.iter().flatten().filter(|entry| entry.kind == kind);
        let mut keys: Vec<ObjectKey> = entries.map(key).collect();
        keys.sort();
        keys
    }

    /// The key of an object.
    pub(super) fn key(&self, id: ObjectId) -> Option<ObjectKey> {
        self.entries.get(id as usize)?.as_ref().map(key)
    }

    /// Objects that several files claim, with their claims, the first of which is in force.
    pub(super) fn contested(&self) -> Vec<(ObjectKey, Vec<&Claim>)> {
        let entries = self.contested.iter().filter_map(|id| self.entries.get(*id as usize)?.as_ref());
        let mut contested: Vec<(ObjectKey, Vec<&Claim>)> =
            entries.map(|entry| (key(entry), std::iter::once(&entry.first).chain(&entry.others).collect())).collect();
        contested.sort_by(|(a, _), (b, _)| a.cmp(b));
        contested
    }

    /// Takes in a file's claim to an object. Returns the object's number.
    pub(super) fn claim(&mut self, file: &Arc<Path>, position: usize, line: usize, object: Object) -> ObjectId {
        let key = object.key();
        let object = self.pack(object);
        let claim =
            Claim { file: Arc::clone(file), position: u32::try_from(position).unwrap_or(u32::MAX), line, object };
        let digest = digest(&key);
        if let Some(&id) = self.ids.get(&digest)
            && let Some(Some(entry)) = self.entries.get_mut(id as usize)
        {
            entry.others.push(claim);
            entry.others.sort_by(order);
            if order(&entry.others[0], &entry.first).is_lt() {
                std::mem::swap(&mut entry.first, &mut entry.others[0]);
            }
            self.contested.insert(id);
            return id;
        }
        let namespace = key.namespace.as_deref().map(|namespace| self.names.share(namespace));
        let entry = Entry { kind: key.kind, namespace, name: key.name.into(), first: claim, others: Vec::new() };
        let id = self.free.pop().unwrap_or_else(|| {
            self.entries.push(None);
            ObjectId::try_from(self.entries.len() - 1).unwrap_or(ObjectId::MAX)
        });
        self.entries[id as usize] = Some(entry);
        self.ids.insert(digest, id);
        id
    }

    /// Takes back a file's claims to an object.
    pub(super) fn unclaim(&mut self, id: ObjectId, file: &Path) {
        let Some(slot) = self.entries.get_mut(id as usize) else { return };
        let Some(entry) = slot else { return };
        entry.others.retain(|claim| *claim.file != *file);
        if *entry.first.file == *file {
            if entry.others.is_empty() {
                let key = key(entry);
                *slot = None;
                self.ids.remove(&digest(&key));
                self.free.push(id);
                self.contested.remove(&id);
                self.names.sweep();
                self.templates.sweep();
                return;
            }
            entry.first = entry.others.remove(0);
        }
        if entry.others.is_empty() {
            entry.others = Vec::new();
            self.contested.remove(&id);
        }
    }

    fn pack(&mut self, object: Object) -> Packed {
        match object {
            Object::Pod(pod) => self.pack_pod(pod),
            Object::NetworkPolicy(policy) => match serde_json::to_vec(&policy) {
                Ok(json) if serde_json::from_slice(&json).is_ok_and(|read: NetworkPolicy| read == policy) => {
                    Packed::Policy(json.into())
                }
                _ => Packed::Other(Box::new(Object::NetworkPolicy(policy))),
            },
            object => Packed::Other(Box::new(object)),
        }
    }

    fn pack_pod(&mut self, pod: Pod) -> Packed {
        let version = pod.metadata.resource_version.as_deref().and_then(version_number);
        let Some(version) = version else { return Packed::Other(Box::new(Object::Pod(pod))) };
        let mut template = pod.clone();
        template.metadata.name = String::new();
        template.metadata.namespace = None;
        template.metadata.resource_version = None;
        let node = template.spec.node_name.take();
        // Nobody asks what a manifest says of them.
        template.status.pod_ips = Vec::new();
        let Ok(json) = serde_json::to_vec(&template) else { return Packed::Other(Box::new(Object::Pod(pod))) };
        let known = self.templates.0.get(json.as_slice()).map(Arc::clone);
        let readable = || serde_json::from_slice(&json).is_ok_and(|read: Pod| read == template);
        if known.is_none() && !readable() {
            return Packed::Other(Box::new(Object::Pod(pod)));
        }
        let template = known.unwrap_or_else(|| self.templates.share(&json));
        Packed::Pod { template, node: node.map(|node| self.names.share(&node)), version }
    }
}

fn order(a: &Claim, b: &Claim) -> std::cmp::Ordering {
    (&a.file, a.position).cmp(&(&b.file, b.position))
}

fn key(entry: &Entry) -> ObjectKey {
    let namespace = entry.namespace.as_deref().map(str::to_owned);
    ObjectKey { kind: entry.kind, namespace, name: entry.name.clone().into() }
}

fn digest(key: &ObjectKey) -> [u8; 16] {
    let namespace = key.namespace.as_deref().unwrap_or_default();
    // No name has a zero byte.
    let text = [key.kind.as_str(), namespace, &key.name].join("\0");
    let mut digest = [0; 16];
    digest.copy_from_slice(&hash(text.as_bytes())[..16]);
    digest
}

fn unpack(entry: &Entry, object: &Packed) -> Option<Object> {
    match object {
        Packed::Pod { template, node, version } => {
            let mut pod: Pod = serde_json::from_slice(template).ok()?;
            pod.metadata.name = entry.name.clone().into();
            pod.metadata.namespace = entry.namespace.as_deref().map(str::to_owned);
            pod.metadata.resource_version = Some(hex(&version.to_be_bytes()));
            pod.spec.node_name = node.as_deref().map(str::to_owned);
            Some(Object::Pod(pod))
        }
        Packed::Policy(json) => serde_json::from_slice(json).ok().map(Object::NetworkPolicy),
        Packed::Other(object) => Some((**object).clone()),
    }
}

/// The number that a version is, if it is 16 hex digits as ours are.
fn version_number(version: &str) -> Option<u64> {
    u64::from_str_radix(version, 16).ok().filter(|number| hex(&number.to_be_bytes()) == version)
}

/// Values that are kept once, whoever has them.
#[derive(Debug)]
struct Pool<T: ?Sized>(HashSet<Arc<T>>, usize);

impl<T: ?Sized> Default for Pool<T> {
    fn default() -> Self {
        Self(HashSet::new(), 0)
    }
}

impl<T: Eq + Hash + ?Sized> Pool<T> {
    fn share<'a>(&mut self, value: &'a T) -> Arc<T>
    where
        Arc<T>: From<&'a T> + Borrow<T>,
    {
        if let Some(there) = self.0.get(value) {
            return Arc::clone(there);
        }
        let new: Arc<T> = Arc::from(value);
        self.0.insert(Arc::clone(&new));
        new
    }

    /// Forgets, now and then, what nobody has any more.
    fn sweep(&mut self) {
        self.1 += 1;
        if self.1 > self.0.len() {
            self.0.retain(|value| Arc::strong_count(value) > 1);
            self.1 = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tortie_api::{Decoded, decode};

    use super::*;

    fn object(document: &serde_json::Value) -> Object {
        match decode(document) {
            Ok(Decoded::Object(object)) => *object,
            other => panic!("{document}: {other:?}"),
        }
    }

    fn pod(name: &str, app: &str, version: &str) -> Object {
        object(&json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": "a", "name": name, "labels": {"app": app}, "resourceVersion": version},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": [{"containerPort": 80, "name": "web"}]}]}}))
    }

    fn policy(name: &str) -> Object {
        object(&json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"namespace": "a", "name": name},
            "spec": {"podSelector": {"matchExpressions": [{"key": "x", "operator": "Exists"}]}, "ingress": [
                {"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}], "ports": [{"port": "web"}]}]}}))
    }

    #[test]
    fn what_is_put_away_comes_out_as_it_was() {
        let mut objects = Objects::default();
        let file: Arc<Path> = Path::new("a.yaml").into();
        let all = [
            pod("p1", "web", "00112233aabbccdd"),
            pod("p2", "web", "ffffffffffffffff"),
            pod("p3", "db", "written by hand"),
            pod("p4", "db", "00112233AABBCCDD"),
            policy("allow"),
            object(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}})),
        ];
        let ids: Vec<ObjectId> =
            all.iter().enumerate().map(|(n, object)| objects.claim(&file, n, n + 1, object.clone())).collect();
        for object in &all {
            assert_eq!(objects.get(&object.key()).as_ref(), Some(object));
        }
        assert_eq!(objects.templates.0.len(), 1, "two are alike, and two have a version of their own kind");
        assert_eq!(objects.keys(Kind::Pod).len(), 4);
        for id in ids {
            objects.unclaim(id, &file);
        }
        assert!(objects.ids.is_empty() && objects.entries.iter().all(Option::is_none));
        assert!(objects.names.0.is_empty() && objects.templates.0.is_empty(), "{objects:?}");
    }

    #[test]
    fn the_first_in_order_of_path_and_line_has_an_object() {
        let mut objects = Objects::default();
        let [a, b]: [Arc<Path>; 2] = ["a.yaml", "b.yaml"].map(|file| Path::new(file).into());
        let label = |objects: &Objects| {
            let key = pod("p", "", "").key();
            objects.get(&key).map(|object| object.metadata().labels["app"].clone())
        };
        let id = objects.claim(&b, 0, 1, pod("p", "b0", "0000000000000000"));
        assert_eq!(objects.claim(&a, 3, 9, pod("p", "a3", "0000000000000000")), id);
        objects.claim(&a, 1, 5, pod("p", "a1", "0000000000000000"));
        assert_eq!(label(&objects).as_deref(), Some("a1"));
        let contested = objects.contested();
        assert_eq!(contested[0].1.iter().map(|claim| claim.line).collect::<Vec<_>>(), [5, 9, 1]);
        objects.unclaim(id, &a);
        assert_eq!(label(&objects).as_deref(), Some("b0"));
        assert!(objects.contested().is_empty());
        objects.unclaim(id, &b);
        assert_eq!(label(&objects), None);
    }
}
