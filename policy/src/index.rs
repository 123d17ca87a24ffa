//! Which of many selections might select something, without a look at each.
//!
//! A selection that asks for a label, with some value or with any, can select only what has it, so it is filed under that label; the
//! same goes for the namespace. Whatever comes is then looked for under all that it has. What is found there may yet select something
//! else, as a selection may ask for more than it is filed under; what is not found there surely does not select it.

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};

use rustc_hash::{FxHashMap, FxHasher};
use tortie_api::selector::{Requirement, Selector};

use crate::selection::{
    NAME, NAMESPACE, NAMESPACE_PREFIX, ORCHESTRATOR, SERVICE_ACCOUNT, SERVICE_ACCOUNT_PREFIX, Scope, Seen, Selection,
};

/// More alternatives than this for one label are filed under the label alone.
const VALUES: usize = 8;

/// So many entries in a place are many; beyond, it makes no difference how many there are.
const MANY: usize = 64;

/// A place where selections are filed: what they ask of a namespace, and of what is in it. Places are digests: where two share one,
/// more selections are looked at than need be.
type Place = (u64, u64);

/// Items by what their selections ask for.
#[derive(Debug)]
pub(crate) struct SelectionIndex<T> {
    places: BTreeSet<(u64, T)>,
    /// How many entries ask this of a namespace.
    scopes: FxHashMap<u64, u32>,
}

impl<T> Default for SelectionIndex<T> {
    fn default() -> Self {
        Self { places: BTreeSet::new(), scopes: FxHashMap::default() }
    }
}

impl<T: Copy + Ord + Bounds> SelectionIndex<T> {
    /// Files an item under what the selection asks for.
    pub(crate) fn insert(&mut self, selection: &Selection, item: T) {
        // Of all that it asks for, where the fewest are filed so far: what all ask for tells nothing.
        let filed = |places: &Vec<Place>| -> usize { places.iter().map(|place| self.filed(one(*place))).sum() };
        let places = choices(selection).into_iter().min_by_key(filed);
        for place in places.unwrap_or_default() {
            self.insert_at(place, item);
        }
    }

    /// Files an item where everything finds it.
    pub(crate) fn insert_for_all(&mut self, item: T) {
        self.insert_at((ANYTHING, ANYTHING), item);
    }

    fn insert_at(&mut self, place: Place, item: T) {
        if self.places.insert((one(place), item)) {
            *self.scopes.entry(place.0).or_default() += 1;
        }
    }

    fn filed(&self, place: u64) -> usize {
        self.places.range((place, T::MIN)..=(place, T::MAX)).take(MANY).count()
    }

    /// Forgets an item that was filed for this selection.
    pub(crate) fn remove(&mut self, selection: &Selection, item: T) {
        for place in choices(selection).into_iter().flatten() {
            self.remove_at(place, item);
        }
    }

    /// Forgets an item that was filed where everything finds it.
    pub(crate) fn remove_for_all(&mut self, item: T) {
        self.remove_at((ANYTHING, ANYTHING), item);
    }

    fn remove_at(&mut self, place: Place, item: T) {
        if self.places.remove(&(one(place), item))
            && let Some(count) = self.scopes.get_mut(&place.0)
        {
            *count -= 1;
            if *count == 0 {
                self.scopes.remove(&place.0);
            }
        }
    }

    /// Adds every item to `found` whose selection may select what is seen like this; one may be there twice.
    pub(crate) fn candidates(&self, seen: &Seen, found: &mut Vec<T>) {
        let mut scopes = vec![ANYTHING];
        match &seen.namespace {
            Some(name) => {
                scopes.push(named(name));
                scopes.extend(asked(seen.namespace_labels.iter().chain([(NAME, &**name)])));
            }
            None => scopes.push(NOWHERE),
        }
        scopes.retain(|scope| self.scopes.contains_key(scope));
        if scopes.is_empty() {
            return;
        }
        let virtual_labels = [NAMESPACE, ORCHESTRATOR, SERVICE_ACCOUNT].map(|key| Some((key, seen.label(key)?)));
        let mut wants = vec![ANYTHING];
        wants.extend(asked(seen.labels.iter().chain(virtual_labels.into_iter().flatten())));
        if let Some((name, labels)) = &seen.service_account {
            wants.extend(labels.iter().chain([(NAME, &**name)]).flat_map(|(key, value)| {
                [digest((SERVICE_ACCOUNT_PREFIX, key, value)), digest((SERVICE_ACCOUNT_PREFIX, key))]
            }));
        }
        for scope in scopes {
            for want in &wants {
                let place = one((scope, *want));
                found.extend(self.places.range((place, T::MIN)..=(place, T::MAX)).map(|(_, item)| *item));
            }
        }
    }

    /// Whether nothing is filed.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.places.is_empty() && self.scopes.is_empty()
    }
}

/// The least and the greatest of a type, between which all others are.
pub(crate) trait Bounds {
    /// The least.
    const MIN: Self;
    /// The greatest.
    const MAX: Self;
}

impl Bounds for u32 {
    const MIN: Self = Self::MIN;
    const MAX: Self = Self::MAX;
}

/// What everything has.
const ANYTHING: u64 = 0;

/// What is in no namespace.
const NOWHERE: u64 = 1;

/// Both halves of a place in one.
fn one(place: Place) -> u64 {
    digest(place)
}

fn digest(what: impl Hash) -> u64 {
    let mut hasher = FxHasher::default();
    what.hash(&mut hasher);
    hasher.finish()
}

fn named(namespace: &str) -> u64 {
    digest((1_u8, namespace))
}

fn labelled(key: &str, value: &str) -> u64 {
    digest((2_u8, key, value))
}

fn has(key: &str) -> u64 {
    digest((3_u8, key))
}

/// All that could be asked for, of what has these labels.
fn asked<'a>(labels: impl Iterator<Item = (&'a str, &'a str)>) -> impl Iterator<Item = u64> {
    labels.flat_map(|(key, value)| [labelled(key, value), has(key)])
}

/// The ways to file a selection: each a list of all places that it must then be filed in.
fn choices(selection: &Selection) -> Vec<Vec<Place>> {
    let mut wants = Vec::new();
    let mut scopes = match &selection.scope {
        Scope::Everywhere => Vec::new(),
        Scope::Namespace(name) => vec![vec![named(name)]],
        Scope::Namespaces(selector) => alternatives(selector),
        Scope::Global => vec![vec![NOWHERE]],
    };
    for list in selection.labels.requirements() {
        let is_inherited = |requirement: &Requirement| {
            requirement.key().starts_with(NAMESPACE_PREFIX) || requirement.key().starts_with(SERVICE_ACCOUNT_PREFIX)
        };
        if selection.pods_only || !list.iter().any(is_inherited) {
            wants.push(digests(&list, &|key, value| match value {
                Some(value) => labelled(key, value),
                None => has(key),
            }));
        }
    }
    if let Some(accounts) = &selection.service_accounts {
        let of_account = |key: &str, value: Option<&str>| match value {
            Some(value) => digest((SERVICE_ACCOUNT_PREFIX, key, value)),
            None => digest((SERVICE_ACCOUNT_PREFIX, key)),
        };
        if !accounts.names.is_empty() {
            let names = accounts.names.iter().cloned().collect();
            wants.push(digests(&[Requirement::OneOf(NAME.to_owned(), names)], &of_account));
        }
        let lists = accounts.selector.iter().flat_map(Selector::requirements);
        wants.extend(lists.map(|list| digests(&list, &of_account)));
    }
    for asked in [&mut scopes, &mut wants] {
        if asked.is_empty() {
            asked.push(vec![ANYTHING]);
        }
    }
    let pair = |(scopes, wants): (&Vec<u64>, &Vec<u64>)| {
        scopes.iter().flat_map(|scope| wants.iter().map(move |want| (*scope, *want))).collect()
    };
    scopes.iter().flat_map(|scopes| wants.iter().map(move |wants| (scopes, wants))).map(pair).collect()
}

/// What a selector of namespaces asks for: one at least of each list.
fn alternatives(selector: &Selector) -> Vec<Vec<u64>> {
    let digests = |list: &Vec<Requirement>| {
        digests(list, &|key, value| match value {
            Some(value) => labelled(key, value),
            None => has(key),
        })
    };
    selector.requirements().iter().map(digests).collect()
}

fn digests(list: &[Requirement], digest: &impl Fn(&str, Option<&str>) -> u64) -> Vec<u64> {
    let digests = list.iter().flat_map(|requirement| match requirement {
        Requirement::OneOf(key, values) if values.len() <= VALUES => {
            values.iter().map(|value| digest(key, Some(value))).collect()
        }
        Requirement::OneOf(key, _) | Requirement::Has(key) => vec![digest(key, None)],
    });
    digests.collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::labels::Labels;
    use crate::selection::Species;

    fn labels(labels: &[(&str, &str)]) -> Labels {
        Labels::from(&labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    fn seen(namespace: &str, namespace_labels: &[(&str, &str)], own: &[(&str, &str)]) -> Seen {
        Seen {
            species: Species::Pod,
            namespace: Some(namespace.into()),
            labels: labels(own),
            namespace_labels: labels(namespace_labels),
            service_account: Some(("runner".into(), labels(&[("team", "a")]))),
        }
    }

    fn select(scope: Scope, labels: &str) -> Selection {
        let labels = labels.parse().expect("a selector");
        Selection { scope, labels, service_accounts: None, pods_only: false }
    }

    #[test]
    fn an_endpoint_finds_the_selections_that_may_have_it_and_few_others() {
        let mut index = SelectionIndex::default();
        let mut filed: Vec<Selection> = Vec::new();
        let mut file = |selection: Selection| {
            let number = filed.len() as u32;
            index.insert(&selection, number);
            filed.push(selection);
            number
        };
        // All ask for one thing alike; that must not put them into one place.
        let many: Vec<u32> =
            (0..100).map(|n| file(select(Scope::Everywhere, &format!("all == 'same' && app == 'a{n}'")))).collect();
        let everyone = file(select(Scope::Everywhere, "all()"));
        let not = file(select(Scope::Everywhere, "app != 'a7'"));
        let exists = file(select(Scope::Everywhere, "has(app)"));
        let prod = || "env in {'prod', 'test'}".parse().expect("a selector");
        let scoped = file(select(Scope::Namespaces(prod()), "all()"));
        let own = file(select(Scope::Namespace("x".into()), "all()"));
        let global = file(select(Scope::Global, "all()"));
        let nothing = file(select(Scope::Everywhere, "app in {}"));
        let values: Vec<String> = (0..20).map(|n| format!("'a{n}'")).collect();
        let long = file(select(Scope::Everywhere, &format!("app in {{{}}}", values.join(", "))));
        let virtual_label = file(select(Scope::Everywhere, "projectcalico.org/namespace == 'x'"));
        let inherited = file(select(Scope::Everywhere, "pcns.env == 'prod'"));
        let mut account = select(Scope::Everywhere, "all()");
        account.service_accounts =
            Some(crate::selection::ServiceAccounts { names: ["runner".to_owned()].into(), selector: None });
        let account = file(account);

        let find = |seen: &Seen| {
            let mut found = Vec::new();
            index.candidates(seen, &mut found);
            found.sort_unstable();
            found.dedup();
            for (number, selection) in (0..).zip(&filed) {
                assert!(!selection.selects(seen) || found.contains(&number), "{selection:?} selects {seen:?}");
            }
            found
        };
        let sorted = |mut ids: Vec<u32>| {
            ids.sort_unstable();
            ids
        };
        let all = [("all", "same"), ("app", "a7")];
        let found = find(&seen("x", &[("env", "prod")], &all));
        let surely = [many[7], everyone, not, exists, scoped, own, long, virtual_label, inherited, account];
        assert!(surely.iter().all(|id| found.contains(id)), "{found:?}");
        assert!(found.len() <= surely.len() + 1, "one of the many was filed where all are: {found:?}");
        assert!(!found.contains(&global) && !found.contains(&nothing));
        let by = |seen: &Seen| find(seen);
        assert_eq!(by(&seen("y", &[], &[("app", "b")])), sorted(vec![everyone, not, exists, long, inherited, account]));
        let outside = Seen { namespace: None, service_account: None, ..seen("y", &[], &[]) };
        assert_eq!(by(&outside), sorted(vec![everyone, not, global, inherited]));
        let none = Arc::<str>::from("none");
        let other = Seen { service_account: Some((none, Labels::default())), ..seen("y", &[("env", "dev")], &[]) };
        assert_eq!(by(&other), sorted(vec![everyone, not, inherited]));

        for (number, selection) in (0..).zip(&filed) {
            index.remove(selection, number);
        }
        assert!(index.is_empty());
    }
}
