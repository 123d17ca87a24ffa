//! IPAM over both datastores: the one in memory, and the real directory that agents share.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use serde_json::{Value, json};
use tortie_api::calico::IpamBlock;
use tortie_api::{Kind, Object};
use tortie_cni::ipam::{Claim, Error, Ipam, RequestedPools};
use tortie_datastore::Datastore;
use tortie_datastore::directory::Directory;

use crate::memory::{Memory, pool};

/// A datastore with these objects, and what must live as long as it.
type Make = fn(&[Value]) -> (Arc<dyn Datastore>, Option<tempfile::TempDir>);

fn memory(objects: &[Value]) -> (Arc<dyn Datastore>, Option<tempfile::TempDir>) {
    (Arc::new(Memory::with(objects)), None)
}

fn directory(objects: &[Value]) -> (Arc<dyn Datastore>, Option<tempfile::TempDir>) {
    let folder = tempfile::tempdir().expect("a folder");
    for (number, object) in objects.iter().enumerate() {
        std::fs::write(folder.path().join(format!("{number}.json")), object.to_string()).expect("written");
    }
    (Arc::new(Directory::open(folder.path()).expect("a directory")), Some(folder))
}

const BOTH: [Make; 2] = [memory, directory];

fn claim(handle: &str) -> Claim {
    Claim {
        handle: handle.into(),
        namespace: "web".into(),
        pod: format!("pod-{handle}"),
        pinned: None,
        pools: RequestedPools::default(),
        tunnel: None,
    }
}

fn pinned(handle: &str, pod: &str, ips: &[&str]) -> Claim {
    let ips = ips.iter().map(|ip| ip.parse().expect("an address")).collect();
    Claim {
        handle: handle.into(),
        namespace: "web".into(),
        pod: pod.into(),
        pinned: Some(ips),
        pools: RequestedPools::default(),
        tunnel: None,
    }
}

async fn blocks(store: &Arc<dyn Datastore>) -> Vec<IpamBlock> {
    let objects = store.list(Kind::IpamBlock).await.expect("a list");
    objects
        .into_iter()
        .map(|object| match object {
            Object::IpamBlock(block) => block,
            other => panic!("{other:?}"),
        })
        .collect()
}

fn text(ips: &[IpAddr]) -> Vec<String> {
    ips.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn without_pools_there_are_the_defaults_in_both_families() {
    for make in BOTH {
        let (store, _folder) = make(&[]);
        let ipam = Ipam::new(Arc::clone(&store), "node-1");
        let ips = ipam.assign(&claim("a")).await.expect("addresses");
        assert!(
            ips.len() == 2
                && ips[0].to_string().starts_with("10.244.")
                && ips[1].to_string().starts_with("fd00:10:244")
        );
        assert_eq!(ipam.assign(&claim("a")).await.expect("the same"), ips);
        let made = blocks(&store).await;
        assert_eq!(made.len(), 2);
        for block in &made {
            assert_eq!(block.spec.node(), Some("node-1"));
            assert_eq!(block.spec.allocations.len(), 64);
            assert_eq!(block.metadata.name, block.spec.cidr.to_string().replace(['.', ':', '/'], "-"));
            let attribute = &block.spec.attributes[0];
            assert_eq!(attribute.handle_id.as_deref(), Some("a"));
            assert_eq!(attribute.secondary["pod"], "pod-a");
        }
        let holders = ipam.holders().await.expect("holders");
        assert_eq!((holders.len(), holders[0].ips.len()), (1, 2));
        let mut released = ipam.release("a").await.expect("released");
        released.sort();
        assert_eq!(released, ips);
        assert!(ipam.release("a").await.expect("again").is_empty());
        let next = ipam.assign(&claim("b")).await.expect("addresses");
        assert_ne!(next, ips, "what was just released is not reused at once");
        assert_eq!(blocks(&store).await.len(), 2, "the same blocks");
    }
}

#[tokio::test]
async fn pools_are_used_to_the_last_address_and_then_borrowed_from() {
    for make in BOTH {
        // Two blocks of four.
        let (store, _folder) = make(&[pool("p", "10.1.0.0/29", &json!({"blockSize": 30}))]);
        let (one, other) = (Ipam::new(Arc::clone(&store), "one"), Ipam::new(Arc::clone(&store), "other"));
        let mut given = one.assign(&claim("first")).await.expect("an address");
        given.extend(other.assign(&claim("second")).await.expect("an address"));
        let owners: BTreeSet<String> =
            blocks(&store).await.iter().filter_map(|block| block.spec.node().map(str::to_owned)).collect();
        assert_eq!(owners.len(), 2, "each node has a block of its own");
        for number in 0..6 {
            given.extend(one.assign(&claim(&number.to_string())).await.expect("its own, then borrowed"));
        }
        let all: BTreeSet<String> = text(&given).into_iter().collect();
        let expected: BTreeSet<String> = (0..8).map(|last| format!("10.1.0.{last}")).collect();
        assert_eq!(all, expected, "first and last addresses of a block as well");
        let error = one.assign(&claim("x")).await.expect_err("nothing left");
        assert!(matches!(error, Error::Exhausted { .. }) && !error.is_temporary());
        assert!(error.to_string().contains("web/pod-x") && error.to_string().contains("p (10.1.0.0/29)"), "{error}");
        other.release("second").await.expect("released");
        assert_eq!(one.assign(&claim("x")).await.expect("the released one"), &given[1..2]);
    }
}

#[tokio::test]
async fn strict_blocks_are_not_borrowed_from() {
    let store = Arc::new(Memory::with(&[
        pool("p", "10.1.0.0/30", &json!({"blockSize": 30})),
        json!({"apiVersion": "projectcalico.org/v3", "kind": "IPAMBlock", "metadata": {"name": "10-1-0-0-30", "resourceVersion": "1"},
            "spec": {"cidr": "10.1.0.0/30", "affinity": "host:other", "allocations": [null, null, null, null],
                "unallocated": [0, 1, 2, 3], "attributes": [], "strictAffinity": true}}),
    ]));
    let ipam = Ipam::new(store, "one");
    assert!(matches!(ipam.assign(&claim("a")).await, Err(Error::Exhausted { .. })));
    assert!(matches!(ipam.assign(&pinned("b", "b", &["10.1.0.1"])).await, Err(Error::Strict { .. })));
}

#[tokio::test]
async fn half_a_claim_leaves_nothing() {
    for make in BOTH {
        let (store, _folder) = make(&[
            pool("four", "10.1.0.0/30", &json!({"blockSize": 30})),
            pool("six", "fd00::/126", &json!({"blockSize": 126})),
        ]);
        let ipam = Ipam::new(Arc::clone(&store), "one");
        for number in 0..4 {
            ipam.assign(&pinned(&number.to_string(), &number.to_string(), &[&format!("fd00::{number}")]))
                .await
                .expect("one");
        }
        assert!(matches!(ipam.assign(&claim("a")).await, Err(Error::Exhausted { family: "IPv6", .. })));
        assert!(ipam.holders().await.expect("holders").iter().all(|holder| holder.handle != "a"));
        let wrong = pinned("b", "b", &["10.1.0.1", "fd99::1"]);
        assert!(matches!(ipam.assign(&wrong).await, Err(Error::OutsidePools { .. })));
        assert!(ipam.holders().await.expect("holders").iter().all(|holder| holder.handle != "b"));
    }
}

#[tokio::test]
async fn disabled_and_manual_pools_give_nothing_unasked() {
    for make in BOTH {
        let (store, _folder) = make(&[
            pool("off", "10.1.0.0/24", &json!({"disabled": true})),
            pool("tunnels", "10.2.0.0/24", &json!({"allowedUses": ["Tunnel"]})),
            pool("manual", "10.3.0.0/24", &json!({"assignmentMode": "Manual"})),
        ]);
        let ipam = Ipam::new(Arc::clone(&store), "one");
        assert!(matches!(ipam.assign(&claim("a")).await, Err(Error::NoPools { .. })));
        assert!(matches!(ipam.check().await, Err(Error::NoPools { .. })));
        let ips = ipam.assign(&pinned("b", "b", &["10.3.0.9"])).await.expect("what was asked for");
        assert_eq!(text(&ips), ["10.3.0.9"]);
        for ip in ["10.1.0.9", "10.2.0.9", "192.0.2.1"] {
            let error = ipam.assign(&pinned("c", "c", &[ip])).await.expect_err("refused").to_string();
            for word in ["web/c", "cni.projectcalico.org/ipAddrs", ip, "manual (10.3.0.0/24)"] {
                assert!(error.contains(word), "{word}: {error}");
            }
        }
    }
}

#[tokio::test]
async fn pinned_addresses_are_taken_wherever_they_are() {
    for make in BOTH {
        let (store, _folder) = make(&[]);
        let (one, other) = (Ipam::new(Arc::clone(&store), "one"), Ipam::new(Arc::clone(&store), "other"));
        let wish = pinned("h1", "a", &["10.244.7.77", "fd00:10:244::4d"]);
        let ips = one.assign(&wish).await.expect("given");
        assert_eq!(text(&ips), ["10.244.7.77", "fd00:10:244::4d"]);
        assert_eq!(one.assign(&wish).await.expect("again"), ips);
        let cidrs: Vec<String> = blocks(&store).await.iter().map(|block| block.spec.cidr.to_string()).collect();
        assert_eq!(cidrs, ["10.244.7.64/26", "fd00:10:244::40/122"]);
        assert!(blocks(&store).await.iter().all(|block| block.spec.node() == Some("one")));

        // In another's block.
        other.assign(&pinned("h2", "b", &["10.244.7.78"])).await.expect("given");
        // Another pod's: refused, by name.
        let error = other.assign(&pinned("h3", "c", &["10.244.7.77"])).await.expect_err("refused").to_string();
        assert!(error.contains("pod web/a") && error.contains("web/c") && error.contains("10.244.7.77"), "{error}");
        // The same pod, made anew: it takes its address along, and what the old container gives back later is nothing.
        other.assign(&pinned("h4", "a", &["10.244.7.77"])).await.expect("given");
        assert_eq!(text(&one.release("h1").await.expect("the rest")), ["fd00:10:244::4d"]);
        let holders = other.holders().await.expect("holders");
        assert!(holders.iter().any(|holder| holder.handle == "h4" && text(&holder.ips) == ["10.244.7.77"]));
        // A claim that wants something else gives back what it had.
        let ips = other.assign(&pinned("h4", "a", &["10.244.7.79"])).await.expect("given");
        assert_eq!(text(&ips), ["10.244.7.79"]);
        one.assign(&pinned("h5", "d", &["10.244.7.77"])).await.expect("free again");
    }
}

#[tokio::test]
async fn a_pinned_address_is_not_taken_from_a_node_that_lives() {
    for make in BOTH {
        let (store, folder) = make(&[json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "one"}})]);
        let (one, other) = (Ipam::new(Arc::clone(&store), "one"), Ipam::new(Arc::clone(&store), "other"));
        let ips = one.assign(&pinned("h1", "a", &["10.244.7.77"])).await.expect("given");
        let error = other.assign(&pinned("h2", "a", &["10.244.7.77"])).await.expect_err("refused");
        assert!(error.is_temporary() && error.to_string().contains("on node one"), "{error}");
        assert_eq!(text(&one.holders().await.expect("holders")[0].ips), ["10.244.7.77"]);
        // On its own node the pod, made anew, takes the address along; the other node gets it once it is free.
        assert_eq!(one.assign(&pinned("h3", "a", &["10.244.7.77"])).await.expect("given"), ips);
        one.release("h3").await.expect("released");
        assert_eq!(other.assign(&pinned("h2", "a", &["10.244.7.77"])).await.expect("given"), ips);
        // This node has no Node object: it is gone, and will never give the address back.
        assert_eq!(one.assign(&pinned("h4", "a", &["10.244.7.77"])).await.expect("given"), ips);
        drop(folder);
    }
}

/// Many agents, each with many pods at once, on a pool of just as many addresses.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_two_get_one_address() {
    // A block for each, and one block for all.
    for (make, length) in [(BOTH[0], 29), (BOTH[0], 26), (BOTH[1], 29), (BOTH[1], 26)] {
        let (store, folder) = make(&[pool("p", "10.1.0.0/26", &json!({"blockSize": length}))]);
        let mut tasks = tokio::task::JoinSet::new();
        for node in 0..8 {
            let store = match &folder {
                // As agents do: each with an instance of its own.
                Some(folder) => Arc::new(Directory::open(folder.path()).expect("a directory")),
                None => Arc::clone(&store),
            };
            let ipam = Arc::new(Ipam::new(store, format!("node-{node}")));
            for pod in 0..8 {
                let ipam = Arc::clone(&ipam);
                tasks.spawn(async move {
                    let claim = claim(&format!("{node}-{pod}"));
                    let given = ipam.assign(&claim).await.expect("an address");
                    if pod % 2 == 0 {
                        ipam.release(&claim.handle).await.expect("released");
                        return ipam.assign(&claim).await.expect("an address");
                    }
                    given
                });
            }
        }
        let given: Vec<IpAddr> = tasks.join_all().await.into_iter().flatten().collect();
        let distinct: BTreeSet<&IpAddr> = given.iter().collect();
        assert_eq!((given.len(), distinct.len()), (64, 64));
        assert!(blocks(&store).await.iter().all(|block| block.spec.unallocated.is_empty()));
    }
}

/// The part of the next test that runs as a process of its own.
#[tokio::test]
async fn a_process_of_its_own() {
    let (Ok(path), Ok(node)) = (std::env::var("TORTIE_TEST_DIRECTORY"), std::env::var("TORTIE_TEST_NODE")) else {
        return;
    };
    let ipam = Ipam::new(Arc::new(Directory::open(Path::new(&path)).expect("a directory")), node.clone());
    for pod in 0..16 {
        let given = ipam.assign(&claim(&format!("{node}-{pod}"))).await.expect("an address");
        println!("GIVEN {}", given[0]);
    }
}

#[test]
fn processes_share_a_directory() {
    let (_store, folder) = directory(&[pool("p", "10.1.0.0/26", &json!({"blockSize": 26}))]);
    let folder = folder.expect("a folder");
    let children: Vec<_> = (0..4)
        .map(|node| {
            Command::new(std::env::current_exe().expect("this test"))
                .args(["--exact", "ipam::a_process_of_its_own", "--nocapture"])
                .env("TORTIE_TEST_DIRECTORY", folder.path())
                .env("TORTIE_TEST_NODE", format!("node-{node}"))
                .stdout(std::process::Stdio::piped())
                .spawn()
                .expect("a child")
        })
        .collect();
    let mut given = Vec::new();
    for child in children {
        let output = child.wait_with_output().expect("its end");
        assert!(output.status.success());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        given.extend(text.lines().filter_map(|line| line.split_once("GIVEN ").map(|(_, ip)| ip.to_owned())));
    }
    let distinct: BTreeSet<&String> = given.iter().collect();
    assert_eq!((given.len(), distinct.len()), (64, 64));
}
