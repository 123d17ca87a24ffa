//! Enumerations whose empty text is a field that is not set.

use serde::de::DeserializeOwned;
use serde::de::value::StrDeserializer;
use serde::{Deserialize, Deserializer, de};

/// Reads one of an enumeration's names; nothing, null and the empty text are `None`.
pub(in crate::calico) fn optional<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    let text = Option::<String>::deserialize(deserializer)?.unwrap_or_default();
    if text.is_empty() {
        return Ok(None);
    }
    let reader: StrDeserializer<'_, D::Error> = de::IntoDeserializer::into_deserializer(text.as_str());
    T::deserialize(reader).map(Some)
}
