//! Names that derive from content, so that a restart finds its own work in the kernel.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;
use sha2::{Digest, Sha256};

/// How many hex digits of the digest go into a name.
const DIGITS: usize = 12;

/// Gives out names, and sees to it that different contents never share one.
#[derive(Debug)]
pub(crate) struct Names {
    digits: usize,
    given: BTreeMap<String, String>,
}

impl Default for Names {
    fn default() -> Self {
        Self { digits: DIGITS, given: BTreeMap::new() }
    }
}

impl Names {
    /// The name for `content`: `prefix` and the first digits of its digest, or all of them where another content has that name.
    pub(crate) fn name<T: Serialize + ?Sized>(&mut self, prefix: &str, content: &T) -> String {
        let digest = digest(content);
        let short = format!("{prefix}{}", &digest[..self.digits]);
        match self.given.get(&short) {
            Some(other) if *other != digest => format!("{prefix}{digest}"),
            Some(_) => short,
            None => {
                self.given.insert(short.clone(), digest);
                short
            }
        }
    }
}

impl Names {
    /// How many names were given out.
    pub(crate) fn len(&self) -> usize {
        self.given.len()
    }
}

/// SHA-256 of the content's JSON, in hex. JSON keeps the borders between strings, and does not change with the compiler.
fn digest<T: Serialize + ?Sized>(content: &T) -> String {
    let json = serde_json::to_vec(content).expect("structs of strings, numbers and lists have a JSON form");
    let mut text = String::with_capacity(64);
    for byte in Sha256::digest(json) {
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
    }

    #[test]
    fn a_collision_is_seen_and_avoided() {
        let mut names = Names { digits: 1, ..Names::default() };
        let mut all: Vec<String> = (0..40).map(|content| names.name("x_", &content)).collect();
        let again: Vec<String> = (0..40).map(|content| names.name("x_", &content)).collect();
        assert_eq!(all, again);
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 40);
    }
}
