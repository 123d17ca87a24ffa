//! From the kernel's expressions back to rules.
//!
//! Expressions are run symbolically: a load puts the name of a field into a register, and what consumes the register says what the
//! condition was. Whatever does not fold into the vocabulary makes the whole rule foreign, and so unequal to any wanted rule.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use tortie_nft::keys::IFNAMSIZ;
use tortie_nft::{
    CtStates, Direction, Family, Field, ICMP, ICMPV6, LimitUnit, Match, Op, RejectWith, Rule, Side, Statement, Verdict,
};

use crate::attributes::Attributes;
use crate::consts::*;

/// A rule from its list of expressions.
pub(crate) fn rule(expressions: Attributes<'_>, comment: Option<String>) -> Rule {
    let mut lift = Lift::default();
    for element in expressions {
        let expression = element.nested();
        let name = expression.string(NFTA_EXPR_NAME).unwrap_or_default();
        let data = expression.nested(NFTA_EXPR_DATA).unwrap_or(Attributes(&[]));
        if lift.expression(name, data).is_none() {
            return foreign(format!("expression {name}"), comment);
        }
    }
    if !lift.registers.is_empty() || lift.at_least.is_some() {
        return foreign("a field that nothing compares".into(), comment);
    }
    Rule { matches: lift.matches, statements: lift.statements, comment }
}

fn foreign(what: String, comment: Option<String>) -> Rule {
    Rule { matches: Vec::new(), statements: vec![Statement::Foreign(what)], comment }
}

/// A verdict from its attribute.
pub(crate) fn verdict(data: Attributes<'_>) -> Option<Verdict> {
    let verdict = data.nested(NFTA_DATA_VERDICT)?;
    let chain = || verdict.string(NFTA_VERDICT_CHAIN).map(str::to_owned);
    Some(match verdict.number(NFTA_VERDICT_CODE)? {
        NF_ACCEPT => Verdict::Accept,
        NF_DROP => Verdict::Drop,
        NFT_JUMP => Verdict::Jump(chain()?),
        NFT_GOTO => Verdict::Goto(chain()?),
        NFT_RETURN => Verdict::Return,
        _ => return None,
    })
}

/// What a register holds.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    Meta(u32),
    Payload { base: u32, offset: u32, length: u32 },
    Ct(u32),
    Constant(Vec<u8>),
    Masked { source: Box<Source>, mask: Vec<u8>, xor: Vec<u8> },
}

#[derive(Default)]
struct Lift {
    /// By offset in bytes from register 1.
    registers: BTreeMap<usize, Source>,
    /// The first half of a range: port and least value.
    at_least: Option<(Source, u16)>,
    family: Option<Family>,
    protocol: Option<u8>,
    matches: Vec<Match>,
    statements: Vec<Statement>,
}

impl Lift {
    /// Takes in one expression; `None` if it is outside the vocabulary.
    fn expression(&mut self, name: &str, data: Attributes<'_>) -> Option<()> {
        match name {
            "meta" => self.meta(data),
            "payload" => {
                let source = Source::Payload {
                    base: data.number(NFTA_PAYLOAD_BASE)?,
                    offset: data.number(NFTA_PAYLOAD_OFFSET)?,
                    length: data.number(NFTA_PAYLOAD_LEN)?,
                };
                self.load(data.number(NFTA_PAYLOAD_DREG)?, source)
            }
            "ct" => self.ct(data),
            "bitwise" => self.bitwise(data),
            "byteorder" => {
                // nft converts a protocol beside ports, a single byte in steps of two: that does nothing.
                (data.number(NFTA_BYTEORDER_LEN)? < data.number(NFTA_BYTEORDER_SIZE)?).then_some(())
            }
            "cmp" => self.compare(data),
            "range" => self.range(data),
            "lookup" => self.lookup(data),
            "immediate" => {
                let register = data.number(NFTA_IMMEDIATE_DREG)?;
                if register != NFT_REG_VERDICT {
                    let constant = value(data, NFTA_IMMEDIATE_DATA)?.to_vec();
                    return self.load(register, Source::Constant(constant));
                }
                let verdict = verdict(data.nested(NFTA_IMMEDIATE_DATA)?)?;
                self.statement(Statement::Verdict(verdict))
            }
            "counter" => self.statement(Statement::Counter),
            "objref" if data.get(NFTA_OBJREF_SET_NAME).is_some() => {
                let map = data.string(NFTA_OBJREF_SET_NAME)?.to_owned();
                let key = self.key(data.number(NFTA_OBJREF_SET_SREG)?)?;
                self.statement(Statement::CountIn { key, map })
            }
            "objref" => {
                (data.number(NFTA_OBJREF_IMM_TYPE)? == NFT_OBJECT_COUNTER).then_some(())?;
                self.statement(Statement::NamedCounter(data.string(NFTA_OBJREF_IMM_NAME)?.to_owned()))
            }
            "limit" => self.limit(data),
            "connlimit" => {
                (data.number(NFTA_CONNLIMIT_FLAGS)? == NFT_CONNLIMIT_F_INV).then_some(())?;
                self.condition(Match::CtCountOver(data.number(NFTA_CONNLIMIT_COUNT)?))
            }
            "masq" => self.masquerade(data),
            "notrack" => self.statement(Statement::NoTrack),
            "log" => {
                // A log group or flags would be others.
                let known = |kind| matches!(kind, NFTA_LOG_PREFIX | NFTA_LOG_LEVEL | NFTA_LOG_FLAGS);
                let ours = data.into_iter().all(|attribute| known(attribute.kind))
                    && data.number(NFTA_LOG_LEVEL)? == LOG_INFO
                    && data.number(NFTA_LOG_FLAGS).unwrap_or(0) == 0;
                ours.then_some(())?;
                self.statement(Statement::Log { prefix: data.string(NFTA_LOG_PREFIX)?.to_owned() })
            }
            "nat" => self.source_nat(data),
            "reject" => {
                let code = data.get(NFTA_REJECT_ICMP_CODE).map(|code| code.payload);
                let with = match (data.number(NFTA_REJECT_TYPE)?, code) {
                    (NFT_REJECT_TCP_RST, _) => RejectWith::TcpReset,
                    (NFT_REJECT_ICMPX_UNREACH, Some([NFT_REJECT_ICMPX_ADMIN_PROHIBITED])) => {
                        RejectWith::AdminProhibited
                    }
                    _ => return None,
                };
                self.statement(Statement::Reject(with))
            }
            _ => None,
        }
    }

    fn load(&mut self, register: u32, source: Source) -> Option<()> {
        self.registers.insert(offset(register)?, source).is_none().then_some(())
    }

    /// The content of a register that is the only one in use, which is thereby consumed.
    fn take(&mut self, register: u32) -> Option<Source> {
        let source = self.registers.remove(&offset(register)?)?;
        self.registers.is_empty().then_some(source)
    }

    fn meta(&mut self, data: Attributes<'_>) -> Option<()> {
        let key = data.number(NFTA_META_KEY)?;
        let Some(register) = data.number(NFTA_META_SREG) else {
            return self.load(data.number(NFTA_META_DREG)?, Source::Meta(key));
        };
        (key == NFT_META_NFTRACE && self.constant(register)? == [1]).then_some(())?;
        self.statement(Statement::Trace)
    }

    fn ct(&mut self, data: Attributes<'_>) -> Option<()> {
        let key = data.number(NFTA_CT_KEY)?;
        if data.get(NFTA_CT_DIRECTION).is_some() {
            return None;
        }
        let Some(register) = data.number(NFTA_CT_SREG) else {
            return self.load(data.number(NFTA_CT_DREG)?, Source::Ct(key));
        };
        let Source::Masked { source, mask, xor } = self.take(register)? else { return None };
        if key != NFT_CT_MARK || *source != Source::Ct(NFT_CT_MARK) {
            return None;
        }
        let (keep, bits) = (host(&mask)?, host(&xor)?);
        // A bit that is kept and flipped: not ours.
        (keep & bits == 0).then_some(())?;
        self.statement(Statement::SetCtMark { keep, bits })
    }

    fn limit(&mut self, data: Attributes<'_>) -> Option<()> {
        let wide = |kind| Some(u64::from_be_bytes(*data.get(kind)?.payload.first_chunk::<8>()?));
        (data.number(NFTA_LIMIT_TYPE).unwrap_or(NFT_LIMIT_PKTS) == NFT_LIMIT_PKTS).then_some(())?;
        let seconds = wide(NFTA_LIMIT_UNIT)?;
        let packets = u32::try_from(wide(NFTA_LIMIT_RATE)?).ok()?;
        let burst = data.number(NFTA_LIMIT_BURST)?;
        match data.number(NFTA_LIMIT_FLAGS).unwrap_or_default() {
            NFT_LIMIT_F_INV if seconds == 1 => self.condition(Match::LimitOver { packets_per_second: packets, burst }),
            0 => {
                let per = LimitUnit::ALL.into_iter().find(|unit| unit.seconds() == seconds)?;
                self.condition(Match::LimitWithin { packets, per, burst })
            }
            _ => None,
        }
    }

    fn masquerade(&mut self, data: Attributes<'_>) -> Option<()> {
        let ports = self.ports(data, NFTA_MASQ_REG_PROTO_MIN, NFTA_MASQ_REG_PROTO_MAX)?;
        let flags = data.number(NFTA_MASQ_FLAGS).unwrap_or(0) & !NF_NAT_RANGE_PROTO_SPECIFIED;
        (flags & !NF_NAT_RANGE_PROTO_RANDOM_FULLY == 0).then_some(())?;
        self.statement(Statement::Masquerade { ports, fully_random: flags != 0 })
    }

    fn source_nat(&mut self, data: Attributes<'_>) -> Option<()> {
        let flags = data.number(NFTA_NAT_FLAGS).unwrap_or(0);
        let register = data.number(NFTA_NAT_REG_ADDR_MIN)?;
        let ours = data.number(NFTA_NAT_TYPE)? == NFT_NAT_SNAT
            && flags & !(NF_NAT_RANGE_MAP_IPS | NF_NAT_RANGE_PROTO_SPECIFIED) == 0
            && data.number(NFTA_NAT_REG_ADDR_MAX).is_none_or(|last| last == register);
        ours.then_some(())?;
        let bytes = self.constant(register)?;
        let address: IpAddr = match u8::try_from(data.number(NFTA_NAT_FAMILY)?).ok()? {
            NFPROTO_IPV4 => Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into(),
            NFPROTO_IPV6 => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into(),
            _ => return None,
        };
        let ports = self.ports(data, NFTA_NAT_REG_PROTO_MIN, NFTA_NAT_REG_PROTO_MAX)?;
        self.statement(Statement::Snat { address, ports })
    }

    /// The range of ports in two registers that an expression names, if it names any.
    #[expect(clippy::option_option, reason = "outside the vocabulary is not the same as without ports")]
    fn ports(&mut self, data: Attributes<'_>, first: u16, last: u16) -> Option<Option<(u16, u16)>> {
        let (Some(first), Some(last)) = (data.number(first), data.number(last)) else {
            return data.get(first).is_none().then_some(None);
        };
        let first = port(&self.constant(first)?)?;
        let last = port(&self.constant(last)?)?;
        Some(Some((first, last)))
    }

    /// The constant in a register, which is thereby consumed.
    fn constant(&mut self, register: u32) -> Option<Vec<u8>> {
        match self.registers.remove(&offset(register)?)? {
            Source::Constant(bytes) => Some(bytes),
            _ => None,
        }
    }

    fn bitwise(&mut self, data: Attributes<'_>) -> Option<()> {
        let register = data.number(NFTA_BITWISE_SREG)?;
        if data.number(NFTA_BITWISE_DREG)? != register
            || data.number(NFTA_BITWISE_OP).unwrap_or(NFT_BITWISE_MASK_XOR) != NFT_BITWISE_MASK_XOR
        {
            return None;
        }
        let mask = value(data, NFTA_BITWISE_MASK)?.to_vec();
        let xor = value(data, NFTA_BITWISE_XOR)?.to_vec();
        let offset = offset(register)?;
        let source = Box::new(self.registers.remove(&offset)?);
        self.registers.insert(offset, Source::Masked { source, mask, xor });
        Some(())
    }

    fn condition(&mut self, condition: Match) -> Option<()> {
        // A rule of ours has its conditions first.
        self.statements.is_empty().then_some(())?;
        match condition {
            Match::NfProto(family) => self.family = Some(family),
            Match::L4Proto(Op::Eq, protocol) => self.protocol = Some(protocol),
            _ => {}
        }
        self.matches.push(condition);
        Some(())
    }

    fn statement(&mut self, statement: Statement) -> Option<()> {
        self.registers.is_empty().then_some(())?;
        self.statements.push(statement);
        Some(())
    }

    fn compare(&mut self, data: Attributes<'_>) -> Option<()> {
        let op = data.number(NFTA_CMP_OP)?;
        let bytes = value(data, NFTA_CMP_DATA)?;
        let source = self.take(data.number(NFTA_CMP_SREG)?)?;
        match op {
            NFT_CMP_EQ => self.equality(&source, Op::Eq, bytes),
            NFT_CMP_NEQ => self.equality(&source, Op::Ne, bytes),
            NFT_CMP_GTE if self.at_least.is_none() => {
                let register = offset(data.number(NFTA_CMP_SREG)?)?;
                port_side(&source)?;
                self.at_least = Some((source.clone(), port(bytes)?));
                // The second half compares the same register.
                self.registers.insert(register, source);
                Some(())
            }
            NFT_CMP_LTE => {
                let (first_source, first) = self.at_least.take()?;
                (first_source == source).then_some(())?;
                let side = port_side(&source)?;
                self.condition(Match::Port { side, op: Op::Eq, first, last: port(bytes)? })
            }
            _ => None,
        }
    }

    fn equality(&mut self, source: &Source, op: Op, bytes: &[u8]) -> Option<()> {
        let condition = match source {
            Source::Meta(NFT_META_IIFNAME) => name(Side::Source, op, bytes)?,
            Source::Meta(NFT_META_OIFNAME) => name(Side::Destination, op, bytes)?,
            Source::Meta(NFT_META_NFPROTO) => {
                (op == Op::Eq).then_some(())?;
                let [number] = bytes else { return None };
                Match::NfProto(Family::of_number(*number)?)
            }
            Source::Meta(NFT_META_L4PROTO) => {
                let [number] = bytes else { return None };
                Match::L4Proto(op, *number)
            }
            Source::Payload { base: NFT_PAYLOAD_NETWORK_HEADER, length, .. } => {
                let (side, v4) = self.address_side(source)?;
                (bytes.len() == *length as usize).then_some(())?;
                let net = net(v4, bytes, u8::try_from(bytes.len()).ok()?.checked_mul(8)?)?;
                Match::Addr { side, op, net }
            }
            Source::Payload { base: NFT_PAYLOAD_TRANSPORT_HEADER, offset: 0, length }
                if *length == 1 || matches!(self.protocol, Some(ICMP | ICMPV6)) =>
            {
                let family = self.icmp_family()?;
                match (length, bytes) {
                    (1, [kind]) => Match::Icmp { family, op, kind: *kind, code: None },
                    (2, [kind, code]) if op == Op::Eq => Match::Icmp { family, op, kind: *kind, code: Some(*code) },
                    _ => return None,
                }
            }
            // What we compare one after the other, nft compares together.
            Source::Payload { base: NFT_PAYLOAD_TRANSPORT_HEADER, offset: 0, length: 4 } if op == Op::Eq => {
                let (source, destination) = (port(bytes.get(..2)?)?, port(bytes.get(2..)?)?);
                self.condition(Match::Port { side: Side::Source, op, first: source, last: source })?;
                Match::Port { side: Side::Destination, op, first: destination, last: destination }
            }
            Source::Payload { base: NFT_PAYLOAD_TRANSPORT_HEADER, offset: 1, length: 1 } => {
                let [code] = bytes else { return None };
                Match::IcmpCode { family: self.icmp_family()?, op, code: *code }
            }
            Source::Payload { .. } => {
                let port = port(bytes)?;
                Match::Port { side: port_side(source)?, op, first: port, last: port }
            }
            Source::Ct(NFT_CT_DIRECTION) => {
                (op == Op::Eq).then_some(())?;
                Match::CtDirection(match bytes {
                    [0] => Direction::Original,
                    [1] => Direction::Reply,
                    _ => return None,
                })
            }
            Source::Masked { source, mask, xor } if xor.iter().all(|byte| *byte == 0) => {
                self.masked_equality(source, mask, op, bytes)?
            }
            _ => return None,
        };
        self.condition(condition)
    }

    /// The family of the ICMP that was matched before.
    fn icmp_family(&self) -> Option<Family> {
        match self.protocol? {
            ICMP => Some(Family::V4),
            ICMPV6 => Some(Family::V6),
            _ => None,
        }
    }

    fn masked_equality(&self, source: &Source, mask: &[u8], op: Op, bytes: &[u8]) -> Option<Match> {
        if *source == Source::Ct(NFT_CT_STATE) {
            (op == Op::Ne && bytes.iter().all(|byte| *byte == 0)).then_some(())?;
            return Some(Match::CtState(CtStates(host(mask)?)));
        }
        if *source == Source::Ct(NFT_CT_STATUS) {
            (host(mask)? == IPS_DST_NAT && bytes.iter().all(|byte| *byte == 0)).then_some(())?;
            return Some(Match::CtStatusDnat(op == Op::Ne));
        }
        let (side, v4) = self.address_side(source)?;
        let full = if v4 { 4 } else { 16 };
        (mask.len() == full && bytes.len() == full).then_some(())?;
        let ones: u32 = mask.iter().map(|byte| byte.count_ones()).sum();
        let contiguous =
            mask.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).is_sorted_by(|a, b| a >= b);
        contiguous.then_some(())?;
        Some(Match::Addr { side, op, net: net(v4, bytes, u8::try_from(ones).ok()?)? })
    }

    /// Which address a load of the network header reads, given the family that was matched before.
    fn address_side(&self, source: &Source) -> Option<(Side, bool)> {
        let Source::Payload { base: NFT_PAYLOAD_NETWORK_HEADER, offset, length } = source else { return None };
        match (self.family?, offset) {
            (Family::V4, 12) if *length <= 4 => Some((Side::Source, true)),
            (Family::V4, 16) if *length <= 4 => Some((Side::Destination, true)),
            (Family::V6, 8) if *length <= 16 => Some((Side::Source, false)),
            (Family::V6, 24) if *length <= 16 => Some((Side::Destination, false)),
            _ => None,
        }
    }

    fn range(&mut self, data: Attributes<'_>) -> Option<()> {
        let source = self.take(data.number(NFTA_RANGE_SREG)?)?;
        let op = if data.number(NFTA_RANGE_OP)? == NFT_RANGE_NEQ { Op::Ne } else { Op::Eq };
        let (first, last) = (value(data, NFTA_RANGE_FROM_DATA)?, value(data, NFTA_RANGE_TO_DATA)?);
        if let (&[code], &[other]) = (first, last) {
            let is_code = source == Source::Payload { base: NFT_PAYLOAD_TRANSPORT_HEADER, offset: 1, length: 1 };
            (is_code && code == other).then_some(())?;
            return self.condition(Match::IcmpCode { family: self.icmp_family()?, op, code });
        }
        let (first, last) = (port(first)?, port(last)?);
        self.condition(Match::Port { side: port_side(&source)?, op, first, last })
    }

    fn lookup(&mut self, data: Attributes<'_>) -> Option<()> {
        let set = data.string(NFTA_LOOKUP_SET)?.to_owned();
        let flags = data.number(NFTA_LOOKUP_FLAGS).unwrap_or(0);
        let key = self.key(data.number(NFTA_LOOKUP_SREG)?)?;
        match data.number(NFTA_LOOKUP_DREG) {
            None => {
                let op = match flags {
                    0 => Op::Eq,
                    NFT_LOOKUP_F_INV => Op::Ne,
                    _ => return None,
                };
                self.condition(Match::InSet { key, op, set })
            }
            Some(NFT_REG_VERDICT) if flags == 0 => self.statement(Statement::Vmap { key, map: set }),
            Some(_) => None,
        }
    }

    /// The key of a look-up: everything that was loaded, from register 1 on without a gap. It is thereby consumed.
    fn key(&mut self, register: u32) -> Option<Vec<Field>> {
        let mut next = offset(register)?;
        (next == 0).then_some(())?;
        let mut key = Vec::new();
        for (offset, source) in std::mem::take(&mut self.registers) {
            let field = self.field(&source)?;
            (offset == next).then_some(())?;
            next += field.key_type().size().next_multiple_of(4);
            key.push(field);
        }
        (!key.is_empty()).then_some(key)
    }

    fn field(&self, source: &Source) -> Option<Field> {
        Some(match source {
            Source::Meta(NFT_META_IIFNAME) => Field::IifName,
            Source::Meta(NFT_META_OIFNAME) => Field::OifName,
            Source::Meta(NFT_META_NFPROTO) => Field::NfProto,
            Source::Meta(NFT_META_L4PROTO) => Field::L4Proto,
            Source::Ct(NFT_CT_MARK) => Field::CtMarkMasked(u32::MAX),
            Source::Masked { source, mask, xor } if **source == Source::Ct(NFT_CT_MARK) && host(xor)? == 0 => {
                Field::CtMarkMasked(host(mask)?)
            }
            Source::Payload { base: NFT_PAYLOAD_NETWORK_HEADER, length, .. } => {
                match (self.address_side(source)?, length) {
                    ((Side::Source, true), 4) => Field::Ip4Saddr,
                    ((Side::Destination, true), 4) => Field::Ip4Daddr,
                    ((Side::Source, false), 16) => Field::Ip6Saddr,
                    ((Side::Destination, false), 16) => Field::Ip6Daddr,
                    _ => return None,
                }
            }
            source => match port_side(source)? {
                Side::Source => Field::ThSport,
                Side::Destination => Field::ThDport,
            },
        })
    }
}

/// Where a register lies, in bytes from register 1.
fn offset(register: u32) -> Option<usize> {
    match register {
        NFT_REG_1..=NFT_REG_4 => Some((register - NFT_REG_1) as usize * 16),
        NFT_REG32_00..=NFT_REG32_15 => Some((register - NFT_REG32_00) as usize * 4),
        _ => None,
    }
}

fn value(data: Attributes<'_>, kind: u16) -> Option<&[u8]> {
    Some(data.nested(kind)?.get(NFTA_DATA_VALUE)?.payload)
}

fn host(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

fn port(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.try_into().ok()?))
}

fn port_side(source: &Source) -> Option<Side> {
    match source {
        Source::Payload { base: NFT_PAYLOAD_TRANSPORT_HEADER, offset: 0, length: 2 } => Some(Side::Source),
        Source::Payload { base: NFT_PAYLOAD_TRANSPORT_HEADER, offset: 2, length: 2 } => Some(Side::Destination),
        _ => None,
    }
}

/// A comparison with all 16 bytes is one with the whole name, with fewer one with a prefix.
fn name(side: Side, op: Op, bytes: &[u8]) -> Option<Match> {
    let prefix = bytes.len() < IFNAMSIZ;
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let padded = bytes[end..].iter().all(|byte| *byte == 0);
    if bytes.len() > IFNAMSIZ || end == 0 || !padded || prefix && end < bytes.len() {
        return None;
    }
    let name = std::str::from_utf8(&bytes[..end]).ok()?.to_owned();
    Some(Match::IfName { side, op, name, prefix })
}

/// A prefix from its leading bytes.
fn net(v4: bool, bytes: &[u8], length: u8) -> Option<IpNet> {
    let addr: IpAddr =
        if v4 { Ipv4Addr::from(padded(bytes)?).into() } else { Ipv6Addr::from(padded::<16>(bytes)?).into() };
    let net = IpNet::new(addr, length).ok()?;
    (net.trunc() == net).then_some(net)
}

fn padded<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    let mut array = [0; N];
    array.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(array)
}
