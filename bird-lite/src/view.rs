//! What the speaker shows of itself: its peers and its paths, as values that nobody has to interpret further.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{PeerKind, Time};

/// A change of the routes in use, for whoever writes the FIB.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RibUpdate {
    /// This prefix is now reached through these next hops: the best path's first, then those of paths equal to it.
    Best {
        /// The destination.
        prefix: IpNet,
        /// At least one gateway.
        next_hops: Vec<IpAddr>,
    },
    /// No peer has a path to this prefix any more, or it is our own now.
    Withdrawn {
        /// The destination.
        prefix: IpNet,
    },
    /// Sent once: every peer that we restarted with has told all it knows, or had its time to. Routes of an earlier run for which there
    /// was no `Best` before this are no longer known to anybody.
    Converged,
}

/// The states of RFC 4271, section 8.2.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum State {
    /// No attempt is under way: shut down, or waiting after an error.
    Idle,
    /// Waiting for our TCP connection to complete.
    Connect,
    /// Waiting for the peer to connect, or for the next attempt.
    Active,
    /// OPEN sent, the peer's is awaited.
    OpenSent,
    /// OPEN received, KEEPALIVE is awaited.
    OpenConfirm,
    /// Routes are exchanged.
    Established,
}

impl core::fmt::Display for State {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Debug::fmt(self, f)
    }
}

/// How many prefixes of one family a session carries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// In the peer's Adj-RIB-In, stale ones included.
    pub received: usize,
    /// Of those, usable.
    pub accepted: usize,
    /// In the peer's Adj-RIB-Out.
    pub advertised: usize,
}

/// One peer and its session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerView {
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
    pub since: Time,
    /// Counts for IPv4 unicast; none where an established session does not carry it.
    pub ipv4: Option<Counts>,
    /// Counts for IPv6 unicast.
    pub ipv6: Option<Counts>,
    /// Why the last session or attempt ended; empty if none ever did.
    pub last_error: String,
}

/// A restart that is under way (RFC 4724, 4.1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeferralView {
    /// The peers that have not told all they know, with how they stand, in order of name.
    pub waiting: Vec<(String, Awaited)>,
    /// How many routes of the earlier run nobody has confirmed or replaced yet.
    pub unconfirmed: usize,
    /// When these go, if the peers have not finished by then.
    pub deadline: Time,
}

/// How a peer stands that a restart waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Awaited {
    /// No session yet, but there may be one any moment.
    Expected,
    /// No session in all the time that one takes.
    Absent,
    /// Telling what it knows.
    Telling,
}

/// One path to one prefix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteView {
    /// The destination.
    pub prefix: IpNet,
    /// The gateway, none for a route of our own.
    pub next_hop: Option<IpAddr>,
    /// The name of the peer it came from, or `local`.
    pub from: String,
    /// AS numbers, nearest first; a set's members stand one after the other.
    pub as_path: Vec<u32>,
    /// LOCAL_PREF, if it has one.
    pub local_pref: Option<u32>,
    /// MULTI_EXIT_DISC, if it has one.
    pub med: Option<u32>,
    /// Communities as `65000:1`, large ones as `65000:1:2`.
    pub communities: Vec<String>,
    /// ORIGINATOR_ID: the speaker of our AS that a reflector had it from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub originator_id: Option<Ipv4Addr>,
    /// CLUSTER_LIST: the clusters of reflectors that it has passed, the last first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cluster_list: Vec<Ipv4Addr>,
    /// Whether this is the path in use.
    pub best: bool,
    /// Why it is the best, or what it lost by.
    pub reason: String,
    /// Whether its peer is restarting and has not confirmed it since.
    pub stale: bool,
}
