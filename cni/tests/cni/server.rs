//! The server's commands, on a node that is a network namespace, with pods that are others.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use ipnet::IpNet;
use serde_json::{Value, json};
use tortie_admin::types::{CniRequest, CniResponse, Endpoint};
use tortie_cni::ipam::{Ipam, RequestedPools};
use tortie_cni::server::{CniServer, ServerConfig};
use tortie_cni::{Dataplane, load_endpoints};
use tortie_felix_netlink::{Net, Netns, RouteKind, RouteSpec, netns, sysctl};

use crate::memory::{Memory, pod, pool};

/// What the agent does at the least: a route to each address. It can be made to fail, or to wait.
struct Routes {
    net: Net,
    endpoints: Mutex<BTreeMap<String, Endpoint>>,
    fails: AtomicBool,
    gate: tokio::sync::Semaphore,
}

#[async_trait]
impl Dataplane for Routes {
    async fn add_endpoint(&self, endpoint: Endpoint) -> Result<(), String> {
        let _permit = self.gate.acquire().await.expect("the gate");
        let link = self.net.link(&endpoint.host_interface).await.map_err(|error| error.to_string())?;
        let index = link.filter(|link| link.up).ok_or("the link is not up")?.index;
        self.endpoints.lock().expect("the lock").insert(endpoint.container_id.clone(), endpoint.clone());
        for ip in &endpoint.ips {
            let route = RouteSpec::new(IpNet::from(*ip), RouteKind::Device { index }, 80);
            self.net.replace_route(&route).await.map_err(|error| error.to_string())?;
        }
        if self.fails.load(Ordering::SeqCst) { Err("the table is on fire".to_owned()) } else { Ok(()) }
    }

    async fn remove_endpoint(&self, container_id: &str, _: &str) -> Result<(), String> {
        let gone = self.endpoints.lock().expect("the lock").remove(container_id);
        for ip in gone.into_iter().flat_map(|endpoint| endpoint.ips) {
            let route = RouteSpec::new(IpNet::from(ip), RouteKind::Blackhole, 80);
            self.net.delete_route(&route).await.map_err(|error| error.to_string())?;
        }
        Ok(())
    }
}

pub(crate) struct Node {
    name: String,
    pub(crate) server: CniServer,
    store: Arc<Memory>,
    routes: Arc<Routes>,
    pub(crate) net: Net,
    pub(crate) netns: Netns,
    pub(crate) run_dir: tempfile::TempDir,
}

pub(crate) async fn node(objects: &[Value]) -> Node {
    node_of("node-1", Arc::new(Memory::with(objects))).await
}

async fn node_of(name: &str, store: Arc<Memory>) -> Node {
    let netns = netns::anonymous().expect("a namespace");
    let settings = [("net.ipv4.ip_forward", "1"), ("net.ipv6.conf.all.forwarding", "1")];
    sysctl::set_in(&netns, &settings).expect("settings");
    let net = Net::in_netns(&netns).expect("a handle");
    // Without a single address of its own the kernel takes every neighbour for a broadcast address.
    let loopback = net.link("lo").await.expect("read").expect("there");
    net.set_up(loopback.index).await.expect("up");
    let routes = Arc::new(Routes {
        net: net.clone(),
        endpoints: Mutex::default(),
        fails: AtomicBool::new(false),
        gate: tokio::sync::Semaphore::new(1000),
    });
    let run_dir = tempfile::tempdir().expect("a folder");
    let server = start(name, &netns, &run_dir, &store, &routes);
    Node { name: name.to_owned(), server, store, routes, net, netns, run_dir }
}

fn start(
    name: &str,
    netns: &Netns,
    run_dir: &tempfile::TempDir,
    store: &Arc<Memory>,
    routes: &Arc<Routes>,
) -> CniServer {
    let mut config = ServerConfig::new(name, run_dir.path());
    // The test's own way to the namespace of the node.
    config.netns = Some(netns.run(Netns::current).expect("entered").expect("the namespace"));
    config.pod_wait = Duration::from_millis(300);
    CniServer::new(config, Arc::clone(store) as _, Arc::clone(routes) as _).expect("a server")
}

impl Node {
    /// As when the agent starts anew: nothing is left in memory.
    fn restart(&mut self) {
        self.server = start(&self.name, &self.netns, &self.run_dir, &self.store, &self.routes);
    }

    async fn call(&self, command: &str, container: &str, pod: &Pod) -> CniResponse {
        self.server.handle(request(command, container, pod)).await
    }

    pub(crate) async fn add(&self, container: &str, pod: &Pod) -> Value {
        let response = self.call("ADD", container, pod).await;
        assert!(response.ok, "{}", response.body);
        response.body
    }

    pub(crate) async fn del(&self, container: &str, pod: &Pod) {
        let response = self.call("DEL", container, pod).await;
        assert!(response.ok && response.body.is_null(), "{}", response.body);
    }

    /// Links of pods, addresses in use, and records.
    async fn traces(&self) -> (usize, usize, usize) {
        let links = self.net.links().await.expect("read");
        let links = links.iter().filter(|link| link.name.starts_with("cali")).count();
        let ipam = Ipam::new(Arc::clone(&self.store) as _, self.name.clone());
        let held = ipam.holders().await.expect("holders").iter().map(|holder| holder.ips.len()).sum();
        (links, held, load_endpoints(self.run_dir.path()).len())
    }
}

/// A pod's namespace, under a path that a runtime would give.
pub(crate) struct Pod {
    name: String,
    pub(crate) netns: Netns,
    path: String,
}

impl Pod {
    pub(crate) fn new(name: &str) -> Self {
        let netns = netns::anonymous().expect("a namespace");
        let path = format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            std::os::fd::AsRawFd::as_raw_fd(&std::os::fd::AsFd::as_fd(&netns))
        );
        Self { name: name.to_owned(), netns, path }
    }
}

pub(crate) fn request(command: &str, container: &str, pod: &Pod) -> CniRequest {
    CniRequest {
        command: command.into(),
        container_id: container.into(),
        netns: pod.path.clone(),
        ifname: "eth0".into(),
        args: format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=web;K8S_POD_NAME={}", pod.name),
        path: "/opt/cni/bin".into(),
        config: json!({"cniVersion": "1.1.0", "name": "tortie", "type": "tortie-cni"}),
    }
}

fn ips(result: &Value) -> Vec<IpAddr> {
    let ips = result["ips"].as_array().expect("ips");
    ips.iter().map(|ip| ip["address"].as_str().expect("text").parse::<IpNet>().expect("an address").addr()).collect()
}

fn listen(pod: &Pod, ip: IpAddr) -> TcpListener {
    pod.netns.run(|| TcpListener::bind(SocketAddr::new(ip, 80))).expect("entered").expect("listening")
}

fn connect(from: &Netns, ip: IpAddr) -> io::Result<Duration> {
    let start = Instant::now();
    from.run(|| TcpStream::connect_timeout(&SocketAddr::new(ip, 80), Duration::from_secs(3)))
        .expect("entered")
        .map(|_| start.elapsed())
}

#[tokio::test]
async fn a_pod_speaks_at_once_and_leaves_nothing() {
    let node = node(&[pod("web", "server", None), pod("web", "client", None)]).await;
    let (server, client) = (Pod::new("server"), Pod::new("client"));
    let result = node.add("c1", &server).await;
    let addresses = ips(&result);
    assert!(addresses.len() == 2 && addresses[0].is_ipv4() && addresses[1].is_ipv6());
    assert_eq!(result["interfaces"][0]["name"], tortie_policy::host_interface("web", "server"));
    assert_eq!(result["interfaces"][0]["mac"], "ee:ee:ee:ee:ee:ee");
    assert_eq!(result["interfaces"][1]["sandbox"], server.path);
    assert_eq!(node.store.published("web", "server"), Some(addresses.clone()));
    assert_eq!(load_endpoints(node.run_dir.path())[0].ips, addresses);
    assert!(node.call("CHECK", "c1", &server).await.ok);
    let _listeners: Vec<TcpListener> = addresses.iter().map(|ip| listen(&server, *ip)).collect();

    for ip in &addresses {
        // A fresh pod each time: its first packet must not wait for anything.
        node.add("c2", &client).await;
        let from_pod = connect(&client.netns, *ip).expect("the pod reaches the other");
        assert!(from_pod < Duration::from_millis(100), "{ip}: {from_pod:?}");
        node.del("c2", &client).await;
    }
    node.del("c1", &server).await;
    node.del("c1", &server).await;
    assert_eq!(node.traces().await, (0, 0, 0));
    assert_eq!(node.store.published("web", "server"), None);
    assert!(node.net.routes(Some(80)).await.expect("read").is_empty());
    let inside = Net::in_netns(&server.netns).expect("a handle");
    assert_eq!(inside.link("eth0").await.expect("read"), None);
}

#[tokio::test]
async fn both_ends_are_as_promised() {
    let node = node(&[pod("web", "a", None)]).await;
    let a = Pod::new("a");
    let result = node.add("c1", &a).await;
    let host = tortie_policy::host_interface("web", "a");
    let read = |netns: &Netns, path: String| netns.run(move || sysctl::get(&path)).expect("entered").expect("read");
    for (path, value) in [
        ("net/ipv6/conf/IF/accept_dad", "0"),
        ("net/ipv6/neigh/IF/proxy_delay", "0"),
        ("net/ipv4/neigh/IF/proxy_delay", "0"),
        ("net/ipv4/conf/IF/send_redirects", "0"),
        ("net/ipv4/conf/IF/forwarding", "1"),
    ] {
        assert_eq!(read(&node.netns, path.replace("IF", &host)), value, "{path}");
    }
    let link = node.net.link(&host).await.expect("read").expect("there");
    let addresses = node.net.addresses(link.index).await.expect("read");
    assert_eq!(addresses, ["fe80::ecee:eeff:feee:eeee/64".parse::<IpNet>().expect("an address")]);
    let inside = Net::in_netns(&a.netns).expect("a handle");
    let eth0 = inside.link("eth0").await.expect("read").expect("there");
    assert_eq!(eth0.mtu, 1500, "no default route says otherwise");
    let lookup = inside.lookup("192.0.2.1".parse().expect("ip")).await.expect("read").expect("a route");
    assert_eq!(lookup.via, Some("169.254.1.1".parse().expect("ip")));
    assert_eq!(lookup.source, Some(ips(&result)[0]));

    // What CHECK is for.
    inside.delete_address(eth0.index, IpNet::from(ips(&result)[1])).await.expect("deleted");
    let response = node.call("CHECK", "c1", &a).await;
    assert!(
        !response.ok && response.body["details"].as_str().expect("text").contains("has no address fd00"),
        "{}",
        response.body
    );
    // A second ADD repairs, with the same addresses.
    assert_eq!(ips(&node.add("c1", &a).await), ips(&result));
    assert!(node.call("CHECK", "c1", &a).await.ok);
    assert!(!node.call("CHECK", "c9", &a).await.ok);
}

#[tokio::test]
async fn the_mtu_is_the_underlays() {
    let node = node(&[pod("web", "a", None)]).await;
    let spec = tortie_felix_netlink::VethSpec {
        name: "under0".into(),
        peer_name: "under1".into(),
        mtu: 1430,
        ..Default::default()
    };
    let index = node.net.create_veth(spec).await.expect("a veth");
    node.net.set_up(index).await.expect("up");
    let default = RouteSpec::new("0.0.0.0/0".parse().expect("net"), RouteKind::Device { index }, 4);
    node.net.replace_route(&default).await.expect("a route");
    let result = node.add("c1", &Pod::new("a")).await;
    assert_eq!((&result["interfaces"][0]["mtu"], &result["interfaces"][1]["mtu"]), (&json!(1430), &json!(1430)));
}

#[tokio::test]
async fn calls_may_be_repeated_and_come_late() {
    let mut node = node(&[pod("web", "a", None)]).await;
    let a = Pod::new("a");
    let first = node.add("c1", &a).await;
    assert_eq!(node.add("c1", &a).await, first);
    node.restart();
    assert_eq!(node.add("c1", &a).await, first, "also after a restart");
    node.server.recover().await.expect("nothing to do");
    assert_eq!(node.traces().await, (1, 2, 1));

    // The pod is made anew, in a new container, before the old one was torn down; then the old one's DEL comes.
    let newer = Pod::new("a");
    let second = node.add("c2", &newer).await;
    assert_eq!(node.traces().await, (1, 2, 1));
    node.del("c1", &a).await;
    assert!(node.call("CHECK", "c2", &newer).await.ok, "the newer container is untouched");
    assert_eq!(node.store.published("web", "a"), Some(ips(&second)));

    // Without a namespace, and without the pod's name.
    let mut bare = request("DEL", "c2", &newer);
    (bare.netns, bare.args) = (String::new(), String::new());
    assert!(node.server.handle(bare).await.ok);
    assert_eq!(node.traces().await, (0, 0, 0));
    node.del("never-heard-of", &newer).await;

    // A pod whose namespace went, and its link with it.
    let brief = Pod::new("a");
    node.add("c3", &brief).await;
    let request = CniRequest { netns: "/run/netns/gone-with-the-pod".into(), ..request("DEL", "c3", &brief) };
    drop(brief);
    assert!(node.server.handle(request).await.ok);
    assert_eq!(node.traces().await, (0, 0, 0));
}

#[tokio::test]
async fn a_late_del_leaves_the_pod_that_runs_elsewhere_alone() {
    let old = node(&[pod("web", "a", None)]).await;
    let new = node_of("node-2", Arc::clone(&old.store)).await;
    let (before, after) = (Pod::new("a"), Pod::new("a"));
    old.add("c1", &before).await;
    let second = ips(&new.add("c2", &after).await);
    assert_eq!(old.store.published("web", "a"), Some(second.clone()));
    old.del("c1", &before).await;
    assert_eq!(old.store.published("web", "a"), Some(second), "what the other node published");
    assert_eq!((old.traces().await, new.traces().await), ((0, 0, 0), (1, 2, 1)));
    new.del("c2", &after).await;
    assert_eq!(old.store.published("web", "a"), None);
}

#[tokio::test]
async fn a_failed_add_is_undone() {
    let node = node(&[pod("web", "a", None)]).await;
    let a = Pod::new("a");
    node.routes.fails.store(true, Ordering::SeqCst);
    let response = node.call("ADD", "c1", &a).await;
    assert_eq!((response.ok, &response.body["code"]), (false, &json!(11)));
    assert_eq!(response.body["details"], "the table is on fire");
    assert_eq!(node.traces().await, (0, 0, 0));
    assert!(node.net.routes(Some(80)).await.expect("read").is_empty());
    node.routes.fails.store(false, Ordering::SeqCst);

    // Something else has the name in the pod: the kernel refuses.
    let inside = Net::in_netns(&a.netns).expect("a handle");
    inside.create_bridge("eth0").await.expect("a bridge");
    let response = node.call("ADD", "c1", &a).await;
    assert_eq!((response.ok, &response.body["code"]), (false, &json!(101)));
    assert_eq!(node.traces().await, (0, 0, 0));
}

/// An ADD that ends after each of its steps, as when the agent is killed there.
#[tokio::test]
async fn an_interrupted_add_is_repaired() {
    let mut node = node(&[pod("web", "a", None)]).await;
    let a = Pod::new("a");
    let good = ips(&node.add("c1", &a).await);
    let record = node.run_dir.path().join("endpoints/c1@eth0.json");
    let text = std::fs::read_to_string(&record).expect("the record");
    let delete_link = async |node: &Node| {
        let link = node.net.link(&tortie_policy::host_interface("web", "a")).await.expect("read").expect("there");
        node.net.delete_link(link.index).await.expect("deleted");
    };
    // Record and addresses, but no link.
    delete_link(&node).await;
    node.restart();
    assert_eq!(ips(&node.add("c1", &a).await), good);
    assert!(node.call("CHECK", "c1", &a).await.ok);
    // The link is there, but the pod's end is not configured, and the record has no hardware address yet.
    let inside = Net::in_netns(&a.netns).expect("a handle");
    let eth0 = inside.link("eth0").await.expect("read").expect("there");
    inside.set_down(eth0.index).await.expect("down");
    let mut half: Value = serde_json::from_str(&text).expect("JSON");
    half["mac"] = json!("");
    std::fs::write(&record, half.to_string()).expect("written");
    node.restart();
    assert_eq!(ips(&node.add("c1", &a).await), good);
    assert!(node.call("CHECK", "c1", &a).await.ok);
    // Addresses only: the agent's next start takes them back; so it does with what has no link.
    delete_link(&node).await;
    std::fs::remove_file(&record).expect("removed");
    node.restart();
    assert_eq!(node.server.recover().await.expect("recovered"), []);
    assert_eq!(node.traces().await, (0, 0, 0));
    node.add("c1", &a).await;
    delete_link(&node).await;
    node.restart();
    assert_eq!(node.server.recover().await.expect("recovered"), []);
    assert_eq!(node.traces().await, (0, 0, 0));
    assert_eq!(node.store.published("web", "a"), None);
    // A DEL that ended after its first steps is finished by the next.
    node.add("c1", &a).await;
    delete_link(&node).await;
    node.restart();
    node.del("c1", &a).await;
    assert_eq!(node.traces().await, (0, 0, 0));
}

#[tokio::test]
async fn a_call_goes_on_without_its_caller() {
    let node = node(&[pod("web", "a", None)]).await;
    let a = Pod::new("a");
    node.routes.gate.forget_permits(1000);
    let impatient = tokio::time::timeout(Duration::from_millis(300), node.call("ADD", "c1", &a)).await;
    assert!(impatient.is_err(), "the dataplane waits");
    node.routes.gate.add_permits(1000);
    // Waits for its turn behind the first, and finds everything done.
    node.add("c1", &a).await;
    assert_eq!(node.traces().await, (1, 2, 1));
}

#[tokio::test]
async fn garbage_is_what_the_runtime_does_not_name() {
    let node = node(&[pod("web", "a", None), pod("web", "b", None), pod("web", "c", None)]).await;
    let pods = ["a", "b", "c"].map(Pod::new);
    for pod in &pods {
        node.add(&format!("c-{}", pod.name), pod).await;
    }
    // An address whose ADD never got further.
    let ipam = Ipam::new(Arc::clone(&node.store) as _, "node-1");
    let leak = |handle: &str| tortie_cni::ipam::Claim {
        handle: handle.into(),
        namespace: "web".into(),
        pod: "lost".into(),
        pinned: None,
        pools: RequestedPools::default(),
        tunnel: None,
    };
    ipam.assign(&leak("tortie.lost.eth0")).await.expect("addresses");
    ipam.assign(&leak("other-network.x.eth0")).await.expect("addresses");
    let gc = |valid: Value, network: &str| CniRequest {
        command: "GC".into(),
        config: json!({"cniVersion": "1.1.0", "name": network, "cni.dev/valid-attachments": valid}),
        ..CniRequest::default()
    };
    let response = node.server.handle(gc(json!([]), "another")).await;
    assert!(response.ok, "{}", response.body);
    assert_eq!(node.traces().await, (3, 10, 3), "another network's garbage is not ours");
    let valid = json!([{"containerID": "c-a", "ifname": "eth0"}, {"containerID": "c-c", "ifname": "eth0"}]);
    let response = node.server.handle(gc(valid, "tortie")).await;
    assert!(response.ok && response.body.is_null(), "{}", response.body);
    assert_eq!(node.traces().await, (2, 6, 2));
    assert!(node.call("CHECK", "c-a", &pods[0]).await.ok && node.call("CHECK", "c-c", &pods[2]).await.ok);
}

#[tokio::test]
async fn refusals_name_what_is_wrong() {
    let node =
        node(&[pool("off", "10.1.0.0/24", &json!({"disabled": true})), pod("web", "a", Some("[\"192.0.2.9\"]"))]).await;
    let a = Pod::new("a");
    let refused = async |request: CniRequest, code: u32, words: &[&str]| {
        let response = node.server.handle(request).await;
        let text = response.body.to_string();
        assert!(!response.ok && response.body["code"] == code, "{text}");
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    };
    refused(request("ADD", "c1", &a), 100, &["web/a", "cni.projectcalico.org/ipAddrs", "192.0.2.9"]).await;
    refused(request("ADD", "c1", &Pod::new("nobody")), 11, &["web/nobody"]).await;
    refused(CniRequest { command: "STATUS".into(), ..request("STATUS", "", &a) }, 50, &["IPPool"]).await;
    refused(CniRequest { netns: "/etc/passwd".into(), ..request("ADD", "c1", &a) }, 4, &["/etc/passwd"]).await;
    refused(CniRequest { netns: "/run/netns/none".into(), ..request("ADD", "c1", &a) }, 4, &["none"]).await;
    let own = Pod { path: "/proc/self/ns/net".into(), ..Pod::new("a") };
    assert!(!node.call("ADD", "c1", &own).await.ok);
    assert_eq!(node.traces().await, (0, 0, 0));

    node.store.put(&pool("on", "10.2.0.0/24", &json!({})));
    assert!(node.server.handle(request("STATUS", "", &a)).await.ok);
    // A pod that the datastore learns of a little later.
    let late = Pod::new("late");
    let (response, ()) = tokio::join!(node.call("ADD", "c1", &late), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        node.store.put(&pod("web", "late", Some("[\"10.2.0.77\"]")));
    });
    assert!(response.ok, "{}", response.body);
    assert_eq!(ips(&response.body), ["10.2.0.77".parse::<IpAddr>().expect("ip")]);
    let second = CniRequest { ifname: "net1".into(), ..request("ADD", "c1", &late) };
    refused(second, 4, &["eth0 already"]).await;
    assert!(node.call("CHECK", "c1", &late).await.ok);
}

#[tokio::test]
async fn a_pod_is_attached_where_it_runs_and_nowhere_else() {
    let document = |more: &Value| {
        let mut document = pod("web", "a", Some("[\"10.244.7.77\"]"));
        for (key, value) in more.as_object().into_iter().flatten() {
            for (name, value) in value.as_object().into_iter().flatten() {
                document[key][name] = value.clone();
            }
        }
        document
    };
    let here = node(&[document(&json!({"spec": {"nodeName": "node-1"}}))]).await;
    let elsewhere = node_of("node-2", Arc::clone(&here.store)).await;
    let a = Pod::new("a");
    here.add("c1", &a).await;
    let refused = async |node: &Node, container: &str, code: u32, words: &[&str]| {
        let start = Instant::now();
        let response = node.call("ADD", container, &Pod::new("a")).await;
        let text = response.body.to_string();
        assert!(!response.ok && response.body["code"] == code, "{text}");
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
        assert!(start.elapsed() < Duration::from_millis(250), "at once, not after the wait for a pod");
    };
    refused(&elsewhere, "c2", 11, &["web/a", "node node-1", "spec.nodeName", "node node-2"]).await;
    // The record of an earlier stay of the pod does not help either.
    here.store.put(&document(&json!({"spec": {"nodeName": "node-2"}})));
    refused(&here, "c1", 11, &["node node-2"]).await;
    assert_eq!((here.traces().await, elsewhere.traces().await), ((1, 1, 1), (0, 0, 0)));
    assert_eq!(here.store.published("web", "a"), Some(vec!["10.244.7.77".parse().expect("ip")]));

    for (more, code, word) in [
        (json!({"spec": {"hostNetwork": true}}), 4, "spec.hostNetwork"),
        (json!({"status": {"phase": "Succeeded"}}), 11, "status.phase is Succeeded"),
        (json!({"status": {"phase": "Failed"}}), 11, "status.phase is Failed"),
    ] {
        here.store.put(&document(&more));
        refused(&here, "c3", code, &["web/a", word]).await;
    }
    assert_eq!(here.traces().await, (1, 1, 1), "the older container is untouched");
}

#[tokio::test]
async fn an_attachment_stays_with_its_pod() {
    let node = node(&[pod("web", "a", None), pod("web", "b", None)]).await;
    let (a, b) = (Pod::new("a"), Pod::new("b"));
    node.add("c1", &a).await;
    let response = node.call("ADD", "c1", &b).await;
    let text = response.body.to_string();
    assert!(!response.ok && response.body["code"] == 4 && text.contains("web/a") && text.contains("web/b"), "{text}");
    assert!(node.call("CHECK", "c1", &a).await.ok, "the first pod is untouched");
    node.del("c1", &a).await;
    // Both at once: one gets it, and the other's addresses are not the same ones.
    let (first, second) = tokio::join!(node.call("ADD", "c2", &a), node.call("ADD", "c2", &b));
    assert!(first.ok != second.ok, "{} {}", first.body, second.body);
    assert_eq!(node.traces().await, (1, 2, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fifty_at_once() {
    let names: Vec<String> = (0..50).map(|number| format!("pod-{number}")).collect();
    let node = node(&names.iter().map(|name| pod("web", name, None)).collect::<Vec<_>>()).await;
    let pods: Vec<Pod> = names.iter().map(|name| Pod::new(name)).collect();
    let run = async |command: &str| {
        let mut calls = tokio::task::JoinSet::new();
        for pod in &pods {
            let (server, request) = (node.server.clone(), request(command, &format!("c-{}", pod.name), pod));
            calls.spawn(async move { server.handle(request).await });
        }
        calls.join_all().await
    };
    let results = run("ADD").await;
    assert!(results.iter().all(|response| response.ok), "{results:?}");
    let addresses: BTreeSet<IpAddr> = results.iter().flat_map(|response| ips(&response.body)).collect();
    assert_eq!(addresses.len(), 100);
    assert_eq!(node.traces().await, (50, 100, 50));
    let last = pods.last().expect("a pod");
    let listener = listen(
        last,
        load_endpoints(node.run_dir.path()).iter().find(|endpoint| endpoint.pod == last.name).expect("it").ips[0],
    );
    connect(&pods[0].netns, listener.local_addr().expect("it").ip()).expect("all reach all");
    assert!(run("CHECK").await.iter().all(|response| response.ok));
    assert!(run("DEL").await.iter().all(|response| response.ok));
    assert_eq!(node.traces().await, (0, 0, 0));
}
