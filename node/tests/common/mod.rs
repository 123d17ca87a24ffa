//! Nodes and pods as network namespaces, real agents in them, and real CNI calls. Namespaces have no names, so nothing outlives a test.

#![allow(dead_code)] // Each test uses its part.

use std::io::Write;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use tortie_admin::client::Client;
use tortie_admin::types::{BgpPeer, NodeStatus, Route};
use tortie_felix_netlink::{Net, Netns, VethSpec, netns, sysctl};

/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// A bridge that nodes are plugged into, and the folder that is their datastore.
pub(crate) struct Fabric {
    // Dropped first: a failing test shows the logs, which are in the folder.
    pub(crate) nodes: Vec<Node>,
    netns: Netns,
    bridge: u32,
    pub(crate) folder: TempDir,
}

/// A node: its namespace and its agent.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) ip: IpAddr,
    pub(crate) netns: Netns,
    pub(crate) run_dir: PathBuf,
    pub(crate) log: PathBuf,
    pub(crate) flags: Vec<String>,
    datastore: PathBuf,
    agent: Option<Child>,
}

/// A pod's namespace, and what CNI said.
pub(crate) struct Pod {
    pub(crate) name: String,
    pub(crate) netns: Netns,
    pub(crate) result: Value,
}

/// Waits until `condition` gives something.
pub(crate) async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut condition: impl FnMut() -> F) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A peer program.
pub(crate) fn peer(name: &str) -> PathBuf {
    let built = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/peers/bin");
    let path = std::env::var_os("TORTIE_PEERS").map_or_else(|| built.into(), PathBuf::from).join(name);
    assert!(path.exists(), "{} is missing: run `make peers`", path.display());
    path
}

pub(crate) fn agent() -> &'static str {
    env!("CARGO_BIN_EXE_tortie-node")
}

impl Fabric {
    pub(crate) async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("datastore")).expect("a folder");
        symlink(agent(), folder.path().join("tortie-cni")).expect("a link");
        let netns = netns::anonymous().expect("a namespace: tests run as root");
        let net = Net::in_netns(&netns).expect("a handle");
        let bridge = net.create_bridge("fabric").await.expect("a bridge");
        net.set_up(bridge).await.expect("up");
        let fabric = Self { folder, netns, bridge, nodes: Vec::new() };
        fabric.apply("pools", &[
            json!({ "apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": { "name": "v4" }, "spec": { "cidr": "10.244.0.0/16" } }),
            json!({ "apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": { "name": "v6" }, "spec": { "cidr": "fd00:10:244::/48" } }),
            json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "default" } }),
        ]);
        fabric
    }

    /// Writes documents into the datastore, in one file.
    pub(crate) fn apply(&self, name: &str, documents: &[Value]) {
        let folder = self.folder.path();
        let text = documents.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n---\n");
        let temporary = folder.join(format!("{name}.new"));
        std::fs::write(&temporary, text).expect("a manifest");
        std::fs::rename(temporary, folder.join("datastore").join(format!("{name}.yaml"))).expect("in place");
    }

    pub(crate) fn delete(&self, name: &str) {
        std::fs::remove_file(self.folder.path().join("datastore").join(format!("{name}.yaml"))).expect("deleted");
    }

    /// The revision that the datastore's content has now.
    pub(crate) fn revision(&self) -> String {
        tortie_datastore::directory::revision(self.folder.path().join("datastore")).expect("a revision")
    }

    pub(crate) fn pod(&self, name: &str, labels: &Value, node: &str) {
        self.apply(
            &format!("pod-{name}"),
            &[json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": { "name": name, "namespace": "default", "labels": labels },
                "spec": { "nodeName": node, "containers": [{ "name": "main" }] },
            })],
        );
    }

    /// Plugs a node in, with a Node object. Its agent is not started yet.
    pub(crate) async fn plug(&mut self, name: &str) -> usize {
        let number = self.nodes.len();
        let ip: IpAddr = format!("172.31.0.{}", number + 2).parse().expect("an address");
        let ip6: IpAddr = format!("fd00:172:31::{}", number + 2).parse().expect("an address");
        let netns = netns::anonymous().expect("a namespace");
        // Nobody asks for a neighbour before the link-local address is past its two seconds of probation.
        sysctl::set_in(&netns, &[("net.ipv6.conf.default.accept_dad", "0")]).expect("set");
        let fabric = Net::in_netns(&self.netns).expect("a handle");
        let port = fabric
            .create_veth(VethSpec {
                name: name.to_owned(),
                mac: None,
                peer_name: "eth0".into(),
                peer_mac: None,
                peer_netns: Some(&netns),
                mtu: 1500,
            })
            .await
            .expect("a cable");
        fabric.set_master(port, self.bridge).await.expect("plugged in");
        fabric.set_up(port).await.expect("up");
        let net = Net::in_netns(&netns).expect("a handle");
        net.set_up(1).await.expect("loopback is up");
        let eth0 = net.link("eth0").await.expect("asked").expect("there").index;
        net.set_up(eth0).await.expect("up");
        net.add_address(eth0, format!("{ip}/24").parse().expect("an address")).await.expect("an address");
        net.add_address(eth0, format!("{ip6}/64").parse().expect("an address")).await.expect("an address");
        self.apply(
            &format!("node-{name}"),
            &[json!({
                "apiVersion": "v1", "kind": "Node", "metadata": { "name": name },
                "status": { "addresses": [
                    { "type": "InternalIP", "address": ip },
                    { "type": "InternalIP", "address": ip6 },
                ] },
            })],
        );
        let folder = self.folder.path();
        self.nodes.push(Node {
            name: name.to_owned(),
            ip,
            netns,
            run_dir: folder.join(format!("run-{name}")),
            log: folder.join(format!("{name}.log")),
            flags: Vec::new(),
            datastore: folder.join("datastore"),
            agent: None,
        });
        number
    }

    /// Nodes of these names, with agents that are ready.
    pub(crate) async fn with_nodes(names: &[&str]) -> Self {
        let mut fabric = Self::new().await;
        for name in names {
            fabric.plug(name).await;
        }
        for node in &mut fabric.nodes {
            node.start();
        }
        fabric.settle().await;
        fabric
    }

    /// Waits until every agent has the datastore's content in its kernel.
    pub(crate) async fn settle(&self) {
        for node in self.nodes.iter().filter(|node| node.agent.is_some()) {
            until(&format!("{} has the datastore's revision", node.name), || async {
                let status = node.client().get::<NodeStatus>("/v1/status").await.ok()?;
                (status.programmed_revision == self.revision()).then_some(())
            })
            .await;
        }
    }

    /// A pod of the datastore: its namespace, and a CNI ADD on its node.
    pub(crate) fn start_pod(&self, name: &str, node: usize) -> Pod {
        let netns = netns::anonymous().expect("a namespace");
        let result = self.cni(node, "ADD", name, &netns).expect("ADD succeeds");
        Pod { name: name.to_owned(), netns, result }
    }

    /// Calls the plugin as a runtime does.
    pub(crate) fn cni(&self, node: usize, command: &str, pod: &str, netns: &Netns) -> Result<Value, String> {
        let node = &self.nodes[node];
        let config = json!({ "cniVersion": "1.1.0", "name": "tortie", "type": "tortie-cni", "socket": node.run_dir.join("tortie.sock") });
        let mut plugin = Command::new(self.folder.path().join("tortie-cni"))
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", format!("container-{pod}"))
            .env("CNI_NETNS", format!("/proc/{}/fd/{}", std::process::id(), netns.as_fd().as_raw_fd()))
            .env("CNI_IFNAME", "eth0")
            .env("CNI_ARGS", format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod}"))
            .env("CNI_PATH", self.folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the plugin starts");
        let mut stdin = plugin.stdin.take().expect("stdin");
        stdin.write_all(config.to_string().as_bytes()).expect("written");
        drop(stdin);
        let output = plugin.wait_with_output().expect("the plugin ends");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() { Ok(serde_json::from_str(&text).unwrap_or(Value::Null)) } else { Err(text) }
    }
}

impl Node {
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(agent());
        command.arg("run").arg("--datastore").arg(format!("dir:{}", self.datastore.display()));
        command.arg("--node").arg(&self.name).arg("--run-dir").arg(&self.run_dir).args(&self.flags);
        command.arg("--log-level").arg("info,tortie_node=debug,tortie_felix=debug");
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    pub(crate) fn start(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(&self.log).expect("a log");
        self.agent = Some(self.netns.spawn(self.command().stderr(log)).expect("the agent starts"));
    }

    pub(crate) fn pid(&self) -> u32 {
        self.agent.as_ref().expect("it runs").id()
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
    }

    /// Sends SIGTERM and waits for the end.
    pub(crate) fn stop(&mut self) -> std::process::ExitStatus {
        let mut agent = self.agent.take().expect("it runs");
        let status = Command::new("kill").arg(agent.id().to_string()).status().expect("kill runs");
        assert!(status.success());
        agent.wait().expect("it ends")
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.run_dir.join("tortie.sock"))
    }

    pub(crate) async fn status(&self) -> NodeStatus {
        until(&format!("{} answers", self.name), || async { self.client().get("/v1/status").await.ok() }).await
    }

    pub(crate) async fn ready(&self) {
        until(&format!("{} is ready", self.name), || async {
            let status: NodeStatus = self.client().get("/v1/status").await.ok()?;
            (status.ready && status.programmed_revision == status.revision).then_some(())
        })
        .await;
    }

    /// Waits until all sessions are established.
    pub(crate) async fn meshed(&self, peers: usize) {
        until(&format!("{} has {peers} sessions", self.name), || async {
            let list: Vec<BgpPeer> = self.client().get("/v1/bgp/peers").await.ok()?;
            (list.iter().filter(|peer| peer.state == "Established").count() == peers).then_some(())
        })
        .await;
    }

    pub(crate) async fn routes(&self) -> Vec<Route> {
        self.client().get("/v1/routes").await.expect("routes")
    }

    /// Runs a peer program in the node's namespace.
    pub(crate) fn run(&self, program: &str, args: &[&str]) -> String {
        run(&self.netns, program, args)
    }

    pub(crate) fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

/// Runs a peer program in a namespace, and returns what it printed.
pub(crate) fn run(netns: &Netns, program: &str, args: &[&str]) -> String {
    let child = netns.spawn(Command::new(peer(program)).args(args).stdout(Stdio::piped()).stderr(Stdio::piped()));
    let output = child.expect("it starts").wait_with_output().expect("it ends");
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- {}", self.log.display());
            let text = self.log_text();
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(40)..].iter().for_each(|line| eprintln!("{line}"));
        }
    }
}

impl Pod {
    /// The pod's address of one family.
    pub(crate) fn ip(&self, v4: bool) -> IpAddr {
        let ips = self.result["ips"].as_array().expect("addresses");
        let texts = ips.iter().filter_map(|ip| ip["address"].as_str()).filter_map(|text| text.split('/').next());
        texts.filter_map(|text| text.parse::<IpAddr>().ok()).find(|ip| ip.is_ipv4() == v4).expect("of that family")
    }

    /// A UDP socket inside the pod.
    pub(crate) fn socket(&self, port: u16) -> UdpSocket {
        let socket =
            self.netns.run(|| UdpSocket::bind(SocketAddr::from(([0u16; 8], port)))).expect("entered").expect("bound");
        socket.set_read_timeout(Some(Duration::from_millis(300))).expect("set");
        socket
    }
}

/// The address as a dual-stack socket takes it.
pub(crate) fn target(ip: IpAddr, port: u16) -> SocketAddr {
    match ip {
        IpAddr::V4(v4) => SocketAddr::from((v4.to_ipv6_mapped(), port)),
        IpAddr::V6(v6) => SocketAddr::from((v6, port)),
    }
}

/// Whether a datagram from one pod arrives at another, in two tries.
pub(crate) fn reaches(from: &Pod, to: &Pod, v4: bool) -> bool {
    let (sender, receiver) = (from.socket(0), to.socket(9999));
    (0..2).any(|attempt| {
        let text = format!("{} {attempt}", from.name);
        // Refused as unreachable is an answer too.
        let _ = sender.send_to(text.as_bytes(), target(to.ip(v4), 9999));
        let mut buffer = [0; 100];
        receiver.recv_from(&mut buffer).is_ok_and(|(length, _)| &buffer[..length] == text.as_bytes())
    })
}

/// A program that listens to the kernel, and what it has heard.
pub(crate) struct Ear {
    child: Child,
    file: PathBuf,
}

impl Ear {
    pub(crate) fn open(node: &Node, folder: &Path, program: &str, args: &[&str]) -> Self {
        let file = folder.join(format!("{program}-{}.ear", node.name));
        let output = std::fs::File::create(&file).expect("a file");
        let child = node.netns.spawn(Command::new(peer(program)).args(args).stdout(output).stderr(Stdio::null()));
        Self { child: child.expect("it starts"), file }
    }

    pub(crate) fn close(mut self) -> String {
        let _ = self.child.kill();
        let _ = self.child.wait();
        std::fs::read_to_string(&self.file).expect("what it heard")
    }
}
