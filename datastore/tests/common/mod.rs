//! What the tests of the Directory share: a scratch directory, and a watch that is folded into a map.
#![allow(dead_code, missing_docs, unreachable_pub, reason = "each test binary uses its own part")]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};
use tortie_api::{Object, ObjectKey};
use tortie_datastore::directory::{self, Directory};
use tortie_datastore::{Batch, Change, Datastore};

/// Long enough for a loaded machine; nothing waits this long unless it fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn policy(namespace: &str, name: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  podSelector: {{}}\n"
    )
}

pub fn pod(namespace: &str, name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  containers: [{{name: c}}]\n"
    )
}

pub fn write(directory: &Path, file: &str, text: &str) {
    std::fs::write(directory.join(file), text).unwrap();
}

/// A watch and what it has told.
pub struct Follower {
    receiver: mpsc::Receiver<Batch>,
    pub objects: BTreeMap<ObjectKey, Object>,
    pub last: Batch,
    pub batches: Vec<Batch>,
}

impl Follower {
    pub async fn new(directory: &Directory) -> Self {
        let receiver = directory.watch().await.unwrap();
        let mut this = Self { receiver, objects: BTreeMap::new(), last: Batch::default(), batches: Vec::new() };
        while !this.last.in_sync {
            this.next().await;
        }
        this
    }

    pub async fn next(&mut self) -> &Batch {
        let batch = timeout(PATIENCE, self.receiver.recv()).await.expect("a batch in time").expect("the watch goes on");
        self.take(batch);
        &self.last
    }

    fn take(&mut self, batch: Batch) {
        for change in &batch.changes {
            match change {
                Change::Upsert(object) => {
                    assert_ne!(self.objects.get(&object.key()), Some(object), "told twice");
                    self.objects.insert(object.key(), object.clone());
                }
                Change::Delete(key) => {
                    assert!(self.objects.remove(key).is_some(), "{key} was never told");
                }
            }
        }
        self.batches.push(batch.clone());
        self.last = batch;
    }

    /// Follows until `done`, which it says what to wait for.
    pub async fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) {
            match timeout_at(deadline, self.receiver.recv()).await {
                Ok(Some(batch)) => self.take(batch),
                Ok(None) => panic!("the watch ended while waiting for {what}"),
                Err(elapsed) => panic!(
                    "{elapsed}: no {what} in time; objects {:?}; problems {:?}",
                    self.names(),
                    self.last.problems
                ),
            }
        }
    }

    /// Follows until it has what the directory holds now.
    pub async fn caught_up(&mut self, path: &Path) {
        let want = directory::revision(path).unwrap();
        self.until("the revision", |this| this.last.revision == want).await;
    }

    /// Whether nothing comes for a while.
    pub async fn is_quiet(&mut self) -> bool {
        timeout(Duration::from_millis(150), self.receiver.recv()).await.is_err()
    }

    pub fn names(&self) -> Vec<String> {
        self.objects.keys().map(ToString::to_string).collect()
    }

    pub fn has(&self, name: &str) -> bool {
        self.names().iter().any(|known| known == name)
    }

    pub fn problems(&self) -> String {
        let lines: Vec<String> =
            self.last.problems.iter().map(|problem| format!("{}: {}", problem.place, problem.message)).collect();
        lines.join("\n")
    }
}
