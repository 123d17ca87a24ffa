//! `tortie get`: resources of the datastore. What is wrong with objects of the kind is said beside them.

use std::cmp::Ordering;

use anyhow::{Result, bail};
use serde_json::json;
use tortie_api::calico::{DEFAULT_TIER, KUBE_ADMIN_TIER, KUBE_BASELINE_TIER, Tier, TierSpec, compare_orders};
use tortie_api::meta::ObjectMeta;
use tortie_api::{Kind, Object};
use tortie_policy::References;

use crate::cli::Get;
use crate::columns::{cells, header};
use crate::output::{self, Output};
use crate::selector;
use crate::settings::{Settings, Store};

pub(crate) async fn run(settings: &Settings, output: Output, args: Get) -> Result<()> {
    let selector = args.selector.as_deref().map(selector::parse).transpose().map_err(anyhow::Error::msg)?;
    let store = settings.store().await?;
    let mut objects = store.datastore().list(args.kind).await?;
    if args.kind == Kind::Tier {
        let missing: Vec<Object> =
            built_in_tiers().filter(|tier| !objects.iter().any(|it| it.key() == tier.key())).collect();
        objects.extend(missing);
    }
    let namespace = args.namespace.as_deref().unwrap_or("default");
    objects.retain(|object| {
        let metadata = object.metadata();
        (args.all_namespaces || !args.kind.is_namespaced() || metadata.namespace.as_deref() == Some(namespace))
            && (args.names.is_empty() || args.names.contains(&metadata.name))
            && selector.as_ref().is_none_or(|selector| selector.matches(&metadata.labels))
    });
    objects.sort_by(in_order);
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
    for problem in problems(&store, args.kind).await? {
        output::note(&format!("tortie: warning: {problem}"));
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

/// The tiers that are there without a document.
fn built_in_tiers() -> impl Iterator<Item = Object> {
    [KUBE_ADMIN_TIER, DEFAULT_TIER, KUBE_BASELINE_TIER].into_iter().map(|name| {
        let metadata = ObjectMeta { name: name.to_owned(), ..ObjectMeta::default() };
        Object::Tier(Tier { metadata, spec: TierSpec::of(name) })
    })
}

/// Tiers in the order in which they judge, everything else by namespace and name.
fn in_order(a: &Object, b: &Object) -> Ordering {
    let by_order = match (a, b) {
        (Object::Tier(a), Object::Tier(b)) => compare_orders(a.spec.order, b.spec.order),
        _ => Ordering::Equal,
    };
    by_order.then_with(|| a.key().cmp(&b.key()))
}

/// What is wrong with objects of the kind, or may be: with files that cannot be read, and with what they say of other objects.
async fn problems(store: &Store, kind: Kind) -> Result<Vec<String>> {
    let found = store.problems_about(kind).await?;
    let mut problems: Vec<String> =
        found.iter().map(|problem| format!("{}: {}", problem.place, problem.message)).collect();
    let mut references = References::default();
    let also: &[Kind] = match kind {
        Kind::CalicoNetworkPolicy
        | Kind::GlobalNetworkPolicy
        | Kind::StagedNetworkPolicy
        | Kind::StagedGlobalNetworkPolicy => &[Kind::Tier],
        Kind::HostEndpoint => &[Kind::Profile],
        _ => return Ok(problems),
    };
    for kind in [kind].iter().chain(also) {
        for object in store.datastore().list(*kind).await? {
            references.upsert(&object);
        }
    }
    problems.extend(references.problems());
    Ok(problems)
}
