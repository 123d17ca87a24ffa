//! Answers CalicoNodeStatus: somebody asks a node in an object, and the node's agent answers in the object's status, again and again.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::Instant;
use tortie_api::calico::{
    CalicoNodeStatusAnswer, CalicoNodeStatusSpec, NodeAgentStatus, NodeBgpStatus, NodePeer, NodeRoute,
    NodeRoutesStatus, NodeStatusClass, RouteLearnedFrom, SpeakerStatus,
};
use tortie_bird_speaker::{Handle, PeerKind, PeerStatus, State};
use tortie_datastore::kubernetes::{Kubernetes, rfc3339};
use tortie_felix::{RouteSource, RouteState, RouteView};
use tracing::warn;

use crate::owner::{Message, OwnerHandle};
use crate::progress::Progress;

/// How often an answer is given where the question does not say, as Calico has it.
const PERIOD: Duration = Duration::from_secs(10);

/// How soon an answer that could not be written is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// How many routes of a family an answer has at most: an object has room for some megabyte.
const MOST_ROUTES: usize = 4_000;

/// What is asked of this node, by the name of the object.
pub(crate) type Questions = BTreeMap<String, CalicoNodeStatusSpec>;

/// Where answers come from.
pub(crate) struct Sources {
    pub(crate) owner: OwnerHandle,
    pub(crate) speaker: watch::Receiver<Option<Handle>>,
    pub(crate) progress: Arc<Progress>,
}

/// Answers for as long as the agent runs.
pub(crate) async fn run(store: Kubernetes, sources: Sources) {
    let booted = SystemTime::now();
    let mut asked = sources.progress.questions();
    let mut questions = Questions::new();
    let mut due: BTreeMap<String, Instant> = BTreeMap::new();
    loop {
        let now = asked.borrow_and_update().clone();
        for (name, question) in &now {
            if questions.get(name) != Some(question) {
                due.insert(name.clone(), Instant::now());
            }
        }
        questions = now;
        due.retain(|name, _| questions.contains_key(name));
        let Some((name, at)) = due.iter().min_by_key(|(_, at)| **at).map(|(name, at)| (name.clone(), *at)) else {
            match asked.changed().await {
                Ok(()) => continue,
                Err(_) => return,
            }
        };
        tokio::select! {
            () = tokio::time::sleep_until(at) => {}
            changed = asked.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
        }
        let question = &questions[&name];
        let period = question.update_period_seconds.map_or(PERIOD, |seconds| Duration::from_secs(seconds.into()));
        let next = match store.answer_node_status(&name, &answer(&sources, question, booted).await).await {
            Ok(()) if period.is_zero() => None,
            Ok(()) => Some(period),
            Err(error) => {
                warn!(%error, "CalicoNodeStatus {name} could not be answered; trying again");
                Some(RETRY)
            }
        };
        match next {
            Some(pause) => drop(due.insert(name, Instant::now() + pause)),
            None => drop(due.remove(&name)),
        }
    }
}

async fn answer(sources: &Sources, question: &CalicoNodeStatusSpec, booted: SystemTime) -> CalicoNodeStatusAnswer {
    let speaker = sources.speaker.borrow().clone();
    let asks = |class| question.classes.contains(&class);
    let peers = match &speaker {
        Some(speaker) if asks(NodeStatusClass::Bgp) || asks(NodeStatusClass::Routes) => speaker.peers().await,
        _ => Vec::new(),
    };
    let routes = if asks(NodeStatusClass::Routes) {
        let routes = sources.owner.ask(Message::Routes).await.unwrap_or_default();
        let paths = match &speaker {
            Some(speaker) => speaker.routes().await,
            None => Vec::new(),
        };
        let best = paths.into_iter().filter(|path| path.best).map(|path| (path.prefix, path.from)).collect();
        Some(self::routes(&routes, &best, &peers))
    } else {
        None
    };
    CalicoNodeStatusAnswer {
        last_updated: Some(rfc3339(SystemTime::now())),
        agent: asks(NodeStatusClass::Agent).then(|| agent(speaker.is_some(), &sources.progress, booted)),
        bgp: asks(NodeStatusClass::Bgp).then(|| sessions(&peers)),
        routes,
    }
}

/// One agent speaks BGP for both families.
fn agent(speaks: bool, progress: &Progress, booted: SystemTime) -> NodeAgentStatus {
    let (router_id, configured) = progress.speaker().unzip();
    let status = SpeakerStatus {
        state: if speaks { "Ready" } else { "NotReady" }.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        router_id: router_id.map(|id| id.to_string()).unwrap_or_default(),
        last_boot_time: rfc3339(booted),
        last_reconfiguration_time: configured.map(rfc3339).unwrap_or_default(),
    };
    NodeAgentStatus { ipv4: Some(status.clone()), ipv6: Some(status) }
}

fn sessions(peers: &[PeerStatus]) -> NodeBgpStatus {
    let of = |ipv4: bool| -> Vec<&PeerStatus> { peers.iter().filter(|peer| peer.address.is_ipv4() == ipv4).collect() };
    let count = |peers: &[&PeerStatus], established: bool| {
        let count = peers.iter().filter(|peer| (peer.state == State::Established) == established).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    };
    let told = |peers: &[&PeerStatus]| {
        let one = |peer: &&PeerStatus| NodePeer {
            peer_ip: peer.address,
            kind: match peer.kind {
                PeerKind::Mesh => "NodeMesh",
                PeerKind::Node => "NodePeer",
                PeerKind::Global => "GlobalPeer",
            }
            .to_owned(),
            state: format!("{:?}", peer.state),
            since: rfc3339(peer.since),
        };
        peers.iter().map(one).collect()
    };
    let (v4, v6) = (of(true), of(false));
    NodeBgpStatus {
        number_established_v4: count(&v4, true),
        number_not_established_v4: count(&v4, false),
        number_established_v6: count(&v6, true),
        number_not_established_v6: count(&v6, false),
        peers_v4: told(&v4),
        peers_v6: told(&v6),
    }
}

/// The routes that are the agent's: `best` says from which peer a route of BGP is.
fn routes(routes: &[RouteView], best: &HashMap<ipnet::IpNet, String>, peers: &[PeerStatus]) -> NodeRoutesStatus {
    let peers: HashMap<&str, (PeerKind, IpAddr)> =
        peers.iter().map(|peer| (peer.name.as_str(), (peer.kind, peer.address))).collect();
    let learned_from = |route: &RouteView| {
        let (source, peer_ip) = match route.source {
            RouteSource::LocalPod => ("Direct", None),
            RouteSource::LocalBlock | RouteSource::Tunnel => ("Static", None),
            RouteSource::Bgp => match best.get(&route.destination).and_then(|name| peers.get(name.as_str())) {
                Some((PeerKind::Mesh, address)) => ("NodeMesh", Some(*address)),
                Some((_, address)) => ("BGPPeer", Some(*address)),
                None => ("BGPPeer", None),
            },
        };
        RouteLearnedFrom { source_type: source.to_owned(), peer_ip }
    };
    let of = |ipv4: bool| {
        let family = routes.iter().filter(|route| route.destination.addr().is_ipv4() == ipv4);
        let one = |route: &RouteView| NodeRoute {
            kind: if route.state == RouteState::Present { "FIB" } else { "RIB" }.to_owned(),
            destination: route.destination,
            gateway: route.via,
            interface: Some(route.device.clone()).filter(|device| !device.is_empty()),
            learned_from: learned_from(route),
        };
        family.take(MOST_ROUTES).map(one).collect()
    };
    NodeRoutesStatus { routes_v4: of(true), routes_v6: of(false) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(name: &str, address: &str, kind: PeerKind, state: State) -> PeerStatus {
        PeerStatus {
            name: name.to_owned(),
            kind,
            address: address.parse().expect("an address"),
            remote_as: 64_512,
            state,
            since: SystemTime::UNIX_EPOCH,
            families: BTreeMap::new(),
            last_error: String::new(),
        }
    }

    #[test]
    fn sessions_are_told_by_family_and_in_calicos_words() {
        let peers = [
            peer("a", "10.0.0.2", PeerKind::Mesh, State::Established),
            peer("b", "10.0.0.3", PeerKind::Global, State::Active),
            peer("c", "fd00::2", PeerKind::Node, State::Established),
        ];
        let told = sessions(&peers);
        assert_eq!((told.number_established_v4, told.number_not_established_v4), (1, 1));
        assert_eq!((told.number_established_v6, told.number_not_established_v6), (1, 0));
        let words: Vec<_> = told.peers_v4.iter().map(|peer| (peer.kind.as_str(), peer.state.as_str())).collect();
        assert_eq!(words, [("NodeMesh", "Established"), ("GlobalPeer", "Active")]);
        assert_eq!(told.peers_v6[0].since, "1970-01-01T00:00:00Z");
    }

    #[test]
    fn routes_say_where_they_come_from() {
        let route = |destination: &str, source, state| RouteView {
            destination: destination.parse().expect("a prefix"),
            via: None,
            device: "eth0".into(),
            next_hops: Vec::new(),
            protocol: 180,
            source,
            state,
            reason: None,
        };
        let all = [
            route("10.244.0.5/32", RouteSource::LocalPod, RouteState::Present),
            route("10.244.1.0/26", RouteSource::Bgp, RouteState::Present),
            route("10.244.2.0/26", RouteSource::Bgp, RouteState::Missing),
            route("fd00::/122", RouteSource::LocalBlock, RouteState::Present),
        ];
        let best = [("10.244.1.0/26", "a"), ("10.244.2.0/26", "b")];
        let best = best.map(|(prefix, from)| (prefix.parse().expect("a prefix"), from.to_owned())).into();
        let peers = [
            peer("a", "10.0.0.2", PeerKind::Mesh, State::Established),
            peer("b", "10.0.0.3", PeerKind::Global, State::Established),
        ];
        let told = routes(&all, &best, &peers);
        let words = |routes: &[NodeRoute]| -> Vec<String> {
            let peer = |route: &NodeRoute| route.learned_from.peer_ip.map(|ip| ip.to_string()).unwrap_or_default();
            routes
                .iter()
                .map(|route| format!("{} {} {}", route.kind, route.learned_from.source_type, peer(route)))
                .collect()
        };
        assert_eq!(words(&told.routes_v4), ["FIB Direct ", "FIB NodeMesh 10.0.0.2", "RIB BGPPeer 10.0.0.3"]);
        assert_eq!(words(&told.routes_v6), ["FIB Static "]);
    }
}
