//! The frame of the table: what is the same on every node, whatever the policies.
//!
//! ```text
//! prerouting -300   guard           from a pod's interface only that pod's addresses; no tunnels
//! forward       0   egress          the source's egress class     -> ok_egress:  the flow is pending
//! forward       1   ingress         the destination's ingress class -> ok_ingress: a pending flow is stamped
//! input         0   to_host         pod to its own node: the pod's egress class -> ok_egress
//! input         1   to_host_stamp   what to_host let through -> ok_ingress
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

use tortie_nft::{
    Chain, CtStates, Direction, Family, Field, Hook, HookPoint, KeyType, Match, Op, Rule, Ruleset, Set, Side,
    Statement, Value, Verdict, VerdictMap,
};

use crate::chains::{ct_state, drop, in_set, rule, verdict};
use crate::generation::{Generation, LIVE_SET, PENDING_SET};
use crate::marks::MarkMask;
use crate::options::CompileOptions;

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

const ICMP: u8 = 1;
const IPIP: u8 = 4;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;

/// The table of a node without endpoints.
pub(crate) fn frame(generation: Generation, options: &CompileOptions) -> Ruleset {
    let mask = options.mark_mask;
    let pods = Pods { prefix: &options.interface_prefix, mask };
    let mut frame = Ruleset::default();
    let sets = [
        (OWN4, vec![KeyType::IfName, KeyType::Ipv4Addr], "each pod's own addresses"),
        (OWN6, vec![KeyType::IfName, KeyType::Ipv6Addr], "each pod's own addresses"),
        (SELF, vec![KeyType::IfName, KeyType::IfName], "pods reach themselves, also by a Service"),
        (LIVE_SET, vec![KeyType::Mark], "the generation whose stamps count"),
        (PENDING_SET, vec![KeyType::Mark], "the stamp of flows whose egress is allowed"),
    ];
    for (name, key, comment) in sets {
        let elements = match name {
            LIVE_SET => [vec![Value::Mark(generation.live_mark(mask))]].into(),
            PENDING_SET => [vec![Value::Mark(generation.pending_mark(mask))]].into(),
            _ => std::collections::BTreeSet::new(),
        };
        frame.sets.insert(name.to_owned(), Set { key, interval: false, elements, comment: Some(comment.to_owned()) });
    }
    for (name, comment) in
        [(EGRESS_CLASS, "what judges the packets of a pod"), (INGRESS_CLASS, "what judges the packets to a pod")]
    {
        frame.maps.insert(
            name.to_owned(),
            VerdictMap {
                key: vec![KeyType::IfName],
                interval: false,
                elements: std::collections::BTreeMap::new(),
                comment: Some(comment.to_owned()),
            },
        );
    }
    let mut chain = |name: &str, hook, rules| {
        frame.chains.insert(name.to_owned(), Chain { hook, rules });
    };
    chain("guard", Some(hook(HookPoint::Prerouting, -300)), pods.guard(options.vxlan_port));
    chain("egress", Some(hook(HookPoint::Forward, 0)), pods.egress());
    chain("egress_reply", None, pods.egress_reply());
    chain("ingress", Some(hook(HookPoint::Forward, 1)), pods.ingress());
    chain("ingress_reply", None, ingress_reply());
    chain("to_host", Some(hook(HookPoint::Input, 0)), pods.to_host());
    chain("to_host_stamp", Some(hook(HookPoint::Input, 1)), vec![verdict(vec![pods.from(Op::Eq)], goto(OK_INGRESS))]);
    chain(
        OK_EGRESS,
        None,
        vec![verdict(Vec::new(), Verdict::Jump(STAMP_PENDING.to_owned())), verdict(Vec::new(), Verdict::Accept)],
    );
    chain(
        OK_INGRESS,
        None,
        vec![
            verdict(
                vec![in_set(vec![Field::CtMarkMasked(mask.bits())], Op::Eq, PENDING_SET)],
                Verdict::Jump(STAMP_LIVE.to_owned()),
            ),
            verdict(Vec::new(), Verdict::Accept),
        ],
    );
    chain(STAMP_PENDING, None, vec![stamp(mask, generation.pending_mark(mask))]);
    chain(STAMP_LIVE, None, vec![stamp(mask, generation.live_mark(mask))]);
    frame
}

const fn hook(point: HookPoint, priority: i32) -> Hook {
    Hook::filter(point, priority)
}

fn goto(chain: &str) -> Verdict {
    Verdict::Goto(chain.to_owned())
}

fn stamp(mask: MarkMask, mark: u32) -> Rule {
    rule(Vec::new(), vec![Statement::SetCtMark { keep: !mask.bits(), bits: mark }])
}

fn dispatch(field: Field, map: &str) -> Rule {
    rule(Vec::new(), vec![Statement::Vmap { key: vec![field], map: map.to_owned() }])
}

/// Established and related packets of flows that the live generation has allowed.
fn live(mask: MarkMask) -> Rule {
    verdict(
        vec![
            in_set(vec![Field::CtMarkMasked(mask.bits())], Op::Eq, LIVE_SET),
            ct_state(CtStates::ESTABLISHED.or(CtStates::RELATED)),
        ],
        Verdict::Accept,
    )
}

fn itself() -> Rule {
    verdict(vec![in_set(vec![Field::IifName, Field::OifName], Op::Eq, SELF)], Verdict::Accept)
}

fn invalid() -> Rule {
    drop(vec![ct_state(CtStates::INVALID)], "belongs to no flow and begins none")
}

/// ICMP errors about flows without a live stamp.
fn errors() -> [Rule; 2] {
    [ICMP, ICMPV6].map(|protocol| {
        drop(
            vec![ct_state(CtStates::RELATED), Match::L4Proto(Op::Eq, protocol)],
            "an error about a flow that is not allowed",
        )
    })
}

fn ingress_reply() -> Vec<Rule> {
    vec![dispatch(Field::IifName, INGRESS_CLASS), verdict(Vec::new(), goto(OK_INGRESS))]
}

/// Rules about interfaces of pods, known by their prefix.
struct Pods<'a> {
    prefix: &'a str,
    mask: MarkMask,
}

impl Pods<'_> {
    fn interface(&self, side: Side, op: Op) -> Match {
        Match::IfName { side, op, name: self.prefix.to_owned(), prefix: true }
    }

    fn from(&self, op: Op) -> Match {
        self.interface(Side::Source, op)
    }

    fn to(&self, op: Op) -> Match {
        self.interface(Side::Destination, op)
    }

    /// Neither from a pod nor to one.
    fn strangers(&self) -> Rule {
        verdict(vec![self.from(Op::Ne), self.to(Op::Ne)], Verdict::Accept)
    }

    fn guard(&self, vxlan_port: u16) -> Vec<Rule> {
        let addr = |side, op, text: &str| Match::Addr { side, op, net: net(text) };
        // Before a pod's address may be used, its owner asks whether it is free, from no address at all.
        let unspecified = |to| {
            verdict(
                vec![
                    Match::NfProto(Family::V6),
                    addr(Side::Source, Op::Eq, "::/128"),
                    addr(Side::Destination, Op::Eq, to),
                    Match::L4Proto(Op::Eq, ICMPV6),
                ],
                Verdict::Accept,
            )
        };
        vec![
            verdict(vec![self.from(Op::Ne)], Verdict::Accept),
            drop(
                vec![Match::NfProto(Family::V4), in_set(vec![Field::IifName, Field::Ip4Saddr], Op::Ne, OWN4)],
                "not the pod's own address",
            ),
            unspecified("fe80::/10"),
            unspecified("ff02::/16"),
            // Link-local addresses end at this interface: the kernel never forwards them, so a pod may choose its own.
            drop(
                vec![
                    Match::NfProto(Family::V6),
                    addr(Side::Source, Op::Ne, "fe80::/10"),
                    in_set(vec![Field::IifName, Field::Ip6Saddr], Op::Ne, OWN6),
                ],
                "not the pod's own address",
            ),
            drop(vec![Match::L4Proto(Op::Eq, IPIP)], "IP in IP from a pod"),
            drop(
                vec![
                    Match::L4Proto(Op::Eq, UDP),
                    Match::Port { side: Side::Destination, op: Op::Eq, first: vxlan_port, last: vxlan_port },
                ],
                "VXLAN from a pod",
            ),
        ]
    }

    fn egress(&self) -> Vec<Rule> {
        let mut rules = vec![self.strangers(), invalid(), live(self.mask), itself()];
        rules.extend(errors());
        rules.extend([
            verdict(vec![Match::CtDirection(Direction::Reply)], goto("egress_reply")),
            dispatch(Field::IifName, EGRESS_CLASS),
            verdict(Vec::new(), goto(OK_EGRESS)),
        ]);
        rules
    }

    fn egress_reply(&self) -> Vec<Rule> {
        vec![
            dispatch(Field::OifName, EGRESS_CLASS),
            drop(vec![self.to(Op::Eq)], "to a pod that is not known"),
            verdict(Vec::new(), goto(OK_EGRESS)),
        ]
    }

    fn ingress(&self) -> Vec<Rule> {
        vec![
            self.strangers(),
            live(self.mask),
            itself(),
            verdict(vec![Match::CtDirection(Direction::Reply)], goto("ingress_reply")),
            dispatch(Field::OifName, INGRESS_CLASS),
            drop(vec![self.to(Op::Eq)], "to a pod that is not known"),
            verdict(Vec::new(), goto(OK_INGRESS)),
        ]
    }

    fn to_host(&self) -> Vec<Rule> {
        let icmp6 = |kind| vec![Match::L4Proto(Op::Eq, ICMPV6), Match::Icmp6Type(kind)];
        let mut rules = vec![
            verdict(vec![self.from(Op::Ne)], Verdict::Accept),
            // What the node began is never cut.
            verdict(vec![Match::CtDirection(Direction::Reply)], Verdict::Accept),
            live(self.mask),
        ];
        for kind in [NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT, ROUTER_SOLICITATION] {
            rules.push(verdict(icmp6(kind), Verdict::Accept));
        }
        for kind in [ROUTER_ADVERTISEMENT, REDIRECT] {
            rules.push(drop(icmp6(kind), "a pod is no router"));
        }
        rules.push(invalid());
        rules.extend(errors());
        rules.extend([dispatch(Field::IifName, EGRESS_CLASS), drop(Vec::new(), "from a pod that is not known")]);
        rules
    }
}

/// One of the frame's own prefixes.
fn net(text: &str) -> ipnet::IpNet {
    text.parse().expect("a prefix written in this file")
}
