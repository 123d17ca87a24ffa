//! Which objects an agent has, in one number for each kind, so that agents can be compared without telling one another their lists.
//!
//! The number is the sum of a hash of each object's `metadata.uid` and `metadata.generation`, which the API server raises with every change of what
//! is wanted, but not with a status. So it depends neither on the order in which objects came nor on what became of them, agents of all
//! versions agree on it, and one that has just started agrees with one that has run for months.

use std::collections::HashMap;

use tortie_api::{Kind, ObjectKey};

/// The kinds whose objects are told in their `status` what became of them.
pub const WITH_STATUS: [Kind; 13] = [
    Kind::Tier,
    Kind::GlobalNetworkPolicy,
    Kind::CalicoNetworkPolicy,
    Kind::StagedGlobalNetworkPolicy,
    Kind::StagedNetworkPolicy,
    Kind::StagedKubernetesNetworkPolicy,
    Kind::ClusterNetworkPolicy,
    Kind::HostEndpoint,
    Kind::IpPool,
    Kind::BgpConfiguration,
    Kind::BgpPeer,
    Kind::BgpFilter,
    Kind::FelixConfiguration,
];

/// The objects of one kind.
#[derive(Debug, Default)]
pub(super) struct Content {
    /// What each object adds, by the hash of its name.
    parts: HashMap<u64, u64>,
    digest: u64,
}

impl Content {
    /// Takes in an object.
    pub(super) fn set(&mut self, key: &ObjectKey, uid: &str, generation: u64) {
        let part = mix(fnv(fnv(START, uid.as_bytes()), &generation.to_be_bytes()));
        let before = self.parts.insert(name(key), part).unwrap_or_default();
        self.digest = self.digest.wrapping_sub(before).wrapping_add(part);
    }

    /// Takes in that an object is gone.
    pub(super) fn remove(&mut self, key: &ObjectKey) {
        let before = self.parts.remove(&name(key)).unwrap_or_default();
        self.digest = self.digest.wrapping_sub(before);
    }

    /// The number. Zero of no objects.
    pub(super) const fn digest(&self) -> u64 {
        self.digest
    }
}

/// The hash of a name.
fn name(key: &ObjectKey) -> u64 {
    let namespace = fnv(START, key.namespace.as_deref().unwrap_or_default().as_bytes());
    // Names have no slash.
    fnv(fnv(namespace, b"/"), key.name.as_bytes())
}

/// What FNV-1a starts with.
const START: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a: other programs, of other versions, must come to the same, which the standard library's hashes do not promise.
fn fnv(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Lets every bit count in all of the sum's.
const fn mix(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(namespace: Option<&str>, name: &str) -> ObjectKey {
        ObjectKey { kind: Kind::CalicoNetworkPolicy, namespace: namespace.map(str::to_owned), name: name.to_owned() }
    }

    #[test]
    fn only_what_is_there_counts_and_not_how_it_came() {
        let (mut one, mut other) = (Content::default(), Content::default());
        one.set(&key(Some("a"), "x"), "u1", 1);
        one.set(&key(Some("b"), "x"), "u2", 7);
        one.set(&key(Some("a"), "x"), "u1", 2);
        other.set(&key(Some("b"), "x"), "u2", 7);
        other.set(&key(Some("c"), "x"), "u3", 9);
        other.set(&key(Some("a"), "x"), "u1", 2);
        assert_ne!(one.digest(), other.digest());
        other.remove(&key(Some("c"), "x"));
        assert_eq!(one.digest(), other.digest());
        other.set(&key(Some("a"), "x"), "u4", 2);
        assert_ne!(one.digest(), other.digest(), "deleted and made again is not the same");
        for key in [key(Some("a"), "x"), key(Some("b"), "x"), key(None, "stranger")] {
            one.remove(&key);
        }
        assert_eq!(one.digest(), 0);
    }

    #[test]
    fn the_number_is_the_same_in_every_version() {
        let mut content = Content::default();
        content.set(&key(Some("default"), "allow-dns"), "0b5f4d0c-4f5a-4c39-9d2c-3c7d0b1c5a11", 3);
        assert_eq!(
            content.digest(),
            10_757_769_837_518_989_747,
            "agents of two versions would not understand each other"
        );
    }
}
