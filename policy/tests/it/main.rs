//! Tests of policy from the outside: resources in, verdicts of interpreted packets out.

mod explaining;
mod generated;
mod histories;
mod listing;
mod planning;
mod settings;
mod support;
mod table;
mod tightening;
mod truth_tables;
mod updating;
