//! Rulesets and transactions as text that `nft -f` takes, from 1.0.6 on, written the way `nft list` prints it.
//!
//! nft leaves out what a later condition implies: `ip saddr` implies `meta nfproto ipv4`, `tcp dport` implies `meta l4proto tcp`. On
//! reading it puts the implied condition right before the one that implies it, so here the condition is left out exactly when that
//! is where it stands; else it is written, and loading the text gives the same rule.

mod icmp;

use std::fmt::{self, Display, Formatter, Write as _};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::{
    Chain, ChainType, Command, CtStates, Direction, Family, Field, Hook, HookPoint, Key, KeyType, Map, Match, Op,
    RejectWith, Rule, Ruleset, Side, Statement, TABLE, Transaction, Value, Verdict,
};

impl Display for Ruleset {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "# where the kernel has them, the agent's table has the flags owner,persist; nft 1.0.6 cannot say `persist`"
        )?;
        writeln!(f, "table inet {TABLE} {{")?;
        let mut blank = false;
        let mut separate =
            |f: &mut Formatter<'_>| if std::mem::replace(&mut blank, true) { writeln!(f) } else { Ok(()) };
        for (name, comment) in &self.counters {
            separate(f)?;
            writeln!(f, "\tcounter {name} {{")?;
            if let Some(comment) = comment {
                writeln!(f, "\t\tcomment \"{comment}\"")?;
            }
            writeln!(f, "\t\tpackets 0 bytes 0\n\t}}")?;
        }
        for (name, set) in &self.sets {
            separate(f)?;
            let body = Body { key: &set.key, interval: set.interval, to: None, comment: set.comment.as_deref() };
            writeln!(f, "\tset {name} {{\n{}", body.lines())?;
            write_elements(f, set.elements.iter().map(bare))?;
            writeln!(f, "\t}}")?;
        }
        for (name, map) in &self.maps {
            separate(f)?;
            write_map(f, name, map, VERDICT, verdict_of)?;
        }
        for (name, map) in &self.counter_maps {
            separate(f)?;
            write_map(f, name, map, COUNTER, counter_of)?;
        }
        for (name, chain) in &self.chains {
            separate(f)?;
            writeln!(f, "\tchain {name} {{")?;
            write_chain(f, chain)?;
            writeln!(f, "\t}}")?;
        }
        writeln!(f, "}}")
    }
}

/// What the elements of maps are, as nft names it.
const VERDICT: &str = "verdict";
const COUNTER: &str = "counter";

fn write_map<V>(
    f: &mut Formatter<'_>,
    name: &str,
    map: &Map<V>,
    to: &'static str,
    element: for<'a> fn(&'a Key, &'a V) -> Element<'a>,
) -> fmt::Result {
    let body = Body { key: &map.key, interval: map.interval, to: Some(to), comment: map.comment.as_deref() };
    writeln!(f, "\tmap {name} {{\n{}", body.lines())?;
    write_elements(f, map.elements.iter().map(|(key, value)| element(key, value)))?;
    writeln!(f, "\t}}")
}

fn write_chain(f: &mut Formatter<'_>, chain: &Chain) -> fmt::Result {
    if let Some(hook) = chain.hook {
        writeln!(f, "\t\t{hook}")?;
    }
    chain.rules.iter().try_for_each(|rule| writeln!(f, "\t\t{rule}"))
}

fn write_elements<'a>(f: &mut Formatter<'_>, elements: impl Iterator<Item = Element<'a>>) -> fmt::Result {
    let mut any = false;
    for element in elements {
        f.write_str(if any { ",\n\t\t\t     " } else { "\t\telements = { " })?;
        any = true;
        write!(f, "{element}")?;
    }
    if any { f.write_str(" }\n") } else { Ok(()) }
}

impl Display for Hook {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let point = match self.point {
            HookPoint::Prerouting => "prerouting",
            HookPoint::Input => "input",
            HookPoint::Forward => "forward",
            HookPoint::Output => "output",
            HookPoint::Postrouting => "postrouting",
            HookPoint::Foreign => return f.write_str("# a hook, type or policy that is not ours"),
        };
        let kind = match self.kind {
            ChainType::Filter => "filter",
            ChainType::Nat => "nat",
        };
        write!(f, "type {kind} hook {point} priority {}; policy accept;", self.priority)
    }
}

/// The declaration of a set or map.
struct Body<'a> {
    key: &'a [KeyType],
    interval: bool,
    /// What a map maps to; `None` for a set.
    to: Option<&'static str>,
    comment: Option<&'a str>,
}

impl Body<'_> {
    fn parts(&self) -> Vec<String> {
        let names: Vec<_> = self.key.iter().map(|kind| kind.name()).collect();
        let to = self.to.map(|to| format!(" : {to}")).unwrap_or_default();
        let mut parts = vec![format!("type {}{to}", names.join(" . "))];
        if self.interval {
            parts.push("flags interval".into());
        }
        if let Some(comment) = self.comment {
            parts.push(format!("comment \"{comment}\""));
        }
        parts
    }

    fn lines(&self) -> String {
        self.parts().iter().map(|part| format!("\t\t{part}")).collect::<Vec<_>>().join("\n")
    }
}

/// An element with what it has beside its key.
struct Element<'a> {
    key: &'a Key,
    value: ElementValue<'a>,
}

enum ElementValue<'a> {
    Nothing,
    Verdict(&'a Verdict),
    Counter(&'a str),
}

impl Display for Element<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write_key(f, self.key)?;
        match self.value {
            ElementValue::Nothing => Ok(()),
            ElementValue::Verdict(verdict) => write!(f, " : {verdict}"),
            ElementValue::Counter(counter) => write!(f, " : \"{counter}\""),
        }
    }
}

fn write_key(f: &mut Formatter<'_>, key: &[Value]) -> fmt::Result {
    for (index, value) in key.iter().enumerate() {
        if index > 0 {
            f.write_str(" . ")?;
        }
        write!(f, "{value}")?;
    }
    Ok(())
}

impl Display for Value {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::IfName(name) => write!(f, "\"{name}\""),
            Self::Addr(addr) => write!(f, "{addr}"),
            Self::Net(net) => write!(f, "{net}"),
            Self::AddrRange(first, last) => write!(f, "{first}-{last}"),
            Self::Family(Family::V4) => f.write_str("ipv4"),
            Self::Family(Family::V6) => f.write_str("ipv6"),
            Self::Proto(number) => write!(f, "{}", Protocol(*number)),
            Self::Port(port) => write!(f, "{port}"),
            Self::PortRange(first, last) => write!(f, "{first}-{last}"),
            Self::Mark(mark) => write!(f, "{mark:#010x}"),
        }
    }
}

impl Display for Verdict {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Goto(chain) => write!(f, "goto {chain}"),
            Self::Return => f.write_str("return"),
        }
    }
}

/// An IP protocol, by the names that nft knows without `/etc/protocols`.
struct Protocol(u8);

impl Display for Protocol {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            1 => f.write_str("icmp"),
            6 => f.write_str("tcp"),
            17 => f.write_str("udp"),
            58 => f.write_str("ipv6-icmp"),
            132 => f.write_str("sctp"),
            number => write!(f, "{number}"),
        }
    }
}

/// The name under which nft matches ports of a protocol.
fn transport(protocol: Option<u8>) -> &'static str {
    match protocol {
        Some(6) => "tcp",
        Some(17) => "udp",
        Some(33) => "dccp",
        Some(132) => "sctp",
        Some(136) => "udplite",
        _ => "th",
    }
}

impl Display for Rule {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut words = Vec::new();
        let mut protocol = None;
        for (index, condition) in self.matches.iter().enumerate() {
            if let Match::L4Proto(Op::Eq, number) = condition {
                protocol = Some(*number);
            }
            let next = Next::of(self, index);
            if !next.implies(condition) {
                words.push(match_text(condition, protocol, self.is_range(condition)));
            }
        }
        words.extend(self.statements.iter().map(|statement| statement_text(statement, protocol)));
        if let Some(comment) = &self.comment {
            words.push(format!("comment \"{comment}\""));
        }
        f.write_str(&words.join(" "))
    }
}

/// What stands right after a condition.
enum Next<'a> {
    Match(&'a Match),
    Statement(&'a Statement),
    Nothing,
}

impl<'a> Next<'a> {
    fn of(rule: &'a Rule, index: usize) -> Self {
        match (rule.matches.get(index + 1), rule.statements.first()) {
            (Some(condition), _) => Self::Match(condition),
            (None, Some(statement)) => Self::Statement(statement),
            (None, None) => Self::Nothing,
        }
    }

    fn fields(&self) -> &[Field] {
        match self {
            Self::Match(Match::InSet { key, .. })
            | Self::Statement(Statement::Vmap { key, .. } | Statement::CountIn { key, .. }) => key,
            _ => &[],
        }
    }

    fn implies(&self, condition: &Match) -> bool {
        match condition {
            Match::NfProto(family) => match self {
                Self::Match(Match::Addr { net, .. }) => net.addr().is_ipv4() == (*family == Family::V4),
                _ => self.fields().iter().any(|field| field_family(*field) == Some(*family)),
            },
            // `icmpv6 type` alone would imply the family too.
            Match::L4Proto(Op::Eq, number) if transport(Some(*number)) != "th" => {
                matches!(self, Self::Match(Match::Port { .. }))
                    || self.fields().iter().any(|field| matches!(field, Field::ThSport | Field::ThDport))
                        && !self.fields().contains(&Field::L4Proto)
            }
            _ => false,
        }
    }
}

fn field_family(field: Field) -> Option<Family> {
    match field {
        Field::Ip4Saddr | Field::Ip4Daddr => Some(Family::V4),
        Field::Ip6Saddr | Field::Ip6Daddr => Some(Family::V6),
        _ => None,
    }
}

fn side(side: Side, source: &'static str, destination: &'static str) -> &'static str {
    match side {
        Side::Source => source,
        Side::Destination => destination,
    }
}

fn not(op: Op) -> &'static str {
    match op {
        Op::Eq => "",
        Op::Ne => "!= ",
    }
}

fn match_text(condition: &Match, protocol: Option<u8>, range: bool) -> String {
    match condition {
        Match::IfName { side: which, op, name, prefix } => {
            let star = if *prefix { "*" } else { "" };
            format!("{} {}\"{name}{star}\"", side(*which, "iifname", "oifname"), not(*op))
        }
        Match::NfProto(Family::V4) => "meta nfproto ipv4".into(),
        Match::NfProto(Family::V6) => "meta nfproto ipv6".into(),
        Match::L4Proto(op, number) => format!("meta l4proto {}{}", not(*op), Protocol(*number)),
        Match::Addr { side: which, op, net } => {
            let family = if net.addr().is_ipv4() { "ip" } else { "ip6" };
            let name = side(*which, "saddr", "daddr");
            format!("{family} {name} {}{}", not(*op), Prefix(net))
        }
        Match::Port { side: which, op, first, last } => {
            let mut text = format!("{} {} {}{first}", transport(protocol), side(*which, "sport", "dport"), not(*op));
            if first != last || range {
                let _ = write!(text, "-{last}");
            }
            text
        }
        Match::Icmp { family, op, kind, code } => icmp::text(*family, *op, *kind, *code),
        Match::IcmpCode { family, op, code } => icmp::code_text(*family, *op, *code, range),
        Match::CtState(states) => format!("ct state {}", ct_states(*states)),
        Match::CtDirection(Direction::Original) => "ct direction original".into(),
        Match::CtDirection(Direction::Reply) => "ct direction reply".into(),
        Match::CtStatusDnat(true) => "ct status dnat".into(),
        Match::CtStatusDnat(false) => "ct status ! dnat".into(),
        // The burst that nft leaves out is the one it takes where none is given.
        Match::LimitOver { packets_per_second, burst: 5 } => format!("limit rate over {packets_per_second}/second"),
        Match::LimitOver { packets_per_second, burst } => {
            format!("limit rate over {packets_per_second}/second burst {burst} packets")
        }
        Match::LimitWithin { packets, per, burst: 5 } => format!("limit rate {packets}/{}", per.as_str()),
        Match::LimitWithin { packets, per, burst } => {
            format!("limit rate {packets}/{} burst {burst} packets", per.as_str())
        }
        Match::CtCountOver(count) => format!("ct count over {count}"),
        Match::InSet { key, op, set } => {
            // nft needs the `==` after a mask, where it would else read on.
            let op = match (op, key.as_slice()) {
                (Op::Eq, [Field::CtMarkMasked(mask)]) if *mask != u32::MAX => "== ",
                (op, _) => not(*op),
            };
            format!("{} {op}@{set}", fields(key, protocol))
        }
    }
}

/// A prefix as nft prints it: an address for a host prefix.
struct Prefix<'a>(&'a IpNet);

impl Display for Prefix<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() {
            write!(f, "{}", self.0.addr())
        } else {
            write!(f, "{}", self.0)
        }
    }
}

fn ct_states(states: CtStates) -> String {
    const NAMES: [(CtStates, &str); 5] = [
        (CtStates::INVALID, "invalid"),
        (CtStates::ESTABLISHED, "established"),
        (CtStates::RELATED, "related"),
        (CtStates::NEW, "new"),
        (CtStates::UNTRACKED, "untracked"),
    ];
    let names: Vec<_> = NAMES.iter().filter(|(bit, _)| states.0 & bit.0 != 0).map(|(_, name)| *name).collect();
    names.join(",")
}

fn fields(key: &[Field], protocol: Option<u8>) -> String {
    let transport = transport(protocol);
    let names: Vec<_> = key
        .iter()
        .map(|field| match field {
            Field::IifName => "iifname".to_owned(),
            Field::OifName => "oifname".to_owned(),
            Field::Ip4Saddr => "ip saddr".to_owned(),
            Field::Ip4Daddr => "ip daddr".to_owned(),
            Field::Ip6Saddr => "ip6 saddr".to_owned(),
            Field::Ip6Daddr => "ip6 daddr".to_owned(),
            Field::NfProto => "meta nfproto".to_owned(),
            Field::L4Proto => "meta l4proto".to_owned(),
            Field::ThSport => format!("{transport} sport"),
            Field::ThDport => format!("{transport} dport"),
            Field::CtMarkMasked(u32::MAX) => "ct mark".to_owned(),
            Field::CtMarkMasked(mask) => format!("ct mark & {mask:#010x}"),
        })
        .collect();
    names.join(" . ")
}

fn statement_text(statement: &Statement, protocol: Option<u8>) -> String {
    match statement {
        Statement::Counter => "counter".into(),
        Statement::NamedCounter(name) => format!("counter name \"{name}\""),
        // nft shows the mask with the bits that are then set, since it does not matter whether they were kept.
        Statement::SetCtMark { keep, bits: 0 } => format!("ct mark set ct mark & {keep:#010x}"),
        Statement::SetCtMark { keep, bits } if keep | bits == u32::MAX => {
            format!("ct mark set ct mark | {bits:#010x}")
        }
        Statement::SetCtMark { keep, bits } => {
            format!("ct mark set ct mark & {:#010x} | {bits:#010x}", keep | bits)
        }
        Statement::Verdict(verdict) => verdict.to_string(),
        Statement::Vmap { key, map } => format!("{} vmap @{map}", fields(key, protocol)),
        Statement::CountIn { key, map } => format!("counter name {} map @{map}", fields(key, protocol)),
        Statement::Masquerade { ports, fully_random } => {
            let ports = ports.map(|ports| format!(" to :{}", PortRange(ports))).unwrap_or_default();
            format!("masquerade{ports}{}", if *fully_random { " fully-random" } else { "" })
        }
        Statement::Snat { address, ports } => {
            let family = if address.is_ipv4() { "ip" } else { "ip6" };
            match (address, ports) {
                (_, None) => format!("snat {family} to {address}"),
                (IpAddr::V4(_), Some(ports)) => format!("snat {family} to {address}:{}", PortRange(*ports)),
                (IpAddr::V6(_), Some(ports)) => format!("snat {family} to [{address}]:{}", PortRange(*ports)),
            }
        }
        Statement::Reject(RejectWith::TcpReset) => "reject with tcp reset".into(),
        Statement::Reject(RejectWith::AdminProhibited) => "reject with icmpx admin-prohibited".into(),
        Statement::Log { prefix } => format!("log prefix \"{prefix}\" level info"),
        Statement::NoTrack => "notrack".into(),
        Statement::Trace => "meta nftrace set 1".into(),
        Statement::Foreign(what) => format!("# not ours: {what}"),
    }
}

/// Ports that a translation chooses from.
struct PortRange((u16, u16));

impl Display for PortRange {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (first, last) = self.0;
        write!(f, "{first}-{last}")
    }
}

impl Display for Transaction {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.commands.iter().try_for_each(|command| writeln!(f, "{command}"))
    }
}

impl Display for Command {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddTable => write!(f, "add table inet {TABLE}"),
            Self::DeleteTable => write!(f, "delete table inet {TABLE}"),
            Self::AddChain { chain, hook: None } => write!(f, "create chain inet {TABLE} {chain}"),
            Self::AddChain { chain, hook: Some(hook) } => write!(f, "create chain inet {TABLE} {chain} {{ {hook} }}"),
            Self::DeleteChain { chain } => write!(f, "delete chain inet {TABLE} {chain}"),
            Self::FlushChain { chain } => write!(f, "flush chain inet {TABLE} {chain}"),
            Self::AddRule { chain, rule } => write!(f, "add rule inet {TABLE} {chain} {rule}"),
            Self::AddCounter { counter, comment: None } => write!(f, "create counter inet {TABLE} {counter}"),
            Self::AddCounter { counter, comment: Some(comment) } => {
                // nft has no `create` with a block.
                write!(f, "add counter inet {TABLE} {counter} {{ comment \"{comment}\" ; }}")
            }
            Self::DeleteCounter { counter } => write!(f, "delete counter inet {TABLE} {counter}"),
            Self::AddSet { set, key, interval, comment } => {
                let body = Body { key, interval: *interval, to: None, comment: comment.as_deref() };
                write!(f, "create set inet {TABLE} {set} {{ {}; }}", body.parts().join("; "))
            }
            Self::DeleteSet { set } => write!(f, "delete set inet {TABLE} {set}"),
            Self::AddMap { map, key, interval, comment } => {
                let body = Body { key, interval: *interval, to: Some(VERDICT), comment: comment.as_deref() };
                write!(f, "create map inet {TABLE} {map} {{ {}; }}", body.parts().join("; "))
            }
            Self::AddCounterMap { map, key, interval, comment } => {
                let body = Body { key, interval: *interval, to: Some(COUNTER), comment: comment.as_deref() };
                write!(f, "create map inet {TABLE} {map} {{ {}; }}", body.parts().join("; "))
            }
            Self::DeleteMap { map } | Self::DeleteCounterMap { map } => write!(f, "delete map inet {TABLE} {map}"),
            Self::AddElements { set, elements } => write_element_command(f, "create", set, elements.iter().map(bare)),
            Self::DeleteElements { set, elements } => {
                write_element_command(f, "delete", set, elements.iter().map(bare))
            }
            Self::AddMapElements { map, elements } => {
                write_element_command(f, "create", map, elements.iter().map(mapped))
            }
            Self::DeleteMapElements { map, elements } => {
                write_element_command(f, "delete", map, elements.iter().map(mapped))
            }
            Self::AddCounterElements { map, elements } => {
                write_element_command(f, "create", map, elements.iter().map(counted))
            }
            Self::DeleteCounterElements { map, elements } => {
                write_element_command(f, "delete", map, elements.iter().map(counted))
            }
        }
    }
}

fn bare(key: &Key) -> Element<'_> {
    Element { key, value: ElementValue::Nothing }
}

fn verdict_of<'a>(key: &'a Key, verdict: &'a Verdict) -> Element<'a> {
    Element { key, value: ElementValue::Verdict(verdict) }
}

#[expect(clippy::ptr_arg, reason = "a function of each map's values")]
fn counter_of<'a>(key: &'a Key, counter: &'a String) -> Element<'a> {
    Element { key, value: ElementValue::Counter(counter) }
}

fn mapped((key, verdict): &(Key, Verdict)) -> Element<'_> {
    verdict_of(key, verdict)
}

fn counted((key, counter): &(Key, String)) -> Element<'_> {
    counter_of(key, counter)
}

fn write_element_command<'a>(
    f: &mut Formatter<'_>,
    verb: &str,
    set: &str,
    elements: impl Iterator<Item = Element<'a>>,
) -> fmt::Result {
    write!(f, "{verb} element inet {TABLE} {set} {{ ")?;
    for (index, element) in elements.enumerate() {
        if index > 0 {
            f.write_str(", ")?;
        }
        write!(f, "{element}")?;
    }
    f.write_str(" }")
}
