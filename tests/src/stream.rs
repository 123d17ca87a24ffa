//! Numbered UDP packets between two sockets in network namespaces, both ways, 50 a second or more, and what arrived when.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::sockopt::RcvBufForce;

/// Time between two packets of one direction, where nothing else is said.
pub const GAP: Duration = Duration::from_millis(20);

/// Room for what arrives while the receiver waits for a busy machine: some seconds of the fastest stream.
const RECEIVE_BUFFER: usize = 8 << 20;

/// Runs `work` on a thread of its own inside a network namespace, given by name or path.
///
/// # Panics
/// When the namespace is not there, or `work` panics.
pub fn inside<T: Send>(netns: &str, work: impl FnOnce() -> T + Send) -> T {
    let path = if netns.starts_with('/') { netns.into() } else { Path::new("/run/netns").join(netns) };
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let file = File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            setns(&file, CloneFlags::CLONE_NEWNET).expect("the namespace can be entered");
            work()
        });
        thread.join().expect("the work in the namespace succeeds")
    })
}

/// Sent and arrived packets of one direction.
#[derive(Default)]
pub struct Log {
    sent: BTreeMap<u64, Instant>,
    arrived: BTreeMap<u64, Instant>,
}

impl Log {
    /// Packets sent in a stretch of time that never arrived.
    pub fn lost(&self, from: Instant, until: Instant) -> usize {
        self.sent.iter().filter(|(number, at)| (from..until).contains(at) && !self.arrived.contains_key(number)).count()
    }

    /// When the packets were sent, in a stretch of time, that never arrived. As cheap as the stretch is recent.
    pub fn lost_at(&self, from: Instant, until: Instant) -> impl Iterator<Item = Instant> {
        let recent = self.sent.iter().rev().take_while(move |(_, at)| **at >= from);
        recent.filter(move |(number, at)| **at < until && !self.arrived.contains_key(number)).map(|(_, at)| *at)
    }

    /// When those packets were sent that arrived.
    pub fn passed(&self) -> impl Iterator<Item = Instant> {
        self.arrived.keys().filter_map(|number| self.sent.get(number)).copied()
    }

    /// Packets sent in a stretch of time.
    pub fn sent(&self, from: Instant, until: Instant) -> usize {
        self.sent.values().filter(|at| (from..until).contains(at)).count()
    }

    /// Packets that arrived in a stretch of time.
    pub fn arrived(&self, from: Instant, until: Instant) -> usize {
        self.arrived.values().filter(|at| (from..until).contains(at)).count()
    }
}

/// A stream between a client and a server; stops when told to.
pub struct Stream {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    /// Client to server.
    pub forth: Arc<Mutex<Log>>,
    /// Server to client.
    pub back: Arc<Mutex<Log>>,
}

impl Stream {
    /// Starts a stream from `client` (netns, address) to `server` (netns, address, port). The server speaks only once it was spoken to:
    /// if its packet came first, the flow would be its own, and judged by what *it* may reach.
    ///
    /// # Panics
    /// When the sockets cannot be made.
    pub fn start(client: (&str, IpAddr), server: (&str, IpAddr, u16)) -> Self {
        Self::start_every(GAP, client, server, true)
    }

    /// The same with a server that never speaks.
    ///
    /// # Panics
    /// When the sockets cannot be made.
    pub fn start_one_way(client: (&str, IpAddr), server: (&str, IpAddr, u16)) -> Self {
        Self::start_every(GAP, client, server, false)
    }

    /// Starts a stream with this time between two packets of one direction. The server speaks only if it is to speak at all.
    ///
    /// # Panics
    /// When the sockets cannot be made.
    pub fn start_every(gap: Duration, client: (&str, IpAddr), server: (&str, IpAddr, u16), both: bool) -> Self {
        let socket = |netns: &str, address: SocketAddr| {
            let socket = inside(netns, || UdpSocket::bind(address)).expect("an address of the pod");
            nix::sys::socket::setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER).expect("room for packets");
            socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
            socket
        };
        let there = socket(server.0, (server.1, server.2).into());
        let here = socket(client.0, (client.1, 0).into());
        here.connect((server.1, server.2)).expect("a connected socket");
        there.connect(here.local_addr().expect("an address")).expect("a connected socket");
        let stop = Arc::new(AtomicBool::new(false));
        let (forth, back) = (Arc::default(), Arc::default());
        let mut threads = vec![
            sender(here.try_clone().expect("a handle"), Arc::clone(&forth), Arc::clone(&stop), gap, None),
            receiver(there.try_clone().expect("a handle"), Arc::clone(&forth), Arc::clone(&stop)),
            receiver(here, Arc::clone(&back), Arc::clone(&stop)),
        ];
        if both {
            threads.push(sender(there, Arc::clone(&back), Arc::clone(&stop), gap, Some(Arc::clone(&forth))));
        }
        Self { stop, threads, forth, back }
    }

    /// Stops sending and waits for the stragglers.
    ///
    /// # Panics
    /// When one of its threads did.
    pub fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("the stream's threads end");
        }
    }
}

fn sender(
    socket: UdpSocket,
    log: Arc<Mutex<Log>>,
    stop: Arc<AtomicBool>,
    gap: Duration,
    after: Option<Arc<Mutex<Log>>>,
) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let spoken_to = || after.as_ref().is_none_or(|log| !log.lock().expect("the log").arrived.is_empty());
        while !stop.load(Ordering::Relaxed) && !spoken_to() {
            std::thread::sleep(gap / 4);
        }
        for number in 0_u64.. {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            // A refusal (ICMP) of an earlier packet surfaces here; the stream goes on.
            log.lock().expect("the log").sent.insert(number, Instant::now());
            let _ = socket.send(&number.to_be_bytes());
            std::thread::sleep(gap);
        }
    })
}

fn receiver(socket: UdpSocket, log: Arc<Mutex<Log>>, stop: Arc<AtomicBool>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut ended: Option<Instant> = None;
        while ended.is_none_or(|at| at.elapsed() < Duration::from_millis(300)) {
            if ended.is_none() && stop.load(Ordering::Relaxed) {
                ended = Some(Instant::now());
            }
            let mut bytes = [0; 8];
            if matches!(socket.recv(&mut bytes), Ok(8)) {
                log.lock().expect("the log").arrived.insert(u64::from_be_bytes(bytes), Instant::now());
            }
        }
    })
}
