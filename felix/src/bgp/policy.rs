//! What may pass between this node and a peer: the BGPFilters that a BGPPeer names, then Calico's own rules.
//!
//! On import everything passes that no filter refuses. On export a node tells what is its own, and of others' routes those within
//! IPPools and service ranges: a default route that a router tells one node is not for the whole cluster. A filter that accepts more
//! goes before that. Where there is no IPPool at all, as for a plain speaker, nothing is held back.

use tortie_api::calico::{
    BgpConfigurationSpec, BgpFilterAction, BgpFilterOperation, BgpFilterRule, BgpFilterSpec, Community, MatchOperator,
    PeerType, RouteOrigin,
};
use tortie_bird_lite::filter::{AnyCommunity, Operation, Policy, PrefixMatch, Rule};
use tortie_bird_lite::wire;

use super::Bgp;

/// A direction's rules of one family.
type Pick = fn(&BgpFilterSpec) -> &[BgpFilterRule];

impl Bgp {
    /// Which of a peer's routes are used.
    pub(super) fn import(&self, filters: &[String], external: bool) -> Policy {
        Policy {
            v4: self.rules(filters, external, "importV4", |spec| &spec.import_v4),
            v6: self.rules(filters, external, "importV6", |spec| &spec.import_v6),
            otherwise: true,
        }
    }

    /// Which routes a peer is told.
    pub(super) fn export(&self, filters: &[String], external: bool) -> Policy {
        let mut v4 = self.rules(filters, external, "exportV4", |spec| &spec.export_v4);
        let mut v6 = self.rules(filters, external, "exportV6", |spec| &spec.export_v6);
        if self.pools.is_empty() {
            return Policy { v4, v6, otherwise: true };
        }
        let own = Rule { name: "routes of this node".into(), accept: true, from_peer: Some(false), ..Rule::default() };
        v4.push(own.clone());
        v6.push(own);
        // The narrowest pool decides, so it comes first.
        let mut pools: Vec<_> = self.pools.iter().collect();
        pools.sort_by_key(|(_, (cidr, _))| u8::MAX - cidr.prefix_len());
        let pools = pools.into_iter().map(|(name, (cidr, disabled))| (format!("IPPool {name}"), *cidr, !disabled));
        let services = self.configurations.get("default").map(BgpConfigurationSpec::service_cidrs).unwrap_or_default();
        let services = services.into_iter().map(|cidr| ("service addresses".to_owned(), cidr, true));
        for (name, range, accept) in pools.chain(services) {
            let prefix = PrefixMatch { range, equal: false, negated: false, lengths: (0, range.max_prefix_len()) };
            let rule = Rule { name, accept, prefix: Some(prefix), ..Rule::default() };
            if range.addr().is_ipv4() { v4.push(rule) } else { v6.push(rule) }
        }
        Policy { v4, v6, otherwise: false }
    }

    /// The rules of these filters for such a peer, in order. A filter that does not exist has none.
    fn rules(&self, filters: &[String], external: bool, field: &str, pick: Pick) -> Vec<Rule> {
        let known = filters.iter().filter_map(|name| Some((name, self.filters.get(name)?)));
        let all = known.flat_map(|(name, spec)| {
            let rules = pick(spec).iter().enumerate();
            rules.map(move |(index, rule)| (format!("BGPFilter {name} spec.{field}[{index}]"), rule))
        });
        all.filter(|(_, rule)| rule.peer_type.is_none_or(|kind| (kind == PeerType::External) == external))
            .map(|(name, rule)| compiled(name, rule))
            .collect()
    }
}

fn compiled(name: String, rule: &BgpFilterRule) -> Rule {
    let prefix = rule.cidr.zip(rule.match_operator).map(|(range, operator)| {
        let lengths = rule.prefix_length.unwrap_or_default();
        let least = lengths.min.unwrap_or(range.prefix_len());
        PrefixMatch {
            range: range.trunc(),
            equal: matches!(operator, MatchOperator::Equal | MatchOperator::NotEqual),
            negated: matches!(operator, MatchOperator::NotEqual | MatchOperator::NotIn),
            lengths: (least, lengths.max.unwrap_or(range.max_prefix_len())),
        }
    });
    Rule {
        name,
        accept: rule.action == BgpFilterAction::Accept,
        prefix,
        from_peer: rule.source.map(|RouteOrigin::RemotePeers| true),
        interface: rule.interface.clone(),
        community: rule.communities.as_ref().and_then(|list| list.values.first()).map(|value| community(*value)),
        as_path: rule.as_path_prefix.clone(),
        priority: rule.priority,
        operations: rule.operations.iter().map(operation).collect(),
    }
}

fn operation(operation: &BgpFilterOperation) -> Operation {
    match operation {
        BgpFilterOperation::AddCommunity(add) => Operation::AddCommunity(community(add.value)),
        BgpFilterOperation::PrependAsPath(prepend) => Operation::Prepend(prepend.prefix.clone()),
        BgpFilterOperation::SetPriority(set) => Operation::SetPriority(set.value),
    }
}

/// A community as the speaker has it.
pub(super) fn community(community: Community) -> AnyCommunity {
    match community {
        Community::Standard(high, low) => {
            AnyCommunity::Standard(wire::Community(u32::from(high) << 16 | u32::from(low)))
        }
        Community::Large(global, local1, local2) => {
            AnyCommunity::Large(wire::LargeCommunity { global, local1, local2 })
        }
    }
}
