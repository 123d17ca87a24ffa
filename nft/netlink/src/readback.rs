//! From the kernel's dumps to a [`Ruleset`].
//!
//! What is outside the vocabulary is not left out but made unequal to anything wanted, so that a diff removes it: a foreign rule, a
//! chain with a foreign hook, a set without a key. Sets and chains without names of their own belong to the rule that uses them and go with
//! it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

use tortie_nft::check::{Content, Declared};
use tortie_nft::{
    Chain, ChainType, Family, Hook, HookPoint, Key, KeyType, Map, Rule, Ruleset, Set, TABLE, Value, Verdict, intervals,
};

use crate::attributes::{self, Attributes, Message, Messages};
use crate::consts::*;
use crate::{encode, lift};

/// The types of fields, to find one by its number.
const KEY_TYPES: [KeyType; 7] = [
    KeyType::IfName,
    KeyType::Ipv4Addr,
    KeyType::Ipv6Addr,
    KeyType::NfProto,
    KeyType::InetProto,
    KeyType::InetService,
    KeyType::Mark,
];

/// Flag of a chain without a name of its own, which belongs to the one rule that leads to it and comes and goes with that.
const NFT_CHAIN_BINDING: u32 = 4;

/// A set or map as the kernel announces it, without its elements.
#[derive(Debug, Clone)]
pub(crate) struct SetHeader {
    pub(crate) name: String,
    /// `None` for one outside the vocabulary.
    pub(crate) declared: Option<Declared>,
    /// What the kernel says its elements have.
    pub(crate) content: Content,
    pub(crate) comment: Option<String>,
    /// How many elements the kernel counts, where it tells (Linux 6.16).
    pub(crate) count: Option<u32>,
}

/// What an element has beside its key.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Data {
    None,
    Verdict(Verdict),
    Counter(String),
}

impl Data {
    const fn content(&self) -> Content {
        match self {
            Self::None => Content::Keys,
            Self::Verdict(_) => Content::Verdicts,
            Self::Counter(_) => Content::Counters,
        }
    }
}

/// Elements as they come in.
#[derive(Debug, Default)]
pub(crate) struct Elements {
    /// First and last key, or just the key.
    plain: Vec<(Vec<u8>, Vec<u8>, Data)>,
    /// Ends of intervals of one field; the starts are in `plain`.
    ends: BTreeSet<Vec<u8>>,
    /// How many are outside the vocabulary.
    foreign: usize,
}

/// The table while it is being read.
#[derive(Debug, Default)]
pub(crate) struct ReadBack {
    ruleset: Ruleset,
    /// Named objects outside the vocabulary, such as quotas: type and name.
    pub(crate) foreign_objects: Vec<(u32, String)>,
    /// Chains that belong to a rule. What they hold is part of that rule, which is foreign.
    bound: BTreeSet<String>,
}

/// Decodes messages of any dump of nf_tables into what they say of our table, all in one. For fuzzing: any bytes will do.
#[must_use]
pub fn decode_dump(bytes: &[u8]) -> Ruleset {
    let mut table = ReadBack::default();
    let mut headers: BTreeMap<String, (SetHeader, Elements)> = BTreeMap::new();
    for message in Messages(bytes) {
        match message.kind & 0xff {
            NFT_MSG_NEWCHAIN => table.chain(&message),
            NFT_MSG_NEWRULE => table.rule(&message),
            NFT_MSG_NEWOBJ => table.object(&message),
            NFT_MSG_NEWSET => {
                if let Some(header) = set_header(&message) {
                    headers.insert(header.name.clone(), (header, Elements::default()));
                }
            }
            NFT_MSG_NEWSETELEM => {
                let set = message.attributes().string(NFTA_SET_ELEM_LIST_SET).unwrap_or_default();
                if let Some((_, elements)) = headers.get_mut(set) {
                    elements.collect(&message);
                }
            }
            _ => {}
        }
    }
    for (header, elements) in headers.into_values() {
        table.set(header, elements);
    }
    table.finish()
}

fn ours(message: &Message<'_>) -> bool {
    message.family() == Some(NFPROTO_INET) && message.attributes().string(NFTA_TABLE_NAME) == Some(TABLE)
}

impl ReadBack {
    /// Takes in a message of a dump of chains.
    pub(crate) fn chain(&mut self, message: &Message<'_>) {
        let attributes = message.attributes();
        let Some(name) = attributes.string(NFTA_CHAIN_NAME).filter(|_| ours(message)) else { return };
        let flags = attributes.number(NFTA_CHAIN_FLAGS).unwrap_or(0);
        if flags & NFT_CHAIN_BINDING != 0 {
            self.bound.insert(name.to_owned());
            return;
        }
        let hook = attributes.nested(NFTA_CHAIN_HOOK).map(|hook| {
            let kind = match attributes.string(NFTA_CHAIN_TYPE) {
                Some("filter") => Some(ChainType::Filter),
                Some("nat") => Some(ChainType::Nat),
                _ => None,
            };
            let accept = attributes.number(NFTA_CHAIN_POLICY) == Some(NF_ACCEPT);
            let point = match hook.number(NFTA_HOOK_HOOKNUM) {
                _ if kind.is_none() || !accept || flags & !NFT_CHAIN_BASE != 0 => HookPoint::Foreign,
                Some(0) => HookPoint::Prerouting,
                Some(1) => HookPoint::Input,
                Some(2) => HookPoint::Forward,
                Some(3) => HookPoint::Output,
                Some(4) => HookPoint::Postrouting,
                _ => HookPoint::Foreign,
            };
            let priority = hook.number(NFTA_HOOK_PRIORITY).unwrap_or(0).cast_signed();
            Hook { point, priority, kind: kind.unwrap_or_default() }
        });
        self.ruleset.chains.entry(name.to_owned()).or_insert_with(|| Chain { hook, rules: Vec::new() });
    }

    /// Takes in a message of a dump of rules, which come in order.
    pub(crate) fn rule(&mut self, message: &Message<'_>) {
        let attributes = message.attributes();
        let Some(name) = attributes.string(NFTA_RULE_CHAIN).filter(|_| ours(message)) else { return };
        if self.bound.contains(name) {
            return;
        }
        self.ruleset.chains.entry(name.to_owned()).or_default().rules.push(rule(attributes));
    }

    /// Makes base chains unequal to any wanted one: the table is switched off, so no packet enters them.
    pub(crate) fn dormant(&mut self) {
        for hook in self.ruleset.chains.values_mut().filter_map(|chain| chain.hook.as_mut()) {
            hook.point = HookPoint::Foreign;
        }
    }

    /// Takes in a message of a dump of objects, of which only counters are ours.
    pub(crate) fn object(&mut self, message: &Message<'_>) {
        if let Some(counter) = counter(message) {
            self.ruleset.counters.insert(counter.name, counter.comment);
        } else if let attributes = message.attributes()
            && ours(message)
            && let (Some(kind), Some(name)) = (attributes.number(NFTA_OBJ_TYPE), attributes.string(NFTA_OBJ_NAME))
        {
            self.foreign_objects.push((kind, name.to_owned()));
        }
    }

    /// Puts a set or map in place.
    pub(crate) fn set(&mut self, header: SetHeader, elements: Elements) {
        let content = header.declared.as_ref().and_then(|declared| elements.content(declared));
        let (declared, content) = match (header.declared, content) {
            (Some(declared), Some(content)) => (declared, content),
            // Without a key it equals nothing that is wanted.
            _ => (Declared { key: Vec::new(), interval: false, content: header.content }, Vec::new()),
        };
        let Declared { key, interval, content: kind } = declared;
        let (name, comment) = (header.name, header.comment);
        match kind {
            Content::Keys => {
                let elements = content.into_iter().map(|(key, _)| key).collect();
                self.ruleset.sets.insert(name, Set { key, interval, elements, comment });
            }
            Content::Verdicts => {
                let elements = content.into_iter().filter_map(|(key, data)| match data {
                    Data::Verdict(verdict) => Some((key, verdict)),
                    _ => None,
                });
                self.ruleset.maps.insert(name, Map { key, interval, elements: elements.collect(), comment });
            }
            Content::Counters => {
                let elements = content.into_iter().filter_map(|(key, data)| match data {
                    Data::Counter(counter) => Some((key, counter)),
                    _ => None,
                });
                self.ruleset.counter_maps.insert(name, Map { key, interval, elements: elements.collect(), comment });
            }
        }
    }

    /// What was read. Foreign objects are no part of it.
    pub(crate) fn finish(self) -> Ruleset {
        self.ruleset
    }
}

/// A named counter.
pub(crate) struct Counter {
    pub(crate) name: String,
    comment: Option<String>,
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

/// A counter of our table, from a message of a dump of objects; `None` for others' and other objects.
pub(crate) fn counter(message: &Message<'_>) -> Option<Counter> {
    let attributes = message.attributes();
    let name = attributes.string(NFTA_OBJ_NAME).filter(|_| ours(message))?.to_owned();
    (attributes.number(NFTA_OBJ_TYPE)? == NFT_OBJECT_COUNTER).then_some(())?;
    let data = attributes.nested(NFTA_OBJ_DATA)?;
    let wide = |kind| Some(u64::from_be_bytes(*data.get(kind)?.payload.first_chunk::<8>()?));
    let comment =
        attributes.get(NFTA_OBJ_USERDATA).and_then(|data| attributes::udata_comment(data.payload, UDATA_OBJ_COMMENT));
    let (packets, bytes) = (wide(NFTA_COUNTER_PACKETS)?, wide(NFTA_COUNTER_BYTES)?);
    Some(Counter { name, comment, packets, bytes })
}

/// A rule as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedRule {
    /// The chain that it is in.
    pub chain: String,
    /// The number by which the kernel knows it, `nft -a list` shows it, and a trace names it. Unique in the table.
    pub handle: u64,
    /// The rule.
    pub rule: Rule,
}

/// A rule of our table, from a message of a dump of rules; `None` for others'.
pub(crate) fn placed_rule(message: &Message<'_>) -> Option<PlacedRule> {
    let attributes = message.attributes();
    let chain = attributes.string(NFTA_RULE_CHAIN).filter(|_| ours(message))?.to_owned();
    let handle = u64::from_be_bytes(*attributes.get(NFTA_RULE_HANDLE)?.payload.first_chunk::<8>()?);
    Some(PlacedRule { chain, handle, rule: rule(attributes) })
}

fn rule(attributes: Attributes<'_>) -> Rule {
    let expressions = attributes.nested(NFTA_RULE_EXPRESSIONS).unwrap_or(Attributes(&[]));
    let comment =
        attributes.get(NFTA_RULE_USERDATA).and_then(|data| attributes::udata_comment(data.payload, UDATA_RULE_COMMENT));
    lift::rule(expressions, comment)
}

/// A set or map of our table, from a message of a dump of sets; `None` for others' and anonymous ones.
pub(crate) fn set_header(message: &Message<'_>) -> Option<SetHeader> {
    let attributes = message.attributes();
    let name = attributes.string(NFTA_SET_NAME).filter(|_| ours(message))?.to_owned();
    let flags = attributes.number(NFTA_SET_FLAGS).unwrap_or(0);
    if flags & NFT_SET_ANONYMOUS != 0 {
        return None;
    }
    let content = match flags & (NFT_SET_MAP | NFT_SET_OBJECT) {
        0 => Content::Keys,
        NFT_SET_MAP => Content::Verdicts,
        _ => Content::Counters,
    };
    let interval = flags & NFT_SET_INTERVAL != 0;
    let known = flags & !(NFT_SET_INTERVAL | NFT_SET_MAP | NFT_SET_OBJECT | NFT_SET_CONCAT) == 0
        && match content {
            Content::Keys => true,
            Content::Verdicts => attributes.number(NFTA_SET_DATA_TYPE) == Some(NFT_DATA_VERDICT),
            Content::Counters => attributes.number(NFTA_SET_OBJ_TYPE) == Some(NFT_OBJECT_COUNTER),
        };
    let key = attributes.number(NFTA_SET_KEY_TYPE).and_then(key_types);
    let declared = key
        .filter(|key| known && attributes.number(NFTA_SET_KEY_LEN) == Some(encode::key_length(key)))
        .map(|key| Declared { key, interval, content });
    let comment =
        attributes.get(NFTA_SET_USERDATA).and_then(|data| attributes::udata_comment(data.payload, UDATA_SET_COMMENT));
    Some(SetHeader { name, declared, content, comment, count: attributes.number(NFTA_SET_COUNT) })
}

/// The fields of a key from the number of its type.
fn key_types(mut number: u32) -> Option<Vec<KeyType>> {
    let mut key = Vec::new();
    while number != 0 {
        let field = number & ((1 << TYPE_BITS) - 1);
        key.push(*KEY_TYPES.iter().find(|kind| encode::type_number(**kind) == field)?);
        number >>= TYPE_BITS;
    }
    key.reverse();
    (!key.is_empty()).then_some(key)
}

impl Elements {
    /// Takes in a message of a dump of elements.
    pub(crate) fn collect(&mut self, message: &Message<'_>) {
        let list = message.attributes().nested(NFTA_SET_ELEM_LIST_ELEMENTS).unwrap_or(Attributes(&[]));
        for element in list {
            if self.element(element.nested()).is_none() {
                self.foreign += 1;
            }
        }
    }

    /// How many elements have come in.
    pub(crate) fn len(&self) -> usize {
        self.plain.len() + self.foreign
    }

    /// Takes out what has come in more than once, and says whether there was any.
    pub(crate) fn remove_doubles(&mut self) -> bool {
        let before = self.plain.len();
        self.plain.sort_unstable_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
        self.plain.dedup_by(|a, b| a.0 == b.0 && a.1 == b.1);
        self.plain.len() < before
    }

    fn element(&mut self, element: Attributes<'_>) -> Option<()> {
        let key = |kind| Some(element.nested(kind)?.get(NFTA_DATA_VALUE)?.payload.to_vec());
        let flags = element.number(NFTA_SET_ELEM_FLAGS).unwrap_or(0);
        if flags & NFT_SET_ELEM_CATCHALL != 0 || element.get(NFTA_SET_ELEM_TIMEOUT).is_some() {
            return None;
        }
        let first = key(NFTA_SET_ELEM_KEY)?;
        if flags & NFT_SET_ELEM_INTERVAL_END != 0 {
            self.ends.insert(first);
            return Some(());
        }
        let data = match (element.nested(NFTA_SET_ELEM_DATA), element.get(NFTA_SET_ELEM_OBJREF)) {
            (Some(data), _) => Data::Verdict(lift::verdict(data)?),
            (None, Some(counter)) => Data::Counter(counter.string()?.to_owned()),
            (None, None) => Data::None,
        };
        let last = key(NFTA_SET_ELEM_KEY_END).unwrap_or_else(|| first.clone());
        self.plain.push((first, last, data));
        Some(())
    }

    /// The elements as values; `None` if one of them is outside the vocabulary.
    fn content(self, declared: &Declared) -> Option<Vec<(Key, Data)>> {
        if self.foreign > 0 || self.plain.iter().any(|(_, _, data)| data.content() != declared.content) {
            return None;
        }
        match (declared.interval, declared.key.as_slice()) {
            (true, [kind]) => self.intervals(*kind),
            (_, types) => {
                self.plain.into_iter().map(|(first, last, data)| Some((key(types, &first, &last)?, data))).collect()
            }
        }
    }

    /// Pairs starts with ends: each interval goes up to the next end, or to the next start if that comes first.
    fn intervals(mut self, kind: KeyType) -> Option<Vec<(Key, Data)>> {
        self.plain.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let starts: Vec<_> = self.plain.iter().map(|(first, _, _)| first.clone()).skip(1).map(Some).collect();
        let nexts = starts.into_iter().chain([None]);
        let mut content = Vec::with_capacity(self.plain.len());
        for ((first, _, data), next) in self.plain.into_iter().zip(nexts) {
            let end =
                self.ends.range::<Vec<u8>, _>((std::ops::Bound::Excluded(&first), std::ops::Bound::Unbounded)).next();
            let behind = match (end, next) {
                (Some(end), Some(next)) => Some(end.clone().min(next)),
                (Some(end), None) => Some(end.clone()),
                (None, next) => next,
            };
            let last = behind.map_or_else(|| vec![0xff; kind.size()], |behind| before(&behind));
            content.push((vec![value(kind, &first, &last)?], data));
        }
        Some(content)
    }
}

/// A key of one or more fields, each of which may be a range.
fn key(types: &[KeyType], first: &[u8], last: &[u8]) -> Option<Key> {
    let mut start = 0;
    types
        .iter()
        .map(|kind| {
            let field = start..start + kind.size();
            start += kind.size().next_multiple_of(4);
            value(*kind, first.get(field.clone())?, last.get(field)?)
        })
        .collect()
}

/// One field of a key, in canonical form.
fn value(kind: KeyType, first: &[u8], last: &[u8]) -> Option<Value> {
    Some(match kind {
        KeyType::IfName => {
            let end = first.iter().position(|byte| *byte == 0).unwrap_or(first.len());
            (first == last).then_some(())?;
            Value::IfName(std::str::from_utf8(&first[..end]).ok()?.to_owned())
        }
        KeyType::Ipv4Addr => {
            let addr = |bytes: &[u8]| Some(Ipv4Addr::from(*bytes.first_chunk::<4>()?).into());
            intervals::value(addr(first)?, addr(last)?)?
        }
        KeyType::Ipv6Addr => {
            let addr = |bytes: &[u8]| Some(Ipv6Addr::from(*bytes.first_chunk::<16>()?).into());
            intervals::value(addr(first)?, addr(last)?)?
        }
        KeyType::NfProto => {
            (first == last).then_some(())?;
            Value::Family(Family::of_number(*first.first()?)?)
        }
        KeyType::InetProto => {
            (first == last).then_some(())?;
            Value::Proto(*first.first()?)
        }
        KeyType::InetService => {
            let port = |bytes: &[u8]| Some(u16::from_be_bytes(*bytes.first_chunk::<2>()?));
            match (port(first)?, port(last)?) {
                (first, last) if first == last => Value::Port(first),
                (first, last) if first < last => Value::PortRange(first, last),
                _ => return None,
            }
        }
        KeyType::Mark => {
            (first == last).then_some(())?;
            Value::Mark(u32::from_ne_bytes(*first.first_chunk::<4>()?))
        }
    })
}

/// The value before one that is not the least there is.
fn before(value: &[u8]) -> Vec<u8> {
    let mut bytes = value.to_vec();
    for byte in bytes.iter_mut().rev() {
        *byte = byte.wrapping_sub(1);
        if *byte != 0xff {
            break;
        }
    }
    bytes
}
