//! The oracle's decisions in sentences.

use tortie_api::calico::Action;
use tortie_api::k8s::PolicyType;
use tortie_api::{Kind, ObjectKey};

use super::policy_name;
use crate::oracle::{Asked, Decision, LookedAt, Misfit, Reason, Traffic};

/// How to talk about one direction of a flow.
pub(super) struct Words<'a> {
    /// `egress` or `ingress`.
    direction: &'static str,
    /// The pod whose policies speak, or the address.
    pod: &'a str,
    /// The other end.
    other: &'a str,
    /// `TCP/80 from X`, or `TCP/80 to X`.
    what: String,
    /// `TCP/80`.
    traffic: String,
}

/// What becomes of a flow, in a sentence.
pub(super) fn summary(decision: &Decision, egress: &Words<'_>, ingress: &Words<'_>) -> String {
    let sides = [(egress, &decision.egress), (ingress, &decision.ingress)];
    if decision.allowed {
        if decision.egress.reason == Reason::Itself {
            return format!("allowed: {} is the same pod, and a pod always reaches itself", egress.pod);
        }
        let both = sides.map(|(words, half)| words.sentence(&half.reason));
        return format!("allowed: {}", both.join(", and "));
    }
    let denying = sides.iter().filter(|(_, half)| !half.allowed);
    let denying: Vec<String> = denying.map(|(words, half)| words.sentence(&half.reason)).collect();
    format!("denied: {}", denying.join("; and "))
}

impl<'a> Words<'a> {
    pub(super) fn new(decision: &'a Decision, direction: PolicyType, traffic: Traffic) -> Self {
        let (from, to) = (decision.from.name.as_str(), decision.to.name.as_str());
        let (direction, pod, other, what) = match direction {
            PolicyType::Egress => ("egress", from, to, format!("{traffic} to {to}")),
            PolicyType::Ingress => ("ingress", to, from, format!("{traffic} from {from}")),
        };
        Self { direction, pod, other, what, traffic: traffic.to_string() }
    }

    /// A rule as a field of its policy.
    pub(super) fn field(&self, rule: usize) -> String {
        format!("spec.{}[{rule}]", self.direction)
    }

    /// A rule as people count, and as a field.
    fn rule(&self, rule: usize) -> String {
        format!("{} rule {} ({})", self.direction, rule + 1, self.field(rule))
    }

    /// Why a direction says what it says.
    pub(super) fn sentence(&self, reason: &Reason) -> String {
        let Self { direction, pod, what, traffic, .. } = self;
        match reason {
            Reason::NotAPod => format!("{pod} is not a pod, and no policy of pods governs its {direction}"),
            Reason::Itself => format!("{pod} always reaches itself"),
            Reason::OwnNode => format!("the {direction} of {pod} is never cut for its own node"),
            Reason::Tunnel => format!("{pod} is a pod, and {traffic} is the VXLAN of nodes, which no pod may send"),
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
            Reason::NotIsolated => format!("{direction} of {pod} is not isolated by any policy"),
            Reason::LeftOver => {
                format!("no tier decides about {what} by its policies, and the profile of {pod} allows what is left")
            }
            Reason::Rule { tier, policy, rule, allowed } => {
                let verb = if *allowed { "allowed" } else { "denied" };
                let (rule, policy, tier) = (self.rule(*rule), named(policy), in_tier(tier));
                format!("{direction} of {pod} is {verb} by {policy}{tier}, {rule}, for {what}")
            }
            Reason::TierDefault { tier, policies } => {
                let names: Vec<String> = policies.iter().map(named).collect();
                let whose = if names.len() > 1 { "theirs" } else { "it" };
                let (names, tier) = (names.join(" and "), in_tier(tier));
                format!("{direction} of {pod} is isolated by {names}{tier}, and no rule of {whose} fits {what}")
            }
        }
    }

    /// What a tier does with what its policies did not decide.
    pub(super) fn tier_end(&self, tier: &str, action: Action) -> String {
        let does = if action == Action::Deny { "denied" } else { "left to the next tier" };
        format!("tier {tier}: none of its rules decides about {}, which by its defaultAction is {does}", self.what)
    }

    /// What a policy said.
    pub(super) fn asked(&self, asked: &Asked) -> String {
        let policy = named(&asked.policy);
        let would = |does: &str, would: &str| if asked.staged { format!("would {would}") } else { does.to_owned() };
        let Some((rule, action)) = asked.decides else {
            let why = self.why_not(asked);
            let selects = if asked.staged { "would isolate" } else { "isolates" };
            return match asked.policy.kind {
                // These isolate nothing: they say something or they do not.
                Kind::ClusterNetworkPolicy => format!("{policy} does not decide: {why}"),
                _ => format!("{policy} {selects} {} of {} and does not decide: {why}", self.direction, self.pod),
            };
        };
        let does = match action {
            Action::Allow => would("allows", "allow"),
            Action::Deny => would("denies", "deny"),
            Action::Pass => would("leaves to the next tier", "leave to the next tier"),
            Action::Log => would("logs", "log"),
        };
        let members = match asked.looked_at.get(rule) {
            Some(LookedAt { members, .. }) if !members.is_empty() => format!(", by {}", members.join(" and ")),
            _ => String::new(),
        };
        let logs = asked.looked_at.iter().enumerate().filter(|(_, rule)| is_log(rule));
        let logs: Vec<String> = logs.map(|(index, _)| format!(", logged by {}", self.rule(index))).collect();
        format!("{policy}: {} {does} {}{members}{}", self.rule(rule), self.what, logs.concat())
    }

    /// Why no rule of a policy decides.
    fn why_not(&self, asked: &Asked) -> String {
        if asked.rules == 0 {
            return format!("it has no {} rule", self.direction);
        }
        let rules: Vec<String> = asked
            .looked_at
            .iter()
            .enumerate()
            .map(|(index, rule)| {
                let what = if is_log(rule) {
                    "only logs it".to_owned()
                } else if rule.misfits == [Misfit::Peer, Misfit::Port] {
                    format!("is neither for {} nor for {}", self.other, self.traffic)
                } else {
                    self.misfits(&rule.misfits).join(", and ")
                };
                format!("{} {what}", self.rule(index))
            })
            .collect();
        rules.join(", ")
    }

    /// What of a rule does not fit, each by itself.
    pub(super) fn misfits(&self, misfits: &[Misfit]) -> Vec<String> {
        let say = |misfit: &Misfit| match misfit {
            Misfit::Peer => format!("is not for {}", self.other),
            Misfit::Port => format!("is not for {}", self.traffic),
            Misfit::Field { field, why } => format!("{field} {why}"),
        };
        misfits.iter().map(say).collect()
    }
}

/// Whether a rule fits and only takes note.
fn is_log(rule: &LookedAt) -> bool {
    rule.misfits.is_empty() && rule.action == Action::Log
}

/// A policy with its kind.
fn named(policy: &ObjectKey) -> String {
    format!("{} {}", policy.kind.as_str(), policy_name(policy))
}

/// ` in tier X`, where it is not the one that goes without saying.
fn in_tier(tier: &str) -> String {
    if tier == "default" { String::new() } else { format!(" in tier {tier}") }
}
