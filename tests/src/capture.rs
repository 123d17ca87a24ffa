//! What passes an interface, as `tcpdump` sees it.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::stream::inside;

/// A capture under way. Dropping it ends it.
pub struct Capture {
    tcpdump: Child,
    file: PathBuf,
}

impl Capture {
    /// Captures what passes an interface of a network namespace from now on.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(netns: &str, interface: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let file = std::env::temp_dir().join(format!("tortie-test-{}-{number}.pcap", std::process::id()));
        let mut tcpdump = inside(netns, || {
            let mut command = Command::new(crate::peer("tcpdump"));
            // Packets wait in no buffer: what was there when the capture ends is in the file.
            command.args(["-i", interface, "-U", "--immediate-mode", "-s", "128", "-Z", "root", "-w"]).arg(&file);
            command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("tcpdump starts")
        });
        let mut said = String::new();
        let mut stderr = BufReader::new(tcpdump.stderr.take().expect("a pipe"));
        while !said.contains("listening on") {
            assert!(stderr.read_line(&mut said).is_ok_and(|length| length > 0), "tcpdump: {said}");
        }
        Self { tcpdump, file }
    }

    /// Ends the capture; then packets are counted by filters as `pcap-filter` has them.
    ///
    /// # Panics
    /// When tcpdump does not end.
    pub fn stop(mut self) -> Captured {
        let pid = i32::try_from(self.tcpdump.id()).expect("a pid");
        kill(Pid::from_raw(pid), Signal::SIGINT).expect("tcpdump runs");
        self.tcpdump.wait().expect("tcpdump ends");
        Captured { file: std::mem::take(&mut self.file) }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.tcpdump.kill();
        let _ = self.tcpdump.wait();
        let _ = std::fs::remove_file(&self.file);
    }
}

/// What was captured.
pub struct Captured {
    file: PathBuf,
}

impl Captured {
    /// How many packets a filter selects.
    ///
    /// # Panics
    /// When tcpdump does not understand the filter.
    pub fn count(&self, filter: &str) -> usize {
        let mut command = Command::new(crate::peer("tcpdump"));
        command.args(["-nn", "-q", "-t", "-Z", "root", "-r"]).arg(&self.file).arg(filter);
        let output = command.output().expect("tcpdump runs");
        assert!(output.status.success(), "{filter}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).lines().filter(|line| !line.starts_with(char::is_whitespace)).count()
    }
}

impl Drop for Captured {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}
