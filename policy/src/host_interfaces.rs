//! Which of a node's interfaces its HostEndpoints are for.
//!
//! An endpoint names its interface, or `*` for all that have none of their own, or gives addresses that one of them has. As in Calico a
//! name comes before addresses, and where two endpoints are for one interface the first by name has it. An interface need not be there
//! to be named: it is an endpoint's from the moment that it comes. Agents decide by this, and so does who asks what they would do.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use regex_lite::Regex;
use tortie_api::calico::HostEndpointSpec;

use crate::host::HostInterface;

/// What stands for all interfaces.
const ALL: &str = "*";

/// The interface that no policy is for: without it a node does not even reach itself.
const LOOPBACK: &str = "lo";

/// A node's interfaces, as far as who asks knows them.
pub trait Interfaces {
    /// Those with any of these addresses; none if nobody can say here.
    fn with_addresses(&self, addresses: &[IpAddr]) -> Option<BTreeSet<String>>;
}

/// What came of the endpoints and the interfaces.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct HostInterfaces {
    /// Endpoints with their interfaces, in order.
    pub interfaces: Vec<HostInterface>,
    /// Endpoints that are for nothing, and why: a sentence on each.
    pub problems: Vec<String>,
}

impl HostInterfaces {
    /// The interfaces of a node's endpoints, which are by name. Names of pods' interfaces begin with one of `prefixes`; `excluded` is
    /// `interfaceExclude` of FelixConfiguration.
    pub fn of(
        endpoints: &BTreeMap<String, HostEndpointSpec>,
        known: &impl Interfaces,
        prefixes: &[String],
        excluded: &str,
    ) -> Self {
        let excluded = Excluded::new(excluded);
        let mut resolved = Self::default();
        let mut taken: BTreeMap<Option<String>, &str> = BTreeMap::new();
        let is_pods = |name: &str| prefixes.iter().any(|prefix| name.starts_with(prefix.as_str()));
        let refuse = |name: &str| match name {
            LOOPBACK => Some("is the loopback interface, which no policy closes"),
            name if is_pods(name) => Some("is a pod's interface: select the pod"),
            name if excluded.has(name) => Some("is excluded by interfaceExclude of FelixConfiguration"),
            _ => None,
        };
        // Those that name their interface come first.
        let by_name = endpoints.iter().filter(|(_, spec)| spec.interface_name.is_some());
        let by_address = endpoints.iter().filter(|(_, spec)| spec.interface_name.is_none());
        for (endpoint, spec) in by_name.chain(by_address) {
            let wanted = match spec.interface_name.as_deref() {
                Some(ALL) => vec![None],
                Some(name) => vec![Some(name.to_owned())],
                None => {
                    let Some(names) = known.with_addresses(&spec.expected_ips) else {
                        resolved.problems.push(format!(
                            "HostEndpoint {endpoint}: only node {} itself knows which of its interfaces has an address of \
                             spec.expectedIPs, so the endpoint is left out here: set spec.interfaceName to have it in",
                            spec.node
                        ));
                        continue;
                    };
                    names.into_iter().map(Some).collect()
                }
            };
            if wanted.is_empty() {
                resolved.problems.push(format!(
                    "HostEndpoint {endpoint}: no interface of this node has any address of spec.expectedIPs: name the interface, or \
                     wait for it"
                ));
            }
            for interface in wanted {
                let name = interface.as_deref().unwrap_or(ALL);
                if let Some(reason) = refuse(name) {
                    resolved.problems.push(format!("HostEndpoint {endpoint}: interface {name} {reason}"));
                    continue;
                }
                if let Some(first) = taken.get(&interface) {
                    resolved.problems.push(format!(
                        "HostEndpoint {endpoint}: interface {name} is that of HostEndpoint {first}: delete one of them"
                    ));
                    continue;
                }
                taken.insert(interface.clone(), endpoint);
                resolved.interfaces.push(HostInterface { endpoint: endpoint.clone(), interface });
            }
        }
        resolved.interfaces.sort();
        resolved
    }
}

/// `interfaceExclude`: names, and regular expressions between slashes, separated by commas.
#[derive(Debug)]
struct Excluded {
    names: Vec<String>,
    patterns: Vec<Regex>,
}

impl Excluded {
    fn new(text: &str) -> Self {
        let (mut names, mut patterns) = (Vec::new(), Vec::new());
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            match part.strip_prefix('/').and_then(|part| part.strip_suffix('/')) {
                Some(pattern) => patterns.extend(Regex::new(pattern)),
                None => names.push(part.to_owned()),
            }
        }
        Self { names, patterns }
    }

    fn has(&self, name: &str) -> bool {
        self.names.iter().any(|excluded| excluded == name) || self.patterns.iter().any(|it| it.is_match(name))
    }
}
