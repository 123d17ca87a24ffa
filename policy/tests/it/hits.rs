//! Which rules count a flow: what the oracle names as deciding, as the comments of counters say it.

use tortie_api::calico::{Action, TierAction};
use tortie_api::k8s::PolicyType;
use tortie_api::{Object, ObjectKey};
use tortie_nft::comment;
use tortie_policy::oracle::{Asked, Half, Reason, Step};

/// The tiers that deny what their policies do not decide.
pub(crate) struct Denying(Vec<String>);

impl Denying {
    /// Those of a world of these objects.
    pub(crate) fn of(objects: &[Object]) -> Self {
        let tiers = objects.iter().filter_map(|object| match object {
            Object::Tier(tier) => Some((tier.metadata.name.clone(), tier.spec.default_action)),
            _ => None,
        });
        Self(
            tiers
                .filter(|(_, action)| *action == TierAction::Deny)
                .map(|(name, _)| name)
                .chain(["default".to_owned()])
                .collect(),
        )
    }

    fn has(&self, tier: &str) -> bool {
        self.0.iter().any(|name| name == tier)
    }
}

/// What counts a flow that is judged in one direction like this, in order: rules that log, pass or decide, staged ones among them, and
/// the end of a tier.
pub(crate) fn counting(half: &Half, direction: PolicyType, denying: &Denying, again: bool) -> Vec<String> {
    let mut hits = Vec::new();
    let asked: Vec<&Asked> = half
        .steps
        .iter()
        .filter_map(|step| match step {
            Step::Policy(asked) => Some(asked),
            Step::TierEnd { .. } => None,
        })
        .collect();
    for tier in asked.chunk_by(|a, b| a.tier == b.tier) {
        // Of staged policies the first rule that fits counts.
        let mut rehearsed = false;
        for asked in tier {
            for (number, rule) in asked.looked_at.iter().enumerate() {
                let counts = rule.misfits.is_empty() && !(asked.staged && rehearsed);
                if counts {
                    hits.push(format!("{} {} rule {}", named(&asked.policy), word(direction), number + 1));
                }
                rehearsed |= asked.staged && counts && rule.action != Action::Log;
            }
        }
        let name = &tier[0].tier;
        if tier.iter().all(|asked| asked.staged) && !rehearsed && denying.has(name) {
            hits.push(of_tier(name, direction, tier.iter().map(|asked| &asked.policy)));
        }
    }
    if let Reason::TierDefault { tier, policies } = &half.reason {
        hits.push(of_tier(tier, direction, policies));
    }
    let again = if again { "again: " } else { "" };
    hits.into_iter().map(|hit| comment(&format!("{again}{hit}"))).collect()
}

fn of_tier<'a>(tier: &str, direction: PolicyType, policies: impl IntoIterator<Item = &'a ObjectKey>) -> String {
    let policies: Vec<String> = policies.into_iter().map(named).collect();
    format!("tier {tier} {} default: {}", word(direction), policies.join(", "))
}

fn named(policy: &ObjectKey) -> String {
    let namespace = policy.namespace.as_ref().map_or(String::new(), |namespace| format!("{namespace}/"));
    format!("{} {namespace}{}", policy.kind.as_str(), policy.name)
}

const fn word(direction: PolicyType) -> &'static str {
    match direction {
        PolicyType::Ingress => "ingress",
        PolicyType::Egress => "egress",
    }
}
