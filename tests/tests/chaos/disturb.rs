//! The disturbances.

use std::process::Child;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tortie_tests::kernel::run;

use crate::Chance;
use crate::change::Change;
use crate::cluster::Cluster;
use crate::strangers;
use crate::traffic::{Cut, Hole};

/// After a cable is back, neighbours are asked for once a second.
const RESOLVE: Duration = Duration::from_millis(2500);

/// What happens, with all that is random in it, so that a failure names it. Agents are given by their place, times in microseconds.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// `kill -9`, a while without an agent, restart.
    Kill { agents: Vec<usize>, dead: u64 },
    /// Killed again so soon after its restart that it may still be starting.
    KillStarting { agent: usize, after: u64 },
    /// Killed while documents change, in most cases in the midst of what it has to do for that.
    KillDuring { agent: usize, change: Change, after: u64, dead: u64 },
    /// Killed, and started again where the clock that only goes forward shows another time by so many seconds.
    KillIntoOtherTime { agent: usize, seconds: i64 },
    /// The machine's clock is set to another time, forth and back. Only on a machine that is the test's own.
    ClockJump { seconds: i64, change: Change },
    /// SIGSTOP, a change that the agent misses, SIGCONT.
    Stop { agent: usize, change: Change, during: u64 },
    /// Killed and back while a neighbour's agent is stopped, and answers nobody.
    KillBesideStopped { agent: usize, dead: u64, during: u64 },
    /// Documents change, and nothing else happens.
    Just(Change),
    /// The receive buffers of the agent's netlink sockets hold a page, and more happens than that while documents change.
    Starve { agent: usize, change: Change },
    /// Somebody flushes all of nftables, tries to delete our table, and goes on with tables of their own while documents change.
    NftStranger { agent: usize, change: Change },
    /// The agent is killed and comes back as on a kernel that owns no tables; then somebody flushes all of nftables.
    Flush { agent: usize },
    /// Somebody deletes one of our routes, or all of them, while the agent runs or while it is dead.
    RouteStranger { agent: usize, pick: Option<u64>, dead: bool },
    /// Somebody deletes the interface of a pod.
    LinkStranger { guest: Change },
    /// The node's cable is out; meanwhile an agent may be killed, this node's or another's.
    Cable { agent: usize, during: u64, killed: Option<usize> },
}

/// The kinds of steps, each as often as it is to come up. They are dealt as from a deck of cards, so that each kind comes up in every run.
const DECK: [u8; 32] =
    [0, 0, 0, 0, 1, 2, 3, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4, 5, 6, 7, 8, 8, 8, 9, 10, 10, 11, 12, 12, 13, 14, 15];

/// The cards that have not come up yet.
#[derive(Default)]
pub(crate) struct Deck(Vec<u8>);

impl Deck {
    fn deal(&mut self, chance: &mut Chance) -> u8 {
        if self.0.is_empty() {
            self.0 = DECK.to_vec();
        }
        let count = u64::try_from(self.0.len()).expect("a length");
        self.0.swap_remove(usize::try_from(chance.below(count)).expect("an index"))
    }
}

impl Step {
    pub(crate) fn choose(deck: &mut Deck, chance: &mut Chance, cluster: &Cluster) -> Self {
        let agent = usize::try_from(chance.below(3)).expect("an index");
        match deck.deal(chance) {
            0 => Self::Kill { agents: vec![agent], dead: chance.below(1_000_000) },
            1 => Self::Kill { agents: vec![agent, (agent + 1) % 3], dead: chance.below(1_000_000) },
            2 => Self::Kill { agents: vec![0, 1, 2], dead: chance.below(1_000_000) },
            3 => Self::KillStarting { agent, after: chance.below(60_000) },
            4 => {
                let change = Change::choose(chance, cluster);
                let agent = change.agent(cluster).unwrap_or(agent);
                Self::KillDuring { agent, change, after: chance.below(60_000), dead: chance.below(400_000) }
            }
            5 => Self::KillIntoOtherTime { agent, seconds: *chance.pick(&[4_000_000_000, 1_000_000, -600]) },
            6 => {
                let during = 500_000 + chance.below(2_000_000);
                Self::Stop { agent, change: Change::choose(chance, cluster), during }
            }
            7 => {
                let (dead, during) = (chance.below(500_000), 500_000 + chance.below(2_000_000));
                Self::KillBesideStopped { agent, dead, during }
            }
            8 => Self::Just(Change::choose(chance, cluster)),
            9 => Self::Starve { agent, change: Change::choose(chance, cluster) },
            10 => Self::NftStranger { agent, change: Change::choose(chance, cluster) },
            11 => Self::Flush { agent },
            12 => Self::RouteStranger { agent, pick: Some(chance.below(1000)), dead: chance.below(2) == 0 },
            13 => Self::RouteStranger { agent, pick: None, dead: chance.below(2) == 0 },
            14 => match Change::one_guest(chance, cluster) {
                Some(guest) => Self::LinkStranger { guest },
                None => Self::Just(Change::choose(chance, cluster)),
            },
            _ if own_machine() && chance.below(2) == 0 => {
                let seconds = *chance.pick(&[-86_400, 86_400, 400_000_000, 2_000_000_000]);
                Self::ClockJump { seconds, change: Change::choose(chance, cluster) }
            }
            _ => {
                let killed = usize::try_from(chance.below(4)).ok().filter(|agent| *agent < 3);
                Self::Cable { agent, during: 2_000_000, killed }
            }
        }
    }

    /// How many agents it kills.
    pub(crate) fn kills(&self) -> usize {
        match self {
            Self::Kill { agents, .. } => agents.len(),
            Self::KillStarting { .. } => 2,
            Self::KillDuring { .. }
            | Self::KillIntoOtherTime { .. }
            | Self::KillBesideStopped { .. }
            | Self::Flush { .. }
            | Self::RouteStranger { dead: true, .. }
            | Self::Cable { killed: Some(_), .. } => 1,
            _ => 0,
        }
    }

    /// Does it. Where it cuts flows by itself, or lets through what is denied, is returned.
    pub(crate) fn run(self, cluster: &mut Cluster, chance: &mut Chance, title: &str) -> Vec<Hole> {
        match self {
            Self::Kill { agents, dead } => {
                for agent in &agents {
                    cluster.agents[*agent].kill();
                }
                pause(dead);
                for agent in &agents {
                    cluster.restart(*agent);
                }
            }
            Self::KillStarting { agent, after } => {
                cluster.agents[agent].kill();
                cluster.restart(agent);
                pause(after);
                cluster.agents[agent].kill();
                cluster.restart(agent);
            }
            Self::KillDuring { agent, change, after, dead } => {
                let command = change.start_in_haste(cluster);
                change.wait_for_wiring(cluster);
                pause(after);
                cluster.agents[agent].kill();
                pause(dead);
                cluster.restart(agent);
                // Whether the command came through depends on the moment.
                if let Err(reason) = Cluster::finish(command) {
                    println!("            {}", reason.trim().replace('\n', " "));
                }
                cluster.repeat(&change.gone, title);
            }
            Self::KillIntoOtherTime { agent, seconds } => {
                cluster.agents[agent].kill();
                cluster.agents[agent].start_in_time(&cluster.lab, seconds);
            }
            Self::ClockJump { seconds, change } => {
                let command = change.start(cluster);
                strangers::set_clock(seconds);
                succeed(command, title);
                strangers::set_clock(-seconds);
            }
            Self::Stop { agent, change, during } => {
                cluster.agents[agent].signal(Signal::SIGSTOP);
                let command = change.start(cluster);
                pause(during);
                cluster.agents[agent].signal(Signal::SIGCONT);
                succeed(command, title);
            }
            Self::KillBesideStopped { agent, dead, during } => {
                let beside = (agent + 1) % 3;
                cluster.agents[beside].signal(Signal::SIGSTOP);
                cluster.agents[agent].kill();
                pause(dead);
                cluster.restart(agent);
                pause(during);
                cluster.agents[beside].signal(Signal::SIGCONT);
            }
            Self::Just(change) => succeed(change.start(cluster), title),
            Self::Starve { agent, change } => {
                strangers::starve(&cluster.agents[agent], title);
                succeed(change.start(cluster), title);
            }
            Self::NftStranger { agent, change } => {
                let command = change.start(cluster);
                let command = strangers::fight(&cluster.agents[agent], command, chance);
                succeed(command, title);
            }
            Self::Flush { agent } => return strangers::flush_rules(cluster, agent, title),
            Self::RouteStranger { agent, pick, dead } => {
                return strangers::delete_routes(cluster, agent, pick, dead, title);
            }
            Self::LinkStranger { guest } => strangers::delete_link(cluster, &guest, title),
            Self::Cable { agent, during, killed } => {
                let node = cluster.agents[agent].node.clone();
                let fabric = format!("{}_fabric", cluster.lab.name);
                let link = format!("to-{node}");
                let from = Instant::now();
                run(&fabric, "ip", &["link", "set", &link, "down"]);
                if let Some(killed) = killed {
                    cluster.agents[killed].kill();
                    cluster.restart(killed);
                }
                pause(during);
                run(&fabric, "ip", &["link", "set", &link, "up"]);
                return vec![Hole { node, cut: Cut::Crossing, from, until: Instant::now() + RESOLVE }];
            }
        }
        Vec::new()
    }
}

/// Whether nobody else uses this machine's clock.
fn own_machine() -> bool {
    std::env::var_os("TORTIE_OWN_MACHINE").is_some()
}

/// The time that the history says, which is no wait for anything.
fn pause(microseconds: u64) {
    std::thread::sleep(Duration::from_micros(microseconds));
}

pub(crate) fn succeed(command: Child, title: &str) {
    if let Err(reason) = Cluster::finish(command) {
        panic!("{title}: {reason}");
    }
}
