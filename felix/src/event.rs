//! What goes in and what comes out, as plain values.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tortie_api::calico::{
    BgpConfiguration, BgpFilter, BgpPeer, BlockAffinity, CalicoNodeStatus, ClusterInformation, FelixConfiguration,
    HostEndpoint, IpPool, IpReservation, IpamBlock, IpamConfiguration, IpamHandle, KubeControllersConfiguration,
    NetworkSet, Policy, Profile, StagedKubernetesNetworkPolicy, Tier,
};
use tortie_api::k8s::{
    ClusterNetworkPolicy, EndpointSlice, Namespace, NetworkPolicy, Node, Pod, Secret, ServiceAccount,
};
use tortie_api::{Object, ObjectKey};
use tortie_bird_lite::RibUpdate;
use tortie_nft::{Ruleset, Transaction};

use crate::drift::Drift;
use crate::host::{Host, HostReport};
use crate::host_firewall::HostFirewall;
use crate::overlays::{TunnelReport, Tunnels};
use crate::settings::Settings;
use crate::stamps::Sweep;

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
    ServiceAccount(ServiceAccount),
    Secret(Secret),
    EndpointSlice(EndpointSlice),
    ClusterNetworkPolicy(Box<ClusterNetworkPolicy>),
    Tier(Tier),
    CalicoNetworkPolicy(Box<Policy>),
    GlobalNetworkPolicy(Box<Policy>),
    StagedNetworkPolicy(Box<Policy>),
    StagedGlobalNetworkPolicy(Box<Policy>),
    StagedKubernetesNetworkPolicy(Box<StagedKubernetesNetworkPolicy>),
    NetworkSet(NetworkSet),
    GlobalNetworkSet(NetworkSet),
    HostEndpoint(Box<HostEndpoint>),
    Profile(Box<Profile>),
    BlockAffinity(BlockAffinity),
    IpamHandle(IpamHandle),
    IpamConfiguration(IpamConfiguration),
    IpReservation(IpReservation),
    BgpPeer(Box<BgpPeer>),
    BgpFilter(Box<BgpFilter>),
    ClusterInformation(ClusterInformation),
    CalicoNodeStatus(CalicoNodeStatus),
    KubeControllersConfiguration(Box<KubeControllersConfiguration>),
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
        /// The address that the node's own packets are from, where nothing else says from which.
        #[serde(default)]
        source: Option<IpAddr>,
    },
    /// To a gateway.
    Via {
        /// The gateway.
        gateway: IpAddr,
        /// The device that the gateway is reached by.
        index: u32,
    },
    /// To a gateway that is taken to be on the link although no route says so, as clouds that give a node a /32 have it.
    Onlink {
        /// The gateway.
        gateway: IpAddr,
        /// The device that it is behind.
        index: u32,
    },
    /// To several gateways and devices in equal shares, flow by flow (ECMP): in ascending order, none twice. [`Target::multipath`]
    /// makes one.
    Multipath(Vec<(IpAddr, u32)>),
    /// Nowhere, silently.
    Blackhole,
    /// Anything else, in short. Never wanted, so a route of ours that has it is replaced.
    Other(String),
}

impl Target {
    /// Directly out of a device.
    pub const fn device(index: u32) -> Self {
        Self::Device { index, source: None }
    }

    /// To these gateways and devices, whatever their order; if they are one, simply to that.
    pub fn multipath(mut hops: Vec<(IpAddr, u32)>) -> Self {
        hops.sort_unstable();
        hops.dedup();
        match hops.as_slice() {
            &[(gateway, index)] => Self::Via { gateway, index },
            _ => Self::Multipath(hops),
        }
    }

    /// The gateways, each with its device; none where there is no gateway.
    pub fn hops(&self) -> impl Iterator<Item = (IpAddr, u32)> + '_ {
        let (one, several) = match self {
            Self::Via { gateway, index } | Self::Onlink { gateway, index } => (Some((*gateway, *index)), &[][..]),
            Self::Multipath(hops) => (None, hops.as_slice()),
            Self::Device { .. } | Self::Blackhole | Self::Other(_) => (None, &[][..]),
        };
        one.into_iter().chain(several.iter().copied())
    }

    /// The devices that it leads out of.
    pub fn devices(&self) -> impl Iterator<Item = u32> + '_ {
        let direct = match self {
            Self::Device { index, .. } => Some(*index),
            _ => None,
        };
        direct.into_iter().chain(self.hops().map(|(_, index)| index))
    }
}

/// A route of the main table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The destination.
    pub destination: IpNet,
    /// Where it leads.
    pub target: Target,
    /// Who wrote it: for us the number that [`RouteSettings`](crate::settings::RouteSettings) has.
    pub protocol: u8,
    /// Its metric: of two routes to one destination, the lower is in force.
    pub metric: u32,
}

/// A step towards the routes we want.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RouteChange {
    /// Write where nothing is: if there is a route of the same destination and metric after all, it is to be left alone.
    Create(Route),
    /// Write in the place of our route of the same destination and metric.
    Replace(Route),
    /// Delete; that it is gone already is no failure. If it led out of a device, a pod has let the address go: then flows of the
    /// address are taken out of conntrack before this counts as done.
    Delete(Route),
    /// Take these gateways out of our IPv6 route and leave its others. That one of them is not there, or not ours, is a failure.
    Shrink(Route),
    /// Delete although nobody lets the address go: another route of ours is in its place, or it is a stranger's that may not be there.
    Retire(Route),
}

impl RouteChange {
    /// The route that is written or deleted.
    pub const fn route(&self) -> &Route {
        match self {
            Self::Create(route)
            | Self::Replace(route)
            | Self::Delete(route)
            | Self::Shrink(route)
            | Self::Retire(route) => route,
        }
    }

    /// The address of a pod that is let go.
    pub fn released(&self) -> Option<IpAddr> {
        match self {
            Self::Delete(Route { destination, target: Target::Device { .. }, .. })
                if destination.prefix_len() == destination.max_prefix_len() =>
            {
                Some(destination.addr())
            }
            _ => None,
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
    /// Whether what is there is not what was thought to be: there was something to create in the place of, or nothing to shrink.
    #[serde(default)]
    pub surprise: bool,
}

/// The node's interfaces and main routing tables (IPv4 and IPv6), read at one time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// All interfaces.
    pub links: Vec<Link>,
    /// All routes, whoever wrote them.
    pub routes: Vec<Route>,
    /// The addresses of all interfaces, each with its interface's number.
    #[serde(default)]
    pub addresses: Vec<(u32, IpAddr)>,
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
    /// How many flows' stamps were cleared: the answer to [`Action::SweepStamps`].
    StampsSwept(Result<u64, String>),
    /// Interfaces and routes: the answer to [`Action::ReadRoutes`].
    RoutesRead(Result<Snapshot, String>),
    /// The answer to [`Action::ApplyRoutes`]: what of it failed, or why it is unknown what of it took effect.
    RoutesApplied(Result<Vec<RouteFailure>, String>),
    /// The answer to [`Action::ConfigureBgp`].
    BgpConfigured(Result<(), String>),
    /// The answer to [`Action::ConfigureHost`]: whether the node forwards as it should. Several may be under way.
    HostConfigured(Result<(), String>),
    /// How the node's interfaces and kernel settings are kept: when something was repaired, and when problems come or go.
    HostKept(HostReport),
    /// What became of the node's ends of overlays: the answer to [`Action::ConfigureTunnels`].
    TunnelsConfigured(TunnelReport),
    /// How they are kept: when something was repaired, and when problems come or go.
    TunnelsKept(TunnelReport),
    /// An interface is new or changed.
    LinkChanged(Link),
    /// An interface is gone.
    LinkRemoved {
        /// Its number.
        index: u32,
    },
    /// An interface has an address.
    AddressAdded {
        /// The interface.
        index: u32,
        /// The address.
        address: IpAddr,
    },
    /// An interface has an address no more.
    AddressRemoved {
        /// The interface.
        index: u32,
        /// The address.
        address: IpAddr,
    },
    /// A route is new or changed, by somebody else than us.
    RouteChanged(Route),
    /// A route is gone, by somebody else than us.
    RouteRemoved(Route),
    /// Events of the kernel were lost.
    Overrun,
    /// How the host's own firewalls stand now.
    HostFirewall(HostFirewall),
    /// Somebody else changed our table of rules, or may have, for the kernel's events about it were lost.
    RulesTouched {
        /// The process that did it, where the kernel tells: `NAME (PID)`.
        by: Option<String>,
    },
    /// Something of what the kernel announces, and the process that did it.
    Caused {
        /// The process, as `NAME (PID)`.
        by: String,
        /// What happened.
        event: Box<Event>,
    },
}

/// Something to do. Each kind but [`Action::Done`], [`Action::Report`] and [`Action::Settings`] is answered by an event, and is not
/// handed out again before that, [`Action::ConfigureHost`] excepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Read our table back: [`Event::RulesRead`].
    ReadRules,
    /// Apply, all or nothing: [`Event::RulesApplied`]. An empty transaction, once after a restart, only makes the table this
    /// process's own.
    ApplyRules(Transaction),
    /// Clear these stamps from the ct marks of all flows, beside anything else that is under way: [`Event::StampsSwept`].
    SweepStamps(Sweep),
    /// Read interfaces and routes: [`Event::RoutesRead`].
    ReadRoutes,
    /// Apply in order, each on its own: [`Event::RoutesApplied`].
    ApplyRoutes(Vec<RouteChange>),
    /// Start the speaker with this, or change it to this: [`Event::BgpConfigured`].
    ConfigureBgp(Box<tortie_bird_lite::Config>),
    /// Keep the node like this from now on, in place of the one before: [`Event::HostConfigured`].
    ConfigureHost(Box<Host>),
    /// Keep the node's ends of overlays like this from now on, in place of the one before: [`Event::TunnelsConfigured`].
    ConfigureTunnels(Box<Tunnels>),
    /// Follow these settings from now on. Not answered.
    Settings(Box<Settings>),
    /// Tell of something that somebody else changed in the kernel. Not answered.
    Report(Drift),
    /// The answer to a request.
    Done {
        /// Which.
        request: RequestId,
        /// Why not, with the remedy.
        result: Result<(), String>,
    },
}

impl Action {
    /// What it is called in metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::ReadRules => "read-rules",
            Self::ApplyRules(_) => "apply-rules",
            Self::SweepStamps(_) => "sweep-stamps",
            Self::ReadRoutes => "read-routes",
            Self::ApplyRoutes(_) => "apply-routes",
            Self::ConfigureBgp(_) => "configure-bgp",
            Self::ConfigureHost(_) => "configure-host",
            Self::ConfigureTunnels(_) => "configure-tunnels",
            Self::Settings(_) => "settings",
            Self::Report(_) => "report",
            Self::Done { .. } => "answer",
        }
    }
}
