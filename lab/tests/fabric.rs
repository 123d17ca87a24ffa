//! The fabric, the responders and the prober by themselves, on real namespaces: nodes stand in for pods, so no agent is needed.

use std::path::PathBuf;
use std::time::Duration;

use tortie_lab::control::{self, Listening, Request};
use tortie_lab::fabric::Fabric;
use tortie_lab::plan::plan;
use tortie_lab::ports::parse_list;
use tortie_lab::probe::{self, Pace, Target};
use tortie_lab::state::State;
use tortie_lab::verdict::{Row, Verdict};
use tortie_lab::{name, process, responder, store};

/// A fabric with nodes, deleted whatever happens to the test.
struct World {
    state: State,
    socket: PathBuf,
}

impl World {
    async fn new(title: &str, documents: &str) -> Self {
        let lab = format!("{title}{}", std::process::id());
        let entries = store::read_text("test", documents).expect("documents");
        let state =
            plan(&store::objects(&entries), 2, &State { lab: lab.clone(), ..State::default() }).expect("a plan");
        let socket = std::env::temp_dir().join(format!("tortie-{lab}.sock"));
        let world = Self { state, socket };
        let fabric = Fabric::create(&lab).await.expect("a fabric");
        for segment in &world.state.segments {
            fabric.ensure_segment(segment).await.expect("a segment");
        }
        for node in &world.state.nodes {
            fabric.add_node(&world.state, node).await.expect("a node");
        }
        let socket = world.socket.clone();
        tokio::spawn(async move { responder::serve(&socket).await });
        while !world.socket.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        world
    }

    /// Opens ports on every node, under the node's name.
    async fn listen(&self, ports: &str) -> control::Response {
        let ports = parse_list(ports).expect("ports");
        let listening = self.state.nodes.iter().map(|node| Listening {
            pod: node.name.clone(),
            netns: node.netns.clone(),
            ports: ports.clone(),
        });
        control::call(&self.socket, &Request::Ensure(listening.collect())).await.expect("an answer")
    }

    async fn probe(&self, from: &str, to: &str, ports: &str, ipv6: bool) -> Vec<Row> {
        let node = self.state.node(to).expect("the node");
        let address = if ipv6 { node.ipv6.addr() } else { node.ipv4.addr() };
        let netns =
            self.state.node(from).map_or_else(|| name::fabric_netns(&self.state.lab), |node| node.netns.clone());
        let targets = parse_list(ports).expect("ports").into_iter().map(|port| Target {
            from: from.into(),
            netns: netns.clone(),
            to: to.into(),
            address,
            port,
        });
        let pace = Pace { timeout: Duration::from_millis(400), ..Pace::default() };
        probe::run(targets.collect(), pace, &self.socket).await.expect("rows")
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let namespaces = self.state.namespaces();
        process::end_all(&namespaces);
        for name in namespaces {
            let _ = tortie_felix_netlink::netns::delete(&name);
        }
        let _ = std::fs::remove_file(&self.socket);
    }
}

fn verdicts(rows: &[Row]) -> Vec<Verdict> {
    rows.iter().map(|row| row.verdict).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_reach_each_other_and_the_outside_reaches_them() {
    let world = World::new("one", "").await;
    assert!(world.listen("TCP/80,UDP/53").await.failed.is_empty());
    for (from, to) in [("node1", "node2"), ("node2", "node1"), ("outside", "node1"), ("node1", "node1")] {
        for ipv6 in [false, true] {
            let rows = world.probe(from, to, "TCP/80,UDP/53", ipv6).await;
            assert_eq!(verdicts(&rows), [Verdict::Allow; 2], "{from} to {to}, ipv6 {ipv6}: {rows:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fabric_routes_between_subnets() {
    let node = |name: &str, address: &str| {
        format!(
            "---\n{{apiVersion: v1, kind: Node, metadata: {{name: {name}}}, status: {{addresses: [{{type: InternalIP, address: {address}}}]}}}}\n"
        )
    };
    let world = World::new("two", &(node("a", "172.31.3.7") + &node("b", "172.31.4.7"))).await;
    assert_eq!(world.state.segments.len(), 2);
    world.listen("TCP/80").await;
    for ipv6 in [false, true] {
        assert_eq!(verdicts(&world.probe("a", "b", "TCP/80", ipv6).await), [Verdict::Allow], "ipv6 {ipv6}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusal_is_denial_and_no_route_is_not() {
    let world = World::new("three", "").await;
    // Nothing listens: a reset for TCP, port unreachable for UDP.
    let rows = world.probe("node1", "node2", "TCP/81,UDP/81", false).await;
    assert_eq!(verdicts(&rows), [Verdict::Deny; 2], "{rows:?}");
    // Nobody has the address: the fabric says so, and that is no policy.
    let target = Target {
        from: "node1".into(),
        netns: world.state.node("node1").expect("node1").netns.clone(),
        to: "nobody".into(),
        address: "203.0.113.1".parse().expect("an address"),
        port: parse_list("TCP/80").expect("ports")[0],
    };
    let rows = probe::run(vec![target], Pace::default(), &world.socket).await.expect("rows");
    assert_eq!(verdicts(&rows), [Verdict::Error], "{rows:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wrong_name_is_an_error_and_closed_ports_close() {
    let world = World::new("four", "").await;
    world.listen("TCP/80").await;
    let node = world.state.node("node2").expect("node2");
    let target = Target {
        from: "node1".into(),
        netns: world.state.node("node1").expect("node1").netns.clone(),
        to: "somebody else".into(),
        address: node.ipv4.addr(),
        port: parse_list("TCP/80").expect("ports")[0],
    };
    let rows = probe::run(vec![target], Pace::default(), &world.socket).await.expect("rows");
    assert_eq!(verdicts(&rows), [Verdict::Error]);
    assert!(rows[0].reason.as_deref().is_some_and(|reason| reason.contains("node2")), "{rows:?}");
    control::call(&world.socket, &Request::Remove(vec!["node2".into()])).await.expect("an answer");
    assert_eq!(verdicts(&world.probe("node1", "node2", "TCP/80", false).await), [Verdict::Deny]);
}
