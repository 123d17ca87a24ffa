//! Names that derive from content, so that a restart finds its own work in the kernel.

use std::fmt::Write as _;

use rustc_hash::FxHashMap;
use serde::Serialize;
use sha2::{Digest, Sha256};

/// How many hex digits of the digest go into a name.
const DIGITS: usize = 12;

/// Gives out names, and sees to it that different contents never share one.
#[derive(Debug)]
pub(crate) struct Names {
    digits: usize,
    /// What each name stands for, by what it begins with and its digits.
    given: FxHashMap<(Prefix, u64), [u8; 10]>,
}

type Prefix = [u8; 3];

impl Default for Names {
    fn default() -> Self {
        Self { digits: DIGITS, given: FxHashMap::default() }
    }
}

impl Names {
    /// The name for `content`: `prefix`, of at most three letters, and the first digits of the content's digest, or all of them where
    /// another content has that name.
    pub(crate) fn name<T: Serialize + ?Sized>(&mut self, prefix: &str, content: &T) -> String {
        let digest = digest(content);
        let mut name = format!("{prefix}{}", hex(&digest));
        let short = prefix.len() + self.digits;
        let Some(key) = self.key(&name[..short]) else { return name };
        // Together with the name's own digits that is as much as tells any two contents apart.
        let mut rest = [0; 10];
        rest.copy_from_slice(&digest[6..16]);
        if *self.given.entry(key).or_insert(rest) == rest {
            name.truncate(short);
        }
        name
    }

    /// Takes a name back that is not in use any more.
    pub(crate) fn forget(&mut self, name: &str) {
        if let Some(key) = self.key(name) {
            self.given.remove(&key);
        }
    }

    fn key(&self, name: &str) -> Option<(Prefix, u64)> {
        let (prefix, digits) = name.split_at_checked(name.len().checked_sub(self.digits)?)?;
        let mut key = [0; 3];
        key.get_mut(..prefix.len())?.copy_from_slice(prefix.as_bytes());
        Some((key, u64::from_str_radix(digits, 16).ok()?))
    }
}

/// SHA-256 of the content's JSON. JSON keeps the borders between strings, and does not change with the compiler.
fn digest<T: Serialize + ?Sized>(content: &T) -> [u8; 32] {
    let json = serde_json::to_vec(content).expect("structs of strings, numbers and lists have a JSON form");
    Sha256::digest(json).into()
}

/// Writes what is shared as if it were not.
pub(crate) fn shared<T: Serialize, S: serde::Serializer>(
    value: &std::sync::Arc<T>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    value.as_ref().serialize(serializer)
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(64);
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_its_contents() {
        let mut names = Names::default();
        let name = names.name("s4_", &["a", "b"]);
        assert_eq!(name.len(), 3 + DIGITS);
        assert_eq!(names.name("s4_", &["a", "b"]), name);
        assert_eq!(Names::default().name("s4_", &["a", "b"]), name, "in another process too");
        assert_ne!(names.name("s4_", &["ab"]), name);
        assert_ne!(names.name("s4_", &["a", "b", ""]), name);
        names.forget(&name);
        assert!(!names.given.is_empty());
        assert_eq!(names.name("s4_", &["a", "b"]), name);
    }

    #[test]
    fn a_collision_is_seen_and_avoided() {
        let mut names = Names { digits: 1, ..Names::default() };
        let mut all: Vec<String> = (0..40).map(|content| names.name("x_", &content)).collect();
        let again: Vec<String> = (0..40).map(|content| names.name("x_", &content)).collect();
        assert_eq!(all, again);
        let taken = names.given.len();
        for name in &all {
            names.forget(name);
        }
        assert!(names.given.is_empty() && taken > 1);
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 40);
    }
}
