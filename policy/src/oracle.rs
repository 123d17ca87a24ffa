//! What policies say, evaluated directly: rule by rule, as the API's documentation reads.
//!
//! The oracle shares nothing with the compiler but the resource types and the matching of selectors. It reads objects into a [`World`]
//! of its own, and is not fast: it is there to be right. It answers [`explain`](crate::explain), it is one engine of the
//! [`matrix`](crate::matrix), and the compiler is held against it by generated clusters.
//!
//! In each direction the tiers are asked in order, and in a tier the policies that select the pod, each rule by rule. Allow and Deny
//! end it, Pass goes on with the next tier, Log only takes note. Where a tier's policies select the pod and none of their rules decides,
//! the tier's `defaultAction` does. What no tier decides is allowed: so says the profile of every pod's namespace. Staged policies are
//! asked like the others, and decide nothing.
//!
//! Beyond policy it knows three facts about pods: a pod always reaches itself; what a pod's own node begins is never cut; and pods
//! may not speak VXLAN, because nodes would take it for their own. For explanations it also knows what a node's settings say:
//! whether the node takes anything from its pods, which addresses are services', and that nobody sends from an address of a pool that
//! is no pod's. Translation of sources changes nothing here: policies never see it. What policies say about the traffic of host
//! endpoints themselves is asked of it apart ([`Judge::at_host`]): whether a flow passes by one is not known from its two ends.

mod calico;
mod cluster;
mod decision;
mod flow;
mod host;
mod judge;
mod kubernetes;
mod members;
mod question;
mod world;

use tortie_api::ObjectKey;
use tortie_api::calico::{Action, TierAction};
use tortie_api::k8s::{PolicyType, Protocol};

pub use decision::{Asked, Decision, Half, LookedAt, Misfit, Place, Reason, Step, WouldBe};
pub use host::{AtHost, DecidedBy, Passage};
pub use judge::Judge;
pub use question::{CLIENT_PORT, End, Error, Question, Traffic, Wanted};
pub use world::World;

use crate::options::{CompileOptions, EndpointToHost, ServiceLoop};
use flow::{Flow, Party};
use world::Body;

/// Whether the policies of a world let a flow pass, and why.
///
/// # Errors
/// [`Error`], if an end is not there or the two have no family in common.
pub fn verdict(world: &World, question: &Question) -> Result<Decision, Error> {
    Judge::new(world).verdict(question)
}

/// The same, with what a node's settings say beside policy.
pub(crate) fn verdict_on(world: &World, question: &Question, options: &CompileOptions) -> Result<Decision, Error> {
    let mut decision = Judge::new(world).verdict_on(question, Some(options))?;
    let staged = Judge::with_staged(world).verdict_on(question, Some(options))?;
    let concerned = |half: &Half| half.steps.iter().any(|step| matches!(step, Step::Policy(asked) if asked.staged));
    for (half, staged) in [(&mut decision.egress, staged.egress), (&mut decision.ingress, staged.ingress)] {
        // A policy that would be replaced or taken away leaves no step of its own, but another reason.
        if concerned(half) || half.reason != staged.reason {
            half.staged = Some(Box::new(WouldBe { allowed: staged.allowed, reason: staged.reason }));
        }
    }
    Ok(decision)
}

impl Judge<'_> {
    /// What becomes of a flow, and why.
    ///
    /// # Errors
    /// [`Error`], if an end is not there or the two have no family in common.
    pub fn verdict(&self, question: &Question) -> Result<Decision, Error> {
        self.verdict_on(question, None)
    }

    /// The same, with what a node's settings say beside policy.
    fn verdict_on(&self, question: &Question, options: Option<&CompileOptions>) -> Result<Decision, Error> {
        let flow = flow::find(self, question, options.is_some())?;
        let default = CompileOptions::default();
        let settings = options.unwrap_or(&default);
        let mut egress = self.half(&flow, PolicyType::Egress, settings);
        let mut ingress = self.half(&flow, PolicyType::Ingress, settings);
        if let Some(options) = options {
            let deny = |reason| Half { allowed: false, reason, steps: Vec::new(), staged: None };
            if self.is_spoofed(&flow) {
                egress = deny(Reason::Spoofed);
            }
            // What policy denies gets no further.
            if egress.allowed && flow.to.pod.is_none() {
                ingress = host_side(&flow, options).map_or(ingress, deny);
            }
        }
        let place = |party: Party<'_>| Place {
            name: party.name,
            pod: party.pod.is_some(),
            address: party.address,
            node: party.node.map(ToOwned::to_owned),
        };
        Ok(Decision {
            allowed: egress.allowed && ingress.allowed,
            egress,
            ingress,
            from: place(flow.from),
            to: place(flow.to),
        })
    }

    /// Whether the flow begins at an address of a pool that nobody has. If a pod sends from it, that pod's node drops it.
    fn is_spoofed(&self, flow: &Flow<'_>) -> bool {
        let nobody = flow.from.pod.is_none() && flow.from.node.is_none();
        nobody && flow.from.address.is_some_and(|address| self.world.pools.values().any(|pool| pool.contains(&address)))
    }

    /// What one direction says.
    fn half(&self, flow: &Flow<'_>, direction: PolicyType, options: &CompileOptions) -> Half {
        let decided = |reason: Reason, steps| Half { allowed: reason.allows(), reason, steps, staged: None };
        if let Some(reason) = exempt(flow, direction, options) {
            return decided(reason, Vec::new());
        }
        let Some(pod) = flow.governed(direction).pod else { return decided(Reason::NotAPod, Vec::new()) };
        let mut steps = Vec::new();
        let mut governed = false;
        for tier in &self.tiers {
            let governing: Vec<&judge::Policy<'_>> =
                tier.policies.iter().filter(|policy| policy.governs(self.world, pod, direction)).collect();
            let mut passed = false;
            for policy in &governing {
                let asked = self.ask(flow, direction, tier.name, policy);
                let decides = asked.decides.filter(|_| !asked.staged);
                steps.push(Step::Policy(asked));
                match decides {
                    Some((rule, action @ (Action::Allow | Action::Deny))) => {
                        let (tier, policy) = (tier.name.to_owned(), policy.key.clone());
                        let reason = Reason::Rule { tier, policy, rule, allowed: action == Action::Allow };
                        return decided(reason, steps);
                    }
                    Some((_, Action::Pass)) => {
                        passed = true;
                        break;
                    }
                    Some((_, Action::Log)) | None => {}
                }
            }
            let enforced: Vec<ObjectKey> =
                governing.iter().filter(|policy| !policy.staged).map(|policy| policy.key.clone()).collect();
            governed |= !enforced.is_empty();
            if enforced.is_empty() || passed {
                continue;
            }
            let action = match tier.default_action {
                TierAction::Deny => Action::Deny,
                TierAction::Pass => Action::Pass,
            };
            steps.push(Step::TierEnd { tier: tier.name.to_owned(), action });
            if action == Action::Deny {
                return decided(Reason::TierDefault { tier: tier.name.to_owned(), policies: enforced }, steps);
            }
        }
        decided(if governed { Reason::LeftOver } else { Reason::NotIsolated }, steps)
    }

    /// What a policy says.
    fn ask(&self, flow: &Flow<'_>, direction: PolicyType, tier: &str, policy: &judge::Policy<'_>) -> Asked {
        let namespace = policy.key.namespace.as_deref();
        let (rules, looked_at) = match policy.body {
            Body::Kubernetes(spec, _) => {
                let rules = match direction {
                    PolicyType::Ingress => spec.ingress.len(),
                    PolicyType::Egress => spec.egress.len(),
                };
                (rules, kubernetes::ask(self.world, flow, direction, namespace.unwrap_or("default"), spec))
            }
            Body::Cluster(spec) => {
                let rules = match direction {
                    PolicyType::Ingress => spec.ingress.len(),
                    PolicyType::Egress => spec.egress.len(),
                };
                (rules, cluster::ask(self.world, flow, direction, spec))
            }
            Body::Calico(policy) => {
                let rules = match direction {
                    PolicyType::Ingress => &policy.spec.ingress,
                    PolicyType::Egress => &policy.spec.egress,
                };
                (rules.len(), calico::ask(self.world, flow, namespace, rules))
            }
        };
        let last = looked_at.last().filter(|rule| rule.misfits.is_empty() && rule.action != Action::Log);
        let decides = last.map(|rule| (looked_at.len() - 1, rule.action));
        Asked {
            tier: tier.to_owned(),
            policy: policy.key.clone(),
            order: policy.order,
            staged: policy.staged,
            rules,
            looked_at,
            decides,
        }
    }
}

/// Why a node's settings deny a flow to an address that is no pod's.
fn host_side(flow: &Flow<'_>, options: &CompileOptions) -> Option<Reason> {
    let to_own_node = flow.from.pod.is_some() && flow.to.node.is_some() && flow.from.node == flow.to.node;
    if to_own_node && options.endpoint_to_host == EndpointToHost::Drop {
        return Some(Reason::EndpointToHost);
    }
    let in_services = |address| options.service_cidrs.iter().any(|cidr| cidr.contains(&address));
    let to_service = flow.to.node.is_none() && flow.to.address.is_some_and(in_services);
    (to_service && options.service_loop_prevention != ServiceLoop::Disabled).then_some(Reason::ServiceLoop)
}

/// What decides a direction before policy is asked.
fn exempt(flow: &Flow<'_>, direction: PolicyType, options: &CompileOptions) -> Option<Reason> {
    if let (Some(from), Some(to)) = (flow.from.pod, flow.to.pod)
        && std::ptr::eq(from, to)
    {
        return Some(Reason::Itself);
    }
    flow.governed(direction).pod?;
    match direction {
        PolicyType::Egress => {
            let port = options.vxlan_port;
            let vxlan = matches!(flow.traffic, Traffic::Ports { protocol: Protocol::Udp, port: to, .. } if to == port);
            (vxlan && !options.allow_vxlan_from_workloads).then_some(Reason::Tunnel)
        }
        PolicyType::Ingress => {
            let from_own_node = flow.from.pod.is_none() && flow.from.node.is_some() && flow.from.node == flow.to.node;
            from_own_node.then_some(Reason::OwnNode)
        }
    }
}
