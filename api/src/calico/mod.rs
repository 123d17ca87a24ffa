//! Calico kinds of the group `projectcalico.org/v3`.

mod bgp;
mod ipam;
mod ippool;

pub use bgp::{BgpConfiguration, BgpConfigurationSpec};
pub use ipam::{AllocationAttribute, IpamBlock, IpamBlockSpec};
pub use ippool::{AssignmentMode, EncapMode, IpPool, IpPoolSpec};
