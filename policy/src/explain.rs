//! Why a flow passes or does not: the oracle's decision, for programs and for people.

use std::fmt;

use serde::{Deserialize, Serialize};
use tortie_api::k8s::{PolicyType, Protocol};

use crate::cluster::Cluster;
use crate::matrix::Verdict;
use crate::options::CompileOptions;
use crate::oracle::{self, Decision, Error, Half, Misfit, Place, Question, Reason};

/// The tier that every NetworkPolicy is in.
const TIER: &str = "default";

/// What `policy explain` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Side {
    /// What becomes of the flow as far as this direction is concerned.
    pub verdict: Verdict,
    /// The tier of the deciding policies; none where no policy had a say.
    pub tier: Option<String>,
    /// The policy that allows the flow, or all that isolate the pod if none of them does, comma separated.
    pub policy: Option<String>,
    /// The deciding rule, as a field of its policy: `spec.ingress[0]`.
    pub rule: Option<String>,
    /// How it came to that, in order.
    pub steps: Vec<Step>,
}

/// One step towards a direction's verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The policy that was asked, if any.
    pub policy: Option<String>,
    /// Its rule, if one decides.
    pub rule: Option<String>,
    /// What it says.
    pub result: StepResult,
    /// Why, in words.
    pub why: String,
}

/// What a step says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepResult {
    /// It allows the flow.
    Allow,
    /// It does not.
    NoMatch,
    /// It denies the flow.
    Deny,
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
pub fn explain(cluster: &Cluster, question: &Question, options: &CompileOptions) -> Result<Explanation, Error> {
    let decision = oracle::verdict_of(cluster, question, Some(options))?;
    let what = Flow { decision: &decision, protocol: question.protocol, port: question.port };
    Ok(Explanation {
        verdict: decision.allowed.into(),
        egress: what.side(PolicyType::Egress),
        ingress: what.side(PolicyType::Ingress),
        route: route(&decision.from, &decision.to),
        summary: what.summary(),
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

/// A decided flow, and how to talk about it.
struct Flow<'a> {
    decision: &'a Decision,
    protocol: Protocol,
    port: u16,
}

/// The words for one direction.
struct Words<'a> {
    half: &'a Half,
    /// `egress` or `ingress`.
    direction: &'static str,
    /// The pod whose policies speak.
    pod: &'a str,
    /// `to X` or `from X`.
    peer: String,
}

impl Flow<'_> {
    fn words(&self, direction: PolicyType) -> Words<'_> {
        let (from, to) = (&self.decision.from.name, &self.decision.to.name);
        match direction {
            PolicyType::Egress => {
                Words { half: &self.decision.egress, direction: "egress", pod: from, peer: format!("to {to}") }
            }
            PolicyType::Ingress => {
                Words { half: &self.decision.ingress, direction: "ingress", pod: to, peer: format!("from {from}") }
            }
        }
    }

    fn port(&self) -> String {
        format!("{}/{}", self.protocol, self.port)
    }

    fn summary(&self) -> String {
        let (egress, ingress) = (self.words(PolicyType::Egress), self.words(PolicyType::Ingress));
        if self.decision.allowed {
            if egress.half.reason == Reason::Itself {
                return format!("allowed: {} is the same pod, and a pod always reaches itself", egress.pod);
            }
            return format!("allowed: {}, and {}", self.sentence(&egress), self.sentence(&ingress));
        }
        let denying: Vec<String> =
            [egress, ingress].iter().filter(|words| !words.half.allowed).map(|words| self.sentence(words)).collect();
        format!("denied: {}", denying.join("; and "))
    }

    /// Why a direction says what it says.
    fn sentence(&self, words: &Words<'_>) -> String {
        let Words { direction, pod, peer, .. } = words;
        let port = self.port();
        match &words.half.reason {
            Reason::NotAPod => format!("{pod} is not a pod, and no policy governs its {direction}"),
            Reason::Itself => format!("{pod} always reaches itself"),
            Reason::OwnNode => format!("the {direction} of {pod} is never cut for its own node"),
            Reason::Tunnel => format!("{pod} is a pod, and {port} is the VXLAN of nodes, which no pod may send"),
            Reason::Spoofed => format!(
                "{pod} is in an IPPool and no pod has it: what a pod sends from an address that is not its own is dropped"
            ),
            Reason::EndpointToHost => {
                format!(
                    "{pod} is the pod's own node, which takes nothing from pods: defaultEndpointToHostAction is Drop"
                )
            }
            Reason::ServiceLoop => format!(
                "{pod} is a service address: what nobody translates to a backend's is dropped by serviceLoopPrevention, and \
                 what somebody translates is judged by the backend's address"
            ),
            Reason::NotIsolated => format!("{direction} of {pod} is not isolated by any NetworkPolicy"),
            Reason::Rule { policy, rule } => format!(
                "{direction} of {pod} is allowed by NetworkPolicy {policy}, spec.{direction}[{rule}], for {port} {peer}"
            ),
            Reason::NoRule { policies } => {
                let rules = match words.half.steps.iter().map(|step| step.rules).sum::<usize>() {
                    0 => "which has no rule".to_owned(),
                    _ => format!("and no rule of its {} allows {port} {peer}", count(policies.len())),
                };
                let rules = if policies.len() > 1 { rules.replace("which has", "which have") } else { rules };
                let kind = if policies.len() > 1 { "NetworkPolicies" } else { "NetworkPolicy" };
                format!("{direction} of {pod} is isolated by {kind} {}, {rules}", policies.join(", "))
            }
        }
    }

    fn side(&self, direction: PolicyType) -> Side {
        let words = self.words(direction);
        let Words { half, direction, pod, peer } = &words;
        let field = |rule: usize| format!("spec.{direction}[{rule}]");
        let (policy, rule) = match &half.reason {
            Reason::Rule { policy, rule } => (Some(policy.clone()), Some(field(*rule))),
            Reason::NoRule { policies } => (Some(policies.join(", ")), None),
            _ => (None, None),
        };
        let mut steps: Vec<Step> = half
            .steps
            .iter()
            .map(|step| {
                let rule = step.allowed_by.map(field);
                let why = match &rule {
                    Some(rule) => format!("NetworkPolicy {}: {rule} allows {} {peer}", step.policy, self.port()),
                    None => format!(
                        "NetworkPolicy {} isolates {direction} of {pod} and does not allow it: {}",
                        step.policy,
                        misfits(&step.misfits, direction, peer, &self.port())
                    ),
                };
                let result = if rule.is_some() { StepResult::Allow } else { StepResult::NoMatch };
                Step { policy: Some(step.policy.clone()), rule, result, why }
            })
            .collect();
        if steps.is_empty() || !half.allowed {
            let result = if half.allowed { StepResult::Allow } else { StepResult::Deny };
            steps.push(Step { policy: None, rule: None, result, why: self.sentence(&words) });
        }
        Side {
            verdict: half.allowed.into(),
            tier: (policy.is_some() || half.reason == Reason::NotIsolated).then(|| TIER.to_owned()),
            policy,
            rule,
            steps,
        }
    }
}

fn count(policies: usize) -> String {
    if policies == 1 { "1 policy".to_owned() } else { format!("{policies} policies") }
}

/// What does not fit, rule by rule.
fn misfits(misfits: &[Misfit], direction: &str, peer: &str, port: &str) -> String {
    if misfits.is_empty() {
        return format!("it has no {direction} rule");
    }
    let rules: Vec<String> = misfits
        .iter()
        .enumerate()
        .map(|(rule, misfit)| {
            let what = match misfit {
                Misfit::Peer => format!("is not for {}", peer_of(peer)),
                Misfit::Port => format!("is not for {port}"),
                Misfit::PeerAndPort => format!("is neither for {} nor for {port}", peer_of(peer)),
            };
            format!("spec.{direction}[{rule}] {what}")
        })
        .collect();
    rules.join(", ")
}

/// `X` of `to X` or `from X`.
fn peer_of(peer: &str) -> &str {
    peer.split_once(' ').map_or(peer, |(_, name)| name)
}
