//! The node's brain: what the kernel's rules and routes and the BGP speaker should be, and the next step towards it.
//!
//! [`Felix`] is a state machine without IO and without a clock. The edge tells it what happened ([`Felix::handle`] with an [`Event`]
//! and the time), takes what is to be done ([`Felix::poll`] hands out [`Action`]s until there is none), and comes back at the latest
//! when [`Felix::poll_timeout`] says. Events and actions are serialisable, so that a run can be recorded and replayed.
//!
//! What holds, whatever the order of events:
//! - **Nothing is written before everything is read**: the datastore is in sync, the rules and routes of an earlier run are read back,
//!   its endpoints are known. What is then right already is not written again, so a restart with nothing changed is silent.
//! - **Rules before routes**: a pod's route, and the success of its CNI ADD, wait for the commit of its rules. A pod whose Pod object is
//!   unknown has unknown policies: it is not admitted, and the guards in the table drop what it sends.
//! - **One write at a time** for rules and one for routes. What happens meanwhile is gathered, so a burst costs one transaction more
//!   and the first event never waits.
//! - **The kernel is believed, not remembered**: routes that somebody removed come back at the event, and whenever the kernel refuses
//!   a write, loses events, or the audit is due, its state is read back and only the difference is written.
//! - **Ours is what bears our mark**: our nftables table and routes of protocol [`ROUTE_PROTOCOL`]. Nothing else is touched.

mod bgp;
mod configuration;
mod core;
mod difference;
mod drift;
mod endpoints;
mod event;
mod fib;
mod guests;
mod host;
mod host_endpoints;
mod host_firewall;
mod numbers;
mod overlays;
mod resolve;
mod routes;
mod rules;
pub mod settings;
mod stamps;
mod view;

pub use crate::core::{Config, Felix};
pub use drift::{Drift, DriftKind};
pub use event::{
    Action, Change, Event, Link, LocalEndpoint, Millis, RequestId, Route, RouteChange, RouteFailure, Snapshot, Target,
};
pub use host::{Host, HostRepair, HostReport};
pub use host_firewall::{HostFirewall, HostFirewallRepair};
pub use numbers::Numbers;
pub use overlays::{Mac, OverlaySettings, TunnelEnd, TunnelPeer, TunnelReport, Tunnels};
pub use settings::Settings;
pub use stamps::Sweep;
pub use tortie_policy::hits;
pub use view::{RouteSource, RouteState, RouteView, Status};

/// The routing protocol number of every route that Tortie writes, so that ownership is never a guess, where `deviceRouteProtocol` does
/// not say another.
pub const ROUTE_PROTOCOL: u8 = 80;

/// The metric of every route that Tortie writes, where `ipv4NormalRoutePriority` and its sibling do not say another. It keeps our routes apart from those that others
/// write to the same destination, which are as a rule without one: a replace never hits theirs.
pub const ROUTE_METRIC: u32 = 1024;
