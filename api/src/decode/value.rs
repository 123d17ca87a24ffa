//! A serde deserializer over JSON that reads as the API server reads: it knows the path of what it reads, an explicit null is the
//! zero value of its type, and a refusal names the field, the value and the remedy.

use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, Expected, IntoDeserializer, MapAccess, SeqAccess, Unexpected,
    VariantAccess, Visitor,
};
use serde_json::{Map, Value};

use super::Unsupported;
use crate::field::{FieldError, Path, Step};

/// Why a value does not fit its type.
#[derive(Debug)]
pub(super) struct Refusal {
    /// The way to it, innermost step first.
    steps: Vec<Step>,
    reason: Reason,
}

#[derive(Debug)]
enum Reason {
    /// What the value should be; the value is put before it where it is known.
    Should(String),
    /// A complete message.
    Complete(String),
    /// The field named by the innermost step is unknown.
    UnknownField { name: String, known: &'static [&'static str] },
    /// The field named by the innermost step is missing.
    Missing,
    /// Not one of an enum's names.
    UnknownVariant { name: String, known: &'static [&'static str] },
}

impl Refusal {
    fn inside(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    /// Puts the value that was refused into the message.
    fn of(mut self, value: &Value) -> Self {
        if self.steps.is_empty()
            && let Reason::Should(remedy) = &self.reason
        {
            self.reason = Reason::Complete(FieldError::invalid(Path::root(), value, remedy).message);
        }
        self
    }

    /// The error, with what is known about unknown fields.
    pub(super) fn into_field_error(self, unsupported: &Unsupported) -> FieldError {
        let path = Path::from_reversed(self.steps);
        match self.reason {
            Reason::Should(message) | Reason::Complete(message) => FieldError::new(path, message),
            Reason::Missing => FieldError::required(path, "this field must be set"),
            Reason::UnknownVariant { name, known } => {
                // The empty name is that of a default, and no advice.
                let known: Vec<&str> = known.iter().copied().filter(|name| !name.is_empty()).collect();
                FieldError::not_supported(path, &name, &known)
            }
            Reason::UnknownField { name, .. } if unsupported.fields.contains(&name.as_str()) => {
                FieldError::forbidden(path, unsupported.remedy)
            }
            Reason::UnknownField { name, known } => FieldError::unknown(path, &name, known),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.reason)
    }
}

impl std::error::Error for Refusal {}

impl de::Error for Refusal {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { steps: Vec::new(), reason: Reason::Should(message.to_string()) }
    }

    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::custom(format!("must be {expected}"))
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::custom(format!("must be {expected}"))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self { steps: Vec::new(), reason: Reason::UnknownVariant { name: variant.to_owned(), known: expected } }
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self {
            steps: vec![Step::Field(field.to_owned())],
            reason: Reason::UnknownField { name: field.to_owned(), known: expected },
        }
    }

    fn missing_field(field: &'static str) -> Self {
        Self { steps: vec![Step::Field(field.to_owned())], reason: Reason::Missing }
    }
}

/// Reads one value.
#[derive(Clone, Copy)]
pub(super) struct ValueReader<'a>(pub(super) &'a Value);

/// What JSON calls the value's type, for people.
fn should_be(what: &str) -> Refusal {
    de::Error::custom(format!("must be {what}"))
}

impl<'de> ValueReader<'de> {
    fn integer<V: Visitor<'de>>(self, max: u64, visitor: V) -> Result<V::Value, Refusal> {
        match self.0 {
            Value::Null => visitor.visit_u64(0),
            Value::Number(number) if number.as_u64().is_some_and(|value| value <= max) => {
                visitor.visit_u64(number.as_u64().unwrap_or_default())
            }
            other => Err(should_be(&format!("a whole number between 0 and {max}")).of(other)),
        }
    }
}

macro_rules! integers {
    ($($method:ident $type:ty),+) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
            self.integer(u64::from(<$type>::MAX), visitor)
        })+
    };
}

impl<'de> Deserializer<'de> for ValueReader<'de> {
    type Error = Refusal;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
                (Some(value), _, _) => visitor.visit_u64(value),
                (_, Some(value), _) => visitor.visit_i64(value),
                (_, _, Some(value)) => visitor.visit_f64(value),
                _ => Err(should_be("a number")),
            },
            Value::String(text) => visitor.visit_borrowed_str(text),
            Value::Array(list) => visitor.visit_seq(ListReader { list: list.iter(), index: 0 }),
            Value::Object(map) => visitor.visit_map(MapReader::new(map, false)),
        }
        .map_err(|error: Refusal| error.of(self.0))
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        match self.0 {
            Value::Null => visitor.visit_bool(false),
            Value::Bool(value) => visitor.visit_bool(*value),
            other => Err(should_be("true or false").of(other)),
        }
    }

    integers!(deserialize_u8 u8, deserialize_u16 u16, deserialize_u32 u32, deserialize_u64 u64);

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        match self.0 {
            Value::Null => visitor.visit_f64(0.0),
            Value::Number(number) => match number.as_f64().filter(|number| number.is_finite()) {
                Some(number) => visitor.visit_f64(number),
                None => Err(should_be("a finite number").of(self.0)),
            },
            other => Err(should_be("a number").of(other)),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        match self.0 {
            Value::Null => visitor.visit_borrowed_str(""),
            Value::String(text) => visitor.visit_borrowed_str(text).map_err(|error: Refusal| error.of(self.0)),
            Value::Bool(_) | Value::Number(_) => Err(should_be("a string: put it in quotes").of(self.0)),
            other => Err(should_be("a string").of(other)),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        match self.0 {
            Value::Null => visitor.visit_seq(ListReader { list: [].iter(), index: 0 }),
            Value::Array(list) => visitor.visit_seq(ListReader { list: list.iter(), index: 0 }),
            other => Err(should_be("a list").of(other)),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        match self.0 {
            Value::Null => visitor.visit_map(MapReader { map: None, structure: false, pending: None }),
            Value::Object(map) => visitor.visit_map(MapReader::new(map, false)),
            other => Err(should_be("a map").of(other)),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        match self.0 {
            Value::Null => visitor.visit_map(MapReader { map: None, structure: true, pending: None }),
            Value::Object(map) => visitor.visit_map(MapReader::new(map, true)),
            other => Err(should_be("a map of fields").of(other)),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        match self.0 {
            Value::Object(map) => visitor.visit_enum(Alternative::of(map, variants).map_err(|error| error.of(self.0))?),
            Value::Null => visitor.visit_enum(IntoDeserializer::<Refusal>::into_deserializer("")),
            Value::String(text) => visitor.visit_enum(IntoDeserializer::<Refusal>::into_deserializer(text.as_str())),
            other => Err(should_be("a string").of(other)),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Refusal> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i32 i64 f32 char bytes byte_buf unit unit_struct tuple tuple_struct identifier
    }
}

/// A map of which exactly one field must be set, as the API writes a choice: the field's name is that of an enum's variant.
struct Alternative<'de> {
    field: &'de str,
    value: &'de Value,
}

impl<'de> Alternative<'de> {
    fn of(map: &'de Map<String, Value>, known: &'static [&'static str]) -> Result<Self, Refusal> {
        let mut set = map.iter().filter(|(_, value)| !value.is_null());
        match (set.next(), set.next()) {
            (Some((field, value)), None) if known.contains(&field.as_str()) => Ok(Self { field, value }),
            (Some((field, _)), None) => Err(de::Error::unknown_field(field, known)),
            _ => Err(de::Error::custom(format!("must have exactly one of the fields {}", known.join(", ")))),
        }
    }
}

impl<'de> EnumAccess<'de> for Alternative<'de> {
    type Error = Refusal;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Refusal> {
        let reader: StrDeserializer<'_, Refusal> = self.field.into_deserializer();
        seed.deserialize(reader).map(|variant| (variant, self))
    }
}

impl<'de> VariantAccess<'de> for Alternative<'de> {
    type Error = Refusal;

    fn unit_variant(self) -> Result<(), Refusal> {
        Err(should_be("a string"))
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Refusal> {
        let field = || Step::Field(self.field.to_owned());
        seed.deserialize(ValueReader(self.value)).map_err(|error| error.of(self.value).inside(field()))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Refusal> {
        Err(should_be("a string"))
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], _: V) -> Result<V::Value, Refusal> {
        Err(should_be("a string"))
    }
}

struct ListReader<'de> {
    list: std::slice::Iter<'de, Value>,
    index: usize,
}

impl<'de> SeqAccess<'de> for ListReader<'de> {
    type Error = Refusal;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Refusal> {
        let Some(value) = self.list.next() else { return Ok(None) };
        let index = self.index;
        self.index += 1;
        seed.deserialize(ValueReader(value)).map(Some).map_err(|error| error.of(value).inside(Step::Index(index)))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.list.len())
    }
}

struct MapReader<'de> {
    map: Option<serde_json::map::Iter<'de>>,
    /// Of a struct, null fields are absent ones; of a map, a null value is a zero value.
    structure: bool,
    pending: Option<(&'de str, &'de Value)>,
}

impl<'de> MapReader<'de> {
    fn new(map: &'de Map<String, Value>, structure: bool) -> Self {
        Self { map: Some(map.iter()), structure, pending: None }
    }
}

impl<'de> MapAccess<'de> for MapReader<'de> {
    type Error = Refusal;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Refusal> {
        let Some(map) = &mut self.map else { return Ok(None) };
        let Some((key, value)) = map.by_ref().find(|(_, value)| !self.structure || !value.is_null()) else {
            return Ok(None);
        };
        self.pending = Some((key, value));
        let reader: StrDeserializer<'_, Refusal> = key.as_str().into_deserializer();
        seed.deserialize(reader).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Refusal> {
        let Some((key, value)) = self.pending.take() else { return Err(should_be("preceded by its key")) };
        seed.deserialize(ValueReader(value)).map_err(|error| {
            let step = if self.structure { Step::Field(key.to_owned()) } else { Step::Key(key.to_owned()) };
            error.of(value).inside(step)
        })
    }
}
