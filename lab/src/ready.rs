//! When a lab is ready: every agent has the datastore's revision in the kernel, the mesh is up, every FIB leads to every pod.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tortie_admin::client::Client;
use tortie_admin::types::{BgpPeer, NodeStatus, Route};
use tortie_api::Object;
use tortie_api::calico::Tunnel;
use tortie_datastore::directory;
use tortie_felix_netlink::{Net, RouteKind, netns};

use crate::Error;
use crate::name::Paths;
use crate::process;
use crate::state::{Node, Pod, State};

/// The protocol number of the agents' routes.
const TORTIE: u8 = 80;

/// How long one answer of an agent may take while we wait for it.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long an agent may be away that a supervisor starts again.
const GRACE: Duration = Duration::from_secs(1);

/// How often we look.
const INTERVAL: Duration = Duration::from_millis(40);

/// Something that is missing.
#[derive(Debug)]
struct Lack {
    text: String,
    /// Whether waiting cannot mend it.
    hopeless: bool,
}

impl Lack {
    fn yet(text: String) -> Self {
        Self { text, hopeless: false }
    }

    /// What an agent that does not answer lacks. One that has ended will not come back by waiting.
    fn answer(paths: &Paths, node: &Node, reason: String) -> Self {
        Self { text: reason, hopeless: has_ended(paths, node) }
    }
}

/// Whether the node's agent should run and does not. It need not be the one that the lab started: a supervisor may have started
/// another. One that has just been started has no lock yet.
pub fn has_ended(paths: &Paths, node: &Node) -> bool {
    let runs = || node.pid.is_some_and(process::is_alive) || process::agent(&paths.run_dir(&node.name)).is_some();
    !node.external && !runs()
}

/// Waits until the agents of these nodes answer and have read the datastore, or have ended, or time is up.
pub async fn agents(state: &State, paths: &Paths, deadline: Instant) {
    poll(deadline, || async {
        let mut missing = Vec::new();
        for node in state.agents() {
            match status(paths, node).await {
                Ok(status) if status.datastore_in_sync => {}
                Ok(_) => missing.push(Lack::yet(format!("{}: the agent has not read the datastore", node.name))),
                Err(reason) => missing.push(Lack::answer(paths, node, reason)),
            }
        }
        Ok(missing)
    })
    .await
    // Only looking at the kernel or the datastore can fail, and this does neither.
    .ok();
}

/// Waits until everything is in force. What is still missing when time is up, or when only agents that have ended lack anything: the
/// others do not wait for those, and nobody waits for them. `mesh` says whether every node peers with every other.
pub async fn everything(state: &State, paths: &Paths, mesh: bool, deadline: Instant) -> Result<Vec<String>, Error> {
    poll(deadline, || lacks(state, paths, mesh)).await
}

async fn poll<F: Future<Output = Result<Vec<Lack>, Error>>>(
    deadline: Instant,
    look: impl Fn() -> F,
) -> Result<Vec<String>, Error> {
    let mut missing: Vec<Lack> = Vec::new();
    let mut hopeless_since = None;
    loop {
        // A last look is worth a moment, but no more.
        match tokio::time::timeout_at(deadline.max(Instant::now() + PATIENCE), look()).await {
            Ok(looked) => missing = looked?,
            Err(_) if missing.is_empty() => missing.push(Lack::yet("an answer to what is missing, in time".to_owned())),
            Err(_) => {}
        }
        if !missing.iter().all(|lack| lack.hopeless) {
            hopeless_since = None;
        }
        let mut given_up = || hopeless_since.get_or_insert_with(Instant::now).elapsed() >= GRACE;
        let over = missing.is_empty() || Instant::now() >= deadline;
        if over || (missing.iter().all(|lack| lack.hopeless) && given_up()) {
            return Ok(missing.into_iter().map(|lack| lack.text).collect());
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Whether the documents ask for the full mesh, which is the default.
pub fn wants_mesh(objects: &[Object]) -> bool {
    !objects.iter().any(|object| {
        matches!(object, Object::BgpConfiguration(configuration)
            if configuration.metadata.name == "default" && configuration.spec.node_to_node_mesh_enabled == Some(false))
    })
}

/// What is missing now, one sentence each.
async fn lacks(state: &State, paths: &Paths, mesh: bool) -> Result<Vec<Lack>, Error> {
    let datastore = paths.datastore();
    let revision = tokio::task::spawn_blocking(move || directory::revision(&datastore))
        .await
        .map_err(|error| Error::Failed(error.to_string()))?
        .map_err(|error| Error::Failed(error.to_string()))?;
    let mut tasks = JoinSet::new();
    for node in state.agents() {
        let (node, state, paths, revision) = (node.clone(), state.clone(), paths.clone(), revision.clone());
        tasks.spawn(async move { on_node(&state, &paths, &node, &revision, mesh).await });
    }
    let mut missing = Vec::new();
    while let Some(result) = tasks.join_next().await {
        missing.extend(result.map_err(|error| Error::Failed(error.to_string()))??);
    }
    missing.sort_by(|a: &Lack, b| a.text.cmp(&b.text));
    Ok(missing)
}

async fn status(paths: &Paths, node: &Node) -> Result<NodeStatus, String> {
    let answer = Client::new(paths.socket(&node.name)).with_timeout(PATIENCE).get("/v1/status").await;
    answer.map_err(|error| {
        if has_ended(paths, node) {
            let text = std::fs::read_to_string(paths.log(&node.name)).unwrap_or_default();
            let last = text.lines().last().unwrap_or("(nothing)");
            format!("{}: the agent has ended; the last line of its log was: {last}", node.name)
        } else {
            format!("{}: the agent does not answer: {error}", node.name)
        }
    })
}

async fn on_node(state: &State, paths: &Paths, node: &Node, revision: &str, mesh: bool) -> Result<Vec<Lack>, Error> {
    let name = &node.name;
    let status = match status(paths, node).await {
        Ok(status) => status,
        Err(reason) => return Ok(vec![Lack::answer(paths, node, reason)]),
    };
    let mut missing = Vec::new();
    if status.programmed_revision != revision {
        let problems =
            if status.problems.is_empty() { String::new() } else { format!(" ({})", status.problems.join("; ")) };
        missing.push(format!("{name}: the kernel does not have the datastore's revision yet{problems}"));
    }
    if mesh && !node.no_bgp {
        match Client::new(paths.socket(name)).with_timeout(PATIENCE).get::<Vec<BgpPeer>>("/v1/bgp/peers").await {
            Ok(peers) => missing.extend(sessions(state, paths, node, &peers)),
            Err(error) => missing.push(format!("{name}: no list of BGP peers: {error}")),
        }
    }
    match Client::new(paths.socket(name)).with_timeout(PATIENCE).get::<Vec<Route>>("/v1/routes").await {
        Ok(routes) => missing.extend(overlays(name, &routes)),
        Err(error) => missing.push(format!("{name}: no list of routes: {error}")),
    }
    if missing.is_empty() {
        missing = routes(state, paths, node, mesh).await?;
    }
    Ok(missing.into_iter().map(Lack::yet).collect())
}

/// Routes through overlays that are not as they should be yet: until then, the ones before them lead as they led.
fn overlays(node: &str, routes: &[Route]) -> Vec<String> {
    let late = routes.iter().filter(|route| route.source == "tunnel" && route.state != "present");
    late.map(|route| {
        let reason = route.reason.as_deref().unwrap_or("it is being written");
        format!("{node}: the route to {}: {reason}", route.destination)
    })
    .collect()
}

/// Sessions with other agents that run and are not up. Either family's session will do: one carries both.
fn sessions(state: &State, paths: &Paths, node: &Node, peers: &[BgpPeer]) -> Vec<String> {
    let mut missing = Vec::new();
    for other in state.agents().filter(|other| other.name != node.name && !other.no_bgp && !has_ended(paths, other)) {
        let theirs = |peer: &&BgpPeer| [other.ipv4.addr(), other.ipv6.addr()].contains(&peer.peer);
        if peers.iter().filter(theirs).any(|peer| peer.state == "Established") {
            continue;
        }
        let (from, to) = (&node.name, &other.name);
        missing.push(match peers.iter().find(theirs) {
            Some(peer) if peer.last_error.is_empty() => format!("{from}: the BGP session with {to} is {}", peer.state),
            Some(peer) => format!("{from}: the BGP session with {to} is {} ({})", peer.state, peer.last_error),
            None => format!("{from}: there is no BGP session with {to}"),
        });
    }
    missing
}

/// Pods that this node's FIB does not lead to and should: its own, and with a mesh those of nodes whose agents run.
async fn routes(state: &State, paths: &Paths, node: &Node, mesh: bool) -> Result<Vec<String>, Error> {
    let net = Net::in_netns(&netns::open(&node.netns).map_err(Error::net)?).map_err(Error::net)?;
    let ours = net.routes(Some(TORTIE)).await.map_err(Error::net)?;
    let nodes: HashMap<&str, &Node> = state.nodes.iter().map(|node| (node.name.as_str(), node)).collect();
    let mut missing = Vec::new();
    let announced = |pod: &Pod| {
        let runs = |owner: &&Node| !owner.no_bgp && !has_ended(paths, owner);
        mesh && !node.no_bgp && nodes.get(pod.node.as_str()).is_some_and(runs)
    };
    for pod in state.pods.iter().filter(|pod| pod.node == node.name || announced(pod)) {
        for ip in &pod.ips {
            let covering = ours
                .iter()
                .filter(|route| route.destination.contains(ip))
                .max_by_key(|route| route.destination.prefix_len());
            let reason = match covering.map(|route| &route.kind) {
                None => Some("there is no route".to_owned()),
                Some(RouteKind::Device { .. } | RouteKind::Via { .. }) => {
                    let next = nodes.get(pod.node.as_str()).copied();
                    wrong_way(&net, node, next, *ip).await?
                }
                Some(_) => Some("there is only the block's own blackhole".to_owned()),
            };
            if let Some(reason) = reason {
                missing.push(format!("{}: {reason} to pod {} ({ip}, on {})", node.name, pod.full_name(), pod.node));
            }
        }
    }
    Ok(missing)
}

/// Why the kernel's choice of route does not lead to the pod, or `None`.
async fn wrong_way(net: &Net, node: &Node, owner: Option<&Node>, ip: IpAddr) -> Result<Option<String>, Error> {
    let Some(lookup) = net.lookup(ip).await.map_err(Error::net)? else {
        return Ok(Some("the kernel finds no route".to_owned()));
    };
    let Some(owner) = owner else { return Ok(None) };
    let through = lookup.interface.as_deref().filter(|name| is_vxlan(name));
    let direct = owner.name != node.name && (owner.bridge == node.bridge || through.is_some());
    let expected = match through {
        Some(device) => match end_of(owner, device, ip).await? {
            Some(end) => end,
            None => {
                return Ok(Some(format!("{} has no {device} with an address, which the route leads to", owner.name)));
            }
        },
        None if ip.is_ipv4() => owner.ipv4.addr(),
        None => owner.ipv6.addr(),
    };
    Ok(match lookup.via {
        Some(via) if direct && via != expected => Some(format!("the route goes via {via} and not {expected}")),
        None if direct => Some(format!("the route does not go via {expected}")),
        Some(via) if owner.name == node.name => Some(format!("the route goes via {via} and not to the pod")),
        _ => None,
    })
}

fn is_vxlan(device: &str) -> bool {
    Tunnel::ALL.iter().any(|tunnel| tunnel.is_vxlan() && tunnel.device() == device)
}

/// The address of a node's end of an overlay.
async fn end_of(node: &Node, device: &str, ip: IpAddr) -> Result<Option<IpAddr>, Error> {
    let net = Net::in_netns(&netns::open(&node.netns).map_err(Error::net)?).map_err(Error::net)?;
    let Some(link) = net.link(device).await.map_err(Error::net)? else { return Ok(None) };
    let addresses = net.addresses(link.index).await.map_err(Error::net)?;
    let is_end = |address: &IpAddr| address.is_ipv4() == ip.is_ipv4() && !is_link_local(*address);
    Ok(addresses.into_iter().map(|address| address.addr()).find(is_end))
}

const fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}
