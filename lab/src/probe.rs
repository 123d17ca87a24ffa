//! The prober: real packets from a socket in the source's network namespace to a pod's address.
//!
//! All probes of one source run on one thread inside its namespace, all sources at once, and at most `jobs` tries are in flight
//! altogether. Every try has a socket, and so a source port, of its own.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use socket2::{Domain, Socket, Type};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpSocket, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use tortie_api::k8s::Protocol;
use tortie_felix_netlink::netns;

use crate::Error;
use crate::control::{self, Request};
use crate::ports::Port;
use crate::responder::probe_payload;
use crate::verdict::{Outcome, Row, judge, wants_retry};

/// Tries before a denial counts.
const TRIES: usize = 2;

/// One pair to probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// How the source is called in the row.
    pub from: String,
    /// The source's network namespace.
    pub netns: String,
    /// `NAMESPACE/NAME` of the destination.
    pub to: String,
    /// The destination's address.
    pub address: IpAddr,
    /// The port.
    pub port: Port,
}

/// How to probe.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// How many tries may be in flight at once.
    pub jobs: usize,
    /// How long a try waits.
    pub timeout: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { jobs: 256, timeout: Duration::from_secs(1) }
    }
}

/// What is known of a target after its tries.
struct Seen {
    index: usize,
    numbers: Vec<u64>,
    outcomes: Vec<Outcome>,
}

/// Probes every target; the rows come in the targets' order. `responders` is the control socket of the responders.
pub async fn run(targets: Vec<Target>, pace: Pace, responders: &Path) -> Result<Vec<Row>, Error> {
    let permits = Arc::new(Semaphore::new(pace.jobs.max(1)));
    let mut sources: BTreeMap<String, Vec<(usize, Target)>> = BTreeMap::new();
    for (index, target) in targets.iter().enumerate() {
        sources.entry(target.netns.clone()).or_default().push((index, target.clone()));
    }
    let mut threads = JoinSet::new();
    for (netns, targets) in sources {
        let permits = Arc::clone(&permits);
        threads.spawn_blocking(move || from_one_source(&netns, targets, pace.timeout, &permits));
    }
    let mut seen = Vec::with_capacity(targets.len());
    while let Some(result) = threads.join_next().await {
        seen.extend(result.map_err(|error| Error::Failed(format!("a prober ended early: {error}")))??);
    }
    let arrived = arrived(&seen, responders).await?;
    seen.sort_by_key(|seen| seen.index);
    Ok(seen.into_iter().map(|seen| row(&targets[seen.index], &seen, &arrived)).collect())
}

fn row(target: &Target, seen: &Seen, arrived: &HashSet<u64>) -> Row {
    let reached = seen.numbers.iter().any(|number| arrived.contains(number));
    let (verdict, reason) = judge(&target.to, &seen.outcomes, reached);
    Row {
        from: target.from.clone(),
        to: target.to.clone(),
        protocol: target.port.protocol,
        port: target.port.port,
        verdict,
        reason,
    }
}

/// Which of the unanswered datagrams reached their pod all the same.
async fn arrived(seen: &[Seen], responders: &Path) -> Result<HashSet<u64>, Error> {
    let unanswered = |seen: &&Seen| seen.outcomes.iter().all(wants_retry);
    let numbers: Vec<u64> = seen.iter().filter(unanswered).flat_map(|seen| &seen.numbers).copied().collect();
    if numbers.is_empty() {
        return Ok(HashSet::new());
    }
    Ok(control::call(responders, &Request::Arrived(numbers)).await?.arrived.into_iter().collect())
}

fn from_one_source(
    name: &str,
    targets: Vec<(usize, Target)>,
    patience: Duration,
    permits: &Arc<Semaphore>,
) -> Result<Vec<Seen>, Error> {
    let netns = netns::open(name).map_err(Error::net)?;
    let inside = || -> io::Result<Vec<Seen>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(async {
            let mut probes = JoinSet::new();
            for (index, target) in targets {
                let permits = Arc::clone(permits);
                probes.spawn(probe(index, target, patience, permits));
            }
            probes.join_all().await
        }))
    };
    netns.run(inside).map_err(Error::net)?.map_err(|error| Error::Failed(format!("probing from {name}: {error}")))
}

async fn probe(index: usize, target: Target, patience: Duration, permits: Arc<Semaphore>) -> Seen {
    let mut seen = Seen { index, numbers: Vec::new(), outcomes: Vec::new() };
    for _ in 0..TRIES {
        let Ok(_permit) = permits.acquire().await else { break };
        let number = fresh_number();
        let address = SocketAddr::new(target.address, target.port.port);
        let outcome = match target.port.protocol {
            Protocol::Udp => {
                seen.numbers.push(number);
                datagrams(address, number, patience).await
            }
            protocol => stream(protocol, address, patience).await,
        };
        let outcome = outcome.unwrap_or_else(|error| classify(&error));
        let again = wants_retry(&outcome);
        seen.outcomes.push(outcome);
        if !again {
            break;
        }
    }
    seen
}

/// A number that no other probe on this machine has: the time of the process's start and a count.
fn fresh_number() -> u64 {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    static START: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    let start = START.get_or_init(|| {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        (since.as_nanos() as u64).rotate_left(20) ^ u64::from(std::process::id())
    });
    start.wrapping_add(COUNT.fetch_add(1, Ordering::Relaxed))
}

fn classify(error: &io::Error) -> Outcome {
    match error.kind() {
        // EPERM is the source's own output hook.
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset | io::ErrorKind::PermissionDenied => {
            Outcome::Refused
        }
        io::ErrorKind::TimedOut => Outcome::Silent,
        _ if error.raw_os_error() == Some(nix::libc::EPROTONOSUPPORT) => {
            Outcome::Fault("this kernel does not have the protocol".to_owned())
        }
        _ => Outcome::Fault(error.to_string()),
    }
}

/// Connects and reads the name until the end of the stream.
async fn stream(protocol: Protocol, address: SocketAddr, patience: Duration) -> io::Result<Outcome> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(i32::from(protocol.number()).into()))?;
    socket.set_nonblocking(true)?;
    let socket = TcpSocket::from_std_stream(socket.into());
    let deadline = Instant::now() + patience;
    let Ok(connected) = timeout_at(deadline, socket.connect(address)).await else { return Ok(Outcome::Silent) };
    let mut stream = connected?;
    let mut name = Vec::new();
    // The other side has already agreed to talk; a busy machine may take its time to say what.
    let read = timeout(patience.max(Duration::from_secs(1)), (&mut stream).take(1024).read_to_end(&mut name)).await;
    Ok(match read {
        Ok(Ok(_)) if !name.is_empty() => Outcome::Answered(String::from_utf8_lossy(&name).into_owned()),
        _ => Outcome::Mute,
    })
}

/// Sends the same datagram up to three times and waits for the name.
async fn datagrams(address: SocketAddr, number: u64, patience: Duration) -> io::Result<Outcome> {
    let any: SocketAddr =
        if address.is_ipv4() { ([0; 4], 0).into() } else { (std::net::Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(address).await?;
    let payload = probe_payload(number);
    let start = Instant::now();
    let mut name = [0; 1024];
    for until in [patience / 4, patience / 2, patience] {
        socket.send(&payload).await?;
        if let Ok(received) = timeout_at(start + until, socket.recv(&mut name)).await {
            let length = received?;
            return Ok(Outcome::Answered(String::from_utf8_lossy(&name[..length]).into_owned()));
        }
    }
    Ok(Outcome::Silent)
}
