//! A ruleset with names as indices and sets as tables, and a packet's fields as the bytes that are looked up in them.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Conntrack, Error, FlowState, Packet, Translation};
use crate::check::{self, Content, Declared};
use crate::keys::{self, Bytes, IFNAMSIZ};
use crate::model::{
    self, ChainType, CtStates, Direction, Family, Field, HookPoint, Key, KeyType, Match, Op, RejectWith, Rule, Ruleset,
    Side, Statement,
};

/// A ruleset made ready.
#[derive(Debug)]
pub(super) struct Compiled {
    pub(super) chains: Vec<Chain>,
    pub(super) sets: Vec<Table>,
    /// Names of counters, in order.
    pub(super) counters: Vec<String>,
    /// Base chains in the order in which packets meet them: by priority, then by name.
    pub(super) bases: Vec<Base>,
}

#[derive(Debug)]
pub(super) struct Base {
    pub(super) point: HookPoint,
    pub(super) priority: i32,
    pub(super) kind: ChainType,
    pub(super) chain: usize,
}

#[derive(Debug)]
pub(super) struct Chain {
    pub(super) name: String,
    pub(super) rules: Vec<CompiledRule>,
}

#[derive(Debug)]
pub(super) struct CompiledRule {
    pub(super) conditions: Vec<Condition>,
    pub(super) effects: Vec<Effect>,
}

/// A verdict with its chain by index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Accept,
    Drop,
    Jump(usize),
    Goto(usize),
    Return,
}

#[derive(Debug)]
pub(super) enum Condition {
    /// The first `length` bytes of an interface name.
    Name {
        field: Side,
        negate: bool,
        name: [u8; IFNAMSIZ],
        length: usize,
    },
    Family(bool),
    Protocol {
        negate: bool,
        number: u8,
    },
    Addr {
        source: bool,
        negate: bool,
        net: IpNet,
    },
    Port {
        source: bool,
        negate: bool,
        first: u16,
        last: u16,
    },
    Icmp {
        negate: bool,
        kind: u8,
        code: Option<u8>,
    },
    IcmpCode {
        negate: bool,
        code: u8,
    },
    State(u32),
    Direction(Direction),
    Dnat(bool),
    /// More than a limit allows: of no packet here.
    Over,
    /// No more than a limit allows: of every packet here.
    Within,
    InSet {
        key: Vec<Field>,
        negate: bool,
        set: usize,
    },
}

/// What a rule does. Counters without a name count nothing here.
#[derive(Debug)]
pub(super) enum Effect {
    SetMark { keep: u32, bits: u32 },
    Verdict(Verdict),
    Translate(Translation),
    Reject(RejectWith),
    Vmap { key: Vec<Field>, map: usize },
    NoTrack,
    Count(usize),
    CountIn { key: Vec<Field>, map: usize },
}

/// An element, with what it has in a map.
#[derive(Debug, Clone, Copy)]
pub(super) enum Hit {
    Key,
    Verdict(Verdict),
    /// A counter by its index.
    Counter(usize),
}

/// A set or a map.
#[derive(Debug)]
pub(super) enum Table {
    Hash(HashMap<Bytes, Hit>),
    /// One field, sorted and disjoint: first, last.
    Ranges(Vec<(Bytes, Bytes, Hit)>),
    /// Several fields, each a range of its own. Field lengths are those in registers.
    Boxes {
        widths: Vec<usize>,
        boxes: Vec<(Bytes, Bytes, Hit)>,
    },
}

impl Table {
    /// The element that covers `key`.
    pub(super) fn lookup(&self, key: &Bytes) -> Option<Hit> {
        match self {
            Self::Hash(elements) => elements.get(key).copied(),
            Self::Ranges(ranges) => {
                let after = ranges.partition_point(|(first, _, _)| first <= key);
                let (_, last, verdict) = ranges.get(after.checked_sub(1)?)?;
                (key <= last).then_some(*verdict)
            }
            Self::Boxes { widths, boxes } => {
                boxes.iter().find(|(first, last, _)| within(widths, key, first, last)).map(|(_, _, verdict)| *verdict)
            }
        }
    }
}

fn within(widths: &[usize], key: &Bytes, first: &Bytes, last: &Bytes) -> bool {
    let mut start = 0;
    widths.iter().all(|width| {
        let field = start..start + width;
        start = field.end;
        let value = &key.as_slice()[field.clone()];
        first.as_slice()[field.clone()] <= *value && *value <= last.as_slice()[field]
    })
}

impl Compiled {
    pub(super) fn new(ruleset: &Ruleset) -> Result<Self, Error> {
        if let Some(chain) = crate::fake::too_deep(ruleset) {
            return Err(Error::TooDeep(chain));
        }
        if let Some(chain) = crate::fake::misplaced(ruleset) {
            return Err(Error::Misplaced(chain));
        }
        let names = Names::new(ruleset)?;
        let mut sets = Vec::with_capacity(names.sets.len());
        for (name, set) in &ruleset.sets {
            let elements = set.elements.iter().map(|key| (key, Hit::Key));
            sets.push(table(name, &set.key, set.interval, elements)?);
        }
        for (name, map) in &ruleset.maps {
            let elements: Result<Vec<_>, Error> =
                map.elements.iter().map(|(key, verdict)| Ok((key, Hit::Verdict(names.verdict(verdict)?)))).collect();
            sets.push(table(name, &map.key, map.interval, elements?.into_iter())?);
        }
        for (name, map) in &ruleset.counter_maps {
            let elements: Result<Vec<_>, Error> =
                map.elements.iter().map(|(key, counter)| Ok((key, Hit::Counter(names.counter(counter)?)))).collect();
            sets.push(table(name, &map.key, map.interval, elements?.into_iter())?);
        }
        let mut chains = Vec::with_capacity(ruleset.chains.len());
        let mut bases = Vec::new();
        for (index, (name, chain)) in ruleset.chains.iter().enumerate() {
            if let Some(hook) = chain.hook {
                bases.push(Base { point: hook.point, priority: hook.priority, kind: hook.kind, chain: index });
            }
            let rules: Result<_, _> = chain.rules.iter().map(|rule| names.rule(name, rule)).collect();
            chains.push(Chain { name: name.clone(), rules: rules? });
        }
        bases.sort_by_key(|base| base.priority);
        Ok(Self { chains, sets, counters: ruleset.counters.keys().cloned().collect(), bases })
    }

    /// A verdict with its chain by name.
    pub(super) fn verdict(&self, verdict: Verdict) -> model::Verdict {
        let name = |chain: usize| self.chains[chain].name.clone();
        match verdict {
            Verdict::Accept => model::Verdict::Accept,
            Verdict::Drop => model::Verdict::Drop,
            Verdict::Jump(chain) => model::Verdict::Jump(name(chain)),
            Verdict::Goto(chain) => model::Verdict::Goto(name(chain)),
            Verdict::Return => model::Verdict::Return,
        }
    }
}

fn table<'a>(
    name: &str,
    types: &[KeyType],
    interval: bool,
    elements: impl Iterator<Item = (&'a Key, Hit)>,
) -> Result<Table, Error> {
    let invalid = |what| Error::Invalid { place: format!("set {name}"), what };
    let elements: Result<Vec<_>, Error> = elements
        .map(|(key, verdict)| {
            let (first, last) = keys::encode(types, interval, key).map_err(invalid)?;
            Ok((first, last, verdict))
        })
        .collect();
    let mut elements = elements?;
    Ok(match (interval, types) {
        (false, _) => Table::Hash(elements.into_iter().map(|(key, _, verdict)| (key, verdict)).collect()),
        (true, [_]) => {
            elements.sort_unstable_by_key(|(first, _, _)| *first);
            Table::Ranges(elements)
        }
        (true, types) => {
            Table::Boxes { widths: types.iter().map(|kind| kind.size().next_multiple_of(4)).collect(), boxes: elements }
        }
    })
}

/// Indices by name: chains and counters in order of name; sets, then verdict maps, then counter maps.
struct Names<'a> {
    chains: HashMap<&'a str, usize>,
    sets: HashMap<&'a str, usize>,
    counters: HashMap<&'a str, usize>,
    declared: BTreeMap<&'a str, Declared>,
}

impl<'a> Names<'a> {
    fn new(ruleset: &'a Ruleset) -> Result<Self, Error> {
        let sets = ruleset.sets.iter().map(|(name, set)| (name, &set.key, set.interval, Content::Keys));
        let maps = ruleset.maps.iter().map(|(name, map)| (name, &map.key, map.interval, Content::Verdicts));
        let counter_maps =
            ruleset.counter_maps.iter().map(|(name, map)| (name, &map.key, map.interval, Content::Counters));
        let all: Vec<_> = sets.chain(maps).chain(counter_maps).collect();
        let mut declared = BTreeMap::new();
        for (name, key, interval, content) in &all {
            let known = Declared { key: (*key).clone(), interval: *interval, content: *content };
            if declared.insert(name.as_str(), known).is_some() {
                let what = "sets, verdict maps and counter maps share their names, and two have this one".into();
                return Err(Error::Invalid { place: (*name).clone(), what });
            }
        }
        Ok(Self {
            chains: ruleset.chains.keys().enumerate().map(|(index, name)| (name.as_str(), index)).collect(),
            sets: all.iter().enumerate().map(|(index, (name, ..))| (name.as_str(), index)).collect(),
            counters: ruleset.counters.keys().enumerate().map(|(index, name)| (name.as_str(), index)).collect(),
            declared,
        })
    }

    fn chain(&self, name: &str) -> Result<usize, Error> {
        self.chains.get(name).copied().ok_or_else(|| Error::NoChain(name.into()))
    }

    fn counter(&self, name: &str) -> Result<usize, Error> {
        self.counters.get(name).copied().ok_or_else(|| Error::NoCounter(name.into()))
    }

    fn set(&self, name: &str) -> Result<usize, Error> {
        self.sets.get(name).copied().ok_or_else(|| Error::NoSet(name.into()))
    }

    fn verdict(&self, verdict: &model::Verdict) -> Result<Verdict, Error> {
        Ok(match verdict {
            model::Verdict::Accept => Verdict::Accept,
            model::Verdict::Drop => Verdict::Drop,
            model::Verdict::Jump(chain) => Verdict::Jump(self.chain(chain)?),
            model::Verdict::Goto(chain) => Verdict::Goto(self.chain(chain)?),
            model::Verdict::Return => Verdict::Return,
        })
    }

    fn rule(&self, chain: &str, rule: &Rule) -> Result<CompiledRule, Error> {
        check::rule(rule, |name| self.declared.get(name))
            .map_err(|what| Error::Invalid { place: format!("chain {chain}, rule `{rule}`"), what })?;
        let conditions: Result<_, _> = rule.matches.iter().map(|condition| self.condition(condition)).collect();
        let effects: Result<Vec<_>, _> = rule.statements.iter().filter_map(|s| self.effect(s).transpose()).collect();
        Ok(CompiledRule { conditions: conditions?, effects: effects? })
    }

    fn condition(&self, condition: &Match) -> Result<Condition, Error> {
        Ok(match condition {
            Match::IfName { side, op, name, prefix } => Condition::Name {
                field: *side,
                negate: *op == Op::Ne,
                name: keys::ifname(name).unwrap_or_default(),
                length: if *prefix { name.len().min(IFNAMSIZ) } else { IFNAMSIZ },
            },
            Match::NfProto(family) => Condition::Family(*family == Family::V4),
            Match::L4Proto(op, number) => Condition::Protocol { negate: *op == Op::Ne, number: *number },
            Match::Addr { side, op, net } => {
                Condition::Addr { source: *side == Side::Source, negate: *op == Op::Ne, net: *net }
            }
            Match::Port { side, op, first, last } => {
                Condition::Port { source: *side == Side::Source, negate: *op == Op::Ne, first: *first, last: *last }
            }
            Match::Icmp { op, kind, code, .. } => Condition::Icmp { negate: *op == Op::Ne, kind: *kind, code: *code },
            Match::IcmpCode { op, code, .. } => Condition::IcmpCode { negate: *op == Op::Ne, code: *code },
            Match::CtState(states) => Condition::State(states.0),
            Match::CtDirection(direction) => Condition::Direction(*direction),
            Match::CtStatusDnat(dnat) => Condition::Dnat(*dnat),
            Match::LimitOver { .. } | Match::CtCountOver(_) => Condition::Over,
            Match::LimitWithin { .. } => Condition::Within,
            Match::InSet { key, op, set } => {
                Condition::InSet { key: key.clone(), negate: *op == Op::Ne, set: self.set(set)? }
            }
        })
    }

    fn effect(&self, statement: &Statement) -> Result<Option<Effect>, Error> {
        Ok(Some(match statement {
            Statement::Counter | Statement::Log { .. } | Statement::Trace | Statement::Foreign(_) => return Ok(None),
            Statement::NamedCounter(counter) => Effect::Count(self.counter(counter)?),
            Statement::CountIn { key, map } => Effect::CountIn { key: key.clone(), map: self.set(map)? },
            Statement::NoTrack => Effect::NoTrack,
            Statement::SetCtMark { keep, bits } => Effect::SetMark { keep: *keep, bits: *bits },
            Statement::Verdict(verdict) => Effect::Verdict(self.verdict(verdict)?),
            Statement::Masquerade { ports, .. } => Effect::Translate(Translation::Masquerade { ports: *ports }),
            Statement::Snat { address, ports } => {
                Effect::Translate(Translation::Snat { address: *address, ports: *ports })
            }
            Statement::Reject(with) => Effect::Reject(*with),
            Statement::Vmap { key, map } => Effect::Vmap { key: key.clone(), map: self.set(map)? },
        }))
    }
}

/// A packet's fields, ready to be compared.
pub(super) struct FieldBytes {
    iif: [u8; IFNAMSIZ],
    oif: [u8; IFNAMSIZ],
    saddr: IpAddr,
    daddr: IpAddr,
    l4proto: u8,
    sport: Option<u16>,
    dport: Option<u16>,
    icmp: Option<(u8, u8)>,
    ct: Conntrack,
    dnat: bool,
}

impl FieldBytes {
    /// `seen` says whether conntrack has seen the packet yet.
    pub(super) fn new(packet: &Packet, seen: bool) -> Self {
        Self {
            iif: truncated(&packet.iif),
            oif: truncated(&packet.oif),
            saddr: packet.saddr,
            daddr: packet.daddr,
            l4proto: packet.l4proto,
            sport: packet.sport,
            dport: packet.dport,
            icmp: packet.icmp,
            ct: if seen { packet.ct } else { Conntrack::Invalid },
            dnat: packet.dnat,
        }
    }

    pub(super) fn mark(&self) -> Option<u32> {
        self.ct.mark()
    }

    /// Has conntrack leave the packet alone, unless it belongs to a flow already.
    pub(super) fn leave_untracked(&mut self) {
        if self.ct == Conntrack::Invalid {
            self.ct = Conntrack::Untracked;
        }
    }

    /// Whether conntrack leaves the packet alone.
    pub(super) fn is_untracked(&self) -> bool {
        self.ct == Conntrack::Untracked
    }

    /// Changes the mark; `None` if there is no entry to carry one.
    pub(super) fn set_mark(&mut self, keep: u32, bits: u32) -> Option<()> {
        let Conntrack::Flow { mark, .. } = &mut self.ct else { return None };
        *mark = *mark & keep | bits;
        Some(())
    }

    pub(super) fn name(&self, side: Side) -> &[u8; IFNAMSIZ] {
        match side {
            Side::Source => &self.iif,
            Side::Destination => &self.oif,
        }
    }

    pub(super) fn is_v4(&self) -> bool {
        self.saddr.is_ipv4()
    }

    pub(super) fn protocol(&self) -> u8 {
        self.l4proto
    }

    /// Whether the address lies within `net`; `None` if the packet has no such address.
    pub(super) fn addr(&self, source: bool, net: &IpNet) -> Option<bool> {
        let addr = if source { self.saddr } else { self.daddr };
        (addr.is_ipv4() == net.addr().is_ipv4()).then(|| net.contains(&addr))
    }

    pub(super) fn port(&self, source: bool) -> Option<u16> {
        if source { self.sport } else { self.dport }
    }

    pub(super) fn icmp(&self) -> Option<(u8, u8)> {
        self.icmp
    }

    pub(super) fn states(&self) -> u32 {
        match self.ct {
            Conntrack::Untracked => CtStates::UNTRACKED.0,
            Conntrack::Invalid => CtStates::INVALID.0,
            Conntrack::Flow { state: FlowState::New, .. } => CtStates::NEW.0,
            Conntrack::Flow { state: FlowState::Established, .. } => CtStates::ESTABLISHED.0,
            Conntrack::Flow { state: FlowState::Related, .. } => CtStates::RELATED.0,
        }
    }

    pub(super) fn direction(&self) -> Option<Direction> {
        match self.ct {
            Conntrack::Flow { direction, .. } => Some(direction),
            Conntrack::Untracked | Conntrack::Invalid => None,
        }
    }

    /// Whether the destination was translated; `None` without an entry.
    pub(super) fn dnat(&self) -> Option<bool> {
        match self.ct {
            Conntrack::Flow { .. } => Some(self.dnat),
            Conntrack::Untracked | Conntrack::Invalid => None,
        }
    }

    /// The look-up key of these fields; `None` if the packet lacks one of them.
    pub(super) fn key(&self, fields: &[Field]) -> Option<Bytes> {
        let mut key = Bytes::EMPTY;
        for field in fields {
            let fits = match field {
                Field::IifName => key.push(&self.iif),
                Field::OifName => key.push(&self.oif),
                Field::Ip4Saddr => key.push(&v4(self.saddr)?),
                Field::Ip4Daddr => key.push(&v4(self.daddr)?),
                Field::Ip6Saddr => key.push(&v6(self.saddr)?),
                Field::Ip6Daddr => key.push(&v6(self.daddr)?),
                Field::NfProto => key.push(&[if self.saddr.is_ipv4() { Family::V4 } else { Family::V6 }.number()]),
                Field::L4Proto => key.push(&[self.l4proto]),
                Field::ThSport => key.push(&self.sport?.to_be_bytes()),
                Field::ThDport => key.push(&self.dport?.to_be_bytes()),
                Field::CtMarkMasked(mask) => key.push(&(self.mark()? & mask).to_ne_bytes()),
            };
            if !fits {
                return None;
            }
        }
        Some(key)
    }
}

/// The kernel's names end after 15 bytes.
fn truncated(name: &str) -> [u8; IFNAMSIZ] {
    let mut bytes = [0; IFNAMSIZ];
    let length = name.len().min(IFNAMSIZ - 1);
    bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
    bytes
}

fn v4(addr: IpAddr) -> Option<[u8; 4]> {
    match addr {
        IpAddr::V4(addr) => Some(addr.octets()),
        IpAddr::V6(_) => None,
    }
}

fn v6(addr: IpAddr) -> Option<[u8; 16]> {
    match addr {
        IpAddr::V6(addr) => Some(addr.octets()),
        IpAddr::V4(_) => None,
    }
}
