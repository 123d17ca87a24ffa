//! What a table is made of: chains with rules; sets, verdict maps and counter maps with elements.
//!
//! The vocabulary is exactly what the compiler emits and no more, so that each form has a text that `nft` 1.0.6 prints back, a
//! lowering to kernel expressions, and an interpretation. Elements are plain bytes-in-fields ([`Value`]), so a set's content can be
//! compared without knowing what it means.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// The name of our table, in family `inet`.
pub const TABLE: &str = "tortie";

/// The IP protocol of IPv4's control messages.
pub const ICMP: u8 = 1;

/// The IP protocol of IPv6's control messages.
pub const ICMPV6: u8 = 58;

/// The longest comment in bytes that `nft` 1.0.6 takes.
pub const COMMENT_MAX: usize = 127;

/// Text made fit for a comment: what `nft` cannot quote is replaced, what is longer than [`COMMENT_MAX`] cut at a character.
#[must_use]
pub fn comment(text: &str) -> String {
    fit(text, COMMENT_MAX)
}

fn fit(text: &str, max: usize) -> String {
    let mut fit = String::with_capacity(text.len().min(max));
    for c in text.chars().map(|c| match c {
        '"' => '\'',
        c if c.is_control() => ' ',
        c => c,
    }) {
        if fit.len() + c.len_utf8() > max {
            break;
        }
        fit.push(c);
    }
    fit
}

/// The longest prefix of a line of the log in bytes.
pub const LOG_PREFIX_MAX: usize = 127;

/// Text made fit for [`Statement::Log`]: what `nft` cannot quote is replaced, what is too long cut at a character. nft reads a `\\` as it
/// stands, so it may stay.
#[must_use]
pub fn log_prefix(text: &str) -> String {
    fit(text, LOG_PREFIX_MAX)
}

/// The content of the table: everything by name, ordered, so that equal rulesets are equal values and equal text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ruleset {
    /// Chains by name.
    pub chains: BTreeMap<String, Chain>,
    /// Sets by name.
    pub sets: BTreeMap<String, Set>,
    /// Verdict maps by name.
    pub maps: BTreeMap<String, VerdictMap>,
    /// Counter maps by name. The three share one space of names.
    #[serde(default)]
    pub counter_maps: BTreeMap<String, CounterMap>,
    /// Named counters, with their comments. What they have counted is no part of the table's content.
    #[serde(default)]
    pub counters: BTreeMap<String, Option<String>>,
}

impl Ruleset {
    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chains.is_empty()
            && self.sets.is_empty()
            && self.maps.is_empty()
            && self.counter_maps.is_empty()
            && self.counters.is_empty()
    }
}

impl Rule {
    /// A rule without a comment.
    #[must_use]
    pub fn new(matches: impl Into<Vec<Match>>, statements: impl Into<Vec<Statement>>) -> Self {
        Self { matches: matches.into(), statements: statements.into(), comment: None }
    }

    /// Whether an inequality of this rule must be written as one of a range, `!= 80-80`.
    ///
    /// nft, 1.0.6 at least, takes inequalities of two fields that lie side by side in the packet for a single one of both together,
    /// wherever they stand in a rule. That holds of packets of which only one of them does. With ranges it does not do so.
    #[must_use]
    pub fn is_range(&self, condition: &Match) -> bool {
        let is_port = |condition: &Match, of: Side| match condition {
            Match::Port { side, op: Op::Ne, first, last } => *side == of && first == last,
            _ => false,
        };
        match condition {
            Match::IcmpCode { op: Op::Ne, .. } => {
                self.matches.iter().any(|other| matches!(other, Match::Icmp { op: Op::Ne, .. }))
            }
            condition => {
                is_port(condition, Side::Source) && self.matches.iter().any(|other| is_port(other, Side::Destination))
            }
        }
    }

    /// The same rule with a comment, made fit by [`comment`].
    #[must_use]
    pub fn commented(mut self, text: &str) -> Self {
        self.comment = Some(comment(text));
        self
    }
}

/// A chain: a base chain if it has a hook.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// Where the kernel enters it; `None` for a chain that only rules and maps lead to.
    pub hook: Option<Hook>,
    /// Rules in order.
    pub rules: Vec<Rule>,
}

/// A base chain's place. The policy is always `accept`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// The netfilter hook.
    pub point: HookPoint,
    /// Priority; lower runs first.
    pub priority: i32,
    /// What the chain may do to a packet.
    #[serde(default)]
    pub kind: ChainType,
}

impl Hook {
    /// The place of a chain that filters.
    #[must_use]
    pub const fn filter(point: HookPoint, priority: i32) -> Self {
        Self { point, priority, kind: ChainType::Filter }
    }

    /// The place of a chain that translates addresses.
    #[must_use]
    pub const fn nat(point: HookPoint, priority: i32) -> Self {
        Self { point, priority, kind: ChainType::Nat }
    }
}

/// The type of a base chain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChainType {
    /// `type filter`: sees every packet.
    #[default]
    Filter,
    /// `type nat`: sees the first packet of a flow, and decides for all of it.
    Nat,
}

/// A netfilter hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HookPoint {
    /// Before routing.
    Prerouting,
    /// To the host itself.
    Input,
    /// Through the host.
    Forward,
    /// From the host itself.
    Output,
    /// After routing.
    Postrouting,
    /// A place, type or policy outside this vocabulary. Only a read-back has it, and no wanted chain equals it.
    Foreign,
}

/// A rule: if all of `matches` hold, `statements` run in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Conditions, tested in order.
    pub matches: Vec<Match>,
    /// Effects, the last of which may be a verdict.
    pub statements: Vec<Statement>,
    /// A comment, kept in the kernel as user data (at most 128 bytes).
    pub comment: Option<String>,
}

/// A field of a packet or of its conntrack entry, as a look-up key. Sizes and byte order are the kernel's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Field {
    /// `iifname`, 16 bytes.
    IifName,
    /// `oifname`, 16 bytes.
    OifName,
    /// `ip saddr`; the rule must have matched [`Match::NfProto`] IPv4 before.
    Ip4Saddr,
    /// `ip daddr`, likewise.
    Ip4Daddr,
    /// `ip6 saddr`, after IPv6.
    Ip6Saddr,
    /// `ip6 daddr`, after IPv6.
    Ip6Daddr,
    /// `meta nfproto`, 1 byte.
    NfProto,
    /// `meta l4proto`, 1 byte.
    L4Proto,
    /// `th sport`, 2 bytes.
    ThSport,
    /// `th dport`, 2 bytes.
    ThDport,
    /// `ct mark & MASK`, 4 bytes, host byte order.
    CtMarkMasked(u32),
}

/// The type of one field of a set's key, as nft names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum KeyType {
    /// `ifname`.
    IfName,
    /// `ipv4_addr`.
    Ipv4Addr,
    /// `ipv6_addr`.
    Ipv6Addr,
    /// `nf_proto`.
    NfProto,
    /// `inet_proto`.
    InetProto,
    /// `inet_service`.
    InetService,
    /// `mark`.
    Mark,
}

/// One field of an element's key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Value {
    /// An interface name.
    IfName(String),
    /// An address.
    Addr(IpAddr),
    /// A prefix, in interval sets only.
    Net(IpNet),
    /// A range of addresses, first and last, in interval sets only.
    AddrRange(IpAddr, IpAddr),
    /// A family of addresses.
    Family(Family),
    /// A protocol number.
    Proto(u8),
    /// A port.
    Port(u16),
    /// A range of ports, first and last, in interval sets and maps only.
    PortRange(u16, u16),
    /// A mark.
    Mark(u32),
}

/// A key: one value a field.
pub type Key = Vec<Value>;

/// A set of keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Set {
    /// The key's fields.
    pub key: Vec<KeyType>,
    /// Whether elements are intervals (`flags interval`). They must then be disjoint, and not adjacent.
    pub interval: bool,
    /// The elements.
    pub elements: BTreeSet<Key>,
    /// What the set stands for, for people; kept in the kernel as user data.
    pub comment: Option<String>,
}

/// A map from keys to verdicts.
pub type VerdictMap = Map<Verdict>;

/// A map from keys to named counters, by their names. An element costs the kernel as little as that of a set: it validates nothing
/// anew, since no element leads anywhere.
pub type CounterMap = Map<String>;

/// A map from keys to something else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(bound(serialize = "V: Serialize", deserialize = "V: Deserialize<'de>"))]
pub struct Map<V> {
    /// The key's fields.
    pub key: Vec<KeyType>,
    /// Whether keys are intervals, disjoint.
    pub interval: bool,
    /// The elements. Written as pairs, since keys are no text.
    #[serde(with = "pairs")]
    pub elements: BTreeMap<Key, V>,
    /// What the map stands for, for people; kept in the kernel as user data.
    pub comment: Option<String>,
}

/// Where a packet goes next.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Verdict {
    /// Leave this base chain; later base chains of the hook still see the packet.
    Accept,
    /// Drop, finally.
    Drop,
    /// Continue in a chain and come back at its end.
    Jump(String),
    /// Continue in a chain and do not come back: its end is the end of the caller too.
    Goto(String),
    /// Back to the caller.
    Return,
}

/// Equal or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Op {
    /// Equal, or member.
    Eq,
    /// Not equal, or not a member.
    Ne,
}

/// An IP version, as `meta nfproto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Source or destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Side {
    /// `saddr`, `sport`, `iifname`.
    Source,
    /// `daddr`, `dport`, `oifname`.
    Destination,
}

/// A packet's direction in its flow (`ct direction`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Direction {
    /// As the flow began.
    Original,
    /// The way back.
    Reply,
}

/// Conntrack states (`ct state`), a bit mask of the kernel's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CtStates(pub u32);

impl CtStates {
    /// `invalid`.
    pub const INVALID: Self = Self(1);
    /// `established`.
    pub const ESTABLISHED: Self = Self(2);
    /// `related`.
    pub const RELATED: Self = Self(4);
    /// `new`.
    pub const NEW: Self = Self(8);
    /// `untracked`.
    pub const UNTRACKED: Self = Self(64);

    /// Either.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A condition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Match {
    /// `iifname "cali*"`: interface name by prefix (`prefix` true, shown with `*`) or exactly.
    IfName {
        /// Source is `iifname`, destination `oifname`.
        side: Side,
        /// `==` or `!=`.
        op: Op,
        /// Name or prefix.
        name: String,
        /// Whether `name` is a prefix.
        prefix: bool,
    },
    /// `meta nfproto ipv4`.
    NfProto(Family),
    /// `meta l4proto tcp`.
    L4Proto(Op, u8),
    /// `ip saddr 10.0.0.0/8`, `ip6 daddr ::`; the rule must have matched the family before.
    Addr {
        /// Source or destination.
        side: Side,
        /// `==` or `!=`.
        op: Op,
        /// The prefix; a host prefix is written as an address.
        net: IpNet,
    },
    /// `th dport 80-90`, inclusive; the rule must have matched a protocol with ports before.
    Port {
        /// Source or destination.
        side: Side,
        /// `==` or `!=`.
        op: Op,
        /// First port.
        first: u16,
        /// Last port.
        last: u16,
    },
    /// `icmp type echo-request`, `icmpv6 type destination-unreachable icmpv6 code port-unreachable`; the rule must have matched the
    /// family's protocol before, [`ICMP`] or [`ICMPV6`].
    Icmp {
        /// IPv4's messages or IPv6's.
        family: Family,
        /// `==` or `!=`; the latter of a type alone.
        op: Op,
        /// Type of the message.
        kind: u8,
        /// Its code; `None` for any.
        code: Option<u8>,
    },
    /// `icmp code != port-unreachable`, after the family's protocol. An equality belongs into [`Match::Icmp`], with its type.
    IcmpCode {
        /// IPv4's messages or IPv6's.
        family: Family,
        /// Only `!=`.
        op: Op,
        /// The code.
        code: u8,
    },
    /// `ct state established,related`.
    CtState(CtStates),
    /// `ct direction original`.
    CtDirection(Direction),
    /// `ct status dnat`: whether the flow's destination has been translated.
    CtStatusDnat(bool),
    /// `limit rate over 100/second burst 5 packets`: what is beyond that. The rule's own bucket, shared by all packets that come here.
    LimitOver {
        /// Packets a second, at least 1.
        packets_per_second: u32,
        /// How many more at once, at least 1.
        burst: u32,
    },
    /// `limit rate 10/minute burst 5 packets`: what is within that. The rule's own bucket, likewise.
    LimitWithin {
        /// Packets in each unit of time, at least 1.
        packets: u32,
        /// The unit.
        per: LimitUnit,
        /// How many more at once, at least 1.
        burst: u32,
    },
    /// `ct count over 20`: a packet of a flow beyond that many that this rule has seen and that still live.
    CtCountOver(u32),
    /// `iifname . ip saddr @own4`.
    InSet {
        /// The key's fields.
        key: Vec<Field>,
        /// `Eq` for membership, `Ne` for its absence.
        op: Op,
        /// The set's name.
        set: String,
    },
}

/// The unit of time of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LimitUnit {
    /// A second.
    Second,
    /// A minute.
    Minute,
    /// An hour.
    Hour,
    /// A day.
    Day,
}

impl LimitUnit {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Second, Self::Minute, Self::Hour, Self::Day];

    /// Its length in seconds.
    pub const fn seconds(self) -> u64 {
        match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 3_600,
            Self::Day => 86_400,
        }
    }

    /// Its name, as nft spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Second => "second",
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
        }
    }
}

/// An effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Statement {
    /// Counts packets and bytes.
    Counter,
    /// `counter name "x"`: counts in a counter that several rules may share and that outlives them.
    NamedCounter(String),
    /// `counter name ip saddr map @m`: counts in the counter of the element. Without an element the rule ends here, as if it had not
    /// matched, and the packet goes on to the next one; so what stands behind it is for packets that were counted.
    CountIn {
        /// The key's fields.
        key: Vec<Field>,
        /// The counter map's name.
        map: String,
    },
    /// `ct mark set ct mark & KEEP | BITS`.
    SetCtMark {
        /// Bits of the old mark that stay.
        keep: u32,
        /// Bits that are then set.
        bits: u32,
    },
    /// A verdict.
    Verdict(Verdict),
    /// `iifname vmap @egress_class`: the verdict of the element; without an element the packet goes on to the next rule.
    Vmap {
        /// The key's fields.
        key: Vec<Field>,
        /// The map's name.
        map: String,
    },
    /// `masquerade`: source address of the interface the flow leaves by. In [`ChainType::Nat`] chains; ends the rules.
    Masquerade {
        /// `to :1024-65535`: the source ports to choose from, first and last, after a match of a protocol that has ports.
        ports: Option<(u16, u16)>,
        /// `fully-random`: ports that cannot be guessed, and that do not collide when many flows begin at once.
        fully_random: bool,
    },
    /// `snat ip to 192.0.2.1:1024-65535`: this source address. In [`ChainType::Nat`] chains; ends the rules.
    Snat {
        /// The address; the rule must have matched its family before.
        address: IpAddr,
        /// Source ports to choose from, first and last, after a match of a protocol that has ports.
        ports: Option<(u16, u16)>,
    },
    /// `reject with ...`: drops the packet and tells its sender.
    Reject(RejectWith),
    /// `log prefix "calico-packet: " level info`: a line in the kernel's log, and on to the next statement.
    Log {
        /// What the line begins with; made fit by [`log_prefix`].
        prefix: String,
    },
    /// `notrack`: conntrack leaves the packet alone, where it has not seen it yet: at prerouting and output before priority -200.
    NoTrack,
    /// `meta nftrace set 1`: from here on the kernel tells whoever listens which rules the packet meets.
    Trace,
    /// Something outside this vocabulary, described for people. Only a read-back has it, and no wanted rule equals it.
    Foreign(String),
}

/// How a sender learns that its packet was rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RejectWith {
    /// `tcp reset`, after a match of TCP.
    TcpReset,
    /// `icmpx admin-prohibited`: ICMP or ICMPv6, "communication administratively prohibited".
    AdminProhibited,
}

/// A change to the table: commands that take effect together or not at all, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transaction {
    /// The commands.
    pub commands: Vec<Command>,
}

/// One command. Objects are declared before they are used and emptied of users before they are deleted; order is the author's duty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Create the table if it is missing.
    AddTable,
    /// Delete the table and all in it.
    DeleteTable,
    /// Create a chain, without its rules.
    AddChain {
        /// Its name.
        chain: String,
        /// Its hook, for a base chain.
        hook: Option<Hook>,
    },
    /// Delete a chain; it must have no rules and no users.
    DeleteChain {
        /// Its name.
        chain: String,
    },
    /// Delete all rules of a chain.
    FlushChain {
        /// Its name.
        chain: String,
    },
    /// Append a rule.
    AddRule {
        /// The chain.
        chain: String,
        /// The rule.
        rule: Rule,
    },
    /// Create a named counter, at zero.
    AddCounter {
        /// Its name.
        counter: String,
        /// Its comment.
        comment: Option<String>,
    },
    /// Delete a named counter; no rule and no element may use it.
    DeleteCounter {
        /// Its name.
        counter: String,
    },
    /// Create a set, without its elements.
    AddSet {
        /// Its name.
        set: String,
        /// Its key.
        key: Vec<KeyType>,
        /// `flags interval`.
        interval: bool,
        /// Its comment.
        comment: Option<String>,
    },
    /// Delete a set.
    DeleteSet {
        /// Its name.
        set: String,
    },
    /// Add elements to a set.
    AddElements {
        /// The set.
        set: String,
        /// The elements.
        elements: Vec<Key>,
    },
    /// Delete elements of a set.
    DeleteElements {
        /// The set.
        set: String,
        /// The elements.
        elements: Vec<Key>,
    },
    /// Create a verdict map, without its elements.
    AddMap {
        /// Its name.
        map: String,
        /// Its key.
        key: Vec<KeyType>,
        /// `flags interval`.
        interval: bool,
        /// Its comment.
        comment: Option<String>,
    },
    /// Delete a verdict map.
    DeleteMap {
        /// Its name.
        map: String,
    },
    /// Add elements to a verdict map.
    AddMapElements {
        /// The map.
        map: String,
        /// Keys and verdicts.
        elements: Vec<(Key, Verdict)>,
    },
    /// Delete elements of a verdict map.
    DeleteMapElements {
        /// The map.
        map: String,
        /// Keys, with the verdicts they have.
        elements: Vec<(Key, Verdict)>,
    },
    /// Create a counter map, without its elements.
    AddCounterMap {
        /// Its name.
        map: String,
        /// Its key.
        key: Vec<KeyType>,
        /// `flags interval`.
        interval: bool,
        /// Its comment.
        comment: Option<String>,
    },
    /// Delete a counter map.
    DeleteCounterMap {
        /// Its name.
        map: String,
    },
    /// Add elements to a counter map. Their counters must be there.
    AddCounterElements {
        /// The map.
        map: String,
        /// Keys and names of counters.
        elements: Vec<(Key, String)>,
    },
    /// Delete elements of a counter map. The counters stay.
    DeleteCounterElements {
        /// The map.
        map: String,
        /// Keys, with the counters they have.
        elements: Vec<(Key, String)>,
    },
}

/// A map as a list of pairs.
mod pairs {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Key;

    pub(super) fn serialize<S: Serializer, V: Serialize>(
        map: &BTreeMap<Key, V>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(map)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>, V: Deserialize<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<Key, V>, D::Error> {
        Ok(Vec::deserialize(deserializer)?.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_with_elements_can_be_recorded_and_replayed() {
        let key = vec![Value::IfName("cali1".into())];
        let map = VerdictMap {
            key: vec![KeyType::IfName],
            interval: false,
            elements: [(key, Verdict::Goto("class".into()))].into(),
            comment: None,
        };
        let counter_map = CounterMap {
            key: vec![KeyType::InetProto],
            interval: false,
            elements: [(vec![Value::Proto(6)], "h_tcp".to_owned())].into(),
            comment: None,
        };
        let table = Ruleset {
            maps: [("egress_class".to_owned(), map)].into(),
            counter_maps: [("m".to_owned(), counter_map)].into(),
            ..Ruleset::default()
        };
        let text = serde_json::to_string(&table).expect("written");
        assert_eq!(serde_json::from_str::<Ruleset>(&text).expect("read"), table);
    }
}
