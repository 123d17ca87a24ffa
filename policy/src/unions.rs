//! Unions of allowing policies as rules.
//!
//! However many policies a union is of, a packet meets a handful of look-ups: one of its port for each protocol, whose verdict leads
//! into a *segment* chain with the peers of that range of ports, and those of the peers that may use every port. Where few rules share a
//! segment each has its own look-up, by a set that others who mean the same peers use too, and its own counter. Where many do, one map
//! has all their peers, each with the counter of the first rule that allows it, so that to count costs no step more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tortie_nft::{Family, Field, KeyType, Match, Op, Rule, Statement, Value, Verdict, VerdictMap};

use crate::chains::{Builder, in_set, rule};
use crate::clauses::Place;
use crate::counted::{Counted, CountedPorts};
use crate::peers::Peers;
use crate::program::Named;
use crate::sets::Use;
use crate::union::{Segment, Share, Union, merged};
use crate::view::peer;

/// Up to so many rules have a look-up each.
const FEW: usize = 4;

impl Builder<'_> {
    /// The rules that allow what the union does.
    pub(crate) fn union(&mut self, place: Place<'_>, union: &Union) -> Vec<Rule> {
        if let Some(open) = union.all_ports.iter().find(|share| share.peers.everyone)
            && (open.rank == 0 || !self.counts)
        {
            return vec![self.allowing(place, union, 0, Vec::new())];
        }
        let mut rules = self.named_rules(place, union);
        for (&protocol, segments) in &union.segments {
            let map = self.port_map(place, union, segments);
            rules.push(rule(
                vec![Match::L4Proto(Op::Eq, protocol)],
                vec![Statement::Vmap { key: vec![place.view.port(tortie_nft::Side::Destination)], map }],
            ));
        }
        rules.extend(self.share_rules(place, union, &union.all_ports, &union.all_ports));
        rules
    }

    /// A rule that counts for the union's rule of this rank, and allows.
    fn allowing(&mut self, place: Place<'_>, union: &Union, rank: u32, matches: Vec<Match>) -> Rule {
        let mut statements: Vec<Statement> = self.hit(place, &union.rules[rank as usize]).into_iter().collect();
        statements.push(Statement::Verdict(place.view.site.allowed.clone()));
        rule(matches, statements)
    }

    /// The map from a protocol's ports to their segments.
    fn port_map(&mut self, place: Place<'_>, union: &Union, segments: &[Segment]) -> String {
        let mut ranges: Vec<(u16, u16, Verdict)> = Vec::with_capacity(segments.len());
        for segment in segments {
            let rules = self.share_rules(place, union, &segment.shares, &union.all_ports);
            let outcome = match rules.as_slice() {
                [] => continue,
                [Rule { matches, statements, .. }] if matches.is_empty() => match statements.as_slice() {
                    [Statement::Verdict(verdict)] => verdict.clone(),
                    _ => Verdict::Jump(self.segment(rules)),
                },
                _ => Verdict::Jump(self.segment(rules)),
            };
            match ranges.last_mut() {
                Some((_, last, before)) if last.checked_add(1) == Some(segment.first) && *before == outcome => {
                    *last = segment.last;
                }
                _ => ranges.push((segment.first, segment.last, outcome)),
            }
        }
        let elements: BTreeMap<_, _> =
            ranges.into_iter().map(|(first, last, outcome)| (vec![ports(first, last)], outcome)).collect();
        let name = self.names.name("v_", &elements.iter().collect::<Vec<_>>());
        self.used.insert(name.clone());
        self.ruleset.maps.entry(name.clone()).or_insert_with(|| VerdictMap {
            key: vec![KeyType::InetService],
            interval: true,
            elements,
            comment: Some("each port's peers".to_owned()),
        });
        name
    }

    /// The chain of a segment.
    fn segment(&mut self, rules: Vec<Rule>) -> String {
        let name = self.names.name("t_", &rules);
        self.chain(&name, || {
            let mut rules = rules;
            if let Some(first) = rules.first_mut() {
                first.comment = Some("the peers of some ports".to_owned());
            }
            rules
        });
        name
    }

    /// The look-ups of those that have a share in `own`. What counts is the first rule that allows a packet, be it in `own` or in
    /// `others`.
    fn share_rules(&mut self, place: Place<'_>, union: &Union, own: &[Share], others: &[Share]) -> Vec<Rule> {
        if !self.counts {
            let mut peers = Peers::default();
            for share in own {
                peers.extend(&share.peers);
            }
            if peers.everyone {
                return vec![self.allowing(place, union, 0, Vec::new())];
            }
            return self.peer_rules(place, union, 0, &peers);
        }
        // Behind a rule that allows everyone none decides, and one behind all of `own` decides about nobody who has a share in it.
        let open = others.iter().find(|share| share.peers.everyone).map_or(u32::MAX, |share| share.rank);
        let own: Vec<Share> = own.iter().filter(|share| share.rank <= open).cloned().collect();
        let Some(last) = own.last().map(|share| share.rank) else { return Vec::new() };
        let others: Vec<Share> = others.iter().filter(|share| share.rank < last).cloned().collect();
        let ranking = merged(&own, &others);
        if ranking.len() <= FEW {
            return ranking.iter().flat_map(|share| self.peer_rules(place, union, share.rank, &share.peers)).collect();
        }
        let counters: Vec<String> =
            ranking.iter().map(|share| self.counter(place, &union.rules[share.rank as usize])).collect();
        let open = ranking.last().filter(|share| share.peers.everyone).map(|share| share.rank);
        // Where everyone may, all before that count, wherever they have their share.
        let asked = if open.is_some() { &ranking } else { &own };
        let mut rules = Vec::new();
        for family in [Family::V4, Family::V6] {
            let counted = Arc::new(Counted::new(family, asked, &ranking, &counters));
            let key = vec![place.view.address(peer(place.direction), family)];
            for map in [self.address_counters(&counted), self.block_counters(&counted)] {
                rules.extend(map.map(|map| counting(place, family, key.clone(), map)));
            }
        }
        rules.extend(open.map(|rank| self.allowing(place, union, rank, Vec::new())));
        rules
    }

    /// One look-up for the pods of each family, and one for the addresses of each.
    fn peer_rules(&mut self, place: Place<'_>, union: &Union, rank: u32, peers: &Peers) -> Vec<Rule> {
        if peers.everyone {
            return vec![self.allowing(place, union, rank, Vec::new())];
        }
        let mut rules = Vec::new();
        for family in [Family::V4, Family::V6] {
            let mut sets = Vec::new();
            if !peers.pods.is_empty() {
                sets.push(self.pod_set(&peers.pods, family, Use::Allows));
                sets.extend(self.network_set(&peers.pods, family, Use::Allows));
            }
            sets.extend(self.block_set(&peers.blocks, family));
            for set in sets {
                let key = vec![place.view.address(peer(place.direction), family)];
                let matches = vec![Match::NfProto(family), in_set(key, Op::Eq, &set)];
                rules.push(self.allowing(place, union, rank, matches));
            }
        }
        rules
    }

    /// The look-ups of ports by name.
    fn named_rules(&mut self, place: Place<'_>, union: &Union) -> Vec<Rule> {
        let key = |family| {
            let side = peer(place.direction);
            vec![place.view.address(side, family), Field::L4Proto, place.view.port(side)]
        };
        let mut rules = Vec::new();
        if union.named.is_empty() {
            return rules;
        }
        if self.counts && (union.named.len() > FEW || union.claims.len() > union.named.len()) {
            let claims = union
                .claims
                .iter()
                .map(|claim| (claim.clone(), self.counter(place, &union.rules[claim.rank as usize])));
            let counted = Arc::new(CountedPorts::new(claims.collect()));
            for family in [Family::V4, Family::V6] {
                let map = self.port_counters(&counted, family);
                rules.push(counting(place, family, key(family), map));
            }
            return rules;
        }
        let of_each = union.named.iter().map(|(rank, named)| (*rank, BTreeSet::from([named.clone()])));
        let of_all = || (0, union.named.iter().map(|(_, named)| named.clone()).collect());
        let sets: Vec<(u32, BTreeSet<Named>)> = if self.counts { of_each.collect() } else { vec![of_all()] };
        for (rank, named) in &sets {
            for family in [Family::V4, Family::V6] {
                let set = self.named_set(named, family, Use::Allows);
                let matches = vec![Match::NfProto(family), in_set(key(family), Op::Eq, &set)];
                rules.push(self.allowing(place, union, *rank, matches));
            }
        }
        rules
    }
}

fn ports(first: u16, last: u16) -> Value {
    if first == last { Value::Port(first) } else { Value::PortRange(first, last) }
}

/// A rule that counts as the map says of whom it allows.
fn counting(place: Place<'_>, family: Family, key: Vec<Field>, map: String) -> Rule {
    rule(
        vec![Match::NfProto(family)],
        vec![Statement::CountIn { key, map }, Statement::Verdict(place.view.site.allowed.clone())],
    )
}
