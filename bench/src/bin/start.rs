//! The cold start of a node whose own pods are under very many policies: from all that it has to know to the kernel's last answer, how
//! long each step kept the kernel's rules busy, and what it all takes in memory.

use std::time::{Duration, Instant};

use serde_json::json;
use tortie_api::Object;
use tortie_bench::node::{Node, endpoint, object, pod};
use tortie_bench::{Row, Work, memory, report};

const POLICIES: usize = 10_000;
/// Pods of the node itself.
const LOCAL: [usize; 2] = [250, 500];
const NAMESPACES: usize = 20;
const FIRST: u32 = 0x0a01_0000;
const ROUNDS: usize = 3;

/// Policy number `index`: a local pod takes traffic from the pods of another app on one of twenty ports.
fn policy(index: usize, local: usize) -> Result<Object, String> {
    let pod = index % local;
    let app = |number: usize| json!({"matchLabels": {"app": format!("local{number}")}});
    object(&json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": format!("ns{}", pod % NAMESPACES), "name": format!("p{index}")},
        "spec": {"podSelector": app(pod), "policyTypes": ["Ingress"], "ingress": [
            {"from": [{"namespaceSelector": {}, "podSelector": app((pod + 1 + index / local) % local)}],
                "ports": [{"port": 1_000 + index / local % 20}]}]}}))
}

fn run(local: usize, rows: &mut Vec<Row>) -> Result<(), String> {
    let name = |what: &str| format!("{local} pods, {POLICIES} policies: {what}");
    let [mut all, mut steps] = [name("cold start"), name("one step")].map(|name| Work::new(&name, POLICIES));
    for _ in 0..ROUNDS {
        let mut objects = Vec::new();
        let mut endpoints = Vec::new();
        for index in 0..local {
            let (namespace, name) = (format!("ns{}", index % NAMESPACES), format!("local{index}"));
            let address = FIRST + u32::try_from(index).unwrap_or_default();
            objects.push(pod(&namespace, &name, "n0", &name, address)?);
            endpoints.push(endpoint(&namespace, &name, address));
        }
        for index in 0..POLICIES {
            objects.push(policy(index, local)?);
        }
        let start = Instant::now();
        let node = Node::start(objects, endpoints)?;
        all.add("tortie (felix core and executor)", start.elapsed());
        node.commits.iter().for_each(|step| steps.add("tortie (encoded, in the kernel)", *step));
        let kernel: Duration = node.commits.iter().sum();
        let longest = node.commits.iter().max().copied().unwrap_or_default();
        let table = node.felix().wanted_rules().ok_or("no rules")?;
        let (resident, most) = memory()?;
        println!(
            "{local} pods: {} chains, {} sets; {} steps, {kernel:?} in the kernel, the longest {longest:?}; {resident} MiB, at most {most} MiB",
            table.chains.len(),
            table.sets.len(),
            node.commits.len(),
        );
    }
    rows.extend([all, steps].iter().flat_map(Work::rows));
    Ok(())
}

fn main() -> Result<(), String> {
    let mut rows = Vec::new();
    for local in LOCAL {
        run(local, &mut rows)?;
    }
    report(&rows)
}
