//! The component `controller`: what is nobody's node's duty. It runs in every agent that has it, and one of them leads.
//!
//! Who leads makes the default IPPools of a cluster that has none, scans IPAM from time to time for what nobody will ever give back
//! (`tortie_cni::ipam::collector`), and writes what became of objects into their statuses ([`statuses`]). Whoever loses the lead stops,
//! and waits for it again.

mod pools;
mod statuses;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tortie_api::calico::KubeControllersConfiguration;
use tortie_cni::ipam::collector::{Collector, GONE, Scan};
use tortie_cni::ipam::records::Records;
use tortie_datastore::kubernetes::Kubernetes;
use tortie_datastore::{Datastore, Error};
use tracing::{debug, info, warn};

use crate::progress::Content;

pub(crate) use pools::DefaultPools;

/// The duty that one agent does.
const DUTY: &str = "controller";

/// How long something must look abandoned before it is given back, where neither the command line nor `leakGracePeriod` of
/// KubeControllersConfiguration says so.
const GRACE: Duration = Duration::from_secs(15 * 60);

/// The longest pause between scans, as Calico's controllers have it.
const LONGEST_PAUSE: Duration = Duration::from_secs(5 * 60);

/// The shortest.
const SHORTEST_PAUSE: Duration = Duration::from_millis(200);

/// How often to look whether the grace period has changed.
const LOOK: Duration = Duration::from_secs(10);

/// How long to wait after a failure of the datastore.
const RETRY: Duration = Duration::from_secs(5);

/// What the controller does.
#[derive(Debug, Clone)]
pub(crate) struct Duties {
    /// The node that it runs on.
    pub(crate) node: String,
    /// For how long something must look abandoned, if the command line says so; zero to give nothing back.
    pub(crate) grace: Option<Duration>,
    /// The IPPools to make where there are none.
    pub(crate) pools: DefaultPools,
}

/// Where statuses are written, and what of it has been delivered here.
pub(crate) type Statuses = (Kubernetes, watch::Receiver<Content>);

/// Leads whenever it may, for as long as the agent runs.
pub(crate) async fn run(datastore: Arc<dyn Datastore>, statuses: Option<Statuses>, duties: Duties) {
    loop {
        match datastore.lead(DUTY, &duties.node).await {
            Ok(mut leadership) => {
                info!(node = duties.node, "this agent's controller leads");
                tokio::select! {
                    () = leadership.lost() => warn!("the controller's lead was lost to another agent's"),
                    () = lead(&datastore, Nodes::new(statuses.as_ref()), &duties) => {}
                    () = tell_statuses(statuses.as_ref()) => {}
                }
            }
            Err(error) => {
                warn!(%error, "the controller cannot lead; trying again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Writes statuses until it is dropped, where there are any.
async fn tell_statuses(statuses: Option<&Statuses>) {
    if let Some((store, delivered)) = statuses {
        statuses::keep(store, delivered.clone()).await;
    }
    std::future::pending::<()>().await;
}

/// Does the duties until it is dropped. Scans are a pause apart; while nodes have gone of late there are more, for what they had.
async fn lead(datastore: &Arc<dyn Datastore>, mut nodes: Nodes, duties: &Duties) {
    let mut collector = Collector::new(Arc::clone(datastore), duties.node.clone());
    let (mut gone, mut hurry): (BTreeSet<String>, Option<Instant>) = Default::default();
    loop {
        let scanned = Instant::now();
        let grace = match turn(datastore, duties, &mut collector).await {
            Ok((grace, now_gone)) => {
                if !now_gone.is_subset(&gone) {
                    hurry = Some(scanned + GONE * 3);
                }
                gone = now_gone;
                grace
            }
            Err(error) => {
                warn!(%error, "the controller could not do its duties; trying again");
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        let pause = |grace: Duration| {
            let grace = if grace.is_zero() { LONGEST_PAUSE } else { grace };
            (grace / 2).clamp(SHORTEST_PAUSE, LONGEST_PAUSE)
        };
        hurry = hurry.filter(|until| *until > scanned);
        loop {
            let next = pause(if hurry.is_some() { grace.min(GONE) } else { grace });
            let left = next.saturating_sub(scanned.elapsed());
            if left.is_zero() {
                break;
            }
            tokio::select! {
                () = tokio::time::sleep(left.min(LOOK)) => {}
                () = nodes.went() => break,
            }
            // A failure shows in the next turn.
            if self::grace(datastore, duties).await.is_ok_and(|now| now != grace) {
                break;
            }
        }
    }
}

/// How many nodes there are, where that is known.
struct Nodes {
    delivered: Option<watch::Receiver<Content>>,
    count: usize,
}

impl Nodes {
    fn new(statuses: Option<&Statuses>) -> Self {
        let delivered = statuses.map(|(_, delivered)| delivered.clone());
        Self { delivered, count: 0 }
    }

    /// Returns when there are fewer than before.
    async fn went(&mut self) {
        if let Some(delivered) = &mut self.delivered {
            loop {
                let before = std::mem::replace(&mut self.count, delivered.borrow_and_update().nodes);
                if self.count < before {
                    return;
                }
                if delivered.changed().await.is_err() {
                    break;
                }
            }
        }
        std::future::pending::<()>().await;
    }
}

/// For how long something must look abandoned. KubeControllersConfiguration is read anew each time, so that its changes count at once.
async fn grace(datastore: &Arc<dyn Datastore>, duties: &Duties) -> Result<Duration, Error> {
    if let Some(grace) = duties.grace {
        return Ok(grace);
    }
    let records = Records::new(Arc::clone(datastore));
    let settings: Option<KubeControllersConfiguration> = records.get("default").await?;
    let node = settings.and_then(|settings| settings.spec.controllers.node);
    Ok(node.and_then(|node| node.leak_grace_period).map_or(GRACE, tortie_api::calico::felix::Duration::get))
}

/// Does the duties once. Returns the grace period that counts, and which nodes are gone and had something.
async fn turn(
    datastore: &Arc<dyn Datastore>,
    duties: &Duties,
    collector: &mut Collector,
) -> Result<(Duration, BTreeSet<String>), tortie_cni::ipam::Error> {
    make_pools(&**datastore, &duties.pools).await?;
    let grace = grace(datastore, duties).await?;
    if grace.is_zero() {
        return Ok((grace, BTreeSet::new()));
    }
    let scan = collector.scan(Instant::now(), grace).await?;
    tell(&scan);
    Ok((grace, scan.gone))
}

/// Makes the default pools, if there is not a single one.
async fn make_pools(datastore: &dyn Datastore, pools: &DefaultPools) -> Result<(), Error> {
    for pool in pools.missing(datastore).await? {
        let key = pool.key();
        match datastore.create(&pool).await {
            Ok(_) => info!(%key, "made a default pool, as there was none"),
            Err(Error::AlreadyExists(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn tell(scan: &Scan) {
    let counts = (scan.returned.len(), scan.blocks.len(), scan.affinities.len() + scan.handles.len());
    if counts == (0, 0, 0) {
        debug!(suspects = scan.leaks.len(), "IPAM was scanned");
        return;
    }
    info!(
        suspects = scan.leaks.len(),
        addresses = counts.0,
        blocks = counts.1,
        records = counts.2,
        "IPAM was scanned, and what was abandoned given back"
    );
}
