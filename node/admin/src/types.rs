//! What the admin API says, as JSON.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// `GET /v1/status`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// The node's name.
    pub node: String,
    /// The agent's version.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Components that run.
    pub components: Vec<String>,
    /// Where resources come from, as `--datastore` takes it: `dir:PATH`, an absolute path.
    #[serde(default)]
    pub datastore: String,
    /// Whether the datastore was read completely.
    pub datastore_in_sync: bool,
    /// The datastore revision that was read last.
    pub revision: String,
    /// The datastore revision that is in the kernel: rules, routes and BGP configuration alike.
    pub programmed_revision: String,
    /// The live generation of the conntrack mark.
    pub generation: u32,
    /// Local endpoints.
    pub endpoints: usize,
    /// Whether this agent is ready (`/readiness`).
    pub ready: bool,
    /// What is wrong now, one sentence each: documents in error, failed writes.
    pub problems: Vec<String>,
    /// What is configured and has no effect, one sentence each.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// What others changed of ours in the kernel lately, the oldest first.
    #[serde(default)]
    pub drifts: Vec<Drift>,
}

/// Something of ours in the kernel that somebody else changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Drift {
    /// RFC 3339 time when it was noticed, UTC; of several times the last.
    pub at: String,
    /// How many seconds ago that was.
    pub age_seconds: u64,
    /// `rules`, `route`, `interface`, `sysctl` or `host-firewall`.
    pub kind: String,
    /// The table, a route's destination, an interface, a sysctl's path.
    pub object: String,
    /// What was found in place of what was written.
    pub found: String,
    /// Whether it is again as wanted.
    pub repaired: bool,
    /// The process that did it, as `NAME (PID)`, where the kernel tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// How often it happened, things that are left out for their number included.
    pub times: u64,
}

/// One local endpoint: `GET /v1/endpoints`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The container id that the runtime gave.
    pub container_id: String,
    /// Path of the pod's network namespace.
    pub netns: String,
    /// The interface's name inside the pod.
    pub ifname: String,
    /// The host's end of the veth.
    pub host_interface: String,
    /// MAC of the host's end.
    pub host_mac: String,
    /// MAC of the pod's end.
    pub mac: String,
    /// The pod's addresses.
    pub ips: Vec<IpAddr>,
}

/// `GET /v1/bgp/peers`, and `tortie bgp peers -o json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpPeer {
    /// The node that reports.
    pub node: String,
    /// The peer's address.
    pub peer: IpAddr,
    /// The peer's name, where it is a node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_name: Option<String>,
    /// The peer's AS number.
    pub as_number: u32,
    /// `mesh`, `node` or `global`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `Idle`, `Connect`, `Active`, `OpenSent`, `OpenConfirm`, `Established`.
    pub state: String,
    /// RFC 3339 time of the last change of state, UTC.
    pub since: String,
    /// Counts by family: `ipv4`, `ipv6`.
    pub families: BTreeMap<String, FamilyCounts>,
    /// The last error, empty if none.
    pub last_error: String,
}

/// Route counts of one family of one session.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FamilyCounts {
    /// Received from the peer.
    pub received: usize,
    /// Of those, accepted.
    pub accepted: usize,
    /// Sent to the peer.
    pub advertised: usize,
}

/// `GET /v1/bgp/routes`, and `tortie bgp routes -o json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpRoute {
    /// The node that reports.
    pub node: String,
    /// The prefix.
    pub prefix: IpNet,
    /// The next hop, none for a route of our own.
    pub next_hop: Option<IpAddr>,
    /// The peer it came from, or `local`.
    pub from: String,
    /// AS path.
    pub as_path: Vec<u32>,
    /// LOCAL_PREF.
    pub local_pref: Option<u32>,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// Communities, `65000:1`, large ones `65000:1:2`.
    pub communities: Vec<String>,
    /// Whether this path is the one in use.
    pub best: bool,
    /// Why it is best, or why not.
    pub reason: String,
}

/// `GET /v1/routes`, and `tortie routes -o json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// The node that reports.
    pub node: String,
    /// The destination.
    pub destination: IpNet,
    /// The next hop, if any; of several the first.
    pub via: Option<IpAddr>,
    /// The device; `blackhole` for a blackhole route; of several the first next hop's.
    pub device: String,
    /// All next hops, where there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub next_hops: Vec<NextHop>,
    /// The kernel's protocol number.
    pub protocol: u8,
    /// `local-pod`, `local-block`, `bgp` or `tunnel`.
    pub source: String,
    /// `present`, `missing`, `wrong` or `foreign`.
    pub state: String,
    /// Why it is not `present`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// One of several next hops of a route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextHop {
    /// The gateway.
    pub via: IpAddr,
    /// The device that it is behind.
    pub device: String,
}

/// `GET /v1/policy/hits`, and `tortie policy hits -o json`: what a rule of a policy, or the end of a tier, decided on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyHits {
    /// The node.
    pub node: String,
    /// The tier.
    pub tier: String,
    /// The policy's kind; none for a tier's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The policy's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The policy's name; for a tier's default its policies that select the endpoints, in words.
    pub policy: String,
    /// `ingress` or `egress`.
    pub direction: String,
    /// The rule as a field of its policy: `spec.ingress[0]`; none for a tier's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// `Allow`, `Deny`, `Pass` or `Log`.
    pub action: String,
    /// Whether the policy is staged: it would have.
    pub staged: bool,
    /// First packets of new flows.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Packets of flows that existed and were judged again, since policies changed.
    pub rejudged_packets: u64,
    /// Their bytes.
    pub rejudged_bytes: u64,
}

/// `POST /v1/policy/trace`: the flow to trace, as who begins it sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TraceRequest {
    /// Who begins it.
    pub source: IpAddr,
    /// To whom.
    pub destination: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// The source's port; any without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_port: Option<u16>,
    /// The destination's port; any without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// How long, at most 60.
    pub seconds: u16,
}

/// The answer to [`TraceRequest`]: what really happened on a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceReport {
    /// The node.
    pub node: String,
    /// The packets that it saw of the flow, in both directions, in their order.
    pub packets: Vec<TracedPacket>,
}

/// A packet on its way through a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TracedPacket {
    /// Its source when it was first seen.
    pub source: Option<IpAddr>,
    /// Its destination then.
    pub destination: Option<IpAddr>,
    /// What it met, in order: rules of every table on the node, not only the agent's.
    pub steps: Vec<TracedStep>,
}

/// A rule that a packet met, or the end of a chain.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TracedStep {
    /// The table.
    pub table: String,
    /// The chain.
    pub chain: String,
    /// `rule`, `end` of a chain that was jumped to, or `policy` of a base chain.
    pub met: String,
    /// The rule's handle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handle: Option<u64>,
    /// The rule's text, of the agent's own table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Its comment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// The rule of a policy, or the default of a tier, that it stands for, where it stands for one that counts what it decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// `accept`, `drop`, `continue`, `return`, `jump CHAIN` or `goto CHAIN`.
    pub verdict: String,
}

/// What `GET /v1/policy/rules` asks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskedRules {
    /// Names of counters, comma separated.
    pub counters: String,
}

/// `GET /v1/policy/rules?counters=NAME,NAME`: a rule of the kernel's table that counts in one of the counters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRule {
    /// The counter.
    pub counter: String,
    /// The chain that the rule is in.
    pub chain: String,
    /// Its handle, as `nft -a list` shows it.
    pub handle: u64,
    /// Its text.
    pub rule: String,
}

/// `GET /v1/ipam`: the blocks as this agent's datastore has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpamBlockStatus {
    /// The block's range.
    pub cidr: IpNet,
    /// The node it belongs to.
    pub node: Option<String>,
    /// Addresses in use.
    pub in_use: usize,
    /// Addresses free.
    pub free: usize,
}

/// `POST /v1/cni`: what the plugin was called with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CniRequest {
    /// `CNI_COMMAND`.
    pub command: String,
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_NETNS`.
    pub netns: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// `CNI_ARGS`.
    pub args: String,
    /// `CNI_PATH`.
    pub path: String,
    /// The network configuration from stdin, verbatim.
    pub config: serde_json::Value,
}

/// The answer to [`CniRequest`]: what the plugin prints, and with which exit status.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CniResponse {
    /// Whether it succeeded; the plugin exits 1 if not.
    pub ok: bool,
    /// CNI result or CNI error object; null prints nothing.
    pub body: serde_json::Value,
}

/// The body of any answer that is not 2xx.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    /// What went wrong, and what to do about it.
    pub error: String,
}
