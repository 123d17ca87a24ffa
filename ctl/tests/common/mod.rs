//! Runs `tortie` on files of a test's own.

use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// A folder with one manifest.
pub(crate) fn manifests(text: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("cluster.yaml"), text).expect("a manifest");
    folder
}

/// Runs a command that no variable of this shell leads astray.
pub(crate) fn tortie(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tortie"));
    for name in ["TORTIE_SOCKET", "TORTIE_RUN_DIR", "TORTIE_LAB", "TORTIE_NODE", "TORTIE_DATASTORE"] {
        command.env_remove(name);
    }
    command.args(args).stdin(Stdio::null()).output().expect("tortie runs")
}

/// What it printed, what it complained of, and its exit status.
pub(crate) fn text(output: &Output) -> (String, String, Option<i32>) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr), output.status.code())
}

/// The JSON that a command prints.
pub(crate) fn json_of(args: &[&str]) -> Value {
    let (stdout, stderr, status) = text(&tortie(args));
    assert_eq!(status, Some(0), "{stderr}");
    serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}"))
}

/// A folder's path, as an argument.
pub(crate) fn path(folder: &tempfile::TempDir) -> &str {
    folder.path().to_str().expect("a plain path")
}
