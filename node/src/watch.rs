//! The tasks that listen: to the datastore, and to the kernel's interfaces and routes.

use anyhow::{Context, Result, bail};
use tokio::sync::mpsc;
use tortie_datastore::{Batch, Problem};
use tortie_felix::Event;
use tortie_felix_netlink::{self as netlink, Monitor};

use crate::convert;
use crate::owner::OwnerHandle;

/// Forwards batches of the datastore. Ends only with an error: without a watch the node would fall behind unnoticed.
pub(crate) async fn datastore(mut batches: mpsc::Receiver<Batch>, owner: OwnerHandle) -> Result<()> {
    while let Some(batch) = batches.recv().await {
        let problems = batch.problems.iter().map(describe).collect();
        let changes = batch.changes.into_iter().map(convert::change).collect();
        let event = Event::Datastore { changes, in_sync: batch.in_sync, revision: batch.revision };
        owner.datastore(event, problems).await;
    }
    bail!("the watch on the datastore ended")
}

fn describe(problem: &Problem) -> String {
    format!("{}: {}", problem.place, problem.message)
}

/// Forwards what happens to interfaces and routes. Subscribed before anything is read, so nothing falls in between.
pub(crate) async fn kernel(mut monitor: Monitor, owner: OwnerHandle) -> Result<()> {
    loop {
        let event = match monitor.next().await.context("the subscription to interfaces and routes broke")? {
            netlink::Event::LinkChanged(link) => Event::LinkChanged(convert::link(link)),
            netlink::Event::LinkRemoved { index, .. } => Event::LinkRemoved { index },
            netlink::Event::AddressAdded { index, address } => Event::AddressAdded { index, address: address.addr() },
            netlink::Event::AddressRemoved { index, address } => {
                Event::AddressRemoved { index, address: address.addr() }
            }
            netlink::Event::RouteChanged(route) => Event::RouteChanged(convert::route(route)),
            netlink::Event::RouteRemoved(route) => Event::RouteRemoved(convert::route(route)),
            netlink::Event::Overrun => Event::Overrun,
        };
        owner.event(event).await;
    }
}
