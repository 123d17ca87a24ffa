//! Whether the server still has the past that has been told, or another one: etcd may come back from an older snapshot.
//!
//! Versions are given again then, so that a watch that goes on from one of before would tell the wrong story, and nobody would notice. What
//! was told last is the test: at its version the object must be as it was told. The past is the same for all kinds, so of an agent's
//! watches that broke off together one asks for all.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use kube::Client;
use kube::api::{ListParams, VersionMatch};
use kube::core::Request;
use serde_json::value::RawValue;
use tortie_api::{Kind, ObjectKey};

use super::resources::{Group, collection};
use super::watch::{Broken, answer};
use super::wire::{Head, List};

/// What has been told, and how often the server's past has changed.
pub(super) struct History {
    client: Client,
    group: Group,
    latest: Mutex<Latest>,
    checked: tokio::sync::Mutex<Checked>,
}

/// The last that was told.
#[derive(Debug, Default)]
struct Latest {
    upsert: Option<(ObjectKey, u64)>,
    deletion: Option<(ObjectKey, u64)>,
}

impl Latest {
    fn upserted(&mut self, version: u64, key: impl FnOnce() -> ObjectKey) {
        if self.upsert.as_ref().is_some_and(|(_, known)| *known >= version) {
            return;
        }
        let key = key();
        // Made again: that it was gone shows no more.
        if self.deletion.as_ref().is_some_and(|(gone, since)| *gone == key && *since < version) {
            self.deletion = None;
        }
        self.upsert = Some((key, version));
    }

    fn deleted(&mut self, version: u64, key: &ObjectKey) {
        if self.deletion.as_ref().is_none_or(|(_, known)| *known < version) {
            self.deletion = Some((key.clone(), version));
        }
        if self.upsert.as_ref().is_some_and(|(known, since)| known == key && *since < version) {
            self.upsert = None;
        }
    }
}

#[derive(Debug, Default)]
struct Checked {
    at: Option<Instant>,
    pasts: u32,
}

impl History {
    pub(super) fn new(client: Client, group: Group) -> Self {
        Self { client, group, latest: Mutex::default(), checked: tokio::sync::Mutex::default() }
    }

    /// Takes note of an object at a version.
    pub(super) fn upserted(&self, version: Option<&str>, key: impl FnOnce() -> ObjectKey) {
        if let Some(version) = number(version) {
            self.latest.lock().unwrap_or_else(PoisonError::into_inner).upserted(version, key);
        }
    }

    /// Takes note that an object is gone since a version.
    pub(super) fn deleted(&self, version: Option<&str>, key: &ObjectKey) {
        if let Some(version) = number(version) {
            self.latest.lock().unwrap_or_else(PoisonError::into_inner).deleted(version, key);
        }
    }

    /// Which past the server has, counted from 0, as found out after a watch broke off. A higher number than before means that
    /// everything is to be listed anew.
    pub(super) async fn past(&self, broke: Instant) -> Result<u32, Broken> {
        let mut checked = self.checked.lock().await;
        if checked.at.is_none_or(|at| at <= broke) {
            let started = Instant::now();
            if !self.is_as_told().await? {
                tracing::warn!(
                    "the API server has another past than it had, as after a restore; everything is listed anew"
                );
                *self.latest.lock().unwrap_or_else(PoisonError::into_inner) = Latest::default();
                checked.pasts += 1;
            }
            checked.at = Some(started);
        }
        Ok(checked.pasts)
    }

    async fn is_as_told(&self) -> Result<bool, Broken> {
        let (upsert, deletion) = {
            let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
            (latest.upsert.clone(), latest.deletion.clone())
        };
        let Some(version) = upsert.iter().chain(&deletion).map(|(_, version)| *version).max() else { return Ok(true) };
        let some = ListParams { limit: Some(1), ..ListParams::default() };
        let now = self.list(Kind::Namespace, &some).await?.metadata.resource_version;
        if number(Some(&now)).is_some_and(|now| now < version) {
            return Ok(false);
        }
        let upsert = upsert.map(|(key, at)| (key, Some(at)));
        let deletion = deletion.map(|(key, _)| (key, None));
        for (key, told) in upsert.into_iter().chain(deletion) {
            let found = match self.version_at(&key, version).await {
                Ok(found) => found,
                // So much has been written since that nobody can tell.
                Err(Broken::TooOld) => return Ok(false),
                // With a kind its objects are gone.
                Err(Broken::Absent) => None,
                Err(broken) => return Err(broken),
            };
            if found != told {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Which version of an object was there at a version of the server's; none if it was not there.
    async fn version_at(&self, key: &ObjectKey, version: u64) -> Result<Option<u64>, Broken> {
        let namespace = key.namespace.as_ref().map(|namespace| format!(",metadata.namespace={namespace}"));
        let fields = format!("metadata.name={}{}", key.name, namespace.unwrap_or_default());
        let params = ListParams {
            field_selector: Some(fields),
            resource_version: Some(version.to_string()),
            version_match: Some(VersionMatch::Exact),
            ..ListParams::default()
        };
        let list = self.list(key.kind, &params).await?;
        let head = list.items().first().and_then(|json| serde_json::from_str::<Head>(json.get()).ok());
        Ok(head.and_then(|head| number(head.metadata.resource_version.as_deref())))
    }

    async fn list(&self, kind: Kind, params: &ListParams) -> Result<List, Broken> {
        let request = Request::new(collection(kind, self.group, None)).list_metadata(params);
        let request = request.map_err(|error| Broken::Failed(error.to_string(), None))?;
        let json: Box<RawValue> = answer(self.client.request(request)).await?;
        serde_json::from_str(json.get()).map_err(|error| Broken::Failed(error.to_string(), None))
    }
}

/// A version as the number that it is in etcd.
fn number(version: Option<&str>) -> Option<u64> {
    version.and_then(|version| version.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> ObjectKey {
        ObjectKey { kind: Kind::Pod, namespace: Some("a".to_owned()), name: name.to_owned() }
    }

    #[test]
    fn what_was_told_last_is_what_still_shows() {
        let mut latest = Latest::default();
        // The objects of a list come in any order.
        for (name, version) in [("x", 5), ("y", 7), ("z", 6)] {
            latest.upserted(version, || key(name));
        }
        latest.deleted(9, &key("x"));
        assert_eq!((&latest.upsert, &latest.deletion), (&Some((key("y"), 7)), &Some((key("x"), 9))));
        latest.upserted(10, || key("x"));
        assert_eq!((&latest.upsert, &latest.deletion), (&Some((key("x"), 10)), &None), "it was made again");
        latest.deleted(11, &key("x"));
        assert_eq!((&latest.upsert, &latest.deletion), (&None, &Some((key("x"), 11))));
    }
}
