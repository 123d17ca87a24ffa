//! What policies allow together that do nothing but allow: Kubernetes' NetworkPolicies, thousands of which may select one pod.
//!
//! Rules of several policies overlap in peers and ports as they please, and a packet must meet a handful of look-ups all the same. So the
//! ports of a protocol are cut wherever a rule begins or ends; all ports of a segment are then covered by the same rules, and are
//! looked up once. Who is asked there, in which order, and what is counted, is in the segment's [`Share`]s: one for each rule, in the
//! order of the rules, since the first that allows a packet is the one that decides.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;
use tortie_api::k8s::{PolicyType, Protocol};
use tortie_nft::Side;

use crate::cluster::PodPort;
use crate::peers::Peers;
use crate::program::{Entity, Named, Policy, Ports, RuleId};
use crate::view::peer;

/// What a rule of a union allows on some ports.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(crate) struct Share {
    /// The rule's place among those of the union.
    pub(crate) rank: u32,
    /// Who may.
    #[serde(serialize_with = "crate::names::shared")]
    pub(crate) peers: Arc<Peers>,
}

/// A range of ports that is open to the same peers throughout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Segment {
    /// The first port.
    pub(crate) first: u16,
    /// The last port.
    pub(crate) last: u16,
    /// Who may, in the order of the rules.
    pub(crate) shares: Vec<Share>,
}

/// What policies allow together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Union {
    /// The rules, by rank.
    pub(crate) rules: Vec<RuleId>,
    /// Who may use every port of every protocol; everyone, if the direction is open.
    pub(crate) all_ports: Vec<Share>,
    /// Who may use which ports, by protocol.
    pub(crate) segments: BTreeMap<u8, Vec<Segment>>,
    /// Who may be reached by the names of their ports, each with the rank of the rule: in egress only, because a name is the
    /// destination's.
    pub(crate) named: Vec<(u32, Named)>,
    /// All claims, by rank: what the rest is cut from.
    pub(crate) claims: Vec<Claim>,
}

/// What a rule allows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Claim {
    /// The rule's place among those of the union.
    pub(crate) rank: u32,
    /// On which ports.
    pub(crate) on: On,
    /// Who may.
    #[serde(serialize_with = "crate::names::shared")]
    pub(crate) peers: Arc<Peers>,
}

/// On which ports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) enum On {
    /// All of all protocols.
    Everything,
    /// Some of a protocol, first and last.
    Range(u8, u16, u16),
    /// Those that the peers have under a name.
    Name(u8, String),
}

impl Union {
    /// What these policies allow to an endpoint that declares `ports`.
    pub(crate) fn of(policies: &[Policy], direction: PolicyType, ports: &[PodPort]) -> Self {
        let mut union = Self::default();
        for policy in policies {
            for line in &policy.lines {
                let rank = union.rules.len() as u32;
                union.rules.push(RuleId { policy: policy.key.clone(), direction, number: line.number });
                for clause in &line.clauses {
                    let peers = Arc::new(Peers::of_entity(clause.end(peer(direction))));
                    union.claim(rank, clause.protocol, &clause.destination, direction, ports, &peers);
                }
            }
        }
        union.cut();
        union
    }

    fn claim(
        &mut self,
        rank: u32,
        protocol: Option<u8>,
        destination: &Entity,
        direction: PolicyType,
        own: &[PodPort],
        peers: &Arc<Peers>,
    ) {
        let mut claim = |on| self.claims.push(Claim { rank, on, peers: Arc::clone(peers) });
        match (protocol, &destination.ports) {
            (None, _) => claim(On::Everything),
            (Some(protocol), None) => claim(On::Range(protocol, 0, u16::MAX)),
            (Some(protocol), Some(Ports { ranges, names, .. })) => {
                for &(first, last) in ranges {
                    claim(On::Range(protocol, first, last));
                }
                if peer(direction) == Side::Destination {
                    for name in names {
                        claim(On::Name(protocol, name.clone()));
                    }
                } else {
                    let is_meant = |port: &&PodPort| {
                        port.protocol.number() == protocol
                            && port.name.as_ref().is_some_and(|name| names.contains(name))
                    };
                    for port in own.iter().filter(is_meant) {
                        claim(On::Range(protocol, port.number, port.number));
                    }
                }
            }
        }
    }

    /// Sorts the claims out by how they are looked up.
    fn cut(&mut self) {
        let mut by_protocol: BTreeMap<u8, Vec<(u16, u16, Share)>> = BTreeMap::new();
        for Claim { rank, on, peers } in &self.claims {
            let share = Share { rank: *rank, peers: Arc::clone(peers) };
            match on {
                On::Everything => push(&mut self.all_ports, share),
                On::Range(protocol, first, last) => {
                    by_protocol.entry(*protocol).or_default().push((*first, *last, share));
                }
                On::Name(protocol, name) => {
                    let named = Protocol::ALL.into_iter().find(|it| it.number() == *protocol).map(|protocol| Named {
                        protocol,
                        name: name.clone(),
                        hosts: false,
                        peers: Arc::clone(peers),
                    });
                    self.named.extend(named.map(|named| (*rank, named)));
                }
            }
        }
        truncate(&mut self.all_ports);
        self.segments = by_protocol.into_iter().map(|(protocol, claims)| (protocol, segments(&claims))).collect();
    }
}

/// Adds a share to those of lower rules. One of the same rule as the last joins that.
fn push(shares: &mut Vec<Share>, share: Share) {
    match shares.last_mut() {
        Some(last) if last.rank == share.rank => {
            if last.peers != share.peers {
                Arc::make_mut(&mut last.peers).extend(&share.peers);
            }
        }
        _ => shares.push(share),
    }
}

/// Takes out the shares that never decide: those behind one of everyone, and those of the same peers as one before.
fn truncate(shares: &mut Vec<Share>) {
    if let Some(open) = shares.iter().position(|share| share.peers.everyone) {
        shares.truncate(open + 1);
        if let Some(last) = shares.last_mut() {
            last.peers = Arc::new(Peers::everyone());
        }
    }
    let mut known = BTreeSet::new();
    shares.retain(|share| known.insert(Arc::clone(&share.peers)));
}

/// Both lists as one, in the order of the rules.
pub(crate) fn merged(these: &[Share], those: &[Share]) -> Vec<Share> {
    let mut all: Vec<&Share> = these.iter().chain(those).collect();
    all.sort_by_key(|share| share.rank);
    let mut merged = Vec::with_capacity(all.len());
    for share in all {
        push(&mut merged, share.clone());
    }
    truncate(&mut merged);
    merged
}

/// Cuts claims, in the order of their rules, into segments: disjoint, in order, neighbours with equal shares joined.
fn segments(claims: &[(u16, u16, Share)]) -> Vec<Segment> {
    // Which claims begin, and which have ended, at a port. One past the last port does not fit 16 bits.
    let mut borders: BTreeMap<u32, (Vec<usize>, Vec<usize>)> = BTreeMap::new();
    for (index, (first, last, _)) in claims.iter().enumerate() {
        borders.entry((*first).into()).or_default().0.push(index);
        borders.entry(u32::from(*last) + 1).or_default().1.push(index);
    }
    let mut segments: Vec<Segment> = Vec::new();
    let mut open: BTreeSet<usize> = BTreeSet::new();
    let mut start = 0;
    for (border, (begun, ended)) in borders {
        if !open.is_empty() {
            let mut shares = Vec::with_capacity(open.len());
            for &index in &open {
                push(&mut shares, claims[index].2.clone());
            }
            truncate(&mut shares);
            let (first, last) = (start as u16, (border - 1) as u16);
            match segments.last_mut() {
                Some(before) if u32::from(before.last) + 1 == start && before.shares == shares => before.last = last,
                _ => segments.push(Segment { first, last, shares }),
            }
        }
        open.extend(begun);
        for index in ended {
            open.remove(&index);
        }
        start = border;
    }
    segments
}
