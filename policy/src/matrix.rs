//! Who reaches whom: the verdict for every ordered pair of pods, by one of two witnesses.
//!
//! [`Engine::Compiled`] compiles the table of each node and walks a packet through the source's and then the destination's, as the
//! kernels would; [`Engine::Oracle`] asks the [`oracle`]. They must agree.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tortie_api::k8s::Protocol;
use tortie_nft::interpreter::{Conntrack, Interpreter, Outcome, Packet};
use tortie_nft::{Family, HookPoint};

use crate::cluster::PodView;
use crate::host_interface;
use crate::offline::{Offline, endpoints, name};
use crate::options::CompileOptions;
use crate::oracle::{CLIENT_PORT, End, Judge, Question, Traffic};

/// The interface by which packets leave a node and come to one, in the walk.
const UPLINK: &str = "eth0";

/// Who is asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Engine {
    /// The compiled rulesets, by the interpreter.
    #[default]
    Compiled,
    /// The direct evaluator.
    Oracle,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// The ports; none for each destination's own declared ports, or TCP/80 if it declares none.
    pub ports: Option<Vec<(Protocol, u16)>>,
    /// The family; a pair without a common address of it has no row.
    pub family: Family,
    /// Who is asked.
    pub engine: Engine,
}

impl Default for Query {
    fn default() -> Self {
        Self { ports: None, family: Family::V4, engine: Engine::Compiled }
    }
}

/// The answer for one pair of pods on one port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Row {
    /// Who begins, `NAMESPACE/POD`.
    pub from: String,
    /// To whom, `NAMESPACE/POD`.
    pub to: String,
    /// Over what.
    pub protocol: Protocol,
    /// To which port.
    pub port: u16,
    /// What becomes of it.
    pub verdict: Verdict,
}

/// Allow or deny.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It passes.
    Allow,
    /// It does not.
    Deny,
}

impl From<bool> for Verdict {
    fn from(allowed: bool) -> Self {
        if allowed { Self::Allow } else { Self::Deny }
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        })
    }
}

/// Why there is no matrix.
#[derive(Debug, Error)]
pub enum Error {
    /// A compiled ruleset cannot be walked: a defect of the compiler.
    #[error("the ruleset of node {node} cannot be interpreted, which is a defect of this program: {source}")]
    Ruleset {
        /// The node.
        node: String,
        /// What is wrong with it.
        source: tortie_nft::interpreter::Error,
    },
}

/// A row for every ordered pair of pods, in the order of names, and every port asked for. A pod always reaches itself.
///
/// # Errors
/// [`Error::Ruleset`], if the compiler made something that the kernel would not take.
pub fn matrix(offline: &Offline, query: &Query) -> Result<Vec<Row>, Error> {
    let witness = match query.engine {
        Engine::Compiled => Witness::Compiled(Nodes::new(offline)?),
        Engine::Oracle => Witness::Oracle(Judge::new(offline.world())),
    };
    let cluster = offline.cluster();
    let pods: Vec<PodView<'_>> = endpoints(cluster).filter(|pod| pod.speaks(query.family)).collect();
    let ports: Vec<Vec<(Protocol, u16)>> =
        pods.iter().map(|pod| query.ports.clone().unwrap_or_else(|| declared(*pod))).collect();
    let mut rows = Vec::new();
    for &from in &pods {
        for (&to, ports) in pods.iter().zip(&ports) {
            for &(protocol, port) in ports {
                let allowed = from == to || witness.allows(&Ask { from, to, protocol, port, family: query.family });
                rows.push(Row { from: name(from), to: name(to), protocol, port, verdict: allowed.into() });
            }
        }
    }
    Ok(rows)
}

/// A destination's own ports, each once: TCP/80 if it declares none.
fn declared(pod: PodView<'_>) -> Vec<(Protocol, u16)> {
    let ports: BTreeSet<_> = pod.ports().iter().map(|port| (port.protocol, port.number)).collect();
    if ports.is_empty() { vec![(Protocol::Tcp, 80)] } else { ports.into_iter().collect() }
}

impl PodView<'_> {
    /// Whether the pod has an address of the family, or may: it has none yet.
    fn speaks(self, family: Family) -> bool {
        self.ips().next().is_none() || self.address(family).is_some()
    }

    fn address(self, family: Family) -> Option<IpAddr> {
        self.ips().find(|ip| ip.is_ipv4() == (family == Family::V4))
    }
}

/// One question.
struct Ask<'a> {
    from: PodView<'a>,
    to: PodView<'a>,
    protocol: Protocol,
    port: u16,
    family: Family,
}

enum Witness<'a> {
    Compiled(Nodes<'a>),
    Oracle(Judge<'a>),
}

impl Witness<'_> {
    fn allows(&self, ask: &Ask<'_>) -> bool {
        match self {
            Self::Compiled(nodes) => nodes.allows(ask),
            Self::Oracle(judge) => {
                let end =
                    |pod: PodView<'_>| End::Pod { namespace: pod.namespace().to_string(), name: pod.name().to_owned() };
                let traffic = Traffic::to_port(ask.protocol, ask.port);
                let question = Question { from: end(ask.from), to: end(ask.to), traffic, family: Some(ask.family) };
                judge.verdict(&question).is_ok_and(|decision| decision.allowed)
            }
        }
    }
}

/// The compiled tables of all nodes, and where each pod is.
struct Nodes<'a> {
    offline: &'a Offline,
    tables: BTreeMap<&'a str, Interpreter>,
}

impl<'a> Nodes<'a> {
    fn new(offline: &'a Offline) -> Result<Self, Error> {
        let options = CompileOptions::default();
        let mut tables = BTreeMap::new();
        for node in offline.nodes() {
            let table = Interpreter::new(&offline.ruleset_for_matrix(node, &options))
                .map_err(|source| Error::Ruleset { node: node.to_owned(), source })?;
            tables.insert(node, table);
        }
        Ok(Self { offline, tables })
    }

    /// Sends the first packet of a flow on its way: through the source's node, and the destination's where that is another one.
    fn allows(&self, ask: &Ask<'_>) -> bool {
        let address = |pod: PodView<'_>| {
            let cluster = self.offline.matrix_cluster();
            cluster.pod(pod.namespace(), pod.name())?.address(ask.family)
        };
        let (Some(saddr), Some(daddr)) = (address(ask.from), address(ask.to)) else { return false };
        let interface = |pod: PodView<'_>| host_interface(pod.namespace(), pod.name());
        let (source, destination) = (self.offline.node_of(ask.from), self.offline.node_of(ask.to));
        let same = source == destination;
        let (first, last) = (interface(ask.from), interface(ask.to));
        let hops = if same {
            vec![(source, first, last)]
        } else {
            vec![(source, first, UPLINK.to_owned()), (destination, UPLINK.to_owned(), last)]
        };
        hops.into_iter().all(|(node, iif, oif)| {
            let packet = Packet {
                iif,
                oif: String::new(),
                saddr,
                daddr,
                l4proto: ask.protocol.number(),
                sport: Some(CLIENT_PORT),
                dport: Some(ask.port),
                icmp: None,
                ct: Conntrack::NEW,
                dnat: false,
            };
            self.tables.get(node).is_some_and(|table| forwards(table, packet, oif))
        })
    }
}

/// Whether a node forwards the packet.
fn forwards(table: &Interpreter, mut packet: Packet, oif: String) -> bool {
    if table.run(HookPoint::Prerouting, &mut packet) == Outcome::Drop {
        return false;
    }
    packet.oif = oif;
    table.run(HookPoint::Forward, &mut packet) == Outcome::Accept
}
