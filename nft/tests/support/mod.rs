//! What the tests of the pure crate and of the kernel executor share: random rulesets, and one suite for both executors.

#![allow(dead_code, unreachable_pub, missing_docs)]

pub mod generate;
pub mod suite;
