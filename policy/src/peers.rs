//! Who may: the peers of rules in canonical form.
//!
//! Two peers that are written differently and select alike become equal here, as far as that can be seen without looking at pods:
//! `matchLabels` is a short form of `In`, and order does not matter.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::Serialize;
use tortie_api::k8s::{
    IpBlock, LabelSelector, LabelSelectorRequirement, NetworkPolicyPeer, NetworkPolicyPort, PortOrName,
    SelectorOperator,
};
use tortie_api::meta::StringMap;

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
    /// The peers of a rule of a policy in `namespace`. None at all means everyone.
    pub(crate) fn of_rule(namespace: &str, peers: &[NetworkPolicyPeer]) -> Self {
        let mut union = Self { everyone: peers.is_empty(), ..Self::default() };
        for peer in peers {
            if let Some(block) = &peer.ip_block {
                union.blocks.insert(canonical_block(block));
                continue;
            }
            union.pods.extend(Selection::of_peer(namespace, peer));
        }
        union
    }

    /// Takes in others.
    pub(crate) fn extend(&mut self, other: &Self) {
        self.everyone |= other.everyone;
        self.pods.extend(other.pods.iter().cloned());
        self.blocks.extend(other.blocks.iter().cloned());
    }

    /// The blocks as they go into an interval set.
    pub(crate) fn ranges(&self) -> Vec<(ipnet::IpNet, Vec<ipnet::IpNet>)> {
        self.blocks.iter().map(|block| (block.cidr, block.except.clone())).collect()
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

/// The block with its exceptions sorted.
fn canonical_block(block: &IpBlock) -> IpBlock {
    let mut except: Vec<_> = block.except.iter().map(ipnet::IpNet::trunc).collect();
    except.sort();
    except.dedup();
    IpBlock { cidr: block.cidr.trunc(), except }
}

/// First and last port of a rule's port that is not a name; `None` for a name, or for what the API refuses.
pub(crate) fn port_range(port: &NetworkPolicyPort) -> Option<(u16, u16)> {
    match (&port.port, port.end_port) {
        (None, None) => Some((0, u16::MAX)),
        (Some(PortOrName::Number(first)), None) => Some((*first, *first)),
        (Some(PortOrName::Number(first)), Some(last)) if *first <= last => Some((*first, last)),
        _ => None,
    }
}
