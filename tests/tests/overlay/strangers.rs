//! Who may send packets of an overlay, and what policies say of what comes out of it.

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use serde_json::{Value, json};
use tortie_tests::kernel::run;
use tortie_tests::lab::Lab;
use tortie_tests::stream::inside;

use crate::cluster::{address, all_reach_all, node, pod, pools};

/// A VXLAN packet that carries a UDP datagram from one pod's address to another's.
fn forged(mac: [u8; 6], from: IpAddr, to: IpAddr, port: u16) -> Vec<u8> {
    let (IpAddr::V4(from), IpAddr::V4(to)) = (from, to) else { panic!("IPv4 only") };
    let payload = b"forged";
    let mut packet = vec![0x08, 0, 0, 0];
    packet.extend([&4096_u32.to_be_bytes()[1..], &[0]].concat());
    packet.extend([&mac[..], &[2, 0, 0, 0, 0, 1], &[8, 0]].concat());
    let length = u16::try_from(20 + 8 + payload.len()).expect("short");
    let mut header = vec![0x45, 0];
    header.extend(length.to_be_bytes());
    header.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    header.extend([from.octets(), to.octets()].concat());
    let sum: u32 = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).expect("folded");
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(header);
    packet.extend([7777_u16.to_be_bytes(), port.to_be_bytes(), (length - 20).to_be_bytes(), [0, 0]].concat());
    packet.extend(payload);
    packet
}

fn mac_of(lab: &Lab, node: &str) -> [u8; 6] {
    let text = run(&lab.netns(node), "ip", &["-j", "link", "show", "dev", "vxlan.calico"]);
    let link: Value = serde_json::from_str(&text).expect("JSON");
    let bytes: Vec<u8> = link[0]["address"]
        .as_str()
        .expect("an address")
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).expect("hex"))
        .collect();
    bytes.try_into().expect("six bytes")
}

/// Whether a packet that is sent from `sender` to a node's VXLAN port comes out at the pod.
fn comes_out(lab: &Lab, sender: &str, node: &str, packet: &[u8], (pod, address, port): (&str, IpAddr, u16)) -> bool {
    let socket = inside(&lab.netns(pod), || UdpSocket::bind((address, port)).expect("the pod's address"));
    socket.set_read_timeout(Some(Duration::from_millis(500))).expect("a limit");
    inside(sender, || {
        let stranger = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        for _ in 0..3 {
            let _ = stranger.send_to(packet, (node, 4789));
        }
    });
    socket.recv(&mut [0; 64]).is_ok()
}

#[test]
fn only_nodes_may_send_packets_of_the_overlay() {
    let mut documents = vec![
        node("node1", "172.31.0.11", None),
        node("node2", "172.31.0.12", None),
        pod("a", "node1"),
        pod("b", "node2"),
    ];
    documents.extend(pools("Always"));
    let lab = Lab::up("vxs", &documents, &[]);
    let (a, b) = (address(&lab, "a", true), address(&lab, "b", true));
    let packet = forged(mac_of(&lab, "node2"), a, b, 7200);
    let pod = ("default/b", b, 7200);
    assert!(comes_out(&lab, &lab.netns("node1"), "172.31.0.12", &packet, pod), "a node's does, so the packet is sound");
    let fabric = format!("{}_fabric", lab.name);
    assert!(!comes_out(&lab, &fabric, "172.31.0.12", &packet, pod), "a stranger's packet came out of the overlay");
    let own_pod = lab.netns("default/a");
    assert!(!comes_out(&lab, &own_pod, "172.31.0.12", &packet, pod), "a pod's packet came out of the overlay");
    let table = run(&lab.netns("node2"), "nft", &["list", "chain", "inet", "tortie", "tunnels"]);
    let dropped = table.lines().find(|line| line.contains("@tunnel_nodes4")).expect("the rule");
    assert!(dropped.contains("packets 3"), "it was dropped where strangers' packets are: {dropped}");
    let flows = run(&lab.netns("node2"), "conntrack", &["-L", "-p", "udp"]);
    assert!(!flows.contains("dport=4789"), "packets of the overlay are in conntrack: {flows}");
}

#[test]
fn policies_and_translation_are_what_they_are_without_an_overlay() {
    let policy = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "b", "namespace": "default"},
        "spec": {"podSelector": {"matchLabels": {"app": "b"}}, "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "a"}}}]}]}});
    let mut documents = vec![pod("a", "node1"), pod("b", "node2"), pod("c", "node1")];
    for mut pool in pools("Always") {
        pool["spec"]["natOutgoing"] = true.into();
        documents.push(pool);
    }
    let lab = Lab::up("vxp", &documents, &["--nodes", "2"]);
    all_reach_all(&lab, "ipv4");
    lab.apply(&[policy]);
    for family in ["ipv4", "ipv6"] {
        let flags = ["--family", family];
        let matrix = lab.json(
            &[&["policy", "matrix", "--manifests"][..], &[lab.path("datastore").to_str().expect("a path")], &flags]
                .concat(),
        );
        assert_eq!(lab.probe(&flags), tortie_tests::lab::rows(&matrix), "{family}");
    }
    // To anywhere outside all pools pods leave with the address of their node, and not of its end.
    let ps = lab.json(&["lab", "ps"]);
    let outside: IpAddr = ps["outside"]["ips"][0].as_str().and_then(|ip| ip.parse().ok()).expect("an address");
    let server = inside(ps["outside"]["netns"].as_str().expect("a namespace"), || UdpSocket::bind((outside, 7400)))
        .expect("a socket");
    server.set_read_timeout(Some(Duration::from_secs(2))).expect("a limit");
    let pod = inside(&lab.netns("default/a"), || UdpSocket::bind("0.0.0.0:0")).expect("a socket");
    pod.send_to(b"hello", (outside, 7400)).expect("it is sent");
    let (_, from) = server.recv_from(&mut [0; 64]).expect("it arrives");
    let nodes = ps["nodes"].to_string();
    assert!(nodes.contains(&format!("\"{}\"", from.ip())), "from {from}, which is no node of {nodes}");
}
