//! Names of the lab's things: what a lab may be called, and how its network namespaces and directories are named.
//!
//! A network namespace is a file in `/run/netns`, and a node's directory holds a unix socket whose whole path is limited to 107 bytes.
//! So names that grow too long are cut and end in a digest of the whole, which keeps them unique.

use std::path::{Path, PathBuf};

use crate::Error;

/// Where labs keep their state, one directory each.
pub const ROOT: &str = "/run/tortie-lab";

/// The most bytes of a network namespace's name.
const NETNS_LIMIT: usize = 60;

/// The most bytes of a node's directory name: the socket's path below it must stay within `sun_path`.
const DIRECTORY_LIMIT: usize = 32;

/// The name of the fabric, which no node may have.
pub const FABRIC: &str = "fabric";

/// Checks a lab's name: a DNS label of at most 24 characters, so that its prefix `LAB_` is never ambiguous.
pub fn check_lab(name: &str) -> Result<(), Error> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || name.len() > 24 || !name.chars().all(good) || name.starts_with('-') || name.ends_with('-') {
        return Err(Error::Usage(format!(
            "{name:?} cannot be a lab's name: use at most 24 lower-case letters, digits and dashes, such as \"lab\""
        )));
    }
    Ok(())
}

/// The network namespace of the fabric.
pub fn fabric_netns(lab: &str) -> String {
    format!("{lab}_{FABRIC}")
}

/// The network namespace of a node.
pub fn node_netns(lab: &str, node: &str) -> String {
    shorten(&format!("{lab}_{node}"), NETNS_LIMIT)
}

/// The network namespace of a pod.
pub fn pod_netns(lab: &str, namespace: &str, pod: &str) -> String {
    shorten(&format!("{lab}_{namespace}_{pod}"), NETNS_LIMIT)
}

/// The fabric's end of a node's cable: an interface name of at most 15 bytes.
pub fn link(node: &str) -> String {
    if node.len() <= 12 {
        format!("to-{node}")
    } else {
        format!("to-{:012x}", fnv1a(node.as_bytes()) & 0xffff_ffff_ffff)
    }
}

/// The directory name of a node below the lab's `nodes/`, also that of its log.
pub fn node_directory(node: &str) -> String {
    shorten(node, DIRECTORY_LIMIT)
}

/// The name itself, or its start and a digest of the whole when it is longer than `limit`.
pub(crate) fn shorten(name: &str, limit: usize) -> String {
    if name.len() <= limit {
        return name.to_owned();
    }
    let digest = format!("{:016x}", fnv1a(name.as_bytes()));
    let mut end = limit - digest.len() - 1;
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}-{digest}", &name[..end])
}

/// FNV-1a, 64 bits: stable between versions, which `std`'s hasher does not promise.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The places of one lab's files.
#[derive(Debug, Clone)]
pub struct Paths {
    /// `/run/tortie-lab/LAB`.
    pub root: PathBuf,
}

impl Paths {
    /// The places of the lab of this name.
    pub fn new(lab: &str) -> Self {
        Self { root: Path::new(ROOT).join(lab) }
    }

    /// The Directory datastore of the lab's agents.
    pub fn datastore(&self) -> PathBuf {
        self.root.join("datastore")
    }

    /// What `down` needs to know.
    pub fn state(&self) -> PathBuf {
        self.root.join("state.json")
    }

    /// The control socket of the responders.
    pub fn responder_socket(&self) -> PathBuf {
        self.root.join("responders.sock")
    }

    /// The run directory of a node's agent.
    pub fn run_dir(&self, node: &str) -> PathBuf {
        self.root.join("nodes").join(node_directory(node))
    }

    /// The admin socket of a node's agent.
    pub fn socket(&self, node: &str) -> PathBuf {
        self.run_dir(node).join("tortie.sock")
    }

    /// The log of a node's agent, or of the responders.
    pub fn log(&self, who: &str) -> PathBuf {
        self.root.join("logs").join(format!("{}.log", node_directory(who)))
    }

    /// The directory with the CNI plugin, as a runtime's `/opt/cni/bin`.
    pub fn cni(&self) -> PathBuf {
        self.root.join("cni")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lab_names() {
        for good in ["lab", "a", "truth-7", "x0"] {
            check_lab(good).unwrap();
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a/b", "..", "a b", &"x".repeat(25)] {
            assert!(check_lab(bad).is_err(), "{bad:?} passed");
        }
    }

    #[test]
    fn short_names_are_plain() {
        assert_eq!(node_netns("lab", "node1"), "lab_node1");
        assert_eq!(pod_netns("lab", "prod", "web-0"), "lab_prod_web-0");
        assert_eq!(fabric_netns("lab"), "lab_fabric");
    }

    #[test]
    fn long_names_stay_unique_and_short() {
        let long = "p".repeat(250);
        let one = pod_netns("lab", "n", &format!("{long}a"));
        let two = pod_netns("lab", "n", &format!("{long}b"));
        assert_ne!(one, two);
        assert!(one.len() <= NETNS_LIMIT && two.len() <= NETNS_LIMIT);
        let socket = Paths::new(&"l".repeat(24)).socket(&long);
        assert!(socket.as_os_str().len() < 108, "{} does not fit sun_path", socket.display());
    }
}
