//! From a cluster and a node's endpoints to the node's whole table.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use tortie_api::k8s::PolicyType;
use tortie_nft::{Ruleset, Value, Verdict};

use crate::chains::{ALL_PODS, Builder, Whose, describe_pods};
use crate::class::{Access, Policy, names_ports};
use crate::cluster::{Cluster, Group, PodPort, PodView};
use crate::frame::{EGRESS_CLASS, Frame, INGRESS_CLASS, OWN4, OWN6, SELF, frame};
use crate::generation::Generation;
use crate::host_frame::Shape;
use crate::governors::governing;
use crate::names::Names;
use crate::options::CompileOptions;
use crate::special::write_special;

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
    let frame = frame(generation, Frame { cluster, options, limited, shape: &Shape::default() });
    let mut compilation = Compilation {
        cluster,
        options,
        builder: Builder::new(cluster, frame, Names::default(), options.deny_action),
        governed: FxHashMap::default(),
        classes: FxHashMap::default(),
    };
    for endpoint in endpoints.iter().collect::<BTreeSet<_>>() {
        compilation.endpoint(endpoint);
    }
    compilation.builder.ruleset
}

/// Why an endpoint whose pod nobody has described may not send nor receive.
pub(crate) const UNKNOWN: &str = "the pod is not known, or has ended";

/// What decides a class: direction, group, and the pod's ports where policies call them by name.
type ClassKey = (PolicyType, Group, Option<Arc<[PodPort]>>);

/// Whether the endpoint's pod has limits of packets or connections.
fn is_limited(cluster: &Cluster, endpoint: &Endpoint) -> bool {
    cluster.special(&endpoint.namespace, &endpoint.pod).is_some_and(|special| !special.limits.is_none())
}

struct Compilation<'a> {
    cluster: &'a Cluster,
    options: &'a CompileOptions,
    builder: Builder<'a>,
    governed: FxHashMap<Group, Rc<[Policy<'a>]>>,
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
        self.builder.closed(direction, UNKNOWN)
    }

    /// The chain that judges the pod in one direction.
    fn class(&mut self, pod: PodView<'a>, direction: PolicyType) -> String {
        let group = pod.group().clone();
        let governed = self.governed_by(&group);
        let isolating = isolating(&governed, direction);
        let by_name = asks_for_ports(&isolating, direction);
        let key = (direction, group, by_name.then(|| Arc::clone(pod.ports())));
        if let Some(class) = self.classes.get(&key) {
            return class.clone();
        }
        let ports: &[PodPort] = if by_name { pod.ports() } else { &[] };
        let class = write_class(&mut self.builder, direction, &isolating, ports);
        self.classes.insert(key, class.clone());
        class
    }

    /// The policies that select the group, in the order of their names.
    fn governed_by(&mut self, group: &Group) -> Rc<[Policy<'a>]> {
        if let Some(policies) = self.governed.get(group) {
            return Rc::clone(policies);
        }
        let policies: Rc<[Policy<'a>]> = governing(self.cluster, group).into();
        self.governed.insert(group.clone(), Rc::clone(&policies));
        policies
    }
}

/// Those of the policies that isolate in this direction.
pub(crate) fn isolating<'a>(governed: &[Policy<'a>], direction: PolicyType) -> Vec<Policy<'a>> {
    governed.iter().filter(|policy| policy.spec.policy_types.contains(&direction)).cloned().collect()
}

/// Whether what these policies allow depends on the ports that the pod itself declares.
pub(crate) fn asks_for_ports(isolating: &[Policy<'_>], direction: PolicyType) -> bool {
    direction == PolicyType::Ingress && isolating.iter().any(|policy| names_ports(policy.spec, direction))
}

/// Writes the chain of pods that these policies isolate, and that declare these ports. Returns its name.
pub(crate) fn write_class(
    builder: &mut Builder<'_>,
    direction: PolicyType,
    isolating: &[Policy<'_>],
    ports: &[PodPort],
) -> String {
    if isolating.is_empty() {
        return builder.open(direction);
    }
    let access = Access::of(isolating, direction, ports);
    let whose = Whose { policies: in_the_name_of(isolating), pods: selected_by(isolating) };
    builder.class(direction, &access, &whose)
}

/// The pods that these policies select: each is in the selection of all of them.
fn selected_by(policies: &[Policy<'_>]) -> String {
    let namespace = policies.first().map_or("", |policy| policy.namespace);
    let selections: BTreeSet<String> = policies.iter().map(|policy| describe_pods(&policy.spec.pod_selector)).collect();
    let selections: Vec<&str> = selections.iter().map(String::as_str).filter(|it| *it != ALL_PODS).collect();
    match selections.len() {
        0 => format!("{ALL_PODS} of {namespace}"),
        1..=SHOWN => format!("pods of {namespace} with {}", selections.join(" and ")),
        more => format!("pods of {namespace} with {} and {} more", selections[..SHOWN].join(" and "), more - SHOWN),
    }
}

/// How many names or selectors a comment has room for.
const SHOWN: usize = 2;

/// The policies' names in short: the first ones, and how many more.
fn in_the_name_of(policies: &[Policy<'_>]) -> String {
    let names: Vec<String> =
        policies.iter().take(SHOWN).map(|policy| format!("{}/{}", policy.namespace, policy.name)).collect();
    let names = names.join(", ");
    match policies.len().saturating_sub(SHOWN) {
        0 => names,
        more => format!("{names} and {more} more"),
    }
}
