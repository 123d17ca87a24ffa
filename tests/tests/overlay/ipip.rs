//! IPIP, where the kernel has it: as a rule in the machine that `tests/vm/run.sh` boots.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tortie_tests::capture::Capture;
use tortie_tests::lab::Lab;
use tortie_tests::stream::Stream;

use crate::cluster::{PLAIN, VXLAN, address, all_reach_all, carries, ip, node, pod, until};

/// Packets of IPIP, as a filter of captures.
const IPIP: &str = "ip proto 4";

/// Whether this kernel has IPIP; said plainly where it does not.
fn has_ipip(lab: &Lab) -> bool {
    let netns = lab.netns("node1");
    let made = tortie_tests::kernel::try_run(&netns, "ip", &["link", "add", "try0", "type", "ipip"]);
    // One like the kernel's own, which appears with the module, it makes no second time.
    let has = made.is_ok() || made.as_ref().is_err_and(|error| error.contains("File exists"));
    if !has {
        println!("skipped: this machine's kernel has no IPIP; `tests/vm/run.sh 12` boots one that has");
    }
    has
}

fn pool(field: &str, mode: &str) -> Value {
    json!({"apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": {"name": "four"},
        "spec": {"cidr": "10.244.0.0/16", field: mode}})
}

#[test]
fn a_pool_moves_between_ipip_vxlan_and_neither_under_traffic() {
    let documents = [
        node("node1", "172.31.0.11", None),
        node("node2", "172.31.0.12", None),
        node("node3", "172.31.9.13", None),
        pod("a", "node1"),
        pod("b", "node2"),
        pod("c", "node3"),
        pool("ipipMode", "Never"),
    ];
    let lab = Lab::up("ipi", &documents, &["--timeout", "120s"]);
    if !has_ipip(&lab) {
        return;
    }
    let (a, b, c) = (address(&lab, "a", true), address(&lab, "b", true), address(&lab, "c", true));
    let mut streams = [("b", b), ("c", c)].map(|(name, to)| {
        Stream::start((&lab.netns("default/a"), a), (&lab.netns(&format!("default/{name}")), to, 7000))
    });
    std::thread::sleep(Duration::from_secs(1));
    let began = Instant::now();
    // What goes to node2, in node1's subnet, and to node3 in another.
    for (field, mode, near, far, mtu) in [
        ("ipipMode", "Always", IPIP, IPIP, 1480),
        ("ipipMode", "CrossSubnet", PLAIN, IPIP, 1480),
        ("vxlanMode", "Always", VXLAN, VXLAN, 1450),
        ("ipipMode", "Always", IPIP, IPIP, 1480),
        ("ipipMode", "Never", PLAIN, PLAIN, 1500),
    ] {
        lab.apply(&[pool(field, mode)]);
        let capture = Capture::start(&lab.netns("node1"), "eth0");
        std::thread::sleep(Duration::from_secs(2));
        let captured = capture.stop();
        for (to, wanted, peer) in [("b", near, "172.31.0.12"), ("c", far, "172.31.9.13")] {
            let pod = address(&lab, to, true);
            for kind in [IPIP, VXLAN, PLAIN] {
                let end = if kind == PLAIN { pod.to_string() } else { peer.to_owned() };
                let count = captured.count(&format!("({kind}) and host {end}"));
                assert_eq!(count > 10, kind == wanted, "{field} {mode}: {count} packets of {kind} to pod {to}");
            }
        }
        assert!(carries(&lab, ("a", "c"), mtu), "{field} {mode}: the MTU is not {mtu}");
    }
    let ended = Instant::now();
    std::thread::sleep(Duration::from_secs(1));
    for stream in &mut streams {
        stream.stop();
        let [forth, back] = [&stream.forth, &stream.back].map(|log| log.lock().expect("log").lost(began, ended));
        // A second is the limit; a stream sends fifty packets in one.
        assert!(forth + back < 50, "{forth} packets there and {back} back were lost in five moves");
        println!("{forth} packets there and {back} back were lost in five moves");
    }
}

#[test]
fn ends_and_routes_are_those_of_calico() {
    let documents = [
        node("node1", "172.31.0.11", None),
        node("node2", "172.31.9.12", None),
        pod("a", "node1"),
        pod("b", "node2"),
        pool("ipipMode", "Never"),
    ];
    let lab = Lab::up("ipe", &documents, &["--timeout", "120s"]);
    if !has_ipip(&lab) {
        return;
    }
    lab.apply(&[pool("ipipMode", "Always")]);
    let wanted = "via 172.31.9.12 dev tunl0 proto 80 metric 1024 onlink";
    until("node1 reaches node2's pods by tunl0", || ip(&lab, "node1", &["route"]).contains(wanted));
    all_reach_all(&lab, "ipv4");
    let end: Value = serde_json::from_str(&ip(&lab, "node1", &["-j", "addr", "show", "dev", "tunl0"])).expect("JSON");
    assert_eq!((&end[0]["mtu"], &end[0]["addr_info"][0]["prefixlen"]), (&json!(1480), &json!(32)), "{end:#}");
    // Strangers' packets are dropped before the tunnel sees them.
    let table = tortie_tests::kernel::run(&lab.netns("node2"), "nft", &["list", "chain", "inet", "tortie", "tunnels"]);
    assert!(table.contains("l4proto 4") || table.contains("l4proto ipencap"), "{table}");
}
