//! The responders: one process a lab that answers on every pod's ports with the pod's name.
//!
//! A socket belongs to the network namespace it was made in, for good. So a thread enters the pod's namespace, opens the listening
//! sockets there and ends, and the process serves all of them from wherever it runs. UDP probes carry a number, and the process
//! remembers which arrived: that tells a policy that dropped a datagram from an answer that was lost.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, UdpSocket, UnixListener, UnixStream};
use tokio::task::AbortHandle;
use tortie_api::k8s::Protocol;
use tortie_felix_netlink::netns;

use crate::Error;
use crate::control::{Failure, Listening, Request, Response};
use crate::ports::Port;

/// What a UDP probe's payload begins with; its number follows, eight bytes, big endian.
pub const PROBE: &[u8] = b"tortie-probe ";

/// The payload of a UDP probe.
pub fn probe_payload(number: u64) -> Vec<u8> {
    [PROBE, &number.to_be_bytes()].concat()
}

/// The number of a UDP probe.
fn probe_number(payload: &[u8]) -> Option<u64> {
    payload.strip_prefix(PROBE)?.try_into().ok().map(u64::from_be_bytes)
}

/// How many probes are remembered; the oldest are forgotten first.
const MEMORY: usize = 1 << 20;

/// The UDP probes that arrived.
#[derive(Default)]
struct Arrivals {
    order: VecDeque<u64>,
    known: HashSet<u64>,
}

impl Arrivals {
    fn note(&mut self, number: u64) {
        if self.known.insert(number) {
            self.order.push_back(number);
            if self.order.len() > MEMORY
                && let Some(oldest) = self.order.pop_front()
            {
                self.known.remove(&oldest);
            }
        }
    }
}

/// Every open port, and what arrived.
#[derive(Default)]
struct Server {
    pods: HashMap<String, BTreeMap<Port, AbortHandle>>,
    arrivals: Arc<Mutex<Arrivals>>,
}

/// Serves until killed. The control socket is at `socket`.
pub async fn serve(socket: &Path) -> Result<(), Error> {
    let _ = std::fs::remove_file(socket);
    let listener = UnixListener::bind(socket).map_err(|error| Error::io("listen at", socket, error))?;
    raise_descriptor_limit();
    let server = Arc::new(tokio::sync::Mutex::new(Server::default()));
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let server = Arc::clone(&server);
                tokio::spawn(async move {
                    if let Err(error) = answer(stream, &server).await {
                        tracing::warn!("control connection: {error}");
                    }
                });
            }
            Err(error) => {
                tracing::warn!("accept: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!("the limit of open files stays as it is: {error}");
    }
}

async fn answer(stream: UnixStream, server: &tokio::sync::Mutex<Server>) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 0 {
        let request: Request = serde_json::from_str(&line)?;
        let response = server.lock().await.handle(request);
        let mut text = serde_json::to_vec(&response)?;
        text.push(b'\n');
        stream.write_all(&text).await?;
        line.clear();
    }
    Ok(())
}

impl Server {
    fn handle(&mut self, request: Request) -> Response {
        let mut response = Response::default();
        match request {
            Request::Ensure(pods) => {
                for pod in pods {
                    response.failed.extend(self.ensure(pod));
                }
            }
            Request::Remove(pods) => {
                for pod in pods {
                    for task in self.pods.remove(&pod).unwrap_or_default().into_values() {
                        task.abort();
                    }
                }
            }
            Request::Arrived(numbers) => {
                let arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
                response.arrived = numbers.into_iter().filter(|number| arrivals.known.contains(number)).collect();
            }
        }
        response
    }

    fn ensure(&mut self, pod: Listening) -> Vec<Failure> {
        let open = self.pods.entry(pod.pod.clone()).or_default();
        let wanted: Vec<Port> = pod.ports.into_iter().filter(|port| !open.contains_key(port)).collect();
        if wanted.is_empty() {
            return Vec::new();
        }
        let failure =
            |port: Port, reason: String, unsupported: bool| Failure { pod: pod.pod.clone(), port, reason, unsupported };
        let sockets = netns::open(&pod.netns)
            .and_then(|netns| netns.run(|| wanted.iter().map(|port| (*port, bind(*port))).collect::<Vec<_>>()));
        let sockets = match sockets {
            Ok(sockets) => sockets,
            Err(error) => {
                return wanted.into_iter().map(|port| failure(port, error.to_string(), false)).collect();
            }
        };
        let mut failed = Vec::new();
        for (port, socket) in sockets {
            match socket.and_then(|socket| start(port, socket, &pod.pod, &self.arrivals)) {
                Ok(task) => {
                    open.insert(port, task);
                }
                Err(error) => {
                    let unsupported = error.raw_os_error() == Some(nix::libc::EPROTONOSUPPORT);
                    failed.push(failure(port, error.to_string(), unsupported));
                }
            }
        }
        failed
    }
}

/// A socket of the calling thread's network namespace, bound to the port on every address of both families.
fn bind(port: Port) -> io::Result<Socket> {
    let any: [(Domain, SocketAddr); 2] = [
        (Domain::IPV6, (Ipv6Addr::UNSPECIFIED, port.port).into()),
        (Domain::IPV4, (Ipv4Addr::UNSPECIFIED, port.port).into()),
    ];
    let mut result = Err(io::ErrorKind::Unsupported.into());
    for (domain, address) in any {
        result = bind_to(port.protocol, domain, address);
        // A namespace without IPv6 refuses the address; then IPv4 alone it is.
        let no_family = |error: &io::Error| {
            matches!(error.raw_os_error(), Some(nix::libc::EAFNOSUPPORT | nix::libc::EADDRNOTAVAIL))
        };
        if !result.as_ref().is_err_and(no_family) {
            break;
        }
    }
    result
}

fn bind_to(protocol: Protocol, domain: Domain, address: SocketAddr) -> io::Result<Socket> {
    let kind = if protocol == Protocol::Udp { Type::DGRAM } else { Type::STREAM };
    let socket = Socket::new(domain, kind, Some(i32::from(protocol.number()).into()))?;
    if domain == Domain::IPV6 {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    if kind == Type::STREAM {
        socket.set_reuse_address(true)?;
    }
    socket.bind(&address.into())?;
    if kind == Type::STREAM {
        socket.listen(1024)?;
    }
    Ok(socket)
}

fn start(port: Port, socket: Socket, pod: &str, arrivals: &Arc<Mutex<Arrivals>>) -> io::Result<AbortHandle> {
    let name: Arc<str> = pod.into();
    let task = if port.protocol == Protocol::Udp {
        tokio::spawn(serve_datagrams(UdpSocket::from_std(socket.into())?, name, Arc::clone(arrivals)))
    } else {
        // SCTP's one-to-one sockets listen, accept and read as TCP's do.
        tokio::spawn(serve_streams(TcpListener::from_std(socket.into())?, name))
    };
    Ok(task.abort_handle())
}

async fn serve_streams(listener: TcpListener, name: Arc<str>) {
    loop {
        match listener.accept().await {
            Ok((mut stream, _)) => {
                let name = Arc::clone(&name);
                tokio::spawn(async move {
                    // A prober that went away is no matter.
                    let _ = stream.write_all(name.as_bytes()).await;
                    let _ = stream.shutdown().await;
                });
            }
            Err(error) => {
                tracing::warn!("{name}: accept: {error}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

async fn serve_datagrams(socket: UdpSocket, name: Arc<str>, arrivals: Arc<Mutex<Arrivals>>) {
    let mut buffer = [0; 2048];
    loop {
        // An error here is the ICMP answer to an earlier datagram: its sender went away.
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
        if let Some(number) = probe_number(&buffer[..length]) {
            arrivals.lock().unwrap_or_else(PoisonError::into_inner).note(number);
        }
        let _ = socket.send_to(name.as_bytes(), from).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_carry_their_number() {
        assert_eq!(probe_number(&probe_payload(u64::MAX - 1)), Some(u64::MAX - 1));
        assert_eq!(probe_number(b"tortie-probe 123"), None);
        assert_eq!(probe_number(b"hello"), None);
    }

    #[test]
    fn the_oldest_arrivals_are_forgotten() {
        let mut arrivals = Arrivals::default();
        (0..=MEMORY as u64).for_each(|number| arrivals.note(number));
        assert!(!arrivals.known.contains(&0));
        assert!(arrivals.known.contains(&1) && arrivals.known.contains(&(MEMORY as u64)));
    }
}
