//! One node: a pod comes and goes, the agent is killed, restarted, stopped, started twice.

mod common;

use std::time::Duration;

use common::{Ear, Fabric, reaches, run, until};
use serde_json::json;
use tortie_admin::types::{Endpoint, IpamBlockStatus, NodeStatus};
use tortie_felix_netlink::sysctl;

fn deny_all() -> serde_json::Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "name": "closed", "namespace": "default" },
        "spec": { "podSelector": { "matchLabels": { "app": "web" } }, "policyTypes": ["Ingress"] },
    })
}

#[tokio::test]
async fn a_pod_comes_is_protected_and_goes() {
    let fabric = Fabric::with_nodes(&["one"]).await;
    let node = &fabric.nodes[0];
    fabric.pod("web", &json!({ "app": "web" }), "one");
    fabric.pod("client", &json!({ "app": "client" }), "one");
    let (web, client) = (fabric.start_pod("web", 0), fabric.start_pod("client", 0));
    assert!(reaches(&client, &web, true) && reaches(&client, &web, false), "both families, no policy");

    fabric.apply("policy", &[deny_all()]);
    fabric.settle().await;
    assert!(!reaches(&client, &web, true) && !reaches(&client, &web, false), "denied");
    assert!(reaches(&web, &client, true), "only one direction is");
    fabric.delete("policy");
    fabric.settle().await;
    assert!(reaches(&client, &web, true) && reaches(&client, &web, false), "allowed again");

    let text = node.run("ip", &["route", "show", "proto", "80"]);
    assert_eq!(text.lines().count(), 3, "two pods and a block: {text}");
    let routes = node.routes().await;
    assert!(routes.iter().all(|route| route.state == "present" && route.protocol == 80), "{routes:?}");
    let endpoints: Vec<Endpoint> = node.client().get("/v1/endpoints").await.expect("endpoints");
    assert_eq!(endpoints.len(), 2);
    let blocks: Vec<IpamBlockStatus> = node.client().get("/v1/ipam").await.expect("blocks");
    assert_eq!(
        blocks.iter().map(|block| (block.in_use, block.node.as_deref())).collect::<Vec<_>>(),
        [(2, Some("one")); 2]
    );
    let rules = node.client().get_text("/v1/policy/render").await.expect("rules");
    assert!(rules.contains("table inet tortie") && rules.contains(&endpoints[0].host_interface), "{rules}");
    let status = node.status().await;
    assert_eq!((status.ready, status.endpoints, status.problems), (true, 2, Vec::new()));

    fabric.cni(0, "DEL", "web", &web.netns).expect("DEL");
    let rules = node.run("nft", &["list", "table", "inet", "tortie"]);
    let gone = endpoints.iter().find(|endpoint| endpoint.pod == "web").expect("web");
    assert!(!rules.contains(&gone.host_interface), "{rules}");
    assert!(!node.run("ip", &["route"]).contains(&gone.host_interface));
    assert!(run(&web.netns, "ip", &["-o", "link"]).lines().count() <= 1, "only loopback is left");
    fabric.cni(0, "DEL", "web", &web.netns).expect("DEL may be repeated");
}

#[tokio::test]
async fn an_add_waits_for_the_pod_object_and_says_so() {
    let fabric = Fabric::with_nodes(&["one"]).await;
    let netns = tortie_felix_netlink::netns::anonymous().expect("a namespace");
    let error = fabric.cni(0, "ADD", "stranger", &netns).expect_err("nobody knows it");
    assert!(error.contains("stranger"), "{error}");
    let routes = fabric.nodes[0].run("ip", &["route", "show", "proto", "80"]);
    assert!(!routes.contains("cali"), "{routes}");
}

#[tokio::test]
async fn a_restart_writes_nothing() {
    let mut fabric = Fabric::with_nodes(&["one", "two"]).await;
    fabric.pod("web", &json!({ "app": "web" }), "one");
    fabric.pod("far", &json!({ "app": "far" }), "two");
    let (web, far) = (fabric.start_pod("web", 0), fabric.start_pod("far", 1));
    fabric.apply("policy", &[json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "name": "from-far", "namespace": "default" },
        "spec": { "podSelector": { "matchLabels": { "app": "web" } }, "ingress": [{ "from": [{ "podSelector": { "matchLabels": { "app": "far" } } }] }] },
    })]);
    fabric.settle().await;
    for node in &fabric.nodes {
        node.meshed(1).await;
        until("the other's blocks are in the FIB", || async {
            (node.run("ip", &["route"]).contains("via 172.31.0.")
                && node.run("ip", &["-6", "route"]).contains("via fd00:172:31::"))
            .then_some(())
        })
        .await;
    }
    assert!(reaches(&far, &web, true) && reaches(&far, &web, false));

    let folder = fabric.folder.path().to_owned();
    let node = &mut fabric.nodes[0];
    let handles = |text: &str| -> Vec<String> {
        // Counters and the owner's name may differ, handles may not.
        text.lines().filter(|line| !line.contains("table inet")).map(str::to_owned).collect()
    };
    for (how, kill) in [("kill -9", true), ("SIGTERM", false)] {
        let before = handles(&node.run("nft", &["-a", "-s", "list", "table", "inet", "tortie"]));
        let generation = node.status().await.generation;
        let nft = Ear::open(node, &folder, "nft", &["monitor"]);
        let ip = Ear::open(node, &folder, "ip", &["monitor", "route", "link", "address"]);
        tokio::time::sleep(Duration::from_millis(300)).await;
        if kill {
            node.kill();
        } else {
            assert!(node.stop().success());
        }
        node.start();
        node.ready().await;
        node.meshed(1).await;
        // Routes that the peer confirms again are the same ones; the deferral ends with its End-of-RIB.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let (nft, ip) = (nft.close(), ip.close());
        let nft: Vec<&str> = nft.lines().filter(|line| !line.starts_with('#')).collect();
        assert!(nft.len() <= 1 && nft.iter().all(|line| line.starts_with("add table inet tortie")), "{how}: {nft:?}");
        assert_eq!(ip, "", "{how}: ip monitor");
        assert_eq!(handles(&node.run("nft", &["-a", "-s", "list", "table", "inet", "tortie"])), before, "{how}");
        assert_eq!(node.status().await.generation, generation);
    }
    assert!(reaches(&far, &web, true) && reaches(&far, &web, false));
    fabric.cni(0, "DEL", "web", &web.netns).expect("the new agent knows the pod");
}

#[tokio::test]
async fn what_others_break_is_repaired() {
    let fabric = Fabric::with_nodes(&["one"]).await;
    fabric.pod("web", &json!({ "app": "web" }), "one");
    let web = fabric.start_pod("web", 0);
    let node = &fabric.nodes[0];
    let before = node.run("ip", &["route", "show", "proto", "80"]);
    node.run("ip", &["route", "del", &web.ip(true).to_string()]);
    node.run("ip", &["route", "add", "10.244.77.0/26", "via", "172.31.0.99", "proto", "80", "metric", "1024"]);
    node.run("ip", &["route", "add", "10.99.0.0/24", "via", "172.31.0.99", "proto", "99"]);
    until("our routes are as they were", || async {
        (node.run("ip", &["route", "show", "proto", "80"]) == before).then_some(())
    })
    .await;
    assert!(node.run("ip", &["route"]).contains("10.99.0.0/24"), "others' routes are not ours to judge");
}

#[tokio::test]
async fn one_agent_a_run_directory_and_health_on_loopback() {
    let mut fabric = Fabric::with_nodes(&["one"]).await;
    let node = &mut fabric.nodes[0];
    let output = node.netns.spawn(node.command().stderr(std::process::Stdio::piped())).expect("it starts");
    let output = output.wait_with_output().expect("it ends");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("another tortie-node runs with the run directory"), "{text}");
    assert!(node.client().get::<NodeStatus>("/v1/status").await.is_ok(), "the first one goes on");

    let get = |path: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        node.netns
            .run(|| {
                use std::io::{Read, Write};
                let mut stream = std::net::TcpStream::connect("127.0.0.1:9099").expect("health is served");
                stream.write_all(request.as_bytes()).expect("asked");
                let mut answer = String::new();
                stream.read_to_string(&mut answer).expect("answered");
                answer
            })
            .expect("entered")
    };
    assert!(get("/liveness").starts_with("HTTP/1.1 200"));
    assert!(get("/readiness").starts_with("HTTP/1.1 200"));
    let error = node.client().get_text("/v1/nothing").await.expect_err("no such page").to_string();
    assert!(error.contains("/v1/nothing is nothing that tortie-node"), "{error}");

    assert!(node.stop().success());
    assert!(node.client().get_text("/v1/status").await.expect_err("gone").is_unreachable());
    assert!(node.run("nft", &["list", "tables"]).contains("inet tortie"), "rules outlive the agent");
    node.start();
    node.ready().await;
}

#[tokio::test]
async fn forwarding_is_on_and_routers_are_still_listened_to() {
    let fabric = Fabric::with_nodes(&["one"]).await;
    let node = &fabric.nodes[0];
    until("both families are forwarded", || async {
        let read = |setting: &str| sysctl::get(setting).expect("a setting");
        let settings = ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding", "net.ipv6.conf.eth0.accept_ra"];
        let values = node.netns.run(|| settings.map(read)).expect("entered");
        (values == ["1", "1", "2"]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn documents_in_error_are_problems_and_change_nothing() {
    let fabric = Fabric::with_nodes(&["one"]).await;
    let node = &fabric.nodes[0];
    fabric.apply("broken", &[json!({ "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": { "name": "x" }, "spec": { "ingres": [] } })]);
    let problems = until("the document is reported", || async {
        let status = node.status().await;
        (!status.problems.is_empty()).then_some(status.problems)
    })
    .await;
    assert!(problems[0].contains("broken.yaml") && problems[0].contains("ingres"), "{problems:?}");
    until("and logged", || async { node.log_text().contains("broken.yaml").then_some(()) }).await;
    fabric.delete("broken");
    until("the problem is gone", || async { node.status().await.problems.is_empty().then_some(()) }).await;
}
