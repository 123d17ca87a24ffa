//! The admin API on `RUN_DIR/tortie.sock`: what the CLI, the lab and the CNI plugin ask.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tortie_admin::types::{
    ApiError, AskedRules, BgpPeer, BgpRoute, CniRequest, CniResponse, Endpoint, IpamBlockStatus, NodeStatus,
    PolicyHits, PolicyRule, Route, TraceReport, TraceRequest,
};
use tortie_api::{Kind, Object};
use tortie_bird_speaker::Handle;
use tortie_cni::mtu::Overlay;
use tortie_cni::server::CniServer;
use tortie_cni::{Dataplane, load_endpoints};
use tortie_datastore::Datastore;
use tortie_felix::{Event, Settings};
use tortie_felix_netlink::Net;

use crate::cli::Component;
use crate::instruments::Way;
use crate::keeper::KeeperHandle;
use crate::owner::{Message, OwnerHandle};
use crate::trace::Placed;
use crate::writers::RuleJob;
use crate::{bgp, convert};

/// What the handlers share.
pub(crate) struct Admin {
    pub(crate) node: String,
    /// Which datastore, as `--datastore` takes it.
    pub(crate) datastore: String,
    /// The datastore itself, for what the core has no use for.
    pub(crate) store: Arc<dyn Datastore>,
    pub(crate) components: Vec<Component>,
    pub(crate) run_dir: PathBuf,
    pub(crate) owner: OwnerHandle,
    /// The thread that talks to nftables.
    pub(crate) rules: Way<RuleJob>,
    pub(crate) speaker: watch::Receiver<Option<Handle>>,
    pub(crate) cni: Option<CniServer>,
    /// Whether the CNI server has put right what an earlier run left; calls wait for it.
    pub(crate) cni_recovered: watch::Receiver<bool>,
}

/// An answer that is no success.
struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(ApiError { error: self.1 })).into_response()
    }
}

const STOPPING: &str = "the agent is stopping; try again in a moment";

fn stopping() -> Refusal {
    Refusal(StatusCode::SERVICE_UNAVAILABLE, STOPPING.into())
}

type Answer<T> = Result<Json<T>, Refusal>;

/// Serves until `stop` resolves; requests under way are then still answered.
pub(crate) async fn serve(
    listener: UnixListener,
    admin: Arc<Admin>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/endpoints", get(endpoints))
        .route("/v1/bgp/peers", get(bgp_peers))
        .route("/v1/bgp/routes", get(bgp_routes))
        .route("/v1/routes", get(routes))
        .route("/v1/ipam", get(ipam))
        .route("/v1/policy/render", get(render))
        .route("/v1/policy/rules", get(rules))
        .route("/v1/policy/hits", get(hits))
        .route("/v1/policy/trace", post(trace))
        .route("/v1/cni", post(cni))
        .fallback(unknown)
        .with_state(admin);
    axum::serve(listener, router).with_graceful_shutdown(stop).await
}

impl Admin {
    async fn ask<T>(&self, question: impl FnOnce(tokio::sync::oneshot::Sender<T>) -> Message) -> Result<T, Refusal> {
        self.owner.ask(question).await.ok_or_else(stopping)
    }

    fn speaker(&self) -> Option<Handle> {
        self.speaker.borrow().clone()
    }
}

async fn status(State(admin): State<Arc<Admin>>) -> Answer<NodeStatus> {
    let mut status = admin.ask(Message::Status).await?;
    let drifts = admin.ask(Message::Drifts).await?;
    if let Some(speaker) = admin.speaker()
        && let Some(restart) = speaker.restart().await
    {
        status.problems.push(bgp::restart(&restart));
    }
    Ok(Json(NodeStatus {
        node: admin.node.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        datastore: admin.datastore.clone(),
        components: admin.components.iter().map(|component| component.as_str().to_owned()).collect(),
        datastore_in_sync: status.in_sync,
        ready: status.in_sync && !status.programmed_revision.is_empty(),
        revision: status.revision,
        programmed_revision: status.programmed_revision,
        generation: status.generation,
        endpoints: status.endpoints,
        problems: status.problems,
        warnings: status.warnings,
        drifts: drifts.into_iter().map(|(drift, age)| convert::drift(drift, age)).collect(),
    }))
}

async fn endpoints(State(admin): State<Arc<Admin>>) -> Answer<Vec<Endpoint>> {
    let run_dir = admin.run_dir.clone();
    let endpoints = tokio::task::spawn_blocking(move || load_endpoints(&run_dir)).await;
    endpoints.map(Json).map_err(|error| Refusal(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

async fn bgp_peers(State(admin): State<Arc<Admin>>) -> Json<Vec<BgpPeer>> {
    let peers = match admin.speaker() {
        Some(speaker) => speaker.peers().await,
        None => Vec::new(),
    };
    Json(peers.into_iter().map(|peer| bgp::peer(&admin.node, peer)).collect())
}

async fn bgp_routes(State(admin): State<Arc<Admin>>) -> Json<Vec<BgpRoute>> {
    let routes = match admin.speaker() {
        Some(speaker) => speaker.routes().await,
        None => Vec::new(),
    };
    Json(routes.into_iter().map(|route| bgp::route(&admin.node, route)).collect())
}

async fn routes(State(admin): State<Arc<Admin>>) -> Answer<Vec<Route>> {
    let routes = admin.ask(Message::Routes).await?;
    Ok(Json(routes.into_iter().map(|route| convert::route_view(&admin.node, route)).collect()))
}

async fn ipam(State(admin): State<Arc<Admin>>) -> Answer<Vec<IpamBlockStatus>> {
    let blocks = admin.store.list(Kind::IpamBlock).await;
    let blocks = blocks.map_err(|error| Refusal(StatusCode::SERVICE_UNAVAILABLE, error.to_string()))?;
    let blocks = blocks.into_iter().filter_map(|object| match object {
        Object::IpamBlock(block) => Some(convert::block(&block.spec)),
        _ => None,
    });
    Ok(Json(blocks.collect()))
}

async fn render(State(admin): State<Arc<Admin>>) -> Result<String, Refusal> {
    let text = admin.ask(Message::Render).await?;
    text.ok_or_else(|| {
        let reason = "no rules yet: the datastore is not in sync, or the agent runs without the component felix";
        Refusal(StatusCode::SERVICE_UNAVAILABLE, reason.into())
    })
}

/// How long the thread that talks to nftables may have to answer a question beside its work.
const PATIENCE: Duration = Duration::from_secs(5);

async fn hits(State(admin): State<Arc<Admin>>) -> Answer<Vec<PolicyHits>> {
    let (reply, answer) = tokio::sync::oneshot::channel();
    admin.rules.send(RuleJob::Counters(reply));
    let busy = || Refusal(StatusCode::SERVICE_UNAVAILABLE, "nftables is busy: try again".into());
    let values = tokio::time::timeout(PATIENCE, answer).await.ok().and_then(Result::ok).ok_or_else(busy)?;
    let rows = admin.ask(|reply| Message::Hits(values, reply)).await?;
    Ok(Json(rows.into_iter().map(|row| convert::hits(&admin.node, row)).collect()))
}

async fn trace(State(admin): State<Arc<Admin>>, body: Bytes) -> Answer<TraceReport> {
    let asked: TraceRequest = serde_json::from_slice(&body)
        .map_err(|error| Refusal(StatusCode::BAD_REQUEST, format!("not a flow to trace: {error}")))?;
    let failed = |reason: String| Refusal(StatusCode::SERVICE_UNAVAILABLE, reason);
    let events = tokio::task::spawn_blocking(move || crate::trace::trace(&asked)).await;
    let events = events.map_err(|error| failed(error.to_string()))?.map_err(failed)?;
    let (reply, answer) = tokio::sync::oneshot::channel();
    admin.rules.send(RuleJob::Rules(reply));
    // Without the rules' texts their handles still say something.
    let rules = tokio::time::timeout(PATIENCE, answer).await.ok().and_then(Result::ok).and_then(Result::ok);
    let rules = Placed::new(rules.unwrap_or_default());
    let counted = admin.ask(|reply| Message::Counted(rules.counters_met(&events), reply)).await?;
    Ok(Json(crate::trace::report(&admin.node, events, &rules, &counted)))
}

async fn rules(State(admin): State<Arc<Admin>>, Query(asked): Query<AskedRules>) -> Answer<Vec<PolicyRule>> {
    let counters: BTreeSet<String> = asked.counters.split(',').map(str::to_owned).collect();
    let maps = admin.ask(|reply| Message::CounterMaps(counters.clone(), reply)).await?;
    let (reply, answer) = tokio::sync::oneshot::channel();
    admin.rules.send(RuleJob::Rules(reply));
    let answer = tokio::time::timeout(PATIENCE, answer).await.ok().and_then(Result::ok);
    let unavailable = |reason: String| Refusal(StatusCode::SERVICE_UNAVAILABLE, reason);
    let rules = answer.unwrap_or_else(|| Err("nftables is busy: try again".into())).map_err(unavailable)?;
    Ok(Json(convert::rules_that_count(rules, &counters, &maps)))
}

async fn cni(State(admin): State<Arc<Admin>>, body: Bytes) -> Answer<CniResponse> {
    let Some(server) = &admin.cni else {
        let reason = "this agent runs without the component cni: add it to --components";
        return Err(Refusal(StatusCode::SERVICE_UNAVAILABLE, reason.into()));
    };
    let request: CniRequest = serde_json::from_slice(&body)
        .map_err(|error| Refusal(StatusCode::BAD_REQUEST, format!("not a CNI request: {error}")))?;
    let mut recovered = admin.cni_recovered.clone();
    recovered.wait_for(|recovered| *recovered).await.map_err(|_| stopping())?;
    Ok(Json(server.handle(request).await))
}

async fn unknown(uri: Uri) -> Refusal {
    let reason = format!("{} is nothing that tortie-node {} knows", uri.path(), env!("CARGO_PKG_VERSION"));
    Refusal(StatusCode::NOT_FOUND, reason)
}

/// The CNI server's way to the kernel: the owner, which answers when rules and route are where they should be, and the keeper, which
/// brings about the pod's limits.
pub(crate) struct Kernel {
    pub(crate) owner: OwnerHandle,
    pub(crate) net: Net,
    pub(crate) keeper: KeeperHandle,
    pub(crate) settings: watch::Receiver<Settings>,
}

#[async_trait]
impl Dataplane for Kernel {
    async fn add_endpoint(&self, endpoint: Endpoint) -> Result<(), String> {
        // The announcement of the new interface may still be on its way; the route should not wait for it.
        if let Ok(Some(link)) = self.net.link(&endpoint.host_interface).await {
            self.owner.event(Event::LinkChanged(convert::link(link))).await;
        }
        let interface = endpoint.host_interface.clone();
        let answer = self.owner.ask(|reply| Message::Add { endpoint, reply }).await;
        answer.unwrap_or_else(|| Err(STOPPING.into()))?;
        self.keeper.settle(&interface).await;
        Ok(())
    }

    async fn remove_endpoint(&self, container_id: &str, ifname: &str) -> Result<(), String> {
        let (container_id, ifname) = (container_id.to_owned(), ifname.to_owned());
        let answer = self.owner.ask(|reply| Message::Remove { container_id, ifname, reply }).await;
        answer.unwrap_or_else(|| Err(STOPPING.into()))
    }

    fn mtu_interfaces(&self) -> String {
        self.settings.borrow().mtu_interfaces.clone()
    }

    fn overlay(&self) -> Overlay {
        let overlays = &self.settings.borrow().overlays;
        Overlay { overhead: overlays.encapsulation, limit: overlays.mtu_limit }
    }

    fn interface_prefix(&self) -> String {
        self.settings.borrow().routes.naming_prefix().to_owned()
    }
}
