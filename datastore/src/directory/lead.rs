//! Who leads, in a directory: whoever has the lock of a file. The kernel gives it back when its holder dies, however that happens.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::layout;
use crate::{Error, Leadership};

/// How often somebody who does not lead tries to, and how often who leads looks after his file.
const INTERVAL: Duration = Duration::from_millis(500);

/// Stops looking after the file with the leadership.
struct Hold {
    watching: AbortHandle,
}

impl Drop for Hold {
    fn drop(&mut self) {
        // The task has the lock, and drops it.
        self.watching.abort();
    }
}

/// Waits until nobody else has the duty.
pub(super) async fn lead(root: &Path, duty: &str, holder: &str) -> Result<Leadership, Error> {
    let path = root.join(layout::lead_file(duty));
    loop {
        match take(&path, holder) {
            Ok(Some(file)) => {
                let (lost, seen) = watch::channel(false);
                let watching = tokio::spawn(async move {
                    while is_in_place(&file, &path) {
                        tokio::time::sleep(INTERVAL).await;
                    }
                    drop(file);
                    lost.send_replace(true);
                });
                return Ok(Leadership::new(seen, Hold { watching: watching.abort_handle() }));
            }
            Ok(None) => tokio::time::sleep(INTERVAL).await,
            Err(error) => {
                let reason = format!("{error}{}", crate::remedy(&error));
                return Err(Error::Store { place: path.display().to_string(), reason });
            }
        }
    }
}

/// The file, locked, with the name of who has it for people to read; nothing if somebody else has it.
fn take(path: &PathBuf, holder: &str) -> io::Result<Option<Flock<File>>> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        // Between opening and locking somebody may have put another file into its place.
        Ok(file) if !is_in_place(&file, path) => Ok(None),
        Ok(mut file) => {
            file.set_len(0)?;
            writeln!(file, "{holder}")?;
            Ok(Some(file))
        }
        Err((_, Errno::EWOULDBLOCK | Errno::EINTR)) => Ok(None),
        Err((_, error)) => Err(error.into()),
    }
}

/// Whether a file still is the one that others find under its name: who takes it away lets others lead.
fn is_in_place(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(ours), Ok(found)) => (ours.dev(), ours.ino()) == (found.dev(), found.ino()),
        _ => false,
    }
}
