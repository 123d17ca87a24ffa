//! What people write to a cluster through us: whole documents, as `kubectl apply --server-side` writes them.

use kube::api::{DeleteParams, GetParams, Patch, PatchParams};
use serde_json::Value;
use tortie_api::ObjectKey;

use super::{Kubernetes, wire};
use crate::Error;
use crate::manifests::Document;

/// Whose fields they are that we write.
const MANAGER: &str = "tortie";

/// What became of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// There was no such object.
    Created,
    /// It was another.
    Configured,
    /// It is as it was.
    Unchanged,
}

impl Applied {
    /// As kubectl says it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Configured => "configured",
            Self::Unchanged => "unchanged",
        }
    }
}

impl Kubernetes {
    /// Writes documents; none of them if the server would refuse one. They are of kinds that Tortie acts upon.
    ///
    /// # Errors
    /// What the server says of the first document that it refuses.
    pub async fn apply(&self, documents: &[Document]) -> Result<Vec<(ObjectKey, Applied)>, Error> {
        let mut objects = Vec::new();
        for document in documents {
            let Some(object) = &document.object else {
                return Err(Error::Store {
                    place: document.place.to_string(),
                    reason: format!("{} is of a kind that Tortie does not act upon: use kubectl", document.key),
                });
            };
            objects.push((object.key(), document));
        }
        for (key, document) in &objects {
            self.write(key, document, true).await?;
        }
        let mut applied = Vec::new();
        for (key, document) in objects {
            let before = self.version(&key).await?;
            self.write(&key, document, false).await?;
            let outcome = match before {
                None => Applied::Created,
                version if version == self.version(&key).await? => Applied::Unchanged,
                Some(_) => Applied::Configured,
            };
            applied.push((key, outcome));
        }
        Ok(applied)
    }

    /// Deletes an object, whatever its version.
    ///
    /// # Errors
    /// When it is not there, or the server refuses.
    pub async fn remove(&self, key: &ObjectKey) -> Result<(), Error> {
        let request = self.requests(key.kind, key.namespace.as_deref()).await?;
        let request = request.delete(&key.name, &DeleteParams::default());
        self.send(request).await.map(|_| ()).map_err(|error| self.failed(key, &error))
    }

    async fn write(&self, key: &ObjectKey, document: &Document, dry_run: bool) -> Result<(), Error> {
        let mut value = document.value.clone();
        wire::address(&mut value, key.kind, self.group().await?);
        if let (Some(namespace), Value::Object(metadata)) = (&key.namespace, &mut value["metadata"]) {
            metadata.insert("namespace".to_owned(), namespace.clone().into());
        }
        let params = PatchParams { dry_run, ..PatchParams::apply(MANAGER).force() };
        let request = self.requests(key.kind, key.namespace.as_deref()).await?;
        let request = request.patch(&key.name, &params, &Patch::Apply(value));
        self.send(request).await.map(|_| ()).map_err(|error| match self.failed(key, &error) {
            // That the document is wrong is its own place's matter.
            Error::Store { reason, .. } => Error::Store { place: document.place.to_string(), reason },
            other => other,
        })
    }

    /// The version of an object, if there is one.
    async fn version(&self, key: &ObjectKey) -> Result<Option<String>, Error> {
        let request = self.requests(key.kind, key.namespace.as_deref()).await?;
        match self.send(request.get(&key.name, &GetParams::default())).await {
            Ok(json) => {
                Ok(serde_json::from_str::<wire::Head>(json.get()).ok().and_then(|head| head.metadata.resource_version))
            }
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            Err(error) => Err(self.failed(key, &error)),
        }
    }
}
