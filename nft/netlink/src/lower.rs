//! From rules to the kernel's expressions, in the very form in which nft writes them, so that nft reads them back.
//!
//! Each condition loads a field into register 1 and compares it there; a look-up's key is loaded into consecutive registers.

use std::net::IpAddr;

use ipnet::IpNet;
use tortie_nft::{Direction, Field, LimitUnit, Match, Op, RejectWith, Rule, Side, Statement, Verdict, keys};

use crate::consts::*;
use crate::wire::Writer;

/// Writes a rule's expressions, as the content of an open list.
pub(crate) fn rule(w: &mut Writer, rule: &Rule) {
    for condition in &rule.matches {
        lower_match(w, condition, rule.is_range(condition));
    }
    for statement in &rule.statements {
        lower_statement(w, statement);
    }
}

/// The register that begins `offset` bytes into the key: 16-byte registers by their numbers, the 4-byte ones between by theirs.
pub(crate) fn register(offset: usize) -> u32 {
    let offset = offset as u32;
    if offset.is_multiple_of(16) { NFT_REG_1 + offset / 16 } else { NFT_REG32_00 + offset / 4 }
}

fn lower_match(w: &mut Writer, condition: &Match, range: bool) {
    match condition {
        Match::IfName { side, op, name, prefix } => {
            meta(w, by_side(*side, NFT_META_IIFNAME, NFT_META_OIFNAME), NFT_REG_1);
            let padded = keys::ifname(name).unwrap_or_default();
            let length = if *prefix { name.len().min(padded.len()) } else { padded.len() };
            compare(w, equality(*op), &padded[..length]);
        }
        Match::NfProto(family) => {
            meta(w, NFT_META_NFPROTO, NFT_REG_1);
            compare(w, NFT_CMP_EQ, &[family.number()]);
        }
        Match::L4Proto(op, number) => {
            meta(w, NFT_META_L4PROTO, NFT_REG_1);
            compare(w, equality(*op), &[*number]);
        }
        Match::Addr { side, op, net } => address(w, *side, *op, net),
        Match::Port { side, op, first, last } => {
            payload(w, NFT_PAYLOAD_TRANSPORT_HEADER, by_side(*side, 0, 2), 2, NFT_REG_1);
            let (first_bytes, last_bytes) = (first.to_be_bytes(), last.to_be_bytes());
            if first == last && !range {
                compare(w, equality(*op), &first_bytes);
            } else if *op == Op::Eq {
                compare(w, NFT_CMP_GTE, &first_bytes);
                compare(w, NFT_CMP_LTE, &last_bytes);
            } else {
                unequal_to_range(w, &first_bytes, &last_bytes);
            }
        }
        // Type and code lie side by side, and nft compares them as one.
        Match::Icmp { op, kind, code, .. } => {
            let both = [*kind, code.unwrap_or_default()];
            let compared = if code.is_some() { &both[..] } else { &both[..1] };
            payload(w, NFT_PAYLOAD_TRANSPORT_HEADER, 0, compared.len() as u32, NFT_REG_1);
            compare(w, equality(*op), compared);
        }
        Match::IcmpCode { op, code, .. } => {
            payload(w, NFT_PAYLOAD_TRANSPORT_HEADER, 1, 1, NFT_REG_1);
            if range {
                unequal_to_range(w, &[*code], &[*code]);
            } else {
                compare(w, equality(*op), &[*code]);
            }
        }
        Match::CtState(states) => {
            ct(w, NFT_CT_STATE, NFT_REG_1);
            bitwise(w, NFT_REG_1, &states.0.to_ne_bytes(), &[0; 4]);
            compare(w, NFT_CMP_NEQ, &[0; 4]);
        }
        Match::CtDirection(direction) => {
            ct(w, NFT_CT_DIRECTION, NFT_REG_1);
            let number = match direction {
                Direction::Original => 0,
                Direction::Reply => 1,
            };
            compare(w, NFT_CMP_EQ, &[number]);
        }
        Match::CtStatusDnat(dnat) => {
            ct(w, NFT_CT_STATUS, NFT_REG_1);
            bitwise(w, NFT_REG_1, &IPS_DST_NAT.to_ne_bytes(), &[0; 4]);
            compare(w, if *dnat { NFT_CMP_NEQ } else { NFT_CMP_EQ }, &[0; 4]);
        }
        Match::LimitOver { packets_per_second, burst } => {
            limit(w, *packets_per_second, LimitUnit::Second, *burst, NFT_LIMIT_F_INV);
        }
        Match::LimitWithin { packets, per, burst } => limit(w, *packets, *per, *burst, 0),
        Match::CtCountOver(count) => expression(w, "connlimit", |w| {
            w.number(NFTA_CONNLIMIT_COUNT, *count);
            w.number(NFTA_CONNLIMIT_FLAGS, NFT_CONNLIMIT_F_INV);
        }),
        Match::InSet { key, op, set } => {
            load_key(w, key);
            expression(w, "lookup", |w| {
                w.string(NFTA_LOOKUP_SET, set);
                w.number(NFTA_LOOKUP_SREG, NFT_REG_1);
                if *op == Op::Ne {
                    w.number(NFTA_LOOKUP_FLAGS, NFT_LOOKUP_F_INV);
                }
            });
        }
    }
}

fn unequal_to_range(w: &mut Writer, first: &[u8], last: &[u8]) {
    expression(w, "range", |w| {
        w.number(NFTA_RANGE_SREG, NFT_REG_1);
        w.number(NFTA_RANGE_OP, NFT_RANGE_NEQ);
        value(w, NFTA_RANGE_FROM_DATA, first);
        value(w, NFTA_RANGE_TO_DATA, last);
    });
}

/// A prefix of whole bytes is compared by just these; any other needs a mask.
fn address(w: &mut Writer, side: Side, op: Op, net: &IpNet) {
    let (octets, base) = match net.network() {
        IpAddr::V4(addr) => (addr.octets().to_vec(), by_side(side, 12, 16)),
        IpAddr::V6(addr) => (addr.octets().to_vec(), by_side(side, 8, 24)),
    };
    let length = usize::from(net.prefix_len());
    if length > 0 && length.is_multiple_of(8) {
        payload(w, NFT_PAYLOAD_NETWORK_HEADER, base, length as u32 / 8, NFT_REG_1);
        compare(w, equality(op), &octets[..length / 8]);
        return;
    }
    let mask = match net.netmask() {
        IpAddr::V4(mask) => mask.octets().to_vec(),
        IpAddr::V6(mask) => mask.octets().to_vec(),
    };
    payload(w, NFT_PAYLOAD_NETWORK_HEADER, base, octets.len() as u32, NFT_REG_1);
    bitwise(w, NFT_REG_1, &mask, &vec![0; mask.len()]);
    compare(w, equality(op), &octets);
}

fn lower_statement(w: &mut Writer, statement: &Statement) {
    match statement {
        Statement::Counter => expression(w, "counter", |_| {}),
        Statement::NamedCounter(name) => expression(w, "objref", |w| {
            w.number(NFTA_OBJREF_IMM_TYPE, NFT_OBJECT_COUNTER);
            w.string(NFTA_OBJREF_IMM_NAME, name);
        }),
        Statement::CountIn { key, map } => {
            load_key(w, key);
            expression(w, "objref", |w| {
                w.number(NFTA_OBJREF_SET_SREG, NFT_REG_1);
                w.string(NFTA_OBJREF_SET_NAME, map);
            });
        }
        Statement::SetCtMark { keep, bits } => {
            ct(w, NFT_CT_MARK, NFT_REG_1);
            bitwise(w, NFT_REG_1, &keep.to_ne_bytes(), &bits.to_ne_bytes());
            expression(w, "ct", |w| {
                w.number(NFTA_CT_KEY, NFT_CT_MARK);
                w.number(NFTA_CT_SREG, NFT_REG_1);
            });
        }
        Statement::Verdict(verdict) => expression(w, "immediate", |w| {
            w.number(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
            self::verdict(w, NFTA_IMMEDIATE_DATA, verdict);
        }),
        Statement::Vmap { key, map } => {
            load_key(w, key);
            expression(w, "lookup", |w| {
                w.string(NFTA_LOOKUP_SET, map);
                w.number(NFTA_LOOKUP_SREG, NFT_REG_1);
                w.number(NFTA_LOOKUP_DREG, NFT_REG_VERDICT);
            });
        }
        Statement::Masquerade { ports, fully_random } => masquerade(w, *ports, *fully_random),
        Statement::Snat { address, ports } => source_nat(w, address, *ports),
        Statement::Reject(with) => expression(w, "reject", |w| match with {
            RejectWith::TcpReset => w.number(NFTA_REJECT_TYPE, NFT_REJECT_TCP_RST),
            RejectWith::AdminProhibited => {
                w.number(NFTA_REJECT_TYPE, NFT_REJECT_ICMPX_UNREACH);
                w.attribute(NFTA_REJECT_ICMP_CODE, &[NFT_REJECT_ICMPX_ADMIN_PROHIBITED]);
            }
        }),
        Statement::Log { prefix } => expression(w, "log", |w| {
            w.string(NFTA_LOG_PREFIX, prefix);
            w.number(NFTA_LOG_LEVEL, LOG_INFO);
        }),
        Statement::NoTrack => expression(w, "notrack", |_| {}),
        Statement::Trace => {
            immediate(w, NFT_REG_1, &[1]);
            expression(w, "meta", |w| {
                w.number(NFTA_META_KEY, NFT_META_NFTRACE);
                w.number(NFTA_META_SREG, NFT_REG_1);
            });
        }
        // No executor lets it through: `tortie_nft::check` refuses it.
        Statement::Foreign(_) => {}
    }
}

fn masquerade(w: &mut Writer, ports: Option<(u16, u16)>, fully_random: bool) {
    if let Some((first, last)) = ports {
        immediate(w, NFT_REG_1, &first.to_be_bytes());
        immediate(w, NFT_REG_2, &last.to_be_bytes());
    }
    let specified = if ports.is_some() { NF_NAT_RANGE_PROTO_SPECIFIED } else { 0 };
    let random = if fully_random { NF_NAT_RANGE_PROTO_RANDOM_FULLY } else { 0 };
    expression(w, "masq", |w| {
        if specified | random != 0 {
            w.number(NFTA_MASQ_FLAGS, specified | random);
        }
        if ports.is_some() {
            w.number(NFTA_MASQ_REG_PROTO_MIN, NFT_REG_1);
            w.number(NFTA_MASQ_REG_PROTO_MAX, NFT_REG_2);
        }
    });
}

fn source_nat(w: &mut Writer, address: &IpAddr, ports: Option<(u16, u16)>) {
    let family = match address {
        IpAddr::V4(addr) => {
            immediate(w, NFT_REG_1, &addr.octets());
            NFPROTO_IPV4
        }
        IpAddr::V6(addr) => {
            immediate(w, NFT_REG_1, &addr.octets());
            NFPROTO_IPV6
        }
    };
    if let Some((first, last)) = ports {
        immediate(w, NFT_REG_2, &first.to_be_bytes());
        immediate(w, NFT_REG_3, &last.to_be_bytes());
    }
    expression(w, "nat", |w| {
        w.number(NFTA_NAT_TYPE, NFT_NAT_SNAT);
        w.number(NFTA_NAT_FAMILY, u32::from(family));
        w.number(NFTA_NAT_REG_ADDR_MIN, NFT_REG_1);
        w.number(NFTA_NAT_REG_ADDR_MAX, NFT_REG_1);
        let specified = if ports.is_some() { NF_NAT_RANGE_PROTO_SPECIFIED } else { 0 };
        w.number(NFTA_NAT_FLAGS, NF_NAT_RANGE_MAP_IPS | specified);
        if ports.is_some() {
            w.number(NFTA_NAT_REG_PROTO_MIN, NFT_REG_2);
            w.number(NFTA_NAT_REG_PROTO_MAX, NFT_REG_3);
        }
    });
}

/// Puts a constant into a register.
fn immediate(w: &mut Writer, register: u32, bytes: &[u8]) {
    expression(w, "immediate", |w| {
        w.number(NFTA_IMMEDIATE_DREG, register);
        value(w, NFTA_IMMEDIATE_DATA, bytes);
    });
}

fn load_key(w: &mut Writer, key: &[Field]) {
    let mut offset = 0;
    for field in key {
        let to = register(offset);
        match field {
            Field::IifName => meta(w, NFT_META_IIFNAME, to),
            Field::OifName => meta(w, NFT_META_OIFNAME, to),
            Field::Ip4Saddr => payload(w, NFT_PAYLOAD_NETWORK_HEADER, 12, 4, to),
            Field::Ip4Daddr => payload(w, NFT_PAYLOAD_NETWORK_HEADER, 16, 4, to),
            Field::Ip6Saddr => payload(w, NFT_PAYLOAD_NETWORK_HEADER, 8, 16, to),
            Field::Ip6Daddr => payload(w, NFT_PAYLOAD_NETWORK_HEADER, 24, 16, to),
            Field::NfProto => meta(w, NFT_META_NFPROTO, to),
            Field::L4Proto => meta(w, NFT_META_L4PROTO, to),
            Field::ThSport => payload(w, NFT_PAYLOAD_TRANSPORT_HEADER, 0, 2, to),
            Field::ThDport => payload(w, NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, to),
            Field::CtMarkMasked(mask) => {
                ct(w, NFT_CT_MARK, to);
                if *mask != u32::MAX {
                    bitwise(w, to, &mask.to_ne_bytes(), &[0; 4]);
                }
            }
        }
        offset += field.key_type().size().next_multiple_of(4);
    }
}

/// Writes a verdict, as an attribute of the given kind.
pub(crate) fn verdict(w: &mut Writer, kind: u16, verdict: &Verdict) {
    let data = w.nest(kind);
    let nest = w.nest(NFTA_DATA_VERDICT);
    let (code, chain) = match verdict {
        Verdict::Accept => (NF_ACCEPT, None),
        Verdict::Drop => (NF_DROP, None),
        Verdict::Jump(chain) => (NFT_JUMP, Some(chain)),
        Verdict::Goto(chain) => (NFT_GOTO, Some(chain)),
        Verdict::Return => (NFT_RETURN, None),
    };
    w.number(NFTA_VERDICT_CODE, code);
    if let Some(chain) = chain {
        w.string(NFTA_VERDICT_CHAIN, chain);
    }
    w.close(nest);
    w.close(data);
}

fn by_side(side: Side, source: u32, destination: u32) -> u32 {
    match side {
        Side::Source => source,
        Side::Destination => destination,
    }
}

fn equality(op: Op) -> u32 {
    match op {
        Op::Eq => NFT_CMP_EQ,
        Op::Ne => NFT_CMP_NEQ,
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

fn limit(w: &mut Writer, packets: u32, per: LimitUnit, burst: u32, flags: u32) {
    expression(w, "limit", |w| {
        w.attribute(NFTA_LIMIT_RATE, &u64::from(packets).to_be_bytes());
        w.attribute(NFTA_LIMIT_UNIT, &per.seconds().to_be_bytes());
        w.number(NFTA_LIMIT_BURST, burst);
        w.number(NFTA_LIMIT_TYPE, NFT_LIMIT_PKTS);
        w.number(NFTA_LIMIT_FLAGS, flags);
    });
}

fn value(w: &mut Writer, kind: u16, bytes: &[u8]) {
    let data = w.nest(kind);
    w.attribute(NFTA_DATA_VALUE, bytes);
    w.close(data);
}

fn meta(w: &mut Writer, key: u32, to: u32) {
    expression(w, "meta", |w| {
        w.number(NFTA_META_KEY, key);
        w.number(NFTA_META_DREG, to);
    });
}

/// Compares what a flow began with, in its original direction.
pub(crate) fn ct_original(w: &mut Writer, key: u32, bytes: &[u8]) {
    expression(w, "ct", |w| {
        w.number(NFTA_CT_KEY, key);
        w.number(NFTA_CT_DREG, NFT_REG_1);
        w.attribute(NFTA_CT_DIRECTION, &[IP_CT_DIR_ORIGINAL]);
    });
    compare(w, NFT_CMP_EQ, bytes);
}

fn ct(w: &mut Writer, key: u32, to: u32) {
    expression(w, "ct", |w| {
        w.number(NFTA_CT_KEY, key);
        w.number(NFTA_CT_DREG, to);
    });
}

fn payload(w: &mut Writer, base: u32, offset: u32, length: u32, to: u32) {
    expression(w, "payload", |w| {
        w.number(NFTA_PAYLOAD_DREG, to);
        w.number(NFTA_PAYLOAD_BASE, base);
        w.number(NFTA_PAYLOAD_OFFSET, offset);
        w.number(NFTA_PAYLOAD_LEN, length);
    });
}

fn compare(w: &mut Writer, op: u32, bytes: &[u8]) {
    expression(w, "cmp", |w| {
        w.number(NFTA_CMP_SREG, NFT_REG_1);
        w.number(NFTA_CMP_OP, op);
        value(w, NFTA_CMP_DATA, bytes);
    });
}

/// `register = register & mask ^ xor`.
fn bitwise(w: &mut Writer, register: u32, mask: &[u8], xor: &[u8]) {
    expression(w, "bitwise", |w| {
        w.number(NFTA_BITWISE_SREG, register);
        w.number(NFTA_BITWISE_DREG, register);
        w.number(NFTA_BITWISE_LEN, mask.len() as u32);
        value(w, NFTA_BITWISE_MASK, mask);
        value(w, NFTA_BITWISE_XOR, xor);
    });
}
