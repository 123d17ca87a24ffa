//! What others change is repaired and told, with who it was; what is ours to change is not. And how an agent is watched: metrics that
//! Prometheus reads, and a thread that is stuck.

mod common;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Fabric, Node, peer, reaches, run, until};
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tortie_admin::types::{Drift, Endpoint};

/// The answer of one of the agent's HTTP servers: its status, and what it said. None if nobody listens.
fn get(node: &Node, port: u16, path: &str) -> Option<(u16, String)> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut stream = node.netns.run(|| TcpStream::connect(address)).expect("entered").ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// One sample of the page of metrics, by its name with labels.
fn sample(node: &Node, name: &str) -> Option<f64> {
    let (_, page) = get(node, 9091, "/metrics")?;
    page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

fn felix_configuration(spec: &Value) -> Value {
    json!({ "apiVersion": "projectcalico.org/v3", "kind": "FelixConfiguration", "metadata": { "name": "default" }, "spec": spec })
}

fn deny(name: &str, app: &str) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "name": name, "namespace": "default" },
        "spec": { "podSelector": { "matchLabels": { "app": app } }, "policyTypes": ["Ingress"] },
    })
}

/// Waits for a drift that is repaired.
async fn drift(node: &Node, what: &str, is: impl Fn(&Drift) -> bool) -> Drift {
    until(what, || async { node.status().await.drifts.into_iter().find(|drift| drift.repaired && is(drift)) }).await
}

#[tokio::test]
async fn what_a_stranger_changes_is_repaired_and_told() {
    let mut fabric = Fabric::new().await;
    fabric.plug("one").await;
    // Where the kernel lets only its owner touch the table nobody could.
    fabric.nodes[0].flags = vec!["--plain-table".to_owned()];
    fabric.nodes[0].start();
    fabric.pod("web", &json!({ "app": "web" }), "one");
    fabric.apply("policy", &[deny("closed", "web")]);
    fabric.settle().await;
    let node = &fabric.nodes[0];
    let pod = fabric.start_pod("web", 0);
    let endpoints: Vec<Endpoint> = node.client().get("/v1/endpoints").await.expect("endpoints");
    let interface = endpoints[0].host_interface.as_str();
    assert_eq!(node.status().await.drifts, []);
    // The generation moves with each repair, for nobody knows what the stranger let through.
    let rules = || {
        let text = node.run("nft", &["-s", "list", "table", "inet", "tortie"]);
        let mut words: Vec<String> = text.split([',', '{', '}', '\n']).map(|word| word.trim().to_owned()).collect();
        words.retain(|word| !word.contains("0x"));
        // A hash table lists its elements in whatever order.
        words.sort();
        words
    };
    let before = rules();

    node.run("nft", &["flush", "chain", "inet", "tortie", "guard"]);
    let found = drift(node, "the chain", |drift| drift.kind == "rules").await;
    assert_eq!((found.object.as_str(), found.found.as_str()), ("table inet tortie", "chain guard is empty"));
    let by = found.by.expect("nftables tells who did it");
    assert!(by.starts_with("nft (") && by.ends_with(')'), "{by}");
    assert_eq!(rules(), before);
    node.run("nft", &["delete", "element", "inet", "tortie", "own4", &format!("{{ {interface} . {} }}", pod.ip(true))]);
    drift(node, "the element", |drift| drift.found == "set own4 lacks an element").await;
    node.run("nft", &["flush", "ruleset"]);
    let found = drift(node, "the table", |drift| drift.found == "it is gone").await;
    assert_eq!(found.times, 3, "the same object, three times");
    assert_eq!(rules(), before);

    let address = format!("{}/32", pod.ip(true));
    node.run("ip", &["route", "del", &address]);
    let found = drift(node, "the route", |drift| drift.object == address).await;
    assert_eq!((found.kind.as_str(), found.found.as_str()), ("route", "no route"));
    assert!(found.by.is_some_and(|by| by.starts_with("ip (") || by.contains("which has ended")));
    assert!(node.run("ip", &["route", "show", "proto", "80"]).contains(interface));

    node.run("ip", &["link", "set", interface, "down"]);
    drift(node, "the interface", |drift| drift.kind == "interface" && drift.object == interface).await;
    until("its routes are back", || async {
        let routes = [&["route", "show", "proto", "80"][..], &["-6", "route", "show", "proto", "80"]];
        routes.iter().all(|args| node.run("ip", args).contains(interface)).then_some(())
    })
    .await;
    assert!(node.run("ip", &["addr", "show", interface]).contains("fe80::ecee:eeff:feee:eeee"));

    node.netns.run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "0")).expect("entered").expect("written");
    drift(node, "forwarding", |drift| drift.kind == "sysctl" && drift.object == "net/ipv4/ip_forward").await;
    let forwarding = node.netns.run(|| std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward")).expect("entered");
    assert_eq!(forwarding.expect("read").trim(), "1");

    for (kind, least) in [("rules", 3.0), ("route", 1.0), ("interface", 1.0), ("sysctl", 1.0)] {
        let count = sample(node, &format!("tortie_drift_total{{kind=\"{kind}\"}}"));
        assert!(count.is_some_and(|count| count >= least), "{kind}: {count:?}");
    }
    let log = node.log_text();
    assert!(log.contains("rules table inet tortie was changed by nft ("), "{log}");
    assert!(node.status().await.problems.is_empty(), "{:?}", node.status().await.problems);
}

#[tokio::test]
async fn nothing_that_we_or_the_kernel_do_is_told_as_drift() {
    let mut fabric = Fabric::new().await;
    for name in ["one", "two"] {
        let number = fabric.plug(name).await;
        fabric.nodes[number].flags = vec!["--plain-table".to_owned()];
    }
    fabric.nodes.iter_mut().for_each(Node::start);
    fabric.settle().await;
    fabric.nodes[0].meshed(1).await;
    for round in 0..3 {
        let names: Vec<String> = (0..4).map(|number| format!("pod-{number}")).collect();
        let mut pods = Vec::new();
        for name in &names {
            fabric.pod(name, &json!({ "app": name }), "one");
            pods.push(fabric.start_pod(name, 0));
            fabric.apply(&format!("policy-{name}"), &[deny(name, name)]);
        }
        // A stranger's own things are no concern of ours.
        let node = &fabric.nodes[0];
        node.run("nft", &["add", "table", "inet", "stranger"]);
        node.run("nft", &["add", "chain", "inet", "stranger", "own4"]);
        node.run("ip", &["route", "add", "192.0.2.0/24", "dev", "eth0"]);
        node.run("nft", &["delete", "table", "inet", "stranger"]);
        node.run("ip", &["route", "del", "192.0.2.0/24"]);
        for (name, pod) in names.iter().zip(pods) {
            if name.ends_with('3') {
                // The sandbox goes before anybody says so.
                let netns = pod.netns;
                let config = tortie_felix_netlink::netns::anonymous().expect("a namespace");
                drop(netns);
                fabric.cni(0, "DEL", name, &config).expect("DEL");
            } else {
                fabric.cni(0, "DEL", name, &pod.netns).expect("DEL");
            }
            fabric.delete(&format!("policy-{name}"));
            fabric.delete(&format!("pod-{name}"));
        }
        fabric.settle().await;
        for node in &mut fabric.nodes {
            assert_eq!(node.status().await.drifts, [], "round {round}, {}", node.name);
            for kind in ["rules", "route", "interface", "sysctl", "host-firewall"] {
                let count = sample(node, &format!("tortie_drift_total{{kind=\"{kind}\"}}"));
                assert_eq!(count, Some(0.0), "round {round}, {}, {kind}", node.name);
            }
            if round == 1 {
                node.kill();
                node.start();
                node.ready().await;
            }
        }
        fabric.nodes[0].meshed(1).await;
    }
    for node in &fabric.nodes {
        assert!(!node.log_text().contains("; repaired"), "{}", node.log_text());
    }
}

#[tokio::test]
async fn changes_of_nftables_by_others_cost_no_look_at_ours() {
    let fabric = Fabric::with_nodes(&["one"]).await;
    let node = &fabric.nodes[0];
    let reads = sample(node, "felix_nft_list_calls").expect("a count");
    let mut nft = Command::new(peer("nft"));
    let mut nft = node.netns.spawn(nft.arg("-i").stdin(Stdio::piped()).stdout(Stdio::null())).expect("it starts");
    let mut lines = String::new();
    for _ in 0..250 {
        lines.push_str("add table inet stranger\nadd set inet stranger tortie { type ipv4_addr; }\n");
        lines.push_str("add element inet stranger tortie { 192.0.2.1 }\ndelete table inet stranger\n");
    }
    nft.stdin.take().expect("stdin").write_all(lines.as_bytes()).expect("written");
    assert!(nft.wait().expect("it ends").success());
    until("all of them are seen", || async {
        sample(node, "tortie_nft_foreign_commits_total").filter(|count| *count >= 1000.0)
    })
    .await;
    assert_eq!(sample(node, "felix_nft_list_calls"), Some(reads), "no read-back");
    assert_eq!(sample(node, "tortie_nft_foreign_touches_total"), Some(0.0));
    assert_eq!(node.status().await.drifts, []);
}

/// Stops one thread of a process, and no other, until this is dropped.
struct Stuck(Pid);

impl Stuck {
    fn thread(process: u32, name: &str) -> Self {
        let tasks = std::fs::read_dir(format!("/proc/{process}/task")).expect("threads").flatten();
        let is_named = |folder: &std::path::PathBuf| {
            std::fs::read_to_string(folder.join("comm")).is_ok_and(|comm| comm.trim() == name)
        };
        let task = tasks.map(|task| task.path()).find(is_named).expect("a thread of that name");
        let number = task.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
        let task = Pid::from_raw(number.expect("a number"));
        ptrace::seize(task, ptrace::Options::empty()).expect("seized");
        ptrace::interrupt(task).expect("interrupted");
        waitpid(task, Some(WaitPidFlag::__WALL)).expect("stopped");
        Self(task)
    }
}

impl Drop for Stuck {
    fn drop(&mut self) {
        // A thread that has ended meanwhile needs no help.
        let _ = ptrace::detach(self.0, None);
    }
}

#[tokio::test]
async fn a_stuck_thread_is_found_and_named() {
    let fabric = Fabric::with_nodes(&["one"]).await;
    let node = &fabric.nodes[0];
    assert_eq!(get(node, 9099, "/readiness").expect("an answer").0, 200);
    let (status, text) = get(node, 9099, "/liveness").expect("an answer");
    assert_eq!((status, text.lines().next()), (200, Some("live")));
    let limit = |name: &str| json!({ "name": name, "timeout": "2s" });
    let limits = json!({ "healthTimeoutOverrides": [limit("core"), limit("nftables"), limit("routes")] });
    fabric.apply("felix", &[felix_configuration(&limits)]);
    fabric.settle().await;

    for (round, thread) in ["nftables", "core", "routes"].into_iter().enumerate() {
        let stuck = Stuck::thread(node.pid(), thread);
        // Something to do for it, whichever it is.
        fabric.pod(&format!("pod-{round}"), &json!({ "app": "x" }), "one");
        fabric.apply(&format!("policy-{round}"), &[deny(&format!("policy-{round}"), "x")]);
        if thread == "routes" {
            node.run("ip", &["route", "add", "192.0.2.0/24", "dev", "lo", "proto", "80", "metric", "1024"]);
        }
        if thread == "nftables" {
            fabric.apply("spoof", &[felix_configuration(&json!({}))]);
            let changed = json!({ "healthTimeoutOverrides": limits["healthTimeoutOverrides"], "vxlanPort": 4790 });
            fabric.apply("felix", &[felix_configuration(&changed)]);
        }
        let text = until(&format!("{thread} is found stuck"), || async {
            let (status, text) = get(node, 9099, "/liveness").expect("an answer");
            (status == 503).then_some(text)
        })
        .await;
        assert!(text.contains(&format!("not live: {thread} has been at one piece of work for")), "{text}");
        let parts: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once(": ")).collect();
        assert!(parts.contains_key("datastore") && parts.contains_key("bgp"), "{text}");
        assert_eq!(get(node, 9099, "/readiness").expect("an answer").0, 200, "it was ready once");
        drop(stuck);
        until(&format!("{thread} works again"), || async {
            (get(node, 9099, "/liveness").expect("an answer").0 == 200).then_some(())
        })
        .await;
        fabric.settle().await;
    }
}

#[tokio::test]
async fn metrics_are_served_where_the_configuration_says() {
    let fabric = Fabric::with_nodes(&["one"]).await;
    let node = &fabric.nodes[0];
    fabric.pod("web", &json!({ "app": "web" }), "one");
    fabric.apply("policy", &[deny("closed", "web")]);
    let _pod = fabric.start_pod("web", 0);
    fabric.settle().await;
    for (name, least) in [
        ("felix_active_local_endpoints", 1.0),
        ("felix_active_local_policies", 1.0),
        ("felix_cluster_num_hosts", 1.0),
        ("felix_cluster_num_policies", 1.0),
        ("felix_cluster_num_workload_endpoints", 1.0),
        ("felix_resync_state", 3.0),
        ("felix_int_dataplane_apply_time_seconds_count", 2.0),
        ("felix_nft_chains{ip_version=\"inet\",table=\"tortie\"}", 3.0),
        ("felix_route_table_num_routes{table=\"IPv4:254\"}", 2.0),
        ("felix_calc_graph_updates_processed{type=\"Pod\"}", 1.0),
        ("tortie_commit_latency_seconds_count", 1.0),
        ("tortie_cni_add_latency_seconds_count", 1.0),
        ("tortie_programmed", 1.0),
        ("process_resident_memory_bytes", 1e6),
    ] {
        let value = sample(node, name);
        assert!(value.is_some_and(|value| value >= least), "{name}: {value:?}, {:?}", node.routes().await);
    }
    let moved = json!({ "prometheusMetricsPort": 9191, "prometheusProcessMetricsEnabled": false, "healthPort": 9199 });
    fabric.apply("felix", &[felix_configuration(&moved)]);
    let (_, page) = until("they have moved", || async { get(node, 9191, "/metrics") }).await;
    assert!(!page.contains("process_"), "{page}");
    until("health has moved", || async { get(node, 9199, "/liveness").filter(|(status, _)| *status == 200) }).await;
    until("nobody is left", || async {
        (get(node, 9091, "/metrics").is_none() && get(node, 9099, "/liveness").is_none()).then_some(())
    })
    .await;
    fabric.apply("felix", &[felix_configuration(&json!({ "prometheusMetricsEnabled": false }))]);
    until("they are off", || async { get(node, 9191, "/metrics").is_none().then_some(()) }).await;
    assert!(get(node, 9091, "/metrics").is_none());
    fabric.delete("felix");
    until("they are back", || async { get(node, 9091, "/metrics") }).await;
}

/// What is denied is counted by its reason, through new policies and restarts.
#[tokio::test]
async fn denied_packets_are_counted_by_reason() {
    let mut fabric = Fabric::with_nodes(&["one"]).await;
    for name in ["web", "client"] {
        fabric.pod(name, &json!({ "app": name }), "one");
    }
    fabric.apply("policy", &[deny("closed", "web")]);
    let (web, client) = (fabric.start_pod("web", 0), fabric.start_pod("client", 0));
    fabric.settle().await;
    let denied = |fabric: &Fabric, reason: &str| {
        sample(&fabric.nodes[0], &format!("tortie_denied_packets_total{{reason=\"{reason}\"}}"))
    };
    assert_eq!(denied(&fabric, "spoofed_source"), Some(0.0));
    run(&client.netns, "ip", &["addr", "add", "192.0.2.7/32", "dev", "lo"]);
    let spoof = || {
        let send = || UdpSocket::bind("192.0.2.7:0")?.send_to(b"spoofed", (web.ip(true), 9999));
        client.netns.run(send).expect("entered").expect("sent");
    };
    spoof();
    until("it is counted", || async { denied(&fabric, "spoofed_source").filter(|count| *count >= 1.0) }).await;
    assert!(!reaches(&client, &web, true));
    let by_policy = denied(&fabric, "policies").expect("a sample");
    assert!(by_policy >= 2.0, "{by_policy}");
    fabric.apply("policy", &[deny("closed", "client")]);
    fabric.settle().await;
    assert!(reaches(&client, &web, true), "the policy is another");
    assert!(denied(&fabric, "policies") >= Some(by_policy));
    fabric.nodes[0].kill();
    fabric.nodes[0].start();
    fabric.settle().await;
    let now = denied(&fabric, "policies");
    assert!(now >= Some(by_policy), "{by_policy} before the restart, {now:?} after it");
    spoof();
    until("it is counted", || async { denied(&fabric, "spoofed_source").filter(|count| *count >= 2.0) }).await;
}
