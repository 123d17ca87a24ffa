//! A network namespace of the test's own, and the programs in it.

use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sched::{CloneFlags, unshare};

/// A program that tests use, from the workspace's own folder of peers.
pub(crate) fn program(name: &str) -> PathBuf {
    let folder = std::env::var_os("TORTIE_PEERS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/peers/bin"), PathBuf::from);
    let path = folder.join(name);
    assert!(path.exists(), "{} is missing: run `make peers`", path.display());
    path
}

pub(crate) fn ip(arguments: &str) {
    let status = Command::new(program("ip")).args(arguments.split(' ')).status().expect("ip runs");
    assert!(status.success(), "ip {arguments}");
}

/// Runs a test in a network namespace of its own, with both addresses on its loopback interface.
pub(crate) fn in_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace needs root");
        ip("link set lo up");
        for address in ["10.0.0.1/24", "10.0.0.2/24", "fd00::1/64", "fd00::2/64"] {
            ip(&format!("address add {address} dev lo"));
        }
        // One thread, so that all sockets are in this namespace.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}
