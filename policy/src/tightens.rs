//! Whether a change of the table could take away a permission that a stamped flow relies on.
//!
//! A stamped flow passes unjudged, so when its permission may be gone the generation must move. Moving it needlessly costs every
//! flow one more judgement, so what only adds must not move it: new members of a set, new pods that nothing isolates, a class
//! replaced by one that allows the same and more. The question is answered on the two tables alone, so that it can be asked of what
//! was read from the kernel. Where the answer is not plain, it is yes.
//!
//! A new pod that is isolated does move it. Its interface is new, but its address may not be: flows with the pod that had the address
//! before, on another node perhaps, were stamped here without a look at policies that are this pod's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use rustc_hash::FxHashMap;
use tortie_nft::{Chain, Key, Match, Op, Rule, Ruleset, Set, Statement, Value, Verdict, VerdictMap, intervals};

use crate::frame::{
    EGRESS_CLASS, INGRESS_CLASS, OK_EGRESS, OK_INGRESS, OWN4, OWN6, REJECT, SELF, STAMP_LIVE, STAMP_PENDING,
    is_beside_stamps, optional,
};
use crate::generation::{LIVE_SET, PENDING_SET};
use crate::host_frame;

/// Whether going from `current` to `want` could deny a packet of a flow that is allowed, and stamped, now: whether `want` must be
/// compiled in the [next generation](crate::Generation::next).
pub fn tightens(current: &Ruleset, want: &Ruleset) -> bool {
    if !current.sets.contains_key(LIVE_SET) {
        // No stamps of ours are out there, or none that the new table will know.
        return false;
    }
    frame_differs(current, want)
        || host_frame::tightens(current, want)
        || address_is_isolated(current, want, want)
        || Comparison::new(current, current, want).tightens()
}

/// The same of a change that our own compiler made to a table, from its parts before and after, and the table after it. A member
/// that a set loses counts whether or not another set has it too.
pub(crate) fn change_tightens(before: &Ruleset, after: &Ruleset, now: &Ruleset) -> bool {
    let of_frame =
        |name: &str| matches!(name, OWN4 | OWN6 | SELF | LIVE_SET | PENDING_SET) || optional().any(|it| it == name);
    let loses = before
        .sets
        .iter()
        .any(|(name, set)| now.sets.contains_key(name) && !of_frame(name) && !set.elements.is_empty());
    // Sets and chains that stay have only gained, so that asking those of `now` for what they were before is on the safe side.
    loses
        || host_frame::tightens(before, after)
        || address_is_isolated(before, after, now)
        || Comparison::new(now, before, now).classes_tighten(before)
}

/// Whether something changed besides classes, and what they look up.
fn frame_differs(current: &Ruleset, want: &Ruleset) -> bool {
    let frame = |ruleset: &Ruleset| -> BTreeMap<String, Chain> {
        let of_frame = |name: &str, chain: &Chain| {
            (chain.hook.is_some() && !is_beside_stamps(name))
                || matches!(name, "egress_reply" | "ingress_reply" | OK_EGRESS | OK_INGRESS)
        };
        let chains = ruleset.chains.iter().filter(|(name, chain)| of_frame(name, chain));
        chains.map(|(name, chain)| (name.clone(), chain.clone())).collect()
    };
    frame(current) != frame(want) || [STAMP_PENDING, STAMP_LIVE].iter().any(|name| !current.chains.contains_key(*name))
}

/// Whether an endpoint that is isolated has an address that it did not have. `before` and `after` may be parts of tables.
fn address_is_isolated(before: &Ruleset, after: &Ruleset, now: &Ruleset) -> bool {
    let none = BTreeSet::new();
    [OWN4, OWN6].into_iter().any(|set| {
        let elements = |ruleset: &'_ Ruleset| ruleset.sets.get(set).map(|set| set.elements.clone());
        let old = elements(before).unwrap_or_default();
        after.sets.get(set).map_or(&none, |set| &set.elements).difference(&old).any(|key| {
            let Some(interface) = key.first() else { return true };
            ![EGRESS_CLASS, INGRESS_CLASS].into_iter().all(|map| is_open(now, map, interface))
        })
    })
}

/// Whether nothing isolates the endpoint in the direction of this map.
fn is_open(ruleset: &Ruleset, map: &str, interface: &Value) -> bool {
    let Some(Verdict::Goto(class)) =
        ruleset.maps.get(map).and_then(|map| map.elements.get(std::slice::from_ref(interface)))
    else {
        return false;
    };
    let first = ruleset.chains.get(class).and_then(|chain| chain.rules.first());
    first.is_some_and(|rule| {
        rule.matches.is_empty()
            && matches!(rule.statements.as_slice(), [Statement::Verdict(Verdict::Goto(chain))] if is_allowed(chain))
    })
}

fn subset(old: &Set, new: &Set) -> bool {
    if old.key != new.key || old.interval != new.interval {
        return false;
    }
    if old.elements.is_subset(&new.elements) {
        return true;
    }
    old.interval && covered(&old.elements, &new.elements)
}

/// Whether each range of addresses lies within one of the others, which do not touch.
fn covered(old: &BTreeSet<Key>, new: &BTreeSet<Key>) -> bool {
    let bounds = |key: &Key| match key.as_slice() {
        [value] => intervals::bounds(value),
        _ => None,
    };
    let new: Option<BTreeMap<IpAddr, IpAddr>> = new.iter().map(bounds).collect();
    let Some(new) = new else { return false };
    old.iter().all(|key| {
        bounds(key).is_some_and(|(first, last)| {
            new.range(..=first).next_back().is_some_and(|(low, high)| *low <= first && last <= *high)
        })
    })
}

/// Two tables, and what was found out about their parts. The current one is `current`, and `gone` for what is not in there.
struct Comparison<'a> {
    current: &'a Ruleset,
    gone: &'a Ruleset,
    want: &'a Ruleset,
    chains: FxHashMap<(&'a str, &'a str), bool>,
    sets: FxHashMap<(&'a str, &'a str), bool>,
}

impl<'a> Comparison<'a> {
    fn new(current: &'a Ruleset, gone: &'a Ruleset, want: &'a Ruleset) -> Self {
        Self { current, gone, want, chains: FxHashMap::default(), sets: FxHashMap::default() }
    }

    fn tightens(&mut self) -> bool {
        let has_classes =
            |ruleset: &Ruleset| ruleset.maps.contains_key(EGRESS_CLASS) && ruleset.maps.contains_key(INGRESS_CLASS);
        !has_classes(self.current) || !has_classes(self.want) || self.classes_tighten(self.current)
    }

    /// Whether an interface is led to less than `old`, the table or a part of it, leads it to.
    fn classes_tighten(&mut self, old: &'a Ruleset) -> bool {
        for map in [EGRESS_CLASS, INGRESS_CLASS] {
            let (Some(old), Some(new)) = (old.maps.get(map), self.want.maps.get(map)) else { continue };
            for (interface, verdict) in &old.elements {
                // An interface that went took its addresses along, and that was asked before.
                if let Some(wanted) = new.elements.get(interface)
                    && !self.verdict_allows(verdict, wanted)
                {
                    return true;
                }
            }
        }
        false
    }

    /// Whether all that `old` leads to be allowed, `new` does too.
    fn verdict_allows(&mut self, old: &'a Verdict, new: &'a Verdict) -> bool {
        match (old, new) {
            (old, _) if is_denied(old) => true,
            (_, Verdict::Goto(chain)) if is_allowed(chain) => true,
            (Verdict::Goto(old) | Verdict::Jump(old), Verdict::Goto(new) | Verdict::Jump(new)) => {
                self.chain_allows(old, new)
            }
            _ => old == new,
        }
    }

    fn chain_allows(&mut self, old: &'a str, new: &'a str) -> bool {
        if is_allowed(old) || is_allowed(new) {
            return is_allowed(new);
        }
        if let Some(&known) = self.chains.get(&(old, new)) {
            return known;
        }
        let current = self.current.chains.get(old).or_else(|| self.gone.chains.get(old));
        let allows = match (current, self.want.chains.get(new)) {
            (Some(old), Some(new)) => old.rules.iter().all(|rule| self.rule_is_matched(rule, &new.rules)),
            _ => false,
        };
        self.chains.insert((old, new), allows);
        allows
    }

    /// Whether all that `old` allows, one of the rules does too.
    fn rule_is_matched(&mut self, old: &'a Rule, rules: &'a [Rule]) -> bool {
        if let Some(Statement::Verdict(verdict)) = old.statements.last()
            && is_denied(verdict)
        {
            return true;
        }
        rules.iter().any(|new| {
            (new.matches.is_empty() || self.matches_cover(&old.matches, &new.matches)) && self.effect_covers(old, new)
        })
    }

    fn matches_cover(&mut self, old: &'a [Match], new: &'a [Match]) -> bool {
        old.len() == new.len() && old.iter().zip(new).all(|(old, new)| self.match_covers(old, new))
    }

    fn match_covers(&mut self, old: &'a Match, new: &'a Match) -> bool {
        match (old, new) {
            (
                Match::InSet { key: old_key, op: Op::Eq, set: old },
                Match::InSet { key: new_key, op: Op::Eq, set: new },
            ) => old_key == new_key && self.set_covers(old, new),
            _ => old == new,
        }
    }

    fn set_covers(&mut self, old: &'a str, new: &'a str) -> bool {
        if let Some(&known) = self.sets.get(&(old, new)) {
            return known;
        }
        let current = self.current.sets.get(old).or_else(|| self.gone.sets.get(old));
        let covers = match (current, self.want.sets.get(new)) {
            (Some(old), Some(new)) => subset(old, new),
            _ => false,
        };
        self.sets.insert((old, new), covers);
        covers
    }

    fn effect_covers(&mut self, old: &'a Rule, new: &'a Rule) -> bool {
        match (old.statements.as_slice(), new.statements.as_slice()) {
            (_, [Statement::Verdict(Verdict::Goto(chain))]) if is_allowed(chain) => true,
            ([Statement::Verdict(old)], [Statement::Verdict(new)]) => self.verdict_allows(old, new),
            ([Statement::Vmap { key: old_key, map: old }], [Statement::Vmap { key: new_key, map: new }]) => {
                let current = self.current.maps.get(old).or_else(|| self.gone.maps.get(old));
                let (Some(old), Some(new)) = (current, self.want.maps.get(new)) else { return false };
                old_key == new_key && self.ports_cover(old, new)
            }
            _ => false,
        }
    }

    /// Whether each port of `old` is in `new`, and leads to as much there.
    fn ports_cover(&mut self, old: &'a VerdictMap, new: &'a VerdictMap) -> bool {
        let (Some(old), Some(new)) = (port_ranges(old), port_ranges(new)) else { return false };
        old.iter().all(|&(first, last, verdict)| {
            let mut next = u32::from(first);
            for &(low, high, wanted) in &new {
                if high < first || u32::from(low) > next || next > last.into() {
                    continue;
                }
                if !self.verdict_allows(verdict, wanted) {
                    return false;
                }
                next = next.max(u32::from(high) + 1);
            }
            next > last.into()
        })
    }
}

/// The map's ranges of ports in order; `None` if its keys are something else.
fn port_ranges(map: &VerdictMap) -> Option<Vec<(u16, u16, &Verdict)>> {
    let mut ranges: Vec<_> = map
        .elements
        .iter()
        .map(|(key, verdict)| match key.as_slice() {
            [Value::Port(port)] => Some((*port, *port, verdict)),
            [Value::PortRange(first, last)] => Some((*first, *last, verdict)),
            _ => None,
        })
        .collect::<Option<_>>()?;
    ranges.sort_unstable_by_key(|(first, ..)| *first);
    Some(ranges)
}

fn is_allowed(chain: &str) -> bool {
    matches!(chain, OK_EGRESS | OK_INGRESS) || host_frame::is_allowed(chain)
}

fn is_denied(verdict: &Verdict) -> bool {
    match verdict {
        Verdict::Drop => true,
        Verdict::Goto(chain) => chain == REJECT,
        _ => false,
    }
}
