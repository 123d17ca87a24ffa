//! The node's table, kept up to date at the cost of what changed.
//!
//! The table is a function of cluster, endpoints and generation, and [`compile`](crate::compile) says which. A [`Compiler`] keeps the
//! last one with what it takes to change it in place:
//! - each chain, set and map has a count of the classes that use it, and goes with the last of them;
//! - a set of pods knows whom it follows, so an address about which anything changed is looked at again in each set, and nothing
//!   else is;
//! - a group of local pods has the policies that govern it, so a policy that changed is held against the local groups of its
//!   namespace, and only classes of groups that it selects, or did, are written anew.
//!
//! Where that is no shorter, as at the start and after very many changes, all is compiled anew.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};
use tortie_api::k8s::PolicyType;
use tortie_nft::{Key, Ruleset, Transaction, Value, Verdict};

use crate::chains::Builder;
use crate::change::Change;
use crate::cluster::{Cluster, Group, PodPort, PolicyKey, PolicyView, Spec};
use crate::compile::{Endpoint, UNKNOWN, asks_for_ports, governing, write_class};
use crate::followed::{Again, Following};
use crate::frame::{
    EGRESS_CLASS, Frame, INGRESS_CLASS, LIMIT_EGRESS, LIMIT_INGRESS, OWN4, OWN6, SELF, frame, optional,
};
use crate::generation::Generation;
use crate::hits;
use crate::intern::{Id, Interner};
use crate::marks::MarkMask;
use crate::names::Names;
use crate::options::CompileOptions;
use crate::selection::Selection;
use crate::special::write_special;
use crate::tightens::{change_tightens, tightens};
use crate::touched::{Changes, Name};
use crate::view::Site;

mod hosts;

use hosts::Hosts;

const DIRECTIONS: [(PolicyType, &str); 2] = [(PolicyType::Egress, EGRESS_CLASS), (PolicyType::Ingress, INGRESS_CLASS)];

/// What decides a class: direction, group, and the pod's ports where policies call them by name. No group is that of endpoints
/// whose pod nobody has described.
type ClassKey = (PolicyType, Option<Group>, Option<Arc<[PodPort]>>);

/// The chain of a class, and all that it uses, by number.
#[derive(Debug)]
struct Class {
    name: String,
    uses: Box<[Id]>,
}

/// What is special about an endpoint: the elements for its interface, and the numbers of all that they use.
#[derive(Debug)]
struct Own {
    elements: Vec<(&'static str, Verdict)>,
    uses: Box<[Id]>,
}

/// What governs a group.
#[derive(Debug)]
struct Governed {
    /// The policies, in order.
    policies: Vec<(PolicyKey, Spec)>,
    /// The same.
    keys: FxHashSet<PolicyKey>,
    /// Whether it matters in each of [`DIRECTIONS`] which ports a pod declares.
    asks_for_ports: [bool; 2],
}

impl Governed {
    fn of(cluster: &Cluster, group: &Group) -> Self {
        let views = governing(cluster, group);
        Self {
            policies: views.iter().map(|view| (view.key.clone(), view.spec.clone())).collect(),
            keys: views.iter().map(|view| view.key.clone()).collect(),
            asks_for_ports: DIRECTIONS.map(|(direction, _)| asks_for_ports(&views, direction)),
        }
    }

    fn views(&self) -> Vec<PolicyView<'_>> {
        self.policies.iter().map(|(key, spec)| PolicyView { key, spec }).collect()
    }
}

/// A cluster, and the table of a node in it.
#[derive(Debug)]
pub struct Compiler {
    cluster: Cluster,
    options: CompileOptions,
    state: State,
    /// Counters that are to be kept by the next table, with their comments.
    found: BTreeMap<String, Option<String>>,
}

/// What a table is made from.
#[derive(Debug, Clone, Copy)]
struct Context<'a> {
    cluster: &'a Cluster,
    options: &'a CompileOptions,
}

/// The table, and where its parts come from.
#[derive(Debug, Default)]
struct State {
    table: Ruleset,
    generation: Option<Generation>,
    names: Names,
    /// The names of all chains, sets and maps outside the frame, each held by the classes that use it.
    parts: Interner<str>,
    following: Following,
    governed: FxHashMap<Group, Arc<Governed>>,
    /// The counters of policies' rules: they stay while the policy is there, whether a class uses them or not.
    counters: BTreeMap<PolicyKey, BTreeSet<String>>,
    /// The counters of what tiers deny, which go with the classes that use them.
    defaults: BTreeSet<String>,
    classes: FxHashMap<ClassKey, Class>,
    /// The endpoints, each with its class in both directions.
    endpoints: BTreeMap<Endpoint, [ClassKey; 2]>,
    /// The few endpoints that have something special.
    own: BTreeMap<Endpoint, Own>,
    /// The node's host endpoints.
    hosts: Hosts,
    /// Whether any of them has limits, so that the frame has what leads to these.
    limited: bool,
    /// Whether endpoints share an interface: then the last of them counts, and one cannot be taken away by itself.
    ambiguous: bool,
}

/// How the table has changed.
#[derive(Debug)]
pub struct Update(Kind);

#[derive(Debug)]
enum Kind {
    /// In these parts.
    Parts(Box<Change>),
    /// It was this, and is another.
    Anew(Box<Ruleset>),
}

/// The update from a table that somebody else left.
impl From<Ruleset> for Update {
    fn from(before: Ruleset) -> Self {
        Self(Kind::Anew(Box::new(before)))
    }
}

impl Update {
    /// Whether the change to `now`, the table after it, could deny a packet of a flow that is allowed: as [`tightens`](crate::tightens)
    /// says of the two tables, or more cautious.
    pub fn tightens(&self, now: &Ruleset) -> bool {
        match &self.0 {
            Kind::Parts(change) => change_tightens(&change.before, &change.after, now),
            Kind::Anew(before) => tightens(before, now),
        }
    }

    /// Whether stamps from before the change to `now` may be read as others there: they are in other bits.
    fn forgets_stamps(&self, now: &Ruleset) -> bool {
        match &self.0 {
            Kind::Parts(_) => false,
            Kind::Anew(before) => {
                let mask = Generation::mask_of(before);
                mask.is_some() && mask != Generation::mask_of(now)
            }
        }
    }

    /// Whether all that changed is known by itself, and the rest of the table is as it was.
    pub fn is_in_parts(&self) -> bool {
        matches!(self.0, Kind::Parts(_))
    }

    /// The transaction that makes the table before the change `now`.
    pub fn transaction(&self, now: &Ruleset) -> Transaction {
        match &self.0 {
            Kind::Parts(change) => change.transaction(),
            Kind::Anew(before) => before.diff(now),
        }
    }

    /// The table before the change to `now`.
    pub fn before(self, now: &Ruleset) -> Ruleset {
        match self.0 {
            Kind::Parts(change) => change.undo(now),
            Kind::Anew(before) => *before,
        }
    }
}

impl Compiler {
    /// A compiler that knows of nothing.
    pub fn new(options: CompileOptions) -> Self {
        Self { cluster: Cluster::default(), options, state: State::default(), found: BTreeMap::new() }
    }

    /// The cluster.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The cluster, to take in changes.
    pub fn cluster_mut(&mut self) -> &mut Cluster {
        &mut self.cluster
    }

    /// The table as of the last update; empty before the first.
    pub fn table(&self) -> &Ruleset {
        &self.state.table
    }

    /// How many policies select endpoints of this node.
    pub fn active_policies(&self) -> usize {
        self.state.governed.values().flat_map(|governed| &governed.keys).collect::<FxHashSet<_>>().len()
    }

    /// How many selections of peers, and of ports by name, the table follows: each is a set.
    pub fn selections(&self) -> usize {
        let context = Context { cluster: &self.cluster, options: &self.options };
        let fixed = self.state.generation.map_or(0, |generation| self.state.frame(context, generation).sets.len());
        self.state.table.sets.len().saturating_sub(fixed)
    }

    /// What an operator should know of the annotations of this node's pods, one sentence each.
    pub fn problems(&self) -> Vec<String> {
        let special = |endpoint: &Endpoint| self.cluster.special(&endpoint.namespace, &endpoint.pod);
        let endpoints = self.state.endpoints.keys();
        endpoints.filter_map(|endpoint| Some(special(endpoint)?.problems(endpoint, &self.options))).flatten().collect()
    }

    /// What policies ask of this node's host endpoints in vain: a sentence on each.
    pub fn unheeded(&self) -> Vec<String> {
        crate::host_programs::unheeded(&self.cluster, &self.options.host.interfaces)
    }

    /// Has the next table keep those counters of another that count hits of policies that are there, even where no class uses them: at a
    /// start, those of the kernel's table. To be told before the first update.
    pub fn adopt_counters(&mut self, found: &BTreeMap<String, Option<String>>) {
        self.found.clone_from(found);
    }

    /// The bits of the ct mark that its tables use.
    pub const fn mark_mask(&self) -> MarkMask {
        self.options.mark_mask
    }

    /// Sets what does not depend on the cluster. If that is news, the next update compiles everything anew.
    pub fn set_options(&mut self, options: CompileOptions) {
        if self.options != options {
            self.options = options;
            self.cluster.touch_all();
        }
    }

    /// Makes the table what [`compile`](crate::compile) would for these endpoints and this generation.
    pub fn update(&mut self, endpoints: &[Endpoint], generation: Generation) -> Update {
        let wanted: BTreeSet<&Endpoint> = endpoints.iter().collect();
        let interfaces: FxHashSet<&str> = wanted.iter().map(|endpoint| endpoint.interface.as_str()).collect();
        let ambiguous = interfaces.len() < wanted.len();
        let changes = self.cluster.take_changes();
        if let Some(changes) = changes.filter(|_| !ambiguous && self.is_short_way()) {
            let mut change = Change::default();
            let context = Context { cluster: &self.cluster, options: &self.options };
            let dirty = self.state.refresh(context, generation, &changes, &mut change);
            let leaving: Vec<Endpoint> =
                self.state.endpoints.keys().filter(|endpoint| !wanted.contains(endpoint)).cloned().collect();
            let due = wanted.into_iter().filter(|endpoint| {
                !self.state.endpoints.contains_key(*endpoint)
                    || self.state.is_dirty(endpoint, &dirty)
                    || is_touched(endpoint, &changes.pods)
            });
            let due: Vec<Endpoint> = due.cloned().collect();
            self.state.assign(context, &due, &leaving, &dirty, &mut change);
            self.state.forget_counters(context.cluster, &changes, &mut change);
            return Update(Kind::Parts(Box::new(change)));
        }
        self.anew(&wanted.into_iter().cloned().collect::<Vec<_>>(), ambiguous, generation)
    }

    /// [`Compiler::update`] for the endpoints of the last time, without a look at each.
    pub fn follow(&mut self, generation: Generation) -> Update {
        let changes = self.cluster.take_changes();
        if let Some(changes) = changes.filter(|_| self.is_short_way()) {
            let mut change = Change::default();
            let context = Context { cluster: &self.cluster, options: &self.options };
            let dirty = self.state.refresh(context, generation, &changes, &mut change);
            let mut due: Vec<Endpoint> =
                changes.pods.iter().flat_map(|pod| self.state.endpoints_of(pod)).map(|(pod, _)| pod.clone()).collect();
            if !dirty.is_empty() {
                due.extend(
                    self.state.endpoints.keys().filter(|endpoint| self.state.is_dirty(endpoint, &dirty)).cloned(),
                );
                due.sort();
                due.dedup();
            }
            self.state.assign(context, &due, &[], &dirty, &mut change);
            self.state.forget_counters(context.cluster, &changes, &mut change);
            return Update(Kind::Parts(Box::new(change)));
        }
        let endpoints: Vec<Endpoint> = self.state.endpoints.keys().cloned().collect();
        self.anew(&endpoints, self.state.ambiguous, generation)
    }

    /// Whether the table is such that it can be changed in parts.
    fn is_short_way(&self) -> bool {
        !self.state.ambiguous && self.state.generation.is_some()
    }

    /// Compiles everything.
    fn anew(&mut self, endpoints: &[Endpoint], ambiguous: bool, generation: Generation) -> Update {
        let State { table: before, counters, .. } = std::mem::take(&mut self.state);
        let context = Context { cluster: &self.cluster, options: &self.options };
        self.state.table = self.state.frame(context, generation);
        self.state.counters = counters;
        self.state.keep_counters(context, &before);
        self.state.adopt_counters(context, std::mem::take(&mut self.found));
        self.state.generation = Some(generation);
        self.state.ambiguous = ambiguous;
        self.state.assign_hosts(context, &mut Change::default());
        self.state.assign(context, endpoints, &[], &FxHashSet::default(), &mut Change::default());
        Update(Kind::Anew(Box::new(before)))
    }

    /// Whether flows keep what they were allowed, whatever policies say now (`policyExistingConnections: Keep`).
    pub const fn keeps_connections(&self) -> bool {
        self.options.host.keep_connections
    }

    /// Whether the generation must move with `update`, the last one, so that flows are judged again.
    pub fn must_move(&self, update: &Update) -> bool {
        if self.keeps_connections() {
            update.forgets_stamps(&self.state.table)
        } else {
            update.tightens(&self.state.table)
        }
    }

    /// The generation that follows `generation`, the table's before `update`, where that must move: one whose stamps no flow carries yet,
    /// whatever bits they were in before.
    pub fn next_generation(&self, generation: Generation, update: &Update) -> Generation {
        match &update.0 {
            Kind::Parts(_) => generation.next(),
            Kind::Anew(before) => generation.next_after(before, self.options.mark_mask),
        }
    }

    /// Moves the generation and nothing else, and adds that to `update`, the last one.
    pub fn move_generation(&mut self, generation: Generation, update: &mut Update) {
        let mut change = Change::default();
        let recorded = match &mut update.0 {
            Kind::Parts(change) => &mut **change,
            Kind::Anew(_) => &mut change,
        };
        self.state.generation = Some(generation);
        let context = Context { cluster: &self.cluster, options: &self.options };
        self.state.set_frame(self.state.frame(context, generation), recorded);
    }
}

impl State {
    /// Brings up to date what does not depend on which endpoints there are. Returns the groups whose policies changed.
    fn refresh(
        &mut self,
        context: Context<'_>,
        generation: Generation,
        changes: &Changes,
        change: &mut Change,
    ) -> FxHashSet<Group> {
        if self.generation.replace(generation) != Some(generation) || changes.frame {
            self.set_frame(self.frame(context, generation), change);
        }
        if hosts::concern(changes) {
            self.assign_hosts(context, change);
        }
        self.follow(context.cluster, changes, change);
        self.govern(context.cluster, changes)
    }

    /// The frame for the endpoints that there are.
    fn frame(&self, Context { cluster, options }: Context<'_>, generation: Generation) -> Ruleset {
        frame(generation, Frame { cluster, options, limited: self.limited, shape: &self.hosts.shape })
    }

    /// Makes what of the table is the same for all endpoints what `wanted`, a frame, has.
    fn set_frame(&mut self, wanted: Ruleset, change: &mut Change) {
        let stays = |name: &str| {
            wanted.chains.contains_key(name) || wanted.sets.contains_key(name) || wanted.maps.contains_key(name)
        };
        for name in optional().filter(|name| !stays(name)) {
            change.gone(&mut self.table, name);
        }
        for (name, chain) in wanted.chains {
            if self.table.chains.get(&name) != Some(&chain) {
                // What a change has from before it stays.
                if let Some(old) = self.table.chains.insert(name.clone(), chain.clone()) {
                    change.before.chains.entry(name.clone()).or_insert(old);
                }
                change.after.chains.insert(name, chain);
            }
        }
        for (name, map) in wanted.maps {
            if !self.table.maps.contains_key(&name) {
                self.table.maps.insert(name.clone(), map);
                change.came(&self.table, &name);
            }
        }
        for (name, set) in wanted.sets.into_iter().filter(|(name, _)| !is_filled_by_endpoints(name)) {
            if !self.table.sets.contains_key(&name) {
                self.table.sets.insert(name.clone(), set);
                change.came(&self.table, &name);
                continue;
            }
            let old = self.table.sets.get(&name).map(|old| old.elements.clone()).unwrap_or_default();
            for key in old.difference(&set.elements) {
                change.set_element(&mut self.table, &name, key.clone(), false);
            }
            for key in set.elements.difference(&old) {
                change.set_element(&mut self.table, &name, key.clone(), true);
            }
        }
    }

    /// Looks again at the addresses about which something changed, in the sets that their old and new owners may be in.
    fn follow(&mut self, cluster: &Cluster, changes: &Changes, change: &mut Change) {
        for (id, again) in self.following.touched(cluster, changes) {
            let (Some(followed), name) = (self.following.get(id), self.parts.get(id)) else { continue };
            if let (Some(map), Again::At(addresses)) = (self.table.counter_maps.get(name), &again) {
                let at = |address: &IpAddr| {
                    let first = vec![Value::Addr(*address)];
                    map.elements.range(first.clone()..).take_while(move |(key, _)| key.first() == first.first())
                };
                let mut elements: BTreeMap<Key, Option<String>> =
                    addresses.iter().flat_map(at).map(|(key, _)| (key.clone(), None)).collect();
                for address in addresses {
                    let counters = followed.counters_at(cluster, *address);
                    elements.extend(counters.into_iter().map(|(key, counter)| (key, Some(counter))));
                }
                for (key, counter) in elements {
                    change.counter_element(&mut self.table, name, &key, counter);
                }
                continue;
            }
            let Some(set) = self.table.sets.get(name) else { continue };
            let (old, new): (Vec<Key>, BTreeSet<Key>) = match again {
                Again::All => (set.elements.iter().cloned().collect(), followed.elements(cluster)),
                Again::At(addresses) => {
                    let at = |address: &IpAddr| {
                        let first = vec![Value::Addr(*address)];
                        set.elements.range(first.clone()..).take_while(move |key| key.first() == first.first())
                    };
                    let old = addresses.iter().flat_map(at).cloned().collect();
                    let new = addresses.iter().flat_map(|address| followed.elements_at(cluster, *address));
                    (old, new.collect())
                }
            };
            let came: Vec<Key> = new.iter().filter(|key| !set.elements.contains(*key)).cloned().collect();
            for key in old.into_iter().filter(|key| !new.contains(key)) {
                change.set_element(&mut self.table, name, key, false);
            }
            for key in came {
                change.set_element(&mut self.table, name, key, true);
            }
        }
    }

    /// Brings the policies of the groups up to date. Returns the groups whose policies changed.
    fn govern(&mut self, cluster: &Cluster, changes: &Changes) -> FxHashSet<Group> {
        let mut dirty = FxHashSet::default();
        let subjects: Vec<(&PolicyKey, Option<Selection>)> = changes
            .policies
            .iter()
            .map(|key| (key, cluster.policy(key).map(|spec| spec.subject(key.namespace.as_deref()))))
            .collect();
        for (group, governed) in &self.governed {
            let account = (Arc::clone(&group.namespace), Arc::clone(&group.service_account));
            let relabelled =
                changes.namespaces.contains_key(&group.namespace) || changes.service_accounts.contains_key(&account);
            let in_tier = |tier: &str| governed.policies.iter().any(|(_, spec)| spec.tier() == tier);
            let seen = (!subjects.is_empty()).then(|| cluster.seen_group(group));
            let is_concerned = |(key, subject): &(&PolicyKey, Option<Selection>)| {
                governed.keys.contains(*key)
                    || subject.as_ref().zip(seen.as_ref()).is_some_and(|(subject, seen)| subject.selects(seen))
            };
            if relabelled || changes.tiers.iter().any(|tier| in_tier(tier)) || subjects.iter().any(is_concerned) {
                dirty.insert(group.clone());
            }
        }
        let keys = changes.pods.iter().flat_map(|pod| self.endpoints_of(pod)).flat_map(|(_, keys)| keys);
        dirty.extend(keys.filter_map(|key| key.1.clone()));
        self.governed.retain(|group, _| !dirty.contains(group));
        dirty
    }

    /// The endpoints of a pod, and their classes.
    fn endpoints_of(&self, (namespace, pod): &Name) -> impl Iterator<Item = (&Endpoint, &[ClassKey; 2])> {
        let first = Endpoint {
            namespace: (**namespace).to_owned(),
            pod: (**pod).to_owned(),
            interface: String::new(),
            ips: Vec::new(),
        };
        let (namespace, pod) = (Arc::clone(namespace), pod.clone());
        let from = self.endpoints.range(first..);
        from.take_while(move |(endpoint, _)| *endpoint.namespace == *namespace && *endpoint.pod == *pod)
    }

    /// Takes counters over of the table before for all policies that are still there.
    fn keep_counters(&mut self, Context { cluster, options }: Context<'_>, before: &Ruleset) {
        self.counters.retain(|policy, _| options.count_hits && cluster.policy(policy).is_some());
        for name in self.counters.values().flatten() {
            if let Some(comment) = before.counters.get(name) {
                self.table.counters.insert(name.clone(), comment.clone());
            }
        }
    }

    /// Takes counters over that were found in the kernel, of policies that are there.
    fn adopt_counters(&mut self, Context { cluster, options }: Context<'_>, found: BTreeMap<String, Option<String>>) {
        for (name, comment) in found.into_iter().filter(|_| options.count_hits) {
            if let Some(policy) = hits::policy_of(cluster, &name, comment.as_deref()) {
                self.table.counters.insert(name.clone(), comment);
                self.counters.entry(policy).or_default().insert(name);
            }
        }
    }

    /// Forgets what the rules of policies have counted that are not there any more.
    fn forget_counters(&mut self, cluster: &Cluster, changes: &Changes, change: &mut Change) {
        for policy in changes.policies.iter().filter(|policy| cluster.policy(policy).is_none()) {
            for name in self.counters.remove(policy).into_iter().flatten() {
                change.counter_gone(&mut self.table, &name);
            }
        }
    }

    /// Whether an endpoint is of one of these groups.
    fn is_dirty(&self, endpoint: &Endpoint, dirty: &FxHashSet<Group>) -> bool {
        let keys = self.endpoints.get(endpoint);
        !dirty.is_empty() && keys.is_some_and(|keys| keys.iter().any(|key| is_of(key, dirty)))
    }

    /// Gives the endpoints that are due their classes, takes those out that leave, and lets go of classes that have none any more, or
    /// that are of dirty groups.
    fn assign(
        &mut self,
        context: Context<'_>,
        due: &[Endpoint],
        leaving: &[Endpoint],
        dirty: &FxHashSet<Group>,
        change: &mut Change,
    ) {
        if due.is_empty() && leaving.is_empty() {
            return;
        }
        let mut stale: Vec<Class> =
            self.classes.extract_if(|key, _| is_of(key, dirty)).map(|(_, class)| class).collect();
        for endpoint in leaving {
            self.endpoints.remove(endpoint);
            self.forget(endpoint, change);
        }
        self.classify(context, due, change);
        let in_use: FxHashSet<&ClassKey> = self.endpoints.values().flatten().collect();
        stale.extend(self.classes.extract_if(|key, _| !in_use.contains(key)).map(|(_, class)| class));
        let groups: FxHashSet<&Group> = in_use.iter().filter_map(|key| key.1.as_ref()).collect();
        self.governed.retain(|group, _| groups.contains(group));
        for class in stale {
            self.release(&class.uses, change);
        }
    }

    /// Takes an endpoint out of the table.
    fn forget(&mut self, endpoint: &Endpoint, change: &mut Change) {
        let name = || Value::IfName(endpoint.interface.clone());
        for (_, map) in DIRECTIONS {
            change.map_element(&mut self.table, map, &vec![name()], None);
        }
        let old = self.own.remove(endpoint);
        self.replace_own(endpoint, old, change);
        self.set_addresses(endpoint, false, change);
    }

    /// Makes the elements of what is special about an endpoint those that it has now, and lets go of what it had.
    fn replace_own(&mut self, endpoint: &Endpoint, old: Option<Own>, change: &mut Change) {
        let interface = vec![Value::IfName(endpoint.interface.clone())];
        let new = self.own.get(endpoint).map_or(&[][..], |own| &own.elements);
        for (map, _) in old.iter().flat_map(|old| &old.elements) {
            if !new.iter().any(|(stays, _)| stays == map) {
                change.map_element(&mut self.table, map, &interface, None);
            }
        }
        for (map, verdict) in new {
            change.map_element(&mut self.table, map, &interface, Some(verdict.clone()));
        }
        if let Some(old) = old {
            self.release(&old.uses, change);
        }
    }

    /// Gives the frame what leads to limits, or takes it away, as the endpoints have them.
    fn lead_to_limits(&mut self, context: Context<'_>, change: &mut Change) {
        let is_limit = |(map, _): &(&str, Verdict)| matches!(*map, LIMIT_EGRESS | LIMIT_INGRESS);
        let limited = self.own.values().any(|own| own.elements.iter().any(is_limit));
        if std::mem::replace(&mut self.limited, limited) != limited
            && let Some(generation) = self.generation
        {
            self.set_frame(self.frame(context, generation), change);
        }
    }

    fn set_addresses(&mut self, endpoint: &Endpoint, present: bool, change: &mut Change) {
        let name = || Value::IfName(endpoint.interface.clone());
        change.set_element(&mut self.table, SELF, vec![name(), name()], present);
        for ip in &endpoint.ips {
            let set = if ip.is_ipv4() { OWN4 } else { OWN6 };
            change.set_element(&mut self.table, set, vec![name(), Value::Addr(*ip)], present);
        }
    }

    /// Gives these endpoints their classes, writing those that are not there.
    fn classify(&mut self, context: Context<'_>, endpoints: &[Endpoint], change: &mut Change) {
        let Context { cluster, options } = context;
        let (table, names) = (std::mem::take(&mut self.table), std::mem::take(&mut self.names));
        let mut builder = Builder::new(cluster, table, names, options);
        let mut came = Vec::new();
        let mut assigned = Vec::with_capacity(endpoints.len());
        for endpoint in endpoints {
            let keys = DIRECTIONS.map(|(direction, _)| self.class(&mut builder, endpoint, direction, &mut came));
            let elements = write_special(&mut builder, endpoint, options);
            let uses = self.hold_used(&mut builder, &mut came);
            let old = self.own.remove(endpoint);
            if !elements.is_empty() {
                self.own.insert(endpoint.clone(), Own { elements, uses });
            }
            assigned.push((endpoint, keys, old));
        }
        self.take_back(builder, came, change);
        self.lead_to_limits(context, change);
        for (endpoint, keys, old) in assigned {
            for ((_, map), key) in DIRECTIONS.iter().zip(&keys) {
                let verdict = self.classes.get(key).map(|class| Verdict::Goto(class.name.clone()));
                let interface = vec![Value::IfName(endpoint.interface.clone())];
                change.map_element(&mut self.table, map, &interface, verdict);
            }
            self.replace_own(endpoint, old, change);
            self.set_addresses(endpoint, true, change);
            self.endpoints.insert(endpoint.clone(), keys);
        }
    }

    /// Takes the table back from a builder, with all that it wrote; `came` is what had not been there.
    fn take_back(&mut self, builder: Builder<'_>, came: Vec<String>, change: &mut Change) {
        let Builder { ruleset, names, followed, counters, defaults, .. } = builder;
        self.names = names;
        self.table = ruleset;
        for (name, (policy, comment)) in counters {
            change.counter_came(&mut self.table, &name, comment);
            self.counters.entry(policy).or_default().insert(name);
        }
        for (name, comment) in defaults {
            change.counter_came(&mut self.table, &name, comment);
            self.defaults.insert(name);
        }
        for (name, followed) in followed {
            if let Some(id) = self.parts.id(&name) {
                self.following.insert(id, followed);
            }
        }
        for name in came {
            change.came(&self.table, &name);
        }
    }

    /// The class of an endpoint in one direction, written if it is not there yet. What that brings in addition to what is there goes
    /// into `came`.
    fn class(
        &mut self,
        builder: &mut Builder<'_>,
        endpoint: &Endpoint,
        direction: PolicyType,
        came: &mut Vec<String>,
    ) -> ClassKey {
        let cluster = builder.resolver.cluster;
        let pod = cluster.pod(&endpoint.namespace, &endpoint.pod);
        let Some(pod) = pod.filter(|pod| pod.is_endpoint()) else {
            let key = (direction, None, None);
            if !self.classes.contains_key(&key) {
                let name = builder.closed(&Site::of_pods(direction), UNKNOWN);
                self.hold(&key, name, builder, came);
            }
            return key;
        };
        let group = pod.group().clone();
        let governed = self.governed.entry(group.clone()).or_insert_with(|| Arc::new(Governed::of(cluster, &group)));
        let by_name = governed.asks_for_ports[usize::from(direction == DIRECTIONS[1].0)];
        let key = (direction, Some(group), by_name.then(|| Arc::clone(pod.ports())));
        if !self.classes.contains_key(&key) {
            let governed = Arc::clone(governed);
            let ports: &[PodPort] = if by_name { pod.ports() } else { &[] };
            let name = write_class(builder, direction, &governed.views(), ports);
            self.hold(&key, name, builder, came);
        }
        key
    }

    /// Keeps a class that was just written, and all that it uses.
    fn hold(&mut self, key: &ClassKey, name: String, builder: &mut Builder<'_>, came: &mut Vec<String>) {
        let uses = self.hold_used(builder, came);
        self.classes.insert(key.clone(), Class { name, uses });
    }

    /// Keeps all that was asked for of the builder since the last time.
    fn hold_used(&mut self, builder: &mut Builder<'_>, came: &mut Vec<String>) -> Box<[Id]> {
        let uses = std::mem::take(&mut builder.used).into_iter().map(|name| {
            let (id, new) = self.parts.hold_or_add(name.as_str());
            if new {
                came.push(name);
            }
            id
        });
        uses.collect()
    }

    /// Lets parts go that a class or an endpoint used, and of these all that nobody else does.
    fn release(&mut self, uses: &[Id], change: &mut Change) {
        for &part in uses {
            if let Some(name) = self.parts.release(part) {
                self.following.remove(part);
                self.names.forget(&name);
                if self.defaults.remove(&*name) {
                    change.counter_gone(&mut self.table, &name);
                } else {
                    change.gone(&mut self.table, &name);
                }
            }
        }
    }
}

/// Whether the elements of a set of the frame are the endpoints'.
fn is_filled_by_endpoints(set: &str) -> bool {
    matches!(set, OWN4 | OWN6 | SELF)
}

fn is_touched(endpoint: &Endpoint, pods: &BTreeSet<Name>) -> bool {
    pods.iter().any(|(namespace, name)| **namespace == *endpoint.namespace && **name == *endpoint.pod)
}

/// Whether a class is one of these groups'.
fn is_of(key: &ClassKey, groups: &FxHashSet<Group>) -> bool {
    key.1.as_ref().is_some_and(|group| groups.contains(group))
}
