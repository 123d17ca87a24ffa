//! A network namespace of the test's own, with a real BIRD in it.

pub(crate) mod netns;

use std::io::{BufRead, BufReader, Read};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use self::netns::program;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tortie_bird_speaker::{Config, Handle, PeerConfig, PeerKind, PeerStatus, RouteView, State};

/// BIRD's address, and ours.
pub(crate) const BIRD: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
pub(crate) const OURS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// Long enough for a busy machine; nothing waits so long that goes well.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running BIRD, killed when dropped.
pub(crate) struct Bird {
    folder: tempfile::TempDir,
    child: Child,
}

impl Bird {
    /// A BIRD in AS 64512 that originates 10.8.0.0/24 and fd00:8::/64 and has one session with us; `bgp` is added to the session's
    /// configuration, `more` to the file.
    pub(crate) fn start(bgp: &str, more: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let config = format!(
            r"
            log stderr all;
            router id 10.0.0.2;
            protocol device {{ }}
            protocol static own4 {{ ipv4; route 10.8.0.0/24 blackhole; }}
            protocol static own6 {{ ipv6; route fd00:8::/64 blackhole; }}
            {more}
            protocol bgp tortie {{
                local 10.0.0.2 as 64512;
                neighbor 10.0.0.1 as 64512;
                multihop; strict bind;
                graceful restart;
                connect delay time 1; connect retry time 1; error wait time 1,2;
                {bgp}
                ipv4 {{ import all; export where source = RTS_STATIC; next hop self; }};
                ipv6 {{ import all; export where source = RTS_STATIC; next hop address fd00::2; }};
            }}"
        );
        std::fs::write(folder.path().join("bird.conf"), config).expect("the configuration is written");
        let child = Self::spawn(folder.path(), &[]);
        Self { folder, child }
    }

    fn spawn(folder: &Path, flags: &[&str]) -> Child {
        let mut child = Command::new(program("bird"))
            .args(flags)
            .args(["-f", "-c", "bird.conf", "-s", "bird.ctl"])
            .current_dir(folder)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("bird starts");
        // BIRD says on stderr when it is up; reading on keeps its pipe from filling.
        let mut lines = BufReader::new(child.stderr.take().expect("it is piped"));
        let mut line = String::new();
        while !line.contains("Started") {
            line.clear();
            let count = lines.read_line(&mut line).expect("bird's stderr");
            assert!(count > 0, "bird ended before it was up");
        }
        std::thread::spawn(move || drop(std::io::copy(&mut lines.by_ref(), &mut std::io::sink())));
        child
    }

    /// Kills it without letting it say a word.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("bird runs");
        self.child.wait().expect("bird ends");
    }

    /// Takes `part` out of its configuration, for when it starts again.
    pub(crate) fn forget(&self, part: &str) {
        let path = self.folder.path().join("bird.conf");
        let text = std::fs::read_to_string(&path).expect("the configuration");
        std::fs::write(&path, text.replace(part, "")).expect("the configuration is written");
    }

    /// Starts it again; `recover`: with BIRD's graceful restart.
    pub(crate) fn restart(&mut self, recover: bool) {
        let _ = std::fs::remove_file(self.folder.path().join("bird.ctl"));
        self.child = Self::spawn(self.folder.path(), if recover { &["-R"] } else { &[] });
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        kill(Pid::from_raw(pid), signal).expect("bird runs");
    }

    /// What `birdc` answers.
    pub(crate) fn ask(&self, command: &str) -> String {
        let output = Command::new(program("birdc"))
            .args(["-s", "bird.ctl"])
            .args(command.split(' '))
            .current_dir(self.folder.path())
            .output()
            .expect("birdc runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Waits until BIRD's answer is to our liking.
    pub(crate) async fn wait(&self, command: &str, good: impl Fn(&str) -> bool) -> String {
        let mut answer = String::new();
        let ready = || {
            answer = self.ask(command);
            good(&answer)
        };
        assert!(poll(ready).await, "bird answers {command:?} with:\n{}", self.ask(command));
        self.ask(command)
    }
}

impl Drop for Bird {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn poll(mut ready: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while !ready() {
        if Instant::now() > deadline {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    true
}

/// Our side: originates 10.7.0.0/26 and fd00:7::/122.
pub(crate) fn config() -> Config {
    let mut config = Config::new(64512, OURS);
    config.listen = vec![(OURS, 179).into()];
    config.next_hop_v4 = Some(OURS);
    config.next_hop_v6 = Some("fd00::1".parse().expect("an address"));
    config.hold_time = Duration::from_secs(9);
    let mut peer = PeerConfig::new("bird", PeerKind::Mesh, BIRD.into(), 64512);
    peer.local_address = Some(OURS.into());
    config.peers = vec![peer];
    config.originate =
        ["10.7.0.0/26", "fd00:7::/122"].map(|text| text.parse::<ipnet::IpNet>().expect("a prefix").into()).to_vec();
    config
}

/// Waits until our only session is as wanted.
pub(crate) async fn wait_peer(speaker: &Handle, good: impl Fn(&PeerStatus) -> bool) -> PeerStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let peer = speaker.peers().await.into_iter().next().expect("one peer is configured");
        if good(&peer) {
            return peer;
        }
        assert!(Instant::now() < deadline, "the session is not as wanted: {peer:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) async fn wait_up(speaker: &Handle) -> PeerStatus {
    wait_peer(speaker, |peer| peer.state == State::Established).await
}

/// Waits until our paths from BIRD are as wanted.
pub(crate) async fn wait_routes(speaker: &Handle, good: impl Fn(&[RouteView]) -> bool) -> Vec<RouteView> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut routes = speaker.routes().await;
        routes.retain(|route| route.from == "bird");
        if good(&routes) {
            return routes;
        }
        assert!(Instant::now() < deadline, "the routes are not as wanted: {routes:#?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
