//! The lab's Directory datastore: a copy of the user's manifests, and what the lab itself writes into it.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tortie_api::Object;
use tortie_datastore::manifests::{self, Document, DocumentKey, Loaded};
use tortie_datastore::{directory, edit};

use crate::Error;
use crate::state::{Node, State};

/// A document and, of a kind that Tortie acts upon, its object.
#[derive(Debug, Clone)]
pub struct Entry {
    /// What identifies it.
    pub key: DocumentKey,
    /// All of its fields.
    pub value: Value,
    /// The object.
    pub object: Option<Object>,
}

impl From<Document> for Entry {
    fn from(document: Document) -> Self {
        Self { key: document.key, value: document.value, object: document.object }
    }
}

/// Reads manifests; any problem beyond a warning is an error. Warnings go to `warn`.
pub fn read(paths: &[PathBuf], warn: &dyn Fn(&str)) -> Result<Vec<Entry>, Error> {
    let loaded = manifests::load(paths);
    check(&loaded, warn)?;
    Ok(loaded.documents.into_iter().map(Entry::from).collect())
}

fn check(loaded: &Loaded, warn: &dyn Fn(&str)) -> Result<(), Error> {
    let text = |problem: &tortie_datastore::Problem| format!("{}: {}", problem.place, problem.message);
    loaded.problems.iter().filter(|problem| problem.warning).for_each(|problem| warn(&text(problem)));
    let errors: Vec<String> = loaded.problems.iter().filter(|problem| !problem.warning).map(text).collect();
    if errors.is_empty() { Ok(()) } else { Err(Error::Failed(errors.join("\n"))) }
}

/// Reads documents of our own.
pub fn read_text(origin: &str, text: &str) -> Result<Vec<Entry>, Error> {
    let loaded = manifests::load_text(origin, text);
    check(&loaded, &|_| ())?;
    Ok(loaded.documents.into_iter().map(Entry::from).collect())
}

/// What the lab's datastore holds, each document once, as the agents see it: of a file in error the last good version counts. Besides
/// it, what is wrong.
pub fn current(directory: &Path) -> Result<(Vec<Entry>, Vec<String>), Error> {
    let loaded = directory::in_force(directory).map_err(|error| Error::Failed(error.to_string()))?;
    let errors = loaded.problems.iter().filter(|problem| !problem.warning);
    let warnings = errors.map(|problem| format!("{}: {}", problem.place, problem.message)).collect();
    let mut seen = std::collections::HashSet::new();
    let entries = loaded.documents.into_iter().filter(|document| seen.insert(document.key.clone()));
    Ok((entries.map(Entry::from).collect(), warnings))
}

/// The objects of the entries, in their order.
pub fn objects(entries: &[Entry]) -> Vec<Object> {
    entries.iter().filter_map(|entry| entry.object.clone()).collect()
}

/// Puts an entry in the place of the one with its key, or at the end.
pub fn merge(entries: &mut Vec<Entry>, entry: Entry) {
    match entries.iter_mut().find(|known| known.key == entry.key) {
        Some(known) => *known = entry,
        None => entries.push(entry),
    }
}

/// The pools of a lab whose manifests bring none.
pub fn default_pools() -> Result<Vec<Entry>, Error> {
    let pool = |name: &str, cidr: &str| {
        entry(&json!({
            "apiVersion": "projectcalico.org/v3", "kind": "IPPool",
            "metadata": {"name": name}, "spec": {"cidr": cidr},
        }))
    };
    Ok(vec![pool("default-ipv4-ippool", "10.244.0.0/16")?, pool("default-ipv6-ippool", "fd00:10:244::/48")?])
}

/// Makes an entry of a document of our own.
fn entry(value: &Value) -> Result<Entry, Error> {
    let text = value.to_string();
    let entries = read_text("the lab's own document", &text)?;
    entries.into_iter().next().ok_or_else(|| Error::Failed(format!("not a document: {text}")))
}

/// Writes what the plan decided into the documents: every node has one with both addresses, every pod has its node. The entries
/// that changed or came.
pub fn complete(entries: &mut Vec<Entry>, state: &State) -> Result<Vec<Entry>, Error> {
    let mut changed = Vec::new();
    for node in &state.nodes {
        let known = entries
            .iter()
            .find(|entry| matches!(&entry.object, Some(Object::Node(known)) if known.metadata.name == node.name));
        let value = known.map_or_else(
            || json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node.name}}),
            |entry| entry.value.clone(),
        );
        let full = with_addresses(value, node);
        if known.is_none_or(|known| known.value != full) {
            changed.push(entry(&full)?);
        }
    }
    for pod in &state.pods {
        let known = entries.iter().find(|entry| {
            matches!(&entry.object, Some(Object::Pod(known)) if known.metadata.name == pod.name
                && known.metadata.namespace.as_deref().unwrap_or("default") == pod.namespace)
        });
        let Some(known) = known else { continue };
        if known.value["spec"]["nodeName"] != pod.node.as_str() {
            let mut value = known.value.clone();
            value["spec"]["nodeName"] = json!(pod.node);
            changed.push(entry(&value)?);
        }
    }
    for entry in &changed {
        merge(entries, entry.clone());
    }
    Ok(changed)
}

/// A Node document with an InternalIP of each family.
fn with_addresses(mut value: Value, node: &Node) -> Value {
    let mut addresses = value["status"]["addresses"].as_array().cloned().unwrap_or_default();
    for net in [node.ipv4, node.ipv6] {
        let address = net.addr();
        let same_family = |entry: &Value| {
            entry["type"] == "InternalIP"
                && entry["address"]
                    .as_str()
                    .and_then(|text| text.parse::<std::net::IpAddr>().ok())
                    .is_some_and(|known| known.is_ipv4() == address.is_ipv4())
        };
        if !addresses.iter().any(same_family) {
            addresses.push(json!({"type": "InternalIP", "address": address.to_string()}));
        }
    }
    if !value["status"].is_object() {
        value["status"] = json!({});
    }
    value["status"]["addresses"] = Value::Array(addresses);
    value
}

/// Writes documents, each where it stands or into a file of its own.
pub fn put(directory: &Path, entries: &[Entry]) -> Result<(), Error> {
    let mut documents = Vec::with_capacity(entries.len());
    for entry in entries {
        documents.extend(manifests::load_text("the lab's own document", &format!("{:#}\n", entry.value)).documents);
    }
    edit::apply(directory, &documents).map(|_| ()).map_err(|error| refused(&error, "applied"))
}

/// Fails if [`remove`] would, before anything is taken apart for it.
pub fn check_removal(directory: &Path, keys: &[DocumentKey]) -> Result<(), Error> {
    edit::try_delete(directory, keys).map(|_| ()).map_err(|error| refused(&error, "deleted"))
}

/// Removes documents, wherever they stand.
pub fn remove(directory: &Path, keys: &[DocumentKey]) -> Result<(), Error> {
    edit::delete(directory, keys).map(|_| ()).map_err(|error| refused(&error, "deleted"))
}

/// Only writing the files can fail half way; anything else comes before the first change.
fn refused(error: &edit::Error, done: &str) -> Error {
    match error {
        edit::Error::Write { .. } => Error::Failed(error.to_string()),
        error => Error::Failed(format!("{error}\nnothing was {done}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::plan;

    fn entries(text: &str) -> Vec<Entry> {
        manifests::load_text("test", text).documents.into_iter().map(Entry::from).collect()
    }

    #[test]
    fn nodes_get_documents_and_pods_their_node() {
        let mut entries =
            entries("{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: x}, spec: {containers: []}}");
        let state = plan(&objects(&entries), 2, &State { lab: "t".into(), ..State::default() }).unwrap();
        let changed = complete(&mut entries, &state).unwrap();
        let names: Vec<String> = changed.iter().map(|entry| entry.key.to_string()).collect();
        assert_eq!(names, ["Node node1", "Node node2", "Pod x/a"]);
        assert_eq!(changed[2].value["spec"]["nodeName"], "node1");
        assert_eq!(changed[0].value["status"]["addresses"][0]["address"], "172.31.0.2");
        assert!(complete(&mut entries, &state).unwrap().is_empty(), "a second time changes nothing");
    }

    #[test]
    fn stated_addresses_stay() {
        let mut entries = entries(
            "{apiVersion: v1, kind: Node, metadata: {name: a}, status: {addresses: [{type: InternalIP, address: 172.31.9.9}]}}",
        );
        let state = plan(&objects(&entries), 3, &State { lab: "t".into(), ..State::default() }).unwrap();
        complete(&mut entries, &state).unwrap();
        let addresses = &entries[0].value["status"]["addresses"];
        assert_eq!(addresses[0]["address"], "172.31.9.9");
        assert_eq!(addresses[1]["address"], "fd00:172:31::9");
        assert!(addresses[2].is_null());
    }

    #[test]
    fn documents_are_put_and_removed_one_by_one() {
        let folder = tempfile::tempdir().unwrap();
        let pools = default_pools().unwrap();
        put(folder.path(), &pools).unwrap();
        put(folder.path(), &pools).unwrap();
        assert_eq!(current(folder.path()).unwrap().0.len(), 2);
        remove(folder.path(), std::slice::from_ref(&pools[0].key)).unwrap();
        let left: Vec<String> = current(folder.path()).unwrap().0.iter().map(|entry| entry.key.to_string()).collect();
        assert_eq!(left, ["IPPool default-ipv6-ippool"]);
        assert!(remove(folder.path(), std::slice::from_ref(&pools[0].key)).is_err());
    }
}
