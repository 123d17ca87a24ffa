//! A datastore whose writes fail when they are told to.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use tokio::sync::mpsc;
use tortie_api::{Kind, Object, ObjectKey};
use tortie_datastore::{Batch, Datastore, Error, Leadership};

/// How a write fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is not done.
    Refused,
    /// It is done, and its answer is lost.
    Unanswered,
    /// It is the last thing that the agent does: nothing after it reaches the store.
    DiesAfter,
    /// The agent dies just before it.
    DiesBefore,
}

pub(super) struct Faulty {
    inner: Arc<dyn Datastore>,
    fault: Fault,
    /// The number of the write that fails, the first being 0.
    at: u32,
    writes: AtomicU32,
}

impl Faulty {
    pub(super) fn new(inner: Arc<dyn Datastore>, fault: Fault, at: u32) -> Arc<Self> {
        Arc::new(Self { inner, fault, at, writes: AtomicU32::new(0) })
    }

    /// Whether the write that was to fail has been tried.
    pub(super) fn has_failed(&self) -> bool {
        self.writes.load(Ordering::SeqCst) > self.at
    }

    /// Whether the agent lives.
    fn read(&self) -> Result<(), Error> {
        match self.fault {
            Fault::DiesAfter | Fault::DiesBefore if self.has_failed() => Err(failed()),
            _ => Ok(()),
        }
    }

    async fn write<T: Send>(&self, work: impl Future<Output = Result<T, Error>> + Send) -> Result<T, Error> {
        let number = self.writes.fetch_add(1, Ordering::SeqCst);
        let is_dead = number > self.at && matches!(self.fault, Fault::DiesAfter | Fault::DiesBefore);
        if is_dead || number == self.at && matches!(self.fault, Fault::Refused | Fault::DiesBefore) {
            return Err(failed());
        }
        let done = work.await;
        if number == self.at { Err(failed()) } else { done }
    }
}

fn failed() -> Error {
    Error::Store { place: "the test".into(), reason: "made to fail".into() }
}

#[async_trait]
impl Datastore for Faulty {
    async fn watch(&self) -> Result<mpsc::Receiver<Batch>, Error> {
        self.inner.watch().await
    }

    async fn get(&self, key: &ObjectKey) -> Result<Object, Error> {
        self.read()?;
        self.inner.get(key).await
    }

    async fn list(&self, kind: Kind) -> Result<Vec<Object>, Error> {
        self.read()?;
        self.inner.list(kind).await
    }

    async fn create(&self, object: &Object) -> Result<Object, Error> {
        self.write(self.inner.create(object)).await
    }

    async fn update(&self, object: &Object) -> Result<Object, Error> {
        self.write(self.inner.update(object)).await
    }

    async fn delete(&self, key: &ObjectKey, version: &str) -> Result<(), Error> {
        self.write(self.inner.delete(key, version)).await
    }

    async fn publish_pod_ips(&self, namespace: &str, pod: &str, publisher: &str, ips: &[IpAddr]) -> Result<(), Error> {
        self.inner.publish_pod_ips(namespace, pod, publisher, ips).await
    }

    async fn withdraw_pod_ips(&self, namespace: &str, pod: &str, publisher: &str) -> Result<(), Error> {
        self.inner.withdraw_pod_ips(namespace, pod, publisher).await
    }

    async fn lead(&self, duty: &str, holder: &str) -> Result<Leadership, Error> {
        self.inner.lead(duty, holder).await
    }
}
