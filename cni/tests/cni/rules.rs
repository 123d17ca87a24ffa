//! Whom IPAM gives which address: selectors and annotations, reservations, limits, blocks that change hands.

use std::net::IpAddr;
use std::sync::Arc;

use serde_json::{Value, json};
use tortie_api::calico::{BlockAffinity, IpamBlock};
use tortie_api::{Kind, Object, ObjectKey};
use tortie_cni::ipam::{Claim, Error, Ipam, RequestedPools};
use tortie_datastore::Datastore;

use crate::memory::{Memory, pool};

fn claim(handle: &str) -> Claim {
    Claim {
        handle: handle.into(),
        namespace: "web".into(),
        pod: handle.into(),
        pinned: None,
        pools: RequestedPools::default(),
        tunnel: None,
    }
}

fn from(handle: &str, pools: &[&str]) -> Claim {
    let ipv4 = Some(pools.iter().map(|name| (*name).to_owned()).collect());
    Claim { pools: RequestedPools { ipv4, ipv6: None }, ..claim(handle) }
}

fn pinned(handle: &str, ip: &str) -> Claim {
    Claim { pinned: Some(vec![ip.parse().expect("an address")]), ..claim(handle) }
}

fn settings(spec: &Value) -> Value {
    json!({"apiVersion": "projectcalico.org/v3", "kind": "IPAMConfiguration", "metadata": {"name": "default"}, "spec": spec})
}

fn labelled(kind: &str, name: &str, labels: &Value, annotations: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "labels": labels, "annotations": annotations}})
}

fn block(cidr: &str, spec: &Value) -> Value {
    let size = 1 << (32 - cidr.split_once('/').expect("a range").1.parse::<u32>().expect("a length"));
    let mut block = json!({"cidr": cidr, "allocations": vec![Value::Null; size], "unallocated": (0..size).collect::<Vec<_>>(), "attributes": []});
    for (field, value) in spec.as_object().expect("a map") {
        block[field] = value.clone();
    }
    let name = cidr.replace(['.', '/'], "-");
    json!({"apiVersion": "projectcalico.org/v3", "kind": "IPAMBlock", "metadata": {"name": name, "resourceVersion": "1"}, "spec": block})
}

fn affinity(cidr: &str, node: &str, state: &str) -> Value {
    let name = format!("{node}-{}", cidr.replace(['.', '/'], "-"));
    json!({"apiVersion": "projectcalico.org/v3", "kind": "BlockAffinity", "metadata": {"name": name, "resourceVersion": "1"},
        "spec": {"cidr": cidr, "node": node, "state": state}})
}

async fn read<T>(store: &Memory, kind: Kind, name: &str, of: fn(Object) -> Option<T>) -> Option<T> {
    let key = ObjectKey { kind, namespace: None, name: name.to_owned() };
    store.get(&key).await.ok().and_then(of)
}

async fn block_of(store: &Memory, name: &str) -> IpamBlock {
    let of = |object| if let Object::IpamBlock(block) = object { Some(block) } else { None };
    read(store, Kind::IpamBlock, name, of).await.expect("a block")
}

async fn affinity_of(store: &Memory, name: &str) -> Option<BlockAffinity> {
    let of = |object| if let Object::BlockAffinity(affinity) = object { Some(affinity) } else { None };
    read(store, Kind::BlockAffinity, name, of).await
}

async fn one(ipam: &Ipam, claim: &Claim) -> String {
    let ips = ipam.assign(claim).await.expect("addresses");
    ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn pools_are_for_the_nodes_and_namespaces_that_they_select() {
    let store = Arc::new(Memory::with(&[
        pool("rack-1", "10.1.0.0/24", &json!({"nodeSelector": "rack == '1'"})),
        pool("rack-2", "10.2.0.0/24", &json!({"nodeSelector": "rack == '2'"})),
        pool("team", "10.3.0.0/24", &json!({"namespaceSelector": "has(team)", "nodeSelector": "all()"})),
        pool("six", "fd00::/64", &json!({"nodeSelector": "rack == '2'"})),
        labelled("Node", "one", &json!({"rack": "1"}), &json!({})),
        labelled("Node", "two", &json!({"rack": "2"}), &json!({})),
        labelled("Node", "none", &json!({}), &json!({})),
    ]));
    let node = |name: &str| Ipam::new(Arc::clone(&store) as _, name);
    assert!(one(&node("one"), &claim("a")).await.starts_with("10.1.0."));
    let both = one(&node("two"), &claim("b")).await;
    assert!(both.starts_with("10.2.0.") && both.contains(" fd00:"), "a family only where there is a pool: {both}");
    let error = node("none").assign(&claim("c")).await.expect_err("no pool").to_string();
    assert!(error.contains("on node none") && error.contains("rack-1 (10.1.0.0/24)"), "{error}");
    store.put(&labelled("Namespace", "web", &json!({"team": "x"}), &json!({})));
    assert!(one(&node("none"), &claim("c")).await.starts_with("10.3.0."));
    // Of several it is the first by name.
    assert!(one(&node("one"), &claim("d")).await.starts_with("10.1.0."));
    assert!(node("none").check().await.is_ok(), "there may be pods of such a namespace");
}

#[tokio::test]
async fn pods_and_namespaces_ask_for_pools() {
    let store = Arc::new(Memory::with(&[
        pool("usual", "10.1.0.0/24", &json!({})),
        pool("manual", "10.2.0.0/24", &json!({"assignmentMode": "Manual", "nodeSelector": "!all()"})),
        pool("off", "10.3.0.0/24", &json!({"disabled": true})),
        pool("six", "fd00::/64", &json!({})),
    ]));
    let ipam = Ipam::new(Arc::clone(&store) as _, "one");
    assert!(one(&ipam, &from("a", &["manual"])).await.starts_with("10.2.0."));
    let by_range = one(&ipam, &from("b", &["10.2.0.0/24"])).await;
    assert!(by_range.starts_with("10.2.0.") && by_range.contains("fd00:"), "of the other family as usual: {by_range}");
    let annotations = json!({"cni.projectcalico.org/ipv4pools": "[\"manual\"]"});
    store.put(&labelled("Namespace", "web", &json!({}), &annotations));
    assert!(one(&ipam, &claim("c")).await.starts_with("10.2.0."), "as the namespace says");
    assert!(one(&ipam, &from("d", &["usual"])).await.starts_with("10.1.0."), "the pod's word counts first");
    for (claim, words) in [
        (
            from("e", &["off"]),
            ["pod web/e", "cni.projectcalico.org/ipv4pools of the pod", "\"off\"", "manual (10.2.0.0/24)"],
        ),
        (
            from("e", &["six"]),
            ["pod web/e", "cni.projectcalico.org/ipv4pools of the pod", "\"six\"", "usual (10.1.0.0/24)"],
        ),
    ] {
        let error = ipam.assign(&claim).await.expect_err("refused");
        assert!(matches!(error, Error::UnknownPool { .. }) && !error.is_temporary());
        assert!(words.iter().all(|word| error.to_string().contains(word)), "{error}");
    }
    store.put(&labelled("Namespace", "web", &json!({}), &json!({"cni.projectcalico.org/ipv6pools": "six"})));
    let error = ipam.assign(&claim("f")).await.expect_err("refused").to_string();
    for word in ["namespace web", "metadata.annotations[cni.projectcalico.org/ipv6pools]", "must be a JSON list"] {
        assert!(error.contains(word), "{error}");
    }
    assert!(ipam.holders().await.expect("holders").iter().all(|holder| !["e", "f"].contains(&holder.handle.as_str())));
}

#[tokio::test]
async fn a_pool_that_is_taken_out_of_use_gives_no_more() {
    let store = Arc::new(Memory::with(&[pool("old", "10.1.0.0/24", &json!({}))]));
    let ipam = Ipam::new(Arc::clone(&store) as _, "one");
    let old = one(&ipam, &claim("a")).await;
    store.put(&pool("old", "10.1.0.0/24", &json!({"disabled": true})));
    store.put(&pool("new", "10.2.0.0/24", &json!({})));
    assert!(one(&ipam, &claim("b")).await.starts_with("10.2.0."), "although the old block has room");
    assert_eq!(one(&ipam, &claim("a")).await, old, "who has an address keeps it");
    store.remove(Kind::IpPool, None, "old");
    assert!(one(&ipam, &claim("c")).await.starts_with("10.2.0."));
    assert_eq!(ipam.release("a").await.expect("released").len(), 1, "and gives it back");
}

#[tokio::test]
async fn reserved_addresses_are_for_who_names_them() {
    let reservation = json!({"apiVersion": "projectcalico.org/v3", "kind": "IPReservation", "metadata": {"name": "r"},
        "spec": {"reservedCIDRs": ["10.1.0.0/31", "10.1.0.2", "10.1.0.4/30"]}});
    let store = Arc::new(Memory::with(&[pool("p", "10.1.0.0/29", &json!({"blockSize": 30})), reservation]));
    for node in ["one", "two"] {
        let ipam = Ipam::new(Arc::clone(&store) as _, node);
        match ipam.assign(&claim(node)).await {
            Ok(ips) => assert_eq!(ips[0].to_string(), "10.1.0.3", "the only one that is left"),
            Err(error) => assert!(matches!(error, Error::Exhausted { .. }) && node == "two", "{error}"),
        }
    }
    assert!(
        read(&store, Kind::IpamBlock, "10-1-0-4-30", Some).await.is_none(),
        "a block that is reserved is not claimed"
    );
    assert_eq!(one(&Ipam::new(store as _, "one"), &pinned("p", "10.1.0.5")).await, "10.1.0.5");
}

#[tokio::test]
async fn nodes_have_as_many_blocks_as_they_may() {
    let store = Arc::new(Memory::with(&[
        pool("p", "10.1.0.0/28", &json!({"blockSize": 31})),
        settings(&json!({"strictAffinity": true, "maxBlocksPerHost": 2})),
    ]));
    let ipam = Ipam::new(Arc::clone(&store) as _, "one");
    for handle in ["a", "b", "c", "d"] {
        one(&ipam, &claim(handle)).await;
    }
    let error = ipam.assign(&claim("e")).await.expect_err("at the limit").to_string();
    assert!(error.contains("Node one has 2 blocks") && error.contains("maxBlocksPerHost"), "{error}");
    // Without a strict affinity it borrows.
    store.put(&settings(&json!({"maxBlocksPerHost": 2})));
    one(&Ipam::new(Arc::clone(&store) as _, "two"), &claim("other")).await;
    let borrowed = ipam.assign(&claim("e")).await.expect("borrowed");
    let place = ipam.holders().await.expect("holders").into_iter().find(|holder| holder.handle == "e");
    assert_eq!(place.expect("one of its holders, in another's block").ips, borrowed);
    assert_eq!(ipam.release("e").await.expect("released"), borrowed);
    // Nor does it take a new one where it may not.
    store.put(&settings(&json!({"strictAffinity": true, "autoAllocateBlocks": false})));
    let error = ipam.assign(&claim("e")).await.expect_err("no new block").to_string();
    assert!(error.contains("autoAllocateBlocks: false"), "{error}");
    let pinned_elsewhere = ipam.assign(&pinned("f", &borrowed[0].to_string())).await;
    assert!(matches!(pinned_elsewhere, Err(Error::Strict { .. })));
}

#[tokio::test]
async fn an_empty_block_of_another_node_changes_hands() {
    let cidr = "10.1.0.0/31";
    let old = json!({"affinity": "host:other", "affinityClaimTime": "2026-01-01T00:00:00Z"});
    let young = json!({"affinity": "host:other", "affinityClaimTime": "2999-01-01T00:00:00Z"});
    for (spec, taken) in [(old, true), (young, false)] {
        let store = Arc::new(Memory::with(&[
            pool("p", cidr, &json!({"blockSize": 31})),
            settings(&json!({"strictAffinity": true})),
            block(cidr, &spec),
            affinity(cidr, "other", "confirmed"),
        ]));
        let result = Ipam::new(Arc::clone(&store) as _, "one").assign(&claim("a")).await;
        assert_eq!(result.is_ok(), taken, "{result:?}");
        let owner = block_of(&store, "10-1-0-0-31").await.spec.node().map(str::to_owned);
        assert_eq!(owner.as_deref(), Some(if taken { "one" } else { "other" }));
        assert_eq!(affinity_of(&store, "other-10-1-0-0-31").await.is_none(), taken);
        assert_eq!(affinity_of(&store, "one-10-1-0-0-31").await.is_some(), taken);
    }
}

#[tokio::test]
async fn nobodys_block_is_adopted_and_a_load_balancers_left_alone() {
    let store = Arc::new(Memory::with(&[
        pool("p", "10.1.0.0/30", &json!({"blockSize": 31})),
        block("10.1.0.0/31", &json!({})),
        block("10.1.0.2/31", &json!({"affinity": "virtual:load-balancer"})),
        json!({"apiVersion": "projectcalico.org/v3", "kind": "BlockAffinity", "metadata": {"name": "load-balancer-10-1-0-2-31", "resourceVersion": "1"},
            "spec": {"cidr": "10.1.0.2/31", "node": "load-balancer", "type": "virtual", "state": "confirmed"}}),
    ]));
    let ipam = Ipam::new(Arc::clone(&store) as _, "one");
    assert_eq!(one(&ipam, &claim("a")).await, "10.1.0.0");
    assert_eq!(one(&ipam, &claim("b")).await, "10.1.0.1");
    assert_eq!(block_of(&store, "10-1-0-0-31").await.spec.node(), Some("one"));
    assert!(affinity_of(&store, "one-10-1-0-0-31").await.is_some());
    assert!(matches!(ipam.assign(&claim("c")).await, Err(Error::Exhausted { .. })));
}

#[tokio::test]
async fn blocks_of_another_size_are_no_ones_twice() {
    // The pool was made anew with larger blocks; what is left of before is in the way.
    let store = Arc::new(Memory::with(&[
        pool("p", "10.1.0.0/28", &json!({"blockSize": 29})),
        block("10.1.0.2/31", &json!({"affinity": "host:other"})),
        affinity("10.1.0.2/31", "other", "confirmed"),
    ]));
    let ipam = Ipam::new(Arc::clone(&store) as _, "one");
    for handle in ["a", "b", "c"] {
        let ip: IpAddr = one(&ipam, &claim(handle)).await.parse().expect("an address");
        assert!(ip >= "10.1.0.8".parse::<IpAddr>().expect("an address"), "{ip}");
    }
    // Pinned: from the old block where it is in that, else from one of its own.
    assert_eq!(one(&ipam, &pinned("d", "10.1.0.3")).await, "10.1.0.3");
    assert_eq!(one(&ipam, &pinned("e", "10.1.0.4")).await, "10.1.0.4");
    assert!(block_of(&store, "10-1-0-2-31").await.spec.allocations[1].is_some());
    assert_eq!(block_of(&store, "10-1-0-4-32").await.spec.node(), Some("one"));
}

#[tokio::test]
async fn a_released_address_rests() {
    let store = Arc::new(Memory::with(&[
        pool("p", "10.1.0.0/31", &json!({"blockSize": 31})),
        settings(&json!({"ipCooldownSeconds": 600})),
    ]));
    let ipam = Ipam::new(Arc::clone(&store) as _, "one");
    let first = one(&ipam, &claim("a")).await;
    ipam.release("a").await.expect("released");
    assert!(ipam.holders().await.expect("holders").is_empty(), "nobody's");
    assert_ne!(one(&ipam, &claim("b")).await, first);
    assert!(matches!(ipam.assign(&claim("c")).await, Err(Error::Exhausted { .. })), "it rests");
    store.put(&settings(&json!({})));
    assert_eq!(one(&ipam, &claim("c")).await, first, "no more");
}

/// A node of a large cluster reads nothing that grows with the cluster, once it has a block.
#[tokio::test]
async fn a_node_reads_its_own_blocks_only() {
    let store = Arc::new(Memory::with(&[]));
    let ipam = Ipam::new(Arc::clone(&store) as _, "one");
    one(&ipam, &claim("a")).await;
    store.take_listed();
    one(&ipam, &claim("b")).await;
    ipam.release("a").await.expect("released");
    ipam.release("a").await.expect("nothing is left");
    assert_eq!(store.take_listed(), [Kind::IpPool, Kind::IpReservation]);
    // The next run of the agent asks for what bears its label.
    let again = Ipam::new(Arc::clone(&store) as _, "one");
    again.holders().await.expect("holders");
    one(&again, &claim("c")).await;
    let listed = store.take_listed();
    assert!(!listed.contains(&Kind::IpamBlock), "{listed:?}");
}

#[tokio::test]
async fn an_older_calicos_affinities_are_found_and_broken_off_claims_ended() {
    let mine = json!({"affinity": "host:one"});
    let store = Arc::new(Memory::with(&[
        pool("p", "10.1.0.0/28", &json!({"blockSize": 31})),
        block("10.1.0.0/31", &mine),
        block("10.1.0.2/31", &mine),
        block("10.1.0.4/31", &json!({"affinity": "host:other"})),
        // None of them has a label.
        affinity("10.1.0.0/31", "one", "confirmed"),
        affinity("10.1.0.2/31", "one", "pending"),
        affinity("10.1.0.4/31", "one", "pending"),
        affinity("10.1.0.6/31", "one", "pending"),
        affinity("10.1.0.4/31", "other", "confirmed"),
    ]));
    let ipam = Ipam::new(Arc::clone(&store) as _, "one");
    let mut given = Vec::new();
    for handle in ["a", "b", "c", "d"] {
        given.push(one(&ipam, &claim(handle)).await);
    }
    given.sort();
    assert_eq!(given, ["10.1.0.0", "10.1.0.1", "10.1.0.2", "10.1.0.3"]);
    let confirmed = affinity_of(&store, "one-10-1-0-2-31").await.expect("there");
    assert_eq!(confirmed.spec.state, tortie_api::calico::AffinityState::Confirmed);
    for gone in ["one-10-1-0-4-31", "one-10-1-0-6-31"] {
        assert!(affinity_of(&store, gone).await.is_none(), "{gone}");
    }
}

/// An agent that takes Calico's place leaves alone what Calico's pods have.
#[tokio::test]
async fn addresses_of_calicos_pods_are_theirs_until_they_go() {
    let handle = "k8s-pod-network.c1";
    let held = json!({"affinity": "host:one", "allocations": [0, null], "unallocated": [1],
        "attributes": [{"handle_id": handle, "secondary": {"namespace": "web", "pod": "old", "node": "one"}}]});
    let store = Arc::new(Memory::with(&[
        pool("p", "10.1.0.0/31", &json!({"blockSize": 31})),
        block("10.1.0.0/31", &held),
        affinity("10.1.0.0/31", "one", "confirmed"),
        json!({"apiVersion": "projectcalico.org/v3", "kind": "IPAMHandle", "metadata": {"name": handle, "resourceVersion": "1"},
            "spec": {"handleID": handle, "block": {"10.1.0.0/31": 1}}}),
    ]));
    let ipam = Ipam::new(Arc::clone(&store) as _, "one");
    assert!(ipam.holders().await.expect("holders").is_empty(), "none of ours");
    assert_eq!(one(&ipam, &claim("new")).await, "10.1.0.1");
    assert_eq!(ipam.holders().await.expect("holders").len(), 1);
    assert_eq!(ipam.release_known(handle).await.expect("released").len(), 1);
    assert!(ipam.release_known(handle).await.expect("nothing is left").is_empty());
    assert_eq!(one(&ipam, &claim("next")).await, "10.1.0.0");
}
