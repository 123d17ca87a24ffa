//! `BGPConfiguration`: the cluster's BGP defaults (`default`) and a node's own (`node.NAME`).

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::de::{Deserializer, Error, Visitor};
use serde::{Deserialize, Serialize};

use super::bgp_filter::Community;
use super::bgp_peer::BgpPassword;
use super::felix::{Duration, Switch, text};
use super::policy::optional_name;
use crate::meta::{ObjectMeta, network, network_or_address, null_as_default};

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

/// `BGPConfigurationSpec`: every field of Calico's API. What this version does not do yet is in [`BgpConfigurationSpec::unheeded`].
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
    /// Whether ranges of load balancers' IPs are announced whole, or address by address.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "text")]
    pub service_load_balancer_aggregation: Option<Switch>,
    /// Which addresses the speakers listen on.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "optional_name")]
    pub bind_mode: Option<BindMode>,
    /// Names of communities, for `prefixAdvertisements`.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub communities: Vec<NamedCommunity>,
    /// With which communities prefixes are announced.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub prefix_advertisements: Vec<PrefixAdvertisement>,
    /// The password of the sessions between nodes (RFC 2385).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_mesh_password: Option<BgpPassword>,
    /// For how long nodes keep routes of one that restarts (RFC 4724).
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "text")]
    pub node_mesh_max_restart_time: Option<Duration>,
    /// Interfaces whose networks are not announced; `*` stands for whatever is there.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub ignored_interfaces: Vec<String>,
    /// The IPv4 address at which pods reach their node's speaker.
    #[serde(
        default,
        rename = "localWorkloadPeeringIPV4",
        skip_serializing_if = "Option::is_none",
        deserialize_with = "text"
    )]
    pub local_workload_peering_ipv4: Option<Ipv4Addr>,
    /// The IPv6 address at which pods reach their node's speaker.
    #[serde(
        default,
        rename = "localWorkloadPeeringIPV6",
        skip_serializing_if = "Option::is_none",
        deserialize_with = "text"
    )]
    pub local_workload_peering_ipv6: Option<Ipv6Addr>,
    /// Which routes Calico's BIRD writes into the kernel.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "optional_name")]
    pub program_cluster_routes: Option<ProgramClusterRoutes>,
    /// The metric of IPv4 routes that Calico's BIRD writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4_normal_route_priority: Option<u32>,
    /// The metric of IPv6 routes that Calico's BIRD writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6_normal_route_priority: Option<u32>,
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

/// Which addresses a speaker listens on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum BindMode {
    /// All, the default.
    None,
    /// The node's own.
    NodeIP,
}

/// Which routes Calico's BIRD writes into the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum ProgramClusterRoutes {
    /// All.
    Enabled,
    /// None.
    Disabled,
    /// Those by IPIP.
    EnabledIPIPOnly,
    /// Those without encapsulation.
    EnabledNoEncapOnly,
}

/// A community with a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct NamedCommunity {
    /// The name that `prefixAdvertisements` refer to.
    #[serde(default)]
    pub name: String,
    /// The community: `64512:100`, or a large one such as `64512:1:2`.
    pub value: Community,
}

/// With which communities a prefix is announced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PrefixAdvertisement {
    /// The prefix, with all that is in it.
    #[serde(deserialize_with = "network")]
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Cidr"))]
    pub cidr: IpNet,
    /// The communities, by value or by a name in `communities`.
    #[serde(default, deserialize_with = "null_as_default")]
    pub communities: Vec<String>,
}

impl BgpConfigurationSpec {
    /// What is set and has no effect in this version, by field.
    pub fn unheeded(&self) -> Vec<(&'static str, &'static str)> {
        let all = [
            ("ignoredInterfaces", !self.ignored_interfaces.is_empty(), "networks of interfaces are never announced"),
            ("localWorkloadPeeringIPV4", self.local_workload_peering_ipv4.is_some(), "pods are no peers of their node"),
            ("localWorkloadPeeringIPV6", self.local_workload_peering_ipv6.is_some(), "pods are no peers of their node"),
            (
                "ipv4NormalRoutePriority",
                self.ipv4_normal_route_priority.is_some(),
                "the agent writes all routes with the metric of FelixConfiguration's field of the same name",
            ),
            (
                "ipv6NormalRoutePriority",
                self.ipv6_normal_route_priority.is_some(),
                "the agent writes all routes with the metric of FelixConfiguration's field of the same name",
            ),
        ];
        all.into_iter().filter(|(_, is_set, _)| *is_set).map(|(field, _, instead)| (field, instead)).collect()
    }

    /// All ranges of service addresses, sorted, each once.
    pub fn service_cidrs(&self) -> Vec<IpNet> {
        let lists = [&self.service_cluster_ips, &self.service_external_ips, &self.service_load_balancer_ips];
        let mut cidrs: Vec<IpNet> = lists.into_iter().flatten().map(|block| block.cidr).collect();
        cidrs.sort_unstable();
        cidrs.dedup();
        cidrs
    }
}

/// Reads a list of AS numbers, each as [`as_number`] does.
pub(super) fn as_numbers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u32>, D::Error> {
    #[derive(Deserialize)]
    struct Number(#[serde(deserialize_with = "as_number")] Option<u32>);

    let list = Option::<Vec<Number>>::deserialize(deserializer)?.unwrap_or_default();
    Ok(list.into_iter().map(|Number(number)| number.unwrap_or_default()).collect())
}

/// Reads an AS number as Calico writes it: a number, or a string, plain (`"64512"`) or in dotted form (`"1.10"`, RFC 5396).
pub(super) fn as_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
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
