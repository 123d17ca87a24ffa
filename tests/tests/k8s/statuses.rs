//! What became of objects, as an API server's users see it: agents report, one sums up.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tortie_datastore::kubernetes::Kubernetes;
use tortie_tests::k8s::ApiServer;
use tortie_tests::{lab, root};

/// An agent of nothing but the controller, which sums up what others report.
struct Controller(Child);

impl Controller {
    fn start(server: &ApiServer, node: &str) -> Self {
        let mut command = Command::new(lab::tortie().with_file_name("tortie-node"));
        command
            .args(["run", "--datastore", "kubernetes", "--node", node, "--components", "controller"])
            .args(["--health-address", "127.0.0.1:0", "--metrics-address", "127.0.0.1:0", "--run-dir"])
            .arg(server.folder().join(format!("run-{node}")))
            .env("KUBECONFIG", server.kubeconfig())
            .stdin(Stdio::null());
        Self(command.spawn().expect("the controller starts"))
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn policy(order: u32) -> Value {
    json!({
        "apiVersion": "projectcalico.org/v3",
        "kind": "GlobalNetworkPolicy",
        "metadata": {"name": "one"},
        "spec": {"order": order, "selector": "app == 'one'"},
    })
}

/// The message of a condition of the policy, once it is `wanted`.
fn await_message(server: &ApiServer, condition: &str, wanted: &str) -> Value {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let policy = server.get(&["globalnetworkpolicies.projectcalico.org", "one"]);
        let conditions = policy["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.into_iter().find(|found| found["type"] == condition).unwrap_or_default();
        if found["message"] == wanted && found["observedGeneration"] == policy["metadata"]["generation"] {
            return found;
        }
        assert!(Instant::now() < deadline, "{condition} is not {wanted:?}: {policy}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_policy_is_told_on_how_many_nodes_it_is_in_force() {
    let server = ApiServer::start();
    server.kubectl(&["apply", "-k", root().join("deploy").to_str().expect("a plain path")]);
    server.kubectl(&["wait", "--for=condition=Established", "--timeout=30s", "crd", "--all"]);
    let node = |name: &str| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
    server.apply(&[node("n1"), node("n2"), policy(1)]);
    let _controller = Controller::start(&server, "n1");
    await_message(&server, "Accepted", "valid and in use");
    await_message(&server, "Programmed", "programmed on 0 of 2 nodes");

    // Agents of both nodes, as far as this is about them.
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let report = |node: &str| {
        runtime.block_on(async {
            let store = Kubernetes::new(Some(&server.kubeconfig()), node).await.expect("a server");
            let kind = tortie_api::Kind::GlobalNetworkPolicy;
            let digest = store.standings(kind).await.expect("the server answers").digest;
            store.report_programmed(node, &[(kind, digest)].into()).await.expect("the report is taken");
        });
    };
    report("n1");
    await_message(&server, "Programmed", "programmed on 1 of 2 nodes");
    report("n2");
    let in_force = await_message(&server, "Programmed", "programmed on 2 of 2 nodes");
    assert_eq!(in_force["status"], "True");
    let table = server.kubectl(&["get", "globalnetworkpolicies.projectcalico.org", "-o", "wide"]);
    assert!(table.contains("programmed on 2 of 2 nodes"), "{table}");

    // What others write there stays for others, and what is asked for anew is in force nowhere yet.
    server.apply(&[policy(2)]);
    let pending = await_message(&server, "Programmed", "programmed on 0 of 2 nodes");
    assert_eq!((&pending["status"], &pending["reason"]), (&json!("False"), &json!("Pending")));
    report("n2");
    await_message(&server, "Programmed", "programmed on 1 of 2 nodes");
    // A report goes with its node: its object is the owner.
    let lease = server.get(&["lease", "n2", "-n", "tortie-nodes"]);
    let owner = &lease["metadata"]["ownerReferences"][0];
    assert_eq!((&owner["kind"], &owner["name"]), (&json!("Node"), &json!("n2")));
    server.kubectl(&["delete", "node", "n1"]);
    // Who leads runs on n1, which must not matter.
    await_message(&server, "Programmed", "programmed on 1 of 1 nodes");
}
