//! An agent of a lab as its supervisor sees it: one that outlives its processes.

use std::fs::OpenOptions;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::lab::{Lab, array};
use crate::stream::inside;

/// How long anything may take before a test gives up. What must be quick is measured on its own.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// An agent, which outlives its processes.
pub struct Agent {
    /// The node that it serves.
    pub node: String,
    /// The node's network namespace.
    pub netns: String,
    command: Vec<String>,
    pid: i32,
    child: Option<Child>,
}

impl Agent {
    /// The agents of a lab, in the order of its nodes.
    ///
    /// # Panics
    /// When one does not run.
    pub fn all(lab: &Lab) -> Vec<Self> {
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        array(&lab.json(&["lab", "ps"])["nodes"])
            .iter()
            .map(|node| {
                let pid = i32::try_from(node["pid"].as_i64().expect("a pid")).expect("a pid");
                let command = std::fs::read(format!("/proc/{pid}/cmdline")).expect("the agent runs");
                let words = command.split(|byte| *byte == 0).filter(|word| !word.is_empty());
                let command = words.map(|word| String::from_utf8_lossy(word).into_owned()).collect();
                Self { node: text(&node["name"]), netns: text(&node["netns"]), command, pid, child: None }
            })
            .collect()
    }

    /// Its present process.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// When the agent has ended.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid), signal)
            .unwrap_or_else(|errno| panic!("{}: the agent has ended: {errno}", self.node));
    }

    /// `kill -9`, and waits until the process is gone.
    ///
    /// # Panics
    /// When it had ended by itself.
    pub fn kill(&mut self) {
        if let Some(child) = &mut self.child {
            let ended = child.try_wait().expect("the agent is ours");
            assert!(ended.is_none(), "{}: the agent had ended by itself: {ended:?}", self.node);
        }
        self.signal(Signal::SIGKILL);
        if let Some(mut child) = self.child.take() {
            child.wait().expect("the agent is ours");
        }
        let deadline = Instant::now() + PATIENCE;
        while self.runs() {
            assert!(Instant::now() < deadline, "{}: the killed agent does not end", self.node);
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Starts the agent as its supervisor would, with its output where the lab has it.
    pub fn start(&mut self, lab: &Lab) {
        self.start_with(lab, &[]);
    }

    /// The same with further flags, for this one life.
    pub fn start_with(&mut self, lab: &Lab, flags: &[&str]) {
        self.spawn(lab, &[], flags);
    }

    /// The same by a command that replaces itself with it, `env` or `nsenter` for example.
    pub fn start_by(&mut self, lab: &Lab, by: &[&str]) {
        self.spawn(lab, by, &[]);
    }

    /// The same in a time namespace, where `CLOCK_MONOTONIC` and `CLOCK_BOOTTIME` are off by so many seconds, but never below zero.
    pub fn start_in_time(&mut self, lab: &Lab, seconds: i64) {
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
        let uptime = uptime.split('.').next().and_then(|text| text.parse::<i64>().ok()).unwrap_or(0);
        let seconds = seconds.max(1 - uptime).to_string();
        self.spawn(lab, &["unshare", "--time", "--monotonic", &seconds, "--boottime", &seconds], &[]);
    }

    /// Starts it by a command that replaces itself with it.
    ///
    /// # Panics
    /// When it does not start.
    fn spawn(&mut self, lab: &Lab, by: &[&str], flags: &[&str]) {
        let log = lab.path("logs").join(format!("{}.log", self.node));
        let log = OpenOptions::new().append(true).open(log).expect("the agent has a log");
        let errors = log.try_clone().expect("a handle");
        let child = inside(&self.netns, || {
            let mut words =
                by.iter().copied().chain(self.command.iter().map(String::as_str)).chain(flags.iter().copied());
            let mut command = Command::new(words.next().expect("a program"));
            command.args(words);
            command.stdin(Stdio::null()).stdout(log).stderr(errors).current_dir("/");
            command.spawn().expect("the agent starts again")
        });
        self.pid = i32::try_from(child.id()).expect("a pid");
        self.child = Some(child);
    }

    /// Whether any of its process is left but a zombie. The first thread becomes one while others still end, and still hold files.
    fn runs(&self) -> bool {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.pid)).map_or(0, Iterator::count);
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        // The state follows the command's name in parentheses.
        let lives = stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']));
        threads > 1 || lives
    }

    /// Whether it ended although nobody killed it.
    pub fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().is_ok_and(|ended| ended.is_some()))
    }

    /// The command that it runs: the program and its arguments.
    pub fn command(&self) -> &[String] {
        &self.command
    }
}
