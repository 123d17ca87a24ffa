//! The thread that looks after the host's own firewalls, and looks for what other network agents left.
//!
//! It acts on its own, for it writes nothing that the core decides about, and it may take seconds over the programs of the host: the
//! core only hears how things stand. It looks when it starts, whenever somebody else has committed something to nf_tables, and from
//! time to time: nobody is told when legacy iptables or a file changes.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::runtime;
use tokio::sync::watch;
use tortie_felix::{Event, HostFirewall as Standing, HostFirewallRepair, Settings};
use tortie_felix_netlink::Net;
use tortie_host_firewall::leftovers::{self, Owner};
use tortie_host_firewall::{HostFirewall, Reopened, Report, Scope};
use tortie_nft_netlink::{NftEvent, NftMonitor};
use tracing::{debug, info, warn};

use crate::owner::OwnerHandle;

/// How often legacy iptables is looked at: two system calls each.
const LEGACY_EVERY: Duration = Duration::from_secs(5);

/// How often everything is looked at although nothing was heard.
const ALL_EVERY: Duration = Duration::from_secs(90);

/// A firewall that is loaded anew changes many times in a row: it is looked at once it has been quiet for so long.
const QUIET: Duration = Duration::from_millis(100);

/// But not later than this.
const PATIENCE: Duration = Duration::from_secs(1);

/// So many authors of changes are told.
const AUTHORS: usize = 3;

/// Starts the thread, in the present network namespace.
pub(crate) fn start(
    owner: OwnerHandle,
    settings: watch::Receiver<Settings>,
    runtime: runtime::Handle,
) -> std::io::Result<()> {
    // Subscribed before the first look, so nothing falls in between.
    let monitor = NftMonitor::open();
    let work = move || {
        let monitor = monitor
            .inspect_err(|error| warn!("changes of others to nf_tables are only seen every {ALL_EVERY:?}: {error}"));
        Looker {
            owner,
            runtime,
            monitor: monitor.ok(),
            settings,
            firewalls: BTreeMap::new(),
            told: None,
            by: BTreeSet::new(),
        }
        .run();
    };
    std::thread::Builder::new().name("host-firewall".into()).spawn(work).map(|_| ())
}

struct Looker {
    owner: OwnerHandle,
    runtime: runtime::Handle,
    monitor: Option<NftMonitor>,
    settings: watch::Receiver<Settings>,
    /// One for each prefix that pods' interfaces have had: what is opened for one stays, as its pods may.
    firewalls: BTreeMap<String, HostFirewall>,
    /// The problems that the core heard of last.
    told: Option<Vec<String>>,
    /// Who changed nf_tables since the last look, the first few.
    by: BTreeSet<String>,
}

impl Looker {
    fn run(mut self) {
        let mut left = self.leftovers();
        let mut all_at = Instant::now() + ALL_EVERY;
        self.look(Scope::All, &left);
        loop {
            let heard = self.wait(LEGACY_EVERY);
            let due = all_at <= Instant::now();
            if due {
                left = self.leftovers();
                all_at = Instant::now() + ALL_EVERY;
            }
            let other = self.settings.has_changed().unwrap_or_default();
            self.look(if heard || due || other { Scope::All } else { Scope::Legacy }, &left);
        }
    }

    fn look(&mut self, scope: Scope, leftovers: &[String]) {
        for prefix in &self.settings.borrow_and_update().routes.interface_prefixes {
            self.firewalls.entry(prefix.clone()).or_insert_with(|| HostFirewall::new(prefix));
        }
        let mut report = Report::default();
        for firewall in self.firewalls.values_mut() {
            let Report { opened, reopened, problems } = firewall.ensure(scope);
            report.opened.extend(opened);
            report.reopened.extend(reopened);
            report.problems.extend(problems);
        }
        for opened in &report.opened {
            info!("{opened}");
        }
        // Who of them it was is not known, only that nobody else changed anything.
        let by = std::mem::take(&mut self.by).into_iter().collect::<Vec<_>>().join(" or ");
        let by = (!by.is_empty()).then_some(by);
        let repair = |again: Reopened| HostFirewallRepair {
            object: again.object,
            found: again.found,
            by: by.clone().filter(|_| again.in_nf_tables),
        };
        let repairs: Vec<HostFirewallRepair> = report.reopened.into_iter().map(repair).collect();
        let problems: Vec<String> = report.problems.iter().chain(leftovers).cloned().collect();
        if !repairs.is_empty() || self.told.as_ref() != Some(&problems) {
            self.told = Some(problems.clone());
            self.owner.blocking_event(Event::HostFirewall(Standing { problems, repairs }));
        }
    }

    /// What others left or run here, a sentence each.
    fn leftovers(&self) -> Vec<String> {
        let running = leftovers::running();
        if !running.is_empty() {
            let sentence = |(pid, name): (u32, String)| {
                format!(
                    "{name} (process {pid}) runs on this node too: both write routes and rules for pods; stop one of them"
                )
            };
            return running.into_iter().map(sentence).collect();
        }
        let _guard = self.runtime.enter();
        let net = match Net::current() {
            Ok(net) => net,
            Err(error) => {
                debug!(%error, "leftovers are not looked for");
                return Vec::new();
            }
        };
        let (found, errors) = self.runtime.block_on(leftovers::find(&net, &leftovers::Place::default()));
        for error in errors {
            debug!("leftovers: {error}");
        }
        let of = |owner: Owner| {
            let things: Vec<&str> =
                found.iter().filter(|left| left.owner == owner).map(|left| left.text.as_str()).collect();
            let shown = things.iter().take(4).copied().collect::<Vec<_>>().join(", ");
            let more = things.len().checked_sub(4).filter(|more| *more > 0).map(|more| format!(" and {more} more"));
            let more = more.unwrap_or_default();
            (!things.is_empty())
                .then(|| format!("{owner} left {shown}{more} on this node: `tortie node clean` lists and removes it"))
        };
        Owner::ALL.into_iter().filter_map(of).collect()
    }

    /// Waits for a change by somebody else, and then until there are none for a moment. Whether there was one.
    fn wait(&mut self, longest: Duration) -> bool {
        if !self.hear(longest) {
            return false;
        }
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until && self.hear(QUIET) {}
        true
    }

    /// Whether somebody else changes nf_tables within a time.
    fn hear(&mut self, time: Duration) -> bool {
        let Some(monitor) = &mut self.monitor else {
            std::thread::sleep(time);
            return false;
        };
        let until = Instant::now() + time;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(monitor.as_fd(), PollFlags::POLLIN)], timeout) {
                Ok(0) => return false,
                Ok(_) => {}
                Err(nix::Error::EINTR) => continue,
                Err(error) => {
                    debug!(%error, "listening to nf_tables");
                    self.monitor = None;
                    return false;
                }
            }
            match monitor.try_next() {
                Ok(Some(NftEvent::Commit { process, ours, .. })) => {
                    // What this thread writes comes from another socket of this process.
                    let own = process.as_ref().is_some_and(|(pid, _)| *pid == std::process::id());
                    if !ours && !own {
                        if self.by.len() < AUTHORS {
                            self.by.extend(process.map(|(pid, name)| format!("{name} ({pid})")));
                        }
                        return true;
                    }
                }
                Ok(Some(NftEvent::Overrun)) => return true,
                Ok(None) => {}
                Err(error) => {
                    warn!("changes of others to nf_tables are only seen every {ALL_EVERY:?} from now on: {error}");
                    self.monitor = None;
                    return false;
                }
            }
        }
    }
}
