//! `tortie policy plan` on manifests: a summary first, short lists, and the same as JSON.

mod common;

use common::{json_of, manifests, path, text, tortie};
use serde_json::json;

/// Sixty pods of one Deployment, a database, and a client.
fn cluster() -> String {
    let pod = |namespace: &str, name: &str, app: &str, node: &str, ip: &str| {
        let pod = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": namespace, "name": name, "labels": {"app": app}},
            "spec": {"nodeName": node, "containers": [{"name": "c", "ports": [{"containerPort": 80}]}]},
            "status": {"podIPs": [{"ip": ip}]}});
        format!("---\n{pod}\n")
    };
    let mut text = String::new();
    for number in 1..=60 {
        let node = if number % 2 == 0 { "n1" } else { "n2" };
        text += &pod("shop", &format!("web-{number:02}"), "web", node, &format!("10.244.0.{number}"));
    }
    text + &pod("shop", "db", "db", "n1", "10.244.0.100") + &pod("dev", "client", "client", "n2", "10.244.0.101")
}

const DENY_WEB: &str =
    "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: deny-web, namespace: shop},
 spec: {podSelector: {matchLabels: {app: web}}}}\n";

#[test]
fn hundreds_of_pods_are_a_few_lines() {
    let (folder, change) = (manifests(&cluster()), manifests(DENY_WEB));
    let (stdout, stderr, status) =
        text(&tortie(&["policy", "plan", "--manifests", path(&folder), "-f", path(&change)]));
    assert_eq!(status, Some(0), "{stderr}");
    assert!(stdout.starts_with("OBJECT"), "{stdout}");
    assert!(stdout.contains("NetworkPolicy shop/deny-web   created"), "{stdout}");
    // Sixty pods from 59 others, the database, the client and outside.
    let summary = "62 of 62 pods are affected. Of 3906 pairs 3720 change: 3720 verdicts become deny, 0 become allow.";
    assert!(stdout.contains(summary), "{stdout}");
    assert!(stdout.contains("allow -> deny   everybody   shop/web-* (60 pods)   TCP/80   3720"), "{stdout}");
    assert!(stdout.contains("judged again") && stdout.contains("n1, in one transaction:"), "{stdout}");
    assert!(stdout.lines().count() < 60, "{stdout}");
}

#[test]
fn json_has_every_pair_and_every_command() {
    let (folder, change) = (manifests(&cluster()), manifests(DENY_WEB));
    let plan =
        json_of(&["policy", "plan", "--manifests", path(&folder), "-f", path(&change), "-o", "json", "--node", "n2"]);
    assert_eq!(plan["objects"], json!([{"object": "NetworkPolicy shop/deny-web", "action": "created"}]));
    let verdicts = plan["verdicts"].as_array().expect("a list");
    assert_eq!(verdicts.len(), 3720);
    let one = json!({"from": "dev/client", "to": "shop/web-01", "protocol": "TCP", "port": 80,
        "before": "allow", "after": "deny"});
    assert!(verdicts.contains(&one), "{}", verdicts[0]);
    assert_eq!(plan["nodes"].as_array().map(Vec::len), Some(1), "one node was asked for");
    let commands = plan["nodes"][0]["transaction"].as_array().expect("a list");
    assert!(commands.iter().any(|command| command.as_str().is_some_and(|text| text.starts_with("create chain"))));
    assert_eq!(plan["nodes"][0]["generationMoves"], true);
}

#[test]
fn deletions_by_name_and_by_file() {
    let (folder, change) = (manifests(&(cluster() + "---\n" + DENY_WEB)), manifests(DENY_WEB));
    for what in ["networkpolicy/shop/deny-web", path(&change)] {
        let plan = json_of(&["policy", "plan", "--manifests", path(&folder), "--delete", what, "-o", "json"]);
        assert_eq!(plan["objects"][0]["action"], "deleted");
        assert_eq!(plan["summary"]["allowed"], 3720, "{what}");
        assert_eq!(plan["nodes"][0]["generationMoves"], false, "nothing is denied that was allowed");
    }
    for (what, said) in
        [("networkpolicy/shop/gone", "NetworkPolicy gone not found in namespace shop"), ("x", "is no file")]
    {
        let (_, stderr, status) = text(&tortie(&["policy", "plan", "--manifests", path(&folder), "--delete", what]));
        assert_eq!(status, Some(1));
        assert!(stderr.contains(said), "{stderr}");
    }
}

#[test]
fn staged_policies_are_told_apart() {
    let staged = DENY_WEB
        .replace("networking.k8s.io/v1", "projectcalico.org/v3")
        .replace("kind: NetworkPolicy", "kind: StagedKubernetesNetworkPolicy");
    let (folder, change) = (manifests(&cluster()), manifests(&staged));
    let args = ["policy", "plan", "--manifests", path(&folder), "-f", path(&change)];
    let (stdout, stderr, status) = text(&tortie(&args));
    assert_eq!(status, Some(0), "{stderr}");
    assert!(stdout.contains("No verdict changes, of 3906 pairs."), "{stdout}");
    let lead = "If what is staged were enforced as well (StagedKubernetesNetworkPolicy shop/deny-web):\n62 of 62 pods";
    assert!(stdout.contains(lead), "{stdout}");
    let plan = json_of(&[&args[..], &["-o", "json"]].concat());
    assert_eq!((&plan["summary"]["denied"], &plan["staged"]["summary"]["denied"]), (&json!(0), &json!(3720)));
}
