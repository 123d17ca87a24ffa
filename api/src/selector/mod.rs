//! Calico's selectors: expressions over labels, such as `has(gpu) && zone in {"a", "b"}`.
//!
//! The grammar, loosest first: `||`, `&&`, `!`, then parentheses, `all()`, `global()`, `has(KEY)` and comparisons of a key with a
//! quoted text: `==`, `!=`, `contains`, `starts with`, `ends with`, `in {...}`, `not in {...}`. A key that is not there equals nothing,
//! so `!=` and `not in` hold for it. The empty selector is `all()`. Kubernetes' label selectors are read into the same form.
//!
//! A selector is kept parsed and in canonical form: values of a set sorted, each once; no double negation; parentheses where a
//! conjunction or a disjunction has more than one part. Two texts that differ in nothing else are equal, and print as Calico prints
//! them.

mod parse;
mod requirements;

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use parse::SelectorError;
pub use requirements::Requirement;

use crate::k8s::{LabelSelector, SelectorOperator};
use crate::meta::StringMap;

/// A selector, ready to be asked. Copies share what they are made of.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector(Arc<Expression>);

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Expression {
    All,
    Global,
    Has(String),
    Equals(String, String),
    Differs(String, String),
    /// The values are sorted, each once; so are those of `NotIn`.
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Contains(String, String),
    StartsWith(String, String),
    EndsWith(String, String),
    /// Never of another `Not`.
    Not(Box<Self>),
    /// Two parts at least; so has `Or`.
    And(Vec<Self>),
    Or(Vec<Self>),
}

impl Selector {
    /// `all()`.
    pub fn all() -> Self {
        Self(Arc::new(Expression::All))
    }

    /// Reads a selector.
    ///
    /// # Errors
    /// Where the text leaves the grammar, and what could stand there.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        parse::parse(text).map(Self::from)
    }

    /// Whether an object with these labels is selected. `all()` and `global()` select everything: what is in no namespace is for
    /// callers to know.
    pub fn matches(&self, labels: &StringMap) -> bool {
        self.matches_with(&|key| labels.get(key).map(String::as_str))
    }

    /// Whether an object is selected whose label of a key is what the function says: inherited labels need no map of their own.
    pub fn matches_with<'a>(&self, label: &impl Fn(&str) -> Option<&'a str>) -> bool {
        self.0.matches(label)
    }

    /// Whether it is `all()`, or the empty text.
    pub fn is_all(&self) -> bool {
        *self.0 == Expression::All
    }

    /// Whether it is `global()`: where namespaces are selected, what is in none.
    pub fn is_global(&self) -> bool {
        *self.0 == Expression::Global
    }

    /// Whether `global()` is a part of it, or the whole.
    pub fn mentions_global(&self) -> bool {
        self.0.any(&|part| *part == Expression::Global)
    }

    /// The keys that it speaks of: a change of any other label changes nothing.
    pub fn keys(&self) -> BTreeSet<&str> {
        let mut keys = BTreeSet::new();
        self.0.collect_keys(&mut keys);
        keys
    }

    /// What everything selected surely meets: one at least of each of these lists of alternatives. Most selective alternatives are not
    /// promised, soundness is: whatever meets not one of a list is not selected. An empty list of alternatives means that nothing is
    /// selected at all, no list that nothing is required.
    pub fn requirements(&self) -> Vec<Vec<Requirement>> {
        requirements::of(&self.0)
    }
}

impl Default for Selector {
    fn default() -> Self {
        Self::all()
    }
}

impl From<Expression> for Selector {
    fn from(expression: Expression) -> Self {
        Self(Arc::new(expression))
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

/// Kubernetes' selector in Calico's form. Selectors that differ in the order of their requirements only are equal.
impl From<&LabelSelector> for Selector {
    fn from(selector: &LabelSelector) -> Self {
        let mut parts: Vec<Expression> = selector
            .match_labels
            .iter()
            .map(|(key, value)| Expression::Equals(key.clone(), value.clone()))
            .chain(selector.match_expressions.iter().map(|requirement| {
                let key = requirement.key.clone();
                match requirement.operator {
                    SelectorOperator::In => Expression::any_value(key, requirement.values.clone()),
                    SelectorOperator::NotIn => Expression::no_value(key, requirement.values.clone()),
                    SelectorOperator::Exists => Expression::Has(key),
                    SelectorOperator::DoesNotExist => Expression::Not(Box::new(Expression::Has(key))),
                }
            }))
            .collect();
        parts.sort_unstable();
        parts.dedup();
        Self::from(match parts.len() {
            0 => Expression::All,
            1 => parts.swap_remove(0),
            _ => Expression::And(parts),
        })
    }
}

impl Expression {
    /// `key in {values}`, of one value `key == "value"`.
    fn any_value(key: String, mut values: Vec<String>) -> Self {
        if values.len() == 1 { Self::Equals(key, values.swap_remove(0)) } else { Self::In(key, sorted(values)) }
    }

    /// `key not in {values}`, of one value `key != "value"`.
    fn no_value(key: String, mut values: Vec<String>) -> Self {
        if values.len() == 1 { Self::Differs(key, values.swap_remove(0)) } else { Self::NotIn(key, sorted(values)) }
    }

    fn matches<'a>(&self, label: &impl Fn(&str) -> Option<&'a str>) -> bool {
        let holds = |values: &[String], value: &str| values.binary_search_by(|known| known.as_str().cmp(value)).is_ok();
        match self {
            Self::All | Self::Global => true,
            Self::Has(key) => label(key).is_some(),
            Self::Equals(key, value) => label(key) == Some(value),
            Self::Differs(key, value) => label(key) != Some(value),
            Self::In(key, values) => label(key).is_some_and(|value| holds(values, value)),
            Self::NotIn(key, values) => label(key).is_none_or(|value| !holds(values, value)),
            Self::Contains(key, part) => label(key).is_some_and(|value| value.contains(part.as_str())),
            Self::StartsWith(key, part) => label(key).is_some_and(|value| value.starts_with(part.as_str())),
            Self::EndsWith(key, part) => label(key).is_some_and(|value| value.ends_with(part.as_str())),
            Self::Not(inner) => !inner.matches(label),
            Self::And(parts) => parts.iter().all(|part| part.matches(label)),
            Self::Or(parts) => parts.iter().any(|part| part.matches(label)),
        }
    }

    /// Whether any part of it, itself included, is so.
    fn any(&self, is_so: &impl Fn(&Self) -> bool) -> bool {
        is_so(self)
            || match self {
                Self::Not(inner) => inner.any(is_so),
                Self::And(parts) | Self::Or(parts) => parts.iter().any(|part| part.any(is_so)),
                _ => false,
            }
    }

    fn collect_keys<'a>(&'a self, keys: &mut BTreeSet<&'a str>) {
        match self {
            Self::All | Self::Global => {}
            Self::Has(key)
            | Self::Equals(key, _)
            | Self::Differs(key, _)
            | Self::In(key, _)
            | Self::NotIn(key, _)
            | Self::Contains(key, _)
            | Self::StartsWith(key, _)
            | Self::EndsWith(key, _) => {
                keys.insert(key);
            }
            Self::Not(inner) => inner.collect_keys(keys),
            Self::And(parts) | Self::Or(parts) => parts.iter().for_each(|part| part.collect_keys(keys)),
        }
    }
}

fn sorted(mut values: Vec<String>) -> Vec<String> {
    values.sort_unstable();
    values.dedup();
    values
}

/// A text in quotes: double ones, unless it has such itself.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quote = if self.0.contains('"') { '\'' } else { '"' };
        write!(f, "{quote}{}{quote}", self.0)
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = |f: &mut fmt::Formatter<'_>, key: &str, operator: &str, values: &[String]| {
            write!(f, "{key} {operator} {{")?;
            for (index, value) in values.iter().enumerate() {
                let separator = if index == 0 { "" } else { ", " };
                write!(f, "{separator}{}", Quoted(value))?;
            }
            f.write_str("}")
        };
        let parts = |f: &mut fmt::Formatter<'_>, operator: &str, parts: &[Self]| {
            f.write_str("(")?;
            for (index, part) in parts.iter().enumerate() {
                let separator = if index == 0 { "" } else { operator };
                write!(f, "{separator}{part}")?;
            }
            f.write_str(")")
        };
        match self {
            Self::All => f.write_str("all()"),
            Self::Global => f.write_str("global()"),
            Self::Has(key) => write!(f, "has({key})"),
            Self::Equals(key, value) => write!(f, "{key} == {}", Quoted(value)),
            Self::Differs(key, value) => write!(f, "{key} != {}", Quoted(value)),
            Self::In(key, values) => set(f, key, "in", values),
            Self::NotIn(key, values) => set(f, key, "not in", values),
            Self::Contains(key, part) => write!(f, "{key} contains {}", Quoted(part)),
            Self::StartsWith(key, part) => write!(f, "{key} starts with {}", Quoted(part)),
            Self::EndsWith(key, part) => write!(f, "{key} ends with {}", Quoted(part)),
            Self::Not(inner) => write!(f, "!{inner}"),
            Self::And(list) => parts(f, " && ", list),
            Self::Or(list) => parts(f, " || ", list),
        }
    }
}

/// The canonical form.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Selector({self})")
    }
}

impl Serialize for Selector {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Selector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// Reads a selector that may be left out; an empty one is left out too, as Calico has it.
pub(crate) fn optional<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Selector>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?.unwrap_or_default();
    if text.is_empty() { Ok(None) } else { Selector::parse(&text).map(Some).map_err(serde::de::Error::custom) }
}

#[cfg(test)]
mod tests;
