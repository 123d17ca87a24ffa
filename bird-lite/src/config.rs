//! What the speaker is told to be: its own identity, its timers, its peers and the prefixes it originates.
//!
//! A [`Config`] is a whole wish, never a delta: the speaker compares it with what it runs and resets only the sessions that cannot go on
//! (see [`PeerConfig::needs_reset`] and [`Config::needs_reset`]).

use core::fmt;
use core::time::Duration;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::wire::Community;

/// The TCP port of BGP.
pub const BGP_PORT: u16 = 179;

/// Everything a speaker needs to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Our AS number.
    pub local_as: u32,
    /// Our BGP identifier: unique among the peers, not 0.0.0.0.
    pub router_id: Ipv4Addr,
    /// Where to listen. Empty: nowhere, and every session is one that we open.
    pub listen: Vec<SocketAddr>,
    /// The hold time that we propose; the smaller of both proposals holds. Zero means no keepalives, otherwise at least 3 s.
    pub hold_time: Duration,
    /// How often to send KEEPALIVE; a third of the negotiated hold time unless given, and never more than that.
    pub keepalive_time: Option<Duration>,
    /// The longest pause between two attempts to connect to a peer. The first attempts follow each other faster.
    pub connect_retry: Duration,
    /// Graceful restart: how long we ask peers to keep our routes after our session is gone (RFC 4724; at most 4,095 s).
    pub restart_time: Duration,
    /// Graceful restart: how long the routes of a peer that is back may stay stale without an End-of-RIB.
    pub stale_time: Duration,
    /// Graceful restart: how long after a restart to wait for all peers' End-of-RIB before what nobody has confirmed is given up.
    pub deferral_time: Duration,
    /// The peers, each address and port at most once.
    pub peers: Vec<PeerConfig>,
    /// The prefixes that are ours to announce.
    pub originate: Vec<Originated>,
    /// The next hop for IPv4 routes that we announce with ourselves as next hop. The session's own local address unless given.
    pub next_hop_v4: Option<Ipv4Addr>,
    /// The same for IPv6 routes.
    pub next_hop_v6: Option<Ipv6Addr>,
    /// Whether an earlier run of this speaker left its routes in the kernel: we then come up as a restarting speaker (RFC 4724, 4.1).
    pub restarting: bool,
    /// Those routes, each with its gateway. Read when a restarting speaker starts, and never again: none of them is replaced by a worse
    /// path only because the peer behind it has not spoken yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<(IpNet, IpAddr)>,
}

impl Config {
    /// A speaker without peers, listening on the BGP port of every address, with the default timers.
    pub fn new(local_as: u32, router_id: Ipv4Addr) -> Self {
        Self {
            local_as,
            router_id,
            listen: vec![
                SocketAddr::from((Ipv4Addr::UNSPECIFIED, BGP_PORT)),
                SocketAddr::from((Ipv6Addr::UNSPECIFIED, BGP_PORT)),
            ],
            hold_time: Duration::from_secs(90),
            keepalive_time: None,
            connect_retry: Duration::from_secs(5),
            restart_time: Duration::from_secs(120),
            stale_time: Duration::from_secs(120),
            deferral_time: Duration::from_secs(60),
            peers: Vec::new(),
            originate: Vec::new(),
            next_hop_v4: None,
            next_hop_v6: None,
            restarting: false,
            kept: Vec::new(),
        }
    }

    /// Whether no session of `self` can go on under `new`: our identity changes.
    pub fn needs_reset(&self, new: &Self) -> bool {
        self.local_as != new.local_as || self.router_id != new.router_id
    }
}

/// Where a peer comes from in Calico's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PeerKind {
    /// Another node of the full mesh.
    Mesh,
    /// A BGPPeer that names this node or selects it.
    Node,
    /// A BGPPeer for all nodes.
    Global,
}

impl fmt::Display for PeerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mesh => "mesh",
            Self::Node => "node",
            Self::Global => "global",
        })
    }
}

/// One neighbour.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerConfig {
    /// What people call it: the node's name, or that of the BGPPeer.
    pub name: String,
    /// Where it comes from.
    pub kind: PeerKind,
    /// Its address. Connections from this address are its own.
    pub address: IpAddr,
    /// The port to connect to.
    pub port: u16,
    /// Its AS number: ours for iBGP.
    pub remote_as: u32,
    /// The address of ours that the session uses; the kernel's choice unless given.
    pub local_address: Option<IpAddr>,
    /// Never connect, only accept.
    pub passive: bool,
}

impl PeerConfig {
    /// A peer on the BGP port, to which both sides may connect.
    pub fn new(name: impl Into<String>, kind: PeerKind, address: IpAddr, remote_as: u32) -> Self {
        Self { name: name.into(), kind, address, port: BGP_PORT, remote_as, local_address: None, passive: false }
    }

    /// Whether a session of `self` cannot go on under `new`, a configuration of the same address. A new name, kind or passiveness does
    /// no harm to it.
    pub fn needs_reset(&self, new: &Self) -> bool {
        self.remote_as != new.remote_as || self.port != new.port || self.local_address != new.local_address
    }
}

/// A prefix that we originate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Originated {
    /// The prefix; host bits are cleared.
    pub prefix: IpNet,
    /// MULTI_EXIT_DISC to announce it with, if any.
    pub med: Option<u32>,
    /// LOCAL_PREF to announce it with to iBGP peers, 100 unless given.
    pub local_pref: Option<u32>,
    /// Communities to announce it with.
    pub communities: Vec<Community>,
}

impl From<IpNet> for Originated {
    fn from(prefix: IpNet) -> Self {
        Self { prefix, med: None, local_pref: None, communities: Vec::new() }
    }
}
