//! ClusterNetworkPolicy: what holds of it beyond its types; `validate/cluster_network_policy.rs` has the same.

use serde_json::{Value, json};

use super::definitions::Definitions;
use super::{PORT_NAME, PORT_NAMES, matches};
use crate::k8s::PORT_RANGE;

/// How many rules of a direction, peers or protocols of a rule, networks or names of a peer there may be.
const ITEMS: usize = 25;

pub(super) fn policy(definitions: &mut Definitions) {
    let mut spec = definitions.of("ClusterNetworkPolicySpec");
    spec.field("priority").set("maximum", 1000);
    for field in ["ingress", "egress"] {
        spec.field(field).set("maxItems", ITEMS);
    }
    super::network_policy::label_selector(definitions);
    peers(definitions);
    for (name, field) in [("ClusterNetworkPolicyIngressRule", "from"), ("ClusterNetworkPolicyEgressRule", "to")] {
        let mut rule = definitions.of(name);
        rule.field("name").set("maxLength", 100);
        rule.field(field).set("minItems", 1).set("maxItems", ITEMS);
        rule.field("protocols").set("maxItems", ITEMS);
    }
    let mut egress = definitions.of("ClusterNetworkPolicyEgressRule");
    egress = egress.rule_at(
        ".to",
        "self.action == 'Accept' || !self.to.exists(peer, has(peer.domainNames))",
        "domain names may be set in Accept rules only: deny networks in a rule behind it instead",
    );
    egress.rule_at(
        ".protocols",
        "!has(self.protocols) || !self.protocols.exists(protocol, has(protocol.destinationNamedPort)) \
         || !self.to.exists(peer, has(peer.networks) || has(peer.domainNames))",
        "only pods have ports with names: make a rule without `networks` and `domainNames`",
    );
    ports(definitions);
}

/// In ingress, peers are namespaces and pods only.
fn peers(definitions: &mut Definitions) {
    let ingress = definitions.copy("ClusterNetworkPolicyPeer", "ClusterNetworkPolicyIngressPeer");
    if let Some(Value::Array(alternatives)) = ingress.0.get_mut("oneOf") {
        let is_pods = |alternative: &Value| {
            ["namespaces", "pods"].iter().any(|name| alternative["properties"].get(name).is_some())
        };
        alternatives.retain(is_pods);
    }
    let reference = json!({"$ref": "#/$defs/ClusterNetworkPolicyIngressPeer"});
    definitions.of("ClusterNetworkPolicyIngressRule").field("from").set("items", reference);
    let peer = definitions.of("ClusterNetworkPolicyPeer");
    let Some(Value::Array(alternatives)) = peer.0.get_mut("oneOf") else { panic!("a choice of peers") };
    for alternative in alternatives {
        for field in ["networks", "domainNames"] {
            let Some(list) = alternative.pointer_mut(&format!("/properties/{field}")) else { continue };
            list["minItems"] = json!(1);
            list["maxItems"] = json!(ITEMS);
            if field == "domainNames" {
                list["items"]["maxLength"] = json!(255);
                list["items"]["pattern"] = json!(
                    "^([*][.])?[a-zA-Z0-9]([a-zA-Z0-9_-]*[a-zA-Z0-9])?([.][a-zA-Z0-9]([a-zA-Z0-9_-]*[a-zA-Z0-9])?)+[.]?$"
                );
            }
        }
    }
}

fn ports(definitions: &mut Definitions) {
    let protocol = definitions.of("ClusterNetworkPolicyProtocol");
    let Some(Value::Array(alternatives)) = protocol.0.get_mut("oneOf") else { panic!("a choice of protocols") };
    for alternative in alternatives {
        let Some(name) = alternative.pointer_mut("/properties/destinationNamedPort") else { continue };
        name["maxLength"] = json!(15);
        name["x-kubernetes-validations"] = json!([{"rule": matches("self", PORT_NAMES), "message": PORT_NAME}]);
    }
    let port = definitions.of("DestinationPort");
    let Some(Value::Array(alternatives)) = port.0.get_mut("oneOf") else { panic!("a choice of ports") };
    for alternative in alternatives {
        if let Some(number) = alternative.pointer_mut("/properties/number") {
            number["x-kubernetes-validations"] = json!([{"rule": "self >= 1", "message": PORT_RANGE}]);
        }
    }
    let mut range = definitions.of("DestinationPorts");
    range.field("start").rule("self >= 1", PORT_RANGE);
    range.rule_at(".end", "self.end > self.start", "must be greater than `start`; one port is a `number`");
}
