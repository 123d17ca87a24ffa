//! Where a program's rules are asked, and of which packets.

use tortie_api::k8s::PolicyType;
use tortie_nft::{Family, Field, Side, Verdict};

use crate::frame::{OK_EGRESS, OK_INGRESS};

/// A place in the table where policies judge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Site {
    /// What the names of its classes begin with: at most three letters.
    pub(crate) prefix: &'static str,
    /// Where packets go that policies allow.
    pub(crate) allowed: Verdict,
    /// Whether answers come here to be judged by what was asked. They do not where packets have no flow, or only the first of a flow
    /// comes.
    pub(crate) replies: bool,
    /// Whether what is denied there is dropped although senders are to be told: not every hook may tell them.
    pub(crate) drops: bool,
    /// Whether the governed end of all that comes there is the endpoint itself, so that its ports by name are known. A host endpoint
    /// forwards, and comes before DNAT: its names stand for ports of the addresses that it expects.
    pub(crate) own: bool,
    /// Whose policies they are, for people.
    pub(crate) whom: &'static str,
}

impl Site {
    /// Where pods' policies judge.
    pub(crate) fn of_pods(direction: PolicyType) -> Self {
        let (prefix, allowed) = match direction {
            PolicyType::Egress => ("e_", OK_EGRESS),
            PolicyType::Ingress => ("i_", OK_INGRESS),
        };
        Self {
            prefix,
            allowed: Verdict::Goto(allowed.to_owned()),
            replies: true,
            drops: false,
            own: true,
            whom: "pods",
        }
    }
}

/// Which packets a chain judges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packets {
    /// Those that begin a flow, and those without one.
    First,
    /// Further ones in the direction in which the flow began, which are judged again.
    Again,
    /// Those that answer: source and destination have changed places. They are always judged again.
    Answers,
}

/// A site, and which packets are judged there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) site: &'a Site,
    pub(crate) packets: Packets,
}

impl View<'_> {
    /// Where in a packet that is which was this end of the flow's first.
    pub(crate) fn side(self, end: Side) -> Side {
        match (self.packets, end) {
            (Packets::First | Packets::Again, end) => end,
            (Packets::Answers, Side::Source) => Side::Destination,
            (Packets::Answers, Side::Destination) => Side::Source,
        }
    }

    /// The address of an end.
    pub(crate) fn address(self, end: Side, family: Family) -> Field {
        match (family, self.side(end)) {
            (Family::V4, Side::Source) => Field::Ip4Saddr,
            (Family::V4, Side::Destination) => Field::Ip4Daddr,
            (Family::V6, Side::Source) => Field::Ip6Saddr,
            (Family::V6, Side::Destination) => Field::Ip6Daddr,
        }
    }

    /// The port of an end.
    pub(crate) fn port(self, end: Side) -> Field {
        match self.side(end) {
            Side::Source => Field::ThSport,
            Side::Destination => Field::ThDport,
        }
    }

    /// The type of ICMP that packets here have in a flow that began with `kind`; `None` if there are none.
    pub(crate) fn icmp_kind(self, family: Family, kind: u8) -> Option<u8> {
        if self.packets != Packets::Answers {
            return Some(kind);
        }
        // As conntrack pairs them: requests with replies, of echo, timestamp, information and address mask, and of node information.
        let pairs: &[(u8, u8)] = match family {
            Family::V4 => &[(8, 0), (13, 14), (15, 16), (17, 18)],
            Family::V6 => &[(128, 129), (139, 140)],
        };
        pairs.iter().find_map(|&(ask, answer)| match kind {
            kind if kind == ask => Some(answer),
            kind if kind == answer => Some(ask),
            _ => None,
        })
    }

    /// Whether what is counted here has been judged before.
    pub(crate) fn again(self) -> bool {
        self.packets != Packets::First
    }
}

/// The end of a flow that the endpoint itself is not.
pub(crate) fn peer(direction: PolicyType) -> Side {
    match direction {
        PolicyType::Egress => Side::Destination,
        PolicyType::Ingress => Side::Source,
    }
}
