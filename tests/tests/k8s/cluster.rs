//! One pass through a real cluster, installed from deploy/ as a user would: nodes turn Ready, pods start, talk across nodes, and a policy
//! that is applied takes effect at once.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tortie_tests::k8s::Cluster;
use tortie_tests::stream::inside;
use tortie_tests::{long, root};

/// The image that upstream's tests use; it is on every node.
const AGNHOST: &str = "registry.k8s.io/e2e-test-images/agnhost:2.63.0";

/// How long from a policy's write to the first packet that it decides.
const EFFECT: Duration = Duration::from_secs(1);

/// A cluster with Tortie on it.
fn installed() -> Cluster {
    let image = root().join("target/image/tortie.tar");
    assert!(image.exists(), "{} is missing: run `make image`", image.display());
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

/// Applies an object, and measures how long it takes from before the write until connections are as it wants them, and that they stay so.
fn effect(cluster: &Cluster, client: &str, server: SocketAddr, object: &Value, allowed: bool) -> Duration {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            inside(client, || {
                let (mut since, mut lasts) = (None, None);
                while lasts.is_none_or(|at: Instant| at.elapsed() < Duration::from_secs(1)) {
                    let now = Instant::now();
                    if answers(server) == allowed {
                        since.get_or_insert(now);
                    } else {
                        since = None;
                    }
                    if lasts.is_none() && done.load(Ordering::Relaxed) {
                        lasts = Some(now);
                    }
                    std::thread::sleep(Duration::from_millis(2));
                }
                since
            })
        });
        let start = Instant::now();
        cluster.apply(std::slice::from_ref(object));
        done.store(true, Ordering::Relaxed);
        let since = watch.join().expect("the client's thread ends");
        let since = since.unwrap_or_else(|| panic!("{object}: no effect within a second"));
        since.saturating_duration_since(start)
    })
}

#[test]
fn a_cluster_runs_as_installed() {
    // It needs an image, a container runtime and kernel features of its own: `make test-cluster` brings them.
    if !long() && std::env::var_os("TORTIE_CLUSTER").is_none() {
        println!("not asked for: see `make test-cluster`");
        return;
    }
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
    let mut policy = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "far", "namespace": "default"},
        "spec": {"podSelector": {"matchLabels": {"app": "far"}}, "policyTypes": ["Ingress"], "ingress": []},
    });
    let denied = effect(&cluster, client, far, &policy, false);
    policy["spec"]["ingress"] = json!([{"from": [{"podSelector": {"matchLabels": {"app": "client"}}}]}]);
    let allowed = effect(&cluster, client, far, &policy, true);
    println!(
        "a policy that denies is in force after {denied:?}, one that allows after {allowed:?}, kubectl's start included"
    );
    assert!(denied < EFFECT && allowed < EFFECT, "{denied:?}, {allowed:?}");

    if long()
        && let Err(failed) = cluster.upstream_specs(None)
    {
        panic!("upstream's NetworkPolicy specs: {failed}");
    }
}
