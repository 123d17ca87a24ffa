//! Calico's policies, staged or not, and their tiers.

use super::rule::{Place, rules};
use super::{Errors, names, network_policy};
use crate::calico::{
    DEFAULT_TIER, KUBE_ADMIN_TIER, KUBE_BASELINE_TIER, Policy, PolicySpec, StagedAction, StagedKubernetesNetworkPolicy,
    StagedKubernetesNetworkPolicySpec, Tier, TierSpec,
};
use crate::field::{FieldError, Path};
use crate::k8s::PolicyType;

pub(super) fn policy(policy: &Policy, namespaced: bool, errors: &mut Errors) {
    let path = Path::root().field("spec");
    let spec = &policy.spec;
    errors.check(path.field("tier"), &spec.tier, names::dns_label(&spec.tier));
    if spec.staged_action == Some(StagedAction::Delete) {
        return deletes_only(spec, &path, errors);
    }
    for (field, selector) in [
        ("selector", Some(&spec.selector)),
        ("namespaceSelector", spec.namespace_selector.as_ref()),
        ("serviceAccountSelector", spec.service_account_selector.as_ref()),
    ] {
        if let Some(selector) = selector.filter(|selector| selector.mentions_global()) {
            let remedy = "global() may only be used as a rule's `namespaceSelector`";
            errors.push(FieldError::invalid(path.field(field), selector, remedy));
        }
    }
    repeated(&spec.types, &path.field("types"), errors);
    repeated(&spec.performance_hints, &path.field("performanceHints"), errors);
    let place = |direction| Place { direction: Some(direction), namespaced };
    rules(&spec.ingress, place(PolicyType::Ingress), &path.field("ingress"), errors);
    rules(&spec.egress, place(PolicyType::Egress), &path.field("egress"), errors);
    before_tracking(spec, &path, errors);
}

/// `doNotTrack` and `preDNAT` act on a node's traffic before anybody knows where it goes.
fn before_tracking(spec: &PolicySpec, path: &Path, errors: &mut Errors) {
    if spec.do_not_track && spec.pre_dnat {
        errors.push(FieldError::forbidden(
            path.field("preDNAT"),
            "may not be set beside `doNotTrack`: make two policies",
        ));
    }
    if spec.pre_dnat {
        let remedy = "a policy with `preDNAT` has ingress only: make a second policy for egress";
        if !spec.egress.is_empty() {
            errors.push(FieldError::forbidden(path.field("egress"), remedy));
        }
        if spec.types.contains(&PolicyType::Egress) {
            errors.push(FieldError::forbidden(path.field("types"), remedy));
        }
    }
    if (spec.do_not_track || spec.pre_dnat) && !spec.apply_on_forward {
        let remedy =
            "must be true in a policy with `doNotTrack` or `preDNAT`, which cannot tell forwarded traffic apart";
        errors.push(FieldError::invalid(path.field("applyOnForward"), &false, remedy));
    }
}

fn repeated<T: PartialEq + serde::Serialize>(list: &[T], path: &Path, errors: &mut Errors) {
    for (index, item) in list.iter().enumerate() {
        if list[..index].contains(item) {
            errors.push(FieldError::duplicate(path.index(index), item));
        }
    }
}

const DELETES_ONLY: &str = "a staged policy with `stagedAction` Delete says nothing else: remove this field";

fn deletes_only(spec: &PolicySpec, path: &Path, errors: &mut Errors) {
    for (field, is_set) in [
        ("order", spec.order.is_some()),
        ("selector", !spec.selector.is_all()),
        ("namespaceSelector", spec.namespace_selector.is_some()),
        ("serviceAccountSelector", spec.service_account_selector.is_some()),
        ("types", !spec.types.is_empty()),
        ("ingress", !spec.ingress.is_empty()),
        ("egress", !spec.egress.is_empty()),
        ("doNotTrack", spec.do_not_track),
        ("preDNAT", spec.pre_dnat),
        ("applyOnForward", spec.apply_on_forward),
        ("performanceHints", !spec.performance_hints.is_empty()),
    ] {
        if is_set {
            errors.push(FieldError::forbidden(path.field(field), DELETES_ONLY));
        }
    }
}

pub(super) fn staged_kubernetes(policy: &StagedKubernetesNetworkPolicy, errors: &mut Errors) {
    let path = Path::root().field("spec");
    let spec = &policy.spec;
    if spec.staged_action != Some(StagedAction::Delete) {
        return network_policy::spec(&spec.policy(), errors);
    }
    let unsaid = StagedKubernetesNetworkPolicySpec::default();
    for (field, is_set) in [
        ("podSelector", spec.pod_selector != unsaid.pod_selector),
        ("ingress", spec.ingress != unsaid.ingress),
        ("egress", spec.egress != unsaid.egress),
        ("policyTypes", spec.policy_types != unsaid.policy_types),
    ] {
        if is_set {
            errors.push(FieldError::forbidden(path.field(field), DELETES_ONLY));
        }
    }
}

pub(super) fn tier(tier: &Tier, errors: &mut Errors) {
    let path = Path::root().field("spec");
    let name = tier.metadata.name.as_str();
    if !matches!(name, DEFAULT_TIER | KUBE_ADMIN_TIER | KUBE_BASELINE_TIER) {
        return;
    }
    let fixed = TierSpec::of(name);
    if tier.spec.order != fixed.order {
        let remedy = format!("the order of tier {name:?} is always {}: use that", fixed.order.unwrap_or_default());
        errors.push(FieldError::invalid(path.field("order"), &tier.spec.order, &remedy));
    }
    if tier.spec.default_action != fixed.default_action {
        let remedy = format!("the default action of tier {name:?} is always {:?}: use that", fixed.default_action);
        errors.push(FieldError::invalid(path.field("defaultAction"), &tier.spec.default_action, &remedy));
    }
}
