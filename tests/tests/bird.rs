//! A BIRD 2 as a fourth member of the mesh: it sees every block, and its routes reach every node's FIB.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tortie_tests::lab::{Lab, array};
use tortie_tests::stream::inside;
use tortie_tests::{peer, root};

/// Stops BIRD when the test ends, however it ends.
struct Bird(Child);

impl Drop for Bird {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn output(netns: &str, program: &str, args: &[&str]) -> String {
    let output = inside(netns, || Command::new(peer(program)).args(args).output().expect("the peer runs"));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Waits until `ready` says yes, or fails with what `show` prints.
fn eventually(what: &str, ready: impl Fn() -> bool, show: impl Fn() -> String) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !ready() {
        assert!(Instant::now() < deadline, "{what} did not happen:\n{}", show());
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// `again` starts it as a supervisor restarts it (`-R`): forwarding state was kept.
fn start(netns: &str, config: &Path, socket: &Path, again: bool) -> Bird {
    let bird = inside(netns, || {
        Command::new(peer("bird"))
            .args(again.then_some("-R"))
            .args(["-f", "-c", config.to_str().expect("a plain path"), "-s", socket.to_str().expect("a plain path")])
            .stderr(Stdio::null())
            .spawn()
            .expect("bird starts")
    });
    Bird(bird)
}

#[test]
fn bird_is_a_fourth_member_of_the_mesh() {
    let mut documents = vec![json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "tor",
        "annotations": {"tortie.io/lab": "external"}}, "status": {"addresses": [{"type": "InternalIP", "address": "172.31.0.77"}]}})];
    for node in ["node1", "node2", "node3"] {
        documents.push(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}}));
        documents.push(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("on-{node}"), "namespace": "default"},
            "spec": {"nodeName": node, "containers": [{"name": "c", "image": "serve"}]}}));
    }
    let lab = Lab::up("bird", &documents, &[]);
    let ps = lab.json(&["lab", "ps"]);
    let nodes = array(&ps["nodes"]);
    let tor = nodes.iter().find(|node| node["name"] == "tor").expect("the external node is listed");
    assert_eq!(tor["ip"], "172.31.0.77", "its InternalIP is honoured");
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let netns = text(&tor["netns"]);
    let others: Vec<&Value> = nodes.iter().filter(|node| node["name"] != "tor").collect();
    assert_eq!(others.len(), 3);

    let six = output(&netns, "ip", &["-6", "-o", "address", "show", "scope", "global"]);
    let six =
        six.split_whitespace().find_map(|word| word.split_once('/')).expect("an IPv6 address on the node").0.to_owned();
    let mut config = std::fs::read_to_string(root().join("tests/interop/bird-mesh.conf"))
        .expect("the configuration of BIRD")
        .replace("SELF6", &six)
        .replace("SELF", "172.31.0.77");
    for node in &others {
        let (name, ip) = (text(&node["name"]), text(&node["ip"]));
        config.extend(["\nprotocol bgp ", &name, " from mesh { neighbor ", &ip, " as 64512; }\n"]);
    }
    let (file, socket) = (lab.scratch("bird.conf"), lab.scratch("bird.ctl"));
    std::fs::write(&file, config).expect("the configuration is written");
    let mut bird = start(&netns, &file, &socket, false);
    let socket_text = socket.to_str().expect("a plain path").to_owned();
    let show = |args: &[&str]| output(&netns, "birdc", &[&["-s", &socket_text], args].concat());

    // Every block, with its node as next hop.
    let blocks = array(&lab.json(&["ipam", "show", "--show-blocks"]));
    let blocks: Vec<String> =
        blocks.iter().filter(|row| row["grouping"] == "Block").map(|row| text(&row["cidr"])).collect();
    assert!(blocks.len() >= 6, "a block of each family for each node: {blocks:?}");
    eventually(
        "BIRD learning every block",
        || {
            let routes = show(&["show", "route"]);
            blocks.iter().all(|block| routes.contains(block.as_str()))
        },
        || format!("blocks {blocks:?}\n{}{}", show(&["show", "route", "all"]), show(&["show", "protocols", "all"])),
    );

    let in_every_fib = |present: bool| {
        others.iter().all(|node| {
            let netns = text(&node["netns"]);
            let four = output(&netns, "ip", &["route", "show", "203.0.113.0/24"]);
            let sixth = output(&netns, "ip", &["-6", "route", "show", "2001:db8:113::/48"]);
            (four.contains("via 172.31.0.77") && sixth.contains(&six)) == present
                && (present || (four + &sixth).is_empty())
        })
    };
    let fibs = || {
        let of = |node: &&Value| {
            output(&text(&node["netns"]), "ip", &["route"]) + &output(&text(&node["netns"]), "ip", &["-6", "route"])
        };
        others.iter().map(of).collect::<String>() + &show(&["show", "protocols", "all"])
    };
    eventually("BIRD's route reaching every FIB", || in_every_fib(true), fibs);

    // A withdrawal, and the way back.
    assert!(show(&["disable", "four"]).contains("disabled"));
    assert!(show(&["disable", "six"]).contains("disabled"));
    eventually("the withdrawal", || in_every_fib(false), fibs);
    show(&["enable", "four"]);
    show(&["enable", "six"]);
    eventually("the route coming back", || in_every_fib(true), fibs);

    // BIRD dies and comes back: its routes stay in the FIB all the while (graceful restart, as the helper).
    bird.0.kill().expect("bird can be killed");
    bird.0.wait().expect("bird ends");
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        assert!(in_every_fib(true), "a route of a restarting peer went:\n{}", fibs());
        std::thread::sleep(Duration::from_millis(100));
    }
    let _bird = start(&netns, &file, &socket, true);
    eventually(
        "the sessions coming back",
        || {
            let peers = array(&lab.json(&["bgp", "peers"]));
            let tor: Vec<_> = peers.iter().filter(|peer| peer["peer"] == "172.31.0.77").collect();
            tor.len() == 3 && tor.iter().all(|peer| peer["state"] == "Established")
        },
        || lab.run(&["bgp", "peers"]),
    );
    assert!(in_every_fib(true), "a route of a restarted peer went:\n{}", fibs());
}
