//! Why a flow passes or does not: the oracle's decision, for programs and for people.

mod words;

use std::fmt;

use serde::{Deserialize, Serialize};
use tortie_api::ObjectKey;
use tortie_api::calico::Action;
use tortie_api::k8s::PolicyType;

use crate::matrix::Verdict;
use crate::options::CompileOptions;
use crate::oracle::{self, Asked, Error, Half, Place, Question, Reason, World};
use words::Words;

/// What `policy explain` says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// What becomes of the flow.
    pub verdict: Verdict,
    /// What the source's egress says.
    pub egress: Side,
    /// What the destination's ingress says.
    pub ingress: Side,
    /// Where it goes.
    pub route: Route,
    /// The same in one or two sentences.
    pub summary: String,
}

/// What one direction says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Side {
    /// What becomes of the flow as far as this direction is concerned.
    pub verdict: Verdict,
    /// The deciding tier; none where no policy decided.
    pub tier: Option<String>,
    /// The deciding policy, or all of the deciding tier that select the pod if none of their rules does, comma separated.
    pub policy: Option<String>,
    /// Its kind; none where the tier's default action decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The deciding rule, as a field of its policy: `spec.ingress[0]`.
    pub rule: Option<String>,
    /// The same as people count, from 1.
    #[serde(default, rename = "ruleNumber", skip_serializing_if = "Option::is_none")]
    pub rule_number: Option<usize>,
    /// Where the deciding policy comes from, if that is known: a place in a file, or a resource version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// What this direction would say if staged policies were enforced; none if none of them concerns it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staged: Option<Staged>,
    /// How it came to that, in order.
    pub steps: Vec<Step>,
}

/// What a direction would say if staged policies were enforced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Staged {
    /// What would become of the flow as far as this direction is concerned.
    pub verdict: Verdict,
    /// Why, in words.
    pub why: String,
}

/// One step towards a direction's verdict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// The policy that was asked, if any.
    pub policy: Option<String>,
    /// Its kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Its tier, or the tier that ends here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    /// Its order within the tier; none is last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<f64>,
    /// Whether it is staged: what it says would be done, and is not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub staged: bool,
    /// Where it comes from, if that is known: a place in a file, or a resource version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Its rule, if one decides.
    pub rule: Option<String>,
    /// What it says.
    pub result: StepResult,
    /// Why, in words.
    pub why: String,
    /// The rules that were looked at, from the first on, up to the one that decides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
}

/// A rule that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// The rule, as a field of its policy: `spec.ingress[0]`.
    pub rule: String,
    /// What it does with what it fits.
    pub action: Action,
    /// Whether it fits the flow.
    pub fits: bool,
    /// What of it does not fit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub why: Vec<String>,
    /// What of its sets is there that concerns the flow: `NetworkSet demo/partners by 192.0.2.0/24`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<String>,
}

/// What a step says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepResult {
    /// It allows the flow.
    Allow,
    /// It does not fit the flow.
    NoMatch,
    /// It denies the flow.
    Deny,
    /// It leaves the flow to the next tier.
    Pass,
}

/// Where a flow goes, as far as manifests tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// The node that the source is on, or is.
    pub source_node: Option<String>,
    /// The source's address.
    pub source_address: Option<std::net::IpAddr>,
    /// The node that the destination is on, or is.
    pub destination_node: Option<String>,
    /// The destination's address.
    pub destination_address: Option<std::net::IpAddr>,
    /// What kind of way that is.
    pub path: Path,
}

/// What kind of way a flow takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Path {
    /// It stays on one node.
    SameNode,
    /// It goes from node to node.
    CrossNode,
    /// One end is outside the cluster.
    Outside,
    /// A pod has not been given a node yet.
    Unknown,
}

/// Explains what becomes of a flow on a node with these settings.
///
/// # Errors
/// Those of [`oracle::verdict`].
pub fn explain(world: &World, question: &Question, options: &CompileOptions) -> Result<Explanation, Error> {
    let decision = oracle::verdict_on(world, question, options)?;
    let of = |direction| Words::new(&decision, direction, question.traffic);
    let (egress, ingress) = (of(PolicyType::Egress), of(PolicyType::Ingress));
    Ok(Explanation {
        verdict: decision.allowed.into(),
        egress: side(world, &egress, &decision.egress),
        ingress: side(world, &ingress, &decision.ingress),
        route: route(&decision.from, &decision.to),
        summary: words::summary(&decision, &egress, &ingress),
    })
}

impl fmt::Display for Explanation {
    /// The summary, then each policy's say.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.summary)?;
        for (title, side) in [("egress", &self.egress), ("ingress", &self.ingress)] {
            writeln!(f, "  {title}: {}", side.verdict)?;
            for step in &side.steps {
                writeln!(f, "    {}", step.why)?;
            }
            if let Some(staged) = &side.staged {
                writeln!(f, "    with staged policies enforced: {}, {}", staged.verdict, staged.why)?;
            }
        }
        Ok(())
    }
}

fn route(from: &Place, to: &Place) -> Route {
    let path = match (&from.node, &to.node) {
        (Some(from), Some(to)) if from == to => Path::SameNode,
        (Some(_), Some(_)) => Path::CrossNode,
        _ if (from.pod && from.node.is_none()) || (to.pod && to.node.is_none()) => Path::Unknown,
        _ => Path::Outside,
    };
    Route {
        source_node: from.node.clone(),
        source_address: from.address,
        destination_node: to.node.clone(),
        destination_address: to.address,
        path,
    }
}

fn side(world: &World, words: &Words<'_>, half: &Half) -> Side {
    let mut steps: Vec<Step> = half
        .steps
        .iter()
        .map(|step| match step {
            oracle::Step::Policy(asked) => asked_step(world, words, asked),
            oracle::Step::TierEnd { tier, action } => Step {
                result: if *action == Action::Deny { StepResult::Deny } else { StepResult::Pass },
                tier: Some(tier.clone()),
                ..bare_step(words.tier_end(tier, *action))
            },
        })
        .collect();
    let decided_by_rule = matches!(half.reason, Reason::Rule { .. });
    if !decided_by_rule {
        let result = if half.allowed { StepResult::Allow } else { StepResult::Deny };
        steps.push(Step { result, ..bare_step(words.sentence(&half.reason)) });
    }
    let said = Side {
        verdict: half.allowed.into(),
        tier: None,
        policy: None,
        kind: None,
        rule: None,
        rule_number: None,
        source: None,
        staged: half
            .staged
            .as_ref()
            .map(|would_be| Staged { verdict: would_be.allowed.into(), why: words.sentence(&would_be.reason) }),
        steps,
    };
    match &half.reason {
        Reason::Rule { tier, policy, rule, .. } => Side {
            tier: Some(tier.clone()),
            policy: Some(policy_name(policy)),
            kind: Some(policy.kind.as_str().to_owned()),
            rule: Some(words.field(*rule)),
            rule_number: Some(rule + 1),
            source: world.source(policy).map(ToOwned::to_owned),
            ..said
        },
        Reason::TierDefault { tier, policies } => {
            let policies: Vec<String> = policies.iter().map(policy_name).collect();
            Side { tier: Some(tier.clone()), policy: Some(policies.join(", ")), ..said }
        }
        // Kubernetes' policies would be asked in this tier.
        Reason::NotIsolated => Side { tier: Some("default".to_owned()), ..said },
        _ => said,
    }
}

/// `NAMESPACE/NAME`, or the name of what is in no namespace.
fn policy_name(key: &ObjectKey) -> String {
    match &key.namespace {
        Some(namespace) => format!("{namespace}/{}", key.name),
        None => key.name.clone(),
    }
}

fn bare_step(why: String) -> Step {
    Step {
        policy: None,
        kind: None,
        tier: None,
        order: None,
        staged: false,
        source: None,
        rule: None,
        result: StepResult::NoMatch,
        why,
        rules: Vec::new(),
    }
}

fn asked_step(world: &World, words: &Words<'_>, asked: &Asked) -> Step {
    let rules = asked.looked_at.iter().enumerate().map(|(index, rule)| Rule {
        rule: words.field(index),
        action: rule.action,
        fits: rule.misfits.is_empty(),
        why: words.misfits(&rule.misfits),
        members: rule.members.clone(),
    });
    Step {
        policy: Some(policy_name(&asked.policy)),
        kind: Some(asked.policy.kind.as_str().to_owned()),
        tier: Some(asked.tier.clone()),
        order: asked.order,
        staged: asked.staged,
        source: world.source(&asked.policy).map(ToOwned::to_owned),
        rule: asked.decides.map(|(rule, _)| words.field(rule)),
        result: match asked.decides {
            Some((_, Action::Allow)) => StepResult::Allow,
            Some((_, Action::Deny)) => StepResult::Deny,
            Some((_, Action::Pass)) => StepResult::Pass,
            Some((_, Action::Log)) | None => StepResult::NoMatch,
        },
        why: words.asked(asked),
        rules: rules.collect(),
    }
}
