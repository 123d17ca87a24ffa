//! What can be told of everything that a selector selects, for an index from labels to selectors.

use std::collections::{BTreeMap, BTreeSet};

use super::Expression;

/// Something about one label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Requirement {
    /// There is a label with this key.
    Has(String),
    /// There is one, and its value is among these, of which there is one at least.
    OneOf(String, Vec<String>),
}

impl Requirement {
    /// The key of the label.
    pub fn key(&self) -> &str {
        match self {
            Self::Has(key) | Self::OneOf(key, _) => key,
        }
    }

    /// Whether a label of this key and value is what is required.
    pub fn is_met_by(&self, key: &str, value: &str) -> bool {
        match self {
            Self::Has(wanted) => wanted == key,
            Self::OneOf(wanted, values) => wanted == key && values.iter().any(|known| known == value),
        }
    }
}

/// Alternatives by key; no values: any value will do.
type Clause<'a> = BTreeMap<&'a str, Option<BTreeSet<&'a str>>>;

/// See [`Selector::requirements`](super::Selector::requirements).
pub(super) fn of(expression: &Expression) -> Vec<Vec<Requirement>> {
    let mut lists: Vec<Vec<Requirement>> = clauses(expression, false)
        .into_iter()
        .map(|clause| {
            let requirement = |(key, values): (&str, Option<BTreeSet<&str>>)| match values {
                None => Requirement::Has(key.to_owned()),
                Some(values) => Requirement::OneOf(key.to_owned(), values.into_iter().map(str::to_owned).collect()),
            };
            clause.into_iter().map(requirement).collect()
        })
        .collect();
    lists.sort_unstable();
    lists.dedup();
    lists
}

/// The clauses that hold wherever the expression does, or, negated, wherever it does not.
fn clauses(expression: &Expression, negated: bool) -> Vec<Clause<'_>> {
    let has = |key| vec![Clause::from([(key, None)])];
    match expression {
        Expression::All | Expression::Global if negated => vec![Clause::new()],
        Expression::Has(key)
        | Expression::Contains(key, _)
        | Expression::StartsWith(key, _)
        | Expression::EndsWith(key, _)
            if !negated =>
        {
            has(key)
        }
        Expression::Equals(key, value) if !negated => vec![one_of(key, std::slice::from_ref(value))],
        Expression::Differs(key, value) if negated => vec![one_of(key, std::slice::from_ref(value))],
        Expression::In(key, values) if !negated => vec![one_of(key, values)],
        Expression::NotIn(key, values) if negated => vec![one_of(key, values)],
        Expression::Not(inner) => clauses(inner, !negated),
        Expression::And(parts) if !negated => parts.iter().flat_map(|part| clauses(part, false)).collect(),
        Expression::Or(parts) if negated => parts.iter().flat_map(|part| clauses(part, true)).collect(),
        // De Morgan: not all of them is one of their negations.
        Expression::And(parts) | Expression::Or(parts) => alternatives(parts, negated),
        _ => Vec::new(),
    }
}

/// What holds where one of the parts does: a clause of each, taken together. If one part requires nothing, neither do all.
fn alternatives(parts: &[Expression], negated: bool) -> Vec<Clause<'_>> {
    let mut together = Clause::new();
    for part in parts {
        let Some(clause) = clauses(part, negated).into_iter().min_by_key(breadth) else { return Vec::new() };
        for (key, values) in clause {
            together
                .entry(key)
                .and_modify(|known| match (known, &values) {
                    (Some(known), Some(values)) => known.extend(values),
                    (known, _) => *known = None,
                })
                .or_insert(values);
        }
    }
    vec![together]
}

fn one_of<'a>(key: &'a str, values: &'a [String]) -> Clause<'a> {
    // No value at all: no alternative either.
    if values.is_empty() {
        return Clause::new();
    }
    Clause::from([(key, Some(values.iter().map(String::as_str).collect()))])
}

/// How much a clause lets through, as far as its form tells: labels with any value first, then the number of values.
fn breadth(clause: &Clause<'_>) -> (usize, usize) {
    let any_value = clause.values().filter(|values| values.is_none()).count();
    (any_value, clause.values().flatten().map(BTreeSet::len).sum())
}
