//! A mesh gives way to a pair of route reflectors and comes back, under traffic, and not one packet is lost. A reflector's agent is killed
//! on the way.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tortie_tests::agent::Agent;
use tortie_tests::lab::{Lab, array};
use tortie_tests::stream::Stream;

/// Nodes, of which the first two are to reflect.
const NODES: [&str; 5] = ["r1", "r2", "a", "b", "c"];

/// The nodes as documents. `reflect`: the first two are marked as Calico's documentation has it.
fn nodes(reflect: bool) -> Vec<Value> {
    let node = |(number, name): (usize, &&str)| {
        let mut metadata = json!({"name": name});
        if reflect && number < 2 {
            metadata["labels"] = json!({"route-reflector": "true"});
            metadata["annotations"] = json!({"projectcalico.org/RouteReflectorClusterID": "244.0.0.1"});
        }
        let address = format!("172.31.0.{}", 11 + number);
        json!({"apiVersion": "v1", "kind": "Node", "metadata": metadata,
            "status": {"addresses": [{"type": "InternalIP", "address": address}]}})
    };
    NODES.iter().enumerate().map(node).collect()
}

fn calico(kind: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

fn mesh(enabled: bool) -> Value {
    calico("BGPConfiguration", "default", &json!({"nodeToNodeMeshEnabled": enabled}))
}

/// The peers of a node whose sessions are established, each with its kind.
fn established(lab: &Lab, node: &str) -> Vec<(String, String)> {
    let peers = lab.json(&["bgp", "peers", "--node", node]);
    let up = array(&peers).into_iter().filter(|peer| peer["state"] == "Established");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut up: Vec<_> = up.map(|peer| (text(&peer["peer"]), text(&peer["type"]))).collect();
    up.sort();
    up
}

/// Waits until a node has sessions with nodes of these numbers, all of this kind, and no others.
fn wait_for_peers(lab: &Lab, node: &str, numbers: &[usize], kind: &str) {
    let wanted: Vec<_> = numbers.iter().map(|number| (format!("172.31.0.{}", 11 + number), kind.to_owned())).collect();
    let deadline = Instant::now() + Duration::from_secs(60);
    while established(lab, node) != wanted {
        assert!(Instant::now() < deadline, "{node} has {:?}, not {wanted:?}", established(lab, node));
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_mesh_gives_way_to_reflectors_and_comes_back_without_a_lost_packet() {
    let mut documents = nodes(false);
    for node in NODES {
        documents.push(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("on-{node}"), "namespace": "default"},
            "spec": {"nodeName": node, "containers": [{"name": "c", "image": "serve"}]}}));
    }
    let lab = Lab::up("reflect", &documents, &[]);
    let ps = lab.json(&["lab", "ps"]);
    let agents = Agent::all(&lab);
    let place = |node: &str| -> (String, Vec<IpAddr>) {
        let pods = array(&ps["pods"]);
        let pod = pods.iter().find(|pod| pod["name"] == format!("on-{node}")).expect("the pod is listed");
        let ips = array(&pod["ips"]).iter().map(|ip| ip.as_str().expect("text").parse().expect("an address")).collect();
        (pod["netns"].as_str().expect("text").to_owned(), ips)
    };
    let mut streams = Vec::new();
    for (number, (from, to)) in [("a", "b"), ("b", "c"), ("c", "a"), ("a", "r1"), ("r2", "c")].into_iter().enumerate() {
        let ((client, here), (server, there)) = (place(from), place(to));
        for (family, (here, there)) in here.into_iter().zip(there).enumerate() {
            let port = 7000 + u16::try_from(2 * number + family).expect("few");
            let gap = Duration::from_millis(5);
            streams.push((
                format!("{from} to {there}"),
                Stream::start_every(gap, (&client, here), (&server, there, port), true),
            ));
        }
    }
    let began = Instant::now();
    std::thread::sleep(Duration::from_secs(1));

    let to_reflectors = calico(
        "BGPPeer",
        "to-reflectors",
        &json!({"nodeSelector": "all()", "peerSelector": "route-reflector == 'true'"}),
    );
    let mut change = nodes(true);
    change.extend([to_reflectors.clone(), mesh(false)]);
    lab.apply(&change);
    for node in ["a", "b", "c"] {
        wait_for_peers(&lab, node, &[0, 1], "node");
    }
    wait_for_peers(&lab, "r1", &[1, 2, 3, 4], "node");
    std::thread::sleep(Duration::from_secs(2));

    let mut reflector = agents.into_iter().find(|agent| agent.node == "r1").expect("its agent runs");
    reflector.kill();
    wait_for_peers(&lab, "a", &[1], "node");
    std::thread::sleep(Duration::from_secs(2));
    let routes = lab.json(&["bgp", "routes", "--node", "a"]);
    assert!(array(&routes).iter().any(|route| route["best"] == true), "{routes:#}");
    reflector.start(&lab);
    wait_for_peers(&lab, "a", &[0, 1], "node");

    let mut back = nodes(false);
    back.push(mesh(true));
    lab.delete(&[to_reflectors]);
    lab.apply(&back);
    wait_for_peers(&lab, "a", &[0, 1, 3, 4], "mesh");
    wait_for_peers(&lab, "r2", &[0, 2, 3, 4], "mesh");
    std::thread::sleep(Duration::from_secs(12));

    let until = Instant::now();
    // For what is still under way.
    std::thread::sleep(Duration::from_millis(500));
    for (name, stream) in &mut streams {
        stream.stop();
        for (way, log) in [("forth", &stream.forth), ("back", &stream.back)] {
            let log = log.lock().expect("the log");
            assert!(log.sent(began, until) > 1000, "{name} {way} was sent");
            assert_eq!(
                log.lost(began, until),
                0,
                "{name} {way}: packets lost at {:?}",
                log.lost_at(began, until).map(|at| at - began).collect::<Vec<_>>()
            );
        }
    }
}
