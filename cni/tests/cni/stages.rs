//! The suite of IPAM on the datastore in memory, and on the directory that agents share.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use serde_json::Value;
use tortie_datastore::Datastore;
use tortie_datastore::directory::Directory;

use crate::memory::Memory;
use crate::suite::{self, Fault, Stage};

/// All agents have the one store.
#[derive(Default)]
struct InMemory(Mutex<Arc<Memory>>);

#[async_trait]
impl Stage for InMemory {
    async fn set(&self, manifests: &[Value]) {
        *self.0.lock().expect("the lock") = Arc::new(Memory::with(manifests));
    }

    async fn open(&self) -> Arc<dyn Datastore> {
        Arc::clone(&*self.0.lock().expect("the lock")) as _
    }
}

/// Each agent has an instance of its own.
#[derive(Default)]
struct OnDisk(Mutex<Option<tempfile::TempDir>>);

#[async_trait]
impl Stage for OnDisk {
    async fn set(&self, manifests: &[Value]) {
        let folder = tempfile::tempdir().expect("a folder");
        for (number, manifest) in manifests.iter().enumerate() {
            std::fs::write(folder.path().join(format!("{number}.json")), manifest.to_string()).expect("written");
        }
        *self.0.lock().expect("the lock") = Some(folder);
    }

    async fn open(&self) -> Arc<dyn Datastore> {
        let folder = self.0.lock().expect("the lock");
        Arc::new(Directory::open(folder.as_ref().expect("set before").path()).expect("a directory"))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nodes_race_for_the_last_blocks() {
    suite::last_blocks(&InMemory::default()).await;
    suite::last_blocks(&OnDisk::default()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nodes_race_for_the_last_addresses() {
    suite::last_addresses(&InMemory::default()).await;
    suite::last_addresses(&OnDisk::default()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_controller_takes_nothing_that_is_in_use() {
    suite::takers_and_givers(&InMemory::default()).await;
    suite::takers_and_givers(&OnDisk::default()).await;
}

#[tokio::test]
async fn every_write_may_be_the_last() {
    let all = [Fault::Refused, Fault::Unanswered, Fault::DiesBefore, Fault::DiesAfter];
    let failures = suite::every_write_may_be_the_last(&InMemory::default(), &all).await;
    assert!(failures >= 4 * 20, "{failures}");
    // A disk takes its time, and what a crash leaves there is no other.
    assert_eq!(suite::every_write_may_be_the_last(&OnDisk::default(), &all[3..]).await * 4, failures);
}
