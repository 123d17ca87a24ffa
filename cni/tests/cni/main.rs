//! IPAM over both datastores, and the server against a real kernel, in namespaces that end with the test. Needs root.

mod collector;
mod ipam;
mod keeper;
mod memory;
mod rules;
mod server;
mod stages;
#[path = "../suite/mod.rs"]
mod suite;
