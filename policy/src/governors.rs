//! Which policies govern which pods.

use std::sync::Arc;

use tortie_api::k8s::NetworkPolicySpec;

use crate::class::Policy;
use crate::cluster::{Cluster, Group, PolicyKey, Spec};

/// The Kubernetes policies that govern a group, in the order of their names.
pub(crate) fn governing<'a>(cluster: &'a Cluster, group: &Group) -> Vec<Policy<'a>> {
    let governing = cluster.governing(&cluster.seen_group(group)).into_iter();
    governing.filter_map(|policy| kubernetes(policy.key, policy.spec)).collect()
}

/// The policy, if it is one of Kubernetes.
pub(crate) fn kubernetes<'a>(key: &'a PolicyKey, spec: &'a Spec) -> Option<Policy<'a>> {
    let Spec::Kubernetes(spec) = spec else { return None };
    let spec: &'a Arc<NetworkPolicySpec> = spec;
    Some(Policy { namespace: key.namespace.as_deref().unwrap_or_default(), name: &key.name, spec })
}
