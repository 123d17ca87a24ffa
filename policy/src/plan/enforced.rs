//! Staged policies made real: what enforcing all of them would leave in force.

use std::collections::{BTreeMap, BTreeSet};

use tortie_api::calico::StagedAction;
use tortie_api::k8s::NetworkPolicy;
use tortie_api::{Kind, Object, ObjectKey};

/// A cluster in which nothing is staged any more.
pub(super) struct Enforced {
    /// Its objects.
    pub(super) objects: Vec<Object>,
    /// The staged policies that were made real: `KIND NAMESPACE/NAME`.
    pub(super) policies: Vec<String>,
}

/// The cluster with its staged policies enforced; none if none of them would do anything. One that a tool is still learning, or that
/// somebody set aside, would not.
pub(super) fn enforced(objects: &[Object]) -> Option<Enforced> {
    let mut policies = Vec::new();
    let mut gone: BTreeSet<ObjectKey> = BTreeSet::new();
    let mut made: BTreeMap<ObjectKey, Object> = BTreeMap::new();
    for object in objects {
        let Some((action, real)) = real(object) else { continue };
        match action {
            StagedAction::Set => drop(made.insert(real.key(), real)),
            StagedAction::Delete => drop(gone.insert(real.key())),
            StagedAction::Learn | StagedAction::Ignore => continue,
        }
        policies.push(object.key().to_string());
    }
    let stays = |object: &&Object| !gone.contains(&object.key()) && !made.contains_key(&object.key());
    let stay = objects.iter().filter(|object| !is_staged(object.kind())).filter(stays).cloned();
    let objects: Vec<Object> = stay.chain(made.values().cloned()).collect();
    (!policies.is_empty()).then_some(Enforced { objects, policies })
}

fn is_staged(kind: Kind) -> bool {
    matches!(kind, Kind::StagedNetworkPolicy | Kind::StagedGlobalNetworkPolicy | Kind::StagedKubernetesNetworkPolicy)
}

/// The policy that a staged one would be, and what would become of it.
fn real(object: &Object) -> Option<(StagedAction, Object)> {
    let (action, real) = match object {
        Object::StagedNetworkPolicy(policy) | Object::StagedGlobalNetworkPolicy(policy) => {
            let mut real = policy.clone();
            let action = real.spec.staged_action.take();
            let is_global = matches!(object, Object::StagedGlobalNetworkPolicy(_));
            (action, if is_global { Object::GlobalNetworkPolicy(real) } else { Object::CalicoNetworkPolicy(real) })
        }
        Object::StagedKubernetesNetworkPolicy(policy) => {
            let real = NetworkPolicy { metadata: policy.metadata.clone(), spec: policy.spec.policy() };
            (policy.spec.staged_action, Object::NetworkPolicy(real))
        }
        _ => return None,
    };
    Some((action.unwrap_or_default(), real))
}
