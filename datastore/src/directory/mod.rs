//! The embedded datastore: a directory of manifests, watched by inotify.
//!
//! Users own the manifests; what agents write goes under `.tortie/` ([`layout`]). Any number of agents and commands share a directory:
//! each has its own view of it ([`view`]), kept up to date by events ([`watcher`]), and all writing is under one lock ([`store`]).

mod last_good;
mod layout;
mod lead;
mod objects;
mod store;
mod view;
mod watcher;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::{FutureExt, StreamExt};
use inotify::{EventOwned, EventStream, Inotify};
use tokio::sync::mpsc;
use tortie_api::{Kind, Object, ObjectKey};

use crate::manifests::{Contents, Loaded};
use crate::{Batch, Datastore, Error, Leadership, NodeAnnotations, Problem, files, manifests};
use last_good::LastGood;
use store::Store;
pub(crate) use store::{Lock, lock};
use view::{Publication, RevisionDigest, View};
use watcher::Watcher;

/// Changes that come within this time of a batch are put together into the next one. The first after a quiet time never waits.
const COALESCE: Duration = Duration::from_millis(5);

/// How often a directory that is gone is looked for.
const LOST_RETRY: Duration = Duration::from_millis(250);

/// How long whoever asks waits for a watch that has just begun.
const FIRST_READING: Duration = Duration::from_secs(10);

/// Batches that may wait for a slow receiver; behind these the kernel queues events.
const BACKLOG: usize = 4;

/// Room for some hundred events at a time.
const EVENT_BUFFER: usize = 16 * 1024;

/// How many events make one batch at most.
const EVENTS_AT_ONCE: usize = 10_000;

/// What inotify reports.
type Events = EventStream<Vec<u8>>;

/// A directory of manifests as a datastore.
#[derive(Clone)]
pub struct Directory {
    root: PathBuf,
    store: Store,
    /// What [`Datastore::get`] and [`Datastore::list`] read last, where nobody watches.
    cache: Arc<Mutex<Option<View>>>,
    /// The view of the watch that was started last, if it still runs.
    watched: Arc<Mutex<Weak<Mutex<View>>>>,
    /// Since when a watch has been at work.
    busy: Arc<Mutex<Option<Instant>>>,
}

impl Directory {
    /// Opens a directory, and makes the place for what agents write, where it may.
    ///
    /// # Errors
    /// When there is no directory at `path`, or it cannot be read.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let failed = |reason: String| Error::Store { place: path.display().to_string(), reason };
        let root =
            path.canonicalize().map_err(|error| failed(format!("cannot open the datastore directory: {error}")))?;
        std::fs::read_dir(&root).map_err(|error| failed(format!("cannot read the datastore directory: {error}")))?;
        for directory in [layout::OBJECTS, layout::PODS, layout::NODES, layout::LAST_GOOD] {
            if let Err(error) = std::fs::create_dir_all(root.join(directory)) {
                tracing::debug!(directory, %error, "cannot make the place for what agents write");
            }
        }
        Ok(Self {
            store: Store::new(&root),
            root,
            cache: Arc::default(),
            watched: Arc::default(),
            busy: Arc::default(),
        })
    }

    /// The directory's path, canonical.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// What is wrong with the directory, and what follows from it: of files in error, the last good version is in force.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub async fn problems(&self) -> Result<Vec<Problem>, Error> {
        self.blocking(move |this| Ok(this.with_view(View::problems))).await
    }

    /// What is wrong with the objects of a kind that agents own. [`Datastore::list`] leaves out those that cannot be read.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub async fn object_problems(&self, kind: Kind) -> Result<Vec<Problem>, Error> {
        self.blocking(move |this| Ok(this.with_view(|view| view.object_problems(kind)))).await
    }

    /// Runs what may block on the disk or the lock where that is allowed.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let this = self.clone();
        tokio::task::spawn_blocking(move || work(&this)).await.map_err(|error| self.failed(&error.to_string()))?
    }

    fn failed(&self, reason: &str) -> Error {
        Error::Store { place: self.root.display().to_string(), reason: reason.to_owned() }
    }

    /// Reads from a view that is up to date: that of the watch, if there is one, so that what a directory holds is in memory once.
    fn with_view<T>(&self, read: impl FnOnce(&View) -> T) -> T {
        let watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        if let Some(view) = watched.and_then(|view| wait_for(&view).then_some(view)) {
            let mut view = view.lock().unwrap_or_else(PoisonError::into_inner);
            // Manifests are the watch's to read, for only it knows when their writers are done. What agents write appears whole.
            let mut files: BTreeSet<PathBuf> = view.known_below(Path::new(layout::OBJECTS)).into_iter().collect();
            files.extend(files_below(&self.root, layout::OBJECTS));
            view.refresh_changed(files);
            return read(&view);
        }
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let view = cache.get_or_insert_with(|| View::new(self.root.clone(), LastGood::read_only(&self.root)));
        let mut files: BTreeSet<PathBuf> = view.known_below(Path::new("")).into_iter().collect();
        files.extend(content_files(&self.root));
        view.refresh_changed(files);
        read(view)
    }
}

#[async_trait]
impl Datastore for Directory {
    async fn watch(&self) -> Result<mpsc::Receiver<Batch>, Error> {
        let inotify = self.inotify()?;
        let view = Arc::new(Mutex::new(View::new(self.root.clone(), LastGood::writing(&self.root))));
        *self.watched.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(&view);
        *self.cache.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let watcher = Watcher::new(self.root.clone(), view, inotify.watches());
        let (sender, receiver) = mpsc::channel(BACKLOG);
        let this = self.clone();
        tokio::spawn(async move {
            if let Err(error) = this.run(inotify, watcher, sender).await {
                tracing::error!(%error, "the watch of the datastore directory ended");
            }
        });
        Ok(receiver)
    }

    async fn get(&self, key: &ObjectKey) -> Result<Object, Error> {
        let key = key.clone();
        self.blocking(move |this| {
            if let Some(object) = this.store.read(&key)? {
                return Ok(object);
            }
            this.with_view(|view| view.object(&key)).ok_or(Error::NotFound(key))
        })
        .await
    }

    async fn list(&self, kind: Kind) -> Result<Vec<Object>, Error> {
        self.blocking(move |this| Ok(this.with_view(|view| view.objects(kind)))).await
    }

    async fn create(&self, object: &Object) -> Result<Object, Error> {
        let object = object.clone();
        self.blocking(move |this| this.store.create(&object)).await
    }

    async fn update(&self, object: &Object) -> Result<Object, Error> {
        let object = object.clone();
        self.blocking(move |this| this.store.update(&object)).await
    }

    async fn delete(&self, key: &ObjectKey, resource_version: &str) -> Result<(), Error> {
        let (key, version) = (key.clone(), resource_version.to_owned());
        self.blocking(move |this| this.store.delete(&key, &version)).await
    }

    async fn publish_pod_ips(&self, namespace: &str, pod: &str, publisher: &str, ips: &[IpAddr]) -> Result<(), Error> {
        let publication = Publication {
            namespace: namespace.to_owned(),
            name: pod.to_owned(),
            publisher: publisher.to_owned(),
            pod_ips: ips.to_vec(),
        };
        self.blocking(move |this| this.store.publish(&publication)).await
    }

    async fn withdraw_pod_ips(&self, namespace: &str, pod: &str, publisher: &str) -> Result<(), Error> {
        let (namespace, pod, publisher) = (namespace.to_owned(), pod.to_owned(), publisher.to_owned());
        self.blocking(move |this| this.store.withdraw(&namespace, &pod, &publisher)).await
    }

    async fn annotate_node(&self, node: &str, annotations: &NodeAnnotations) -> Result<(), Error> {
        let (node, annotations) = (node.to_owned(), annotations.clone());
        self.blocking(move |this| this.store.annotate_node(&node, &annotations)).await
    }

    async fn lead(&self, duty: &str, holder: &str) -> Result<Leadership, Error> {
        lead::lead(&self.root, duty, holder).await
    }

    fn busy_since(&self) -> Option<Instant> {
        *self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Directory {
    fn inotify(&self) -> Result<Events, Error> {
        Inotify::init().and_then(|inotify| inotify.into_event_stream(vec![0; EVENT_BUFFER])).map_err(|error| {
            self.failed(&format!("cannot watch the directory: {error}: raise fs.inotify.max_user_instances"))
        })
    }

    /// One watch, until its receiver is dropped.
    async fn run(&self, mut inotify: Events, mut watcher: Watcher, sender: mpsc::Sender<Batch>) -> Result<(), Error> {
        watcher = self.step(watcher, Watcher::rescan).await?;
        let mut last_batch = None;
        loop {
            while let Some(batch) = watcher.poll_batch() {
                if sender.send(batch).await.is_err() {
                    return Ok(());
                }
                last_batch = Some(Instant::now());
            }
            if watcher.is_lost() {
                tokio::select! {
                    () = sender.closed() => return Ok(()),
                    () = tokio::time::sleep(LOST_RETRY) => {}
                }
                if self.root.is_dir()
                    && let Ok(again) = self.inotify()
                {
                    inotify = again;
                    watcher.restart(inotify.watches());
                    watcher = self.step(watcher, Watcher::rescan).await?;
                }
                continue;
            }
            let deadline = watcher.deadline().unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            let events = tokio::select! {
                () = sender.closed() => return Ok(()),
                () = tokio::time::sleep_until(deadline.into()) => None,
                first = inotify.next() => {
                    let mut events = vec![first];
                    let quiet = last_batch.map_or(COALESCE, |batch: Instant| batch.elapsed());
                    tokio::time::sleep(COALESCE.saturating_sub(quiet)).await;
                    while events.len() < EVENTS_AT_ONCE
                        && let Some(next) = inotify.next().now_or_never()
                    {
                        events.push(next);
                    }
                    let events: Option<Result<Vec<EventOwned>, _>> = events.into_iter().collect();
                    let events = events.unwrap_or_else(|| Err(std::io::Error::other("inotify came to an end")));
                    Some(events.map_err(|error| self.failed(&error.to_string()))?)
                }
            };
            watcher = match events {
                Some(events) => self.step(watcher, move |watcher| watcher.handle(&events)).await?,
                None => self.step(watcher, Watcher::handle_timeout).await?,
            };
        }
    }

    /// Lets the watcher work where blocking is allowed.
    async fn step(
        &self,
        mut watcher: Watcher,
        work: impl FnOnce(&mut Watcher) + Send + 'static,
    ) -> Result<Watcher, Error> {
        self.set_busy(Some(Instant::now()));
        let done = tokio::task::spawn_blocking(move || {
            work(&mut watcher);
            watcher
        })
        .await;
        self.set_busy(None);
        done.map_err(|error| self.failed(&error.to_string()))
    }

    fn set_busy(&self, since: Option<Instant>) {
        *self.busy.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }
}

/// The manifests of a directory, every document with all of its fields, as the agents take them: of a file in error, the last good
/// version. What is wrong is among the problems.
///
/// # Errors
/// When there is no directory at `path`.
pub fn in_force(path: impl AsRef<Path>) -> Result<Loaded, Error> {
    let path = path.as_ref();
    let failed = |error: std::io::Error| Error::Store { place: path.display().to_string(), reason: error.to_string() };
    let root = path.canonicalize().map_err(failed)?;
    std::fs::read_dir(&root).map_err(failed)?;
    let mut loaded = Loaded::default();
    let mut found = Vec::new();
    files::walk(&root, &mut found, &mut loaded.problems);
    for file in found {
        let (contents, mut problems) = match files::read(&file) {
            Ok(bytes) => {
                let mut contents = manifests::read(&file, &bytes);
                if contents.is_valid() {
                    loaded.add(contents);
                    continue;
                }
                let problems = std::mem::take(&mut contents.problems);
                (last_good(&root, &file), problems)
            }
            Err(error) => (last_good(&root, &file), vec![files::unreadable(&file, &error)]),
        };
        view::say_consequence(&mut problems, contents.is_some());
        loaded.problems.append(&mut problems);
        loaded.problems.extend(contents.iter().flat_map(|contents| contents.problems.iter().cloned()));
        loaded.documents.extend(contents.into_iter().flat_map(|contents| contents.documents));
    }
    loaded.finish();
    Ok(loaded)
}

/// What the last good version of a manifest holds, if one is kept.
pub(crate) fn last_good(root: &Path, file: &Path) -> Option<Contents> {
    let bytes = LastGood::read_only(root).find(file.strip_prefix(root).ok()?)?;
    Some(manifests::read(file, &bytes))
}

/// Every file of a directory that counts, relative to it.
fn content_files(root: &Path) -> Vec<PathBuf> {
    ["", layout::OBJECTS, layout::PODS, layout::NODES].into_iter().flat_map(|part| files_below(root, part)).collect()
}

/// The files of a part of a directory, relative to the whole.
fn files_below(root: &Path, part: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    files::walk(&root.join(part), &mut found, &mut Vec::new());
    found.iter().filter_map(|path| path.strip_prefix(root).ok().map(Path::to_owned)).collect()
}

/// Waits until a watch has read everything once. False if that takes too long.
fn wait_for(view: &Mutex<View>) -> bool {
    let deadline = Instant::now() + FIRST_READING;
    while !view.lock().unwrap_or_else(PoisonError::into_inner).tells() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

/// Identifies the content of a directory as it is now: user documents and what agents published. It is the same in every process that reads
/// the same content, and that of [`Batch::revision`] once a watch has caught up.
///
/// # Errors
/// When there is no directory at `path`.
pub fn revision(path: impl AsRef<Path>) -> Result<String, Error> {
    let path = path.as_ref();
    let failed = |error: std::io::Error| Error::Store { place: path.display().to_string(), reason: error.to_string() };
    let root = path.canonicalize().map_err(failed)?;
    std::fs::read_dir(&root).map_err(failed)?;
    let mut digest = RevisionDigest::default();
    for file in content_files(&root) {
        if layout::file_kind(&file).is_none() {
            continue;
        }
        match files::read(&root.join(&file)) {
            Ok(bytes) => digest.add(&file, Some(view::hash(&bytes))),
            // Gone since the directory was listed.
            Err(error)
                if error.kind() == std::io::ErrorKind::NotFound && root.join(&file).symlink_metadata().is_err() => {}
            Err(_) => digest.add(&file, None),
        }
    }
    Ok(digest.to_string())
}
