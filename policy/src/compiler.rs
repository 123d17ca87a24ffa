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
use tortie_api::k8s::{NetworkPolicySpec, PolicyType};
use tortie_nft::{Key, Ruleset, Transaction, Value, Verdict};

use crate::chains::Builder;
use crate::change::Change;
use crate::class::Policy;
use crate::cluster::{Cluster, Group, PodPort, PolicyKey, PolicyView};
use crate::compile::{Endpoint, UNKNOWN, asks_for_ports, isolating, write_class};
use crate::followed::{Again, Following};
use crate::frame::{
    EGRESS_CLASS, Frame, INGRESS_CLASS, LIMIT_EGRESS, LIMIT_INGRESS, OWN4, OWN6, SELF, frame, optional,
};
use crate::generation::Generation;
use crate::host_frame::Shape;
use crate::governors::{governing, kubernetes};
use crate::intern::{Id, Interner};
use crate::marks::MarkMask;
use crate::names::Names;
use crate::options::CompileOptions;
use crate::special::write_special;
use crate::tightens::{change_tightens, tightens};
use crate::touched::{Changes, Name};

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

/// A cluster, and the table of a node in it.
#[derive(Debug)]
pub struct Compiler {
    cluster: Cluster,
    options: CompileOptions,
    state: State,
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
    governed: FxHashMap<Group, BTreeMap<PolicyKey, Arc<NetworkPolicySpec>>>,
    classes: FxHashMap<ClassKey, Class>,
    /// The endpoints, each with its class in both directions.
    endpoints: BTreeMap<Endpoint, [ClassKey; 2]>,
    /// The few endpoints that have something special.
    own: BTreeMap<Endpoint, Own>,
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
    Parts(Change),
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
        Self { cluster: Cluster::default(), options, state: State::default() }
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
        self.state.governed.values().flat_map(BTreeMap::keys).collect::<FxHashSet<_>>().len()
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
            return Update(Kind::Parts(change));
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
            return Update(Kind::Parts(change));
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
        let before = std::mem::take(&mut self.state).table;
        let context = Context { cluster: &self.cluster, options: &self.options };
        self.state.table = self.state.frame(context, generation);
        self.state.generation = Some(generation);
        self.state.ambiguous = ambiguous;
        self.state.assign(context, endpoints, &[], &FxHashSet::default(), &mut Change::default());
        Update(Kind::Anew(Box::new(before)))
    }

    /// Whether flows keep what they were allowed, whatever policies say now (`policyExistingConnections: Keep`).
    pub const fn keeps_connections(&self) -> bool {
        self.options.host.keep_connections
    }

    /// Whether the generation must move with `update`, the last one, so that flows are judged again.
    pub fn must_move(&self, update: &Update) -> bool {
        let now = &self.state.table;
        if self.keeps_connections() { update.forgets_stamps(now) } else { update.tightens(now) }
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
            Kind::Parts(change) => change,
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
        self.follow(context.cluster, changes, change);
        self.govern(context.cluster, changes)
    }

    /// The frame for the endpoints that there are.
    fn frame(&self, Context { cluster, options }: Context<'_>, generation: Generation) -> Ruleset {
        frame(generation, Frame { cluster, options, limited: self.limited, shape: &Shape::default() })
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
        for key in &changes.policies {
            let policy = cluster.policy(key).map(|spec| PolicyView { key, spec });
            for (group, governed) in &mut self.governed {
                let old = governed.remove(key);
                let new = policy.filter(|policy| policy.selects(&cluster.seen_group(group)));
                if let Some(new) = new.and_then(|policy| kubernetes(policy.key, policy.spec)) {
                    governed.insert(key.clone(), Arc::clone(new.spec));
                    dirty.insert(group.clone());
                } else if old.is_some() {
                    dirty.insert(group.clone());
                }
            }
        }
        let keys = changes.pods.iter().flat_map(|pod| self.endpoints_of(pod)).flat_map(|(_, keys)| keys);
        let mut groups: Vec<Group> = keys.filter_map(|key| key.1.clone()).collect();
        let relabelled = |group: &&Group| {
            let account = (Arc::clone(&group.namespace), Arc::clone(&group.service_account));
            changes.namespaces.contains_key(&group.namespace) || changes.service_accounts.contains_key(&account)
        };
        groups.extend(self.governed.keys().filter(relabelled).cloned());
        for group in groups {
            self.governed.remove(&group);
            dirty.insert(group);
        }
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
        let mut builder = Builder::new(cluster, table, names, options.deny_action);
        let mut came = Vec::new();
        let mut assigned = Vec::with_capacity(endpoints.len());
        for endpoint in endpoints {
            let keys = DIRECTIONS
                .map(|(direction, _)| self.class(&mut builder, endpoint, direction, &mut came));
            let elements = write_special(&mut builder, endpoint, options);
            let uses = self.hold_used(&mut builder, &mut came);
            let old = self.own.remove(endpoint);
            if !elements.is_empty() {
                self.own.insert(endpoint.clone(), Own { elements, uses });
            }
            assigned.push((endpoint, keys, old));
        }
        let Builder { ruleset, names, followed, .. } = builder;
        self.names = names;
        self.table = ruleset;
        for (name, followed) in followed {
            if let Some(id) = self.parts.id(&name) {
                self.following.insert(id, followed);
            }
        }
        for name in came {
            change.came(&self.table, &name);
        }
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

    /// The class of an endpoint in one direction, written if it is not there yet. What that brings in addition to what is there goes
    /// into `came`.
    fn class<'a>(
        &mut self,
        builder: &mut Builder<'a>,
        endpoint: &Endpoint,
        direction: PolicyType,
        came: &mut Vec<String>,
    ) -> ClassKey {
        let cluster = builder.resolver.cluster;
        let pod = cluster.pod(&endpoint.namespace, &endpoint.pod);
        let Some(pod) = pod.filter(|pod| pod.is_endpoint()) else {
            let key = (direction, None, None);
            if !self.classes.contains_key(&key) {
                let name = builder.closed(direction, UNKNOWN);
                self.hold(&key, name, builder, came);
            }
            return key;
        };
        let group = pod.group().clone();
        let governed = self.governed.entry(group.clone()).or_insert_with(|| {
            let key = |policy: &Policy<'_>| PolicyKey {
                namespace: Some(Arc::clone(&group.namespace)),
                name: policy.name.into(),
                kind: tortie_api::Kind::NetworkPolicy,
            };
            governing(cluster, &group).iter().map(|policy| (key(policy), Arc::clone(policy.spec))).collect()
        });
        let policies: Vec<Policy<'_>> = governed
            .iter()
            .map(|(key, spec)| Policy { namespace: &group.namespace, name: &key.name, spec })
            .collect();
        let isolating = isolating(&policies, direction);
        let by_name = asks_for_ports(&isolating, direction);
        let key = (direction, Some(group.clone()), by_name.then(|| Arc::clone(pod.ports())));
        if !self.classes.contains_key(&key) {
            let ports: &[PodPort] = if by_name { pod.ports() } else { &[] };
            let name = write_class(builder, direction, &isolating, ports);
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
                change.gone(&mut self.table, &name);
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
