//! Manifests: files of Kubernetes and Calico objects, read as `kubectl` and the API server read them.
//!
//! [`load`] is for commands that work on files alone. [`read`] takes the text of one file apart, and is what the Directory datastore
//! reads with as well: YAML streams and concatenated JSON, any number of documents, lists unfolded, each object decoded, defaulted
//! and validated, everything that is wrong with its line.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tortie_api::{Decoded, Kind, Object, ObjectKey};

use crate::Problem;
use crate::files;
use crate::yaml::{self, Content, Node};

/// Where an object stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1, on which the object starts.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// What identifies any object of a manifest, also of kinds that Tortie does not know.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DocumentKey {
    /// `apiVersion` without the version: empty for the core group.
    pub group: String,
    /// `kind`, in the document's own spelling.
    pub kind: String,
    /// The namespace, `default` where a namespaced kind leaves it out.
    pub namespace: Option<String>,
    /// The name.
    pub name: String,
}

impl From<&ObjectKey> for DocumentKey {
    fn from(key: &ObjectKey) -> Self {
        Self {
            group: group(key.kind.api_version()).to_owned(),
            kind: key.kind.manifest_kind().to_owned(),
            namespace: key.namespace.clone(),
            name: key.name.clone(),
        }
    }
}

impl DocumentKey {
    /// The key of the object, if it is of a kind that Tortie acts upon.
    pub fn object(&self) -> Option<ObjectKey> {
        let is_it = |kind: &Kind| kind.manifest_kind() == self.kind && group(kind.api_version()) == self.group;
        let kind = Kind::ALL.into_iter().find(is_it)?;
        Some(ObjectKey { kind, namespace: self.namespace.clone(), name: self.name.clone() })
    }

    /// The name of the kind that no other kind has: two are called NetworkPolicy in manifests.
    pub fn kind_name(&self) -> &str {
        let is_it = |kind: &Kind| kind.manifest_kind() == self.kind && group(kind.api_version()) == self.group;
        Kind::ALL.into_iter().find(is_it).map_or(&self.kind, |kind| kind.as_str())
    }
}

impl fmt::Display for DocumentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind_name(), self.name),
            None => write!(f, "{} {}", self.kind_name(), self.name),
        }
    }
}

fn group(api_version: &str) -> &str {
    api_version.rsplit_once('/').map_or("", |(group, _)| group)
}

/// One object of a manifest, with the text it was read from.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// What identifies it.
    pub key: DocumentKey,
    /// Where it starts.
    pub place: Place,
    /// The object, of a kind that Tortie acts upon: defaulted and valid.
    pub object: Option<Object>,
    /// All of its fields, also those that [`Document::object`] leaves out.
    pub value: Value,
    /// The document's own text, byte for byte; `None` for an item of a `List`, which has none of its own.
    pub text: Option<String>,
    /// The bytes of the file that `text` was, and those to remove with it.
    pub(crate) range: Option<Ranges>,
}

/// Where in its file a document stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ranges {
    /// The content alone.
    pub(crate) content: Range<usize>,
    /// From the document's marker to the end of its content.
    pub(crate) whole: Range<usize>,
}

/// What manifests hold.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Loaded {
    /// Every valid object of a kind that Tortie acts upon, each once, in order of path and line.
    pub objects: Vec<(Object, Place)>,
    /// Every document that could be read, of known and unknown kinds.
    pub documents: Vec<Document>,
    /// Everything that is wrong. Only where all of these are warnings can the objects be relied upon.
    pub problems: Vec<Problem>,
}

impl Loaded {
    /// Whether anything is wrong beyond warnings: then a command must not go on.
    pub fn has_errors(&self) -> bool {
        self.problems.iter().any(|problem| !problem.warning)
    }
}

/// Reads files and directories. Of a directory, every `*.yaml`, `*.yml` and `*.json` below it; a file that is named itself may have
/// any name, and `-` is the standard input.
pub fn load(paths: &[PathBuf]) -> Loaded {
    let mut loaded = Loaded::default();
    for path in paths {
        if path.as_os_str() == "-" {
            let mut bytes = Vec::new();
            match std::io::Read::read_to_end(&mut std::io::stdin().lock(), &mut bytes) {
                Ok(_) => loaded.add(read(Path::new("-"), &bytes)),
                Err(error) => loaded.problems.push(files::unreadable(path, &error)),
            }
            continue;
        }
        let mut problems = Vec::new();
        let mut found = Vec::new();
        if path.is_dir() {
            files::walk(path, &mut found, &mut problems);
        } else {
            found.push(path.clone());
        }
        loaded.problems.append(&mut problems);
        for file in found {
            match files::read(&file) {
                Ok(bytes) => loaded.add(read(&file, &bytes)),
                Err(error) => loaded.problems.push(files::unreadable(&file, &error)),
            }
        }
    }
    loaded.finish();
    loaded
}

/// Reads the text of one manifest, as [`load`] does; `origin` is what errors call it, and with `.json` at its end it is JSON.
pub fn load_text(origin: &str, text: &str) -> Loaded {
    load_bytes(origin, text.as_bytes())
}

/// [`load_text`] of what may not be text.
pub fn load_bytes(origin: &str, bytes: &[u8]) -> Loaded {
    let mut loaded = Loaded::default();
    loaded.add(read(Path::new(origin), bytes));
    loaded.finish();
    loaded
}

impl Loaded {
    pub(crate) fn add(&mut self, contents: Contents) {
        self.documents.extend(contents.documents);
        self.problems.extend(contents.problems);
    }

    /// Takes the objects out of the documents, each once.
    pub(crate) fn finish(&mut self) {
        let mut places: BTreeMap<ObjectKey, Place> = BTreeMap::new();
        for document in &self.documents {
            let Some(object) = &document.object else { continue };
            let key = object.key();
            if let Some(first) = places.get(&key) {
                self.problems.push(duplicate(&key, first, &document.place));
            } else {
                places.insert(key, document.place.clone());
                self.objects.push((object.clone(), document.place.clone()));
            }
        }
    }
}

/// Says that an object stands in two places.
pub(crate) fn duplicate(key: &ObjectKey, first: &Place, second: &Place) -> Problem {
    let message = format!("{key} is already defined at {first}, which is kept: remove one of them");
    Problem { place: second.to_string(), message, warning: false, kind: Some(key.kind) }
}

/// What one file holds.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pub(crate) documents: Vec<Document>,
    pub(crate) problems: Vec<Problem>,
}

impl Contents {
    pub(crate) fn is_valid(&self) -> bool {
        self.problems.iter().all(|problem| problem.warning)
    }
}

/// Reads the bytes of one file. The name decides between JSON (`*.json`) and YAML.
pub(crate) fn read(file: &Path, bytes: &[u8]) -> Contents {
    read_bytes(file, bytes, false)
}

/// [`read`] for an agent, which has no use for texts, nor for documents of kinds that are not acted upon.
pub(crate) fn read_objects(file: &Path, bytes: &[u8]) -> Contents {
    read_bytes(file, bytes, true)
}

fn read_bytes(file: &Path, bytes: &[u8], objects_only: bool) -> Contents {
    let mut reader = Reader { file, objects_only, contents: Contents::default() };
    match std::str::from_utf8(bytes) {
        Ok(text) => reader.text(text),
        Err(error) => {
            let line = bytes[..error.valid_up_to()].split(|byte| *byte == b'\n').count();
            reader.problem(line, "is not UTF-8: save the file in that encoding".to_owned(), false, None);
        }
    }
    reader.contents
}

struct Reader<'a> {
    file: &'a Path,
    /// Whether documents without an object, and all texts, are left out.
    objects_only: bool,
    contents: Contents,
}

impl Reader<'_> {
    fn problem(&mut self, line: usize, message: String, warning: bool, kind: Option<Kind>) {
        let place = Place { file: self.file.to_owned(), line }.to_string();
        self.contents.problems.push(Problem { place, message, warning, kind });
    }

    fn text(&mut self, text: &str) {
        let json = self.file.extension().is_some_and(|extension| extension == "json");
        let take = |document| self.document(text, document);
        let result = if json { json_documents(text, take) } else { yaml::parse_each(text, take) };
        if let Err(error) = result {
            // Half a file is none.
            self.contents = Contents::default();
            self.problem(error.line, error.reason, false, None);
        }
    }

    fn document(&mut self, text: &str, document: yaml::Document) {
        let ranges = Ranges { content: document.content.clone(), whole: document.whole };
        let own = text.get(document.content).filter(|_| !self.objects_only).map(str::to_owned);
        self.node(&document.root, own.map(|text| (text, ranges)), None, 0);
    }

    /// Reads an object, or each item of a list.
    fn node(&mut self, node: &Node, text: Option<(String, Ranges)>, inherited: Option<(&str, &str)>, depth: usize) {
        let kind = node.text("kind").or(inherited.map(|(_, kind)| kind));
        let api_version = node.text("apiVersion").or(inherited.map(|(version, _)| version));
        if let (Some(list), Some(items)) = (kind.and_then(|kind| kind.strip_suffix("List")), node.get("items"))
            && depth < 4
        {
            match &items.value.content {
                Content::List(items) => {
                    // A typed list gives its items their kind; a plain one holds anything.
                    let inherited = api_version.filter(|_| !list.is_empty()).map(|version| (version, list));
                    for item in items {
                        self.node(item, None, inherited, depth + 1);
                    }
                }
                Content::Scalar(Value::Null) => {}
                Content::Scalar(_) | Content::Map(_) => {
                    self.problem(items.line, "items: Invalid value: must be a list".to_owned(), false, None);
                }
            }
            return;
        }
        let mut value = node.to_value();
        if let (Value::Object(map), Some((api_version, kind))) = (&mut value, inherited) {
            map.entry("apiVersion").or_insert_with(|| api_version.into());
            map.entry("kind").or_insert_with(|| kind.into());
        }
        let exact = api_version.zip(kind).and_then(|(version, kind)| Kind::of_manifest(version, kind));
        let name = describe(exact.map(Kind::as_str).or(kind), node);
        match tortie_api::decode(&value) {
            Ok(decoded) => {
                if let Decoded::UnknownKind(message) = &decoded {
                    self.problem(node.line, format!("{name}: {message}"), true, None);
                }
                let object = match decoded {
                    Decoded::Object(object) => Some(*object),
                    Decoded::Ignored | Decoded::UnknownKind(_) => None,
                };
                if self.objects_only && object.is_none() {
                    return;
                }
                let key = document_key(&value, object.as_ref());
                let place = Place { file: self.file.to_owned(), line: node.line };
                let (text, range) = text.unzip();
                self.contents.documents.push(Document { key, place, object, value, text, range });
            }
            Err(errors) => {
                // The version may be what is wrong, so that a kind of that name will do.
                let kind = exact.or_else(|| kind.and_then(|kind| kind.parse().ok()));
                for error in errors {
                    self.problem(node.line_of(&error.path), format!("{name}: {error}"), false, kind);
                }
            }
        }
    }
}

/// What an error calls an object that may have no valid name.
fn describe(kind: Option<&str>, node: &Node) -> String {
    let metadata = node.get("metadata").map(|entry| &entry.value);
    let name = metadata.and_then(|metadata| metadata.text("name"));
    let namespace = metadata.and_then(|metadata| metadata.text("namespace"));
    let namespaced = kind.is_some_and(|kind| kind.parse().is_ok_and(Kind::is_namespaced));
    let namespace = namespace.or(namespaced.then_some("default"));
    match (kind, namespace, name) {
        (Some(kind), Some(namespace), Some(name)) => format!("{kind} {namespace}/{name}"),
        (Some(kind), None, Some(name)) => format!("{kind} {name}"),
        (Some(kind), _, None) => format!("{kind} without a name"),
        (None, _, _) => "object".to_owned(),
    }
}

/// The key of a document, of a known kind from its object, else from its fields. The name may be empty there.
fn document_key(value: &Value, object: Option<&Object>) -> DocumentKey {
    if let Some(object) = object {
        return DocumentKey::from(&object.key());
    }
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let group = group(value["apiVersion"].as_str().unwrap_or_default()).to_owned();
    let kind = text(&value["kind"]).unwrap_or_default();
    let known_to_be_namespaced = matches!(kind.as_str(), "Service" | "Endpoints");
    let namespace =
        text(&value["metadata"]["namespace"]).or_else(|| known_to_be_namespaced.then(|| "default".to_owned()));
    DocumentKey { group, kind, namespace, name: text(&value["metadata"]["name"]).unwrap_or_default() }
}

/// Reads concatenated JSON documents. `serde_json` decides what is JSON; as JSON is YAML but for tabs between tokens, the tree with its
/// lines then comes from the one parser.
fn json_documents(text: &str, mut take: impl FnMut(yaml::Document)) -> Result<(), yaml::SyntaxError> {
    let text = text.strip_prefix('\u{feff}').map_or_else(|| text.to_owned(), |rest| format!("   {rest}"));
    let mut stream = serde_json::Deserializer::from_str(&text).into_iter::<serde::de::IgnoredAny>();
    let mut start = 0;
    while let Some(next) = stream.next() {
        let end = stream.byte_offset();
        next.map_err(|error| {
            let text = error.to_string();
            // The place says the line already.
            let reason = text.split(" at line ").next().unwrap_or(&text);
            yaml::SyntaxError { line: error.line().max(1), reason: format!("not JSON: {reason}") }
        })?;
        let piece = text.get(start..end).unwrap_or_default();
        let lead = piece.len() - piece.trim_start().len();
        let lines = text.get(..start + lead).unwrap_or_default().matches('\n').count();
        let plain = piece.get(lead..).unwrap_or_default().replace('\t', " ");
        let parsed = yaml::parse(&plain)
            .map_err(|error| yaml::SyntaxError { line: error.line + lines, reason: error.reason })?;
        for mut document in parsed {
            document.shift(start + lead, lines);
            take(document);
        }
        start = end;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
