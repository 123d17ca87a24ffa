//! From text to expression: a parser by recursive descent, one function a level of the grammar.

use std::fmt;

use super::{Expression, sorted};

/// Parentheses may be nested this deep: enough for people, too little to exhaust the stack.
const DEPTH: usize = 64;

/// The longest selector, in bytes: what a tool may write of a list of names, and still no burden.
const LENGTH: usize = 64 * 1024;

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

/// Reads a whole text.
pub(super) fn parse(text: &str) -> Result<Expression, SelectorError> {
    if text.len() > LENGTH {
        return Err(SelectorError { at: LENGTH, expected: format!("its end within {LENGTH} bytes") });
    }
    let mut parser = Parser { text, at: 0 };
    parser.space();
    if parser.rest().is_empty() {
        return Ok(Expression::All);
    }
    let expression = parser.any_of(0)?;
    if parser.rest().is_empty() { Ok(expression) } else { parser.fail("&&, || or the end") }
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
        let at = self.text[..self.at].chars().count();
        if self.rest().starts_with(['\n', '\r']) {
            return Err(SelectorError {
                at,
                expected: format!("{expected}, and no line break (YAML's >- makes none)"),
            });
        }
        Err(SelectorError { at, expected: expected.to_owned() })
    }

    /// Calico's white space: blanks and tabs, no line breaks.
    fn space(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start_matches([' ', '\t']).len();
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

    /// One operand, with any number of `!` before it, of which each second one undoes the first.
    fn one(&mut self, depth: usize) -> Result<Expression, SelectorError> {
        let mut negated = false;
        while self.take("!") {
            negated = !negated;
        }
        let operand = if self.take("(") {
            if depth == DEPTH {
                return self.fail("fewer parentheses");
            }
            let inner = self.any_of(depth + 1)?;
            self.need(")")?;
            inner
        } else {
            self.operand()?
        };
        Ok(match (negated, operand) {
            (false, operand) => operand,
            (true, Expression::Not(inner)) => *inner,
            (true, operand) => Expression::Not(Box::new(operand)),
        })
    }

    fn operand(&mut self) -> Result<Expression, SelectorError> {
        // A function's name and its parenthesis are one token.
        if self.take("all(") {
            return self.need(")").map(|()| Expression::All);
        }
        if self.take("global(") {
            return self.need(")").map(|()| Expression::Global);
        }
        if self.take("has(") {
            let key = self.key()?;
            return self.need(")").map(|()| Expression::Has(key));
        }
        let key = self.key()?;
        self.comparison(key)
    }

    fn comparison(&mut self, key: String) -> Result<Expression, SelectorError> {
        if self.take("==") {
            return Ok(Expression::Equals(key, self.quoted()?));
        }
        if self.take("!=") {
            return Ok(Expression::Differs(key, self.quoted()?));
        }
        if self.take("contains") {
            return Ok(Expression::Contains(key, self.quoted()?));
        }
        if self.take("in") {
            return Ok(Expression::In(key, self.set()?));
        }
        if self.take("not") {
            self.need("in")?;
            return Ok(Expression::NotIn(key, self.set()?));
        }
        if self.take("starts") {
            self.need("with")?;
            return Ok(Expression::StartsWith(key, self.quoted()?));
        }
        if self.take("ends") {
            self.need("with")?;
            return Ok(Expression::EndsWith(key, self.quoted()?));
        }
        self.fail("==, !=, in, not in, contains, starts with or ends with")
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

    /// Values in braces, none too; a comma may follow the last.
    fn set(&mut self) -> Result<Vec<String>, SelectorError> {
        self.need("{")?;
        let mut values = Vec::new();
        while !self.take("}") {
            values.push(self.quoted()?);
            if !self.take(",") {
                self.need("}")?;
                break;
            }
        }
        Ok(sorted(values))
    }
}

fn is_key_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'/' | b'-')
}
