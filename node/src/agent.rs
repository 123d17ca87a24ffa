//! The agent: which tasks and threads there are, and what passes between them.
//!
//! ```text
//!   datastore watch ──┐                                  ┌── nftables (thread): one netlink socket, which owns the table
//!   kernel monitor  ──┤ events                   actions │      ▲ rules          │ done, read back
//!   CNI requests    ──┼────────▶  owner (thread) ────────┼── routes (thread): bulk writes, read-backs
//!   RIB updates     ──┤           the felix core         │      ▲ routes         │ done, read back
//!   admin questions ──┘              ▲    │              ├── keeper, tunnels (tasks): sysctls, MTU, bandwidth; ends of overlays
//!                                    │    │              └── BGP task ── speaker (tasks of its own)
//!                                    │    └── answers                        │ best paths
//!                                    └───────────────────────────────────────┘
//!   admin server (unix socket)   1x   CLI, lab, CNI plugin
//!   health server (loopback)     1x   /liveness, /readiness
//!   metrics server (loopback)    1x   /metrics
//! ```
//!
//! The owner alone has state; the others carry messages. If one of them ends, the agent ends with an error and its supervisor starts
//! it again: a restart writes nothing that is right already, so it is the safest repair there is.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hasher};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tortie_cni::ipam::Ipam;
use tortie_cni::keeper::Keeper;
use tortie_cni::load_endpoints;
use tortie_cni::server::{CniServer, ServerConfig};
use tortie_cni::tunnels::Tunnels;
use tortie_datastore::Datastore;
use tortie_datastore::directory::Directory;
use tortie_datastore::kubernetes::Kubernetes;
use tortie_felix::{Config, Event, Felix, Settings};
use tortie_felix_netlink::{Bulk, Monitor, Net, NetconfMonitor};
use tracing::{info, warn};

use crate::admin::{self, Admin, Kernel};
use crate::cli::{Component, DatastoreAddress, Options};
use crate::controller::{DefaultPools, Duties};
use crate::health::{Health, Watchdog};
use crate::instruments::Instruments;
use crate::keeper::{self, KeeperHandle};
use crate::life::answers::Sources;
use crate::life::{self, Addresses};
use crate::logging::Log;
use crate::owner::{Owner, OwnerHandle};
use crate::record::Recorder;
use crate::rundir::RunDir;
use crate::serve::{address, serve};
use crate::sole::Sole;
use crate::tunnels::{self, TunnelsHandle};
use crate::writers::{RuleJob, Writers};
use crate::{bgp, controller, convert, host_firewall, install, instruments, metrics, watch as listen};

/// How often, and with which pauses, it is tried to put right what an earlier run left half done. An API server that starts refuses at first.
const RECOVERIES: u32 = 10;
const RECOVERY_PAUSE: Duration = Duration::from_secs(2);

/// How long requests under way have when the agent stops.
const FAREWELL: Duration = Duration::from_secs(5);

/// Runs the agent until it is told to stop.
pub(crate) fn run(options: &Options, log: Log) -> Result<()> {
    let components: BTreeSet<Component> = options.components.iter().copied().collect();
    let has = |component| components.contains(&component);
    if has(Component::Cni) && !has(Component::Felix) {
        bail!("the component cni needs felix, without which no pod would be protected: add felix to --components");
    }
    let run_dir = RunDir::open(&options.run_dir)?;
    let _sole = if has(Component::Felix) { Some(Sole::claim()?) } else { None };
    let node = match &options.node {
        Some(node) => node.clone(),
        None => host_name()?,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("agent")
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(supervise(options, &run_dir, node, components, log))
}

async fn supervise(
    options: &Options,
    run_dir: &RunDir,
    node: String,
    components: BTreeSet<Component>,
    log: Log,
) -> Result<()> {
    info!(
        version = env!("CARGO_PKG_VERSION"),
        node,
        datastore = %options.datastore,
        run_dir = %options.run_dir.display(),
        components = components.iter().map(|component| component.as_str()).collect::<Vec<_>>().join(","),
        "tortie-node starts"
    );
    let addresses = Addresses::of_environment(|name| std::env::var(name).ok()).map_err(anyhow::Error::msg)?;
    let (datastore, cluster): (Arc<dyn Datastore>, Option<Kubernetes>) = match &options.datastore {
        DatastoreAddress::Directory(path) => (Arc::new(Directory::open(path)?), None),
        DatastoreAddress::Kubernetes => {
            // Without BGP, the routes to other nodes' pods are made of their blocks.
            let all_blocks = !components.contains(&Component::Bgp);
            let cluster = Kubernetes::new(None, &node).await?.with_all_blocks(all_blocks);
            (Arc::new(cluster.clone()), Some(cluster))
        }
    };
    let marks = run_dir.route_marks();
    let felix = Config {
        route_protocols: marks.protocols(),
        node: node.clone(),
        dataplane: components.contains(&Component::Felix),
        bgp: components.contains(&Component::Bgp),
        seed: seed(),
    };
    let dataplane = felix.dataplane;
    let (owner, inbox) = OwnerHandle::channel();
    let (configs, wanted) = mpsc::unbounded_channel();
    let (speaker, speaker_seen) = watch::channel(None);
    let (settings, settings_seen) = watch::channel(Settings::default());
    tokio::spawn(log.follow(settings_seen.clone()));
    let mut tasks = JoinSet::new();

    let instruments = Instruments::new();
    let progress = Arc::clone(&instruments.progress);
    let bulk = Bulk::current()?;
    // Subscribed before the core asks for the first read-back.
    if dataplane {
        let monitor = Monitor::current()?;
        monitor.ignore(&[bulk.port()])?;
        let settings = settings_seen.clone();
        tasks.spawn(listen::kernel(monitor, owner.clone(), settings, instruments.metrics.clone()));
    }
    let runtime = tokio::runtime::Handle::current();
    let writers = Writers::start(&owner, &runtime, options.plain_table, (bulk, marks), run_dir.counts(), &instruments)
        .context("cannot start a thread")?;
    if dataplane {
        listen::nftables(owner.clone(), instruments.metrics.clone()).context("cannot start a thread")?;
    }
    let way_to_rules = writers.way_to_rules();
    let (keeper, keeper_jobs) = KeeperHandle::channel();
    if dataplane {
        let monitor = NetconfMonitor::current()?;
        tasks.spawn(keeper::run(Keeper::new(&options.run_dir)?, monitor, keeper_jobs, owner.clone()));
    }
    let (tunnels, tunnel_jobs) = TunnelsHandle::channel();
    if dataplane {
        host_firewall::start(owner.clone(), settings_seen.clone(), tokio::runtime::Handle::current())
            .context("cannot start a thread")?;
    }
    let recorder = Recorder::open(options.record.as_deref(), &felix)?;
    let core = Owner::new(
        Felix::new(felix),
        recorder,
        writers,
        configs,
        settings,
        (keeper.clone(), tunnels),
        instruments.clone(),
    );
    let owner_ended = start_owner(core, inbox)?;

    let endpoints = load(&options.run_dir, dataplane).await?;
    owner.event(Event::Restored { endpoints }).await;
    tasks.spawn(listen::datastore(datastore.watch().await?, owner.clone(), (node.clone(), Arc::clone(&progress))));
    tokio::spawn(bgp::run(wanted, speaker.clone(), owner.clone()));
    let watchdog = Arc::clone(&instruments.watchdog);
    let health = Health::new(Arc::clone(&watchdog), owner.clone(), speaker_seen.clone(), Arc::clone(&datastore));
    let pages = metrics::Source {
        metrics: instruments.metrics,
        owner: owner.clone(),
        rules: way_to_rules.clone(),
        speaker: speaker_seen.clone(),
        settings: settings_seen.clone(),
        hits: Arc::default(),
    };
    let settings_for_cni = settings_seen.clone();
    let (health_at, metrics_at) = (options.health_address, options.metrics_address);
    let (health_address, health_addresses) = watch::channel(Some(health_at));
    let (metrics_address, metrics_addresses) = watch::channel(Some(metrics_at));
    tokio::spawn(serve("health", health_addresses, health.router()));
    tokio::spawn(serve("metrics", metrics_addresses, pages.router()));
    tokio::spawn(follow(settings_seen, Arc::clone(&watchdog), move |settings| {
        health_address.send_if_modified(|known| replace_if_other(known, address(&settings.health, health_at)));
        metrics_address.send_if_modified(|known| replace_if_other(known, address(&settings.metrics, metrics_at)));
    }));

    if components.contains(&Component::Controller) {
        let statuses = cluster.clone().map(|cluster| (cluster, progress.delivered()));
        tokio::spawn(controller::run(Arc::clone(&datastore), statuses, duties(options, &node)?));
    }

    let ready = watchdog.ready();
    let (recovered, cni_recovered) = watch::channel(false);
    let cni = if components.contains(&Component::Cni) {
        let kernel = Kernel { owner: owner.clone(), net: Net::current()?, keeper, settings: settings_for_cni };
        let mut config = ServerConfig::new(node.clone(), options.run_dir.clone());
        config.implicit_pools = has_implicit_pools(&options.datastore);
        let server = CniServer::new(config, Arc::clone(&datastore), Arc::new(kernel))?;
        tokio::spawn(recover(server.clone(), recovered));
        Some(server)
    } else {
        None
    };
    if dataplane {
        let ipam = cni.as_ref().map(CniServer::ipam);
        let ipam = ipam.unwrap_or_else(|| Arc::new(Ipam::new(Arc::clone(&datastore), node.clone())));
        let ends = Tunnels::new(Arc::clone(&datastore), ipam, &node)?;
        tasks.spawn(tunnels::run(ends, NetconfMonitor::current()?, tunnel_jobs, owner.clone()));
    }
    if let Some(cluster) = cluster.filter(|_| dataplane) {
        tokio::spawn(life::run(Arc::clone(&datastore), node.clone(), addresses, ready.clone()));
        tokio::spawn(life::report::run(cluster.clone(), node.clone(), progress.programmed()));
        let sources = Sources { owner: owner.clone(), speaker: speaker_seen.clone(), progress };
        tokio::spawn(life::answers::run(cluster, sources));
    }
    if options.cni_install && cni.is_some() {
        tokio::spawn(install::run(options.cni.clone().into(), run_dir.socket(), ready));
    }
    let farewell = way_to_rules.clone();
    let admin = Arc::new(Admin {
        node,
        datastore: options.datastore.to_string(),
        store: datastore,
        components: components.into_iter().collect(),
        run_dir: options.run_dir.clone(),
        owner,
        rules: way_to_rules,
        speaker: speaker_seen.clone(),
        cni,
        cni_recovered,
    });
    let (stop, stopped) = oneshot::channel::<()>();
    let stopping = async { drop(stopped.await) };
    let mut server = tokio::spawn(admin::serve(run_dir.listen()?, admin, stopping));

    let mut terminate = signal(SignalKind::terminate()).context("cannot listen to signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen to signals")?;
    let result = tokio::select! {
        _ = terminate.recv() => Ok("SIGTERM"),
        _ = interrupt.recv() => Ok("SIGINT"),
        _ = owner_ended => Err(anyhow::anyhow!("the core ended unexpectedly")),
        ended = tasks.join_next() => Err(match ended {
            Some(Ok(Err(error))) => error,
            _ => anyhow::anyhow!("a task ended unexpectedly"),
        }),
        ended = &mut server => Err(match ended {
            Ok(Err(error)) => anyhow::Error::from(error).context("the admin socket broke"),
            _ => anyhow::anyhow!("the admin server ended unexpectedly"),
        }),
    };

    // Whatever the reason: the kernel keeps rules and routes, and peers keep our routes, because they hear no Cease.
    drop(stop);
    let _ = tokio::time::timeout(FAREWELL, server).await;
    let handle = speaker_seen.borrow().clone();
    if let Some(handle) = handle {
        let _ = tokio::time::timeout(FAREWELL, handle.shutdown(false)).await;
    }
    let (kept, done) = oneshot::channel();
    farewell.send(RuleJob::Keep(kept));
    let _ = tokio::time::timeout(FAREWELL, done).await;
    let signal = result?;
    info!("{signal}: tortie-node stops; rules and routes stay in force");
    Ok(())
}

/// Follows the settings that are about watching the agent.
async fn follow(
    mut settings: watch::Receiver<Settings>,
    watchdog: Arc<Watchdog>,
    move_servers: impl Fn(&Settings) + Send + 'static,
) {
    while settings.changed().await.is_ok() {
        let settings = settings.borrow_and_update();
        watchdog.set_limits(instruments::limits(&settings.health_timeouts));
        move_servers(&settings);
    }
}

/// Puts `new` into the place of what is known, and says whether that is news.
fn replace_if_other<T: PartialEq>(known: &mut T, new: T) -> bool {
    let other = *known != new;
    *known = new;
    other
}

/// Whether a datastore without an IPPool is one with the default ones. In a cluster the controller makes them, so that everybody sees
/// which they are, and may change them.
const fn has_implicit_pools(datastore: &DatastoreAddress) -> bool {
    matches!(datastore, DatastoreAddress::Directory(_))
}

/// What the controller does.
fn duties(options: &Options, node: &str) -> Result<Duties> {
    let unasked = !has_implicit_pools(&options.datastore);
    let pools = DefaultPools::read(|name| std::env::var(name).ok(), unasked)?;
    Ok(Duties { node: node.to_owned(), grace: options.leak_grace_period, pools })
}

/// Lets the CNI server put right what an earlier run left half done. CNI calls wait for it.
async fn recover(server: CniServer, recovered: watch::Sender<bool>) {
    for attempt in 1.. {
        match server.recover().await {
            Ok(_) => break,
            Err(error) if attempt < RECOVERIES => {
                warn!("what an earlier run left half done cannot be put right yet: {error}");
                tokio::time::sleep(RECOVERY_PAUSE).await;
            }
            Err(error) => {
                warn!("what an earlier run left half done stays so until the pods are deleted: {error}");
                break;
            }
        }
    }
    recovered.send_replace(true);
}

/// The endpoints of the run before.
async fn load(run_dir: &std::path::Path, dataplane: bool) -> Result<Vec<tortie_felix::LocalEndpoint>> {
    if !dataplane {
        return Ok(Vec::new());
    }
    let run_dir: PathBuf = run_dir.to_owned();
    let endpoints = tokio::task::spawn_blocking(move || load_endpoints(&run_dir)).await?;
    if !endpoints.is_empty() {
        info!(endpoints = endpoints.len(), "endpoints of an earlier run");
    }
    Ok(endpoints.iter().map(convert::endpoint).collect())
}

/// Runs the owner on a thread and a runtime of its own. The receiver resolves when it ends, by whatever means.
fn start_owner(owner: Owner, inbox: mpsc::Receiver<crate::owner::Message>) -> Result<oneshot::Receiver<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .context("cannot start the core's runtime")?;
    let (alive, ended) = oneshot::channel();
    std::thread::Builder::new()
        .name("core".into())
        .spawn(move || {
            let _alive = alive;
            runtime.block_on(owner.run(inbox));
        })
        .context("cannot start the core's thread")?;
    Ok(ended)
}

/// The host name as the kubelet makes a node's name of it.
fn host_name() -> Result<String> {
    let file = "/proc/sys/kernel/hostname";
    let name =
        std::fs::read_to_string(file).with_context(|| format!("cannot read {file}: name the node with --node"))?;
    Ok(name.trim().to_lowercase())
}

/// A random number; the standard library's hasher is seeded with one.
fn seed() -> u32 {
    std::hash::RandomState::new().build_hasher().finish() as u32
}
