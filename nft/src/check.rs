//! What an executor refuses before it asks the kernel: commands that the kernel would misread, or whose text `nft` could not read back.
//!
//! The kernel compares bytes and does not know their meaning: a rule that looks up a port in a set of addresses is no error to it.
//! These checks keep a [`Ruleset`](crate::Ruleset) such that its text, its kernel form and its interpretation say the same.

use crate::keys;
use crate::model::{
    COMMENT_MAX, ChainType, Command, CtStates, Family, Field, Hook, HookPoint, ICMP, ICMPV6, Key, KeyType,
    LOG_PREFIX_MAX, Match, Op, RejectWith, Rule, Statement, Verdict, comment, log_prefix,
};

/// The longest name of a chain or set that `nft` 1.0.6 takes.
pub const NAME_MAX: usize = 127;

/// The priority of conntrack at prerouting and output.
const CONNTRACK: i32 = -200;

/// The most fields of a key whose types nft can number.
pub const FIELDS_MAX: usize = 5;

/// What must be known of a set or map to use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared {
    /// The key's fields.
    pub key: Vec<KeyType>,
    /// Whether elements are intervals.
    pub interval: bool,
    /// What elements have beside their key.
    pub content: Content,
}

/// What elements have beside their key: whether they are of a set, a verdict map or a counter map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Nothing.
    Keys,
    /// A verdict.
    Verdicts,
    /// A named counter.
    Counters,
}

impl Content {
    const fn what(self) -> &'static str {
        match self {
            Self::Keys => "a set; its elements have nothing but keys",
            Self::Verdicts => "a verdict map; its elements have verdicts",
            Self::Counters => "a counter map; its elements have counters",
        }
    }
}

/// Whether `command` makes sense, given the sets and maps that `find` knows. One that it does not know is left to the kernel.
///
/// # Errors
/// What is wrong, in words.
pub fn command<'a>(command: &Command, find: impl Fn(&str) -> Option<&'a Declared>) -> Result<(), String> {
    match command {
        Command::AddChain { chain, hook } => {
            hook.map_or(Ok(()), check_hook)?;
            name(chain)
        }
        Command::AddSet { set, key, interval, comment }
        | Command::AddMap { map: set, key, interval, comment }
        | Command::AddCounterMap { map: set, key, interval, comment } => {
            name(set)?;
            check_comment(comment.as_deref())?;
            check_key(key, *interval)
        }
        Command::AddCounter { counter, comment } => {
            name(counter)?;
            check_comment(comment.as_deref())
        }
        Command::AddRule { rule, .. } => self::rule(rule, find),
        Command::AddElements { set, elements } | Command::DeleteElements { set, elements } => {
            let Some(declared) = find(set) else { return Ok(()) };
            holds(declared, Content::Keys)?;
            elements.iter().try_for_each(|key| element(declared, key))
        }
        Command::AddMapElements { map, elements } | Command::DeleteMapElements { map, elements } => {
            let Some(declared) = find(map) else { return Ok(()) };
            holds(declared, Content::Verdicts)?;
            elements.iter().try_for_each(|(key, _)| element(declared, key))
        }
        Command::AddCounterElements { map, elements } | Command::DeleteCounterElements { map, elements } => {
            let Some(declared) = find(map) else { return Ok(()) };
            holds(declared, Content::Counters)?;
            elements.iter().try_for_each(|(key, counter)| {
                name(counter)?;
                element(declared, key)
            })
        }
        Command::AddTable
        | Command::DeleteTable
        | Command::DeleteChain { .. }
        | Command::FlushChain { .. }
        | Command::DeleteCounter { .. }
        | Command::DeleteSet { .. }
        | Command::DeleteMap { .. }
        | Command::DeleteCounterMap { .. } => Ok(()),
    }
}

fn check_hook(hook: Hook) -> Result<(), String> {
    if hook.point == HookPoint::Foreign {
        return Err("its hook is outside the vocabulary".into());
    }
    if hook.kind == ChainType::Nat && (hook.point == HookPoint::Forward || hook.priority <= CONNTRACK) {
        return Err("a chain of type nat has no place at forward, nor before conntrack (priority -200)".into());
    }
    Ok(())
}

/// Whether a base chain may come to a rule with this effect, by itself or by way of other chains.
#[must_use]
pub fn takes(hook: Hook, statement: &Statement) -> bool {
    match statement {
        Statement::Masquerade { .. } => hook.kind == ChainType::Nat && hook.point == HookPoint::Postrouting,
        Statement::Snat { .. } => {
            hook.kind == ChainType::Nat && matches!(hook.point, HookPoint::Postrouting | HookPoint::Input)
        }
        Statement::Reject(_) => hook.point != HookPoint::Postrouting,
        _ => true,
    }
}

/// Whether elements with such content belong into a set or map. That is all that there is to check of a command with elements beside
/// the keys, which [`keys::encode`] checks, and the names of counters.
///
/// # Errors
/// What is wrong, in words.
pub fn holds(declared: &Declared, content: Content) -> Result<(), String> {
    if declared.content == content { Ok(()) } else { Err(format!("it is {}", declared.content.what())) }
}

fn element(declared: &Declared, key: &Key) -> Result<(), String> {
    keys::encode(&declared.key, declared.interval, key).map(|_| ())
}

/// The name of a counter, as it is, if it is one.
///
/// # Errors
/// What is wrong, in words.
pub fn counter_name(counter: &str) -> Result<&str, String> {
    name(counter).map(|()| counter)
}

fn name(name: &str) -> Result<(), String> {
    let mut bytes = name.bytes();
    let fits = bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'/'))
        && name.len() <= NAME_MAX;
    if fits {
        Ok(())
    } else {
        Err(format!("{name:?} is no name: a letter, then letters, digits and _-./, {NAME_MAX} at most"))
    }
}

fn check_comment(text: Option<&str>) -> Result<(), String> {
    match text {
        Some("") => Err("its comment is empty; leave it out".into()),
        Some(text) if comment(text) != text => {
            Err(format!("its comment is longer than {COMMENT_MAX} bytes, or has quotes or control characters"))
        }
        _ => Ok(()),
    }
}

fn check_key(key: &[KeyType], interval: bool) -> Result<(), String> {
    let size: usize = key.iter().map(|kind| kind.size().next_multiple_of(4)).sum();
    if key.is_empty() || key.len() > FIELDS_MAX || size > keys::KEY_MAX {
        return Err(format!("its key must have 1 to {FIELDS_MAX} fields, and {} bytes at most", keys::KEY_MAX));
    }
    if interval
        && key.len() == 1
        && matches!(key[0], KeyType::IfName | KeyType::NfProto | KeyType::InetProto | KeyType::Mark)
    {
        return Err(format!("intervals of {} are outside the vocabulary", key[0].name()));
    }
    Ok(())
}

/// Whether a rule is one that its text, the kernel and the interpreter read alike.
///
/// # Errors
/// What is wrong, in words.
pub fn rule<'a>(rule: &Rule, find: impl Fn(&str) -> Option<&'a Declared>) -> Result<(), String> {
    check_comment(rule.comment.as_deref())?;
    let mut seen = Seen { family: None, protocol: None };
    for condition in &rule.matches {
        seen.check(condition, &find)?;
    }
    for (index, statement) in rule.statements.iter().enumerate() {
        let last = index + 1 == rule.statements.len();
        match statement {
            Statement::Counter | Statement::NoTrack | Statement::Trace => {}
            Statement::NamedCounter(counter) => name(counter)?,
            Statement::Log { prefix } => {
                if prefix.is_empty() || log_prefix(prefix) != *prefix {
                    return Err(format!(
                        "its log prefix is empty or longer than {LOG_PREFIX_MAX} bytes, or has quotes or control characters"
                    ));
                }
            }
            Statement::SetCtMark { keep, bits } => {
                if keep & bits != 0 {
                    return Err("ct mark: a bit that is set need not be kept; clear it in `keep`".into());
                }
                if *keep == u32::MAX {
                    return Err("ct mark: nothing is changed".into());
                }
            }
            Statement::Verdict(verdict) => {
                if !last {
                    return Err("statements after a verdict are never reached".into());
                }
                if let Verdict::Jump(chain) | Verdict::Goto(chain) = verdict {
                    name(chain)?;
                }
            }
            Statement::Vmap { key, map } => {
                if !last {
                    return Err(
                        "statements after a verdict map are reached by no packet that it has a verdict for".into()
                    );
                }
                seen.check_lookup(key, map, Content::Verdicts, &find)?;
            }
            Statement::CountIn { key, map } => seen.check_lookup(key, map, Content::Counters, &find)?,
            Statement::Masquerade { .. } | Statement::Snat { .. } | Statement::Reject(_) => {
                if !last {
                    return Err("statements after a translation or a rejection are never reached".into());
                }
                seen.check_last(statement)?;
            }
            Statement::Foreign(what) => return Err(format!("{what} is outside the vocabulary")),
        }
    }
    Ok(())
}

/// What earlier conditions of a rule have established.
struct Seen {
    family: Option<Family>,
    protocol: Option<u8>,
}

impl Seen {
    fn check<'a>(&mut self, condition: &Match, find: impl Fn(&str) -> Option<&'a Declared>) -> Result<(), String> {
        match condition {
            Match::IfName { name, .. } => {
                if name.is_empty() || keys::ifname(name).is_none() || name.contains(['*', '"', '\\']) {
                    return Err(format!("{name:?} is no interface name or prefix of one (1 to 15 bytes)"));
                }
            }
            Match::NfProto(family) => {
                if self.family.replace(*family).is_some() {
                    return Err("the family is matched twice".into());
                }
            }
            Match::L4Proto(Op::Eq, protocol) => {
                if self.protocol.replace(*protocol).is_some() {
                    return Err("the protocol is matched twice".into());
                }
            }
            Match::Addr { net, .. } => {
                if net.trunc() != *net {
                    return Err(format!("{net} has bits set after its prefix; write {}", net.trunc()));
                }
                self.need(if net.addr().is_ipv4() { Family::V4 } else { Family::V6 })?;
            }
            Match::Port { first, last, .. } => {
                if first > last {
                    return Err(format!("{first}-{last} is not a range of ports"));
                }
                self.need_ports()?;
            }
            Match::Icmp { family, op, code, .. } => {
                self.need_icmp(*family)?;
                if *op == Op::Ne && code.is_some() {
                    return Err("nft has no inequality of an ICMP type and code; make it two rules".into());
                }
            }
            Match::IcmpCode { family, op, .. } => {
                self.need_icmp(*family)?;
                if *op == Op::Eq {
                    return Err("an equality of an ICMP code goes with its type".into());
                }
            }
            Match::CtState(CtStates(states)) => {
                if *states == 0 || states & !0b100_1111 != 0 {
                    return Err(format!("{states:#x} is no set of ct states"));
                }
            }
            Match::LimitOver { packets_per_second: 0, .. }
            | Match::LimitOver { burst: 0, .. }
            | Match::LimitWithin { packets: 0, .. }
            | Match::LimitWithin { burst: 0, .. } => {
                return Err("a limit of no packets; drop them without a limit".into());
            }
            Match::L4Proto(Op::Ne, _)
            | Match::CtDirection(_)
            | Match::CtStatusDnat(_)
            | Match::LimitOver { .. }
            | Match::LimitWithin { .. }
            | Match::CtCountOver(_) => {}
            Match::InSet { key, set, .. } => self.check_lookup(key, set, Content::Keys, find)?,
        }
        Ok(())
    }

    /// Whether what a translation or rejection needs has been matched.
    fn check_last(&self, statement: &Statement) -> Result<(), String> {
        if let Statement::Masquerade { ports: Some(ports), .. } | Statement::Snat { ports: Some(ports), .. } = statement
        {
            if ports.0 == 0 || ports.0 > ports.1 {
                return Err(format!("{}-{} is no range of source ports", ports.0, ports.1));
            }
            if self.protocol.is_none() {
                return Err("source ports need a match of their protocol before them".into());
            }
            self.need_ports()?;
        }
        match statement {
            Statement::Snat { address, .. } => self.need(if address.is_ipv4() { Family::V4 } else { Family::V6 }),
            Statement::Reject(RejectWith::TcpReset) if self.protocol != Some(6) => {
                Err("`reject with tcp reset` needs `meta l4proto tcp` before it".into())
            }
            _ => Ok(()),
        }
    }

    fn check_lookup<'a>(
        &self,
        key: &[Field],
        set: &str,
        content: Content,
        find: impl Fn(&str) -> Option<&'a Declared>,
    ) -> Result<(), String> {
        for field in key {
            match field {
                Field::Ip4Saddr | Field::Ip4Daddr => self.need(Family::V4)?,
                Field::Ip6Saddr | Field::Ip6Daddr => self.need(Family::V6)?,
                Field::ThSport | Field::ThDport => self.need_ports()?,
                Field::CtMarkMasked(mask) if *mask != u32::MAX && key.len() > 1 => {
                    return Err("nft has no masked mark inside a concatenation".into());
                }
                _ => {}
            }
        }
        let Some(declared) = find(set) else { return Ok(()) };
        holds(declared, content).map_err(|what| format!("{set} cannot be looked up so: {what}"))?;
        if !key.iter().map(|field| field.key_type()).eq(declared.key.iter().copied()) {
            return Err(format!("the key looked up in {set} is not of its type"));
        }
        Ok(())
    }

    /// Of a protocol without ports nft would read something else at their place, and name it so.
    fn need_ports(&self) -> Result<(), String> {
        match self.protocol {
            None | Some(6 | 17 | 33 | 132 | 136) => Ok(()),
            Some(protocol) => Err(format!("IP protocol {protocol} has no ports")),
        }
    }

    fn need_icmp(&self, family: Family) -> Result<(), String> {
        let (protocol, name) = match family {
            Family::V4 => (ICMP, "`icmp` needs `meta l4proto icmp`"),
            Family::V6 => (ICMPV6, "`icmpv6` needs `meta l4proto ipv6-icmp`"),
        };
        if self.protocol == Some(protocol) { Ok(()) } else { Err(format!("{name} before it")) }
    }

    fn need(&self, family: Family) -> Result<(), String> {
        if self.family == Some(family) {
            return Ok(());
        }
        Err(match family {
            Family::V4 => "an IPv4 address needs `meta nfproto ipv4` before it".into(),
            Family::V6 => "an IPv6 address needs `meta nfproto ipv6` before it".into(),
        })
    }
}

/// The sets and maps that a rule looks something up in.
pub fn sets_of(rule: &Rule) -> impl Iterator<Item = &str> {
    let matches = rule.matches.iter().filter_map(|condition| match condition {
        Match::InSet { set, .. } => Some(set.as_str()),
        _ => None,
    });
    let statements = rule.statements.iter().filter_map(|statement| match statement {
        Statement::Vmap { map, .. } | Statement::CountIn { map, .. } => Some(map.as_str()),
        _ => None,
    });
    matches.chain(statements)
}

/// The named counters that a rule counts in by their names; those of its counter maps are not among them.
pub fn counters_of(rule: &Rule) -> impl Iterator<Item = &str> {
    rule.statements.iter().filter_map(|statement| match statement {
        Statement::NamedCounter(counter) => Some(counter.as_str()),
        _ => None,
    })
}

/// The sets and maps that a command uses, though it does not create them.
#[must_use]
pub fn names(command: &Command) -> Vec<&str> {
    match command {
        Command::AddRule { rule, .. } => sets_of(rule).collect(),
        Command::AddElements { set, .. } | Command::DeleteElements { set, .. } => vec![set],
        Command::AddMapElements { map, .. }
        | Command::DeleteMapElements { map, .. }
        | Command::AddCounterElements { map, .. }
        | Command::DeleteCounterElements { map, .. } => vec![map],
        _ => Vec::new(),
    }
}

/// A command in a few words, for errors: what is to be done to which object, without its elements.
#[must_use]
pub fn short(command: &Command) -> String {
    match command {
        Command::AddElements { set, elements } => format!("to add {} elements to set {set}", elements.len()),
        Command::DeleteElements { set, elements } => format!("to delete {} elements of set {set}", elements.len()),
        Command::AddMapElements { map, elements } => format!("to add {} elements to map {map}", elements.len()),
        Command::DeleteMapElements { map, elements } => format!("to delete {} elements of map {map}", elements.len()),
        Command::AddCounterElements { map, elements } => {
            format!("to add {} elements to counter map {map}", elements.len())
        }
        Command::DeleteCounterElements { map, elements } => {
            format!("to delete {} elements of counter map {map}", elements.len())
        }
        Command::AddRule { chain, rule } => format!("to add the rule `{rule}` to chain {chain}"),
        Command::AddTable => "to add the table".into(),
        Command::DeleteTable => "to delete the table".into(),
        Command::AddChain { chain, .. } => format!("to add chain {chain}"),
        Command::DeleteChain { chain } => format!("to delete chain {chain}"),
        Command::FlushChain { chain } => format!("to flush chain {chain}"),
        Command::AddCounter { counter, .. } => format!("to add counter {counter}"),
        Command::DeleteCounter { counter } => format!("to delete counter {counter}"),
        Command::AddSet { set, .. } => format!("to add set {set}"),
        Command::DeleteSet { set } => format!("to delete set {set}"),
        Command::AddMap { map, .. } => format!("to add map {map}"),
        Command::DeleteMap { map } => format!("to delete map {map}"),
        Command::AddCounterMap { map, .. } => format!("to add counter map {map}"),
        Command::DeleteCounterMap { map } => format!("to delete counter map {map}"),
    }
}
