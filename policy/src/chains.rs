//! Chains that say what a [`Program`] says.
//!
//! A *class* is the chain of all endpoints under the same policies. What Kubernetes' policies alone decide is looked up in it directly
//! (see [`unions`](crate::unions)). Otherwise it jumps into one chain for each tier, in order: what a tier decides ends there, and what
//! it leaves to the next one returns. A policy has a chain of its own in its tier, which others that have the policy in theirs share;
//! only one with a rule that passes stands in the tier's chain itself, since that returns from the tier.
//!
//! Each class has up to three forms. The first one judges packets that begin a flow. Its twin `_r` judges packets in their flow's
//! reply direction, where source and destination have changed places; both ask the same sets. Where hits are counted, `_a` judges what
//! has been judged before, and counts it apart.
//!
//! To compile for something else than a pod: make a [`Site`] that says where packets go that are allowed, a [`Program`] of the
//! policies in question, and call [`Builder::program`].

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use serde::Serialize;
use tortie_api::calico::Action;
use tortie_api::k8s::PolicyType;
use tortie_nft::{Chain, CtStates, Direction, Field, Match, Op, Rule, Ruleset, Statement, Verdict, comment};

use crate::clauses::Place;
use crate::cluster::{Cluster, PodPort, PolicyKey};
use crate::denied::Reason;
use crate::describe::shortened;
use crate::followed::Followed;
use crate::frame::REJECT;
use crate::hits::Counters;
use crate::log_prefix;
use crate::names::Names;
use crate::options::{CompileOptions, DenyAction, LogLimit};
use crate::program::{Last, Line, Policy, Program, RuleId, Tier};
use crate::resolver::Resolver;
use crate::selection::Selection;
use crate::sets::Use;
use crate::union::Union;
use crate::view::{Packets, Site, View};

/// A rule without a comment.
pub(crate) fn rule(matches: Vec<Match>, statements: Vec<Statement>) -> Rule {
    Rule { matches, statements, comment: None }
}

/// A verdict as all that a rule does.
pub(crate) fn verdict(matches: Vec<Match>, verdict: Verdict) -> Rule {
    rule(matches, vec![Statement::Verdict(verdict)])
}

/// Counts and drops, and says why.
pub(crate) fn drop(reason: Reason, matches: Vec<Match>, why: &str) -> Rule {
    denied(reason, matches, Verdict::Drop, why)
}

/// Denies, by dropping or as [`REJECT`] does, and says why.
pub(crate) fn deny(action: DenyAction, reason: Reason, matches: Vec<Match>, why: &str) -> Rule {
    denied(reason, matches, denial(action), why)
}

fn denied(reason: Reason, matches: Vec<Match>, verdict: Verdict, why: &str) -> Rule {
    rule(matches, reason.counted(Statement::Verdict(verdict))).commented(why)
}

fn denial(action: DenyAction) -> Verdict {
    match action {
        DenyAction::Drop => Verdict::Drop,
        DenyAction::Reject => Verdict::Goto(REJECT.to_owned()),
    }
}

/// `field @set`, or with [`Op::Ne`] its contrary.
pub(crate) fn in_set(key: Vec<Field>, op: Op, set: &str) -> Match {
    Match::InSet { key, op, set: set.to_owned() }
}

/// `ct state` as a match.
pub(crate) fn ct_state(states: CtStates) -> Match {
    Match::CtState(states)
}

/// Whose class it is, for people.
#[derive(Debug, Serialize)]
pub(crate) struct Whose {
    /// The policies by name.
    pub(crate) policies: String,
    /// The endpoints that they select.
    pub(crate) endpoints: String,
}

impl Whose {
    /// How policies are spoken of that allow nothing.
    fn closed(&self, direction: PolicyType) -> String {
        let to = match direction {
            PolicyType::Egress => "from",
            PolicyType::Ingress => "to",
        };
        format!("{}: nothing {to} {}", self.policies, self.endpoints)
    }
}

/// Writes chains, sets and maps into a ruleset, each named after its content and there once.
#[derive(Debug)]
pub(crate) struct Builder<'a> {
    deny: DenyAction,
    log_prefix: String,
    log_limit: Option<LogLimit>,
    /// Whether rules count what they decide.
    pub(crate) counts: bool,
    pub(crate) resolver: Resolver<'a>,
    pub(crate) ruleset: Ruleset,
    pub(crate) names: Names,
    /// The names of all chains, sets and maps that were asked for, whether they were there already or not.
    pub(crate) used: BTreeSet<String>,
    /// What the sets follow that pods come and go in.
    pub(crate) followed: Vec<(String, Followed)>,
    /// The counters of rules that were asked for, each with its policy and its comment.
    pub(crate) counters: BTreeMap<String, (PolicyKey, Option<String>)>,
    /// The counters of tiers that were asked for, each with its comment.
    pub(crate) defaults: BTreeMap<String, Option<String>>,
    /// The unions of the program that is being written, by where their policies are: each form of a class asks for them.
    unions: FxHashMap<usize, Rc<Union>>,
    /// The selections of the set before, which the other family's shares.
    pub(crate) before: Arc<BTreeSet<Selection>>,
}

impl<'a> Builder<'a> {
    /// One that writes into this ruleset.
    pub(crate) fn new(cluster: &'a Cluster, ruleset: Ruleset, names: Names, options: &CompileOptions) -> Self {
        Self {
            deny: options.deny_action,
            log_prefix: options.log_prefix.clone(),
            log_limit: options.log_limit,
            counts: options.count_hits,
            resolver: Resolver::new(cluster),
            ruleset,
            names,
            used: BTreeSet::new(),
            followed: Vec::new(),
            counters: BTreeMap::new(),
            defaults: BTreeMap::new(),
            unions: FxHashMap::default(),
            before: Arc::default(),
        }
    }
}

impl Builder<'_> {
    /// The chain of all endpoints that are under this program at this site, and that declare these ports. `whose` says which these are,
    /// and in whose name it denies. Returns its name; whatever it needs is in the ruleset then, and its name in `used`.
    ///
    /// Packets are to be led there by `goto`, or by a map's element with that: once for each flow, and again when it is to be judged
    /// again. What comes out is a packet on its way to [`Site::allowed`], or denied, or, with [`Last::Return`], on its way back.
    pub(crate) fn program(&mut self, site: &Site, program: &Program, ports: &[PodPort], whose: &Whose) -> String {
        if program.tiers.is_empty() && program.last == Last::Allow {
            return self.open(site, program.direction);
        }
        self.unions.clear();
        let place = |packets| Place { view: View { site, packets }, direction: program.direction, ports };
        let first = self.body(place(Packets::First), program, whose);
        let again = if self.counts { self.body(place(Packets::Again), program, whose) } else { first.clone() };
        let answers = if site.replies { self.body(place(Packets::Answers), program, whose) } else { first.clone() };
        let name = self.names.name(site.prefix, &(&first, &again, &answers, whose));
        let (begun, answered) = match program.direction {
            PolicyType::Egress => ("from", "answers to"),
            PolicyType::Ingress => ("to", "answers of"),
        };
        let mut turns = Vec::new();
        let mut turn = |matched, suffix: &str, other: Vec<Rule>, who: &str| {
            if other == first {
                return;
            }
            let twin = format!("{name}{suffix}");
            turns.push(verdict(vec![matched], Verdict::Goto(twin.clone())));
            self.chain(&twin, || explained(other, &format!("{who} {}", whose.endpoints)));
        };
        turn(Match::CtDirection(Direction::Reply), "_r", answers, answered);
        turn(ct_state(CtStates::ESTABLISHED), "_a", again, &format!("again {begun}"));
        self.chain(&name, || explained([turns, first].concat(), &format!("{begun} {}", whose.endpoints)));
        name
    }

    /// The ruleset, with all counters that its rules count in.
    pub(crate) fn finish(mut self) -> Ruleset {
        let of_rules = self.counters.into_iter().map(|(name, (_, comment))| (name, comment));
        self.ruleset.counters.extend(of_rules.chain(self.defaults));
        self.ruleset
    }

    /// What becomes of a packet that is denied at a site.
    const fn action(&self, site: &Site) -> DenyAction {
        if site.drops { DenyAction::Drop } else { self.deny }
    }

    /// The chain of endpoints that nothing isolates in this direction.
    pub(crate) fn open(&mut self, site: &Site, direction: PolicyType) -> String {
        let name = format!("{}open", site.prefix);
        let why = match direction {
            PolicyType::Egress => format!("from {} whose egress no policy isolates", site.whom),
            PolicyType::Ingress => format!("to {} whose ingress no policy isolates", site.whom),
        };
        self.chain(&name, || vec![verdict(Vec::new(), site.allowed.clone()).commented(&why)]);
        name
    }

    /// The chain of endpoints that nothing may pass in this direction.
    pub(crate) fn closed(&mut self, site: &Site, why: &str) -> String {
        let rules = vec![deny(self.action(site), Reason::Policy, Vec::new(), why)];
        let name = self.names.name(site.prefix, &rules);
        self.chain(&name, || rules);
        name
    }

    /// A chain that is named after `content`. Returns its name.
    pub(crate) fn own_chain<T: Serialize>(
        &mut self,
        prefix: &str,
        content: &T,
        rules: impl FnOnce() -> Vec<Rule>,
    ) -> String {
        let name = self.names.name(prefix, content);
        self.chain(&name, rules);
        name
    }

    pub(crate) fn chain(&mut self, name: &str, rules: impl FnOnce() -> Vec<Rule>) {
        self.used.insert(name.to_owned());
        if !self.ruleset.chains.contains_key(name) {
            self.ruleset.chains.insert(name.to_owned(), Chain { hook: None, rules: rules() });
        }
    }

    /// Counts what a rule decides.
    pub(crate) fn hit(&mut self, place: Place<'_>, id: &RuleId) -> Option<Statement> {
        self.counts.then(|| Statement::NamedCounter(self.counter(place, id)))
    }

    /// The counter of what a rule decides about these packets.
    pub(crate) fn counter(&mut self, place: Place<'_>, id: &RuleId) -> String {
        let counters = Counters::of_rule(&id.policy, id.direction, id.number);
        let [new, again] = counters.declared();
        let (name, comment) = if place.view.again() { again } else { new };
        self.counters.entry(name.clone()).or_insert_with(|| (id.policy.clone(), comment));
        name
    }

    /// Counts what a tier denies because none of its policies decides.
    fn default_hit(&mut self, place: Place<'_>, tier: &Tier) -> Option<Statement> {
        self.counts.then(|| {
            // What is staged has no part in it, unless all is.
            let enforced = tier.is_enforced();
            let policies = tier.policies.iter().filter(|policy| !(policy.staged && enforced)).map(|policy| &policy.key);
            let [new, again] = Counters::of_tier(&tier.name, place.direction, policies).declared();
            let (name, comment) = if place.view.again() { again } else { new };
            self.used.insert(name.clone());
            self.defaults.entry(name.clone()).or_insert(comment);
            Statement::NamedCounter(name)
        })
    }

    /// All that a program says to these packets.
    fn body(&mut self, place: Place<'_>, program: &Program, whose: &Whose) -> Vec<Rule> {
        if let [tier] = program.tiers.as_slice()
            && tier.denies
            && tier.is_enforced()
            && !tier.policies.iter().any(Policy::passes)
        {
            let mut rules = self.tier(place, tier, &whose.policies);
            if let [only] = rules.as_mut_slice()
                && !only.statements.contains(&Statement::Verdict(place.view.site.allowed.clone()))
            {
                *only = only.clone().commented(&whose.closed(program.direction));
            }
            return rules;
        }
        let mut rules = Vec::new();
        for tier in &program.tiers {
            let names = in_the_name_of(&tier.policies);
            let asked = self.tier(place, tier, &names);
            if !asked.is_empty() {
                let name = self.own_chain("o_", &asked.clone(), || asked);
                rules.push(verdict(Vec::new(), Verdict::Jump(name)).commented(&format!("tier {}", tier.name)));
            }
        }
        rules.push(match program.last {
            Last::Allow => verdict(Vec::new(), place.view.site.allowed.clone()).commented("no tier has decided"),
            Last::Deny => deny(
                self.action(place.view.site),
                Reason::Policy,
                Vec::new(),
                "no tier has decided, and there is no profile",
            ),
            Last::Return => verdict(Vec::new(), Verdict::Return).commented("no tier has decided"),
        });
        rules
    }

    /// What a tier says. Where it does not decide it comes to the end of these rules, or returns.
    fn tier(&mut self, place: Place<'_>, tier: &Tier, names: &str) -> Vec<Rule> {
        let mut rules = Vec::new();
        let mut rehearsed: Vec<&Policy> = Vec::new();
        let runs = tier
            .policies
            .chunk_by(|a, b| (a.staged, a.is_union()) == (b.staged, b.is_union()) && (a.staged || a.is_union()));
        for run in runs {
            let [first, ..] = run else { continue };
            if first.staged {
                let default = (!tier.is_enforced() && tier.denies).then_some(tier);
                rules.extend(self.rehearsal(place, &rehearsed, run, default));
                rehearsed.extend(run);
            } else if first.is_union() {
                let made = || Rc::new(Union::of(run, place.direction, place.ports));
                let union = Rc::clone(self.unions.entry(run.as_ptr().addr()).or_insert_with(made));
                rules.extend(self.union(place, &union));
            } else if first.passes() {
                rules.extend(self.policy(place, &tier.name, first));
            } else {
                let asked = self.policy(place, &tier.name, first);
                if !asked.is_empty() {
                    let name = self.own_chain("po_", &asked.clone(), || asked);
                    rules.push(verdict(Vec::new(), Verdict::Jump(name)));
                }
            }
        }
        let decided = rules.last().is_some_and(|rule| rule.matches.is_empty() && ends(rule));
        if tier.is_enforced() && tier.denies && !decided {
            let mut last =
                deny(self.action(place.view.site), Reason::Policy, Vec::new(), &format!("{names}: no rule allows it"));
            last.statements.splice(0..0, self.default_hit(place, tier));
            rules.push(last);
        }
        rules
    }

    /// A policy's rules, in the tier of this name.
    fn policy(&mut self, place: Place<'_>, tier: &str, policy: &Policy) -> Vec<Rule> {
        let mut rules: Vec<Rule> = policy.lines.iter().flat_map(|line| self.line(place, tier, policy, line)).collect();
        if let Some(first) = rules.first_mut() {
            *first = first.clone().commented(&policy.key.to_string());
        }
        rules
    }

    /// One rule.
    fn line(&mut self, place: Place<'_>, tier: &str, policy: &Policy, line: &Line) -> Vec<Rule> {
        let used = if line.action == Action::Allow { Use::Allows } else { Use::Other };
        let id = RuleId { policy: policy.key.clone(), direction: place.direction, number: line.number };
        let hit = self.hit(place, &id);
        let mut statements: Vec<Statement> = hit.into_iter().collect();
        match line.action {
            Action::Allow => statements.push(Statement::Verdict(place.view.site.allowed.clone())),
            Action::Deny => {
                statements.extend(Reason::Policy.counted(Statement::Verdict(denial(self.action(place.view.site)))));
            }
            Action::Pass => statements.push(Statement::Verdict(Verdict::Return)),
            Action::Log => {
                let prefix = log_prefix::of(&self.log_prefix, tier, &policy.key);
                statements.push(match self.log_limit {
                    Some(limit) => Statement::Verdict(Verdict::Jump(self.limited_log(&id, prefix, limit))),
                    None => Statement::Log { prefix },
                });
            }
        }
        let rules = self.line_rules(place, line, used, &statements);
        if line.action == Action::Log { self.once(rules) } else { rules }
    }

    /// The chain that logs packets of a rule, as many as the limit allows. What the rule counts is what it matches, logged or not.
    fn limited_log(&mut self, id: &RuleId, prefix: String, LogLimit { packets, per, burst }: LogLimit) -> String {
        let within = Match::LimitWithin { packets, per, burst };
        let rules = vec![rule(vec![within], vec![Statement::Log { prefix }]).commented(&format!("{} logs", id.policy))];
        // Each rule has a limit of its own.
        let RuleId { policy, direction, number } = id;
        let whose = (policy.kind.as_str(), policy.namespace.as_deref(), &*policy.name, direction, number);
        self.own_chain("ll_", &(whose, &rules.clone()), || rules)
    }

    /// The rules that do this with what a line matches.
    fn line_rules(&mut self, place: Place<'_>, line: &Line, used: Use, statements: &[Statement]) -> Vec<Rule> {
        let clauses = line.clauses.iter().flat_map(|clause| self.clause(place, clause, used)).collect::<Vec<_>>();
        clauses.into_iter().map(|matches| rule(matches, statements.to_vec())).collect()
    }

    /// Rules without a verdict as such of which a packet meets no more than one.
    fn once(&mut self, mut rules: Vec<Rule>) -> Vec<Rule> {
        if rules.len() < 2 {
            return rules;
        }
        for rule in &mut rules {
            match rule.statements.last_mut() {
                // What comes to the end of the other chain is back where this one was called.
                Some(Statement::Verdict(verdict @ Verdict::Jump(_))) => {
                    if let Verdict::Jump(chain) = std::mem::replace(verdict, Verdict::Return) {
                        *verdict = Verdict::Goto(chain);
                    }
                }
                _ => rule.statements.push(Statement::Verdict(Verdict::Return)),
            }
        }
        let name = self.own_chain("lg_", &rules.clone(), || rules);
        vec![verdict(Vec::new(), Verdict::Jump(name))]
    }

    /// What staged policies count, without a say: of each packet that comes to them the first rule that matches it, if none of the
    /// staged policies `before` in the tier has one that does. `default` is the tier, if it would deny the packets that none matches.
    fn rehearsal(
        &mut self,
        place: Place<'_>,
        before: &[&Policy],
        run: &[Policy],
        default: Option<&Tier>,
    ) -> Option<Rule> {
        if !self.counts {
            return None;
        }
        let done = [Statement::Verdict(Verdict::Return)];
        let mut rules = Vec::new();
        for line in before.iter().flat_map(|policy| &policy.lines).filter(|line| line.action != Action::Log) {
            rules.extend(self.line_rules(place, line, Use::Idle, &done));
        }
        for policy in run {
            for line in &policy.lines {
                let id = RuleId { policy: policy.key.clone(), direction: place.direction, number: line.number };
                let mut statements: Vec<Statement> = self.hit(place, &id).into_iter().collect();
                if line.action == Action::Log {
                    let noted = self.line_rules(place, line, Use::Idle, &statements);
                    rules.extend(self.once(noted));
                    continue;
                }
                statements.extend(done.clone());
                rules.extend(self.line_rules(place, line, Use::Idle, &statements));
            }
        }
        if let Some(tier) = default {
            rules.push(rule(Vec::new(), self.default_hit(place, tier).into_iter().collect()));
        }
        if rules.is_empty() {
            return None;
        }
        let name = self.own_chain("st_", &rules.clone(), || rules);
        Some(verdict(Vec::new(), Verdict::Jump(name)).commented(&format!("staged: {}", in_the_name_of(run))))
    }
}

/// Whether no packet that a rule matches comes to the next one.
fn ends(rule: &Rule) -> bool {
    matches!(rule.statements.last(), Some(Statement::Verdict(Verdict::Accept | Verdict::Drop | Verdict::Goto(_))))
}

/// The policies' names in short.
fn in_the_name_of(policies: &[Policy]) -> String {
    let names: Vec<String> = policies.iter().take(2).map(|policy| policy.key.to_string()).collect();
    shortened(&names, policies.len())
}

/// Rules, the first of which says what the chain is for, unless it has something to say itself.
fn explained(mut rules: Vec<Rule>, why: &str) -> Vec<Rule> {
    if let Some(first) = rules.first_mut() {
        first.comment.get_or_insert_with(|| comment(why));
    }
    rules
}
