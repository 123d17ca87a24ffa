//! BGPConfiguration: what holds of it beyond its types; `validate/calico.rs` has the same.

use super::definitions::{Definitions, Node};
use crate::k8s::PORT_RANGE;

pub(super) fn configuration(definitions: &mut Definitions) {
    let mut spec = definitions.of("BgpConfigurationSpec");
    spec.field("logSeverityScreen").set("maxLength", 16).rule(
        "self.lowerAscii() in ['', 'trace', 'debug', 'info', 'warning', 'error', 'fatal']",
        "must be one of Trace, Debug, Info, Warning, Error, Fatal",
    );
    spec.field("listenPort").rule("self >= 1", PORT_RANGE);
    for field in ["serviceClusterIPs", "serviceExternalIPs", "serviceLoadBalancerIPs"] {
        spec.field(field).set("maxItems", 1024);
    }
}

pub(super) fn whole(mut object: Node<'_>) {
    object = object.rule_of_name(
        "self.metadata.name == 'default' || self.metadata.name.startsWith('node.')",
        "must be \"default\", or \"node.NAME\" for one node",
    );
    for field in ["nodeToNodeMeshEnabled", "asNumber"] {
        object = object.rule_at(
            &format!(".spec.{field}"),
            format!("!self.metadata.name.startsWith('node.') || !has(self.spec) || !has(self.spec.{field})"),
            "may only be set in the BGPConfiguration \"default\"",
        );
    }
}
