//! The rules of the house, held by a test: which crate may know which, what stays pure, and how a file looks.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tortie_tests::root;

/// Which of our crates each of our crates may depend on (dev-dependencies aside). Arrows point one way.
const ARROWS: &[(&str, &[&str])] = &[
    ("tortie-api", &[]),
    ("tortie-nft", &[]),
    ("tortie-admin", &[]),
    ("tortie-felix-netlink", &[]),
    ("tortie-bird-lite", &["tortie-api"]),
    ("tortie-bird-speaker", &["tortie-bird-lite"]),
    ("tortie-nft-netlink", &["tortie-nft"]),
    ("tortie-host-firewall", &["tortie-felix-netlink", "tortie-nft-netlink"]),
    ("tortie-datastore", &["tortie-api"]),
    ("tortie-policy", &["tortie-api", "tortie-nft"]),
    ("tortie-felix", &["tortie-api", "tortie-nft", "tortie-policy", "tortie-bird-lite"]),
    ("tortie-cni", &["tortie-admin", "tortie-api", "tortie-datastore", "tortie-felix-netlink", "tortie-policy"]),
    (
        "tortie-node",
        &[
            "tortie-admin",
            "tortie-api",
            "tortie-bird-lite",
            "tortie-bird-speaker",
            "tortie-cni",
            "tortie-datastore",
            "tortie-felix",
            "tortie-felix-netlink",
            "tortie-host-firewall",
            "tortie-nft",
            "tortie-nft-netlink",
            "tortie-policy",
        ],
    ),
    (
        "tortie-lab",
        // The demo reads tables back from the kernel, to show that nothing flapped.
        &[
            "tortie-admin",
            "tortie-api",
            "tortie-datastore",
            "tortie-felix-netlink",
            "tortie-nft",
            "tortie-nft-netlink",
            "tortie-policy",
        ],
    ),
    (
        "tortie-ctl",
        // `node clean` and `node checksystem` work on the node itself, where no agent runs any more, or yet; `ipam check` and `release`
        // judge allocations as the controller does.
        &[
            "tortie-admin",
            "tortie-api",
            "tortie-cni",
            "tortie-datastore",
            "tortie-felix-netlink",
            "tortie-host-firewall",
            "tortie-lab",
            "tortie-nft",
            "tortie-nft-netlink",
            "tortie-policy",
        ],
    ),
];

/// Crates without IO: what they depend on, however far down, must not be able to do any.
const PURE: &[&str] = &["tortie-api", "tortie-nft", "tortie-policy", "tortie-bird-lite", "tortie-felix"];

/// Crates that do IO, so no pure crate may reach them. (`libc` alone says nothing: hashing detects the processor by it.)
const IO: &[&str] = &[
    "hyper",
    "inotify",
    "mio",
    "netlink-sys",
    "nix",
    "rtnetlink",
    "rustix",
    "socket2",
    "tokio",
    "tracing",
    "getrandom",
];

struct Graph {
    names: BTreeMap<String, String>,
    /// Normal dependencies by package id.
    edges: BTreeMap<String, Vec<String>>,
}

fn graph() -> Graph {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(root())
        .output()
        .expect("cargo metadata runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let text = |value: &Value| value.as_str().expect("a string").to_owned();
    let list = |value: &Value| value.as_array().expect("a list").clone();
    let names =
        list(&metadata["packages"]).iter().map(|package| (text(&package["id"]), text(&package["name"]))).collect();
    let edges = list(&metadata["resolve"]["nodes"])
        .iter()
        .map(|node| {
            let normal = list(&node["deps"])
                .iter()
                .filter(|dep| list(&dep["dep_kinds"]).iter().any(|kind| kind["kind"].is_null()))
                .map(|dep| text(&dep["pkg"]))
                .collect();
            (text(&node["id"]), normal)
        })
        .collect();
    Graph { names, edges }
}

impl Graph {
    fn id(&self, name: &str) -> &str {
        self.names
            .iter()
            .find(|(_, n)| *n == name)
            .map_or_else(|| panic!("{name} is not in the workspace"), |(id, _)| id)
    }

    fn direct(&self, name: &str) -> BTreeSet<&str> {
        self.edges[self.id(name)].iter().map(|id| self.names[id].as_str()).collect()
    }

    fn reachable(&self, name: &str) -> BTreeSet<&str> {
        let mut seen = BTreeSet::new();
        let mut todo = vec![self.id(name)];
        while let Some(id) = todo.pop() {
            for next in &self.edges[id] {
                if seen.insert(self.names[next].as_str()) {
                    todo.push(next);
                }
            }
        }
        seen
    }
}

#[test]
fn crates_depend_one_way() {
    let graph = graph();
    for (name, allowed) in ARROWS {
        for dependency in graph.direct(name).into_iter().filter(|dependency| dependency.starts_with("tortie-")) {
            assert!(allowed.contains(&dependency), "{name} must not depend on {dependency}");
        }
    }
}

#[test]
fn pure_crates_cannot_do_io() {
    let graph = graph();
    for name in PURE {
        for dependency in graph.reachable(name) {
            assert!(!IO.contains(&dependency), "{name} is pure, but reaches {dependency}");
        }
        let folder = match *name {
            "tortie-bird-lite" => "bird-lite",
            other => other.trim_start_matches("tortie-"),
        };
        let clippy = std::fs::read_to_string(root().join(folder).join("clippy.toml"))
            .unwrap_or_else(|_| panic!("{folder}/clippy.toml must disallow clocks, sockets and sleeps"));
        for method in ["std::time::Instant::now", "std::time::SystemTime::now", "std::thread::sleep"] {
            assert!(clippy.contains(method), "{folder}/clippy.toml does not disallow {method}");
        }
    }
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("a readable entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn files_are_short_and_say_what_they_are() {
    let mut files = Vec::new();
    rust_files(root(), &mut files);
    assert!(files.len() > 30, "the walk found only {} files", files.len());
    for path in files {
        let text = std::fs::read_to_string(&path).expect("a readable file");
        let lines = text.lines().count();
        assert!(lines <= 1000, "{} has {lines} lines: split it by idea", path.display());
        let first = text.lines().find(|line| !line.trim().is_empty() && !line.starts_with("#!")).unwrap_or_default();
        assert!(first.starts_with("//!"), "{} does not open with what it is (`//!`)", path.display());
    }
}
