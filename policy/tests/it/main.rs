//! Tests of policy from the outside: resources in, verdicts of interpreted packets out.

mod generated;
mod support;
mod truth_tables;
