//! What is asked of the policies of the node's host endpoints, and where.
//!
//! Only GlobalNetworkPolicies select host endpoints. One of them is about one of three things: with `doNotTrack` about packets before
//! conntrack, with `preDNAT` about flows before DNAT, else about what comes to the node and what it sends, and with `applyOnForward` also
//! about what it forwards. Of the first two kinds only rules decide, never a tier's default; and they have no profiles.

use std::collections::BTreeMap;
use std::sync::Arc;

use tortie_api::Kind;
use tortie_api::calico::{Action, PolicySpec};
use tortie_api::k8s::PolicyType;
use tortie_nft::{Chain, Key, Value, Verdict};

use crate::chains::{Builder, Whose, verdict};
use crate::cluster::{Cluster, HostState, PolicyKey, PolicyView, Spec};
use crate::describe::shortened;
use crate::host::HostInterface;
use crate::host_frame::{OK_ANYWAY, OK_FORWARD, OK_INPUT, OK_OUTPUT, OK_PRE_DNAT, OK_UNTRACKED, Place, Shape};
use crate::lines;
use crate::program::{Last, Policy, Program, Tier};
use crate::view::Site;

/// The profile that allows everything, which exists without a document.
const ALLOW_ALL: &str = "projectcalico-default-allow";

/// The programs of a host endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostPrograms {
    /// Which endpoint it is, and what it is for.
    pub(crate) host: HostInterface,
    /// What is asked at each place where something is.
    pub(crate) places: BTreeMap<Place, Program>,
}

/// Those of these endpoints that exist.
pub(crate) fn programs(cluster: &Cluster, hosts: &[HostInterface]) -> Vec<HostPrograms> {
    let known = hosts.iter().filter_map(|host| Some((host, cluster.host(&host.endpoint)?)));
    let programs = known.map(|(host, state)| HostPrograms { host: host.clone(), places: places(cluster, host, state) });
    programs.collect()
}

/// What policies ask of these endpoints in vain: a sentence on each.
pub(crate) fn unheeded(cluster: &Cluster, hosts: &[HostInterface]) -> Vec<String> {
    let everywhere = hosts.iter().filter(|host| host.interface.is_none());
    let known = everywhere.filter_map(|host| Some((&host.endpoint, cluster.host(&host.endpoint)?)));
    let pairs = known.flat_map(|(endpoint, state)| {
        let governing = cluster.governing(&state.seen());
        let untracked = governing.into_iter().filter(|view| is_of(view, Sort::Untracked));
        untracked.map(move |view| (view.key.clone(), endpoint))
    });
    pairs
        .map(|(policy, endpoint)| {
            format!(
                "{} {policy}: spec.doNotTrack: true has no effect on HostEndpoint {endpoint}, whose spec.interfaceName is \"*\": make a \
                 HostEndpoint for each interface that the policy is meant for",
                policy.kind
            )
        })
        .collect()
}

/// What the frame has to have for these.
pub(crate) fn shape(programs: &[HostPrograms]) -> Shape {
    let mut shape = Shape::default();
    for HostPrograms { host, places, .. } in programs {
        let everywhere = host.interface.is_none();
        shape.everywhere |= everywhere;
        shape.interfaces.extend(host.interface.clone());
        for place in places.keys() {
            *shape.places.entry(*place).or_default() |= everywhere;
        }
    }
    shape
}

/// Which policies a program is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    Normal,
    Forward,
    PreDnat,
    Untracked,
}

impl Sort {
    fn has(self, spec: &PolicySpec) -> bool {
        match self {
            Self::Untracked => spec.do_not_track,
            Self::PreDnat => spec.pre_dnat && !spec.do_not_track,
            Self::Normal => !spec.pre_dnat && !spec.do_not_track,
            Self::Forward => Self::Normal.has(spec) && spec.apply_on_forward,
        }
    }
}

fn places(cluster: &Cluster, host: &HostInterface, state: &HostState) -> BTreeMap<Place, Program> {
    let governing = cluster.governing(&state.seen());
    let of = |sort: Sort, direction, last| {
        let policies = governing.iter().filter(|view| is_of(view, sort)).copied();
        Program::of(cluster, policies, direction, last)
    };
    let mut places = BTreeMap::new();
    for (place, direction) in [(Place::Ingress, PolicyType::Ingress), (Place::Egress, PolicyType::Egress)] {
        places.insert(place, with_profiles(cluster, state, of(Sort::Normal, direction, Last::Deny)));
    }
    let mut add = |place, program: Program| {
        if !program.tiers.is_empty() {
            places.insert(place, program);
        }
    };
    add(Place::ForwardIngress, of(Sort::Forward, PolicyType::Ingress, Last::Allow));
    add(Place::ForwardEgress, of(Sort::Forward, PolicyType::Egress, Last::Allow));
    add(Place::PreDnat, only_rules(of(Sort::PreDnat, PolicyType::Ingress, Last::Return)));
    // As in Calico, an endpoint for all interfaces knows no policies before conntrack.
    if host.interface.is_some() {
        for (place, anyway, direction) in [
            (Place::UntrackedIngress, Place::AnywayIngress, PolicyType::Ingress),
            (Place::UntrackedEgress, Place::AnywayEgress, PolicyType::Egress),
        ] {
            let untracked = only_rules(of(Sort::Untracked, direction, Last::Return));
            add(anyway, once_more(untracked.clone()));
            add(place, untracked);
        }
    }
    places
}

fn is_of(view: &PolicyView<'_>, sort: Sort) -> bool {
    matches!(view.spec, Spec::Calico(spec) if sort.has(spec))
}

/// The same without defaults of tiers.
fn only_rules(mut program: Program) -> Program {
    for tier in &mut program.tiers {
        tier.denies = false;
    }
    program
}

/// The same where a packet comes that has been asked about: nothing is logged twice, and staged policies have counted.
fn once_more(mut program: Program) -> Program {
    for tier in &mut program.tiers {
        tier.policies.retain(|policy| !policy.staged);
        for policy in &mut tier.policies {
            policy.lines.retain(|line| line.action != Action::Log);
        }
    }
    program.tiers.retain(|tier| !tier.policies.is_empty());
    program
}

/// The program, and after its tiers the profiles of the endpoint.
fn with_profiles(cluster: &Cluster, state: &HostState, mut program: Program) -> Program {
    let mut policies = Vec::new();
    for name in &state.spec.profiles {
        let lines = match cluster.profile(name) {
            Some(profile) => {
                let rules = match program.direction {
                    PolicyType::Ingress => &profile.ingress,
                    PolicyType::Egress => &profile.egress,
                };
                lines::of_calico(None, rules)
            }
            None if name == ALLOW_ALL => {
                program.last = Last::Allow;
                break;
            }
            // What is missing allows nothing.
            None => continue,
        };
        let key = PolicyKey { namespace: None, name: Arc::from(name.as_str()), kind: Kind::Profile };
        policies.push(Policy { key, staged: false, lines });
    }
    if !policies.is_empty() {
        program.tiers.push(Tier { name: "profiles".to_owned(), denies: false, policies });
    }
    program
}

/// Where policies of host endpoints judge. What is denied can be rejected to the node and on its way through it; a process of the node
/// itself learns of a drop, and in prerouting kernels before 5.9 know no rejection.
fn site(place: Place) -> Site {
    let (prefix, allowed) = match place {
        Place::Ingress => ("hi_", OK_INPUT),
        Place::Egress => ("he_", OK_OUTPUT),
        Place::ForwardIngress => ("fi_", OK_FORWARD),
        Place::ForwardEgress => ("fe_", OK_FORWARD),
        Place::PreDnat => ("d_", OK_PRE_DNAT),
        Place::UntrackedIngress => ("ui_", OK_UNTRACKED),
        Place::UntrackedEgress => ("ue_", OK_UNTRACKED),
        Place::AnywayIngress => ("ai_", OK_ANYWAY),
        Place::AnywayEgress => ("ae_", OK_ANYWAY),
    };
    Site {
        prefix,
        allowed: Verdict::Goto(allowed.to_owned()),
        replies: place.is_tracked(),
        drops: !matches!(place, Place::Ingress | Place::ForwardIngress | Place::ForwardEgress),
        own: false,
        whom: "host endpoints",
    }
}

/// What leads to the classes of host endpoints.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Leads {
    /// Elements: the map, the interface, and where it leads.
    pub(crate) elements: BTreeMap<(&'static str, Key), Verdict>,
    /// The chains of the endpoint for all interfaces.
    pub(crate) any: BTreeMap<&'static str, Chain>,
}

/// Writes the classes.
pub(crate) fn write(builder: &mut Builder<'_>, programs: &[HostPrograms]) -> Leads {
    let mut leads = Leads::default();
    for HostPrograms { host, places } in programs {
        let endpoint = format!("HostEndpoint {}", host.endpoint);
        for (place, program) in places {
            let policies: Vec<String> = program.policies().map(|policy| policy.key.to_string()).take(2).collect();
            let policies = match program.policies().count() {
                0 => "no policy".to_owned(),
                count => shortened(&policies, count),
            };
            let whose = Whose { policies, endpoints: endpoint.clone() };
            // Where it is asked once more nothing is counted once more.
            let counts = builder.counts;
            builder.counts &= !matches!(place, Place::AnywayIngress | Place::AnywayEgress);
            let class = builder.program(&site(*place), program, &[], &whose);
            builder.counts = counts;
            if let Some(interface) = &host.interface {
                let key = vec![Value::IfName(interface.clone())];
                leads.elements.insert((place.map(), key), place.lead(class));
            } else {
                let lead = verdict(Vec::new(), Verdict::Goto(class)).commented(&endpoint);
                leads.any.insert(place.any(), Chain { hook: None, rules: vec![lead] });
            }
        }
    }
    leads
}
