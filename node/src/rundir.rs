//! The run directory: one agent at a time, and its socket.
//!
//! The lock is on a file that stays: a lock on a socket or on a file that is deleted at exit can be held by two. Only who holds the lock
//! may delete a socket that an earlier agent left.

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tokio::net::UnixListener;

use crate::counts::KeptCounts;

/// A run directory that is ours until this is dropped.
#[derive(Debug)]
pub(crate) struct RunDir {
    path: PathBuf,
    _lock: File,
}

impl RunDir {
    /// Makes the directory if need be, closes it to others, and takes the lock.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .with_context(|| format!("cannot create the run directory {}", path.display()))?;
        std::fs::set_permissions(path, Permissions::from_mode(0o700))
            .with_context(|| format!("cannot close the run directory {} to others", path.display()))?;
        let file = path.join("tortie.lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&file)
            .with_context(|| format!("cannot open {}", file.display()))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => bail!(
                "another tortie-node runs with the run directory {}: stop it first, or give this one another --run-dir",
                path.display()
            ),
            Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", file.display())),
        }
    }

    /// What counters had counted when they were read last.
    pub(crate) fn counts(&self) -> KeptCounts {
        KeptCounts::of(self.path.join("counters"))
    }

    /// The admin socket's path.
    pub(crate) fn socket(&self) -> PathBuf {
        self.path.join("tortie.sock")
    }

    /// Listens on the admin socket, mode 0600; one that a killed agent left is replaced.
    pub(crate) fn listen(&self) -> Result<UnixListener> {
        let socket = self.socket();
        let failed = || format!("cannot listen on {}", socket.display());
        match std::fs::remove_file(&socket) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(failed),
        }
        // The directory is closed to others, so nobody connects in the moment before the mode is set.
        let listener = UnixListener::bind(&socket).with_context(failed)?;
        std::fs::set_permissions(&socket, Permissions::from_mode(0o600)).with_context(failed)?;
        Ok(listener)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn two_agents_never_share_a_directory() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("run");
        let first = RunDir::open(&path).expect("the first");
        assert_eq!(std::fs::metadata(&path).expect("a folder").permissions().mode() & 0o777, 0o700);
        let error = RunDir::open(&path).expect_err("the second").to_string();
        assert!(error.contains("another tortie-node runs"), "{error}");
        let listener = first.listen().expect("a socket");
        assert_eq!(std::fs::metadata(first.socket()).expect("a socket").permissions().mode() & 0o777, 0o600);
        drop(listener);
        drop(first);
        let second = RunDir::open(&path).expect("the lock is free again");
        assert!(second.socket().exists(), "left behind");
        second.listen().expect("and replaced");
    }
}
