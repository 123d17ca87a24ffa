//! Between the core's values and those of the edges.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use tortie_admin::types::{self, Endpoint};
use tortie_api::calico::IpamBlockSpec;
use tortie_felix::hits::{Decider, HitRow};
use tortie_felix::{Change, Drift, Link, LocalEndpoint, Route, RouteChange, RouteFailure, RouteView, Target};
use tortie_felix_netlink::{self as netlink, RouteKind, RouteSpec};
use tortie_nft::Statement;
use tortie_nft_netlink::PlacedRule;

use crate::bgp;

pub(crate) fn endpoint(endpoint: &Endpoint) -> LocalEndpoint {
    LocalEndpoint {
        namespace: endpoint.namespace.clone(),
        pod: endpoint.pod.clone(),
        container_id: endpoint.container_id.clone(),
        ifname: endpoint.ifname.clone(),
        interface: endpoint.host_interface.clone(),
        ips: endpoint.ips.clone(),
    }
}

/// A drift that was noticed `age` ago.
pub(crate) fn drift(drift: Drift, age: Duration) -> types::Drift {
    types::Drift {
        at: bgp::rfc3339(SystemTime::now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH)),
        age_seconds: age.as_secs(),
        kind: drift.what.as_str().to_owned(),
        object: drift.object,
        found: drift.found,
        repaired: drift.repaired,
        by: drift.by,
        times: drift.times,
    }
}

pub(crate) fn change(change: tortie_datastore::Change) -> Change {
    match change {
        tortie_datastore::Change::Upsert(object) => Change::Upsert(object),
        tortie_datastore::Change::Delete(key) => Change::Delete(key),
    }
}

pub(crate) fn link(link: netlink::Link) -> Link {
    Link { index: link.index, name: link.name, up: link.up }
}

pub(crate) fn route(route: RouteSpec) -> Route {
    let target = match route.kind {
        RouteKind::Device { index } => Target::Device { index, source: route.source },
        RouteKind::Via { gateway, index: Some(index), onlink: false } => Target::Via { gateway, index },
        RouteKind::Via { gateway, index: Some(index), onlink: true } => Target::Onlink { gateway, index },
        RouteKind::Via { gateway, index: None, .. } => Target::Other(format!("via {gateway}")),
        RouteKind::Multipath(hops) => Target::multipath(hops),
        RouteKind::Blackhole => Target::Blackhole,
        RouteKind::Unreachable => Target::Other("unreachable".into()),
        RouteKind::Other(what) => Target::Other(what),
    };
    Route { destination: route.destination, target, protocol: route.protocol, metric: route.metric }
}

fn spec(route: &Route) -> RouteSpec {
    let via = |gateway: &IpAddr, index: &u32, onlink| RouteKind::Via { gateway: *gateway, index: Some(*index), onlink };
    let mut source = None;
    let kind = match &route.target {
        Target::Device { index, source: preferred } => {
            source = *preferred;
            RouteKind::Device { index: *index }
        }
        Target::Via { gateway, index } => via(gateway, index, false),
        Target::Onlink { gateway, index } => via(gateway, index, true),
        Target::Multipath(hops) => RouteKind::multipath(hops.clone()),
        Target::Blackhole => RouteKind::Blackhole,
        Target::Other(what) => RouteKind::Other(what.clone()),
    };
    RouteSpec::new(route.destination, kind, route.protocol).with_metric(route.metric).with_source(source)
}

pub(crate) fn route_change(change: &RouteChange) -> netlink::RouteChange {
    match change {
        RouteChange::Create(route) => netlink::RouteChange::Create(spec(route)),
        RouteChange::Replace(route) => netlink::RouteChange::Replace(spec(route)),
        RouteChange::Delete(route) | RouteChange::Retire(route) => netlink::RouteChange::Delete(spec(route)),
        RouteChange::Shrink(route) => netlink::RouteChange::Shrink(spec(route)),
    }
}

pub(crate) fn route_failure(changes: &[RouteChange], failure: &netlink::RouteFailure) -> Option<RouteFailure> {
    let change = changes.get(failure.change)?;
    let surprise = match change {
        RouteChange::Create(_) => failure.error.is_exists(),
        RouteChange::Shrink(_) => failure.error.is_missing(),
        RouteChange::Replace(_) | RouteChange::Delete(_) | RouteChange::Retire(_) => false,
    };
    Some(RouteFailure { destination: change.route().destination, reason: failure.error.to_string(), surprise })
}

pub(crate) fn route_view(node: &str, view: RouteView) -> types::Route {
    types::Route {
        node: node.to_owned(),
        destination: view.destination,
        via: view.via,
        device: view.device,
        next_hops: view.next_hops.into_iter().map(|(via, device)| types::NextHop { via, device }).collect(),
        protocol: view.protocol,
        source: view.source.as_str().to_owned(),
        state: view.state.as_str().to_owned(),
        reason: view.reason,
    }
}

/// Of the rules of a table, those that count in one of these counters: by themselves, or by an element of a map (`maps`, each with a
/// counter that it has).
pub(crate) fn rules_that_count(
    rules: Vec<PlacedRule>,
    counters: &BTreeSet<String>,
    maps: &[(String, String)],
) -> Vec<types::PolicyRule> {
    let mut found = Vec::new();
    for placed in rules {
        let of = |statement: &Statement| match statement {
            Statement::NamedCounter(name) => counters.get(name).into_iter().cloned().collect(),
            Statement::CountIn { map, .. } => {
                maps.iter().filter(|(known, _)| known == map).map(|(_, counter)| counter.clone()).collect()
            }
            _ => Vec::new(),
        };
        for counter in placed.rule.statements.iter().flat_map(of) {
            let (chain, rule) = (placed.chain.clone(), placed.rule.to_string());
            found.push(types::PolicyRule { counter, chain, handle: placed.handle, rule });
        }
    }
    found
}

/// What policies decided, as the admin API says it.
pub(crate) fn hits(node: &str, row: HitRow) -> types::PolicyHits {
    let direction = row.by.direction();
    let (kind, namespace, policy, rule) = match row.by {
        Decider::Rule { kind, namespace, name, number, .. } => {
            (Some(kind.as_str().to_owned()), namespace, name, Some(format!("spec.{direction}[{number}]")))
        }
        Decider::TierDefault { policies, .. } => (None, None, policies, None),
    };
    types::PolicyHits {
        node: node.to_owned(),
        tier: row.tier,
        kind,
        namespace,
        policy,
        direction: direction.to_owned(),
        rule,
        action: format!("{:?}", row.action),
        staged: row.staged,
        packets: row.new.packets,
        bytes: row.new.bytes,
        rejudged_packets: row.again.packets,
        rejudged_bytes: row.again.bytes,
    }
}

pub(crate) fn block(spec: &IpamBlockSpec) -> types::IpamBlockStatus {
    let in_use = spec.allocations.iter().flatten().count();
    let free = spec.allocations.len() - in_use;
    types::IpamBlockStatus { cidr: spec.cidr, node: spec.node().map(str::to_owned), in_use, free }
}

#[cfg(test)]
mod tests {
    use tortie_nft::{Field, Rule, Verdict};

    use super::*;

    #[test]
    fn rules_are_found_by_their_own_counter_and_by_that_of_a_map() {
        let placed = |handle, counts: Statement| PlacedRule {
            chain: "c".into(),
            handle,
            rule: Rule::new([], [counts, Statement::Verdict(Verdict::Accept)]),
        };
        let in_map = |map: &str| Statement::CountIn { key: vec![Field::Ip4Saddr], map: map.into() };
        let rules = vec![
            placed(7, Statement::NamedCounter("h_1".into())),
            placed(8, Statement::NamedCounter("h_2".into())),
            placed(9, in_map("m")),
            placed(10, in_map("other")),
        ];
        let maps = [("m".to_owned(), "h_1".to_owned())];
        let found = rules_that_count(rules, &BTreeSet::from(["h_1".to_owned()]), &maps);
        let handles: Vec<(u64, &str)> = found.iter().map(|rule| (rule.handle, rule.counter.as_str())).collect();
        assert_eq!(handles, [(7, "h_1"), (9, "h_1")]);
        assert_eq!(found[0].rule, "counter name \"h_1\" accept");
    }
}
