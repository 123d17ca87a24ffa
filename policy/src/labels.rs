//! Label sets, in little memory.
//!
//! A map of two labels takes most of a kilobyte. Here a label set is a sorted list, kept once however many pods have it, and each key
//! and value is kept once however many label sets have it.

use std::hash::Hash;
use std::sync::Arc;

use rustc_hash::FxHashSet;
use tortie_api::k8s::{LabelSelector, SelectorOperator};
use tortie_api::meta::StringMap;

/// A label set: cheap to clone, and equal where its labels are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Labels(Arc<[(Arc<str>, Arc<str>)]>);

impl Default for Labels {
    fn default() -> Self {
        Self(Arc::new([]))
    }
}

impl From<&StringMap> for Labels {
    fn from(map: &StringMap) -> Self {
        Self(map.iter().map(|(key, value)| (key.as_str().into(), value.as_str().into())).collect())
    }
}

impl Labels {
    /// The value of a label.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(own, _)| **own == *key).map(|(_, value)| &**value)
    }

    /// The labels in the order of their keys.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> + Clone {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }

    /// The labels as the API has them.
    #[cfg(test)]
    pub(crate) fn to_map(&self) -> StringMap {
        self.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    /// Whether a Kubernetes selector selects them.
    pub(crate) fn meet(&self, selector: &LabelSelector) -> bool {
        let exact = selector.match_labels.iter().all(|(key, value)| self.get(key) == Some(value));
        exact
            && selector.match_expressions.iter().all(|required| {
                let value = self.get(&required.key);
                let among = |value: &str| required.values.iter().any(|known| known == value);
                match required.operator {
                    SelectorOperator::In => value.is_some_and(among),
                    SelectorOperator::NotIn => value.is_none_or(|value| !among(value)),
                    SelectorOperator::Exists => value.is_some(),
                    SelectorOperator::DoesNotExist => value.is_none(),
                }
            })
    }
}

/// Values that are kept once, while anybody has one. Those that nobody has any more are looked for when there are twice as many.
#[derive(Debug)]
pub(crate) struct Shared<T: ?Sized> {
    known: FxHashSet<Arc<T>>,
    enough: usize,
}

impl<T: ?Sized> Default for Shared<T> {
    fn default() -> Self {
        Self { known: FxHashSet::default(), enough: 0 }
    }
}

impl<T: Eq + Hash + ?Sized> Shared<T> {
    /// The value, shared with whoever has it too.
    pub(crate) fn share(&mut self, value: &T) -> Arc<T>
    where
        for<'a> Arc<T>: From<&'a T>,
    {
        if let Some(known) = self.known.get(value) {
            return Arc::clone(known);
        }
        self.keep(value.into())
    }

    /// The value, shared with whoever has it too.
    pub(crate) fn share_owned(&mut self, value: T) -> Arc<T>
    where
        T: Sized,
    {
        if let Some(known) = self.known.get(&value) {
            return Arc::clone(known);
        }
        self.keep(Arc::new(value))
    }

    fn keep(&mut self, value: Arc<T>) -> Arc<T> {
        if self.known.len() >= self.enough {
            self.sweep();
        }
        self.known.insert(Arc::clone(&value));
        value
    }

    /// Forgets what nobody has any more.
    pub(crate) fn sweep(&mut self) {
        self.known.retain(|value| Arc::strong_count(value) > 1);
        self.enough = 2 * self.known.len() + 100;
        self.known.shrink_to(0);
    }

    /// How many distinct values are kept.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }
}

/// All label sets of a cluster.
#[derive(Debug, Default)]
pub(crate) struct LabelSets {
    sets: FxHashSet<Labels>,
    words: Shared<str>,
    enough: usize,
}

impl LabelSets {
    /// These labels, shared with whoever has them too.
    pub(crate) fn share(&mut self, map: &StringMap) -> Labels {
        let words = &mut self.words;
        let labels: Arc<[_]> = map.iter().map(|(key, value)| (words.share(key), words.share(value))).collect();
        let labels = Labels(labels);
        if let Some(known) = self.sets.get(&labels) {
            return known.clone();
        }
        if self.sets.len() >= self.enough {
            self.sweep();
        }
        self.sets.insert(labels.clone());
        labels
    }

    /// A word, shared with the label sets that have it.
    pub(crate) fn word(&mut self, word: &str) -> Arc<str> {
        self.words.share(word)
    }

    /// Forgets what nobody has any more.
    pub(crate) fn sweep(&mut self) {
        self.sets.retain(|labels| Arc::strong_count(&labels.0) > 1);
        self.enough = 2 * self.sets.len() + 100;
        self.sets.shrink_to(0);
        self.words.sweep();
    }

    /// How many distinct label sets are kept.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.sets.len()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn map(labels: &[(&str, &str)]) -> StringMap {
        labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn labels_meet_what_maps_do() {
        let selectors = [
            json!({}),
            json!({"matchLabels": {"a": "1"}}),
            json!({"matchLabels": {"a": "1", "b": "2"}}),
            json!({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1", "2"]}]}),
            json!({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}),
            json!({"matchExpressions": [{"key": "b", "operator": "Exists"}]}),
            json!({"matchLabels": {"a": "2"}, "matchExpressions": [{"key": "b", "operator": "DoesNotExist"}]}),
        ];
        for selector in selectors {
            let selector: LabelSelector = serde_json::from_value(selector).expect("a selector");
            for labels in [&[][..], &[("a", "1")], &[("a", "2")], &[("a", "1"), ("b", "2")], &[("b", "1")]] {
                let labels = map(labels);
                assert_eq!(Labels::from(&labels).meet(&selector), selector.matches(&labels), "{selector:?} {labels:?}");
            }
        }
    }

    #[test]
    fn equal_label_sets_are_one_while_anybody_has_it() {
        let mut sets = LabelSets::default();
        let web = map(&[("tier", "front"), ("app", "web")]);
        let (a, b) = (sets.share(&web), sets.share(&web));
        assert!(Arc::ptr_eq(&a.0, &b.0));
        assert_ne!(a, sets.share(&map(&[("app", "web")])));
        assert_eq!((a.get("app"), a.get("tier"), a.get("ap")), (Some("web"), Some("front"), None));
        assert_eq!((a.to_map(), Labels::from(&web)), (web, a.clone()));
        for n in 0..1_000 {
            sets.share(&map(&[("app", &n.to_string())]));
        }
        assert!(sets.len() < 250, "{}", sets.len());
        drop((a, b));
        sets.sweep();
        assert_eq!((sets.len(), sets.words.len()), (0, 0));
    }
}
