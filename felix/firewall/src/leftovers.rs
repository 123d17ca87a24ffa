//! What Calico and flannel left on a node that they no longer run on: found, named, and removed on request.
//!
//! Found is what carries their names: tables, chains, IP sets, tunnel interfaces, configuration of the container runtime. Where a
//! name is not proof enough, more is asked for: flannel's bridge `cni0` must have no pod on it and other traces of flannel beside it;
//! a route that some BIRD wrote must lead into a tunnel of Calico's, or lie within an IP pool while no BIRD runs. Interfaces `cali…`
//! are never leftovers, for the pods behind them may be running.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::Serialize;
use tortie_felix_netlink::{Link, Net, OURS, RouteKind, RouteSpec, host};
use tortie_nft_netlink::foreign::{Deletion, Family as TableFamily, Foreign, Rule, Table, Verdict};
use tortie_nft_netlink::ipset;

use crate::legacy::{self, Family};
use crate::tools::Backend;

/// Who left it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Owner {
    /// Calico.
    Calico,
    /// flannel.
    #[serde(rename = "flannel")]
    Flannel,
}

impl Owner {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Calico, Self::Flannel];
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Calico => "Calico",
            Self::Flannel => "flannel",
        })
    }
}

/// One thing that was left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// By whom.
    pub owner: Owner,
    /// What it is, for people.
    pub text: String,
    thing: Thing,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Thing {
    /// Objects of nf_tables, in the order in which they go.
    Nft(Vec<Deletion>),
    /// Chains of legacy iptables, and the rules that lead to them.
    Legacy {
        family: Family,
        table: String,
        owner: Owner,
    },
    IpSet(String),
    Route(RouteSpec),
    Address {
        index: u32,
        address: IpNet,
    },
    Link {
        index: u32,
    },
    File(PathBuf),
    Folder(PathBuf),
}

/// Protocol number of BIRD's routes.
const BIRD: u8 = 12;

/// Interfaces that nobody else names so.
pub(crate) const LINKS: [(Owner, &str); 8] = [
    (Owner::Calico, "vxlan.calico"),
    (Owner::Calico, "vxlan-v6.calico"),
    (Owner::Calico, "wireguard.cali"),
    (Owner::Calico, "wg-v6.cali"),
    (Owner::Flannel, "flannel.1"),
    (Owner::Flannel, "flannel-v6.1"),
    (Owner::Flannel, "flannel-wg"),
    (Owner::Flannel, "flannel-wg-v6"),
];

/// The kernel's own IPIP interface, which cannot be deleted: Calico gives it an address.
const IPIP: &str = "tunl0";

/// Where to look.
#[derive(Debug, Clone)]
pub struct Place {
    /// The folder that the host's files are in: `/`, or where a container has them.
    pub root: PathBuf,
    /// The cluster's IP pools, as far as they are known.
    pub pools: Vec<IpNet>,
}

impl Default for Place {
    fn default() -> Self {
        Self { root: PathBuf::from("/"), pools: Vec::new() }
    }
}

/// Everything that was left in the calling thread's network namespace and on the host's disk, in the order in which it should go. `net` is a handle
/// on that namespace. With what could not be looked at.
pub async fn find(net: &Net, place: &Place) -> (Vec<Leftover>, Vec<String>) {
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    let mut keep = |result: Result<Vec<Leftover>, String>| match result {
        Ok(more) => found.extend(more),
        Err(error) => errors.push(error),
    };
    // Rules before the sets that they use, and routes and addresses before the interfaces that take them along.
    keep(in_nf_tables());
    keep(in_legacy_iptables());
    keep(ip_sets());
    let files = files(&place.root);
    let flannel_was_here = files.iter().any(|file| file.owner == Owner::Flannel);
    keep(links_and_routes(net, &place.pools, flannel_was_here).await);
    found.extend(files);
    (found, errors)
}

impl Leftover {
    /// Removes it.
    ///
    /// # Errors
    /// Why it stays.
    pub async fn remove(&self, net: &Net) -> Result<(), String> {
        let gone = |result: Result<(), tortie_felix_netlink::Error>| match result {
            Err(error) if !error.is_missing() => Err(error.to_string()),
            _ => Ok(()),
        };
        match &self.thing {
            Thing::Nft(deletions) => {
                Foreign::open().and_then(|mut foreign| foreign.delete(deletions)).map_err(|error| error.to_string())
            }
            Thing::Legacy { family, table, owner } => remove_legacy(*family, table, *owner),
            Thing::IpSet(name) => ipset::destroy(name).map_err(|error| error.to_string()),
            Thing::Route(route) => gone(net.delete_route(route).await),
            Thing::Address { index, address } => gone(net.delete_address(*index, *address).await),
            Thing::Link { index } => gone(net.delete_link(*index).await),
            Thing::File(path) => fs::remove_file(path).map_err(|error| error.to_string()),
            Thing::Folder(path) => fs::remove_dir_all(path).map_err(|error| error.to_string()),
        }
    }
}

/// Agents of others that run in the calling thread's network namespace, by process and name. What they own is no leftover.
pub fn running() -> Vec<(u32, String)> {
    let id = |path: PathBuf| fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    let here = id("/proc/thread-self/ns/net".into());
    let names = processes().filter(|(_, _, name)| matches!(name.as_str(), "calico-node" | "calico-felix" | "flanneld"));
    // Whose namespace may not be seen, as from a container without the right to trace it, is taken for one of this node's.
    let mut found: Vec<(u32, String)> = names
        .filter(|(_, folder, _)| id(folder.join("ns/net")).is_none_or(|other| Some(other) == here))
        .map(|(pid, _, name)| (pid, name))
        .collect();
    found.sort();
    found
}

/// Whether some BIRD runs here.
fn bird_runs() -> bool {
    processes().any(|(_, _, name)| matches!(name.as_str(), "bird" | "bird6"))
}

/// Every process of the machine: its number, its folder in `/proc` and its name.
fn processes() -> impl Iterator<Item = (u32, PathBuf, String)> {
    let entries = fs::read_dir(host::proc()).into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let name = fs::read_to_string(entry.path().join("comm")).ok()?;
        Some((pid, entry.path(), name.trim().to_owned()))
    })
}

/// Whose a chain of iptables is.
fn owner_of_chain(name: &str) -> Option<Owner> {
    if name.starts_with("cali-") {
        Some(Owner::Calico)
    } else if name.starts_with("FLANNEL-") {
        Some(Owner::Flannel)
    } else {
        None
    }
}

/// Whose a rule in somebody else's chain is: it leads to a chain of theirs, or says so.
fn owner_of_rule(rule: &Rule) -> Option<Owner> {
    let comment = rule.comment.as_deref().unwrap_or_default();
    let by_target = match &rule.verdict {
        Some(Verdict::Jump(chain) | Verdict::Goto(chain)) => owner_of_chain(chain),
        _ => None,
    };
    by_target.or_else(|| comment.starts_with("cali:").then_some(Owner::Calico))
}

fn owner_of_table(table: &Table) -> Option<Owner> {
    match (table.family, table.name.as_str()) {
        (TableFamily::Ip | TableFamily::Ip6 | TableFamily::Inet, "calico") | (TableFamily::Other(_), "calico-arp") => {
            Some(Owner::Calico)
        }
        (TableFamily::Ip, "flannel-ipv4") | (TableFamily::Ip6, "flannel-ipv6") => Some(Owner::Flannel),
        _ => None,
    }
}

fn in_nf_tables() -> Result<Vec<Leftover>, String> {
    let is_iptables = |table: &Table| {
        matches!(table.family, TableFamily::Ip | TableFamily::Ip6)
            && matches!(table.name.as_str(), "filter" | "nat" | "mangle" | "raw")
            && table.chains.iter().any(|chain| owner_of_chain(&chain.name).is_some())
    };
    let tables = Foreign::open().and_then(|mut foreign| foreign.tables(is_iptables));
    let tables = tables.map_err(|error| format!("the tables of others cannot be read: {error}"))?;
    let mut found = Vec::new();
    for table in &tables {
        let (family, name) = (table.family, &table.name);
        if let Some(owner) = owner_of_table(table) {
            let deletion = Deletion::Table { family, name: name.clone() };
            let text = format!("nftables table {family} {name}");
            found.push(Leftover { owner, text, thing: Thing::Nft(vec![deletion]) });
        }
        for owner in Owner::ALL.into_iter().filter(|_| is_iptables(table)) {
            let (mut deletions, mut chains, mut rules) = (Vec::new(), Vec::new(), 0);
            for chain in &table.chains {
                if owner_of_chain(&chain.name) == Some(owner) {
                    chains.push(chain.name.clone());
                    continue;
                }
                for rule in chain.rules.iter().filter(|rule| owner_of_rule(rule) == Some(owner)) {
                    let (table, chain) = (name.clone(), chain.name.clone());
                    deletions.push(Deletion::Rule { family, table, chain, handle: rule.handle });
                    rules += 1;
                }
            }
            if chains.is_empty() && rules == 0 {
                continue;
            }
            for chain in &chains {
                deletions.push(Deletion::Rules { family, table: name.clone(), chain: chain.clone() });
            }
            for chain in &chains {
                deletions.push(Deletion::Chain { family, table: name.clone(), name: chain.clone() });
            }
            let program = Backend::Nft.program(if family == TableFamily::Ip { Family::V4 } else { Family::V6 });
            let text =
                format!("{program} table {name}: chains ({}) and rules that lead to them ({rules})", chains.len());
            found.push(Leftover { owner, text, thing: Thing::Nft(deletions) });
        }
    }
    Ok(found)
}

fn in_legacy_iptables() -> Result<Vec<Leftover>, String> {
    let mut found = Vec::new();
    for family in Family::ALL {
        let program = Backend::Legacy.program(family);
        for table in legacy::tables(family) {
            let chains = legacy::read(family, &table);
            let chains = chains.map_err(|error| format!("table {table} of {program} cannot be read: {error}"))?;
            for owner in Owner::ALL {
                let chains = chains.iter().flatten();
                let count = chains.filter(|chain| owner_of_chain(&chain.name) == Some(owner)).count();
                if count > 0 {
                    let text = format!("{program} table {table}: chains ({count}) and the rules that lead to them");
                    found.push(Leftover { owner, text, thing: Thing::Legacy { family, table: table.clone(), owner } });
                }
            }
        }
    }
    Ok(found)
}

fn remove_legacy(family: Family, table: &str, owner: Owner) -> Result<(), String> {
    let program = Backend::Legacy.program(family);
    let tool = Backend::Legacy
        .tool(family)
        .ok_or_else(|| format!("there is no {program} here: install the package iptables, or run this where it is"))?;
    let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let mut chains = Vec::new();
    for line in tool.list_table(table).map_err(|error| error.to_string())? {
        let line_words = words(&line);
        match line_words.as_slice() {
            [new, chain, ..] if new == "-N" && owner_of_chain(chain) == Some(owner) => chains.push(chain.clone()),
            [append, chain, rest @ ..] if append == "-A" && owner_of_chain(chain).is_none() => {
                let target = rest.windows(2).find(|pair| pair[0] == "-j" || pair[0] == "-g");
                let by_target = target.and_then(|pair| owner_of_chain(&pair[1])) == Some(owner);
                let by_comment = owner == Owner::Calico && line.contains("--comment \"cali:");
                if by_target || by_comment {
                    tool.delete(table, chain, &rest.join(" ")).map_err(|error| error.to_string())?;
                }
            }
            _ => {}
        }
    }
    for chain in &chains {
        tool.flush_chain(table, chain).map_err(|error| error.to_string())?;
    }
    for chain in &chains {
        tool.delete_chain(table, chain).map_err(|error| error.to_string())?;
    }
    // A listing that failed would look like one without chains.
    let left = legacy::read(family, table).map_err(|error| error.to_string())?.unwrap_or_default();
    match left.iter().find(|chain| owner_of_chain(&chain.name) == Some(owner)) {
        None => Ok(()),
        Some(chain) => Err(format!("chain {} is still there", chain.name)),
    }
}

fn ip_sets() -> Result<Vec<Leftover>, String> {
    let names = ipset::names().map_err(|error| format!("the IP sets cannot be read: {error}"))?;
    let is_calicos = |name: &String| name.starts_with("cali40") || name.starts_with("cali60");
    let leftover =
        |name: String| Leftover { owner: Owner::Calico, text: format!("IP set {name}"), thing: Thing::IpSet(name) };
    Ok(names.into_iter().filter(is_calicos).map(leftover).collect())
}

async fn links_and_routes(net: &Net, pools: &[IpNet], flannel_was_here: bool) -> Result<Vec<Leftover>, String> {
    let mut links = net.links().await.map_err(|error| error.to_string())?;
    // Ends of overlays that are in use: they have the names that Calico gave them, and say whose they are.
    links.retain(|link| link.alias != OURS);
    let routes = net.routes(Some(BIRD)).await.map_err(|error| error.to_string())?;
    let mut found = Vec::new();
    let tunnels: Vec<&Link> =
        links.iter().filter(|link| link.name == IPIP || LINKS.iter().any(|(_, name)| *name == link.name)).collect();
    let leads_into_tunnel = |route: &RouteSpec| match &route.kind {
        RouteKind::Device { index } | RouteKind::Via { index: Some(index), .. } => {
            tunnels.iter().any(|tunnel| tunnel.index == *index)
        }
        _ => false,
    };
    let in_a_pool = |route: &RouteSpec| pools.iter().any(|pool| pool.contains(&route.destination));
    let bird_is_gone = !pools.is_empty() && !bird_runs();
    for route in routes.into_iter().filter(|route| leads_into_tunnel(route) || (bird_is_gone && in_a_pool(route))) {
        let text = format!("route {} proto bird", route.destination);
        found.push(Leftover { owner: Owner::Calico, text, thing: Thing::Route(route) });
    }
    for link in &links {
        let index = link.index;
        if link.name == IPIP {
            for address in net.addresses(index).await.map_err(|error| error.to_string())? {
                // Calico's is a host's address; others' tunnels have networks.
                if matches!(address, IpNet::V4(net) if net.prefix_len() == 32) {
                    let text = format!("address {address} of {IPIP}");
                    found.push(Leftover { owner: Owner::Calico, text, thing: Thing::Address { index, address } });
                }
            }
        }
        if let Some((owner, name)) = LINKS.iter().find(|(_, name)| *name == link.name) {
            let text = format!("interface {name}");
            found.push(Leftover { owner: *owner, text, thing: Thing::Link { index } });
        }
    }
    let flannel_was_here = flannel_was_here || found.iter().any(|leftover| leftover.owner == Owner::Flannel);
    if let Some(bridge) = links.iter().find(|link| link.name == "cni0")
        && flannel_was_here
        && !links.iter().any(|link| link.master == Some(bridge.index))
    {
        let thing = Thing::Link { index: bridge.index };
        found.push(Leftover { owner: Owner::Flannel, text: "interface cni0, without pods".into(), thing });
    }
    Ok(found)
}

/// The folder of the container runtime's network configurations.
pub(crate) const CONFIGURATIONS: &str = "etc/cni/net.d";

/// The types of plugins that a network configuration names.
pub(crate) fn plugin_types(path: &Path) -> Vec<String> {
    const LARGEST: u64 = 1 << 20;
    let is_file = fs::metadata(path).is_ok_and(|file| file.is_file() && file.len() <= LARGEST);
    let text = if is_file { fs::read(path).unwrap_or_default() } else { Vec::new() };
    let document: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
    let plugins = document["plugins"].as_array().cloned().unwrap_or_else(|| vec![document.clone()]);
    plugins.iter().filter_map(|plugin| plugin["type"].as_str().map(str::to_owned)).collect()
}

/// The files in the folder of network configurations, sorted.
pub(crate) fn configurations(root: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(root.join(CONFIGURATIONS)).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|end| end == "conflist" || end == "conf" || end == "json"));
    paths.sort();
    paths
}

fn files(root: &Path) -> Vec<Leftover> {
    let mut found = Vec::new();
    for path in configurations(root) {
        let types = plugin_types(&path);
        let owner = if types.iter().any(|kind| kind == "calico") {
            Owner::Calico
        } else if types.iter().any(|kind| kind == "flannel") {
            Owner::Flannel
        } else {
            continue;
        };
        found.push(Leftover {
            owner,
            text: format!("network configuration {}", path.display()),
            thing: Thing::File(path),
        });
    }
    let mut add = |owner, path: &str, folder: bool| {
        let path = root.join(path);
        let is_folder = fs::symlink_metadata(&path).map(|file| file.is_dir());
        if is_folder.is_ok_and(|is_folder| is_folder == folder) {
            let text = path.display().to_string();
            let thing = if folder { Thing::Folder(path) } else { Thing::File(path) };
            found.push(Leftover { owner, text, thing });
        }
    };
    add(Owner::Calico, &format!("{CONFIGURATIONS}/calico-kubeconfig"), false);
    add(Owner::Calico, "var/lib/calico", true);
    add(Owner::Calico, "run/calico", true);
    add(Owner::Flannel, "run/flannel", true);
    // The networks' names of both projects' own manifests.
    add(Owner::Calico, "var/lib/cni/networks/k8s-pod-network", true);
    add(Owner::Flannel, "var/lib/cni/networks/cbr0", true);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_are_told_by_their_plugins() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = root.path().join(CONFIGURATIONS);
        fs::create_dir_all(&folder).expect("a folder");
        let write = |name: &str, text: &str| fs::write(folder.join(name), text).expect("a file");
        write("10-calico.conflist", r#"{"plugins": [{"type": "calico"}, {"type": "portmap"}]}"#);
        write("10-other.conflist", r#"{"plugins": [{"type": "flannel"}]}"#);
        write("20-flannel.conflist", r#"{"plugins": [{"type": "bridge"}]}"#);
        write("old.conf", r#"{"type": "calico"}"#);
        write("10-tortie.conflist", r#"{"plugins": [{"type": "tortie-cni"}]}"#);
        write("10-broken.conflist", "{");
        write("readme.txt", r#"{"type": "calico"}"#);
        fs::create_dir_all(root.path().join("var/lib/cni/networks/cbr0")).expect("a folder");
        fs::create_dir_all(root.path().join("var/lib/cni/networks/mine")).expect("a folder");
        let found: Vec<(Owner, String)> = files(root.path())
            .into_iter()
            .map(|leftover| {
                let text = leftover.text.rsplit_once('/').map_or("", |(_, name)| name).to_owned();
                (leftover.owner, text)
            })
            .collect();
        let expected = [
            (Owner::Calico, "10-calico.conflist"),
            (Owner::Flannel, "10-other.conflist"),
            (Owner::Calico, "old.conf"),
            (Owner::Flannel, "cbr0"),
        ];
        assert_eq!(found, expected.map(|(owner, name)| (owner, name.to_owned())));
    }
}
