//! A real API server, with the etcd behind it, for tests that need no kubelet: up in some three seconds, gone with the test. And a real
//! cluster, with two nodes that run pods, in some fifteen.
//!
//! `tests/k8s/cluster.sh` does the work, so that a person can have the very same by hand. An API server listens on loopback, or in the
//! network namespace where agents under test can reach it.

use std::ffi::OsStr;
use std::io::Write;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

use crate::root;

/// A running API server. Dropping it ends it and removes its data; so does the end of this process, however that comes.
pub struct ApiServer {
    name: String,
    folder: PathBuf,
    endpoint: String,
}

/// Where an API server listens, and what it is told besides.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// A network namespace and an address in it, on port 6443. Loopback of the test's own namespace, on a free port, if there is none.
    pub inside: Option<(String, std::net::IpAddr)>,
    /// Further flags of `kube-apiserver`, `--feature-gates=WatchList=false` for example.
    pub flags: Vec<String>,
}

impl ApiServer {
    /// Starts a server on loopback and waits until it is ready.
    ///
    /// # Panics
    /// When a program is missing or the server does not get ready.
    pub fn start() -> Self {
        Self::start_with(&Options::default())
    }

    /// Starts a server as the options say and waits until it is ready.
    ///
    /// # Panics
    /// When a program is missing or the server does not get ready.
    pub fn start_with(options: &Options) -> Self {
        let mut server = Self::unborn("api");
        let mut command = server.command(["api-only"]);
        command.env("K8S_OWNER", std::process::id().to_string());
        command.env("K8S_APISERVER_FLAGS", options.flags.join(" "));
        if let Some((netns, address)) = &options.inside {
            command.env("K8S_NETNS", netns).env("K8S_ADDRESS", address.to_string()).env("K8S_PORT", "6443");
        }
        succeed("the API server starts", command.output());
        server.learn_endpoint();
        server
    }

    /// One that does not run, under a name that no other has.
    fn unborn(title: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{title}{}x{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(format!("tortie-test-{name}"));
        Self { name, folder, endpoint: String::new() }
    }

    fn learn_endpoint(&mut self) {
        let endpoint = std::fs::read_to_string(self.folder.join("endpoint")).expect("the cluster's files are readable");
        self.endpoint = String::from(endpoint.trim());
    }

    /// `cluster.sh ARGUMENTS` for this server.
    fn command<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new(root().join("tests/k8s/cluster.sh"));
        command.args(arguments).stdin(Stdio::null());
        // What the surroundings say of another cluster is not meant for this one.
        let surroundings = std::env::vars_os().map(|(variable, _)| variable);
        for variable in surroundings.filter(|variable| variable.to_string_lossy().starts_with("K8S_")) {
            command.env_remove(variable);
        }
        command.env("K8S_NAME", &self.name).env("K8S_STATE", &self.folder);
        command
    }

    fn run(&self, arguments: &[&str]) -> String {
        succeed(&format!("cluster.sh {}", arguments.join(" ")), self.command(arguments).output())
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    /// Where it listens: `ADDRESS:PORT`, a colon-separated address in brackets.
    pub fn address(&self) -> &str {
        &self.endpoint
    }

    /// Its folder: logs are in `log`, certificates in `pki`. A test may keep files there; they go with the server.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Runs `kubectl ARGUMENTS` as administrator and returns what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        let output = self.try_kubectl(arguments);
        succeed(&format!("kubectl {}", arguments.join(" ")), Ok(output))
    }

    /// The same for what may fail.
    ///
    /// # Panics
    /// When there is no `kubectl`.
    pub fn try_kubectl(&self, arguments: &[&str]) -> Output {
        self.command(["kubectl"]).args(arguments).output().expect("cluster.sh runs")
    }

    /// `kubectl get ARGUMENTS -o json`.
    ///
    /// # Panics
    /// When it fails.
    pub fn get(&self, arguments: &[&str]) -> Value {
        let text = self.kubectl(&[&["get", "-o", "json"], arguments].concat());
        serde_json::from_str(&text).expect("kubectl prints JSON")
    }

    /// `kubectl apply --server-side`, as objects or one refusal: what the server said.
    ///
    /// # Panics
    /// When there is no `kubectl`.
    pub fn try_apply(&self, objects: &[Value]) -> Result<String, String> {
        let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": objects});
        let mut child = self
            .command(["kubectl", "apply", "--server-side", "--force-conflicts", "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("cluster.sh runs");
        let mut stdin = child.stdin.take().expect("a pipe");
        stdin.write_all(list.to_string().as_bytes()).expect("kubectl reads what it is given");
        drop(stdin);
        let output = child.wait_with_output().expect("kubectl ends");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// Applies objects.
    ///
    /// # Panics
    /// When the server refuses any.
    pub fn apply(&self, objects: &[Value]) {
        if let Err(refusal) = self.try_apply(objects) {
            panic!("the API server refuses objects: {refusal}");
        }
    }

    /// Writes a kubeconfig for a service account, by a token of its own, and returns its path.
    ///
    /// # Panics
    /// When there is no such account.
    pub fn account(&self, namespace: &str, name: &str) -> PathBuf {
        let path = self.folder.join(format!("{namespace}.{name}.kubeconfig"));
        std::fs::write(&path, self.run(&["token", namespace, name])).expect("the cluster's folder is writable");
        path
    }

    /// Kills the API server. Its data stays; its clients are alone.
    ///
    /// # Panics
    /// When it does not end.
    pub fn stop(&self) {
        self.run(&["stop", "apiserver"]);
    }

    /// Starts it again, at the same address with the same data, and waits until it is ready.
    ///
    /// # Panics
    /// When it does not get ready.
    pub fn restart(&self) {
        self.run(&["stop", "apiserver"]);
        self.run(&["start", "apiserver"]);
    }

    /// Keeps the datastore as it is now, under a name.
    ///
    /// # Panics
    /// When etcd does not come back.
    pub fn save(&self, snapshot: &str) {
        self.run(&["save", self.folder.join(snapshot).to_str().expect("a plain path")]);
    }

    /// Goes back to what was kept: later writes are gone, and their resource versions are given again.
    ///
    /// # Panics
    /// When nothing was kept under the name, or the server does not get ready.
    pub fn restore(&self, snapshot: &str) {
        self.run(&["restore", self.folder.join(snapshot).to_str().expect("a plain path")]);
    }
}

/// A running cluster of two nodes, `n1` and `n2`. All that an [`ApiServer`] can do it can too; it is gone as that is.
pub struct Cluster(ApiServer);

impl Deref for Cluster {
    type Target = ApiServer;

    fn deref(&self) -> &ApiServer {
        &self.0
    }
}

impl Cluster {
    /// Starts a control plane and two nodes without a network agent, and waits until they have registered.
    ///
    /// # Panics
    /// When a program is missing, or a node does not register.
    pub fn up() -> Self {
        let mut server = ApiServer::unborn("k8s");
        succeed("the cluster starts", server.command(["up"]).env("K8S_OWNER", std::process::id().to_string()).output());
        server.learn_endpoint();
        Self(server)
    }

    /// Loads an image archive on every node.
    ///
    /// # Panics
    /// When containerd refuses it.
    pub fn load_image(&self, archive: &Path) {
        self.run(&["image", archive.to_str().expect("a plain path")]);
    }

    /// A command inside the namespaces of a node, counted from 1; what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub fn node(&self, number: u32, command: &[&str]) -> String {
        self.run(&[&["node", &number.to_string()], command].concat())
    }

    /// A file or folder of a node, as this process can open it.
    ///
    /// # Panics
    /// When the node does not run.
    pub fn on_node(&self, number: u32, path: &str) -> PathBuf {
        let pid = std::fs::read_to_string(self.folder.join(format!("run/n{number}.pid"))).expect("the node runs");
        let pid = pid.split(' ').next().unwrap_or_default();
        // A link to an absolute path would lead to this process's files.
        let path = path.strip_prefix("/var/run").map_or_else(|| path.to_owned(), |rest| format!("/run{rest}"));
        PathBuf::from(format!("/proc/{pid}/root{path}"))
    }

    /// Ends a program, such as `n2-kubelet`.
    ///
    /// # Panics
    /// When it does not end.
    pub fn stop_program(&self, name: &str) {
        self.run(&["stop", name]);
    }

    /// Starts a program again that was ended, as it was started before.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_program(&self, name: &str) {
        self.run(&["start", name]);
    }

    /// Runs upstream's specs that match an expression, those of NetworkPolicy if there is none; what went wrong.
    ///
    /// # Errors
    /// The failed specs.
    ///
    /// # Panics
    /// When there is no `cluster.sh`.
    pub fn upstream_specs(&self, focus: Option<&str>) -> Result<String, String> {
        let output = self.command(["e2e"].into_iter().chain(focus)).output().expect("cluster.sh runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(text(&output.stdout) + &text(&output.stderr))
        }
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.folder.join("log/apiserver.log")).unwrap_or_default();
            let last: Vec<_> = log.lines().rev().take(10).collect();
            eprintln!("--- the API server's last words, latest first\n{}", last.join("\n"));
        }
        let down = self.command(["down"]).output();
        if !down.is_ok_and(|output| output.status.success()) {
            eprintln!("the API server {} could not be taken down: see {}", self.name, self.folder.display());
        }
    }
}

/// What a command printed.
fn succeed(what: &str, output: std::io::Result<Output>) -> String {
    let output = output.unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
