//! The Kubernetes datastore against a real API server: what it tells, and that it misses nothing, whatever becomes of the server.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tortie_api::{Kind, Object, ObjectKey};
use tortie_datastore::kubernetes::Kubernetes;
use tortie_datastore::{Batch, Change, Datastore, Error};
use tortie_tests::k8s::{ApiServer, Options};
use tortie_tests::root;

/// Long enough for a loaded machine, on which an API server starts anew; nothing waits this long unless it fails.
const PATIENCE: Duration = Duration::from_secs(90);

/// A watch, and what it has told.
struct Follower {
    batches: mpsc::Receiver<Batch>,
    objects: BTreeMap<ObjectKey, Object>,
    last: Batch,
}

impl Follower {
    async fn new(datastore: &Kubernetes) -> Self {
        let batches = datastore.watch().await.expect("a watch");
        let mut this = Self { batches, objects: BTreeMap::new(), last: Batch::default() };
        this.until("it is in sync", |this| this.last.in_sync).await;
        this
    }

    async fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !holds(self) {
            let batch = tokio::time::timeout_at(deadline, self.batches.recv()).await;
            let batch =
                batch.unwrap_or_else(|_| panic!("in vain: {what}; the last problems: {:?}", self.last.problems));
            let mut batch = batch.expect("the watch goes on");
            for change in std::mem::take(&mut batch.changes) {
                match change {
                    Change::Upsert(object) => drop(self.objects.insert(object.key(), object)),
                    Change::Delete(key) => drop(self.objects.remove(&key)),
                }
            }
            self.last = batch;
        }
    }

    fn has(&self, kind: Kind, namespace: Option<&str>, name: &str) -> bool {
        self.objects.contains_key(&key(kind, namespace, name))
    }

    fn problem(&self, part: &str) -> bool {
        self.last.problems.iter().any(|problem| format!("{}: {}", problem.place, problem.message).contains(part))
    }
}

fn key(kind: Kind, namespace: Option<&str>, name: &str) -> ObjectKey {
    ObjectKey { kind, namespace: namespace.map(str::to_owned), name: name.to_owned() }
}

async fn datastore(server: &ApiServer) -> Kubernetes {
    Kubernetes::new(Some(&server.kubeconfig()), "one").await.expect("a kubeconfig")
}

pub(crate) fn apply_crds(server: &ApiServer) {
    let crds = root().join("deploy/crds");
    server.kubectl(&["apply", "--server-side", "-k", crds.to_str().expect("a plain path")]);
    server.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"]);
}

fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

fn pod(name: &str, node: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
        "spec": {"nodeName": node, "serviceAccountName": "default", "containers": [
            {"name": "c", "image": "i", "ports": [{"name": "http", "containerPort": 80}, {"containerPort": 81}]}]}})
}

fn policy(name: &str) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name, "namespace": "default"},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"]}})
}

fn service_account() -> Value {
    json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": "default"}})
}

/// A test's future, on a runtime of its own.
pub(crate) fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(test);
}

/// Lists what there is, tells what changes and what goes, with and without streaming lists.
fn tells_what_there_is(flags: &[&str]) {
    let server = ApiServer::start_with(&Options {
        flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
        ..Options::default()
    });
    run(async {
        let names: Vec<String> = (0..1200).map(|number| format!("ns-{number}")).collect();
        server.apply(&names.iter().map(|name| namespace(name)).collect::<Vec<_>>());
        server.apply(&[service_account(), pod("elsewhere", "two"), pod("here", "one"), policy("p")]);
        let datastore = datastore(&server).await;
        let mut follower = Follower::new(&datastore).await;
        for name in &names {
            assert!(follower.has(Kind::Namespace, None, name), "{name} is missing after the list");
        }
        assert!(follower.has(Kind::NetworkPolicy, Some("default"), "p"));
        let ports = |follower: &Follower, name: &str| match &follower.objects[&key(Kind::Pod, Some("default"), name)] {
            Object::Pod(pod) => pod.spec.containers.iter().map(|container| container.ports.len()).sum::<usize>(),
            other => panic!("{other:?}"),
        };
        assert_eq!(
            (ports(&follower, "here"), ports(&follower, "elsewhere")),
            (2, 1),
            "elsewhere names are what counts"
        );

        server.apply(&[policy("q")]);
        follower.until("a new policy", |now| now.has(Kind::NetworkPolicy, Some("default"), "q")).await;
        server.kubectl(&["delete", "networkpolicy", "p"]);
        follower.until("a policy goes", |now| !now.has(Kind::NetworkPolicy, Some("default"), "p")).await;
    });
}

#[test]
fn a_streamed_list_and_its_changes() {
    tells_what_there_is(&[]);
}

#[test]
fn a_list_in_pages_and_its_changes() {
    tells_what_there_is(&["--feature-gates=WatchList=false"]);
}

#[test]
fn custom_resources_come_when_their_definitions_do_and_unsound_ones_leave_the_last_good_version() {
    let server = ApiServer::start();
    run(async {
        let datastore = datastore(&server).await;
        // Without the definitions there is nothing to wait for.
        let mut follower = Follower::new(&datastore).await;
        apply_crds(&server);
        let tier = |order: Value| json!({"apiVersion": "projectcalico.org/v3", "kind": "Tier", "metadata": {"name": "security"}, "spec": {"order": order}});
        server.apply(&[tier(json!(100))]);
        follower.until("a tier of a new definition", |now| now.has(Kind::Tier, None, "security")).await;

        // What a definition lets through and we do not: an older one may be laxer than we are.
        let lax = json!([{"op": "replace", "path": "/spec/versions/0/schema/openAPIV3Schema",
            "value": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}]);
        server.kubectl(&["patch", "crd", "tiers.projectcalico.org", "--type=json", "-p", &lax.to_string()]);
        let deadline = std::time::Instant::now() + PATIENCE;
        while server.try_apply(&[tier(json!("first"))]).is_err() {
            assert!(std::time::Instant::now() < deadline, "the definition does not get lax");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        follower.until("a complaint", |now| now.problem("Tier security: spec.order")).await;
        assert!(follower.has(Kind::Tier, None, "security"), "the last good version stays");
        server.apply(&[tier(json!(100))]);
        follower.until("no complaint", |now| !now.problem("Tier security")).await;
        server.apply(&[tier(json!("first"))]);
        follower.until("a complaint", |now| now.problem("Tier security: spec.order")).await;
        server.kubectl(&["delete", "tiers.projectcalico.org", "security"]);
        follower
            .until("it is gone, and what was wrong with it", |now| {
                !now.has(Kind::Tier, None, "security") && !now.problem("Tier security")
            })
            .await;
    });
}

#[test]
fn a_server_that_restarts_goes_or_goes_back_in_time_is_caught_up_with() {
    let server = ApiServer::start();
    run(async {
        server.apply(&[policy("kept")]);
        server.save("before");
        let datastore = datastore(&server).await;
        let mut follower = Follower::new(&datastore).await;

        // A new server's memory of events begins with its start: the old version is too old for it now and then.
        server.restart();
        server.apply(&[policy("after-restart")]);
        follower
            .until("a policy after a restart", |now| now.has(Kind::NetworkPolicy, Some("default"), "after-restart"))
            .await;

        server.stop();
        let mut troubled = false;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !troubled {
            let batch = tokio::time::timeout_at(deadline, follower.batches.recv()).await.expect("word of the trouble");
            let batch = batch.expect("the watch goes on");
            assert!(batch.changes.is_empty() && batch.in_sync, "nothing changes without a server: {batch:?}");
            troubled = batch.problems.iter().any(|problem| problem.place.starts_with("the API server"));
        }
        server.restore("before");
        // The new past overtakes the old one before anybody is back: by the version alone nothing would be noticed.
        let writes = |number| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("c{number}"), "namespace": "default"}});
        server.apply(&(0..60).map(writes).collect::<Vec<Value>>());
        follower
            .until("what the restored server does not have is gone", |now| {
                !now.has(Kind::NetworkPolicy, Some("default"), "after-restart")
            })
            .await;
        assert!(follower.has(Kind::NetworkPolicy, Some("default"), "kept"));
        server.apply(&[policy("after-restore")]);
        follower
            .until("a policy after a restore", |now| now.has(Kind::NetworkPolicy, Some("default"), "after-restore"))
            .await;
        follower.until("all is well", |now| !now.problem("the API server")).await;
    });
}

#[test]
fn writes_compare_and_swap() {
    let server = ApiServer::start();
    apply_crds(&server);
    run(async {
        let datastore = datastore(&server).await;
        let block = |json: Value| tortie_api::decode_as(Kind::IpamBlock, &json.to_string()).expect("a block");
        let new = block(json!({"metadata": {"name": "10-244-0-0-30"},
            "spec": {"cidr": "10.244.0.0/30", "affinity": "host:one", "allocations": [null, null, null, null],
                "unallocated": [0, 1, 2, 3], "attributes": [], "strictAffinity": false}}));
        let created = datastore.create(&new).await.expect("it is new");
        assert!(matches!(datastore.create(&new).await, Err(Error::AlreadyExists(_))));
        let Object::IpamBlock(mut block) = created.clone() else { panic!("{created:?}") };
        block.spec.allocations[0] = Some(0);
        block.spec.unallocated = vec![1, 2, 3];
        let holder = json!({"handle_id": "h", "secondary": {"pod": "p"}});
        block.spec.attributes.push(serde_json::from_value(holder).expect("a holder"));
        let updated = datastore.update(&Object::IpamBlock(block.clone())).await.expect("the version is right");
        let Object::IpamBlock(read) = datastore.get(&new.key()).await.expect("it is there") else { panic!() };
        assert_eq!((&read.spec.allocations, &read.spec.attributes), (&block.spec.allocations, &block.spec.attributes));
        // The version of before, and none at all.
        assert!(matches!(datastore.update(&Object::IpamBlock(block.clone())).await, Err(Error::Conflict(_))));
        block.metadata.resource_version = None;
        assert!(matches!(datastore.update(&Object::IpamBlock(block.clone())).await, Err(Error::Conflict(_))));
        // What others keep in the metadata survives.
        let patch = |patch: &str| {
            let name = "10-244-0-0-30";
            server.kubectl(&["patch", "ipamblocks.projectcalico.org", name, "--type=merge", "-p", patch])
        };
        patch(r#"{"metadata": {"finalizers": ["example.org/x"], "labels": {"theirs": "1"}}}"#);
        assert!(matches!(datastore.update(&updated).await, Err(Error::Conflict(_))));
        let now = datastore.get(&new.key()).await.expect("it is there");
        datastore.update(&now).await.expect("the version is right");
        let metadata = &server.get(&["ipamblocks.projectcalico.org", "10-244-0-0-30"])["metadata"];
        assert_eq!((&metadata["finalizers"][0], &metadata["labels"]["theirs"]), (&json!("example.org/x"), &json!("1")));
        patch(r#"{"metadata": {"finalizers": null}}"#);
        let now = datastore.get(&new.key()).await.expect("it is there");
        let version = |object: &Object| object.metadata().resource_version.clone().expect("a version");
        assert!(matches!(datastore.delete(&new.key(), &version(&created)).await, Err(Error::Conflict(_))));
        datastore.delete(&new.key(), &version(&now)).await.expect("the version is right");
        assert!(matches!(datastore.get(&new.key()).await, Err(Error::NotFound(_))));
        assert!(matches!(datastore.delete(&new.key(), &version(&now)).await, Err(Error::NotFound(_))));
        assert!(matches!(datastore.update(&now).await, Err(Error::NotFound(_) | Error::Conflict(_))));
        assert_eq!(datastore.list(Kind::IpamBlock).await.expect("a list"), []);
    });
}

#[test]
fn a_pods_addresses_are_known_to_all_at_once_and_taken_back_by_their_publisher_alone() {
    let server = ApiServer::start();
    server.apply(&[service_account(), pod("p", "two")]);
    run(async {
        let datastore = datastore(&server).await;
        let mut follower = Follower::new(&datastore).await;
        let ips: [IpAddr; 2] = ["10.244.0.5", "fd00::5"].map(|ip| ip.parse().expect("an address"));
        datastore.publish_pod_ips("default", "p", "container-a", &ips).await.expect("the pod is there");
        let addresses = |now: &Follower| match now.objects.get(&key(Kind::Pod, Some("default"), "p")) {
            Some(Object::Pod(pod)) => pod.addresses(),
            _ => Vec::new(),
        };
        follower.until("the pod's addresses", |now| addresses(now) == ips).await;
        let annotations = || server.get(&["pod", "p"])["metadata"]["annotations"].clone();
        assert_eq!(annotations()["cni.projectcalico.org/podIPs"], "10.244.0.5,fd00::5");
        datastore.withdraw_pod_ips("default", "p", "container-of-before").await.expect("nothing to do");
        assert_eq!(annotations()["cni.projectcalico.org/podIPs"], "10.244.0.5,fd00::5");
        datastore.withdraw_pod_ips("default", "p", "container-a").await.expect("it is there");
        assert_eq!(annotations()["cni.projectcalico.org/podIPs"], "");
        datastore.withdraw_pod_ips("default", "gone", "container-a").await.expect("nothing to do");
        assert!(matches!(datastore.publish_pod_ips("default", "gone", "c", &ips).await, Err(Error::NotFound(_))));
    });
}

#[test]
fn one_leads_until_it_steps_down_or_is_cut_off() {
    let server = ApiServer::start();
    run(async {
        let store = [datastore(&server).await, datastore(&server).await];
        let first = store[0].lead("controller", "one").await.expect("nobody else leads");
        let lease = || server.get(&["lease", "tortie-controller", "-n", "kube-system"])["spec"].clone();
        assert_eq!(lease()["holderIdentity"], "one");
        let mut second = Box::pin(store[1].lead("controller", "two"));
        let soon = tokio::time::timeout(Duration::from_secs(20), &mut second).await;
        assert!(soon.is_err() && !first.is_lost(), "the first holds on");
        drop(first);
        let mut second = tokio::time::timeout(PATIENCE, second).await.expect("its turn comes").expect("it may lead");
        assert_eq!((&lease()["holderIdentity"], &lease()["leaseTransitions"]), (&json!("two"), &json!(1)));
        server.stop();
        let lost = tokio::time::timeout(Duration::from_secs(15), second.lost()).await;
        assert!(lost.is_ok() && second.is_lost(), "it stops before its Lease runs out");
    });
}

/// Definitions as older Calicos have them: their own group, and no schema to speak of.
fn apply_calicos_storage(server: &ApiServer) {
    let definition = |kind: &str, plural: &str| {
        let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{plural}.crd.projectcalico.org")},
            "spec": {"group": "crd.projectcalico.org", "scope": "Cluster", "names": {"kind": kind, "plural": plural},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}})
    };
    server.apply(&[
        definition("GlobalNetworkSet", "globalnetworksets"),
        definition("IPAMBlock", "ipamblocks"),
        definition("IPAMConfig", "ipamconfigs"),
        definition("BlockAffinity", "blockaffinities"),
    ]);
    server.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"]);
}

#[test]
fn calicos_storage_is_read_and_written_where_it_is_served() {
    let server = ApiServer::start();
    apply_calicos_storage(&server);
    let stored = |kind: &str, metadata: Value, spec: Value| json!({"apiVersion": "crd.projectcalico.org/v1", "kind": kind, "metadata": metadata, "spec": spec});
    let metadata = json!({"name": "s", "annotations": {"projectcalico.org/metadata": r#"{"labels":{"zone":"a"}}"#}});
    server.apply(&[
        stored("GlobalNetworkSet", metadata, json!({"nets": ["192.0.2.0/24"]})),
        stored("IPAMConfig", json!({"name": "default"}), json!({"strictAffinity": true, "autoAllocateBlocks": true})),
    ]);
    run(async {
        let datastore = datastore(&server).await;
        let follower = Follower::new(&datastore).await;
        let set = &follower.objects[&key(Kind::GlobalNetworkSet, None, "s")];
        assert_eq!(set.metadata().labels["zone"], "a", "the labels are those of the annotation");
        let settings =
            datastore.get(&key(Kind::IpamConfiguration, None, "default")).await.expect("it is IPAMConfig there");
        assert!(matches!(settings, Object::IpamConfiguration(settings) if settings.spec.strict_affinity));

        let affinity = json!({"metadata": {"name": "one-10-244-0-0-26"},
            "spec": {"state": "pending", "node": "one", "cidr": "10.244.0.0/26", "type": "host", "deleted": false}});
        let affinity = tortie_api::decode_as(Kind::BlockAffinity, &affinity.to_string()).expect("an affinity");
        let Object::BlockAffinity(mut created) = datastore.create(&affinity).await.expect("it is new") else {
            panic!()
        };
        created.spec.state = tortie_api::calico::AffinityState::Confirmed;
        datastore.update(&Object::BlockAffinity(created)).await.expect("the version is right");
        let spec = &server.get(&["blockaffinities.crd.projectcalico.org", "one-10-244-0-0-26"])["spec"];
        assert_eq!(
            (&spec["state"], spec["deleted"].is_boolean()),
            (&json!("confirmed"), false),
            "a text, as Calico has it"
        );
    });
}
