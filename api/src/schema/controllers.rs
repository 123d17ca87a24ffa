//! CalicoNodeStatus, KubeControllersConfiguration and ClusterInformation: what holds of them beyond their types;
//! `validate/controllers.rs` has the same.

use serde_json::json;

use super::definitions::{Definitions, Node};
use super::policy::top_selector;
use super::{DNS_SUBDOMAIN, SUBDOMAIN, matches};

pub(super) fn node_status(definitions: &mut Definitions) {
    let mut spec = definitions.of("CalicoNodeStatusSpec");
    let message = format!("the name of the node that is asked {DNS_SUBDOMAIN}");
    spec.field("node").set("maxLength", 253).rule(matches("self", SUBDOMAIN), message);
    spec.field("classes").set("minItems", 1).set("maxItems", 3).set("x-kubernetes-list-type", "set");
    spec.field("updatePeriodSeconds").set("maximum", 86_400);
    spec.set("required", json!(["node", "classes", "updatePeriodSeconds"]));
}

pub(super) fn configuration(definitions: &mut Definitions) {
    let mut host_endpoint = definitions.of("AutoHostEndpointConfig");
    host_endpoint.field("templates").set("maxItems", 64);
    let mut template = definitions.of("HostEndpointTemplate");
    let names = format!("self == '' || {}", matches("self", SUBDOMAIN));
    template.field("generateName").set("maxLength", 253).rule(names, DNS_SUBDOMAIN);
    template.field("interfaceCIDRs").set("maxItems", 256);
    let selector = template.field("nodeSelector");
    top_selector(selector);
    template.field("nodeSelector").set("maxLength", 1024);
    for field in ["labels", "annotations"] {
        let key = "^([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$";
        template.field(field).set("maxProperties", 64).rule(
            format!("self.all(key, {})", matches("key", key)),
            "must have keys such as 'app' or 'example.com/app'",
        );
    }
    let value = "^([A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?)?$";
    template.field("labels").0["additionalProperties"] = json!({"type": "string", "maxLength": 63, "pattern": value});
}

/// The object of a kind that has just one.
pub(super) fn named_default(object: Node<'_>) {
    object.rule_of_name("self.metadata.name == 'default'", "must be \"default\": there is one for the whole cluster");
}
