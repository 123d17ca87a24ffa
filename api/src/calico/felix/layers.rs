//! Which FelixConfigurations are in force on a node.

use std::collections::BTreeMap;

use super::FelixConfigurationSpec;
use crate::meta::StringMap;
use crate::selector::Selector;

/// The name of the configuration for all nodes.
const DEFAULT: &str = "default";

/// What the name of a configuration for one node begins with.
const OF_NODE: &str = "node.";

/// The configurations that concern a node.
#[derive(Debug, Default)]
pub struct Layers<'a> {
    /// Those in force by name, the strongest first: the node's own, the first by name of those that select it, and `default`.
    pub in_force: Vec<(&'a str, &'a FelixConfigurationSpec)>,
    /// Those that select the node as well, and are not in force since another comes first.
    pub shadowed: Vec<&'a str>,
}

impl<'a> Layers<'a> {
    /// Those for a node with these labels.
    pub fn of_node(
        configurations: &'a BTreeMap<String, FelixConfigurationSpec>,
        node: &str,
        labels: &StringMap,
    ) -> Self {
        let named = |name: &str| configurations.get_key_value(name);
        let mut selecting = configurations.iter().filter(|(name, spec)| {
            let selector = spec.node_selector.as_ref().and_then(|selector| Selector::parse(&selector.0).ok());
            !is_by_name(name) && selector.is_some_and(|selector| selector.matches(labels))
        });
        let layers = [named(&format!("{OF_NODE}{node}")), selecting.next(), named(DEFAULT)];
        let in_force = layers.into_iter().flatten().map(|(name, spec)| (name.as_str(), spec)).collect();
        Self { in_force, shadowed: selecting.map(|(name, _)| name.as_str()).collect() }
    }

    /// Of each field the value of the strongest configuration that has one.
    pub fn spec(&self) -> FelixConfigurationSpec {
        self.in_force.iter().fold(FelixConfigurationSpec::default(), |spec, (_, layer)| spec.or(layer))
    }
}

/// Whether a configuration of this name is for the nodes that its name says, whatever its `nodeSelector` does.
pub fn is_by_name(name: &str) -> bool {
    name == DEFAULT || name.starts_with(OF_NODE)
}
