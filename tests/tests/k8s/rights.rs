//! The rights of an agent in a cluster: every one that deploy/ gives is used, and none is missing.
//!
//! A real agent works under the service account of deploy/, and the API server writes down what it is asked. A right that nothing
//! asks for would not be there; a request that is refused would break something.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tortie_tests::k8s::{ApiServer, Options};
use tortie_tests::stream::inside;
use tortie_tests::{lab, peer, root};

/// The account, as audit logs have it.
const ACCOUNT: &str = "system:serviceaccount:kube-system:tortie-node";

/// Calico's two groups: the same rights in both, and a cluster has one of them.
const GROUP: &str = "projectcalico.org";
const STORAGE: &str = "crd.projectcalico.org";

/// What only Calico's storage calls so.
const STORAGE_ONLY: &str = "ipamconfigs";

/// What is asked for only where something went wrong before: a handle is changed when an attachment's addresses had to come from another
/// block than the one that was planned.
const RARE: [(&str, &str, &str); 1] = [(GROUP, "ipamhandles", "patch")];

/// How long until an agent has done everything once.
const PATIENCE: Duration = Duration::from_secs(90);

/// After how long without a new kind of request it is taken to have done so.
const QUIET: Duration = Duration::from_secs(12);

/// A right: group, resource with its subresource, verb.
type Right = (String, String, String);

/// The rights that deploy/ gives.
fn given() -> BTreeSet<Right> {
    let text = std::fs::read_to_string(root().join("deploy/base/rbac.yaml")).expect("a readable file");
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text).expect("YAML");
    let list = |value: &Value| -> Vec<String> {
        let list = value.as_array().into_iter().flatten();
        list.map(|item| item.as_str().expect("text").to_owned()).collect()
    };
    let rules = documents.iter().filter_map(|document| document["rules"].as_array()).flatten();
    let mut rights = BTreeSet::new();
    for rule in rules {
        for group in list(&rule["apiGroups"]).into_iter().filter(|group| group != STORAGE) {
            for resource in list(&rule["resources"]).into_iter().filter(|resource| resource != STORAGE_ONLY) {
                for verb in list(&rule["verbs"]) {
                    rights.insert((group.clone(), resource.clone(), verb));
                }
            }
        }
    }
    assert!(rights.iter().any(|(group, _, _)| group == GROUP), "{rights:?}");
    rights
}

/// What the agent has asked for, and what of it was refused for want of a right.
fn asked(log: &Path) -> (BTreeSet<Right>, BTreeSet<Right>) {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let (mut used, mut refused) = (BTreeSet::new(), BTreeSet::new());
    for event in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let object = &event["objectRef"];
        let field = |name: &str| object[name].as_str().unwrap_or_default().to_owned();
        let resource = match field("subresource") {
            none if none.is_empty() => field("resource"),
            subresource => format!("{}/{subresource}", field("resource")),
        };
        // Requests for no object, such as what groups there are, need no right of ours.
        if resource.is_empty() {
            continue;
        }
        let right = (field("apiGroup"), resource, event["verb"].as_str().unwrap_or_default().to_owned());
        if event["responseStatus"]["code"] == 403 {
            refused.insert(right)
        } else {
            used.insert(right)
        };
    }
    (used, refused)
}

/// Two network namespaces, the node's with an interface to the outside, and one for a pod.
struct Namespaces {
    node: String,
    pod: String,
}

impl Namespaces {
    const ADDRESS: &str = "10.99.0.1";

    fn new() -> Self {
        let name = format!("tortie-rights{}", std::process::id());
        let made = Self { node: format!("{name}-n"), pod: format!("{name}-p") };
        let address = format!("{}/24", Self::ADDRESS);
        for arguments in [
            &["netns", "add", &made.node][..],
            &["netns", "add", &made.pod],
            &["-n", &made.node, "link", "set", "lo", "up"],
            &["-n", &made.node, "link", "add", "eth0", "type", "veth", "peer", "name", "outside"],
            &["-n", &made.node, "link", "set", "outside", "up"],
            &["-n", &made.node, "link", "set", "eth0", "up"],
            &["-n", &made.node, "address", "add", &address, "dev", "eth0"],
        ] {
            let status = Command::new(peer("ip")).args(arguments).status().expect("ip runs");
            assert!(status.success(), "ip {}", arguments.join(" "));
        }
        made
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in [&self.node, &self.pod] {
            let _ = Command::new(peer("ip")).args(["netns", "delete", name]).status();
        }
    }
}

/// An agent of the node `n1`, which ends with the test.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(netns: &str, kubeconfig: &Path, folder: &Path) -> Agent {
    let log = std::fs::File::create(folder.join("agent.log")).expect("a writable folder");
    let mut command = Command::new(lab::tortie().with_file_name("tortie-node"));
    command
        .args(["run", "--datastore", "kubernetes", "--node", "n1", "--components", "felix,bgp,cni,controller"])
        .arg("--run-dir")
        .arg(folder.join("run"))
        .env("KUBECONFIG", kubeconfig)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a handle"))
        .stderr(log);
    Agent(inside(netns, || command.spawn().expect("the agent starts")))
}

/// A call of the CNI plugin, as a container runtime makes it.
fn cni(verb: &str, namespaces: &Namespaces, folder: &Path) -> Output {
    let config = json!({
        "cniVersion": "1.0.0", "name": "tortie", "type": "tortie-cni", "socket": folder.join("run/tortie.sock"),
    });
    let input = folder.join("config.json");
    std::fs::write(&input, config.to_string()).expect("a writable folder");
    Command::new(lab::tortie().with_file_name("tortie-node"))
        .arg0("tortie-cni")
        .env("CNI_COMMAND", verb)
        .env("CNI_CONTAINERID", "c1")
        .env("CNI_NETNS", format!("/run/netns/{}", namespaces.pod))
        .env("CNI_IFNAME", "eth0")
        .env("CNI_ARGS", "K8S_POD_NAMESPACE=default;K8S_POD_NAME=one")
        .env("CNI_PATH", "/opt/cni/bin")
        .stdin(std::fs::File::open(&input).expect("just written"))
        .output()
        .expect("the plugin runs")
}

/// An object of Calico's; one of a kind that is in namespaces is in `default`.
fn calico(kind: &str, name: &str, spec: &Value) -> Value {
    let namespaced = ["NetworkPolicy", "StagedNetworkPolicy", "StagedKubernetesNetworkPolicy"].contains(&kind);
    let mut metadata = json!({"name": name});
    if namespaced {
        metadata["namespace"] = "default".into();
    }
    json!({"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": metadata, "spec": spec})
}

/// What an agent with the rights of deploy/ asks of an API server while it does all that agents do, and what of it is refused.
fn asked_with(flags: &str) -> (BTreeSet<Right>, BTreeSet<Right>) {
    let namespaces = Namespaces::new();
    let folder = std::env::temp_dir().join(format!("tortie-test-rights{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a writable folder");
    let policy = folder.join("audit.yaml");
    let rules = json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [{"level": "Metadata", "users": [ACCOUNT]}, {"level": "None"}],
    });
    std::fs::write(&policy, rules.to_string()).expect("a writable folder");
    let log = folder.join("audit.log");
    let address: IpAddr = Namespaces::ADDRESS.parse().expect("an address");
    let audit = [format!("--audit-policy-file={}", policy.display()), format!("--audit-log-path={}", log.display())];
    let flags_of_server = audit.into_iter().chain([flags.to_owned()]).collect();
    let inside = Some((namespaces.node.clone(), address));
    let server = ApiServer::start_with(&Options { inside, flags: flags_of_server });
    server.kubectl(&["apply", "-k", root().join("deploy").to_str().expect("a plain path")]);
    server.kubectl(&["wait", "--for=condition=Established", "--timeout=30s", "crd", "--all"]);
    server.apply(&[
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}}),
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "one", "namespace": "default"},
            "spec": {"nodeName": "n1", "containers": [{"name": "one", "image": "one"}]},
        }),
        // One of each kind whose objects are told what became of them; an IPPool is made by the agent.
        calico("BGPConfiguration", "default", &json!({"nodeToNodeMeshEnabled": true})),
        calico("BGPFilter", "one", &json!({})),
        calico("BGPPeer", "one", &json!({"peerIP": "192.0.2.9", "asNumber": 64_512})),
        calico(
            "CalicoNodeStatus",
            "one",
            &json!({"node": "n1", "classes": ["Agent", "BGP", "Routes"], "updatePeriodSeconds": 0}),
        ),
        calico("FelixConfiguration", "default", &json!({})),
        calico("GlobalNetworkPolicy", "one", &json!({"selector": "app == 'one'"})),
        calico("HostEndpoint", "one", &json!({"node": "n2", "interfaceName": "eth0"})),
        calico("NetworkPolicy", "one", &json!({"selector": "app == 'one'"})),
        calico("StagedGlobalNetworkPolicy", "one", &json!({"selector": "app == 'one'"})),
        calico("StagedKubernetesNetworkPolicy", "one", &json!({"podSelector": {}})),
        calico("StagedNetworkPolicy", "one", &json!({"selector": "app == 'one'"})),
        calico("Tier", "one", &json!({"order": 100})),
        json!({
            "apiVersion": "policy.networking.k8s.io/v1alpha2",
            "kind": "ClusterNetworkPolicy",
            "metadata": {"name": "one"},
            "spec": {"tier": "Admin", "priority": 10, "subject": {"namespaces": {"matchLabels": {"app": "one"}}}},
        }),
        // What is abandoned is given back while the test waits.
        json!({
            "apiVersion": "projectcalico.org/v3",
            "kind": "KubeControllersConfiguration",
            "metadata": {"name": "default"},
            "spec": {"controllers": {"node": {"leakGracePeriod": "2s"}}},
        }),
        // A node that is gone has left a block.
        json!({
            "apiVersion": "projectcalico.org/v3",
            "kind": "IPAMBlock",
            "metadata": {"name": "10-244-9-0-26"},
            "spec": {
                "cidr": "10.244.9.0/26",
                "affinity": "host:gone",
                "allocations": vec![Value::Null; 64],
                "unallocated": (0..64).collect::<Vec<u32>>(),
                "attributes": [],
                "strictAffinity": false,
            },
        }),
        json!({
            "apiVersion": "projectcalico.org/v3",
            "kind": "BlockAffinity",
            "metadata": {"name": "gone-10-244-9-0-26"},
            "spec": {"state": "confirmed", "node": "gone", "cidr": "10.244.9.0/26"},
        }),
    ]);

    let agent = start(&namespaces.node, &server.account("kube-system", "tortie-node"), &folder);
    let deadline = Instant::now() + PATIENCE;
    let last_words = || std::fs::read_to_string(folder.join("agent.log")).unwrap_or_default();
    loop {
        let added = cni("ADD", &namespaces, &folder);
        if added.status.success() {
            break;
        }
        let said = String::from_utf8_lossy(&added.stdout).into_owned();
        assert!(Instant::now() < deadline, "the pod gets no interface: {said}\n{}", last_words());
        std::thread::sleep(Duration::from_millis(300));
    }
    assert!(cni("DEL", &namespaces, &folder).status.success(), "{}", last_words());

    // Until it has asked for nothing new for a while.
    let (mut used, mut refused) = asked(&log);
    let mut quiet = Instant::now();
    while quiet.elapsed() < QUIET && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(300));
        let now = asked(&log);
        if now.0 != used || now.1 != refused {
            (used, refused) = now;
            quiet = Instant::now();
        }
    }
    println!("--- the agent, {flags}\n{}", last_words());
    drop(agent);
    std::fs::remove_dir_all(&folder).expect("it is ours");
    (used, refused)
}

#[test]
fn every_right_is_used_and_none_is_missing() {
    // A server that streams lists is never asked for one, an older one for every kind.
    let (mut used, refused) = asked_with("--feature-gates=WatchList=true");
    assert!(refused.is_empty(), "deploy/ does not give {refused:?}");
    let (listed, refused) = asked_with("--feature-gates=WatchList=false");
    assert!(refused.is_empty(), "deploy/ does not give {refused:?}");
    used.extend(listed);
    let given = given();
    let is_rare = |right: &Right| RARE.contains(&(right.0.as_str(), right.1.as_str(), right.2.as_str()));
    let unused: Vec<_> = given.difference(&used).filter(|right| !is_rare(right)).collect();
    assert!(unused.is_empty(), "deploy/ gives what nothing uses: {unused:?}");
}
