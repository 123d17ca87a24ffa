//! What people say of IPAM: `IPAMConfiguration`, for the whole cluster, and `IPReservation`.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::meta::{ObjectMeta, networks_or_addresses, null_as_default};

/// `projectcalico.org/v3 IPAMConfiguration`; there is one, called `default`. `crd.projectcalico.org/v1` calls the kind `IPAMConfig`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct IpamConfiguration {
    /// Its name.
    pub metadata: ObjectMeta,
    /// How blocks are given out.
    #[serde(default)]
    pub spec: IpamConfigurationSpec,
}

/// `IPAMConfigurationSpec`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IpamConfigurationSpec {
    /// Whether nodes take addresses from their own blocks only.
    #[serde(default, deserialize_with = "null_as_default")]
    pub strict_affinity: bool,
    /// How many blocks a node has at most; 20 when 0. See [`IpamConfigurationSpec::most_blocks`].
    #[serde(default, deserialize_with = "null_as_default")]
    pub max_blocks_per_host: u32,
    /// Whether a node that needs a block takes one.
    #[serde(default = "yes")]
    pub auto_allocate_blocks: bool,
    /// Whether virtual machines of KubeVirt keep their addresses.
    #[serde(default, rename = "kubeVirtVMAddressPersistence", skip_serializing_if = "Option::is_none")]
    pub kube_virt_vm_address_persistence: Option<AddressPersistence>,
    /// For how many seconds an address that was released is not given out again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_cooldown_seconds: Option<u32>,
}

const fn yes() -> bool {
    true
}

impl Default for IpamConfigurationSpec {
    fn default() -> Self {
        Self {
            strict_affinity: false,
            max_blocks_per_host: 0,
            auto_allocate_blocks: true,
            kube_virt_vm_address_persistence: None,
            ip_cooldown_seconds: None,
        }
    }
}

impl IpamConfigurationSpec {
    /// The name of the one object of its kind.
    pub const NAME: &str = "default";

    /// How many blocks of one family a node takes at most.
    pub const fn most_blocks(&self) -> u32 {
        const CALICOS: u32 = 20;
        if self.max_blocks_per_host == 0 { CALICOS } else { self.max_blocks_per_host }
    }
}

/// `kubeVirtVMAddressPersistence`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum AddressPersistence {
    /// They do.
    Enabled,
    /// They do not.
    Disabled,
}

/// `projectcalico.org/v3 IPReservation`: addresses that IPAM gives to nobody who did not ask for them by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct IpReservation {
    /// Its name.
    pub metadata: ObjectMeta,
    /// The addresses.
    #[serde(default)]
    pub spec: IpReservationSpec,
}

/// `IPReservationSpec`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct IpReservationSpec {
    /// Ranges, and single addresses.
    #[serde(default, rename = "reservedCIDRs", deserialize_with = "networks_or_addresses")]
    #[cfg_attr(feature = "schema", schemars(with = "Vec<crate::schema::CidrOrAddress>"))]
    pub reserved_cidrs: Vec<IpNet>,
}
