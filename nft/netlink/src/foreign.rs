//! What others have in nf_tables: their tables, and the rules that say what becomes of a forwarded packet.
//!
//! A [`Foreign`] reads every table of a network namespace, and can do three things to what is not ours, each only when it is told to by
//! name: put one accepting rule into a chain, delete rules and chains, delete tables. Rules are not understood in full. What counts is
//! whether a rule holds for every packet of some interface and where it sends it; every other condition is [`Condition::Other`].

use std::fmt;

use crate::attributes::{Attributes, Message, Messages, udata_comment};
use crate::consts::*;
use crate::error::{Error, reason};
use crate::transport::Transport;
use crate::wire::{Writer, udata_comment as write_comment};

/// How often a dump that others interrupt is tried.
const TRIES: usize = 32;

/// How long an interface name is with all its zeros.
const NFT_META_IIFNAME_LEN: usize = 16;

/// The family of a table, as nft writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4 and IPv6.
    Inet,
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
    /// Any other (`arp`, `bridge`, `netdev`), by the kernel's number.
    Other(u8),
}

impl Family {
    const fn number(self) -> u8 {
        match self {
            Self::Inet => NFPROTO_INET,
            Self::Ip => NFPROTO_IPV4,
            Self::Ip6 => NFPROTO_IPV6,
            Self::Other(number) => number,
        }
    }

    const fn from_number(number: u8) -> Self {
        match number {
            NFPROTO_INET => Self::Inet,
            NFPROTO_IPV4 => Self::Ip,
            NFPROTO_IPV6 => Self::Ip6,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet => f.write_str("inet"),
            Self::Ip => f.write_str("ip"),
            Self::Ip6 => f.write_str("ip6"),
            Self::Other(3) => f.write_str("arp"),
            Self::Other(5) => f.write_str("netdev"),
            Self::Other(7) => f.write_str("bridge"),
            Self::Other(number) => write!(f, "family {number}"),
        }
    }
}

/// A table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its family.
    pub family: Family,
    /// Its name.
    pub name: String,
    /// Its chains; with rules where they were asked for.
    pub chains: Vec<Chain>,
}

/// A chain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// Where the kernel enters it; none for a chain that rules jump to.
    pub hook: Option<Hook>,
    /// Its rules, in order.
    pub rules: Vec<Rule>,
}

/// Where the kernel enters a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// `filter`, `nat` or `route`.
    pub kind: String,
    /// The hook's number: [`FORWARD`] and so on.
    pub number: u32,
    /// When, relative to others.
    pub priority: i32,
    /// Whether what reaches the chain's end is dropped.
    pub drops: bool,
}

/// The number of the hook that forwarded packets pass.
pub const FORWARD: u32 = 2;

/// A rule.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    /// The kernel's number for it, unique in its table.
    pub handle: u64,
    /// What a packet must be for it.
    pub conditions: Vec<Condition>,
    /// What becomes of such a packet; none if it goes on to the next rule.
    pub verdict: Option<Verdict>,
    /// Its comment.
    pub comment: Option<String>,
}

impl Rule {
    /// Adds a comment behind those that the rule has: iptables allows several.
    pub fn add_comment(&mut self, comment: &str) {
        self.comment = Some(match self.comment.take() {
            Some(before) => format!("{before}; {comment}"),
            None => comment.to_owned(),
        });
    }
}

/// A condition of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// The packet came in by such an interface.
    In(Interface),
    /// The packet goes out by such an interface.
    Out(Interface),
    /// Anything else.
    Other,
}

/// Which interfaces a condition means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// The name, or how it begins.
    pub name: String,
    /// Whether names that begin so are meant.
    pub prefix: bool,
    /// Whether all others are meant.
    pub negated: bool,
}

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It leaves this base chain, and goes on to the next.
    Accept,
    /// It is gone.
    Drop,
    /// It is gone, and its sender is told.
    Reject,
    /// Back to the rule behind the jump.
    Return,
    /// To another chain, and back.
    Jump(String),
    /// To another chain, for good.
    Goto(String),
    /// A look-up or something else decides.
    Unknown,
}

/// Something of others to be deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deletion {
    /// A table with all that is in it.
    Table {
        /// Its family.
        family: Family,
        /// Its name.
        name: String,
    },
    /// One rule.
    Rule {
        /// Its table's family.
        family: Family,
        /// Its table.
        table: String,
        /// Its chain.
        chain: String,
        /// Its handle.
        handle: u64,
    },
    /// All rules of a chain.
    Rules {
        /// Its table's family.
        family: Family,
        /// Its table.
        table: String,
        /// The chain.
        chain: String,
    },
    /// An empty chain.
    Chain {
        /// Its table's family.
        family: Family,
        /// Its table.
        table: String,
        /// Its name.
        name: String,
    },
}

/// A rule that accepts what comes in by, or goes out by, some interface.
#[derive(Debug, Clone, Copy)]
pub struct Accept<'a> {
    /// The table's family.
    pub family: Family,
    /// The table.
    pub table: &'a str,
    /// The chain.
    pub chain: &'a str,
    /// The rule that it goes before, by its handle; at the chain's end if none.
    pub before: Option<u64>,
    /// How the interface's name begins.
    pub prefix: &'a str,
    /// Whether it is about the way out; else the way in.
    pub out: bool,
    /// The rule's comment.
    pub comment: &'a str,
}

/// A socket to look at what others have.
#[derive(Debug)]
pub struct Foreign {
    transport: Transport,
    seq: u32,
}

impl Foreign {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// [`Error::Open`].
    pub fn open() -> Result<Self, Error> {
        Ok(Self { transport: Transport::open()?, seq: 1 })
    }

    /// All tables with their chains, and the rules of those tables that `rules` picks.
    ///
    /// # Errors
    /// [`Error::ReadBack`] if others change nf_tables too fast to read them, [`Error::Request`] if they may not be read.
    pub fn tables(&mut self, rules: impl Fn(&Table) -> bool) -> Result<Vec<Table>, Error> {
        let mut tables: Vec<Table> = Vec::new();
        let dump = self.dump("the tables", NFT_MSG_GETTABLE, NFPROTO_UNSPEC, |_| {})?;
        for message in Messages(&dump) {
            if let (Some(family), Some(name)) = (message.family(), message.attributes().string(NFTA_TABLE_NAME)) {
                let family = Family::from_number(family);
                tables.push(Table { family, name: name.to_owned(), chains: Vec::new() });
            }
        }
        let dump = self.dump("the chains", NFT_MSG_GETCHAIN, NFPROTO_UNSPEC, |_| {})?;
        for message in Messages(&dump) {
            let Some((family, table, chain)) = chain(&message) else { continue };
            if let Some(table) = tables.iter_mut().find(|known| known.family == family && known.name == table) {
                table.chains.push(chain);
            }
        }
        for table in tables.iter_mut().filter(|table| rules(table)) {
            let (family, name) = (table.family.number(), table.name.clone());
            let dump = self.dump("the rules", NFT_MSG_GETRULE, family, |w| w.string(NFTA_RULE_TABLE, &name))?;
            for message in Messages(&dump).filter(|message| message.family() == Some(family)) {
                // What the kernel filters by differs with its version.
                if let Some((of, chain, rule)) = rule(&message)
                    && of == name
                    && let Some(chain) = table.chains.iter_mut().find(|known| known.name == chain)
                {
                    chain.rules.push(rule);
                }
            }
        }
        Ok(tables)
    }

    /// Puts in a rule that accepts, as `iptables-nft` would write it, so that it lists and deletes it as its own.
    ///
    /// # Errors
    /// [`Error::Request`] with the kernel's reason.
    pub fn accept(&mut self, rule: &Accept<'_>) -> Result<(), Error> {
        self.batch("a rule", |w, seq| {
            let position = if rule.before.is_some() { 0 } else { NLM_F_APPEND };
            w.begin(NFT_MSG_NEWRULE, NLM_F_CREATE | position, rule.family.number(), seq);
            w.string(NFTA_RULE_TABLE, rule.table);
            w.string(NFTA_RULE_CHAIN, rule.chain);
            if let Some(handle) = rule.before {
                w.attribute(NFTA_RULE_POSITION, &handle.to_be_bytes());
            }
            let expressions = w.nest(NFTA_RULE_EXPRESSIONS);
            expression(w, "meta", |w| {
                w.number(NFTA_META_KEY, if rule.out { NFT_META_OIFNAME } else { NFT_META_IIFNAME });
                w.number(NFTA_META_DREG, NFT_REG_1);
            });
            expression(w, "cmp", |w| {
                w.number(NFTA_CMP_SREG, NFT_REG_1);
                w.number(NFTA_CMP_OP, NFT_CMP_EQ);
                let data = w.nest(NFTA_CMP_DATA);
                w.attribute(NFTA_DATA_VALUE, rule.prefix.as_bytes());
                w.close(data);
            });
            expression(w, "counter", |w| {
                w.attribute(NFTA_COUNTER_BYTES, &0u64.to_be_bytes());
                w.attribute(NFTA_COUNTER_PACKETS, &0u64.to_be_bytes());
            });
            expression(w, "immediate", |w| {
                w.number(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
                let data = w.nest(NFTA_IMMEDIATE_DATA);
                let verdict = w.nest(NFTA_DATA_VERDICT);
                w.number(NFTA_VERDICT_CODE, NF_ACCEPT);
                w.close(verdict);
                w.close(data);
            });
            w.close(expressions);
            let mut comment = Vec::new();
            write_comment(&mut comment, UDATA_RULE_COMMENT, rule.comment);
            w.attribute(NFTA_RULE_USERDATA, &comment);
            w.end();
            seq.wrapping_add(1)
        })
    }

    /// Deletes in order, all or nothing.
    ///
    /// # Errors
    /// [`Error::Request`] with the kernel's reason for the first that it refused.
    pub fn delete(&mut self, deletions: &[Deletion]) -> Result<(), Error> {
        if deletions.is_empty() {
            return Ok(());
        }
        self.batch("a deletion", |w, mut seq| {
            for deletion in deletions {
                match deletion {
                    Deletion::Table { family, name } => {
                        w.begin(NFT_MSG_DELTABLE, 0, family.number(), seq);
                        w.string(NFTA_TABLE_NAME, name);
                    }
                    Deletion::Rule { family, table, chain, handle } => {
                        w.begin(NFT_MSG_DELRULE, 0, family.number(), seq);
                        w.string(NFTA_RULE_TABLE, table);
                        w.string(NFTA_RULE_CHAIN, chain);
                        w.attribute(NFTA_RULE_HANDLE, &handle.to_be_bytes());
                    }
                    Deletion::Rules { family, table, chain } => {
                        w.begin(NFT_MSG_DELRULE, 0, family.number(), seq);
                        w.string(NFTA_RULE_TABLE, table);
                        w.string(NFTA_RULE_CHAIN, chain);
                    }
                    Deletion::Chain { family, table, name } => {
                        w.begin(NFT_MSG_DELCHAIN, 0, family.number(), seq);
                        w.string(NFTA_CHAIN_TABLE, table);
                        w.string(NFTA_CHAIN_NAME, name);
                    }
                }
                w.end();
                seq = seq.wrapping_add(1);
            }
            seq
        })
    }

    /// Sends a batch. `body` writes its messages, numbered from the number it is given, and returns the next one.
    fn batch(&mut self, what: &'static str, body: impl FnOnce(&mut Writer, u32) -> u32) -> Result<(), Error> {
        let begin = self.seq;
        let mut w = Writer::default();
        w.begin_batch(NFNL_MSG_BATCH_BEGIN, begin);
        w.end();
        let end = body(&mut w, begin.wrapping_add(1));
        w.acknowledge();
        w.begin_batch(NFNL_MSG_BATCH_END, end);
        w.end();
        self.seq = end.wrapping_add(1);
        self.transport.send(w.bytes())?;
        let last = end.wrapping_sub(1);
        let mut failed = None;
        loop {
            for message in Messages(self.transport.receive()?) {
                let (NLMSG_ERROR, Some(errno)) = (message.kind, message.errno()) else { continue };
                let place = message.seq.wrapping_sub(begin);
                if place > last.wrapping_sub(begin) {
                    continue;
                }
                if errno != 0 && failed.is_none() {
                    failed = Some(errno);
                }
                // The batch's own number means that it was refused as a whole.
                if message.seq == last || place == 0 {
                    return failed.map_or(Ok(()), |errno| Err(Error::Request { what, reason: reason(errno) }));
                }
            }
        }
    }

    fn dump(
        &mut self,
        what: &'static str,
        kind: u16,
        family: u8,
        body: impl Fn(&mut Writer),
    ) -> Result<Vec<u8>, Error> {
        for _ in 0..TRIES {
            let seq = self.seq;
            self.seq = self.seq.wrapping_add(1);
            let mut w = Writer::default();
            w.begin(kind, NLM_F_DUMP, family, seq);
            body(&mut w);
            w.end();
            self.transport.send(w.bytes())?;
            if let Some(reply) = self.gather(what, seq)? {
                return Ok(reply);
            }
        }
        Err(Error::ReadBack(format!("{what} of others changed {TRIES} times in a row while they were read")))
    }

    /// The messages of a dump; none if somebody else's change interrupted it.
    fn gather(&mut self, what: &'static str, seq: u32) -> Result<Option<Vec<u8>>, Error> {
        let (mut reply, mut interrupted) = (Vec::new(), false);
        loop {
            for message in Messages(self.transport.receive()?).filter(|message| message.seq == seq) {
                interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                match message.kind {
                    NLMSG_ERROR | NLMSG_DONE => match message.errno() {
                        None | Some(0) => return Ok((!interrupted).then_some(reply)),
                        Some(errno) => return Err(Error::Request { what, reason: reason(errno) }),
                    },
                    _ => reply.extend_from_slice(message.whole()),
                }
            }
        }
    }
}

fn expression(w: &mut Writer, name: &str, body: impl FnOnce(&mut Writer)) {
    let element = w.nest(NFTA_LIST_ELEM);
    w.string(NFTA_EXPR_NAME, name);
    let data = w.nest(NFTA_EXPR_DATA);
    body(w);
    w.close(data);
    w.close(element);
}

fn chain(message: &Message<'_>) -> Option<(Family, String, Chain)> {
    let attributes = message.attributes();
    let family = Family::from_number(message.family()?);
    let table = attributes.string(NFTA_CHAIN_TABLE)?.to_owned();
    let name = attributes.string(NFTA_CHAIN_NAME)?.to_owned();
    let hook = attributes.nested(NFTA_CHAIN_HOOK).and_then(|hook| {
        Some(Hook {
            kind: attributes.string(NFTA_CHAIN_TYPE).unwrap_or_default().to_owned(),
            number: hook.number(NFTA_HOOK_HOOKNUM)?,
            priority: hook.number(NFTA_HOOK_PRIORITY)?.cast_signed(),
            drops: attributes.number(NFTA_CHAIN_POLICY) == Some(NF_DROP),
        })
    });
    Some((family, table, Chain { name, hook, rules: Vec::new() }))
}

fn rule(message: &Message<'_>) -> Option<(String, String, Rule)> {
    let attributes = message.attributes();
    let table = attributes.string(NFTA_RULE_TABLE)?.to_owned();
    let chain = attributes.string(NFTA_RULE_CHAIN)?.to_owned();
    let handle = attributes.get(NFTA_RULE_HANDLE)?.payload.first_chunk::<8>()?;
    let mut rule = Rule { handle: u64::from_be_bytes(*handle), ..Rule::default() };
    if let Some(user) = attributes.get(NFTA_RULE_USERDATA) {
        rule.comment = udata_comment(user.payload, UDATA_RULE_COMMENT);
    }
    if let Some(expressions) = attributes.nested(NFTA_RULE_EXPRESSIONS) {
        read_expressions(expressions, &mut rule);
    }
    Some((table, chain, rule))
}

/// What the registers hold, as far as it matters: the name of the interface in, or out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Loaded {
    In,
    Out,
}

fn read_expressions(expressions: Attributes<'_>, rule: &mut Rule) {
    let mut loaded: Option<(u32, Loaded)> = None;
    for element in expressions {
        let element = element.nested();
        let Some(name) = element.string(NFTA_EXPR_NAME) else { continue };
        let data = element.nested(NFTA_EXPR_DATA).unwrap_or(Attributes(&[]));
        match name {
            "counter" | "log" | "notrack" | "objref" => {}
            "meta" => loaded = read_meta(data),
            // Loads a register; what is done with it is seen by what compares it.
            "payload" | "ct" | "exthdr" | "fib" | "rt" | "socket" | "osf" | "numgen" | "hash" | "tunnel" | "xfrm" => {
                loaded = None;
            }
            "cmp" => rule.conditions.push(read_cmp(data, loaded)),
            "immediate" => {
                if data.number(NFTA_IMMEDIATE_DREG) == Some(NFT_REG_VERDICT) {
                    rule.verdict = Some(read_verdict(data));
                }
            }
            "reject" => rule.verdict = Some(Verdict::Reject),
            "match" => match data.string(NFTA_MATCH_NAME) {
                Some("comment") => {
                    if let Some(info) = data.get(NFTA_MATCH_INFO) {
                        rule.add_comment(&text(info.payload));
                    }
                }
                _ => rule.conditions.push(Condition::Other),
            },
            "target" => match data.string(NFTA_TARGET_NAME) {
                Some("REJECT") => rule.verdict = Some(Verdict::Reject),
                Some("LOG" | "NFLOG" | "MARK" | "CONNMARK" | "TCPMSS" | "CT" | "TRACE" | "CHECKSUM" | "AUDIT") => {}
                _ => rule.verdict = Some(Verdict::Unknown),
            },
            // A look-up that leads somewhere by itself; one that does not is a condition.
            "lookup" if data.number(NFTA_LOOKUP_DREG) == Some(NFT_REG_VERDICT) => {
                rule.verdict = Some(Verdict::Unknown);
            }
            _ => rule.conditions.push(Condition::Other),
        }
    }
}

fn read_meta(data: Attributes<'_>) -> Option<(u32, Loaded)> {
    let register = data.number(NFTA_META_DREG)?;
    match data.number(NFTA_META_KEY)? {
        NFT_META_IIFNAME => Some((register, Loaded::In)),
        NFT_META_OIFNAME => Some((register, Loaded::Out)),
        _ => None,
    }
}

fn read_cmp(data: Attributes<'_>, loaded: Option<(u32, Loaded)>) -> Condition {
    let about = || {
        let (register, what) = loaded?;
        let compared = data.number(NFTA_CMP_SREG)? == register;
        let negated = match data.number(NFTA_CMP_OP)? {
            NFT_CMP_EQ => false,
            NFT_CMP_NEQ => true,
            _ => return None,
        };
        let value = data.nested(NFTA_CMP_DATA)?.get(NFTA_DATA_VALUE)?.payload;
        // A name that is compared as far as its final zero is meant whole; a shorter comparison means all that begin so.
        let prefix = value.len() < NFT_META_IIFNAME_LEN && value.last() != Some(&0);
        let interface = Interface { name: text(value), prefix, negated };
        compared.then_some(match what {
            Loaded::In => Condition::In(interface),
            Loaded::Out => Condition::Out(interface),
        })
    };
    about().unwrap_or(Condition::Other)
}

fn read_verdict(data: Attributes<'_>) -> Verdict {
    let read = || {
        let verdict = data.nested(NFTA_IMMEDIATE_DATA)?.nested(NFTA_DATA_VERDICT)?;
        let chain = || verdict.string(NFTA_VERDICT_CHAIN).map(str::to_owned);
        Some(match verdict.number(NFTA_VERDICT_CODE)? {
            NF_ACCEPT => Verdict::Accept,
            NF_DROP => Verdict::Drop,
            NFT_RETURN => Verdict::Return,
            NFT_JUMP => Verdict::Jump(chain()?),
            NFT_GOTO => Verdict::Goto(chain()?),
            _ => return None,
        })
    };
    read().unwrap_or(Verdict::Unknown)
}

/// A string that ends at its first zero.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}
