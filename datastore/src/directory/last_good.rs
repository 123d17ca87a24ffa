//! Last good versions of manifests, on disk.
//!
//! Each is a file of its own under `.tortie/last-good/`, named by a digest of the manifest's path. A first line of JSON names the
//! manifest and the digest of what follows, so that a copy that a crash cut short is known for what it is; there is no need to wait for
//! the disk at each.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::layout;
use super::view::{Hash, hash, hex};
use crate::{Problem, files};

/// Last good versions of the manifests of one directory.
pub(super) struct LastGood {
    root: PathBuf,
    /// Whether new versions are kept; a reader that comes and goes leaves that to the agents.
    writes: bool,
    /// Why the last attempt to keep one failed.
    failure: Option<String>,
}

/// How large a kept version may be: as large as a manifest, and its header.
const SIZE_LIMIT: u64 = files::SIZE_LIMIT + 64 * 1024;

#[derive(Serialize, Deserialize)]
struct Header {
    file: PathBuf,
    sha256: String,
}

impl LastGood {
    /// Finds what others kept, and keeps nothing.
    pub(super) fn read_only(root: &Path) -> Self {
        Self { root: root.to_owned(), writes: false, failure: None }
    }

    /// Keeps new versions, and drops those of manifests that went away while nobody looked.
    pub(super) fn writing(root: &Path) -> Self {
        let this = Self { root: root.to_owned(), writes: true, failure: None };
        for entry in std::fs::read_dir(root.join(layout::LAST_GOOD)).into_iter().flatten().flatten() {
            let path = entry.path();
            let header =
                files::read_up_to(SIZE_LIMIT, &path).ok().and_then(|bytes| split(&bytes).map(|(header, _)| header));
            let is_orphan = header.is_some_and(|header| root.join(header.file).symlink_metadata().is_err());
            if is_orphan && let Err(error) = std::fs::remove_file(&path) {
                tracing::warn!(path = %path.display(), %error, "cannot remove the last good version of a manifest that is gone");
            }
        }
        this
    }

    fn path(&self, file: &Path) -> PathBuf {
        self.root.join(layout::LAST_GOOD).join(hex(&hash(file.as_os_str().as_encoded_bytes())[..16]))
    }

    /// The last good version of a manifest, if there is a whole one.
    pub(super) fn find(&self, file: &Path) -> Option<Vec<u8>> {
        let bytes = files::read_up_to(SIZE_LIMIT, &self.path(file)).ok()?;
        let (header, body) = split(&bytes)?;
        (header.file == file && header.sha256 == hex(&hash(body))).then(|| body.to_vec())
    }

    /// Keeps a version that is good.
    pub(super) fn keep(&mut self, file: &Path, hash: Hash, bytes: &[u8]) {
        if !self.writes {
            return;
        }
        let path = self.path(file);
        let header = Header { file: file.to_owned(), sha256: hex(&hash) };
        let Ok(mut content) = serde_json::to_vec(&header) else { return };
        content.push(b'\n');
        // Several agents keep the same versions, and a restart finds most of them kept.
        if std::fs::File::open(&path).is_ok_and(|kept| starts_with(&kept, &content, bytes.len())) {
            return;
        }
        content.extend_from_slice(bytes);
        let result = std::fs::create_dir_all(self.root.join(layout::LAST_GOOD))
            .and_then(|()| files::replace(&path, &content, false));
        self.failure = result.err().map(|error| format!("{error}{}", files::remedy(&error)));
    }

    /// Drops the version of a manifest that is gone, lest it come back with another file of that name.
    pub(super) fn forget(&self, file: &Path) {
        if self.writes
            && let Err(error) = std::fs::remove_file(self.path(file))
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(file = %file.display(), %error, "cannot remove the last good version of a manifest that is gone");
        }
    }

    /// What keeps versions from being kept, if anything does.
    pub(super) fn problem(&self) -> Option<Problem> {
        self.failure.as_ref().map(|reason| Problem {
            place: self.root.join(layout::LAST_GOOD).display().to_string(),
            message: format!("cannot keep last good versions here, a restart would lose them: {reason}"),
            warning: true,
            kind: None,
        })
    }
}

/// Whether a kept version has this header and a body of this length.
fn starts_with(mut kept: &std::fs::File, header: &[u8], body: usize) -> bool {
    let mut start = vec![0; header.len()];
    kept.metadata().is_ok_and(|metadata| metadata.len() == (header.len() + body) as u64)
        && io::Read::read_exact(&mut kept, &mut start).is_ok()
        && start == header
}

fn split(bytes: &[u8]) -> Option<(Header, &[u8])> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let header = serde_json::from_slice(bytes.get(..end)?).ok()?;
    Some((header, bytes.get(end + 1..)?))
}
