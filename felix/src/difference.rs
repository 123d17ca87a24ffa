//! In what two tables differ, in a few words.

use tortie_nft::{Command, Ruleset};

/// So many differences are told one by one.
const TOLD: usize = 4;

/// What was found in place of what was written.
pub(crate) fn describe(written: &Ruleset, found: &Ruleset) -> String {
    if found.is_empty() && !written.is_empty() {
        return "it is gone".to_owned();
    }
    let mut words: Vec<String> = Vec::new();
    for command in found.diff(written).commands {
        let text = match command {
            Command::AddChain { chain, .. } if found.chains.contains_key(&chain) => {
                format!("chain {chain} has another hook")
            }
            Command::AddChain { chain, .. } => format!("chain {chain} is gone"),
            Command::FlushChain { chain } if written.chains.contains_key(&chain) => {
                format!("chain {chain} has other rules")
            }
            Command::AddRule { chain, .. } if found.chains.get(&chain).is_some_and(|found| found.rules.is_empty()) => {
                format!("chain {chain} is empty")
            }
            Command::DeleteChain { chain } => format!("chain {chain} is not ours"),
            Command::AddSet { set, .. } if found.sets.contains_key(&set) => format!("set {set} is of another kind"),
            Command::AddSet { set, .. } => format!("set {set} is gone"),
            Command::DeleteSet { set } if !written.sets.contains_key(&set) => format!("set {set} is not ours"),
            Command::AddMap { map, .. } if found.maps.contains_key(&map) => format!("map {map} is of another kind"),
            Command::AddMap { map, .. } => format!("map {map} is gone"),
            Command::DeleteMap { map } if !written.maps.contains_key(&map) => format!("map {map} is not ours"),
            Command::AddCounterMap { map, .. } if found.counter_maps.contains_key(&map) => {
                format!("counter map {map} is of another kind")
            }
            Command::AddCounterMap { map, .. } => format!("counter map {map} is gone"),
            Command::DeleteCounterMap { map } if !written.counter_maps.contains_key(&map) => {
                format!("counter map {map} is not ours")
            }
            Command::AddElements { set, elements } if found.sets.contains_key(&set) => {
                format!("set {set} lacks {}", elements_of(elements.len()))
            }
            Command::DeleteElements { set, elements } => format!("set {set} has {} more", elements_of(elements.len())),
            Command::AddMapElements { map, elements } if found.maps.contains_key(&map) => {
                format!("map {map} lacks {}", elements_of(elements.len()))
            }
            Command::DeleteMapElements { map, elements } => {
                format!("map {map} has {} more", elements_of(elements.len()))
            }
            Command::AddCounterElements { map, elements } if found.counter_maps.contains_key(&map) => {
                format!("counter map {map} lacks {}", elements_of(elements.len()))
            }
            Command::DeleteCounterElements { map, elements } => {
                format!("counter map {map} has {} more", elements_of(elements.len()))
            }
            Command::AddCounter { counter, .. } => format!("counter {counter} is gone"),
            Command::DeleteCounter { counter } => format!("counter {counter} is not ours"),
            _ => continue,
        };
        if words.last() != Some(&text) {
            words.push(text);
        }
    }
    words.dedup();
    let more = words.len().saturating_sub(TOLD);
    words.truncate(TOLD);
    let mut text = words.join(", ");
    if more > 0 {
        text = format!("{text}, and {more} differences more");
    }
    text
}

fn elements_of(number: usize) -> String {
    if number == 1 { "an element".to_owned() } else { format!("{number} elements") }
}
