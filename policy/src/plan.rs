//! What a change of resources would do, before any of it is applied.
//!
//! [`plan`] takes a cluster's resources and a [`Change`] to them, and says
//! - which pairs of pods, and of pods and addresses outside, would be allowed what is denied now, or denied what is allowed now;
//! - what staged policies would do if they were made real on top of that;
//! - the transaction that each node would send to its kernel, command by command.
//!
//! Verdicts are those of the compiled tables, walked by the interpreter, for now and for then. Pods that no policy can tell apart
//! (namespace, labels, service account, declared ports, and on which side of each named CIDR they are) are asked about once
//! ([`parties`]), so that the work grows with the number of Deployments and not with that of their pods.

mod enforced;
mod parties;
mod services;
mod transaction;
mod walk;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Serialize, Serializer};
use thiserror::Error;
use tortie_api::{Object, ObjectKey};
use tortie_nft::{Family, Transaction};

use crate::matrix::Verdict;
use crate::offline::Offline;
use enforced::Enforced;
use parties::{Party, Who};
use services::Named;
pub use services::Service;
use walk::{Place, World};

/// What is to be done to a cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// Objects that come, or take the place of those of the same key.
    pub apply: Vec<Object>,
    /// Objects that go.
    pub delete: Vec<ObjectKey>,
}

/// What is asked beside the change.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// The services to ask about. None for each destination's declared ports and the ports that the changed policies name.
    pub services: Option<Vec<Service>>,
    /// The live generation of each node, by name, where it is known. Others count from the beginning.
    pub generations: BTreeMap<String, u32>,
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Error {
    /// What is to be deleted is not there.
    #[error("{0} is to be deleted and is not there")]
    NotFound(ObjectKey),
    /// One object is to be applied and deleted, or applied twice.
    #[error("{0} is named twice in the change: what is to become of it?")]
    Twice(ObjectKey),
    /// A compiled ruleset cannot be walked: a defect of the compiler.
    #[error("the ruleset of node {node} cannot be interpreted, which is a defect of this program: {source}")]
    Ruleset {
        /// The node.
        node: String,
        /// What is wrong with it.
        source: tortie_nft::interpreter::Error,
    },
}

/// What a change would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The objects that the change names, in their order.
    pub objects: Vec<ObjectChange>,
    /// Who may talk to whom differently.
    #[serde(flatten)]
    pub effect: Effect,
    /// What staged policies would do on top of the change; none where none of them would do anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub staged: Option<Staged>,
    /// What each node would write, in the order of their names. A node that has nothing to write is there with no command.
    pub nodes: Vec<NodePlan>,
}

/// What becomes of an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ObjectChange {
    /// `KIND NAMESPACE/NAME`.
    pub object: String,
    /// What becomes of it.
    pub action: Action,
}

/// What becomes of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It comes.
    Created,
    /// It is there, and becomes another.
    Configured,
    /// It is there just so.
    Unchanged,
    /// It goes.
    Deleted,
}

/// Staged policies, and what they would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Staged {
    /// The staged policies: `KIND NAMESPACE/NAME`.
    pub policies: Vec<String>,
    /// Who could talk to whom differently if they were enforced, beside what the change does.
    #[serde(flatten)]
    pub effect: Effect,
}

/// Who may talk to whom differently.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Effect {
    /// In numbers.
    pub summary: Summary,
    /// The pods of which any verdict changes, in the order of their names.
    pub pods: Vec<PodEffect>,
    /// Every verdict that changes.
    #[serde(rename = "verdicts", serialize_with = "rows")]
    pub differences: Differences,
}

/// An effect in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Pods of which any verdict changes.
    pub pods: usize,
    /// Pods in all.
    #[serde(rename = "ofPods")]
    pub of_pods: usize,
    /// Pairs of which any verdict changes.
    pub pairs: usize,
    /// Pairs that were asked about.
    #[serde(rename = "ofPairs")]
    pub of_pairs: usize,
    /// Verdicts (a pair and a service each) that become deny.
    pub denied: usize,
    /// Verdicts that become allow.
    pub allowed: usize,
}

/// What changes for a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PodEffect {
    /// `NAMESPACE/POD`.
    pub pod: String,
    /// The node it is on.
    pub node: String,
    /// Of what is sent to it.
    pub ingress: Count,
    /// Of what it sends.
    pub egress: Count,
}

/// How many verdicts change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// From allow to deny.
    pub denied: usize,
    /// From deny to allow.
    pub allowed: usize,
}

impl Count {
    fn add(&mut self, after: Verdict, number: usize) {
        match after {
            Verdict::Deny => self.denied += number,
            Verdict::Allow => self.allowed += number,
        }
    }
}

/// Changed verdicts, put together: each [`Line`] is for every pair of a member of one group and a member of another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Differences {
    /// Those that lines are about.
    pub groups: Vec<Group>,
    /// What changes, in order.
    pub lines: Vec<Line>,
}

/// Pods, or addresses outside, that policies cannot tell apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// `NAMESPACE/POD` of each, or one address or CIDR, in order.
    pub members: Vec<String>,
    /// Whether they are pods.
    pub pods: bool,
}

/// A verdict that changes, for all pairs of two groups.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Line {
    /// The number of the group that sends.
    pub from: usize,
    /// The number of the group that is sent to.
    pub to: usize,
    /// Over what.
    pub service: Service,
    /// In which family; none if in all that the two have.
    pub family: Option<Family>,
    /// The verdict now; that of then is the other one.
    pub before: Verdict,
}

impl Line {
    /// The verdict after the change.
    pub const fn after(&self) -> Verdict {
        match self.before {
            Verdict::Allow => Verdict::Deny,
            Verdict::Deny => Verdict::Allow,
        }
    }
}

/// One changed verdict of one pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row<'a> {
    /// Who sends: `NAMESPACE/POD`, or an address or CIDR outside.
    pub from: &'a str,
    /// To whom.
    pub to: &'a str,
    /// Over what.
    #[serde(flatten)]
    pub service: Service,
    /// In which family; none if in all that the two have.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "family")]
    pub family: Option<Family>,
    /// The verdict now.
    pub before: Verdict,
    /// The verdict after the change.
    pub after: Verdict,
}

impl Differences {
    /// Each changed verdict of each pair by itself.
    pub fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.lines.iter().flat_map(move |line| {
            let (from, to) = (&self.groups[line.from].members, &self.groups[line.to].members);
            from.iter().flat_map(move |from| {
                // Nobody is asked about himself.
                to.iter().filter(move |to| *to != from).map(move |to| Row {
                    from,
                    to,
                    service: line.service,
                    family: line.family,
                    before: line.before,
                    after: line.after(),
                })
            })
        })
    }

    /// How many pairs two groups make.
    pub fn pairs(&self, from: usize, to: usize) -> usize {
        let members = |group: usize| self.groups.get(group).map_or(0, |group| group.members.len());
        // A pod's way to itself is none.
        members(from) * members(to) - if from == to { members(to) } else { 0 }
    }
}

fn rows<S: Serializer>(differences: &Differences, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(differences.rows())
}

#[expect(clippy::ref_option, clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn family<S: Serializer>(family: &Option<Family>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(match family {
        Some(Family::V4) => "ipv4",
        Some(Family::V6) => "ipv6",
        None => "",
    })
}

/// What a node would write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodePlan {
    /// The node.
    pub node: String,
    /// Whether the live generation moves with it, so that flows which are under way are judged again.
    #[serde(rename = "generationMoves")]
    pub generation_moves: bool,
    /// What is written, in order and all at once, as `nft -f` would take it.
    #[serde(serialize_with = "commands")]
    pub transaction: Transaction,
}

fn commands<S: Serializer>(transaction: &Transaction, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(transaction.commands.iter().map(ToString::to_string))
}

/// What those are called that are in no block of addresses that a policy names.
pub const OUTSIDE: &str = "outside";

/// Says what `change` would do to a cluster of these objects.
///
/// # Errors
/// [`Error`]: the change contradicts itself or the cluster.
pub fn plan(now: &[Object], change: &Change, query: &Query) -> Result<Plan, Error> {
    let (change, objects) = settle(now, change)?;
    let then = changed(now, &change);
    let before = Offline::new(now);
    let after = Offline::new(&then);
    let gone = change.delete.iter().filter_map(|key| now.iter().find(|object| object.key() == *key));
    let named = services::named(now.iter().chain(&then), change.apply.iter().chain(gone));
    let (world, next) = (World::new(&before)?, World::new(&after)?);
    let parties = parties::parties(&[now, &then], &named);
    let effect = Comparison { before: &world, after: &next, named: &named, query }.effect(&parties);
    let staged = enforced::enforced(&then).map(|enforced| staged(&then, &next, enforced, query)).transpose()?;
    let nodes = transaction::of_nodes((now, &before), (&change, &after), &query.generations);
    Ok(Plan { objects, effect, staged, nodes })
}

/// What a world would be with its staged policies enforced.
fn staged(now: &[Object], world: &World<'_>, enforced: Enforced, query: &Query) -> Result<Staged, Error> {
    let all = || now.iter().chain(&enforced.objects);
    let staged = all().filter(|object| enforced.policies.contains(&object.key().to_string()));
    let named = services::named(all(), staged);
    let real = Offline::new(&enforced.objects);
    let parties = parties::parties(&[now, &enforced.objects], &named);
    let comparison = Comparison { before: world, after: &World::new(&real)?, named: &named, query };
    Ok(Staged { effect: comparison.effect(&parties), policies: enforced.policies })
}

/// The change as it comes to the cluster, and what becomes of each object of it.
fn settle(now: &[Object], change: &Change) -> Result<(Change, Vec<ObjectChange>), Error> {
    let known: BTreeMap<ObjectKey, &Object> = now.iter().map(|object| (object.key(), object)).collect();
    let mut seen = BTreeSet::new();
    let (mut settled, mut objects) = (Change::default(), Vec::new());
    for object in &change.apply {
        let key = object.key();
        let old = known.get(&key);
        let object = old.map_or_else(|| object.clone(), |old| keep_what_agents_say(old, object.clone()));
        let action = match old {
            None => Action::Created,
            Some(old) if without_version(old) == without_version(&object) => Action::Unchanged,
            Some(_) => Action::Configured,
        };
        objects.push(ObjectChange { object: key.to_string(), action });
        if action != Action::Unchanged {
            settled.apply.push(object);
        }
        if !seen.insert(key.clone()) {
            return Err(Error::Twice(key));
        }
    }
    for key in &change.delete {
        if !known.contains_key(key) {
            return Err(Error::NotFound(key.clone()));
        }
        if !seen.insert(key.clone()) {
            return Err(Error::Twice(key.clone()));
        }
        objects.push(ObjectChange { object: key.to_string(), action: Action::Deleted });
        settled.delete.push(key.clone());
    }
    Ok((settled, objects))
}

/// A pod's addresses are what its agent says, and no manifest's to change.
fn keep_what_agents_say(old: &Object, mut new: Object) -> Object {
    if let (Object::Pod(old), Object::Pod(new)) = (old, &mut new)
        && new.status.pod_ips.is_empty()
    {
        new.status.pod_ips.clone_from(&old.status.pod_ips);
    }
    new
}

fn without_version(object: &Object) -> Object {
    let mut object = object.clone();
    object.metadata_mut().resource_version = None;
    object
}

/// The objects after the change.
fn changed(now: &[Object], change: &Change) -> Vec<Object> {
    let gone: BTreeSet<ObjectKey> = change.apply.iter().map(Object::key).chain(change.delete.iter().cloned()).collect();
    now.iter().filter(|object| !gone.contains(&object.key())).chain(&change.apply).cloned().collect()
}

/// Two worlds to be compared.
struct Comparison<'a> {
    before: &'a World<'a>,
    after: &'a World<'a>,
    named: &'a Named,
    query: &'a Query,
}

impl Comparison<'_> {
    fn effect(&self, parties: &[Party]) -> Effect {
        let mut differences =
            Differences { groups: parties.iter().map(|party| party.group.clone()).collect(), lines: Vec::new() };
        let mut summary = Summary::default();
        let places = |world: &World<'_>| parties.iter().map(|party| places(world, &party.who)).collect::<Vec<_>>();
        let (before, after) = (places(self.before), places(self.after));
        for (to, party) in parties.iter().enumerate() {
            let services = match (&self.query.services, &party.who) {
                (Some(services), _) => services.iter().copied().collect(),
                (None, Who::Pods { documents, .. }) => self.named.of(documents),
                (None, Who::Outside(_)) => self.named.of(&[]),
            };
            for (from, sender) in parties.iter().enumerate() {
                let Some(pair) = pair(from, to, parties) else { continue };
                if !sender.group.pods && !party.group.pods {
                    continue;
                }
                let ends = [&before, &after].map(|places| (&places[from][pair.0], &places[to][pair.1]));
                let lines = self.lines(ends, &services);
                let lines =
                    lines.into_iter().map(|(service, family, before)| Line { from, to, service, family, before });
                let first = differences.lines.len();
                differences.lines.extend(lines);
                let pairs = differences.pairs(from, to);
                summary.of_pairs += pairs;
                if let Some(lines) = differences.lines.get(first..).filter(|lines| !lines.is_empty()) {
                    summary.pairs += pairs;
                    let mut count = Count::default();
                    for line in lines {
                        count.add(line.after(), pairs);
                    }
                    summary.denied += count.denied;
                    summary.allowed += count.allowed;
                }
            }
        }
        let pods = self.pods(&differences);
        summary.pods = pods.len();
        summary.of_pods = parties.iter().filter(|party| party.group.pods).map(|party| party.group.members.len()).sum();
        Effect { summary, pods, differences }
    }

    /// The services of which the verdict between two places changes, with the family where it does not in all that they have.
    fn lines(
        &self,
        [before, after]: [(&Place, &Place); 2],
        services: &BTreeSet<Service>,
    ) -> Vec<(Service, Option<Family>, Verdict)> {
        let mut lines = Vec::new();
        for &service in services {
            let families = [Family::V4, Family::V6].map(|family| {
                let before = self.before.allows(before.0, before.1, service, family)?;
                let after = self.after.allows(after.0, after.1, service, family)?;
                Some((before, after))
            });
            let changes = families.map(|verdicts| verdicts.filter(|(before, after)| before != after));
            match (families, changes) {
                ([Some(_), Some(_)], [Some((v4, _)), Some((v6, _))]) if v4 == v6 => {
                    lines.push((service, None, v4.into()));
                }
                (families, changes) => {
                    let alone = families.iter().flatten().count() == 1;
                    for (family, change) in [Family::V4, Family::V6].into_iter().zip(changes) {
                        let family = (!alone).then_some(family);
                        lines.extend(change.map(|(before, _)| (service, family, Verdict::from(before))));
                    }
                }
            }
        }
        lines
    }

    fn pods(&self, differences: &Differences) -> Vec<PodEffect> {
        let mut pods: BTreeMap<&str, (Count, Count)> = BTreeMap::new();
        for line in &differences.lines {
            let (from, to) = (&differences.groups[line.from], &differences.groups[line.to]);
            // To or from itself nothing changes.
            let own = usize::from(line.from == line.to);
            for pod in from.members.iter().filter(|_| from.pods) {
                pods.entry(pod).or_default().1.add(line.after(), to.members.len() - own);
            }
            for pod in to.members.iter().filter(|_| to.pods) {
                pods.entry(pod).or_default().0.add(line.after(), from.members.len() - own);
            }
        }
        let node = |pod: &str| {
            let (namespace, name) = pod.split_once('/').unwrap_or(("", pod));
            let place = self.after.place(namespace, name);
            place.and_then(|place| place.node().map(str::to_owned)).unwrap_or_default()
        };
        let pods = pods.into_iter();
        pods.map(|(pod, (ingress, egress))| PodEffect { pod: pod.to_owned(), node: node(pod), ingress, egress })
            .collect()
    }
}

/// Where those are in a world who are to be asked.
fn places(world: &World<'_>, who: &Who) -> Vec<Place> {
    match who {
        Who::Pods { names, .. } => names.iter().filter_map(|(namespace, name)| world.place(namespace, name)).collect(),
        Who::Outside(addresses) => vec![Place::outside(addresses)],
    }
}

/// Whom of two groups to ask: the first of each, or two of one group. None where there is no pair.
fn pair(from: usize, to: usize, parties: &[Party]) -> Option<(usize, usize)> {
    if from == to { (parties[from].group.members.len() > 1).then_some((0, 1)) } else { Some((0, 0)) }
}
