//! IPPool: what holds of it beyond its type; `validate/calico.rs` has the same.

use serde_json::json;

use super::definitions::Definitions;
use super::policy::top_selector;

/// The prefix length of blocks in force, with Calico's default.
fn block_size(spec: &str) -> String {
    format!("(has({spec}.blockSize) ? {spec}.blockSize : cidr({spec}.cidr).ip().family() == 4 ? 26 : 122)")
}

/// Whether a selector is left out, or selects everybody.
fn everybody(field: &str) -> String {
    format!("!has(self.{field}) || self.{field}.matches('^[ \\\\t]*(all[(][ \\\\t]*[)][ \\\\t]*)?$')")
}

pub(super) fn pool(definitions: &mut Definitions) {
    let mut spec = definitions.of("IpPoolSpec");
    spec.field("cidr").rule("self == oldSelf", "may not be changed: make another pool, and disable this one");
    spec.field("blockSize").set("minimum", 20).set("maximum", 128);
    for field in ["nodeSelector", "namespaceSelector"] {
        top_selector(spec.field(field));
    }
    spec.field("allowedUses").set("maxItems", 3).items().set("enum", json!(["Workload", "Tunnel", "LoadBalancer"]));
    let size = block_size("self");
    let for_services = "has(self.allowedUses) && 'LoadBalancer' in self.allowedUses";
    spec.rule_at(
        ".blockSize",
        format!("!isCIDR(self.cidr) || (cidr(self.cidr).ip().family() == 4 ? {size} >= 20 && {size} <= 32 : {size} >= 116)"),
        "must be between 20 and 32 for IPv4, between 116 and 128 for IPv6",
    )
    .rule_at(
        ".blockSize",
        format!("!isCIDR(self.cidr) || (has(self.disabled) && self.disabled) || cidr(self.cidr).prefixLength() <= {size}"),
        "a block must fit into the pool: use a value from the pool's own prefix length on",
    )
    .rule_at(
        ".blockSize",
        format!("{size} == {}", block_size("oldSelf")),
        "may not be changed: make another pool, and disable this one",
    )
    .rule_at(
        ".cidr",
        "!isCIDR(self.cidr) || !cidr('169.254.0.0/16').containsCIDR(self.cidr) && !cidr(self.cidr).containsCIDR('169.254.0.0/16') \
         && !cidr('fe80::/10').containsCIDR(self.cidr) && !cidr(self.cidr).containsCIDR('fe80::/10')",
        "must not overlap with the link-local ranges 169.254.0.0/16 and fe80::/10",
    )
    .rule_at(
        ".disableBGPExport",
        format!("!({for_services}) || !has(self.disableBGPExport) || !self.disableBGPExport"),
        "a pool for LoadBalancer must be exported: use false",
    )
    .rule_at(
        ".vxlanMode",
        format!("!({for_services}) || !has(self.vxlanMode) || self.vxlanMode == 'Never'"),
        "must be Never in a pool for LoadBalancer, which has no use for it",
    )
    .rule_at(
        ".ipipMode",
        format!("!({for_services}) || !has(self.ipipMode) || self.ipipMode == 'Never'"),
        "must be Never in a pool for LoadBalancer, which has no use for it",
    )
    .rule_at(
        ".vxlanMode",
        "!has(self.vxlanMode) || !has(self.ipipMode) || self.vxlanMode == 'Never' || self.ipipMode == 'Never'",
        "may not be set beside `ipipMode`: make one of them Never",
    )
    .rule_at(
        ".ipipMode",
        "!isCIDR(self.cidr) || cidr(self.cidr).ip().family() == 4 || !has(self.ipipMode) || self.ipipMode == 'Never'",
        "must be Never in a pool of IPv6 addresses, which IPIP does not carry: use `vxlanMode`",
    )
    .rule_at(
        ".nodeSelector",
        format!("!({for_services}) || {}", everybody("nodeSelector")),
        "must be all() in a pool for LoadBalancer, which has no use for it",
    )
    .rule_at(
        ".namespaceSelector",
        format!("!(has(self.allowedUses) && self.allowedUses.size() == 1 && self.allowedUses[0] == 'Tunnel') || {}", everybody("namespaceSelector")),
        "must be all() in a pool for Tunnel, which has no use for it",
    )
    .rule_at(
        ".allowedUses",
        format!("!({for_services}) || self.allowedUses.size() == 1"),
        "LoadBalancer may not be combined with other uses: make a pool of its own",
    );
}
