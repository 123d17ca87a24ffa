//! The threads that write the kernel: one for rules, one for routes and host settings. Each does one job at a time, in order, and
//! tells the owner how it went. They block, so they are threads and not tasks.

use std::sync::mpsc::{Receiver, Sender, channel};

use tokio::runtime;
use tortie_felix::{Event, Host, RouteChange, Snapshot};
use tortie_felix_netlink::{Bulk, Net, sysctl};
use tortie_nft::Transaction;
use tortie_nft_netlink::{Error as NftError, NftSocket};
use tracing::{debug, warn};

use crate::convert;
use crate::owner::OwnerHandle;

/// For the rules' thread.
#[derive(Debug)]
pub(crate) enum RuleJob {
    Read,
    Apply(Transaction),
}

/// For the routes' thread.
#[derive(Debug)]
pub(crate) enum RouteJob {
    Read,
    Apply(Vec<RouteChange>),
    Host(Box<Host>),
}

/// The way to the two threads; they end when this is dropped.
#[derive(Debug)]
pub(crate) struct Writers {
    rules: Sender<RuleJob>,
    routes: Sender<RouteJob>,
}

impl Writers {
    /// Starts both threads in the present network namespace. Routes go through `bulk`, whose doings the kernel's monitor leaves out;
    /// other sockets are opened with the first job. A plain table is not owned, even where the kernel could.
    pub(crate) fn start(
        owner: &OwnerHandle,
        runtime: &runtime::Handle,
        plain_table: bool,
        bulk: Bulk,
    ) -> std::io::Result<Self> {
        let (rules, rule_jobs) = channel();
        let (routes, route_jobs) = channel();
        let (owner_of_rules, owner_of_routes, runtime) = (owner.clone(), owner.clone(), runtime.clone());
        std::thread::Builder::new()
            .name("nftables".into())
            .spawn(move || write_rules(&rule_jobs, &owner_of_rules, plain_table))?;
        std::thread::Builder::new()
            .name("routes".into())
            .spawn(move || write_routes(&route_jobs, &owner_of_routes, &runtime, bulk))?;
        Ok(Self { rules, routes })
    }

    pub(crate) fn rules(&self, job: RuleJob) {
        let _ = self.rules.send(job);
    }

    pub(crate) fn routes(&self, job: RouteJob) {
        let _ = self.routes.send(job);
    }
}

fn write_rules(jobs: &Receiver<RuleJob>, owner: &OwnerHandle, plain_table: bool) {
    let open = || {
        let mut socket = NftSocket::open()?;
        if plain_table {
            socket.without_ownership();
        }
        Ok(socket)
    };
    let mut socket = None;
    while let Ok(job) = jobs.recv() {
        let event = match job {
            RuleJob::Read => Event::RulesRead(with_socket(&mut socket, open, NftSocket::read)),
            RuleJob::Apply(transaction) => {
                Event::RulesApplied(with_socket(&mut socket, open, |socket| socket.apply(&transaction)))
            }
        };
        owner.blocking_event(event);
    }
}

/// Uses the one socket, which owns the table; another is opened only after one that broke.
fn with_socket<T>(
    slot: &mut Option<NftSocket>,
    open: impl FnOnce() -> Result<NftSocket, NftError>,
    work: impl FnOnce(&mut NftSocket) -> Result<T, NftError>,
) -> Result<T, String> {
    let socket = match slot {
        Some(socket) => socket,
        None => slot.insert(open().map_err(|error| error.to_string())?),
    };
    let result = work(socket);
    if let Err(error) = &result {
        debug!(%error, "nftables");
        if matches!(error, NftError::Send { .. } | NftError::Receive(_)) {
            *slot = None;
        }
    }
    result.map_err(|error| error.to_string())
}

/// The socket for routes is kept for life, also after an error: answers that came too late are told by their numbers.
fn write_routes(jobs: &Receiver<RouteJob>, owner: &OwnerHandle, runtime: &runtime::Handle, mut bulk: Bulk) {
    let _guard = runtime.enter();
    let mut net = None;
    while let Ok(job) = jobs.recv() {
        let event = match job {
            RouteJob::Read => Event::RoutesRead(read_routes(&mut net, &mut bulk, runtime)),
            RouteJob::Apply(changes) => Event::RoutesApplied(apply_routes(&mut bulk, &changes)),
            RouteJob::Host(host) => Event::HostConfigured(configure_host(&host)),
        };
        owner.blocking_event(event);
    }
}

fn read_routes(slot: &mut Option<Net>, bulk: &mut Bulk, runtime: &runtime::Handle) -> Result<Snapshot, String> {
    let net = match slot {
        Some(net) => net,
        None => slot.insert(Net::current().map_err(|error| error.to_string())?),
    };
    let links = runtime.block_on(net.links()).map_err(|error| {
        *slot = None;
        error.to_string()
    })?;
    let routes = bulk.routes_as(None, |route| Some(convert::route(route))).map_err(|error| error.to_string())?;
    Ok(Snapshot { links: links.into_iter().map(convert::link).collect(), routes })
}

fn apply_routes(bulk: &mut Bulk, changes: &[RouteChange]) -> Result<Vec<tortie_felix::RouteFailure>, String> {
    let wanted: Vec<_> = changes.iter().map(convert::route_change).collect();
    let failures = bulk.apply(&wanted).map_err(|error| error.to_string())?;
    Ok(failures.iter().filter_map(|failure| convert::route_failure(changes, failure)).collect())
}

fn configure_host(host: &Host) -> Result<(), String> {
    let set = |setting: &str, value| {
        sysctl::set(setting, value).map_err(|error| format!("{error}: pods cannot be reached without it"))
    };
    if host.forward_ipv4 {
        set("net.ipv4.ip_forward", "1")?;
    }
    if host.forward_ipv6 {
        const FORWARDING: &str = "net.ipv6.conf.all.forwarding";
        if sysctl::get(FORWARDING).is_ok_and(|now| now == "0") {
            keep_router_advertisements();
        }
        set(FORWARDING, "1")?;
    }
    Ok(())
}

/// A node that forwards IPv6 no longer listens to routers where `accept_ra` is 1, and would lose the default route that it has from
/// them when that expires. 2 means: listen although forwarding.
fn keep_router_advertisements() {
    let Ok(interfaces) = std::fs::read_dir("/proc/sys/net/ipv6/conf") else { return };
    let names = interfaces.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    for name in names.filter(|name| name != "all" && name != "default" && !name.starts_with("cali")) {
        let setting = format!("net/ipv6/conf/{name}/accept_ra");
        if sysctl::get(&setting).is_ok_and(|now| now == "1")
            && let Err(error) = sysctl::set(&setting, "2")
        {
            warn!("{error}: {name} no longer learns routes from IPv6 routers");
        }
    }
}
