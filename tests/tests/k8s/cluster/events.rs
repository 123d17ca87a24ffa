//! What befalls clusters: agents are killed, the API server is gone for a while, etcd comes back from an older snapshot, a node is deleted
//! and comes again. Allowed packets pass all the while, denied ones never do, and afterwards new wishes are obeyed as before.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use tortie_tests::k8s::Cluster;
use tortie_tests::long;
use tortie_tests::stream::{Stream, inside};

use super::{addresses, answers, effect, namespace, pod, policy};

/// All of it, one after the other, on a cluster where `client` may reach `far` by a policy that lets nobody else.
pub(crate) fn all(cluster: &Cluster, client: &str, far: SocketAddr) {
    let traffic = Traffic::start(cluster);
    calicos_resources(cluster, client, far);
    traffic.check("a policy that denies others");
    agents_are_killed(cluster);
    effect("a policy after the agents were killed", client, far, false, || cluster.apply(&[strict()]));
    effect("its deletion", client, far, true, || delete_strict(cluster));
    traffic.check("agents are killed");
    the_api_server_is_gone(cluster);
    traffic.check("the API server is gone");
    effect("a policy after the API server was gone", client, far, false, || cluster.apply(&[strict()]));
    effect("its deletion", client, far, true, || delete_strict(cluster));
    etcd_is_restored(cluster, client, far);
    traffic.check("etcd is restored");
    drop(traffic);
    the_pool_moves_to_vxlan_and_back(cluster, client, far);
    a_node_is_deleted_and_comes_again(cluster, client);
}

/// Packets of pods that last through it all: from a client on the same node and from one on another. And some that nobody may see.
struct Traffic {
    allowed: Stream,
    denied: Stream,
    since: Instant,
}

impl Traffic {
    fn start(cluster: &Cluster) -> Self {
        let place = |node, pod: &str| {
            let netns = namespace(cluster, node, pod).to_str().expect("a plain path").to_owned();
            (netns, addresses(cluster, pod)[0])
        };
        let (client, near, far) = (place(1, "client"), place(1, "near"), place(2, "far"));
        let to = |port| (far.0.as_str(), far.1, port);
        let gap = Duration::from_millis(2);
        let allowed = Stream::start_every(gap, (&client.0, client.1), to(7000), true);
        let denied = Stream::start_every(gap, (&near.0, near.1), to(7001), false);
        Self { allowed, denied, since: Instant::now() }
    }

    /// Holds the record against what was asked.
    fn check(&self, when: &str) {
        let until = Instant::now();
        // For what is still under way.
        std::thread::sleep(Duration::from_secs(1));
        for (direction, log) in [("forth", &self.allowed.forth), ("back", &self.allowed.back)] {
            let (sent, lost) = {
                let log = log.lock().expect("the log");
                (log.sent(self.since, until), log.lost(self.since, until))
            };
            assert!(sent > 0, "{when}: nothing was sent {direction}");
            assert_eq!(lost, 0, "{when}: allowed packets were lost {direction}, of {sent}");
        }
        let (sent, passed) = {
            let log = self.denied.forth.lock().expect("the log");
            (log.sent(self.since, until), log.passed().count())
        };
        assert!(sent > 0 && passed == 0, "{when}: {passed} denied packets passed, of {sent}");
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.allowed.stop();
            self.denied.stop();
        }
    }
}

/// A policy of Calico's that nobody may reach `far` on port 80, whatever Kubernetes' policies say. Of the packets of [`Traffic`] they still
/// decide.
fn strict() -> serde_json::Value {
    json!({
        "apiVersion": "projectcalico.org/v3",
        "kind": "GlobalNetworkPolicy",
        "metadata": {"name": "strict"},
        "spec": {
            "order": 10,
            "selector": "app == 'far'",
            "types": ["Ingress"],
            "ingress": [{"action": "Deny", "protocol": "TCP", "destination": {"ports": [80]}}],
        },
    })
}

fn delete_strict(cluster: &Cluster) {
    cluster.kubectl(&["delete", "globalnetworkpolicies.projectcalico.org", "strict"]);
}

/// Calico's resources have effect, their statuses say so, and wrong ones are refused by the API server itself.
fn calicos_resources(cluster: &Cluster, client: &str, far: SocketAddr) {
    effect("a GlobalNetworkPolicy", client, far, false, || cluster.apply(&[strict()]));
    let name = "globalnetworkpolicies.projectcalico.org/strict";
    cluster.kubectl(&["wait", "--for=condition=Programmed", name, "--timeout=30s"]);
    let told = cluster.kubectl(&["get", name, "-o", "wide"]);
    assert!(told.contains("programmed on 2 of 2 nodes"), "{told}");
    effect("its deletion", client, far, true, || delete_strict(cluster));
    let mut wrong = strict();
    wrong["spec"]["ingress"][0]["action"] = json!("Drop");
    let refusal = cluster.try_apply(&[wrong]).expect_err("there is no such action");
    assert!(refusal.contains("spec.ingress[0].action") && refusal.contains("Deny"), "{refusal}");
    a_node_is_asked(cluster);
}

/// A node answers in a CalicoNodeStatus what its sessions and routes are.
fn a_node_is_asked(cluster: &Cluster) {
    cluster.apply(&[json!({
        "apiVersion": "projectcalico.org/v3",
        "kind": "CalicoNodeStatus",
        "metadata": {"name": "n1"},
        "spec": {"node": "n1", "classes": ["Agent", "BGP", "Routes"], "updatePeriodSeconds": 1},
    })]);
    let mut answer = serde_json::Value::Null;
    await_that("n1 has a session with n2, and says so", Duration::from_secs(60), || {
        answer = cluster.get(&["caliconodestatuses.projectcalico.org", "n1"])["status"].take();
        answer["bgp"]["numberEstablishedV4"] == 1
    });
    let (agent, peer) = (&answer["agent"]["birdV4"], &answer["bgp"]["peersV4"][0]);
    assert_eq!(
        (&agent["state"], &peer["type"], &peer["state"]),
        (&json!("Ready"), &json!("NodeMesh"), &json!("Established"))
    );
    let routes = answer["routes"]["routesV4"].as_array().expect("routes");
    for source in ["Direct", "NodeMesh"] {
        let found = routes.iter().any(|route| route["learnedFrom"]["sourceType"] == source && route["type"] == "FIB");
        assert!(found, "no route of {source}: {answer}");
    }
}

/// The process of a node's agent.
fn agent(cluster: &Cluster, node: u32) -> Option<Pid> {
    let network = |process: &str| std::fs::metadata(format!("{process}/ns/net")).map(|file| file.ino()).ok();
    let of_node = cluster.on_node(node, "");
    let of_node = network(of_node.parent()?.to_str()?)?;
    let processes = std::fs::read_dir("/proc").ok()?.filter_map(|entry| Some(entry.ok()?.path().to_str()?.to_owned()));
    let mut agents = processes.filter(|process| {
        std::fs::read_to_string(format!("{process}/comm")).is_ok_and(|name| name.trim() == "tortie-node")
            && network(process) == Some(of_node)
    });
    agents.next()?.rsplit('/').next()?.parse().ok().map(Pid::from_raw)
}

fn await_that(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Kills a node's agent and waits for the next one, which the kubelet starts.
fn kill_agent(cluster: &Cluster, node: u32) {
    let old = agent(cluster, node).expect("an agent runs");
    kill(old, Signal::SIGKILL).expect("it can be killed");
    await_that("the kubelet starts an agent again", Duration::from_secs(60), || {
        agent(cluster, node).is_some_and(|new| new != old)
    });
}

fn agents_are_killed(cluster: &Cluster) {
    kill_agent(cluster, 1);
    kill_agent(cluster, 2);
    cluster.kubectl(&["rollout", "status", "daemonset/tortie-node", "-n", "kube-system", "--timeout=120s"]);
}

/// For minutes where there is time for it. One agent starts meanwhile: with what it finds in the kernel and nobody to ask.
fn the_api_server_is_gone(cluster: &Cluster) {
    let duration = Duration::from_secs(if long() { 240 } else { 8 });
    let start = Instant::now();
    cluster.stop();
    kill_agent(cluster, 2);
    std::thread::sleep(duration.saturating_sub(start.elapsed()));
    cluster.restart();
}

/// A policy that the snapshot does not have is in force no longer, and new ones are obeyed although versions are given again.
fn etcd_is_restored(cluster: &Cluster, client: &str, far: SocketAddr) {
    cluster.save("snapshot");
    effect("a policy after the snapshot", client, far, false, || cluster.apply(&[strict()]));
    cluster.restore("snapshot");
    await_that("the snapshot is in force", Duration::from_secs(90), || inside(client, || answers(far)));
    effect("a policy after the restore", client, far, false, || cluster.apply(&[strict()]));
    effect("its deletion", client, far, true, || delete_strict(cluster));
}

/// Pods of one node reach those of the other by VXLAN when the IPPool says so, and without when it says so again.
fn the_pool_moves_to_vxlan_and_back(cluster: &Cluster, client: &str, far: SocketAddr) {
    for (mode, device) in [("Always", "vxlan.calico"), ("Never", "eth0")] {
        let patch = json!({"spec": {"vxlanMode": mode}}).to_string();
        cluster.kubectl(&["patch", "ippools.projectcalico.org", "default-ipv4-ippool", "--type=merge", "-p", &patch]);
        let way = |node: u32, to: SocketAddr| cluster.node(node, &["ip", "route", "get", &to.ip().to_string()]);
        await_that(&format!("{far} is reached by {device}"), Duration::from_secs(60), || {
            way(1, far).contains(&format!("dev {device}"))
        });
        await_that(&format!("{far} answers by {device}"), Duration::from_secs(10), || inside(client, || answers(far)));
    }
}

/// The blocks of a node that is gone are given back; it comes again as a new one, and pods start on it.
fn a_node_is_deleted_and_comes_again(cluster: &Cluster, client: &str) {
    let blocks_of = |node: &str| {
        let list = cluster.get(&["blockaffinities.projectcalico.org"]);
        let list = list["items"].as_array().expect("a list").clone();
        list.iter().filter(|affinity| affinity["spec"]["node"] == node).count()
    };
    assert!(blocks_of("n2") > 0, "a node with pods has blocks");
    cluster.stop_program("n2-kubelet");
    cluster.kubectl(&["delete", "node", "n2"]);
    cluster.kubectl(&["delete", "pod", "far", "--force", "--grace-period=0"]);
    await_that("the blocks of a deleted node are given back", Duration::from_secs(180), || blocks_of("n2") == 0);

    cluster.start_program("n2-kubelet");
    await_that("the node comes again", Duration::from_secs(60), || {
        cluster.try_kubectl(&["get", "node", "n2"]).status.success()
    });
    cluster.kubectl(&["wait", "--for=condition=Ready", "node", "n2", "--timeout=120s"]);
    cluster.apply(&[pod("again", "n2"), policy("again", &json!([{}]))]);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod", "again", "--timeout=120s"]);
    for address in addresses(cluster, "again") {
        let server = SocketAddr::new(address, 80);
        await_that(&format!("{server} answers"), Duration::from_secs(30), || inside(client, || answers(server)));
    }
    assert!(blocks_of("n2") > 0, "the new node has blocks again");
}
