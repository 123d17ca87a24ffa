//! How far the node is with what the datastore has: which objects have been delivered, and which are in force. And what the datastore asks
//! of it.
//!
//! The core knows revisions alone. Here is kept which objects a revision stands for, as digests, until the core says that it has come
//! to it.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use tokio::sync::watch;
use tortie_api::{Kind, Object};
use tortie_datastore::{Batch, Change, Digests};

use crate::life::answers::Questions;

/// How many revisions may wait. Of more than that, the oldest are of no interest: later ones hold all that they did.
const WAITING: usize = 1024;

/// What of a cluster has been delivered, or is in force.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Content {
    /// Which objects.
    pub(crate) digests: Digests,
    /// How many nodes there are.
    pub(crate) nodes: usize,
}

/// The progress, for who wants to follow it.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    waiting: Mutex<VecDeque<(String, Content)>>,
    delivered: watch::Sender<Content>,
    programmed: watch::Sender<Content>,
    questions: watch::Sender<Questions>,
    speaker: Mutex<Option<(Ipv4Addr, SystemTime)>>,
}

impl Progress {
    /// Takes note of a batch that is about to be handed to the core.
    pub(crate) fn deliver(&self, batch: &Batch) {
        if !batch.in_sync || batch.digests.is_empty() {
            return;
        }
        let content = Content { digests: batch.digests.clone(), nodes: batch.nodes };
        {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if waiting.len() == WAITING {
                waiting.pop_front();
            }
            waiting.push_back((batch.revision.clone(), content.clone()));
        }
        self.delivered.send_if_modified(|known| set(known, content));
    }

    /// Takes note of what is asked of a node.
    pub(crate) fn ask(&self, node: &str, changes: &[Change]) {
        for change in changes {
            let (name, question) = match change {
                Change::Upsert(Object::CalicoNodeStatus(asked)) => {
                    (&asked.metadata.name, Some(&asked.spec).filter(|question| question.node == node))
                }
                Change::Delete(key) if key.kind == Kind::CalicoNodeStatus => (&key.name, None),
                _ => continue,
            };
            self.questions.send_if_modified(|known| match question {
                Some(question) => known.insert(name.clone(), question.clone()).as_ref() != Some(question),
                None => known.remove(name).is_some(),
            });
        }
    }

    /// What is asked of the node now.
    pub(crate) fn questions(&self) -> watch::Receiver<Questions> {
        self.questions.subscribe()
    }

    /// Takes note that the speaker has been configured.
    pub(crate) fn configure_speaker(&self, router_id: Ipv4Addr) {
        let configured = Some((router_id, SystemTime::now()));
        *self.speaker.lock().unwrap_or_else(PoisonError::into_inner) = configured;
    }

    /// The speaker's router ID, and when it was configured last.
    pub(crate) fn speaker(&self) -> Option<(Ipv4Addr, SystemTime)> {
        *self.speaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note that a revision is in force, and with it all that came before.
    pub(crate) fn program(&self, revision: &str) {
        let content = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(place) = waiting.iter().rposition(|(waiting, _)| waiting == revision) else { return };
            waiting.drain(..=place).next_back()
        };
        if let Some((_, content)) = content {
            self.programmed.send_if_modified(|known| set(known, content));
        }
    }

    /// What has been delivered. Empty until all of it has.
    pub(crate) fn delivered(&self) -> watch::Receiver<Content> {
        self.delivered.subscribe()
    }

    /// What is in force. Empty until all of it was, once.
    pub(crate) fn programmed(&self) -> watch::Receiver<Content> {
        self.programmed.subscribe()
    }
}

/// Puts `new` into the place of what is known, and says whether that is news.
fn set(known: &mut Content, new: Content) -> bool {
    let is_news = *known != new;
    *known = new;
    is_news
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_revision_stands_for_is_in_force_with_it_or_a_later_one() {
        let progress = Progress::default();
        let deliver = |revision: &str, digest, in_sync| {
            let digests = Digests::from([(Kind::Tier, digest)]);
            progress.deliver(&Batch { revision: revision.into(), digests, nodes: 2, in_sync, ..Batch::default() });
        };
        let in_force = || progress.programmed().borrow().digests.get(&Kind::Tier).copied();
        deliver("3", 1, false);
        progress.program("3");
        assert_eq!(in_force(), None, "not all is there");
        for (revision, digest) in [("5", 10), ("6", 11), ("6+1", 12), ("9", 13)] {
            deliver(revision, digest, true);
        }
        assert_eq!(progress.delivered().borrow().digests[&Kind::Tier], 13);
        progress.program("6");
        assert_eq!(in_force(), Some(11));
        progress.program("6");
        progress.program("unknown");
        assert_eq!(in_force(), Some(11));
        progress.program("9");
        assert_eq!(in_force(), Some(13));
        for revision in 0..3 * WAITING {
            deliver(&format!("r{revision}"), 14, true);
        }
        assert!(progress.waiting.lock().expect("nobody panicked").len() <= WAITING);
    }
}
