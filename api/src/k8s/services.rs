//! `v1 ServiceAccount` and `discovery.k8s.io/v1 EndpointSlice`, slim.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::Protocol;
use crate::meta::{ObjectMeta, null_as_default};

/// The label of an EndpointSlice that names its Service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// `v1 ServiceAccount`: policies select by its name and labels.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceAccount {
    /// Name, namespace, labels.
    pub metadata: ObjectMeta,
}

/// `discovery.k8s.io/v1 EndpointSlice`: some of the addresses behind a Service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", from = "WireSlice")]
pub struct EndpointSlice {
    /// Name, namespace, and the labels, which name the Service.
    pub metadata: ObjectMeta,
    /// What the addresses are. Of [`AddressType::Fqdn`] none is kept, as policies speak of IP addresses only.
    pub address_type: AddressType,
    /// The endpoints.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<Endpoint>,
    /// The ports of each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<EndpointSlicePort>,
}

/// `addressType`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AddressType {
    /// IPv4 addresses.
    #[default]
    #[serde(rename = "IPv4")]
    Ipv4,
    /// IPv6 addresses.
    #[serde(rename = "IPv6")]
    Ipv6,
    /// Domain names.
    #[serde(rename = "FQDN")]
    Fqdn,
}

/// One endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// What it is good for.
    #[serde(default, deserialize_with = "null_as_default")]
    pub conditions: EndpointConditions,
}

/// `EndpointConditions`; what is not said is `None`, which readers take for ready.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointConditions {
    /// Whether it takes new connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// Whether it serves, ending or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serving: Option<bool>,
    /// Whether it is ending.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminating: Option<bool>,
}

/// A port of a slice's endpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EndpointSlicePort {
    /// The port's name; it may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_as_default")]
    pub name: String,
    /// TCP by default.
    #[serde(default, deserialize_with = "null_as_default")]
    pub protocol: Protocol,
    /// Its number; `None` is every port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

impl EndpointSlice {
    /// The name of the Service, in the slice's namespace, if it is one's.
    pub fn service(&self) -> Option<&str> {
        self.metadata.labels.get(SERVICE_NAME_LABEL).map(String::as_str).filter(|name| !name.is_empty())
    }
}

/// A slice as the API server writes it, whose addresses are texts.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireSlice {
    metadata: ObjectMeta,
    #[serde(default, deserialize_with = "null_as_default")]
    address_type: AddressType,
    #[serde(default, deserialize_with = "null_as_default")]
    endpoints: Vec<WireEndpoint>,
    #[serde(default, deserialize_with = "null_as_default")]
    ports: Vec<EndpointSlicePort>,
}

#[derive(Deserialize)]
struct WireEndpoint {
    #[serde(default, deserialize_with = "null_as_default")]
    addresses: Vec<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    conditions: EndpointConditions,
}

impl From<WireSlice> for EndpointSlice {
    fn from(wire: WireSlice) -> Self {
        let is_wanted = |address: &IpAddr| match wire.address_type {
            AddressType::Ipv4 => address.is_ipv4(),
            AddressType::Ipv6 => address.is_ipv6(),
            AddressType::Fqdn => false,
        };
        let endpoints = wire.endpoints.into_iter().map(|endpoint| Endpoint {
            addresses: endpoint.addresses.iter().filter_map(|text| text.parse().ok()).filter(is_wanted).collect(),
            conditions: endpoint.conditions,
        });
        Self {
            metadata: wire.metadata,
            address_type: wire.address_type,
            endpoints: endpoints.filter(|endpoint| !endpoint.addresses.is_empty()).collect(),
            ports: wire.ports,
        }
    }
}
