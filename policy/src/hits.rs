//! Hits: how often each rule of each policy decided, as names of counters and the way back from one to its rule.
//!
//! A rule has two named counters. The first counts the first packet of each new flow that the rule decides about; the second those of
//! flows that exist and are judged again, since what is in force has changed under them. Both are named by the policy's kind,
//! namespace and name, the direction and the rule's place, so that they are the same counters whatever class of endpoints they are
//! programmed for, after a policy is written anew, and after a restart of the agent. What a tier denies because none of its rules
//! decided is counted likewise, by the policies that made the tier responsible.
//!
//! A name is a digest, which nobody can read. The counter's comment says in words what it counts, for people who list the table, and
//! it is the way back: [`Counted::of`] reads it and takes it only for what its digest is the name of.

mod decided;
mod report;

use std::collections::BTreeSet;
use std::fmt::{self, Display, Formatter, Write as _};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tortie_api::Kind;
use tortie_api::k8s::PolicyType;
use tortie_nft::{COMMENT_MAX, Ruleset, check, comment};

use crate::cluster::PolicyKey;

pub(crate) use report::policy_of;
pub use report::{HitRow, Hits, Tally};

/// How many hex digits of the digest go into a name.
const DIGITS: usize = 12;

/// What the comment of a counter of flows that are judged again begins with.
const AGAIN: &str = "again: ";

/// What stands for the rest of a name.
const CUT: &str = "…";

/// What the names of counters begin with.
const RULE: &str = "h_";
const TIER: &str = "d_";
const AGAIN_COUNTER: &str = "a_";

/// A pair of counters with their comments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Counters {
    /// The one that counts new flows.
    pub(crate) new: String,
    /// The one that counts packets of flows that are judged again.
    pub(crate) again: String,
    comment: String,
}

impl Counters {
    /// Those of a rule: `number` is its place among the policy's rules of that direction, from 0.
    pub(crate) fn of_rule(policy: &PolicyKey, direction: PolicyType, number: usize) -> Self {
        let (kind, namespace, name) = (policy.kind, policy.namespace.as_deref(), &*policy.name);
        let digest = rule_digest(kind, namespace, name, direction, number);
        let comment = RuleText { kind, namespace, name, direction, number }.fitting();
        Self { new: format!("{RULE}{digest}"), again: format!("{AGAIN_COUNTER}{digest}"), comment }
    }

    /// Those of what a tier denies since none of its rules decided, in a direction in which these policies of it, in order, select the
    /// endpoint.
    pub(crate) fn of_tier<'a>(
        tier: &str,
        direction: PolicyType,
        policies: impl IntoIterator<Item = &'a PolicyKey>,
    ) -> Self {
        let mut digest = Sha256::new();
        let mut comment = format!("tier {tier} {} default", word(direction));
        field(&mut digest, tier);
        field(&mut digest, word(direction));
        for (index, policy) in policies.into_iter().enumerate() {
            field(&mut digest, policy.kind.as_str());
            field(&mut digest, policy.namespace.as_deref().unwrap_or_default());
            field(&mut digest, &policy.name);
            // Writing to a String cannot fail.
            let _ = write!(comment, "{} {} {policy}", if index == 0 { ":" } else { "," }, policy.kind.as_str());
        }
        let digest = hex(digest);
        Self { new: format!("{TIER}{digest}"), again: format!("{AGAIN_COUNTER}{digest}"), comment }
    }

    /// Both with their comments, as a table declares them.
    pub(crate) fn declared(&self) -> [(String, Option<String>); 2] {
        let again = comment(&format!("{AGAIN}{}", self.comment));
        [(self.new.clone(), Some(comment(&self.comment))), (self.again.clone(), Some(again))]
    }
}

/// A table without those counters of hits in which nothing counts now. They stay while their policy does, so that a table that was kept
/// up to date may have more of them than one that is compiled anew; in all else the two are equal.
#[must_use]
pub fn without_unused(mut table: Ruleset) -> Ruleset {
    let rules = table.chains.values().flat_map(|chain| &chain.rules);
    let by_rules = rules.flat_map(check::counters_of).map(str::to_owned);
    let by_maps = table.counter_maps.values().flat_map(|map| map.elements.values()).cloned();
    let used: BTreeSet<String> = by_rules.chain(by_maps).collect();
    table.counters.retain(|name, _| used.contains(name) || !is_hit_counter(name));
    table
}

/// Whether a counter of this name counts hits.
pub fn is_hit_counter(name: &str) -> bool {
    let digits = [RULE, TIER, AGAIN_COUNTER].into_iter().find_map(|prefix| name.strip_prefix(prefix));
    digits.is_some_and(|digits| digits.len() == DIGITS && digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

/// What a counter counts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Counted {
    /// Whether its packets are those of flows that existed already and were judged again.
    pub again: bool,
    /// What decided about them.
    pub by: Decider,
}

/// What decides about packets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Decider {
    /// A rule of a policy.
    Rule {
        /// The policy's kind.
        kind: Kind,
        /// Its namespace, of a namespaced kind.
        namespace: Option<String>,
        /// Its name.
        name: String,
        /// The direction.
        direction: PolicyType,
        /// The rule's place among the policy's rules of that direction, from 0.
        number: usize,
    },
    /// The end of a tier, whose policies select the endpoint and have no rule for the packet.
    TierDefault {
        /// The tier.
        tier: String,
        /// The direction.
        direction: PolicyType,
        /// Its policies in words, as many as the comment has room for.
        policies: String,
        /// The digits of its counters: the same policies elsewhere have the same.
        digits: String,
    },
}

impl Decider {
    /// `ingress` or `egress`.
    pub const fn direction(&self) -> &'static str {
        match self {
            Self::Rule { direction, .. } | Self::TierDefault { direction, .. } => word(*direction),
        }
    }
}

impl Counted {
    /// What the counter of this name and comment counts; `None` if it counts no hits, or its comment is not what the agent wrote.
    pub fn of(name: &str, comment: &str) -> Option<Self> {
        let text = comment.strip_prefix(AGAIN);
        let again = text.is_some();
        let text = text.unwrap_or(comment);
        let (prefix, digits) = name.split_at_checked(RULE.len())?;
        if !is_hit_counter(name) || (prefix == AGAIN_COUNTER) != again {
            return None;
        }
        if let Some(of_tier) = text.strip_prefix("tier ") {
            let mut words = of_tier.splitn(4, ' ');
            let (tier, direction) = (words.next()?, parsed_direction(words.next()?)?);
            words.next()?.strip_prefix("default")?;
            let policies = words.next().unwrap_or_default().to_owned();
            let by = Decider::TierDefault { tier: tier.to_owned(), direction, policies, digits: digits.to_owned() };
            return (prefix != RULE).then_some(Self { again, by });
        }
        let RuleText { kind, namespace, name, direction, number } = RuleText::read(text)?;
        let is_its = prefix != TIER && rule_digest(kind, namespace, name, direction, number) == digits;
        let (namespace, name) = (namespace.map(str::to_owned), name.to_owned());
        is_its.then_some(Self { again, by: Decider::Rule { kind, namespace, name, direction, number } })
    }
}

/// A rule in a comment: `NetworkPolicy default/web ingress rule 1`, counted as people do.
struct RuleText<'a> {
    kind: Kind,
    namespace: Option<&'a str>,
    name: &'a str,
    direction: PolicyType,
    number: usize,
}

impl Display for RuleText<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.as_str())?;
        f.write_str(" ")?;
        if let Some(namespace) = self.namespace {
            write!(f, "{namespace}/")?;
        }
        write!(f, "{} {} rule {}", self.name, word(self.direction), self.number + 1)
    }
}

impl<'a> RuleText<'a> {
    /// The text, with the end of the policy's name left out where a comment has no room for all of it.
    fn fitting(&self) -> String {
        let text = self.to_string();
        let Some(surplus) = (text.len() + AGAIN.len()).checked_sub(COMMENT_MAX).filter(|surplus| *surplus > 0) else {
            return text;
        };
        let keep = self.name.len().saturating_sub(surplus + CUT.len());
        let end = (0..=keep).rev().find(|end| self.name.is_char_boundary(*end)).unwrap_or_default();
        RuleText { name: &format!("{}{CUT}", &self.name[..end]), ..*self }.to_string()
    }

    fn read(text: &'a str) -> Option<Self> {
        let mut words = text.split(' ');
        let (kind, policy, direction, rule, number) =
            (words.next()?, words.next()?, words.next()?, words.next()?, words.next()?);
        let number = number.parse::<usize>().ok()?.checked_sub(1)?;
        let whole = rule == "rule" && words.next().is_none();
        let kind = whole.then(|| Kind::ALL.into_iter().find(|known| known.as_str() == kind))??;
        let (namespace, name) = match policy.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, policy),
        };
        Some(Self { kind, namespace, name, direction: parsed_direction(direction)?, number })
    }
}

fn rule_digest(kind: Kind, namespace: Option<&str>, name: &str, direction: PolicyType, number: usize) -> String {
    let mut digest = Sha256::new();
    field(&mut digest, kind.as_str());
    field(&mut digest, namespace.unwrap_or_default());
    field(&mut digest, name);
    field(&mut digest, word(direction));
    digest.update(u64::try_from(number).unwrap_or(u64::MAX).to_be_bytes());
    hex(digest)
}

/// Names have no zero bytes, so the borders between them are kept.
fn field(digest: &mut Sha256, text: &str) {
    digest.update(text.as_bytes());
    digest.update([0]);
}

fn hex(digest: Sha256) -> String {
    let bytes = digest.finalize();
    let mut text = String::with_capacity(DIGITS);
    for byte in &bytes[..DIGITS / 2] {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

const fn word(direction: PolicyType) -> &'static str {
    match direction {
        PolicyType::Ingress => "ingress",
        PolicyType::Egress => "egress",
    }
}

fn parsed_direction(word: &str) -> Option<PolicyType> {
    match word {
        "ingress" => Some(PolicyType::Ingress),
        "egress" => Some(PolicyType::Egress),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(kind: Kind, namespace: &str, name: &str) -> PolicyKey {
        let namespace = (!namespace.is_empty()).then(|| namespace.into());
        PolicyKey { namespace, name: name.into(), kind }
    }

    #[test]
    fn a_counters_name_and_comment_lead_back_to_its_rule() {
        for (kind, namespace, name, direction, number, text) in [
            (Kind::NetworkPolicy, "default", "web", PolicyType::Ingress, 0, "NetworkPolicy default/web ingress rule 1"),
            (Kind::CalicoNetworkPolicy, "a", "b.c", PolicyType::Egress, 9, "CalicoNetworkPolicy a/b.c egress rule 10"),
            (Kind::GlobalNetworkPolicy, "", "web", PolicyType::Ingress, 2, "GlobalNetworkPolicy web ingress rule 3"),
        ] {
            let policy = key(kind, namespace, name);
            let counters = Counters::of_rule(&policy, direction, number);
            let [(new, comment), (again, comment_again)] = counters.declared();
            assert_eq!(comment.as_deref(), Some(text));
            for (counter, comment, is_again) in [(&new, comment, false), (&again, comment_again, true)] {
                assert!(is_hit_counter(counter), "{counter}");
                let counted = Counted::of(counter, &comment.expect("a comment")).expect("its own comment");
                let namespace = (!namespace.is_empty()).then(|| namespace.to_owned());
                let by = Decider::Rule { kind, namespace, name: name.to_owned(), direction, number };
                assert_eq!(counted, Counted { again: is_again, by });
            }
        }
    }

    #[test]
    fn rules_that_differ_in_anything_have_counters_of_their_own() {
        let mut names = BTreeSet::new();
        let mut count = 0;
        for kind in [Kind::NetworkPolicy, Kind::CalicoNetworkPolicy, Kind::StagedNetworkPolicy] {
            for (namespace, name) in [("a", "b"), ("ab", ""), ("", "ab"), ("a", "bc"), ("ab", "c")] {
                for direction in [PolicyType::Ingress, PolicyType::Egress] {
                    for number in [0, 1, 256] {
                        let counters = Counters::of_rule(&key(kind, namespace, name), direction, number);
                        names.extend([counters.new, counters.again]);
                        count += 2;
                    }
                }
            }
        }
        assert_eq!(names.len(), count);
    }

    #[test]
    fn a_comment_that_is_anothers_leads_nowhere() {
        let web = Counters::of_rule(&key(Kind::NetworkPolicy, "default", "web"), PolicyType::Ingress, 0);
        let text = "NetworkPolicy default/web ingress rule 1";
        assert!(Counted::of(&web.new, text).is_some());
        assert!(Counted::of(&web.again, text).is_none(), "a counter of what is judged again says so");
        assert!(Counted::of(&web.new, "NetworkPolicy default/web ingress rule 2").is_none());
        for strange in
            ["", "again: ", "NetworkPolicy", "Pod default/web ingress rule 1", "tier", "tier x", "a b c d e f"]
        {
            assert!(Counted::of(&web.new, strange).is_none(), "{strange:?}");
        }
        assert!(Counted::of("policies", "denied: no rule of a policy allows it").is_none());
    }

    #[test]
    fn names_that_have_no_room_are_cut_and_the_rest_is_told() {
        let long = "x".repeat(200);
        let counters = Counters::of_rule(
            &key(Kind::StagedKubernetesNetworkPolicy, &"n".repeat(63), &long),
            PolicyType::Egress,
            99,
        );
        for (_, comment) in counters.declared() {
            let comment = comment.expect("a comment");
            assert!(comment.ends_with("… egress rule 100"), "{comment}");
            assert!(Counted::of(&counters.new, &comment).is_none(), "it is not the whole name");
        }
    }

    #[test]
    fn a_tiers_default_is_told_with_its_policies() {
        let policies = [key(Kind::GlobalNetworkPolicy, "", "base"), key(Kind::CalicoNetworkPolicy, "a", "web")];
        let counters = Counters::of_tier("security", PolicyType::Ingress, &policies);
        let [(new, comment), (again, comment_again)] = counters.declared();
        assert_eq!(
            comment.as_deref(),
            Some("tier security ingress default: GlobalNetworkPolicy base, CalicoNetworkPolicy a/web")
        );
        let counted = Counted::of(&new, &comment.expect("a comment")).expect("a tier's default");
        let Decider::TierDefault { tier, direction, policies: told, .. } = &counted.by else { panic!("{counted:?}") };
        assert_eq!((tier.as_str(), *direction), ("security", PolicyType::Ingress));
        assert_eq!(told, "GlobalNetworkPolicy base, CalicoNetworkPolicy a/web");
        let judged_again = Counted::of(&again, &comment_again.expect("a comment")).expect("a tier's default");
        assert_eq!(judged_again.by, counted.by);
        assert_ne!(Counters::of_tier("security", PolicyType::Ingress, &policies[..1]).new, new);
    }
}
