//! What a directory holds, kept up to date file by file.
//!
//! Each file claims the objects it defines. Where several claim one object, the first in order of path has it, and the next takes over
//! when that goes. A file that is not valid keeps the claims of its last good version, which is also kept on disk, so that a restart
//! does not lose it. What agents publish about pods is merged into the pods that come out, in place of what manifests say of it.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::IpAddr;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tortie_api::k8s::PodIp;
use tortie_api::meta::StringMap;
use tortie_api::{Kind, Object, ObjectKey};

use super::last_good::LastGood;
use super::layout::{self, FileKind};
use super::objects::{ObjectId, Objects};
use crate::files::Stamp;
use crate::manifests::{self, Place};
use crate::{Change, Problem, files};

/// A SHA-256 digest.
pub(super) type Hash = [u8; 32];

/// The digest of some bytes.
pub(super) fn hash(bytes: &[u8]) -> Hash {
    Sha256::digest(bytes).into()
}

/// What `.tortie/pods/` says of one pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Publication {
    pub(super) namespace: String,
    pub(super) name: String,
    /// Who says it; empty where an agent wrote it that did not say.
    #[serde(default)]
    pub(super) publisher: String,
    #[serde(rename = "podIPs")]
    pub(super) pod_ips: Vec<IpAddr>,
}

impl Publication {
    /// Whether somebody else than `publisher` says it.
    pub(super) fn is_of_another(&self, publisher: &str) -> bool {
        !self.publisher.is_empty() && self.publisher != publisher
    }
}

/// What `.tortie/nodes/` says of one node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NodePublication {
    pub(super) name: String,
    /// Annotations, which count as those of the Node's own document.
    pub(super) annotations: StringMap,
}

/// A directory's content and what it means.
pub(super) struct View {
    root: PathBuf,
    last_good: LastGood,
    files: BTreeMap<Box<Path>, File>,
    /// What is wrong with directories, by directory.
    directory_problems: BTreeMap<PathBuf, Vec<Problem>>,
    objects: Objects,
    /// Whether changes are told: not while everything is read for the first time.
    tells: bool,
    /// What changed and was not told yet.
    changes: Vec<Change>,
    /// The addresses of pods, each by its [`pod_name`].
    published: HashMap<Arc<str>, Box<[IpAddr]>>,
    /// What agents say of nodes, each by its [`node_name`].
    nodes: HashMap<Arc<str>, StringMap>,
    digest: RevisionDigest,
}

/// What is known of one file. Of pods' addresses there are as many files as pods, so it is kept small.
struct File {
    /// The digest of its path and its content, see [`RevisionDigest`].
    digest: [u8; 16],
    /// Whether its content could be read.
    readable: bool,
    /// The file's stamp when it was read last, where that tells a later change.
    stamp: Option<Stamp>,
    /// Whose addresses it says: a [`pod_name`].
    publication: Option<Arc<str>>,
    /// What most of those have not.
    more: Option<Box<More>>,
}

/// What a file may have besides.
#[derive(Default)]
struct More {
    /// The objects that it claims.
    claims: Box<[ObjectId]>,
    problems: Vec<Problem>,
}

impl File {
    fn problems(&self) -> &[Problem] {
        self.more.as_ref().map_or(&[], |more| &more.problems)
    }

    fn take_claims(&mut self) -> Box<[ObjectId]> {
        self.more.as_mut().map(|more| std::mem::take(&mut more.claims)).unwrap_or_default()
    }
}

/// A pod's namespace and name in one. Neither has a slash.
fn pod_name(namespace: &str, name: &str) -> Arc<str> {
    format!("{namespace}/{name}").into()
}

/// A node's name as that of a pod in no namespace, which no pod has.
fn node_name(name: &str) -> Arc<str> {
    pod_name("", name)
}

/// Objects as they were before a change, by key.
type Before = BTreeMap<ObjectKey, Option<Object>>;

impl View {
    /// A view that knows no file yet.
    pub(super) fn new(root: PathBuf, last_good: LastGood) -> Self {
        Self {
            root,
            last_good,
            files: BTreeMap::new(),
            directory_problems: BTreeMap::new(),
            objects: Objects::default(),
            tells: false,
            changes: Vec::new(),
            published: HashMap::new(),
            nodes: HashMap::new(),
            digest: RevisionDigest::default(),
        }
    }

    /// The files it knows, of a directory and below.
    pub(super) fn known_below(&self, directory: &Path) -> Vec<PathBuf> {
        // Paths below a directory sort together, right after it.
        let from = self.files.range::<Path, _>((Bound::Included(directory), Bound::Unbounded)).map(|(path, _)| path);
        from.take_while(|path| path.starts_with(directory)).map(|path| path.to_path_buf()).collect()
    }

    /// Whether a file is known and could not be read.
    pub(super) fn is_unreadable(&self, file: &Path) -> bool {
        self.files.get(file).is_some_and(|file| !file.readable)
    }

    /// Takes note of what is wrong with one directory, or that it is gone.
    pub(super) fn set_directory_problems(&mut self, directory: &Path, problems: Vec<Problem>) {
        if problems.is_empty() {
            self.directory_problems.remove(directory);
        } else {
            self.directory_problems.insert(directory.to_owned(), problems);
        }
    }

    /// Forgets what was wrong with a directory and those below it.
    pub(super) fn forget_directories(&mut self, directory: &Path) {
        self.directory_problems.retain(|path, _| !path.starts_with(directory));
    }

    /// Everything that is wrong now, in order of path.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let directories = self.directory_problems.values().flatten();
        let files = self.files.values().flat_map(File::problems);
        let mut problems: Vec<Problem> = directories.chain(files).cloned().collect();
        for (key, claims) in self.objects.contested() {
            let mut places =
                claims.iter().map(|claim| Place { file: self.root.join(&*claim.file), line: claim.line as usize });
            let Some(first) = places.next() else { continue };
            problems.extend(places.map(|place| manifests::duplicate(&key, &first, &place)));
        }
        problems.extend(self.last_good.problem());
        problems
    }

    /// What is wrong with the objects of a kind that agents own.
    pub(super) fn object_problems(&self, kind: Kind) -> Vec<Problem> {
        let directory = Path::new(layout::OBJECTS).join(kind.as_str());
        let files = self.files.iter().filter(|(path, _)| path.starts_with(&directory));
        files.flat_map(|(_, file)| file.problems()).cloned().collect()
    }

    /// Identifies the content.
    pub(super) fn revision(&self) -> String {
        self.digest.to_string()
    }

    /// One object as it is in force.
    pub(super) fn object(&self, key: &ObjectKey) -> Option<Object> {
        let mut object = self.objects.get(key)?;
        if let Object::Pod(pod) = &mut object {
            // Only agents say which addresses a pod has, as an API server lets nobody else write a status: what a manifest says of them
            // may be stale, or somebody else's.
            let name = pod_name(key.namespace.as_deref().unwrap_or_default(), &key.name);
            let published = self.published.get(&name).map(|ips| &**ips).unwrap_or_default();
            pod.status.pod_ips = published.iter().map(|ip| PodIp { ip: *ip }).collect();
        }
        if let Object::Node(node) = &mut object
            && let Some(said) = self.nodes.get(&*node_name(&key.name))
        {
            node.metadata.annotations.extend(said.clone());
        }
        Some(object)
    }

    /// All objects of a kind that are in force, in order of key.
    pub(super) fn objects(&self, kind: Kind) -> Vec<Object> {
        self.objects.keys(kind).iter().filter_map(|key| self.object(key)).collect()
    }

    /// The keys of all objects of a kind, in order.
    pub(super) fn keys(&self, kind: Kind) -> Vec<ObjectKey> {
        self.objects.keys(kind)
    }

    /// From now on changes are told: everything has been read.
    pub(super) fn tell(&mut self) {
        self.tells = true;
        self.objects.shrink();
        self.published.shrink_to_fit();
    }

    /// Whether changes are told.
    pub(super) fn tells(&self) -> bool {
        self.tells
    }

    /// What changed since this was asked last, from when [`View::tell`] was called.
    pub(super) fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// Reads files again. A file that is gone takes its objects with it.
    pub(super) fn refresh(&mut self, files: impl IntoIterator<Item = PathBuf>) {
        let mut before = Before::new();
        for file in files {
            if let Some(kind) = layout::file_kind(&file) {
                self.refresh_file(&file, kind, &mut before);
            }
        }
        for (key, before) in before {
            match (before, self.object(&key)) {
                (before, Some(after)) if before.as_ref() != Some(&after) => self.changes.push(Change::Upsert(after)),
                (Some(_), None) => self.changes.push(Change::Delete(key)),
                _ => {}
            }
        }
    }

    /// [`View::refresh`] of those files whose stamps do not say that they are what they were.
    pub(super) fn refresh_changed(&mut self, files: impl IntoIterator<Item = PathBuf>) {
        let changed: Vec<PathBuf> = files.into_iter().filter(|file| !self.is_unchanged(file)).collect();
        self.refresh(changed);
    }

    fn is_unchanged(&self, path: &Path) -> bool {
        let known = self.files.get(path).and_then(|file| file.stamp);
        known.is_some() && known == Stamp::of(&self.root.join(path))
    }

    fn refresh_file(&mut self, path: &Path, kind: FileKind, before: &mut Before) {
        let full = self.root.join(path);
        // Taken before the content: what changes in between is then taken for a change.
        let stamp = Stamp::of(&full);
        match files::read(&full) {
            Ok(bytes) => {
                self.take_content(path, kind, &bytes, before);
                if let Some(file) = self.files.get_mut(path) {
                    file.stamp = stamp;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && full.symlink_metadata().is_err() => {
                self.forget_file(path, kind, before);
            }
            Err(error) => {
                let problem = files::unreadable(&full, &error);
                self.take_invalid(path, kind, None, vec![problem], before);
            }
        }
    }

    fn take_content(&mut self, path: &Path, kind: FileKind, bytes: &[u8], before: &mut Before) {
        let hash = hash(bytes);
        if self.files.get(path).is_some_and(|file| file.digest == RevisionDigest::part(path, Some(hash))) {
            return;
        }
        match kind {
            FileKind::Publication => return self.take_publication(path, hash, bytes, before),
            FileKind::NodePublication => return self.take_node_publication(path, hash, bytes, before),
            FileKind::Manifest | FileKind::AgentObject => {}
        }
        let contents = manifests::read_objects(&self.root.join(path), bytes);
        if !contents.is_valid() {
            return self.take_invalid(path, kind, Some(hash), contents.problems, before);
        }
        self.unclaim(path, before);
        let claims = self.claim(path, contents.documents, kind, before);
        self.set_file(path, Some(hash), None, More { claims, problems: contents.problems });
        if kind == FileKind::Manifest {
            self.last_good.keep(path, hash, bytes);
        }
    }

    /// Keeps what the file's last good version said, from memory or, after a restart, from disk.
    fn take_invalid(
        &mut self,
        path: &Path,
        kind: FileKind,
        hash: Option<Hash>,
        mut problems: Vec<Problem>,
        before: &mut Before,
    ) {
        let (claims, publication) = if let Some(file) = self.files.get_mut(path) {
            (file.take_claims(), file.publication.take())
        } else {
            let kept = (kind == FileKind::Manifest).then(|| self.last_good.find(path)).flatten();
            let documents = kept.map(|bytes| manifests::read_objects(&self.root.join(path), &bytes).documents);
            (self.claim(path, documents.unwrap_or_default(), kind, before), None)
        };
        if kind == FileKind::AgentObject {
            let lead = if claims.is_empty() { "" } else { "what was read before stays in force; " };
            for problem in &mut problems {
                problem.message = format!("{}; {lead}{UNREADABLE_OBJECT}", problem.message);
            }
        } else {
            say_consequence(&mut problems, !claims.is_empty());
        }
        self.set_file(path, hash, publication, More { claims, problems });
    }

    fn take_publication(&mut self, path: &Path, hash: Hash, bytes: &[u8], before: &mut Before) {
        let publication: Publication = match serde_json::from_slice(bytes) {
            Ok(publication) => publication,
            Err(error) => return self.take_illegible(path, FileKind::Publication, hash, &error, before),
        };
        self.unpublish(path, before);
        let name = pod_name(&publication.namespace, &publication.name);
        self.note_published(&name, before);
        self.published.insert(Arc::clone(&name), publication.pod_ips.into());
        self.set_file(path, Some(hash), Some(name), More::default());
    }

    fn take_node_publication(&mut self, path: &Path, hash: Hash, bytes: &[u8], before: &mut Before) {
        let publication: NodePublication = match serde_json::from_slice(bytes) {
            Ok(publication) => publication,
            Err(error) => return self.take_illegible(path, FileKind::NodePublication, hash, &error, before),
        };
        self.unpublish(path, before);
        let name = node_name(&publication.name);
        self.note_published(&name, before);
        self.nodes.insert(Arc::clone(&name), publication.annotations);
        self.set_file(path, Some(hash), Some(name), More::default());
    }

    fn take_illegible(
        &mut self,
        path: &Path,
        kind: FileKind,
        hash: Hash,
        error: &serde_json::Error,
        before: &mut Before,
    ) {
        let place = self.root.join(path).display().to_string();
        let message = format!("not what an agent writes: {error}: remove it");
        let problem = Problem { place, message, warning: true, kind: None };
        self.take_invalid(path, kind, Some(hash), vec![problem], before);
    }

    fn forget_file(&mut self, path: &Path, kind: FileKind, before: &mut Before) {
        self.unclaim(path, before);
        self.unpublish(path, before);
        if let Some(file) = self.files.remove(path) {
            self.digest.remove(file.digest);
        }
        if kind == FileKind::Manifest {
            self.last_good.forget(path);
        }
    }

    fn set_file(&mut self, path: &Path, hash: Option<Hash>, publication: Option<Arc<str>>, more: More) {
        let digest = RevisionDigest::part(path, hash);
        let has_more = !more.claims.is_empty() || !more.problems.is_empty();
        let more = has_more.then(|| Box::new(more));
        let file = File { digest, readable: hash.is_some(), stamp: None, publication, more };
        if let Some(old) = self.files.insert(path.into(), file) {
            self.digest.remove(old.digest);
        }
        self.digest.add_part(digest);
    }

    fn claim(
        &mut self,
        path: &Path,
        documents: Vec<manifests::Document>,
        kind: FileKind,
        before: &mut Before,
    ) -> Box<[ObjectId]> {
        let path = Arc::new(path.to_owned());
        let mut claimed = Vec::new();
        for (position, document) in documents.into_iter().enumerate() {
            let Some(mut object) = document.object else { continue };
            if kind == FileKind::Manifest {
                object.metadata_mut().resource_version = Some(content_version(&document.value));
            }
            self.note(&object.key(), before);
            claimed.push(self.objects.claim(&path, position, document.place.line, object));
        }
        claimed.into()
    }

    fn unclaim(&mut self, path: &Path, before: &mut Before) {
        let claims = self.files.get_mut(path).map(File::take_claims).unwrap_or_default();
        for &id in &claims {
            if let Some(key) = self.objects.key(id) {
                self.note(&key, before);
                self.objects.unclaim(id, path);
            }
        }
    }

    fn unpublish(&mut self, path: &Path, before: &mut Before) {
        let Some(name) = self.files.get_mut(path).and_then(|file| file.publication.take()) else { return };
        self.note_published(&name, before);
        self.published.remove(&name);
        self.nodes.remove(&name);
    }

    /// Remembers how an object was before the first change to it.
    fn note(&self, key: &ObjectKey, before: &mut Before) {
        if self.tells && !before.contains_key(key) {
            before.insert(key.clone(), self.object(key));
        }
    }

    /// The same of what something that was published is about.
    fn note_published(&self, published: &str, before: &mut Before) {
        let (namespace, name) = published.split_once('/').unwrap_or(("", published));
        let (kind, namespace) = if namespace.is_empty() { (Kind::Node, None) } else { (Kind::Pod, Some(namespace)) };
        self.note(&ObjectKey { kind, namespace: namespace.map(str::to_owned), name: name.to_owned() }, before);
    }
}

/// What follows from an error in an object that agents own, and what to do. Writing an older version over it could give an address
/// to two pods.
pub(super) const UNREADABLE_OBJECT: &str = "no agent can change it until it is mended: restore the file, or, if it is an IPAM block, remove it once no pod has an address of it";

/// Says of what is wrong with a file what follows from it.
pub(super) fn say_consequence(problems: &mut [Problem], in_force: bool) {
    let consequence =
        if in_force { "the last good version of this file stays in force" } else { "nothing of this file is in force" };
    for problem in problems.iter_mut().filter(|problem| !problem.warning) {
        problem.message = format!("{}; {consequence}", problem.message);
    }
}

/// The version of an object in a manifest: it changes when its content does.
fn content_version(value: &serde_json::Value) -> String {
    hex(&hash(value.to_string().as_bytes())[..8])
}

/// Identifies a set of files by path and content: the sum of one digest a file, so that a change costs the same in any directory.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct RevisionDigest(u128);

impl RevisionDigest {
    pub(super) fn add(&mut self, path: &Path, content: Option<Hash>) {
        self.add_part(Self::part(path, content));
    }

    fn add_part(&mut self, part: [u8; 16]) {
        self.0 = self.0.wrapping_add(u128::from_be_bytes(part));
    }

    fn remove(&mut self, part: [u8; 16]) {
        self.0 = self.0.wrapping_sub(u128::from_be_bytes(part));
    }

    /// What one file adds.
    fn part(path: &Path, content: Option<Hash>) -> [u8; 16] {
        let mut hasher = Sha256::new();
        hasher.update(path.as_os_str().as_encoded_bytes());
        hasher.update([0]);
        // A file that cannot be read counts by its name.
        hasher.update(content.unwrap_or_default());
        let hash: Hash = hasher.finalize().into();
        let mut part = [0; 16];
        part.copy_from_slice(&hash[..16]);
        part
    }
}

impl std::fmt::Display for RevisionDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex(&hash(&self.0.to_be_bytes())[..8]))
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;

    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
