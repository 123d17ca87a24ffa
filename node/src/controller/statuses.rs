//! Tells each object in its `status` what became of it: whether it is valid, and on how many nodes it is in force.
//!
//! Nodes report digests of the objects that they have in force. The controller lists a kind's objects when its digest has changed, and
//! remembers the digests it has seen, in order: a node that reports one of them has all objects that were there by then. Every write of a
//! status goes to all agents as a change, so they are few: nothing is written of an object that stays in force when nodes come and go,
//! and while nodes take an object in, what is written of it is written at longer and longer intervals.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use tokio::sync::watch;
use tortie_api::status::{ACCEPTED, Condition, ConditionStatus, PROGRAMMED};
use tortie_api::{Kind, ObjectKey};
use tortie_datastore::kubernetes::{Kubernetes, Standing, Standings, WITH_STATUS, condition};
use tortie_datastore::{Digests, Error};
use tracing::{debug, info, warn};

use crate::progress::Content;

/// The first and the longest pause between looks at what nodes report, while they take in what has changed.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How often to look although nothing has changed: somebody may have written a status.
const AGAIN: Duration = Duration::from_secs(10 * 60);

/// Time between two writes.
const WRITE_GAP: Duration = Duration::from_millis(10);

/// How many of the things that are wrong with an object are told: a condition has room for 32 KiB.
const SHOWN: usize = 8;

/// How many digests of a kind are remembered.
const REMEMBERED: usize = 256;

/// Writes statuses until it is dropped.
pub(super) async fn keep(store: &Kubernetes, mut delivered: watch::Receiver<Content>) {
    let mut known = Known::default();
    let mut pause = FIRST_PAUSE;
    loop {
        let wanted = delivered.borrow_and_update().digests.clone();
        let next = match turn(store, &mut known, &wanted).await {
            Ok(true) => AGAIN,
            Ok(false) => pause,
            Err(error) => {
                warn!(%error, "statuses could not be written; trying again");
                pause.max(Duration::from_secs(5))
            }
        };
        pause = (pause * 2).min(LONGEST_PAUSE);
        tokio::select! {
            () = tokio::time::sleep(next) => if next == AGAIN { known.forget_lists() },
            changed = delivered.changed() => match changed {
                Ok(()) => pause = FIRST_PAUSE,
                Err(_) => return,
            },
        }
    }
}

/// Does what there is to do now. Whether that is all.
async fn turn(store: &Kubernetes, known: &mut Known, delivered: &Digests) -> Result<bool, Error> {
    if delivered.is_empty() || !store.has_statuses().await? {
        return Ok(true);
    }
    for kind in WITH_STATUS {
        if known.is_stale(kind, delivered.get(&kind).copied().unwrap_or_default()) {
            known.take(kind, store.standings(kind).await?);
        }
    }
    if known.is_settled() {
        return Ok(true);
    }
    let (reports, nodes) = (store.reports().await?, store.node_names().await?);
    let updates = known.updates(&reports, &nodes);
    let count = updates.len();
    for (key, conditions) in updates {
        // One that cannot be written keeps no other from being told.
        match store.write_conditions(&key, &conditions).await {
            Ok(_) => known.written(&key, conditions),
            Err(error) => info!(%error, "the status of {key} could not be written; trying again"),
        }
        tokio::time::sleep(WRITE_GAP).await;
    }
    if count > 0 {
        debug!(count, nodes = nodes.len(), "wrote statuses");
    }
    Ok(known.is_settled())
}

/// What is known of the objects.
#[derive(Debug, Default)]
struct Known(BTreeMap<Kind, OfKind>);

#[derive(Debug, Default)]
struct OfKind {
    listed: bool,
    objects: HashMap<ObjectKey, Tracked>,
    /// The digests that the kind has had, latest last, and how many there have been before.
    digests: Vec<u64>,
    forgotten: usize,
}

/// An object, and since which of the kind's digests it has been as it is.
#[derive(Debug)]
struct Tracked {
    standing: Standing,
    since: usize,
}

impl Known {
    /// Whether a kind's list is to be read.
    fn is_stale(&self, kind: Kind, digest: u64) -> bool {
        self.0.get(&kind).is_none_or(|known| !known.listed || known.digests.last() != Some(&digest))
    }

    fn forget_lists(&mut self) {
        self.0.values_mut().for_each(|known| known.listed = false);
    }

    fn take(&mut self, kind: Kind, list: Standings) {
        self.0.entry(kind).or_default().take(list);
    }

    /// Whether every object's status says all there is to say.
    fn is_settled(&self) -> bool {
        self.0.values().all(|known| known.objects.values().all(|known| known.standing.is_settled()))
    }

    /// The conditions to write.
    fn updates(
        &self,
        reports: &BTreeMap<String, Digests>,
        nodes: &BTreeSet<String>,
    ) -> Vec<(ObjectKey, Vec<Condition>)> {
        let of_nodes: Vec<&Digests> = nodes.iter().filter_map(|node| reports.get(node)).collect();
        let mut updates = Vec::new();
        for (kind, known) in &self.0 {
            let mut reached: Vec<usize> = of_nodes
                .iter()
                .filter_map(|digests| known.place(digests.get(kind).copied().unwrap_or_default()))
                .collect();
            reached.sort_unstable();
            for known in known.objects.values().filter(|known| !known.standing.is_settled()) {
                let behind = reached.partition_point(|place| *place < known.since);
                let conditions = known.standing.wanted(reached.len() - behind, nodes.len());
                if conditions != known.standing.conditions {
                    updates.push((known.standing.key.clone(), conditions));
                }
            }
        }
        updates
    }

    fn written(&mut self, key: &ObjectKey, conditions: Vec<Condition>) {
        if let Some(known) = self.0.get_mut(&key.kind).and_then(|known| known.objects.get_mut(key)) {
            known.standing.conditions = conditions;
        }
    }
}

impl OfKind {
    fn take(&mut self, list: Standings) {
        self.listed = true;
        if self.digests.last() != Some(&list.digest) {
            self.digests.push(list.digest);
            let surplus = self.digests.len().saturating_sub(REMEMBERED);
            self.digests.drain(..surplus);
            self.forgotten += surplus;
        }
        let now = self.forgotten + self.digests.len() - 1;
        let mut before = std::mem::take(&mut self.objects);
        for standing in list.objects {
            let as_it_was = |known: &Tracked| {
                (&known.standing.uid, known.standing.generation) == (&standing.uid, standing.generation)
            };
            let same = before.remove(&standing.key).filter(as_it_was);
            let since = same.map_or(now, |known| known.since);
            self.objects.insert(standing.key.clone(), Tracked { standing, since });
        }
    }

    /// Which of the digests it is; none of one that nobody here has seen, or not for long. The latest counts, should it come again.
    fn place(&self, digest: u64) -> Option<usize> {
        self.digests.iter().rposition(|known| *known == digest).map(|place| self.forgotten + place)
    }
}

/// What is asked of an object's standing.
trait Told {
    /// Whether there is nothing more to tell, until the object changes.
    fn is_settled(&self) -> bool;

    /// The conditions that it should have when `programmed` of `nodes` have it in force.
    fn wanted(&self, programmed: usize, nodes: usize) -> Vec<Condition>;
}

impl Told for Standing {
    fn is_settled(&self) -> bool {
        let says = |kind: &str, status: ConditionStatus| {
            self.conditions.iter().any(|condition| {
                condition.kind == kind
                    && condition.status == status
                    && condition.observed_generation == Some(self.generation)
            })
        };
        if self.problems.is_empty() {
            says(ACCEPTED, ConditionStatus::True) && says(PROGRAMMED, ConditionStatus::True)
        } else {
            says(ACCEPTED, ConditionStatus::False) && says(PROGRAMMED, ConditionStatus::False)
        }
    }

    fn wanted(&self, programmed: usize, nodes: usize) -> Vec<Condition> {
        let is_valid = self.problems.is_empty();
        let accepted =
            if is_valid { ("Valid", "valid and in use".to_owned()) } else { ("Invalid", reasons(&self.problems)) };
        let in_force = match programmed {
            _ if !is_valid => ("Invalid", "not in force; of what it was before, the last valid version is".to_owned()),
            programmed if programmed == nodes => ("OnAllNodes", format!("programmed on {programmed} of {nodes} nodes")),
            programmed => ("Pending", format!("programmed on {programmed} of {nodes} nodes")),
        };
        let is_in_force = is_valid && programmed == nodes;
        let ours = [ACCEPTED, PROGRAMMED];
        let others = self.conditions.iter().filter(|condition| !ours.contains(&condition.kind.as_str()));
        let mut conditions: Vec<Condition> = others.cloned().collect();
        conditions.push(condition(ACCEPTED, is_valid, accepted, self.generation, &self.conditions));
        conditions.push(condition(PROGRAMMED, is_in_force, in_force, self.generation, &self.conditions));
        conditions
    }
}

/// What is wrong, in a text that a condition has room for.
fn reasons(problems: &[String]) -> String {
    let shown: Vec<String> = problems.iter().take(SHOWN).map(|reason| reason.chars().take(1000).collect()).collect();
    let more = problems.len().saturating_sub(SHOWN);
    shown.join("; ") + &if more == 0 { String::new() } else { format!("; and {more} more") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: Kind = Kind::GlobalNetworkPolicy;

    fn standing(name: &str, generation: u64) -> Standing {
        let key = ObjectKey { kind: KIND, namespace: None, name: name.to_owned() };
        Standing { key, uid: name.to_owned(), generation, conditions: Vec::new(), problems: Vec::new() }
    }

    fn list(digest: u64, objects: &[(&str, u64)]) -> Standings {
        Standings { digest, objects: objects.iter().map(|(name, generation)| standing(name, *generation)).collect() }
    }

    /// What would be written, in short: name, and the message of `Programmed`.
    fn messages(known: &Known, reported: &[(&str, u64)], nodes: &[&str]) -> Vec<(String, String)> {
        let reports: BTreeMap<String, Digests> =
            reported.iter().map(|(node, digest)| ((*node).to_owned(), Digests::from([(KIND, *digest)]))).collect();
        let updates = known.updates(&reports, &nodes.iter().map(|node| (*node).to_owned()).collect());
        let message = |conditions: &[Condition]| {
            conditions.iter().find(|condition| condition.kind == PROGRAMMED).expect("it is told").message.clone()
        };
        let mut told: Vec<_> =
            updates.iter().map(|(key, conditions)| (key.name.clone(), message(conditions))).collect();
        told.sort();
        told
    }

    fn of(count: usize) -> String {
        format!("programmed on {count} of 3 nodes")
    }

    #[test]
    fn a_node_has_what_was_there_when_it_was_as_it_reports() {
        let mut known = Known::default();
        assert!(known.is_stale(KIND, 10));
        known.take(KIND, list(10, &[("a", 1)]));
        assert!(!known.is_stale(KIND, 10) && known.is_stale(KIND, 11));
        known.take(KIND, list(11, &[("a", 1), ("b", 1)]));
        known.take(KIND, list(12, &[("a", 2), ("b", 1)]));
        let nodes = ["n1", "n2", "n3"];
        // One is up to date, one has b, one says what nobody here knows, and one is no node any more.
        let told = messages(&known, &[("n1", 12), ("n2", 11), ("n3", 99), ("n4", 12)], &nodes);
        assert_eq!(told, [("a".to_owned(), of(1)), ("b".to_owned(), of(2))]);
        let told = messages(&known, &[("n1", 12), ("n2", 10)], &nodes);
        assert_eq!(told, [("a".to_owned(), of(1)), ("b".to_owned(), of(1))]);
    }

    #[test]
    fn what_is_in_force_everywhere_is_written_once() {
        let mut known = Known::default();
        known.take(KIND, list(10, &[("a", 1)]));
        assert!(!known.is_settled());
        let nodes: BTreeSet<String> = ["n1".to_owned()].into();
        let reports = BTreeMap::from([("n1".to_owned(), Digests::from([(KIND, 10)]))]);
        for (key, conditions) in known.updates(&reports, &nodes) {
            assert!(conditions.iter().all(|condition| condition.status == ConditionStatus::True), "{conditions:?}");
            known.written(&key, conditions);
        }
        assert!(known.is_settled());
        let two = ["n1".to_owned(), "n2".to_owned()].into();
        assert_eq!(known.updates(&reports, &two), [], "a node that comes changes nothing of what is in force");
        known.take(KIND, list(20, &[("a", 2)]));
        assert!(!known.is_settled(), "another generation is another story");
    }

    #[test]
    fn what_others_say_and_since_when_something_is_so_stays() {
        let mut standing = standing("a", 1);
        let foreign = condition("Theirs", true, ("Because", "so".to_owned()), 1, &[]);
        standing.conditions = vec![foreign.clone()];
        standing.conditions = standing.wanted(1, 2);
        standing.conditions[1].last_transition_time = "2020-01-01T00:00:00Z".to_owned();
        assert_eq!((&standing.conditions[0], standing.conditions.len()), (&foreign, 3));
        standing.generation = 2;
        let later = standing.wanted(2, 2);
        assert_eq!(later[1].last_transition_time, "2020-01-01T00:00:00Z", "it was valid before");
        assert_eq!((later[1].observed_generation, later[2].status), (Some(2), ConditionStatus::True));
        assert_ne!(later[2].last_transition_time, "");
    }

    #[test]
    fn what_is_not_valid_is_told_why() {
        let mut standing = standing("a", 4);
        standing.problems = vec!["spec.selector: no".to_owned(), "spec.order: no".to_owned()];
        standing.conditions = standing.wanted(3, 3);
        let accepted = &standing.conditions[0];
        assert_eq!(
            (accepted.status, accepted.message.as_str()),
            (ConditionStatus::False, "spec.selector: no; spec.order: no")
        );
        assert!(standing.is_settled());
        standing.problems = vec!["\u{1f431}".repeat(100_000); 100];
        let told = &standing.wanted(3, 3)[0].message;
        assert!(told.len() <= 32_768 && told.ends_with("; and 92 more"), "{}", told.len());
    }

    #[test]
    fn old_digests_are_forgotten_in_order() {
        let mut known = OfKind::default();
        for digest in 0..2 * REMEMBERED as u64 {
            known.take(list(digest, &[("a", digest)]));
        }
        assert_eq!((known.place(3), known.digests.len()), (None, REMEMBERED));
        assert_eq!(known.place(2 * REMEMBERED as u64 - 1), Some(2 * REMEMBERED - 1));
        assert_eq!(known.objects.values().next().expect("one").since, 2 * REMEMBERED - 1);
    }
}
