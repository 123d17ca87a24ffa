//! `up`, `apply`, `delete` and `down`: making the lab what the documents say.
//!
//! All but `down` end in the same two steps: reconcile what exists with what is planned, then wait until it is in force. What fails
//! for one pod or node is noted and keeps nothing else waiting; at the end all of it is told. Whatever is made is in the state file
//! before, so that `down` finds it even if this process dies between two lines.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use tokio::time::Instant;
use tortie_felix_netlink::netns;

use crate::control::{self, Listening, Request};
use crate::fabric::Fabric;
use crate::name::{self, Paths};
use crate::plan::plan;
use crate::process::{self, Tools};
use crate::state::{Lock, Node, Pod, State};
use crate::store::{self, Entry};
use crate::{Error, attach, ready};

/// How many CNI calls run at once.
const CALLS: usize = 16;

/// Told what is going on, for progress on a terminal.
pub type Report = Arc<dyn Fn(&str) + Send + Sync>;

/// A lab, whether it is up or not.
#[derive(Clone)]
pub struct Lab {
    name: String,
    paths: Paths,
    tools: Tools,
    report: Report,
}

impl Lab {
    /// The lab of this name. Making one needs root.
    pub fn new(name: &str, tools: Tools, report: Report) -> Result<Self, Error> {
        name::check_lab(name)?;
        if !nix::unistd::geteuid().is_root() {
            return Err(Error::Failed(
                "a lab is made of network namespaces, which needs root: run it with sudo".to_owned(),
            ));
        }
        Ok(Self { name: name.to_owned(), paths: Paths::new(name), tools, report })
    }

    /// The lab's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The places of its files.
    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    /// The executables it runs.
    pub fn tools(&self) -> &Tools {
        &self.tools
    }

    /// What it consists of now.
    pub fn state(&self) -> Result<State, Error> {
        State::load(&self.paths)?.ok_or_else(|| Error::NotFound(self.name.clone()))
    }

    /// Says what is going on.
    pub(crate) fn say(&self, text: &str) {
        (self.report)(text);
    }

    /// Boots the lab from manifests and returns when everything is in force.
    pub async fn up(
        &self,
        manifests: &[PathBuf],
        nodes: usize,
        timeout: Duration,
        warn: &dyn Fn(&str),
    ) -> Result<(), Error> {
        let entries = store::read(manifests, warn)?;
        warn_of_islands(&entries, warn);
        self.up_with(entries, nodes, timeout).await?;
        // From here on the lab is nobody's: it outlives this command.
        let state = State { owner: None, ..self.state()? };
        state.save(&self.paths)
    }

    /// [`Lab::up`] with documents that were already read. The lab belongs to this process: when it is killed, what it left is known to
    /// be nobody's.
    pub async fn up_with(&self, mut entries: Vec<Entry>, nodes: usize, timeout: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + timeout;
        if !entries.iter().any(|entry| matches!(entry.object, Some(tortie_api::Object::IpPool(_)))) {
            entries.extend(store::default_pools()?);
        }
        let empty = State { lab: self.name.clone(), owner: Some(std::process::id()), ..State::default() };
        let planned = plan(&store::objects(&entries), nodes, &empty)?;
        store::complete(&mut entries, &planned)?;

        let root = &self.paths.root;
        std::fs::create_dir_all(name::ROOT).map_err(|error| Error::io("create", Path::new(name::ROOT), error))?;
        match std::fs::create_dir(root) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                return Err(Error::Exists(self.name.clone()));
            }
            made => made.map_err(|error| Error::io("create", root, error))?,
        }
        let _lock = Lock::take(root, &self.name)?;
        empty.save(&self.paths)?;
        for directory in [self.paths.datastore(), self.paths.cni(), root.join("logs"), root.join("nodes")] {
            std::fs::create_dir(&directory).map_err(|error| Error::io("create", &directory, error))?;
        }
        let plugin = self.paths.cni().join("tortie-cni");
        std::os::unix::fs::symlink(&self.tools.node, &plugin).map_err(|error| Error::io("link", &plugin, error))?;
        store::put(&self.paths.datastore(), &entries)?;
        Fabric::create(&self.name).await?;
        process::start_responders(&self.tools, &self.paths, &self.name)?;
        self.enforce(empty, planned, &entries, deadline).await
    }

    /// Creates or changes documents, and what of the lab follows from them.
    pub async fn apply(&self, manifests: &[PathBuf], timeout: Duration, warn: &dyn Fn(&str)) -> Result<(), Error> {
        let new = store::read(manifests, warn).map_err(nothing_applied)?;
        self.apply_with(new, timeout, warn).await
    }

    /// [`Lab::apply`] with documents that were already read.
    pub async fn apply_with(&self, new: Vec<Entry>, timeout: Duration, warn: &dyn Fn(&str)) -> Result<(), Error> {
        let deadline = Instant::now() + timeout;
        let before = self.state()?;
        let _lock = Lock::take(&self.paths.root, &self.name)?;
        let directory = self.paths.datastore();
        let mut entries = self.current(deadline, warn).await.map_err(nothing_applied)?;
        warn_of_islands(&new, warn);
        let mut touched: Vec<_> = new.iter().map(|entry| entry.key.clone()).collect();
        for mut entry in new {
            if let Some(known) = entries.iter().find(|known| known.key == entry.key) {
                keep_what_the_lab_wrote(&known.value, &mut entry.value);
            }
            store::merge(&mut entries, entry);
        }
        let planned = plan(&store::objects(&entries), 0, &before).map_err(nothing_applied)?;
        touched.extend(store::complete(&mut entries, &planned)?.into_iter().map(|entry| entry.key));
        let touched: Vec<Entry> = entries.iter().filter(|entry| touched.contains(&entry.key)).cloned().collect();
        store::put(&directory, &touched)?;
        self.enforce(before, planned, &entries, deadline).await
    }

    /// Deletes documents, and what of the lab followed from them.
    pub async fn delete(&self, manifests: &[PathBuf], timeout: Duration, warn: &dyn Fn(&str)) -> Result<(), Error> {
        let gone = store::read(manifests, warn)?;
        let deadline = Instant::now() + timeout;
        let before = self.state()?;
        let _lock = Lock::take(&self.paths.root, &self.name)?;
        let directory = self.paths.datastore();
        let mut entries = self.current(deadline, warn).await?;
        let unknown: Vec<_> = gone
            .iter()
            .map(|entry| entry.key.clone())
            .filter(|key| !entries.iter().any(|known| known.key == *key))
            .collect();
        entries.retain(|known| !gone.iter().any(|entry| entry.key == known.key));
        let planned = plan(&store::objects(&entries), 0, &before)?;
        for node in &before.nodes {
            let asked = gone.iter().any(|entry| entry.key.kind == "Node" && entry.key.name == node.name);
            if asked && planned.node(&node.name).is_some() {
                return Err(Error::Failed(format!("Node {}: pods are bound to it; delete them first", node.name)));
            }
        }
        let keys: Vec<_> =
            gone.iter().filter(|entry| !unknown.contains(&entry.key)).map(|entry| entry.key.clone()).collect();
        store::check_removal(&directory, &keys)?;
        // The pod goes before its document does: a CNI DEL wants to know what it takes apart.
        let (state, mut failures) = self.reconcile(before, planned, deadline).await?;
        store::remove(&directory, &keys)?;
        // What failed is in the way of the rest: to wait for it would only keep the reason back.
        if failures.is_empty() {
            failures.extend(self.settle(&state, &entries, deadline).await?);
        }
        failures.extend(unknown.iter().map(|key| format!("{key} not found")));
        Error::unless_none(failures)
    }

    /// What the datastore holds, read before the deadline.
    async fn current(&self, deadline: Instant, warn: &dyn Fn(&str)) -> Result<Vec<Entry>, Error> {
        let directory = self.paths.datastore();
        let reading = tokio::task::spawn_blocking(move || store::current(&directory));
        let late = || Error::Failed(format!("{} could not be read in time", self.paths.datastore().display()));
        let read = tokio::time::timeout_at(deadline, reading).await.map_err(|_| late())?;
        let (entries, warnings) = read.map_err(|error| Error::Failed(error.to_string()))??;
        for warning in &warnings {
            warn(warning);
        }
        Ok(entries)
    }

    /// Makes the lab what is planned and waits until it is in force.
    async fn enforce(&self, before: State, planned: State, entries: &[Entry], deadline: Instant) -> Result<(), Error> {
        let (state, mut failures) = self.reconcile(before, planned, deadline).await?;
        failures.extend(self.settle(&state, entries, deadline).await?);
        Error::unless_none(failures)
    }

    /// Makes what is planned and missing, takes away what is there and no longer planned. What became of it, and what failed.
    async fn reconcile(
        &self,
        mut state: State,
        planned: State,
        deadline: Instant,
    ) -> Result<(State, Vec<String>), Error> {
        for node in &planned.nodes {
            let moved = |known: &Node| {
                let fixed = |node: &Node| (node.ipv4, node.ipv6, node.external, node.no_bgp);
                fixed(known) != fixed(node)
            };
            if state.node(&node.name).is_some_and(moved) {
                return Err(Error::Failed(format!(
                    "Node {}: its addresses and annotations cannot change while the lab is up; take it down and up again",
                    node.name
                )));
            }
        }
        let mut failures = self.remove_pods(&mut state, &planned, deadline).await?;
        self.remove_nodes(&mut state, &planned)?;
        state.segments.clone_from(&planned.segments);
        state.placed = planned.placed;
        self.add_nodes(&mut state, &planned, deadline).await?;
        failures.extend(self.add_pods(&mut state, &planned, deadline).await?);
        Ok((state, failures))
    }

    /// Unwires pods. One whose CNI DEL fails stays in the state, for the next command to try again, unless its node goes too.
    async fn remove_pods(&self, state: &mut State, planned: &State, deadline: Instant) -> Result<Vec<String>, Error> {
        let stays = |pod: &Pod| {
            planned
                .pod(&pod.namespace, &pod.name)
                .is_some_and(|planned| planned.container_id == pod.container_id && !pod.ips.is_empty())
        };
        let gone: Vec<Pod> = state.pods.iter().filter(|pod| !stays(pod)).cloned().collect();
        if gone.is_empty() {
            return Ok(Vec::new());
        }
        self.say(&format!("removing {} pods", gone.len()));
        self.responders(state, &Request::Remove(gone.iter().map(Pod::full_name).collect())).await?;
        let fabric = Fabric::open(&self.name)?;
        let calls = gone.iter().map(|pod| {
            let node = state.node(&pod.node).cloned();
            async move {
                let Some(node) = node else { return (pod, Ok(())) };
                (pod, in_time(deadline, "DEL", &node, pod, attach::remove(&self.paths, &node, pod)).await)
            }
        });
        let results: Vec<_> = stream::iter(calls).buffer_unordered(CALLS).collect().await;
        let mut failures = Vec::new();
        for (pod, result) in results {
            if let Err(error) = result {
                failures.push(error.to_string());
                if planned.node(&pod.node).is_some() {
                    continue;
                }
            }
            fabric.remove_pod(pod).await?;
            process::end_all(std::slice::from_ref(&pod.netns));
            netns::delete(&pod.netns).map_err(Error::net)?;
            state.pods.retain(|known| known.netns != pod.netns);
        }
        state.save(&self.paths)?;
        Ok(failures)
    }

    fn remove_nodes(&self, state: &mut State, planned: &State) -> Result<(), Error> {
        let gone: Vec<Node> = state.nodes.iter().filter(|node| planned.node(&node.name).is_none()).cloned().collect();
        for node in gone {
            self.say(&format!("removing {}", node.name));
            process::end_all(std::slice::from_ref(&node.netns));
            netns::delete(&node.netns).map_err(Error::net)?;
            let run_dir = self.paths.run_dir(&node.name);
            match std::fs::remove_dir_all(&run_dir) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io("remove", &run_dir, error));
                }
                _ => {}
            }
            state.nodes.retain(|known| known.name != node.name);
            state.save(&self.paths)?;
        }
        Ok(())
    }

    async fn add_nodes(&self, state: &mut State, planned: &State, deadline: Instant) -> Result<(), Error> {
        let new: Vec<Node> = planned.nodes.iter().filter(|node| state.node(&node.name).is_none()).cloned().collect();
        let fabric = Fabric::open(&self.name)?;
        for segment in &state.segments {
            fabric.ensure_segment(segment).await?;
        }
        for node in new {
            self.say(&format!("starting {}", node.name));
            state.nodes.push(node.clone());
            state.nodes.sort_by(|a, b| a.name.cmp(&b.name));
            state.save(&self.paths)?;
            fabric.add_node(state, &node).await?;
            if !node.external {
                let pid = process::start_agent(&self.tools, &self.paths, &node)?;
                if let Some(known) = state.nodes.iter_mut().find(|known| known.name == node.name) {
                    known.pid = Some(pid);
                }
                state.save(&self.paths)?;
            }
        }
        self.say("waiting for the agents to answer");
        // Who does not answer now is named in the end; the others' pods need not wait for that.
        ready::agents(state, &self.paths, deadline).await;
        Ok(())
    }

    /// Wires pods; those that failed, with the reason.
    async fn add_pods(&self, state: &mut State, planned: &State, deadline: Instant) -> Result<Vec<String>, Error> {
        let mut new = Vec::new();
        for pod in &planned.pods {
            match state.pods.iter_mut().find(|known| known.netns == pod.netns) {
                Some(known) => known.ports.clone_from(&pod.ports),
                None => new.push(Pod { container_id: attach::container_id()?, ..pod.clone() }),
            }
        }
        state.pods.extend(new.iter().cloned());
        state.save(&self.paths)?;
        let fabric = Fabric::open(&self.name)?;
        // All in one task: when Ctrl-C drops it, nothing goes on making namespaces behind the back of `down`.
        let total = new.len();
        let nodes = state.nodes.clone();
        let calls = new.into_iter().filter_map(|pod| {
            let node = nodes.iter().find(|node| node.name == pod.node)?;
            Some(async move {
                let added = if ready::has_ended(&self.paths, node) {
                    Err(Error::Failed(format!("pod {}: the agent of {} has ended", pod.full_name(), node.name)))
                } else {
                    in_time(deadline, "ADD", node, &pod, attach::add(&self.paths, node, &pod)).await
                };
                (pod.netns, added)
            })
        });
        let mut calls = std::pin::pin!(stream::iter(calls).buffer_unordered(CALLS));
        let mut done = 0;
        let mut failures = Vec::new();
        while let Some((netns, added)) = calls.next().await {
            done += 1;
            self.say(&format!("wiring pods: {done} of {total}"));
            let Some(pod) = state.pods.iter_mut().find(|pod| pod.netns == netns) else { continue };
            match added {
                Ok(ips) => pod.ips = ips,
                Err(error) => {
                    failures.push(error.to_string());
                    continue;
                }
            }
            let pod = pod.clone();
            if let Err(error) = fabric.add_pod(state, &pod).await {
                failures.push(format!("pod {}: {error}", pod.full_name()));
            }
        }
        state.save(&self.paths)?;
        failures.sort();
        Ok(failures)
    }

    /// Opens the declared ports and waits until everything is in force. What is missing in the end.
    async fn settle(&self, state: &State, entries: &[Entry], deadline: Instant) -> Result<Vec<String>, Error> {
        self.say("opening the pods' ports");
        // A pod that could not be wired has been named for that; its ports are beside the point.
        let wired = state.pods.iter().filter(|pod| !pod.ips.is_empty());
        let listening =
            wired.map(|pod| Listening { pod: pod.full_name(), netns: pod.netns.clone(), ports: pod.ports.clone() });
        let response = self.responders(state, &Request::Ensure(listening.collect())).await?;
        let failed = response.failed.iter().filter(|failure| !failure.unsupported);
        let mut missing: Vec<String> = failed
            .map(|failure| format!("pod {}: nothing answers on {}: {}", failure.pod, failure.port, failure.reason))
            .collect();
        self.say("waiting for routes, sessions and rules");
        let mesh = ready::wants_mesh(&store::objects(entries));
        missing.extend(ready::everything(state, &self.paths, mesh, deadline).await?);
        Ok(missing)
    }

    /// Starts the agent of a node again, after it has ended.
    pub fn restart_agent(&self, node: &str) -> Result<(), Error> {
        let mut state = self.state()?;
        let Some(known) = state.nodes.iter_mut().find(|known| known.name == node) else {
            return Err(Error::Failed(format!("the lab {:?} has no node {node:?}", self.name)));
        };
        known.pid = Some(process::start_agent(&self.tools, &self.paths, known)?);
        state.save(&self.paths)
    }

    /// Waits until everything is in force.
    pub async fn wait(&self, timeout: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + timeout;
        let state = self.state()?;
        let mesh = ready::wants_mesh(&store::objects(&self.current(deadline, &|_| ()).await?));
        Error::unless_none(ready::everything(&state, &self.paths, mesh, deadline).await?)
    }

    /// Asks the responders, and starts them again where they have died.
    pub async fn responders(&self, state: &State, request: &Request) -> Result<control::Response, Error> {
        let socket = self.paths.responder_socket();
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut restarted = false;
        loop {
            match tokio::net::UnixStream::connect(&socket).await {
                Ok(_) => break,
                Err(error) if Instant::now() >= deadline => {
                    return Err(Error::io("talk to the responders at", &socket, error));
                }
                // A socket whose process died refuses; one that is just starting is not there yet.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused && !restarted => {
                    restarted = true;
                    let _ = std::fs::remove_file(&socket);
                    process::start_responders(&self.tools, &self.paths, &state.lab)?;
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
        control::call(&socket, request).await
    }

    /// Takes the lab down. `false` when there was none.
    pub fn down(&self) -> Result<bool, Error> {
        if !self.paths.root.exists() {
            return Ok(false);
        }
        let _lock = self.patient_lock()?;
        // A state file that cannot be read is no reason to leave anything behind: the names say whose they are.
        let mut namespaces =
            State::load(&self.paths).ok().flatten().map(|state| state.namespaces()).unwrap_or_default();
        let existing = netns::list().map_err(Error::net)?;
        let prefix = format!("{}_", self.name);
        namespaces.extend(existing.iter().filter(|name| name.starts_with(&prefix)).cloned());
        namespaces.retain(|name| existing.contains(name));
        namespaces.sort();
        namespaces.dedup();
        self.say("ending the agents");
        process::end_all(&namespaces);
        for name in &namespaces {
            netns::delete(name).map_err(Error::net)?;
        }
        std::fs::remove_dir_all(&self.paths.root).map_err(|error| Error::io("remove", &self.paths.root, error))?;
        // Only succeeds for the last lab, which is what we want.
        let _ = std::fs::remove_dir(name::ROOT);
        Ok(true)
    }

    /// The lock, after a moment's patience: a command that was just interrupted may still hold it.
    fn patient_lock(&self) -> Result<Lock, Error> {
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        loop {
            match Lock::take(&self.paths.root, &self.name) {
                Err(_) if std::time::Instant::now() < deadline => std::thread::sleep(Duration::from_millis(50)),
                result => return result,
            }
        }
    }
}

/// A CNI call that ends by the deadline.
async fn in_time<T>(
    deadline: Instant,
    command: &str,
    node: &Node,
    pod: &Pod,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let late = || Error::Failed(format!("pod {}: CNI {command} on {}: not done in time", pod.full_name(), node.name));
    tokio::time::timeout_at(deadline, call).await.unwrap_or_else(|_| Err(late()))
}

/// Says what becomes of documents that turn the mesh off.
fn warn_of_islands(entries: &[Entry], warn: &dyn Fn(&str)) {
    if !ready::wants_mesh(&store::objects(entries)) {
        warn(
            "BGPConfiguration default turns the node-to-node mesh off, and this version has no other peers: \
             no node learns the routes to the pods of another",
        );
    }
}

/// Of an error before the first change: says that there was none.
fn nothing_applied(error: Error) -> Error {
    match error {
        Error::Usage(_) => error,
        error => Error::Failed(format!("{error}\nnothing was applied")),
    }
}

/// Every lab of this machine.
pub fn all_labs() -> Vec<String> {
    let mut labs: Vec<String> = std::fs::read_dir(name::ROOT)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name::check_lab(name).is_ok())
        .collect();
    labs.sort();
    labs
}

/// Applying a document again must not undo what the lab wrote into it: a pod's node, a node's addresses.
fn keep_what_the_lab_wrote(known: &serde_json::Value, new: &mut serde_json::Value) {
    let kept: &[(&str, &str)] = match new["kind"].as_str() {
        Some("Pod") => &[("spec", "nodeName")],
        Some("Node") => &[("status", "addresses")],
        _ => &[],
    };
    for (part, field) in kept {
        if new[part][field].is_null() && !known[part][field].is_null() {
            if !new[part].is_object() {
                new[part] = serde_json::json!({});
            }
            new[part][field] = known[part][field].clone();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn applying_a_pod_again_keeps_its_node() {
        let known = json!({"kind": "Pod", "spec": {"nodeName": "node2"}});
        let mut new = json!({"kind": "Pod"});
        keep_what_the_lab_wrote(&known, &mut new);
        assert_eq!(new["spec"]["nodeName"], "node2");
        let mut moved = json!({"kind": "Pod", "spec": {"nodeName": "node1"}});
        keep_what_the_lab_wrote(&known, &mut moved);
        assert_eq!(moved["spec"]["nodeName"], "node1");
    }
}
