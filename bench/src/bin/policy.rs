//! The cost of a change: from a resource that changed to the transaction for the kernel.
//!
//! Each event is done by the agent's way, which is to update the last table, and by compiling anew and comparing whole tables. Nothing is written to a kernel here; what that costs is what `bench-nft` measures.

use serde_json::{Value, json};
use tortie_api::{Decoded, Object, decode};
use tortie_bench::{Row, Work, report};
use tortie_nft::Ruleset;
use tortie_policy::{Cluster, CompileOptions, Compiler, Endpoint, Generation, compile, host_interface, tightens};

/// A cluster of one shape, and a node in it.
struct Scenario {
    name: &'static str,
    /// Namespaces that policies and local pods are spread over.
    namespaces: usize,
    policies: usize,
    local: usize,
    remote: usize,
    /// How many different values the label `app` has in a namespace.
    apps: usize,
    rounds: usize,
}

const SCENARIOS: [Scenario; 4] = [
    Scenario {
        name: "1k policies, 100 local pods",
        namespaces: 10,
        policies: 1_000,
        local: 100,
        remote: 1_000,
        apps: 100,
        rounds: 15,
    },
    Scenario {
        name: "5k policies, 250 pods, one ns",
        namespaces: 1,
        policies: 5_000,
        local: 250,
        remote: 0,
        apps: 250,
        rounds: 5,
    },
    Scenario {
        name: "10k policies, 50k pods",
        namespaces: 100,
        policies: 10_000,
        local: 100,
        remote: 50_000,
        apps: 100,
        rounds: 5,
    },
    Scenario {
        name: "75k policies, 100k pods",
        namespaces: 1_000,
        policies: 75_000,
        local: 100,
        remote: 100_000,
        apps: 75,
        rounds: 1,
    },
];

impl Scenario {
    fn namespace(&self, index: usize) -> String {
        format!("ns{}", index % self.namespaces)
    }

    /// Pod number `index` of the cluster, the local ones first.
    fn pod(&self, index: usize) -> Result<Object, String> {
        let app = index / self.namespaces % self.apps;
        self.labelled_pod(index, &format!("a{app}"))
    }

    fn labelled_pod(&self, index: usize, app: &str) -> Result<Object, String> {
        let node = if index < self.local { "n0" } else { "n1" };
        object(&json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": self.namespace(index), "name": format!("pod{index}"),
                "labels": {"app": app, "pod-template-hash": format!("{app}-5d8f7")}},
            "spec": {"nodeName": node, "containers": [{"name": "c", "ports": [{"containerPort": 80, "name": "web"}]}]},
            "status": {"podIPs": [{"ip": address(index)}]}}))
    }

    /// Policy number `index`: the pods of one app take traffic from those of two others, of one everywhere.
    fn policy(&self, index: usize) -> Result<Object, String> {
        let turn = index / self.namespaces;
        let app = |offset: usize| json!({"matchLabels": {"app": format!("a{}", (turn + offset) % self.apps)}});
        let port = 1_000 + index % 20;
        object(&json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"namespace": self.namespace(index), "name": format!("p{index}")},
            "spec": {"podSelector": app(0), "policyTypes": ["Ingress"], "ingress": [
                {"from": [{"podSelector": app(1 + turn / self.apps)}], "ports": [{"port": 80}]},
                {"from": [{"namespaceSelector": {}, "podSelector": app(2)}], "ports": [{"port": port}, {"port": 53, "protocol": "UDP"}]}]}}))
    }

    fn endpoints(&self) -> Vec<Endpoint> {
        (0..self.local)
            .map(|index| {
                let (namespace, pod) = (self.namespace(index), format!("pod{index}"));
                let interface = host_interface(&namespace, &pod);
                let ips = address(index).parse().into_iter().collect();
                Endpoint { namespace, pod, interface, ips }
            })
            .collect()
    }

    fn run(&self, rows: &mut Vec<Row>) -> Result<(), String> {
        let options = CompileOptions::default();
        let mut node = Node { compiler: Compiler::new(options.clone()), endpoints: self.endpoints(), options };
        let pods = self.local + self.remote;
        for index in 0..pods {
            node.compiler.cluster_mut().upsert(&self.pod(index)?);
        }
        for index in 0..self.policies {
            node.compiler.cluster_mut().upsert(&self.policy(index)?);
        }
        let before = resident()?;
        let mut first = Work::new(&format!("{}: all", self.name), self.policies);
        let mut table = Ruleset::default();
        for _ in 0..self.rounds {
            first.time("compile", || {
                table = node.compile();
                Ok::<(), String>(())
            })?;
        }
        rows.extend(first.rows());
        let (chains, sets) = (table.chains.len(), table.sets.len());
        println!(
            "{}: {chains} chains, {sets} sets; cluster {before} MiB, with the table {} MiB",
            self.name,
            resident()?
        );

        let peer = self.pod(pods)?;
        let relabelled = self.labelled_pod(pods, "a0")?;
        let policy = self.policy(self.policies)?;
        let events: [Event<'_>; 5] = [
            ("pod comes", &|cluster| cluster.upsert(&peer)),
            ("pod's label", &|cluster| cluster.upsert(&relabelled)),
            ("pod goes", &|cluster| cluster.remove(&relabelled.key())),
            ("policy comes", &|cluster| cluster.upsert(&policy)),
            ("policy goes", &|cluster| cluster.remove(&policy.key())),
        ];
        let generation = Generation::seed(1);
        node.compiler.update(&node.endpoints, generation);
        let mut works: Vec<Work> =
            events.iter().map(|(event, _)| Work::new(&format!("{}: {event}", self.name), 1)).collect();
        for _ in 0..self.rounds {
            for (work, (_, event)) in works.iter_mut().zip(&events) {
                work.time("update", || {
                    event(node.compiler.cluster_mut());
                    let update = node.compiler.update(&node.endpoints, generation);
                    std::hint::black_box(update.tightens(node.compiler.table()));
                    std::hint::black_box(update.transaction(node.compiler.table()));
                    Ok::<(), String>(())
                })?;
                work.time("anew", || {
                    let next = node.compile();
                    std::hint::black_box(tightens(&table, &next));
                    std::hint::black_box(table.diff(&next));
                    table = next;
                    Ok::<(), String>(())
                })?;
            }
        }
        rows.extend(works.iter().flat_map(Work::rows));
        Ok(())
    }
}

/// What happens to a cluster: its name, and how it is done.
type Event<'a> = (&'a str, &'a dyn Fn(&mut Cluster) -> bool);

/// A node and all that it knows.
struct Node {
    compiler: Compiler,
    endpoints: Vec<Endpoint>,
    options: CompileOptions,
}

impl Node {
    fn compile(&self) -> Ruleset {
        compile(self.compiler.cluster(), &self.endpoints, Generation::seed(1), &self.options)
    }
}

fn object(document: &Value) -> Result<Object, String> {
    match decode(document) {
        Ok(Decoded::Object(object)) => Ok(*object),
        other => Err(format!("{document}: {other:?}")),
    }
}

fn address(index: usize) -> String {
    format!("10.{}.{}.{}", index >> 16 & 0xff, index >> 8 & 0xff, index & 0xff)
}

/// What this process has in memory, MiB.
fn resident() -> Result<usize, String> {
    let status = std::fs::read_to_string("/proc/self/status").map_err(|error| format!("/proc/self/status: {error}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("/proc/self/status has no VmRSS")?;
    let kib: usize = line.trim().trim_end_matches(" kB").parse().map_err(|error| format!("VmRSS {line}: {error}"))?;
    Ok(kib / 1024)
}

fn main() -> Result<(), String> {
    let mut rows = Vec::new();
    for scenario in &SCENARIOS {
        scenario.run(&mut rows)?;
    }
    report(&rows)
}
