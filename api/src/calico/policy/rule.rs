//! One rule of a policy.

use ipnet::IpNet;
use serde::de::{Error, Unexpected};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{RulePort, RuleProtocol};
use crate::meta::{StringMap, exact_networks, null_as_default};
use crate::selector::Selector;

/// What a rule does with the traffic that it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Action {
    /// Lets it pass; no further policy is asked in this direction.
    Allow,
    /// Stops it.
    Deny,
    /// Notes it in the kernel's log and goes on with the next rule.
    Log,
    /// Goes on with the next tier, or with the profiles after the last.
    Pass,
}

/// One rule: all of what is set must match. Where nothing is set it matches everything.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicyRule {
    /// What is done.
    pub action: Action,
    /// Only this version of IP: 4 or 6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_version: Option<IpVersion>,
    /// Only this protocol, by its name (TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite) or its number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<RuleProtocol>,
    /// Every protocol but this, by its name or its number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_protocol: Option<RuleProtocol>,
    /// Only this ICMP type and code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp: Option<Icmp>,
    /// Every ICMP type and code but this.
    #[serde(default, rename = "notICMP", skip_serializing_if = "Option::is_none")]
    pub not_icmp: Option<Icmp>,
    /// Where the traffic comes from.
    #[serde(default, skip_serializing_if = "EntityRule::is_empty", deserialize_with = "null_as_default")]
    pub source: EntityRule,
    /// Where it goes.
    #[serde(default, skip_serializing_if = "EntityRule::is_empty", deserialize_with = "null_as_default")]
    pub destination: EntityRule,
    /// What people note at the rule.
    #[serde(default, skip_serializing_if = "RuleMetadata::is_empty", deserialize_with = "null_as_default")]
    pub metadata: RuleMetadata,
}

impl PolicyRule {
    /// The rule that does this with everything.
    pub fn of(action: Action) -> Self {
        Self {
            action,
            ip_version: None,
            protocol: None,
            not_protocol: None,
            icmp: None,
            not_icmp: None,
            source: EntityRule::default(),
            destination: EntityRule::default(),
            metadata: RuleMetadata::default(),
        }
    }
}

/// `ipVersion`, in manifests 4 or 6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IpVersion {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl IpVersion {
    /// Of which version a network is.
    pub const fn of(net: &IpNet) -> Self {
        match net {
            IpNet::V4(_) => Self::V4,
            IpNet::V6(_) => Self::V6,
        }
    }

    /// 4 or 6.
    pub const fn number(self) -> u8 {
        match self {
            Self::V4 => 4,
            Self::V6 => 6,
        }
    }
}

impl Serialize for IpVersion {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(self.number())
    }
}

impl<'de> Deserialize<'de> for IpVersion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u64::deserialize(deserializer)? {
            4 => Ok(Self::V4),
            6 => Ok(Self::V6),
            other => Err(D::Error::invalid_value(Unexpected::Unsigned(other), &"4 or 6")),
        }
    }
}

/// `ICMPFields`: with no type it matches every ICMP message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Icmp {
    /// The type: an IANA ICMP or ICMPv6 type number, up to 254.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<u8>,
    /// The code; only with a type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<u8>,
}

/// `RuleMetadata`.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RuleMetadata {
    /// Annotations, which have no effect.
    #[serde(default, skip_serializing_if = "StringMap::is_empty", deserialize_with = "null_as_default")]
    pub annotations: StringMap,
}

impl RuleMetadata {
    /// Whether nothing is noted.
    pub fn is_empty(&self) -> bool {
        self.annotations.is_empty()
    }
}

/// `EntityRule`: one end of the traffic. All of what is set must match; where nothing is set it is anyone.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EntityRule {
    /// In one of these networks, all of one IP version, with no bits set behind their prefixes.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "exact_networks")]
    #[cfg_attr(feature = "schema", schemars(with = "Vec<crate::schema::Cidr>"))]
    pub nets: Vec<IpNet>,
    /// In none of these networks, of which the same holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "exact_networks")]
    #[cfg_attr(feature = "schema", schemars(with = "Vec<crate::schema::Cidr>"))]
    pub not_nets: Vec<IpNet>,
    /// Pods, network sets and host endpoints whose labels meet this selector, such as `app == 'web'`.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::selector::optional")]
    pub selector: Option<Selector>,
    /// None whose labels meet this selector.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::selector::optional")]
    pub not_selector: Option<Selector>,
    /// In namespaces whose labels meet this selector; `global()` is what is in no namespace.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::selector::optional")]
    pub namespace_selector: Option<Selector>,
    /// One of these ports: numbers, ranges (`8000:8080`), or names. Without a `protocol` in the rule they are all names, and stand for
    /// the port of that name whatever its protocol.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub ports: Vec<RulePort>,
    /// None of these ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub not_ports: Vec<RulePort>,
    /// Pods that run as such a service account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_accounts: Option<ServiceAccountMatch>,
    /// The endpoints of a Service: as a destination, their ports too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub services: Option<ServiceMatch>,
}

impl EntityRule {
    /// Whether it matches everything.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// `ServiceAccountMatch`: both must match.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ServiceAccountMatch {
    /// One of these names; none is any.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub names: Vec<String>,
    /// With such labels.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::selector::optional")]
    pub selector: Option<Selector>,
}

/// `ServiceMatch`.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ServiceMatch {
    /// The Service's name.
    #[serde(default)]
    pub name: String,
    /// Its namespace. A policy that has a namespace means its own unless this says otherwise; a global one must say it.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::meta::optional_text")]
    pub namespace: Option<String>,
}
