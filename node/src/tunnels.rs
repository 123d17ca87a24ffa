//! The task that keeps this node's ends of overlays as the core wants them.

use std::time::Duration;

use anyhow::Result;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tortie_cni::keeper::Repair;
use tortie_cni::tunnels::{End, Findings, Peer, Tunnels, Wanted};
use tortie_felix::{Event, HostRepair, TunnelReport};
use tortie_felix_netlink::{Mac, Netconf, NetconfMonitor};

use crate::owner::OwnerHandle;

/// Events are gathered for this long.
const GATHER: Duration = Duration::from_millis(50);

/// What could not be made right is tried again after this time, then after twice that, and so on.
const RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// The way to the task.
#[derive(Debug, Clone)]
pub(crate) struct TunnelsHandle {
    jobs: mpsc::UnboundedSender<Box<tortie_felix::Tunnels>>,
}

impl TunnelsHandle {
    pub(crate) fn channel() -> (Self, mpsc::UnboundedReceiver<Box<tortie_felix::Tunnels>>) {
        let (jobs, inbox) = mpsc::unbounded_channel();
        (Self { jobs }, inbox)
    }

    /// Has the ends kept like this from now on.
    pub(crate) fn keep(&self, tunnels: Box<tortie_felix::Tunnels>) {
        let _ = self.jobs.send(tunnels);
    }
}

struct Task {
    tunnels: Tunnels,
    owner: OwnerHandle,
    wanted: Option<(Wanted, Option<Duration>)>,
    look_at: Option<Instant>,
    pause: Duration,
    told: TunnelReport,
}

/// Runs until the agent ends. Events count from the making of `monitor` on.
pub(crate) async fn run(
    tunnels: Tunnels,
    mut monitor: NetconfMonitor,
    mut jobs: mpsc::UnboundedReceiver<Box<tortie_felix::Tunnels>>,
    owner: OwnerHandle,
) -> Result<()> {
    let told = TunnelReport::default();
    let mut task = Task { tunnels, owner, wanted: None, look_at: None, pause: RETRY, told };
    loop {
        tokio::select! {
            job = jobs.recv() => match job {
                None => return Ok(()),
                Some(tunnels) => {
                    let refresh = tunnels.refresh.map(Duration::from_millis);
                    task.wanted = Some((wanted(*tunnels), refresh));
                    task.pause = RETRY;
                    task.look(true).await;
                }
            },
            event = monitor.next() => {
                // Which interface it is does not matter: there are few ends, and to look costs little.
                let concerns = matches!(event?, Netconf::Link(_) | Netconf::Overrun);
                if concerns && task.wanted.as_ref().is_some_and(|(wanted, _)| !wanted.ends.is_empty()) {
                    let soon = Instant::now() + GATHER;
                    task.look_at = Some(task.look_at.map_or(soon, |at| at.min(soon)));
                }
            }
            () = sleep_until(task.look_at.unwrap_or_else(Instant::now)), if task.look_at.is_some() => {
                task.look(false).await;
            }
        }
    }
}

impl Task {
    /// Looks, and tells the core: as the answer that it waits for, or if there is news.
    async fn look(&mut self, is_answer: bool) {
        let Some((wanted, refresh)) = &self.wanted else { return };
        let findings = self.tunnels.keep(wanted).await;
        let next = if findings.problems.is_empty() {
            self.pause = RETRY;
            refresh.filter(|_| !wanted.ends.is_empty())
        } else {
            let now = self.pause;
            self.pause = (self.pause * 2).min(LONGEST_RETRY);
            Some(now)
        };
        self.look_at = next.map(|pause| Instant::now() + pause);
        let report = report(findings);
        let is_news = !report.repairs.is_empty() || report != self.told;
        self.told = TunnelReport { repairs: Vec::new(), ..report.clone() };
        if is_answer {
            self.owner.event(Event::TunnelsConfigured(report)).await;
        } else if is_news {
            self.owner.event(Event::TunnelsKept(report)).await;
        }
    }
}

fn report(findings: Findings) -> TunnelReport {
    let repair = |repair: Repair| HostRepair { object: repair.object, sysctl: repair.sysctl, found: repair.found };
    TunnelReport {
        ready: findings.ready,
        repairs: findings.repairs.into_iter().map(repair).collect(),
        problems: findings.problems,
    }
}

fn wanted(tunnels: tortie_felix::Tunnels) -> Wanted {
    let ends = tunnels.ends.into_iter().map(|(tunnel, end)| {
        let peers = end.peers.into_iter();
        let peers = peers.map(|(address, peer)| (address, Peer { mac: Mac(peer.mac), node: peer.node })).collect();
        let end = End {
            pools: end.pools,
            local: end.local,
            mac: Mac(end.mac),
            vni: end.vni,
            port: end.port,
            mtu: end.mtu,
            peers,
        };
        (tunnel, end)
    });
    Wanted { mtu_interfaces: tunnels.mtu_interfaces, ends: ends.collect() }
}
