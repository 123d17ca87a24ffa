//! What is asked of a lab that is up: `ps`, `probe`, `exec`.

use std::collections::HashSet;
use std::ffi::OsString;
use std::net::IpAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sched::{CloneFlags, setns};
use serde::Serialize;
use tortie_admin::client::Client;
use tortie_admin::types::Endpoint;
use tortie_felix_netlink::{Net, netns};

use crate::control::{Failure, Listening, Request};
use crate::name::{self, Paths};
use crate::ports::Port;
use crate::probe::{self, Pace, Target};
use crate::state::{Pod, State};
use crate::verdict::{Row, Verdict};
use crate::{Error, Lab, process};

/// How the world outside the cluster is called.
pub const OUTSIDE: &str = "outside";

/// What a lab consists of: `lab ps -o json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ps {
    /// Nodes.
    pub nodes: Vec<PsNode>,
    /// Pods.
    pub pods: Vec<PsPod>,
    /// The fabric, as seen from the cluster.
    pub outside: Outside,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PsNode {
    /// The node's name.
    pub name: String,
    /// Its network namespace.
    pub netns: String,
    /// Its IPv4 address.
    pub ip: IpAddr,
    /// Its agent's process id; none where there is no agent, or it has ended.
    pub pid: Option<u32>,
    /// Its agent's admin socket; none where there is no agent.
    pub socket: Option<PathBuf>,
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PsPod {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The node it is on.
    pub node: String,
    /// Its network namespace.
    pub netns: String,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// Whether its node's agent has it, and the kernel its interface.
    pub ready: bool,
}

/// The world outside the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outside {
    /// Its network namespace.
    pub netns: String,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
}

fn load(lab: &str) -> Result<State, Error> {
    name::check_lab(lab)?;
    State::load(&Paths::new(lab))?.ok_or_else(|| Error::NotFound(lab.to_owned()))
}

/// What the lab consists of now.
pub async fn ps(lab: &str) -> Result<Ps, Error> {
    let state = load(lab)?;
    let paths = Paths::new(lab);
    let mut wired: HashSet<String> = HashSet::new();
    for node in state.agents() {
        // A dead agent's pods are not ready; that is the answer, and no error.
        let client = Client::new(paths.socket(&node.name));
        let endpoints: Vec<Endpoint> = client.get("/v1/endpoints").await.unwrap_or_default();
        // The agent knows what it wired, the kernel whether that is still there.
        let interfaces = interfaces(&node.netns).await?;
        let present = endpoints.into_iter().filter(|endpoint| interfaces.contains(&endpoint.host_interface));
        wired.extend(present.map(|endpoint| endpoint.container_id));
    }
    Ok(Ps {
        nodes: state
            .nodes
            .iter()
            .map(|node| PsNode {
                name: node.name.clone(),
                netns: node.netns.clone(),
                ip: node.ipv4.addr(),
                pid: if node.external { None } else { process::agent(&paths.run_dir(&node.name)) },
                socket: (!node.external).then(|| paths.socket(&node.name)),
            })
            .collect(),
        pods: state
            .pods
            .iter()
            .map(|pod| PsPod {
                namespace: pod.namespace.clone(),
                name: pod.name.clone(),
                node: pod.node.clone(),
                netns: pod.netns.clone(),
                ips: pod.ips.clone(),
                ready: !pod.ips.is_empty() && wired.contains(&pod.container_id),
            })
            .collect(),
        outside: Outside { netns: name::fabric_netns(lab), ips: state.outside() },
    })
}

/// The interfaces of a network namespace that are up.
async fn interfaces(netns: &str) -> Result<HashSet<String>, Error> {
    let net = Net::in_netns(&netns::open(netns).map_err(Error::net)?).map_err(Error::net)?;
    let links = net.links().await.map_err(Error::net)?;
    Ok(links.into_iter().filter(|link| link.up).map(|link| link.name).collect())
}

/// The network namespace of `outside`, a node, or `NAMESPACE/POD`.
fn netns_of(state: &State, place: &str) -> Result<String, Error> {
    let found = match place.split_once('/') {
        _ if place == OUTSIDE => Some(name::fabric_netns(&state.lab)),
        Some((namespace, name)) => state.pod(namespace, name).map(|pod| pod.netns.clone()),
        None => state.node(place).map(|node| node.netns.clone()),
    };
    found.ok_or_else(|| {
        Error::Failed(format!(
            "the lab {:?} has no {} {place:?}: see `tortie lab ps --lab {}`",
            state.lab,
            if place.contains('/') { "pod" } else { "node" },
            state.lab
        ))
    })
}

/// Becomes a command inside a node or a pod. Returns only if that fails.
pub fn exec(lab: &str, place: &str, command: &[OsString]) -> Error {
    let enter = || -> Result<Error, Error> {
        let path = Path::new("/run/netns").join(netns_of(&load(lab)?, place)?);
        let [program, arguments @ ..] = command else { return Err(Error::Usage("no command was given".to_owned())) };
        let file = std::fs::File::open(&path).map_err(|error| Error::io("open", &path, error))?;
        setns(&file, CloneFlags::CLONE_NEWNET).map_err(|errno| Error::io("enter", &path, errno.into()))?;
        Ok(Error::io("run", Path::new(program), Command::new(program).args(arguments).exec()))
    };
    enter().unwrap_or_else(|error| error)
}

/// Which pairs to probe, and how.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// `NAMESPACE/POD`, a node or `outside`; every pod without.
    pub from: Option<String>,
    /// `NAMESPACE/POD`; every pod without.
    pub to: Option<String>,
    /// The ports; each destination's declared ones without.
    pub ports: Option<Vec<Port>>,
    /// IPv6 instead of IPv4.
    pub ipv6: bool,
}

/// Probes: the rows of the matrix, by real packets.
pub async fn probe(lab: &Lab, wanted: &Wanted, pace: Pace) -> Result<Vec<Row>, Error> {
    let state = lab.state()?;
    let (targets, listening) = targets(&state, wanted)?;
    let response = lab.responders(&state, &Request::Ensure(listening)).await?;
    let mut rows = probe::run(targets, pace, &lab.paths().responder_socket()).await?;
    for row in &mut rows {
        amend(row, &response.failed);
    }
    Ok(rows)
}

/// Nothing listens where a port could not be opened, so silence there says nothing.
fn amend(row: &mut Row, failed: &[Failure]) {
    let port = Port { protocol: row.protocol, port: row.port };
    if let Some(failure) = failed.iter().find(|failure| failure.pod == row.to && failure.port == port) {
        row.verdict = Verdict::Error;
        row.reason = Some(format!("nothing listens on {port} in {}: {}", row.to, failure.reason));
    }
}

fn targets(state: &State, wanted: &Wanted) -> Result<(Vec<Target>, Vec<Listening>), Error> {
    let named = |place: &Option<String>| -> Result<Vec<&Pod>, Error> {
        let Some(place) = place else { return Ok(state.pods.iter().collect()) };
        netns_of(state, place)?;
        Ok(state.pods.iter().filter(|pod| pod.full_name() == *place).collect())
    };
    let sources: Vec<(String, String, Option<&Pod>)> = match &wanted.from {
        Some(place) if !place.contains('/') => vec![(place.clone(), netns_of(state, place)?, None)],
        place => named(place)?.into_iter().map(|pod| (pod.full_name(), pod.netns.clone(), Some(pod))).collect(),
    };
    if let Some(place) = wanted.to.as_ref().filter(|place| !place.contains('/')) {
        return Err(Error::Failed(format!("--to {place:?}: only pods are probed; name one as NAMESPACE/POD")));
    }
    let mut destinations = named(&wanted.to)?;
    destinations.sort_by_key(|pod| pod.full_name());
    let ports = |pod: &Pod| wanted.ports.clone().unwrap_or_else(|| pod.ports.clone());
    let mut sources = sources;
    sources.sort_by(|a, b| a.0.cmp(&b.0));
    let mut targets = Vec::new();
    for (name, netns, source) in &sources {
        for destination in &destinations {
            let Some(address) = destination.ip(wanted.ipv6) else { continue };
            if source.is_some_and(|source| source.ip(wanted.ipv6).is_none()) {
                continue;
            }
            targets.extend(ports(destination).into_iter().map(|port| Target {
                from: name.clone(),
                netns: netns.clone(),
                to: destination.full_name(),
                address,
                port,
            }));
        }
    }
    let listening = destinations
        .iter()
        .map(|pod| Listening { pod: pod.full_name(), netns: pod.netns.clone(), ports: ports(pod) })
        .collect();
    Ok((targets, listening))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tortie_api::k8s::Protocol;

    fn pod(name: &str, ips: &[&str]) -> Pod {
        Pod {
            namespace: "x".into(),
            name: name.into(),
            node: "node1".into(),
            netns: format!("lab_x_{name}"),
            container_id: "c".into(),
            ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
            pinned: Vec::new(),
            ports: vec![Port { protocol: Protocol::Tcp, port: 80 }],
        }
    }

    fn state() -> State {
        let pods = vec![pod("b", &["10.0.0.2", "fd00::2"]), pod("a", &["10.0.0.1"])];
        State { lab: "lab".into(), pods, ..State::default() }
    }

    #[test]
    fn every_ordered_pair_itself_included() {
        let (targets, listening) = targets(&state(), &Wanted::default()).unwrap();
        let pairs: Vec<(String, String)> =
            targets.iter().map(|target| (target.from.clone(), target.to.clone())).collect();
        let pair = |from: &str, to: &str| (format!("x/{from}"), format!("x/{to}"));
        assert_eq!(pairs, [pair("a", "a"), pair("a", "b"), pair("b", "a"), pair("b", "b")]);
        assert_eq!(listening.len(), 2);
    }

    #[test]
    fn no_common_family_no_row() {
        let (targets, _) = targets(&state(), &Wanted { ipv6: true, ..Wanted::default() }).unwrap();
        assert_eq!(targets.len(), 1);
        assert_eq!((targets[0].from.as_str(), targets[0].to.as_str()), ("x/b", "x/b"));
    }

    #[test]
    fn outside_is_a_source_and_no_destination() {
        let from = |place: &str| Wanted { from: Some(place.into()), ..Wanted::default() };
        let (found, _) = targets(&state(), &from("outside")).unwrap();
        assert!(found.len() == 2 && found.iter().all(|target| target.netns == "lab_fabric"));
        assert!(targets(&state(), &from("x/nobody")).is_err());
        assert!(targets(&state(), &from("node9")).is_err());
        assert!(targets(&state(), &Wanted { to: Some("outside".into()), ..Wanted::default() }).is_err());
    }

    #[test]
    fn silence_where_nothing_listens_is_an_error() {
        let mut row = Row {
            from: "x/a".into(),
            to: "x/b".into(),
            protocol: Protocol::Sctp,
            port: 80,
            verdict: Verdict::Deny,
            reason: None,
        };
        let failure = Failure {
            pod: "x/b".into(),
            port: Port { protocol: Protocol::Sctp, port: 80 },
            reason: "Protocol not supported".into(),
            unsupported: true,
        };
        amend(&mut row, &[failure]);
        assert_eq!(row.verdict, Verdict::Error);
    }
}
