//! What IPAM keeps and what people say of it: what holds of it beyond its types; `validate/ipam.rs` has the same.

use super::definitions::Definitions;

/// Agents write blocks, of this version and of others: what they know more is kept.
fn others_fields(definitions: &mut Definitions, name: &str) {
    definitions.of(name).set("x-kubernetes-preserve-unknown-fields", true);
}

pub(super) fn block(definitions: &mut Definitions) {
    others_fields(definitions, "IpamBlockSpec");
    others_fields(definitions, "AllocationAttribute");
    definitions.of("IpamBlockSpec").field("allocations").items().set("nullable", true);
}

pub(super) fn affinity(definitions: &mut Definitions) {
    others_fields(definitions, "BlockAffinitySpec");
    definitions.of("BlockAffinitySpec").field("node").set("minLength", 1);
}

pub(super) fn handle(definitions: &mut Definitions) {
    others_fields(definitions, "IpamHandleSpec");
    definitions.of("IpamHandleSpec").field("handleID").set("minLength", 1);
}

pub(super) fn configuration(definitions: &mut Definitions) {
    let mut spec = definitions.of("IpamConfigurationSpec");
    spec.field("maxBlocksPerHost").set("maximum", 1_000_000);
    spec.field("ipCooldownSeconds").set("maximum", 1200);
    spec.rule_at(
        ".autoAllocateBlocks",
        "!has(self.autoAllocateBlocks) || self.autoAllocateBlocks || has(self.strictAffinity) && self.strictAffinity",
        "may only be false with `strictAffinity: true`: use true, or make the nodes' blocks strictly theirs",
    );
}

pub(super) fn reservation(definitions: &mut Definitions) {
    definitions.of("IpReservationSpec").field("reservedCIDRs").set("maxItems", 16384);
}
