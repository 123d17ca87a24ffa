//! What a restarted agent makes of the table, routes and files that it finds: its own, an older or newer version's, or a stranger's.
//!
//! One node, watched by `nft monitor` and `ip monitor`; its agent is killed, something happens, and the agent comes back. All the while
//! packets flow ([`flows`]): what both the old and the new table allow must lose nothing, and what they deny must not pass.

mod flows;
mod hosts;
mod node;
mod versions;

use std::time::{Duration, Instant};

use flows::Flows;
use node::{Node, pod, policy};
use serde_json::{Value, json};
use tortie_tests::agent::PATIENCE;
use tortie_tests::kernel::{Commits, Ear, nft_script, objects, our_routes, run};
use versions::VERSIONS;

/// How many named objects that are not counters a version leaves at most: each is deleted by itself.
const OBJECTS: usize = 5;

/// How many transactions take over another version's table: the adoption or, where a plain table becomes an owned one, its difference,
/// the step aside and the new table; then objects that nobody needs any more, each by itself.
const TAKEOVER: usize = 3 + OBJECTS;

/// How often a table changes its owner.
const ROUNDS: usize = 8;

/// The two kinds of kernel, by the agent's flags.
const KERNELS: [&[&str]; 2] = [&[], &["--plain-table"]];

#[test]
fn with_nothing_changed_a_restart_is_silent() {
    let mut node = Node::up("silent");
    let flows = Flows::start(&node);
    for flags in KERNELS {
        // The first restart may make the table what this kind of kernel has.
        node.restart(flags);
        Flows::wait_for_counters(&node);
        let before = objects(node.netns());
        let (nft, ip) = (Ear::open(node.netns(), "nft"), Ear::open(node.netns(), "ip"));
        for _ in 0..3 {
            node.restart(flags);
        }
        let (nft, ip) = (nft.close(), ip.close());
        let after = objects(node.netns());
        assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
        for (name, before) in &before {
            let after = &after[name];
            assert_eq!(before.handles, after.handles, "{flags:?}: {name} was written again");
            assert_eq!(before.text, after.text, "{flags:?}: {name} was changed");
            let reset = before.packets.iter().zip(&after.packets).any(|(before, after)| before > after);
            assert!(!reset, "{flags:?}: counters of {name} began anew: {:?}, {:?}", before.packets, after.packets);
        }
        assert_eq!(ip, Vec::<String>::new(), "{flags:?}");
        let (generations, changes): (Vec<_>, Vec<_>) =
            nft.into_iter().partition(|line| line.starts_with("# new generation"));
        let adoptions = changes.iter().filter(|line| line.starts_with("add table inet tortie")).count();
        assert_eq!(adoptions, changes.len(), "{flags:?}: more than adoptions: {changes:#?}");
        assert!(generations.len() <= 3, "{flags:?}: three restarts, but {generations:#?}");
    }
    flows.stop();
}

#[test]
fn what_changed_while_nobody_ran_is_put_right_in_one_transaction() {
    for flags in KERNELS {
        let mut node = Node::up("changed");
        node.restart(flags);
        let flows = Flows::start(&node);
        let began = Instant::now();
        let mut cut = node.stream("late", "server", 7100);
        let applied = node.settle();
        let deadline = Instant::now() + PATIENCE;
        while cut.back.lock().expect("the log").arrived(began, Instant::now()) < 5 {
            assert!(Instant::now() < deadline, "the flow that is to be cut does not run");
            std::thread::sleep(Duration::from_millis(20));
        }
        let before = objects(node.netns());
        assert!(before.contains_key("chain egress"), "hardly a table: {:?}", before.keys());
        node.kill();

        // A permission goes, a pod goes, another policy comes.
        node.write(&policy(
            "server",
            &json!({"podSelector": {"matchLabels": {"app": "server"}},
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "client"}}}]}]}),
        ));
        node.write(&policy("more", &json!({"podSelector": {"matchLabels": {"app": "idle"}}, "ingress": []})));
        node.remove(&pod("gone", "idle"));
        // And a stranger has been here.
        let route = node.route_of("idle");
        run(node.netns(), "ip", &["route", "del", &route]);
        run(
            node.netns(),
            "ip",
            &["route", "add", "10.244.99.0/26", "via", "172.31.0.1", "proto", "80", "metric", "1024"],
        );
        run(node.netns(), "ip", &["route", "add", "10.98.0.0/26", "via", "172.31.0.1", "proto", "98"]);
        nft_script(
            node.netns(),
            "add chain inet tortie stranger\n\
             add rule inet tortie stranger counter\n\
             add rule inet tortie to_host jump stranger\n\
             add element inet tortie own4 { \"cali0\" . 10.0.0.1 }\n\
             add set inet tortie strangers { type ipv4_addr; }\n",
        );

        let commits = Commits::open(node.netns());
        node.start(flags);
        let again = node.settle();
        assert_ne!(applied, again, "the documents have changed");
        let settled = Instant::now();
        let commits = commits.close();
        // The adoption, where there is an owner, and the difference.
        assert!((1..=2).contains(&commits), "{flags:?}: more than the difference was written: {commits} transactions");
        let after = objects(node.netns());
        let touched: Vec<&String> = after
            .iter()
            // Where the stranger was is written as a whole.
            .filter(|(name, now)| {
                *name != "chain to_host"
                    && before.get(*name).is_some_and(|then| then.text == now.text && then.handles != now.handles)
            })
            .map(|(name, _)| name)
            .collect();
        assert_eq!(touched, Vec::<&String>::new(), "{flags:?}: what was right was written again");
        assert!(!after.keys().any(|name| name.contains("stranger")), "{flags:?}: left over: {:?}", after.keys());
        let routes = run(node.netns(), "ip", &["route"]);
        assert!(routes.contains(&format!("{route} ")) && !routes.contains("10.244.99.0/26"), "{flags:?}: {routes}");
        assert!(routes.contains("10.98.0.0/26"), "{flags:?}: a route of others is theirs: {routes}");

        // The flow whose permission went has stopped, though it was allowed when the agent died.
        std::thread::sleep(Duration::from_secs(1));
        cut.stop();
        for log in [&cut.forth, &cut.back] {
            let late = log.lock().expect("the log").passed().filter(|at| *at > settled).count();
            assert_eq!(late, 0, "{flags:?}: {late} packets passed after the permission went");
        }
        flows.stop();
    }
}

#[test]
fn the_table_of_another_version_is_taken_over_without_a_hole() {
    for flags in KERNELS {
        let mut node = Node::up("version");
        node.restart(flags);
        let mut flows = Flows::start(&node);
        for version in VERSIONS {
            node.kill();
            version.leave(node.netns());
            take_over(&mut node, &flows, flags, version.title);
        }
        node.kill();
        // Where a table is replaced as a whole, packets meet the old one's rules with empty maps for a moment.
        flows.excuse(|| versions::leave_in_other_words(node.netns()));
        take_over(&mut node, &flows, flags, "other words");
        flows.stop();
    }
}

#[test]
fn a_table_that_anyone_may_write_becomes_ours_without_a_hole() {
    let mut node = Node::up("owned");
    for round in 0..ROUNDS {
        node.kill();
        run(node.netns(), "nft", &["delete", "table", "inet", "tortie"]);
        node.start(&["--plain-table"]);
        node.settle();
        // At this pace a hole of a fraction of a millisecond shows within a few rounds.
        let flows = Flows::start_every(Duration::from_millis(1), &node);
        flows.wait_for_packets();
        node.kill();
        take_over(&mut node, &flows, &[], &format!("round {round}"));
        flows.stop();
    }
}

/// The agent comes, and nothing but its own is left.
fn take_over(node: &mut Node, flows: &Flows, flags: &[&str], title: &str) {
    let left = run(node.netns(), "nft", &["list", "table", "inet", "tortie"]);
    assert!(!left.contains("flags owner"), "{title}: it is somebody's: {left}");
    let commits = Commits::open(node.netns());
    node.start(flags);
    node.settle();
    let commits = commits.close();
    assert!((1..=TAKEOVER).contains(&commits), "{flags:?}: {title}: taken over in {commits} transactions");
    let now = run(node.netns(), "nft", &["list", "table", "inet", "tortie"]);
    let leftovers: Vec<&str> = now.lines().filter(|line| line.contains("v2")).collect();
    assert_eq!(leftovers, Vec::<&str>::new(), "{flags:?}: {title}: left over");
    if let Some(wrong) = flows.wrong(&[]) {
        panic!("{flags:?}: {title}: {wrong}");
    }
}

#[test]
fn files_of_newer_and_older_versions_are_read() {
    let mut node = Node::up("files");
    let flows = Flows::start(&node);
    node.kill();
    let handles =
        |node: &Node| -> Vec<u64> { objects(node.netns()).into_values().flat_map(|object| object.handles).collect() };
    let before = (handles(&node), our_routes(node.netns()));
    let mut seen = 0;
    for file in node.state_files() {
        let text = std::fs::read_to_string(&file).expect("a file");
        let Ok(Value::Object(mut object)) = serde_json::from_str::<Value>(&text) else { continue };
        object.insert("tomorrow".into(), json!({"deep": [1, {"x": null}]}));
        for key in ["spec", "metadata", "status"] {
            if let Some(Value::Object(part)) = object.get_mut(key) {
                part.insert("alsoNew".into(), json!(["text"]));
            }
        }
        std::fs::write(&file, Value::Object(object).to_string()).expect("a file");
        seen += 1;
    }
    assert!(seen > 12, "hardly any state: {:?}", node.state_files());
    node.start(&[]);
    node.settle();
    assert_eq!(node.problems(), json!([]), "a newer version's files");
    assert_eq!((handles(&node), our_routes(node.netns())), before, "a newer version's files");
    // Blocks of addresses that have fields of a newer version are written, too.
    node.lab.apply(&[pod("new", "idle")]);
    node.lab.delete(&[pod("new", "idle")]);
    node.settle();
    flows.stop();
}
