//! What few pods have, and all others do without: limits, and further addresses to send from.
//!
//! Whoever has none costs nothing: no rule, no element, no memory. Whoever has some gets chains of its own, which verdict maps lead to
//! by its interface. A limit's chain is one pod's, for it is the kernel's state too: two pods in one chain would share one allowance.

use ipnet::IpNet;
use tortie_api::k8s::{ALLOWED_SOURCE_PREFIXES, Pod, TrafficLimit, TrafficLimits};
use tortie_nft::{CtStates, Family, Field, Match, Op, RejectWith, Rule, Statement, Verdict, comment};

use crate::chains::{Builder, ct_state, in_set, rule, verdict};
use crate::compile::Endpoint;
use crate::denied::Reason;
use crate::frame::{LIMIT_EGRESS, LIMIT_INGRESS, MORE_SOURCES};
use crate::options::CompileOptions;

const TCP: u8 = 6;

/// What a pod's annotations ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Special {
    /// How many packets and connections it may have.
    pub(crate) limits: TrafficLimits,
    /// The prefixes that it wants to send from beside its own addresses.
    sources: Vec<IpNet>,
    /// What is wrong with its annotations.
    problems: Vec<String>,
}

impl Special {
    /// What is special about the pod; nothing in most cases.
    pub(crate) fn of(pod: &Pod) -> Option<Box<Self>> {
        if pod.metadata.annotations.is_empty() || !pod.is_endpoint() {
            return None;
        }
        let (limits, mut errors) = pod.traffic_limits();
        let sources = pod.allowed_source_prefixes().unwrap_or_else(|error| {
            errors.push(error);
            Vec::new()
        });
        let name = format!("{}/{}", pod.metadata.namespace.as_deref().unwrap_or("default"), pod.metadata.name);
        let problems: Vec<String> = errors.iter().map(|error| format!("Pod {name}: {error}")).collect();
        let special = Self { limits, sources, problems };
        (!special.limits.is_none() || !special.sources.is_empty() || !special.problems.is_empty())
            .then(|| Box::new(special))
    }

    /// What an operator should know, one sentence each.
    pub(crate) fn problems(&self, endpoint: &Endpoint, options: &CompileOptions) -> Vec<String> {
        let mut problems = self.problems.clone();
        if !self.sources.is_empty() && !options.source_spoofing {
            problems.push(format!(
                "Pod {}/{}: metadata.annotations[{ALLOWED_SOURCE_PREFIXES}] has no effect, the pod sends from its own \
                 addresses only: allow it by workloadSourceSpoofing: Any in FelixConfiguration, or remove it",
                endpoint.namespace, endpoint.pod
            ));
        }
        problems
    }
}

/// Writes the chains of what is special about an endpoint. Returns the elements that lead to them: the map, and the verdict for the
/// endpoint's interface.
pub(crate) fn write_special(
    builder: &mut Builder<'_>,
    endpoint: &Endpoint,
    options: &CompileOptions,
) -> Vec<(&'static str, Verdict)> {
    let cluster = builder.resolver.cluster;
    let Some(special) = cluster.special(&endpoint.namespace, &endpoint.pod) else { return Vec::new() };
    let mut elements = Vec::new();
    let sides = [
        (LIMIT_EGRESS, "le_", special.limits.egress, Words { verb: "sends", beginner: "from" }),
        (LIMIT_INGRESS, "li_", special.limits.ingress, Words { verb: "is sent", beginner: "to" }),
    ];
    for (map, prefix, limit, words) in sides {
        if !limit.is_none() {
            let pod = format!("{}/{}", endpoint.namespace, endpoint.pod);
            let chain = builder.own_chain(prefix, &(&pod, limit), || limit_rules(&pod, limit, &words));
            elements.push((map, Verdict::Jump(chain)));
        }
    }
    if options.source_spoofing && !special.sources.is_empty() {
        let chain = source_chain(builder, &special.sources);
        elements.push((MORE_SOURCES, Verdict::Jump(chain)));
    }
    elements
}

/// The words for one direction.
struct Words {
    verb: &'static str,
    beginner: &'static str,
}

fn limit_rules(pod: &str, limit: TrafficLimit, words: &Words) -> Vec<Rule> {
    let mut rules = Vec::new();
    if let Some(packets) = limit.packets {
        rules.push(Rule {
            matches: vec![Match::LimitOver { packets_per_second: packets.rate, burst: packets.burst }],
            statements: Reason::Limit.counted(Statement::Verdict(Verdict::Drop)),
            comment: Some(comment(&format!("{pod} {} more than {} packets a second", words.verb, packets.rate))),
        });
    }
    if let Some(connections) = limit.connections {
        rules.push(Rule {
            matches: vec![Match::L4Proto(Op::Eq, TCP), ct_state(CtStates::NEW), Match::CtCountOver(connections)],
            statements: Reason::Limit.counted(Statement::Reject(RejectWith::TcpReset)),
            comment: Some(comment(&format!("{connections} connections {} {pod} are open", words.beginner))),
        });
    }
    rules
}

/// The chain of all endpoints that may send from these prefixes too.
fn source_chain(builder: &mut Builder<'_>, sources: &[IpNet]) -> String {
    let ranges: Vec<_> = sources.iter().map(|net| (*net, Vec::new())).collect();
    let mut rules = Vec::new();
    for (family, field) in [(Family::V4, Field::Ip4Saddr), (Family::V6, Field::Ip6Saddr)] {
        if let Some(set) = builder.range_set(&ranges, family) {
            let from = vec![Match::NfProto(family), in_set(vec![field], Op::Eq, &set)];
            rules.push(verdict(from, Verdict::Accept).commented("allowedSourcePrefixes of these pods"));
        }
    }
    // An empty chain is one that nobody would know what for.
    if rules.is_empty() {
        rules.push(rule(Vec::new(), vec![Statement::Verdict(Verdict::Return)]));
    }
    builder.own_chain("a_", &rules.clone(), || rules)
}
