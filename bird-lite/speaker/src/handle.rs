//! How the rest of the agent talks to a running speaker: commands to its owner task, answered one by one.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tortie_bird_lite::{Awaited, Config, Counts, PeerKind, RouteView, State};

/// One peer and its session, in the terms of `tortie bgp peers`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its configured name.
    pub name: String,
    /// Where it comes from.
    pub kind: PeerKind,
    /// Its address.
    pub address: IpAddr,
    /// Its AS number.
    pub remote_as: u32,
    /// The state of its session.
    pub state: State,
    /// When the session entered that state.
    pub since: SystemTime,
    /// Counts by family, `ipv4` and `ipv6`, for those that the session carries.
    pub families: BTreeMap<String, Counts>,
    /// Why the last session or attempt ended; empty if none ever did.
    pub last_error: String,
}

/// A restart that is under way: the peers are telling us again what they know (RFC 4724, 4.1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartStatus {
    /// The peers that have not told all they know, with how they stand, in order of name.
    pub waiting: Vec<(String, Awaited)>,
    /// How many routes of the earlier run nobody has confirmed or replaced yet.
    pub unconfirmed: usize,
    /// In how much time these go at the latest.
    pub remaining: Duration,
}

/// A request to the owner task.
#[derive(Debug)]
pub(crate) enum Command {
    /// Run this configuration from now on.
    Configure(Box<Config>),
    /// Tell what the peers do.
    Peers(oneshot::Sender<Vec<PeerStatus>>),
    /// Tell whether a restart is under way.
    Restart(oneshot::Sender<Option<RestartStatus>>),
    /// Tell which paths there are.
    Routes(oneshot::Sender<Vec<RouteView>>),
    /// End, with Cease or without a word.
    Shutdown {
        /// Whether to send NOTIFICATION Cease, Administrative Shutdown.
        cease: bool,
        /// Answered when all sockets are closed.
        done: oneshot::Sender<()>,
    },
}

/// A speaker that runs. Clones talk to the same one; when the last is dropped, the speaker closes its sessions without a word, so that
/// its peers keep its routes as those of a restarting speaker.
#[derive(Debug, Clone)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
}

impl Handle {
    pub(crate) fn new(commands: mpsc::Sender<Command>) -> Self {
        Self { commands }
    }

    /// Runs `config` from now on. Sessions that can go on do. After [`Handle::shutdown`] this does nothing.
    pub async fn configure(&self, config: Config) {
        let _ = self.commands.send(Command::Configure(Box::new(config))).await;
    }

    /// What every peer does, in order of name and address. Empty after [`Handle::shutdown`].
    pub async fn peers(&self) -> Vec<PeerStatus> {
        self.ask(Command::Peers).await.unwrap_or_default()
    }

    /// The restart that is under way, if one is.
    pub async fn restart(&self) -> Option<RestartStatus> {
        self.ask(Command::Restart).await.flatten()
    }

    /// Every path there is, in order of prefix, the best first. Empty after [`Handle::shutdown`].
    pub async fn routes(&self) -> Vec<RouteView> {
        self.ask(Command::Routes).await.unwrap_or_default()
    }

    /// Ends the speaker and returns when its sockets are closed. With `cease`, peers are told (Cease, Administrative Shutdown) and drop
    /// our routes; without, they see what they would see of a crash, and keep them for the restart time.
    pub async fn shutdown(&self, cease: bool) {
        let _ = self.ask(|done| Command::Shutdown { cease, done }).await;
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.ok()?;
        answer.await.ok()
    }
}
