//! Calico's selectors: expressions over labels, such as `has(gpu) && zone in { "a", "b" }`.
//!
//! The grammar, loosest first: `||`, `&&`, `!`, then parentheses, `all()`, `global()`, `has(KEY)` and comparisons of a key with a
//! quoted text: `==`, `!=`, `contains`, `starts with`, `ends with`, `in {...}`, `not in {...}`. A key that is not there equals nothing,
//! so `!=` and `not in` hold for it. The empty selector is `all()`.

use std::fmt;

use crate::meta::StringMap;

/// Parentheses and `!` may be nested this deep: enough for people, too little to exhaust the stack.
const DEPTH: usize = 64;

/// The longest selector, in bytes.
const LENGTH: usize = 1024;

/// A selector, ready to be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector(Expression);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Expression {
    All,
    Has(String),
    Equals(String, String),
    In(String, Vec<String>),
    Contains(String, String),
    StartsWith(String, String),
    EndsWith(String, String),
    Not(Box<Self>),
    And(Vec<Self>),
    Or(Vec<Self>),
}

/// Why a text is no selector: where, and what was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct SelectorError {
    at: usize,
    expected: String,
}

impl fmt::Display for SelectorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "must be a selector such as has(key) && key == 'value': expected {} at character {}",
            self.expected,
            self.at + 1
        )
    }
}

impl Selector {
    /// Reads a selector.
    ///
    /// # Errors
    /// Where the text leaves the grammar, and what could stand there.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        if text.len() > LENGTH {
            return Err(SelectorError { at: LENGTH, expected: format!("its end within {LENGTH} bytes") });
        }
        let mut parser = Parser { text, at: 0 };
        parser.space();
        if parser.rest().is_empty() {
            return Ok(Self(Expression::All));
        }
        let expression = parser.any_of(0)?;
        if parser.rest().is_empty() { Ok(Self(expression)) } else { parser.fail("&&, || or the end") }
    }

    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: &StringMap) -> bool {
        self.0.matches(labels)
    }
}

impl Expression {
    fn matches(&self, labels: &StringMap) -> bool {
        match self {
            Self::All => true,
            Self::Has(key) => labels.contains_key(key),
            Self::Equals(key, value) => labels.get(key) == Some(value),
            Self::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Self::Contains(key, part) => labels.get(key).is_some_and(|value| value.contains(part.as_str())),
            Self::StartsWith(key, part) => labels.get(key).is_some_and(|value| value.starts_with(part.as_str())),
            Self::EndsWith(key, part) => labels.get(key).is_some_and(|value| value.ends_with(part.as_str())),
            Self::Not(inner) => !inner.matches(labels),
            Self::And(parts) => parts.iter().all(|part| part.matches(labels)),
            Self::Or(parts) => parts.iter().any(|part| part.matches(labels)),
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn fail<T>(&self, expected: &str) -> Result<T, SelectorError> {
        Err(SelectorError { at: self.text[..self.at].chars().count(), expected: expected.to_owned() })
    }

    fn space(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    /// Takes a token, and the space behind it, if it is next.
    fn take(&mut self, token: &str) -> bool {
        let taken = self.rest().starts_with(token);
        if taken {
            self.at += token.len();
            self.space();
        }
        taken
    }

    /// Takes a word, which ends where a key could not go on.
    fn word(&mut self, word: &str) -> bool {
        let ends = |rest: &str| !rest.as_bytes().first().is_some_and(|byte| is_key_byte(*byte));
        self.rest().strip_prefix(word).is_some_and(ends) && self.take(word)
    }

    fn need(&mut self, token: &str) -> Result<(), SelectorError> {
        if self.take(token) { Ok(()) } else { self.fail(token) }
    }

    fn any_of(&mut self, depth: usize) -> Result<Expression, SelectorError> {
        let mut parts = vec![self.all_of(depth)?];
        while self.take("||") {
            parts.push(self.all_of(depth)?);
        }
        Ok(if parts.len() == 1 { parts.swap_remove(0) } else { Expression::Or(parts) })
    }

    fn all_of(&mut self, depth: usize) -> Result<Expression, SelectorError> {
        let mut parts = vec![self.one(depth)?];
        while self.take("&&") {
            parts.push(self.one(depth)?);
        }
        Ok(if parts.len() == 1 { parts.swap_remove(0) } else { Expression::And(parts) })
    }

    fn one(&mut self, depth: usize) -> Result<Expression, SelectorError> {
        if depth > DEPTH {
            return self.fail("fewer parentheses");
        }
        if self.take("!") {
            return Ok(Expression::Not(Box::new(self.one(depth + 1)?)));
        }
        if self.take("(") {
            let inner = self.any_of(depth + 1)?;
            self.need(")")?;
            return Ok(inner);
        }
        let start = self.at;
        let key = self.key()?;
        if self.take("(") {
            let expression = match key.as_str() {
                // Every node and every pod is in the cluster, so nothing is outside of `global()`.
                "all" | "global" => Expression::All,
                "has" => Expression::Has(self.key()?),
                _ => {
                    self.at = start;
                    return self.fail("all(), global() or has(KEY)");
                }
            };
            self.need(")")?;
            return Ok(expression);
        }
        self.comparison(key)
    }

    fn comparison(&mut self, key: String) -> Result<Expression, SelectorError> {
        if self.take("==") {
            return Ok(Expression::Equals(key, self.quoted()?));
        }
        if self.take("!=") {
            return Ok(Expression::Not(Box::new(Expression::Equals(key, self.quoted()?))));
        }
        if self.word("contains") {
            return Ok(Expression::Contains(key, self.quoted()?));
        }
        if self.word("in") {
            return Ok(Expression::In(key, self.list()?));
        }
        if self.word("not") {
            return if self.word("in") {
                Ok(Expression::Not(Box::new(Expression::In(key, self.list()?))))
            } else {
                self.fail("in")
            };
        }
        let (starts, ends) = (self.word("starts"), self.word("ends"));
        if (starts || ends) && !self.word("with") {
            return self.fail("with");
        }
        match (starts, ends) {
            (true, _) => Ok(Expression::StartsWith(key, self.quoted()?)),
            (_, true) => Ok(Expression::EndsWith(key, self.quoted()?)),
            _ => self.fail("==, !=, in, not in, contains, starts with or ends with"),
        }
    }

    fn key(&mut self) -> Result<String, SelectorError> {
        let rest = self.rest();
        let length = rest.bytes().position(|byte| !is_key_byte(byte)).unwrap_or(rest.len());
        if length == 0 {
            return self.fail("a label's key, all() or has(KEY)");
        }
        self.at += length;
        self.space();
        Ok(rest[..length].to_owned())
    }

    fn quoted(&mut self) -> Result<String, SelectorError> {
        let rest = self.rest();
        let Some(quote) = rest.chars().next().filter(|quote| matches!(quote, '\'' | '"')) else {
            return self.fail("a text in quotes");
        };
        let Some(length) = rest[1..].find(quote) else { return self.fail("a text whose quotes end") };
        self.at += length + 2;
        self.space();
        Ok(rest[1..=length].to_owned())
    }

    fn list(&mut self) -> Result<Vec<String>, SelectorError> {
        self.need("{")?;
        let mut values = Vec::new();
        while !self.take("}") {
            if !values.is_empty() {
                self.need(",")?;
            }
            values.push(self.quoted()?);
        }
        Ok(values)
    }
}

fn is_key_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'/' | b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(selector: &str, labels: &[(&str, &str)]) -> bool {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Selector::parse(selector).unwrap_or_else(|error| panic!("{selector}: {error}")).matches(&labels)
    }

    #[test]
    fn each_operator_does_what_its_name_says() {
        let node = [("zone", "a"), ("kubernetes.io/hostname", "n-1"), ("in", "x"), ("empty", "")];
        for selector in [
            "",
            "  ",
            "all()",
            "global( )",
            "zone == 'a'",
            "zone==\"a\"&&has(in)",
            "has(kubernetes.io/hostname)",
            "kubernetes.io/hostname starts with 'n-'",
            "kubernetes.io/hostname ends with '1'",
            "kubernetes.io/hostname contains '-'",
            "zone in {'b', \"a\"}",
            "zone not in { 'b' }",
            "missing not in {'b'}",
            "missing != 'b'",
            "!has(missing)",
            "!!has(zone)",
            "in == 'x'",
            "in in {'x'}",
            "empty == ''",
            "zone == 'b' || zone == 'a' && has(in)",
            "!(zone == 'b' || has(missing))",
            "zone not in {}",
        ] {
            assert!(matches(selector, &node), "{selector}");
        }
        for selector in [
            "zone != 'a'",
            "has(missing)",
            "missing == ''",
            "missing contains ''",
            "zone in {}",
            "!all()",
            "zone == 'a' && zone == 'b'",
            "!has(zone) || has(missing)",
            "zone == 'A'",
        ] {
            assert!(!matches(selector, &node), "{selector}");
        }
    }

    #[test]
    fn what_is_no_selector_is_refused_with_the_place() {
        for selector in [
            "zone",
            "zone =",
            "zone = 'a'",
            "zone == a",
            "zone == 'a",
            "zone in 'a'",
            "zone in {'a'",
            "zone in {'a' 'b'}",
            "zone in {,}",
            "has()",
            "has(zone",
            "hat(zone)",
            "(",
            ")",
            "all() all()",
            "all() &",
            "&& all()",
            "zone not 'a'",
            "zone starts 'a'",
            "é == 'a'",
            "!",
            "zone startswith 'a'",
            "zone in{'a'}x",
        ] {
            assert!(Selector::parse(selector).is_err(), "{selector}");
        }
        let error = Selector::parse("zone == 'ä' &&").expect_err("no selector");
        assert!(error.to_string().ends_with("at character 15"), "{error}");
    }

    #[test]
    fn depth_and_length_are_limited() {
        assert!(Selector::parse(&format!("{}all(){}", "(".repeat(60), ")".repeat(60))).is_ok());
        assert!(Selector::parse(&format!("{}all()", "!".repeat(500))).is_err());
        assert!(Selector::parse(&"(".repeat(1024)).is_err());
        assert!(Selector::parse(&format!("a == '{}'", "x".repeat(1024))).is_err());
    }
}
