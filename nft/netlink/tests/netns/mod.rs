//! Network namespaces and `nft` for the tests of this crate.

#![allow(dead_code, unreachable_pub, missing_docs)]

use std::path::PathBuf;
use std::process::{Command, Output};

use nix::sched::{CloneFlags, unshare};
use tortie_nft::Refused;
use tortie_nft_netlink::Error;

use crate::support::suite::Refusal;

impl Refusal for Error {
    fn refusal(&self) -> Option<(usize, tortie_nft::Reason)> {
        match self {
            Error::Refused(Refused { command, reason, .. }) => Some((*command, reason.clone())),
            _ => None,
        }
    }
}

/// Runs `f` on a thread in a network namespace of its own, which goes away with the thread.
pub fn in_netns<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace (these tests need root)");
        f()
    });
    match thread.join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Puts the calling thread into a new network namespace.
pub fn new_netns() {
    unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace (these tests need root)");
}

/// A peer program, from `TORTIE_PEERS` or `target/peers/bin`.
pub fn peer(name: &str) -> PathBuf {
    let directory = std::env::var_os("TORTIE_PEERS")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/peers/bin")), PathBuf::from);
    let path = directory.join(name);
    assert!(path.exists(), "{} is missing: run `make peers`", path.display());
    path
}

/// Runs `nft` in the calling thread's namespace.
pub fn try_nft(arguments: &[&str]) -> Output {
    Command::new(peer("nft")).args(arguments).output().expect("nft runs")
}

/// Runs `nft`, which must succeed, and gives its output.
pub fn nft(arguments: &[&str]) -> String {
    let output = try_nft(arguments);
    assert!(output.status.success(), "nft {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("nft prints text")
}

/// Loads a text by `nft -f`.
pub fn nft_load(text: &str) -> Result<(), String> {
    use std::io::Write as _;
    let mut child = Command::new(peer("nft"))
        .args(["-f", "-"])
        .stdin(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("nft runs");
    child.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("nft reads");
    let output = child.wait_with_output().expect("nft ends");
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}
