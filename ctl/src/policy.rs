//! `tortie policy render`, `explain` and `matrix`: from manifests, or from the datastore of a running cluster.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Result, bail};
use serde_json::json;
use tortie_api::Object;
use tortie_datastore::manifests;
use tortie_datastore::manifests::Place;
use tortie_lab::grid::{self, Style};
use tortie_lab::verdict;
use tortie_nft::Family as NftFamily;
use tortie_policy::matrix::{self, Engine, Query, Row, Verdict};
use tortie_policy::offline::Offline;

use crate::cli::{Family, Manifests, Policy};
use crate::output::{self, Format, Output};
use crate::settings::Settings;

/// How many warnings about a cluster are shown.
const SHOWN_WARNINGS: usize = 3;

pub(crate) async fn run(settings: &Settings, output: Output, command: Policy) -> Result<()> {
    match command {
        Policy::Render { manifests } => render(settings, output, &manifests).await,
        Policy::Explain(args) => crate::explain::run(settings, output, &args).await,
        Policy::Matrix { manifests, ports, family, oracle } => {
            let cluster = cluster(settings, &manifests).await?;
            let query = Query {
                ports: ports.map(|ports| ports.iter().map(|port| (port.protocol, port.port)).collect()),
                family: if family == Family::Ipv4 { NftFamily::V4 } else { NftFamily::V6 },
                engine: if oracle { Engine::Oracle } else { Engine::Compiled },
            };
            let rows = matrix::matrix(&cluster, &query)?;
            print_rows(output, &rows.into_iter().map(row).collect::<Vec<_>>())
        }
        Policy::Hits(args) => crate::hits::run(settings, output, &args).await,
        Policy::Plan(args) => crate::plan::run(settings, output, args).await,
    }
}

/// Prints rows of a matrix: the grid, or with `-o wide` a row for each pair.
pub(crate) fn print_rows(output: Output, rows: &[verdict::Row]) -> Result<()> {
    output.print(rows, |output| {
        if output.wide() {
            let rows = rows.iter().map(|row| {
                let reason = row.reason.clone().unwrap_or_default();
                [
                    row.from.clone(),
                    row.to.clone(),
                    row.protocol.to_string(),
                    row.port.to_string(),
                    row.verdict.to_string(),
                    reason,
                ]
            });
            return output::columns(["FROM", "TO", "PROTOCOL", "PORT", "VERDICT", "REASON"], rows);
        }
        let mut text = grid::draw(rows, Style { colour: output.colour, ..Style::of_stdout() });
        for row in rows.iter().filter(|row| row.reason.is_some()) {
            let reason = row.reason.as_deref().unwrap_or_default();
            let _ = writeln!(text, "error: {} to {} on {}/{}: {reason}", row.from, row.to, row.protocol, row.port);
        }
        text
    })
}

fn row(row: Row) -> verdict::Row {
    let verdict = match row.verdict {
        Verdict::Allow => verdict::Verdict::Allow,
        Verdict::Deny => verdict::Verdict::Deny,
    };
    verdict::Row { from: row.from, to: row.to, protocol: row.protocol, port: row.port, verdict, reason: None }
}

async fn render(settings: &Settings, output: Output, manifests: &Manifests) -> Result<()> {
    let (node, text) = if manifests.manifests.is_empty() {
        let clients = settings.clients()?;
        let [client] = clients.as_slice() else { bail!("a ruleset is one node's: name it with --node") };
        (settings.node().map(str::to_owned), client.get_text("/v1/policy/render").await?)
    } else {
        let cluster = cluster(settings, manifests).await?;
        let Some(node) = settings.node() else { bail!("a ruleset is one node's: name it with --node") };
        if !cluster.nodes().contains(node) {
            let known: Vec<&str> = cluster.nodes().into_iter().collect();
            bail!("the manifests know no node {node:?}; they know {}", known.join(", "));
        }
        (Some(node.to_owned()), cluster.render(node, &cluster.options(node)).to_string())
    };
    match output.format {
        None | Some(Format::Wide) => output::write_out(&text),
        Some(_) => output.print(&json!({"node": node, "ruleset": text}), |_| String::new()),
    }
}

/// The cluster of the manifests, or of the datastore. What should be known of the answers goes to stderr.
pub(crate) async fn cluster(settings: &Settings, manifests: &Manifests) -> Result<Offline> {
    let (objects, places) = if manifests.manifests.is_empty() {
        (from_datastore(settings).await?, Vec::new())
    } else {
        let loaded = load(&manifests.manifests)?;
        let places = loaded.iter().map(|(object, place)| (object.key(), place.to_string())).collect();
        (loaded.into_iter().map(|(object, _)| object).collect(), places)
    };
    let mut cluster = Offline::new(&objects);
    for (key, place) in places {
        cluster.set_source(key, place);
    }
    // Some are one a pod: a large cluster without addresses should not scroll everything else away.
    let warnings = cluster.warnings();
    for warning in warnings.iter().take(SHOWN_WARNINGS) {
        output::note(&format!("tortie: warning: {warning}"));
    }
    if warnings.len() > SHOWN_WARNINGS {
        let more = warnings.len() - SHOWN_WARNINGS;
        let them = if more == 1 { "warning is" } else { "warnings are" };
        output::note(&format!("tortie: warning: {more} more {them} left out here"));
    }
    Ok(cluster)
}

/// All that verdicts and tables depend on.
pub(crate) async fn from_datastore(settings: &Settings) -> Result<Vec<Object>> {
    let datastore = settings.store().await?.datastore();
    let mut objects = Vec::new();
    for kind in tortie_policy::KINDS {
        objects.extend(datastore.list(kind).await?);
    }
    Ok(objects)
}

pub(crate) fn from_manifests(manifests: &Manifests) -> Result<Vec<Object>> {
    from_files(&manifests.manifests)
}

/// The objects of files and directories. Any problem beyond a warning is an error.
pub(crate) fn from_files(paths: &[PathBuf]) -> Result<Vec<Object>> {
    Ok(load(paths)?.into_iter().map(|(object, _)| object).collect())
}

/// The same, each with its place.
fn load(paths: &[PathBuf]) -> Result<Vec<(Object, Place)>> {
    let loaded = manifests::load(paths);
    let mut errors = Vec::new();
    for problem in &loaded.problems {
        let text = format!("{}: {}", problem.place, problem.message);
        if problem.warning {
            output::note(&format!("tortie: warning: {text}"));
        } else {
            errors.push(text);
        }
    }
    if !errors.is_empty() {
        bail!("{}", errors.join("\ntortie: "));
    }
    Ok(loaded.objects)
}
