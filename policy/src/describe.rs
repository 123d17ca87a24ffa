//! Selections and policies in words, for comments.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::chains::Whose;
use crate::cluster::PolicyView;
use crate::selection::{Scope, Selection};

/// How many names or selections a comment has room for.
const SHOWN: usize = 2;

/// So many policies are looked at for what they select.
const LOOKED_AT: usize = 8;

/// The selections, one after the other.
pub(crate) fn describe(selections: &BTreeSet<Selection>) -> String {
    let described: Vec<String> = selections.iter().take(LOOKED_AT).map(describe_one).collect();
    described.join("; ")
}

fn describe_one(selection: &Selection) -> String {
    let mut text = match &selection.scope {
        Scope::Namespace(name) => name.clone(),
        Scope::Namespaces(selector) if selector.is_all() => "all namespaces".to_owned(),
        Scope::Namespaces(selector) => format!("namespaces with {selector}"),
        Scope::Everywhere => "everywhere".to_owned(),
        Scope::Global => "in no namespace".to_owned(),
    };
    text.push_str(": ");
    text.push_str(&who(selection));
    text
}

/// Who of its scope is selected.
fn who(selection: &Selection) -> String {
    let mut text = match (selection.pods_only, selection.labels.is_all()) {
        (true, true) => "all pods".to_owned(),
        (false, true) => "all".to_owned(),
        (_, false) => selection.labels.to_string(),
    };
    if let Some(accounts) = &selection.service_accounts {
        let selector = accounts.selector.as_ref().map(ToString::to_string);
        let which: Vec<String> = accounts.names.iter().cloned().chain(selector).collect();
        // Writing to a String cannot fail.
        let _ = write!(text, " as service accounts {}", which.join(", "));
    }
    text
}

/// Whose class it is that these policies govern.
pub(crate) fn whose(policies: &[PolicyView<'_>]) -> Whose {
    let names: Vec<String> = policies.iter().map(|policy| policy.key.to_string()).take(SHOWN).collect();
    let selections: BTreeSet<Selection> =
        policies.iter().take(LOOKED_AT).map(|policy| policy.spec.subject(policy.namespace())).collect();
    Whose { policies: shortened(&names, policies.len()), endpoints: governed(&selections) }
}

/// The first names, and how many more there are.
pub(crate) fn shortened(names: &[String], count: usize) -> String {
    let shown = names[..names.len().min(SHOWN)].join(", ");
    match count.saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// Endpoints that are in all of these selections.
fn governed(selections: &BTreeSet<Selection>) -> String {
    let mut namespaces = selections.iter().filter_map(|selection| match &selection.scope {
        Scope::Namespace(name) => Some(name.clone()),
        _ => None,
    });
    let place = namespaces.next_back().map_or_else(|| "endpoints".to_owned(), |name| format!("pods of {name}"));
    let wanted: BTreeSet<String> = selections
        .iter()
        .filter(|selection| !selection.labels.is_all() || selection.service_accounts.is_some())
        .map(who)
        .collect();
    let wanted: Vec<String> = wanted.into_iter().collect();
    match wanted.len() {
        0 => format!("all {place}"),
        1..=SHOWN => format!("{place} with {}", wanted.join(" and ")),
        more => format!("{place} with {} and {} more", wanted[..SHOWN].join(" and "), more - SHOWN),
    }
}
