//! Running flows: numbered questions from one pod to another, each to be answered, over UDP, TCP, ICMP and SCTP.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use tortie_tests::stream::inside;

/// Time between two questions.
const GAP: Duration = Duration::from_millis(20);

/// How long a socket waits for anything before it looks whether it is to stop.
const TICK: Duration = Duration::from_millis(20);

/// SCTP (RFC 9260), which has no name in the standard library.
const SCTP: i32 = 132;

/// Over what questions and answers go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    Udp,
    Tcp,
    Icmp,
    Sctp,
}

impl Over {
    /// Those that this kernel has.
    pub(crate) fn all() -> Vec<Self> {
        let sctp = Socket::new(Domain::IPV4, Type::STREAM, Some(SCTP.into())).is_ok();
        if !sctp {
            println!("this kernel has no SCTP: its flows are left out");
        }
        let with = sctp.then_some(Self::Sctp);
        [Self::Udp, Self::Tcp, Self::Icmp].into_iter().chain(with).collect()
    }
}

/// When each question was asked, and which were answered.
#[derive(Default)]
struct Log {
    asked: Vec<Instant>,
    answered: BTreeMap<u64, Instant>,
}

/// A flow. It ends when told to, or when it is dropped.
pub(crate) struct Talk {
    pub(crate) over: Over,
    log: Arc<Mutex<Log>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Talk {
    /// Begins one from a pod's network namespace to a pod's address there.
    pub(crate) fn start(over: Over, client: &str, server: (&str, Ipv4Addr)) -> Self {
        let mut talk = Self { over, log: Arc::default(), stop: Arc::default(), threads: Vec::new() };
        match over {
            Over::Udp => talk.udp(client, server),
            Over::Tcp => talk.stream(client, server, Protocol::TCP),
            Over::Sctp => talk.stream(client, server, SCTP.into()),
            Over::Icmp => talk.icmp(client, server.1),
        }
        talk
    }

    /// How many questions were answered.
    pub(crate) fn answered(&self) -> usize {
        self.log.lock().expect("the log").answered.len()
    }

    /// How many questions that were asked after `since` were answered.
    pub(crate) fn answered_since(&self, since: Instant) -> usize {
        let log = self.log.lock().expect("the log");
        log.answered.keys().filter(|number| log.asked[**number as usize] > since).count()
    }

    /// How many questions were asked and never answered, but for those of the last moment.
    pub(crate) fn lost(&self, moment: Duration) -> usize {
        let log = self.log.lock().expect("the log");
        let Some(last) = log.asked.last() else { return 0 };
        let due = log.asked.iter().take_while(|asked| **asked + moment < *last).count();
        due - log.answered.keys().take_while(|number| (**number as usize) < due).count()
    }

    /// Ends the flow.
    pub(crate) fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }

    fn run(&mut self, work: impl FnOnce(&Run) + Send + 'static) {
        let run = Run { log: Arc::clone(&self.log), stop: Arc::clone(&self.stop) };
        self.threads.push(std::thread::spawn(move || work(&run)));
    }

    fn udp(&mut self, client: &str, (netns, address): (&str, Ipv4Addr)) {
        let socket = |netns: &str| inside(netns, || UdpSocket::bind("0.0.0.0:0").expect("a socket of the pod"));
        let (there, here) = (socket(netns), socket(client));
        let port = there.local_addr().expect("an address").port();
        here.connect((address, port)).expect("a connected socket");
        for socket in [&there, &here] {
            socket.set_read_timeout(Some(TICK)).expect("a timeout");
        }
        self.run(move |run| {
            let mut bytes = [0; 8];
            while run.goes_on() {
                if let Ok((8, from)) = there.recv_from(&mut bytes) {
                    let _ = there.send_to(&bytes, from);
                }
            }
        });
        let asking = here.try_clone().expect("a handle");
        self.run(move |run| run.ask(|number| drop(asking.send(&number.to_be_bytes()))));
        self.run(move |run| {
            let mut bytes = [0; 8];
            while run.goes_on() {
                if let Ok(8) = here.recv(&mut bytes) {
                    run.answered(u64::from_be_bytes(bytes));
                }
            }
        });
    }

    fn stream(&mut self, client: &str, (netns, address): (&str, Ipv4Addr), protocol: Protocol) {
        let socket = || Socket::new(Domain::IPV4, Type::STREAM, Some(protocol)).expect("a socket of the pod");
        let there = inside(netns, || {
            let socket = socket();
            socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)).into()).expect("a port");
            socket.listen(1).expect("it listens");
            socket
        });
        let port = there.local_addr().ok().and_then(|at| at.as_socket()).expect("an address").port();
        let here = inside(client, socket);
        here.connect_timeout(&SocketAddr::from((address, port)).into(), Duration::from_secs(20)).expect("it connects");
        let (accepted, _) = there.accept().expect("a connection");
        let [there, here] = [TcpStream::from(accepted), TcpStream::from(here)];
        for stream in [&there, &here] {
            stream.set_read_timeout(Some(TICK)).expect("a timeout");
            stream.set_write_timeout(Some(TICK)).expect("a timeout");
        }
        self.run(move |run| echo(there, run));
        let mut asking = here.try_clone().expect("a handle");
        self.run(move |run| run.ask(|number| drop(asking.write_all(&number.to_be_bytes()))));
        self.run(move |run| numbers(here, run));
    }

    fn icmp(&mut self, client: &str, address: Ipv4Addr) {
        static IDS: AtomicU16 = AtomicU16::new(1);
        let id = IDS.fetch_add(1, Ordering::Relaxed) ^ (std::process::id() as u16).rotate_left(8);
        let socket =
            inside(client, || Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).expect("a raw socket"));
        socket.set_read_timeout(Some(TICK)).expect("a timeout");
        let asking = socket.try_clone().expect("a handle");
        let to = SocketAddr::from((address, 0)).into();
        self.run(move |run| run.ask(|number| drop(asking.send_to(&echo_request(id, number as u16), &to))));
        self.run(move |run| {
            let mut bytes = [0; 256];
            while run.goes_on() {
                let Ok(1..) = (&socket).read(&mut bytes) else { continue };
                // Behind the IPv4 header: type, code, checksum, identifier, sequence number.
                let header = usize::from(bytes[0] & 15) * 4;
                if let Some([0, 0, _, _, a, b, c, d]) = bytes.get(header..header + 8)
                    && u16::from_be_bytes([*a, *b]) == id
                {
                    run.answered(u16::from_be_bytes([*c, *d]).into());
                }
            }
        });
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What a thread of a flow needs.
struct Run {
    log: Arc<Mutex<Log>>,
    stop: Arc<AtomicBool>,
}

impl Run {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// Asks one question after the other.
    fn ask(&self, mut send: impl FnMut(u64)) {
        for number in 0_u64.. {
            if !self.goes_on() {
                return;
            }
            self.log.lock().expect("the log").asked.push(Instant::now());
            // A refusal (ICMP) of an earlier question surfaces here; the flow goes on.
            send(number);
            std::thread::sleep(GAP);
        }
    }

    fn answered(&self, number: u64) {
        let mut log = self.log.lock().expect("the log");
        if (number as usize) < log.asked.len() {
            log.answered.insert(number, Instant::now());
        }
    }
}

/// Sends back all that comes, until the flow is to end.
fn echo(mut stream: TcpStream, run: &Run) {
    let mut bytes = [0; 512];
    while run.goes_on() {
        if let Ok(length @ 1..) = stream.read(&mut bytes) {
            let mut rest = &bytes[..length];
            while run.goes_on() && !rest.is_empty() {
                if let Ok(written) = stream.write(rest) {
                    rest = &rest[written..];
                }
            }
        }
    }
}

/// Takes the numbers out of a stream, however they are cut.
fn numbers(mut stream: TcpStream, run: &Run) {
    let mut bytes = Vec::new();
    let mut buffer = [0; 512];
    while run.goes_on() {
        match stream.read(&mut buffer) {
            Ok(length) => bytes.extend_from_slice(&buffer[..length]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => std::thread::sleep(TICK),
        }
        while let Some(number) = bytes.first_chunk::<8>() {
            run.answered(u64::from_be_bytes(*number));
            bytes.drain(..8);
        }
    }
}

/// An echo request (RFC 792).
pub(crate) fn echo_request(id: u16, sequence: u16) -> Vec<u8> {
    let mut message = vec![8, 0, 0, 0];
    message.extend(id.to_be_bytes());
    message.extend(sequence.to_be_bytes());
    let sum: u32 = message.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let checksum = !(((sum & 0xffff) + (sum >> 16)) as u16);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    message
}
