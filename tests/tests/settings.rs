//! FelixConfiguration, bandwidth annotations, MTU and kernel settings on a running cluster: what is asked for is so, at once, and stays
//! so whoever changes it.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tortie_tests::lab::{Lab, array};
use tortie_tests::peer;
use tortie_tests::stream::inside;

/// How long anything may take to become true on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn namespace() -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "set"}})
}

fn pod(name: &str, node: &str, annotations: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "set", "labels": {"app": name}, "annotations": annotations},
        "spec": {"nodeName": node, "containers": [{"name": "c", "ports": [{"containerPort": 80}]}]}})
}

fn felix(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "projectcalico.org/v3", "kind": "FelixConfiguration", "metadata": {"name": name}, "spec": spec})
}

/// Waits until it is so.
fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn status(lab: &Lab, node: &str) -> Value {
    let statuses = array(&lab.json(&["node", "status"]));
    statuses.into_iter().find(|status| status["node"] == node).unwrap_or_else(|| panic!("{node} has a status"))
}

fn sysctl(netns: &str, path: &str) -> String {
    let file = format!("/proc/sys/{path}");
    inside(netns, || std::fs::read_to_string(&file)).unwrap_or_else(|error| panic!("{path}: {error}")).trim().to_owned()
}

/// Runs iproute2 in a namespace.
fn ip(netns: &str, args: &[&str]) -> String {
    let output = inside(netns, || Command::new(peer("ip")).args(args).output()).expect("ip runs");
    assert!(output.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The MTU of an interface.
fn mtu(netns: &str, interface: &str) -> u32 {
    let text = ip(netns, &["-o", "link", "show", "dev", interface]);
    let mut words = text.split_whitespace().skip_while(|word| *word != "mtu").skip(1);
    words.next().and_then(|mtu| mtu.parse().ok()).unwrap_or_else(|| panic!("no MTU in {text}"))
}

fn ip_of(lab: &Lab, pod: &str) -> IpAddr {
    let pods = array(&lab.json(&["lab", "ps"])["pods"]);
    let pod = pods.iter().find(|row| row["name"] == pod).unwrap_or_else(|| panic!("{pod} runs"));
    let ips: Vec<IpAddr> = array(&pod["ips"]).iter().filter_map(|ip| ip.as_str()?.parse().ok()).collect();
    *ips.iter().find(|ip| ip.is_ipv4()).expect("an IPv4 address")
}

/// How long so many bytes take from one pod to another.
fn transfer(from: &str, to: &str, address: IpAddr, bytes: usize) -> Duration {
    let listener = inside(to, || TcpListener::bind(SocketAddr::new(address, 0))).expect("a listener");
    let port = listener.local_addr().expect("a port").port();
    let mut stream = inside(from, || TcpStream::connect((address, port))).expect("a connection");
    let (mut accepted, _) = listener.accept().expect("a connection");
    std::thread::scope(|scope| {
        let start = Instant::now();
        scope.spawn(move || {
            stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
            stream.write_all(&vec![7; bytes]).expect("written");
        });
        accepted.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let mut received = Vec::new();
        accepted.read_to_end(&mut received).expect("read");
        assert_eq!(received.len(), bytes);
        start.elapsed()
    })
}

#[test]
fn limits_of_bandwidth_hold_from_the_first_packet_and_follow_the_annotations() {
    const BYTES: usize = 3_000_000;
    // 2 MB a second in both directions, after 50 kB at once.
    let slow = json!({
        "kubernetes.io/ingress-bandwidth": "16M", "qos.projectcalico.org/ingressBurst": "400k",
        "kubernetes.io/egress-bandwidth": "16M", "qos.projectcalico.org/egressBurst": "400k",
    });
    let documents = [namespace(), pod("slow", "node1", &slow), pod("free", "node1", &json!({}))];
    let lab = Lab::up("rate", &documents, &["--nodes", "1"]);
    let (slow_at, free_at) = (lab.netns("set/slow"), lab.netns("set/free"));
    let (slow_ip, free_ip) = (ip_of(&lab, "slow"), ip_of(&lab, "free"));
    let seconds = |from: &str, to: &str, ip| transfer(from, to, ip, BYTES).as_secs_f64();
    let (sent_to, sends) = (seconds(&free_at, &slow_at, slow_ip), seconds(&slow_at, &free_at, free_ip));
    assert!((1.2..30.0).contains(&sent_to), "what the pod is sent took {sent_to} s");
    assert!((1.2..30.0).contains(&sends), "what the pod sends took {sends} s");

    // Another limit, while it runs; then one that is no number; then none.
    let device = tortie_policy::host_interface("set", "slow").replacen("cali", "tifb", 1);
    let node = lab.netns("node1");
    let has_device = || inside(&node, || std::path::Path::new(&format!("/proc/sys/net/ipv4/conf/{device}")).exists());
    assert!(has_device());
    let faster = json!({"kubernetes.io/ingress-bandwidth": "4G"});
    lab.apply(&[pod("slow", "node1", &faster)]);
    until("the pod sends without limit", || !has_device());
    assert!(seconds(&slow_at, &free_at, free_ip) < sends.max(5.0));
    lab.apply(&[pod("slow", "node1", &json!({"kubernetes.io/egress-bandwidth": "fast"}))]);
    until("the annotation is complained about", || {
        status(&lab, "node1")["problems"]
            .to_string()
            .contains("Pod set/slow: metadata.annotations[kubernetes.io/egress-bandwidth]")
    });
    lab.apply(&[pod("slow", "node1", &json!({}))]);
    until("the complaint is over", || array(&status(&lab, "node1")["problems"]).is_empty());
}

#[test]
fn pods_follow_the_underlays_mtu_and_settings_that_others_change_come_back() {
    let documents = [namespace(), pod("web", "node1", &json!({}))];
    let lab = Lab::up("keep", &documents, &["--nodes", "1"]);
    let (node, web) = (lab.netns("node1"), lab.netns("set/web"));
    let interface = tortie_policy::host_interface("set", "web");
    let both = || (mtu(&node, &interface), mtu(&web, "eth0"));
    let own = mtu(&node, "eth0");
    assert_eq!(both(), (own, own));
    for wanted in [1400, 1350, own] {
        ip(&node, &["link", "set", "dev", "eth0", "mtu", &wanted.to_string()]);
        until("both ends follow", || both() == (wanted, wanted));
    }
    lab.apply(&[felix("node.node1", &json!({"mtuIfacePattern": "^none$"}))]);
    ip(&node, &["link", "set", "dev", "eth0", "mtu", "1300"]);
    until("the default route's device counts", || both() == (1300, 1300));
    lab.delete(&[felix("node.node1", &json!({}))]);

    for (path, wrong) in [
        ("net/ipv4/ip_forward".to_owned(), "0"),
        ("net/ipv6/conf/all/forwarding".to_owned(), "0"),
        (format!("net/ipv4/conf/{interface}/forwarding"), "0"),
    ] {
        let right = sysctl(&node, &path);
        let file = format!("/proc/sys/{path}");
        inside(&node, || std::fs::write(&file, wrong)).expect("set");
        until(&format!("{path} is {right} again"), || sysctl(&node, &path) == right);
        until(&format!("{path} is reported"), || status(&lab, "node1")["drifts"].to_string().contains(&path));
    }
    lab.apply(&[felix("default", &json!({"ipForwarding": "Disabled"}))]);
    inside(&node, || std::fs::write("/proc/sys/net/ipv4/ip_forward", "0")).expect("set");
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(sysctl(&node, "net/ipv4/ip_forward"), "0", "it is the administrator's now");
    lab.delete(&[felix("default", &json!({}))]);
    until("forwarding is ours again", || sysctl(&node, "net/ipv4/ip_forward") == "1");
}

#[test]
fn a_configuration_is_in_force_at_once_and_its_end_brings_the_defaults_back() {
    let (web, db) = (pod("web", "node1", &json!({})), pod("db", "node2", &json!({})));
    let lab = Lab::up("conf", &[namespace(), web, db, felix("default", &json!({"vxlanPort": 8472}))], &[]);
    let rules = |node: &str| lab.run(&["policy", "render", "--node", node]);
    let table = |node: &str| inside(&lab.netns(node), tables);
    assert!(table("node1").contains("8472") && table("node2").contains("8472"), "{}", rules("node1"));

    // One node's own wins over the others', field by field.
    lab.apply(&[felix("node.node1", &json!({"vxlanPort": 9999, "wireguardEnabled": true, "floatingIPs": "Disabled"}))]);
    until("node1 has its own", || table("node1").contains("9999"));
    assert!(table("node2").contains("8472"));
    let warnings = |node: &str| status(&lab, node)["warnings"].to_string();
    until("what is not honoured is named", || {
        warnings("node1").contains("spec.wireguardEnabled: true is not supported")
    });
    assert!(!warnings("node1").contains("floatingIPs") && warnings("node2") == "[]");

    // By a selector, that the node's labels come to match.
    let labelled =
        |labels: Value| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node2", "labels": labels}});
    lab.apply(&[felix("edge", &json!({"nodeSelector": "zone == 'edge'", "vxlanPort": 7777})), labelled(json!({}))]);
    assert!(table("node2").contains("8472"));
    lab.apply(&[labelled(json!({"zone": "edge"}))]);
    until("node2 is selected", || table("node2").contains("7777"));

    // A document in error changes nothing and is complained about.
    let bad = lab.write("bad", &[felix("default", &json!({"vxlanPort": 8472, "nftablesFilterDenyActon": "Reject"}))]);
    let output = Command::new(tortie_tests::lab::tortie())
        .args(["lab", "apply", "--lab", &lab.name, "-f", bad.to_str().expect("a path")])
        .output()
        .expect("tortie runs");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && told.contains("did you mean \"nftablesFilterDenyAction\"?"), "{told}");

    lab.delete(&[felix("default", &json!({})), felix("node.node1", &json!({})), felix("edge", &json!({}))]);
    for node in ["node1", "node2"] {
        until("the default is back", || table(node).contains("4789") && warnings(node) == "[]");
    }
    assert!(lab.run(&["get", "felixconfig"]).lines().count() <= 1);
}

/// Our table, as nft lists it.
fn tables() -> String {
    let output = Command::new(peer("nft")).args(["list", "table", "inet", "tortie"]).output().expect("nft runs");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
