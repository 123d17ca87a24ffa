//! From a cluster and a node's endpoints to the node's whole table.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use tortie_api::k8s::PolicyType;
use tortie_nft::{Ruleset, Value, Verdict};

use crate::chains::Builder;
use crate::cluster::{Cluster, Group, PodPort, PodView, PolicyView, Spec};
use crate::describe::whose;
use crate::frame::{EGRESS_CLASS, Frame, INGRESS_CLASS, OWN4, OWN6, SELF, frame};
use crate::generation::Generation;
use crate::host_programs;
use crate::lines::names_own_ports;
use crate::names::Names;
use crate::options::CompileOptions;
use crate::program::{Last, Program};
use crate::special::write_special;
use crate::view::Site;

/// A pod's interface on this node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The host's end of its veth, see [`host_interface`](crate::host_interface).
    pub interface: String,
    /// The addresses it may use.
    pub ips: Vec<IpAddr>,
}

/// The table that a node with these endpoints wants, whole, in the given generation.
///
/// Equal arguments make equal rulesets, whatever the order in which the cluster learned of its resources. An endpoint whose pod
/// has no document, or has ended, may neither send nor receive: nobody can say yet which policies are meant for it.
pub fn compile(cluster: &Cluster, endpoints: &[Endpoint], generation: Generation, options: &CompileOptions) -> Ruleset {
    let limited = endpoints.iter().any(|endpoint| is_limited(cluster, endpoint));
    let hosts = host_programs::programs(cluster, &options.host.interfaces);
    let frame = frame(generation, Frame { cluster, options, limited, shape: &host_programs::shape(&hosts) });
    let mut compilation = Compilation {
        cluster,
        options,
        builder: Builder::new(cluster, frame, Names::default(), options),
        governed: FxHashMap::default(),
        classes: FxHashMap::default(),
    };
    for endpoint in endpoints.iter().collect::<BTreeSet<_>>() {
        compilation.endpoint(endpoint);
    }
    let leads = host_programs::write(&mut compilation.builder, &hosts);
    let mut ruleset = compilation.builder.finish();
    for ((map, interface), verdict) in leads.elements {
        if let Some(map) = ruleset.maps.get_mut(map) {
            map.elements.insert(interface, verdict);
        }
    }
    ruleset.chains.extend(leads.any.into_iter().map(|(name, chain)| (name.to_owned(), chain)));
    ruleset
}

/// Why an endpoint whose pod nobody has described may not send nor receive.
pub(crate) const UNKNOWN: &str = "the pod is not known, or has ended";

/// What decides a class: direction, group, and the pod's ports where policies call them by name.
type ClassKey = (PolicyType, Group, Option<Arc<[PodPort]>>);

/// Whether the endpoint's pod has limits of packets or connections.
fn is_limited(cluster: &Cluster, endpoint: &Endpoint) -> bool {
    cluster.special(&endpoint.namespace, &endpoint.pod).is_some_and(|special| !special.limits.is_none())
}

/// The policies that govern a group, and whether it matters in each direction which ports a pod of it declares.
type Governed<'a> = (Rc<[PolicyView<'a>]>, [bool; 2]);

struct Compilation<'a> {
    cluster: &'a Cluster,
    options: &'a CompileOptions,
    builder: Builder<'a>,
    governed: FxHashMap<Group, Governed<'a>>,
    classes: FxHashMap<ClassKey, String>,
}

impl<'a> Compilation<'a> {
    fn endpoint(&mut self, endpoint: &Endpoint) {
        let name = || Value::IfName(endpoint.interface.clone());
        let pod = self.cluster.pod(&endpoint.namespace, &endpoint.pod);
        for (direction, map) in [(PolicyType::Egress, EGRESS_CLASS), (PolicyType::Ingress, INGRESS_CLASS)] {
            let class = match pod {
                Some(pod) if pod.is_endpoint() => self.class(pod, direction),
                _ => self.unknown(direction),
            };
            if let Some(map) = self.builder.ruleset.maps.get_mut(map) {
                map.elements.insert(vec![name()], Verdict::Goto(class));
            }
        }
        for (map, verdict) in write_special(&mut self.builder, endpoint, self.options) {
            if let Some(map) = self.builder.ruleset.maps.get_mut(map) {
                map.elements.insert(vec![name()], verdict);
            }
        }
        let mut insert = |set: &str, key| {
            if let Some(set) = self.builder.ruleset.sets.get_mut(set) {
                set.elements.insert(key);
            }
        };
        insert(SELF, vec![name(), name()]);
        for ip in &endpoint.ips {
            insert(if ip.is_ipv4() { OWN4 } else { OWN6 }, vec![name(), Value::Addr(*ip)]);
        }
    }

    /// The class of endpoints whose pod nobody has described.
    fn unknown(&mut self, direction: PolicyType) -> String {
        self.builder.closed(&Site::of_pods(direction), UNKNOWN)
    }

    /// The chain that judges the pod in one direction.
    fn class(&mut self, pod: PodView<'a>, direction: PolicyType) -> String {
        let group = pod.group().clone();
        let (governing, asks) = self.governed_by(&group);
        let by_name = asks[usize::from(direction == PolicyType::Egress)];
        let key = (direction, group, by_name.then(|| Arc::clone(pod.ports())));
        if let Some(class) = self.classes.get(&key) {
            return class.clone();
        }
        let ports: &[PodPort] = if by_name { pod.ports() } else { &[] };
        let class = write_class(&mut self.builder, direction, &governing, ports);
        self.classes.insert(key, class.clone());
        class
    }

    /// The policies that govern the group, in order.
    fn governed_by(&mut self, group: &Group) -> Governed<'a> {
        if let Some((policies, asks)) = self.governed.get(group) {
            return (Rc::clone(policies), *asks);
        }
        let policies: Rc<[PolicyView<'a>]> = governing(self.cluster, group).into();
        let asks = [PolicyType::Ingress, PolicyType::Egress].map(|direction| asks_for_ports(&policies, direction));
        self.governed.insert(group.clone(), (Rc::clone(&policies), asks));
        (policies, asks)
    }
}

/// The policies that govern pods of a group, in order. Those that judge before conntrack or before DNAT are for host endpoints alone.
pub(crate) fn governing<'a>(cluster: &'a Cluster, group: &Group) -> Vec<PolicyView<'a>> {
    let is_for_pods = |policy: &PolicyView<'_>| match policy.spec {
        Spec::Calico(spec) => !spec.do_not_track && !spec.pre_dnat,
        _ => true,
    };
    cluster.governing(&cluster.seen_group(group)).into_iter().filter(is_for_pods).collect()
}

/// Whether what these policies say in this direction depends on the ports that the pod itself declares.
pub(crate) fn asks_for_ports(governing: &[PolicyView<'_>], direction: PolicyType) -> bool {
    governing.iter().any(|policy| policy.spec.governs(direction) && names_own_ports(policy.spec, direction))
}

/// Writes the chain of pods that these policies govern, in order, and that declare these ports. Returns its name.
pub(crate) fn write_class(
    builder: &mut Builder<'_>,
    direction: PolicyType,
    governing: &[PolicyView<'_>],
    ports: &[PodPort],
) -> String {
    let concerned: Vec<PolicyView<'_>> =
        governing.iter().filter(|policy| policy.spec.governs(direction)).copied().collect();
    let program = Program::of(builder.resolver.cluster, concerned.iter().copied(), direction, Last::Allow);
    builder.program(&Site::of_pods(direction), &program, ports, &whose(&concerned))
}
