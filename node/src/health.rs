//! `/liveness` and `/readiness`, on Calico's port.
//!
//! Live is an agent whose owner answers. Ready is one that has read the datastore and put it into the kernel once. Neither depends on
//! other nodes: a peer that is down must not take this node out of service.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;
use tortie_felix::Status;
use tracing::warn;

use crate::owner::{Message, OwnerHandle};

/// How long the owner may take to answer before the agent counts as stuck.
const PATIENCE: Duration = Duration::from_secs(10);

/// Serves for ever. A port that is taken is no reason to leave pods without an agent.
pub(crate) async fn serve(address: SocketAddr, owner: OwnerHandle) {
    let listener = match TcpListener::bind(address).await {
        Ok(listener) => listener,
        Err(error) => {
            warn!("no health checks: cannot listen on {address}: {error}; choose another --health-address");
            return;
        }
    };
    let router = Router::new().route("/liveness", get(liveness)).route("/readiness", get(readiness)).with_state(owner);
    if let Err(error) = axum::serve(listener, router).await {
        warn!("health checks ended: {error}");
    }
}

async fn status(owner: &OwnerHandle) -> Option<Status> {
    tokio::time::timeout(PATIENCE, owner.ask(Message::Status)).await.ok().flatten()
}

async fn liveness(State(owner): State<OwnerHandle>) -> (StatusCode, &'static str) {
    match status(&owner).await {
        Some(_) => (StatusCode::OK, "live\n"),
        None => (StatusCode::SERVICE_UNAVAILABLE, "the agent's core does not answer\n"),
    }
}

async fn readiness(State(owner): State<OwnerHandle>) -> (StatusCode, &'static str) {
    match status(&owner).await {
        None => (StatusCode::SERVICE_UNAVAILABLE, "the agent's core does not answer\n"),
        Some(status) if !status.in_sync => (StatusCode::SERVICE_UNAVAILABLE, "the datastore is not in sync\n"),
        Some(status) if status.programmed_revision.is_empty() => {
            (StatusCode::SERVICE_UNAVAILABLE, "rules and routes are not in the kernel yet\n")
        }
        Some(_) => (StatusCode::OK, "ready\n"),
    }
}
