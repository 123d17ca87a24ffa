//! Maps that have, for all whom the rules of a union allow, the counter of the first rule that does.
//!
//! Pods come and go in such a map as in a set. One that several rules select counts for the first of them, and for the next when it
//! loses the label that the first asks for. What of the peers is blocks of addresses never changes, and is in a map of its own: packets
//! come to that if the pods' map does not have their address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;
use tortie_nft::{CounterMap, Family, Key, KeyType, Value};

use crate::chains::Builder;
use crate::cluster::{Cluster, PodPort, PodView};
use crate::followed::{Followed, Whom};
use crate::index::SelectionIndex;
use crate::peers::Peers;
use crate::selection::{Seen, Selection, Species};
use crate::territory::Territory;
use crate::union::{Claim, On, Share};

/// The peers of some rules of a union, each with a counter.
#[derive(Debug, Serialize)]
pub(crate) struct Counted {
    #[serde(skip)]
    family: Family,
    /// Whose peers these are: places in the ranking.
    asked: BTreeSet<u32>,
    /// Whom each rule allows, in order, and its counter.
    ranking: Vec<Ranked>,
    /// Whose blocks the addresses are in: places in the ranking, and of those asked for.
    #[serde(skip)]
    territory: Territory,
    #[serde(skip)]
    asked_territory: Territory,
    /// The places in the ranking by what their selections ask for.
    #[serde(skip)]
    index: SelectionIndex<u32>,
}

/// Whom a rule allows, and its counter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Ranked {
    #[serde(serialize_with = "crate::names::shared")]
    peers: Arc<Peers>,
    counter: String,
}

impl Counted {
    /// The peers of this family of those who have a share in `asked`. Which counter is one's says the first of `ranking` that allows
    /// it; whom `asked` allows, that does too.
    pub(crate) fn new(family: Family, asked: &[Share], ranking: &[Share], counters: &[String]) -> Self {
        let mut territory = Territory::new(family);
        let mut asked_territory = Territory::new(family);
        for (place, share) in (0..).zip(ranking) {
            territory.claim(&share.peers.blocks, place);
        }
        for share in asked {
            asked_territory.claim(&share.peers.blocks, 0);
        }
        let wanted: BTreeSet<&Arc<Peers>> = asked.iter().map(|share| &share.peers).collect();
        let places = (0..).zip(ranking).filter(|(_, share)| wanted.contains(&share.peers)).map(|(place, _)| place);
        let asked = places.collect();
        let mut index = SelectionIndex::default();
        for (place, share) in (0..).zip(ranking) {
            share.peers.pods.iter().for_each(|selection| index.insert(selection, place));
        }
        let ranking = ranking.iter().zip(counters);
        let ranking = ranking
            .map(|(share, counter)| Ranked { peers: Arc::clone(&share.peers), counter: counter.clone() })
            .collect();
        Self { family, asked, ranking, territory, asked_territory, index }
    }

    /// The selections on which its elements depend.
    pub(crate) fn selections(&self) -> impl Iterator<Item = &Selection> {
        self.ranking.iter().flat_map(|ranked| &ranked.peers.pods)
    }

    /// The counter of an address that endpoints seen like this have; `None` if it is not in the map of endpoints.
    pub(crate) fn counter_at(&self, address: IpAddr, seen: &[Seen]) -> Option<String> {
        let mut places = Vec::new();
        for seen in seen {
            self.index.candidates(seen, &mut places);
        }
        places.sort_unstable();
        places.dedup();
        places.retain(|place| {
            let selections = &self.ranking[*place as usize].peers.pods;
            selections.iter().any(|selection| seen.iter().any(|seen| selection.selects(seen)))
        });
        let is_asked =
            self.asked_territory.owner(address).is_some() || places.iter().any(|place| self.asked.contains(place));
        places.first().filter(|_| is_asked).map(|place| self.counter(address, *place))
    }

    /// The counter of an address that an endpoint has which the rule of this place selects, and none before it.
    fn counter(&self, address: IpAddr, selected: u32) -> String {
        let first = self.territory.owner(address).map_or(selected, |owner| owner.min(selected));
        self.ranking[first as usize].counter.clone()
    }

    /// The blocks' elements.
    fn block_elements(&self) -> BTreeMap<Key, String> {
        let elements = self.territory.within(&self.asked_territory);
        elements.into_iter().map(|(key, place)| (key, self.ranking[place as usize].counter.clone())).collect()
    }
}

/// What some rules of a union allow on ports by name, each with a counter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct CountedPorts {
    /// What the union's rules allow, in order, and their counters: up to the last one that has to do with a name.
    claims: Vec<(Claim, String)>,
}

impl CountedPorts {
    /// Of these claims of a union, in order, and their counters.
    pub(crate) fn new(mut claims: Vec<(Claim, String)>) -> Self {
        let last = claims.iter().rposition(|(claim, _)| matches!(claim.on, On::Name(..)));
        claims.truncate(last.map_or(0, |last| last + 1));
        Self { claims }
    }

    /// The selections on which its elements depend.
    pub(crate) fn selections(&self) -> impl Iterator<Item = &Selection> {
        self.claims.iter().flat_map(|(claim, _)| &claim.peers.pods)
    }

    /// Whether it may have addresses that no selection asks for.
    pub(crate) fn has_others(&self) -> bool {
        let is_open = |peers: &Peers| peers.everyone || !peers.blocks.is_empty();
        self.claims.iter().any(|(claim, _)| matches!(claim.on, On::Name(..)) && is_open(&claim.peers))
    }

    /// The elements for an address that an endpoint has which is seen like this and declares these ports.
    pub(crate) fn elements_of(&self, address: IpAddr, seen: &Seen, ports: &[PodPort]) -> BTreeMap<Key, String> {
        let may = |peers: &Peers| {
            peers.everyone || peers.has_address(address) || peers.pods.iter().any(|selection| selection.selects(seen))
        };
        let mut elements = BTreeMap::new();
        for port in ports {
            let protocol = port.protocol.number();
            let is_named =
                |on: &On| matches!(on, On::Name(of, name) if *of == protocol && port.name.as_ref() == Some(name));
            let Some(named) = self.claims.iter().position(|(claim, _)| is_named(&claim.on) && may(&claim.peers)) else {
                continue;
            };
            let covers = |on: &On| match on {
                On::Everything => true,
                On::Range(of, first, last) => *of == protocol && (*first..=*last).contains(&port.number),
                On::Name(..) => false,
            };
            let before = self.claims[..named].iter().find(|(claim, _)| covers(&claim.on) && may(&claim.peers));
            let (_, counter) = before.unwrap_or(&self.claims[named]);
            let key = vec![Value::Addr(address), Value::Proto(protocol), Value::Port(port.number)];
            // Two names of one number: the earlier rule's.
            let rank = |counter: &String| self.claims.iter().position(|(_, other)| other == counter);
            match elements.get(&key) {
                Some(other) if rank(other) <= rank(counter) => {}
                _ => drop(elements.insert(key, counter.clone())),
            }
        }
        elements
    }
}

impl Builder<'_> {
    /// The map of the endpoints; `None` if the ranking has none but blocks.
    pub(crate) fn address_counters(&mut self, counted: &Arc<Counted>) -> Option<String> {
        counted.selections().next()?;
        let (prefix, key) = address_key(counted.family, ["c4_", "c6_"]);
        let name = self.names.name(prefix, &**counted);
        Some(self.counter_map(name, vec![key], counted.family, "who may, and which rule says so", |builder| {
            let mut first: BTreeMap<IpAddr, u32> = BTreeMap::new();
            let mut asked = BTreeSet::new();
            for (place, ranked) in (0..).zip(&counted.ranking) {
                let addresses = builder.resolver.addresses(&ranked.peers.pods, counted.family == Family::V4);
                if counted.asked.contains(&place) {
                    asked.extend(addresses.iter().copied());
                }
                for address in addresses {
                    first.entry(address).or_insert(place);
                }
            }
            let is_asked =
                |address: &IpAddr| asked.contains(address) || counted.asked_territory.owner(*address).is_some();
            let elements = first.into_iter().filter(|(address, _)| is_asked(address));
            let elements =
                elements.map(|(address, place)| (vec![Value::Addr(address)], counted.counter(address, place)));
            (elements.collect(), Whom::Counted(Arc::clone(counted)))
        }))
    }

    /// The map of the blocks; `None` if there is nothing in it.
    pub(crate) fn block_counters(&mut self, counted: &Counted) -> Option<String> {
        let elements = counted.block_elements();
        if elements.is_empty() {
            return None;
        }
        let (prefix, key) = address_key(counted.family, ["cb4", "cb6"]);
        let name = self.names.name(prefix, &elements.iter().collect::<Vec<_>>());
        self.used.insert(name.clone());
        self.ruleset.counter_maps.entry(name.clone()).or_insert_with(|| CounterMap {
            key: vec![key],
            interval: true,
            elements,
            comment: Some("addresses that rules name, and which rule".to_owned()),
        });
        Some(name)
    }

    /// The map of the ports by name.
    pub(crate) fn port_counters(&mut self, counted: &Arc<CountedPorts>, family: Family) -> String {
        let (prefix, key) = address_key(family, ["cp4", "cp6"]);
        let name = self.names.name(prefix, &**counted);
        let key = vec![key, KeyType::InetProto, KeyType::InetService];
        self.counter_map(name, key, family, "ports by name, and which rule says so", |builder| {
            let cluster = builder.resolver.cluster;
            let mut addresses = BTreeSet::new();
            if counted.has_others() {
                addresses.extend(cluster.endpoints().flat_map(PodView::ips));
            } else {
                let selections = counted.selections().cloned().collect();
                addresses = builder.resolver.addresses(&selections, family == Family::V4);
            }
            addresses.retain(|address| address.is_ipv4() == (family == Family::V4));
            let elements = addresses.into_iter().flat_map(|address| port_elements(cluster, counted, address));
            (elements.collect(), Whom::CountedPorts(Arc::clone(counted)))
        })
    }

    fn counter_map(
        &mut self,
        name: String,
        key: Vec<KeyType>,
        family: Family,
        comment: &str,
        fill: impl FnOnce(&mut Self) -> (BTreeMap<Key, String>, Whom),
    ) -> String {
        self.used.insert(name.clone());
        if !self.ruleset.counter_maps.contains_key(&name) {
            let (elements, whom) = fill(self);
            let map = CounterMap { key, interval: false, elements, comment: Some(comment.to_owned()) };
            self.ruleset.counter_maps.insert(name.clone(), map);
            self.followed.push((name.clone(), Followed { family, whom }));
        }
        name
    }
}

/// The elements of a map of ports by name for an address.
pub(crate) fn port_elements(cluster: &Cluster, counted: &CountedPorts, address: IpAddr) -> BTreeMap<Key, String> {
    // Kubernetes' policies know names of pods' ports only.
    let pods = cluster.seen_at(address).filter(|(seen, _)| seen.species == Species::Pod);
    let of_each = pods.flat_map(|(seen, ports)| counted.elements_of(address, &seen, ports));
    let mut elements = BTreeMap::new();
    for (key, counter) in of_each {
        // Where two endpoints claim an address the one that names itself first in the alphabet of counters has it, in any order.
        elements
            .entry(key)
            .and_modify(|other: &mut String| *other = counter.clone().min(other.clone()))
            .or_insert(counter);
    }
    elements
}

const fn address_key(family: Family, prefixes: [&'static str; 2]) -> (&'static str, KeyType) {
    match family {
        Family::V4 => (prefixes[0], KeyType::Ipv4Addr),
        Family::V6 => (prefixes[1], KeyType::Ipv6Addr),
    }
}
