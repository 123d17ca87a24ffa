//! `v1 Secret`, slim: passwords of BGP sessions are entries of it.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

use crate::meta::{ObjectMeta, null_as_default};

/// `v1 Secret`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "WireSecret")]
pub struct Secret {
    /// Name and namespace.
    pub metadata: ObjectMeta,
    /// Its entries; those of `stringData` among them.
    pub data: BTreeMap<String, SecretValue>,
}

/// An entry of a Secret. It is neither shown nor recorded.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SecretValue(Vec<u8>);

impl SecretValue {
    /// What it is.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for SecretValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("")
    }
}

/// As manifests have it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireSecret {
    metadata: ObjectMeta,
    #[serde(default, deserialize_with = "null_as_default")]
    data: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "null_as_default")]
    string_data: BTreeMap<String, String>,
}

impl TryFrom<WireSecret> for Secret {
    type Error = String;

    fn try_from(wire: WireSecret) -> Result<Self, String> {
        let mut data = BTreeMap::new();
        for (key, text) in wire.data {
            let bytes = decoded(&text).ok_or_else(|| {
                format!("data[{key}]: must be base64, as `base64` prints it; plain text goes into stringData")
            })?;
            data.insert(key, SecretValue(bytes));
        }
        data.extend(wire.string_data.into_iter().map(|(key, text)| (key, SecretValue(text.into_bytes()))));
        Ok(Self { metadata: wire.metadata, data })
    }
}

/// Reads base64 (RFC 4648, 4) as API servers take it: padded, line breaks left out.
fn decoded(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !matches!(byte, b'\n' | b'\r')).collect();
    if !digits.len().is_multiple_of(4) {
        return None;
    }
    let padding = digits.iter().rev().take_while(|byte| **byte == b'=').count();
    let mut bytes = Vec::with_capacity(digits.len() / 4 * 3);
    let (mut word, mut bits) = (0u32, 0);
    for digit in &digits[..digits.len() - padding] {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        (word, bits) = (word << 6 | u32::from(value), bits + 6);
        if bits >= 8 {
            bits -= 8;
            bytes.push((word >> bits) as u8);
        }
    }
    // At most two signs of padding, and no bits that mean nothing.
    (padding <= 2 && bits == padding * 2 && word & ((1 << bits) - 1) == 0).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read_as_it_is_written() {
        // Those of RFC 4648, 10, and what is none.
        for (text, bytes) in [
            ("", Some("")),
            ("Zg==", Some("f")),
            ("Zm8=", Some("fo")),
            ("Zm9v", Some("foo")),
            ("Zm9vYg==", Some("foob")),
            ("Zm9v\nYmFy\n", Some("foobar")),
            ("Zh==", None),
            ("Zm9", None),
            ("Z===", None),
            ("Zm9v=", None),
            ("Zm=v", None),
            ("plain", None),
            ("Zm9\u{f6}", None),
        ] {
            assert_eq!(decoded(text), bytes.map(|bytes| bytes.as_bytes().to_vec()), "{text:?}");
        }
        assert_eq!(decoded("+/+/").as_deref(), Some(&[0xfb, 0xff, 0xbf][..]));
    }

    #[test]
    fn entries_are_read_and_not_shown() {
        let text = r#"{"metadata": {"name": "s"}, "type": "Opaque", "data": {"a": "aHVudGVyMg=="}, "stringData": {"b": "hunter2"}}"#;
        let secret: Secret = serde_json::from_str(text).expect("a Secret");
        assert!(secret.data.values().all(|value| value.as_bytes() == b"hunter2") && secret.data.len() == 2);
        let shown = format!("{secret:?} {}", serde_json::to_string(&secret).expect("it can be written"));
        assert!(!shown.contains("hunter2") && !shown.contains("aHVudGVyMg"), "{shown}");
        let error = serde_json::from_str::<Secret>(r#"{"metadata": {"name": "s"}, "data": {"a": "plain"}}"#);
        assert!(error.expect_err("it is no base64").to_string().starts_with("data[a]: must be base64"));
    }
}
