//! An address that passes from one pod to another within a second, on the same node and to another node: routes follow, and nothing
//! of the old pod's flows reaches the new one.

use std::net::{IpAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tortie_tests::kernel::{nft_script, run};
use tortie_tests::lab::{Lab, array};
use tortie_tests::stream::inside;

const PORT: u16 = 7000;
const ADDRESS: &str = "10.244.9.9";
/// The address of a Service, which somebody translates.
const SERVICE: &str = "10.96.0.1";

fn pod(name: &str, node: &str, address: Option<&str>) -> Value {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "serve", "ports": [{"containerPort": 80}]}]}});
    if let Some(address) = address {
        pod["metadata"]["annotations"] = json!({"cni.projectcalico.org/ipAddrs": format!("[\"{address}\"]")});
    }
    pod
}

/// Nobody may talk to the pods of this name.
fn closed(app: &str) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": app, "namespace": "default"},
        "spec": {"podSelector": {"matchLabels": {"app": app}}, "policyTypes": ["Ingress"]}})
}

fn address_of(lab: &Lab, name: &str) -> IpAddr {
    let pods = array(&lab.json(&["lab", "ps"])["pods"]);
    let pod = pods.iter().find(|pod| pod["name"] == name).expect("it is listed");
    array(&pod["ips"]).iter().filter_map(|ip| ip.as_str()?.parse().ok()).find(IpAddr::is_ipv4).expect("an address")
}

/// A socket in a pod that gets what is sent to it, until `until` says that it is enough.
fn received(netns: &str, until: impl Fn(usize) -> bool + Send + Sync, patience: Duration) -> usize {
    let socket = inside(netns, || UdpSocket::bind((ADDRESS, PORT)).expect("the address is there"));
    socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a limit");
    let (deadline, mut count, mut buffer) = (Instant::now() + patience, 0, [0; 64]);
    while Instant::now() < deadline && !until(count) {
        count += usize::from(socket.recv(&mut buffer).is_ok());
    }
    count
}

/// A flow that goes on whatever happens, from one and the same socket.
struct Flow {
    socket: UdpSocket,
    sent: AtomicUsize,
    stop: AtomicBool,
}

impl Flow {
    fn new(netns: &str, from: IpAddr, to: &str) -> Self {
        let socket = inside(netns, || UdpSocket::bind((from, 0)).expect("a socket"));
        socket.connect((to, PORT)).expect("a peer");
        Self { socket, sent: AtomicUsize::new(0), stop: AtomicBool::new(false) }
    }

    fn run(&self) {
        while !self.stop.load(Ordering::Relaxed) {
            // While the address is nobody's, an ICMP error may come back.
            self.sent.fetch_add(usize::from(self.socket.send(b"flow").is_ok()), Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn a_service_flow_does_not_follow_its_address_to_a_stranger() {
    let (old, young) = (pod("old", "node1", Some(ADDRESS)), pod("young", "node1", Some(ADDRESS)));
    let lab = Lab::up("mvs", &[pod("client", "node1", None), old.clone()], &["--nodes", "1"]);
    let node = lab.netns("node1");
    nft_script(
        &node,
        &format!(
            "table ip services {{\n chain translate {{\n  type nat hook prerouting priority -100;\n  \
             ip daddr {SERVICE} udp dport {PORT} dnat to {ADDRESS}\n }}\n}}\n"
        ),
    );
    let flow = Flow::new(&lab.netns("default/client"), address_of(&lab, "client"), SERVICE);
    std::thread::scope(|scope| {
        scope.spawn(|| flow.run());
        let stop = StopAtEnd(&flow);
        assert!(received(&lab.netns("default/old"), |count| count > 10, Duration::from_secs(20)) > 10, "it flows");
        // The Service has no backend any more; that alone ends no flow that is translated already.
        run(&node, "nft", &["delete", "table", "ip", "services"]);
        lab.delete(&[old]);
        lab.apply(&[young]);
        let before = flow.sent.load(Ordering::Relaxed);
        let late = received(&lab.netns("default/young"), |_| false, Duration::from_secs(2));
        assert!(flow.sent.load(Ordering::Relaxed) > before + 20, "the flow went on");
        assert_eq!(late, 0, "packets of the old pod's flow reached the new one");
        drop(stop);
    });
}

#[test]
fn a_policy_holds_for_flows_that_the_address_had_before() {
    for node in ["node1", "node2"] {
        let (old, young) = (pod("old", "node1", Some(ADDRESS)), pod("young", node, Some(ADDRESS)));
        let documents = [pod("near", "node1", None), pod("far", "node2", None), old.clone(), closed("young")];
        let lab = Lab::up(&format!("mv-{node}"), &documents, &["--nodes", "2"]);
        let flows = ["near", "far"]
            .map(|name| Flow::new(&lab.netns(&format!("default/{name}")), address_of(&lab, name), ADDRESS));
        std::thread::scope(|scope| {
            let stops = flows.each_ref().map(|flow| {
                scope.spawn(|| flow.run());
                StopAtEnd(flow)
            });
            let enough = |count| count > 100;
            assert!(received(&lab.netns("default/old"), enough, Duration::from_secs(20)) > 100, "they flow");
            lab.delete(&[old]);
            lab.apply(&[young]);
            let late = received(&lab.netns("default/young"), |_| false, Duration::from_secs(2));
            assert_eq!(late, 0, "packets reached the new pod on {node}, which nobody may talk to");
            // Without its policy the very same flows reach it, by whichever node: the route has followed.
            lab.delete(&[closed("young")]);
            let young = lab.netns("default/young");
            assert!(received(&young, enough, Duration::from_secs(20)) > 100, "the route did not follow to {node}");
            drop(stops);
        });
    }
}

/// Stops a flow when the test ends, however it ends.
struct StopAtEnd<'a>(&'a Flow);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}
