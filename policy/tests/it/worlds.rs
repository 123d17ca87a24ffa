//! Generated clusters, and clusters before and after a change.

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};
use tortie_api::Object;

use crate::documents::{frame, labels, pods, policies};
use crate::support::object;

/// A cluster, as documents. Shown as such when a case fails.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) documents: Vec<Value>,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.documents.iter().try_for_each(|document| write!(f, "\n{document}"))
    }
}

impl World {
    /// The documents as a datastore hands them out.
    pub(crate) fn objects(&self) -> Vec<Object> {
        self.documents.iter().map(object).collect()
    }
}

pub(crate) fn world() -> impl Strategy<Value = World> {
    (vec(labels(), 2), pods(), policies()).prop_map(|(labels, pods, policies)| {
        let mut documents = frame(&labels);
        documents.extend(pods);
        documents.extend(policies);
        World { documents }
    })
}

/// The same with every pod on a node.
pub(crate) fn placed(mut world: World) -> World {
    for document in world.documents.iter_mut().filter(|document| document["kind"] == "Pod") {
        if document["spec"]["nodeName"].is_null() {
            document["spec"]["nodeName"] = json!("n2");
        }
    }
    world
}

/// A cluster before and after a change: some policies go, some come, some pods change, come and go.
pub(crate) fn change() -> impl Strategy<Value = (World, World)> {
    let keep = || vec(prop::bool::weighted(0.8), 8);
    (vec(labels(), 2), vec(labels(), 2), pods(), pods(), policies(), policies(), keep(), keep(), 0..8u8).prop_map(
        |(namespaces, namespaces2, pods, pods2, policies, policies2, keep_pods, keep_policies, what)| {
            let world = |labels: &[Value], parts: [&[Value]; 2]| {
                let mut documents = frame(labels);
                documents.extend(parts.into_iter().flatten().cloned());
                World { documents }
            };
            let mixed = |old: &[Value], new: &[Value], keep: &[bool]| -> Vec<Value> {
                let count = old.len().max(new.len());
                (0..count)
                    .filter_map(|index| if keep[index] { old.get(index) } else { new.get(index) }.cloned())
                    .collect()
            };
            let before = world(&namespaces, [&pods, &policies]);
            let namespaces = if what == 0 { namespaces2 } else { namespaces };
            let pods = if what & 1 == 0 { mixed(&pods, &pods2, &keep_pods) } else { pods };
            let policies = if what & 2 == 0 { mixed(&policies, &policies2, &keep_policies) } else { policies };
            (before, world(&namespaces, [&pods, &policies]))
        },
    )
}
