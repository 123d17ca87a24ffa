//! Schemas of the types that are not what they look like on the wire: a network is text, a port a number or a text.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::selector;
use crate::calico::{Community, IpVersion, PeerAddress, RulePort, RuleProtocol};
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

/// A number of 32 bits in text.
const WORD: &str = "(0|[1-9][0-9]{0,8}|[1-3][0-9]{9}|4[01][0-9]{8}|42[0-8][0-9]{7}|429[0-3][0-9]{6}|4294[0-8][0-9]{5}|42949[0-5][0-9]{4}|\
                    429496[0-6][0-9]{3}|4294967[01][0-9]{2}|42949672[0-8][0-9]|429496729[0-5])";

/// A community, or a large one.
pub(super) fn community() -> String {
    format!("((0|{PORT}):(0|{PORT})|{WORD}:{WORD}:{WORD})")
}

/// A network in CIDR notation; where host bits are set, they are cleared.
pub(crate) struct Cidr;

/// A network in CIDR notation, or an address, which is the network of itself.
pub(crate) struct CidrOrAddress;

/// An IP address.
pub(crate) struct Address;

/// An IP address, or the empty text for none.
pub(crate) struct OptionalAddress;

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
    OptionalAddress = "OptionalAddress" {
        "type": "string",
        "maxLength": NETWORK,
        "x-kubernetes-validations": [{
            "rule": "self == '' || isIP(self)",
            "message": "must be an IP address, such as 10.244.0.10 or fd00::10",
        }],
    };
    PeerAddress = "PeerAddress" {
        "type": "string",
        "maxLength": 64,
        "x-kubernetes-validations": [{
            "rule": format!(
                "self == '' || isIP(self) || self.matches('^[0-9.]+:{PORT}$') && isIP(self.substring(0, self.indexOf(':'))) \
                 || self.matches('^[[][0-9a-fA-F:.]+[]]:{PORT}$') && isIP(self.substring(1, self.indexOf(']')))"
            ),
            "message": "must be an IP address, with a port from 1 on if need be: 10.0.0.1, 10.0.0.1:1790, fd00::1 or [fd00::1]:1790",
        }],
    };
    Community = "Community" {"type": "string", "maxLength": 32, "pattern": format!("^{}$", community())};
    AsNumber = "AsNumber" {
        "x-kubernetes-int-or-string": true,
        "minimum": 0,
        "maximum": u32::MAX,
        "maxLength": 16,
        "pattern": format!("^({WORD}|(0|{PORT})[.](0|{PORT}))$"),
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
