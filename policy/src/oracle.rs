//! What NetworkPolicy says, evaluated directly: rule by rule, as the API's documentation reads.
//!
//! The oracle shares nothing with the compiler but the resource types and the matching of labels, and is not fast: it is there to be
//! right. It answers [`explain`](crate::explain), it is one engine of the [`matrix`](crate::matrix), and the compiler is held
//! against it by generated clusters.
//!
//! Beyond policy it knows three facts about pods: a pod always reaches itself; what a pod's own node begins is never cut; and pods
//! may not speak VXLAN, because nodes would take it for their own. For explanations it also knows what a node's settings say:
//! whether the node takes anything from its pods, which addresses are services', and that nobody sends from an address of a pool that
//! is no pod's. Translation of sources changes nothing here: policies never see it.

use std::net::IpAddr;

use thiserror::Error;
use tortie_api::k8s::{
    IpBlock, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec, PolicyType, PortOrName, Protocol,
};
use tortie_nft::Family;

use crate::cluster::{Cluster, PodView, Spec};
use crate::options::{CompileOptions, EndpointToHost, ServiceLoop};

/// One end of a flow as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// A pod by name.
    Pod {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// An address: of a pod, a node, or something outside.
    Address(IpAddr),
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pod { namespace, name } => write!(f, "{namespace}/{name}"),
            Self::Address(address) => write!(f, "{address}"),
        }
    }
}

/// `NAMESPACE/POD`, or an IP address.
impl std::str::FromStr for End {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self::Pod { namespace: namespace.to_owned(), name: name.to_owned() })
            }
            _ => Err(Error::NotAnEnd(text.to_owned())),
        }
    }
}

/// A flow that is asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Who begins it.
    pub from: End,
    /// To whom.
    pub to: End,
    /// Over what.
    pub protocol: Protocol,
    /// To which port.
    pub port: u16,
    /// In which family; by default that of a given address, else IPv4 where both pods have it.
    pub family: Option<Family>,
}

/// Why a question has no answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Error {
    /// The text names no end.
    #[error("{0:?} is neither NAMESPACE/POD nor an IP address")]
    NotAnEnd(String),
    /// There is no such pod.
    #[error("there is no pod {0}: see `tortie get pods -A`")]
    NoSuchPod(String),
    /// The pod has ended.
    #[error("pod {0} has ended and sends and receives nothing")]
    Ended(String),
    /// The two do not speak the same IP.
    #[error("{from} and {to} have no address of the same family{asked}")]
    NoCommonFamily {
        /// One end.
        from: String,
        /// The other.
        to: String,
        /// `": asked for IPv6"`, or nothing.
        asked: &'static str,
    },
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Whether the flow passes: both halves allow it.
    pub allowed: bool,
    /// What the source's egress says.
    pub egress: Half,
    /// What the destination's ingress says.
    pub ingress: Half,
    /// Who begins it.
    pub from: Place,
    /// To whom.
    pub to: Place,
}

/// Where an end turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// `NAMESPACE/POD`, or the address.
    pub name: String,
    /// Whether it is a pod on the pod network.
    pub pod: bool,
    /// Its address, if known.
    pub address: Option<IpAddr>,
    /// The node it is on, or is.
    pub node: Option<String>,
}

/// What one direction's policies say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Half {
    /// Whether this direction allows the flow.
    pub allowed: bool,
    /// Why.
    pub reason: Reason,
    /// The policies that isolate this direction, in the order of their names, each with what it says.
    pub steps: Vec<Step>,
}

/// Why a direction allows or denies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// That end is not a pod, and NetworkPolicy does not govern it.
    NotAPod,
    /// The pod talks to itself.
    Itself,
    /// It comes from the pod's own node.
    OwnNode,
    /// A pod speaks VXLAN.
    Tunnel,
    /// A pod sends from an address of a pool that is no pod's.
    Spoofed,
    /// The pod's own node takes nothing from pods (`defaultEndpointToHostAction`).
    EndpointToHost,
    /// It goes to a service address, and nobody has translated it (`serviceLoopPrevention`).
    ServiceLoop,
    /// No policy isolates the pod in this direction.
    NotIsolated,
    /// A rule allows it.
    Rule {
        /// `NAMESPACE/NAME`.
        policy: String,
        /// The rule's place in its list, from 0.
        rule: usize,
    },
    /// Policies isolate the pod in this direction, and no rule of theirs allows it.
    NoRule {
        /// `NAMESPACE/NAME` of each.
        policies: Vec<String>,
    },
}

/// What one policy says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// `NAMESPACE/NAME`.
    pub policy: String,
    /// How many rules it has in this direction.
    pub rules: usize,
    /// The first of its rules that allows the flow, from 0.
    pub allowed_by: Option<usize>,
    /// For each rule that does not: what does not fit.
    pub misfits: Vec<Misfit>,
}

/// What of a rule does not fit a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Misfit {
    /// The other end is none of its peers.
    Peer,
    /// The port is none of its ports.
    Port,
    /// Neither fits.
    PeerAndPort,
}

/// One end of a flow, found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Party<'a> {
    /// The endpoint, if it is one.
    pub(crate) pod: Option<PodView<'a>>,
    /// Its address in the flow's family.
    pub(crate) address: Option<IpAddr>,
    /// The node it is on, or is.
    pub(crate) node: Option<&'a str>,
}

/// A flow between two ends that were found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flow<'a> {
    pub(crate) from: Party<'a>,
    pub(crate) to: Party<'a>,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
    pub(crate) family: Family,
}

/// Whether the cluster's policies let a flow pass, and why.
///
/// # Errors
/// [`Error`], if an end is not there or the two have no family in common.
pub fn verdict(cluster: &Cluster, question: &Question) -> Result<Decision, Error> {
    verdict_of(cluster, question, None)
}

/// The same, with what a node's settings say beside policy.
pub(crate) fn verdict_of(
    cluster: &Cluster,
    question: &Question,
    options: Option<&CompileOptions>,
) -> Result<Decision, Error> {
    let flow = find(cluster, question)?;
    let default = CompileOptions::default();
    let settings = options.unwrap_or(&default);
    let mut egress = judge(cluster, &flow, PolicyType::Egress, settings);
    let mut ingress = judge(cluster, &flow, PolicyType::Ingress, settings);
    if let Some(options) = options {
        let deny = |reason| Half { allowed: false, reason, steps: Vec::new() };
        if is_spoofed(cluster, &flow) {
            egress = deny(Reason::Spoofed);
        }
        // What policy denies gets no further.
        if egress.allowed && flow.to.pod.is_none() {
            ingress = host_side(&flow, options).map_or(ingress, deny);
        }
    }
    let place = |end: &End, party: &Party<'_>| Place {
        name: match (party.pod, end) {
            (Some(pod), _) => format!("{}/{}", pod.namespace(), pod.name()),
            (None, end) => end.to_string(),
        },
        pod: party.pod.is_some(),
        address: party.address,
        node: party.node.map(ToOwned::to_owned),
    };
    Ok(Decision {
        allowed: egress.allowed && ingress.allowed,
        egress,
        ingress,
        from: place(&question.from, &flow.from),
        to: place(&question.to, &flow.to),
    })
}

/// Whether the flow begins at an address of a pool that nobody has. If a pod sends from it, that pod's node drops it.
fn is_spoofed(cluster: &Cluster, flow: &Flow<'_>) -> bool {
    let nobody = flow.from.pod.is_none() && flow.from.node.is_none();
    let in_pool = |address: IpAddr| cluster.pools().any(|pool| pool.cidr.contains(&address));
    nobody && flow.from.address.is_some_and(in_pool)
}

/// Why a node's settings deny a flow to an address that is no pod's.
fn host_side(flow: &Flow<'_>, options: &CompileOptions) -> Option<Reason> {
    let to_own_node = flow.from.pod.is_some() && flow.to.node.is_some() && flow.from.node == flow.to.node;
    if to_own_node && options.endpoint_to_host == EndpointToHost::Drop {
        return Some(Reason::EndpointToHost);
    }
    let service = |address: IpAddr| options.service_cidrs.iter().any(|cidr| cidr.contains(&address));
    let to_service = flow.to.node.is_none() && flow.to.address.is_some_and(service);
    (to_service && options.service_loop_prevention != ServiceLoop::Disabled).then_some(Reason::ServiceLoop)
}

/// The verdict alone.
pub(crate) fn allows(cluster: &Cluster, flow: &Flow<'_>) -> bool {
    let options = CompileOptions::default();
    [PolicyType::Egress, PolicyType::Ingress].into_iter().all(|direction| {
        if let Some(reason) = exempt(flow, direction, &options) {
            return reason != Reason::Tunnel;
        }
        let mut isolating = isolating(cluster, flow, direction).peekable();
        isolating.peek().is_none()
            || isolating.any(|(_, spec)| {
                (0..rule_count(spec, direction)).any(|rule| misfit(cluster, flow, direction, spec, rule).is_none())
            })
    })
}

fn find<'a>(cluster: &'a Cluster, question: &Question) -> Result<Flow<'a>, Error> {
    let (from, from_ips) = end(cluster, &question.from)?;
    let (to, to_ips) = end(cluster, &question.to)?;
    // A pod without any address may have either.
    let has = |ips: &[IpAddr], family| ips.is_empty() || ips.iter().any(|ip| family_of(*ip) == family);
    let families = question.family.map_or(vec![Family::V4, Family::V6], |family| vec![family]);
    let common = families.into_iter().find(|family| has(&from_ips, *family) && has(&to_ips, *family));
    let Some(family) = common else {
        let (from, to) = (question.from.to_string(), question.to.to_string());
        let asked = match question.family {
            None => "",
            Some(Family::V4) => ": asked for IPv4",
            Some(Family::V6) => ": asked for IPv6",
        };
        return Err(Error::NoCommonFamily { from, to, asked });
    };
    let of_family = |ips: &[IpAddr]| ips.iter().copied().find(|ip| family_of(*ip) == family);
    Ok(Flow {
        from: Party { address: of_family(&from_ips), ..from },
        to: Party { address: of_family(&to_ips), ..to },
        protocol: question.protocol,
        port: question.port,
        family,
    })
}

/// An end without its address, and the addresses that it has.
fn end<'a>(cluster: &'a Cluster, end: &End) -> Result<(Party<'a>, Vec<IpAddr>), Error> {
    match end {
        End::Pod { namespace, name } => {
            let pod = cluster.pod(namespace, name).ok_or_else(|| Error::NoSuchPod(end.to_string()))?;
            let party = Party { pod: pod.is_endpoint().then_some(pod), address: None, node: pod.node() };
            if !pod.is_endpoint() && !pod.is_on_host_network() {
                return Err(Error::Ended(end.to_string()));
            }
            let mut ips: Vec<IpAddr> = pod.ips().collect();
            if ips.is_empty() && pod.is_on_host_network() {
                ips.extend(pod.node().into_iter().flat_map(|node| cluster.node_addresses(node)));
            }
            Ok((party, ips))
        }
        End::Address(address) => {
            let pod = cluster.endpoint_at(*address);
            let node = pod.map_or_else(|| cluster.node_at(*address), PodView::node);
            Ok((Party { pod, address: None, node }, vec![*address]))
        }
    }
}

pub(crate) fn family_of(address: IpAddr) -> Family {
    if address.is_ipv4() { Family::V4 } else { Family::V6 }
}

fn judge(cluster: &Cluster, flow: &Flow<'_>, direction: PolicyType, options: &CompileOptions) -> Half {
    if let Some(reason) = exempt(flow, direction, options) {
        return Half { allowed: reason != Reason::Tunnel, reason, steps: Vec::new() };
    }
    let steps: Vec<Step> = isolating(cluster, flow, direction)
        .map(|(policy, spec)| {
            let rules = rule_count(spec, direction);
            let mut step = Step { policy, rules, allowed_by: None, misfits: Vec::new() };
            for rule in 0..rules {
                let Some(misfit) = misfit(cluster, flow, direction, spec, rule) else {
                    step.allowed_by = Some(rule);
                    break;
                };
                step.misfits.push(misfit);
            }
            step
        })
        .collect();
    let allowing = steps.iter().find_map(|step| Some((step.policy.clone(), step.allowed_by?)));
    let reason = match allowing {
        Some((policy, rule)) => Reason::Rule { policy, rule },
        None if steps.is_empty() => Reason::NotIsolated,
        None => Reason::NoRule { policies: steps.iter().map(|step| step.policy.clone()).collect() },
    };
    Half { allowed: !matches!(reason, Reason::NoRule { .. }), reason, steps }
}

/// What decides a direction before policy is asked.
fn exempt(flow: &Flow<'_>, direction: PolicyType, options: &CompileOptions) -> Option<Reason> {
    let same = |a: PodView<'_>, b: PodView<'_>| (a.namespace(), a.name()) == (b.namespace(), b.name());
    if let (Some(from), Some(to)) = (flow.from.pod, flow.to.pod)
        && same(from, to)
    {
        return Some(Reason::Itself);
    }
    let governed = match direction {
        PolicyType::Egress => flow.from.pod,
        PolicyType::Ingress => flow.to.pod,
    };
    if governed.is_none() {
        return Some(Reason::NotAPod);
    }
    match direction {
        PolicyType::Egress => {
            let vxlan = flow.protocol == Protocol::Udp && flow.port == options.vxlan_port;
            (vxlan && !options.allow_vxlan_from_workloads).then_some(Reason::Tunnel)
        }
        PolicyType::Ingress => {
            let from_own_node = flow.from.pod.is_none() && flow.from.node.is_some() && flow.from.node == flow.to.node;
            from_own_node.then_some(Reason::OwnNode)
        }
    }
}

/// The policies that isolate the governed pod in this direction.
fn isolating<'a>(
    cluster: &'a Cluster,
    flow: &Flow<'a>,
    direction: PolicyType,
) -> impl Iterator<Item = (String, &'a NetworkPolicySpec)> {
    let pod = match direction {
        PolicyType::Egress => flow.from.pod,
        PolicyType::Ingress => flow.to.pod,
    };
    pod.into_iter().flat_map(move |pod| {
        let labels = pod.labels().to_map();
        let policies = cluster.policies_of(Some(pod.namespace())).into_iter();
        policies.filter_map(move |policy| {
            let Spec::Kubernetes(spec) = policy.spec else { return None };
            let selected = spec.policy_types.contains(&direction) && spec.pod_selector.matches(&labels);
            selected.then(|| (policy.key.to_string(), &**spec))
        })
    })
}

fn rule_count(spec: &NetworkPolicySpec, direction: PolicyType) -> usize {
    match direction {
        PolicyType::Egress => spec.egress.len(),
        PolicyType::Ingress => spec.ingress.len(),
    }
}

/// What of a rule does not fit; `None` if it allows the flow.
fn misfit(
    cluster: &Cluster,
    flow: &Flow<'_>,
    direction: PolicyType,
    spec: &NetworkPolicySpec,
    rule: usize,
) -> Option<Misfit> {
    let (peers, ports, governed, other) = match direction {
        PolicyType::Egress => (&spec.egress[rule].to, &spec.egress[rule].ports, &flow.from, &flow.to),
        PolicyType::Ingress => (&spec.ingress[rule].from, &spec.ingress[rule].ports, &flow.to, &flow.from),
    };
    let namespace = governed.pod.map_or("", |pod| pod.namespace());
    let peer = peers.is_empty() || peers.iter().any(|peer| is_peer(cluster, namespace, peer, other, flow.family));
    let port = ports.is_empty() || ports.iter().any(|port| is_port(port, flow));
    match (peer, port) {
        (true, true) => None,
        (false, true) => Some(Misfit::Peer),
        (true, false) => Some(Misfit::Port),
        (false, false) => Some(Misfit::PeerAndPort),
    }
}

/// Whether `peer`, of a policy in `namespace`, is the party.
fn is_peer(cluster: &Cluster, namespace: &str, peer: &NetworkPolicyPeer, party: &Party<'_>, family: Family) -> bool {
    if let Some(block) = &peer.ip_block {
        return in_block(block, party.address, family);
    }
    let Some(pod) = party.pod else { return false };
    if peer.pod_selector.is_none() && peer.namespace_selector.is_none() {
        return false;
    }
    let namespace_fits = match &peer.namespace_selector {
        None => **pod.namespace() == *namespace,
        Some(selector) => selector.matches(&cluster.namespace_labels(pod.namespace()).to_map()),
    };
    namespace_fits && peer.pod_selector.as_ref().is_none_or(|selector| selector.matches(&pod.labels().to_map()))
}

/// Whether the block has the address. One that is not known is in no block but the whole of its family.
fn in_block(block: &IpBlock, address: Option<IpAddr>, family: Family) -> bool {
    match address {
        Some(address) => block.cidr.contains(&address) && !block.except.iter().any(|except| except.contains(&address)),
        None => block.cidr.prefix_len() == 0 && family_of(block.cidr.addr()) == family,
    }
}

fn is_port(port: &NetworkPolicyPort, flow: &Flow<'_>) -> bool {
    port.protocol == flow.protocol
        && match (&port.port, port.end_port) {
            (None, None) => true,
            (Some(PortOrName::Number(first)), None) => flow.port == *first,
            (Some(PortOrName::Number(first)), Some(last)) => (*first..=last).contains(&flow.port),
            (Some(PortOrName::Name(name)), None) => flow.to.pod.is_some_and(|pod| {
                pod.ports().iter().any(|declared| {
                    declared.protocol == flow.protocol
                        && declared.number == flow.port
                        && declared.name.as_deref() == Some(name)
                })
            }),
            // A range needs a number to start from; the API refuses these.
            (Some(PortOrName::Name(_)) | None, Some(_)) => false,
        }
}
