//! What a large cluster costs a node: memory for each pod that does not concern it, the first computation, one change, and a stream of
//! changes. Nothing is written to a kernel here.
//!
//! Times are what one thread computes, so that a busy machine does not count, and without the decoding of documents, which is the
//! datastore's work.

use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde_json::{Value, json};
use tortie_api::Object;
use tortie_bench::node::object;
use tortie_bench::{Work, report};
use tortie_policy::{CompileOptions, Compiler, Endpoint, Generation, host_interface};

/// A cluster of one shape.
struct Shape {
    namespaces: usize,
    pods: usize,
    policies: usize,
    /// How many pods of a namespace have the same labels.
    replicas: usize,
}

/// So many objects are decoded at a time, so that those of a whole cluster are never there at once.
const CHUNK: usize = 1_000;

impl Shape {
    fn namespace(&self, index: usize) -> String {
        format!("team-{}", index % self.namespaces)
    }

    /// The label `app` of a pod: the number of its replica set in its namespace.
    fn app(&self, index: usize) -> usize {
        index / self.namespaces / self.replicas
    }

    fn name(&self, index: usize) -> String {
        format!("app-{}-6d4cf56db6-{index:05x}", self.app(index))
    }

    fn pod(&self, index: usize) -> Value {
        self.pod_of(index, &format!("app-{}", self.app(index)))
    }

    fn pod_of(&self, index: usize, app: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": self.namespace(index), "name": self.name(index),
                "labels": {"app": app, "pod-template-hash": "6d4cf56db6", "tier": "backend"}},
            "spec": {"nodeName": format!("node-{}", index % 1_000),
                "containers": [{"name": "c", "ports": [{"containerPort": 80, "name": "web"}]}]},
            "status": {"podIPs": [{"ip": address(index)}]}})
    }

    /// The pods of one app take traffic from those of another, and from one app of every namespace.
    fn policy(&self, index: usize) -> Value {
        let apps = (self.pods / self.namespaces / self.replicas).max(1);
        let turn = index / self.namespaces;
        let app = |offset: usize| json!({"matchLabels": {"app": format!("app-{}", (turn + offset) % apps)}});
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"namespace": self.namespace(index), "name": format!("policy-{index}")},
            "spec": {"podSelector": app(0), "policyTypes": ["Ingress", "Egress"],
                "ingress": [{"from": [{"podSelector": app(1 + turn / apps)}], "ports": [{"port": 80}]}],
                "egress": [{"to": [{"podSelector": app(2), "namespaceSelector":
                    {"matchLabels": {"kubernetes.io/metadata.name": self.namespace(index + 1)}}}]}]}})
    }

    fn endpoint(&self, index: usize) -> Endpoint {
        let (namespace, pod) = (self.namespace(index), self.name(index));
        let interface = host_interface(&namespace, &pod);
        Endpoint { namespace, pod, interface, ips: address(index).parse().into_iter().collect() }
    }

    /// Takes in everything. Returns how long that took, decoding aside.
    fn fill(&self, compiler: &mut Compiler) -> Result<Duration, String> {
        let namespaces = (0..self.namespaces).map(|index| {
            json!({"apiVersion": "v1", "kind": "Namespace",
                "metadata": {"name": self.namespace(index), "labels": {"team": format!("{index}"), "env": "prod"}}})
        });
        let pods = (0..self.pods).map(|index| self.pod(index));
        let policies = (0..self.policies).map(|index| self.policy(index));
        take_in(compiler, namespaces.chain(pods).chain(policies))
    }
}

fn take_in(compiler: &mut Compiler, documents: impl Iterator<Item = Value>) -> Result<Duration, String> {
    let mut took = Duration::ZERO;
    let mut documents = documents.peekable();
    while documents.peek().is_some() {
        let objects: Vec<Object> =
            documents.by_ref().take(CHUNK).map(|document| object(&document)).collect::<Result<_, _>>()?;
        let start = cpu()?;
        for object in &objects {
            compiler.cluster_mut().upsert(object);
        }
        took += since(start)?;
    }
    Ok(took)
}

fn address(index: usize) -> String {
    format!("10.{}.{}.{}", index >> 16 & 0xff, index >> 8 & 0xff, index & 0xff)
}

/// What this process has in memory, and the most that it had, KiB.
fn memory() -> Result<(usize, usize), String> {
    let status = std::fs::read_to_string("/proc/self/status").map_err(|error| format!("/proc/self/status: {error}"))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).ok_or("/proc/self/status lacks a line")?;
        line.trim().trim_end_matches(" kB").parse().map_err(|error| format!("/proc/self/status: {name} {error}"))
    };
    Ok((field("VmRSS:")?, field("VmHWM:")?))
}

/// The time that this process has computed.
fn cpu() -> Result<Duration, String> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).map_err(|error| error.to_string())?;
    let micros = (usage.user_time() + usage.system_time()).num_microseconds();
    Ok(Duration::from_micros(u64::try_from(micros).unwrap_or_default()))
}

/// The time that it has computed since then.
fn since(start: Duration) -> Result<Duration, String> {
    cpu().map(|now| now.saturating_sub(start))
}

/// How much each pod costs a node that no policy of selects it.
fn remote_pods(rows: &mut Vec<Work>) -> Result<(), String> {
    const PODS: usize = 100_000;
    for (what, replicas) in [("10 pods a label set", 10), ("a label set each", 1)] {
        let shape = Shape { namespaces: 1_000, pods: PODS, policies: 0, replicas };
        let mut compiler = Compiler::new(CompileOptions::default());
        // What decoding leaves behind once is not the pods'.
        for index in 0..CHUNK {
            std::hint::black_box(object(&shape.pod(index))?);
        }
        let (before, _) = memory()?;
        let took = shape.fill(&mut compiler)?;
        compiler.update(&[], Generation::seed(1));
        let (after, _) = memory()?;
        let text: usize = (0..PODS).map(|index| shape.name(index).len()).sum();
        println!(
            "remote pods, {what}: {} B a pod, of that {} B of name and 4 B of address",
            after.saturating_sub(before) * 1024 / PODS,
            text / PODS
        );
        let mut work = Work::new(&format!("taking in 100k pods, {what}"), PODS);
        work.add("cluster", took);
        rows.push(work);
    }
    Ok(())
}

/// 75,000 policies on 100,000 pods in 25,000 namespaces.
fn first(rows: &mut Vec<Work>) -> Result<(), String> {
    let shape = Shape { namespaces: 25_000, pods: 100_000, policies: 75_000, replicas: 1 };
    for (what, local) in [("100 of the pods local", 100), ("all pods local", shape.pods)] {
        let mut compiler = Compiler::new(CompileOptions::default());
        let endpoints: Vec<Endpoint> = (0..local).map(|index| shape.endpoint(index)).collect();
        let name = format!("75k policies, 100k pods, {what}");
        let took = shape.fill(&mut compiler)?;
        let mut taken = Work::new(&format!("{name}: taking in"), shape.policies);
        taken.add("cluster", took);
        rows.push(taken);
        let (known, _) = memory()?;
        let mut compiled = Work::new(&format!("{name}: compiling"), shape.policies);
        let start = cpu()?;
        compiler.update(&endpoints, Generation::seed(1));
        compiled.add("compiler", since(start)?);
        rows.push(compiled);
        let (resident, most) = memory()?;
        let table = compiler.table();
        println!(
            "{name}: {} chains, {} sets; {} MiB with all taken in, {} with the table, {} at most",
            table.chains.len(),
            table.sets.len(),
            known / 1024,
            resident / 1024,
            most / 1024
        );
    }
    Ok(())
}

/// An agent's share of a middling cluster: 250 of 50,000 pods are its own, all with addresses, under 10,000 policies.
fn agent(rows: &mut Vec<Work>) -> Result<(), String> {
    let shape = Shape { namespaces: 500, pods: 50_000, policies: 10_000, replicas: 5 };
    let mut compiler = Compiler::new(CompileOptions::default());
    let endpoints: Vec<Endpoint> = (0..250).map(|index| shape.endpoint(index)).collect();
    let (before, _) = memory()?;
    let took = shape.fill(&mut compiler)?;
    let (known, _) = memory()?;
    compiler.update(&endpoints, Generation::seed(1));
    let (after, most) = memory()?;
    let elements: usize = compiler.table().sets.values().map(|set| set.elements.len()).sum();
    println!(
        "50k pods with addresses, 10k policies, 250 pods local: {} KiB with all taken in, {} with the table of {} sets and {elements} \
         elements, {} at most",
        known - before,
        after - before,
        compiler.table().sets.len(),
        most - before
    );
    let mut work = Work::new("50k pods, 10k policies: taking in", shape.pods);
    work.add("cluster", took);
    rows.push(work);
    Ok(())
}

/// One namespace of 10,000 pods and 10,000 policies: single changes, then a stream of them.
fn crowd(rows: &mut Vec<Work>) -> Result<(), String> {
    const LOCAL: usize = 100;
    let shape = Shape { namespaces: 1, pods: 10_000, policies: 10_000, replicas: 10 };
    let mut compiler = Compiler::new(CompileOptions::default());
    shape.fill(&mut compiler)?;
    let endpoints: Vec<Endpoint> = (0..LOCAL).map(|index| shape.endpoint(index)).collect();
    let generation = Generation::seed(1);
    compiler.update(&endpoints, generation);
    let name = "10k pods and 10k policies in one namespace";
    let apply = |compiler: &mut Compiler, object: &Object| {
        compiler.cluster_mut().upsert(object);
        let update = compiler.follow(generation);
        std::hint::black_box(update.tightens(compiler.table()));
        std::hint::black_box(update.transaction(compiler.table()).commands.len())
    };
    let mut written = 0;
    for (what, index, rounds) in [("a remote pod's label", 5_000, 500), ("a local pod's label", 5, 100)] {
        let labels = ["app-7", "app-500", "app-3"].map(|app| shape.pod_of(index, app));
        let objects: Vec<Object> = labels.iter().map(object).collect::<Result<_, _>>()?;
        let mut work = Work::new(&format!("{name}: {what}"), 1);
        for round in 0..rounds {
            let start = cpu()?;
            written += apply(&mut compiler, &objects[round % objects.len()]);
            work.add("update", since(start)?);
        }
        rows.push(work);
    }
    // Every event touches another pod; each is brought into the table by itself.
    let relabelled = (0..2_000).map(|index| shape.pod_of(LOCAL + index * 3, &format!("app-{}", index * 7 % 1_000)));
    let events: Vec<Object> = relabelled.map(|pod| object(&pod)).collect::<Result<_, _>>()?;
    let before = cpu()?;
    for event in &events {
        written += apply(&mut compiler, event);
    }
    let each = since(before)? / u32::try_from(events.len()).unwrap_or(u32::MAX);
    println!(
        "{name}: {} us of computing an event, {:.1} % of a core at 1,000 events a second ({written} commands in all)",
        each.as_micros(),
        each.as_secs_f64() * 1_000.0 * 100.0
    );
    Ok(())
}

/// One of the measurements; adds rows.
type Measure = fn(&mut Vec<Work>) -> Result<(), String>;

const MEASURES: [(&str, Measure); 4] =
    [("agent", agent), ("remote-pods", remote_pods), ("crowd", crowd), ("first", first)];

/// Measures everything, or what `TORTIE_BENCH_SCALE` names, for a profile of it alone.
fn main() -> Result<(), String> {
    let only = std::env::var("TORTIE_BENCH_SCALE").ok();
    let mut works = Vec::new();
    for (_, measure) in MEASURES.iter().filter(|(name, _)| only.as_deref().is_none_or(|only| only == *name)) {
        measure(&mut works)?;
    }
    report(&works.iter().flat_map(Work::rows).collect::<Vec<_>>())
}
