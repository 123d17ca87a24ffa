//! A node of a large cluster: what its agent costs, and what it costs the API server.
//!
//! The sizes are small unless `TORTIE_SCALE=NODES,PODS,POLICIES` says otherwise; `docs/perf/` has figures of 5,000, 50,000 and 5,000, and
//! the command. Nothing here is timed: a test that fails on a slow machine would say nothing.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures::StreamExt;
use kube::Client;
use serde_json::{Value, json};
use tortie_datastore::kubernetes::Kubernetes;
use tortie_tests::k8s::{ApiServer, Options};
use tortie_tests::stream::inside;
use tortie_tests::{lab, peer};

use crate::datastore::apply_crds;

/// Where everything is; loopback would do, but for that a node's address is none of it.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);

/// How many requests are under way while the cluster is filled.
const AT_ONCE: usize = 64;

/// How often a second a pod changes.
const CHANGES: u32 = 30;

/// A network namespace with an address, for the server and the agent.
struct Place(String);

impl Place {
    fn new() -> Self {
        let place = Self(format!("tortie-scale{}", std::process::id()));
        let name = place.0.as_str();
        let address = format!("{ADDRESS}/24");
        for arguments in [
            &["netns", "add", name][..],
            &["-n", name, "link", "set", "lo", "up"],
            &["-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", "outside"],
            &["-n", name, "link", "set", "outside", "up"],
            &["-n", name, "link", "set", "eth0", "up"],
            &["-n", name, "address", "add", &address, "dev", "eth0"],
        ] {
            let status = Command::new(peer("ip")).args(arguments).status().expect("ip runs");
            assert!(status.success(), "ip {}", arguments.join(" "));
        }
        place
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = Command::new(peer("ip")).args(["netns", "delete", &self.0]).status();
    }
}

/// How large the cluster is.
struct Size {
    nodes: usize,
    pods: usize,
    policies: usize,
    /// How long changes go on.
    seconds: u32,
}

impl Size {
    fn wanted() -> Self {
        let Ok(text) = std::env::var("TORTIE_SCALE") else {
            return Self { nodes: 50, pods: 500, policies: 100, seconds: 3 };
        };
        let numbers: Vec<usize> =
            text.split(',').map(|part| part.parse().expect("TORTIE_SCALE=NODES,PODS,POLICIES")).collect();
        let [nodes, pods, policies] = numbers[..] else { panic!("TORTIE_SCALE=NODES,PODS,POLICIES") };
        Self { nodes, pods, policies, seconds: 60 }
    }

    fn namespaces(&self) -> usize {
        (self.pods / 50).max(1)
    }

    /// The pod's namespace, name, node and addresses.
    fn pod(&self, number: usize) -> (String, String, String, [IpAddr; 2]) {
        let namespace = format!("ns-{}", number % self.namespaces());
        let node = format!("node-{}", number % self.nodes);
        let v4 = Ipv4Addr::from(0x0af4_0000 + u32::try_from(number).expect("few") + 1);
        let v6 = Ipv6Addr::from(0xfd00_0010_0244_0000_0000_0000_0000_0000 + number as u128 + 1);
        (namespace, format!("web-{number}-7c5ddbdf54-x2x9z"), node, [v4.into(), v6.into()])
    }
}

/// Sends requests, many at once; anything but success ends the test.
async fn send_all(client: &Client, requests: impl Iterator<Item = http::Request<Vec<u8>>>) {
    let answers =
        futures::stream::iter(requests).map(|request| client.request::<Value>(request)).buffer_unordered(AT_ONCE);
    answers.for_each(|answer| async move { drop(answer.expect("the server takes it")) }).await;
}

fn request(method: &str, path: &str, body: &Value) -> http::Request<Vec<u8>> {
    let content = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let request = http::Request::builder().method(method).uri(path).header("content-type", content);
    request.body(body.to_string().into_bytes()).expect("a request")
}

/// Fills the cluster.
async fn fill(client: &Client, size: &Size) {
    let core = |kind: &str, metadata: Value| json!({"apiVersion": "v1", "kind": kind, "metadata": metadata});
    let namespaces = (0..size.namespaces()).map(|number| {
        let metadata = json!({"name": format!("ns-{number}"), "labels": {"team": format!("team-{}", number % 20)}});
        request("POST", "/api/v1/namespaces", &core("Namespace", metadata))
    });
    send_all(client, namespaces).await;
    let accounts = (0..size.namespaces()).map(|number| {
        let path = format!("/api/v1/namespaces/ns-{number}/serviceaccounts");
        request("POST", &path, &core("ServiceAccount", json!({"name": "default"})))
    });
    send_all(client, accounts).await;
    // A cluster of this size has route reflectors; a mesh of all its nodes would be what is measured.
    let mesh = json!({"apiVersion": "projectcalico.org/v3", "kind": "BGPConfiguration", "metadata": {"name": "default"},
        "spec": {"nodeToNodeMeshEnabled": false}});
    send_all(client, [request("POST", "/apis/projectcalico.org/v3/bgpconfigurations", &mesh)].into_iter()).await;
    let nodes = (0..size.nodes).map(|number| {
        let mut node = core("Node", json!({
            "name": format!("node-{number}"),
            "labels": {"kubernetes.io/hostname": format!("node-{number}"), "topology.kubernetes.io/zone": format!("z{}", number % 3)},
            "annotations": {"projectcalico.org/IPv4Address": format!("10.{}.{}.{}/8", 100 + number / 65536, number / 256 % 256, number % 256)},
        }));
        // What makes real ones large: the images on them.
        let image = |image: usize| json!({"names": [format!("registry.example.org/team/image-{image}@sha256:{image:064}")], "sizeBytes": image});
        node["status"] = json!({"images": (0..50).map(image).collect::<Vec<_>>()});
        request("POST", "/api/v1/nodes", &node)
    });
    send_all(client, nodes).await;
    let pods = (0..size.pods).map(|number| {
        let (namespace, name, node, _) = size.pod(number);
        let labels = json!({"app": format!("app-{}", number % 200), "tier": format!("t{}", number % 3),
            "pod-template-hash": "7c5ddbdf54", "team": format!("team-{}", number % 20)});
        let mut pod = core("Pod", json!({"name": name, "namespace": namespace, "labels": labels}));
        pod["spec"] = json!({"nodeName": node, "containers": [{"name": "web", "image": "registry.example.org/web:1",
            "ports": [{"name": "http", "containerPort": 8080}]}]});
        request("POST", &format!("/api/v1/namespaces/{namespace}/pods"), &pod)
    });
    send_all(client, pods).await;
    let statuses = (0..size.pods).map(|number| {
        let (namespace, name, _, ips) = size.pod(number);
        let ips: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
        let status = json!({"status": {"phase": "Running", "podIP": ips[0]["ip"], "podIPs": ips}});
        request("PATCH", &format!("/api/v1/namespaces/{namespace}/pods/{name}/status"), &status)
    });
    send_all(client, statuses).await;
    let policies = (0..size.policies).map(|number| {
        let namespace = format!("ns-{}", number % size.namespaces());
        let peer = json!({"namespaceSelector": {"matchLabels": {"team": format!("team-{}", number % 20)}},
            "podSelector": {"matchLabels": {"app": format!("app-{}", number * 7 % 200)}}});
        let policy = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": format!("policy-{number}"), "namespace": namespace},
            "spec": {"podSelector": {"matchLabels": {"app": format!("app-{}", number % 200)}}, "policyTypes": ["Ingress"],
                "ingress": [{"from": [peer], "ports": [{"port": "http"}, {"port": 443}]}]}});
        request("POST", &format!("/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies"), &policy)
    });
    send_all(client, policies).await;
}

/// Changes the label of a pod, so many times a second.
async fn churn(client: &Client, size: &Size) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / CHANGES);
    for turn in 0..(size.seconds * CHANGES) as usize {
        ticks.tick().await;
        let (namespace, name, _, _) = size.pod(turn * 37 % size.pods);
        let patch = json!({"metadata": {"labels": {"app": format!("app-{}", turn % 200)}}});
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
        client.request::<Value>(request("PATCH", &path, &patch)).await.expect("the server takes it");
    }
}

/// An agent, which ends with the test.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The seconds of CPU that a process has used.
fn cpu(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    let ticks = |place: usize| fields[place].parse::<f64>().expect("a number");
    (ticks(11) + ticks(12)) / 100.0
}

/// A line of `/proc/PID/status`, in MiB.
fn memory(pid: u32, line: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let value = status.lines().find_map(|it| it.strip_prefix(line)?.strip_prefix(':')).expect("the line");
    value.split_whitespace().next().and_then(|text| text.parse::<f64>().ok()).expect("a number") / 1024.0
}

/// The API server's process in the namespace.
fn server_pid(place: &Place) -> u32 {
    let pids = Command::new(peer("ip")).args(["netns", "pids", &place.0]).output().expect("ip runs").stdout;
    let pids = String::from_utf8_lossy(&pids).into_owned();
    let named = |pid: &&str| {
        std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with("kube-apiserver"))
    };
    pids.split_whitespace().find(named).and_then(|pid| pid.parse().ok()).expect("the server runs")
}

fn is_ready(place: &Place) -> bool {
    use std::io::{Read, Write};
    inside(&place.0, || {
        let Ok(mut stream) = std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, 9099)) else { return false };
        let mut answer = String::new();
        let asked =
            stream.write_all(b"GET /readiness HTTP/1.0\r\n\r\n").and_then(|()| stream.read_to_string(&mut answer));
        asked.is_ok() && answer.starts_with("HTTP/1.0 200")
    })
}

#[test]
fn an_agent_of_a_large_cluster() {
    let size = Size::wanted();
    let place = Place::new();
    let server = ApiServer::start_with(&Options {
        inside: Some((place.0.clone(), ADDRESS.into())),
        flags: vec!["--disable-admission-plugins=ServiceAccount".to_owned()],
    });
    apply_crds(&server);
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let kubeconfig = server.kubeconfig();
    let client = |kubeconfig: PathBuf| async move {
        Kubernetes::new(Some(&kubeconfig), "").await.expect("a kubeconfig").client().clone()
    };
    let started = Instant::now();
    inside(&place.0, || runtime().block_on(async { fill(&client(kubeconfig.clone()).await, &size).await }));
    let filled = started.elapsed();

    let api = server_pid(&place);
    let api_before = cpu(api);
    let started = Instant::now();
    let run_dir = server.folder().join("agent");
    let child = inside(&place.0, || {
        let log = std::fs::File::create(server.folder().join("agent.log")).expect("a log");
        Command::new(
            std::env::var_os("TORTIE_NODE_PROGRAM")
                .map_or_else(|| lab::tortie().with_file_name("tortie-node"), PathBuf::from),
        )
        .args(["run", "--datastore", "kubernetes", "--node", "node-1", "--run-dir"])
        .arg(&run_dir)
        .env("KUBECONFIG", &kubeconfig)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a handle"))
        .stderr(log)
        .spawn()
        .expect("the agent starts")
    });
    let agent = Agent(child);
    let pid = agent.0.id();
    let deadline = Instant::now() + Duration::from_secs(300);
    while !is_ready(&place) {
        assert!(
            Instant::now() < deadline,
            "{}",
            std::fs::read_to_string(server.folder().join("agent.log")).unwrap_or_default()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    let in_sync = started.elapsed();
    let (start_cpu, api_start) = (cpu(pid), cpu(api) - api_before);
    // What a start needed and the allocator gave back.
    std::thread::sleep(Duration::from_secs(2));
    let (resident, peak) = (memory(pid, "VmRSS"), memory(pid, "VmHWM"));
    let before = [pid, api].map(cpu);
    inside(&place.0, || runtime().block_on(async { churn(&client(kubeconfig.clone()).await, &size).await }));
    let [agent_cpu, api_cpu] = [0, 1].map(|which| (cpu([pid, api][which]) - before[which]) / f64::from(size.seconds));
    let after = memory(pid, "VmRSS");
    let connections =
        Command::new("ss").args(["-N", &place.0, "-tinpH"]).output().map(|output| output.stdout).unwrap_or_default();
    let connections = String::from_utf8_lossy(&connections).into_owned();
    let received = connections
        .lines()
        .skip_while(|line| !line.contains("\"tortie-node\"") && !line.contains(&format!("pid={pid}")))
        .find_map(|line| {
            line.split_whitespace().find_map(|word| word.strip_prefix("bytes_received:")?.parse::<f64>().ok())
        });

    let mut report = String::new();
    let Size { nodes, pods, policies, seconds } = size;
    let _ =
        writeln!(report, "{nodes} nodes, {pods} pods, {policies} policies; filled in {:.0} s", filled.as_secs_f64());
    let _ = writeln!(
        report,
        "start to in sync: {:.2} s, {start_cpu:.2} CPU-s of the agent, {api_start:.2} of the API server",
        in_sync.as_secs_f64()
    );
    let _ = writeln!(report, "resident: {resident:.1} MiB, peak {peak:.1}; after {seconds} s of changes {after:.1}");
    let _ = writeln!(
        report,
        "{CHANGES} pod changes a second: {:.2} % of a core of the agent, {:.1} % of the API server (writes included)",
        agent_cpu * 100.0,
        api_cpu * 100.0
    );
    if let Some(received) = received {
        let _ = writeln!(report, "the agent's connection has brought {:.1} MiB", received / 1_048_576.0);
    }
    println!("{report}");
    assert!(is_ready(&place), "it is still ready");
}
