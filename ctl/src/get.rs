//! `tortie get`: resources of the datastore, with calicoctl's columns for Calico's kinds and kubectl's for Kubernetes' own.

use anyhow::{Result, bail};
use serde_json::json;
use tortie_api::k8s::{LabelSelector, Pod, SelectorOperator};
use tortie_api::meta::StringMap;
use tortie_api::{Kind, Object};
use tortie_datastore::Datastore;

use crate::cli::Get;
use crate::output::{self, Output};
use crate::selector;
use crate::settings::Settings;

pub(crate) async fn run(settings: &Settings, output: Output, args: Get) -> Result<()> {
    let selector = args.selector.as_deref().map(selector::parse).transpose().map_err(anyhow::Error::msg)?;
    let mut objects = settings.datastore().await?.list(args.kind).await?;
    let namespace = args.namespace.as_deref().unwrap_or("default");
    objects.retain(|object| {
        let metadata = object.metadata();
        (args.all_namespaces || !args.kind.is_namespaced() || metadata.namespace.as_deref() == Some(namespace))
            && (args.names.is_empty() || args.names.contains(&metadata.name))
            && selector.as_ref().is_none_or(|selector| selector.matches(&metadata.labels))
    });
    objects.sort_by_key(Object::key);
    let missing: Vec<&str> = args
        .names
        .iter()
        .filter(|name| !objects.iter().any(|object| object.metadata().name == **name))
        .map(String::as_str)
        .collect();
    if let [object] = objects.as_slice()
        && args.names.len() == 1
    {
        output.print(object, |output| table(&args, std::slice::from_ref(object), output))?;
    } else if objects.is_empty() && missing.is_empty() && matches!(output.format, None | Some(output::Format::Wide)) {
        output::note("No resources found.");
    } else if !objects.is_empty() || missing.is_empty() {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        output.print(&list, |output| table(&args, &objects, output))?;
    }
    if !missing.is_empty() {
        let place = if args.kind.is_namespaced() && !args.all_namespaces {
            format!(" in namespace {namespace}")
        } else {
            String::new()
        };
        bail!("{} {} not found{place}", args.kind, missing.join(", "));
    }
    Ok(())
}

fn table(args: &Get, objects: &[Object], output: Output) -> String {
    let wide = output.wide();
    let with_namespace = args.kind.is_namespaced() && (args.all_namespaces || args.namespace.is_some());
    let mut head = if with_namespace { vec!["NAMESPACE".to_owned()] } else { Vec::new() };
    head.push("NAME".to_owned());
    head.extend(header(args.kind, wide).iter().map(|column| (*column).to_owned()));
    let rows = objects.iter().map(|object| {
        let metadata = object.metadata();
        let mut row = Vec::new();
        if with_namespace {
            row.push(metadata.namespace.clone().unwrap_or_default());
        }
        row.push(metadata.name.clone());
        row.extend(cells(object, wide));
        row
    });
    output::plain(&head, rows)
}

/// The columns after the name.
fn header(kind: Kind, wide: bool) -> &'static [&'static str] {
    match (kind, wide) {
        (Kind::Namespace | Kind::Node, false) => &[],
        (Kind::Namespace, true) => &["LABELS"],
        (Kind::Node, true) => &["ASN", "IPV4", "IPV6"],
        (Kind::Pod, false) => &["STATUS", "IP", "NODE"],
        (Kind::Pod, true) => &["STATUS", "IP", "NODE", "LABELS"],
        (Kind::NetworkPolicy, false) => &["POD-SELECTOR"],
        (Kind::NetworkPolicy, true) => &["POD-SELECTOR", "POLICY-TYPES"],
        (Kind::IpPool, false) => &["CIDR", "SELECTOR"],
        (Kind::IpPool, true) => {
            &["CIDR", "NAT", "IPIPMODE", "VXLANMODE", "DISABLED", "DISABLEBGPEXPORT", "SELECTOR", "ASSIGNMENTMODE"]
        }
        (Kind::BgpConfiguration, _) => &["LOGSEVERITY", "MESHENABLED", "ASNUMBER"],
        (Kind::IpamBlock, false) => &["CIDR", "NODE"],
        (Kind::IpamBlock, true) => &["CIDR", "NODE", "IN-USE", "FREE"],
        (Kind::FelixConfiguration, _) => &["SELECTOR", "FIELDS"],
    }
}

/// The cells of those columns.
fn cells(object: &Object, wide: bool) -> Vec<String> {
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
            let types: Vec<String> = policy.spec.policy_types.iter().map(|kind| format!("{kind:?}")).collect();
            vec![selector_text(&policy.spec.pod_selector), types.join(",")]
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
