//! The edge of `tortie-bird-lite`: sockets, timers and tasks around its pure core.
//!
//! [`Speaker::spawn`] starts it; the [`Handle`] commands it, and the receiver tells which routes are in use.
//!
//! ```text
//!  Handle (Nx) ──Command──►┌─────────────┐──RibUpdate──► whoever writes the FIB (1x)
//!                          │ owner (1x)  │
//!  listener (Nx) ──Input──►│ holds the   │──Connect────► connector (one an attempt) ──Input──► owner
//!                          │ core, and   │
//!  connection (Nx) ─Input─►│ the clock   │──Bytes, Close──► connection (one a TCP connection)
//!                          └─────────────┘
//! ```
//!
//! Nothing is shared: the owner alone holds the core, and all others send it messages. What flows towards it is bounded by its inbox, so
//! a peer that sends faster than we work is slowed by TCP. What flows from it is bounded by the core, which hands a connection a window of
//! bytes and waits for them to be written; and by the receiver's room, since the core is asked for a route only when there is some.

mod connection;
mod handle;
mod listener;
mod owner;
mod security;

use tokio::sync::mpsc;
pub use tortie_bird_lite::{
    Awaited, BGP_PORT, Config, Counts, NextHopMode, Originated, Password, PeerConfig, PeerKind, RibUpdate, RouteView,
    State, filter,
};

pub use self::handle::{Handle, PeerStatus, RestartStatus};

/// Starts speakers.
#[derive(Debug)]
pub struct Speaker;

impl Speaker {
    /// Starts a speaker on the current tokio runtime. Addresses that cannot be listened on yet are tried again every second.
    ///
    /// A slow reader of the receiver sees the latest state of each prefix, not every state between. Dropping it is allowed.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn spawn(config: Config) -> (Handle, mpsc::Receiver<RibUpdate>) {
        let (commands, inbox) = mpsc::channel(16);
        let (routes, updates) = mpsc::channel(1024);
        tokio::spawn(owner::Owner::new(config, inbox, routes).run());
        (Handle::new(commands), updates)
    }
}
