//! Any text as a selector: no panic, and what is one survives being printed, means the same then, and requires no more than it selects.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use tortie_api::selector::Selector;

fuzz_target!(|input: (String, BTreeMap<String, String>)| {
    let (text, mut labels) = input;
    let Ok(selector) = Selector::parse(&text) else { return };
    let again = Selector::parse(&selector.to_string()).expect("what is printed is a selector");
    assert_eq!(again, selector);
    // Labels of the keys that it names are those which matter.
    let keys: Vec<String> = selector.keys().into_iter().map(str::to_owned).collect();
    let values: Vec<String> = labels.values().cloned().collect();
    labels.extend(keys.into_iter().zip(values));
    assert_eq!(again.matches(&labels), selector.matches(&labels));
    if selector.matches(&labels) {
        for alternatives in selector.requirements() {
            let is_met = |(key, value): (&String, &String)| alternatives.iter().any(|one| one.is_met_by(key, value));
            assert!(labels.iter().any(is_met), "{selector} selects {labels:?} without {alternatives:?}");
        }
    }
});
