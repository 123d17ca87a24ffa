//! A BGP speaker without IO: what BIRD does for Calico, as a value that events go into and actions come out of.
//!
//! [`wire`] turns bytes into messages and back. `fsm` is one connection's state machine. `rib` keeps every peer's paths and chooses
//! among them by [`bestpath`]. [`filter`]
//! says what may pass, and `export` keeps what each group of peers has been told. [`Speaker`] ties them together; the crate
//! `tortie-bird-speaker` gives it sockets, timers and tasks.
//!
//! Time is an argument: [`Time`] is what a clock of the caller's says since any moment of the caller's choice.

pub mod bestpath;
pub mod config;
mod export;
pub mod filter;
mod fsm;
mod intern;
mod rib;
pub mod speaker;
pub mod view;
pub mod wire;

pub use self::config::{BGP_PORT, Config, NextHopMode, Originated, Password, PeerConfig, PeerKind};
pub use self::speaker::{Action, ConnectionId, Event, Report, Speaker};
pub use self::view::{Awaited, Counts, DeferralView, PeerView, RibUpdate, RouteView, State};

/// Time since the moment from which the caller counts. It never goes back.
pub type Time = core::time::Duration;
