//! What counters of hits have counted, as rows for people: one for each rule, in the order in which rules are asked.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tortie_api::calico::Action;
use tortie_api::k8s::PolicyType;

use super::{Counted, Counters, Decider, RULE, is_hit_counter};
use crate::cluster::{Cluster, PolicyKey, PolicyView, Spec};

/// Packets and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Packets.
    pub packets: u64,
    /// Their bytes, IP headers included.
    pub bytes: u64,
}

/// What one rule of a policy, or the end of a tier, decided on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HitRow {
    /// The tier.
    pub tier: String,
    /// What decided.
    pub by: Decider,
    /// What it did.
    pub action: Action,
    /// Whether the policy is staged: it would have.
    pub staged: bool,
    /// The first packets of new flows.
    pub new: Tally,
    /// Packets of flows that existed and were judged again.
    pub again: Tally,
}

/// What a table's counters have counted, by name: packets and bytes.
pub type Hits = BTreeMap<String, (u64, u64)>;

impl Cluster {
    /// What the policies that there are have decided, from the counters that a table declares, with their comments, and what they have
    /// counted. In the order in which rules are asked; a tier's default comes after its policies. Counters of policies and rules that
    /// are not there any more are left out.
    pub fn hits(&self, declared: &BTreeMap<String, Option<String>>, values: &Hits) -> Vec<HitRow> {
        let mut rows: BTreeMap<Decider, HitRow> = BTreeMap::new();
        let mut unread: Vec<&str> = Vec::new();
        // Who asks about few counters waits for these alone.
        for name in values.keys().filter(|name| is_hit_counter(name)) {
            let Some(comment) = declared.get(name) else { continue };
            match Counted::of(name, comment.as_deref().unwrap_or_default()) {
                Some(counted) => self.add(&mut rows, counted, values[name]),
                None => unread.push(name),
            }
        }
        for (name, counted) in self.find(&unread) {
            self.add(&mut rows, counted, values[name]);
        }
        self.in_order(rows)
    }

    fn add(&self, rows: &mut BTreeMap<Decider, HitRow>, counted: Counted, (packets, bytes): (u64, u64)) {
        let Counted { again, by } = counted;
        if !rows.contains_key(&by) {
            let Some(row) = self.row(&by) else { return };
            rows.insert(by.clone(), row);
        }
        if let Some(row) = rows.get_mut(&by) {
            *if again { &mut row.again } else { &mut row.new } = Tally { packets, bytes };
        }
    }

    /// An empty row; `None` if there is no such rule.
    fn row(&self, by: &Decider) -> Option<HitRow> {
        let (tier, action, staged) = match by {
            Decider::Rule { direction, number, .. } => {
                let key = by.policy()?;
                let spec = self.policy(&key)?;
                (spec.tier().to_owned(), action(spec, *direction, *number)?, key.is_staged())
            }
            Decider::TierDefault { tier, policies, .. } => {
                (tier.clone(), Action::Deny, policies.split(", ").all(|policy| policy.starts_with("Staged")))
            }
        };
        let by = by.clone();
        Some(HitRow { tier, by, action, staged, new: Tally::default(), again: Tally::default() })
    }

    /// The rules of counters whose comments had no room for their policies' names, by making the names of all rules.
    fn find<'a>(&self, names: &[&'a str]) -> Vec<(&'a str, Counted)> {
        if names.is_empty() {
            return Vec::new();
        }
        let digits = |name: &'a str| name.get(RULE.len()..).unwrap_or_default();
        let wanted: BTreeMap<&str, Vec<&'a str>> = names.iter().fold(BTreeMap::new(), |mut wanted, name| {
            wanted.entry(digits(name)).or_insert_with(Vec::new).push(*name);
            wanted
        });
        let mut found = Vec::new();
        for PolicyView { key, spec } in self.policies() {
            for direction in [PolicyType::Ingress, PolicyType::Egress] {
                for number in 0..rules(spec, direction) {
                    let counters = Counters::of_rule(key, direction, number);
                    let digits = counters.new.get(RULE.len()..).unwrap_or_default();
                    for name in wanted.get(digits).into_iter().flatten() {
                        let by = Decider::of(key, direction, number);
                        found.push((*name, Counted { again: *name == counters.again, by }));
                    }
                }
            }
        }
        found
    }

    fn in_order(&self, rows: BTreeMap<Decider, HitRow>) -> Vec<HitRow> {
        let keys: Vec<PolicyKey> = rows.keys().filter_map(Decider::policy).collect();
        let places: BTreeMap<PolicyKey, usize> = self.places(&keys);
        let tiers: BTreeMap<&str, usize> =
            self.tiers().into_iter().enumerate().map(|(place, tier)| (tier.name, place)).collect();
        let mut rows: Vec<HitRow> = rows.into_values().collect();
        rows.sort_by_cached_key(|row| {
            let place = row.by.policy().and_then(|key| places.get(&key).copied()).unwrap_or(usize::MAX);
            (tiers.get(row.tier.as_str()).copied().unwrap_or(usize::MAX), place, row.by.clone())
        });
        rows
    }

    /// The places of policies in order among each other.
    fn places(&self, keys: &[PolicyKey]) -> BTreeMap<PolicyKey, usize> {
        let mut views: Vec<PolicyView<'_>> =
            keys.iter().filter_map(|key| Some(PolicyView { key, spec: self.policy(key)? })).collect();
        self.sort_policies(&mut views);
        views.into_iter().enumerate().map(|(place, view)| (view.key.clone(), place)).collect()
    }
}

impl Decider {
    fn of(policy: &PolicyKey, direction: PolicyType, number: usize) -> Self {
        Self::Rule {
            kind: policy.kind,
            namespace: policy.namespace.as_deref().map(str::to_owned),
            name: policy.name.to_string(),
            direction,
            number,
        }
    }

    /// The policy of a rule.
    fn policy(&self) -> Option<PolicyKey> {
        match self {
            Self::Rule { kind, namespace, name, .. } => Some(PolicyKey {
                namespace: namespace.as_deref().map(Into::into),
                name: name.as_str().into(),
                kind: *kind,
            }),
            Self::TierDefault { .. } => None,
        }
    }
}

/// What a rule does; `None` if there is no such rule.
fn action(spec: &Spec, direction: PolicyType, number: usize) -> Option<Action> {
    match spec {
        Spec::Kubernetes(_) | Spec::StagedKubernetes(..) => (number < rules(spec, direction)).then_some(Action::Allow),
        Spec::Calico(spec) => spec.rules(direction).get(number).map(|rule| rule.action),
        Spec::Cluster(spec) => match direction {
            PolicyType::Ingress => spec.ingress.get(number).map(|rule| rule.action.calico_action()),
            PolicyType::Egress => spec.egress.get(number).map(|rule| rule.action.calico_action()),
        },
    }
}

/// How many rules a policy has in a direction.
fn rules(spec: &Spec, direction: PolicyType) -> usize {
    match (spec, direction) {
        (Spec::Kubernetes(spec) | Spec::StagedKubernetes(spec, _), PolicyType::Ingress) => spec.ingress.len(),
        (Spec::Kubernetes(spec) | Spec::StagedKubernetes(spec, _), PolicyType::Egress) => spec.egress.len(),
        (Spec::Calico(spec), direction) => spec.rules(direction).len(),
        (Spec::Cluster(spec), PolicyType::Ingress) => spec.ingress.len(),
        (Spec::Cluster(spec), PolicyType::Egress) => spec.egress.len(),
    }
}

/// The policy of a counter with this comment, if it and the rule are there: then what was counted still means something. A tier's default
/// is only as old as the classes that come to it, and so has none.
pub(crate) fn policy_of(cluster: &Cluster, name: &str, comment: Option<&str>) -> Option<PolicyKey> {
    let Counted { by, .. } = Counted::of(name, comment?)?;
    cluster.row(&by)?;
    by.policy()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tortie_api::{Kind, Object};

    use super::*;

    fn object(value: serde_json::Value) -> Object {
        serde_json::from_value(value).expect("an object")
    }

    fn calico(kind: &str, name: &str, spec: &serde_json::Value) -> Object {
        object(json!({"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": name}, "spec": spec}))
    }

    /// A tier with a policy of two rules, and in the default one a policy of Kubernetes and a staged one, the latter named first.
    fn cluster() -> Cluster {
        let rules = json!([{"action": "Deny"}, {"action": "Pass"}]);
        let mut cluster = Cluster::default();
        for object in [
            calico("Tier", "first", &json!({"order": 10})),
            calico(
                "GlobalNetworkPolicy",
                "first.web",
                &json!({"tier": "first", "selector": "all()", "types": ["Ingress"], "ingress": rules}),
            ),
            calico(
                "StagedGlobalNetworkPolicy",
                "a",
                &json!({"tier": "default", "order": 2000, "selector": "all()", "types": ["Ingress"], "ingress": rules}),
            ),
            object(json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                "metadata": {"name": "web", "namespace": "shop"},
                "spec": {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{}]}})),
        ] {
            cluster.upsert(&object);
        }
        cluster
    }

    fn key(kind: Kind, namespace: Option<&str>, name: &str) -> PolicyKey {
        PolicyKey { namespace: namespace.map(Into::into), name: name.into(), kind }
    }

    fn web() -> PolicyKey {
        key(Kind::GlobalNetworkPolicy, None, "first.web")
    }

    /// A row in short: tier, what decided, action, whether staged, new and judged again.
    fn rows(cluster: &Cluster, counters: &[(Counters, u64, u64)]) -> Vec<String> {
        let declared = counters.iter().flat_map(|(counters, ..)| counters.declared()).collect();
        let values = counters.iter().flat_map(|(counters, new, again)| {
            [(counters.new.clone(), (*new, new * 60)), (counters.again.clone(), (*again, again * 60))]
        });
        // What is counted beside hits, and by a table that declares nothing of it.
        let others = [("policies", (7, 70)), ("h_000000000000", (9, 90))].map(|(name, count)| (name.to_owned(), count));
        let rows = cluster.hits(&declared, &values.chain(others).collect());
        let text = |row: HitRow| {
            assert_eq!((row.new.bytes, row.again.bytes), (row.new.packets * 60, row.again.packets * 60));
            let by = match &row.by {
                Decider::Rule { name, number, .. } => format!("{name} {number}"),
                Decider::TierDefault { policies, .. } => format!("default of {policies}"),
            };
            let staged = if row.staged { " staged" } else { "" };
            format!("{} {by} {:?}{staged} {} {}", row.tier, row.action, row.new.packets, row.again.packets)
        };
        rows.into_iter().map(text).collect()
    }

    #[test]
    fn rows_come_in_the_order_of_rules_with_a_tiers_default_at_its_end() {
        let ingress = PolicyType::Ingress;
        let kubernetes = key(Kind::NetworkPolicy, Some("shop"), "web");
        let staged = key(Kind::StagedGlobalNetworkPolicy, None, "a");
        let counters = [
            (Counters::of_tier("default", ingress, [&kubernetes]), 1, 2),
            (Counters::of_rule(&staged, ingress, 0), 3, 0),
            (Counters::of_rule(&kubernetes, ingress, 0), 4, 5),
            (Counters::of_tier("first", ingress, [&web()]), 6, 0),
            (Counters::of_rule(&web(), ingress, 1), 0, 0),
            (Counters::of_rule(&web(), ingress, 0), 8, 9),
        ];
        let expected = [
            "first first.web 0 Deny 8 9",
            "first first.web 1 Pass 0 0",
            "first default of GlobalNetworkPolicy first.web Deny 6 0",
            "default web 0 Allow 4 5",
            "default a 0 Deny staged 3 0",
            "default default of NetworkPolicy shop/web Deny 1 2",
        ];
        assert_eq!(rows(&cluster(), &counters), expected);
    }

    #[test]
    fn what_is_not_there_any_more_has_no_row() {
        let (ingress, egress) = (PolicyType::Ingress, PolicyType::Egress);
        let gone = key(Kind::GlobalNetworkPolicy, None, "gone");
        let counters = [
            (Counters::of_rule(&gone, ingress, 0), 1, 1),
            (Counters::of_rule(&web(), ingress, 2), 1, 1),
            (Counters::of_rule(&web(), egress, 0), 1, 1),
            // The same name, of another kind.
            (Counters::of_rule(&key(Kind::StagedGlobalNetworkPolicy, None, "first.web"), ingress, 0), 1, 1),
        ];
        assert_eq!(rows(&cluster(), &counters), Vec::<String>::new());
        for (counters, ..) in &counters {
            let [(name, comment), _] = counters.declared();
            assert_eq!(policy_of(&cluster(), &name, comment.as_deref()), None, "{comment:?}");
        }
    }

    #[test]
    fn a_name_that_no_comment_has_room_for_is_found_by_its_digest() {
        let long = format!("first.{}", "web-".repeat(60) + "1");
        let mut cluster = cluster();
        let spec = json!({"tier": "first", "selector": "all()", "types": ["Egress"], "egress": [{"action": "Allow"}, {"action": "Deny"}]});
        cluster.upsert(&calico("GlobalNetworkPolicy", &long, &spec));
        let counters = Counters::of_rule(&key(Kind::GlobalNetworkPolicy, None, &long), PolicyType::Egress, 1);
        let [(name, comment), _] = counters.declared();
        assert_eq!(Counted::of(&name, comment.as_deref().expect("a comment")), None, "the comment is cut");
        assert_eq!(rows(&cluster, &[(counters, 2, 3)]), [format!("first {long} 1 Deny 2 3")]);
    }
}
