//! The columns of `tortie get`: calicoctl's for Calico's kinds, kubectl's for Kubernetes' own.

use tortie_api::calico::{AffinityState, StagedAction};
use tortie_api::k8s::{ClusterNetworkPolicySubject, LabelSelector, Pod, PolicyType, SelectorOperator};
use tortie_api::meta::StringMap;
use tortie_api::selector::Selector;
use tortie_api::{Kind, Object};

/// The columns after the name.
pub(crate) fn header(kind: Kind, wide: bool) -> &'static [&'static str] {
    match (kind, wide) {
        (
            Kind::Namespace
            | Kind::Node
            | Kind::ServiceAccount
            | Kind::Secret
            | Kind::Profile
            | Kind::NetworkSet
            | Kind::GlobalNetworkSet
            | Kind::StagedKubernetesNetworkPolicy
            | Kind::IpReservation
            | Kind::BgpFilter
            | Kind::KubeControllersConfiguration,
            false,
        ) => &[],
        (Kind::Secret, true) => &["ENTRIES"],
        (Kind::Namespace | Kind::ServiceAccount | Kind::Profile, true) => &["LABELS"],
        (Kind::Node, true) => &["ASN", "IPV4", "IPV6"],
        (Kind::Pod, false) => &["STATUS", "IP", "NODE"],
        (Kind::Pod, true) => &["STATUS", "IP", "NODE", "LABELS"],
        (Kind::NetworkPolicy, false) => &["POD-SELECTOR"],
        (Kind::NetworkPolicy, true) => &["POD-SELECTOR", "POLICY-TYPES"],
        (
            Kind::CalicoNetworkPolicy
            | Kind::GlobalNetworkPolicy
            | Kind::StagedNetworkPolicy
            | Kind::StagedGlobalNetworkPolicy,
            false,
        ) => &["TIER"],
        (Kind::CalicoNetworkPolicy | Kind::GlobalNetworkPolicy, true) => &["TIER", "ORDER", "SELECTOR", "TYPES"],
        (Kind::StagedNetworkPolicy | Kind::StagedGlobalNetworkPolicy, true) => {
            &["TIER", "ORDER", "SELECTOR", "TYPES", "STAGEDACTION"]
        }
        (Kind::StagedKubernetesNetworkPolicy, true) => &["PODSELECTOR", "POLICY-TYPES", "STAGEDACTION"],
        (Kind::ClusterNetworkPolicy, false) => &["TIER", "PRIORITY"],
        (Kind::ClusterNetworkPolicy, true) => &["TIER", "PRIORITY", "SUBJECT"],
        (Kind::Tier, false) => &["ORDER"],
        (Kind::Tier, true) => &["ORDER", "DEFAULTACTION"],
        (Kind::NetworkSet | Kind::GlobalNetworkSet, true) => &["NETS"],
        (Kind::HostEndpoint, false) => &["NODE"],
        (Kind::HostEndpoint, true) => &["NODE", "INTERFACE", "IPS", "PROFILES"],
        (Kind::EndpointSlice, _) => &["ADDRESSTYPE", "PORTS", "ENDPOINTS"],
        (Kind::IpPool, false) => &["CIDR", "SELECTOR"],
        (Kind::IpPool, true) => {
            &["CIDR", "NAT", "IPIPMODE", "VXLANMODE", "DISABLED", "DISABLEBGPEXPORT", "SELECTOR", "ASSIGNMENTMODE"]
        }
        (Kind::BgpConfiguration, _) => &["LOGSEVERITY", "MESHENABLED", "ASNUMBER"],
        (Kind::IpamBlock, false) => &["CIDR", "NODE"],
        (Kind::IpamBlock, true) => &["CIDR", "NODE", "IN-USE", "FREE"],
        (Kind::FelixConfiguration, _) => &["SELECTOR", "FIELDS"],
        (Kind::BlockAffinity, _) => &["CIDR", "NODE", "TYPE", "STATE"],
        (Kind::IpamHandle, false) => &["ID"],
        (Kind::IpamHandle, true) => &["ID", "BLOCKS"],
        (Kind::IpamConfiguration, false) => &["STRICTAFFINITY", "AUTOALLOCATEBLOCKS"],
        (Kind::IpamConfiguration, true) => &["STRICTAFFINITY", "AUTOALLOCATEBLOCKS", "MAXBLOCKSPERHOST"],
        (Kind::IpReservation, true) => &["CIDRS"],
        (Kind::BgpPeer, _) => &["PEERIP", "NODE", "ASN"],
        (Kind::BgpFilter, true) => &["RULES"],
        (Kind::ClusterInformation, _) => &["VERSION", "CLUSTERGUID"],
        (Kind::CalicoNodeStatus, _) => &["NODE", "CLASSES", "INTERVAL"],
        (Kind::KubeControllersConfiguration, true) => &["LEAKGRACEPERIOD"],
    }
}

/// The cells of those columns.
pub(crate) fn cells(object: &Object, wide: bool) -> Vec<String> {
    let mut cells = match object {
        Object::Namespace(namespace) => vec![labels(&namespace.metadata.labels)],
        Object::Node(node) => {
            let asn =
                node.as_number().ok().flatten().map_or_else(|| "(default)".to_owned(), |number| number.to_string());
            let ip = |ipv4: bool| {
                let annotated = node.network(ipv4).map(|net| net.to_string());
                let internal = node.internal_ips().into_iter().find(|ip| ip.is_ipv4() == ipv4).map(|ip| ip.to_string());
                annotated.or(internal).unwrap_or_default()
            };
            vec![asn, ip(true), ip(false)]
        }
        Object::Pod(pod) => vec![
            status(pod),
            pod.addresses().iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
            pod.spec.node_name.clone().unwrap_or_default(),
            labels(&pod.metadata.labels),
        ],
        Object::NetworkPolicy(policy) => {
            vec![selector_text(&policy.spec.pod_selector), types(&policy.spec.policy_types)]
        }
        Object::CalicoNetworkPolicy(policy)
        | Object::GlobalNetworkPolicy(policy)
        | Object::StagedNetworkPolicy(policy)
        | Object::StagedGlobalNetworkPolicy(policy) => {
            let spec = &policy.spec;
            let (order, types) = (order(spec.order), types(&spec.types));
            vec![spec.tier.clone(), order, spec.selector.to_string(), types, staged(spec.staged_action)]
        }
        Object::StagedKubernetesNetworkPolicy(policy) => {
            let spec = &policy.spec;
            vec![selector_text(&spec.pod_selector), types(&spec.policy_types), staged(spec.staged_action)]
        }
        Object::ClusterNetworkPolicy(policy) => {
            let spec = &policy.spec;
            let subject = match &spec.subject {
                ClusterNetworkPolicySubject::Namespaces(namespaces) => selector_text(namespaces),
                ClusterNetworkPolicySubject::Pods(pods) => {
                    format!("{} / {}", selector_text(&pods.namespace_selector), selector_text(&pods.pod_selector))
                }
            };
            vec![format!("{:?}", spec.tier), spec.priority.to_string(), subject]
        }
        Object::Tier(tier) => vec![order(tier.spec.order), format!("{:?}", tier.spec.default_action)],
        Object::NetworkSet(set) | Object::GlobalNetworkSet(set) => vec![truncated(joined(&set.spec.nets))],
        Object::Profile(profile) => vec![labels(&profile.spec.labels_to_apply)],
        Object::ServiceAccount(account) => vec![labels(&account.metadata.labels)],
        Object::Secret(secret) => vec![secret.data.keys().map(String::as_str).collect::<Vec<_>>().join(",")],
        Object::HostEndpoint(host) => vec![
            host.spec.node.clone(),
            host.spec.interface_name.clone().unwrap_or_default(),
            joined(&host.spec.expected_ips),
            host.spec.profiles.join(","),
        ],
        Object::EndpointSlice(slice) => {
            let ports: Vec<String> =
                slice.ports.iter().filter_map(|port| port.port).map(|port| port.to_string()).collect();
            let addresses: Vec<_> = slice.endpoints.iter().flat_map(|endpoint| endpoint.addresses.iter()).collect();
            vec![format!("{:?}", slice.address_type), ports.join(","), truncated(joined(&addresses))]
        }
        Object::IpPool(pool) => {
            let spec = &pool.spec;
            let selector = spec.node_selector.clone().unwrap_or_else(|| "all()".to_owned());
            if !wide {
                return vec![spec.cidr.to_string(), selector];
            }
            vec![
                spec.cidr.to_string(),
                spec.nat_outgoing.to_string(),
                format!("{:?}", spec.ipip_mode),
                format!("{:?}", spec.vxlan_mode),
                spec.disabled.to_string(),
                spec.disable_bgp_export.to_string(),
                selector,
                format!("{:?}", spec.assignment_mode),
            ]
        }
        Object::BgpConfiguration(configuration) => {
            let spec = &configuration.spec;
            vec![
                spec.log_severity_screen.clone().unwrap_or_default(),
                spec.node_to_node_mesh_enabled.map(|enabled| enabled.to_string()).unwrap_or_default(),
                spec.as_number.map(|number| number.to_string()).unwrap_or_default(),
            ]
        }
        Object::IpamBlock(block) => vec![
            block.spec.cidr.to_string(),
            block.spec.node().unwrap_or_default().to_owned(),
            block.spec.allocations.iter().flatten().count().to_string(),
            block.spec.unallocated.len().to_string(),
        ],
        Object::BlockAffinity(affinity) => {
            let spec = &affinity.spec;
            vec![spec.cidr.to_string(), spec.node.clone(), spec.kind.clone(), state(spec.state).to_owned()]
        }
        Object::IpamHandle(handle) => {
            let blocks: Vec<String> =
                handle.spec.block.iter().map(|(cidr, count)| format!("{cidr}({count})")).collect();
            vec![handle.spec.handle_id.clone(), truncated(blocks.join(","))]
        }
        Object::IpamConfiguration(configuration) => {
            let spec = &configuration.spec;
            vec![
                spec.strict_affinity.to_string(),
                spec.auto_allocate_blocks.to_string(),
                spec.max_blocks_per_host.to_string(),
            ]
        }
        Object::IpReservation(reservation) => vec![truncated(joined(&reservation.spec.reserved_cidrs))],
        Object::BgpPeer(peer) => {
            let spec = &peer.spec;
            let or_selector = |text: Option<String>, selector: &Option<Selector>| {
                text.or_else(|| selector.as_ref().map(ToString::to_string))
            };
            vec![
                or_selector(spec.peer_ip.map(|ip| ip.to_string()), &spec.peer_selector).unwrap_or_default(),
                or_selector(spec.node.clone(), &spec.node_selector).unwrap_or_else(|| "(global)".to_owned()),
                spec.as_number.map(|number| number.to_string()).unwrap_or_default(),
            ]
        }
        Object::BgpFilter(filter) => {
            let spec = &filter.spec;
            let rules = [&spec.export_v4, &spec.import_v4, &spec.export_v6, &spec.import_v6];
            vec![rules.into_iter().map(Vec::len).sum::<usize>().to_string()]
        }
        Object::ClusterInformation(information) => {
            let spec = &information.spec;
            vec![spec.calico_version.clone().unwrap_or_default(), spec.cluster_guid.clone().unwrap_or_default()]
        }
        Object::CalicoNodeStatus(status) => {
            let spec = &status.spec;
            let classes: Vec<String> = spec.classes.iter().map(|class| format!("{class:?}")).collect();
            let interval = spec.update_period_seconds.map(|seconds| seconds.to_string());
            vec![spec.node.clone(), classes.join(","), interval.unwrap_or_default()]
        }
        Object::KubeControllersConfiguration(configuration) => {
            let node = configuration.spec.controllers.node.as_ref();
            let period = node.and_then(|node| node.leak_grace_period);
            vec![period.map(|period| period.to_string()).unwrap_or_default()]
        }
        Object::FelixConfiguration(configuration) => {
            let spec = &configuration.spec;
            let selector =
                spec.node_selector.as_ref().map_or_else(|| "all()".to_owned(), |selector| selector.0.clone());
            vec![selector, spec.fields().join(",")]
        }
    };
    cells.truncate(header(object.kind(), wide).len());
    cells
}

/// As calicoctl cuts lists off.
const LONGEST: usize = 80;

fn truncated(text: String) -> String {
    match text.char_indices().nth(LONGEST - 3) {
        Some((end, _)) if text.chars().count() > LONGEST => format!("{}...", &text[..end]),
        _ => text,
    }
}

fn joined<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn order(order: Option<f64>) -> String {
    order.map_or_else(|| "<none>".to_owned(), |order| order.to_string())
}

fn types(types: &[PolicyType]) -> String {
    types.iter().map(|direction| format!("{direction:?}")).collect::<Vec<_>>().join(",")
}

fn state(state: AffinityState) -> &'static str {
    match state {
        AffinityState::Unsaid => "",
        AffinityState::Confirmed => "confirmed",
        AffinityState::Pending => "pending",
        AffinityState::PendingDeletion => "pendingDeletion",
    }
}

fn staged(action: Option<StagedAction>) -> String {
    action.map(|action| format!("{action:?}")).unwrap_or_default()
}

fn status(pod: &Pod) -> String {
    match &pod.status.phase {
        Some(phase) => phase.clone(),
        None if pod.status.pod_ips.is_empty() => "Pending".to_owned(),
        None => "Running".to_owned(),
    }
}

fn labels(labels: &StringMap) -> String {
    if labels.is_empty() {
        return "<none>".to_owned();
    }
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

/// A selector as kubectl prints it.
fn selector_text(selector: &LabelSelector) -> String {
    let mut parts: Vec<String> = selector.match_labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    parts.extend(selector.match_expressions.iter().map(|requirement| {
        let (key, values) = (&requirement.key, requirement.values.join(","));
        match requirement.operator {
            SelectorOperator::In => format!("{key} in ({values})"),
            SelectorOperator::NotIn => format!("{key} notin ({values})"),
            SelectorOperator::Exists => key.clone(),
            SelectorOperator::DoesNotExist => format!("!{key}"),
        }
    }));
    if parts.is_empty() { "<none>".to_owned() } else { parts.join(",") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tortie_api::k8s::LabelSelectorRequirement;

    #[test]
    fn every_kind_has_as_many_cells_as_columns() {
        for kind in Kind::ALL {
            assert!(header(kind, true).len() >= header(kind, false).len());
        }
        let pod = Object::Pod(Pod::default());
        assert_eq!(cells(&pod, false).len(), header(Kind::Pod, false).len());
        assert_eq!(cells(&pod, true).len(), header(Kind::Pod, true).len());
    }

    #[test]
    fn selectors_read_as_in_kubectl() {
        let mut selector = LabelSelector::default();
        assert_eq!(selector_text(&selector), "<none>");
        selector.match_labels.insert("app".into(), "web".into());
        selector.match_expressions.push(LabelSelectorRequirement {
            key: "tier".into(),
            operator: SelectorOperator::NotIn,
            values: vec!["a".into(), "b".into()],
        });
        assert_eq!(selector_text(&selector), "app=web,tier notin (a,b)");
    }
}
