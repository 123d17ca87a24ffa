//! `tortie node clean`: takes from this machine what other network agents left on it, and with `--all` everything of Tortie's.
//!
//! It works on the machine and in the network namespace it is run in, without an agent. Nothing is asked: `--dry-run` shows first.

use std::path::Path;

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use serde::Serialize;
use tortie_api::{Kind, Object};
use tortie_felix_netlink::Net;
use tortie_host_firewall::clean::{self, Ours};
use tortie_host_firewall::leftovers::{self, Leftover};

use crate::cli::Clean;
use crate::output::{self, Output};
use crate::settings::Settings;

/// One thing, and what became of it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    owner: String,
    what: String,
    /// `found`, `removed` or `kept`.
    result: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

enum Thing {
    Left(Leftover),
    Ours(Ours),
}

impl Thing {
    async fn remove(&self, net: &Net) -> Result<(), String> {
        match self {
            Self::Left(left) => left.remove(net).await,
            Self::Ours(ours) => ours.remove(net).await,
        }
    }

    fn row(&self) -> Row {
        let (owner, what) = match self {
            Self::Left(left) => (left.owner.to_string(), left.text.clone()),
            Self::Ours(ours) => ("Tortie".to_owned(), ours.text.clone()),
        };
        Row { owner, what, result: "found", reason: None }
    }
}

pub(crate) async fn run(settings: &Settings, output: Output, args: &Clean) -> Result<()> {
    let run_dir = settings.run_dir().context(
        "node clean works on the machine and in the network namespace it is run in: inside a lab's node, run it by \
         `tortie lab exec NODE -- tortie node clean --run-dir DIR`",
    )?;
    if !args.force && !args.dry_run {
        refuse(args, &run_dir)?;
    }
    let net = Net::current()?;
    let place = leftovers::Place { root: args.host_root.clone(), pools: pools(settings).await };
    let (left, mut errors) = leftovers::find(&net, &place).await;
    let mut things: Vec<Thing> = left.into_iter().map(Thing::Left).collect();
    if args.all {
        let node = clean::Node { run_dir, root: args.host_root.clone() };
        let (ours, more) = clean::find(&net, &node).await;
        things.extend(ours.into_iter().map(Thing::Ours));
        errors.extend(more);
    }
    let mut rows = Vec::new();
    let mut kept = 0;
    for thing in &things {
        let mut row = thing.row();
        if !args.dry_run {
            match thing.remove(&net).await {
                Ok(()) => row.result = "removed",
                Err(reason) => {
                    row.result = "kept";
                    row.reason = Some(reason);
                    kept += 1;
                }
            }
        }
        rows.push(row);
    }
    show(output, &rows)?;
    if args.all {
        output::note(
            "Kernel settings (forwarding) stay as they are, and so does what the datastore knows of this node: its blocks of addresses.",
        );
    }
    for error in &errors {
        output::note(&format!("tortie: {error}"));
    }
    if kept > 0 || !errors.is_empty() {
        bail!("not everything could be {}", if args.dry_run { "looked at" } else { "removed" });
    }
    Ok(())
}

/// Ends where somebody would write again what is removed.
fn refuse(args: &Clean, run_dir: &Path) -> Result<()> {
    if args.all
        && let Some(agent) = clean::agent(run_dir)
    {
        bail!("{agent}: stop it first, for it would write everything again (or use --force)");
    }
    if let Some((pid, name)) = leftovers::running().first() {
        bail!(
            "{name} (process {pid}) still runs here: stop it first, for it would write everything again (or use --force)"
        );
    }
    Ok(())
}

/// The IP pools, if the datastore can be read: without them, routes that some BIRD wrote are left alone.
async fn pools(settings: &Settings) -> Vec<IpNet> {
    let Ok(store) = settings.store().await else { return Vec::new() };
    let pools = store.datastore().list(Kind::IpPool).await.unwrap_or_default();
    let cidr = |object: &Object| match object {
        Object::IpPool(pool) => Some(pool.spec.cidr),
        _ => None,
    };
    pools.iter().filter_map(cidr).collect()
}

fn show(output: Output, rows: &[Row]) -> Result<()> {
    if rows.is_empty() && matches!(output.format, None | Some(output::Format::Wide)) {
        output::note("There is nothing to remove.");
        return Ok(());
    }
    output.print(rows, |_| {
        output::columns(
            ["OWNER", "WHAT", "RESULT"],
            rows.iter().map(|row| {
                let result = match &row.reason {
                    Some(reason) => format!("{}: {reason}", row.result),
                    None => row.result.to_owned(),
                };
                [row.owner.clone(), row.what.clone(), result]
            }),
        )
    })
}
