//! The chains of host endpoints: what of them is the same whatever their policies say.
//!
//! They are in the table of a node that has a HostEndpoint, and only what its policies ask for:
//!
//! ```text
//! prerouting  -301  untracked_in        doNotTrack: before conntrack, each packet by itself
//! output      -301  untracked_out       the same of what the node itself sends
//! prerouting  -150  pre_dnat            preDNAT: where packets still have the destination that the client wrote
//! forward       -3  host_forward_in     applyOnForward: the endpoint that a packet came by
//! forward       -2  host_forward_out    and the one that it leaves by
//! forward       -1  host_forward_done   stamps what is no pod's
//! input         -1  host_input          to the node itself
//! output         0  host_output         from the node itself
//! postrouting -150  host_output_dnat    the same where a Service's address was translated
//! postrouting  110  pre_dnat_reply      answers to what preDNAT let in, once their source is again what the client wrote to
//! ```
//!
//! The stamps are those of pods' flows. One judgement is enough for what begins or ends at the node, so it is stamped at once. What
//! is forwarded is stamped at the end of the forward hook: by `host_forward_done`, or by the pods' own chains if it is a pod's too,
//! which come after these and so only see what these let through. What a policy before DNAT allows explicitly is let off the
//! endpoint's other policies; as long as it is on its way it carries the pending stamp, which says so.
//!
//! When the node sends to a Service, its packet is translated in the output hook, but the hook goes on with the interface that the
//! Service's address would have left by. Such packets get the pending stamp there and are judged in postrouting, where the interface is
//! the right one. A pending flow in postrouting that was translated and goes its original direction is always one of these.
//!
//! Packets that no policy may stop come first: of the loopback interface, failsafe ports, neighbour discovery, and errors about flows
//! that exist. Failsafe flows are never stamped, so that no change of the list has to find them.

use std::collections::{BTreeMap, BTreeSet};

use tortie_nft::{
    Chain, CtStates, Direction, Family, Field, Hook, HookPoint, KeyType, Match, Op, Rule, Ruleset, Set, Side,
    Statement, Value, Verdict, VerdictMap,
};

use crate::chains::{ct_state, drop, in_set, rule, verdict};
use crate::cluster::Cluster;
use crate::denied::Reason;
use crate::frame::{STAMP_LIVE, STAMP_PENDING, dispatch, goto, link_talk, live};
use crate::generation::PENDING_SET;
use crate::host::{Failsafe, HostOptions};
use crate::options::CompileOptions;
use crate::tunnels;

/// The interfaces that have an endpoint of their own.
pub(crate) const INTERFACES: &str = "host_interfaces";
/// The chains for what a host endpoint's policies allow to the node, and from it.
pub(crate) const OK_INPUT: &str = "ok_host_ingress";
pub(crate) const OK_OUTPUT: &str = "ok_host_egress";
/// The chain for what applyOnForward policies allow: for the other end's to judge.
pub(crate) const OK_FORWARD: &str = "ok_host_forward";
/// The chain for what preDNAT policies allow.
pub(crate) const OK_PRE_DNAT: &str = "ok_pre_dnat";
/// The chain for what doNotTrack policies allow.
pub(crate) const OK_UNTRACKED: &str = "ok_untracked";
/// The chain for what doNotTrack policies have allowed, and left untracked, before.
pub(crate) const OK_ANYWAY: &str = "ok_anyway";

const UNTRACKED_IN: &str = "untracked_in";
const UNTRACKED_OUT: &str = "untracked_out";
const PRE_DNAT: &str = "pre_dnat";
const PRE_DNAT_REPLY: &str = "pre_dnat_reply";
const FORWARD_IN: &str = "host_forward_in";
const FORWARD_OUT: &str = "host_forward_out";
const FORWARD_DONE: &str = "host_forward_done";
const INPUT: &str = "host_input";
const OUTPUT: &str = "host_output";
const OUTPUT_DNAT: &str = "host_output_dnat";
/// What some of these lead to.
const TO_SERVICE: &str = "host_to_service";
const TRANSLATED: &str = "host_translated";
const PRE_DNAT_ANSWER: &str = "pre_dnat_answer";
const FORWARD_STAMP: &str = "host_forward_stamp";

/// Base chains whose verdict depends on no stamp.
const BESIDE_STAMPS: [&str; 2] = [UNTRACKED_IN, UNTRACKED_OUT];
/// Those whose verdict does.
pub(crate) const STAMPED: [&str; 8] =
    [PRE_DNAT, PRE_DNAT_REPLY, FORWARD_IN, FORWARD_OUT, FORWARD_DONE, INPUT, OUTPUT, OUTPUT_DNAT];
const HELPERS: [&str; 4] = [TO_SERVICE, TRANSLATED, PRE_DNAT_ANSWER, FORWARD_STAMP];
/// Where allowed packets go.
const ALLOWED: [&str; 6] = [OK_INPUT, OK_OUTPUT, OK_FORWARD, OK_PRE_DNAT, OK_UNTRACKED, OK_ANYWAY];

const FAILSAFE_IN: &str = "failsafe_in";
const FAILSAFE_OUT: &str = "failsafe_out";

/// A place where policies of host endpoints judge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Place {
    /// To the node itself.
    Ingress,
    /// From the node itself.
    Egress,
    /// What comes by the endpoint to be forwarded.
    ForwardIngress,
    /// What is forwarded out of the endpoint.
    ForwardEgress,
    /// What comes by the endpoint, before DNAT.
    PreDnat,
    /// What comes by the endpoint, before conntrack.
    UntrackedIngress,
    /// What the node itself sends, before conntrack.
    UntrackedEgress,
    /// The same two once more, where only the untracked is asked about.
    AnywayIngress,
    /// Likewise.
    AnywayEgress,
}

impl Place {
    pub(crate) const ALL: [Self; 9] = [
        Self::Ingress,
        Self::Egress,
        Self::ForwardIngress,
        Self::ForwardEgress,
        Self::PreDnat,
        Self::UntrackedIngress,
        Self::UntrackedEgress,
        Self::AnywayIngress,
        Self::AnywayEgress,
    ];

    /// The map from an interface to the chain that judges there.
    pub(crate) const fn map(self) -> &'static str {
        match self {
            Self::Ingress => "host_ingress",
            Self::Egress => "host_egress",
            Self::ForwardIngress => "forward_ingress",
            Self::ForwardEgress => "forward_egress",
            Self::PreDnat => "pre_dnat_ingress",
            Self::UntrackedIngress => "untracked_ingress",
            Self::UntrackedEgress => "untracked_egress",
            Self::AnywayIngress => "anyway_ingress",
            Self::AnywayEgress => "anyway_egress",
        }
    }

    const fn comment(self) -> &'static str {
        match self {
            Self::Ingress => "which chain judges what comes to the node by a host endpoint",
            Self::Egress => "which chain judges what the node sends by a host endpoint",
            Self::ForwardIngress => "which chain judges what comes by a host endpoint and is forwarded",
            Self::ForwardEgress => "which chain judges what is forwarded out of a host endpoint",
            Self::PreDnat => "which chain judges what comes by a host endpoint, before DNAT",
            Self::UntrackedIngress => "which chain judges what comes by a host endpoint, before conntrack",
            Self::UntrackedEgress => "which chain judges what the node sends by a host endpoint, before conntrack",
            Self::AnywayIngress => "which chain knows what doNotTrack policies let in",
            Self::AnywayEgress => "which chain knows what doNotTrack policies let out",
        }
    }

    /// The chain that leads to the policies of the endpoint for all interfaces.
    pub(crate) const fn any(self) -> &'static str {
        match self {
            Self::Ingress => "any_host_ingress",
            Self::Egress => "any_host_egress",
            Self::ForwardIngress => "any_forward_ingress",
            Self::ForwardEgress => "any_forward_egress",
            Self::PreDnat => "any_pre_dnat_ingress",
            Self::UntrackedIngress => "any_untracked_ingress",
            Self::UntrackedEgress => "any_untracked_egress",
            Self::AnywayIngress => "any_anyway_ingress",
            Self::AnywayEgress => "any_anyway_egress",
        }
    }

    /// Whether a packet about which the policies there say nothing goes on.
    const fn comes_back(self) -> bool {
        !matches!(self, Self::Ingress | Self::Egress | Self::ForwardIngress | Self::ForwardEgress)
    }

    /// Whether packets that come there have a flow, and so may be stamped.
    pub(crate) const fn is_tracked(self) -> bool {
        !matches!(self, Self::UntrackedIngress | Self::UntrackedEgress | Self::AnywayIngress | Self::AnywayEgress)
    }

    /// How an interface is led to a chain there.
    pub(crate) fn lead(self, chain: String) -> Verdict {
        if self.comes_back() { Verdict::Jump(chain) } else { Verdict::Goto(chain) }
    }
}

/// What the frame has for host endpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Shape {
    /// The interfaces that have an endpoint of their own.
    pub(crate) interfaces: BTreeSet<String>,
    /// Whether there is an endpoint for all others.
    pub(crate) everywhere: bool,
    /// The places where an endpoint has something to ask, and whether that is (also) the one for all others.
    pub(crate) places: BTreeMap<Place, bool>,
}

impl Shape {
    /// Whether the node has no host endpoints.
    pub(crate) fn is_empty(&self) -> bool {
        self.interfaces.is_empty() && !self.everywhere
    }

    fn has(&self, place: Place) -> bool {
        self.places.contains_key(&place)
    }
}

/// The chains, sets and maps that there are only for host endpoints. Chains for all interfaces are not among them.
pub(crate) fn optional() -> impl Iterator<Item = &'static str> {
    let sets = [INTERFACES, FAILSAFE_IN, FAILSAFE_OUT];
    let chains = STAMPED.into_iter().chain(BESIDE_STAMPS).chain(HELPERS).chain(ALLOWED).chain(REPLIES);
    chains.chain(sets).chain(Place::ALL.map(Place::map))
}

/// Whether a base chain says the same of every packet, stamped or not.
pub(crate) fn is_beside_stamps(chain: &str) -> bool {
    BESIDE_STAMPS.contains(&chain)
}

/// Whether flows that are stamped may have to be judged again because these two tables, or the parts in which two tables differ, treat
/// host endpoints differently: as soon as any of them is led elsewhere. Members of sets are not looked at.
pub(crate) fn tightens(before: &Ruleset, after: &Ruleset) -> bool {
    let tracked = Place::ALL.into_iter().filter(|place| place.is_tracked());
    let elements =
        |ruleset: &Ruleset, map: &str| ruleset.maps.get(map).map(|map| map.elements.clone()).unwrap_or_default();
    let interfaces =
        |ruleset: &Ruleset| ruleset.sets.get(INTERFACES).map(|set| set.elements.clone()).unwrap_or_default();
    let chain = |name: &str| before.chains.get(name) != after.chains.get(name);
    interfaces(before) != interfaces(after)
        || STAMPED.into_iter().any(chain)
        || tracked
            .into_iter()
            .any(|place| chain(place.any()) || elements(before, place.map()) != elements(after, place.map()))
}

/// Whether packets that come there are allowed.
pub(crate) fn is_allowed(chain: &str) -> bool {
    ALLOWED.contains(&chain)
}

/// Adds what the host endpoints of this shape need. Elements of maps, and rules of the chains for all interfaces, come later.
pub(crate) fn add_host(frame: &mut Ruleset, shape: &Shape, cluster: &Cluster, options: &CompileOptions) {
    if shape.is_empty() {
        return;
    }
    let tunnels = [Side::Source, Side::Destination].map(|side| tunnels::pass(cluster, options, side));
    let writer = Writer { shape, options, host: &options.host, tunnels };
    let own = if shape.interfaces.is_empty() { None } else { Some(&shape.places) };
    for place in own.into_iter().flatten().map(|(place, _)| *place) {
        let comment = Some(place.comment().to_owned());
        let map = VerdictMap { key: vec![KeyType::IfName], interval: false, elements: BTreeMap::new(), comment };
        frame.maps.insert(place.map().to_owned(), map);
    }
    writer.sets(frame);
    let mut chain = |name: &str, hook, rules| {
        frame.chains.insert(name.to_owned(), Chain { hook, rules });
    };
    let at = |point, priority| Some(Hook::filter(point, priority));
    chain(INPUT, at(HookPoint::Input, -1), writer.input());
    chain(OUTPUT, at(HookPoint::Output, 0), writer.output());
    chain(OUTPUT_DNAT, at(HookPoint::Postrouting, -150), writer.output_dnat());
    chain(TO_SERVICE, None, writer.to_service());
    chain(TRANSLATED, None, writer.translated());
    for (name, (side, place)) in REPLIES.into_iter().zip(REPLY_PLACES) {
        if shape.has(place) {
            chain(name, None, writer.lead(side, place));
        }
    }
    chain(OK_INPUT, None, writer.ok_input());
    chain(OK_OUTPUT, None, ok(STAMP_LIVE, "what the host endpoint's egress allows"));
    if shape.has(Place::PreDnat) {
        chain(PRE_DNAT, at(HookPoint::Prerouting, -150), writer.pre_dnat());
        chain(PRE_DNAT_REPLY, at(HookPoint::Postrouting, 110), writer.pre_dnat_reply());
        chain(PRE_DNAT_ANSWER, None, writer.pre_dnat_answer());
        chain(OK_PRE_DNAT, None, ok_pre_dnat());
    }
    let forward = [Place::ForwardIngress, Place::ForwardEgress].map(|place| shape.has(place));
    if forward.contains(&true) {
        chain(FORWARD_IN, at(HookPoint::Forward, -3), writer.forward_in());
        chain(FORWARD_OUT, at(HookPoint::Forward, -2), writer.forward_out());
        chain(OK_FORWARD, None, ok(STAMP_PENDING, "what applyOnForward policies allow"));
    }
    if forward.contains(&true) || shape.has(Place::PreDnat) {
        chain(FORWARD_DONE, at(HookPoint::Forward, -1), writer.forward_done());
        chain(FORWARD_STAMP, None, writer.forward_stamp());
    }
    let accept = |comment| vec![verdict(Vec::new(), Verdict::Accept).commented(comment)];
    for (name, point, side, place) in [
        (UNTRACKED_IN, HookPoint::Prerouting, Side::Source, Place::UntrackedIngress),
        (UNTRACKED_OUT, HookPoint::Output, Side::Destination, Place::UntrackedEgress),
    ] {
        if shape.has(place) {
            chain(name, at(point, -301), writer.untracked(side, place));
            let untracked = vec![Statement::NoTrack, Statement::Verdict(Verdict::Accept)];
            chain(OK_UNTRACKED, None, vec![rule(Vec::new(), untracked).commented("what doNotTrack policies allow")]);
            chain(OK_ANYWAY, None, accept("what doNotTrack policies have allowed"));
        }
    }
}

const ASKED_YET: &str = "policies before DNAT are asked yet";

/// Which packets are not stamped before policies before DNAT are asked: answers that leave by an interface which has such policies.
fn waits(shape: &Shape) -> Option<Vec<Match>> {
    if !shape.has(Place::PreDnat) {
        return None;
    }
    let mut matches = vec![Match::CtDirection(Direction::Reply)];
    if !shape.everywhere {
        matches.push(in_set(vec![Field::OifName], Op::Eq, INTERFACES));
    }
    Some(matches)
}

/// The rule by which these leave with the stamp that they have.
pub(crate) fn wait(shape: &Shape) -> Option<Rule> {
    waits(shape).map(|matches| verdict(matches, Verdict::Accept).commented(ASKED_YET))
}

/// The chains of answers, each with the interface that it looks at and the place where its flow was judged.
const REPLIES: [&str; 4] = ["host_input_reply", "host_output_reply", "host_forward_in_reply", "host_forward_out_reply"];
const REPLY_PLACES: [(Side, Place); 4] = [
    (Side::Source, Place::Egress),
    (Side::Destination, Place::Ingress),
    (Side::Source, Place::ForwardEgress),
    (Side::Destination, Place::ForwardIngress),
];

const LOOPBACK: &str = "lo";
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const LISTENER_REPORT_2: u8 = 143;
const ROUTER_ADVERTISEMENT: u8 = 134;

struct Writer<'a> {
    shape: &'a Shape,
    options: &'a CompileOptions,
    host: &'a HostOptions,
    /// What lets packets of overlays pass, by where the other node is: at their source, and at their destination.
    tunnels: [Vec<Rule>; 2],
}

impl Writer<'_> {
    fn sets(&self, frame: &mut Ruleset) {
        let mut set = |name: &str, key: Vec<KeyType>, elements: BTreeSet<_>, comment: &str| {
            let set = Set { key, interval: false, elements, comment: Some(comment.to_owned()) };
            frame.sets.insert(name.to_owned(), set);
        };
        if !self.shape.interfaces.is_empty() {
            let names = self.shape.interfaces.iter().map(|name| vec![Value::IfName(name.clone())]).collect();
            set(INTERFACES, vec![KeyType::IfName], names, "interfaces with a host endpoint of their own");
        }
        for (name, ports, comment) in [
            (FAILSAFE_IN, &self.host.failsafe_inbound, "failsafeInboundHostPorts for everybody"),
            (FAILSAFE_OUT, &self.host.failsafe_outbound, "failsafeOutboundHostPorts for everybody"),
        ] {
            let elements: BTreeSet<_> = ports
                .iter()
                .filter(|failsafe| failsafe.net.is_none())
                .map(|failsafe| vec![Value::Proto(failsafe.protocol), Value::Port(failsafe.port)])
                .collect();
            if !elements.is_empty() {
                set(name, vec![KeyType::InetProto, KeyType::InetService], elements, comment);
            }
        }
    }

    /// A pending stamp. Its contrary would not hold for packets without a flow, which have no mark to compare.
    fn pending(&self) -> Match {
        in_set(vec![Field::CtMarkMasked(self.options.mark_mask.bits())], Op::Eq, PENDING_SET)
    }

    fn loopback(side: Side) -> Rule {
        let matches = vec![Match::IfName { side, op: Op::Eq, name: LOOPBACK.to_owned(), prefix: false }];
        verdict(matches, Verdict::Accept).commented("the node with itself")
    }

    fn pods(&self, side: Side, op: Op) -> impl Iterator<Item = Match> {
        let prefixes = self.options.interface_prefixes.iter();
        prefixes.map(move |name| Match::IfName { side, op, name: name.clone(), prefix: true })
    }

    /// Packets of interfaces without a host endpoint leave. Pods' interfaces have none where `pods` is not set.
    fn strangers(&self, side: Side, pods: bool) -> Vec<Rule> {
        if !self.shape.everywhere {
            let matches = vec![in_set(vec![interface(side)], Op::Ne, INTERFACES)];
            return vec![verdict(matches, Verdict::Accept).commented("not by a host endpoint")];
        }
        let mut rules = vec![Self::loopback(side)];
        if !pods {
            let pods = self.pods(side, Op::Eq);
            rules.extend(pods.map(|pod| verdict(vec![pod], Verdict::Accept).commented("a pod's interface")));
        }
        rules
    }

    /// What lets packets of overlays pass.
    fn tunnels(&self, side: Side) -> Vec<Rule> {
        let [from_nodes, to_nodes] = &self.tunnels;
        if side == Side::Source { from_nodes.clone() } else { to_nodes.clone() }
    }

    /// Leads to the policies of an interface at a place.
    fn lead(&self, side: Side, place: Place) -> Vec<Rule> {
        let mut rules = Vec::new();
        if !self.shape.interfaces.is_empty() {
            rules.push(dispatch(interface(side), place.map()));
        }
        if self.shape.places.get(&place) == Some(&true) {
            let own = !self.shape.interfaces.is_empty();
            let others = own.then(|| in_set(vec![interface(side)], Op::Ne, INTERFACES));
            let lead = verdict(others.into_iter().collect(), place.lead(place.any().to_owned()));
            rules.push(lead.commented("the host endpoint for all interfaces"));
        }
        rules
    }

    /// The same where the place may not be there.
    fn lead_if_any(&self, side: Side, place: Place) -> Vec<Rule> {
        if self.shape.has(place) { self.lead(side, place) } else { Vec::new() }
    }

    /// What no policy may stop: without these a node is lost to its neighbours.
    fn link_talk() -> Vec<Rule> {
        let further =
            [(ROUTER_ADVERTISEMENT, "neighbour discovery"), (LISTENER_REPORT_2, "who listens to which group")];
        let further = further.map(|(kind, comment)| {
            let icmp = Match::Icmp { family: Family::V6, op: Op::Eq, kind, code: None };
            verdict(vec![Match::L4Proto(Op::Eq, ICMPV6), icmp], Verdict::Accept).commented(comment)
        });
        [link_talk(), further.into()].concat()
    }

    /// Failsafe ports at one end of a packet. `remote` is where the other side's address is.
    fn failsafe(set: &str, ports: &[Failsafe], end: Side, remote: Side, reply: bool, comment: &str) -> Vec<Rule> {
        let direction = || reply.then_some(Match::CtDirection(Direction::Reply));
        let port = match end {
            Side::Source => Field::ThSport,
            Side::Destination => Field::ThDport,
        };
        let mut rules = Vec::new();
        if ports.iter().any(|failsafe| failsafe.net.is_none()) {
            let ports = in_set(vec![Field::L4Proto, port], Op::Eq, set);
            rules.push(verdict(direction().into_iter().chain([ports]).collect(), Verdict::Accept).commented(comment));
        }
        for failsafe in ports {
            let Some(net) = failsafe.net else { continue };
            let family = if net.addr().is_ipv4() { Family::V4 } else { Family::V6 };
            let mut matches: Vec<Match> = direction().into_iter().collect();
            matches.push(Match::NfProto(family));
            if net.prefix_len() > 0 {
                matches.push(Match::Addr { side: remote, op: Op::Eq, net: net.trunc() });
            }
            matches.push(Match::L4Proto(Op::Eq, failsafe.protocol));
            matches.push(Match::Port { side: end, op: Op::Eq, first: failsafe.port, last: failsafe.port });
            rules.push(verdict(matches, Verdict::Accept).commented(comment));
        }
        rules
    }

    /// Failsafe ports of what comes to the node, or with [`Side::Source`] answers of those that it asked.
    fn failsafe_in(&self, reply: bool) -> Vec<Rule> {
        Self::failsafe(
            FAILSAFE_IN,
            &self.host.failsafe_inbound,
            if reply { Side::Source } else { Side::Destination },
            if reply { Side::Destination } else { Side::Source },
            reply,
            "failsafeInboundHostPorts",
        )
    }

    fn failsafe_out(&self, reply: bool) -> Vec<Rule> {
        Self::failsafe(
            FAILSAFE_OUT,
            &self.host.failsafe_outbound,
            if reply { Side::Source } else { Side::Destination },
            if reply { Side::Source } else { Side::Destination },
            reply,
            "failsafeOutboundHostPorts",
        )
    }

    /// Flows that exist pass as such with `policyExistingConnections: Keep`; otherwise only errors about them do.
    fn existing(&self) -> Vec<Rule> {
        if self.host.keep_connections {
            let matches = vec![ct_state(CtStates::ESTABLISHED.or(CtStates::RELATED))];
            return vec![verdict(matches, Verdict::Accept).commented("policyExistingConnections: Keep")];
        }
        let errors = [ICMP, ICMPV6].map(|protocol| {
            let matches = vec![ct_state(CtStates::RELATED), Match::L4Proto(Op::Eq, protocol)];
            verdict(matches, Verdict::Accept).commented("an error about a flow that exists")
        });
        errors.into()
    }

    /// What doNotTrack policies have let through as it is.
    fn anyway(&self, side: Side, place: Place) -> Vec<Rule> {
        let mut rules = self.lead_if_any(side, place);
        for rule in &mut rules {
            rule.matches.insert(0, ct_state(CtStates::UNTRACKED));
        }
        rules
    }

    fn invalid(&self) -> Option<Rule> {
        let matches = vec![ct_state(CtStates::INVALID)];
        (!self.options.allow_invalid).then(|| drop(Reason::Invalid, matches, "belongs to no flow and begins none"))
    }

    /// Answers turn to the chain that looks the other way.
    fn turn(reply: usize) -> Rule {
        verdict(vec![Match::CtDirection(Direction::Reply)], goto(REPLIES[reply]))
    }

    fn input(&self) -> Vec<Rule> {
        let mut rules = self.strangers(Side::Source, false);
        rules.extend(self.tunnels(Side::Source));
        rules.push(live(self.options.mark_mask));
        rules.extend(Self::link_talk());
        rules.extend([self.failsafe_in(false), self.failsafe_out(true)].concat());
        rules.extend(self.existing());
        rules.extend(self.anyway(Side::Source, Place::AnywayIngress));
        rules.extend(self.invalid());
        rules.push(Self::turn(0));
        if self.shape.has(Place::PreDnat) {
            rules.push(verdict(vec![self.pending()], goto(OK_INPUT)).commented("a policy before DNAT has allowed it"));
        }
        rules.extend(self.lead(Side::Source, Place::Ingress));
        rules
    }

    fn output(&self) -> Vec<Rule> {
        let translated = vec![Match::CtStatusDnat(true), Match::CtDirection(Direction::Original)];
        let mut rules = vec![verdict(translated, goto(TO_SERVICE)).commented("its interface is not known yet")];
        rules.extend(self.strangers(Side::Destination, false));
        rules.extend(self.tunnels(Side::Destination));
        rules.push(live(self.options.mark_mask));
        rules.extend(Self::link_talk());
        rules.extend([self.failsafe_out(false), self.failsafe_in(true)].concat());
        rules.extend(self.existing());
        rules.extend(self.anyway(Side::Destination, Place::AnywayEgress));
        rules.extend(self.invalid());
        rules.push(Self::turn(1));
        rules.extend(self.lead(Side::Destination, Place::Egress));
        rules
    }

    fn to_service(&self) -> Vec<Rule> {
        let mut rules = vec![live(self.options.mark_mask)];
        rules.extend(ok(STAMP_PENDING, "is judged once its interface is known"));
        rules
    }

    fn output_dnat(&self) -> Vec<Rule> {
        let matches = vec![self.pending(), Match::CtDirection(Direction::Original), Match::CtStatusDnat(true)];
        vec![verdict(matches, goto(TRANSLATED)).commented("what the node sends to a Service")]
    }

    fn translated(&self) -> Vec<Rule> {
        let mask = self.options.mark_mask;
        let mut rules = self.strangers(Side::Destination, false);
        for rule in &mut rules {
            rule.statements.insert(0, Statement::SetCtMark { keep: !mask.bits(), bits: 0 });
        }
        rules.extend(self.failsafe_out(false));
        rules.extend(self.existing());
        rules.extend(self.lead(Side::Destination, Place::Egress));
        rules
    }

    fn pre_dnat(&self) -> Vec<Rule> {
        let mut rules = self.strangers(Side::Source, true);
        rules.extend(self.tunnels(Side::Source));
        rules.push(live(self.options.mark_mask));
        rules.push(verdict(vec![Match::CtDirection(Direction::Reply)], Verdict::Accept).commented("an answer"));
        rules.extend(Self::link_talk());
        rules.extend(self.failsafe_in(false));
        rules.extend(self.existing());
        rules.extend(self.anyway(Side::Source, Place::AnywayIngress));
        rules.extend(self.lead(Side::Source, Place::PreDnat));
        rules
    }

    fn pre_dnat_reply(&self) -> Vec<Rule> {
        let matches = vec![self.pending(), Match::CtDirection(Direction::Reply)];
        vec![verdict(matches, goto(PRE_DNAT_ANSWER)).commented("nothing else denies it")]
    }

    fn pre_dnat_answer(&self) -> Vec<Rule> {
        let mut rules = self.strangers(Side::Destination, true);
        rules.extend(self.lead(Side::Destination, Place::PreDnat));
        let stamp = verdict(Vec::new(), Verdict::Jump(STAMP_LIVE.to_owned()));
        rules.push(stamp.commented("no policy before DNAT denies it"));
        rules
    }

    fn forward_in(&self) -> Vec<Rule> {
        let mut rules = self.strangers(Side::Source, true);
        rules.push(live(self.options.mark_mask));
        rules.extend(self.existing());
        rules.extend(self.anyway(Side::Source, Place::AnywayIngress));
        rules.extend(self.invalid());
        if self.shape.has(Place::ForwardEgress) {
            rules.push(Self::turn(2));
        } else {
            rules.push(verdict(vec![Match::CtDirection(Direction::Reply)], Verdict::Accept));
        }
        if self.shape.has(Place::PreDnat) {
            let allowed = verdict(vec![self.pending()], Verdict::Accept);
            rules.push(allowed.commented("a policy before DNAT has allowed it"));
        }
        rules.extend(self.lead_if_any(Side::Source, Place::ForwardIngress));
        rules
    }

    fn forward_out(&self) -> Vec<Rule> {
        let mut rules = self.strangers(Side::Destination, true);
        rules.push(live(self.options.mark_mask));
        rules.extend(self.existing());
        rules.extend(self.invalid());
        if self.shape.has(Place::ForwardIngress) {
            rules.push(Self::turn(3));
        } else {
            rules.push(verdict(vec![Match::CtDirection(Direction::Reply)], Verdict::Accept));
        }
        rules.extend(self.lead_if_any(Side::Destination, Place::ForwardEgress));
        rules
    }

    fn forward_done(&self) -> Vec<Rule> {
        vec![verdict(vec![self.pending()], goto(FORWARD_STAMP)).commented("somebody was asked, and allows it")]
    }

    fn forward_stamp(&self) -> Vec<Rule> {
        let mut rules = Vec::new();
        for side in [Side::Source, Side::Destination] {
            let pods = self.pods(side, Op::Eq);
            rules
                .extend(pods.map(|pod| verdict(vec![pod], Verdict::Accept).commented("its stamp is for pods' chains")));
        }
        rules.extend(wait(self.shape));
        let stamp = verdict(Vec::new(), Verdict::Jump(STAMP_LIVE.to_owned()));
        rules.push(stamp.commented("all that were asked allow the flow"));
        rules
    }

    fn untracked(&self, side: Side, place: Place) -> Vec<Rule> {
        let mut rules = self.strangers(side, false);
        rules.extend(self.tunnels(side));
        rules.extend(Self::link_talk());
        // Nothing knows yet which way a flow goes: the ports of both ends are let through, and stay tracked.
        let (here, there) = match side {
            Side::Source => (self.failsafe_in(false), self.failsafe_out(true)),
            Side::Destination => (self.failsafe_out(false), self.failsafe_in(true)),
        };
        let there = there.into_iter().map(|mut rule| {
            rule.matches.retain(|condition| !matches!(condition, Match::CtDirection(_)));
            rule
        });
        rules.extend(here.into_iter().chain(there));
        rules.extend(self.lead(side, place));
        rules
    }

    fn ok_input(&self) -> Vec<Rule> {
        let mut rules = Vec::new();
        if let Some(waits) = waits(self.shape) {
            rules.push(verdict(waits.clone(), Verdict::Jump(STAMP_PENDING.to_owned())).commented(ASKED_YET));
            rules.push(verdict(waits, Verdict::Accept));
        }
        rules.extend(ok(STAMP_LIVE, "what the host endpoint's ingress allows"));
        rules
    }
}

/// The name of a packet's interface at one side.
const fn interface(side: Side) -> Field {
    match side {
        Side::Source => Field::IifName,
        Side::Destination => Field::OifName,
    }
}

/// What is allowed gets a stamp and leaves.
fn ok(stamp: &str, comment: &str) -> Vec<Rule> {
    vec![verdict(Vec::new(), Verdict::Jump(stamp.to_owned())).commented(comment), verdict(Vec::new(), Verdict::Accept)]
}

fn ok_pre_dnat() -> Vec<Rule> {
    let reply = || vec![Match::CtDirection(Direction::Reply)];
    let mut rules = vec![
        verdict(reply(), Verdict::Jump(STAMP_LIVE.to_owned())).commented("an answer: the last to be asked"),
        verdict(reply(), Verdict::Accept),
    ];
    rules.extend(ok(STAMP_PENDING, "what policies before DNAT allow"));
    rules
}
