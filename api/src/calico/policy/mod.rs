//! Calico's policies and what their rules speak of.
//!
//! Four kinds share [`PolicySpec`]: NetworkPolicy (of one namespace), GlobalNetworkPolicy, and the staged sibling of each, which is
//! evaluated and counted but never enforced. A policy stands in a [`Tier`]; its rules pick their peers by addresses, by the labels of
//! pods, [`NetworkSet`]s and [`HostEndpoint`]s, by service accounts or by a Service.

mod endpoints;
mod names;
mod protocol;
mod rule;
mod staged;
mod tier;

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};

use serde::{Deserialize, Serialize};

pub use endpoints::{EndpointPort, HostEndpoint, HostEndpointSpec, NetworkSet, NetworkSetSpec, Profile, ProfileSpec};
pub(super) use names::optional as optional_name;
pub use protocol::{RulePort, RuleProtocol};
pub use rule::{Action, EntityRule, Icmp, IpVersion, PolicyRule, RuleMetadata, ServiceAccountMatch, ServiceMatch};
pub use staged::{StagedAction, StagedKubernetesNetworkPolicy, StagedKubernetesNetworkPolicySpec};
pub use tier::{DEFAULT_TIER, KUBE_ADMIN_TIER, KUBE_BASELINE_TIER, Tier, TierAction, TierSpec};

use crate::k8s::PolicyType;
use crate::meta::{ObjectMeta, null_as_default};
use crate::selector::Selector;

/// `projectcalico.org/v3` NetworkPolicy, GlobalNetworkPolicy, StagedNetworkPolicy or StagedGlobalNetworkPolicy: which, says the
/// variant of [`Object`](crate::Object) that holds it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Policy {
    /// Name, of a namespaced kind the namespace, labels.
    pub metadata: ObjectMeta,
    /// What is wanted.
    #[serde(default)]
    pub spec: PolicySpec,
}

/// `NetworkPolicySpec`, `GlobalNetworkPolicySpec` and their staged siblings; validation sees to it that a kind has its own fields only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicySpec {
    /// The tier; `default` unless said otherwise.
    #[serde(default = "default_tier", deserialize_with = "tier_or_default")]
    pub tier: String,
    /// The place in the tier: lower comes first, policies without one last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<f64>,
    /// What the policy governs, by a selector such as `app == 'web'`: of a namespaced policy, pods of its namespace; of a global one, pods
    /// and host endpoints.
    #[serde(default, skip_serializing_if = "Selector::is_all")]
    pub selector: Selector,
    /// Of a global policy: only pods of namespaces with such labels, and no host endpoints.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::selector::optional")]
    pub namespace_selector: Option<Selector>,
    /// Only pods whose service account has such labels.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::selector::optional")]
    pub service_account_selector: Option<Selector>,
    /// The directions that are governed. Where nothing is said, those that there are rules for, and `Ingress` if there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub types: Vec<PolicyType>,
    /// What is done with traffic to the endpoint; the first rule that decides.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub ingress: Vec<PolicyRule>,
    /// What is done with traffic from the endpoint.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub egress: Vec<PolicyRule>,
    /// Of a global policy: applied to host endpoints before connection tracking, to each packet by itself.
    #[serde(default, skip_serializing_if = "is_false", deserialize_with = "null_as_default")]
    pub do_not_track: bool,
    /// Of a global policy: applied to host endpoints before destination NAT.
    #[serde(default, rename = "preDNAT", skip_serializing_if = "is_false", deserialize_with = "null_as_default")]
    pub pre_dnat: bool,
    /// Of a global policy: applied to what a host endpoint forwards too.
    #[serde(default, skip_serializing_if = "is_false", deserialize_with = "null_as_default")]
    pub apply_on_forward: bool,
    /// Of a staged policy: what it would do; `Set` where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "names::optional")]
    pub staged_action: Option<StagedAction>,
    /// Hints for a dataplane; they never change what a policy means.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub performance_hints: Vec<PerformanceHint>,
}

/// Decoding refuses an `order` that is no number, so equality is total.
impl Eq for PolicySpec {}

impl Hash for PolicySpec {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self {
            tier,
            order,
            selector,
            namespace_selector,
            service_account_selector,
            types,
            ingress,
            egress,
            do_not_track,
            pre_dnat,
            apply_on_forward,
            staged_action,
            performance_hints,
        } = self;
        // 0 and -0 are equal.
        let order = order.map(|order| (order + 0.0).to_bits());
        (tier, order, selector, namespace_selector, service_account_selector).hash(state);
        (types, ingress, egress, do_not_track, pre_dnat, apply_on_forward, staged_action).hash(state);
        performance_hints.hash(state);
    }
}

impl Default for PolicySpec {
    fn default() -> Self {
        Self {
            tier: default_tier(),
            order: None,
            selector: Selector::all(),
            namespace_selector: None,
            service_account_selector: None,
            types: Vec::new(),
            ingress: Vec::new(),
            egress: Vec::new(),
            do_not_track: false,
            pre_dnat: false,
            apply_on_forward: false,
            staged_action: None,
            performance_hints: Vec::new(),
        }
    }
}

impl PolicySpec {
    /// Whether the policy governs this direction.
    pub fn governs(&self, direction: PolicyType) -> bool {
        self.types.contains(&direction)
    }

    /// The rules of a direction.
    pub fn rules(&self, direction: PolicyType) -> &[PolicyRule] {
        match direction {
            PolicyType::Ingress => &self.ingress,
            PolicyType::Egress => &self.egress,
        }
    }

    /// Fills in `types` as Calico does: the directions there are rules for, and ingress where there are none at all.
    pub(crate) fn default_types(&mut self) {
        if self.types.is_empty() {
            if !self.ingress.is_empty() || self.egress.is_empty() {
                self.types.push(PolicyType::Ingress);
            }
            if !self.egress.is_empty() {
                self.types.push(PolicyType::Egress);
            }
        }
    }
}

/// `performanceHints`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum PerformanceHint {
    /// Every node should have the policy ready. Nothing is to be done for it here: a policy is compiled in microseconds.
    AssumeNeededOnEveryNode,
}

/// Compares two orders of policies or of tiers: lower first, none last.
pub fn compare_orders(a: Option<f64>, b: Option<f64>) -> Ordering {
    // 0 and -0 are the same order.
    let key = |order: Option<f64>| order.map_or(f64::INFINITY, |order| order + 0.0);
    key(a).total_cmp(&key(b)).then(a.is_none().cmp(&b.is_none()))
}

fn default_tier() -> String {
    DEFAULT_TIER.to_owned()
}

/// Reads a tier's name; an empty one is the default.
fn tier_or_default<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?.unwrap_or_default();
    Ok(if text.is_empty() { default_tier() } else { text })
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_false(value: &bool) -> bool {
    !*value
}
