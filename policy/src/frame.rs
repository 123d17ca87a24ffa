//! The frame of the table: what is the same on every node, whatever the policies.
//!
//! ```text
//! prerouting -300   guard           from a pod's interface only that pod's addresses; no tunnels
//! forward       0   egress          the source's egress class     -> ok_egress:  the flow is pending
//! forward       1   ingress         the destination's ingress class -> ok_ingress: a pending flow is stamped
//! input         0   to_host         pod to its own node: the pod's egress class -> ok_egress
//! input         1   to_host_stamp   what to_host let through: defaultEndpointToHostAction -> ok_ingress
//! ```
//!
//! and, where settings, pools or annotations ask for them, and besides the chains of [host endpoints](crate::host_frame):
//!
//! ```text
//! forward       2   service_loop    to a service address that nobody translated
//! forward       3   limits          packet rates and connection counts; of what policies allow, so that the denied uses up nothing
//! input         3   limits_to_host
//! output        3   limits_from_host
//! postrouting 100   nat_outgoing    from a pool to outside all pools
//! input        -3   tunnels         packets of an overlay that no node sent; see the module of that name
//! ```
//!
//! Traffic that is not a pod's leaves each chain first, then established and related flows with a live stamp. What is left is
//! judged. Policies look at a flow's two ends, so a packet of the reply direction is judged with the ends swapped: by the egress
//! class of the pod it goes *to* and the ingress class of the pod it comes *from*. Packets that have no flow (untracked ones)
//! are judged as if each were the first of its own.
//!
//! An ICMP error belongs to the flow that it is about and carries that flow's mark, but its own addresses are the two ends of
//! nothing: a router in between may have sent it. Letting it through by a rule of its own would also stamp the flow, denied as
//! that may be. So errors pass while their flow's stamp is live, and are dropped else: after a tightening, until the next packet
//! of the flow itself, which the one that the error answers has mostly been already.
//!
//! A verdict that allows ends in `accept`. The stamps themselves are in chains of their own that hold nothing else, because a new
//! generation writes these anew, and a rule without verdict costs no validation of the table.

use std::collections::{BTreeMap, BTreeSet};

use tortie_nft::{
    Chain, CtStates, Direction, Family, Field, Hook, HookPoint, KeyType, Match, Op, RejectWith, Rule, Ruleset, Set,
    Side, Statement, Value, Verdict, VerdictMap,
};

use crate::chains::{ct_state, deny, drop, in_set, rule, verdict};
use crate::cluster::Cluster;
use crate::denied::{Reason, counters};
use crate::generation::{Generation, LIVE_SET, PENDING_SET};
use crate::host_frame::{self, Shape, add_host};
use crate::marks::MarkMask;
use crate::nat::{NAT, NAT_SETS, add_nat};
use crate::options::{CompileOptions, DenyAction, EndpointToHost, ServiceLoop};
use crate::services::{SERVICE_LOOP, SERVICE_SETS, UNSERVED, add_service_loop};
use crate::tunnels::{self, add_tunnels};

/// The chain that every packet of a pod meets first.
const GUARD: &str = "guard";
/// The chain for what a source's egress allows.
pub(crate) const OK_EGRESS: &str = "ok_egress";
/// The chain for what a destination's ingress allows.
pub(crate) const OK_INGRESS: &str = "ok_ingress";
/// The chain that stamps a flow as pending.
pub(crate) const STAMP_PENDING: &str = "stamp_pending";
/// The chain that stamps a flow as allowed.
pub(crate) const STAMP_LIVE: &str = "stamp_live";
/// The map from a pod's interface to the chain that judges what it sends.
pub(crate) const EGRESS_CLASS: &str = "egress_class";
/// The map from a pod's interface to the chain that judges what it is sent.
pub(crate) const INGRESS_CLASS: &str = "ingress_class";
/// The set of each pod's own IPv4 addresses.
pub(crate) const OWN4: &str = "own4";
/// The set of each pod's own IPv6 addresses.
pub(crate) const OWN6: &str = "own6";
/// The set of each pod's interface twice: from it and back to it.
pub(crate) const SELF: &str = "self";
/// The chain that tells a sender that its packet is denied.
pub(crate) const REJECT: &str = "reject";
/// The map from a pod's interface to the limits of what it sends.
pub(crate) const LIMIT_EGRESS: &str = "limit_egress";
/// The map from a pod's interface to the limits of what it is sent.
pub(crate) const LIMIT_INGRESS: &str = "limit_ingress";
/// The map from a pod's interface to the chain of sources that it may use beside its own addresses.
pub(crate) const MORE_SOURCES: &str = "more_sources";
/// The base chains of limits.
const LIMITS: [&str; 3] = ["limits", "limits_to_host", "limits_from_host"];

const ICMP: u8 = 1;
const IPIP: u8 = 4;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

const LISTENER_QUERY: u8 = 130;
const LISTENER_REPORT: u8 = 131;
const LISTENER_DONE: u8 = 132;
const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;

/// What the frame depends on besides the generation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) options: &'a CompileOptions,
    /// Whether any endpoint has limits.
    pub(crate) limited: bool,
    /// What the node's host endpoints need.
    pub(crate) shape: &'a Shape,
}

/// The table of a node without endpoints.
pub(crate) fn frame(generation: Generation, Frame { cluster, options, limited, shape }: Frame<'_>) -> Ruleset {
    let mask = options.mark_mask;
    let pods = Pods {
        prefixes: &options.interface_prefixes,
        mask,
        deny: options.deny_action,
        allow_invalid: options.allow_invalid,
    };
    let mut frame = Ruleset { counters: counters(), ..Ruleset::default() };
    add_sets(&mut frame, generation, mask);
    for (name, comment, wanted) in [
        (EGRESS_CLASS, "which chain judges what a pod sends", true),
        (INGRESS_CLASS, "which chain judges what a pod is sent", true),
        (LIMIT_EGRESS, "pods with limits of what they send", limited),
        (LIMIT_INGRESS, "pods with limits of what they are sent", limited),
        (MORE_SOURCES, "pods that may send from further addresses", options.source_spoofing),
    ] {
        if wanted {
            let map = VerdictMap {
                key: vec![KeyType::IfName],
                interval: false,
                elements: BTreeMap::new(),
                comment: Some(comment.to_owned()),
            };
            frame.maps.insert(name.to_owned(), map);
        }
    }
    let mut chain = |name: &str, hook, rules| {
        frame.chains.insert(name.to_owned(), Chain { hook, rules });
    };
    chain(GUARD, Some(hook(HookPoint::Prerouting, -300)), pods.guard(options));
    chain("egress", Some(hook(HookPoint::Forward, 0)), pods.egress());
    chain("egress_reply", None, pods.egress_reply());
    chain("ingress", Some(hook(HookPoint::Forward, 1)), pods.ingress());
    chain("ingress_reply", None, ingress_reply());
    chain("to_host", Some(hook(HookPoint::Input, 0)), pods.to_host());
    chain("to_host_stamp", Some(hook(HookPoint::Input, 1)), pods.to_host_stamp(options.endpoint_to_host));
    chain(
        OK_EGRESS,
        None,
        vec![
            verdict(Vec::new(), Verdict::Jump(STAMP_PENDING.to_owned())).commented("what egress allows"),
            verdict(Vec::new(), Verdict::Accept),
        ],
    );
    let stamped = verdict(
        vec![in_set(vec![Field::CtMarkMasked(mask.bits())], Op::Eq, PENDING_SET)],
        Verdict::Jump(STAMP_LIVE.to_owned()),
    )
    .commented("what ingress allows");
    let allowed = host_frame::wait(shape).into_iter().chain([stamped, verdict(Vec::new(), Verdict::Accept)]);
    chain(OK_INGRESS, None, allowed.collect());
    chain(STAMP_PENDING, None, vec![stamp(mask, generation.pending_mark(mask)).commented("egress allows the flow")]);
    chain(STAMP_LIVE, None, vec![stamp(mask, generation.live_mark(mask)).commented("ingress allows it too")]);
    if options.deny_action == DenyAction::Reject || options.service_loop_prevention == ServiceLoop::Reject {
        let tcp = vec![Match::L4Proto(Op::Eq, TCP)];
        let rejections = vec![
            rule(tcp, vec![Statement::Reject(RejectWith::TcpReset)]),
            rule(Vec::new(), vec![Statement::Reject(RejectWith::AdminProhibited)]),
        ];
        chain(REJECT, None, rejections);
    }
    if limited {
        let [forward, input, output] = LIMITS;
        let egress = || dispatch(Field::IifName, LIMIT_EGRESS).commented("the sender's limits");
        let ingress = || dispatch(Field::OifName, LIMIT_INGRESS).commented("the receiver's limits");
        chain(forward, Some(hook(HookPoint::Forward, 3)), vec![egress(), ingress()]);
        chain(input, Some(hook(HookPoint::Input, 3)), [discovery(), vec![egress()]].concat());
        chain(output, Some(hook(HookPoint::Output, 3)), [discovery(), vec![ingress()]].concat());
    }
    add_service_loop(&mut frame, options);
    add_nat(&mut frame, cluster, options);
    add_tunnels(&mut frame, cluster, options);
    add_host(&mut frame, shape, cluster, options);
    frame
}

/// Whether whatever a base chain says holds for flows with a stamp too, so that no stamp needs to be taken back where it changes.
pub(crate) fn is_beside_stamps(chain: &str) -> bool {
    LIMITS.contains(&chain)
        || tunnels::CHAINS.contains(&chain)
        || matches!(chain, GUARD | SERVICE_LOOP | NAT)
        || host_frame::is_beside_stamps(chain)
}

/// The chains, sets and maps that a frame may have or not.
pub(crate) fn optional() -> impl Iterator<Item = &'static str> {
    let sets = NAT_SETS.into_iter().flat_map(|(_, sources, exempt)| [sources, exempt]);
    let sets = sets.chain(SERVICE_SETS.into_iter().map(|(_, name)| name));
    let sets = sets.chain(tunnels::NODE_SETS.into_iter().map(|(_, name)| name)).chain(tunnels::CHAINS);
    let chains = LIMITS.into_iter().chain([NAT, SERVICE_LOOP, UNSERVED, REJECT]);
    chains.chain(sets).chain([LIMIT_EGRESS, LIMIT_INGRESS, MORE_SOURCES]).chain(host_frame::optional())
}

fn add_sets(frame: &mut Ruleset, generation: Generation, mask: MarkMask) {
    let marks = |mark| BTreeSet::from([vec![Value::Mark(mark)]]);
    let none = BTreeSet::new;
    for (name, key, elements, comment) in [
        (OWN4, vec![KeyType::IfName, KeyType::Ipv4Addr], none(), "each pod's own addresses"),
        (OWN6, vec![KeyType::IfName, KeyType::Ipv6Addr], none(), "each pod's own addresses"),
        (SELF, vec![KeyType::IfName, KeyType::IfName], none(), "pods reach themselves, also by a Service"),
        (LIVE_SET, vec![KeyType::Mark], marks(generation.live_mark(mask)), "the generation whose stamps count"),
        (
            PENDING_SET,
            vec![KeyType::Mark],
            marks(generation.pending_mark(mask)),
            "the stamp of flows whose egress is allowed",
        ),
    ] {
        frame.sets.insert(name.to_owned(), Set { key, interval: false, elements, comment: Some(comment.to_owned()) });
    }
}

const fn hook(point: HookPoint, priority: i32) -> Hook {
    Hook::filter(point, priority)
}

pub(crate) fn goto(chain: &str) -> Verdict {
    Verdict::Goto(chain.to_owned())
}

fn stamp(mask: MarkMask, mark: u32) -> Rule {
    rule(Vec::new(), vec![Statement::SetCtMark { keep: !mask.bits(), bits: mark }])
}

/// The verdict that a map has for an interface.
pub(crate) fn dispatch(field: Field, map: &str) -> Rule {
    rule(Vec::new(), vec![Statement::Vmap { key: vec![field], map: map.to_owned() }])
}

/// Established and related packets of flows that the live generation has allowed.
pub(crate) fn live(mask: MarkMask) -> Rule {
    verdict(
        vec![
            in_set(vec![Field::CtMarkMasked(mask.bits())], Op::Eq, LIVE_SET),
            ct_state(CtStates::ESTABLISHED.or(CtStates::RELATED)),
        ],
        Verdict::Accept,
    )
    .commented("a flow that was allowed")
}

fn itself() -> Rule {
    let back = vec![in_set(vec![Field::IifName, Field::OifName], Op::Eq, SELF)];
    verdict(back, Verdict::Accept).commented("a pod reaches itself")
}

/// ICMP errors about flows without a live stamp.
fn errors() -> [Rule; 2] {
    [ICMP, ICMPV6].map(|protocol| {
        drop(
            Reason::IcmpError,
            vec![ct_state(CtStates::RELATED), Match::L4Proto(Op::Eq, protocol)],
            "an error about a flow that is not allowed",
        )
    })
}

fn icmp6(kind: u8) -> Vec<Match> {
    vec![Match::L4Proto(Op::Eq, ICMPV6), Match::Icmp { family: Family::V6, op: Op::Eq, kind, code: None }]
}

/// What a pod and its node need to find each other, whatever policies and settings say.
fn discovery() -> Vec<Rule> {
    [NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT, ROUTER_SOLICITATION]
        .map(|kind| verdict(icmp6(kind), Verdict::Accept).commented("neighbour discovery"))
        .into()
}

/// That, and who listens to which group: as Calico lets it through.
pub(crate) fn link_talk() -> Vec<Rule> {
    let groups = [LISTENER_QUERY, LISTENER_REPORT, LISTENER_DONE]
        .map(|kind| verdict(icmp6(kind), Verdict::Accept).commented("who listens to which group"));
    [discovery(), groups.into()].concat()
}

fn ingress_reply() -> Vec<Rule> {
    vec![
        dispatch(Field::IifName, INGRESS_CLASS).commented("an answer is judged by who was asked"),
        verdict(Vec::new(), goto(OK_INGRESS)),
    ]
}

/// Rules about interfaces of pods, known by their prefixes.
struct Pods<'a> {
    prefixes: &'a [String],
    mask: MarkMask,
    deny: DenyAction,
    allow_invalid: bool,
}

impl Pods<'_> {
    /// A match for each prefix: with [`Op::Ne`] they make one rule together, with [`Op::Eq`] one each.
    fn interface(&self, side: Side, op: Op) -> impl Iterator<Item = Match> {
        self.prefixes.iter().map(move |name| Match::IfName { side, op, name: name.clone(), prefix: true })
    }

    fn from(&self, op: Op) -> impl Iterator<Item = Match> {
        self.interface(Side::Source, op)
    }

    fn to(&self, op: Op) -> impl Iterator<Item = Match> {
        self.interface(Side::Destination, op)
    }

    /// Neither from a pod nor to one.
    fn strangers(&self) -> Rule {
        let matches = self.from(Op::Ne).chain(self.to(Op::Ne)).collect();
        verdict(matches, Verdict::Accept).commented("neither from a pod nor to one")
    }

    fn not_from_a_pod(&self) -> Rule {
        verdict(self.from(Op::Ne).collect(), Verdict::Accept).commented("not from a pod")
    }

    fn unknown(&self) -> impl Iterator<Item = Rule> {
        self.to(Op::Eq).map(|to| deny(self.deny, Reason::UnknownPod, vec![to], "to a pod that is not known"))
    }

    /// What is invalid is dropped, unless policies shall judge it as they judge the first packet of a flow.
    fn invalid(&self) -> Option<Rule> {
        let matches = vec![ct_state(CtStates::INVALID)];
        (!self.allow_invalid).then(|| drop(Reason::Invalid, matches, "belongs to no flow and begins none"))
    }

    /// What a pod sends is from its own addresses, and no tunnel's. Here nothing can be rejected: kernels before 5.9 refuse such rules.
    fn guard(&self, options: &CompileOptions) -> Vec<Rule> {
        let addr = |side, text: &str| Match::Addr { side, op: Op::Eq, net: net(text) };
        let source = |family, field, set: &str| {
            let matches = vec![Match::NfProto(family), in_set(vec![Field::IifName, field], Op::Eq, set)];
            verdict(matches, Verdict::Accept).commented("its own address")
        };
        let mut rules = vec![self.not_from_a_pod()];
        if !options.allow_ipip_from_workloads {
            rules.push(drop(Reason::Tunnelled, vec![Match::L4Proto(Op::Eq, IPIP)], "IP in IP from a pod"));
        }
        if !options.allow_vxlan_from_workloads {
            let (first, last) = (options.vxlan_port, options.vxlan_port);
            rules.push(drop(
                Reason::Tunnelled,
                vec![Match::L4Proto(Op::Eq, UDP), Match::Port { side: Side::Destination, op: Op::Eq, first, last }],
                "VXLAN from a pod",
            ));
        }
        rules.push(source(Family::V4, Field::Ip4Saddr, OWN4));
        rules.push(source(Family::V6, Field::Ip6Saddr, OWN6));
        // Link-local addresses end at this interface: the kernel never forwards them, so a pod may choose its own.
        rules.push(
            verdict(vec![Match::NfProto(Family::V6), addr(Side::Source, "fe80::/10")], Verdict::Accept)
                .commented("goes no further than here"),
        );
        // Before a pod's address may be used, its owner asks whether it is free, from no address at all.
        rules.extend(["fe80::/10", "ff02::/16"].map(|to| {
            verdict(
                vec![
                    Match::NfProto(Family::V6),
                    addr(Side::Source, "::/128"),
                    addr(Side::Destination, to),
                    Match::L4Proto(Op::Eq, ICMPV6),
                ],
                Verdict::Accept,
            )
            .commented("is this address free?")
        }));
        if options.source_spoofing {
            rules.push(dispatch(Field::IifName, MORE_SOURCES).commented("workloadSourceSpoofing: Any"));
        }
        rules.push(drop(Reason::Spoofed, Vec::new(), "not the pod's own address"));
        rules
    }

    fn egress(&self) -> Vec<Rule> {
        let mut rules = vec![self.strangers()];
        rules.extend(self.invalid());
        rules.extend([live(self.mask), itself()]);
        rules.extend(errors());
        rules.extend([
            verdict(vec![Match::CtDirection(Direction::Reply)], goto("egress_reply")),
            dispatch(Field::IifName, EGRESS_CLASS).commented("the policies of the pod that sends"),
            verdict(Vec::new(), goto(OK_EGRESS)).commented("not from a pod: only ingress has a say"),
        ]);
        rules
    }

    fn egress_reply(&self) -> Vec<Rule> {
        let mut rules = vec![dispatch(Field::OifName, EGRESS_CLASS).commented("an answer is judged by who asked")];
        rules.extend(self.unknown());
        rules.push(verdict(Vec::new(), goto(OK_EGRESS)));
        rules
    }

    fn ingress(&self) -> Vec<Rule> {
        let mut rules = vec![
            self.strangers(),
            live(self.mask),
            itself(),
            verdict(vec![Match::CtDirection(Direction::Reply)], goto("ingress_reply")),
            dispatch(Field::OifName, INGRESS_CLASS).commented("the policies of the pod that is sent to"),
        ];
        rules.extend(self.unknown());
        rules.push(verdict(Vec::new(), goto(OK_INGRESS)).commented("not to a pod: only egress had a say"));
        rules
    }

    fn to_host(&self) -> Vec<Rule> {
        let mut rules = vec![
            self.not_from_a_pod(),
            verdict(vec![Match::CtDirection(Direction::Reply)], Verdict::Accept).commented("what the node began"),
            live(self.mask),
        ];
        rules.extend(link_talk());
        for kind in [ROUTER_ADVERTISEMENT, REDIRECT] {
            rules.push(drop(Reason::Router, icmp6(kind), "a pod is no router"));
        }
        rules.extend(self.invalid());
        rules.extend(errors());
        rules.extend([
            dispatch(Field::IifName, EGRESS_CLASS).commented("the policies of the pod that sends"),
            deny(self.deny, Reason::UnknownPod, Vec::new(), "from a pod that is not known"),
        ]);
        rules
    }

    /// What becomes of what egress allows to the node.
    fn to_host_stamp(&self, action: EndpointToHost) -> Vec<Rule> {
        match action {
            EndpointToHost::Accept | EndpointToHost::Return => {
                let pods = self.from(Op::Eq);
                pods.map(|from| verdict(vec![from], goto(OK_INGRESS)).commented("defaultEndpointToHostAction"))
                    .collect()
            }
            EndpointToHost::Drop => {
                let mut rules = vec![
                    self.not_from_a_pod(),
                    verdict(vec![Match::CtDirection(Direction::Reply)], Verdict::Accept)
                        .commented("what the node began"),
                ];
                rules.extend(link_talk());
                rules.push(deny(self.deny, Reason::EndpointToHost, Vec::new(), "defaultEndpointToHostAction: Drop"));
                rules
            }
        }
    }
}

/// One of the frame's own prefixes.
fn net(text: &str) -> ipnet::IpNet {
    text.parse().expect("a prefix written in this file")
}
