//! What the tests share: a datastore in memory with the semantics of the real one.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Mutex;

use async_trait::async_trait;
use tokio::sync::mpsc;
use tortie_api::{Kind, Object, ObjectKey, decode};
use tortie_datastore::{Batch, Datastore, Error, Leadership};

/// Objects by key, a version counter, and what was published of pods.
#[derive(Default)]
pub(crate) struct Memory {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<ObjectKey, Object>,
    version: u64,
    /// By pod: who says it, and what.
    published: BTreeMap<(String, String), (String, Vec<IpAddr>)>,
    /// The kinds of which all objects were read.
    listed: Vec<Kind>,
}

/// An object from YAML-like JSON, defaulted and valid.
pub(crate) fn object(json: &serde_json::Value) -> Object {
    match decode(json) {
        Ok(tortie_api::Decoded::Object(object)) => *object,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn pod(namespace: &str, name: &str, pinned: Option<&str>) -> serde_json::Value {
    let mut pod = serde_json::json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": namespace, "name": name},
        "spec": {"containers": [{"name": "c"}]},
    });
    if let Some(pinned) = pinned {
        pod["metadata"]["annotations"] = serde_json::json!({"cni.projectcalico.org/ipAddrs": pinned});
    }
    pod
}

pub(crate) fn pool(name: &str, cidr: &str, more: &serde_json::Value) -> serde_json::Value {
    let mut spec = serde_json::json!({"cidr": cidr});
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    serde_json::json!({"apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": {"name": name}, "spec": spec})
}

impl Memory {
    pub(crate) fn with(objects: &[serde_json::Value]) -> Self {
        let this = Self::default();
        for json in objects {
            this.put(json);
        }
        this
    }

    /// What a user does: no version is checked.
    pub(crate) fn put(&self, json: &serde_json::Value) {
        let object = object(json);
        self.state.lock().expect("the lock").objects.insert(object.key(), object);
    }

    /// What a user deletes.
    pub(crate) fn remove(&self, kind: Kind, namespace: Option<&str>, name: &str) {
        let key = ObjectKey { kind, namespace: namespace.map(str::to_owned), name: name.to_owned() };
        self.state.lock().expect("the lock").objects.remove(&key).expect("it was there");
    }

    /// The kinds of which all objects were read since this was asked last.
    pub(crate) fn take_listed(&self) -> Vec<Kind> {
        std::mem::take(&mut self.state.lock().expect("the lock").listed)
    }

    pub(crate) fn published(&self, namespace: &str, pod: &str) -> Option<Vec<IpAddr>> {
        let key = (namespace.to_owned(), pod.to_owned());
        self.state.lock().expect("the lock").published.get(&key).map(|(_, ips)| ips.clone())
    }
}

#[async_trait]
impl Datastore for Memory {
    async fn watch(&self) -> Result<mpsc::Receiver<Batch>, Error> {
        Ok(mpsc::channel(1).1)
    }

    async fn get(&self, key: &ObjectKey) -> Result<Object, Error> {
        let state = self.state.lock().expect("the lock");
        state.objects.get(key).cloned().ok_or_else(|| Error::NotFound(key.clone()))
    }

    async fn list(&self, kind: Kind) -> Result<Vec<Object>, Error> {
        // Between reading and writing others get their turn, as with a real store.
        tokio::task::yield_now().await;
        let mut state = self.state.lock().expect("the lock");
        state.listed.push(kind);
        Ok(state.objects.values().filter(|object| object.kind() == kind).cloned().collect())
    }

    async fn create(&self, object: &Object) -> Result<Object, Error> {
        let mut state = self.state.lock().expect("the lock");
        if state.objects.contains_key(&object.key()) {
            return Err(Error::AlreadyExists(object.key()));
        }
        Ok(state.write(object))
    }

    async fn update(&self, object: &Object) -> Result<Object, Error> {
        let mut state = self.state.lock().expect("the lock");
        let key = object.key();
        let Some(there) = state.objects.get(&key) else { return Err(Error::NotFound(key)) };
        if there.metadata().resource_version != object.metadata().resource_version {
            return Err(Error::Conflict(key));
        }
        Ok(state.write(object))
    }

    async fn delete(&self, key: &ObjectKey, version: &str) -> Result<(), Error> {
        let mut state = self.state.lock().expect("the lock");
        let Some(there) = state.objects.get(key) else { return Err(Error::NotFound(key.clone())) };
        if there.metadata().resource_version.as_deref() != Some(version) {
            return Err(Error::Conflict(key.clone()));
        }
        state.objects.remove(key);
        Ok(())
    }

    async fn lead(&self, _: &str, _: &str) -> Result<Leadership, Error> {
        let (lost, seen) = tokio::sync::watch::channel(false);
        Ok(Leadership::new(seen, lost))
    }

    async fn publish_pod_ips(&self, namespace: &str, pod: &str, publisher: &str, ips: &[IpAddr]) -> Result<(), Error> {
        let mut state = self.state.lock().expect("the lock");
        state.published.insert((namespace.to_owned(), pod.to_owned()), (publisher.to_owned(), ips.to_vec()));
        Ok(())
    }

    async fn withdraw_pod_ips(&self, namespace: &str, pod: &str, publisher: &str) -> Result<(), Error> {
        let mut state = self.state.lock().expect("the lock");
        let key = (namespace.to_owned(), pod.to_owned());
        if state.published.get(&key).is_some_and(|(by, _)| by == publisher) {
            state.published.remove(&key);
        }
        Ok(())
    }
}

impl State {
    fn write(&mut self, object: &Object) -> Object {
        // What a real store does: the object goes through its text, and must be valid.
        let mut object = self::object(&serde_json::to_value(object).expect("JSON"));
        self.version += 1;
        object.metadata_mut().resource_version = Some(self.version.to_string());
        self.objects.insert(object.key(), object.clone());
        object
    }
}
