//! The lab's processes: agents, responders, and finding whatever still runs inside the lab's namespaces.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tortie_felix_netlink::netns;

use crate::Error;
use crate::name::Paths;
use crate::state::Node;

/// The executables that a lab runs.
#[derive(Debug, Clone)]
pub struct Tools {
    /// `tortie`, for the responders.
    pub tortie: PathBuf,
    /// `tortie-node`, the agent and the CNI plugin.
    pub node: PathBuf,
}

impl Tools {
    /// `tortie` at this path, and `tortie-node` beside it.
    pub fn beside(tortie: &Path) -> Result<Self, Error> {
        let node = tortie.with_file_name("tortie-node");
        if !node.exists() {
            return Err(Error::Failed(format!(
                "tortie-node is not beside {}; build it: cargo build --release -p tortie-node",
                tortie.display()
            )));
        }
        Ok(Self { tortie: tortie.to_owned(), node })
    }
}

fn log_file(path: &Path) -> Result<File, Error> {
    OpenOptions::new().create(true).append(true).open(path).map_err(|error| Error::io("open", path, error))
}

/// A command detached from the terminal: its own process group, so that Ctrl-C is the lab's to handle, and its output in a log.
fn detached(program: &Path, log: &Path) -> Result<Command, Error> {
    let out = log_file(log)?;
    let err = out.try_clone().map_err(|error| Error::io("open", log, error))?;
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0).current_dir("/");
    Ok(command)
}

/// Starts a node's agent; its process id.
pub fn start_agent(tools: &Tools, paths: &Paths, node: &Node) -> Result<u32, Error> {
    let run_dir = paths.run_dir(&node.name);
    std::fs::create_dir_all(&run_dir).map_err(|error| Error::io("create", &run_dir, error))?;
    let mut command = detached(&tools.node, &paths.log(&node.name))?;
    command
        .arg("run")
        .arg("--datastore")
        .arg(format!("dir:{}", paths.datastore().display()))
        .args(["--node", &node.name])
        .arg("--run-dir")
        .arg(&run_dir);
    if node.no_bgp {
        command.args(["--components", "felix,cni"]);
    }
    start(&node.netns, &mut command)
}

/// Starts the responders; their process id. They live in the fabric's namespace, which is how `down` finds them.
pub fn start_responders(tools: &Tools, paths: &Paths, lab: &str) -> Result<u32, Error> {
    let mut command = detached(&tools.tortie, &paths.log("responders"))?;
    command.args(["lab", "serve", "--lab", lab]);
    start(&crate::name::fabric_netns(lab), &mut command)
}

fn start(netns: &str, command: &mut Command) -> Result<u32, Error> {
    let netns = netns::open(netns).map_err(Error::net)?;
    let program = command.get_program().to_owned();
    let mut child = netns.spawn(command).map_err(|error| Error::io("start", Path::new(&program), error))?;
    let pid = child.id();
    // Whoever ends first, no zombie is left: the demo outlives the agent that it kills.
    std::thread::spawn(move || child.wait());
    Ok(pid)
}

/// Whether a process runs and is not a zombie.
pub fn is_alive(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    // The state is the first field after the command's closing parenthesis, which the command itself may contain.
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// The process id of the agent that runs with a run directory, whoever started it: it holds the lock there.
pub fn agent(run_dir: &Path) -> Option<u32> {
    let lock = run_dir.join("tortie.lock").canonicalize().ok()?;
    let inode = std::fs::metadata(&lock).ok()?.ino();
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    // Another file system may have a file of the same number.
    holders(&locks, inode).find(|pid| {
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        open.map(|file| file.path()).any(|file| std::fs::read_link(file).is_ok_and(|target| target == lock))
    })
}

/// Who holds a lock by flock(2) on a file of this inode, as proc_locks(5) lists them. Who waits for one is listed with `->`.
fn holders(locks: &str, inode: u64) -> impl Iterator<Item = u32> {
    locks.lines().filter_map(move |line| {
        let fields: Vec<&str> = line.split_whitespace().skip(1).collect();
        let [kind, _, _, pid, place, ..] = fields.as_slice() else { return None };
        let same = place.rsplit(':').next().is_some_and(|number| number.parse() == Ok(inode));
        if *kind == "FLOCK" && same { pid.parse().ok() } else { None }
    })
}

/// Process ids that are in one of the namespaces of these names.
pub fn inside(names: &[String]) -> Vec<i32> {
    let inodes: HashSet<(u64, u64)> = names
        .iter()
        .filter_map(|name| std::fs::metadata(Path::new("/run/netns").join(name)).ok())
        .map(|metadata| (metadata.dev(), metadata.ino()))
        .collect();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        if std::fs::metadata(entry.path().join("ns/net"))
            .is_ok_and(|metadata| inodes.contains(&(metadata.dev(), metadata.ino())))
        {
            found.push(pid);
        }
    }
    found
}

/// Ends every process inside these namespaces: asks first, then insists. This process is left out.
pub fn end_all(names: &[String]) {
    let me = i32::try_from(std::process::id()).unwrap_or(0);
    for (signal, patience) in [(Signal::SIGTERM, 1500), (Signal::SIGKILL, 5000)] {
        let deadline = Instant::now() + Duration::from_millis(patience);
        let pids: Vec<i32> = inside(names).into_iter().filter(|pid| *pid != me).collect();
        for pid in &pids {
            // A process that has just ended by itself is what we want.
            let _ = kill(Pid::from_raw(*pid), signal);
        }
        while pids.iter().any(|pid| is_alive(pid.unsigned_abs())) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_alive() {
        assert!(is_alive(std::process::id()));
        assert!(!is_alive(u32::MAX));
    }

    #[test]
    fn an_agent_is_found_by_its_lock() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(agent(folder.path()), None);
        let lock = File::create(folder.path().join("tortie.lock")).expect("a file");
        assert_eq!(agent(folder.path()), None, "not locked");
        lock.try_lock().expect("a lock");
        assert_eq!(agent(folder.path()), Some(std::process::id()));
        drop(lock);
        assert_eq!(agent(folder.path()), None, "free again");
    }

    #[test]
    fn locks_are_read_as_the_kernel_lists_them() {
        let locks = "1: FLOCK  ADVISORY  WRITE 2255 fe:00:77 0 EOF\n1: -> FLOCK  ADVISORY  WRITE 2256 fe:00:77 0 EOF\n\
            2: POSIX  ADVISORY  WRITE 9 fe:00:77 0 EOF\n3: FLOCK  ADVISORY  READ 8 00:1d:177 0 EOF\nwhat\n";
        assert_eq!(holders(locks, 77).collect::<Vec<_>>(), [2255]);
        assert_eq!(holders(locks, 7).count(), 0);
    }
}
