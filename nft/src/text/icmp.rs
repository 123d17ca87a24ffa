//! Types and codes of ICMP and ICMPv6 by the names that `nft` 1.0.6 has for them; it prints others as numbers.

use super::not;
use crate::model::{Family, Op};

/// A condition on a message's type, and on its code if one is given.
pub(super) fn text(family: Family, op: Op, kind: u8, code: Option<u8>) -> String {
    let protocol = protocol(family);
    let text = format!("{protocol} type {}{}", not(op), named(type_name(family, kind), kind));
    match code {
        Some(code) => format!("{text} {}", code_text(family, Op::Eq, code, false)),
        None => text,
    }
}

/// A condition on a message's code alone, which may have to be a range.
pub(super) fn code_text(family: Family, op: Op, code: u8, range: bool) -> String {
    let code = if range { format!("{code}-{code}") } else { named(code_name(family, code), code) };
    format!("{} code {}{code}", protocol(family), not(op))
}

const fn protocol(family: Family) -> &'static str {
    match family {
        Family::V4 => "icmp",
        Family::V6 => "icmpv6",
    }
}

fn named(name: Option<&str>, number: u8) -> String {
    name.map_or_else(|| number.to_string(), str::to_owned)
}

fn type_name(family: Family, number: u8) -> Option<&'static str> {
    Some(match (family, number) {
        (Family::V4, 0) | (Family::V6, 129) => "echo-reply",
        (Family::V4, 3) | (Family::V6, 1) => "destination-unreachable",
        (Family::V4, 4) => "source-quench",
        (Family::V4, 5) => "redirect",
        (Family::V4, 8) | (Family::V6, 128) => "echo-request",
        (Family::V4, 9) => "router-advertisement",
        (Family::V4, 10) => "router-solicitation",
        (Family::V4, 11) | (Family::V6, 3) => "time-exceeded",
        (Family::V4, 12) | (Family::V6, 4) => "parameter-problem",
        (Family::V4, 13) => "timestamp-request",
        (Family::V4, 14) => "timestamp-reply",
        (Family::V4, 15) => "info-request",
        (Family::V4, 16) => "info-reply",
        (Family::V4, 17) => "address-mask-request",
        (Family::V4, 18) => "address-mask-reply",
        (Family::V6, 2) => "packet-too-big",
        (Family::V6, 130) => "mld-listener-query",
        (Family::V6, 131) => "mld-listener-report",
        (Family::V6, 132) => "mld-listener-done",
        (Family::V6, 133) => "nd-router-solicit",
        (Family::V6, 134) => "nd-router-advert",
        (Family::V6, 135) => "nd-neighbor-solicit",
        (Family::V6, 136) => "nd-neighbor-advert",
        (Family::V6, 137) => "nd-redirect",
        (Family::V6, 138) => "router-renumbering",
        (Family::V6, 141) => "ind-neighbor-solicit",
        (Family::V6, 142) => "ind-neighbor-advert",
        (Family::V6, 143) => "mld2-listener-report",
        _ => return None,
    })
}

fn code_name(family: Family, number: u8) -> Option<&'static str> {
    Some(match (family, number) {
        (Family::V4, 0) => "net-unreachable",
        (Family::V4, 1) => "host-unreachable",
        (Family::V4, 2) => "prot-unreachable",
        (Family::V4, 3) | (Family::V6, 4) => "port-unreachable",
        (Family::V4, 4) => "frag-needed",
        (Family::V4, 9) => "net-prohibited",
        (Family::V4, 10) => "host-prohibited",
        (Family::V4, 13) | (Family::V6, 1) => "admin-prohibited",
        (Family::V6, 0) => "no-route",
        (Family::V6, 3) => "addr-unreachable",
        (Family::V6, 5) => "policy-fail",
        (Family::V6, 6) => "reject-route",
        _ => return None,
    })
}
