//! The parts of Kubernetes' NetworkPolicy that its staged sibling has, and label selectors: what holds of them beyond their types;
//! `validate/network_policy.rs` has the same.

use serde_json::json;

use super::definitions::{Definitions, Node};

/// How many rules a direction may have, and how many peers and ports a rule: as many as the API server can check.
const RULES: usize = 128;
const PEERS: usize = 128;

pub(super) fn rules(definitions: &mut Definitions) {
    let mut spec = definitions.of("StagedKubernetesNetworkPolicySpec");
    for field in ["ingress", "egress"] {
        spec.field(field).set("maxItems", RULES);
    }
    spec.field("stagedAction").set("default", "Set");
    spec.field("policyTypes").set("maxItems", 2);
    for (rule, peers) in [("NetworkPolicyIngressRule", "from"), ("NetworkPolicyEgressRule", "to")] {
        let mut rule = definitions.of(rule);
        rule.field(peers).set("maxItems", PEERS);
        rule.field("ports").set("maxItems", PEERS);
    }
    let selects = "(has(self.podSelector) || has(self.namespaceSelector))";
    definitions
        .of("NetworkPolicyPeer")
        .rule(
            format!("has(self.ipBlock) || {selects}"),
            "must specify a peer: podSelector, namespaceSelector or ipBlock ({} as a selector selects all)",
        )
        .rule(
            format!("!has(self.ipBlock) || !{selects}"),
            "may not specify both ipBlock and another peer: make two peers",
        );
    definitions.of("IpBlock").field("except").set("maxItems", 64);
    definitions.of("NetworkPolicyPort").rule_at(
        ".endPort",
        "!has(self.endPort) || has(self.port) && type(self.port) == int && self.endPort >= self.port",
        "may only be specified with a `port` that is a number, and must not be less than it",
    );
    label_selector(definitions);
}

/// What holds of label selectors.
pub(super) fn label_selector(definitions: &mut Definitions) {
    let mut selector = definitions.of("LabelSelector");
    selector.field("matchExpressions").set("maxItems", 16);
    selector.field("matchLabels").0["additionalProperties"] =
        json!({"type": "string", "maxLength": 63, "pattern": format!("^({NAME})?$")});
    let mut requirement = definitions.of("LabelSelectorRequirement");
    requirement.field("key").set("maxLength", 317).set("pattern", format!("^({PREFIX}/)?{NAME}$"));
    requirement
        .field("values")
        .set("maxItems", 256)
        .items()
        .set("maxLength", 63)
        .set("pattern", format!("^({NAME})?$"));
    requirement.rule_at(
        ".values",
        "(self.operator in ['In', 'NotIn']) == (has(self.values) && self.values.size() > 0)",
        "must be specified when `operator` is 'In' or 'NotIn', and may not be when it is 'Exists' or 'DoesNotExist'",
    );
}

/// The two parts of a label's key; its value is like the second.
const PREFIX: &str = "[a-z0-9]([a-z0-9-]*[a-z0-9])?([.][a-z0-9]([a-z0-9-]*[a-z0-9])?)*";
const NAME: &str = "[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?";

/// What holds of a whole staged policy.
pub(super) fn staged(mut object: Node<'_>) {
    let unset = |field: &str| format!("(!has(self.spec.{field}) || self.spec.{field}.size() == 0)");
    let selector = "!has(self.spec.podSelector.matchLabels) && !has(self.spec.podSelector.matchExpressions)";
    let fields = [
        ("podSelector", format!("(!has(self.spec.podSelector) || {selector})")),
        ("ingress", unset("ingress")),
        ("egress", unset("egress")),
        ("policyTypes", unset("policyTypes")),
    ];
    for (field, unset) in fields {
        object = super::policy::deletes_only(object, field, &unset);
    }
}
