//! Schemas of the types that are not what they look like on the wire: a network is text, a port a number or a text.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::selector;
use crate::calico::{IpVersion, RulePort, RuleProtocol};
use crate::k8s::PortOrName;
use crate::meta::ObjectMeta;
use crate::selector::Selector;

/// [`JsonSchema`] for types, each by a name and a schema.
macro_rules! schemas {
    ($($type:ty = $name:literal $schema:tt;)+) => {$(
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    )+};
}

/// The longest network in text, `ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255/128`.
const NETWORK: usize = 49;

/// A port number in text, from 1 on.
const PORT: &str = "([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])";

/// A network in CIDR notation; where host bits are set, they are cleared.
pub(crate) struct Cidr;

/// A network in CIDR notation, or an address, which is the network of itself.
pub(crate) struct CidrOrAddress;

/// An IP address.
pub(crate) struct Address;

/// An AS number as Calico writes it.
pub(crate) struct AsNumber;

schemas! {
    ObjectMeta = "ObjectMeta" {"type": "object"};
    Cidr = "Cidr" {"type": "string", "format": "cidr", "maxLength": NETWORK};
    CidrOrAddress = "CidrOrAddress" {
        "type": "string",
        "maxLength": NETWORK,
        "x-kubernetes-validations": [{
            "rule": "isCIDR(self) || isIP(self)",
            "message": "must be a valid CIDR, such as 10.0.0.0/8 or fd00::/64, or an address",
        }],
    };
    Address = "Address" {
        "type": "string",
        "maxLength": NETWORK,
        "x-kubernetes-validations": [{
            "rule": "isIP(self)",
            "message": "must be an IP address, such as 10.244.0.10 or fd00::10",
        }],
    };
    AsNumber = "AsNumber" {
        "x-kubernetes-int-or-string": true,
        "maxLength": 16,
        "x-kubernetes-validations": [{
            "rule": "type(self) == int ? self >= 0 && self <= 4294967295 : self.matches('^[0-9]{1,10}$') && int(self) <= 4294967295 \
                     || self.matches('^[0-9]{1,5}[.][0-9]{1,5}$') && self.split('.').all(half, int(half) <= 65535)",
            "message": "must be an AS number: between 0 and 4294967295, or dotted as in 1.10",
        }],
    };
    Selector = "Selector" {"type": "string", "maxLength": selector::LENGTH, "pattern": selector::anywhere()};
    IpVersion = "IpVersion" {"type": "integer", "enum": [4, 6]};
    RuleProtocol = "RuleProtocol" {
        "x-kubernetes-int-or-string": true,
        "maxLength": 8,
        "x-kubernetes-validations": [{
            "rule": "type(self) == int ? self >= 1 && self <= 255 : \
                     self.matches('(?i)^(tcp|udp|icmp|icmpv6|sctp|udplite|[1-9][0-9]?|1[0-9][0-9]|2[0-4][0-9]|25[0-5])$')",
            "message": "must be TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite or a protocol number between 1 and 255",
        }],
    };
    RulePort = "RulePort" {
        "x-kubernetes-int-or-string": true,
        "minimum": 1,
        "maximum": 65535,
        "maxLength": 15,
        "pattern": format!("^({PORT}(:{PORT})?|[a-z0-9-]*[a-z][a-z0-9-]*)$"),
        "x-kubernetes-validations": [{
            "rule": "type(self) == int || !self.contains(':') \
                     || int(self.substring(0, self.indexOf(':'))) <= int(self.substring(self.indexOf(':') + 1))",
            "message": "the first port of a range must not be greater than the last",
        }],
    };
    PortOrName = "PortOrName" {
        "x-kubernetes-int-or-string": true,
        "minimum": 1,
        "maximum": 65535,
        "maxLength": 15,
        "pattern": "^[a-z0-9-]*[a-z][a-z0-9-]*$",
    };
}
