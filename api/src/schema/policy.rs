//! Calico's policies and what their rules speak of: what holds of them beyond their types; `validate/{policy,rule,endpoints}.rs` has
//! the same.
//!
//! A rule that the API server would ask a million times costs more than it allows: lists are as long as Calico's may be, and what holds
//! of the elements of lists in lists is said by patterns, which cost nothing.

use serde_json::json;

use super::definitions::{Definitions, Node};
use super::{DNS_LABEL, DNS_SUBDOMAIN, PORT_NAME, is_set, matches, selector};

/// How many rules a direction may have.
const RULES: usize = 1024;

/// How many networks one end of a rule may have.
const NETWORKS: usize = 256;

/// How many ports one end of a rule may have.
const PORTS: usize = 50;

/// A tier, or the empty text for the default one.
const TIER_NAME: &str = "^([a-z0-9]([a-z0-9-]*[a-z0-9])?)?$";

/// Whether a rule's protocol is one of these.
fn is_protocol(field: &str, names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("'{name}'")).collect();
    format!("string(self.{field}).upperAscii() in [{}]", names.join(", "))
}

/// What holds of rules and of their parts.
pub(super) fn rules(definitions: &mut Definitions) {
    names(definitions);
    entity(definitions.of("EntityRule"));
    definitions.of("Icmp").rule_at(
        ".code",
        "!has(self.code) || has(self.type)",
        "may only be set with a `type`: add the type",
    );
    definitions.of("Icmp").field("type").set("maximum", 254);
    rule(definitions.of("PolicyRule"));
    let http = json!({"$ref": "#/$defs/HttpMatch"});
    definitions.of("PolicyRule").0["properties"]["http"] = http;

    let other_end =
        "a rule names a Service as the other end of the traffic: `destination` in egress, `source` in ingress";
    for (name, wrong_end) in [("IngressRule", "destination"), ("EgressRule", "source")] {
        let rule = format!("!has(self.{wrong_end}) || !has(self.{wrong_end}.services)");
        definitions.copy("PolicyRule", name).rule_at(&format!(".{wrong_end}.services"), rule, other_end);
    }
    let mut spec = definitions.of("PolicySpec");
    for (field, rule) in [("ingress", "IngressRule"), ("egress", "EgressRule")] {
        spec.field(field).set("maxItems", RULES).set("items", json!({"$ref": format!("#/$defs/{rule}")}));
    }
    spec.field("stagedAction").set("default", "Set");
    for field in ["types", "performanceHints"] {
        spec.field(field).set("x-kubernetes-list-type", "set");
    }
    for field in ["selector", "namespaceSelector", "serviceAccountSelector"] {
        top_selector(spec.field(field));
    }
    spec.field("tier").set("maxLength", 63).rule(matches("self", TIER_NAME), DNS_LABEL);
}

/// A selector that is not in a list: it is refused with a message.
pub(super) fn top_selector(field: Node<'_>) {
    let field = field.unset("pattern").set("maxLength", selector::LENGTH);
    field.rule(matches("self", &selector::anywhere()), selector::MESSAGE);
}

fn entity(mut entity: Node<'_>) {
    for field in ["nets", "notNets"] {
        // Of one IP version: in CEL this would cost too much.
        let of_one_version = json!([{"items": {"pattern": ":"}}, {"items": {"pattern": "^[^:]*$"}}]);
        entity.field(field).set("maxItems", NETWORKS).set("anyOf", of_one_version);
    }
    // A network of all addresses, which leaves none to match.
    entity.field("notNets").items().set("pattern", "/0*[1-9][0-9]*$");
    for field in ["ports", "notPorts"] {
        entity.field(field).set("maxItems", PORTS);
    }
    entity.field("namespaceSelector").set("pattern", selector::of_namespaces()).set("maxLength", selector::LENGTH);
    let remedy = "may not be set beside `services`, which says itself who is meant: make two rules";
    for field in ["namespaceSelector", "selector", "notSelector", "serviceAccounts", "nets", "notNets"] {
        let unset = match field {
            "serviceAccounts" => format!("!has(self.{field})"),
            _ => format!("(!has(self.{field}) || self.{field}.size() == 0)"),
        };
        entity = entity.rule_at(&format!(".{field}"), format!("!has(self.services) || {unset}"), remedy);
    }
}

fn rule(mut rule: Node<'_>) {
    for end in ["source", "destination"] {
        for field in ["ports", "notPorts"] {
            let place = format!("{end}.{field}");
            let path = format!(".{place}");
            let none = format!("!has(self.{end}) || !has(self.{place})");
            let numbers = format!("self.{place}.exists(port, type(port) == int || port.matches('^[0-9]'))");
            rule = rule.rule_at(
                &path,
                format!("{none} || has(self.protocol) || !{numbers}"),
                "a rule with port numbers must say of which protocol: set `protocol` to TCP, UDP or SCTP",
            );
            let has_ports = is_protocol("protocol", &["TCP", "UDP", "SCTP", "6", "17", "132"]);
            rule = rule.rule_at(
                &path,
                format!("{none} || self.{place}.size() == 0 || !has(self.protocol) || {has_ports}"),
                format!("only TCP, UDP and SCTP have ports: set `protocol` to one of them, or remove `{field}`"),
            );
        }
        for field in ["nets", "notNets"] {
            let place = format!("{end}.{field}");
            rule = rule.rule_at(
                &format!(".{place}"),
                format!(
                    "!has(self.ipVersion) || !has(self.{end}) || !has(self.{place}) || self.{place}.size() == 0 \
                     || self.{place}[0].contains(':') == (self.ipVersion == 6)"
                ),
                "must be of the IP version that `ipVersion` says",
            );
        }
    }
    let ends = ["source.nets", "source.notNets", "destination.nets", "destination.notNets"];
    let first_is_v6 = ends.map(|place| {
        let end = place.split('.').next().unwrap_or_default();
        format!(
            "(has(self.{end}) && has(self.{place}) && self.{place}.size() > 0 ? [self.{place}[0].contains(':')] : [])"
        )
    });
    rule = rule.rule(
        format!("!(true in ({0})) || !(false in ({0}))", first_is_v6.join(" + ")),
        "all networks of a rule must be of the same IP version: make a rule for each version",
    );
    rule = rule.rule_at(
        ".icmp",
        format!("!has(self.icmp) || has(self.protocol) && {}", is_protocol("protocol", &["ICMP", "ICMPV6", "1", "58"])),
        "a rule with `icmp` must set `protocol` to ICMP or ICMPv6",
    );
    for field in ["protocol", "notProtocol"] {
        for (version, names) in [(4, ["ICMP", "1"]), (6, ["ICMPV6", "58"])] {
            rule = rule.rule_at(
                ".ipVersion",
                format!(
                    "!has(self.{field}) || !has(self.ipVersion) || self.ipVersion == {version} || !({})",
                    is_protocol(field, &names)
                ),
                format!("`{field}` is of IP version {version}: set `ipVersion` to it, or remove it"),
            );
        }
    }
    for field in ["ports", "notPorts"] {
        rule = rule.rule_at(
            &format!(".destination.{field}"),
            format!(
                "!has(self.destination) || !has(self.destination.services) || !has(self.destination.{field}) \
                 || self.destination.{field}.size() == 0"
            ),
            "may not be set beside `services`: the ports are those of the Service's endpoints",
        );
    }
}

/// What holds of the names of Services and service accounts.
fn names(definitions: &mut Definitions) {
    let subdomain = matches("self", super::SUBDOMAIN);
    let mut service = definitions.of("ServiceMatch");
    service.field("name").set("maxLength", 253).rule(&*subdomain, format!("the name of a Service {DNS_SUBDOMAIN}"));
    service.field("namespace").set("maxLength", 253).rule(format!("self == '' || {subdomain}"), DNS_SUBDOMAIN);
    service.set("required", json!(["name"]));
    let mut accounts = definitions.of("ServiceAccountMatch");
    accounts.field("names").items().set("maxLength", 253).set("pattern", super::SUBDOMAIN);
}

/// What holds of a network set.
pub(super) fn network_set(definitions: &mut Definitions) {
    definitions.of("NetworkSetSpec").field("nets").set("maxItems", 16384);
}

/// What holds of a host endpoint.
pub(super) fn host_endpoint(definitions: &mut Definitions) {
    let subdomain = matches("self", super::SUBDOMAIN);
    let mut endpoint = definitions.of("HostEndpointSpec");
    endpoint.field("node").set("maxLength", 253).rule(
        format!("self != '' && {subdomain}"),
        "the name of the node whose interface it is must be set, and be the name of a node",
    );
    endpoint.field("interfaceName").set("maxLength", 15).rule(
        matches("self", "^([a-zA-Z0-9_.-]{0,15}|[*])$"),
        "must be the name of an interface (at most 15 letters, digits, '-', '_' and '.'), or '*' for the whole node",
    );
    endpoint.field("profiles").set("maxItems", 256).items().set("maxLength", 253).rule(subdomain, DNS_SUBDOMAIN);
    endpoint.field("ports").set("maxItems", 256);
    endpoint.field("expectedIPs").set("maxItems", 256);
    let endpoint = endpoint.set("required", json!(["node"]));
    endpoint.rule_at(
        ".interfaceName",
        format!("{} || has(self.expectedIPs) && self.expectedIPs.size() > 0", is_set("interfaceName")),
        "name the interface ('*' for all of the node), or set `expectedIPs` to find it by",
    );
    let mut port = definitions.of("EndpointPort");
    port.field("name").set("maxLength", 15).rule(matches("self", super::PORT_NAMES), PORT_NAME);
    port.field("port").set("minimum", 1);
    port.field("protocol").rule(
        "string(self).upperAscii() in ['TCP', 'UDP', 'SCTP', '6', '17', '132']",
        "has no ports: use TCP, UDP or SCTP",
    );
}

/// What holds of a whole policy, by where it stands.
pub(super) fn whole(mut object: Node<'_>, namespaced: bool, staged: bool) {
    // That it is a name at all is the API server's own rule.
    let copied =
        ["knp.default.", "ossg.default."].map(|prefix| format!(" || self.metadata.name.startsWith('{prefix}')"));
    let copied = if namespaced { copied.concat() } else { String::new() };
    object = object.rule_of_name(
        format!("self.metadata.name.matches('^[^.]*([.][^.]*)?$'){copied}"),
        "must consist of lower case letters, digits and '-', start and end with a letter or digit, and have at most one '.', behind the \
         name of its tier (such as 'my-policy' or 'my-tier.my-policy')",
    );
    if staged {
        let fields =
            ["order", "namespaceSelector", "serviceAccountSelector", "types", "ingress", "egress", "performanceHints"];
        let global = ["doNotTrack", "preDNAT", "applyOnForward"];
        for field in fields.into_iter().filter(|field| !namespaced || *field != "namespaceSelector") {
            let unset = match field {
                "order" => "!has(self.spec.order)".to_owned(),
                _ => format!("(!has(self.spec.{field}) || self.spec.{field}.size() == 0)"),
            };
            object = deletes_only(object, field, &unset);
        }
        object = deletes_only(object, "selector", "(!has(self.spec.selector) || self.spec.selector in ['', 'all()'])");
        for field in global.into_iter().filter(|_| !namespaced) {
            object = deletes_only(object, field, &format!("(!has(self.spec.{field}) || !self.spec.{field})"));
        }
    }
    if !namespaced {
        before_tracking(object);
    }
}

/// A staged policy that deletes has no such field.
pub(super) fn deletes_only<'a>(object: Node<'a>, field: &str, unset: &str) -> Node<'a> {
    object.rule_at(
        &format!(".spec.{field}"),
        format!("!has(self.spec) || !has(self.spec.stagedAction) || self.spec.stagedAction != 'Delete' || {unset}"),
        "a staged policy with `stagedAction` Delete says nothing else: remove this field",
    )
}

/// `doNotTrack` and `preDNAT` act on a node's traffic before anybody knows where it goes. And a Service in a policy of no namespace needs
/// one of its own.
fn before_tracking(object: Node<'_>) {
    let is = |field: &str| format!("(has(self.spec.{field}) && self.spec.{field})");
    let (untracked, pre_dnat, on_forward) = (is("doNotTrack"), is("preDNAT"), is("applyOnForward"));
    let ingress_only = "a policy with `preDNAT` has ingress only: make a second policy for egress";
    let namespaced = |direction: &str, end: &str| {
        format!(
            "!has(self.spec) || !has(self.spec.{direction}) || self.spec.{direction}.all(rule, !has(rule.{end}) \
             || !has(rule.{end}.services) || has(rule.{end}.services.namespace) && rule.{end}.services.namespace != '')"
        )
    };
    object
        .rule_at(
            ".spec.preDNAT",
            format!("!has(self.spec) || !({untracked} && {pre_dnat})"),
            "may not be set beside `doNotTrack`: make two policies",
        )
        .rule_at(
            ".spec.egress",
            format!("!has(self.spec) || !{pre_dnat} || !has(self.spec.egress) || self.spec.egress.size() == 0"),
            ingress_only,
        )
        .rule_at(
            ".spec.types",
            format!("!has(self.spec) || !{pre_dnat} || !has(self.spec.types) || !('Egress' in self.spec.types)"),
            ingress_only,
        )
        .rule_at(
            ".spec.applyOnForward",
            format!("!has(self.spec) || !({untracked} || {pre_dnat}) || {on_forward}"),
            "must be true in a policy with `doNotTrack` or `preDNAT`, which cannot tell forwarded traffic apart",
        )
        .rule_at(
            ".spec.ingress",
            namespaced("ingress", "source"),
            "the policy is in no namespace: name that of the Service in `source.services.namespace`",
        )
        .rule_at(
            ".spec.egress",
            namespaced("egress", "destination"),
            "the policy is in no namespace: name that of the Service in `destination.services.namespace`",
        );
}

/// What holds of a whole tier. What the tiers that always exist leave out is filled in by whoever reads them.
pub(super) fn tier(object: Node<'_>) {
    let label = "self.metadata.name.size() <= 63 && !self.metadata.name.contains('.')";
    let mut object = object.rule_of_name(label, DNS_LABEL);
    for name in [crate::calico::DEFAULT_TIER, crate::calico::KUBE_ADMIN_TIER, crate::calico::KUBE_BASELINE_TIER] {
        let fixed = crate::calico::TierSpec::of(name);
        let order = fixed.order.unwrap_or_default();
        object = object
            .rule_at(
                ".spec.order",
                format!("self.metadata.name != '{name}' || !has(self.spec) || !has(self.spec.order) || self.spec.order == {order:.1}"),
                format!("the order of tier {name:?} is always {order}: use that"),
            )
            .rule_at(
                ".spec.defaultAction",
                format!(
                    "self.metadata.name != '{name}' || !has(self.spec) || !has(self.spec.defaultAction) \
                     || self.spec.defaultAction == '{:?}'",
                    fixed.default_action
                ),
                format!("the default action of tier {name:?} is always {:?}: use that", fixed.default_action),
            );
    }
}
