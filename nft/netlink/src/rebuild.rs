//! A plain table becomes one that is ours alone.
//!
//! The kernel makes an owned table only anew, so the plain one is deleted and made again, in one batch. For some microseconds after such
//! a commit, longer for a large table, the base chains of *both* tables are on their hooks: the old ones with all of their rules, but
//! with maps that have no elements any more. What the old table led to a chain by a map, it would drop now. So the table is first made
//! to lead all that a base chain does by a map: where that has no elements, the chain has nothing to say, and only the new table's
//! judgement counts.

use std::collections::BTreeMap;

use tortie_nft::{Chain, Family, Field, KeyType, Rule, Ruleset, Statement, Value, Verdict, VerdictMap};

/// What the names of chains and maps begin with that are there for the time of the rebuilding only.
const PREFIX: &str = "rebuilt_";

/// The table with the rules of each base chain in a chain of their own, which the base chain goes to by a map for both families.
pub(crate) fn by_maps(table: &Ruleset) -> Ruleset {
    let mut led = table.clone();
    for (name, chain) in table.chains.iter().filter(|(_, chain)| chain.hook.is_some()) {
        let aside = format!("{PREFIX}{name}");
        let families = [Family::V4, Family::V6];
        let elements: BTreeMap<_, _> =
            families.map(|family| (vec![Value::Family(family)], Verdict::Goto(aside.clone()))).into();
        let lead = Rule::new([], [Statement::Vmap { key: vec![Field::NfProto], map: aside.clone() }]);
        let map = VerdictMap { key: vec![KeyType::NfProto], interval: false, elements, comment: None };
        led.maps.insert(aside.clone(), map);
        led.chains.insert(aside, Chain { hook: None, rules: chain.rules.clone() });
        led.chains.insert(name.clone(), Chain { hook: chain.hook, rules: vec![lead] });
    }
    led
}
