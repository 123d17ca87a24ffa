//! YAML text into trees that know their lines, with scalars read as Kubernetes reads them.
//!
//! What reaches the API server is JSON that `kubectl` made of YAML, with the scalars of YAML 1.1: an unquoted `no` is a boolean and
//! `010` a number, and neither fits where a string is wanted. Reading into typed structs would take both as strings, and reading
//! into JSON by YAML 1.2 would take `010` for ten; so the parser's events are read here. A tree keeps the line of each of its nodes,
//! which turns the path of a field that is wrong into a place in the file.
//!
//! Aliases are copied, up to a limit of nodes, and nesting is limited, so that no input costs more than its size accounts for.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use granit_parser::{Event, Options, Parser, ScalarStyle, Span, StructureStyle};
use serde_json::{Map, Number, Value};
use tortie_api::field::{Path, Step};

/// How deep collections may nest; Kubernetes objects stay below 30.
const DEPTH_LIMIT: usize = 100;

/// How many nodes aliases may add to a file.
const ALIAS_LIMIT: usize = 100_000;

/// A node of a document, with the line (from 1) where it starts.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) line: usize,
    pub(crate) content: Content,
}

#[derive(Debug, Clone)]
pub(crate) enum Content {
    /// Anything that is no collection.
    Scalar(Value),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// An entry of a map.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: String,
    /// The line of the key.
    pub(crate) line: usize,
    pub(crate) value: Node,
}

/// One document of a stream.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) root: Node,
    /// The bytes from the document's first marker or content to the end of its content.
    pub(crate) whole: Range<usize>,
    /// The bytes of its content, without markers and comments around it.
    pub(crate) content: Range<usize>,
}

impl Document {
    /// Moves a document that was read from a part of its file to where that part stands.
    pub(crate) fn shift(&mut self, bytes: usize, lines: usize) {
        for range in [&mut self.whole, &mut self.content] {
            *range = range.start + bytes..range.end + bytes;
        }
        self.root.shift(lines);
    }
}

/// Why a stream cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SyntaxError {
    pub(crate) line: usize,
    pub(crate) reason: String,
}

/// Reads every document of a stream. Empty documents are left out.
pub(crate) fn parse(text: &str) -> Result<Vec<Document>, SyntaxError> {
    let mut documents = Vec::new();
    parse_each(text, |document| documents.push(document))?;
    Ok(documents)
}

/// [`parse`] that hands on each document as soon as it ends: the trees of a whole stream take many times the room of its text.
pub(crate) fn parse_each(text: &str, mut take: impl FnMut(Document)) -> Result<(), SyntaxError> {
    let mut builder = Builder { text, ..Builder::default() };
    let mut options = Options::default();
    options.set_emit_comments(false);
    for next in Parser::new_from_str_with_options(text, options) {
        let (event, span) = next.map_err(|error| SyntaxError {
            line: error.marker().line(),
            reason: format!("not YAML: {}", error.info()),
        })?;
        builder.event(&event, span)?;
        if let Some(document) = builder.document.take() {
            take(document);
        }
    }
    Ok(())
}

/// A collection that is being read.
struct Open {
    anchor: usize,
    line: usize,
    flow: bool,
    kind: OpenKind,
}

enum OpenKind {
    List(Vec<Node>),
    /// The entries and their keys, the values of `<<` keys, and the key that waits for its value.
    Map {
        entries: Vec<Entry>,
        seen: HashSet<String>,
        merged: Vec<Node>,
        key: Option<Key>,
    },
}

struct Key {
    text: String,
    line: usize,
    merge: bool,
}

#[derive(Default)]
struct Builder<'a> {
    text: &'a str,
    /// The document that has just ended.
    document: Option<Document>,
    stack: Vec<Open>,
    anchors: HashMap<usize, Node>,
    copied: usize,
    start: usize,
    content: Option<Range<usize>>,
    root: Option<Node>,
}

impl Builder<'_> {
    fn event(&mut self, event: &Event<'_>, span: Span) -> Result<(), SyntaxError> {
        let line = span.start.line();
        match event {
            Event::DocumentStart(explicit, _) => {
                self.anchors.clear();
                self.content = None;
                self.root = None;
                self.start = if *explicit { offset(&span, self.text).start } else { usize::MAX };
            }
            Event::DocumentEnd => self.end_document(),
            Event::Scalar(text, style, anchor, tag) => {
                self.cover(&span);
                let value = match tag.as_deref().and_then(|tag| tag.core_suffix()) {
                    Some("str") => Value::String(text.to_string()),
                    Some(_) | None if *style == ScalarStyle::Plain => plain(text),
                    Some(_) | None => Value::String(text.to_string()),
                };
                // A key is what its text says: `80:` and `true:` are keys "80" and "true", as in JSON.
                if let Some(Open { kind: OpenKind::Map { key: key @ None, .. }, .. }) = self.stack.last_mut() {
                    let merge = *style == ScalarStyle::Plain && text == "<<";
                    *key = Some(Key { text: text.to_string(), line, merge });
                    return Ok(());
                }
                self.add(Node { line, content: Content::Scalar(value) }, *anchor)?;
            }
            Event::SequenceStart(style, anchor, _) => {
                self.open(&span, *style, *anchor, OpenKind::List(Vec::new()))?;
            }
            Event::MappingStart(style, anchor, _) => {
                self.open(
                    &span,
                    *style,
                    *anchor,
                    OpenKind::Map { entries: Vec::new(), seen: HashSet::new(), merged: Vec::new(), key: None },
                )?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(&span)?,
            Event::Alias(anchor) => {
                self.cover(&span);
                let Some(node) = self.anchors.get(anchor).cloned() else {
                    return Err(SyntaxError { line, reason: "an alias must not refer to what contains it".to_owned() });
                };
                self.copied = self.copied.saturating_add(node.size());
                if self.copied > ALIAS_LIMIT {
                    let reason = format!("aliases would add more than {ALIAS_LIMIT} nodes: write the values out");
                    return Err(SyntaxError { line, reason });
                }
                if self.stack.len() + node.depth() > DEPTH_LIMIT {
                    return Err(too_deep(line));
                }
                if let Some(Open { kind: OpenKind::Map { key: None, .. }, .. }) = self.stack.last() {
                    return Err(SyntaxError { line, reason: "an alias cannot be the key of a map here".to_owned() });
                }
                self.add(node, 0)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Takes note of content that the document has.
    fn cover(&mut self, span: &Span) {
        let range = offset(span, self.text);
        match &mut self.content {
            Some(content) => content.end = content.end.max(range.end),
            None => self.content = Some(range),
        }
    }

    fn open(&mut self, span: &Span, style: StructureStyle, anchor: usize, kind: OpenKind) -> Result<(), SyntaxError> {
        let line = span.start.line();
        if self.stack.len() >= DEPTH_LIMIT {
            return Err(too_deep(line));
        }
        if let Some(Open { kind: OpenKind::Map { key: None, .. }, .. }) = self.stack.last() {
            return Err(SyntaxError { line, reason: "the key of a map must be a string".to_owned() });
        }
        let start = offset(span, self.text).start;
        if self.content.is_none() {
            self.content = Some(start..start);
        }
        self.stack.push(Open { anchor, line, flow: style == StructureStyle::Flow, kind });
        Ok(())
    }

    fn close(&mut self, span: &Span) -> Result<(), SyntaxError> {
        let Some(open) = self.stack.pop() else { return Ok(()) };
        if open.flow {
            self.cover(span);
        }
        let content = match open.kind {
            OpenKind::List(list) => Content::List(list),
            OpenKind::Map { mut entries, mut seen, merged, .. } => {
                for node in merged {
                    merge(&mut entries, &mut seen, node)?;
                }
                Content::Map(entries)
            }
        };
        self.add(Node { line: open.line, content }, open.anchor)
    }

    fn add(&mut self, node: Node, anchor: usize) -> Result<(), SyntaxError> {
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.stack.last_mut().map(|open| &mut open.kind) {
            None => self.root = Some(node),
            Some(OpenKind::List(list)) => list.push(node),
            Some(OpenKind::Map { entries, seen, merged, key }) => match key.take() {
                Some(Key { merge: true, .. }) => merged.push(node),
                Some(Key { text, line, .. }) => {
                    if !seen.insert(text.clone()) {
                        return Err(SyntaxError {
                            line,
                            reason: format!("the key {text:?} is there twice: remove one"),
                        });
                    }
                    entries.push(Entry { key: text, line, value: node });
                }
                None => return Err(SyntaxError { line: node.line, reason: "a value without its key".to_owned() }),
            },
        }
        Ok(())
    }

    fn end_document(&mut self) {
        let (Some(root), Some(content)) = (self.root.take(), self.content.take()) else { return };
        if matches!(root.content, Content::Scalar(Value::Null)) {
            return;
        }
        let trimmed = self.text.get(content.clone()).map_or(0, |text| text.trim_end().len());
        // The first line of a block collection keeps its indentation.
        let start = match self.text.get(..content.start).and_then(|before| before.rsplit('\n').next()) {
            Some(indent) if indent.bytes().all(|byte| byte == b' ') => content.start - indent.len(),
            _ => content.start,
        };
        let content = start..content.start + trimmed;
        self.document = Some(Document { root, whole: self.start.min(content.start)..content.end, content });
    }
}

fn too_deep(line: usize) -> SyntaxError {
    SyntaxError { line, reason: format!("nested deeper than {DEPTH_LIMIT} levels") }
}

/// The bytes that a span covers. The parser reads from a string, so that it always knows.
fn offset(span: &Span, text: &str) -> Range<usize> {
    span.byte_range().unwrap_or(text.len()..text.len())
}

/// Adds what a `<<` key brings: entries that are not there yet.
fn merge(entries: &mut Vec<Entry>, seen: &mut HashSet<String>, node: Node) -> Result<(), SyntaxError> {
    match node.content {
        Content::Map(more) => {
            for entry in more {
                if seen.insert(entry.key.clone()) {
                    entries.push(entry);
                }
            }
            Ok(())
        }
        Content::List(list) if list.iter().all(|node| matches!(node.content, Content::Map(_))) => {
            list.into_iter().try_for_each(|node| merge(entries, seen, node))
        }
        Content::List(_) | Content::Scalar(_) => {
            Err(SyntaxError { line: node.line, reason: "`<<` must be followed by a map or a list of maps".to_owned() })
        }
    }
}

/// A plain scalar as `kubectl` reads it: null, booleans and numbers of YAML 1.1, else a string. `y` and `n` are left strings: tools
/// write them without quotes, and no field of ours takes a boolean by these names.
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Value::Bool(true),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Value::Bool(false),
        _ => number(text).map_or_else(|| Value::String(text.to_owned()), Value::Number),
    }
}

fn number(text: &str) -> Option<Number> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        b'0'..=b'9' | b'.' => (false, text),
        _ => return None,
    };
    if digits.starts_with('_') || !digits.bytes().any(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let plain = digits.replace('_', "");
    let radix = |prefix: &str, radix| plain.strip_prefix(prefix).map(|digits| u64::from_str_radix(digits, radix).ok());
    let integer = radix("0x", 16)
        .or_else(|| radix("0b", 2))
        .or_else(|| radix("0o", 8))
        .or_else(|| (plain.len() > 1).then(|| radix("0", 8).filter(Option::is_some)).flatten())
        .unwrap_or_else(|| plain.bytes().all(|byte| byte.is_ascii_digit()).then(|| plain.parse().ok()).flatten());
    if let Some(integer) = integer {
        return if negative { 0_i64.checked_sub_unsigned(integer).map(Number::from) } else { Some(integer.into()) };
    }
    // Of floats, only what YAML knows: no "1e", "infinity" or "nan".
    if !plain.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-')) {
        return None;
    }
    plain.parse::<f64>().ok().and_then(|value| Number::from_f64(if negative { -value } else { value }))
}

impl Node {
    /// How many nodes there are, this one included.
    fn size(&self) -> usize {
        match &self.content {
            Content::Scalar(_) => 1,
            Content::List(list) => 1 + list.iter().map(Self::size).sum::<usize>(),
            Content::Map(entries) => 1 + entries.iter().map(|entry| entry.value.size()).sum::<usize>(),
        }
    }

    fn depth(&self) -> usize {
        match &self.content {
            Content::Scalar(_) => 0,
            Content::List(list) => 1 + list.iter().map(Self::depth).max().unwrap_or(0),
            Content::Map(entries) => 1 + entries.iter().map(|entry| entry.value.depth()).max().unwrap_or(0),
        }
    }

    fn shift(&mut self, lines: usize) {
        self.line += lines;
        match &mut self.content {
            Content::Scalar(_) => {}
            Content::List(list) => list.iter_mut().for_each(|node| node.shift(lines)),
            Content::Map(entries) => {
                for entry in entries {
                    entry.line += lines;
                    entry.value.shift(lines);
                }
            }
        }
    }

    /// The tree as JSON.
    pub(crate) fn to_value(&self) -> Value {
        match &self.content {
            Content::Scalar(value) => value.clone(),
            Content::List(list) => Value::Array(list.iter().map(Self::to_value).collect()),
            Content::Map(entries) => Value::Object(
                entries.iter().map(|entry| (entry.key.clone(), entry.value.to_value())).collect::<Map<_, _>>(),
            ),
        }
    }

    /// An entry of a map.
    pub(crate) fn get(&self, key: &str) -> Option<&Entry> {
        match &self.content {
            Content::Map(entries) => entries.iter().find(|entry| entry.key == key),
            Content::Scalar(_) | Content::List(_) => None,
        }
    }

    /// The string at an entry of a map.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        match &self.get(key)?.value.content {
            Content::Scalar(Value::String(text)) => Some(text),
            Content::Scalar(_) | Content::List(_) | Content::Map(_) => None,
        }
    }

    /// The line of what a path names, or of the last part of the path that is there.
    pub(crate) fn line_of(&self, path: &Path) -> usize {
        let mut node = self;
        let mut line = self.line;
        for step in path.steps() {
            let next = match (step, &node.content) {
                (Step::Field(key) | Step::Key(key), Content::Map(_)) => {
                    node.get(key).map(|entry| (entry.line, &entry.value))
                }
                (Step::Index(index), Content::List(list)) => list.get(*index).map(|node| (node.line, node)),
                _ => None,
            };
            let Some((next_line, next_node)) = next else { break };
            line = next_line;
            node = next_node;
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use serde_json::json;

    use super::*;

    fn values(text: &str) -> Vec<Value> {
        parse(text).unwrap().iter().map(|document| document.root.to_value()).collect()
    }

    #[test]
    fn scalars_are_read_as_kubectl_reads_them() {
        let text = "a: no\nb: 'no'\nc: 010\nd: \"010\"\ne: 1_000\nf: ~\ng:\nh: y\ni: 1e3\nj: 0x1F\nk: -5\nl: 1.10\nm: 10.0.0.0\nn: 2020-01-01\no: !!str 80\np: 1e\nq: .inf\nr: -\ns: 08\nt: 99999999999999999999999\n";
        let want = json!({"a": false, "b": "no", "c": 8, "d": "010", "e": 1000, "f": null, "g": null, "h": "y", "i": 1000.0, "j": 31,
            "k": -5, "l": 1.1, "m": "10.0.0.0", "n": "2020-01-01", "o": "80", "p": "1e", "q": ".inf", "r": "-", "s": 8, "t": 1e23});
        let mut got = values(&text.replace("r: -\n", "r: '-'\n"));
        assert_eq!(got.remove(0), want);
    }

    #[test]
    fn lines_are_those_of_the_file() {
        let text = "# head\n---\na: 1\n---\n\nspec:\n  list:\n  - x: 1\n  - x: 2\n    y: 3\n";
        let documents = parse(text).unwrap();
        let path = Path::root().field("spec").field("list").index(1).field("y");
        assert_eq!(documents[1].root.line_of(&path), 10);
        assert_eq!(documents[1].root.line_of(&path.field("gone")), 10);
        assert_eq!(documents[1].root.line, 6);
        assert_eq!(parse("a: 1\nb: [\n").unwrap_err().line, 2);
        assert_eq!(parse("a: 1\nb: 2\na: 3\n").unwrap_err().line, 3);
    }

    #[test]
    fn ranges_are_the_documents_bytes() {
        let text =
            "# head\na: 1 # one\n# tail\n---\n  b: 2\n  c: |\n    text\n\n---\n# only a comment\n--- {d: [1, 2]}\n";
        let documents = parse(text).unwrap();
        let content: Vec<&str> = documents.iter().map(|document| &text[document.content.clone()]).collect();
        assert_eq!(content, ["a: 1", "  b: 2\n  c: |\n    text", "{d: [1, 2]}"]);
        let whole: Vec<&str> = documents.iter().map(|document| &text[document.whole.clone()]).collect();
        assert_eq!(whole, ["a: 1", "---\n  b: 2\n  c: |\n    text", "--- {d: [1, 2]}"]);
    }

    #[test]
    fn aliases_and_merges_are_copied_within_reason() {
        assert_eq!(
            values("a: &x {p: 1, q: 2}\nb: *x\nc: {<<: *x, q: 3}\n"),
            [json!({"a": {"p": 1, "q": 2}, "b": {"p": 1, "q": 2}, "c": {"p": 1, "q": 3}})]
        );
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
            writeln!(bomb, "a{level}: &a{level} [{aliases}]").unwrap();
        }
        assert!(parse(&bomb).unwrap_err().reason.contains("aliases would add"));
        let mut deep = "a0: &a0 [x]\n".to_owned();
        for level in 1..500 {
            writeln!(deep, "a{level}: &a{level} [*a{}]", level - 1).unwrap();
        }
        assert!(parse(&deep).unwrap_err().reason.contains("nested deeper"));
        assert!(parse("a: &a [*a]\n").is_err());
        assert!(parse(&"[".repeat(100_000)).is_err());
    }

    #[test]
    fn what_is_no_document_is_left_out() {
        for text in ["", "\n", "---\n", "---\n---\n...\n", "# x\n", "~\n", "\u{feff}"] {
            assert!(parse(text).unwrap().is_empty(), "{text:?}");
        }
    }
}
