//! One pass through a real cluster, installed from deploy/ as a user would: nodes turn Ready, pods start, talk across nodes, and a policy
//! that is applied takes effect at once. Then what befalls clusters ([`events`]), under traffic that must not notice.

mod events;

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tortie_tests::k8s::Cluster;
use tortie_tests::stream::inside;
use tortie_tests::{lab, long, root};

/// The image that upstream's tests use; it is on every node.
const AGNHOST: &str = "registry.k8s.io/e2e-test-images/agnhost:2.63.0";

/// How long a written policy may take to decide packets, on a machine that is busy with other tests. How long it does take is printed.
const EFFECT: Duration = Duration::from_secs(20);

/// The image to install: the one that is asked for, or one of the programs under test as they are.
fn image() -> PathBuf {
    if let Some(image) = std::env::var_os("TORTIE_IMAGE") {
        return root().join(image);
    }
    let program = lab::tortie();
    let programs = program.parent().expect("a folder");
    let (files, archive) = (root().join("target/image/tested"), root().join("target/image/tested.tar"));
    let name = std::fs::read_to_string(root().join("deploy/base/daemonset.yaml")).expect("deploy/ is readable");
    let name = name.lines().find_map(|line| line.trim().strip_prefix("image: ")).expect("the DaemonSet names an image");
    let steps = [
        Command::new(root().join("deploy/image/build.sh")).arg(&files).arg(programs).output(),
        Command::new(programs.join("tortie-image"))
            .args([&archive, &files])
            .args(["--name", name, "--entrypoint", "/usr/bin/tortie-node"])
            .output(),
    ];
    for step in steps {
        let output = step.expect("it starts");
        assert!(output.status.success(), "no image: {}", String::from_utf8_lossy(&output.stderr));
    }
    archive
}

/// A cluster with Tortie on it.
fn installed() -> Cluster {
    let image = image();
    let cluster = Cluster::up();
    cluster.load_image(&image);
    cluster.kubectl(&["apply", "-k", root().join("deploy").to_str().expect("a plain path")]);
    cluster.kubectl(&["rollout", "status", "daemonset/tortie-node", "-n", "kube-system", "--timeout=120s"]);
    cluster.kubectl(&["wait", "--for=condition=Ready", "node", "--all", "--timeout=60s"]);
    cluster
}

/// A pod on a node that answers HTTP on port 80.
fn pod(name: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "server", "image": AGNHOST, "args": ["netexec", "--http-port=80"]}],
        },
    })
}

fn addresses(cluster: &Cluster, pod: &str) -> Vec<IpAddr> {
    let pod = cluster.get(&["pod", pod]);
    let list = pod["status"]["podIPs"].as_array().expect("a running pod has addresses").clone();
    list.iter().map(|ip| ip["ip"].as_str().expect("text").parse().expect("an address")).collect()
}

/// The network namespace of a pod, as this process can open it: the agent on its node has noted it.
fn namespace(cluster: &Cluster, node: u32, pod: &str) -> PathBuf {
    let folder = cluster.on_node(node, "/run/tortie/endpoints");
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let records = entries.filter_map(|entry| std::fs::read(entry.ok()?.path()).ok());
    let mut records = records.filter_map(|text| serde_json::from_slice::<Value>(&text).ok());
    let record = records.find(|record| record["pod"] == pod).expect("the agent has a record of the pod");
    cluster.on_node(node, record["netns"].as_str().expect("a path"))
}

fn answers(server: SocketAddr) -> bool {
    TcpStream::connect_timeout(&server, Duration::from_millis(200)).is_ok()
}

/// Makes a change, and measures how long it takes from before until connections are as it wants them, and that they stay so.
fn effect(what: &str, client: &str, server: SocketAddr, allowed: bool, change: impl FnOnce()) {
    let made = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            inside(client, || {
                let (mut since, mut deadline) = (None, None);
                loop {
                    let now = Instant::now();
                    if answers(server) == allowed {
                        since.get_or_insert(now);
                    } else {
                        since = None;
                    }
                    if made.load(Ordering::Relaxed) {
                        let lasts = since.is_some_and(|since| now.max(since) - since > Duration::from_secs(1));
                        if lasts || now > *deadline.get_or_insert(now + EFFECT) {
                            return since;
                        }
                    }
                    std::thread::sleep(Duration::from_millis(2));
                }
            })
        });
        let start = Instant::now();
        change();
        made.store(true, Ordering::Relaxed);
        let since = watch.join().expect("the client's thread ends");
        let since = since.unwrap_or_else(|| panic!("{what}: no effect within {EFFECT:?}"));
        println!("{what}: in force after {:?}", since.saturating_duration_since(start));
    });
}

/// A policy of Kubernetes for the pods of an app, with the given ingress rules.
fn policy(app: &str, ingress: &Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": app, "namespace": "default"},
        "spec": {"podSelector": {"matchLabels": {"app": app}}, "policyTypes": ["Ingress"], "ingress": ingress},
    })
}

#[test]
fn a_cluster_runs_as_installed() {
    let cluster = installed();
    cluster.apply(&[pod("client", "n1"), pod("near", "n1"), pod("far", "n2")]);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod", "--all", "--timeout=120s"]);

    let client = namespace(&cluster, 1, "client");
    let client = client.to_str().expect("a plain path");
    for server in ["near", "far"] {
        let addresses = addresses(&cluster, server);
        assert_eq!(addresses.len(), 2, "{server} is dual stack: {addresses:?}");
        for address in addresses {
            let answered = inside(client, || answers(SocketAddr::new(address, 80)));
            assert!(answered, "{server} does not answer at {address}");
        }
    }
    // The other way round as the kubelet does it for people.
    let server = addresses(&cluster, "client")[0];
    cluster.kubectl(&["exec", "far", "--", "/agnhost", "connect", &format!("{server}:80"), "--timeout=2s"]);

    let far = SocketAddr::new(addresses(&cluster, "far")[0], 80);
    let only_clients = policy("far", &json!([{"from": [{"podSelector": {"matchLabels": {"app": "client"}}}]}]));
    effect("a policy that denies", client, far, false, || cluster.apply(&[policy("far", &json!([]))]));
    effect("a policy that allows", client, far, true, || cluster.apply(&[only_clients]));

    events::all(&cluster, client, far);

    if long()
        && let Err(failed) = cluster.upstream_specs(None)
    {
        panic!("upstream's NetworkPolicy specs: {failed}");
    }
}
