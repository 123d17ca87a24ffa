//! A packet's walk through a ruleset, as the kernel would walk it.
//!
//! [`Interpreter::new`] compiles a [`Ruleset`] (names become indices, sets become hash tables or sorted ranges), so that a matrix of
//! a million packets is a matter of seconds. [`Interpreter::run`] takes a packet through the base chains of a hook in order of
//! priority and says what becomes of it; [`Interpreter::trace`] also tells which rules it met on the way.
//!
//! What the kernel does, and is easily forgotten:
//! - a condition on a field that the packet does not have ends the rule, whether it asks for equality or for inequality;
//! - without a conntrack entry `ct state` is still there (`invalid` or `untracked`), while `ct mark` and `ct direction` are not.
//!   Changing some bits of the mark reads it first, so that ends the rule too, and a verdict after it in the same rule is not reached.
//!   Before priority -200 at prerouting and output, conntrack has not seen the packet;
//! - `notrack` takes effect where conntrack has not seen the packet, and then for the rest of its way;
//! - `iifname` of a packet without that interface is the empty name, and so unequal to any other;
//! - `goto` does not come back: at the end of that chain the packet returns to whoever jumped last, else the base chain ends;
//! - a limit is never exceeded here, since a packet alone says nothing of those before it;
//! - `accept` ends its own base chain only, `drop` ends everything.

mod compiled;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::model::{ChainType, Direction, Field, HookPoint, RejectWith, Ruleset, Verdict};
use compiled::{Compiled, Condition, Effect, FieldBytes, Hit};

/// A packet, with what the kernel knows of it when it meets the rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packet {
    /// The interface it came in by; empty for a packet of the host itself.
    pub iif: String,
    /// The interface it goes out by; empty for a packet to the host itself, and at prerouting.
    pub oif: String,
    /// Source address; its family is the packet's.
    pub saddr: IpAddr,
    /// Destination address, after DNAT for a packet that is forwarded.
    pub daddr: IpAddr,
    /// IP protocol number.
    pub l4proto: u8,
    /// Source port; `None` where there is none to read, such as in a later fragment. The kernel does not ask whether a protocol has
    /// ports: of ICMP it reads type and code here, and the checksum as the other port. With `None` such a look-up fails.
    pub sport: Option<u16>,
    /// Destination port, likewise.
    pub dport: Option<u16>,
    /// Type and code of an ICMP or ICMPv6 message; `None` of other packets, and where they are not there to read.
    pub icmp: Option<(u8, u8)>,
    /// Its conntrack entry.
    pub ct: Conntrack,
    /// Whether the entry says that the flow's destination was translated (`ct status dnat`); without an entry it counts for nothing.
    #[serde(default)]
    pub dnat: bool,
}

/// What conntrack makes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Conntrack {
    /// Not tracked, by a `notrack` rule.
    Untracked,
    /// Tracked in vain: no entry.
    Invalid,
    /// Part of a flow.
    Flow {
        /// How it belongs to it.
        state: FlowState,
        /// On the way there or back.
        direction: Direction,
        /// The flow's mark, which rules may change.
        mark: u32,
    },
}

impl Conntrack {
    /// The first packet of a flow that carries no mark yet.
    pub const NEW: Self = Self::Flow { state: FlowState::New, direction: Direction::Original, mark: 0 };

    /// The mark, if there is an entry.
    #[must_use]
    pub fn mark(self) -> Option<u32> {
        match self {
            Self::Flow { mark, .. } => Some(mark),
            Self::Untracked | Self::Invalid => None,
        }
    }
}

/// How a packet belongs to its flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FlowState {
    /// It begins it.
    New,
    /// Both directions have been seen.
    Established,
    /// An error message about it, or an expected companion.
    Related,
}

/// What becomes of a packet at a hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It goes on.
    Accept,
    /// It ends here.
    Drop,
}

/// A rule whose conditions all held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The chain.
    pub chain: String,
    /// The rule's place in it, from 0.
    pub rule: usize,
    /// The verdict that it gave, by itself or by an element of its map; `None` if the packet went on to the next rule.
    pub verdict: Option<Verdict>,
}

/// What a rule does to the source of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Translation {
    /// The address of the interface that it leaves by.
    Masquerade {
        /// Source ports to choose from.
        ports: Option<(u16, u16)>,
    },
    /// A given address.
    Snat {
        /// The address.
        address: IpAddr,
        /// Source ports to choose from.
        ports: Option<(u16, u16)>,
    },
}

/// A walk with its steps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Walk {
    /// How it ended.
    pub outcome: Outcome,
    /// The translation of its source, if a rule asked for one.
    pub translation: Option<Translation>,
    /// What its sender is told, if a rule rejected it: [`outcome`](Self::outcome) is then [`Outcome::Drop`].
    pub rejected: Option<RejectWith>,
    /// Rules that applied, in order. If the packet was dropped, the last one dropped it.
    pub steps: Vec<Step>,
    /// The named counters that counted the packet, in order; one that counted it twice is there twice.
    #[serde(default)]
    pub counted: Vec<String>,
}

impl Walk {
    /// The rules that decided: of each base chain that did not let the packet go at its end, the one that accepted it, or dropped it.
    pub fn decided(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().filter(|step| matches!(step.verdict, Some(Verdict::Accept | Verdict::Drop)))
    }
}

/// Why a ruleset cannot be walked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Error {
    /// A rule or element leads to a chain that is not there.
    #[error("chain {0} is missing")]
    NoChain(String),
    /// A rule looks something up in a set or map that is not there.
    #[error("set or map {0} is missing")]
    NoSet(String),
    /// A rule or element counts in a counter that is not there.
    #[error("counter {0} is missing")]
    NoCounter(String),
    /// Something the kernel would misread; see [`crate::check`].
    #[error("{place}: {what}")]
    Invalid {
        /// The chain, set or map.
        place: String,
        /// What is wrong.
        what: String,
    },
    /// A chain leads to a translation or rejection that has no place there.
    #[error("chain {0} leads to a translation or rejection that has no place at its hook")]
    Misplaced(String),
    /// Chains lead into one another in a loop, or deeper than the kernel allows.
    #[error("chain {0} leads into a loop, or deeper than 15 chains")]
    TooDeep(String),
}

/// What a walk has come to beside accept and drop.
#[derive(Default)]
struct End {
    translation: Option<Translation>,
    rejected: Option<RejectWith>,
}

/// Who is told what a packet meets.
trait Watch {
    /// A rule applied.
    fn step(&mut self, _chain: usize, _rule: usize, _verdict: Option<compiled::Verdict>) {}

    /// A named counter counted the packet.
    fn counted(&mut self, _counter: usize) {}
}

/// Nobody.
impl Watch for () {}

/// Notes all of it.
struct Notes<'a> {
    rules: &'a Compiled,
    steps: Vec<Step>,
    counted: Vec<String>,
}

impl Watch for Notes<'_> {
    fn step(&mut self, chain: usize, rule: usize, verdict: Option<compiled::Verdict>) {
        self.steps.push(Step {
            chain: self.rules.chains[chain].name.clone(),
            rule,
            verdict: verdict.map(|verdict| self.rules.verdict(verdict)),
        });
    }

    fn counted(&mut self, counter: usize) {
        self.counted.push(self.rules.counters[counter].clone());
    }
}

/// What the effects of a rule come to.
enum Done {
    /// The first look-up in a counter map found nothing: the rule has not applied.
    Unmatched,
    /// It has, with this verdict; `None` if the packet goes on to the next rule.
    Applied(Option<compiled::Verdict>),
}

/// Whether chains of type nat see the packet: it is the first of a flow.
fn begins_flow(packet: &Packet) -> bool {
    matches!(packet.ct, Conntrack::Flow { state: FlowState::New, direction: Direction::Original, .. })
}

/// A ruleset made ready for packets.
#[derive(Debug)]
pub struct Interpreter {
    rules: Compiled,
}

impl Interpreter {
    /// Compiles a ruleset.
    ///
    /// # Errors
    /// [`Error`], where the kernel would refuse the ruleset too.
    pub fn new(ruleset: &Ruleset) -> Result<Self, Error> {
        Ok(Self { rules: Compiled::new(ruleset)? })
    }

    /// Takes a packet through all base chains of a hook. Rules may change the mark of its flow.
    pub fn run(&self, hook: HookPoint, packet: &mut Packet) -> Outcome {
        self.walk(hook, packet, &mut ()).0
    }

    /// [`run`](Self::run), and which rules applied and which named counters counted.
    pub fn trace(&self, hook: HookPoint, packet: &mut Packet) -> Walk {
        let mut notes = Notes { rules: &self.rules, steps: Vec::new(), counted: Vec::new() };
        let (outcome, end) = self.walk(hook, packet, &mut notes);
        let Notes { steps, counted, .. } = notes;
        Walk { outcome, translation: end.translation, rejected: end.rejected, steps, counted }
    }

    fn walk(&self, hook: HookPoint, packet: &mut Packet, watch: &mut impl Watch) -> (Outcome, End) {
        let mut end = End::default();
        for base in self.rules.bases.iter().filter(|base| base.point == hook) {
            // A flow's translation is decided once: by its first packet, and by the first chain that has one for it.
            if base.kind == ChainType::Nat && (end.translation.is_some() || !begins_flow(packet)) {
                continue;
            }
            let seen = !(matches!(hook, HookPoint::Prerouting | HookPoint::Output) && base.priority < -200);
            let mut fields = FieldBytes::new(packet, seen);
            let outcome = self.base(base.chain, &mut fields, watch, &mut end);
            if fields.is_untracked() {
                packet.ct = Conntrack::Untracked;
            }
            if let (Conntrack::Flow { mark, .. }, Some(new)) = (&mut packet.ct, fields.mark()) {
                *mark = new;
            }
            if outcome == Outcome::Drop {
                return (Outcome::Drop, end);
            }
        }
        (Outcome::Accept, end)
    }

    /// One base chain, to its end.
    fn base(&self, chain: usize, fields: &mut FieldBytes, watch: &mut impl Watch, end: &mut End) -> Outcome {
        let mut stack: Vec<(usize, usize)> = Vec::new();
        let (mut chain, mut index) = (chain, 0);
        loop {
            let Some(rule) = self.rules.chains[chain].rules.get(index) else {
                match stack.pop() {
                    Some(caller) => (chain, index) = caller,
                    None => return Outcome::Accept,
                }
                continue;
            };
            let here = index;
            index += 1;
            if !rule.conditions.iter().all(|condition| self.holds(condition, fields)) {
                continue;
            }
            let Done::Applied(verdict) = self.effects(&rule.effects, fields, watch, end) else { continue };
            watch.step(chain, here, verdict);
            match verdict {
                None => {}
                Some(compiled::Verdict::Accept) => return Outcome::Accept,
                Some(compiled::Verdict::Drop) => return Outcome::Drop,
                Some(compiled::Verdict::Jump(target)) => {
                    stack.push((chain, index));
                    (chain, index) = (target, 0);
                }
                Some(compiled::Verdict::Goto(target)) => (chain, index) = (target, 0),
                Some(compiled::Verdict::Return) => index = self.rules.chains[chain].rules.len(),
            }
        }
    }

    /// Runs a rule's effects. A look-up in a map that has no element for the packet ends the rule without a verdict, and so does a
    /// change of a mark that is not there.
    fn effects(&self, effects: &[Effect], fields: &mut FieldBytes, watch: &mut impl Watch, end: &mut End) -> Done {
        for (index, effect) in effects.iter().enumerate() {
            let verdict = match effect {
                Effect::SetMark { keep, bits } => match fields.set_mark(*keep, *bits) {
                    Some(()) => continue,
                    None => None,
                },
                Effect::Count(counter) => {
                    watch.counted(*counter);
                    continue;
                }
                Effect::CountIn { key, map } => match self.lookup(*map, key, fields) {
                    Some(Hit::Counter(counter)) => {
                        watch.counted(counter);
                        continue;
                    }
                    _ if index == 0 => return Done::Unmatched,
                    _ => None,
                },
                Effect::NoTrack => {
                    fields.leave_untracked();
                    continue;
                }
                Effect::Verdict(verdict) => Some(*verdict),
                Effect::Translate(translation) => {
                    end.translation = Some(*translation);
                    Some(compiled::Verdict::Accept)
                }
                Effect::Reject(with) => {
                    end.rejected = Some(*with);
                    Some(compiled::Verdict::Drop)
                }
                Effect::Vmap { key, map } => match self.lookup(*map, key, fields) {
                    Some(Hit::Verdict(verdict)) => Some(verdict),
                    _ => None,
                },
            };
            return Done::Applied(verdict);
        }
        Done::Applied(None)
    }

    /// The element of a set or map for a packet.
    fn lookup(&self, set: usize, key: &[Field], fields: &FieldBytes) -> Option<Hit> {
        self.rules.sets[set].lookup(&fields.key(key)?)
    }

    fn holds(&self, condition: &Condition, fields: &FieldBytes) -> bool {
        match condition {
            Condition::Name { field, negate, name, length } => {
                (fields.name(*field)[..*length] == name[..*length]) != *negate
            }
            Condition::Family(v4) => fields.is_v4() == *v4,
            Condition::Protocol { negate, number } => (fields.protocol() == *number) != *negate,
            Condition::Addr { source, negate, net } => {
                fields.addr(*source, net).is_some_and(|within| within != *negate)
            }
            Condition::Port { source, negate, first, last } => {
                fields.port(*source).is_some_and(|port| (*first..=*last).contains(&port) != *negate)
            }
            Condition::Icmp { negate, kind, code } => fields.icmp().is_some_and(|(this_kind, this_code)| {
                (this_kind == *kind && code.is_none_or(|code| this_code == code)) != *negate
            }),
            Condition::IcmpCode { negate, code } => fields.icmp().is_some_and(|(_, this)| (this == *code) != *negate),
            Condition::State(states) => fields.states() & states != 0,
            Condition::Direction(direction) => fields.direction() == Some(*direction),
            Condition::Dnat(dnat) => fields.dnat() == Some(*dnat),
            Condition::Over => false,
            Condition::Within => true,
            Condition::InSet { key, negate, set } => {
                fields.key(key).is_some_and(|key| self.rules.sets[*set].lookup(&key).is_some() != *negate)
            }
        }
    }
}
