//! Our speaker as a route reflector between BIRD and another implementation, with a password on the session: what each says of the other's
//! routes, and of ours.

#[allow(dead_code)]
mod common;

use std::net::{IpAddr, Ipv4Addr};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tortie_bird_speaker::{Config, Handle, Password, PeerConfig, PeerKind, PeerStatus, Speaker, State};

use self::common::netns::{in_namespace, ip, program};
use self::common::{Bird, config};

/// The third speaker's address.
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 3);
/// The cluster that we reflect for.
const CLUSTER: Ipv4Addr = Ipv4Addr::new(244, 0, 0, 1);
const PATIENCE: Duration = Duration::from_secs(60);

/// Another implementation that runs, killed when dropped.
struct Other {
    folder: tempfile::TempDir,
    child: Child,
    /// What its command line program needs before its question.
    ask: Vec<String>,
}

impl Other {
    fn start(name: &str, file: &str, text: &str, arguments: &[&str], ask: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(folder.path().join(file), text).expect("the configuration is written");
        // FRR's command line asks for a password otherwise.
        std::fs::write(folder.path().join("vtysh.conf"), "username root nopassword\n").expect("it is written");
        let log = std::fs::File::create(folder.path().join("log")).expect("a log");
        let child = Command::new(program(name))
            .args(arguments)
            .current_dir(folder.path())
            .stdout(log.try_clone().expect("a handle"))
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .expect("it starts");
        Self { folder, child, ask: ask.iter().map(|&word| word.to_owned()).collect() }
    }

    /// GoBGP in AS 64512 that originates 10.9.0.0/24 and fd00:9::/64, and is called from here.
    fn gobgp() -> Self {
        let text = format!(
            r#"
            [global.config]
            as = 64512
            router-id = "{OTHER}"
            port = 179
            local-address-list = ["{OTHER}"]
            [[neighbors]]
            [neighbors.config]
            neighbor-address = "10.0.0.1"
            peer-as = 64512
            auth-password = "hunter2"
            [neighbors.transport.config]
            local-address = "{OTHER}"
            [neighbors.timers.config]
            connect-retry = 1
            [[neighbors.afi-safis]]
            [neighbors.afi-safis.config]
            afi-safi-name = "ipv4-unicast"
            [[neighbors.afi-safis]]
            [neighbors.afi-safis.config]
            afi-safi-name = "ipv6-unicast"
            "#
        );
        let other = Self::start(
            "gobgpd",
            "gobgp.toml",
            &text,
            &["-f", "gobgp.toml", "--api-hosts", "127.0.0.1:50051"],
            &["gobgp"],
        );
        other.wait("global", |text| text.contains("64512"));
        other.ask("global rib add 10.9.0.0/24 nexthop 10.0.0.3");
        other.ask("global rib add -a ipv6 fd00:9::/64 nexthop fd00::3");
        other
    }

    /// FRR's bgpd, likewise.
    fn frr() -> Self {
        let text = format!(
            "router bgp 64512\n bgp router-id {OTHER}\n no bgp network import-check\n neighbor 10.0.0.1 remote-as 64512\n \
             neighbor 10.0.0.1 password hunter2\n neighbor 10.0.0.1 update-source {OTHER}\n neighbor 10.0.0.1 timers connect 1\n \
             address-family ipv4 unicast\n  network 10.9.0.0/24\n exit-address-family\n address-family ipv6 unicast\n  \
             neighbor 10.0.0.1 activate\n  neighbor 10.0.0.1 route-map hop out\n  network fd00:9::/64\n exit-address-family\n\
             route-map hop permit 10\n set ipv6 next-hop global fd00::3\n"
        );
        let arguments = "-f bgpd.conf -p 179 -l 10.0.0.3 -n -Z -S -i bgpd.pid --vty_socket . -A 127.0.0.1 -P 0";
        let arguments: Vec<_> = arguments.split(' ').collect();
        let other = Self::start(
            "bgpd",
            "bgpd.conf",
            &text,
            &arguments,
            &["vtysh", "--config_dir", ".", "--vty_socket", ".", "-c"],
        );
        other.wait("show bgp summary", |text| text.contains("10.0.0.1"));
        other
    }

    fn ask(&self, question: &str) -> String {
        let mut command = Command::new(program(&self.ask[0]));
        command.args(&self.ask[1..]).current_dir(self.folder.path());
        if self.ask.len() == 1 {
            command.args(question.split(' '))
        } else {
            command.arg(question)
        };
        let output = command.output().expect("its command line program runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Waits until its answer is to our liking.
    #[expect(clippy::disallowed_methods, reason = "it waits on a thread for blocking work")]
    fn wait(&self, question: &str, good: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.ask(question);
            if good(&answer) {
                return answer;
            }
            let log = || std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "{question:?} is answered with:\n{answer}\nlog:\n{}", log());
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// We reflect between BIRD and the other one.
fn reflector() -> Config {
    let mut config = config();
    config.cluster_id = Some(CLUSTER);
    config.peers[0].client = true;
    let mut other = PeerConfig::new("other", PeerKind::Node, OTHER.into(), 64512);
    other.local_address = config.peers[0].local_address;
    other.password = Password::new("hunter2".into());
    other.client = true;
    config.peers.push(other);
    config
}

async fn wait_all(speaker: &Handle, good: impl Fn(&PeerStatus) -> bool) -> Vec<PeerStatus> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let peers = speaker.peers().await;
        if peers.iter().all(&good) {
            return peers;
        }
        assert!(Instant::now() < deadline, "the sessions are not as wanted: {peers:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Runs a question of the other's on a thread of its own, so that our speaker goes on meanwhile.
async fn answered(other: &std::sync::Arc<Other>, question: &'static str, good: fn(&str) -> bool) -> String {
    let other = std::sync::Arc::clone(other);
    let netns = std::fs::File::open("/proc/thread-self/ns/net").expect("this namespace");
    tokio::task::spawn_blocking(move || {
        // Threads of the runtime's pool may be older than the namespace.
        nix::sched::setns(&netns, nix::sched::CloneFlags::CLONE_NEWNET).expect("the namespace can be entered");
        other.wait(question, good)
    })
    .await
    .expect("it answers")
}

/// Both ways through us, in both families; then each end loses what the other withdraws.
fn reflects(start: fn() -> Other, questions: [&'static str; 3]) {
    in_namespace(move || async move {
        ip("address add 10.0.0.3/24 dev lo");
        ip("address add fd00::3/64 dev lo");
        let bird = Bird::start("", "");
        let (speaker, _updates) = Speaker::spawn(reflector());
        let other = std::sync::Arc::new(
            tokio::task::spawn_blocking({
                let netns = std::fs::File::open("/proc/thread-self/ns/net").expect("this namespace");
                move || {
                    nix::sched::setns(&netns, nix::sched::CloneFlags::CLONE_NEWNET)
                        .expect("the namespace can be entered");
                    start()
                }
            })
            .await
            .expect("it starts"),
        );
        let carried = |peer: &PeerStatus| {
            peer.state == State::Established
                && peer.families.values().all(|counts| counts.accepted == 1 && counts.advertised == 2)
        };
        let peers = wait_all(&speaker, carried).await;
        assert!(peers.iter().all(|peer| peer.families.len() == 2), "one session carries both families: {peers:#?}");
        let text = bird.wait("show route all for 10.9.0.0/24", |text| text.contains("BGP.next_hop")).await;
        for attribute in ["BGP.originator_id: 10.0.0.3", "BGP.cluster_list: 244.0.0.1", "BGP.next_hop: 10.0.0.3"] {
            assert!(text.contains(attribute), "{attribute} is missing in {text}");
        }
        bird.wait("show route for fd00:9::/64", |text| text.contains("fd00:9::/64")).await;
        let [v4, v6, detail] = questions;
        answered(&other, v4, |text| text.contains("10.8.0.0/24") && text.contains("10.7.0.0/26")).await;
        answered(&other, v6, |text| text.contains("fd00:8::/64") && text.contains("fd00:7::/122")).await;
        answered(&other, detail, |text| text.contains("10.0.0.2") && text.contains("244.0.0.1")).await;
        bird.ask("disable own4");
        answered(&other, v4, |text| !text.contains("10.8.0.0/24") && text.contains("10.7.0.0/26")).await;
        let kept: Vec<IpAddr> = speaker.peers().await.iter().map(|peer| peer.address).collect();
        assert_eq!(kept.len(), 2);
        let wrong = {
            let mut config = reflector();
            config.peers[1].password = Password::new("wrong".into());
            config
        };
        speaker.configure(wrong).await;
        wait_all(&speaker, |peer| (peer.state == State::Established) == (peer.name == "bird")).await;
        bird.wait("show route for 10.9.0.0/24", |text| !text.contains("10.9.0.0/24")).await;
    });
}

#[test]
fn gobgp_is_a_client_of_ours() {
    reflects(Other::gobgp, ["global rib", "global rib -a ipv6", "global rib 10.8.0.0/24"]);
}

#[test]
fn frr_is_a_client_of_ours() {
    reflects(Other::frr, ["show bgp ipv4 unicast", "show bgp ipv6 unicast", "show bgp ipv4 unicast 10.8.0.0/24"]);
}
