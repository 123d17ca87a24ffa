//! What crosses the cluster while it is disturbed, and what of it may be missing.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tortie_tests::stream::{Stream, inside};

use crate::cluster::Cluster;

/// Who speaks with whom, by UDP and by TCP, while every policy of the history allows it.
const ALLOWED: [(&str, &str); 5] = [
    ("client1", "server1"),
    ("client1", "server2"),
    ("client2", "server3"),
    ("client3", "server1"),
    ("client3", "server2"),
];

/// Who tries in vain: the first three are not let in, the last two not let out.
const DENIED: [(&str, &str); 5] = [
    ("stranger1", "server1"),
    ("stranger2", "server1"),
    ("stranger3", "server2"),
    ("client2", "stranger2"),
    ("client1", "stranger3"),
];

/// A packet that is not there this long after it was sent is lost.
const LATEST: Duration = Duration::from_secs(2);

/// How long a permitted connection may take: a lost SYN is sent again after one and after three seconds.
const CONNECT: Duration = Duration::from_secs(5);

/// What a disturbance does to flows by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// It cuts flows that leave or enter the node; those between its own pods must go on.
    Crossing,
    /// It cuts all flows of the node.
    All,
    /// It lets denied ones through, and makes the kernel forget who spoke first.
    Opened,
}

/// A stretch of time in which a disturbance legitimately cuts flows, or lets them through.
#[derive(Debug, Clone)]
pub(crate) struct Hole {
    pub(crate) node: String,
    pub(crate) cut: Cut,
    pub(crate) from: Instant,
    pub(crate) until: Instant,
}

impl Hole {
    fn excuses(&self, flow: &Flow, sent: Instant) -> bool {
        let (from, to) = &flow.nodes;
        let concerned = match self.cut {
            Cut::Crossing => flow.allowed && from != to,
            Cut::All => flow.allowed,
            Cut::Opened => true,
        };
        concerned && (*from == self.node || *to == self.node) && (self.from..self.until).contains(&sent)
    }
}

struct Flow {
    title: String,
    nodes: (String, String),
    allowed: bool,
    stream: Stream,
    attempts: Attempts,
}

/// New connections, one after the other: when each was begun, and whether it was made.
struct Attempts {
    made: Arc<Mutex<Vec<(Instant, bool)>>>,
    thread: Option<JoinHandle<()>>,
}

pub(crate) struct Traffic {
    flows: Vec<Flow>,
    holes: Vec<Hole>,
    steps: Vec<(Instant, String)>,
    /// Everything sent before this has been looked at.
    checked: Instant,
    stop: Arc<AtomicBool>,
}

impl Traffic {
    pub(crate) fn start(cluster: &Cluster) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let checked = Instant::now();
        let mut flows = Vec::new();
        let pairs = ALLOWED.iter().map(|pair| (pair, true)).chain(DENIED.iter().map(|pair| (pair, false)));
        for (index, ((from, to), allowed)) in pairs.enumerate() {
            let (client, server) = (cluster.pod(from), cluster.pod(to));
            for v4 in [true, false] {
                let port = 7000 + u16::try_from(index * 2).expect("few flows") + u16::from(v4);
                let (here, there) = (client.ip(v4), server.ip(v4));
                // Who is spoken to although that is denied may speak first once nobody remembers, and that is allowed.
                let start = if allowed { Stream::start } else { Stream::start_one_way };
                let stream = start((&client.netns, here), (&server.netns, there, port));
                flows.push(Flow {
                    title: format!("{from} -> {to} {}", if v4 { "IPv4" } else { "IPv6" }),
                    nodes: (client.node.clone(), server.node.clone()),
                    allowed,
                    stream,
                    attempts: Attempts::start(&client.netns, there, allowed, Arc::clone(&stop)),
                });
            }
        }
        Self { flows, holes: Vec::new(), steps: Vec::new(), checked, stop }
    }

    /// A step begins.
    pub(crate) fn enter(&mut self, title: &str) {
        self.steps.push((Instant::now(), title.to_owned()));
    }

    /// Looks at all that had time to arrive.
    pub(crate) fn check(&mut self, title: &str, holes: Vec<Hole>) {
        self.holes.extend(holes);
        let until = Instant::now().checked_sub(LATEST).unwrap_or(self.checked);
        self.look(title, until);
    }

    /// Ends all flows and looks at the rest.
    pub(crate) fn stop(mut self, title: &str) {
        let until = Instant::now();
        self.stop.store(true, Ordering::Relaxed);
        for flow in &mut self.flows {
            flow.stream.stop();
            flow.attempts.thread.take().map(JoinHandle::join).transpose().expect("the connections' thread ends");
        }
        self.look(title, until);
        for flow in self.flows.iter().filter(|flow| flow.allowed) {
            assert!(!flow.attempts.made.lock().expect("the log").is_empty(), "{title}: {} never connected", flow.title);
        }
    }

    fn look(&mut self, title: &str, until: Instant) {
        let mut wrong = Vec::new();
        for flow in &self.flows {
            for (way, log) in [("forth", &flow.stream.forth), ("back", &flow.stream.back)] {
                let log = log.lock().expect("the log");
                if flow.allowed {
                    let lost: Vec<Instant> = log.lost_at(self.checked, until).collect();
                    wrong.extend(self.explain(flow, &format!("UDP {way}"), "lost", &lost));
                } else {
                    let passed: Vec<Instant> = log.passed().collect();
                    wrong.extend(self.explain(flow, &format!("denied UDP {way}"), "arrived", &passed));
                }
            }
            let mut made = flow.attempts.made.lock().expect("the log");
            let failed: Vec<Instant> =
                made.iter().filter(|(_, made)| *made != flow.allowed).map(|(at, _)| *at).collect();
            // The last stays, to show that there were any.
            let count = made.len().saturating_sub(1);
            made.drain(..count);
            let (way, what) = if flow.allowed { ("TCP", "failed") } else { ("denied TCP", "connected") };
            wrong.extend(self.explain(flow, way, what, &failed));
        }
        assert!(wrong.is_empty(), "found at {title}:\n  {}", wrong.join("\n  "));
        self.checked = until.max(self.checked);
    }

    /// A sentence about what is wrong outside of all holes.
    fn explain(&self, flow: &Flow, way: &str, what: &str, missing: &[Instant]) -> Option<String> {
        let unexcused: Vec<Instant> =
            missing.iter().copied().filter(|at| !self.holes.iter().any(|hole| hole.excuses(flow, *at))).collect();
        let (first, last) = (unexcused.iter().min()?, unexcused.iter().max()?);
        Some(format!(
            "{} ({} to {}) {way}: {} {what} within {:.2} s, the first {}",
            flow.title,
            flow.nodes.0,
            flow.nodes.1,
            unexcused.len(),
            (*last - *first).as_secs_f64(),
            self.when(*first)
        ))
    }

    /// In which step, and when in it.
    fn when(&self, at: Instant) -> String {
        match self.steps.iter().rev().find(|(began, _)| *began <= at) {
            Some((began, title)) => format!("{:.2} s into {title}", (at - *began).as_secs_f64()),
            None => "before the first step".to_owned(),
        }
    }
}

impl Attempts {
    fn start(netns: &str, to: IpAddr, allowed: bool, stop: Arc<AtomicBool>) -> Self {
        let made: Arc<Mutex<Vec<(Instant, bool)>>> = Arc::default();
        let log = Arc::clone(&made);
        let netns = netns.to_owned();
        let patience = if allowed { CONNECT } else { Duration::from_millis(200) };
        let work = move || {
            while !stop.load(Ordering::Relaxed) {
                let began = Instant::now();
                let connected = TcpStream::connect_timeout(&SocketAddr::from((to, 80)), patience).is_ok();
                log.lock().expect("the log").push((began, connected));
                std::thread::sleep(Duration::from_millis(150));
            }
        };
        Self { made, thread: Some(std::thread::spawn(move || inside(&netns, work))) }
    }
}
