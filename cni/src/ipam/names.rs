//! What the objects of IPAM are called: as Calico calls them, or its tools would not find them.

use std::fmt::Write as _;

use ipnet::IpNet;
use sha2::{Digest as _, Sha256};
use tortie_api::Kind;

/// The longest name of an object, in bytes.
const LONGEST: usize = 253;

/// The name of a block: its range with `.`, `:` and `/` as `-`.
pub fn block(cidr: &IpNet) -> String {
    cidr.to_string().replace(['.', ':', '/'], "-")
}

/// The name of a node's affinity to a block. That of a node with a very long name is cut, and told apart by a digest.
pub fn affinity(node: &str, cidr: &IpNet) -> String {
    let block = block(cidr);
    let name = format!("{node}-{block}");
    if name.len() < LONGEST {
        return name;
    }
    let room = (LONGEST - 1).saturating_sub(block.len() + 13);
    let kept = node.get(..room).unwrap_or_default();
    let digest = hex(&Sha256::digest(format!("{node}+{block}")));
    format!("{kept}-{block}-{}", &digest[..11])
}

/// The name of a handle: itself in lower case. What can be no name, such as that of a network with `_`, has a digest in its place.
pub fn handle(id: &str) -> String {
    let name = id.to_lowercase();
    match Kind::IpamHandle.check_name(&name) {
        Ok(()) => name,
        Err(_) => format!("handle-{}", &hex(&Sha256::digest(id))[..40]),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().expect("a network")
    }

    #[test]
    fn names_are_calicos() {
        assert_eq!(block(&net("10.244.0.64/26")), "10-244-0-64-26");
        assert_eq!(block(&net("fd00:10:244::40/122")), "fd00-10-244--40-122");
        assert_eq!(affinity("node-1", &net("10.244.0.64/26")), "node-1-10-244-0-64-26");
        let long = affinity(&"n".repeat(253), &net("10.244.0.64/26"));
        assert_eq!(long.len(), LONGEST - 1);
        assert!(long.starts_with("nnn") && long.contains("-10-244-0-64-26-"));
        assert_ne!(long, affinity(&format!("{}m", "n".repeat(252)), &net("10.244.0.64/26")));
        assert_eq!(handle("k8s-pod-network.ABC"), "k8s-pod-network.abc");
    }

    #[test]
    fn every_handle_has_a_name() {
        for id in ["a_b.c1.eth0", "", ".", &"x".repeat(400), "net..eth0"] {
            let name = handle(id);
            assert_eq!(Kind::IpamHandle.check_name(&name), Ok(()), "{id}: {name}");
            assert!(name.starts_with("handle-"));
        }
        assert_ne!(handle("a_b"), handle("a_c"));
    }
}
