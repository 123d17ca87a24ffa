//! Flows that are under way when something tightens: those now denied stop at their next packet, those still allowed lose nothing.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tortie_tests::agent::PATIENCE;
use tortie_tests::lab::Lab;

use crate::cluster::{Places, account, calico, namespace, pod};
use crate::talk::{Over, Talk};

/// How long flows are looked at after a change.
const AFTER: Duration = Duration::from_millis(800);

/// Questions of the last moment may still be on their way.
const MOMENT: Duration = Duration::from_millis(500);

/// Something that takes away what `foe` may do, and nothing that `friend` may.
struct Tightening {
    what: &'static str,
    /// What is in force before.
    before: Vec<Value>,
    /// What is applied.
    after: Vec<Value>,
}

const FOE: &str = "app == 'foe'";
const SERVER: &str = "app == 'server'";

/// A policy of a tier for the server, with one rule for those whom `source` picks.
fn policy(name: &str, tier: &str, order: u32, action: &str, source: &Value) -> Value {
    let spec = json!({"tier": tier, "order": order, "selector": SERVER, "types": ["Ingress"],
        "ingress": [{"action": action, "source": source}]});
    calico("GlobalNetworkPolicy", &format!("{tier}.{name}"), &spec)
}

fn tier(name: &str, order: u32) -> Value {
    calico("Tier", name, &json!({"order": order}))
}

/// A tier that leaves to the next what its policies do not decide.
fn passing_tier(name: &str, order: u32) -> Value {
    calico("Tier", name, &json!({"order": order, "defaultAction": "Pass"}))
}

fn allow(source: &Value) -> Value {
    policy("allow", "team", 10, "Allow", source)
}

fn everybody() -> Value {
    allow(&json!({"selector": "app in {'friend', 'foe'}"}))
}

fn tightenings(places: &Places) -> Vec<Tightening> {
    let foe = json!({"selector": FOE});
    let block = |tier: &str, order| policy("block", tier, order, "Deny", &foe);
    let staged = |kind: &str| {
        calico(
            kind,
            "team.block",
            &json!({"tier": "team", "order": 5, "selector": SERVER, "types": ["Ingress"],
            "ingress": [{"action": "Deny", "source": {"selector": FOE}}]}),
        )
    };
    let clients = |pods: &[&str]| {
        let nets: Vec<String> = pods.iter().map(|pod| format!("{}/32", places.ip(pod))).collect();
        let mut set = calico("GlobalNetworkSet", "clients", &json!({"nets": nets}));
        set["metadata"]["labels"] = json!({"clients": "yes"});
        set
    };
    let admin = json!({"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": "no-foe"}, "spec": {"tier": "Admin", "priority": 1,
            "subject": {"pods": {"podSelector": {"matchLabels": {"app": "server"}}}},
            "ingress": [{"action": "Deny", "from": [{"pods": {"podSelector": {"matchLabels": {"app": "foe"}}}}]}]}});
    let by_label = || allow(&json!({"selector": "access == 'yes'"}));
    let by_namespace = || allow(&json!({"namespaceSelector": "trusted == 'yes'"}));
    let by_account = || allow(&json!({"serviceAccounts": {"selector": "trusted == 'yes'"}}));
    let tightening = |what, before: Vec<Value>, after: Vec<Value>| Tightening { what, before, after };
    vec![
        tightening("a rule allows fewer", vec![everybody()], vec![allow(&json!({"selector": "app == 'friend'"}))]),
        tightening("a policy comes before", vec![everybody()], vec![block("team", 5)]),
        tightening("an order changes", vec![everybody(), block("team", 20)], vec![block("team", 5)]),
        tightening(
            "tiers change places",
            vec![everybody(), passing_tier("late", 3000), block("late", 1)],
            vec![passing_tier("late", 1500)],
        ),
        tightening(
            "a staged policy is made real",
            vec![everybody(), staged("StagedGlobalNetworkPolicy")],
            vec![staged("GlobalNetworkPolicy")],
        ),
        tightening("a pod's label goes", vec![by_label()], vec![foe_pod(false)]),
        tightening(
            "a member leaves a set",
            vec![allow(&json!({"selector": "clients == 'yes'"})), clients(&["home/friend", "guests/foe"])],
            vec![clients(&["home/friend"])],
        ),
        tightening("a namespace's label goes", vec![by_namespace()], vec![namespace("guests", &json!({}))]),
        tightening("a service account's label goes", vec![by_account()], vec![account("guests", "foe", &json!({}))]),
        tightening("a ClusterNetworkPolicy comes", vec![everybody()], vec![admin]),
    ]
}

fn foe_pod(access: bool) -> Value {
    let labels = if access { json!({"app": "foe", "access": "yes"}) } else { json!({"app": "foe"}) };
    pod("guests", "foe", "node2", &labels, "foe", &json!([{"containerPort": 80}]))
}

/// What pods, namespaces and accounts say when nothing is taken away.
fn cluster() -> Vec<Value> {
    let ports = json!([{"containerPort": 80}]);
    let trusted = json!({"trusted": "yes"});
    let friend = json!({"app": "friend", "access": "yes"});
    vec![
        namespace("home", &trusted),
        namespace("guests", &trusted),
        account("home", "friend", &trusted),
        account("guests", "foe", &trusted),
        pod("home", "server", "node1", &json!({"app": "server"}), "default", &ports),
        pod("home", "friend", "node2", &friend, "friend", &ports),
        foe_pod(true),
        // Behind the tier of administrators, whose order is 1,000.
        tier("team", 2000),
    ]
}

/// Whether a document is one that the cluster is made of, and so is put back rather than deleted.
fn is_of_the_cluster(document: &Value) -> bool {
    let same = |other: &Value| {
        ["apiVersion", "kind"].iter().all(|field| document[*field] == other[*field])
            && ["name", "namespace"].iter().all(|field| document["metadata"][*field] == other["metadata"][*field])
    };
    cluster().iter().any(same)
}

#[test]
fn whatever_tightens_stops_what_it_denies_and_nothing_else() {
    let lab = Lab::up("calflow", &cluster(), &["--nodes", "2"]);
    let places = Places::of(&lab);
    let server = (places.netns("home/server"), places.ip("home/server"));
    let over = Over::all();
    for Tightening { what, before, after } in tightenings(&places) {
        lab.apply(&before);
        let begin = |pod: &str| {
            over.iter().copied().map(|over| Talk::start(over, places.netns(pod), server)).collect::<Vec<_>>()
        };
        let (mut friends, mut foes) = (begin("home/friend"), begin("guests/foe"));
        let deadline = Instant::now() + PATIENCE;
        for (who, talk) in friends.iter().map(|talk| ("friend", talk)).chain(foes.iter().map(|talk| ("foe", talk))) {
            while talk.answered() < 10 {
                assert!(Instant::now() < deadline, "{what}: {:?} of {who} is allowed and not answered", talk.over);
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        lab.apply(&after);
        let applied = Instant::now();
        std::thread::sleep(AFTER);
        for talk in &foes {
            let late = talk.answered_since(applied);
            assert_eq!(late, 0, "{what}: {:?} of foe was answered after it was denied", talk.over);
        }
        for talk in &friends {
            // Whatever a busy machine delays comes in the end.
            while talk.answered_since(applied) < 10
                || (matches!(talk.over, Over::Tcp | Over::Sctp) && talk.lost(MOMENT) > 0)
            {
                assert!(Instant::now() < deadline, "{what}: {:?} of friend, which stays allowed, stopped", talk.over);
                std::thread::sleep(Duration::from_millis(20));
            }
            assert_eq!(talk.lost(MOMENT), 0, "{what}: {:?} of friend, which stays allowed, lost questions", talk.over);
        }
        friends.iter_mut().chain(&mut foes).for_each(Talk::stop);
        let mut gone: Vec<Value> = Vec::new();
        for document in before.iter().chain(&after).filter(|document| !is_of_the_cluster(document)) {
            let key = |it: &Value| (it["kind"].clone(), it["metadata"]["name"].clone());
            if !gone.iter().any(|known| key(known) == key(document)) {
                gone.push(document.clone());
            }
        }
        lab.delete(&gone);
        lab.apply(&cluster());
    }
    those_that_exist_may_be_kept(&lab, &places);
}

fn existing_connections(what: &str) -> Value {
    calico("FelixConfiguration", "default", &json!({"policyExistingConnections": what}))
}

/// With `policyExistingConnections: Keep` flows outlast what allowed them, and no new ones come; `Reevaluate` ends them.
fn those_that_exist_may_be_kept(lab: &Lab, places: &Places) {
    let server = (places.netns("home/server"), places.ip("home/server"));
    lab.apply(&[everybody(), existing_connections("Keep")]);
    let mut kept: Vec<Talk> =
        Over::all().into_iter().map(|over| Talk::start(over, places.netns("guests/foe"), server)).collect();
    let go_on = |kept: &[Talk], since: Instant, why: &str| {
        let deadline = Instant::now() + PATIENCE;
        for talk in kept {
            while talk.answered_since(since) < 10 {
                assert!(Instant::now() < deadline, "{why}: {:?} does not go on", talk.over);
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    };
    go_on(&kept, Instant::now(), "before anything changes");
    lab.apply(&[allow(&json!({"selector": "app == 'friend'"}))]);
    let applied = Instant::now();
    let new = Talk::start(Over::Udp, places.netns("guests/foe"), server);
    std::thread::sleep(AFTER);
    go_on(&kept, applied, "Keep");
    for talk in kept.iter().filter(|talk| matches!(talk.over, Over::Tcp | Over::Sctp)) {
        assert_eq!(talk.lost(MOMENT), 0, "{:?}, which is kept, lost questions", talk.over);
    }
    assert_eq!(new.answered(), 0, "a new flow is not one that exists");
    lab.apply(&[existing_connections("Reevaluate")]);
    let applied = Instant::now();
    std::thread::sleep(AFTER);
    for talk in &kept {
        assert_eq!(talk.answered_since(applied), 0, "{:?} was answered after flows were to be judged anew", talk.over);
    }
    kept.iter_mut().for_each(Talk::stop);
}
