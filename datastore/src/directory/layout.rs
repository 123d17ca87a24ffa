//! Which files of a directory mean what.
//!
//! ```text
//! PATH/**/*.yaml, *.yml, *.json    manifests, the user's
//! PATH/.tortie/objects/KIND/[NAMESPACE/]NAME.json    objects that agents own
//! PATH/.tortie/pods/NAMESPACE/NAME.json    what agents say of pods
//! PATH/.tortie/nodes/NAME.json    what agents say of their nodes
//! PATH/.tortie/last-good/    last good versions of manifests
//! PATH/.tortie/lock    held by whoever writes
//! PATH/.tortie/DUTY.lead    held by whoever leads in a duty
//! ```

use std::path::{Component, Path, PathBuf};

use tortie_api::ObjectKey;

use super::view::{hash, hex};
use crate::files;

/// Where agents write.
pub(super) const STATE: &str = ".tortie";

/// Where agents write objects.
pub(super) const OBJECTS: &str = ".tortie/objects";

/// Where agents write what they know of pods.
pub(super) const PODS: &str = ".tortie/pods";

/// Where agents write what they say of their nodes.
pub(super) const NODES: &str = ".tortie/nodes";

/// Where last good versions are kept.
pub(super) const LAST_GOOD: &str = ".tortie/last-good";

/// The lock.
pub(super) const LOCK: &str = ".tortie/lock";

/// The longest name that is used for a file as it is; file systems take 255 bytes, the suffix included.
const NAME_LIMIT: usize = 200;

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileKind {
    /// The user's.
    Manifest,
    /// An object that agents own.
    AgentObject,
    /// What an agent says of a pod.
    Publication,
    /// What an agent says of its node.
    NodePublication,
}

/// What the file at a relative path is; `None` if it means nothing.
pub(super) fn file_kind(path: &Path) -> Option<FileKind> {
    let name = path.file_name()?.to_str()?;
    let directory = path.parent()?;
    let is_json = || files::is_manifest(name) && path.extension().is_some_and(|extension| extension == "json");
    if directory.starts_with(OBJECTS) {
        (is_json() && is_directory_of_interest(directory)).then_some(FileKind::AgentObject)
    } else if directory.starts_with(PODS) {
        (is_json() && is_directory_of_interest(directory)).then_some(FileKind::Publication)
    } else if directory == Path::new(NODES) {
        is_json().then_some(FileKind::NodePublication)
    } else {
        (files::is_manifest(name) && is_visible(directory)).then_some(FileKind::Manifest)
    }
}

/// Whether a file of this name could be a manifest.
pub(super) fn is_manifest_name(name: &str) -> bool {
    files::is_manifest(name)
}

/// Whether a directory at a relative path may hold files that mean something, or directories that do.
pub(super) fn is_directory_of_interest(path: &Path) -> bool {
    if path == Path::new(STATE) {
        return true;
    }
    let below = [OBJECTS, PODS, NODES].into_iter().find_map(|parent| path.strip_prefix(parent).ok());
    is_visible(below.unwrap_or(path))
}

fn is_visible(path: &Path) -> bool {
    path.components().all(|component| match component {
        Component::Normal(name) => name.to_str().is_some_and(files::is_visible),
        _ => false,
    })
}

/// The file of an object that agents own.
pub(super) fn object_file(key: &ObjectKey) -> PathBuf {
    let mut path = Path::new(OBJECTS).join(key.kind.as_str());
    if let Some(namespace) = &key.namespace {
        path.push(file_name(namespace));
    }
    path.join(file_name(&key.name) + ".json")
}

/// The file of what an agent says of a pod.
pub(super) fn publication_file(namespace: &str, pod: &str) -> PathBuf {
    Path::new(PODS).join(file_name(namespace)).join(file_name(pod) + ".json")
}

/// The file of what an agent says of its node.
pub(super) fn node_file(node: &str) -> PathBuf {
    Path::new(NODES).join(file_name(node) + ".json")
}

/// The file of a duty.
pub(super) fn lead_file(duty: &str) -> PathBuf {
    Path::new(STATE).join(file_name(duty) + ".lead")
}

/// A name as that of a file: itself if it can be, else shortened and told apart by a digest.
fn file_name(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    if !name.is_empty() && name.len() <= NAME_LIMIT && !name.starts_with('.') && name.bytes().all(plain) {
        return name.to_owned();
    }
    let kept: String = name.chars().filter(char::is_ascii_alphanumeric).take(40).collect();
    format!("{kept}_{}", hex(&hash(name.as_bytes())[..16]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_mean_what_their_place_says() {
        for (path, want) in [
            ("a.yaml", Some(FileKind::Manifest)),
            ("a/b/c.json", Some(FileKind::Manifest)),
            ("a.txt", None),
            (".a.yaml", None),
            ("a.yaml~", None),
            (".git/a.yaml", None),
            ("a/.b/c.yaml", None),
            (".tortie/a.yaml", None),
            (".tortie/last-good/a.json", None),
            (".tortie/objects/IPAMBlock/a.json", Some(FileKind::AgentObject)),
            (".tortie/objects/IPAMBlock/.tmp-1-2", None),
            (".tortie/objects/.x/a.json", None),
            (".tortie/pods/x/a.json", Some(FileKind::Publication)),
            (".tortie/pods/x/a.yaml", None),
            (".tortie/nodes/a.json", Some(FileKind::NodePublication)),
            (".tortie/nodes/x/a.json", None),
        ] {
            assert_eq!(file_kind(Path::new(path)), want, "{path}");
        }
        for path in ["", "a", "a/b", ".tortie", ".tortie/pods", ".tortie/objects/IPAMBlock"] {
            assert!(is_directory_of_interest(Path::new(path)), "{path}");
        }
        for path in [".git", "a/.b", ".tortie/last-good", "a/.tortie"] {
            assert!(!is_directory_of_interest(Path::new(path)), "{path}");
        }
    }

    #[test]
    fn no_name_leads_out_of_the_directory() {
        for name in ["..", ".", "", "../../etc/x", "a/b", "A", &"a".repeat(253), "é"] {
            let file = file_name(name);
            assert!(file.len() < 250 && !file.contains('/') && !file.starts_with('.'), "{name}: {file}");
        }
        assert_ne!(file_name("a/b"), file_name("a.b"));
        assert_eq!(file_name("10-244-0-0-26"), "10-244-0-0-26");
    }
}
