//! Tests of policy from the outside: resources in, verdicts of interpreted packets out.

mod all_kinds;
mod crowd;
mod crowded;
mod documents;
mod explaining;
mod generated;
mod histories;
mod hits;
mod hosts;
mod kinds;
mod listing;
mod oracle;
mod planning;
mod settings;
mod support;
mod table;
mod tightening;
mod truth_tables;
mod updating;
mod worlds;
