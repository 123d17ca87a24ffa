//! `tortie node clean --all`: a node is as it was before the agent first came.

use std::process::Command;

use serde_json::{Value, json};
use tortie_tests::host::Host;
use tortie_tests::lab::{Lab, array, tortie};

use super::{namespace, node, outside, place, pod, until, who};

/// Everything that an agent may write, as the node's own programs show it.
fn state(host: &Host, run_dir: &str) -> String {
    let script = "nft list ruleset | sed 's/packets [0-9]* bytes [0-9]*//'
        for b in nft legacy; do for p in iptables ip6tables; do $p-$b -S; done; done
        ip -o link | sed 's/ \\(mtu\\|qdisc\\) .*//'; ip -o addr; ip route; ip -6 route; ip rule
        ls -A /etc/cni/net.d 2>/dev/null || true; ls -A ";
    host.script(&format!("{script} {run_dir} 2>/dev/null || true"))
}

fn clean(host: &Host, flags: &[&str]) -> (bool, String) {
    let mut words = host.prefix();
    words.extend([tortie().display().to_string(), "node".into(), "clean".into()]);
    words.extend(flags.iter().map(|flag| (*flag).to_owned()));
    let output = Command::new(&words[0]).args(&words[1..]).output().expect("tortie runs");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn leaves_nothing_of_ours() {
    // The node `bare` has a place in the fabric and no agent, until now.
    let bare = json!({"apiVersion": "v1", "kind": "Node",
        "metadata": {"name": "bare", "annotations": {"tortie.io/lab": "external"}},
        "status": {"addresses": [{"type": "InternalIP", "address": "172.31.0.9"}]}});
    let first = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node1"},
        "status": {"addresses": [{"type": "InternalIP", "address": "172.31.0.2"}]}});
    let pool = json!({"apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": {"name": "four"},
        "spec": {"cidr": "10.244.0.0/16", "vxlanMode": "Always"}});
    let lab = Lab::up("clean", &[bare, first, pool, namespace(), pod("there", "node1")], &[]);
    let (netns, _) = node(&lab, "bare");
    let host = Host::new(&netns, "nft");
    host.script("iptables-nft -P FORWARD DROP; iptables-legacy -P FORWARD DROP; ip6tables-nft -S >/dev/null; ip6tables-legacy -S >/dev/null");
    host.script("nft add table ip mine; ip route add 10.77.0.0/24 dev lo proto 81; ip link add calistranger type veth peer name stranger0");
    // Forwarding and what follows from it stays switched on: that much the cleaning says of itself.
    host.script("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
    let run_dir = lab.scratch("run").display().to_string();
    let before = state(&host, &run_dir);

    // An agent comes, with a pod.
    let nodes = array(&lab.json(&["lab", "ps"])["nodes"]);
    let pid = nodes.iter().find_map(|node| node["pid"].as_u64()).expect("an agent runs");
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).expect("the agent runs");
    let words = command.split(|byte| *byte == 0).filter(|word| !word.is_empty());
    let words: Vec<String> = words.map(|word| String::from_utf8_lossy(word).replace("node1", "bare")).collect();
    let mut words = words.into_iter();
    let program = words.next().expect("a program");
    let mut command: Vec<String> = host.prefix();
    command.push(program.clone());
    let mut rest: Vec<String> = words.collect();
    let at = rest.iter().position(|word| word == "--run-dir").expect("agents of labs have a run directory");
    rest[at + 1].clone_from(&run_dir);
    command.extend(rest);
    let mut agent = Command::new(&command[0])
        .args(&command[1..])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("the agent starts");
    let socket = format!("{run_dir}/tortie.sock");
    let status = || -> Option<Value> {
        let output =
            Command::new(tortie()).args(["node", "status", "-o", "json", "--socket", &socket]).output().ok()?;
        serde_json::from_slice::<Value>(&output.stdout).ok().map(|reports| reports[0].clone())
    };
    until("the agent is ready", || status().is_some_and(|status| status["ready"] == true));
    let wired = "near/wired";
    let document = lab.write("wired", &[pod("wired", "bare")]);
    let store = lab.path("datastore").join("wired.yaml");
    std::fs::copy(document.join("0000.yaml"), store).expect("the pod's document");
    let pod_netns = format!("{}wired", lab.name);
    host.run(&["ip", "netns", "add", &pod_netns]);
    let plugin = format!("{run_dir}-cni");
    let _ = std::fs::remove_file(&plugin);
    std::os::unix::fs::symlink(&program, &plugin).expect("a link");
    let config = json!({"cniVersion": "1.0.0", "name": "tortie", "type": "tortie-cni", "socket": socket}).to_string();
    let link = std::path::Path::new(&plugin).with_file_name("tortie-cni");
    std::fs::rename(&plugin, &link).expect("a name");
    let add = format!(
        "CNI_COMMAND=ADD CNI_CONTAINERID=c1 CNI_NETNS=/run/netns/{pod_netns} CNI_IFNAME=eth0 CNI_PATH=/ CNI_ARGS='K8S_POD_NAMESPACE=near;K8S_POD_NAME=wired' {} <<'C'\n{config}\nC\n",
        link.display()
    );
    let added = host.script(&add);
    assert!(added.contains("ips"), "{wired}: {added}");
    until("the agent let pods through the firewalls", || {
        ["nft", "legacy"]
            .iter()
            .all(|b| host.run(&[&format!("iptables-{b}"), "-S", "FORWARD"]).matches("Tortie").count() == 2)
    });
    until("the node has an end of the overlay", || host.script("ip -d link").contains("vxlan.calico"));
    assert_ne!(state(&host, &run_dir), before);

    // While it runs, nothing is taken away.
    let (done, said) = clean(&host, &["--all", "--run-dir", &run_dir]);
    assert!(!done && said.contains("stop it first"), "{said}");
    agent.kill().expect("the agent runs");
    agent.wait().expect("it ends");
    let (listed, said) = clean(&host, &["--all", "--dry-run", "--run-dir", &run_dir]);
    assert!(listed && said.contains("table inet tortie"), "{said}");
    let (done, said) = clean(&host, &["--all", "--run-dir", &run_dir]);
    assert!(done, "{said}");
    assert!(said.contains("Kernel settings"), "{said}");
    let after = state(&host, &run_dir);
    let difference = tortie_tests::kernel::difference("before", &before, "after", &after);
    host.run(&["ip", "netns", "del", &pod_netns]);
    assert!(difference.is_none(), "{}", difference.unwrap_or_default());
    let (done, said) = clean(&host, &["--all", "--run-dir", &run_dir]);
    assert!(done && said.contains("nothing to remove"), "{said}");
    // Others of the fabric still talk.
    let (_, there) = place(&lab, "there");
    assert!(who(&outside(&lab), there[0], 80).is_some());
}
