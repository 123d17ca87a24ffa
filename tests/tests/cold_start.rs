//! A node with many pods and policies whose agent starts from nothing: no table is there, and an allowed flow runs all the while.
//!
//! A packet a millisecond shows whether forwarding stalls while the table is written. The exact figures are printed, and kept in
//! docs/perf/; the bounds here are wide, for a busy machine. Built for release it is a node with 500 pods and 10,000 policies.
//! `TORTIE_COLD_START=248,10000,50000` has 248 pods besides the two that speak, 10,000 policies, and 50,000 pods on other nodes.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tortie_tests::agent::Agent;
use tortie_tests::kernel::{run, try_run};
use tortie_tests::lab::{Lab, array};
use tortie_tests::stream::inside;

/// What there is besides the two pods that speak.
#[derive(Debug, Clone, Copy)]
struct Size {
    pods: usize,
    policies: usize,
    /// Pods on other nodes.
    remote: usize,
}

impl Size {
    fn wanted() -> Self {
        let Ok(text) = std::env::var("TORTIE_COLD_START") else {
            let (pods, policies) = if cfg!(debug_assertions) { (98, 1_000) } else { (498, 10_000) };
            return Self { pods, policies, remote: 0 };
        };
        let numbers: Vec<usize> = text.split(',').filter_map(|number| number.parse().ok()).collect();
        let [pods, policies, remote] = numbers[..] else { panic!("TORTIE_COLD_START={text}: not three numbers") };
        Self { pods, policies, remote }
    }
}

/// How long the start may take.
const PATIENCE: Duration = Duration::from_secs(150);

/// How long an allowed packet may be under way, and how long none may arrive, on a busy machine.
const STALL: Duration = Duration::from_secs(3);

/// What a stretch of the probe showed.
#[derive(Debug)]
struct Seen {
    sent: usize,
    lost: usize,
    /// The longest time between two arrivals.
    longest_gap: Duration,
    /// The longest time from sending to arrival.
    longest_delay: Duration,
}

/// Numbered packets, one a millisecond.
struct Probe {
    stop: Arc<AtomicBool>,
    sent: JoinHandle<Vec<Instant>>,
    arrived: JoinHandle<Vec<(usize, Instant)>>,
}

impl Probe {
    fn start(client: (&str, IpAddr), server: (&str, IpAddr)) -> Self {
        let bind = |(netns, ip): (&str, IpAddr), port| {
            inside(netns, || UdpSocket::bind(SocketAddr::new(ip, port))).expect("an address of the pod")
        };
        let (here, there) = (bind(client, 0), bind(server, 7000));
        here.connect((server.1, 7000)).expect("connected");
        there.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
        let stop = Arc::new(AtomicBool::new(false));
        let (stop_sending, stop_receiving) = (Arc::clone(&stop), Arc::clone(&stop));
        let sent = std::thread::spawn(move || {
            let mut sent = Vec::new();
            while !stop_sending.load(Ordering::Relaxed) {
                let now = Instant::now();
                let number = u64::try_from(sent.len()).expect("few packets");
                sent.push(now);
                let _ = here.send(&number.to_be_bytes());
                std::thread::sleep(Duration::from_millis(1).saturating_sub(now.elapsed()));
            }
            sent
        });
        let arrived = std::thread::spawn(move || {
            let (mut arrived, mut bytes) = (Vec::new(), [0; 8]);
            loop {
                match there.recv(&mut bytes) {
                    Ok(8) => {
                        let number = usize::try_from(u64::from_be_bytes(bytes)).expect("few packets");
                        arrived.push((number, Instant::now()));
                    }
                    _ if stop_receiving.load(Ordering::Relaxed) => return arrived,
                    _ => {}
                }
            }
        });
        Self { stop, sent, arrived }
    }

    fn stop(self) -> Record {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sent.join().expect("the sender ends");
        Record { sent, arrived: self.arrived.join().expect("the receiver ends") }
    }
}

struct Record {
    sent: Vec<Instant>,
    arrived: Vec<(usize, Instant)>,
}

impl Record {
    fn seen(&self, from: Instant, until: Instant) -> Seen {
        let within = |at: &Instant| (from..until).contains(at);
        let sent = self.sent.iter().filter(|at| within(at)).count();
        let arrived: Vec<&(usize, Instant)> =
            self.arrived.iter().filter(|(number, _)| within(&self.sent[*number])).collect();
        let gaps = arrived.windows(2).map(|pair| pair[1].1.saturating_duration_since(pair[0].1));
        let delays = arrived.iter().map(|(number, at)| at.saturating_duration_since(self.sent[*number]));
        Seen {
            sent,
            lost: sent - arrived.len(),
            longest_gap: gaps.max().unwrap_or_default(),
            longest_delay: delays.max().unwrap_or_default(),
        }
    }
}

fn pod(name: &str, node: &str, labels: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "cold", "labels": labels},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "serve", "ports": [{"containerPort": 80}]}]}})
}

/// Who may reach a pod: those of one other label, at one port.
fn policy(name: &str, to: &str, from: &str, port: usize) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name, "namespace": "cold"},
        "spec": {"podSelector": {"matchLabels": {"app": to}}, "ingress": [{
            "from": [{"podSelector": {"matchLabels": {"app": from}}}], "ports": [{"protocol": "UDP", "port": port}]}]}})
}

fn write(path: &Path, documents: impl Iterator<Item = Value>) {
    let mut text = String::new();
    for document in documents {
        writeln!(text, "{document}\n---").expect("text grows");
    }
    let new = path.with_extension("new");
    std::fs::write(&new, text).expect("written");
    std::fs::rename(new, path).expect("in place");
}

/// Makes the pods that do not speak: their objects, addresses, records and interfaces, as an earlier run would have left them.
fn populate(lab: &Lab, netns: &str, Size { pods, policies, remote }: Size) {
    let datastore = lab.path("datastore");
    let name = |number: usize| format!("p{number}");
    let app = |number: usize| format!("a{}", number % pods);
    write(
        &datastore.join("pods.yaml"),
        (0..pods).map(|number| pod(&name(number), "node1", &json!({"app": app(number)}))),
    );
    for part in 0..remote.div_ceil(2_500) {
        let numbers = part * 2_500..remote.min((part + 1) * 2_500);
        let labels = |number: usize| json!({"app": format!("r{}", number / 10), "tier": "backend"});
        let pods = numbers.map(|number| pod(&format!("r{number}"), &format!("n{}", number % 1_000), &labels(number)));
        write(&datastore.join(format!("remote{part}.yaml")), pods);
    }
    // Each pod of the node is under one policy or more; with pods elsewhere, the other policies are about those.
    let subject = |number: usize| {
        if remote == 0 || number < pods { app(number) } else { format!("r{}", number % remote.div_ceil(10)) }
    };
    let all = (0..policies).map(|number| {
        policy(&format!("n{number}"), &subject(number), &subject(number * 7 + number / pods + 1), 8_000 + number / pods)
    });
    let all: Vec<Value> = all.collect();
    for (part, documents) in all.chunks(2_500).enumerate() {
        write(&datastore.join(format!("policies{part}.yaml")), documents.iter().cloned());
    }
    let (published, records) = (datastore.join(".tortie/pods/cold"), lab.path("nodes/node1/endpoints"));
    std::fs::create_dir_all(&published).expect("a folder");
    std::fs::create_dir_all(&records).expect("a folder");
    let publish = |name: &str, ip: &str| {
        let pod = json!({"namespace": "cold", "name": name, "podIPs": [ip]});
        std::fs::write(published.join(format!("{name}.json")), pod.to_string()).expect("written");
    };
    for number in 0..remote {
        publish(&format!("r{number}"), &format!("10.245.{}.{}", number / 250, number % 250 + 1));
    }
    let mut links = String::new();
    for number in 0..pods {
        let ip = format!("10.244.{}.{}", 200 + number / 250, number % 250 + 1);
        publish(&name(number), &ip);
        let interface = tortie_policy::host_interface("cold", &name(number));
        let record = json!({"network": "lab", "mtu": 1500, "namespace": "cold", "pod": name(number),
            "containerId": format!("cold{number}"), "netns": "/run/netns/none", "ifname": "eth0", "hostInterface": interface,
            "hostMac": "ee:ee:ee:ee:ee:ee", "mac": "", "ips": [ip]});
        std::fs::write(records.join(format!("cold{number}@eth0.json")), record.to_string()).expect("written");
        writeln!(links, "link add {interface} type veth peer name e{number}\nlink set {interface} up")
            .expect("text grows");
        writeln!(links, "link set e{number} up").expect("text grows");
    }
    let script = lab.scratch("links");
    std::fs::write(&script, links).expect("written");
    run(netns, "ip", &["-batch", script.to_str().expect("a plain path")]);
}

/// Waits until the agent has put everything into the kernel, for so many pods of its own.
fn programmed(lab: &Lab, agent: &mut Agent, pods: usize) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert!(!agent.has_ended(), "the agent has ended by itself");
        let status = std::process::Command::new(tortie_tests::lab::tortie())
            .args(["node", "status", "-o", "json", "--lab", &lab.name])
            .output()
            .expect("tortie runs");
        let status: Value = serde_json::from_slice(&status.stdout).unwrap_or_default();
        let revision = status[0]["revision"].as_str().unwrap_or_default();
        if !revision.is_empty() && status[0]["programmedRevision"] == revision {
            assert_eq!(status[0]["endpoints"], pods, "all endpoints are there");
            return;
        }
        assert!(Instant::now() < deadline, "not programmed after {PATIENCE:?}: {status}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The memory that the agent has, and the most that it had, in KiB.
fn memory(agent: &Agent) -> [u64; 2] {
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.pid())).expect("the agent runs");
    ["VmRSS:", "VmHWM:"].map(|field| {
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        line.and_then(|text| text.trim().trim_end_matches(" kB").parse().ok()).expect("the kernel tells it")
    })
}

#[test]
fn a_cold_start_with_many_policies_stalls_no_flow() {
    let documents = [
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "cold"}}),
        pod("client", "node1", &json!({"app": "client"})),
        pod("server", "node1", &json!({"app": "server"})),
        policy("server", "server", "client", 7_000),
    ];
    let lab = Lab::up("cold", &documents, &["--nodes", "1"]);
    let mut agent = Agent::all(&lab).pop().expect("one agent");
    let pods = array(&lab.json(&["lab", "ps"])["pods"]);
    let place = |name: &str| {
        let pod = pods.iter().find(|pod| pod["name"] == name).expect("the pod is there");
        let ips = array(&pod["ips"]);
        let ip = ips.iter().filter_map(|ip| ip.as_str()?.parse::<IpAddr>().ok()).find(IpAddr::is_ipv4);
        (pod["netns"].as_str().expect("a name").to_owned(), ip.expect("an address"))
    };
    let (client, server) = (place("client"), place("server"));
    agent.kill();
    let netns = agent.netns.clone();
    let size = Size::wanted();
    populate(&lab, &netns, size);

    let probe = Probe::start((&client.0, client.1), (&server.0, server.1));
    let quiet = Instant::now();
    std::thread::sleep(Duration::from_secs(2));
    let mut stretches = vec![("before", quiet, Instant::now())];
    for (title, flush) in [("cold start", true), ("restart with nothing changed", false)] {
        if flush {
            run(&netns, "nft", &["delete", "table", "inet", "tortie"]);
        } else {
            agent.kill();
        }
        let began = Instant::now();
        agent.start(&lab);
        programmed(&lab, &mut agent, size.pods + 2);
        let took = began.elapsed().as_secs_f64();
        // What comes after the last transaction belongs to it.
        std::thread::sleep(Duration::from_millis(500));
        let [now, most] = memory(&agent);
        println!("{title}: {took:.3} s, {now} KiB in memory, {most} at most");
        stretches.push((title, began, Instant::now()));
    }
    let rules = run(&netns, "nft", &["list", "table", "inet", "tortie"]);
    assert!(rules.lines().count() > size.policies.min(size.pods), "hardly a table: {} lines", rules.lines().count());
    assert!(try_run(&netns, "nft", &["list", "chain", "inet", "tortie", "ingress"]).is_ok(), "a table that nft reads");
    let record = probe.stop();
    for (title, from, until) in stretches {
        let seen = record.seen(from, until);
        println!("{title}: {seen:?}");
        assert!(seen.sent > 100, "{title}: the probe hardly ran: {seen:?}");
        assert_eq!(seen.lost, 0, "{title}: {seen:?}");
        assert!(seen.longest_gap < STALL && seen.longest_delay < STALL, "{title}: forwarding stalled: {seen:?}");
    }
}
