//! `tortie ipam release` and `configure`: what changes IPAM's books.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tortie_api::calico::{IpamConfiguration, IpamConfigurationSpec, IpamHandle};
use tortie_api::{Object, ObjectMeta};
use tortie_cni::ipam::records::Records;
use tortie_cni::ipam::{audit, block, collector, names};

use super::check::{Books, HandleVersion, Report};
use crate::cli::Release;
use crate::output::write_out;
use crate::settings::Store;

/// A leaked address, told from a later allocation of it.
type Leaked = (IpAddr, Option<String>, Option<u64>);

pub(super) async fn release(store: &Store, args: &Release) -> Result<()> {
    match args.ip {
        Some(ip) => release_one(store, ip, args.force).await,
        None if args.from_report.is_empty() => bail!("name what to release: --ip IP, or --from-report FILE"),
        None => release_reported(store, &args.from_report, args.force).await,
    }
}

async fn release_one(store: &Store, ip: IpAddr, force: bool) -> Result<()> {
    let books = Books::read(store).await?;
    let place = books.blocks.iter().find_map(|found| {
        let ordinal = block::ordinal(&found.spec, ip)?;
        Some((found.spec.cidr, ordinal, block::holder(&found.spec, ordinal)?))
    });
    let Some((cidr, ordinal, holder)) = place else { bail!("IP address {ip} is not assigned") };
    if !force && books.inventory.leak(holder, ip).is_none() {
        let users = books.inventory.in_use().remove(&ip).unwrap_or_default();
        let state = if users.is_empty() { "may be".to_owned() } else { format!("is, by {},", users.join(", ")) };
        bail!(
            "IP address {ip} {state} in use (it is allocated to {}): delete the pod, which releases it, or add --force to let others \
             have it all the same",
            audit::owner(holder)
        );
    }
    let records = Records::new(store.datastore());
    if !collector::take_address_back(&records, &cidr, ordinal, holder).await? {
        bail!("the block of IP address {ip} was changed by others just now: try again");
    }
    write_out(&format!("Successfully released IP address {ip}"))
}

/// Releases what every report says is leaked, and what still is.
async fn release_reported(store: &Store, files: &[PathBuf], force: bool) -> Result<()> {
    let reports: Vec<Report> = files.iter().map(|file| read(file, force)).collect::<Result<_>>()?;
    let addresses = in_all(reports.iter().map(leaked));
    let handles = in_all(reports.iter().map(|report| report.leaked_handles.iter().cloned().collect()));
    let records = Records::new(store.datastore());
    let (mut released, mut deleted) = (0, 0);
    for leak in Books::read(store).await?.leaks() {
        let key = (leak.ip, leak.attribute.handle_id.clone(), leak.sequence_number);
        if addresses.contains(&key) && collector::give_address_back(&records, &leak).await? {
            released += 1;
        }
    }
    for HandleVersion { id, revision } in &handles {
        let found = records.get::<IpamHandle>(&names::handle(id)).await?;
        let found = found.filter(|found| found.metadata.resource_version.as_ref() == Some(revision));
        if let Some(found) = found
            && records.delete(&found).await?
        {
            deleted += 1;
        }
    }
    write_out(&format!(
        "Released {released} IPs successfully\n\
         {} addresses marked as leaked in the report had already been cleaned up, or are in use by now.\n\
         Released {deleted} handles; {} skipped, as they are gone or were changed.",
        addresses.len() - released,
        handles.len() - deleted
    ))
}

fn leaked(report: &Report) -> BTreeSet<Leaked> {
    let leaked = report.allocations.values().flatten().filter(|allocation| !allocation.in_use);
    leaked.map(|leaked| (leaked.ip, leaked.handle.clone(), leaked.sequence_number)).collect()
}

/// What is in every one of the sets.
fn in_all<T: Ord + Clone>(sets: impl Iterator<Item = BTreeSet<T>>) -> BTreeSet<T> {
    sets.reduce(|one, other| &one & &other).unwrap_or_default()
}

fn read(file: &Path, force: bool) -> Result<Report> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let report: Report = serde_json::from_str(&text).with_context(|| {
        format!("{} is no report: make one with `tortie ipam check -o json > FILE`", file.display())
    })?;
    let (file, version) = (file.display(), env!("CARGO_PKG_VERSION"));
    if report.version != version && !force {
        let other = &report.version;
        bail!("{file} was written by version {other}, and this is {version}: make a new one, or add --force");
    }
    Ok(report)
}

/// What to change.
pub(super) struct Wish {
    pub(super) strict_affinity: Option<bool>,
    pub(super) max_blocks: Option<u32>,
    pub(super) cooldown: Option<u32>,
}

pub(super) async fn configure(store: &Store, wish: &Wish) -> Result<()> {
    let records = Records::new(store.datastore());
    let found = records.get::<IpamConfiguration>(IpamConfigurationSpec::NAME).await?;
    let mut configuration = found.unwrap_or_else(|| IpamConfiguration {
        metadata: ObjectMeta { name: IpamConfigurationSpec::NAME.to_owned(), ..ObjectMeta::default() },
        spec: IpamConfigurationSpec::default(),
    });
    let spec = &mut configuration.spec;
    let mut done = String::new();
    let mut set = |what: &str, value: String| {
        let _ = writeln!(done, "Successfully set {what} to: {value}");
    };
    if let Some(strict) = wish.strict_affinity {
        spec.strict_affinity = strict;
        set("StrictAffinity", strict.to_string());
    }
    if let Some(most) = wish.max_blocks {
        spec.max_blocks_per_host = most;
        set("MaxBlocksPerHost", most.to_string());
    }
    if let Some(seconds) = wish.cooldown {
        spec.ip_cooldown_seconds = Some(seconds);
        set("IPCooldownSeconds", seconds.to_string());
    }
    if done.is_empty() {
        bail!("nothing to change: use --strictaffinity, --max-blocks-per-host or --ip-cooldown-seconds");
    }
    store.apply(Object::IpamConfiguration(configuration)).await?;
    write_out(&done)
}
