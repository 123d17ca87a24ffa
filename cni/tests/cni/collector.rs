//! What the controller gives back, and what it leaves alone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tortie_api::Kind;
use tortie_cni::ipam::collector::{Collector, Scan, give_address_back};
use tortie_cni::ipam::{Claim, Ipam, RequestedPools};
use tortie_datastore::Datastore;

use crate::memory::{Memory, pool};

const GRACE: Duration = Duration::from_secs(900);

struct Cluster {
    store: Arc<Memory>,
    start: Instant,
}

impl Cluster {
    /// Two nodes, blocks of two addresses.
    fn new() -> Self {
        let objects = [pool("p", "10.1.0.0/28", &json!({"blockSize": 31})), node("one"), node("two")];
        Self { store: Arc::new(Memory::with(&objects)), start: Instant::now() }
    }

    /// Gives a pod an address on a node; whether the pod is there is another thing.
    async fn assign(&self, node: &str, pod: &str) -> String {
        let claim = Claim {
            handle: format!("tortie.{pod}.eth0"),
            namespace: "web".into(),
            pod: pod.into(),
            pinned: None,
            pools: RequestedPools::default(),
            tunnel: None,
        };
        let ips = Ipam::new(Arc::clone(&self.store) as _, node).assign(&claim).await.expect("an address");
        ips[0].to_string()
    }

    fn collector(&self) -> Collector {
        Collector::new(Arc::clone(&self.store) as _, "one")
    }

    async fn scan(&self, collector: &mut Collector, minutes: u64) -> Scan {
        collector.scan(self.start + Duration::from_secs(minutes * 60), GRACE).await.expect("a scan")
    }

    async fn count(&self, kind: Kind) -> usize {
        self.store.list(kind).await.expect("a list").len()
    }
}

fn node(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
}

fn pod(name: &str, node: &str, ip: Option<&str>) -> Value {
    let ips: Vec<Value> = ip.iter().map(|ip| json!({"ip": ip})).collect();
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "web", "name": name},
        "spec": {"nodeName": node, "containers": [{"name": "c"}]}, "status": {"podIPs": ips}})
}

fn returned(scan: &Scan) -> Vec<String> {
    let mut ips: Vec<String> = scan.returned.iter().map(|leak| leak.ip.to_string()).collect();
    ips.sort();
    ips
}

#[tokio::test]
async fn what_no_pod_has_is_returned_after_two_scans_and_the_grace_period() {
    let cluster = Cluster::new();
    let mut collector = cluster.collector();
    let gone = cluster.assign("one", "gone").await;
    let other = cluster.assign("one", "other").await;
    let moved = cluster.assign("two", "moved").await;
    let here = cluster.assign("two", "here").await;
    let young = cluster.assign("one", "young").await;
    cluster.store.put(&pod("other", "one", Some("10.9.9.9")));
    cluster.store.put(&pod("moved", "one", None));
    cluster.store.put(&pod("here", "two", Some(&here)));
    cluster.store.put(&pod("young", "one", None));
    let scan = cluster.scan(&mut collector, 0).await;
    assert_eq!((scan.leaks.len(), scan.returned.len()), (3, 0));
    let proofs: Vec<String> = scan.leaks.iter().map(ToString::to_string).collect();
    for (ip, words) in [
        (&gone, "handle tortie.gone.eth0) is allocated to web/gone on one: there is no such pod"),
        (&other, "is allocated to web/other on one: the pod of that name has 10.9.9.9"),
        (&moved, "is allocated to web/moved on two: the pod of that name runs on node one"),
    ] {
        assert!(proofs.iter().any(|proof| proof.starts_with(ip) && proof.contains(words)), "{words}: {proofs:?}");
    }
    assert!(cluster.scan(&mut collector, 14).await.returned.is_empty(), "not for long enough yet");
    // One that leads from now on begins to count anew.
    let mut successor = cluster.collector();
    assert!(cluster.scan(&mut successor, 30).await.returned.is_empty());
    let scan = cluster.scan(&mut collector, 16).await;
    let mut want = vec![gone, other, moved];
    want.sort();
    assert_eq!(returned(&scan), want);
    assert_eq!(cluster.count(Kind::IpamHandle).await, 2, "of the two that are left");
    let scan = cluster.scan(&mut collector, 60).await;
    assert!(scan.leaks.is_empty());
    assert_eq!(cluster.assign("one", "young").await, young, "it has its address");
}

#[tokio::test]
async fn what_is_taken_up_meanwhile_is_left_alone() {
    let cluster = Cluster::new();
    let mut collector = cluster.collector();
    let back = cluster.assign("one", "back").await;
    let again = cluster.assign("one", "again").await;
    let scan = cluster.scan(&mut collector, 0).await;
    assert_eq!(scan.leaks.len(), 2);
    // A pod that comes back between the reading of the pods and the return.
    let leak = scan.leaks.iter().find(|leak| leak.ip.to_string() == back).expect("a leak").clone();
    cluster.store.put(&pod("back", "one", Some(&back)));
    let records = tortie_cni::ipam::records::Records::new(Arc::clone(&cluster.store) as _);
    assert!(!give_address_back(&records, &leak).await.expect("read"));
    // An address that was released and given out anew, to a pod that is not there either: for this one, time begins anew.
    let ipam = Ipam::new(Arc::clone(&cluster.store) as _, "one");
    ipam.release("tortie.again.eth0").await.expect("released");
    assert_eq!(cluster.assign("one", "again").await, again, "the block has no other");
    let scan = cluster.scan(&mut collector, 20).await;
    assert!(scan.returned.is_empty() && scan.leaks.len() == 1, "{scan:?}");
    assert_eq!(returned(&cluster.scan(&mut collector, 40).await), [again]);
}

#[tokio::test]
async fn a_node_that_is_gone_gives_back_its_blocks() {
    let cluster = Cluster::new();
    let mut collector = cluster.collector();
    cluster.store.put(&node("three"));
    for pod in ["a", "b", "c"] {
        cluster.assign("two", pod).await;
    }
    let stays = cluster.assign("three", "stays").await;
    cluster.store.put(&pod("stays", "three", Some(&stays)));
    cluster.scan(&mut collector, 0).await;
    cluster.store.remove(Kind::Node, None, "two");
    let scan = cluster.scan(&mut collector, 5).await;
    assert!(scan.blocks.is_empty() && scan.returned.is_empty(), "{scan:?}");
    // Its addresses, as their pods are gone, and then its blocks, all of them. Nobody is left who could come back to them.
    let scan = cluster.scan(&mut collector, 6).await;
    assert_eq!((scan.returned.len(), scan.blocks.len()), (3, 2));
    assert_eq!((cluster.count(Kind::IpamBlock).await, cluster.count(Kind::BlockAffinity).await), (1, 1));
    assert_eq!(cluster.count(Kind::IpamHandle).await, 1);
}

#[tokio::test]
async fn without_its_own_node_a_controller_takes_no_node_for_gone() {
    let cluster = Cluster::new();
    cluster.assign("two", "a").await;
    Ipam::new(Arc::clone(&cluster.store) as _, "two").release("tortie.a.eth0").await.expect("released");
    let mut collector = cluster.collector();
    cluster.store.remove(Kind::Node, None, "one");
    cluster.store.remove(Kind::Node, None, "two");
    for minutes in [0, 20, 40, 60] {
        assert!(cluster.scan(&mut collector, minutes).await.blocks.is_empty());
    }
    // A node that comes back in time keeps its blocks.
    cluster.store.put(&node("one"));
    cluster.scan(&mut collector, 80).await;
    cluster.store.put(&node("two"));
    cluster.scan(&mut collector, 100).await;
    cluster.store.remove(Kind::Node, None, "two");
    assert!(cluster.scan(&mut collector, 101).await.blocks.is_empty());
    assert_eq!(cluster.scan(&mut collector, 120).await.blocks.len(), 1);
}

#[tokio::test]
async fn a_block_with_a_guest_stays_until_he_leaves() {
    let cluster = Cluster::new();
    let mut collector = cluster.collector();
    cluster.store.put(&pool("p", "10.1.0.0/31", &json!({"blockSize": 31})));
    cluster.assign("two", "owner").await;
    let guest = cluster.assign("one", "guest").await;
    cluster.store.put(&pod("guest", "one", Some(&guest)));
    cluster.store.remove(Kind::Node, None, "two");
    for minutes in [0, 20, 40, 60] {
        assert!(cluster.scan(&mut collector, minutes).await.blocks.is_empty());
    }
    assert_eq!(cluster.assign("one", "guest").await, guest);
    Ipam::new(Arc::clone(&cluster.store) as _, "one").release("tortie.guest.eth0").await.expect("released");
    assert_eq!(cluster.scan(&mut collector, 80).await.blocks.len(), 1);
    assert_eq!(cluster.count(Kind::IpamHandle).await, 0);
}

#[tokio::test]
async fn spare_blocks_go_and_the_last_one_stays() {
    let cluster = Cluster::new();
    let mut collector = cluster.collector();
    let ipam = Ipam::new(Arc::clone(&cluster.store) as _, "one");
    for pod in ["a", "b", "c", "d", "e"] {
        cluster.assign("one", pod).await;
        cluster.store.put(&self::pod(pod, "one", None));
    }
    assert_eq!(cluster.count(Kind::IpamBlock).await, 3);
    for pod in ["a", "b", "c", "d", "e"] {
        ipam.release(&format!("tortie.{pod}.eth0")).await.expect("released");
    }
    assert!(cluster.scan(&mut collector, 0).await.blocks.is_empty());
    assert_eq!(cluster.scan(&mut collector, 20).await.blocks.len(), 2);
    assert!(cluster.scan(&mut collector, 40).await.blocks.is_empty());
    assert_eq!((cluster.count(Kind::IpamBlock).await, cluster.count(Kind::BlockAffinity).await), (1, 1));
    // The agent, which still thinks of all three as its own, goes on.
    for pod in ["a", "b", "c", "d", "e"] {
        cluster.assign("one", pod).await;
    }
    assert_eq!(cluster.count(Kind::IpamBlock).await, 3);
}

#[tokio::test]
async fn records_that_lead_nowhere_are_deleted_and_old_ones_labelled() {
    let cluster = Cluster::new();
    let mut collector = cluster.collector();
    cluster.assign("one", "a").await;
    cluster.store.put(&pod("a", "one", None));
    let record = |kind: &str, name: &str, spec: Value| json!({"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": name, "resourceVersion": "7"}, "spec": spec});
    let stray = json!({"cidr": "10.1.0.8/31", "node": "two", "state": "pending"});
    cluster.store.put(&record("BlockAffinity", "two-10-1-0-8-31", stray));
    cluster.store.put(&record("IPAMHandle", "idle", json!({"handleID": "Idle", "block": {"10.1.0.8/31": 1}})));
    let old = json!({"cidr": "10.1.0.10/31", "node": "two", "state": "confirmed"});
    cluster.store.put(&record("BlockAffinity", "two-10-1-0-10-31", old));
    cluster.store.put(&record(
        "IPAMBlock",
        "10-1-0-10-31",
        json!({"cidr": "10.1.0.10/31", "affinity": "host:two",
        "allocations": [null, null], "unallocated": [0, 1], "attributes": []}),
    ));
    let scan = cluster.scan(&mut collector, 0).await;
    assert!(scan.affinities.is_empty() && scan.handles.is_empty());
    let scan = cluster.scan(&mut collector, 20).await;
    assert_eq!((scan.affinities, scan.handles), (vec!["two-10-1-0-8-31".to_owned()], vec!["idle".to_owned()]));
    let label = "projectcalico.org/affinity-type";
    let labelled = cluster.store.list_labelled(Kind::BlockAffinity, label, "host").await.expect("a list");
    assert_eq!(labelled.len(), 2, "the old one is found by its label now");
}
