//! Objects that agents own: written under a lock, with a check of the version, at once.
//!
//! The lock is `flock` on a file, which the kernel gives back when its holder dies. Every write opens it anew, so that threads of one
//! process exclude each other as processes do.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use tortie_api::{Object, ObjectKey};

use super::layout;
use super::view::{NodePublication, Publication, UNREADABLE_OBJECT};
use crate::{Error, NodeAnnotations, files};

/// The writing side of a directory.
#[derive(Debug, Clone)]
pub(super) struct Store {
    root: PathBuf,
}

/// Held while something is written.
pub(crate) struct Lock {
    _file: Flock<File>,
}

/// Takes the lock of a directory, waiting for who has it.
pub(crate) fn lock(root: &Path) -> Result<Lock, Error> {
    let path = root.join(layout::LOCK);
    let open = || -> io::Result<File> {
        std::fs::create_dir_all(root.join(layout::STATE))?;
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)
    };
    let mut file = open().map_err(|error| failed(&path, &error))?;
    loop {
        match Flock::lock(file, FlockArg::LockExclusive) {
            Ok(file) => return Ok(Lock { _file: file }),
            Err((returned, nix::errno::Errno::EINTR)) => file = returned,
            Err((_, error)) => return Err(failed(&path, &error.into())),
        }
    }
}

fn failed(path: &Path, error: &io::Error) -> Error {
    Error::Store { place: path.display().to_string(), reason: format!("{error}{}", crate::remedy(error)) }
}

impl Store {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Reads an object that agents own.
    pub(super) fn read(&self, key: &ObjectKey) -> Result<Option<Object>, Error> {
        let path = self.root.join(layout::object_file(key));
        let bytes = match files::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(error) => return Err(failed(&path, &error)),
        };
        let object: Object = serde_json::from_slice(&bytes).map_err(|error| Error::Store {
            place: path.display().to_string(),
            reason: format!("{key} cannot be read: {error}; {UNREADABLE_OBJECT}"),
        })?;
        Ok((object.key() == *key).then_some(object))
    }

    pub(super) fn create(&self, object: &Object) -> Result<Object, Error> {
        let _lock = lock(&self.root)?;
        let key = object.key();
        if self.read(&key)?.is_some() {
            return Err(Error::AlreadyExists(key));
        }
        let mut created = object.clone();
        let uid = unique_id()?;
        // The version starts with who the object is: one that was deleted and made again never has a version of the old one.
        created.metadata_mut().resource_version = Some(format!("{uid}.1"));
        created.metadata_mut().uid = Some(uid);
        self.write(&created)?;
        Ok(created)
    }

    pub(super) fn update(&self, object: &Object) -> Result<Object, Error> {
        let _lock = lock(&self.root)?;
        let key = object.key();
        let current = self.check(&key, object.metadata().resource_version.as_deref())?;
        let mut updated = object.clone();
        updated.metadata_mut().uid.clone_from(&current.metadata().uid);
        updated.metadata_mut().resource_version = current.metadata().resource_version.as_deref().map(next_version);
        self.write(&updated)?;
        Ok(updated)
    }

    pub(super) fn delete(&self, key: &ObjectKey, version: &str) -> Result<(), Error> {
        let _lock = lock(&self.root)?;
        self.check(key, Some(version))?;
        let path = self.root.join(layout::object_file(key));
        std::fs::remove_file(&path)
            .and_then(|()| File::open(path.parent().unwrap_or(&self.root))?.sync_all())
            .map_err(|error| failed(&path, &error))
    }

    /// The current object, if it has the version that the caller knows.
    fn check(&self, key: &ObjectKey, version: Option<&str>) -> Result<Object, Error> {
        let current = self.read(key)?.ok_or_else(|| Error::NotFound(key.clone()))?;
        if version.is_none() || current.metadata().resource_version.as_deref() != version {
            return Err(Error::Conflict(key.clone()));
        }
        Ok(current)
    }

    fn write(&self, object: &Object) -> Result<(), Error> {
        let path = self.root.join(layout::object_file(&object.key()));
        let bytes = serde_json::to_vec_pretty(object).map_err(|error| failed(&path, &error.into()))?;
        // What cannot be read again must not be written.
        serde_json::from_slice::<Object>(&bytes).map_err(|error| failed(&path, &error.into()))?;
        write(&path, &bytes, true)
    }

    /// Says which addresses a pod has. It need not outlive a power cut, which no pod does.
    pub(super) fn publish(&self, publication: &Publication) -> Result<(), Error> {
        let path = self.root.join(layout::publication_file(&publication.namespace, &publication.name));
        let bytes = serde_json::to_vec(publication).map_err(|error| failed(&path, &error.into()))?;
        let _lock = lock(&self.root)?;
        write(&path, &bytes, false)
    }

    /// Says something of a node, and leaves what else was said of it.
    pub(super) fn annotate_node(&self, node: &str, annotations: &NodeAnnotations) -> Result<(), Error> {
        let path = self.root.join(layout::node_file(node));
        let _lock = lock(&self.root)?;
        let there = files::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let mut publication: NodePublication = there.unwrap_or_default();
        node.clone_into(&mut publication.name);
        let before = publication.annotations.clone();
        for (annotation, value) in annotations {
            match value {
                Some(value) => publication.annotations.insert((*annotation).to_owned(), value.clone()),
                None => publication.annotations.remove(*annotation),
            };
        }
        if publication.annotations.is_empty() {
            return match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(&path, &error)),
                _ => Ok(()),
            };
        }
        if publication.annotations == before {
            return Ok(());
        }
        let bytes = serde_json::to_vec(&publication).map_err(|error| failed(&path, &error.into()))?;
        write(&path, &bytes, true)
    }

    /// Takes back what `publisher` said, and what nobody can read.
    pub(super) fn withdraw(&self, namespace: &str, pod: &str, publisher: &str) -> Result<(), Error> {
        let path = self.root.join(layout::publication_file(namespace, pod));
        // Between the comparison and the removal nobody may publish.
        let _lock = lock(&self.root)?;
        let removed = files::read(&path).and_then(|bytes| match serde_json::from_slice::<Publication>(&bytes) {
            Ok(there) if there.is_of_another(publisher) => Ok(()),
            _ => std::fs::remove_file(&path),
        });
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(&path, &error)),
            _ => Ok(()),
        }
    }
}

fn write(path: &Path, bytes: &[u8], durable: bool) -> Result<(), Error> {
    let result =
        path.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| files::replace(path, bytes, durable));
    result.map_err(|error| failed(path, &error))
}

/// An identifier that nobody else has or had, as the kernel makes them.
fn unique_id() -> Result<String, Error> {
    let path = Path::new("/proc/sys/kernel/random/uuid");
    std::fs::read_to_string(path).map(|text| text.trim().to_owned()).map_err(|error| failed(path, &error))
}

fn next_version(version: &str) -> String {
    match version.rsplit_once('.').and_then(|(id, number)| Some((id, number.parse::<u64>().ok()?))) {
        Some((id, number)) => format!("{id}.{}", number.wrapping_add(1)),
        // Somebody edited the file by hand.
        None => format!("{version}.1"),
    }
}
