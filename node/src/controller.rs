//! The component `controller`: what is nobody's node's duty. It runs in every agent that has it, and one of them leads.
//!
//! Who leads makes the default IPPools of a cluster that has none, and scans IPAM from time to time for what nobody will ever give back
//! (`tortie_cni::ipam::collector`). Whoever loses the lead stops, and waits for it again.

mod pools;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tortie_api::calico::KubeControllersConfiguration;
use tortie_cni::ipam::collector::{Collector, Scan};
use tortie_cni::ipam::records::Records;
use tortie_datastore::{Datastore, Error};
use tracing::{debug, info, warn};

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

/// Leads whenever it may, for as long as the agent runs.
pub(crate) async fn run(datastore: Arc<dyn Datastore>, duties: Duties) {
    loop {
        match datastore.lead(DUTY, &duties.node).await {
            Ok(mut leadership) => {
                info!(node = duties.node, "this agent's controller leads");
                tokio::select! {
                    () = leadership.lost() => warn!("the controller's lead was lost to another agent's"),
                    () = lead(&datastore, &duties) => {}
                }
            }
            Err(error) => {
                warn!(%error, "the controller cannot lead; trying again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Does the duties until it is dropped.
async fn lead(datastore: &Arc<dyn Datastore>, duties: &Duties) {
    let mut collector = Collector::new(Arc::clone(datastore), duties.node.clone());
    loop {
        let pause = match turn(datastore, duties, &mut collector).await {
            Ok(grace) => (grace / 2).clamp(SHORTEST_PAUSE, LONGEST_PAUSE),
            Err(error) => {
                warn!(%error, "the controller could not do its duties; trying again");
                RETRY
            }
        };
        tokio::time::sleep(pause).await;
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

/// Does the duties once. Returns the grace period that counts.
async fn turn(
    datastore: &Arc<dyn Datastore>,
    duties: &Duties,
    collector: &mut Collector,
) -> Result<Duration, tortie_cni::ipam::Error> {
    make_pools(&**datastore, &duties.pools).await?;
    let grace = grace(datastore, duties).await?;
    if grace.is_zero() {
        return Ok(LONGEST_PAUSE);
    }
    let scan = collector.scan(Instant::now(), grace).await?;
    tell(&scan);
    Ok(grace)
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
