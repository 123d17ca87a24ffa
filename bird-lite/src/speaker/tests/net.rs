//! A simulated network: speakers, connections between them that deliver in order after a millisecond, and one virtual clock. Whoever is
//! killed loses its connections as a killed process does: the other side sees their end.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::config::{Config, Originated, PeerConfig, PeerKind};
use crate::{Action, ConnectionId, Event, PeerView, Report, RibUpdate, RouteView, Speaker, State, Time};

const LATENCY: Duration = Duration::from_millis(1);

/// What one node keeps: its speaker, while it runs, and what it told of itself.
pub(super) struct Node {
    pub(super) config: Config,
    pub(super) speaker: Option<Speaker>,
    /// The FIB as the updates leave it. It survives the speaker.
    pub(super) fib: BTreeMap<String, Vec<IpAddr>>,
    /// What of it an earlier run left, and this one has not replaced.
    pub(super) kept: BTreeSet<String>,
    /// Every update since the last `take_updates`.
    updates: Vec<RibUpdate>,
    pub(super) reports: Vec<Report>,
    /// Pieces and bytes that it has sent.
    sent: (usize, usize),
    next_accepted: u64,
    listens: bool,
}

type End = (usize, ConnectionId);

pub(super) struct Net {
    pub(super) now: Time,
    pub(super) nodes: Vec<Node>,
    /// Other end of each connection.
    wires: HashMap<End, End>,
    /// By time and order of sending.
    queue: BTreeMap<(Time, u64), (usize, Event)>,
    sequence: u64,
    /// Bytes between these nodes vanish, as on a cut cable.
    pub(super) cut: Option<(usize, usize)>,
    /// Every event and action is turned into JSON and back on its way.
    pub(super) recorded: bool,
}

pub(super) fn address(node: usize) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(172, 31, 0, 1)) + node as u32)
}

pub(super) fn address6(node: usize) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, node as u16 + 1)
}

/// A node of a mesh, which originates a block of each family.
pub(super) fn mesh_config(node: usize, nodes: usize) -> Config {
    let mut config = Config::new(64512, address(node));
    config.next_hop_v4 = Some(address(node));
    config.next_hop_v6 = Some(address6(node));
    config.peers = (0..nodes)
        .filter(|other| *other != node)
        .map(|other| PeerConfig::new(format!("node{other}"), PeerKind::Mesh, address(other).into(), 64512))
        .collect();
    config.originate = [block(node), block6(node)].map(|prefix| Originated::from(parse(&prefix))).to_vec();
    config
}

pub(super) fn parse(prefix: &str) -> ipnet::IpNet {
    prefix.parse().expect("a prefix")
}

pub(super) fn block(node: usize) -> String {
    format!("10.{}.{}.0/26", 244 + node / 256, node % 256)
}

pub(super) fn block6(node: usize) -> String {
    format!("fd00:10:244:{:x}::/122", node + 1)
}

impl Net {
    pub(super) fn mesh(nodes: usize) -> Self {
        Self::new((0..nodes).map(|node| mesh_config(node, nodes)).collect())
    }

    /// Nodes with these configurations, none running yet.
    pub(super) fn new(configs: Vec<Config>) -> Self {
        let node = |config| Node {
            config,
            speaker: None,
            fib: BTreeMap::new(),
            kept: BTreeSet::new(),
            updates: Vec::new(),
            reports: Vec::new(),
            sent: (0, 0),
            next_accepted: 1,
            listens: true,
        };
        Self {
            now: Duration::ZERO,
            nodes: configs.into_iter().map(node).collect(),
            wires: HashMap::new(),
            queue: BTreeMap::new(),
            sequence: 0,
            cut: None,
            recorded: false,
        }
    }

    /// Starts a node's speaker. One that is restarting is told what the FIB holds; any other finds it empty.
    pub(super) fn start(&mut self, node: usize) {
        let found = &mut self.nodes[node];
        let mut config = found.config.clone();
        if !config.restarting {
            found.fib.clear();
        }
        found.kept = found.fib.keys().cloned().collect();
        config.kept = found.fib.iter().map(|(prefix, hops)| (parse(prefix), hops[0])).collect();
        self.nodes[node].speaker = Some(Speaker::new(self.now, config, node as u64));
        self.drain(node);
    }

    pub(super) fn start_all(&mut self) {
        (0..self.nodes.len()).for_each(|node| self.start(node));
    }

    pub(super) fn speaker(&mut self, node: usize) -> &mut Speaker {
        self.nodes[node].speaker.as_mut().expect("the node runs")
    }

    /// Gives a node a new configuration.
    pub(super) fn configure(&mut self, node: usize, change: impl FnOnce(&mut Config)) {
        let now = self.now;
        change(&mut self.nodes[node].config);
        let config = self.nodes[node].config.clone();
        self.speaker(node).configure(now, config);
        self.drain(node);
    }

    /// Runs on, with everybody's new configurations put into force one after the other, this far apart.
    pub(super) fn configure_in_turn(&mut self, apart: Duration, configs: Vec<Config>) {
        for (node, config) in configs.into_iter().enumerate() {
            self.configure(node, |old| *old = config);
            self.run(apart);
        }
    }

    /// The process dies; the kernel closes its connections.
    pub(super) fn kill(&mut self, node: usize) {
        self.nodes[node].speaker = None;
        let ends: Vec<End> = self.wires.keys().filter(|end| end.0 == node).copied().collect();
        for end in ends {
            self.close(end);
        }
    }

    /// The whole machine dies: nobody hears of it.
    pub(super) fn vanish(&mut self, node: usize) {
        self.nodes[node].speaker = None;
        self.wires.retain(|from, to| from.0 != node && to.0 != node);
    }

    fn send(&mut self, to: usize, event: Event) {
        self.sequence += 1;
        self.queue.insert((self.now + LATENCY, self.sequence), (to, event));
    }

    fn close(&mut self, end: End) {
        if let Some(other) = self.wires.remove(&end) {
            self.wires.remove(&other);
            self.send(other.0, Event::Closed { connection: other.1, error: None });
        }
    }

    fn act(&mut self, node: usize, action: Action) {
        match action {
            Action::Connect { connection, remote, .. } => {
                let peer = self.nodes.iter().position(|other| IpAddr::V4(other.config.router_id) == remote.ip());
                let from = SocketAddr::new(address(node).into(), 40_000);
                let up = peer.filter(|peer| self.nodes[*peer].speaker.is_some() && self.nodes[*peer].listens);
                let Some(peer) = up.filter(|peer| !self.is_cut(node, *peer)) else {
                    self.send(node, Event::ConnectFailed { connection, error: "refused".into() });
                    return;
                };
                let theirs = ConnectionId(self.nodes[peer].next_accepted);
                self.nodes[peer].next_accepted += 2;
                self.wires.insert((node, connection), (peer, theirs));
                self.wires.insert((peer, theirs), (node, connection));
                self.send(node, Event::Connected { connection, local: from });
                self.send(peer, Event::Accepted { connection: theirs, local: remote, remote: from });
            }
            Action::Send { connection, bytes } => {
                let count = bytes.len();
                let sent = &mut self.nodes[node].sent;
                *sent = (sent.0 + 1, sent.1 + count);
                if let Some(&(peer, theirs)) = self.wires.get(&(node, connection))
                    && !self.is_cut(node, peer)
                {
                    self.send(peer, Event::Received { connection: theirs, bytes });
                }
                self.send(node, Event::Sent { connection, bytes: count });
            }
            Action::Close { connection } => self.close((node, connection)),
            Action::Report(report) => self.nodes[node].reports.push(report),
        }
    }

    fn is_cut(&self, a: usize, b: usize) -> bool {
        self.cut.is_some_and(|(x, y)| (x, y) == (a, b) || (x, y) == (b, a))
    }

    fn drain(&mut self, node: usize) {
        loop {
            let Some(speaker) = &mut self.nodes[node].speaker else { return };
            assert!(speaker.is_on_schedule(), "a timer of node {node} was forgotten");
            if let Some(action) = speaker.poll_action() {
                let action = if self.recorded { replayed(&action) } else { action };
                self.act(node, action);
                continue;
            }
            let Some(update) = speaker.poll_rib_update() else { return };
            let node = &mut self.nodes[node];
            match &update {
                RibUpdate::Best { prefix, next_hops } => {
                    node.kept.remove(&prefix.to_string());
                    node.fib.insert(prefix.to_string(), next_hops.clone());
                }
                RibUpdate::Withdrawn { prefix } => drop(node.fib.remove(&prefix.to_string())),
                RibUpdate::Converged => {
                    let swept = std::mem::take(&mut node.kept);
                    node.fib.retain(|prefix, _| !swept.contains(prefix));
                }
            }
            node.updates.push(update);
        }
    }

    /// Runs until `duration` has passed.
    pub(super) fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            let event = self.queue.keys().next().map(|key| key.0);
            let timer = self.nodes.iter().filter_map(|node| node.speaker.as_ref()?.poll_timeout()).min();
            let Some(next) = event.into_iter().chain(timer).min().filter(|next| *next <= end) else { break };
            self.now = self.now.max(next);
            if event.is_some_and(|at| at <= self.now) {
                let Some((_, (node, event))) = self.queue.pop_first() else { break };
                let event = if self.recorded { replayed(&event) } else { event };
                let now = self.now;
                if let Some(speaker) = &mut self.nodes[node].speaker {
                    speaker.handle_event(now, event);
                    self.drain(node);
                }
                continue;
            }
            for node in 0..self.nodes.len() {
                let now = self.now;
                if let Some(speaker) = &mut self.nodes[node].speaker {
                    speaker.handle_timeout(now);
                    self.drain(node);
                }
            }
        }
        self.now = end;
    }

    pub(super) fn run_seconds(&mut self, seconds: u64) {
        self.run(Duration::from_secs(seconds));
    }

    pub(super) fn peer(&mut self, node: usize, other: usize) -> PeerView {
        let peers = self.speaker(node).peers();
        peers.into_iter().find(|peer| peer.address == IpAddr::V4(address(other))).expect("it is configured")
    }

    pub(super) fn is_up(&mut self, node: usize, other: usize) -> bool {
        self.peer(node, other).state == State::Established
    }

    pub(super) fn all_up(&mut self) -> bool {
        let nodes = self.nodes.len();
        (0..nodes).all(|a| (0..nodes).all(|b| a == b || self.is_up(a, b)))
    }

    pub(super) fn routes(&mut self, node: usize, prefix: &str) -> Vec<RouteView> {
        let prefix = parse(prefix);
        self.speaker(node).routes().into_iter().filter(|route| route.prefix == prefix).collect()
    }

    pub(super) fn take_updates(&mut self, node: usize) -> Vec<RibUpdate> {
        std::mem::take(&mut self.nodes[node].updates)
    }

    /// How many pieces and bytes a node has sent.
    pub(super) fn sent(&self, node: usize) -> (usize, usize) {
        self.nodes[node].sent
    }

    pub(super) fn hops(&self, node: usize, prefix: &str) -> Vec<IpAddr> {
        self.nodes[node].fib.get(prefix).cloned().unwrap_or_default()
    }
}

fn replayed<T: serde::Serialize + serde::de::DeserializeOwned>(value: &T) -> T {
    let text = serde_json::to_string(value).expect("it can be recorded");
    serde_json::from_str(&text).expect("and replayed")
}
