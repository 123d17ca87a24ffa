//! The objects of a directory, each as the files that claim it have it, in little memory.
//!
//! A cluster has many pods that are alike but for their names: a Deployment's. So what is the same of pods is kept once, as JSON, and a
//! pod costs its name and some numbers. Policies, of which many namespaces have the same, are kept likewise; as JSON they are a third of
//! their size as values. They are read again when somebody asks, which is when something about them changes.

use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher, Hash, RandomState};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Slot;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tortie_api::k8s::Pod;
use tortie_api::{Kind, Object, ObjectKey, ObjectMeta};

use super::view::hex;

/// The number of an object that some file claims.
pub(super) type ObjectId = u32;

/// A file's claim to an object.
#[derive(Debug)]
pub(super) struct Claim {
    /// The file, relative to the directory.
    pub(super) file: Arc<PathBuf>,
    /// Which of the file's documents it is.
    pub(super) position: u32,
    /// The line it starts on.
    pub(super) line: u32,
    object: Packed,
}

/// An object that is claimed.
#[derive(Debug)]
struct Entry {
    kind: Kind,
    namespace: Option<Arc<Box<str>>>,
    name: Box<str>,
    /// The claim that is in force: the first in order of path, then of line.
    first: Claim,
}

/// An object, put away.
#[derive(Debug)]
enum Packed {
    /// A pod or a policy, of whichever kind.
    Alike {
        /// What it shares with others, as JSON.
        template: Arc<Box<[u8]>>,
        node: Option<Arc<Box<str>>>,
        version: u64,
    },
    Other(Box<Object>),
}

/// Objects by key.
#[derive(Debug, Default)]
pub(super) struct Objects {
    /// By key, which the entries have.
    ids: HashTable<ObjectId>,
    hasher: RandomState,
    entries: Vec<Option<Entry>>,
    free: Vec<ObjectId>,
    /// Of those that several files claim, the claims that are not in force, in order.
    contested: BTreeMap<ObjectId, Vec<Claim>>,
    /// What several entries have in common: namespaces and nodes, templates.
    names: Pool<str>,
    templates: Pool<[u8]>,
}

impl Objects {
    /// The number of an object, if it is claimed.
    pub(super) fn id(&self, key: &ObjectKey) -> Option<ObjectId> {
        let hash = self.hasher.hash_one(parts(key));
        self.ids.find(hash, |id| is_named(&self.entries, *id, key)).copied()
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
        let contested = self.contested.iter().filter_map(|(id, others)| {
            let entry = self.entries.get(*id as usize)?.as_ref()?;
            Some((key(entry), std::iter::once(&entry.first).chain(others).collect()))
        });
        let mut contested: Vec<(ObjectKey, Vec<&Claim>)> = contested.collect();
        contested.sort_by(|(a, _), (b, _)| a.cmp(b));
        contested
    }

    /// Takes in a file's claim to an object. Returns the object's number.
    pub(super) fn claim(&mut self, file: &Arc<PathBuf>, position: usize, line: usize, object: Object) -> ObjectId {
        let key = object.key();
        let object = self.pack(object);
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let mut claim = Claim { file: Arc::clone(file), position: number(position), line: number(line), object };
        let Self { ids, hasher, entries, .. } = self;
        let hash = hasher.hash_one(parts(&key));
        let hash_again = |id: &ObjectId| {
            let entry = entries.get(*id as usize).and_then(Option::as_ref);
            entry.map_or(0, |entry| hasher.hash_one(entry_parts(entry)))
        };
        match ids.entry(hash, |id| is_named(entries, *id, &key), hash_again) {
            Slot::Occupied(slot) => {
                let id = *slot.get();
                if let Some(Some(entry)) = self.entries.get_mut(id as usize) {
                    if order(&claim, &entry.first).is_lt() {
                        std::mem::swap(&mut entry.first, &mut claim);
                    }
                    let others = self.contested.entry(id).or_default();
                    others.push(claim);
                    others.sort_by(order);
                }
                id
            }
            Slot::Vacant(slot) => {
                let id = self.free.pop().unwrap_or_else(|| number(self.entries.len()));
                slot.insert(id);
                let namespace = key.namespace.map(|namespace| self.names.share(namespace.into()));
                let entry = Some(Entry { kind: key.kind, namespace, name: key.name.into(), first: claim });
                if let Some(free) = self.entries.get_mut(id as usize) {
                    *free = entry;
                } else {
                    self.entries.push(entry);
                }
                id
            }
        }
    }

    /// Takes back a file's claims to an object.
    pub(super) fn unclaim(&mut self, id: ObjectId, file: &Path) {
        let Some(Some(entry)) = self.entries.get_mut(id as usize) else { return };
        let mut others = self.contested.remove(&id).unwrap_or_default();
        others.retain(|claim| **claim.file != *file);
        if **entry.first.file == *file {
            if others.is_empty() {
                let hash = self.hasher.hash_one(entry_parts(entry));
                if let Ok(slot) = self.ids.find_entry(hash, |other| *other == id) {
                    slot.remove();
                }
                self.entries[id as usize] = None;
                self.free.push(id);
                self.names.sweep();
                self.templates.sweep();
                return;
            }
            entry.first = others.remove(0);
        }
        if !others.is_empty() {
            self.contested.insert(id, others);
        }
    }

    /// Gives back the room that was made for more.
    pub(super) fn shrink(&mut self) {
        self.entries.shrink_to_fit();
    }

    fn pack(&mut self, object: Object) -> Packed {
        let packed = match &object {
            Object::Pod(pod) => self.pack_pod(pod),
            Object::NetworkPolicy(policy) => self.pack_policy(policy, |policy| &mut policy.metadata),
            Object::CalicoNetworkPolicy(policy)
            | Object::GlobalNetworkPolicy(policy)
            | Object::StagedNetworkPolicy(policy)
            | Object::StagedGlobalNetworkPolicy(policy) => self.pack_policy(&**policy, |policy| &mut policy.metadata),
            Object::StagedKubernetesNetworkPolicy(policy) => self.pack_policy(&**policy, |policy| &mut policy.metadata),
            Object::ClusterNetworkPolicy(policy) => self.pack_policy(&**policy, |policy| &mut policy.metadata),
            _ => None,
        };
        packed.unwrap_or_else(|| Packed::Other(Box::new(object)))
    }

    fn pack_pod(&mut self, pod: &Pod) -> Option<Packed> {
        let mut template = pod.clone();
        let version = take_identity(&mut template.metadata)?;
        let node = template.spec.node_name.take();
        // Nobody asks what a manifest says of them.
        template.status.pod_ips = Vec::new();
        let json = serde_json::to_vec(&template).ok()?;
        let template =
            self.template(json, |json| serde_json::from_slice(json).is_ok_and(|read: Pod| read == template))?;
        Some(Packed::Alike { template, node: node.map(|node| self.names.share(node.into())), version })
    }

    fn pack_policy<T>(&mut self, policy: &T, metadata: impl Fn(&mut T) -> &mut ObjectMeta) -> Option<Packed>
    where
        T: Clone + PartialEq + Serialize + DeserializeOwned,
    {
        let mut template = policy.clone();
        let version = take_identity(metadata(&mut template))?;
        let json = serde_json::to_vec(&template).ok()?;
        let readable = |json: &[u8]| serde_json::from_slice(json).is_ok_and(|read: T| read == template);
        Some(Packed::Alike { template: self.template(json, readable)?, node: None, version })
    }

    /// The template of this JSON, if it can be read as what it was written from.
    fn template(&mut self, json: Vec<u8>, readable: impl FnOnce(&[u8]) -> bool) -> Option<Arc<Box<[u8]>>> {
        let json = json.into_boxed_slice();
        (self.templates.0.contains(&json) || readable(&json)).then(|| self.templates.share(json))
    }
}

/// Takes out of an object's metadata what tells it from others that are alike, and returns the version, if it is a number.
fn take_identity(metadata: &mut ObjectMeta) -> Option<u64> {
    metadata.name = String::new();
    metadata.namespace = None;
    metadata.resource_version.take().as_deref().and_then(version_number)
}

/// Puts back what [`take_identity`] took out.
fn restore_identity(metadata: &mut ObjectMeta, entry: &Entry, version: u64) {
    let ObjectKey { namespace, name, .. } = key(entry);
    metadata.name = name;
    metadata.namespace = namespace;
    metadata.resource_version = Some(hex(&version.to_be_bytes()));
}

fn order(a: &Claim, b: &Claim) -> std::cmp::Ordering {
    (&a.file, a.position).cmp(&(&b.file, b.position))
}

fn key(entry: &Entry) -> ObjectKey {
    let (_, namespace, name) = entry_parts(entry);
    ObjectKey { kind: entry.kind, namespace: namespace.map(str::to_owned), name: name.to_owned() }
}

/// What a key consists of, as it is hashed.
fn parts(key: &ObjectKey) -> (&'static str, Option<&str>, &str) {
    (key.kind.as_str(), key.namespace.as_deref(), &key.name)
}

fn entry_parts(entry: &Entry) -> (&'static str, Option<&str>, &str) {
    (entry.kind.as_str(), entry.namespace.as_ref().map(|namespace| &***namespace), &entry.name)
}

/// Whether the object of that number has this key.
fn is_named(entries: &[Option<Entry>], id: ObjectId, key: &ObjectKey) -> bool {
    matches!(entries.get(id as usize), Some(Some(entry)) if entry_parts(entry) == parts(key))
}

fn unpack(entry: &Entry, object: &Packed) -> Option<Object> {
    let (template, node, version) = match object {
        Packed::Alike { template, node, version } => (template, node, *version),
        Packed::Other(object) => return Some((**object).clone()),
    };
    let mut object = match entry.kind {
        Kind::Pod => {
            let mut pod: Pod = serde_json::from_slice(template).ok()?;
            pod.spec.node_name = node.as_deref().map(ToString::to_string);
            Object::Pod(pod)
        }
        Kind::NetworkPolicy => Object::NetworkPolicy(serde_json::from_slice(template).ok()?),
        Kind::CalicoNetworkPolicy => Object::CalicoNetworkPolicy(serde_json::from_slice(template).ok()?),
        Kind::GlobalNetworkPolicy => Object::GlobalNetworkPolicy(serde_json::from_slice(template).ok()?),
        Kind::StagedNetworkPolicy => Object::StagedNetworkPolicy(serde_json::from_slice(template).ok()?),
        Kind::StagedGlobalNetworkPolicy => Object::StagedGlobalNetworkPolicy(serde_json::from_slice(template).ok()?),
        Kind::StagedKubernetesNetworkPolicy => {
            Object::StagedKubernetesNetworkPolicy(serde_json::from_slice(template).ok()?)
        }
        Kind::ClusterNetworkPolicy => Object::ClusterNetworkPolicy(serde_json::from_slice(template).ok()?),
        // Nothing else is put away so.
        _ => return None,
    };
    restore_identity(object.metadata_mut(), entry, version);
    Some(object)
}

/// The number that a version is, if it is 16 hex digits as ours are.
fn version_number(version: &str) -> Option<u64> {
    u64::from_str_radix(version, 16).ok().filter(|number| hex(&number.to_be_bytes()) == version)
}

/// Values that are kept once, whoever has them. Those are very many, so the pointers are thin.
#[derive(Debug)]
struct Pool<T: ?Sized>(HashSet<Arc<Box<T>>>, usize);

impl<T: ?Sized> Default for Pool<T> {
    fn default() -> Self {
        Self(HashSet::new(), 0)
    }
}

impl<T: Eq + Hash + ?Sized> Pool<T> {
    fn share(&mut self, value: Box<T>) -> Arc<Box<T>> {
        if let Some(there) = self.0.get(&value) {
            return Arc::clone(there);
        }
        let new = Arc::new(value);
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

    fn policy(name: &str, version: &str) -> Object {
        object(&json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"namespace": "a", "name": name, "resourceVersion": version},
            "spec": {"podSelector": {"matchExpressions": [{"key": "x", "operator": "Exists"}]}, "ingress": [
                {"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}], "ports": [{"port": "web"}]}]}}))
    }

    /// One of each other kind of policy, and one that is alike the first.
    fn policies() -> Vec<Object> {
        let rules = json!([{"action": "Allow", "protocol": "TCP", "source": {"selector": "app == 'web'"}, "destination": {"ports": ["1:2", "dns"]}},
            {"action": "Deny", "source": {"nets": ["10.0.0.0/8"], "namespaceSelector": "global()"}}]);
        let calico = json!({"tier": "t", "order": 1.5, "selector": "has(a)", "ingress": rules, "types": ["Ingress"]});
        let kubernetes = json!({"podSelector": {}, "ingress": [{}]});
        let cluster = json!({"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}, "egress": [
            {"action": "Deny", "to": [{"networks": ["10.0.0.0/8"]}, {"pods": {"podSelector": {}}}], "protocols": [{"tcp": {"destinationPort": {"number": 80}}}]}]});
        [
            (Kind::CalicoNetworkPolicy, "one", &calico),
            (Kind::CalicoNetworkPolicy, "two", &calico),
            (Kind::GlobalNetworkPolicy, "global", &calico),
            (Kind::StagedNetworkPolicy, "staged", &calico),
            (Kind::StagedGlobalNetworkPolicy, "staged", &json!({"stagedAction": "Delete"})),
            (Kind::StagedKubernetesNetworkPolicy, "staged", &kubernetes),
            (Kind::ClusterNetworkPolicy, "cluster", &cluster),
        ]
        .into_iter()
        .map(|(kind, name, spec)| {
            object(&json!({"apiVersion": kind.api_version(), "kind": kind.manifest_kind(),
                "metadata": {"name": name, "resourceVersion": "00112233aabbccdd"}, "spec": spec}))
        })
        .collect()
    }

    #[test]
    fn policies_of_every_kind_are_put_away() {
        let mut objects = Objects::default();
        let file = Arc::new(PathBuf::from("a.yaml"));
        let all = policies();
        for (n, object) in all.iter().enumerate() {
            objects.claim(&file, n, n + 1, object.clone());
        }
        for object in &all {
            assert_eq!(objects.get(&object.key()).as_ref(), Some(object));
        }
        let put_away = |entry: &Entry| matches!(entry.first.object, Packed::Alike { .. });
        assert!(objects.entries.iter().flatten().all(put_away), "{objects:?}");
        assert_eq!(objects.templates.0.len(), 5, "three say the same");
    }

    #[test]
    fn what_is_put_away_comes_out_as_it_was() {
        let mut objects = Objects::default();
        let file = Arc::new(PathBuf::from("a.yaml"));
        let all = [
            pod("p1", "web", "00112233aabbccdd"),
            pod("p2", "web", "ffffffffffffffff"),
            pod("p3", "db", "written by hand"),
            pod("p4", "db", "00112233AABBCCDD"),
            policy("allow", "00112233aabbccdd"),
            policy("allow-too", "00112233aabbccde"),
            policy("handmade", "1"),
            object(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}})),
        ];
        let ids: Vec<ObjectId> =
            all.iter().enumerate().map(|(n, object)| objects.claim(&file, n, n + 1, object.clone())).collect();
        for object in &all {
            assert_eq!(objects.get(&object.key()).as_ref(), Some(object));
        }
        assert_eq!(objects.templates.0.len(), 2, "two of each are alike, and others have a version of their own kind");
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
        let [a, b] = ["a.yaml", "b.yaml"].map(|file| Arc::new(PathBuf::from(file)));
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
