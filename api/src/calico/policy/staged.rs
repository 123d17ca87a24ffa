//! Staged policies: what would happen, evaluated and counted, never enforced.

use serde::{Deserialize, Serialize};

use crate::k8s::{LabelSelector, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicySpec, PolicyType};
use crate::meta::{ObjectMeta, null_as_default};

/// `stagedAction`: what applying the staged policy would do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum StagedAction {
    /// The policy of the same name would be made or replaced, the default.
    #[default]
    Set,
    /// The policy of the same name would be deleted.
    Delete,
    /// A tool is still learning it.
    Learn,
    /// It is set aside.
    Ignore,
}

/// `projectcalico.org/v3 StagedKubernetesNetworkPolicy`: Kubernetes' NetworkPolicy, staged.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct StagedKubernetesNetworkPolicy {
    /// Name and namespace.
    pub metadata: ObjectMeta,
    /// What is wanted.
    #[serde(default)]
    pub spec: StagedKubernetesNetworkPolicySpec,
}

/// `StagedKubernetesNetworkPolicySpec`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StagedKubernetesNetworkPolicySpec {
    /// What it would do; `Set` where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "super::names::optional")]
    pub staged_action: Option<StagedAction>,
    /// The pods of the policy's namespace that it would govern; empty selects all.
    #[serde(default, deserialize_with = "null_as_default")]
    pub pod_selector: LabelSelector,
    /// What could reach the pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub ingress: Vec<NetworkPolicyIngressRule>,
    /// What the pods could reach.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub egress: Vec<NetworkPolicyEgressRule>,
    /// The directions that would be isolated; defaulted as in a NetworkPolicy.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub policy_types: Vec<PolicyType>,
}

impl StagedKubernetesNetworkPolicySpec {
    /// The NetworkPolicy that it would make.
    pub fn policy(&self) -> NetworkPolicySpec {
        NetworkPolicySpec {
            pod_selector: self.pod_selector.clone(),
            ingress: self.ingress.clone(),
            egress: self.egress.clone(),
            policy_types: self.policy_types.clone(),
        }
    }
}
