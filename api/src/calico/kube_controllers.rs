//! `KubeControllersConfiguration`: how what is nobody's node is looked after.
//!
//! Calico has a program of its own for that; here it is the agents' `controller` component. What it has no use for is read all the same.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::felix::{Duration, Pattern, Switch, text};
use super::policy::optional_name;
use crate::meta::{ObjectMeta, StringMap, networks, null_as_default, optional_text};
use crate::selector::Selector;

/// `projectcalico.org/v3 KubeControllersConfiguration`; there is one, called `default`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct KubeControllersConfiguration {
    /// Its name.
    pub metadata: ObjectMeta,
    /// What is wanted.
    #[serde(default)]
    pub spec: KubeControllersConfigurationSpec,
}

/// `KubeControllersConfigurationSpec`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KubeControllersConfigurationSpec {
    /// What each controller does.
    #[serde(default, deserialize_with = "null_as_default")]
    pub controllers: ControllersConfig,
    /// What Calico's program logs; here that is `logSeverityScreen` of FelixConfiguration.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "optional_name")]
    pub log_severity_screen: Option<ControllersLogLevel>,
    /// Whether Calico's program reports its health; here the agents do.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "text")]
    pub health_checks: Option<Switch>,
    /// Of Calico's own datastore, which is not used here.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "text")]
    pub etcd_v3_compaction_period: Option<Duration>,
    /// The port of metrics of Calico's program; here the agents have them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus_metrics_port: Option<u16>,
    /// Of Calico's program: there is no such port here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub debug_profile_port: Option<u16>,
}

/// Levels of Calico's program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[expect(missing_docs, reason = "each says it itself")]
pub enum ControllersLogLevel {
    None,
    Debug,
    Info,
    Warning,
    Error,
    Fatal,
    Panic,
}

/// The controllers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ControllersConfig {
    /// What becomes of nodes' addresses and host endpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeControllerConfig>,
    /// Which Services get addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancerControllerConfig>,
    /// Of Calico's own datastore, which is not used here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<ReconcilerConfig>,
    /// Of Calico's own datastore, which is not used here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<ReconcilerConfig>,
    /// Of Calico's own datastore, which is not used here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<ReconcilerConfig>,
    /// Of Calico's own datastore, which is not used here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload_endpoint: Option<ReconcilerConfig>,
    /// Of policies that an older Calico stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration: Option<MigrationConfig>,
}

/// What becomes of nodes' addresses and host endpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeControllerConfig {
    /// For how long an address must have had no pod before it is given back; 15 minutes by default, and 0 is never.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "text")]
    pub leak_grace_period: Option<Duration>,
    /// How often everything is compared; 5 minutes by default.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "text")]
    pub reconciler_period: Option<Duration>,
    /// Of Calico's own datastore, which is not used here: labels of nodes are always those of Kubernetes.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "text")]
    pub sync_labels: Option<Switch>,
    /// Host endpoints that are made of nodes. They are not made yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_endpoint: Option<AutoHostEndpointConfig>,
}

/// Host endpoints that are made of nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AutoHostEndpointConfig {
    /// Whether any are made.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "text")]
    pub auto_create: Option<Switch>,
    /// Whether each node gets one for all of its interfaces.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "text")]
    pub create_default_host_endpoint: Option<Switch>,
    /// Further ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub templates: Vec<HostEndpointTemplate>,
}

/// A host endpoint that nodes get.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HostEndpointTemplate {
    /// The end of its name.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "optional_text")]
    pub generate_name: Option<String>,
    /// The nodes that get it; all if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::selector::optional")]
    pub node_selector: Option<Selector>,
    /// Which of the node's addresses are the endpoint's.
    #[serde(default, rename = "interfaceCIDRs", skip_serializing_if = "Vec::is_empty", deserialize_with = "networks")]
    #[cfg_attr(feature = "schema", schemars(with = "Vec<crate::schema::Cidr>"))]
    pub interface_cidrs: Vec<IpNet>,
    /// A regular expression of the interfaces that get one each.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "text")]
    pub interface_pattern: Option<Pattern>,
    /// Its labels, before those of the node.
    #[serde(default, skip_serializing_if = "StringMap::is_empty", deserialize_with = "null_as_default")]
    pub labels: StringMap,
    /// Its annotations.
    #[serde(default, skip_serializing_if = "StringMap::is_empty", deserialize_with = "null_as_default")]
    pub annotations: StringMap,
}

/// Which Services get addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct LoadBalancerControllerConfig {
    /// Which Services get addresses. They are not given yet.
    #[serde(
        default,
        rename = "assignIPs",
        skip_serializing_if = "Option::is_none",
        deserialize_with = "optional_name"
    )]
    pub assign_ips: Option<AssignIps>,
}

/// Which Services get addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum AssignIps {
    /// All of type LoadBalancer.
    AllServices,
    /// Those that ask by annotation.
    RequestedServicesOnly,
}

/// How often something is compared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReconcilerConfig {
    /// How often.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "text")]
    pub reconciler_period: Option<Duration>,
}

/// Policies that an older Calico stored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MigrationConfig {
    /// Whether they get their names of today.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "text")]
    pub policy_name_migrator: Option<Switch>,
}
