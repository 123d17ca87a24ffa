//! How a pod gets its interface and its addresses.
//!
//! The container runtime calls the plugin ([`plugin::main`]), a thin client that hands the call to the agent over its socket. In the
//! agent, [`server::CniServer`] does the work, so that one process knows every endpoint: addresses come from [`ipam::Ipam`], the
//! interface is made here and kept as it should be ([`keeper`]), and the agent's [`Dataplane`] puts rules and route into the kernel before the pod may start.
//!
//! Whatever was done is on disk before the next step ([`endpoints`]), so an ADD or DEL that breaks off anywhere is repaired by the
//! next call, or by [`server::CniServer::recover`] at the agent's next start.

pub mod endpoints;
mod error;
mod interface;
pub mod ipam;
pub mod keeper;
pub mod loopback;
pub mod mtu;
pub mod plugin;
mod request;
mod result;
pub mod server;
mod shaping;
pub mod tunnels;

use async_trait::async_trait;
use tortie_admin::types::Endpoint;

pub use endpoints::load_endpoints;
pub use error::CniError;

/// What the agent does for a pod's interface: nftables rules, map elements and the host route.
#[async_trait]
pub trait Dataplane: Send + Sync {
    /// Puts the endpoint's rules and route into the kernel, and returns when they are there. An endpoint that is known already is
    /// brought up to date.
    async fn add_endpoint(&self, endpoint: Endpoint) -> Result<(), String>;

    /// Takes everything of the endpoint out of the kernel, before its link is deleted. An unknown endpoint is no error.
    async fn remove_endpoint(&self, container_id: &str, ifname: &str) -> Result<(), String>;

    /// A regular expression of the interfaces whose smallest MTU is that of pods: FelixConfiguration's `mtuIfacePattern`.
    fn mtu_interfaces(&self) -> String {
        tortie_api::calico::felix::MTU_INTERFACES.to_owned()
    }

    /// What an overlay leaves pods of the MTU of the network between nodes.
    fn overlay(&self) -> mtu::Overlay {
        mtu::Overlay::default()
    }

    /// What the name of a new pod's interface begins with, at most 4 bytes: the first of FelixConfiguration's `interfacePrefix`.
    fn interface_prefix(&self) -> String {
        "cali".to_owned()
    }
}
