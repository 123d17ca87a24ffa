//! Between the core's values and those of the edges.

use tortie_admin::types::{self, Endpoint};
use tortie_felix::{BlockView, Change, Link, LocalEndpoint, Route, RouteChange, RouteFailure, RouteView, Target};
use tortie_felix_netlink::{self as netlink, RouteKind, RouteSpec};

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
        RouteKind::Device { index } => Target::Device { index },
        RouteKind::Via { gateway, index: Some(index), onlink: false } => Target::Via { gateway, index },
        RouteKind::Via { gateway, onlink, .. } => {
            Target::Other(format!("via {gateway}{}", if onlink { " onlink" } else { "" }))
        }
        RouteKind::Blackhole => Target::Blackhole,
        RouteKind::Unreachable => Target::Other("unreachable".into()),
        RouteKind::Other(what) => Target::Other(what),
    };
    Route { destination: route.destination, target, protocol: route.protocol, metric: route.metric }
}

fn spec(route: &Route) -> RouteSpec {
    let kind = match &route.target {
        Target::Device { index } => RouteKind::Device { index: *index },
        Target::Via { gateway, index } => RouteKind::Via { gateway: *gateway, index: Some(*index), onlink: false },
        Target::Blackhole => RouteKind::Blackhole,
        Target::Other(what) => RouteKind::Other(what.clone()),
    };
    RouteSpec::new(route.destination, kind, route.protocol).with_metric(route.metric)
}

pub(crate) fn route_change(change: &RouteChange) -> netlink::RouteChange {
    match change {
        RouteChange::Replace(route) => netlink::RouteChange::Replace(spec(route)),
        RouteChange::Delete(route) => netlink::RouteChange::Delete(spec(route)),
    }
}

pub(crate) fn route_failure(changes: &[RouteChange], failure: &netlink::RouteFailure) -> Option<RouteFailure> {
    let destination = changes.get(failure.change)?.route().destination;
    Some(RouteFailure { destination, reason: failure.error.to_string() })
}

pub(crate) fn route_view(node: &str, view: RouteView) -> types::Route {
    types::Route {
        node: node.to_owned(),
        destination: view.destination,
        via: view.via,
        device: view.device,
        protocol: view.protocol,
        source: view.source.as_str().to_owned(),
        state: view.state.as_str().to_owned(),
    }
}

pub(crate) fn block(view: BlockView) -> types::IpamBlockStatus {
    types::IpamBlockStatus { cidr: view.cidr, node: view.node, in_use: view.in_use, free: view.free }
}
