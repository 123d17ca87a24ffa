//! The run directory: one agent at a time, and its socket.
//!
//! The lock is on a file that stays: a lock on a socket or on a file that is deleted at exit can be held by two. Only who holds the lock
//! may delete a socket that an earlier agent left.
//!
//! It also holds what marks the node's routes as ours, since both may be set (`deviceRouteProtocol`, `ipv4NormalRoutePriority`): an agent
//! that finds other settings than the one before it must still know that one's routes, and so must `tortie node clean`.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tokio::net::UnixListener;
use tracing::warn;

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

    /// What has marked this node's routes until now.
    pub(crate) fn route_marks(&self) -> RouteMarks {
        RouteMarks::open(self.path.join("route-marks"))
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

/// The routing protocol numbers and metrics that this node's routes have had since it booted, a pair a line. The file is on a file
/// system that does not outlive the kernel's routes.
#[derive(Debug)]
pub(crate) struct RouteMarks {
    path: PathBuf,
    known: BTreeSet<(u8, u32)>,
}

impl RouteMarks {
    /// Whatever lies there, the agent must come up: what cannot be read is as if it were not there.
    fn open(path: PathBuf) -> Self {
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| {
            if error.kind() != std::io::ErrorKind::NotFound {
                warn!(
                    "{}: {error}: routes of other numbers than those that are set are taken for a stranger's",
                    path.display()
                );
            }
            String::new()
        });
        let pair = |line: &str| {
            let (protocol, metric) = line.split_once(' ')?;
            Some((protocol.parse().ok()?, metric.parse().ok()?))
        };
        Self { known: text.lines().filter_map(pair).collect(), path }
    }

    /// The protocol numbers.
    pub(crate) fn protocols(&self) -> Vec<u8> {
        let protocols: BTreeSet<u8> = self.known.iter().map(|(protocol, _)| *protocol).collect();
        protocols.into_iter().collect()
    }

    /// Notes what routes are about to be written with.
    ///
    /// # Errors
    /// When it cannot be noted: then nothing must be written, for nobody would know it again.
    pub(crate) fn note(&mut self, written: impl Iterator<Item = (u8, u32)>) -> Result<(), String> {
        let mut pairs = self.known.clone();
        pairs.extend(written);
        if pairs.len() == self.known.len() {
            return Ok(());
        }
        let lines: Vec<String> = pairs.iter().map(|(protocol, metric)| format!("{protocol} {metric}")).collect();
        let text = lines.join("\n") + "\n";
        let new = self.path.with_extension("new");
        let write = || {
            let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
            file.write_all(text.as_bytes())?;
            std::fs::rename(&new, &self.path)
        };
        write().map_err(|error| {
            format!("cannot write {}: {error}{}", self.path.display(), tortie_datastore::remedy(&error))
        })?;
        self.known = pairs;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_marked_routes_is_known_to_the_next_agent() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("route-marks");
        let mut marks = RouteMarks::open(path.clone());
        assert!(marks.protocols().is_empty());
        marks.note([(80, 1024), (80, 1024)].into_iter()).expect("noted");
        let written = std::fs::metadata(&path).and_then(|meta| meta.modified()).expect("a file");
        marks.note([(80, 1024)].into_iter()).expect("known");
        assert_eq!(std::fs::metadata(&path).and_then(|meta| meta.modified()).expect("a file"), written);
        marks.note([(81, 7), (81, 1024)].into_iter()).expect("noted");
        let marks = RouteMarks::open(path.clone());
        assert_eq!(marks.protocols(), [80, 81]);
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "80 1024\n81 7\n81 1024\n");
        std::fs::write(&path, [0xff, b' ', b'8', b'\n']).expect("written");
        assert!(RouteMarks::open(path).protocols().is_empty(), "what is no text");
        let mut nowhere = RouteMarks::open(folder.path().join("gone/route-marks"));
        let error = nowhere.note([(80, 1024)].into_iter()).expect_err("no folder");
        assert!(error.contains("route-marks"), "{error}");
        assert!(nowhere.protocols().is_empty(), "and nothing is taken to be noted");
    }

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
