//! Reports which objects are in force on this node, for the controller to sum up.

use std::time::{Duration, Instant};

use tokio::sync::watch;
use tortie_datastore::kubernetes::{Kubernetes, spread};
use tracing::{debug, warn};

use super::{FIRST_PAUSE, LONGEST_PAUSE};
use crate::progress::Content;

/// What all nodes of a cluster together may write: a hundred reports a second. A policy changes on every node at the same moment.
const SHARE: Duration = Duration::from_millis(10);

/// The longest that a report waits for that.
const LONGEST_SPREAD: Duration = Duration::from_secs(60);

/// How often a report is made although nothing has changed: somebody may have deleted it.
const AGAIN: Duration = Duration::from_secs(30 * 60);

/// Reports for as long as the agent runs.
pub(crate) async fn run(datastore: Kubernetes, node: String, mut programmed: watch::Receiver<Content>) {
    let mut told = None;
    let mut failures = 0;
    loop {
        let content = programmed.borrow_and_update().clone();
        if told.as_ref() == Some(&content.digests) || content.digests.is_empty() {
            tokio::select! {
                () = tokio::time::sleep(spread(AGAIN)) => told = None,
                changed = programmed.changed() => if changed.is_err() { return },
            }
            continue;
        }
        let nodes = u32::try_from(content.nodes).unwrap_or(u32::MAX);
        tokio::time::sleep(spread(SHARE.saturating_mul(nodes).min(LONGEST_SPREAD))).await;
        // What came meanwhile goes along.
        let content = programmed.borrow_and_update().clone();
        let started = Instant::now();
        match datastore.report_programmed(&node, &content.digests).await {
            Ok(()) => {
                debug!(took = ?started.elapsed(), "reported which objects are in force");
                (told, failures) = (Some(content.digests), 0);
            }
            Err(error) => {
                if failures == 0 {
                    warn!(%error, "which objects are in force could not be reported; trying again");
                }
                tokio::time::sleep(spread((FIRST_PAUSE * 2_u32.pow(failures)).min(LONGEST_PAUSE))).await;
                failures = (failures + 1).min(10);
            }
        }
    }
}
