//! `BGPConfiguration`: the cluster's BGP defaults (`default`) and a node's own (`node.NAME`).

use std::fmt;

use ipnet::IpNet;
use serde::de::{Deserializer, Error, Visitor};
use serde::{Deserialize, Serialize};

use crate::meta::{ObjectMeta, network_or_address, null_as_default};

/// `projectcalico.org/v3 BGPConfiguration`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BgpConfiguration {
    /// `default`, or `node.NAME`.
    pub metadata: ObjectMeta,
    /// What is wanted.
    #[serde(default)]
    pub spec: BgpConfigurationSpec,
}

/// The fields of `BGPConfigurationSpec` that this version honours; others are refused, so that none is silently ignored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BgpConfigurationSpec {
    /// `Debug`, `Info`, `Warning` ...; accepted, the log level is the agent's `--log-level`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_severity_screen: Option<String>,
    /// Whether every node peers with every other; true by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_to_node_mesh_enabled: Option<bool>,
    /// The cluster's AS number; 64512 by default.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "as_number")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<crate::schema::AsNumber>"))]
    pub as_number: Option<u32>,
    /// TCP port that the speakers listen on; 179 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen_port: Option<u16>,
    /// The ranges of cluster IPs. Packets to them that nobody translates are stopped (`serviceLoopPrevention`); they are not announced yet.
    #[serde(
        default,
        rename = "serviceClusterIPs",
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_as_default"
    )]
    pub service_cluster_ips: Vec<ServiceBlock>,
    /// The ranges of external IPs, likewise.
    #[serde(
        default,
        rename = "serviceExternalIPs",
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_as_default"
    )]
    pub service_external_ips: Vec<ServiceBlock>,
    /// The ranges of load balancers' IPs, likewise.
    #[serde(
        default,
        rename = "serviceLoadBalancerIPs",
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_as_default"
    )]
    pub service_load_balancer_ips: Vec<ServiceBlock>,
}

/// A range of service addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ServiceBlock {
    /// The range. A plain address is the range of itself, as in Calico.
    #[serde(deserialize_with = "network_or_address")]
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::CidrOrAddress"))]
    pub cidr: IpNet,
}

impl BgpConfigurationSpec {
    /// All ranges of service addresses, sorted, each once.
    pub fn service_cidrs(&self) -> Vec<IpNet> {
        let lists = [&self.service_cluster_ips, &self.service_external_ips, &self.service_load_balancer_ips];
        let mut cidrs: Vec<IpNet> = lists.into_iter().flatten().map(|block| block.cidr).collect();
        cidrs.sort_unstable();
        cidrs.dedup();
        cidrs
    }
}

/// Calico's fields that this version does not honour yet.
pub(crate) const BGP_CONFIGURATION_UNSUPPORTED: [&str; 12] = [
    "bindMode",
    "communities",
    "ignoredInterfaces",
    "ipv4NormalRoutePriority",
    "ipv6NormalRoutePriority",
    "localWorkloadPeeringIPV4",
    "localWorkloadPeeringIPV6",
    "nodeMeshMaxRestartTime",
    "nodeMeshPassword",
    "prefixAdvertisements",
    "programClusterRoutes",
    "serviceLoadBalancerAggregation",
];

/// Reads an AS number as Calico writes it: a number, or a string, plain (`"64512"`) or in dotted form (`"1.10"`, RFC 5396).
fn as_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    struct AsNumber;

    impl Visitor<'_> for AsNumber {
        type Value = Option<u32>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an AS number")
        }

        fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
            u32::try_from(value).map(Some).map_err(|_| E::custom(AS_NUMBER_RANGE))
        }

        fn visit_i64<E: Error>(self, _: i64) -> Result<Self::Value, E> {
            Err(E::custom(AS_NUMBER_RANGE))
        }

        fn visit_f64<E: Error>(self, _: f64) -> Result<Self::Value, E> {
            Err(E::custom("the dotted form of an AS number must be in quotes"))
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
            parse_as_number(text).map(Some).map_err(E::custom)
        }

        fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }
    }

    deserializer.deserialize_any(AsNumber)
}

const AS_NUMBER_RANGE: &str = "must be between 0 and 4294967295";

/// Reads the text of an AS number, plain or dotted.
pub(crate) fn parse_as_number(text: &str) -> Result<u32, String> {
    let invalid = || format!("must be an AS number: {AS_NUMBER_RANGE}, or dotted as in 1.10");
    match text.split_once('.') {
        Some((high, low)) => {
            let high: u16 = high.parse().map_err(|_| invalid())?;
            let low: u16 = low.parse().map_err(|_| invalid())?;
            Ok(u32::from(high) << 16 | u32::from(low))
        }
        None => text.parse().map_err(|_| invalid()),
    }
}
