//! Which addresses and ports a pod has, and how a node is reached: what is read from status, spec and Calico's annotations.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::{ContainerPort, Node, Pod};
use crate::field::{FieldError, Path};
use crate::meta::StringMap;

/// The annotations that Tortie reads.
pub mod annotations {
    /// On a pod: its addresses, comma separated, as the CNI plugin reports them before the kubelet does.
    pub const POD_IPS: &str = "cni.projectcalico.org/podIPs";
    /// On a pod: the addresses it must get, a JSON list of strings, at most one of each family.
    pub const PINNED_ADDRESSES: &str = "cni.projectcalico.org/ipAddrs";
    /// On a pod or a namespace: the IPv4 pools that its addresses come from, a JSON list of names and ranges.
    pub const IPV4_POOLS: &str = "cni.projectcalico.org/ipv4pools";
    /// On a pod or a namespace: likewise the IPv6 pools.
    pub const IPV6_POOLS: &str = "cni.projectcalico.org/ipv6pools";
    /// On a node: its IPv4 address with the prefix length of its subnet.
    pub const IPV4_ADDRESS: &str = "projectcalico.org/IPv4Address";
    /// On a node: its IPv6 address with the prefix length of its subnet.
    pub const IPV6_ADDRESS: &str = "projectcalico.org/IPv6Address";
    /// On a node: its AS number, where it differs from the cluster's.
    pub const AS_NUMBER: &str = "projectcalico.org/ASNumber";
    /// The cluster that a node reflects routes for.
    pub const CLUSTER_ID: &str = "projectcalico.org/RouteReflectorClusterID";
    /// On a node: the address of its end of the IPv4 VXLAN.
    pub const IPV4_VXLAN: &str = "projectcalico.org/IPv4VXLANTunnelAddr";
    /// On a node: the address of its end of the IPv6 VXLAN.
    pub const IPV6_VXLAN: &str = "projectcalico.org/IPv6VXLANTunnelAddr";
    /// On a node: the hardware address of its end of the IPv4 VXLAN, where it is not the one that follows from the node's name.
    pub const IPV4_VXLAN_MAC: &str = "projectcalico.org/VXLANTunnelMACAddr";
    /// On a node: the same of the IPv6 VXLAN.
    pub const IPV6_VXLAN_MAC: &str = "projectcalico.org/VXLANTunnelMACAddrV6";
    /// On a node: the address of its end of IPIP tunnels.
    pub const IPIP: &str = "projectcalico.org/IPv4IPIPTunnelAddr";
}

impl Pod {
    /// The addresses that the pod has: `status.podIPs`, which only agents write. Annotations are wishes of whoever made the pod, and
    /// must not count for anything that is enforced: a pod could take over another one's permissions by naming its address.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.status.pod_ips.iter().map(|entry| entry.ip).collect()
    }

    /// The addresses of the annotation `cni.projectcalico.org/podIPs`, which agents write before the kubelet fills in the status. Entries
    /// that are no addresses are left out with all others.
    pub fn reported_addresses(&self) -> Vec<IpAddr> {
        reported_addresses(&self.metadata.annotations).unwrap_or_default()
    }

    /// The addresses to reckon with where no agent tells: `status.podIPs`, else the annotation `cni.projectcalico.org/podIPs`, else
    /// the pinned addresses of `cni.projectcalico.org/ipAddrs`. Entries that are no addresses, which validation refuses, are left
    /// out.
    pub fn expected_addresses(&self) -> Vec<IpAddr> {
        if !self.status.pod_ips.is_empty() {
            return self.addresses();
        }
        let annotated = self.reported_addresses();
        if !annotated.is_empty() {
            return annotated;
        }
        self.pinned_addresses().ok().flatten().unwrap_or_default()
    }

    /// The addresses that `cni.projectcalico.org/ipAddrs` asks for; `None` without the annotation.
    ///
    /// # Errors
    /// When the annotation is not a JSON list of addresses with at most one of each family.
    pub fn pinned_addresses(&self) -> Result<Option<Vec<IpAddr>>, FieldError> {
        let Some(text) = self.metadata.annotations.get(annotations::PINNED_ADDRESSES) else { return Ok(None) };
        let remedy = "must be a JSON list of IP addresses, at most one of each family, such as [\"10.244.0.10\"]";
        let invalid = |reason: &str| {
            FieldError::invalid(annotation_path(annotations::PINNED_ADDRESSES), text, &format!("{reason}{remedy}"))
        };
        let list: Vec<String> = serde_json::from_str(text).map_err(|_| invalid(""))?;
        let mut addresses = Vec::with_capacity(list.len());
        for entry in &list {
            let address: IpAddr =
                entry.parse().map_err(|_| invalid(&format!("{entry:?} is not an IP address; the value ")))?;
            if addresses.iter().any(|other: &IpAddr| other.is_ipv4() == address.is_ipv4()) {
                return Err(invalid(&format!("{entry} is the second of its family; the value ")));
            }
            addresses.push(address);
        }
        if addresses.is_empty() {
            return Err(invalid("the list is empty; the value "));
        }
        Ok(Some(addresses))
    }

    /// Whether the pod is an endpoint of ours: it has a network namespace of its own and has not ended.
    pub fn is_endpoint(&self) -> bool {
        !self.spec.host_network && !matches!(self.status.phase.as_deref(), Some("Succeeded" | "Failed"))
    }

    /// The ports that its containers declare, those of sidecars (init containers that restart always) included.
    pub fn ports(&self) -> impl Iterator<Item = &ContainerPort> {
        let sidecars =
            self.spec.init_containers.iter().filter(|container| container.restart_policy.as_deref() == Some("Always"));
        self.spec.containers.iter().chain(sidecars).flat_map(|container| &container.ports)
    }
}

/// The pools that the annotations of a pod or a namespace ask for, by name or range: those of `cni.projectcalico.org/ipv4pools`, or
/// `ipv6pools`. `None` without the annotation, and with an empty list.
///
/// # Errors
/// When the annotation is not a JSON list of texts.
pub fn requested_pools(annotations: &StringMap, ipv4: bool) -> Result<Option<Vec<String>>, FieldError> {
    let name = if ipv4 { annotations::IPV4_POOLS } else { annotations::IPV6_POOLS };
    let Some(text) = annotations.get(name) else { return Ok(None) };
    let pools: Vec<String> = serde_json::from_str(text).map_err(|_| {
        let remedy = "must be a JSON list of IPPools, by name or range, such as [\"pool-a\", \"10.1.0.0/16\"]";
        FieldError::invalid(annotation_path(name), text, remedy)
    })?;
    Ok(Some(pools).filter(|pools| !pools.is_empty()))
}

/// The addresses of `cni.projectcalico.org/podIPs`: comma separated, each with an optional prefix length.
pub(crate) fn reported_addresses(annotations: &StringMap) -> Result<Vec<IpAddr>, FieldError> {
    let Some(text) = annotations.get(annotations::POD_IPS) else { return Ok(Vec::new()) };
    text.split(',')
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
        .map(|entry| {
            address_or_network(entry).map(|network| network.addr()).ok_or_else(|| {
                let message =
                    format!("{entry:?} is not an IP address; must be a comma-separated list such as 10.244.0.10/32");
                FieldError::invalid(annotation_path(annotations::POD_IPS), text, &message)
            })
        })
        .collect()
}

impl Node {
    /// The node's addresses of type `InternalIP`, in their order; without any, those of Calico's annotations.
    pub fn internal_ips(&self) -> Vec<IpAddr> {
        let internal: Vec<IpAddr> = self
            .status
            .addresses
            .iter()
            .filter(|entry| entry.kind == "InternalIP")
            .filter_map(|entry| entry.address.parse().ok())
            .collect();
        if internal.is_empty() {
            return [true, false].into_iter().filter_map(|v4| self.network(v4)).map(|network| network.addr()).collect();
        }
        internal
    }

    /// The node's address and subnet of one family, from the annotation `projectcalico.org/IPv4Address` (or `IPv6Address`).
    /// The address keeps its host bits; without a prefix length the subnet is the address alone.
    pub fn network(&self, ipv4: bool) -> Option<IpNet> {
        self.checked_network(ipv4).ok().flatten()
    }

    /// [`Node::network`], which says what is wrong with the annotation.
    pub(crate) fn checked_network(&self, ipv4: bool) -> Result<Option<IpNet>, FieldError> {
        let (name, example) = if ipv4 {
            (annotations::IPV4_ADDRESS, "172.31.0.2/24")
        } else {
            (annotations::IPV6_ADDRESS, "fd00:172:31::2/64")
        };
        let Some(text) = self.metadata.annotations.get(name) else { return Ok(None) };
        address_or_network(text).filter(|network| network.addr().is_ipv4() == ipv4).map(Some).ok_or_else(|| {
            let family = if ipv4 { "IPv4" } else { "IPv6" };
            FieldError::invalid(
                annotation_path(name),
                text,
                &format!("must be an {family} address with its subnet's prefix length, such as {example}"),
            )
        })
    }

    /// The node's own AS number, from the annotation `projectcalico.org/ASNumber`.
    ///
    /// # Errors
    /// When the annotation is no AS number.
    pub fn as_number(&self) -> Result<Option<u32>, FieldError> {
        let Some(text) = self.metadata.annotations.get(annotations::AS_NUMBER) else { return Ok(None) };
        crate::calico::parse_as_number(text)
            .map(Some)
            .map_err(|message| FieldError::invalid(annotation_path(annotations::AS_NUMBER), text, &message))
    }
}

impl Node {
    /// The cluster that the node reflects routes for (RFC 4456), from the annotation `projectcalico.org/RouteReflectorClusterID`; none
    /// where it is missing or empty.
    ///
    /// # Errors
    /// When the annotation is no identifier.
    pub fn cluster_id(&self) -> Result<Option<Ipv4Addr>, FieldError> {
        let name = annotations::CLUSTER_ID;
        let Some(text) = self.metadata.annotations.get(name).filter(|text| !text.is_empty()) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| {
            FieldError::invalid(
                annotation_path(name),
                text,
                "must be an identifier in the form of an IPv4 address, such as 244.0.0.1; all reflectors of one set of clients have the same",
            )
        })
    }
}

/// Reads `ADDRESS` or `ADDRESS/LENGTH`.
fn address_or_network(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// The path of an annotation.
pub(crate) fn annotation_path(name: &str) -> Path {
    Path::root().field("metadata").field("annotations").key(name)
}
