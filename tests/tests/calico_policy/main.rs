//! Calico's policies in a lab, by packets: the examples of `tests/conformance/calico`, a large set as a real cluster has it, flows
//! that are under way while something tightens, what agents count of all that, and what kernels tell of it when they are asked.

mod cluster;
mod flows;
mod hits;
mod large;
mod talk;
mod trace;
mod verdicts;

use std::path::PathBuf;

use tortie_tests::lab::Lab;
use tortie_tests::root;

use cluster::Places;

/// The examples: the cluster, and each policy file.
fn examples() -> (PathBuf, Vec<PathBuf>) {
    let folder = root().join("tests/conformance/calico");
    let entries = std::fs::read_dir(&folder).expect("the folder of examples");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    let cluster = folder.join("cluster.yaml");
    files.retain(|file| *file != cluster);
    assert!(files.len() > 10, "{files:?}");
    (cluster, files)
}

fn text(path: &std::path::Path) -> &str {
    path.to_str().expect("a plain path")
}

#[test]
fn examples_mean_what_they_say() {
    let (cluster, files) = examples();
    let lab = Lab::up("calex", &[], &["--nodes", "2", "-f", text(&cluster)]);
    let places = Places::of(&lab);
    for file in files {
        let name = file.file_name().and_then(|name| name.to_str()).expect("a name");
        lab.run(&["lab", "apply", "-f", text(&file)]);
        let objects = verdicts::objects(&[cluster.clone(), file.clone()], &places);
        let explained = verdicts::explained(&objects, &places);
        verdicts::agree(name, &lab, &places, &explained, &verdicts::expected(&file));
        lab.run(&["lab", "delete", "-f", text(&file)]);
    }
}

#[test]
fn explain_names_the_rule_in_the_kernel() {
    let (cluster, files) = examples();
    let tiers = files.iter().find(|file| file.ends_with("04-tiers.yaml")).expect("the example of tiers");
    let lab = Lab::up("calrule", &[], &["--nodes", "2", "-f", text(&cluster), "-f", text(tiers)]);
    let ask = |from: &str| {
        lab.json(&["policy", "explain", "--from", from, "--to", "shop/web", "--protocol", "tcp", "--port", "80"])
    };
    let netns = lab.netns("node1");
    let listing = tortie_tests::kernel::run(&netns, "nft", &["-a", "list", "table", "inet", "tortie"]);
    for (from, verdict, policy, number) in
        [("dev/tool", "deny", "security.web", 1), ("dev/api", "allow", "shop/web", 1)]
    {
        let said = ask(from);
        let ingress = &said["ingress"];
        assert_eq!((&ingress["verdict"], &ingress["policy"]), (&verdict.into(), &policy.into()), "{said:#}");
        assert_eq!(ingress["ruleNumber"], number, "{said:#}");
        let rules = said["nftRules"].as_array().unwrap_or_else(|| panic!("no rule: {said:#}"));
        assert!(!rules.is_empty(), "{said:#}");
        for rule in rules.iter().filter(|rule| rule["direction"] == "ingress") {
            assert_eq!(rule["node"], "node1");
            let end = format!(" # handle {}", rule["handle"]);
            assert!(listing.lines().any(|line| line.ends_with(&end)), "{end} is not in\n{listing}");
        }
    }
    // What no rule decides.
    let said = ask("shop/db");
    assert_eq!((&said["verdict"], &said["ingress"]["tier"]), (&"deny".into(), &"security".into()), "{said:#}");

    trace::tells_what_happens_and_leaves_nothing(&trace::Denied {
        lab: &lab,
        from: "dev/tool",
        to: "shop/web",
        by: "GlobalNetworkPolicy security.web ingress rule 1",
    });
}
