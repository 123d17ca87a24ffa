//! What the tests of the whole house share: where the checkout, the peers and the corpora are.
//!
//! The tests themselves are in `tests/`: `house` holds the dependency rules, the others run real nodes in network namespaces.

use std::path::{Path, PathBuf};

pub mod agent;
pub mod capture;
pub mod host;
pub mod k8s;
pub mod kernel;
pub mod lab;
pub mod stream;
pub mod truth;

/// The root of the checkout.
pub fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// A peer program, from `TORTIE_PEERS` or `target/peers/bin`.
///
/// # Panics
/// When it is missing: a missing peer fails a test, it never skips one.
pub fn peer(name: &str) -> PathBuf {
    let directory = std::env::var_os("TORTIE_PEERS").map_or_else(|| root().join("target/peers/bin"), PathBuf::from);
    let path = directory.join(name);
    assert!(path.exists(), "{} is missing: run `make peers`", path.display());
    path
}

/// A file of the corpora, or `None`, said plainly, when `TORTIE_CORPORA` is unset.
pub fn corpus(name: &str) -> Option<PathBuf> {
    let Some(directory) = std::env::var_os("TORTIE_CORPORA") else {
        println!("skipped: TORTIE_CORPORA is unset, so {name} is not tried; the project's own cases are");
        return None;
    };
    Some(PathBuf::from(directory).join(name))
}

/// Whether this is the long run (`make test-long`).
pub fn long() -> bool {
    std::env::var_os("TORTIE_LONG").is_some()
}
