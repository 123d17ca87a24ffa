//! Where the machine's own files are. An agent in a container has files of its own; those of the machine are mounted in a folder that
//! `TORTIE_HOST_ROOT` names.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// The variable that names the folder.
pub const ROOT_VARIABLE: &str = "TORTIE_HOST_ROOT";

static ROOT: LazyLock<PathBuf> = LazyLock::new(|| match std::env::var_os(ROOT_VARIABLE) {
    Some(root) if !root.is_empty() => PathBuf::from(root),
    _ => PathBuf::from("/"),
});

/// The folder that the machine's files are in: `/`, or what `TORTIE_HOST_ROOT` says.
pub fn root() -> &'static Path {
    &ROOT
}

/// The machine's `/proc`. It has every process of the machine, a container's own only that container's.
pub fn proc() -> PathBuf {
    root().join("proc")
}
