//! The task that keeps the node's interfaces and kernel settings as the core wants them: it hears the kernel's events, looks again
//! from time to time, and tells the core what others had changed.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use tortie_cni::keeper::{Findings, Keeper, Scope, Wanted};
use tortie_cni::mtu::Overlay;
use tortie_felix::{Event, Host, HostRepair, HostReport};
use tortie_felix_netlink::{Netconf, NetconfMonitor};

use crate::owner::OwnerHandle;

/// Events are gathered for this long, as one pod that comes makes some ten of them.
const GATHER: Duration = Duration::from_millis(50);

/// What could not be made right is tried again after this time.
const RETRY: Duration = Duration::from_secs(30);

/// What the task is told.
#[derive(Debug)]
pub(crate) enum Job {
    /// Keep the node like this from now on.
    Host(Box<Host>),
    /// Look after a pod's interface now; answered when that is done.
    Settle { interface: String, reply: oneshot::Sender<()> },
}

/// The way to the task.
#[derive(Debug, Clone)]
pub(crate) struct KeeperHandle {
    jobs: mpsc::UnboundedSender<Job>,
}

impl KeeperHandle {
    pub(crate) fn channel() -> (Self, mpsc::UnboundedReceiver<Job>) {
        let (jobs, inbox) = mpsc::unbounded_channel();
        (Self { jobs }, inbox)
    }

    pub(crate) fn host(&self, host: Box<Host>) {
        let _ = self.jobs.send(Job::Host(host));
    }

    /// Returns when the pod's interface is as it should be, or why it is not is known.
    pub(crate) async fn settle(&self, interface: &str) {
        let (reply, done) = oneshot::channel();
        if self.jobs.send(Job::Settle { interface: interface.to_owned(), reply }).is_ok() {
            let _ = done.await;
        }
    }
}

/// What is to be looked at next.
#[derive(Debug, Default)]
struct Dirty {
    all: bool,
    node: bool,
    interfaces: BTreeSet<u32>,
    names: BTreeSet<String>,
}

impl Dirty {
    fn add(&mut self, event: Netconf) {
        match event {
            Netconf::Interface(index) | Netconf::Link(index) => drop(self.interfaces.insert(index)),
            Netconf::All => self.node = true,
            Netconf::Default => {}
            Netconf::Overrun => self.all = true,
        }
    }

    fn is_clean(&self) -> bool {
        !self.all && !self.node && self.interfaces.is_empty() && self.names.is_empty()
    }

    fn take(&mut self) -> Scope {
        let Self { all, node, interfaces, names } = std::mem::take(self);
        if all { Scope::All } else { Scope::Some { node, interfaces, names } }
    }
}

struct Task {
    keeper: Keeper,
    owner: OwnerHandle,
    wanted: Option<(Wanted, Option<Duration>)>,
    dirty: Dirty,
    /// When what is dirty, or everything, is looked at.
    look_at: Option<Instant>,
    all_at: Option<Instant>,
    problems: Vec<String>,
}

/// Runs until the agent ends. Events count from the making of `monitor` on.
pub(crate) async fn run(
    keeper: Keeper,
    mut monitor: NetconfMonitor,
    mut jobs: mpsc::UnboundedReceiver<Job>,
    owner: OwnerHandle,
) -> Result<()> {
    let dirty = Dirty::default();
    let mut task = Task { keeper, owner, wanted: None, dirty, look_at: None, all_at: None, problems: Vec::new() };
    loop {
        let wake = task.look_at.into_iter().chain(task.all_at).min();
        tokio::select! {
            job = jobs.recv() => match job {
                None => return Ok(()),
                Some(Job::Host(host)) => task.follow(&host).await,
                Some(Job::Settle { interface, reply }) => {
                    task.dirty.names.insert(interface);
                    task.look().await;
                    let _ = reply.send(());
                }
            },
            event = monitor.next() => {
                task.dirty.add(event?);
                if !task.dirty.is_clean() {
                    task.look_at.get_or_insert_with(|| Instant::now() + GATHER);
                }
            }
            () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {
                task.dirty.all |= task.all_at.is_some_and(|at| at <= Instant::now());
                task.look().await;
            }
        }
    }
}

impl Task {
    /// Takes in what is wanted now, and brings about what differs from before.
    async fn follow(&mut self, host: &Host) {
        let wanted = Wanted {
            forward_ipv4: host.forward_ipv4,
            forward_ipv6: host.forward_ipv6,
            mtu_interfaces: host.mtu_interfaces.clone(),
            bandwidth: host.bandwidth.clone(),
            foreign_sources: host.foreign_sources.clone(),
            overlay: Overlay { overhead: host.encapsulation, limit: host.mtu_limit },
        };
        let refresh = host.refresh.map(Duration::from_millis);
        let before = self.wanted.replace((wanted.clone(), refresh)).map(|(wanted, _)| wanted);
        match before {
            Some(before) if needs_of_pods_only(&before, &wanted) => {
                self.dirty.names.extend(differing(&before, &wanted));
            }
            _ => self.dirty.all = true,
        }
        let forwarding = self.look().await;
        self.owner.event(Event::HostConfigured(forwarding.map_or(Ok(()), Err))).await;
    }

    /// Looks at what is dirty. Returns why the node does not forward as it should, if so.
    async fn look(&mut self) -> Option<String> {
        self.look_at = None;
        let (wanted, refresh) = self.wanted.as_ref()?;
        let scope = self.dirty.take();
        let findings = self.keeper.keep(wanted, &scope).await;
        let next =
            if findings.problems.is_empty() { *refresh } else { Some(refresh.map_or(RETRY, |it| it.min(RETRY))) };
        if scope == Scope::All {
            self.all_at = next.map(|pause| Instant::now() + pause);
        } else if !findings.problems.is_empty() {
            self.all_at = next.map(|pause| Instant::now() + pause).into_iter().chain(self.all_at).min();
        }
        self.report(findings, scope == Scope::All).await
    }

    /// A look at everything tells all problems; another adds to them.
    async fn report(&mut self, findings: Findings, all: bool) -> Option<String> {
        let known = std::mem::take(&mut self.problems);
        let mut problems = if all { Vec::new() } else { known.clone() };
        problems.extend(findings.problems.into_iter().filter(|problem| !known.contains(problem) || all));
        let repairs: Vec<HostRepair> = findings
            .repairs
            .into_iter()
            .map(|repair| HostRepair { object: repair.object, sysctl: repair.sysctl, found: repair.found })
            .collect();
        if !repairs.is_empty() || problems != known {
            self.owner.event(Event::HostKept(HostReport { repairs, problems: problems.clone() })).await;
        }
        self.problems = problems;
        findings.forwarding
    }
}

fn needs_of_pods_only(before: &Wanted, after: &Wanted) -> bool {
    let rest =
        |wanted: &Wanted| (wanted.forward_ipv4, wanted.forward_ipv6, wanted.mtu_interfaces.clone(), wanted.overlay);
    rest(before) == rest(after)
}

/// The interfaces of which something else is wanted now.
fn differing(before: &Wanted, after: &Wanted) -> BTreeSet<String> {
    let limited = before.bandwidth.keys().chain(after.bandwidth.keys());
    let limits = limited.filter(|name| before.bandwidth.get(*name) != after.bandwidth.get(*name));
    limits.chain(before.foreign_sources.symmetric_difference(&after.foreign_sources)).cloned().collect()
}
