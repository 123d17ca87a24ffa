//! The agent's admin API: the JSON types that go over `RUN_DIR/tortie.sock`, and a client for it.
//!
//! HTTP/1.1 on a unix socket of mode 0600. The CLI, the CNI plugin and the lab are its users; the types are the contract, and the ones
//! that `tortie … -o json` prints are the same ones.

pub mod client;
pub mod types;
