//! The server that other tests rely on: that it streams lists, keeps and forgets what they think it does, and never outlives them.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tortie_tests::k8s::{ApiServer, Options};
use tortie_tests::root;

fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}})
}

/// Names of the ConfigMaps that tests made, in order.
fn names(server: &ApiServer) -> Vec<String> {
    let list = server.get(&["configmaps", "-n", "default"]);
    let items = list["items"].as_array().expect("a list");
    let names = items.iter().filter_map(|item| item["metadata"]["name"].as_str());
    names.filter(|name| *name != "kube-root-ca.crt").map(str::to_owned).collect()
}

/// What a watch that begins with all there is brings within a second.
fn streamed(server: &ApiServer) -> Result<Vec<Value>, String> {
    let query =
        "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=1";
    let output = server.try_kubectl(&["get", "--raw", &format!("/api/v1/namespaces/default/configmaps?{query}")]);
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.lines().map(|line| serde_json::from_str(line).expect("a watch is a line of JSON an event")).collect())
}

#[test]
fn lists_are_streamed_unless_told_otherwise() {
    let server = ApiServer::start();
    server.apply(&[config_map("one"), config_map("two")]);
    let events = streamed(&server).expect("the server streams lists");
    let added = events.iter().filter(|event| event["type"] == "ADDED").count();
    assert_eq!(added, 2, "{events:?}");
    let last = events.last().expect("events");
    assert_eq!(last["type"], "BOOKMARK", "{events:?}");
    assert_eq!(last["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true", "{events:?}");
    drop(server);

    let flags = vec!["--feature-gates=WatchList=false".to_owned()];
    let server = ApiServer::start_with(&Options { flags, ..Options::default() });
    let refusal = streamed(&server).expect_err("a server without streaming lists refuses to stream one");
    assert!(refusal.contains("sendInitialEvents"), "{refusal}");
}

#[test]
fn data_outlives_a_restart_and_a_restored_datastore_forgets() {
    let server = ApiServer::start();
    server.apply(&[config_map("kept")]);
    server.save("before");
    server.apply(&[config_map("forgotten")]);

    server.stop();
    assert!(!server.try_kubectl(&["get", "namespaces"]).status.success(), "a stopped server answers");
    server.restart();
    assert_eq!(names(&server), ["forgotten", "kept"]);

    server.restore("before");
    assert_eq!(names(&server), ["kept"]);
}

#[test]
fn an_account_may_only_what_it_is_given() {
    let server = ApiServer::start();
    server.kubectl(&["create", "serviceaccount", "agent", "-n", "kube-system"]);
    let kubeconfig = server.account("kube-system", "agent");
    let get = || {
        let kubeconfig = kubeconfig.to_str().expect("a plain path");
        server.try_kubectl(&["--kubeconfig", kubeconfig, "get", "nodes"])
    };
    let refused = get();
    let refusal = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && refusal.contains("Forbidden"), "{refusal}");

    server.kubectl(&["create", "clusterrole", "nodes", "--verb=list", "--resource=nodes"]);
    server.kubectl(&[
        "create",
        "clusterrolebinding",
        "nodes",
        "--clusterrole=nodes",
        "--serviceaccount=kube-system:agent",
    ]);
    let deadline = Instant::now() + Duration::from_secs(10);
    while !get().status.success() {
        assert!(Instant::now() < deadline, "a granted right has no effect");
    }
}

#[test]
fn a_server_ends_with_whom_it_was_made_for() {
    let folder = std::env::temp_dir().join(format!("tortie-test-owner{}", std::process::id()));
    let mut owner = Command::new("sleep").arg("600").spawn().expect("sleep is everywhere");
    let up = Command::new(root().join("tests/k8s/cluster.sh"))
        .arg("api-only")
        .env("K8S_NAME", format!("owner{}", std::process::id()))
        .env("K8S_STATE", &folder)
        .env("K8S_OWNER", owner.id().to_string())
        .stdin(Stdio::null())
        .output()
        .expect("cluster.sh runs");
    assert!(up.status.success(), "{}", String::from_utf8_lossy(&up.stderr));
    let pid = std::fs::read_to_string(folder.join("run/apiserver.pid")).expect("the server runs");
    let pid = pid.split(' ').next().expect("a process").to_owned();
    let command = format!("/proc/{pid}/cmdline");
    assert!(std::fs::read_to_string(&command).is_ok_and(|line| line.starts_with("kube-apiserver")));

    owner.kill().expect("the owner runs");
    owner.wait().expect("the owner is ours");
    let deadline = Instant::now() + Duration::from_secs(20);
    let runs = || std::fs::read_to_string(&command).is_ok_and(|line| !line.is_empty());
    while runs() || folder.exists() {
        assert!(Instant::now() < deadline, "the server outlives its owner: process {pid}, {}", folder.display());
        std::thread::sleep(Duration::from_millis(100));
    }
}
