//! NetworkPolicy, from resources to nftables, and the answers to questions about it.
//!
//! [`Cluster`] takes in resources one by one and keeps what policy depends on: pods by label set, namespaces, policies.
//! [`compile`] turns that and a node's local endpoints into the node's whole table, an [`nft`](tortie_nft) `Ruleset`.
//! A [`Compiler`] keeps such a table up to date, at the cost of what changed.
//! [`tightens`] says whether a change of the table could take a permission away, so that the [`Generation`] must move.
//!
//! [`oracle`] evaluates the API's semantics directly, without the compiler: it answers [`explain`], and the compiler is held
//! against it. [`matrix`] asks either of them for every pair of pods. [`offline`] does for manifests what the agents do live.
//!
//! The crate is pure: no IO, no clock, no tasks. Equal resources make equal rulesets, whatever the order they came in.

mod chains;
mod change;
mod clauses;
mod cluster;
mod compile;
mod compiler;
mod counted;
mod counts;
mod denied;
mod describe;
pub mod explain;
mod followed;
mod frame;
mod generation;
pub mod hits;
mod host;
mod host_frame;
mod host_interfaces;
mod host_programs;
mod index;
mod intern;
mod kinds;
mod labels;
mod lines;
mod log_prefix;
mod marks;
pub mod matrix;
mod names;
mod nat;
pub mod offline;
mod options;
pub mod oracle;
mod peers;
pub mod plan;
mod prefixes;
mod program;
mod references;
mod resolver;
mod selection;
mod services;
mod sets;
mod special;
mod territory;
mod tightens;
mod touched;
mod tunnels;
mod union;
mod unions;
mod view;

pub use cluster::Cluster;
pub use compile::{Endpoint, compile};
pub use compiler::{Compiler, Update};
pub use counts::Counts;
pub use generation::Generation;
pub use host::{Failsafe, HostInterface, HostOptions};
pub use host_interfaces::{HostInterfaces, Interfaces};
pub use kinds::KINDS;
pub use marks::{MIN_MARK_BITS, MarkMask, MarkMaskError};
pub use options::{CompileOptions, DenyAction, EndpointToHost, LogLimit, NatExclusions, NatOutgoing, ServiceLoop};
pub use prefixes::{interface_prefixes, naming_prefix, refused_prefixes};
pub use references::References;
pub use tightens::tightens;

use std::fmt::Write as _;

use sha1::{Digest, Sha1};

/// The name of the host's end of a pod's veth, as Calico makes it: `cali` and the first 11 hex digits of
/// `sha1("NAMESPACE.POD")`.
pub fn host_interface(namespace: &str, pod: &str) -> String {
    host_interface_with("cali", namespace, pod)
}

/// The same with another prefix, of at most 4 bytes, where `interfacePrefix` says so.
pub fn host_interface_with(prefix: &str, namespace: &str, pod: &str) -> String {
    let digest = Sha1::digest(format!("{namespace}.{pod}").as_bytes());
    let mut name = prefix.to_owned();
    for byte in digest.iter().take(6) {
        // Writing to a String cannot fail.
        let _ = write!(name, "{byte:02x}");
    }
    name.truncate(prefix.len() + 11);
    name
}

#[cfg(test)]
mod tests {
    use super::{host_interface, host_interface_with};

    #[test]
    fn interfaces_are_named_as_calico_names_them() {
        // printf 'default.nginx' | sha1sum
        assert_eq!(host_interface("default", "nginx"), "calic440f455693");
        assert_eq!(host_interface("a", "b").len(), 15, "the longest name that the kernel takes");
        assert_eq!(host_interface_with("tap", "default", "nginx"), "tapc440f455693");
    }
}
