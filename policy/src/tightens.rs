//! Whether a change of the table could take away a permission that a stamped flow relies on.
//!
//! A stamped flow passes unjudged, so when its permission may be gone the generation must move. Moving it needlessly costs every
//! flow one more judgement, so what only adds must not move it: new members of a set, new pods that nothing isolates, a class
//! replaced by one that allows the same and more. The question is answered on the two tables alone, so that it can be asked of what
//! was read from the kernel. Where the answer is not plain, it is yes.
//!
//! Chains that only allow, and deny what is left at their end, are compared rule by rule: that is all of Kubernetes. Where rules deny or
//! pass before others allow, what follows what matters, and such chains are as before only if nothing in them has changed but what can
//! only allow more. What staged policies count changes nothing.
//!
//! A new pod that is isolated does move it. Its interface is new, but its address may not be: flows with the pod that had the address
//! before, on another node perhaps, were stamped here without a look at policies that are this pod's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use rustc_hash::FxHashMap;
use tortie_nft::{
    Chain, CounterMap, Field, Key, KeyType, Match, Op, Rule, Ruleset, Set, Statement, Value, Verdict, VerdictMap,
    intervals,
};

use crate::frame::{
    EGRESS_CLASS, INGRESS_CLASS, OK_EGRESS, OK_INGRESS, OWN4, OWN6, REJECT, SELF, STAMP_LIVE, STAMP_PENDING,
    is_beside_stamps, optional,
};
use crate::generation::{LIVE_SET, PENDING_SET};
use crate::host_frame;
use crate::sets::gain_may_deny;

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
        .any(|(name, set)| now.sets.contains_key(name) && !of_frame(name) && !set.elements.is_empty())
        || before.counter_maps.iter().any(|(name, map)| {
            let after = after.counter_maps.get(name);
            let stays = |key: &Key| after.is_some_and(|after| after.elements.contains_key(key));
            now.counter_maps.contains_key(name) && !map.elements.keys().all(stays)
        });
    let gains = after
        .sets
        .iter()
        .any(|(name, set)| before.sets.contains_key(name) && gain_may_deny(name) && !set.elements.is_empty());
    // Sets and chains that stay have only gained, so that asking those of `now` for what they were before is on the safe side.
    loses
        || host_frame::tightens(before, after)
        || gains
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
    let rules = ruleset.chains.get(class).map_or(&[][..], |chain| &chain.rules);
    let first = rules.iter().find(|rule| !is_turn(rule) && !is_idle(ruleset, rule));
    first.is_some_and(|rule| {
        rule.matches.is_empty()
            && matches!(effect(rule), [Statement::Verdict(Verdict::Goto(chain))] if is_allowed(chain))
    })
}

/// Whether a rule leads packets of another direction or state into a chain of their own.
fn is_turn(rule: &Rule) -> bool {
    matches!(rule.matches.as_slice(), [Match::CtDirection(_) | Match::CtState(_)])
        && matches!(effect(rule), [Statement::Verdict(Verdict::Goto(chain))] if !is_allowed(chain))
}

/// Where a rule leads.
fn target(rule: &Rule) -> Option<&str> {
    match rule.statements.last() {
        Some(Statement::Verdict(Verdict::Goto(chain) | Verdict::Jump(chain))) => Some(chain),
        _ => None,
    }
}

/// Whether what a rule does has no bearing on what becomes of a packet: it counts or logs, or jumps to where rules do no more than that.
fn is_idle(ruleset: &Ruleset, rule: &Rule) -> bool {
    let ends_idle = |rule: &Rule| matches!(effect(rule), [] | [Statement::Verdict(Verdict::Return)]);
    match effect(rule) {
        [] => true,
        [Statement::Verdict(Verdict::Jump(chain))] => {
            let rules = ruleset.chains.get(chain).map(|chain| &chain.rules);
            rules.is_some_and(|rules| rules.iter().all(|rule| ends_idle(rule) || is_idle(ruleset, rule)))
        }
        _ => false,
    }
}

/// What a rule does besides counting and logging.
fn effect(rule: &Rule) -> &[Statement] {
    let idle = |statement: &Statement| {
        matches!(statement, Statement::Counter | Statement::NamedCounter(_) | Statement::Log { .. })
    };
    let counted = rule.statements.iter().take_while(|statement| idle(statement)).count();
    &rule.statements[counted..]
}

/// The keys of a set, or of a counter map.
#[derive(Clone, Copy)]
enum Keys<'a> {
    Set(&'a Set),
    Counters(&'a CounterMap),
}

impl<'a> Keys<'a> {
    fn of(ruleset: &'a Ruleset, name: &str) -> Option<Self> {
        let counters = || ruleset.counter_maps.get(name).map(Self::Counters);
        ruleset.sets.get(name).map(Self::Set).or_else(counters)
    }

    fn shape(self) -> (&'a [KeyType], bool) {
        match self {
            Self::Set(set) => (&set.key, set.interval),
            Self::Counters(map) => (&map.key, map.interval),
        }
    }

    fn has(self, key: &Key) -> bool {
        match self {
            Self::Set(set) => set.elements.contains(key),
            Self::Counters(map) => map.elements.contains_key(key),
        }
    }

    fn iter(self) -> Box<dyn Iterator<Item = &'a Key> + 'a> {
        match self {
            Self::Set(set) => Box::new(set.elements.iter()),
            Self::Counters(map) => Box::new(map.elements.keys()),
        }
    }

    fn is_subset(self, other: Self) -> bool {
        if self.shape() != other.shape() {
            return false;
        }
        self.iter().all(|key| other.has(key)) || (self.shape().1 && covered(self.iter(), other.iter()))
    }
}

/// Whether each range of addresses lies within the others, which do not overlap.
fn covered<'a>(old: impl Iterator<Item = &'a Key>, new: impl Iterator<Item = &'a Key>) -> bool {
    let bounds = |key: &Key| match key.as_slice() {
        [value] => intervals::bounds(value),
        _ => None,
    };
    let Some(new) = new.map(bounds).collect::<Option<BTreeMap<IpAddr, IpAddr>>>() else { return false };
    // Neighbours are one here: what has two counters may be one range for all that.
    let mut joined: BTreeMap<IpAddr, IpAddr> = BTreeMap::new();
    for (first, last) in new {
        match joined.last_entry() {
            Some(mut before) if next(*before.get()) == Some(first) => drop(before.insert(last)),
            _ => drop(joined.insert(first, last)),
        }
    }
    let mut old = old;
    old.all(|key| {
        bounds(key).is_some_and(|(first, last)| {
            joined.range(..=first).next_back().is_some_and(|(low, high)| *low <= first && last <= *high)
        })
    })
}

/// The address behind this one, of the same family.
fn next(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => u32::from(address).checked_add(1).map(|next| IpAddr::V4(next.into())),
        IpAddr::V6(address) => u128::from(address).checked_add(1).map(|next| IpAddr::V6(next.into())),
    }
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
            (Some(of_old), Some(of_new)) => {
                let (had, has) = (self.deciding(&of_old.rules, true), self.deciding(&of_new.rules, false));
                if self.is_plain(&had, true) && self.is_plain(&has, false) {
                    let turns = |rules: &[&'a Rule]| -> Vec<&'a [Match]> {
                        rules.iter().filter(|rule| is_turn(rule)).map(|rule| rule.matches.as_slice()).collect()
                    };
                    // Packets that have chains of their own now were judged here before.
                    let known = turns(&had);
                    let led_away = has.iter().filter(|rule| is_turn(rule) && !known.contains(&rule.matches.as_slice()));
                    let led_away: Vec<&'a str> = led_away.filter_map(|rule| target(rule)).collect();
                    // What came out at the end of the one must not be denied at that of the other.
                    (ends(&had) || !ends(&has))
                        && had.iter().all(|rule| self.rule_is_matched(rule, &has))
                        && led_away.into_iter().all(|chain| self.chain_allows(old, chain))
                } else {
                    had.len() == has.len() && had.iter().zip(&has).all(|(old, new)| self.rule_stays(old, new))
                }
            }
            _ => false,
        };
        self.chains.insert((old, new), allows);
        allows
    }

    /// The rules that have a bearing on what becomes of a packet.
    fn deciding(&self, rules: &'a [Rule], old: bool) -> Vec<&'a Rule> {
        let idle = |rule: &&Rule| {
            if old { is_idle(self.current, rule) || is_idle(self.gone, rule) } else { is_idle(self.want, rule) }
        };
        rules.iter().filter(|rule| !idle(rule)).collect()
    }

    /// Whether rules do nothing but allow, and deny what is left at their end, so that it does not matter in which order they are asked.
    fn is_plain(&self, rules: &[&'a Rule], old: bool) -> bool {
        let only_in = |rule: &Rule| {
            rule.matches
                .iter()
                .all(|it| !matches!(it, Match::InSet { op: Op::Ne, .. } | Match::Port { op: Op::Ne, .. }))
        };
        let chain = |name: &str| {
            let chain = if old {
                self.current.chains.get(name).or_else(|| self.gone.chains.get(name))
            } else {
                self.want.chains.get(name)
            };
            chain.is_some_and(|chain| {
                let deciding = self.deciding(&chain.rules, old);
                self.is_plain(&deciding, old) && !ends(&deciding)
            })
        };
        let leads = |verdict: &Verdict| match verdict {
            Verdict::Goto(name) => is_allowed(name),
            Verdict::Jump(name) => chain(name),
            _ => false,
        };
        let map = |name: &str| {
            let map = if old {
                self.current.maps.get(name).or_else(|| self.gone.maps.get(name))
            } else {
                self.want.maps.get(name)
            };
            map.is_some_and(|map| map.elements.values().all(leads))
        };
        rules.iter().enumerate().all(|(place, rule)| {
            let last = place + 1 == rules.len();
            is_turn(rule)
                || only_in(rule)
                    && match effect(rule) {
                        [Statement::Verdict(verdict)] if is_denied(verdict) => last && rule.matches.is_empty(),
                        [Statement::CountIn { .. }, Statement::Verdict(verdict)] | [Statement::Verdict(verdict)] => {
                            leads(verdict)
                        }
                        [Statement::Vmap { map: name, .. }] => map(name),
                        _ => false,
                    }
        })
    }

    /// Whether a rule that stands where another did does just what that did, or allows more.
    fn rule_stays(&mut self, old: &'a Rule, new: &'a Rule) -> bool {
        if old.matches != new.matches || old.statements.len() != new.statements.len() {
            return false;
        }
        let sets = old.matches.iter().filter_map(|matched| match matched {
            Match::InSet { set, .. } => Some(set.as_str()),
            _ => None,
        });
        sets.collect::<Vec<_>>().into_iter().all(|set| self.set_stays(set))
            && old.statements.iter().zip(&new.statements).all(|(old, new)| match (old, new) {
                (Statement::Verdict(Verdict::Jump(old)), Statement::Verdict(Verdict::Jump(new)))
                | (Statement::Verdict(Verdict::Goto(old)), Statement::Verdict(Verdict::Goto(new))) => {
                    if is_allowed(old) || old == REJECT { old == new } else { self.chain_allows(old, new) }
                }
                (Statement::Vmap { key: old_key, map: old }, Statement::Vmap { key: new_key, map: new }) => {
                    let current = self.current.maps.get(old).or_else(|| self.gone.maps.get(old));
                    let (Some(old), Some(new)) = (current, self.want.maps.get(new)) else { return false };
                    old_key == new_key && self.ports_cover(old, new)
                }
                (Statement::CountIn { key: old_key, map: old }, Statement::CountIn { key: new_key, map: new }) => {
                    old_key == new_key && self.set_covers(old, new)
                }
                // Which counter counts makes no difference.
                (Statement::NamedCounter(_), Statement::NamedCounter(_)) => true,
                _ => old == new,
            })
    }

    /// Whether a set that rules with an order use has lost nothing, and has gained nothing if that may deny.
    fn set_stays(&mut self, set: &'a str) -> bool {
        let current = Keys::of(self.current, set).or_else(|| Keys::of(self.gone, set));
        let (Some(old), Some(new)) = (current, Keys::of(self.want, set)) else { return false };
        self.set_covers(set, set) && (!gain_may_deny(set) || new.is_subset(old))
    }

    /// Whether all that `old` allows, one of the rules does too.
    fn rule_is_matched(&mut self, old: &'a Rule, rules: &[&'a Rule]) -> bool {
        if let [.., Statement::Verdict(verdict)] = old.statements.as_slice()
            && is_denied(verdict)
        {
            return true;
        }
        rules.iter().any(|new| {
            let conditions = conditions(new);
            (conditions.is_empty() || self.conditions_cover(&self::conditions(old), &conditions))
                && self.effect_covers(old, new)
        })
    }

    fn conditions_cover(&mut self, old: &[Condition<'a>], new: &[Condition<'a>]) -> bool {
        old.len() == new.len()
            && old.iter().zip(new).all(|(old, new)| match (old, new) {
                (Condition::In(old_key, old), Condition::In(new_key, new)) => {
                    old_key == new_key && self.set_covers(old, new)
                }
                (Condition::Match(old), Condition::Match(new)) => old == new,
                _ => false,
            })
    }

    fn set_covers(&mut self, old: &'a str, new: &'a str) -> bool {
        if let Some(&known) = self.sets.get(&(old, new)) {
            return known;
        }
        let current = Keys::of(self.current, old).or_else(|| Keys::of(self.gone, old));
        let covers = match (current, Keys::of(self.want, new)) {
            (Some(old), Some(new)) => old.is_subset(new),
            _ => false,
        };
        self.sets.insert((old, new), covers);
        covers
    }

    fn effect_covers(&mut self, old: &'a Rule, new: &'a Rule) -> bool {
        match (effect(old), effect(new)) {
            (_, [.., Statement::Verdict(Verdict::Goto(chain))]) if is_allowed(chain) => true,
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

/// What a packet must be for a rule to do what it does.
enum Condition<'a> {
    /// In a set, or in a counter map.
    In(&'a [Field], &'a str),
    /// Anything else.
    Match(&'a Match),
}

fn conditions(rule: &Rule) -> Vec<Condition<'_>> {
    let matched = rule.matches.iter().map(|matched| match matched {
        Match::InSet { key, op: Op::Eq, set } => Condition::In(key, set),
        other => Condition::Match(other),
    });
    let counted = rule.statements.iter().filter_map(|statement| match statement {
        Statement::CountIn { key, map } => Some(Condition::In(key, map)),
        _ => None,
    });
    matched.chain(counted).collect()
}

/// Whether no packet comes to the end of these rules, which are the deciding ones of a chain: behind a rule that denies there may be
/// one that would only log.
fn ends(deciding: &[&Rule]) -> bool {
    deciding.last().is_some_and(|rule| {
        rule.matches.is_empty()
            && matches!(rule.statements.last(), Some(Statement::Verdict(verdict)) if is_denied(verdict))
    })
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
