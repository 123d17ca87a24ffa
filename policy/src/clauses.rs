//! A clause as matches of nftables rules.
//!
//! A rule of nftables is a conjunction, and so is a [`Clause`], nearly: an end of a flow may be a pod's address, which is in a hash set,
//! or in a network of a NetworkSet, which is in an interval set; a port may be one of some numbers, or have a name with the endpoint
//! that it is of; and addresses are of one family or the other. So a clause is written once for each combination of these, and nearly
//! always that is one for each family.

use std::collections::{BTreeMap, BTreeSet};

use tortie_api::calico::policy::Icmp;
use tortie_api::k8s::{PolicyType, Protocol};
use tortie_nft::{Family, Field, Match, Op, Side};

use crate::chains::{Builder, in_set};
use crate::cluster::PodPort;
use crate::program::{Clause, Entity, Ports};
use crate::sets::Use;
use crate::view::{View, peer};

/// The protocol of ICMP.
pub(crate) const ICMP: u8 = 1;
/// The protocol of ICMPv6.
pub(crate) const ICMPV6: u8 = 58;

/// Matches that must all hold.
type Conjunction = Vec<Match>;

/// What a clause is written for, besides the clause itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    /// The site, and which packets.
    pub(crate) view: View<'a>,
    /// The direction whose rules these are.
    pub(crate) direction: PolicyType,
    /// The ports that the endpoint itself declares.
    pub(crate) ports: &'a [PodPort],
}

impl Builder<'_> {
    /// The matches of a clause: it holds where any of these conjunctions does. `used` says what becomes of what it matches.
    pub(crate) fn clause(&mut self, place: Place<'_>, clause: &Clause, used: Use) -> Vec<Conjunction> {
        let ends = [(Side::Source, &clause.source), (Side::Destination, &clause.destination)];
        let icmp = match clause.protocol {
            Some(ICMP) => Some(Family::V4),
            Some(ICMPV6) => Some(Family::V6),
            _ => None,
        };
        let has_ports = clause.protocol.is_none_or(|number| Protocol::ALL.iter().any(|it| it.number() == number));
        let asks_for_ports = |end: &Entity| end.ports.is_some() || end.service.as_ref().is_some_and(|it| it.ports);
        if !has_ports && ends.iter().any(|(_, end)| asks_for_ports(end)) {
            // Nothing of such a protocol is to or from a port.
            return Vec::new();
        }
        let about_icmp = clause.icmp.or(clause.not_icmp).is_some_and(|icmp| icmp.kind.is_some());
        let families = match clause.family {
            Some(family) => vec![Some(family)],
            None if ends.iter().any(|(side, end)| asks_for_family(place, *side, end)) => {
                vec![Some(Family::V4), Some(Family::V6)]
            }
            None => vec![None],
        };
        let mut conjunctions = Vec::new();
        for family in families {
            let mut common: Conjunction = family.map(Match::NfProto).into_iter().collect();
            common.extend(clause.protocol.map(|number| Match::L4Proto(Op::Eq, number)));
            common.extend(clause.not_protocol.map(|number| Match::L4Proto(Op::Ne, number)));
            let mut some = vec![common];
            if about_icmp {
                let Some(icmp) = icmp else { continue };
                some = with(&some, &icmp_matches(place.view, icmp, clause));
            }
            for (side, end) in ends {
                let ports = self.ports(place, side, end, clause.protocol, family, used);
                some = with(&some, &ports);
            }
            for (side, end) in ends {
                let addresses = self.addresses(place.view, side, end, family, used);
                some = with(&some, &addresses);
            }
            conjunctions.extend(some);
        }
        conjunctions
    }

    /// What an end's address must be: any of these.
    fn addresses(
        &mut self,
        view: View<'_>,
        side: Side,
        end: &Entity,
        family: Option<Family>,
        used: Use,
    ) -> Vec<Conjunction> {
        let Some(family) = family else { return vec![Vec::new()] };
        let key = vec![view.address(side, family)];
        let mut common = Vec::new();
        if let Some(blocks) = &end.blocks {
            // No block of this family: nothing of this family is in one.
            let Some(set) = self.block_set(blocks, family) else { return Vec::new() };
            common.push(in_set(key.clone(), Op::Eq, &set));
        }
        let not_nets: Vec<_> = end.not_nets.iter().map(|net| (*net, Vec::new())).collect();
        if let Some(set) = self.range_set(&not_nets, family) {
            common.push(in_set(key.clone(), Op::Ne, &set));
        }
        if !end.not_selections.is_empty() {
            common.push(in_set(key.clone(), Op::Ne, &self.pod_set(&end.not_selections, family, used.inverse())));
            if let Some(set) = self.network_set(&end.not_selections, family, used.inverse()) {
                common.push(in_set(key.clone(), Op::Ne, &set));
            }
        }
        if let Some(service) = &end.service {
            common.push(self.service_match(view, side, service, family, used));
        }
        let Some(selections) = &end.selections else { return vec![common] };
        let mut all = vec![in_set(key.clone(), Op::Eq, &self.pod_set(selections, family, used))];
        all.extend(self.network_set(selections, family, used).map(|set| in_set(key, Op::Eq, &set)));
        all.into_iter().map(|selected| [vec![selected], common.clone()].concat()).collect()
    }

    /// What an end's port must be: any of these.
    fn ports(
        &mut self,
        place: Place<'_>,
        side: Side,
        end: &Entity,
        protocol: Option<u8>,
        family: Option<Family>,
        used: Use,
    ) -> Vec<Conjunction> {
        let field = place.view.port(side);
        let mut common = Vec::new();
        if !end.not_ports.is_empty() {
            let (numbers, names) = resolve(place, side, &end.not_ports, protocol);
            // Where a name leaves the protocol open, its ports have one each; validation gives such rules a protocol.
            for ranges in numbers.get(&None).into_iter().chain(numbers.get(&protocol).filter(|_| protocol.is_some())) {
                common.push(self.port_match(place.view, side, ranges, Op::Ne));
            }
            if !names.is_empty()
                && let Some(family) = family
            {
                let set = self.named_ports(&names, end.not_ports.hosts, protocol, family, used.inverse());
                let key = vec![place.view.address(side, family), Field::L4Proto, field];
                common.push(in_set(key, Op::Ne, &set));
            }
        }
        let Some(ports) = &end.ports else { return vec![common] };
        let (numbers, names) = resolve(place, side, ports, protocol);
        let mut any = Vec::new();
        for (protocol, ranges) in numbers {
            let mut matches: Conjunction = protocol.map(|number| Match::L4Proto(Op::Eq, number)).into_iter().collect();
            if ranges != [(0, u16::MAX)] {
                matches.push(self.port_match(place.view, side, &ranges, Op::Eq));
            }
            any.push(matches);
        }
        if !names.is_empty()
            && let Some(family) = family
        {
            let set = self.named_ports(&names, ports.hosts, protocol, family, used);
            let key = vec![place.view.address(side, family), Field::L4Proto, field];
            any.push(vec![in_set(key, Op::Eq, &set)]);
        }
        with(&any, &[common])
    }
}

/// Each of these with each of those.
fn with(these: &[Conjunction], those: &[Conjunction]) -> Vec<Conjunction> {
    these.iter().flat_map(|this| those.iter().map(|that| [this.as_slice(), that].concat())).collect()
}

/// Whether the conditions on an end are about addresses, whose look-up depends on their family.
fn asks_for_family(place: Place<'_>, side: Side, end: &Entity) -> bool {
    let named = |ports: &Ports| !ports.names.is_empty() && !is_own(place, side);
    end.blocks.is_some()
        || end.selections.is_some()
        || end.service.is_some()
        || !end.not_nets.is_empty()
        || !end.not_selections.is_empty()
        || end.ports.as_ref().is_some_and(named)
        || named(&end.not_ports)
}

/// Whether this end is the endpoint itself.
fn is_own(place: Place<'_>, side: Side) -> bool {
    place.view.site.own && side != peer(place.direction)
}

/// Ranges of ports by protocol, where it is not the rule's; and the names that are left.
type Numbers = BTreeMap<Option<u8>, Vec<(u16, u16)>>;

/// The ports that are known by number: those that are given so, and the endpoint's own by name.
fn resolve(place: Place<'_>, side: Side, ports: &Ports, protocol: Option<u8>) -> (Numbers, BTreeSet<String>) {
    let mut numbers = Numbers::new();
    if !ports.ranges.is_empty() {
        numbers.insert(None, ports.ranges.clone());
    }
    if !is_own(place, side) {
        return (numbers, ports.names.clone());
    }
    let named = place.ports.iter().filter(|port| port.name.as_ref().is_some_and(|name| ports.names.contains(name)));
    for port in named {
        let own = port.protocol.number();
        match protocol {
            Some(protocol) if protocol == own => numbers.entry(None).or_default().push((port.number, port.number)),
            Some(_) => {}
            None => numbers.entry(Some(own)).or_default().push((port.number, port.number)),
        }
    }
    for ranges in numbers.values_mut() {
        *ranges = Ports::new(ranges.drain(..), []).ranges;
    }
    (numbers, BTreeSet::new())
}

/// What a message of ICMP must be: any of these.
fn icmp_matches(view: View<'_>, family: Family, clause: &Clause) -> Vec<Conjunction> {
    let mut common = Vec::new();
    if let Some(Icmp { kind: Some(kind), code }) = clause.icmp {
        // No answer has it.
        let Some(kind) = view.icmp_kind(family, kind) else { return Vec::new() };
        common.push(Match::Icmp { family, op: Op::Eq, kind, code });
    }
    let mut any = vec![common];
    if let Some(Icmp { kind: Some(kind), code }) = clause.not_icmp
        && let Some(kind) = view.icmp_kind(family, kind)
    {
        let mut others = vec![vec![Match::Icmp { family, op: Op::Ne, kind, code: None }]];
        if let Some(code) = code {
            others.push(vec![
                Match::Icmp { family, op: Op::Eq, kind, code: None },
                Match::IcmpCode { family, op: Op::Ne, code },
            ]);
        }
        any = with(&any, &others);
    }
    any
}
