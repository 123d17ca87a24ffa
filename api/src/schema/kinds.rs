//! The kinds that have a CustomResourceDefinition: their names, what `kubectl get` prints of them, and the rules that they follow.

use schemars::generate::SchemaSettings;
use schemars::{Schema, SchemaGenerator};
use serde_json::{Value, json};

use super::definitions::{Definitions, Node};
use super::{bgp, cluster_network_policy, controllers, felix, ip_pool, ipam, network_policy, policy, schema_of};
use crate::calico::{
    BgpConfiguration, BgpFilter, BgpPeer, BlockAffinity, CalicoNodeStatus, CalicoNodeStatusAnswer, ClusterInformation,
    FelixConfiguration, HostEndpoint, IpPool, IpReservation, IpamBlock, IpamConfiguration, IpamHandle,
    KubeControllersConfiguration, NetworkSet, Policy, StagedKubernetesNetworkPolicy, Tier,
};
use crate::k8s::ClusterNetworkPolicy;
use crate::kind::Kind;
use crate::status::Status;

/// One kind.
pub(super) struct Resource {
    pub(super) kind: Kind,
    /// What it is for, in a sentence.
    pub(super) about: &'static str,
    /// What kubectl calls it besides its plural.
    pub(super) short_names: &'static [&'static str],
    pub(super) schema: fn(&mut SchemaGenerator) -> Schema,
    /// What holds of its types.
    pub(super) rules: fn(&mut Definitions),
    /// What holds of an object as a whole.
    pub(super) whole: fn(Node<'_>),
    pub(super) columns: Vec<Column>,
    /// Fields that clients may select objects by.
    pub(super) selectable: Vec<&'static str>,
    /// The schema of `status`, of kinds that have one.
    pub(super) status: Option<fn() -> Value>,
}

/// A column of `kubectl get`.
pub(super) struct Column {
    name: &'static str,
    kind: &'static str,
    path: &'static str,
    /// Whether it takes `-o wide` to see it.
    wide: bool,
}

impl Column {
    const fn text(name: &'static str, path: &'static str) -> Self {
        Self { name, kind: "string", path, wide: false }
    }

    const fn wide(name: &'static str, path: &'static str) -> Self {
        Self { name, kind: "string", path, wide: true }
    }

    const AGE: Self = Self { name: "Age", kind: "date", path: ".metadata.creationTimestamp", wide: false };
    const ORDER: Self = Self { name: "Order", kind: "number", path: ".spec.order", wide: false };
    const ACCEPTED: Self = Self::text("Accepted", ".status.conditions[?(@.type==\"Accepted\")].status");
    const PROGRAMMED: Self = Self::wide("Programmed", ".status.conditions[?(@.type==\"Programmed\")].message");

    pub(super) fn json(&self) -> Value {
        let mut column = json!({"name": self.name, "type": self.kind, "jsonPath": self.path});
        if self.wide {
            column["priority"] = json!(1);
        }
        column
    }
}

/// The schema of a `status` that is conditions.
fn conditions() -> Value {
    let mut generator = SchemaGenerator::default();
    let _ = schema_of::<Status>(&mut generator);
    let mut definitions = Definitions(generator.take_definitions(true).into_iter().collect());
    let mut status = definitions.of("Status");
    status
        .field("conditions")
        .set("x-kubernetes-list-type", "map")
        .set("x-kubernetes-list-map-keys", json!(["type"]))
        .set("maxItems", 16)
        .unset("default");
    let mut condition = definitions.of("Condition");
    condition.field("lastTransitionTime").set("format", "date-time");
    condition.field("type").set("maxLength", 316);
    condition.field("reason").set("maxLength", 1024).set("pattern", "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$");
    condition.field("message").set("maxLength", 32768);
    let mut status = super::structural::structural(&definitions.0["Status"].clone(), &definitions.0);
    status["description"] = json!("What became of the object. The controller writes it.");
    status
}

/// The schema of a CalicoNodeStatus's answer.
fn node_status_answer() -> Value {
    let settings = SchemaSettings::draft2020_12().for_serialize();
    let mut generator = settings.into_generator();
    let _ = schema_of::<CalicoNodeStatusAnswer>(&mut generator);
    let definitions = Definitions(generator.take_definitions(true).into_iter().collect());
    super::structural::structural(&definitions.0["CalicoNodeStatusAnswer"], &definitions.0)
}

/// The rules of a policy of Calico's, with the fields that this kind has.
fn policies(definitions: &mut Definitions, kind: Kind) {
    policy::rules(definitions);
    let fields = crate::decode::policy_fields(kind);
    if let Value::Object(properties) = &mut definitions.of("PolicySpec").0["properties"] {
        properties.retain(|name, _| fields.is_none_or(|fields| fields.contains(&name.as_str())));
    }
}

/// What there is to say of a kind that has nothing of its own.
fn plain(kind: Kind, about: &'static str, schema: fn(&mut SchemaGenerator) -> Schema) -> Resource {
    Resource {
        kind,
        about,
        short_names: &[],
        schema,
        rules: |_| {},
        whole: |_| {},
        columns: vec![Column::AGE],
        selectable: vec![],
        status: None,
    }
}

/// What there is to say of a policy of Calico's.
fn policy_kind(kind: Kind, about: &'static str) -> Resource {
    Resource {
        columns: vec![
            Column::text("Tier", ".spec.tier"),
            Column::ORDER,
            Column::ACCEPTED,
            Column::PROGRAMMED,
            Column::AGE,
        ],
        selectable: vec![".spec.tier"],
        status: Some(conditions),
        ..plain(kind, about, schema_of::<Policy>)
    }
}

/// All kinds.
pub(super) fn all() -> Vec<Resource> {
    vec![
        Resource {
            rules: ip_pool::pool,
            columns: vec![
                Column::text("CIDR", ".spec.cidr"),
                Column::text("NAT", ".spec.natOutgoing"),
                Column::text("IPIPMode", ".spec.ipipMode"),
                Column::text("VXLANMode", ".spec.vxlanMode"),
                Column::text("Disabled", ".spec.disabled"),
                Column::wide("Selector", ".spec.nodeSelector"),
                Column::ACCEPTED,
                Column::AGE,
            ],
            status: Some(conditions),
            ..plain(Kind::IpPool, "A range of addresses that pods get theirs from.", schema_of::<IpPool>)
        },
        Resource {
            rules: ipam::block,
            columns: vec![Column::text("CIDR", ".spec.cidr"), Column::text("Affinity", ".spec.affinity"), Column::AGE],
            selectable: vec![".spec.affinity"],
            ..plain(
                Kind::IpamBlock,
                "A part of a pool that one node gives addresses from, and who has each of them. Agents write it.",
                schema_of::<IpamBlock>,
            )
        },
        Resource {
            rules: ipam::affinity,
            columns: vec![
                Column::text("Node", ".spec.node"),
                Column::text("CIDR", ".spec.cidr"),
                Column::text("State", ".spec.state"),
                Column::AGE,
            ],
            selectable: vec![".spec.node"],
            ..plain(
                Kind::BlockAffinity,
                "Which node has a block. Agents write it before they make the block and after they have given it back.",
                schema_of::<BlockAffinity>,
            )
        },
        Resource {
            rules: ipam::handle,
            ..plain(
                Kind::IpamHandle,
                "In which blocks an attachment has its addresses. Agents write it.",
                schema_of::<IpamHandle>,
            )
        },
        Resource {
            short_names: &["ipamconfig", "ipamconfigs"],
            rules: ipam::configuration,
            whole: controllers::named_default,
            columns: vec![
                Column::text("StrictAffinity", ".spec.strictAffinity"),
                Column::text("MaxBlocksPerHost", ".spec.maxBlocksPerHost"),
                Column::AGE,
            ],
            ..plain(
                Kind::IpamConfiguration,
                "How addresses are given out in the whole cluster. There is one, called `default`.",
                schema_of::<IpamConfiguration>,
            )
        },
        Resource {
            rules: ipam::reservation,
            columns: vec![Column::text("CIDRs", ".spec.reservedCIDRs"), Column::AGE],
            ..plain(
                Kind::IpReservation,
                "Addresses that nobody gets who does not ask for them by name.",
                schema_of::<IpReservation>,
            )
        },
        Resource {
            short_names: &["bgpconfig", "bgpconfigs"],
            rules: bgp::configuration,
            whole: bgp::whole_configuration,
            columns: vec![
                Column::text("LogSeverity", ".spec.logSeverityScreen"),
                Column::text("MeshEnabled", ".spec.nodeToNodeMeshEnabled"),
                Column::text("ASNumber", ".spec.asNumber"),
                Column::ACCEPTED,
                Column::AGE,
            ],
            status: Some(conditions),
            ..plain(
                Kind::BgpConfiguration,
                "How nodes speak BGP: all of them by the one called `default`, a node by `node.NAME`.",
                schema_of::<BgpConfiguration>,
            )
        },
        Resource {
            short_names: &["felixconfig", "felixconfigs"],
            rules: felix::rules,
            whole: felix::whole,
            columns: vec![Column::ACCEPTED, Column::AGE],
            status: Some(conditions),
            ..plain(
                Kind::FelixConfiguration,
                "How agents treat their nodes: all of them by the one called `default`, a node by `node.NAME`, some by any other with a `nodeSelector`.",
                schema_of::<FelixConfiguration>,
            )
        },
        Resource {
            whole: policy::tier,
            columns: vec![
                Column::ORDER,
                Column::text("DefaultAction", ".spec.defaultAction"),
                Column::ACCEPTED,
                Column::AGE,
            ],
            status: Some(conditions),
            ..plain(Kind::Tier, "A group of policies that are judged before those of the next tier.", schema_of::<Tier>)
        },
        Resource {
            short_names: &["cnp", "caliconetworkpolicy", "caliconetworkpolicies"],
            rules: |definitions| policies(definitions, Kind::CalicoNetworkPolicy),
            whole: |object| policy::whole(object, true, false),
            ..policy_kind(
                Kind::CalicoNetworkPolicy,
                "What pods of its namespace may send and receive, by ordered rules that allow, deny, log or pass on.",
            )
        },
        Resource {
            short_names: &["gnp", "cgnp", "calicoglobalnetworkpolicies"],
            rules: |definitions| policies(definitions, Kind::GlobalNetworkPolicy),
            whole: |object| policy::whole(object, false, false),
            ..policy_kind(
                Kind::GlobalNetworkPolicy,
                "What pods of all namespaces and host endpoints may send and receive, by ordered rules that allow, deny, log or pass on.",
            )
        },
        Resource {
            short_names: &["scnp", "snp"],
            rules: |definitions| policies(definitions, Kind::StagedNetworkPolicy),
            whole: |object| policy::whole(object, true, true),
            ..policy_kind(Kind::StagedNetworkPolicy, "A NetworkPolicy that is judged and counted, and not enforced.")
        },
        Resource {
            short_names: &["sgnp"],
            rules: |definitions| policies(definitions, Kind::StagedGlobalNetworkPolicy),
            whole: |object| policy::whole(object, false, true),
            ..policy_kind(
                Kind::StagedGlobalNetworkPolicy,
                "A GlobalNetworkPolicy that is judged and counted, and not enforced.",
            )
        },
        Resource {
            short_names: &["sknp"],
            rules: network_policy::rules,
            whole: network_policy::staged,
            columns: vec![
                Column::text("Action", ".spec.stagedAction"),
                Column::ACCEPTED,
                Column::PROGRAMMED,
                Column::AGE,
            ],
            status: Some(conditions),
            ..plain(
                Kind::StagedKubernetesNetworkPolicy,
                "A NetworkPolicy of Kubernetes' own kind that is judged and counted, and not enforced.",
                schema_of::<StagedKubernetesNetworkPolicy>,
            )
        },
        Resource {
            short_names: &["netset", "netsets"],
            rules: policy::network_set,
            ..plain(
                Kind::NetworkSet,
                "Networks that rules of its namespace select by their labels.",
                schema_of::<NetworkSet>,
            )
        },
        Resource {
            short_names: &["globalnetset", "globalnetsets"],
            rules: policy::network_set,
            ..plain(
                Kind::GlobalNetworkSet,
                "Networks that rules select by their labels, whatever their namespace.",
                schema_of::<NetworkSet>,
            )
        },
        Resource {
            short_names: &["hep", "heps"],
            rules: policy::host_endpoint,
            columns: vec![
                Column::text("Node", ".spec.node"),
                Column::text("Interface", ".spec.interfaceName"),
                Column::wide("IPs", ".spec.expectedIPs"),
                Column::wide("Profiles", ".spec.profiles"),
                Column::ACCEPTED,
                Column::AGE,
            ],
            selectable: vec![".spec.node"],
            status: Some(conditions),
            ..plain(
                Kind::HostEndpoint,
                "An interface of a node, or all of them, that policies apply to.",
                schema_of::<HostEndpoint>,
            )
        },
        Resource {
            rules: bgp::peer,
            columns: vec![
                Column::text("PeerIP", ".spec.peerIP"),
                Column::text("Node", ".spec.node"),
                Column::text("ASN", ".spec.asNumber"),
                Column::wide("NodeSelector", ".spec.nodeSelector"),
                Column::wide("PeerSelector", ".spec.peerSelector"),
                Column::ACCEPTED,
                Column::AGE,
            ],
            status: Some(conditions),
            ..plain(Kind::BgpPeer, "A BGP session of nodes with a router, or with each other.", schema_of::<BgpPeer>)
        },
        Resource {
            rules: bgp::filter,
            columns: vec![Column::ACCEPTED, Column::AGE],
            status: Some(conditions),
            ..plain(
                Kind::BgpFilter,
                "Which routes are taken from a BGPPeer and given to it. The first rule that matches decides; what none matches passes.",
                schema_of::<BgpFilter>,
            )
        },
        Resource {
            short_names: &["clusterinfo"],
            whole: controllers::named_default,
            columns: vec![
                Column::text("ClusterGUID", ".spec.clusterGUID"),
                Column::text("Version", ".spec.calicoVersion"),
                Column::AGE,
            ],
            ..plain(
                Kind::ClusterInformation,
                "What Calico's tools note of the cluster. There is one, called `default`; nothing here depends on it.",
                schema_of::<ClusterInformation>,
            )
        },
        Resource {
            short_names: &["caliconodestat", "caliconodestats"],
            rules: controllers::node_status,
            columns: vec![
                Column::text("Node", ".spec.node"),
                Column::text("Updated", ".status.lastUpdated"),
                Column::AGE,
            ],
            selectable: vec![".spec.node"],
            status: Some(node_status_answer),
            ..plain(
                Kind::CalicoNodeStatus,
                "Asks a node how it stands: its agent answers in `status`.",
                schema_of::<CalicoNodeStatus>,
            )
        },
        Resource {
            short_names: &["kcc", "kccs"],
            rules: controllers::configuration,
            whole: controllers::named_default,
            status: Some(conditions),
            ..plain(
                Kind::KubeControllersConfiguration,
                "How what is nobody's node is looked after. There is one, called `default`.",
                schema_of::<KubeControllersConfiguration>,
            )
        },
        Resource {
            rules: cluster_network_policy::policy,
            columns: vec![
                Column::text("Tier", ".spec.tier"),
                Column::text("Priority", ".spec.priority"),
                Column::ACCEPTED,
                Column::PROGRAMMED,
                Column::AGE,
            ],
            status: Some(conditions),
            ..plain(
                Kind::ClusterNetworkPolicy,
                "What administrators say of pods' traffic before all NetworkPolicies (tier Admin), or where none has spoken (tier Baseline).",
                schema_of::<ClusterNetworkPolicy>,
            )
        },
    ]
}
