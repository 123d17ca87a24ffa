//! `tortie ipam` on a directory: what it shows, what it finds wrong and by what proof, and what it puts right.
#![allow(missing_docs, reason = "a test")]

mod common;

use std::sync::Arc;

use common::{json_of, manifests, path, text, tortie};
use serde_json::json;
use tortie_cni::ipam::{Claim, Ipam, RequestedPools};
use tortie_datastore::Datastore;
use tortie_datastore::directory::Directory;

const CLUSTER: &str = r"
{apiVersion: v1, kind: Node, metadata: {name: n1}, status: {addresses: [{type: InternalIP, address: 172.31.0.2}]}}
---
{apiVersion: v1, kind: Node, metadata: {name: n2}, status: {addresses: [{type: InternalIP, address: 172.31.0.3}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: x}, spec: {nodeName: n1, containers: [{name: c}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: b, namespace: x}, spec: {nodeName: n2, containers: [{name: c}]}}
---
{apiVersion: projectcalico.org/v3, kind: IPPool, metadata: {name: pool}, spec: {cidr: 10.1.0.0/30, blockSize: 30}}
---
{apiVersion: projectcalico.org/v3, kind: IPReservation, metadata: {name: r}, spec: {reservedCIDRs: [10.1.0.3]}}
";

/// A cluster of two pods, of which the second has a borrowed address, and a third one that is gone.
async fn cluster() -> (tempfile::TempDir, String) {
    let folder = manifests(CLUSTER);
    let store = Arc::new(Directory::open(folder.path()).expect("a directory"));
    for (node, pod) in [("n1", "a"), ("n2", "b"), ("n1", "gone")] {
        let claim = Claim {
            handle: format!("tortie.c-{pod}.eth0"),
            namespace: "x".into(),
            pod: pod.into(),
            pinned: None,
            pools: RequestedPools::default(),
            tunnel: None,
        };
        let ips = Ipam::new(Arc::clone(&store) as _, node).assign(&claim).await.expect("an address");
        if pod != "gone" {
            store.publish_pod_ips("x", pod, "test", &ips).await.expect("published");
        }
    }
    let address = format!("dir:{}", path(&folder));
    (folder, address)
}

#[tokio::test]
async fn the_books_are_held_against_the_pods() {
    let (folder, store) = cluster().await;
    let run = |args: &[&str]| text(&tortie(&[&["ipam"], args, &["--datastore", &store]].concat()));
    let (stdout, stderr, status) = run(&["check", "--show-problem-ips"]);
    assert_eq!(status, Some(0), "{stderr}");
    for line in [
        "Found 1 IPAM blocks.",
        " IPAM block 10.1.0.0/30 affinity=host:n1:",
        "IPAM blocks record 3 allocations.",
        "Found 1 active IP pools.",
        "Found 2 workload IPs.",
        "  n1 has 2 allocations",
        "  10.1.0.2 (block 10.1.0.0/30, ordinal 2, handle tortie.c-gone.eth0) is allocated to x/gone on n1: there is no such pod",
        "Found 1 IPs that are allocated in IPAM but not actually in use.",
        "Found 0 in-use IPs that are in active IP pools but have no corresponding IPAM allocation.",
        "Found 0 handles with no matching IPs (and 3 handles with matches).",
        "Found 0 contradictions.",
        "Check complete; found 1 problems.",
    ] {
        assert!(stdout.lines().any(|found| found == line), "{line}\n{stdout}");
    }
    let (stdout, ..) = run(&["check"]);
    assert!(!stdout.contains("x/gone"), "only where it is asked for: {stdout}");

    // Who uses an address keeps it.
    let (_, stderr, status) = run(&["release", "--ip", "10.1.0.0"]);
    assert_eq!(status, Some(1));
    assert!(stderr.contains("is, by Workload(x/a), in use") && stderr.contains("--force"), "{stderr}");
    let (_, stderr, status) = run(&["release", "--ip", "10.1.0.3"]);
    assert!(status == Some(1) && stderr.contains("10.1.0.3 is not assigned"), "{stderr}");

    // What two reports say, and what still is so, is released.
    let report = folder.path().join("report");
    let write = || std::fs::write(&report, run(&["check", "-o", "json"]).0).expect("written");
    write();
    let early = folder.path().join("early");
    std::fs::copy(&report, &early).expect("copied");
    let files = [early.to_str().expect("a path"), report.to_str().expect("a path")];
    let release = ["release", "--from-report", files[0], "--from-report", files[1]];
    let (stdout, stderr, status) = run(&release);
    assert!(status == Some(0) && stdout.contains("Released 1 IPs successfully"), "{stdout}{stderr}");
    let (stdout, ..) = run(&release);
    assert!(stdout.contains("Released 0 IPs successfully\n1 addresses"), "{stdout}");
    assert!(run(&["check"]).0.contains("found 0 problems"));

    // By force.
    let (stdout, stderr, status) = run(&["release", "--ip", "10.1.0.0", "--force"]);
    assert!(status == Some(0) && stdout == "Successfully released IP address 10.1.0.0\n", "{stdout}{stderr}");
    let (stdout, ..) = run(&["check", "--show-problem-ips"]);
    let want = "  10.1.0.0 in use by Workload(x/a) and in active IPAM pool but has no IPAM allocation\n";
    assert!(stdout.contains(want), "{stdout}");

    std::fs::write(&report, "{}").expect("written");
    let (_, stderr, status) = run(&["release", "--from-report", files[1]]);
    assert!(status == Some(1) && stderr.contains("is no report"), "{stderr}");
    let other = run(&["check", "-o", "json"]).0.replacen(env!("CARGO_PKG_VERSION"), "9.9.9", 1);
    std::fs::write(&report, other).expect("written");
    let (_, stderr, status) = run(&["release", "--from-report", files[1]]);
    assert!(status == Some(1) && stderr.contains("version 9.9.9"), "{stderr}");
    assert_eq!(run(&["release", "--from-report", files[1], "--force"]).2, Some(0));
}

#[tokio::test]
async fn a_check_finds_what_contradicts_itself() {
    let (folder, store) = cluster().await;
    let objects = folder.path().join(".tortie/objects");
    std::fs::remove_file(objects.join("IPAMHandle/tortie.c-a.eth0.json")).expect("removed");
    std::fs::remove_file(objects.join("BlockAffinity/n1-10-1-0-0-30.json")).expect("removed");
    let claim = json!({"apiVersion": "projectcalico.org/v3", "kind": "BlockAffinity", "metadata": {"name": "n9-10-1-0-0-30"},
        "spec": {"cidr": "10.1.0.0/30", "node": "n9", "state": "confirmed"}});
    std::fs::write(objects.join("BlockAffinity/n9-10-1-0-0-30.json"), claim.to_string()).expect("written");
    let idle = json!({"apiVersion": "projectcalico.org/v3", "kind": "IPAMHandle", "metadata": {"name": "idle"},
        "spec": {"handleID": "idle", "block": {"10.1.0.0/30": 1}}});
    std::fs::write(objects.join("IPAMHandle/idle.json"), idle.to_string()).expect("written");
    let report = json_of(&["ipam", "check", "-o", "json", "--datastore", &store]);
    let problems: Vec<&str> =
        report["problems"].as_array().expect("a list").iter().map(|problem| problem.as_str().expect("text")).collect();
    for want in [
        "handle tortie.c-a.eth0 is in use in a block but doesn't exist",
        "handle idle doesn't have any active IPs",
        "node n9 has an affinity to 10.1.0.0/30, and no such block is its own",
        "block 10.1.0.0/30 says that it is node n1's, and no affinity does",
    ] {
        assert!(problems.contains(&want), "{want}: {problems:#?}");
    }
    assert_eq!(problems.len(), 5, "{problems:#?}");
    assert_eq!(report["leakedHandles"][0]["ID"], "idle");
    let allocation = &report["allocations"]["10.1.0.1"][0];
    assert_eq!((&allocation["inUse"], &allocation["borrowed"]), (&json!(true), &json!(true)), "{allocation:#}");
    assert_eq!(allocation["owners"], json!(["Workload(x/b)"]));
}

#[tokio::test]
async fn what_there_is_is_shown() {
    let (_folder, store) = cluster().await;
    let run = |args: &[&str]| text(&tortie(&[&["ipam"], args, &["--datastore", &store]].concat()));
    let (stdout, stderr, _) = run(&["show", "--show-blocks"]);
    let words = |line: &str| line.replace('|', " ").split_whitespace().collect::<Vec<_>>().join(" ");
    let lines: Vec<String> = stdout.lines().map(words).collect();
    for want in [
        "GROUPING CIDR IPS TOTAL IPS IN USE IPS RESERVED IPS FREE",
        "IP Pool 10.1.0.0/30 4 3 (75%) 1 (25%) 0 (0%)",
        "Block 10.1.0.0/30 4 3 (75%) 1 (25%) 0 (0%)",
    ] {
        assert!(lines.iter().any(|line| line == want), "{want}\n{stdout}{stderr}");
    }
    let (stdout, ..) = run(&["show", "--show-borrowed"]);
    let lines: Vec<String> = stdout.lines().map(words).collect();
    assert!(lines.iter().any(|line| line == "10.1.0.1 n2 10.1.0.0/30 n1 pod x/b"), "{stdout}");
    assert_eq!(run(&["show", "--show-borrowed", "--show-blocks"]).2, Some(2));
}

#[tokio::test]
async fn settings_are_changed_where_they_stand() {
    let (folder, store) = cluster().await;
    let run = |args: &[&str]| text(&tortie(&[&["ipam"], args, &["--datastore", &store]].concat()));
    let shown = || json_of(&["ipam", "show", "--show-configuration", "-o", "json", "--datastore", &store]);
    assert_eq!(shown(), json!({"strictAffinity": false, "autoAllocateBlocks": true, "maxBlocksPerHost": 0}));
    let (stdout, stderr, status) = run(&["configure", "--strictaffinity", "true", "--max-blocks-per-host", "4"]);
    assert_eq!(status, Some(0), "{stderr}");
    assert_eq!(stdout, "Successfully set StrictAffinity to: true\nSuccessfully set MaxBlocksPerHost to: 4\n");
    let (_, stderr, status) = run(&["configure", "--ip-cooldown-seconds", "60"]);
    assert_eq!(status, Some(0), "{stderr}");
    let want =
        json!({"strictAffinity": true, "autoAllocateBlocks": true, "maxBlocksPerHost": 4, "ipCooldownSeconds": 60});
    assert_eq!(shown(), want);
    let files: Vec<String> = std::fs::read_dir(folder.path())
        .expect("read")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .filter(|name| name.to_lowercase().contains("ipamconfiguration"))
        .collect();
    assert_eq!(files.len(), 1, "one document, edited: {files:?}");
    let (stdout, ..) = run(&["show", "--show-configuration"]);
    assert!(stdout.contains("StrictAffinity") && stdout.contains("PROPERTY"), "{stdout}");
    let (_, stderr, status) = run(&["configure"]);
    assert!(status == Some(1) && stderr.contains("--max-blocks-per-host"), "{stderr}");
    assert_eq!(run(&["configure", "--ip-cooldown-seconds", "1201"]).2, Some(2));
    assert_eq!(run(&["configure", "--strictaffinity", "perhaps"]).2, Some(2));
}
