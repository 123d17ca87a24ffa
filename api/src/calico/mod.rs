//! Calico kinds of the group `projectcalico.org/v3`.

mod bgp;
pub mod felix;
mod ipam;
mod ippool;

pub(crate) use bgp::{BGP_CONFIGURATION_UNSUPPORTED, parse_as_number};
pub use bgp::{BgpConfiguration, BgpConfigurationSpec, ServiceBlock};
pub use felix::{FelixConfiguration, FelixConfigurationSpec};
pub use ipam::{AllocationAttribute, IpamBlock, IpamBlockSpec};
pub(crate) use ippool::IP_POOL_UNSUPPORTED;
pub use ippool::{AssignmentMode, EncapMode, IpPool, IpPoolSpec};
