//! The command line without a cluster: policy from manifests, resources of a directory, what a kernel lacks, errors and their exit status.

mod common;

use std::path::Path;
use std::process::Command;

use common::{json_of, manifests, path, text, tortie};
use serde_json::{Value, json};

const CLUSTER: &str = r#"
{apiVersion: v1, kind: Namespace, metadata: {name: x}}
---
{apiVersion: v1, kind: Node, metadata: {name: n1, annotations: {projectcalico.org/ASNumber: "64513"}},
 status: {addresses: [{type: InternalIP, address: 172.31.0.2}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: x, labels: {app: a}, annotations: {cni.projectcalico.org/ipAddrs: '["10.244.0.1"]'}},
 spec: {nodeName: n1, containers: [{name: c}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: b, namespace: x, labels: {app: b}, annotations: {cni.projectcalico.org/ipAddrs: '["10.244.0.2"]'}},
 spec: {nodeName: n1, containers: [{name: c, ports: [{containerPort: 80}, {containerPort: 53, protocol: UDP}]}]}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: only-udp, namespace: x},
 spec: {podSelector: {matchLabels: {app: b}}, ingress: [{ports: [{protocol: UDP, port: 53}]}]}}
---
{apiVersion: projectcalico.org/v3, kind: IPPool, metadata: {name: pool}, spec: {cidr: 10.244.0.0/16}}
"#;

#[test]
fn the_matrix_has_the_fixed_form() {
    let folder = manifests(CLUSTER);
    for extra in [&[][..], &["--oracle"]] {
        let rows = json_of(&[&["policy", "matrix", "--manifests", path(&folder), "-o", "json"], extra].concat());
        let verdict = |from: &str, to: &str, protocol: &str, port: u16| {
            let rows = rows.as_array().expect("a list");
            let row = rows.iter().find(|row| {
                row["from"] == from && row["to"] == to && row["protocol"] == protocol && row["port"] == port
            });
            row.map(|row| row["verdict"].clone())
        };
        assert_eq!(rows.as_array().map(Vec::len), Some(6), "each destination's own ports, TCP/80 if none: {rows:#}");
        assert_eq!(verdict("x/a", "x/b", "TCP", 80), Some(json!("deny")));
        assert_eq!(verdict("x/a", "x/b", "UDP", 53), Some(json!("allow")));
        assert_eq!(verdict("x/b", "x/b", "TCP", 80), Some(json!("allow")), "a pod reaches itself");
        assert_eq!(verdict("x/b", "x/a", "TCP", 80), Some(json!("allow")));
    }
    let rows = json_of(&["policy", "matrix", "--manifests", path(&folder), "--ports", "SCTP/7", "-o", "json"]);
    assert_eq!(rows.as_array().map(Vec::len), Some(4));
    let rows = json_of(&["policy", "matrix", "--manifests", path(&folder), "--family", "ipv6", "-o", "json"]);
    assert_eq!(rows, json!([]), "a pair with no common family has no row");
}

#[test]
fn the_grid_is_readable_without_colour() {
    let folder = manifests(CLUSTER);
    let (stdout, _, _) = text(&tortie(&["policy", "matrix", "--manifests", path(&folder)]));
    assert!(!stdout.contains('\x1b'), "{stdout}");
    assert!(stdout.contains("a only UDP/53"), "{stdout}");
}

#[test]
fn explain_and_render() {
    let folder = manifests(CLUSTER);
    let ends = ["--from", "x/a", "--to", "x/b", "--protocol", "tcp", "--port", "80"];
    let explanation =
        json_of(&[&["policy", "explain", "--manifests", path(&folder), "-o", "json"], &ends[..]].concat());
    assert_eq!(explanation["verdict"], "deny");
    assert_eq!(explanation["egress"]["verdict"], "allow");
    assert_eq!(explanation["ingress"]["verdict"], "deny");
    let (stdout, stderr, status) = text(&tortie(&["policy", "render", "--manifests", path(&folder), "--node", "n1"]));
    assert_eq!(status, Some(0), "{stderr}");
    assert!(stdout.contains("table inet tortie {"), "{stdout}");
    let (_, stderr, status) = text(&tortie(&["policy", "render", "--manifests", path(&folder), "--node", "n9"]));
    assert_eq!(status, Some(1));
    assert!(stderr.contains("n9"), "{stderr}");
}

#[test]
fn lines_of_the_kernels_log_begin_as_asked() {
    let policy = "---
{apiVersion: projectcalico.org/v3, kind: NetworkPolicy, metadata: {name: noted, namespace: x},
 spec: {selector: app == 'a', types: [Ingress], ingress: [{action: Log}, {action: Allow}]}}
";
    let asked = "---
{apiVersion: projectcalico.org/v3, kind: FelixConfiguration, metadata: {name: default}, spec: {logPrefix: '%t %k %p'}}
";
    for (more, prefix) in [("", "calico-packet: "), (asked, "default np x/noted: ")] {
        let folder = manifests(&format!("{CLUSTER}{policy}{more}"));
        let (table, _, _) = text(&tortie(&["policy", "render", "--manifests", path(&folder), "--node", "n1"]));
        assert!(table.contains(&format!("log prefix \"{prefix}\" level info")), "{prefix}: {table}");
    }
}

#[test]
fn host_endpoints_are_in_the_table_of_their_node() {
    let hosts = "---
{apiVersion: projectcalico.org/v3, kind: HostEndpoint, metadata: {name: n1-eth7, labels: {role: node}},
 spec: {node: n1, interfaceName: eth7}}
---
{apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: {name: web},
 spec: {selector: role == 'node', types: [Ingress], ingress: [{action: Allow, protocol: TCP, destination: {ports: [8080]}}]}}
";
    let without = manifests(CLUSTER);
    let with = manifests(&(CLUSTER.to_owned() + hosts));
    let render = |folder| text(&tortie(&["policy", "render", "--manifests", path(folder), "--node", "n1"]));
    assert!(!render(&without).0.contains("host_input"), "a node without host endpoints has no chains for them");
    let (table, stderr, status) = render(&with);
    assert_eq!((stderr.as_str(), status), ("", Some(0)));
    assert!(table.contains("chain host_input") && table.contains("elements = { \"eth7\" }"), "{table}");
    assert!(table.contains("tcp dport 8080"), "{table}");
    // A plan has the transaction, although no pod's verdict changes.
    let change = manifests(hosts);
    let plan = json_of(&["policy", "plan", "--manifests", path(&without), "-f", path(&change), "-o", "json"]);
    let commands = plan["nodes"][0]["transaction"].to_string();
    assert!(commands.contains("create chain inet tortie host_input"), "{plan:#}");
}

#[test]
fn resources_by_kind_name_namespace_and_label() {
    let folder = manifests(CLUSTER);
    let store = format!("dir:{}", path(&folder));
    let get = |args: &[&str]| text(&tortie(&[&["get"], args, &["--datastore", &store]].concat()));
    let (stdout, stderr, _) = get(&["pods", "-n", "x", "-l", "app=b"]);
    assert_eq!(
        stdout.lines().next().map(|line| line.split_whitespace().collect::<Vec<_>>()),
        Some(vec!["NAMESPACE", "NAME", "STATUS", "IP", "NODE"]),
        "{stderr}"
    );
    assert_eq!(stdout.lines().count(), 2, "{stdout}");
    let (stdout, _, _) = get(&["node", "-o", "wide"]);
    let cells: Vec<&str> = stdout.lines().nth(1).expect("a row").split_whitespace().collect();
    assert_eq!(cells, ["n1", "64513", "172.31.0.2"]);
    let (stdout, _, _) = get(&["ippools", "pool", "-o", "json"]);
    let pool: Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!(pool["spec"]["cidr"], "10.244.0.0/16");
    let (_, stderr, status) = get(&["pod", "nobody", "-n", "x"]);
    assert_eq!(status, Some(1));
    assert!(stderr.contains("Pod nobody not found in namespace x"), "{stderr}");
    let (stdout, stderr, status) = get(&["pods"]);
    assert_eq!((stdout.as_str(), stderr.as_str(), status), ("", "No resources found.\n", Some(0)));
    let (stdout, _, _) = get(&["np", "-A"]);
    assert!(stdout.contains("only-udp"), "{stdout}");
}

#[test]
fn what_is_wrong_exits_one_and_bad_usage_two() {
    let folder = manifests(
        "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p}, spec: {podSelector: {}, ingres: []}}",
    );
    let (stdout, stderr, status) = text(&tortie(&["policy", "matrix", "--manifests", path(&folder)]));
    assert_eq!((stdout.as_str(), status), ("", Some(1)));
    assert!(stderr.contains("ingres") && stderr.contains("cluster.yaml:1"), "{stderr}");
    for args in [
        &["policy", "matrix", "--ports", "http"][..],
        &["policy", "explain", "--from", "x/a", "--to", "x/b", "--port", "0"],
        &["get", "planets"],
        &["fly"],
        &["lab", "exec", "node1"],
        &["lab", "probe", "--timeout", "soon"],
    ] {
        assert_eq!(tortie(args).status.code(), Some(2), "{args:?}");
    }
    let (_, stderr, status) = text(&tortie(&["bgp", "peers", "--socket", "/nowhere/tortie.sock"]));
    assert_eq!(status, Some(1));
    assert!(stderr.contains("/nowhere/tortie.sock"), "{stderr}");
    let (_, stderr, status) = text(&tortie(&["lab", "ps", "--lab", "never-made"]));
    assert_eq!(status, Some(1));
    assert!(stderr.contains("tortie lab up --lab never-made"), "{stderr}");
}

#[test]
fn a_warning_does_not_change_the_exit_status() {
    let folder = manifests("{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: []}}");
    let (_, stderr, status) = text(&tortie(&["policy", "matrix", "--manifests", path(&folder), "-o", "json"]));
    assert_eq!(status, Some(0));
    assert!(stderr.contains("warning: Pod default/a has no address"), "{stderr}");
}

#[test]
fn a_reader_that_leaves_is_no_panic() {
    let folder = manifests(CLUSTER);
    let script = format!(
        "{} policy render --manifests {} --node n1 | head -1; echo ${{PIPESTATUS[0]}}",
        Path::new(env!("CARGO_BIN_EXE_tortie")).display(),
        path(&folder)
    );
    let output = Command::new("bash").args(["-c", &script]).output().expect("bash runs");
    let (stdout, stderr, _) = text(&output);
    assert!(stdout.ends_with("\n0\n") && stderr.is_empty(), "{stdout}{stderr}");
}

#[test]
fn completion_scripts() {
    for shell in ["bash", "zsh", "fish"] {
        let (stdout, _, status) = text(&tortie(&["completion", shell]));
        assert!(status == Some(0) && stdout.contains("tortie"), "{shell}");
    }
}

#[test]
fn a_block_that_cannot_be_read_is_not_passed_over() {
    let folder = manifests(CLUSTER);
    let blocks = folder.path().join(".tortie/objects/IPAMBlock");
    std::fs::create_dir_all(&blocks).expect("a directory");
    let store = format!("dir:{}", path(&folder));
    let show = || text(&tortie(&["ipam", "show", "--show-blocks", "--datastore", &store]));
    assert_eq!(show().2, Some(0));
    std::fs::write(blocks.join("10-244-0-0-26.json"), "spoilt").expect("a file");
    let (stdout, stderr, status) = show();
    assert!(stdout.contains("10.244.0.0/16") && status == Some(1), "{stdout}{stderr}");
    assert!(stderr.contains("10-244-0-0-26.json") && stderr.contains("restore the file"), "{stderr}");
}

#[test]
fn a_kernel_that_runs_agents_has_all_that_they_need() {
    let before = std::fs::read_to_string("/proc/net/dev").expect("the interfaces can be read").lines().count();
    let rows = json_of(&["node", "checksystem", "-o", "json"]);
    let rows = rows.as_array().expect("a list");
    assert!(rows.len() > 15, "{rows:#?}");
    for row in rows {
        assert!(row["present"] == true || row["required"] == false, "{row:#}");
        assert_eq!(row["present"] == false, row["remedy"].is_string(), "{row:#}");
    }
    for feature in ["nf_tables, family inet", "conntrack by netlink", "veth", "masquerade", "snat"] {
        let row = rows.iter().find(|row| row["feature"] == feature).unwrap_or_else(|| panic!("{feature}: {rows:#?}"));
        assert_eq!(row["present"], true, "{row:#}");
    }
    let (stdout, _, status) = text(&tortie(&["node", "checksystem"]));
    assert!(stdout.starts_with("Linux ") && stdout.contains("\nFEATURE "), "{stdout}");
    assert_eq!(status, Some(0));
    let after = std::fs::read_to_string("/proc/net/dev").expect("the interfaces can be read").lines().count();
    assert_eq!(before, after, "nothing is left in this namespace");
}

#[test]
fn who_has_no_right_to_try_is_told_so() {
    let output = Command::new("setpriv")
        .args(["--bounding-set", "-all", "--inh-caps", "-all", env!("CARGO_BIN_EXE_tortie"), "node", "checksystem"])
        .output()
        .expect("setpriv runs");
    let (stdout, stderr, status) = text(&output);
    assert_eq!((stdout.as_str(), status), ("", Some(1)), "{stderr}");
    assert!(stderr.contains("run it as root") && stderr.contains("CAP_NET_ADMIN"), "{stderr}");
}
