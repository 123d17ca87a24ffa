//! A stamp does not outlive its round: a flow that was denied, and stayed silent until the generations' numbers came round again, is
//! denied still. The core, real rules, real conntrack entries and real packets, in network namespaces of the test's own threads.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, UdpSocket};
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};
use tortie_api::{Decoded, Object, decode};
use tortie_felix::{Action, Change, Config, Event, Felix, LocalEndpoint, Millis, Snapshot};
use tortie_nft_netlink::{NftSocket, sweep_marks};
use tortie_policy::host_interface;

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 65, 0, 1);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 65, 0, 2);
const GATEWAY: &str = "169.254.1.1";
const PORT: u16 = 7000;

/// With the fewest bits there may be, so many generations are a round.
const ROUND: usize = 127;

fn object(document: &Value) -> Object {
    match decode(document) {
        Ok(Decoded::Object(object)) => *object,
        other => panic!("{document}: {other:?}"),
    }
}

fn ip(arguments: &str) {
    let output = Command::new(tortie_tests::peer("ip")).args(arguments.split(' ')).output().expect("ip can be started");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A pod: a thread in a network namespace of its own that makes sockets there.
struct Pod {
    thread: JoinHandle<()>,
    ready: Sender<()>,
    socket: Receiver<UdpSocket>,
}

impl Pod {
    /// Makes the pod and its link to the namespace of the calling thread.
    fn start(name: &str, address: Ipv4Addr) -> Self {
        let (tell_id, id) = channel();
        let (ready, linked) = channel::<()>();
        let (give, socket) = channel();
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace (this test needs root)");
            tell_id.send(nix::unistd::gettid()).expect("the test waits");
            linked.recv().expect("the test goes on");
            ip(&format!("addr add {address}/32 dev eth0"));
            ip("link set eth0 up");
            ip(&format!("route add {GATEWAY} dev eth0 scope link"));
            ip(&format!("route add default via {GATEWAY} dev eth0"));
            let socket = UdpSocket::bind((address, PORT)).expect("a socket");
            socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
            give.send(socket).expect("the test waits");
        });
        let id = id.recv().expect("the pod has a namespace");
        let host = host_interface("default", name);
        ip(&format!("link add {host} type veth peer name eth0 netns {id}"));
        ip(&format!("addr add {GATEWAY}/32 dev {host}"));
        ip(&format!("link set {host} up"));
        ip(&format!("route add {address}/32 dev {host}"));
        Self { thread, ready, socket }
    }

    /// The pod's socket, which keeps its namespace alive.
    fn socket(self) -> UdpSocket {
        self.ready.send(()).expect("the pod waits");
        let socket = self.socket.recv().expect("a socket");
        self.thread.join().expect("the pod did what it had to");
        socket
    }
}

/// The node: felix's core, and the kernel of the calling thread's network namespace.
struct Node {
    felix: Felix,
    socket: NftSocket,
    sweeps: bool,
    now: Millis,
    revision: u32,
}

impl Node {
    /// If it does not sweep it only says so.
    fn start(sweeps: bool) -> Self {
        let config = Config { node: "a".into(), dataplane: true, bgp: false, route_protocols: Vec::new(), seed: 120 };
        let socket = NftSocket::open().expect("a socket");
        let mut node = Self { felix: Felix::new(config), socket, sweeps, now: 1_000, revision: 0 };
        let endpoint = |pod: &str, address: Ipv4Addr| LocalEndpoint {
            namespace: "default".into(),
            pod: pod.into(),
            container_id: pod.into(),
            ifname: "eth0".into(),
            interface: host_interface("default", pod),
            ips: vec![address.into()],
        };
        node.event(Event::Restored { endpoints: vec![endpoint("client", CLIENT), endpoint("server", SERVER)] });
        let pod = |name: &str, address: Ipv4Addr| {
            json!({"apiVersion": "v1", "kind": "Pod",
                "metadata": {"namespace": "default", "name": name, "labels": {"app": name}},
                "spec": {"nodeName": "a", "containers": [{"name": "c"}]}, "status": {"podIPs": [{"ip": address}]}})
        };
        node.apply(&[
            json!({"apiVersion": "projectcalico.org/v3", "kind": "FelixConfiguration", "metadata": {"name": "default"},
                "spec": {"nftablesMarkMask": 0xff00_0000_u32}}),
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}}),
            pod("client", CLIENT),
            pod("server", SERVER),
            accepting("server", "client"),
        ]);
        node
    }

    /// Brings these objects into the kernel. Enough time has passed for the generation to move.
    fn apply(&mut self, documents: &[Value]) {
        self.now += 100;
        self.revision += 1;
        let revision = self.revision.to_string();
        let changes = documents.iter().map(|document| Change::Upsert(object(document))).collect();
        self.event(Event::Datastore { changes, in_sync: true, revision: revision.clone() });
        assert_eq!(self.felix.programmed_revision(), revision, "{:?}", self.felix.status());
    }

    fn event(&mut self, event: Event) {
        self.felix.handle(event, self.now);
        while let Some(action) = self.felix.poll() {
            let answer = match action {
                Action::ConfigureTunnels(_) => Event::TunnelsConfigured(tortie_felix::TunnelReport::default()),
                Action::ReadRules => Event::RulesRead(self.socket.read().map_err(|error| error.to_string())),
                Action::ApplyRules(transaction) => {
                    Event::RulesApplied(self.socket.apply(&transaction).map_err(|error| error.to_string()))
                }
                Action::SweepStamps(_) if !self.sweeps => Event::StampsSwept(Ok(0)),
                Action::SweepStamps(sweep) => {
                    let swept = sweep_marks(sweep.bits, &sweep.kept).map_err(|error| error.to_string());
                    Event::StampsSwept(swept.map(|cleared| cleared as u64))
                }
                Action::ReadRoutes => Event::RoutesRead(Ok(Snapshot::default())),
                Action::ApplyRoutes(_) => Event::RoutesApplied(Ok(Vec::new())),
                Action::ConfigureBgp(_) => Event::BgpConfigured(Ok(())),
                Action::ConfigureHost(_) => Event::HostConfigured(Ok(())),
                Action::Done { .. } | Action::Settings(_) | Action::Report(_) => continue,
            };
            self.felix.handle(answer, self.now);
        }
    }
}

/// A policy: `to` takes from nobody but `from`.
fn accepting(to: &str, from: &str) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": to, "namespace": "default"},
        "spec": {"podSelector": {"matchLabels": {"app": to}}, "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": from}}}]}]}})
}

/// Whether a packet arrives, sent anew until it does or some time has passed. What it says tells it from earlier ones that were late.
fn arrives(what: &str, from: &UdpSocket, to: &UdpSocket, address: Ipv4Addr, patience: Duration) -> bool {
    let mut buffer = [0; 16];
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline {
        from.send_to(what.as_bytes(), (address, PORT)).expect("a packet goes out");
        loop {
            match to.recv(&mut buffer) {
                Ok(length) if buffer[..length] == *what.as_bytes() => return true,
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
                Err(error) => panic!("{error}"),
            }
        }
    }
    false
}

/// Has a flow allowed, denied while it is silent, and speak again one round of generations later. Returns whether it gets through.
fn speaks_after_a_round(sweeps: bool) -> bool {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace (this test needs root)");
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("a router forwards");
        let mut node = Node::start(sweeps);
        let [client, server] =
            [("client", CLIENT), ("server", SERVER)].map(|(name, address)| Pod::start(name, address).socket());
        let patience = Duration::from_secs(20);
        assert!(arrives("hello", &client, &server, SERVER, patience), "it is allowed");
        assert!(arrives("welcome", &server, &client, CLIENT, patience), "and answered");

        // The first move of the round denies the flow, the others something else.
        let first = node.felix.status().generation;
        node.apply(&[accepting("server", "nobody")]);
        for from in ["client", "nobody"].into_iter().cycle() {
            if (node.felix.status().generation - first) as usize >= ROUND {
                break;
            }
            node.apply(&[accepting("client", from)]);
        }
        assert_eq!((node.felix.status().generation - first) as usize, ROUND, "the numbers have come round");
        arrives("again", &client, &server, SERVER, Duration::from_millis(500))
    });
    thread.join().expect("the node did what it had to")
}

#[test]
fn a_silent_flow_that_was_denied_stays_denied_when_numbers_come_round() {
    assert!(speaks_after_a_round(false), "without a sweep its old stamp counts again, else this test proves nothing");
    assert!(!speaks_after_a_round(true), "it was let through by a stamp from a round ago");
}
