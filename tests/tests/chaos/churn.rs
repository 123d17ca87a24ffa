//! Thousands of pods elsewhere appear, change what they are, and vanish, as fast as the agent's files can be written, while its own pods
//! speak. Not one of their packets may suffer, and in the end nothing tells that the thousands were there.
//!
//! They are pods of a node that the lab does not have, written into the datastore by the file, each file replaced at once. Their addresses
//! were published before, as nobody but agents says which addresses a pod has.
//! `TORTIE_LONG=1` makes them ten thousand.

use std::fmt::Write as _;
use std::time::Instant;

use serde_json::{Value, json};

use crate::Chance;
use crate::cluster::{Cluster, key};
use crate::traffic::Traffic;

/// In how many files they are, so that a change of one concerns but a part of them.
const FILES: usize = 4;

/// How often they change between two looks.
const ROUNDS: usize = 3;

const COLOURS: [&str; 3] = ["red", "green", "blue"];

/// About half of a file's pods, or all of them, each of a colour by chance.
fn pods(chance: &mut Chance, file: usize, count: usize) -> String {
    let mut text = String::new();
    let all = chance.below(2) == 0;
    for number in 0..count {
        if !all && chance.below(2) == 0 {
            continue;
        }
        let place = file * count + number;
        let [v4, v6] = addresses(place);
        let pod = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": format!("pod{place}"), "namespace": "churn", "labels": {"colour": chance.pick(&COLOURS)}},
            "spec": {"nodeName": "elsewhere", "containers": [{"name": "c", "image": "serve"}]},
            "status": {"podIPs": [{"ip": v4}, {"ip": v6}]}});
        writeln!(text, "{pod}\n---").expect("text grows");
    }
    text
}

/// Says which addresses the pods have, as the agent of their node would.
fn publish(cluster: &Cluster, count: usize) {
    let folder = cluster.lab.path("datastore/.tortie/pods/churn");
    std::fs::create_dir_all(&folder).expect("a folder");
    for place in 0..count {
        let name = format!("pod{place}");
        let publication = json!({"namespace": "churn", "name": name, "podIPs": addresses(place)});
        std::fs::write(folder.join(format!("{name}.json")), publication.to_string()).expect("written");
    }
}

/// The addresses of the pod of that number.
fn addresses(place: usize) -> [String; 2] {
    let (high, low) = (place / 250, place % 250 + 1);
    [format!("10.99.{high}.{low}"), format!("fd99::{high:x}:{low:x}")]
}

/// Their namespace, and policies whose peers they are.
fn policies() -> Vec<Value> {
    let peer = |colour: &str| json!({"namespaceSelector": {"matchLabels": {"team": "churn"}}, "podSelector": {"matchLabels": {"colour": colour}}});
    let policy = |name: &str, spec: Value| {
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": name, "namespace": "chaos"}, "spec": spec})
    };
    vec![
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "churn", "labels": {"team": "churn"}}}),
        policy(
            "churn-in",
            json!({"podSelector": {"matchLabels": {"app": "server"}}, "ingress": [
                {"from": [peer("red")], "ports": [{"protocol": "UDP", "port": 9000}]}, {"from": [peer("green"), peer("blue")]}]}),
        ),
        policy(
            "churn-out",
            json!({"podSelector": {"matchLabels": {"app": "client"}}, "policyTypes": ["Egress"], "egress": [{"to": [peer("blue")]}]}),
        ),
    ]
}

impl Cluster {
    /// Replaces a file of the datastore at once, or takes it away.
    fn replace(&mut self, name: &str, text: Option<String>) {
        let path = self.lab.path("datastore").join(name);
        if let Some(text) = text {
            let new = path.with_extension("new");
            std::fs::write(&new, &text).expect("written");
            std::fs::rename(&new, &path).expect("in place");
            self.files.insert(name.to_owned(), text);
        } else {
            std::fs::remove_file(&path).expect("it was there");
            self.files.remove(name);
        }
    }
}

#[test]
fn thousands_of_pods_that_come_change_and_go_disturb_nobody() {
    let count = if tortie_tests::long() { 10_000 } else { 2_000 } / FILES;
    let mut chance = Chance(crate::seed());
    let mut cluster = Cluster::up(1);
    let policies = policies();
    Cluster::finish(cluster.start("apply", &policies)).expect("policies");
    cluster.documents.extend(policies.into_iter().map(|document| (key(&document), document)));
    cluster.wait_until_settled("the start");
    publish(&cluster, FILES * count);
    let before = cluster.rendered();
    let mut traffic = Traffic::start(&cluster);
    let began = Instant::now();
    for time in 0..2 {
        let title = format!("churn {time}");
        traffic.enter(&title);
        for _ in 0..ROUNDS {
            for file in 0..FILES {
                let text = pods(&mut chance, file, count);
                cluster.replace(&format!("churn{file}.yaml"), Some(text));
            }
        }
        cluster.wait_until_settled(&title);
        let pods: usize = cluster.files.values().map(|text| text.lines().filter(|line| *line != "---").count()).sum();
        let addresses = cluster.rendered().matches("10.99.").count();
        println!("{:8.2} s  {pods} pods, named {addresses} times", began.elapsed().as_secs_f64());
        assert!(addresses >= pods, "{pods} pods are peers, but only {addresses} addresses are in the table");
        for file in 0..FILES {
            cluster.replace(&format!("churn{file}.yaml"), None);
        }
        cluster.wait_until_settled(&format!("after {title}"));
        traffic.check(&title, Vec::new());
    }
    assert_eq!(cluster.rendered(), before, "something is left of them");
    traffic.stop("the end");
    println!("{:8.2} s  done", began.elapsed().as_secs_f64());
}
