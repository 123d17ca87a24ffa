//! From an explanation to the counter of what decided.

use tortie_api::Kind;
use tortie_api::k8s::PolicyType;

use super::Counters;
use crate::cluster::PolicyKey;
use crate::explain::{Side, Step};

impl Side {
    /// The counter of new flows that what decided this direction has in a node's table: a rule's, or that of a tier's default action. None
    /// where no policy decided. The rules that count there are those to look at.
    pub fn counter(&self, direction: PolicyType) -> Option<String> {
        let in_tier = self.steps.iter().filter(|step| step.tier == self.tier && !step.staged);
        let counters = if let Some(number) = self.rule_number {
            let policy = in_tier.filter(|step| step.policy == self.policy && step.kind == self.kind).find_map(key)?;
            Counters::of_rule(&policy, direction, number.checked_sub(1)?)
        } else {
            self.policy.as_ref()?;
            let policies: Vec<PolicyKey> = in_tier.filter_map(key).collect();
            Counters::of_tier(self.tier.as_deref()?, direction, &policies)
        };
        Some(counters.new)
    }
}

/// The policy that a step asked.
fn key(step: &Step) -> Option<PolicyKey> {
    let kind: Kind = step.kind.as_deref()?.parse().ok()?;
    let policy = step.policy.as_deref()?;
    let (namespace, name) = match policy.split_once('/') {
        Some((namespace, name)) => (Some(namespace.into()), name),
        None => (None, policy),
    };
    Some(PolicyKey { namespace, name: name.into(), kind })
}
