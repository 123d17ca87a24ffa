//! FelixConfiguration: the types of its fields, and what holds of fields.
//!
//! Where a field is text, the empty one is a field that is not set, as in Calico.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::definitions::{Definitions, Node};
use super::selector;
use crate::calico::felix::{
    Duration, InterfaceFilter, InterfacePrefixes, KeyValues, LogPrefix, LogRate, Network, NodeSelector, Pattern,
    PortRange, TimeoutOrAuto,
};
use crate::k8s::PORT_RANGE;

/// A text by what it must match, and what is said where it does not.
macro_rules! texts {
    ($($type:ident $longest:literal $pattern:expr, $message:expr;)+) => {$(
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({
                    "type": "string",
                    "maxLength": $longest,
                    "x-kubernetes-validations": [{"rule": super::matches("self", &$pattern), "message": $message}],
                })
            }
        }
    )+};
}

const DURATION: &str = "(0|(([0-9]+([.][0-9]*)?|[.][0-9]+)(ns|us|µs|μs|ms|s|m|h))+)";

texts! {
    Duration 64 format!("^{DURATION}?$"), "must be a duration, such as 90s, 1m30s or 500ms";
    TimeoutOrAuto 64 format!("^({DURATION}|Auto)$"), "must be a duration, such as 90s, 1m30s or 500ms, or Auto";
    KeyValues 4096 "^([A-Za-z0-9_-]+=[^=,]*(,[A-Za-z0-9_-]+=[^=,]*)*)?$", "must be a list such as A=true,B=false";
    InterfaceFilter 15 "^[A-Za-z0-9_.-]*[+]?$",
        "must be the name of an interface, of at most 15 letters, digits, '-', '_' and '.', with '+' at its end for whatever follows, \
         such as eth+";
    InterfacePrefixes 1024 "^([A-Za-z0-9_.-]{1,14}(,[A-Za-z0-9_.-]{1,14})*)?$",
        "must be prefixes of interface names, separated by commas, such as cali or cali,tap";
    LogRate 16 "^([1-9][0-9]{0,3}/(second|minute|hour|day))?$",
        "must be N/UNIT with N up to 9999 and a unit of second, minute, hour or day";
    LogPrefix 1024 "^[A-Za-z0-9%: /_-]*$", "must consist of letters, digits, spaces and %:/_-";
    NodeSelector 65536 selector::anywhere(), "must be a selector, such as has(key) && key == 'value'";
}

/// Whether a regular expression is one, nobody but its reader can say.
impl JsonSchema for Pattern {
    fn schema_name() -> Cow<'static, str> {
        "Pattern".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "maxLength": 4096})
    }
}

impl JsonSchema for PortRange {
    fn schema_name() -> Cow<'static, str> {
        "PortRange".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "maxLength": 11,
            "x-kubernetes-validations": [{
                "rule": "type(self) == int ? self >= 0 && self <= 65535 : self.matches('^[0-9]{1,5}(:[0-9]{1,5})?$') \
                         && self.split(':').all(port, int(port) <= 65535) \
                         && int(self.split(':')[0]) <= int(self.split(':')[self.split(':').size() - 1])",
                "message": "must be a port or a range of ports, such as 8080 or \"32768:60999\", whose first port is not above its last",
            }],
        })
    }
}

impl JsonSchema for Network {
    fn schema_name() -> Cow<'static, str> {
        "Network".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        super::CidrOrAddress::json_schema(generator)
    }
}

/// What holds of fields beyond their types; `validate/felix.rs` has the same.
pub(super) fn rules(definitions: &mut Definitions) {
    let mut spec = definitions.of("FelixConfigurationSpec");
    for field in
        ["healthPort", "prometheusMetricsPort", "vxlanPort", "wireguardListeningPort", "wireguardListeningPortV6"]
    {
        spec.field(field).rule("self >= 1", PORT_RANGE);
    }
    for field in ["ipipMTU", "vxlanMTU", "vxlanMTUV6", "wireguardMTU", "wireguardMTUV6"] {
        let rule = "self == 0 || self >= 68 && self <= 65535";
        spec.field(field).rule(rule, "must be between 68 and 65535, or 0 to find it out");
    }
    for field in ["healthHost", "prometheusMetricsHost"] {
        let rule = "self in ['', 'localhost'] || isIP(self)";
        spec.field(field).set("maxLength", 64).rule(rule, "must be an IP address or localhost");
    }
    for (field, family) in
        [("deviceRouteSourceAddress", 4), ("deviceRouteSourceAddressIPv6", 6), ("natOutgoingAddress", 4)]
    {
        super::bgp::address(spec.field(field), family);
    }
    spec.field("iptablesNATOutgoingInterfaceFilter")
        .rule("self != '+'", "must name an interface: remove the field to take all");
    spec.field("natPortRange").rule("type(self) == int ? self > 0 : !self.matches('^0+(:|$)')", PORT_RANGE);
    // The bits of a number are not to be counted in CEL: what cannot have eight of them is below 255.
    spec.field("nftablesMarkMask")
        .rule("self >= 255", "must have at least 8 bits set, such as 0xffff0000 (4294901760)");
    let range = "self.min >= 1 && self.min <= self.max";
    spec.field("routeTableRange")
        .rule(format!("{range} && self.max <= 250"), "must be a range of route table indices within 1..250");
    let mut ranges = spec.field("routeTableRanges").set("maxItems", 64);
    ranges.items().rule(range, "min must be 1 or more, and not greater than max");
    for field in [
        "bpfDSROptoutCIDRs",
        "bpfExcludeCIDRsFromNAT",
        "bpfForceTrackPacketsFromIfaces",
        "externalNodesList",
        "failsafeInboundHostPorts",
        "failsafeOutboundHostPorts",
        "healthTimeoutOverrides",
        "kubeNodePortRanges",
    ] {
        spec.field(field).set("maxItems", 1024);
    }
    spec.rule_at(
        ".routeTableRange",
        "!has(self.routeTableRange) || !has(self.routeTableRanges)",
        "routeTableRange and routeTableRanges cannot both be set: remove routeTableRange",
    );
}

/// What holds of a whole configuration.
pub(super) fn whole(object: Node<'_>) {
    object.rule_at(
        ".spec.nodeSelector",
        "!has(self.spec) || !has(self.spec.nodeSelector) || self.spec.nodeSelector == '' \
         || !(self.metadata.name == 'default' || self.metadata.name.startsWith('node.'))",
        "must not be set on \"default\" nor on a node's own: give a configuration with a selector another name",
    );
}
