//! Takes everything of ours from a node: what an agent, living or dead, has put into its kernel, its firewalls and its run directory.
//!
//! Certain is what bears our mark: the table `inet tortie`, routes with a protocol and metric that the run directory has as ours (without
//! one: those that we have by default), rules with our comment, the zone in firewalld, devices of overlays with our alias. Calico's pods have interfaces of the same name and hardware address as ours, so a pod's interface is ours if the run
//! directory has its record, or if a route of ours leads to it. Kernel settings stay: nobody knows any more what they were before.

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io::Read;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::{Path, PathBuf};

use tortie_felix_netlink::{Link, Mac, Net, OURS, RouteKind, RouteSpec};
use tortie_nft_netlink::foreign::{Deletion, Family, Foreign, Table};

use crate::leftovers::{LINKS, Owner, configurations, plugin_types};
use crate::{firewalld, host};

/// Our routes' protocol number and metric, where no agent has noted others.
const MARKS: (u8, u32) = (80, 1024);

/// The hardware address of the host's end of our veths, which is Calico's too.
const HOST_MAC: Mac = Mac([0xee; 6]);

/// The file in the run directory that has what marks our routes.
const ROUTE_MARKS: &str = "route-marks";

/// The abstract socket that an agent holds while it writes a network namespace's rules and routes.
const SOLE: &str = "tortie-node.dataplane";

/// The type of our plugin in network configurations.
const PLUGIN: &str = "tortie-cni";

/// Where a node's things are.
#[derive(Debug, Clone)]
pub struct Node {
    /// The agent's run directory.
    pub run_dir: PathBuf,
    /// The folder that the host's files are in: `/`, or where a container has them.
    pub root: PathBuf,
}

/// Something of ours.
#[derive(Debug)]
pub struct Ours {
    /// What it is, for people.
    pub text: String,
    thing: Thing,
}

#[derive(Debug)]
enum Thing {
    Link(u32),
    End(Link),
    Routes(Vec<RouteSpec>),
    Table,
    Rules,
    Firewalld,
    File(PathBuf),
    RunDir(PathBuf),
}

/// Why everything of ours must not be taken away now: an agent runs, here or with that run directory. None if it may.
pub fn agent(run_dir: &Path) -> Option<String> {
    if let Ok(lock) = File::options().write(true).open(run_dir.join("tortie.lock"))
        && matches!(lock.try_lock(), Err(TryLockError::WouldBlock))
    {
        return Some(format!("a tortie-node runs with the run directory {}", run_dir.display()));
    }
    let address = SocketAddr::from_abstract_name(SOLE).ok()?;
    let stream = UnixStream::connect_addr(&address).ok()?;
    let who = nix::sys::socket::getsockopt(&stream, nix::sys::socket::sockopt::PeerCredentials);
    let who = who.map(|credentials| credentials.pid()).unwrap_or_default();
    Some(format!("a tortie-node (process {who}) writes the rules and routes of this network namespace"))
}

/// Everything of ours in the calling thread's network namespace and on its disk, in the order in which it should go: connections
/// first, protection last. With what could not be looked at, and what is left to people.
pub async fn find(net: &Net, node: &Node) -> (Vec<Ours>, Vec<String>) {
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    match (net.links().await, net.routes(None).await) {
        (Ok(links), Ok(routes)) => {
            let marks = route_marks(&node.run_dir);
            let is_ours = |route: &RouteSpec| marks.contains(&(route.protocol, route.metric));
            let routes: Vec<RouteSpec> =
                routes.into_iter().filter(|route| is_ours(route) && !in_a_tunnel(route, &links)).collect();
            for link in links.iter().filter(|link| link.alias == OURS) {
                let text = format!("interface {} of an overlay", link.name);
                found.push(Ours { text, thing: Thing::End(link.clone()) });
            }
            for link in interfaces(&links, &routes, node) {
                let text = format!("interface {} of a pod", link.name);
                found.push(Ours { text, thing: Thing::Link(link.index) });
            }
            for (protocol, metric) in marks {
                let marked = |route: &&RouteSpec| (route.protocol, route.metric) == (protocol, metric);
                let routes: Vec<RouteSpec> = routes.iter().filter(marked).cloned().collect();
                if !routes.is_empty() {
                    let text = format!("{} routes proto {protocol} metric {metric}", routes.len());
                    found.push(Ours { text, thing: Thing::Routes(routes) });
                }
            }
        }
        (Err(error), _) | (_, Err(error)) => errors.push(error.to_string()),
    }
    match Foreign::open().and_then(|mut foreign| foreign.tables(|_| false)) {
        Ok(tables) => {
            if tables.iter().any(is_table) {
                found.push(Ours { text: "nftables table inet tortie".into(), thing: Thing::Table });
            }
            for rule in host::our_rules() {
                found.push(Ours { text: rule.text, thing: Thing::Rules });
            }
            if tables.iter().any(|table| table.name == "firewalld") && firewalld::knows() {
                let text = format!("firewalld's zone {} and policy {}", firewalld::ZONE, firewalld::POLICY);
                found.push(Ours { text, thing: Thing::Firewalld });
            }
        }
        Err(error) => errors.push(error.to_string()),
    }
    for path in configurations(&node.root) {
        if plugin_types(&path).iter().any(|kind| kind == PLUGIN) {
            found.push(Ours { text: format!("network configuration {}", path.display()), thing: Thing::File(path) });
        }
    }
    if node.run_dir.is_dir() {
        let text = format!("run directory {}", node.run_dir.display());
        found.push(Ours { text, thing: Thing::RunDir(node.run_dir.clone()) });
    }
    (found, errors)
}

impl Ours {
    /// Removes it.
    ///
    /// # Errors
    /// Why it stays, or what of it.
    pub async fn remove(&self, net: &Net) -> Result<(), String> {
        let gone = |result: Result<(), tortie_felix_netlink::Error>| match result {
            Err(error) if !error.is_missing() => Err(error.to_string()),
            _ => Ok(()),
        };
        match &self.thing {
            Thing::Link(index) => gone(net.delete_link(*index).await),
            Thing::End(link) => gone(net.remove_end(link).await),
            Thing::Routes(routes) => {
                for route in routes {
                    gone(net.delete_route(route).await)?;
                }
                Ok(())
            }
            Thing::Table => {
                let deletion = Deletion::Table { family: Family::Inet, name: "tortie".into() };
                let deleted = Foreign::open().and_then(|mut foreign| foreign.delete(&[deletion]));
                deleted.map_err(|error| format!("{error} (a running agent owns it: stop it first)"))
            }
            Thing::Rules => host::remove_rules().map(|_| ()).map_err(|errors| errors.join("; ")),
            Thing::Firewalld => firewalld::forget().map(|_| ()).map_err(|error| error.to_string()),
            Thing::File(path) => fs::remove_file(path).map_err(|error| format!("{}: {error}", path.display())),
            Thing::RunDir(path) => remove_run_dir(path),
        }
    }
}

fn is_table(table: &Table) -> bool {
    table.family == Family::Inet && table.name == "tortie"
}

/// Whether a route leads into a tunnel of Calico's, which writes routes of the same protocol there.
fn in_a_tunnel(route: &RouteSpec, links: &[Link]) -> bool {
    let (RouteKind::Device { index } | RouteKind::Via { index: Some(index), .. }) = &route.kind else { return false };
    let is_calicos = |name: &str| LINKS.iter().any(|(owner, tunnel)| *owner == Owner::Calico && *tunnel == name);
    links.iter().any(|link| link.index == *index && link.alias != OURS && is_calicos(&link.name))
}

/// Interfaces of our pods: those that the records name, and those that our routes lead to.
fn interfaces<'a>(links: &'a [Link], routes: &[RouteSpec], node: &Node) -> Vec<&'a Link> {
    let recorded = records(&node.run_dir);
    let routed = |link: &Link| {
        routes.iter().any(|route| {
            // IPv6 routes of Calico's to its pods have the same metric as ours, so they prove nothing.
            route.destination.addr().is_ipv4()
                && matches!(route.kind, RouteKind::Device { index } if index == link.index)
        })
    };
    links
        .iter()
        .filter(|link| link.mac == Some(HOST_MAC))
        .filter(|link| recorded.contains(&link.name) || routed(link))
        .collect()
}

/// What has marked the node's routes, as the run directory has it.
fn route_marks(run_dir: &Path) -> BTreeSet<(u8, u32)> {
    let text = fs::read_to_string(run_dir.join(ROUTE_MARKS)).unwrap_or_default();
    let pair = |line: &str| {
        let (protocol, metric) = line.split_once(' ')?;
        Some((protocol.parse().ok()?, metric.parse().ok()?))
    };
    let marks: BTreeSet<(u8, u32)> = text.lines().filter_map(pair).collect();
    if marks.is_empty() { BTreeSet::from([MARKS]) } else { marks }
}

/// The host interfaces that the run directory's records name.
fn records(run_dir: &Path) -> BTreeSet<String> {
    const LARGEST: u64 = 64 << 10;
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(run_dir.join("endpoints")).into_iter().flatten().flatten() {
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        let Some(file) = is_file.then(|| File::open(entry.path()).ok()).flatten() else { continue };
        let mut text = Vec::new();
        if file.take(LARGEST).read_to_end(&mut text).is_err() {
            continue;
        }
        let record: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
        names.extend(record["hostInterface"].as_str().map(str::to_owned));
    }
    names
}

/// Removes what agents write into their run directory, and the directory if nothing else is in it.
fn remove_run_dir(path: &Path) -> Result<(), String> {
    let failed = |path: &Path, error: &std::io::Error| format!("{}: {error}", path.display());
    let endpoints = path.join("endpoints");
    for entry in fs::read_dir(&endpoints).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|end| end == "json" || end == "new") {
            fs::remove_file(&path).map_err(|error| failed(&path, &error))?;
        }
    }
    for file in ["tortie.sock", ROUTE_MARKS, "route-marks.new", "tortie.lock"] {
        match fs::remove_file(path.join(file)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(&path.join(file), &error)),
            _ => {}
        }
    }
    for folder in [endpoints.as_path(), path] {
        match fs::remove_dir(folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(format!("{}: {error}: what is in it is not ours", folder.display()));
            }
            _ => {}
        }
    }
    Ok(())
}
