//! Which files of a directory are manifests, and reading them without surprises: no device is opened, no link to a directory is
//! followed, no file is read without a limit.

use std::fs::{File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read, Write};
use std::num::NonZeroU64;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use nix::fcntl::OFlag;

use crate::Problem;

/// How large a manifest may be: some 20,000 pods. A change to a file costs in proportion to the whole of it, in every agent.
pub(crate) const SIZE_LIMIT: u64 = 16 * 1024 * 1024;

/// How deep directories may nest.
pub(crate) const DEPTH_LIMIT: usize = 64;

/// Whether a file or directory of this name is looked at: hidden ones and editors' leftovers (`NAME~`, `#NAME#`) are not.
pub(crate) fn is_visible(name: &str) -> bool {
    !name.starts_with(['.', '#']) && !name.ends_with('~')
}

/// Whether a file of this name is a manifest.
pub(crate) fn is_manifest(name: &str) -> bool {
    is_visible(name)
        && Path::new(name)
            .extension()
            .and_then(|extension| extension.to_str())
            .is_some_and(|extension| matches!(extension, "yaml" | "yml" | "json"))
}

/// Reads a manifest, or what agents write: a regular file of limited size.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    read_up_to(SIZE_LIMIT, path)
}

/// Reads a regular file of at most so many bytes.
pub(crate) fn read_up_to(limit: u64, path: &Path) -> io::Result<Vec<u8>> {
    // A pipe would block here without O_NONBLOCK; it has no effect on a regular file.
    let file: File = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let too_large = || io::Error::other(format!("it is larger than {} MiB: split it into several files", limit >> 20));
    if metadata.len() > limit {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(too_large());
    }
    Ok(bytes)
}

/// What changes whenever a file's content does, as far as the file system can tell: a digest of where it is, how long, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp(NonZeroU64);

/// For how long a file must have been left alone before its stamp tells versions apart: the clock that stamps files ticks slowly.
const STAMP_AGE: Duration = Duration::from_millis(100);

impl Stamp {
    /// The stamp of a file; `None` where it would not tell a later change.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        let changed = Duration::new(metadata.ctime().try_into().ok()?, metadata.ctime_nsec().try_into().ok()?);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?;
        let is_settled = now.checked_sub(changed).is_some_and(|age| age > STAMP_AGE);
        is_settled.then(|| {
            let mut hasher = DefaultHasher::new();
            (metadata.dev(), metadata.ino(), metadata.len()).hash(&mut hasher);
            (metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec()).hash(&mut hasher);
            Self(NonZeroU64::new(hasher.finish()).unwrap_or(NonZeroU64::MAX))
        })
    }
}

/// What to do where a file cannot be written, as the end of a sentence; nothing where the error says enough. A disk is full of bytes or of
/// files, and the kernel has one word for both.
pub fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ": make room there, of bytes (`df`) and of files (`df -i`)"
        }
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => ": it must be writable for this process",
        _ => "",
    }
}

/// Says that a file cannot be read.
pub(crate) fn unreadable(path: &Path, error: &io::Error) -> Problem {
    Problem {
        place: path.display().to_string(),
        message: format!("cannot be read: {error}"),
        warning: false,
        kind: None,
    }
}

/// Replaces a file at once: whoever reads it, and whatever crashes, finds the old content or the new. `durable` waits for the disk.
pub(crate) fn replace(path: &Path, bytes: &[u8], durable: bool) -> io::Result<()> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);

    let directory = path.parent().ok_or_else(|| io::Error::other("the path has no directory"))?;
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    // Hidden, so that no reader takes it for a manifest; in the same directory, as a rename works within one file system only.
    let temporary = directory.join(format!(".tmp-{}-{number}", std::process::id()));
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).open(&temporary)?;
        if let Ok(old) = std::fs::metadata(path) {
            file.set_permissions(old.permissions())?;
        }
        file.write_all(bytes)?;
        if durable {
            file.sync_all()?;
        }
        std::fs::rename(&temporary, path)?;
        if durable {
            File::open(directory)?.sync_all()?;
        }
        Ok(())
    };
    write().inspect_err(|_| {
        // The rename did not happen; what is left of the attempt is nobody's.
        let _ = std::fs::remove_file(&temporary);
    })
}

/// The manifests below a directory, in order of path. What cannot be read is a problem.
pub(crate) fn walk(root: &Path, found: &mut Vec<PathBuf>, problems: &mut Vec<Problem>) {
    visit(root, 0, found, problems);
    found.sort();
}

fn visit(directory: &Path, depth: usize, found: &mut Vec<PathBuf>, problems: &mut Vec<Problem>) {
    let entries = match list(directory) {
        Ok(entries) => entries,
        Err(problem) => return problems.push(problem),
    };
    for entry in entries {
        let path = directory.join(&entry.name);
        match entry.kind {
            EntryKind::Directory if depth < DEPTH_LIMIT => visit(&path, depth + 1, found, problems),
            EntryKind::Directory => problems.push(too_deep(&path)),
            EntryKind::LinkToDirectory => problems.push(link_to_directory(&path)),
            EntryKind::Manifest => found.push(path),
        }
    }
}

/// Says that a directory is too far down.
pub(crate) fn too_deep(path: &Path) -> Problem {
    Problem {
        place: path.display().to_string(),
        message: format!("directories nest deeper than {DEPTH_LIMIT} levels: what is below is not read"),
        warning: false,
        kind: None,
    }
}

/// Says that a link is not followed.
pub(crate) fn link_to_directory(path: &Path) -> Problem {
    Problem {
        place: path.display().to_string(),
        message: "a symbolic link to a directory is not followed: move the directory here, or link its files"
            .to_owned(),
        warning: true,
        kind: None,
    }
}

/// An entry of a directory that is looked at.
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) kind: EntryKind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum EntryKind {
    Directory,
    LinkToDirectory,
    /// A file, or what is named like one.
    Manifest,
}

/// What a directory holds that is looked at.
pub(crate) fn list(directory: &Path) -> Result<Vec<Entry>, Problem> {
    let failed = |error: io::Error| unreadable(directory, &error);
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        // A name that is not UTF-8 has no place in messages or revisions; the extension alone would not make it a manifest.
        let Ok(name) = entry.file_name().into_string() else { continue };
        if !is_visible(&name) {
            continue;
        }
        let Ok(file_type) = entry.file_type() else { continue };
        let links_to_directory = || file_type.is_symlink() && entry.path().is_dir();
        let kind = if file_type.is_dir() {
            EntryKind::Directory
        } else if links_to_directory() {
            EntryKind::LinkToDirectory
        } else if is_manifest(&name) {
            EntryKind::Manifest
        } else {
            continue;
        };
        entries.push(Entry { name, kind });
    }
    Ok(entries)
}
