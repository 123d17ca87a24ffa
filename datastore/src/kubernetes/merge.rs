//! From the watches of all kinds to one stream of batches.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tortie_api::{Kind, ObjectKey};

use super::watch::News;
use crate::{Batch, Change, Digests, Problem};

/// Changes that come within this time of a batch are put together into the next one. The first after a quiet time never waits.
const COALESCE: Duration = Duration::from_millis(5);

/// How many pieces of news make one batch at most.
const NEWS_AT_ONCE: usize = 1_000;

/// What has been told so far.
pub(super) struct Merge {
    /// Kinds that have not been told in full yet.
    waiting: BTreeSet<Kind>,
    in_sync: bool,
    version: u64,
    /// How many batches have had this version.
    of_version: u64,
    digests: Digests,
    nodes: usize,
    problems: BTreeMap<ObjectKey, Vec<Problem>>,
    troubles: BTreeMap<Kind, Problem>,
    /// Whether there is other news than changes since the last batch: of problems, and of what has been told.
    other_news: bool,
}

impl Merge {
    pub(super) fn new(kinds: impl IntoIterator<Item = Kind>) -> Self {
        Self {
            waiting: kinds.into_iter().collect(),
            in_sync: false,
            version: 0,
            of_version: 0,
            digests: Digests::new(),
            nodes: 0,
            problems: BTreeMap::new(),
            troubles: BTreeMap::new(),
            other_news: false,
        }
    }

    /// Puts news together until one of the ends is gone.
    pub(super) async fn run(mut self, mut news: mpsc::Receiver<News>, out: mpsc::Sender<Batch>) {
        let mut last: Option<Instant> = None;
        loop {
            let first = tokio::select! {
                () = out.closed() => return,
                first = news.recv() => first,
            };
            let Some(first) = first else { return };
            let mut changes = self.take(first);
            let rest = last.map_or(Duration::ZERO, |last| COALESCE.saturating_sub(last.elapsed()));
            if self.in_sync && !rest.is_zero() {
                tokio::time::sleep(rest).await;
            }
            for _ in 1..NEWS_AT_ONCE {
                let Ok(next) = news.try_recv() else { break };
                changes.extend(self.take(next));
                if !self.in_sync && !changes.is_empty() {
                    break;
                }
            }
            let was_in_sync = std::mem::replace(&mut self.in_sync, self.waiting.is_empty());
            if changes.is_empty() && was_in_sync == self.in_sync && !std::mem::take(&mut self.other_news) {
                continue;
            }
            self.other_news = false;
            if out.send(self.batch(changes)).await.is_err() {
                return;
            }
            last = Some(Instant::now());
        }
    }

    /// Takes note of news, and returns the changes.
    fn take(&mut self, news: News) -> Vec<Change> {
        if news.version > self.version {
            (self.version, self.of_version) = (news.version, 0);
        }
        if news.kind == Kind::Node {
            self.nodes = news.objects;
        }
        if let Some(digest) = news.content {
            self.other_news |= self.digests.insert(news.kind, digest) != Some(digest);
        }
        for (key, problems) in news.problems {
            self.other_news |= if problems.is_empty() {
                self.problems.remove(&key).is_some()
            } else {
                self.problems.insert(key, problems.clone()).as_ref() != Some(&problems)
            };
        }
        let before = match news.trouble {
            Some(trouble) => self.troubles.insert(news.kind, trouble.clone()).as_ref() != Some(&trouble),
            None => self.troubles.remove(&news.kind).is_some(),
        };
        self.other_news |= before;
        if news.listed {
            self.waiting.remove(&news.kind);
        }
        news.changes
    }

    fn batch(&mut self, changes: Vec<Change>) -> Batch {
        // Of an object that changed twice the last change counts.
        let mut latest: Vec<Change> = Vec::with_capacity(changes.len());
        let mut places: std::collections::HashMap<ObjectKey, usize> = std::collections::HashMap::new();
        for change in changes {
            let key = match &change {
                Change::Upsert(object) => object.key(),
                Change::Delete(key) => key.clone(),
            };
            match places.entry(key) {
                std::collections::hash_map::Entry::Occupied(place) => {
                    if let Some(slot) = latest.get_mut(*place.get()) {
                        *slot = change;
                    }
                }
                std::collections::hash_map::Entry::Vacant(place) => {
                    place.insert(latest.len());
                    latest.push(change);
                }
            }
        }
        let problems = self.troubles.values().chain(self.problems.values().flatten()).cloned().collect();
        // Kinds are watched apart: with one version of the cluster there may be several of what has been told.
        let revision = match self.of_version {
            0 => self.version.to_string(),
            more => format!("{}+{more}", self.version),
        };
        self.of_version += 1;
        let (digests, nodes) = (self.digests.clone(), self.nodes);
        Batch { changes: latest, in_sync: self.in_sync, revision, problems, digests, nodes }
    }
}
