//! Who may: the peers of rules in canonical form.
//!
//! Two peers that are written differently and select alike become equal here, as far as that can be seen without looking at pods:
//! `matchLabels` is a short form of `In`, and order does not matter.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::Serialize;
use tortie_api::k8s::{IpBlock, LabelSelector, LabelSelectorRequirement, SelectorOperator};
use tortie_api::meta::StringMap;

use crate::program::Entity;
use crate::selection::Selection;

/// A union of peers.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(crate) struct Peers {
    /// Everyone: a rule without peers.
    pub(crate) everyone: bool,
    /// Pods by selector; in Calico's policies, host endpoints and network sets too.
    pub(crate) pods: BTreeSet<Selection>,
    /// Addresses.
    pub(crate) blocks: BTreeSet<IpBlock>,
}

impl Peers {
    /// Everyone.
    pub(crate) fn everyone() -> Self {
        Self { everyone: true, ..Self::default() }
    }

    /// Whom an end's conditions on addresses select, where these are nothing but selections or blocks.
    pub(crate) fn of_entity(entity: &Entity) -> Self {
        Self {
            everyone: entity.selections.is_none() && entity.blocks.is_none(),
            pods: entity.selections.clone().unwrap_or_default(),
            blocks: entity.blocks.clone().unwrap_or_default(),
        }
    }

    /// Takes in others.
    pub(crate) fn extend(&mut self, other: &Self) {
        self.everyone |= other.everyone;
        self.pods.extend(other.pods.iter().cloned());
        self.blocks.extend(other.blocks.iter().cloned());
    }

    /// Whether one of the blocks has the address.
    pub(crate) fn has_address(&self, address: IpAddr) -> bool {
        self.blocks
            .iter()
            .any(|block| block.cidr.contains(&address) && !block.except.iter().any(|except| except.contains(&address)))
    }
}

/// The selector as requirements alone, sorted, without repetition.
pub(crate) fn canonical_selector(selector: &LabelSelector) -> LabelSelector {
    let exact = selector.match_labels.iter().map(|(key, value)| LabelSelectorRequirement {
        key: key.clone(),
        operator: SelectorOperator::In,
        values: vec![value.clone()],
    });
    let mut requirements: Vec<_> = exact.chain(selector.match_expressions.iter().cloned()).collect();
    for requirement in &mut requirements {
        requirement.values.sort();
        requirement.values.dedup();
    }
    requirements.sort();
    requirements.dedup();
    LabelSelector { match_labels: StringMap::new(), match_expressions: requirements }
}
