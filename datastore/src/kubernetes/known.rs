//! What a watch has delivered of one kind: enough to tell what is gone after a new list, and to hold back what did not change.
//!
//! Of 50,000 pods every byte counts fifty thousand times, so an object is its name and a fingerprint of what was delivered.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;

use hashbrown::HashTable;
use tortie_api::{Kind, Object, ObjectKey};

/// What was delivered of one kind.
#[derive(Debug)]
pub(super) struct Known {
    kind: Kind,
    hasher: RandomState,
    entries: HashTable<Entry>,
    /// Turns with each list, so that what a list does not have can be told.
    list: bool,
}

#[derive(Debug)]
struct Entry {
    /// `NAMESPACE/NAME`, or the name of an object without a namespace. Names have no slash.
    path: Box<str>,
    /// Of what was delivered; none of an object that was not, being unsound.
    fingerprint: Option<u64>,
    list: bool,
}

impl Known {
    pub(super) fn new(kind: Kind) -> Self {
        Self { kind, hasher: RandomState::new(), entries: HashTable::new(), list: false }
    }

    /// A list begins: what it does not name is gone at its end.
    pub(super) fn begin_list(&mut self) {
        self.list = !self.list;
        // A list that broke off has left marks of its own.
        for entry in &mut self.entries {
            entry.list = !self.list;
        }
    }

    /// The keys of what the list that ends now did not have, each with whether it had been delivered.
    pub(super) fn end_list(&mut self) -> Vec<(ObjectKey, bool)> {
        let Self { kind, entries, list, .. } = self;
        let gone = entries.extract_if(|entry| entry.list != *list);
        gone.map(|entry| {
            let (namespace, name) = match entry.path.split_once('/') {
                Some((namespace, name)) => (Some(namespace.to_owned()), name),
                None => (None, &*entry.path),
            };
            (ObjectKey { kind: *kind, namespace, name: name.to_owned() }, entry.fingerprint.is_some())
        })
        .collect()
    }

    /// Takes note of an object that is about to be delivered. Whether it is news.
    pub(super) fn is_news(&mut self, object: &Object) -> bool {
        let fingerprint = Some(self.fingerprint(object));
        let metadata = object.metadata();
        let entry = self.entry(&path(metadata.namespace.as_deref(), &metadata.name));
        std::mem::replace(&mut entry.fingerprint, fingerprint) != fingerprint
    }

    /// Takes note of an object that exists and cannot be delivered. What was delivered of it before stays in force.
    pub(super) fn exists(&mut self, key: &ObjectKey) {
        self.entry(&path(key.namespace.as_deref(), &key.name));
    }

    /// Forgets an object. Whether it had been delivered.
    pub(super) fn forget(&mut self, key: &ObjectKey) -> bool {
        let path = path(key.namespace.as_deref(), &key.name);
        let found = self.entries.find_entry(self.hasher.hash_one(path.as_str()), |entry| *entry.path == path);
        found.is_ok_and(|found| found.remove().0.fingerprint.is_some())
    }

    /// How many objects there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    fn entry(&mut self, path: &str) -> &mut Entry {
        let Self { entries, hasher, list, .. } = self;
        let hash = hasher.hash_one(path);
        let entry = entries
            .entry(hash, |entry| *entry.path == *path, |entry| hasher.hash_one(&entry.path))
            .or_insert_with(|| Entry { path: path.into(), fingerprint: None, list: *list })
            .into_mut();
        entry.list = *list;
        entry
    }

    fn fingerprint(&self, object: &Object) -> u64 {
        let mut writer = Fingerprint(self.hasher.build_hasher());
        // An object that was read can be written, and a hasher takes whatever comes.
        let _ = serde_json::to_writer(&mut writer, object);
        writer.0.finish()
    }
}

fn path(namespace: Option<&str>, name: &str) -> String {
    match namespace {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name.to_owned(),
    }
}

/// Hashes what is written.
struct Fingerprint<H>(H);

impl<H: Hasher> io::Write for Fingerprint<H> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(name: &str, label: &str) -> Object {
        let json = format!(r#"{{"metadata": {{"name": "{name}", "labels": {{"a": "{label}"}}}}}}"#);
        tortie_api::decode_as(Kind::Namespace, &json).expect("a namespace")
    }

    #[test]
    fn only_news_is_news() {
        let mut known = Known::new(Kind::Namespace);
        assert!(known.is_news(&namespace("a", "1")));
        assert!(!known.is_news(&namespace("a", "1")));
        assert!(known.is_news(&namespace("a", "2")));
        assert!(known.forget(&namespace("a", "2").key()));
        assert!(!known.forget(&namespace("a", "2").key()), "it is forgotten");
        assert!(known.is_news(&namespace("a", "2")));
    }

    #[test]
    fn what_a_list_does_not_have_is_gone() {
        let mut known = Known::new(Kind::Namespace);
        let all = ["a", "b", "c", "unsound"].map(|name| namespace(name, "1"));
        known.begin_list();
        for object in &all[..3] {
            known.is_news(object);
        }
        known.exists(&all[3].key());
        assert_eq!(known.end_list(), []);
        // A list that breaks off says nothing.
        known.begin_list();
        known.is_news(&all[1]);
        known.begin_list();
        known.is_news(&all[0]);
        known.exists(&all[1].key());
        let mut gone = known.end_list();
        gone.sort();
        let expected = [(all[2].key(), true), (all[3].key(), false)];
        assert_eq!(gone, expected, "b cannot be read now, and stays; nobody has seen the unsound one");
        assert_eq!(known.len(), 2);
    }
}
