//! The policies in the order in which they are asked, and which of them select a pod.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use tortie_api::calico::{StagedAction, TierAction};
use tortie_api::k8s::{ClusterNetworkPolicySubject, Pod, PolicyType};
use tortie_api::{Kind, ObjectKey};

use super::members::pod_label;
use super::world::{Body, World, namespace_of};

/// The order within the tier `default` of Kubernetes' NetworkPolicies.
const KUBERNETES_ORDER: f64 = 1000.0;

/// Answers questions about a world: its policies are put in order once for all of them.
#[derive(Debug, Clone)]
pub struct Judge<'a> {
    pub(super) world: &'a World,
    pub(super) tiers: Vec<Tier<'a>>,
    /// The pods that have, or claim, an address, in the order of their names.
    at: BTreeMap<IpAddr, Vec<&'a Pod>>,
}

/// A tier with its policies.
#[derive(Debug, Clone)]
pub(super) struct Tier<'a> {
    pub(super) name: &'a str,
    /// What becomes of what its policies are asked and do not decide.
    pub(super) default_action: TierAction,
    order: Option<f64>,
    /// In the order in which they are asked.
    pub(super) policies: Vec<Policy<'a>>,
}

/// A policy in its place.
#[derive(Debug, Clone)]
pub(super) struct Policy<'a> {
    pub(super) key: ObjectKey,
    pub(super) order: Option<f64>,
    pub(super) staged: bool,
    pub(super) body: &'a Body,
}

impl<'a> Judge<'a> {
    /// The policies as they are in force, with the staged ones among them.
    pub fn new(world: &'a World) -> Self {
        Self::of(
            world,
            world.policies.iter().filter(|(_, body)| !is_set_aside(body)).map(|(key, body)| Policy {
                key: key.clone(),
                order: order_of(body),
                staged: staged_action(body).is_some(),
                body,
            }),
        )
    }

    /// The policies as they would be if the staged ones were made real: each comes in the place of the policy that it is named like,
    /// or takes it away.
    pub fn with_staged(world: &'a World) -> Self {
        let mut policies: BTreeMap<ObjectKey, &Body> = BTreeMap::new();
        let mut gone = BTreeSet::new();
        for (key, body) in &world.policies {
            let enforced = ObjectKey { kind: enforced_kind(key.kind), ..key.clone() };
            match staged_action(body) {
                None => {
                    policies.entry(enforced).or_insert(body);
                }
                Some(StagedAction::Set) => {
                    policies.insert(enforced, body);
                }
                Some(StagedAction::Delete) => {
                    gone.insert(enforced);
                }
                Some(StagedAction::Learn | StagedAction::Ignore) => {}
            }
        }
        let policies = policies.into_iter().filter(|(key, _)| !gone.contains(key));
        Self::of(world, policies.map(|(key, body)| Policy { key, order: order_of(body), staged: false, body }))
    }

    fn of(world: &'a World, policies: impl Iterator<Item = Policy<'a>>) -> Self {
        let mut tiers: BTreeMap<&str, Tier<'a>> = BTreeMap::new();
        for policy in policies {
            let name = tier_of(policy.body);
            let tier = tiers.entry(name).or_insert_with(|| {
                let spec = world.tier(name);
                Tier { name, default_action: spec.default_action, order: spec.order, policies: Vec::new() }
            });
            tier.policies.push(policy);
        }
        let mut tiers: Vec<Tier<'_>> = tiers.into_values().collect();
        tiers.sort_by(|a, b| by_order(a.order, b.order).then(a.name.cmp(b.name)));
        for tier in &mut tiers {
            tier.policies.sort_by(|a, b| by_order(a.order, b.order).then_with(|| sorted_name(a).cmp(&sorted_name(b))));
        }
        let mut at: BTreeMap<IpAddr, Vec<&Pod>> = BTreeMap::new();
        for pod in world.pods.values().filter(|pod| pod.is_endpoint()) {
            let addresses: BTreeSet<IpAddr> = pod.addresses().into_iter().collect();
            for address in addresses {
                at.entry(address).or_default().push(pod);
            }
        }
        Self { world, tiers, at }
    }

    /// The pods that have, or claim, an address.
    pub(super) fn pods_at(&self, address: IpAddr) -> &[&'a Pod] {
        self.at.get(&address).map_or(&[], Vec::as_slice)
    }
}

/// Lower comes first, none last.
fn by_order(a: Option<f64>, b: Option<f64>) -> Ordering {
    match (a, b) {
        (Some(a), Some(b)) => a.partial_cmp(&b).unwrap_or(Ordering::Equal),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => Ordering::Equal,
    }
}

/// The text by which policies of one order are sorted: `NAME/NAMESPACE/KIND`, in Calico's words. It knows Kubernetes' policies by longer
/// names, and as kinds of its own.
fn sorted_name(policy: &Policy<'_>) -> String {
    let ObjectKey { kind, namespace, name } = &policy.key;
    let namespace = namespace.as_deref().unwrap_or_default();
    match (policy.body, tier_of(policy.body)) {
        (Body::Kubernetes(_, None), _) => format!("knp.default.{name}/{namespace}/KubernetesNetworkPolicy"),
        (Body::Kubernetes(_, Some(_)), _) => format!("knp.default.{name}/{namespace}/StagedKubernetesNetworkPolicy"),
        (Body::Cluster(_), "kube-admin") => format!("kcnp.admin.{name}//KubernetesClusterNetworkPolicy"),
        (Body::Cluster(_), _) => format!("kcnp.baseline.{name}//KubernetesClusterNetworkPolicy"),
        (Body::Calico(_), _) if *kind == Kind::CalicoNetworkPolicy => format!("{name}/{namespace}/NetworkPolicy"),
        (Body::Calico(_), _) => format!("{name}/{namespace}/{}", kind.as_str()),
    }
}

fn tier_of(body: &Body) -> &str {
    match body {
        Body::Kubernetes(..) => "default",
        Body::Cluster(spec) => spec.tier.calico_tier(),
        Body::Calico(policy) => &policy.spec.tier,
    }
}

fn order_of(body: &Body) -> Option<f64> {
    match body {
        Body::Kubernetes(..) => Some(KUBERNETES_ORDER),
        Body::Cluster(spec) => Some(f64::from(spec.priority)),
        Body::Calico(policy) => policy.spec.order,
    }
}

fn staged_action(body: &Body) -> Option<StagedAction> {
    match body {
        Body::Kubernetes(_, action) => *action,
        Body::Cluster(_) => None,
        Body::Calico(policy) => policy.spec.staged_action,
    }
}

/// Whether it is a staged policy that would do nothing if it were made real: a tool is still learning it, somebody set it aside, or it
/// would only take another away.
fn is_set_aside(body: &Body) -> bool {
    staged_action(body).is_some_and(|action| action != StagedAction::Set)
}

/// The kind that a staged policy would be.
fn enforced_kind(kind: Kind) -> Kind {
    match kind {
        Kind::StagedNetworkPolicy => Kind::CalicoNetworkPolicy,
        Kind::StagedGlobalNetworkPolicy => Kind::GlobalNetworkPolicy,
        Kind::StagedKubernetesNetworkPolicy => Kind::NetworkPolicy,
        other => other,
    }
}

impl Policy<'_> {
    /// Whether the policy has a say on what the pod sends, or is sent.
    pub(super) fn governs(&self, world: &World, pod: &Pod, direction: PolicyType) -> bool {
        let own_namespace = self.key.namespace.as_deref().is_none_or(|namespace| namespace == namespace_of(pod));
        own_namespace
            && match self.body {
                Body::Kubernetes(spec, _) => {
                    spec.policy_types.contains(&direction) && spec.pod_selector.matches(&pod.metadata.labels)
                }
                Body::Cluster(spec) => {
                    let rules = match direction {
                        PolicyType::Ingress => spec.ingress.len(),
                        PolicyType::Egress => spec.egress.len(),
                    };
                    let namespace = world.namespace_labels(namespace_of(pod));
                    rules > 0
                        && match &spec.subject {
                            ClusterNetworkPolicySubject::Namespaces(selector) => selector.matches(&namespace),
                            ClusterNetworkPolicySubject::Pods(pods) => {
                                pods.namespace_selector.matches(&namespace)
                                    && pods.pod_selector.matches(&pod.metadata.labels)
                            }
                        }
                }
                Body::Calico(policy) => {
                    let spec = &policy.spec;
                    let namespace = namespace_of(pod);
                    spec.types.contains(&direction)
                        // These are about the traffic of host endpoints alone.
                        && !spec.do_not_track
                        && !spec.pre_dnat
                        && spec.selector.matches_with(&|key: &str| pod_label(world, pod, key))
                        && spec.namespace_selector.as_ref().is_none_or(|selector| {
                            !selector.is_global()
                                && selector.matches_with(&|key: &str| world.namespace_label(namespace, key))
                        })
                        && spec.service_account_selector.as_ref().is_none_or(|selector| {
                            let account = pod.spec.service_account();
                            selector.matches_with(&|key: &str| world.account_label(namespace, account, key))
                        })
                }
            }
    }
}
