//! Resources of every kind on the command line: listed, applied, deleted, validated, and what is wrong with them.

mod common;

use common::{json_of, manifests, path, text, tortie};

const POLICIES: &str = "
{apiVersion: projectcalico.org/v3, kind: Tier, metadata: {name: security}, spec: {order: 100, defaultAction: Pass}}
---
{apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: {name: security.web}, spec: {tier: security, order: 10.5, selector: app == 'web'}}
---
{apiVersion: projectcalico.org/v3, kind: NetworkPolicy, metadata: {name: web, namespace: shop}, spec: {selector: app == 'web', ingress: [{action: Allow}]}}
---
{apiVersion: projectcalico.org/v3, kind: GlobalNetworkSet, metadata: {name: partners}, spec: {nets: [192.0.2.0/24, 198.51.100.7]}}
---
{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {name: all},
 spec: {tier: Admin, priority: 7, subject: {namespaces: {}}}}
";

/// The words of each line.
fn words(stdout: &str) -> Vec<Vec<&str>> {
    stdout.lines().map(|line| line.split_whitespace().collect()).collect()
}

#[test]
fn every_kind_has_calicoctls_columns() {
    let folder = manifests(POLICIES);
    let store = format!("dir:{}", path(&folder));
    let get = |args: &[&str]| {
        let (stdout, stderr, status) = text(&tortie(&[&["get"], args, &["--datastore", &store]].concat()));
        assert_eq!((status, stderr.as_str()), (Some(0), ""), "{args:?}");
        stdout
    };
    let tiers = get(&["tiers", "-o", "wide"]);
    let expected = [
        vec!["NAME", "ORDER", "DEFAULTACTION"],
        vec!["security", "100", "Pass"],
        vec!["kube-admin", "1000", "Pass"],
        vec!["default", "1000000", "Deny"],
        vec!["kube-baseline", "10000000", "Pass"],
    ];
    assert_eq!(words(&tiers), expected);
    let policies = get(&["gnp", "-o", "wide"]);
    assert_eq!(words(&policies)[0], ["NAME", "TIER", "ORDER", "SELECTOR", "TYPES"]);
    assert_eq!(words(&policies)[1], ["security.web", "security", "10.5", "app", "==", "\"web\"", "Ingress"]);
    assert_eq!(words(&get(&["cnp", "-n", "shop"]))[1], ["shop", "web", "default"]);
    assert_eq!(words(&get(&["globalnetworksets", "-o", "wide"]))[1], ["partners", "192.0.2.0/24,198.51.100.7/32"]);
    assert_eq!(words(&get(&["clusternetworkpolicies"]))[1], ["all", "Admin", "7"]);
    let tier = json_of(&["get", "tier", "default", "-o", "json", "--datastore", &store]);
    assert_eq!(tier["spec"]["order"], 1_000_000.0);
}

#[test]
fn applied_deleted_and_never_by_halves() {
    let (folder, change) = (manifests(POLICIES), tempfile::tempdir().expect("a folder"));
    let store = format!("dir:{}", path(&folder));
    let file = change.path().join("change.yaml");
    let run = |args: &[&str]| text(&tortie(&[args, &["--datastore", &store]].concat()));
    let write = |text: &str| std::fs::write(&file, text).expect("a manifest");
    let name = file.to_str().expect("a plain path");
    write(&POLICIES.replace("10.5", "11"));
    let (stdout, stderr, status) = run(&["apply", "-f", name]);
    assert_eq!((status, stderr.as_str()), (Some(0), ""));
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(
        lines[..3],
        [
            "Tier security unchanged",
            "GlobalNetworkPolicy security.web configured",
            "CalicoNetworkPolicy shop/web unchanged"
        ]
    );
    // One good document, and one that says nothing that can be enforced.
    write(
        &(POLICIES.replace("10.5", "12")
            + "---\n{apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: {name: bad}, spec: {selector: 'app =='}}\n"),
    );
    let (stdout, stderr, status) = run(&["apply", "-f", name]);
    assert_eq!((status, stdout.as_str()), (Some(1), ""));
    assert!(stderr.contains("GlobalNetworkPolicy bad: spec.selector: Invalid value: \"app ==\""), "{stderr}");
    let (stdout, _, _) = run(&["get", "gnp", "-o", "wide"]);
    assert!(stdout.contains(" 11 ") && !stdout.contains(" 12 "), "nothing of it was applied: {stdout}");
    let (_, stderr, status) = run(&["validate", "-f", name]);
    assert!(status == Some(1) && stderr.contains("bad"), "{stderr}");
    let (stdout, _, status) = run(&["delete", "cnp", "web", "-n", "shop"]);
    assert_eq!((status, stdout.as_str()), (Some(0), "CalicoNetworkPolicy shop/web deleted\n"));
    let (_, stderr, status) = run(&["delete", "cnp", "web", "-n", "shop"]);
    assert!(status == Some(1) && stderr.contains("CalicoNetworkPolicy shop/web not found"), "{stderr}");
}

#[test]
fn what_is_wrong_is_said_beside_what_is_listed() {
    let folder = manifests(POLICIES);
    let store = format!("dir:{}", path(&folder));
    let run = |args: &[&str]| text(&tortie(&[args, &["--datastore", &store]].concat()));
    let bad =
        "{apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: {name: bad}, spec: {order: first}}";
    std::fs::write(folder.path().join("bad.yaml"), bad).expect("a manifest");
    let lost =
        "{apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: {name: lost}, spec: {tier: nowhere}}";
    std::fs::write(folder.path().join("lost.yaml"), lost).expect("a manifest");
    let (stdout, stderr, status) = run(&["get", "gnp"]);
    assert!(status == Some(0) && stdout.contains("security.web") && stdout.contains("lost"), "{stdout}");
    assert!(stderr.contains("bad.yaml:1: GlobalNetworkPolicy bad: spec.order: Invalid value"), "{stderr}");
    assert!(stderr.contains("nothing of this file is in force"), "{stderr}");
    assert!(
        stderr.contains("GlobalNetworkPolicy lost: spec.tier: Invalid value: \"nowhere\": there is no such Tier"),
        "{stderr}"
    );
    let (_, stderr, _) = run(&["get", "globalnetworksets"]);
    assert_eq!(stderr, "", "of another kind");
    let (_, stderr, status) = run(&["apply", "-f", &format!("{}/lost.yaml", path(&folder))]);
    assert!(status == Some(0) && stderr.contains("there is no such Tier"), "{stderr}");
}
