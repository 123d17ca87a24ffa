//! Which routes pass between us and a peer, and what is changed of them on the way: Calico's BGPFilter as a pure function.
//!
//! A [`Policy`] is a list of [`Rule`]s for each family. The first that matches decides; what none matches, [`Policy::otherwise`] does.
//!
//! A *priority* is the metric that a route has, or would have, in a kernel: as Calico has it, LOCAL_PREF is [`PRIORITY_BASE`] less the
//! priority, so that the lower priority wins. Our own routes have [`NORMAL_PRIORITY`].

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::bestpath::DEFAULT_LOCAL_PREF;
use crate::wire::{Attributes, Community, Family, LargeCommunity};

/// LOCAL_PREF of the priority 0.
pub const PRIORITY_BASE: u32 = 2_147_483_647;
/// The priority of routes of our own that have no LOCAL_PREF.
pub const NORMAL_PRIORITY: u32 = 1024;

/// What is done with routes in one direction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Rules for IPv4 routes.
    pub v4: Vec<Rule>,
    /// Rules for IPv6 routes.
    pub v6: Vec<Rule>,
    /// Whether what no rule matches passes.
    pub otherwise: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self::ACCEPT
    }
}

/// One rule: all that is set must match.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// What people call it, such as `BGPFilter own spec.exportV4[0]`.
    pub name: String,
    /// Whether the route passes.
    pub accept: bool,
    /// Compares the prefix.
    pub prefix: Option<PrefixMatch>,
    /// Where the route comes from: another peer (true) or ourselves (false).
    pub from_peer: Option<bool>,
    /// The interface that a route of our own leads to, with `*` for whatever is there. A peer's route leads to none.
    pub interface: Option<String>,
    /// One of its communities.
    pub community: Option<AnyCommunity>,
    /// The first AS numbers of its path.
    pub as_path: Vec<u32>,
    /// Its priority.
    pub priority: Option<u32>,
    /// What is changed of it, in order, if it passes.
    pub operations: Vec<Operation>,
}

/// How a prefix is compared with a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrefixMatch {
    /// The range.
    pub range: IpNet,
    /// Whether the prefix must be the range, rather than lie in it.
    pub equal: bool,
    /// Whether the rule is for all other prefixes.
    pub negated: bool,
    /// The shortest and the longest length of the prefix.
    pub lengths: (u8, u8),
}

/// A community of either size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AnyCommunity {
    /// RFC 1997.
    Standard(Community),
    /// RFC 8092.
    Large(LargeCommunity),
}

/// One change of a route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// The route gets a community, if it has it not.
    AddCommunity(AnyCommunity),
    /// These AS numbers are put before its path.
    Prepend(Vec<u32>),
    /// It gets a priority.
    SetPriority(u32),
}

/// A route as a policy sees it.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Its prefix.
    pub prefix: &'a IpNet,
    /// Its attributes.
    pub attributes: &'a Attributes,
    /// Whether a peer told it.
    pub from_peer: bool,
    /// The interface that it leads to, if it is our own and leads to one.
    pub interface: Option<&'a str>,
}

/// What a policy makes of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It passes as it is.
    Pass,
    /// It passes with these attributes.
    Change(Box<Attributes>),
    /// It does not pass.
    Reject,
}

impl Policy {
    /// The policy that lets everything pass.
    pub const ACCEPT: Self = Self { v4: Vec::new(), v6: Vec::new(), otherwise: true };

    /// Whether it lets everything pass as it is.
    pub fn is_trivial(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty() && self.otherwise
    }

    /// The first rule that matches.
    pub fn rule(&self, subject: Subject<'_>) -> Option<&Rule> {
        let rules = match Family::of(subject.prefix) {
            Family::Ipv4 => &self.v4,
            Family::Ipv6 => &self.v6,
        };
        rules.iter().find(|rule| rule.matches(subject))
    }

    /// What becomes of a route.
    pub fn judge(&self, subject: Subject<'_>) -> Outcome {
        match self.rule(subject) {
            Some(rule) if !rule.accept => Outcome::Reject,
            None if !self.otherwise => Outcome::Reject,
            Some(rule) if !rule.operations.is_empty() => {
                let mut changed = subject.attributes.clone();
                rule.operations.iter().for_each(|operation| operation.apply(&mut changed));
                if changed == *subject.attributes { Outcome::Pass } else { Outcome::Change(Box::new(changed)) }
            }
            _ => Outcome::Pass,
        }
    }
}

impl Rule {
    fn matches(&self, subject: Subject<'_>) -> bool {
        let attributes = subject.attributes;
        self.prefix.is_none_or(|prefix| prefix.matches(subject.prefix))
            && self.from_peer.is_none_or(|from_peer| from_peer == subject.from_peer)
            && self.interface.as_deref().is_none_or(|pattern| {
                subject.interface.is_some_and(|name| is_like(pattern.as_bytes(), name.as_bytes()))
            })
            && self.community.is_none_or(|community| community.is_on(attributes))
            && attributes.as_path.starts_with(&self.as_path)
            && self.priority.is_none_or(|priority| priority == priority_of(attributes, subject.from_peer))
    }
}

impl PrefixMatch {
    fn matches(&self, prefix: &IpNet) -> bool {
        let inside = if self.equal { *prefix == self.range } else { self.range.contains(prefix) };
        let length = prefix.prefix_len();
        (inside && self.lengths.0 <= length && length <= self.lengths.1) != self.negated
    }
}

impl AnyCommunity {
    fn is_on(self, attributes: &Attributes) -> bool {
        match self {
            Self::Standard(community) => attributes.communities.contains(&community),
            Self::Large(community) => attributes.large_communities.contains(&community),
        }
    }

    /// Adds it where it is missing.
    pub fn add_to(self, attributes: &mut Attributes) {
        match self {
            _ if self.is_on(attributes) => {}
            Self::Standard(community) => attributes.communities.push(community),
            Self::Large(community) => attributes.large_communities.push(community),
        }
    }
}

impl Operation {
    fn apply(&self, attributes: &mut Attributes) {
        match self {
            Self::AddCommunity(community) => community.add_to(attributes),
            Self::Prepend(numbers) => {
                for number in numbers.iter().rev() {
                    attributes.as_path = attributes.as_path.prepended(*number);
                }
            }
            Self::SetPriority(priority) => attributes.local_pref = Some(PRIORITY_BASE.saturating_sub(*priority)),
        }
    }
}

fn priority_of(attributes: &Attributes, from_peer: bool) -> u32 {
    match attributes.local_pref {
        None if !from_peer => NORMAL_PRIORITY,
        local_pref => PRIORITY_BASE.saturating_sub(local_pref.unwrap_or(DEFAULT_LOCAL_PREF)),
    }
}

/// Whether `text` is like `pattern`, in which `*` stands for any number of characters.
fn is_like(pattern: &[u8], text: &[u8]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some((b'*', rest)) => (0..=text.len()).any(|skipped| is_like(rest, &text[skipped..])),
        Some((byte, rest)) => text.split_first().is_some_and(|(first, others)| first == byte && is_like(rest, others)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{AsPath, Segment};

    fn net(text: &str) -> IpNet {
        text.parse().expect("a prefix")
    }

    fn within(range: &str, lengths: (u8, u8)) -> PrefixMatch {
        PrefixMatch { range: net(range), equal: false, negated: false, lengths }
    }

    fn policy(rule: Rule) -> Policy {
        Policy { v4: vec![rule], v6: Vec::new(), otherwise: true }
    }

    fn passes(policy: &Policy, prefix: &str, attributes: &Attributes) -> bool {
        let subject = Subject { prefix: &net(prefix), attributes, from_peer: true, interface: None };
        policy.judge(subject) != Outcome::Reject
    }

    #[test]
    fn prefixes_are_compared_as_the_operators_say() {
        let plain = Attributes::default();
        let inside = within("10.0.0.0/8", (16, 24));
        for (rule, prefix, matches) in [
            (inside, "10.1.0.0/16", true),
            (inside, "10.1.1.0/24", true),
            (inside, "10.0.0.0/8", false),
            (inside, "10.1.1.0/25", false),
            (inside, "11.1.0.0/16", false),
            (PrefixMatch { negated: true, ..inside }, "11.1.0.0/16", true),
            (PrefixMatch { negated: true, ..inside }, "10.1.0.0/16", false),
            (PrefixMatch { negated: true, ..inside }, "10.1.1.0/25", true),
            (PrefixMatch { equal: true, ..within("10.0.0.0/8", (0, 32)) }, "10.0.0.0/8", true),
            (PrefixMatch { equal: true, ..within("10.0.0.0/8", (0, 32)) }, "10.1.0.0/16", false),
            (PrefixMatch { equal: true, negated: true, ..within("10.0.0.0/8", (0, 32)) }, "10.1.0.0/16", true),
        ] {
            let policy = policy(Rule { prefix: Some(rule), ..Rule::default() });
            assert_eq!(!passes(&policy, prefix, &plain), matches, "{rule:?} on {prefix}");
        }
        let policy = policy(Rule::default());
        assert!(!passes(&policy, "10.0.0.0/8", &plain), "a rule without conditions matches everything");
        assert!(passes(&policy, "fd00::/8", &plain), "of its family");
    }

    #[test]
    fn every_condition_must_hold() {
        let large = LargeCommunity { global: 1, local1: 2, local2: 3 };
        let good = Attributes {
            as_path: AsPath::new([Segment::Sequence(vec![65001, 65002, 65003])]),
            communities: vec![Community(7)],
            large_communities: vec![large],
            local_pref: Some(PRIORITY_BASE - 512),
            ..Attributes::default()
        };
        let rule = Rule {
            from_peer: Some(true),
            community: Some(AnyCommunity::Large(large)),
            as_path: vec![65001, 65002],
            priority: Some(512),
            ..Rule::default()
        };
        assert!(!passes(&policy(rule.clone()), "10.0.0.0/8", &good));
        for bad in [
            Attributes { large_communities: Vec::new(), ..good.clone() },
            Attributes { as_path: AsPath::new([Segment::Sequence(vec![65001])]), ..good.clone() },
            Attributes { as_path: AsPath::new([Segment::Set(vec![65001, 65002])]), ..good.clone() },
            Attributes { local_pref: None, ..good.clone() },
        ] {
            assert!(passes(&policy(rule.clone()), "10.0.0.0/8", &bad), "{bad:?}");
        }
        assert!(passes(&policy(Rule { from_peer: Some(false), ..rule }), "10.0.0.0/8", &good));
        let standard = Rule { community: Some(AnyCommunity::Standard(Community(7))), ..Rule::default() };
        assert!(!passes(&policy(standard), "10.0.0.0/8", &good));
    }

    #[test]
    fn interfaces_and_priorities_are_those_of_our_own_routes() {
        let rule = Rule { interface: Some("cali*".into()), priority: Some(NORMAL_PRIORITY), ..Rule::default() };
        let policy = policy(rule);
        let (prefix, attributes) = (net("10.0.0.1/32"), Attributes::default());
        let judge = |interface, from_peer| {
            policy.judge(Subject { prefix: &prefix, attributes: &attributes, from_peer, interface })
        };
        assert_eq!(judge(Some("cali12"), false), Outcome::Reject);
        assert_eq!(judge(Some("eth0"), false), Outcome::Pass);
        assert_eq!(judge(None, false), Outcome::Pass);
        assert_eq!(judge(Some("cali12"), true), Outcome::Pass, "a peer's route has LOCAL_PREF 100");
        assert!(is_like(b"*0", b"eth0") && is_like(b"e*h*", b"eth") && !is_like(b"e*x", b"eth0"));
    }

    #[test]
    fn operations_are_applied_in_order_and_once() {
        let add = Operation::AddCommunity(AnyCommunity::Standard(Community(9)));
        let rule = Rule {
            accept: true,
            operations: vec![add.clone(), add, Operation::Prepend(vec![1, 2]), Operation::SetPriority(512)],
            ..Rule::default()
        };
        let before = Attributes { as_path: AsPath::new([Segment::Sequence(vec![3])]), ..Attributes::default() };
        let policy = policy(rule);
        let subject = Subject { prefix: &net("10.0.0.0/8"), attributes: &before, from_peer: true, interface: None };
        let Outcome::Change(after) = policy.judge(subject) else { panic!("it changes") };
        assert_eq!(after.communities, [Community(9)]);
        assert_eq!(after.as_path.numbers().collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(after.local_pref, Some(2_147_483_135));
        let again =
            Subject { attributes: &Attributes { communities: vec![Community(9)], ..before.clone() }, ..subject };
        let only_add = Policy {
            v4: vec![Rule { accept: true, operations: policy.v4[0].operations[..1].to_vec(), ..Rule::default() }],
            ..Policy::ACCEPT
        };
        assert_eq!(only_add.judge(again), Outcome::Pass, "nothing changes");
    }
}
