//! NetworkPolicy truth tables: scenarios of steps, each a cluster state with every pair that must not pass.
//!
//! The project's own are in `tests/conformance/truth-tables.json`; the corpora hold more, in the same form.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Value, json};

use crate::lab::{Pair, array};

/// One state of a scenario.
pub struct Step {
    /// Which scenario and step it is, for messages.
    pub title: String,
    /// The documents in force, by a key that names each.
    pub documents: BTreeMap<String, Value>,
    /// Pods, as `NS/NAME`.
    pub pods: Vec<String>,
    /// Ports probed.
    pub ports: Vec<(String, u16)>,
    /// What must not pass; everything else must.
    pub blocked: BTreeSet<Pair>,
}

/// Reads a file of scenarios. `place` says on which node a pod runs.
///
/// # Panics
/// When the file is not of the form.
pub fn load(file: &Path, place: &dyn Fn(usize) -> String) -> Vec<Vec<Step>> {
    let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let cases: Value = serde_json::from_str(&text).expect("truth tables are JSON");
    array(&cases)
        .iter()
        .map(|case| {
            let steps = array(&case["steps"]);
            steps.iter().enumerate().map(|(number, step)| read(case, number, step, place)).collect()
        })
        .collect()
}

fn read(case: &Value, number: usize, step: &Value, place: &dyn Fn(usize) -> String) -> Step {
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let mut documents = BTreeMap::new();
    documents.insert(
        "pool".to_owned(),
        json!({"apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": {"name": "truth"}, "spec": {"cidr": "192.168.0.0/16"}}),
    );
    for (name, labels) in step["namespaces"].as_object().expect("namespaces") {
        let document = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        documents.insert(format!("namespace {name}"), document);
    }
    let mut pods = Vec::new();
    for (index, pod) in array(&step["pods"]).iter().enumerate() {
        let (namespace, name, ip) = (text(&pod["ns"]), text(&pod["name"]), text(&pod["ip"]));
        let ports: Vec<Value> = [80, 81]
            .iter()
            .flat_map(|port| {
                ["TCP", "UDP", "SCTP"].iter().map(move |protocol| {
                    json!({"containerPort": port, "protocol": protocol, "name": format!("serve-{port}-{}", protocol.to_lowercase())})
                })
            })
            .collect();
        let document = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "labels": pod["labels"],
                "annotations": {"cni.projectcalico.org/ipAddrs": format!("[\"{ip}\"]")}},
            "spec": {"nodeName": place(index), "containers": [{"name": "c", "image": "serve", "ports": ports}]},
        });
        documents.insert(format!("pod {namespace}/{name}"), document);
        pods.push(format!("{namespace}/{name}"));
    }
    for policy in array(&step["policies"]) {
        let metadata = &policy["metadata"];
        let name = format!("policy {}/{}", text(&metadata["namespace"]), text(&metadata["name"]));
        // The corpora leave the type out where it is plain.
        let mut policy = policy.clone();
        policy["apiVersion"] = "networking.k8s.io/v1".into();
        policy["kind"] = "NetworkPolicy".into();
        documents.insert(name, policy);
    }
    let port = |value: &Value| u16::try_from(value.as_u64().expect("a port")).expect("a port of 16 bits");
    let ports = array(&step["ports"]).iter().map(|pair| (text(&pair[0]), port(&pair[1]))).collect();
    let blocked = array(&step["blocked"])
        .iter()
        .map(|row| (text(&row[0]), text(&row[1]), text(&row[2]), port(&row[3])))
        .collect();
    let title = format!("case {} ({}) step {number}", case["case"], case["description"]);
    Step { title, documents, pods, ports, blocked }
}

impl Step {
    /// The ports as `--ports` takes them, less the protocols that are left out.
    pub fn port_list(&self, without: &[&str]) -> String {
        let ports: Vec<String> = self
            .ports
            .iter()
            .filter(|(protocol, _)| !without.contains(&protocol.as_str()))
            .map(|(protocol, port)| format!("{protocol}/{port}"))
            .collect();
        ports.join(",")
    }

    /// Every pair of different pods whose verdict is not the expected one.
    pub fn differences(&self, seen: &BTreeMap<Pair, String>, without: &[&str]) -> Vec<String> {
        let mut wrong = Vec::new();
        for from in &self.pods {
            for to in self.pods.iter().filter(|to| *to != from) {
                for (protocol, port) in self.ports.iter().filter(|(protocol, _)| !without.contains(&protocol.as_str()))
                {
                    let pair = (from.clone(), to.clone(), protocol.clone(), *port);
                    let expected = if self.blocked.contains(&pair) { "deny" } else { "allow" };
                    let verdict = seen.get(&pair).map_or("no row", String::as_str);
                    if verdict != expected {
                        wrong.push(format!(
                            "{}: {from} -> {to} {protocol}/{port}: {verdict}, expected {expected}",
                            self.title
                        ));
                    }
                }
            }
        }
        wrong
    }
}
