//! Traffic for the time in which an agent is dead: a UDP stream, new TCP connections, and attempts at what a policy denies.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{interval, timeout};
use tortie_felix_netlink::netns;

use crate::Error;

/// Datagrams are this far apart.
const DATAGRAMS: Duration = Duration::from_millis(20);

/// New connections are this far apart.
const CONNECTIONS: Duration = Duration::from_millis(25);

/// How long an answer may take before it is lost.
const PATIENCE: Duration = Duration::from_secs(2);

/// What to send, and where.
#[derive(Debug, Clone)]
pub(super) struct Flow {
    /// The source's network namespace.
    pub(super) netns: String,
    /// The destination.
    pub(super) to: IpAddr,
    /// The TCP port of new connections.
    pub(super) tcp: u16,
    /// The UDP port of the stream; none for no stream.
    pub(super) udp: Option<u16>,
}

/// What became of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally {
    /// Datagrams sent.
    pub(super) sent: usize,
    /// Datagrams answered.
    pub(super) answered: usize,
    /// Connections tried.
    pub(super) tried: usize,
    /// Connections made, with the name read to its end.
    pub(super) made: usize,
}

/// Traffic under way.
pub(super) struct Traffic {
    stop: watch::Sender<bool>,
    flows: Vec<JoinHandle<Result<Tally, Error>>>,
}

impl Traffic {
    /// Starts all flows.
    pub(super) fn start(flows: Vec<Flow>) -> Self {
        let (stop, stopped) = watch::channel(false);
        let flows = flows
            .into_iter()
            .map(|flow| {
                let stopped = stopped.clone();
                tokio::task::spawn_blocking(move || run(&flow, &stopped))
            })
            .collect();
        Self { stop, flows }
    }

    /// Stops sending, waits for what is under way, and counts, in the order of the flows.
    pub(super) async fn stop(self) -> Result<Vec<Tally>, Error> {
        self.stop.send_replace(true);
        let mut tallies = Vec::new();
        for flow in self.flows {
            tallies.push(flow.await.map_err(|error| Error::Failed(format!("traffic ended early: {error}")))??);
        }
        Ok(tallies)
    }
}

fn run(flow: &Flow, stopped: &watch::Receiver<bool>) -> Result<Tally, Error> {
    let inside = || -> io::Result<Tally> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let (stream, connections) = tokio::join!(stream(flow, stopped.clone()), connections(flow, stopped.clone()));
            let ((sent, answered), (tried, made)) = (stream?, connections);
            Ok(Tally { sent, answered, tried, made })
        })
    };
    let netns = netns::open(&flow.netns).map_err(Error::net)?;
    netns
        .run(inside)
        .map_err(Error::net)?
        .map_err(|error| Error::Failed(format!("traffic from {}: {error}", flow.netns)))
}

/// Sends datagrams and counts the answers: one source port, one flow.
async fn stream(flow: &Flow, mut stopped: watch::Receiver<bool>) -> io::Result<(usize, usize)> {
    let Some(port) = flow.udp else { return Ok((0, 0)) };
    let socket = Arc::new(UdpSocket::bind("0.0.0.0:0").await?);
    socket.connect(SocketAddr::new(flow.to, port)).await?;
    let mut ticks = interval(DATAGRAMS);
    let (mut sent, mut answered) = (0, 0);
    let mut buffer = [0; 1024];
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                socket.send(b"stream").await?;
                sent += 1;
            }
            received = socket.recv(&mut buffer) => {
                // An ICMP error is a lost datagram, which the count tells.
                answered += usize::from(received.is_ok());
            }
            _ = stopped.changed() => break,
        }
    }
    while answered < sent && matches!(timeout(PATIENCE, socket.recv(&mut buffer)).await, Ok(Ok(_))) {
        answered += 1;
    }
    Ok((sent, answered))
}

/// Makes new connections, each on a port of its own, without waiting for the one before.
async fn connections(flow: &Flow, mut stopped: watch::Receiver<bool>) -> (usize, usize) {
    let address = SocketAddr::new(flow.to, flow.tcp);
    let mut ticks = interval(CONNECTIONS);
    let mut attempts = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                attempts.spawn(timeout(PATIENCE, connect(address)));
            }
            _ = stopped.changed() => break,
        }
    }
    let results = attempts.join_all().await;
    (results.len(), results.iter().filter(|result| matches!(result, Ok(Ok(())))).count())
}

async fn connect(address: SocketAddr) -> io::Result<()> {
    let mut name = Vec::new();
    TcpStream::connect(address).await?.read_to_end(&mut name).await?;
    if name.is_empty() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}
