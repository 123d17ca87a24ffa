//! The policies of a cluster, and which of them may govern an endpoint.
//!
//! Policies are kept as they were written, those that say the same once, and are filed by what they select: of tens of thousands, those
//! that may govern an endpoint are found without a look at the others. Their order is that of Calico: by tier, then by `order`, then by
//! name, namespace and kind.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use rustc_hash::FxHasher;
use tortie_api::Kind;
use tortie_api::calico::{
    DEFAULT_TIER, KUBE_ADMIN_TIER, KUBE_BASELINE_TIER, PolicySpec, StagedAction, TierAction, TierSpec, compare_orders,
};
use tortie_api::k8s::{
    ClusterNetworkPolicySpec, ClusterNetworkPolicySubject, LabelSelector, NetworkPolicySpec, PolicyType,
};

use crate::index::SelectionIndex;
use crate::labels::Shared;
use crate::peers::canonical_selector;
use crate::selection::{Scope, Seen, Selection, Species};

/// The tiers that there are without a document.
const BUILT_IN: [&str; 3] = [DEFAULT_TIER, KUBE_ADMIN_TIER, KUBE_BASELINE_TIER];

/// The `order` of a Kubernetes NetworkPolicy among the policies of tier `default`.
const KUBERNETES_ORDER: f64 = 1_000.0;

/// The number of a policy.
type Number = u32;

/// Which policy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PolicyKey {
    /// The namespace of a namespaced kind.
    pub(crate) namespace: Option<Arc<str>>,
    /// The name.
    pub(crate) name: Arc<str>,
    /// The kind.
    pub(crate) kind: Kind,
}

impl PolicyKey {
    /// Whether it is staged: evaluated and counted, never enforced.
    pub(crate) const fn is_staged(&self) -> bool {
        matches!(
            self.kind,
            Kind::StagedNetworkPolicy | Kind::StagedGlobalNetworkPolicy | Kind::StagedKubernetesNetworkPolicy
        )
    }

    /// By what policies of a tier and an order are ordered, as Calico has it: the name that it gives them, their namespace and their
    /// kind, as one text with slashes between.
    fn tie_break(&self, spec: &Spec) -> impl Iterator<Item = u8> {
        let prefix = match (self.kind, spec.tier()) {
            (Kind::NetworkPolicy | Kind::StagedKubernetesNetworkPolicy, _) => "knp.default.",
            (Kind::ClusterNetworkPolicy, KUBE_ADMIN_TIER) => "kcnp.admin.",
            (Kind::ClusterNetworkPolicy, _) => "kcnp.baseline.",
            _ => "",
        };
        let kind = match self.kind {
            Kind::NetworkPolicy => "KubernetesNetworkPolicy",
            Kind::ClusterNetworkPolicy => "KubernetesClusterNetworkPolicy",
            other => other.manifest_kind(),
        };
        let namespace = self.namespace.as_deref().unwrap_or_default();
        [prefix, &self.name, "/", namespace, "/", kind].into_iter().flat_map(str::bytes)
    }
}

/// `NAMESPACE/NAME`, or the name of what is in none.
impl std::fmt::Display for PolicyKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{namespace}/{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// What a policy says, shared with all that say the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Spec {
    /// Of Kubernetes' NetworkPolicy, its types defaulted.
    Kubernetes(Arc<NetworkPolicySpec>),
    /// Of Kubernetes' NetworkPolicy, staged.
    StagedKubernetes(Arc<NetworkPolicySpec>, StagedAction),
    /// Of Calico's four kinds.
    Calico(Arc<PolicySpec>),
    /// Of ClusterNetworkPolicy.
    Cluster(Arc<ClusterNetworkPolicySpec>),
}

impl Spec {
    /// The name of its tier.
    pub(crate) fn tier(&self) -> &str {
        match self {
            Self::Kubernetes(_) | Self::StagedKubernetes(..) => DEFAULT_TIER,
            Self::Calico(spec) => &spec.tier,
            Self::Cluster(spec) => spec.tier.calico_tier(),
        }
    }

    /// Its place in the tier: lower comes first, none last.
    pub(crate) fn order(&self) -> Option<f64> {
        match self {
            Self::Kubernetes(_) | Self::StagedKubernetes(..) => Some(KUBERNETES_ORDER),
            Self::Calico(spec) => spec.order,
            Self::Cluster(spec) => Some(f64::from(spec.priority)),
        }
    }

    /// Whether it governs the direction at all.
    pub(crate) fn governs(&self, direction: PolicyType) -> bool {
        match self {
            Self::Kubernetes(spec) | Self::StagedKubernetes(spec, _) => spec.policy_types.contains(&direction),
            Self::Calico(spec) => spec.governs(direction),
            Self::Cluster(spec) => match direction {
                PolicyType::Ingress => !spec.ingress.is_empty(),
                PolicyType::Egress => !spec.egress.is_empty(),
            },
        }
    }

    /// What of a staged policy would become.
    pub(crate) fn staged_action(&self) -> Option<StagedAction> {
        match self {
            Self::StagedKubernetes(_, action) => Some(*action),
            Self::Calico(spec) => spec.staged_action,
            Self::Kubernetes(_) | Self::Cluster(_) => None,
        }
    }

    /// The endpoints that the policy governs, if it is in this namespace, or in none.
    pub(crate) fn subject(&self, namespace: Option<&str>) -> Selection {
        match self {
            Self::Kubernetes(spec) | Self::StagedKubernetes(spec, _) => {
                let scope = Scope::Namespace(namespace.unwrap_or_default().to_owned());
                Selection::of_pods(scope, &spec.pod_selector)
            }
            Self::Calico(spec) => Selection::of_subject(namespace, spec),
            Self::Cluster(spec) => match &spec.subject {
                ClusterNetworkPolicySubject::Namespaces(namespaces) => {
                    Selection::of_pods(Scope::Namespaces(namespaces.into()), &LabelSelector::default())
                }
                ClusterNetworkPolicySubject::Pods(pods) => {
                    Selection::of_pods(Scope::Namespaces((&pods.namespace_selector).into()), &pods.pod_selector)
                }
            },
        }
    }
}

/// A policy, and what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PolicyView<'a> {
    /// Which it is.
    pub(crate) key: &'a PolicyKey,
    /// What it says.
    pub(crate) spec: &'a Spec,
}

impl PolicyView<'_> {
    /// The namespace of a namespaced policy.
    pub(crate) fn namespace(&self) -> Option<&str> {
        self.key.namespace.as_deref()
    }

    /// Whether it governs an endpoint that is seen like this, in some direction. Network sets are no endpoints.
    pub(crate) fn selects(&self, seen: &Seen) -> bool {
        match self.spec {
            // Nearly all of them: not worth a selection of their own.
            Spec::Kubernetes(spec) => {
                seen.species == Species::Pod
                    && seen.namespace.as_deref() == self.namespace()
                    && seen.labels.meet(&spec.pod_selector)
            }
            _ => seen.species != Species::Nets && self.spec.subject(self.namespace()).selects(seen),
        }
    }
}

/// A tier.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct TierView<'a> {
    /// Its name.
    pub(crate) name: &'a str,
    /// Its place: lower comes first, none last.
    pub(crate) order: Option<f64>,
    /// What becomes of traffic of an endpoint that policies of the tier govern and no rule decides.
    pub(crate) default_action: TierAction,
}

impl TierView<'_> {
    /// By order, then by name.
    fn compare(&self, other: &Self) -> Ordering {
        compare_orders(self.order, other.order).then_with(|| self.name.cmp(other.name))
    }
}

/// All policies and tiers.
#[derive(Debug, Default)]
pub(crate) struct Policies {
    slots: Vec<Option<(PolicyKey, Spec)>>,
    free: Vec<Number>,
    /// By a digest of the key.
    keys: BTreeSet<(u32, Number)>,
    subjects: SelectionIndex<Number>,
    tiers: BTreeMap<Arc<str>, TierSpec>,
    kubernetes: Shared<NetworkPolicySpec>,
    calico: Shared<PolicySpec>,
    cluster: Shared<ClusterNetworkPolicySpec>,
}

impl Policies {
    /// What a NetworkPolicy says, shared with all that say the same, in little memory.
    pub(crate) fn kubernetes(&mut self, spec: &NetworkPolicySpec) -> Spec {
        Spec::Kubernetes(self.kubernetes.share_owned(compact(spec)))
    }

    /// What a staged NetworkPolicy says.
    pub(crate) fn staged_kubernetes(&mut self, spec: &NetworkPolicySpec, action: Option<StagedAction>) -> Spec {
        Spec::StagedKubernetes(self.kubernetes.share_owned(compact(spec)), action.unwrap_or_default())
    }

    /// What a Calico policy says.
    pub(crate) fn calico(&mut self, spec: &PolicySpec) -> Spec {
        Spec::Calico(self.calico.share_owned(spec.clone()))
    }

    /// What a ClusterNetworkPolicy says.
    pub(crate) fn cluster(&mut self, spec: &ClusterNetworkPolicySpec) -> Spec {
        Spec::Cluster(self.cluster.share_owned(spec.clone()))
    }

    fn number(&self, key: &PolicyKey) -> Option<Number> {
        let digest = digest(key);
        let filed = self.keys.range((digest, Number::MIN)..=(digest, Number::MAX));
        filed.map(|&(_, number)| number).find(|&number| self.view(number).key == key)
    }

    fn view(&self, number: Number) -> PolicyView<'_> {
        match &self.slots[number as usize] {
            Some((key, spec)) => PolicyView { key, spec },
            None => unreachable!("indices hold only policies that are there"),
        }
    }

    /// A policy by its key.
    pub(crate) fn get(&self, key: &PolicyKey) -> Option<&Spec> {
        self.number(key).map(|number| self.view(number).spec)
    }

    /// Takes in a policy. Returns whether it is news.
    pub(crate) fn insert(&mut self, key: PolicyKey, spec: Spec) -> bool {
        if let Some(number) = self.number(&key) {
            if *self.view(number).spec == spec {
                return false;
            }
            self.subjects.remove(&self.view(number).spec.subject(key.namespace.as_deref()), number);
            self.subjects.insert(&spec.subject(key.namespace.as_deref()), number);
            self.slots[number as usize] = Some((key, spec));
            return true;
        }
        let number = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() as Number - 1
        });
        self.keys.insert((digest(&key), number));
        self.subjects.insert(&spec.subject(key.namespace.as_deref()), number);
        self.slots[number as usize] = Some((key, spec));
        true
    }

    /// Forgets a policy. Returns whether it was there.
    pub(crate) fn remove(&mut self, key: &PolicyKey) -> bool {
        let Some(number) = self.number(key) else { return false };
        self.subjects.remove(&self.view(number).spec.subject(key.namespace.as_deref()), number);
        self.keys.remove(&(digest(key), number));
        self.slots[number as usize] = None;
        self.free.push(number);
        true
    }

    /// Takes in a tier, or forgets its document. Returns whether that is news.
    pub(crate) fn set_tier(&mut self, name: &str, spec: Option<&TierSpec>) -> bool {
        let old = match spec {
            Some(spec) => self.tiers.insert(name.into(), spec.clone()),
            None => self.tiers.remove(name),
        };
        let implied = TierSpec::of(name);
        old.as_ref().unwrap_or(&implied) != spec.unwrap_or(&implied)
    }

    /// A tier. Those that are built in always exist. One that nobody has described is taken for the last, and denies what its policies
    /// select and none of their rules decides: a tier that is missing never weakens what is enforced.
    pub(crate) fn tier<'a>(&'a self, name: &'a str) -> TierView<'a> {
        let of = |spec: &TierSpec| TierView { name, order: spec.order, default_action: spec.default_action };
        self.tiers.get(name).map_or_else(|| of(&TierSpec::of(name)), of)
    }

    /// All tiers in order: those with a document, those that are built in, and those that policies name.
    pub(crate) fn tiers(&self) -> Vec<TierView<'_>> {
        let named = self.iter().map(|policy| policy.spec.tier());
        let names: BTreeSet<&str> = self.tiers.keys().map(|name| &**name).chain(BUILT_IN).chain(named).collect();
        let mut tiers: Vec<TierView<'_>> = names.into_iter().map(|name| self.tier(name)).collect();
        tiers.sort_by(TierView::compare);
        tiers
    }

    /// All policies, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = PolicyView<'_>> {
        self.slots.iter().flatten().map(|(key, spec)| PolicyView { key, spec })
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// The policies that govern an endpoint that is seen like this in some direction, in order, staged ones among them.
    pub(crate) fn governing(&self, seen: &Seen) -> Vec<PolicyView<'_>> {
        let mut candidates = Vec::new();
        self.subjects.candidates(seen, &mut candidates);
        candidates.sort_unstable();
        candidates.dedup();
        let views = candidates.into_iter().map(|number| self.view(number));
        let mut governing: Vec<_> = views.filter(|policy| policy.selects(seen)).collect();
        self.sort(&mut governing);
        governing
    }

    /// Brings policies into order: by tier, then by `order`, by name, by namespace, and by kind.
    pub(crate) fn sort(&self, policies: &mut [PolicyView<'_>]) {
        // Nearly always all are of one tier and one order.
        policies.sort_by(|a, b| {
            let tiers = if a.spec.tier() == b.spec.tier() {
                Ordering::Equal
            } else {
                self.tier(a.spec.tier()).compare(&self.tier(b.spec.tier()))
            };
            tiers
                .then_with(|| compare_orders(a.spec.order(), b.spec.order()))
                .then_with(|| a.key.tie_break(a.spec).cmp(b.key.tie_break(b.spec)))
        });
    }

    /// Gives back the room that was made for more.
    pub(crate) fn shrink(&mut self) {
        self.slots.shrink_to_fit();
        self.kubernetes.sweep();
        self.calico.sweep();
        self.cluster.sweep();
    }

    /// Whether every trace of policies is gone.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0 && self.keys.is_empty() && self.subjects.is_empty()
    }

    /// How many different things NetworkPolicies say.
    #[cfg(test)]
    pub(crate) fn distinct(&self) -> usize {
        self.kubernetes.len()
    }
}

fn digest(key: &PolicyKey) -> u32 {
    let mut hasher = FxHasher::default();
    key.hash(&mut hasher);
    hasher.finish() as u32
}

/// The same with its types as the API server defaults them, and in less memory: a map of one label takes as much room as one of
/// eleven, a list of requirements what it needs.
fn compact(spec: &NetworkPolicySpec) -> NetworkPolicySpec {
    let mut spec = spec.clone();
    if spec.policy_types.is_empty() {
        spec.policy_types.push(PolicyType::Ingress);
        if !spec.egress.is_empty() {
            spec.policy_types.push(PolicyType::Egress);
        }
    }
    spec.pod_selector = canonical_selector(&spec.pod_selector);
    let from = spec.ingress.iter_mut().flat_map(|rule| &mut rule.from);
    let to = spec.egress.iter_mut().flat_map(|rule| &mut rule.to);
    for peer in from.chain(to) {
        for selector in [&mut peer.pod_selector, &mut peer.namespace_selector].into_iter().flatten() {
            *selector = canonical_selector(selector);
        }
    }
    spec
}
