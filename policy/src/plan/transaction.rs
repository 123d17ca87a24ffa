//! What each node would write.

use std::collections::{BTreeMap, BTreeSet};

use tortie_api::Object;

use super::{Change, NodePlan};
use crate::offline::{Offline, with_expected_addresses};
use crate::{Compiler, Generation};

/// The transaction of each node, as its agent would make it: a compiler that is as the node is now takes the change in.
pub(super) fn of_nodes(
    (now, before): (&[Object], &Offline),
    (change, after): (&Change, &Offline),
    generations: &BTreeMap<String, u32>,
) -> Vec<NodePlan> {
    let nodes: BTreeSet<&str> = before.nodes().union(&after.nodes()).copied().collect();
    let plan = |node: &str| {
        let generation = generations.get(node).and_then(|number| Generation::numbered(*number));
        let generation = generation.unwrap_or_else(|| Generation::seed(0));
        let mut compiler = Compiler::new(before.options(node));
        for object in now {
            compiler.cluster_mut().upsert(&with_expected_addresses(object));
        }
        compiler.update(&before.endpoints(node), generation);
        for object in &change.apply {
            compiler.cluster_mut().upsert(&with_expected_addresses(object));
        }
        for key in &change.delete {
            compiler.cluster_mut().remove(key);
        }
        compiler.set_options(after.options(node));
        let mut update = compiler.update(&after.endpoints(node), generation);
        let generation_moves = update.tightens(compiler.table());
        if generation_moves {
            let next = compiler.next_generation(generation, &update);
            compiler.move_generation(next, &mut update);
        }
        NodePlan { node: node.to_owned(), generation_moves, transaction: update.transaction(compiler.table()) }
    };
    nodes.into_iter().map(plan).collect()
}
