//! What the speaker is told to be: its own identity, its timers, its peers and the prefixes it originates.
//!
//! A [`Config`] is a whole wish, never a delta: the speaker compares it with what it runs and resets only the sessions that cannot go on
//! (see [`PeerConfig::needs_reset`] and [`Config::needs_reset`]).

use core::fmt;
use core::time::Duration;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::filter::Policy;
use crate::wire::{Community, LargeCommunity};

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
    /// The cluster that we reflect routes for (RFC 4456); our BGP identifier unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<Ipv4Addr>,
    /// The next hop for IPv4 routes that we announce with ourselves as next hop. The session's own local address unless given.
    pub next_hop_v4: Option<Ipv4Addr>,
    /// The same for IPv6 routes.
    pub next_hop_v6: Option<Ipv6Addr>,
    /// Whether anybody writes the routes in use into a FIB. Read when a speaker starts, and never again: a plain reflector, for which
    /// nobody does, is spared the work.
    #[serde(default = "yes")]
    pub writes_fib: bool,
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
            cluster_id: None,
            next_hop_v4: None,
            next_hop_v6: None,
            writes_fib: true,
            restarting: false,
            kept: Vec::new(),
        }
    }

    /// Whether no session of `self` can go on under `new`: our identity changes.
    pub fn needs_reset(&self, new: &Self) -> bool {
        self.local_as != new.local_as || self.router_id != new.router_id
    }
}

const fn yes() -> bool {
    true
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

/// The next hop of routes that a peer is told, those of our own aside, whose next hop is always ours.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum NextHopMode {
    /// Ours for a peer of another AS, the route's for one of our own.
    #[default]
    Auto,
    /// Ours.
    Own,
    /// The route's.
    Keep,
}

/// A session's password (RFC 2385). It is never shown, logged or recorded.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// A password of 80 bytes at most, which is what the kernel takes; none for a text that is empty or longer.
    pub fn new(text: String) -> Option<Self> {
        (1..=80).contains(&text.len()).then_some(Self(text))
    }

    /// For the kernel.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
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
    /// Our AS number towards this peer; that of all sessions unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_as: Option<u32>,
    /// How often our own AS number may be in the path of a route of this peer's.
    #[serde(default)]
    pub allowed_own_as: u8,
    /// It is a client of ours, whose routes we reflect to everybody in our AS and to whom we reflect theirs (RFC 4456).
    #[serde(default)]
    pub client: bool,
    /// The next hop of what it is told.
    #[serde(default)]
    pub next_hop: NextHopMode,
    /// How many hops away it may be; packets that have come further are dropped (RFC 5082). No such check unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_security: Option<u8>,
    /// The session's password.
    #[serde(skip)]
    pub password: Option<Password>,
    /// How long it is to keep our routes when we restart; as for all peers unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_time: Option<Duration>,
    /// How often to send it KEEPALIVE; as for all peers unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keepalive_time: Option<Duration>,
    /// Which of its routes are used.
    #[serde(default)]
    pub import: Arc<Policy>,
    /// Which routes it is told.
    #[serde(default)]
    pub export: Arc<Policy>,
}

impl PeerConfig {
    /// A peer on the BGP port, to which both sides may connect.
    pub fn new(name: impl Into<String>, kind: PeerKind, address: IpAddr, remote_as: u32) -> Self {
        Self {
            name: name.into(),
            kind,
            address,
            port: BGP_PORT,
            remote_as,
            local_address: None,
            passive: false,
            local_as: None,
            allowed_own_as: 0,
            client: false,
            next_hop: NextHopMode::Auto,
            ttl_security: None,
            password: None,
            restart_time: None,
            keepalive_time: None,
            import: Arc::default(),
            export: Arc::default(),
        }
    }

    /// Whether a session of `self` cannot go on under `new`, a configuration of the same address: who speaks, or the connection itself,
    /// changes. Whatever else does is put into force without harm to it, timers with the next session.
    pub fn needs_reset(&self, new: &Self) -> bool {
        self.remote_as != new.remote_as
            || self.local_as != new.local_as
            || self.port != new.port
            || self.local_address != new.local_address
            || self.ttl_security != new.ttl_security
            || self.password != new.password
    }

    /// Whether routes of this peer are judged otherwise under `new`.
    pub(crate) fn judges_otherwise(&self, new: &Self) -> bool {
        self.allowed_own_as != new.allowed_own_as || self.import != new.import
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
    /// Large communities to announce it with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub large_communities: Vec<LargeCommunity>,
    /// The interface that it leads to, where filters may ask for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
}

impl From<IpNet> for Originated {
    fn from(prefix: IpNet) -> Self {
        Self {
            prefix,
            med: None,
            local_pref: None,
            communities: Vec::new(),
            large_communities: Vec::new(),
            interface: None,
        }
    }
}
