//! What goes in and what comes out, as plain values.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tortie_api::calico::{BgpConfiguration, FelixConfiguration, IpPool, IpamBlock};
use tortie_api::k8s::{Namespace, NetworkPolicy, Node, Pod};
use tortie_api::{Object, ObjectKey};
use tortie_bird_lite::RibUpdate;
use tortie_nft::{Ruleset, Transaction};

/// Milliseconds on a clock that only goes forward; where it starts does not matter.
pub type Millis = u64;

/// Names a request of the edge, so that its answer finds back.
pub type RequestId = u64;

/// One of this node's pods, as the CNI server made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalEndpoint {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The container id that the runtime gave.
    pub container_id: String,
    /// The interface's name inside the pod; with the container id it identifies the attachment.
    pub ifname: String,
    /// The host's end of the veth.
    pub interface: String,
    /// The pod's addresses.
    pub ips: Vec<IpAddr>,
}

/// A change of one object in the datastore.
#[allow(clippy::large_enum_variant)] // Nearly all are upserts, and a deletion does not stay for long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// Added or modified; defaulted and valid.
    Upsert(#[serde(with = "ObjectForm")] Object),
    /// Gone.
    Delete(ObjectKey),
}

/// How an [`Object`] is written in a recording.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Object")]
enum ObjectForm {
    Namespace(Namespace),
    Node(Node),
    Pod(Pod),
    NetworkPolicy(NetworkPolicy),
    IpPool(IpPool),
    BgpConfiguration(BgpConfiguration),
    IpamBlock(IpamBlock),
    FelixConfiguration(Box<FelixConfiguration>),
}

/// A network interface of the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The kernel's number for it.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Whether it is set up (`IFF_UP`): the kernel takes no route through one that is not.
    pub up: bool,
}

/// Where a route leads.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Target {
    /// Directly out of a device.
    Device {
        /// The device.
        index: u32,
    },
    /// To a gateway.
    Via {
        /// The gateway.
        gateway: IpAddr,
        /// The device that the gateway is reached by.
        index: u32,
    },
    /// Nowhere, silently.
    Blackhole,
    /// Anything else, in short. Never wanted, so a route of ours that has it is replaced.
    Other(String),
}

/// A route of the main table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The destination.
    pub destination: IpNet,
    /// Where it leads.
    pub target: Target,
    /// Who wrote it: [`ROUTE_PROTOCOL`](crate::ROUTE_PROTOCOL) for us.
    pub protocol: u8,
    /// Its metric: of two routes to one destination, the lower is in force.
    pub metric: u32,
}

/// A step towards the routes we want.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RouteChange {
    /// Create, or replace the route of the same destination and metric.
    Replace(Route),
    /// Delete; that it is gone already is no failure.
    Delete(Route),
}

impl RouteChange {
    /// The route that is written or deleted.
    pub const fn route(&self) -> &Route {
        match self {
            Self::Replace(route) | Self::Delete(route) => route,
        }
    }
}

/// A route change that the kernel refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteFailure {
    /// The destination.
    pub destination: IpNet,
    /// Why.
    pub reason: String,
}

/// The node's interfaces and main routing tables (IPv4 and IPv6), read at one time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// All interfaces.
    pub links: Vec<Link>,
    /// All routes, whoever wrote them.
    pub routes: Vec<Route>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// The datastore changed.
    Datastore {
        /// What changed.
        changes: Vec<Change>,
        /// Whether everything that exists has now been delivered.
        in_sync: bool,
        /// Identifies the content delivered so far.
        revision: String,
    },
    /// The endpoints that an earlier run left, once at the start.
    Restored {
        /// The endpoints.
        endpoints: Vec<LocalEndpoint>,
    },
    /// A CNI ADD made an interface; answered by [`Action::Done`] when rules and routes are in the kernel.
    AddEndpoint {
        /// Names the answer.
        request: RequestId,
        /// The endpoint.
        endpoint: LocalEndpoint,
    },
    /// A CNI DEL is about to delete an interface; answered by [`Action::Done`] when nothing in the kernel refers to it any more.
    RemoveEndpoint {
        /// Names the answer.
        request: RequestId,
        /// The container.
        container_id: String,
        /// The interface's name in it.
        ifname: String,
    },
    /// The speaker's best paths changed.
    Rib(RibUpdate),
    /// Our table as it is in the kernel, none if it does not exist: the answer to [`Action::ReadRules`].
    RulesRead(Result<Option<Ruleset>, String>),
    /// The answer to [`Action::ApplyRules`].
    RulesApplied(Result<(), String>),
    /// Interfaces and routes: the answer to [`Action::ReadRoutes`].
    RoutesRead(Result<Snapshot, String>),
    /// The answer to [`Action::ApplyRoutes`]: what of it failed, or why it is unknown what of it took effect.
    RoutesApplied(Result<Vec<RouteFailure>, String>),
    /// The answer to [`Action::ConfigureBgp`].
    BgpConfigured(Result<(), String>),
    /// The answer to [`Action::ConfigureHost`].
    HostConfigured(Result<(), String>),
    /// An interface is new or changed.
    LinkChanged(Link),
    /// An interface is gone.
    LinkRemoved {
        /// Its number.
        index: u32,
    },
    /// A route is new or changed, by whomever.
    RouteChanged(Route),
    /// A route is gone.
    RouteRemoved(Route),
    /// Events of the kernel were lost.
    Overrun,
}

/// What the kernel must be set to, so that packets of pods are forwarded at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// `net.ipv4.ip_forward`; never taken back.
    pub forward_ipv4: bool,
    /// `net.ipv6.conf.all.forwarding`; never taken back.
    pub forward_ipv6: bool,
}

/// Something to do. Each kind but [`Action::Done`] is answered by an event, and is not handed out again before that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Read our table back: [`Event::RulesRead`].
    ReadRules,
    /// Apply, all or nothing: [`Event::RulesApplied`]. An empty transaction, once after a restart, only makes the table this
    /// process's own.
    ApplyRules(Transaction),
    /// Read interfaces and routes: [`Event::RoutesRead`].
    ReadRoutes,
    /// Apply in order, each on its own: [`Event::RoutesApplied`].
    ApplyRoutes(Vec<RouteChange>),
    /// Start the speaker with this, or change it to this: [`Event::BgpConfigured`].
    ConfigureBgp(Box<tortie_bird_lite::Config>),
    /// Set what is asked for and not set yet: [`Event::HostConfigured`].
    ConfigureHost(Host),
    /// The answer to a request.
    Done {
        /// Which.
        request: RequestId,
        /// Why not, with the remedy.
        result: Result<(), String>,
    },
}
