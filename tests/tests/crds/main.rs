//! The CustomResourceDefinitions in `deploy/crds`: that they are those of the types in `api/`, and that a real API server takes and
//! refuses by them what agents take and refuse.
#![allow(missing_docs, reason = "a test")]

#[path = "../../../api/tests/support/calico.rs"]
mod calico;
mod files;
mod proxy;
#[path = "../../../api/tests/support/samples.rs"]
mod samples;
mod server;
