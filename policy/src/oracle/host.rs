//! What the policies of a host endpoint say of a flow that passes it: four kinds of policies, one after the other.

use tortie_api::Kind;
use tortie_api::calico::{Action, HostEndpoint, PolicyRule, PolicySpec, TierAction};
use tortie_api::k8s::PolicyType;
use tortie_api::selector::Selector;

use super::calico;
use super::flow::{self, Flow};
use super::judge::{Judge, Policy};
use super::members::Member;
use super::question::{Error, Question, Traffic};
use super::world::Body;
use crate::host::{Failsafe, HostOptions};

/// The profile that allows everything, and needs no object.
const ALLOW_ALL: &str = "projectcalico-default-allow";

/// Which way a flow passes a host endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    /// It comes by it, to the node.
    ToNode,
    /// The node sends it by it.
    FromNode,
    /// It comes by it, and is forwarded.
    ForwardIn,
    /// It is forwarded out of it.
    ForwardOut,
}

/// What a host endpoint makes of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AtHost {
    /// Whether it passes.
    pub allowed: bool,
    /// What said so.
    pub by: DecidedBy,
}

/// What decided about a flow at a host endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecidedBy {
    /// It is to or from a failsafe port, or a node's talk with its neighbours.
    Failsafe,
    /// A policy with `doNotTrack`.
    Untracked,
    /// A policy with `preDNAT`.
    PreDnat,
    /// Any other policy, or the default action of its tier.
    Policy,
    /// A profile of the endpoint.
    Profile,
    /// Nobody: it is denied to the node and from it, and allowed where it is forwarded.
    Nobody,
}

/// What an untracked, a preDNAT or another policy is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    Untracked,
    PreDnat,
    Normal,
    Forward,
}

impl Sort {
    fn has(self, spec: &PolicySpec) -> bool {
        match self {
            Self::Untracked => spec.do_not_track,
            Self::PreDnat => !spec.do_not_track && spec.pre_dnat,
            Self::Normal => !spec.do_not_track && !spec.pre_dnat,
            Self::Forward => !spec.do_not_track && !spec.pre_dnat && spec.apply_on_forward,
        }
    }
}

impl Judge<'_> {
    /// What the HostEndpoint of this name makes of the first packet of a flow; none if there is no such endpoint.
    ///
    /// # Errors
    /// [`Error`], if an end of the flow is not there or the two have no family in common.
    pub fn at_host(
        &self,
        endpoint: &str,
        passage: Passage,
        question: &Question,
        options: &HostOptions,
    ) -> Result<Option<AtHost>, Error> {
        let flow = flow::find(self, question, false)?;
        Ok(self.world.hosts.get(endpoint).map(|host| self.judge_at(host, passage, &flow, options)))
    }

    fn judge_at(&self, host: &HostEndpoint, passage: Passage, flow: &Flow<'_>, options: &HostOptions) -> AtHost {
        let direction = match passage {
            Passage::ToNode | Passage::ForwardIn => PolicyType::Ingress,
            Passage::FromNode | Passage::ForwardOut => PolicyType::Egress,
        };
        let decided = |allowed, by| AtHost { allowed, by };
        let (begins, answers) = match direction {
            PolicyType::Ingress => (&options.failsafe_inbound, &options.failsafe_outbound),
            PolicyType::Egress => (&options.failsafe_outbound, &options.failsafe_inbound),
        };
        let failsafe = is_to(flow, begins, direction);
        // An endpoint for all interfaces has no untracked policies. They see single packets: answers of failsafe ports are spared too.
        let untracked = host.spec.interface_name.as_deref() != Some("*") && passage != Passage::ForwardOut;
        if untracked
            && !failsafe
            && !is_from(flow, answers, direction)
            && let Some(allowed) = self.by_rules(host, Sort::Untracked, flow, direction)
        {
            return decided(allowed, DecidedBy::Untracked);
        }
        if direction == PolicyType::Ingress
            && !failsafe
            && let Some(allowed) = self.by_rules(host, Sort::PreDnat, flow, direction)
        {
            return decided(allowed, DecidedBy::PreDnat);
        }
        let to_or_from = matches!(passage, Passage::ToNode | Passage::FromNode);
        if to_or_from && failsafe {
            return decided(true, DecidedBy::Failsafe);
        }
        let sort = if to_or_from { Sort::Normal } else { Sort::Forward };
        for tier in &self.tiers {
            let mut asked = false;
            let mut passed = false;
            for policy in tier.policies.iter().filter(|policy| !policy.staged) {
                let Some(rules) = self.rules(policy, host, sort, direction) else { continue };
                asked = true;
                match self.first(flow, rules) {
                    Some(Action::Allow) => return decided(true, DecidedBy::Policy),
                    Some(Action::Deny) => return decided(false, DecidedBy::Policy),
                    Some(Action::Pass) => passed = true,
                    Some(Action::Log) | None => continue,
                }
                break;
            }
            if asked && !passed && tier.default_action == TierAction::Deny {
                return decided(false, DecidedBy::Policy);
            }
        }
        if !to_or_from {
            return decided(true, DecidedBy::Nobody);
        }
        for name in &host.spec.profiles {
            match self.world.profiles.get(name) {
                Some(profile) => {
                    let rules = match direction {
                        PolicyType::Ingress => &profile.spec.ingress,
                        PolicyType::Egress => &profile.spec.egress,
                    };
                    match self.first(flow, rules) {
                        Some(Action::Allow) => return decided(true, DecidedBy::Profile),
                        Some(Action::Deny) => return decided(false, DecidedBy::Profile),
                        Some(Action::Pass | Action::Log) | None => {}
                    }
                }
                None if name == ALLOW_ALL => return decided(true, DecidedBy::Profile),
                None => {}
            }
        }
        decided(false, DecidedBy::Nobody)
    }

    /// Whether policies of which only rules decide allow or deny the flow; none if they say nothing of it.
    fn by_rules(&self, host: &HostEndpoint, sort: Sort, flow: &Flow<'_>, direction: PolicyType) -> Option<bool> {
        for tier in &self.tiers {
            for policy in tier.policies.iter().filter(|policy| !policy.staged) {
                let Some(rules) = self.rules(policy, host, sort, direction) else { continue };
                match self.first(flow, rules) {
                    Some(Action::Allow) => return Some(true),
                    Some(Action::Deny) => return Some(false),
                    Some(Action::Pass) => break,
                    Some(Action::Log) | None => {}
                }
            }
        }
        None
    }

    /// The rules of a policy that selects the endpoint; none if it does not, or not for this.
    fn rules<'a>(
        &self,
        policy: &'a Policy<'_>,
        host: &HostEndpoint,
        sort: Sort,
        direction: PolicyType,
    ) -> Option<&'a [PolicyRule]> {
        let Body::Calico(body) = policy.body else { return None };
        let (spec, member) = (&body.spec, Member::Host(host));
        // It is in no namespace and runs as nobody.
        let selects = policy.key.kind == Kind::GlobalNetworkPolicy
            && spec.service_account_selector.is_none()
            && spec.namespace_selector.as_ref().is_none_or(Selector::is_global)
            && spec.selector.matches_with(&|key: &str| member.label(self.world, key));
        let rules = match direction {
            PolicyType::Ingress => &spec.ingress,
            PolicyType::Egress => &spec.egress,
        };
        (selects && sort.has(spec) && spec.types.contains(&direction)).then_some(rules)
    }

    /// What the first rule does that fits and decides.
    fn first(&self, flow: &Flow<'_>, rules: &[PolicyRule]) -> Option<Action> {
        let looked_at = calico::ask(self.world, flow, None, rules);
        looked_at.last().filter(|rule| rule.misfits.is_empty() && rule.action != Action::Log).map(|rule| rule.action)
    }
}

/// Whether a flow goes to one of these ports, where the other side is in the port's network.
fn is_to(flow: &Flow<'_>, ports: &[Failsafe], direction: PolicyType) -> bool {
    let Traffic::Ports { protocol, port, .. } = flow.traffic else { return false };
    is_one(flow, ports, direction, protocol.number(), port)
}

/// Whether it comes from one of them.
fn is_from(flow: &Flow<'_>, ports: &[Failsafe], direction: PolicyType) -> bool {
    let Traffic::Ports { protocol, source, .. } = flow.traffic else { return false };
    is_one(flow, ports, direction, protocol.number(), source)
}

fn is_one(flow: &Flow<'_>, ports: &[Failsafe], direction: PolicyType, protocol: u8, port: u16) -> bool {
    let remote = flow.other(direction).address;
    ports.iter().any(|failsafe| {
        (failsafe.protocol, failsafe.port) == (protocol, port)
            && failsafe.net.is_none_or(|net| remote.is_some_and(|address| net.contains(&address)))
    })
}
