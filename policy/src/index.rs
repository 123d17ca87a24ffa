//! Which of many selectors might select a label set, without a look at each.
//!
//! A selector that asks for a label, with a value or with any, can select only label sets that have it, so it is filed under that
//! label. What asks for no label at all is a candidate always. There are few of those, because such a selector selects nearly
//! everything.

use rustc_hash::FxHashMap;
use tortie_api::k8s::{LabelSelector, SelectorOperator};
use tortie_api::meta::StringMap;

/// Items by the label that their selectors ask for.
#[derive(Debug)]
pub(crate) struct SelectorIndex<'a, T> {
    by_value: FxHashMap<(&'a str, &'a str), Vec<T>>,
    by_key: FxHashMap<&'a str, Vec<T>>,
    others: Vec<T>,
}

impl<'a, T: Copy + Ord> SelectorIndex<'a, T> {
    /// The index of these items, each with its selector.
    pub(crate) fn new(items: impl Iterator<Item = (T, &'a LabelSelector)>) -> Self {
        let mut index = Self { by_value: FxHashMap::default(), by_key: FxHashMap::default(), others: Vec::new() };
        for (item, selector) in items {
            index.add(item, selector);
        }
        index
    }

    fn add(&mut self, item: T, selector: &'a LabelSelector) {
        if let Some((key, value)) = selector.match_labels.iter().next() {
            self.by_value.entry((key, value)).or_default().push(item);
            return;
        }
        let requirements = &selector.match_expressions;
        if let Some(required) = requirements.iter().find(|required| required.operator == SelectorOperator::In) {
            for value in &required.values {
                self.by_value.entry((&required.key, value)).or_default().push(item);
            }
        } else if let Some(required) =
            requirements.iter().find(|required| required.operator == SelectorOperator::Exists)
        {
            self.by_key.entry(&required.key).or_default().push(item);
        } else {
            self.others.push(item);
        }
    }

    /// Every item whose selector could select the labels, in order, each once.
    pub(crate) fn candidates(&self, labels: &StringMap) -> Vec<T> {
        let mut candidates = self.others.clone();
        for (key, value) in labels {
            candidates.extend(self.by_value.get(&(key.as_str(), value.as_str())).into_iter().flatten());
            candidates.extend(self.by_key.get(key.as_str()).into_iter().flatten());
        }
        candidates.sort_unstable();
        // A selector may list a value twice.
        candidates.dedup();
        candidates
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn selectors(documents: &[Value]) -> Vec<LabelSelector> {
        documents.iter().map(|document| serde_json::from_value(document.clone()).expect("a selector")).collect()
    }

    #[test]
    fn a_selector_that_selects_is_always_a_candidate() {
        let expression = |operator: &str, key: &str| json!({"key": key, "operator": operator});
        let among = |operator: &str, values: &[&str]| json!({"key": "a", "operator": operator, "values": values});
        let all = selectors(&[
            json!({}),
            json!({"matchLabels": {"a": "1"}}),
            json!({"matchLabels": {"a": "1", "b": "2"}}),
            json!({"matchExpressions": [among("In", &["1", "2", "1"])]}),
            json!({"matchExpressions": [among("NotIn", &["1"])]}),
            json!({"matchExpressions": [among("NotIn", &["3"]), expression("Exists", "b")]}),
            json!({"matchExpressions": [expression("DoesNotExist", "a")]}),
            json!({"matchExpressions": [expression("Exists", "b"), among("In", &["2"])]}),
        ]);
        let index = SelectorIndex::new(all.iter().enumerate());
        for labels in [&[][..], &[("a", "1")], &[("a", "2"), ("b", "1")], &[("a", "1"), ("b", "2")], &[("b", "2")]] {
            let labels: StringMap = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            let candidates = index.candidates(&labels);
            assert!(candidates.is_sorted_by(|a, b| a < b), "in order, each once: {candidates:?}");
            for (number, selector) in all.iter().enumerate().filter(|(_, selector)| selector.matches(&labels)) {
                assert!(candidates.contains(&number), "{selector:?} selects {labels:?}");
            }
        }
        assert_eq!(index.candidates(&StringMap::from([("c".to_owned(), "1".to_owned())])), [0, 4, 6]);
    }
}
