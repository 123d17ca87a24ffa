//! `BGPFilter`: which routes a BGPPeer takes and gives, and what is changed of them on the way.

use std::fmt;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::bgp::as_numbers;
use super::policy::optional_name;
use crate::meta::{ObjectMeta, null_as_default, optional_network, optional_text};

/// `projectcalico.org/v3 BGPFilter`: rules for routes that are learned of a peer, and for those that it is told. The first rule that
/// matches decides; what none matches passes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BgpFilter {
    /// The name that BGPPeers refer to.
    pub metadata: ObjectMeta,
    /// What is wanted.
    #[serde(default)]
    pub spec: BgpFilterSpec,
}

/// `BGPFilterSpec`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct BgpFilterSpec {
    /// What becomes of IPv4 routes that a peer would be told.
    #[serde(default, rename = "exportV4", skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub export_v4: Vec<BgpFilterRule>,
    /// What becomes of IPv4 routes that a peer tells.
    #[serde(default, rename = "importV4", skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub import_v4: Vec<BgpFilterRule>,
    /// What becomes of IPv6 routes that a peer would be told.
    #[serde(default, rename = "exportV6", skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub export_v6: Vec<BgpFilterRule>,
    /// What becomes of IPv6 routes that a peer tells.
    #[serde(default, rename = "importV6", skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub import_v6: Vec<BgpFilterRule>,
}

/// One rule: all of what is set must match. Where nothing is set it matches every route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BgpFilterRule {
    /// What is done with the route.
    pub action: BgpFilterAction,
    /// The range that the route is compared with, as `matchOperator` says.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "optional_network")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<crate::schema::Cidr>"))]
    pub cidr: Option<IpNet>,
    /// How the route is compared with `cidr`; neither goes without the other.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "optional_name")]
    pub match_operator: Option<MatchOperator>,
    /// How long the route's prefix is; only with a `cidr`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix_length: Option<PrefixLength>,
    /// Where the route comes from.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "optional_name")]
    pub source: Option<RouteOrigin>,
    /// The interface that the route leads to; `*` stands for whatever is there.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "optional_text")]
    pub interface: Option<String>,
    /// Which peers the rule is for; all if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "optional_name")]
    pub peer_type: Option<PeerType>,
    /// Only routes with this community.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub communities: Option<CommunityMatch>,
    /// Only routes whose AS path begins so.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "as_numbers")]
    #[cfg_attr(feature = "schema", schemars(with = "Vec<crate::schema::AsNumber>"))]
    pub as_path_prefix: Vec<u32>,
    /// Only routes of this priority, which is a kernel's metric.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// What is changed of a route that is accepted, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub operations: Vec<BgpFilterOperation>,
}

/// What a rule does with a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum BgpFilterAction {
    /// It passes.
    Accept,
    /// It does not.
    Reject,
}

/// How a route is compared with a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum MatchOperator {
    /// It is the range.
    Equal,
    /// It is not the range.
    NotEqual,
    /// It is the range or a part of it.
    In,
    /// It is neither.
    NotIn,
}

/// Where a route comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum RouteOrigin {
    /// From another peer.
    RemotePeers,
}

/// Of which kind a peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum PeerType {
    /// Of another AS number.
    #[serde(rename = "eBGP")]
    External,
    /// Of the node's own.
    #[serde(rename = "iBGP")]
    Internal,
}

/// How long a prefix is, both ends included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PrefixLength {
    /// At least; `cidr`'s own if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<u8>,
    /// At most; a whole address if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<u8>,
}

/// Communities that a route has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct CommunityMatch {
    /// Exactly one.
    pub values: Vec<Community>,
}

/// One change of a route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum BgpFilterOperation {
    /// The route gets a community.
    AddCommunity(AddCommunity),
    /// AS numbers are put before its path.
    #[serde(rename = "prependASPath")]
    PrependAsPath(PrependAsPath),
    /// It gets a priority.
    SetPriority(SetPriority),
}

/// `addCommunity`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct AddCommunity {
    /// The community.
    pub value: Community,
}

/// `prependASPath`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PrependAsPath {
    /// The AS numbers, the first of which will be the first of the path.
    #[serde(deserialize_with = "as_numbers")]
    #[cfg_attr(feature = "schema", schemars(with = "Vec<crate::schema::AsNumber>"))]
    pub prefix: Vec<u32>,
}

/// `setPriority`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SetPriority {
    /// The priority, which is a kernel's metric.
    pub value: u32,
}

/// A community (RFC 1997) in its usual form, `64512:100`, or a large one (RFC 8092), `64512:1:2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Community {
    /// Two numbers of 16 bits.
    Standard(u16, u16),
    /// Three of 32 bits.
    Large(u32, u32, u32),
}

const COMMUNITY: &str =
    "must be a community such as 64512:100 (numbers up to 65535), or a large one such as 64512:1:2 (up to 4294967295)";

impl FromStr for Community {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        fn number<T: FromStr>(text: &str) -> Result<T, String> {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|_| digits).ok_or_else(|| COMMUNITY.to_owned())
        }

        match text.split(':').collect::<Vec<_>>().as_slice() {
            [high, low] => Ok(Self::Standard(number(high)?, number(low)?)),
            [global, one, two] => Ok(Self::Large(number(global)?, number(one)?, number(two)?)),
            _ => Err(COMMUNITY.to_owned()),
        }
    }
}

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Standard(high, low) => write!(f, "{high}:{low}"),
            Self::Large(global, one, two) => write!(f, "{global}:{one}:{two}"),
        }
    }
}

impl Serialize for Community {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Community {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}
