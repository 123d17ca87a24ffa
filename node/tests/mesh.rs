//! Two nodes meshed by BGP: blocks into each other's FIB, traffic under a killed agent, permissions taken away from flows.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::{Fabric, Pod, reaches, target, until};
use serde_json::json;
use tortie_admin::types::{BgpPeer, BgpRoute};

/// Datagrams from one pod to another, a hundred a second, and how many came.
struct Stream {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU32>,
    received: Arc<AtomicU32>,
    threads: Vec<JoinHandle<()>>,
}

impl Stream {
    fn start(from: &Pod, to: &Pod, port: u16, v4: bool) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (sent, received) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let (sender, receiver, to) = (from.socket(0), to.socket(port), target(to.ip(v4), port));
        let (stop_sending, counted) = (Arc::clone(&stop), Arc::clone(&sent));
        let sending = std::thread::spawn(move || {
            while !stop_sending.load(Ordering::Relaxed) {
                if sender.send_to(b"tick", to).is_ok() {
                    counted.fetch_add(1, Ordering::Relaxed);
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        let (stop_receiving, counted) = (Arc::clone(&stop), Arc::clone(&received));
        let receiving = std::thread::spawn(move || {
            let mut buffer = [0; 16];
            // Goes on until the line is quiet after the end.
            while receiver.recv(&mut buffer).is_ok_and(|_| counted.fetch_add(1, Ordering::Relaxed) < u32::MAX)
                || !stop_receiving.load(Ordering::Relaxed)
            {}
        });
        Self { stop, sent, received, threads: vec![sending, receiving] }
    }

    fn received(&self) -> u32 {
        self.received.load(Ordering::Relaxed)
    }

    /// Ends it: sent and received.
    fn end(self) -> (u32, u32) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().expect("it ends"));
        (self.sent.load(Ordering::Relaxed), self.received.load(Ordering::Relaxed))
    }
}

async fn two_nodes() -> (Fabric, Pod, Pod) {
    let fabric = Fabric::with_nodes(&["one", "two"]).await;
    fabric.pod("web", &json!({ "app": "web" }), "one");
    fabric.pod("far", &json!({ "app": "far" }), "two");
    let (web, far) = (fabric.start_pod("web", 0), fabric.start_pod("far", 1));
    fabric.settle().await;
    for node in &fabric.nodes {
        node.meshed(1).await;
        until("the other's blocks are in the FIB", || async {
            let routes = node.routes().await;
            (routes.iter().filter(|route| route.source == "bgp" && route.state == "present").count() == 2).then_some(())
        })
        .await;
    }
    (fabric, web, far)
}

fn allow(from: &str) -> serde_json::Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "name": "web", "namespace": "default" },
        "spec": {
            "podSelector": { "matchLabels": { "app": "web" } },
            "ingress": [{ "from": [{ "podSelector": { "matchLabels": { "app": from } } }] }],
        },
    })
}

#[tokio::test]
async fn blocks_are_exchanged_and_withdrawn() {
    let (mut fabric, web, far) = two_nodes().await;
    for v4 in [true, false] {
        assert!(reaches(&far, &web, v4) && reaches(&web, &far, v4), "IPv4: {v4}");
    }
    let peers: Vec<BgpPeer> = fabric.nodes[0].client().get("/v1/bgp/peers").await.expect("peers");
    let peer = &peers[0];
    assert_eq!((peer.peer, peer.peer_name.as_deref(), peer.kind.as_str()), (fabric.nodes[1].ip, Some("two"), "mesh"));
    assert_eq!((peer.families["ipv4"].accepted, peer.families["ipv6"].accepted), (1, 1));
    assert!(peer.since.ends_with('Z') && peer.since.starts_with("20"), "{}", peer.since);
    let routes: Vec<BgpRoute> = fabric.nodes[0].client().get("/v1/bgp/routes").await.expect("routes");
    assert_eq!(routes.iter().filter(|route| route.best).count(), 4, "two of ours, two of theirs: {routes:?}");

    // A third node is found by its object alone; when the object goes, so do its routes.
    fabric.plug("three").await;
    fabric.nodes[2].start();
    fabric.pod("third", &json!({ "app": "third" }), "three");
    let third = until("three takes pods", || async {
        let ready =
            fabric.nodes[2].client().get::<tortie_admin::types::NodeStatus>("/v1/status").await.is_ok_and(|s| s.ready);
        ready.then(|| fabric.start_pod("third", 2))
    })
    .await;
    until("three reaches web", || async { reaches(&third, &web, true).then_some(()) }).await;
    fabric.nodes[0].meshed(2).await;
    fabric.delete("node-three");
    until("three's routes are gone", || async {
        (!fabric.nodes[0].run("ip", &["route"]).contains("via 172.31.0.4")).then_some(())
    })
    .await;
    fabric.nodes[0].meshed(1).await;
}

#[tokio::test]
async fn a_killed_agent_and_its_restart_lose_no_packet() {
    let (mut fabric, web, far) = two_nodes().await;
    fabric.apply("policy", &[allow("far")]);
    fabric.settle().await;
    assert!(reaches(&far, &web, true));
    let streams = [
        Stream::start(&far, &web, 7001, true),
        Stream::start(&far, &web, 7002, false),
        Stream::start(&web, &far, 7003, true),
    ];
    tokio::time::sleep(Duration::from_millis(300)).await;
    for node in 0..2 {
        fabric.nodes[node].kill();
        tokio::time::sleep(Duration::from_millis(500)).await;
        // New connections too, while nobody is there.
        assert!(reaches(&far, &web, true));
        fabric.nodes[node].start();
        fabric.nodes[node].ready().await;
        fabric.nodes[node].meshed(1).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    for stream in streams {
        let (sent, received) = stream.end();
        assert!(sent > 100, "{sent}");
        assert_eq!(sent, received);
    }
}

#[tokio::test]
async fn a_restart_beside_a_dead_node_still_routes_new_pods() {
    let mut fabric = Fabric::with_nodes(&["one", "two", "three"]).await;
    for (number, name) in ["one", "two", "three"].into_iter().enumerate() {
        fabric.pod(name, &json!({}), name);
        fabric.start_pod(name, number);
    }
    until("all blocks are in the first node's FIB", || async {
        let routes = fabric.nodes[0].run("ip", &["route"]);
        (routes.contains("via 172.31.0.3") && routes.contains("via 172.31.0.4")).then_some(())
    })
    .await;
    let kept = |fabric: &Fabric| -> Vec<String> {
        let routes = fabric.nodes[0].run("ip", &["route"]);
        routes.lines().filter(|line| line.contains("via 172.31.0.4")).map(str::to_owned).collect()
    };
    let before = kept(&fabric);
    assert_eq!(before.len(), 1, "{before:?}");

    fabric.nodes[2].kill();
    fabric.nodes[0].kill();
    fabric.nodes[0].start();
    fabric.nodes[0].ready().await;
    fabric.nodes[0].meshed(1).await;
    let status = fabric.nodes[0].status().await;
    assert!(status.problems.iter().any(|problem| problem.contains("waits for three")), "{:?}", status.problems);
    // Its address makes the second node claim another block, which nobody has a route to yet.
    fabric.apply(
        "pod-new",
        &[json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": "new", "namespace": "default",
                "annotations": { "cni.projectcalico.org/ipAddrs": "[\"10.244.9.9\"]" },
            },
            "spec": { "nodeName": "two", "containers": [{ "name": "main" }] },
        })],
    );
    fabric.start_pod("new", 1);
    let started = Instant::now();
    until("the new pod's route is in the first node's FIB", || async {
        fabric.nodes[0].run("ip", &["route"]).contains("10.244.9.0/26 via 172.31.0.3").then_some(())
    })
    .await;
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    assert_eq!(kept(&fabric), before, "the dead node's routes stay: its pods may live");
}

#[tokio::test]
async fn a_flow_that_loses_its_permission_stops_and_others_go_on() {
    let (fabric, web, far) = two_nodes().await;
    fabric.pod("near", &json!({ "app": "near" }), "one");
    let near = fabric.start_pod("near", 0);
    let (kept, cut) = (Stream::start(&far, &web, 7001, true), Stream::start(&near, &web, 7002, true));
    until("both flow", || async { (kept.received() > 10 && cut.received() > 10).then_some(()) }).await;
    fabric.apply("policy", &[allow("far")]);
    let applied = Instant::now();
    fabric.settle().await;
    let at = cut.received();
    println!("applied within {:?}", applied.elapsed());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (sent, received) = kept.end();
    assert_eq!(sent, received, "the flow that stays allowed loses nothing");
    let (sent, received) = cut.end();
    assert!(received <= at + 2 && sent > received + 50, "cut at {at}, {received} of {sent} came");
}

#[tokio::test]
async fn a_policy_that_came_while_nobody_was_there_holds_from_the_start() {
    let (mut fabric, web, far) = two_nodes().await;
    fabric.nodes[0].kill();
    fabric.apply("policy", &[allow("nobody")]);
    assert!(reaches(&far, &web, true), "the last good rules");
    let stream = Stream::start(&far, &web, 7001, true);
    fabric.nodes[0].start();
    fabric.nodes[0].ready().await;
    fabric.settle().await;
    assert!(!reaches(&far, &web, true));
    let at = stream.received();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(stream.end().1 <= at + 2, "an old flow as well");
}
