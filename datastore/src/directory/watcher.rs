//! The edge between inotify and the [`View`]: which directories are watched, and what an event means.
//!
//! A file is read when its writer closes it or when it is moved into place, never in between. A new directory is watched first and listed
//! then, so that no file slips through; a file that such a listing finds may be in its writer's hands at that moment, so one that is
//! only just modified waits a little for the close. When the kernel's queue overflows, or watches run out, everything is read again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use inotify::{EventMask, EventOwned, WatchDescriptor, WatchMask, Watches};
use tortie_api::{Kind, ObjectKey};

use super::layout;
use super::view::View;
use crate::files::{self, EntryKind};
use crate::{Batch, Change, Problem};

/// How long a file that a listing finds must have been left alone.
const SETTLE: Duration = Duration::from_millis(30);

/// How long to wait for that at most.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often everything is read again while not everything can be watched.
const POLL: Duration = Duration::from_secs(2);

/// How many of the objects that were there at the start are delivered at once.
const AT_ONCE: usize = 250;

/// The state of one watch. It blocks on the disk, and therefore runs where that is allowed.
pub(super) struct Watcher {
    root: PathBuf,
    view: Arc<Mutex<View>>,
    watches: Watches,
    by_descriptor: HashMap<WatchDescriptor, PathBuf>,
    by_directory: BTreeMap<PathBuf, WatchDescriptor>,
    /// Files that wait to be left alone.
    waiting: BTreeMap<PathBuf, Wait>,
    /// Why some directory cannot be watched.
    unwatched: Option<Problem>,
    /// Whether the directory itself is gone.
    lost: bool,
    /// What was delivered last, to tell whether there is anything to say.
    delivered: Option<(String, Vec<Problem>)>,
    /// Of what there was at the start, the objects that are to be delivered yet, the last one first; none before everything was read.
    undelivered: Option<Vec<ObjectKey>>,
}

#[derive(Clone, Copy)]
struct Wait {
    since: Instant,
    /// When to look again.
    until: Instant,
}

impl Watcher {
    /// A watcher that has read nothing yet.
    pub(super) fn new(root: PathBuf, view: Arc<Mutex<View>>, watches: Watches) -> Self {
        Self {
            root,
            view,
            watches,
            by_descriptor: HashMap::new(),
            by_directory: BTreeMap::new(),
            waiting: BTreeMap::new(),
            unwatched: None,
            lost: false,
            delivered: None,
            undelivered: None,
        }
    }

    /// Starts over with another inotify instance, after the directory was lost.
    pub(super) fn restart(&mut self, watches: Watches) {
        self.watches = watches;
        self.by_descriptor.clear();
        self.by_directory.clear();
        self.lost = false;
    }

    /// Whether the directory itself is gone, so that a new inotify instance must find it again.
    pub(super) fn is_lost(&self) -> bool {
        self.lost
    }

    /// When to come back without an event.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let poll = self.unwatched.as_ref().map(|_| Instant::now() + POLL);
        self.waiting.values().map(|wait| wait.until).chain(poll).min()
    }

    /// Watches and reads everything.
    pub(super) fn rescan(&mut self) {
        self.unwatched = None;
        self.view().forget_directories(Path::new(""));
        let mut found = BTreeSet::new();
        self.scan(Path::new(""), 0, &mut found);
        if self.lost {
            return;
        }
        let known = self.view().known_below(Path::new(""));
        self.refresh(known.into_iter().filter(|file| !found.contains(file)).collect(), found);
    }

    /// Takes in what the kernel reports.
    pub(super) fn handle(&mut self, events: &[EventOwned]) {
        let mut files = BTreeSet::new();
        let mut found = BTreeSet::new();
        for event in events {
            if event.mask.contains(EventMask::Q_OVERFLOW) {
                tracing::warn!(directory = %self.root.display(), "too many changes at once: reading everything again");
                return self.rescan();
            }
            let Some(directory) = self.by_descriptor.get(&event.wd).cloned() else { continue };
            self.event(&directory, event, &mut files, &mut found);
        }
        self.refresh(files, found);
    }

    fn event(
        &mut self,
        directory: &Path,
        event: &EventOwned,
        files: &mut BTreeSet<PathBuf>,
        found: &mut BTreeSet<PathBuf>,
    ) {
        let mask = event.mask;
        if mask.intersects(EventMask::IGNORED | EventMask::DELETE_SELF | EventMask::MOVE_SELF | EventMask::UNMOUNT) {
            if directory == Path::new("") {
                self.lost = true;
            } else if mask.contains(EventMask::IGNORED) {
                self.by_descriptor.remove(&event.wd);
                if self.by_directory.get(directory) == Some(&event.wd) {
                    self.by_directory.remove(directory);
                }
            }
            return;
        }
        let Some(name) = event.name.as_deref().and_then(|name| name.to_str()) else { return };
        let path = directory.join(name);
        if mask.contains(EventMask::ISDIR) {
            if mask.intersects(EventMask::MOVED_FROM | EventMask::DELETE) {
                self.unwatch(&path);
                self.view().forget_directories(&path);
                files.extend(self.view().known_below(&path));
            } else if mask.intersects(EventMask::CREATE | EventMask::MOVED_TO)
                && layout::is_directory_of_interest(&path)
            {
                self.scan(&path, path.components().count(), found);
            }
            return;
        }
        if mask.intersects(EventMask::CREATE | EventMask::MOVED_TO) && is_link(&self.root.join(&path)) {
            // A link that changes (`..data` of a mounted ConfigMap) changes what the links through it say.
            let mut listed = BTreeSet::new();
            self.list(directory, &mut listed);
            files.extend(listed.into_iter().filter(|file| is_link(&self.root.join(file))));
        } else if mask.contains(EventMask::DELETE) && !layout::is_manifest_name(name) {
            // It may have been a link to a directory, of which there is a warning.
            self.list(directory, &mut BTreeSet::new());
        }
        if layout::file_kind(&path).is_none() {
            return;
        }
        let read = if mask.contains(EventMask::CREATE) {
            // A new file is read when it is closed; a new name for an old one is never written, so never closed.
            self.root.join(&path).symlink_metadata().is_ok_and(|metadata| metadata.nlink() > 1)
        } else if mask.contains(EventMask::ATTRIB) {
            self.view().is_unreadable(&path)
        } else {
            mask.intersects(EventMask::CLOSE_WRITE | EventMask::MOVED_TO | EventMask::MOVED_FROM | EventMask::DELETE)
        };
        if read {
            files.insert(path);
        }
    }

    /// Reads the files whose time to wait is over.
    pub(super) fn handle_timeout(&mut self) {
        if self.unwatched.is_some() {
            return self.rescan();
        }
        let now = Instant::now();
        let due: BTreeSet<PathBuf> =
            self.waiting.iter().filter(|(_, wait)| wait.until <= now).map(|(file, _)| file.clone()).collect();
        self.refresh(BTreeSet::new(), due);
    }

    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What there is to say, if anything; to be asked until there is nothing. Nothing is said before every file has been read once, and
    /// what there was then is said in pieces.
    pub(super) fn poll_batch(&mut self) -> Option<Batch> {
        if self.delivered.is_none() && !self.waiting.is_empty() && self.undelivered.is_none() {
            return None;
        }
        let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        let revision = view.revision();
        let mut problems = view.problems();
        problems.extend(self.unwatched.clone());
        if self.lost {
            let message = "the directory is gone; what it held last stays in force until it is back".to_owned();
            problems.push(Problem { place: self.root.display().to_string(), message, warning: false, kind: None });
        }
        let mut changes = Vec::new();
        if self.delivered.is_none() {
            let undelivered = self.undelivered.get_or_insert_with(|| {
                view.tell();
                let mut keys: Vec<_> = Kind::ALL.into_iter().flat_map(|kind| view.keys(kind)).collect();
                keys.reverse();
                keys
            });
            let piece = undelivered.split_off(undelivered.len().saturating_sub(AT_ONCE));
            changes.extend(piece.iter().rev().filter_map(|key| view.object(key)).map(Change::Upsert));
            if !undelivered.is_empty() {
                return Some(Batch { changes, in_sync: false, revision, problems, ..Batch::default() });
            }
            self.undelivered = None;
        }
        changes.append(&mut view.take_changes());
        let said = (revision, problems);
        if changes.is_empty() && self.delivered.as_ref() == Some(&said) {
            return None;
        }
        self.delivered = Some(said.clone());
        let (revision, problems) = said;
        Some(Batch { changes, in_sync: true, revision, problems, ..Batch::default() })
    }

    /// Reads files, all at once, so that what moves from one to another is never told as gone. Those that a listing found wait if
    /// they were only just modified.
    fn refresh(&mut self, mut files: BTreeSet<PathBuf>, found: BTreeSet<PathBuf>) {
        let now = Instant::now();
        for file in found {
            let since = self.waiting.get(&file).map_or(now, |wait| wait.since);
            let is_patient = now.duration_since(since) < PATIENCE;
            if is_patient && !files.contains(&file) && is_fresh(&self.root.join(&file)) {
                self.waiting.insert(file, Wait { since, until: now + SETTLE });
            } else {
                files.insert(file);
            }
        }
        self.waiting.retain(|file, _| !files.contains(file));
        self.view().refresh(files);
    }

    /// Watches a directory and those below it, and lists their files.
    fn scan(&mut self, directory: &Path, depth: usize, found: &mut BTreeSet<PathBuf>) {
        if depth > files::DEPTH_LIMIT {
            let problem = files::too_deep(&self.root.join(directory));
            return self.view().set_directory_problems(directory, vec![problem]);
        }
        if !self.watch(directory) {
            return;
        }
        for below in self.list(directory, found) {
            self.scan(&below, depth + 1, found);
        }
    }

    /// Watches one directory. Says whether there is anything to list.
    fn watch(&mut self, directory: &Path) -> bool {
        let mask = WatchMask::CLOSE_WRITE
            | WatchMask::MOVED_FROM
            | WatchMask::MOVED_TO
            | WatchMask::CREATE
            | WatchMask::DELETE
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF
            | WatchMask::ATTRIB
            | WatchMask::DONT_FOLLOW
            | WatchMask::ONLYDIR;
        let full = self.root.join(directory);
        match self.watches.add(&full, mask) {
            Ok(descriptor) => {
                self.by_descriptor.insert(descriptor.clone(), directory.to_owned());
                self.by_directory.insert(directory.to_owned(), descriptor);
                true
            }
            Err(error) if directory == Path::new("") => {
                tracing::warn!(directory = %full.display(), %error, "cannot watch the directory");
                self.lost = true;
                false
            }
            // Gone again, or no directory any more: an event says so.
            Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
                false
            }
            // A directory that may not be read is reported when it is listed.
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => true,
            Err(error) => {
                let message = format!(
                    "cannot be watched, so that changes are noticed late: {error}: raise fs.inotify.max_user_watches"
                );
                self.unwatched =
                    Some(Problem { place: full.display().to_string(), message, warning: true, kind: None });
                true
            }
        }
    }

    fn unwatch(&mut self, directory: &Path) {
        let below: Vec<PathBuf> = self
            .by_directory
            .range(directory.to_owned()..)
            .map(|(path, _)| path)
            .take_while(|path| path.starts_with(directory))
            .cloned()
            .collect();
        for path in below {
            let Some(descriptor) = self.by_directory.remove(&path) else { continue };
            self.by_descriptor.remove(&descriptor);
            // Of a deleted directory the kernel has already removed the watch.
            let _ = self.watches.remove(descriptor);
        }
    }

    /// Lists one directory: adds its files to `found` and returns its directories.
    fn list(&mut self, directory: &Path, found: &mut BTreeSet<PathBuf>) -> Vec<PathBuf> {
        let full = self.root.join(directory);
        let mut problems = Vec::new();
        let mut directories = Vec::new();
        match files::list(&full) {
            Ok(entries) => {
                for entry in entries {
                    let path = directory.join(&entry.name);
                    match entry.kind {
                        EntryKind::Directory => directories.push(path),
                        EntryKind::LinkToDirectory => problems.push(files::link_to_directory(&self.root.join(&path))),
                        EntryKind::Manifest if layout::file_kind(&path).is_some() => {
                            found.insert(path);
                        }
                        EntryKind::Manifest => {}
                    }
                }
            }
            // One that is gone again is no problem.
            Err(problem) if full.exists() => problems.push(problem),
            Err(_) => {}
        }
        if directory == Path::new("") && self.root.join(layout::STATE).is_dir() {
            directories.push(layout::STATE.into());
        }
        directories.retain(|path| layout::is_directory_of_interest(path));
        self.view().set_directory_problems(directory, problems);
        directories
    }
}

fn is_link(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink())
}

/// Whether a file was modified so recently that its writer may still be at it.
fn is_fresh(path: &Path) -> bool {
    let modified = std::fs::metadata(path).and_then(|metadata| metadata.modified());
    modified.is_ok_and(|modified| SystemTime::now().duration_since(modified).is_ok_and(|age| age < SETTLE))
}

#[cfg(test)]
mod tests {
    use inotify::Inotify;

    use super::super::last_good::LastGood;
    use super::*;

    #[test]
    fn when_events_were_lost_everything_is_read_again() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().to_owned();
        let namespace = |name: &str| format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n");
        let old = SystemTime::now() - Duration::from_secs(10);
        let write = |file: &str, name: &str| {
            std::fs::write(root.join(file), namespace(name)).unwrap();
            std::fs::File::options().write(true).open(root.join(file)).unwrap().set_modified(old).unwrap();
        };
        write("a.yaml", "a");
        let inotify = Inotify::init().unwrap();
        let view = View::new(root.clone(), LastGood::read_only(&root));
        let mut watcher = Watcher::new(root.clone(), Arc::new(Mutex::new(view)), inotify.watches());
        watcher.rescan();
        assert_eq!(watcher.poll_batch().unwrap().changes.len(), 1);
        assert_eq!(watcher.poll_batch(), None);

        write("b.yaml", "b");
        std::fs::remove_file(root.join("a.yaml")).unwrap();
        std::fs::create_dir(root.join("d")).unwrap();
        write("d/c.yaml", "c");
        let descriptor = inotify.watches().add(&root, WatchMask::DELETE_SELF).unwrap();
        let overflow = EventOwned { wd: descriptor, mask: EventMask::Q_OVERFLOW, cookie: 0, name: None };
        watcher.handle(&[overflow]);
        let batch = watcher.poll_batch().unwrap();
        assert_eq!(batch.changes.len(), 3, "{batch:?}");
        assert_eq!(batch.revision, super::super::revision(&root).unwrap());
    }
}
