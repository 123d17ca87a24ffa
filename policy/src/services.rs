//! `serviceLoopPrevention`: packets to service addresses that nobody translated to a backend's.
//!
//! The fabric routes service addresses to nodes. Where a node has no such service, its default route sends the packet back, and so on
//! until its hop limit is used up. What kube-proxy, or whoever does Services here, has translated goes to a backend's address by the
//! time it is forwarded, so what still goes to a service address is lost, and dropped. It is looked at after the host's own rules:
//! for a service without backends, kube-proxy's refusal is the better answer.
//!
//! This is the one chain that looks at packets which are no pod's.

use tortie_nft::{
    Chain, Direction, Family, Field, Hook, HookPoint, KeyType, Match, Op, Ruleset, Set, Verdict, intervals,
};

use crate::chains::{deny, in_set, verdict};
use crate::denied::Reason;
use crate::options::{CompileOptions, DenyAction, ServiceLoop};

/// The base chain.
pub(crate) const SERVICE_LOOP: &str = "service_loop";

/// The chain of packets to a service address.
pub(crate) const UNSERVED: &str = "unserved";

/// The sets of service addresses of each family.
pub(crate) const SERVICE_SETS: [(Family, &str); 2] = [(Family::V4, "services4"), (Family::V6, "services6")];

/// Adds the chains to a frame, if there are service addresses and loops are to be prevented.
pub(crate) fn add_service_loop(frame: &mut Ruleset, options: &CompileOptions) {
    let action = match options.service_loop_prevention {
        ServiceLoop::Drop => DenyAction::Drop,
        ServiceLoop::Reject => DenyAction::Reject,
        ServiceLoop::Disabled => return,
    };
    let ranges: Vec<_> = options.service_cidrs.iter().map(|cidr| (*cidr, Vec::new())).collect();
    let mut rules = Vec::new();
    for (family, name) in SERVICE_SETS {
        let (elements, key, daddr) = match family {
            Family::V4 => (intervals::union_v4(&ranges), KeyType::Ipv4Addr, Field::Ip4Daddr),
            Family::V6 => (intervals::union_v6(&ranges), KeyType::Ipv6Addr, Field::Ip6Daddr),
        };
        if elements.is_empty() {
            continue;
        }
        let comment = Some("service addresses, of BGPConfiguration".to_owned());
        frame.sets.insert(name.to_owned(), Set { key: vec![key], interval: true, elements, comment });
        let matches = vec![Match::NfProto(family), in_set(vec![daddr], Op::Eq, name)];
        let judge = verdict(matches, Verdict::Goto(UNSERVED.to_owned()));
        rules.push(judge.commented("no packet to a service address goes in circles"));
    }
    if rules.is_empty() {
        return;
    }
    let unserved = vec![
        verdict(vec![Match::CtDirection(Direction::Reply)], Verdict::Accept).commented("an answer to a client"),
        verdict(vec![Match::CtStatusDnat(true)], Verdict::Accept).commented("a backend's address"),
        deny(action, Reason::ServiceLoop, Vec::new(), "serviceLoopPrevention: nobody serves this address here"),
    ];
    let hook = Some(Hook::filter(HookPoint::Forward, 2));
    frame.chains.insert(SERVICE_LOOP.to_owned(), Chain { hook, rules });
    frame.chains.insert(UNSERVED.to_owned(), Chain { hook: None, rules: unserved });
}
