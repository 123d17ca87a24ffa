//! What IPAM keeps: blocks, whose they are, handles, and the settings that people make.

use ipnet::IpNet;

use super::Errors;
use crate::calico::{BlockAffinity, IpamBlock, IpamConfiguration, IpamConfigurationSpec, IpamHandle};
use crate::field::{FieldError, Path};

/// The longest time that Calico lets an address rest.
const LONGEST_COOLDOWN: u32 = 1200;

/// The most blocks for a node that Calico takes.
const MOST_BLOCKS: u32 = 1_000_000;

pub(super) fn block(block: &IpamBlock, errors: &mut Errors) {
    let path = Path::root().field("spec");
    let spec = &block.spec;
    let size = 1_u128.checked_shl(u32::from(spec.cidr.max_prefix_len() - spec.cidr.prefix_len()));
    if size.is_none_or(|size| spec.allocations.len() as u128 != size) {
        let remedy = format!("must have one entry for each address of {}", spec.cidr);
        errors.push(FieldError::invalid(path.field("allocations"), &spec.allocations.len(), &remedy));
    }
    for (ordinal, holder) in spec.allocations.iter().enumerate() {
        if let Some(holder) = holder.filter(|holder| *holder >= spec.attributes.len()) {
            errors.push(FieldError::invalid(
                path.field("allocations").index(ordinal),
                &holder,
                "must be an index into `attributes`",
            ));
        }
    }
    for (index, ordinal) in spec.unallocated.iter().enumerate() {
        if spec.allocations.get(*ordinal).is_none_or(Option::is_some) {
            let remedy = "must be the ordinal of a free address";
            errors.push(FieldError::invalid(path.field("unallocated").index(index), ordinal, remedy));
        }
    }
}

pub(super) fn affinity(affinity: &BlockAffinity, errors: &mut Errors) {
    if affinity.spec.node.is_empty() {
        let path = Path::root().field("spec").field("node");
        errors.push(FieldError::required(path, "the name of the node that the block is for"));
    }
}

pub(super) fn handle(handle: &IpamHandle, errors: &mut Errors) {
    let path = Path::root().field("spec");
    if handle.spec.handle_id.is_empty() {
        errors.push(FieldError::required(path.field("handleID"), "the handle that addresses are held by"));
    }
    for cidr in handle.spec.block.keys() {
        if cidr.parse::<IpNet>().is_err() {
            let remedy = "must be the range of a block, such as 10.244.0.64/26";
            errors.push(FieldError::invalid(path.field("block").key(cidr), cidr, remedy));
        }
    }
}

pub(super) fn configuration(configuration: &IpamConfiguration, errors: &mut Errors) {
    let name = &configuration.metadata.name;
    if name != IpamConfigurationSpec::NAME && !name.is_empty() {
        let path = Path::root().field("metadata").field("name");
        errors.push(FieldError::invalid(path, name, "must be \"default\": there is one for the whole cluster"));
    }
    let path = Path::root().field("spec");
    let spec = &configuration.spec;
    if !spec.strict_affinity && !spec.auto_allocate_blocks {
        let remedy =
            "may only be false with `strictAffinity: true`: use true, or make the nodes' blocks strictly theirs";
        errors.push(FieldError::invalid(path.field("autoAllocateBlocks"), &false, remedy));
    }
    if spec.max_blocks_per_host > MOST_BLOCKS {
        let remedy = format!("must be at most {MOST_BLOCKS}");
        errors.push(FieldError::invalid(path.field("maxBlocksPerHost"), &spec.max_blocks_per_host, &remedy));
    }
    if let Some(seconds) = spec.ip_cooldown_seconds.filter(|seconds| *seconds > LONGEST_COOLDOWN) {
        let remedy = format!("must be at most {LONGEST_COOLDOWN}");
        errors.push(FieldError::invalid(path.field("ipCooldownSeconds"), &seconds, &remedy));
    }
}
