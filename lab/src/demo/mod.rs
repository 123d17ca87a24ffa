//! The main job in one command: three nodes boot and peer, pods get addresses and routes, six policies are applied one at a time, an
//! agent is killed under traffic and comes back, the pools move to an overlay and back, and everything is cleaned up.
//!
//! Nothing is taken on trust. After each policy four witnesses must agree on every pair: a table written by hand, the direct
//! evaluator of the API's semantics, the compiled ruleset walked by the interpreter, and real packets.

mod crash;
mod expected;
mod overlay;
mod stage;
mod traffic;
mod witness;

use std::time::Duration;

use tortie_admin::client::Client;
use tortie_admin::types::{BgpPeer, Route};

use self::stage::Stage;
use crate::state::State;
use crate::{Error, Lab, process, store};

pub use self::stage::Print;

/// The pods and namespaces of the story.
pub(crate) const CLUSTER: &str = include_str!("../../demo/cluster.yaml");

/// How long any step may take to be in force.
const PATIENCE: Duration = Duration::from_secs(60);

/// The policies, in the order of the story.
const POLICIES: [(&str, &str, &str); 6] = [
    ("a", "nobody reaches app=nginx", include_str!("../../demo/a.yaml")),
    ("b", "only app=demo reaches app=nginx", include_str!("../../demo/b.yaml")),
    ("c", "default deny for the whole namespace shop", include_str!("../../demo/c.yaml")),
    ("d", "pods of the namespace dev accept only their own namespace", include_str!("../../demo/d.yaml")),
    ("e", "app=myapp accepts only namespaces labelled role=prod", include_str!("../../demo/e.yaml")),
    ("f", "app=web accepts everyone on port 80, also from outside the cluster", include_str!("../../demo/f.yaml")),
];

/// Takes down what a demo left that was killed. A lab that somebody still uses stays, and is an error later.
pub fn clean_up_after_a_killed_one(lab: &Lab) -> Result<(), Error> {
    let Some(state) = State::load(lab.paths())? else { return Ok(()) };
    if state.owner.is_some_and(|owner| !process::is_alive(owner)) {
        lab.down()?;
    }
    Ok(())
}

/// Tells the story; whether everything was as expected. The caller takes the lab down if this ends early.
pub async fn run(lab: &Lab, print: Print) -> Result<bool, Error> {
    let mut stage = Stage::new(print);
    stage.block(
        "Tortie: a cluster of three nodes on this machine, made of network namespaces.\n\
         The agents are real, and so are the packets; nothing leaves the namespaces.\n",
    );
    boot(lab, &mut stage).await?;
    sessions(lab, &mut stage).await?;
    pods(lab, &mut stage).await?;
    routes(lab, &mut stage).await?;

    stage.begin("Who reaches whom, before any policy");
    witness::compare(lab, &mut stage, "").await?;
    for (letter, title, text) in POLICIES {
        stage.begin(&format!("Policy ({letter}): {title}"));
        stage.quote(text);
        let began = std::time::Instant::now();
        lab.apply_with(store::read_text(letter, text)?, PATIENCE, &|_| ()).await?;
        stage.line(&format!("in force on every node after {:.2} s", began.elapsed().as_secs_f64()));
        witness::compare(lab, &mut stage, letter).await?;
    }
    crash::run(lab, &mut stage).await?;
    // The last act: what a node has of an overlay that nobody uses any more goes only a while later.
    overlay::run(lab, &mut stage).await?;

    stage.begin("A clean end");
    let taken = lab.clone();
    tokio::task::spawn_blocking(move || taken.down()).await.map_err(|error| Error::Failed(error.to_string()))??;
    let left = tortie_felix_netlink::netns::list().map_err(Error::net)?;
    let left: Vec<&String> = left.iter().filter(|name| name.starts_with(&format!("{}_", lab.name()))).collect();
    if left.is_empty() && !lab.paths().root.exists() {
        stage.end("agents, namespaces, sockets and files are gone");
    } else {
        stage.fail(&format!("left behind: {left:?} {}", lab.paths().root.display()));
    }
    Ok(stage.close())
}

async fn boot(lab: &Lab, stage: &mut Stage) -> Result<(), Error> {
    stage.begin("Boot three nodes, each with its own agent");
    lab.up_with(Vec::new(), 3, PATIENCE).await?;
    let state = lab.state()?;
    let mut rows = vec![["NODE", "ADDRESS", "IPV6", "AGENT"].map(str::to_owned).to_vec()];
    rows.extend(state.nodes.iter().map(|node| {
        let pid = node.pid.map_or_else(String::new, |pid| format!("process {pid}"));
        vec![node.name.clone(), node.ipv4.to_string(), node.ipv6.to_string(), pid]
    }));
    stage.table(&rows);
    stage.end("three agents run, and each peers with the others");
    Ok(())
}

async fn sessions(lab: &Lab, stage: &mut Stage) -> Result<(), Error> {
    stage.begin("BGP: every node peers with every other");
    let mut rows = vec![["NODE", "PEER", "AS", "TYPE", "STATE", "SINCE"].map(str::to_owned).to_vec()];
    let state = lab.state()?;
    for node in state.agents() {
        let peers: Vec<BgpPeer> = ask(lab, &node.name, "/v1/bgp/peers").await?;
        rows.extend(peers.into_iter().map(|peer| {
            let name = peer.peer_name.map_or_else(|| peer.peer.to_string(), |name| format!("{} ({name})", peer.peer));
            vec![peer.node, name, peer.as_number.to_string(), peer.kind, peer.state, peer.since]
        }));
    }
    stage.table(&rows);
    let established = rows.iter().skip(1).filter(|row| row.get(4).is_some_and(|state| state == "Established")).count();
    if established != rows.len() - 1 || established < 6 {
        stage.fail("not every session is Established");
    }
    stage.end(&format!("{established} ends of sessions are Established"));
    Ok(())
}

async fn pods(lab: &Lab, stage: &mut Stage) -> Result<(), Error> {
    stage.begin("Four namespaces and ten pods, each wired by a CNI ADD");
    lab.apply_with(store::read_text("cluster.yaml", CLUSTER)?, PATIENCE, &|_| ()).await?;
    let state = lab.state()?;
    let mut rows = vec![["POD", "NODE", "IPV4", "IPV6", "PORTS"].map(str::to_owned).to_vec()];
    rows.extend(state.pods.iter().map(|pod| {
        let ip = |ipv6| pod.ip(ipv6).map_or_else(|| "-".to_owned(), |ip| ip.to_string());
        let ports: Vec<String> = pod.ports.iter().map(ToString::to_string).collect();
        vec![pod.full_name(), pod.node.clone(), ip(false), ip(true), ports.join(" ")]
    }));
    stage.table(&rows);
    if state.pods.iter().any(|pod| pod.ips.len() != 2) {
        stage.fail("not every pod has an address of each family");
    }
    stage.end("every pod has its addresses, and every node a route to every pod");
    Ok(())
}

async fn routes(lab: &Lab, stage: &mut Stage) -> Result<(), Error> {
    stage.begin("The routes of node1, as the kernel has them");
    let routes: Vec<Route> = ask(lab, "node1", "/v1/routes").await?;
    let mut rows = vec![["DESTINATION", "VIA", "DEVICE", "SOURCE", "STATE"].map(str::to_owned).to_vec()];
    rows.extend(routes.iter().map(|route| {
        let via = route.via.map_or_else(|| "-".to_owned(), |via| via.to_string());
        vec![route.destination.to_string(), via, route.device.clone(), route.source.clone(), route.state.clone()]
    }));
    stage.table(&rows);
    if routes.iter().any(|route| route.state != "present") {
        stage.fail("not every route is present");
    }
    stage.end("a route for each local pod, a blackhole for its own blocks, the other blocks by BGP");
    Ok(())
}

/// Asks the agent of a node.
async fn ask<T: serde::de::DeserializeOwned>(lab: &Lab, node: &str, path: &str) -> Result<T, Error> {
    let answer = Client::new(lab.paths().socket(node)).get(path).await;
    answer.map_err(|error| Error::Failed(format!("{node}: {error}")))
}
