//! `BGPPeer`: whom the nodes speak BGP with besides each other.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::bgp::as_number;
use super::felix::{Duration, text};
use super::policy::optional_name;
use crate::meta::{ObjectMeta, null_as_default, optional_address, optional_text};
use crate::selector::Selector;

/// `projectcalico.org/v3 BGPPeer`: a BGP session, or as many as its selectors make, between nodes and a router, or between nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BgpPeer {
    /// The name.
    pub metadata: ObjectMeta,
    /// What is wanted.
    #[serde(default)]
    pub spec: BgpPeerSpec,
}

/// `BGPPeerSpec`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BgpPeerSpec {
    /// The node that has the session; all nodes if there is no `nodeSelector` either.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "optional_text")]
    pub node: Option<String>,
    /// The nodes that have the session, in place of `node`.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::selector::optional")]
    pub node_selector: Option<Selector>,
    /// The peer's address, with a port where it is not 179: `10.0.0.1`, `10.0.0.1:1790`, `[fd00::1]:1790`.
    #[serde(default, rename = "peerIP", skip_serializing_if = "Option::is_none", deserialize_with = "optional_peer")]
    pub peer_ip: Option<PeerAddress>,
    /// The peer's AS number, a number or dotted text; the node's own if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "as_number")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<crate::schema::AsNumber>"))]
    pub as_number: Option<u32>,
    /// The AS number that the node has towards this peer, where it is not its own.
    #[serde(
        default,
        rename = "localASNumber",
        skip_serializing_if = "Option::is_none",
        deserialize_with = "as_number"
    )]
    #[cfg_attr(feature = "schema", schemars(with = "Option<crate::schema::AsNumber>"))]
    pub local_as_number: Option<u32>,
    /// The nodes that are peers, in place of `peerIP` and `asNumber`.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::selector::optional")]
    pub peer_selector: Option<Selector>,
    /// The pods that are peers of their own node, in place of `peerIP`.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::selector::optional")]
    pub local_workload_selector: Option<Selector>,
    /// The older form of `nextHopMode: Keep`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not", deserialize_with = "null_as_default")]
    pub keep_original_next_hop: bool,
    /// Which next hop routes have that are sent to the peer.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "optional_name")]
    pub next_hop_mode: Option<NextHopMode>,
    /// The password of the session (RFC 2385).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<BgpPassword>,
    /// From which address the node speaks.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "optional_name")]
    pub source_address: Option<SourceAddress>,
    /// For how long the peer keeps routes of a node that restarts (RFC 4724).
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "text")]
    pub max_restart_time: Option<Duration>,
    /// How often the session is kept alive.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "text")]
    pub keepalive_time: Option<Duration>,
    /// How often the node's own AS number may be in the path of a route that is learned here: what BGP would take for a loop.
    #[serde(default, rename = "numAllowedLocalASNumbers", skip_serializing_if = "Option::is_none")]
    pub num_allowed_local_as_numbers: Option<u8>,
    /// How many hops away the peer may be (RFC 5082); no such check if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_security: Option<u8>,
    /// The gateway to the peer, where no route leads there yet.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "optional_address")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<crate::schema::OptionalAddress>"))]
    pub reachable_by: Option<IpAddr>,
    /// The BGPFilters that routes from and to the peer go through, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub filters: Vec<String>,
    /// Whether the nodes of `peerSelector` have the other end of the session by themselves.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "optional_name")]
    pub reverse_peering: Option<ReversePeering>,
}

/// Which next hop routes have that are sent to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum NextHopMode {
    /// As BGP has it: the node's own to peers of other AS numbers, the route's to those of its own.
    Auto,
    /// The node's own.
    #[serde(rename = "Self")]
    Own,
    /// The route's.
    Keep,
}

/// From which address a node speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum SourceAddress {
    /// The node's own, the default.
    UseNodeIP,
    /// Whichever the kernel takes.
    None,
}

/// Whether the other end of a session comes by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum ReversePeering {
    /// It does, the default.
    Auto,
    /// It takes a BGPPeer of its own.
    Manual,
}

/// Where a password is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BgpPassword {
    /// In a Secret of the namespace that the agents run in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<SecretKeySelector>,
}

/// One entry of a Secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SecretKeySelector {
    /// The Secret's name.
    #[serde(default)]
    pub name: String,
    /// The entry's.
    pub key: String,
    /// Whether it may be missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optional: Option<bool>,
}

/// A peer's address, with a port where one is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerAddress {
    /// The address.
    pub ip: IpAddr,
    /// The port.
    pub port: Option<u16>,
}

const PEER_ADDRESS: &str =
    "must be an IP address, with a port from 1 on if need be: 10.0.0.1, 10.0.0.1:1790, fd00::1 or [fd00::1]:1790";

impl FromStr for PeerAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self { ip, port: None });
        }
        let parsed = text.rsplit_once(':').and_then(|(ip, port)| {
            let bracketed = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']'));
            let ip = match bracketed {
                Some(ip) => ip.parse::<Ipv6Addr>().ok()?.into(),
                None => IpAddr::V4(ip.parse().ok()?),
            };
            let digits = port.bytes().all(|byte| byte.is_ascii_digit());
            let port = port.parse().ok().filter(|port| *port > 0 && digits)?;
            Some(Self { ip, port: Some(port) })
        });
        parsed.ok_or_else(|| PEER_ADDRESS.to_owned())
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.ip, self.port) {
            (ip, None) => write!(f, "{ip}"),
            (IpAddr::V4(ip), Some(port)) => write!(f, "{ip}:{port}"),
            (IpAddr::V6(ip), Some(port)) => write!(f, "[{ip}]:{port}"),
        }
    }
}

impl Serialize for PeerAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Reads a peer's address; the empty text is none.
fn optional_peer<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PeerAddress>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?.filter(|text| !text.is_empty());
    text.map(|text| text.parse().map_err(de::Error::custom)).transpose()
}
