//! Which packets are encapsulated, in each mode, and what a node's end of the overlay is like.

use serde_json::{Value, json};
use tortie_tests::capture::Capture;
use tortie_tests::kernel::run;
use tortie_tests::lab::Lab;

use crate::cluster::{PLAIN, VXLAN, address, all_reach_all, ip, node, pod, pool, pools, until};

/// The end of an overlay as `ip -d -j link` tells it.
fn link(lab: &Lab, node: &str, device: &str) -> Value {
    let text = ip(lab, node, &["-d", "-j", "addr", "show", "dev", device]);
    serde_json::from_str::<Value>(&text).expect("JSON")[0].clone()
}

#[test]
fn always_means_every_packet_between_nodes_in_both_families() {
    let mut documents = vec![pod("a", "node1"), pod("b", "node2"), pod("c", "node3")];
    documents.extend(pools("Always"));
    let lab = Lab::up("vxa", &documents, &["--nodes", "3"]);
    let capture = Capture::start(&lab.netns("node2"), "eth0");
    all_reach_all(&lab, "ipv4");
    all_reach_all(&lab, "ipv6");
    let captured = capture.stop();
    assert_eq!(captured.count(PLAIN), 0, "a pod's packet was on the network between nodes as it is");
    assert!(captured.count(&format!("ip and {VXLAN}")) > 10, "IPv4 over IPv4");
    assert!(captured.count(&format!("ip6 and {VXLAN}")) > 10, "IPv6 over IPv6");

    let four = link(&lab, "node1", "vxlan.calico");
    let data = &four["linkinfo"]["info_data"];
    assert_eq!((&four["mtu"], &data["id"], &data["port"]), (&json!(1450), &json!(4096), &json!(4789)));
    assert_eq!((&data["learning"], &four["ifalias"]), (&json!(false), &json!("tortie")));
    // As Calico derives it: `f` and the first five bytes of the SHA-1 digest of the node's name.
    assert_eq!(four["address"], "66:f9:37:c3:7e:94");
    assert_eq!(link(&lab, "node1", "vxlan-v6.calico")["mtu"], 1430);
    let pods_mtu = run(&lab.netns("default/a"), "ip", &["-j", "link", "show", "dev", "eth0"]);
    assert!(pods_mtu.contains("\"mtu\":1430"), "{pods_mtu}");

    // Everything that differs is put right: tables, addresses, the device itself.
    let netns = lab.netns("node1");
    let neighbours = || ip(&lab, "node1", &["neigh", "show", "dev", "vxlan.calico", "nud", "permanent"]);
    let before = neighbours();
    run(&netns, "ip", &["neigh", "flush", "dev", "vxlan.calico", "nud", "permanent"]);
    run(&netns, "ip", &["link", "set", "vxlan.calico", "mtu", "1400"]);
    until("tables and MTU are as they were", || {
        neighbours() == before && link(&lab, "node1", "vxlan.calico")["mtu"] == 1450
    });
    run(&netns, "ip", &["link", "del", "vxlan.calico"]);
    until("the device is there again", || ip(&lab, "node1", &["link"]).contains("vxlan.calico"));
    until("its routes are", || ip(&lab, "node1", &["route"]).matches("dev vxlan.calico").count() >= 2);
    all_reach_all(&lab, "ipv4");
    let status = lab.json(&["node", "status", "--node", "node1"]);
    assert!(status.to_string().contains("vxlan.calico"), "it is told as a drift: {status:#}");

    // What the node itself sends to a pod elsewhere is from its end, so that the answer finds back.
    let other = address(&lab, "b", true);
    let end = &four["addr_info"][0]["local"];
    let route = ip(&lab, "node1", &["route", "get", &other.to_string()]);
    assert!(route.contains(&format!("src {}", end.as_str().expect("an address"))), "{route}");
}

#[test]
fn cross_subnet_encapsulates_to_other_subnets_only_beside_pools_that_never_do() {
    let cross = [pool("four", "10.244.0.0/16", "CrossSubnet"), pool("six", "fd00:10:244::/48", "CrossSubnet")];
    let mut plain = pool("plain", "10.245.0.0/16", "Never");
    plain["spec"]["nodeSelector"] = "plain == 'yes'".into();
    let mut documents = vec![
        node("node1", "172.31.0.11", None),
        node("node2", "172.31.0.12", None),
        node("node3", "172.31.9.13", None),
        pod("a", "node1"),
        pod("b", "node2"),
        pod("c", "node3"),
        plain,
    ];
    documents.extend(cross);
    for name in ["p1", "p3"] {
        let mut pod = pod(name, if name == "p1" { "node1" } else { "node3" });
        pod["metadata"]["annotations"] = json!({"cni.projectcalico.org/ipv4pools": "[\"plain\"]"});
        documents.push(pod);
    }
    let lab = Lab::up("vxc", &documents, &[]);
    let [a, b, c] = ["a", "b", "c"].map(|name| address(&lab, name, true));
    let [p1, p3] = ["p1", "p3"].map(|name| address(&lab, name, true));
    let capture = Capture::start(&lab.netns("node1"), "eth0");
    all_reach_all(&lab, "ipv4");
    all_reach_all(&lab, "ipv6");
    let captured = capture.stop();
    assert!(captured.count(&format!("host {a} and host {b}")) > 0, "within a subnet packets are as they are");
    assert_eq!(captured.count(&format!("host {a} and host {c}")), 0, "to another they are not");
    assert!(captured.count(&format!("{VXLAN} and host 172.31.9.13")) > 0);
    assert_eq!(captured.count(&format!("{VXLAN} and host 172.31.0.12")), 0, "nothing needs an overlay there");
    assert!(captured.count(&format!("host {p1} and host {p3}")) > 0, "a pool that never does stays as it is");

    // The node moves: from now on node2 is in another subnet as far as node1's kernel is concerned.
    let to_b = || ip(&lab, "node1", &["route", "get", &b.to_string()]);
    assert!(to_b().contains("via 172.31.0.12 dev eth0"), "{}", to_b());
    let netns = lab.netns("node1");
    run(&netns, "ip", &["addr", "add", "172.31.0.11/32", "dev", "eth0"]);
    run(&netns, "ip", &["route", "add", "172.31.0.1", "dev", "eth0"]);
    run(&netns, "ip", &["route", "replace", "default", "via", "172.31.0.1", "dev", "eth0", "onlink"]);
    run(&netns, "ip", &["addr", "del", "172.31.0.11/24", "dev", "eth0"]);
    until("packets to node2 are encapsulated", || to_b().contains("vxlan.calico"));
    run(&netns, "ip", &["addr", "add", "172.31.0.11/24", "dev", "eth0"]);
    until("and no more once it is near again", || to_b().contains("via 172.31.0.12 dev eth0"));
}

#[test]
fn nodes_without_bgp_find_blocks_and_borrowed_addresses() {
    let mut four = pool("four", "10.244.0.0/24", "Always");
    four["spec"]["blockSize"] = 29.into();
    let documents = vec![
        node("node1", "172.31.0.11", Some("no-bgp")),
        node("node2", "172.31.0.12", Some("no-bgp")),
        node("node3", "172.31.9.13", Some("no-bgp")),
        pod("a", "node1"),
        pod("b", "node2"),
        pod("c", "node3"),
        four,
    ];
    let lab = Lab::up("vxn", &documents, &[]);
    until("all blocks are routed", || {
        let reached = lab.probe(&[]);
        !reached.is_empty() && reached.values().all(|verdict| verdict == "allow")
    });
    // An address of the block that node1 has, on node3: nobody announces it.
    let std::net::IpAddr::V4(home) = address(&lab, "a", true) else { panic!("an IPv4 pool") };
    // Of a block of eight, the node's end and the pod have two of the first four.
    let pinned = std::net::Ipv4Addr::from(u32::from(home) ^ 4);
    let mut guest = pod("guest", "node3");
    guest["metadata"]["annotations"] = json!({"cni.projectcalico.org/ipAddrs": format!("[\"{pinned}\"]")});
    lab.apply(&[guest]);
    until("the guest is reached from everywhere", || lab.probe(&[]).values().all(|verdict| verdict == "allow"));
    let routes = lab.json(&["routes", "--node", "node2"]);
    let sources: Vec<&str> =
        routes.as_array().expect("a list").iter().filter_map(|route| route["source"].as_str()).collect();
    assert!(sources.contains(&"tunnel") && !sources.contains(&"bgp"), "{routes:#}");
}
