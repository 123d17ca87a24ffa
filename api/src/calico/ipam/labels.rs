//! The labels by which what belongs to a node is listed and watched without the rest: Calico's.

use sha3::{Digest as _, Sha3_256};

use super::BlockAffinitySpec;
use crate::meta::StringMap;

/// Says which node an object belongs to, by [`hostname_hash`].
pub const HOSTNAME_HASH_LABEL: &str = "projectcalico.org/hostname-hash";

const TYPE_LABEL: &str = "projectcalico.org/affinity-type";

const FAMILY_LABEL: &str = "projectcalico.org/ip-version";

/// What [`HOSTNAME_HASH_LABEL`] says of a node: a digest of its name, for which a label has no room.
pub fn hostname_hash(node: &str) -> String {
    base32(&Sha3_256::digest(node))
}

impl BlockAffinitySpec {
    /// The labels that an affinity has.
    pub fn labels(&self) -> StringMap {
        let family = if self.cidr.addr().is_ipv4() { "4" } else { "6" };
        [
            (HOSTNAME_HASH_LABEL, hostname_hash(&self.node)),
            (TYPE_LABEL, self.kind.clone()),
            (FAMILY_LABEL, family.to_owned()),
        ]
        .into_iter()
        .map(|(label, value)| (label.to_owned(), value))
        .collect()
    }
}

/// RFC 4648, without padding.
fn base32(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let mut text = String::with_capacity(bytes.len() * 8 / 5 + 1);
    let (mut pending, mut bits) = (0_u32, 0);
    for byte in bytes {
        pending = pending << 8 | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            text.push(char::from(LETTERS[(pending >> bits & 31) as usize]));
        }
    }
    if bits > 0 {
        text.push(char::from(LETTERS[(pending << (5 - bits) & 31) as usize]));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_fit() {
        // RFC 4648, section 10.
        for (plain, coded) in [("", ""), ("f", "MY"), ("fo", "MZXQ"), ("foob", "MZXW6YQ"), ("foobar", "MZXW6YTBOI")] {
            assert_eq!(base32(plain.as_bytes()), coded);
        }
        assert_eq!(hostname_hash(&"n".repeat(253)).len(), 52);
        // As Python's hashlib and base64 have it.
        assert_eq!(hostname_hash("node-1"), "A3XPYDATRKB7Q4SM2O5FN4RXIHBFIL2PITFX26BAIP5XAB2X74CA");
        let spec: BlockAffinitySpec =
            serde_json::from_value(serde_json::json!({"node": "n", "cidr": "fd00::/122"})).expect("an affinity");
        assert_eq!((spec.labels()[TYPE_LABEL].as_str(), spec.labels()[FAMILY_LABEL].as_str()), ("host", "6"));
    }
}
