//! `Tier`: policies are judged tier by tier, so that one team's Deny comes before another's Allow.

use serde::{Deserialize, Serialize};

use crate::meta::ObjectMeta;

/// The tier of policies that name none, and of Kubernetes' NetworkPolicies. It always exists.
pub const DEFAULT_TIER: &str = "default";

/// The tier of ClusterNetworkPolicies of the Admin tier. It always exists.
pub const KUBE_ADMIN_TIER: &str = "kube-admin";

/// The tier of ClusterNetworkPolicies of the Baseline tier. It always exists.
pub const KUBE_BASELINE_TIER: &str = "kube-baseline";

/// `projectcalico.org/v3 Tier`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(from = "WireTier")]
pub struct Tier {
    /// The tier's name, which policies refer to.
    pub metadata: ObjectMeta,
    /// What is wanted.
    pub spec: TierSpec,
}

/// `TierSpec`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct TierSpec {
    /// The place among tiers: lower comes first, tiers without one last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<f64>,
    /// What becomes of traffic of an endpoint that policies of the tier govern and none of their rules decides.
    pub default_action: TierAction,
}

/// Decoding refuses an `order` that is no number, so equality is total.
impl Eq for TierSpec {}

impl TierSpec {
    /// The spec of a tier of this name that says nothing: those that always exist have an order and an action of their own.
    pub fn of(name: &str) -> Self {
        match name {
            DEFAULT_TIER => Self { order: Some(1_000_000.0), default_action: TierAction::Deny },
            KUBE_ADMIN_TIER => Self { order: Some(1_000.0), default_action: TierAction::Pass },
            KUBE_BASELINE_TIER => Self { order: Some(10_000_000.0), default_action: TierAction::Pass },
            _ => Self::default(),
        }
    }
}

/// `defaultAction` of a tier.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum TierAction {
    /// The traffic is stopped, the default.
    #[default]
    Deny,
    /// The next tier judges it.
    Pass,
}

/// A tier as manifests write it, where what is left out depends upon the name.
#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
struct WireTier {
    metadata: ObjectMeta,
    /// What is wanted.
    #[serde(default)]
    spec: WireSpec,
}

#[derive(Default, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WireSpec {
    /// The place among tiers: lower comes first, tiers without one last.
    #[serde(default)]
    order: Option<f64>,
    /// What becomes of traffic of an endpoint that policies of the tier govern and none of their rules decides.
    #[serde(default, deserialize_with = "super::names::optional")]
    default_action: Option<TierAction>,
}

impl From<WireTier> for Tier {
    fn from(wire: WireTier) -> Self {
        let unsaid = TierSpec::of(&wire.metadata.name);
        let spec = TierSpec {
            order: wire.spec.order.or(unsaid.order),
            default_action: wire.spec.default_action.unwrap_or(unsaid.default_action),
        };
        Self { metadata: wire.metadata, spec }
    }
}
