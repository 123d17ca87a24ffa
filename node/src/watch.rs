//! The tasks that listen: to the datastore, to the kernel's interfaces and routes, and to changes of nftables by others.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::sync::{mpsc, watch};
use tortie_datastore::{Batch, Problem};
use tortie_felix::settings::RouteSettings;
use tortie_felix::{Event, Settings};
use tortie_felix_netlink::{self as netlink, Monitor, host};
use tortie_nft_netlink::{NftEvent, NftMonitor};
use tracing::{debug, warn};

use crate::convert;
use crate::metrics::Metrics;
use crate::owner::{Message, OwnerHandle};
use crate::progress::Progress;

/// Forwards batches of the datastore. Ends only with an error: without a watch the node would fall behind unnoticed.
pub(crate) async fn datastore(
    mut batches: mpsc::Receiver<Batch>,
    owner: OwnerHandle,
    (node, progress): (String, Arc<Progress>),
) -> Result<()> {
    while let Some(batch) = batches.recv().await {
        progress.deliver(&batch);
        progress.ask(&node, &batch.changes);
        let problems = batch.problems.iter().map(describe).collect();
        let changes = batch.changes.into_iter().map(convert::change).collect();
        let in_sync = batch.in_sync;
        let event = Event::Datastore { changes, in_sync, revision: batch.revision };
        owner.datastore(event, problems).await;
        // While a whole cluster is read, no more of it is under way than the owner can take in.
        if !in_sync {
            owner.ask(Message::Alive).await;
        }
    }
    bail!("the watch on the datastore ended")
}

fn describe(problem: &Problem) -> String {
    format!("{}: {}", problem.place, problem.message)
}

/// Forwards what happens to interfaces and routes. Subscribed before anything is read, so nothing falls in between.
pub(crate) async fn kernel(
    mut monitor: Monitor,
    owner: OwnerHandle,
    settings: watch::Receiver<Settings>,
    metrics: Arc<Metrics>,
) -> Result<()> {
    let mut authors = Authors::default();
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
            netlink::Event::Overrun => {
                metrics.overrun();
                Event::Overrun
            }
        };
        let tampering = may_be_tampering(&event, &settings.borrow().routes);
        let by = if tampering { authors.name(monitor.author()) } else { None };
        let event = match by {
            Some(by) => Event::Caused { by, event: Box::new(event) },
            None => event,
        };
        owner.event(event).await;
    }
}

/// Whether it is worth while to ask who did it: a router on the same node may announce a million routes.
fn may_be_tampering(event: &Event, settings: &RouteSettings) -> bool {
    match event {
        Event::RouteChanged(route) | Event::RouteRemoved(route) => {
            route.protocol == settings.protocol || route.metric == settings.metric(&route.destination)
        }
        Event::LinkRemoved { .. } | Event::LinkChanged(_) => true,
        _ => false,
    }
}

/// Finds the program behind a netlink port, which as a rule is the number of the process that opened it.
#[derive(Debug, Default)]
struct Authors {
    /// The port that was asked for last, with the answer and when it was found: most changes come in bursts.
    last: Option<(u32, Instant, Option<String>)>,
}

impl Authors {
    /// How long a program is taken to be the same.
    const SAME: Duration = Duration::from_secs(1);

    /// The largest number of a process (`PID_MAX_LIMIT`). Further sockets of one process have ports far beyond it.
    const LARGEST: u32 = 4_194_304;

    /// `NAME (PID)`; none for the kernel, for this process, and where nobody can tell. A program that was faster than we are is told
    /// by its number alone.
    fn name(&mut self, port: u32) -> Option<String> {
        if port == 0 || port > Self::LARGEST || port == std::process::id() {
            return None;
        }
        if let Some((known, at, name)) = &self.last
            && *known == port
            && at.elapsed() < Self::SAME
        {
            return name.clone();
        }
        let name = match std::fs::read_to_string(host::proc().join(format!("{port}/comm"))) {
            Ok(name) => format!("{} ({port})", name.trim_end()),
            Err(_) => format!("process {port}, which has ended"),
        };
        self.last = Some((port, Instant::now(), Some(name.clone())));
        Some(name)
    }
}

/// After a change of nftables by others the next ones are taken together: a stranger may make a thousand a second.
const NAP: Duration = Duration::from_millis(20);

/// Who touches our table again and again has it read back this often at least.
const LONGEST_NAP: Duration = Duration::from_secs(1);

/// Starts the thread that listens for changes of nftables by others, in the present network namespace. Where the kernel does not
/// let it listen, the periodic read-back is left.
pub(crate) fn nftables(owner: OwnerHandle, metrics: Arc<Metrics>) -> std::io::Result<()> {
    // Opened here, so that it misses nothing that comes after the first read-back.
    let mut monitor =
        NftMonitor::open().inspect_err(|error| warn!("changes of nftables by others are seen late: {error}")).ok();
    std::thread::Builder::new().name("nft-watch".into()).spawn(move || {
        let mut naps = Naps::default();
        while let Some(listening) = &mut monitor {
            match wait(listening, &owner, &metrics) {
                Ok(touched) => std::thread::sleep(naps.after(touched)),
                Err(error) => {
                    debug!(%error, "nftables' events");
                    std::thread::sleep(LONGEST_NAP);
                    monitor = NftMonitor::open().ok();
                    // What happened in between is unknown.
                    owner.blocking_event(Event::RulesTouched { by: None });
                }
            }
        }
        warn!("changes of nftables by others are seen late: the kernel's events are out of reach");
    })?;
    Ok(())
}

/// Waits for changes by others and takes in all that there are. Whether our table was among what they changed.
fn wait(monitor: &mut NftMonitor, owner: &OwnerHandle, metrics: &Metrics) -> Result<bool, tortie_nft_netlink::Error> {
    let (mut commits, mut touches, mut by) = (0, 0, None);
    let mut event = monitor.next()?;
    loop {
        match event {
            NftEvent::Commit { ours: true, .. } => {}
            NftEvent::Commit { touched, process, .. } => {
                commits += 1;
                if touched {
                    touches += 1;
                    by = process.map(|(pid, name)| format!("{name} ({pid})"));
                }
            }
            NftEvent::Overrun => {
                metrics.overrun();
                touches += 1;
            }
        }
        match monitor.try_next()? {
            Some(next) => event = next,
            // Our own changes are no reason to pause.
            None if commits == 0 && touches == 0 => event = monitor.next()?,
            None => break,
        }
    }
    metrics.foreign_commits(commits, touches);
    if touches > 0 {
        owner.blocking_event(Event::RulesTouched { by });
    }
    Ok(touches > 0)
}

/// How long to sleep between readings.
#[derive(Debug)]
struct Naps {
    next: Duration,
    woke: Option<Instant>,
}

impl Default for Naps {
    fn default() -> Self {
        Self { next: NAP, woke: None }
    }
}

impl Naps {
    /// The nap after a reading; longer and longer while our table is touched in each.
    fn after(&mut self, touched: bool) -> Duration {
        let quiet = self.woke.is_none_or(|woke| woke.elapsed() > LONGEST_NAP);
        self.next = if touched && !quiet { (self.next * 2).min(LONGEST_NAP) } else { NAP };
        self.woke = Some(Instant::now());
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_author_of_a_change_is_told_by_name_or_at_least_by_number() {
        let mut authors = Authors::default();
        assert_eq!(authors.name(0), None, "the kernel");
        assert_eq!(authors.name(std::process::id()), None, "this process");
        assert_eq!(authors.name(u32::MAX - 5), None, "a port that is no process");
        let mut sleeper = std::process::Command::new("sleep").arg("60").spawn().expect("sleep");
        let name = authors.name(sleeper.id()).expect("a name");
        assert!(name.ends_with(&format!("({})", sleeper.id())), "{name}");
        sleeper.kill().and_then(|()| sleeper.wait()).expect("it ends");
        assert_eq!(authors.name(sleeper.id()), Some(name), "for a moment it is the same");
        let ended = Authors::default().name(sleeper.id()).expect("a number");
        assert_eq!(ended, format!("process {}, which has ended", sleeper.id()));
    }

    #[test]
    fn who_touches_our_table_all_the_time_is_answered_less_often() {
        let mut naps = Naps::default();
        assert_eq!((naps.after(true), naps.after(false), naps.after(false)), (NAP, NAP, NAP));
        let longer: Vec<Duration> = (0..8).map(|_| naps.after(true)).collect();
        assert_eq!((longer[0], longer[7]), (NAP * 2, LONGEST_NAP));
        assert_eq!(naps.after(false), NAP);
    }
}
