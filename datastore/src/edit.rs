//! Changes to a directory of manifests on a user's behalf: `apply` and `delete` of single documents.
//!
//! A document is edited where it stands; every other byte of its file stays as it is. All edits are worked out in memory and each
//! file's new text is read back and compared, before the first file is replaced, so that an edit that would do anything else is
//! refused and nothing is changed.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::directory::{self, lock};
use crate::files;
use crate::manifests::{self, Document, DocumentKey, Place};
use crate::yaml::parse;

/// What happened to one document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The document.
    pub key: DocumentKey,
    /// What happened.
    pub action: Action,
    /// Where it stands, or stood.
    pub place: Place,
}

/// What an edit did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It was not there, and has been written.
    Created,
    /// It was there and has been replaced.
    Configured,
    /// It was there just so.
    Unchanged,
    /// It has been removed.
    Deleted,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Created => "created",
            Self::Configured => "configured",
            Self::Unchanged => "unchanged",
            Self::Deleted => "deleted",
        })
    }
}

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The object stands nowhere.
    #[error("{0} not found")]
    NotFound(DocumentKey),
    /// The document stands where it cannot be edited alone.
    #[error("{key} stands inside a List at {place}, which cannot be edited in part: take it out of the List first")]
    InList {
        /// The document.
        key: Box<DocumentKey>,
        /// The List's item.
        place: Place,
    },
    /// A file that holds, or seems to hold, the object has an error.
    #[error("{key} stands in {file}, which has an error: {reason}: mend it first")]
    Unreadable {
        /// The document.
        key: Box<DocumentKey>,
        /// The file.
        file: String,
        /// The first thing that is wrong with it.
        reason: String,
    },
    /// The file has a form in which the document cannot be told from the rest.
    #[error("{place} cannot be edited without changing more than {key}: edit the file by hand")]
    Entangled {
        /// The document.
        key: Box<DocumentKey>,
        /// Where it stands.
        place: Place,
    },
    /// A file could not be written.
    #[error("{file}: {reason}")]
    Write {
        /// The file.
        file: String,
        /// What happened.
        reason: String,
    },
    /// The directory is not there, or its lock could not be had.
    #[error(transparent)]
    Store(#[from] crate::Error),
}

/// Writes documents into a directory: each where an object of its key stands, or else into `KIND.NAMESPACE.NAME.yaml`.
///
/// # Errors
/// When any document cannot be written; files that were already replaced stay so.
pub fn apply(directory: &Path, documents: &[Document]) -> Result<Vec<Report>, Error> {
    let mut edit = Edit::open(directory)?;
    let reports = documents.iter().map(|document| edit.apply(document)).collect::<Result<_, _>>()?;
    edit.commit()?;
    Ok(reports)
}

/// Removes objects from a directory, wherever they stand, and a file with its last document.
///
/// # Errors
/// When any of them is not there or cannot be removed alone; files that were already replaced stay so.
pub fn delete<K>(directory: &Path, keys: &[K]) -> Result<Vec<Report>, Error>
where
    for<'a> &'a K: Into<DocumentKey>,
{
    let mut edit = Edit::open(directory)?;
    let reports = edit.delete_all(keys)?;
    edit.commit()?;
    Ok(reports)
}

/// What [`delete`] would do now, without doing it.
///
/// # Errors
/// When any of them is not there or cannot be removed alone.
pub fn try_delete<K>(directory: &Path, keys: &[K]) -> Result<Vec<Report>, Error>
where
    for<'a> &'a K: Into<DocumentKey>,
{
    Edit::open(directory)?.delete_all(keys)
}

impl From<&Self> for DocumentKey {
    fn from(key: &Self) -> Self {
        key.clone()
    }
}

/// Edits in the making.
struct Edit {
    root: PathBuf,
    files: BTreeMap<PathBuf, File>,
    _lock: directory::Lock,
}

/// One file as it will be; without text it goes.
struct File {
    text: Option<String>,
    documents: Vec<Document>,
    /// Why the file cannot be taken apart.
    broken: Option<String>,
    changed: bool,
}

impl File {
    fn read(path: &Path, text: String) -> Self {
        let contents = manifests::read(path, text.as_bytes());
        let broken = contents.problems.into_iter().find(|problem| !problem.warning);
        let broken = broken.map(|problem| format!("{}: {}", problem.place, problem.message));
        Self { text: Some(text), documents: contents.documents, broken, changed: false }
    }
}

impl Edit {
    fn open(directory: &Path) -> Result<Self, Error> {
        let failed = |error: std::io::Error| crate::Error::Store {
            place: directory.display().to_string(),
            reason: error.to_string(),
        };
        let root = directory.canonicalize().map_err(failed)?;
        let lock = lock(&root)?;
        let mut found = Vec::new();
        files::walk(&root, &mut found, &mut Vec::new());
        let mut files = BTreeMap::new();
        for path in found {
            let file = match files::read(&path).map(String::from_utf8) {
                Ok(Ok(text)) => File::read(&path, text),
                Ok(Err(_)) => File::unreadable("it is not UTF-8".to_owned()),
                Err(error) => File::unreadable(error.to_string()),
            };
            files.insert(path, file);
        }
        Ok(Self { root, files, _lock: lock })
    }

    /// Where an object stands. The first in order of path is the one in force.
    fn find(&self, key: &DocumentKey) -> Option<(&PathBuf, &Document)> {
        self.files
            .iter()
            .find_map(|(path, file)| Some((path, file.documents.iter().find(|document| document.key == *key)?)))
    }

    /// Refuses to go on where a broken file holds the object: in a document that can be read, in its last good version, or, by the
    /// words of its text, in what cannot be read.
    fn check_broken(&self, key: &DocumentKey) -> Result<(), Error> {
        for (path, file) in &self.files {
            let Some(reason) = &file.broken else { continue };
            let holds = |documents: &[Document]| documents.iter().any(|document| document.key == *key);
            let mentions = |text: &String| has_word(text, &key.name) && has_word(text, &key.kind);
            if holds(&file.documents)
                || directory::last_good(&self.root, path).is_some_and(|contents| holds(&contents.documents))
                || file.text.as_ref().is_some_and(mentions)
            {
                return Err(Error::Unreadable {
                    key: boxed(key),
                    file: path.display().to_string(),
                    reason: reason.clone(),
                });
            }
        }
        Ok(())
    }

    fn apply(&mut self, document: &Document) -> Result<Report, Error> {
        let key = &document.key;
        self.check_broken(key)?;
        let report = |action, place: &Place| Report { key: key.clone(), action, place: place.clone() };
        if let Some((path, standing)) = self.find(key) {
            let place = standing.place.clone();
            if standing.value == document.value {
                return Ok(report(Action::Unchanged, &place));
            }
            let Some(range) = standing.range.clone() else { return Err(Error::InList { key: boxed(key), place }) };
            let is_json = path.extension().is_some_and(|extension| extension == "json");
            let text = if is_json { json(&document.value) } else { yaml(document) };
            self.replace(
                &path.clone(),
                (range.content.start, range.content),
                &text,
                key,
                &place,
                Some(&document.value),
            )?;
            return Ok(report(Action::Configured, &place));
        }
        let path = self.root.join(file_name(key));
        let text = yaml(document) + "\n";
        let (text, line) = match self.files.get(&path).and_then(|file| file.text.as_ref()) {
            Some(before) if !before.trim().is_empty() => {
                let before = before.trim_end();
                (format!("{before}\n---\n{text}"), before.lines().count() + 2)
            }
            _ => (text, 1),
        };
        let place = Place { file: path.clone(), line };
        let before = self.files.get(&path).map(|file| values(&file.documents)).unwrap_or_default();
        let file = File::read(&path, text);
        let want: Vec<Value> = before.into_iter().chain([document.value.clone()]).collect();
        self.set(path, file, &want, key, &place)?;
        Ok(report(Action::Created, &place))
    }

    fn delete_all<K>(&mut self, keys: &[K]) -> Result<Vec<Report>, Error>
    where
        for<'a> &'a K: Into<DocumentKey>,
    {
        let mut reports = Vec::with_capacity(keys.len());
        for key in keys {
            let key = key.into();
            reports.push(self.delete(&key)?);
            // Another document of the same object would take its place.
            while self.find(&key).is_some() {
                reports.push(self.delete(&key)?);
            }
        }
        Ok(reports)
    }

    fn delete(&mut self, key: &DocumentKey) -> Result<Report, Error> {
        self.check_broken(key)?;
        let Some((path, standing)) = self.find(key) else { return Err(Error::NotFound(key.clone())) };
        let (path, place) = (path.clone(), standing.place.clone());
        let report = Report { key: key.clone(), action: Action::Deleted, place: place.clone() };
        let Some(range) = standing.range.clone() else { return Err(Error::InList { key: boxed(key), place }) };
        let file = &self.files[&path];
        if file.documents.len() == 1 && file.broken.is_none() {
            let gone = File { text: None, documents: Vec::new(), broken: None, changed: true };
            self.files.insert(path, gone);
            return Ok(report);
        }
        // With the document goes what follows it up to the next document: comments there are its own.
        let text = file.text.clone().unwrap_or_default();
        let next = file.documents.iter().filter_map(|document| document.range.as_ref()).map(|range| range.whole.start);
        let end = next.filter(|start| *start > range.whole.start).min().unwrap_or(text.len());
        self.replace(&path, (range.content.start, range.whole.start..end), "", key, &place, None)?;
        Ok(report)
    }

    /// Replaces a part of a file, and makes sure that this changes the one document only.
    fn replace(
        &mut self,
        path: &Path,
        (content, range): (usize, Range<usize>),
        with: &str,
        key: &DocumentKey,
        place: &Place,
        value: Option<&Value>,
    ) -> Result<(), Error> {
        let entangled = || Error::Entangled { key: boxed(key), place: place.clone() };
        let file = self.files.get(path).ok_or_else(entangled)?;
        let mut text = file.text.clone().ok_or_else(entangled)?;
        if text.get(range.clone()).is_none() {
            return Err(entangled());
        }
        text.replace_range(range, with);
        let mut want = Vec::new();
        for document in &file.documents {
            if document.range.as_ref().is_some_and(|ranges| ranges.content.start == content) {
                want.extend(value.cloned());
            } else {
                want.push(document.value.clone());
            }
        }
        self.set(path.to_owned(), File::read(path, text), &want, key, place)
    }

    /// Takes a file's new text if it holds just what it should.
    fn set(
        &mut self,
        path: PathBuf,
        mut file: File,
        want: &[Value],
        key: &DocumentKey,
        place: &Place,
    ) -> Result<(), Error> {
        if file.broken.is_some() || values(&file.documents) != want {
            return Err(Error::Entangled { key: boxed(key), place: place.clone() });
        }
        file.changed = true;
        self.files.insert(path, file);
        Ok(())
    }

    fn commit(self) -> Result<(), Error> {
        for (path, file) in self.files.iter().filter(|(_, file)| file.changed) {
            let result = match &file.text {
                // A link stays one: what it leads to is replaced.
                Some(text) => {
                    files::replace(&path.canonicalize().unwrap_or_else(|_| path.clone()), text.as_bytes(), true)
                }
                None => std::fs::remove_file(path),
            };
            result.map_err(|error| Error::Write {
                file: path.display().to_string(),
                reason: format!("{error}{}", files::remedy(&error)),
            })?;
        }
        Ok(())
    }
}

impl File {
    fn unreadable(reason: String) -> Self {
        Self { text: None, documents: Vec::new(), broken: Some(reason), changed: false }
    }
}

/// Whether a text has this name or kind as a word of its own.
fn has_word(text: &str, word: &str) -> bool {
    let within = |character: char| character.is_alphanumeric() || matches!(character, '-' | '.' | '_');
    text.match_indices(word).any(|(start, _)| {
        let before = text[..start].chars().next_back();
        let after = text[start + word.len()..].chars().next();
        !word.is_empty() && !before.is_some_and(within) && !after.is_some_and(within)
    })
}

fn values(documents: &[Document]) -> Vec<Value> {
    documents.iter().map(|document| document.value.clone()).collect()
}

/// The file of a new object: `KIND.NAMESPACE.NAME.yaml`, without the namespace where there is none.
fn file_name(key: &DocumentKey) -> String {
    let parts = [Some(key.kind_name()), key.namespace.as_deref(), Some(&key.name)];
    let name = parts.into_iter().flatten().collect::<Vec<_>>().join(".");
    let plain = |character: char| character.is_ascii_alphanumeric() || matches!(character, '.' | '-' | '_');
    let name: String = name.chars().map(|character| if plain(character) { character } else { '_' }).take(200).collect();
    format!("{}.yaml", name.trim_start_matches('.'))
}

fn json(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

fn boxed(key: &DocumentKey) -> Box<DocumentKey> {
    Box::new(key.clone())
}

/// A document as YAML: its own text, or where it has none (an item of a List), its value.
fn yaml(document: &Document) -> String {
    match &document.text {
        Some(text) => text.trim_end().to_owned(),
        // Which strings need quotes is a matter of opinion; JSON is YAML that needs none.
        None => serde_saphyr::to_string(&document.value)
            .ok()
            .filter(|text| {
                parse(text).is_ok_and(|read| matches!(&read[..], [only] if only.root.to_value() == document.value))
            })
            .map_or_else(|| json(&document.value), |text| text.trim_end().to_owned()),
    }
}
