//! Chains and sets that say what an [`Access`] allows.
//!
//! A class chain is a handful of look-ups, whatever the number of policies behind it: peers that may use every port, then one
//! look-up of the port for each protocol, whose verdict leads straight out or into a *segment* chain with the peers of that range
//! of ports, then ports by name, then the drop. Each chain has a twin for packets in their flow's reply direction (`_r`), where
//! source and destination have changed places; both ask the same sets.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::Serialize;
use tortie_api::k8s::{LabelSelector, PolicyType, SelectorOperator};
use tortie_nft::{
    Chain, CtStates, Direction, Family, Field, Key, KeyType, Match, Op, Rule, Ruleset, Set, Side, Statement, Value,
    Verdict, VerdictMap, comment, intervals,
};

use crate::class::{Access, Named};
use crate::cluster::{Cluster, PodPort};
use crate::denied::Reason;
use crate::followed::{Followed, Whom};
use crate::frame::{OK_EGRESS, OK_INGRESS, REJECT};
use crate::names::Names;
use crate::options::DenyAction;
use crate::peers::Peers;
use crate::ports::Segment;
use crate::resolver::Resolver;
use crate::selection::{Scope, Selection};

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
    let verdict = match action {
        DenyAction::Drop => Verdict::Drop,
        DenyAction::Reject => Verdict::Goto(REJECT.to_owned()),
    };
    denied(reason, matches, verdict, why)
}

fn denied(reason: Reason, matches: Vec<Match>, verdict: Verdict, why: &str) -> Rule {
    rule(matches, reason.counted(Statement::Verdict(verdict))).commented(why)
}

/// `field @set`, or with [`Op::Ne`] its contrary.
pub(crate) fn in_set(key: Vec<Field>, op: Op, set: &str) -> Match {
    Match::InSet { key, op, set: set.to_owned() }
}

/// Which packets a chain judges, and against which policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct View {
    policy: PolicyType,
    direction: Direction,
}

impl View {
    /// The end that the peer is at.
    fn peer(self) -> Side {
        match (self.policy, self.direction) {
            (PolicyType::Egress, Direction::Original) | (PolicyType::Ingress, Direction::Reply) => Side::Destination,
            (PolicyType::Egress, Direction::Reply) | (PolicyType::Ingress, Direction::Original) => Side::Source,
        }
    }

    fn address(self, family: Family) -> Field {
        match (family, self.peer()) {
            (Family::V4, Side::Source) => Field::Ip4Saddr,
            (Family::V4, Side::Destination) => Field::Ip4Daddr,
            (Family::V6, Side::Source) => Field::Ip6Saddr,
            (Family::V6, Side::Destination) => Field::Ip6Daddr,
        }
    }

    /// The port that policies speak of: where the flow goes to.
    fn port(self) -> Field {
        match self.direction {
            Direction::Original => Field::ThDport,
            Direction::Reply => Field::ThSport,
        }
    }

    fn allowed(self) -> Verdict {
        allowed(self.policy)
    }
}

/// What the names of a direction's classes begin with.
const fn prefix(policy: PolicyType) -> &'static str {
    match policy {
        PolicyType::Egress => "e_",
        PolicyType::Ingress => "i_",
    }
}

/// Where packets go that a direction's policies allow.
fn allowed(policy: PolicyType) -> Verdict {
    Verdict::Goto(match policy {
        PolicyType::Egress => OK_EGRESS.to_owned(),
        PolicyType::Ingress => OK_INGRESS.to_owned(),
    })
}

/// Whose class it is, for people.
#[derive(Debug, Serialize)]
pub(crate) struct Whose {
    /// The policies by name.
    pub(crate) policies: String,
    /// The pods that they select.
    pub(crate) pods: String,
}

impl Whose {
    /// How policies are spoken of that allow nothing.
    fn closed(&self, policy: PolicyType) -> String {
        let to = match policy {
            PolicyType::Egress => "from",
            PolicyType::Ingress => "to",
        };
        format!("{}: nothing {to} {}", self.policies, self.pods)
    }
}

/// Writes chains, sets and maps into a ruleset, each named after its content and there once.
#[derive(Debug)]
pub(crate) struct Builder<'a> {
    deny: DenyAction,
    pub(crate) resolver: Resolver<'a>,
    pub(crate) ruleset: Ruleset,
    pub(crate) names: Names,
    /// The names of all that was asked for, whether it was there already or not.
    pub(crate) used: BTreeSet<String>,
    /// What the sets follow that pods come and go in.
    pub(crate) followed: Vec<(String, Followed)>,
    /// The peers of the pod set before, which the other family's shares.
    peers: Arc<BTreeSet<Selection>>,
}

impl<'a> Builder<'a> {
    /// One that writes into this ruleset.
    pub(crate) fn new(cluster: &'a Cluster, ruleset: Ruleset, names: Names, deny: DenyAction) -> Self {
        let (used, followed, peers) = (BTreeSet::new(), Vec::new(), Arc::default());
        Self { deny, resolver: Resolver::new(cluster), ruleset, names, used, followed, peers }
    }
}

impl Builder<'_> {
    /// The chain of all endpoints that have this access; `whose` says which these are, and in whose name it drops. Returns its name.
    pub(crate) fn class(&mut self, policy: PolicyType, access: &Access, whose: &Whose) -> String {
        if access.all_ports.everyone {
            return self.open(policy);
        }
        let original = self.body(View { policy, direction: Direction::Original }, access);
        if original.is_empty() {
            return self.closed(policy, &whose.closed(policy));
        }
        let mut reply = self.body(View { policy, direction: Direction::Reply }, access);
        let name = self.names.name(prefix(policy), &(&original, &reply, whose));
        let twin = format!("{name}_r");
        let action = self.deny;
        let with_drop = |mut rules: Vec<Rule>| {
            rules.push(deny(action, Reason::Policy, Vec::new(), &format!("{}: no rule allows it", whose.policies)));
            rules
        };
        let (begun, answers) = match policy {
            PolicyType::Egress => ("from", "answers to"),
            PolicyType::Ingress => ("to", "answers of"),
        };
        if let Some(first) = reply.first_mut() {
            first.comment = Some(comment(&format!("{answers} {}", whose.pods)));
        }
        self.chain(&name, || {
            let turn = verdict(vec![Match::CtDirection(Direction::Reply)], Verdict::Goto(twin.clone()));
            let mut rules = vec![turn.commented(&format!("{begun} {}", whose.pods))];
            rules.extend(original);
            with_drop(rules)
        });
        self.chain(&twin, || with_drop(reply));
        name
    }

    /// The chain of endpoints that nothing isolates in this direction.
    pub(crate) fn open(&mut self, policy: PolicyType) -> String {
        let name = format!("{}open", prefix(policy));
        let why = match policy {
            PolicyType::Egress => "from pods whose egress no policy isolates",
            PolicyType::Ingress => "to pods whose ingress no policy isolates",
        };
        self.chain(&name, || vec![verdict(Vec::new(), allowed(policy)).commented(why)]);
        name
    }

    /// The chain of endpoints that nothing may pass in this direction.
    pub(crate) fn closed(&mut self, policy: PolicyType, why: &str) -> String {
        let rules = vec![deny(self.deny, Reason::Policy, Vec::new(), why)];
        let name = self.names.name(prefix(policy), &rules);
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

    fn chain(&mut self, name: &str, rules: impl FnOnce() -> Vec<Rule>) {
        self.used.insert(name.to_owned());
        if !self.ruleset.chains.contains_key(name) {
            self.ruleset.chains.insert(name.to_owned(), Chain { hook: None, rules: rules() });
        }
    }

    /// The allowing rules of a class.
    fn body(&mut self, view: View, access: &Access) -> Vec<Rule> {
        let mut rules = self.peer_rules(view, &access.all_ports);
        for (protocol, segments) in &access.segments {
            let map = self.port_map(view, segments);
            rules.push(rule(
                vec![Match::L4Proto(Op::Eq, protocol.number())],
                vec![Statement::Vmap { key: vec![view.port()], map }],
            ));
        }
        if !access.named.is_empty() {
            for family in [Family::V4, Family::V6] {
                let set = self.named_set(&access.named, family);
                let key = vec![view.address(family), Field::L4Proto, view.port()];
                rules.push(verdict(vec![Match::NfProto(family), in_set(key, Op::Eq, &set)], view.allowed()));
            }
        }
        rules
    }

    /// One look-up for the pods of each family, and one for the addresses of each.
    fn peer_rules(&mut self, view: View, peers: &Peers) -> Vec<Rule> {
        let mut rules = Vec::new();
        let mut look_up = |family, set: &str| {
            let key = vec![view.address(family)];
            rules.push(verdict(vec![Match::NfProto(family), in_set(key, Op::Eq, set)], view.allowed()));
        };
        for family in [Family::V4, Family::V6] {
            if !peers.pods.is_empty() {
                look_up(family, &self.pod_set(&peers.pods, family));
            }
            if let Some(set) = self.net_set(peers, family) {
                look_up(family, &set);
            }
        }
        rules
    }

    /// The map from a protocol's ports to their segments.
    fn port_map(&mut self, view: View, segments: &[Segment]) -> String {
        let mut elements = BTreeMap::new();
        for segment in segments {
            let outcome = if segment.peers.everyone {
                view.allowed()
            } else {
                let rules = self.peer_rules(view, &segment.peers);
                if rules.is_empty() {
                    continue;
                }
                let name = self.names.name("t_", &rules);
                self.chain(&name, || {
                    let mut rules = rules;
                    if let Some(first) = rules.first_mut() {
                        first.comment = Some("the peers of some ports".to_owned());
                    }
                    rules
                });
                Verdict::Jump(name)
            };
            elements.insert(vec![ports(segment.first, segment.last)], outcome);
        }
        let name = self.names.name("v_", &elements.iter().collect::<Vec<_>>());
        self.used.insert(name.clone());
        self.ruleset.maps.entry(name.clone()).or_insert_with(|| VerdictMap {
            key: vec![KeyType::InetService],
            interval: true,
            elements,
            comment: Some("each port's peers".to_owned()),
        });
        name
    }

    /// The set of the addresses of the pods that any of `peers` selects. Named after the selectors: pods come and go in it.
    fn pod_set(&mut self, peers: &BTreeSet<Selection>, family: Family) -> String {
        let (prefix, key) = match family {
            Family::V4 => ("s4_", KeyType::Ipv4Addr),
            Family::V6 => ("s6_", KeyType::Ipv6Addr),
        };
        let name = self.names.name(prefix, peers);
        self.used.insert(name.clone());
        if !self.ruleset.sets.contains_key(&name) {
            let addresses = self.resolver.addresses(peers, family == Family::V4);
            let set = Set {
                key: vec![key],
                interval: false,
                elements: addresses.into_iter().map(|address| vec![Value::Addr(address)]).collect(),
                comment: Some(comment(&describe(peers))),
            };
            self.ruleset.sets.insert(name.clone(), set);
            if *self.peers != *peers {
                self.peers = Arc::new(peers.clone());
            }
            let whom = Whom::Pods(Arc::clone(&self.peers));
            self.followed.push((name.clone(), Followed { family, whom }));
        }
        name
    }

    /// The interval set of the peers' blocks of one family; `None` if there is nothing in it.
    fn net_set(&mut self, peers: &Peers, family: Family) -> Option<String> {
        self.range_set(&peers.ranges(), family)
    }

    /// The interval set of what of these blocks, each less its exceptions, is of one family; `None` if there is nothing in it.
    pub(crate) fn range_set(&mut self, ranges: &[(IpNet, Vec<IpNet>)], family: Family) -> Option<String> {
        let (prefix, key, elements) = match family {
            Family::V4 => ("n4_", KeyType::Ipv4Addr, intervals::union_v4(ranges)),
            Family::V6 => ("n6_", KeyType::Ipv6Addr, intervals::union_v6(ranges)),
        };
        if elements.is_empty() {
            return None;
        }
        let name = self.names.name(prefix, &elements);
        self.used.insert(name.clone());
        self.ruleset.sets.entry(name.clone()).or_insert_with(|| Set {
            key: vec![key],
            interval: true,
            elements,
            comment: Some("addresses that annotations or rules of policies name".to_owned()),
        });
        Some(name)
    }

    /// The set of (address, protocol, port) of all pods that have a port of one of these names. Named after what it asks for.
    fn named_set(&mut self, named: &BTreeSet<Named>, family: Family) -> String {
        let (prefix, key) = match family {
            Family::V4 => ("p4_", KeyType::Ipv4Addr),
            Family::V6 => ("p6_", KeyType::Ipv6Addr),
        };
        let name = self.names.name(prefix, named);
        self.used.insert(name.clone());
        if !self.ruleset.sets.contains_key(&name) {
            let mut elements = BTreeSet::new();
            for named in named {
                self.named_elements(named, family == Family::V4, &mut elements);
            }
            let names: BTreeSet<&str> = named.iter().map(|named| named.name.as_str()).collect();
            let names = names.into_iter().collect::<Vec<_>>().join(", ");
            let set = Set {
                key: vec![key, KeyType::InetProto, KeyType::InetService],
                interval: false,
                elements,
                comment: Some(comment(&format!("ports named {names}"))),
            };
            self.ruleset.sets.insert(name.clone(), set);
            self.followed.push((name.clone(), Followed { family, whom: Whom::Named(named.clone()) }));
        }
        name
    }

    fn named_elements(&mut self, named: &Named, v4: bool, elements: &mut BTreeSet<Key>) {
        let cluster = self.resolver.cluster;
        let mut add = |ports: &[PodPort], ips: &mut dyn Iterator<Item = IpAddr>| {
            let is_it = |port: &&PodPort| port.protocol == named.protocol && port.name.as_ref() == Some(&named.name);
            if ports.iter().any(|port| is_it(&port)) {
                for ip in ips.filter(|ip| ip.is_ipv4() == v4) {
                    elements.extend(ports.iter().filter(is_it).map(|port| {
                        vec![Value::Addr(ip), Value::Proto(port.protocol.number()), Value::Port(port.number)]
                    }));
                }
            }
        };
        for peer in &named.peers.pods {
            for &id in self.resolver.members(peer).iter() {
                let pod = cluster.pod_by_id(id);
                add(pod.ports(), &mut pod.ips());
            }
            for host in cluster.hosts().filter(|host| peer.selects(&host.seen())) {
                add(&host.ports, &mut host.spec.expected_ips.iter().copied());
            }
        }
        if named.peers.everyone || !named.peers.blocks.is_empty() {
            let may = |ip: &IpAddr| named.peers.everyone || named.peers.has_address(*ip);
            for pod in cluster.endpoints() {
                add(pod.ports(), &mut pod.ips().filter(may));
            }
            for host in cluster.hosts() {
                add(&host.ports, &mut host.spec.expected_ips.iter().copied().filter(may));
            }
        }
    }
}

/// `ct state` as a match.
pub(crate) fn ct_state(states: CtStates) -> Match {
    Match::CtState(states)
}

fn ports(first: u16, last: u16) -> Value {
    if first == last { Value::Port(first) } else { Value::PortRange(first, last) }
}

/// The selectors for people.
fn describe(peers: &BTreeSet<Selection>) -> String {
    let mut text = String::new();
    for peer in peers {
        if !text.is_empty() {
            text.push_str("; ");
        }
        // Writing to a String cannot fail.
        let _ = match &peer.scope {
            Scope::Namespace(name) => write!(text, "{name}"),
            Scope::Namespaces(selector) if selector.is_all() => write!(text, "all namespaces"),
            Scope::Namespaces(selector) => write!(text, "namespaces with {selector}"),
            Scope::Everywhere => write!(text, "everywhere"),
            Scope::Global => write!(text, "in no namespace"),
        };
        text.push_str(": ");
        let _ = match (peer.pods_only, peer.labels.is_all()) {
            (true, true) => write!(text, "{ALL_PODS}"),
            (false, true) => write!(text, "all"),
            (_, false) => write!(text, "{}", peer.labels),
        };
        if let Some(accounts) = &peer.service_accounts {
            let names: Vec<&str> = accounts.names.iter().map(String::as_str).collect();
            let selector = accounts.selector.as_ref().map(ToString::to_string);
            let which: Vec<String> = names.into_iter().map(str::to_owned).chain(selector).collect();
            let _ = write!(text, " as service accounts {}", which.join(", "));
        }
    }
    text
}

/// How an empty selector is spoken of.
pub(crate) const ALL_PODS: &str = "all pods";

/// The pods of a namespace that a selector selects, for people.
pub(crate) fn describe_pods(selector: &LabelSelector) -> String {
    let mut text = String::new();
    for (key, value) in &selector.match_labels {
        // Writing to a String cannot fail.
        let _ = write!(text, "{}{key}={value}", if text.is_empty() { "" } else { ", " });
    }
    if !selector.match_expressions.is_empty() {
        if !text.is_empty() {
            text.push_str(", ");
        }
        describe_selector(selector, &mut text);
    }
    if text.is_empty() { ALL_PODS.to_owned() } else { text }
}

fn describe_selector(selector: &LabelSelector, text: &mut String) {
    for (index, requirement) in selector.match_expressions.iter().enumerate() {
        if index > 0 {
            text.push_str(", ");
        }
        let key = &requirement.key;
        let values = requirement.values.join(", ");
        // Writing to a String cannot fail.
        let _ = match (requirement.operator, requirement.values.len()) {
            (SelectorOperator::In, 1) => write!(text, "{key}={values}"),
            (SelectorOperator::In, _) => write!(text, "{key} in ({values})"),
            (SelectorOperator::NotIn, _) => write!(text, "{key} notin ({values})"),
            (SelectorOperator::Exists, _) => write!(text, "{key}"),
            (SelectorOperator::DoesNotExist, _) => write!(text, "!{key}"),
        };
    }
}
