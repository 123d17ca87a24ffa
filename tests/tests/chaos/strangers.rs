//! What others do to a node: to its table, its routes, its interfaces, its sockets and its clock.

use std::os::fd::OwnedFd;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::sys::socket::{setsockopt, sockopt};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use tortie_tests::agent::{Agent, PATIENCE};
use tortie_tests::kernel::{our_routes, run, try_run};

use crate::Chance;
use crate::change::Change;
use crate::cluster::Cluster;
use crate::disturb::succeed;
use crate::traffic::{Cut, Hole};

/// A stranger's damage must be repaired within this time, on a busy machine.
const REPAIR: Duration = Duration::from_secs(10);

/// A packet may have been under way when the repair was seen, and a client has to speak before its server's packets are replies again.
const AFTER: Duration = Duration::from_millis(500);

/// A connection may have been tried this long before the damage, and be made after it.
const BEFORE: Duration = Duration::from_millis(300);

/// The beginning of a hole that is made now.
fn beginning() -> Instant {
    let now = Instant::now();
    now.checked_sub(BEFORE).unwrap_or(now)
}

/// Waits until something of a node is as it should be.
fn repaired(agent: &Agent, what: &str, title: &str, mut is: impl FnMut() -> bool) -> Instant {
    let began = Instant::now();
    while !is() {
        assert!(began.elapsed() < REPAIR, "{title}: {}: {what} did not come back", agent.node);
        std::thread::sleep(Duration::from_millis(5));
    }
    Instant::now() + AFTER
}

/// Fights over nftables while a command runs.
pub(crate) fn fight(agent: &Agent, mut command: Child, chance: &mut Chance) -> Child {
    let nft = |args: &[&str]| try_run(&agent.netns, "nft", args);
    while command.try_wait().expect("tortie is ours").is_none() {
        let _ = nft(&["flush", "ruleset"]);
        let _ = nft(&["delete", "table", "inet", "tortie"]);
        let _ = nft(&["add", "table", "ip", "stranger"]);
        std::thread::sleep(Duration::from_micros(chance.below(20_000)));
    }
    let _ = nft(&["delete", "table", "ip", "stranger"]);
    command
}

/// Flushes nftables under an agent that cannot own its table. Until it is back nothing is denied; from then on everything is as before,
/// also when the agent becomes one that can.
pub(crate) fn flush_rules(cluster: &mut Cluster, agent: usize, title: &str) -> Vec<Hole> {
    cluster.agents[agent].kill();
    cluster.agents[agent].start_with(&cluster.lab, &["--plain-table"]);
    let mut holes = Vec::new();
    // At first the table still has the flags of its owner, who is dead; then it is as such a kernel would have made it.
    for _ in 0..2 {
        cluster.wait_until_settled(title);
        let agent = &cluster.agents[agent];
        let from = beginning();
        run(&agent.netns, "nft", &["flush", "ruleset"]);
        let until = repaired(agent, "the flushed table", title, || {
            let chains = try_run(&agent.netns, "nft", &["list", "chains", "inet"]).unwrap_or_default();
            chains.contains("chain ingress ")
        });
        holes.push(Hole { node: agent.node.clone(), cut: Cut::Opened, from, until });
    }
    // From here on it owns its table again, and others bounce.
    cluster.agents[agent].kill();
    cluster.restart(agent);
    holes
}

/// Deletes one of our routes, or all, and waits until they are there again. What is deleted behind a dead agent comes back with it.
pub(crate) fn delete_routes(
    cluster: &mut Cluster,
    agent: usize,
    pick: Option<u64>,
    dead: bool,
    title: &str,
) -> Vec<Hole> {
    if dead {
        cluster.agents[agent].kill();
    }
    let netns = cluster.agents[agent].netns.clone();
    let before = our_routes(&netns);
    let from = Instant::now();
    match pick {
        None => {
            for family in ["-4", "-6"] {
                run(&netns, "ip", &[family, "route", "flush", "proto", "80"]);
            }
        }
        Some(pick) => {
            let (family, route) = &before[usize::try_from(pick).expect("an index") % before.len()];
            let words = route.split(' ').take_while(|word| *word != "pref").filter(|word| !word.is_empty());
            let args: Vec<&str> = [*family, "route", "del"].into_iter().chain(words).collect();
            run(&netns, "ip", &args);
        }
    }
    if dead {
        cluster.restart(agent);
    }
    let agent = &cluster.agents[agent];
    let until = repaired(agent, &format!("what was deleted of {before:?}"), title, || {
        let now = our_routes(&netns);
        before.iter().all(|route| now.contains(route))
    });
    vec![Hole { node: agent.node.clone(), cut: Cut::All, from, until }]
}

/// Deletes the interface of a pod that has just come; its routes must go with it. Then the pod is deleted as a kubelet would.
pub(crate) fn delete_link(cluster: &mut Cluster, guest: &Change, title: &str) {
    let documents = guest.put.clone();
    succeed(guest.start(cluster), title);
    let name = documents[0]["metadata"]["name"].as_str().expect("a name").to_owned();
    let place = cluster.places().into_iter().find(|place| place.name == name).expect("the guest has come");
    let agent = cluster.agents.iter().find(|agent| agent.node == place.node).expect("it has a node");
    let routes = || {
        let routes = our_routes(&agent.netns).into_iter().map(|(_, route)| route);
        let of_guest = |route: &String| place.ips().iter().any(|ip| route.starts_with(&format!("{ip} ")));
        routes.filter(of_guest).collect::<Vec<_>>()
    };
    let found = routes();
    let device = found.first().and_then(|route| route.split(' ').skip_while(|word| *word != "dev").nth(1));
    let device = device.unwrap_or_else(|| panic!("{title}: {name} has no route: {found:?}")).to_owned();
    run(&agent.netns, "ip", &["link", "del", &device]);
    let deadline = Instant::now() + PATIENCE;
    while !routes().is_empty() {
        assert!(Instant::now() < deadline, "{title}: {name} has no interface, but the routes {:?}", routes());
        std::thread::sleep(Duration::from_millis(10));
    }
    succeed(Change { put: Vec::new(), gone: documents }.start(cluster), title);
}

/// Leaves the agent's netlink sockets a page of receive buffer, for the rest of its life, and makes more happen than fits in there.
pub(crate) fn starve(agent: &Agent, title: &str) {
    let sockets = netlink_sockets(agent);
    assert!(!sockets.is_empty(), "{title}: {}: the agent has no netlink socket", agent.node);
    for socket in &sockets {
        setsockopt(socket, sockopt::RcvBuf, &4096).expect("a buffer may shrink");
    }
    let lost = dropped(agent);
    agent.signal(Signal::SIGSTOP);
    let script = std::env::temp_dir().join(format!("tortie-test-flood-{}", std::process::id()));
    let line = |verb: &str, number: u32| format!("route {verb} blackhole 198.18.{number}.0/24 proto 99");
    let lines = |verb: &'static str| (0..200).map(move |number| line(verb, number));
    let lines: Vec<String> = lines("add").chain(lines("del")).collect();
    std::fs::write(&script, lines.join("\n") + "\n").expect("a script");
    run(&agent.netns, "ip", &["-batch", script.to_str().expect("a plain path")]);
    let _ = std::fs::remove_file(&script);
    agent.signal(Signal::SIGCONT);
    assert!(dropped(agent) > lost, "{title}: {}: no event was lost", agent.node);
}

/// The agent's own sockets, shared with it.
fn netlink_sockets(agent: &Agent) -> Vec<OwnedFd> {
    let pid = Pid::from_raw(agent.pid()).expect("a process");
    let process = pidfd_open(pid, PidfdFlags::empty()).expect("the agent runs");
    let inodes: Vec<String> = netlink_table(agent).into_iter().map(|(inode, _)| format!("socket:[{inode}]")).collect();
    let files = std::fs::read_dir(format!("/proc/{}/fd", agent.pid())).expect("the agent runs").flatten();
    let numbers = files.filter_map(|file| {
        let target = std::fs::read_link(file.path()).ok()?;
        inodes.contains(&target.to_string_lossy().into_owned()).then_some(())?;
        file.file_name().to_str()?.parse::<i32>().ok()
    });
    numbers.filter_map(|number| pidfd_getfd(&process, number, PidfdGetfdFlags::empty()).ok()).collect()
}

/// Inode and lost messages of every netlink socket of the agent's namespace.
fn netlink_table(agent: &Agent) -> Vec<(u64, u64)> {
    let table = std::fs::read_to_string(format!("/proc/{}/net/netlink", agent.pid())).expect("the agent runs");
    let row = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        Some((words.get(9)?.parse().ok()?, words.get(8)?.parse().ok()?))
    };
    table.lines().skip(1).filter_map(row).collect()
}

fn dropped(agent: &Agent) -> u64 {
    netlink_table(agent).into_iter().map(|(_, dropped)| dropped).sum()
}

/// Moves the machine's clock by so many seconds.
pub(crate) fn set_clock(seconds: i64) {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    let then = i64::try_from(now.as_secs()).expect("a time").saturating_add(seconds);
    let status = Command::new("date").args(["-s", &format!("@{then}")]).output().expect("date runs").status;
    assert!(status.success(), "the clock cannot be set");
}
