//! How the node's own interfaces are treated, where HostEndpoints make them endpoints of policies.

use serde::{Deserialize, Serialize};
use tortie_api::calico::felix::FelixConfigurationSpec;
use tortie_policy::{Failsafe, HostInterface, HostOptions};

/// The interface that kube-proxy keeps service addresses on in its mode `ipvs`.
const EXCLUDED: &str = "kube-ipvs0";

/// Settings for the node's own interfaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostSettings {
    /// `failsafeInboundHostPorts`: ports of the node that are never closed.
    pub failsafe_inbound: Vec<Failsafe>,
    /// `failsafeOutboundHostPorts`: ports elsewhere that the node is never cut off from.
    pub failsafe_outbound: Vec<Failsafe>,
    /// `policyExistingConnections` is `Keep`: connections outlast the policy that allowed them.
    pub keep_connections: bool,
    /// `interfaceExclude`: interfaces that are no HostEndpoint's by name or address.
    pub interface_exclude: String,
}

impl Default for HostSettings {
    fn default() -> Self {
        Self::new(&FelixConfigurationSpec::default())
    }
}

impl HostSettings {
    pub(super) fn new(spec: &FelixConfigurationSpec) -> Self {
        let HostOptions { failsafe_inbound, failsafe_outbound, keep_connections, .. } = HostOptions::of(spec);
        let interface_exclude = spec.interface_exclude.clone().unwrap_or_else(|| EXCLUDED.to_owned());
        Self { failsafe_inbound, failsafe_outbound, keep_connections, interface_exclude }
    }

    /// What the compiler is told, for these interfaces.
    pub(crate) fn options(&self, interfaces: Vec<HostInterface>) -> HostOptions {
        HostOptions {
            interfaces,
            failsafe_inbound: self.failsafe_inbound.clone(),
            failsafe_outbound: self.failsafe_outbound.clone(),
            keep_connections: self.keep_connections,
        }
    }
}
