//! Documents of clusters with overlays, and what their nodes have in the kernel.

use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tortie_tests::lab::{Lab, array};
use tortie_tests::stream::inside;

/// What carries pods' packets on the network between nodes, as filters of captures.
pub(crate) const VXLAN: &str = "udp port 4789";
/// Packets of pods of the pools below that are not encapsulated.
pub(crate) const PLAIN: &str = "net 10.244.0.0/16 or net 10.245.0.0/16 or net fd00:10:244::/48";

/// An IPPool with this mode of VXLAN.
pub(crate) fn pool(name: &str, cidr: &str, mode: &str) -> Value {
    json!({"apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": {"name": name},
        "spec": {"cidr": cidr, "vxlanMode": mode}})
}

/// The two pools of [`PLAIN`] that pods get addresses from by default.
pub(crate) fn pools(mode: &str) -> [Value; 2] {
    [pool("four", "10.244.0.0/16", mode), pool("six", "fd00:10:244::/48", mode)]
}

/// A pod on a node.
pub(crate) fn pod(name: &str, node: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "serve", "ports": [{"containerPort": 80}]}]}})
}

/// A node with an address, and what the lab is to know of it.
pub(crate) fn node(name: &str, address: &str, lab: Option<&str>) -> Value {
    let mut node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "annotations": {}},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]}});
    if let Some(lab) = lab {
        node["metadata"]["annotations"]["tortie.io/lab"] = lab.into();
    }
    node
}

/// A pod's address of a family.
pub(crate) fn address(lab: &Lab, name: &str, ipv4: bool) -> IpAddr {
    let pods = array(&lab.json(&["lab", "ps"])["pods"]);
    let pod = pods.iter().find(|pod| pod["name"] == name).expect("it is listed");
    let ips = array(&pod["ips"]).into_iter().filter_map(|ip| ip.as_str()?.parse::<IpAddr>().ok());
    { ips }.find(|ip| ip.is_ipv4() == ipv4).expect("an address")
}

/// Runs `ip` on a node.
pub(crate) fn ip(lab: &Lab, node: &str, args: &[&str]) -> String {
    tortie_tests::kernel::run(&lab.netns(node), "ip", args)
}

/// All pods reach all pods.
pub(crate) fn all_reach_all(lab: &Lab, family: &str) {
    for ((from, to, ..), verdict) in lab.probe(&["--family", family]) {
        assert_eq!(verdict, "allow", "{from} to {to} by {family}");
    }
}

/// Waits until something holds.
pub(crate) fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Whether a pod's MTU is this, and a packet of just that size, which nobody may fragment, arrives.
pub(crate) fn carries(lab: &Lab, (from, to): (&str, &str), mtu: usize) -> bool {
    let [from, to] = [from, to].map(|pod| (lab.netns(&format!("default/{pod}")), address(lab, pod, true)));
    let link = tortie_tests::kernel::run(&from.0, "ip", &["-j", "link", "show", "dev", "eth0"]);
    let socket = |(netns, address): &(String, IpAddr)| {
        inside(netns, || UdpSocket::bind((*address, 7300)).expect("an address of the pod"))
    };
    let (sender, receiver) = (socket(&from), socket(&to));
    receiver.set_read_timeout(Some(Duration::from_secs(1))).expect("a limit");
    // Linux forbids to fragment what fits into the path as it is known.
    let sent = sender.send_to(&vec![0; mtu - 28], (to.1, 7300));
    link.contains(&format!("\"mtu\":{mtu},")) && sent.is_ok() && receiver.recv(&mut [0; 9000]).is_ok()
}
