//! Where in an object something is wrong, and what: the form of error that the API server's users know.
//!
//! `spec.ingress[0].ports[1].endPort: Invalid value: 70: must be greater than or equal to port (80)`

use std::fmt;

use serde::Serialize;

/// One step from an object to a part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A field of a struct.
    Field(String),
    /// A key of a map, such as a label.
    Key(String),
    /// A position in a list.
    Index(usize),
}

/// The way from an object to a part of it. The empty path is the object itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Path(Vec<Step>);

impl Path {
    /// The object itself.
    pub const fn root() -> Self {
        Self(Vec::new())
    }

    /// A field below this one.
    #[must_use]
    pub fn field(&self, name: &str) -> Self {
        self.with(Step::Field(name.to_owned()))
    }

    /// An entry of the map that is here.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        self.with(Step::Key(key.to_owned()))
    }

    /// An element of the list that is here.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        self.with(Step::Index(index))
    }

    fn with(&self, step: Step) -> Self {
        let mut steps = self.0.clone();
        steps.push(step);
        Self(steps)
    }

    /// The path that was collected from the inside out.
    pub(crate) fn from_reversed(mut steps: Vec<Step>) -> Self {
        steps.reverse();
        Self(steps)
    }

    /// The steps, outermost first.
    pub fn steps(&self) -> &[Step] {
        &self.0
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, step) in self.0.iter().enumerate() {
            match step {
                Step::Field(name) if position == 0 => f.write_str(name)?,
                Step::Field(name) => write!(f, ".{name}")?,
                Step::Key(key) => write!(f, "[{key}]")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// Something wrong with one field: what the API server would say, and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct FieldError {
    /// The field.
    pub path: Path,
    /// The kind of error, the value, and what it should be.
    pub message: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.steps().is_empty() {
            return f.write_str(&self.message);
        }
        write!(f, "{}: {}", self.path, self.message)
    }
}

impl FieldError {
    /// An error in the API server's words.
    pub fn new(path: Path, message: impl Into<String>) -> Self {
        Self { path, message: message.into() }
    }

    /// A value that is not acceptable here.
    pub fn invalid(path: Path, value: &(impl Serialize + ?Sized), remedy: &str) -> Self {
        Self::new(path, format!("Invalid value: {}: {remedy}", json(value)))
    }

    /// A value that is not among the few possible ones.
    pub fn not_supported(path: Path, value: &(impl Serialize + ?Sized), supported: &[&str]) -> Self {
        let supported: Vec<String> = supported.iter().map(|name| format!("{name:?}")).collect();
        Self::new(path, format!("Unsupported value: {}: supported values: {}", json(value), supported.join(", ")))
    }

    /// A value that is missing.
    pub fn required(path: Path, remedy: &str) -> Self {
        Self::new(path, format!("Required value: {remedy}"))
    }

    /// A field that may not be set here.
    pub fn forbidden(path: Path, remedy: &str) -> Self {
        Self::new(path, format!("Forbidden: {remedy}"))
    }

    /// A second entry where only one may be.
    pub fn duplicate(path: Path, value: &(impl Serialize + ?Sized)) -> Self {
        Self::new(path, format!("Duplicate value: {}: remove or rename one of them", json(value)))
    }

    /// A field that does not exist, with the known one that looks most like it.
    pub fn unknown(path: Path, name: &str, known: &[&str]) -> Self {
        /// More names than these are no help to a reader.
        const LISTED: usize = 40;
        let hint = match nearest(name, known) {
            Some(field) => format!("did you mean {field:?}?"),
            None if known.is_empty() || known.len() > LISTED => "remove it".to_owned(),
            None => format!("known fields here: {}", known.join(", ")),
        };
        Self::new(path, format!("unknown field: {hint}"))
    }
}

/// A value as JSON, cut where it is long: an error is read by people.
fn json(value: &(impl Serialize + ?Sized)) -> String {
    let text = serde_json::to_string(value).unwrap_or_else(|error| error.to_string());
    match text.char_indices().nth(120) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// The known name that looks most like `name`, if any is close enough to be meant.
pub fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let limit = 1 + name.chars().count() / 4;
    known
        .iter()
        .map(|candidate| (distance(&name.to_lowercase(), &candidate.to_lowercase()), *candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance. Names longer than any field of ours are not worth comparing.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, right) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(left != *right);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_read_as_the_api_server_writes_them() {
        let path =
            Path::root().field("spec").field("ingress").index(0).field("podSelector").field("matchLabels").key("a/b");
        assert_eq!(path.to_string(), "spec.ingress[0].podSelector.matchLabels[a/b]");
    }

    #[test]
    fn suggests_what_was_meant_and_nothing_far_fetched() {
        assert_eq!(nearest("ingres", &["egress", "ingress", "podSelector"]), Some("ingress"));
        assert_eq!(nearest("PodSelector", &["egress", "podSelector"]), Some("podSelector"));
        assert_eq!(nearest("tolerations", &["egress", "ingress"]), None);
    }

    #[test]
    fn a_long_value_is_cut_between_characters() {
        let error = FieldError::invalid(Path::root().field("x"), &"é".repeat(500), "too long");
        assert!(error.to_string().len() < 400 && error.to_string().ends_with("...: too long"), "{error}");
    }
}
