//! BGPConfiguration, BGPPeer and BGPFilter: what holds of them beyond their types; `validate/bgp.rs` has the same.

use serde_json::{Value, json};

use super::definitions::{Definitions, Node};
use super::policy::top_selector;
use super::{DNS_SUBDOMAIN, SUBDOMAIN, is_set, matches};
use crate::k8s::PORT_RANGE;

/// How many rules a direction of a filter may have.
const RULES: usize = 256;

/// How many AS numbers a list may have.
const PATH: usize = 16;

/// A name of an interface, in which `*` stands for whatever is there.
const INTERFACES: &str = "^[a-zA-Z0-9_.*-]{0,15}$";
const INTERFACE: &str = "must be the name of an interface: at most 15 letters, digits, '-', '_' and '.', with '*' for whatever is there, such as eth*";

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
    for field in ["ipv4NormalRoutePriority", "ipv6NormalRoutePriority"] {
        priority(spec.field(field));
    }
    for (field, family) in [("localWorkloadPeeringIPV4", 4), ("localWorkloadPeeringIPV6", 6)] {
        address(spec.field(field), family);
    }
    let interfaces = "self != '' && self != '*' && ";
    spec.field("ignoredInterfaces").set("maxItems", 256).items().set("maxLength", 15).rule(
        format!("{interfaces}{}", matches("self", INTERFACES)),
        format!("{INTERFACE}; '*' alone would leave none"),
    );
    spec.field("communities").set("maxItems", 64);
    spec.field("prefixAdvertisements").set("maxItems", 64);
    for field in ["nodeMeshPassword", "nodeMeshMaxRestartTime"] {
        spec = spec.rule_at(
            &format!(".{field}"),
            format!("!has(self.{field}) || !has(self.nodeToNodeMeshEnabled) || self.nodeToNodeMeshEnabled"),
            "may not be set where `nodeToNodeMeshEnabled` is false: remove it, or make the mesh",
        );
    }
    spec.rule_at(
        ".communities",
        "!has(self.communities) || self.communities.size() == 0 || has(self.prefixAdvertisements) && self.prefixAdvertisements.size() > 0",
        "have no use without `prefixAdvertisements`: say which prefixes are told with them",
    )
    .rule_at(
        ".prefixAdvertisements",
        "!has(self.prefixAdvertisements) || self.prefixAdvertisements.all(advertisement, advertisement.communities.all(name, \
         name.contains(':') || has(self.communities) && self.communities.exists(known, known.name == name)))",
        "each community must be a value such as 64512:100 or 64512:1:2, or the name of one in `spec.communities`",
    );
    let mut community = definitions.of("NamedCommunity");
    community.field("name").set("minLength", 1).set("maxLength", 64);
    community.set("required", json!(["name", "value"]));
    let mut advertisement = definitions.of("PrefixAdvertisement");
    // A name has no colon, so that what has one must be a community.
    let either = format!("^({}|[^:]+)$", super::types::community());
    advertisement
        .field("communities")
        .set("minItems", 1)
        .set("maxItems", 16)
        .items()
        .set("maxLength", 64)
        .set("pattern", either);
    advertisement.set("required", json!(["cidr", "communities"]));
    password(definitions);
}

/// An address of one family, or the empty text.
pub(super) fn address(field: Node<'_>, family: u8) {
    let rule = format!("self == '' || isIP(self) && ip(self).family() == {family}");
    field.unset("format").set("maxLength", 64).rule(rule, format!("must be an IPv{family} address"));
}

fn priority(field: Node<'_>) {
    field.set("minimum", 1).set("maximum", 2_147_483_646);
}

fn password(definitions: &mut Definitions) {
    let mut secret = definitions.of("SecretKeySelector");
    secret.field("name").set("maxLength", 253).set("pattern", format!("{SUBDOMAIN}|^$"));
    secret.field("key").set("minLength", 1).set("maxLength", 253);
}

pub(super) fn whole_configuration(mut object: Node<'_>) {
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

pub(super) fn peer(definitions: &mut Definitions) {
    password(definitions);
    let mut spec = definitions.of("BgpPeerSpec");
    for field in ["nodeSelector", "peerSelector", "localWorkloadSelector"] {
        top_selector(spec.field(field));
    }
    let names = format!("self == '' || {}", matches("self", SUBDOMAIN));
    spec.field("node").set("maxLength", 253).rule(names, DNS_SUBDOMAIN);
    spec.field("filters")
        .set("maxItems", 256)
        .items()
        .set("maxLength", 253)
        .rule(matches("self", SUBDOMAIN), DNS_SUBDOMAIN);
    for (field, other, remedy) in [
        ("nodeSelector", "node", "may not be set beside `node`: remove one of them"),
        (
            "peerIP",
            "peerSelector",
            "may not be set beside `peerSelector`, which says itself who the peers are: remove one of them",
        ),
        ("peerSelector", "localWorkloadSelector", "may not be set beside `localWorkloadSelector`: remove one of them"),
        (
            "peerIP",
            "localWorkloadSelector",
            "may not be set beside `localWorkloadSelector`, whose pods are the peers: remove one of them",
        ),
    ] {
        spec = spec.rule_at(&format!(".{field}"), format!("!{} || !{}", is_set(field), is_set(other)), remedy);
    }
    let v6 = "self.peerIP.startsWith('[') || self.peerIP.matches(':.*:')";
    spec.rule_at(
        ".asNumber",
        format!("!has(self.asNumber) || !{}", is_set("peerSelector")),
        "may not be set beside `peerSelector`: the peers' nodes have their AS numbers",
    )
    .rule_at(
        ".keepOriginalNextHop",
        "!has(self.keepOriginalNextHop) || !self.keepOriginalNextHop || !has(self.nextHopMode)",
        "may not be set beside `nextHopMode`, which took its place: remove it",
    )
    .rule_at(
        ".reachableBy",
        format!("!{} || {}", is_set("reachableBy"), is_set("peerIP")),
        "is the gateway to `peerIP`: set that too",
    )
    .rule_at(
        ".reachableBy",
        format!("!{} || !{} || self.reachableBy.contains(':') == ({v6})", is_set("reachableBy"), is_set("peerIP")),
        "must be of the same IP version as `peerIP`",
    );
}

pub(super) fn filter(definitions: &mut Definitions) {
    let mut rule = definitions.of("BgpFilterRule");
    rule.field("interface").set("maxLength", 15).rule(matches("self", INTERFACES), INTERFACE);
    rule.field("asPathPrefix").set("maxItems", PATH);
    priority(rule.field("priority"));
    rule.field("operations").set("maxItems", 10);
    rule.rule_at(".matchOperator", "has(self.cidr) == has(self.matchOperator)", "goes with `cidr`: set both, or none")
        .rule_at(
            ".prefixLength",
            "!has(self.prefixLength) || has(self.cidr)",
            "is about routes within `cidr`: set that too",
        )
        .rule_at(
            ".operations",
            "self.action == 'Accept' || !has(self.operations) || self.operations.size() == 0",
            "may be set in Accept rules only: a route that is rejected goes nowhere",
        );
    definitions.of("CommunityMatch").field("values").set("minItems", 1).set("maxItems", 1);
    definitions.of("PrependAsPath").field("prefix").set("minItems", 1).set("maxItems", PATH);
    priority(definitions.of("SetPriority").field("value"));
    for (version, bits) in [("V4", 32), ("V6", 128)] {
        for part in ["PrefixLength", "BgpFilterRule"] {
            definitions.copy(part, &format!("{part}{version}"));
        }
        let mut length = definitions.of(&format!("PrefixLength{version}"));
        for field in ["min", "max"] {
            length.field(field).set("maximum", bits);
        }
        let mut rule = definitions.of(&format!("BgpFilterRule{version}"));
        let description = rule.field("prefixLength").0["description"].take();
        *rule.field("prefixLength").0 =
            json!({"$ref": format!("#/$defs/PrefixLength{version}"), "description": description});
        let family = if version == "V4" { "!" } else { "" };
        let number = version.trim_start_matches('V');
        rule.field("cidr").rule(format!("{family}self.contains(':')"), format!("must be of IP version {number}"));
        let mut spec = definitions.of("BgpFilterSpec");
        for direction in ["export", "import"] {
            let reference: Value = json!({"$ref": format!("#/$defs/BgpFilterRule{version}")});
            spec.field(&format!("{direction}{version}")).set("maxItems", RULES).set("items", reference);
        }
    }
}
