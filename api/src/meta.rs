//! Object metadata, the slim form of `meta/v1 ObjectMeta`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Labels or annotations.
pub type StringMap = BTreeMap<String, String>;

/// The part of `meta/v1 ObjectMeta` that Tortie reads. Other fields (`managedFields`, `ownerReferences` ...) are dropped.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectMeta {
    /// The name, unique within kind and namespace.
    #[serde(default)]
    pub name: String,
    /// The namespace of a namespaced kind; `default` is filled in by defaulting, as the API server does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Labels, what selectors match.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_as_default")]
    pub labels: StringMap,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_as_default")]
    pub annotations: StringMap,
    /// The UID the API server gave, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Opaque version for compare-and-swap; filled by the datastore.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
}

/// Reads an explicit `null` as the default, as the API server does.
pub(crate) fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// Reads an address.
pub(crate) fn address<'de, D>(deserializer: D) -> Result<IpAddr, D::Error>
where
    D: serde::Deserializer<'de>,
{
    parse_address(&String::deserialize(deserializer)?)
}

/// Reads an address that may be the empty string, as in the status of a pod that has none yet.
pub(crate) fn optional_address<'de, D>(deserializer: D) -> Result<Option<IpAddr>, D::Error>
where
    D: serde::Deserializer<'de>,
{
    let text = Option::<String>::deserialize(deserializer)?.unwrap_or_default();
    if text.is_empty() { Ok(None) } else { parse_address(&text).map(Some) }
}

fn parse_address<E: serde::de::Error>(text: &str) -> Result<IpAddr, E> {
    text.parse().map_err(|_| E::custom("must be an IP address, such as 10.244.0.10 or fd00::10"))
}

/// Reads a network in CIDR notation and clears its host bits, as the API server's users expect of `10.0.0.1/8`. An IPv4 network in
/// its IPv6-mapped form is the IPv4 network.
pub(crate) fn network<'de, D>(deserializer: D) -> Result<IpNet, D::Error>
where
    D: serde::Deserializer<'de>,
{
    let text = String::deserialize(deserializer)?;
    parse_network(&text).ok_or_else(|| serde::de::Error::custom(NOT_A_NETWORK))
}

/// [`network`] where there is one; the empty text is none.
pub(crate) fn optional_network<'de, D>(deserializer: D) -> Result<Option<IpNet>, D::Error>
where
    D: serde::Deserializer<'de>,
{
    let text = Option::<String>::deserialize(deserializer)?.filter(|text| !text.is_empty());
    text.map(|text| parse_network(&text).ok_or_else(|| serde::de::Error::custom(NOT_A_NETWORK))).transpose()
}

/// [`network`], where a plain address stands for the network of itself.
pub(crate) fn network_or_address<'de, D>(deserializer: D) -> Result<IpNet, D::Error>
where
    D: serde::Deserializer<'de>,
{
    let text = String::deserialize(deserializer)?;
    let address = || text.parse::<IpAddr>().ok().map(|address| IpNet::from(address.to_canonical()));
    parse_network(&text).or_else(address).ok_or_else(|| serde::de::Error::custom(NOT_A_NETWORK))
}

/// [`network`] for each element of a list.
pub(crate) fn networks<'de, D>(deserializer: D) -> Result<Vec<IpNet>, D::Error>
where
    D: serde::Deserializer<'de>,
{
    #[derive(Deserialize)]
    struct Network(#[serde(deserialize_with = "network")] IpNet);

    let list = Option::<Vec<Network>>::deserialize(deserializer)?.unwrap_or_default();
    Ok(list.into_iter().map(|Network(network)| network).collect())
}

/// Reads the networks of a rule as strictly as Calico does: in CIDR notation, and with no bit set behind the prefix.
pub(crate) fn exact_networks<'de, D>(deserializer: D) -> Result<Vec<IpNet>, D::Error>
where
    D: serde::Deserializer<'de>,
{
    struct Network(IpNet);

    impl<'de> Deserialize<'de> for Network {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            use serde::de::Error;

            let text = String::deserialize(deserializer)?;
            if let Ok(address) = text.parse::<IpAddr>() {
                return Err(D::Error::custom(format!("must be in CIDR notation: write {}", IpNet::from(address))));
            }
            let written: IpNet = text.parse().map_err(|_| D::Error::custom(NOT_A_NETWORK))?;
            if written.trunc() != written {
                return Err(D::Error::custom(format!(
                    "must have no bits set behind its prefix: write {}",
                    written.trunc()
                )));
            }
            parse_network(&text).map(Self).ok_or_else(|| D::Error::custom(NOT_A_NETWORK))
        }
    }

    let list = Option::<Vec<Network>>::deserialize(deserializer)?.unwrap_or_default();
    Ok(list.into_iter().map(|Network(network)| network).collect())
}

/// [`network_or_address`] for each element of a list.
pub(crate) fn networks_or_addresses<'de, D>(deserializer: D) -> Result<Vec<IpNet>, D::Error>
where
    D: serde::Deserializer<'de>,
{
    #[derive(Deserialize)]
    struct Network(#[serde(deserialize_with = "network_or_address")] IpNet);

    let list = Option::<Vec<Network>>::deserialize(deserializer)?.unwrap_or_default();
    Ok(list.into_iter().map(|Network(network)| network).collect())
}

/// [`address`] for each element of a list. An IPv4 address in its IPv6-mapped form is the IPv4 address.
pub(crate) fn addresses<'de, D>(deserializer: D) -> Result<Vec<IpAddr>, D::Error>
where
    D: serde::Deserializer<'de>,
{
    #[derive(Deserialize)]
    struct Address(#[serde(deserialize_with = "address")] IpAddr);

    let list = Option::<Vec<Address>>::deserialize(deserializer)?.unwrap_or_default();
    Ok(list.into_iter().map(|Address(address)| address.to_canonical()).collect())
}

/// Reads a text whose empty form is a field that is not set.
pub(crate) fn optional_text<'de, D>(deserializer: D) -> Result<Option<String>, D::Error>
where
    D: serde::Deserializer<'de>,
{
    Ok(Option::<String>::deserialize(deserializer)?.filter(|text| !text.is_empty()))
}

const NOT_A_NETWORK: &str = "must be a valid CIDR, such as 10.0.0.0/8 or fd00::/64";

pub(crate) fn parse_network(text: &str) -> Option<IpNet> {
    let network = text.parse::<IpNet>().ok()?.trunc();
    match network {
        IpNet::V6(v6) if v6.prefix_len() >= 96 => match v6.addr().to_ipv4_mapped() {
            Some(v4) => IpNet::new(v4.into(), v6.prefix_len() - 96).ok(),
            None => Some(network),
        },
        IpNet::V4(_) | IpNet::V6(_) => Some(network),
    }
}
