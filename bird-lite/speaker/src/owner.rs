//! The owner task: it holds the core, hands it events and commands with the time, and does what the core asks for.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tortie_bird_lite::wire::update::attribute_name;
use tortie_bird_lite::{Action, Config, ConnectionId, Event, PeerView, Report, RibUpdate, Speaker, Time};
use tracing::{debug, info, warn};

use crate::connection::{self, Order};
use crate::handle::{Command, PeerStatus, RestartStatus};
use crate::listener;
use crate::security::{self, Securities};

/// Inputs that may wait for the owner. A connection's input is up to 64 KiB.
const INBOX: usize = 64;
/// Of complaints that a stranger can cause, one in this time is logged.
const COMPLAINT_PAUSE: Duration = Duration::from_secs(10);

/// What other tasks send the owner.
#[derive(Debug)]
pub(crate) enum Input {
    /// As the core takes it.
    Event(Event),
    /// A connection that the core asked for is up.
    Connected { connection: ConnectionId, stream: TcpStream },
    /// A listener accepted a connection.
    Accepted { stream: TcpStream, remote: SocketAddr },
}

/// A connection as the owner sees it.
#[derive(Debug)]
enum Link {
    /// Its connector.
    Connecting(AbortHandle),
    /// Its orders.
    Up(mpsc::UnboundedSender<Order>),
}

/// The owner task's state.
#[derive(Debug)]
pub(crate) struct Owner {
    core: Speaker,
    started: Instant,
    started_at: SystemTime,
    listen: Vec<SocketAddr>,
    /// What sessions with peers need of the kernel, for the listeners too.
    securities: watch::Sender<Arc<Securities>>,
    commands: mpsc::Receiver<Command>,
    inbox: mpsc::Receiver<Input>,
    to_inbox: mpsc::Sender<Input>,
    routes: mpsc::Sender<RibUpdate>,
    links: HashMap<ConnectionId, Link>,
    listeners: HashMap<SocketAddr, AbortHandle>,
    /// Connectors and listeners, which die with the owner.
    helpers: JoinSet<()>,
    /// Connections.
    connections: JoinSet<()>,
    next_accepted: u64,
    refused: Complaint,
    malformed: Complaint,
}

/// A complaint that is not logged every time.
#[derive(Debug, Default)]
struct Complaint {
    last: Option<Instant>,
    suppressed: u64,
}

impl Complaint {
    /// Whether to log it now, and then how many were not.
    fn due(&mut self) -> Option<u64> {
        if self.last.is_some_and(|last| last.elapsed() < COMPLAINT_PAUSE) {
            self.suppressed += 1;
            return None;
        }
        self.last = Some(Instant::now());
        Some(std::mem::take(&mut self.suppressed))
    }
}

impl Owner {
    pub(crate) fn new(config: Config, commands: mpsc::Receiver<Command>, routes: mpsc::Sender<RibUpdate>) -> Self {
        let (to_inbox, inbox) = mpsc::channel(INBOX);
        // The standard library seeds its hashers from the system: enough for jitter.
        let seed = RandomState::new().hash_one(config.router_id);
        Self {
            listen: config.listen.clone(),
            securities: watch::Sender::new(Arc::new(Securities::new(&config))),
            core: Speaker::new(Time::ZERO, config, seed),
            started: Instant::now(),
            started_at: SystemTime::now(),
            commands,
            inbox,
            to_inbox,
            routes,
            links: HashMap::new(),
            listeners: HashMap::new(),
            helpers: JoinSet::new(),
            connections: JoinSet::new(),
            next_accepted: 1,
            refused: Complaint::default(),
            malformed: Complaint::default(),
        }
    }

    fn now(&self) -> Time {
        self.started.elapsed()
    }

    /// Runs until it is shut down or nobody holds a handle any more.
    pub(crate) async fn run(mut self) {
        self.set_listeners();
        let mut batch = Vec::with_capacity(INBOX);
        let done = loop {
            self.act();
            self.give_routes();
            let deadline = self.core.poll_timeout().map(|at| tokio::time::Instant::from_std(self.started + at));
            let far = tokio::time::Instant::now() + Duration::from_secs(3600);
            let mut command = None;
            tokio::select! {
                biased;
                received = self.commands.recv() => command = Some(received),
                _ = self.inbox.recv_many(&mut batch, INBOX) => {}
                permit = self.routes.reserve(), if self.core.has_rib_update() => match permit {
                    Ok(permit) => {
                        if let Some(update) = self.core.poll_rib_update() {
                            permit.send(update);
                        }
                    }
                    // Nobody wants to know.
                    Err(_) => while self.core.poll_rib_update().is_some() {},
                },
                () = tokio::time::sleep_until(deadline.unwrap_or(far)) => {}
            }
            for input in batch.drain(..) {
                self.take(input);
            }
            match command {
                None => {}
                Some(Some(Command::Shutdown { cease, done })) => {
                    self.core.shutdown(self.now(), cease);
                    break Some(done);
                }
                Some(Some(command)) => self.obey(command),
                // The last handle is gone.
                Some(None) => {
                    self.core.shutdown(self.now(), false);
                    break None;
                }
            }
            // All of them: a set keeps each task that has ended until somebody asks.
            while self.helpers.try_join_next().is_some() {}
            while self.connections.try_join_next().is_some() {}
            // After the inputs: a KEEPALIVE that has come counts against a hold timer that is due.
            let now = self.now();
            if self.core.poll_timeout().is_some_and(|at| at <= now) {
                self.core.handle_timeout(now);
            }
        };
        self.finish().await;
        if let Some(done) = done {
            let _ = done.send(());
        }
    }

    /// Closes everything that is open.
    async fn finish(mut self) {
        self.helpers.shutdown().await;
        self.act();
        self.links.clear();
        // Connections that still have something to say must not wait for room in an inbox that nobody empties.
        self.inbox.close();
        while self.connections.join_next().await.is_some() {}
    }

    fn take(&mut self, input: Input) {
        let now = self.now();
        match input {
            Input::Event(event) => {
                match &event {
                    Event::Closed { connection, .. } | Event::ConnectFailed { connection, .. } => {
                        self.links.remove(connection);
                    }
                    _ => {}
                }
                self.core.handle_event(now, event);
            }
            Input::Connected { connection, stream } => {
                // It was given up in the meantime.
                if !matches!(self.links.get(&connection), Some(Link::Connecting(_))) {
                    return;
                }
                match stream.local_addr() {
                    Ok(local) => {
                        self.serve(connection, stream);
                        self.core.handle_event(now, Event::Connected { connection, local });
                    }
                    Err(error) => {
                        self.links.remove(&connection);
                        self.core.handle_event(now, Event::ConnectFailed { connection, error: error.to_string() });
                    }
                }
            }
            Input::Accepted { stream, remote } => {
                let Ok(local) = stream.local_addr() else { return };
                let hops = self.securities.borrow().of(remote.ip()).hops;
                if let Some(Err(error)) = hops.map(|hops| security::set_hops(stream.as_fd(), local.is_ipv4(), hops)) {
                    warn!(%remote, %error, "cannot limit the hops of a BGP connection: it is closed");
                    return;
                }
                let connection = ConnectionId(self.next_accepted);
                self.next_accepted += 2;
                self.serve(connection, stream);
                self.core.handle_event(now, Event::Accepted { connection, local, remote });
            }
        }
    }

    fn serve(&mut self, connection: ConnectionId, stream: TcpStream) {
        let (orders, inbox) = mpsc::unbounded_channel();
        self.connections.spawn(connection::serve(connection, stream, self.to_inbox.clone(), inbox));
        self.links.insert(connection, Link::Up(orders));
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Configure(config) => {
                self.listen.clone_from(&config.listen);
                let securities = Securities::new(&config);
                self.securities.send_if_modified(|known| {
                    let changed = **known != securities;
                    *known = Arc::new(securities);
                    changed
                });
                self.core.configure(self.now(), *config);
                self.set_listeners();
            }
            Command::Peers(reply) => {
                let peers = self.core.peers().into_iter().map(|view| self.status(view)).collect();
                let _ = reply.send(peers);
            }
            Command::Restart(reply) => {
                let remaining = |deadline: Time| deadline.saturating_sub(self.now());
                let restart = self.core.deferral().map(|deferral| RestartStatus {
                    waiting: deferral.waiting,
                    unconfirmed: deferral.unconfirmed,
                    remaining: remaining(deferral.deadline),
                });
                let _ = reply.send(restart);
            }
            Command::Routes(reply) => {
                let _ = reply.send(self.core.routes());
            }
            Command::Shutdown { .. } => {}
        }
    }

    fn status(&self, view: PeerView) -> PeerStatus {
        let families = [("ipv4", view.ipv4), ("ipv6", view.ipv6)];
        let families = families.into_iter().filter_map(|(name, counts)| Some((name.to_owned(), counts?)));
        PeerStatus {
            name: view.name,
            kind: view.kind,
            address: view.address,
            remote_as: view.remote_as,
            state: view.state,
            since: self.started_at + view.since,
            families: families.collect::<BTreeMap<_, _>>(),
            last_error: view.last_error,
        }
    }

    /// Listens where the configuration says, and nowhere else.
    fn set_listeners(&mut self) {
        let wanted = &self.listen;
        self.listeners.retain(|address, task| {
            let keep = wanted.contains(address);
            if !keep {
                task.abort();
            }
            keep
        });
        for address in &self.listen {
            let (helpers, inbox, peers) = (&mut self.helpers, &self.to_inbox, &self.securities);
            let spawn = || helpers.spawn(listener::listen(*address, inbox.clone(), peers.subscribe()));
            self.listeners.entry(*address).or_insert_with(spawn);
        }
    }

    /// Does what the core asks for.
    fn act(&mut self) {
        while let Some(action) = self.core.poll_action() {
            match action {
                Action::Connect { connection, remote, local } => {
                    let security = self.securities.borrow().of(remote.ip());
                    let task = connection::connect(connection, remote, local, security, self.to_inbox.clone());
                    let task = self.helpers.spawn(task);
                    self.links.insert(connection, Link::Connecting(task));
                }
                Action::Send { connection, bytes } => {
                    if let Some(Link::Up(orders)) = self.links.get(&connection) {
                        // If it has ended, its Closed is on the way.
                        let _ = orders.send(Order::Write(bytes));
                    }
                }
                Action::Close { connection } => match self.links.remove(&connection) {
                    Some(Link::Connecting(task)) => task.abort(),
                    Some(Link::Up(orders)) => {
                        let _ = orders.send(Order::Close);
                    }
                    None => {}
                },
                Action::Report(report) => self.log(report),
            }
        }
    }

    /// Hands out routes for as long as the receiver has room.
    fn give_routes(&mut self) {
        while self.core.has_rib_update()
            && let Ok(permit) = self.routes.try_reserve()
            && let Some(update) = self.core.poll_rib_update()
        {
            permit.send(update);
        }
    }

    fn log(&mut self, report: Report) {
        match report {
            Report::Up { peer, address } => info!(peer, %address, "BGP session established"),
            Report::Down { peer, address, reason, retained: true } => {
                info!(peer, %address, reason, "BGP session down; its routes stay for its restart time");
            }
            Report::Down { peer, address, reason, retained: false } => {
                warn!(peer, %address, reason, "BGP session down");
            }
            Report::Failed { peer, address, reason } => debug!(peer, %address, reason, "BGP connection ended early"),
            Report::Refused { remote } => {
                if let Some(suppressed) = self.refused.due() {
                    warn!(%remote, suppressed, "refused a BGP connection: its address is no peer's");
                }
            }
            Report::Malformed { peer, address, attribute, verdict } => {
                if let Some(suppressed) = self.malformed.due() {
                    let name = attribute_name(attribute);
                    warn!(peer, %address, name, attribute, ?verdict, suppressed, "a BGP attribute is malformed");
                }
            }
            Report::Converged { missing } if missing.is_empty() => info!("BGP has converged after the restart"),
            Report::Converged { missing } => {
                warn!(?missing, "BGP goes on after the restart without these peers: they did not finish in time");
            }
        }
    }
}
