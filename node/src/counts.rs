//! What the table's counters had counted when they were read last, in a file of the run directory.
//!
//! The kernel has the counts, and they survive the agent. The file is for the one case in which both are gone at once: the table was
//! flushed while no agent ran. It is written seldom, whole, and by renaming, so it is there as it was or as it is to be.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use tracing::warn;

/// Packets and bytes by counter.
type Counts = BTreeMap<String, (u64, u64)>;

/// The file: `NAME PACKETS BYTES`, a counter a line.
#[derive(Debug, Clone)]
pub(crate) struct KeptCounts {
    path: PathBuf,
    /// What is in it, as far as this process wrote it.
    written: Counts,
}

impl KeptCounts {
    /// The file at this path, which need not be there.
    pub(crate) fn of(path: PathBuf) -> Self {
        Self { path, written: Counts::new() }
    }

    /// What an earlier agent kept. Lines that are none are left out: better no count than a wrong one.
    pub(crate) fn read(&self) -> Counts {
        let text = match std::fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Counts::new(),
            Err(error) => {
                warn!("cannot read {}: {error}: counters that must be made anew begin at nothing", self.path.display());
                return Counts::new();
            }
        };
        let count = |line: &str| {
            let mut words = line.split(' ');
            let (name, packets, bytes) = (words.next()?, words.next()?.parse().ok()?, words.next()?.parse().ok()?);
            words.next().is_none().then(|| (name.to_owned(), (packets, bytes)))
        };
        text.lines().filter_map(count).collect()
    }

    /// Writes what has been counted, if that is news.
    ///
    /// # Errors
    /// With the file and the remedy, when it cannot be written. What it had stays.
    pub(crate) fn keep(&mut self, counts: &Counts) -> Result<(), String> {
        let counted: Counts =
            counts.iter().filter(|(_, count)| **count != (0, 0)).map(|(n, c)| (n.clone(), *c)).collect();
        if counted == self.written {
            return Ok(());
        }
        let mut text = String::new();
        for (name, (packets, bytes)) in &counted {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{name} {packets} {bytes}");
        }
        let new = self.path.with_extension("new");
        let write = || {
            let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
            file.write_all(text.as_bytes())?;
            std::fs::rename(&new, &self.path)
        };
        write().map_err(|error| {
            format!("cannot write {}: {error}{}", self.path.display(), tortie_datastore::remedy(&error))
        })?;
        self.written = counted;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_known_to_the_next_agent() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("counters");
        let mut file = KeptCounts::of(path.clone());
        assert_eq!(file.read(), Counts::new());
        let counts: Counts = [("h_0123456789ab".to_owned(), (7, 700)), ("policies".to_owned(), (0, 0))].into();
        file.keep(&counts).expect("room");
        let written = std::fs::metadata(&path).and_then(|meta| meta.modified()).expect("a file");
        file.keep(&counts).expect("no news");
        assert_eq!(std::fs::metadata(&path).and_then(|meta| meta.modified()).expect("a file"), written);
        assert_eq!(KeptCounts::of(path).read(), [("h_0123456789ab".to_owned(), (7, 700))].into());
    }

    #[test]
    fn a_file_that_is_none_is_no_count() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("counters");
        std::fs::write(&path, "a 1 2\nb 1\nc x 2\nd 1 2 3\n\ne 99999999999999999999 1\nf 3 4\n").expect("a file");
        let counts = KeptCounts::of(path).read();
        assert_eq!(counts, [("a".to_owned(), (1, 2)), ("f".to_owned(), (3, 4))].into());
        let mut nowhere = KeptCounts::of(folder.path().join("gone/counters"));
        let error = nowhere.keep(&[("a".to_owned(), (1, 2))].into()).expect_err("no folder");
        assert!(error.contains("counters"), "{error}");
    }
}
